"""Images that show the answer, and reports that say what they are meant to say."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.phantom.sets.disagreement import draw_disagreements
from mrrag_llamaindex.steering.ifa import min_max_lambdas


def test_the_same_seed_gives_the_same_questions():
    first, again, other = (draw_disagreements(seed, 3) for seed in (5, 5, 6))
    assert [one.right for one in first] == [one.right for one in again] != [o.right for o in other]
    assert np.array_equal(np.asarray(first[0].image), np.asarray(again[0].image))


@pytest.mark.parametrize("documents", [2, 4])
def test_reports_and_their_scores_are_those_of_the_evidence(documents):
    for one in draw_disagreements(7, 5, documents=documents):
        said = {
            kind: {d.text: d.score for d in one.request(kind).documents}
            for kind in ("agree", "half, truth first", "half, opposite first", "opposite")
        }
        assert not one.request("none").documents
        assert set(said["agree"]) == set(one.right)
        assert set(said["opposite"]) == set(one.wrong)
        for kind, best in (("half, truth first", one.right), ("half, opposite first", one.wrong)):
            first = {text for text, score in said[kind].items() if score == 1}
            assert first <= set(best)
            assert len(first) == documents // 2
        assert sorted(min_max_lambdas(list(said["opposite"].values())))[::-1] == pytest.approx(
            np.linspace(1, 0, documents)
        )


def test_an_odd_number_of_documents_is_refused():
    with pytest.raises(ValueError, match="even"):
        draw_disagreements(0, 1, documents=3)


def test_the_image_alone_tells_the_phantom_the_answer(engine):
    trials = draw_disagreements(3, 40)
    answers = engine.generate(
        [one.request("none") for one in trials], [one.image for one in trials]
    )
    assert (
        np.mean([(a.p_yes > a.p_no) == t.truth for a, t in zip(answers, trials, strict=True)]) > 0.9
    )
