"""Load the tokenizer and the processor of a checkpoint in the transformers layout."""

from __future__ import annotations

import functools
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.json_files import read_json
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.llava_original.processor import (
    build_processor,
    chat_template,
    has_class_token,
    image_tokens,
)
from mrrag_llamaindex.generation.checkpoints.llava_original.tokenizer import IMAGE_TOKEN
from mrrag_llamaindex.generation.checkpoints.profile import PROFILE_FILE

BACKEND = "pil"
"""Image processing by Pillow on every machine: torchvision resamples a little differently, so
the same image would get other pixels, hence other answers, where it happens to be installed."""

NO_CODE: Final = {"trust_remote_code": False}
"""Left open, transformers asks whoever sits at the terminal, and "y" runs the folder's code."""


def load_processor(checkpoint: Checkpoint) -> tuple[Any, Any, tuple[str, ...]]:
    """Load what turns text and images into tensors.

    Returns
    -------
    tokenizer : PreTrainedTokenizerFast
    processor : ProcessorMixin or None
        See `processor_class`; None for a text-only model.
    notes : tuple of str
        Faults of the checkpoint that were corrected.
    """
    from transformers import AutoProcessor, AutoTokenizer, LlavaConfig

    folder, family = checkpoint.folder, checkpoint.family
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    if not family.sees_images:
        return tokenizer, None, ()
    if family.model_type != "llava":
        stock = processor_class(family.processor)
        _check_declared(folder, family.model_type, stock.__name__)
        processor = stock.from_pretrained(folder, backend=BACKEND, **NO_CODE)
        return processor.tokenizer, processor, ()
    auto: Any = AutoProcessor
    config = LlavaConfig.from_pretrained(folder)
    notes: tuple[str, ...] = ()
    if lacks_processor(folder):
        processor, notes = missing_processor(tokenizer, config)
    else:
        processor = auto.from_pretrained(folder, backend=BACKEND, **NO_CODE)
    own_layout = (folder / PROFILE_FILE).is_file()
    notes += correct_processor(processor, config, own_layout=own_layout)
    return processor.tokenizer, processor, notes


@functools.cache
def processor_class(name: str) -> Any:
    """Return a processor of transformers as a class that reads images and no videos.

    Many need torchvision for videos, which nothing here reads: without them Pillow is enough.

    Parameters
    ----------
    name : str
        Module and class, see `ModelFamily.processor`.
    """
    kind, _, class_name = name.partition(".")
    # By its module: under its name in the library, some versions ask for torchvision.
    module = import_module(f"transformers.models.{kind}.processing_{kind}")
    stock: Any = getattr(module, class_name)
    parts = [part for part in stock.get_attributes() if part != "video_processor"]
    return type(class_name, (stock,), {"get_attributes": classmethod(lambda _: list(parts))})


def _check_declared(folder: Path, model_type: str, ours: str) -> None:
    """Refuse a folder whose processor is another one, as code of the checkpoint's author would be.

    Raises
    ------
    ModelError
        If a file names it.
    """
    from transformers.models.auto import processing_auto

    library: Any = processing_auto  # without annotations
    known = {None, ours, library.PROCESSOR_MAPPING_NAMES.get(model_type)}
    for name in _PROCESSOR_FILES:
        path = folder / name
        declared = read_json(path).get("processor_class") if path.is_file() else None
        if declared not in known:
            raise ModelError(
                f"{name} names the processor {str(declared)[:80]!r}, and models of type "
                f"{model_type!r} are read with {ours}; take the copy of this model in the layout "
                "of transformers"
            )


_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def lacks_processor(folder: Path) -> bool:
    """Say whether a model folder holds no description of its image processing."""
    return not any((folder / name).is_file() for name in _PROCESSOR_FILES)


def missing_processor(tokenizer: Any, config: Any) -> tuple[Any, tuple[str, ...]]:
    """Make the processor of a folder that has none, from the vision configuration.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    config : LlavaConfig

    Returns
    -------
    processor : LlavaProcessor
    sentences : tuple of str
        What was corrected; for the log, once.

    Raises
    ------
    ModelError
        If the image token cannot be found in the tokenizer, or the tower is not CLIP.
    """
    if config.vision_config.model_type != "clip_vision_model":
        raise ModelError(
            "the folder holds no preprocessor_config.json, and image processing for a vision "
            f"tower of type {config.vision_config.model_type!r} cannot be guessed; add the file"
        )
    corrections = _image_token(tokenizer, config)
    processor = build_processor(tokenizer, config)
    _name_image_token(processor, config)
    side = config.vision_config.image_size
    sentence = (
        "the folder holds no processor_config.json and no preprocessor_config.json: CLIP's image "
        f"processing at {side} x {side} pixels is used, as the vision tower's configuration says"
    )
    return processor, (sentence, *corrections)


