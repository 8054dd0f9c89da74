"""The loop: it learns, stops, keeps the best, and goes on after an interruption as if none."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.learning.towers.contrastive import backward_in_chunks, info_nce
from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures, HeadsEncoder
from mrrag_llamaindex.learning.towers.loop import train
from mrrag_llamaindex.learning.towers.pair_encoders import TowerEncoder, encode_all
from mrrag_llamaindex.learning.towers.recall import mean_recall, pair_ranks
from mrrag_llamaindex.learning.towers.same_reports import SameReports
from mrrag_llamaindex.learning.towers.settings import ContrastiveTraining, for_heads
from mrrag_llamaindex.learning.towers.state import TrainingState, belongs_to
from mrrag_llamaindex.learning.towers.training_pairs import Split, split_pairs, training_pairs
from mrrag_llamaindex.towers.projection_head import ProjectionHead
from tests.loopback import free_port

PAIRS = 90
REPORTS = SameReports([f"report {number}" for number in range(PAIRS)])
HOW = replace(for_heads(batch_size=32), chunk_size=12, max_epochs=4, patience=9, learning_rate=1e-2)


def features() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    cause = torch.randn(PAIRS, 4, generator=random)
    return (
        cause @ torch.randn(4, 10, generator=random),
        cause @ torch.randn(4, 8, generator=random),
    )


def heads(data: tuple[Tensor, Tensor] | None = None) -> HeadsEncoder:
    image, text = data or features()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = [ProjectionHead(part.shape[1], 6, dropout=0.2) for part in (image, text)]
    held = HeadFeatures(image, text, None, torch.arange(len(image)))
    return HeadsEncoder(made[0], made[1], held)


SPLIT = split_pairs([f"p{number // 2}" for number in range(PAIRS)], 0.2, 0.1)


def weights(encoder: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_held_out_pairs_meet_and_the_global_generator_is_left_alone() -> None:
    encoder = heads()
    torch.manual_seed(3)
    record = train(encoder, SPLIT, REPORTS, replace(HOW, max_epochs=30))
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    vectors = encode_all(encoder, SPLIT.test.tolist(), 5)
    found = mean_recall(pair_ranks(*vectors, REPORTS, SPLIT.test))
    assert found > 0.8  # of 8 pairs, chance is .58
    assert record["validation_recall"] > 0.7  # of 18 pairs, chance is .3
    assert record["temperature"] == pytest.approx(0.2)


class Stopped(HeadsEncoder):
    """Interrupted when it is asked for its inputs for the n-th time."""

    left = -1

    def load(self, kind: str, rows: Any) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().load(kind, rows)


# A batch of 32 is 2 or 3 chunks of each kind; 63 training pairs are 2 batches, then validation.
@pytest.mark.parametrize("moment", [1, 6, 8, 13, 14, 25, 40])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, moment: int) -> None:
    encoder = heads()
    owner = belongs_to(encoder, "data", SPLIT, HOW)
    record = train(encoder, SPLIT, REPORTS, HOW)
    expected = weights(encoder)

    stopped = heads()
    stopped.__class__ = Stopped
    stopped.left = moment
    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(stopped, SPLIT, REPORTS, HOW, TrainingState(path, owner, 0.0))
    again = heads()
    torch.manual_seed(moment)  # the process that goes on is another one
    assert train(again, SPLIT, REPORTS, HOW, TrainingState(path, owner, 0.0)) == record
    assert same(weights(again), expected)


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    first, second = heads(), heads()
    record = train(first, SPLIT, REPORTS, HOW, TrainingState(path, "x", 1e9))
    told: list[Any] = []
    state = TrainingState(path, "x")
    assert train(second, SPLIT, REPORTS, HOW, state, progress=told.append) == record
    assert told == []
    assert same(weights(first), weights(second))


def test_a_batch_in_hand_is_all_that_is_lost(tmp_path: Path) -> None:
    stopped = heads()
    stopped.__class__ = Stopped
    stopped.left = 9  # in the second batch
    state = TrainingState(tmp_path / "state.pt", "x", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, SPLIT, REPORTS, HOW, state)
    kept = state.read()
    assert kept is not None
    assert (kept["epoch"], kept["batch"], len(kept["losses"])) == (0, 1, 1)


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    encoder = heads()
    owners = {
        belongs_to(encoder, "data", SPLIT, HOW),
        belongs_to(encoder, "other", SPLIT, HOW),
        belongs_to(encoder, "data", SPLIT, replace(HOW, learning_rate=2e-2)),
        belongs_to(encoder, "data", Split(SPLIT.train, SPLIT.test, SPLIT.validation), HOW),
    }
    train(encoder, SPLIT, REPORTS, HOW, TrainingState(path, "mine"))
    owners.add(belongs_to(encoder, "data", SPLIT, HOW))  # other weights at the start
    assert len(owners) == 5
    with pytest.raises(TowerError, match="other pairs, settings or encoders"):
        train(heads(), SPLIT, REPORTS, HOW, TrainingState(path, "yours"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TowerError, match="cannot be read"):
        train(heads(), SPLIT, REPORTS, HOW, TrainingState(path, "mine"))


def test_training_stops_and_keeps_the_best_epoch() -> None:
    image, text = features()
    text = torch.randn(text.shape, generator=torch.Generator().manual_seed(5))
    encoder, told = heads((image, text)), []
    how = replace(HOW, max_epochs=60, patience=3)
    record = train(encoder, SPLIT, REPORTS, how, progress=told.append)
    recalls = [one.recall for one in told]
    assert record["epochs"] == len(told) == record["best_epoch"] + 3 < 60
    assert record["validation_recall"] == max(recalls) == recalls[record["best_epoch"] - 1]
    vectors = encode_all(encoder, SPLIT.validation.tolist(), 50)
    ranks = pair_ranks(*vectors, REPORTS, SPLIT.validation)
    assert mean_recall(ranks) == record["validation_recall"]


def test_of_equally_good_epochs_the_first_is_kept() -> None:
    how = replace(HOW, learning_rate=1e-6)  # so small that no rank changes
    encoder, once = heads(), heads()
    record = train(encoder, SPLIT, REPORTS, how)
    assert (record["best_epoch"], record["epochs"]) == (1, 4)
    train(once, SPLIT, REPORTS, replace(how, max_epochs=1))
    assert same(weights(encoder), weights(once))


def test_steps_have_the_learning_rate_of_the_schedule(tmp_path: Path) -> None:
    # Two epochs of two batches, half of them rising: the first step has half of the rate, and
    # Adam's first step is the rate, whatever the gradient's size.
    how = replace(HOW, warmup=0.5, max_epochs=2)
    encoder = heads()
    before = weights(encoder)["image.layers.0.bias"]
    encoder.__class__ = Stopped
    encoder.left = 8  # in the second batch
    state = TrainingState(tmp_path / "state.pt", "x", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(encoder, SPLIT, REPORTS, how, state)
    kept = state.read()
    assert kept is not None
    step = (kept["module"]["image.layers.0.bias"] - before).abs()
    assert step.max().item() == pytest.approx(how.learning_rate / 2, rel=1e-3)


def test_near_equal_reports_are_no_negatives() -> None:
    """With all reports alike there is nothing to learn; the loss says so."""
    words = " ".join(f"word{number}" for number in range(40))
    reports = [f"{words} end{number}" for number in range(PAIRS)]
    told: list[Any] = []
    encoder = heads()
    before = weights(encoder)
    how = replace(HOW, max_epochs=1, weight_decay=0.0)
    train(encoder, SPLIT, SameReports(reports), how, progress=told.append)
    assert told[0].loss == 0.0
    assert same(before, weights(encoder))


def test_parts_without_two_reports_are_refused() -> None:
    equal = SameReports(["same"] * PAIRS)
    with pytest.raises(InputError, match="training part"):
        train(heads(), SPLIT, equal, HOW)
    lonely = Split(SPLIT.train, SPLIT.validation[:1], SPLIT.test)
    with pytest.raises(InputError, match="validation part has 1 pairs"):
        train(heads(), lonely, REPORTS, HOW)


class Seeds(HeadsEncoder):
    """Notes torch's seed of every chunk that is encoded in training."""

    def encode(self, kind: str, inputs: Tensor) -> Tensor:
        if self.module.training:
            self.seen.append((kind, torch.initial_seed(), torch.is_grad_enabled()))
        return super().encode(kind, inputs)


