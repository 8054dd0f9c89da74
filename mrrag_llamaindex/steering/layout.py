"""Where the tokens of one prompt stand in a padded batch: shared prefix, padding, the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.policy import SteeringPolicy
from mrrag_llamaindex.steering.spans import PromptSpans


def lay_out(
    spans: Sequence[PromptSpans],
    lambdas: Sequence[Sequence[float]],
    policy: SteeringPolicy,
    padded_length: int,
    shared_prefix: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Write the columns and rows of a policy onto a padded batch.

    Parameters
    ----------
    spans, lambdas, policy, padded_length, shared_prefix
        As for `SteeringPlan.build`.

    Returns
    -------
    weights : torch.Tensor
        float32 (batch, padded_length): the policy's weight of each column, else 0.
    rows : torch.Tensor
        bool (batch, padded_length): rows to steer.
    padding : tuple of int
        Padding tokens of each row.

    Raises
    ------
    SteeringError
        If the numbers of rows or documents differ, a lambda is outside [0, 1], or a prompt does
        not fit, see `row_padding`.
    """
    if len(spans) != len(lambdas) or not spans:
        raise SteeringError(
            f"a plan needs one list of lambdas per prompt, got {len(lambdas)} for "
            f"{len(spans)} prompts"
        )
    weights = torch.zeros(len(spans), padded_length, dtype=torch.float32)
    rows = torch.zeros(len(spans), padded_length, dtype=torch.bool)
    padding: list[int] = []
    for row, (prompt, values) in enumerate(zip(spans, lambdas, strict=True)):
        pad = row_padding(row, prompt, padded_length, shared_prefix)
        if len(values) != len(prompt.documents):
            raise SteeringError(
                f"row {row}: {len(values)} lambdas for {len(prompt.documents)} documents"
            )
        for value in values:
            if not 0.0 <= value <= 1.0:
                raise SteeringError(f"row {row}: lambda {value} is outside [0, 1]")
        for span, weight in policy.columns(prompt, values):
            for columns in place(span, pad, shared_prefix):
                weights[row, columns] = weight
        start, stop = policy.rows(prompt)
        rows[row, pad + start : pad + stop] = True
        padding.append(pad)
    return weights, rows, tuple(padding)


def row_padding(row: int, prompt: PromptSpans, padded_length: int, shared_prefix: int) -> int:
    """Count the padding tokens of one row, and check that it can stand behind the prefix.

    Parameters
    ----------
    row
        Index in the batch, for messages.
    prompt
        Spans of the whole prompt, the prefix included.
    padded_length
        Tokens per row of the batch.
    shared_prefix
        Leading tokens that all rows share; 0 is ordinary left padding.

    Raises
    ------
    SteeringError
        If the prompt is longer than the batch, or its question begins inside the prefix.
    """
    padding = padded_length - prompt.length
    if padding < 0:
        raise SteeringError(
            f"row {row}: the prompt has {prompt.length} tokens, the batch only "
            f"{padded_length}; build the plan from the padded input_ids"
        )
    start, stop = prompt.question
    if start < shared_prefix:
        raise SteeringError(
            f"row {row}: the question (tokens {start}..{stop}) begins inside the shared prefix of "
            f"{shared_prefix} tokens, which is prefilled without steering; end the prefix before "
            "the question"
        )
    return padding


def place(span: tuple[int, int], padding: int, shared_prefix: int) -> tuple[slice, ...]:
    """Find the columns of one token span in ``[prefix | padding | rest]``.

    Parameters
    ----------
    span
        ``(start, stop)`` in the prompt.
    padding
        Padding tokens of the row.
    shared_prefix
        Tokens before the padding.

    Returns
    -------
    tuple of slice
        The part in the prefix, which stays, and the part behind it, which moves right; never a
        padding token. Parts that are empty are left out.

    Examples
    --------
    >>> place((1, 3), padding=2, shared_prefix=4)
    (slice(1, 3, None),)
    >>> place((3, 6), padding=2, shared_prefix=4)
    (slice(3, 4, None), slice(6, 8, None))
    >>> place((1, 3), padding=2, shared_prefix=0)
    (slice(3, 5, None),)
    """
    start, stop = span
    parts = (
        slice(start, min(stop, shared_prefix)),
        slice(max(start, shared_prefix) + padding, stop + padding),
    )
    return tuple(part for part in parts if part.start < part.stop)
