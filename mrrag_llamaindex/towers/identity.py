"""The name by which vectors of the same towers are recognised."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from mrrag_llamaindex.files.digests import json_digest

# Fields of a transformers config that say where it came from, not what it computes.
_VOLATILE = frozenset(
    {
        "_name_or_path",
        "_attn_implementation",
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "torch_dtype",
        "transformers_version",
    }
)


def config_facts(config: Any) -> dict[str, Any]:
    """Fields of a transformers config that change what the model computes, as plain JSON."""
    facts: dict[str, Any] = _without_volatile(json.loads(config.to_json_string(use_diff=True)))
    return facts


def weights_digest(module: nn.Module, without: str | None = None) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's parameters and buffers.

    Parameters
    ----------
    module : nn.Module
    without : str, optional
        Beginning of the names of tensors that are left out.
    """
    digest = hashlib.sha256()
    state = module.state_dict()
    for name in sorted(state):
        if without is not None and name.startswith(without):
            continue
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def make_identity(name: str, *parts: Any) -> str:
    """``"<name>@<16 hex digits>"`` over parts that are plain JSON."""
    return f"{name}@{json_digest(parts, 16)}"


def weights_state(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Cheap mark that changes when a parameter is replaced or written to (optimizer, loading)."""
    # One walk without names: it is taken for every query, and the public iterators cost 2 ms.
    tables = ({**part._parameters, **part._buffers} for part in module.modules())
    tensors = [tensor for table in tables for tensor in table.values() if tensor is not None]
    # Tensors made under torch.inference_mode cannot be written to outside it, and keep no count.
    return tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors)


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(item) for item in value]
    return value
