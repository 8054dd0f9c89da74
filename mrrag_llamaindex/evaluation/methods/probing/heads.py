"""What ITI learns: which heads tell right answers from wrong ones, and in which direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.methods.probing.asked import (
    LEAST,
    batches,
    inner_engine,
    readable_prompts,
)
from mrrag_llamaindex.generation.influence.teacher_forcing import teacher_forced
from mrrag_llamaindex.mcr.vote import YES_NO
from mrrag_llamaindex.statistics.patients import split_by_patient
from mrrag_llamaindex.steering.key_edit import head_outputs
from mrrag_llamaindex.steering.policies.iti import ITI, HeadDirections

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.ranking import Ranking

MOST = 400
"""Questions, each answered once with yes and once with no."""

_HELD_OUT = 0.2


def learn_iti(data: EmbeddedSet | None, engine: object, ranking: Ranking) -> tuple[ITI, str]:
    """Learn ITI's directions: the training questions with their documents, answered yes and no.

    The output of every head is taken at the last token of the answer. A logistic probe of each is
    fitted on four fifths of the patients, and its accuracy on the others ranks the heads.

    Parameters
    ----------
    data : EmbeddedSet or None
        Training questions with labels yes and no.
    engine : Engine
    ranking : Ranking
        Finds their documents.

    Returns
    -------
    policy : ITI
    note : str

    Raises
    ------
    InputError
        If the engine cannot be looked into, answers are not yes and no, or questions are too few.
    """
    inner = inner_engine(engine)
    rows, images, right, owners = [], [], [], []
    for asked, prompt in readable_prompts(inner, data, ranking, MOST):
        for answer in YES_NO:
            rows.append(teacher_forced(inner, prompt, answer).ids)
            images.append(asked.image)
            right.append(answer == asked.gold)
            owners.append(asked.patient)
    if len(rows) < 2 * LEAST or len(set(owners)) < 3:
        raise InputError(
            f"{len(rows) // 2} training questions of {len(set(owners))} patients can be read; "
            f"{LEAST} of 3 are needed"
        )
    found = []
    for places in batches(len(rows), inner.batch_size):
        with head_outputs(inner.model) as seen:
            inner.runner.logits([rows[n] for n in places], [images[n] for n in places])
        # Padding stands on the left, so that the last row is every answer's last token.
        found.append(torch.stack([seen[n][:, -1] for n in sorted(seen)], dim=1).float().cpu())
    directions = directions_of(torch.cat(found).numpy(), np.array(right), owners)
    best = directions.best(1)[0]
    return ITI(directions=directions), (
        f"directions of {directions.count} heads from {len(rows) // 2} questions answered yes and "
        f"no; the best probe (layer {best[0]}, head {best[1]}) tells right from wrong in "
        f"{float(directions['accuracy'][best]):.0%}"
    )


def directions_of(
    outputs: NDArray[np.float32], right: NDArray[np.bool_], owners: list[str]
) -> HeadDirections:
    """Return sigma times theta of every head, and the accuracy of its probe.

    Parameters
    ----------
    outputs : ndarray, shape (answers, layers, heads, dim)
    right : ndarray of bool, shape (answers,)
    owners : list of str
        The patient of each answer: probes are fitted on some and judged on others.

    Examples
    --------
    One head that knows and one that does not. Means differ by (2, 0), and along that unit vector
    the outputs 1, 1, -1, -1, ... have standard deviation 1:

    >>> known = np.array([[1.0, 0.5], [-1.0, 0.5]] * 6)
    >>> outputs = np.stack([known, np.ones_like(known)], axis=1)[:, None].astype(np.float32)
    >>> found = directions_of(outputs, np.array([True, False] * 6), list("aabbccddeeff"))
    >>> found["shifts"][0].tolist(), found.best(1)
    ([[1.0, 0.0], [0.0, 0.0]], [(0, 0)])
    """
    from sklearn.linear_model import LogisticRegression

    learn, check = split_by_patient(owners, _HELD_OUT, 0)
    layers, heads, dim = outputs.shape[1:]
    shifts = np.zeros((layers, heads, dim), dtype=np.float32)
    accuracy = np.zeros((layers, heads), dtype=np.float32)
    for layer in range(layers):
        for head in range(heads):
            own = outputs[:, layer, head].astype(np.float64)
            probe = LogisticRegression(max_iter=1000).fit(own[learn], right[learn])
            accuracy[layer, head] = probe.score(own[check], right[check])
            direction = own[right].mean(0) - own[~right].mean(0)
            length = np.linalg.norm(direction)
            if length > 0:
                unit = direction / length
                shifts[layer, head] = np.std(own @ unit) * unit
    return HeadDirections(torch.from_numpy(shifts), torch.from_numpy(accuracy))
