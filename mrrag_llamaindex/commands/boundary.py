"""Where every error of ``mrrag`` ends: one line on standard error, and an exit code.

2 for what the user can mend, 1 for a fault of the program, 130 and 143 for what was interrupted or
terminated, 141 where nobody reads the output any more. Imports nothing but the standard library,
because importing the rest can be interrupted, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

TRACEBACK: Final = "MRRAG_TRACEBACK"
"""Set it to 1 for the traceback of what the program did not expect."""

_REASONS: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "access is denied",
    errno.EPERM: "access is denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ELOOP: "the path leads round in a circle",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open",
}
_FORMAT: Final = frozenset("\u200b\u2028\u2029\ufeff")


class Terminated(BaseException):
    """SIGTERM; a `BaseException`, so that everything is cleaned up and nothing goes on."""


@contextlib.contextmanager
def boundary() -> Iterator[None]:
    """Turn whatever the block raises into one line and `SystemExit`."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (until the process ends)
    if sys.stdout is None:
        _leave("error", "standard output is closed", 2)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:
        if os.environ.get(TRACEBACK):
            raise
        text, code = describe(error)
        if code == 141:
            discard(sys.stdout)
            raise SystemExit(code) from None
        _leave("error", text, code)


def describe(error: BaseException) -> tuple[str, int]:
    """Return the line for an error, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, Terminated):
        return "terminated", 143
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output", 141
    if isinstance(error, RecursionError):
        return "the input is nested too deeply", 2
    if isinstance(error, MemoryError):
        return "the memory of this machine does not suffice", 2
    if isinstance(error, UnicodeError):
        return "a text holds characters that are not valid Unicode", 2
    if isinstance(error, OSError) and error.errno is not None:
        reason = _REASONS.get(error.errno, error.strerror or type(error).__name__)
        name = "" if error.filename is None else f"{os.fspath(error.filename)!r}: "
        return f"{name}{reason}", 2
    from mrrag_llamaindex.errors import MRRAGError

    if isinstance(error, (MRRAGError, ValueError)):
        return str(error), 2
    # What other exceptions say may quote a report.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = ""
    if place is not None:
        file = Path(place.tb_frame.f_code.co_filename).name
        where = f" in {file}, line {place.tb_lineno}"
    return (
        f"the program failed ({type(error).__name__}{where}), which is a fault of its own; "
        f"{TRACEBACK}=1 shows where"
    ), 1


def plain(text: str) -> str:
    r"""Return text from outside as a terminal may show it: control characters are spelt out.

    Examples
    --------
    >>> plain("a\x1b[2J")
    'a\\x1b[2J'
    """
    return "".join(c if _harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    kind = unicodedata.category(character)
    # Joiners (Cf) belong to words of many scripts; what turns the direction of writing does not.
    if kind == "Cf":
        return character not in _FORMAT and not (
            "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
        )
    return kind not in ("Cc", "Cs", "Zl", "Zp")


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def _leave(kind: str, text: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        print(f"{kind}: {plain(' '.join(text.split()))}", file=sys.stderr)
        sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.flush()
    if sys.stdout is not None:
        discard(sys.stdout)
    raise SystemExit(code)


def discard(stream: Any) -> None:
    """Let what is still buffered go nowhere: the interpreter would complain about it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
