"""Training sequences for the phantom generator: documents, and several questions without leaks.

Several questions share one prefix. If they simply followed each other, the earlier answers
would tell which documents to believe, and the model would learn to wait for them. Here every
question is a branch of its own: it sees image, documents and itself, at the position it would
have alone. One forward pass then teaches exactly what many single-question prompts would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.studies import draw_findings, draw_study
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
from tools.phantom_training.model import IMAGE_TOKENS

Findings = tuple[bool, ...]

IGNORED = -100
"""Label of positions without a loss."""


@dataclass(frozen=True)
class Example:
    """One patient, the documents offered, and the findings asked about.

    Attributes
    ----------
    findings : tuple of bool
    documents : tuple of str
    questions : tuple of int
        Findings asked about.
    """

    findings: Findings
    documents: tuple[str, ...]
    questions: tuple[int, ...]


@dataclass(frozen=True)
class TrainingBatch:
    """Left-padded prefixes followed by branches of two tokens each, question and answer.

    Attributes
    ----------
    input_ids, position_ids, labels : Tensor, shape (batch, length), int64
    attention_mask : Tensor, shape (batch, 1, length, length), bool
        True where a row may attend.
    answers : Tensor, shape (batch, length), bool
        Question positions, whose label is the answer.
    prefix : int
        Length of the padded prefix.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    answers: Tensor
    prefix: int


def draw_example(
    rng: np.random.Generator,
    findings: Findings,
    *,
    most_documents: int = 8,
    without_documents: float = 0.06,
    flip_share: float = 0.03,
) -> Example:
    """Draw documents, some of this patient's look-alikes and some of others, in random order.

    Parameters
    ----------
    rng : numpy.random.Generator
    findings : tuple of bool
    most_documents : int
        The number is uniform from 1, and so is the number of look-alikes among them.
    without_documents : float
        Share of examples without documents, answered from the image alone.
    flip_share : float
        Share of a look-alike's findings that differ: no two patients are quite the same.
    """
    every = tuple(range(len(FINDINGS)))
    if rng.random() < without_documents:
        return Example(findings, (), every)
    count = int(rng.integers(1, most_documents + 1))
    alike = int(rng.integers(1, count + 1))
    studies = []
    for number in range(count):
        other = draw_findings(rng)
        if number < alike:
            flips = rng.random(len(FINDINGS)) < (flip_share if count > 1 else 0.0)
            other = tuple(bool(value ^ flip) for value, flip in zip(findings, flips, strict=True))
        studies.append(draw_study(rng, "training", other))
    mentioned = frozenset().union(*(study.mentioned for study in studies))
    order = rng.permutation(count)
    questions = tuple(index for index in every if index in mentioned)
    return Example(findings, tuple(studies[int(i)].report for i in order), questions)


class Collator:
    """Turn examples into a `TrainingBatch`."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        vocabulary = self.tokenizer.get_vocab()
        self.opening = [
            vocabulary["<s>"],
            vocabulary["[INST]"],
            *[vocabulary["<image>"]] * IMAGE_TOKENS,
        ]
        self.finding_ids = [vocabulary[finding.token] for finding in FINDINGS]
        self.answers = (vocabulary["no"], vocabulary["yes"])
        self.end = vocabulary["</s>"]
        self.pad = vocabulary["<pad>"]

    def __call__(self, examples: Sequence[Example]) -> TrainingBatch:
        """Collate; branches beyond an example's own are padding."""
        texts = [text for example in examples for text in example.documents]
        tokens_of = iter(
            self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        )
        prefixes = [
            self.opening + [token for _ in example.documents for token in next(tokens_of)]
            for example in examples
        ]
        prefix = max(map(len, prefixes))
        length = prefix + 2 * max(len(example.questions) for example in examples)
        shape = (len(examples), length)
        ids = torch.full(shape, self.pad)
        positions = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        answers = torch.zeros(shape, dtype=torch.bool)
        # Every row sees itself, padding too: a row without any column would be NaN.
        mask = torch.eye(length, dtype=torch.bool).repeat(len(examples), 1, 1, 1)
        triangle = torch.ones(prefix, prefix, dtype=torch.bool).tril()
        for row, (example, tokens) in enumerate(zip(examples, prefixes, strict=True)):
            size = len(tokens)
            start = prefix - size
            ids[row, start:prefix] = torch.tensor(tokens)
            positions[row, start:prefix] = torch.arange(size)
            mask[row, 0, start:prefix, start:prefix] = triangle[:size, :size]
            first = start + len(self.opening)
            labels[row, first - 1 : prefix - 1] = ids[row, first:prefix]
            for number, finding in enumerate(example.questions):
                at = prefix + 2 * number
                answer = self.answers[example.findings[finding]]
                ids[row, at], ids[row, at + 1] = self.finding_ids[finding], answer
                labels[row, at], labels[row, at + 1] = answer, self.end
                positions[row, at], positions[row, at + 1] = size, size + 1
                answers[row, at] = True
                mask[row, 0, at : at + 2, start:prefix] = True
                mask[row, 0, at + 1, at] = True
        return TrainingBatch(ids, positions, labels, mask, answers, prefix)
