"""What was learned for a store: fusion weights and their calibration, in files in its folder.

Neither is part of the store: learning again replaces a file, and no vector changes. A store without
a folder may keep their texts beside its pairs, where `mrrag store copy` puts them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, TypeAlias

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.digests import file_state
from mrrag_llamaindex.mcr.calibration import Calibration
from mrrag_llamaindex.mcr.json_file import read_text
from mrrag_llamaindex.mcr.weights_file import AnyWeights, load_weights, weights_from_json
from mrrag_llamaindex.store.backends import store_errors
from mrrag_llamaindex.store.protocol import PairStore

FUSION_FILE = "fusion_weights.json"
"""Name of the file of weights."""

CALIBRATION_FILE = "calibration.json"
"""Name of the file of the calibration."""

LEARNED_FILES = (FUSION_FILE, CALIBRATION_FILE)

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
    if source is not None:
        return load_weights(source, towers_identity=store.towers_identity)
    text = learned_text(store, FUSION_FILE)
    if text is None:
        return store.schema.blocks.equal_weights()
    try:
        return weights_from_json(text, towers_identity=store.towers_identity)
    except InputError as error:
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
    if source is False:
        return None
    text = None
    if source is None and (text := learned_text(store, CALIBRATION_FILE)) is None:
        return None
    try:
        if text is not None:
            calibration = Calibration.from_json(text)
        elif isinstance(source, Calibration):
            calibration = source
        else:
            assert source is not None
            calibration = Calibration.load(source)
        calibration.check(store.towers_identity, weights)
    except InputError as error:
        if text is None:
            raise
        raise InputError(
            f"{CALIBRATION_FILE} beside the store: {error}; to go on without probabilities, open "
            "the store with calibration=False (mrrag ask --calibration none)"
        ) from None
    return calibration


def learned_text(store: PairStore, name: str) -> str | None:
    """Return the text of a learned file that lies with a store, None if there is none."""
    if store.folder is None:
        with store_errors(f"reading {name} of {store.name}"):
            return store._learned(name)
    path = store.folder / name
    if not path.is_file():
        return None
    logger.info("using %s beside the store", name)
    return read_text(path, name)


def learned_state(store: PairStore) -> tuple[object, ...]:
    """Return what differs once something else was learned for a store; of a folder, cheaply."""
    if store.folder is None:
        return tuple(learned_text(store, name) for name in LEARNED_FILES)
    return tuple(file_state(store.folder / name) for name in LEARNED_FILES)


def keep_learned(store: PairStore, name: str, text: str) -> None:
    """Let the text of a learned file lie with a store, in place of an earlier one.

    Raises
    ------
    StoreError
        If the store has no place for it.
    """
    if store.folder is not None:
        write_atomically(store.folder / name, text)
        return
    with store_errors(f"writing {name} to {store.name}"):
        store._keep_learned(name, text)
