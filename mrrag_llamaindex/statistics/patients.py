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
        The patient of each row. Their order does not matter to the split.
    fraction : float
        Share of the patients to hold out; at least one patient is on each side.
    seed : int
        Of the draw.

    Raises
    ------
    InputError
        If there are fewer than two patients.
    """
    from sklearn.model_selection import GroupShuffleSplit

    names = {name: place for place, name in enumerate(sorted(set(patients)))}
    if len(names) < 2:
        raise InputError("at least two patients are needed: one part of them is held out")
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    # Of PCG64, so that the patients drawn are those of numpy's default generator.
    draw = np.random.RandomState(np.random.PCG64(seed))
    splitter = GroupShuffleSplit(1, test_size=count, random_state=draw)
    groups = [names[patient] for patient in patients]
    training, held_out = next(splitter.split(groups, groups=groups))
    return training.tolist(), held_out.tolist()
