"""A small random CLIP as open_clip stores it, and its mathematics written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

WIDTH, PATCH, GRID, DIMENSION, TOKENS = 128, 8, 3, 12, 10
TEXT_WIDTH, TEXT_HEADS = 32, 4
WORDS = ["[UNK]", "no", "pleural", "effusion", "heart", "<start>", "<end>"]


def settings(quick_gelu: bool = False) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": DIMENSION,
            "quick_gelu": quick_gelu,
            "vision_cfg": {
                "image_size": PATCH * GRID,
                "layers": 2,
                "width": WIDTH,
                "patch_size": PATCH,
            },
            "text_cfg": {
                "context_length": TOKENS,
                "vocab_size": len(WORDS),
                "width": TEXT_WIDTH,
                "heads": TEXT_HEADS,
                "layers": 1,
            },
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.25]},
    }


def tensors(root: str = "") -> dict[str, Tensor]:
    """Random values; ``root`` is "text." where the text encoder is kept apart."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (1 + GRID**2, WIDTH),
        "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "visual.proj": (WIDTH, DIMENSION),
        "token_embedding.weight": (len(WORDS), TEXT_WIDTH),
        "positional_embedding": (TOKENS, TEXT_WIDTH),
        "text_projection": (TEXT_WIDTH, DIMENSION),
        "logit_scale": (),
    }
    norms = [("visual.ln_pre", WIDTH), ("visual.ln_post", WIDTH), ("ln_final", TEXT_WIDTH)]
    for stem, layers, d in (("visual.", 2, WIDTH), ("", 1, TEXT_WIDTH)):
        for i in range(layers):
            block = f"{stem}transformer.resblocks.{i}"
            norms += [(f"{block}.ln_1", d), (f"{block}.ln_2", d)]
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * d, d),
                f"{block}.attn.in_proj_bias": (3 * d,),
                f"{block}.attn.out_proj.weight": (d, d),
                f"{block}.attn.out_proj.bias": (d,),
                f"{block}.mlp.c_fc.weight": (4 * d, d),
                f"{block}.mlp.c_fc.bias": (4 * d,),
                f"{block}.mlp.c_proj.weight": (d, 4 * d),
                f"{block}.mlp.c_proj.bias": (d,),
            }
    for name, d in norms:
        shapes |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    generator = torch.Generator().manual_seed(0)
    values = {k: 0.15 * torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    common = ("visual.", "logit_scale")
    return {k if k.startswith(common) else f"{root}{k}": v for k, v in values.items()}


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 5), ("<end>", 6)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
    )


def write(folder: Path, root: str = "", quick_gelu: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(settings(quick_gelu)))
    save_file(tensors(root), folder / "open_clip_model.safetensors")
    tokenizer().save_pretrained(folder)


def image_features(w: dict[str, Tensor], pixels: Tensor, quick_gelu: bool = False) -> Tensor:
    x = functional.conv2d(pixels, w["visual.conv1.weight"], stride=PATCH).flatten(2).mT
    first = w["visual.class_embedding"].expand(len(x), 1, WIDTH)
    x = _norm(w, "visual.ln_pre", torch.cat([first, x], 1) + w["visual.positional_embedding"])
    for i in range(2):
        x = _block(w, f"visual.transformer.resblocks.{i}", x, WIDTH // 64, quick_gelu)
    return _norm(w, "visual.ln_post", x[:, 0]) @ w["visual.proj"]


def text_features(w: dict[str, Tensor], ids: Tensor, quick_gelu: bool = False) -> Tensor:
    x = w["token_embedding.weight"][ids] + w["positional_embedding"][: ids.shape[1]]
    mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
    x = _block(w, "transformer.resblocks.0", x, TEXT_HEADS, quick_gelu, mask)
    at_end = _norm(w, "ln_final", x)[torch.arange(len(ids)), ids.argmax(dim=1)]
    return at_end @ w["text_projection"]


def _block(
    w: dict[str, Tensor], name: str, x: Tensor, heads: int, quick: bool, mask: Any = 0.0
) -> Tensor:
    y = _norm(w, f"{name}.ln_1", x)
    qkv = y @ w[f"{name}.attn.in_proj_weight"].T + w[f"{name}.attn.in_proj_bias"]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + mask).softmax(dim=-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    x = x + mixed @ w[f"{name}.attn.out_proj.weight"].T + w[f"{name}.attn.out_proj.bias"]
    y = _norm(w, f"{name}.ln_2", x)
    y = y @ w[f"{name}.mlp.c_fc.weight"].T + w[f"{name}.mlp.c_fc.bias"]
    y = y * torch.sigmoid(1.702 * y) if quick else y * 0.5 * (1 + torch.erf(y / 2**0.5))
    return x + y @ w[f"{name}.mlp.c_proj.weight"].T + w[f"{name}.mlp.c_proj.bias"]


def _norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]
