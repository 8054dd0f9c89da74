"""OPERA: the settings and formulas of beam search with an over-trust penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

IMAGE_STEPS: Final = 10
"""Response tokens at the start for which the attention to the image takes the penalty's place."""

_RANGE = math.log(1e-7)  # the original's factor on the product
_LARGEST = 80.0  # log of a penalty that still is a finite float32


@dataclass(frozen=True)
class OperaSettings:
    """How OPERA searches, and the two formulas that it searches by; see `OPERA`.

    Attributes
    ----------
    beams
        Sequences kept, at least 1.
    candidates
        N, tokens tried for each beam, at least 1.
    scale
        sigma, above 0.
    weight
        Factor on the penalty, at least 0. At 0 this is beam search among the candidates.
    recurrences
        r, at least 1.
    window
        Last response tokens that are looked at, at least 2.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    beams: int = 5
    candidates: int = 5
    scale: float = 50.0
    weight: float = 1.0
    recurrences: int = 15
    window: int = 512

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("candidates", 1), ("recurrences", 1), ("window", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a finite number > 0, got {self.scale!r}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight must be a finite number >= 0, got {self.weight!r}")

    def over_trust(self, attention: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the column on which the attention of the last response tokens piles up.

        Parameters
        ----------
        attention
            (sequences, tokens, tokens) of the response, row `i` that of token `i`; what stands
            above the diagonal is not read.

        Returns
        -------
        penalty : torch.Tensor
            (sequences,), the largest ``phi_c``.
        column : torch.Tensor
            int64 (sequences,), its `c`, counted from the response's first token.

        Examples
        --------
        Column 0: 1e-7 * (2 * 1) * (2 * .75) = 3e-7; column 1: 1e-7 * 2 * .25 = .5e-7.

        >>> attention = torch.tensor([[[1.0, 0], [0.75, 0.25]]])
        >>> penalty, column = OperaSettings(scale=2.0).over_trust(attention)
        >>> round(penalty.item() * 1e7, 4), column.item()
        (3.0, 0)
        """
        first = max(0, attention.shape[-1] - self.window)
        seen = attention[..., first:, first:].double()
        below = torch.ones_like(seen[0], dtype=torch.bool).tril()
        # A sum of logarithms: the product of hundreds of factors leaves every floating-point range.
        logs = ((seen * self.scale).log()).masked_fill(~below, 0.0).sum(dim=-2)
        best, column = logs.max(dim=-1)
        return (best + _RANGE).clamp(max=_LARGEST).exp().float(), column + first

    def place_to_return_to(self, columns: Sequence[int]) -> int | None:
        """Tell where the search goes back to, from the highest columns of one beam's steps.

        Parameters
        ----------
        columns
            `c` of every token after the first ten, in order.

        Returns
        -------
        int or None
            Index in the response of the token to be chosen anew; None to go on.

        Examples
        --------
        >>> OperaSettings(recurrences=2).place_to_return_to([12, 12, 12])
        13
        >>> OperaSettings(recurrences=3).place_to_return_to([12, 12, 12]) is None
        True
        >>> OperaSettings(recurrences=2).place_to_return_to([3] * 3) is None  # in the first ten
        True
        """
        recent = list(columns)[-self.window :]
        if not recent:
            return None
        # The likeliest column now; of two that recurred as often, no other can be meant.
        place = recent[-1] + 1
        if recent.count(recent[-1]) <= self.recurrences or place < IMAGE_STEPS:
            return None
        return place
