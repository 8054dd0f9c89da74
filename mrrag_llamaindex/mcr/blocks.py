"""How the vector of a pair is divided: the common space, and each encoder's own beside it.

Heads that join an image and a text encoder in one space cost each of them something: a text is
found by another less well than with the encoder's own features. So a pair may keep both,

    image vector [h ; r],    text vector [h' ; r'],

h and h' of one space, where any two can be compared, r and r' of two spaces of their own, where an
image meets images only, and a text texts. All four have unit length. The stored vector is still
one, [h ; r ; h' ; r'], a score is still its inner product with one vector of the question, and the
weights still live in the question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS, FusionWeights

TERM_BLOCKS: Final = {
    "image_text": (("image", "head"), ("text", "head")),
    "image_image": (("image", "head"), ("image", "head")),
    "text_text": (("text", "head"), ("text", "head")),
    "text_image": (("text", "head"), ("image", "head")),
    "raw_image": (("image", "raw"), ("image", "raw")),
    "raw_text": (("text", "raw"), ("text", "raw")),
}
"""Term to what it compares: a block of the question's image or text, and one of the pair's."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """Lengths of the blocks of a pair's vector, and the scale of each similarity.

    Parameters
    ----------
    head
        n, of the common space.
    raw_image, raw_text
        Of the encoders' own spaces; both 0 for towers that have none.
    scales
        One for each of `ALL_TERMS`: a similarity is a cosine times its scale, so that equal
        weights mean equal influence. Fitted at training, 1 by default.

    Raises
    ------
    ValueError
        If a length is no integer or out of range, only one raw block is given, or a scale is not
        finite and positive.

    Examples
    --------
    >>> Blocks(2, 1, 1).length
    6
    """

    head: int
    raw_image: int = 0
    raw_text: int = 0
    scales: tuple[float, ...] = (1.0,) * len(ALL_TERMS)

    def __post_init__(self) -> None:
        for name, least in (("head", 1), ("raw_image", 0), ("raw_text", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}")
        if bool(self.raw_image) != bool(self.raw_text):
            raise ValueError("either both encoders have a block of their own, or neither has")
        scales = tuple(float(scale) for scale in self.scales)
        if len(scales) != len(ALL_TERMS) or not all(0 < one < math.inf for one in scales):
            raise ValueError(f"scales are {self.scales!r}; they must be six positive numbers")
        object.__setattr__(self, "scales", scales)

    @classmethod
    def of(cls, towers: Any) -> Blocks:
        """Return ``towers.blocks``; for towers without it, one space of ``towers.dimension``."""
        blocks = getattr(towers, "blocks", None)
        return blocks if isinstance(blocks, Blocks) else cls(towers.dimension)

    @property
    def image(self) -> int:
        """Length of an image's vector."""
        return self.head + self.raw_image

    @property
    def text(self) -> int:
        """Length of a text's vector."""
        return self.head + self.raw_text

    @property
    def length(self) -> int:
        """Length of a pair's vector."""
        return self.image + self.text

    @property
    def terms(self) -> tuple[str, ...]:
        """The similarities that there are: `HEAD_TERMS`, or `ALL_TERMS` with raw blocks."""
        return ALL_TERMS if self.raw_image else HEAD_TERMS

    def equal_weights(self) -> FusionWeights:
        """Return the weights of towers for which none were learned: 1 for each term.

        Without raw blocks, of the paper's three only.
        """
        return FusionWeights.equal(self.terms)

    def split(self, vector: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the image and the text vector of pairs, shape (..., length)."""
        return vector[..., : self.image], vector[..., self.image :]

    def parts(self, kind: str, vectors: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the blocks of image or text vectors, shape (..., l), by name; no empty ones."""
        parts = {"head": vectors[..., : self.head]}
        if self.raw_image:
            parts["raw"] = vectors[..., self.head :]
        return parts

    def similarities(
        self, query: dict[str, Vector], image: Vector, text: Vector, terms: tuple[str, ...]
    ) -> Vector:
        """Return scaled cosines, shape (t,) or (m, t), of a question to one pair or m."""
        pair = {"image": self.parts("image", image), "text": self.parts("text", text)}
        ours = {kind: self.parts(kind, vector) for kind, vector in query.items()}
        columns = []
        for name in terms:
            (kind, block), (other, theirs) = TERM_BLOCKS[name]
            if block not in ours[kind]:
                raise InputError(f"these vectors have no similarity {name!r}: {self.terms}")
            columns.append(self.scale(name) * (pair[other][theirs] @ ours[kind][block]))
        return np.stack(columns, axis=-1)

    def query(self, query: dict[str, Vector], weights: FusionWeights) -> Vector:
        """Return the vector, shape (length,), whose inner product with a pair is its score.

        Raises
        ------
        InputError
            If the weights weigh a similarity that these vectors do not have.
        """
        ours = {kind: self.parts(kind, vector) for kind, vector in query.items()}
        fused = np.zeros(self.length)
        image, text = self.split(fused)
        theirs = {"image": self.parts("image", image), "text": self.parts("text", text)}
        for name, weight in weights.as_dict().items():
            (kind, block), (other, their) = TERM_BLOCKS[name]
            if block in ours[kind]:
                theirs[other][their] += weight * self.scale(name) * ours[kind][block]
            elif weight:
                raise InputError(
                    f"the fusion weights weigh {name!r}, which these towers do not have (they have "
                    f"{', '.join(self.terms)}): take weights that were learned on these towers"
                )
        return fused

    def check(self, kind: str, vector: ArrayLike, what: str) -> Vector:
        """Return an image or text vector as float64.

        Raises
        ------
        InputError
            If it is of another shape.
        """
        array = np.asarray(vector, dtype=np.float64)
        if array.shape != (getattr(self, kind),):
            raise InputError(f"{what} has shape {array.shape}; expected ({getattr(self, kind)},)")
        return array

    def scale(self, name: str) -> float:
        """Return the scale of a similarity."""
        return self.scales[ALL_TERMS.index(name)]
