"""Many prompts at once get the answers that each gets alone, with its own patient's evidence."""

from __future__ import annotations

import pytest
from llama_index.core import QueryBundle
from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT
from llama_index.core.schema import MetadataMode

from mrrag_llamaindex import answer_trace
from mrrag_llamaindex.errors import EvidenceError

QUESTIONS = ("Is there a pleural effusion?", "Is there a nodule?")


def asked(hospital, patient: str, question: str):
    """Return the sources of one query, and the prompt that a host would send."""
    bundle = QueryBundle(question, image_path=hospital.images[patient])
    nodes = hospital.index.as_retriever(stamped=True).retrieve(bundle)
    context = "\n\n".join(item.node.get_content(MetadataMode.LLM) for item in nodes)
    return nodes, DEFAULT_TEXT_QA_PROMPT.format(context_str=context, query_str=question)


def test_batch_equals_one_at_a_time_and_keeps_patients_apart(hospital, llm):
    cases = [(f"patient-{n:02d}", question) for n in (3, 17, 42) for question in QUESTIONS]
    made = [asked(hospital, *case) for case in cases]
    together = llm.complete_batch([prompt for _, prompt in made])
    for case, (nodes, _), response in zip(cases, made, together, strict=True):
        (answer,) = answer_trace(nodes)
        assert answer.text == response.text
        assert set(answer.document_ids) <= set(hospital.evidence(*case))
        alone_nodes, alone_prompt = asked(hospital, *case)
        alone = llm.complete(alone_prompt)
        assert alone.text == response.text
        (expected,) = answer_trace(alone_nodes)
        assert answer.p_yes == pytest.approx(expected.p_yes, abs=2e-6)
        assert answer.lambdas == expected.lambdas
        assert response.additional_kwargs["mrrag"]["document_ids"] == answer.document_ids


def test_one_prompt_without_evidence_stops_the_batch_and_none_is_answered(hospital, llm):
    nodes, prompt = asked(hospital, "patient-05", QUESTIONS[0])
    with pytest.raises(EvidenceError, match="got no evidence"):
        llm.complete_batch([prompt, "Is there a nodule?"])
    assert answer_trace(nodes) == []


def test_no_prompt_no_answer(llm):
    assert llm.complete_batch([]) == []
