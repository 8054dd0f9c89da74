"""What a text becomes does not depend on what is embedded beside it."""

from __future__ import annotations

import numpy as np

from mrrag_llamaindex import defaults, load_towers
from mrrag_llamaindex.phantom.corpus import make_corpus


def test_text_alone_and_among_longer_ones_get_the_same_vector():
    """The phantom's tokenizer pads on the left, and its encoder counts positions from there."""
    towers = load_towers(defaults.PHANTOM)
    corpus = make_corpus(7, patients=40, queries=20)
    texts = [study.report for study in corpus.studies] + [q.question for q in corpus.queries]
    assert len({len(text.split()) for text in texts}) > 5
    together = towers.embed_texts(texts)
    alone = np.concatenate([towers.embed_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
