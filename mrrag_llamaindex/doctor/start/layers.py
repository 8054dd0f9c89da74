"""Critical layers that are known of a model, by its name and without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.hub import cached_folder
from mrrag_llamaindex.generation.checkpoints.profile import PROFILE_FILE, ModelProfile
from mrrag_llamaindex.generation.checkpoints.profile_store import profiles_folder


@dataclass(frozen=True)
class ModelLayers:
    """Critical layers of a model.

    Attributes
    ----------
    model : str
    state : {"in the model", "found here", "absent"}
        In the model's own folder, or found by ``mrrag find-layers`` on this machine.
    layers : tuple of int
    """

    model: str
    state: Literal["in the model", "found here", "absent"]
    layers: tuple[int, ...] = ()


def known_layers(model: str) -> ModelLayers:
    """Look for a profile of a model.

    Those that were found here belong to weights, and which weights a model has is known once it is
    loaded: here its name has to do, and a profile of other weights is refused later.

    Parameters
    ----------
    model : str
        A shipped one, a folder, or a hub id; the hub is not asked.

    Raises
    ------
    ModelError
        If a profile cannot be read.
    """
    if model in defaults.PHANTOM_MODELS:
        folder: Path | None = defaults.PHANTOM_FOLDER / defaults.PHANTOM_MODELS[model]
    else:
        local = Path(model).expanduser()
        folder = local if local.is_dir() else _cached(model)
    name = Path(model).name
    kept = profiles_folder()
    for path in sorted(kept.glob("*.json")) if kept.is_dir() else ():
        profile = ModelProfile.read(path)
        if profile.critical_layers and profile.identity.rpartition("@")[0] == name:
            return ModelLayers(model, "found here", profile.critical_layers)
    if folder is not None and (folder / PROFILE_FILE).is_file():
        own = ModelProfile.read(folder / PROFILE_FILE)
        if own.critical_layers:
            return ModelLayers(model, "in the model", own.critical_layers)
    return ModelLayers(model, "absent")


def _cached(model: str) -> Path | None:
    from huggingface_hub.errors import HFValidationError

    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelError(f"model {model!r}: there is no such folder")
    try:
        return cached_folder(model)
    except HFValidationError:
        raise ModelError(f"model {model!r}: neither a folder nor a valid hub id") from None
