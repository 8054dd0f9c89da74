"""A log of JSON lines: what is on the disk and when, who may write, what is never written over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from filelock import FileLock

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.line_format import LineFormat
from mrrag_llamaindex.files.line_log import LineLog


@dataclass(frozen=True)
class ToyHeader:
    maker: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Toy:
    maker: str
    name: str
    sizes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(size < 0 for size in self.sizes):
            raise InputError("a size is negative")


TOYS = LineFormat("toy", 1, ToyHeader, Toy, "toys", "a toy", shared=("maker",), key="name")
HEADER = ToyHeader("me", 3, {"kinds": (1, 2)})
FIRST = '{"mrrag": "toy", "version": 1, "maker": "me", "seed": 3, "settings": {"kinds": [1, 2]}}\n'


def toys(*names: str) -> list[Toy]:
    return [Toy("me", name, (0.5, 1)) for name in names]


def lines(*names: str) -> str:
    return "".join(f'{{"name": "{name}", "sizes": [0.5, 1]}}\n' for name in names)


def test_each_line_is_synchronised_before_append_returns(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.jsonl", []
    synchronise = os.fsync

    def recorded(descriptor: int) -> None:
        synchronise(descriptor)
        seen.append((os.fstat(descriptor).st_ino, path.read_text()))

    monkeypatch.setattr(os, "fsync", recorded)
    with LineLog(path, TOYS, HEADER) as log:
        log.append(toys("one", "two"))
        log.append(toys("three"))
    contents = [FIRST, FIRST + lines("one", "two"), FIRST + lines("one", "two", "three")]
    assert seen == [(path.stat().st_ino, content) for content in contents]


def test_what_was_written_is_read_and_goes_on(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    with LineLog(path, TOYS, HEADER) as log:
        log.append(toys("one"))
    with LineLog(path, TOYS, HEADER) as log:
        assert (log.records, log.keys) == (toys("one"), {"one"})
        log.append(toys("two"))
        assert log.keys == {"one", "two"}
    assert TOYS.read(path) == (replace(HEADER, settings={"kinds": [1, 2]}), toys("one", "two"))


def test_torn_last_line_is_cut_off_on_opening_and_the_next_follows_the_last_whole_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(FIRST + lines("one") + '{"na')
    assert TOYS.read(path)[1] == toys("one")
    with LineLog(path, TOYS, HEADER) as log:
        assert path.read_text() == FIRST + lines("one")
        log.append(toys("2"))
    assert path.read_text() == FIRST + lines("one", "2")


@pytest.mark.parametrize("length", [0, 1, len(TOYS.start()), len(FIRST) - 1])
def test_torn_header_is_written_anew_whatever_its_run(tmp_path, length):
    path = tmp_path / "a.jsonl"
    path.write_text(FIRST[:length])
    LineLog(path, TOYS, replace(HEADER, seed=4)).close()
    assert path.read_text() == FIRST.replace('"seed": 3', '"seed": 4')


@pytest.mark.parametrize(
    "content",
    ["x", '{"mrrag": "other', '{"mrrag": "toy", "version": 2', "x\n", "[]\n", FIRST + "x\n"],
)
def test_another_file_is_not_written_over(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    kept = []  # with their frames, so that nothing but the class itself frees the lock
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.jsonl") as caught:
            LineLog(path, TOYS, HEADER)
        kept.append(caught)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "begun with seed 3, and this run has 4"),
        ({"settings": {"kinds": [1]}}, r"kinds \[1, 2\]"),
        ({"settings": {"kinds": [1, 2], "new": 1}}, "new None, and this run has 1"),
    ],
)
def test_another_run_is_refused_by_the_first_difference(tmp_path, change, words):
    path = tmp_path / "a.jsonl"
    with LineLog(path, TOYS, HEADER) as log:
        log.append(toys("one"))
    with pytest.raises(InputError, match=words):
        LineLog(path, TOYS, replace(HEADER, **change))
    assert path.read_text() == FIRST + lines("one")


@pytest.mark.parametrize("torn", ["", '{"na'])
def test_a_run_that_recorded_nothing_binds_no_other(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_text(FIRST + torn)
    with LineLog(path, TOYS, replace(HEADER, seed=4)) as log:
        log.append(toys("one"))
    assert TOYS.read(path)[0].seed == 4
    assert TOYS.read(path)[1] == toys("one")


def test_nothing_of_a_batch_is_written_if_one_record_does_not_belong(tmp_path):
    with LineLog(tmp_path / "a.jsonl", TOYS, HEADER) as log:
        for batch in (toys("one", "one"), [*toys("one"), Toy("you", "two")]):
            with pytest.raises(InputError, match=r"twice|not of 'you'"):
                log.append(batch)
        with pytest.raises(ValueError, match="JSON"):
            log.append([*toys("one"), Toy("me", "two", (float("nan"),))])
        assert not log.records
        assert (tmp_path / "a.jsonl").read_text() == FIRST


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{secret", "not valid JSON"),
        ('["secret"]', "not a toy"),
        ('{"sizes": []}', "not a toy .*name"),
        ('{"name": "secret", "sizes": ["1"]}', r"not a toy .*sizes\.0"),
        ('{"name": "secret", "sizes": [true]}', r"not a toy .*sizes\.0"),
        ('{"name": "secret", "sizes": [-1]}', "not a toy .*negative"),
        ('{"name": "one"}', "name of an earlier line"),
    ],
)
def test_a_broken_line_is_named_without_its_contents(tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    path.write_text(FIRST + lines("one") + line + "\n")
    with pytest.raises(InputError, match=rf"^a\.jsonl, line 3 .*{words}") as caught:
        TOYS.read(path)
    assert "secret" not in str(caught.value)


def test_lines_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    with LineLog(path, TOYS, HEADER) as log:
        log.append(toys("a\u2028b\x85c"))
    assert "\u2028" in path.read_text(encoding="utf-8")
    assert TOYS.read(path)[1] == toys("a\u2028b\x85c")


def test_fields_that_a_reader_does_not_know_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(FIRST + json.dumps({"name": "one", "sizes": [0.5, 1], "colour": "red"}) + "\n")
    assert TOYS.read(path)[1] == toys("one")


def test_the_message_names_the_file_and_what_else_to_do(tmp_path):
    path = tmp_path / "a.jsonl"
    with FileLock(tmp_path / "a.jsonl.lock"):
        for options, end in [({}, "write to another file"), ({"instead": "stop"}, "stop")]:
            with pytest.raises(InputError) as caught:
                LineLog(path, TOYS, HEADER, **options)
            said = f"another process is writing to a.jsonl: wait for it, or {end}"
            assert str(caught.value) == said
    assert not path.exists()


def test_a_closed_file_may_be_opened_by_another_and_an_open_one_not(tmp_path):
    path = tmp_path / "a.jsonl"
    first = LineLog(path, TOYS, HEADER)
    with pytest.raises(InputError, match="another process"):
        LineLog(path, TOYS, HEADER)
    first.close()
    LineLog(path, TOYS, HEADER).close()


def test_a_process_that_is_killed_leaves_no_lock_and_all_that_it_appended(tmp_path):
    path = tmp_path / "a.jsonl"
    dies = (
        "import os, sys\n"
        "from tests.files.test_line_log import HEADER, TOYS, LineLog, toys\n"
        "log = LineLog(sys.argv[1], TOYS, HEADER)\n"
        "log.append(toys('one')); os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", dies, str(path)], check=False)
    assert ended.returncode == -9
    with LineLog(path, TOYS, HEADER) as log:
        log.append(toys("two"))
    assert path.read_text() == FIRST + lines("one", "two")


def test_what_the_system_says_against_the_file_is_said_without_its_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.jsonl").mkdir()
    for place, name in [("file/a.jsonl", "a.jsonl"), ("folder.jsonl", "folder.jsonl")]:
        with pytest.raises(InputError, match=f"^{name} cannot be (read|written): ") as caught:
            LineLog(tmp_path / place, TOYS, HEADER)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_a_new_log_is_for_this_user_alone(tmp_path):
    with LineLog(tmp_path / "toys.jsonl", TOYS, HEADER):
        assert (tmp_path / "toys.jsonl").stat().st_mode & 0o777 == 0o600
    (tmp_path / "toys.jsonl").chmod(0o640)
    with LineLog(tmp_path / "toys.jsonl", TOYS, HEADER):
        assert (tmp_path / "toys.jsonl").stat().st_mode & 0o777 == 0o640
