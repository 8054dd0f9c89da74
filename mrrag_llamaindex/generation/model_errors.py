"""What a model raises, turned into errors for a person."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mrrag_llamaindex.errors import ModelError, MRRAGError


@contextlib.contextmanager
def person_readable() -> Iterator[None]:
    """Turn what torch and transformers raise into a `ModelError`.

    A `ValueError` or `TypeError` inside an LLM call becomes "Empty Response" in LlamaIndex, and a
    `RuntimeError` advice about event loops.
    """
    try:
        yield
    except MRRAGError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "the device ran out of memory while answering; use fewer documents, a smaller "
            "batch_size, or a smaller dtype"
        ) from error
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(
            f"generation failed inside the model ({type(error).__name__}); the cause is chained"
        ) from error
