"""One collection in one place: made, found, locked for writing and let go.

A folder has one writing process at a time. Two that write leave a store on which Chroma crashes,
so the first write takes a file lock that ends with the process, however it ends. Reading takes no
lock; a reader in another process sees what was written when the writer has let go of the folder,
see `changes`. To share a store between processes that write, serve it with ``chroma run`` and open
its URL.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.store.backends import Where, store_errors
from mrrag_llamaindex.store.chroma.changes import OpenFolder, position_of
from mrrag_llamaindex.store.chroma.erasure import scrub_index
from mrrag_llamaindex.store.chroma.integrity import SQLITE_FILE, check_folder
from mrrag_llamaindex.store.chroma.location import (
    Location,
    settings,
    start_embedded,
)

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection
    from filelock import BaseFileLock

_LOCK_FILE = "mrrag-writer.lock"


class Connection:
    """An open collection and what must be closed after it.

    Made by `create` and `find`; not by its constructor.
    """

    def __init__(
        self,
        location: Location,
        collection: Collection,
        client: Any,
        *,
        lock: BaseFileLock | None = None,
        copy: TemporaryDirectory[str] | None = None,
        position: int | None = None,
    ) -> None:
        self.location = location
        self._name = collection.name
        self._collection: Collection | None = collection
        self._closed = False
        self._client = client  # of a store in memory, its System
        self._lock = lock
        self._copy = copy  # what is open in place of a folder that cannot be written
        self._file = location.database_file()
        self._guard = threading.Lock()
        self._process = ForkGuard()
        self._shared: OpenFolder | None = None
        if location.folder is not None:
            opened = location.folder if copy is None else Path(copy.name)
            self._shared = OpenFolder.of(opened, location.folder, position)
            self._shared.join(self)

    @classmethod
    def create(
        cls, where: Where, name: str, metadata: dict[str, Any], configuration: dict[str, Any]
    ) -> Connection:
        """Make a collection; for what is refused see `PairStore.create`."""
        location = Location.parse(where)
        if location.in_memory:
            return cls(location, *_memory_collection(name, metadata, configuration))
        with ExitStack() as undo:
            lock = None
            if location.folder is not None:
                location.make_folder()
                lock = _writer_lock(location)
                undo.callback(lock.release)
            with location.connected() as client:
                if _existing(client, name, location):
                    raise StoreError(
                        f"{location.name} already holds a collection {name!r}: open it, or choose "
                        "another name"
                    )
                with store_errors(f"creating collection {name!r} in {location.name}", detail=True):
                    collection = client.create_collection(
                        name,
                        metadata=metadata,
                        configuration=cast(Any, configuration),
                        embedding_function=None,
                    )
            undo.pop_all()
        return cls(location, collection, client, lock=lock)

    @classmethod
    def find(cls, where: Where, name: str) -> Connection:
        """Open an existing collection; never makes anything, see `PairStore.open`."""
        location = Location.parse(where)
        folder, position = location.folder, None
        if folder is not None:
            location.check_readable()
            position = position_of(folder / SQLITE_FILE)  # before it is opened: never too late
        collection, client, copy = cls._opened(location, name)
        return cls(location, collection, client, copy=copy, position=position)

    @staticmethod
    def _opened(
        location: Location, name: str
    ) -> tuple[Collection, Any, TemporaryDirectory[str] | None]:
        location.check_readable()
        if location.folder is not None:
            check_folder(location.folder, name, location.name)
        with ExitStack() as undo:
            place, copy = location.openable()
            if copy is not None:
                undo.callback(copy.cleanup)
            with place.connected() as client:
                collection = _existing(client, name, location)
                if collection is None:
                    with store_errors(f"listing {location.name}", detail=True):
                        names = sorted(item.name for item in client.list_collections(limit=20))
                    raise StoreError(
                        f"{location.name} has no collection {name!r}; it has: "
                        f"{', '.join(names) or 'none'}"
                    )
            undo.pop_all()
        return collection, client, copy

    @staticmethod
    def present(where: Where, name: str) -> bool:
        """Return whether the collection exists; makes nothing."""
        location = Location.parse(where)
        if location.in_memory or (location.folder is not None and not location.has_database()):
            return False
        place, copy = location.openable()
        with copy or nullcontext(), place.connected() as client:
            exists = _existing(client, name, location) is not None
            location.release(client)
        return exists

    @property
    def collection(self) -> Collection:
        """The raw Chroma collection."""
        self._check_place()
        if self._collection is None:
            raise StoreError(f"{self.location.name} has been closed")
        return self._collection

    def _check_place(self) -> None:
        self._process.check(f"{self.location.name} was", StoreError)
        # Chroma goes on answering, and taking pairs, in files that no longer have a name.
        if self.location.database_file() != self._file:
            raise StoreError(
                f"{self.location.name} was deleted or replaced while this process has it open, so "
                "nothing is read from it or written to it: close it (store.close()) and open it "
                "again"
            )

    @contextmanager
    def reading(self) -> Iterator[Collection]:
        """Give the collection for one call, with what other processes have written; not nested."""
        if self._shared is None or self._closed:
            yield self.collection
            return
        self._check_place()
        with self._shared.reading(self._quiet):
            yield self.collection

    @property
    def writes(self) -> bool:
        """Whether it has the folder for writing."""
        return self._lock is not None

    @contextmanager
    def _quiet(self) -> Iterator[bool]:
        """Keep other processes from writing; False if one does.

        A folder that cannot be written has no lock to take, and its copy is made between two
        writes.
        """
        if self._copy is not None:
            yield True
            return
        try:
            lock = _writer_lock(self.location)
        except StoreError:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def let_go(self) -> Any:
        """Close the client; returns what it was a client of, for `open_again`."""
        client, self._client = self._client, None
        copy, self._copy = self._copy, None
        collection, self._collection = self._collection, None
        if client is not None:
            self.location.release(client)
        if copy is not None:
            copy.cleanup()
        return None if collection is None else collection._client

    def open_again(self) -> Any:
        """Open what `let_go` has closed; returns what it is a client of."""
        self._check_place()
        self._collection, self._client, self._copy = self._opened(self.location, self._name)
        return self._collection._client

    def hold_for_writing(self) -> None:
        """Become the folder's one writing process; does nothing for other places.

        Raises
        ------
        StoreError
            If another process is writing, or the folder cannot be written.
        """
        if self._shared is None:
            return
        if self._copy is not None:
            raise StoreError(f"{self.location.name} cannot be written: it was opened for reading")
        with self._guard:
            if self._lock is None:
                lock = _writer_lock(self.location)
                try:
                    self._shared.catch_up()  # an older index would be saved over a newer one
                except BaseException:
                    lock.release()
                    raise
                self._lock = lock

    def scrub(self) -> None:
        """Fill with zeros what the folder's index files hold beyond their elements.

        Of a folder only, and not while another process writes, which does so itself behind its
        write.
        """
        assert self.location.folder is not None
        try:
            lock = _writer_lock(self.location)
        except StoreError:
            return
        try:
            scrub_index(self.location.folder)
        finally:
            lock.release()

    def close(self) -> None:
        """Release the lock and the client, if it is ours. May be called again.

        Behind a fork nothing is released: all of it belongs to the process that opened the store.
        """
        if self._process.behind_fork:
            return
        with self._guard:
            self._closed, self._collection = True, None
            client, self._client = self._client, None
            lock, self._lock = self._lock, None
            copy, self._copy = self._copy, None
            if self._shared is not None:
                self._shared.leave(self)
        with ExitStack() as rest:
            if copy is not None:
                rest.callback(copy.cleanup)
            if lock is not None:
                rest.callback(lock.release)
                if self._shared is not None:
                    rest.callback(self._shared.written)
            if client is not None:
                with store_errors(f"closing {self.location.name}", detail=True):
                    self.location.release(client)


def _writer_lock(location: Location) -> BaseFileLock:
    """Return the folder's lock, acquired; several stores of one process share it."""
    from filelock import FileLock, Timeout

    assert location.folder is not None
    lock = FileLock(
        location.folder / _LOCK_FILE, timeout=0, thread_local=False, is_singleton=True, mode=0o600
    )
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"another process is writing to {location.name}: wait until it has "
            "ended, or let both use one `chroma run` server"
        ) from None
    except OSError as error:
        raise StoreError(f"{location.name} cannot be written ({error.strerror or error})") from None
    return lock


def _memory_collection(
    name: str, metadata: dict[str, Any], configuration: dict[str, Any]
) -> tuple[Collection, Any]:
    """Return a collection in a Chroma system of its own.

    `chromadb.EphemeralClient` is one shared database per process: two stores would see each
    other's pairs, and an application's client with other settings would be refused. A separate
    system has neither trouble, and its memory goes when the store does.
    """
    from chromadb.api import ServerAPI
    from chromadb.api.models.Collection import Collection
    from chromadb.config import System

    start_embedded()
    with store_errors("creating a store in memory", detail=True):
        system = System(settings())
        server = system.instance(ServerAPI)  # type: ignore[type-abstract]  # Chroma's own idiom
        system.start()
        model = server.create_collection(
            name=name, metadata=metadata, configuration=cast(Any, configuration)
        )
        return Collection(client=server, model=model, embedding_function=None), system


def _existing(client: ClientAPI, name: str, location: Location) -> Collection | None:
    from chromadb.errors import NotFoundError

    with store_errors(f"looking for collection {name!r} in {location.name}", detail=True):
        try:
            return client.get_collection(name, embedding_function=None)
        except NotFoundError:
            return None
