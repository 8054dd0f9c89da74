"""What is asked is honoured or refused by name, and errors arrive as they were raised."""

from __future__ import annotations

import asyncio
import warnings
from enum import Enum

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import tool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from pydantic import BaseModel

from mrrag_llamaindex import MRRAGLLaVA, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError, ModelError
from mrrag_llamaindex.langchain import (
    ChatMRRAG,
    MRRAGCompressor,
    MRRAGRetriever,
    create_stuff_documents_chain,
    evidence_prompt,
)
from tests.langchain.conftest import PROMPT, QUESTION


@pytest.fixture(scope="module")
def chain(chat, retriever):
    return {"context": retriever, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat


def filled_prompt(retriever, image):
    documents = retriever.invoke(QUESTION, image=image)
    return evidence_prompt(PROMPT).invoke({"context": documents, "input": QUESTION})


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "top_p", "seed", "logprobs"])
def test_generation_options_are_refused_by_name(chat, retriever, image, name):
    prompt = filled_prompt(retriever, image)
    with pytest.raises(ModelError, match=repr(name)):
        chat.invoke(prompt, **{name: 1})
    with pytest.raises(ModelError, match=repr(name)):
        list(chat.bind(**{name: 1}).stream(prompt))
    with pytest.raises(ModelError, match=repr(name)):
        asyncio.run(chat.ainvoke(prompt, **{name: 1}))


def test_stop_words_and_tools_are_refused_by_name(chat, retriever, image):
    prompt = filled_prompt(retriever, image)
    with pytest.raises(ModelError, match="'stop'"):
        chat.bind(stop=["\n"]).invoke(prompt)

    @tool
    def look(question: str) -> str:
        """Look at the image."""
        return question

    with pytest.raises(ModelError, match="no tools"):
        chat.bind_tools([look])
    with pytest.raises(ModelError, match="'tools'"):
        chat.bind(tools=[look]).invoke(prompt)


def test_the_one_option_of_a_call_is_honoured(chat, retriever, image):
    assert chat.bind(max_new_tokens=1).invoke(filled_prompt(retriever, image)).content


@pytest.mark.parametrize("name", ["temperature", "model_name", "modell", "cache", "profile_name"])
def test_options_at_construction_are_refused_by_name(name):
    with pytest.raises(ModelError, match=name):
        ChatMRRAG(**{"model": "phantom", name: True})


def test_a_loaded_model_takes_no_options_of_loading(chat):
    with pytest.raises(ModelError, match="llm= or device="):
        ChatMRRAG(chat.llm, device="cpu")


def test_options_of_retriever_and_compressor_are_refused_by_name(hospital, retriever, image):
    with pytest.raises(InputError, match="'similarity_topk'; did you mean 'similarity_top_k'"):
        MRRAGRetriever(hospital.index, similarity_topk=3)
    with pytest.raises(InputError, match="'search_kwargs'"):
        MRRAGRetriever(hospital.index, search_kwargs={"k": 3})
    with pytest.raises(InputError, match="'filter'"):
        retriever.invoke(QUESTION, image=image, filter={})
    with pytest.raises(InputError, match="'top_k'"):
        MRRAGCompressor(hospital.index, top_k=3)
    assert (
        len(MRRAGRetriever(hospital.index, similarity_top_k=3).invoke(QUESTION, image=image)) == 3
    )


@pytest.mark.parametrize(
    "filters",
    [
        {"patient_id": "patient-03"},
        {"patient_id": {"$in": ["patient-03"]}},
        {"$and": [{"patient_id": {"$ne": "patient-04"}}, {"patient_id": "patient-03"}]},
        MetadataFilters(filters=[MetadataFilter(key="patient_id", value="patient-03")]),
    ],
)
def test_filters(hospital, image, filters):
    documents = MRRAGRetriever(hospital.index, filters=filters).invoke(QUESTION, image=image)
    assert {document.metadata["patient_id"] for document in documents} == {"patient-03"}
    assert len(documents) == 3


@pytest.mark.parametrize(
    ("filters", "word"),
    [
        ({}, "empty"),
        ({"patient_id": {"$regex": "p"}}, "regex"),
        ({"$or": "x"}, "list"),
        ({"patient_id": None}, "patient_id"),
    ],
)
def test_filters_that_a_store_does_not_have(hospital, filters, word):
    with pytest.raises(InputError, match=word):
        MRRAGRetriever(hospital.index, filters=filters)


