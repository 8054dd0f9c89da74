"""Every policy behind a real query engine: ``MRRAGLLaVA(policy=...)``, and ``ifa=`` for short."""

from __future__ import annotations

import pytest
from llama_index.core import QueryBundle

from mrrag_llamaindex import IFA, PAI, PASTA, MRRAGLLaVA, answer_trace
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.registry import POLICIES

QUESTION = "Is there a pleural effusion?"
CHOICES = [*(kind() for kind in POLICIES.values()), HardMask(mode="drop"), PASTA(heads={1: (0,)})]


def answer_of(hospital, llm):
    image = hospital.images["patient-07"]
    engine = hospital.index.as_query_engine(llm=llm, similarity_top_k=4)
    response = engine.query(QueryBundle(QUESTION, image_path=image))
    return answer_trace(response.source_nodes)[-1]


@pytest.fixture(scope="module")
def plain(hospital):
    return answer_of(hospital, MRRAGLLaVA(model="phantom", device="cpu", policy=None))


@pytest.mark.parametrize("policy", CHOICES, ids=repr)
def test_a_query_engine_answers_under_every_policy(hospital, plain, policy):
    answer = answer_of(hospital, MRRAGLLaVA(model="phantom", device="cpu", policy=policy))
    assert not plain.steering.applied
    assert answer.text
    lambdas = [answer.lambdas[name] for name in answer.document_ids]
    assert (min(lambdas), max(lambdas)) == (0.0, 1.0)
    # A policy acts on attention, or it has left documents out.
    assert answer.steering.applied != policy.is_off
    assert (len(answer.document_ids) < len(plain.document_ids)) == policy.is_off
    assert (answer.p_yes, answer.p_no) != (plain.p_yes, plain.p_no)


@pytest.mark.parametrize("policy", [*CHOICES, None], ids=repr)
def test_settings_are_written_and_read_back(llm, policy):
    settings = MRRAGLLaVA(model="phantom", policy=policy, engine=llm.engine)
    assert MRRAGLLaVA.from_dict(settings.to_dict()).policy == policy
    assert MRRAGLLaVA.from_json(settings.to_json()).policy == policy


def test_ifa_is_the_short_form(llm):
    def policy(**settings):
        return MRRAGLLaVA(model="phantom", engine=llm.engine, **settings).policy

    assert policy() == IFA()
    assert policy(ifa=IFA(strength=2.0)) == IFA(strength=2.0)
    assert policy(ifa=None) is None
    with pytest.raises(ModelError, match=r"ifa= or policy="):
        policy(ifa=IFA(), policy=PAI())
    with pytest.raises(ModelError, match=r"SteeringPolicy: give one of IFA\(\)"):
        policy(policy="ifa")
    with pytest.raises(ModelError, match=r"PASTA\(\)"):
        llm.policy = PASTA
    with pytest.raises(ModelError, match="'unheard-of'"):
        policy(policy={"name": "unheard-of"})
