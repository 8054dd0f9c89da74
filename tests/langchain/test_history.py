"""Conversations: only what was said about the image at hand is read."""

from __future__ import annotations

import asyncio

import pytest
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory

from mrrag_llamaindex import query_image
from mrrag_llamaindex.langchain import create_stuff_documents_chain, evidence_prompt
from tests.langchain.conftest import QUESTION

FOLLOW_UP = "Is there a nodule?"
CHAT_PROMPT = ChatPromptTemplate.from_messages(
    [("system", "{context}"), MessagesPlaceholder("chat_history"), ("human", "{input}")]
)
REPHRASE = ChatPromptTemplate.from_messages(
    [
        ("system", "Write a question that stands alone. Do not answer it."),
        MessagesPlaceholder("chat_history"),
        ("human", "{input}"),
    ]
)


def left_out(message):
    return message.response_metadata["mrrag"]["left_out_turns"]


@pytest.fixture(scope="module")
def chain(chat, retriever):
    context = RunnablePassthrough.assign(context=retriever.for_inputs())
    return context | evidence_prompt(CHAT_PROMPT) | chat


def test_turns_about_another_image_are_left_out(hospital, chain):
    one, two = hospital.images["patient-01"], hospital.images["patient-02"]
    # In words of its own: a turn counts for every image that the same was said about.
    asked = "Is there a large pneumothorax?"
    first = chain.invoke({"input": asked, "image": one, "chat_history": []})
    history = [HumanMessage(asked), AIMessage(first.content)]
    same = chain.invoke({"input": FOLLOW_UP, "image": one, "chat_history": history})
    other = chain.invoke({"input": FOLLOW_UP, "image": two, "chat_history": history})
    assert (left_out(same), left_out(other)) == (0, 1)


def test_turns_that_are_known_to_nobody_are_left_out(chain, image):
    history = [HumanMessage("Is it big?"), AIMessage("It is a tumour of patient X.")]
    assert left_out(chain.invoke({"input": QUESTION, "image": image, "chat_history": history})) == 1


@pytest.mark.slow
def test_a_kept_history_over_two_patients(hospital, chain, observer):
    kept = InMemoryChatMessageHistory()
    app = RunnableWithMessageHistory(
        chain,
        lambda session_id: kept,
        input_messages_key="input",
        history_messages_key="chat_history",
    )
    config = {"configurable": {"session_id": "one"}, "callbacks": [observer]}
    counts = []
    for number, patient in enumerate(("patient-03", "patient-03", "patient-04", "patient-03")):
        inputs = {"input": f"Is there edema {number}?", "image": hospital.images[patient]}
        counts.append(left_out(app.invoke(inputs, config)))
    assert counts == [0, 0, 2, 1]
    assert "[[mrrag:" not in repr(kept.messages)
    assert observer.markers == 0


def history_app(chat, retriever):
    aware = create_history_aware_retriever(chat.as_condenser(), retriever, REPHRASE)
    return create_retrieval_chain(aware, create_stuff_documents_chain(chat, CHAT_PROMPT))


def test_a_follow_up_question_reaches_the_retriever_as_it_is(hospital, chat, retriever):
    app = history_app(chat, retriever)
    patient = "patient-05"
    with query_image(hospital.images[patient]):
        first = app.invoke({"input": QUESTION, "chat_history": []})
        history = [HumanMessage(QUESTION), AIMessage(first["answer"])]
        inputs = {"input": FOLLOW_UP, "chat_history": history}
        second = app.invoke(inputs)
        third = asyncio.run(app.ainvoke(inputs))
        pieces = [piece["answer"] for piece in app.stream(inputs) if "answer" in piece]
    for result in (second, third):
        ids = tuple(document.id for document in result["context"])
        assert ids == hospital.evidence(patient, FOLLOW_UP)
    assert "".join(pieces) == second["answer"]


def test_the_condenser_generates_nothing_about_another_patient(chat):
    history = [HumanMessage(QUESTION), AIMessage("no")]
    message = chat.as_condenser().invoke(
        REPHRASE.invoke({"chat_history": history, "input": FOLLOW_UP})
    )
    assert message.content == FOLLOW_UP
