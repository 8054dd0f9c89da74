"""The single checks of the doctor: weights, vision tower, prompt, steering, quantization."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.doctor import machine
from mrrag_llamaindex.doctor.blueprint import Blueprint
from mrrag_llamaindex.doctor.diagnosis import Check
from mrrag_llamaindex.doctor.memory import PromptShape
from mrrag_llamaindex.doctor.verdict import gigabytes
from mrrag_llamaindex.errors import ModelError, MRRAGError, SteeringError
from mrrag_llamaindex.files.hub import weight_sizes
from mrrag_llamaindex.generation.checkpoints.chat_template import profile_for
from mrrag_llamaindex.generation.checkpoints.checkpoint import WAYS_ON, Checkpoint
from mrrag_llamaindex.generation.checkpoints.image_readers import reader_for
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import OWN_TOWER
from mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower import (
    WAYS_ON as TOWER_WAYS_ON,
)
from mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower import local_folder
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile
from mrrag_llamaindex.generation.checkpoints.quantization import quantization_config
from mrrag_llamaindex.generation.checkpoints.weight_files import WeightFiles, survey_weights


def check_weights(
    checkpoint: Checkpoint, files: WeightFiles, allow_pickle: bool
) -> tuple[list[Check], dict[str, int]]:
    """Look over the weight files; (checks, bytes of each file here or on the hub)."""
    sizes = dict(files.sizes)
    shipped = checkpoint.source in defaults.PHANTOM_MODELS
    local = shipped or Path(checkpoint.source).expanduser().is_dir()
    if not local and not files.complete and not files.problems:
        sizes = weight_sizes(checkpoint.source, what="model", ways_on=WAYS_ON, error=ModelError)
        missing = {name: size for name, size in sizes.items() if name not in files.sizes}
        text = f"{_files(missing)}, {gigabytes(sum(missing.values()))}, yet to be downloaded"
        checks = [Check("weights", "note", text)]
        free = machine.free_disk(checkpoint.folder)
        if sum(missing.values()) > free:
            checks.append(Check("disk", "problem", f"{gigabytes(free)} are free for the download"))
        pickled = bool(sizes) and all(name.endswith(".bin") for name in sizes)
    else:
        pickled = files.pickled
        faults = [*files.problems]
        if files.absent:
            faults.append(
                f"{_files(files.absent)} missing: {', '.join(files.absent)}; download the folder "
                "completely"
            )
        if not files.sizes and not faults:
            faults.append(
                "the folder holds none (model*.safetensors or pytorch_model*.bin); download it "
                "completely"
            )
        checks = [Check("weights", "problem", fault) for fault in faults]
        if not faults:
            said = "which are not looked into" if files.pickled else "as long as their headers say"
            text = f"{_files(sizes)}, {gigabytes(files.nbytes)}, {said}"
            checks.append(Check("weights", "ok", text))
    if pickled and not allow_pickle:
        text = (
            "they are only there as pickles (.bin), which could run code when they are opened; if "
            "you trust their source, allow it (allow_pickle, --allow-pickle)"
        )
        checks.append(Check("weights", "problem", text))
    return checks, sizes


def check_prompt(
    checkpoint: Checkpoint, blueprint: Blueprint, documents: int, batch_size: int
) -> tuple[PromptShape, list[Check]]:
    """Read an image as the model would, and find its prompt layout and critical layers."""
    checks: list[Check] = []
    tokens, patches = _image_of_configuration(blueprint.model.config)
    text_config = blueprint.model.config.get_text_config(decoder=True)
    profile = ModelProfile()
    critical = profile.layers_for(text_config, checkpoint.source)
    if blueprint.tokenizer is not None:
        try:
            reader = reader_for(checkpoint.family, blueprint.processor, blueprint.model.config)
            if reader is not None:
                image = reader.read([Image.new("RGB", (1024, 1024))])
                tokens, patches = image.tokens, _patches(image, blueprint.model.config)
            profile = profile_for(checkpoint, blueprint.tokenizer, blueprint.processor, reader)
            critical = profile.layers_for(text_config, checkpoint.source)
            checks.append(Check("tokenizer and processor", "ok", "both can be read"))
        except MRRAGError as error:
            checks.append(Check("tokenizer and processor", "problem", str(error)))
    shape = PromptShape(tokens, patches, documents, batch_size)
    window = int(text_config.max_position_embeddings)
    if shape.tokens > window:
        text = (
            f"about {shape.tokens} tokens with the answer, and the window has {window}: the "
            "lowest-scored documents would be left out"
        )
        checks.append(Check("prompt", "note", text))
    if profile.critical_layers is not None:
        checks.append(Check("critical layers", "ok", f"{list(critical)}, from the profile"))
    else:
        text = f"not known: the middle third, {list(critical)}, would be steered"
        checks.append(Check("critical layers", "note", text))
    return shape, checks


def check_vision_tower(
    checkpoint: Checkpoint, files: WeightFiles, choice: str
) -> tuple[list[Check], bool]:
    """Say where an original checkpoint's vision tower comes from, and whether it is here."""
    if not checkpoint.original:
        return [], True
    own = not files.keys or any(key.startswith(OWN_TOWER) for key in files.keys)
    if choice == "checkpoint" and own:
        return [Check("vision tower", "ok", "the checkpoint's own")], True
    named = str(checkpoint.config.get("mm_vision_tower"))
    named = named if choice in ("checkpoint", "clip") else choice
    folder = local_folder(named)
    if folder is not None and survey_weights(folder).complete:
        return [Check("vision tower", "ok", f"that of {named}, which is on this machine")], True
    if folder is not None:
        return [Check("vision tower", "problem", f"{named} is not complete on this machine")], False
    try:
        sizes = weight_sizes(named, what="vision tower", ways_on=TOWER_WAYS_ON, error=ModelError)
    except ModelError as error:
        return [Check("vision tower", "problem", str(error))], False
    text = f"that of {named}, {gigabytes(sum(sizes.values()))} yet to be downloaded"
    return [Check("vision tower", "note", text)], False


