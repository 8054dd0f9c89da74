"""Measure the shipped phantom on held-out studies.

``python -m mrrag_llamaindex.phantom.sets.check``
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.mcr.score import FusionWeights, fuse, similarity_terms
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.trials import answered_right, draw_trials
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.towers.loading import load_towers

WEIGHTS = {
    "image-text": FusionWeights(1, 0, 0),
    "image-image": FusionWeights(0, 1, 0),
    "text-text": FusionWeights(0, 0, 1),
    "equal": FusionWeights(1, 1, 1),
}


@dataclass(frozen=True)
class Figure:
    """One measured share.

    Attributes
    ----------
    name : str
    value : float
    low, high : float
        Wilson score interval, 95%.
    n : int
    """

    name: str
    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, name: str, hits: list[bool]) -> Figure:
        """Share of hits with its interval (Wilson, 1927)."""
        n, share, z = len(hits), float(np.mean(hits)), 1.959964
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        spread = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return cls(name, share, float(middle - spread), float(middle + spread), n)


def check_generator(seed: int, count: int) -> list[Figure]:
    """Accuracy with one matching document, without any, and in noise with and without IFA."""
    engine = LlavaEngine(
        load_model(defaults.PHANTOM, device="cpu"), max_documents=8, max_new_tokens=4
    )

    def figure(
        name: str, documents: int, irrelevant: int, ifa: IFA | None = None, times: int = 1
    ) -> Figure:
        trials = draw_trials(seed, times * count, documents=documents, irrelevant=irrelevant)
        return Figure.of(name, answered_right(engine, trials, ifa))

    # So little is to be seen that it takes more questions to tell it from nothing.
    figures = [figure("no document, image only", 0, 0, times=4)]
    figures.append(figure("1 matching document", 1, 0))
    for documents in (4, 6):
        for irrelevant in range(0, documents, documents // 2 if documents == 6 else 1):
            noise = f"{documents} documents, {irrelevant} irrelevant"
            figures.append(figure(noise, documents, irrelevant))
            if irrelevant:
                figures.append(
                    figure(f"{noise}, IFA with true relevance", documents, irrelevant, IFA())
                )
    return figures


def check_towers(seed: int, count: int, patients: int = 500) -> list[Figure]:
    """How often a matching pair is among the top 5 of ``patients``.

    A pair matches if its patient has the same findings and its report mentions the one asked
    about; questions that no pair of the corpus matches are left out.
    """
    towers = load_towers(defaults.PHANTOM)
    corpus = make_corpus(seed, patients=patients, queries=count)
    matches = np.array([[q.matches(s) for s in corpus.studies] for q in corpus.queries])
    supports = np.array(
        [[s.supports(q.finding, q.answer) for s in corpus.studies] for q in corpus.queries]
    )
    images = towers.embed_images([study.image for study in corpus.studies])
    texts = towers.embed_texts([study.report for study in corpus.studies])
    asked_images = towers.embed_images([query.study.image for query in corpus.queries])
    asked_texts = towers.embed_texts([query.question for query in corpus.queries])
    answerable = np.flatnonzero(matches.any(axis=1))
    figures = []
    for name, weights in WEIGHTS.items():
        top5, first = [], []
        for row in answerable:
            terms = similarity_terms(asked_images[row], asked_texts[row], images, texts)
            order = np.argsort(-fuse(terms, weights), kind="stable")
            top5.append(bool(matches[row, order[:5]].any()))
            first.append(bool(supports[row, order[0]]))
        figures.append(Figure.of(f"{name}: matching pair in top 5 of {patients}", top5))
        figures.append(Figure.of(f"{name}: first pair supports the answer", first))
    return figures


def main(
    seed: Annotated[int, typer.Option(min=0, max=4999, help="Held-out seed.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Questions per figure.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what the shipped synthetic towers and generator reach on held-out studies."""
    figures = [*check_generator(seed, count), *check_towers(seed, count)]
    if as_json:
        print(json.dumps({"seed": seed, "figures": [asdict(figure) for figure in figures]}))
        return
    for figure in figures:
        interval = f"[{figure.low:.3f}, {figure.high:.3f}]"
        print(f"{figure.name:<58} {figure.value:.3f}  95% {interval}  n {figure.n}")


if __name__ == "__main__":
    typer.run(main)
