"""vLLM's attention classes with the overlay, made when vLLM asks for them by name."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from mrrag_llamaindex.serving.vllm.overlay import steered_backend

KNOWN: Final = ("CPU_ATTN", "FLASH_ATTN", "FLASHINFER")
"""Members of vLLM's ``AttentionBackendEnum`` whose rows can be computed again."""


def class_path(name: str) -> str:
    """Return the dotted path under which vLLM finds the class of one of `KNOWN`."""
    return f"{__name__}.{name}"


@cache
def _made(name: str) -> type[Any]:
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    return steered_backend(resolve_obj_by_qualname(AttentionBackendEnum[name].value))


def __getattr__(name: str) -> type[Any]:
    if name in KNOWN:
        return _made(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
