"""Evidence that does not fit into one call: every word keeps its document, in every call."""

from __future__ import annotations

import pytest
from llama_index.core import QueryBundle
from llama_index.core.response_synthesizers import ResponseMode

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA, Pair, answer_trace

QUESTION = "Is there a nodule?"
FINDINGS = ("edema", "fracture", "cardiomegaly", "atelectasis", "pneumothorax", "consolidation")

# The phantom does not know the numbers that make every line another one, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*unknown to model")


@pytest.fixture(scope="module")
def long_index(towers, hospital) -> MRRAGIndex:
    """Six reports of about 700 words, each about a finding of its own."""
    reports = {
        finding: " ".join(f"{line}. There is no {finding}." for line in range(140))
        for finding in FINDINGS
    }
    pairs = [
        Pair(hospital.images[f"patient-{n:02d}"], report, finding)
        for n, (finding, report) in enumerate(reports.items())
    ]
    return MRRAGIndex.from_pairs(pairs, towers)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.COMPACT_ACCUMULATE])
def test_overflowing_evidence_is_attributed_in_every_call(long_index, hospital, mode):
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
    engine = long_index.as_query_engine(llm=llm, response_mode=mode)
    image = hospital.images["patient-03"]
    response = engine.query(QueryBundle(QUESTION, image_path=image))
    answers = answer_trace(response.source_nodes)
    assert len(answers) > 2, "the evidence was meant to overflow"
    named = {one for answer in answers for one in (*answer.document_ids, *answer.dropped)}
    assert named == set(FINDINGS)
    assert all(answer.document_ids for answer in answers)
    ticket = response.source_nodes[0].node._ticket
    for ordinal, document in enumerate(ticket.documents):
        # Every word that any call was shown under this ordinal is a word of this document.
        assert set(ticket.texts[ordinal].split()) == set(document.text.split())
    assert "mrrag:" not in str(response)


@pytest.mark.slow
def test_all_words_of_all_documents_are_shown_over_the_calls(long_index, hospital):
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
    engine = long_index.as_query_engine(llm=llm)
    image = hospital.images["patient-03"]
    response = engine.query(QueryBundle(QUESTION, image_path=image))
    ticket = response.source_nodes[0].node._ticket
    shown = sum(len(text.split()) for text in ticket.texts.values())
    whole = sum(len(document.text.split()) for document in ticket.documents)
    assert shown == whole
