"""Where the documents and the question stand in one tokenised prompt."""

from __future__ import annotations

from dataclasses import dataclass

from mrrag_llamaindex.errors import SteeringError


@dataclass(frozen=True)
class PromptSpans:
    """Token spans of one prompt, after image expansion and before padding.

    Attributes
    ----------
    documents
        ``(start, stop)`` of each document in prompt order; a document may be empty.
    question
        ``(start, stop)`` of the question; at least one token, after every document.
    length
        Tokens in the prompt.
    image
        ``(start, stop)`` from the first to the last image token; None without an image.
    first_question
        ``(start, stop)`` of the question where it stands before the documents, too.

    Raises
    ------
    SteeringError
        If a span leaves the prompt, the image is empty, documents overlap, a first question does
        not come before them, or the question does not come after the documents: attention is
        causal, so a question that stands before a document cannot see it, and steering would be an
        exact no-op.
    """

    documents: tuple[tuple[int, int], ...]
    question: tuple[int, int]
    length: int
    image: tuple[int, int] | None = None
    first_question: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        start, stop = self.question
        if not 0 <= start < stop <= self.length:
            raise SteeringError(
                f"question: token span {start}..{stop} is empty or outside a prompt of "
                f"{self.length} tokens; take the spans from the tokens after image expansion"
            )
        if self.image is not None and not 0 <= self.image[0] < self.image[1] <= self.length:
            raise SteeringError(
                f"image: token span {self.image[0]}..{self.image[1]} is empty or outside a prompt "
                f"of {self.length} tokens; take the spans from the tokens after image expansion"
            )
        end = 0
        if self.first_question is not None:
            first, end = self.first_question
            if not 0 <= first < end <= start:
                raise SteeringError(
                    f"first question: token span {first}..{end} is empty or does not come before "
                    f"the question (tokens {start}..{stop})"
                )
        for position, (first, last) in enumerate(self.documents):
            if not 0 <= first <= last <= self.length:
                raise SteeringError(
                    f"document {position}: token span {first}..{last} is outside a prompt of "
                    f"{self.length} tokens; take the spans from the tokens after image expansion"
                )
            if last > start:
                raise SteeringError(
                    f"the question (tokens {start}..{stop}) does not come after document "
                    f"{position} (tokens {first}..{last}): causal attention could not be steered "
                    "towards it; put the documents before the question"
                )
            if first < end:
                raise SteeringError(
                    f"document {position}: token span {first}..{last} overlaps the document "
                    "or the first question before it; list the documents in prompt order"
                )
            end = last
