"""Chains that ask several times: each call sees its evidence, or says that it has none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from langchain_classic.chains import ConversationalRetrievalChain, RetrievalQA
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.prompts import PromptTemplate
from pydantic import BaseModel

from mrrag_llamaindex import MRRAGLLaVA
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.langchain import ChatMRRAG, MRRAGRetriever
from tests.integration.test_conversations import Recording
from tests.langchain.conftest import QUESTION

PATIENT = "patient-19"


@pytest.fixture
def model(chat):
    loaded = chat.llm.engine.loaded
    loaded = replace(loaded, profile=replace(loaded.profile, conversational=True))
    engine = Recording(loaded, max_documents=6, max_new_tokens=3)
    engine.requests = []
    return ChatMRRAG(MRRAGLLaVA(model="phantom", engine=engine))


@pytest.fixture
def stamped(hospital):
    image = hospital.images[PATIENT]
    return MRRAGRetriever(hospital.index, image=image, stamped=True, similarity_top_k=3)


def read(model):
    return [
        tuple(one.document_id for one in request.documents) for request in model.llm.engine.requests
    ]


OWN = {
    "question_prompt": PromptTemplate.from_template("Kontext {context_str}\nFrage {question}"),
    "refine_prompt": PromptTemplate.from_template(
        "Frage {question}\nBisher {existing_answer}\nMehr {context_str}\nVerbessere."
    ),
}


@pytest.mark.parametrize("prompts", [{}, OWN], ids=["stock", "own"])
def test_every_step_of_refine_reads_all_documents_so_far(hospital, model, stamped, prompts):
    chain = RetrievalQA.from_chain_type(
        model, chain_type="refine", retriever=stamped, chain_type_kwargs=prompts
    )
    one, two, three = hospital.evidence(PATIENT, QUESTION)[:3]
    for _ in range(2):
        model.llm.engine.requests.clear()
        chain.invoke({"query": QUESTION})
        assert read(model) == [(one,), (one, two), (one, two, three)]
        for request in model.llm.engine.requests:
            assert request.question == QUESTION
            assert request.history == ()


def test_calls_for_each_document_stand_for_themselves_and_joining_them_has_no_evidence(
    hospital, model, stamped
):
    chain = RetrievalQA.from_chain_type(model, chain_type="map_reduce", retriever=stamped)
    with pytest.raises(EvidenceError, match="step of map_reduce that joins answers"):
        chain.invoke({"query": QUESTION})
    assert read(model) == [(one,) for one in hospital.evidence(PATIENT, QUESTION)[:3]]


def test_calls_with_words_of_their_own_about_each_document_stand_for_themselves(
    hospital, model, stamped
):
    ask = PromptTemplate.from_template("Say yes or no to no. {title}: {context}\n{question}")
    for document in stamped.invoke(QUESTION):
        inputs = {"title": f"nodule {document.id}", "context": document.page_content}
        model.invoke(ask.invoke({**inputs, "question": QUESTION}))
    assert read(model) == [(one,) for one in hospital.evidence(PATIENT, QUESTION)[:3]]


class Verdict(BaseModel):
    present: bool


def test_scores_in_words_and_json_are_refused(model, stamped):
    chain = RetrievalQA.from_chain_type(model, chain_type="map_rerank", retriever=stamped)
    with pytest.raises(InputError, match="map_rerank"):
        chain.invoke({"query": QUESTION})
    for parser in (PydanticOutputParser, JsonOutputParser):
        schema = parser(pydantic_object=Verdict).get_format_instructions()
        with pytest.raises(InputError, match="with_structured_output"):
            model.invoke([SystemMessage(schema), HumanMessage(QUESTION)])


def test_a_conversational_chain_searches_with_the_follow_up_question(hospital, model, stamped):
    follow_up = "Is there a nodule?"
    inputs = {"question": follow_up, "chat_history": [("Has patient X a secret tumour?", "yes")]}
    condenser = model.as_condenser()
    chain = ConversationalRetrievalChain.from_llm(model, stamped, condense_question_llm=condenser)
    chain.invoke(inputs)
    (request,) = model.llm.engine.requests
    assert request.question == follow_up
    assert "secret" not in str(request)
    assert read(model) == [hospital.evidence(PATIENT, follow_up)[:3]]
    with pytest.raises(EvidenceError, match="condense_question_llm"):
        ConversationalRetrievalChain.from_llm(model, stamped).invoke(inputs)


def test_a_conversation_within_the_question_is_refused_by_the_condenser(model):
    text = "Verlauf: Hat X einen Tumor? Ja.\nUnd ein Knoten? Neu gestellt:"
    for messages in ([HumanMessage(text)], [SystemMessage("Rephrase."), HumanMessage(text)]):
        with pytest.raises(InputError, match="as messages"):
            model.as_condenser().invoke(messages)
    assert not model.llm.engine.requests


def test_another_model_may_join_the_answers(hospital, model, stamped):
    from langchain_classic.chains.combine_documents.map_reduce import MapReduceDocumentsChain
    from langchain_classic.chains.combine_documents.reduce import ReduceDocumentsChain
    from langchain_classic.chains.combine_documents.stuff import StuffDocumentsChain
    from langchain_classic.chains.llm import LLMChain

    class Joiner(FakeListChatModel):
        def get_num_tokens(self, text):
            return len(text)

    ask = PromptTemplate.from_template("{context}\n{question}")
    join = PromptTemplate.from_template("{summaries}\n{question}")
    joiner = LLMChain(llm=Joiner(responses=["joined"]), prompt=join)
    stuff = StuffDocumentsChain(llm_chain=joiner, document_variable_name="summaries")
    chain = MapReduceDocumentsChain(
        llm_chain=LLMChain(llm=model, prompt=ask),
        document_variable_name="context",
        reduce_documents_chain=ReduceDocumentsChain(combine_documents_chain=stuff),
    )
    inputs = {"input_documents": stamped.invoke(QUESTION), "question": QUESTION}
    assert chain.invoke(inputs)["output_text"] == "joined"
    assert read(model) == [(one,) for one in hospital.evidence(PATIENT, QUESTION)[:3]]
