"""Models that take a plan: a subclass whose ``forward`` and ``generate`` take ``steering``."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import shutil
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedModel

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.cache_argument import without_cache
from mrrag_llamaindex.steering.attention.call_checks import check_call, past_tokens
from mrrag_llamaindex.steering.attention.registry import BACKENDS
from mrrag_llamaindex.steering.attention.support import check_steerable_class
from mrrag_llamaindex.steering.plan import SteeringPlan

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


@functools.cache
def steerable_class(base: type[ModelT]) -> type[ModelT]:
    """Make the subclass of a transformers model that takes a plan as an argument.

    ``generate`` checks its keywords against the signature of ``forward``; this subclass lists
    every original parameter and ``steering``, so that
    ``model.generate(**inputs, steering=plan)`` reaches the attention functions in prefill and
    decode. The plan is an argument of the call and is never stored on the model.

    Parameters
    ----------
    base
        A model class with a decoder, as ``LlavaForConditionalGeneration``.

    Returns
    -------
    type
        The subclass, the same one for the same `base`. It keeps the name and module of `base`:
        transformers looks up ``config.architectures`` and the renaming of checkpoint keys by
        them, and skips the renaming for classes from elsewhere (``lm_head`` of a LLaVA
        checkpoint would then be left at random values).

    Raises
    ------
    SteeringError
        If `base` cannot hand extra keywords to its attention, or does not use the attention
        interface.

    Examples
    --------
    >>> from transformers import LlavaForConditionalGeneration
    >>> model_class = steerable_class(LlavaForConditionalGeneration)
    >>> "steering" in inspect.signature(model_class.forward).parameters
    True
    """
    original = inspect.signature(base.forward)
    if "steering" in original.parameters:
        return base
    check_steerable_class(base)
    parameters = list(original.parameters.values())

    def forward(
        self: PreTrainedModel, *args: Any, steering: SteeringPlan | None = None, **kwargs: Any
    ) -> Any:
        if steering is None:
            return base.forward(self, *args, **kwargs)
        arguments = original.bind(self, *args, **kwargs).arguments
        arguments |= arguments.pop(parameters[-1].name, {})
        del arguments["self"]
        check_call(self, steering, arguments)
        if past_tokens(arguments) >= steering.prompt_length:
            if not steering.every_step:
                # A sliding cache holds fewer keys than the text has tokens, so in its decode
                # steps the number of keys no longer tells the layers that the prompt is behind
                # them.
                return base.forward(self, *args, **kwargs)
            steering.report.expect_step()
        if steering.edit is None:
            return base.forward(self, *args, steering=steering, **kwargs)

        def look() -> Any:
            return base.forward(self, **without_cache(arguments))

        layers, weights = steering.layers, steering.column_weights
        with steering.edit.around(self, layers, weights, past_tokens(arguments), look):
            return base.forward(self, *args, steering=steering, **kwargs)

    extra = inspect.Parameter(
        "steering",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation="SteeringPlan | None",
    )
    signature = original.replace(parameters=[*parameters[:-1], extra, parameters[-1]])
    forward.__signature__ = signature  # type: ignore[attr-defined]
    namespace = {
        "__module__": base.__module__,
        "__qualname__": f"Steerable{base.__name__}",
        "__doc__": f"`{base.__name__}` whose calls take ``steering``, a `SteeringPlan`.",
        "forward": forward,
    }
    return cast("type[ModelT]", type(base.__name__, (base,), namespace))


def attention_implementation(
    base: type[PreTrainedModel], backend: str = "rows"
) -> str | dict[str, str]:
    """Name the attention functions to load a model with: ours for text, the stock one elsewhere.

    Parameters
    ----------
    base
        The model class.
    backend
        ``"rows"``, ``"eager"`` or ``"flex"``; whether the last can run on a device is for
        `require_backend` to say, and whether it is right there for `proof.require_proven`.

    Returns
    -------
    str or dict
        The argument ``attn_implementation`` of ``from_pretrained``. A plain name would also
        switch the vision tower, hence the dict for models with sub-configs.

    Examples
    --------
    >>> from transformers import LlavaForConditionalGeneration
    >>> sorted(attention_implementation(LlavaForConditionalGeneration).items())
    [('text_config', 'mrrag_ifa'), ('vision_config', 'sdpa')]
    """
    check_backend_name(backend)
    if backend == "flex" and not getattr(base, "_supports_flex_attn", False):
        raise SteeringError(
            f"{base.__name__} does not support FlexAttention in transformers; use the backend "
            "'rows' or 'eager'"
        )
    name = BACKENDS[backend].registered
    parts: list[str] = list(base.config_class.sub_configs) if base.config_class else []
    if not parts:
        return name
    if "text_config" not in parts:
        raise SteeringError(
            f"{base.__name__} cannot be steered: its configuration has no text_config"
        )
    return {part: name if part == "text_config" else "sdpa" for part in parts}


def require_backend(backend: str, device_type: str) -> None:
    """Check, before a model is loaded, that a steering backend can run on a device.

    ``"rows"`` and ``"eager"`` are plain tensor code and run wherever the model does. ``"flex"``
    is compiled on its first call: on a GPU by Triton, on a CPU by a C++ compiler. Whether what they
    generate is right is for `proof.require_proven` to say, once the model is loaded.

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
