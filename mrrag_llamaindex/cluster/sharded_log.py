"""One log that many processes write: a shard for each part, put together in the parts' order.

A shard is a log like the whole one, beside it in ``NAME.shards``. What a killed worker has written
stays there, and whoever takes over goes on behind it; a shard whose records all stand in the whole
log is removed. So at any moment the whole log is one that a single process might have left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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


def fill(
    log: LineLog[Header, Record],
    keys: Sequence[str],
    pool: Pool,
    write: Function,
    *,
    size: int,
    item_of: Callable[[int], Any],
    about: Any = None,
) -> Iterator[tuple[int, Any]]:
    """Have workers make the records that a log lacks, and append them in order.

    Parameters
    ----------
    log : LineLog
    keys : sequence of str
        Of all records, in their order.
    pool : Pool
    write : Function
        Takes a `Shard`, writes it, and returns what is to be known of it apart from its records.
    size : int
        Records of a shard.
    item_of : callable
        From a place in ``keys`` to what the record is made from.
    about : object
        See `Shard`.

    Yields
    ------
    tuple of (int, object)
        For each shard in turn, how many of ``keys`` are dealt with, and what ``write`` returned;
        None where there was nothing left to do.

    Raises
    ------
    ClusterError
        If a worker's shard is not seen here.
    """
    folder = log.path.with_name(f"{log.path.name}.shards").absolute()
    starts = range(0, len(keys), size)

    def path_of(start: int) -> Path:
        return folder / f"{start:09}-{size}.jsonl"

    def missing(start: int) -> list[int]:
        places = range(start, min(start + size, len(keys)))
        return [place for place in places if keys[place] not in log.keys]

    def lacks_work(start: int) -> bool:
        places = missing(start)
        if not places or not path_of(start).exists():
            return not places
        # Opened as its writer would: what is torn or of another run is seen now.
        with LineLog(path_of(start), log.form, log.header, wait=_WAIT_SECONDS) as shard:
            return all(keys[place] in shard.keys for place in places)

    todo = [start for start in starts if not lacks_work(start)]

    def shards() -> Iterator[Shard[Header, Record]]:
        for start in todo:
            places = missing(start)
            names, items = tuple(keys[n] for n in places), tuple(map(item_of, places))
            yield Shard(path_of(start), log.form, log.header, names, items, about)

    results = pool.run(write, shards())
    waits = set(todo)
    for start in starts:
        result = next(results) if start in waits else None
        places = missing(start)
        if places:
            _append(log, path_of(start), [keys[place] for place in places])
        yield min(start + size, len(keys)), result
    with contextlib.suppress(OSError):
        folder.rmdir()


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
