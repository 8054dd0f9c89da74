"""How likely each option is as the answer, with a method's documents and steering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.generation.influence.teacher_forcing import (
    log_probabilities,
    teacher_forced,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from mrrag_llamaindex.generation.interface import Engine
    from mrrag_llamaindex.generation.prompt.request import PromptRequest
    from mrrag_llamaindex.steering.plan import SteeringPlan
    from mrrag_llamaindex.steering.policy import SteeringPolicy

Likelihoods = tuple[tuple[float, int], ...]
"""Of each option: the sum of its tokens' log-probabilities, and their number."""


def has_likelihoods(policy: SteeringPolicy | None, decoding: Any) -> bool:
    """Whether a method has a distribution over answers that a forward pass gives.

    A decoding of its own (OPERA) chooses among whole answers, and guidance (PAI, CAD) mixes two
    passes. PAI's row, the prompt's last, would be the answer's last.
    """
    if decoding is not None:
        return False
    if policy is None:
        return True
    return policy.guidance == 1 and policy.rows_name != "last"


def option_likelihoods(
    engine: Engine,
    request: PromptRequest,
    image: Image | None,
    options: Sequence[str],
    policy: SteeringPolicy | None,
) -> Likelihoods:
    """Return the likelihood of every option's text as the answer (teacher forcing).

    All options are one batch: they share everything up to the question, which is prefilled once.

    Parameters
    ----------
    engine : Engine
    request : PromptRequest
    image : PIL.Image.Image or None
    options : sequence of str
    policy : SteeringPolicy or None

    Raises
    ------
    InputError, PromptError, SteeringError, ModelError
        As `Engine.generate`; and if an option holds control tokens of the model.
    """
    prepared = None if image is None else engine.read_image(image)
    prompt = engine.prompt(request, prepared, policy, 1)
    rows = [teacher_forced(engine, prompt, option) for option in options]
    prompts = [replace(prompt, input_ids=row.ids) for row in rows]
    shared = engine.shared_with(prompt, policy)
    values = []
    for start in range(0, len(rows), engine.batch_size):
        batch = rows[start : start + engine.batch_size]
        plan, _ = engine.planner.plan(prompts[start : start + len(batch)], policy, shared)
        if plan is not None:
            plan = _beside_answers(plan, [row.count for row in batch])
        logits = engine.runner.logits(
            [row.ids for row in batch],
            [prepared] * len(batch),
            shared=shared,
            keep=1 + max(row.count for row in batch),
            steering=plan,
        )
        for row, scores in zip(batch, logits, strict=True):
            tokens = row.ids[-row.count :]
            values.append((float(log_probabilities(scores, tokens).sum()), row.count))
    return tuple(values)


def _beside_answers(plan: SteeringPlan, counts: Sequence[int]) -> SteeringPlan:
    """Steer towards no answer, and the rows of answers only where generated tokens' are, too."""
    rows, weights = plan.steered_rows.clone(), plan.column_weights.clone()
    for row, count in enumerate(counts):
        weights[row, -count:] = 0
        rows[row, -count:] = plan.every_step
    return replace(plan, steered_rows=rows, column_weights=weights)
