"""The host's own methods do on pairs what they say, or refuse by name; nodes survive travel."""

from __future__ import annotations

import base64
import copy
import pickle
from pathlib import Path

import pytest
from llama_index.core import (
    Document,
    QueryBundle,
    StorageContext,
    load_index_from_storage,
)
from llama_index.core.schema import (
    ImageDocument,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)

from mrrag_llamaindex import MRRAGIndex, answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, ImageError, InputError
from mrrag_llamaindex.integration.tickets.nodes import evidence_of, ticket_of

QUESTION = "Is there a nodule?"


def document(number: int, image: str | Path, report: str = "No nodule.") -> ImageDocument:
    metadata = {"patient_id": f"p{number}", "view": "PA"}
    return ImageDocument(id_=f"d{number}", text=report, image_path=str(image), metadata=metadata)


@pytest.fixture
def index(towers, hospital):
    images = list(hospital.images.values())
    return MRRAGIndex.from_documents([document(n, images[n]) for n in range(3)], towers=towers)


def test_documents_are_pairs(index, hospital):
    pair = index.store.get(["d1"])["d1"]
    assert (pair.patient_id, pair.report, pair.metadata["view"]) == ("p1", "No nodule.", "PA")
    assert all(half.any() for half in index.store.schema.blocks.split(pair.vector))
    assert sorted(index.ref_doc_info) == ["d0", "d1", "d2"]


async def test_insert_update_refresh_delete(index, hospital):
    image = hospital.images["patient-09"]
    index.insert(document(5, image))
    await index.ainsert(document(6, image))
    index.insert_nodes([TextNode(id_="n", text="Clear lungs.")], missing="keep")
    assert len(index.store) == 6
    index.update_ref_doc(document(5, image, "A nodule."))
    assert index.store.get(["d5"])["d5"].report == "A nodule."
    documents = [
        document(5, image, "A nodule."),
        document(6, image, "Clear lungs."),
        document(7, image),
    ]
    assert index.refresh_ref_docs(documents) == [False, True, True]
    assert await index.arefresh_ref_docs(documents) == [False, False, False]
    index.delete_ref_doc("d5", delete_from_docstore=True)
    await index.adelete_ref_doc("d6")
    index.delete_nodes(["n", "d7"])
    assert index.store.pair_ids() == ["d0", "d1", "d2"]
    with pytest.raises(InputError, match="'d5'"):
        index.delete_nodes(["d0", "d5"])
    assert len(index.store) == 3


def test_pieces_of_documents_are_refused(index):
    piece = TextNode(id_="piece", text="No")
    piece.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="whole")
    with pytest.raises(InputError, match="'whole'"):
        index.insert_nodes([piece])


def test_persisting_is_refused_with_what_to_do(index, tmp_path):
    with pytest.raises(InputError, match="from_store"):
        index.storage_context.persist(str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert isinstance(index.storage_context, StorageContext)


def test_every_form_of_an_image_is_taken(hospital):
    path = hospital.images["patient-07"]
    data = Path(path).read_bytes()
    text = base64.b64encode(data).decode()
    forms = [
        path,
        Path(path),
        Path(path).as_uri(),
        data,
        f"data:image/png;base64,{text}",
        ImageDocument(image=text),
        ImageDocument(image_path=path),
        ImageNode(image_url=Path(path).as_uri()),
        Node(image_resource=MediaResource(data=data)),
        MediaResource(path=path),
    ]
    for form in forms:
        with query_image(form):
            nodes = hospital.index.as_retriever().retrieve(QUESTION)
        assert evidence_of(nodes).image.content == data
        assert hospital.index.as_retriever(image=form).image.content == data
    with query_image(ImageDocument(image_path=path)):
        got = tuple(item.node_id for item in hospital.index.as_retriever().retrieve(QUESTION))
    assert got == hospital.evidence("patient-07", QUESTION)
    for form in ("https://example.org/cxr.png", ImageDocument(text="none"), "data:nothing"):
        with pytest.raises(ImageError), query_image(form):
            pass


@pytest.fixture
def response(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm)
    return engine.query(QueryBundle(QUESTION, image_path=str(image)))


def test_copies_belong_to_the_same_query(response):
    again = copy.deepcopy(response)
    assert answer_trace(again.source_nodes) == answer_trace(response.source_nodes)


def test_what_travelled_says_so(response):
    again = pickle.loads(pickle.dumps(response))
    assert str(again) == str(response)
    for item, original in zip(again.source_nodes, response.source_nodes, strict=True):
        assert item.node.metadata == original.node.metadata
        assert item.node.hash == original.node.hash
        assert ticket_of(item.node) is None
        assert "mrrag" not in item.node.get_content(MetadataMode.LLM)
    with pytest.raises(EvidenceError, match="pickled"):
        answer_trace(again.source_nodes)


def test_a_node_is_known_by_its_pair_and_not_by_its_scores(hospital):
    hashes = []
    for patient in ("patient-07", "patient-08"):
        nodes = hospital.index.as_retriever(similarity_top_k=150, image=hospital.images[patient])
        hashes.append({item.node_id: item.node.hash for item in nodes.retrieve(QUESTION)})
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0].values())) == 150


def test_a_text_without_an_image_enters_only_if_that_is_said(index):
    with pytest.raises(InputError, match="no image"):
        index.insert(Document(id_="text", text="Only a report."))
    index.insert(Document(id_="text", text="Only a report."), missing="keep")
    assert index.store.get(["text"])["text"].missing == "image"


def test_options_that_the_host_nests(index, hospital):
    changed = document(1, hospital.images["patient-09"], "A nodule.")
    nested = {"delete_kwargs": {"delete_from_docstore": True}, "insert_kwargs": {"batch_size": 1}}
    assert index.refresh_ref_docs([changed], update_kwargs=nested) == [True]
    index.update_ref_doc(changed, **nested)
    assert index.store.get(["d1"])["d1"].report == "A nodule."
    with pytest.raises(InputError, match="nonsense"):
        index.refresh_ref_docs([changed], update_kwargs={"insert_kwargs": {"nonsense": 1}})


def test_nothing_empty_is_written_or_loaded_in_place_of_pairs(index, tmp_path):
    context = index.storage_context
    for part in (context, context.docstore, context.index_store, context.vector_store):
        with pytest.raises(InputError, match="from_store"):
            part.persist(str(tmp_path / "x"))
    with pytest.raises(InputError, match="from_store"):
        load_index_from_storage(context)
    assert not (tmp_path / "x").exists()


def test_a_report_that_is_refreshed_is_gone_from_the_disk(towers, hospital, tmp_path):
    image = hospital.images["patient-09"]
    old = document(1, image, "Earlierreport of a nodule.")
    index = MRRAGIndex.from_documents([old], towers=towers, persist_dir=tmp_path / "s")
    index.refresh_ref_docs([document(1, image, "No nodule.")])
    content = b"".join(path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert b"Earlierreport" not in content
    index.store.close()
