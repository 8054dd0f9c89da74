"""Where an answer's attention went: documents, image, question, and the rest of the prompt.

For one layer, ``A`` after steering, mask and softmax, rows ``R`` and columns ``C``:

    share(layer, R, C) = mean over heads, mean over i in R, of  sum over j in C of  A_ij

The parts are every document, the image, the question's own text, and what is left (the template,
and text of the application), so the shares of a layer sum to 1. Rows are those of the question,
which a policy steers, and the last of the prompt, off which the answer is read. The part of a
document is what `evaluation.noise.attention_share` calls its mass.

Attention says where a model looked, not what the answer rests on: that is `explanation`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.generation.prompt.reader import Pictures
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.generation.scheduling.looks import parts_of
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policy import SteeringPolicy
from mrrag_llamaindex.steering.watch import AttentionWatch


@dataclass(frozen=True)
class LayerShares:
    """Where the attention of some rows goes in one layer; the values sum to 1.

    Attributes
    ----------
    documents : dict of str to float
        By document id, in the order of the prompt; ids that occur twice are added up.
    image, question, rest : float
    """

    documents: dict[str, float]
    image: float
    question: float
    rest: float


@dataclass(frozen=True)
class AttentionShares:
    """Where one answer's attention went.

    Attributes
    ----------
    question, answer : dict of int to LayerShares
        By layer: of the question's rows, and of the prompt's last row.
    steered : tuple of int
        The layers of these in which attention was changed.
    p_yes, p_no : float
        Of the first answer token, as `Answer` has them: the pass gives them before any word is
        written. With guided decoding (a policy's ``guidance``) the answer's are others.
    """

    question: dict[int, LayerShares]
    answer: dict[int, LayerShares]
    steered: tuple[int, ...]
    p_yes: float
    p_no: float


def attention_shares(
    engine: Engine,
    request: PromptRequest,
    image: Pictures,
    policy: SteeringPolicy | None = None,
    *,
    layers: tuple[int, ...] | None = None,
    max_new_tokens: int | None = None,
) -> AttentionShares:
    """Look at one prompt again, and tell where its attention goes.

    One pass over the tokens from the question on; image and documents come from the prefix cache
    where the engine keeps one and the model can share it.

    Parameters
    ----------
    engine : Engine
    request : PromptRequest
    image : PIL.Image.Image, sequence of them, or None
        Mode RGB.
    policy : SteeringPolicy, optional
        None: plain attention.
    layers : tuple of int, optional
        Default: the critical layers of the model.
    max_new_tokens : int, optional
        As for the answer: the prompt leaves room for it.

    Raises
    ------
    ModelError
        If the model steers with the flex backend, which never forms the attention of a row, or
        does not have such a layer.
    """
    if not engine.forms_attention:
        raise ModelError(
            "attention can be looked at with the steering backends 'rows' and 'eager'; 'flex' "
            "never forms it, and vLLM does not show it"
        )
    layers = engine.loaded.critical_layers if layers is None else layers
    beyond = [layer for layer in layers if not 0 <= layer < engine.planner.depth]
    if beyond:
        raise ModelError(
            f"layer {beyond[0]} is not one of the model's {engine.planner.depth} layers, numbered "
            "from 0"
        )
    prepared = engine.read_image(image)
    prompt = engine.prompt(request, prepared, policy, max_new_tokens)
    length, shared = len(prompt.input_ids), engine.shared_with(prompt, policy)
    rows = [prompt.question_span, (length - 1, length)]
    watch = AttentionWatch.over([rows], [parts_of(prompt)], layers, [length], shared)
    plan, _ = engine.planner.plan([prompt], policy, shared)
    watched = replace(plan or SteeringPlan.nothing([length], shared), watch=watch)
    logits = engine.runner.logits([prompt.input_ids], [prepared], shared=shared, steering=watched)
    if any(layer not in watch.seen for layer in layers):
        raise ModelError(
            "this model adds terms to its attention that are not known here, so it is not shown"
        )
    names = [document.document_id for document in prompt.documents]
    question, answer = (
        {layer: _layer(names, watch.seen[layer][0, group].tolist()) for layer in layers}
        for group in (0, 1)
    )
    steered = tuple(layer for layer in layers if plan is not None and layer in plan.layers)
    return AttentionShares(question, answer, steered, *engine.yes_and_no(logits[0, -1].softmax(-1)))


def _layer(names: list[str], shares: list[float]) -> LayerShares:
    *of_documents, image, question = shares
    documents = dict.fromkeys(names, 0.0)
    for name, share in zip(names, of_documents, strict=True):
        documents[name] += share
    return LayerShares(documents, image, question, max(0.0, 1 - sum(shares)))
