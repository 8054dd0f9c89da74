"""Which towers and which model this machine can run now: what is here is examined, not loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.towers.folders import TOWER_FILE

_MOST: Final = 30
"""Repositories of the local cache that are examined."""


@dataclass(frozen=True)
class Suggestion:
    """Towers or a model, by the name that the commands take.

    Attributes
    ----------
    name : str
    synthetic : bool
        Whether it is the shipped one: it works at once, and says nothing about real patients.
    fits : bool
        Whether it can be loaded here.
    verdict : str
        What ``mrrag doctor`` says of it.
    why : str
        Why this one.
    """

    name: str
    synthetic: bool
    fits: bool
    verdict: str
    why: str


def suggest_towers(given: str | None, folder: Path, device: str = "auto") -> Suggestion:
    """Return the towers that are given, or those that are here, or the shipped ones.

    Parameters
    ----------
    given : str or None
    folder : Path
        Where trained towers are looked for: in its folders. Then in the local cache of the hub.
    device : str

    Raises
    ------
    MRRAGError
        If those that are given are none.
    """
    from mrrag_llamaindex.doctor.towers import examine_towers

    def examine(name: str) -> tuple[bool, str]:
        diagnosis = examine_towers(name, device)
        return diagnosis.loadable, diagnosis.verdict

    trained = (os.path.relpath(path.parent) for path in sorted(folder.glob(f"*/{TOWER_FILE}")))
    candidates = [
        *((name, "they were trained here") for name in trained),
        *((name, "they are in the local cache") for name in cached_repositories()),
    ]
    return _first(given, candidates, examine)


def suggest_model(given: str | None, device: str = "auto") -> Suggestion:
    """Return the model that is given, or one that is here and fits, or the shipped one.

    Raises
    ------
    MRRAGError
        If the one that is given is none.
    """
    from mrrag_llamaindex.doctor.examine import examine as examine_model

    def examine(name: str) -> tuple[bool, str]:
        diagnosis = examine_model(name, device=device)
        sees = diagnosis.image_tokens > 0
        return diagnosis.loadable and sees, diagnosis.verdict

    cached = sorted(cached_repositories(), key=lambda name: name != defaults.DEFAULT_MODEL)
    return _first(given, [(name, "it is in the local cache") for name in cached], examine)


def cached_repositories() -> Iterator[str]:
    """Yield the ids of models whose weights are in the hub's local cache; the hub is not asked."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        found = scan_cache_dir()
    except (CacheNotFound, ValueError, OSError):
        return
    names = {
        repo.repo_id
        for repo in found.repos
        if repo.repo_type == "model"
        for revision in repo.revisions
        if any(file.file_name.endswith((".safetensors", ".bin")) for file in revision.files)
    }
    yield from sorted(names)[:_MOST]


def _first(
    given: str | None,
    candidates: Iterable[tuple[str, str]],
    examine: Callable[[str], tuple[bool, str]],
) -> Suggestion:
    """Return the first that fits; the shipped one always does."""
    if given is not None:
        fits, verdict = examine(given)
        return Suggestion(given, given == defaults.PHANTOM, fits, verdict, "as you say")
    for name, why in candidates:
        try:
            fits, verdict = examine(name)
        except MRRAGError:  # of another kind: a tokenizer, a text model
            continue
        if fits:
            return Suggestion(name, False, True, verdict, why)
    fits, verdict = examine(defaults.PHANTOM)
    why = "shipped with the package; synthetic, so its answers say nothing about real patients"
    return Suggestion(defaults.PHANTOM, True, fits, verdict, why)
