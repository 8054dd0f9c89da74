"""Pictures of what a command has found: written, or said why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import plots
from mrrag_llamaindex.commands import console
from mrrag_llamaindex.errors import InputError, MRRAGError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_or_say(draw: Callable[[], Figure], picture: Path | None, usual: Path) -> dict[str, Any]:
    """Draw into ``picture``; where none is named into ``usual``, or say why that is not possible.

    Returns
    -------
    dict
        For JSON: ``figure``, the path or None, and ``figures``, a list of it.

    Raises
    ------
    InputError
        If the file cannot be written.
    MRRAGError
        If matplotlib is not installed, and a picture was asked for.
    """
    try:
        drawn = [str(plots.save(draw(), picture or usual))]
    except InputError:
        raise
    except MRRAGError as error:
        if picture is not None:
            raise
        console.say("note", f"no picture: {error}")  # the numbers still stand
        drawn = []
    return {"figure": drawn[0] if drawn else None, "figures": drawn}


def is_one_of(picture: Path, images: Sequence[Path]) -> bool:
    """Whether a picture would be written over one of the images, however each is spelt."""
    return picture.exists() and any(one.exists() and one.samefile(picture) for one in images)


def say_undrawn(picture: Path | None) -> None:
    """Say that there is no picture of no answer: one of an earlier answer may lie there."""
    if picture is not None:
        older = ", and what lies there shows an earlier one" if picture.exists() else ""
        console.say("note", f"--picture {picture.name} is not drawn: there is no answer{older}")
