"""Checkpoints in the layout of the original LLaVA code, opened as transformers would have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.llava_original.processor import (
    build_processor,
    image_tokens,
)
from mrrag_llamaindex.generation.checkpoints.llava_original.settings import (
    OriginalSettings,
    read_config,
)
from mrrag_llamaindex.generation.checkpoints.llava_original.tokenizer import (
    IMAGE_TOKEN,
    load_original_tokenizer,
)
from mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower import (
    VisionTower,
    choose_tower,
)
from mrrag_llamaindex.generation.checkpoints.stored_tensors import (
    LazyTensor,
    PaddedRows,
    StoredTensor,
)
from mrrag_llamaindex.generation.checkpoints.weight_files import open_weights

OWN_TOWER = "model.vision_tower.vision_tower.vision_model."
"""How the names of the checkpoint's own vision tower begin."""

# (beginning in the original, beginning in transformers' published layout), tried in order.
_NAMES = (
    (OWN_TOWER, "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.layers.", "language_model.model.layers."),
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
)
# (beginning in the model in memory, beginning in the published layout)
_IN_MEMORY = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
# Constants that early transformers wrote into checkpoints; the model computes them itself.
_CONSTANTS = re.compile(r"rotary_emb\.inv_freq$|vision_model\.embeddings\.position_ids$")
_VOCABULARY = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_ROWS = 64  # the official converter pads the vocabulary to a multiple of this


@dataclass(frozen=True)
class OriginalCheckpoint:
    """An original checkpoint, under the names and with the parts that transformers expects.

    Attributes
    ----------
    config : LlavaConfig
        With ``mrrag_vision_tower``, the source of the vision tower, which `save_pretrained` keeps.
    tensors : mapping of str to LazyTensor
        State dict in transformers' published layout; nothing of it is in memory.
    processor : LlavaProcessor
    generation_config : GenerationConfig
        Suppresses every token that the original vocabulary does not hold, so that the
        probabilities of the others are those of the original model.
    vision_source : str
        ``"checkpoint"``, or ``"clip: NAME"``.
    notes : tuple of str
        What to tell the user, a sentence each.
    """

    config: Any
    tensors: Mapping[str, LazyTensor]
    processor: Any
    generation_config: Any
    vision_source: str
    notes: tuple[str, ...] = ()


def open_original(
    folder: Path,
    *,
    vision_tower: str = "checkpoint",
    allow_pickle: bool = False,
    compare: bool = True,
) -> OriginalCheckpoint:
    """Open a checkpoint of LLaVA-Med 1.5 or LLaVA 1.5 as its authors published it.

    No code of the checkpoint is run, and of its tensors at most the vision tower is read: what
    does not fit is found from the headers of the weight files.

    Parameters
    ----------
    folder : Path
    vision_tower : str
        ``"checkpoint"``, ``"clip"``, or a folder or hub id of a CLIP model: see `choose_tower`.
    allow_pickle : bool
        Whether ``.bin`` files may be opened, with torch's restricted unpickler.
    compare : bool
        Whether both vision towers are read and compared where both are on this machine.

    Raises
    ------
    ModelError
        If a setting is not reproduced here, a file is missing or damaged, or a tensor is missing,
        unexpected, or of another shape: its name in the checkpoint is given.
    """
    from transformers import GenerationConfig

    generation_config: Any = GenerationConfig  # without annotations in the library
    settings = OriginalSettings.of(read_config(folder))
    stored = open_weights(
        folder,
        allow_pickle=allow_pickle,
        remedy="if you trust their source, convert them once: mrrag convert SRC DST --allow-pickle",
    )
    stored = {key: value for key, value in stored.items() if not _CONSTANTS.search(key)}
    own = {k.removeprefix(OWN_TOWER): v for k, v in stored.items() if k.startswith(OWN_TOWER)}
    tower = choose_tower(settings, own, vision_tower, allow_pickle=allow_pickle, compare=compare)
    tokenizer = load_original_tokenizer(folder)
    named = _named(stored, tower)
    config = llava_config(settings, tower)
    _check_shapes(named, config, tower)
    config.dtype = named[_VOCABULARY[0]].dtype
    rows, tensors = _extend_vocabulary(named, config, tokenizer)
    return OriginalCheckpoint(
        config=config,
        tensors=tensors,
        processor=build_processor(tokenizer, config, tower.image_processor),
        generation_config=generation_config(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=list(range(rows, config.text_config.vocab_size)) or None,
        ),
        vision_source=tower.source,
        notes=(*settings.notes, *tower.notes),
    )


