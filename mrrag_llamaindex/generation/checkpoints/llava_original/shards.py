"""Weights on disk: their names, shapes and types at once, their values one tensor at a time."""

from __future__ import annotations

import json
import pickle
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mrrag_llamaindex.errors import ModelError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still on disk.

    ``tensor[...]`` reads it. That is how transformers reads the slices of safetensors, so a
    mapping of these is a state dict for ``from_pretrained`` that costs nothing until a value is
    needed. Every read maps the file anew: pages of values that were copied elsewhere are given
    back at once, and what is held in memory is what was read and kept.

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

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.read()[index]

    def is_floating_point(self) -> bool:
        """Say what a tensor of this type says."""
        return self.dtype.is_floating_point

    def read(self) -> torch.Tensor:
        """Read the values; a view of the mapped file."""
        if self.path.suffix == ".safetensors":
            with _safetensors(self.path) as file:
                tensor: torch.Tensor = file.get_tensor(self.key)
        else:
            tensor = _unpickled(self.path)[self.key]
        # Windows reserves memory for the whole file with every mapping that is kept.
        return tensor.clone() if sys.platform == "win32" else tensor


@dataclass(frozen=True)
class PaddedRows:
    """A stored (rows, width) matrix with further rows behind it, each the mean of its own.

    The mean, and not random rows: two conversions of one checkpoint are equal.
    """

    stored: StoredTensor
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the further rows."""
        return (self.rows, *self.stored.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Type of the stored matrix."""
        return self.stored.dtype

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.read()[index]

    def is_floating_point(self) -> bool:
        """Say what a tensor of this type says."""
        return self.dtype.is_floating_point

    def read(self) -> torch.Tensor:
        """Read the matrix and write the further rows behind it."""
        stored = self.stored.read()
        padded = torch.empty(self.shape, dtype=self.dtype)
        padded[: len(stored)] = stored
        padded[len(stored) :] = stored.mean(dim=0, dtype=torch.float64).to(self.dtype)
        return padded


LazyTensor = StoredTensor | PaddedRows


def open_weights(
    folder: Path, *, what: str = "model", allow_pickle: bool = False, remedy: str = ""
) -> dict[str, StoredTensor]:
    """List the weights of a checkpoint folder without reading them.

    Safetensors are preferred; ``.bin`` files, which are pickles, are opened only on request and
    then with torch's restricted unpickler, which runs no code of theirs.

    Parameters
    ----------
    folder : Path
        Holds one weight file, or several and an index.
    what : str
        What the folder is, for messages.
    allow_pickle : bool
    remedy : str
        What to do about a folder of pickles, for the message.

    Raises
    ------
    ModelError
        If there are no weights, only pickles without leave, or if a shard is missing, damaged,
        or holds a name that another one holds, too.
    """
    index, files = _weight_files(folder, "model", "safetensors", what)
    if not files:
        index, files = _weight_files(folder, "pytorch_model", "bin", what)
        if files and not allow_pickle:
            raise ModelError(
                f"{what}: its weights are only there as pickles ({files[0].name}), which could run "
                f"code when they are opened; {remedy or 'get a safetensors copy'}"
            )
    if not files:
        raise ModelError(
            f"{what}: the folder holds no weights (model*.safetensors or pytorch_model*.bin); "
            "download it completely"
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for stored in _tensors_of(file, what):
            if stored.key in tensors:
                raise ModelError(
                    f"{what}: tensor {stored.key!r} stands in two files, "
                    f"{tensors[stored.key].path.name} and {file.name}; remove the file that does "
                    "not belong to this checkpoint"
                )
            tensors[stored.key] = stored
    for key, name in index.items():
        if key not in tensors or tensors[key].path.name != name:
            raise ModelError(
                f"{what}: its index places tensor {key!r} in {name}, which does not hold it; "
                "download the folder again"
            )
    return tensors


def _weight_files(
    folder: Path, stem: str, suffix: str, what: str
) -> tuple[dict[str, str], list[Path]]:
    """Return (index, files); both empty where there are none of this kind."""
    path = folder / f"{stem}.{suffix}.index.json"
    if not path.is_file():
        whole = folder / f"{stem}.{suffix}"
        parts = sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))
        return {}, [whole] if whole.is_file() else parts
    try:
        index = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{what}: {path.name} is not an index; download it again") from error
    names = sorted(set(map(str, index.values())))
    for name in names:
        # An index is data from elsewhere: it may not lead out of its folder.
        if Path(name).name != name or not name.endswith(suffix):
            raise ModelError(f"{what}: {path.name} names {name!r}, which is not a weight file")
        if not (folder / name).is_file():
            raise ModelError(
                f"{what}: {path.name} names {name}, which is not in the folder; download it"
            )
    return index, [folder / name for name in names]


def _tensors_of(file: Path, what: str) -> Iterable[StoredTensor]:
    try:
        if file.suffix != ".safetensors":
            values = _unpickled(file)
            return [StoredTensor(file, k, tuple(v.shape), v.dtype) for k, v in values.items()]
        with _safetensors(file) as opened:
            headers = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
            return [
                StoredTensor(file, key, tuple(header.get_shape()), _DTYPES[header.get_dtype()])
                for key, header in headers.items()
            ]
    except KeyError as error:
        raise ModelError(
            f"{what}: {file.name} holds numbers of type {error}, as quantised weights do; get the "
            "checkpoint in bfloat16, float16 or float32"
        ) from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"{what}: {file.name} is damaged, incomplete, or not a weight file "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); download it again"
        ) from error


def _safetensors(path: Path) -> Any:
    opened: Any = safe_open  # without annotations in the library
    return opened(path, framework="pt")


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    wrong = Counter(type(value).__name__ for value in values.values())
    if set(wrong) - {"Tensor", "Parameter"}:
        raise pickle.UnpicklingError(f"it holds {', '.join(sorted(wrong))}, not only tensors")
    return dict(values)