def _image_of_configuration(config: Any) -> tuple[int, int]:
    """(image tokens, patches) of a square image, for when there is no processor."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return 0, 0
    patches = (_side(getattr(vision, "image_size", 336)) // _side(vision.patch_size)) ** 2
    tokens = getattr(config, "image_seq_length", None) or getattr(config, "mm_tokens_per_image", 0)
    return int(tokens or patches), patches + 1


def _patches(image: Any, config: Any) -> int:
    """Positions that an image takes inside the vision tower."""
    vision = config.vision_config
    channels = getattr(vision, "num_channels", None) or vision.in_channels
    frames = getattr(vision, "temporal_patch_size", 1)
    pixels = image.tensors["pixel_values"].numel()
    return int(pixels // (channels * frames * _side(vision.patch_size) ** 2)) + 1


def _side(size: Any) -> int:
    """Read a side of a square that a configuration may give twice."""
    return int(size[0] if isinstance(size, list | tuple) else size)


def check_steering(model: Any, device: str) -> list[Check]:
    """Say by which backends a model can be steered on a device.

    Raises
    ------
    SteeringError
        If it cannot be steered at all.
    """
    from mrrag_llamaindex.steering.attention.model_class import (
        attention_implementation,
        require_backend,
    )
    from mrrag_llamaindex.steering.attention.registry import BACKENDS
    from mrrag_llamaindex.steering.attention.support import check_steerable

    check_steerable(model)
    available, reasons = [], []
    kind = device.partition(":")[0]
    for backend in BACKENDS:
        try:
            attention_implementation(type(model), backend)
            require_backend(backend, kind)
            proof = " (compared with the definition on loading)"
            available.append(backend + proof * BACKENDS[backend].needs_proof)
        except SteeringError as error:
            reasons.append(Check("steering", "note", str(error)))
    return [Check("steering", "ok", f"backends {', '.join(available)}"), *reasons]


def check_quantization(name: str | None, device: str, dtype: Any) -> list[Check]:
    """Say whether quantization can run on a device, if it was asked for."""
    try:
        quantization_config(name, None if device == "device_map" else device, dtype)
    except ModelError as error:
        return [Check("quantization", "problem", str(error))]
    return [Check("quantization", "ok", f"{name} can run here")] if name else []


def _files(names: Collection[str]) -> str:
    return f"{len(names)} file{'s' * (len(names) != 1)}"
