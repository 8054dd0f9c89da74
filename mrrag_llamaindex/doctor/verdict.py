"""Whether a model fits on the devices of a machine, and what would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from mrrag_llamaindex.doctor.machine import DeviceMemory
from mrrag_llamaindex.doctor.memory import MemoryNeed, ModelSize, PromptShape
from mrrag_llamaindex.generation.checkpoints.quantization import BITS


@dataclass(frozen=True)
class DeviceVerdict(DeviceMemory):
    """Whether a model fits on one device.

    Attributes
    ----------
    dtype : str
        What its weights would be loaded in there.
    need : MemoryNeed
    """

    dtype: str
    need: MemoryNeed

    @property
    def fits(self) -> bool:
        """Whether the need is at most what is free."""
        return self.need.total <= self.free

    def __str__(self) -> str:
        need = f"needs {gigabytes(self.need.total)} on {self.device} in {self.dtype}"
        free = f"{gigabytes(self.free)} are free"
        if self.fits:
            return f"{need}, {free}"
        return f"{need}, {free}: {gigabytes(self.need.total - self.free)} short"


def judge(
    devices: Sequence[DeviceMemory],
    size: ModelSize,
    prompt: PromptShape,
    dtype_on: Callable[[str], torch.dtype],
    quantization: str | None = None,
    *,
    spread: bool = False,
) -> tuple[DeviceVerdict, ...]:
    """Judge every device on its own, and with ``spread`` all of them together, which comes first.

    Parameters
    ----------
    devices : sequence of DeviceMemory
    size : ModelSize
    prompt : PromptShape
    dtype_on : callable
        From the name of a device to the type in which a model would be loaded there.
    quantization : {"int8", "int4"}, optional
    spread : bool
        Whether a device map was asked for.
    """
    places = list(devices)
    if spread:
        # bitsandbytes does not split a model between GPUs and the CPU.
        gpus = [device for device in devices if device.device != "cpu"]
        used = gpus if quantization and gpus else devices
        total, free = sum(device.total for device in used), sum(device.free for device in used)
        names = " + ".join(device.device for device in used)
        places.insert(0, DeviceMemory("device_map", names, total, free))
    verdicts = []
    for place in places:
        dtype = dtype_on(place.device)
        label = str(dtype).removeprefix("torch.") + (f", {quantization}" if quantization else "")
        need = size.need(dtype, quantization, prompt)
        verdicts.append(DeviceVerdict(**vars(place), dtype=label, need=need))
    return tuple(verdicts)


def what_would_fit(
    chosen: DeviceVerdict,
    verdicts: Sequence[DeviceVerdict],
    size: ModelSize,
    prompt: PromptShape,
    dtype: torch.dtype,
    quantization: str | None = None,
) -> tuple[str, ...]:
    """List ways on for a model that does not fit on the chosen device, the mildest first.

    Parameters
    ----------
    chosen : DeviceVerdict
    verdicts : sequence of DeviceVerdict
        Of all devices.
    size : ModelSize
    prompt : PromptShape
    dtype : torch.dtype
        The type on the chosen device.
    quantization : {"int8", "int4"}, optional
    """

    def total(dtype: torch.dtype, quantization: str | None, batch_size: int) -> int:
        return size.need(dtype, quantization, replace(prompt, batch_size=batch_size)).total

    half = dtype if dtype.itemsize <= 2 else torch.bfloat16
    ways: list[tuple[str, int]] = []
    if prompt.batch_size > 1:
        ways.append(("batch_size 1", total(dtype, quantization, 1)))
    if dtype.itemsize > 2:
        ways.append(("dtype bfloat16", total(half, quantization, prompt.batch_size)))
    for name in BITS if quantization is None and size.matrices else ():
        label = f"quantization {name} with dtype {str(half).removeprefix('torch.')}"
        ways.append((label, total(half, name, prompt.batch_size)))
    if quantization is None and size.matrices and prompt.batch_size > 1:
        ways.append(("quantization int4 with batch_size 1", total(half, "int4", 1)))
    fitting = [f"{what} ({gigabytes(need)})" for what, need in ways if need <= chosen.free]
    others = [v for v in verdicts if v.device not in (chosen.device, "device_map")]
    fitting += [
        f"device {v.device} ({gigabytes(v.need.total)} in {v.dtype})" for v in others if v.fits
    ]
    together = sum(v.free for v in verdicts if v.device != "device_map")
    if chosen.device != "device_map" and others and chosen.need.total <= together:
        fitting.append(f'device_map "auto" ({gigabytes(together)} in all, slower)')
    return tuple(fitting) or ("a smaller model",)


def gigabytes(count: int) -> str:
    """Write a number of bytes for a person.

    >>> gigabytes(15_133_000_000), gigabytes(1_500_000)
    ('15.1 GB', '1.5 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
