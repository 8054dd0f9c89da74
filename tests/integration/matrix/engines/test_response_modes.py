"""Every response mode of the host, asked at once, streamed, and both without blocking."""

from __future__ import annotations

import pytest
from llama_index.core.response_synthesizers import (
    Accumulate,
    BaseSynthesizer,
    CompactAndRefine,
    Generation,
    Refine,
    ResponseMode,
    SimpleSummarize,
    TreeSummarize,
    get_response_synthesizer,
)
from llama_index.core.response_synthesizers.compact_and_accumulate import CompactAndAccumulate
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.response_synthesizers.no_text import NoText

from mrrag_llamaindex import MRRAGSynthesizer, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import ACCEPTED, MARKER

ANSWERING = {
    ResponseMode.COMPACT: CompactAndRefine,
    ResponseMode.REFINE: Refine,
    ResponseMode.TREE_SUMMARIZE: TreeSummarize,
    ResponseMode.SIMPLE_SUMMARIZE: SimpleSummarize,
    ResponseMode.ACCUMULATE: Accumulate,
    ResponseMode.COMPACT_ACCUMULATE: CompactAndAccumulate,
}
WITHOUT_ANSWER = {ResponseMode.NO_TEXT, ResponseMode.CONTEXT_ONLY, ResponseMode.GENERATION}
NOT_STREAMED = {ResponseMode.ACCUMULATE, ResponseMode.COMPACT_ACCUMULATE}
WAYS = ("at once", "stream", "async", "async stream")
CROSSED = [
    (mode, way)
    for mode in ANSWERING
    for way in WAYS
    if not ("stream" in way and mode in NOT_STREAMED)
]

of_modes = pytest.mark.parametrize("mode", ANSWERING)


async def ask(engine, bundle, way: str):
    """Ask in one of `WAYS`; return the response and its text."""
    response = await engine.aquery(bundle) if "async" in way else engine.query(bundle)
    if way == "stream":
        return response, "".join(response.response_gen)
    if way == "async stream":
        return response, "".join([piece async for piece in response.async_response_gen()])
    return response, str(response)


def test_every_mode_of_the_host_is_here():
    assert set(ResponseMode) == set(ANSWERING) | WITHOUT_ANSWER


@pytest.mark.parametrize(("mode", "way"), CROSSED)
async def test_mode_reads_the_evidence(hospital, llm, checks, watch, mode, way):
    engine = hospital.index.as_query_engine(llm, response_mode=mode, streaming="stream" in way)
    response, text = await ask(engine, checks.bundle(), way)
    checks.answered(response, text=text)
    assert watch.observed == {"event", "span", "callback", "token counter"}


@pytest.mark.parametrize(("mode", "way"), CROSSED)
async def test_mode_gives_another_llm_plain_documents(hospital, other, checks, mode, way):
    engine = hospital.index.as_query_engine(other, response_mode=mode, streaming="stream" in way)
    response, text = await ask(engine, checks.bundle(), way)
    assert "yes" in text
    checks.nodes(response.source_nodes)
    for name in hospital.evidence(PATIENT, QUESTION):
        (pair,) = hospital.index.store.get([name]).values()
        assert any(pair.report in prompt for prompt in other.prompts)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "way"), CROSSED)
async def test_own_synthesizer_in_a_stock_engine(hospital, llm, checks, mode, way):
    synthesizer = get_response_synthesizer(
        llm=llm, response_mode=mode, streaming="stream" in way, use_async="async" in way
    )
    assert isinstance(synthesizer, ANSWERING[mode])
    engine = hospital.index.as_query_engine(response_synthesizer=synthesizer)
    response, text = await ask(engine, checks.bundle(), way)
    checks.answered(response, text=text)


@of_modes
@pytest.mark.parametrize("option", ["use_async", "multimodal"])
async def test_option_of_the_synthesizer(hospital, llm, checks, mode, option):
    engine = hospital.index.as_query_engine(llm, response_mode=mode, **{option: True})
    response, text = await ask(engine, checks.bundle(), "at once")
    checks.answered(response, text=text)
    response, text = await ask(engine, checks.bundle(), "async")
    checks.answered(response, text=text)


@pytest.mark.parametrize("way", ["at once", "async"])
async def test_filtering_by_an_answer_in_json_is_refused(hospital, llm, checks, way):
    """The host would parse the answer, fail, and say "Empty Response"."""
    synthesizer = CompactAndRefine(llm=llm, structured_answer_filtering=True)
    engine = hospital.index.as_query_engine(response_synthesizer=synthesizer)
    with pytest.raises(InputError, match="asks for JSON"):
        await ask(engine, checks.bundle(), way)


