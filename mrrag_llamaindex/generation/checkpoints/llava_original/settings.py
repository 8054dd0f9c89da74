"""What config.json of LLaVA's original layout says, checked against what we reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.json_files import read_json

ORIGINAL_TYPES = {"llava_mistral": "mistral", "llava_llama": "llama", "llava": "llama"}
"""Original model type -> the transformers type of its language model."""

_TEXT = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "attention_dropout",
    "attention_bias",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
]
_READ = [
    "model_type",
    "mm_vision_tower",
    "mm_vision_select_layer",
    "mm_hidden_size",
    "sliding_window",
]
# Of training and of the file itself; the segtok keys stand in LLaVA-Med's configuration and
# nothing in its released code reads them.
_WITHOUT_EFFECT = [
    "_name_or_path",
    "architectures",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "use_mm_proj",
    "auto_map",
    "pad_token_id",
    "pretraining_tp",
    "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler",
    "tune_mm_mlp_adapter",
    "tune_mm_vision_resampler",
    "tune_mm_vision_tower",
    "unfreeze_mm_vision_tower",
    "mm_projector_lr",
    "mm_vision_tower_lr",
    "mm_use_im_patch_token",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "image_crop_resolution",
    "image_split_resolution",
    "image_grid_pinpoints",
    "feature_outs",
    "img_size",
    "vision_backbone",
    "segtok_posembed",
    "max_sequence_length",
    "max_length",
]
# Key -> (values that we reproduce, what the original code takes where the key is absent).
_REPRODUCED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "mm_projector_type": (("mlp2x_gelu",), "linear"),
    "mm_vision_select_feature": (("patch", "cls_patch"), "patch"),
    "image_aspect_ratio": (("pad",), None),
    "mm_use_im_start_end": ((False, None), False),
    "mm_patch_merge_type": (("flat", None), None),
    "mm_resampler_type": ((None,), None),
    "s2": ((False, None), None),
    "rope_scaling": ((None,), None),
    "tie_word_embeddings": ((False, None), False),
    "quantization_config": ((None,), None),
}
_TELLING = ("mm_", "image_", "vision_", "rope_", "attention_")


def is_original(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json is of the original layout (LLaVA-Med 1.5, LLaVA 1.5).

    >>> is_original({"model_type": "llava_mistral"}), is_original({"model_type": "llava"})
    (True, False)
    """
    kind = config.get("model_type")
    if kind == "llava":  # early LLaVA 1.5 files and today's transformers share this name
        return "mm_vision_tower" in config and "text_config" not in config
    return isinstance(kind, str) and kind in ORIGINAL_TYPES


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a folder.

    Raises
    ------
    ModelError
        If it is absent or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise ModelError("the folder holds no config.json, so it is not a model") from None
    except ValueError as error:
        raise ModelError(f"config.json cannot be used: {error}; download it again") from None
    if not isinstance(config, dict):
        raise ModelError("config.json is not a JSON object; download it again")
    return config


@dataclass(frozen=True)
class OriginalSettings:
    """The settings of one original checkpoint that matter for its computation.

    Attributes
    ----------
    text_config : PretrainedConfig
        `MistralConfig` or `LlamaConfig`, with the vocabulary as it is stored.
    tower : str
        ``mm_vision_tower``: a hub id or a folder of a CLIP model.
    tower_trained : bool
        Whether config.json says that the vision tower was trained, too.
    layer : int
        Which of the tower's hidden states are the features, -2 for LLaVA-Med.
    strategy : {"default", "full"}
        Without or with the class token's.
    width : int
        Channels of those features.
    notes : tuple of str
        What to tell the user.
    """

    text_config: Any
    tower: str
    tower_trained: bool
    layer: int
    strategy: str
    width: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> OriginalSettings:
        """Read them from config.json.

        Raises
        ------
        ModelError
            If the layout is another one, or if a setting that changes the computation is absent
            or has a value that is not reproduced here; the setting is named.
        """
        if not is_original(config):
            raise ModelError(
                f"config.json is of type {config.get('model_type')!r}, not in LLaVA's original "
                "layout; the model needs no conversion, or cannot be converted"
            )
        for key, (values, otherwise) in _REPRODUCED.items():
            value = config.get(key, otherwise)
            if value not in values:
                allowed = " or ".join(str(value) for value in values if value is not None)
                raise ModelError(
                    f"config.json sets {key} to {value!r}, which is not reproduced here "
                    f"(supported: {allowed or 'unset'}); use a model without it"
                )
        notes = _unknown_keys(config)
        text, limited = _text_config(config)
        features = config.get("mm_vision_select_feature", "patch")
        return cls(
            text_config=text,
            tower=_required(config, "mm_vision_tower", str),
            tower_trained=bool(config.get("unfreeze_mm_vision_tower")),
            layer=_required(config, "mm_vision_select_layer", int),
            strategy="default" if features == "patch" else "full",
            width=_required(config, "mm_hidden_size", int),
            notes=(*notes, *limited),
        )


def _required(config: Mapping[str, Any], key: str, kind: type) -> Any:
    value = config.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ModelError(
            f"config.json has no usable {key} (found {value!r}); it is not a LLaVA checkpoint, or "
            "not a complete one"
        )
    return value


def _unknown_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    known = {*_TEXT, *_READ, *_WITHOUT_EFFECT, *_REPRODUCED}
    unknown = sorted(key for key in config if key not in known and config[key])
    for key in unknown:
        if key.startswith(_TELLING):
            raise ModelError(
                f"config.json sets {key}, which is not known here and may change the computation; "
                "use a model without it"
            )
    if not unknown:
        return ()
    return (f"settings of config.json that are not known here have no effect: {unknown}",)


def _text_config(config: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    from transformers import LlamaConfig, MistralConfig

    kind = ORIGINAL_TYPES[config["model_type"]]
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        _required(config, key, int)
    values: dict[str, Any] = {key: config[key] for key in _TEXT if config.get(key) is not None}
    notes = []
    if kind == "mistral":
        window = config.get("sliding_window", 4096)  # MistralConfig's own default
        values["sliding_window"] = None
        longest = values.setdefault("max_position_embeddings", 4096 * 32)
        if window is not None and window < longest:
            # Up to the window's length, sliding attention is full attention.
            values["max_position_embeddings"] = window
            notes.append(
                f"sliding_window is {window}: prompts and answers are limited to that many tokens, "
                "within which attention is full"
            )
    try:
        text = MistralConfig(**values) if kind == "mistral" else LlamaConfig(**values)
    except Exception as error:  # of the validators of several libraries
        cause = str(error).strip().splitlines()
        raise ModelError(
            f"config.json does not describe a {kind} language model ({cause[0] if cause else ''})"
        ) from error
    return text, tuple(notes)
