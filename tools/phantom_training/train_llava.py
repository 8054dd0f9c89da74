"""Train the phantom generator: a reader that weighs documents, then its vision, then both.

The first part trains the whole model, with pictures in its last stage that it learns to ignore.
The second part trains a new vision tower (`align_vision`) and lets the reader get used to it.

The shipped reader is that of the first release: it was trained when stripes and brightness in the
pictures were drawn at .17 and .022 (see `render`). Its vision tower and the last stage are of the
second part as it stands here. Training from scratch with today's pictures gives another model; what
`check` says of the shipped one does not hold for it until it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrrag_llamaindex.phantom.render import render
from mrrag_llamaindex.phantom.studies import draw_findings
from tools.phantom_training.model import build_model, build_processor
from tools.phantom_training.train_vision import STEPS as VISION_STEPS
from tools.phantom_training.train_vision import align_vision, image_tokens
from tools.phantom_training.training_data import Collator, TrainingBatch, draw_example

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

    from tools.phantom_training.training_data import Findings

SEED_OFFSET = 10_000
"""Training draws from seeds at and above this, everything held out from seeds below."""


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes
    ----------
    name : str
    steps, batch : int
    most_documents : int
    without_documents : float
        Share of examples.
    pictures : bool
        Whether the patient's picture is shown; a blank one otherwise.
    """

    name: str
    steps: int
    batch: int
    most_documents: int
    without_documents: float
    pictures: bool


STAGES = (
    Stage("read one document", 500, 64, 1, 0.0, False),
    Stage("weigh up to four", 1200, 48, 4, 0.0, False),
    Stage("weigh up to eight, and look", 1500, 32, 8, 0.06, True),
)
"""Pictures come last: shown from the start, the model settles for what little they tell."""

LEARNING_RATE = 1e-3
LANGUAGE_WEIGHT = 0.05
"""Weight of predicting the documents themselves, which keeps the first layers busy early on."""

LOOKING = Stage("look as well", 240, 32, 8, 0.15, True)
LOOKING_RATE = 3e-4
"""A larger step would have the reader forget how to read."""

PATIENTS = 4000
"""Training patients with a picture, for the reader."""

SEEN_PATIENTS = 12_000
"""The same for vision: so little is to be seen in a picture that fewer are learned by heart."""


def draw_patients(seed: int, count: int = PATIENTS) -> tuple[list[Findings], Tensor]:
    """Draw training patients and what the generator's processor makes of their pictures.

    Returns
    -------
    findings : list of tuple of bool
    pixels : Tensor, shape (count, 3, 48, 48), float32
    """
    rng = np.random.default_rng(SEED_OFFSET + seed)
    processor = build_processor().image_processor
    findings = [draw_findings(rng) for _ in range(count)]
    pixels = [
        processor(images=render(one, int(rng.integers(2**31))), return_tensors="pt")["pixel_values"]
        for one in findings
    ]
    return findings, torch.cat(pixels)


def train_llava(
    seed: int = 0,
    *,
    stages: Sequence[Stage] = STAGES,
    scale: float = 1.0,
    log: Callable[[str], None] = print,
) -> LlavaForConditionalGeneration:
    """Train from scratch, `train_reader` and `add_vision`; half an hour on two idle cores.

    ``scale`` shortens it for a trial run: the share of all steps and patients.
    """
    stages = [replace(stage, steps=scaled(stage.steps, scale)) for stage in stages]
    reader = train_reader(seed, stages=stages, patients=scaled(PATIENTS, scale), log=log)
    return add_vision(
        reader,
        seed,
        patients=scaled(SEEN_PATIENTS, scale),
        steps=scaled(VISION_STEPS, scale),
        looking=replace(LOOKING, steps=scaled(LOOKING.steps, scale)),
        log=log,
    )


def scaled(count: int, scale: float) -> int:
    """Return a share of a count, at least 20: less than that cannot be split or warmed up."""
    return count if scale == 1 else max(20, round(count * scale))


