"""A synthetic corpus, questions about patients who are not in it, and both as files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.studies import (
    MENTIONS,
    PhantomQuery,
    PhantomStudy,
    draw_findings,
    draw_query,
    draw_study,
)
from mrrag_llamaindex.store.pair import Pair

Regime = Literal["combination", "image", "text"]
"""Which similarity tells whether a pair supports the answer, see `make_corpus`."""

REGIMES: tuple[Regime, ...] = get_args(Regime)


@dataclass(frozen=True)
class PhantomCorpus:
    """Studies to retrieve from, and held-out questions.

    Attributes
    ----------
    studies : tuple of PhantomStudy
    queries : tuple of PhantomQuery
        About other patients, whose findings some patients of the corpus share.
    """

    studies: tuple[PhantomStudy, ...]
    queries: tuple[PhantomQuery, ...]


def make_corpus(
    seed: int,
    *,
    patients: int = 500,
    queries: int = 100,
    profiles: int = 100,
    regime: Regime = "combination",
) -> PhantomCorpus:
    """Draw a corpus and questions about new patients.

    Every patient has one of ``profiles`` combinations of findings, so a question has about
    ``patients / profiles`` look-alikes in the corpus among many who are not.

    Parameters
    ----------
    seed : int
        Seeds below 10,000 are never used in training.
    patients, queries : int
    profiles : int
        Distinct combinations of findings, at most 256.
    regime : {"combination", "image", "text"}
        "combination": patients differ, and reports mention some findings; a pair supports the
        answer if its patient is alike (the image tells) and its report mentions what is asked
        (the question tells). "image": every report mentions every finding, so that only the
        similarity of the patient counts. "text": all patients have the same findings, so that
        only the mention counts; `profiles` is 1 then, whatever was given.

    Raises
    ------
    ValueError
        If a number is out of range, or the regime is not known.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime={regime!r}: expected one of {', '.join(REGIMES)}")
    mentions = (len(FINDINGS), len(FINDINGS)) if regime == "image" else MENTIONS
    profiles = 1 if regime == "text" else profiles
    if not 1 <= profiles <= 256 or patients < 1 or queries < 0:
        raise ValueError(
            f"patients={patients}, queries={queries}, profiles={profiles}: out of range"
        )
    rng = np.random.default_rng(seed)
    kinds: dict[tuple[bool, ...], None] = {}
    while len(kinds) < profiles:
        kinds[draw_findings(rng)] = None
    known = list(kinds)
    studies = tuple(
        draw_study(
            rng,
            f"synthetic-{number:04d}",
            known[int(rng.integers(profiles))],
            mentions=mentions,
        )
        for number in range(patients)
    )
    questions = tuple(
        draw_query(rng, f"query-{number:04d}", known[int(rng.integers(profiles))])
        for number in range(queries)
    )
    return PhantomCorpus(studies, questions)


def as_pairs(studies: tuple[PhantomStudy, ...], folder: Path | None = None) -> list[Pair]:
    """Turn studies into pairs: with images in memory, or written as PNG files into ``folder``."""
    pairs = []
    for study in studies:
        image = study.image
        source: object = image
        if folder is not None:
            source = folder / f"{study.pair_id}.png"
            image.save(source)
        pairs.append(Pair(source, study.report, study.pair_id, study.patient_id))  # type: ignore[arg-type]
    return pairs


def write_corpus(folder: str | Path, studies: tuple[PhantomStudy, ...]) -> Path:
    """Write ``images/*.png`` and ``pairs.csv``, which ``mrrag ingest`` takes as it is.

    Returns
    -------
    pathlib.Path
        The table; columns pair_id, image, report, patient_id.
    """
    folder = Path(folder)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    table = folder / "pairs.csv"
    with table.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["pair_id", "image", "report", "patient_id"])
        for pair in as_pairs(studies, images):
            name = f"images/{pair.pair_id}.png"
            writer.writerow([pair.pair_id, name, pair.report, pair.patient_id])
    return table
