"""Train the phantom that describes: the shipped reader goes on to write structured reports.

``python -m tools.phantom_training.train_describing --out DIR`` writes ``DIR``, in the layout of
``mrrag_llamaindex/phantom/weights/describing``; five minutes on two idle cores. It starts
from the shipped generator, which reads and weighs documents and answers yes or no, and teaches it
to iterate over findings: all of them for a report, those that are named for an open question. The
vision tower stays as it is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrrag_llamaindex import defaults
from mrrag_llamaindex.phantom.describing import (
    HEADS,
    REPORT_QUESTION,
    VALUES,
    build_describing_tokenizer,
    open_question,
)
from mrrag_llamaindex.phantom.findings import FINDINGS
from tools.phantom_training.model import IMAGE_TOKENS, save_llava
from tools.phantom_training.train_llava import draw_patients
from tools.phantom_training.train_vision import image_tokens
from tools.phantom_training.training_data import Example, Findings, draw_example

STEPS, BATCH, LEARNING_RATE = 800, 24, 5e-4
PATIENTS = 3000
MOST_ASKED = 3
UNMENTIONED = 0.2
"""Weight of what no document speaks of: only the picture tells, and it hardly does."""

HEADS_WEIGHT = 0.3
"""Weight of the names: which comes next is soon known."""


@dataclass(frozen=True)
class Branches:
    """Left-padded prefixes, each followed by questions with their answers that see it alone.

    Attributes
    ----------
    input_ids, position_ids, labels : Tensor, shape (batch, length), int64
        A label of -100 has no loss.
    weights : Tensor, shape (batch, length)
        Of each label's loss.
    attention_mask : Tensor, shape (batch, 1, length, length), bool
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    weights: Tensor
    attention_mask: Tensor


