"""A LLaVA processor made from a tokenizer and a vision configuration, with a chat template."""

from __future__ import annotations

from typing import Any

from mrrag_llamaindex.generation.checkpoints.llava_original.tokenizer import IMAGE_TOKEN

_CONTENT = (
    "{% macro show(content) %}"
    "{% if content is string %}{{ content }}{% else %}"
    "{% for part in content if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in content if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endmacro %}"
)
CHAT_TEMPLATES = {
    "mistral": _CONTENT
    + (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ ' ' + show(message['content']) + '</s>' }}"
        "{% else %}{{ '[INST] ' + show(message['content']) + ' [/INST]' }}{% endif %}{% endfor %}"
    ),
    "llama": _CONTENT
    + (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ ' ' + show(message['content']) + '</s>' }}"
        "{% else %}{{ 'USER: ' + show(message['content']) + ' ASSISTANT:' }}{% endif %}{% endfor %}"
    ),
}
"""Type of the language model -> turns as LLaVA-Med (``mistral_instruct``) and LLaVA 1.5
(``vicuna_v1``, without its system sentence) were trained on. BOS comes from the tokenizer."""


def chat_template(config: Any) -> str | None:
    """Return the template of a LLaVA's language model; None where none is known."""
    return CHAT_TEMPLATES.get(config.text_config.model_type)


def has_class_token(config: Any) -> bool:
    """Whether the vision tower puts a class token before its patches, as CLIP does."""
    return bool(config.vision_config.model_type == "clip_vision_model")


def image_tokens(config: Any) -> int:
    """Image features of one image: patches and class token, less one for ``"default"``."""
    vision = config.vision_config
    dropped = config.vision_feature_select_strategy == "default"
    patches = (vision.image_size // vision.patch_size) ** 2
    return int(patches + has_class_token(config) - dropped)


def image_processor(vision_config: Any) -> Any:
    """Make CLIP's preprocessing for a tower: short edge to its size, crop, CLIP mean and spread.

    Images are padded to a square before (`mrrag_llamaindex.images.load.pad_to_square`), so the crop
    cuts nothing. Pillow does the work on every machine: torchvision resamples differently.
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = vision_config.image_size
    processor_class: Any = CLIPImageProcessorPil
    return processor_class(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def build_processor(tokenizer: Any, config: Any, images: Any = None) -> Any:
    """Make the processor of a LLaVA from its parts.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Holds the image token.
    config : LlavaConfig
    images : BaseImageProcessor, optional
        Default: `image_processor` of the vision tower.

    Returns
    -------
    LlavaProcessor
        Writes as many image tokens as the model makes features, 576 for LLaVA-Med.
    """
    from transformers import LlavaProcessor

    processor_class: Any = LlavaProcessor
    return processor_class(
        image_processor=images or image_processor(config.vision_config),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(has_class_token(config)),
        image_token=IMAGE_TOKEN,
        chat_template=chat_template(config),
    )
