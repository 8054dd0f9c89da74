"""A folder of model files for a name, with an answer within seconds when there is no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import TowerError

WAYS_ON = (
    "give the folder of a saved tower or of a downloaded model, or use the small synthetic towers "
    f'that are shipped, towers="{defaults.PHANTOM}"'
)
SECONDS = 5.0
"""Wait for the hub's first answer."""

_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


def model_folder(source: str) -> Path:
    """Local folder of ``source``, which is a folder or a hub id.

    A hub id is looked for in the local cache first; only if it is not there is the hub asked.

    Raises
    ------
    TowerError
        If there is no such folder and the hub does not provide it. Without a network this takes
        seconds: one short question comes before the download, which would retry for minutes.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    looks_local = folder.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1
    if looks_local or "\\" in source:
        raise TowerError(f"towers {source!r}: there is no such folder; {WAYS_ON}")
    return _cached(source) or _downloaded(source)


def absolute_source(source: str) -> str:
    """Folder names absolute, hub ids as they are."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() else source


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

    model, told = kind.from_pretrained(
        str(folder),
        local_files_only=True,
        output_loading_info=True,
        dtype=torch.float32,
        **settings,
    )
    absent = sorted(told["missing_keys"]) + sorted(str(k) for k in told.get("mismatched_keys", ()))
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


def _cached(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise TowerError(
            f"towers {hub_id!r}: neither a folder nor a valid hub id; {WAYS_ON}"
        ) from error
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    # An interrupted download leaves a folder without them; the hub is then asked again.
    known = any((folder / name).exists() for name in ("config.json", "tower.json"))
    return folder if weights and known else None


def _downloaded(hub_id: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        told = HfApi().model_info(hub_id, timeout=SECONDS)
        names = [file.rfilename for file in told.siblings or []]
        safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
        weights = "*.safetensors" if safe else "*.bin"
        return Path(snapshot_download(hub_id, allow_patterns=[*_FILES, weights]))
    # The hub's client raises errors of whichever HTTP library its version uses.
    except Exception as error:
        raise TowerError(
            f"towers {hub_id!r}: not a local folder, not in the local cache, and the hub did not "
            f"provide it ({type(error).__name__}); {WAYS_ON}"
        ) from error
