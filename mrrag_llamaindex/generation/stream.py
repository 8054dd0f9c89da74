"""An answer that is read while it is written."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from mrrag_llamaindex.generation.answer import Answer


class TokenStream:
    """Iterator over the pieces of one answer.

    Generation runs in a thread of its own and never waits for the reader, so two streams read
    in turn, or a stream read in another thread or not at all, cannot block each other.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    run : callable
        ``run(streamer, stopping_criteria)`` generates; called once, in the thread.
    finish : callable
        ``finish(text, seconds) -> Answer``.

    Attributes
    ----------
    answer : Answer or None
        The whole answer, once the stream has been read to its end.
    """

    def __init__(
        self,
        tokenizer: Any,
        run: Callable[[Any, StoppingCriteriaList], object],
        finish: Callable[[str, float], Answer],
    ) -> None:
        self.answer: Answer | None = None
        self._tokenizer = tokenizer
        self._run = run
        self._finish = finish
        self._cancelled = threading.Event()
        self._pieces = self._generate()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def close(self) -> None:
        """Stop generating after the token in hand; safe at any time and from any thread."""
        self._cancelled.set()

    def _generate(self) -> Iterator[str]:
        streamer: Any = TextIteratorStreamer(
            self._tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        stopping = StoppingCriteriaList([_Cancelled(self._cancelled)])
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self._run(streamer, stopping)
            except BaseException as error:
                failure.append(error)
            finally:
                # A second end is read by nobody; without a first one the reader waits for ever.
                streamer.end()

        started = time.perf_counter()
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), daemon=True)
        thread.start()
        text = ""
        try:
            for piece in streamer:
                if piece:
                    text += piece
                    yield piece
        finally:
            # Closing the generator early must stop the work on the device, too.
            if thread.is_alive():
                self._cancelled.set()
            thread.join()
        if failure:
            raise failure[0]
        self.answer = self._finish(text, time.perf_counter() - started)


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        stop = torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)
        return stop  # type: ignore[return-value]
