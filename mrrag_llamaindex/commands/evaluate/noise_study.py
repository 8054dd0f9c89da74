"""The noise study on the phantom, and what it shares with one's own data: model and measuring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.cluster.options import RayOptions
from mrrag_llamaindex.commands.models import ModelOptions
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.evaluation.methods.tuning import Tuned
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion, Scores
from mrrag_llamaindex.evaluation.noise.report import NoiseReport
from mrrag_llamaindex.evaluation.noise.result import Contestant, NoiseResult
from mrrag_llamaindex.evaluation.noise.study import run_noise, tune
from mrrag_llamaindex.evaluation.noise.workers import SweepWorkers
from mrrag_llamaindex.phantom.sets import noise_trials
from mrrag_llamaindex.towers.loading import load_towers


@dataclass(frozen=True)
class NoiseOptions:
    """What is measured, whatever the data; ``documents`` is K, an even number."""

    policies: tuple[str, ...]
    scores: tuple[Scores, ...]
    documents: int
    seed: int
    count: int
    towers: str
    model: ModelOptions
    batch_size: int
    ray: RayOptions = field(default_factory=RayOptions)
    out: Path = Path("mrrag-noise")


def load_sweep(options: NoiseOptions) -> PrefixSweep:
    """Load the model with the critical layers that are known of it, and say whose they are."""
    engine, _ = options.model.engine(
        "eager", quiet=True, max_documents=options.documents, max_new_tokens=2
    )
    return PrefixSweep(engine, batch_size=options.batch_size)


@contextmanager
def asker(sweep: PrefixSweep, options: NoiseOptions) -> Iterator[PrefixSweep | SweepWorkers]:
    """Yield what asks: the sweep itself, or workers that have one each."""
    if not options.ray:
        yield sweep
        return
    folder = options.out / "readings"
    folder.mkdir(parents=True, exist_ok=True)
    make = partial(load_sweep, replace(options, ray=RayOptions()))
    with options.ray.pool(make, options.model.device, [folder]) as pool:
        yield SweepWorkers(sweep, pool, folder)


def measure(
    sweep: PrefixSweep | SweepWorkers,
    questions: Sequence[NoiseQuestion],
    tuned: Sequence[Tuned[Contestant]],
    seed: int,
) -> NoiseResult:
    """Ask the measured questions under every policy as it was tuned."""
    console.say_progress("measuring")
    with progress_bar("levels of noise") as advance:
        return run_noise(
            sweep,
            questions,
            [item.setting for item in tuned],
            layers=sweep.engine.loaded.critical_layers,
            seed=seed,
            advance=advance,
        )


def phantom_noise(options: NoiseOptions) -> NoiseReport:
    """Measure on synthetic studies, whose relevance is known; tune and learn on other patients."""
    seed, count = options.seed, options.count
    sweep = load_sweep(options)
    encoders, weights, fusion = None, None, None
    if "mcr" in options.scores:
        encoders = load_towers(options.towers, device=options.model.device)
        console.say_progress(
            f"learning MCR's weights on other patients (seed {noise_trials.FUSION + seed})"
        )
        weights = noise_trials.learn_weights(noise_trials.FUSION + seed, encoders).weights
        fusion = {
            "seed": noise_trials.FUSION + seed,
            "weights": weights.as_dict(),
            "towers": encoders.source,
            "labels": "the phantom's truth, as in mrrag train-fusion --data phantom",
        }

    def draw(first: int, number: int) -> noise_trials.NoiseTrials:
        return noise_trials.draw_noise_trials(
            first, number, documents=options.documents, towers=encoders, weights=weights
        )

    console.say_progress(
        f"choosing settings on other patients (seed {noise_trials.VALIDATION + seed})"
    )
    studies = {
        "validation": draw(noise_trials.VALIDATION + seed, max(1, count // 2)),
        "measured": draw(seed, count),
    }
    for name, trials in studies.items():
        if trials.left_out:
            console.say(
                "note", f"{trials.left_out} {name} questions have too few documents: left out"
            )
    validation = studies["validation"].questions
    with asker(sweep, options) as asking:
        tuned = tune(asking, validation, options.policies, options.scores)
        result = measure(asking, studies["measured"].questions, tuned, seed)
    other_patients = {"seed": noise_trials.VALIDATION + seed, "n": len(validation)}
    return NoiseReport(result, tuple(tuned), other_patients, fusion)
