"""Who has the token: compared without telling how near a guess was, and not guessed for long.

At ``/login`` a browser shows it once, and gets a cookie for it.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.settings import Settings

COOKIE = "mrrag_token"
"""Cookie of a browser that has shown the token at ``/login``."""

_LONGEST = 4096

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mrrag</title>
<meta name="viewport" content="width=device-width">
<style>:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 24rem; margin: 4rem auto; padding: 1rem }}
input, button {{ font: inherit; padding: .3rem .6rem }}</style></head><body>
<h1>mrrag</h1>
<form method="post" action="/login">
<p><label for="token">Token of this server</label></p>
<p><input id="token" name="token" type="password" autofocus required>
<button>Open</button></p>
<p role="alert">{note}</p>
</form></body></html>
"""


def cookie_of(token: str) -> str:
    """Return the value of the cookie that stands for a token."""
    return hashlib.sha256(f"mrrag cookie {token}".encode()).hexdigest()


def same(shown: str, expected: str) -> bool:
    """Compare in a time that says nothing of where the two differ."""
    return hmac.compare_digest(shown.encode(), expected.encode())


class WrongTokens:
    """Counts the wrong tokens that an address shows; who shows too many is not heard for a while.

    Parameters
    ----------
    most : int
        Wrong tokens of one address within ``seconds``. Above what a program that was set up with
        an old token asks by itself, since those who share its address are refused with it.
    seconds : float
    addresses : int
        Most that are remembered; the one seen longest ago is forgotten first.
    """

    def __init__(self, most: int = 60, seconds: float = 60.0, addresses: int = 4096) -> None:
        self._most, self._seconds, self._addresses = most, seconds, addresses
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # begin, number
        self._lock = threading.Lock()

    def require_few(self, address: str) -> None:
        """Refuse an address that has shown too many, whatever it shows now.

        Raises
        ------
        ApiError
        """
        begun, number = self._of(address)
        if number >= self._most:
            left = max(1, round(begun + self._seconds - time.monotonic()))
            raise ApiError(
                429,
                "too_many_tokens",
                f"this address has shown {number} wrong tokens; try again in {left} seconds",
                retry_after=left,
            )

    def note(self, address: str) -> None:
        """Count one."""
        with self._lock:
            begun, number = self._of(address)
            self._seen[address] = begun, number + 1
            self._seen.move_to_end(address)
            while len(self._seen) > self._addresses:
                self._seen.popitem(last=False)

    def _of(self, address: str) -> tuple[float, int]:
        now = time.monotonic()
        begun, number = self._seen.get(address, (now, 0))
        return (now, 0) if now - begun > self._seconds else (begun, number)


def login_routes(settings: Settings, wrong: WrongTokens) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/login")
    async def ask() -> HTMLResponse:
        return HTMLResponse(_PAGE.format(note=""))

    @routes.post("/login")
    async def check(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LONGEST:  # whoever has no token yet may send no more
                raise ApiError(413, "too_large", f"a form has at most {_LONGEST} bytes here")
        shown = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        address = request.client.host if request.client else ""
        try:
            wrong.require_few(address)
        except ApiError as refused:
            return HTMLResponse(_PAGE.format(note=refused.message), 429, refused.headers)
        if settings.token is not None and not same(shown, settings.token):
            wrong.note(address)
            return HTMLResponse(_PAGE.format(note="This is not the token."), 401)
        answer = RedirectResponse("/", 303)
        if settings.token is not None:
            answer.set_cookie(
                COOKIE,
                cookie_of(settings.token),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return answer

    return routes
