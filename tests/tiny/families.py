"""A tiny random checkpoint of every supported family, with its own processor and chat template.

``initializer_range`` is above the usual .02, so that attention is peaked and steering visible.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

from tests.tiny.tokenizers import byte_pairs

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.12,
    "max_position_embeddings": 1024,
    "vocab_size": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TURN = "{{{{ '{open}' + message['role'] + '\\n' }}}}{parts}{{{{ '{close}\\n' }}}}"
PARTS = (
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}{{ 'IMAGE' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}"
)


def chat_template(open_: str, close: str, image: str, bos: bool = False) -> str:
    """Make a template in the way of ChatML, with the marks of one family."""
    turn = TURN.format(open=open_, close=close, parts=PARTS.replace("IMAGE", image))
    return (
        ("{{ bos_token }}" if bos else "")
        + "{%- for message in messages -%}"
        + turn
        + "{%- endfor -%}{%- if add_generation_prompt -%}{{ '"
        + open_
        + "assistant\\n' }}{%- endif -%}"
    )


TEXT_TURNS = (
    "{%- for message in messages -%}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def _clip_images() -> Any:
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )


def llava_config(text: Any, image_token: int) -> Any:
    """Configuration of a LLaVA that makes 4 tokens of an image of 28 pixels."""
    return transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-2,
        image_seq_length=4,
    )


def llava(text: Any = None) -> tuple[Any, Any]:
    tokens = byte_pairs(["<image>"])
    config = llava_config(
        text or transformers.MistralConfig(**TEXT, sliding_window=None),
        tokens.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.LlavaProcessor(
        image_processor=_clip_images(),
        tokenizer=tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return config, processor


def llava_llama() -> tuple[Any, Any]:
    return llava(transformers.LlamaConfig(**TEXT))


def llava_next() -> tuple[Any, Any]:
    tokens = byte_pairs(["<image>"])
    tiles = [[28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.MistralConfig(**TEXT, sliding_window=None),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_grid_pinpoints=tiles,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_grid_pinpoints=tiles,
        ),
        tokenizer=tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return config, processor


def qwen2_5_vl() -> tuple[Any, Any]:
    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokens = byte_pairs([*marks, "<|im_start|>", "<|im_end|>"], bos=False)
    tokens.chat_template = chat_template(
        "<|im_start|>", "<|im_end|>", "<|vision_start|><|image_pad|><|vision_end|>"
    )
    ids = dict(zip(marks, tokens.convert_tokens_to_ids(marks), strict=True))
    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    dim = TEXT["head_dim"]  # which this family derives
    text["hidden_size"] = dim * TEXT["num_attention_heads"]
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **text,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [dim // 8, 3 * dim // 16, 3 * dim // 16],
            },
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, min_pixels=56 * 56, max_pixels=84 * 84
    )
    return config, (tokens, images)  # its processor needs torchvision for videos


def gemma3() -> tuple[Any, Any]:
    marks = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    lines = ["\n\n\n\n", "\n\n\n", "\n\n", "\n"]  # tokens that its processors look up
    tokens = byte_pairs(
        [*marks, "<start_of_turn>", "<end_of_turn>", *lines],
        extra_special_tokens=dict(
            zip(("boi_token", "eoi_token", "image_token"), marks, strict=True)
        ),
    )
    ids = tokens.convert_tokens_to_ids(marks)
    config = transformers.Gemma3Config(
        vision_config={**VISION, "image_size": 56, "model_type": "siglip_vision_model"},
        text_config={
            **TEXT,
            "sliding_window": 48,
            "layer_types": [f"{kind}_attention" for kind in ("sliding", "full", "full", "sliding")],
            "query_pre_attn_scalar": 16,
        },
        mm_tokens_per_image=4,
        boi_token_index=ids[0],
        eoi_token_index=ids[1],
        image_token_index=ids[2],
    )
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        tokenizer=tokens,
        image_seq_length=4,
        chat_template=chat_template(
            "<start_of_turn>", "<end_of_turn>", "<start_of_image>", bos=True
        ),
    )
    return config, processor


def qwen3_vl() -> tuple[Any, Any]:
    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokens = byte_pairs([*marks, "<|im_start|>", "<|im_end|>"], bos=False)
    tokens.chat_template = chat_template(
        "<|im_start|>", "<|im_end|>", "<|vision_start|><|image_pad|><|vision_end|>"
    )
    ids = dict(zip(marks, tokens.convert_tokens_to_ids(marks), strict=True))
    config = transformers.Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],  # into the first two layers of the text model
        },
        text_config={
            **TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_interleaved": True,
                "mrope_section": [2, 3, 3],
            },
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, min_pixels=64 * 64, max_pixels=96 * 96
    )
    return config, (tokens, images)  # its processor needs torchvision for videos


def internvl() -> tuple[Any, Any]:
    marks = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokens = byte_pairs(
        [*marks, "<|im_start|>", "<|im_end|>"],
        bos=False,
        extra_special_tokens=dict(zip(names, marks, strict=True)),
    )
    tokens.chat_template = chat_template("<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>\\n")
    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [28, 28], "patch_size": [7, 7]},
        text_config=transformers.Qwen2Config(**text),
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = transformers.GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, min_patches=1, max_patches=4
    )
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    return config, (tokens, images, settings)


def llava_onevision() -> tuple[Any, Any]:
    tokens = byte_pairs(["<image>", "<video>", "<|im_start|>", "<|im_end|>"], bos=False)
    tokens.chat_template = chat_template("<|im_start|>", "<|im_end|>", "<image>")
    tiles = [[28, 28], [28, 56], [56, 28], [56, 56]]
    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=transformers.Qwen2Config(**text),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=tiles,
    )
    images = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=tiles
    )
    settings = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 4,
        "vision_feature_select_strategy": "full",
    }
    return config, (tokens, images, settings)


IDEFICS_TURNS = (
    "{{ START }}{%- for message in messages -%}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    + PARTS.replace("IMAGE", "<image>")
    + "{{ '<end_of_utterance>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)


def idefics3(kind: str = "Idefics3", start: str = "bos_token") -> tuple[Any, Any]:
    marks = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokens = byte_pairs([*marks, *rows, "<|im_start|>"])
    tokens.chat_template = IDEFICS_TURNS.replace("START", start)
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**VISION, "image_size": 28, "patch_size": 7},
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = getattr(transformers, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    settings = {"processor_class": f"{kind}Processor", "image_seq_len": 4}
    return config, (tokens, images, settings)


def smolvlm() -> tuple[Any, Any]:
    return idefics3("SmolVLM", "'<|im_start|>'")


def mistral() -> tuple[Any, Any]:
    return transformers.MistralConfig(**TEXT, sliding_window=None), (byte_pairs([]),)


def llama() -> tuple[Any, Any]:
    tokens = byte_pairs(["<|user|>", "<|assistant|>"])
    tokens.chat_template = TEXT_TURNS
    return transformers.LlamaConfig(**TEXT), (tokens,)


FAMILIES = {
    "llava": ("LlavaForConditionalGeneration", llava),
    "llava-llama": ("LlavaForConditionalGeneration", llava_llama),
    "llava_next": ("LlavaNextForConditionalGeneration", llava_next),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", qwen2_5_vl),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", qwen3_vl),
    "internvl": ("InternVLForConditionalGeneration", internvl),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", llava_onevision),
    "gemma3": ("Gemma3ForConditionalGeneration", gemma3),
    "idefics3": ("Idefics3ForConditionalGeneration", idefics3),
    "smolvlm": ("SmolVLMForConditionalGeneration", smolvlm),
    "mistral": ("MistralForCausalLM", mistral),
    "llama": ("LlamaForCausalLM", llama),
}
"""Name to (class in transformers, function that makes configuration and processor)."""


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of one family in the layout in which the hub holds it."""
    if name in ("idefics3", "smolvlm") and Version(transformers.__version__) < Version("5.18"):
        pytest.importorskip("torchvision", reason=f"this transformers reads {name} with it only")
    class_name, make = FAMILIES[name]
    config, parts = make()
    torch.manual_seed(seed)
    model = getattr(transformers, class_name)(config).eval()
    for parameter in model.parameters():
        # Gemma 3's projection starts at zero, and so do positions of InternVL's vision tower.
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=TEXT["initializer_range"])
    model.save_pretrained(folder)
    for part in parts if isinstance(parts, tuple) else (parts,):
        if isinstance(part, dict):  # of a processor that needs torchvision, or more, to be made
            (folder / "processor_config.json").write_text(json.dumps(part))
        else:
            part.save_pretrained(folder)
    return folder
