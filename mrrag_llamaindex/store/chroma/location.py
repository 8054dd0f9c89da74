"""Where a pair store lives: in memory, in a folder, behind a Chroma server, or in a given client.

Opening looks and never makes: no attempt to read a store leaves anything on disk. Every failure
becomes a `StoreError` that names the place.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.store.backends import MEMORY, DatabaseClient, Where, store_errors

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

SERVER_TIMEOUT = 5.0
"""Seconds to wait for a Chroma server's first sign of life."""

SQLITE_FILE = "chroma.sqlite3"
_SQLITE_MAGIC = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Location:
    """A parsed place: exactly one of `folder`, `url` and `client` is set, or none for memory."""

    name: str
    folder: Path | None = None
    url: str | None = None
    client: ClientAPI | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the store lives in this process's memory only."""
        return self.folder is None and self.url is None and self.client is None

    @classmethod
    def parse(cls, where: Where) -> Location:
        """Return the location that `where` means; touches neither disk nor network."""
        if isinstance(where, str) and where == MEMORY:
            return cls("the store in memory")
        if isinstance(where, str) and where.startswith(("http://", "https://")):
            return cls(where, url=where)
        if isinstance(where, str) and "://" in where:
            raise StoreError(
                f"no back end of this version keeps a store at {urlsplit(where).scheme}://"
            )
        if isinstance(where, (str, os.PathLike)):
            if not os.fspath(where):
                raise StoreError('the store\'s place is empty: give a folder, a URL or "memory"')
            return cls(
                f"the store {os.fspath(where)!r}", folder=Path(where).expanduser().absolute()
            )
        if isinstance(where, DatabaseClient):
            return cls("the given Chroma client", client=cast("ClientAPI", where))
        raise StoreError(
            f"a store cannot be opened from a {type(where).__name__}: give a folder, "
            '"http://host:port", "memory" or a (synchronous) chromadb client'
        )

    @contextlib.contextmanager
    def connected(self) -> Iterator[ClientAPI]:
        """Yield a client, and close it if the block fails."""
        client = self._connect()
        try:
            yield client
        except BaseException:
            self.release(client)
            raise

    def release(self, client: Any) -> None:
        """Close a client, unless it is the application's own."""
        if self.client is None:
            client.stop() if self.in_memory else client.close()

    def _connect(self) -> ClientAPI:
        """Return a Chroma client; makes the folder when there is none (see `check_readable`)."""
        if self.client is not None:
            return self.client
        if self.url is not None:
            return _server_client(self.url)
        assert self.folder is not None
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.name} is a file; a store is a folder")
        return _folder_client(self.folder, self.name)

    def check_readable(self) -> None:
        """Raise `StoreError` if a folder holds no Chroma database; makes nothing.

        Chroma itself would create the folder, or turn any SQLite file named like its own into a
        database of its own.
        """
        if self.in_memory:
            raise StoreError(
                "a store in memory cannot be opened again: it ends with the object that made it"
            )
        if self.folder is None:
            return
        if not self.folder.is_dir():
            state = "is a file, not a store" if self.folder.exists() else "does not exist"
            raise StoreError(f"{self.name} {state}: make it with `mrrag ingest`")
        if not self.has_database():
            raise StoreError(
                f"{self.name} is not a store (the folder holds no Chroma database): "
                "make one with `mrrag ingest`, or give another folder"
            )

    def has_database(self) -> bool:
        """Return whether the folder holds a Chroma database, looking only."""
        if self.folder is None:
            return False
        file = self.folder / SQLITE_FILE
        try:
            with file.open("rb") as handle:
                if handle.read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
                    return False
            with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
                query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'collections'"
                return db.execute(query).fetchone() is not None
        except sqlite3.OperationalError:
            return True  # e.g. a journal left by a kill, which only a writer may roll back
        except (OSError, sqlite3.Error):
            return False


def settings() -> Any:
    """Return the Chroma settings of every client that we make."""
    from chromadb.config import Settings

    return Settings(anonymized_telemetry=False)


_embedded: ForkGuard | None = None
"""Of the process that has started a Chroma of its own."""


def start_embedded() -> None:
    """Note that this process runs Chroma itself; raise `StoreError` behind a fork of one that did.

    There, not even another folder can be opened.
    """
    global _embedded
    _embedded = _embedded or ForkGuard()
    _embedded.check("a store was", StoreError)


def _folder_client(folder: Path, name: str) -> ClientAPI:
    import chromadb

    start_embedded()
    with store_errors(f"opening {name}", detail=True):
        try:
            client = chromadb.PersistentClient(path=folder, settings=settings())
        except ValueError:
            # Chroma keeps one system per folder and process. The application has opened this
            # folder with default settings, so those are the only ones that it accepts now.
            client = chromadb.PersistentClient(path=folder)
    if not (folder / SQLITE_FILE).exists():
        # That kept system still answers from the files that it has open, deleted or not.
        cast(Any, client).close()
        raise StoreError(
            f"{name} was deleted while this process has it open: close whatever has it open "
            "(store.close()), or start a new process"
        )
    return client


def _server_client(url: str) -> ClientAPI:
    import chromadb

    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if not parts.hostname or port == -1 or parts.path.strip("/") or parts.query or parts.username:
        raise StoreError(
            f"{url!r} is not a server address: expected http://host:port; for anything else "
            "(headers, tenants) pass a chromadb.HttpClient"
        )
    secure = parts.scheme == "https"
    port = port or (443 if secure else 8000)
    # Chroma's client waits without limit, so its first contact is made here, with one.
    address = f"{parts.scheme}://{parts.netloc if parts.port else f'{parts.hostname}:{port}'}"
    try:
        with urllib.request.urlopen(f"{address}/api/v2/heartbeat", timeout=SERVER_TIMEOUT):
            pass
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise StoreError(
            f"no Chroma server answers at {url} ({reason}): start one with "
            f"`chroma run --path FOLDER --host 127.0.0.1 --port {port}`, or give a folder"
        ) from None
    with store_errors(f"connecting to {url}", detail=True):
        return chromadb.HttpClient(host=parts.hostname, port=port, ssl=secure, settings=settings())
