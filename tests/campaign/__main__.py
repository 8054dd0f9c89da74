"""Attack the project for a while, and count: ``python -m tests.campaign --budget 300 --seed 0``.

Exits with 1 if anything ended in a traceback, gave a wrong value or lost a row.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import mrrag_llamaindex
from tests.campaign import (
    checkpoints,
    dicom,
    disk_full,
    images,
    kills,
    learned,
    prompts,
    questions,
    tables,
)
from tests.campaign.tally import FORK, Part, Tally, warm_up

PARTS: dict[str, tuple[Callable[[float, int], Tally] | Part, float]] = {
    "crossings": (questions.run_crossings, 3.0),
    "kills": (kills.run, 1.5),
    "images": (images.PART, 1.0),
    "dicom": (dicom.PART, 1.0),
    "tables": (tables.PART, 1.0),
    "questions": (questions.PART, 1.0),
    "checkpoints": (checkpoints.PART, 1.0),
    "prompts": (prompts.PART, 0.75),
    "learned": (learned.PART, 0.5),
    "disk full": (disk_full.run, 0.25),
}
"""Each with its share of the budget, as two run at a time."""

NOTES = 20
"""Lines of a part that are printed; of equal ones the first."""


def import_everything() -> None:
    """Warm the processes to come; so all of them draw the same inputs."""
    for module in pkgutil.walk_packages(mrrag_llamaindex.__path__, "mrrag_llamaindex."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name != "vllm":  # An engine that has an environment of its own.
                raise
    warm_up()


def run(name: str, seconds: float, seed: int) -> Tally:
    part = PARTS[name][0]
    return part.run(seconds, seed) if isinstance(part, Part) else part(seconds, seed)


def summary(tallies: list[Tally]) -> str:
    columns = ("inputs", "values", "refused", "tracebacks", "wrong", "lost")
    lines = ["".join((f"{'part':12}", *(f"{name:>12}" for name in columns), f"{'seconds':>9}"))]
    for tally in tallies:
        numbers = "".join(f"{getattr(tally, name):12,}" for name in columns)
        lines.append(f"{tally.part:12}{numbers}{tally.seconds:9.0f}")
    sums = "".join(f"{sum(getattr(one, name) for one in tallies):12,}" for name in columns)
    lines.append(f"{'in all':12}{sums}")
    lines += [f"{tally.part}: {tally.remark}" for tally in tallies if tally.remark]
    for tally in tallies:
        lines += [f"{tally.part}: {note}" for note in tally.notes[:NOTES]]
        if len(tally.notes) > NOTES:
            lines.append(f"{tally.part}: and {len(tally.notes) - NOTES} more")
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    options.add_argument("--budget", type=float, default=300, help="seconds")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--part", choices=PARTS, action="append", help="only this one")
    options.add_argument("--example", type=int, help="only this input of the part; it is shown")
    given = options.parse_args()
    import_everything()
    names = given.part or list(PARTS)
    if given.example is not None:
        part = PARTS[names[0]][0]
        if not isinstance(part, Part):
            options.error(f"{names[0]} has no numbered examples")
        part.repeat(given.seed, given.example)
        return 0
    started = time.monotonic()
    shares = [PARTS[name][1] for name in names]
    # Two at a time: neither may take longer than the budget.
    scale = given.budget / max(sum(shares) / 2, *shares)
    with ProcessPoolExecutor(2, FORK) as pool:
        jobs = [
            pool.submit(run, name, share * scale, given.seed)
            for name, share in zip(names, shares, strict=True)
        ]
        tallies = [job.result() for job in jobs]
    print(summary(tallies))
    failures = sum(tally.failures for tally in tallies)
    print(f"seed {given.seed}, {time.monotonic() - started:.0f} s: {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        # Whatever the parts leave behind goes with it.
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.environ["TMPDIR"] = scratch
        tempfile.tempdir = scratch
        sys.exit(main())
