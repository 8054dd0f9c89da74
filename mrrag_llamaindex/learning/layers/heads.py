"""Which heads carry the documents: attention knockout of one head in one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.layers.blocking import Baseline, Knockout
from mrrag_llamaindex.learning.layers.edges import STEERED, edges_of


def rank_heads(
    knockout: Knockout, baselines: Sequence[Baseline], layers: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """Rank the query heads of some layers by how much blocking each of them moves answers.

    Parameters
    ----------
    knockout : Knockout
    baselines : sequence of Baseline
        Of questions that are answered rightly, from `Knockout.ask`.
    layers : sequence of int

    Returns
    -------
    dict
        For each layer all of its heads, the most moving first.

    Raises
    ------
    InputError
        If no question has documents.
    """
    moved = head_magnitudes(knockout, baselines, layers)
    order = np.argsort(-moved, axis=1, kind="stable")
    return {layer: tuple(row.tolist()) for layer, row in zip(layers, order, strict=True)}


def head_magnitudes(
    knockout: Knockout, baselines: Sequence[Baseline], layers: Sequence[int]
) -> NDArray[np.float64]:
    """Block documents->question in one head of one layer, everything else being as it was.

    Returns
    -------
    ndarray
        (layers, heads): mean absolute change of the answer's probability, in percent.
    """
    text = knockout.engine.model.config.get_text_config(decoder=True)
    changes = []
    for baseline in baselines:
        edge = next((e for e in edges_of(baseline.spans) if e.name == STEERED), None)
        if edge is None:
            continue
        row = []
        for layer in layers:
            for head in range(text.num_attention_heads):
                (p,) = knockout.probabilities(baseline, [edge], [layer], (head,))
                row.append(100 * abs(p / baseline.probability - 1))
        changes.append(row)
    if not changes:
        raise InputError("none of the questions has documents, so no head can be blocked from them")
    means = np.mean(np.array(changes, dtype=np.float64), axis=0)
    return np.asarray(means.reshape(len(layers), -1))
