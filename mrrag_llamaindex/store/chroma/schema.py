"""What a pair store's collection says about itself: its index, its towers, its version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import StoreError

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

SCHEMA_VERSION = 1
"""Version of the record layout; a store of a later version is refused."""

_VERSION_KEY = "mrrag_schema"
_IDENTITY_KEY = "mrrag_towers_identity"
_SOURCE_KEY = "mrrag_towers_source"
_DIMENSION_KEY = "mrrag_dimension"


@dataclass(frozen=True)
class HNSWSettings:
    """Chroma's HNSW index; fixed when the collection is created.

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
        for name in ("max_neighbors", "ef_construction", "ef_search"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 2:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 2")

    def configuration(self) -> dict[str, Any]:
        """Return the collection configuration.

        The space is always ``ip``: with a missing half, ``cosine`` and ``l2`` rank wrongly.
        """
        return {
            "hnsw": {
                "space": "ip",
                "max_neighbors": self.max_neighbors,
                "ef_construction": self.ef_construction,
                "ef_search": self.ef_search,
            }
        }


@dataclass(frozen=True)
class StoreSchema:
    """Which towers made a store's vectors, and of what length they are.

    The vectors are useless without the towers that made them, and nothing about a vector says
    which those were: hence they are written into the collection's metadata.

    Parameters
    ----------
    towers_identity
        ``DualTower.identity``: name and hash of weights and configuration.
    towers_source
        What `load_towers` takes to get them again, ``""`` if they exist in memory only.
    dimension
        n; records have length 2n.

    Raises
    ------
    ValueError
        If the identity is empty or the dimension is not a positive integer.
    """

    towers_identity: str
    towers_source: str
    dimension: int

    def __post_init__(self) -> None:
        if not isinstance(self.towers_identity, str) or not self.towers_identity:
            raise ValueError("towers_identity must be a non-empty string")
        if not isinstance(self.towers_source, str):
            raise ValueError('towers_source must be a string ("" for towers in memory only)')
        if not isinstance(self.dimension, int) or self.dimension < 1:
            raise ValueError(f"dimension is {self.dimension!r}; it must be a positive integer")

    def to_metadata(self, hnsw: HNSWSettings) -> dict[str, str | int]:
        """Return the collection metadata that records this schema and the index settings."""
        return {
            _VERSION_KEY: SCHEMA_VERSION,
            _IDENTITY_KEY: self.towers_identity,
            _SOURCE_KEY: self.towers_source,
            _DIMENSION_KEY: self.dimension,
            "mrrag_max_neighbors": hnsw.max_neighbors,
            "mrrag_ef_construction": hnsw.ef_construction,
            "mrrag_ef_search": hnsw.ef_search,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None, what: str) -> StoreSchema:
        """Read the schema of an existing collection.

        Parameters
        ----------
        metadata
            The collection's metadata, `None` when it has none.
        what
            How to name the collection in an error.

        Raises
        ------
        StoreError
            If the collection is not a pair store, or of a later version.
        """
        data = dict(metadata or {})
        if _VERSION_KEY not in data:
            raise StoreError(
                f"{what} is not a pair store (nothing says which towers made its vectors): "
                "choose another name, or make a store with `mrrag ingest`"
            )
        if data[_VERSION_KEY] != SCHEMA_VERSION:
            raise StoreError(
                f"{what} has layout version {data[_VERSION_KEY]}; this release reads version "
                f"{SCHEMA_VERSION}: upgrade mrrag-llamaindex, or ingest again"
            )
        try:
            return cls(data[_IDENTITY_KEY], data[_SOURCE_KEY], data[_DIMENSION_KEY])
        except (KeyError, ValueError) as error:
            raise StoreError(f"{what} has damaged metadata ({error}): ingest again") from None


def check_index(collection: Collection, schema: StoreSchema, what: str) -> None:
    """Raise `StoreError` if the index or the stored vectors are not what the schema says.

    Parameters
    ----------
    collection
        An existing collection.
    schema
        Its schema.
    what
        How to name it in an error.
    """
    space = (collection.configuration_json.get("hnsw") or {}).get("space")
    if space != "ip":
        raise StoreError(
            f"{what} has an index of space {space!r}, which ranks pairs with a missing half "
            "wrongly; a pair store needs 'ip': ingest into a new store"
        )
    sample = collection.get(limit=1, include=["embeddings"])["embeddings"]
    if sample is not None and len(sample) and len(sample[0]) != 2 * schema.dimension:
        raise StoreError(
            f"{what} holds vectors of length {len(sample[0])}, but says that its towers give "
            f"2 x {schema.dimension}: something else has written it; ingest again"
        )
