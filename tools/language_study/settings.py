"""Layers, rows and strengths, chosen on validation images with the reader of one seed.

First the critical layers, by attention knockout; then every policy in two sets of rows, three sets
of layers and two values, with the same questions. The most accurate is taken, of equal ones the
one with the highest mean probability of the truth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mrrag_llamaindex.evaluation.methods.tuning import Try, best_place
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.learning.layers.choice import critical_layers
from mrrag_llamaindex.learning.layers.edges import default_window, window_around
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policy import SteeringPolicy
from tools.language_study.asking import Asking, blocked, log_likelihood, plain, right, steered
from tools.language_study.questions import Case, Questions
from tools.language_study.reader import Prompts, load_reader

QUESTIONS = 30
"""Validation questions, each asked at every level."""

LEVELS = (2, 3)
"""Irrelevant statements of four."""

PARTS = ("training", "validation")
POLICIES = {"ifa": IFA, "hard-mask": HardMask, "pasta": PASTA}
VALUES = {
    "ifa": {"strength": (1.0, 2.0)},
    "pasta": {"alpha": (0.01, 0.1)},
    "hard-mask": {"threshold": (0.5,)},
}
"""What is tried. Relevance is 0 or 1 here, so a threshold makes no difference."""


def choose(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Choose everything once and keep it in ``settings.json``."""
    kept = folder / "settings.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    questions = Questions(data, seed)
    asking = Asking(load_reader(folder / f"adapter-{seed}"), Prompts())
    depth = int(asking.model.config.num_hidden_layers)
    rng = np.random.default_rng((seed, 3))
    able = rng.permutation(questions.answerable("validation", 4))[:QUESTIONS].tolist()
    known = [questions.known_case(i, n, seed, PARTS) for n in LEVELS for i in able]
    curve, used = _knockout(asking, [questions.known_case(i, 1, seed, PARTS) for i in able], depth)
    critical = critical_layers(np.array(curve))
    print(f"critical layers {critical}", flush=True)
    places = [critical, tuple(range(depth - depth // 3, depth)), tuple(range(depth))]
    found: dict[str, Any] = {
        "critical": critical,
        "knockout": {"change": curve, "questions": used},
        **_tune(asking, known, places),
    }
    write_atomically(kept, json.dumps(found, indent=1))
    return dict(json.loads(json.dumps(found)))


def policy_of(name: str, fields: dict[str, Any]) -> SteeringPolicy:
    """Return a policy as it was kept."""
    made: SteeringPolicy = POLICIES[name](**{**fields, "layers": tuple(fields["layers"])})
    return made


def _knockout(asking: Asking, cases: Sequence[Case], depth: int) -> tuple[list[float], int]:
    """Hide the documents from question and answer around each layer.

    Returns
    -------
    list of float
        Mean absolute change of the probability of the answer, in percent, by layer.
    int
        Questions answered rightly without hiding: only they count.
    """
    (odds,) = asking.ask(cases, [plain])
    kept = [case for case, ok in zip(cases, right(odds, cases), strict=True) if ok]
    around = [window_around(layer, default_window(depth), depth) for layer in range(depth)]
    asked = asking.ask(kept, [plain, *(blocked(layers, "to_end") for layers in around)])
    p = np.exp(log_likelihood(asked, kept))
    return [float(x) for x in 100 * np.abs(p[1:] / p[0] - 1).mean(axis=1)], len(kept)


def _tune(
    asking: Asking, cases: Sequence[Case], places: Sequence[tuple[int, ...]]
) -> dict[str, Any]:
    found: dict[str, Any] = {"questions": len(cases)}
    for name, cls in POLICIES.items():
        ((field, values),) = VALUES[name].items()
        settings = [
            {field: value, "layers": layers, "question_rows": rows}
            for rows in ("question", "to_end")
            for layers in places
            for value in values
        ]
        odds = asking.ask(cases, [plain, *(steered(cls(**fields)) for fields in settings)])
        sure = np.exp(log_likelihood(odds, cases)).mean(axis=1)
        accuracy = right(odds, cases).mean(axis=1)
        tries = [
            Try(fields, float(a), float(p))
            for fields, a, p in zip(settings, accuracy[1:], sure[1:], strict=True)
        ]
        best = tries[best_place(tries)]
        print(f"{name}: plain {accuracy[0]:.3f}, {best}", flush=True)
        found["plain"] = float(accuracy[0])
        found[name] = {"chosen": best.setting, "tries": [asdict(item) for item in tries]}
    return found
