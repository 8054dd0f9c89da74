"""What a store holds, what was learned for it, and what it lacks: ``mrrag status``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from mrrag_llamaindex import defaults
from mrrag_llamaindex.doctor.start.columns import find_labels
from mrrag_llamaindex.doctor.start.layers import ModelLayers, known_layers
from mrrag_llamaindex.doctor.start.steps import (
    QUESTION,
    Step,
    command,
    layers_step,
    learning_steps,
)
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.learned_files import (
    CALIBRATION_FILE,
    FUSION_FILE,
    calibration_of,
    learned_text,
    weights_of,
)
from mrrag_llamaindex.store.pair import STUDY_KEY
from mrrag_llamaindex.store.places import without_password
from mrrag_llamaindex.store.protocol import PairStore

_BATCH: Final = 2000
_SAMPLE: Final = 500


@dataclass(frozen=True)
class Learned:
    """Weights or a calibration that lie with a store.

    Attributes
    ----------
    state : {"learned", "absent", "unusable"}
    kind : str or None
        The format of weights, or the method of a calibration.
    values : dict of str to float or None
        The weights, where they are the same for every question.
    problem : str or None
        Why what lies there cannot be used.
    """

    state: Literal["learned", "absent", "unusable"]
    kind: str | None = None
    values: dict[str, float] | None = None
    problem: str | None = None


@dataclass(frozen=True)
class StoreStatus:
    """What is known of a store.

    Attributes
    ----------
    store : str
        The place, without a password.
    collection, kind : str
    pairs : int
    patients, without_patient : int or None
        Different patients, and pairs of none; None where they were not counted.
    towers, towers_identity : str
        What ``--towers`` takes, and what identifies their weights.
    towers_here : bool
        Whether a folder of that name is here; hub ids and shipped towers are.
    dimension : int
        n, of one half of a pair's vector in the common space.
    bytes : int or None
        On disk; None for a server.
    weights, calibration : Learned
    model : ModelLayers
    next : tuple of Step
        What is missing, with the commands.
    """

    store: str
    collection: str
    kind: str
    pairs: int
    patients: int | None
    without_patient: int | None
    towers: str
    towers_identity: str
    towers_here: bool
    dimension: int
    bytes: int | None
    weights: Learned
    calibration: Learned
    model: ModelLayers
    next: tuple[Step, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def status_of(
    store: PairStore,
    place: str,
    *,
    collection: str = "pairs",
    model: str = defaults.PHANTOM,
    count_patients: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> StoreStatus:
    """Look at an open store; nothing is loaded, and nothing is changed.

    Parameters
    ----------
    store : PairStore
    place : str
        Where it is, as the user said.
    collection : str
    model : str
        Whose critical layers are looked for.
    count_patients : bool
        False: no look at every pair, which takes long for millions.
    progress : callable, optional
        Called with the number of pairs looked at, and of all.
    """
    ids = store.pair_ids() if count_patients else []
    patients: set[str] = set()
    nobody = 0
    for start in range(0, len(ids), _BATCH):
        for print_ in store.fingerprints(ids[start : start + _BATCH]).values():
            nobody += print_.patient_id is None
            patients |= set() if print_.patient_id is None else {print_.patient_id}
        if progress is not None:
            progress(min(start + _BATCH, len(ids)), len(ids))
    status = StoreStatus(
        store=without_password(place),
        collection=collection,
        kind=type(store).__name__.removesuffix("PairStore").lower(),
        pairs=len(store),
        patients=len(patients) if count_patients else None,
        without_patient=nobody if count_patients else None,
        towers=store.towers_source,
        towers_identity=store.towers_identity,
        towers_here=_here(store.towers_source),
        dimension=store.dimension,
        bytes=None if store.folder is None else _size(store.folder),
        weights=_weights(store),
        calibration=_calibration(store),
        model=known_layers(model),
    )
    learned = status.weights.state == status.calibration.state == "learned"
    labels = () if learned else _labels(store, ids)
    return _with_steps(status, labels)


def _weights(store: PairStore) -> Learned:
    try:
        text = learned_text(store, FUSION_FILE)
        if text is None:
            return Learned("absent")
        weights = weights_of(store)
    except InputError as error:
        return Learned("unusable", problem=str(error))
    same = {name: float(value) for name, value in _numbers(weights.as_dict()).items()}
    return Learned("learned", json.loads(text).get("format"), same or None)


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _calibration(store: PairStore) -> Learned:
    try:
        if learned_text(store, CALIBRATION_FILE) is None:
            return Learned("absent")
        calibration = calibration_of(store, weights_of(store))
    except InputError as error:
        return Learned("unusable", problem=str(error))
    assert calibration is not None
    return Learned("learned", calibration.method)


def _labels(store: PairStore, ids: list[str]) -> tuple[str, ...]:
    """Return columns of the pairs that weights can be learned from."""
    step = max(1, len(ids) // _SAMPLE)
    pairs = store.get(ids[::step][:_SAMPLE]).values()
    return find_labels([pair.metadata for pair in pairs], [STUDY_KEY])


def _here(source: str) -> bool:
    if source in defaults.PHANTOM_MODELS:
        return True
    path = Path(source).expanduser()
    return path.is_dir() or not (path.is_absolute() or source.startswith("."))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _with_steps(status: StoreStatus, labels: tuple[str, ...]) -> StoreStatus:
    place, model = status.store, status.model.model
    steps = []
    if not status.pairs:
        steps.append(Step("look at a table of pairs, and say how to ingest it", command("init")))
    if not status.towers_here:
        needs = f"the towers' folder, which is not at {status.towers}"
        steps.append(
            Step("questions cannot be embedded", command("doctor", towers=status.towers), needs)
        )
    if status.pairs and status.pairs == status.without_patient:
        steps.append(
            Step(
                "no pair has a patient: ingest again, naming the column",
                command("init", "TABLE", columns="patient_id=COLUMN", store=place),
                "TABLE and COLUMN: those of the pairs",
            )
        )
    if status.pairs and "absent" in (status.weights.state, status.calibration.state):
        has_weights = status.weights.state == "learned"
        steps += learning_steps(place, model, None, labels, has_weights=has_weights)
    if status.model.state == "absent":
        steps.append(layers_step(model))
    if status.pairs:
        ask = command("ask", QUESTION, store=place, image="IMAGE", model=model)
        steps.append(Step("ask", ask, "IMAGE: a file with the image in question"))
    return replace(status, next=tuple(steps))
