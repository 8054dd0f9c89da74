"""Held evidence is bounded by number, age and bytes, and never silently wrong."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.tickets.registry import TicketRegistry
from mrrag_llamaindex.integration.trace import verbatim_answer

SIDE = 100
PIXELS = 4 * SIDE * SIDE


def film(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def file(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    film(seed).save(buffer, "PNG")
    return buffer.getvalue()


def issue(registry: TicketRegistry, source: Image.Image | bytes | None = None, text: str = ""):
    image = None if source is None else QueryImage.read(source)
    return registry.issue("question", [PromptDocument("d", text, 1.0)], image)


def held(registry: TicketRegistry) -> int:
    return sum(ticket.memory for ticket in registry._tickets.values())


def test_open_images_beyond_the_bound_leave_least_recently_used_first():
    registry = TicketRegistry(memory=4 * PIXELS)
    tickets = [issue(registry, film(seed)) for seed in range(3)]
    registry.redeem(tickets[0].ticket_id)
    tickets += [issue(registry, film(seed)) for seed in range(3, 5)]
    assert held(registry) <= registry.memory
    with pytest.raises(EvidenceError, match="ask the question again"):
        registry.redeem(tickets[1].ticket_id)
    for seed in (0, 3, 4):
        image = registry.redeem(tickets[seed].ticket_id).image
        assert image.rgb.tobytes() == film(seed).tobytes()


def test_decoded_pixels_of_files_leave_before_any_ticket_does():
    size = len(file())
    registry = TicketRegistry(memory=10 * size + 2 * PIXELS)
    tickets = []
    for seed in range(8):
        tickets.append(issue(registry, file(seed)))
        assert tickets[-1].image.rgb.size == (SIDE, SIDE)
    assert held(registry) <= registry.memory + PIXELS  # decoded since the last ticket was issued
    for seed, ticket in enumerate(tickets):
        assert registry.redeem(ticket.ticket_id).image.rgb.tobytes() == film(seed).tobytes()


def test_one_image_larger_than_the_bound_is_still_held():
    registry = TicketRegistry(memory=PIXELS // 2)
    for seed in range(3):
        ticket = issue(registry, film(seed))
        assert registry.redeem(ticket.ticket_id).image.rgb.tobytes() == film(seed).tobytes()
        assert len(registry._tickets) == 1


def test_long_reports_count_too():
    registry = TicketRegistry(memory=100_000)
    first = issue(registry, text="a" * 60_000)
    issue(registry, text="b" * 60_000)
    with pytest.raises(EvidenceError, match="no longer held"):
        registry.redeem(first.ticket_id)


def test_an_answer_lets_go_of_pixels_and_a_further_call_still_finds_them():
    registry = TicketRegistry()
    ticket = issue(registry, file())
    assert ticket.image.rgb.size == (SIDE, SIDE)
    before = ticket.memory
    ticket.record(verbatim_answer("no"), 0)
    assert ticket.memory == before - PIXELS
    again = registry.redeem(ticket.ticket_id)
    assert again.image.rgb.tobytes() == film().tobytes()
    assert len(again.calls) == 1


def test_number_and_age_are_bounds_of_their_own():
    registry = TicketRegistry(capacity=2)
    tickets = [issue(registry) for _ in range(3)]
    with pytest.raises(EvidenceError, match="at most 2 questions"):
        registry.redeem(tickets[0].ticket_id)
    tickets[1].used -= registry.seconds + 1
    with pytest.raises(EvidenceError, match="no longer held"):
        registry.redeem(tickets[1].ticket_id)
    assert registry.redeem(tickets[2].ticket_id) is tickets[2]


def test_what_grew_since_is_bounded_when_the_next_question_is_read():
    registry = TicketRegistry(memory=3 * PIXELS)
    tickets = [issue(registry, file(seed)) for seed in range(6)]
    for ticket in tickets:
        assert ticket.image.rgb.size == (SIDE, SIDE)
    assert held(registry) > registry.memory
    registry.redeem(tickets[-1].ticket_id)
    assert held(registry) <= registry.memory
    tickets[-1].show({0: "x" * 4 * PIXELS}, earlier=False)
    registry.redeem(tickets[-1].ticket_id)
    assert list(registry._tickets) == [tickets[-1].ticket_id]


def test_a_dropped_ticket_is_gone_and_can_be_held_again():
    registry = TicketRegistry()
    ticket = issue(registry, file())
    registry.drop(ticket)
    registry.drop(ticket)
    with pytest.raises(EvidenceError, match="no longer held"):
        registry.redeem(ticket.ticket_id)
    registry.hold(ticket)
    assert registry.redeem(ticket.ticket_id) is ticket


def test_a_ticket_is_dropped_while_others_are_counted():
    """A stream that is garbage drops its ticket in whichever thread finds it, at any moment."""
    registry = TicketRegistry(memory=1)
    gone = issue(registry, film(0))

    class Film:
        @property
        def memory(self):
            registry.drop(gone)
            return PIXELS

        def release_pixels(self):
            pass

    newest = registry.draw("question", [], Film())
    thread = threading.Thread(target=registry.hold, args=(newest,), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert registry.redeem(newest.ticket_id) is newest
