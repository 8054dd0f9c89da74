"""What each choice of `mrrag train-towers` is worth, on patients that no head has seen.

    python tests/benchmarks/tower_recipes.py --seeds 3

covid-cxr: five folds by patient, a split for each seed; every image of a held-out patient asks
over the pairs of all other patients; right is a pair of the same finding, or view. The question
is the patient's age and sex. Encoders: MobileNetV2 (ImageNet) and MiniLM, frozen.

phantom (synthetic): a corpus for each seed, 300 pairs to train on and to retrieve from, 300
questions of other patients; right is a pair that supports the answer. Encoders: those of the
phantom's towers, without what joins them.

A row is a recipe with equal weights over its terms. p@k is the share of right pairs among the
first k. "today" is what `mrrag train-towers` did before raw features: one linear head, three
terms. Differences are from "default", paired, in points. Intervals are 95%, by bootstrap over
patients, all seeds of a patient drawn together. Recipes were not chosen by this table: the default
is that of a trial on other data (2,050 CT and MR images).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures
from mrrag_llamaindex.learning.towers.heads.recipe import HeadShape, fit_ensemble
from mrrag_llamaindex.learning.towers.heads.scales import vectors_of
from mrrag_llamaindex.learning.towers.settings import TrainingRun, for_heads
from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs
from mrrag_llamaindex.mcr.score import FusionWeights, fuse, similarity_terms
from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.statistics.bootstrap import difference_interval, resampled_means
from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.loading import load_towers
from tests import real_towers
from tests.benchmarks.covid_data import CovidData, patient_question

FOLDS = 5
DEPTHS = (1, 5)
THREE = FusionWeights()
FOUR = FusionWeights(1, 1, 1, 1)
SIX = FusionWeights(1, 1, 1, 1, 1, 1)
LINEAR = HeadShape(hidden=None)


@dataclass(frozen=True)
class Recipe:
    """How heads are trained, and with which equal weights they are asked."""

    weights: FusionWeights = SIX
    members: int = 3
    shape: HeadShape = LINEAR
    questions: bool = True
    scaled: bool = True


TODAY = Recipe(THREE, 1, HeadShape(hidden=None, final_fit=False), questions=False, scaled=False)
DEFAULT = Recipe()
SINGLE = {name: replace(DEFAULT, weights=FusionWeights.alone(name)) for name in ALL_TERMS}
RECIPES = {
    "default": DEFAULT,
    "today": TODAY,
    **SINGLE,
    "raw alone": replace(DEFAULT, weights=FusionWeights(0, 0, 0, 0, 1, 1)),
    "three terms": replace(DEFAULT, weights=THREE),
    "four terms": replace(DEFAULT, weights=FOUR),
    "no scales": replace(DEFAULT, scaled=False),
    "one head": replace(DEFAULT, members=1),
    "no final fit": replace(DEFAULT, shape=HeadShape(hidden=None, final_fit=False)),
    "no questions": replace(DEFAULT, questions=False),
    "hidden layer": replace(DEFAULT, shape=HeadShape(hidden=512)),
}


@dataclass(frozen=True)
class Task:
    """Pairs to train on and to retrieve from, and questions about other patients."""

    pairs: TrainingPairs
    features: HeadFeatures
    ask_image: Tensor
    ask_text: Tensor
    right: dict[str, NDArray[np.bool_]]
    patients: list[str]


def made_pairs(patients: list[str], reports: list[str], asked: list[str]) -> TrainingPairs:
    """Return pairs without images: their features are known."""
    names = tuple(map(str, range(len(reports))))
    return TrainingPairs((), tuple(reports), tuple(patients), names, names, names, (), tuple(asked))


def numbers(names: list[str]) -> Tensor:
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([known[name] for name in names])


def covid_tasks(seeds: int) -> Iterator[Task]:
    """Yield the folds of each seed."""
    data = CovidData.read(real_towers.covid_folder())
    text = real_towers.text_backbone()
    image, reports = data.image_features(real_towers.image_backbone()), data.text_features(text)
    asked = [patient_question(row) for row in data.rows]
    questions = text.features(asked)
    patients = np.array(data.patients)
    for seed in range(seeds):
        names = np.random.default_rng(seed).permutation(sorted(set(patients)))
        for held in np.array_split(names, FOLDS):
            kept, out = (np.flatnonzero(np.isin(patients, held) == one) for one in (False, True))
            owners = patients[kept].tolist()
            pairs = made_pairs(owners, [data.reports[i] for i in kept], [asked[i] for i in kept])
            features = HeadFeatures(image[kept], reports[kept], questions[kept], numbers(owners))
            right = {}
            for label in ("finding", "view"):
                values = np.array(data.column(label))
                right[label] = values[out][:, None] == values[kept][None]
            yield Task(pairs, features, image[out], questions[out], right, patients[out].tolist())


def phantom_tasks(seeds: int) -> Iterator[Task]:
    """Yield a corpus for each seed."""
    towers: Any = load_towers("phantom")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("image", "text"):
            getattr(towers.network, f"{kind}_encoder").save_pretrained(f"{folder}/{kind}")
        towers.images.save(Path(folder) / "image")
        towers.texts.save(Path(folder) / "text")
        of_image = TransformersImageBackbone.load(f"{folder}/image")
        of_text = TransformersTextBackbone.load(f"{folder}/text")
    for seed in range(seeds):
        made = make_corpus(seed, patients=300, queries=300)
        owners = [study.patient_id for study in made.studies]
        reports = [study.report for study in made.studies]
        # Nothing of the phantom stands for a question about a pair.
        features = HeadFeatures(
            of_image.features([study.image for study in made.studies]),
            of_text.features(reports),
            None,
            numbers(owners),
        )
        supports = [[s.supports(q.finding, q.answer) for s in made.studies] for q in made.queries]
        yield Task(
            made_pairs(owners, reports, []),
            features,
            of_image.features([query.study.image for query in made.queries]),
            of_text.features([query.question for query in made.queries]),
            {"support": np.array(supports)},
            [f"{seed} {query.study.patient_id}" for query in made.queries],
        )


def hits(task: Task, seed: int) -> dict[tuple[str, str, int], NDArray[np.float64]]:
    """Return precision by recipe, label and depth, one for each question."""
    found: dict[tuple[str, str, int], NDArray[np.float64]] = {}
    fitted: dict[Any, Any] = {}
    for name, recipe in RECIPES.items():
        taught = recipe.questions and task.features.question is not None
        key = (recipe.members, recipe.shape, taught)
        if key not in fitted:
            features = task.features if taught else replace(task.features, question=None)
            settings = replace(for_heads(), seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                run = TrainingRun(Path(folder), checkpoint_seconds=1e9, repeats=recipe.members)
                fitted[key] = fit_ensemble(task.pairs, features, settings, run, recipe.shape)[0]
        heads = fitted[key]
        raw_image, raw_text = heads.raw
        blocks = heads.blocks if recipe.scaled else replace(heads, scales=None).blocks
        image = vectors_of(heads.image, raw_image, task.features.image)
        text = vectors_of(heads.text, raw_text, task.features.text)
        ask_image = vectors_of(heads.image, raw_image, task.ask_image)
        ask_text = vectors_of(heads.text, raw_text, task.ask_text)
        orders = [
            np.argsort(
                -fuse(
                    similarity_terms(one, other, image, text, terms=ALL_TERMS, blocks=blocks),
                    recipe.weights,
                ),
                kind="stable",
            )[: max(DEPTHS)]
            for one, other in zip(ask_image, ask_text, strict=True)
        ]
        for label, right in task.right.items():
            for depth in DEPTHS:
                rows = enumerate(orders)
                shares = [right[row, best[:depth]].mean() for row, best in rows]
                found[name, label, depth] = np.array(shares)
    for label, right in task.right.items():
        for depth in DEPTHS:
            found["chance", label, depth] = right.mean(axis=1)
    return found


def report(title: str, tasks: Iterator[Task], per_seed: int) -> None:
    """Print the table of one data set."""
    collected: dict[tuple[str, str, int], list[NDArray[np.float64]]] = {}
    owners: list[str] = []
    for number, task in enumerate(tasks):
        owners += task.patients
        for key, values in hits(task, number // per_seed).items():
            collected.setdefault(key, []).append(values)
    values = {key: np.concatenate(parts) for key, parts in collected.items()}
    columns = list(dict.fromkeys((label, depth) for _, label, depth in values))
    names = len(set(owners))
    print(f"\n{title}: {len(owners)} questions asked, of {names} patients")
    print(f"{'':14}" + "".join(f"{label}, p@{depth}".center(36) for label, depth in columns))
    for name in ("chance", *RECIPES):
        line = f"{name:14}"
        for label, depth in columns:
            one, base = values[name, label, depth], values["default", label, depth]
            low, high = difference_interval(resampled_means(one, owners, 0), owners) or (0, 1)
            line += f"  {one.mean():.3f} [{low:.2f}, {high:.2f}]"
            if name in ("default", "chance"):
                line += " " * 17
            else:
                ends = difference_interval(resampled_means(base - one, owners, 0), owners)
                low, high = (100 * end for end in ends or (-1, 1))
                line += f" {100 * (base - one).mean():+5.1f} [{low:+.0f}, {high:+.0f}]".ljust(17)
        print(line)


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", choices=("both", "covid", "phantom"), default="both")
    options = parser.parse_args()
    torch.set_num_threads(1)  # what is trained is too small to share between threads
    start = time.perf_counter()
    print("python tests/benchmarks/tower_recipes.py --seeds", options.seeds)
    print('the figure behind p@k: "default" minus the row, in points')
    if options.data != "phantom":
        if missing := real_towers.missing_weights():
            raise SystemExit(missing)
        report("covid-cxr", covid_tasks(options.seeds), FOLDS)
    if options.data != "covid":
        report("phantom (synthetic)", phantom_tasks(options.seeds), 1)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