class DescribingCollator:
    """Turn examples into `Branches`: one report and two open questions for each patient."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.tokenizer = build_describing_tokenizer()
        vocabulary = self.tokenizer.get_vocab()
        images = [vocabulary["<image>"]] * IMAGE_TOKENS
        self.opening = [vocabulary["<s>"], vocabulary["[INST]"], *images]
        self.heads = [vocabulary[head] for head in HEADS]
        self.values = [vocabulary[value] for value in VALUES]
        self.end, self.pad = vocabulary["</s>"], vocabulary["<pad>"]

    def __call__(self, examples: Sequence[Example]) -> Branches:
        """Collate."""
        prefixes, answers = [], []
        for example in examples:
            prefixes.append([*self.opening, *self._words("\n".join(example.documents))])
            answers.append([self._branch(example, asked) for asked in self._asked()])
        prefix = max(map(len, prefixes))
        length = prefix + max(sum(len(ids) for ids, *_ in branches) for branches in answers)
        shape = (len(examples), length)
        ids, positions = torch.full(shape, self.pad), torch.zeros(shape, dtype=torch.long)
        labels, weights = torch.full(shape, -100), torch.zeros(shape)
        mask = torch.eye(length, dtype=torch.bool).repeat(len(examples), 1, 1, 1)
        for row, (tokens, branches) in enumerate(zip(prefixes, answers, strict=True)):
            start = prefix - len(tokens)
            self._place(ids, positions, mask, row, start, tokens, 0)
            at = prefix
            for tokens_of, first, loss in branches:
                size = len(tokens_of)
                self._place(ids, positions, mask, row, at, tokens_of, len(tokens))
                mask[row, 0, at : at + size, start:prefix] = True
                for place in range(first, size):
                    labels[row, at + place - 1] = tokens_of[place]
                    weights[row, at + place - 1] = loss[place - first]
                at += size
        return Branches(ids, positions, labels, weights, mask)

    def _asked(self) -> list[tuple[int, ...] | None]:
        sizes = self.rng.integers(1, MOST_ASKED + 1, size=2)
        drawn = [self.rng.permutation(len(FINDINGS))[:size] for size in sizes]
        return [None, *(tuple(sorted(map(int, places))) for places in drawn)]

    def _branch(
        self, example: Example, asked: tuple[int, ...] | None
    ) -> tuple[list[int], int, list[float]]:
        """Return tokens of question and answer, where the answer begins, and its weights."""
        question = self._words(REPORT_QUESTION if asked is None else open_question(asked))
        tokens, loss = list(question), []
        for place in range(len(FINDINGS)) if asked is None else asked:
            tokens += [self.heads[place], self.values[example.findings[place]]]
            loss += [HEADS_WEIGHT, 1.0 if place in example.questions else UNMENTIONED]
        return [*tokens, self.end], len(question), [*loss, HEADS_WEIGHT]

    def _words(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @staticmethod
    def _place(
        ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        row: int,
        at: int,
        tokens: list[int],
        first_position: int,
    ) -> None:
        stop = at + len(tokens)
        ids[row, at:stop] = torch.tensor(tokens)
        positions[row, at:stop] = torch.arange(first_position, first_position + len(tokens))
        mask[row, 0, at:stop, at:stop] = torch.ones(len(tokens), len(tokens)).tril().bool()


def begin() -> Any:
    """Return the shipped generator with rows for the new words, which begin as the old ones."""
    from transformers import LlavaForConditionalGeneration

    folder = defaults.PHANTOM_FOLDER / "llava"
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = build_describing_tokenizer()
    before = model.config.text_config.vocab_size
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    vocabulary = tokenizer.get_vocab()
    old = [*(finding.token for finding in FINDINGS), "no", "yes"]
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            weight[before:] = weight[:before].mean(dim=0)
            for new, like in zip((*HEADS, *VALUES), old, strict=True):
                weight[vocabulary[new]] = weight[vocabulary[like]]
    return model


def train_describing(
    seed: int = 0,
    *,
    steps: int = STEPS,
    patients: int = PATIENTS,
    log: Callable[[str], None] = print,
) -> Any:
    """Train; the rate rises for 50 steps and falls as a cosine."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([10_000 + seed, 2])
    model = begin().train()
    for module in (model.model.vision_tower, model.model.multi_modal_projector):
        module.requires_grad_(False)
    findings, pixels = draw_patients(seed, patients)
    with torch.no_grad():
        seen = torch.cat([image_tokens(model, part) for part in pixels.split(256)])
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=min(0.3, 50 / steps)
    )
    collate = DescribingCollator(rng)
    right: list[float] = []
    started = time.perf_counter()
    for step in range(steps):
        rows = rng.integers(len(findings), size=BATCH)
        batch = collate([_example(rng, findings[int(row)]) for row in rows])
        logits = _forward(model, batch, seen[torch.from_numpy(rows)])
        known = batch.labels >= 0
        losses = F.cross_entropy(logits[known], batch.labels[known], reduction="none")
        loss = (losses * batch.weights[known]).sum() / batch.weights[known].sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        told = batch.weights == 1
        hits = (logits[told].argmax(dim=-1) == batch.labels[told]).float()
        right.append(hits.mean().item())
        if (step + 1) % 50 == 0:
            share, seconds = float(np.mean(right[-50:])), time.perf_counter() - started
            log(f"step {step + 1}  {seconds:.0f} s  loss {loss.item():.3f}  right {share:.3f}")
    return model.requires_grad_(True).eval()


def _example(rng: np.random.Generator, findings: Findings) -> Example:
    return draw_example(rng, findings, without_documents=0.1)


def _forward(model: Any, batch: Branches, seen: Tensor) -> Tensor:
    language = model.model.language_model
    embedded = language.embed_tokens(batch.input_ids)
    places = (batch.input_ids == model.config.image_token_id)[..., None]
    hidden = language(
        inputs_embeds=embedded.masked_scatter(places, seen.flatten(0, 1)),
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden)
    return logits


def main() -> None:
    """Train the synthetic generator that writes reports, from the shipped one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--patients", type=int, default=PATIENTS)
    options = parser.parse_args()
    if min(options.seed, options.steps - 2, options.patients - 1) < 0:
        parser.error("the seed must not be negative; at least 2 steps and 1 patient")
    model = train_describing(
        options.seed,
        steps=options.steps,
        patients=options.patients,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    note = (
        f"the critical layers of the phantom that it was trained from; training seed {options.seed}"
    )
    save_llava(
        model,
        options.out,
        critical_layers=[1],
        note=note,
        tokenizer=build_describing_tokenizer(),
    )


if __name__ == "__main__":
    main()
