"""The page's templates, and what each of them is given. Everything that is text is escaped."""

from __future__ import annotations

import base64
import functools
import io
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from mrrag_llamaindex import __version__, defaults
from mrrag_llamaindex.images.dicom.view import view_of
from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS, FusionWeights
from mrrag_llamaindex.serving.page import turns, views
from mrrag_llamaindex.serving.service import PairError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrrag_llamaindex.images.query_image import QueryImage
    from mrrag_llamaindex.serving.page.films import Films
    from mrrag_llamaindex.serving.page.sessions import Session, Turn
    from mrrag_llamaindex.serving.service import Service

_TEMPLATES = Environment(
    loader=PackageLoader("mrrag_llamaindex.serving.page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
THUMBNAIL = 512
"""Pixels of the longer side of a case's picture."""

FILM = 160
"""Likewise of a film among several."""

_TEMPLATES.filters["quoted"] = functools.partial(quote, safe="")  # an id may hold slashes, dots


def render(template: str, **context: Any) -> str:
    """Fill in a template; every value is escaped, whatever it holds."""
    return _TEMPLATES.get_template(template).render(**context)


def facts(service: Service) -> dict[str, Any]:
    """Return what the page says of the server: model, store, and what of it is synthetic."""
    index = service.index
    synthetic = [
        name
        for name, is_phantom in (
            ("model", service.llm.model == defaults.PHANTOM),
            ("towers", index.store.towers_source == defaults.PHANTOM),
        )
        if is_phantom
    ]
    return {
        "model": service.name,
        "pairs": len(index.store),
        "synthetic": synthetic,
        "policy": type(service.llm.policy).__name__ if service.llm.policy else "none",
        "version": __version__,
        "gated": not isinstance(index.weights, FusionWeights),
        "explain": turns.explainable(service),
        "k": min(defaults.MAX_DOCUMENTS, service.llm.max_documents),
        "most": service.llm.max_documents,
        "several": service.reads_several,
    }


def sliders(service: Service) -> list[dict[str, Any]]:
    """Return the weights that a person may move: of the paper's terms, and of what towers keep."""
    weights = service.index.weights
    base = weights if isinstance(weights, FusionWeights) else weights.base
    stored = service.index.store.schema.blocks.terms
    names = stored if stored == ALL_TERMS else base.terms
    values = {name: getattr(base, name) for name in (*TERMS, *names)}
    most = max(2.0, *(1.5 * abs(value) for value in values.values()))
    return [
        {
            "name": name,
            "label": views.LABELS[name],
            "value": value,
            "low": min(0.0, 1.5 * value),
            "high": most,
        }
        for name, value in values.items()
    ]


def films(films: Films, new: int | None = None, seen: int | None = None, said: str = "") -> str:
    """Return the films of a tab, and the viewer of one of them where the tab has to show another.

    Parameters
    ----------
    films : Films
    new : int, optional
        Number of the film to show.
    seen : int, optional
        That of the film that is shown now.
    said : str
        What a screen reader says of it.
    """
    now = films.now()
    numbers = [film.number for film in now.shown]
    wanted = new if new in numbers else None
    if wanted is None and numbers and seen not in numbers:
        wanted = numbers[-1]
    place = numbers.index(wanted) + 1 if wanted is not None else 0
    shows = f"Film {place} of {len(numbers)} is shown." if len(numbers) > 1 and place else ""
    return render(
        "films.html",
        now=now,
        films=pictures([film.image for film in now.shown]),
        said=" ".join(filter(None, [said, shows])),
        viewer=None if wanted is None else viewer(films, wanted),
    )


def viewer(films: Films, number: int) -> str:
    """Return the viewer of a film."""
    held, film = films.film(number), films.samples(number)
    height, width = film.samples.shape[:2]
    data = {
        "source": f"/page/film/{number}",
        "width": width,
        "height": height,
        "channels": 1 if film.samples.ndim == 2 else 3,
        "slope": film.slope,
        "intercept": film.intercept,
        "low_is_white": film.low_is_white,
        "unit": film.unit,
        "presets": film.presets,
    }
    return render(
        "film.html",
        data=json.dumps(data),
        number=number,
        film=film,
        presets=film.presets,
        example=held.example,
    )


def pictures(images: Sequence[QueryImage]) -> list[dict[str, Any]]:
    """Return what stands for each of several films: a small picture, and its name in words.

    Nothing for a single one, which needs no name.
    """
    if len(images) < 2:
        return []
    found = []
    for number, image in enumerate(images, start=1):
        view = image.kept("view", functools.partial(_view, image))
        window = image.options.window
        found.append(
            {
                "number": number,
                "name": f"film {number}" + (f" · {view}" if view else ""),
                "window": window and f"window {window[0]:.4g} to {window[1]:.4g}",
                "picture": image.kept("thumbnail", functools.partial(_thumbnail, image)),
            }
        )
    return found


def _view(image: QueryImage) -> str:
    return view_of(image.content) if isinstance(image.content, bytes) else ""


def _thumbnail(image: QueryImage) -> str:
    small = data_url(picture(image.rgb, FILM))
    image.release_pixels()
    return small


def cards(turn: Turn) -> str:
    """Return the cards of a turn's documents."""
    rows = views.cases(turns.documents(turn), turn.question, turn.hidden)
    return render("cases.html", cases=rows, turn=turn, before={})


def panel(service: Service, turn: Turn, *, other_film: bool = False) -> str:
    """Return the answer: why, both sides, without what was taken away, and attention.

    Parameters
    ----------
    service : Service
    turn : Turn
    other_film : bool
        Say that the answer is about another film than the one shown.
    """
    return render("answer.html", **answer_context(service, turn), other_film=other_film)


def answer_context(service: Service, turn: Turn) -> dict[str, Any]:
    """Return what the answer's template is given."""
    numbers = {item.node.node_id: place for place, item in enumerate(turn.nodes, start=1)}
    return {
        "turn": turn,
        "films": pictures(turn.image.views),
        "why": views.why(turn) if "steered" in turn.results else [],
        "sides": [views.side(turn, name) for name in turns.SIDES],
        "hidden": sorted(numbers[name] for name in turn.hidden),
        "answer_strips": _strips(turn, "answer"),
        "question_strips": _strips(turn, "question"),
        "result": turn.results.get("steered"),
        "policy": type(service.llm.policy).__name__ if service.llm.policy else "none",
    }


def _strips(turn: Turn, rows: str) -> dict[str, Any]:
    return {name: views.strips(turn.looks.get(name), rows) for name in turns.SIDES}


def history(session: Session, current: int | None) -> str:
    """Return the questions of a session, the latest first."""
    return render("history.html", turns=session.turns[::-1], current=current)


def picture(image: Image.Image, side: int = THUMBNAIL) -> bytes:
    """Return an image as PNG, its longer side at most ``side``."""
    small = image.copy()
    small.thumbnail((side, side))
    bands = small.split()
    if len(bands) == 3 and bands[0].tobytes() == bands[1].tobytes() == bands[2].tobytes():
        small = bands[0]
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_url(png: bytes) -> str:
    """Return a PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _saved_picture(service: Service, pair_id: str) -> str | None:
    """Return the film of a case as an address that holds it; None where it is gone by now."""
    try:
        return data_url(picture(service.pair_image(pair_id), 320))
    except PairError:
        return None


def export(service: Service, turn: Turn) -> str:
    """Return one turn as a file that needs nothing else: no script, no address, no network."""
    rows = views.cases(turns.documents(turn), turn.question, turn.hidden)
    for row in rows:
        row["picture"] = _saved_picture(service, row["pair_id"]) if row["has_image"] else None
    style = files("mrrag_llamaindex.serving.page").joinpath("static/page.css").read_text("utf-8")
    return render(
        "export.html",
        **answer_context(service, turn),
        **{"facts": facts(service), "cases": rows, "style": style},
        whole=[data_url(picture(view.rgb, 1024)) for view in turn.image.views],
    )
