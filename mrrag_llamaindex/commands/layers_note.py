"""Whose the critical layers of a model are, in a line for whoever reads the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel


def layers_note(loaded: LoadedModel, *, kept: bool) -> str:
    """Name the layers and where they come from; ``kept`` ones were found here by find-layers."""
    layers = f"critical layers {', '.join(map(str, loaded.critical_layers))}"
    if kept:
        return f"{layers}: as mrrag find-layers found on this model"
    if loaded.layers_are_known:
        return f"{layers}: from the profile in the model's folder"
    return (
        f"{layers}, the middle third: none were found on this model; mrrag find-layers finds them"
    )
