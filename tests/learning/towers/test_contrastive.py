"""InfoNCE with pairs that are no negatives, and the gradient cache against the plain gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrrag_llamaindex.learning.towers.contrastive import backward_in_chunks, info_nce


def test_the_loss_is_that_of_the_hand_computed_case() -> None:
    image = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    text = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    # cosines: [[1, .6], [0, .8]]; tau 1
    rows = (math.log(math.e + math.exp(0.6)) - 1) + (math.log(1 + math.exp(0.8)) - 0.8)
    columns = (math.log(math.e + 1) - 1) + (math.log(math.exp(0.6) + math.exp(0.8)) - 0.8)
    expected = (rows / 2 + columns / 2) / 2
    assert info_nce(image, text, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert info_nce(image, text, 0.5).item() != pytest.approx(expected, abs=1e-2)


def test_alike_pairs_leave_the_denominator() -> None:
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    alike = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    # cosines [[1, 1, 0], [.6, .6, .8], [0, 0, 1]]; the pairs 0 and 1 are no negatives
    log, e = math.log, math.exp
    rows = (log(e(1) + 1) - 1) + (log(e(0.6) + e(0.8)) - 0.6) + (log(2 + e(1)) - 1)
    columns = (log(e(1) + 1) - 1) + (log(e(0.6) + 1) - 0.6) + (log(1 + e(0.8) + e(1)) - 1)
    expected = (rows / 3 + columns / 3) / 2
    assert info_nce(image, text, 1.0, alike).item() == pytest.approx(expected, abs=1e-6)
    assert info_nce(image, text, 1.0).item() > expected + 0.1


class Toy:
    """Two small networks with dropout, a temperature, and data."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.nets = nn.ModuleDict(
                {
                    kind: nn.Sequential(
                        nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 4)
                    )
                    for kind in ("image", "text")
                }
            ).double()
            self.data = {kind: torch.randn(7, 5).double() for kind in ("image", "text")}
        self.log_temperature = nn.Parameter(torch.tensor(-1.0).double())

    def loss(self, image: Tensor, text: Tensor) -> Tensor:
        return info_nce(image.double(), text.double(), self.log_temperature.exp())

    def encode(self, kind: str, chunk: int, inputs: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(10 * chunk + (kind == "text"))
            return self.nets[kind](inputs)

    def gradients(self) -> dict[str, Tensor]:
        told = {name: p.grad.clone() for name, p in self.nets.named_parameters()}
        return {**told, "log_temperature": self.log_temperature.grad.clone()}


def chunks_of(size: int, data: dict[str, Tensor]) -> Any:
    return data["image"].split(size), data["text"].split(size)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_gradient_cache_equals_the_plain_gradient(size: int) -> None:
    toy = Toy()
    parts = chunks_of(size, toy.data)
    whole = [
        torch.cat([toy.encode(kind, i, part) for i, part in enumerate(chunks)])
        for kind, chunks in zip(("image", "text"), parts, strict=True)
    ]
    plain = toy.loss(*whole)
    plain.backward()
    expected = toy.gradients()
    toy.nets.zero_grad()
    toy.log_temperature.grad = None
    value = backward_in_chunks(toy.encode, parts, toy.loss)
    assert value.item() == pytest.approx(plain.item(), abs=1e-6)
    for name, gradient in toy.gradients().items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-6), name
        assert gradient.abs().max() > 1e-4, name


def test_the_shares_of_two_processes_add_up_to_the_whole_batch() -> None:
    toy = Toy()
    toy.nets.eval()
    backward_in_chunks(toy.encode, chunks_of(6, {k: v[:6] for k, v in toy.data.items()}), toy.loss)
    expected = toy.gradients()
    with torch.no_grad():
        everyone = {kind: toy.nets[kind](toy.data[kind][:6]).float() for kind in toy.data}
    total: dict[str, Tensor] = {}
    for first in (0, 3):
        toy.nets.zero_grad()
        toy.log_temperature.grad = None
        kinds = iter(("image", "text"))

        def gather(own: Tensor, first: int = first, kinds: Any = kinds) -> tuple[Tensor, slice]:
            place = slice(first, first + 3)
            vectors = everyone[next(kinds)]
            assert torch.allclose(own, vectors[place])
            return vectors, place

        own = {kind: rows[first : first + 3] for kind, rows in toy.data.items()}
        backward_in_chunks(toy.encode, chunks_of(2, own), toy.loss, gather)
        for name, gradient in toy.gradients().items():
            total[name] = total.get(name, 0) + gradient
    # Every process has the whole gradient of the temperature.
    total["log_temperature"] /= 2
    for name, gradient in total.items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-6), name
