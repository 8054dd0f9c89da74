"""Build and save the phantom generator: a small, real `LlavaForConditionalGeneration`.

A CLIP vision tower, a two-layer projector and a Mistral text model with grouped-query heads,
all from stock transformers classes: whatever holds for LLaVA-Med 1.5's layout (vision layer
-2, strategy "default", one class token dropped) holds here, at a ten-thousandth of the size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile, PromptTemplate
from mrrag_llamaindex.phantom.tokenizer import MAX_LENGTH, build_tokenizer

if TYPE_CHECKING:
    from transformers import (
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

VISION_SIDE = 48
"""Pixels per side that the generator sees: a quarter of the image, too few for the textures."""

PATCH = 12
"""Pixels per side of a patch: 16 image tokens."""

IMAGE_TOKENS = (VISION_SIDE // PATCH) ** 2
"""Positions that `<image>` takes in a prompt."""

TEXT_LAYERS = 4
"""Layers of the text model, hence candidates for steering."""

TEMPLATE = PromptTemplate(
    introduction="", document="{text}\n", caution="", question="{question}", closing=""
)
"""Image, documents, question, and nothing after it: the row that answers is the question's own."""


def build_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """Build the untrained model, float32, from a seed.

    Returns
    -------
    transformers.LlavaForConditionalGeneration
        About 0.9 million parameters.
    """
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        MistralConfig,
    )

    tokenizer = build_tokenizer()
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        sliding_window=None,
        tie_word_embeddings=False,
        **tokens,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=VISION_SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=int(tokenizer.get_vocab()["<image>"]),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
        **tokens,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = LlavaForConditionalGeneration(config)
    finally:
        torch.random.set_rng_state(state)
    model.generation_config.do_sample = False
    model.generation_config.max_new_tokens = 4
    for name, value in tokens.items():
        setattr(model.generation_config, name, value)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast | None = None) -> LlavaProcessor:
    """Build the processor: Pillow image back end (no torchvision), word-level tokenizer.

    By default the tokenizer is that of the generator which says yes or no.
    """
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": VISION_SIDE, "width": VISION_SIDE}
    images = CLIPImageProcessorPil(
        do_resize=True,
        size={"shortest_edge": VISION_SIDE},
        do_center_crop=True,
        crop_size=side,
        image_mean=[0.4, 0.4, 0.4],
        image_std=[0.2, 0.2, 0.2],
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tokenizer or build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def save_llava(
    model: LlavaForConditionalGeneration,
    folder: str | Path,
    *,
    critical_layers: list[int],
    note: str,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """Save model, processor and profile in one folder.

    Parameters
    ----------
    model : transformers.LlavaForConditionalGeneration
        Saved as float16 safetensors; the model passed in is left as it is.
    folder : str or pathlib.Path
        Made if absent.
    critical_layers : list of int
        Written to `mrrag_profile.json` with the prompt template.
    note : str
        How the layers were found, and the seed of the training.
    tokenizer : PreTrainedTokenizerFast, optional
        See `build_processor`.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    import copy

    import torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored: Any = copy.deepcopy(model)
    stored.to(torch.float16).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    ModelProfile(TEMPLATE, tuple(critical_layers), conversational=False, note=note).save(folder)
    return folder
