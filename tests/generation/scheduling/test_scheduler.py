"""Who runs when, who is refused, who fails, and who has left."""

from __future__ import annotations

import contextvars
import signal
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import BusyError, ModelError, PromptError
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.generation.scheduling.cancellation import Cancellation
from mrrag_llamaindex.generation.scheduling.statistics import SchedulerStats
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask


def ask(engine, trial, **options):
    return engine.generate([trial.request], [trial.image], **options)[0]


def ask_cancellably(engine, trial, cancellation, **options):
    context = contextvars.copy_context()
    context.run(cancellation.install)
    return context.run(ask, engine, trial, **options)


def waits(engine, number):
    return lambda: engine.scheduler.stats.waiting == number


def stats_of(engine) -> SchedulerStats:
    return engine.scheduler.stats


def test_a_lone_call_waits_for_nobody(own, trials, monkeypatch):
    monkeypatch.setattr(defaults, "BATCH_WAIT", 60.0)
    started = time.perf_counter()
    ask(own, trials[0])
    assert time.perf_counter() - started < 30
    assert stats_of(own).rows.count == 1
    assert own.scheduler._thread is None  # it ran where it was made


def test_a_batch_waits_a_moment_for_whom_is_on_the_way(own, trials, monkeypatch):
    monkeypatch.setattr(defaults, "BATCH_WAIT", 20.0)
    with ThreadPoolExecutor(2) as pool:
        with own.scheduler.coming():
            first = pool.submit(ask, own, trials[0])
            second = pool.submit(ask, own, trials[1])
            time.sleep(0.1)
            assert not first.done()
        assert first.result().text
        assert second.result().text
    assert stats_of(own).rows.count == 1
    assert stats_of(own).rows.total == 2


def test_who_never_comes_is_waited_for_only_so_long(own, trials, monkeypatch):
    monkeypatch.setattr(defaults, "BATCH_WAIT", 0.05)
    with own.scheduler.coming():
        assert ask(own, trials[0]).text


def test_the_oldest_decides_and_nobody_starves(own, trials, busy, wait_for):
    """One of another kind comes first, and its turn before the many that came later."""
    order = []
    with ThreadPoolExecutor(20) as pool, busy(own):
        pool.submit(ask, own, trials[0])
        wait_for(lambda: stats_of(own).running == 1)

        def noted(name, trial, **options):
            ask(own, trial, **options)
            order.append(name)

        pool.submit(noted, "other", trials[1], policy=HardMask())
        wait_for(waits(own, 1))
        for number in range(2, 14):
            pool.submit(noted, "many", trials[number], policy=IFA())
        wait_for(waits(own, 13))
    assert order.index("other") == 0


def test_a_bad_request_fails_in_its_own_thread_before_it_joins(own, trials, busy, wait_for):
    long = PromptRequest("word " * 5000)
    with ThreadPoolExecutor(3) as pool:
        with busy(own):
            good = [pool.submit(ask, own, trial) for trial in trials[:2]]
            wait_for(lambda: stats_of(own).running + stats_of(own).waiting == 2)
            with pytest.raises(PromptError):
                own.generate([long], [trials[0].image])
        assert all(one.result().text for one in good)
    assert stats_of(own).failed == 0


@pytest.mark.parametrize("error", [RuntimeError("no"), torch.OutOfMemoryError("no memory")])
def test_only_the_culprit_fails_in_the_forward_pass(own, trials, busy, wait_for, error):
    culprit = Image.new("RGB", (96, 96), "white")
    bad = own.read_image(culprit).tensors["pixel_values"]
    forward = own.model.model.get_image_features

    def failing(pixel_values, *args, **kwargs):
        if any(torch.equal(one, bad[0]) for one in pixel_values):
            raise error
        return forward(pixel_values, *args, **kwargs)

    own.model.model.get_image_features = failing
    expected = [ask(own, trial).text for trial in trials[:7]]
    with ThreadPoolExecutor(9) as pool:
        with busy(own):
            pool.submit(ask, own, trials[0])
            wait_for(lambda: stats_of(own).running == 1)
            others = [pool.submit(ask, own, trial) for trial in trials[:4]]
            wrong = pool.submit(own.generate, [trials[0].request], [culprit])
            others += [pool.submit(ask, own, trial) for trial in trials[4:7]]
            wait_for(waits(own, 8))
        with pytest.raises(ModelError) as raised:
            wrong.result()
        assert raised.value.__cause__ is error
        assert [one.result().text for one in others] == expected
    assert stats_of(own).failed == 1


