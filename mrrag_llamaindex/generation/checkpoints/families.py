"""The kinds of generator that can be steered, and what is particular to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
)
GEMMA = PromptTemplate(
    opening="<start_of_turn>user\n<image>",
    closing="<end_of_turn>\n<start_of_turn>model\n",
    answer_opening="",
    turn_end="<end_of_turn>\n",
    turn_opening="<start_of_turn>user\n",
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
    image_marks: str | None = None
    shares_prefix: bool = True


_FAMILIES = (
    # What a turn looks like depends on the text model of a LLaVA, see `_LLAVA_TURNS`.
    ModelFamily("llava", "LlavaForConditionalGeneration", pads_images=True),
    ModelFamily("llava_next", "LlavaNextForConditionalGeneration"),
    ModelFamily(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        CHATML,
        image_marks="mm_token_type_ids",
        shares_prefix=False,
    ),
    ModelFamily(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        GEMMA,
        image_marks="token_type_ids",
        shares_prefix=False,
    ),
)
FAMILIES: Final = MappingProxyType({family.model_type: family for family in _FAMILIES})
"""Vision-language families by ``model_type``. Each runs through the tests of
``tests/generation/checkpoints/test_families.py``; to add one: an entry here, a tiny model there."""


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
