"""A file of lines: what is on the disk and when, who may write, and what is never written over."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from filelock import FileLock

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.json_lines import header_start, json_line, read_json_lines
from mrrag_llamaindex.files.line_log import LineLog

HEADER = json_line({"mrrag": "toy", "version": 1, "seed": 3})
START = header_start("toy", 1)


def opened(path, header=HEADER, **options) -> LineLog:
    return LineLog(path, header, START, lambda: read_json_lines(path)[1], **options)


def refuse() -> int:
    raise InputError("this is something else")


def test_each_line_is_synchronised_before_append_returns(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.jsonl", []
    synchronise = os.fsync

    def recorded(descriptor: int) -> None:
        synchronise(descriptor)
        seen.append((os.fstat(descriptor).st_ino, path.read_text()))

    monkeypatch.setattr(os, "fsync", recorded)
    log = opened(path)
    log.append('"one"\n"two"\n')
    log.append('"three"\n')
    contents = [HEADER, HEADER + '"one"\n"two"\n', HEADER + '"one"\n"two"\n"three"\n']
    assert seen == [(path.stat().st_ino, content) for content in contents]
    log.close()


def test_torn_last_line_is_cut_off_on_opening_and_the_next_follows_the_last_whole_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(HEADER + '"one"\n"tw')
    log = opened(path)
    assert path.read_text() == HEADER + '"one"\n'
    log.append('"2"\n')
    log.close()
    assert path.read_text() == HEADER + '"one"\n"2"\n'


@pytest.mark.parametrize("length", [0, 1, len(START), len(HEADER) - 1])
def test_torn_header_is_written_anew_whatever_its_run(tmp_path, length):
    path = tmp_path / "a.jsonl"
    path.write_text(HEADER[:length])
    other = json_line({"mrrag": "toy", "version": 1, "seed": 4})
    LineLog(path, other, START, refuse).close()
    assert path.read_text() == other


@pytest.mark.parametrize("content", ["x", '{"mrrag": "other', '{"mrrag": "toy", "version": 2'])
def test_another_file_without_a_line_end_is_not_written_over(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)

    kept = []  # with their frames, so that nothing but the class itself frees the lock
    for _ in range(2):
        with pytest.raises(InputError, match="something else") as caught:
            LineLog(path, HEADER, START, refuse)
        kept.append(caught)
    assert path.read_text() == content


def test_the_message_names_the_file_and_what_else_to_do(tmp_path):
    path = tmp_path / "a.jsonl"
    with FileLock(tmp_path / "a.jsonl.lock"):
        for options, end in [({}, "write to another file"), ({"instead": "stop"}, "stop")]:
            with pytest.raises(InputError) as caught:
                opened(path, **options)
            said = f"another process is writing to a.jsonl: wait for it, or {end}"
            assert str(caught.value) == said
    assert not path.exists()


def test_a_closed_file_may_be_opened_by_another_and_an_open_one_not(tmp_path):
    path = tmp_path / "a.jsonl"
    first = opened(path)
    with pytest.raises(InputError, match="another process"):
        opened(path)
    first.close()
    opened(path).close()


def test_a_process_that_is_killed_leaves_no_lock_and_all_that_it_appended(tmp_path):
    path = tmp_path / "a.jsonl"
    dies = (
        "import os, sys; from pathlib import Path\n"
        "from mrrag_llamaindex.files.line_log import LineLog\n"
        "log = LineLog(Path(sys.argv[1]), sys.argv[2], b'{', lambda: 0)\n"
        "log.append('\"one\"\\n'); os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", dies, str(path), HEADER], check=False)
    assert ended.returncode == -9
    log = opened(path)
    log.append('"two"\n')
    log.close()
    assert path.read_text() == HEADER + '"one"\n"two"\n'


def test_what_the_system_says_against_the_file_is_said_without_its_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.jsonl").mkdir()
    for place, name in [("file/a.jsonl", "a.jsonl"), ("folder.jsonl", "folder.jsonl")]:
        with pytest.raises(InputError, match=f"^{name} cannot be (read|written): ") as caught:
            opened(tmp_path / place)
        assert str(tmp_path) not in str(caught.value)


def test_lines_are_parsed_as_they_are_asked_for_and_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    content = json_line({"text": "a\u2028b\x85c"}) + "{broken\n" + '"torn'
    path.write_text(content, encoding="utf-8")
    lines, whole = read_json_lines(path)
    assert whole == len(content.encode()) - len('"torn')
    assert next(lines) == {"text": "a\u2028b\x85c"}
    with pytest.raises(InputError, match=r"^a\.jsonl, line 2 is not valid JSON$"):
        next(lines)
