"""Workflows and tools of an app around our engines."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core import QueryBundle
from llama_index.core.evaluation import RelevancyEvaluator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.tools.eval_query_engine import EvalQueryEngineTool
from llama_index.core.tools.query_plan import QueryPlanTool
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step

from mrrag_llamaindex import answer_trace, query_image
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM

pytestmark = pytest.mark.slow


@pytest.fixture
def tool(hospital, llm) -> QueryEngineTool:
    engine = hospital.index.as_query_engine(llm)
    return QueryEngineTool.from_defaults(engine, name="ask", description="Asks about the film.")


async def test_function_tool_around_an_engine(hospital, tool, checks):
    def ask(question: str):
        """Ask about the film."""
        return tool.query_engine.query(question)

    async def ask_later(question: str):
        """Ask about the film."""
        return await tool.query_engine.aquery(question)

    with query_image(hospital.images[PATIENT]):
        outputs = [
            FunctionTool.from_defaults(ask).call(QUESTION),
            await FunctionTool.from_defaults(ask).acall(QUESTION),
            await FunctionTool.from_defaults(async_fn=ask_later).acall(QUESTION),
        ]
    for output in outputs:
        checks.answered(output.raw_output)


def test_tool_that_judges_its_answer(hospital, tool, checks):
    judge = OtherLLM(reply="YES")
    judged = EvalQueryEngineTool(
        evaluator=RelevancyEvaluator(llm=judge),
        query_engine=tool.query_engine,
        metadata=tool.metadata,
    )
    with query_image(hospital.images[PATIENT]):
        output = judged.call(QUESTION)
    checks.answered(output.raw_output)
    assert judge.prompts
    assert not [prompt for prompt in judge.prompts if MARKER in prompt]


def test_query_plan(hospital, tool, other):
    plan = QueryPlanTool.from_defaults([tool], get_response_synthesizer(llm=other))
    node = {"id": 1, "query_str": QUESTION, "tool_name": "ask", "dependencies": []}
    with query_image(hospital.images[PATIENT]):
        output = plan(nodes=[node])
    assert not output.is_error
    assert MARKER not in str(output)


class Retrieved(Event):
    nodes: list


class TwoSteps(Workflow):
    """A workflow of an app: one step retrieves, the next answers, in a task of its own."""

    engine: object

    def __init__(self, engine, **options):
        super().__init__(**options)
        self.engine = engine

    @step
    async def retrieve(self, context: Context, event: StartEvent) -> Retrieved:
        return Retrieved(nodes=await self.engine.aretrieve(QueryBundle(event.question)))

    @step
    async def answer(self, context: Context, event: Retrieved) -> StopEvent:
        response = await self.engine.asynthesize(QueryBundle(QUESTION), event.nodes)
        return StopEvent(result=response)


async def test_workflow_of_two_steps(hospital, llm, checks):
    workflow = TwoSteps(hospital.index.as_query_engine(llm), timeout=30)
    with query_image(hospital.images[PATIENT]):
        response = await workflow.run(question=QUESTION)
    checks.answered(response)


async def test_workflows_about_two_patients_at_once(hospital, llm):
    engine = hospital.index.as_query_engine(llm)
    patients = ("patient-07", "patient-08", "patient-09")

    async def one(patient: str):
        with query_image(hospital.images[patient]):
            return await TwoSteps(engine, timeout=30).run(question=QUESTION)

    responses = await asyncio.gather(*map(one, patients))
    for patient, response in zip(patients, responses, strict=True):
        (answer,) = answer_trace(response.source_nodes)
        assert answer.document_ids == hospital.evidence(patient, QUESTION)
        ticket = response.source_nodes[0].node._ticket
        assert ticket.image.path == hospital.images[patient]
