"""What a store's vectors are: which towers made them, how long they are, and what may enter.

Stores take any vector without a word: a NaN query is answered with NaN, another length of a half
changes every score. Only unit halves (or zero halves, for what is missing) make the inner product
a sum of weighted cosines, so each vector is checked here before a back end sees it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.store.pair import Pair

if TYPE_CHECKING:
    from mrrag_llamaindex.towers.protocol import DualTower

SCHEMA_VERSION: Final = 2
"""Version of the record layout; a store of another version is refused."""

UNIT_TOLERANCE: Final = 1e-3
"""How far a unit vector's length may be from 1: half precision keeps it within this."""

Kind: TypeAlias = Literal["image", "text"]
"""Which half of a pair or a question."""

KINDS: Final[tuple[Kind, Kind]] = ("image", "text")

_PREFIX = "mrrag_"
_VERSION_KEY = "mrrag_schema"
_KEYS = ("towers_identity", "towers_source", "dimension")


@dataclass(frozen=True)
class HNSWSettings:
    """An HNSW index; fixed when the store is made.

    Parameters
    ----------
    max_neighbors
        Degree M of the graph.
    ef_construction
        Search width while building.
    ef_search
        Search width of a query. The default keeps recall@10 at 1.000 up to 100,000 pairs in the
        hardest direction (image to text alone); start at 800 near 500,000. It cannot be raised
        later: Chroma stores a change but does not apply it to an index that is loaded.

    Raises
    ------
    ValueError
        If a value is not an integer of at least 2.
    """

    max_neighbors: int = defaults.MAX_NEIGHBORS
    ef_construction: int = defaults.EF_CONSTRUCTION
    ef_search: int = defaults.EF_SEARCH

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 2:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 2")


