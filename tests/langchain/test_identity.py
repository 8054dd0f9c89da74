"""A document is the same whatever question found it, and stays in its process with its image."""

from __future__ import annotations

import copy
import pickle

import pytest
from langchain_classic.retrievers import MultiQueryRetriever
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnablePassthrough

from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.langchain import MRRAGCompressor, MRRAGRetriever, evidence_prompt
from tests.langchain.conftest import PROMPT, QUESTION

OTHER = "Is there a nodule?"


@pytest.fixture
def bound(hospital, image):
    return MRRAGRetriever(hospital.index, image=image, similarity_top_k=4)


def test_a_document_is_equal_however_it_was_ranked(hospital, bound, image):
    first = {one.id: one for one in bound.invoke(QUESTION)}
    second = {one.id: one for one in bound.invoke(OTHER)}
    both = first.keys() & second.keys()
    assert both
    for name in both:
        assert first[name] == second[name]
        assert first[name].metadata["mrrag"]["score"] != second[name].metadata["mrrag"]["score"]
    rescored = MRRAGCompressor(hospital.index, image=image).compress_documents(
        [*first.values()], OTHER
    )
    assert all(one.metadata["mrrag"] == first[one.id].metadata["mrrag"] for one in rescored)
    one, two = list(first.values())[:2]
    assert one != two


def test_documents_of_two_images_differ(hospital, bound):
    first = bound.invoke(QUESTION)[0]
    others = MRRAGRetriever(
        hospital.index, image=hospital.images["patient-08"], similarity_top_k=150, candidates=150
    )
    (same,) = (one for one in others.invoke(QUESTION) if one.id == first.id)
    assert same != first
    with pytest.raises(EvidenceError, match="different images"):
        evidence_prompt(PROMPT).invoke({"context": [first, same], "input": QUESTION})


def test_what_several_queries_found_is_read_once(hospital, chat, bound):
    queries = FakeListChatModel(responses=[f"{OTHER}\nIs there edema?"])
    several = MultiQueryRetriever.from_llm(bound, queries, include_original=True)
    found = several.invoke(QUESTION)
    assert len({one.id for one in found}) == len(found)
    chain = {"context": several, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat
    facts = chain.invoke(QUESTION).response_metadata["mrrag"]
    assert sorted([*facts["document_ids"], *facts["dropped"]]) == sorted(one.id for one in found)


def test_components_share_what_they_hold_and_are_not_pickled(hospital, chat, bound, image):
    copied = copy.deepcopy(bound)
    assert copied.invoke(QUESTION) == bound.invoke(QUESTION)
    assert copy.deepcopy(chat).llm is chat.llm
    compressor = MRRAGCompressor(hospital.index, image=image)
    assert copy.deepcopy(compressor).compress_documents(bound.invoke(QUESTION), QUESTION)
    for component in (bound, chat, compressor):
        with pytest.raises(InputError, match="make one in each process"):
            pickle.dumps(component)
