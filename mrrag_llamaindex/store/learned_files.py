"""What was learned for a store, in files in its folder: fusion weights and their calibration.

Neither is part of the store: learning again replaces a file, and no vector changes. A store on a
server, in memory or in a given client has no folder, and so no such files.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, TypeAlias

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.calibration import Calibration
from mrrag_llamaindex.mcr.weights_file import AnyWeights, load_weights
from mrrag_llamaindex.store.protocol import PairStore

FUSION_FILE = "fusion_weights.json"
"""Name of the file of weights."""

CALIBRATION_FILE = "calibration.json"
"""Name of the file of the calibration."""

GivenWeights: TypeAlias = AnyWeights | str | Path | None
"""Weights, the file that they are in, or None for those in the store's folder."""

GivenCalibration: TypeAlias = Calibration | str | Path | Literal[False] | None
"""A calibration, its file, None for the one in the store's folder, or False for none."""

logger = logging.getLogger(__name__)


def weights_of(store: PairStore, source: GivenWeights = None) -> AnyWeights:
    """Return the weights to use with a store: those given, those in its folder, or equal ones.

    Raises
    ------
    InputError
        If a file cannot be read, its weights were learned on other towers than the store's, or
        what was given are no weights.
    """
    if source is not None and not isinstance(source, (str, Path)):
        require_weights(source)
        return source
    file = _learned_file(store, FUSION_FILE) if source is None else None
    path = file if source is None else source
    if path is None:
        return store.schema.blocks.equal_weights()
    try:
        return load_weights(path, towers_identity=store.towers_identity)
    except InputError as error:
        if file is None:
            raise
        raise InputError(f"{FUSION_FILE} beside the store: {error}") from None


def require_weights(weights: object) -> None:
    """Raise `InputError` unless they are weights of either kind."""
    if not isinstance(weights, AnyWeights):
        raise InputError(
            f"weights is a {type(weights).__name__}; give FusionWeights(...), QueryGatedWeights, "
            "or a file that mrrag train-fusion wrote"
        )


def calibration_of(
    store: PairStore, weights: AnyWeights, source: GivenCalibration = None
) -> Calibration | None:
    """Return the calibration to use with a store and weights, None if there is none.

    Raises
    ------
    InputError
        If a file cannot be read, or the calibration belongs to other towers or other weights.
    """
    file = _learned_file(store, CALIBRATION_FILE) if source is None else None
    path = file if source is None else source
    if path is None or path is False:
        return None
    try:
        calibration = path if isinstance(path, Calibration) else Calibration.load(path)
        calibration.check(store.towers_identity, weights)
    except InputError as error:
        if file is None:
            raise
        raise InputError(
            f"{CALIBRATION_FILE} beside the store: {error}; to go on without probabilities, open "
            "the store with calibration=False (mrrag ask --calibration none)"
        ) from None
    return calibration


def _learned_file(store: PairStore, name: str) -> Path | None:
    """Return the path of a file in a store's folder, `None` if there is none."""
    if store.folder is None or not (store.folder / name).is_file():
        return None
    logger.info("using %s beside the store", name)
    return store.folder / name
