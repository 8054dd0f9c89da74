"""Run one batch through the model: its shared prefix once, then every row's own part."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from mrrag_llamaindex.errors import ModelError, MRRAGError
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage, stack
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.prefix_cache import PrefixCache, fork
from mrrag_llamaindex.generation.prompt.batching import Batch, pad_batch
from mrrag_llamaindex.generation.prompt.request import Prompt
from mrrag_llamaindex.steering.block import hiding_mask
from mrrag_llamaindex.steering.plan import SteeringPlan


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
        self._lock = threading.Lock()

    def run(
        self,
        batch: Batch,
        prompts: Sequence[Prompt],
        images: Sequence[PreparedImage | None],
        plan: SteeringPlan | None,
        probe: FirstTokenProbe,
        max_new_tokens: int,
        streamer: Any = None,
        stopping: Any = None,
    ) -> torch.Tensor:
        """Generate one batch.

        Parameters
        ----------
        batch : Batch
        prompts : sequence of Prompt
            Those of the batch, in its order.
        images : sequence of PreparedImage or None
        plan : SteeringPlan or None
        probe : FirstTokenProbe
            Filled in.
        max_new_tokens : int
        streamer, stopping
            As ``streamer`` and ``stopping_criteria`` of ``generate``.

        Returns
        -------
        torch.Tensor
            int64 (rows, tokens), the new tokens.

        Raises
        ------
        ModelError
            If generation fails inside the model.
        SteeringError
            If the plan was not applied as it was meant.
        """
        with person_readable(), self._lock, torch.inference_mode():
            inputs = pad_batch(
                [prompt.input_ids for prompt in prompts],
                self.tokenizer.pad_token_id or 0,
                shared=batch.shared,
            )
            if batch.shared:
                prefix = self._prefix(prompts[0].input_ids[: batch.shared], images[0])
                inputs["past_key_values"] = fork(prefix, len(prompts), self.model.config)
            else:
                inputs |= self._seen(inputs["input_ids"], images)
            output: torch.Tensor = self.model.generate(
                **self._placed(inputs),
                steering=plan,
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=[probe],
                streamer=streamer,
                stopping_criteria=stopping,
            )
        if plan is not None:
            plan.require_applied()
        return output[:, inputs["input_ids"].shape[1] :]

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
        with person_readable(), self._lock, torch.inference_mode():
            inputs = pad_batch(sequences, self.tokenizer.pad_token_id or 0, shared=shared)
            if self._marks != "mm_token_type_ids":  # such models place their images themselves
                positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
                inputs["position_ids"] = positions[:, shared:]
            if shared:
                prefix = self._prefix(sequences[0][:shared], images[0])
                inputs["past_key_values"] = fork(prefix, len(sequences), self.model.config)
                inputs["input_ids"] = inputs["input_ids"][:, shared:]
            else:
                inputs |= self._seen(inputs["input_ids"], images)
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
        logits: torch.Tensor = output.logits.float()
        return logits

    def _prefix(self, ids: tuple[int, ...], image: PreparedImage | None) -> DynamicCache:
        """Keys and values of the tokens that a batch has in common."""

        def prefill() -> DynamicCache:
            cache = DynamicCache(config=self.model.config)
            inputs = pad_batch([ids], 0)
            inputs |= self._seen(inputs["input_ids"], [image])
            self.model(
                **self._placed(inputs), past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            return cache

        return self.prefixes.get((image.digest if image else None, ids), prefill)

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

    def _placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        device = self.model.device
        return {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }


@contextlib.contextmanager
def person_readable() -> Iterator[None]:
    """Turn what torch and transformers raise into a `ModelError`.

    A `ValueError` or `TypeError` inside an LLM call becomes "Empty Response" in LlamaIndex.
    """
    try:
        yield
    except MRRAGError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "the device ran out of memory while answering; use fewer documents, a smaller "
            "batch_size, or a smaller dtype"
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"generation failed inside the model ({type(error).__name__}); the cause is chained"
        ) from error
