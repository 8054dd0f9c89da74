"""Weights in 8 or 4 bits, through bitsandbytes: the text model's linear layers, nothing else."""

from __future__ import annotations

import importlib.util
import logging
import re
from typing import Any, Final

from mrrag_llamaindex.errors import ModelError

BITS: Final = {"int8": 8, "int4": 4}
"""Name of a quantization to the bits of one weight; ``"int4"`` is the NF4 type of QLoRA."""

NF4_BLOCK: Final = 64
"""Weights that share one float32 scale in NF4, bitsandbytes' own choice."""

INSTALL: Final = 'pip install "mrrag-llamaindex[quantization]"'

# Every decoder of transformers numbers its layers; vision towers number theirs, too, but stand
# one level deeper (model.vision_tower.encoder.layers.0, model.visual.blocks.0).
_TEXT_LAYER = r"\w+\.(?:(?:language_model|text_model|decoder)\.)?(?:layers|h|blocks?)\.\d+\."
# What is *not* to be converted, for transformers: everything but the above. Short names, such as
# "multi_modal_projector", are matched from the start of the full name and miss.
_ALL_BUT_TEXT_LAYERS = [rf"(?!{_TEXT_LAYER}).*"]
# What int8 does to activations, written for every layer and token; and that an optional kernel for
# CPUs is not installed.
_NOISE = ("MatMul8bitLt: inputs will be cast", "Failed to load CPU gemm_4bit_forward")
_LEAST_CAPABILITY = (7, 5)  # CUDA: tensor cores for 8-bit integers


def quantization_config(
    name: str | None, device: str | None = None, dtype: Any = None
) -> Any | None:
    """Make the argument ``quantization_config`` of ``from_pretrained``.

    Parameters
    ----------
    name : {"int8", "int4"} or None
        None: no quantization.
    device : str or None
        Where the model goes, a torch device. None where a device map spreads it.
    dtype : torch.dtype or str, optional
        Of all other weights and of the arithmetic; the default is float32.

    Returns
    -------
    BitsAndBytesConfig or None

    Raises
    ------
    ModelError
        If the name is unknown, bitsandbytes or accelerate is not installed, or the device cannot.

    Notes
    -----
    int8 is LLM.int8 (Dettmers et al., 2022), whose activations are float16 between the layers'
    weights whatever the model's type; int4 is NF4 (Dettmers et al., 2023) without double
    quantization. The vision tower, the projector, the embeddings and ``lm_head`` stay as they
    are: they hold a tenth of a 7B model, the first two see every pixel, and the last decides
    between yes and no.
    """
    check_name(name)
    if name is None:
        return None
    missing = [p for p in ("bitsandbytes", "accelerate") if importlib.util.find_spec(p) is None]
    if missing:
        raise ModelError(
            f"quantization {name!r} needs the package {missing[0]}, which is not installed; "
            f"{INSTALL}"
        )
    _require_device(name, device)
    import torch
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig  # without annotations in the library
    if name == "int8":
        return config(load_in_8bit=True, llm_int8_skip_modules=_ALL_BUT_TEXT_LAYERS)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype or torch.float32,
        llm_int8_skip_modules=_ALL_BUT_TEXT_LAYERS,
    )


def check_name(name: str | None) -> None:
    """Raise a `ModelError` if there is no quantization of that name."""
    if name is not None and name not in BITS:
        raise ModelError(f"quantization {name!r}: use {' or '.join(BITS)}, or leave it out")


def _no_noise(record: logging.LogRecord) -> bool:
    return not record.msg.startswith(_NOISE)


def _require_device(name: str, device: str | None) -> None:
    for logger in ("autograd._functions", "backends.cpu.ops"):
        logging.getLogger(f"bitsandbytes.{logger}").addFilter(_no_noise)
    import bitsandbytes
    import torch

    kind = None if device is None else torch.device(device).type
    supported = sorted(bitsandbytes.supported_torch_devices)
    if kind is not None and kind not in supported:
        raise ModelError(
            f"quantization {name!r}: bitsandbytes cannot run on device {device!r}; use one of "
            f"{', '.join(supported)}, or leave quantization out"
        )
    if name != "int8" or not torch.cuda.is_available() or torch.version.hip:
        return
    used = range(torch.cuda.device_count()) if kind is None else [device] if kind == "cuda" else []
    for each in used:
        if torch.cuda.get_device_capability(each) < _LEAST_CAPABILITY:
            raise ModelError(
                f"quantization 'int8' needs a GPU of compute capability 7.5 or later, and "
                f"{torch.cuda.get_device_name(each)} is older; use int4"
            )


def check_quantized(model: Any, name: str | None) -> None:
    """Make sure that what was asked for happened, and nothing else.

    Parameters
    ----------
    model : PreTrainedModel
        As loaded.
    name : {"int8", "int4"} or None

    Raises
    ------
    ModelError
        If a weight matrix of the text layers is not quantised as asked, or if anything outside
        them is.
    """
    if name is None:
        return
    import torch
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    wanted = Linear8bitLt if name == "int8" else Linear4bit
    both = (Linear8bitLt, Linear4bit)
    converted = {key for key, module in model.named_modules() if isinstance(module, both)}
    outside = sorted(key for key in converted if not is_text_layer(key))
    if outside:
        raise ModelError(
            f"quantization {name!r} also converted {outside[0]!r}, which is no part of the text "
            "model's layers; this kind of model cannot be quantised here, leave quantization out"
        )
    whole = [
        key
        for key, value in model.named_parameters()
        if is_text_layer(key)
        and value.ndim > 1
        and not isinstance(model.get_submodule(key.rpartition(".")[0]), wanted)
    ]
    if whole or not converted:
        reason = f"{whole[0]!r} is not converted" if whole else "no layer was converted"
        raise ModelError(
            f"quantization {name!r} did not happen as asked: {reason}, so the model would need "
            "more memory than expected; leave quantization out"
        )
    # bitsandbytes converts a weight when it reaches its device.
    stored = torch.int8 if name == "int8" else torch.uint8
    waiting = [key for key in converted if model.get_submodule(key).weight.dtype != stored]
    if waiting:
        raise ModelError(
            f"quantization {name!r} did not happen: the weights of {min(waiting)!r} are still "
            f"{model.get_submodule(min(waiting)).weight.dtype}"
        )


def is_text_layer(name: str) -> bool:
    """Say whether a module or parameter stands inside a numbered layer of the text model.

    >>> is_text_layer("model.language_model.layers.0.mlp.up_proj")
    True
    >>> is_text_layer("model.vision_tower.encoder.layers.0.mlp.fc1")
    False
    """
    return re.match(_TEXT_LAYER, name) is not None


def quantized_bytes(name: str, rows: int, columns: int) -> int:
    """Bytes of one weight matrix with all that bitsandbytes keeps beside it.

    int8 keeps a float32 scale per row; NF4 keeps a float32 scale per block of 64 weights and a
    table of its 16 values.

    >>> quantized_bytes("int8", 4096, 4096) / 4096**2
    1.0009765625
    """
    weights = rows * columns
    if name == "int8":
        return weights + 4 * rows
    return -(-weights // 2) + 4 * -(-weights // NF4_BLOCK) + 4 * 16
