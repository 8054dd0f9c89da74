"""Run one batch through the model: its shared prefix once, then every row's own part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria

from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage, stack
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.prefix_cache import PrefixCache, fork
from mrrag_llamaindex.generation.prompt.batching import pad_batch
from mrrag_llamaindex.generation.prompt.request import Prompt
from mrrag_llamaindex.generation.turns import turns_at
from mrrag_llamaindex.steering.attention.cache_argument import CACHE
from mrrag_llamaindex.steering.block import hiding_mask
from mrrag_llamaindex.steering.plan import SteeringPlan


class Watch(StoppingCriteria):
    """What sees every step of a batch, ends rows, and may end it early to go on with fewer."""

    def going_on(self) -> list[int]:
        """Return the rows of the call that just ended with which it goes on; none to end it."""
        return []

    @property
    def tokens_left(self) -> int:
        """Tokens that the longest of these rows may still have."""
        return 0


@dataclass(frozen=True, eq=False)
class BatchCall:
    """One batch of prompts that is to be answered.

    Attributes
    ----------
    prompts, images
        In order; an image is None where a prompt has none.
    plan
        None without a policy, or without anything to steer.
    probe
        To be called once with the scores that the first token is chosen from.
    max_new_tokens
        Longest answer.
    shared
        Tokens at the start that all prompts have in common, image included; prefilled once.
    watch
        Sees every step, and says which rows are over.
    """

    prompts: Sequence[Prompt]
    images: Sequence[PreparedImage | None]
    plan: SteeringPlan | None
    probe: FirstTokenProbe
    max_new_tokens: int
    shared: int = 0
    watch: Watch | None = None


class BatchRunner:
    """Greedy generation of one batch at a time.

    Parameters
    ----------
    loaded : LoadedModel
    prefixes : PrefixCache
    """

    def __init__(self, loaded: LoadedModel, prefixes: PrefixCache) -> None:
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.prefixes = prefixes
        self._marks = loaded.family.image_marks
        self._image_id = -1  # no token
        if loaded.images is not None:
            self._image_id = loaded.tokenizer.convert_tokens_to_ids(loaded.images.image_token)
        self._turns = turns_at(loaded.model)

    def run(self, call: BatchCall) -> torch.Tensor:
        """Generate one batch, and fill in its probe; see `Decoding.run`."""
        with self.alone():
            sequences = [prompt.input_ids for prompt in call.prompts]
            inputs = self._placed(self._inputs(sequences, call.images, call.shared))
            length = inputs["input_ids"].shape[1]
            cache = inputs.setdefault(CACHE, DynamicCache(config=self.model.config))
            output = self._generate(call, inputs, call.max_new_tokens, call.plan)
            plan = call.plan
            while call.watch is not None and (rows := call.watch.going_on()):
                cache.batch_select_indices(torch.tensor(rows, device=output.device))
                mask = inputs["attention_mask"]
                new = mask.new_ones(len(mask), output.shape[1] - mask.shape[1])
                inputs = {
                    "input_ids": output[rows],
                    "attention_mask": torch.cat([mask, new], dim=1)[rows],
                    CACHE: cache,
                }
                plan = None if plan is None else plan.of_rows(rows)
                output = self._generate(call, inputs, call.watch.tokens_left, plan)
            if call.plan is not None:
                call.plan.require_applied()
        return output[:, length:]

    def _generate(
        self,
        call: BatchCall,
        inputs: dict[str, Any],
        limit: int,
        plan: SteeringPlan | None = None,
    ) -> torch.Tensor:
        output: torch.Tensor = self.model.generate(
            **inputs,
            steering=plan,
            do_sample=False,
            num_beams=1,
            max_new_tokens=limit,
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=[call.probe],
            stopping_criteria=None if call.watch is None else [call.watch],
        )
        return output

    def logits(
        self,
        sequences: Sequence[tuple[int, ...]],
        images: Sequence[PreparedImage | None],
        *,
        shared: int = 0,
        keep: int = 1,
        steering: SteeringPlan | None = None,
        hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run one batch forward, without generating.

        Parameters
        ----------
        sequences : sequence of tuple of int
            Token ids, all ending in the last column.
        images : sequence of PreparedImage or None
        shared : int
            Tokens at the start that all rows have in common, image included; prefilled once.
        keep : int
            Positions at the end whose logits are wanted.
        steering : SteeringPlan, optional
        hidden : torch.Tensor, optional
            bool (rows, length): columns of the shared prefix that a row's own part does not see,
            see `hiding_mask`; for sequences of equal length, and not for the flex backend.

        Returns
        -------
        torch.Tensor
            float32 (rows, keep, vocabulary), on the model's device.

        Raises
        ------
        ModelError
            If the model fails.
        SteeringError
            If the plan was not applied as it was meant.
        """
        with self.alone():
            inputs = self._inputs(sequences, images, shared)
            inputs["input_ids"] = inputs["input_ids"][:, shared:]
            if self._marks != "mm_token_type_ids":  # such models place their images themselves
                positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
                inputs["position_ids"] = positions[:, shared:]
            if hidden is not None:
                inputs["attention_mask"] = hiding_mask(hidden, shared)
            output = self.model(
                **self._placed(inputs),
                steering=steering,
                use_cache=bool(shared),
                logits_to_keep=keep,
            )
        if steering is not None:
            steering.require_applied()
        return self._of_words(output.logits)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Use the model, one call at a time and in turn: no gradients, errors for a person."""
        with person_readable(), self._turns.take(), torch.inference_mode():
            yield

    def inputs(
        self, sequences: Sequence[tuple[int, ...]], images: Sequence[PreparedImage | None]
    ) -> dict[str, Any]:
        """Return arguments of ``forward`` for prompts and images, left-padded, on the device."""
        return self._placed(self._inputs(sequences, images, 0))

    def prefill(
        self, ids: tuple[int, ...], image: PreparedImage | None, shared: int = 0
    ) -> tuple[DynamicCache, torch.Tensor]:
        """Read one prompt, its first ``shared`` tokens from the prefix cache.

        Returns
        -------
        cache : DynamicCache
            Keys and values, of batch 1.
        logits : torch.Tensor
            float32 (1, vocabulary), of what follows.
        """
        inputs = self._inputs([ids], [image], shared)
        inputs["input_ids"] = inputs["input_ids"][:, shared:]
        cache = inputs.setdefault(CACHE, DynamicCache(config=self.model.config))
        output = self.model(**self._placed(inputs), use_cache=True, logits_to_keep=1)
        return cache, self._of_words(output.logits[:, -1])

    def prefix(self, ids: tuple[int, ...], image: PreparedImage | None, rows: int) -> DynamicCache:
        """Return keys and values of the tokens that ``rows`` prompts have in common."""
        key = (image.digest if image else None, ids)
        kept = self.prefixes.get(key, lambda: self.prefill(ids, image)[0])
        return fork(kept, rows, self.model.config)

    def _inputs(
        self,
        sequences: Sequence[tuple[int, ...]],
        images: Sequence[PreparedImage | None],
        shared: int,
    ) -> dict[str, Any]:
        """Pad a batch, with the cache of its shared prefix, or else its images."""
        inputs = pad_batch(sequences, self.tokenizer.pad_token_id or 0, shared=shared)
        if shared:
            prefix = sequences[0][:shared]
            inputs[CACHE] = self.prefix(prefix, images[0], len(sequences))
        else:
            inputs |= self._seen(inputs["input_ids"], images)
        return inputs

    def _seen(
        self, ids: torch.Tensor, images: Sequence[PreparedImage | None]
    ) -> dict[str, torch.Tensor]:
        """Arguments of ``forward`` that carry the images of a batch."""
        tensors = stack([image for image in images if image is not None])
        if "pixel_values" in tensors:
            tensors["pixel_values"] = tensors["pixel_values"].to(self.model.dtype)
        if self._marks is not None:
            tensors[self._marks] = ids.eq(self._image_id).long()
        return tensors

    def _of_words(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits (..., vocabulary) as `generate` sees them: see `loading.greedy`."""
        logits = logits.float()
        if not (unused := self.model.generation_config.suppress_tokens):
            return logits
        return logits.index_fill(-1, torch.tensor(unused, device=logits.device), -torch.inf)

    def _placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        device = self.model.device
        return {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }
