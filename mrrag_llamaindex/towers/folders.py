"""Folders of towers and of their backbones, and complete weights from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.hub import find_folder
from mrrag_llamaindex.files.json_files import check_json_files
from mrrag_llamaindex.files.safetensors_header import read_header

WAYS_ON = (
    "give the folder of a saved tower or of a downloaded model, or use the small synthetic towers "
    f'that are shipped, towers="{defaults.PHANTOM}"'
)
TOWER_FILE: Final = "tower.json"
"""Written last, and of this project's own towers alone."""

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")


def model_folder(source: str) -> Path:
    """Local folder of ``source``, which is a folder or a hub id.

    Raises
    ------
    TowerError
        If there is no such folder and the hub does not provide it, see `find_folder`.
    """
    return find_folder(source, what="towers", ways_on=WAYS_ON, error=TowerError)


def absolute_source(source: str) -> str:
    """Folder names absolute, hub ids as they are."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() else source


@contextmanager
def reading(what: str, source: str) -> Iterator[None]:
    """Turn whatever a damaged or foreign folder raises into a `TowerError` that names both.

    Such files raise errors of json, safetensors, torch and transformers alike.
    """
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, TowerError) else f"{type(error).__name__}: "
        raise TowerError(f"{source!r} cannot be read as {what} ({kind}{error})") from error


def read_tokenizer(folder: Path) -> Any:
    """Load a transformers tokenizer with its vocabulary.

    Raises
    ------
    TowerError
        If the folder holds no vocabulary; transformers would make a tokenizer that knows nothing
        but special tokens, and go on.
    """
    from transformers import AutoTokenizer

    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise TowerError(
            f"the folder {str(folder)!r} holds no tokenizer (tokenizer.json or the like)"
        )
    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )


def read_model(kind: Any, folder: Path, *, pooler: bool = True, **settings: Any) -> Any:
    """Load a transformers model in float32, every weight from the file.

    Parameters
    ----------
    kind : class
        With ``from_pretrained``, for example ``transformers.BertModel``.
    folder : Path
    pooler : bool
        If False, a pooling layer with weights is left out, and may be missing from the file.
    settings
        Further arguments of ``from_pretrained``.

    Raises
    ------
    TowerError
        If weights are missing; transformers would fill them with random numbers and go on.
    """
    import torch

    try:
        check_json_files(folder)
        for file in sorted(folder.glob("*.safetensors")):
            read_header(file)
    except (ValueError, OSError) as error:
        raise TowerError(f"the folder {str(folder)!r} cannot be used: {error}") from None
    model, report = kind.from_pretrained(
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        dtype=torch.float32,
        **settings,
    )
    absent = sorted(report["missing_keys"]) + sorted(
        str(k) for k in report.get("mismatched_keys", ())
    )
    layer = getattr(model, "pooler", None)
    if not pooler and layer is not None and any(True for _ in layer.parameters()):
        model.pooler = None
        absent = [name for name in absent if not name.startswith("pooler.")]
    if absent:
        raise TowerError(
            f"the weights in {str(folder)!r} do not make a complete {type(model).__name__}: "
            f"{len(absent)} tensors are missing or of another shape, {absent[0]} first"
        )
    return model
