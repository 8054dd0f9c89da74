"""Answers are decoded greedily, whatever a checkpoint asks for, in every way to get one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.explanation import explain, without_documents
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.steering.ifa import IFA
from tests.tiny.families import write

STEERED = IFA(layers=(1, 2))
FILM = Image.new("RGB", (40, 40), (90, 120, 30))
DOCUMENTS = (
    PromptDocument("a", "No pleural effusion.", 1.0),
    PromptDocument("b", "The heart is of normal size.", 0.0),
)
REQUESTS = [
    PromptRequest("Is there a nodule?", DOCUMENTS),
    PromptRequest("Is the heart of a normal size in this examination, or is it not?", DOCUMENTS),
]
TOKENS = 8
END = [2, 7]
"""End tokens that stand in a checkpoint's own file, and must go on to end its answers."""

ASKED: dict[str, dict[str, Any]] = {
    "penalty": {"repetition_penalty": 1.3},
    "no repeats": {"no_repeat_ngram_size": 1},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 20, "top_p": 0.9},
    "length": {"min_length": 400, "min_new_tokens": TOKENS, "max_length": 12, "max_time": 1e-9},
    "forced": {"forced_bos_token_id": 40, "forced_eos_token_id": 41},
    "suppressed": {"suppress_tokens": list(range(20, 256))},
    "suppressed at first": {"begin_suppress_tokens": list(range(20, 256))},
    "bias": {"sequence_bias": [[[40], 9.0]], "bad_words_ids": [[number] for number in range(99)]},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    "outputs": {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
    "cache": {"use_cache": False, "cache_implementation": "static"},
    "guidance": {"guidance_scale": 2.0},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("llava", tmp_path_factory.mktemp("plain"))


def asking(plain: Path, folder: Path, fields: dict[str, Any]) -> LlavaEngine:
    """Load the same checkpoint with a generation_config.json that holds these fields."""
    shutil.copytree(plain, folder)
    special = {"bos_token_id": 1, "eos_token_id": END, "pad_token_id": 3}
    (folder / "generation_config.json").write_text(json.dumps({**special, **fields}))
    return LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=TOKENS)


def answered(engine: LlavaEngine) -> dict[str, Answer]:
    """Answers of every kind, without their seconds."""
    images = [FILM] * len(REQUESTS)
    stream = engine.stream(REQUESTS[0], FILM, policy=STEERED)
    text = "".join(stream)
    assert stream.answer is not None
    assert text.strip() == stream.answer.text
    together = engine.generate(REQUESTS, images, policy=STEERED)
    apart = [engine.generate([one], [FILM], policy=STEERED)[0] for one in REQUESTS]
    named = {"stream": stream.answer}
    named |= {f"together {row}": one for row, one in enumerate(together)}
    named |= {f"apart {row}": one for row, one in enumerate(apart)}
    return {name: replace(one, seconds=0.0) for name, one in named.items()}


def likeliest(engine: LlavaEngine) -> int:
    """First token of the plain answer to the first request."""
    prompt = engine.prompt(REQUESTS[0], read := engine.read_image(FILM))
    return int(engine.runner.logits([prompt.input_ids], [read])[0, -1].argmax())


@pytest.fixture(scope="module")
def expected(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    engine = asking(plain, tmp_path_factory.mktemp("reference") / "it", {})
    return answered(engine), explain(engine, REQUESTS[0], FILM, STEERED)


@pytest.mark.parametrize("fields", ASKED.values(), ids=ASKED)
def test_what_a_checkpoint_asks_of_the_decoding_changes_nothing(plain, tmp_path, expected, fields):
    engine = asking(plain, tmp_path / "asking", fields)
    answers, influences = expected
    assert answered(engine) == answers
    assert explain(engine, REQUESTS[0], FILM, STEERED) == influences


def test_the_reference_ends_by_its_length_and_by_either_end_token(plain, tmp_path):
    engine = asking(plain, tmp_path / "it", {})
    assert engine.end_ids == frozenset(END)
    (answer,) = engine.generate(REQUESTS[:1], [FILM])
    assert answer.answer_tokens == TOKENS
    assert answer.cut_off
    engine.model.generation_config.eos_token_id = [2, likeliest(engine)]
    (ended,) = engine.generate(REQUESTS[:1], [FILM])
    assert ended.answer_tokens == 1
    assert not ended.cut_off


@pytest.mark.slow
def test_probabilities_do_not_depend_on_the_company(plain, tmp_path):
    """A penalty on repetition counts the padding of the shorter prompts."""
    engine = asking(plain, tmp_path / "it", {"repetition_penalty": 1.3})
    policies = [None, STEERED]
    for policy in policies:
        together = engine.generate(REQUESTS, [FILM, None], policy=policy)
        (alone,) = engine.generate(REQUESTS[1:], [None], policy=policy)
        (first,) = engine.generate(REQUESTS[:1], [FILM], policy=policy)
        assert (together[0].text, together[1].text) == (first.text, alone.text)
        assert together[0].p_yes == pytest.approx(first.p_yes, abs=1e-7)
        assert together[1].p_yes == pytest.approx(alone.p_yes, abs=1e-7)


def test_parameters_of_the_decoding_in_the_configuration_change_nothing(plain, tmp_path, expected):
    """Where old checkpoints have them."""
    folder = tmp_path / "it"
    shutil.copytree(plain, folder)
    (folder / "generation_config.json").unlink()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    asked = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "do_sample": True}
    special = {"bos_token_id": 1, "eos_token_id": END, "pad_token_id": 3}
    config |= asked | special
    config["text_config"] |= asked | special
    path.write_text(json.dumps(config))
    engine = LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=TOKENS)
    assert answered(engine) == expected[0]


def test_rows_that_a_conversion_added_are_no_words_of_any_pass(plain, tmp_path):
    """Our conversion of LLaVA-Med suppresses them; an explanation must not count them either."""
    added = likeliest(asking(plain, tmp_path / "before", {}))
    config = json.loads((plain / "config.json").read_text())
    converted = tmp_path / "converted"
    shutil.copytree(plain, converted)
    (converted / "config.json").write_text(json.dumps({**config, "mrrag_vision_tower": "clip"}))
    fields = {"eos_token_id": 2, "pad_token_id": 3, "suppress_tokens": [added]}
    (converted / "generation_config.json").write_text(json.dumps(fields))
    without = LlavaEngine(load_model(str(converted), device="cpu"), max_new_tokens=TOKENS)
    (other,) = without.generate(REQUESTS[:1], [FILM])
    first = without_documents(without, REQUESTS[0], FILM, ())
    assert likeliest(without) != added
    assert other.text.startswith(first.text)
    assert (first.p_yes, first.p_no) == pytest.approx((other.p_yes, other.p_no), abs=1e-6)


def test_stock_decoding_of_the_same_weights_gives_the_same_tokens(plain, tmp_path):
    engine = asking(plain, tmp_path / "it", ASKED["penalty"])
    (answer,) = engine.generate(REQUESTS[:1], [FILM])
    prompt = engine.prompt(REQUESTS[0], read := engine.read_image(FILM))
    stock = transformers.LlavaForConditionalGeneration.from_pretrained(plain).eval()
    tokens = list(prompt.input_ids)
    for _ in range(TOKENS):
        with torch.inference_mode():
            pixels = read.tensors["pixel_values"]
            logits = stock(input_ids=torch.tensor([tokens]), pixel_values=pixels).logits
        tokens.append(int(logits[0, -1].argmax()))
    new = tokens[len(prompt.input_ids) :]
    assert engine.tokenizer.decode(new, skip_special_tokens=True) == answer.text
