"""Models that carry a plan: a subclass whose ``forward`` and ``generate`` take ``steering``."""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedModel

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention import BACKENDS
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
    parameters = list(original.parameters.values())
    takes_keywords = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    supported = getattr(base, "_supports_attention_backend", False)
    if not (takes_keywords and supported and getattr(base, "_supports_sdpa", False)):
        raise SteeringError(
            f"{base.__name__} cannot be steered: its attention does not go through the "
            "transformers attention interface with SDPA; use a model that does"
        )

    def forward(
        self: PreTrainedModel, *args: Any, steering: SteeringPlan | None = None, **kwargs: Any
    ) -> Any:
        if steering is None:
            return base.forward(self, *args, **kwargs)
        check_call(self, steering, original.bind(self, *args, **kwargs).arguments)
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
        ``"rows"`` or ``"eager"``.

    Returns
    -------
    str or dict
        The argument ``attn_implementation`` of ``from_pretrained``. A plain name would also
        switch the vision tower, hence the dict for models with sub-configs.

    Examples
    --------
    >>> from transformers import LlavaForConditionalGeneration
    >>> attention_implementation(LlavaForConditionalGeneration)
    {'vision_config': 'sdpa', 'text_config': 'mrrag_ifa'}
    """
    if backend not in BACKENDS:
        raise SteeringError(f"unknown steering backend {backend!r}; choose from {list(BACKENDS)}")
    name = BACKENDS[backend]
    parts: list[str] = list(base.config_class.sub_configs) if base.config_class else []
    if not parts:
        return name
    if "text_config" not in parts:
        raise SteeringError(
            f"{base.__name__} cannot be steered: its configuration has no text_config"
        )
    return {part: name if part == "text_config" else "sdpa" for part in parts}


def check_call(model: PreTrainedModel, plan: SteeringPlan, arguments: dict[str, Any]) -> None:
    """Check, before anything runs, that a plan can act in this call as it was meant.

    Parameters
    ----------
    model
        The model about to run.
    plan
        Its plan.
    arguments
        The bound arguments of ``forward``.

    Raises
    ------
    SteeringError
        If the text layers do not use our attention functions, a critical layer does not exist,
        the cache hides where rows stand, or the padding is not the plan's.
    """
    text = model.config.get_text_config(decoder=True)
    if text._attn_implementation not in BACKENDS.values():
        raise SteeringError(
            f"the text layers use {text._attn_implementation!r} attention, which ignores "
            "steering; load the model with attn_implementation=attention_implementation(...)"
        )
    beyond = sorted(layer for layer in plan.layers if layer >= text.num_hidden_layers)
    if beyond:
        raise SteeringError(
            f"layers {beyond} do not exist: the model has {text.num_hidden_layers} layers, "
            "numbered from 0"
        )
    cache = arguments.get("past_key_values")
    past = 0
    if cache is not None:
        if cache.is_compileable:
            raise SteeringError(
                "steering needs a dynamic cache: a static one hides where the rows of a call "
                "stand; leave cache_implementation unset"
            )
        past = int(cache.get_seq_length())
        for layer in cache.layers if 0 < past < plan.prompt_length else ():
            if getattr(layer, "is_sliding", False) and past >= layer.sliding_window:
                raise SteeringError(
                    f"steering: the prompt is prefilled in parts but the cache keeps only "
                    f"{layer.sliding_window} tokens; prefill the prompt in one call"
                )
    mask = arguments.get("attention_mask")
    if past < plan.prompt_length and isinstance(mask, torch.Tensor) and mask.ndim == 2:
        _check_padding(plan, mask)


def _check_padding(plan: SteeringPlan, mask: torch.Tensor) -> None:
    """Right-padded inputs, or those of other prompts, would be steered in the wrong places."""
    if mask.shape[0] != plan.batch_size:
        return  # The attention function names the reason.
    columns = min(mask.shape[1], plan.prompt_length)
    padding = torch.tensor(plan.padding or (0,) * plan.batch_size, device=mask.device)
    expected = torch.arange(columns, device=mask.device) >= padding[:, None]
    wrong = (mask[:, :columns].bool() != expected).any(dim=1)
    if bool(wrong.any()):
        rows = wrong.nonzero().flatten().tolist()
        raise SteeringError(
            f"attention_mask of rows {rows} is not the left padding that the plan was built for; "
            "pad on the left (tokenizer.padding_side = 'left') and build the plan from that batch"
        )
