"""Embedding pairs: one bad pair never costs the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.store.entry import embedding
from mrrag_llamaindex.store.entry.embedding import embed_pairs
from mrrag_llamaindex.store.pair import Pair


class GreyTowers:
    """A small real encoder: an image by its mean colour, a text by its length.

    Black images give NaN, and the word "refuse" is refused, as real encoders do for inputs that
    they cannot represent.
    """

    source, identity, dimension = "", "grey@1", 4
    text_token_limit, long_text = 100, "truncate"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        self.batches.append(len(images))
        means = np.array([np.asarray(image, dtype=float).mean((0, 1)) for image in images])
        rows = np.concatenate([means, np.zeros((len(images), 1))], axis=1)
        with np.errstate(invalid="ignore"):
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        if any(text == "refuse" for text in texts):
            raise TowerError("a text cannot be encoded")
        angles = np.array([len(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], 1)


def image(red: int) -> Image.Image:
    return Image.new("RGB", (20, 20), (red, 10 if red else 0, 0))


def test_each_failure_is_named_and_the_rest_is_embedded(tmp_path) -> None:
    (tmp_path / "jane.png").write_bytes(b"not an image")
    pairs = [
        Pair(image(50), "good", "a"),
        Pair(tmp_path / "jane.png", "unreadable", "b"),
        Pair(image(0), "NaN", "c"),
        Pair(image(99), "refuse", "d"),
        Pair(None, "no image", "e"),
        Pair(image(70), None, "f"),
    ]
    made = embed_pairs(pairs, GreyTowers())
    assert list(made.problems) == [1, 2, 3]
    assert "not an image" in made.problems[1]
    assert "jane" not in made.problems[1]
    assert "NaN" in made.problems[2]
    assert made.problems[3] == "a text cannot be encoded"
    norms = np.linalg.norm(made.image_vectors, axis=1), np.linalg.norm(made.text_vectors, axis=1)
    np.testing.assert_allclose(norms[0][[0, 4, 5]], [1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(norms[1][[0, 4, 5]], [1, 1, 0], atol=1e-6)


def test_large_images_are_not_all_held_decoded_at_once(monkeypatch) -> None:
    monkeypatch.setattr(embedding, "_PIXELS_AT_ONCE", 3 * 400 - 1)
    towers = GreyTowers()
    made = embed_pairs([Pair(image(i), "t", str(i)) for i in range(1, 9)], towers)
    assert towers.batches == [3, 3, 2]
    expected = GreyTowers().embed_images([image(i) for i in range(1, 9)])
    np.testing.assert_array_equal(made.image_vectors, expected)


def test_programming_errors_in_a_tower_are_not_taken_for_bad_input() -> None:
    class Broken(GreyTowers):
        def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
            raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        embed_pairs([Pair(image(5), "t", "a")], Broken())


def test_no_pairs_give_no_vectors() -> None:
    made = embed_pairs([], GreyTowers())
    assert made.image_vectors.shape == (0, 4)
    with pytest.raises(InputError, match="neither"):
        _ = Pair(None, None, "x").missing
