"""The page at ``/``: for people, and server-rendered; what it shows stays on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from mrrag_llamaindex import defaults
from mrrag_llamaindex.serving.http.errors import ApiError, api_error, validation_error
from mrrag_llamaindex.serving.http.work import EventStream, Workers
from mrrag_llamaindex.serving.page import rendering, turns, views
from mrrag_llamaindex.serving.page.examples import Example, phantom_examples
from mrrag_llamaindex.serving.page.film_routes import add_film_routes
from mrrag_llamaindex.serving.page.films import OtherFilm
from mrrag_llamaindex.serving.page.forms import (
    MOST_FILES,
    QUESTION,
    fields_of,
    films_asked,
    options_of,
    turn_of,
)
from mrrag_llamaindex.serving.page.sessions import Session, Sessions, Turn
from mrrag_llamaindex.serving.service import Service

STATIC = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "film.js": "text/javascript; charset=utf-8",
    "films.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {  # beside those of every response, see `http.guards`
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SESSION = "X-MRRAG-Session"
"""Header by which a tab names its session. A cookie would be shared by all tabs."""


class PageRoute(APIRoute):
    """A route whose errors are read by a person, and whose answers are kept nowhere."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors as a line of HTML and the headers of the page."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                response = await handle(request)
            except RequestValidationError as error:
                response = _told(validation_error(error.errors()))
            except HTTPException:
                response = _told(
                    ApiError(
                        400, "bad_form", f"the form cannot be read: at most {MOST_FILES} files"
                    )
                )
            except OtherFilm as error:
                response = _told(ApiError(409, "other_film", str(error)))
            except Exception as error:
                response = _told(api_error(error))
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handled


