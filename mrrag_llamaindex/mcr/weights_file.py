"""Fusion weights from a file, whichever kind it holds."""

from __future__ import annotations

import os
from typing import TypeAlias

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr import gated_weights, weights
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.weights import FusionWeights, parse_object, read_text

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
    text = read_text(path)
    kind = parse_object(text).get("format", weights.FORMAT)
    if kind == weights.FORMAT:
        return FusionWeights.from_json(text, towers_identity=towers_identity)
    if kind == gated_weights.FORMAT:
        return QueryGatedWeights.from_json(text, towers_identity=towers_identity)
    known = f"{weights.FORMAT}, {gated_weights.FORMAT}"
    raise InputError(f"fusion weights: format {kind!r} is not one this version reads ({known})")
