"""An answer that is read while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from transformers import TextStreamer

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.generation.scheduling.job import Generated

JobT = TypeVar("JobT", bound=Future[Generated])


class TokenStream:
    """Iterator over the pieces of one answer.

    Generation never waits for the reader, so two streams read in turn, or a stream read in another
    thread or not at all, cannot block each other.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    job_for : callable
        ``job_for(on_token)`` makes the request, which calls ``on_token(token)`` for each.
    submit : callable
        ``submit(job)`` puts the request into the queue; called once, with the first read.
    finish : callable
        ``finish(generated) -> Answer``.

    Attributes
    ----------
    answer : Answer or None
        The whole answer, once the stream has been read to its end.
    """

    def __init__(
        self,
        tokenizer: Any,
        job_for: Callable[[Callable[[int], object]], JobT],
        submit: Callable[[JobT], None],
        finish: Callable[[Generated], Answer],
    ) -> None:
        arrived: SimpleQueue[int | None] = SimpleQueue()
        job = job_for(arrived.put)
        self._job: Future[Generated] = job
        self._job.add_done_callback(lambda _: arrived.put(None))
        self._answers: list[Answer] = []
        # It knows nothing of this object, so that it ends where its reader forgets it.
        self._pieces = _pieces(
            job,
            arrived,
            _Words(tokenizer),
            submit,
            finish,
            self._answers.append,
            ForkGuard(),
        )

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    @property
    def answer(self) -> Answer | None:
        """The whole answer, or None."""
        return self._answers[0] if self._answers else None

    def close(self) -> None:
        """Stop generating after the token in hand; safe at any time and from any thread.

        What was generated before can still be read; there is no answer then.
        """
        self._job.cancel()


def _pieces(
    job: JobT,
    arrived: SimpleQueue[int | None],
    words: _Words,
    submit: Callable[[JobT], None],
    finish: Callable[[Generated], Answer],
    done: Callable[[Answer], object],
    process: ForkGuard,
) -> Iterator[str]:
    started = time.perf_counter()
    try:
        process.check("this stream was", ModelError)
        if not job.done():
            submit(job)
        while (token := _next(arrived, process)) is not None:
            if piece := words.after(token):
                yield piece
        if piece := words.rest():
            yield piece
    finally:
        job.cancel()  # closing the generator early must stop the work, too
    try:
        generated = job.result()
    except CancelledError:
        return
    seconds = time.perf_counter() - started
    done(finish(replace(generated, seconds=seconds)))


def _next(arrived: SimpleQueue[int | None], process: ForkGuard) -> int | None:
    """Wait for a token; behind a fork nobody would bring one."""
    process.check("this stream was", ModelError)
    return arrived.get()


class _Words(TextStreamer):
    """Tokens in, whole words out."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self._ready = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._ready += text

    def after(self, token: int) -> str:
        """Return what can be read after one more token, which may be nothing."""
        self.put(torch.tensor([token]))  # type: ignore[no-untyped-call]
        return self._taken()

    def rest(self) -> str:
        """Return what is left at the end."""
        self.end()  # type: ignore[no-untyped-call]
        return self._taken()

    def _taken(self) -> str:
        ready, self._ready = self._ready, ""
        return ready
