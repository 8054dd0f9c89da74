"""AdaSEKA: SEKA with several learned subspaces, weighed by the query of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.steering.key_edit import KeyEdit, projected
from mrrag_llamaindex.steering.policies.seka import KeyPolicy, check_depth
from mrrag_llamaindex.steering.spans import PromptSpans
from mrrag_llamaindex.steering.tensor_value import TensorValue


class KeyExperts(TensorValue):
    """First singular directions of several experts, by layer and key head.

    Parameters
    ----------
    directions : torch.Tensor
        (experts, layers, key heads, dim, k): orthonormal columns.
    strengths : torch.Tensor
        (experts, layers, key heads, k): their singular values.
    """

    def __init__(self, directions: torch.Tensor, strengths: torch.Tensor) -> None:
        shape = directions.shape
        if directions.ndim != 5 or strengths.shape != (*shape[:3], shape[4]):
            raise ValueError(
                "directions must be (experts, layers, key heads, dim, k) and strengths the same "
                f"without dim, got {tuple(shape)} and {tuple(strengths.shape)}"
            )
        super().__init__(directions=directions, strengths=strengths)


@dataclass(frozen=True)
class AdaSEKA(KeyPolicy):
    """Spectral editing of keys along the subspaces that fit the prompt's query.

    ``k' = k + g P k`` with ``P = sum_m a_m U_m U_m^T`` over experts m. Each has the first singular
    vectors ``U_m`` and values ``s_m`` of its own ``H^T H+ / n``, and

        a_m = sum_i s_mi <q, u_mi> / max over experts of their absolute values,

    with q the query of the prompt's last token before rotation, the mean over the query heads of a
    key head, of length 1 (AdaSEKA, Li et al., arXiv 2603.01281). Nothing is trained for the
    routing; it takes one plain pass more over each prompt.

    From the authors' code: the formula, three directions, a gain of 1. Ours: experts are clusters
    of the training questions, where theirs are four data sets; q is what the layer itself computes
    in the plain pass. The rest is as in `SEKA`.

    Attributes
    ----------
    experts
        Learned on other patients.
    gain
        g, at least 0; 0 switches it off.
    threshold, layers, question_rows
        As for `KeyPolicy`.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    experts: KeyExperts | None = None
    gain: float = defaults.ADA_SEKA_GAIN

    three_values: ClassVar[tuple[float, float, float]] = (0.5, 1.0, 2.0)
    four_values: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts is None:
            raise ValueError("experts must be given: AdaSEKA learns them on other patients")

    def edit(self, spans: Sequence[PromptSpans], lambdas: Sequence[Sequence[float]]) -> KeyEdit:
        """Return the edit of a batch."""
        experts = self.experts
        assert experts is not None

        def maps(
            model: Any, layers: Collection[int], look: Callable[[], object]
        ) -> dict[int, torch.Tensor]:
            check_depth(experts["directions"][0], layers)
            with projected(model, layers, "query") as queries:
                look()
            return {
                layer: self.gain
                * routed(
                    # Padding stands on the left, so that the last row is every prompt's last.
                    queries[layer][:, -1],
                    experts["directions"][:, layer],
                    experts["strengths"][:, layer],
                )
                for layer in layers
            }

        return KeyEdit(maps)


def routed(query: torch.Tensor, directions: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Return the projection of one layer for each prompt, see `AdaSEKA`.

    Parameters
    ----------
    query : torch.Tensor
        (batch, query heads, dim).
    directions, strengths : torch.Tensor
        (experts, key heads, dim, k) and (experts, key heads, k).

    Returns
    -------
    torch.Tensor
        float32 (batch, key heads, dim, dim).

    Examples
    --------
    One head, two experts of one direction each; the query leans three to four:

    >>> two = torch.tensor([[[[1.0], [0.0]]], [[[0.0], [1.0]]]])
    >>> routed(torch.tensor([[[3.0, 4.0]]]), two, torch.ones(2, 1, 1)).flatten().tolist()
    [0.75, 0.0, 0.0, 1.0]
    """
    directions, strengths = directions.to(query.device), strengths.to(query.device)
    count, _, dim = query.shape
    q = query.float().reshape(count, directions.shape[1], -1, dim).mean(dim=2)
    q = q / q.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    leaning = torch.einsum("bhd,mhdk,mhk->bmh", q, directions, strengths)
    leaning = leaning / leaning.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    return torch.einsum("bmh,mhdk,mhek->bhde", leaning, directions, directions)
