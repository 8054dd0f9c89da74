"""Read the turn layout of a checkpoint from its own chat template."""

from __future__ import annotations

import contextlib
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
    several_images: bool = False,
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
    several_images : bool
        Whether the model reads several images of one question, if the template writes them.
    source : str
        Name of the model, for messages.

    Raises
    ------
    ModelError
        If the template cannot be rendered, or does not keep image and texts in order.
    """

    def turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
        if image_marker is None:
            return {"role": role, "content": text}
        content = [{"type": "image"}] * images
        return {"role": role, "content": [*content, {"type": "text", "text": text}]}

    def variables(images: int) -> dict[str, Any]:
        turns = [turn("user", _FIRST, images), turn("assistant", _ANSWER), turn("user", _SECOND)]
        return {"messages": turns, "add_generation_prompt": True, **fixed}

    def render(images: int) -> str:
        text: str = tokenizer.apply_chat_template(
            variables(images)["messages"],
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    fixed: dict[str, Any] = {"tools": None, "documents": None}
    fixed |= {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    others = [variables(images) for images in (0, 2)] if image_marker else []
    try_template(chat_template, variables(1), source, also=others)
    try:
        rendered = render(1)
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
    layout = replace(
        template,
        opening=opening,
        closing=final,
        answer_opening=answer_opening,
        turn_end=between,
        turn_opening="",
        opening_without_image=None,
        between_images=None,
    )
    if image_marker is None:
        return layout
    with contextlib.suppress(Exception):  # a template may refuse a question without an image,
        without_image = _without_bos(render(0).partition(_FIRST)[0], tokenizer)
        if without_image != opening.partition("<image>")[0]:
            layout = replace(layout, opening_without_image=without_image)
    if several_images:
        with contextlib.suppress(Exception):  # and one with several
            layout = replace(layout, between_images=_between(render(2), rendered, image_marker))
    return layout


def _between(two: str, one: str, marker: str) -> str | None:
    """Find what a template writes between two images; None if it does not write them in a row."""
    before, _, after = one.partition(marker)
    middle = two.removeprefix(before + marker).removesuffix(marker + after)
    return middle if two == before + marker + middle + marker + after else None


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
            several_images=family.several_images,
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
