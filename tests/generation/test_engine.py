"""Batches, streams and backends agree; what goes wrong is said in one line."""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace

import pytest
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile import (
    PROFILE_FILE,
    ModelProfile,
    PromptTemplate,
    middle_third,
)
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.studies import draw_findings, draw_study
from mrrag_llamaindex.steering.ifa import IFA

QUESTION = "Is there a pleural effusion?"


def study(seed: int):
    import numpy as np

    rng = np.random.default_rng(seed)
    return draw_study(rng, f"patient-{seed}", draw_findings(rng))


def request(count: int, scores: tuple[float, ...] = (1.0, 0.0, 0.5)) -> PromptRequest:
    documents = [
        PromptDocument(f"d{i}", study(i).report, scores[i % len(scores)]) for i in range(count)
    ]
    return PromptRequest(QUESTION, documents)


def image(seed: int) -> Image.Image:
    return study(seed).image


@pytest.mark.parametrize("ifa", [None, IFA()])
def test_batch_of_unequal_prompts_equals_one_at_a_time(engine, ifa):
    requests = [request(1), request(5), request(3)]
    images = [image(1), image(2), image(3)]
    together = engine.generate(requests, images, policy=ifa)
    for one, single, picture in zip(together, requests, images, strict=True):
        (alone,) = engine.generate([single], [picture], policy=ifa)
        assert one.text == alone.text
        assert one.p_yes == pytest.approx(alone.p_yes, abs=1e-5)


def test_stream_equals_generate(engine):
    (whole,) = engine.generate([request(4)], [image(1)], policy=IFA())
    stream = engine.stream(request(4), image(1), policy=IFA())
    assert "".join(stream).strip() == whole.text
    assert replace(stream.answer, seconds=0.0) == replace(whole, seconds=0.0)


def test_steering_moves_the_answer_and_off_does_not(engine):
    plain = engine.generate([request(4)], [image(1)])[0]
    again = engine.generate([request(4)], [image(1)])[0]
    steered = engine.generate([request(4)], [image(1)], policy=IFA())[0]
    assert plain.p_yes == again.p_yes
    assert abs(steered.p_yes - plain.p_yes) > 1e-6
    assert steered.steering.applied
    assert steered.steering.layers == engine.loaded.critical_layers


def test_both_backends_give_the_same_answer(engine):
    eager = LlavaEngine(load_model(defaults.PHANTOM, device="cpu", backend="eager"))
    eager.max_new_tokens = 4
    (one,) = engine.generate([request(5)], [image(2)], policy=IFA())
    (two,) = eager.generate([request(5)], [image(2)], policy=IFA())
    assert one.text == two.text
    assert one.p_yes == pytest.approx(two.p_yes, abs=1e-5)


@pytest.mark.parametrize(
    ("count", "scores", "reason"),
    [(0, (0.0,), "no document is"), (3, (0.0,), "lambda above zero")],
)
def test_reason_is_given_when_there_is_nothing_to_steer_to(engine, count, scores, reason):
    (answer,) = engine.generate([request(count, scores)], [image(1)], policy=IFA())
    assert not answer.steering.applied
    assert reason in answer.steering.reason


def test_yes_and_no_are_probabilities_of_the_first_token(engine):
    (answer,) = engine.generate([request(1)], [image(1)])
    assert 0 <= answer.p_yes <= 1
    assert 0 <= answer.p_no <= 1
    assert answer.p_yes + answer.p_no <= 1 + 1e-6
    likelier = "yes" if answer.p_yes > answer.p_no else "no"
    assert answer.text.lower().startswith(likelier)


def test_unknown_words_are_counted(engine):
    (answer,) = engine.generate([PromptRequest("Is there a hippopotamus?")], [image(1)])
    assert answer.unknown_tokens == 1


def test_closing_a_stream_stops_the_generation():
    engine = LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=1900)
    engine.model.generation_config.eos_token_id = None
    threads = threading.active_count()
    stream = engine.stream(PromptRequest(QUESTION), image(1))
    pieces = iter(stream)
    next(pieces)
    started = time.perf_counter()
    stream.close()
    assert len(list(pieces)) < 1900 / 2
    assert time.perf_counter() - started < 30
    assert threading.active_count() <= threads + 1  # that of the queue


