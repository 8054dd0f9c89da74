"""Image, scores and spans arrive in every response mode; nothing else does."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from llama_index.core import QueryBundle
from llama_index.core.response_synthesizers import ResponseMode
from PIL.PngImagePlugin import PngImageFile

from mrrag_llamaindex import (
    MRRAGLLaVA,
    MRRAGPostprocessor,
    MRRAGSynthesizer,
    answer_trace,
    query_image,
)
from mrrag_llamaindex.errors import EvidenceError, InputError, ModelError
from mrrag_llamaindex.images import load
from mrrag_llamaindex.images import query_image as query_image_module
from mrrag_llamaindex.images.load import image_digest

QUESTION = "Is there a pleural effusion?"
MODES = (
    ResponseMode.COMPACT,
    ResponseMode.REFINE,
    ResponseMode.TREE_SUMMARIZE,
    ResponseMode.SIMPLE_SUMMARIZE,
    ResponseMode.ACCUMULATE,
    ResponseMode.COMPACT_ACCUMULATE,
)
STREAMING = [mode for mode in MODES if "accumulate" not in mode.value]
MARKER = re.compile(r"mrrag:")


def check(hospital, response, text: str, patient: str = "patient-07") -> None:
    expected = hospital.evidence(patient, QUESTION)
    assert tuple(item.node.node_id for item in response.source_nodes) == expected
    answers = answer_trace(response.source_nodes)
    assert answers
    assert {document for answer in answers for document in answer.document_ids} == set(expected)
    for answer in answers:  # min-max over one document's score leaves nothing to prefer
        assert answer.steering.applied == (len(answer.document_ids) > 1)
    assert not MARKER.search(text)
    assert not any(MARKER.search(item.node.get_content()) for item in response.source_nodes)


@pytest.mark.parametrize("mode", MODES)
def test_query_reads_image_and_all_evidence(hospital, llm, image, mode):
    engine = hospital.index.as_query_engine(llm=llm, response_mode=mode)
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    check(hospital, response, str(response))


@pytest.mark.parametrize("mode", MODES)
async def test_aquery_reads_image_and_all_evidence(hospital, llm, image, mode):
    engine = hospital.index.as_query_engine(llm=llm, response_mode=mode)
    response = await engine.aquery(QueryBundle(QUESTION, image_path=str(image)))
    check(hospital, response, str(response))


@pytest.mark.parametrize("mode", STREAMING)
def test_stream_reads_image_and_all_evidence(hospital, llm, image, mode):
    engine = hospital.index.as_query_engine(llm=llm, response_mode=mode, streaming=True)
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    check(hospital, response, "".join(response.response_gen))


@pytest.mark.parametrize("mode", STREAMING)
async def test_async_stream_reads_image_and_all_evidence(hospital, llm, image, mode):
    engine = hospital.index.as_query_engine(llm=llm, response_mode=mode, streaming=True)
    response = await engine.aquery(QueryBundle(QUESTION, image_path=str(image)))
    text = "".join([piece async for piece in response.async_response_gen()])
    check(hospital, response, text)


@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.REFINE])
def test_final_answer_is_that_of_all_documents_side_by_side(hospital, llm, image, mode):
    """Refining document by document must not lose what the first documents said."""
    bundle = QueryBundle(QUESTION, image_path=str(image))
    engine = hospital.index.as_query_engine(llm=llm, response_mode=mode)
    last = answer_trace(engine.query(bundle).source_nodes)[-1]
    assert last.document_ids == hospital.evidence("patient-07", QUESTION)


def test_multimodal_synthesis_keeps_the_query_image_and_the_reports(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm, multimodal=True)
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    check(hospital, response, str(response))


def test_the_query_image_reaches_the_model(hospital, llm):
    """Same documents, another image: the answer's probabilities must move."""
    engine = hospital.index.as_query_engine(llm=llm)
    nodes = engine.retrieve(QueryBundle(QUESTION, image_path=hospital.images["patient-07"]))
    first = llm.engine
    seen = []
    for patient in ("patient-07", "patient-31"):
        from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
        from mrrag_llamaindex.images.load import load_image

        documents = [PromptDocument(n.node.node_id, n.node.get_content(), n.score) for n in nodes]
        request = PromptRequest(QUESTION, documents)
        (answer,) = first.generate([request], [load_image(hospital.images[patient])])
        seen.append(answer.p_yes)
    assert seen[0] != seen[1]


