"""A document that no prompt can hold makes no calls: it is named, and the others are read."""

from __future__ import annotations

import warnings

import pytest
from llama_index.core import QueryBundle

from mrrag_llamaindex import MRRAGIndex, Pair, answer_trace
from mrrag_llamaindex.errors import PromptError
from tests.integration.conftest import study_image

QUESTION = "Is there a pleural effusion?"
LONG = "There is pleural effusion. " * 1500


@pytest.fixture
def pairs(tmp_path):
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        study_image(number).save(path)
        report = LONG if number == 2 else "There is a nodule."
        made.append(Pair(str(path), report, f"p{number}", f"patient-{number}"))
    return made


def ask(engine, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        response = engine.query(QueryBundle(QUESTION, image_path=str(tmp_path / "0.png")))
        text = str(response)
    return response, text, [str(item.message) for item in caught]


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_report_of_40_000_characters_is_told_and_makes_no_calls_of_its_own(
    pairs, towers, llm, tmp_path, mode, streaming
):
    index = MRRAGIndex.from_pairs(pairs, towers)
    engine = index.as_query_engine(llm=llm, response_mode=mode, streaming=streaming)
    response, text, notes = ask(engine, tmp_path)
    assert text
    trace = answer_trace(response.source_nodes)
    assert any("1 of 4 documents" in note and "'p2'" in note for note in notes)
    assert LONG[:30] not in " ".join(notes)
    # Every answer names it as not read.
    assert {item.node.node_id for item in response.source_nodes} == {"p0", "p1", "p3"}
    assert all("p2" in answer.dropped for answer in trace)
    assert set(trace[-1].document_ids) == {"p0", "p1", "p3"}
    assert len(trace) == (3 if mode == "refine" else 1)


def test_nothing_but_long_documents_is_an_error_before_the_first_call(pairs, towers, llm, tmp_path):
    index = MRRAGIndex.from_pairs(pairs[2:3], towers)
    with pytest.raises(PromptError, match=r"none of the 1 documents.*'p2'"):
        ask(index.as_query_engine(llm=llm), tmp_path)
