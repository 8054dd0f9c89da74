"""What could let a request wait for ever, or run at a model beside another."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.scheduling.job import Asked
from mrrag_llamaindex.generation.scheduling.statistics import Counters
from mrrag_llamaindex.generation.turns import Turns
from mrrag_llamaindex.steering.ifa import IFA


@dataclass(frozen=True)
class Weighted(IFA):
    """A policy of one's own that ``==`` cannot compare with its like."""

    factors: torch.Tensor = field(default_factory=lambda: torch.ones(3))


def ask(engine, trial, **options):
    return engine.generate([trial.request], [trial.image], **options)[0]


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_that_forks_while_it_answers_ends_in_its_child(own, trials, busy, wait_for):
    fork = multiprocessing.get_context("fork")
    with ThreadPoolExecutor(1) as pool, busy(own):
        pool.submit(ask, own, trials[0])
        wait_for(lambda: own.scheduler.stats.running == 1)
        child = fork.Process(target=own.scheduler.close)  # as at the exit of the interpreter
        child.start()
        child.join(20)
        ended = child.exitcode
        child.kill()
    assert ended == 0


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_was_made_before_a_fork_says_so_in_the_child(endless, trials, begun):
    stream = endless.stream(trials[0].request, trials[0].image)
    pieces = iter(stream)
    if begun:
        next(pieces)
    context = multiprocessing.get_context("fork")
    told = context.Queue()

    def read():
        try:
            for _ in pieces:
                pass
        except ModelError as error:
            told.put(str(error))

    child = context.Process(target=read)
    child.start()
    try:
        assert "forked" in told.get(timeout=30)
    finally:
        child.kill()
        stream.close()


def test_two_engines_use_one_model_in_turn(own, trials, busy):
    other = LlavaEngine(own.loaded, max_new_tokens=2)
    with ThreadPoolExecutor(1) as pool:
        with busy(own):
            answer = pool.submit(ask, other, trials[0])
            with pytest.raises(futures.TimeoutError):
                answer.result(0.5)
        assert answer.result(60).text


def test_policies_that_cannot_be_compared_run_each_for_itself(own, trials, busy, wait_for):
    alone = [ask(own, trial, policy=Weighted()).text for trial in trials[:3]]
    with ThreadPoolExecutor(4) as pool:
        with busy(own):
            pool.submit(ask, own, trials[3])
            wait_for(lambda: own.scheduler.stats.running == 1)
            asked = [pool.submit(ask, own, trial, policy=Weighted()) for trial in trials[:3]]
            wait_for(lambda: own.scheduler.stats.waiting == 3)
        assert [one.result(60).text for one in asked] == alone


def test_a_request_joins_itself_whatever_its_policy_says(own, trials):
    class Never(IFA):
        def __eq__(self, other):
            return False

        __hash__ = IFA.__hash__

    asked: Asked = own.stream(trials[0].request, trials[0].image, policy=Never())._job.asked
    assert asked.joins(asked)


class Garbage:
    """Does something when the garbage collector finds it."""

    def __init__(self, action):
        self.action, self.itself = action, self

    def __del__(self):
        self.action()


def in_time(action):
    """Run in a thread that a deadlock does not outlive the test with."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_stream_that_becomes_garbage_while_the_counts_change():
    counters = Counters()

    class Seconds(list):
        def __len__(self):
            Garbage(lambda: counters.add("cancelled"))
            gc.collect()
            return 1

    in_time(lambda: counters.batch(Seconds([0.0])))
    assert counters.read(0, 0).cancelled == 1


def test_who_is_interrupted_on_joining_the_line_leaves_it(monkeypatch):
    class Interrupted(threading.Event):
        def set(self):
            raise KeyboardInterrupt

    turns = Turns()
    monkeypatch.setattr(threading, "Event", Interrupted)
    with pytest.raises(KeyboardInterrupt), turns.take():
        pass
    monkeypatch.undo()

    def take():
        with turns.take():
            pass

    in_time(take)
