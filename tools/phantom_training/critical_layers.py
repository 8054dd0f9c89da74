"""Find the phantom's critical layers by attention knockout, and check them by steering."""

from __future__ import annotations

import numpy as np

from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.learning.layers.search import search_layers
from mrrag_llamaindex.phantom.sets.trials import answered_right, draw_trials
from mrrag_llamaindex.steering.ifa import IFA


def best_layers(
    model: str, *, seed: int = 0, count: int = 400, searched: int = 100
) -> tuple[list[int], str]:
    """Block attention in each layer on some questions, then steer each layer alone on others.

    All have four documents of which two are irrelevant. The first experiment chooses; the second,
    with true relevance as score, says in the note what steering the choice is worth, and what
    steering any other single layer would be.

    Parameters
    ----------
    model : str
        Folder of the model.
    seed : int
        Of the questions; they are neither training's nor those of `check`.
    count, searched : int
        Questions that are steered, and questions on which attention is blocked.

    Returns
    -------
    layers : list of int
    note : str
        For the profile.
    """
    engine = LlavaEngine(load_model(model, device="cpu"), max_documents=8, max_new_tokens=4)
    blocked = draw_trials(6000 + seed, searched, documents=4, irrelevant=2)
    search = search_layers(engine, blocked, seed=seed, naive=0)
    layers = search.choice.layers
    trials = draw_trials(5000 + seed, count, documents=4, irrelevant=2)

    def accuracy(ifa: IFA | None) -> float:
        return float(np.mean(answered_right(engine, trials, ifa)))

    alone = [accuracy(IFA(layers=(layer,))) for layer in range(search.depth)]
    each = ", ".join(f"{layer}: {value:.3f}" for layer, value in enumerate(alone))
    return list(layers), (
        f"{search.note()}; accuracy on {count} synthetic questions with 2 of 4 documents "
        f"irrelevant and true relevance as score (seed {5000 + seed}): unsteered "
        f"{accuracy(None):.3f}, these layers {accuracy(IFA(layers=layers)):.3f}, each layer alone "
        f"{each}"
    )
