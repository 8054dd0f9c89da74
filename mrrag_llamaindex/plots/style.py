"""One style for every picture, and files in which the same numbers are the same bytes.

Figures are made without pyplot: no window, no global state. matplotlib (the extra ``plot``) is
imported when the first one is drawn.
"""

from __future__ import annotations

import os
import textwrap
import unicodedata
import warnings
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

TITLE: Final = 9
"""Characters of a figure's title to the inch."""

_LONGEST_NAME: Final = 200
"""Bytes; file systems take 255, and while a file is written its name is longer."""

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

_PLAIN: Final[list[Any]] = ["default", _STYLE]
"""Whatever a notebook or a user's own file has set."""

_UNDATED: Final[dict[str, dict[str, Any]]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@contextmanager
def drawing(width: float, height: float, title: str = "") -> Iterator[Figure]:
    """Make a figure of so many inches; what is drawn in the block takes the style.

    A title that is wider than the figure goes on in a second line.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(_PLAIN):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            lines = textwrap.fill(shown(title), round(TITLE * width))
            figure.suptitle(lines, x=0.01, ha="left", fontweight="bold")
        yield figure


def shown(text: str, width: int | None = None) -> str:
    """Return text of others in one line, cut to so many characters, wherever that is.

    Control characters have no shape, and an SVG that holds one cannot be read.

    Examples
    --------
    >>> shown("p10000032/s50414267", 12)
    'p10000032...'
    """
    # A line's end is a control character, too, and a space stands for it.
    line = "".join(c for c in " ".join(text.split()) if unicodedata.category(c) not in ("Cc", "Cs"))
    return line if width is None or len(line) <= width else line[: width - 3].rstrip() + "..."


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
    """Raise what `save` would raise, as far as that can be known, before there is a picture.

    Raises
    ------
    InputError
        If the suffix is unknown, the path is a folder, or nothing can be written there.
    MRRAGError
        If matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        name = target.name or "an empty name"
        raise InputError(f"{name}: pictures are written as {', '.join(SUFFIXES)}")
    if len(os.fsencode(target.name)) > _LONGEST_NAME:
        raise InputError(f"{shown(target.name, 40)} cannot be written: its name is too long")
    if target.is_dir():
        raise InputError(f"{target.name} is a folder: name the picture's file")
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{target.name} cannot be written: {folder.name} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{target.name} cannot be written: the folder {folder.name} is read-only")
    require_matplotlib()
    return target


def save(figure: Figure, path: str | os.PathLike[str], *, private: bool = False) -> Path:
    """Write a figure, whole or not at all; the same one gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        ``.png``, ``.svg`` or ``.pdf``; its folder is made if absent.
    private : bool
        Make it readable for this user alone, because it shows patients.

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

    Warns
    -----
    UserWarning
        If the font lacks characters, which are drawn as boxes (not in an SVG, which holds text).
    """
    target = check_target(path)
    import matplotlib.style

    suffix = target.suffix.lower()

    def write(part: Path) -> None:
        figure.savefig(part, format=suffix[1:], dpi=150, metadata=_UNDATED[suffix])

    # matplotlib names every character that its font lacks: letter by letter, what a report says.
    with matplotlib.style.context(_PLAIN), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, write, private=private)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{target.name} cannot be written: {reason}") from None
    lacking = [item for item in caught if "missing from font" in str(item.message)]
    if lacking and suffix != ".svg":
        text = f"{target.name}: the font lacks some characters, which are boxes; an .svg keeps them"
        warnings.warn(text, stacklevel=2)
    for item in caught:
        if item not in lacking:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    return target
