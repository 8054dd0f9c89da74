"""The error that stands for "no relevant case was found"."""

from __future__ import annotations

from mrrag_llamaindex.errors import EvidenceError


class NoRelevantCase(EvidenceError):  # noqa: N818 (it is a finding, not a failure)
    """The store holds no case that is relevant enough for the question to be answered from.

    It is an error and not an answer text: a text would be shown, stored or read by the next step as
    if a model had said it. Being a `RuntimeError`, it passes through every LlamaIndex engine.

    Parameters
    ----------
    probability : float
        That the best document supports a right answer.
    threshold : float
        What it would have had to be.
    error_rate, confidence : float
        What was shown of that threshold, see `Abstention`.

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
            f"probability {probability:.3f}, below {threshold:.3f}, from which on at most "
            f"{error_rate:.0%} of the best documents do not; catch NoRelevantCase and say so, add "
            "cases to the store, or ask with abstain=False"
        )

    def __reduce__(self) -> tuple[type[NoRelevantCase], tuple[float, float, float, float]]:
        """Be rebuilt from the numbers where an error crosses processes."""
        numbers = (self.probability, self.threshold, self.error_rate, self.confidence)
        return type(self), numbers
