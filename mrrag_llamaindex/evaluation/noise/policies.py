"""The policies of the noise study, one row each, and what is tried of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrrag_llamaindex.steering.policy import PromptPolicy

OFF = "off"
"""Name of plain attention: plain RAG."""


@dataclass(frozen=True)
class PolicyRow:
    """A policy that is compared with plain attention.

    Attributes
    ----------
    name : str
        In tables, figures and ``--policies``.
    policy : str
        ``module:class``, loaded when the policy is made.
    tuned : str
        The field that is tuned, beside the layers.
    values : (float, float, float)
        Of that field: the published or default one in the middle, and one on either side of it.
    fixed : mapping
        Fields that are neither tuned nor left at their defaults.
    """

    name: str
    policy: str
    tuned: str
    values: tuple[float, float, float]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def formula(self, value: float, layers: tuple[int, ...]) -> PromptPolicy:
        """Return the policy with a value of the tuned field, in some layers."""
        made: PromptPolicy = resolve_name(self.policy)(
            **{self.tuned: value}, layers=layers, **self.fixed
        )
        return made


_STEERING = "mrrag_llamaindex.steering"

ROWS = {
    row.name: row
    for row in (
        PolicyRow("ifa", f"{_STEERING}.ifa:IFA", "strength", (0.5, 1.0, 2.0)),
        PolicyRow(
            "hard-mask", f"{_STEERING}.policies.hard_mask:HardMask", "threshold", (0.25, 0.5, 0.75)
        ),
        PolicyRow("uniform", f"{_STEERING}.policies.uniform:Uniform", "strength", (0.5, 1.0, 2.0)),
        # Its alpha stays as published: what tells documents apart is the threshold.
        PolicyRow("pasta", f"{_STEERING}.policies.pasta:PASTA", "threshold", (0.25, 0.5, 0.75)),
        # Guidance is a way of decoding, and what is compared here is attention.
        PolicyRow(
            "pai", f"{_STEERING}.policies.pai:PAI", "alpha", (0.1, 0.2, 0.5), {"guidance": 1.0}
        ),
    )
}
"""By name, in the order of the tables."""

POLICIES = (OFF, *ROWS)
"""All names, plain attention first."""
