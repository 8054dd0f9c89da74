"""What is copied, changed, pickled or written keeps its settings, or refuses by name."""

from __future__ import annotations

import copy
import pickle

import pytest
from llama_index.core import QueryBundle
from llama_index.core.llms import MockLLM
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore

from mrrag_llamaindex import MRRAGLLaVA, MRRAGPostprocessor, answer_trace, query_image
from mrrag_llamaindex.errors import InputError, ModelError, StoreError
from mrrag_llamaindex.integration.tickets.stamps import stamp
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask

QUESTION = "Is there a pleural effusion?"
SETTINGS = {
    "max_documents": 2,
    "max_new_tokens": 4,
    "batch_size": 3,
    "explain": True,
    "on_missing_context": "warn",
    "policy": IFA(strength=2.0),
    "system_prompt": "Be brief.",
}


def asked(hospital, llm, image):
    """Ask one question; return the model's answer."""
    engine = hospital.index.as_query_engine(llm=llm)
    (answer,) = answer_trace(engine.query(QueryBundle(QUESTION, image_path=str(image))))
    return answer


@pytest.fixture(scope="module")
def set_up() -> MRRAGLLaVA:
    return MRRAGLLaVA(model="phantom", **SETTINGS)


def by_assignment(_):
    llm = MRRAGLLaVA(model="phantom")
    for name, value in SETTINGS.items():
        setattr(llm, name, value)
    return llm


WAYS = {
    "pickle": lambda llm: pickle.loads(pickle.dumps(llm)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "model_copy": lambda llm: llm.model_copy(deep=True),
    "update": lambda _: MRRAGLLaVA(model="phantom").model_copy(update=SETTINGS),
    "assignment": by_assignment,
    "dict": lambda llm: MRRAGLLaVA.from_dict(llm.to_dict()),
    "json": lambda llm: MRRAGLLaVA.from_json(llm.to_json()),
    "dump": lambda llm: MRRAGLLaVA.model_validate(llm.model_dump()),
    "dump as json": lambda llm: MRRAGLLaVA.model_validate_json(llm.model_dump_json()),
    "engine": lambda llm: MRRAGLLaVA(
        model="phantom", engine=MRRAGLLaVA(model="phantom").engine, **SETTINGS
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_settings_survive_and_hold(hospital, set_up, image, way):
    llm = WAYS[way](set_up)
    assert {name: getattr(llm, name) for name in SETTINGS} == SETTINGS
    assert llm.metadata.num_output == 4
    answer = asked(hospital, llm, image)
    assert len(answer.document_ids) == 2
    assert answer.influence is not None
    expected = asked(hospital, set_up, image)
    assert (answer.text, answer.p_yes) == (expected.text, pytest.approx(expected.p_yes, abs=2e-6))


def test_copies_share_the_model_and_not_their_settings(hospital, llm, image):
    few = llm.model_copy(update={"max_documents": 1, "policy": HardMask()})
    assert few.engine.loaded is llm.engine.loaded
    assert len(asked(hospital, few, image).document_ids) == 1
    few.max_documents = 3
    assert len(asked(hospital, few, image).document_ids) <= 3
    assert len(asked(hospital, llm, image).document_ids) == 6
    assert llm.policy != HardMask()


def test_limits_that_are_not_stated_are_those_of_a_given_engine(llm):
    few = llm.model_copy(update={"max_documents": 2}).engine
    given = MRRAGLLaVA(model="phantom", engine=few)
    assert (given.max_documents, given.max_new_tokens) == (2, llm.max_new_tokens)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("model", "another", "says what is loaded"),
        ("device", "cpu:0", "says what is loaded"),
        ("dtype", "float16", "says what is loaded"),
        ("steering_backend", "eager", "says what is loaded"),
        ("prefix_cache", 0, "says what is loaded"),
        ("max_documents", 0, "max_documents is 0"),
        ("max_new_tokens", "many", "max_new_tokens is 'many'"),
        ("on_missing_context", "skip", "on_missing_context is 'skip'"),
        ("policy", "ifa", "no SteeringPolicy"),
        ("messages_to_prompt", str, "own layout"),
        ("query_wrapper_prompt", "x", "own layout"),
    ],
)
def test_what_a_loaded_model_cannot_take_is_refused(llm, name, value, match):
    before = getattr(llm, name)
    with pytest.raises(ModelError, match=match):
        setattr(llm, name, value)
    with pytest.raises(ModelError, match=match):
        llm.model_copy(update={name: value})
    assert getattr(llm, name) == before


def test_an_unknown_field_in_a_copy_is_refused(llm):
    with pytest.raises(ModelError, match="did you mean 'max_documents'"):
        llm.model_copy(update={"max_document": 1})


def test_what_the_host_sets_is_taken(llm):
    get_response_synthesizer(llm=llm, callback_manager=MockLLM().callback_manager)
    llm.system_prompt = None


def test_a_given_engine_does_not_travel(llm):
    with pytest.raises(ModelError, match="given a loaded engine"):
        pickle.dumps(MRRAGLLaVA(model="phantom", engine=llm.engine))


def test_what_holds_a_store_is_copied_over_it(hospital, llm, image):
    index = hospital.index
    bundle = QueryBundle(QUESTION, image_path=str(image))
    expected = [item.node.node_id for item in index.as_retriever().retrieve(bundle)]
    again = copy.deepcopy(index)
    assert again.store is index.store
    retriever = copy.deepcopy(again.as_retriever())
    assert [item.node.node_id for item in retriever.retrieve(bundle)] == expected
    step = copy.deepcopy(MRRAGPostprocessor(index, top_n=2))
    assert len(step.postprocess_nodes(retriever.retrieve(bundle), query_bundle=bundle)) == 2
    engine = copy.deepcopy(index.as_query_engine(llm=llm))
    (answer,) = answer_trace(engine.query(bundle))
    assert list(answer.document_ids) == expected


@pytest.mark.parametrize("what", ["index", "retriever", "engine", "chat", "postprocessor"])
def test_what_holds_a_store_is_not_pickled_and_says_so(hospital, llm, what):
    index = hospital.index
    thing = {
        "index": lambda: index,
        "retriever": index.as_retriever,
        "engine": lambda: index.as_query_engine(llm=llm),
        "chat": lambda: index.as_chat_engine("context", llm=llm),
        "postprocessor": lambda: MRRAGPostprocessor(index),
    }[what]()
    with pytest.raises((StoreError, InputError), match="another"):
        pickle.dumps(thing)


def test_scores_of_another_process_steer_nothing(hospital, image):
    """Whatever was pickled may have been scored for another question."""
    with query_image(str(image)):
        nodes = hospital.index.as_retriever().retrieve(QUESTION)
    sent: list[NodeWithScore] = pickle.loads(pickle.dumps(nodes))
    (ticket,) = {
        id(item.node._ticket): item.node._ticket for item in stamp(sent, "", None)
    }.values()
    assert [document.score for document in ticket.documents] == [None] * len(nodes)
