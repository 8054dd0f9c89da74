"""Which steering backends can run here."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.registry import BACKENDS


def require_backend(backend: str, device_type: str) -> None:
    """Check, before a model is loaded, that a steering backend can run on a device.

    ``"rows"`` and ``"eager"`` are plain tensor code and run wherever the model does. ``"flex"``
    is compiled on its first call: on a GPU by Triton, on a CPU by a C++ compiler. There it is for
    comparisons only, see `mrrag_llamaindex.steering.attention.flex.ifa_flex_attention_forward`.

    Parameters
    ----------
    backend
        One of `BACKENDS`.
    device_type
        ``"cuda"``, ``"cpu"``, ...: the ``type`` of the device of the text layers.

    Raises
    ------
    SteeringError
        If the backend is unknown or cannot run there; the message says what is missing.

    Examples
    --------
    >>> require_backend("rows", "cpu")
    """
    check_backend_name(backend)
    if backend != "flex":
        return
    problem = None
    if device_type == "cuda":
        if not torch.cuda.is_available():
            problem = "no CUDA device is visible"
        elif importlib.util.find_spec("triton") is None:
            problem = "the package triton, which compiles it, is not installed"
    elif device_type == "cpu":
        compiler = os.environ.get("CXX") or "g++ or clang++"
        if not any(shutil.which(name) for name in compiler.split(" or ")):
            problem = f"no C++ compiler ({compiler}) is on the path"
    else:
        problem = "it is known for cuda and cpu only"
    if problem is not None:
        raise SteeringError(
            f"the steering backend 'flex' cannot run on {device_type}: {problem}; use "
            "backend 'rows', which needs nothing and gives the same answers"
        )


def check_backend_name(backend: str) -> None:
    """Raise a `SteeringError` that lists the backends if `backend` is none of them."""
    if backend not in BACKENDS:
        raise SteeringError(f"unknown steering backend {backend!r}; choose from {list(BACKENDS)}")
