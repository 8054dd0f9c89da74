"""How the place of a store may be shown: URLs hold passwords."""

from __future__ import annotations

import re
from typing import Final

from mrrag_llamaindex.errors import InputError

_ENDING: Final = re.compile(r"memory|numpy|qdrant:(//)?:memory:")


def without_password(where: str) -> str:
    """Return a place without a URL's user, password and options.

    Examples
    --------
    >>> without_password("postgresql://ward:secret@db.example:5432/cases?sslmode=verify-full")
    'postgresql://db.example:5432/cases'
    >>> without_password("my/store")
    'my/store'
    >>> without_password("postgresql://db.example/cases?user=ward&password=s@cret")
    'postgresql://...'
    """
    scheme, separator, rest = where.partition("://")
    if not separator:
        return where
    # Up to the last @, for a password may hold one that was not escaped.
    before, _, shown = rest.rpartition("@")
    if "?" in before:  # a user's password or an option's: nothing says which
        shown = "..."
    return scheme + separator + re.split("[?#]", shown)[0]


def require_kept(where: str) -> None:
    """Raise `InputError` for a place in a process's memory, whose pairs end with the command.

    Examples
    --------
    >>> require_kept("my/store")
    >>> require_kept("qdrant::memory:")
    Traceback (most recent call last):
        ...
    mrrag_llamaindex.errors.InputError: the store qdrant::memory: would end with this command: ...
    """
    if _ENDING.fullmatch(where.strip()):
        raise InputError(
            f"the store {where.strip()} would end with this command: name a folder or a server "
            "(a folder of that name is ./memory)"
        )
