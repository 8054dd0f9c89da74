"""Several processes, one device each, through accelerate; or one process alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Processes:
    """The processes that train one pair of towers together.

    Each holds all weights and a share of every batch. The loss is taken over the vectors of all
    of them, so the gradient is that of the whole batch on one device.

    Parameters
    ----------
    accelerator : accelerate.Accelerator, optional
        As it is in a process that ``accelerate launch`` started; None for a single process.

    Attributes
    ----------
    count, index : int
        Processes, and the number of this one.
    main : bool
        Whether this one writes files.
    """

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        self.count: int = accelerator.num_processes if accelerator else 1
        self.index: int = accelerator.process_index if accelerator else 0
        self.main = self.index == 0

    def divisible(self, batch: Tensor) -> Tensor:
        """Leave out up to ``count - 1`` pairs at a batch's end, so that all shares are equal."""
        size = len(batch) // self.count
        if size == 0:
            raise ValueError(f"a batch of {len(batch)} pairs for {self.count} processes")
        return batch[: size * self.count]

    def place(self, rows: int) -> slice:
        """Place of this process' share among the rows of a batch."""
        size = rows // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def gather(self, vectors: Tensor) -> tuple[Tensor, slice]:
        """Vectors of all processes, in order, and the place of this one's."""
        return self._accelerator.gather(vectors), self.place(len(vectors) * self.count)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over the processes, in place."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self._accelerator.reduce(parameter.grad, reduction="sum")

    def agree(self, module: nn.Module) -> None:
        """Give all processes the buffers (running statistics) of the first."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        for buffer in module.buffers():
            buffer.copy_(broadcast(buffer))

    def same(self, number: float) -> float:
        """Return the first process' number in all of them, so that all stop at once."""
        if self.count == 1:
            return number
        from accelerate.utils import broadcast

        value = torch.tensor(number, dtype=torch.float64, device=self._accelerator.device)
        return float(broadcast(value))
