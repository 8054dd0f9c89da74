"""OpenAI's CLIP of two transformers, as open_clip stores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.open_clip.folder import OpenClipFolder, refuse_unknown
from mrrag_llamaindex.towers.open_clip.names import CONFIG
from mrrag_llamaindex.towers.open_clip.places import (
    Place,
    check_places,
    count_layers,
    layer,
    size_of,
)

_VISION: Final = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
_TEXT: Final = {"context_length", "vocab_size", "width", "heads", "layers", "hf_tokenizer_name"}
_UNUSED: Final = ("logit_bias", "attn_mask", "text.attn_mask")


@dataclass(frozen=True)
class ClipLayout:
    """Sizes and tensors of such a checkpoint.

    Attributes
    ----------
    config : dict
        Arguments of ``CLIPConfig``.
    places : list of Place
    """

    config: dict[str, Any]
    places: list[Place]

    @classmethod
    def of(cls, stored: OpenClipFolder) -> ClipLayout:
        """Read sizes from the shapes, and compare every tensor with them.

        Raises
        ------
        TowerError
            If a setting is not known, or a tensor is missing, misshaped or without a place.
        """
        refuse_unknown("model_cfg", stored.model, {"embed_dim", "quick_gelu", "custom_text"})
        refuse_unknown("vision_cfg", stored.vision, _VISION)
        refuse_unknown("text_cfg", stored.text, _TEXT)
        shapes = stored.shapes
        # Models with `custom_text` keep their text encoder apart.
        root = "" if "token_embedding.weight" in shapes else "text."
        vocabulary, text_width = size_of(shapes, f"{root}token_embedding.weight", 2)
        tokens, _ = size_of(shapes, f"{root}positional_embedding", 2)
        width, channels, patch, _ = size_of(shapes, "visual.conv1.weight", 4)
        positions, _ = size_of(shapes, "visual.positional_embedding", 2)
        grid = round((positions - 1) ** 0.5)
        dimension = int(stored.model["embed_dim"])
        head_width, text_heads = stored.vision.get("head_width", 64), stored.text.get("heads", 8)
        if grid**2 != positions - 1 or width % head_width or text_width % text_heads:
            raise TowerError(
                f"{CONFIG} states heads or images that do not fit the tensors (width {width} and "
                f"{text_width}, {positions} positions)"
            )
        # `quick_gelu` is OpenAI's activation, and open_clip's own models have the exact one.
        act = "quick_gelu" if stored.model.get("quick_gelu") else "gelu"
        vision, vision_places = _tower(
            shapes, "visual.transformer", "vision_model.encoder", width, act
        )
        text, text_places = _tower(
            shapes, f"{root}transformer", "text_model.encoder", text_width, act
        )
        size = grid * patch
        stated = stored.vision.get("image_size", size)
        if stated not in (size, [size, size]):
            raise TowerError(
                f"{CONFIG} states images of {stated} pixels, the tensors are for {size}"
            )
        vision |= {
            "image_size": size,
            "patch_size": patch,
            "num_attention_heads": width // head_width,
        }
        text |= {
            "vocab_size": vocabulary,
            "max_position_embeddings": tokens,
            "num_attention_heads": text_heads,
        }
        embedded = "vision_model.embeddings"
        places = [
            Place("visual.class_embedding", (width,), (f"{embedded}.class_embedding",)),
            Place(
                "visual.positional_embedding",
                (positions, width),
                (f"{embedded}.position_embedding.weight",),
            ),
            Place(
                "visual.conv1.weight",
                (width, channels, patch, patch),
                (f"{embedded}.patch_embedding.weight",),
            ),
            *layer("visual.ln_pre", "vision_model.pre_layrnorm", width),
            *layer("visual.ln_post", "vision_model.post_layernorm", width),
            Place("visual.proj", (width, dimension), ("visual_projection.weight",), True),
            Place(
                f"{root}token_embedding.weight",
                (vocabulary, text_width),
                ("text_model.embeddings.token_embedding.weight",),
            ),
            Place(
                f"{root}positional_embedding",
                (tokens, text_width),
                ("text_model.embeddings.position_embedding.weight",),
            ),
            *layer(f"{root}ln_final", "text_model.final_layer_norm", text_width),
            Place(
                f"{root}text_projection",
                (text_width, dimension),
                ("text_projection.weight",),
                True,
            ),
            Place("logit_scale", (), ("logit_scale",)),
            *vision_places,
            *text_places,
        ]
        check_places(places, shapes, _UNUSED)
        config = {"vision_config": vision, "text_config": text, "projection_dim": dimension}
        return cls(config, places)


def is_clip(stored: OpenClipFolder) -> bool:
    """Whether both encoders are open_clip's own transformers."""
    foreign = ("timm_model_name" in stored.vision, "hf_model_name" in stored.text)
    return not any(foreign) and not isinstance(stored.vision.get("layers"), list)


def _tower(
    shapes: Any, old_root: str, new_root: str, width: int, act: str
) -> tuple[dict[str, Any], list[Place]]:
    layers = count_layers(shapes, f"{old_root}.resblocks")
    inner, _ = size_of(shapes, f"{old_root}.resblocks.0.mlp.c_fc.weight", 2)
    places: list[Place] = []
    for number in range(layers):
        old, new = f"{old_root}.resblocks.{number}", f"{new_root}.layers.{number}"
        for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            targets = tuple(f"{new}.self_attn.{part}_proj.{kind}" for part in "qkv")
            places.append(Place(f"{old}.attn.in_proj_{kind}", shape, targets))
        places += layer(f"{old}.attn.out_proj", f"{new}.self_attn.out_proj", width, width)
        places += layer(f"{old}.ln_1", f"{new}.layer_norm1", width)
        places += layer(f"{old}.ln_2", f"{new}.layer_norm2", width)
        places += layer(f"{old}.mlp.c_fc", f"{new}.mlp.fc1", inner, width)
        places += layer(f"{old}.mlp.c_proj", f"{new}.mlp.fc2", width, inner)
    config = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "hidden_act": act,
    }
    return config, places