def test_source_nodes_carry_score_terms_rank_and_lambda(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm)
    nodes = engine.query(QueryBundle(QUESTION, image_path=str(image))).source_nodes
    facts = [item.node.metadata["mrrag"] for item in nodes]
    for item, fact in zip(nodes, facts, strict=True):
        total = fact["image_text"] + fact["image_image"] + fact["text_text"]
        assert item.score == fact["score"] == pytest.approx(total, abs=1e-5)
    assert [fact["rank"] for fact in facts] == [1, 2, 3, 4, 5, 6]
    assert facts[0]["lambda"] == 1.0
    assert facts[-1]["lambda"] == 0.0
    low, high = facts[-1]["score"], facts[0]["score"]
    assert facts[2]["lambda"] == pytest.approx((facts[2]["score"] - low) / (high - low))


def test_prompt_text_holds_neither_metadata_nor_paths(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm)
    node = engine.query(QueryBundle(QUESTION, image_path=str(image))).source_nodes[0].node
    from llama_index.core.schema import MetadataMode

    shown = node.get_content(metadata_mode=MetadataMode.LLM)
    embedded = node.get_content(metadata_mode=MetadataMode.EMBED)
    assert ".png" not in shown + embedded
    assert "patient" not in shown + embedded
    assert "lambda" not in shown + embedded


def test_caller_bundle_and_string_stay_as_they_were(hospital, llm, image):
    bundle = QueryBundle(QUESTION, image_path=str(image))
    hospital.index.as_query_engine(llm=llm).query(bundle)
    assert bundle == QueryBundle(QUESTION, image_path=str(image))
    assert bundle.embedding is None


def test_question_without_image_is_an_error_in_default_mode(hospital, llm):
    engine = hospital.index.as_query_engine(llm=llm)
    with pytest.raises(InputError, match="has no image"):
        engine.query(QUESTION)


def test_two_different_images_for_one_question_are_refused(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm)
    bundle = QueryBundle(QUESTION, image_path=str(image))
    with query_image(hospital.images["patient-08"]), pytest.raises(InputError, match="two differ"):
        engine.query(bundle)


@pytest.mark.parametrize("mode", MODES)
def test_model_errors_reach_the_caller_in_every_mode(hospital, llm, image, mode, monkeypatch):
    """The stock synthesizer would turn a ValueError into the answer 'Empty Response'."""

    def fail(*_: object, **__: object):
        raise ValueError("shape mismatch")

    monkeypatch.setattr(llm.engine.model, "generate", fail)
    engine = hospital.index.as_query_engine(llm=llm, response_mode=mode)
    with pytest.raises(ModelError, match="failed inside the model"):
        engine.query(QueryBundle(QUESTION, image_path=str(image)))


def test_answer_longer_than_the_model_s_window_is_refused_at_construction():
    with pytest.raises(ModelError, match="window"):
        MRRAGLLaVA(model="phantom", max_new_tokens=2040)


@pytest.fixture
def upload(tmp_path, image):
    """One path for every user's upload; it holds patient-07's image now."""
    path = tmp_path / "upload.png"
    path.write_bytes(image.read_bytes())
    return path


def test_file_replaced_after_retrieval_does_not_reach_the_answer(hospital, llm, image, upload):
    engine = hospital.index.as_query_engine(llm=llm)
    expected = answer_trace(engine.query(QueryBundle(QUESTION, str(image))).source_nodes)[-1]
    bundle = QueryBundle(QUESTION, image_path=str(upload))
    nodes = engine.retrieve(bundle)
    upload.write_bytes(Path(hospital.images["patient-08"]).read_bytes())
    answer = answer_trace(engine.synthesize(bundle, nodes).source_nodes)[-1]
    assert (answer.document_ids, answer.p_yes) == (expected.document_ids, expected.p_yes)
    upload.unlink()
    assert answer_trace(engine.synthesize(bundle, nodes).source_nodes)[-1].p_yes == expected.p_yes


