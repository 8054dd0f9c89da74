"""The rows of the table: every method is there, reads what it should, and is tuned fairly."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.parts import split_parts
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.methods.adaptive_context import GapCut, RatioToFirst
from mrrag_llamaindex.evaluation.methods.calibrated_count import controlled_count
from mrrag_llamaindex.evaluation.methods.learning import learn
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.ranking import Fused, ImageToText
from mrrag_llamaindex.evaluation.methods.registry import (
    METHODS,
    ROWS,
    USUAL,
    build_method,
    chosen_methods,
    row_named,
)
from mrrag_llamaindex.evaluation.methods.tuning import TRIES, three_places, tune
from mrrag_llamaindex.generation.decoding.cad import CAD
from mrrag_llamaindex.generation.decoding.opera import OPERA
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.ada_seka import AdaSEKA, KeyExperts
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.iti import ITI, HeadDirections
from mrrag_llamaindex.steering.policies.mad_rag import MADRAG
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.seka import SEKA, KeyProjections
from tests.evaluation.data.hand_set import hand_set

FACTS = {f"p{n}": {"a": True, "b": n < 3, "c": False} for n in range(6)}


@pytest.fixture(scope="module")
def data():
    pairs = [((0.1 * n, 0.3), (0.9 - 0.1 * n, 0.1 * n)) for n in range(6)]
    return hand_set(pairs, [((1, 0), (0, 1))], facts=FACTS)


@pytest.fixture(scope="module")
def every(data) -> dict[str, Method]:
    weights = FusionWeights(0.5, 0.1, 3.0)
    learned = {row.name: row.learn(data) for row in ROWS if row.learns}
    eye = torch.eye(2).expand(4, 1, 2, 2)
    policies = {
        "seka": SEKA(projections=KeyProjections(eye, eye)),
        "ada-seka": AdaSEKA(experts=KeyExperts(eye[None], torch.ones(1, 4, 1, 2))),
        "iti": ITI(directions=HeadDirections(torch.ones(4, 4, 2), torch.rand(4, 4))),
        "mcr+ifa+layers": IFA(by_layer={1: 2.0}, heads={1: (0, 3)}),
    }
    assert set(policies) == {row.name for row in ROWS if row.learns_policy}
    return {
        name: build_method(
            name,
            documents=4,
            weights=weights,
            learned=learned.get(name),
            policy=policies.get(name),
        )
        for name in METHODS
    }


def variants(method: Method, depth: int, critical) -> list[Method]:
    return row_named(method.name).settings(method, depth, critical)


def test_all_methods_of_the_table_are_built(every):
    assert list(every) == [
        "no-retrieval", "vote", "naive-rag", "rule-k", "mmed-rag", "mmed-rag-code", "factmm-rag",
        "opera", "pai", "pasta", "hard-mask", "cad", "mad-rag", "seka", "ada-seka", "iti",
        "mcr", "mcr+ifa", "mcr+ifa+image", "mcr+ifa+layers",
        "mcr+ifa-steps", "hard-mask-steps", "pasta-prompt",
    ]  # fmt: skip
    for name, steps in {"mcr+ifa": False, "hard-mask": False, "pasta": True}.items():
        other = every[f"{name}-prompt" if steps else f"{name}-steps"]
        assert other.policy == replace(every[name].policy, every_step=not steps)
    assert all(method.name == name for name, method in every.items())


def test_methods_published_without_documents_read_none(every, data):
    for name in ("no-retrieval", "opera", "pai"):
        assert every[name].documents(data, 0) == []


def test_steered_methods_read_exactly_the_documents_of_mcr(every, data):
    expected = every["mcr"].documents(data, 0)
    assert len(expected) == 4
    assert [d.score for d in expected] == sorted((d.score for d in expected), reverse=True)
    rivals = ("hard-mask", "pasta", "cad", "mad-rag", "seka", "ada-seka", "iti")
    for name in ("mcr+ifa", "mcr+ifa+image", "mcr+ifa+layers", *rivals):
        assert every[name].documents(data, 0) == expected


def test_naive_rag_and_mcr_differ_in_the_score_alone(every, data):
    naive, fused = (every[name].documents(data, 0) for name in ("naive-rag", "mcr"))
    assert len(naive) == len(fused)
    assert [d.document_id for d in naive] != [d.document_id for d in fused]


def test_each_method_has_its_own_formula(every):
    kinds = {name: (m.ranking, m.policy, m.decoding) for name, m in every.items()}
    assert kinds["mcr"][1:] == kinds["naive-rag"][1:] == kinds["rule-k"][1:] == (None, None)
    assert kinds["mcr+ifa"][1:] == (IFA(), None)
    assert kinds["hard-mask"][1:] == (HardMask(), None)
    assert kinds["pasta"][1:] == (PASTA(), None)
    assert kinds["pai"][1:] == (PAI(), None)
    assert kinds["opera"][1:] == (None, OPERA())
    assert kinds["cad"][1:] == (None, CAD())
    assert kinds["mad-rag"][1:] == (MADRAG(alpha=0.5), None)
    assert kinds["mcr+ifa+image"][1:] == (IFA(image=0.5), None)
    assert kinds["mmed-rag"][0] == GapCut(most=4)
    assert kinds["mmed-rag-code"][0] == RatioToFirst(most=4)
    assert kinds["factmm-rag"][0].k == 1


def test_no_two_methods_have_the_same_settings(every):
    settings = [tuple(m.settings().items()) for n, m in every.items() if n != "rule-k"]
    assert len(set(settings)) == len(settings)


@pytest.mark.parametrize("row", [row for row in ROWS if row.learns], ids=lambda row: row.name)
def test_a_method_that_learns_its_ranking_is_not_run_without_one(row, data):
    with pytest.raises(InputError, match="learned beforehand"):
        build_method(row.name)
    with pytest.raises(InputError, match="finding labels"):
        row.learn(replace(data, facts={}))


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.learns_policy])
def test_a_method_that_learns_its_policy_is_not_run_without_one(name, data):
    with pytest.raises(InputError, match=f"{re.escape(name)} needs a policy"):
        build_method(name)
    found = learn(None, None, None, None, weights=FusionWeights(), wanted=(name,))
    assert found.policies == {}
    assert "what the layers of a model compute" in found.not_run[name]


def test_unknown_methods_are_named():
    with pytest.raises(InputError, match="'mcr\\+ipa' is not known"):
        chosen_methods("mcr,mcr+ipa")
    with pytest.raises(InputError, match="no method"):
        chosen_methods(" , ")


def test_chosen_methods_stand_in_the_order_of_the_table():
    assert chosen_methods("mcr+ifa, naive-rag") == ("naive-rag", "mcr+ifa")
    assert chosen_methods(None) == USUAL == METHODS[:-4]


@pytest.mark.parametrize("depth", [1, 2, 4, 32])
@pytest.mark.parametrize("critical", [None, (0,)])
def test_tuned_methods_have_equal_budgets(every, depth, critical):
    for row in ROWS:
        tried = variants(every[row.name], depth, critical)
        if row.name == "rule-k":  # as many as there are numbers of documents
            assert len(tried) == 4
        elif row.grid:
            assert len(tried) == TRIES
        else:
            assert tried == [every[row.name]]


def test_no_try_is_wasted_on_a_setting_tried_before(every):
    for method in every.values():
        tried = [str(item.settings()) for item in variants(method, 32, (14, 15))]
        assert len(set(tried)) == len(tried)


def test_only_what_is_tuned_varies(every):
    for item in variants(every["mcr+ifa"], 4, (1,)):
        assert item.ranking == every["mcr"].ranking
        assert isinstance(item.policy, IFA)
    assert {v.policy.layers for v in variants(every["mcr+ifa"], 4, (1,))} == {
        (1,), (0, 1, 2, 3), (3,)
    }  # fmt: skip
    floors = {
        (v.policy.image, v.policy.strength) for v in variants(every["mcr+ifa+image"], 4, (1,))
    }
    assert floors == {(0.125, 1.0), (0.25, 1.0), (0.5, 1.0), (1.0, 1.0)}
    modes = [(v.policy.mode, v.policy.layers) for v in variants(every["hard-mask"], 4, (1,))]
    assert set(modes) == {("mask", (1,)), ("mask", (0, 1, 2, 3)), ("drop", None)}


def test_rule_tries_every_number_of_documents(every):
    tried = variants(every["rule-k"], 4, None)
    assert [item.ranking for item in tried] == [ImageToText(k) for k in (1, 2, 3, 4)]


def test_critical_layers_that_are_all_layers_are_not_tried_twice():
    assert len(set(three_places(8, range(8)))) == 3


def answers(method: Method, right: int, total: int, sure: float) -> list[Prediction]:
    said = ["yes"] * right + ["no"] * (total - right)
    return [
        Prediction(method.name, f"q{n}", None, "yes", text, sure, 1 - sure)
        for n, text in enumerate(said)
    ]


class TestChoosing:
    def grid(self) -> list[Method]:
        fused = Fused(FusionWeights(), 2)
        return [Method("mcr+ifa", fused, IFA(strength=s)) for s in (0.5, 1.0, 2.0, 4.0)]

    def test_most_accurate_then_surest_then_first(self):
        grid = self.grid()
        standing = [(5, 0.9), (7, 0.6), (7, 0.8), (7, 0.8)]
        made = {m: answers(m, right, 10, p) for m, (right, p) in zip(grid, standing, strict=True)}
        found = tune(grid, made.__getitem__)
        assert found.setting == grid[2]
        assert [t.accuracy for t in found.tries] == [0.5, 0.7, 0.7, 0.7]
        assert found.questions == 10

    def test_an_answer_that_says_neither_is_wrong(self):
        grid = self.grid()[:2]
        made = {grid[0]: answers(grid[0], 6, 10, 0.5), grid[1]: answers(grid[1], 5, 10, 0.5)}
        made[grid[0]] = [
            Prediction("mcr+ifa", p.question_id, None, "yes", f"Perhaps {p.text}")
            for p in made[grid[0]]
        ]
        assert tune(grid, made.__getitem__).setting == grid[1]

    def test_rule_goes_by_the_risk_it_controls(self):
        grid = [Method("rule-k", ImageToText(k)) for k in (1, 2, 3)]
        made = {
            m: answers(m, right, 200, 0.5) for m, right in zip(grid, (120, 170, 170), strict=True)
        }
        found = tune(grid, made.__getitem__, controlled_count)
        assert found.setting == grid[1]
        assert "at most 25%" in found.note


class TestParts:
    @pytest.fixture
    def many(self):
        asked = [{"patient_id": f"anna {n // 3}"} for n in range(60)]
        return hand_set([((1, 0), (0, 1))], [((0, 1), (1, 0))] * 60, asked=asked)

    def owners(self, part) -> set[str]:
        return {part.patient(row) for row in range(len(part))}

    def test_no_patient_is_in_two_parts(self, many):
        parts = split_parts(many, 0.4, 0)
        sets = [parts.tests[0], parts.fit, parts.tune]
        found = [self.owners(part) for part in sets]
        assert [len(owners) for owners in found] == [12, 4, 4]
        assert len(set.union(*found)) == 20
        assert sum(map(len, sets)) == 60
        assert all(item.q_images.shape[0] == len(item.questions) for item in sets)

    def test_nothing_is_kept_back_without_a_share(self, many):
        parts = split_parts(many, 0.0, 0)
        assert parts.tests == (many,)
        assert parts.fit is parts.tune is None

    def test_given_weights_leave_all_of_the_share_to_tune_on(self, many):
        parts = split_parts(many, 0.4, 0, learns=False)
        assert parts.fit is None
        assert len(parts.tune) == 24

    def test_no_more_is_tuned_on_than_the_cap(self, many, monkeypatch):
        monkeypatch.setattr("mrrag_llamaindex.evaluation.data.parts.MOST_TUNED", 5)
        parts = split_parts(many, 0.4, 0)
        assert len(parts.tune) == 5
        assert len(parts.tests[0]) == 36

    def test_the_seed_decides(self, many):
        one, same, other = (split_parts(many, 0.4, seed).tests[0] for seed in (0, 0, 1))
        assert self.owners(one) == self.owners(same) != self.owners(other)
