"""Training a gate: it helps where questions differ, and stays out of the way where they do not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.comparison import learn_and_compare
from mrrag_llamaindex.learning.fusion.examples import FusionExample
from mrrag_llamaindex.learning.fusion.gated_training import GateSettings, train_gate
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.learning.fusion.training import infonce, train_fusion
from mrrag_llamaindex.mcr.weights import HEAD_TERMS

N = 6


def drawn(count, signals, seed=0, width=3):
    """Questions of two kinds that their text vector tells apart; each has its own telling term."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.arange(count) % 2)
    found = []
    for number, kind in enumerate(kinds):
        terms = rng.normal(0, 0.3, (10, width))
        terms[0, signals[kind]] += 0.9
        halves = rng.normal(size=(2, N))
        halves[1, :2] = 0.0
        halves[1, kind] = 3.0
        image, text = (halves / np.linalg.norm(halves, axis=1, keepdims=True)).astype(np.float32)
        name = f"p{number}"
        made = FusionExample(name, terms[0], terms[1:], (image, text))
        found.append(FusionQuestion(name, terms, np.arange(10) == 0, made, made.query))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "terms"), [((1, 2), 3), ((0, 3), 4)])
def test_gate_gives_each_kind_of_question_its_own_term(signals, terms):
    asked = drawn(400, signals, width=terms)
    made = learn_and_compare(asked, gate=GateSettings(), gate_terms=HEAD_TERMS[:terms])
    for kind in (0, 1):
        mine = [item for item in asked if item.query[1][kind] > 0.5]
        rows = [made.gated.weights.weights_for(*item.query).as_array(HEAD_TERMS) for item in mine]
        weights = np.mean(rows, axis=0)
        assert weights[signals[kind]] > 1.5 * weights[signals[1 - kind]]
    found = made.as_dict()["gated"]
    assert found["verdict"] == "more than noise"
    assert found["minus_learned"] > 0.02
    base = made.learned if terms == 3 else made.four_terms
    assert made.gated.weights.base == base.weights


def test_gate_that_has_nothing_to_tell_is_no_more_than_noise():
    made = learn_and_compare(drawn(300, (1, 1)), gate=GateSettings())
    assert made.as_dict()["gated"]["verdict"] == "not more than noise"
    assert abs(made.table.recall["gated"] - made.table.recall["learned"]) < 0.05


@pytest.mark.slow
def test_gate_is_never_worse_on_validation_and_its_loss_is_that_of_its_weights():
    examples = [item.example for item in drawn(120, (1, 2))]
    base = train_fusion(examples[:90], examples[90:])
    made = train_gate(examples[:90], examples[90:], base)
    assert made.base_loss == pytest.approx(base.loss)
    assert made.loss < made.base_loss
    alone = [
        infonce(made.weights.weights_for(*item.query).as_array(), [item], base.temperature)[0]
        for item in examples[90:]
    ]
    assert made.loss == pytest.approx(np.mean(alone), rel=1e-5)
    misled = [item.example for item in drawn(40, (0, 0), seed=3)]
    against = [
        FusionExample(item.patient_id, item.negatives[0], item.positives, item.query)
        for item in misled
    ]
    stopped = train_gate(misled, against, train_fusion(misled, misled))
    assert stopped.loss <= stopped.base_loss


def test_decay_keeps_the_correction_small():
    examples = [item.example for item in drawn(120, (1, 2))]
    base = train_fusion(examples[:90], examples[90:])

    def correction(decay: float) -> float:
        made = train_gate(examples[:90], examples[90:], base, GateSettings(weight_decay=decay))
        rows = [made.weights.weights_for(*item.query) for item in examples]
        moved = [row.as_array() - base.weights.as_array() for row in rows]
        return float(np.abs(moved).mean())

    assert 0 < correction(20.0) < 0.5 * correction(0.0)


@pytest.mark.slow
def test_seed_decides_and_a_second_run_is_the_same():
    examples = [item.example for item in drawn(60, (1, 2))]
    base = train_fusion(examples[:40], examples[40:])
    first, again, other = (
        train_gate(examples[:40], examples[40:], base, GateSettings(seed=seed)).weights.to_json()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_questions_without_vectors_are_refused():
    examples = [item.example for item in drawn(20, (1, 2))]
    base = train_fusion(examples[:10], examples[10:])
    bare = [FusionExample(item.patient_id, item.positive, item.negatives) for item in examples]
    with pytest.raises(InputError, match="mine the records again"):
        train_gate(bare[:10], examples[10:], base)
    with pytest.raises(InputError, match="validate"):
        train_gate(examples, [], base)


@pytest.mark.parametrize(
    "change", [{"hidden": 0}, {"reach": 1.0}, {"learning_rate": 0}, {"weight_decay": -1}]
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="must"):
        GateSettings(**change)


def test_retrieval_with_gated_weights_loads_no_torch():
    code = (
        "import sys, mrrag_llamaindex.mcr.weights_file, "
        "mrrag_llamaindex.learning.fusion.gated_training; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
