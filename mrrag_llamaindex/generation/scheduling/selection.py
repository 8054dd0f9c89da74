"""Which of the waiting requests run next, and together."""

from __future__ import annotations

from collections.abc import Sequence

from mrrag_llamaindex.generation.prompt.batching import PromptBatch, make_batches
from mrrag_llamaindex.generation.scheduling.job import Job


def next_batch(waiting: Sequence[Job]) -> tuple[list[Job], int]:
    """Choose the batch that the oldest request runs in.

    The oldest decides, so that none waits for ever: with it run those that share image and
    documents with it, or else those whose prompts are about as long as its own.

    Parameters
    ----------
    waiting : sequence of Job
        The oldest first.

    Returns
    -------
    jobs : list of Job
        At least the oldest.
    shared : int
        Tokens at the start that all of them have in common, see `make_batches`.
    """
    oldest = waiting[0].asked
    mates = [job for job in waiting if job.asked.joins(oldest)]
    group = _around_first(mates)
    jobs = _fitting(mates, group.rows, oldest.batch_size)
    if len(jobs) == 1:
        return jobs, _around_first(jobs).shared
    return jobs, group.shared


def _around_first(jobs: Sequence[Job]) -> PromptBatch:
    groups = make_batches(
        [job.asked.prompt for job in jobs],
        [job.asked.image.digest if job.asked.image else None for job in jobs],
        batch_size=len(jobs),
        shares_prefix=jobs[0].asked.shares_prefix,
    )
    return next(group for group in groups if 0 in group.rows)


def _fitting(jobs: Sequence[Job], rows: Sequence[int], size: int) -> list[Job]:
    """Rows next to the first job's, by length, as many as fit into a batch and the window."""
    oldest = jobs[0].asked
    start = len(oldest.prompt.input_ids)
    nearest = sorted(
        rows, key=lambda row: (abs(len(jobs[row].asked.prompt.input_ids) - start), row)
    )
    chosen: list[Job] = []
    longest = answer = 0
    for row in nearest:
        asked = jobs[row].asked
        length = max(longest, len(asked.prompt.input_ids))
        most = max(answer, asked.max_new_tokens)
        # Rows end together, so that a short prompt has to wait for the end of the longest answer.
        if chosen and length + most > oldest.reader.window:
            continue
        longest, answer = length, most
        chosen.append(jobs[row])
        if len(chosen) == size:
            break
    return chosen
