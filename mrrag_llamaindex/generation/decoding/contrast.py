"""The formula of contrastive guidance: what a part of the prompt adds, weighted up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Contrast:
    """The formula ``g * (s - u) + u`` on log-probabilities: what a part of the prompt adds.

    `s` are those of the whole prompt, `u` those of the prompt without the part.

    Attributes
    ----------
    factor : float
        g; 1 leaves the scores as they are.
    without : str
        The part that `u` does not see.
    cutoff : float
        Tokens with ``s < log(cutoff) + max(s)`` are removed; 0 removes none.
    """

    factor: float
    without: Literal["image", "documents"]
    cutoff: float = 0.0

    def guided(self, scores: torch.Tensor, without: torch.Tensor) -> Any:
        """Apply the formula and the cut.

        Parameters
        ----------
        scores, without
            Logits or log-probabilities (batch, vocabulary) with and without the part.

        Returns
        -------
        torch.Tensor
            (batch, vocabulary), not normalised; removed tokens are at -inf.

        Examples
        --------
        The image makes token 0 likelier, guidance still more so, and the rarest token is removed:

        >>> with_image = torch.tensor([[0.6, 0.36, 0.04]]).log()
        >>> without = torch.tensor([[0.3, 0.66, 0.04]]).log()
        >>> guided = Contrast(2.0, "image", cutoff=0.1).guided(with_image, without)
        >>> [round(p, 3) for p in guided.exp().flatten().tolist()]
        [1.2, 0.196, 0.0]
        """
        seen, unseen = scores.log_softmax(dim=-1), without.log_softmax(dim=-1)
        guided = self.factor * (seen - unseen) + unseen
        # A token that the model may not give at all.
        guided = guided.masked_fill(seen == -torch.inf, -torch.inf)
        if self.cutoff:
            least = math.log(self.cutoff) + seen.amax(dim=-1, keepdim=True)
            guided = guided.masked_fill(seen < least, -torch.inf)
        return guided
