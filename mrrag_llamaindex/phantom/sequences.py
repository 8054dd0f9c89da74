"""Training sequences for the phantom generator: one prefix, eight questions in parallel.

Each row is `<s> [INST] image documents` followed by one block per finding, `question [/INST]
answer </s>`. A block sees the prefix and itself, never another block, and all blocks take the
same positions. So every question is asked alone, as at inference: with questions in a row,
the true earlier answers would tell the model which documents to believe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.model import IMAGE_TOKENS
from mrrag_llamaindex.phantom.studies import make_findings
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
from mrrag_llamaindex.phantom.wording import write_report

BLOCK = 4
"""Tokens of a question block: finding, [/INST], answer, </s>."""

IGNORED = -100


@dataclass(frozen=True)
class Mixture:
    """What a training batch is made of.

    Attributes
    ----------
    documents : tuple of int
        Fewest and most documents per row.
    mentioned : tuple of int
        Fewest and most findings per document.
    without_documents : float
        Share of rows that have no document.
    without_image : float
        Share of rows that have no image.
    relevant : tuple of float
        Range of the probability that a document is of the asked patient; drawn per row.
    errors : float
        Share of relevant statements whose polarity is wrong, so that no single one is law.
    blind_end : float
        Share of rows whose `[/INST]` and answer see the question but nothing before it. In
        those the question's own tokens must gather the evidence, which is where IFA acts.
    """

    documents: tuple[int, int] = (1, 8)
    mentioned: tuple[int, int] = (2, 8)
    without_documents: float = 0.08
    without_image: float = 0.1
    relevant: tuple[float, float] = (0.2, 1.0)
    errors: float = 0.02
    blind_end: float = 0.5

    def __post_init__(self) -> None:
        for low, high in (self.documents, self.mentioned, self.relevant):
            if not 0 <= low <= high:
                raise ValueError("a range of the mixture is empty")
        if self.documents[0] < 1 or not 1 <= self.mentioned[0] <= self.mentioned[1] <= 8:
            raise ValueError("at least one document with 1 to 8 findings is needed")


@dataclass(frozen=True)
class Batch:
    """Tensors of one step; B rows, T tokens, F findings.

    Attributes
    ----------
    input_ids, labels, position_ids : torch.Tensor
        (B, T) int64. `labels` holds the next token's target at its own index, -100 for none.
    weights : torch.Tensor
        (B, T) float32, weight of each label in the loss.
    visible : torch.Tensor
        (B, 1, T, T) bool, True where row i may attend to column j.
    images : torch.Tensor
        (B,) int64 index of each row's image in the pool, -1 for none.
    answer_at : torch.Tensor
        (F,) int64 column of each block's `[/INST]`.
    truth : torch.Tensor
        (B, F) bool.
    readable : torch.Tensor
        (B, F) bool, True where a document of this patient mentions the finding.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    weights: Tensor
    visible: Tensor
    images: Tensor
    answer_at: Tensor
    truth: Tensor
    readable: Tensor


