"""Measure the shipped phantom on held-out studies.

``python -m mrrag_llamaindex.phantom.sets.check``
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

import numpy as np

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.learning.fusion.comparison import simple_weights
from mrrag_llamaindex.mcr.score import TERMS, fuse
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.sets.support_labels import corpus_terms
from mrrag_llamaindex.phantom.sets.trials import answered_right, draw_trials
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.towers.loading import load_towers


@dataclass(frozen=True)
class Figure:
    """One measured share.

    Attributes
    ----------
    name : str
    value : float
    low, high : float
        Wilson's score interval, 95%.
    n : int
    """

    name: str
    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, name: str, hits: list[bool]) -> Figure:
        """Return the share of hits with its interval."""
        from scipy.stats import binomtest

        ends = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
        return cls(name, float(np.mean(hits)), float(ends.low), float(ends.high), len(hits))


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
    questions = [
        (
            np.array([query.matches(study) for study in corpus.studies]),
            np.array([study.supports(query.finding, query.answer) for study in corpus.studies]),
            terms,
        )
        for query, terms, _ in corpus_terms(corpus, towers)
    ]
    answerable = [question for question in questions if question[0].any()]
    figures = []
    for field, weights in simple_weights(TERMS).items():
        name = field.replace("_", "-")
        top5, first = [], []
        for matches, supports, terms in answerable:
            order = np.argsort(-fuse(terms, weights), kind="stable")
            top5.append(bool(matches[order[:5]].any()))
            first.append(bool(supports[order[0]]))
        figures.append(Figure.of(f"{name}: matching pair in top 5 of {patients}", top5))
        figures.append(Figure.of(f"{name}: first pair supports the answer", first))
    return figures


def main() -> None:
    """Print what the shipped synthetic towers and generator reach on held-out studies."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0, help="held-out seed, below 5000")
    parser.add_argument("--count", type=int, default=500, help="questions per figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not 0 <= options.seed < 5000 or options.count < 1:
        parser.error("the seed must be from 0 to 4999, and the count at least 1")
    figures = [
        *check_generator(options.seed, options.count),
        *check_towers(options.seed, options.count),
    ]
    if options.json:
        print(json.dumps({"seed": options.seed, "figures": [asdict(item) for item in figures]}))
        return
    for item in figures:
        interval = f"[{item.low:.3f}, {item.high:.3f}]"
        print(f"{item.name:<58} {item.value:.3f}  95% {interval}  n {item.n}")


if __name__ == "__main__":
    main()
