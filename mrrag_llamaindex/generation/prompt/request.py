"""What is asked of a generator, and the prompt that it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mrrag_llamaindex.steering.spans import PromptSpans

Span = tuple[int, int]
"""Half-open range [start, stop) of tokens or characters."""


@dataclass(frozen=True)
class PromptDocument:
    """A document offered to the model.

    Parameters
    ----------
    document_id : str
        The pair id, or the node id of a foreign node.
    text : str
    score : float or None
        Retrieval score. It decides who leaves first when the prompt is too long, and lambda of
        those that stay.
    """

    document_id: str
    text: str
    score: float | None = None


@dataclass(frozen=True)
class PromptRequest:
    """What is asked: a question, its documents, and the conversation around it.

    Parameters
    ----------
    question : str
    documents : sequence of PromptDocument
    instructions : str
        Text of the application (a system prompt), placed before the documents.
    before_question, after_question : str
        Text of the application around the question, when it brought a template of its own.
    history : sequence of (str, str)
        Earlier (question, answer) turns.
    asks_twice : bool
        Whether the question stands before the documents, too, where there are any.
    """

    question: str
    documents: Sequence[PromptDocument] = ()
    instructions: str = ""
    before_question: str = ""
    after_question: str = ""
    history: Sequence[tuple[str, str]] = ()
    asks_twice: bool = False


@dataclass(frozen=True)
class Prompt:
    """A finished prompt.

    Attributes
    ----------
    text : str
        With the image token written once per image feature.
    input_ids : tuple of int
    documents : tuple of PromptDocument
        Those that are in the prompt, in order.
    document_spans : tuple of (int, int)
        Token span [start, stop) of each document's text in `input_ids`.
    lambdas : tuple of float
        In [0, 1], for each document: `min_max_lambdas` of the scores in this prompt. What
        knows relevance from elsewhere (an oracle) replaces them.
    question_span : (int, int)
        Token span of the question's own text.
    image_span : (int, int) or None
        From the first to the last image token, of several images of the first and the last one.
    dropped : tuple of PromptDocument
        Those that are empty or did not fit, in the order in which they left.
    unknown_tokens : int
        Unknown-word tokens in what the user wrote: a model that reads them reads nothing.
    image_spans : tuple of (int, int)
        Token span of each image, from its first to its last image token.
    first_question_span : (int, int) or None
        Token span of the question where it stands before the documents, too.
    """

    text: str
    input_ids: tuple[int, ...]
    documents: tuple[PromptDocument, ...]
    document_spans: tuple[Span, ...]
    lambdas: tuple[float, ...]
    question_span: Span
    image_span: Span | None
    dropped: tuple[PromptDocument, ...]
    unknown_tokens: int
    image_spans: tuple[Span, ...] = ()
    first_question_span: Span | None = None

    @property
    def spans(self) -> PromptSpans:
        """The spans as steering takes them."""
        return PromptSpans(
            self.document_spans,
            self.question_span,
            len(self.input_ids),
            self.image_span,
            self.first_question_span,
        )