def test_filters_that_leave_nothing(hospital, chat, image):
    retriever = MRRAGRetriever(hospital.index, filters={"patient_id": "nobody"}, image=image)
    chain = {"context": retriever, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat
    with pytest.raises(EvidenceError, match="no documents found"):
        chain.invoke(QUESTION)


def test_missing_evidence_says_which_case_it_is(chat, retriever, image):
    with pytest.raises(EvidenceError, match="no documents are left"):
        evidence_prompt(PROMPT).invoke({"context": [], "input": QUESTION})
    with pytest.raises(InputError, match="not a str"):
        evidence_prompt(PROMPT).invoke({"context": "text", "input": QUESTION})
    with pytest.raises(EvidenceError, match="create_stuff_documents_chain"):
        chat.invoke(QUESTION)
    called = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    with pytest.raises(EvidenceError, match="a tool was called"):
        chat.invoke([HumanMessage(QUESTION), called, ToolMessage("yes", tool_call_id="1")])
    with pytest.raises(InputError, match="for_inputs"):
        retriever.invoke({"input": QUESTION}, image=image)
    with pytest.raises(InputError, match="'image'"):
        retriever.for_inputs().invoke({"input": QUESTION})
    with pytest.raises(InputError, match="no variable 'documents'"):
        create_stuff_documents_chain(chat, PROMPT, document_variable_name="documents")
    with pytest.raises(InputError, match="'input'"):
        evidence_prompt(PROMPT).invoke({"context": retriever.invoke(QUESTION, image=image)})


def test_missing_evidence_may_be_allowed(chat):
    lenient = MRRAGLLaVA(engine=chat.llm.engine, on_missing_context="ignore")
    assert ChatMRRAG(lenient).invoke(QUESTION).content


@pytest.mark.slow
def test_retry_and_fallback_do_what_they_say(chain, chat, retriever, image):
    with pytest.raises(InputError, match="no image"):
        chain.with_retry(stop_after_attempt=2).invoke(QUESTION)
    other = FakeListChatModel(responses=["asked elsewhere"])
    prompt = filled_prompt(retriever, image)
    assert chat.with_fallbacks([other]).invoke(prompt).content in ("yes", "no")
    assert chat.with_fallbacks([other]).invoke(QUESTION).content == "asked elsewhere"
    only_value_errors = chat.with_fallbacks([other], exceptions_to_handle=(ValueError,))
    with pytest.raises(EvidenceError):
        only_value_errors.invoke(QUESTION)
    results = chain.batch([QUESTION], return_exceptions=True)
    assert isinstance(results[0], InputError)


def test_a_cache_of_the_process_never_answers(hospital, chat):
    """Two patients with the same reports have the same prompt, and not the same answer."""
    set_llm_cache(InMemoryCache())
    try:
        chain = (
            {
                "context": MRRAGRetriever(hospital.index, filters={"patient_id": "patient-03"}),
                "input": RunnablePassthrough(),
            }
            | evidence_prompt(PROMPT)
            | chat
        )
        numbers = []
        for patient in ("patient-03", "patient-09"):
            with query_image(hospital.images[patient]):
                numbers.append(chain.invoke(QUESTION).response_metadata["mrrag"]["p_yes"])
    finally:
        set_llm_cache(None)
    assert numbers[0] != numbers[1]


class Verdict(BaseModel):
    effusion: bool
    p_yes: float
    document_ids: list[str]


class Word(Enum):
    YES = "yes"
    NO = "no"


class Unfillable(BaseModel):
    effusion: bool
    diameter: float = 1.0


def test_a_schema_is_filled_from_the_probabilities(hospital, chat, retriever, image):
    prompt = filled_prompt(retriever, image)
    verdict = chat.with_structured_output(Verdict).invoke(prompt)
    message = chat.invoke(prompt)
    assert verdict.p_yes == pytest.approx(message.response_metadata["mrrag"]["p_yes"], abs=1e-6)
    assert verdict.effusion == (message.content == "yes")
    assert tuple(verdict.document_ids) == hospital.evidence("patient-07", QUESTION)
    raw = asyncio.run(chat.with_structured_output(Verdict, include_raw=True).ainvoke(prompt))
    assert raw["parsed"] == verdict
    assert raw["parsing_error"] is None


def test_schemas_that_cannot_be_filled_are_refused(chat):
    with pytest.raises(InputError, match="diameter"):
        chat.with_structured_output(Unfillable)
    with pytest.raises(InputError, match="pydantic"):
        chat.with_structured_output({"title": "Verdict", "type": "object"})
    with pytest.raises(ModelError, match="'method'"):
        chat.with_structured_output(Verdict, method="json_mode")


def test_a_warning_is_not_an_error_of_the_host(chain, image):
    with warnings.catch_warnings(), query_image(image):
        warnings.simplefilter("ignore")
        assert chain.invoke("What is a xylophone? " + QUESTION)
