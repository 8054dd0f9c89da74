"""Which models can be steered: known from class and configuration, before anything runs."""

from __future__ import annotations

import inspect

from transformers import PretrainedConfig, PreTrainedModel

from mrrag_llamaindex.errors import SteeringError

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_SOFT_CAPS = ("attn_logit_softcapping", "attn_soft_cap")


def check_steerable_class(base: type[PreTrainedModel]) -> None:
    """Refuse a model class that hides its attention.

    Parameters
    ----------
    base
        The class to load a checkpoint with.

    Raises
    ------
    SteeringError
        If its ``forward`` cannot hand extra keywords down, or its attention does not go through
        the transformers attention interface with SDPA.
    """
    parameters = list(inspect.signature(base.forward).parameters.values())
    takes_keywords = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    supported = getattr(base, "_supports_attention_backend", False)
    if not (takes_keywords and supported and getattr(base, "_supports_sdpa", False)):
        raise SteeringError(
            f"{base.__name__} cannot be steered: its attention does not go through the "
            "transformers attention interface with SDPA; use a model that does"
        )


def check_steerable(model: PreTrainedModel) -> None:
    """Refuse a loaded model in which steering would be wrong or without effect.

    Nothing is run: the class, the configuration of the text layers and their modules are read.

    Parameters
    ----------
    model
        A model with a decoder, on whatever device.

    Raises
    ------
    SteeringError
        If attention has soft-capping or sinks, layers have no attention (linear attention, state
        spaces) or attend to something other than the text, an encoder reads the prompt, or the
        class hides its attention. The message names the class and the reason.
    """
    text = model.config.get_text_config(decoder=True)
    reason = (
        "an encoder reads the prompt, so the decoder has no question rows"
        if model.config.is_encoder_decoder
        else _reason_in_config(text)
    )
    if reason is None:
        check_steerable_class(type(model))
        reason = _reason_in_modules(model, text.num_hidden_layers)
    if reason is not None:
        raise SteeringError(
            f"{type(model).__name__} (text model {text.model_type}) cannot be steered: {reason}; "
            "use it with steering off, or another model"
        )


def _reason_in_config(text: PretrainedConfig) -> str | None:
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or []
    other = [layer for layer, kind in enumerate(kinds) if kind not in _ATTENTION_LAYERS]
    if other:
        return f"layers {other} are {sorted({kinds[layer] for layer in other})}, not attention"
    crossed = getattr(text, "cross_attention_layers", None)
    if crossed:
        return f"layers {list(crossed)} attend to the image beside the text"
    for name in _SOFT_CAPS:
        if getattr(text, name, None) is not None:
            return f"its attention logits are soft-capped ({name} = {getattr(text, name)})"
    return None


def _reason_in_modules(model: PreTrainedModel, count: int) -> str | None:
    attention = [module for module in model.modules() if hasattr(module, "is_causal")]
    if any(getattr(module, "sinks", None) is not None for module in attention):
        return "its attention has sinks, which the steered rows would not see"
    layers = {getattr(module, "layer_idx", None) for module in attention}
    missing = sorted(set(range(count)) - layers)
    if missing:
        return f"layers {missing} hold no attention that knows its layer_idx"
    return None
