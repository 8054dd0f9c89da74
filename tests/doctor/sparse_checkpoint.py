"""Write checkpoints of true size that take no disk: real headers, and holes for the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
)

from tests.tiny.tokenizers import byte_pairs

# LLaVA-Med 1.5: Mistral-7B-Instruct-v0.2 and CLIP ViT-L/14 at 336 pixels.
TEXT = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
ORIGINAL = (
    ("model.language_model.", "model."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
)
PUBLISHED = (
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("lm_head.", "language_model.lm_head."),
)
CONFIG = {
    "model_type": "llava_mistral",
    **TEXT,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "image_aspect_ratio": "pad",
}


def llava_config() -> LlavaConfig:
    values = {key: value for key, value in TEXT.items() if key != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": TEXT["rope_theta"]}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=MistralConfig(**values, rope_parameters=rope),
        vision_feature_layer=-2,
        image_seq_length=576,
        tie_word_embeddings=False,
    )


def meta_model(config: LlavaConfig) -> LlavaForConditionalGeneration:
    with torch.device("meta"):
        return LlavaForConditionalGeneration(config)


def renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for begin, other in table:
        if name.startswith(begin):
            return other + name.removeprefix(begin)
    return name


def write_sparse(folder: Path, shapes: Mapping[str, tuple[int, ...]], shards: int = 4) -> int:
    """Write bfloat16 shards with an index; return the bytes of the tensors."""
    folder.mkdir(exist_ok=True)
    names, index, total = sorted(shapes), {}, 0
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names[number::shards]:
            start, end = end, end + 2 * torch.Size(shapes[name]).numel()
            header[name] = {
                "dtype": "BF16",
                "shape": list(shapes[name]),
                "data_offsets": [start, end],
            }
            index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as written:
            written.write(len(text).to_bytes(8, "little") + text)
            written.truncate(8 + len(text) + end)
        total += end
    described = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(described)
    return total


def write_original_7b(folder: Path, tokenizer_model: bytes, *, tower: bool = True) -> int:
    """LLaVA-Med 1.5 as it was published, without its numbers."""
    shapes = {
        renamed(name, ORIGINAL): tuple(value.shape)
        for name, value in meta_model(llava_config()).state_dict().items()
    }
    if not tower:
        shapes = {name: shape for name, shape in shapes.items() if "vision_tower" not in name}
    total = write_sparse(folder, shapes)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    return total


def write_published_7b(folder: Path) -> int:
    """The same model as a converted copy."""
    tokens = byte_pairs(["<image>"])
    config = llava_config()
    config.image_token_index = tokens.convert_tokens_to_ids("<image>")
    config.dtype = torch.bfloat16
    shapes = {
        renamed(name, PUBLISHED): tuple(value.shape)
        for name, value in meta_model(config).state_dict().items()
    }
    total = write_sparse(folder, shapes)
    config.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return total
