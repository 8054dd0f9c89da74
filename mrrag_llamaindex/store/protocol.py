"""A place for pairs: what every back end does, written once, and what each does in its own way.

A pair is one vector ``[d_i ; d_t]`` and its record; a question is one vector that carries the
weights (`score.fused_query`), so that their inner product is the score of Eq. 1 to float32
precision. `PairStore` checks vectors and ids, leaves out what is excluded or filtered, orders,
scores by terms and names errors. A back end subclasses it and adds what `backends.Backend` asks
for: raw operations on ids, vectors and records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.mcr.score import document_vector, fuse, fused_query, similarity_terms
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.store.backends import Backend, Where, backend_of, store_errors
from mrrag_llamaindex.store.collection_name import check_collection_name
from mrrag_llamaindex.store.filters import Comparison, Filter
from mrrag_llamaindex.store.hits import Exclusion, Fingerprint, Hit, StoredPair
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.schema import StoreSchema

COMPLETE_RECORDS: Final = 256
"""Up to this many candidates are fetched with vectors and reports; of more, only what decides
whether they may be returned."""

SPARE: Final = 1
"""Candidates beyond those wanted, which show whether pairs of equal score go on behind them."""

MOST_TIED: Final = 256
"""Candidates that are looked at for pairs of the score of the last one wanted."""


class PairStore(Backend):
    """Pairs of one pair of towers; made by `create`, `open` or `open_or_create`.

    Safe for several threads. A context manager that closes itself.

    Attributes
    ----------
    name : str
        The place, for messages.
    schema : StoreSchema
        Towers, dimension and index settings.
    folder : Path or None
        Of the store; None for one in memory or on a server.
    """

    def __init__(self, name: str, schema: StoreSchema, folder: Path | None = None) -> None:
        self.name = name
        self.schema = schema
        self.folder = folder

    def __deepcopy__(self, _: Any) -> PairStore:
        """Return the store itself: what holds it is copied, and the pairs are not."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse: a store is open in one process."""
        raise StoreError(
            f"store {self.name} is open in this process, and cannot be sent to another one with "
            "what holds it (an index, an engine, a retriever, a postprocessor): open it there, "
            "MRRAGIndex.from_store(...)"
        )

    @classmethod
    def create(cls, where: Where, schema: StoreSchema, *, collection: str = "pairs") -> PairStore:
        """Make an empty store.

        Parameters
        ----------
        where
            ``"memory"`` (ends with this object, seen by no other store), ``"numpy"`` (the same,
            searched by an exact scan), a folder, ``"http://host:port"``, a synchronous chromadb
            client, a URL of another engine (``"postgresql://user@host/database"``,
            ``"qdrant+http://host:6333"``, ``"milvus+http://host:19530"``) or a vector store of
            LlamaIndex, which has to prove that it ranks by inner product. The back ends are listed
            in `store.backends`.
        schema
            Towers, dimension and index settings, fixed from now on and recorded.
        collection
            Its name; a place holds any number of collections. Use one per split or tenant: in
            Chroma, filtering inside a collection is 7 to 48 times slower.

        Raises
        ------
        StoreError
            If there is a collection of that name, the name is not usable, or the place is not.
        """
        check_collection_name(collection)
        store: PairStore = backend_of(where)._create(where, collection, schema)
        return store

    @classmethod
    def open(cls, where: Where, *, collection: str = "pairs") -> PairStore:
        """Open an existing store; makes nothing, on disk or elsewhere.

        Raises
        ------
        StoreError
            If there is no such store, or it is something else: no pair store, not ranked by inner
            product, vectors of another length than recorded.
        """
        check_collection_name(collection)
        store: PairStore = backend_of(where)._open(where, collection)
        return store

    @classmethod
    def exists(cls, where: Where, *, collection: str = "pairs") -> bool:
        """Return whether there is a store at a place; makes nothing."""
        check_collection_name(collection)
        return bool(backend_of(where)._exists(where, collection))

    @classmethod
    def open_or_create(
        cls, where: Where, schema: StoreSchema, *, collection: str = "pairs"
    ) -> PairStore:
        """Open the store if it exists, after checking its towers; else `create` it.

        ``schema.hnsw`` is used only when the store is made: an index keeps the settings it has.
        """
        if not cls.exists(where, collection=collection):
            return cls.create(where, schema, collection=collection)
        store = cls.open(where, collection=collection)
        try:
            store.check_towers(schema.towers_identity)
        except StoreError:
            store.close()
            raise
        return store

    @property
    def towers_identity(self) -> str:
        """Identity of the towers that made the vectors."""
        return self.schema.towers_identity

    @property
    def towers_source(self) -> str:
        """What `load_towers` takes to get those towers."""
        return self.schema.towers_source

    @property
    def dimension(self) -> int:
        """n, the length of one half."""
        return self.schema.dimension

    def check_towers(self, identity: str) -> None:
        """Raise `StoreError` unless `identity` is that of the towers that made the vectors."""
        if identity != self.towers_identity:
            source = f" (load_towers({self.towers_source!r}))" if self.towers_source else ""
            raise StoreError(
                f"{self.name} was made with towers {self.towers_identity!r}{source}, but "
                f"{identity!r} are in use: their vectors cannot be compared. Use those towers, or "
                "ingest into a new store"
            )

    def check_open(self) -> None:
        """Raise `StoreError` if the store is not there any more."""
        with store_errors(f"looking for {self.name}"):
            self._check_open()

    def __len__(self) -> int:
        """Return the number of pairs."""
        with store_errors(f"counting {self.name}"):
            return self._count()

    def __repr__(self) -> str:
        """Return the place and the towers."""
        return f"{type(self).__name__}({self.name}, towers {self.towers_identity!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pair_ids(self) -> list[str]:
        """Return the ids of all pairs, in the order in which they were added."""
        with store_errors(f"listing {self.name}"):
            return list(self._pair_ids())

    def fingerprints(self, pair_ids: Iterable[str]) -> dict[str, Fingerprint]:
        """Return patient and fingerprint of those of the pairs that are stored."""
        with store_errors(f"reading {self.name}"):
            pairs = self._fetch(_distinct(pair_ids), complete=False)
            return {pair.pair_id: Fingerprint(pair.patient_id, pair.fingerprint) for pair in pairs}

    def get(self, pair_ids: Iterable[str]) -> dict[str, StoredPair]:
        """Return those of the pairs that are stored, in the order asked for."""
        ids = _distinct(pair_ids)
        with store_errors(f"reading {self.name}"):
            pairs = {pair.pair_id: pair for pair in self._fetch(ids, complete=True)}
        return {pair_id: pairs[pair_id] for pair_id in ids if pair_id in pairs}

    def holds_patient(self, patient_id: str) -> bool:
        """Return whether any pair is of this patient; a search, not a look at every pair."""
        anywhere = np.full(self.schema.length, self.schema.length**-0.5, dtype=np.float32)
        theirs = Comparison("patient_id", "==", patient_id)
        with store_errors(f"searching {self.name}"):
            return bool(self._best(anywhere, 1, Exclusion(), theirs, 0))

    def with_views(self, exclude: Exclusion) -> Exclusion:
        """Return an exclusion in which each pair takes the other views of its study along.

        They have its report: evidence that gives the pair away.
        """
        if not exclude.pair_ids:
            return exclude
        with store_errors(f"reading {self.name}"):
            pairs = self._fetch(sorted(exclude.pair_ids), complete=False)
        cases = {pair.case for pair in pairs if pair.case is not None}
        return replace(exclude, cases=exclude.cases | cases)

    def query(
        self,
        image_vector: ArrayLike | None,
        text_vector: ArrayLike | None,
        weights: FusionWeights,
        k: int,
        exclude: Exclusion | None = None,
        filters: Filter | None = None,
    ) -> list[Hit]:
        """Return the k pairs of highest score, best first, equal scores in the order of their ids.

        That order also decides who is left out at the end, among the best `MOST_TIED` candidates:
        beyond those, and where an index misses a pair, which of equal ones come is arbitrary.

        Parameters
        ----------
        image_vector, text_vector
            q_i and q_t, shape (n,), of unit length (with raw blocks longer, each block of unit
            length); `None` when the question lacks it.
        weights
            The fusion weights.
        k
            How many; fewer are returned only when the store holds no more that may be shown.
        exclude
            Pairs, patients and studies that are dropped, however many pairs they have: more
            candidates are fetched until k others are found; see also `with_views`.
        filters
            What a pair's metadata must be; see `store.filters`.

        Raises
        ------
        InputError
            If a vector is not finite, not of unit length or of another dimension, or if the
            weights leave nothing to rank by.
        """
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
            raise InputError(f"k is {k!r}; it must be a positive integer")
        q_image, q_text = self.schema.check_query(image_vector, text_vector)
        vector = fused_query(q_image, q_text, weights, self.schema.blocks)
        if not vector.any() or not np.isfinite(vector).all():
            raise InputError(
                "the fusion weights give this question nothing to rank by: the parts it has all "
                "weigh zero, or a weight is beyond float32"
            )
        with store_errors(f"querying {self.name}"):
            negative = min(weights.as_array(self.schema.blocks.terms)) < 0
            width = defaults.NEGATIVE_EF_SEARCH if negative else 0
            best = self._best(vector, int(k), exclude or Exclusion(), filters, width)
        terms = self._terms(q_image, q_text, [pair for _, pair in best])
        return [Hit.of(pair, own, score) for own, (score, pair) in zip(terms, best, strict=True)]

    def score(
        self,
        pair_ids: Iterable[str],
        image_vector: ArrayLike | None,
        text_vector: ArrayLike | None,
        weights: FusionWeights,
    ) -> dict[str, Hit]:
        """Return the given pairs as scored hits, exactly, without searching.

        Parameters
        ----------
        pair_ids
            Ids that some other retriever found; unknown ones are left out of the result.
        image_vector, text_vector, weights
            As in `query`.
        """
        q_image, q_text = self.schema.check_query(image_vector, text_vector)
        hits = {}
        for pair_id, pair in self.get(pair_ids).items():
            (terms,) = self._terms(q_image, q_text, [pair])  # equal pairs to the last bit alike
            hits[pair_id] = Hit.of(pair, terms, float(fuse(list(terms.values()), weights)))
        return hits

    def upsert(
        self,
        pairs: Sequence[Pair],
        image_vectors: ArrayLike,
        text_vectors: ArrayLike,
        *,
        fingerprints: Sequence[str] | None = None,
        erase: bool = True,
    ) -> None:
        """Write pairs, replacing those whose id is stored already.

        Parameters
        ----------
        pairs
            m pairs with distinct ids.
        image_vectors, text_vectors
            Shape (m, n): unit rows (with raw blocks longer, each block of unit length), and
            exactly zero rows where the pair lacks that half.
        fingerprints
            m digests of the pairs' contents for `fingerprints`.
        erase
            See that the texts of replaced pairs leave the disk, which can take as long as writing
            the store anew. Whoever writes many batches calls `erase_replaced` behind the last.

        Raises
        ------
        InputError
            If shapes, lengths or ids do not fit. Nothing has been written then.
        StoreError
            If the back end refuses, or another process is writing. What was sent before stays.
        """
        digests = [""] * len(pairs) if fingerprints is None else list(fingerprints)
        if len(digests) != len(pairs) or len({pair.pair_id for pair in pairs}) != len(pairs):
            raise InputError("upsert needs distinct pair ids, and one fingerprint for each pair")
        halves = self.schema.check_pairs(pairs, image_vectors, text_vectors)
        rows = zip(pairs, document_vector(*halves), digests, strict=True)
        with store_errors(f"writing to {self.name}"):
            self._write([StoredPair.of(*row) for row in rows])
            if erase:
                self._erase_replaced()

    def restore(self, pairs: Sequence[StoredPair]) -> None:
        """Write pairs as another store of the same towers holds them, see `store.copying`.

        Raises
        ------
        StoreError
            As `upsert`. Whoever replaces pairs calls `erase_replaced` behind the last.
        """
        with store_errors(f"writing to {self.name}"):
            self._write(pairs)

    def erase_replaced(self) -> None:
        """See that the texts of pairs that were replaced leave the disk.

        Raises
        ------
        StoreError
            If another process has the store open. It may be called again.
        """
        with store_errors(f"erasing from {self.name}"):
            self._erase_replaced()

    def delete(self, pair_ids: Iterable[str]) -> None:
        """Remove pairs; ids that are not stored are ignored."""
        with store_errors(f"deleting from {self.name}"):
            self._delete(_distinct(pair_ids))

    def _terms(
        self,
        q_image: NDArray[np.float32] | None,
        q_text: NDArray[np.float32] | None,
        pairs: Sequence[StoredPair],
    ) -> list[dict[str, float]]:
        """Return the similarities of each pair by name."""
        if not pairs:
            return []
        blocks = self.schema.blocks
        halves = blocks.split(np.stack([pair.vector for pair in pairs]))
        values = similarity_terms(q_image, q_text, *halves, terms=blocks.terms, blocks=blocks)
        return [dict(zip(blocks.terms, row, strict=True)) for row in values.tolist()]

    def _best(
        self,
        vector: NDArray[np.float32],
        k: int,
        exclude: Exclusion,
        filters: Filter | None,
        width: int,
    ) -> list[tuple[float, StoredPair]]:
        """Return the k best pairs that may be returned, each with its score."""
        wanted = k + SPARE
        if (exclude or filters is not None) and not self._leaves_out:
            wanted = 2 * k + 8 + len(exclude.pair_ids)
        while True:
            complete = wanted <= COMPLETE_RECORDS
            candidates = self._nearest(
                vector, wanted, filters, complete=complete, width=width, exclude=exclude
            )
            allowed = [
                (score, pair)
                for score, pair in candidates
                if not exclude.excludes(pair)
                and (filters is None or filters.matches(pair.filter_values))
            ]
            best = sorted(allowed, key=lambda item: (-item[0], item[1].pair_id))[:k]
            # Fewer than asked for: that was all. (Counting takes longer than the search: 17 ms at
            # 100,000 pairs.)
            if len(candidates) < wanted:
                break
            if len(allowed) < k:
                wanted *= 4
            elif wanted < MOST_TIED and min(score for score, _ in candidates) == best[-1][0]:
                wanted = MOST_TIED  # others of that score may come first by their ids
            else:
                break
        if complete:
            return best
        pairs = self.get([pair.pair_id for _, pair in best])
        return [(score, pairs[pair.pair_id]) for score, pair in best if pair.pair_id in pairs]


def _distinct(pair_ids: Iterable[str]) -> list[str]:
    # A bare string is an iterable of its letters: other pairs would be read, or deleted.
    if isinstance(pair_ids, str):
        raise InputError(f"pair ids are the string {pair_ids!r}; pass a list: [{pair_ids!r}]")
    return list(dict.fromkeys(pair_ids))
