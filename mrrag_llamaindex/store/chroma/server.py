"""A client of a Chroma server whose every call ends: Chroma's own waits without limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.deadline import Deadline
from mrrag_llamaindex.store.backends import store_errors
from mrrag_llamaindex.store.places import without_password

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

CONNECT_SECONDS: Final = 5.0
"""To a server's first sign of life."""

READ_SECONDS: Final = 15.0
"""A server may take to answer, and then to send the whole answer. With the start of a command, a
server that hangs is named within half a minute."""

WRITE_SECONDS: Final = 120.0
"""The same where it writes: it builds its index meanwhile."""

_WRITES: Final = ("/add", "/upsert", "/update", "/delete")


def connect(url: str, settings: Any) -> ClientAPI:
    """Return a client of the server at ``http://host:port``.

    Raises
    ------
    StoreError
        If it is no such address, if nothing answers there, or what answers is no Chroma server.
    """
    # Unescaped blanks and control characters would be part of the host's name.
    parts = urlsplit("" if any(c.isspace() or not c.isprintable() for c in url) else url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if not parts.hostname or port == -1 or parts.path.strip("/") or parts.query or parts.username:
        raise StoreError(
            f"{without_password(url)!r} is not a server address: expected http://host:port; for "
            "anything else (headers, tenants) pass a chromadb.HttpClient"
        )
    port = port or (443 if parts.scheme == "https" else 8000)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    try:
        transport = _Deadline(httpx.HTTPTransport(), READ_SECONDS)
        with httpx.Client(transport=transport, timeout=CONNECT_SECONDS) as c:
            answer = c.get(f"{parts.scheme}://{host}:{port}/api/v2/heartbeat").raise_for_status()
            answer.json()["nanosecond heartbeat"]
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise StoreError(
            f"no Chroma server answers at {url} ({_one_line(error)}): start one with "
            f"`chroma run --path FOLDER --host 127.0.0.1 --port {port}`, or give a folder"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"what answers at {url} is not a Chroma server") from None
    with store_errors(f"connecting to {url}", detail=True):
        return _client(host, port, parts.scheme == "https", settings)


def _client(host: str, port: int, secure: bool, settings: Any) -> ClientAPI:
    from chromadb.api.client import Client

    class LimitedClient(Client):
        """Asks the server nothing before its session has limits."""

        def get_user_identity(self) -> Any:
            """Make the constructor's first call to the server."""
            _limit(self._server)
            return super().get_user_identity()

    settings.chroma_api_impl = "chromadb.api.fastapi.FastAPI"
    settings.chroma_server_host = host
    settings.chroma_server_http_port = port
    settings.chroma_server_ssl_enabled = secure
    return LimitedClient(settings=settings)


def _limit(server: Any) -> None:
    unlimited = server._session
    server._session = httpx.Client(
        transport=_Deadline(httpx.HTTPTransport(limits=server.http_limits), READ_SECONDS),
        headers=unlimited.headers,
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
    )
    unlimited.close()


class _Deadline(Deadline):
    """A writing server takes longer, to the first byte as well."""

    def seconds_of(self, request: httpx.Request) -> float:
        """Return the limit of one request, and let its connection wait as long."""
        if not request.url.path.endswith(_WRITES):
            return super().seconds_of(request)
        request.extensions["timeout"] = {
            **request.extensions.get("timeout", {}),
            "read": WRITE_SECONDS,
            "write": WRITE_SECONDS,
        }
        return WRITE_SECONDS


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
