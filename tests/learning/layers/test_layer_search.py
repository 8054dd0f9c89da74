"""The search for critical layers measures what it says, and its profile stays with its model."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, ModelError, SteeringError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile
from mrrag_llamaindex.generation.checkpoints.profile_store import (
    PROFILES_VARIABLE,
    found_profile,
    keep_profile,
    profile_identity,
    with_known_layers,
)
from mrrag_llamaindex.learning.layers.blocking import Example, Knockout
from mrrag_llamaindex.learning.layers.choice import LayerChoice, choose, critical_layers, curve
from mrrag_llamaindex.learning.layers.edges import (
    STEERED,
    block_plan,
    edges_of,
    everything,
    window_around,
)
from mrrag_llamaindex.learning.layers.search import checked, search_layers
from mrrag_llamaindex.phantom.sets.trials import answered_right, draw_trials
from mrrag_llamaindex.steering.block import Block
from mrrag_llamaindex.steering.ifa import IFA

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return draw_trials(31, 24, documents=4, irrelevant=2)


@pytest.fixture(scope="module")
def found(engine, examples):
    return search_layers(engine, examples, naive=8)


def test_shared_passes_equal_one_full_pass_per_edge_and_window(engine, examples):
    knockout = Knockout(engine, window=2, rows=3)
    asked = knockout.ask(examples[0])
    changes = knockout.changes(asked)
    assert set(changes) == {edge.name for edge in edges_of(asked.spans)}
    for edge in edges_of(asked.spans):
        for centre, change in enumerate(changes[edge.name]):
            layers = window_around(centre, knockout.window, knockout.depth)
            plan = block_plan([edge], asked.spans, layers)
            logits = engine.runner.logits([asked.prompt.input_ids], [asked.image], steering=plan)
            p = float(logits[0, -1].softmax(-1)[asked.token])
            assert change == pytest.approx(100 * (p / asked.probability - 1), abs=2e-3)
    assert max(map(abs, changes[STEERED])) > 0.05  # else there was nothing to compare


def test_probability_is_that_of_the_answer_that_is_given(engine, examples):
    for example in examples[:4]:
        asked = Knockout(engine).ask(example)
        (answer,) = engine.generate([example.request], [example.image])
        assert asked.probability == pytest.approx(max(answer.p_yes, answer.p_no), abs=1e-4)


def test_image_and_documents_are_prefilled_once_for_all_windows_and_edges(
    engine, examples, monkeypatch
):
    seen = []
    forward = type(engine.model).forward

    def counting(self, *args, **kwargs):
        seen.append((kwargs.get("pixel_values") is not None, kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    counting.__signature__ = forward.__signature__
    monkeypatch.setattr(type(engine.model), "forward", counting)
    engine.runner.prefixes.clear()
    knockout = Knockout(engine)
    asked = knockout.ask(examples[0])
    knockout.changes(asked)
    assert [with_image for with_image, _ in seen].count(True) == 1
    suffix = asked.spans.length - asked.spans.question[0]
    rows = len(edges_of(asked.spans)) + 1
    assert [shape for with_image, shape in seen if not with_image] == [
        (1, suffix),
        *[(rows, suffix)] * knockout.depth,
    ]


def test_no_pass_has_more_rows_than_asked_for(engine, examples, monkeypatch):
    knockout = Knockout(engine, rows=3)
    asked = knockout.ask(examples[0])
    sizes = []
    logits = engine.runner.logits

    def counting(sequences, *args, **kwargs):
        sizes.append(len(sequences))
        return logits(sequences, *args, **kwargs)

    monkeypatch.setattr(engine.runner, "logits", counting)
    knockout.changes(asked)
    edges = len(edges_of(asked.spans))
    assert max(sizes) == 3  # two edges and the unblocked row
    assert sum(sizes) - len(sizes) == edges * knockout.depth


def test_controls_of_the_model_hold(engine, examples):
    knockout = Knockout(engine)
    asked = knockout.ask(examples[0])
    empty, full = knockout.control(asked)
    assert empty == 0.0
    assert abs(full) > 0.01
    plan = block_plan([everything(asked.spans)], asked.spans, range(knockout.depth))
    logits = engine.runner.logits([asked.prompt.input_ids], [asked.image], steering=plan)
    p = float(logits[0, -1].softmax(-1)[asked.token])
    assert full == pytest.approx(100 * (p / asked.probability - 1), abs=2e-3)


def test_an_unblocked_row_that_moves_is_an_error(engine, examples, monkeypatch):
    knockout = Knockout(engine)
    asked = next(
        asked for asked in map(knockout.ask, examples) if abs(knockout.control(asked)[1]) > 1
    )
    with pytest.raises(SteeringError, match="around layer 0 the row in which nothing is blocked"):
        knockout.changes(replace(asked, probability=1.01 * asked.probability))

    def leaking(edges, *args):
        """Block in every row what one row blocks."""
        return block_plan([edge or edges[0] for edge in edges], *args)

    monkeypatch.setattr("mrrag_llamaindex.learning.layers.blocking.block_plan", leaking)
    with pytest.raises(SteeringError, match="beside a blocked row"):
        knockout.control(asked)


def test_a_failed_control_is_an_error():
    assert checked([(0.0, -5.0), (0.0, 0.0)]) == (0.0, -2.5)
    with pytest.raises(SteeringError, match="a block of nothing changes the answer by 1e-09%"):
        checked([(0.0, -5.0), (1e-9, -5.0)])
    with pytest.raises(SteeringError, match="blocking does not reach this model"):
        checked([(0.0, -1e-4), (0.0, 1e-4)])


def test_a_block_that_does_not_reach_the_model_is_an_error(engine, examples, monkeypatch):
    monkeypatch.setattr(Block, "steer", lambda self, logits, weights: logits)
    with pytest.raises(SteeringError, match="blocking does not reach this model"):
        search_layers(engine, examples[:10], naive=0)


def test_wrong_answers_are_left_out(engine, examples, found):
    knockout = Knockout(engine)
    asked = [knockout.ask(example) for example in examples]
    words = [engine.tokenizer.decode([item.token]).strip().lower() for item in asked]
    right = [word == e.answer for word, e in zip(words, examples, strict=True)]
    assert found.asked == len(examples)
    assert found.kept == sum(right)
    assert {point.n for point in found.curve if point.edge == STEERED} == {sum(right)}
    wrong = [
        replace(example, answer="no" if word == "yes" else "yes")
        for example, word in zip(examples, words, strict=True)
    ]
    with pytest.raises(InputError, match="answers none of the 24"):
        search_layers(engine, wrong, naive=0)


@pytest.mark.slow
def test_found_layers_are_worth_steering(engine, found):
    """At least 90% of the best gain of a single layer, within two questions of 100."""
    trials = draw_trials(32, 100, documents=4, irrelevant=2)
    plain = np.mean(answered_right(engine, trials))
    alone = [
        np.mean(answered_right(engine, trials, IFA(layers=(layer,))))
        for layer in range(found.depth)
    ]
    steered = np.mean(answered_right(engine, trials, IFA(layers=found.choice.layers)))
    assert steered - plain >= 0.9 * (max(alone) - plain) - 2 / 100


def test_naive_passes_are_timed_and_agree(found):
    edges = {point.edge for point in found.curve}
    assert found.naive_timed == 8
    assert found.naive_passes == sum(point.n for point in found.curve), (
        "one pass per example, edge and window"
    )
    assert len(edges) >= 6
    assert found.naive_difference < 1e-4
    assert found.seconds["ours"] > 0
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.slow
def test_price_of_the_naive_way_is_the_mean_pass_times_their_number(engine, examples, monkeypatch):
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # each thing timed takes 1
    monkeypatch.setattr("mrrag_llamaindex.learning.layers.search.time", clock)
    found = search_layers(engine, examples, naive=4)
    assert found.naive_timed == 4
    assert found.seconds == {"ours": len(examples), "naive": found.naive_passes}


@pytest.mark.slow
def test_search_counts_the_patients_of_its_examples(engine, examples):
    same = [replace(example, patient_id="one") for example in examples]
    with pytest.raises(InputError, match="of 1 patients"):
        search_layers(engine, same, naive=0)


def test_the_rule_takes_half_of_the_largest_up_to_a_third_of_all():
    assert critical_layers(np.array([1.0, 40.0, 25.0, 5.0, 30.0, 2.0])) == (1, 4)
    assert critical_layers(np.array([1.0, 40.0, 19.0, 5.0, 18.0, 2.0])) == (1,)
    assert critical_layers(np.array([40.0, 39.0, 38.0, 37.0])) == (0,)
    assert critical_layers(np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])) == (1, 2, 3)
    assert critical_layers(np.array([40.0, 20.0, 1.0, 1.0, 1.0, 1.0])) == (0, 1)  # half itself
    assert critical_layers(np.array([40.0, 39.0, 38.0, 37.0, 36.0])) == (0,)  # a third of 5 is 1
    with pytest.raises(ModelError, match="does not read them"):
        critical_layers(np.array([0.01, 0.02]))


def made_up(layer_of_patient: dict[str, int]) -> tuple[list[dict[str, list[float]]], list[str]]:
    changes, patients = [], []
    for patient, layer in layer_of_patient.items():
        line = [1.0, 2.0, 3.0]
        line[layer] = -50.0
        changes.append({STEERED: line})
        patients.append(patient)
    return changes, patients


def test_halves_that_agree_say_so():
    choice = choose(*made_up({f"p{n}": 1 for n in range(12)}))
    assert choice.layers == (1,)
    assert choice.halves == ((1,), (1,))
    assert choice.agrees
    assert choice.correlation == pytest.approx(1.0)
    assert "both halves" in choice.in_words()


def test_halves_are_of_patients_and_disagreement_is_said():
    from mrrag_llamaindex.statistics.patients import split_by_patient

    names = [f"p{n}" for n in range(12)]
    first, _ = split_by_patient(names, 0.5, 0)
    choice = choose(*made_up({name: 0 if at in first else 2 for at, name in enumerate(names)}))
    assert choice.halves == ((0,), (2,))
    assert not choice.agrees
    assert choice.correlation < 0
    assert "do not agree: one chooses [0], the other [2]" in choice.in_words()


def test_absolute_changes_choose_so_that_opposite_ones_do_not_cancel():
    changes = [{STEERED: [10.0, 50.0 if n % 2 else -50.0]} for n in range(12)]
    patients = [f"p{n}" for n in range(12)]
    assert choose(changes, patients).layers == (1,)
    points = {point.layer: point for point in curve(changes, patients)}
    assert points[1].change == 0
    assert points[1].magnitude == 50
    assert points[1].ci[0] < 0 < points[1].ci[1]
    assert points[0].ci == (10, 10)


def test_intervals_draw_patients_not_questions():
    values = [*[100.0] * 20, *[0.0] * 4]
    patients = [*["one"] * 20, "two", "three", "four", "five"]
    (point,) = curve([{STEERED: [value]} for value in values], patients)
    assert point.ci[0] == 0  # a draw without patient one
    assert point.n == 24


def test_examples_without_documents_are_left_out_with_their_patients():
    changes, patients = made_up({f"p{n}": 1 for n in range(12)})
    more = [{"image->question": [9.0, 9.0, 9.0]}] * 3
    assert choose([*more, *changes], ["x", "y", "z", *patients]) == choose(changes, patients)


def test_too_few_questions_are_an_error():
    with pytest.raises(InputError, match="at least 8"):
        choose(*made_up({f"p{n}": 1 for n in range(7)}))
    with pytest.raises(InputError, match="of 1 patients"):
        choose([{STEERED: [1.0, 9.0]}] * 12, ["p"] * 12)


@pytest.mark.parametrize(("window", "rows"), [(0, 4), (99, 4), (1, 1)])
def test_impossible_settings_are_refused(engine, window, rows):
    with pytest.raises(ValueError, match=r"window|rows"):
        Knockout(engine, window, rows)


# Where the layers are kept


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    monkeypatch.setenv(PROFILES_VARIABLE, str(tmp_path / "profiles"))
    return tmp_path / "profiles"


@pytest.fixture(scope="module")
def loaded():
    return load_model(defaults.PHANTOM, device="cpu")


def other(loaded):
    """The same architecture with one weight changed."""
    model = load_model(defaults.PHANTOM, device="cpu")
    with torch.no_grad():
        model.model.model.language_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    return model


def test_kept_layers_are_used_for_this_very_model_and_no_other(loaded, profiles):
    assert with_known_layers(loaded) is loaded
    path = keep_profile(loaded, (2, 3), "found")
    assert path.parent == profiles
    used = with_known_layers(replace(loaded, layers_are_known=False))
    assert used.critical_layers == (2, 3)
    assert used.layers_are_known
    assert used.profile.template == loaded.profile.template
    assert used.profile.note == "found"
    changed = other(loaded)
    assert with_known_layers(changed).critical_layers == loaded.critical_layers


def test_a_named_profile_of_another_model_is_refused(loaded, profiles, tmp_path):
    named = tmp_path / "named.json"
    found_profile(loaded, (0, 2), "").write(named)
    assert with_known_layers(loaded, named).critical_layers == (0, 2)
    with pytest.raises(ModelError, match="another model mean nothing here"):
        with_known_layers(other(loaded), named)


def test_a_profile_of_another_model_in_the_folder_is_refused(loaded, profiles):
    theirs = found_profile(loaded, (0,), "")
    copied = replace(other(loaded), profile=theirs)
    with pytest.raises(ModelError, match="in the model folder was found on"):
        with_known_layers(copied)
    assert with_known_layers(replace(loaded, profile=theirs)).critical_layers


def test_identity_is_of_the_weights_whatever_float_type_they_are_in(loaded):
    half = load_model(defaults.PHANTOM, device="cpu", dtype="bfloat16")
    assert profile_identity(half) == profile_identity(loaded)
    assert profile_identity(other(loaded)) != profile_identity(loaded)


def test_layers_that_the_model_does_not_have_are_refused(loaded, tmp_path):
    named = tmp_path / "named.json"
    found_profile(loaded, (9,), "").write(named)
    with pytest.raises(ModelError, match="names layer 9"):
        with_known_layers(loaded, named)


@pytest.mark.parametrize("text", ["[]", "{", '{"critical_layers": null}'])
def test_a_file_that_is_no_profile_is_refused(loaded, tmp_path, text):
    named = tmp_path / "named.json"
    named.write_text(text)
    with pytest.raises(ModelError, match=r"named\.json"):
        with_known_layers(loaded, named)


def test_a_profile_file_keeps_its_identity(loaded, tmp_path):
    made = found_profile(loaded, (1,), "note")
    made.save(tmp_path)
    assert ModelProfile.load(tmp_path) == made
    assert made.identity.startswith("phantom@")


def test_choice_is_a_value():
    choice = LayerChoice((1,), ((1,), (1,)), float("nan"))
    assert "undefined" in choice.in_words()