@pytest.mark.parametrize("rescoring", [False, True])
def test_file_replaced_while_it_is_embedded_does_not_reach_the_answer(
    hospital, llm, image, upload, monkeypatch, rescoring
):
    """The next user's upload arrives at the same path between two steps of one question."""
    rescore = [MRRAGPostprocessor(hospital.index)] if rescoring else None
    engine = hospital.index.as_query_engine(llm=llm, node_postprocessors=rescore)
    expected = answer_trace(engine.query(QueryBundle(QUESTION, str(image))).source_nodes)[-1]
    embed = hospital.index.towers.embed_images

    def embed_and_replace(images):
        vectors = embed(images)
        upload.write_bytes(Path(hospital.images["patient-08"]).read_bytes())
        return vectors

    monkeypatch.setattr(hospital.index.towers, "embed_images", embed_and_replace)
    response = engine.query(QueryBundle(QUESTION, image_path=str(upload)))
    (answer,) = answer_trace(response.source_nodes)
    assert (answer.document_ids, answer.p_yes) == (expected.document_ids, expected.p_yes)
    ticket = response.source_nodes[0].node._ticket
    assert ticket.image.digest == image_digest(image)


def test_documents_of_two_states_of_one_file_are_never_merged(hospital, upload):
    bundle = QueryBundle(QUESTION, image_path=str(upload))
    retriever = hospital.index.as_retriever()
    nodes = retriever.retrieve(bundle)
    upload.write_bytes(Path(hospital.images["patient-08"]).read_bytes())
    nodes += retriever.retrieve(bundle)
    with pytest.raises(EvidenceError, match="different images"):
        MRRAGPostprocessor(hospital.index).postprocess_nodes(nodes, query_bundle=bundle)


@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.REFINE])
def test_image_is_read_once_and_decoded_once_in_a_question_of_one_call(
    hospital, llm, image, mode, monkeypatch
):
    reads, opened, only_verified = [], [], []
    read, opening, verify = load.read_bytes, load.Image.open, PngImageFile.verify
    monkeypatch.setattr(
        query_image_module, "read_bytes", lambda *a, **k: reads.append(1) or read(*a, **k)
    )
    monkeypatch.setattr(load.Image, "open", lambda *a, **k: opened.append(1) or opening(*a, **k))
    monkeypatch.setattr(PngImageFile, "verify", lambda me: only_verified.append(1) or verify(me))
    engine = hospital.index.as_query_engine(llm=llm, response_mode=mode)
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    calls = len(answer_trace(response.source_nodes))
    assert len(reads) == 1
    # Its checksums are read without decoding; the first of a refine is the retrieval's.
    assert len(opened) - len(only_verified) == calls


def test_strict_synthesizer_reports_what_was_read_and_steered(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm, response_synthesizer=MRRAGSynthesizer(llm=llm))
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    check(hospital, response, str(response))
    facts = response.metadata["mrrag"]
    assert facts["steering"]["applied"]
    assert facts["document_ids"] == hospital.evidence("patient-07", QUESTION)


@pytest.mark.parametrize("streaming", [False, True])
async def test_strict_synthesizer_in_async_engines(hospital, llm, image, streaming):
    synthesizer = MRRAGSynthesizer(llm=llm, streaming=streaming)
    engine = hospital.index.as_query_engine(llm=llm, response_synthesizer=synthesizer)
    response = await engine.aquery(QueryBundle(QUESTION, image_path=str(image)))
    text = str(response)
    if streaming:
        text = "".join([piece async for piece in response.async_response_gen()])
    check(hospital, response, text)


def test_strict_synthesizer_refuses_nodes_without_ticket_and_no_nodes(hospital, llm, image):
    synthesizer = MRRAGSynthesizer(llm=llm)
    retriever = hospital.index.as_retriever(stamped=False)
    with query_image(str(image)):
        nodes = retriever.retrieve(QUESTION)
    with pytest.raises(EvidenceError, match="without mrrag tickets"):
        synthesizer.synthesize(QUESTION, nodes)
    with pytest.raises(EvidenceError, match="no documents found"):
        synthesizer.synthesize(QUESTION, [])


@pytest.mark.slow
def test_event_loop_is_not_stalled_by_a_long_answer(hospital, image):
    slow = MRRAGLLaVA(model="phantom", max_new_tokens=200)
    slow.engine.model.generation_config.eos_token_id = None
    engine = hospital.index.as_query_engine(llm=slow)

    async def ticks() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        started, count = loop.time(), 0
        task = asyncio.create_task(engine.aquery(QueryBundle(QUESTION, image_path=str(image))))
        while not task.done():
            await asyncio.sleep(0.01)
            count += 1
        await task
        return count, loop.time() - started

    count, seconds = asyncio.run(ticks())
    # A stalled loop would tick once or twice; a free one every 10 ms or so, even on a busy machine.
    assert count > 5
    assert seconds > 0.1
