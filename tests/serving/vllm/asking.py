"""The same questions, asked of vLLM and of the eager definition in transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptDocument, PromptRequest
from mrrag_llamaindex.generation.runner import BatchCall
from mrrag_llamaindex.images.load import pad_to_square
from mrrag_llamaindex.steering.policy import SteeringPolicy
from mrrag_llamaindex.steering.wire.request_plan import RequestPlan

REPORTS = (
    "No pleural effusion. The heart is of normal size. Is there a nodule? yes",
    "Report: there is a nodule, and the heart is of normal size. No effusion.",
    "images of other patients: pleural effusion yes, nodule No, heart normal",
)


@dataclass(frozen=True, eq=False)
class Asked:
    """One prompt in both worlds, and how it is steered."""

    prompt: Prompt
    image: Image.Image | None
    plan: RequestPlan | None
    policy: SteeringPolicy | None
    vllm: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Expected:
    """What the definition says: tokens, and log-probabilities (steps, vocabulary)."""

    tokens: list[int]
    logprobs: torch.Tensor


class _Recorder(FirstTokenProbe):
    """Keeps the scores of every step."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        self.steps.append(scores[0].float().log_softmax(-1))
        return super().__call__(input_ids, scores)


class Definition:
    """The eager definition of one checkpoint, for one prompt at a time."""

    def __init__(
        self, folder: Path, max_new_tokens: int = 6, backend: str = "eager", batch_size: int = 8
    ) -> None:
        self.engine = LlavaEngine(
            load_model(str(folder), device="cpu", dtype="float32", backend=backend),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        self.engine.model.generation_config.eos_token_id = None  # random models end at random

    def ask(
        self,
        question: str,
        policy: SteeringPolicy | None,
        *,
        image: Image.Image | None = None,
        scores: tuple[float, ...] = (0.1, 0.9, 0.5),
        reports: tuple[str, ...] = REPORTS,
    ) -> Asked:
        """Build a prompt, and the plan of it."""
        engine = self.engine
        documents = [
            PromptDocument(f"case-{n}", text, score)
            for n, (text, score) in enumerate(zip(reports, scores, strict=True))
        ]
        prepared = None if image is None else engine.read_image(image)
        prompt = engine.prompt(PromptRequest(question, documents), prepared)
        layers = engine.planner.layers([prompt], policy)
        plan = None
        if policy is not None and layers:
            plan = RequestPlan.of(prompt.spans, prompt.lambdas, policy, layers)
        return Asked(prompt, image, plan, policy, self._for_vllm(prompt, image, prepared))

    def _for_vllm(self, prompt: Prompt, image: Image.Image | None, prepared: Any) -> dict[str, Any]:
        """Give vLLM one mark where the prompt has one token per image feature."""
        reader = self.engine.loaded.images
        if reader is None or prepared is None or image is None:
            return {"prompt_token_ids": list(prompt.input_ids)}
        text = prompt.text.replace(prepared.texts[0], reader.marker)
        if reader.family.pads_images:
            image = pad_to_square(image, reader.processor.image_processor.image_mean)
        return {
            "prompt_token_ids": self.engine.tokenizer(text)["input_ids"],
            "multi_modal_data": {"image": image},
        }

    def answer(self, asked: Asked, tokens: int = 6) -> Expected:
        """Generate greedily, one prompt, whole."""
        recorder = _Recorder()
        image = None if asked.image is None else self.engine.read_image(asked.image)
        plan, _ = self.engine.planner.plan([asked.prompt], asked.policy)
        assert (plan is None) == (asked.plan is None)
        output = self.engine.runner.run(
            BatchCall([asked.prompt], [image], plan, recorder, max_new_tokens=tokens)
        )
        return Expected(output[0].tolist(), torch.stack(recorder.steps))


SIZES = {
    "llava": [(28, 28)],
    "llava_next": [(28, 28)],
    "qwen2_5_vl": [(56, 56), (56, 84), (84, 56)],
}
"""Height and width of images that no processor has to scale: transformers has two ways to scale,
by Pillow and by torchvision, and takes whichever it finds."""


def films(family: str, count: int) -> list[Image.Image | None]:
    """Images of noise, none like another, as a family takes them; None for a text-only one."""
    generator = torch.Generator().manual_seed(5)
    sizes = SIZES.get(family)
    if sizes is None:
        return [None] * count
    return [
        Image.fromarray(torch.randint(0, 256, (*size, 3), generator=generator).byte().numpy())
        for size in (sizes[n % len(sizes)] for n in range(count))
    ]
