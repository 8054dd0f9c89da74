"""Train the phantom generator: read one document, weigh several, see, then do all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrrag_llamaindex.phantom.model import build_model, build_processor
from mrrag_llamaindex.phantom.render import render
from mrrag_llamaindex.phantom.studies import draw_findings
from mrrag_llamaindex.phantom.train_vision import image_tokens, teach_to_see
from mrrag_llamaindex.phantom.training_data import Batch, Collator, draw_example

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

    from mrrag_llamaindex.phantom.training_data import Findings

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
    without : float
        Share of examples without documents.
    pictures : bool
        Whether the patient's picture is shown; a blank one otherwise.
    rate : float
        Learning rate.
    settles : bool
        Whether the optimiser's moments start anew, and the rate falls to a fifth for the last
        third.
    """

    name: str
    steps: int
    batch: int
    most_documents: int
    without: float
    pictures: bool
    rate: float
    settles: bool


STAGES = (
    Stage("read one document", 500, 64, 1, 0.0, False, 1e-3, False),
    Stage("weigh up to four", 1200, 48, 4, 0.0, False, 1e-3, False),
    Stage("weigh up to eight", 1500, 32, 8, 0.0, False, 1e-3, True),
    Stage("look as well", 300, 32, 8, 0.15, True, 3e-4, True),
)
"""Pictures come last: shown from the start, the model settles for what little they tell. Before
the first stage with pictures the eyes are trained by themselves, see `teach_to_see`. In the
stages only the language model learns: the loss of answers in documents would have the eyes
forget what they see, and a large step would have the reader forget how to read."""

LANGUAGE_WEIGHT = 0.05
"""Weight of predicting the documents themselves, which keeps the first layers busy early on."""

PATIENTS = 12_000
"""Training patients with a picture: so little is to be seen in one that fewer are learned by
heart."""


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
    log: Callable[[str], None] = print,
) -> LlavaForConditionalGeneration:
    """Train from scratch, stage by stage; about half an hour on two idle cores.

    Parameters
    ----------
    seed : int
    stages : sequence of Stage
    log : callable
        Takes a line of progress.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(SEED_OFFSET + seed)
    model = build_model(seed).train()
    collate = Collator()
    trainer = _Trainer(model, log)
    findings, pixels = draw_patients(seed)
    blank = True
    for stage in stages:
        if stage.pictures and blank:
            log("see")
            teach_to_see(model, findings, pixels, rng, log)
        blank = not stage.pictures
        if stage.settles:
            trainer = _Trainer(model, log)
        log(stage.name)
        for step in range(stage.steps):
            chosen = rng.integers(len(findings), size=stage.batch)
            examples = [
                draw_example(
                    rng,
                    findings[int(i)],
                    most_documents=stage.most_documents,
                    without=stage.without,
                )
                for i in chosen
            ]
            shown = pixels[torch.from_numpy(chosen)]
            rate = stage.rate * min(1.0, (step + 1) / 50)
            if stage.settles and step >= 2 * stage.steps // 3:
                rate = stage.rate * 0.2
            trainer.step(collate(examples), shown if stage.pictures else shown * 0, rate)
    trained: LlavaForConditionalGeneration = model.eval()
    return trained


class _Trainer:
    def __init__(self, model: Any, log: Callable[[str], None]) -> None:
        self.model = model
        self.reader = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.reader, betas=(0.9, 0.98), weight_decay=0.01)
        self.log = log
        self.right: list[float] = []
        self.started = time.perf_counter()

    def step(self, batch: Batch, pixels: Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self._forward(batch, pixels)
        loss = self._loss(logits, batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.reader, 1.0)
        self.optimizer.step()
        said = logits[batch.answers].argmax(dim=-1)
        self.right.append((said == batch.labels[batch.answers]).float().mean().item())
        if len(self.right) % 50 == 0:
            seconds = time.perf_counter() - self.started
            accuracy = float(np.mean(self.right[-50:]))
            self.log(f"step {len(self.right)}  {seconds:.0f} s  answers {accuracy:.3f} right")

    def _forward(self, batch: Batch, pixels: Tensor) -> Tensor:
        inner = self.model.model
        language = inner.language_model
        with torch.no_grad():
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

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        known = batch.labels >= 0
        document = known.clone()
        document[:, batch.prefix - 1 :] = False
        ends = known & ~document & ~batch.answers

        def entropy(where: Tensor) -> Tensor:
            if not bool(where.any()):
                return logits.new_zeros(())
            return F.cross_entropy(logits[where], batch.labels[where])

        return entropy(batch.answers) + 0.1 * entropy(ends) + LANGUAGE_WEIGHT * entropy(document)
