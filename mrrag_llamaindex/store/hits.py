"""What a store holds of a pair, and what a query returns: records, hits, exclusions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.files.rows import spellings
from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.store.pair import STUDY_KEY, MetadataValue, Pair


@dataclass(frozen=True, kw_only=True)
class PairRecord:
    """What is known of a pair.

    Parameters
    ----------
    pair_id
        The pair.
    report
        The report's text, ``""`` when the pair has none.
    patient_id
        `None` when unknown.
    image_path
        Absolute path of the image file, `None` when the pair has no image or its image did not
        come from a file.
    missing
        ``"image"``, ``"report"`` or `None`.
    metadata
        The pair's own metadata, without the keys that the store adds.
    """

    pair_id: str
    report: str = ""
    patient_id: str | None = None
    image_path: str | None = None
    missing: str | None = None
    metadata: dict[str, MetadataValue] = field(default_factory=dict)

    @property
    def study_id(self) -> str | None:
        """``metadata["study_id"]`` as text, `None` when unknown."""
        study = self.metadata.get(STUDY_KEY)
        return None if study is None else str(study)

    @property
    def case(self) -> tuple[str | None, str] | None:
        """Patient and study, by which views of one examination belong together; None for none."""
        study = self.study_id
        return None if study is None else (self.patient_id, study)

    @property
    def filter_values(self) -> dict[str, MetadataValue]:
        """What a filter sees: the metadata, and the fields above by name where they are known."""
        names = ("pair_id", "patient_id", STUDY_KEY, "image_path", "missing")
        own = {name: value for name in names if (value := getattr(self, name))}
        return {**self.metadata, **own}


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPair(PairRecord):
    """A pair as a back end keeps it.

    Parameters
    ----------
    vector
        Shape (l,), float32: the halves ``[d_i ; d_t]``, all zero where one is missing; the
        store's `Blocks` say where which begins.
    fingerprint
        Digest of the pair's contents, ``""`` for none.
    """

    vector: NDArray[np.float32]
    fingerprint: str = ""

    @classmethod
    def of(cls, pair: Pair, vector: NDArray[np.float32], fingerprint: str) -> StoredPair:
        """Return a pair as it is stored; of its image only the absolute path, if it has one."""
        from_file = isinstance(pair.image, (str, os.PathLike))
        return cls(
            pair_id=pair.pair_id,
            report=pair.report or "",
            patient_id=pair.patient_id,
            image_path=str(Path(pair.image).absolute()) if from_file else None,  # type: ignore[arg-type]
            missing=pair.missing,
            metadata=dict(pair.metadata),
            vector=vector,
            fingerprint=fingerprint,
        )


@dataclass(frozen=True, kw_only=True)
class Hit(PairRecord):
    """A pair that a query returns, with its score and what the score is made of.

    Parameters
    ----------
    score
        The fused score f(q, d), float32 precision.
    image_text, image_image, text_text, text_image
        The cosine similarities that `score` weighs, from the stored vectors; exactly 0.0 where the
        question or the pair lacks that half. The last is given even where its weight is 0.
    raw_image, raw_text
        The same by the encoders' own features; `None` for towers that do not keep them. With
        these, all six are cosines times the scales of the store's `Blocks`.
    """

    score: float
    image_text: float
    image_image: float
    text_text: float
    text_image: float
    raw_image: float | None = None
    raw_text: float | None = None

    @classmethod
    def of(cls, pair: StoredPair, terms: Mapping[str, float], score: float) -> Hit:
        """Return the hit for a stored pair.

        Parameters
        ----------
        pair
            The pair.
        terms
            Its similarities to the question, by name.
        score
            Its fused score.
        """
        record: dict[str, Any] = {
            item.name: getattr(pair, item.name) for item in fields(PairRecord)
        }
        return cls(score=score, **{**record, **terms})

    @property
    def terms(self) -> dict[str, float]:
        """The similarities that there are, by name, in the order of `ALL_TERMS`."""
        values = ((name, getattr(self, name)) for name in ALL_TERMS)
        return {name: value for name, value in values if value is not None}


OnePer: TypeAlias = Literal["patient", "study", "none"]
"""What takes one place among the documents at most, see `one_per_case`."""

ONE_PER: Final[tuple[OnePer, ...]] = get_args(OnePer)
"""Its values."""


def one_per_case(
    hits: Iterable[Hit], one_per: OnePer = "study"
) -> list[tuple[Hit, tuple[str, ...]]]:
    """Return the hits without further ones of a case, each with the ids of those left out.

    Parameters
    ----------
    hits
        Best first: the best of a case stands for it.
    one_per
        ``"study"``: several images of one study share its report, and are shown once; hits of one
        study whose reports differ all stay. ``"patient"``: one for each patient, whatever the
        others say; where the patient is not known, as for ``"study"``. ``"none"``: all stay.
    """
    cases: dict[object, tuple[Hit, list[str]]] = {}
    for place, hit in enumerate(hits):
        key: object = case_key(one_per, hit.patient_id, hit.study_id, hit.report) or place
        if key in cases:
            cases[key][1].append(hit.pair_id)
        else:
            cases[key] = (hit, [])
    return [(hit, tuple(others)) for hit, others in cases.values()]


def case_key(
    one_per: OnePer, patient: str | None, study: str | None, report: str
) -> tuple[object, ...] | None:
    """Return what is equal for pairs that share one place; None: this pair shares it with none.

    Examples
    --------
    >>> case_key("patient", "anna", "s1", "Clear.") == case_key("patient", "anna", "s2", "Hazy.")
    True
    >>> case_key("study", "anna", "s1", "Clear.") == case_key("study", "anna", "s1", "Hazy.")
    False
    """
    if one_per == "patient" and patient is not None:
        return (patient,)
    if one_per != "none" and study is not None:
        return (patient, study, report)
    return None


@dataclass(frozen=True)
class Fingerprint:
    """What shows whether a pair is stored as it is: see `PairStore.fingerprints`."""

    patient_id: str | None
    digest: str


@dataclass(frozen=True)
class Exclusion:
    """Pairs that must not be found, e.g. because they belong to the patient asked about.

    Parameters
    ----------
    pair_ids, patient_ids, study_ids
        Any iterables of strings. A pair that states no patient (or study) is not excluded by
        `patient_ids` (or `study_ids`): nothing says that it belongs to them. An id of a pair or
        patient is held in all its `spellings`.
    cases
        Patient and study of examinations, see `PairStore.with_views`.

    Raises
    ------
    ValueError
        If one of them is a bare string, or holds something that is not a string, or an id of a pair
        or patient that none has: empty, or with blanks at its ends.

    Examples
    --------
    >>> Exclusion(patient_ids=["anna"]).excludes(PairRecord(pair_id="p1", patient_id="anna"))
    True
    """

    pair_ids: frozenset[str] = frozenset()
    patient_ids: frozenset[str] = frozenset()
    study_ids: frozenset[str] = frozenset()
    cases: frozenset[tuple[str | None, str]] = frozenset()

    def __post_init__(self) -> None:
        for name in ("pair_ids", "patient_ids", "study_ids"):
            value: Iterable[str] = getattr(self, name)
            # A bare string is an iterable of its letters: it would exclude nobody, silently.
            if isinstance(value, str):
                raise ValueError(f"{name} is the string {value!r}; pass a set: {{{value!r}}}")
            values = frozenset(value)
            if not all(isinstance(item, str) for item in values):
                raise ValueError(f"{name} must hold strings only (identifiers are stored as text)")
            if name != "study_ids":
                values = frozenset(form for item in values for form in _forms(item, name))
            object.__setattr__(self, name, values)

    def __bool__(self) -> bool:
        """Return whether anything is excluded."""
        return bool(self.pair_ids or self.patient_ids or self.study_ids or self.cases)

    def excludes(self, pair: PairRecord) -> bool:
        """Return whether a pair must not be found."""
        return (
            pair.pair_id in self.pair_ids
            or pair.patient_id in self.patient_ids
            or pair.study_id in self.study_ids
            or pair.case in self.cases
        )


def _forms(identifier: str, name: str) -> frozenset[str]:
    try:
        return spellings(identifier)
    except ValueError as error:
        # It would exclude nobody, silently.
        raise ValueError(f"{name} holds {identifier!r}, which {error}") from None