def test_every_chunk_has_dropout_of_its_own_and_the_same_in_both_passes() -> None:
    encoder = heads()
    encoder.__class__ = Seeds
    encoder.seen = []
    train(encoder, SPLIT, REPORTS, replace(HOW, max_epochs=3))
    first, second = (
        [(kind, seed) for kind, seed, graph in encoder.seen if graph is wanted]
        for wanted in (False, True)
    )
    assert first == second
    # 63 pairs in 2 batches of 3 chunks, two kinds, three epochs
    assert len(set(first)) == len({seed for _, seed in first}) == len(first) == 36


def test_a_loss_that_is_no_number_is_an_error() -> None:
    image, text = features()
    image[SPLIT.train[3]] = float("nan")
    with pytest.raises(TowerError, match=r"loss is nan in batch \d of epoch 1"):
        train(heads((image, text)), SPLIT, REPORTS, HOW)


def test_a_gradient_that_is_no_number_is_an_error() -> None:
    encoder = heads()
    before = weights(encoder)
    bias = encoder.module["text"].layers[0].bias
    bias.register_hook(lambda gradient: gradient / 0)  # as where half precision overflows
    with pytest.raises(TowerError, match=r"norm is (nan|inf) in batch 1 of epoch 1"):
        train(encoder, SPLIT, REPORTS, HOW)
    assert same(weights(encoder), before)


