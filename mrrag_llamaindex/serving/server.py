"""Run one server in this process: one socket, one process, one device."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.serving.settings import Settings

CONNECTIONS = 512
"""Open connections beyond which further ones are answered 503."""

SHUTDOWN_SECONDS = 10
"""How long requests at work may take to end when the server is told to."""


def bind(settings: Settings) -> socket.socket:
    """Return a socket that is bound to the settings' address; nothing slow is loaded before.

    Raises
    ------
    InputError
        If the port is taken, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InputError(f"there is no address {settings.host!r}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Only now is it known whether another server has the port.
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: "the port is in use: stop what uses it, or give another --port",
            errno.EACCES: "access is denied: ports below 1024 need privileges",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0, type(error).__name__)
        raise InputError(f"cannot listen at {settings.host}:{settings.port}: {reason}") from None
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def configuration(app: FastAPI, shutdown_seconds: int = SHUTDOWN_SECONDS) -> uvicorn.Config:
    """Return how uvicorn runs an app.

    Parameters
    ----------
    app : FastAPI
    shutdown_seconds : int
        How long requests at work may take to end when the server is told to.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        app,
        access_log=False,  # paths hold ids of pairs; see `guards.access`
        log_config=None,
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=shutdown_seconds,
        server_header=False,
    )


def run(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until the process is interrupted or terminated.

    Parameters
    ----------
    app : FastAPI
    listener : socket.socket
    ready : callable
        Called when requests are answered.
    """
    _Server(configuration(app), ready).run(sockets=[listener])
