"""What observers of a host see of an LLM call with finished text: the same without markers.

Spans, events, callbacks and token counters record what an LLM is called with. The call itself needs
the markers, which therefore travel beside what is recorded.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage
from llama_index_instrumentation import get_dispatcher

from mrrag_llamaindex.integration.tickets.templates import CleanText, without_marked_blocks

dispatcher = get_dispatcher(__name__)

_Method = TypeVar("_Method", bound=Callable[..., Any])


class FinishedMessages(list[ChatMessage]):
    """Finished messages without markers, as observers see them.

    Attributes
    ----------
    marked : sequence of ChatMessage
        As the host sent them.
    """

    marked: Sequence[ChatMessage]

    @classmethod
    def of(cls, messages: Sequence[ChatMessage]) -> FinishedMessages:
        """Remove the markers from messages, and keep these as they were in ``marked``."""
        finished = cls(map(without_marked_blocks, messages))
        finished.marked = messages
        return finished


def unobserved(method: _Method) -> _Method:
    """Let all observers of a method see its prompt or messages without markers.

    Parameters
    ----------
    method : callable
        Of an LLM; it reads what it was called with by `as_sent`.
    """
    observed = dispatcher.span(method)

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = _clean(args, kwargs)
            return await observed(self, *args, **kwargs)

        return cast(_Method, acall)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _clean(args, kwargs)
        return observed(self, *args, **kwargs)

    return cast(_Method, call)


def as_sent(given: Any) -> Any:
    """Return a prompt or messages with their markers."""
    return getattr(given, "marked", given)


def _clean(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (_without_markers(args[0]), *args[1:]), kwargs
    names = ("prompt", "messages")
    return args, {k: _without_markers(v) if k in names else v for k, v in kwargs.items()}


def _without_markers(given: Any) -> Any:
    if isinstance(given, str):
        return given if isinstance(given, CleanText) else CleanText.of(given)
    if hasattr(given, "call") or hasattr(given, "marked"):
        return given  # of a template that was filled without them
    return FinishedMessages.of(given)
