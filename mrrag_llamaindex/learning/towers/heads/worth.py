"""Whether training heads made retrieval better than the encoders are by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures
from mrrag_llamaindex.learning.towers.heads.scales import vectors_of
from mrrag_llamaindex.mcr.score import fuse, similarity_terms
from mrrag_llamaindex.mcr.weights import ALL_TERMS, FusionWeights
from mrrag_llamaindex.statistics.bootstrap import difference_interval, resampled_means
from mrrag_llamaindex.towers.projection_head import FittedHeads

_SHOWN = 5
_UNTRAINED = FusionWeights(0, 0, 0, raw_image=1)
_TRAINED = FusionWeights(1, 1, 0, raw_image=1)
_HEADS_ALONE = FusionWeights(1, 1, 0)


def worth_of_heads(
    heads: FittedHeads,
    features: HeadFeatures,
    held_out: Tensor,
    seed: int,
    *,
    raw: bool = True,
) -> dict[str, Any]:
    """Tell how alike the reports are that an image finds, with heads and without.

    No labels are needed: a held-out image is asked about, other patients' pairs are ranked, and
    the first five reports are compared with the image's own, by the text encoder's own features.

    Parameters
    ----------
    heads
        Fitted on other patients than those held out.
    features
        Of all pairs.
    held_out
        Rows of the queries.
    seed
        Of the bootstrap over patients.
    raw
        Whether the towers will keep the encoders' own features beside the heads; if not, what is
        measured as trained are the heads alone.

    Returns
    -------
    dict
        ``chance``, ``untrained`` (raw image-image alone) and ``trained`` (image-text and
        image-image, with ``raw`` that too, scaled): mean cosines; ``gain`` and ``gain_ci``,
        trained minus untrained; ``over_chance_ci``, trained minus chance; ``queries``; ``raw``.
    """
    assert heads.raw is not None
    blocks = heads.blocks
    trained_weights = _TRAINED if raw else _HEADS_ALONE
    image = vectors_of(heads.image, heads.raw[0], features.image)
    text = vectors_of(heads.text, heads.raw[1], features.text)
    centred = features.text - features.text.mean(dim=0)
    own = nn.functional.normalize(centred, dim=1).numpy()
    owner = features.owner.numpy()
    rows: list[list[float]] = []
    for row in held_out.tolist():
        others = np.flatnonzero(owner != owner[row])
        terms = similarity_terms(
            image[row], None, image[others], text[others], terms=ALL_TERMS, blocks=blocks
        )
        alike = own[others] @ own[row]
        first = [np.argsort(-fuse(terms, w))[:_SHOWN] for w in (_UNTRAINED, trained_weights)]
        rows.append([float(alike.mean()), *(float(alike[best].mean()) for best in first)])
    values = np.array(rows)
    owners = [str(owner[row]) for row in held_out.tolist()]

    def interval(difference: NDArray[np.float64]) -> list[float]:
        found = difference_interval(resampled_means(difference, owners, seed), owners)
        return list(found or (-1.0, 1.0))

    chance, untrained, trained = values.mean(axis=0).tolist()
    return {
        "queries": len(values),
        "raw": raw,
        "chance": chance,
        "untrained": untrained,
        "trained": trained,
        "gain": trained - untrained,
        "gain_ci": interval(values[:, 2] - values[:, 1]),
        "over_chance_ci": interval(values[:, 2] - values[:, 0]),
    }


def warning_of(worth: dict[str, Any]) -> str | None:
    """Return what a user should be told where training was not worth it; None where it was."""
    low, high = worth["gain_ci"]
    if low > 0:
        return None
    told = (
        f"on {worth['queries']} held-out images the reports found with heads are "
        f"{worth['gain']:+.3f} [{low:+.3f}, {high:+.3f}] more like the image's own than without"
    )
    if worth["over_chance_ci"][0] <= 0:
        return f"{told}, and no better than chance: use other encoders, or more pairs"
    if high < 0:
        alone = "" if worth.get("raw", True) else "leave out --raw 0 and "
        return f"{told}: training made it worse; {alone}weigh the raw similarities alone"
    return f"{told}: no more than noise; the encoders as they are would do"
