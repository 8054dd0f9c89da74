"""Load the tokenizer and the processor of a checkpoint in the transformers layout."""

from __future__ import annotations

from typing import Any

from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.profile import PROFILE_FILE

BACKEND = "pil"
"""Image processing by Pillow on every machine: torchvision resamples a little differently, so
the same image would get other pixels, hence other answers, where it happens to be installed."""


def load_processor(checkpoint: Checkpoint) -> tuple[Any, Any, tuple[str, ...]]:
    """Load what turns text and images into tensors.

    Returns
    -------
    tokenizer : PreTrainedTokenizerFast
    processor : ProcessorMixin, BaseImageProcessor or None
        The image processor alone for Qwen-VL, whose processor needs torchvision for videos; None
        for a text-only model.
    notes : tuple of str
        Faults of the checkpoint that were mended.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, LlavaConfig

    from mrrag_llamaindex.generation.checkpoints.mending import (
        lacks_processor,
        mend_processor,
        missing_processor,
    )

    folder, family = checkpoint.folder, checkpoint.family
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if not family.sees_images:
        return tokenizer, None, ()
    images: Any = AutoImageProcessor
    if family.model_type == "qwen2_5_vl":
        return tokenizer, images.from_pretrained(folder, backend=BACKEND), ()
    auto: Any = AutoProcessor
    if family.model_type != "llava":
        return tokenizer, auto.from_pretrained(folder, backend=BACKEND), ()
    config = LlavaConfig.from_pretrained(folder)
    notes: tuple[str, ...] = ()
    if lacks_processor(folder):
        processor, notes = missing_processor(tokenizer, config)
    else:
        processor = auto.from_pretrained(folder, backend=BACKEND)
    own_layout = (folder / PROFILE_FILE).is_file()
    notes += mend_processor(processor, config, own_layout=own_layout)
    return processor.tokenizer, processor, notes
