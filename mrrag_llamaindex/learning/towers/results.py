"""What a training of towers leaves beside them: ``results.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.learning.towers.recall import RANKS

RESULTS_FILE = "results.json"


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write plain JSON values into the folder of the towers."""
    write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=2, allow_nan=False) + "\n")


def over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation (n - 1) of test recall over the seeds."""
    if any(entry["test"] is None for entry in seeds):
        return None
    summary: dict[str, Any] = {}
    for way in ("image_to_report", "report_to_image"):
        summary[way] = {}
        for rank in RANKS:
            values = [entry["test"][way][f"recall@{rank}"]["value"] for entry in seeds]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            summary[way][f"recall@{rank}"] = {"mean": float(np.mean(values)), "sd": deviation}
    return summary
