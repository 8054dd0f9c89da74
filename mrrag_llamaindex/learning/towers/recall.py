"""Recall of pairs among held-out pairs, with intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.statistics.bootstrap import resampled_means, share_interval

RANKS = (1, 5, 10)
_BLOCK = 1024


def pair_ranks(image: Tensor, text: Tensor, reports: SameReports, rows: Tensor) -> Tensor:
    """Rank, from 0, at which each pair's other half is found among all pairs given.

    A report equal to the pair's own is as good as that; a near-equal one is not. Of equal scores
    the wrong one comes first, so that vectors that are all alike find nothing; nor do vectors with
    NaN.

    Parameters
    ----------
    image, text : Tensor, shape (m, n)
        Not necessarily of unit length.
    reports : SameReports
    rows : Tensor, shape (m,), int64
        Places of the pairs in ``reports``.

    Returns
    -------
    Tensor, shape (2, m), int64
        From image to report, and from report to image.
    """
    image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
    ranks = []
    for queries, gallery in ((image, text), (text, image)):
        parts = []
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            right = reports.matrix(rows[block], rows, near=False).to(queries.device)
            scores = queries[block] @ gallery.T
            best = scores.masked_fill(~right, float("-inf")).amax(dim=1, keepdim=True)
            # Not "scores >= best": no number compares with NaN, and NaN would be found first.
            parts.append((~(scores < best) & ~right).sum(dim=1))
        ranks.append(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64))
    return torch.stack(ranks).cpu()


def mean_recall(ranks: Tensor) -> float:
    """Mean of recall at 1, 5 and 10 in both directions: what early stopping looks at.

    One rank alone is coarse: on 40 pairs, recall@1 moves in steps of .025.
    """
    return float(torch.stack([(ranks < rank).double().mean() for rank in RANKS]).mean())


def recall_with_intervals(
    ranks: Tensor, patients: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Recall with 95% percentile intervals from a bootstrap over patients.

    The pairs of one patient are drawn together; the gallery stays as it is. Where all pairs are
    found, or none, see `share_interval`; a single patient tells nothing of others.

    Parameters
    ----------
    ranks : Tensor, shape (2, m)
        See `pair_ranks`.
    patients : sequence of str, length m
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Plain JSON: ``pairs``, ``patients``, and for ``image_to_report`` and ``report_to_image``
        by ``recall@k``: ``value``, ``low``, ``high``, ``chance`` (k of the pairs).
    """
    count = ranks.shape[1]
    table: dict[str, Any] = {"pairs": count, "patients": len(set(patients))}
    for name, row in zip(("image_to_report", "report_to_image"), ranks.numpy(), strict=True):
        table[name] = {}
        for rank in RANKS:
            hits = (row < rank).astype("float64")
            means = resampled_means(hits, patients, seed)
            low, high = share_interval(means, patients) or (0.0, 1.0)
            table[name][f"recall@{rank}"] = {
                "value": float(hits.mean()),
                "low": low,
                "high": high,
                "chance": min(1.0, rank / count),
            }
    return table
