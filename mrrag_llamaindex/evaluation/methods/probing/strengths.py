"""What IFA by layer learns: how strongly to steer each layer, and which of its heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.methods.probing.asked import (
    LEAST,
    batches,
    inner_engine,
    readable_prompts,
)
from mrrag_llamaindex.evaluation.methods.tuning import TRIES
from mrrag_llamaindex.learning.layers.blocking import Baseline, Knockout
from mrrag_llamaindex.learning.layers.heads import rank_heads
from mrrag_llamaindex.learning.layers.strengths import Worth, search_strengths
from mrrag_llamaindex.steering.ifa import IFA

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.ranking import Ranking

MOST = 200
"""Questions that every try is asked."""

BLOCKED = 40
"""Questions, rightly answered, on which heads are blocked one by one."""


def learn_strengths(data: EmbeddedSet | None, engine: object, ranking: Ranking) -> tuple[IFA, str]:
    """Learn a strength for each critical layer and its heads, with as many tries as tuning has.

    Parameters
    ----------
    data : EmbeddedSet or None
        Training questions with labels yes and no.
    engine : Engine
    ranking : Ranking
        Finds their documents.

    Returns
    -------
    policy : IFA
    note : str

    Raises
    ------
    InputError
        If the engine cannot be looked into, answers are not yes and no, or questions are too few.
    """
    inner = inner_engine(engine)
    prompts, images, golds = [], [], []
    for asked, prompt in readable_prompts(inner, data, ranking, MOST):
        prompts.append(prompt)
        images.append(asked.image)
        golds.append(asked.gold)
    if len(prompts) < LEAST:
        raise InputError(f"{len(prompts)} training questions can be read; {LEAST} are needed")
    rows = batches(len(prompts), inner.batch_size)

    def first_tokens(policy: IFA | None) -> torch.Tensor:
        """Return the probabilities of the first answer token, (questions, vocabulary)."""
        found = []
        for places in rows:
            batch = [prompts[n] for n in places]
            plan, _ = inner.planner.plan(batch, policy)
            ids = [prompt.input_ids for prompt in batch]
            logits = inner.runner.logits(ids, [images[n] for n in places], steering=plan)
            found.append(logits[:, -1].float().softmax(-1).cpu())
        return torch.cat(found)

    truth = torch.tensor([gold == "yes" for gold in golds])

    def worth(policies: Sequence[IFA]) -> list[Worth]:
        found = []
        for policy in policies:
            p = first_tokens(policy)
            yes, no = p[:, inner.yes_ids].sum(-1), p[:, inner.no_ids].sum(-1)
            right = ((yes > no) == truth).double().mean()
            found.append((float(right), float(torch.where(truth, yes, no).double().mean())))
        return found

    p, tokens = first_tokens(None).max(dim=-1)
    words = {"yes": inner.yes_ids, "no": inner.no_ids}
    kept = [n for n, gold in enumerate(golds) if int(tokens[n]) in words[gold]][:BLOCKED]
    baselines = [
        Baseline(prompts[n], images[n], prompts[n].spans, int(tokens[n]), float(p[n])) for n in kept
    ]
    critical = inner.loaded.critical_layers
    search = search_strengths(
        worth, critical, rank_heads(Knockout(inner), baselines, critical), TRIES
    )
    best = max(item.worth for item in search.tries)[0]
    return search.policy, (
        f"{search.policy} of {len(search.tries)} tries ({best:.3f} on {len(prompts)} questions; "
        f"as published {search.tries[0].worth[0]:.3f})"
    )
