"""Attention knockout: edges between parts of a prompt, windows of layers, and plans that block.

Geva et al. ("Dissecting recall of factual associations", EMNLP 2023) block attention from one set
of tokens to another in a window of layers and read off the answer how much flowed there; Zhang et
al. (CVPR 2025) do so between image, question and last token of a multimodal model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.block import Block
from mrrag_llamaindex.steering.layout import place
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policy import QuestionRows
from mrrag_llamaindex.steering.spans import PromptSpans

Span = tuple[int, int]

STEERED = "documents->question"
"""The edge that steering acts on: its rows are those that `IFA` steers, see `edges_of`."""


@dataclass(frozen=True)
class Edge:
    """Attention from some rows of a prompt to some of its columns.

    Attributes
    ----------
    name
        ``"source->target"``; the target's tokens are the rows, the source's the columns.
    rows
        Token indices, ascending.
    columns
        Token spans (start, stop).

    Raises
    ------
    SteeringError
        If there is no row or no column, or a column does not stand before every row: a row that
        cannot see itself might be left with nothing to see.
    """

    name: str
    rows: tuple[int, ...]
    columns: tuple[Span, ...]

    def __post_init__(self) -> None:
        if not self.rows or not any(start < stop for start, stop in self.columns):
            raise SteeringError(f"edge {self.name!r} has no rows or no columns to block")
        if max(stop for _, stop in self.columns) > min(self.rows):
            raise SteeringError(
                f"edge {self.name!r}: its columns must stand before its rows, tokens "
                f"{self.rows[0]}..{self.rows[-1]}"
            )


def edges_of(
    spans: PromptSpans, question_rows: QuestionRows = defaults.QUESTION_ROWS
) -> tuple[Edge, ...]:
    """Name the edges of one prompt.

    ``question`` as a target is what IFA steers: the question's own tokens, or those up to the end
    of the prompt. As a source it is its own tokens. ``last`` is the row that answers, the last one
    of the prompt; it may belong to the question as a target (as in steering), and never does as a
    source.

    Parameters
    ----------
    spans
        Of the prompt.
    question_rows
        Which rows are the question's, as for `IFA`.

    Returns
    -------
    tuple of Edge
        ``documents->question``, ``image->question``, ``question->last``, ``documents->last``, and
        ``document-<n>->question+last`` for each document (from 1, in prompt order). What the
        prompt does not hold has no edge.
    """
    start, stop = spans.question
    last = spans.length - 1
    question = tuple(range(start, spans.length if question_rows == "to_end" else stop))
    documents = tuple(span for span in spans.documents if span[0] < span[1])
    image = () if spans.image is None else (spans.image,)
    both = tuple(sorted({*question, last}))
    wanted = [
        (STEERED, question, documents),
        ("image->question", question, image),
        ("question->last", (last,), ((start, min(stop, last)),)),
        ("documents->last", (last,), documents),
    ]
    wanted += [
        (f"document-{number}->question+last", both, (span,))
        for number, span in enumerate(spans.documents, start=1)
    ]
    return tuple(
        Edge(name, rows, columns)
        for name, rows, columns in wanted
        if any(first < end for first, end in columns)
    )


def everything(spans: PromptSpans) -> Edge:
    """Return the control that must move the answer: all rows from the question on, blind.

    Neither documents nor image are seen by the question, nor by anything after it.
    """
    rows = tuple(range(spans.question[0], spans.length))
    image = () if spans.image is None else (spans.image,)
    return Edge("documents+image->rest", rows, (*spans.documents, *image))


def default_window(depth: int) -> int:
    """Width of a window in a model with ``depth`` layers: 9 of 32, and the same share of others.

    Examples
    --------
    >>> default_window(32), default_window(24), default_window(4)
    (9, 7, 1)
    """
    return max(1, round(defaults.KNOCKOUT_WINDOW_SHARE * depth))


def window_around(centre: int, width: int, depth: int) -> range:
    """Layers ``[centre - width // 2, centre - width // 2 + width)``, cut off at both ends.

    For an odd width this is Zhang's window, for an even one Geva's.

    Examples
    --------
    >>> window_around(0, 9, 32), window_around(16, 9, 32), window_around(31, 10, 32)
    (range(0, 5), range(12, 21), range(26, 32))

    Raises
    ------
    ValueError
        If the centre is no layer, or the width is not positive.
    """
    if not 0 <= centre < depth or width < 1:
        raise ValueError(f"a window of {width} around layer {centre} of {depth} does not exist")
    start = centre - width // 2
    return range(max(0, start), min(depth, start + width))


def block_plan(
    edges: Sequence[Edge | None],
    spans: PromptSpans,
    layers: Collection[int],
    device: torch.device | str | None = None,
    shared_prefix: int = 0,
    heads: tuple[int, ...] | None = None,
) -> SteeringPlan:
    """Lay one edge on each row of a batch that repeats one prompt.

    Parameters
    ----------
    edges
        One per row; None blocks nothing there: the stock kernel computes that row.
    spans
        Of the prompt; the rows of a batch are equal, so nothing is padded.
    layers
        Where to block.
    device
        Of the plan's tensors.
    shared_prefix
        Leading tokens that are prefilled once, without blocking.
    heads
        Query heads to block in each of the layers; None for all.

    Raises
    ------
    SteeringError
        If a row to be blocked lies in the shared prefix, or there is no layer.
    """
    if not layers:
        raise SteeringError("attention knockout needs at least one layer to block in")
    weights = torch.zeros(len(edges), spans.length, dtype=torch.float32)
    rows = torch.zeros(len(edges), spans.length, dtype=torch.bool)
    for number, edge in enumerate(edges):
        if edge is None:
            continue
        if edge.rows[0] < shared_prefix:
            raise SteeringError(
                f"edge {edge.name!r} blocks rows inside the shared prefix of {shared_prefix} "
                "tokens, which is prefilled without blocking; end the prefix before the question"
            )
        rows[number, list(edge.rows)] = True
        for span in edge.columns:
            for columns in place(span, 0, shared_prefix):
                weights[number, columns] = 1.0
    return SteeringPlan(
        weights.to(device),
        rows.to(device),
        frozenset(layers),
        shared_prefix=shared_prefix,
        policy=Block(),
        heads=None if heads is None else dict.fromkeys(layers, heads),
    )
