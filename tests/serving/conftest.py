"""A real server on loopback, over the small synthetic corpus."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus
from mrrag_llamaindex.serving.app import create_app
from mrrag_llamaindex.serving.server import address_of, bind, configuration
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.serving.settings import Settings


@dataclass
class Corpus:
    store: Path
    images: list[Path]
    """Query images of different patients."""
    question: str

    def data_url(self, number: int = 0) -> str:
        encoded = base64.b64encode(self.images[number].read_bytes()).decode()
        return f"data:image/png;base64,{encoded}"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.store.ingest.pair_table import read_pairs

    folder = tmp_path_factory.mktemp("corpus")
    made = make_corpus(7, patients=24, queries=4, profiles=6)
    images = [folder / f"query-{number}.png" for number in range(4)]
    for path, query in zip(images, made.queries, strict=True):
        query.study.image.save(path)
    store = folder / "store"
    table = write_corpus(folder, made.studies)
    MRRAGIndex.from_pairs(read_pairs(table), "phantom", store).store.close()
    return Corpus(store, images, made.queries[0].question)


@pytest.fixture(scope="session")
def service(corpus: Corpus) -> Service:
    return Service.load(corpus.store, model="phantom", max_new_tokens=4, device="cpu")


def writing_words(folder: Path) -> None:
    """Let a random model write words, and no mark: in some versions it ends before the first."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(folder)
    marks = list(AutoTokenizer.from_pretrained(folder).added_tokens_decoder)
    with torch.no_grad():
        model.get_output_embeddings().weight[marks] = 0
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def reader(corpus: Corpus, tmp_path_factory) -> Service:
    """An (untrained) model that reads several images."""
    from tests.tiny.families import write

    folder = write("llava_onevision", tmp_path_factory.mktemp("models") / "llava_onevision")
    writing_words(folder)
    options = {"model": str(folder), "max_new_tokens": 8, "device": "cpu", "name": "reader"}
    return Service.load(corpus.store, **options)


@pytest.fixture(scope="session")
def conversational(corpus: Corpus, service: Service, tmp_path_factory) -> Iterator[str]:
    """Address of a server whose (untrained) model reads earlier turns."""
    from tests.tiny.families import write

    folder = write("llava", tmp_path_factory.mktemp("models") / "llava")
    loaded = Service.load(corpus.store, model=str(folder), max_new_tokens=8, device="cpu")
    with running(loaded, Settings()) as address:
        yield address


@contextmanager
def running(
    service: Service, settings: Settings, prepare: Callable[[FastAPI], object] = id
) -> Iterator[str]:
    """Serve until the block ends; yields the server's address."""
    app = create_app(service, settings)
    prepare(app)
    listener = bind(replace(settings, port=0))
    server = uvicorn.Server(configuration(app, shutdown_seconds=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def server(service: Service) -> Iterator[str]:
    with running(service, Settings()) as address:
        yield address


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client
