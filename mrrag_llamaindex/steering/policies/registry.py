"""The policies, one row each: their short names in commands and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mrrag_llamaindex.steering.policy import SteeringPolicy

_ROWS = {
    "ifa": "mrrag_llamaindex.steering.ifa:IFA",
    "hard-mask": "mrrag_llamaindex.steering.policies.hard_mask:HardMask",
    "uniform": "mrrag_llamaindex.steering.policies.uniform:Uniform",
    "pasta": "mrrag_llamaindex.steering.policies.pasta:PASTA",
    "pai": "mrrag_llamaindex.steering.policies.pai:PAI",
}

OFF = "off"
"""What plain attention is called beside them."""


class _Policies(Mapping[str, "type[SteeringPolicy]"]):
    """Names at once, for the command line's help; a class, and torch, when it is asked for."""

    def __getitem__(self, name: str) -> type[SteeringPolicy]:
        policy: type[SteeringPolicy] = resolve_name(_ROWS[name])
        return policy

    def __iter__(self) -> Iterator[str]:
        return iter(_ROWS)

    def __len__(self) -> int:
        return len(_ROWS)


POLICIES: Final[Mapping[str, type[SteeringPolicy]]] = _Policies()
"""Name to class; each runs with its defaults as ``POLICIES[name]()``."""
