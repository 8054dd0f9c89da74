"""Contrastive guidance: what the image adds to the next token's probability, weighted up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, LogitsProcessor

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.prompt.batching import pad_batch

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.prompt.reader import PromptReader
    from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
    from mrrag_llamaindex.steering.policy import SteeringPolicy


class ImageGuidance(LogitsProcessor):
    """Weigh up what the image adds: ``g * (s - u) + u`` on log-probabilities.

    `s` are those of the prompt with its image, as the call's own (steered) pass gives them, and
    `u` those of the same prompt without it, from a pass of its own without steering. Tokens with
    ``s < log(.1) + max(s)`` are removed (PAI, Liu et al., ECCV 2024).

    ``UnbatchedClassifierFreeGuidanceLogitsProcessor`` of transformers has the same first formula.
    It lets the model count positions over left padding, computes prompt logits at every position,
    and knows no cut; hence this class. Positions are given to the model, so that a model that
    remembers them between steps keeps those of the prompt with the image.

    One object serves one call of ``generate``.

    Parameters
    ----------
    model : PreTrainedModel
    prompts : sequence of tuple of int
        Token ids without the image, one per row of the batch.
    pad_token_id : int
    factor : float
        g; 1 leaves all but the cut.
    """

    def __init__(
        self, model: Any, prompts: Sequence[tuple[int, ...]], pad_token_id: int, factor: float
    ) -> None:
        self.model = model
        self.factor = factor
        inputs = pad_batch(prompts, pad_token_id)
        self._next: torch.Tensor = inputs["input_ids"].to(model.device)
        self._mask: torch.Tensor = inputs["attention_mask"].to(model.device)
        self._cache = DynamicCache(config=model.config)
        self._began = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """Return guided log-probabilities (batch, vocabulary); removed tokens are at -inf."""
        if self._began:
            self._next = input_ids[:, -1:]
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        self._began = True
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -self._next.shape[1] :]
        logits = self.model(
            input_ids=self._next,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return guided(scores, logits.to(scores), self.factor)


def guided(scores: torch.Tensor, without: torch.Tensor, factor: float) -> Any:
    """Apply the formula and the cut.

    Parameters
    ----------
    scores, without
        Logits or log-probabilities (batch, vocabulary) with and without the image.
    factor
        g.

    Returns
    -------
    torch.Tensor
        (batch, vocabulary), not normalised; removed tokens are at -inf.

    Examples
    --------
    The image makes token 0 likelier, guidance still more so, and the rarest token is removed:

    >>> with_image = torch.tensor([[0.6, 0.36, 0.04]]).log()
    >>> without = torch.tensor([[0.3, 0.66, 0.04]]).log()
    >>> [round(p, 3) for p in guided(with_image, without, 2.0).exp().flatten().tolist()]
    [1.2, 0.196, 0.0]
    """
    seen, unseen = scores.log_softmax(dim=-1), without.log_softmax(dim=-1)
    least = math.log(defaults.PAI_CUTOFF) + seen.amax(dim=-1, keepdim=True)
    return (factor * (seen - unseen) + unseen).masked_fill(seen < least, -torch.inf)


class GuidedProbe(FirstTokenProbe):
    """The first-token probe behind a guidance: it records what the token is chosen from."""

    def __init__(self, yes_ids: list[int], no_ids: list[int], guidance: ImageGuidance) -> None:
        super().__init__(yes_ids, no_ids)
        self.guidance = guidance

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Guide, record, and return the guided scores."""
        return super().__call__(input_ids, self.guidance(input_ids, scores))


def probe_for(
    reader: PromptReader,
    requests: Sequence[PromptRequest],
    prompts: Sequence[Prompt],
    policy: SteeringPolicy | None,
    model: Any,
) -> FirstTokenProbe:
    """Make what sees the first token's probabilities, and guides them where a policy asks for it.

    Parameters
    ----------
    reader : PromptReader
        Of the model.
    requests, prompts : sequence of PromptRequest, sequence of Prompt
        Those of one batch; a guidance reads the same documents, without the image.
    policy : SteeringPolicy or None
    model : PreTrainedModel
        That a guidance runs without the image.
    """
    yes, no = reader.yes_ids, reader.no_ids
    if policy is None or policy.guidance == 1:
        return FirstTokenProbe(yes, no)
    imageless = [
        reader.prompts.build(replace(request, documents=prompt.documents)).input_ids
        for request, prompt in zip(requests, prompts, strict=True)
    ]
    pad = reader.tokenizer.pad_token_id or 0
    return GuidedProbe(yes, no, ImageGuidance(model, imageless, pad, policy.guidance))
