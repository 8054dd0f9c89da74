"""What is shipped: small, loadable without torchvision, and as good as promised."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.phantom.sets.check import check_towers
from mrrag_llamaindex.phantom.sets.trials import answered_right, draw_trials
from mrrag_llamaindex.steering.ifa import IFA

SEED = 1234  # held out: below training's seeds


@pytest.fixture(scope="module")
def engine() -> LlavaEngine:
    return LlavaEngine(load_model("phantom", device="cpu"), max_documents=8, max_new_tokens=4)


def test_weights_take_less_than_ten_megabytes():
    files = [path for path in defaults.PHANTOM_FOLDER.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 10_000_000


def test_it_is_a_real_llava_with_clip_and_grouped_query_mistral(engine):
    config = engine.model.config
    assert config.model_type == "llava"
    assert config.vision_config.model_type == "clip_vision_model"
    assert config.text_config.model_type == "mistral"
    assert config.text_config.num_key_value_heads < config.text_config.num_attention_heads


def test_image_tokens_in_the_prompt_equal_the_model_s_features(engine):
    trial = draw_trials(SEED, 1, documents=1, irrelevant=0)[0]
    read = engine.loaded.images.read([trial.image])
    features = engine.model.get_image_features(**read.tensors, return_dict=True).pooler_output
    assert len(features[0]) == engine.image_tokens == read.tokens


@pytest.mark.slow
def test_it_answers_from_one_matching_document(engine):
    trials = draw_trials(SEED, 200, documents=1, irrelevant=0)
    assert np.mean(answered_right(engine, trials)) >= 0.85


@pytest.mark.parametrize("count", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_its_own_eyes_are_not_enough_but_not_blind_to_documents(engine, count):
    """Were images enough, nothing about documents could be shown with it."""
    trials = draw_trials(SEED, count, documents=0, irrelevant=0)
    assert 0.45 < np.mean(answered_right(engine, trials)) < 0.75


@pytest.mark.parametrize("count", [80, pytest.param(300, marks=pytest.mark.slow)])
def test_noise_hurts_and_steering_wins_back(engine, count):
    clean = draw_trials(SEED, count, documents=4, irrelevant=0)
    noisy = draw_trials(SEED, count, documents=4, irrelevant=2)
    plain, lost = (np.mean(answered_right(engine, trials)) for trials in (clean, noisy))
    steered = np.mean(answered_right(engine, noisy, IFA()))
    assert lost < plain - 0.05
    assert steered > lost


def test_text_only_prompt_does_not_crash(engine):
    from mrrag_llamaindex.generation.prompt.request import PromptRequest

    (answer,) = engine.generate([PromptRequest("Is there edema?")], [None])
    assert answer.text


@pytest.mark.slow
def test_towers_find_a_matching_pair():
    figures = {figure.name: figure.value for figure in check_towers(SEED, 150)}
    assert figures["equal: matching pair in top 5 of 500"] >= 0.6
