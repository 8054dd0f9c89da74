"""Where the data sets of RULE and MMed-RAG lie on disk, and whose image a path names.

The question files and the reports to retrieve from are those of their repositories; the images
come from the data sets themselves. Only the part of a path that names the image is used: what
stands before it is a folder of the author's machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Owner(NamedTuple):
    """Whom an image shows: the path inside the image folder, patient and study."""

    image: str
    patient_id: str
    study_id: str


@dataclass(frozen=True)
class Layout:
    """One data set on disk.

    Parameters
    ----------
    name : str
    pattern : re.Pattern
        Finds the image's own part in a path; groups ``patient`` and ``study``.
    questions, reports : tuple of str
        Files looked for below the root, in this order; a ``*`` stands for anything. RULE has its
        questions in ``data/test``, MMed-RAG in ``data/test/vqa``.
    images : tuple of str
        Folders looked into below the root, in this order.
    shape : str
        What an image path looks like, for errors.
    """

    name: str
    pattern: re.Pattern[str]
    questions: tuple[str, ...]
    reports: tuple[str, ...]
    images: tuple[str, ...]
    shape: str

    def owner(self, path: object) -> Owner | None:
        """Return whom an image shows, by its path; None if the path is none of this data set."""
        if not isinstance(path, str):
            return None
        match = self.pattern.search(path.strip().replace("\\", "/"))
        return match and Owner(match[0], match["patient"], match["study"])


_START = r"(?:^|(?<=/))"

IU_XRAY = Layout(
    "iu-xray",
    # One number stands for one examination of one patient.
    re.compile(_START + r"(?P<study>CXR(?P<patient>\d+)_IM-[\d-]+)/\d+\.png$"),
    (
        "data/test/iuxray_test.jsonl",
        "data/test/vqa/iuxray_test.jsonl",
        "data/test/vqa/iu*.jsonl",
        "data/test/radiology/iuxray_test.jsonl",
        "iuxray_test.jsonl",
    ),
    (
        "data/training/retriever/iuxray_train.json",
        "data/training/retriever/radiology/radiology_train.json",
        "data/training/retriever/radiology/*train*.json",
        "iuxray_train.json",
    ),
    ("iu_xray/images", "images", "."),
    "CXR<number>_IM-<number>/0.png",
)

MIMIC_CXR = Layout(
    "mimic-cxr",
    re.compile(_START + r"p\d{2}/p(?P<patient>\d+)/s(?P<study>\d+)/[^/]+\.jpg$"),
    (
        "data/test/mimic_test.jsonl",
        "data/test/vqa/mimic_test.jsonl",
        "data/test/vqa/mimic*.jsonl",
        "data/test/radiology/mimic_test.jsonl",
        "mimic_test.jsonl",
    ),
    (
        "data/training/retriever/mimic_train.json",
        "data/training/retriever/radiology/radiology_train.json",
        "data/training/retriever/radiology/*train*.json",
        "mimic_train.json",
    ),
    ("files", "mimic_cxr/images", "mimic-cxr-jpg/files", "images", "."),
    "p<2 digits>/p<subject>/s<study>/<image>.jpg",
)

FAIRVLMED = Layout(
    "fairvlmed",
    re.compile(_START + r"slo_fundus_(?P<patient>(?P<study>\d+))\.jpg$"),
    (
        "data/test/harvard_test.jsonl",
        "data/test/vqa/harvard_test.jsonl",
        "data/test/vqa/harvard*.jsonl",
        "data/test/ophthalmology/harvard_test.jsonl",
        "harvard_test.jsonl",
    ),
    (
        "data/training/retriever/harvard_train.json",
        "data/training/retriever/ophthalmology/harvard_train_7000.json",
        "data/training/retriever/ophthalmology/*train*.json",
        "harvard_train.json",
    ),
    ("images", "Test", "Training", "Validation", "."),
    "slo_fundus_<number>.jpg",
)
