"""Teach the reader to answer from statements: LoRA, resumable, every step drawn by its number."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mrrag_llamaindex.files.atomic import write_atomically
from tools.language_study.questions import DOCUMENTS, Case, Questions
from tools.language_study.reader import Prompts, Read, add_adapter, load_model

BATCH = 8
RATE = 1e-3
WARM_UP = 10
KEEP_EVERY = 5
"""Steps between two states on the disk: what a kill can cost."""


def train(data: Path, folder: Path, seed: int, steps: int) -> Path:
    """Train the adapter of one seed, or go on where its last state stands.

    A prompt of the training images has four statements, 0 to 3 of them irrelevant, as in the test:
    plain attention meets no noise that it was not trained with.

    Returns
    -------
    Path
        Folder of the finished adapter.
    """
    done, state = folder / f"adapter-{seed}", folder / f"state-{seed}.pt"
    if (done / "adapter_config.json").is_file():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    questions, prompts = Questions(data, seed), Prompts()
    asked = questions.answerable("training")
    model = add_adapter(load_model(), seed)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.01)
    first, losses, seconds = 0, [], 0.0
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["weights"], strict=False)
        optimizer.load_state_dict(kept["optimizer"])
        first, losses, seconds = kept["step"], kept["losses"], kept["seconds"]
    for step in range(first, steps):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARM_UP, (steps - step) / (steps - WARM_UP))
        loss = _loss(model, prompts, draw(questions, asked, seed, step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        seconds += time.perf_counter() - started
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == steps:
            print(f"seed {seed} step {step + 1}: {np.mean(losses[-20:]):.3f}", flush=True)
            content = {
                "weights": {name: p.detach() for name, p in weights.items()},
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "losses": losses,
                "seconds": seconds,
            }
            write_atomically(state, lambda path, content=content: torch.save(content, path))
    facts = {"steps": steps, "batch": BATCH, "seconds": seconds, "questions": len(asked)}
    facts["images"] = len({questions.all[i].image for i in asked})
    write_atomically(folder / f"training-{seed}.json", json.dumps({**facts, "losses": losses}))
    model.save_pretrained(done)
    return done


def draw(questions: Questions, asked: list[int], seed: int, step: int) -> list[Case]:
    """Draw the prompts of one step: the questions of an epoch in random order, noise at random."""
    cases = []
    for position in range(step * BATCH, (step + 1) * BATCH):
        epoch, place = divmod(position, len(asked))
        row = int(np.random.default_rng((seed, 1, epoch)).permutation(len(asked))[place])
        own = np.random.default_rng((seed, 2, position))
        irrelevant = int(own.integers(DOCUMENTS))
        noise = int(own.integers(2**31))
        cases.append(questions.known_case(asked[row], irrelevant, noise, ("training",)))
    return cases


def _loss(model: Any, prompts: Prompts, cases: list[Case]) -> torch.Tensor:
    """Cross-entropy of the answer's token; prompts are padded on the right, where none looks."""
    reads: list[Read] = [prompts.read(case) for case in cases]
    longest = max(len(read.tokens) for read in reads)
    ids = torch.tensor([[*read.tokens, *[0] * (longest - len(read.tokens))] for read in reads])
    hidden = model.base_model.model.model(input_ids=ids, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(reads)), [len(read.tokens) - 1 for read in reads]]
    logits = model.base_model.model.lm_head(last)
    gold = torch.tensor([prompts.answers[case.asked.answer == "yes"] for case in cases])
    return F.cross_entropy(logits, gold)
