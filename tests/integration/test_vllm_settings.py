"""Settings of vLLM: taken where they act, and refused by name where they do not."""

from __future__ import annotations

import importlib.util
import pickle

import pytest

from mrrag_llamaindex import MRRAGLLaVA
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from tests.generation.checkpoints.llava_original.original_checkpoint import (
    make_original,
    sentencepiece_model,
    write_clip,
)
from tests.tiny.families import write


@pytest.fixture
def server(token_server):
    return token_server


@pytest.fixture
def llm(server):
    return MRRAGLLaVA(model="phantom", api_base=server.address, max_new_tokens=4)


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "auto"},
        {"quantization": "int8"},
        {"vision_tower": "clip"},
        {"allow_pickle": True},
        {"steering_backend": "eager"},
        {"request_timeout": 3.0},
    ],
)
def test_what_only_transformers_or_a_server_can_do_is_refused_in_vllm(options):
    (name,) = options
    with pytest.raises(ModelError, match=f"^{name} has no effect here"):
        MRRAGLLaVA(model="phantom", engine="vllm", **options)


def test_one_device_of_several_is_chosen_for_vllm_by_its_environment():
    with pytest.raises(ModelError, match="CUDA_VISIBLE_DEVICES"):
        MRRAGLLaVA(model="phantom", engine="vllm", device="cuda:1")


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"},
        {"dtype": "float32"},
        {"prefix_cache": 3},
        {"steering_backend": "eager"},
        {"engine_options": {"max_model_len": 100}},
    ],
)
def test_what_a_server_has_decided_is_refused(server, options):
    (name,) = options
    with pytest.raises(ModelError, match=f"^{name} has no effect here"):
        MRRAGLLaVA(model="phantom", api_base=server.address, **options)


def test_settings_of_vllm_are_refused_without_it():
    for options in ({"engine_options": {"seed": 1}}, {"request_timeout": 3.0}):
        with pytest.raises(ModelError, match="has no effect here"):
            MRRAGLLaVA(model="phantom", device="cpu", **options)
    with pytest.raises(ModelError, match="not both"):
        MRRAGLLaVA(model="phantom", engine="vllm", api_base="http://127.0.0.1:1")


def test_what_explains_and_what_looks_at_attention_is_refused_by_name(llm):
    with pytest.raises(ModelError, match="explain=True hides documents in passes of its own"):
        llm.model_copy(update={"explain": True})


def test_where_the_model_runs_is_said_once_it_is_loaded(llm, server):
    assert llm.engine.device == f"the vLLM server at {server.address}"
    for name, value in (("api_base", "http://127.0.0.1:2"), ("runtime", "vllm")):
        with pytest.raises(ModelError, match=f"{name} says what is loaded"):
            setattr(llm, name, value)
    assert llm.model_copy(update={"max_documents": 2}).engine.connection is llm.engine.connection


def test_settings_travel_and_reach_the_server_anew(llm):
    other = pickle.loads(pickle.dumps(llm))
    assert other.settings() == llm.settings()
    assert other.engine.connection is not llm.engine.connection
    other.engine.connection.close()
    with pytest.raises(ModelError, match="was closed"):
        other.engine.generate([PromptRequest("effusion")], [None])


def test_folders_that_vllm_would_not_load_are_refused_before_it_starts(tmp_path):
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(ModelError, match="vLLM cannot be imported"):
            MRRAGLLaVA(model="phantom", engine="vllm", device="cpu")
    folder = write("llava", tmp_path / "llava")
    with pytest.raises(ModelError, match=r"mrrag convert .* DST --for vllm"):
        MRRAGLLaVA(model=str(folder), engine="vllm", device="cpu", max_new_tokens=4)
    write_clip(tmp_path / "clip")
    original = make_original(tmp_path / "clip", sentencepiece_model()).write(tmp_path / "original")
    with pytest.raises(ModelError, match=r"original layout.*--for vllm"):
        MRRAGLLaVA(model=str(original), engine="vllm", device="cpu")
