"""Read a prompt again, blind to a part of it: a document, the image, or nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch

from mrrag_llamaindex.errors import ModelError, SteeringError

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
    from mrrag_llamaindex.generation.interface import Engine
    from mrrag_llamaindex.generation.prompt.reader import Pictures
    from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest, Span
    from mrrag_llamaindex.steering.policy import SteeringPolicy


def require_explainable(engine: Engine) -> None:
    """Check that answers of this model can be explained.

    Raises
    ------
    ModelError
        If the model cannot share the prefix of a prompt, steers with the flex backend, which takes
        no mask of ours, or runs in an engine without passes of its own.
    """
    if why := engine.why_unexplainable():
        raise ModelError(why)


def explainable_prompt(
    engine: Engine,
    request: PromptRequest,
    image: Pictures,
    policy: SteeringPolicy | None,
    max_new_tokens: int | None,
) -> tuple[Prompt, PreparedImage | None]:
    """Build the prompt of an answer again.

    Raises
    ------
    ModelError
        See `require_explainable`.
    SteeringError
        If the policy guides the decoding: a token is then not the one that a pass gives.
    """
    require_explainable(engine)
    if policy is not None and policy.guidance != 1:
        name = type(policy).__name__
        raise SteeringError(
            f"explain cannot tell what moved an answer that {name} guides: use {name}(guidance=1)"
        )
    prepared = engine.read_image(image)
    return engine.prompt(request, prepared, policy, max_new_tokens), prepared


def spans_of(prompt: Prompt, document_ids: Collection[str]) -> list[Span]:
    """Return the columns of some documents; ids that occur twice have several."""
    pairs = zip(prompt.document_spans, prompt.documents, strict=True)
    return [span for span, document in pairs if document.document_id in document_ids]


def blind_passes(
    engine: Engine,
    prompt: Prompt,
    image: PreparedImage | None,
    policy: SteeringPolicy | None,
    hidden: Sequence[Sequence[Span]],
    answer: tuple[int, ...] = (),
) -> torch.Tensor:
    """Read a prompt from its question on, once for each row, with some columns hidden in each.

    They are hidden from the question and from everything after it, in every layer; the steering is
    that of the answer, the rows of its own tokens included where the policy steers them.

    Parameters
    ----------
    engine, prompt, image, policy
        See `explainable_prompt`.
    hidden : sequence of sequence of (start, stop)
        For each row, spans of columns before the question.
    answer : tuple of int
        Tokens behind the prompt (teacher forcing).

    Returns
    -------
    torch.Tensor
        float32 (rows, len(answer) + 1, vocabulary): logits of each token of the answer, and of the
        one that would follow.
    """
    shared = prompt.question_span[0]
    ids = (*prompt.input_ids, *answer)
    columns = torch.zeros(len(hidden), len(ids), dtype=torch.bool)
    for row, spans in enumerate(hidden):
        for span in spans:
            columns[row, slice(*span)] = True
    plan, _ = engine.planner.plan([prompt] * len(hidden), policy, shared)
    return engine.runner.logits(
        [ids] * len(hidden),
        [image] * len(hidden),
        shared=shared,
        keep=len(answer) + 1,
        steering=None if plan is None else plan.followed_by(len(answer)),
        hidden=columns,
    )
