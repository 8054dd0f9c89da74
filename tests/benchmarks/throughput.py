"""What batches and shared prefixes save, as ratios inside one run.

    python tests/benchmarks/throughput.py --seed 0

1. The phantom, different patients: questions per second of batches against one at a time.
2. A random LLaVA of about 100M parameters, 576 image tokens, six reports of 100 words: the cost of
   four questions on one image and evidence over the cost of one (yes/no answers, prefix cache
   emptied before each), and the same four questions one after the other.
3. The same model: tokens per second of a longer answer, plain and with ``torch.compile``, and what
   the compilation cost.

Every round runs all variants in random order, so each gives paired ratios; medians over rounds
with 95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.phantom.studies import draw_findings, draw_study
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
from mrrag_llamaindex.steering.ifa import IFA

QUESTIONS = (
    "Is there a pleural effusion?",
    "Is there edema?",
    "Does the image show a nodule?",
    "Is there pneumothorax?",
)


def write_llava(folder: Path, seed: int) -> None:
    """Write a random LLaVA with LLaVA-Med's image geometry and a small Mistral."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=4,
            image_size=336,
            patch_size=14,
        ),
        text_config=transformers.MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=10,
            num_attention_heads=12,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            sliding_window=None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_seq_length=576,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def interval(values: list[float], seed: int) -> str:
    """Median with a 95% bootstrap interval."""
    draws = np.random.default_rng(seed).choice(values, size=(4000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return f"{np.median(values):.2f} [{low:.2f}, {high:.2f}]"


def timed(variants: dict[str, Callable[[], object]], rounds: int, seed: int) -> dict[str, list]:
    """Seconds of each variant in each round."""
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():  # warm up
        run()
    for _ in range(rounds):
        for name in order.sample(list(variants), len(variants)):
            start = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: dict[str, list[float]], above: str, below: str) -> list[float]:
    return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]


def batches(options: argparse.Namespace) -> None:
    engine = LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=2)
    trials = draw_trials(options.seed, 32, documents=4, irrelevant=2)
    requests = [trial.request for trial in trials]
    images = [trial.image for trial in trials]

    def run(size: int, shares: bool = True) -> Callable[[], None]:
        def ask() -> None:
            engine.batch_size, engine.shares_prefix = size, shares
            for start in range(0, len(trials), size):
                rows = slice(start, start + size)
                engine.generate(requests[rows], images[rows], policy=IFA())

        return ask

    variants = {f"batch {n}": run(n) for n in (1, 4, 8, 16)}
    # One forward pass for the prompt, not one for its prefix and one for its question.
    variants["one, whole"] = run(1, shares=False)
    seconds = timed(variants, options.rounds, options.seed)
    print("phantom, 32 questions about 32 patients, 4 documents each, steered")
    for name, values in seconds.items():
        gain = interval(ratios(seconds, "batch 1", name), options.seed)
        rate = len(trials) / np.median(values)
        print(f"  {name:<11}{rate:>7.1f} questions/s   {gain} times one at a time")


def one_patient() -> tuple[list[PromptRequest], object]:
    """Four questions on one image and the same six reports of about 100 words."""
    rng = np.random.default_rng(0)
    study = draw_study(rng, "patient", draw_findings(rng))
    reports = []
    for number in range(6):
        words: list[str] = []
        while len(words) < 100:
            words += draw_study(rng, "other", draw_findings(rng)).report.split()
        text = " ".join(words[:100])
        reports.append(PromptDocument(f"d{number}", text, 1.0 - number / 10))
    return [PromptRequest(question, reports) for question in QUESTIONS], study.image.resize(
        (336, 336)
    )


def questions(options: argparse.Namespace, folder: Path) -> None:
    engine = LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=2)
    size = sum(parameter.numel() for parameter in engine.model.parameters())
    requests, image = one_patient()
    ifa = IFA(layers=(4, 5))

    def ask(count: int) -> Callable[[], None]:
        def run() -> None:
            engine.runner.prefixes.clear()
            engine.generate(requests[:count], [image] * count, policy=ifa)

        return run

    def in_turn() -> None:
        engine.runner.prefixes.clear()
        for request in requests:
            engine.generate([request], [image], policy=ifa)

    def apart() -> None:
        for request in requests:
            engine.runner.prefixes.clear()
            engine.generate([request], [image], policy=ifa)

    variants = {"one": ask(1), "four at once": ask(4), "four in turn": in_turn, "no reuse": apart}
    seconds = timed(variants, options.rounds, options.seed)
    (answer,) = engine.generate(requests[:1], [image], policy=ifa)
    print(f"random LLaVA, {size / 1e6:.0f}M parameters, {answer.prompt_tokens} tokens, steered")
    for name, values in seconds.items():
        cost = interval(ratios(seconds, name, "one"), options.seed)
        print(f"  {name:<13}{np.median(values):>7.2f} s   {cost} times one question")


def compilation(options: argparse.Namespace, folder: Path) -> None:
    requests, image = one_patient()
    engine = LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=32)
    engine.model.generation_config.min_new_tokens = 32

    def run() -> None:
        engine.generate(requests[:1], [image], policy=IFA(layers=(4, 5)))

    run()  # fills the prefix cache: what follows is the question and 32 tokens
    plain, compiled = [], []
    for _ in range(options.rounds):
        start = time.perf_counter()
        run()
        plain.append(time.perf_counter() - start)
    text = engine.model.model.language_model
    text.forward = torch.compile(text.forward, dynamic=True)
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    for _ in range(options.rounds):
        start = time.perf_counter()
        run()
        compiled.append(time.perf_counter() - start)
    print("an answer of 32 tokens, prefix kept, text model with torch.compile(dynamic=True)")
    print(f"  plain        {32 / np.median(plain):>6.1f} tokens/s")
    print(f"  compiled     {32 / np.median(compiled):>6.1f} tokens/s, after {first:.1f} s once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also the third part")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(
        f"{torch.get_num_threads()} threads, fp32, {options.rounds} rounds, seed {options.seed}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    batches(options)
    with tempfile.TemporaryDirectory() as name:
        write_llava(Path(name), options.seed)
        questions(options, Path(name))
        if options.compile:
            compilation(options, Path(name))


if __name__ == "__main__":
    main()
