"""Holding part of the patients out: no patient is on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrrag_llamaindex.errors import InputError


def split_by_patient(
    patients: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return the places of the training and the held-out rows; no patient is in both.

    Parameters
    ----------
    patients : sequence of str
        The patient of each row.
    fraction : float
        Share of the patients to hold out; at least one patient is on each side.
    seed : int
        Of the draw.

    Raises
    ------
    InputError
        If there are fewer than two patients.
    """
    names = sorted(set(patients))
    if len(names) < 2:
        raise InputError("the fusion needs at least two patients: one part is held out")
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    drawn = np.random.default_rng(seed).permutation(len(names))[:count]
    out = {names[place] for place in drawn}
    kept = [place for place, name in enumerate(patients) if name not in out]
    return kept, [place for place, name in enumerate(patients) if name in out]
