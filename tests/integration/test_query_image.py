"""A `query_image` block is about the code inside it, whoever runs that and wherever."""

from __future__ import annotations

import asyncio
import contextvars
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest
from PIL import Image

from mrrag_llamaindex import query_image
from mrrag_llamaindex.errors import EvidenceError, ImageError
from mrrag_llamaindex.integration.query_image import _OPEN, current_query_image


def film(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (32, 32), grey).save(buffer, "PNG")
    return buffer.getvalue()


A, B = film(10), film(200)


def seen() -> str | None:
    image = current_query_image()
    return None if image is None else {A: "A", B: "B"}[image.content]


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    yield
    assert not _OPEN


def session(image: bytes, steps: int = 3):
    with query_image(image):
        for _ in range(steps):
            yield seen()


def test_blocks_nest_and_end():
    assert seen() is None
    with query_image(A):
        assert seen() == "A"
        with query_image(B):
            assert seen() == "B"
        assert seen() == "A"
    assert seen() is None


def test_an_exception_ends_a_block():
    with pytest.raises(KeyError), query_image(A):
        raise KeyError
    assert seen() is None


def test_the_image_is_read_once_on_entering(tmp_path):
    path = tmp_path / "upload.png"
    path.write_bytes(A)
    with query_image(path):
        path.write_bytes(B)
        assert seen() == "A"
    with pytest.raises(ImageError), query_image(tmp_path / "missing.png"):
        pass


def test_generators_advanced_in_turn_keep_their_own():
    first, second = session(A), session(B)
    assert [next(one) for _ in range(3) for one in (first, second)] == ["A", "B"] * 3
    first.close()
    second.close()


def test_generators_that_end_in_any_order_leave_nothing():
    first, second = session(A, 1), session(B, 1)
    assert (next(first), next(second)) == ("A", "B")
    first.close()
    assert list(second) == []
    assert seen() is None


def test_a_generator_left_at_a_yield_is_not_the_next_questions():
    left = session(A)
    next(left)
    with pytest.raises(EvidenceError, match="waits at a yield"):
        current_query_image()
    with query_image(B):
        assert seen() == "B"
    left.close()
    assert seen() is None


def test_a_generator_inside_another_block():
    with query_image(A):
        inner = session(B)
        assert next(inner) == "B"
        assert seen() == "A"
        inner.close()
        assert seen() == "A"


def test_a_generator_advanced_in_copied_contexts_and_threads():
    """As web frameworks advance a streaming response."""
    with ThreadPoolExecutor(4) as pool:
        first, second = session(A, 8), session(B, 8)
        got = []
        for _ in range(8):
            for one in (first, second):
                got.append(pool.submit(contextvars.copy_context().run, next, one).result())
    assert got == ["A", "B"] * 8
    assert list(first) == list(second) == []


def test_a_generator_that_runs_an_event_loop_of_its_own():
    async def ask():
        return [await asyncio.to_thread(seen), seen()]

    def stream(image):
        with query_image(image):
            yield "begin"
            yield asyncio.run(ask())

    first, second = stream(A), stream(B)
    assert (next(first), next(second)) == ("begin", "begin")
    # The context holds B's block, which waits at its yield: nobody can tell, so nobody guesses.
    with pytest.raises(EvidenceError, match="waits at a yield"):
        next(first)
    assert next(second) == ["B", "B"]
    second.close()


def test_a_context_manager_that_yields_inside_a_block_is_refused_and_not_guessed():
    @contextmanager
    def patient(image):
        with query_image(image):
            yield

    with patient(A), pytest.raises(EvidenceError, match="image="):
        current_query_image()


def test_exit_stacks_belong_to_their_user():
    with ExitStack() as stack:
        stack.enter_context(query_image(A))
        assert seen() == "A"
    assert seen() is None


async def test_async_exit_stack_and_tasks():
    async def child():
        await asyncio.sleep(0)
        return seen()

    async with AsyncExitStack() as stack:
        stack.enter_context(query_image(A))
        assert await asyncio.gather(child(), child()) == ["A", "A"]
        assert await asyncio.to_thread(seen) == "A"
        assert await asyncio.create_task(child()) == "A"


async def test_concurrent_tasks_keep_their_own():
    async def handler(image, name):
        with query_image(image):
            for _ in range(20):
                await asyncio.sleep(0)
                assert seen() == name
                assert await asyncio.to_thread(seen) == name
                assert await asyncio.gather(child(), child()) == [name, name]

    async def child():
        await asyncio.sleep(0)
        return seen()

    await asyncio.gather(*(handler(*case) for case in ((A, "A"), (B, "B")) * 5))


async def test_a_task_inside_an_outer_block_asks_about_its_own():
    async def handler():
        with query_image(B):
            return await asyncio.create_task(child())

    async def child():
        return seen()

    with query_image(A):
        assert await asyncio.create_task(handler()) == "B"
        assert await asyncio.create_task(child()) == "A"


async def stream(image):
    with query_image(image):
        for _ in range(3):
            yield seen()
            await asyncio.sleep(0)
            yield await asyncio.create_task(seen_later())
            yield await asyncio.to_thread(seen)


async def seen_later():
    await asyncio.sleep(0)
    return seen()


async def test_async_generators_advanced_in_turn_keep_their_own():
    first, second = stream(A), stream(B)
    assert [await anext(one) for one in (first, second)] == ["A", "B"]
    # The first one's task copies a context that names the second's block: nobody guesses.
    with pytest.raises(EvidenceError, match="waits at a yield"):
        await anext(first)
    assert [await anext(second) for _ in range(4)] == ["B"] * 4
    await second.aclose()


async def test_an_async_generator_by_itself_starts_tasks_and_threads():
    assert [name async for name in stream(A)] == ["A"] * 9


async def test_an_async_generator_left_at_a_yield_is_not_the_next_questions():
    left = stream(A)
    await anext(left)
    with pytest.raises(EvidenceError, match="waits at a yield"):
        current_query_image()
    with pytest.raises(EvidenceError, match="waits at a yield"):
        await asyncio.create_task(seen_later())
    await left.aclose()
    assert seen() is None


async def test_work_that_outlives_its_block_is_refused():
    go = asyncio.Event()

    async def later():
        await go.wait()
        return seen()

    with query_image(A):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(EvidenceError, match="has ended since"):
        await task


def test_a_bare_thread_does_not_see_the_block():
    got = []
    with query_image(A):
        thread = threading.Thread(target=lambda: got.append(seen()))
        thread.start()
        thread.join()
    assert got == [None]


def test_many_generators_in_many_threads_never_cross():
    def work(_):
        cases = [(session(A, 20), "A"), (session(B, 20), "B")] * 2
        return [next(one) == name for _ in range(20) for one, name in cases[:2]]

    with ThreadPoolExecutor(8) as pool:
        assert all(all(row) for row in pool.map(work, range(40)))
