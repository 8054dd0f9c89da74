"""The usual chains: the right documents, the right image, steered, in every way to call them."""

from __future__ import annotations

import asyncio

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MergerRetriever,
)
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from llama_index.core import QueryBundle

from mrrag_llamaindex import answer_trace, query_image
from mrrag_llamaindex.integration.other_hosts.calls import question_call
from mrrag_llamaindex.integration.tickets.registry import TICKETS
from mrrag_llamaindex.integration.tickets.resolve import resolve
from mrrag_llamaindex.langchain import (
    MRRAGCompressor,
    MRRAGRetriever,
    create_stuff_documents_chain,
    evidence_prompt,
)
from mrrag_llamaindex.langchain.messages import rows_of
from tests.langchain.conftest import PROMPT, QUESTION

PATIENTS = [f"patient-{number:02d}" for number in range(6)]


@pytest.fixture(scope="module")
def app(chat, retriever):
    """``create_retrieval_chain``, whose inputs hold the question and its image."""
    stuff = create_stuff_documents_chain(chat, PROMPT, output_parser=StrOutputParser())
    return create_retrieval_chain(retriever.for_inputs(), stuff)


@pytest.fixture(scope="module")
def lcel(chat, retriever):
    """A chain put together by hand, which ends in the message with its facts."""
    return {"context": retriever, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat


def facts(message):
    return message.response_metadata["mrrag"]


def test_the_answer_is_that_of_llamaindex(hospital, chat, lcel, image):
    engine = hospital.index.as_query_engine(llm=chat.llm)
    (answer,) = answer_trace(engine.query(QueryBundle(QUESTION, image_path=image)).source_nodes)
    with query_image(image):
        message = lcel.invoke(QUESTION)
    assert message.content == answer.text
    assert facts(message)["document_ids"] == answer.document_ids
    assert facts(message)["p_yes"] == pytest.approx(answer.p_yes, abs=1e-6)
    assert facts(message)["lambdas"] == pytest.approx(answer.lambdas)
    assert facts(message)["steering"]["applied"]
    assert facts(message)["image_read"]
    assert message.response_metadata["model_name"] == "phantom"


def test_documents_hold_report_id_metadata_and_facts(hospital, retriever, image):
    documents = retriever.invoke(QUESTION, image=image)
    assert tuple(document.id for document in documents) == hospital.evidence("patient-07", QUESTION)
    first = documents[0]
    assert first.page_content == hospital.index.store.get([first.id])[first.id].report
    assert first.metadata["patient_id"] == first.id.partition("/")[0]
    assert first.metadata["mrrag"]["rank"] == 1
    assert first.metadata["mrrag"]["lambda"] == 1.0
    assert [d.metadata["mrrag"]["score"] for d in documents] == sorted(
        (d.metadata["mrrag"]["score"] for d in documents), reverse=True
    )


def test_a_retrieval_chain_at_once_and_streamed(app, image):
    inputs = {"input": QUESTION, "image": image}
    whole = app.invoke(inputs)
    pieces = [piece["answer"] for piece in app.stream(inputs) if "answer" in piece]
    assert "".join(pieces) == whole["answer"]
    assert [document.id for document in whole["context"]]


async def test_a_retrieval_chain_in_every_asynchronous_way(app, image):
    inputs = {"input": QUESTION, "image": image}
    whole = (await app.ainvoke(inputs))["answer"]
    pieces = [piece["answer"] async for piece in app.astream(inputs) if "answer" in piece]
    assert "".join(pieces) == whole
    events = [event async for event in app.astream_events(inputs, version="v2")]
    chunks = [e["data"]["chunk"].content for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(chunks) == whole
    ends = [e["data"]["output"] for e in events if e["event"] == "on_chat_model_end"]
    assert facts(ends[0])["steering"]["applied"]


def test_a_batch_gives_every_question_its_own_image(hospital, chat, retriever):
    chain = RunnablePassthrough.assign(context=retriever.for_inputs())
    chain = chain | evidence_prompt(PROMPT) | chat
    inputs = [{"input": QUESTION, "image": hospital.images[patient]} for patient in PATIENTS]
    expected = [hospital.evidence(patient, QUESTION) for patient in PATIENTS]
    messages = chain.batch(inputs)
    assert [facts(message)["document_ids"] for message in messages] == expected
    messages = asyncio.run(chain.abatch(inputs))
    assert [facts(message)["document_ids"] for message in messages] == expected


def test_parallel_chains_about_two_patients_stay_apart(hospital, chat):
    def about(patient: str):
        retriever = MRRAGRetriever(hospital.index, image=hospital.images[patient])
        context = {"context": retriever, "input": RunnablePassthrough()}
        return context | evidence_prompt(PROMPT) | chat

    both = RunnableParallel(one=about("patient-01"), two=about("patient-02"))
    result = both.invoke(QUESTION)
    assert facts(result["one"])["document_ids"] == hospital.evidence("patient-01", QUESTION)
    assert facts(result["two"])["document_ids"] == hospital.evidence("patient-02", QUESTION)


@pytest.mark.parametrize("words", ["Kontext:\n{context}\n\nFrage: {input}", "{input} {context}"])
def test_any_wording_of_one_message_in_any_language(hospital, chat, retriever, image, words):
    for template in (PromptTemplate, ChatPromptTemplate):
        prompt = evidence_prompt(template.from_template(words))
        chain = {"context": retriever, "input": RunnablePassthrough()} | prompt | chat
        with query_image(image):
            message = chain.invoke(QUESTION)
        assert facts(message)["document_ids"] == hospital.evidence("patient-07", QUESTION)
        assert facts(message)["steering"]["applied"]


def test_what_a_document_prompt_writes_is_read_with_its_document(chat, retriever, image, observer):
    labelled = PromptTemplate.from_template("Study {pair_id}: {page_content}")
    chain = evidence_prompt(PROMPT, document_prompt=labelled, document_separator="\n---\n") | chat
    documents = retriever.invoke(QUESTION, image=image)
    inputs = {"context": documents, "input": QUESTION}
    message = chain.invoke(inputs, {"callbacks": [observer]})
    shown = [f"Study {document.id}: {document.page_content}" for document in documents]
    assert observer.prompts[0] == "\n---\n".join(shown)
    assert facts(message)["document_ids"] == tuple(document.id for document in documents)
    call = question_call(
        rows_of(evidence_prompt(PROMPT, document_prompt=labelled).invoke(inputs).to_messages()), ""
    )
    texts = [document.text for document in resolve(call, TICKETS, "error").request.documents]
    assert texts == shown


class Ward(BaseRetriever):
    """Another retriever: some pairs of ours without image and score, and a note."""

    def _get_relevant_documents(self, query, *, run_manager):
        notes = [Document(id="note", page_content="No fracture.")]
        return [Document(id=f"{p}/0", page_content="There is edema.") for p in PATIENTS] + notes


def test_compressor_ranks_the_documents_of_any_retriever(hospital, chat, image):
    ranked = ContextualCompressionRetriever(
        base_retriever=Ward(), base_compressor=MRRAGCompressor(hospital.index, top_n=3, image=image)
    )
    documents = ranked.invoke(QUESTION)
    assert len(documents) == 3
    scores = [document.metadata["mrrag"]["score"] for document in documents]
    hits = {
        hit.pair_id: hit.score
        for hit in hospital.index.as_retriever(candidates=150).hits(QUESTION, image)
    }
    known = {d.id: score for d, score in zip(documents, scores, strict=True) if d.id in hits}
    assert known == pytest.approx({name: hits[name] for name in known}, abs=1e-5)
    assert known
    chain = {"context": ranked, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat
    message = chain.invoke(QUESTION)
    assert set(facts(message)["document_ids"]) == {document.id for document in documents}
    assert facts(message)["steering"]["applied"]
    again = asyncio.run(chain.ainvoke(QUESTION))
    assert facts(again)["document_ids"] == facts(message)["document_ids"]


def test_reports_of_another_retriever_are_documents_of_their_own_unscored(chat, retriever, image):
    merged = MergerRetriever(retrievers=[retriever, Ward()])
    chain = {"context": merged, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat
    with query_image(image):
        message = chain.invoke(QUESTION)
    read = {*facts(message)["document_ids"], *facts(message)["dropped"]}
    assert "note" in read
    assert facts(message)["lambdas"].get("note", 0.0) == 0.0


def test_fusion_of_two_retrievals_for_one_image_keeps_the_evidence(hospital, chat, image):
    two = [MRRAGRetriever(hospital.index, image=image, similarity_top_k=k) for k in (3, 4)]
    # Reports may have the same words: without id_key the host would take them for one document.
    fused = EnsembleRetriever(retrievers=two, id_key="pair_id")
    chain = {"context": fused, "input": RunnablePassthrough()} | evidence_prompt(PROMPT) | chat
    message = chain.invoke(QUESTION)
    assert facts(message)["document_ids"] == hospital.evidence("patient-07", QUESTION)[:4]
    assert facts(message)["steering"]["applied"]
