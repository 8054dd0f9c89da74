"""Two images of one study in one question: both are searched with and read, and no third one."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.schema import QueryBundle

from mrrag_llamaindex import MRRAGLLaVA, MRRAGPostprocessor, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.answers.ask import ask
from mrrag_llamaindex.integration.trace import answer_trace
from tests.tiny.families import write

QUESTION = "Is there a nodule?"


@pytest.fixture(scope="module", params=["qwen3_vl", "idefics3", "llava_onevision"])
def reader(request, tmp_path_factory) -> MRRAGLLaVA:
    folder = write(request.param, tmp_path_factory.mktemp("models") / request.param)
    return MRRAGLLaVA(model=str(folder), device="cpu", max_new_tokens=2, max_documents=2)


@pytest.fixture
def study(hospital) -> list[str]:
    return [hospital.images["patient-07"], hospital.images["patient-08"]]


def test_the_model_reads_both_images_in_their_order(hospital, reader, study):
    engine = hospital.index.as_query_engine(llm=reader, similarity_top_k=2)
    values = []
    for images in (study, study[::-1], study[:1]):
        with query_image(images):
            response = engine.query(QUESTION)
        (answer,) = answer_trace(response)
        values.append(answer.p_yes)
        assert answer.steering.applied
        assert answer.image_read
    assert len({round(value, 7) for value in values}) == 3


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_scores_are_those_of_all_images_wherever_they_are_made(hospital, study, combine):
    apart = [
        {
            hit.pair_id: hit.score
            for hit in hospital.index.as_retriever(similarity_top_k=150, candidates=150).hits(
                QUESTION, image
            )
        }
        for image in study
    ]
    retriever = hospital.index.as_retriever(combine_images=combine, image=study, one_per="none")
    nodes = retriever.retrieve(QueryBundle(QUESTION))
    for item in nodes:
        both = [scores[item.node.node_id] for scores in apart]
        expected = sum(both) / 2 if combine == "mean" else max(both)
        assert item.score == pytest.approx(expected, abs=1e-5)
    rescored = MRRAGPostprocessor(hospital.index, combine_images=combine, top_n=6)
    with query_image(study):
        again = rescored.postprocess_nodes(nodes, query_bundle=QueryBundle(QUESTION))
    assert {one.node.node_id: one.score for one in again} == pytest.approx(
        {one.node.node_id: one.score for one in nodes}, abs=1e-5
    )


def test_a_model_that_reads_one_image_refuses_two_by_name(hospital, llm, study):
    with pytest.raises(InputError, match="2 images were given with one question"):
        ask(hospital.index, llm, study, QUESTION)


def test_documents_of_one_image_are_no_evidence_for_a_study_that_holds_it(hospital, study):
    nodes = hospital.index.as_retriever(image=study[0]).retrieve(QueryBundle(QUESTION))
    with query_image(study), pytest.raises(EvidenceError, match="another image"):
        MRRAGPostprocessor(hospital.index).postprocess_nodes(
            nodes, query_bundle=QueryBundle(QUESTION)
        )
    with query_image(study), pytest.raises(InputError, match="two different images"):
        hospital.index.as_retriever().retrieve(QueryBundle(QUESTION, image_path=study[0]))


def test_images_that_a_host_puts_into_a_message_are_no_study(reader, study):
    blocks = [TextBlock(text=QUESTION), *(ImageBlock(path=path) for path in study)]
    with pytest.raises(InputError, match="2 images, which could be of several patients"):
        reader.chat([ChatMessage(role="user", blocks=blocks)])


def test_turns_about_one_image_are_none_about_two(hospital, reader, study):
    engine = hospital.index.as_chat_engine(llm=reader, similarity_top_k=2)
    with query_image(study[0]):
        engine.chat(QUESTION)
    with query_image(study):
        response = engine.chat("And an effusion?")
    assert answer_trace(response)[-1].left_out_turns == 1


def test_options_are_refused_by_name(hospital):
    with pytest.raises(InputError, match="combine_images"):
        hospital.index.as_retriever(combine_images="median")
    assert QueryImage.study([b"a", b"b"]).path is None
