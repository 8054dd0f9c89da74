"""Where the question's attention to the documents goes: to each of them, as a share of it.

What counts is defined once, here. ``A`` is the attention after steering, mask and softmax of one
layer and head, ``Q`` the rows of the question's own text, ``D_k`` the columns of document `k`:

    mass(layer, k) = mean over heads, mean over i in Q, of  sum over j in D_k of  A_ij
    share(k)       = sum over layers of mass(layer, k) / sum over layers and documents of mass

Shares are of the attention that goes to documents at all, so they sum to 1; what the question
gives to the image, to the template and to itself is left out. The same with the prompt's last row
in place of ``Q`` (the row that predicts the answer) is kept beside it: a policy steers the first,
the answer is read off the second.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

ROWS = ("question", "answer")
"""Which rows: those of the question, and the last row of the prompt."""

Masses = NDArray[np.float64]
Shares = NDArray[np.float64]


def document_masses(
    attentions: Sequence[torch.Tensor],
    documents: Sequence[Sequence[tuple[int, int]]],
    questions: Sequence[tuple[int, int]],
) -> Masses:
    """Sum attention over each document's columns.

    Parameters
    ----------
    attentions
        One tensor per layer, (batch, heads, rows, columns), after softmax; the last row is the
        last of the prompt. The first rows may have been left out (a prefix prefilled before).
    documents
        For each row of the batch, the (start, stop) columns of every document, padding included;
        the same number of documents in each.
    questions
        For each row of the batch, (start, stop) of the question, counted in columns, too.

    Returns
    -------
    ndarray
        Shape (batch, 2, layers, documents), float64: mean over heads; first the mean over the
        question's rows, then the last row. See `ROWS`.
    """
    columns, device = attentions[0].shape[-1], attentions[0].device
    offset = columns - attentions[0].shape[-2]
    count = len(documents[0])
    at = torch.arange(columns)
    starts, stops = torch.tensor(documents, dtype=torch.long).reshape(-1, 1, count, 2).unbind(-1)
    member = ((starts <= at[:, None]) & (at[:, None] < stops)).float().to(device)
    masses = np.zeros((len(documents), len(ROWS), len(attentions), count))
    for layer, attention in enumerate(attentions):
        to_documents = (attention.float().mean(dim=1) @ member).double().cpu().numpy()
        masses[:, 1, layer] = to_documents[:, -1]
        for row, (start, stop) in enumerate(questions):
            masses[row, 0, layer] = to_documents[row, start - offset : stop - offset].mean(axis=0)
    return masses


def document_shares(masses: Masses, layers: Collection[int], rows: str = "question") -> Shares:
    """Return each document's share of the attention that goes to documents.

    Parameters
    ----------
    masses
        Shape (n, 2, layers, documents), see `document_masses`.
    layers
        Which layers to sum over.
    rows
        One of `ROWS`.

    Returns
    -------
    ndarray
        Shape (n, documents); rows sum to 1, or are NaN where no document gets any attention.
    """
    if rows not in ROWS:
        raise ValueError(f"rows is {rows!r}; there are: {', '.join(ROWS)}")
    of_layers = masses[:, ROWS.index(rows), sorted(layers), :].sum(axis=1)
    total = of_layers.sum(axis=1, keepdims=True)
    shares: Shares = np.full_like(of_layers, np.nan)
    np.divide(of_layers, total, out=shares, where=total > 0)
    return shares


def noise_share(shares: Shares, irrelevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share that goes to irrelevant documents, shape (n,).

    Parameters
    ----------
    shares
        Shape (n, documents), of `document_shares`.
    irrelevant
        Shape (n, documents): which of them are.

    Examples
    --------
    >>> noise_share(np.array([[0.2, 0.3, 0.5]]), np.array([[True, False, True]])).tolist()
    [0.7]
    """
    shares_of_noise: NDArray[np.float64] = np.where(irrelevant, shares, 0.0).sum(axis=1)
    shares_of_noise[np.isnan(shares).any(axis=1)] = np.nan
    return shares_of_noise
