"""How ``mrrag train-towers`` tells what it does and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.commands import console

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.towers.settings import Progress
    from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs


def say_costly() -> Callable[[float], None]:
    """Return a function that says once, however many trainings there are, that saving is slow."""
    calls = count()

    def say(share: float) -> None:
        if next(calls) == 0:
            console.say_progress(
                f"saving the state takes {share:.0%} of the time so far; "
                "--checkpoint-seconds 60 saves less often, and a kill then loses up to a minute"
            )

    return say


def say_features(pairs: int, kind: str, done: int) -> None:
    """Say how many pairs have features, about once in a thousand."""
    if done in (0, pairs) or done % 1024 < 32:
        console.say_progress(f"{kind} features: {done} of {pairs}")


def say_epoch(seed: int, progress: Progress) -> None:
    """Say how an epoch went that is the best so far, and every tenth."""
    if progress.best or progress.epoch % 10 == 0:
        console.say_progress(
            f"seed {seed}, epoch {progress.epoch}: loss {progress.loss:.3f}, validation recall "
            f"{progress.recall:.3f}{' (best so far)' if progress.best else ''}"
        )


def print_results(results: dict[str, Any], pairs: TrainingPairs, out: Path) -> None:
    """Print the towers, their recall on test patients for every seed, and what it was worth."""
    from mrrag_llamaindex.learning.towers.heads.worth import warning_of

    print(
        f"{results['towers_identity']} in {out}, of {results['pairs']} pairs of "
        f"{results['patients']} patients ({results['different_reports']} different reports)"
    )
    for entry in results["seeds"]:
        print(
            f"seed {entry['seed']}: best of {entry['epochs']} epochs is {entry['best_epoch']}, "
            f"validation recall {entry['validation_recall']:.3f}"
        )
        _print_test(entry["test"])
    if results.get("ensemble"):
        print(f"the {len(results['seeds'])} together:")
        _print_test(results["ensemble"])
    for entry in results.get("choices", []):
        shape = "linear" if entry["hidden"] is None else f"{entry['hidden']} hidden units"
        print(f"image head {shape}: validation recall {entry['validation_recall']:.3f}")
    if worth := results.get("worth"):
        low, high = worth["gain_ci"]
        print(
            f"reports found by an image, likeness to its own: {worth['trained']:.3f} with heads, "
            f"{worth['untrained']:.3f} without ({worth['gain']:+.3f} [{low:+.3f}, {high:+.3f}]), "
            f"chance {worth['chance']:.3f}; {worth['queries']} held-out images"
        )
        if told := warning_of(worth):
            console.say("warning", told)


def _print_test(test: dict[str, Any] | None) -> None:
    if test is None:
        return
    print(f"  test: {test['pairs']} pairs of {test['patients']} patients, 95% by patient")
    for way in ("image_to_report", "report_to_image"):
        for name, cell in test[way].items():
            print(
                f"  {way.replace('_', ' '):<16}{name:<10}  {cell['value']:.3f} "
                f"[{cell['low']:.3f}, {cell['high']:.3f}]  chance {cell['chance']:.3f}"
            )
