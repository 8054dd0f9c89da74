"""A small random checkpoint in the layout of BiomedCLIP, and its mathematics written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

WIDTH, LAYERS, PATCH, GRID, INNER = 128, 2, 8, 4, 96
VOCABULARY, POSITIONS, DIMENSION, HEAD = 15, 24, 20, 64
HIDDEN = (WIDTH + DIMENSION) // 2
TRUNK, BERT = "visual.trunk", "text.transformer"


def settings() -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": DIMENSION,
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": PATCH * GRID,
            },
            "text_cfg": {
                "hf_model_name": "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
                "hf_tokenizer_name": "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": 12,
            },
        },
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.3], "std": [0.2, 0.25, 0.3]},
    }


def tensors() -> dict[str, Tensor]:
    """Random values under open_clip's names; norms and biases are not trivial either."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{TRUNK}.cls_token": (1, 1, WIDTH),
        f"{TRUNK}.pos_embed": (1, 1 + GRID**2, WIDTH),
        f"{TRUNK}.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        f"{TRUNK}.patch_embed.proj.bias": (WIDTH,),
        f"{TRUNK}.norm.weight": (WIDTH,),
        f"{TRUNK}.norm.bias": (WIDTH,),
        "visual.head.proj.weight": (DIMENSION, WIDTH),
        f"{BERT}.embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        f"{BERT}.embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        f"{BERT}.embeddings.token_type_embeddings.weight": (2, WIDTH),
        f"{BERT}.embeddings.LayerNorm.weight": (WIDTH,),
        f"{BERT}.embeddings.LayerNorm.bias": (WIDTH,),
        "text.proj.0.weight": (HIDDEN, WIDTH),
        "text.proj.2.weight": (DIMENSION, HIDDEN),
        "logit_scale": (),
    }
    square, up, down = (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)
    for i in range(LAYERS):
        block, layer = f"{TRUNK}.blocks.{i}", f"{BERT}.encoder.layer.{i}"
        linear = {
            f"{block}.attn.qkv": (3 * WIDTH, WIDTH),
            f"{block}.attn.proj": square,
            f"{block}.mlp.fc1": up,
            f"{block}.mlp.fc2": down,
            **{f"{layer}.attention.self.{p}": square for p in ("query", "key", "value")},
            f"{layer}.attention.output.dense": square,
            f"{layer}.intermediate.dense": up,
            f"{layer}.output.dense": down,
        }
        for name, shape in linear.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in (f"{block}.norm1", f"{block}.norm2"):
            shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
        for name in (f"{layer}.attention.output", f"{layer}.output"):
            shapes |= {f"{name}.LayerNorm.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    return {k: 0.15 * torch.randn(shape, generator=generator) for k, shape in shapes.items()}


def write(folder: Path, tokenizer: Any, state: dict[str, Tensor] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(settings()))
    save_file(tensors() if state is None else state, folder / "open_clip_model.safetensors")
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)


def image_features(w: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """timm's ViT: norms before attention and MLP, fused q, k, v, class token to the projection."""
    t = TRUNK
    patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # b, 3, g, g, p, p
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(len(pixels), GRID**2, -1)
    kernel = w[f"{t}.patch_embed.proj.weight"].reshape(WIDTH, -1)
    x = patches @ kernel.T + w[f"{t}.patch_embed.proj.bias"]
    x = torch.cat([w[f"{t}.cls_token"].expand(len(x), 1, WIDTH), x], 1) + w[f"{t}.pos_embed"]
    for i in range(LAYERS):
        b = f"{t}.blocks.{i}"
        qkv = _linear(w, f"{b}.attn.qkv", _norm(w, f"{b}.norm1", x, 1e-6))
        x = x + _linear(w, f"{b}.attn.proj", _attention(*qkv.split(WIDTH, dim=-1)))
        inner = _gelu(_linear(w, f"{b}.mlp.fc1", _norm(w, f"{b}.norm2", x, 1e-6)))
        x = x + _linear(w, f"{b}.mlp.fc2", inner)
    return _norm(w, f"{t}.norm", x, 1e-6)[:, 0] @ w["visual.head.proj.weight"].T


def text_features(w: dict[str, Tensor], ids: Tensor) -> Tensor:
    """BERT: norms after each sum, the first token to a projection of two layers."""
    e = f"{BERT}.embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][0]
    x = x + w[f"{e}.position_embeddings.weight"][: ids.shape[1]]
    x = _norm(w, f"{e}.LayerNorm", x, 1e-12)
    for i in range(LAYERS):
        b = f"{BERT}.encoder.layer.{i}"
        heads = [_linear(w, f"{b}.attention.self.{p}", x) for p in ("query", "key", "value")]
        mixed = _linear(w, f"{b}.attention.output.dense", _attention(*heads))
        x = _norm(w, f"{b}.attention.output.LayerNorm", x + mixed, 1e-12)
        inner = _gelu(_linear(w, f"{b}.intermediate.dense", x))
        x = _norm(w, f"{b}.output.LayerNorm", x + _linear(w, f"{b}.output.dense", inner), 1e-12)
    hidden = _gelu(x[:, 0] @ w["text.proj.0.weight"].T)
    return hidden @ w["text.proj.2.weight"].T


def _linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = []
    for start in range(0, WIDTH, HEAD):
        one = slice(start, start + HEAD)
        scores = q[..., one] @ k[..., one].transpose(1, 2) / HEAD**0.5
        parts.append(functional.softmax(scores, dim=-1) @ v[..., one])
    return torch.cat(parts, dim=-1)
