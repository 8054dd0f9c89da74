"""What several threads embed at once is one batch, and each gets its own rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.towers.gathering import GatheredTowers, Gathering
from mrrag_llamaindex.towers.loading import load_towers


@pytest.fixture(scope="module")
def phantom():
    return load_towers("phantom")


def film(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (80, 96 + seed, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Slow:
    """Towers that are busy until they are told otherwise, and count their batches."""

    def __init__(self, towers) -> None:
        self.towers, self.sizes, self.free = towers, [], threading.Event()

    def embed_images(self, images):
        self.sizes.append(len(images))
        assert self.free.wait(60)
        return self.towers.embed_images(images)

    def embed_texts(self, texts):
        self.sizes.append(len(texts))
        assert self.free.wait(60)
        return self.towers.embed_texts(texts)


def waiting(gathering: Gathering) -> int:
    with gathering._lock:
        return len(gathering._waiting)


def together(slow: Slow, name: str, calls: list, wait_for):
    """Make all calls while the towers are busy with the first."""
    gathered = GatheredTowers(slow)
    gathering = gathered._images if name == "embed_images" else gathered._texts
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(getattr(GatheredTowers(slow), name), calls[0])]
        wait_for(lambda: slow.sizes == [len(calls[0])])
        for count, call in enumerate(calls[1:], start=1):
            futures.append(pool.submit(getattr(GatheredTowers(slow), name), call))
            wait_for(lambda count=count: waiting(gathering) == count)
        slow.free.set()
        return futures


def test_images_of_many_threads_are_one_batch_and_equal_single_ones(phantom, wait_for):
    slow, films = Slow(phantom), [film(seed) for seed in range(20)]
    futures = together(slow, "embed_images", [[one] for one in films], wait_for)
    found = np.concatenate([future.result() for future in futures])
    alone = np.concatenate([phantom.embed_images([one]) for one in films])
    np.testing.assert_allclose(found, alone, atol=1e-6)
    assert slow.sizes == [1, 19]


def test_texts_keep_their_callers(phantom, wait_for):
    slow = Slow(phantom)
    calls = [["nodule"], ["edema", "no edema"], ["fracture"], ["pleural effusion"]]
    futures = together(slow, "embed_texts", calls, wait_for)
    for future, texts in zip(futures, calls, strict=True):
        np.testing.assert_allclose(future.result(), phantom.embed_texts(texts), atol=1e-6)
    assert slow.sizes == [1, 4]


def test_one_bad_input_fails_alone(phantom, wait_for):
    slow = Slow(phantom)
    calls = [[film(0)], [film(1)], ["no image"], [film(2)]]
    futures = together(slow, "embed_images", calls, wait_for)
    with pytest.raises(InputError, match="image 1 of 1 is str"):
        futures[2].result()
    for number in (0, 1, 3):
        np.testing.assert_allclose(
            futures[number].result(), phantom.embed_images(calls[number]), atol=1e-6
        )
    assert GatheredTowers(slow).embed_images([film(3)]).shape == (1, phantom.dimension)


def test_a_batch_is_bounded(phantom, wait_for):
    slow = Slow(phantom)
    futures = together(slow, "embed_texts", [["nodule"]] * 40, wait_for)
    assert all(future.result().shape == (1, phantom.dimension) for future in futures)
    assert slow.sizes == [1, 32, 7]


def test_a_lone_call_is_made_in_its_own_thread():
    threads = []

    def noted(items):
        threads.append(threading.current_thread())
        return np.zeros((len(items), 2), dtype=np.float32)

    assert Gathering()(noted, [1, 2]).shape == (2, 2)
    assert threads == [threading.current_thread()]


def test_an_interrupt_of_who_calls_for_all_is_not_the_others(wait_for):
    """Ctrl-C reaches one thread; the others' vectors come all the same."""
    gathering, begun, free = Gathering(), threading.Event(), threading.Event()

    def rows(items):
        begun.set()
        assert free.wait(60)
        if "mine" in items:
            raise KeyboardInterrupt
        return np.ones((len(items), 2), dtype=np.float32)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(gathering, rows, ["first"])
        assert begun.wait(60)
        leader = pool.submit(gathering, rows, ["mine"])
        wait_for(lambda: waiting(gathering) == 1)
        others = [pool.submit(gathering, rows, [name]) for name in ("a", "b")]
        wait_for(lambda: waiting(gathering) == 3)
        free.set()
        assert first.result().shape == (1, 2)
        with pytest.raises(KeyboardInterrupt):
            leader.result()
        assert all(other.result().shape == (1, 2) for other in others)


def test_towers_that_are_no_key_work_as_well(phantom):
    class NoKey(Slow):
        __hash__ = None

    towers = NoKey(phantom)
    towers.free.set()
    assert GatheredTowers(towers).embed_texts(["nodule"]).shape == (1, phantom.dimension)
