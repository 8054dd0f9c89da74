"""Real images: does the top hit share the query's finding and view, per term and fused?

    python tests/benchmarks/covid_cxr.py --seed 0

Every patient of covid-cxr is left out once. The heads of the `FrozenTower` (MobileNetV2 of
ImageNet, all-MiniLM-L6-v2) are fitted on the other patients' pairs; each image of the patient is
a query; his own pairs are excluded from the hits. Hits come from a `PairStore` and are checked
against an exact scan.

q_t is a question, never the query's own report, which would give the answer away. Two kinds:
"fixed" is the same for every query, so text_text alone ranks the reports in one order for all and
can only say how typical its favourite report is; "patient" adds age and sex, which are known
before reading. Neither holds finding, view or modality.

"learned" weights come from `train_fusion` without a prior (positives: all pairs with the query's
finding; a quarter of the patients decides when to stop) on the held-out scores of all other
patients, the left-out patient's pairs removed; each of those scores
was made by heads that did see the left-out patient's pairs, a leak into three numbers that is
taken to be negligible. "no heads" compares the image encoder's own features (centred), to show
what the heads add to image_image.

@5 counts a query if any of the five hits shares the label. "bal." is the mean over the label's
values instead of over queries: more than half of the rows are COVID-19, and always showing such
a pair is right as often (see "most common"). Chance draws among the other patients' pairs at
random. Intervals are 95%, by bootstrap over patients; a draw that lacks a value of the label
leaves it out of "bal.", which shifts those intervals upwards.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from math import comb
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from numpy.typing import NDArray

from mrrag_llamaindex.learning.fusion.examples import FusionExample
from mrrag_llamaindex.learning.fusion.training import FusionSettings, train_fusion
from mrrag_llamaindex.mcr.score import FusionWeights, fuse, similarity_terms
from mrrag_llamaindex.statistics.patients import split_by_patient
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.projection_head import FittedHeads
from tests import real_towers
from tests.benchmarks.covid_data import CovidData, fixed_question, patient_question
from tests.head_fitting import HeadTraining

Vectors = NDArray[np.float64]
K = 5
WAYS = {
    "image_text": FusionWeights(1.0, 0.0, 0.0),
    "image_image": FusionWeights(0.0, 1.0, 0.0),
    "text_text": FusionWeights(0.0, 0.0, 1.0),
    "equal": FusionWeights(1.0, 1.0, 1.0),
}
LABELS = ("finding", "view")
QUESTIONS: dict[str, Callable[[dict[str, str]], str]] = {
    "fixed": fixed_question,
    "patient": patient_question,
}


def unit(head: torch.nn.Module, features: torch.Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return torch.nn.functional.normalize(head(features), dim=1).numpy()


def top_of_store(
    store: PairStore, image: Vectors, text: Vectors, weights: FusionWeights, patient: str
) -> list[int]:
    hits = store.query(image, text, weights, K, Exclusion(patient_ids=frozenset({patient})))
    return [int(hit.pair_id) for hit in hits]


class Study:
    """All patients left out one by one, for one kind of question."""

    def __init__(self, covid: CovidData, seed: int) -> None:
        self.covid = covid
        self.seed = seed
        self.patients = np.array(covid.patients)
        self.labels = {name: np.array(covid.column(name)) for name in LABELS}
        self.pairs = [
            Pair(covid.image_path(row), covid.reports[row], str(row), covid.patients[row])
            for row in range(len(covid.rows))
        ]
        text = real_towers.text_backbone()
        self.image = covid.image_features(real_towers.image_backbone())
        self.text = covid.text_features(text)
        self.questions = {
            kind: text.features([ask(row) for row in covid.rows]) for kind, ask in QUESTIONS.items()
        }
        self.weights: dict[str, list[NDArray[np.float64]]] = {}
        self.agreed = self.compared = 0
        torch.set_num_threads(1)  # what follows is too small to share between threads

    def run(self) -> dict[str, dict[str, list[list[int]]]]:
        """Top K rows per kind of question, way and query."""
        rows = len(self.pairs)
        tops: dict[str, dict[str, list[list[int]]]] = {
            kind: {way: [[]] * rows for way in (*WAYS, "learned")} for kind in QUESTIONS
        }
        terms = {kind: np.zeros((rows, rows, 3), dtype=np.float32) for kind in QUESTIONS}
        for patient in sorted(set(self.patients)):
            heads = self.covid.fit_without(
                {patient}, self.image, self.text, HeadTraining(seed=self.seed)
            )
            self._one_patient(patient, heads, tops, terms)
        for kind in QUESTIONS:
            self.weights[kind] = self._learned(terms[kind], tops[kind]["learned"])
            tops[kind]["no heads"] = self._without_heads()
        return tops

    def _one_patient(self, patient: str, heads: FittedHeads, tops: dict, terms: dict) -> None:
        images, texts = unit(heads.image, self.image), unit(heads.text, self.text)
        dimension = images.shape[1]
        with PairStore.create("memory", StoreSchema(f"frozen@{patient}", "", dimension)) as store:
            store.upsert(self.pairs, images, texts)
            for kind, features in self.questions.items():
                questions = unit(heads.text, features)
                for row in np.flatnonzero(self.patients == patient):
                    values = similarity_terms(images[row], questions[row], images, texts)
                    terms[kind][row] = values
                    for way, weights in WAYS.items():
                        top = top_of_store(store, images[row], questions[row], weights, patient)
                        exact = self._scan(values, weights, row)
                        self.compared += 1
                        scores = fuse(values, weights)
                        self.agreed += np.allclose(scores[top], scores[exact], atol=1e-5)
                        tops[kind][way][row] = top

    def _scan(self, terms: Vectors, weights: FusionWeights, row: int) -> list[int]:
        scores = np.where(self.patients == self.patients[row], -np.inf, fuse(terms, weights))
        return np.argsort(-scores, kind="stable")[:K].tolist()

    def _without_heads(self) -> list[list[int]]:
        centred = torch.nn.functional.normalize(self.image - self.image.mean(dim=0), dim=1)
        alike = np.zeros((len(self.pairs), len(self.pairs), 3))
        alike[:, :, 1] = (centred @ centred.T).numpy()
        image_only = WAYS["image_image"]
        return [self._scan(alike[row], image_only, row) for row in range(len(self.pairs))]

    def _learned(
        self, terms: NDArray[np.float32], tops: list[list[int]]
    ) -> list[NDArray[np.float64]]:
        """Learn the weights as the product does, each patient left out once."""
        same = self.labels["finding"][:, None] == self.labels["finding"][None, :]
        other = self.patients[:, None] != self.patients[None, :]
        learned = []
        for patient in sorted(set(self.patients)):
            kept = self.patients != patient
            examples = []
            for row in np.flatnonzero(kept):
                right, wrong = (other[row] & kept & part for part in (same[row], ~same[row]))
                if right.any() and wrong.any():
                    values = terms[row].astype(np.float64)
                    owner = str(self.patients[row])
                    examples.append(FusionExample(owner, values[right], values[wrong]))
            owners = [example.patient_id for example in examples]
            fit, check = split_by_patient(owners, 0.25, self.seed)
            weights = train_fusion(
                [examples[place] for place in fit],
                [examples[place] for place in check],
                FusionSettings(prior=math.inf),  # to choose one takes five times as long
            ).weights
            learned.append(weights.as_array())
            for row in np.flatnonzero(self.patients == patient):
                tops[row] = self._scan(terms[row], weights, row)
        return learned

    def hits(self, tops: list[list[int]], label: str, depth: int) -> NDArray[np.float64]:
        values = self.labels[label]
        pairs = enumerate(tops)
        return np.array([(values[top[:depth]] == values[row]).any() for row, top in pairs], float)

    def chance(self, label: str, depth: int) -> NDArray[np.float64]:
        """Probability of a hit per query when pairs are drawn at random."""
        values = self.labels[label]
        shares = []
        for row, patient in enumerate(self.patients):
            others = values[self.patients != patient]
            wrong = int((others != values[row]).sum())
            shares.append(1 - comb(wrong, depth) / comb(len(others), depth))
        return np.array(shares)

    def most_common(self, label: str) -> NDArray[np.float64]:
        """Whether the query has the most common label: always showing that one hits so often."""
        values, counts = np.unique(self.labels[label], return_counts=True)
        return (self.labels[label] == values[counts.argmax()]).astype(float)


def interval(
    values: NDArray[np.float64], patients: NDArray[np.str_], classes: NDArray[np.str_], seed: int
) -> tuple[float, float, float]:
    """Mean over classes of the mean over queries, with a 95% interval by bootstrap over patients.

    ``classes`` all equal make it the plain mean over queries.
    """
    names, owner = np.unique(patients, return_inverse=True)
    kinds, kind = np.unique(classes, return_inverse=True)
    sums, counts = np.zeros((2, len(names), len(kinds)))
    np.add.at(sums, (owner, kind), values)
    np.add.at(counts, (owner, kind), 1.0)
    drawn = np.random.default_rng(seed).integers(0, len(names), (4000, len(names)))
    times = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(names))
    with np.errstate(invalid="ignore"):  # a class may be absent from a draw
        means = np.nanmean((times @ sums) / (times @ counts), axis=1)
        mean = np.nanmean(sums.sum(axis=0) / counts.sum(axis=0))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(mean), float(low), float(high)


def show(study: Study, tops: dict[str, dict[str, list[list[int]]]]) -> None:
    plain = np.full(len(study.patients), "")
    columns = [(label, depth, plain, "") for label in LABELS for depth in (1, K)]
    columns += [(label, 1, study.labels[label], " bal.") for label in LABELS]

    def line(name: str, hits: Callable[[str, int], NDArray[np.float64]], sign: str = "") -> None:
        text = f"{name:16}"
        for label, depth, classes, _ in columns:
            mean, low, high = interval(hits(label, depth), study.patients, classes, study.seed)
            text += f"{mean:{sign}.3f} [{low:{sign}.2f}, {high:{sign}.2f}]".rjust(22)
        print(text)

    heads = "".join(f"{label}@{depth}{mark}".rjust(22) for label, depth, _, mark in columns)
    for kind in QUESTIONS:
        print(f'\nquestion "{kind}"\n{"":16}{heads}')
        line("chance", study.chance)
        line("most common", lambda label, _: study.most_common(label))
        for way, rows in tops[kind].items():
            line(way, lambda label, depth, rows=rows: study.hits(rows, label, depth))
        for way in ("equal", "learned"):
            line(
                f"{way} - i_i",
                lambda label, depth, way=way, kind=kind: (
                    study.hits(tops[kind][way], label, depth)
                    - study.hits(tops[kind]["image_image"], label, depth)
                ),
                "+",
            )
        weights = np.mean(study.weights[kind], axis=0).round(2)
        print(f"learned weights, mean (image_text, image_image, text_text): {weights}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=real_towers.covid_folder())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if missing := real_towers.missing_weights():
        raise SystemExit(missing)
    if not (options.data / "metadata.csv").is_file():
        raise SystemExit(f"no covid-cxr data in {options.data}; set MRRAG_COVID_CXR")
    start = time.perf_counter()
    study = Study(CovidData.read(options.data), options.seed)
    ready = time.perf_counter()
    print("python tests/benchmarks/covid_cxr.py --seed", options.seed)
    names = len(set(study.patients))
    print(f"{len(study.patients)} images and notes of {names} patients, each patient left out once")
    print('q_t: "fixed": ' + fixed_question({}))
    example = patient_question({"sex": "F", "age": "54"})
    print(f'     "patient": {example} (age and sex only; never the query\'s own report)')
    tops = study.run()
    show(study, tops)
    print(f"\nstore and exact scan agree on {study.agreed} of {study.compared} queries")
    took = time.perf_counter() - ready
    print(f"features {ready - start:.0f} s; {names} fits, stores and queries {took:.0f} s")


if __name__ == "__main__":
    main()
