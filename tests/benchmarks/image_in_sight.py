"""Does steering towards documents starve the image, and what follows where the two disagree.

    python tests/benchmarks/image_in_sight.py --seed 0

Synthetic patients whose image shows the answer plainly (`phantom.sets.disagreement`), asked without
documents, with four reports that say the same as the image, with two that say the opposite (scored
first or last), and with four that do. For each way to attend: accuracy of the first answer token,
and the share of the question's attention that goes to the image, the documents and the question, in
the model's critical layers. MAD-RAG mixes what two readings of the question gave, which is as if
their attention were mixed: that is what its shares are. Intervals are by bootstrap over patients.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.attention import AttentionShares, attention_shares
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.phantom.sets.disagreement import Disagreement, Evidence, draw_disagreements
from mrrag_llamaindex.statistics.bootstrap import (
    difference_interval,
    interval,
    resampled_means,
    share_interval,
)
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.mad_rag import MADRAG
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policy import SteeringPolicy
from mrrag_llamaindex.steering.watch import AttentionWatch

METHODS: dict[str, SteeringPolicy | None] = {
    "plain": None,
    "IFA": IFA(),
    "IFA, image .25": IFA(image=0.25),
    "IFA, image .5": IFA(image=0.5),
    "IFA, image 1": IFA(image=1.0),
    "PAI": PAI(guidance=1.0),
    "MAD-RAG": MADRAG(),
    "MAD-RAG, alpha .7": MADRAG(alpha=0.7),
}
PARTS = ("image", "documents", "question")
Look = tuple[float, float, list[float]]


def parts_of(look: AttentionShares) -> list[float]:
    """Shares of the question's attention, mean over the layers."""
    layers = look.question.values()
    shares = [[one.image, sum(one.documents.values()), one.question] for one in layers]
    return [float(mean) for mean in np.mean(shares, axis=0)]


def mixed(engine: LlavaEngine, trial: Disagreement, evidence: Evidence, policy: MADRAG) -> Look:
    """p(yes), p(no) and the three shares of the attention that MAD-RAG's mix amounts to."""
    image = engine.read_image(trial.image)
    prompt = engine.prompt(trial.request(evidence), image, policy)
    layers, second = engine.loaded.critical_layers, prompt.question_span
    first = prompt.first_question_span or second
    parts = [prompt.image_span or (0, 0), *prompt.document_spans, first, second]
    if first == second:
        parts.pop()  # asked once: there are no documents
    watch = AttentionWatch.over([[first, second]], [parts], layers, [len(prompt.input_ids)])
    plan, _ = engine.planner.plan([prompt], policy)
    plan = replace(plan or SteeringPlan.nothing([len(prompt.input_ids)]), watch=watch)
    logits = engine.runner.logits([prompt.input_ids], [image], steering=plan)
    once, twice = torch.stack([watch.seen[layer][0] for layer in layers]).mean(0)
    shares = torch.lerp(twice, once, policy.alpha).tolist()
    count = len(prompt.documents)
    split = [shares[0], sum(shares[1 : 1 + count]), sum(shares[1 + count :])]
    return *engine.yes_and_no(logits[0, -1].softmax(-1)), split


def looked(engine: LlavaEngine, trial: Disagreement, evidence: Evidence, name: str) -> Look:
    """p(yes), p(no) and the three shares of one question under one way to attend."""
    policy = METHODS[name]
    if isinstance(policy, MADRAG):
        return mixed(engine, trial, evidence, policy)
    look = attention_shares(engine, trial.request(evidence), trial.image, policy)
    return look.p_yes, look.p_no, parts_of(look)


def ask(engine: LlavaEngine, trials: list[Disagreement]) -> dict[tuple[str, str], np.ndarray]:
    """Right (1 or 0) and the three shares, (patients, 4), by evidence and method."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for trial in trials:
        for evidence in get_args(Evidence):
            for name in METHODS:
                p_yes, p_no, shares = looked(engine, trial, evidence, name)
                right = (p_yes > p_no) == trial.truth
                found.setdefault((evidence, name), []).append([float(right), *shares])
    return {key: np.array(rows) for key, rows in found.items()}


def row(values: np.ndarray, plain: np.ndarray, owners: list[str], seed: int) -> dict[str, Any]:
    right, difference = values[:, 0], values[:, 0] - plain[:, 0]
    samples = resampled_means(right, owners, seed)
    cells: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "ci": share_interval(samples, owners),
        "against_plain": float(difference.mean()),
        "against_plain_ci": difference_interval(resampled_means(difference, owners, seed), owners),
    }
    for column, name in enumerate(PARTS, start=1):
        share = values[:, column]
        cells[name] = float(share.mean())
        cells[f"{name}_ci"] = interval(resampled_means(share, owners, seed), owners)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="below 10,000")
    parser.add_argument("--count", type=int, default=200, help="patients, one question each")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    started = time.perf_counter()
    engine = LlavaEngine(load_model(defaults.PHANTOM, device="cpu"))
    trials = draw_disagreements(options.seed, options.count, documents=options.documents)
    owners = [trial.patient_id for trial in trials]
    found = ask(engine, trials)
    rows = [
        {"evidence": evidence, "method": name}
        | row(values, found[evidence, "plain"], owners, options.seed)
        for (evidence, name), values in found.items()
    ]
    if options.json:
        print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started, **vars(options)}))
        return
    print("| evidence | method | accuracy | image | documents | question |\n" + "|---" * 6 + "|")
    for line in rows:
        low, high = line["ci"]
        shares = [
            f"{line[name]:.3f} [{line[f'{name}_ci'][0]:.3f}, {line[f'{name}_ci'][1]:.3f}]"
            for name in PARTS
        ]
        accuracy = f"{line['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        print("| " + " | ".join([line["evidence"], line["method"], accuracy, *shares]) + " |")
    print(f"\n{options.count} patients, seed {options.seed}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
