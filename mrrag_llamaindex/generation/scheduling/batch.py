"""Run one batch of requests, each of which ends when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from transformers import StoppingCriteria

from mrrag_llamaindex.generation.decoding.guidance import probe_for
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.runner import BatchCall
from mrrag_llamaindex.generation.scheduling.job import Generated, Job


class RowWatch(StoppingCriteria):
    """Hands every row's tokens to its request, and ends the row with it.

    A row ends with the model's end token, at its own limit, or when its request is cancelled.

    Parameters
    ----------
    jobs : sequence of Job
        One per row.
    probe : FirstTokenProbe
    ends : set of int
        The model's end tokens.
    finished : callable
        Called with a job and its result.
    between : callable
        Called after every step.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        probe: FirstTokenProbe,
        ends: Set[int],
        finished: Callable[[Job, Generated], object],
        between: Callable[[], object],
    ) -> None:
        self.jobs = jobs
        self._probe = probe
        self._ends = ends
        self._finished = finished
        self._between = between
        self._started = time.perf_counter()

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        """Take one token of every row; True where a row is over."""
        for row, (job, token) in enumerate(zip(self.jobs, input_ids[:, -1].tolist(), strict=True)):
            if job.done():
                continue
            job.token(token)
            if token in self._ends or len(job.tokens) >= job.asked.max_new_tokens:
                self.finish(row, job.tokens)
        self._between()
        over = [job.done() for job in self.jobs]
        return torch.tensor(over, device=input_ids.device)  # type: ignore[return-value]

    def finish(self, row: int, tokens: list[int]) -> None:
        """Give a row its result."""
        seconds = time.perf_counter() - self._started
        self._finished(self.jobs[row], Generated(tokens, self._probe.row(row), seconds))


def run_batch(
    jobs: Sequence[Job],
    shared: int,
    finished: Callable[[Job, Generated], object],
    between: Callable[[], object],
) -> None:
    """Answer requests that may run together.

    Parameters
    ----------
    jobs : sequence of Job
        See `Asked.joins`.
    shared : int
        Tokens at the start that all of them have in common.
    finished, between
        As for `RowWatch`.

    Raises
    ------
    MRRAGError
        If the batch cannot be run; requests that are not done then have no answer.
    """
    asked = [job.asked for job in jobs]
    first = asked[0]
    prompts = [one.prompt for one in asked]
    layers = next((one.layers for one in asked if one.layers), ())
    plan = first.planner.lay(prompts, first.policy, layers, shared)
    probe = probe_for(first.reader, [one.request for one in asked], prompts, first.policy)
    watch = RowWatch(jobs, probe, first.reader.end_ids, finished, between)
    limit = max(one.max_new_tokens for one in asked)
    images = [one.image for one in asked]
    tokens = first.decoding.run(
        first.runner, BatchCall(prompts, images, plan, probe, limit, shared, watch)
    )
    for row, job in enumerate(jobs):
        if not job.done():  # a decoding that chooses a whole answer at once
            for token in tokens[row].tolist():
                job.token(token)
            watch.finish(row, job.tokens)
