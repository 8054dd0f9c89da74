"""Checks around a model: its image tokens, and its exceptions in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from mrrag_llamaindex.errors import ModelError, MRRAGError


def image_tokens(model: Any, processor: Any) -> int:
    """Image features per image, checked against the processor (575 is a known fault)."""
    vision = model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    full = model.config.vision_feature_select_strategy == "full"
    crop = getattr(processor.image_processor, "crop_size", None) or {}
    side = crop.get("height") if hasattr(crop, "get") else getattr(crop, "height", None)
    if side is not None and side != vision.image_size:
        raise ModelError(
            f"the processor makes images of {side} pixels and the vision tower takes "
            f"{vision.image_size}; the processor belongs to another model"
        )
    return int(patches + full)


@contextlib.contextmanager
def person_readable() -> Iterator[None]:
    """Turn what torch and transformers raise into a `ModelError`.

    A `ValueError` or `TypeError` inside an LLM call becomes "Empty Response" in LlamaIndex.
    """
    try:
        yield
    except MRRAGError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "the device ran out of memory while answering; use fewer documents or a smaller dtype"
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"generation failed inside the model ({type(error).__name__}); the cause is chained"
        ) from error
