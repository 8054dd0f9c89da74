"""How the place of a store may be shown: URLs hold passwords."""

from __future__ import annotations


def without_password(where: str) -> str:
    """Return a place without a URL's user, password and options.

    Examples
    --------
    >>> without_password("postgresql://ward:secret@db.example:5432/cases?sslmode=verify-full")
    'postgresql://db.example:5432/cases'
    >>> without_password("my/store")
    'my/store'
    """
    scheme, separator, rest = where.partition("://")
    if not separator:
        return where
    # Up to the last @, for a password may hold one, or a question mark, that was not escaped.
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]
