"""Where a pair store lives: in memory, in a folder, behind a Chroma server, or in a given client.

Opening looks and never makes: no attempt to read a store leaves anything on disk. Every failure
becomes a `StoreError` that names the place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.store.backends import MEMORY, DatabaseClient, Where, store_errors
from mrrag_llamaindex.store.chroma.integrity import SQLITE_FILE
from mrrag_llamaindex.store.chroma.server import connect

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

logger = logging.getLogger(__name__)

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
        if isinstance(where, str) and where.strip().lower().startswith(("http:/", "https:/")):
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

    def make_folder(self) -> None:
        """Make the folder, if there is none, for this user alone: it holds reports."""
        assert self.folder is not None
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.name} is a file; a store is a folder")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.name} cannot be made ({error.strerror or error}): give another folder"
            ) from None

    def database_file(self) -> tuple[int, int] | None:
        """Return what tells a folder's database from any other file, `None` without one."""
        if self.folder is None:
            return None
        try:
            state = (self.folder / SQLITE_FILE).stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino

    def openable(self) -> tuple[Location, tempfile.TemporaryDirectory[str] | None]:
        """Return where Chroma can open this store, and what is to be removed after it.

        Chroma writes even when it reads: in place of a folder that cannot be written it gets a
        private copy of the database. The index, which is larger, stays where it is.

        Raises
        ------
        StoreError
            If the copy cannot be made.
        """
        if self.folder is None or all(
            os.access(path, os.W_OK) for path in (self.folder, self.folder / SQLITE_FILE)
        ):
            return self, None
        logger.warning("%s cannot be written: it is opened for reading, in a copy", self.name)
        copy = tempfile.TemporaryDirectory(prefix="mrrag-store-")
        try:
            target = Path(copy.name)
            source = f"{(self.folder / SQLITE_FILE).as_uri()}?mode=ro"
            with (
                contextlib.closing(sqlite3.connect(source, uri=True)) as original,
                contextlib.closing(sqlite3.connect(target / SQLITE_FILE)) as database,
            ):
                original.backup(database)
            for index in self.folder.iterdir():
                if index.is_dir():
                    (target / index.name).symlink_to(index, target_is_directory=True)
        except (OSError, sqlite3.Error) as error:
            copy.cleanup()
            raise StoreError(
                f"{self.name} cannot be written, and no copy of its database can be made in "
                f"{tempfile.gettempdir()} ({error}): set TMPDIR to a folder with room for it"
            ) from None
        return replace(self, folder=target), copy

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
            return connect(self.url, settings())
        assert self.folder is not None
        self.make_folder()
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
    fresh = not (folder / SQLITE_FILE).exists()
    with store_errors(f"opening {name}", detail=True):
        try:
            client = chromadb.PersistentClient(path=folder, settings=settings())
        except ValueError:
            # Chroma keeps one system per folder and process. The application has opened this
            # folder with default settings, so those are the only ones that it accepts now.
            client = chromadb.PersistentClient(path=folder)
    if fresh and (folder / SQLITE_FILE).exists():
        (folder / SQLITE_FILE).chmod(0o600)  # it holds reports
    if not (folder / SQLITE_FILE).exists():
        # That kept system still answers from the files that it has open, deleted or not.
        cast(Any, client).close()
        raise StoreError(
            f"{name} was deleted while this process has it open: close whatever has it open "
            "(store.close()), or start a new process"
        )
    return client
