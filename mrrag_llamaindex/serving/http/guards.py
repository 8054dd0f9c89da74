"""What every request passes before a route: who may ask, how much they may send, and how fast."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Iterable, Mapping
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrrag_llamaindex import __version__
from mrrag_llamaindex.serving.http.errors import ERROR_HEADER, ApiError, api_error
from mrrag_llamaindex.serving.http.metrics import Metrics
from mrrag_llamaindex.serving.http.tokens import COOKIE, WrongTokens, cookie_of, same
from mrrag_llamaindex.serving.service import Cancelled
from mrrag_llamaindex.serving.settings import Settings

VERSION_HEADER = "mrrag-version"

_OPEN = ("/healthz", "/login")
"""Paths that need no token; they say nothing of store or model."""

_HEADERS = {
    VERSION_HEADER: __version__,
    "x-content-type-options": "nosniff",
    # Not "no-referrer": a browser would then send forms of its own origin without that origin.
    "referrer-policy": "same-origin",
    # Whatever a report holds, a page loads nothing from elsewhere, and sends nothing there.
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
}

access = logging.getLogger("mrrag_llamaindex.serving.access")
"""One line per request: method, route, status and milliseconds; no ids, which paths hold."""


class Guard:
    """Stands before an app.

    Refuses requests with another ``Host`` than the server's (a page elsewhere may give a name of
    its own this machine's address), requests that pages of other origins make, requests without
    the token, and bodies that are too large or too slow. Whatever fails ends in an error body, and
    never in a traceback, which may quote a report.

    Parameters
    ----------
    app : ASGI app
    settings : Settings
    metrics : Metrics
        Told of every request.
    wrong : WrongTokens
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, wrong: WrongTokens
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._wrong = wrong

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets: the connection is closed
        started = time.perf_counter()
        exchange = _Exchange(receive, send, self._settings)
        try:
            await self._answer(scope, exchange)
        except Exception as error:
            refused = api_error(error)
            if exchange.status == 0:
                await refused.response()(scope, exchange.receive, exchange.send)
            else:
                exchange.code = refused.code  # the connection is closed
        finally:
            seconds = time.perf_counter() - started
            route = str(getattr(scope.get("route"), "path", "")) or "other"
            self._metrics.note(route, exchange.status, exchange.code, seconds)
            access.info("%s %s %s %.0f ms", scope["method"], route, exchange.status, 1000 * seconds)

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        headers = _headers_of(scope)
        self._require_own_host(headers)
        self._require_own_origin(scope, headers)
        if scope["path"] not in _OPEN and not self._has_token(scope, headers):
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                login: Response = RedirectResponse("/login", 303)
                await login(scope, exchange.receive, exchange.send)
                return
            raise ApiError(
                401, "token_required", "this server wants its token: Authorization: Bearer <token>"
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.upload_bytes:
            raise too_large(self._settings)
        await self._app(scope, exchange.receive, exchange.send)

    def _require_own_host(self, headers: Mapping[str, str]) -> None:
        settings = self._settings
        if not settings.loopback and not settings.allowed_hosts:
            return  # it has a token, and any number of names
        name = _name_of(headers.get("host", ""))
        if name in {"localhost", settings.host.lower(), *settings.allowed_hosts}:
            return
        if settings.loopback and _is_loopback(name):
            return
        raise ApiError(
            403,
            "unknown_host",
            "the request is addressed to another host name than this server's; --allowed-host "
            "adds one",
        )

    def _require_own_origin(self, scope: Scope, headers: Mapping[str, str]) -> None:
        site = headers.get("sec-fetch-site", "none")
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        origin = headers.get("origin")
        own = origin is None or (
            urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
            or _name_of(urlsplit(origin).netloc) in self._settings.allowed_hosts
        )
        if own and (site in ("none", "same-origin") or navigates):
            return
        raise ApiError(403, "other_origin", "a page of another origin may not use this server")

    def _has_token(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        token = self._settings.token
        if token is None:
            return True
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            address = (scope.get("client") or ("",))[0]
            self._wrong.require_few(address)
            if same(shown.strip(), token):
                return True
            self._wrong.note(address)
        cookie: SimpleCookie = SimpleCookie()
        try:
            cookie.load(headers.get("cookie", ""))
        except Exception:
            return False
        return COOKIE in cookie and same(cookie[COOKIE].value, cookie_of(token))


class _Exchange:
    """One request's messages, counted and timed.

    Attributes
    ----------
    status : int
        0 until the response has begun.
    code : str
        Of the error that the response is, else empty.
    """

    def __init__(self, receive: Receive, send: Send, settings: Settings) -> None:
        self._receive, self._send, self._settings = receive, send, settings
        self._complete = False
        self._bytes = 0
        self._deadline = time.monotonic() + settings.body_seconds
        self.status = 0
        self.code = ""

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        left = self._deadline - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except asyncio.TimeoutError:
            raise ApiError(
                408,
                "slow_upload",
                f"the request was not there after {self._settings.body_seconds:g} seconds",
            ) from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._settings.upload_bytes:
            raise too_large(self._settings)
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            self.code = next((v.decode() for k, v in headers if k == ERROR_HEADER.encode()), "")
            known = {name for name, _ in headers}
            headers += _missing(known)
            message = {**message, "headers": headers}
        # A client that never reads would hold the response for ever, and one that has gone is no
        # fault of the server.
        try:
            await asyncio.wait_for(self._send(message), self._settings.body_seconds)
        except (asyncio.TimeoutError, OSError):
            raise Cancelled from None
        except RuntimeError as error:
            if "is closed" not in str(error):  # what uvloop says of a transport
                raise
            raise Cancelled from None


def too_large(settings: Settings) -> ApiError:
    """Return the refusal of a body that is larger than the settings allow."""
    return ApiError(413, "too_large", f"the request is larger than {settings.upload_bytes:,} bytes")


def _missing(known: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    return [(n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in known]


def _headers_of(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "authorization", "origin", "content-length"):
            raise ApiError(400, "bad_request", f"the header {key} stands there twice")
        headers[key] = value.decode("latin-1")
    return headers


def _name_of(netloc: str) -> str:
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