def page_routes(service: Service, workers: Workers, most_bytes: int) -> APIRouter:
    """Return the routes of the page.

    Parameters
    ----------
    service : Service
    workers : Workers
        In whose threads everything that blocks is done.
    most_bytes : int
        Of one upload, which the page says before it sends more.
    """
    routes = APIRouter(route_class=PageRoute, include_in_schema=False)
    sessions = Sessions()
    routes.sessions = sessions  # type: ignore[attr-defined]
    folder = files("mrrag_llamaindex.serving.page").joinpath("static")

    def session_of(request: Request) -> Session:
        session = sessions.get(request.headers.get(SESSION, ""))
        if session is None:
            raise ApiError(
                409, "no_session", "this tab's session has ended: reload the page to begin another"
            )
        return session

    def examples() -> tuple[Example, ...]:
        return phantom_examples() if service.llm.model == defaults.PHANTOM else ()

    @routes.get("/")
    async def page(request: Request) -> HTMLResponse:
        def work(_: threading.Event) -> str:
            session = sessions.open()
            return rendering.render(
                "page.html",
                session=session.session_id,
                facts=rendering.facts(service),
                sliders=rendering.sliders(service),
                examples=examples(),
                most_bytes=most_bytes,
            )

        return HTMLResponse(await workers.run(request, work))

    @routes.get("/page/static/{name}")
    async def static(name: str) -> Response:
        if name not in STATIC:
            raise ApiError(404, "not_found", "there is no such file")
        cache = {"Cache-Control": "no-cache"}
        return Response(folder.joinpath(name).read_bytes(), media_type=STATIC[name], headers=cache)

    async def example_of(request: Request, number: Any) -> Example:
        known = await workers.run(request, lambda _: examples())
        if str(number) not in map(str, range(len(known))):
            raise ApiError(404, "not_found", "there is no such example")
        return known[int(str(number))]

    @routes.get("/page/examples/{number}")
    async def example(request: Request, number: int) -> Response:
        return Response((await example_of(request, number)).png, media_type="image/png")

    add_film_routes(routes, service, workers, session_of, example_of)

    @routes.post("/page/ask")
    async def ask(request: Request) -> Response:
        session = session_of(request)
        form = await fields_of(request, *QUESTION)
        question = str(form.get("question", "")).strip()
        image = films_asked(session, form)
        if image is None:
            raise ApiError(400, "no_image", "choose a film first: drop a file, or take an example")
        if not question:
            raise ApiError(400, "no_question", "write a question first")
        turn = session.begin(question, options_of(form, service), image)

        def work(cancelled: threading.Event) -> Iterator[str]:
            for kind, value in turns.answer(service, turn, cancelled):
                yield from _events(service, session, turn, kind, value)

        async def events() -> AsyncGenerator[str, None]:
            try:
                async for event in workers.iterate(request, work):
                    yield event
            except Exception as error:
                yield _event("error", message=api_error(error).message)

        return EventStream(events())

    @routes.post("/page/rank")
    async def rank(request: Request) -> HTMLResponse:
        session = session_of(request)
        form = await fields_of(request, *QUESTION)
        question = str(form.get("question", "")).strip()
        image = films_asked(session, form)
        if image is None or not question:
            return HTMLResponse("", status_code=204)
        options = options_of(form, service)

        def work(_: threading.Event) -> str:
            rows = service.retrieve(image, question, options)
            latest = session.latest
            if latest and (latest.question, latest.image, latest.options) == (
                question,
                image,
                options,
            ):
                return rendering.cards(latest)  # as it was
            nodes = [] if latest is None else latest.nodes
            before = {item.node.node_id: place for place, item in enumerate(nodes, start=1)}
            return rendering.render(
                "cases.html", cases=views.cases(rows, question), turn=None, before=before
            )

        return HTMLResponse(await workers.run(request, work))

    @routes.post("/page/without")
    async def without(request: Request) -> HTMLResponse:
        session = session_of(request)
        form = await fields_of(request, "turn", "pair_id")
        turn = turn_of(session, form)
        pair_id = str(form.get("pair_id", ""))

        def work(_: threading.Event) -> str:
            turns.hide(service, turn, pair_id)
            return _both(service, session, turn)

        return HTMLResponse(await workers.run(request, work))

    @routes.post("/page/turn")
    async def again(request: Request) -> HTMLResponse:
        session = session_of(request)
        turn = turn_of(session, await fields_of(request, "turn"))
        text = await workers.run(request, lambda _: _both(service, session, turn))
        return HTMLResponse(text)

    @routes.post("/page/export")
    async def export(request: Request) -> Response:
        form = await fields_of(request, "session", "turn")
        session = sessions.get(str(form.get("session", "")))
        if session is None:
            raise ApiError(409, "no_session", "this tab's session has ended: reload the page")
        turn = turn_of(session, form)
        text = await workers.run(request, lambda _: rendering.export(service, turn))
        name = f"mrrag-case-{turn.number}.html"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)

    @routes.post("/page/close")
    async def close(request: Request) -> Response:
        form = await fields_of(request, "session")
        sessions.close(str(form.get("session", "")))
        return Response(status_code=204)

    @routes.get("/page/pairs/{pair_id:path}")
    async def pair_picture(request: Request, pair_id: str) -> Response:
        def work(_: threading.Event) -> bytes:
            return rendering.picture(service.pair_image(pair_id))

        return Response(await workers.run(request, work), media_type="image/png")

    return routes


def _events(service: Service, session: Session, turn: Turn, kind: str, value: Any) -> Iterator[str]:
    if kind == "piece":
        yield _event("piece", side=value[0], text=value[1])
        return
    if kind in ("documents", "answered"):
        yield _event("html", target="cases", html=rendering.cards(turn))
    if kind in ("looked", "answered"):
        yield _event("html", target="answer", html=_panel(service, session, turn))
    if kind == "answered":
        yield _event("html", target="history", html=rendering.history(session, turn.number))


def _panel(service: Service, session: Session, turn: Turn) -> str:
    return rendering.panel(service, turn, other_film=turn.image != session.films.image)


def _both(service: Service, session: Session, turn: Turn) -> str:
    """Return the answer, and its cards for their own place on the page."""
    return rendering.render(
        "both.html", panel=_panel(service, session, turn), cards=rendering.cards(turn)
    )


def _event(name: str, **data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _told(error: ApiError) -> HTMLResponse:
    text = rendering.render("error.html", message=error.message)
    return HTMLResponse(text, error.status, error.headers)