@pytest.mark.parametrize("way", ["at once", "async"])
async def test_no_text_returns_scored_nodes(hospital, llm, checks, model, way):
    synthesizer = get_response_synthesizer(llm=llm, response_mode=ResponseMode.NO_TEXT)
    assert isinstance(synthesizer, NoText)
    engine = hospital.index.as_query_engine(response_synthesizer=synthesizer)
    response, _ = await ask(engine, checks.bundle(), way)
    checks.nodes(response.source_nodes)
    assert model.requests == []


@pytest.mark.parametrize("way", ["at once", "async"])
async def test_context_only_returns_plain_reports(hospital, llm, checks, way):
    synthesizer = get_response_synthesizer(llm=llm, response_mode=ResponseMode.CONTEXT_ONLY)
    assert isinstance(synthesizer, ContextOnly)
    engine = hospital.index.as_query_engine(response_synthesizer=synthesizer)
    _, text = await ask(engine, checks.bundle(), way)
    assert MARKER not in text
    for name in hospital.evidence(PATIENT, QUESTION):
        assert hospital.index.store.get([name])[name].report in text


@pytest.mark.parametrize("way", WAYS)
async def test_generation_says_that_it_reads_no_documents(hospital, llm, checks, way):
    synthesizer = Generation(llm=llm, streaming="stream" in way)
    engine = hospital.index.as_query_engine(response_synthesizer=synthesizer)
    with pytest.raises(EvidenceError, match='response_mode="generation"'):
        await ask(engine, checks.bundle(), way)


@of_modes
def test_synthesize_alone_from_stamped_nodes(hospital, llm, checks, mode):
    nodes = hospital.index.as_retriever().retrieve(checks.bundle())
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)
    checks.answered(synthesizer.synthesize(QUESTION, nodes=nodes))


@of_modes
def test_synthesize_alone_from_plain_nodes_says_what_is_missing(hospital, llm, checks, mode):
    nodes = hospital.index.as_retriever(stamped=False).retrieve(checks.bundle())
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)
    with pytest.raises(EvidenceError, match="without a ticket"):
        synthesizer.synthesize(QUESTION, nodes=nodes)


class OwnSynthesizer(BaseSynthesizer):
    """A synthesizer as an app writes it: the LLM is called with finished text."""

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        """There are none."""

    def get_response(self, query_str, text_chunks, **_):
        return self._llm.complete("\n\n".join([*text_chunks, query_str])).text

    async def aget_response(self, query_str, text_chunks, **_):
        return (await self._llm.acomplete("\n\n".join([*text_chunks, query_str]))).text


@pytest.mark.parametrize("way", ["at once", "async"])
async def test_synthesizer_of_an_app_that_calls_the_llm_with_text(hospital, llm, checks, way):
    engine = hospital.index.as_query_engine(response_synthesizer=OwnSynthesizer(llm=llm))
    response, text = await ask(engine, checks.bundle(), way)
    checks.answered(response, text=text)


@of_modes
async def test_block_instead_of_a_bundle(hospital, llm, checks, mode):
    engine = hospital.index.as_query_engine(llm, response_mode=mode)
    with query_image(hospital.images[PATIENT]):
        checks.answered(engine.query(QUESTION))
        response = await engine.aquery(QUESTION)
    checks.answered(response)


@pytest.mark.parametrize("way", WAYS)
async def test_strict_synthesizer(hospital, llm, checks, way):
    synthesizer = MRRAGSynthesizer(llm=llm, streaming="stream" in way)
    engine = hospital.index.as_query_engine(response_synthesizer=synthesizer)
    response, text = await ask(engine, checks.bundle(), way)
    checks.answered(response, text=text)


@pytest.mark.slow
async def test_the_host_s_own_records_are_those_that_are_accepted(hospital, llm, checks, watch):
    """Whatever the host stops to record leaves this list, and `docs/llamaindex.md`."""
    for multimodal in (False, True):
        engine = hospital.index.as_query_engine(
            llm, response_mode=ResponseMode.REFINE, multimodal=multimodal
        )
        engine.query(checks.bundle())
        await engine.aquery(checks.bundle())
    filtering = CompactAndRefine(llm=llm, structured_answer_filtering=True)
    with pytest.raises(InputError):
        hospital.index.as_query_engine(response_synthesizer=filtering).query(checks.bundle())
    seen = {name for name in ACCEPTED for who in watch.accepted if who.endswith(name)}
    assert seen == set(ACCEPTED)
