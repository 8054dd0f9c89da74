"""The covid-cxr rows and their cached features, for tests and benchmarks on real input."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from head_fitting import HeadTraining, fit_heads
from torch import Tensor

from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.projection_head import FittedHeads

SEX = {"M": "man", "F": "woman"}


@dataclass(frozen=True)
class CovidData:
    """Rows of ``metadata.csv`` and where the images lie."""

    folder: Path
    rows: tuple[dict[str, str], ...]

    @classmethod
    def read(cls, folder: Path) -> CovidData:
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
            return cls(folder, tuple(csv.DictReader(file)))

    def column(self, name: str) -> list[str]:
        return [row[name] for row in self.rows]

    @cached_property
    def patients(self) -> list[str]:
        return self.column("patientid")

    @cached_property
    def reports(self) -> list[str]:
        return self.column("clinical_notes")

    def image_path(self, row: int) -> Path:
        return self.folder / "images" / self.rows[row]["filename"]

    def image_features(self, backbone: ImageBackbone, batch: int = 16) -> Tensor:
        """Features, shape (rows, d); images are opened batch by batch."""
        paths = [self.image_path(row) for row in range(len(self.rows))]
        parts = [
            backbone.features([load_image(path) for path in paths[start : start + batch]])
            for start in range(0, len(paths), batch)
        ]
        return torch.cat(parts)

    def text_features(self, backbone: TextBackbone) -> Tensor:
        return backbone.features(self.reports)

    def fit_without(
        self, left_out: Collection[str], image: Tensor, text: Tensor, training: HeadTraining
    ) -> FittedHeads:
        """Heads fitted on the pairs of all patients but those left out."""
        kept = [i for i, patient in enumerate(self.patients) if patient not in left_out]
        return fit_heads(
            image[kept],
            text[kept],
            [self.patients[i] for i in kept],
            [self.reports[i] for i in kept],
            training,
        )


def fixed_question(_: dict[str, str]) -> str:
    return "What are the findings on this chest image?"


def patient_question(row: dict[str, str]) -> str:
    """Age and sex only: what a clinician knows before reading, and nothing of the answer."""
    who = SEX.get(row["sex"], "person")
    age = f"{row['age']}-year-old " if row["age"] else ""
    return f"What are the findings on this chest image of a {age}{who}?"
