"""Nobody but our chat model sees markers, and evidence survives what hosts do to documents."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import (
    create_stuff_documents_chain as stock_stuff_chain,
)
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps, load
from langchain_core.messages import HumanMessage, merge_message_runs
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_text_splitters import CharacterTextSplitter
from pydantic import Field

from mrrag_llamaindex import query_image
from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.langchain import (
    MRRAGCompressor,
    MRRAGRetriever,
    create_stuff_documents_chain,
    evidence_prompt,
    without_markers,
)
from tests.langchain.conftest import PROMPT, QUESTION


class Reader(FakeListChatModel):
    """Another model, which keeps what it read."""

    responses: list[str] = Field(default=["yes"])
    read: list[str] = Field(default_factory=list)

    def _call(self, messages, *args, **kwargs):
        self.read.extend(str(message.content) for message in messages)
        self.read.extend(repr(message) for message in messages)
        return super()._call(messages, *args, **kwargs)


def test_no_callback_sees_a_marker(chat, retriever, image, observer):
    app = create_retrieval_chain(retriever.for_inputs(), create_stuff_documents_chain(chat, PROMPT))
    inputs, config = {"input": QUESTION, "image": image}, {"callbacks": [observer]}
    result = app.invoke(inputs, config)
    list(app.stream(inputs, config))
    app.batch([inputs, inputs], config)
    asyncio.run(app.ainvoke(inputs, config))

    async def events():
        return [repr(event) async for event in app.astream_events(inputs, config, version="v2")]

    assert not any("[[mrrag:" in event for event in asyncio.run(events()))
    assert result["context"][0].page_content in observer.prompts[0]
    assert observer.seen
    assert observer.markers == 0
    assert "[[mrrag:" not in repr(result)


def test_another_model_in_the_same_chain_reads_plain_text(retriever, chat, image):
    other = Reader()
    chain = create_stuff_documents_chain(other, PROMPT)
    documents = retriever.invoke(QUESTION, image=image)
    assert chain.invoke({"context": documents, "input": QUESTION}) == "yes"
    refused = chat.bind(temperature=1.0).with_fallbacks([other])
    chain = create_stuff_documents_chain(refused, PROMPT)
    assert chain.invoke({"context": documents, "input": QUESTION}) == "yes"
    assert documents[0].page_content in other.read[0]
    assert not any("[[mrrag:" in text for text in other.read)


def test_a_formatter_of_ones_own_needs_stamped_documents(hospital, chat, image, observer):
    def chain(retriever):
        text = retriever | (lambda documents: "\n\n".join(d.page_content for d in documents))
        return {"context": text, "input": RunnablePassthrough()} | PROMPT | chat

    with pytest.raises(EvidenceError, match="stamped=True"):
        chain(MRRAGRetriever(hospital.index, image=image)).invoke(QUESTION)
    stamped = MRRAGRetriever(hospital.index, image=image, stamped=True)
    for build in (chain(stamped), stock_chain(stamped, chat)):
        message = build.invoke(QUESTION, {"callbacks": [observer]})
        ids = message.response_metadata["mrrag"]["document_ids"]
        assert ids == hospital.evidence("patient-07", QUESTION)
    assert observer.prompts
    assert not any("[[mrrag:" in text for text in observer.prompts)
    documents = stamped.invoke(QUESTION)
    assert "[[mrrag:" in documents[0].page_content
    assert "[[mrrag:" not in repr(without_markers(documents))


def stock_chain(retriever, chat):
    stuff = stock_stuff_chain(chat, PROMPT, output_parser=RunnableLambda(lambda message: message))
    return {"context": retriever, "input": RunnablePassthrough()} | stuff


def test_stamped_documents_of_a_compressor(hospital, chat, image):
    documents = MRRAGRetriever(hospital.index, image=image).invoke(QUESTION)
    compressor = MRRAGCompressor(hospital.index, stamped=True, top_n=2)
    stamped = compressor.compress_documents(documents, QUESTION)
    text = "\n\n".join(document.page_content for document in stamped)
    message = chat.invoke([("system", text), ("human", QUESTION)])
    assert len(message.response_metadata["mrrag"]["document_ids"]) == 2


def test_evidence_goes_with_documents_that_a_host_writes_anew(chat, retriever, image):
    documents = retriever.invoke(QUESTION, image=image)
    splitter = CharacterTextSplitter(separator=". ", chunk_size=20, chunk_overlap=0)
    variants = {
        "split": splitter.split_documents(documents),
        "copied": copy.deepcopy(documents),
        "extracted": [
            Document(page_content=d.page_content, metadata=d.metadata) for d in documents
        ],
    }
    chain = evidence_prompt(PROMPT) | chat
    for variant in variants.values():
        message = chain.invoke({"context": variant, "input": QUESTION})
        ids = message.response_metadata["mrrag"]["document_ids"]
        assert ids == tuple(document.id for document in documents)


def test_documents_that_left_the_process_say_so(hospital, retriever, image):
    documents = retriever.invoke(QUESTION, image=image)
    variants = (
        pickle.loads(pickle.dumps(documents)),
        [load(json.loads(dumps(d))) for d in documents],
        [Document(**document.model_dump()) for document in documents],
    )
    for variant in variants:
        assert variant[0].page_content == documents[0].page_content
        assert variant[0].metadata == documents[0].metadata
        with pytest.raises(EvidenceError, match="stay in the process"):
            evidence_prompt(PROMPT).invoke({"context": variant, "input": QUESTION})
        anew = MRRAGCompressor(hospital.index, image=image).compress_documents(variant, QUESTION)
        assert [document.id for document in anew] == [document.id for document in documents]


def test_messages_survive_pickle_without_their_evidence(chat, retriever, image):
    documents = retriever.invoke(QUESTION, image=image)
    value = evidence_prompt(PROMPT).invoke({"context": documents, "input": QUESTION})
    travelled = pickle.loads(pickle.dumps(value.to_messages()))
    assert [message.content for message in travelled] == [m.content for m in value.to_messages()]
    with pytest.raises(EvidenceError, match="neither documents"):
        chat.invoke(travelled)
    assert chat.invoke(copy.deepcopy(value.to_messages())).content in ("yes", "no")


def test_messages_that_a_host_joins_keep_all_of_their_text(chat, retriever, image):
    documents = retriever.invoke(QUESTION, image=image)
    two = ChatPromptTemplate.from_messages([("human", "{context}"), ("human", "{input}")])
    value = evidence_prompt(two).invoke({"context": documents, "input": QUESTION})
    apart = chat.invoke(value).response_metadata["mrrag"]
    joined = chat.invoke(merge_message_runs(value.to_messages())).response_metadata["mrrag"]
    assert joined["document_ids"] == apart["document_ids"]
    assert joined["p_yes"] == pytest.approx(apart["p_yes"], abs=1e-6)
    value.messages[0].content = "Something else."
    with pytest.raises(EvidenceError, match="neither documents"):
        chat.invoke(value)


def test_token_counts_are_the_models_own_and_without_markers(hospital, chat, image):
    stamped = MRRAGRetriever(hospital.index, image=image, stamped=True).invoke(QUESTION)
    (clean,) = without_markers(stamped[:1])
    assert chat.get_num_tokens(stamped[0].page_content) == chat.get_num_tokens(clean.page_content)
    assert chat.get_num_tokens_from_messages([HumanMessage(clean.page_content)]) > 0


def test_marker_like_text_in_a_report_or_question_is_data(chat, retriever, image):
    fake = "[[mrrag:AAAAAAAAAAAAAAAAAAAA:b0]] Is there edema?"
    chain = {"context": retriever, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat
    with query_image(image):
        assert chain.invoke(fake).response_metadata["mrrag"]["steering"]["applied"]
