"""Contrastive guidance: a second pass without a part of the prompt beside every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, LogitsProcessor

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.decoding.contrast import Contrast
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.steering.attention.cache_argument import CACHE

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
    from mrrag_llamaindex.generation.decoding.decoding import Decoding
    from mrrag_llamaindex.generation.prompt.reader import PromptReader
    from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
    from mrrag_llamaindex.generation.runner import BatchRunner
    from mrrag_llamaindex.steering.policy import SteeringPolicy


class Guidance(LogitsProcessor):
    """Guide a call of ``generate`` by a second pass that lacks a part of the prompt.

    The call's own pass may be steered; the second one is not.

    ``UnbatchedClassifierFreeGuidanceLogitsProcessor`` of transformers has the same first formula.
    It lets the model count positions over left padding, computes prompt logits at every position,
    and knows neither images nor a cut; hence this class.

    One object serves one call of ``generate``.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : mapping
        Arguments of ``forward`` for the prompts without the part, left-padded: ``input_ids``,
        ``attention_mask`` and, where the part is not the image, the images.
    contrast : Contrast
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any], contrast: Contrast) -> None:
        self.model = model
        self.contrast = contrast
        self._inputs: dict[str, Any] = dict(inputs)
        self._cache = DynamicCache(config=model.config)
        # A model that places its images itself remembers by how much positions lag behind tokens.
        modules = model.modules() if "image_grid_thw" in inputs else ()
        self._placing = next((m for m in modules if hasattr(m, "rope_deltas")), None)
        self._lag: Any = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """Return guided log-probabilities (batch, vocabulary); removed tokens are at -inf."""
        if self._cache.get_seq_length():
            mask = self._inputs["attention_mask"]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            self._inputs = {"input_ids": input_ids[:, -1:], "attention_mask": mask}
        logits = self._pass().logits[:, -1]
        return self.contrast.guided(scores, logits.to(scores))

    def _pass(self) -> Any:
        options = {CACHE: self._cache, "use_cache": True, "logits_to_keep": 1}
        if self._placing is not None and self._lag is None:
            kept = self._placing.rope_deltas  # the call's own pass goes on with them
            try:
                output = self.model(**self._inputs, **options)
                self._lag = self._placing.rope_deltas
            finally:
                self._placing.rope_deltas = kept
            return output
        width = self._inputs["input_ids"].shape[1]
        positions = (self._inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)[:, -width:]
        if self._lag is not None:
            positions = (positions + self._lag).expand(3, -1, -1)
        return self.model(**self._inputs, position_ids=positions, **options)


class GuidedProbe(FirstTokenProbe):
    """The first-token probe behind a guidance: it records what the token is chosen from."""

    def __init__(self, yes_ids: list[int], no_ids: list[int], guidance: Guidance) -> None:
        super().__init__(yes_ids, no_ids)
        self.guidance = guidance

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Guide, record, and return the guided scores."""
        return super().__call__(input_ids, self.guidance(input_ids, scores))


def contrast_of(policy: SteeringPolicy | None, decoding: Decoding) -> Contrast | None:
    """Return the contrast that a decoding or a policy asks for; None for one pass alone."""
    if decoding.contrast is not None:
        return decoding.contrast
    if policy is None or policy.guidance == 1:
        return None
    return Contrast(policy.guidance, "image", defaults.PAI_CUTOFF)


def probe_for(
    reader: PromptReader,
    requests: Sequence[PromptRequest],
    prompts: Sequence[Prompt],
    images: Sequence[PreparedImage | None],
    contrast: Contrast | None,
    runner: BatchRunner,
) -> FirstTokenProbe:
    """Make what sees the first token's probabilities, and guides them where that is asked for.

    Parameters
    ----------
    reader : PromptReader
        Of the model.
    requests, prompts, images
        Those of one batch. A guidance reads the same, without the part that it is about.
    contrast : Contrast or None
    runner : BatchRunner
        Of the model.
    """
    yes, no = reader.yes_ids, reader.no_ids
    if contrast is None:
        return FirstTokenProbe(yes, no)
    documents = [prompt.documents for prompt in prompts]
    if contrast.without == "image":
        images = [None] * len(prompts)
    elif any(documents):
        documents = [()] * len(prompts)
    else:  # such prompts are their own contrast
        return FirstTokenProbe(yes, no)
    texts = [() if image is None else image.texts for image in images]
    without = [
        reader.prompts.build(replace(request, documents=read), text).input_ids
        for request, read, text in zip(requests, documents, texts, strict=True)
    ]
    guidance = Guidance(runner.model, runner.inputs(without, images), contrast)
    return GuidedProbe(yes, no, guidance)
