"""Files of what was learned: weights, gates and calibrations, with odd values in them.

What is right stands in the JSON itself: numbers must arrive as they are, finite and in range, and
what is no such file must be refused by name.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mrrag_llamaindex.mcr.calibration import Calibration
from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS, FusionWeights
from mrrag_llamaindex.mcr.weights_file import load_weights
from tests.campaign.damage import damage, odd_json
from tests.campaign.tally import Part, WrongValueError

_WEIGHTS = {"format": "mrrag-fusion-weights-1", "image_text": 1.5, "image_image": 0.25,
            "text_text": -2.0}  # fmt: skip
_GATE = {
    "format": "mrrag-gated-weights-1",
    "base": {"image_text": 1.0, "image_image": 1.0, "text_text": 1.0},
    "reach": 0.5,
    "hidden_weight": [[0.1, -0.2, 0.3, 0.4], [0.5, 0.6, -0.7, 0.8]],
    "hidden_bias": [0.0, 0.1],
    "out_weight": [[0.1, 0.2], [0.3, -0.4], [0.5, 0.6]],
    "out_bias": [0.0, 0.1, -0.1],
}
_CALIBRATION = {
    "format": "mrrag-calibration-1",
    "method": "isotonic",
    "curve": [[-0.5, 0.1], [0.0, 0.4], [0.7, 0.9]],
    "towers_identity": "towers",
    "weights": "0123456789abcdef",
    "abstention": {"threshold": 0.4, "error_rate": 0.1, "confidence": 0.9, "answered": 50,
                   "errors": 1, "questions": 60},
    "about": {"questions": 60},
}  # fmt: skip
_PLATT = {**_CALIBRATION, "method": "platt", "curve": [[3.0, -1.0]]}


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw a file of weights or a calibration, with up to two odd values, keys or damages."""
    value = draw(st.sampled_from((_WEIGHTS, _GATE, _CALIBRATION, _PLATT)))
    data = draw(odd_json(json.dumps(value))).encode()
    return draw(damage(data)) if draw(st.integers(0, 3)) == 0 else data


def check(data: bytes, folder: Path) -> None:
    file = folder / "learned.json"
    file.write_bytes(data)
    if b"calibration" in data:
        _calibration(Calibration.load(file), data)
    else:
        _weights(file, data)


def _stated(data: bytes) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise WrongValueError("a file that says two things of one name is read")
        return dict(pairs)

    stated = json.loads(data, object_pairs_hook=distinct)
    assert isinstance(stated, dict)
    return stated


def _weights(file: Path, data: bytes) -> None:
    weights = load_weights(file)
    stated = _stated(data)
    base = weights if isinstance(weights, FusionWeights) else weights.base
    given = stated if isinstance(weights, FusionWeights) else stated["base"]
    numbers = [given.get(name, None if name in TERMS else 0.0) for name in ALL_TERMS]
    if numbers != base.as_array(ALL_TERMS).tolist():
        raise WrongValueError("weights have become others")
    if not isinstance(weights, FusionWeights):
        size = len(stated["hidden_weight"][0]) // 2
        image, text = np.random.default_rng(0).standard_normal((2, size))
        own = weights.weights_for(image, text).as_array()
        if not np.isfinite(own).all():
            raise WrongValueError("a gate gives weights that are not finite")
    again = type(weights).from_json(weights.to_json())
    if again.to_json() != weights.to_json():
        raise WrongValueError("weights do not survive being saved")


def _calibration(calibration: Calibration, data: bytes) -> None:
    stated = _stated(data)
    if [list(pair) for pair in calibration.curve] != [[*map(float, p)] for p in stated["curve"]]:
        raise WrongValueError("a curve has become another")
    for name, kind in (("towers_identity", str), ("weights", str), ("about", dict)):
        if not isinstance(stated[name], kind):
            raise WrongValueError(f"{name} is no {kind.__name__}, and taken for one")
    if any(isinstance(number, (str, bool)) for pair in stated["curve"] for number in pair):
        raise WrongValueError("a text or a truth is taken for a number")
    values = calibration.probability(np.linspace(-5, 5, 101))
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise WrongValueError("a probability is out of range")
    if (np.diff(values) < 0).any():
        raise WrongValueError("a probability falls")
    if calibration.abstention is not None:
        numbers = stated["abstention"]
        if any(isinstance(number, (str, bool)) for number in numbers.values()):
            raise WrongValueError("a text or a truth is taken for a number of the abstention")
        counts = [numbers[name] for name in ("answered", "errors", "questions")]
        if any(count != int(count) for count in counts) or not math.isfinite(numbers["threshold"]):
            raise WrongValueError("a number of questions is not whole")
    if Calibration.from_json(calibration.to_json()) != calibration:
        raise WrongValueError("a calibration does not survive being saved")


PART = Part("learned", files(), check)
