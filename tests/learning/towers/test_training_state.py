"""When a training tells that saving its state is slow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mrrag_llamaindex.learning.towers.state import TrainingState


@pytest.mark.parametrize(
    ("batch", "save", "count", "seconds", "told"),
    [
        # 21 batches of 2 + 1 seconds: 63 seconds, a third of them saving.
        (2.0, 1.0, 21, 0.0, [1 / 3]),
        (2.0, 1.0, 200, 0.0, [1 / 3]),
        (2.0, 1.0, 20, 0.0, []),  # a minute, not more
        (3.0, 1.0, 200, 0.0, []),  # a quarter, not more
        (2.0, 1.0, 200, 60.0, []),  # already as seldom as advised
    ],
)
def test_costly_saving_is_told_once_and_only_then(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: float,
    save: float,
    count: int,
    seconds: float,
    told: list[float],
) -> None:
    now = [0.0]
    plain = torch.save

    def slow(*given: object) -> None:
        now[0] += save
        plain(*given)

    monkeypatch.setattr(torch, "save", slow)
    heard: list[float] = []
    state = TrainingState(tmp_path / "s.pt", "me", seconds, heard.append, lambda: now[0])
    for _ in range(count):
        now[0] += batch
        state.write({})
    assert heard == pytest.approx(told)


def test_every_batch_is_due_by_default(tmp_path: Path) -> None:
    assert TrainingState(tmp_path / "s.pt", "me", clock=lambda: 5.0).due
    assert not TrainingState(tmp_path / "s.pt", "me", 1.0, clock=lambda: 5.0).due