def correct_processor(processor: Any, config: Any, *, own_layout: bool = False) -> tuple[str, ...]:
    """Correct, in memory, what is known to be wrong with the processors of converted copies.

    The truth is the model's configuration: it says which token stands for the image, and how
    many features there are.

    Parameters
    ----------
    processor : LlavaProcessor
        Changed in place.
    config : LlavaConfig
    own_layout : bool
        Whether the model brings a prompt layout of its own (a profile), so that a missing chat
        template is no fault.

    Returns
    -------
    tuple of str
        A sentence for every fault that was there; for the log, once. Empty for a sound one.

    Raises
    ------
    ModelError
        If the tokenizer and the configuration disagree on the image token, or the processor
        still writes another number of image tokens than the model makes.
    """
    corrections = list(_image_token(processor.tokenizer, config))
    before = processor.image_token, processor.image_token_id
    _name_image_token(processor, config)
    if before != (processor.image_token, processor.image_token_id) and not corrections:
        corrections.append(
            f"image_token was {before[0]!r} and the model's is {processor.image_token!r}: corrected"
        )
    patch = config.vision_config.patch_size
    strategy = config.vision_feature_select_strategy
    wanted = [("patch_size", patch), ("vision_feature_select_strategy", strategy)]
    if has_class_token(config):
        wanted.append(("num_additional_image_tokens", 1))
    for name, value in wanted:
        current = getattr(processor, name, None)
        if current != value:
            setattr(processor, name, value)
            state = "missing" if current is None else f"{current!r}"
            corrections.append(
                f"{name} of the processor was {state}: set to {value!r}, as in the model"
            )
    template = chat_template(config)
    if not processor.chat_template and template and not own_layout:
        processor.chat_template = template
        corrections.append(
            "the processor has no chat template: the one of this kind of LLaVA is used"
        )
    images = processor.image_processor
    if type(images).__name__.startswith("LlavaImageProcessor") and not images.do_pad:
        images.do_pad = True
        corrections.append(
            "do_pad of the image processor was off, which cuts the sides of a wide image: set to "
            "True, as LLaVA was trained"
        )
    _check_count(processor, config)
    return tuple(corrections)


def _image_token(tokenizer: Any, config: Any) -> tuple[str, ...]:
    """Make sure that the configuration's image token is one token of the tokenizer."""
    wanted = int(config.image_token_id)
    vocabulary = len(tokenizer)
    if wanted == vocabulary and IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
        return (f"the tokenizer has no image token: {IMAGE_TOKEN} is added as token {wanted}",)
    token = tokenizer.convert_ids_to_tokens(wanted) if wanted < vocabulary else None
    if token is None or tokenizer(token, add_special_tokens=False)["input_ids"] != [wanted]:
        raise ModelError(
            f"config.json says that token {wanted} stands for the image (image_token_index), and "
            f"the tokenizer has {vocabulary} tokens of which {token!r} is that one; the tokenizer "
            "belongs to another model"
        )
    if token != IMAGE_TOKEN and IMAGE_TOKEN in tokenizer.get_vocab():
        raise ModelError(
            f"config.json says that token {wanted} ({token!r}) stands for the image, and the "
            f"tokenizer's {IMAGE_TOKEN} is token {tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)}; "
            "correct image_token_index"
        )
    return ()


def _name_image_token(processor: Any, config: Any) -> None:
    processor.image_token_id = int(config.image_token_id)
    processor.image_token = processor.tokenizer.convert_ids_to_tokens(processor.image_token_id)


def _check_count(processor: Any, config: Any) -> None:
    crop = getattr(processor.image_processor, "crop_size", None)
    side = crop["height"] if crop else config.vision_config.image_size
    dropped = processor.vision_feature_select_strategy == "default"
    patches = (side // processor.patch_size) ** 2
    written = patches + processor.num_additional_image_tokens - dropped
    features = image_tokens(config)
    if written != features:
        raise ModelError(
            f"the processor writes {written} image tokens and the model makes {features} features: "
            f"it makes images of {side} pixels for a vision tower that takes "
            f"{config.vision_config.image_size}; preprocessor_config.json belongs to another model"
        )
