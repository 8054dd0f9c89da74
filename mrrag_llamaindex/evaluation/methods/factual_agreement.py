"""FactMM-RAG's retrieval by factual agreement: a map of frozen vectors learned from findings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.data.findings import FindingLabels
from mrrag_llamaindex.evaluation.methods.ranking import check_count
from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.statistics.patients import split_by_patient

Facts = Mapping[str, Mapping[str, bool]]
_VALIDATION = 0.2


@dataclass(frozen=True)
class AgreementSettings:
    """How positives are mined and the map is learned.

    Parameters
    ----------
    threshold : float
        Least agreement of a positive. FactMM-RAG's is 1.0 for CheXbert labels.
    least_shared : int
        Labels that both reports must know: two reports that speak of nothing in common agree
        about nothing, and two that share one label agree half of the time by chance. FactMM-RAG has
        no such rule because CheXbert fills in every label; ours.
    positives : int
        Most positives of one pair, those with most labels in common first (FactMM-RAG: 3).
    temperature : float
        tau of InfoNCE.
    learning_rate, weight_decay : float
        Of Adam; the decay pulls towards the identity, i.e. the towers as they are.
    epochs, patience : int
        Steps over all pairs, and steps without a better validation loss before it stops.
    most_pairs : int
        At most this many pairs, drawn by the seed: a step scores all pairs against all.
    seed : int
    """

    threshold: float = 1.0
    least_shared: int = 2
    positives: int = 3
    temperature: float = defaults.TEMPERATURE
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    epochs: int = 200
    patience: int = 20
    most_pairs: int = 6000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold!r}; it must be in (0, 1]")
        counts = self.least_shared, self.positives, self.epochs, self.patience, self.most_pairs
        if min(counts) < 1:
            raise ValueError(
                "least_shared, positives, epochs, patience and most_pairs must be at least 1"
            )
        if min(self.temperature, self.learning_rate) <= 0 or self.weight_decay < 0:
            raise ValueError(
                "temperature and learning_rate must be positive, the decay not below 0"
            )


@dataclass(frozen=True, eq=False)
class FactualAgreement:
    """The top reports by a score learned from factual agreement (FactMM-RAG, Sun et al., 2024).

    ``f(q, d) = <A q_i, d_i> + <B q_i, d_t>``. FactMM-RAG fine-tunes a multimodal encoder whose
    query is the image and whose document is image with report; over frozen vectors that leaves
    two linear maps. It gives the model one report; so does the default.

    Attributes
    ----------
    image_map, text_map : ndarray, shape (n, n), float32
        A and B.
    k : int
    pairs : int
        Training pairs that had a positive.
    digest : str
        12 hex digits of both maps, in whose place they stand in what names this ranking.
    """

    image_map: NDArray[np.float32] = field(repr=False)
    text_map: NDArray[np.float32] = field(repr=False)
    k: int = 1
    pairs: int = 0
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        check_count(self.k)
        digest = hashlib.sha256(self.image_map.tobytes() + self.text_map.tobytes())
        object.__setattr__(self, "digest", digest.hexdigest()[:12])

    @property
    def note(self) -> str:
        """What it was learned from, in words."""
        return f"map learned from {self.pairs} pairs whose labels agree"

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the k best."""
        blocks = data.blocks
        q_image = data.q_images[row][: blocks.head]
        query = np.zeros(blocks.length, dtype=np.float32)
        image, text = blocks.split(query)  # views of it
        image[: blocks.head] = self.image_map @ q_image
        text[: blocks.head] = self.text_map @ q_image
        return data.top(row, query, self.k)


def agreeing_pairs(
    pair_ids: Sequence[str],
    patients: Sequence[str | None],
    facts: Facts,
    settings: AgreementSettings,
) -> dict[int, tuple[int, ...]]:
    """Return, by place, the places of each pair's positives: other patients, agreeing labels.

    Agreement is the share of equal labels among those that both reports know. A pair without
    labels, or of unknown patient, is neither anchor nor positive: nothing says that two pairs of
    unknown patients are of two patients.
    """
    values = FindingLabels.of(pair_ids, facts).values.astype(float)
    people = np.array([name or "" for name in patients], dtype=object)
    known = np.abs(values)
    positives = {}
    for place in range(len(pair_ids)):
        if not people[place]:
            continue
        shared = known @ known[place]
        equal = (shared + values @ values[place]) / 2
        agrees = (shared >= settings.least_shared) & (people != people[place]) & (people != "")
        agrees &= equal >= settings.threshold * shared - 1e-9
        order = np.argsort(-shared, kind="stable")
        best = order[agrees[order]][: settings.positives]
        if len(best):
            positives[place] = tuple(best.tolist())
    return positives


def learn_agreement(
    data: EmbeddedSet, settings: AgreementSettings | None = None, *, k: int = 1
) -> FactualAgreement:
    """Learn the two maps by InfoNCE over the pairs of a set; its questions are not looked at.

    ``L = -log( sum over positives exp(f / tau) / sum over all other patients exp(f / tau) )``,
    mean over the pairs that have a positive. A fifth of the patients decides when to stop.

    Raises
    ------
    InputError
        If no finding labels are known, or no two patients' labels agree.
    """
    import torch

    settings = settings or AgreementSettings()
    if not data.facts:
        raise InputError(
            "no finding labels are known for the pairs, so nothing says which reports agree; give "
            "a table of them (pair_id and one column for each finding)"
        )
    data = data.sample_pairs(settings.most_pairs, settings.seed)
    positives = agreeing_pairs(data.pair_ids, data.patients, data.facts, settings)
    if not positives:
        raise InputError(
            f"no two patients' finding labels agree (at least {settings.least_shared} labels in "
            f"common, {settings.threshold:.0%} of them equal)"
        )
    anchors = list(positives)
    owners = [str(data.patients[place]) for place in anchors]
    learn, check = split_by_patient(owners, _VALIDATION, settings.seed)
    blocks = data.blocks
    n = blocks.head  # the retriever is trained in the common space alone
    images, texts = (torch.from_numpy(half[:, :n]) for half in blocks.split(data.documents))
    people = np.array([name or "" for name in data.patients], dtype=object)
    same = torch.from_numpy((people[anchors][:, None] == people[None]).astype(bool))
    right = torch.zeros_like(same)
    for row, place in enumerate(anchors):
        right[row, list(positives[place])] = True
    start = torch.stack([torch.eye(n), torch.eye(n)])
    maps = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([maps], lr=settings.learning_rate)

    def loss(rows: Sequence[int]) -> torch.Tensor:
        ours = images[[anchors[row] for row in rows]]
        scores = ours @ maps[0].T @ images.T + ours @ maps[1].T @ texts.T
        scores = (scores / settings.temperature).masked_fill(same[rows], -torch.inf)
        agreeing = scores.masked_fill(~right[rows], -torch.inf)
        return (scores.logsumexp(1) - agreeing.logsumexp(1)).mean()

    best_loss, best_maps, waited = float("inf"), start, 0
    for _ in range(settings.epochs):
        optimiser.zero_grad()
        total = loss(learn) + settings.weight_decay * (maps - start).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            held_out = float(loss(check))
            if held_out < best_loss - 1e-6:
                best_loss, best_maps, waited = held_out, maps.detach().clone(), 0
            else:
                waited += 1
        if waited >= settings.patience:
            break
        optimiser.step()
    image_map, text_map = best_maps.numpy()
    return FactualAgreement(image_map.copy(), text_map.copy(), k=k, pairs=len(anchors))
