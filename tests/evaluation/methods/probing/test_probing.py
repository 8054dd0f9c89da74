"""What policies learn on the phantom's training patients, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.set_embedding import embed_set
from mrrag_llamaindex.evaluation.methods.probing.heads import learn_iti
from mrrag_llamaindex.evaluation.methods.probing.keys import learn_ada_seka, learn_seka
from mrrag_llamaindex.evaluation.methods.probing.strengths import learn_strengths
from mrrag_llamaindex.evaluation.methods.ranking import Fused
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.phantom.sets.evaluation_set import PhantomSetting, phantom_set
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers

pytestmark = pytest.mark.usefixtures("one_thread")

RANKING = Fused(FusionWeights(0.9, 0.05, 2.2), 2)
LEARNERS = [learn_seka, learn_ada_seka, learn_iti, learn_strengths]


@pytest.fixture(scope="module")
def engine() -> LlavaEngine:
    loaded = load_model(defaults.PHANTOM, device="cpu")
    return LlavaEngine(loaded, max_new_tokens=3, batch_size=20)


@pytest.fixture(scope="module")
def data():
    towers = load_towers(defaults.PHANTOM, device="cpu")
    setting = PhantomSetting(patients=16, profiles=6, documents=2)
    questions = phantom_set(5000, questions=22, setting=setting)
    return embed_set(questions, towers, PairStore.create("memory", StoreSchema.of(towers)))


def test_seka_learns_projections_for_every_head(engine, data):
    policy, note = learn_seka(data, engine, RANKING)
    assert note == "projections of keys from 22 documents"
    for name in ("relevant", "irrelevant"):
        projection = policy.projections[name]
        assert projection.shape == (4, 2, 32, 32)
        torch.testing.assert_close(projection @ projection, projection, atol=1e-5, rtol=0)
        rank = projection.diagonal(dim1=-2, dim2=-1).sum(-1)
        assert ((rank > 0.5) & (rank < 31.5)).all()


def test_ada_seka_learns_an_expert_for_each_cluster(engine, data):
    policy, note = learn_ada_seka(data, engine, RANKING)
    directions = policy.experts["directions"]
    count = directions.shape[0]
    assert 1 < count <= 4
    assert directions.shape == (count, 4, 2, 32, 3)
    gram = directions.mT @ directions
    torch.testing.assert_close(gram, torch.eye(3).expand_as(gram), atol=1e-5, rtol=0)
    assert (policy.experts["strengths"].diff(dim=-1) <= 0).all()
    assert sum(map(int, note.split("clusters of ")[1].split(" questions")[0].split(", "))) == 22


def test_iti_learns_a_direction_for_every_head(engine, data):
    policy, note = learn_iti(data, engine, RANKING)
    assert policy.directions["shifts"].shape == (4, 4, 32)
    assert policy.directions["accuracy"].shape == (4, 4)
    assert policy.heads_shifted == 1
    assert "16 heads from 22 questions answered yes and no" in note


@pytest.mark.slow
def test_ifa_by_layer_learns_strengths_and_heads_of_the_critical_layers(engine, data):
    policy, note = learn_strengths(data, engine, RANKING)
    assert set(policy.by_layer) == {1}
    assert policy.heads is None or set(policy.heads) == {1}
    assert "on 22 questions" in note


@pytest.mark.parametrize("learn", LEARNERS)
def test_too_few_questions_teach_nothing(engine, data, learn):
    with pytest.raises(InputError, match="no training questions"):
        learn(None, engine, RANKING)
    with pytest.raises(InputError, match="19 training questions are too few"):
        learn(data.subset(range(19)), engine, RANKING)
    with pytest.raises(InputError, match="neither workers nor a serving engine"):
        learn(data, object(), RANKING)


def test_iti_needs_answers_that_are_yes_or_no(engine, data):
    with pytest.raises(InputError, match="right and wrong answers"):
        learn_iti(replace(data, golds=("a finding",) * 22), engine, RANKING)


def test_questions_in_the_same_words_have_no_contrast(engine, data):
    same = tuple(replace(item, question=data.questions[0].question) for item in data.questions)
    with pytest.raises(InputError, match="0 training questions have a document"):
        learn_seka(replace(data, questions=same), engine, RANKING)
