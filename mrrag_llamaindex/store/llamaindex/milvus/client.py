"""Milvus's client: each of its calls ends, and a store in a folder ends with its last user."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from mrrag_llamaindex.errors import StoreError

CONNECT_SECONDS: Final = 5.0
SECONDS: Final = 20.0
"""In which a server has to answer: its client would try 75 times, for minutes."""

LOAD_SECONDS: Final = 600.0
"""In which a collection that nobody uses is brought into a server's memory."""

_TOKEN: Final = "MILVUS_TOKEN"
_NOT_LOADED: Final = 101

_local: Counter[Path] = Counter()
_local_guard = threading.Lock()
"""How often this process has each local store open: pymilvus keeps one server for all."""


def token_of(path: Path | None) -> str:
    """Return what lets a server's user in; a store at a path needs nothing."""
    return os.environ.get(_TOKEN, "") if path is None else ""


def connect(uri: str, path: Path | None) -> LimitedClient:
    """Return a client of a server, or of a local store at a path, which is started by it."""
    # It would write errors, with what was asked, beside the one that is raised.
    for name in ("pymilvus", *(("grpc._server",) if path is not None else ())):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if path is not None:
        with _local_guard:
            _local[path] += 1
    return LimitedClient(
        MilvusClient(uri=uri, token=token_of(path), timeout=CONNECT_SECONDS, dedicated=True)
    )


def disconnect(client: Any, path: Path | None) -> None:
    """Close a client, and a local store with the last that has it open."""
    client.close()
    if path is None:
        return
    with _local_guard:
        _local[path] -= 1
        last = not _local[path]
    if last:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(path))


@contextlib.contextmanager
def asking(name: str) -> Iterator[None]:
    """Turn a server that does not answer, or refuses, into one line about the place of a name."""
    try:
        yield
    except (grpc.RpcError, MilvusException) as error:
        if not _unreachable(error):
            # Its own message may repeat what was asked or written.
            code = getattr(error, "code", "")
            raise StoreError(f"{name}: Milvus refuses it (code {code})") from None
        raise StoreError(
            f"{name}: no Milvus server answers. Is it running, and is this its address? "
            "What it has acknowledged is stored; run the command again to go on"
        ) from None


class LimitedClient:
    """A client each of whose calls has a limit: by itself, it tries again for minutes.

    A collection that is not in the server's memory, as after a restart, is brought there.
    """

    def __init__(self, client: MilvusClient) -> None:
        self._limited = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._limited, name)
        if not callable(value) or "timeout" not in inspect.signature(value).parameters:
            return value
        return functools.partial(self._call, functools.partial(value, timeout=SECONDS))

    def _call(self, ask: Callable[..., Any], *values: Any, **options: Any) -> Any:
        try:
            return ask(*values, **options)
        except MilvusException as error:
            if error.code != _NOT_LOADED:
                raise
        collection = options.get("collection_name") or values[0]
        self._limited.load_collection(collection, timeout=LOAD_SECONDS)
        return ask(*values, **options)


def _unreachable(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, grpc.RpcError) or any(
        sign in text for sign in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Retry timeout", "connecting")
    )
