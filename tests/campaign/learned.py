"""Files of what was learned: weights, gates and calibrations, with odd values in them.

What is right stands in the JSON itself: numbers must arrive as they are, finite and in range, and
what is no such file must be refused by name.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mrrag_llamaindex.mcr.calibration import Calibration
from mrrag_llamaindex.mcr.weights import ALL_TERMS, FusionWeights
from mrrag_llamaindex.mcr.weights_file import load_weights
from tests.campaign.damage import damage
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
_ODD_JSON = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "1e-320", "-0.0", "0", "2", "-1"),
    *("9" * 400, "9" * 5000, "true", "null", '""', '"0.5"', '"NaN"', '"\\ud800"', "[]", "{}"),
    *("[[1, 2]]", '{"a": 1}', "[" * 900 + "]" * 900, "[" * 100_000 + "]" * 100_000),
    *('{"a":' * 20_000 + "1" + "}" * 20_000, "[" * 3000, "0.5", "0.25", "1.5", "1", "3", "-0.125"),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw a file of weights or a calibration, with up to two odd values, keys or damages."""
    value = draw(st.sampled_from((_WEIGHTS, _GATE, _CALIBRATION, _PLATT)))
    text = json.dumps(value)
    places = _places(text)
    for place in sorted(draw(st.lists(st.integers(0, len(places) - 1), max_size=2)), reverse=True):
        start, stop = places[place]
        text = text[:start] + draw(st.sampled_from(_ODD_JSON)) + text[stop:]
    how = draw(st.sampled_from(("whole", "whole", "key", "twice", "more", "bytes", "bytes")))
    if how == "key":
        key = draw(st.sampled_from([*value]))
        text = text.replace(f'"{key}"', draw(st.sampled_from(('"x"', '""', '"\\ud800"'))), 1)
    elif how == "twice":
        key = draw(st.sampled_from([*value]))
        text = text[:-1] + f', "{key}": {draw(st.sampled_from(_ODD_JSON))}}}'
    elif how == "more":
        text = text[:-1] + f', "more": {draw(st.sampled_from(_ODD_JSON))}}}'
    data = text.encode()
    return draw(damage(data)) if how == "bytes" else data


@functools.cache
def _places(text: str) -> list[tuple[int, int]]:
    """Where a value stands, whole or as a part of another; those inside come last."""
    scan, places = json.JSONDecoder().scan_once, []
    for start, character in enumerate(text):
        if start and text[start - 1] in ":[, " and character not in " ,]}":
            stop = scan(text, start)[1]
            if text[stop : stop + 1] != ":":
                places.append((start, stop))
    return places


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
    numbers = [given.get(name, 0.0 if name == "text_image" else None) for name in ALL_TERMS]
    if numbers != base.as_array(ALL_TERMS).tolist():
        raise WrongValueError("weights have become others")
    if not isinstance(weights, FusionWeights):
        rng = np.random.default_rng(0)
        image, text = rng.standard_normal((2, weights.dimension))
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
