"""The files of open_clip's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CONFIG: Final = "open_clip_config.json"
WEIGHTS: Final = "open_clip_model.safetensors"
PICKLE: Final = "open_clip_pytorch_model.bin"


def is_open_clip(folder: Path) -> bool:
    """Whether a folder can be read in this layout only.

    Many hold a transformers model beside it, which is then the one to read.
    """
    if not (folder / CONFIG).is_file():
        return False
    names = ("model*.safetensors", "pytorch_model*.bin")
    return not ((folder / "config.json").is_file() and any(any(folder.glob(n)) for n in names))
