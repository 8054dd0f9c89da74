"""Training, validation and test part, no patient in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Positions of pairs.

    Attributes
    ----------
    train, validation, test : Tensor, int64
        Ascending.
    """

    train: Tensor
    validation: Tensor
    test: Tensor


def split_by_patient(
    patients: Sequence[str], validation: float, test: float, seed: int = 0
) -> Split:
    """Split pairs by patient.

    Parameters
    ----------
    patients : sequence of str
        Patient of each pair. Their order does not matter to the split.
    validation, test : float
        Share of the patients in each part, in [0, 1), together below 1. Of a share above 0 at
        least one patient is taken.
    seed : int

    Raises
    ------
    ValueError
        If a share is out of range.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError("the validation and test shares must be in [0, 1), together below 1")
    names = sorted(set(patients))
    drawn = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    first = max(round(validation * len(names)), int(validation > 0))
    last = first + max(round(test * len(names)), int(test > 0))
    part = {names[index]: (place >= first) + (place >= last) for place, index in enumerate(drawn)}
    rows = [part[patient] for patient in patients]
    validation_rows, test_rows, train_rows = (
        torch.tensor([row for row, at in enumerate(rows) if at == wanted], dtype=torch.int64)
        for wanted in range(3)
    )
    return Split(train_rows, validation_rows, test_rows)
