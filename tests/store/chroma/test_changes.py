"""What another process writes to a folder is what the next question finds."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

_OTHER = """
import sys
import numpy as np
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
rows = np.eye(8, dtype=np.float32)
with PairStore.open(sys.argv[1]) as store:
    store.upsert([Pair("a.png", "new", "a new one"), Pair("a.png", "other", "p1")],
                 rows[[5, 5]], rows[[5, 5]])
    store.delete(["p0"])
    print("written", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_what_another_process_wrote_is_found_once_it_has_ended(tmp_path, towers, pairs) -> None:
    rows = np.eye(8, dtype=np.float32)
    with PairStore.create(tmp_path / "s", StoreSchema(**towers)) as store:
        store.upsert(pairs(3), rows[:3], rows[:3])

    def found(store: PairStore, row: int) -> dict[str, tuple[float, str]]:
        hits = store.query(None, rows[row], FusionWeights(), k=5)
        return {hit.pair_id: (round(hit.score, 3), hit.report) for hit in hits}

    with PairStore.open(tmp_path / "s") as one, PairStore.open(tmp_path / "s") as two:
        before = found(one, 1)
        assert len(before) == len(found(two, 1)) == 3
        opened = one.collection
        command = [sys.executable, "-c", textwrap.dedent(_OTHER), str(tmp_path / "s")]
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
            assert other.stdout.readline().strip() == "written"
            assert one.collection is opened  # it may be saving its index
            with pytest.raises(StoreError, match="p1"):
                one.query(None, rows[0], FusionWeights(), 3)
            other.communicate("\n")
        for store in (one, two):
            after = found(store, 5)
            assert after.keys() == {"a new one", "p1", "p2"}
            assert after["p1"] == (after["a new one"][0], "other")
            assert after["p1"][0] > 0.9
        assert len(one) == 3
        # Whoever writes now adds to what is there.
        one.upsert(pairs(1), rows[:1], rows[:1])
    with PairStore.open(tmp_path / "s") as store:
        assert found(store, 5).keys() == {"p0", "a new one", "p1", "p2"}


def test_folder_that_nobody_has_changed_is_not_opened_again(tmp_path, towers, pairs) -> None:
    rows = np.eye(8, dtype=np.float32)
    with PairStore.create(tmp_path / "s", StoreSchema(**towers)) as store:
        store.upsert(pairs(3), rows[:3], rows[:3])
    with PairStore.open(tmp_path / "s") as store:
        opened = store.collection
        assert len(store) == 3
        (tmp_path / "s" / "chroma.sqlite3").touch()  # as another reader's opening does
        assert len(store) == 3
        assert store.collection is opened


def test_a_store_that_was_dropped_and_not_closed_is_no_other_process(
    tmp_path, towers, pairs, caplog
) -> None:
    rows = np.eye(8, dtype=np.float32)
    store = PairStore.create(tmp_path / "s", StoreSchema(**towers))
    store.upsert(pairs(3), rows[:3], rows[:3])
    with PairStore.open(tmp_path / "s") as other:
        opened = other.collection
        assert len(other.query(None, rows[0], FusionWeights(), 5)) == 3
        del store
        gc.collect()
        assert len(other.query(None, rows[0], FusionWeights(), 5)) == 3
        assert other.collection is opened
    assert not caplog.records


def test_a_writer_of_this_process_is_no_other_process(tmp_path, towers, pairs) -> None:
    rows = np.eye(8, dtype=np.float32)
    with PairStore.create(tmp_path / "s", StoreSchema(**towers)) as store:
        store.upsert(pairs(3), rows[:3], rows[:3])
    with PairStore.open(tmp_path / "s") as reader:
        assert len(reader.query(None, rows[0], FusionWeights(), 5)) == 3
        opened = reader.collection
        with PairStore.open(tmp_path / "s") as writer:
            with PairStore.open(tmp_path / "s") as other:
                other.upsert(pairs(1), rows[:1], rows[:1])
                writer.upsert(pairs(1), rows[:1], rows[:1])
            writer.upsert(pairs(4)[3:], rows[3:4], rows[3:4])
        assert len(reader.query(None, rows[0], FusionWeights(), 5)) == 4
        assert reader.collection is opened
