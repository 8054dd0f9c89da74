"""Ask the same prompts under many policies: every prompt's prefix is prefilled once.

Steering changes nothing before the question (attention is causal), so image and documents of a
whole batch of prompts are prefilled once, and each policy costs one pass over the questions alone.
That pass gives the first answer token, and the attention of the question's rows after steering.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL.Image import Image
from transformers import DynamicCache

from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.evaluation.data.parsing import leading
from mrrag_llamaindex.evaluation.noise.attention_share import document_masses
from mrrag_llamaindex.evaluation.noise.readings import Readings
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage, stack
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.prefix_cache import fork
from mrrag_llamaindex.generation.prompt.batching import pad_batch
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.steering.attention.cache_argument import CACHE
from mrrag_llamaindex.steering.attention.registry import BACKENDS
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policy import SteeringPolicy

BATCH_SIZE = 64
"""Prompts prefilled at once: what a phantom's prompts of 65 tokens fill a core with."""


@dataclass(frozen=True)
class Variant:
    """One way to ask all prompts.

    Parameters
    ----------
    policy : SteeringPolicy or None
        None: plain attention.
    lambdas : sequence of sequence of float
        For each prompt, a value in [0, 1] for every document, in the prompt's order.
    """

    policy: SteeringPolicy | None
    lambdas: Sequence[Sequence[float]]


