"""A model without memory: what loading would make of a checkpoint, and whether it would work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints import loading
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original
from mrrag_llamaindex.generation.checkpoints.llava_original.processor import build_processor
from mrrag_llamaindex.generation.checkpoints.llava_original.settings import OriginalSettings
from mrrag_llamaindex.generation.checkpoints.llava_original.tokenizer import load_original_tokenizer
from mrrag_llamaindex.generation.checkpoints.processors import load_processor
from mrrag_llamaindex.generation.checkpoints.weight_files import open_weights


@dataclass(frozen=True)
class Blueprint:
    """A model on the meta device, with the parts that would stand beside it.

    Attributes
    ----------
    model : PreTrainedModel
        Shapes and types only.
    tokenizer, processor
        As loading gives them; None where they could not be read, and for a text-only model's
        processor.
    notes : tuple of str
        What loading would tell the user.
    problems : tuple of (str, str)
        Why it would not load: what is concerned, and a sentence.
    checked : bool
        Whether every stored tensor was matched with its place in the model.
    """

    model: Any
    tokenizer: Any = None
    processor: Any = None
    notes: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    checked: bool = False


def draw(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    with_weights: bool,
    vision_tower: str = "checkpoint",
    allow_pickle: bool = False,
) -> Blueprint:
    """Go through loading with tensors that have a shape and no values.

    Every stored tensor is taken from the headers of the weight files, so transformers itself
    says which are missing, unexpected or misshaped, in seconds and without memory.

    Parameters
    ----------
    checkpoint : Checkpoint
    dtype : torch.dtype
        The type that the weights would be loaded in.
    with_weights : bool
        Whether the weight files are there. If not, the configuration alone is drawn.
    vision_tower, allow_pickle
        As for `load_model`.

    Raises
    ------
    ModelError
        If not even the configuration can be used.
    """
    problems: list[tuple[str, str]] = []
    tokenizer = processor = config = None
    tensors: Any = None
    notes: tuple[str, ...] = ()
    if checkpoint.original:
        if with_weights:
            with _collected(problems, "weights", checkpoint.source):
                opened = open_original(
                    checkpoint.folder,
                    vision_tower=vision_tower,
                    allow_pickle=allow_pickle,
                    compare=False,
                )
                config, tensors, notes = opened.config, opened.tensors, opened.notes
                processor, tokenizer = opened.processor, opened.processor.tokenizer
        if config is None:
            with loading.readable(checkpoint.source):
                config = _original_config(checkpoint, vision_tower)
            with _collected(problems, "tokenizer and processor", checkpoint.source):
                tokenizer = load_original_tokenizer(checkpoint.folder)
                processor = build_processor(tokenizer, config)
    else:
        with loading.readable(checkpoint.source):
            config = _model_class(checkpoint).config_class.from_pretrained(checkpoint.folder)
        with _collected(problems, "tokenizer and processor", checkpoint.source):
            tokenizer, processor, notes = load_processor(checkpoint)
        if with_weights:
            with _collected(problems, "weights", checkpoint.source):
                tensors = open_weights(checkpoint.folder, allow_pickle=allow_pickle)
    model, checked = None, False
    if tensors is not None:
        with _collected(problems, "weights", checkpoint.source):
            model = _filled(checkpoint, config, tensors, dtype)
            checked = True
    if model is None:
        with loading.readable(checkpoint.source):
            model = _empty(checkpoint, config, dtype)
    return Blueprint(model, tokenizer, processor, notes, tuple(problems), checked)


def _model_class(checkpoint: Checkpoint) -> Any:
    import transformers

    return getattr(transformers, checkpoint.family.model_class)


def _original_config(checkpoint: Checkpoint, vision_tower: str) -> Any:
    """Make the configuration of an original checkpoint whose weights are not here.

    Rows for the image token, a few in 32,000, are not counted: they depend on the tokenizer.
    """
    from mrrag_llamaindex.generation.checkpoints.llava_original.opening import llava_config
    from mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower import (
        VisionTower,
        local_folder,
        vision_config,
    )

    settings = OriginalSettings.of(checkpoint.config)
    named = settings.tower if vision_tower in ("checkpoint", "clip") else vision_tower
    config = vision_config(local_folder(named), named)
    return llava_config(settings, VisionTower(config, {}, None, vision_tower))


def _filled(checkpoint: Checkpoint, config: Any, tensors: Any, dtype: torch.dtype) -> Any:
    from mrrag_llamaindex.steering.attention.model_class import (
        attention_implementation,
        steerable_class,
    )
    from mrrag_llamaindex.steering.attention.registry import register

    register()
    base = _model_class(checkpoint)
    with loading.no_progress_bars():
        model, report = steerable_class(base).from_pretrained(
            None,
            config=config,
            state_dict={
                name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                for name, tensor in tensors.items()
            },
            attn_implementation=attention_implementation(base),
            device_map={"": "meta"},
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by name below
        )
    loading.check_complete(report, checkpoint.source)
    return model.eval()


def _empty(checkpoint: Checkpoint, config: Any, dtype: torch.dtype) -> Any:
    from mrrag_llamaindex.steering.attention.model_class import steerable_class

    with torch.device("meta"):
        return steerable_class(_model_class(checkpoint))._from_config(config, dtype=dtype).eval()


@contextmanager
def _collected(problems: list[tuple[str, str]], what: str, source: str) -> Iterator[None]:
    """Keep what would be raised while loading, in order to find what else is wrong."""
    try:
        with loading.readable(source):
            yield
    except ModelError as error:
        problems.append((what, str(error)))
