"""The campaign sees what it looks for, and repeats what it has seen."""

from __future__ import annotations

import mmap
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.generation.checkpoints.weight_files import WeightFiles
from tests.campaign import (
    checkpoints,
    dicom,
    images,
    kills,
    learned,
    prompts,
    tables,
    tally,
)
from tests.campaign.__main__ import summary
from tests.campaign.tally import Part, WrongValueError

pytestmark = pytest.mark.campaign


def hostile(value: int, folder: Path) -> None:
    """Ends in every way in which an input can end."""
    if value == 1:
        raise InputError("refused")
    if value == 2:
        raise KeyError("not expected")
    if value == 3:
        raise WrongValueError("another value")
    if value == 4:
        os._exit(7)
    if value == 5:
        time.sleep(600)
    if value == 6:
        # Fresh pages: a list or an array may lie where the process has freed others.
        with mmap.mmap(-1, 200 * 2**20) as pages:
            pages[::4096] = b"x" * (200 * 2**8)


@pytest.fixture
def limits(monkeypatch) -> None:
    tally.warm_up()
    monkeypatch.setattr(tally, "MOST_SECONDS", 5)
    monkeypatch.setattr(tally, "MOST_BYTES", 100 * 2**20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "counted", "said"),
    [
        (0, "values", ""),
        (1, "refused", ""),
        (2, "tracebacks", "KeyError: 'not expected' (test_campaign.py:"),
        (3, "wrong", "another value"),
        (4, "tracebacks", "the process ended (7)"),
        (5, "tracebacks", "it takes for ever"),
        (6, "tracebacks", "MiB"),
    ],
)
def test_every_end_of_an_input_is_counted(limits, value, counted, said) -> None:
    done = Part("hostile", st.just(value), hostile).run(1.2, 0)
    assert getattr(done, counted) >= 1
    assert value == 6 or done.inputs == getattr(done, counted)  # a peak is seen once
    assert bool(done.failures) == (counted in ("tracebacks", "wrong"))
    assert all(said in note and "--part hostile --seed 0 --example" in note for note in done.notes)
    assert f"{done.failures:12,}" in summary([done])


@pytest.mark.slow
def test_an_input_is_known_by_seed_and_number(capsys) -> None:
    part = Part("numbers", st.integers(), lambda value, folder: None)
    seen: list[tuple[int, int]] = []
    part._inputs(3, 0, lambda place, value, folder: seen.append((place, value)), rounds=2)
    assert [place for place, _ in seen] == list(range(200))
    part.repeat(3, 150)
    assert capsys.readouterr().out.strip() == repr(seen[150][1])


@pytest.mark.slow
@pytest.mark.parametrize("part", [images.PART, dicom.PART, tables.PART, learned.PART])
def test_wrong_values_are_seen(part, monkeypatch) -> None:
    """Each part is shown a project that answers, and answers something else."""
    from mrrag_llamaindex.images import load

    shown: Any = load.load_image
    monkeypatch.setattr(images, "load_image", lambda *a, **k: shown(*a, **k).rotate(180))
    monkeypatch.setattr(dicom, "load_image", lambda *a, **k: shown(*a, **k).rotate(180))
    rows, weights, curve = tables.read_pairs, learned.load_weights, learned.Calibration.load
    monkeypatch.setattr(
        tables,
        "read_pairs",
        lambda file: [
            replace(item, report="another one's") if isinstance(item, tables.Pair) else item
            for item in rows(file)
        ],
    )
    monkeypatch.setattr(
        learned, "load_weights", lambda file: weights(file) and learned.FusionWeights(9, 9, 9)
    )
    monkeypatch.setattr(
        learned.Calibration, "load", lambda file: replace(curve(file), curve=((0.0, 0.5),))
    )
    assert outcomes_of(part).count("wrong") >= 3


@pytest.mark.slow
@pytest.mark.parametrize("part", [prompts.PART, checkpoints.PART])
def test_what_nobody_checks_is_seen(part, monkeypatch) -> None:
    """Each part is shown a project without the check that it attacks."""
    monkeypatch.setattr("mrrag_llamaindex.generation.prompt.marks._broken", lambda text: text)
    nothing_wrong = WeightFiles(sizes={"model.safetensors": 1})
    monkeypatch.setattr(checkpoints, "survey_weights", lambda folder: nothing_wrong)
    monkeypatch.setattr(checkpoints, "load_model", lambda *a, **k: 1 / 0)
    outcomes = outcomes_of(part)
    assert outcomes.count("wrong") + outcomes.count("tracebacks") >= 20


def test_lost_rows_are_seen(tmp_path) -> None:
    attack = object.__new__(kills.Attack)
    attack.name, attack.out, attack.held = "ingest", tmp_path, {"p0": 1, "p1": 1, "p2": 1}
    says = re.compile(r"(\d+) pairs")
    for rows, lost in (({"p0": 1, "p1": 1, "p2": 1, "p3": 1}, 0), ({"p0": 1, "p1": 2}, 2)):
        counted = tally.Tally("kills")
        attack.held = {"p0": 1, "p1": 1, "p2": 1}
        attack.loop = kills.Loop([], lambda out, rows=rows: rows, lambda out: None, says)
        attack._compare(counted, "2 pairs\n4 pairs" if not lost else "1 pairs")
        assert counted.lost == lost
    attack.held = {}
    attack._compare(counted, "5 pairs")  # five were said to be done, and two are there
    assert counted.lost == 2 + 3


def outcomes_of(part: Part) -> list[str]:
    outcomes: list[str] = []
    part._inputs(0, 0, lambda _, *given: outcomes.append(part._outcome(*given)[0]), rounds=1)
    return outcomes
