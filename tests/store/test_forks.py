"""Behind a fork there is an error, and never a hang."""

from __future__ import annotations

import multiprocessing

import pytest
from PIL import Image

from mrrag_llamaindex.errors import ModelError, MRRAGError, StoreError, TowerError
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_a_fork(work) -> str:
    """Return the name of the error that ``work`` raises in a forked process."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run():
        try:
            work()
        except MRRAGError as error:
            results.put((type(error).__name__, str(error)))
        else:
            results.put(("", ""))

    process = context.Process(target=run)
    process.start()
    process.join(30)
    hangs = process.is_alive()
    process.kill()
    assert not hangs
    kind, message = results.get()
    assert "fork" in message
    return kind


def test_a_store(tmp_path):
    schema = StoreSchema("t@0", "t", 4)
    with PairStore.create(tmp_path / "store", schema) as store:
        assert in_a_fork(lambda: len(store)) == StoreError.__name__
        assert in_a_fork(lambda: PairStore.open(tmp_path / "store")) == StoreError.__name__
        assert in_a_fork(lambda: PairStore.create("memory", schema)) == StoreError.__name__
        assert len(store) == 0


def test_closing_a_store_behind_a_fork_leaves_it_to_its_process(tmp_path):
    schema = StoreSchema("t@0", "t", 4)
    with PairStore.create(tmp_path / "store", schema) as store:
        child = multiprocessing.get_context("fork").Process(target=store.close)
        child.start()
        child.join(30)
        ended = child.exitcode
        child.kill()
        assert ended == 0
        assert len(store) == 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["qdrant:{}/q", "milvus:{}/m.db"])
def test_a_store_of_another_engine(where, tmp_path):
    schema = StoreSchema("t@0", "t", 4)
    place = where.format(tmp_path)
    with PairStore.create(place, schema) as store:
        assert in_a_fork(lambda: len(store)) == StoreError.__name__
        child = multiprocessing.get_context("fork").Process(target=store.close)
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert len(store) == 0


def test_towers():
    towers = load_towers("phantom")
    towers.embed_texts(["nodule"])
    assert in_a_fork(lambda: towers.embed_texts(["nodule"])) == TowerError.__name__
    image = Image.new("RGB", (96, 96))
    assert in_a_fork(lambda: towers.embed_images([image])) == TowerError.__name__


def test_a_model():
    from mrrag_llamaindex import MRRAGLLaVA

    engine = MRRAGLLaVA(model="phantom").engine
    request, image = PromptRequest("Is there a nodule?"), Image.new("RGB", (96, 96))
    assert in_a_fork(lambda: engine.generate([request], [image])) == ModelError.__name__
    assert in_a_fork(lambda: engine.stream(request, image)) == ModelError.__name__
