"""What the commands that learn have in common: one source, settings, synthetic labels, a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.fusion.questions import FusionQuestion


def check_one_source(records: Path | None, data: str | None) -> None:
    """Raise `InputError` unless either a file or synthetic data are named."""
    if (records is None) == (data is None):
        raise InputError("name either a file of training records or --data phantom")


def settings_of(make: Callable[..., Any], **options: Any) -> Any:
    """Make settings that validate themselves; raises `InputError` where they refuse an option."""
    try:
        return make(**options)
    except ValueError as error:
        raise InputError(str(error)) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what keeps a file from being written into an `InputError` that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path.name} cannot be written: {error.strerror}") from None


def phantom_candidates(
    seed: int, device: str, *, queries: int, regime: str = "combination"
) -> tuple[list[FusionQuestion], str]:
    """Draw synthetic questions, labelled by their truth; also returns the towers' identity."""
    from mrrag_llamaindex.phantom.sets.support_labels import label_phantom
    from mrrag_llamaindex.towers.loading import load_towers

    towers = load_towers(defaults.PHANTOM, device=device)
    questions = label_phantom(seed, towers, queries=queries, regime=regime)  # type: ignore[arg-type]
    return questions, towers.identity
