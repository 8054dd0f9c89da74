"""The plan of one call: which rows, which columns, which layers, how strongly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional as F

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.edit import Edit
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.layout import lay_out
from mrrag_llamaindex.steering.policy import Formula, SteeringPolicy
from mrrag_llamaindex.steering.report import SteeringReport
from mrrag_llamaindex.steering.spans import PromptSpans
from mrrag_llamaindex.steering.watch import AttentionWatch
from mrrag_llamaindex.steering.window import RowWindow


@dataclass(frozen=True, eq=False)
class SteeringPlan:
    """Steering of one padded batch, passed to the model as the argument ``steering``.

    The padding stands on the left, or behind a prefix that all rows share: image and documents
    prefilled once, their cache repeated for every row, and the rows' own suffixes after it, as
    ``[prefix | padding | suffix]``.

    A plan belongs to one call: nothing is stored on the model, so calls with different plans
    may run on one model at the same time.

    Attributes
    ----------
    column_weights
        float32 (batch, prompt_length): the policy's weight of each column, else 0. For IFA it is
        strength times lambda on document tokens.
    steered_rows
        bool (batch, prompt_length): rows to steer. For IFA they are those of the question.
    layers
        Indices of the critical decoder layers.
    padding
        Padding of each row, in tokens; empty means none.
    shared_prefix
        Tokens at the left of every row that stand before its padding; 0 is left padding.
    policy
        The formula, by default that of `IFA`.
    heads
        Query heads to steer, by layer; None for all heads of every layer.
    every_step
        Whether the rows of generated tokens are steered, too.
    report
        Filled in while the model runs.
    watch
        Rows whose attention is to be seen; None for none. A plan that steers nothing may carry
        one, see `nothing`.
    edit
        What takes the place of the formula in the layers of the plan; None for nothing.

    Raises
    ------
    SteeringError
        If shapes, types or values do not fit together.
    """

    column_weights: torch.Tensor
    steered_rows: torch.Tensor
    layers: frozenset[int]
    padding: tuple[int, ...] = ()
    shared_prefix: int = 0
    policy: Formula = field(default_factory=IFA)
    heads: Mapping[int, tuple[int, ...]] | None = None
    every_step: bool = False
    report: SteeringReport = field(default_factory=SteeringReport)
    watch: AttentionWatch | None = None
    edit: Edit | None = None
    _rows: tuple[tuple[int, ...], ...] = field(init=False, repr=False)
    _windows: dict[tuple[int, int, torch.device], RowWindow | None] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        weights, rows = self.column_weights, self.steered_rows
        if weights.ndim != 2 or weights.shape != rows.shape:
            raise SteeringError(
                "column_weights and steered_rows must both be (batch, prompt_length), got "
                f"{tuple(weights.shape)} and {tuple(rows.shape)}"
            )
        if weights.dtype != torch.float32 or rows.dtype != torch.bool:
            raise SteeringError(
                "column_weights must be float32 and steered_rows bool, got "
                f"{weights.dtype} and {rows.dtype}"
            )
        if not bool(torch.isfinite(weights).all()):
            raise SteeringError("column_weights holds NaN or infinite values")
        if self.padding and len(self.padding) != self.batch_size:
            raise SteeringError(
                f"padding names {len(self.padding)} rows, the batch has {self.batch_size}"
            )
        if not 0 <= self.shared_prefix <= self.prompt_length:
            raise SteeringError(
                f"a shared prefix of {self.shared_prefix} tokens does not fit into prompts of "
                f"{self.prompt_length}"
            )
        if self.heads is not None and set(self.heads) != self.layers:
            raise SteeringError(
                f"heads are named for layers {sorted(self.heads)}, and layers "
                f"{sorted(self.layers)} are to be steered; name heads for each of them and no other"
            )
        # Rows without any weight are left to the stock kernel: weight 0 must equal it exactly.
        # Read to the host once here, so that no layer has to wait for the device.
        steered = (rows & (weights != 0).any(dim=1, keepdim=True)).cpu()
        positions = tuple(tuple(row.nonzero().flatten().tolist()) for row in steered)
        object.__setattr__(self, "_rows", positions)

    @classmethod
    def build(
        cls,
        spans: Sequence[PromptSpans],
        lambdas: Sequence[Sequence[float]],
        policy: SteeringPolicy,
        layers: Collection[int],
        padded_length: int,
        device: torch.device | str | None = None,
        shared_prefix: int = 0,
    ) -> SteeringPlan:
        """Lay the spans of each prompt onto a padded batch.

        Parameters
        ----------
        spans
            One per row of the batch, of the whole prompt, a shared prefix included.
        lambdas
            For each row, one value in [0, 1] per document, see `min_max_lambdas`.
        policy
            The method; its `layers`, where given, take the place of `layers`.
        layers
            The layers to steer otherwise.
        padded_length
            Tokens per row of the batch: the length of ``input_ids``.
        device
            Where the two tensors are placed; they are small and copied where needed.
        shared_prefix
            Tokens at the left of every prompt that stay there: the row's padding stands behind
            them. Spans in the prefix do not move; a document that reaches over its end is
            weighted in both parts, and not in the padding between.

        Raises
        ------
        SteeringError
            If there is no layer, the policy shares no prefix and one is given, or the prompts do
            not fit, see `lay_out`.
        """
        layer_set = frozenset(layers if policy.layers is None else policy.layers)
        if not layer_set or min(layer_set) < 0:
            raise SteeringError(
                f"no valid layers to steer ({sorted(layer_set)}): name them in "
                f"{type(policy).__name__}(layers=...) or find the model's critical layers first"
            )
        if shared_prefix and not policy.shares_prefix:
            raise SteeringError(
                f"{type(policy).__name__} changes what stands before the question, so no prefix "
                f"of {shared_prefix} tokens can be shared with other passes; prefill the prompt "
                "whole, or use another policy"
            )
        weights, rows, padding = lay_out(spans, lambdas, policy, padded_length, shared_prefix)
        return cls(
            weights.to(device),
            rows.to(device),
            layer_set,
            padding=padding,
            shared_prefix=shared_prefix,
            policy=policy,
            heads=policy.heads,
            every_step=policy.every_step,
            edit=policy.edit(spans, lambdas),
        )

    @classmethod
    def nothing(cls, lengths: Sequence[int], shared_prefix: int = 0) -> SteeringPlan:
        """Make a plan that steers nothing, to carry a watch through a batch of such prompts."""
        longest = max(lengths)
        weights = torch.zeros(len(lengths), longest)
        padding = tuple(longest - length for length in lengths)
        return cls(weights, weights > 0, frozenset(), padding, shared_prefix)

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.column_weights.shape[0]

    @property
    def prompt_length(self) -> int:
        """Tokens per row, padding included."""
        return self.column_weights.shape[1]

    @property
    def is_active(self) -> bool:
        """Whether any row would be changed; if not, pass ``steering=None`` instead."""
        return any(self._rows)

    def followed_by(self, count: int) -> SteeringPlan:
        """Return the plan of one call that holds `count` tokens of an answer behind each prompt.

        Their rows are steered as those of generated tokens are, and nothing is steered towards
        their columns: one pass gives what generating them gave.
        """
        rows = F.pad(self.steered_rows, (0, count), value=self.every_step)
        return replace(
            self, column_weights=F.pad(self.column_weights, (0, count)), steered_rows=rows
        )

    def of_rows(self, rows: Sequence[int]) -> SteeringPlan | None:
        """Return the plan of some rows of the batch, for its decode steps without the others.

        The report stays the same one, so that `require_applied` counts all of them.

        Parameters
        ----------
        rows
            Rows that go on, in their order.

        Returns
        -------
        SteeringPlan or None
            None if nothing behind the prompt is steered in them.
        """
        if not self.every_step or not any(self._rows[row] for row in rows):
            return None
        return replace(
            self,
            column_weights=self.column_weights[list(rows)],
            steered_rows=self.steered_rows[list(rows)],
            padding=tuple(self.padding[row] for row in rows) if self.padding else (),
            watch=None,
        )

    def window(self, query_length: int, key_length: int, device: torch.device) -> RowWindow | None:
        """Find the steered rows of one attention call.

        Parameters
        ----------
        query_length, key_length
            Rows and columns of the call. The first row stands at ``key_length - query_length``,
            so decode steps and prefill chunks are placed correctly.
        device
            Where the index tensors are needed.

        Returns
        -------
        RowWindow or None
            None if the call holds no steered row, as in every decode step of a policy that acts on
            the prompt only.

        Raises
        ------
        SteeringError
            If the keys reach past the plan although prompt rows are among the queries: a static
            cache, or a plan that was built for shorter inputs.
        """
        key = (query_length, key_length, device)
        if key not in self._windows:
            if key_length > self.prompt_length:
                self._windows.clear()  # Each decode step has a window of its own.
            self._windows[key] = self._find_window(*key)
        return self._windows[key]

    def _find_window(
        self, query_length: int, key_length: int, device: torch.device
    ) -> RowWindow | None:
        offset = key_length - query_length
        rows: list[Sequence[int]]
        if not self.is_active:
            return None
        if offset >= self.prompt_length:
            new = range(query_length if self.every_step else 0)
            rows = [new if row else () for row in self._rows]
        elif key_length > self.prompt_length:
            raise SteeringError(
                f"steering: {query_length} query rows meet {key_length} keys, but the plan covers "
                f"{self.prompt_length} tokens. Use a dynamic cache (a static one hides where rows "
                "stand), and build the plan with padded_length equal to the length of the inputs"
            )
        else:
            rows = [[r - offset for r in row if offset <= r < key_length] for row in self._rows]
        if not any(rows):
            return None
        return RowWindow.build(rows, offset, self.column_weights, device)

    def formula(self, layer: int) -> Formula:
        """Return the formula in one of the layers, see `SteeringPolicy.in_layer`."""
        policy = self.policy
        return policy.in_layer(layer) if isinstance(policy, SteeringPolicy) else policy

    def finish(self, output: torch.Tensor, layer: int, window: RowWindow) -> None:
        """Apply the edit, if there is one, to what `layer` gave, and note that it is steered.

        Parameters
        ----------
        output
            (batch, rows, heads, dim), changed in place.
        layer, window
            As for `record`.
        """
        if self.edit is not None:
            self.edit.apply(output, window, layer)
        self.record(layer, window)

    def record(self, layer: int, window: RowWindow) -> None:
        """Note that `layer` has steered the rows of `window`."""
        if window.offset < self.prompt_length:
            self.report.record(layer, window.count)
        else:
            self.report.record_step(layer)

    def require_applied(self) -> None:
        """Check, after the call, that every critical layer steered every row it should have.

        Raises
        ------
        SteeringError
            If a layer steered fewer rows, or fewer decode steps. A plan that is not active asks
            for nothing.
        """
        wanted = sum(len(row) for row in self._rows)
        if wanted:
            self.report.require(self.layers, wanted)
