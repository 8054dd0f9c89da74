"""timm's ViT and a BERT, each with a projection: BiomedCLIP and its kin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.json_files import read_json
from mrrag_llamaindex.towers.open_clip.folder import OpenClipFolder, refuse_unknown
from mrrag_llamaindex.towers.open_clip.names import CONFIG
from mrrag_llamaindex.towers.open_clip.places import (
    Place,
    check_places,
    count_layers,
    layer,
    size_of,
)

# timm's plain ViTs of these sizes have heads of 64, norms with 1e-6, an exact GELU, and hand the
# class token after the last norm to the projection.
_VIT: Final = re.compile(r"vit_(tiny|small|base|large)_patch\d+_\d+(\.[\w]+)?")
_HEAD: Final = 64
_VISION: Final = {
    "timm_model_name",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
    "patch_dropout",
    "image_size",
}
_TEXT: Final = {
    "hf_model_name",
    "hf_tokenizer_name",
    "hf_model_pretrained",
    "hf_proj_type",
    "proj",
    "hf_pooler_type",
    "pooler_type",
    "context_length",
    "vocab_size",
    "output_tokens",
}
_POOLINGS: Final = {"cls_last_hidden_state_pooler": "cls", "mean_pooler": "mean"}
_UNUSED: Final = (
    "logit_scale",
    "logit_bias",
    "text.transformer.embeddings.position_ids",
    "text.transformer.pooler.dense.weight",
    "text.transformer.pooler.dense.bias",
)


@dataclass(frozen=True)
class VitBertLayout:
    """Sizes and tensors of such a checkpoint.

    Attributes
    ----------
    image_config, text_config : dict
        Arguments of ``ViTConfig`` and of ``BertConfig``.
    image_places, text_places, projection_places : list of Place
    dimension : int
        n.
    text_hidden : int or None
        Width of the hidden layer of the text projection; None for a linear one.
    image_bias : bool
        Whether the image projection has a bias.
    pooling : {"cls", "mean"}
    tokens : int
        That the text encoder reads at once.
    """

    image_config: dict[str, Any]
    text_config: dict[str, Any]
    image_places: list[Place]
    text_places: list[Place]
    projection_places: list[Place]
    dimension: int
    text_hidden: int | None
    image_bias: bool
    pooling: str
    tokens: int

    @classmethod
    def of(cls, stored: OpenClipFolder) -> VitBertLayout:
        """Read sizes from the shapes, and compare every tensor with them.

        Raises
        ------
        TowerError
            If a setting is not known, or a tensor is missing, misshaped or without a place.
        """
        if not is_vit_bert(stored):
            raise TowerError(
                f"{CONFIG} describes other encoders than a ViT of timm with a BERT, or OpenAI's "
                "CLIP; such a model is read in the layout of transformers (config.json and "
                "model.safetensors), in which many are published as well"
            )
        refuse_unknown("model_cfg", stored.model, {"embed_dim", "custom_text", "quick_gelu"})
        refuse_unknown("vision_cfg", stored.vision, _VISION)
        refuse_unknown("text_cfg", stored.text, _TEXT)
        shapes = stored.shapes
        dimension = int(stored.model["embed_dim"])
        image_config, image_places = _image(stored)
        text_config, text_places = _text(stored)
        width, text_width = image_config["hidden_size"], text_config["hidden_size"]
        head = "visual.head.proj"
        projection = layer(head, "image_projection", dimension, width)
        image_bias = f"{head}.bias" in shapes
        text_projection, hidden = _text_projection(stored, text_width, dimension)
        projection = projection[: 1 + image_bias] + text_projection
        check_places([*image_places, *text_places, *projection], shapes, _UNUSED)
        pooler = _setting(stored.text, "hf_pooler_type", "pooler_type", "mean_pooler")
        if pooler not in _POOLINGS:
            raise TowerError(
                f"{CONFIG} asks for the pooler {pooler!r}; those read here are "
                f"{', '.join(_POOLINGS)}"
            )
        positions = int(text_config["max_position_embeddings"])
        return cls(
            image_config,
            text_config,
            image_places,
            text_places,
            projection,
            dimension,
            hidden,
            image_bias,
            _POOLINGS[pooler],
            min(int(stored.text.get("context_length", 77)), positions),
        )


def is_vit_bert(stored: OpenClipFolder) -> bool:
    """Whether both encoders come from other libraries, as in BiomedCLIP."""
    return "timm_model_name" in stored.vision and "hf_model_name" in stored.text


def _image(stored: OpenClipFolder) -> tuple[dict[str, Any], list[Place]]:
    name = str(stored.vision["timm_model_name"])
    if not _VIT.fullmatch(name):
        raise TowerError(
            f"{CONFIG} has the image encoder {name!r}; of timm's, plain ViTs are read here "
            "(vit_base_patch16_224 and the like)"
        )
    for setting, known in (("timm_pool", ("", "token")), ("timm_proj", ("linear",))):
        value = stored.vision.get(setting, "avg" if setting == "timm_pool" else "linear")
        if value not in known:
            raise TowerError(f"{CONFIG} has {setting} {value!r}, which is not read here")
    shapes, trunk = stored.shapes, "visual.trunk"
    width, channels, patch, _ = size_of(shapes, f"{trunk}.patch_embed.proj.weight", 4)
    _, positions, _ = size_of(shapes, f"{trunk}.pos_embed", 3)
    inner, _ = size_of(shapes, f"{trunk}.blocks.0.mlp.fc1.weight", 2)
    layers = count_layers(shapes, f"{trunk}.blocks")
    grid = round((positions - 1) ** 0.5)
    size = grid * patch
    if channels != 3 or grid**2 != positions - 1 or width % _HEAD:
        raise TowerError(
            f"tensor '{trunk}.pos_embed' has {positions} positions of {width} numbers for patches "
            f"of {channels} channels; a square of RGB patches and heads of {_HEAD} are read here"
        )
    stated = stored.vision.get("image_size", size)
    if stated not in (size, [size, size]):
        raise TowerError(f"{CONFIG} states images of {stated} pixels, the tensors are for {size}")
    config = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "intermediate_size": inner,
        "image_size": size,
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
    }
    embedded = "embeddings.patch_embeddings.projection"
    places = [
        Place(f"{trunk}.cls_token", (1, 1, width), ("embeddings.cls_token",)),
        Place(f"{trunk}.pos_embed", (1, positions, width), ("embeddings.position_embeddings",)),
        Place(
            f"{trunk}.patch_embed.proj.weight",
            (width, channels, patch, patch),
            (f"{embedded}.weight",),
        ),
        Place(f"{trunk}.patch_embed.proj.bias", (width,), (f"{embedded}.bias",)),
        *layer(f"{trunk}.norm", "layernorm", width),
    ]
    for number in range(layers):
        old, new = f"{trunk}.blocks.{number}", f"encoder.layer.{number}"
        names = [f"{new}.attention.attention.{part}" for part in ("query", "key", "value")]
        for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            targets = tuple(f"{name}.{kind}" for name in names)
            places.append(Place(f"{old}.attn.qkv.{kind}", shape, targets))
        places += layer(f"{old}.attn.proj", f"{new}.attention.output.dense", width, width)
        places += layer(f"{old}.norm1", f"{new}.layernorm_before", width)
        places += layer(f"{old}.norm2", f"{new}.layernorm_after", width)
        places += layer(f"{old}.mlp.fc1", f"{new}.intermediate.dense", inner, width)
        places += layer(f"{old}.mlp.fc2", f"{new}.output.dense", width, inner)
    return config, places


def _text(stored: OpenClipFolder) -> tuple[dict[str, Any], list[Place]]:
    shapes, root = stored.shapes, "text.transformer"
    vocabulary, width = size_of(shapes, f"{root}.embeddings.word_embeddings.weight", 2)
    positions, _ = size_of(shapes, f"{root}.embeddings.position_embeddings.weight", 2)
    types, _ = size_of(shapes, f"{root}.embeddings.token_type_embeddings.weight", 2)
    inner, _ = size_of(shapes, f"{root}.encoder.layer.0.intermediate.dense.weight", 2)
    layers = count_layers(shapes, f"{root}.encoder.layer")
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
    }
    name = str(stored.text["hf_model_name"])
    path = stored.folder / "config.json"
    given = read_json(path) if path.is_file() else {}
    kind = str(given.get("model_type", "bert"))
    # RoBERTa's tensors have the same names, and its positions begin elsewhere.
    if kind != "bert" or types != 2 or "roberta" in name.lower():
        raise TowerError(f"{CONFIG} has the text encoder {name!r}; a BERT is what is read here")
    for key, value in config.items():
        if key in given and key != "num_attention_heads" and given[key] != value:
            raise TowerError(f"config.json states {key} {given[key]}, the tensors have {value}")
    for key in ("num_attention_heads", "hidden_act", "layer_norm_eps", "pad_token_id"):
        if key in given:
            config[key] = given[key]
    heads = int(config["num_attention_heads"])
    if heads < 1 or width % heads:
        raise TowerError(f"a text encoder of width {width} cannot have {heads} heads")
    old = f"{root}.embeddings"
    places = [
        Place(f"{old}.{name}.weight", (rows, width), (f"embeddings.{name}.weight",))
        for name, rows in (
            ("word_embeddings", vocabulary),
            ("position_embeddings", positions),
            ("token_type_embeddings", types),
        )
    ]
    places += layer(f"{old}.LayerNorm", "embeddings.LayerNorm", width)
    for number in range(layers):
        new = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            name = f"{new}.attention.self.{part}"
            places += layer(f"{root}.{name}", name, width, width)
        for name, rows, columns in (
            ("attention.output.dense", width, width),
            ("attention.output.LayerNorm", width, None),
            ("intermediate.dense", inner, width),
            ("output.dense", width, inner),
            ("output.LayerNorm", width, None),
        ):
            places += layer(f"{root}.{new}.{name}", f"{new}.{name}", rows, columns)
    return config, places


def _text_projection(
    stored: OpenClipFolder, width: int, dimension: int
) -> tuple[list[Place], int | None]:
    kind = _setting(stored.text, "hf_proj_type", "proj", "mlp")
    if kind == "linear":
        name = "text.proj.weight"
        return [Place(name, (dimension, width), ("text_projection.weight",))], None
    if kind != "mlp":
        raise TowerError(
            f"{CONFIG} has the text projection {kind!r}; those read here are 'mlp' and 'linear'"
        )
    hidden = (width + dimension) // 2
    return [
        Place("text.proj.0.weight", (hidden, width), ("text_projection.0.weight",)),
        Place("text.proj.2.weight", (dimension, hidden), ("text_projection.2.weight",)),
    ], hidden


def _setting(values: Any, name: str, older: str, default: str) -> str:
    return str(values.get(name, values.get(older, default)))
