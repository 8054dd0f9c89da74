"""Symmetric InfoNCE, and its gradient for batches that do not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

KINDS = ("image", "text")


def info_nce(
    image: Tensor,
    text: Tensor,
    temperature: Tensor | float,
    alike: Tensor | None = None,
    *,
    right: Tensor | None = None,
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
    right : Tensor, shape (m, m), bool, optional
        Instead of the diagonal, what is right for each row: the probability of all of these
        together is what rises (MIL-NCE, Miech et al., 2020, Eq. 1). Symmetric.

    Returns
    -------
    Tensor, scalar
    """
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / temperature
    if alike is not None:
        own = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
        logits = logits.masked_fill(alike & ~own, float("-inf"))
    if right is not None:
        kept = logits.masked_fill(~right, float("-inf"))
        losses = [(logits.logsumexp(way) - kept.logsumexp(way)).mean() for way in (1, 0)]
        return (losses[0] + losses[1]) / 2
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
        value = loss(image.float(), text.float())
        torch.autograd.backward(value)
        return value.detach()
    leaves, places = [], []
    for kind, parts in zip(KINDS, chunks, strict=True):
        with torch.no_grad():
            vectors = torch.cat([encode(kind, i, part).float() for i, part in enumerate(parts)])
        everyone, place = gather(vectors) if gather else (vectors, slice(None))
        leaves.append(everyone.detach().requires_grad_())
        places.append(place)
    value = loss(*leaves)
    torch.autograd.backward(value)
    for kind, parts, leaf, place in zip(KINDS, chunks, leaves, places, strict=True):
        assert leaf.grad is not None
        own, start = leaf.grad[place], 0
        for i, part in enumerate(parts):
            again = encode(kind, i, part)
            gradient = own[start : start + len(again)].to(again.dtype)
            torch.autograd.backward(again, gradient)
            start += len(again)
    return value.detach()
