"""What is checked before a steered call runs: that the plan can act in it as it was meant."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.cache_argument import cache_of
from mrrag_llamaindex.steering.attention.registry import BACKENDS
from mrrag_llamaindex.steering.plan import SteeringPlan


def check_call(model: PreTrainedModel, plan: SteeringPlan, arguments: dict[str, Any]) -> None:
    """Check, before anything runs, that a plan can act in this call as it was meant.

    Parameters
    ----------
    model
        The model about to run.
    plan
        Its plan.
    arguments
        The arguments of ``forward`` by name, those of its ``**kwargs`` among them.

    Raises
    ------
    SteeringError
        If the text layers do not use our attention functions, a critical layer or a head does not
        exist, the cache hides where rows stand, or the padding is not the plan's.
    """
    text = model.config.get_text_config(decoder=True)
    if text._attn_implementation not in {backend.registered for backend in BACKENDS.values()}:
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
    cache = cache_of(arguments)
    if cache is not None and cache.is_compileable:
        raise SteeringError(
            "steering needs a dynamic cache: a static one hides where the rows of a call "
            "stand; leave cache_implementation unset"
        )
    if plan.heads is not None:
        count = text.num_attention_heads
        wrong = sorted({head for heads in plan.heads.values() for head in heads if head >= count})
        if wrong:
            raise SteeringError(
                f"heads {wrong} do not exist: each layer has {count} heads, numbered from 0"
            )
    past = past_tokens(arguments)
    for layer in cache.layers if cache is not None and past < plan.prompt_length else ():
        if getattr(layer, "is_sliding", False) and past >= layer.sliding_window:
            raise SteeringError(
                f"steering: the prompt is prefilled in parts but the cache keeps only "
                f"{layer.sliding_window} tokens; prefill the prompt in one call"
            )
    window = sliding_window(text)
    if plan.every_step and window and past + 1 > window:
        raise SteeringError(
            f"steering: {type(plan.policy).__name__} steers every decode step, and the model looks "
            f"back {window} tokens only, so its columns move out of sight; use a model without a "
            "sliding window, or shorter prompts and answers"
        )
    if plan.shared_prefix and any(plan.padding) and window and window < plan.prompt_length:
        raise SteeringError(
            f"steering: the model looks back {window} tokens and would count the padding behind "
            f"the shared prefix among them, in prompts of {plan.prompt_length} tokens; prefill "
            "these prompts whole, without a shared prefix"
        )
    mask = arguments.get("attention_mask")
    if past < plan.prompt_length:
        if mask is None and any(plan.padding):
            raise SteeringError(
                "steering: the batch is padded but the call has no attention mask; pass the "
                "attention_mask of the padded batch"
            )
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            _check_padding(plan, mask)


def sliding_window(text: PretrainedConfig) -> int | None:
    """Tell how far back the shortest-sighted attention layer of a text model looks.

    Returns
    -------
    int or None
        Tokens, counted over padding too; None if every layer sees the whole text.
    """
    kinds = set(getattr(text, "layer_types", None) or ["sliding_attention"])
    limits = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    sizes = [getattr(text, name, None) for kind, name in limits.items() if kind in kinds]
    return min((limit for limit in sizes if limit is not None), default=None)


def past_tokens(arguments: dict[str, Any]) -> int:
    """Count the tokens in the cache of a call, from the arguments of ``forward``."""
    cache = cache_of(arguments)
    return 0 if cache is None else int(cache.get_seq_length())


def _check_padding(plan: SteeringPlan, mask: torch.Tensor) -> None:
    """Refuse inputs whose padding is not the plan's: they would be steered in the wrong places."""
    if mask.shape[0] != plan.batch_size:
        return  # The attention function names the reason.
    prefix = plan.shared_prefix
    position = torch.arange(min(mask.shape[1], plan.prompt_length), device=mask.device)
    padding = torch.tensor(plan.padding or (0,) * plan.batch_size, device=mask.device)[:, None]
    expected = (position < prefix) | (position >= prefix + padding)
    wrong = (mask[:, : len(position)].bool() != expected).any(dim=1)
    if bool(wrong.any()):
        rows = wrong.nonzero().flatten().tolist()
        if prefix:
            raise SteeringError(
                f"attention_mask of rows {rows} does not have its zeros where the plan has the "
                f"padding, behind the {prefix} tokens of the shared prefix; lay every row out as "
                "[prefix | padding | suffix] and build the plan from that batch"
            )
        raise SteeringError(
            f"attention_mask of rows {rows} is not the left padding that the plan was built for; "
            "pad on the left (tokenizer.padding_side = 'left') and build the plan from that batch"
        )