def test_no_more_rows_than_the_memory_takes(own, trials, busy, wait_for):
    """Out of memory with more than two rows: all are answered, by halves."""
    forward, sizes = own.model.model.get_image_features, []

    def hungry(pixel_values, *args, **kwargs):
        sizes.append(len(pixel_values))
        if len(pixel_values) > 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(pixel_values, *args, **kwargs)

    own.model.model.get_image_features = hungry
    with ThreadPoolExecutor(9) as pool:
        with busy(own):
            pool.submit(ask, own, trials[8])
            wait_for(lambda: stats_of(own).running == 1)
            futures = [pool.submit(ask, own, trial) for trial in trials[:8]]
            wait_for(waits(own, 8))
        assert all(future.result().text for future in futures)
    assert max(sizes) == 8


def test_a_stream_in_a_batch_that_fails_says_nothing_twice(endless, trials, busy, wait_for):
    engine = endless.with_limits(max_new_tokens=12)
    expected = ask(engine, trials[1]).text
    text = engine.model.model.language_model
    run, steps = text.forward, []

    def failing(*args, **kwargs):
        if len(kwargs["inputs_embeds"]) > 1:
            steps.append(kwargs["inputs_embeds"].shape[1])
            if len(steps) == 6:
                raise RuntimeError("in the fifth step")
        return run(*args, **kwargs)

    stream = engine.stream(trials[1].request, trials[1].image)
    with ThreadPoolExecutor(3) as pool:
        with busy(engine):
            pool.submit(ask, engine, trials[0])
            wait_for(lambda: stats_of(engine).running == 1)
            said = pool.submit("".join, stream)
            other = pool.submit(ask, engine, trials[2])
            wait_for(waits(engine, 2))
            text.forward = failing
        assert said.result().strip() == expected
        assert other.result().text
    assert len(steps) == 6


def test_a_full_queue_refuses_and_says_what_to_do(own, trials, busy, wait_for):
    small = own.with_limits(max_queue=2)
    with ThreadPoolExecutor(4) as pool:
        with busy(small):
            pool.submit(ask, small, trials[0])
            wait_for(lambda: stats_of(small).running == 1)
            waiting = [pool.submit(ask, small, trial) for trial in trials[1:3]]
            wait_for(waits(small, 2))
            with pytest.raises(BusyError, match=r"2 questions wait.*max_queue") as refused:
                ask(small, trials[3])
            with pytest.raises(BusyError):
                "".join(small.stream(trials[3].request, trials[3].image))
        assert not refused.value.timed_out
        assert all(one.result().text for one in waiting)
    assert stats_of(small).refused == 2
    assert stats_of(own).refused == 2  # one queue for every copy of a loaded model
    assert ask(small, trials[3]).text


def test_a_call_that_has_begun_is_not_refused_in_its_middle(own, trials, busy, wait_for):
    small = own.with_limits(max_queue=1, batch_size=2)
    requests = [trial.request for trial in trials[:6]]
    images = [trial.image for trial in trials[:6]]
    assert len(small.generate(requests, images)) == 6


def test_who_waits_too_long_is_told(own, endless, trials):
    impatient = endless.with_limits(queue_timeout=0.2, max_new_tokens=4)
    pieces = iter(endless.stream(trials[0].request, trials[0].image, policy=IFA()))
    next(pieces)
    started = time.perf_counter()
    with pytest.raises(BusyError, match=r"busy for the .* seconds.*queue_timeout") as late:
        ask(impatient, trials[1])
    assert time.perf_counter() - started < 20
    assert late.value.timed_out
    pieces.close()
    assert stats_of(own).timed_out == 1


def test_who_is_cancelled_leaves_the_queue_at_once(own, trials, busy, wait_for):
    cancellation = Cancellation()
    with ThreadPoolExecutor(3) as pool:
        with busy(own):
            first = pool.submit(ask, own, trials[0])
            wait_for(lambda: stats_of(own).running == 1)
            left = pool.submit(ask_cancellably, own, trials[1], cancellation)
            stays = pool.submit(ask, own, trials[2])
            wait_for(waits(own, 2))
            cancellation.cancel()
            with pytest.raises(CancelledError):
                left.result(timeout=20)
            assert stats_of(own).waiting == 1
        assert first.result().text
        assert stays.result().text
    assert stats_of(own).cancelled == 1
    with pytest.raises(CancelledError):
        ask_cancellably(own, trials[1], cancellation)


