"""Batches in an order that follows from the seed, each loaded while another is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Loaded = TypeVar("Loaded")


def epoch_batches(rows: Tensor, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Rows in the order of an epoch, in parts of like size and at most ``batch_size``.

    A last batch of a few pairs would have hardly any negatives.
    """
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    drawn = torch.randperm(len(rows), generator=generator)
    return rows[drawn].tensor_split(batch_count(len(rows), batch_size))


def batch_count(rows: int, batch_size: int) -> int:
    """Count the batches of an epoch."""
    return -(-rows // batch_size)


def loaded_ahead(
    batches: tuple[Tensor, ...], first: int, load: Callable[[Tensor], Loaded]
) -> Iterator[tuple[int, Tensor, Loaded]]:
    """Yield number, rows and inputs of each batch from ``first`` on; the next is being loaded.

    Two batches of decoded images are held at once.
    """
    with ThreadPoolExecutor(1) as ahead:
        pending = [ahead.submit(load, batch) for batch in batches[first : first + 1]]
        for number in range(first, len(batches)):
            inputs = pending.pop().result()
            if number + 1 < len(batches):
                pending.append(ahead.submit(load, batches[number + 1]))
            yield number, batches[number], inputs


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch on all devices, and leave its generators as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
