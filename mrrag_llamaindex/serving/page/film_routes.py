"""The page's films: chosen, added, taken away, moved, and read through another window."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from PIL.Image import Image
from starlette.datastructures import UploadFile

from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.page import rendering
from mrrag_llamaindex.serving.page.films import Films, HeldFilm
from mrrag_llamaindex.serving.page.forms import fields_of, number_of, numbers_of

if TYPE_CHECKING:
    from starlette.datastructures import FormData

    from mrrag_llamaindex.serving.http.work import Workers
    from mrrag_llamaindex.serving.page.examples import Example
    from mrrag_llamaindex.serving.page.sessions import Session
    from mrrag_llamaindex.serving.service import Service


def add_film_routes(
    routes: APIRouter,
    service: Service,
    workers: Workers,
    session_of: Callable[[Request], Session],
    example_of: Callable[[Request, Any], Awaitable[Example]],
) -> None:
    """Add the routes.

    Parameters
    ----------
    routes : APIRouter
        Of the page.
    service : Service
    workers : Workers
    session_of : callable
        Returns a request's session, or refuses it.
    example_of : callable
        Returns an example by its number, or refuses it.
    """

    async def changed(
        request: Request, films: Films, change: Callable[[], int | None], said: str = ""
    ) -> HTMLResponse:
        """Change the films, and return them as they are then; of those that come, the first."""
        seen = number_of(await request.form(), "seen")

        def work(_: threading.Event) -> str:
            return rendering.films(films, change(), seen, said)

        return HTMLResponse(await workers.run(request, work))

    @routes.post("/page/film")
    async def film(request: Request) -> HTMLResponse:
        session = session_of(request)
        form = await fields_of(request, "image", "example", "frame", "study", "key", "add", "seen")
        sent = [one for one in form.getlist("image") if isinstance(one, UploadFile)]
        files = [await one.read() for one in sent]
        await form.close()
        frame, study = number_of(form, "frame"), number_of(form, "study")
        example = None
        if form.get("example") is not None:
            example = await example_of(request, form["example"])
            files = [example.png]
        keys = _keys_of(form, len(files))
        films, adds = session.films, bool(form.get("add"))
        service.require_images(len(files) + (len(films.shown) if adds else 0))
        begun = study if adds else films.begin(study)

        def change() -> int:
            reading = ReadingOptions(frame=frame)
            read = [
                _read(service, data, reading, key, example, _name_of(place, len(files)))
                for place, (data, key) in enumerate(zip(files or [b""], keys, strict=True), 1)
            ]
            return films.add(read, begun) if adds else films.choose(read, begun)

        return await changed(request, films, change)

    @routes.post("/page/window")
    async def window(request: Request) -> HTMLResponse:
        session = session_of(request)
        form = await fields_of(request, "film", "low", "high", "seen")
        films, number = session.films, number_of(form, "film")
        if not films.shown:
            raise ApiError(400, "no_image", "choose a film first")
        held = films.shown[0] if number is None else films.film(number)
        content = held.image.content
        if isinstance(content, Image):
            raise ApiError(400, "no_image", "choose a film first")
        ends = f"{form.get('low', '')},{form.get('high', '')}"
        reading = ReadingOptions.parse(ends, held.image.options.frame)

        def change() -> int:
            read = _read(service, content, reading, held.key, held.example)
            return films.replace(held.number, read)

        return await changed(request, films, change, "The model reads it through this window.")

    @routes.post("/page/show")
    async def show(request: Request) -> HTMLResponse:
        films, number = await _chosen(request)
        return await changed(request, films, lambda: films.film(number).number)

    @routes.post("/page/move")
    async def move(request: Request) -> HTMLResponse:
        films, number = await _chosen(request)
        return await changed(request, films, lambda: films.move(number), "The film was moved.")

    @routes.post("/page/remove")
    async def remove(request: Request) -> HTMLResponse:
        session = session_of(request)
        form = await fields_of(request, "film", "key", "seen")
        number, key = number_of(form, "film"), number_of(form, "key")
        if (number is None) == (key is None):
            raise ApiError(422, "bad_field", "film: name the film, or its key", param="film")
        films, said = session.films, "The film was taken away."
        return await changed(request, films, lambda: films.remove(number, key), said)

    async def _chosen(request: Request) -> tuple[Films, int]:
        session = session_of(request)
        number = number_of(await fields_of(request, "film", "seen"), "film")
        if number is None:
            raise ApiError(422, "bad_field", "film: it is missing", param="film")
        return session.films, number

    @routes.get("/page/film/{number}")
    async def samples(request: Request, number: int) -> Response:
        films = session_of(request).films
        found = (await workers.run(request, lambda _: films.samples(number))).samples
        ordered = found.astype(found.dtype.newbyteorder("<"), copy=False)
        return Response(ordered.tobytes(), media_type="application/octet-stream")


def _read(
    service: Service,
    data: bytes,
    reading: ReadingOptions,
    key: int = 0,
    example: Example | None = None,
    what: str = "query image",
) -> HeldFilm:
    image = QueryImage.read(data, reading, what=what)
    service.read_image(image)
    return HeldFilm(image, key, example=example)


def _name_of(place: int, count: int) -> str:
    """Return what errors call a file; never by its name, which may be a patient's."""
    return "query image" if count < 2 else f"file {place} of {count}"


def _keys_of(form: FormData, count: int) -> Sequence[int]:
    keys = numbers_of(form, "key")
    if not keys:
        return [0] * max(1, count)
    if len(keys) != max(1, count) or 0 in keys:
        raise ApiError(422, "bad_field", "key: give one above 0 for each file", param="key")
    return keys
