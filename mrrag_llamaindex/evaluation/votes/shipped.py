"""Real cases that are shipped: a small part of VQA-RAD, with vectors computed beforehand.

For looking at the whole path on real images without a network and without any encoder: the towers
here know the shipped images and texts, and nothing else. ``tools/real_cases/make.py`` made the
files; ``cases/ATTRIBUTION.md`` says where they come from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.evaluation.data.readers.vqa_rad import (
    RadQuestions,
    read_all_questions,
    statement,
)
from mrrag_llamaindex.evaluation.votes.features import Features, unit
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.images.load import image_digest, load_image
from mrrag_llamaindex.towers.identity import make_identity

CASES = Path(__file__).parent / "cases"
"""Folder of the images, the questions, their vectors, and where they come from."""

VECTORS = "vectors.safetensors"
SETTING = "setting.json"

Vectors = NDArray[np.float32]


def shipped_questions() -> RadQuestions:
    """Return the questions about the shipped images, both parts."""
    return read_all_questions(CASES)


def shipped_setting() -> dict[str, Any]:
    """Return weights, temperature and number of pairs, chosen on all training questions.

    Those of the two terms that the shipped vectors have; see `ShippedTowers`.
    """
    setting: dict[str, Any] = json.loads((CASES / SETTING).read_text(encoding="utf-8"))
    return setting


def shipped_features() -> Features:
    """Return the shipped questions as a study takes them."""
    asked = shipped_questions()
    known = _Known()
    questions = (*asked.training, *asked.test)
    paths = list(dict.fromkeys(str(item.image) for item in questions))
    place = {path: number for number, path in enumerate(paths)}
    return Features(
        questions=questions,
        training=len(asked.training),
        image_of=np.array([place[str(item.image)] for item in questions]),
        images=np.stack([known.image(Path(path).name) for path in paths]),
        queries=np.stack([known.text(item.question) for item in questions]),
        statements=np.stack([known.text(statement(item)) for item in asked.training]),
        encoders=f"{known.encoders}, computed beforehand",
    )


class _Known:
    """The vectors by file name and by text."""

    def __init__(self) -> None:
        from safetensors import safe_open

        with safe_open(str(CASES / VECTORS), framework="np") as file:
            self.images = file.get_tensor("images").astype(np.float32)
            self.texts = file.get_tensor("texts").astype(np.float32)
            facts = file.metadata()
        self.names: list[str] = json.loads(facts["images"])
        self.digests: list[str] = json.loads(facts["texts"])
        self.encoders: str = facts["encoders"]
        self._image = {name: number for number, name in enumerate(self.names)}
        self._text = {digest: number for number, digest in enumerate(self.digests)}

    def image(self, name: str) -> Vectors:
        return np.asarray(self.images[self._image[name]])

    def text(self, text: str) -> Vectors:
        number = self._text.get(text_key(text))
        if number is None:
            raise InputError(
                "this text is none of the shipped questions, and their vectors were computed "
                "beforehand: use towers that can read texts"
            )
        return np.asarray(self.texts[number])


def text_key(text: str) -> str:
    """Return the name by which a text's vector is found."""
    return json_digest(" ".join(text.split()), 12)


class ShippedTowers:
    """Towers that look vectors up; a `mrrag_llamaindex.towers.protocol.DualTower`.

    An image's vector is ``[image ; 0]`` and a text's ``[0 ; text]``: two spaces side by side, in
    which image-image and text-text similarity are those of the encoders, and an image and a text
    have none.
    """

    source = ""
    long_text = "mean"
    text_token_limit = 256

    def __init__(self) -> None:
        self._known = _Known()
        self._split = self._known.images.shape[1]
        self.dimension = self._split + self._known.texts.shape[1]

    @property
    def identity(self) -> str:
        """See `DualTower`."""
        return make_identity("shipped", self._known.names, self._known.digests)

    @cached_property
    def _images(self) -> dict[str, str]:
        """File name by the digest of the pixels."""
        return {
            image_digest(load_image(CASES / "images" / name, what="shipped image")): name
            for name in self._known.names
        }

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> Vectors:
        """See `DualTower.embed_images`; raises `TowerError` for any image that is not shipped."""
        rows = np.zeros((len(images), self.dimension), dtype=np.float32)
        for number, image in enumerate(images):
            name = self._images.get(image_digest(image))
            if name is None:
                raise TowerError(
                    f"image {number + 1} of {len(images)} is none of the shipped ones, and their "
                    "vectors were computed beforehand: use towers that can look at images"
                )
            rows[number, : self._split] = self._known.image(name)
        return unit(rows)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Vectors:
        """See `DualTower.embed_texts`; raises `InputError` for any text that is not shipped."""
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for number, text in enumerate(texts):
            rows[number, self._split :] = self._known.text(text)
        return unit(rows)
