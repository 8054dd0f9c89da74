"""Recall of pairs among held-out pairs, with intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mrrag_llamaindex.learning.towers.likeness import ReportLikeness
from mrrag_llamaindex.statistics.intervals import share_interval

RANKS = (1, 5, 10)
_BLOCK = 1024


def pair_ranks(image: Tensor, text: Tensor, likeness: ReportLikeness, rows: Tensor) -> Tensor:
    """Rank, from 0, at which each pair's other half is found among all pairs given.

    A report equal to the pair's own is as good as that; a near-equal one is not. Of equal scores
    the wrong one comes first, so that vectors that are all alike find nothing; nor do vectors that
    are no numbers.

    Parameters
    ----------
    image, text : Tensor, shape (m, n)
        Not necessarily of unit length.
    likeness : ReportLikeness
    rows : Tensor, shape (m,), int64
        Places of the pairs in ``likeness``.

    Returns
    -------
    Tensor, shape (2, m), int64
        From image to report, and from report to image.
    """
    image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
    found = []
    for queries, gallery in ((image, text), (text, image)):
        parts = []
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            right = likeness.matrix(rows[block], rows, near=False).to(queries.device)
            scores = queries[block] @ gallery.T
            best = scores.masked_fill(~right, float("-inf")).amax(dim=1, keepdim=True)
            # Not "scores >= best": no number compares with NaN, and NaN would be found first.
            parts.append((~(scores < best) & ~right).sum(dim=1))
        found.append(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64))
    return torch.stack(found).cpu()


def mean_recall(ranks: Tensor) -> float:
    """Mean of recall at 1, 5 and 10 in both directions: what early stopping looks at.

    One rank alone is coarse: on 40 pairs, recall@1 moves in steps of .025.
    """
    return float(torch.stack([(ranks < rank).double().mean() for rank in RANKS]).mean())


def recall_table(
    ranks: Tensor, patients: Sequence[str], *, seed: int = 0, draws: int = 2000
) -> dict[str, Any]:
    """Recall with 95% percentile intervals from a bootstrap over patients.

    The pairs of one patient are drawn together; the gallery stays as it is. Where all pairs are
    found, or none, see `share_interval`.

    Parameters
    ----------
    ranks : Tensor, shape (2, m)
        See `pair_ranks`.
    patients : sequence of str, length m
    seed, draws : int
        Of the bootstrap.

    Returns
    -------
    dict
        Plain JSON: ``pairs``, ``patients``, and for ``image_to_report`` and ``report_to_image``
        by ``recall@k``: ``value``, ``low``, ``high``, ``chance`` (k of the pairs).
    """
    names, owner = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    count = ranks.shape[1]
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    pairs_drawn = drawn @ np.bincount(owner, minlength=len(names))
    table: dict[str, Any] = {"pairs": count, "patients": len(names)}
    for name, row in zip(("image_to_report", "report_to_image"), ranks.numpy(), strict=True):
        table[name] = {}
        for rank in RANKS:
            hits: NDArray[np.float64] = (row < rank).astype(np.float64)
            values = drawn @ np.bincount(owner, hits, minlength=len(names)) / pairs_drawn
            ends = np.quantile(values, (0.025, 0.975))
            low, high = share_interval(float(ends[0]), float(ends[1]), len(names))
            table[name][f"recall@{rank}"] = {
                "value": float(hits.mean()),
                "low": low,
                "high": high,
                "chance": min(1.0, rank / count),
            }
    return table
