"""Several threads on one store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.protocol import PairStore


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_two_writers_and_two_readers_lose_nothing_and_cross_nothing(
    tmp_path, towers, units, pairs, kind
) -> None:
    where = "memory" if kind == "memory" else tmp_path / "s"
    made = pairs(400, patient_id=lambda i: f"patient{i % 4}")
    image, text = units(400, seed=1), units(400, seed=2)
    with PairStore.create(where, **towers) as store:
        store.upsert(made[:20], image[:20], text[:20])

        def writer(start: int) -> None:
            for low in range(start, 400, 40):
                rows = slice(low, low + 20)
                store.upsert(made[rows], image[rows], text[rows])

        def reader(seed: int) -> int:
            seen = 0
            for turn in range(60):
                own = f"patient{turn % 4}"
                q_image, q_text = units(2, seed=1000 * seed + turn)
                exclude = Exclusion(patient_ids={own})
                hits = store.query(q_image, q_text, FusionWeights(1, 0.5, 2), 5, exclude)
                for hit in hits:
                    number = int(hit.pair_id[1:])
                    # Each hit is one whole pair: its patient, its report, its own vectors.
                    assert hit.patient_id == f"patient{number % 4}" != own
                    assert hit.report == f"report number {number}"
                    assert hit.image_image == pytest.approx(
                        float(image[number] @ q_image), abs=1e-5
                    )
                seen += len(hits)
            return seen

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(writer, start) for start in (0, 20)]
            readers = [pool.submit(reader, seed) for seed in (1, 2)]
            for done in writers:
                done.result(timeout=60)
            assert all(done.result(timeout=60) == 300 for done in readers)
        assert len(store) == 400
        assert len(store.get(store.pair_ids())) == 400
