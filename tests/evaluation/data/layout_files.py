"""Synthetic data sets in the layouts of RULE and MMed-RAG, written by the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SHAPES = {
    "iu-xray": "CXR{n}_IM-{n:04d}/0.png",
    "mimic-cxr": "p10/p100000{n:02d}/s500000{n:02d}/{n:08x}-aa.jpg",
    "fairvlmed": "slo_fundus_{n:05d}.jpg",
}
FOLDERS = {"iu-xray": "iu_xray/images", "mimic-cxr": "files", "fairvlmed": "images"}
FILES = {"iu-xray": "iuxray", "mimic-cxr": "mimic", "fairvlmed": "harvard"}


def question_row(data: str, n: int, identifier: int, answer: Any, **more: Any) -> dict[str, Any]:
    return {
        "question_id": identifier,
        "question": f"Is finding {identifier} there? \n<image>",
        "answer": answer,
        "image": SHAPES[data].format(n=n),
        "report": f"Own report of patient {n}.",
        **more,
    }


def report_row(data: str, n: int, **more: Any) -> dict[str, Any]:
    path = SHAPES[data].format(n=n)
    row: dict[str, Any] = {"id": f"study-{n}", "report": f"Own report of patient {n}."}
    if data == "iu-xray":
        row["image_path"] = [path, path.replace("0.png", "1.png")]
        row["split"] = "train"
    elif data == "mimic-cxr":
        row["image_path"] = [path]
        row |= {"subject_id": int(f"100000{n:02d}"), "study_id": int(f"500000{n:02d}")}
    else:
        row |= {"image_path": path, "filename": f"data_{n:05d}.npz"}
        row |= {"note": "never read", "glaucoma": "yes" if n % 2 else "no"}
    return row | more


def draw(root: Path, data: str, numbers: list[int], shade: int = 40) -> None:
    for n in numbers:
        target = root / FOLDERS[data] / SHAPES[data].format(n=n)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), (shade + 9 * n) % 256).save(target)


def write(root: Path, data: str, questions: list[Any], reports: list[Any]) -> None:
    name = FILES[data]
    asked = root / "data/test" / f"{name}_test.jsonl"
    stored = root / "data/training/retriever" / f"{name}_train.json"
    for path in (asked, stored):
        path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in questions)
    asked.write_text("\n".join(lines) + "\n")
    stored.write_text(json.dumps(reports))
