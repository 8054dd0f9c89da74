"""Who reads a ticketed node: `MRRAGLLaVA` sees markers, and all else that asks for text none."""

from __future__ import annotations

import pytest
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.postprocessor import LLMRerank, PIINodePostprocessor
from llama_index.core.query_engine import CustomQueryEngine, RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode
from llama_index.core.tools import RetrieverTool

from mrrag_llamaindex import MRRAGPostprocessor, answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.integration.tickets.registry import TICKETS
from tests.integration.matrix.asking import SECOND, Reports, ask, query_ways
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM


@pytest.fixture(params=["retriever", "retriever for ours", "postprocessor", "postprocessor first"])
def steps(request, hospital, llm):
    """Every way to a ticket outside the index's engines: a retriever, and postprocessors."""
    index = hospital.index
    pairs = index.store.get(list(hospital.evidence(PATIENT, QUESTION)))
    return {
        "retriever": lambda: (index.as_retriever(), []),
        "retriever for ours": lambda: (index.as_retriever(llm=llm), []),
        "postprocessor": lambda: (Reports(list(pairs.values())), [MRRAGPostprocessor(index)]),
        "postprocessor first": lambda: (index.as_retriever(), [MRRAGPostprocessor(index, llm=llm)]),
    }[request.param]()


@query_ways
async def test_engine_of_ours_is_steered_without_being_told(llm, checks, steps, way):
    retriever, postprocessors = steps
    engine = RetrieverQueryEngine.from_args(retriever, llm, node_postprocessors=postprocessors)
    checks.answered(await ask(engine, checks.bundle(), way))


@pytest.mark.parametrize("mode", list(ResponseMode))
@query_ways
async def test_another_llm_reads_plain_text_in_every_mode(other, checks, steps, mode, way):
    retriever, postprocessors = steps
    engine = RetrieverQueryEngine.from_args(
        retriever, other, node_postprocessors=postprocessors, response_mode=mode
    )
    response = await ask(engine, checks.bundle(), way)
    assert MARKER not in str(response)
    checks.nodes(response.source_nodes)
    assert not [n for n in response.source_nodes if MARKER in n.get_content(MetadataMode.LLM)]
    with pytest.raises(EvidenceError, match="another LLM's"):
        answer_trace(response)


def test_context_only_of_ours_shows_the_user_plain_text(llm, checks, steps):
    retriever, postprocessors = steps
    engine = RetrieverQueryEngine.from_args(
        retriever, llm, node_postprocessors=postprocessors, response_mode="context_only"
    )
    text = str(engine.query(checks.bundle()))
    assert "There is" in text
    assert MARKER not in text


def test_steps_between_read_plain_text(llm, checks, steps):
    """A reranker and a masker by another LLM, with prompts of the app, behind the tickets."""
    retriever, postprocessors = steps
    reranker, masker = OtherLLM(), OtherLLM(reply="There is a nodule.\nOutput Mapping:\n{}")
    engine = RetrieverQueryEngine.from_args(
        retriever,
        llm,
        node_postprocessors=[
            *postprocessors,
            LLMRerank(
                llm=reranker,
                format_node_batch_fn=lambda nodes: "\n".join(
                    node.get_content(MetadataMode.LLM) for node in nodes
                ),
                parse_choice_select_answer_fn=lambda *_: ([2, 1], [5.0, 3.0]),
            ),
            PIINodePostprocessor(llm=masker),
        ],
    )
    response = engine.query(checks.bundle())
    assert reranker.prompts
    assert masker.prompts
    assert not [text for text in (*reranker.prompts, *masker.prompts) if MARKER in text]
    (answer,) = answer_trace(response)
    assert answer.steering.applied


def test_retriever_as_a_tool_of_another_llm(hospital, llm):
    for options in ({}, {"llm": llm}):
        retriever = hospital.index.as_retriever(image=hospital.images[PATIENT], **options)
        content = RetrieverTool.from_defaults(retriever, description="pairs").call(QUESTION).content
        assert "There is" in content
        assert MARKER not in content


def test_sources_of_an_answer_are_plain_to_whoever_reads_them_next(hospital, engine, other, checks):
    response = engine.query(checks.bundle())
    texts = [item.get_content(metadata_mode=MetadataMode.LLM) for item in response.source_nodes]
    assert texts
    assert not [text for text in texts if MARKER in text]
    get_response_synthesizer(llm=other).synthesize(QUESTION, response.source_nodes)
    assert other.prompts


def test_engine_given_another_synthesizer_later(engine, other, checks):
    engine._response_synthesizer = get_response_synthesizer(llm=other)
    assert str(engine.query(checks.bundle())) == "yes"


class Packs(CustomQueryEngine):
    """An engine as an app writes it: it packs the prompt itself."""

    retriever: object
    llm: object

    def custom_query(self, query_str):
        nodes = self.retriever.retrieve(query_str)
        text = "\n\n".join(node.get_content(metadata_mode=MetadataMode.LLM) for node in nodes)
        return self.llm.complete(f"{text}\n\n{query_str}").text


