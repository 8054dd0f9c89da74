"""What a question leaves in memory, however its answer ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from llama_index.core import QueryBundle

from mrrag_llamaindex import MRRAGError
from mrrag_llamaindex.integration.answers.streaming import stream
from mrrag_llamaindex.integration.tickets.nodes import ticket_of
from mrrag_llamaindex.integration.tickets.registry import TICKETS

QUESTION = "Is there edema?"


def ticket_behind(nodes):
    (ticket,) = {id(ticket): ticket for ticket in (ticket_of(one.node) for one in nodes)}.values()
    return ticket


def holds_pixels(ticket) -> bool:
    return "rgb" in vars(ticket.image)


def test_a_stream_that_is_cut_off_lets_go_of_its_pixels(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm, streaming=True)
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    ticket = ticket_behind(response.source_nodes)
    next(response.response_gen)
    response.response_gen.close()
    assert not holds_pixels(ticket)
    assert ticket.image.content == Path(image).read_bytes()  # a further call can read it again


def test_a_call_that_fails_lets_go_of_its_pixels(hospital, llm, image, monkeypatch):
    engine = hospital.index.as_query_engine(llm=llm)
    bundle = QueryBundle(QUESTION, image_path=str(image))
    nodes = engine.retrieve(bundle)

    def fail(*_, **__):
        assert holds_pixels(ticket_behind(nodes))
        raise MRRAGError("it failed")

    monkeypatch.setattr(llm.engine, "generate", fail)
    with pytest.raises(MRRAGError, match="it failed"):
        engine.synthesize(bundle, nodes)
    assert not holds_pixels(ticket_behind(nodes))


@pytest.mark.parametrize("read", ["whole", "begun", "never"])
def test_an_answer_of_ours_leaves_no_evidence_behind(hospital, llm, image, read):
    before = set(TICKETS._tickets)
    answer = stream(hospital.index, llm, str(image), QUESTION)
    ticket = ticket_behind(answer.source_nodes)
    assert ticket.ticket_id in TICKETS._tickets
    if read == "whole":
        assert "".join(answer)
    elif read == "begun":
        next(iter(answer))
    answer.close()
    assert set(TICKETS._tickets) <= before
    assert not holds_pixels(ticket)
    if read == "whole":
        assert answer.result.answer.document_ids


def test_an_answer_of_ours_may_be_closed_while_it_is_read(hospital, llm, image):
    answer = stream(hospital.index, llm, str(image), QUESTION)
    for _ in answer:
        answer.close()
    assert answer.result is None
    assert list(answer) == []
