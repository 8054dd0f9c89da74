"""The policies, one row each: their short names in commands and tables."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.uniform import Uniform
from mrrag_llamaindex.steering.policy import SteeringPolicy

POLICIES: Final[Mapping[str, type[SteeringPolicy]]] = MappingProxyType(
    {
        "ifa": IFA,
        "hard-mask": HardMask,
        "uniform": Uniform,
        "pasta": PASTA,
        "pai": PAI,
    }
)
"""Name to class; each runs with its defaults as ``POLICIES[name]()``."""
