"""The entry point ``vllm.general_plugins``: put the overlay over vLLM's attention, if asked to."""

from __future__ import annotations

import os

from mrrag_llamaindex.serving.vllm.arguments import ACTIVE
from mrrag_llamaindex.serving.vllm.backends import KNOWN, class_path


def register() -> None:
    """Activate steering in this process if the environment asks for it; vLLM calls this in each.

    Raises
    ------
    ValueError
        If the variable is neither 0 nor 1.
    """
    asked = os.environ.get(ACTIVE, "0")
    if asked not in ("0", "1", ""):
        raise ValueError(f"{ACTIVE} must be 0 or 1, not {asked!r}")
    if asked == "1":
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # vLLM would report to its makers
        activate()


def activate() -> None:
    """Register the attention classes with vLLM, in this process.

    Engines that are made afterwards need `arguments.engine_arguments`, and refuse to start without.

    Raises
    ------
    RuntimeError
        If another package has replaced the same attention class.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    for name in KNOWN:
        backend = AttentionBackendEnum[name]
        if backend.is_overridden() and backend.get_path() != class_path(name):
            raise RuntimeError(
                f"steering: {backend.get_path()} already stands in for vLLM's {name}; run one of "
                "the two plugins, see VLLM_PLUGINS"
            )
        register_backend(backend, class_path(name))


def deactivate() -> None:
    """Take the attention classes back; engines that run keep theirs."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    for name in KNOWN:
        backend = AttentionBackendEnum[name]
        if backend.is_overridden() and backend.get_path() == class_path(name):
            backend.clear_override()
