"""Align the phantom generator's vision tower with its words: what an image shows, in tokens.

The loss of an answer alone never gets there: with documents in the prompt the picture is not
needed, and without them its faint signal drowns. So, as LLaVA aligns its projector before the
language model is trained further, vision tower and projector first learn to put the word
embeddings of a report into the image's place: "no effusion shows nodule ...". The mean squared
error makes them the mean over what the picture leaves open, so a finding that can hardly be seen
becomes a word between "shows" and "no": a faint document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from tools.phantom_training.training_data import Findings

STEPS, BATCH, LEARNING_RATE = 1600, 128, 2e-3
WEIGHT_DECAY = 0.05
HELD_OUT = 0.1


def image_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Return what the language model sees of pictures, shape (batch, image tokens, hidden)."""
    features = model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return torch.stack(list(features)) if isinstance(features, (list, tuple)) else features


def align_vision(
    model: Any,
    findings: list[Findings],
    pixels: Tensor,
    rng: np.random.Generator,
    log: Callable[[str], None],
    steps: int = STEPS,
) -> float:
    """Train vision tower and projector to put what a picture shows into word embeddings.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
        Its vision tower and projector are changed in place, its language model is left alone.
    findings : list of tuple of bool
    pixels : Tensor, shape (n, 3, 48, 48)
    rng : numpy.random.Generator
    log : callable
        Takes a line of progress.
    steps : int

    Returns
    -------
    float
        Share of findings that are right, on the tenth of the pictures that is held out.
    """
    words = _Words(model)
    truth = torch.tensor(findings)
    held = int(len(truth) * HELD_OUT)
    modules = (model.model.vision_tower, model.model.multi_modal_projector)
    parameters = [one for module in modules for one in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    right = 0.0
    for step in range(steps):
        batch = torch.from_numpy(rng.integers(held, len(truth), size=BATCH))
        loss = words.error(image_tokens(model, pixels[batch]), truth[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            with torch.no_grad():
                findings_seen = words.findings(image_tokens(model, pixels[:held]))
            right = float((findings_seen == truth[:held]).float().mean())
            log(f"vision step {step + 1}  error {loss.item():.3f}  held out {right:.3f} right")
    return right


class _Words:
    """Embeddings of "no" or "shows" and of a finding's name, finding by finding."""

    def __init__(self, model: Any) -> None:
        vocabulary = build_tokenizer().get_vocab()
        embeddings = model.get_input_embeddings().weight.detach().clone()
        self.polarity = embeddings[[vocabulary["no"], vocabulary["shows"]]]
        self.names = embeddings[[vocabulary[finding.token] for finding in FINDINGS]]
        self.scale = embeddings.var()

    def error(self, tokens: Tensor, truth: Tensor) -> Tensor:
        """Mean squared error in units of the embeddings' variance."""
        target = torch.stack(
            [self.polarity[truth.long()], self.names.expand(len(truth), -1, -1)], dim=2
        )
        loss: Tensor = F.mse_loss(tokens, target.flatten(1, 2)) / self.scale
        return loss

    def findings(self, tokens: Tensor) -> Tensor:
        """Whether each finding's word is nearer to "shows" than to "no", (batch, findings)."""
        absent, present = self.polarity
        between: Tensor = (tokens[:, 0::2] - (absent + present) / 2) @ (present - absent)
        return between > 0
