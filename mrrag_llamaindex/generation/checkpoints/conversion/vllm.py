"""Write a checkpoint as vLLM loads it: under the names of tensors that it looks for.

vLLM keeps the level ``vision_model`` of a vision tower, which transformers has dropped from the
files that it writes. Without it vLLM ends with a `KeyError` while it loads.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.json_files import read_json
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.conversion.original import write_original_rest
from mrrag_llamaindex.generation.checkpoints.conversion.writing import (
    SHARD_BYTES,
    ConvertedCheckpoint,
    Progress,
    dtype_named,
    refuse_filled,
    write_folder,
)
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original
from mrrag_llamaindex.generation.checkpoints.processors import load_processor
from mrrag_llamaindex.generation.checkpoints.stored_tensors import LazyTensor
from mrrag_llamaindex.generation.checkpoints.weight_files import open_weights

FAMILIES: Final = ("llava", "llava_next", "qwen2_5_vl", "gemma3", "mistral", "llama")
"""Families that were compared in vLLM with the same model in transformers."""

_TOWER = re.compile(r"^((?:model\.)?vision_tower\.)(?!vision_model\.)")
_NAMED = ("llava", "llava_next", "gemma3")
"""Families whose vision tower vLLM looks for under ``vision_tower.vision_model``."""

_SMALL = ("*.json", "*.jinja", "*.model", "*.txt")


def require_family(checkpoint: Checkpoint) -> None:
    """Check that vLLM can run a family with steering.

    Raises
    ------
    ModelError
        If it is none of `FAMILIES`.
    """
    family = checkpoint.family.model_type
    if family not in FAMILIES:
        raise ModelError(
            f"model {checkpoint.source!r} is of type {family!r}, which was not compared in vLLM "
            f"with the same model here; with vLLM: {', '.join(FAMILIES)}"
        )


def vllm_name(name: str, family: str) -> str:
    """Return the name under which vLLM looks for a tensor.

    Parameters
    ----------
    name : str
        In the published layout of transformers, of any version.
    family : str
        The model's ``model_type``.

    Examples
    --------
    >>> vllm_name("vision_tower.encoder.layers.0.mlp.fc1.weight", "llava")
    'vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight'
    >>> vllm_name("vision_tower.vision_model.pre_layrnorm.bias", "llava")
    'vision_tower.vision_model.pre_layrnorm.bias'
    >>> vllm_name("visual.blocks.0.norm1.weight", "qwen2_5_vl")
    'visual.blocks.0.norm1.weight'
    """
    return _TOWER.sub(r"\1vision_model.", name) if family in _NAMED else name


def misnamed(names: Iterable[str], family: str) -> list[str]:
    """Return the tensors of a folder that vLLM would not find."""
    return sorted(name for name in names if vllm_name(name, family) != name)


def convert_for_vllm(
    model: str | Path,
    dst: str | Path,
    *,
    vision_tower: str = "checkpoint",
    allow_pickle: bool = False,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ConvertedCheckpoint:
    """Write a checkpoint as vLLM loads it; `load_model` takes the folder, too.

    Parameters
    ----------
    model : str or Path
        ``"phantom"``, a folder in the layout of transformers or the original one, or a hub id.
    dst : str or Path
        Must not exist, or be empty.
    vision_tower, allow_pickle
        As in `load_model`.
    dtype : {"float32", "bfloat16", "float16"}, optional
        Default: every tensor as it is stored.
    shard_bytes, progress
        As in `write_folder`.

    Raises
    ------
    ModelError
        If there is no such model, vLLM cannot run its family, its weights are not whole, or
        ``dst`` holds something or cannot be written.
    """
    dst = Path(dst).expanduser().absolute()
    refuse_filled(dst)
    kind = dtype_named(dtype)
    checkpoint = Checkpoint.find(str(model))
    require_family(checkpoint)
    family = checkpoint.family.model_type
    source = "checkpoint"
    notes: tuple[str, ...] = ()
    tensors: dict[str, LazyTensor]
    if checkpoint.original:
        opened = open_original(
            checkpoint.folder, vision_tower=vision_tower, allow_pickle=allow_pickle
        )
        tensors, source, notes = dict(opened.tensors), opened.vision_source, opened.notes
    else:
        tensors = dict(
            open_weights(checkpoint.folder, what=f"model {model!r}", allow_pickle=allow_pickle)
        )

    def write_rest(folder: Path) -> None:
        nonlocal notes
        if checkpoint.original:
            write_original_rest(opened, folder, kind)
        else:
            notes += _write_small(checkpoint, folder, dtype)

    files, nbytes = write_folder(
        dst,
        {vllm_name(name, family): tensor for name, tensor in tensors.items()},
        write_rest,
        kind=kind,
        shard_bytes=shard_bytes,
        progress=progress,
    )
    return ConvertedCheckpoint(dst, files, len(tensors), nbytes, source, notes)


def _write_small(checkpoint: Checkpoint, folder: Path, dtype: str | None) -> tuple[str, ...]:
    """Copy what is no weight, and correct the processor as it is corrected when loading."""
    for pattern in _SMALL:
        for path in checkpoint.folder.glob(pattern):
            if path.is_file() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, folder / path.name)
    config = read_json(folder / "config.json")
    if dtype is not None:
        config["dtype"] = dtype
        config.pop("torch_dtype", None)
        write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")
    _, processor, notes = load_processor(checkpoint)
    if notes:  # vLLM would read the faulty one
        processor.save_pretrained(folder)
    return notes
