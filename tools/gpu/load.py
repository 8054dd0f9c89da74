"""Questions per second of one, eight and more callers, through one engine."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass

from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.steering.ifa import IFA
from tools.gpu.workload import question_about

_PATIENTS = itertools.count(1000)
"""No question comes twice, so that no prefix is found in the cache."""


@dataclass(frozen=True)
class Load:
    """What a number of callers got.

    Attributes
    ----------
    rate
        Answers per second, all callers together.
    latency
        Seconds that half of the calls took at most.
    """

    rate: float
    latency: float


def measure_load(engine: LlavaEngine, callers: int, questions: int, report_tokens: int) -> Load:
    """Let callers ask in threads, each its next question when the last is answered.

    Parameters
    ----------
    engine : LlavaEngine
    callers : int
    questions : int
        In all, and none of them twice.
    report_tokens : int
        Of each of six reports.
    """
    patients = itertools.islice(_PATIENTS, questions)
    drawn = iter([question_about(one, report_tokens=report_tokens) for one in patients])
    lock, seconds, failures = threading.Lock(), [], []

    def work() -> None:
        while True:
            with lock:
                question = next(drawn, None)
            if question is None or failures:
                return
            begun = time.perf_counter()
            try:
                engine.generate([question[0]], [question[1]], policy=IFA())
            except BaseException as error:
                failures.append(error)
                return
            seconds.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=work) for _ in range(callers)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    if failures:
        raise failures[0]
    return Load(questions / elapsed, sorted(seconds)[len(seconds) // 2])
