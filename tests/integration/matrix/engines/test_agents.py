"""Agents: another LLM decides, ours answers about the image of the block."""

from __future__ import annotations

import pytest
from llama_index.core.agent.workflow import (
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms import MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool, QueryEngineTool

from mrrag_llamaindex import query_image
from mrrag_llamaindex.errors import EvidenceError
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER

pytestmark = pytest.mark.slow

SECOND = "Is there a nodule?"


class Calls(FunctionCallingLLM):
    """A scripted agent: it calls the tool with each question, then says it is done."""

    questions: tuple[str, ...] = (QUESTION,)

    @property
    def metadata(self):
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True)

    def _reply(self, messages):
        assert not [m for m in messages if MARKER in str(m.content)]
        if messages[-1].role == MessageRole.TOOL:
            return ChatMessage(role=MessageRole.ASSISTANT, content="done")
        blocks = [
            ToolCallBlock(tool_call_id=str(n), tool_name="ask", tool_kwargs={"input": question})
            for n, question in enumerate(self.questions)
        ]
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)

    def _prepare_chat_with_tools(self, tools, user_msg=None, chat_history=None, **_):
        user = [] if user_msg is None else [ChatMessage(role="user", content=str(user_msg))]
        return {"messages": [*(chat_history or []), *user]}

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **_):
        return [
            ToolSelection(tool_id=b.tool_call_id, tool_name=b.tool_name, tool_kwargs=b.tool_kwargs)
            for b in response.message.blocks
            if isinstance(b, ToolCallBlock)
        ]

    def chat(self, messages, **_):
        return ChatResponse(message=self._reply(messages))

    async def achat(self, messages, **_):
        return self.chat(messages)

    async def astream_chat(self, messages, **_):
        async def pieces():
            yield self.chat(messages)

        return pieces()

    def stream_chat(self, messages, **_):
        raise NotImplementedError

    complete = stream_complete = acomplete = astream_complete = stream_chat


class Writes(MockLLM):
    """A scripted agent that writes its steps as text."""

    first: str = ""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def _text(self, messages):
        assert not [m for m in messages if MARKER in str(m.content)]
        acted = "Observation:" in str(messages[-1].content) or "Result" in str(messages[-1].content)
        return "Thought: I can answer.\nAnswer: done" if acted else self.first

    async def achat(self, messages, **_):
        message = ChatMessage(role=MessageRole.ASSISTANT, content=self._text(messages))
        return ChatResponse(message=message)

    async def astream_chat(self, messages, **_):
        response = await self.achat(messages)

        async def pieces():
            yield ChatResponse(message=response.message, delta=response.message.content)

        return pieces()


REACT = f'Thought: I need a tool.\nAction: ask\nAction Input: {{"input": "{QUESTION}"}}'


@pytest.fixture
def tool(hospital, llm) -> QueryEngineTool:
    engine = hospital.index.as_query_engine(llm)
    return QueryEngineTool.from_defaults(engine, name="ask", description="Asks about the film.")


def agents(tool):
    return {
        "function": FunctionAgent(name="a", description="d", tools=[tool], llm=Calls()),
        "function, twice": FunctionAgent(
            name="a", description="d", tools=[tool], llm=Calls(questions=(QUESTION, SECOND))
        ),
        "react": ReActAgent(name="a", description="d", tools=[tool], llm=Writes(REACT)),
    }


@pytest.mark.parametrize("within", ["agent", "workflow"])
@pytest.mark.parametrize("name", ["function", "function, twice", "react"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_agent_asks_about_the_image(hospital, tool, checks, name, within, streaming):
    agent = agents(tool)[name]
    agent.streaming = streaming
    runner = AgentWorkflow(agents=[agent], root_agent="a") if within == "workflow" else agent
    with query_image(hospital.images[PATIENT]):
        handler = runner.run("What is there?")
        results = [e async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
        output = await handler
    assert str(output) == "done"
    asked = [QUESTION, SECOND] if "twice" in name else [QUESTION]
    assert len(results) == len(asked)
    for result in results:
        assert not result.tool_output.is_error, result.tool_output.content
        assert MARKER not in result.tool_output.content
        checks.answered(result.tool_output.raw_output, result.tool_kwargs["input"])


async def test_agent_awaited_after_its_block_still_knows_or_says(hospital, tool, checks):
    """A task keeps the block it was started in, and an ended block is no answer."""
    with query_image(hospital.images[PATIENT]):
        handler = agents(tool)["function"].run("What is there?")
    results = [e async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
    await handler
    (result,) = results
    if result.tool_output.is_error:
        assert "ended since" in result.tool_output.content
    else:
        checks.answered(result.tool_output.raw_output)


async def test_agent_without_an_image_reads_the_error(tool):
    handler = agents(tool)["function"].run("What is there?")
    (result,) = [e async for e in handler.stream_events() if isinstance(e, ToolCallResult)]
    await handler
    assert result.tool_output.is_error
    assert "has no image" in result.tool_output.content


@pytest.mark.parametrize("kind", [FunctionAgent, ReActAgent])
async def test_our_llm_as_the_agent_itself_is_refused(llm, tool, kind):
    with pytest.raises((EvidenceError, ValueError), match=r"as a tool|FunctionCallingLLM"):
        await kind(tools=[tool], llm=llm).run("What is there?")


async def test_agent_that_writes_code(hospital, tool, checks):
    outputs = []

    def ask(question: str) -> str:
        outputs.append(hospital_engine.query(question))
        return str(outputs[-1])

    async def execute(code: str) -> str:
        scope: dict[str, object] = {"ask": ask}
        exec(code, scope)
        return f"Result: {scope['answer']}"

    hospital_engine = tool.query_engine
    code = f"<execute>\nanswer = ask('{QUESTION}')\n</execute>"
    agent = CodeActAgent(
        code_execute_fn=execute, tools=[FunctionTool.from_defaults(ask)], llm=Writes(code)
    )
    with query_image(hospital.images[PATIENT]):
        await agent.run("What is there?")
    (response,) = outputs
    checks.answered(response)
