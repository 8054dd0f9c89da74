"""Find the phantom's critical layers by trying each layer alone on questions half in noise."""

from __future__ import annotations

import numpy as np

from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.loading import load_model
from mrrag_llamaindex.phantom.trials import answered_right, draw_trials
from mrrag_llamaindex.steering.ifa import IFA


def best_layers(
    model: str, *, seed: int = 0, count: int = 400, margin: float = 0.01
) -> tuple[list[int], str]:
    """Steer each layer alone, with true relevance, four documents of which two are irrelevant.

    Parameters
    ----------
    model : str
        Folder of the model.
    seed : int
        Of the questions; they are neither training's nor those of `check`.
    count : int
        Questions.
    margin : float
        Layers within this accuracy of the best are critical, too.

    Returns
    -------
    layers : list of int
    note : str
        The accuracy without steering and with each layer, for the profile.
    """
    engine = LlavaEngine(load_model(model, device="cpu"), max_documents=8, max_new_tokens=4)
    trials = draw_trials(5000 + seed, count, documents=4, irrelevant=2)
    plain = float(np.mean(answered_right(engine, trials)))
    depth = engine.model.config.text_config.num_hidden_layers
    accuracy = [
        float(np.mean(answered_right(engine, trials, IFA(layers=(layer,)))))
        for layer in range(depth)
    ]
    best = max(accuracy)
    layers = [layer for layer in range(depth) if accuracy[layer] >= best - margin]
    each = ", ".join(f"{layer}: {value:.3f}" for layer, value in enumerate(accuracy))
    return layers, (
        f"each layer steered alone on {count} synthetic questions with 2 of 4 documents "
        f"irrelevant and true relevance as score (seed {5000 + seed}): {each}; "
        f"unsteered {plain:.3f}"
    )
