"""Turns pairs into the two halves of their vectors, without losing the many to the few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import ImageError, InputError, TowerError
from mrrag_llamaindex.files.digests import text_digest
from mrrag_llamaindex.images.load import image_digest
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.schema import KINDS, blocks_problem
from mrrag_llamaindex.towers.protocol import Remembers

if TYPE_CHECKING:
    from PIL import Image

    from mrrag_llamaindex.towers.protocol import DualTower

_PIXELS_AT_ONCE = 50_000_000
"""Decoded pixels held at once (150 MB): a batch of mammograms would be gigabytes."""


@dataclass(frozen=True, eq=False)
class EmbeddedPairs:
    """The vectors of m pairs.

    Parameters
    ----------
    image_vectors, text_vectors
        Shape (m, n), float32: unit rows (with raw blocks longer); zero rows where the pair lacks
        that half or failed.
    problems
        Place (0-based) to reason, for each pair that could not be embedded.
    """

    image_vectors: NDArray[np.float32]
    text_vectors: NDArray[np.float32]
    problems: dict[int, str]


def embed_pairs(
    pairs: Sequence[Pair], towers: DualTower, reading: ReadingOptions | None = None
) -> EmbeddedPairs:
    """Load and embed pairs; a pair that cannot be is named, and the others go on.

    What the towers remember of an image or a report (`Remembers`) is not computed again.

    Parameters
    ----------
    pairs
        m pairs; either half may be absent.
    towers
        The dual encoder.
    reading
        Window and frame of the images.
    """
    blocks = Blocks.of(towers)
    images = np.zeros((len(pairs), blocks.image), dtype=np.float32)
    texts = np.zeros((len(pairs), blocks.text), dtype=np.float32)
    problems: dict[int, str] = {}
    reading = reading or ReadingOptions()
    of_image, of_text = (partial(blocks_problem, blocks, kind) for kind in KINDS)
    known = _remembered(pairs, towers, reading, images, texts)
    for group in _loaded(pairs, problems, reading, known["image"]):
        _embed(towers.embed_images, group, images, problems, of_image)
    reports = [
        (place, pair.report)
        for place, pair in enumerate(pairs)
        if pair.report is not None and place not in problems and place not in known["text"]
    ]
    _embed(towers.embed_texts, reports, texts, problems, of_text)
    return EmbeddedPairs(images, texts, dict(sorted(problems.items())))


def _remembered(
    pairs: Sequence[Pair],
    towers: DualTower,
    reading: ReadingOptions,
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
) -> dict[str, set[int]]:
    """Write the vectors that the towers know already, and return their places by kind."""
    known: dict[str, set[int]] = {"image": set(), "text": set()}
    if not isinstance(towers, Remembers) or not towers.remembers:
        return known
    keys: dict[str, dict[int, str]] = {"image": {}, "text": {}}
    for place, pair in enumerate(pairs):
        if pair.report is not None:
            with suppress(UnicodeEncodeError):  # of what is no text; named by the towers
                keys["text"][place] = text_digest(pair.report)
        # With a window or a frame the same file is another image.
        if pair.image is not None and not reading.settings:
            with suppress(ImageError):  # named when it is loaded
                keys["image"][place] = image_digest(pair.image)
    for kind, rows in (("image", images), ("text", texts)):
        found = towers.remembered(kind, list(keys[kind].values()))
        for place, key in keys[kind].items():
            if key in found:
                rows[place] = found[key]
                known[kind].add(place)
    return known


def _loaded(
    pairs: Sequence[Pair], problems: dict[int, str], reading: ReadingOptions, known: set[int]
) -> Iterator[list[tuple[int, Image.Image]]]:
    """Yield the decoded images with their places, a bounded number of pixels at a time."""
    group: list[tuple[int, Image.Image]] = []
    pixels = 0
    for place, pair in enumerate(pairs):
        if pair.image is None or place in known:
            continue
        try:
            image = reading.load(pair.image)
        except ImageError as error:
            problems[place] = str(error)
            continue
        group.append((place, image))
        pixels += image.width * image.height
        if pixels > _PIXELS_AT_ONCE:
            yield group
            group, pixels = [], 0
    yield group


def _embed(
    embed: Callable[[Any], NDArray[np.float32]],
    items: Sequence[tuple[int, Any]],
    vectors: NDArray[np.float32],
    problems: dict[int, str],
    problem_of: Callable[[NDArray[np.float32]], str],
) -> None:
    """Write the vectors of the items into the rows of `vectors`, and what failed into `problems`.

    A tower refuses a whole batch for one bad item, so the items are then tried one by one.
    """
    if not items:
        return
    try:
        rows = embed([item for _, item in items])
    except (TowerError, InputError) as error:
        if len(items) == 1:
            problems[items[0][0]] = str(error)
        else:
            for item in items:
                _embed(embed, [item], vectors, problems, problem_of)
        return
    for (place, _), row in zip(items, rows, strict=True):
        vector = np.asarray(row, dtype=np.float32)
        if vector.shape != vectors.shape[1:]:
            problems[place] = f"its vector has shape {vector.shape}, not {vectors.shape[1:]}"
        elif problem := problem_of(vector):
            problems[place] = f"its vector {problem}"
        else:
            vectors[place] = vector
