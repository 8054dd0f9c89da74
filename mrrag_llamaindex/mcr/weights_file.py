"""Fusion weights from a file, whichever kind it holds."""

from __future__ import annotations

import os
from typing import TypeAlias

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.json_file import parse_object, read_text
from mrrag_llamaindex.mcr.weights import WHAT, FusionWeights

AnyWeights: TypeAlias = FusionWeights | QueryGatedWeights
"""Both have ``weights_for(query_image, query_text)``, ``as_dict``, ``save`` and ``to_json``."""


def load_weights(path: str | os.PathLike[str], *, towers_identity: str | None = None) -> AnyWeights:
    """Read weights that ``mrrag train-fusion`` wrote, or a hand-written object of weights.

    Parameters
    ----------
    path
        A JSON file. Its ``format`` says what it holds; without one it holds global weights.
    towers_identity
        The towers in use. Weights that were learned on other towers are refused.

    Raises
    ------
    InputError
        If the file cannot be read, holds no weights, or was learned on other towers.
    """
    return weights_from_json(read_text(path, WHAT), towers_identity=towers_identity)


def weights_from_json(text: str, *, towers_identity: str | None = None) -> AnyWeights:
    """Return the weights that a file's text holds, see `load_weights`."""
    stated = parse_object(text, WHAT).get("format", FusionWeights.FORMAT)
    for kind in (FusionWeights, QueryGatedWeights):
        if stated == kind.FORMAT:
            return kind.from_json(text, towers_identity=towers_identity)
    known = f"{FusionWeights.FORMAT}, {QueryGatedWeights.FORMAT}"
    raise InputError(f"{WHAT}: format {stated!r} is not one this version reads ({known})")
