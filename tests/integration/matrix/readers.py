"""Readers that are not ours: another LLM, and everything that observes a query of the host.

Each notes what it reads, so that a test can say what no one but `MRRAGLLaVA` may see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import BoundArguments
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.schema import BaseNode, NodeWithScore

MARKER = "[[mrrag:"

ACCEPTED = (
    "GetResponseStartEvent",
    "GetMessageResponseStartEvent",
    ".get_response",
    ".aget_response",
    ".get_response_from_messages",
    ".aget_response_from_messages",
    "DefaultRefineProgram.__call__",
    "LLMTextCompletionProgram.__call__",
    "TokenTextSplitter.split_text",
    "CBEventType.CHUNKING",
)
"""What may see markers: the host's own record of what its synthesizer was handed and packed, in an
engine whose LLM reads tickets. `docs/llamaindex.md` says so."""


class OtherLLM(CustomLLM):
    """An LLM that is not ours; it notes its prompts and answers what a function says."""

    reply: Any = Field(default="yes", exclude=True)
    context_window: int = 100_000
    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.context_window, num_output=64)

    def _text(self, prompt: str) -> str:
        self._prompts.append(prompt)
        return self.reply(prompt) if callable(self.reply) else self.reply

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        return CompletionResponse(text=self._text(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Iterator[Any]:
        text = self._text(prompt)
        return (CompletionResponse(text=text, delta=text) for _ in range(1))


class Watch:
    """What observers saw of the queries made while it watched.

    Attributes
    ----------
    leaks : list of (str, str)
        Who saw a marker, and the text that holds it.
    accepted : set of str
        Which of `ACCEPTED` saw one.
    observed : set of str
        Kinds of observer that were called at all: a watch that nobody calls proves nothing.
    """

    def __init__(self) -> None:
        self.leaks: list[tuple[str, str]] = []
        self.accepted: set[str] = set()
        self.observed: set[str] = set()

    def note(self, kind: str, who: str, *things: Any) -> None:
        self.observed.add(kind)
        try:
            texts = list(texts_in(things))
        except Exception as error:  # the host swallows what its observers raise
            self.leaks.append((f"{kind} {who} failed", repr(error)))
            raise
        for text in texts:
            if MARKER not in text:
                continue
            if who.endswith(ACCEPTED):
                self.accepted.add(who)
            else:
                self.leaks.append((f"{kind} {who}", text))


def texts_in(thing: Any, depth: int = 0) -> Iterator[str]:
    """Walk through all text that an observer gets with what it is handed."""
    if isinstance(thing, (str, bytes)):
        yield thing if isinstance(thing, str) else ""
    elif depth > 6 or thing is None or isinstance(thing, (int, float, type)):
        return
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from texts_in(key, depth + 1)
            yield from texts_in(value, depth + 1)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for item in thing:
            yield from texts_in(item, depth + 1)
    elif isinstance(thing, (BaseNode, NodeWithScore)):
        yield thing.get_content()
        yield str(thing.to_dict())
    elif isinstance(thing, BaseModel):
        for name in type(thing).model_fields:
            yield from texts_in(getattr(thing, name), depth + 1)
    elif isinstance(thing, BoundArguments):
        yield from texts_in(dict(thing.arguments), depth + 1)
    elif type(thing).__module__.startswith("llama_index") and hasattr(thing, "__dict__"):
        yield from texts_in(vars(thing), depth + 1)


class _Events(BaseEventHandler):
    _watch: Watch = PrivateAttr()

    def handle(self, event: Any, **_: Any) -> None:
        self._watch.note("event", event.class_name(), event)


class _Spans(BaseSpanHandler[Any]):
    _watch: Watch = PrivateAttr()

    def new_span(self, id_: str, bound_args: Any, **_: Any) -> None:
        self._watch.note("span", id_.rsplit("-", 5)[0], bound_args)

    def prepare_to_exit_span(self, id_: str, bound_args: Any, result: Any = None, **_: Any) -> None:
        self._watch.note("span", id_.rsplit("-", 5)[0], bound_args, result)

    def prepare_to_drop_span(self, id_: str, bound_args: Any, err: Any = None, **_: Any) -> None:
        self._watch.note("span", id_.rsplit("-", 5)[0], bound_args, str(err))


class _Callbacks(BaseCallbackHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__([], [])
        self.watch = watch

    def on_event_start(self, event_type: Any, payload: Any = None, **_: Any) -> str:
        self.watch.note("callback", str(event_type), payload)
        return ""

    def on_event_end(self, event_type: Any, payload: Any = None, **_: Any) -> None:
        self.watch.note("callback", str(event_type), payload)

    def start_trace(self, trace_id: str | None = None) -> None:
        """Nothing to note."""

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        """Nothing to note."""


@contextmanager
def watching(*managers: CallbackManager) -> Iterator[Watch]:
    """Observe all that the host lets observers see, by events, spans and these managers."""
    watch = Watch()

    def tokens(text: str) -> list[str]:
        watch.note("token counter", "tokenizer", text)
        return text.split()

    events, spans = _Events(), _Spans()
    events._watch = spans._watch = watch
    handlers = [_Callbacks(watch), TokenCountingHandler(tokenizer=tokens)]
    root = get_dispatcher()
    root.add_event_handler(events)
    root.add_span_handler(spans)
    unique = list({id(manager): manager for manager in managers}.values())
    for manager in unique:
        for handler in handlers:
            manager.add_handler(handler)
    try:
        yield watch
    finally:
        root.event_handlers.remove(events)
        root.span_handlers.remove(spans)
        for manager in unique:
            for handler in handlers:
                manager.remove_handler(handler)
