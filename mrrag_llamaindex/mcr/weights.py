"""The fusion weights: three numbers or four, their file, and the towers that they belong to."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import write_atomically

TERMS = ("image_text", "image_image", "text_text")
"""Names of the paper's three similarity terms, in the order of every array of terms."""

ALL_TERMS = (*TERMS, "text_image")
"""The three, and <question text, pair image>, which the same stored vector holds."""

FORMAT = "mrrag-fusion-weights-1"
"""What a file of these weights says that it is."""

_NOTES = frozenset({"format", "towers_identity", "note"})


@dataclass(frozen=True)
class FusionWeights:
    """The weights a, b, c of the three similarity terms, and d of a fourth.

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

    Raises
    ------
    ValueError
        If a weight is not a finite number, or all are zero. Negative weights are allowed: training
        may find them. Mind that a negative `image_image` favours pairs without an image.

    Examples
    --------
    >>> FusionWeights(1.0, 0.5, 2.0).as_array()
    array([1. , 0.5, 2. ])
    """

    image_text: float = 1.0
    image_image: float = 1.0
    text_text: float = 1.0
    text_image: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise ValueError(f"weight {item.name} is {value!r}; it must be a number")
            if not math.isfinite(value):
                raise ValueError(f"weight {item.name} is {value!r}; it must be finite")
            object.__setattr__(self, item.name, float(value))
        if not any(self.as_array(ALL_TERMS)):
            raise ValueError("all fusion weights are zero: every score would be zero")

    def as_array(self, terms: tuple[str, ...] = TERMS) -> NDArray[np.float64]:
        """Return the weights in the order of `terms`: ``[a, b, c]``, shape (3,), if not told."""
        return np.array([getattr(self, name) for name in terms], dtype=np.float64)

    def as_dict(self) -> dict[str, float]:
        """Return the weights by name; the fourth only where it is not zero."""
        terms = ALL_TERMS if self.text_image else TERMS
        return {name: getattr(self, name) for name in terms}

    def weights_for(
        self, query_image: ArrayLike | None, query_text: ArrayLike | None
    ) -> FusionWeights:
        """Return these weights: they are the same for every question."""
        return self

    def to_json(self, *, towers_identity: str | None = None) -> str:
        """Return the weights as a JSON object, with the towers they were learned on if given."""
        data: dict[str, Any] = {"format": FORMAT, **self.as_dict()}
        if towers_identity is not None:
            data["towers_identity"] = towers_identity
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, towers_identity: str | None = None) -> FusionWeights:
        """Read what `to_json` wrote, or a hand-written object with the three weights.

        Parameters
        ----------
        text
            A JSON object with the keys of `TERMS`; ``text_image`` may be left out.
        towers_identity
            The towers in use. Weights that record other towers are refused; weights that record
            none (hand-written) are taken.

        Raises
        ------
        InputError
            If the text is not such an object, or was learned on other towers.
        """
        data = parse_object(text)
        if data.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"fusion weights: format {data['format']!r} is not that of weights for all "
                f"questions ({FORMAT})"
            )
        unknown = sorted(data.keys() - _NOTES - set(ALL_TERMS))
        absent = [name for name in TERMS if name not in data]
        if unknown or absent:
            raise InputError(
                f"fusion weights: expected {', '.join(TERMS)}; missing {absent}, unknown {unknown}"
            )
        check_towers(data, towers_identity)
        try:
            return cls(**{name: data[name] for name in ALL_TERMS if name in data})
        except ValueError as error:
            raise InputError(f"fusion weights: {error}") from None

    def save(self, path: str | os.PathLike[str], *, towers_identity: str | None = None) -> None:
        """Write `to_json` to `path`; an interrupted write leaves the earlier file as it was."""
        write_atomically(path, self.to_json(towers_identity=towers_identity))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, towers_identity: str | None = None
    ) -> FusionWeights:
        """Read a file written by `save`; see `from_json` for what is refused.

        Where weights of either kind will do, see `weights_file.load_weights`.
        """
        return cls.from_json(read_text(path), towers_identity=towers_identity)


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file of weights.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"fusion weights: cannot read {Path(path).name!r} ({type(error).__name__})"
        ) from None


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` is.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"fusion weights: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError("fusion weights: expected a JSON object")
    return data


def check_towers(data: dict[str, Any], towers_identity: str | None) -> None:
    """Refuse weights that record other towers; those that record none are taken.

    Raises
    ------
    InputError
        If they were learned on other towers.
    """
    learned_on = data.get("towers_identity")
    if None not in (towers_identity, learned_on) and learned_on != towers_identity:
        raise InputError(
            f"fusion weights were learned on towers {learned_on!r}, but {towers_identity!r} "
            "are in use: train the fusion again on these towers, or load those"
        )
