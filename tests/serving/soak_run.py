"""Many clients of every kind at a real server, for a while; crossings, errors and leaks counted.

Run by hand: ``python -m tests.serving.soak_run --minutes 30 --clients 16 --patients 50 --seed 0``.

Every question is first asked alone. Later answers to it must name the same documents with the same
scores and probability: those of another patient differ. Clients ask, chat, read streams and cut
them off, hang up, send what is no image, and one never reads what it asked for. In the end nothing
may be left at work. Memory is the server's resident size, once a second; its slope is taken after
the first third.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from mrrag_llamaindex import MRRAGIndex
from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from tests.serving.server_process import Served, serving
from tests.serving.soak_clients import Case, Client, Ledger, never_read, reference

QUESTIONS = ("Is there a pleural effusion?", "Is there a nodule?")


@dataclass
class Soak:
    """What a run has found.

    Attributes
    ----------
    ledger : Ledger
    memory : list of (float, float)
        Hours since the start, and resident MiB.
    left : dict of str to float
        What the server says is still at work after the last client has gone.
    metrics : dict of str to float
        All its numbers.
    files, threads : tuple of int
        Open in the server before and after.
    """

    ledger: Ledger
    memory: list[tuple[float, float]] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    files: tuple[int, int] = (0, 0)
    threads: tuple[int, int] = (0, 0)

    @property
    def slope(self) -> float:
        """MiB per hour, after the first third."""
        hours, resident = np.array(self.memory[len(self.memory) // 3 :]).T
        return float(np.polyfit(hours, resident, 1)[0])


def make_cases(folder: Path, patients: int, seed: int) -> tuple[Path, list[Case]]:
    """Write a store, and questions about patients who are not in it."""
    corpus = make_corpus(seed, patients=200, queries=patients, profiles=100)
    store = folder / "store"
    table = write_corpus(folder, corpus.studies)
    MRRAGIndex.from_pairs(read_pairs(table), "phantom", store).store.close()
    cases = []
    for number, query in enumerate(corpus.queries):
        path = folder / f"query-{number}.png"
        query.study.image.save(path)
        cases += [Case(f"patient-{number:02d}", text, path.read_bytes()) for text in QUESTIONS]
    return store, cases


def require_different(cases: list[Case]) -> None:
    """Require that answers about two patients cannot be taken for each other."""
    for one, other in combinations(cases, 2):
        if one.patient != other.patient and one.question == other.question:
            own = {"sources": [{"pair_id": p, "score": s} for p, s in other.sources]}
            assert one.crossed(own | {"p_yes": other.p_yes}), (one.patient, other.patient)


def numbers(text: str) -> dict[str, float]:
    """Read what Prometheus reads."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def at_work(metrics: dict[str, float]) -> dict[str, float]:
    names = ("mrrag_http_requests_admitted", "mrrag_queue_waiting", "mrrag_batch_running")
    return {name: metrics[name] for name in names}


def of_process(pid: int, name: str) -> int:
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(name + ":")
    ]
    return int(line.split()[1])


def opened(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def soak(served: Served, cases: list[Case], clients: int, seconds: float, seed: int) -> Soak:
    """Let clients at a server."""
    found = Soak(Ledger())
    stop = threading.Event()
    workers = [
        threading.Thread(
            target=Client(served.port, cases, seed + n, found.ledger).run, args=(stop,)
        )
        for n in range(clients - 1)
    ]
    silent = (served.port, cases[0], stop, found.ledger)
    workers.append(threading.Thread(target=never_read, args=silent))
    before = opened(served.pid), of_process(served.pid, "Threads")
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    while (passed := time.monotonic() - begun) < seconds:
        found.memory.append((passed / 3600, of_process(served.pid, "VmRSS") / 1024))
        time.sleep(min(1.0, seconds / 20))
    stop.set()
    for worker in workers:
        worker.join(180)
    end = time.monotonic() + 60
    while True:
        found.metrics = numbers(served.get("/metrics"))
        found.left = at_work(found.metrics)
        if not any(found.left.values()) or time.monotonic() > end:
            break
        time.sleep(0.5)
    after = opened(served.pid), of_process(served.pid, "Threads")
    found.files, found.threads = zip(before, after, strict=True)
    return found


def say(found: Soak, clients: int, patients: int, seconds: float, seed: int) -> None:
    """Print what was found."""
    for name, count in sorted(found.ledger.jobs.items()):
        print(f"{name:24}{count:7}")
    for what, count in found.ledger.errors.most_common(20):
        print(f"unexplained, {count} times: {what}")
    for what in found.ledger.crossings[:20]:
        print(f"crossing: {what}")
    resident = [size for _, size in found.memory]
    print(
        f"memory: {resident[0]:.0f} MiB at first, {max(resident):.0f} at most, "
        f"{resident[-1]:.0f} at last, {found.slope:+.1f} MiB per hour"
    )
    for name in ("files", "threads"):
        before, after = getattr(found, name)
        print(f"open {name}: {before} before, {after} after")
    ends = {k: v for k, v in found.metrics.items() if k.startswith("mrrag_answers_total")}
    print(f"cut off by clients: {found.ledger.cut}; the model's requests by their ends: {ends}")
    print(f"left at work: {found.left}")
    print(
        f"{sum(found.ledger.jobs.values())} jobs, {clients} clients, {patients} patients, "
        f"{seconds:.0f} s, seed {seed}: {len(found.ledger.crossings)} crossings, "
        f"{sum(found.ledger.errors.values())} unexplained errors"
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--clients", type=int, default=16)
    options.add_argument("--patients", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    seconds = 60 * given.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, cases = make_cases(folder, given.patients, given.seed)
        server = ["--store", str(store), "--model", "phantom", "--device", "cpu"]
        with serving(folder, *server, "--max-new-tokens", "8") as served:
            cases = reference(served.port, cases)
            require_different(cases)
            found = soak(served, cases, given.clients, seconds, given.seed)
            log = served.log.read_text()
    say(found, given.clients, given.patients, seconds, given.seed)
    print(f"the server wrote {len(log.splitlines())} lines; the last: {log[-300:]!r}")
    wrong = found.ledger.crossings or found.ledger.errors or any(found.left.values())
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
