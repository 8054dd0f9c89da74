"""Sort prompts into batches: those that share image and documents together, the rest by length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mrrag_llamaindex.generation.prompt.request import Prompt

LEAST_SHARED = 32
"""Tokens. Sharing less saves less than the second forward pass costs."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that run together.

    Attributes
    ----------
    rows : tuple of int
        Indices of the prompts.
    shared : int
        Tokens at the start that all of them have in common, image included, and that are
        prefilled once. 0: every row is prefilled whole.
    """

    rows: tuple[int, ...]
    shared: int


def make_batches(
    prompts: Sequence[Prompt],
    images: Sequence[Hashable],
    *,
    batch_size: int,
    shares_prefix: bool = True,
) -> list[PromptBatch]:
    """Sort prompts into batches.

    Questions on the same image and documents share everything up to the question; other prompts
    on the same image share what stands before their first difference. A prompt that shares with
    no other runs in a batch of prompts of about its length, so that little is padded.

    Parameters
    ----------
    prompts : sequence of Prompt
    images : sequence of hashable
        One key per prompt: equal keys mean the same prepared image.
    batch_size : int
        Most rows of a batch.
    shares_prefix : bool
        False: prefill every row whole.

    Returns
    -------
    list of PromptBatch
        Every prompt stands in exactly one.
    """
    batches: list[PromptBatch] = []
    alone = list(range(len(prompts)))
    if shares_prefix and len(prompts) == 1:
        # A single question takes the same road, so that its answer does not depend, in the last
        # digits, on whether its prefix was in the cache.
        return [PromptBatch((0,), _worth(prompts[0].question_span[0]))]
    if shares_prefix:
        alone = []
        for rows in _by_image(images):
            groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
            for row in rows:
                start = prompts[row].question_span[0]
                groups[prompts[row].input_ids[:start]].append(row)
            rest = []
            for prefix, group in groups.items():
                if len(group) > 1 and _worth(len(prefix)):
                    batches += _cut(prompts, group, len(prefix), batch_size)
                else:
                    rest += group
            common = _common(prompts, rest) if len(rest) > 1 else 0
            if common:
                batches += _cut(prompts, rest, common, batch_size)
            else:
                alone += rest
    return batches + _cut(prompts, alone, 0, batch_size)


def _by_image(images: Sequence[Hashable]) -> list[list[int]]:
    rows: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        rows[image].append(row)
    return list(rows.values())


def _common(prompts: Sequence[Prompt], rows: Sequence[int]) -> int:
    """Tokens that all of these prompts begin with, at most up to the first question."""
    starts = [prompts[row].input_ids[: prompts[row].question_span[0]] for row in rows]
    shortest = min(map(len, starts))
    columns = enumerate(zip(*starts, strict=False))
    common = next((index for index, column in columns if len(set(column)) > 1), shortest)
    # A cut through the image would leave part of its features without their pixels.
    images = [span for row in rows if (span := prompts[row].image_span)]
    return _worth(common) if all(common >= stop for _, stop in images) else 0


def _worth(shared: int) -> int:
    return shared if shared >= LEAST_SHARED else 0


def _cut(
    prompts: Sequence[Prompt], rows: Sequence[int], shared: int, size: int
) -> list[PromptBatch]:
    longest_first = sorted(rows, key=lambda row: -len(prompts[row].input_ids))
    return [
        PromptBatch(tuple(longest_first[start : start + size]), shared)
        for start in range(0, len(longest_first), size)
    ]


def pad_batch(
    sequences: Sequence[Sequence[int]], pad_token_id: int, *, shared: int = 0
) -> dict[str, Any]:
    """Pad token sequences so that all of them end in the last column.

    Parameters
    ----------
    sequences : sequence of sequence of int
    pad_token_id : int
    shared : int
        Tokens at the start that all have in common; they stay in the first columns, and the
        padding stands behind them.

    Returns
    -------
    dict
        ``input_ids`` and ``attention_mask``, int64 (rows, longest); the mask is 0 on padding.

    Examples
    --------
    >>> pad_batch([[7, 8, 1], [7, 8, 2, 3]], 0, shared=2)["input_ids"].tolist()
    [[7, 8, 0, 1], [7, 8, 2, 3]]
    """
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence)
        start = length - len(sequence) + shared
        ids[row, :shared], ids[row, start:] = tokens[:shared], tokens[shared:]
        mask[row, :shared] = mask[row, start:] = 1
    return {"input_ids": ids, "attention_mask": mask}
