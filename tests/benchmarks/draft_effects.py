"""From which effect on is a case, or the image, a source of a sentence of a draft.

    python tests/benchmarks/draft_effects.py --seeds 3

Reports of synthetic patients are drafted by the describing phantom, one statement for each finding,
from six cases of a store that knows other patients. A case can be the source of a statement if its
report speaks of that finding; the others are unrelated to it, and their effects are what nothing
explains. For each threshold: the share of the unrelated cases that would be named, the share of the
related ones, the share of statements that would be marked as moved by nothing (no case, nor all of
them at once, nor the image), and how many of these, and of the others, are right. Intervals are by
bootstrap over patients.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA
from mrrag_llamaindex.integration.answers.draft import draft_report
from mrrag_llamaindex.phantom.sets.describing_set import SETTING, describing_set
from mrrag_llamaindex.statistics.bootstrap import interval, resampled_sums
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.towers.loading import load_towers

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.5)
COLUMNS = (
    "unrelated cases named",
    "related cases named",
    "statements marked",
    "marked and right",
    "others right",
)


def counts(seed: int, questions: int, llm: MRRAGLLaVA) -> tuple[list[str], np.ndarray]:
    """Numerator and denominator of every column, (patients, thresholds, columns, 2)."""
    data = describing_set(seed, "report", questions=questions)
    owners, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        towers = load_towers("phantom")
        index = MRRAGIndex.from_pairs(list(data.pairs), towers=towers, persist_dir=Path(folder))
        for item in data.questions:
            draft = draft_report(
                index,
                llm,
                item.image,
                prompt=item.question,
                similarity_top_k=SETTING.documents,
            )
            truth = item.answer.casefold().split(". ")
            row = np.zeros((len(THRESHOLDS), len(COLUMNS), 2))
            for sentence in draft.sentences:
                text = sentence.text.casefold().rstrip(".")
                finding = text.split(":")[0]
                right = any(text == one.rstrip(".") for one in truth)
                found = {one.pair_id: abs(one.effect) for one in sentence.effects}
                for place, threshold in enumerate(THRESHOLDS):
                    for name, effect in found.items():
                        column = int(finding in data.facts[name])
                        row[place, column] += (effect >= threshold, 1)
                    others = (sentence.together, sentence.image_effect)
                    largest = max([*found.values(), *(abs(one or 0.0) for one in others)])
                    marked = largest < threshold
                    row[place, 2] += (marked, 1)
                    row[place, 3 if marked else 4] += (right, 1)
            owners.append(f"{seed}/{item.patient_id}")
            rows.append(row)
    return owners, np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, ...: corpora, pooled")
    parser.add_argument("--questions", type=int, default=20, help="patients of each")
    parser.add_argument("--every-step", action="store_true", help="steer the report's rows, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    policy = IFA(every_step=options.every_step)
    llm = MRRAGLLaVA(model="phantom-describing", policy=policy, max_new_tokens=20)
    owners: list[str] = []
    parts = []
    for seed in range(options.seeds):
        own, part = counts(seed, options.questions, llm)
        owners += own
        parts.append(part)
    values = np.concatenate(parts)
    sums = resampled_sums(values.reshape(len(values), -1), owners, 0)
    sums = sums.reshape(-1, *values.shape[1:])
    print(f"| threshold | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for place, threshold in enumerate(THRESHOLDS):
        cells = []
        for column in range(len(COLUMNS)):
            part, whole = values[:, place, column].sum(axis=0)
            if not whole:
                cells.append("-")
                continue
            drawn = sums[:, place, column]
            low, high = interval(100 * drawn[:, 0] / np.maximum(drawn[:, 1], 1), owners)
            cells.append(f"{100 * part / whole:.1f} [{low:.1f}, {high:.1f}] of {whole:.0f}")
        print(f"| {threshold:g} | {' | '.join(cells)} |")
    print(f"\n{len(owners)} patients, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
