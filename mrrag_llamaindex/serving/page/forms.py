"""What the page's forms hold: read, and refused by name where it is nothing that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.serving.http.errors import ApiError, validation_error
from mrrag_llamaindex.serving.page import rendering
from mrrag_llamaindex.serving.schemas import AskOptions

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.datastructures import FormData

    from mrrag_llamaindex.images.query_image import QueryImage
    from mrrag_llamaindex.serving.page.sessions import Session, Turn
    from mrrag_llamaindex.serving.service import Service

MOST_FILES = 64
"""Of one form; a question takes fewer, and says so."""

_EXCLUSIONS = ("exclude_patients", "exclude_studies", "exclude_pairs")

QUESTION = (
    "question",
    "film",
    "k",
    "one_per",
    "combine_images",
    *_EXCLUSIONS,
    *(f"weight_{name}" for name in ALL_TERMS),
)
"""Fields of the form by which the page asks, and ranks."""


async def fields_of(request: Request, *known: str) -> FormData:
    """Return the fields of a form.

    Raises
    ------
    ApiError
        If it has one beside ``known``.
    """
    form = await request.form(max_files=MOST_FILES)
    for name in form:
        if name not in known:
            await form.close()
            raise ApiError(422, "unknown_field", f"the form has no field {name!r}", param=name)
    return form


def is_whole(text: Any) -> bool:
    """Whether a field is a whole number of usual size."""
    return str(text).isdecimal() and len(str(text)) < 10


def numbers_of(form: FormData, name: str) -> list[int]:
    """Return the whole numbers of a field that may stand there several times.

    Raises
    ------
    ApiError
        If one is none.
    """
    texts = [str(value) for value in form.getlist(name)]
    if not all(map(is_whole, texts)):
        raise ApiError(400, "bad_field", f"{name}: not a whole number", param=name)
    return [int(text) for text in texts]


def number_of(form: FormData, name: str) -> int | None:
    """Return the whole number of a field; None where it is empty, or not there."""
    return numbers_of(form, name)[0] if form.get(name) else None


def films_asked(session: Session, form: FormData) -> QueryImage | None:
    """Return what a question is about; refuse where the tab shows other films than are held."""
    names = form.get("film")
    return session.films.asked(None if names is None else str(names))


def turn_of(session: Session, form: FormData) -> Turn:
    """Return the answer that a form is about."""
    number = str(form.get("turn", ""))
    turn = session.turn(int(number)) if is_whole(number) else None
    if turn is None or "steered" not in turn.results:
        raise ApiError(409, "no_turn", "this session does not hold that answer any more: ask again")
    return turn


def options_of(form: FormData, service: Service) -> AskOptions:
    """Read the form's options; weights as they are on the server are left to it."""
    fields: dict[str, Any] = {
        name: [str(value).strip() for value in form.getlist(name) if str(value).strip()]
        for name in _EXCLUSIONS
    }
    if form.get("k"):
        fields["k"] = str(form["k"])
    for name in ("one_per", "combine_images"):
        if form.get(name):
            fields[name] = str(form[name])
    own = {slider["name"]: slider["value"] for slider in rendering.sliders(service)}
    try:
        weights = {
            name: float(str(form[f"weight_{name}"]))
            for name in ALL_TERMS
            if f"weight_{name}" in form
        }
        if weights and weights != own:
            fields["weights"] = weights
        return AskOptions.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error.errors(include_input=False, include_url=False)) from None
    except ValueError:
        raise ApiError(400, "bad_weights", "a weight is not a number") from None
