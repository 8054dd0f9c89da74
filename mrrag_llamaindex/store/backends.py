"""Which back end keeps a store, by what its place is: one row for each."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

MEMORY: Final = "memory"
"""The place of a store that ends with the process (a folder of that name is ``./memory``)."""

EXACT: Final = "numpy"
"""The place of a store in memory that is searched by an exact scan."""


@runtime_checkable
class DatabaseClient(Protocol):
    """A client that the application has made itself: a synchronous one of chromadb."""

    def heartbeat(self) -> int:
        """Answer if the database is there."""
        ...

    def get_collection(self, name: str, *, embedding_function: Any = ...) -> Any:
        """Return a collection."""
        ...


Where: TypeAlias = str | os.PathLike[str] | DatabaseClient
"""`MEMORY`, `EXACT`, a folder, ``"http://host:port"``, or a client."""


@dataclass(frozen=True)
class Backend:
    """A row: which places are its own, and the `PairStore` that keeps them (module:class)."""

    takes: Callable[[Where], bool]
    store: str


BACKENDS: Final = (
    Backend(lambda where: where == EXACT, "mrrag_llamaindex.store.memory:NumpyPairStore"),
    # Whatever nothing else takes: memory, a folder, a server, a client.
    Backend(lambda where: True, "mrrag_llamaindex.store.chroma.store:ChromaPairStore"),
)


def backend_of(where: Where) -> Any:
    """Return the class that keeps a store at a place; its module is imported now, not before."""
    return pkgutil.resolve_name(next(row.store for row in BACKENDS if row.takes(where)))
