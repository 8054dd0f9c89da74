"""The vectors of a question: of its image, and of the texts that stand for it in the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.towers.gathering import GatheredTowers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mrrag_llamaindex.images.query_image import QueryImage
    from mrrag_llamaindex.towers.protocol import DualTower

_SHORTEST = 1e-6
"""Of a mean vector: below it what it is the mean of points in opposite directions."""


def query_vectors(
    towers: DualTower, texts: Sequence[str], image: QueryImage | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Return the vector of an image and that of the texts, each None where there is none.

    They are kept with the image, and let go with it: weights live in the query, so that ranking
    again by others embeds nothing.
    """
    if image is None:
        return None, mean_embedding(towers, texts)
    identity = towers.identity
    first = image.views[0]
    image_vector = first.kept(
        ("image", identity), lambda: GatheredTowers(towers).embed_images([first.rgb])[0]
    )
    text_vector = image.kept(
        ("texts", identity, tuple(texts)), lambda: mean_embedding(towers, texts)
    )
    return image_vector, text_vector


def study_vectors(
    towers: DualTower, texts: Sequence[str], image: QueryImage | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Return the vectors of all images of a question, (images, n), and that of the texts.

    As `query_vectors`, which takes the first image: each is kept with its own.
    """
    _, text = query_vectors(towers, texts, image)
    if image is None:
        return None, text
    vectors = [query_vectors(towers, (), view)[0] for view in image.views]
    return np.stack([vector for vector in vectors if vector is not None]), text


def mean_embedding(towers: DualTower, texts: Sequence[str]) -> NDArray[np.float32] | None:
    """Return the mean of the texts' vectors, of unit length; None where none says anything.

    A question may stand for several texts (`QueryBundle.custom_embedding_strs`), as a hypothetical
    document beside the question itself.

    Returns
    -------
    ndarray of float32, shape (n,), or None
        With raw blocks longer, each block of unit length.

    Raises
    ------
    InputError
        If a text is longer than `defaults.MAX_QUESTION_CHARACTERS`, or if the texts point in
        opposite directions.
    """
    longest = max(map(len, texts), default=0)
    if longest > defaults.MAX_QUESTION_CHARACTERS:
        raise InputError(
            f"the question has {longest:,} characters, more than any question has (limit "
            f"{defaults.MAX_QUESTION_CHARACTERS:,}); shorten it"
        )
    texts = [text for text in texts if text.strip()]
    if not texts:
        return None
    vectors = GatheredTowers(towers).embed_texts(texts)
    if len(vectors) == 1:
        return np.asarray(vectors[0], dtype=np.float32)
    return unit_mean(Blocks.of(towers), "text", vectors)[0]


def unit_mean(
    blocks: Blocks, kind: str, vectors: NDArray[Any]
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return the mean of vectors (m, n), each block of unit length, and the lengths before that.

    Parameters
    ----------
    blocks : Blocks
    kind : {"image", "text"}
    vectors : ndarray, shape (m, n)

    Raises
    ------
    InputError
        If they point in opposite directions.
    """
    parts = blocks.parts(kind, vectors.mean(axis=0))
    lengths = {name: float(np.linalg.norm(part)) for name, part in parts.items()}
    if min(lengths.values()) < _SHORTEST:
        raise InputError(f"the {kind}s of this question point in opposite directions; give one")
    units = np.concatenate([part / lengths[name] for name, part in parts.items()])
    return units.astype(np.float32), lengths
