"""What a checkpoint of open_clip states that this library alone can build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.open_clip.clip import is_clip
from mrrag_llamaindex.towers.open_clip.folder import OpenClipFolder, refuse_unknown
from mrrag_llamaindex.towers.open_clip.names import CONFIG
from mrrag_llamaindex.towers.open_clip.vit_bert import is_vit_bert

# A colon or a stroke would make timm look for the model elsewhere.
_TIMM: Final = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_MODEL: Final = {"embed_dim", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"}
_VISION: Final = {
    *("image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"),
    *("timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"),
    *("timm_drop", "timm_drop_path", "patch_dropout"),
}
_TEXT: Final = {
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
    *("hf_tokenizer_name", "pool_type", "proj_type", "proj_bias", "pad_id"),
}


@dataclass(frozen=True)
class LibraryLayout:
    """A model of open_clip's own classes.

    Attributes
    ----------
    arguments : mapping
        Of the class that builds it; plain JSON.
    custom_text : bool
        Whether the text encoder is kept apart.
    dimension, image_size, tokens, vocabulary : int
    trunk : str
        The image encoder, for messages.
    """

    arguments: Mapping[str, Any]
    custom_text: bool
    dimension: int
    image_size: int
    tokens: int
    vocabulary: int
    trunk: str

    @classmethod
    def of(cls, stored: OpenClipFolder) -> LibraryLayout:
        """Read sizes from the settings.

        Raises
        ------
        TowerError
            If a setting is not read here.
        """
        if "hf_model_name" in stored.text:
            raise TowerError(
                f"{CONFIG} has the text encoder {stored.text['hf_model_name']!r} beside another "
                "image encoder than a plain ViT of timm; open_clip would fetch its settings from "
                "the hub. Save the two encoders with save_pretrained, and join them with mrrag "
                "train-towers"
            )
        refuse_unknown("model_cfg", stored.model, _MODEL)
        refuse_unknown("vision_cfg", stored.vision, _VISION)
        refuse_unknown("text_cfg", stored.text, _TEXT)
        name = stored.vision.get("timm_model_name")
        if name is not None and not _TIMM.fullmatch(str(name)):
            raise TowerError(f"{CONFIG} has the image encoder {name!r}, which is no name of timm's")
        if stored.text.get("pool_type", "argmax") != "argmax":
            raise TowerError(
                f"{CONFIG} has pool_type {stored.text['pool_type']!r} in text_cfg; 'argmax' is "
                "what is read here"
            )
        size = stored.vision.get("image_size", 224)
        if isinstance(size, list) and len(set(size)) == 1:
            size = size[0]
        if not isinstance(size, int):
            raise TowerError(f"{CONFIG} states images of {size} pixels; squares are read here")
        vision = {**stored.vision, "image_size": size}
        if name is not None:
            vision["timm_model_pretrained"] = False
        arguments = {
            **{key: value for key, value in stored.model.items() if key != "custom_text"},
            "vision_cfg": vision,
            "text_cfg": dict(stored.text),
        }
        return cls(
            arguments,
            any(key.startswith("text.") for key in stored.shapes),
            int(stored.model["embed_dim"]),
            size,
            int(stored.text.get("context_length", 77)),
            int(stored.text.get("vocab_size", 49408)),
            "CLIP's ResNet" if name is None else f"timm's {name}",
        )


def kind_of_open_clip(stored: OpenClipFolder) -> Literal["clip", "vit-bert", "library"]:
    """Tell who builds a model: classes of transformers, or open_clip itself."""
    if is_clip(stored):
        return "clip"
    return "vit-bert" if is_vit_bert(stored) else "library"


def check_end_of_text(tokenizer: Any, vocabulary: int) -> None:
    """Raise `TowerError` unless the end of a text has the highest id, where open_clip reads."""
    if len(tokenizer) != vocabulary or tokenizer.eos_token_id != vocabulary - 1:
        raise TowerError(
            f"the tokenizer has {len(tokenizer)} tokens, the text encoder {vocabulary}, the last "
            "of which must be the end of the text (eos_token)"
        )
