"""Where found critical layers are kept, and which model they belong to.

A profile is kept under a digest of the weights that it was found on. It is used for that very
model and for no other: a profile of another model is refused where it was named, and not found
where it is looked up.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.checkpoints.profile import PROFILE_FILE, ModelProfile

PROFILES_VARIABLE = "MRRAG_PROFILES"
"""Environment variable that names another folder for the profiles of this user."""

_SAMPLES = 64


def profiles_folder() -> Path:
    """Return the folder of this user's profiles; it may not exist yet.

    `PROFILES_VARIABLE` where it is set, else ``mrrag_llamaindex/profiles`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    named = os.environ.get(PROFILES_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mrrag_llamaindex" / "profiles"


def profile_identity(loaded: LoadedModel) -> str:
    """Return ``name@digest`` of a model's weights, whatever float type they are loaded in.

    The digest is of name, shape and 64 evenly spaced values of every weight, rounded to bfloat16:
    critical layers found on a GPU in bfloat16 hold for the same weights in float32. Quantised
    weights are other weights, and so are those with an adapter, merged or not. The prompt's layout
    is no part of it, the name is for people.

    Raises
    ------
    ModelError
        If some weights are not in memory, so that they cannot be read.
    """
    digest = _digest_of_adapter(loaded)
    for name, weight in sorted(loaded.model.state_dict().items()):
        if not isinstance(weight, torch.Tensor):
            continue
        if weight.is_meta:
            raise ModelError(
                f"weight {name} of model {loaded.source!r} is offloaded to disk, so which model "
                "its critical layers belong to cannot be told; load it into memory"
            )
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        sample = _sample(weight)
        if sample.is_floating_point():
            sample = sample.to(torch.bfloat16)
        digest.update(sample.double().cpu().numpy().tobytes())
    return f"{loaded.name}@{digest.hexdigest()[:16]}"


def _digest_of_adapter(loaded: LoadedModel) -> hashlib._Hash:
    """Begin a digest: samples of weights alone might miss a small adapter that was merged."""
    return hashlib.sha256(b"" if loaded.adapter is None else loaded.adapter.digest.encode())


def with_known_layers(
    loaded: LoadedModel, profile: str | os.PathLike[str] | None = None
) -> LoadedModel:
    """Give a model the critical layers that were found on it.

    In this order: those of ``profile``; those that `keep_profile` wrote for this very model;
    those of the profile in the model's folder; else the model stays as it is, and steering warns
    that it takes the middle third.

    Parameters
    ----------
    loaded : LoadedModel
    profile : path, optional
        A profile file. Only its layers are taken: the layout of the prompt stays the model's own.

    Raises
    ------
    ModelError
        If a profile cannot be read, holds no layers, or was found on another model.
    """
    if profile is not None:
        named = Path(profile)
        if not named.is_file():
            raise ModelError(f"there is no profile file {named.name!r} where it was named")
        return _apply(loaded, ModelProfile.read(named), named.name, profile_identity(loaded))
    folder = profiles_folder()
    own = loaded.profile
    if own.identity and loaded.adapter is not None:
        # Found on the model without it: not an error of the user, and not this model's layers.
        text: Any = loaded.model.config.get_text_config(decoder=True)
        own = replace(own, critical_layers=None, identity="", note="")
        middle = own.layers_for(text, loaded.source)
        loaded = replace(loaded, profile=own, critical_layers=middle, layers_are_known=False)
    if not own.identity and not folder.is_dir():
        return loaded
    identity = profile_identity(loaded)
    kept = folder / _file_name(identity)
    if kept.is_file():
        return _apply(loaded, ModelProfile.read(kept), str(kept), identity)
    _check(own, PROFILE_FILE + " in the model folder", identity)
    return loaded


def keep_profile(loaded: LoadedModel, layers: tuple[int, ...], note: str) -> Path:
    """Write the critical layers of a model where `with_known_layers` finds them.

    Returns
    -------
    pathlib.Path
        The file, in `profiles_folder`; an earlier one of the same model is replaced.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    path = profiles_folder() / _file_name(profile_identity(loaded))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found_profile(loaded, layers, note).write(path)
    except OSError as error:
        raise ModelError(
            f"the profile cannot be written ({error.strerror}); name another folder in "
            f"{PROFILES_VARIABLE}"
        ) from error
    return path


def found_profile(loaded: LoadedModel, layers: tuple[int, ...], note: str) -> ModelProfile:
    """Return the model's profile with these layers and the model's identity."""
    return replace(
        loaded.profile, critical_layers=layers, note=note, identity=profile_identity(loaded)
    )


def _file_name(identity: str) -> str:
    return identity.rpartition("@")[2] + ".json"


def _check(profile: ModelProfile, name: str, identity: str) -> None:
    theirs = profile.identity.rpartition("@")[2]
    if theirs and theirs != identity.rpartition("@")[2]:
        raise ModelError(
            f"profile {name} was found on {profile.identity}, and this model is {identity}: "
            "critical layers of another model mean nothing here; run mrrag find-layers on this "
            "one, or remove the profile"
        )


def _apply(loaded: LoadedModel, profile: ModelProfile, name: str, identity: str) -> LoadedModel:
    _check(profile, name, identity)
    if profile.critical_layers is None:
        raise ModelError(f"profile {name} names no critical_layers")
    settled = replace(
        loaded.profile,
        critical_layers=profile.critical_layers,
        note=profile.note,
        identity=profile.identity,
    )
    text: Any = loaded.model.config.get_text_config(decoder=True)
    return replace(
        loaded,
        profile=settled,
        critical_layers=settled.layers_for(text, loaded.source),
        layers_are_known=True,
    )


def model_identity(loaded: LoadedModel) -> str:
    """Return ``name@digest``: what is measured with one model must not be mixed with another's.

    The digest is of the prompt's layout, and of name, shape, type and 64 evenly spaced values of
    every weight: reading all of a 7B model would take longer than asking it. The name is the last
    part of its path or hub id.

    Parameters
    ----------
    loaded : LoadedModel
    """
    digest = _digest_of_adapter(loaded)
    digest.update(repr(loaded.profile.template).encode())
    for name, weight in loaded.model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(_sample(weight).double().cpu().numpy().tobytes())
    return f"{loaded.name}@{digest.hexdigest()[:16]}"


def _sample(weight: torch.Tensor) -> torch.Tensor:
    """Take 64 evenly spaced values of a weight, or all if it has fewer."""
    values = weight.detach().flatten()
    return values[:: max(1, values.numel() // _SAMPLES)][:_SAMPLES]
