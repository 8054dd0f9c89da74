"""URLs of Qdrant and Milvus: servers, folders, memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.collection_name import check_collection_name
from mrrag_llamaindex.store.places import without_password

_URL: Final = re.compile(r"(qdrant|milvus)(\+https?)?:(.*)", re.DOTALL)
_PORTS: Final = {"qdrant": 6333, "milvus": 19530}
DEFAULT_COLLECTION: Final = "pairs"
FORMS: Final = (
    "qdrant+http://host:6333, qdrant:FOLDER or qdrant::memory:, milvus+http://host:19530 or "
    "milvus:FILE.db, each server with /collection behind it if it is not the default"
)


@dataclass(frozen=True)
class Place:
    """A parsed URL: a server, a path, or neither for memory.

    Parameters
    ----------
    engine
        ``"qdrant"`` or ``"milvus"``.
    name
        For messages.
    collection
        Of the engine.
    url
        ``http://host:port`` of a server.
    path
        Of a local store.
    """

    engine: str
    name: str
    collection: str
    url: str | None = None
    path: Path | None = None

    @classmethod
    def parse(cls, where: str, collection: str) -> Place:
        """Return what a URL means; touches neither disk nor network.

        Raises
        ------
        StoreError
            If it is none, or names another collection than `collection`.
        """
        match = _URL.fullmatch(where.strip())
        if match is None:
            raise StoreError(f"{without_password(where)!r} is no place for pairs: expected {FORMS}")
        engine, scheme, rest = match[1], (match[2] or "")[1:], match[3]
        if not scheme:
            return cls._local(engine, rest, collection)
        parts = urlsplit(f"{scheme}:{rest}")
        try:
            port = parts.port or (443 if scheme == "https" else _PORTS[engine])
        except ValueError:
            port = 0
        blank = any(c.isspace() or not c.isprintable() for c in rest)
        own = parts.path.strip("/")
        if not parts.hostname or not port or blank or parts.query or "/" in own:
            raise StoreError(
                f"{without_password(where)!r} is not a server address: expected {FORMS}"
            )
        if parts.username is not None:
            raise StoreError(
                f"the address of {parts.hostname} holds a key, which would be shown in messages: "
                "set QDRANT_API_KEY or MILVUS_TOKEN in the environment"
            )
        if own and collection not in (DEFAULT_COLLECTION, own):
            raise StoreError(f"{where!r} names collection {own!r}, the option {collection!r}")
        if own:
            check_collection_name(own)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        url = f"{scheme}://{host}:{port}"
        used = own or collection
        return cls(engine, f"collection {used!r} of {engine}+{url}", used, url=url)

    @classmethod
    def _local(cls, engine: str, rest: str, collection: str) -> Place:
        if "://" in rest or re.match("//[^/]", rest):
            raise StoreError(
                f"{without_password(f'{engine}:{rest}')!r} names a host, and would be a folder: a "
                f"server is {engine}+http://host:{_PORTS[engine]}"
            )
        path = rest.removeprefix("//")
        if path == ":memory:" and engine == "qdrant":
            return cls(engine, "the Qdrant store in memory", collection)
        if not path or path == ":memory:" or path.startswith(":"):
            raise StoreError(f"{engine}:{rest} is no place for pairs: expected {FORMS}")
        if engine == "milvus" and not path.endswith(".db"):
            raise StoreError(f"{engine}:{rest}: a local Milvus store is a path that ends in .db")
        name = f"collection {collection!r} of {engine}:{path}"
        return cls(engine, name, collection, path=Path(path).expanduser().absolute())


def make_private(folder: Path) -> None:
    """Make the folder of a local store, if there is none, for this user alone: it holds reports."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
