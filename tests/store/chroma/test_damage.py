"""A damaged, deleted, foreign or unwritable folder is noticed; nothing of it reaches an answer."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from mrrag_llamaindex.doctor.store_check import verify_store
from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

COUNT = 1200
"""Chroma writes its index to disk after 1000 records."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    import numpy as np

    from mrrag_llamaindex.store.pair import Pair

    def units(seed):
        vectors = np.random.default_rng(seed).normal(size=(COUNT, 8)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    folder = tmp_path_factory.mktemp("sound") / "s"
    with PairStore.create(folder, StoreSchema("toy@1", "", 8)) as store:
        image, text = units(1), units(2)
        for start in range(0, COUNT, 100):
            rows = slice(start, start + 100)
            pairs = [Pair(f"{i}.png", f"Report {i}.", f"p{i}") for i in range(start, start + 100)]
            store.upsert(pairs, image[rows], text[rows])
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "s"))


def index_folder(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_dir())


def flips(content: bytearray, rng: random.Random) -> bytearray:
    for _ in range(30):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def cut(content: bytearray, rng: random.Random) -> bytearray:
    return content[: rng.randrange(len(content))]


def zeroed(content: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(content))
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    return content


def test_sound_store_passes(folder, units) -> None:
    with PairStore.open(folder) as store:
        check = verify_store(store)
    assert (check.pairs, check.unmarked) == (COUNT, 0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [flips, cut, zeroed])
@pytest.mark.parametrize(
    "name",
    ["chroma.sqlite3", "header.bin", "data_level0.bin", "link_lists.bin", "index_metadata.pickle"],
)
def test_damaged_file_is_refused_on_opening_or_harmless(folder, units, name, fault) -> None:
    query = units(2, seed=9)
    with PairStore.open(folder) as store:
        before = store.query(*query, FusionWeights(), k=10)
    target = folder / name if name.startswith("chroma") else index_folder(folder) / name
    target.write_bytes(fault(bytearray(target.read_bytes()), random.Random(name)))
    try:
        with PairStore.open(folder) as store:
            after = store.query(*query, FusionWeights(), k=10)
    except StoreError:
        return
    assert after == before


@pytest.mark.slow
def test_one_flipped_bit_of_a_vector_is_named(folder) -> None:
    file = index_folder(folder) / "data_level0.bin"
    content = bytearray(file.read_bytes())
    content[4 + 64 * 4 + 1] ^= 1  # of the first vector
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged.*not as it was written"):
        PairStore.open(folder)


@pytest.mark.slow
def test_index_that_is_gone_is_not_an_empty_index(folder) -> None:
    shutil.rmtree(index_folder(folder))
    with pytest.raises(StoreError, match="index is gone"):
        PairStore.open(folder)


def test_report_changed_by_another_program_never_becomes_a_hit(store, units, pairs) -> None:
    store.upsert(pairs(2), units(2), units(2))
    vector = store.get(["p0"])["p0"].vector
    other = "Someone else's report."
    store.collection.update(ids=["p0"], documents=[other], embeddings=[vector])
    with pytest.raises(StoreError, match=r"'p0' is not as it was written"):
        store.get(["p0", "p1"])
    with pytest.raises(StoreError, match="'p0'"):
        verify_store(store)


def test_store_deleted_while_open_takes_no_pairs(folder, units, pairs) -> None:
    with PairStore.open(folder) as store:
        store.upsert(pairs(1), units(1), units(1))  # with the lock held
        shutil.rmtree(folder)
        for call in (
            lambda: store.upsert(pairs(2), units(2), units(2)),
            lambda: store.query(*units(2), FusionWeights(), k=1),
            lambda: len(store),
        ):
            with pytest.raises(StoreError, match="deleted or replaced"):
                call()
    assert not folder.exists()


def test_store_replaced_while_open_is_not_written(folder, sound, units, pairs) -> None:
    with PairStore.open(folder) as store:
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        with pytest.raises(StoreError, match="deleted or replaced"):
            store.upsert(pairs(2), units(2), units(2))


def test_second_process_cannot_create_beside_a_writer(tmp_path, towers) -> None:
    with PairStore.create(tmp_path / "s", StoreSchema(**towers), collection="one"):
        script = textwrap.dedent(f"""
            from mrrag_llamaindex.errors import StoreError
            from mrrag_llamaindex.store.protocol import PairStore
            from mrrag_llamaindex.store.schema import StoreSchema
            try:
                PairStore.create({str(tmp_path / "s")!r}, StoreSchema("t", "", 8), collection="two")
            except StoreError as error:
                print(error)
        """)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "another process is writing" in done.stdout
    with pytest.raises(StoreError, match="no collection 'two'"):
        PairStore.open(tmp_path / "s", collection="two")


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_what_holds_reports_is_for_its_owner_alone(tmp_path, towers) -> None:
    PairStore.create(tmp_path / "a" / "s", StoreSchema(**towers)).close()
    folder = tmp_path / "a" / "s"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "chroma.sqlite3").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_store_that_cannot_be_written_answers_and_takes_nothing(sound) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to other users
        Path(place).chmod(0o755)
        folder = Path(shutil.copytree(sound, Path(place) / "s"))
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run(
            [sys.executable, "-c", READER, str(folder)], capture_output=True, text=True
        )
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
    assert done.stdout.splitlines()[:2] == [f"{COUNT} 3", str(folder)], done.stderr
    assert "cannot be written" in done.stdout
    assert "opened for reading" in done.stderr


READER = """
import os, sys, tempfile
import numpy as np
import mrrag_llamaindex.store.chroma.store, mrrag_llamaindex.doctor.store_check, chromadb
from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
with tempfile.TemporaryDirectory() as other:  # Chroma imports some of itself late
    PairStore.create(other + "/s", StoreSchema("t", "", 8)).close()
if os.getuid() == 0:  # root may write anything, and `nobody` may not read where this is installed
    os.setgid(65534); os.setuid(65534)
one = np.eye(8, dtype=np.float32)
with PairStore.open(sys.argv[1]) as store:
    print(len(store), len(store.query(one[0], one[1], FusionWeights(), k=3)))
    print(store.folder)
    try:
        store.upsert([Pair("a.png", "x", "new")], one[:1], one[:1])
    except StoreError as error:
        print(error)
"""
