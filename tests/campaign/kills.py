"""Kills at random moments of ``mrrag ingest``, ``mine``, ``train-towers`` and ``eval``.

After each kill the same command is run again, killed again, until it ends; then its result must be
that of a run which nobody killed. In between nothing may be lost: neither what was there after an
earlier kill, nor what the command had said is done. A batch of a training counts as a row.

When a process is killed depends on the clock, so a failure here cannot be repeated by number.
"""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign.tally import FORK, Tally

_BATCHES = 1000
"""More than an epoch has."""

_CPU = ("--device", "cpu")
_LONGEST = 120.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Loop:
    """A command that is killed.

    Attributes
    ----------
    arguments : list of str
        Of ``mrrag``; ``OUT`` stands for what it writes.
    rows : callable
        What is held in there, by name.
    result : callable
        What must be there in the end.
    says : re.Pattern
        Finds in the output how many rows are done.
    unit : int
        Rows for each of what it counts.
    """

    arguments: list[str]
    rows: Callable[[Path], dict[str, Any]]
    result: Callable[[Path], Any]
    says: re.Pattern[str]
    unit: int = 1


def loops(base: Path) -> dict[str, Loop]:
    pairs, questions = str(base / "pairs" / "pairs.csv"), str(base / "pairs" / "questions.csv")
    phantom = "--towers phantom --model phantom --methods mcr,no-retrieval --max-new-tokens 2"
    image, text = (str(base / "encoders" / kind) for kind in ("image", "text"))
    return {
        "ingest": Loop(
            ["ingest", pairs, "--store", "OUT", *["--towers", "phantom", "--batch-size", "3"]],
            _stored,
            _stored,
            re.compile(r"^(\d+) pairs", re.MULTILINE),
        ),
        "mine": Loop(
            [
                *("mine", questions, "--store", str(base / "store"), "--out", "OUT"),
                *["--model", "phantom", "--candidates", "6", "--batch-size", "4"],
            ],
            _mined,
            Path.read_bytes,
            re.compile(r"^(\d+) of \d+ questions mined", re.MULTILINE),
        ),
        "train-towers": Loop(
            [
                *("train-towers", pairs, "--image-backbone", image, "--text-backbone", text),
                *["--out", "OUT", "--epochs", "6", "--test", "0", "--batch-size", "12"],
            ],
            _trained,
            lambda out: [(out / name).read_bytes() for name in ("heads.safetensors", "tower.json")],
            re.compile(r"^seed 0, epoch (\d+)", re.MULTILINE),
            _BATCHES,
        ),
        "eval": Loop(
            [
                *("eval", "--data", "table", "--root", str(base / "pairs"), "--out", "OUT"),
                *f"{phantom} --batch-size 2".split(),
            ],
            _answered,
            lambda out: [p.read_bytes() for p in sorted((out / "predictions").glob("*.jsonl"))],
            re.compile(r"(\d+) of \d+ answers", re.MULTILINE),
        ),
    }


def _stored(out: Path) -> dict[str, Any]:
    from mrrag_llamaindex.store.protocol import PairStore

    if not PairStore.exists(out):
        return {}
    with PairStore.open(out) as store:  # which compares every vector with its checksum
        return {
            key: (item.report, item.patient_id, item.image_path, item.fingerprint)
            for key, item in store.get(sorted(store.pair_ids())).items()
        }


def _mined(out: Path) -> dict[str, Any]:
    from mrrag_llamaindex.learning.mining.records import read_training_set

    if not out.exists() or b"\n" not in out.read_bytes():
        return {}
    return {item.question_id: item for item in read_training_set(out).records}


def _trained(out: Path) -> dict[str, Any]:
    import torch

    state = out / "training" / "seed-0.pt"
    if not state.exists():
        return {}
    kept = torch.load(state, weights_only=True)
    return {str(number): None for number in range(kept["epoch"] * _BATCHES + kept["batch"])}


def _answered(out: Path) -> dict[str, Any]:
    from mrrag_llamaindex.evaluation.run.answers_file import read_predictions

    files = [path for path in out.glob("answers/*/*.jsonl") if b"\n" in path.read_bytes()]
    return {
        f"{path.name} {item.question_id}": item
        for path in files
        for item in read_predictions(path)[1]
    }


