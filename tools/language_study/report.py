"""The tables: means over readers, with intervals by bootstrap over images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.markdown import markdown_table
from mrrag_llamaindex.statistics.bootstrap import interval, resampled_means

SEED = 0


def report(folder: Path) -> str:
    """Return the tables of all readers that have been tested, in Markdown."""
    files = sorted(folder.glob("answers-*.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    parts = [f"{len(found)} readers: {', '.join(file.stem for file in files)}"]
    for file in sorted(folder.glob("training-*.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        last = float(np.mean(facts.pop("losses")[-20:]))
        parts.append(f"{file.stem}: {facts}, mean loss of the last 20 steps {last:.3f}")
    chosen = {n: v["chosen"] for n, v in settings.items() if isinstance(v, dict) and "chosen" in v}
    parts.append(f"chosen on {settings['questions']} prompts: {chosen}")
    for study in ("known", "retrieved"):
        parts.append(f"{study}\n\n{_study([item[study] for item in found if item[study]])}")
    return "\n\n".join(parts)


def _study(found: list[dict[str, Any]]) -> str:
    images = found[0]["images"]
    levels = [str(n) for n in range(5) if all(str(n) in item for item in found)]
    names = list(dict.fromkeys(name for level in levels for name in found[0][level]))
    cells: dict[tuple[str, str], NDArray[np.float64]] = {
        (name, level): np.mean([item[level][name] for item in found], axis=0)
        for level in levels
        for name in names
        if name in found[0][level]
    }
    lines, against = [], []
    for name in names:
        values = [cells.get((name, level)) for level in levels]
        lines.append((name, *("" if v is None else _with_ends(v, images) for v in values)))
        gains = [
            ""
            if v is None or name == "plain"
            else _with_ends(v - cells["plain", level], images, "+")
            for v, level in zip(values, levels, strict=True)
        ]
        if any(gains):
            against.append((f"{name} minus plain", *gains))
    head = ("irrelevant of 4", *levels)
    of = f"{len(images)} questions about {len(set(images))} images"
    return "\n\n".join([of, "\n".join(markdown_table(head, [*lines, *against]).splitlines())])


def _with_ends(values: NDArray[np.float64], images: list[str], sign: str = "") -> str:
    ends = interval(resampled_means(values, images, SEED), images)
    assert ends is not None
    return f"{values.mean():{sign}.3f} [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"
