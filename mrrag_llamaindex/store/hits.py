"""What goes into and comes out of a query: exclusions, hits and stored pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.store.pair import MetadataValue


@dataclass(frozen=True, eq=False)
class StoredPair:
    """A pair as the store holds it.

    Parameters
    ----------
    image_vector, text_vector
        Shape (n,), float32: the unit halves d_i and d_t, all zero when missing.

    The other fields are those of `Hit`.
    """

    pair_id: str
    image_vector: NDArray[np.float32]
    text_vector: NDArray[np.float32]
    report: str
    patient_id: str | None = None
    study_id: str | None = None
    image_path: str | None = None
    missing: str | None = None
    metadata: dict[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Hit:
    """A pair that a query found, with why it was found.

    Parameters
    ----------
    pair_id
        The pair.
    score
        The fused score f(q, d): ``1 - distance`` as Chroma returns it (float32 precision).
    image_text, image_image, text_text, text_image
        The cosine similarities that `score` weighs, from the stored vectors; exactly 0.0 where the
        question or the pair lacks that half. The last is told even where its weight is 0.
    report
        The report's text, ``""`` when the pair has none.
    patient_id, study_id
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
    score: float
    image_text: float
    image_image: float
    text_text: float
    text_image: float
    report: str
    patient_id: str | None = None
    study_id: str | None = None
    image_path: str | None = None
    missing: str | None = None
    metadata: dict[str, MetadataValue] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: StoredPair, terms: NDArray[np.float64], score: float) -> Hit:
        """Return the hit for a stored pair.

        Parameters
        ----------
        stored
            The pair.
        terms
            Shape (4,): its similarities to the question, in the order of `ALL_TERMS`.
        score
            Its fused score.
        """
        image_text, image_image, text_text, text_image = terms.tolist()
        return cls(
            pair_id=stored.pair_id,
            score=score,
            image_text=image_text,
            image_image=image_image,
            text_text=text_text,
            text_image=text_image,
            report=stored.report,
            patient_id=stored.patient_id,
            study_id=stored.study_id,
            image_path=stored.image_path,
            missing=stored.missing,
            metadata=stored.metadata,
        )


@dataclass(frozen=True)
class Stamp:
    """What tells whether a pair is already stored as it is: see `PairStore.stamps`."""

    patient_id: str | None
    fingerprint: str


@dataclass(frozen=True)
class Exclusion:
    """Pairs that must not be found, e.g. because they belong to the patient asked about.

    Parameters
    ----------
    pair_ids, patient_ids, study_ids
        Any iterables of strings. A pair that states no patient (or study) is not excluded by
        `patient_ids` (or `study_ids`): nothing says that it belongs to them.

    Raises
    ------
    ValueError
        If one of them is a bare string or holds something that is not a string.

    Examples
    --------
    >>> Exclusion(patient_ids=["anna"]).excludes("p1", patient_id="anna", study_id=None)
    True
    """

    pair_ids: frozenset[str] = frozenset()
    patient_ids: frozenset[str] = frozenset()
    study_ids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("pair_ids", "patient_ids", "study_ids"):
            value: Iterable[str] = getattr(self, name)
            # A bare string is an iterable of its letters: it would exclude nobody, silently.
            if isinstance(value, str):
                raise ValueError(f"{name} is the string {value!r}; pass a set: {{{value!r}}}")
            values = frozenset(value)
            if not all(isinstance(item, str) for item in values):
                raise ValueError(f"{name} must hold strings only (identifiers are stored as text)")
            object.__setattr__(self, name, values)

    def __bool__(self) -> bool:
        """Return whether anything is excluded."""
        return bool(self.pair_ids or self.patient_ids or self.study_ids)

    def excludes(self, pair_id: str, *, patient_id: str | None, study_id: str | None) -> bool:
        """Return whether the pair with these identifiers must not be found."""
        return (
            pair_id in self.pair_ids
            or (patient_id is not None and patient_id in self.patient_ids)
            or (study_id is not None and study_id in self.study_ids)
        )
