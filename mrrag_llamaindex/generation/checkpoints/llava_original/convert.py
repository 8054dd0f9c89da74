"""Convert a checkpoint of the original layout into a folder that stock transformers loads."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.writing import system_errors
from mrrag_llamaindex.generation.checkpoints.families import family_of
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import (
    OriginalCheckpoint,
    open_original,
)
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile, PromptTemplate
from mrrag_llamaindex.generation.checkpoints.stored_tensors import LazyTensor

SHARD_BYTES = 1 << 30
"""Most bytes of one written file; a single larger tensor gets a file of its own. A conversion holds
about twice that in memory, once as it is read and once as it is written."""


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


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    *,
    vision_tower: str = "checkpoint",
    allow_pickle: bool = False,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertedCheckpoint:
    """Write an original checkpoint in the layout of transformers, one file's worth at a time.

    The folder appears under its name when it is complete. A conversion that is killed leaves at
    most a hidden folder ``.NAME.*.partial`` beside it, which may be deleted.

    Parameters
    ----------
    src : str or Path
        Folder of the original checkpoint.
    dst : str or Path
        Must not exist, or be empty.
    vision_tower, allow_pickle
        As in `open_original`.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Default: every tensor as it is stored.
    shard_bytes : int
        Most bytes of one written file.
    progress : callable, optional
        Called as ``progress(bytes done, bytes in all)``.

    Raises
    ------
    ModelError
        If the checkpoint is not of the original layout or not whole, if ``dst`` holds something,
        or if ``dst`` cannot be written or the disk is too small.
    """
    src, dst = Path(src).expanduser(), Path(dst).expanduser().absolute()
    if not src.is_dir():
        raise ModelError(f"{str(src)!r}: there is no such folder; download the checkpoint first")
    _refuse_filled(dst)
    kind = _dtype(dtype)
    opened = open_original(src, vision_tower=vision_tower, allow_pickle=allow_pickle)
    sizes = {name: _size(tensor, kind) for name, tensor in opened.tensors.items()}
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        _check_disk(dst.parent, sum(sizes.values()))
        partial = dst.parent / f".{dst.name}.{uuid.uuid4().hex[:8]}.partial"
        partial.mkdir()
        try:
            files = _write_weights(opened.tensors, sizes, partial, kind, shard_bytes, progress)
            _write_rest(opened, partial, kind)
            _refuse_filled(dst)
            if dst.exists():
                dst.rmdir()
            partial.replace(dst)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ModelError(
            f"the converted model cannot be written to {str(dst)!r}: {cause}"
        ) from error
    return ConvertedCheckpoint(
        folder=dst,
        files=files,
        tensors=len(sizes),
        nbytes=sum(sizes.values()),
        vision_source=opened.vision_source,
        notes=opened.notes,
    )


def _refuse_filled(dst: Path) -> None:
    if dst.is_dir() and not any(dst.iterdir()):
        return
    if dst.exists() or dst.is_symlink():
        raise ModelError(f"{str(dst)!r} exists and is not an empty folder; name another one")


def _dtype(name: str | None) -> Any:
    import torch

    if name not in (None, "float32", "bfloat16", "float16"):
        raise ModelError(f"dtype {name!r}: choose float32, bfloat16 or float16")
    return None if name is None else getattr(torch, name)


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
    progress: Callable[[int, int], None] | None,
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


def _write_rest(opened: OriginalCheckpoint, folder: Path, kind: Any) -> None:
    if kind is not None:
        opened.config.dtype = kind
    opened.config.save_pretrained(folder)
    opened.generation_config.save_pretrained(folder)
    opened.processor.save_pretrained(folder)
    turns = family_of(opened.config.to_dict(), folder.name).template or PromptTemplate()
    ModelProfile(template=turns).save(folder)
