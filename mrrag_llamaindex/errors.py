"""Errors for a person: what was wrong, with which input, and what to do.

Every class derives from `Exception` alone, because hosts rewrite the others. LlamaIndex's default
synthesizer catches `ValueError` and `TypeError` raised inside an LLM call and answers the literal
string "Empty Response"; its bridge from sync to async catches `RuntimeError`, runs the call a
second time, and raises advice about nested event loops instead.

Configuration objects (`FusionWeights`, `IFA`, ...) are the exception: they raise `ValueError`
when they are constructed, which never happens inside an LLM call.
"""

from __future__ import annotations

from typing import Any


class MRRAGError(Exception):
    """Base of all errors that this package raises on purpose."""


class InputError(MRRAGError):
    """An input (image, report, question, table) cannot be used as given."""


class ImageError(InputError):
    """An image is missing, unreadable, too small or too large."""


class StoreError(MRRAGError):
    """A pair store is absent, is something else, or was made with other towers."""


class TowerError(MRRAGError):
    """A dual encoder cannot be loaded, or its output is not an embedding."""


class ModelError(MRRAGError):
    """A generator cannot be loaded, or not be used as requested."""


class BusyError(ModelError):
    """A model has more to do than its queue takes; the same call may well succeed later.

    Parameters
    ----------
    message : str
    timed_out : bool
        False: the queue was full, and the request was refused at once. True: it waited longer
        than ``queue_timeout``.
    """

    def __init__(self, message: str, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out

    def __reduce__(self) -> tuple[type[BusyError], tuple[str, bool]]:
        """Rebuild it where it crosses processes."""
        return type(self), (str(self), self.timed_out)

    @classmethod
    def full(cls, waiting: int) -> BusyError:
        """Say that a queue of ``waiting`` requests takes no more."""
        return cls(
            f"{waiting} questions wait for this model already, and its queue takes no more: ask "
            "again later, ask fewer at once, or raise max_queue",
            False,
        )

    @classmethod
    def late(cls, seconds: float) -> BusyError:
        """Say that a request waited for ``seconds`` in vain."""
        return cls(
            f"the model was busy for the {seconds:.1f} seconds that this question waited: ask "
            "again later, ask fewer at once, or raise queue_timeout",
            True,
        )


class ClusterError(MRRAGError):
    """Workers of a cluster cannot be had, or not do what is asked of them."""


class PromptError(MRRAGError):
    """A prompt cannot be built: the wrong order, or it does not fit the model's window."""


class SteeringError(MRRAGError):
    """Steering was requested and did not, or cannot, happen."""


class EvidenceError(MRRAGError):
    """The evidence of an LLM call is missing, evicted, or belongs to two questions at once."""


class NoRelevantCase(EvidenceError):  # noqa: N818 (it is a finding, not a failure)
    """The store holds no case that is relevant enough for the question to be answered from.

    It is an error and not an answer text: a text would be shown, stored or read by the next step as
    if a model had said it. It passes through every LlamaIndex engine.

    Parameters
    ----------
    probability : float
        That the best document supports a right answer.
    threshold : float
        The least that would have been enough.
    error_rate, confidence : float
        What is guaranteed from that threshold on, see `Abstention`.

    Examples
    --------
    >>> try:                                                      # doctest: +SKIP
    ...     response = engine.query(bundle)
    ... except NoRelevantCase as nothing:
    ...     show(f"No relevant case was found ({nothing.probability:.0%}).")
    """

    def __init__(
        self, probability: float, threshold: float, error_rate: float, confidence: float
    ) -> None:
        self.probability = probability
        self.threshold = threshold
        self.error_rate = error_rate
        self.confidence = confidence
        super().__init__(
            f"no relevant case was found: the best document supports a right answer with "
            f"probability {probability:.3f}, below the threshold of {threshold:.3f}, above which "
            f"at most {error_rate:.0%} of the best documents do not; catch NoRelevantCase and say "
            "so, add cases to the store, or ask with abstain=False"
        )

    def as_dict(self, question: str) -> dict[str, Any]:
        """Return what stands in place of an answer: null, so that no text is taken for one."""
        names = ("probability", "threshold", "error_rate", "confidence")
        reason = {name: getattr(self, name) for name in names}
        return {"question": question, "answer": None, "abstained": True, **reason, "sources": []}

    def __reduce__(self) -> tuple[type[NoRelevantCase], tuple[float, float, float, float]]:
        """Rebuild it from its numbers where it crosses processes."""
        numbers = (self.probability, self.threshold, self.error_rate, self.confidence)
        return type(self), numbers
