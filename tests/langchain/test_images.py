"""Whose image a question is about, and that two patients' evidence is refused."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnablePassthrough

from mrrag_llamaindex import query_image
from mrrag_llamaindex.errors import EvidenceError, ImageError, InputError
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.langchain import MRRAGCompressor, MRRAGRetriever, evidence_prompt
from tests.langchain.conftest import PROMPT, QUESTION

ONE, TWO = "patient-01", "patient-02"


@pytest.fixture(scope="module")
def chain(chat, retriever):
    return {"context": retriever, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat


def read(message):
    return message.response_metadata["mrrag"]["document_ids"]


def test_no_image_is_an_error_that_says_where_to_give_it(chain):
    for ask in (
        chain.invoke,
        lambda q: asyncio.run(chain.ainvoke(q)),
        lambda q: list(chain.stream(q)),
    ):
        with pytest.raises(InputError, match="for_inputs"):
            ask(QUESTION)


def test_text_alone_where_that_was_chosen(hospital, chat):
    retriever = MRRAGRetriever(hospital.index, on_missing_image="ignore")
    chain = {"context": retriever, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat
    assert not chain.invoke(QUESTION).response_metadata["mrrag"]["image_read"]


def test_two_images_of_one_question_are_refused(hospital, retriever):
    bound = MRRAGRetriever(hospital.index, image=hospital.images[ONE])
    with pytest.raises(InputError, match="two different images"):
        bound.invoke(QUESTION, image=hospital.images[TWO])
    with query_image(hospital.images[TWO]):
        with pytest.raises(InputError, match="two different images"):
            bound.invoke(QUESTION)
        with pytest.raises(InputError, match="two different images"):
            asyncio.run(retriever.ainvoke(QUESTION, image=hospital.images[ONE]))
        bound = MRRAGRetriever(hospital.index, image=Path(hospital.images[TWO]))
        assert bound.invoke(QUESTION)


def test_a_stream_is_about_the_block_in_which_it_is_first_read(hospital, chain):
    with query_image(hospital.images[ONE]):
        stream = chain.stream(QUESTION)
        outside = chain.stream(QUESTION)
        first = next(stream)
    with query_image(hospital.images[TWO]):  # retrieval is over, and its image goes with it
        whole = sum(stream, first)
    assert read(whole) == hospital.evidence(ONE, QUESTION)
    with pytest.raises(InputError, match="read inside the block"):
        next(outside)


def test_documents_of_two_patients_never_share_a_prompt(hospital, retriever):
    mixed = [
        document
        for patient in (ONE, TWO)
        for document in retriever.invoke(QUESTION, image=hospital.images[patient])[:2]
    ]
    with pytest.raises(EvidenceError, match="different images"):
        evidence_prompt(PROMPT).invoke({"context": mixed, "input": QUESTION})
    with pytest.raises(EvidenceError, match="different images"):
        MRRAGCompressor(hospital.index).compress_documents(mixed, QUESTION)


def test_documents_of_one_patient_are_not_used_for_another(hospital, retriever):
    documents = retriever.invoke(QUESTION, image=hospital.images[ONE])
    with query_image(hospital.images[TWO]):
        with pytest.raises(InputError, match="two different images"):
            evidence_prompt(PROMPT).invoke({"context": documents, "input": QUESTION})
        with pytest.raises(EvidenceError, match="another image"):
            MRRAGCompressor(hospital.index).compress_documents(documents, QUESTION)


def test_stamped_documents_of_two_patients_are_refused_by_the_model(hospital, chat):
    texts = [
        MRRAGRetriever(hospital.index, image=hospital.images[patient], stamped=True)
        .invoke(QUESTION)[0]
        .page_content
        for patient in (ONE, TWO)
    ]
    with pytest.raises(EvidenceError, match="evidence of 2 questions"):
        chat.invoke([("system", "\n\n".join(texts)), ("human", QUESTION)])


def blocks(path):
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": Path(path).as_uri()},
        {"type": "image", "base64": data, "mime_type": "image/png"},
        {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/png"},
        {"type": "image", "source": {"type": "base64", "data": data}},
    )


def test_an_image_in_the_message_is_read_in_every_form(chat, image):
    for block in blocks(image):
        message = chat.invoke([HumanMessage([{"type": "text", "text": QUESTION}, block])])
        assert message.response_metadata["mrrag"]["image_read"]


def test_an_image_in_the_message_must_be_that_of_the_documents(hospital, chat, retriever):
    documents = retriever.invoke(QUESTION, image=hospital.images[ONE])
    (system, human) = (
        evidence_prompt(PROMPT).invoke({"context": documents, "input": QUESTION}).to_messages()
    )
    same, other = (blocks(hospital.images[patient])[0] for patient in (ONE, TWO))
    text = {"type": "text", "text": human.content}
    assert read(chat.invoke([system, HumanMessage([text, same])]))
    with pytest.raises(EvidenceError, match="another image"):
        chat.invoke([system, HumanMessage([text, other])])


def test_what_is_no_image_of_ours_is_refused(chat, image):
    text = {"type": "text", "text": QUESTION}
    with pytest.raises(ImageError, match="not fetched"):
        chat.invoke([HumanMessage([text, {"type": "image", "url": "https://example.org/x.png"}])])
    with pytest.raises(InputError, match="'audio'"):
        chat.invoke([HumanMessage([text, {"type": "audio", "base64": "AAAA"}])])
    with pytest.raises(InputError, match="2 images"):
        chat.invoke([HumanMessage([text, *blocks(image)[:2]])])


def test_an_open_image_is_an_image(hospital, retriever, image):
    documents = retriever.invoke(QUESTION, image=load_image(image))
    assert tuple(d.id for d in documents) == hospital.evidence("patient-07", QUESTION)


PARTS = [
    {"type": "file", "base64": "AAAA", "mime_type": "application/pdf"},
    {"type": "audio", "base64": "AAAA"},
    {"type": "text-plain", "text": "secret"},
    {"type": "non_standard", "value": {}},
    {"type": "tool_use", "id": "1"},
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part["type"])
def test_parts_that_are_not_read_are_refused_or_leave_with_their_turn(chat, image, part):
    text, film = {"type": "text", "text": QUESTION}, blocks(image)[0]
    with pytest.raises(InputError, match=f"the question holds a part of type '{part['type']}'"):
        chat.invoke([HumanMessage([text, film, part])])
    with pytest.raises(InputError, match=f"a system message holds a part of type '{part['type']}'"):
        chat.invoke([SystemMessage([text, part]), HumanMessage([text, film])])
    for before in (
        [HumanMessage([text, film, part]), AIMessage("yes")],
        [HumanMessage([text, film]), AIMessage([{"type": "text", "text": "yes"}, part])],
    ):
        message = chat.invoke([*before, HumanMessage([text, film])])
        assert message.response_metadata["mrrag"]["left_out_turns"] == 2


def test_images_of_system_messages_and_answers_are_not_the_questions(hospital, chat, image):
    text, film = {"type": "text", "text": QUESTION}, blocks(image)[0]
    other = blocks(hospital.images[TWO])[0]
    with pytest.raises(InputError, match="a system message holds a part of type 'image_url'"):
        chat.invoke([SystemMessage([text, other]), HumanMessage([text, film])])
    answer = AIMessage([{"type": "text", "text": "yes"}, other])
    message = chat.invoke([HumanMessage([text, film]), answer, HumanMessage([text, film])])
    assert message.response_metadata["mrrag"]["left_out_turns"] == 2


def test_nothing_stands_behind_the_question(chat, image):
    question = HumanMessage([{"type": "text", "text": QUESTION}, blocks(image)[0]])
    with pytest.raises(InputError, match="behind the question"):
        chat.invoke([question, AIMessage("The answer is")])
    called = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    with pytest.raises(EvidenceError, match="a tool was called"):
        chat.invoke([question, called, ToolMessage("42", tool_call_id="1")])
