"""A short name that tells one loaded generator from another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel

_SAMPLES = 64


def model_identity(loaded: LoadedModel) -> str:
    """Return ``name@digest``: what is measured with one model must not be mixed with another's.

    The digest is of the prompt's layout, and of name, shape, type and 64 evenly spaced values of
    every weight: reading all of a 7B model would take longer than asking it. The name is the last
    part of its path or hub id.

    Parameters
    ----------
    loaded : LoadedModel
    """
    digest = hashlib.sha256(repr(loaded.profile.template).encode())
    for name, weight in loaded.model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        values = weight.flatten()
        step = max(1, values.numel() // _SAMPLES)
        digest.update(values[::step][:_SAMPLES].double().cpu().numpy().tobytes())
    return f"{Path(loaded.source).name}@{digest.hexdigest()[:16]}"
