"""Convert a checkpoint of the original layout into a folder that stock transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.conversion.writing import (
    SHARD_BYTES,
    ConvertedCheckpoint,
    Progress,
    dtype_named,
    refuse_filled,
    write_folder,
)
from mrrag_llamaindex.generation.checkpoints.families import family_of
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import (
    OriginalCheckpoint,
    open_original,
)
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile, PromptTemplate


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    *,
    vision_tower: str = "checkpoint",
    allow_pickle: bool = False,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> ConvertedCheckpoint:
    """Write an original checkpoint in the layout of transformers, one file's worth at a time.

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
    shard_bytes, progress
        As in `write_folder`.

    Raises
    ------
    ModelError
        If the checkpoint is not of the original layout or not whole, if ``dst`` holds something,
        or if ``dst`` cannot be written or the disk is too small.
    """
    src, dst = Path(src).expanduser(), Path(dst).expanduser().absolute()
    if not src.is_dir():
        raise ModelError(f"{str(src)!r}: there is no such folder; download the checkpoint first")
    refuse_filled(dst)
    kind = dtype_named(dtype)
    opened = open_original(src, vision_tower=vision_tower, allow_pickle=allow_pickle)
    files, nbytes = write_folder(
        dst,
        opened.tensors,
        lambda folder: write_original_rest(opened, folder, kind),
        kind=kind,
        shard_bytes=shard_bytes,
        progress=progress,
    )
    return ConvertedCheckpoint(
        folder=dst,
        files=files,
        tensors=len(opened.tensors),
        nbytes=nbytes,
        vision_source=opened.vision_source,
        notes=opened.notes,
    )


def write_original_rest(opened: OriginalCheckpoint, folder: Path, kind: Any) -> None:
    """Write what belongs to the weights of an original checkpoint into a folder."""
    if kind is not None:
        opened.config.dtype = kind
    opened.config.save_pretrained(folder)
    opened.generation_config.save_pretrained(folder)
    opened.processor.save_pretrained(folder)
    turns = family_of(opened.config.to_dict(), folder.name).template or PromptTemplate()
    ModelProfile(template=turns).save(folder)
