"""What a back end does, and which one keeps a store: one row for each, by what its place is."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import MRRAGError, StoreError
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.hits import Exclusion, StoredPair
from mrrag_llamaindex.store.schema import StoreSchema

MEMORY: Final = "memory"
"""The place of a store that ends with the process (a folder of that name is ``./memory``)."""

EXACT: Final = "numpy"
"""The place of a store in memory that is searched by an exact scan."""


POSTGRES: Final = ("postgresql:", "postgres:")
"""How the URL of a PostgreSQL server begins."""


@runtime_checkable
class DatabaseClient(Protocol):
    """A client that the application has made itself: a synchronous one of chromadb."""

    def heartbeat(self) -> int:
        """Answer if the database is there."""
        ...

    def get_collection(self, name: str, *, embedding_function: Any = ...) -> Any:
        """Return a collection."""
        ...


@runtime_checkable
class VectorStore(Protocol):
    """LlamaIndex's `BasePydanticVectorStore`, an application's own."""

    stores_text: bool

    def add(self, nodes: Any, **options: Any) -> list[str]:
        """Write nodes."""
        ...

    def delete_nodes(self, node_ids: Any = None, filters: Any = None, **options: Any) -> None:
        """Remove nodes."""
        ...

    def query(self, query: Any, **options: Any) -> Any:
        """Return the nodes that are nearest."""
        ...


Where: TypeAlias = str | os.PathLike[str] | DatabaseClient | VectorStore
"""`MEMORY`, `EXACT`, a folder, a URL, a client, or a vector store of LlamaIndex."""

_LLAMAINDEX: Final = "mrrag_llamaindex.store.llamaindex"
_ENGINES: Final = re.compile(r"(qdrant|milvus)(\+\w+)?:")


def _of_llamaindex(where: Where) -> bool:
    if isinstance(where, str):
        return _ENGINES.match(where.strip()) is not None
    return isinstance(where, VectorStore)


BACKENDS: Final[Sequence[tuple[Callable[[Where], bool], str]]] = (
    (lambda where: where == EXACT, "mrrag_llamaindex.store.numpy.store:NumpyPairStore"),
    (
        lambda where: isinstance(where, str) and where.strip().lower().startswith(POSTGRES),
        "mrrag_llamaindex.store.postgres.store:PostgresPairStore",
    ),
    (lambda where: _of_llamaindex(where), f"{_LLAMAINDEX}.store:VectorStorePairStore"),
    # Whatever nothing else takes: memory, a folder, a server, a client.
    (lambda where: True, "mrrag_llamaindex.store.chroma.store:ChromaPairStore"),
)
"""Which places a back end takes, and its `PairStore` as module:class; the first that takes one."""


def backend_of(where: Where) -> Any:
    """Return the class that keeps a store at a place; its module is imported now, not before."""
    return pkgutil.resolve_name(next(store for takes, store in BACKENDS if takes(where)))


class NoPlaceError(StoreError):
    """A store cannot keep what was learned for it; nothing has failed."""


class Backend(ABC):
    """Raw operations on ids, vectors and records.

    Vectors and ids have been checked, ids are distinct, and whatever is raised here becomes a
    `StoreError`.
    """

    _leaves_out: ClassVar[bool] = False
    """Whether `_nearest` itself leaves out what is excluded and what a filter does not match, so
    that no more candidates are asked for than are wanted."""

    @classmethod
    @abstractmethod
    def _create(cls, where: Where, collection: str, schema: StoreSchema) -> Self:
        """Make an empty collection that keeps the schema; refuse one that exists."""

    @classmethod
    @abstractmethod
    def _open(cls, where: Where, collection: str) -> Self:
        """Open a collection, make nothing, and refuse what does not rank by inner product."""

    @classmethod
    @abstractmethod
    def _exists(cls, where: Where, collection: str) -> bool:
        """Return whether there is such a collection; make nothing."""

    @abstractmethod
    def close(self) -> None:
        """Release the place; a store in memory ends here. May be called again."""

    def _check_open(self) -> None:
        """Raise if the place is gone; called often."""
        self._count()

    @abstractmethod
    def _count(self) -> int:
        """Return the number of pairs."""

    @abstractmethod
    def _pair_ids(self) -> Iterable[str]:
        """Return the ids of all pairs, in the order in which they were added."""

    @abstractmethod
    def _fetch(self, pair_ids: Sequence[str], *, complete: bool) -> Iterable[StoredPair]:
        """Return those of the pairs that exist, in any order.

        `complete`: with vectors and reports; else these may be empty.
        """

    @abstractmethod
    def _nearest(
        self,
        vector: NDArray[np.float32],
        count: int,
        filters: Filter | None,
        *,
        complete: bool,
        width: int = 0,
        exclude: Exclusion | None = None,
    ) -> Sequence[tuple[float, StoredPair]]:
        """Return the `count` pairs of largest inner product with `vector`, shape (2n,), with it.

        In any order; fewer only if there are no more. `filters` and `exclude` may narrow the
        search, as far as the back end can be sure to lose no match: every pair is compared with
        them afterwards. An index that does not look at every pair keeps at least `width`
        candidates.
        """

    @abstractmethod
    def _write(self, pairs: Sequence[StoredPair]) -> None:
        """Write pairs, each replacing the whole of what its id held."""

    def _learned(self, name: str) -> str | None:
        """Return what a store without a folder keeps of what was learned for it, None for nothing.

        By default it keeps nothing; `name` is a file's.
        """
        return None

    def _keep_learned(self, name: str, text: str) -> None:
        """Keep it, in place of an earlier one."""
        raise NoPlaceError(f"there is no place in this store for {name}")

    def _check_contents(self) -> int:
        """Check what lies on disk beneath the records; return how many have no checksum.

        By default there is nothing to look at.
        """
        return 0

    @abstractmethod
    def _delete(self, pair_ids: Sequence[str]) -> None:
        """Remove those of the pairs that exist."""

    def _erase_replaced(self) -> None:  # noqa: B027 (nothing is left where nothing lies on a disk)
        """Overwrite what is left of pairs that were written anew."""


@contextlib.contextmanager
def store_errors(action: str, *, detail: bool = False) -> Iterator[None]:
    """Turn whatever a back end raises into a `StoreError` that says what was being done.

    Parameters
    ----------
    action
        E.g. ``"querying the store"``.
    detail
        Whether the back end's own message may be quoted. Not while reports or metadata are in
        hand: it may repeat them.
    """
    try:
        yield
    except MRRAGError:
        raise
    except Exception as error:
        message = f": {error}" if detail else ""
        raise StoreError(f"{action} failed ({type(error).__name__}{message})") from error
    except BaseException as error:
        # A crash in Chroma's Rust code is a BaseException; interrupts must pass.
        if type(error).__name__ != "PanicException":
            raise
        raise StoreError(f"{action} failed: the back end crashed; it may be damaged") from error
