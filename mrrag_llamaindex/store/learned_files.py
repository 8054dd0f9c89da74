"""What was learned for a store, kept beside it: its fusion weights and their calibration.

Neither is part of the store: learning again replaces a file, and no vector changes. Only a store in
a folder has a beside.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, TypeAlias

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.calibration import Calibration
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.mcr.weights_file import AnyWeights, load_weights
from mrrag_llamaindex.store.protocol import PairStore

FUSION_FILE = "fusion_weights.json"
"""Name of the weights beside a store."""

CALIBRATION_FILE = "calibration.json"
"""Name of the calibration beside a store."""

GivenWeights: TypeAlias = AnyWeights | str | Path | None
"""Weights, the file that they are in, or None for those beside the store."""

GivenCalibration: TypeAlias = Calibration | str | Path | Literal[False] | None
"""A calibration, the file that it is in, None for the one beside the store, or False for none."""

logger = logging.getLogger(__name__)


def weights_of(store: PairStore, given: GivenWeights = None) -> AnyWeights:
    """Return the weights to use with a store: those given, those beside it, or equal ones.

    Raises
    ------
    InputError
        If a file cannot be read, or its weights were learned on other towers than the store's.
    """
    if isinstance(given, (str, Path)):
        return load_weights(given, towers_identity=store.towers_identity)
    if given is not None:
        return given
    path = _beside(store, FUSION_FILE)
    if path is None:
        return FusionWeights()
    try:
        found = load_weights(path, towers_identity=store.towers_identity)
    except InputError as error:
        raise InputError(f"{FUSION_FILE} beside the store: {error}") from None
    logger.info("using %s beside the store", FUSION_FILE)
    return found


def calibration_of(
    store: PairStore, weights: AnyWeights, given: GivenCalibration = None
) -> Calibration | None:
    """Return the calibration to use with a store and weights, None if there is none.

    Raises
    ------
    InputError
        If a file cannot be read, or the calibration belongs to other towers or other weights.
    """
    if given is False:
        return None
    path = None if given is not None else _beside(store, CALIBRATION_FILE)
    if given is None and path is None:
        return None
    try:
        found = given if isinstance(given, Calibration) else Calibration.load(given or path or "")
        found.check(store.towers_identity, weights)
    except InputError as error:
        if path is None:
            raise
        raise InputError(
            f"{CALIBRATION_FILE} beside the store: {error}; to go on without probabilities, open "
            "the store with calibration=False (mrrag ask --calibration none)"
        ) from None
    if path is not None:
        logger.info("using %s beside the store", CALIBRATION_FILE)
    return found


def _beside(store: PairStore, name: str) -> Path | None:
    folder = store.folder
    path = None if folder is None else folder / name
    return path if path is not None and path.is_file() else None
