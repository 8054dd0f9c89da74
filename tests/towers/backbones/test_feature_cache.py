"""Features on disk: computed once, whole or not at all, never another encoder's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.backbones.feature_cache import FeatureCache, KnownFeatures

REFERENCE = {"sha256": "1", "source": "here", "pooling": "mean"}
KEYS = ["k0", "k1", "k2", "k1", "k4"]


class Encoder:
    def __init__(self, stop_after: int = 99) -> None:
        self.seen: list[int] = []
        self._left = stop_after

    def __call__(self, rows: list[int]) -> Tensor:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        self.seen += rows
        return torch.tensor([[float(KEYS[row][1]), 0.5] for row in rows])


EXPECTED = [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5], [1.0, 0.5], [4.0, 0.5]]


def test_features_come_in_order_and_are_computed_once(tmp_path: Path) -> None:
    first, second = Encoder(), Encoder()
    told: list[int] = []
    cache = FeatureCache(tmp_path, "image", REFERENCE)
    found = cache.features(KEYS, first, batch_size=2, progress=told.append)
    assert found.tolist() == EXPECTED
    assert first.seen == [0, 1, 2, 4]
    assert told == [1, 3, 5]
    again = FeatureCache(tmp_path, "image", {**REFERENCE, "source": "moved"})
    assert len(again) == 4
    assert again.features(KEYS, second).tolist() == EXPECTED
    assert second.seen == []


def test_what_was_computed_before_an_interruption_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, "image", REFERENCE).features(KEYS, Encoder(1), batch_size=2)
    encoder = Encoder()
    found = FeatureCache(tmp_path, "image", REFERENCE).features(KEYS, encoder, batch_size=2)
    assert found.tolist() == EXPECTED
    assert encoder.seen == [2, 4]


@pytest.mark.parametrize(
    ("kind", "change"), [("text", {}), ("image", {"sha256": "2"}), ("image", {"pooling": "cls"})]
)
def test_another_encoder_does_not_meet_these_features(
    tmp_path: Path, kind: str, change: dict[str, str]
) -> None:
    FeatureCache(tmp_path, "image", REFERENCE).features(KEYS, Encoder())
    assert len(FeatureCache(tmp_path, kind, {**REFERENCE, **change})) == 0


def test_a_half_written_file_is_never_read(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "image", REFERENCE)
    (cache.folder / ".x.safetensors.1.part").write_bytes(b"half")
    assert len(FeatureCache(tmp_path, "image", REFERENCE)) == 0


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "image", REFERENCE)
    cache.features(KEYS, Encoder())
    (path,) = cache.folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TowerError, match=path.name):
        FeatureCache(tmp_path, "image", REFERENCE)


def test_known_features_are_found_one_by_one_and_nothing_is_made(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "image", REFERENCE).features(KEYS, Encoder(), batch_size=2)
    known = KnownFeatures(tmp_path, "image", {**REFERENCE, "source": "moved"})
    assert [known[key].tolist() for key in ("k4", "k0", "k1")] == [[4, 0.5], [0, 0.5], [1, 0.5]]
    assert "k2" in known
    assert "k3" not in known
    assert "k2" not in KnownFeatures(tmp_path, "text", REFERENCE)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_file_of_known_features_is_named(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "image", REFERENCE)
    cache.features(KEYS, Encoder())
    (path,) = cache.folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TowerError, match=path.name):
        KnownFeatures(tmp_path, "image", REFERENCE)
