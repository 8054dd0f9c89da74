"""The phantom's corpus as training data: a store of its studies, and questions with answers."""

from __future__ import annotations

from mrrag_llamaindex.phantom.corpus import PhantomCorpus, as_pairs
from mrrag_llamaindex.store.ingest.ingest import ingest_pairs
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.protocol import DualTower


def store_of(corpus: PhantomCorpus, towers: DualTower) -> PairStore:
    """Embed the studies of a corpus into a store in memory."""
    store = PairStore.create("memory", StoreSchema.of(towers))
    ingest_pairs(as_pairs(corpus.studies), store, towers, strict=True)
    return store


def questions_of(corpus: PhantomCorpus) -> list[GoldQuestion]:
    """Return the questions of a corpus with their true answers, yes or no."""
    return [
        GoldQuestion(
            query.study.pair_id,
            query.study.image,
            query.question,
            "yes" if query.answer else "no",
            patient_id=query.study.patient_id,
        )
        for query in corpus.queries
    ]
