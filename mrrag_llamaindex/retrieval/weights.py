"""The fusion weights: three numbers, their file, and the towers that they belong to."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError

TERMS = ("image_text", "image_image", "text_text")
"""Names of the three similarity terms, in the order of every array of terms."""

_FORMAT = "mrrag-fusion-weights-1"
_NOTES = frozenset({"format", "towers_identity", "note"})


@dataclass(frozen=True)
class FusionWeights:
    """The weights a, b, c of the three similarity terms.

    Parameters
    ----------
    image_text
        a, on <question image, report>.
    image_image
        b, on <question image, pair image>.
    text_text
        c, on <question text, report>.

    Raises
    ------
    ValueError
        If a weight is not a finite number, or all three are zero. Negative weights are allowed:
        training may find them. Mind that a negative `image_image` favours pairs without an image.

    Examples
    --------
    >>> FusionWeights(1.0, 0.5, 2.0).as_array()
    array([1. , 0.5, 2. ])
    """

    image_text: float = 1.0
    image_image: float = 1.0
    text_text: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise ValueError(f"weight {item.name} is {value!r}; it must be a number")
            if not math.isfinite(value):
                raise ValueError(f"weight {item.name} is {value!r}; it must be finite")
            object.__setattr__(self, item.name, float(value))
        if not any(self.as_array()):
            raise ValueError("all three fusion weights are zero: every score would be zero")

    def as_array(self) -> NDArray[np.float64]:
        """Return ``[a, b, c]``, shape (3,), in the order of `TERMS`."""
        return np.array([self.image_text, self.image_image, self.text_text], dtype=np.float64)

    def to_json(self, *, towers_identity: str | None = None) -> str:
        """Return the weights as a JSON object, with the towers they were learned on if given."""
        data: dict[str, Any] = {"format": _FORMAT}
        data.update(zip(TERMS, self.as_array().tolist(), strict=True))
        if towers_identity is not None:
            data["towers_identity"] = towers_identity
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, towers_identity: str | None = None) -> FusionWeights:
        """Read what `to_json` wrote, or a hand-written object with the three weights.

        Parameters
        ----------
        text
            A JSON object with the keys of `TERMS`.
        towers_identity
            The towers in use. Weights that record other towers are refused; weights that record
            none (hand-written) are taken.

        Raises
        ------
        InputError
            If the text is not such an object, or was learned on other towers.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"fusion weights: not valid JSON ({error})") from None
        if not isinstance(data, dict):
            raise InputError("fusion weights: expected a JSON object")
        if data.get("format", _FORMAT) != _FORMAT:
            raise InputError(
                f"fusion weights: format {data['format']!r} is not one this version reads "
                f"({_FORMAT})"
            )
        unknown = sorted(data.keys() - _NOTES - set(TERMS))
        absent = [name for name in TERMS if name not in data]
        if unknown or absent:
            raise InputError(
                f"fusion weights: expected {', '.join(TERMS)}; missing {absent}, unknown {unknown}"
            )
        learned_on = data.get("towers_identity")
        if None not in (towers_identity, learned_on) and learned_on != towers_identity:
            raise InputError(
                f"fusion weights were learned on towers {learned_on!r}, but {towers_identity!r} "
                "are in use: train the fusion again on these towers, or load those"
            )
        try:
            return cls(*(data[name] for name in TERMS))
        except ValueError as error:
            raise InputError(f"fusion weights: {error}") from None

    def save(self, path: str | os.PathLike[str], *, towers_identity: str | None = None) -> None:
        """Write `to_json` to `path`; an interrupted write leaves the earlier file as it was."""
        target = Path(path)
        text = self.to_json(towers_identity=towers_identity)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=target.name, delete=False
        ) as handle:
            handle.write(text)
        Path(handle.name).replace(target)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, towers_identity: str | None = None
    ) -> FusionWeights:
        """Read a file written by `save`; see `from_json` for what is refused."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"fusion weights: cannot read {Path(path).name!r} ({type(error).__name__})"
            ) from None
        return cls.from_json(text, towers_identity=towers_identity)
