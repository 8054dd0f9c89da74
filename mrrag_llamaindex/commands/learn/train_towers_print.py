"""What ``train-towers`` tells: features, epochs, slow saving, and the recall of the towers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.commands import console

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.towers.loop import Progress
    from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs


def say_costly() -> Callable[[float], None]:
    """Return what tells once, however many trainings there are, that saving is slow."""
    told = False

    def say(share: float) -> None:
        nonlocal told
        if not told:
            told = True
            console.say_progress(
                f"saving the state takes {share:.0%} of the time so far; "
                "--checkpoint-seconds 60 saves less often, and a kill then loses up to a minute"
            )

    return say


def say_features(pairs: int) -> Callable[[str, int], None]:
    """Return what tells of the features of so many pairs, once in a thousand."""

    def say(kind: str, done: int) -> None:
        if done in (0, pairs) or done % 1024 < 32:
            console.say_progress(f"{kind} features: {done} of {pairs}")

    return say


def say_epoch(seed: int, told: Progress) -> None:
    """Tell of an epoch that is the best so far, and of every tenth."""
    if told.best or told.epoch % 10 == 0:
        console.say_progress(
            f"seed {seed}, epoch {told.epoch}: loss {told.loss:.3f}, validation recall "
            f"{told.recall:.3f}{' (best so far)' if told.best else ''}"
        )


def print_results(results: dict[str, Any], pairs: TrainingPairs, out: Path) -> None:
    """Print the towers, their recall on test patients for every seed, and the rows left out."""
    print(
        f"{results['towers_identity']} in {out}, of {results['pairs']} pairs of "
        f"{results['patients']} patients ({results['different_reports']} different reports)"
    )
    for entry in results["seeds"]:
        print(
            f"seed {entry['seed']}: best of {entry['epochs']} epochs is {entry['best_epoch']}, "
            f"validation recall {entry['validation_recall']:.3f}"
        )
        test = entry["test"]
        if test is None:
            continue
        print(f"  test: {test['pairs']} pairs of {test['patients']} patients, 95% by patient")
        for way in ("image_to_report", "report_to_image"):
            for name, cell in test[way].items():
                print(
                    f"  {way.replace('_', ' '):<16}{name:<10}  {cell['value']:.3f} "
                    f"[{cell['low']:.3f}, {cell['high']:.3f}]  chance {cell['chance']:.3f}"
                )
    for item in pairs.skipped:
        print(f"  skipped {item}")
