"""Write the shipped real cases as the tables of somebody who starts from nothing.

    python -m tools.real_cases.tables FOLDER [--images 70]

Seventy (``--images``) of the hundred images of VQA-RAD go into ``pairs.csv``, a row for each of
their training questions: its words with the answer are the report, the answer is a column of its
own. All questions about the others that want a yes or a no go into ``questions.csv``. An image
counts as a patient, as the data set names none.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from mrrag_llamaindex.evaluation.data.readers.vqa_rad import is_closed, statement
from mrrag_llamaindex.evaluation.votes.shipped import shipped_questions

STORED = 70


def write_tables(folder: Path, seed: int = 0, *, stored: int = STORED) -> tuple[int, int]:
    """Write ``pairs.csv``, ``questions.csv`` and ``images``; returns how many rows each has."""
    asked = shipped_questions()
    images = sorted({Path(item.image) for item in (*asked.training, *asked.test)})
    names = {path.name for path in random.Random(seed).sample(images, stored)}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for path in images:
        shutil.copyfile(path, folder / "images" / path.name)
    pairs = [
        {
            "pair_id": item.question_id,
            "image": f"images/{Path(item.image).name}",
            "report": statement(item),
            "patient_id": Path(item.image).stem,
            "question": item.question,
            "answer": item.answer,
        }
        for item in asked.training
        if Path(item.image).name in names
    ]
    questions = [
        {
            "question_id": item.question_id,
            "image": f"images/{Path(item.image).name}",
            "question": item.question,
            "answer": item.answer,
            "patient_id": Path(item.image).stem,
        }
        for item in (*asked.training, *asked.test)
        if Path(item.image).name not in names and is_closed(item)
    ]
    _write(folder / "pairs.csv", pairs)
    _write(folder / "questions.csv", questions)
    return len(pairs), len(questions)


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    """Read the folder from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=STORED, help="How many are stored.")
    options = parser.parse_args()
    pairs, questions = write_tables(options.folder, stored=options.images)
    print(f"{options.folder}: {pairs} pairs, {questions} questions about other images")


if __name__ == "__main__":
    main()
