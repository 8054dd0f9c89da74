"""Errors for a person: what was wrong, with which input, and what to do.

Every class derives from `RuntimeError`. LlamaIndex's default synthesizer catches
`ValueError` and `TypeError` raised inside an LLM call and answers the literal string
"Empty Response"; a `RuntimeError` reaches the caller in every response mode.

Configuration objects (`FusionWeights`, `IFA`, ...) are the exception: they raise `ValueError`
when they are constructed, which never happens inside an LLM call.
"""

from __future__ import annotations


class MRRAGError(RuntimeError):
    """Base of all errors that this package raises on purpose."""


class InputError(MRRAGError):
    """An input (image, report, question, table) cannot be used as given."""


class ImageError(InputError):
    """An image is missing, unreadable, too small or too large."""


class StoreError(MRRAGError):
    """A pair store is absent, is something else, or was made with other towers."""


class TowerError(MRRAGError):
    """A dual encoder cannot be loaded, or returned something that is not an embedding."""


class ModelError(MRRAGError):
    """A generator cannot be loaded or cannot be used as asked."""


class PromptError(MRRAGError):
    """A prompt cannot be built: the wrong order, or it does not fit the model's window."""


class SteeringError(MRRAGError):
    """Steering was asked for and did not, or cannot, happen."""


class EvidenceError(MRRAGError):
    """The evidence of an LLM call is missing, evicted, or belongs to two questions at once."""
