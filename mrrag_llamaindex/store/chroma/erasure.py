"""Deleted and replaced reports leave the disk, and not only the collection.

Chroma keeps what was written in the log of its queue until its index is synchronised, and SQLite
keeps the pages of deleted rows. The log is what the index is rebuilt from after a stop, so its
entries stay, without their text; then the file is written anew.

The index itself is first saved with room for elements to come, which is memory that nobody has
written: it may hold whatever the process held before, reports included. That room is filled with
zeros, and so is ``length.bin``, where nothing is ever written with inner products: behind every
write that saved an index, and behind an opening that did, which goes through the log first. Chroma
saves one in the middle of a write, so that a process that is killed there may leave such a room
until the next write.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Sequence
from multiprocessing.spawn import get_executable
from pathlib import Path

from mrrag_llamaindex.errors import StoreError

_SECONDS = 30.0
"""How long another process may hold the database."""

_FORGET = """
UPDATE embeddings_queue SET metadata = NULL
WHERE metadata IS NOT NULL AND id = ? AND topic LIKE '%' || ?
AND seq_id <= (
    SELECT max(max_seq_id.seq_id) FROM max_seq_id JOIN segments ON segments.id = segment_id
    WHERE segments.scope = 'METADATA' AND segments.collection = ?
)
"""
"""Only entries whose text has reached its table: nothing is read from them again but vectors."""


_PROGRAM = """
import contextlib, json, sqlite3, sys
database, seconds, forget, rows = json.load(sys.stdin)
connection = sqlite3.connect(database, timeout=seconds, isolation_level=None)
with contextlib.closing(connection):
    connection.execute("PRAGMA secure_delete = ON")
    connection.executemany(forget, rows)
    connection.execute("VACUUM")
"""
"""Run in a process of its own: Chroma brings a second SQLite, and the locks of two copies in one
process do not see each other."""

_HEADER = struct.Struct("<i4Q")
"""Start of an index's header: version, offset, room, number of elements, bytes of an element."""


def index_saves(folder: Path) -> dict[str, int]:
    """Return when each index of a store was saved last, in nanoseconds, by its file."""
    return {str(header): header.stat().st_mtime_ns for header in folder.glob("*/header.bin")}


def scrub_index(folder: Path) -> None:
    """Fill with zeros what a store's index files hold beyond their elements.

    Parameters
    ----------
    folder : Path
        Of the store. Files of another version than is known are left as they are.
    """
    for header in folder.glob("*/header.bin"):
        start = header.read_bytes()[: _HEADER.size]
        if len(start) < _HEADER.size:
            continue
        version, _, _, count, size = _HEADER.unpack(start)
        if version != 1:
            continue
        for name, element in (("data_level0.bin", size), ("length.bin", 0)):
            path = header.with_name(name)
            rest = path.stat().st_size - count * element if path.is_file() else 0
            if rest > 0:
                with path.open("r+b") as file:
                    file.seek(count * element)
                    file.write(bytes(rest))


def erase(database: Path, collection_id: str, pair_ids: Sequence[str]) -> None:
    """Overwrite what a database file still holds of texts that were deleted or replaced.

    Takes as long as writing the file anew. Vectors of deleted pairs stay in the index's own files
    until it is rebuilt.

    Parameters
    ----------
    database : Path
        Chroma's SQLite file.
    collection_id : str
    pair_ids : sequence of str
        Deleted from the collection already, or written anew.

    Raises
    ------
    StoreError
        If the file is in use elsewhere: the collection is right then, and old text may be on disk.
    """
    rows = [(pair_id, collection_id, collection_id) for pair_id in pair_ids]
    work = json.dumps([str(database), _SECONDS, _FORGET, rows])
    try:
        subprocess.run(
            [get_executable(), "-I", "-S", "-c", _PROGRAM],
            input=work,
            capture_output=True,
            text=True,
            check=True,
        )
        scrub_index(database.parent)
    except (subprocess.CalledProcessError, OSError) as failure:
        output = getattr(failure, "stderr", "").strip().splitlines()
        error = output[-1] if output else failure
        raise StoreError(
            "the pairs were deleted or replaced, but their old reports may still be in the store's "
            f"file: it could not be written anew ({error}). Close other processes that have the "
            "store open, see that the disk has room for a second copy of the file, and call "
            "store.erase_replaced()"
        ) from None
