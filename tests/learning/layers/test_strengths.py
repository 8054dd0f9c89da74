"""A strength for each layer and a part of its heads: the search keeps to its budget."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.learning.layers.blocking import Knockout
from mrrag_llamaindex.learning.layers.edges import STEERED, block_plan, edges_of
from mrrag_llamaindex.learning.layers.heads import head_magnitudes, rank_heads
from mrrag_llamaindex.learning.layers.strengths import search_strengths
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.ifa import IFA

HEADS = {1: (2, 0, 3, 1), 0: (0, 1, 2, 3)}


class Judge:
    """Best is strength 2 in layer 1 and 0.5 in layer 0, with the first of layer 1's heads."""

    def __init__(self) -> None:
        self.asked: list[IFA] = []

    def __call__(self, policies):
        self.asked += policies
        return [(self.worth(policy), 0.5) for policy in policies]

    def worth(self, policy: IFA) -> float:
        strengths = dict(policy.by_layer)
        heads = HEADS if policy.heads is None else policy.heads
        off = abs(strengths.get(1, 0.0) - 2.0) + abs(strengths.get(0, 0.0) - 0.5)
        return 1 - off / 10 - len(heads.get(1, ())) / 100


def test_it_finds_what_is_best_in_each_layer_and_among_its_heads():
    judge = Judge()
    found = search_strengths(judge, [1], HEADS, 100)
    assert found.policy == IFA(by_layer={1: 2.0, 0: 0.5}, heads={1: (2,), 0: (0, 1, 2, 3)})
    assert found.finished
    assert judge.asked[0] == IFA(by_layer={1: 1.0})
    assert len(set(judge.asked)) == len(judge.asked) == len(found.tries)


@pytest.mark.parametrize("budget", [1, 3, 7])
def test_it_asks_no_more_than_its_budget_and_keeps_the_best_of_that(budget):
    judge = Judge()
    found = search_strengths(judge, [1], HEADS, budget)
    assert len(judge.asked) == budget
    assert not found.finished
    assert judge.worth(found.policy) == max(map(judge.worth, judge.asked))


def test_other_fields_are_those_of_the_base():
    found = search_strengths(Judge(), [1], HEADS, 4, base=IFA(question_rows="question"))
    assert {item.policy.question_rows for item in found.tries} == {"question"}


@pytest.mark.parametrize(("critical", "budget"), [([1], 0), ([], 3), ([2], 3)])
def test_a_search_without_a_start_or_a_try_is_refused(critical, budget):
    with pytest.raises(ValueError, match="tries"):
        search_strengths(Judge(), critical, HEADS, budget)


def test_heads_are_ranked_by_what_blocking_each_alone_changes(engine):
    knockout = Knockout(engine)
    (example,) = draw_trials(31, 1, documents=2, irrelevant=1)
    asked = knockout.ask(example)
    moved = head_magnitudes(knockout, [asked], [1, 3])
    assert moved.shape == (2, 4)
    (edge,) = (edge for edge in edges_of(asked.spans) if edge.name == STEERED)
    for head in range(4):
        plan = block_plan([edge], asked.spans, [1], heads=(head,))
        logits = engine.runner.logits([asked.prompt.input_ids], [asked.image], steering=plan)
        p = float(logits[0, -1].softmax(-1)[asked.token])
        assert moved[0, head] == pytest.approx(100 * abs(p / asked.probability - 1), abs=2e-3)
    ranked = rank_heads(knockout, [asked], [1, 3])[1]
    assert sorted(ranked) == [0, 1, 2, 3]
    assert moved[0, ranked[0]] == moved[0].max() > 0.05
