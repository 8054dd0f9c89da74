"""``/login``: a browser shows the token once, and gets a cookie for it."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.http.guards import COOKIE, cookie_of, same
from mrrag_llamaindex.serving.settings import Settings

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


def login_routes(settings: Settings) -> APIRouter:
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
        if settings.token is not None and not same(shown, settings.token):
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