class SequenceMaker:
    """Make batches from a seed; one instance per training run."""

    def __init__(self, seed: int, pool: list[tuple[bool, ...]] | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.pool = pool
        self.tokenizer = build_tokenizer()
        ids = self.tokenizer.convert_tokens_to_ids
        self.finding_ids = [ids(f.token) for f in FINDINGS]
        self.yes, self.no = ids("yes"), ids("no")
        self.inst, self.end_inst = ids("[INST]"), ids("[/INST]")
        self.image, self.eos, self.bos = ids("<image>"), ids("</s>"), ids("<s>")
        self.pad = ids("<pad>")

    def _documents(self, findings: tuple[bool, ...], mixture: Mixture) -> tuple[list[str], set[int]]:
        rng = self.rng
        if rng.random() < mixture.without_documents:
            return [], set()
        count = int(rng.integers(mixture.documents[0], mixture.documents[1] + 1))
        share = rng.uniform(*mixture.relevant)
        texts, readable = [], set()
        for _ in range(count):
            relevant = bool(rng.random() < share)
            truth = findings if relevant else make_findings(rng)
            number = int(rng.integers(mixture.mentioned[0], mixture.mentioned[1] + 1))
            mentioned = [int(i) for i in rng.choice(len(FINDINGS), size=number, replace=False)]
            if relevant:
                readable.update(mentioned)
                flips = rng.random(len(FINDINGS)) < mixture.errors
                truth = tuple(bool(t) != bool(f) for t, f in zip(truth, flips, strict=True))
            texts.append(write_report(rng, truth, mentioned))
        return texts, readable

    def batch(self, rows: int, mixture: Mixture) -> Batch:
        """Make one batch of `rows` rows; with an image pool each row is a patient of the pool."""
        rng, count = self.rng, len(FINDINGS)
        prefixes, truths, readable, images = [], [], [], []
        texts: list[str] = []
        shape: list[int] = []
        for _ in range(rows):
            use_image = self.pool is not None and rng.random() >= mixture.without_image
            index = int(rng.integers(len(self.pool))) if self.pool is not None else -1
            findings = self.pool[index] if self.pool is not None else make_findings(rng)
            documents, read = self._documents(findings, mixture)
            texts.append("\n".join(documents))
            shape.append(IMAGE_TOKENS if use_image else 0)
            truths.append(findings)
            readable.append([i in read for i in range(count)])
            images.append(index if use_image else -1)
        encoded = self.tokenizer(texts, add_special_tokens=False).input_ids
        for number, ids in zip(shape, encoded, strict=True):
            prefixes.append([self.bos, self.inst] + [self.image] * number + ids)
        return self._pack(prefixes, truths, readable, images, mixture)

    def _pack(
        self,
        prefixes: list[list[int]],
        truths: list[tuple[bool, ...]],
        readable: list[list[bool]],
        images: list[int],
        mixture: Mixture,
    ) -> Batch:
        rows, count = len(prefixes), len(FINDINGS)
        longest = max(map(len, prefixes))
        total = longest + count * BLOCK
        ids = torch.full((rows, total), self.pad)
        labels = torch.full((rows, total), IGNORED)
        weights = torch.zeros(rows, total)
        positions = torch.zeros(rows, total, dtype=torch.long)
        visible = torch.ones(total, total, dtype=torch.bool).tril().repeat(rows, 1, 1)
        block_of = torch.arange(count * BLOCK) // BLOCK
        same = block_of[:, None] == block_of[None, :]
        visible[:, longest:, longest:] &= same
        starts = longest + BLOCK * torch.arange(count)
        truth = torch.tensor(truths)
        known = torch.tensor(readable)
        blind = torch.from_numpy(self.rng.random(rows) < mixture.blind_end)
        for row, prefix in enumerate(prefixes):
            length = len(prefix)
            ids[row, :length] = torch.tensor(prefix)
            positions[row, :length] = torch.arange(length)
            positions[row, longest:] = length + torch.arange(count * BLOCK) % BLOCK
            visible[row, longest:, length:longest] = False
            head = 2 + (IMAGE_TOKENS if images[row] >= 0 else 0)
            labels[row, head : length - 1] = ids[row, head + 1 : length]
            weights[row, head : length - 1] = 0.05 / max(length - head - 1, 1)
            if blind[row]:
                for offset in range(1, BLOCK):
                    visible[row, starts + offset, 2:length] = False
        answers = torch.where(truth, self.yes, self.no)
        ids[:, starts] = torch.tensor(self.finding_ids)
        ids[:, starts + 1] = self.end_inst
        ids[:, starts + 2] = answers
        ids[:, starts + 3] = self.eos
        labels[:, starts] = answers
        labels[:, starts + 1] = answers
        labels[:, starts + 2] = self.eos
        weights[:, starts] = 0.5 / count
        weights[:, starts + 1] = 1.0 / count
        weights[:, starts + 2] = 0.1 / count
        return Batch(
            ids, labels, positions, weights, visible[:, None], torch.tensor(images), starts + 1,
            truth, known,
        )
