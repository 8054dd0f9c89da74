"""Where the vision tower of an original checkpoint comes from: its own tensors, or CLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.hub import find_folder
from mrrag_llamaindex.generation.checkpoints.llava_original.processor import image_processor
from mrrag_llamaindex.generation.checkpoints.llava_original.settings import (
    OriginalSettings,
    read_config,
)
from mrrag_llamaindex.generation.checkpoints.stored_tensors import StoredTensor
from mrrag_llamaindex.generation.checkpoints.weight_files import open_weights

_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
KNOWN_TOWERS = {
    "clip-vit-large-patch14-336": {**_LARGE, "image_size": 336},
    "clip-vit-large-patch14": {**_LARGE, "image_size": 224},
}
"""Vision configurations of OpenAI's CLIP models that LLaVA checkpoints name, by the last part of
the name; the rest is what `CLIPVisionConfig` has by default."""

WAYS_ON = (
    'give the folder of that CLIP model, vision_tower="path/to/clip", or use the tensors of the '
    'checkpoint, vision_tower="checkpoint"'
)


@dataclass(frozen=True)
class VisionTower:
    """The vision tower that was chosen.

    Attributes
    ----------
    config : CLIPVisionConfig
    tensors : mapping of str to StoredTensor
        By name inside the tower, as ``encoder.layers.0.mlp.fc1.weight``.
    image_processor : BaseImageProcessor
    source : str
        ``"checkpoint"``, or ``"clip: NAME"``.
    notes : tuple of str
        What to tell the user.
    """

    config: Any
    tensors: Mapping[str, StoredTensor]
    image_processor: Any
    source: str
    notes: tuple[str, ...] = ()


def choose_tower(
    settings: OriginalSettings,
    own: Mapping[str, StoredTensor],
    choice: str,
    *,
    allow_pickle: bool = False,
    compare: bool = True,
) -> VisionTower:
    """Take the checkpoint's own tower, or CLIP's.

    The released LLaVA-Med code builds the tower after the checkpoint has been read, so it drops
    the checkpoint's own vision tensors and runs OpenAI's CLIP (LLaVA-Med issue 105). The default
    here is the checkpoint's own: they are what was published, what the public conversions hold,
    and what the language model was trained with if the tower was trained at all; and they need no
    second download. Where CLIP is on this machine, both are compared and the user is told.

    Parameters
    ----------
    settings : OriginalSettings
    own : mapping of str to StoredTensor
        Vision tensors of the checkpoint; may be empty.
    choice : str
        ``"checkpoint"``, ``"clip"`` (the CLIP that config.json names), or a folder or hub id of a
        CLIP model.
    allow_pickle, compare
        As in `open_original`.

    Raises
    ------
    ModelError
        If the tower cannot be found, or is not a CLIP vision tower of the width that the
        projector takes.
    """
    notes: list[str] = []
    named = settings.tower if choice in ("checkpoint", "clip") else choice
    wanted = choice != "checkpoint" or not own
    if wanted:
        folder: Path | None = find_folder(
            named, what="vision tower", ways_on=WAYS_ON, error=ModelError
        )
    else:
        folder = local_folder(named)
    if choice == "checkpoint" and not own:
        notes.append(f"the checkpoint holds no vision tower: that of {named} is used")
    config = vision_config(folder, named)
    if config.hidden_size != settings.width:
        raise ModelError(
            f"vision tower {named!r} has {config.hidden_size} channels and the checkpoint's "
            f"projector takes mm_hidden_size = {settings.width}; name the tower that belongs to it"
        )
    clip = _clip_tensors(folder, named, allow_pickle, wanted)
    if own and clip:
        if compare:
            notes.append(_difference(own, clip, named))
    elif own:
        notes.append(
            f"the vision tower is the checkpoint's own; {named}, which the released LLaVA-Med "
            "code runs instead, is not on this machine as safetensors, so whether they differ is "
            "not known"
        )
    if wanted and settings.tower_trained:
        notes.append(
            f"config.json says that the vision tower was trained, and {named} is the untrained one"
        )
    return VisionTower(
        config=config,
        tensors=clip if wanted else own,
        image_processor=_image_processor(folder, config),
        source=f"clip: {named}" if wanted else "checkpoint",
        notes=tuple(notes),
    )


def local_folder(name: str) -> Path | None:
    """Folder of a model that is on this machine; the hub is not asked."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return cached if (cached / "config.json").is_file() else None


def vision_config(folder: Path | None, name: str) -> Any:
    """Read a CLIP's vision configuration, or take that of a known name.

    Raises
    ------
    ModelError
        If it is not CLIP, or its dimensions are not known.
    """
    from transformers import CLIPConfig, CLIPVisionConfig

    if folder is not None:
        try:
            config = read_config(folder)
        except ModelError as error:
            raise ModelError(f"vision tower {name!r}: {error}; {WAYS_ON}") from error
        kind = config.get("model_type")
        if kind == "clip":
            return CLIPConfig.from_dict(config).vision_config
        if kind == "clip_vision_model":
            return CLIPVisionConfig.from_dict(config)
        raise ModelError(
            f"vision tower {name!r} is of type {kind!r}; the original layout has CLIP towers"
        )
    known = KNOWN_TOWERS.get(name.rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise ModelError(
            f"config.json names the vision tower {name!r}, whose dimensions are not known here; "
            'give the folder of that CLIP model, vision_tower="path/to/clip"'
        )
    config_class: Any = CLIPVisionConfig
    return config_class(**known)


def _clip_tensors(
    folder: Path | None, name: str, allow_pickle: bool, wanted: bool
) -> dict[str, StoredTensor]:
    if folder is None:
        return {}
    try:
        stored = open_weights(
            folder,
            what=f"vision tower {name!r}",
            allow_pickle=allow_pickle,
            remedy="allow it (--allow-pickle) if you trust their source, or " + WAYS_ON,
        )
    except ModelError:
        if wanted:
            raise
        return {}  # a folder with the configuration only, or with pickles: nothing to compare
    vision = {
        key.removeprefix("vision_model."): tensor
        for key, tensor in stored.items()
        if key.startswith("vision_model.")
    }
    # A tower saved on its own has no prefix, and nothing else beside it.
    tensors = vision or stored
    tensors.pop("embeddings.position_ids", None)  # 0, 1, 2, ..., which early transformers wrote
    return tensors


def _difference(
    own: Mapping[str, StoredTensor], clip: Mapping[str, StoredTensor], name: str
) -> str:
    largest = 0.0
    for key in own.keys() & clip.keys():
        if own[key].shape != clip[key].shape:
            return f"the checkpoint's own vision tower has other dimensions than {name} ({key})"
        # CLIP is published in float32; rounding to the checkpoint's type is no difference.
        mine, other = own[key].read(), clip[key].read().to(own[key].dtype)
        largest = max(largest, float((mine.float() - other.float()).abs().max()))
    if largest == 0:
        return f"the checkpoint's own vision tower is identical to {name}"
    return (
        f"the checkpoint's own vision tower differs from {name} by up to {largest:.3g}; the "
        "released LLaVA-Med code runs the latter"
    )


def _image_processor(folder: Path | None, config: Any) -> Any:
    if folder is None or not (folder / "preprocessor_config.json").is_file():
        return image_processor(config)
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor_class: Any = CLIPImageProcessorPil
    return processor_class.from_pretrained(folder)
