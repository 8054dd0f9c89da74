"""A file is there whole or not at all: threads on one path, killed writers, failures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrrag_llamaindex.files.atomic import write_atomically

KILLED = """
import os, signal, sys
from mrrag_llamaindex.files.atomic import write_atomically

def half(part):
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(sys.argv[1], half)
"""


def test_threads_that_write_one_path_leave_one_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "weights.json"
    together = threading.Barrier(4)

    def write(letter: str) -> None:
        def content(part: Path) -> None:
            part.write_text(letter * 1000)
            together.wait(timeout=30)  # all four have begun before any is renamed
            part.write_text(letter * 2000)

        write_atomically(target, content)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    text = target.read_text()
    assert text in {letter * 2000 for letter in "abcd"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="whether a process runs is not asked there")
def test_the_part_of_a_killed_process_goes_at_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("before")
    subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    (left,) = set(tmp_path.iterdir()) - {target}
    assert left.read_text() == "half"
    assert target.read_text() == "before"
    write_atomically(tmp_path / "other.csv", "another path")
    assert left.exists()
    write_atomically(target, "after")
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "other.csv"}
    assert target.read_text() == "after"


@pytest.mark.skipif(os.name == "nt", reason="whether a process runs is not asked there")
def test_the_part_of_a_process_that_runs_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    parts = []
    write_atomically(target, lambda part: (parts.append(part), part.write_text("")))
    other = parts[0].with_name(parts[0].name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
    other.write_text("being written")
    write_atomically(target, "new")
    assert other.read_text() == "being written"


def test_a_failed_write_leaves_what_was_there_and_no_part(tmp_path: Path) -> None:
    target = tmp_path / "profile.json"
    target.write_text("before")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, fail)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / "table.csv", "a\r\nb\nc")
    assert (tmp_path / "table.csv").read_bytes() == b"a\r\nb\nc"


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_what_belongs_to_patients_is_for_this_user_alone(tmp_path: Path) -> None:
    def replace_part(part: Path) -> None:
        part.unlink()
        part.write_text("written by another library")

    for content in ("text", replace_part):
        write_atomically(tmp_path / "answers.json", content, private=True)
        assert (tmp_path / "answers.json").stat().st_mode & 0o777 == 0o600
