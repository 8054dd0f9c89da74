"""Whether a backend is right on this machine: its answers beside those of the definition.

A compiler can generate attention that is wrong without a word. That of torch 2.13 for
FlexAttention does on CPUs with AVX2 and without AVX-512, at few tokens and narrow heads, and it
fails to build once lengths change. A backend with ``needs_proof`` is therefore tried where a model
is loaded, at the model's own heads and on the path of a generation: the prompt in a steered and in
a plain layer, then one token after it.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Final

import torch
from transformers import PreTrainedModel

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.model_class import check_backend_name
from mrrag_llamaindex.steering.attention.probe_calls import HeadGeometry, draw, probe
from mrrag_llamaindex.steering.attention.registry import BACKENDS, Backend

logger = logging.getLogger(__name__)

LENGTHS: Final = (24, 130, 300)
"""Tokens of the prompts that are tried, in this order.

The first is short and compiled for its own length. The second is the first change of length, at
which torch compiles for any length, and reaches over one block of 128 keys. The third runs what
was compiled for the second.
"""

_TOLERANCE = 1e-4
# What rounding may do depends on dtype and device: the definition itself is computed there, too.
_TIMES_ROUNDING = 3
_LONGEST_REASON = 200


def require_proven(name: str, model: PreTrainedModel) -> None:
    """Try a backend at the heads of a loaded model, on the devices of its text layers.

    Returns at once for a backend of plain tensor code. Otherwise the first model of its kind in a
    process pays for what is compiled, most of which its first answers would pay for. Of several
    devices of one type the first stands for all.

    Parameters
    ----------
    name
        One of `BACKENDS`.
    model
        A model that passed `mrrag_llamaindex.steering.attention.support.check_steerable`.

    Raises
    ------
    SteeringError
        If the backend is unknown, or is wrong or fails here.
    """
    check_backend_name(name)
    if not BACKENDS[name].needs_proof:
        return
    geometry = HeadGeometry.of(model.config.get_text_config(decoder=True))
    for device in _attention_devices(model):
        require_equal(name, BACKENDS[name], geometry, device, model.dtype)


def require_equal(
    name: str, backend: Backend, geometry: HeadGeometry, device: torch.device, dtype: torch.dtype
) -> None:
    """Compare a backend with the definition, once per process for the same arguments.

    One unpadded prompt at a time is tried, steered by IFA in all heads.

    Parameters
    ----------
    name
        What to call the backend in the message.
    backend
        The backend.
    geometry, device, dtype
        Of the attention to try.

    Raises
    ------
    SteeringError
        If an output is off by more than rounding, is no number, or cannot be computed. The message
        names the backend, the first such call and what to use instead.
    """
    flaw = _flaw(backend, geometry, device, dtype, _is_compiled())
    if flaw is not None:
        raise SteeringError(
            f"the steering backend {name!r} cannot be used here: with {geometry} in "
            f"{str(dtype).removeprefix('torch.')} on {device}, {flaw}; use backend 'rows' or "
            "'eager', which are plain tensor code and right on every machine"
        )


def _attention_devices(model: PreTrainedModel) -> list[torch.device]:
    """Find where the text layers run, one device of each type."""
    attention = (m for m in model.modules() if isinstance(getattr(m, "layer_idx", None), int))
    parameters = (next(module.parameters(), None) for module in attention)
    devices: dict[str, torch.device] = {}
    for parameter in parameters:
        # Layers kept on disk or in main memory are on "meta" between calls.
        if parameter is not None and parameter.device.type != "meta":
            devices.setdefault(parameter.device.type, parameter.device)
    return list(devices.values()) or [model.device]


def _is_compiled() -> bool:
    """Whether torch.compile compiles; it does not under the stance ``force_eager``."""
    answer: bool = torch.compile(lambda: torch.compiler.is_compiling(), backend="eager")()
    return answer


@functools.cache
def _flaw(
    backend: Backend,
    geometry: HeadGeometry,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,  # What holds for one is no proof for the other.
) -> str | None:
    """Say in which call the backend fails first and how; None if it is right."""
    eager = BACKENDS["eager"]
    for length in LENGTHS:
        tensors = draw(geometry, length, device, dtype)
        exact = probe(eager, geometry, length, [t.cpu().double() for t in tensors])
        definition = probe(eager, geometry, length, tensors)
        candidate = probe(backend, geometry, length, tensors)
        for what in (
            f"its steered attention over {length} tokens",
            f"its plain attention over {length} tokens",
            f"its attention of one token after {length}",
        ):
            right = next(exact)
            rounding = _distance(next(definition), right)
            try:
                off = _distance(next(candidate), right)
            except Exception as error:  # A compiler fails in too many ways to list.
                logger.debug("%s failed", backend.registered, exc_info=True)
                reason = (str(error).strip().splitlines() or [""])[0][:_LONGEST_REASON]
                return f"{what} could not be computed ({type(error).__name__}: {reason})"
            if math.isnan(off):
                return f"{what} holds NaN"
            allowed = max(_TOLERANCE, _TIMES_ROUNDING * rounding)
            if off > allowed:
                return (
                    f"{what} is off by {off:.2g} from the definition, where {allowed:.2g} may be "
                    "rounding"
                )
    return None


def _distance(output: torch.Tensor, right: torch.Tensor) -> float:
    return float((output.cpu().double() - right).abs().max())
