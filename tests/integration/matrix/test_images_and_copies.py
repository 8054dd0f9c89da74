"""Every form of an image, and what becomes of responses and nodes that are copied or sent."""

from __future__ import annotations

import base64
import copy
import pickle
from pathlib import Path

import pytest
from llama_index.core import QueryBundle
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.schema import ImageDocument, ImageNode, MediaResource, MetadataMode, Node
from PIL import Image

from mrrag_llamaindex import answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, ImageError, InputError
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER


def encoded(path) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


FORMS = {
    "path": str,
    "Path": Path,
    "bytes": lambda path: Path(path).read_bytes(),
    "file URL": lambda path: Path(path).as_uri(),
    "data URL": lambda path: f"data:image/png;base64,{encoded(path)}",
    "ImageDocument, path": lambda path: ImageDocument(image_path=str(path)),
    "ImageDocument, base64": lambda path: ImageDocument(image=encoded(path)),
    "ImageNode": lambda path: ImageNode(image_path=str(path)),
    "Node": lambda path: Node(image_resource=MediaResource(path=Path(path))),
    "MediaResource": lambda path: MediaResource(data=Path(path).read_bytes()),
    "ImageBlock, path": lambda path: ImageBlock(path=path),
    "ImageBlock, bytes": lambda path: ImageBlock(image=Path(path).read_bytes()),
    "ImageBlock, URL": lambda path: ImageBlock(url=f"data:image/png;base64,{encoded(path)}"),
}

forms = pytest.mark.parametrize("form", FORMS)


@forms
def test_form_in_a_block(hospital, llm, checks, form):
    with query_image(FORMS[form](hospital.images[PATIENT])):
        checks.answered(hospital.index.as_query_engine(llm).query(QUESTION))


@pytest.mark.slow
@forms
def test_form_on_engines(hospital, llm, checks, form):
    path = hospital.images[PATIENT]
    engine = hospital.index.as_query_engine(llm, image=FORMS[form](path))
    checks.answered(engine.query(QUESTION))
    chat = hospital.index.as_chat_engine(chat_mode="context", llm=llm, image=FORMS[form](path))
    checks.answered(chat.chat(QUESTION))
    nodes = hospital.index.as_retriever(image=FORMS[form](path)).retrieve(QUESTION)
    checks.nodes(nodes)


def test_open_image_is_known_by_its_pixels(hospital, llm):
    path = hospital.images[PATIENT]
    with query_image(Image.open(path)):
        response = hospital.index.as_query_engine(llm).query(QUESTION)
    (answer,) = answer_trace(response.source_nodes)
    assert answer.document_ids == hospital.evidence(PATIENT, QUESTION)


@pytest.mark.parametrize("form", ["path", "file URL", "data URL"])
def test_form_in_a_bundle(hospital, llm, checks, form):
    bundle = QueryBundle(QUESTION, image_path=FORMS[form](hospital.images[PATIENT]))
    checks.answered(hospital.index.as_query_engine(llm).query(bundle))


@pytest.mark.parametrize("form", [name for name in FORMS if "ImageBlock" in name])
def test_form_in_a_message(hospital, llm, checks, form):
    """An image that a person sends is the query image, without any evidence."""
    block = FORMS[form](hospital.images[PATIENT])
    message = ChatMessage(role=MessageRole.USER, blocks=[block, TextBlock(text=QUESTION)])
    assert llm.chat([message]).message.content.strip()
    (image,) = checks.model.images[-1]
    assert image.size == Image.open(hospital.images[PATIENT]).size


@pytest.mark.parametrize(
    "image", ["http://127.0.0.1/x.png", ImageDocument(text="none"), b"no image", "data:image/png"]
)
def test_what_is_no_image_is_refused(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm)
    with pytest.raises(ImageError), query_image(image):
        engine.query(QUESTION)
    with pytest.raises(ImageError):
        hospital.index.as_query_engine(llm, image=image).query(QUESTION)


def test_two_images_for_one_question_are_refused(hospital, llm, checks):
    engine = hospital.index.as_query_engine(llm, image=hospital.images["patient-08"])
    with pytest.raises(InputError, match="two different images"):
        engine.query(checks.bundle())


@pytest.fixture
def response(hospital, llm, checks):
    return hospital.index.as_query_engine(llm).query(checks.bundle())


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy])
def test_copies_of_a_response_belong_to_its_question(checks, response, copied):
    again = copied(response)
    checks.answered(again)
    assert answer_trace(again.source_nodes) == answer_trace(response.source_nodes)


def test_sent_response_keeps_scores_and_says_that_its_trace_stayed(hospital, checks, response):
    again = pickle.loads(pickle.dumps(response))
    assert str(again) == str(response)
    for item, before in zip(again.source_nodes, response.source_nodes, strict=True):
        assert item.score == before.score
        assert item.node.metadata == before.node.metadata
        assert item.node.hash == before.node.hash
        assert MARKER not in item.node.get_content(MetadataMode.LLM)
    with pytest.raises(EvidenceError, match="pickled"):
        answer_trace(again.source_nodes)


def test_sent_nodes_are_no_evidence_and_say_so(hospital, llm, checks):
    engine = hospital.index.as_query_engine(llm)
    nodes = pickle.loads(pickle.dumps(engine.retrieve(checks.bundle())))
    with pytest.raises(EvidenceError, match="without a ticket"):
        engine.synthesize(checks.bundle(), nodes)


@pytest.mark.parametrize("form", ["to_dict", "model_dump", "model_dump_json", "to_json"])
def test_written_nodes_hold_no_marker(response, form):
    for item in response.source_nodes:
        assert MARKER not in str(getattr(item, form)())
        assert MARKER not in str(getattr(item.node, form)())


def test_copied_nodes_are_still_evidence(hospital, llm, checks):
    engine = hospital.index.as_query_engine(llm)
    nodes = copy.deepcopy(engine.retrieve(checks.bundle()))
    checks.answered(engine.synthesize(checks.bundle(), nodes))


def test_answers_of_the_llm_can_be_sent(response):
    answers = answer_trace(response.source_nodes)
    assert pickle.loads(pickle.dumps(answers)) == answers
