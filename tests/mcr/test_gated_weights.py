"""Weights for each question: hand arithmetic, bounds, the file, and one fused query as before."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.weights import HEAD_TERMS, FusionWeights

BASE = FusionWeights(1.0, 0.5, -2.0)


def drawn_gate(base=BASE, dimension=8, terms=3, size=1.0, reach=0.75, seed=0):
    rng = np.random.default_rng(seed)
    arrays = (
        rng.normal(0, size, shape) for shape in ((5, 2 * dimension), (5,), (terms, 5), (terms,))
    )
    return QueryGatedWeights(base, *arrays, reach=reach)


def test_weights_of_one_question_by_hand():
    # x = (1, 0, 0, 1): W_1 x + v_1 = .5 + .25 - .25 = .5; W_2 h + v_2 = (h, 0, 1);
    # the largest base weight is 2 and r = .5, so w = w_0 + 1 * tanh(.)
    gate = QueryGatedWeights(
        BASE, [[0.5, 9.0, 9.0, 0.25]], [-0.25], [[1.0], [0.0], [0.0]], [0.0, 0.0, 1.0], reach=0.5
    )
    weights = gate.weights_for([1.0, 0.0], [0.0, 1.0])
    hidden = math.tanh(0.5)
    expected = [1.0 + math.tanh(hidden), 0.5, -2.0 + math.tanh(1.0)]
    assert weights.as_array() == pytest.approx(expected)


@pytest.mark.parametrize("terms", [3, 4])
def test_untrained_gate_is_the_global_weights_exactly(units, terms):
    base = FusionWeights(0.1 + 0.2, -1 / 3, 2.0, 0.7)
    gate = QueryGatedWeights.untrained(base, 8, hidden=3, terms=terms)
    for seed in range(3):
        assert gate.weights_for(*units(2, seed=seed)) == base


def test_question_without_one_half_gets_the_global_weights(units):
    image, text = units(2)
    gate = drawn_gate()
    assert gate.weights_for(image, text) != BASE
    for halves in ((None, text), (image, None), (np.zeros(8), text), (image, np.zeros(8))):
        assert gate.weights_for(*halves) == BASE
    assert gate.weights_for(None, None) == BASE


def test_correction_is_bounded_and_the_largest_weight_keeps_its_sign(units):
    gate = drawn_gate(size=100.0, reach=0.9)
    moved = []
    for seed in range(50):
        weights = gate.weights_for(*units(2, seed=seed)).as_array()
        moved.append(np.abs(weights - BASE.as_array()))
        assert weights[2] < 0
    assert np.max(moved) <= 0.9 * 2.0
    assert np.max(moved) > 0.9 * 2.0 * 0.99


def test_fourth_weight_is_moved_by_a_gate_of_four_terms_only(units):
    question = units(2, seed=3)
    assert drawn_gate(terms=3).weights_for(*question).text_image == 0.0
    assert drawn_gate(terms=4).weights_for(*question).text_image != 0.0
    assert drawn_gate(terms=4).terms == HEAD_TERMS
    base = FusionWeights(1, 1, 1, 0.25)
    assert drawn_gate(base, terms=3).weights_for(*question).text_image == 0.25


@pytest.mark.parametrize("terms", [3, 4])
def test_file_round_trip_keeps_every_bit(tmp_path, units, terms):
    path = tmp_path / "gate.json"
    gate = drawn_gate(FusionWeights(0.1 + 0.2, -1 / 3, 2.0), terms=terms)
    gate.save(path, towers_identity="a@1")
    loaded = QueryGatedWeights.load(path, towers_identity="a@1")
    assert (loaded.reach, loaded.base, loaded.terms) == (gate.reach, gate.base, gate.terms)
    for seed in range(5):
        question = units(2, seed=seed)
        assert loaded.weights_for(*question) == gate.weights_for(*question)
    assert [item.name for item in tmp_path.iterdir()] == ["gate.json"]


def test_store_ranks_by_the_weights_of_the_question_in_one_query(store, pairs, units, monkeypatch):
    image, text = units(2, seed=9)
    halves = units(30, seed=1), units(30, seed=2)
    store.upsert(pairs(30), *halves)
    gate = drawn_gate()
    weights = gate.weights_for(image, text)
    asked = []
    query = type(store.collection).query
    monkeypatch.setattr(
        type(store.collection), "query", lambda *a, **k: asked.append(1) or query(*a, **k)
    )
    hits = store.query(image, text, weights, k=5)
    assert len(asked) == 1
    a, b, c = weights.as_array()
    scores = a * halves[1] @ image + b * halves[0] @ image + c * halves[1] @ text
    assert [hit.pair_id for hit in hits] == [f"p{row}" for row in np.argsort(-scores)[:5]]
    assert [hit.text_image for hit in hits] == pytest.approx(
        [float(halves[0][row] @ text) for row in np.argsort(-scores)[:5]], abs=1e-6
    )


def test_vectors_of_another_length_are_refused(units):
    with pytest.raises(InputError, match="length 18 together; these weights were learned on 16"):
        drawn_gate().weights_for(*units(2, 9))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_bias": [0.0]},
        {"hidden_weight": np.zeros((4, 15))},
        {"out_weight": np.zeros((2, 5)), "out_bias": np.zeros(2)},
        {"out_bias": [0.0, math.nan, 0.0]},
        {"reach": 1.0},
        {"reach": 0},
        {"reach": "half"},
    ],
)
def test_gate_that_does_not_fit_is_refused(change):
    gate = drawn_gate()
    names = ("hidden_weight", "hidden_bias", "out_weight", "out_bias")
    given = {name: getattr(gate, name) for name in names}
    with pytest.raises(ValueError, match=r"shapes|finite|reach"):
        QueryGatedWeights(BASE, **{**given, "reach": gate.reach, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "mrrag-fusion-weights-1"}, "format"),
        ({"reach": None}, "reach"),
        ({"reach": ...}, "reach"),
        ({"out_bias": [0.0]}, "shapes"),
        ({"out_bias": ["a", 0, 0]}, "fusion weights"),
        ({"hidden_weight": [[1.0], [1.0, 2.0]]}, "fusion weights"),
        ({"base": {"image_text": 1}}, "text_text"),
        ({"base": "equal"}, "object"),
        ({"bias": 1}, "bias"),
    ],
)
def test_file_that_is_no_gate_is_refused(change, said):
    data = {**json.loads(drawn_gate().to_json()), **change}
    data = {name: value for name, value in data.items() if value is not ...}
    with pytest.raises(InputError, match=said):
        QueryGatedWeights.from_json(json.dumps(data))
