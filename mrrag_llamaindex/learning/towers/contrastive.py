"""Symmetric InfoNCE, and its gradient for batches that do not fit into memory at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead

KINDS = ("image", "text")


def info_nce(
    image: Tensor, text: Tensor, temperature: Tensor | float, alike: Tensor | None = None
) -> Tensor:
    """Mean of the image-to-report and the report-to-image InfoNCE (Radford et al., 2021, Fig. 3).

    Parameters
    ----------
    image, text : Tensor, shape (m, n)
        Row i of each belongs to pair i. Any length; normalised here.
    temperature : Tensor, scalar, or float
        tau.
    alike : Tensor, shape (m, m), bool, optional
        Pairs whose reports say the same; they are not negatives of each other. The diagonal is
        not read.

    Returns
    -------
    Tensor, scalar
    """
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / temperature
    if alike is not None:
        own = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
        logits = logits.masked_fill(alike & ~own, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def backward_in_chunks(
    encode: Callable[[str, int, Any], Tensor],
    chunks: tuple[Sequence[Any], Sequence[Any]],
    loss: Callable[[Tensor, Tensor], Tensor],
    gather: Callable[[Tensor], tuple[Tensor, slice]] | None = None,
) -> Tensor:
    """Add the gradient of a whole batch to the parameters, holding the graph of one chunk.

    The gradient cache of Gao et al. (2021, arXiv 2101.06983): all vectors without a graph, the
    gradient of the loss for them, then each chunk again with a graph, into which its part of that
    gradient is fed. It equals the plain gradient where a row's vector does not depend on the
    other rows of its chunk; batch norm in training mode is the exception.

    Parameters
    ----------
    encode : callable
        ``(kind, number of the chunk, chunk) -> Tensor, shape (rows, n)``, kind one of `KINDS`.
        It is called twice for a chunk and must give the same vectors both times, dropout
        included.
    chunks : two sequences
        Of images and of texts; all rows of this process, in the same order.
    loss : callable
        Of all image and all text vectors, a scalar. Gradients of its own parameters (the
        temperature) are added as well.
    gather : callable, optional
        From the vectors of this process, shape (rows, n), to those of all and this process' place
        among them. The gradients of the encoders are then this process' share: their sum over
        all processes is that of the whole batch. Those of the loss' own parameters are whole.

    Returns
    -------
    Tensor, scalar
        The loss, detached.
    """
    if gather is None and all(len(parts) == 1 for parts in chunks):
        image, text = (encode(kind, 0, parts[0]) for kind, parts in zip(KINDS, chunks, strict=True))
        whole = loss(image.float(), text.float())
        whole.backward()
        return whole.detach()
    leaves, places = [], []
    for kind, parts in zip(KINDS, chunks, strict=True):
        with torch.no_grad():
            vectors = torch.cat([encode(kind, i, part).float() for i, part in enumerate(parts)])
        everyone, place = gather(vectors) if gather else (vectors, slice(None))
        leaves.append(everyone.detach().requires_grad_())
        places.append(place)
    value = loss(*leaves)
    value.backward()
    for kind, parts, leaf, place in zip(KINDS, chunks, leaves, places, strict=True):
        assert leaf.grad is not None
        own, start = leaf.grad[place], 0
        for i, part in enumerate(parts):
            again = encode(kind, i, part)
            gradient = own[start : start + len(again)].to(again.dtype)
            torch.autograd.backward(again, gradient)
            start += len(again)
    return value.detach()


@dataclass(frozen=True)
class HeadTraining:
    """How two heads are trained.

    Attributes
    ----------
    dimension : int
        n, of the common space.
    hidden : int or None
        Width of a hidden layer; None for linear heads.
    temperature : float
        tau of InfoNCE. Higher than for training whole encoders: on a few hundred pairs .07 is so
        sure of the training pairs that validation is best after one epoch, with heads that have
        hardly learnt anything.
    learning_rate, weight_decay : float
        Of AdamW.
    dropout : float
        Of the standardised features: there are more features than pairs.
    batch_size : int
        Pairs whose reports are each other's negatives; fewer pairs than this are one batch.
    max_epochs : int
        Passes over the training pairs at most.
    patience : int
        Epochs without a better validation loss after which training ends; the best is kept.
    validation_fraction : float
        Share of the groups that is held out for that; 0 trains for all of ``max_epochs``.
    seed : int
        Of the split, the fresh heads, the batches and the dropout.
    """

    dimension: int = 128
    hidden: int | None = None
    temperature: float = defaults.HEAD_TEMPERATURE
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.5
    batch_size: int = 256
    max_epochs: int = 200
    patience: int = 20
    validation_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one = ("dimension", "max_epochs", "patience")
        if any(getattr(self, name) < 1 for name in at_least_one) or (
            self.hidden is not None and self.hidden < 1
        ):
            raise ValueError(f"{', '.join(at_least_one)} and hidden must be at least 1")
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2: one pair has no negatives")
        if self.temperature <= 0 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError("temperature and learning_rate must be positive, weight_decay not < 0")
        if not (0 <= self.dropout < 1 and 0 <= self.validation_fraction < 1):
            raise ValueError("dropout and validation_fraction must be in [0, 1)")


def symmetric_info_nce(
    image: Tensor, text: Tensor, temperature: float, reports: Tensor | None = None
) -> Tensor:
    """Mean of the image-to-report and the report-to-image InfoNCE (Radford et al., 2021, Fig. 3).

    Parameters
    ----------
    image, text : Tensor, shape (m, n)
        Row i of each belongs to pair i. Any length; normalised here.
    temperature : float
        tau.
    reports : Tensor, shape (m,), int64, optional
        Pairs with the same number have the same report; they are not negatives of each other.

    Returns
    -------
    Tensor, scalar
    """
    alike = None if reports is None else reports[:, None] == reports[None, :]
    return info_nce(image, text, temperature, alike)


def fit_heads(
    image_features: Tensor,
    text_features: Tensor,
    groups: Sequence[str],
    reports: Sequence[str],
    training: HeadTraining | None = None,
) -> FittedHeads:
    """Fit an image head and a text head so that pairs meet in one space.

    Parameters
    ----------
    image_features : Tensor, shape (m, d_i), float32
    text_features : Tensor, shape (m, d_t), float32
    groups : sequence of str, length m
        Patient of each pair: no patient is in both parts of the split.
    reports : sequence of str, length m
        Equal reports (but for blanks and case) are not negatives of each other.
    training : HeadTraining, optional

    Returns
    -------
    FittedHeads
        The same for the same input and seed on one machine.

    Raises
    ------
    InputError
        If lengths differ, a feature is not finite, or there are too few groups or different
        reports to train and to validate on.
    """
    how = training or HeadTraining()
    count = len(image_features)
    if not count == len(text_features) == len(groups) == len(reports):
        raise InputError("image features, text features, groups and reports differ in length")
    if not (torch.isfinite(image_features).all() and torch.isfinite(text_features).all()):
        raise InputError("some of the features are not finite numbers")
    numbers = _numbered(reports)
    train, held = _split(groups, how)
    for part in [train, held] if how.validation_fraction else [train]:
        if len(set(numbers[part].tolist())) < 2:
            raise InputError(
                f"{count} pairs of {len(set(groups))} patients are too few: the training and the "
                "validation part each need two different reports"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        image, text = (
            ProjectionHead(features.shape[1], how.dimension, how.hidden, how.dropout)
            for features in (image_features, text_features)
        )
        heads = nn.ModuleDict({"image": image, "text": text})
        image.standardise(image_features[train])
        text.standardise(text_features[train])
        record = _train(heads, (image_features, text_features, numbers), train, held, how)
    heads.eval().requires_grad_(False)
    return FittedHeads(image, text, record)


def _train(
    heads: nn.ModuleDict,
    data: tuple[Tensor, Tensor, Tensor],
    train: Tensor,
    held: Tensor,
    how: HeadTraining,
) -> dict[str, Any]:
    def loss_of(rows: Tensor) -> Tensor:
        image, text = heads["image"](data[0][rows]), heads["text"](data[1][rows])
        return symmetric_info_nce(image, text, how.temperature, data[2][rows])

    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
    )
    best: dict[str, Any] = {"best_epoch": 0, "validation_loss": None}
    kept = copy.deepcopy(heads.state_dict())
    epoch = 0
    for epoch in range(1, how.max_epochs + 1):
        heads.train()
        shuffled = train[torch.randperm(len(train))]
        # Batches of like size: a last batch of a few pairs would have hardly any negatives.
        parts = -(-len(shuffled) // how.batch_size)
        losses = []
        for rows in shuffled.tensor_split(parts):
            optimizer.zero_grad()
            loss = loss_of(rows)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        heads.eval()
        value = None
        if len(held):
            with torch.no_grad():
                value = loss_of(held).item()
        earlier = best["validation_loss"]
        if value is None or earlier is None or value < earlier:
            best = {
                "best_epoch": epoch,
                "train_loss": sum(losses) / len(losses),
                "validation_loss": value,
            }
            kept = copy.deepcopy(heads.state_dict()) if value is not None else heads.state_dict()
        elif epoch - best["best_epoch"] >= how.patience:
            break
    heads.load_state_dict(kept)
    return {"epochs": epoch, **best, "train_pairs": len(train), "validation_pairs": len(held)}


def _numbered(reports: Sequence[str]) -> Tensor:
    known: dict[str, int] = {}
    plain = (" ".join(report.split()).casefold() for report in reports)
    return torch.tensor([known.setdefault(report, len(known)) for report in plain])


def _split(groups: Sequence[str], how: HeadTraining) -> tuple[Tensor, Tensor]:
    names = sorted(set(groups))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(how.seed))
    held_count = round(how.validation_fraction * len(names))
    held_names = {names[index] for index in order[:held_count].tolist()}
    held = [index for index, group in enumerate(groups) if group in held_names]
    train = [index for index, group in enumerate(groups) if group not in held_names]
    return torch.tensor(train, dtype=torch.int64), torch.tensor(held, dtype=torch.int64)
