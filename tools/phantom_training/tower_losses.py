"""What the phantom's towers are trained on, besides the match of an image and its own report."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.studies import PhantomStudy

LOOKS, LOOKS_SHARE = 12, 0.8
"""Dimensions of an image vector that keep what the picture looks like, and the share of its
squared length that they are to have; see `Looks`."""


class Truth(nn.Module):
    """Linear heads that read the findings off both embeddings; dropped after training."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.image = nn.Linear(dimension, len(FINDINGS))
        self.text = nn.Linear(dimension, 2 * len(FINDINGS))

    def of_images(self, features: Tensor, studies: list[PhantomStudy]) -> Tensor:
        """Cross entropy of the findings, read off image features."""
        truth = torch.tensor([study.findings for study in studies])
        return F.binary_cross_entropy_with_logits(self.image(features), truth.float())

    def of_texts(self, features: Tensor, studies: list[PhantomStudy]) -> Tensor:
        """Cross entropy of findings affirmed and denied, read off text features."""
        truth = torch.tensor([study.findings for study in studies])
        every = range(len(FINDINGS))
        spoken = torch.tensor([[index in study.mentioned for index in every] for study in studies])
        said = torch.cat([spoken & truth, spoken & ~truth], dim=1)
        return F.binary_cross_entropy_with_logits(self.text(features), said.float())


class Relevance(nn.Module):
    """The pairwise sigmoid loss of SigLIP (Zhai et al., 2023); scale and bias are dropped later.

    A softmax is content as soon as the reports that mention the finding hold the largest share:
    it brings one of them to the top and leaves the others mixed with those that are silent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, similarity: Tensor, relevant: Tensor) -> Tensor:
        """Mean binary cross entropy over all pairs of a question and a report."""
        logits = similarity * self.log_scale.exp() + self.bias
        return F.binary_cross_entropy_with_logits(logits, relevant.float())


class Looks:
    """Keep in the image vectors what pictures look like, whatever they show.

    An image encoder that was trained on pictures calls two of them alike for their exposure,
    position and devices, too; training with reports alone would leave nothing of that, and
    image-image similarity would be a cleaner judge of alikeness than it ever is. The first
    dimensions of an image vector are to be the whitened principal components of a thumbnail.
    """

    def __init__(self, pixels: Tensor) -> None:
        thumbnails = F.adaptive_avg_pool2d(pixels[:, :1], 6).flatten(1)
        centred = thumbnails - thumbnails.mean(dim=0)
        axes = torch.linalg.svd(centred, full_matrices=False)[2][:LOOKS]
        components = centred @ axes.T
        self.target = LOOKS_SHARE**0.5 * F.normalize(components / components.std(dim=0), dim=1)

    def __call__(self, images: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Mean squared distance to what the pictures of those numbers look like."""
        target = self.target[torch.from_numpy(rows)]
        distance: Tensor = (images[:, :LOOKS] - target).square().sum(dim=1).mean()
        return distance


def say_the_same(kinds: list[tuple[tuple[bool, ...], frozenset[int]]]) -> Tensor:
    """Pairs whose reports say the same, shape (batch, batch), bool."""
    said = [tuple((i, known[i]) for i in sorted(mentioned)) for known, mentioned in kinds]
    return torch.tensor([[one == other for other in said] for one in said])


def info_nce(logits: Tensor, positive: Tensor) -> Tensor:
    """Mean over rows of -log of the share of all positives, rows without one left out."""
    kept = positive.any(dim=1)
    inside = logits.masked_fill(~positive, float("-inf"))[kept].logsumexp(dim=1)
    return (logits[kept].logsumexp(dim=1) - inside).mean()
