"""Run one batch of requests, each of which ends when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mrrag_llamaindex.generation.answer import AttentionTrace
from mrrag_llamaindex.generation.decoding.guidance import contrast_of, probe_for
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.runner import BatchCall, Watch
from mrrag_llamaindex.generation.scheduling.job import Asked, Generated, Job
from mrrag_llamaindex.generation.scheduling.looks import traced, watch_questions
from mrrag_llamaindex.steering.plan import SteeringPlan

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.prompt.request import Prompt


class RowWatch(Watch):
    """Hands every row's tokens to its request, and ends the row with it.

    A row ends with the model's end token, at its own limit, or when its request is cancelled. Once
    half of the rows are over, the batch goes on with the others alone.

    Parameters
    ----------
    jobs : sequence of Job
        One per row.
    probe : FirstTokenProbe
    ends : set of int
        The model's end tokens.
    thins : bool
        Whether the batch may go on with fewer rows.
    between : callable
        Called after every step.
    look : callable
        Returns every row's shares of attention, once the prompts have been read.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        probe: FirstTokenProbe,
        ends: Set[int],
        thins: bool,
        between: Callable[[], object],
        look: Callable[[], Sequence[AttentionTrace]],
    ) -> None:
        self._look = look
        self._looks: Sequence[AttentionTrace] | None = None
        self._jobs = list(enumerate(jobs))  # with the row of the first step
        self._probe = probe
        self._ends = ends
        self._thins = thins
        self._between = between
        self._started = time.perf_counter()
        self._going_on: list[int] = []

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.BoolTensor:
        """Take one token of every row; True where a row is over."""
        for (row, job), token in zip(self._jobs, input_ids[:, -1].tolist(), strict=True):
            if job.done():
                continue
            job.token(token)
            if token in self._ends or len(job.tokens) >= job.asked.max_new_tokens:
                self.finish(row, job)
        self._between()
        over = [job.done() for _, job in self._jobs]
        left = [place for place, is_over in enumerate(over) if not is_over]
        if self._thins and 0 < len(left) <= len(over) / 2:
            self._going_on = left
            over = [True] * len(over)
        return torch.tensor(over, device=input_ids.device)  # type: ignore[return-value]

    def going_on(self) -> list[int]:
        """See `Watch`."""
        rows, self._going_on = self._going_on, []
        if rows:
            self._jobs = [self._jobs[row] for row in rows]
        return rows

    @property
    def tokens_left(self) -> int:
        """See `Watch`."""
        return max(job.asked.max_new_tokens - len(job.tokens) for _, job in self._jobs)

    def finish(self, row: int, job: Job) -> None:
        """Give a row its result."""
        seconds = time.perf_counter() - self._started
        if self._looks is None:
            self._looks = self._look()
        job.succeed(Generated(job.tokens, self._probe.row(row), seconds, self._looks[row]))


def run_batch(
    jobs: Sequence[Job],
    shared: int,
    between: Callable[[], object],
) -> None:
    """Answer requests that may run together.

    Parameters
    ----------
    jobs : sequence of Job
        See `Asked.joins`.
    shared : int
        Tokens at the start that all of them have in common.
    between : callable
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
    requests = [one.request for one in asked]
    images = [one.image for one in asked]
    contrast = contrast_of(first.policy, first.decoding)
    probe = probe_for(first.reader, requests, prompts, images, contrast, first.runner)
    # What counts rows along from step to step cannot be thinned: guidance, an edit of every step,
    # and models that keep positions beside the cache.
    edited = plan is not None and plan.edit is not None and plan.every_step
    thins = first.shares_prefix and contrast is None and not edited
    plan, look = _looked_at(first, prompts, plan, shared)
    watch = RowWatch(jobs, probe, first.reader.end_ids, thins, between, look)
    limit = max(one.max_new_tokens for one in asked)
    tokens = first.decoding.run(
        first.runner, BatchCall(prompts, images, plan, probe, limit, shared, watch)
    )
    for row, job in enumerate(jobs):
        if not job.done():  # a decoding that chooses a whole answer at once
            for token in tokens[row].tolist():
                job.token(token)
            watch.finish(row, job)


def _looked_at(
    asked: Asked, prompts: Sequence[Prompt], plan: SteeringPlan | None, shared: int
) -> tuple[SteeringPlan | None, Callable[[], Sequence[AttentionTrace]]]:
    """Let a batch's plan watch the questions, and return what gives every row's shares then."""
    if not asked.watched:
        unknown = AttentionTrace(reason=asked.unwatched)
        return plan, lambda: [unknown] * len(prompts)
    looked_at = watch_questions(prompts, asked.watched, shared)
    lengths = [len(prompt.input_ids) for prompt in prompts]
    plan = replace(plan or SteeringPlan.nothing(lengths, shared), watch=looked_at)
    return plan, lambda: traced(looked_at)
