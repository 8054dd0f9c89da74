"""What responses hold, for the description of the interface and for clients that are typed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Response(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Influence(_Response):
    """How much one document moved the answer."""

    points: float = Field(description="Of the answer's probability, in percent.")
    flips: bool = Field(description="Whether the answer would be another without it.")


class Scored(_Response):
    """A document, and how it was ranked."""

    pair_id: str
    views: list[str] = Field(description="Further pairs of its case, for which it stands.")
    score: float
    image_text: float
    image_image: float
    text_text: float
    text_image: float
    raw_image: float | None = None
    raw_text: float | None = None
    lambda_: float = Field(alias="lambda", description="Relevance by which it steers, 0 to 1.")
    probability: float | None = Field(description="That it supports a right answer; calibrated.")


class Source(Scored):
    """A document behind an answer."""

    read: bool = Field(description="Whether the prompt held it.")
    influence: Influence | None = Field(None, description="With explain.")


class Document(Scored):
    """A document that was found."""

    rank: int
    weights: dict[str, float] = Field(description="By which its terms were fused.")
    report: str
    patient_id: str | None
    study_id: str | None
    has_image: bool


class Documents(_Response):
    """Documents, best first."""

    documents: list[Document]


class Steering(_Response):
    """Where attention was steered, or why it was not."""

    applied: bool
    layers: list[int]
    rows: str
    reason: str
    question_tokens: int
    document_tokens: int
    image_tokens: int = Field(description="How many of these are the image's.")
    every_step: bool = Field(description="Whether rows of the answer's tokens were, too.")


class Facts(_Response):
    """All about an answer but its text: the field ``mrrag`` of a chat's response."""

    p_yes: float
    p_no: float
    sources: list[Source]
    abstained: bool
    left_out: int = Field(description="Documents that were not probable enough.")
    dropped: list[str] = Field(description="Documents that the prompt had no room for.")
    image_read: bool
    steering: Steering
    unknown_words: int
    seconds: dict[str, float]


class ChatFacts(Facts):
    """The same, of a conversation."""

    left_out_turns: int = Field(description="Earlier messages that the prompt lacks.")


class Completed(BaseModel):
    """What OpenAI's interface returns, and the field ``mrrag``."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    mrrag: ChatFacts


class Answer(Facts):
    """An answer."""

    question: str
    answer: str


class NoAnswer(_Response):
    """What stands in its place, with ``abstain``, where no document is relevant enough."""

    question: str
    answer: None
    abstained: bool
    probability: float
    threshold: float
    error_rate: float
    confidence: float
    sources: list[Any]


class Pair(_Response):
    """What is stored of a pair."""

    pair_id: str
    patient_id: str | None
    study_id: str | None
    report: str
    missing: str | None
    metadata: dict[str, str | int | float | bool]
    image: str | None = Field(description="Where its image is.")


class Told(_Response):
    """What is told of a refusal."""

    code: str
    message: str
    type: str
    param: str | None


class Error(_Response):
    """A refusal."""

    error: Told


def described(model: Any) -> dict[int | str, dict[str, Any]]:
    """Return the description of a route's responses; nothing is checked when it answers."""
    return {200: {"model": model}, "4XX": {"model": Error}, "5XX": {"model": Error}}
