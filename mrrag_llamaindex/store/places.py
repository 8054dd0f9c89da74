"""How the place of a store may be shown: URLs hold passwords."""

from __future__ import annotations

import re


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