def test_a_learned_temperature_stops_at_its_floor_and_comes_back() -> None:
    image, text = features()
    # Images of other pairs than their reports: nothing to learn, so tau has to rise.
    encoder = heads((image.roll(7, dims=0), text))
    encoder.log_temperature = torch.nn.Parameter(torch.tensor(0.001).log())
    encoder.module.register_parameter("log_temperature", encoder.log_temperature)
    how = replace(HOW, temperature=None, learning_rate=0.05)
    low = train(encoder, SPLIT, REPORTS, replace(how, learning_rate=1e-9, max_epochs=1))
    assert low["temperature"] == pytest.approx(0.01)
    assert train(encoder, SPLIT, REPORTS, how)["temperature"] > 0.011


def test_the_learning_rate_rises_and_falls() -> None:
    how = ContrastiveTraining(learning_rate=1.0, warmup=0.2)
    rates = [how.rate(step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    # Half way from step 2 to step 10.
    assert rates[6] == pytest.approx(0.5)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert [for_heads().rate(step, 10) for step in (0, 9)] == [1e-3, 1e-3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 1},
        {"chunk_size": 0},
        {"temperature": 0.0},
        {"validation": 0.0},
        {"validation": 0.5, "test": 0.5},
        {"precision": "int8"},
        {"schedule": "steps"},
        {"warmup": 1.0},
        {"same_report": 0.0},
        {"clip": 0.0},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ContrastiveTraining(**wrong)


def tower_encoder(resnet_bert: Any, films: Any, frozen: bool) -> TowerEncoder:
    from mrrag_llamaindex.store.pair import Pair

    texts = [
        "no pleural effusion",
        "shows pleural effusion . heart size is normal . no left pleural effusion . heart normal",
        "heart size normal",
        "left pleural effusion",
        "right pleural effusion",
    ]
    rows = [
        Pair(film, text, f"a{number}", f"p{number}")
        for number, (film, text) in enumerate(zip(films, texts, strict=True))
    ]
    return TowerEncoder(resnet_bert(), training_pairs(rows), frozen)


def test_what_is_trained_is_what_is_embedded(resnet_bert: Any, films: Any) -> None:
    encoder = tower_encoder(resnet_bert, films, False)
    image, text = encode_all(encoder, range(5), 2)
    tower = encoder.tower
    unit = torch.nn.functional.normalize
    images = torch.from_numpy(tower.embed_images(films))
    texts = torch.from_numpy(tower.embed_texts(list(encoder._pairs.reports)))
    assert torch.allclose(unit(image, dim=1), images, atol=1e-5)
    assert torch.allclose(unit(text, dim=1), texts, atol=1e-5)


def test_whole_towers_in_chunks_have_the_gradient_of_the_whole_batch(
    resnet_bert: Any, films: Any
) -> None:
    encoder = tower_encoder(resnet_bert, films, True)
    # No dropout, and batch norm by its running statistics: each row by itself.
    encoder.module.double().eval()

    def load(kind: str, rows: Any) -> Any:
        inputs = encoder.load(kind, rows)
        return {"pixel_values": inputs["pixel_values"].double()} if kind == "image" else inputs

    def gradients(size: int) -> dict[str, Tensor]:
        encoder.module.zero_grad()
        chunks = [
            [load(kind, range(5)[start : start + size]) for start in range(0, 5, size)]
            for kind in ("image", "text")
        ]
        backward_in_chunks(
            lambda kind, _, inputs: encoder.encode(kind, inputs),
            (chunks[0], chunks[1]),
            lambda image, text: info_nce(image, text, encoder.log_temperature.exp()),
        )
        named = encoder.module.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}

    whole, parts = gradients(5), gradients(2)
    assert len(whole) > 30
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("frozen", [True, False])
def test_running_statistics_move_once_for_a_chunk_or_not_at_all(
    resnet_bert: Any, films: Any, frozen: bool
) -> None:
    def statistics(passes: int) -> Tensor:
        encoder = tower_encoder(resnet_bert, films, frozen)
        encoder.module.train()
        inputs = encoder.load("image", [0, 1, 2])
        with torch.no_grad():
            for _ in range(passes):
                encoder.encode("image", inputs)
        without = encoder.module.state_dict()
        still = torch.cat([v.flatten() for k, v in without.items() if "running" in k]).clone()
        encoder.encode("image", inputs)
        moved = torch.cat([v.flatten() for k, v in without.items() if "running" in k])
        assert torch.equal(still, moved) is frozen
        return moved.clone()

    assert torch.equal(statistics(0), statistics(2))


def test_half_precision_trains_float32_weights_to_about_the_same(
    resnet_bert: Any, films: Any
) -> None:
    split = Split(torch.tensor([0, 1, 2]), torch.tensor([3, 4]), torch.tensor([]))
    reports = SameReports([f"report {number}" for number in range(5)])
    how = ContrastiveTraining(batch_size=3, chunk_size=2, max_epochs=2, learning_rate=1e-3)
    losses = {}
    for precision in ("float32", "bfloat16"):
        encoder = tower_encoder(resnet_bert, films, True)
        before = weights(encoder)
        settings = replace(how, precision=precision)
        losses[precision] = train(encoder, split, reports, settings)["train_loss"]
        after = weights(encoder)
        assert all(tensor.dtype == before[name].dtype for name, tensor in after.items())
        assert not same(before, after)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert losses["bfloat16"] != losses["float32"]


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from accelerate import Accelerator
from dataclasses import replace
from mrrag_llamaindex.learning.towers.processes import Processes
from mrrag_llamaindex.learning.towers.loop import train
import importlib.util
spec = importlib.util.spec_from_file_location("the_test", sys.argv[3])
the_test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(the_test)
together = Processes(Accelerator(cpu=True))
assert together.count == 2
encoder = the_test.heads()
encoder.module.eval()
the_test.without_dropout(encoder)
record = train(encoder, the_test.EVEN, the_test.REPORTS, the_test.HOW, processes=together)
torch.save([encoder.module.state_dict(), record], f"{sys.argv[1]}/{together.index}.pt")
"""

EVEN = Split(SPLIT.train[:60], SPLIT.validation, SPLIT.test)


def without_dropout(encoder: HeadsEncoder) -> None:
    for module in encoder.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    alone = heads()
    without_dropout(alone)
    record = train(alone, EVEN, REPORTS, HOW)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, str(script), str(tmp_path), root, __file__]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [  # as torchrun starts them
        subprocess.Popen(
            command,
            env=os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-2000:]
    found = [torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in (0, 1)]
    assert same(found[0][0], found[1][0])
    for name, tensor in alone.module.state_dict().items():
        assert torch.allclose(found[0][0][name], tensor, atol=1e-5), name
    assert found[0][1]["best_epoch"] == record["best_epoch"]