def test_failure_inside_a_stream_reaches_its_reader(engine):
    stream = engine.stream(request(2), Image.new("RGB", (90, 96)), policy=IFA(layers=(0,)))
    projector = engine.model.model.multi_modal_projector
    engine.model.model.multi_modal_projector = None
    try:
        with pytest.raises(ModelError):
            list(stream)
    finally:
        engine.model.model.multi_modal_projector = projector


def test_layer_beyond_the_model_is_refused(engine):
    with pytest.raises(SteeringError, match="layer 99"):
        engine.generate([request(2)], [image(1)], policy=IFA(layers=(99,)))


def test_unknown_critical_layers_warn_and_take_the_middle_third(engine, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(defaults.PHANTOM_FOLDER / "llava", folder)
    profile = ModelProfile.load(folder)
    ModelProfile(profile.template, None, profile.conversational).save(folder)
    other = LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=2)
    with pytest.warns(UserWarning, match="no critical layers are known"):
        (answer,) = other.generate([request(3)], [image(1)], policy=IFA())
    assert answer.steering.layers == middle_third(4)


@pytest.mark.parametrize(
    "stated",
    [
        {"critical_layers": [-1]},
        {"critical_layers": [1, 1]},
        {"critical_layers": [True]},
        {"critical_layers": ["1"]},
        {"critical_layers": [1.5]},
        {"critical_layers": []},
        {"conversational": "false"},
    ],
)
def test_a_profile_whose_values_are_none_is_refused(tmp_path, stated):
    (tmp_path / PROFILE_FILE).write_text(json.dumps(stated))
    with pytest.raises(ModelError, match="not a model profile"):
        ModelProfile.load(tmp_path)


def test_profile_of_another_model_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(defaults.PHANTOM_FOLDER / "llava", folder)
    ModelProfile(PromptTemplate(), (31,)).save(folder)
    with pytest.raises(ModelError, match="layer 31"):
        load_model(str(folder), device="cpu")


def test_model_folder_that_does_not_exist_names_the_ways_on():
    with pytest.raises(ModelError, match=r"no such folder.*phantom"):
        load_model("./no/such/folder")


def test_default_model_without_network_says_so_within_ten_seconds(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    with pytest.raises(ModelError, match=r"hub did not provide it.*phantom"):
        load_model()
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "cannot be steered"),
        (None, "no config.json"),
        ("{", "not valid JSON"),
    ],
)
def test_folder_that_is_no_usable_model_is_refused_by_name(tmp_path, config, message):
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path))


def test_device_that_is_not_there_is_refused_and_not_replaced():
    with pytest.raises(ModelError, match="not available"):
        resolve_device("xpu:7", ModelError)


def test_middle_third_is_never_empty():
    assert [middle_third(n) for n in (1, 2, 3, 4, 32)] == [
        (0,),
        (0, 1),
        (1,),
        (1, 2),
        tuple(range(10, 22)),
    ]


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_weights_with_gaps_are_refused_and_not_filled_with_random_numbers(tmp_path, change):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(defaults.PHANTOM_FOLDER / "llava", folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(key for key in tensors if key.endswith("layers.2.self_attn.q_proj.weight"))
    if change == "unexpected":
        tensors[name.replace("layers.2", "layers.7")] = tensors[name].clone()
    elif change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:5].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="q_proj"):
        load_model(str(folder), device="cpu")


def test_a_longer_answer_takes_its_room_from_the_documents(engine):
    many = PromptRequest(
        QUESTION,
        [PromptDocument(f"d{i}", "There is a nodule. " * 12, 1 - i / 10) for i in range(6)],
    )
    (own,) = engine.generate([many], [image(1)])
    (shorter,) = engine.generate([many], [image(1)], max_new_tokens=1)
    assert own.document_ids == shorter.document_ids
    room = engine.window - len(engine.prompt(many, engine.read_image(image(1))).input_ids)
    (longer,) = engine.generate([many], [image(1)], max_new_tokens=room + 10)
    assert longer.document_ids == own.document_ids[:-1]
    assert longer.dropped == (own.document_ids[-1],)
    with pytest.raises(ModelError, match="leaves no answer"):
        engine.generate([many], [image(1)], max_new_tokens=0)
    with pytest.raises(ModelError, match="no room for text"):
        engine.stream(many, image(1), max_new_tokens=engine.window)
