"""The fusion weights: one number for each similarity term, and how weights are saved."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.mcr.json_file import check_keys, is_number, parse_object, read_text

TERMS: Final = ("image_text", "image_image", "text_text")
"""Names of the paper's three similarity terms, in the order of every array of terms."""

HEAD_TERMS: Final = (*TERMS, "text_image")
"""The three, and <question text, pair image>, which the same stored vector holds."""

ALL_TERMS: Final = (*HEAD_TERMS, "raw_image", "raw_text")
"""The four, and image to image, text to text by the encoders' own features (see `mcr.blocks`)."""

WHAT: Final = "fusion weights"
"""How weights are called in errors."""


class SavedWeights(ABC):
    """Weights that are saved as a JSON object, with the towers that they were learned on.

    Attributes
    ----------
    FORMAT : str
        What the object says that it is; a hand-written one may leave it out.
    KEYS, OPTIONAL_KEYS : set of str
        What the object must hold besides, and what it may.
    INDENT : int or None
        Of the JSON.
    """

    FORMAT: ClassVar[str]
    KEYS: ClassVar[Set[str]]
    OPTIONAL_KEYS: ClassVar[Set[str]] = frozenset()
    INDENT: ClassVar[int | None] = None

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """Return the numbers by name, as plain JSON values."""

    @classmethod
    @abstractmethod
    def from_values(cls, data: dict[str, Any]) -> Self:
        """Return the weights that `values` described; other entries of `data` are passed over."""

    def to_json(self, *, towers_identity: str | None = None) -> str:
        """Return the weights as a JSON object, with the towers they were learned on if given."""
        data = {"format": self.FORMAT, **self.values()}
        if towers_identity is not None:
            data["towers_identity"] = towers_identity
        return json.dumps(data, indent=self.INDENT) + "\n"

    @classmethod
    def from_json(cls, text: str, *, towers_identity: str | None = None) -> Self:
        """Read what `to_json` wrote, or a hand-written object.

        Parameters
        ----------
        text
            A JSON object.
        towers_identity
            The towers in use. Weights that record other towers are refused; weights that record
            none (hand-written) are taken.

        Raises
        ------
        InputError
            If the text is not such an object, or was learned on other towers.
        """
        data = parse_object(text, WHAT)
        notes = {"format", "towers_identity", "note"}
        check_keys(data, WHAT, cls.FORMAT, cls.KEYS, cls.OPTIONAL_KEYS | notes)
        learned_on = data.get("towers_identity")
        if None not in (towers_identity, learned_on) and learned_on != towers_identity:
            raise InputError(
                f"{WHAT} were learned on towers {learned_on!r}, but {towers_identity!r} "
                "are in use: train the fusion again on these towers, or load those"
            )
        try:
            return cls.from_values(data)
        except (TypeError, ValueError) as error:
            raise InputError(f"{WHAT}: {error}") from None

    def save(self, path: str | os.PathLike[str], *, towers_identity: str | None = None) -> None:
        """Write `to_json` to `path`; an interrupted write leaves the earlier file as it was."""
        write_atomically(path, self.to_json(towers_identity=towers_identity))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, towers_identity: str | None = None) -> Self:
        """Read a file written by `save`; see `from_json` for what is refused.

        Where weights of either kind will do, see `weights_file.load_weights`.
        """
        return cls.from_json(read_text(path, WHAT), towers_identity=towers_identity)


@dataclass(frozen=True)
class FusionWeights(SavedWeights):
    """The weights a, b, c of the three similarity terms, and of further ones.

    Parameters
    ----------
    image_text
        a, on <question image, report>.
    image_image
        b, on <question image, pair image>.
    text_text
        c, on <question text, report>.
    text_image
        d, on <question text, pair image>. The paper has no such term: at 0 the score is Eq. 1.
    raw_image, raw_text
        On question image to pair image and question text to report by the encoders' own features,
        for towers that keep them (`mcr.blocks`). Nor has the paper these.

    Raises
    ------
    ValueError
        If a weight is not a finite number, or all are zero. Negative weights are allowed: training
        may find them. A negative `image_image` favours pairs without an image.

    Examples
    --------
    >>> FusionWeights(1.0, 0.5, 2.0).as_array()
    array([1. , 0.5, 2. ])
    """

    FORMAT = "mrrag-fusion-weights-1"
    KEYS = frozenset(TERMS)
    OPTIONAL_KEYS = frozenset(ALL_TERMS[len(TERMS) :])
    INDENT = 2

    image_text: float = 1.0
    image_image: float = 1.0
    text_text: float = 1.0
    text_image: float = 0.0
    raw_image: float = 0.0
    raw_text: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not is_number(value):
                raise ValueError(f"weight {name} is {value!r}; it must be a number")
            if not math.isfinite(value):
                raise ValueError(f"weight {name} is {value!r}; it must be finite")
            object.__setattr__(self, name, float(value))
        if not any(self.as_array(ALL_TERMS)):
            raise ValueError("all fusion weights are zero: every score would be zero")

    @classmethod
    def equal(cls, terms: tuple[str, ...]) -> Self:
        """Return the weights that these terms have before anything is learned.

        1 for each of the paper's three or, with raw features, of all six; 0 for the fourth alone.
        """
        return cls(**dict.fromkeys(ALL_TERMS, 1.0)) if terms == ALL_TERMS else cls()

    @classmethod
    def alone(cls, term: str) -> Self:
        """Return the weights that rank by one term: 1 for it, 0 for all others."""
        return cls(**{**dict.fromkeys(ALL_TERMS, 0.0), term: 1.0})

    @property
    def terms(self) -> tuple[str, ...]:
        """`TERMS`, and as many further ones as have a weight that is not zero."""
        weighted = [place for place, value in enumerate(self.as_array(ALL_TERMS), 1) if value]
        return ALL_TERMS[: max(len(TERMS), *weighted)]

    def as_array(self, terms: tuple[str, ...] = TERMS) -> NDArray[np.float64]:
        """Return the weights of the given terms, in their order; by default ``[a, b, c]``."""
        return np.array([getattr(self, name) for name in terms], dtype=np.float64)

    def as_dict(self) -> dict[str, float]:
        """Return the weights by name; further ones than the paper's only up to the last in use."""
        return {name: getattr(self, name) for name in self.terms}

    def weights_for(
        self, query_image: ArrayLike | None, query_text: ArrayLike | None
    ) -> FusionWeights:
        """Return these weights: they are the same for every question."""
        return self

    def values(self) -> dict[str, Any]:
        """Return `as_dict`."""
        return self.as_dict()

    @classmethod
    def from_values(cls, data: dict[str, Any]) -> Self:
        """Return the weights that `values` described."""
        return cls(**{name: data[name] for name in ALL_TERMS if name in data})
