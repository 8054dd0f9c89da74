"""Weights that are learned while a server runs are those of the next question."""

from __future__ import annotations

import shutil

import httpx
import pytest

from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.serving.settings import Settings
from tests.serving.conftest import running


@pytest.mark.parametrize("given", [False, True])
def test_weights_learned_meanwhile_are_used_or_refused_by_name(corpus, tmp_path, given) -> None:
    store = shutil.copytree(corpus.store, tmp_path / "store")
    FusionWeights(0.0, 0.0, 1.0).save(tmp_path / "weights.json")
    options = {"weights": tmp_path / "weights.json"} if given else {}
    service = Service.load(store, model="phantom", device="cpu", **options)
    with running(service, Settings()) as address, httpx.Client(base_url=address) as client:

        def score() -> float:
            asked = {"question": corpus.question, "k": 1}
            return client.post("/v1/retrieve", json=asked).json()["documents"][0]["score"]

        before = score()
        FusionWeights(0.0, 0.0, 0.5).save(store / "fusion_weights.json")
        assert score() == pytest.approx(before if given else before / 2)
        assert client.get("/healthz").status_code == 200
        (store / "fusion_weights.json").write_text("{}")
        health = client.get("/healthz")
        assert health.status_code == (200 if given else 503)
        if not given:
            assert "fusion_weights.json beside the store" in health.json()["error"]["message"]
            assert client.post("/v1/retrieve", json={"question": "?"}).status_code == 503
            (store / "fusion_weights.json").unlink()
            assert client.get("/healthz").status_code == 200
