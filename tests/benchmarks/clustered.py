"""Vectors as a trained dual encoder gives them, weights to rank them by, and what is told of both.

The vectors are synthetic: a shared latent in uneven clusters, a fixed gap between the modalities,
noise of their own. Real embeddings may be harder or easier. Intervals are 95%: for recall the wider
of a bootstrap over questions and Wilson's over places, for ratios of medians a bootstrap over
questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
K = 10
BAR = 0.99
WEIGHTS = [
    (1.0, 1.0, 1.0),
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.9, 0.05, 2.2),
    (1.0, -0.3, 1.0),
    (1.0, 1.0, -0.5),
    (-1.0, 0.5, 2.0),
]
SIX_WEIGHTS = [
    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    (0.9, 0.05, 2.2, 0.1, 0.7, 1.1),
    (1.0, -0.3, 1.0, 0.2, -0.4, 1.0),
    (-1.0, 0.5, 2.0, -0.5, 1.0, -0.7),
]


class Synthetic:
    """Draws vectors as a trained dual encoder gives them.

    Parameters
    ----------
    dimension
        n.
    seed
        Fixes clusters, maps and gap.
    raw
        How many of the n are of the modality's own space.
    """

    clusters = 300
    latent = 64

    def __init__(self, dimension: int, seed: int, raw: int = 0) -> None:
        dimension -= raw
        rng = np.random.default_rng(seed)
        self.centres = rng.standard_normal((self.clusters, self.latent))
        self.share = rng.permutation(1.0 / np.arange(1, self.clusters + 1))  # a few large ones
        self.share /= self.share.sum()
        self.shared_map = rng.standard_normal((self.latent, dimension)) / np.sqrt(self.latent)
        self.gap = 0.8 * rng.standard_normal((2, dimension))
        self.raw_maps = rng.standard_normal((2, self.latent, raw)) / np.sqrt(self.latent)

    def draw(self, rows: int, seed: int) -> tuple[Vectors, Vectors]:
        """Return unit image and text vectors, each of shape (rows, n)."""
        rng = np.random.default_rng(seed)
        which = rng.choice(self.clusters, size=rows, p=self.share)
        study = self.centres[which] + 0.5 * rng.standard_normal((rows, self.latent))
        halves = []
        for modality in range(2):
            own = study + 0.4 * rng.standard_normal(study.shape)
            half = own @ self.shared_map + self.gap[modality]
            half += 0.15 * rng.standard_normal(half.shape)
            half /= np.linalg.norm(half, axis=1, keepdims=True)
            if raw := self.raw_maps.shape[2]:
                further = own @ self.raw_maps[modality]
                further += 0.15 * rng.standard_normal((rows, raw))
                further /= np.linalg.norm(further, axis=1, keepdims=True)
                half = np.concatenate([half, further], axis=1)
            halves.append(half.astype(np.float32))
        return halves[0], halves[1]


def right_places(exact: Vectors, places: list[int]) -> float:
    """Return the share of K places whose exact score reaches the tenth best."""
    best = min(K, len(exact))
    tenth = np.sort(exact)[-best] - 1e-6 * max(1.0, float(np.abs(exact).max()))
    return float(np.sum(exact[places] >= tenth)) / best


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def recall_interval(shares: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    means = shares[rng.integers(0, len(shares), (2000, len(shares)))].mean(1)
    n, p, z = K * len(shares), float(shares.mean()), 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    spread = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = np.percentile(means, [2.5, 97.5])
    return min(low, centre - spread), max(high, min(1.0, centre + spread))


def ratio(a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator) -> str:
    rows = rng.integers(0, len(a), (2000, len(a)))
    draws = np.median(a[rows], axis=1) / np.median(b[rows], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{np.median(a) / np.median(b):.3f} [{low:.3f}, {high:.3f}]"