def test_a_batch_that_nobody_waits_for_ends(endless, trials, busy, wait_for):
    """Two rows of 1,500 tokens: both leave, and the model is free long before their end."""
    streams = [endless.stream(trial.request, trial.image) for trial in trials[:2]]
    with ThreadPoolExecutor(2) as pool:
        with busy(endless):
            pool.submit(ask, endless, trials[3], max_new_tokens=1)
            wait_for(lambda: stats_of(endless).running == 1)
            texts = [pool.submit(lambda s=s: [next(iter(s)), s][1]) for s in streams[:1]]
            wait_for(waits(endless, 1))
        texts[0].result()
        wait_for(lambda: stats_of(endless).running == 1)
        for stream in streams:
            stream.close()
        wait_for(lambda: stats_of(endless).running == 0)
        ask(endless, trials[4], max_new_tokens=2)
    assert len(streams[0]._job.tokens) < 1400
    assert list(streams[1]) == []


@pytest.mark.slow
def test_rows_that_are_over_stop_costing(endless, trials, busy, wait_for):
    """Six of eight leave: the two that stay go on alone, with the answers that they have alone."""
    engine = endless.with_limits(max_new_tokens=400)
    expected = [ask(engine, trial, policy=IFA()).text for trial in trials[:2]]
    text = engine.model.model.language_model
    run, sizes = text.forward, []

    def noted(*args, **kwargs):
        sizes.append(len(kwargs["inputs_embeds"]))
        return run(*args, **kwargs)

    leaving = [
        iter(engine.stream(trial.request, trial.image, policy=IFA())) for trial in trials[2:8]
    ]
    with ThreadPoolExecutor(9) as pool:
        with busy(engine):
            pool.submit(ask, engine, trials[9], max_new_tokens=1)
            wait_for(lambda: stats_of(engine).running == 1)
            staying = [pool.submit(ask, engine, trial, policy=IFA()) for trial in trials[:2]]
            begun = [pool.submit(next, pieces) for pieces in leaving]
            wait_for(waits(engine, 8))
            text.forward = noted
        for pieces, first in zip(leaving, begun, strict=True):
            assert first.result()
            pieces.close()
        assert [one.result().text for one in staying] == expected
    assert max(sizes) == 8
    assert sizes[-1] <= 2
    assert stats_of(engine).cancelled == 6


def test_an_abandoned_stream_stops(endless, trials, wait_for):
    pieces = iter(endless.stream(trials[0].request, trials[0].image))
    next(pieces)
    assert stats_of(endless).running == 1
    del pieces
    wait_for(lambda: stats_of(endless).running == 0)
    assert stats_of(endless).cancelled == 1


@pytest.mark.slow
def test_a_stream_that_nobody_reads_holds_nobody_up(endless, trials):
    unread = iter(endless.stream(trials[0].request, trials[0].image, max_new_tokens=300))
    next(unread)
    assert ask(endless, trials[1], max_new_tokens=2).text
    unread.close()


def test_an_interrupt_ends_the_waiting_and_the_work(endless, trials, wait_for):
    main = threading.main_thread().ident
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    # Whoever starts the tests in the background ignores the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(endless, trials[0])
    finally:
        signal.signal(signal.SIGINT, handler)
    wait_for(lambda: stats_of(endless).running == 0)
    assert stats_of(endless).cancelled == 1
    assert ask(endless, trials[0], max_new_tokens=1).text


def test_each_caller_has_its_own_traceback(own, trials):
    own.model.model.multi_modal_projector = None
    with pytest.raises(ModelError) as raised:
        ask(own, trials[0])
    names = [entry.name for entry in raised.traceback]
    assert "ask" in names
    assert "run_batch" in names


def test_counts_tell_what_happened(own, trials):
    for trial in trials[:3]:
        ask(own, trial)
    stats = stats_of(own)
    assert (stats.answered, stats.failed, stats.waiting, stats.running) == (3, 0, 0, 0)
    assert stats.rows.total == stats.rows.count == 3
    assert stats.run_seconds.count == stats.queue_seconds.count == 3
    assert 0 < stats.run_seconds.total < 60


def test_the_model_is_let_go_with_its_last_engine(trials, wait_for):
    import gc
    import weakref

    from mrrag_llamaindex.generation.checkpoints.loading import load_model
    from mrrag_llamaindex.generation.engine import LlavaEngine

    engine = LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=2)
    ask(engine, trials[0])
    model = weakref.ref(engine.model)
    del engine

    def gone():
        gc.collect()
        return model() is None

    wait_for(gone)  # the thread that generated may hold it a moment longer
