"""Which server and database a ``postgresql://`` URL means, and how it may be named.

Passwords stand in URLs. Nothing here quotes one: errors, logs and names show host, port and
database only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mrrag_llamaindex.errors import StoreError

if TYPE_CHECKING:
    from types import ModuleType

CONNECT_SECONDS: Final = 5
"""To each of a server's addresses."""

_INSTALL: Final = 'pip install "mrrag-llamaindex[postgres]"'


@dataclass(frozen=True)
class Address:
    """A parsed URL.

    Parameters
    ----------
    name
        ``postgresql://host:port/database``, for people.
    parameters
        Those of libpq, the password among them; not part of the representation.
    """

    name: str
    parameters: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, where: str) -> Address:
        """Return what a URL means; reads the environment as libpq does, and connects to nothing.

        Raises
        ------
        StoreError
            If it is no such URL, or psycopg is not installed. The URL is not repeated.
        """
        psycopg = driver()
        url = where.strip()
        scheme, _, rest = url.partition(":")
        if any(character.isspace() or not character.isprintable() for character in url):
            raise _unusable("it holds blanks")
        if not rest.startswith("//"):
            raise _unusable("two slashes follow the colon")
        try:
            parameters = dict(psycopg.conninfo.conninfo_to_dict(f"{scheme.lower()}:{rest}"))
            port = parameters.get("port")
            if port is not None and not all(
                part.isdigit() for part in str(port).split(",") if part
            ):
                raise ValueError
        # What libpq says of it may repeat any part, the password included.
        except (psycopg.Error, ValueError, UnicodeError):
            raise _unusable("libpq cannot read it") from None
        if urlsplit(url).fragment:
            raise _unusable("a # in a password is written %23")
        # libpq takes what follows the first @ or / of a password for a host or a database.
        if any("@" in str(parameters.get(key) or "") for key in ("host", "dbname")):
            raise _unusable("an @ is written %40, a / in a password %2F")
        parameters.setdefault("connect_timeout", CONNECT_SECONDS)
        parameters.setdefault("fallback_application_name", "mrrag")
        parameters["client_encoding"] = (
            "UTF8"  # whatever PGCLIENTENCODING says: reports are Unicode
        )
        return cls(_name(parameters), parameters)


def driver() -> ModuleType:
    """Return psycopg.

    Raises
    ------
    StoreError
        If it is not installed.
    """
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise StoreError(
            f"a store in PostgreSQL needs psycopg ({type(error).__name__}): {_INSTALL}"
        ) from None
    return psycopg


def _name(parameters: dict[str, Any]) -> str:
    import os

    host = parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST")
    port = parameters.get("port") or os.environ.get("PGPORT")
    user = parameters.get("user") or os.environ.get("PGUSER")
    database = parameters.get("dbname") or os.environ.get("PGDATABASE") or user or ""
    host = str(host or "localhost")
    shown = f"[{host}]" if ":" in host else host
    return f"postgresql://{shown}{f':{port}' if port else ''}/{database}"


def _unusable(reason: str) -> StoreError:
    return StoreError(
        f"the store's address is not usable ({reason}): expected "
        "postgresql://user@host:port/database; special characters in a name or a password are "
        "written as %XX, and a password is better kept in ~/.pgpass or PGPASSWORD"
    )
