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
    from mrrag_llamaindex.store.protocol import PairStore


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
def store_for(store: str | None, **others: Path | None) -> Iterator[PairStore | None]:
    """Open the store that what is learned is kept in; None where none is named.

    Raises
    ------
    InputError
        If an option is given beside it that says the same of a file.
    """
    if store is None:
        yield None
        return
    if given := [name for name, value in others.items() if value is not None]:
        raise InputError(f"--store knows its own files: leave out --{given[0]}")
    from mrrag_llamaindex.store.protocol import PairStore

    with PairStore.open(store) as pairs:
        yield pairs


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
