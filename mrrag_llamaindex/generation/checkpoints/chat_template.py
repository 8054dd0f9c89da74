"""Read the turn layout of a checkpoint from its own chat template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.image_readers import ImageReader
from mrrag_llamaindex.generation.checkpoints.profile import (
    PROFILE_FILE,
    ModelProfile,
    PromptTemplate,
)
from mrrag_llamaindex.generation.checkpoints.template_trial import try_template

# Words that no template holds; they mark where the texts of three turns stand.
_FIRST, _ANSWER, _SECOND = "FirstQuestionHere", "FirstAnswerHere", "SecondQuestionHere"


def layout_of(
    chat_template: str,
    tokenizer: Any,
    template: PromptTemplate,
    *,
    image_marker: str | None,
    source: str,
) -> PromptTemplate:
    """Take opening, closing and turn marks from a chat template; keep the sentences.

    A conversation of two questions is rendered, and cut at its texts.

    Parameters
    ----------
    chat_template : str
        Jinja text, as ``processor.chat_template`` or ``tokenizer.chat_template``.
    tokenizer : PreTrainedTokenizerFast
    template : PromptTemplate
        Gives the sentences around documents and question.
    image_marker : str or None
        What the template writes for an image; None for a text-only model.
    source : str
        Name of the model, for messages.

    Raises
    ------
    ModelError
        If the template cannot be rendered, or does not keep image and texts in order.
    """

    def turn(role: str, text: str, image: bool = False) -> dict[str, Any]:
        if image_marker is None:
            return {"role": role, "content": text}
        content: list[dict[str, str]] = [{"type": "image"}] if image else []
        return {"role": role, "content": [*content, {"type": "text", "text": text}]}

    turns = [turn("user", _FIRST, True), turn("assistant", _ANSWER), turn("user", _SECOND)]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    variables = {**special, "messages": turns, "add_generation_prompt": True}
    try_template(chat_template, {"tools": None, "documents": None, **variables}, source)
    try:
        rendered = tokenizer.apply_chat_template(
            turns, chat_template=chat_template, tokenize=False, add_generation_prompt=True
        )
        opening, rest = rendered.split(_FIRST)
        closing, rest = rest.split(_ANSWER)
        between, final = rest.split(_SECOND)
    # Templates are programs of the checkpoint's author: jinja's errors and raise_exception.
    except Exception as error:
        raise ModelError(
            f"the chat template of model {source!r} does not render a conversation with an image "
            f"({type(error).__name__}); correct chat_template.jinja in the model folder"
        ) from error
    opening = _without_bos(opening, tokenizer)
    if image_marker is None:
        opening += "<image>"  # dropped when the prompt is written: there is never an image
    else:
        if opening.count(image_marker) != 1:
            raise ModelError(
                f"the chat template of model {source!r} writes the image marker "
                f"{image_marker!r} {opening.count(image_marker)} times before the first text; it "
                "must stand there once"
            )
        opening = opening.replace(image_marker, "<image>")
    answer_opening = closing[len(final) :] if closing.startswith(final) else ""
    return replace(
        template,
        opening=opening,
        closing=final,
        answer_opening=answer_opening,
        turn_end=between,
        turn_opening="",
    )


def profile_for(
    checkpoint: Checkpoint, tokenizer: Any, processor: Any, reader: ImageReader | None
) -> ModelProfile:
    """Read the folder's profile; else take the layout of its chat template, else its family's."""
    profile = ModelProfile.load(checkpoint.folder)
    if (checkpoint.folder / PROFILE_FILE).is_file():
        return profile
    family, source = checkpoint.family, checkpoint.source
    chat = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if chat:
        template = layout_of(
            chat,
            tokenizer,
            family.template or PromptTemplate(),
            image_marker=None if reader is None else reader.marker,
            source=source,
        )
    elif family.template is not None:
        template = family.template
    else:
        raise ModelError(
            f"model {source!r} brings no chat template, and none is known for its text model; put "
            f"its chat_template.jinja, or a {PROFILE_FILE}, into the model folder"
        )
    return replace(profile, template=template)


def _without_bos(opening: str, tokenizer: Any) -> str:
    """Drop the BOS that a template writes where the tokenizer adds one of its own."""
    bos = tokenizer.bos_token
    if not bos or not opening.startswith(bos):
        return opening
    adds = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return opening[len(bos) :] if adds else opening
