"""One log that many processes write: a shard for each part, put together in the parts' order.

A shard is a log like the whole one, beside it in ``NAME.shards``. What a killed worker has written
stays there, and whoever takes over goes on behind it; a shard whose records all stand in the whole
log is removed. So at any moment the whole log is one that a single process might have left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic

from mrrag_llamaindex.cluster.pool import Function, Pool
from mrrag_llamaindex.errors import ClusterError
from mrrag_llamaindex.files.line_format import Header, LineFormat, Record
from mrrag_llamaindex.files.line_log import LineLog

_WAIT_SECONDS = 30.0
"""For the lock of a shard: a worker that has just been killed may not be gone yet."""


@dataclass(frozen=True)
class Shard(Generic[Header, Record]):
    """What a worker writes of a log.

    Attributes
    ----------
    path : pathlib.Path
    form : LineFormat
    header : dataclass
        That of the whole log.
    keys : tuple of str
        Of its records.
    items : tuple
        What each record is made from.
    about : object
        What else the worker must know.
    """

    path: Path
    form: LineFormat[Header, Record]
    header: Header
    keys: tuple[str, ...]
    items: tuple[Any, ...]
    about: Any = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[LineLog[Header, Record], list[Any]]]:
        """Open the shard's log, and yield it with the items that have no record in it yet."""
        with LineLog(self.path, self.form, self.header, wait=_WAIT_SECONDS) as log:
            pairs = zip(self.keys, self.items, strict=True)
            yield log, [item for key, item in pairs if key not in log.keys]


@dataclass(frozen=True)
class Sharded(Generic[Header, Record]):
    """A log, and how it is divided.

    Attributes
    ----------
    log : LineLog
    keys : sequence of str
        Of all its records, in their order.
    starts : sequence of int
        Where in ``keys`` each shard begins.
    item_of : callable
        From a place in ``keys`` to what the record is made from.
    about : object
        See `Shard`.
    """

    log: LineLog[Header, Record]
    keys: Sequence[str]
    starts: Sequence[int]
    item_of: Callable[[int], Any]
    about: Any = None

    @property
    def folder(self) -> Path:
        """Where the shards are."""
        return self.log.path.with_name(f"{self.log.path.name}.shards").absolute()

    def parts(self) -> Iterator[tuple[Path, int, list[int]]]:
        """Yield each shard's file, its number of keys, and the places that the whole log lacks."""
        for start, stop in pairwise([*self.starts, len(self.keys)]):
            missing = [n for n in range(start, stop) if self.keys[n] not in self.log.keys]
            yield self.folder / f"{start:09}-{stop - start}.jsonl", stop - start, missing

    def is_written(self, path: Path, missing: Sequence[int]) -> bool:
        """Whether a shard holds all that the log lacks of it."""
        if not missing or not path.exists():
            return not missing
        # Opened as its writer would: what is torn or of another run is seen now.
        with LineLog(path, self.log.form, self.log.header, wait=_WAIT_SECONDS) as shard:
            return all(self.keys[place] in shard.keys for place in missing)

    def shard(self, path: Path, missing: Sequence[int]) -> Shard[Header, Record]:
        """Return what a worker is to write."""
        keys = tuple(self.keys[place] for place in missing)
        items = tuple(map(self.item_of, missing))
        return Shard(path, self.log.form, self.log.header, keys, items, self.about)


def fill(
    logs: Sequence[Sharded[Any, Any]], pool: Pool, write: Function
) -> Iterator[tuple[Sharded[Any, Any], int, Any]]:
    """Have workers make the records that some logs lack, and append them in order.

    Parameters
    ----------
    logs : sequence of Sharded
    pool : Pool
    write : Function
        Takes a `Shard`, writes it, and returns what is to be known of it apart from its records.

    Yields
    ------
    tuple of (Sharded, int, object)
        For each shard in turn, its log, how many keys it has, and what ``write`` returned; None
        where nothing was left to do.

    Raises
    ------
    ClusterError
        If a worker's shard is not seen here.
    """
    parts = [(log, *part) for log in logs for part in log.parts()]
    todo = {
        path: (log, missing) for log, path, _, missing in parts if not log.is_written(path, missing)
    }
    results = pool.run(write, (log.shard(path, lacks) for path, (log, lacks) in todo.items()))
    for log, path, count, missing in parts:
        result = next(results) if path in todo else None
        if missing:
            _append(log.log, path, [log.keys[place] for place in missing])
        yield log, count, result
    for log in logs:
        with contextlib.suppress(OSError):
            log.folder.rmdir()


def _append(log: LineLog[Header, Record], path: Path, keys: Iterable[str]) -> None:
    """Append the records of a shard in the order of the keys, and remove it."""
    if not path.exists():
        raise ClusterError(
            f"a worker has written {path.name}, and it is not seen here: the folder of "
            f"{log.path.name} must lie where all machines of the cluster find it"
        )
    records = {getattr(record, log.form.key): record for record in log.form.stream(path)}
    log.append([records[key] for key in keys if key in records])
    path.unlink()
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
