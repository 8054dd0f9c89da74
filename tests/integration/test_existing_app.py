"""Chat engines, agents, foreign retrievers and foreign LLMs."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from llama_index.core import MockEmbedding, QueryBundle, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    TextNode,
)
from llama_index.core.tools import QueryEngineTool

from mrrag_llamaindex import (
    IFA,
    HardMask,
    MRRAGLLaVA,
    MRRAGPostprocessor,
    answer_trace,
    query_image,
)
from mrrag_llamaindex.errors import EvidenceError, InputError, ModelError, StoreError
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.integration.tickets.nodes import ticket_of
from mrrag_llamaindex.steering.policies.registry import POLICIES

QUESTION = "Is there a pleural effusion?"


@pytest.fixture(scope="module")
def plain_app(hospital):
    """An app as it was before: reports in a VectorStoreIndex, no image, no score for the LLM."""
    stored = hospital.index.store.get([f"patient-{n:02d}/0" for n in range(12)])
    nodes = [TextNode(id_=pair.pair_id, text=pair.report) for pair in stored.values()]
    return VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=8))


def test_plain_index_with_our_llm_alone_is_refused(plain_app, llm, image):
    engine = plain_app.as_query_engine(llm=llm)
    with pytest.raises(EvidenceError, match="got no evidence"):
        engine.query(QueryBundle(QUESTION, image_path=str(image)))


def test_postprocessor_gives_a_plain_index_scores_image_and_steering(
    plain_app, hospital, llm, image
):
    engine = plain_app.as_query_engine(
        llm=llm,
        similarity_top_k=8,
        node_postprocessors=[MRRAGPostprocessor(hospital.index, llm=llm)],
    )
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    (answer,) = answer_trace(response.source_nodes)
    assert answer.steering.applied
    assert len(answer.document_ids) == 6
    scores = [item.score for item in response.source_nodes]
    assert scores == sorted(scores, reverse=True)
    facts = response.source_nodes[0].node.metadata["mrrag"]
    known = hospital.index.store.score(
        [response.source_nodes[0].node.node_id],
        hospital.index.towers.embed_images([load_image(image)])[0],
        hospital.index.towers.embed_texts([QUESTION])[0],
        hospital.index.weights,
    )
    (hit,) = known.values()
    assert facts["score"] == pytest.approx(hit.score, abs=1e-6)
    assert "previous_score" in facts


def rescored(hospital, image, nodes, **options):
    postprocessor = MRRAGPostprocessor(hospital.index, **options)
    bundle = QueryBundle(QUESTION, image_path=str(image))
    return postprocessor.postprocess_nodes(nodes, query_bundle=bundle)


def foreign(text: str = "No pleural effusion.") -> NodeWithScore:
    return NodeWithScore(node=TextNode(id_="foreign", text=text), score=0.3)


def test_unknown_node_is_embedded_on_the_fly(hospital, image):
    (item,) = rescored(hospital, image, [foreign()])
    facts = item.node.metadata["mrrag"]
    assert facts["image_image"] == 0.0
    assert item.score == pytest.approx(facts["image_text"] + facts["text_text"])
    vector = hospital.index.towers.embed_texts(["No pleural effusion."])[0]
    question = hospital.index.towers.embed_texts([QUESTION])[0]
    assert facts["text_text"] == pytest.approx(float(vector @ question), abs=1e-5)


def test_unknown_node_can_be_kept_last_without_a_score(hospital, image):
    stored = hospital.index.store.get(["patient-07/0", "patient-08/0"])
    nodes = [foreign()] + [
        NodeWithScore(node=TextNode(id_=pair.pair_id, text=pair.report)) for pair in stored.values()
    ]
    items = rescored(hospital, image, nodes, unknown="keep")
    assert [item.score is None for item in items] == [False, False, True]
    assert items[-1].node.metadata["mrrag"]["lambda"] == 0.0


def test_image_nodes_of_known_pairs_are_found_and_their_reports_read(hospital, llm, image):
    """A multi-modal index holds images, in any of these forms, and no report."""
    path = str(Path(hospital.images["patient-07"]).parent / "patient-07-0.png")
    data = base64.b64encode(Path(path).read_bytes()).decode()
    known = hospital.index.store.get(["patient-07/0"])["patient-07/0"]
    forms = [
        ImageNode(id_="patient-07/0", image_path=path),
        ImageNode(id_="patient-07/0", image=data),
        ImageNode(id_="patient-07/0", image_url=Path(path).as_uri()),
        Node(id_="patient-07/0", image_resource=MediaResource(path=path)),
    ]
    for form in forms:
        (item,) = rescored(hospital, image, [NodeWithScore(node=form)], llm=llm)
        assert known.report in item.node.get_content(MetadataMode.LLM)
        (unknown,) = rescored(
            hospital, image, [NodeWithScore(node=form.model_copy(update={"id_": "elsewhere"}))]
        )
        terms = [one.node.metadata["mrrag"]["image_image"] for one in (item, unknown)]
        assert terms[0] == pytest.approx(terms[1], abs=1e-5)


def test_unknown_node_can_be_refused_by_name(hospital, image):
    with pytest.raises(EvidenceError, match="'foreign'"):
        rescored(hospital, image, [foreign()], unknown="error")


def test_postprocessor_leaves_its_inputs_untouched_and_empty_stays_empty(hospital, image):
    item = foreign()
    before = item.model_dump()
    rescored(hospital, image, [item])
    assert item.model_dump() == before
    assert rescored(hospital, image, []) == []


def test_postprocessor_after_our_retriever_issues_one_new_ticket(hospital, llm, image):
    """Merged results of two retrievals would otherwise carry two tickets."""
    bundle = QueryBundle(QUESTION, image_path=str(image))
    retriever = hospital.index.as_retriever(llm=llm)
    other = QueryBundle(QUESTION, image_path=hospital.images["patient-08"])
    nodes = [*retriever.retrieve(bundle), *retriever.retrieve(other)[:2]]
    engine = hospital.index.as_query_engine(llm=llm)
    with pytest.raises(EvidenceError, match="evidence of 2 questions"):
        engine.synthesize(QueryBundle(QUESTION), nodes)
    with pytest.raises(EvidenceError, match="another image"):
        engine.synthesize(bundle, nodes)
    with pytest.raises(EvidenceError, match="different images"):
        rescored(hospital, image, nodes)
    nodes = [*retriever.retrieve(bundle), *retriever.retrieve(bundle)[:2]]
    merged = rescored(hospital, image, nodes, llm=llm)
    assert len({id(ticket_of(item.node)) for item in merged}) == 1
    assert answer_trace(engine.synthesize(bundle, merged).source_nodes)


def test_missing_bundle_is_an_error(hospital):
    with pytest.raises(InputError, match="query_bundle"):
        MRRAGPostprocessor(hospital.index).postprocess_nodes([foreign()])


def test_other_towers_are_refused_at_construction(hospital):
    class Renamed:
        identity = "other@0123456789abcdef"

    with pytest.raises(StoreError, match="other@"):
        MRRAGPostprocessor(store=hospital.index.store, towers=Renamed())


def test_rerank_events_are_sent(hospital, image):
    seen: list[str] = []

    class Handler(BaseEventHandler):
        def handle(self, event, **_):
            seen.append(event.class_name())

    dispatcher = get_dispatcher()
    handler = Handler()
    dispatcher.add_event_handler(handler)
    try:
        rescored(hospital, image, [foreign()])
    finally:
        dispatcher.event_handlers.remove(handler)
    assert seen == ["ReRankStartEvent", "ReRankEndEvent"]


@pytest.mark.parametrize("mode", [ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT])
def test_chat_engine_keeps_evidence_of_each_turn_and_memory_stays_clean(hospital, llm, image, mode):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm)
    with query_image(str(image)):
        for question in (QUESTION, "Is there a nodule?"):
            response = chat.chat(question)
            (answer,) = answer_trace(response.source_nodes)
            assert answer.document_ids == hospital.evidence("patient-07", question)
            assert answer.steering.applied
    assert "mrrag:" not in str(chat.chat_history)
    assert "mrrag:" not in str(response)


async def test_stream_chat_and_achat(hospital, llm, image):
    chat = hospital.index.as_chat_engine(chat_mode=ChatMode.CONTEXT, llm=llm)
    with query_image(str(image)):
        streamed = chat.stream_chat(QUESTION)
        text = "".join(streamed.response_gen)
        answered = await chat.achat(QUESTION)
    assert text.strip() == str(answered).strip()
    assert answer_trace(answered.source_nodes)[0].steering.applied


def test_chat_without_query_image_is_refused(hospital, llm):
    chat = hospital.index.as_chat_engine(chat_mode=ChatMode.CONTEXT, llm=llm)
    with pytest.raises(InputError, match="query_image"):
        chat.chat(QUESTION)


class CallsTheTool(FunctionCallingLLM):
    """A scripted agent LLM: first it calls the tool, then it repeats what the tool said."""

    question: str = QUESTION

    @classmethod
    def about(cls, question):
        return cls(question=question)

    @property
    def metadata(self):
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True)

    def _reply(self, messages):
        last = messages[-1]
        if last.role == MessageRole.TOOL:
            return ChatMessage(role=MessageRole.ASSISTANT, content=f"The tool says: {last.content}")
        call = ToolCallBlock(
            tool_call_id="1", tool_name="ask_image", tool_kwargs={"input": self.question}
        )
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=[call])

    def _prepare_chat_with_tools(self, tools, user_msg=None, chat_history=None, **kwargs):
        messages = [*(chat_history or [])]
        if user_msg is not None:
            messages.append(ChatMessage(role=MessageRole.USER, content=str(user_msg)))
        return {"messages": messages}

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **kwargs):
        return [
            ToolSelection(
                tool_id=block.tool_call_id, tool_name=block.tool_name, tool_kwargs=block.tool_kwargs
            )
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]

    def chat(self, messages, **kwargs):
        return ChatResponse(message=self._reply(messages))

    async def achat(self, messages, **kwargs):
        return self.chat(messages)

    def stream_chat(self, messages, **kwargs):
        yield self.chat(messages)

    async def astream_chat(self, messages, **kwargs):
        async def pieces():
            yield self.chat(messages)

        return pieces()

    def complete(self, prompt, **kwargs):
        raise NotImplementedError

    stream_complete = acomplete = astream_complete = complete


class Reasons(MockLLM):
    """A scripted ReAct LLM that writes the steps of the ReAct format."""

    def _text(self, messages):
        if "Observation:" in str(messages[-1].content):
            return "Thought: I can answer.\nAnswer: done"
        return (
            f'Thought: I need a tool.\nAction: ask_image\nAction Input: {{"input": "{QUESTION}"}}'
        )

    async def astream_chat(self, messages, **kwargs):
        async def pieces():
            message = ChatMessage(role=MessageRole.ASSISTANT, content=self._text(messages))
            yield ChatResponse(message=message, delta=message.content)

        return pieces()

    async def achat(self, messages, **kwargs):
        message = ChatMessage(role=MessageRole.ASSISTANT, content=self._text(messages))
        return ChatResponse(message=message)


@pytest.mark.parametrize(("agent", "outer"), [(FunctionAgent, CallsTheTool), (ReActAgent, Reasons)])
async def test_agent_tool_answers_about_the_image_of_the_block(hospital, llm, image, agent, outer):
    engine = hospital.index.as_query_engine(llm=llm)
    tool = QueryEngineTool.from_defaults(engine, name="ask_image", description="Asks the image.")
    worker = agent(tools=[tool], llm=outer())
    with query_image(str(image)):
        output = await worker.run("Is there an effusion?")
    (result,) = [call.tool_output for call in output.tool_calls]
    assert not result.is_error, result.content
    (answer,) = answer_trace(result.raw_output.source_nodes)
    assert answer.document_ids == hospital.evidence("patient-07", QUESTION)


def test_foreign_llm_gets_scored_documents_and_no_markers(hospital, image):
    engine = hospital.index.as_query_engine(llm=MockLLM())
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    assert "mrrag" not in str(response)  # MockLLM repeats its prompt
    first = response.source_nodes[0].node
    assert first.metadata["mrrag"]["rank"] == 1
    assert first.get_content(metadata_mode=MetadataMode.LLM) == first.text


def test_llm_settings_round_trip_and_unknown_generation_settings_are_refused(llm):
    again = MRRAGLLaVA.from_dict(llm.to_dict())
    assert again.to_dict() == llm.to_dict()
    with pytest.raises(ModelError, match="temperature"):
        llm.complete("hello", temperature=0.5)


@pytest.mark.parametrize("name", POLICIES)
def test_any_policy_steers_and_survives_a_round_trip(hospital, image, name):
    policy = POLICIES[name]()
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2, policy=policy)
    response = hospital.index.as_query_engine(llm=llm).query(QueryBundle(QUESTION, str(image)))
    (answer,) = answer_trace(response.source_nodes)
    documents = [
        PromptDocument(item.node.node_id, item.node.get_content(), item.score)
        for item in response.source_nodes
    ]
    request = PromptRequest(QUESTION, documents)
    (expected,) = llm.engine.generate(
        [request], [load_image(image)], policy=policy, max_new_tokens=2
    )
    assert answer.steering == expected.steering
    assert answer.steering.applied
    assert (answer.p_yes, answer.p_no) == pytest.approx((expected.p_yes, expected.p_no), abs=2e-6)
    again = MRRAGLLaVA.from_dict(llm.to_dict())
    assert (again.policy, again.to_dict()) == (policy, llm.to_dict())


def test_two_ways_to_steer_are_one_too_many():
    with pytest.raises(ModelError, match="not both"):
        MRRAGLLaVA(model="phantom", ifa=IFA(), policy=HardMask())


async def test_eight_entry_points_give_one_answer(hospital, llm, image):
    with query_image(str(image)):
        nodes = hospital.index.as_retriever(stamped=True).retrieve(QUESTION)
    text = "\n\n".join(item.node.get_content(MetadataMode.LLM) for item in nodes)
    prompt = f"{text}\n\n{QUESTION}"
    messages = [ChatMessage(role=MessageRole.USER, content=prompt)]
    answers = [
        llm.complete(prompt).text,
        llm.chat(messages).message.content,
        list(llm.stream_complete(prompt))[-1].text,
        list(llm.stream_chat(messages))[-1].message.content,
        (await llm.acomplete(prompt)).text,
        (await llm.achat(messages)).message.content,
        [piece async for piece in await llm.astream_complete(prompt)][-1].text,
        [piece async for piece in await llm.astream_chat(messages)][-1].message.content,
    ]
    assert len({answer.strip() for answer in answers}) == 1
    assert answers[0]