class PrefixSweep:
    """Ask prompts under many policies.

    Parameters
    ----------
    engine : LlavaEngine
        Its model loaded with ``backend="eager"``, the only one that returns attention weights.
    batch_size : int
        Most prompts prefilled at once.

    Attributes
    ----------
    prefills, passes : int
        Forward passes so far: over prefixes, and over questions.

    Raises
    ------
    ModelError
        If the model has another backend, or its prefix cannot be shared.
    """

    def __init__(self, engine: LlavaEngine, batch_size: int = BATCH_SIZE) -> None:
        text = engine.model.config.get_text_config(decoder=True)
        if text._attn_implementation != BACKENDS["eager"].registered:
            raise ModelError(
                "only the eager backend returns attention weights: load the model with "
                "load_model(..., backend='eager')"
            )
        if not engine.shares_prefix:
            raise ModelError(
                "this model's prefix cannot be prefilled apart from its question (a sliding "
                "window, or image features that depend on the whole prompt); use another model"
            )
        self.engine = engine
        self.batch_size = batch_size
        self.depth = int(text.num_hidden_layers)
        self.prefills = self.passes = 0
        self._images: dict[int, tuple[Image, PreparedImage | None]] = {}

    def ask(
        self,
        requests: Sequence[PromptRequest],
        images: Sequence[Image | PreparedImage | None],
        variants: Sequence[Variant],
    ) -> list[Readings]:
        """Ask every request under every variant.

        Parameters
        ----------
        requests : sequence of PromptRequest
            All with the same number of documents; their scores do not steer.
        images : sequence of PIL.Image.Image, PreparedImage or None
            A large picture is better prepared by `LlavaEngine.read_image` and let go.
        variants : sequence of Variant

        Returns
        -------
        list of Readings
            One per variant.

        Raises
        ------
        InputError
            If the numbers of requests, images, documents or lambdas differ, or documents do not
            fit into the model's window.
        """
        counts = {len(request.documents) for request in requests}
        if len(requests) != len(images) or len(counts) != 1:
            raise InputError(
                f"{len(requests)} requests, {len(images)} images, {sorted(counts)} documents: "
                "give one image per request, and every request as many documents"
            )
        if any(len(variant.lambdas) != len(requests) for variant in variants):
            raise InputError("every variant needs one list of lambdas per request")
        prepared = [self.prepared(image) for image in images]
        prompts = [self.engine.prompt(*pair) for pair in zip(requests, prepared, strict=True)]
        if any(prompt.dropped for prompt in prompts):
            raise InputError("documents are empty or do not fit into the prompt; offer fewer")
        (count,) = counts
        readings = [Readings.blank(len(requests), self.depth, count) for _ in variants]
        with person_readable(), torch.inference_mode():
            for rows in self._batches(prompts):
                self._ask_batch(rows, [prompts[r] for r in rows], prepared, variants, readings)
        return readings

    def divided(
        self, requests: Sequence[PromptRequest], images: Sequence[Image | PreparedImage | None]
    ) -> list[list[int]]:
        """Return the rows of each batch in which `ask` would ask these requests.

        A batch that is asked alone gives what it gives among the others.
        """
        pairs = zip(requests, map(self.prepared, images), strict=True)
        return list(self._batches([self.engine.prompt(*pair) for pair in pairs]))

    def prepared(self, image: Image | PreparedImage | None) -> PreparedImage | None:
        """Prepare an image once for all calls; the picture is kept so that its id stays its own."""
        if image is None or isinstance(image, PreparedImage):
            return image
        if id(image) not in self._images:
            self._images[id(image)] = image, self.engine.read_image(image)
        return self._images[id(image)][1]

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Yield prompts whose questions are equally long, so that all end and split together."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompts):
            groups[len(prompt.input_ids) - prompt.question_span[0]].append(row)
        for group in groups.values():
            group.sort(key=lambda row: len(prompts[row].input_ids))
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _ask_batch(
        self,
        rows: list[int],
        prompts: list[Prompt],
        prepared: Sequence[PreparedImage | None],
        variants: Sequence[Variant],
        readings: list[Readings],
    ) -> None:
        model, device = self.engine.model, self.engine.model.device
        inputs = pad_batch([p.input_ids for p in prompts], self.engine.tokenizer.pad_token_id or 0)
        ids, mask = inputs["input_ids"].to(device), inputs["attention_mask"].to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        length = ids.shape[1]
        cut = length - len(prompts[0].input_ids) + prompts[0].question_span[0]
        prefix = DynamicCache(config=model.config)
        model(
            input_ids=ids[:, :cut],
            attention_mask=mask[:, :cut],
            position_ids=positions[:, :cut],
            **{CACHE: prefix},
            use_cache=True,
            logits_to_keep=1,
            **self._image_inputs([prepared[row] for row in rows]),
        )
        self.prefills += 1
        documents, questions = [], []
        for prompt in prompts:
            pad = length - len(prompt.input_ids)
            documents.append([(start + pad, stop + pad) for start, stop in prompt.document_spans])
            questions.append((prompt.question_span[0] + pad, prompt.question_span[1] + pad))
        for variant, reading in zip(variants, readings, strict=True):
            plan = self._plan(prompts, [variant.lambdas[row] for row in rows], variant.policy)
            output = model(
                input_ids=ids[:, cut:],
                attention_mask=mask,
                position_ids=positions[:, cut:],
                **{CACHE: fork(prefix, len(rows), model.config)},
                use_cache=True,
                logits_to_keep=1,
                output_attentions=True,
                steering=plan,
            )
            self.passes += 1
            if plan is not None:
                plan.require_applied()
            self._write_first_token(reading, rows, output.logits[:, -1])
            if documents[0]:
                reading.masses[rows] = document_masses(output.attentions, documents, questions)

    def _plan(
        self,
        prompts: Sequence[Prompt],
        lambdas: Sequence[Sequence[float]],
        policy: SteeringPolicy | None,
    ) -> SteeringPlan | None:
        """Lay a policy over the batch, as the engine does."""
        if policy is not None and policy != policy.attention_only():
            raise InputError(
                f"{type(policy).__name__} acts outside of attention here (a dropped document, "
                "guided decoding), and a sweep compares attention alone: use mode='mask', "
                "guidance=1.0"
            )
        steered = [
            replace(prompt, lambdas=tuple(values))
            for prompt, values in zip(prompts, lambdas, strict=True)
        ]
        return self.engine.planner.plan(steered, policy)[0]

    def _write_first_token(self, reading: Readings, rows: list[int], logits: torch.Tensor) -> None:
        probabilities = logits.float().softmax(dim=-1).cpu()
        tokens = self.engine.tokenizer.batch_decode(probabilities.argmax(dim=-1)[:, None])
        for row, token in zip(rows, tokens, strict=True):
            reading.verdicts[row] = leading(token)
        for column, ids in (
            (reading.p_yes, self.engine.yes_ids),
            (reading.p_no, self.engine.no_ids),
        ):
            column[rows] = probabilities[:, ids].sum(dim=-1).double().numpy()

    def _image_inputs(self, images: Sequence[PreparedImage | None]) -> dict[str, torch.Tensor]:
        model = self.engine.model
        tensors = stack([image for image in images if image is not None])
        if "pixel_values" in tensors:
            tensors["pixel_values"] = tensors["pixel_values"].to(model.dtype)
        return {name: tensor.to(model.device) for name, tensor in tensors.items()}
