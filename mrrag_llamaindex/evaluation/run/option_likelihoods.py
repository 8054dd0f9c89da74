"""How likely each option is as the answer, with a method's documents and steering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.learning.mining.confidence import teacher_forced
from mrrag_llamaindex.learning.mining.gold_answer import mean_log_probability

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
    passes. A policy that steers the rows of an answer, but not all rows before them, cannot be laid
    over a prompt that holds the answer.
    """
    if decoding is not None:
        return False
    if policy is None:
        return True
    reaches = not policy.every_step or policy.rows_name == "to_end"
    return policy.guidance == 1 and policy.rows_name != "last" and reaches


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
    prompts = [replace(prompt, input_ids=ids) for ids, _ in rows]
    shared = engine.shared_with(prompt, policy)
    values = []
    for start in range(0, len(rows), engine.batch_size):
        batch = rows[start : start + engine.batch_size]
        plan, _ = engine.planner.plan(prompts[start : start + len(batch)], policy, shared)
        if plan is not None:
            plan = _beside_answers(plan, [count for _, count in batch])
        logits = engine.runner.logits(
            [ids for ids, _ in batch],
            [prepared] * len(batch),
            shared=shared,
            keep=1 + max(count for _, count in batch),
            steering=plan,
        )
        for (ids, count), scores in zip(batch, logits, strict=True):
            values.append((count * mean_log_probability(scores, ids[-count:]), count))
    return tuple(values)


def _beside_answers(plan: SteeringPlan, counts: Sequence[int]) -> SteeringPlan:
    """Steer towards no answer, and the rows of answers only where generated tokens' are, too."""
    rows, weights = plan.steered_rows.clone(), plan.column_weights.clone()
    for row, count in enumerate(counts):
        weights[row, -count:] = 0
        if not plan.every_step:
            rows[row, -count:] = False
    return replace(plan, steered_rows=rows, column_weights=weights)