def test_engine_of_an_app_that_packs_the_prompt_itself(hospital, llm, other, model):
    retriever = hospital.index.as_retriever(image=hospital.images[PATIENT])
    assert str(Packs(retriever=retriever, llm=llm).query(QUESTION))
    (request,) = model.requests
    assert [d.document_id for d in request.documents] == list(hospital.evidence(PATIENT, QUESTION))
    assert str(Packs(retriever=retriever, llm=other).query(QUESTION)) == "yes"


@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
def test_chat_engines_put_together_by_hand(hospital, llm, other, checks, kind):
    image = hospital.images[PATIENT]
    chat = kind.from_defaults(retriever=hospital.index.as_retriever(image=image), llm=llm)
    checks.answered(chat.chat(QUESTION))
    chat = kind.from_defaults(retriever=hospital.index.as_retriever(image=image), llm=other)
    assert str(chat.chat(SECOND)) == "yes"


def test_an_app_s_own_code_sees_markers_only_where_it_says_so(hospital, checks):
    step = MRRAGPostprocessor(hospital.index, stamped=True)
    asked = checks.bundle()
    plain = hospital.index.as_retriever().retrieve(asked)
    told = hospital.index.as_retriever(stamped=True).retrieve(asked)
    rescored = step.postprocess_nodes(plain, query_bundle=asked)
    for nodes, seen in ((plain, False), (told, True), (rescored, True)):
        texts = [item.node.get_content(metadata_mode=MetadataMode.LLM) for item in nodes]
        assert [MARKER in text for text in texts] == [seen] * len(nodes)


@pytest.mark.parametrize("options", [{"stamped": False}, {"llm": OtherLLM()}])
def test_no_ticket_at_all(hospital, llm, checks, options):
    nodes = hospital.index.as_retriever(**options).retrieve(checks.bundle())
    with pytest.raises(EvidenceError, match="without a ticket"):
        get_response_synthesizer(llm=llm).synthesize(QUESTION, nodes)


def test_retrieval_alone_holds_no_evidence(hospital, checks):
    """Tickets that nobody reads would drive out those of questions that are being answered."""
    before = set(TICKETS._tickets)
    hospital.index.as_retriever().retrieve(checks.bundle())
    assert set(TICKETS._tickets) == before


def test_nodes_kept_for_long_are_answered_from(hospital, llm, checks, monkeypatch):
    with query_image(hospital.images[PATIENT]):
        nodes = hospital.index.as_retriever().retrieve(QUESTION)
    synthesizer = get_response_synthesizer(llm=llm)
    synthesizer.synthesize(QUESTION, nodes)
    monkeypatch.setattr(TICKETS, "_tickets", type(TICKETS._tickets)())
    checks.answered(synthesizer.synthesize(QUESTION, nodes))


def test_our_class_is_known_behind_a_schema(llm):
    from llama_index.core.bridge.pydantic import BaseModel

    from mrrag_llamaindex.integration.tickets.readers import reads_tickets

    class Finding(BaseModel):
        present: bool

    assert reads_tickets(llm)
    assert reads_tickets(llm.as_structured_llm(Finding))
    assert not reads_tickets(OtherLLM())
    assert not reads_tickets(None)


class Kept(BaseRetriever):
    """A retriever of an app that keeps nodes by the words of their question."""

    def __init__(self, retriever):
        super().__init__()
        self.retriever, self.known = retriever, {}

    def _retrieve(self, query_bundle):
        words = query_bundle.query_str
        if words not in self.known:
            self.known[words] = self.retriever.retrieve(query_bundle)
        return self.known[words]


@query_ways
async def test_nodes_kept_from_another_patient_are_refused(hospital, llm, checks, way):
    retriever = Kept(hospital.index.as_retriever())
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm)
    checks.answered(await ask(engine, checks.bundle(), way))
    checks.answered(await ask(engine, checks.bundle(), way))
    with pytest.raises(EvidenceError, match="another image"):
        await ask(engine, checks.bundle(patient="patient-08"), way)
    with (
        pytest.raises(EvidenceError, match="another image"),
        query_image(hospital.images["patient-08"]),
    ):
        await ask(engine, QUESTION, way)
    with query_image(hospital.images[PATIENT]):
        checks.answered(await ask(engine, QUESTION, way))


def test_chat_over_nodes_kept_from_another_patient_is_refused(hospital, llm, checks):
    chat = ContextChatEngine.from_defaults(retriever=Kept(hospital.index.as_retriever()), llm=llm)
    with query_image(hospital.images[PATIENT]):
        checks.answered(chat.chat(QUESTION))
    with query_image(hospital.images["patient-08"]), pytest.raises(EvidenceError, match="another"):
        chat.chat(QUESTION)
