"""From the score of a document to the probability that it supports a right answer.

A fused score ranks; it says nothing by itself, and two trainings of the weights give it two
scales. A calibration maps it to a probability by a curve that was fitted on questions whose
answers are known. It belongs to one pair of towers and one set of weights, and says so.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.mcr.json_file import check_keys, is_number, parse_object, read_text

if TYPE_CHECKING:
    from mrrag_llamaindex.mcr.weights_file import AnyWeights

Method = Literal["isotonic", "platt"]

_FORMAT = "mrrag-calibration-1"
_KEYS = {"format", "method", "curve", "towers_identity", "weights", "abstention", "about"}


@dataclass(frozen=True)
class Calibration:
    """A curve from score to probability.

    Parameters
    ----------
    method : {"isotonic", "platt"}
    curve : tuple of (float, float)
        isotonic: knots (score, probability), both increasing; straight lines between them, and
        constant beyond the first and the last. platt: one pair, slope and intercept of
        1 / (1 + exp(-(slope * score + intercept))).
    towers_identity : str
        The towers whose similarities were scored.
    weights : str
        `weights_digest` of the weights that fused them.
    abstention : Abstention or None
        None if no threshold was asked for or could be shown to keep the stated error rate.
    about : dict
        How and on what it was fitted, and how good it is; plain JSON values.

    Raises
    ------
    ValueError
        If the curve is not one, or falls.

    Examples
    --------
    >>> curve = Calibration("isotonic", ((0.0, 0.2), (1.0, 0.8)), "towers", "weights")
    >>> curve.probability([-1.0, 0.5, 2.0])
    array([0.2, 0.5, 0.8])
    """

    method: Method
    curve: tuple[tuple[float, float], ...]
    towers_identity: str
    weights: str
    abstention: Abstention | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = np.array(self.curve, dtype=np.float64)
        if numbers.ndim != 2 or numbers.shape[1] != 2 or not np.isfinite(numbers).all():
            raise ValueError("the curve must be pairs of finite numbers")
        if self.method == "platt":
            if len(numbers) != 1 or numbers[0, 0] < 0:
                raise ValueError("a platt curve is one slope, not below zero, and one intercept")
        elif self.method == "isotonic":
            scores, values = numbers.T
            if (np.diff(scores) <= 0).any() or (np.diff(values) < 0).any():
                raise ValueError("the knots of an isotonic curve must rise")
            if values[0] < 0 or values[-1] > 1:
                raise ValueError("a probability of the curve is not between 0 and 1")
        else:
            raise ValueError(f'method is {self.method!r}; it must be "isotonic" or "platt"')

    def probability(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the probability that each document supports a right answer.

        Parameters
        ----------
        scores : array_like
            Fused scores, any shape.

        Returns
        -------
        ndarray
            The same shape, float64. A higher score never has a lower probability.

        Raises
        ------
        InputError
            If a score is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(values).all():
            raise InputError("a score to be calibrated is not a finite number")
        if self.method == "platt":
            slope, intercept = self.curve[0]
            # The hyperbolic tangent is the same function and does not overflow.
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * (slope * values + intercept)))
        knots = np.array(self.curve)
        return np.asarray(np.interp(values, knots[:, 0], knots[:, 1]))

    def check(self, towers_identity: str, weights: AnyWeights) -> None:
        """Raise `InputError` unless these towers and these weights made the scores."""
        if towers_identity != self.towers_identity:
            raise InputError(
                f"the calibration was fitted with towers {self.towers_identity!r}, but "
                f"{towers_identity!r} are in use: calibrate again with these, or load those"
            )
        digest = weights_digest(weights)
        if digest != self.weights:
            raise InputError(
                f"the calibration belongs to the fusion weights {self.weights}, but {digest} are "
                "in use, whose scores mean something else: run mrrag calibrate with these weights"
            )

    def to_json(self) -> str:
        """Return the calibration as a JSON object."""
        data = {"format": _FORMAT, **asdict(self)}
        return json.dumps(data, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises
        ------
        InputError
            If the text is no such object.
        """
        data = parse_object(text, "calibration")
        check_keys(data, "calibration", _FORMAT, _KEYS, frozenset())
        try:
            for name, kind in (("towers_identity", str), ("weights", str), ("about", dict)):
                if not isinstance(data[name], kind):
                    raise ValueError(f"{name} is no {'text' if kind is str else 'object'}")
            abstention = data["abstention"]
            return cls(
                data["method"],
                tuple((_number(first), _number(second)) for first, second in data["curve"]),
                data["towers_identity"],
                data["weights"],
                None if abstention is None else Abstention(**abstention),
                data["about"],
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"calibration: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to `path`; an interrupted write leaves the earlier file as it was."""
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file written by `save`; see `from_json` for what is refused."""
        return cls.from_json(read_text(path, "calibration"))


def _number(value: object) -> float:
    if not is_number(value):
        raise ValueError("the curve must be pairs of finite numbers")
    return float(value)


def weights_digest(weights: AnyWeights) -> str:
    """Return 16 hex digits that change with any number of the weights, and with nothing else."""
    data = json.loads(weights.to_json())
    numbers = {name: data[name] for name in data if name not in ("towers_identity", "note")}
    return json_digest(numbers, 16)


@dataclass(frozen=True)
class Abstention:
    """A threshold, and what was shown of it.

    Parameters
    ----------
    threshold : float
        A question is answered if the probability of its best document is at least this.
    error_rate : float
        The stated rate: of the answered questions, at most this share has a best document that
        does not support a right answer.
    confidence : float
        1 - delta: the probability that the statement holds.
    answered, errors : int
        Of the questions that the threshold was tested on.
    questions : int
        Their number; one of each patient.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    threshold: float
    error_rate: float
    confidence: float
    answered: int
    errors: int
    questions: int

    def __post_init__(self) -> None:
        for name in ("answered", "errors", "questions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise ValueError(f"{name} is {value!r}; it must be a whole number")
        for name in ("threshold", "error_rate", "confidence"):
            if not is_number(value := getattr(self, name)):
                raise ValueError(f"{name} is {value!r}; it must be a number")
        check_rates(self.error_rate, self.confidence)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be between 0 and 1")
        if not 0 <= self.errors <= self.answered <= self.questions or not self.questions:
            raise ValueError("errors, answered and questions do not fit each other")

    @property
    def coverage(self) -> float:
        """Share of the questions that are answered."""
        return self.answered / self.questions


def check_rates(error_rate: float, confidence: float) -> None:
    """Raise `ValueError` unless both are strictly between 0 and 1."""
    for name, value in (("error_rate", error_rate), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; it must be between 0 and 1")
