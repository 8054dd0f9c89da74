"""The requests of the running batch that are steered, and their rows in each attention call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from mrrag_llamaindex.serving.vllm.paged import layout_of
from mrrag_llamaindex.steering.attention.rows import steer_rows, write_rows
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.window import RowWindow
from mrrag_llamaindex.steering.wire.request_plan import RequestPlan

Steered = dict[int, list[int]]
"""By layer, the positions of the rows that were steered."""


@dataclass(eq=False)
class SteeredRequest:
    """One request of the batch, as the overlay sees it.

    Attributes
    ----------
    key : str
        The engine's id of it.
    plan : SteeringPlan
        Of a batch of one.
    rows : tuple of int
        (start, stop) of the prompt rows to steer.
    steered : dict of int to list of int
        Since it was last reported.
    failure : str
        Why a row could not be steered; empty while all could.
    """

    key: str
    plan: SteeringPlan
    rows: tuple[int, int]
    steered: Steered = field(default_factory=dict)
    failure: str = ""

    @classmethod
    def of(cls, key: str, plan: RequestPlan) -> SteeredRequest:
        """Make one of what was sent."""
        return cls(key, plan.build(), plan.rows)

    def positions(self, first: int, stop: int) -> list[int]:
        """Which of the prompt's and the answer's rows ``first .. stop - 1`` are steered."""
        return steered_positions(self.plan, self.rows, first, stop)

    def window(self, first: int, stop: int, device: torch.device) -> RowWindow | None:
        """Return the steered rows of a call that holds rows ``first .. stop - 1``."""
        rows = [position - first for position in self.positions(first, stop)]
        return RowWindow.build([rows], first, self.plan.column_weights, device) if rows else None


def steered_positions(
    plan: SteeringPlan, rows: tuple[int, int], first: int, stop: int
) -> list[int]:
    """Return the steered ones of rows ``first .. stop - 1``: of the prompt, and of the answer.

    A request that was preempted runs its prompt and part of its answer again in one call, so one
    call may hold both.
    """
    prompt = range(max(first, rows[0]), min(stop, rows[1]))
    answer = range(max(first, plan.prompt_length), stop) if plan.every_step else range(0)
    return [*prompt, *answer]


class SteeredRequests:
    """Requests with a plan by their place in the batch; one object per engine.

    Attributes
    ----------
    by_row : dict of int to SteeredRequest
        Row of the engine's batch to request.
    """

    def __init__(self) -> None:
        self.by_row: dict[int, SteeredRequest] = {}

    def __bool__(self) -> bool:
        return bool(self.by_row)

    def steer(
        self,
        layer: Any,
        query: torch.Tensor,
        cache: torch.Tensor,
        step: Any,
        output: torch.Tensor,
    ) -> None:
        """Compute the steered rows of one layer again, and replace them.

        Parameters
        ----------
        layer
            vLLM's attention layer, after its own forward.
        query : torch.Tensor
            (tokens, heads, dim) or flat, all requests of the step one after the other.
        cache : torch.Tensor
            The layer's paged cache, which holds the step's keys and values already.
        step
            vLLM's ``CommonAttentionMetadata``.
        output : torch.Tensor
            As `query`; changed in place.
        """
        number = layer_number(layer.layer_name)
        heads, dim = layer.impl.num_heads, layer.impl.head_size
        for request, begin, first, stop, window, blocks in self._calls(step):
            if number not in request.plan.layers:
                continue
            try:
                layout = layout_of(layer, cache)
                needed = -(-window.columns // layout.block_size)
                keys, values = layout.gather(cache, blocks[:needed], window.columns)
                rows = slice(begin, begin + stop - first)
                queries = query.view(-1, heads, dim)[rows].transpose(0, 1)[None]
                steered = steer_rows(
                    queries,
                    keys,
                    values,
                    _sliding(layer.impl.own_sliding_window, first, stop, window.columns, query),
                    layer.impl.scale,
                    request.plan.formula(number),
                    window,
                    heads=_heads(request.plan, number, heads, query.device),
                )
                write_rows(output.view(-1, heads, dim)[rows][None], steered, window)
            except Exception as error:  # this request fails, and the others of the batch do not
                request.failure = f"layer {number}: {type(error).__name__}: {error}"
            else:
                positions = request.positions(first, stop)
                request.steered.setdefault(number, []).extend(positions)

    def _calls(self, step: Any) -> list[tuple[SteeredRequest, int, int, int, RowWindow, Any]]:
        """Find the steered rows of a step, once for all of its layers that share a block table."""
        calls: list[tuple[SteeredRequest, int, int, int, RowWindow, Any]] | None
        calls = getattr(step, "mrrag_calls", None)
        if calls is None:
            calls = []
            begins, lengths = step.query_start_loc_cpu.tolist(), step.seq_lens.tolist()
            for row, request in self.by_row.items():
                begin, end, stop = begins[row], begins[row + 1], lengths[row]
                first = stop - (end - begin)
                window = request.window(first, stop, step.block_table_tensor.device)
                if window is not None:
                    blocks = step.block_table_tensor[row].long()
                    calls.append((request, begin, first, stop, window, blocks))
            step.mrrag_calls = calls
        return calls

    def take(self) -> dict[str, tuple[Steered, str]]:
        """Return what was done since the last call, by the engine's id of the request."""
        taken = {r.key: (r.steered, r.failure) for r in self.by_row.values()}
        for request in self.by_row.values():
            request.steered = {}
        return {key: what for key, what in taken.items() if any(what)}


def layer_number(name: str) -> int:
    """Read the number of a decoder layer from its name, ``"model.layers.3.self_attn.attn"``.

    Examples
    --------
    >>> layer_number("language_model.model.layers.3.self_attn.attn")
    3
    """
    numbers = [part for part in name.split(".") if part.isdigit()]
    return int(numbers[0]) if len(numbers) == 1 else -1


def _heads(plan: SteeringPlan, layer: int, count: int, device: torch.device) -> torch.Tensor | None:
    if plan.heads is None:
        return None
    return torch.tensor([head in plan.heads[layer] for head in range(count)], device=device)


def _sliding(
    size: int | None, first: int, stop: int, columns: int, like: torch.Tensor
) -> torch.Tensor | None:
    """Mask of a layer that looks back `size` tokens: bool (1, 1, rows, columns); None for all."""
    if size is None or size >= stop:
        return None
    rows = torch.arange(first, stop, device=like.device)[:, None]
    cells = torch.arange(columns, device=like.device)[None]
    return ((cells <= rows) & (cells > rows - size))[None, None]