def train_reader(
    seed: int = 0,
    *,
    stages: Sequence[Stage] = STAGES,
    patients: int = PATIENTS,
    log: Callable[[str], None] = print,
) -> LlavaForConditionalGeneration:
    """Train every weight, stage by stage; about 20 minutes on two idle cores.

    Parameters
    ----------
    seed : int
    stages : sequence of Stage
    patients : int
        With a picture.
    log : callable
        Takes a line of progress.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(SEED_OFFSET + seed)
    model = build_model(seed).train()
    trainer = _Trainer(model, log)
    findings, pixels = draw_patients(seed, patients)
    for stage in stages:
        log(stage.name)
        _train(trainer, stage, findings, pixels, rng, LEARNING_RATE, settle=stage is stages[-1])
    trained: LlavaForConditionalGeneration = model.eval()
    return trained


def add_vision(
    model: LlavaForConditionalGeneration,
    seed: int = 0,
    *,
    patients: int = SEEN_PATIENTS,
    steps: int = VISION_STEPS,
    looking: Stage = LOOKING,
    log: Callable[[str], None] = print,
) -> LlavaForConditionalGeneration:
    """Train a new vision tower for a reader, and let the reader get used to it; about 6 minutes.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
        Changed in place.
    seed : int
    patients : int
        With a picture.
    steps : int
        Of the vision tower alone.
    looking : Stage
        Of the reader, with its vision tower as it is.
    log : callable
        Takes a line of progress.
    """
    rng = np.random.default_rng([SEED_OFFSET + seed, 1])
    findings, pixels = draw_patients(seed, patients)
    fresh = build_model(seed).model
    inner: Any = model.train().model
    inner.vision_tower.load_state_dict(fresh.vision_tower.state_dict())
    inner.multi_modal_projector.load_state_dict(fresh.multi_modal_projector.state_dict())
    log("align the vision tower")
    align_vision(model, findings, pixels, rng, log, steps)
    for module in (inner.vision_tower, inner.multi_modal_projector):
        module.requires_grad_(False)  # the loss of answers would undo the alignment
    log(looking.name)
    _train(_Trainer(model, log), looking, findings, pixels, rng, LOOKING_RATE, settle=True)
    model.requires_grad_(True).eval()  # type: ignore[no-untyped-call]
    return model


def _train(
    trainer: _Trainer,
    stage: Stage,
    findings: list[Findings],
    pixels: Tensor,
    rng: np.random.Generator,
    top_rate: float,
    *,
    settle: bool,
) -> None:
    """Run one stage; `settle` lowers the rate to a fifth for its last third."""
    collate = Collator()
    for step in range(stage.steps):
        rows = rng.integers(len(findings), size=stage.batch)
        examples = [
            draw_example(
                rng,
                findings[int(i)],
                most_documents=stage.most_documents,
                without_documents=stage.without_documents,
            )
            for i in rows
        ]
        pictures = pixels[torch.from_numpy(rows)]
        rate = top_rate * min(1.0, (step + 1) / 50)
        if settle and step >= 2 * stage.steps // 3:
            rate = top_rate * 0.2
        trainer.step(collate(examples), pictures if stage.pictures else pictures * 0, rate)


class _Trainer:
    def __init__(self, model: Any, log: Callable[[str], None]) -> None:
        self.model = model
        self.parameters = [one for one in model.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.log = log
        self.right: list[float] = []
        self.started = time.perf_counter()

    def step(self, batch: TrainingBatch, pixels: Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self._forward(batch, pixels)
        loss = self._loss(logits, batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        answers = logits[batch.answers].argmax(dim=-1)
        self.right.append((answers == batch.labels[batch.answers]).float().mean().item())
        if len(self.right) % 50 == 0:
            seconds = time.perf_counter() - self.started
            accuracy = float(np.mean(self.right[-50:]))
            self.log(f"step {len(self.right)}  {seconds:.0f} s  answers {accuracy:.3f} right")

    def _forward(self, batch: TrainingBatch, pixels: Tensor) -> Tensor:
        inner = self.model.model
        language = inner.language_model
        features = image_tokens(self.model, pixels).flatten(0, 1)
        embedded = language.embed_tokens(batch.input_ids)
        places = (batch.input_ids == self.model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(places, features.to(embedded.dtype))
        hidden = language(
            inputs_embeds=embedded,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden)
        return logits

    def _loss(self, logits: Tensor, batch: TrainingBatch) -> Tensor:
        known = batch.labels >= 0
        document = known.clone()
        document[:, batch.prefix - 1 :] = False
        ends = known & ~document & ~batch.answers

        def entropy(where: Tensor) -> Tensor:
            if not bool(where.any()):
                return logits.new_zeros(())
            return F.cross_entropy(logits[where], batch.labels[where])

        return entropy(batch.answers) + 0.1 * entropy(ends) + LANGUAGE_WEIGHT * entropy(document)
