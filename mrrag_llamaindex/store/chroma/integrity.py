"""Whether a store's folder is as it was written: files, counts, and every vector and report.

Nothing here is asked of Chroma, which trusts its files: what is damaged is found before they are
loaded. Records carry a checksum (see `record`), so that a flipped bit is no other patient's report.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.checksums import text_checksum, vector_checksum
from mrrag_llamaindex.store.chroma.index_files import Damage, IndexFiles
from mrrag_llamaindex.store.chroma.record import CHECKSUM_KEY

SQLITE_FILE: Final = "chroma.sqlite3"

CHEAP_PAIRS: Final = 20_000
"""Up to this many pairs are all compared on opening, in about a second."""

CHEAP_BYTES: Final = 200_000_000
"""Up to this size the database's own structure is checked on opening."""

_ATTEMPTS = 4
_PAUSE = 0.3
_BUSY = 30.0
_DELETE = 3  # the operation's number in Chroma's log


@dataclass(frozen=True)
class FolderCheck:
    """What was compared.

    Parameters
    ----------
    pairs
        In the collection.
    compared
        Of them, those whose report and vector were compared with their checksums.
    unmarked
        Those without checksums, because an earlier release or another program wrote them.
    """

    pairs: int
    compared: int
    unmarked: int


def check_folder(
    folder: Path, collection: str, name: str, *, complete: bool = False
) -> FolderCheck | None:
    """Check the files of a collection; `None` if they cannot be checked from outside just now.

    Parameters
    ----------
    folder
        Of the store.
    collection
        Its name.
    name
        Of the store, for errors.
    complete
        Compare every record, however many there are.

    Raises
    ------
    StoreError
        If something is damaged.
    """
    file = folder / SQLITE_FILE
    if any(folder.glob(f"{SQLITE_FILE}-*")):
        return None  # a transaction is open, or was cut short: only a writer may roll it back
    for attempt in range(_ATTEMPTS):
        try:
            with contextlib.closing(_reading(file)) as connection:
                return _check(connection, folder, file, collection, complete)
        except (Damage, sqlite3.Error, OSError, ValueError) as error:
            # Another process may be writing: what it has begun looks like damage for a moment.
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE)
                continue
            if any(folder.glob(f"{SQLITE_FILE}-*")):
                return None
            reason = str(error) if isinstance(error, Damage) else f"{type(error).__name__}: {error}"
            raise StoreError(
                f"{name} is damaged ({reason}): restore the folder from a copy, or ingest again "
                "into a new one"
            ) from None
    raise AssertionError("unreachable")


def _reading(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_BUSY)
    connection.text_factory = bytes.decode
    return connection


def _check(
    db: sqlite3.Connection, folder: Path, file: Path, collection: str, complete: bool
) -> FolderCheck | None:
    if complete or file.stat().st_size <= CHEAP_BYTES:
        faults = [row[0] for row in db.execute("PRAGMA quick_check(1)")]
        if faults != ["ok"]:
            raise Damage(f"{file.name}: {faults[0] if faults else 'no answer'}")
    row = db.execute(
        "SELECT id, dimension FROM collections WHERE name = ?", [collection]
    ).fetchone()
    if row is None:
        return None  # a missing collection has an error of its own
    collection_id, length = row
    segments = dict(
        db.execute("SELECT scope, id FROM segments WHERE collection = ?", [collection_id])
    )
    if not {"VECTOR", "METADATA"} <= segments.keys():
        raise Damage(f"{file.name} does not say where the collection's vectors are")
    sequence = {
        segment: _number(value)
        for segment, value in db.execute("SELECT segment_id, seq_id FROM max_seq_id")
    }
    vector_seq = sequence.get(segments["VECTOR"], 0)
    index_folder = folder / segments["VECTOR"]
    if length is None:
        return FolderCheck(0, 0, 0)
    if index_folder.is_dir():
        index = IndexFiles.check(index_folder, int(length))
    elif vector_seq:
        raise Damage("the folder of its index is gone")
    else:
        index = None
    stored = "SELECT embedding_id FROM embeddings WHERE segment_id = ?"
    ids = [name for (name,) in db.execute(stored, [segments["METADATA"]])]
    pending = dict(_pending(db, collection_id, vector_seq, sequence.get(segments["METADATA"], 0)))
    rows = {} if index is None else index.rows
    lost = [name for name in ids if name not in rows and name not in pending]
    if lost:
        raise Damage(f"the index lacks {len(lost)} of the {len(ids)} pairs")
    if len(ids) > CHEAP_PAIRS and not complete:
        return FolderCheck(len(ids), 0, 0)
    compared = 0
    for name, checksum, content, document in _records(db, segments["METADATA"]):
        if checksum is None:
            continue
        vector = pending.get(name)
        if vector is None and index is not None and name in rows:
            vector = index.vectors[rows[name]].tobytes()
        if vector is None or checksum != vector_checksum(vector) + text_checksum(
            name, document or "", content or ""
        ):
            raise Damage(f"the record of pair {name!r} is not as it was written")
        compared += 1
    return FolderCheck(len(ids), compared, len(ids) - compared)


def written_up_to(db: sqlite3.Connection) -> int:
    """Return the number of the last write to any collection of a database, 0 for none."""
    logged = db.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()[0]
    applied = [_number(value) for (value,) in db.execute("SELECT seq_id FROM max_seq_id")]
    return max(0 if logged is None else int(logged), *applied, 0)


def _number(value: object) -> int:
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(str(value))


def _pending(
    db: sqlite3.Connection, collection_id: str, after: int, until: int
) -> Iterator[tuple[str, bytes | None]]:
    """Yield what the log holds and the index on disk does not: ids with their last vectors."""
    for name, operation, vector in db.execute(
        "SELECT id, operation, vector FROM embeddings_queue "
        "WHERE topic LIKE '%' || ? AND seq_id > ? AND seq_id <= ? ORDER BY seq_id",
        [collection_id, after, until],
    ):
        if operation != _DELETE and vector is not None:
            yield name, vector


def _records(
    db: sqlite3.Connection, segment: str
) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    yield from db.execute(
        "SELECT e.embedding_id, c.string_value, n.string_value, d.string_value "
        "FROM embeddings e "
        "LEFT JOIN embedding_metadata c ON c.id = e.id AND c.key = ? "
        "LEFT JOIN embedding_metadata n ON n.id = e.id AND n.key = '_node_content' "
        "LEFT JOIN embedding_metadata d ON d.id = e.id AND d.key = 'chroma:document' "
        "WHERE e.segment_id = ?",
        [CHECKSUM_KEY, segment],
    )
