"""Train the phantom's towers: image to report, and question to the reports that speak of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, ResNetConfig

from mrrag_llamaindex import defaults
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.render import render
from mrrag_llamaindex.phantom.studies import PhantomStudy, draw_findings, draw_study
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
from mrrag_llamaindex.phantom.wording import write_question
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower
from tools.phantom_training.tower_losses import (
    LOOKS,
    Looks,
    Relevance,
    Truth,
    info_nce,
    say_the_same,
)
from tools.phantom_training.train_llava import SEED_OFFSET

SIDE = 80
"""Pixels per side that the towers see: enough for the textures, not for all of them."""

DIMENSION = 64
READING_STEPS, STEPS = 1000, 600
LOOKS_WEIGHT = 10.0
BATCH = 128
READING_RATE, LEARNING_RATE = 3e-3, 1e-3
PATIENTS = 4000


def build_towers(seed: int = 0) -> ResNetBertTower:
    """Build the untrained towers: a ResNet of three stages and a BERT of one layer."""
    tokenizer = build_tokenizer()
    return ResNetBertTower.from_configs(
        ResNetConfig(
            embedding_size=24, hidden_sizes=[24, 48, 96], depths=[1, 1, 1], layer_type="basic"
        ),
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.1,  # a network this narrow stays flat for long with 0.02
        ),
        tokenizer,
        ImagePreparation.square(SIDE, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)),
        dimension=DIMENSION,
        seed=seed,
    )


def train_towers(
    seed: int = 0,
    *,
    steps: tuple[int, int] = (READING_STEPS, STEPS),
    patients: int = PATIENTS,
    log: Callable[[str], None] = print,
) -> ResNetBertTower:
    """Train from scratch; about 5 minutes on two idle cores.

    First the text tower learns to tell which findings a report affirms and denies. Then both
    learn by InfoNCE: each image with its own report (symmetric); reports that say the same are
    no negatives of each other. Questions are matched with the reports that mention what is asked
    (`Relevance`), and image vectors keep what pictures look like (`Looks`). In the first half
    of that the image tower learns from the truth, too: InfoNCE from nothing stays at chance for
    long, because neither tower gives the other anything to learn from.

    Parameters
    ----------
    seed : int
    steps : (int, int)
        Of reading alone, and of both.
    patients : int
        With a picture.
    log : callable
        Takes a line of progress.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(SEED_OFFSET + 1 + seed)
    towers = build_towers(seed)
    trainer = _Trainer(towers, rng, log)
    trainer.read(steps[0])
    log("drawing pictures")
    findings = [draw_findings(rng) for _ in range(patients)]
    pixels = torch.cat(
        [towers.images([render(one, int(rng.integers(2**31)))])["pixel_values"] for one in findings]
    )
    trainer.match(steps[1], findings, pixels)
    towers.network.eval()
    return towers


class _Trainer:
    def __init__(
        self, towers: ResNetBertTower, rng: np.random.Generator, log: Callable[[str], None]
    ) -> None:
        self.network = towers.network.train()
        self.tokenizer = build_tokenizer()
        self.truth = Truth(DIMENSION)
        self.relevance = Relevance()
        modules = (self.network, self.truth, self.relevance)
        self.parameters = [one for module in modules for one in module.parameters()]
        self.rng, self.log = rng, log
        self.started = time.perf_counter()

    def read(self, steps: int) -> None:
        """Teach the text tower to tell what a report says."""
        optimizer = torch.optim.AdamW(self.parameters, lr=READING_RATE, weight_decay=0.01)
        for step in range(steps):
            studies = [self._study(draw_findings(self.rng)) for _ in range(BATCH)]
            loss = self.truth.of_texts(self._features([study.report for study in studies]), studies)
            self._descend(optimizer, loss)
            self._report(step, f"reading loss {loss.item():.3f}")

    def match(self, steps: int, findings: list[tuple[bool, ...]], pixels: Tensor) -> None:
        """Teach both towers by InfoNCE."""
        optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        looks = Looks(pixels)
        hits: list[float] = []
        for step in range(steps):
            rows = self.rng.integers(len(findings), size=BATCH)
            studies = [self._study(findings[int(i)]) for i in rows]
            subjects = self.rng.integers(len(FINDINGS), size=BATCH)
            questions = [write_question(self.rng, int(finding)) for finding in subjects]
            image_features = self.network.image_features(pixels[torch.from_numpy(rows)])
            text_features = self._features([study.report for study in studies] + questions)
            images, texts = F.normalize(image_features, dim=-1), F.normalize(text_features, dim=-1)
            logits = images @ texts[:BATCH].T / defaults.TEMPERATURE
            about = texts[BATCH:] @ texts[:BATCH].T
            same = say_the_same([(study.findings, study.mentioned) for study in studies])
            mentions = torch.tensor(
                [[int(finding) in study.mentioned for study in studies] for finding in subjects]
            )
            loss = info_nce(logits, same) + info_nce(logits.T, same)
            loss = loss + self.relevance(about, mentions)
            loss = loss + LOOKS_WEIGHT * looks(images, rows)
            if 2 * step < steps:
                loss = loss + 5.0 * self.truth.of_images(image_features, studies)
            self._descend(optimizer, loss)
            schedule.step()
            hits.append(same[torch.arange(BATCH), logits.argmax(dim=1)].float().mean().item())
            share = float(np.mean(hits[-50:]))
            looks_share = images[:, :LOOKS].square().sum(dim=1).mean().item()
            self._report(
                step,
                f"loss {loss.item():.3f}, own report first of {BATCH}: {share:.3f}, "
                f"looks {looks_share:.2f} of the image vectors",
            )

    def _study(self, findings: tuple[bool, ...]) -> PhantomStudy:
        return draw_study(self.rng, "training", findings)

    def _features(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        return self.network.text_features(tokens["input_ids"], tokens["attention_mask"])

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        optimizer.step()

    def _report(self, step: int, what: str) -> None:
        if (step + 1) % 50 == 0:
            self.log(f"step {step + 1}  {time.perf_counter() - self.started:.0f} s  {what}")
