"""What an engine must be like: all else is refused by name when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrrag_llamaindex.serving.vllm.arguments import BATCH, SCHEDULER, WORKER, command_line


def check_arguments(config: Any) -> None:
    """Check that the engine was given all of our arguments, and not the overlay alone.

    Without the scheduler, steered blocks of the prefix cache would be taken for plain ones.

    Raises
    ------
    ValueError
        If one is missing.
    """
    given = {
        "scheduler": config.scheduler_config.scheduler_cls == SCHEDULER,
        "worker": config.parallel_config.worker_cls == WORKER,
        "batch": BATCH in (config.model_config.logits_processors or ()),
    }
    if not all(given.values()):
        raise ValueError(
            "steering: MRRAG_VLLM=1, and the engine lacks arguments that steering needs. Start it "
            f"with {' '.join(command_line())}, or in Python with **engine_arguments()"
        )


def check_config(config: Any) -> None:
    """Refuse what was not made for steering, or would make it wrong.

    Parameters
    ----------
    config
        The ``VllmConfig`` of the engine, complete.

    Raises
    ------
    ValueError
        Naming every such setting at once.
    """
    parallel, cache, model = config.parallel_config, config.cache_config, config.model_config
    graphs = getattr(config.compilation_config.cudagraph_mode, "name", "NONE")
    found = {
        "tensor_parallel_size > 1": parallel.tensor_parallel_size > 1,
        "pipeline_parallel_size > 1": parallel.pipeline_parallel_size > 1,
        "data_parallel_size > 1": parallel.data_parallel_size > 1,
        "decode_context_parallel_size > 1": _size(parallel, "decode_context_parallel_size") > 1,
        "prefill_context_parallel_size > 1": _size(parallel, "prefill_context_parallel_size") > 1,
        "dual-batch overlap (enable_dbo)": bool(getattr(parallel, "enable_dbo", False)),
        "speculative decoding": config.speculative_config is not None,
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
        "a KV connector (kv_transfer_config)": config.kv_transfer_config is not None,
        "an encoder-cache connector": getattr(config, "ec_transfer_config", None) is not None,
        f"kv_cache_dtype {cache.cache_dtype!r}": "8" in str(cache.cache_dtype)
        or "4" in str(cache.cache_dtype),
        f"CUDA graphs of whole steps (cudagraph_mode {graphs})": "FULL" in graphs
        and config.device_config.device_type != "cpu",
        "model runner V2 (set VLLM_USE_V2_MODEL_RUNNER=0)": bool(config.use_v2_model_runner),
        "images that are read in both directions (Gemma 3) by vLLM's CPU attention, which looks "
        "back only (limit_mm_per_prompt={'image': 0} keeps them out)": bool(
            getattr(model, "is_mm_prefix_lm", False) and config.device_config.device_type == "cpu"
        ),
        "an encoder-decoder model": bool(model.is_encoder_decoder),
        "a pooling model": model.runner_type == "pooling",
    }
    refused = [name for name, is_so in found.items() if is_so]
    if refused:
        raise ValueError(
            f"steering: this engine cannot be steered with {'; '.join(refused)}. Start it without, "
            "or without MRRAG_VLLM=1 and without plans"
        )


def check_layer(name: str, given: Mapping[str, Any]) -> None:
    """Refuse a decoder layer that adds terms to its logits, or has no cache of its own.

    Parameters
    ----------
    name
        Of vLLM's attention class.
    given
        The arguments that it was made with.

    Raises
    ------
    ValueError
        Naming the term.
    """
    terms = {
        "logits_soft_cap": "a soft cap on its logits",
        "alibi_slopes": "ALiBi",
        "sinks": "attention sinks",
        "kv_sharing_target_layer_name": "another layer's keys and values",
    }
    used = [
        text
        for term, text in terms.items()
        if not (given.get(term) is None or (isinstance(given[term], float) and given[term] == 0))
    ]
    if used:
        raise ValueError(
            f"steering: a decoder layer ({name}) uses {' and '.join(used)}, which this package "
            "does not steer; run this model without MRRAG_VLLM=1"
        )


def check_layers(layers: Mapping[str, Any]) -> None:
    """Check that every layer of the loaded model that attends can be steered.

    Parameters
    ----------
    layers
        Name to vLLM's layer: its ``static_forward_context``.

    Raises
    ------
    ValueError
        Naming the attention class that is not known.
    """
    unknown = {
        type(getattr(layer, "impl", layer)).__name__
        for layer in layers.values()
        if not getattr(getattr(layer, "impl", None), "is_steered", False)
        and getattr(layer, "attn_type", "decoder") == "decoder"
    }
    if unknown or not layers:
        raise ValueError(
            f"steering: the model attends with {', '.join(sorted(unknown)) or 'nothing'}, whose "
            "rows this package cannot compute again; it knows vLLM's CPU attention, "
            "FlashAttention and FlashInfer (attention_backend), and MRRAG_VLLM must be 1 in every "
            "process"
        )


def _size(config: Any, name: str) -> int:
    return int(getattr(config, name, 1) or 1)
