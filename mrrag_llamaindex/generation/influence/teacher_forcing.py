"""An answer that is there already, behind its prompt: its tokens, and how likely they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.prompt.reader import PromptReader
    from mrrag_llamaindex.generation.prompt.request import Prompt, Span


@dataclass(frozen=True)
class Forced:
    """A prompt with an answer behind it.

    Attributes
    ----------
    ids : tuple of int
        All tokens; the last ones are the answer's.
    places : tuple of (int, int)
        Of each token of the answer, its characters [start, stop) in the stripped text.
    """

    ids: tuple[int, ...]
    places: tuple[Span, ...]

    @property
    def count(self) -> int:
        """Tokens of the answer."""
        return len(self.places)


def teacher_forced(engine: PromptReader, prompt: Prompt, answer: str) -> Forced:
    """Return the tokens of a prompt with an answer behind it.

    Raises
    ------
    InputError
        If the answer holds control tokens of the model, or no token.
    """
    opening = engine.loaded.profile.template.answer_opening
    # Tokenised together, the answer has the tokens that it would have in the conversation.
    encoding = engine.tokenizer(prompt.text + opening + answer.strip(), return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    end = len(prompt.text)
    places = [n for n, (left, right) in enumerate(offsets) if left < right and right > end]
    tokens = [ids[place] for place in places]
    control = {*engine.tokenizer.all_special_ids}
    if engine.loaded.images is not None:
        name = engine.loaded.images.image_token
        control.add(engine.tokenizer.convert_tokens_to_ids(name))
    control -= {engine.tokenizer.unk_token_id}
    if not tokens or control & set(tokens):
        raise InputError("the answer holds control tokens of the model, or no token")
    first = end + len(opening)
    characters = [(max(0, left - first), max(0, right - first)) for left, right in offsets]
    return Forced(tuple(ids[: places[-1] + 1]), tuple(characters[place] for place in places))


def log_probabilities(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """Return the log-probability of each token under teacher forcing.

    Parameters
    ----------
    logits : torch.Tensor
        float32 (at least len(tokens) + 1, vocabulary): those of the last positions, the tokens'
        own included.
    tokens : sequence of int
        The last tokens of the sequence, at least one.

    Returns
    -------
    torch.Tensor
        float32 (len(tokens),), in nats: log p(token_t | what stands before it).
    """
    expected = torch.tensor(list(tokens), device=logits.device)
    scores = logits[-len(tokens) - 1 : -1].log_softmax(dim=-1)
    return scores.gather(1, expected[:, None])[:, 0]
