"""The whole path on synthetic studies: build a store, ask, ask again without IFA, draw."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.integration.answers.ask import AskResult, ask
from mrrag_llamaindex.integration.answers.picture import draw_answer
from mrrag_llamaindex.integration.index import MRRAGIndex
from mrrag_llamaindex.integration.llm import MRRAGLLaVA
from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus
from mrrag_llamaindex.phantom.studies import PhantomQuery
from mrrag_llamaindex.plots import save
from mrrag_llamaindex.store.ingest.ingest import ingest_pairs
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from mrrag_llamaindex.store.learned_files import FUSION_FILE
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers

PATIENTS = 200
SEED = 1
"""Studies in which steering shows."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    with_ifa, without_ifa : AskResult
        The same question asked with IFA, and again with plain attention.
    truth : str
        "yes" or "no".
    pairs : int
        In the store.
    store : pathlib.Path
    picture : pathlib.Path or None
    no_picture : str
        Why there is no picture.
    seconds : dict of str to float
    """

    with_ifa: AskResult
    without_ifa: AskResult
    truth: str
    pairs: int
    store: Path
    picture: Path | None
    no_picture: str
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        influence = self.with_ifa.answer.influence or {}
        return {
            **self.with_ifa.as_dict(),
            "influence": {name: asdict(moved) for name, moved in influence.items()},
            "truth": self.truth,
            "unsteered": {
                "answer": self.without_ifa.text,
                "p_yes": self.without_ifa.answer.p_yes,
                "p_no": self.without_ifa.answer.p_no,
            },
            "picture": None if self.picture is None else str(self.picture),
            "store": str(self.store),
            "synthetic": True,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Demo:
    """The demo's files.

    Attributes
    ----------
    store, image : pathlib.Path
        The store of synthetic studies, and the query image.
    query : PhantomQuery
        The question about it, with its truth.
    """

    store: Path
    image: Path
    query: PhantomQuery


def build_demo(out: Path, *, seed: int = SEED, say: Callable[[str], None] = print) -> Demo:
    """Make the demo's files in folder ``out``; a second run with the same seed reuses its store.

    Parameters
    ----------
    out : pathlib.Path
        Gets ``seed-<n>/`` with images, pairs.csv, store and query.png.
    seed : int
    say : callable
        Takes a line of progress.
    """
    folder = out / f"seed-{seed}"
    corpus = make_corpus(seed, patients=PATIENTS, queries=50, profiles=100)
    say(f"writing {PATIENTS} synthetic studies")
    table = write_corpus(folder, corpus.studies)
    # The first question about a pleural effusion: which one it is does not depend on answers.
    query = next((query for query in corpus.queries if query.finding == 0), corpus.queries[0])
    image = folder / "query.png"
    query.study.image.save(image)
    say("embedding them into a Chroma store")
    towers = load_towers(defaults.PHANTOM)
    with PairStore.open_or_create(folder / "store", StoreSchema.of(towers)) as store:
        ingest_pairs(read_pairs(table), store, towers, strict=True)
    # Learned on other synthetic patients (mrrag train-fusion --data phantom --seed 5000).
    shutil.copyfile(defaults.PHANTOM_FOLDER / FUSION_FILE, folder / "store" / FUSION_FILE)
    return Demo(folder / "store", image, query)


def run_demo(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> DemoResult:
    """Run the demo in folder ``out``; a second run with the same seed reuses its store.

    Parameters
    ----------
    out : pathlib.Path
        Gets ``seed-<n>/`` with images, pairs.csv, store, query.png and answer.png.
    seed : int
    say : callable
        Takes a line of progress.
    """
    started = time.perf_counter()
    built_demo = build_demo(out, seed=seed, say=say)
    query, image = built_demo.query, built_demo.image
    index = MRRAGIndex.from_store(built_demo.store)
    built = time.perf_counter()
    say("asking")
    llm = MRRAGLLaVA(model=defaults.PHANTOM, max_new_tokens=4, explain=True)
    with_ifa = ask(index, llm, str(image), query.question)
    llm.policy, llm.explain = None, False
    without_ifa = ask(index, llm, str(image), query.question)
    answered = time.perf_counter()
    picture, reason = _draw(image.parent / "answer.png", image, with_ifa, without_ifa)
    seconds = {
        "build": built - started,
        **with_ifa.seconds,
        "draw": time.perf_counter() - answered,
        "total": time.perf_counter() - started,
    }
    truth = "yes" if query.answer else "no"
    return DemoResult(
        with_ifa,
        without_ifa,
        truth,
        len(index.store),
        built_demo.store,
        picture,
        reason,
        seconds,
    )


def _draw(
    path: Path, image: Path, with_ifa: AskResult, without_ifa: AskResult
) -> tuple[Path | None, str]:
    title = "synthetic study, not a real patient"
    try:
        return save(draw_answer(image, with_ifa, without_ifa, title=title), path), ""
    except MRRAGError as error:
        return None, str(error)
