"""The kinds of generator that can be steered, and what is particular to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.profile import PromptTemplate

VICUNA = PromptTemplate(
    opening="USER: <image>\n",
    closing=" ASSISTANT:",
    answer_opening=" ",
    turn_end="</s>",
    turn_opening="USER: ",
)
CHATML = PromptTemplate(
    opening="<|im_start|>user\n<image>",
    closing="<|im_end|>\n<|im_start|>assistant\n",
    answer_opening="",
    turn_end="<|im_end|>\n",
    turn_opening="<|im_start|>user\n",
    between_images="",
)
GEMMA = PromptTemplate(
    opening="<start_of_turn>user\n<image>",
    closing="<end_of_turn>\n<start_of_turn>model\n",
    answer_opening="",
    turn_end="<end_of_turn>\n",
    turn_opening="<start_of_turn>user\n",
    between_images="",
)
TEXT_ONLY = PromptTemplate(
    opening="<image>",
    closing="\nAnswer:",
    turn_end="\n",
    turn_opening="",
    introduction=(
        "Below are {count} reference reports of patients whose images are similar to the image of "
        "the patient in question.\n"
    ),
    caution=(
        "You cannot see the image itself. Answer about the patient in question from these reports; "
        "start with yes or no if that answers the question.\n"
    ),
)


_LLAVA_TURNS = {"mistral": PromptTemplate(), "llama": VICUNA}


@dataclass(frozen=True)
class ModelFamily:
    """What this package must know of a kind of generator beyond what transformers knows.

    Parameters
    ----------
    model_type : str
        As in ``config.json``.
    model_class : str
        Name of the class in transformers.
    template : PromptTemplate or None
        Prompt layout of a checkpoint that brings no chat template of its own. None: it must
        bring one.
    sees_images : bool
        False for a text-only model: it reads the reports, never the query image.
    pads_images : bool
        Whether an image is padded to a square first. Their processors would crop both sides of a
        wide film; the models were trained on padded images.
    several_images : bool
        Whether the models were trained to read several images of one question.
    processor : str
        Module and class in ``transformers.models`` that prepare images and write their places.
    image_options : mapping
        Options of its image processor that the processor itself always gives.
    image_frame : (str, str)
        What a chat template writes around the token of an image, as part of the image.
    image_marks : str or None
        Argument of ``forward`` that marks the image tokens of ``input_ids`` with 1.
    shares_prefix : bool
        Whether the cache of image and documents may be prefilled once for several questions. Not
        where positions depend on the image, or where a sliding window forgets the prefix.
    """

    model_type: str
    model_class: str
    template: PromptTemplate | None = None
    sees_images: bool = True
    pads_images: bool = False
    several_images: bool = False
    processor: str = ""
    image_options: Mapping[str, bool] = field(default_factory=dict)
    image_frame: tuple[str, str] = ("", "")
    image_marks: str | None = None
    shares_prefix: bool = True


_QWEN_VL = ModelFamily(
    "qwen2_5_vl",
    "Qwen2_5_VLForConditionalGeneration",
    CHATML,
    several_images=True,
    processor="qwen2_5_vl.Qwen2_5_VLProcessor",
    image_frame=("<|vision_start|>", "<|vision_end|>"),
    image_marks="mm_token_type_ids",
    shares_prefix=False,
)
_IDEFICS3 = ModelFamily(
    "idefics3",
    "Idefics3ForConditionalGeneration",
    several_images=True,
    processor="idefics3.Idefics3Processor",
    image_options={"return_row_col_info": True},
)
_FAMILIES = (
    # What a turn looks like depends on the text model of a LLaVA, see `_LLAVA_TURNS`.
    ModelFamily(
        "llava",
        "LlavaForConditionalGeneration",
        pads_images=True,
        processor="llava.LlavaProcessor",
    ),
    ModelFamily(
        "llava_next",
        "LlavaNextForConditionalGeneration",
        processor="llava_next.LlavaNextProcessor",
    ),
    ModelFamily(
        "llava_onevision",
        "LlavaOnevisionForConditionalGeneration",
        several_images=True,
        processor="llava_onevision.LlavaOnevisionProcessor",
    ),
    _QWEN_VL,
    # What it adds to the hidden states behind its first layers (deepstack) is part of the prefix.
    replace(
        _QWEN_VL,
        model_type="qwen3_vl",
        model_class="Qwen3VLForConditionalGeneration",
        processor="qwen3_vl.Qwen3VLProcessor",
    ),
    ModelFamily(
        "internvl",
        "InternVLForConditionalGeneration",
        several_images=True,
        processor="internvl.InternVLProcessor",
        image_options={"crop_to_patches": True},
    ),
    ModelFamily(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        GEMMA,
        several_images=True,
        processor="gemma3.Gemma3Processor",
        image_marks="token_type_ids",
        shares_prefix=False,
    ),
    _IDEFICS3,
    # Its own processor wants a package that spells out numbers, for the frames of videos.
    replace(_IDEFICS3, model_type="smolvlm", model_class="SmolVLMForConditionalGeneration"),
)
FAMILIES: Final = MappingProxyType({family.model_type: family for family in _FAMILIES})
"""Vision-language families by ``model_type``. Each runs through the tests of
``tests/generation/checkpoints/test_families.py``; to add one: an entry here, a tiny model there."""

_NO_IMAGE_COLUMNS = (
    "its text layers see the image by cross-attention, beside the prompt, where no steering reaches"
)
_OWN_LAYOUT = (
    "it is in its authors' layout, which runs code of the checkpoint; take the copy in the layout "
    "of transformers (its name ends in -hf)"
)
_REFUSED: Final = MappingProxyType(
    {
        "mllama": _NO_IMAGE_COLUMNS,
        "mllama_text_model": _NO_IMAGE_COLUMNS,
        "internvl_chat": _OWN_LAYOUT,
        "llava_qwen": _OWN_LAYOUT,
    }
)
"""Types that look like one of `FAMILIES` or like a text model, and why they are refused."""


def family_of(config: Mapping[str, object], source: str) -> ModelFamily:
    """Family of a model, from its ``config.json``.

    Parameters
    ----------
    config : mapping
        The parsed ``config.json``.
    source : str
        Name of the model, for the message.

    Raises
    ------
    ModelError
        If the family is neither one of `FAMILIES` nor a text-only causal language model.
    """
    model_type = str(config.get("model_type"))
    if model_type in _REFUSED:
        raise ModelError(
            f"model {source!r} is of type {model_type!r}, which cannot be steered: "
            f"{_REFUSED[model_type]}; supported: {', '.join(FAMILIES)}"
        )
    family = FAMILIES.get(model_type)
    if family is None:
        return _text_family(model_type, source)
    if model_type in ("llava", "llava_next"):
        text = config.get("text_config")
        text_type = text.get("model_type", "llama") if isinstance(text, Mapping) else "llama"
        return replace(family, template=_LLAVA_TURNS.get(text_type))
    return family


def _text_family(model_type: str, source: str) -> ModelFamily:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_class = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    # Some vision-language types stand in that table, too, with the class that sees images.
    if model_class is None or not model_class.endswith("ForCausalLM"):
        raise ModelError(
            f"model {source!r} is of type {model_type!r}, which cannot be steered; supported: "
            f"{', '.join(FAMILIES)}, and text-only causal language models"
        )
    shares = model_type in ("mistral", "llama", "qwen2", "qwen3")
    return ModelFamily(model_type, model_class, TEXT_ONLY, sees_images=False, shares_prefix=shares)
