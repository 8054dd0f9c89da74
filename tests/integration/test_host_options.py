"""What a user says is honoured, or refused by name."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from llama_index.core import QueryBundle
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import MockLLM
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA, MRRAGPostprocessor, Pair
from mrrag_llamaindex.errors import EvidenceError, ImageError, InputError, ModelError
from mrrag_llamaindex.store.filters import Comparison

QUESTION = "Is there a nodule?"


def filters(*parts, condition="and"):
    return MetadataFilters(
        filters=[MetadataFilter(key=key, operator=op, value=value) for key, op, value in parts],
        condition=condition,
    )


def patients(hospital, **options):
    bundle = QueryBundle(QUESTION, image_path=hospital.images["patient-07"])
    nodes = hospital.index.as_retriever(similarity_top_k=200, **options).retrieve(bundle)
    return sorted({item.node.metadata["patient_id"] for item in nodes}), len(nodes)


def test_filters_of_the_host(hospital):
    one = filters(("patient_id", "==", "patient-03"))
    assert patients(hospital, filters=one) == (["patient-03"], 3)
    two = filters(("patient_id", "in", ["patient-03", "patient-04"]))
    assert patients(hospital, filters=two) == (["patient-03", "patient-04"], 6)
    rest = filters(("patient_id", "nin", [f"patient-{n:02d}" for n in range(1, 50)]))
    assert patients(hospital, filters=rest) == (["patient-00"], 3)
    either = MetadataFilters(filters=[one, two], condition="or")
    assert patients(hospital, filters=either)[1] == 6
    assert patients(hospital, filters=filters(("patient_id", "!=", "patient-03")))[1] == 147
    assert patients(hospital, filters=MetadataFilters(filters=[]))[1] == 150
    assert patients(hospital, filters=Comparison("patient_id", "==", "patient-03"))[1] == 3


def test_ids_of_the_host(hospital):
    ids = ["patient-03/0", "patient-04/1"]
    assert patients(hospital, node_ids=ids) == (["patient-03", "patient-04"], 2)
    assert patients(hospital, doc_ids=ids[:1], node_ids=ids) == (["patient-03"], 1)
    with pytest.raises(InputError, match="node_ids"):
        hospital.index.as_retriever(node_ids=[])
    with pytest.raises(InputError, match="doc_ids"):
        hospital.index.as_retriever(doc_ids="patient-03/0")


def test_nothing_left_is_an_error_and_no_other_patient(hospital):
    with pytest.raises(EvidenceError, match="none of them"):
        patients(hospital, filters=filters(("patient_id", "==", "nobody")))


@pytest.mark.parametrize(
    ("operator", "value"), [("contains", "x"), ("any", ["x"]), ("is_empty", None), ("==", None)]
)
def test_filters_that_pairs_do_not_have_are_refused(hospital, operator, value):
    with pytest.raises(InputError, match="view"):
        hospital.index.as_retriever(filters=filters(("view", operator, value)))


def test_engines_pass_filters_on(hospital, llm):
    options = {"llm": llm, "filters": filters(("patient_id", "==", "patient-03"))}
    bundle = QueryBundle(QUESTION, image_path=hospital.images["patient-07"])
    engines = (
        hospital.index.as_query_engine(**options),
        hospital.index.as_citation_engine(**options),
    )
    for engine in engines:
        response = engine.query(bundle)
        assert {item.node.metadata["patient_id"] for item in response.source_nodes} == {
            "patient-03"
        }


@pytest.mark.parametrize("mode", ["context", "condense_plus_context", "condense_question", "best"])
def test_chat_engines_take_filters_and_an_image(hospital, llm, mode):
    chat = (
        hospital.index.as_chat_engine(
            mode,
            llm=llm,
            image=hospital.images["patient-07"],
            filters=filters(("patient_id", "==", "patient-03")),
            verbose=False,
        )
        if mode != "context"
        else hospital.index.as_chat_engine(
            ChatMode.CONTEXT,
            llm=llm,
            image=hospital.images["patient-07"],
            filters=filters(("patient_id", "==", "patient-03")),
        )
    )
    response = chat.chat(QUESTION)
    assert {item.node.metadata["patient_id"] for item in response.source_nodes} == {"patient-03"}


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("similarity_topk", 1, "'similarity_top_k'"),
        ("response_mod", "refine", "'response_mode'"),
        ("vector_store_query_mode", "mmr", "fused score"),
        ("alpha", 0.5, "weights="),
        ("embed_model", object(), "towers"),
        ("vector_store_kwargs", {"x": 1}, "per query"),
    ],
)
def test_options_that_nobody_takes_are_refused(hospital, llm, name, value, match):
    for make in (hospital.index.as_query_engine, hospital.index.as_chat_engine):
        if make == hospital.index.as_chat_engine and name == "response_mod":
            match = "response_mod"
        with pytest.raises(InputError, match=match):
            make(llm=llm, **{name: value})


def test_options_that_say_nothing_are_taken(hospital):
    hospital.index.as_retriever(vector_store_query_mode="default", alpha=None, embed_model=None)


def test_similarity_top_k_may_be_assigned(hospital):
    retriever = hospital.index.as_retriever(similarity_top_k=2)
    retriever.similarity_top_k = 20
    bundle = QueryBundle(QUESTION, image_path=hospital.images["patient-07"])
    assert len(retriever.retrieve(bundle)) == 20


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("model_name", "model="),
        ("temperature", "greedily"),
        ("max_tokens", "max_new_tokens"),
        ("max_new_token", "'max_new_tokens'"),
        ("polcy", "'policy'"),
        ("messages_to_prompt", "own layout"),
    ],
)
def test_settings_of_other_llms_are_refused(name, match):
    with pytest.raises(ModelError, match=match):
        MRRAGLLaVA(**{"model": "phantom", name: "phantom"})


def test_texts_to_embed_are_averaged(hospital):
    """As HyDE gives them: a hypothetical document beside the question."""
    retriever = hospital.index.as_retriever(on_missing_image="ignore")
    texts = ["There is a nodule.", QUESTION]
    bundle = QueryBundle(QUESTION, custom_embedding_strs=texts)
    vectors = hospital.index.towers.embed_texts(texts)
    mean = (vectors[0] + vectors[1]) / 2
    mean /= (mean @ mean) ** 0.5
    node = retriever.retrieve(bundle)[0]
    stored = hospital.index.store.get([node.node_id])[node.node_id].vector
    assert node.node.metadata["mrrag"]["text_text"] == pytest.approx(
        float(mean @ stored[len(stored) // 2 :]), abs=1e-5
    )


def test_another_llm_may_have_our_options(hospital):
    engine = hospital.index.as_query_engine(llm=MockLLM(), on_missing_image="ignore")
    assert "mrrag" not in str(engine.query(QUESTION))


def test_postprocessor_takes_an_index_or_a_store_and_towers(hospital):
    index = hospital.index
    for options in ({"store": index.store}, {"towers": index.towers}):
        with pytest.raises(InputError, match="not both"):
            MRRAGPostprocessor(index, **options)
    with pytest.raises(InputError, match="needs an index"):
        MRRAGPostprocessor(store=index.store)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("stric", True, "did you mean 'strict'"),
        ("storage_context", object(), "persist_dir="),
        ("embed_model", "default", "towers"),
        ("insert_batch_size", 16, "batch_size="),
    ],
)
def test_options_of_from_documents_are_refused_before_a_store_is_made(
    towers, tmp_path, name, value, match
):
    with pytest.raises(InputError, match=match):
        MRRAGIndex.from_documents([], towers=towers, persist_dir=tmp_path / "s", **{name: value})
    assert not (tmp_path / "s").exists()


def test_progress_is_shown_where_it_was_asked_for(hospital, towers, capsys):
    pair = Pair(hospital.images["patient-07"], "No nodule.", "p7", "patient-07")
    index = MRRAGIndex.from_pairs([pair], towers=towers, show_progress=True)
    assert "Embedding pairs" in capsys.readouterr().err
    index.add_pairs([pair])
    assert "Embedding pairs" in capsys.readouterr().err
    MRRAGIndex.from_pairs([pair], towers=towers)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "match"),
    [("topn", "did you mean 'top_n'"), ("similarity_top_k", "takes no"), ("filters", "takes no")],
)
def test_postprocessor_refuses_what_it_does_not_take(hospital, name, match):
    with pytest.raises(InputError, match=match):
        MRRAGPostprocessor(hospital.index, **{name: 1})


def test_attributes_of_a_retriever_may_be_assigned_and_private_ones_of_stock_ones_not(hospital):
    retriever = hospital.index.as_retriever(similarity_top_k=200)
    retriever.filters = filters(("patient_id", "==", "patient-03"))
    retriever.image = hospital.images["patient-07"]
    nodes = retriever.retrieve(QUESTION)
    assert {item.node.metadata["patient_id"] for item in nodes} == {"patient-03"}
    for name in ("_filters", "_node_ids", "_doc_ids", "_similarity_top_k"):
        with pytest.raises(InputError, match=f"{name[1:]}= to as_retriever"):
            setattr(retriever, name, None)
    with pytest.raises(InputError, match="similarity_top_k must be a number"):
        hospital.index.as_retriever(similarity_top_k=None)


def test_base64_text_as_an_image_says_what_to_give(hospital):
    text = base64.b64encode(Path(hospital.images["patient-07"]).read_bytes()).decode()
    with pytest.raises(ImageError, match="b64decode"):
        hospital.index.as_retriever(image=text)