def prepare(base: Path) -> None:
    """Make pairs, questions, a store and the encoders of the phantom; in a process of its own."""
    from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus
    from mrrag_llamaindex.towers.loading import load_towers

    made = make_corpus(8, patients=36, queries=0, profiles=36)
    table = write_corpus(base / "pairs", made.studies)
    with table.open() as source, (base / "pairs" / "questions.csv").open("w") as target:
        questions = csv.writer(target)
        names = ("question_id", "image", "question", "answer", "patient_id", "pair_id")
        questions.writerow(names)
        for row in list(csv.DictReader(source))[:24]:
            answer = "no" if "nodule" not in row["report"] else "yes"
            own = row["patient_id"], row["pair_id"]
            questions.writerow((row["pair_id"], row["image"], "Is there a nodule?", answer, *own))
    towers: Any = load_towers("phantom")
    network = towers.network
    for kind, part in (("image", towers.images), ("text", towers.texts)):
        getattr(network, f"{kind}_encoder").save_pretrained(base / "encoders" / kind)
        part.save(base / "encoders" / kind)


def run(seconds: float, seed: int) -> Tally:
    tally, started = Tally("kills"), time.monotonic()
    chance = random.Random(f"{seed} kills")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        in_child(prepare, base)
        made = loops(base)
        if command(made["ingest"], base / "store", base)[0]:
            raise RuntimeError("the store of the questions cannot be made")
        attacks = [Attack(name, loop, base) for name, loop in made.items()]
        while time.monotonic() - started < seconds:
            for attack in attacks:
                attack.go_on(tally, chance)
    tally.seconds = time.monotonic() - started
    tally.remark = ", ".join(f"{attack.name} {attack.kills}" for attack in attacks)
    return tally


class Attack:
    """Kills of one command, and what is known of it."""

    def __init__(self, name: str, loop: Loop, base: Path) -> None:
        self.name, self.loop, self.base = name, loop, base
        self.out = base / f"{name}-out"
        self.kills = 0
        self.held: dict[str, Any] = {}
        began = time.monotonic()
        code, said = command(loop, self.out, base)
        if code:
            raise RuntimeError(f"{name} fails undisturbed: {said}")
        self.usual = time.monotonic() - began
        self.result = in_child(loop.result, self.out)
        self._begin_anew()

    def go_on(self, tally: Tally, chance: random.Random) -> None:
        """Run the command once more, kill it if it lives so long, and look what is there."""
        code, said = command(self.loop, self.out, self.base, chance.uniform(0, 1.2 * self.usual))
        try:
            if code == 0:
                tally.values += 1
                if in_child(self.loop.result, self.out) != self.result:
                    tally.wrong += 1
                    tally.note(f"{self.name} ends otherwise than undisturbed", "after kills")
                self._begin_anew()
            elif code == -signal.SIGKILL:
                self.kills += 1
                tally.inputs += 1
                self._compare(tally, said)
            else:
                raise RuntimeError(f"exit code {code}: {said[-300:]!r}")
        except RuntimeError as error:
            tally.tracebacks += 1
            tally.note(f"{self.name}: {error}", "after a kill")
            self._begin_anew()

    def _compare(self, tally: Tally, said: str) -> None:
        now = in_child(self.loop.rows, self.out)
        lost = [key for key, value in self.held.items() if now.get(key, now) != value]
        done = max(map(int, self.loop.says.findall(said)), default=0) * self.loop.unit
        if lost or done > len(now):
            tally.lost += max(len(lost), done - len(now))
            held = f"held {len(self.held)}, said {done}, holds {len(now)}, {len(lost)} others"
            tally.note(f"{self.name} {held}", "after a kill")
        self.held = now

    def _begin_anew(self) -> None:
        self.held = {}
        _remove(self.out)


def _remove(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for path in out.parent.glob(out.name + "*"):
        path.unlink(missing_ok=True)


def command(loop: Loop, out: Path, base: Path, seconds: float = _LONGEST) -> tuple[int, str]:
    """Run a command in a fork of this warm process, at most so long; return code and output."""
    text = base / "output.txt"
    arguments = [str(out) if one == "OUT" else one for one in (*loop.arguments, *_CPU)]
    process = FORK.Process(target=_main, args=(arguments, text))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        if seconds == _LONGEST:
            return 1, "it hangs"
    return process.exitcode or 0, text.read_text() if text.exists() else ""


def _main(arguments: list[str], text: Path) -> None:
    from mrrag_llamaindex.cli import main
    from mrrag_llamaindex.commands import progress

    file = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    progress._SECONDS_BETWEEN_LINES = -1.0  # say each row
    sys.argv = ["mrrag", *arguments]
    main()


def in_child(function: Callable[[Path], Any], path: Path) -> Any:
    """Return what a function returns in a process of its own: torch and Chroma start threads."""
    ours, theirs = FORK.Pipe()

    def work() -> None:
        try:
            theirs.send((function(path), ""))
        except Exception as error:
            theirs.send((None, f"{type(error).__name__}: {error}"[:300]))

    process = FORK.Process(target=work)
    process.start()
    theirs.close()
    try:
        value, wrong = ours.recv()
    except EOFError:
        value, wrong = None, "the process has ended"
    process.join()
    if wrong:
        raise RuntimeError(wrong)
    return value
