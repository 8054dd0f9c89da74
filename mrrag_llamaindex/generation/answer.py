"""What one generation gave: the text, its probabilities, and what steering did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.prompt.request import Prompt
    from mrrag_llamaindex.steering.policy import SteeringPolicy


@dataclass(frozen=True)
class SteeringOutcome:
    """Whether steering changed attention for this answer, and where.

    Attributes
    ----------
    applied : bool
    layers : tuple of int
        Critical layers in which attention was changed.
    rows : str
        Which rows of the prompt were changed: ``"question"``, ``"to_end"`` (from the question to
        the end of the prompt), or ``"last"``.
    question_tokens, document_tokens : int
        How many rows that were, and in how many columns: for IFA those of the documents with a
        lambda above zero. Other policies have other columns (PAI those of the image).
    image_tokens : int
        How many of these columns are the image's.
    reason : str
        Why it was not applied; empty when it was.
    every_step : bool
        Whether the rows of the answer's own tokens were changed, too.
    """

    applied: bool
    layers: tuple[int, ...] = ()
    question_tokens: int = 0
    document_tokens: int = 0
    reason: str = ""
    rows: str = ""
    image_tokens: int = 0
    every_step: bool = False


@dataclass(frozen=True)
class AttentionTrace:
    """Where the attention of the question's rows went, measured in the answer's own pass.

    After steering, mask and softmax; means over heads, rows and layers. The shares sum to 1.

    Attributes
    ----------
    image, documents, question, rest : float or None
        Shares of the image, of all documents, of the question's own text, and of the template and
        the application's text. None where they were not measured.
    layers : tuple of int
        Those of the policy if it names some, else the model's critical layers.
    reason : str
        Why they were not measured; empty when they were.
    """

    image: float | None = None
    documents: float | None = None
    question: float | None = None
    rest: float | None = None
    layers: tuple[int, ...] = ()
    reason: str = "this engine does not show attention"


NOT_SHOWN = AttentionTrace()
"""Of an engine that shows no attention."""


@dataclass(frozen=True)
class Influence:
    """What one document did to one answer.

    Attributes
    ----------
    points : float
        Percentage points that the probability of the answer's first token has with the document
        and would not have without it: above 0 the document speaks for the answer, below 0 against.
    flips : bool
        Whether the first token would be another one without it; spellings of yes count as one
        token, and so do those of no.
    """

    points: float
    flips: bool


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes
    ----------
    text : str
        Without control tokens, stripped.
    p_yes, p_no : float
        Probability of the first answer token being a spelling of yes (no), over the whole
        vocabulary: their sum is below 1 for a question that is not answered by yes or no.
    document_ids : tuple of str
        Documents that were in the prompt, in order.
    lambdas : mapping of str to float
        Lambda of each of them in this call: min-max of the scores of those that were read.
    dropped : tuple of str
        Documents that were offered and did not fit.
    steering : SteeringOutcome
    image_read : bool
        Whether the query image was in the prompt; a text-only model never reads it.
    prompt_tokens : int
    unknown_tokens : int
        Words of the prompt's data that the model's vocabulary does not hold.
    seconds : float
        Wall-clock time of the batch that this answer was part of.
    answer_tokens : int
        Tokens that were generated, the end token included.
    cut_off : bool
        Whether the answer ended with the last token that was allowed, and not of itself.
    influence : mapping of str to Influence or None
        How much each document moved the answer, see `explain`; None if that was not asked for.
    attention : AttentionTrace
        Shares of image, documents and question, or why they are not known.
    left_out_turns : int
        Earlier turns of the conversation that the prompt lacks, because they are about another
        image, or it is not known which (a conversation that was begun in another process).
    """

    text: str
    p_yes: float
    p_no: float
    document_ids: tuple[str, ...]
    lambdas: Mapping[str, float]
    dropped: tuple[str, ...]
    steering: SteeringOutcome
    image_read: bool
    prompt_tokens: int
    unknown_tokens: int
    seconds: float
    answer_tokens: int = 0
    cut_off: bool = False
    influence: Mapping[str, Influence] | None = None
    left_out_turns: int = 0
    # Measured, and in another batch other in its last digits: no part of what makes two equal.
    attention: AttentionTrace = field(default=NOT_SHOWN, compare=False)

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        text: str,
        confidence: tuple[float, float],
        steering: SteeringOutcome,
        seconds: float,
    ) -> Answer:
        """Gather what is known of one generated row; ``confidence`` is (p_yes, p_no)."""
        return cls(
            text=text.strip(),
            p_yes=confidence[0],
            p_no=confidence[1],
            document_ids=tuple(document.document_id for document in prompt.documents),
            lambdas={
                document.document_id: value
                for document, value in zip(prompt.documents, prompt.lambdas, strict=True)
            },
            dropped=tuple(document.document_id for document in prompt.dropped),
            steering=steering,
            image_read=prompt.image_span is not None,
            prompt_tokens=len(prompt.input_ids),
            unknown_tokens=prompt.unknown_tokens,
            seconds=seconds,
        )


def steering_outcome(
    prompt: Prompt, policy: SteeringPolicy | None, layers: tuple[int, ...]
) -> SteeringOutcome:
    """Say where one prompt was steered, or why it was not."""
    if policy is None or policy.is_off:
        return SteeringOutcome(False, reason="steering is off")
    spans = prompt.spans
    steered = [span for span, _ in policy.columns(spans, prompt.lambdas)]
    columns = sum(stop - start for start, stop in steered)
    if columns == 0:
        empty = "no document is in the prompt"
        return SteeringOutcome(False, reason=policy.idle if prompt.documents else empty)
    start, stop = policy.rows(spans)
    first, end = spans.image or (0, 0)
    of_image = sum(max(0, min(b, end) - max(a, first)) for a, b in steered)
    return SteeringOutcome(
        True,
        layers,
        stop - start,
        columns,
        rows=policy.rows_name,
        image_tokens=of_image,
        every_step=policy.every_step,
    )
