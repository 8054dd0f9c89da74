"""Write a model folder, one file's worth of weights at a time, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.writing import system_errors
from mrrag_llamaindex.generation.checkpoints.stored_tensors import LazyTensor

SHARD_BYTES = 1 << 30
"""Most bytes of one written file; a single larger tensor gets a file of its own. A conversion holds
about twice that in memory, once as it is read and once as it is written."""

Progress = Callable[[int, int], None]
"""Called as ``progress(bytes done, bytes in all)``."""


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What a conversion wrote.

    Attributes
    ----------
    folder : Path
    files : tuple of str
        The weight files.
    tensors : int
    nbytes : int
        Size of the weights.
    vision_source : str
        ``"checkpoint"``, or ``"clip: NAME"``.
    notes : tuple of str
        What to tell the user, a sentence each.
    """

    folder: Path
    files: tuple[str, ...]
    tensors: int
    nbytes: int
    vision_source: str
    notes: tuple[str, ...]


def refuse_filled(dst: Path) -> None:
    """Raise `ModelError` unless a folder is absent or empty."""
    if dst.is_dir() and not any(dst.iterdir()):
        return
    if dst.exists() or dst.is_symlink():
        raise ModelError(f"{str(dst)!r} exists and is not an empty folder; name another one")


def dtype_named(name: str | None) -> Any:
    """Return the torch type of a name; None for None.

    Raises
    ------
    ModelError
        If weights are not written in it.
    """
    import torch

    if name not in (None, "float32", "bfloat16", "float16"):
        raise ModelError(f"dtype {name!r}: choose float32, bfloat16 or float16")
    return None if name is None else getattr(torch, name)


def write_folder(
    dst: Path,
    tensors: Mapping[str, LazyTensor],
    write_rest: Callable[[Path], object],
    *,
    kind: Any = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> tuple[tuple[str, ...], int]:
    """Write weights and what belongs to them; the folder appears under its name when complete.

    A conversion that is killed leaves at most a hidden folder ``.NAME.*.partial`` beside it, which
    may be deleted.

    Parameters
    ----------
    dst : Path
        Must not exist, or be empty.
    tensors : mapping of str to LazyTensor
    write_rest : callable
        Writes all else into the folder that it is given.
    kind : torch.dtype, optional
        Of the floating point weights. Default: every tensor as it is stored.
    shard_bytes, progress
        See `SHARD_BYTES` and `Progress`.

    Returns
    -------
    files : tuple of str
        The weight files.
    nbytes : int
        Size of the weights.

    Raises
    ------
    ModelError
        If ``dst`` cannot be written, holds something, or the disk is too small.
    """
    sizes = {name: _size(tensor, kind) for name, tensor in tensors.items()}
    try:
        with _new_folder(dst, sum(sizes.values())) as partial:
            files = _write_weights(tensors, sizes, partial, kind, shard_bytes, progress)
            write_rest(partial)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ModelError(
            f"the converted model cannot be written to {str(dst)!r}: {cause}"
        ) from error
    return files, sum(sizes.values())


@contextlib.contextmanager
def _new_folder(dst: Path, needed: int) -> Iterator[Path]:
    dst.parent.mkdir(parents=True, exist_ok=True)
    _check_disk(dst.parent, needed)
    partial = dst.parent / f".{dst.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        yield partial
        refuse_filled(dst)
        if dst.exists():
            dst.rmdir()
        partial.replace(dst)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _size(tensor: LazyTensor, kind: Any) -> int:
    if kind is None or not tensor.is_floating_point():
        return tensor.nbytes
    return tensor.nbytes // int(tensor.dtype.itemsize) * int(kind.itemsize)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"the converted model takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free "
            f"beside {str(folder)!r}; free some space or name another place"
        )


def _write_weights(
    tensors: Mapping[str, LazyTensor],
    sizes: dict[str, Any],
    folder: Path,
    kind: Any,
    limit: int,
    progress: Progress | None,
) -> tuple[str, ...]:
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    shards = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    done = 0
    for file, names in shards.filename_to_tensors.items():
        values = {}
        for name in names:
            value = tensors[name].read()
            values[name] = value.to(kind) if kind and value.is_floating_point() else value
        with system_errors():
            save_file(values, folder / file, metadata={"format": "pt"})
        done += sum(sizes[name] for name in names)
        if progress is not None:
            progress(done, sum(sizes.values()))
    if shards.is_sharded:
        described = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        text = json.dumps(described, indent=2) + "\n"
        write_atomically(folder / "model.safetensors.index.json", text)
    return tuple(shards.filename_to_tensors)
