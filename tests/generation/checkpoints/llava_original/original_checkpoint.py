"""Write a small checkpoint in the layout of the original LLaVA code.

The transformers model is made first; its tensors are then written under the original names by the
table below, which shares nothing with the package.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)

from mrrag_llamaindex.generation.checkpoints.llava_original.opening import OriginalCheckpoint
from mrrag_llamaindex.steering.attention.model_class import (
    attention_implementation,
    steerable_class,
)
from mrrag_llamaindex.steering.attention.registry import register

TOWER = "model.vision_tower.vision_tower.vision_model."
ORIGINAL_NAMES = (
    ("model.language_model.", "model."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.vision_tower.", TOWER),
)
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "initializer_range": 0.1,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "initializer_range": 0.15,
}
IMAGE_TOKENS = 4
SENTENCES = (
    "[INST] Is there a pleural effusion? [/INST] No.",
    "The heart is of normal size. The lungs are clear.",
    "Report 1: No pleural effusion or nodule is seen. yes Yes",
)


def sentencepiece_model() -> bytes:
    """Train a byte-fallback BPE model of LLaMA's kind; 330 pieces."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=written,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()


def write_clip(folder: Path, *, seed: int = 7, **vision: Any) -> CLIPModel:
    """Write a whole CLIP model, text side included, as the hub has them."""
    torch.manual_seed(seed)
    text = CLIPTextConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
    )
    config = CLIPConfig(text_config=text, vision_config=CLIPVisionConfig(**VISION | vision))
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    return model


@dataclass
class Original:
    """What is written; every part can be changed before `write`."""

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    reference: LlavaForConditionalGeneration
    tokenizer_model: bytes
    tokenizer_config: dict[str, Any] = field(
        default_factory=lambda: {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<unk>",
            "legacy": False,
            "model_max_length": 2048,
            "padding_side": "right",
        }
    )

    def drop_tower(self) -> None:
        self.tensors = {k: v for k, v in self.tensors.items() if ".vision_tower." not in k}

    def write(self, folder: Path, *, suffix: str = "safetensors", shards: int = 3) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "tokenizer.model").write_bytes(self.tokenizer_model)
        (folder / "tokenizer_config.json").write_text(json.dumps(self.tokenizer_config))
        stem = "model" if suffix == "safetensors" else "pytorch_model"
        names = sorted(self.tensors)
        index = {}
        for number in range(shards):
            file = f"{stem}-{number + 1:05}-of-{shards:05}.{suffix}"
            if shards == 1:
                file = f"{stem}.{suffix}"
            part = {name: self.tensors[name] for name in names[number::shards]}
            if suffix == "safetensors":
                save_file(part, folder / file, metadata={"format": "pt"})
            else:
                torch.save(part, folder / file)
            index |= dict.fromkeys(part, file)
        if shards > 1:
            text = json.dumps({"metadata": {}, "weight_map": index})
            (folder / f"{stem}.{suffix}.index.json").write_text(text)
        return folder


def make_original(
    clip: Path,
    tokenizer_model: bytes,
    *,
    kind: str = "mistral",
    seed: int = 0,
    vocabulary: int = 330,
    vision: dict[str, Any] | None = None,
    **text: Any,
) -> Original:
    """Make a random model and its tensors under the original names.

    The reference has rows for an image token behind the vocabulary, with values of its own.
    """
    torch.manual_seed(seed)
    values = TEXT | text
    made = MistralConfig if kind == "mistral" else LlamaConfig
    window = {"sliding_window": None} if kind == "mistral" else {}
    reference = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=made(vocab_size=384, **values, **window),
            vision_config=CLIPVisionConfig(**VISION | (vision or {})),
            image_token_index=vocabulary,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            image_seq_length=IMAGE_TOKENS,
        )
    ).eval()
    # Biases and norms of a fresh model are zeros and ones, under which mistakes could hide.
    for parameter in reference.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    tensors = {}
    for name, tensor in reference.state_dict().items():
        new = name
        for begin, original in ORIGINAL_NAMES:
            if name.startswith(begin):
                new = original + name[len(begin) :]
                break
        if new in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor = tensor[:vocabulary]
        tensors[new] = tensor.clone().contiguous()
    config = {
        "architectures": [f"Llava{kind.title()}ForCausalLM"],
        "model_type": f"llava_{kind}",
        "vocab_size": vocabulary,
        **values,
        **window,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "mm_vision_tower": str(clip),
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "use_mm_proj": True,
        "tokenizer_model_max_length": 2048,
        "tokenizer_padding_side": "right",
    }
    return Original(config, tensors, reference, tokenizer_model)


def inputs(image_token: int, *, seed: int = 3, side: int = 28) -> dict[str, torch.Tensor]:
    """One prompt with an image, whose words all lie in the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 300, (1, 9), generator=generator)
    image = torch.full((1, IMAGE_TOKENS), image_token)
    ids = torch.cat([torch.tensor([[1]]), image, words], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, side, side, generator=generator),
    }


def load(opened: OriginalCheckpoint, **options: Any) -> LlavaForConditionalGeneration:
    """In memory, as the engine does: the steerable class, nothing missing and nothing over."""
    register()
    model, told = steerable_class(LlavaForConditionalGeneration).from_pretrained(
        None,
        config=opened.config,
        state_dict=dict(opened.tensors),
        attn_implementation=attention_implementation(LlavaForConditionalGeneration, "rows"),
        output_loading_info=True,
        **options,
    )
    assert not any(told.values()), told
    model.generation_config = opened.generation_config
    return model.eval()


def difference(
    model: LlavaForConditionalGeneration, reference: LlavaForConditionalGeneration
) -> float:
    """Largest difference of logits over the words of the original vocabulary."""
    with torch.inference_mode():
        mine = model(**inputs(model.config.image_token_id)).logits
        theirs = reference(**inputs(reference.config.image_token_id)).logits
    assert theirs[..., :330].std() > 0.3, "the reference says nothing"
    return float((mine[..., :330] - theirs[..., :330]).abs().max())


def use_tower_of(clip: Path, reference: LlavaForConditionalGeneration) -> None:
    """Put CLIP's vision weights into the reference, by the names of its file."""
    stored = load_file(clip / "model.safetensors")
    vision = {k[len("vision_model.") :]: v for k, v in stored.items() if k.startswith("vision_")}
    reference.model.vision_tower.load_state_dict(vision, strict=True)
