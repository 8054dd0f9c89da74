"""How much each document, and the image, moved each sentence of an answer.

For a sentence of tokens ``T`` and a part ``k`` of the prompt,

    effect(k) = mean over t in T of  log p(t | prompt, answer before t)
                - mean over t in T of  log p(t | prompt without k, answer before t)

in nats per token: above 0 the part speaks for the sentence, below 0 against it. The words before t
are those of the answer in both (teacher forcing), so the effect is that on this sentence alone, and
not what another beginning would have led to. "Without k" is `hiding.blind_passes`: hidden from the
question and the whole answer in every layer, under the answer's own steering. What stands between,
other documents for example, has read the part before, and keeps what it took over.

Documents that say the same stand in for each other: without one of them, a sentence is as likely as
before. So all documents are hidden together as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.generation.influence.hiding import (
    blind_passes,
    explainable_prompt,
    spans_of,
)
from mrrag_llamaindex.generation.influence.teacher_forcing import (
    Forced,
    log_probabilities,
    teacher_forced,
)

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.interface import Engine
    from mrrag_llamaindex.generation.prompt.reader import Pictures
    from mrrag_llamaindex.generation.prompt.request import PromptRequest, Span
    from mrrag_llamaindex.steering.policy import SteeringPolicy


@dataclass(frozen=True)
class SentenceEffects:
    """What moved one sentence.

    Attributes
    ----------
    tokens : int
        Of the sentence.
    log_probability : float
        Mean over them, in nats; at most 0.
    documents : dict of str to float
        Effect of each document of the prompt, by id; ids that occur twice are hidden together.
    together : float or None
        Effect of all documents at once; None if the prompt holds none.
    image : float or None
        Effect of the image; None if the prompt holds none.
    """

    tokens: int
    log_probability: float
    documents: dict[str, float]
    together: float | None
    image: float | None


def sentence_effects(
    engine: Engine,
    request: PromptRequest,
    image: Pictures,
    answer: str,
    sentences: Sequence[Span],
    policy: SteeringPolicy | None = None,
    max_new_tokens: int | None = None,
) -> list[SentenceEffects]:
    """Tell how much each document, and the image, moved each sentence of an answer.

    Call it after the answer: the cache then holds image and documents. It costs a row of tokens
    from the question to the end of the answer for each document, one for all of them, one for the
    image, and one to compare with in each pass of at most ``engine.batch_size`` rows.

    Parameters
    ----------
    engine : Engine
    request : PromptRequest
    image : PIL.Image.Image, sequence of them, or None
        Mode RGB.
    answer : str
        As the model wrote it.
    sentences : sequence of (start, stop)
        Characters of the stripped answer; no two overlap.
    policy : SteeringPolicy, optional
    max_new_tokens : int, optional
        Both as for the answer.

    Returns
    -------
    list of SentenceEffects
        In the order of the sentences.

    Raises
    ------
    InputError
        If the answer cannot be tokenised, or a sentence holds no token of its own.
    ModelError, SteeringError
        As `explainable_prompt`.
    """
    prompt, prepared = explainable_prompt(engine, request, image, policy, max_new_tokens)
    forced = teacher_forced(engine, prompt, answer)
    tokens = forced.ids[-forced.count :]
    if forced.ids[: -forced.count] != prompt.input_ids:
        raise ModelError(
            "this model's tokenizer joins the end of a prompt with the beginning of an answer, so "
            "its sentences cannot be read again"
        )
    members = _members(forced, sentences)
    names = list(dict.fromkeys(document.document_id for document in prompt.documents))
    parts = [spans_of(prompt, {name}) for name in names]
    if names:
        parts.append(spans_of(prompt, names))
    if prompt.image_span is not None:
        parts.append([prompt.image_span])
    whole: list[float] = []
    effects: list[list[float]] = []
    size = max(1, engine.batch_size - 1)
    for first in range(0, len(parts) or 1, size):
        hidden = [[], *parts[first : first + size]]
        logits = blind_passes(engine, prompt, prepared, policy, hidden, tokens)
        means = [_means(log_probabilities(row, tokens), members) for row in logits]
        whole = whole or means[0]
        effects += [
            [with_it - without for with_it, without in zip(means[0], row, strict=True)]
            for row in means[1:]
        ]
    return [
        SentenceEffects(
            tokens=len(own),
            log_probability=whole[place],
            documents={name: row[place] for name, row in zip(names, effects, strict=False)},
            together=effects[len(names)][place] if names else None,
            image=None if prompt.image_span is None else effects[-1][place],
        )
        for place, own in enumerate(members)
    ]


def _members(forced: Forced, sentences: Sequence[Span]) -> list[list[int]]:
    """Return the tokens of each sentence; one belongs where its last character stands."""
    members = [
        [n for n, (_, right) in enumerate(forced.places) if start < right <= stop]
        for start, stop in sentences
    ]
    if not all(members):
        raise InputError(
            f"sentence {members.index([]) + 1} of the answer holds no token of its own: join it "
            "with the one before"
        )
    return members


def _means(values: torch.Tensor, members: Sequence[Sequence[int]]) -> list[float]:
    return [float(values[list(own)].mean()) for own in members]
