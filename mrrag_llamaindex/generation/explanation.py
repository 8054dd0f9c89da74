"""How much each document moved an answer: the answer again, blind to one document at a time.

A score says what retrieval expected of a document, and attention where the model looked; neither
says what the answer rests on. Here each document in turn is hidden from the question and from
everything after it, in every layer, under the same steering as the answer itself. Image and
documents come from the cache, so that the price is one short pass with a row per document.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.generation.answer import Influence
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.influence.hiding import (
    blind_passes,
    explainable_prompt,
    spans_of,
)
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.generation.prompt.reader import Pictures
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.steering.policy import SteeringPolicy


def explain(
    engine: Engine,
    request: PromptRequest,
    image: Pictures,
    policy: SteeringPolicy | None = None,
    max_new_tokens: int | None = None,
) -> dict[str, Influence]:
    """Tell how much each document of a prompt moved the answer.

    Call it after the answer: the cache then holds image and documents (if the engine keeps a
    prefix), and the answer cannot be touched by it. It costs one pass over the tokens from the
    question on, with a row for each document and one to compare with; more documents than the
    engine's ``batch_size`` less one take several passes.

    Other documents have read a hidden one before the question stood there, and so have the words
    between documents and question. What they took over is not taken back: this is what flows
    from a document directly.

    Parameters
    ----------
    engine : Engine
    request : PromptRequest
    image : PIL.Image.Image or None
        Mode RGB.
    policy : SteeringPolicy, optional
    max_new_tokens : int, optional
        Both as for the answer.

    Returns
    -------
    dict of str to Influence
        By document id, of the documents in the prompt, in its order; ids that occur twice are
        hidden together.

    Raises
    ------
    ModelError
        See `hiding.require_explainable`.
    SteeringError
        If the policy guides the decoding: the first token is then not the one that a pass gives.
    """
    prompt, prepared = explainable_prompt(engine, request, image, policy, max_new_tokens)
    names = list(dict.fromkeys(document.document_id for document in prompt.documents))
    influences: dict[str, Influence] = {}
    size = max(1, engine.batch_size - 1)
    for first in range(0, len(names), size):
        hidden_ids = names[first : first + size]
        rows = [*({name} for name in hidden_ids), set[str]()]
        p = _probabilities(engine, prompt, prepared, policy, rows)
        likeliest = p.argmax(-1).tolist()
        answer = likeliest[-1]
        alike = next((ids for ids in (engine.yes_ids, engine.no_ids) if answer in ids), [answer])
        without = p[:-1, answer].tolist()
        for name, value, token in zip(hidden_ids, without, likeliest, strict=False):
            influences[name] = Influence(100 * (float(p[-1, answer]) - value), token not in alike)
    return influences


@dataclass(frozen=True)
class FirstToken:
    """How an answer would begin.

    Attributes
    ----------
    text : str
        The likeliest first token.
    p_yes, p_no : float
        As `Answer` has them.
    """

    text: str
    p_yes: float
    p_no: float


def without_documents(
    engine: Engine,
    request: PromptRequest,
    image: Pictures,
    document_ids: Collection[str],
    policy: SteeringPolicy | None = None,
    max_new_tokens: int | None = None,
) -> FirstToken:
    """Tell how the answer would begin if some documents were hidden, as `explain` hides one.

    Parameters
    ----------
    engine, request, image, policy, max_new_tokens
        As for `explain`; lambdas of the documents that are left stay as they are.
    document_ids : collection of str
        Those to hide; none gives the first token of the answer itself.

    Raises
    ------
    InputError
        If one of them is not in the prompt.
    ModelError, SteeringError
        As `explain`.
    """
    prompt, prepared = explainable_prompt(engine, request, image, policy, max_new_tokens)
    read = {document.document_id for document in prompt.documents}
    if not read.issuperset(document_ids):
        raise InputError("the prompt of this answer does not hold that document")
    (p,) = _probabilities(engine, prompt, prepared, policy, [set(document_ids)])
    text = engine.tokenizer.decode([int(p.argmax())], skip_special_tokens=True)
    return FirstToken(text.strip(), *engine.yes_and_no(p))


def _probabilities(
    engine: Engine,
    prompt: Prompt,
    image: PreparedImage | None,
    policy: SteeringPolicy | None,
    rows: Sequence[Collection[str]],
) -> torch.Tensor:
    """Return the probabilities of the first token, (rows, vocabulary), with a row's ids hidden."""
    hidden = [spans_of(prompt, ids) for ids in rows]
    return blind_passes(engine, prompt, image, policy, hidden)[:, -1].softmax(-1)
