"""Train the phantom's towers: image to report, and question to the reports that speak of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

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
from mrrag_llamaindex.phantom.train_llava import SEED_OFFSET
from mrrag_llamaindex.phantom.wording import write_question
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.resnet_bert import ResNetBertTower

SIDE = 96
"""Pixels per side that the towers see: half of the image, enough for the textures."""

DIMENSION = 64
STEPS, BATCH = 1200, 128
LEARNING_RATE = 2e-3
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
        ),
        tokenizer,
        ImagePreparation.square(SIDE, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)),
        dimension=DIMENSION,
        seed=seed,
    )


def train_towers(
    seed: int = 0,
    *,
    steps: int = STEPS,
    patients: int = PATIENTS,
    log: Callable[[str], None] = print,
) -> ResNetBertTower:
    """Train from scratch by InfoNCE; about 6 minutes on two idle cores.

    Two contrastive terms: each image with its own report (symmetric), and each question with the
    reports of the batch that mention the finding asked about. Reports that say the same are no
    negatives of each other. From nothing, InfoNCE alone stays at chance for a long time, because
    neither tower gives the other anything to learn from; so both are also told the truth that
    the generator of the studies knows, with a weight that falls to zero by half time.

    Parameters
    ----------
    seed : int
    steps, patients : int
    log : callable
        Takes a line of progress.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(SEED_OFFSET + 1 + seed)
    towers = build_towers(seed)
    findings = [draw_findings(rng) for _ in range(patients)]
    log("drawing pictures")
    pixels = torch.cat(
        [towers.images([render(one, int(rng.integers(2**31)))])["pixel_values"] for one in findings]
    )
    tokenizer = build_tokenizer()
    network = towers.network.train()
    told = _Truth(DIMENSION)
    parameters = [*network.parameters(), *told.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    started = time.perf_counter()
    hits: list[float] = []
    for step in range(steps):
        chosen = rng.integers(patients, size=BATCH)
        studies = [draw_study(rng, "training", findings[int(i)]) for i in chosen]
        asked = rng.integers(len(FINDINGS), size=BATCH)
        questions = [write_question(rng, int(finding)) for finding in asked]
        seen = network.image_features(pixels[torch.from_numpy(chosen)])
        read = _features(tokenizer, network, [study.report for study in studies] + questions)
        images, texts = F.normalize(seen, dim=-1), F.normalize(read, dim=-1)
        reports, questions_embedded = texts[:BATCH], texts[BATCH:]
        logits = images @ reports.T / defaults.TEMPERATURE
        same = _same([(study.findings, study.mentioned) for study in studies])
        mentions = torch.tensor(
            [[int(finding) in study.mentioned for study in studies] for finding in asked]
        )
        about = questions_embedded @ reports.T / defaults.TEMPERATURE
        loss = (
            _info_nce(logits, same) + _info_nce(logits.T, same) + 0.5 * _info_nce(about, mentions)
        )
        guidance = max(0.0, 1.0 - 2.0 * step / steps)
        if guidance:
            loss = loss + 10.0 * guidance * told.loss(seen, read[:BATCH], studies)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        best = logits.argmax(dim=1)
        hits.append(same[torch.arange(BATCH), best].float().mean().item())
        if (step + 1) % 50 == 0:
            seconds = time.perf_counter() - started
            log(
                f"step {step + 1}  {seconds:.0f} s  loss {loss.item():.3f}  "
                f"own report first of {BATCH}: {np.mean(hits[-50:]):.3f}"
            )
    network.eval()
    return towers


class _Truth(nn.Module):
    """Linear heads that read the findings off both embeddings; dropped after training."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.image = nn.Linear(dimension, len(FINDINGS))
        self.text = nn.Linear(dimension, 2 * len(FINDINGS))

    def loss(self, seen: Tensor, read: Tensor, studies: list[PhantomStudy]) -> Tensor:
        """Cross entropy of findings in images, and of findings affirmed and denied in reports."""
        truth = torch.tensor([study.findings for study in studies])
        spoken = torch.tensor(
            [[index in study.mentioned for index in range(len(FINDINGS))] for study in studies]
        )
        said = torch.cat([spoken & truth, spoken & ~truth], dim=1)
        entropy = F.binary_cross_entropy_with_logits
        return entropy(self.image(seen), truth.float()) + entropy(self.text(read), said.float())


def _features(tokenizer: Any, network: Any, texts: list[str]) -> Tensor:
    tokens = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    features: Tensor = network.text_features(tokens["input_ids"], tokens["attention_mask"])
    return features


def _same(kinds: list[tuple[tuple[bool, ...], frozenset[int]]]) -> Tensor:
    """Pairs whose reports say the same, shape (batch, batch), bool."""
    said = [tuple((i, known[i]) for i in sorted(mentioned)) for known, mentioned in kinds]
    return torch.tensor([[one == other for other in said] for one in said])


def _info_nce(logits: Tensor, positive: Tensor) -> Tensor:
    """Mean over rows of -log of the share of all positives, rows without one left out."""
    kept = positive.any(dim=1)
    inside = logits.masked_fill(~positive, float("-inf"))[kept].logsumexp(dim=1)
    return (logits[kept].logsumexp(dim=1) - inside).mean()
