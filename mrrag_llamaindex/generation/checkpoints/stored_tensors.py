"""Tensors that are still on disk: shape and type at once, values when they are asked for."""

from __future__ import annotations

import pickle
import sys
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


class LazyTensor(ABC):
    """A tensor whose values are read by ``tensor[...]``.

    That is how transformers reads the slices of safetensors, so a mapping of these is a state
    dict for ``from_pretrained`` that costs nothing until a value is needed.

    Attributes
    ----------
    shape : tuple of int
    dtype : torch.dtype
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def read(self) -> torch.Tensor:
        """Read the values."""

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.read()[index]

    def is_floating_point(self) -> bool:
        """Say what a tensor of this type says."""
        return self.dtype.is_floating_point


@dataclass(frozen=True)
class StoredTensor(LazyTensor):
    """A tensor in a weight file.

    Every read maps the file anew: pages of values that were copied elsewhere are given back at
    once, and what is held in memory is what was read and kept.

    Attributes
    ----------
    path : Path
    key : str
        Name in the file.
    shape : tuple of int
    dtype : torch.dtype
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        """Read the values; a view of the mapped file."""
        if self.path.suffix == ".safetensors":
            with open_safetensors(self.path) as file:
                tensor: torch.Tensor = file.get_tensor(self.key)
        else:
            tensor = unpickled(self.path)[self.key]
        # Windows reserves memory for the whole file with every mapping that is kept.
        return tensor.clone() if sys.platform == "win32" else tensor


@dataclass(frozen=True)
class PaddedRows(LazyTensor):
    """A stored (rows, width) matrix with further rows behind it, each the mean of its own.

    The mean, and not random rows: two conversions of one checkpoint are equal.
    """

    stored: StoredTensor
    rows: int
    shape: tuple[int, ...] = field(init=False)
    dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (self.rows, *self.stored.shape[1:]))
        object.__setattr__(self, "dtype", self.stored.dtype)

    def read(self) -> torch.Tensor:
        """Read the matrix and write the further rows behind it."""
        stored = self.stored.read()
        padded = torch.empty(self.shape, dtype=self.dtype)
        padded[: len(stored)] = stored
        padded[len(stored) :] = stored.mean(dim=0, dtype=torch.float64).to(self.dtype)
        return padded


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file; the library checks that it is as long as its header says."""
    opened: Any = safe_open  # without annotations in the library
    return opened(path, framework="pt")


def unpickled(path: Path) -> dict[str, torch.Tensor]:
    """Read a pickle with torch's restricted unpickler, which runs no code of it."""
    values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    wrong = Counter(type(value).__name__ for value in values.values())
    if set(wrong) - {"Tensor", "Parameter"}:
        raise pickle.UnpicklingError(f"it holds {', '.join(sorted(wrong))}, not only tensors")
    return dict(values)
