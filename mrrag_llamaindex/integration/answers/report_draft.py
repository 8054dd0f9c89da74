"""A draft of a report: its sentences, and the cases that each of them rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import Self

from mrrag_llamaindex.generation.influence.sentences import SentenceEffects

NOTICE = "Draft by research software, not a medical device: to be checked by a radiologist."
"""Stands at the head of every draft, in text, JSON and terminal alike."""

UNMOVED = "not moved by any case or the image"
"""The mark of a sentence that no evidence moved."""

TOGETHER = "the cases together, none alone"
"""The mark of a sentence that stays without any one case, and not without all of them."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class CaseEffect(_Frozen):
    """What one case did to one sentence."""

    pair_id: str
    effect: float = Field(
        description="Nats per token that the sentence gains by the case: above 0 the case speaks "
        "for it, below 0 against it."
    )


class DraftSentence(_Frozen):
    """One sentence of a draft."""

    text: str
    tokens: int = Field(description="Of the model.")
    log_probability: float = Field(description="Mean of its tokens, in nats.")
    effects: list[CaseEffect] = Field(description="Of every case that was read, largest first.")
    together: float | None = Field(
        description="Of all cases at once, which is more than their sum where they say the same."
    )
    image_effect: float | None = Field(description="Of the image; null if the model read none.")
    cases: list[str] = Field(description="Cases that speak for it, largest effect first.")
    against: list[str] = Field(description="Cases that speak against it.")
    unmoved: bool = Field(
        description="Whether no case, nor all of them at once, nor the image moved it."
    )

    @classmethod
    def of(cls, text: str, effects: SentenceEffects, threshold: float) -> Self:
        """Sort the effects on one sentence.

        Parameters
        ----------
        text : str
        effects : SentenceEffects
        threshold : float
            Nats per token from which an effect counts.

        Examples
        --------
        >>> effects = {"a": 0.02, "b": 0.7, "c": -0.3}
        >>> found = SentenceEffects(5, -0.2, effects, together=0.9, image=0.01)
        >>> sentence = DraftSentence.of("No effusion.", found, threshold=0.1)
        >>> sentence.cases, sentence.against, sentence.unmoved
        (['b'], ['c'], False)
        >>> str(sentence)
        'No effusion. [b; against: c]'
        """
        ranked = sorted(effects.documents.items(), key=lambda item: -abs(item[1]))
        cases = [name for name, effect in ranked if effect >= threshold]
        against = [name for name, effect in ranked if effect <= -threshold]
        others = (effects.together or 0.0, effects.image or 0.0)
        return cls(
            text=text,
            tokens=effects.tokens,
            log_probability=effects.log_probability,
            effects=[CaseEffect(pair_id=name, effect=effect) for name, effect in ranked],
            together=effects.together,
            image_effect=effects.image,
            cases=cases,
            against=against,
            unmoved=not (cases or against) and max(map(abs, others)) < threshold,
        )

    @property
    def mark(self) -> str:
        """What stands behind it in brackets."""
        if self.unmoved:
            return UNMOVED
        against = f"against: {', '.join(self.against)}" if self.against else ""
        named = "; ".join(filter(None, [", ".join(self.cases), against]))
        if named or self.image_effect is None:
            return named or TOGETHER
        by_image = abs(self.image_effect) > abs(self.together or 0.0)
        return "the image, and no case" if by_image else TOGETHER

    def __str__(self) -> str:
        return f"{self.text} [{self.mark}]"


class ReportDraft(_Frozen):
    """A draft of a report; ``str(draft)`` is what may be shown: notice, sentences and cases."""

    notice: str = NOTICE
    prompt: str = Field(description="What the model was asked.")
    report: str = Field(description="The model's own words, without notice and cases.")
    sentences: list[DraftSentence]
    threshold: float = Field(description="Nats per token from which an effect counts.")
    sources: list[dict[str, Any]] = Field(description="The cases, as mrrag ask has them.")
    dropped: list[str] = Field(description="Cases that the prompt had no room for.")
    left_out: int = Field(description="Cases that were not probable enough.")
    image_read: bool
    cut_off: bool = Field(description="Whether the report ended at its longest length.")
    steering: dict[str, Any]
    unknown_words: int
    model: str
    seconds: dict[str, float]

    @computed_field(description="Notice, sentences and cases.")  # type: ignore[prop-decorator]
    @property
    def text(self) -> str:
        """What may be shown."""
        return "\n".join([self.notice, "", *map(str, self.sentences), *self.remarks])

    @property
    def remarks(self) -> Sequence[str]:
        """What a reader of the sentences must know."""
        return ["", "The report was cut off at its longest length."] if self.cut_off else []

    def __str__(self) -> str:
        return self.text
