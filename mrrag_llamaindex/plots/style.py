"""One style for every picture, and files in which the same numbers are the same bytes.

Figures are made without pyplot: no window, no global state. matplotlib (the extra ``plot``) is
imported when the first one is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mrrag_llamaindex.errors import InputError, MRRAGError
from mrrag_llamaindex.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES: Final = (".png", ".svg", ".pdf")

COLOURS: Final = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#999999"),
)
"""Okabe and Ito: told apart by the colour-blind, too."""

MARKERS: Final = "osD^vP*X"
"""One for each colour, so that lines are told apart without any."""

MAIN, OTHER, MUTED, INK = COLOURS[0], COLOURS[1], "#767676", "#262626"
PALE: Final = "#D9E6F0"
"""Of what stands behind the numbers: bars with intervals on them, layers that are marked."""

SMALL: Final = 8.0
"""Points of what is read last: ticks, legends, numbers beside bars."""

_STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # names of others may hold dollars
    "axes.labelcolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "figure.titlesize": 10.5,
    "legend.fontsize": SMALL,
    "svg.hashsalt": "mrrag",  # without it an SVG's ids are random
    "svg.fonttype": "none",
}

_UNDATED: Final[dict[str, dict[str, Any]]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@contextmanager
def drawing(width: float, height: float, title: str = "") -> Iterator[Figure]:
    """Make a figure of so many inches; what is drawn in the block takes the style.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        yield figure


def tidy(axes: Axes, grid: Literal["x", "y", "both"] | None = "both") -> None:
    """Leave of an empty plot what helps to read numbers off it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    # Ticks are made when they are drawn, after the block of `drawing`.
    axes.tick_params(labelsize=SMALL, color=MUTED, labelcolor=INK)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color="#E5E5E5", linewidth=0.8)


def legend_below(figure: Figure, axes: Axes, columns: int = 6) -> None:
    """Put the legend of the axes, which is that of all plots, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        *(handles, labels),
        loc="outside lower left",
        ncols=min(columns, len(labels)),
        frameon=False,
    )


def require_matplotlib() -> None:
    """Raise `MRRAGError`, which says how it is installed, if matplotlib is not."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MRRAGError("pictures need matplotlib: pip install 'mrrag-llamaindex[plot]'") from None


def check_target(path: str | os.PathLike[str]) -> Path:
    """Raise what `save` would raise, before there is a picture.

    Raises
    ------
    InputError
        If the suffix is unknown, or the path is a folder.
    MRRAGError
        If matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(f"{target.name}: pictures are written as {', '.join(SUFFIXES)}")
    if target.is_dir():
        raise InputError(f"{target.name} is a folder: name the picture's file")
    require_matplotlib()
    return target


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure, whole or not at all; the same one gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        ``.png``, ``.svg`` or ``.pdf``; its folder is made if absent.

    Returns
    -------
    pathlib.Path
        The picture.

    Raises
    ------
    InputError
        If it cannot be written, or not under this name.
    MRRAGError
        If matplotlib is not installed.
    """
    target = check_target(path)
    import matplotlib

    suffix = target.suffix.lower()

    def write(part: Path) -> None:
        figure.savefig(part, format=suffix[1:], dpi=150, metadata=_UNDATED[suffix])

    with matplotlib.rc_context(_STYLE):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, write)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{target.name} cannot be written: {reason}") from None
    return target
