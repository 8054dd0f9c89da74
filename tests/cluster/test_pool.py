"""Parts of a work come back once each, in their order, whatever becomes of the workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mrrag_llamaindex.cluster.pool import AHEAD, MOST_DEATHS, Pool
from mrrag_llamaindex.errors import ClusterError, InputError
from tests.cluster import work

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def pool(ray):
    made = []

    def start(make=work.context, **options):
        notes: list[str] = []
        one = Pool(ray, make, 2, cpus=0.1, note=notes.append, **options)
        made.append(one)
        return one, notes

    yield start
    for one in made:
        one.__exit__()


def all_begun(workers):
    """Ask until both have answered: on a busy machine one begins seconds before the other."""
    until = time.monotonic() + 60
    while len(processes := set(workers.run(work.process_of, range(8)))) < 2:
        assert time.monotonic() < until
    return processes


def test_results_come_in_the_order_of_the_items_and_from_all_workers(pool):
    workers, _ = pool()
    assert list(workers.run(work.uneven, range(20))) == [10 + n for n in range(20)]
    assert os.getpid() not in all_begun(workers)


def test_items_are_taken_a_few_at_a_time(pool):
    workers, _ = pool()
    taken = []
    results = workers.run(work.add, (taken.append(n) or n for n in range(1000)))
    for expected in range(3):
        assert next(results) == 10 + expected
    assert len(taken) <= 3 + AHEAD * workers.count


def test_what_a_killed_worker_had_in_hand_is_done_by_others(pool, tmp_path):
    workers, notes = pool()
    results = list(workers.run(work.dies_once, ((n, tmp_path) for n in range(6))))
    assert results == [10 + n for n in range(6)]
    assert len(list(tmp_path.iterdir())) == 2
    assert len(notes) == 2
    assert all("has died" in note for note in notes)


def test_a_part_that_kills_every_worker_ends_in_one_error_that_says_how_to_go_on(pool):
    workers, notes = pool()
    with pytest.raises(ClusterError, match=r"died .*written stays.*fewer --workers") as caught:
        list(workers.run(work.kill_me, range(4)))
    assert "\n" not in str(caught.value)
    assert len(notes) < MOST_DEATHS * 2


def test_workers_that_die_while_they_begin_are_not_started_without_end(pool):
    workers, _ = pool(work.kill_me)
    with pytest.raises(ClusterError, match="died"):
        workers.ask(work.add, 1)


def test_an_error_of_ours_comes_back_as_it_is_and_what_came_before_is_yielded(pool):
    workers, _ = pool()
    results = []
    with pytest.raises(InputError, match=r"^the sixth item cannot be used$"):
        results.extend(workers.run(work.fails, range(50)))
    assert results == [10, 11, 12, 13, 14]


def test_an_error_of_the_items_comes_after_what_came_before_it(pool):
    def items():
        yield from range(3)
        raise InputError("row 4 is torn")

    workers, _ = pool()
    results = []
    with pytest.raises(InputError, match="row 4 is torn"):
        results.extend(workers.run(work.add, items()))
    assert results == [10, 11, 12]


def test_what_other_errors_say_stays_in_the_worker(pool, ray):
    workers, _ = pool()
    with pytest.raises(ClusterError, match=r"KeyError in work\.py, line \d+") as caught:
        list(workers.run(work.fails_otherwise, range(2)))
    assert work.SECRET not in str(caught.value)
    workers, _ = pool(work.broken)
    with pytest.raises(ClusterError, match=r"RuntimeError in work\.py"):
        workers.ask(work.add, 1)
    assert work.SECRET not in logs(ray)


def logs(ray) -> str:
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*.*"))


def test_workers_that_cannot_begin_say_why(pool, tmp_path):
    workers, _ = pool(work.cannot_begin)
    with pytest.raises(InputError, match="the towers are not there"):
        workers.ask(work.add, 1)
    workers, _ = pool(folders=[tmp_path / "not-here"])
    with pytest.raises(InputError, match=r"does not see .*not-here.*all machines"):
        workers.ask(work.add, 1)


def test_what_is_finished_in_turn_is_finished_where_it_was_made_and_once(pool, tmp_path):
    workers, _ = pool()
    all_begun(workers)
    results = list(workers.run(work.uneven, range(12), finish=work.written_into(tmp_path)))
    lines = [line.split() for line in (tmp_path / "written.txt").read_text().splitlines()]
    assert [int(value) for value, _ in lines] == [10 + n for n in range(12)]
    assert results == [20 + n for n in range(12)]
    assert len({process for _, process in lines}) == 2


def test_what_was_not_finished_when_its_worker_died_is_done_again(pool, tmp_path):
    workers, notes = pool()
    items = ((n, tmp_path) for n in range(6))
    results = list(workers.run(work.dies_once, items, finish=work.add))
    assert results == [20 + n for n in range(6)]
    assert notes


def test_nobody_is_left_when_the_pool_is_closed(pool):
    workers, _ = pool()
    processes = set(workers.run(work.process_of, range(8)))
    workers.__exit__()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{number}").exists() for number in processes):
        assert time.monotonic() < until
        time.sleep(0.1)
