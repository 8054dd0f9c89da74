"""Fitting heads: the loss by hand, the split by patient, and that something is learnt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.towers.contrastive import HeadTraining, fit_heads, symmetric_info_nce
from mrrag_llamaindex.towers.projection_head import ProjectionHead


def toy(pairs: int = 120, seed: int = 0) -> dict[str, Any]:
    """Two views of a hidden 4-dimensional cause; two pairs of each patient."""
    random = torch.Generator().manual_seed(seed)
    cause = torch.randn(pairs, 4, generator=random)
    maps = torch.Generator().manual_seed(99)
    image = cause @ torch.randn(4, 20, generator=maps)
    text = cause @ torch.randn(4, 12, generator=maps)
    return {
        "image_features": image + 0.1 * torch.randn(pairs, 20, generator=random),
        "text_features": text + 0.1 * torch.randn(pairs, 12, generator=random),
        "groups": [f"p{index // 2}" for index in range(pairs)],
        "reports": [f"report {index}" for index in range(pairs)],
    }


def test_the_loss_is_that_of_the_hand_computed_case() -> None:
    image = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    text = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    # cosines: [[1, .6], [0, .8]]; tau 1
    rows = (math.log(math.e + math.exp(0.6)) - 1) + (math.log(1 + math.exp(0.8)) - 0.8)
    columns = (math.log(math.e + 1) - 1) + (math.log(math.exp(0.6) + math.exp(0.8)) - 0.8)
    expected = (rows / 2 + columns / 2) / 2
    assert symmetric_info_nce(image, text, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert symmetric_info_nce(image, text, 0.5).item() != pytest.approx(expected, abs=1e-2)


def test_equal_reports_are_not_negatives_of_each_other() -> None:
    image = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    numbers = torch.tensor([0, 0, 1])
    without = symmetric_info_nce(image[[0, 2]], text[[0, 2]], 1.0)
    masked = symmetric_info_nce(image, text, 1.0, numbers)
    assert masked < symmetric_info_nce(image, text, 1.0)
    # Row 0 sees what it would see if pair 1 were not there.
    logits = torch.tensor([[1.0, 0.0]])
    assert torch.nn.functional.cross_entropy(logits, torch.tensor([0])) == pytest.approx(
        math.log(1 + math.exp(-1)), abs=1e-6
    )
    assert math.isfinite(masked.item())
    assert without.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)


def test_unseen_pairs_meet_after_fitting() -> None:
    data, unseen = toy(200), toy(50, seed=5)
    heads = fit_heads(**data, training=HeadTraining(dimension=8, dropout=0.0))
    image = torch.nn.functional.normalize(heads.image(unseen["image_features"]), dim=1)
    text = torch.nn.functional.normalize(heads.text(unseen["text_features"]), dim=1)
    first = (image @ text.T).argmax(dim=1)
    right = (first == torch.arange(50)).float().mean().item()
    assert right > 0.7  # by chance: 0.02
    assert heads.record["validation_pairs"] == 40
    assert heads.record["best_epoch"] <= heads.record["epochs"]


@pytest.mark.parametrize("hidden", [None, 16])
def test_the_same_seed_gives_the_same_heads_and_leaves_the_global_generator(
    hidden: int | None,
) -> None:
    data = toy()
    how = HeadTraining(dimension=8, hidden=hidden, max_epochs=5, batch_size=32)
    torch.manual_seed(3)
    first = fit_heads(**data, training=how)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    second = fit_heads(**data, training=how)
    state = second.image.state_dict()
    assert all(torch.equal(state[key], value) for key, value in first.image.state_dict().items())
    other = fit_heads(**data, training=HeadTraining(dimension=8, max_epochs=5, seed=1))
    assert not torch.equal(other.image.mean, first.image.mean)
    assert not first.image.training
    assert not any(parameter.requires_grad for parameter in first.image.parameters())


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    data = toy(60)
    # Reports without any relation to the images: validation can only get worse.
    data["text_features"] = torch.randn(60, 12, generator=torch.Generator().manual_seed(1))
    how = HeadTraining(dimension=8, dropout=0.0, learning_rate=1e-2, patience=5, max_epochs=150)
    heads = fit_heads(**data, training=how)
    assert heads.record["epochs"] == heads.record["best_epoch"] + 5 < 150


def test_a_patient_is_never_in_both_parts() -> None:
    from mrrag_llamaindex.learning.towers.contrastive import _split

    groups = toy()["groups"]
    train, held = _split(groups, HeadTraining(validation_fraction=0.3))
    assert not {groups[index] for index in train} & {groups[index] for index in held}
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(120))
    assert len(held) == 36


def test_no_validation_trains_to_the_end() -> None:
    how = HeadTraining(dimension=4, max_epochs=7, validation_fraction=0.0)
    record = fit_heads(**toy(20), training=how).record
    assert (record["epochs"], record["validation_loss"], record["validation_pairs"]) == (7, None, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"groups": ["p"] * 120},
        {"groups": ["p"] * 119},
        {"reports": [" Same  report", "same report"] * 60},
        {"image_features": torch.full((120, 20), float("nan"))},
    ],
    ids=["one patient", "lengths", "one report", "nan"],
)
def test_data_that_cannot_be_trained_on_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"too few|differ in length|not finite"):
        fit_heads(**{**toy(), **change})


@pytest.mark.parametrize(
    "wrong",
    [{"dimension": 0}, {"hidden": 0}, {"batch_size": 1}, {"temperature": 0.0}, {"dropout": 1.0}],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        HeadTraining(**wrong)


def test_a_head_standardises_by_the_training_features() -> None:
    head = ProjectionHead(3, 2)
    # deviations 2, 1 and 0; the last is raised to a tenth of their mean, 1
    head.standardise(torch.tensor([[1.0, 5.0, 7.0], [5.0, 7.0, 7.0]]))
    assert head.mean.tolist() == [3.0, 6.0, 7.0]
    assert head.scale.tolist() == pytest.approx([2.0, 1.0, 0.1])
    with torch.no_grad():
        head.layers[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]))
        head.layers[0].bias.zero_()
        assert head(torch.tensor([[5.0, 4.0, 7.0]])).tolist() == [[1.0, -2.0]]