def _named(stored: Mapping[str, StoredTensor], tower: VisionTower) -> dict[str, StoredTensor]:
    """Give every tensor its published name, the tower's from where it was chosen."""
    named: dict[str, StoredTensor] = {}
    for key, tensor in stored.items():
        if key.startswith(OWN_TOWER):
            continue
        name = _renamed(key, _NAMES)
        if name is None:
            raise ModelError(
                f"the checkpoint holds a tensor that LLaVA does not have: {key!r}, shape "
                f"{list(tensor.shape)}, in {tensor.path.name}"
            )
        named[name] = tensor
    prefix = _NAMES[0][1]
    return named | {prefix + key: tensor for key, tensor in tower.tensors.items()}


def llava_config(settings: OriginalSettings, tower: VisionTower) -> Any:
    """Make the configuration of the model as transformers knows it."""
    from transformers import LlavaConfig

    config_class: Any = LlavaConfig
    config = config_class(
        text_config=settings.text_config,
        vision_config=tower.config,
        vision_feature_layer=settings.layer,
        vision_feature_select_strategy=settings.strategy,
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
    )
    config.image_seq_length = image_tokens(config)
    config.mrrag_vision_tower = tower.source
    return config


def _check_shapes(named: Mapping[str, StoredTensor], config: Any, tower: VisionTower) -> None:
    """Compare names and shapes with those of the model, made without memory."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    expected = {
        _renamed(name, _IN_MEMORY) or name: tuple(value.shape)
        for name, value in model.state_dict().items()
    }

    def label(name: str) -> str:
        """Name in the files of the user, and which files."""
        if name.startswith(_NAMES[0][1]) and tower.source != "checkpoint":
            return f"tensor {name.removeprefix('vision_tower.')!r} of the vision tower's model"
        original = _renamed(name, [(published, own) for own, published in _NAMES])
        return f"tensor {original or name!r} of the checkpoint"

    for name in sorted(named.keys() - expected.keys()):
        raise ModelError(
            f"{label(name)} has no place in the model that config.json describes (shape "
            f"{list(named[name].shape)}, in {named[name].path.name}); the file and the "
            "configuration do not belong together"
        )
    for name in sorted(expected.keys() - named.keys()):
        raise ModelError(
            f"{label(name)} is missing; the model needs it with shape {list(expected[name])}; "
            "download the folder completely"
        )
    for name, shape in sorted(expected.items()):
        if named[name].shape != shape:
            raise ModelError(
                f"{label(name)} has shape {list(named[name].shape)} in {named[name].path.name} and "
                f"the configuration asks for {list(shape)}; they do not belong together"
            )


def _renamed(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    """Replace the beginning of a name, from the table's first column to its second."""
    pairs = ((old, new) for old, new in table if name.startswith(old))
    return next((new + name.removeprefix(old) for old, new in pairs), None)


def _extend_vocabulary(
    named: Mapping[str, StoredTensor], config: Any, tokenizer: Any
) -> tuple[int, dict[str, LazyTensor]]:
    """Make rows for ``<image>`` and ``<pad>`` where they have none; return the rows there were.

    The original splices image features in at a token that does not exist (-200).
    """
    rows = int(config.text_config.vocab_size)
    tensors: dict[str, LazyTensor] = dict(named)
    if len(tokenizer) > rows:
        padded = -(-len(tokenizer) // _ROWS) * _ROWS
        for name in _VOCABULARY:
            tensors[name] = PaddedRows(named[name], padded)
        config.text_config.vocab_size = padded
    config.image_token_index = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config.text_config.pad_token_id = tokenizer.pad_token_id
    return rows, tensors
