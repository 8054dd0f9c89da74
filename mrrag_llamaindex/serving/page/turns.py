"""One question on the page: its documents, then where attention goes, then both answers."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.generation.attention import attention_shares
from mrrag_llamaindex.generation.explanation import without_documents
from mrrag_llamaindex.generation.influence.hiding import require_explainable
from mrrag_llamaindex.integration.answers.again import request_of
from mrrag_llamaindex.integration.answers.retrieval import node_facts
from mrrag_llamaindex.serving.page.sessions import Turn
from mrrag_llamaindex.serving.service import Cancelled, Service

if TYPE_CHECKING:
    from mrrag_llamaindex.integration.answers.streaming import AnswerStream

SIDES = ("steered", "plain")


def explainable(service: Service) -> bool:
    """Whether this server's answers can be explained: see `require_explainable`."""
    policy = service.llm.policy
    try:
        require_explainable(service.llm.engine)
    except ModelError:
        return False
    return policy is None or policy.guidance == 1


def answer(service: Service, turn: Turn, cancelled: threading.Event) -> Iterator[tuple[str, Any]]:
    """Answer a turn twice, steered and plain, and fill it in.

    Yields
    ------
    tuple
        ``("documents", None)`` once they are known; ``("looked", None)`` once it is known where
        attention goes and what the answers' first tokens are; ``("piece", (side, text))``;
        ``("answered", None)`` at the end.

    Raises
    ------
    Cancelled
    MRRAGError
    """
    explain = explainable(service)
    options = turn.options
    steered = service.stream(
        turn.image, turn.question, options.model_copy(update={"explain": explain})
    )
    turn.nodes = steered.source_nodes
    yield "documents", None
    _look(service, turn)
    yield "looked", None
    plain = service.stream(turn.image, turn.question, options.model_copy(update={"ifa": False}))
    streams = {"steered": steered, "plain": plain}
    for piece in _both(streams, cancelled):
        yield "piece", piece
    for name, one in streams.items():
        if one.result is not None:
            turn.results[name] = one.result
    yield "answered", None


def documents(turn: Turn) -> list[dict[str, Any]]:
    """Return the facts of a turn's documents, and what they did to its answer once that is known.

    Lambdas are those of the prompt, which may hold fewer documents than were retrieved.
    """
    rows = [node_facts(item) for item in turn.nodes]
    result = turn.results.get("steered")
    if result is None:
        return rows
    read = result.answer.lambdas
    influences = result.answer.influence or {}
    for row in rows:
        name = row["pair_id"]
        moved = influences.get(name)
        row["read"] = name in read
        row["lambda"] = read.get(name, 0.0)
        row["influence"] = moved and {"points": moved.points, "flips": moved.flips}
    return rows


def hide(service: Service, turn: Turn, pair_id: str) -> None:
    """Hide a document of a turn, or put it back, and ask again how the answer then begins.

    Parameters
    ----------
    service : Service
    turn : Turn
    pair_id : str
        Of the document.

    Raises
    ------
    MRRAGError
        Then nothing is changed.
    """
    with turn.lock:
        hidden = turn.hidden ^ {pair_id}
        without = None
        if hidden:
            without = without_documents(
                service.llm.engine,
                request_of(turn.question, turn.nodes),
                turn.image.pictures,
                hidden,
                service.llm.policy,
                turn.options.max_new_tokens,
            )
        turn.hidden, turn.without = hidden, without


def _look(service: Service, turn: Turn) -> None:
    request = request_of(turn.question, turn.nodes)
    for name, policy in zip(SIDES, (service.llm.policy, None), strict=True):
        try:
            turn.looks[name] = attention_shares(
                service.llm.engine,
                request,
                turn.image.pictures,
                policy,
                max_new_tokens=turn.options.max_new_tokens,
            )
        except (ModelError, SteeringError):  # this backend never forms attention: no strip
            return


def _both(
    streams: Mapping[str, AnswerStream], cancelled: threading.Event
) -> Iterator[tuple[str, str]]:
    """Read streams side by side, so that the scheduler can run them together."""
    arrived: queue.Queue[tuple[str, str | None, BaseException | None]] = queue.Queue()
    stop = threading.Event()

    def read(name: str, stream: AnswerStream) -> None:
        try:
            for piece in stream:
                if stop.is_set():
                    break
                arrived.put((name, piece, None))
            arrived.put((name, None, None))
        except BaseException as error:
            arrived.put((name, None, error))

    # In a copy of this context, by which a request that is given up takes back its calls.
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(read, *item), daemon=True)
        for item in streams.items()
    ]
    for thread in threads:
        thread.start()
    try:
        left = len(streams)
        while left:
            try:
                name, piece, error = arrived.get(timeout=0.2)
            except queue.Empty:
                if cancelled.is_set():
                    raise Cancelled from None
                continue
            if error is not None:
                raise error
            if piece is None:
                left -= 1
            else:
                yield name, piece
    finally:
        stop.set()
