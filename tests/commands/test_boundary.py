"""Every fault of the command line is one line and an exit code; text from outside is text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mrrag_llamaindex.cli import main
from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.boundary import Terminated, describe, plain


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (Terminated(), "terminated", 143),
        (OSError(28, "No space left on device", "store/x"), "'store/x': the disk is full", 2),
        (OSError(30, "Read-only file system", "a"), "'a': the disk is read-only", 2),
        (NotADirectoryError(20, "Not a directory", "f/x"), "'f/x': a part of the path", 2),
        (RecursionError("maximum"), "nested too deeply", 2),
        (MemoryError(), "memory", 2),
        ("\udc80".encode, "not valid Unicode", 2),
        (KeyError("Report of Mr. A"), "KeyError", 1),
    ],
)
def test_every_error_has_a_line_and_a_code(error, said, code) -> None:
    if callable(error):
        try:
            error()
        except UnicodeError as raised:
            error = raised
    text, number = describe(error)
    assert said in text
    assert number == code
    assert "Mr. A" not in text


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (KeyboardInterrupt(), 130),
        (RecursionError(), 2),
        (OSError(28, "No space", "x"), 2),
        (KeyError("x"), 1),
    ],
)
def test_faults_while_running(fault, code, monkeypatch, capsys) -> None:
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr("mrrag_llamaindex.store.protocol.PairStore.open", fail)
    monkeypatch.setattr(sys, "argv", ["mrrag", "verify", "x"])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    one_line(capsys.readouterr().err)
    assert end.value.code == code


TERMINATED = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"


@pytest.mark.parametrize(
    ("fault", "code"), [("raise KeyboardInterrupt", 130), ("raise KeyError", 1), (TERMINATED, 143)]
)
def test_faults_while_importing(fault, code) -> None:
    program = (
        "import sys, importlib.abc\n"
        "class Hook(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'mrrag_llamaindex.commands.app':\n"
        f"            {fault}\n"
        "sys.meta_path.insert(0, Hook())\n"
        "from mrrag_llamaindex.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    one_line(done.stderr)
    assert done.returncode == code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_signals_while_running(number, said, code) -> None:
    program = (
        "import mrrag_llamaindex.store.protocol as p, time\n"
        "def wait(*_, **__):\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "p.PairStore.open = wait\n"
        # Whoever starts the tests in the background ignores the signal, and so would this process.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; sys.argv = ['mrrag', 'verify', 'x']\n"
        "from mrrag_llamaindex.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert one_line(err) == f"error: {said}"
    assert process.returncode == code


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_output_that_cannot_be_written_is_no_success() -> None:
    for redirection, said in ((">/dev/full", "the disk is full"), (">&-", "output is closed")):
        command = f"{sys.executable} -m mrrag_llamaindex.cli --version {redirection}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert said in one_line(done.stderr)
        assert done.returncode == 2


def test_reader_that_leaves_ends_it_quietly() -> None:
    command = f"{sys.executable} -m mrrag_llamaindex.cli --help | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_store_below_a_file_is_one_line(mrrag, corpus) -> None:
    below = corpus.table / "store"
    result = mrrag("ingest", corpus.table, "--store", below, "--towers", "phantom")
    assert result.code == 2
    one_line(result.err)


def test_question_with_surrogates_is_refused(mrrag, corpus) -> None:
    options = ("--store", corpus.store, "--image", corpus.image, "--model", "phantom")
    result = mrrag("ask", "Is there \udce9?", *options)
    assert result.code == 2
    assert "the question contains characters" in one_line(result.err)


def test_address_with_blanks_is_refused(mrrag, corpus) -> None:
    options = ("--image", corpus.image, "--model", "phantom")
    for url in ("http://local host:8000", "http:/x:1", " http://h:1"):
        result = mrrag("ask", "Is there?", "--store", url, *options)
        assert result.code == 2
        assert "not a server address" in one_line(result.err)


IDS = ["[/bold]", "[red]A17", "[link=http://evil.example]B", "a\x1b[2J", ":warning:", "\u202eback"]


@pytest.mark.parametrize("pair_id", IDS)
def test_ids_are_shown_as_they_are_and_never_obeyed(pair_id, corpus, capsys) -> None:
    from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA, Pair
    from mrrag_llamaindex.integration.answers.ask import ask

    index = MRRAGIndex.from_pairs([Pair(str(corpus.image), "No effusion.", pair_id, "p")])
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
    console.print_answer(ask(index, llm, corpus.image, "Is there a fracture?").as_dict())
    out = capsys.readouterr().out
    assert plain(pair_id) in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_reasons_and_errors_hold_no_escape_codes(capsys) -> None:
    console.say("error", "row \x1b]0;title\x07 [red]x[/red]")
    assert capsys.readouterr().err == "error: row \\x1b]0;title\\x07 [red]x[/red]\n"
