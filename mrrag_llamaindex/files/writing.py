"""What the system says against writing, out of the words of libraries that write for us."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBER = re.compile(r"\(os error (\d+)\)")
"""As Rust's standard library ends the message of an error of the system."""


@contextmanager
def system_errors() -> Iterator[None]:
    """Let a full disk be an `OSError`, where safetensors would raise an error of its own.

    Raises
    ------
    OSError
        With the number that the library's message names.
    """
    try:
        yield
    except Exception as error:
        match = _NUMBER.search(str(error))
        if match is None or isinstance(error, OSError):
            raise
        number = int(match[1])
        raise OSError(number, os.strerror(number)) from error
