"""What SEKA and AdaSEKA learn: which directions of keys a relevant question brings out in a text.

The same document is read three times, behind the same image: without a question, behind a question
that found it (the positive), and behind another patient's (the negative). Only then do its keys
differ, since attention is causal; in use the question stands behind the documents, as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, PromptError
from mrrag_llamaindex.evaluation.methods.probing.asked import (
    LEAST,
    TrainingQuestion,
    inner_engine,
    training_questions,
)
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.steering.key_edit import projected
from mrrag_llamaindex.steering.policies.ada_seka import AdaSEKA, KeyExperts
from mrrag_llamaindex.steering.policies.seka import SEKA, KeyProjections

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.ranking import Ranking
    from mrrag_llamaindex.generation.engine import LlavaEngine

MOST = 200
"""Documents that are read three times each."""


def learn_seka(data: EmbeddedSet | None, engine: object, ranking: Ranking) -> tuple[SEKA, str]:
    """Learn SEKA's projections from each training question's best document.

    Parameters
    ----------
    data : EmbeddedSet or None
        Training questions.
    engine : Engine
    ranking : Ranking
        Finds their documents.

    Returns
    -------
    policy : SEKA
    note : str

    Raises
    ------
    InputError
        If the engine cannot be looked into, or too few questions have a document.
    """
    sums = _cross_covariances(inner_engine(engine), data, ranking)
    positive, negative = (torch.stack([one[which] for _, one in sums]).sum(0) for which in (0, 1))
    projections = KeyProjections(relevant(positive), irrelevant(negative))
    return SEKA(projections=projections), f"projections of keys from {len(sums)} documents"


def learn_ada_seka(
    data: EmbeddedSet | None, engine: object, ranking: Ranking
) -> tuple[AdaSEKA, str]:
    """Learn AdaSEKA's experts, one for each cluster of the training questions' text vectors.

    Parameters
    ----------
    data, engine, ranking
        As for `learn_seka`.

    Raises
    ------
    InputError
        As `learn_seka`.
    """
    from sklearn.cluster import KMeans

    sums = _cross_covariances(inner_engine(engine), data, ranking)
    assert data is not None
    vectors = data.q_texts[[row for row, _ in sums]]
    count = min(defaults.ADA_SEKA_EXPERTS, len(np.unique(vectors, axis=0)))
    clusters = KMeans(count, random_state=0, n_init=10).fit_predict(vectors)
    directions, strengths = [], []
    for cluster in range(count):
        own = [one[0] for (_, one), label in zip(sums, clusters, strict=True) if label == cluster]
        left, values, _ = torch.linalg.svd(torch.stack(own).mean(0))
        directions.append(left[..., : defaults.ADA_SEKA_DIRECTIONS])
        strengths.append(values[..., : defaults.ADA_SEKA_DIRECTIONS])
    experts = KeyExperts(torch.stack(directions), torch.stack(strengths))
    sizes = ", ".join(map(str, np.bincount(clusters).tolist()))
    return AdaSEKA(experts=experts), f"experts of keys from clusters of {sizes} questions"


def relevant(covariance: torch.Tensor, share: float = defaults.SEKA_SHARE) -> torch.Tensor:
    """Project onto the first left singular vectors that hold a share of all singular values.

    Parameters
    ----------
    covariance : torch.Tensor
        (..., dim, dim): ``H^T H+`` up to a factor.
    share : float

    Examples
    --------
    Of the values 6, 3 and 1 the first holds .6 and the first two .9:

    >>> covariance = torch.diag(torch.tensor([6.0, 3.0, 1.0]))
    >>> relevant(covariance, 0.7).diagonal().tolist()
    [1.0, 1.0, 0.0]
    >>> relevant(covariance, 0.5).diagonal().tolist()
    [1.0, 0.0, 0.0]
    """
    return _projection(covariance, share, first=True)


def irrelevant(covariance: torch.Tensor, share: float = defaults.SEKA_SHARE) -> torch.Tensor:
    """Project onto all other left singular vectors than `relevant` would, of ``H^T H-``.

    Parameters
    ----------
    covariance, share
        As for `relevant`.

    Examples
    --------
    >>> irrelevant(torch.diag(torch.tensor([6.0, 3.0, 1.0])), 0.7).diagonal().tolist()
    [0.0, 0.0, 1.0]
    """
    return _projection(covariance, share, first=False)


def _projection(covariance: torch.Tensor, share: float, *, first: bool) -> torch.Tensor:
    left, values, _ = torch.linalg.svd(covariance)
    held = values.cumsum(-1) / values.sum(-1, keepdim=True).clamp(min=1e-12)
    count = (held < share).sum(-1, keepdim=True) + 1
    inside = torch.arange(values.shape[-1]) < count
    chosen = left * (inside if first else ~inside)[..., None, :]
    product: torch.Tensor = chosen @ chosen.mT
    return product


Sums = list[tuple[int, tuple[torch.Tensor, torch.Tensor]]]
"""By question: its row, and ``H^T H+`` and ``H^T H-`` / tokens, (layers, key heads, dim, dim)."""


def _cross_covariances(engine: LlavaEngine, data: EmbeddedSet | None, ranking: Ranking) -> Sums:
    questions = list(training_questions(engine, data, ranking, MOST))
    sums: Sums = []
    for place, asked in enumerate(questions):
        other = _another(questions, place)
        if other is None:
            continue
        document = asked.documents[:1]
        requests = [
            PromptRequest(asked.item.question, document),
            PromptRequest(asked.item.question, document, asks_twice=True),
            PromptRequest(other, document, asks_twice=True),
        ]
        try:
            plain, positive, negative = _keys(engine, asked, requests)
        except PromptError:  # too long for the model, twice asked
            continue
        if plain.shape == positive.shape == negative.shape:
            tokens = plain.shape[2]
            across = [plain.mT @ keys / tokens for keys in (positive, negative)]
            sums.append((asked.row, (across[0], across[1])))
    if len(sums) < LEAST:
        raise InputError(
            f"{len(sums)} training questions have a document that the model can read behind two "
            f"questions; {LEAST} are needed"
        )
    return sums


def _another(questions: Sequence[TrainingQuestion], place: int) -> str | None:
    """Return the next question in other words, about another patient where that is known."""
    own = questions[place].item
    for offset in range(1, len(questions)):
        item = questions[(place + offset) % len(questions)].item
        if item.question != own.question and (
            item.patient_id is None or item.patient_id != own.patient_id
        ):
            return item.question
    return None


def _keys(
    engine: LlavaEngine, asked: TrainingQuestion, requests: Sequence[PromptRequest]
) -> list[torch.Tensor]:
    """Return each document's keys, float64 (layers, key heads, tokens, dim)."""
    prompts = [engine.prompt(request, asked.image) for request in requests]
    layers = range(engine.planner.depth)
    with projected(engine.model, layers, "key") as seen:
        engine.runner.logits([one.input_ids for one in prompts], [asked.image] * len(prompts))
    longest = max(len(one.input_ids) for one in prompts)
    found = []
    for row, one in enumerate(prompts):
        pad = longest - len(one.input_ids)
        start, stop = (pad + end for end in one.document_spans[0])
        keys = [seen[layer][row, start:stop].transpose(0, 1) for layer in layers]
        found.append(torch.stack(keys).double().cpu())
    return found
