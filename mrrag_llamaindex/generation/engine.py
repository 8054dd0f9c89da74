"""Generate answers with a LLaVA model: batches, streams, steering, first-token confidence."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.generation.answer import Answer, steering_outcome
from mrrag_llamaindex.generation.first_token import FirstTokenProbe, spellings
from mrrag_llamaindex.generation.guards import image_tokens, person_readable
from mrrag_llamaindex.generation.loading import LoadedModel
from mrrag_llamaindex.generation.prompt import PromptBuilder
from mrrag_llamaindex.generation.request import Prompt, PromptRequest
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.images import pad_to_square
from mrrag_llamaindex.steering.plan import IFA, PromptSpans, SteeringPlan

_LEAST_TEXT = 128  # tokens: a question and one short report


class LlavaEngine:
    """A loaded generator and everything one call of it needs.

    Calls are independent: whatever differs between two calls (image, spans, lambda) is an
    argument of the forward pass, never a state of the model. A lock keeps two calls from
    sharing the device at the same moment, for memory's sake.

    Parameters
    ----------
    loaded : LoadedModel
        See `load_model`.
    max_documents : int
        Most documents in one prompt.
    max_new_tokens : int
        Longest answer, in tokens; reserved in the model's window.

    Raises
    ------
    ModelError
        If the processor and the model disagree on the number of image tokens.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_documents: int = defaults.MAX_DOCUMENTS,
        max_new_tokens: int = defaults.MAX_NEW_TOKENS,
    ) -> None:
        self.loaded = loaded
        self.model = loaded.model
        self.processor = loaded.processor
        self.tokenizer = loaded.processor.tokenizer
        self.max_new_tokens = max_new_tokens
        self.window = int(self.model.config.text_config.max_position_embeddings)
        self.image_tokens = image_tokens(self.model, self.processor)
        if max_new_tokens + self.image_tokens >= self.window - _LEAST_TEXT:
            raise ModelError(
                f"max_new_tokens={max_new_tokens} and {self.image_tokens} image tokens leave no "
                f"room for text in this model's window of {self.window}; ask for shorter answers"
            )
        self.prompts = PromptBuilder(
            self.tokenizer,
            loaded.profile.template,
            image_token=self.processor.image_token,
            image_tokens=self.image_tokens,
            max_tokens=self.window - max_new_tokens,
            max_documents=max_documents,
        )
        self._yes = spellings(self.tokenizer, "yes")
        self._no = spellings(self.tokenizer, "no")
        self._lock = threading.Lock()

    def layers_for(self, ifa: IFA) -> tuple[int, ...]:
        """Return the layers that ``ifa`` steers in this model.

        Raises
        ------
        SteeringError
            If it names a layer that the model does not have.
        """
        if ifa.layers is None:
            if not self.loaded.layers_are_known:
                warnings.warn(
                    f"no critical layers are known for model {self.loaded.source!r}: steering the "
                    f"middle third, {list(self.loaded.critical_layers)}; name others with "
                    "IFA(layers=...)",
                    stacklevel=2,
                )
            return self.loaded.critical_layers
        count = self.model.config.text_config.num_hidden_layers
        beyond = [layer for layer in ifa.layers if layer >= count]
        if beyond:
            raise SteeringError(f"IFA names layer {beyond[0]}, and the model has {count} layers")
        return ifa.layers

    def generate(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Image.Image | None],
        *,
        ifa: IFA | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """Answer a batch of requests, greedily; each row is steered by its own plan.

        Parameters
        ----------
        requests : sequence of PromptRequest
        images : sequence of PIL.Image.Image or None
            The query image of each request, mode RGB; None for a request without one.
        ifa : IFA or None
            None: plain attention.
        max_new_tokens : int, optional

        Raises
        ------
        PromptError, SteeringError, ModelError
        """
        prompts = [self.prompts.build(request) for request in requests]
        plan, layers = self._plan(prompts, ifa)
        probe = FirstTokenProbe(self._yes, self._no)
        started = time.perf_counter()
        with person_readable(), self._lock:
            inputs = self._inputs(prompts, images)
            length = inputs["input_ids"].shape[1]
            output = self._run(inputs, plan, probe, max_new_tokens)
        if plan is not None:
            plan.require_applied()
        seconds = time.perf_counter() - started
        texts = self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
        return [
            Answer.of(prompt, text, probe.row(row), steering_outcome(prompt, ifa, layers), seconds)
            for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]

    def stream(
        self,
        request: PromptRequest,
        image: Image.Image | None,
        *,
        ifa: IFA | None = None,
        max_new_tokens: int | None = None,
    ) -> TokenStream:
        """Answer one request piece by piece; see `TokenStream`.

        The prompt is built now, so that its errors are raised here; generation starts with the
        first read, and stops when the stream is closed.
        """
        prompt = self.prompts.build(request)
        plan, layers = self._plan([prompt], ifa)
        probe = FirstTokenProbe(self._yes, self._no)

        def run(streamer: Any, stopping: Any) -> None:
            with person_readable(), self._lock:
                inputs = self._inputs([prompt], [image])
                self._run(inputs, plan, probe, max_new_tokens, streamer, stopping)
            if plan is not None:
                plan.require_applied()

        def finish(text: str, seconds: float) -> Answer:
            outcome = steering_outcome(prompt, ifa, layers)
            return Answer.of(prompt, text, probe.row(0), outcome, seconds)

        return TokenStream(self.tokenizer, run, finish)

    def _plan(
        self, prompts: Sequence[Prompt], ifa: IFA | None
    ) -> tuple[SteeringPlan | None, tuple[int, ...]]:
        if ifa is None:
            return None, ()
        if not any(document.relevance for prompt in prompts for document in prompt.documents):
            return None, ()
        layers = self.layers_for(ifa)
        plan = SteeringPlan.build(
            [
                PromptSpans(prompt.document_spans, prompt.question_span, len(prompt.input_ids))
                for prompt in prompts
            ],
            [[document.relevance for document in prompt.documents] for prompt in prompts],
            ifa,
            layers,
            max(len(prompt.input_ids) for prompt in prompts),
            self.model.device,
        )
        return (plan if plan.is_active else None), layers

    def _inputs(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image | None]
    ) -> dict[str, Any]:
        length = max(len(prompt.input_ids) for prompt in prompts)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(prompts), length), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
            mask[row, length - len(prompt.input_ids) :] = 1
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        mean = self.processor.image_processor.image_mean
        shown = [pad_to_square(image, mean) for image in images if image is not None]
        if shown:
            pixels = self.processor.image_processor(images=shown, return_tensors="pt")
            inputs["pixel_values"] = pixels["pixel_values"].to(self.model.dtype)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}

    def _run(
        self,
        inputs: dict[str, Any],
        plan: SteeringPlan | None,
        probe: FirstTokenProbe,
        max_new_tokens: int | None,
        streamer: Any = None,
        stopping: Any = None,
    ) -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = self.model.generate(
                **inputs,
                steering=plan,
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens or self.max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=[probe],
                streamer=streamer,
                stopping_criteria=stopping,
            )
        return output
