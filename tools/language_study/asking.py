"""Ask many prompts under many ways to steer, with every prefix computed once.

A batch is padded on the left and cut before its first question. What stands before the cut is
prefilled once, unsteered; so is the rest, and each variant runs the rest again from the first layer
that it steers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from mrrag_llamaindex.steering.attention.cache_argument import CACHE
from mrrag_llamaindex.steering.block import Block
from mrrag_llamaindex.steering.ifa import min_max_lambdas
from mrrag_llamaindex.steering.layout import lay_out
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.uniform import Uniform
from mrrag_llamaindex.steering.policy import QuestionRows, SteeringPolicy
from tools.language_study.questions import Case
from tools.language_study.reader import Prompts, Read

ROWS = 16

Plan = Callable[[Sequence[Read], Sequence[Case], int], SteeringPlan | None]
"""How a padded batch is steered; None for plain attention."""


def plain(reads: Sequence[Read], cases: Sequence[Case], length: int) -> SteeringPlan | None:
    """Steer nothing."""
    return None


def steered(policy: SteeringPolicy) -> Plan:
    """Steer by a policy that names its layers; where it has nothing to do it is left out."""

    def plan(reads: Sequence[Read], cases: Sequence[Case], length: int) -> SteeringPlan | None:
        lambdas = [min_max_lambdas(case.scores) for case in cases]
        made = SteeringPlan.build([r.spans for r in reads], lambdas, policy, (), length)
        return made if made.is_active else None

    return plan


def blocked(layers: Collection[int], rows: QuestionRows) -> Plan:
    """Hide all documents from the rows, in some layers: attention knockout."""

    def plan(reads: Sequence[Read], cases: Sequence[Case], length: int) -> SteeringPlan:
        every = Uniform(question_rows=rows)
        lambdas = [[1.0] * len(case.documents) for case in cases]
        weights, where, padding = lay_out([r.spans for r in reads], lambdas, every, length)
        return SteeringPlan(weights, where, frozenset(layers), padding, policy=Block())

    return plan


class Asking:
    """Answers of one reader.

    Parameters
    ----------
    model
        A causal language model of transformers whose attention is one of `BACKENDS`.
    prompts
    rows
        Prompts in one batch.
    """

    def __init__(self, model: Any, prompts: Prompts, rows: int = ROWS) -> None:
        self.model, self.prompts, self.rows = model, prompts, rows

    @torch.inference_mode()
    def ask(self, cases: Sequence[Case], variants: Sequence[Plan]) -> NDArray[np.float64]:
        """Return the log-odds of yes against no.

        Returns
        -------
        ndarray
            (variants, cases).
        """
        reads = [self.prompts.read(case) for case in cases]
        order = sorted(range(len(cases)), key=lambda i: _behind(reads[i]))
        odds = np.zeros((len(variants), len(cases)))
        for start in range(0, len(order), self.rows):
            part = order[start : start + self.rows]
            odds[:, part] = self._batch(
                [reads[i] for i in part], [cases[i] for i in part], variants
            )
        return odds

    def _batch(
        self, reads: Sequence[Read], cases: Sequence[Case], variants: Sequence[Plan]
    ) -> NDArray[np.float64]:
        length = max(len(read.tokens) for read in reads)
        pads = [length - len(read.tokens) for read in reads]
        ids = torch.tensor([[0] * pad + list(r.tokens) for pad, r in zip(pads, reads, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in pads])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        cut = length - max(_behind(read) for read in reads)
        cache = DynamicCache(config=self.model.config)
        self.model.model(
            input_ids=ids[:, :cut],
            attention_mask=mask[:, :cut],
            position_ids=places[:, :cut],
            **{CACHE: cache},
            use_cache=True,
        )
        rest = {
            "attention_mask": mask,
            "position_ids": places[:, cut:],
            CACHE: cache,
            "use_cache": True,
        }
        states = self.model.model(input_ids=ids[:, cut:], output_hidden_states=True, **rest)
        _cut_back(cache, cut)
        odds = []
        for variant in variants:
            plan = variant(reads, cases, length)
            hidden = states.last_hidden_state
            if plan is not None:
                # Below its first layer a plan changes nothing.
                first = min(plan.layers)
                with _layers_from(self.model.model, first):
                    hidden = self.model.model(
                        inputs_embeds=states.hidden_states[first], steering=plan, **rest
                    ).last_hidden_state
                _cut_back(cache, cut)
                plan.require_applied()
            logits = self.model.lm_head(hidden[:, -1])
            no, yes = logits[:, self.prompts.answers].double().unbind(1)
            odds.append((yes - no).numpy())
        return np.stack(odds)


@contextmanager
def _layers_from(decoder: Any, first: int) -> Iterator[None]:
    """Leave out the layers below one, whose output is at hand."""
    layers = decoder.layers
    decoder.layers = layers[first:]
    try:
        yield
    finally:
        decoder.layers = layers


def _cut_back(cache: DynamicCache, length: int) -> None:
    """Keep the first tokens of every layer; not all layers need have more."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]


def _behind(read: Read) -> int:
    """Tokens from the question to the end."""
    return len(read.tokens) - read.spans.question[0]


def log_likelihood(odds: NDArray[np.float64], cases: Sequence[Case]) -> NDArray[np.float64]:
    """Return the log-probability of the gold answer, of the two; the shape of `odds`."""
    sign = np.array([1.0 if case.asked.answer == "yes" else -1.0 for case in cases])
    return np.asarray(-np.logaddexp(0.0, -sign * odds))


def right(odds: NDArray[np.float64], cases: Sequence[Case]) -> NDArray[np.bool_]:
    """Tell which answers are right; the shape of `odds`."""
    return np.asarray((odds > 0) == np.array([case.asked.answer == "yes" for case in cases]))
