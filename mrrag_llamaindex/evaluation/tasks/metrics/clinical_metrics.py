"""Clinical metrics of reports by RadEval (the extra ``radiology-metrics``), one process for each.

RadGraph, CheXbert, RaTEScore and GREEN bring models and pins of their own, which need not agree
with each other's or with ours. So each runs in a process of its own, by this interpreter or by
another that has them. Reports pass through pipes, and never stand in a file, an argument or an
error.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mrrag_llamaindex.errors import InputError, MRRAGError
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure

CLINICAL = {
    "radgraph": "radgraph_partial",
    "f1chexbert": "f1chexbert_sample_acc_all",
    "ratescore": "ratescore",
    "green": "green",
}
"""Metric to what RadEval calls its value of each report. Of RadGraph's rewards it is the partial
one (entities, and whether they have a relation); of CheXbert the share of its 14 labels that agree,
because an F1 has no value of one report."""

HEADS = {
    "radgraph": "RadGraph",
    "f1chexbert": "CheXbert agree",
    "ratescore": "RaTEScore",
    "green": "GREEN",
}

_WORKER = Path(__file__).with_name("radeval_worker.py")


def chosen_metrics(text: str | None) -> tuple[str, ...]:
    """Read a list of clinical metrics, e.g. ``radgraph,green``.

    Raises
    ------
    InputError
        If one is not known.
    """
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    for name in names:
        if name not in CLINICAL:
            raise InputError(
                f"clinical metric {name!r} is not known; there are: {', '.join(CLINICAL)}"
            )
    return tuple(dict.fromkeys(names))


def clinical(name: str, answers: Sequence[str], golds: Sequence[str], python: str = "") -> Measure:
    """Return the mean of one clinical metric.

    Parameters
    ----------
    name : str
        One of `CLINICAL`.
    answers, golds : sequence of str
    python : str
        Interpreter that has RadEval; empty: this one.

    Raises
    ------
    MRRAGError
        If it cannot be computed there, with the kind of the error; where it cannot even be loaded,
        in the words of RadEval, which has not seen a report then.
    """
    task = json.dumps({"metric": name, "refs": list(golds), "hyps": list(answers)})
    try:
        # Some of them write files beside them.
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [python or sys.executable, str(_WORKER)],
                input=task,
                capture_output=True,
                text=True,
                cwd=folder,
                check=False,
            )
    except OSError as error:
        raise MRRAGError(
            f"{HEADS[name]}: the interpreter cannot be run ({error.strerror})"
        ) from None
    lines = done.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1]) if lines else {}
    except ValueError:
        result = {}
    if "error" in result:
        raise MRRAGError(f"{HEADS[name]}: {result['error']}")
    values = result.get("values", {}).get(CLINICAL[name])
    if done.returncode or not isinstance(values, list) or len(values) != len(answers):
        raise MRRAGError(
            f"{HEADS[name]}: RadEval gave no value for every report (exit {done.returncode})"
        )
    unknown = sum(not math.isfinite(value) for value in values)
    if unknown:
        raise MRRAGError(f"{HEADS[name]}: RadEval gave no number for {unknown} reports")
    return Measure.mean([float(value) for value in values])