@dataclass(frozen=True)
class StoreSchema:
    """Which towers made a store's vectors, and of what length they are.

    The vectors are useless without the towers that made them, and nothing about a vector says
    which those were: hence the store keeps this with them.

    Parameters
    ----------
    towers_identity
        ``DualTower.identity``: name and hash of weights and configuration.
    towers_source
        What `load_towers` takes to get them again, ``""`` if they exist in memory only.
    dimension
        n, of the common space; records of towers without raw blocks have length 2n.
    hnsw
        Settings of the index, `None` for the back end's own.
    blocks
        How the vectors are divided, and the scales of the similarities; by default one space.

    Raises
    ------
    ValueError
        If the identity is empty, the dimension is not a positive integer, or the blocks are of
        another one.
    """

    towers_identity: str
    towers_source: str
    dimension: int
    hnsw: HNSWSettings | None = None
    blocks: Blocks = None  # type: ignore[assignment]  # from the dimension if not given

    def __post_init__(self) -> None:
        if not isinstance(self.towers_identity, str) or not self.towers_identity:
            raise ValueError("towers_identity must be a non-empty string")
        if not isinstance(self.towers_source, str):
            raise ValueError('towers_source must be a string ("" for towers in memory only)')
        if not isinstance(self.dimension, int) or self.dimension < 1:
            raise ValueError(f"dimension is {self.dimension!r}; it must be a positive integer")
        if self.blocks is None:
            object.__setattr__(self, "blocks", Blocks(self.dimension))
        if self.blocks.head != self.dimension:
            raise ValueError(f"dimension is {self.dimension}, the blocks say {self.blocks.head}")

    @classmethod
    def of(cls, towers: DualTower) -> StoreSchema:
        """Return the schema of a store for these towers."""
        blocks = Blocks.of(towers)
        return cls(towers.identity, towers.source, towers.dimension, blocks=blocks)

    @property
    def length(self) -> int:
        """Length of a record's vector."""
        return self.blocks.length

    def to_metadata(self) -> dict[str, str | int]:
        """Return flat values for a back end to keep with the vectors."""
        values = {name: getattr(self, name) for name in _KEYS}
        if self.hnsw is not None:
            values.update(asdict(self.hnsw))
        if self.blocks != Blocks(self.dimension):
            values["blocks"] = json.dumps(asdict(self.blocks))
        return {_VERSION_KEY: SCHEMA_VERSION, **{_PREFIX + key: values[key] for key in values}}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None, name: str) -> StoreSchema:
        """Read what `to_metadata` returned.

        Parameters
        ----------
        metadata
            What the back end keeps, `None` when it keeps nothing.
        name
            Of the store, for errors.

        Raises
        ------
        StoreError
            If it is not a pair store, or of another version.
        """
        data = dict(metadata or {})
        if _VERSION_KEY not in data:
            raise StoreError(
                f"{name} is not a pair store (nothing says which towers made its vectors): "
                "choose another name, or make a store with `mrrag ingest`"
            )
        if data[_VERSION_KEY] != SCHEMA_VERSION:
            raise StoreError(
                f"{name} has layout version {data[_VERSION_KEY]}; this release reads version "
                f"{SCHEMA_VERSION}: upgrade mrrag-llamaindex, or ingest again"
            )
        index = {
            key: data[_PREFIX + key] for key in asdict(HNSWSettings()) if _PREFIX + key in data
        }
        try:
            own = {key: data[_PREFIX + key] for key in _KEYS}
            divided = json.loads(data.get(_PREFIX + "blocks", "null"))
            blocks = Blocks(**divided) if divided else Blocks(own["dimension"])
            return cls(**own, hnsw=HNSWSettings(**index) if index else None, blocks=blocks)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{name} has damaged metadata ({error}): ingest again") from None

    def check_query(
        self, image: ArrayLike | None, text: ArrayLike | None
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Return the two halves of a question as float32.

        Parameters
        ----------
        image, text
            Shape (n,), unit length (with raw blocks longer, each block of unit length); at most
            one of them may be `None`.

        Raises
        ------
        InputError
            If both are `None`, or one has another shape, holds NaN or infinity, or is not of unit
            length.
        """
        if image is None and text is None:
            raise InputError("the question has neither an image nor a text vector")
        return self._query_half("image", image), self._query_half("text", text)

    def _query_half(self, kind: Kind, vector: ArrayLike | None) -> NDArray[np.float32] | None:
        if vector is None:
            return None
        array, length = np.asarray(vector, dtype=np.float32), getattr(self.blocks, kind)
        if array.shape != (length,):
            raise InputError(
                f"query {kind} vector has shape {array.shape}, but the store holds vectors of "
                f"{length}: was it made by other towers?"
            )
        if problem := self.problem(kind, array):
            raise InputError(f"query {kind} vector {problem}")
        return array

    def problem(self, kind: Kind, vector: NDArray[np.float32]) -> str:
        """Return what is wrong with an image's or a text's vector; ``""`` for nothing.

        Each of its blocks must have unit length.
        """
        return blocks_problem(self.blocks, kind, vector)

    def check_pairs(
        self, pairs: Sequence[Pair], image: ArrayLike, text: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the two halves of some pairs as float32.

        Parameters
        ----------
        pairs
            m pairs.
        image, text
            Shape (m, n): unit rows where the pair has that half, zero rows where it lacks it.

        Raises
        ------
        InputError
            Naming the first pair whose vectors do not fit.
        """
        halves: dict[Kind, NDArray[np.float32]] = {
            "image": np.asarray(image, np.float32),
            "text": np.asarray(text, np.float32),
        }
        for name, array in halves.items():
            shape = (len(pairs), getattr(self.blocks, name))
            if array.shape != shape:
                raise InputError(
                    f"{name} vectors have shape {array.shape}, expected {shape}: one row for each "
                    "pair, of the store's dimension"
                )
        for row, pair in enumerate(pairs):
            missing = "text" if pair.missing == "report" else pair.missing
            for name, array in halves.items():
                if name != missing:
                    problem = self.problem(name, array[row])
                else:
                    problem = "is not zero, but the pair lacks that half" * bool(array[row].any())
                if problem:
                    raise InputError(f"pair {pair.pair_id!r}: the {name} vector {problem}")
        return halves["image"], halves["text"]


def blocks_problem(blocks: Blocks, kind: Kind, vector: NDArray[np.float32]) -> str:
    """Return what keeps the blocks of a vector from being unit vectors; ``""`` for nothing."""
    parts = blocks.parts(kind, vector)
    return next(
        (
            problem if name == "head" else f"of its raw block {problem}"
            for name, part in parts.items()
            if (problem := unit_problem(part))
        ),
        "",
    )


def unit_problem(vector: NDArray[np.float32]) -> str:
    """Return what keeps `vector`, shape (n,), from being a unit vector; ``""`` for nothing."""
    if not np.isfinite(vector).all():
        return "holds NaN or infinite values"
    length = float(np.linalg.norm(vector))
    if abs(length - 1.0) > UNIT_TOLERANCE:
        return f"has length {length:.4g}; it must be normalised to 1"
    return ""
