"""Every known fault of a converted copy is corrected and named, and the counts are the model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.chat_template import layout_of
from mrrag_llamaindex.generation.checkpoints.llava_original.processor import (
    CHAT_TEMPLATES,
    build_processor,
)
from mrrag_llamaindex.generation.checkpoints.processors import (
    correct_processor,
    lacks_processor,
    missing_processor,
)
from mrrag_llamaindex.generation.checkpoints.profile import PromptTemplate
from mrrag_llamaindex.images.load import pad_to_square

SIDE, PATCH = 42, 14  # nine patches


def config_for(bpe: Any, strategy: str = "default", **changes: Any) -> LlavaConfig:
    return LlavaConfig(
        text_config=MistralConfig(
            vocab_size=len(bpe) + 1,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-2,
        **{"image_token_index": bpe.convert_tokens_to_ids("<image>")} | changes,
    )


@pytest.fixture
def sound(bpe: Any, tmp_path: Path) -> Path:
    """A converted copy without a fault."""
    config = config_for(bpe)
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    build_processor(bpe, config).save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, **values: Any) -> None:
    path = folder / "processor_config.json"
    data = json.loads(path.read_text())
    for name, value in values.items():
        if value is ...:
            data.pop(name)
        else:
            data[name] = value
    path.write_text(json.dumps(data))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def cropping(folder: Path) -> None:
    size = {"height": SIDE, "width": SIDE}
    images = LlavaImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size, do_pad=False)
    edit(folder, image_processor=images.to_dict())


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no patch size": (lambda f: edit(f, patch_size=...), "patch_size of the processor was missing"),
    "null patch size": (lambda f: edit(f, patch_size=None), "patch_size of the processor was miss"),
    "other patch size": (lambda f: edit(f, patch_size=7), "patch_size of the processor was 7"),
    "no strategy": (
        lambda f: edit(f, vision_feature_select_strategy=...),
        "vision_feature_select_strategy of the processor was missing",
    ),
    "other strategy": (
        lambda f: edit(f, vision_feature_select_strategy="full"),
        "vision_feature_select_strategy of the processor was 'full'",
    ),
    "575 tokens": (
        lambda f: edit(f, num_additional_image_tokens=0),
        "num_additional_image_tokens of the processor was 0",
    ),
    "none additional": (
        lambda f: edit(f, num_additional_image_tokens=...),
        "num_additional_image_tokens of the processor was 0",
    ),
    "no chat template": (no_template, "no chat template"),
    "do_pad off": (cropping, "do_pad"),
    "no image token": (lambda f: edit(f, image_token="[IMG]"), "image_token was '\\[IMG\\]'"),
}


def counts(folder: Path, processor: Any) -> tuple[int, int]:
    """(image tokens that the processor writes, features that the model makes)."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    square = pad_to_square(image, processor.image_processor.image_mean)
    text = f"[INST] {processor.image_token}\na nodule? [/INST]"
    made = processor(images=[square], text=text, return_tensors="pt")
    with torch.inference_mode():
        model(**made)  # transformers itself refuses another number
        features = model.get_image_features(made["pixel_values"]).pooler_output[0]
    return int((made["input_ids"] == model.config.image_token_id).sum()), len(features)


def load(folder: Path) -> tuple[Any, LlavaConfig]:
    return AutoProcessor.from_pretrained(folder, backend="pil"), LlavaConfig.from_pretrained(folder)


def test_a_sound_copy_is_left_alone(sound: Path) -> None:
    processor, config = load(sound)
    assert correct_processor(processor, config) == ()
    assert counts(sound, processor) == (9, 9)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_mended_and_told(sound: Path, fault: str) -> None:
    damage, told = FAULTS[fault]
    damage(sound)
    processor, config = load(sound)
    corrections = correct_processor(processor, config)
    assert len(corrections) == 1, corrections
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(corrections[0])
    assert counts(sound, processor) == (9, 9)
    assert processor.chat_template
    assert correct_processor(processor, config) == ()


def test_a_layout_of_its_own_needs_no_chat_template(sound: Path) -> None:
    no_template(sound)
    processor, config = load(sound)
    assert correct_processor(processor, config, own_layout=True) == ()
    assert not processor.chat_template


def test_all_faults_at_once(sound: Path) -> None:
    no_template(sound)
    cropping(sound)
    edit(sound, patch_size=..., vision_feature_select_strategy=...)
    edit(sound, num_additional_image_tokens=0, image_token="[IMG]")
    processor, config = load(sound)
    assert len(correct_processor(processor, config)) == 6
    assert counts(sound, processor) == (9, 9)


def test_the_fault_is_real(sound: Path) -> None:
    edit(sound, num_additional_image_tokens=0)
    with pytest.raises(ValueError, match="tokens"):
        counts(sound, load(sound)[0])


def test_the_class_token_counts_where_it_is_kept(bpe: Any, tmp_path: Path) -> None:
    config = config_for(bpe, "full")
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    build_processor(bpe, config).save_pretrained(tmp_path)
    edit(tmp_path, num_additional_image_tokens=0, vision_feature_select_strategy="default")
    processor, config = load(tmp_path)
    assert len(correct_processor(processor, config)) == 2
    assert counts(tmp_path, processor) == (10, 10)


def test_padding_after_the_mend_is_ours(sound: Path) -> None:
    cropping(sound)
    processor, config = load(sound)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    correct_processor(processor, config)
    theirs = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    square = pad_to_square(image, processor.image_processor.image_mean)
    ours = processor.image_processor(images=[square], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_a_folder_without_a_processor(sound: Path) -> None:
    assert not lacks_processor(sound)
    (sound / "processor_config.json").unlink()
    assert lacks_processor(sound)
    tokenizer = AutoTokenizer.from_pretrained(sound)
    processor, corrections = missing_processor(tokenizer, LlavaConfig.from_pretrained(sound))
    assert len(corrections) == 1
    assert "preprocessor_config.json" in corrections[0]
    assert correct_processor(processor, LlavaConfig.from_pretrained(sound)) == ()
    assert counts(sound, processor) == (9, 9)
    (sound / "preprocessor_config.json").write_text("{}")
    assert not lacks_processor(sound)


def test_a_tower_whose_processing_cannot_be_guessed(bpe: Any) -> None:
    config = config_for(bpe)
    config.vision_config.model_type = "siglip_vision_model"
    with pytest.raises(ModelError, match="siglip_vision_model"):
        missing_processor(bpe, config)


def test_a_tokenizer_without_the_image_token_gets_it(bpe: Any, sound: Path) -> None:
    path = sound / "tokenizer.json"
    data = json.loads(path.read_text())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != "<image>"]
    path.write_text(json.dumps(data))
    settings = sound / "tokenizer_config.json"
    kept = json.loads(settings.read_text())
    kept.pop("added_tokens_decoder", None)
    settings.write_text(json.dumps(kept))
    (sound / "processor_config.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(sound)
    assert "<image>" not in tokenizer.get_vocab()
    processor, corrections = missing_processor(tokenizer, LlavaConfig.from_pretrained(sound))
    assert any("no image token" in sentence for sentence in corrections)
    assert counts(sound, processor) == (9, 9)


@pytest.mark.parametrize(("shift", "told"), [(-2, "stands for the image"), (50, "another model")])
def test_another_models_tokenizer_is_refused(bpe: Any, shift: int, told: str) -> None:
    right = config_for(bpe)
    processor = build_processor(bpe, right)
    wrong = config_for(bpe, image_token_index=right.image_token_index + shift)
    with pytest.raises(ModelError, match=told):
        correct_processor(processor, wrong)


def test_images_of_another_size_are_refused(bpe: Any, sound: Path) -> None:
    processor, config = load(sound)
    processor.image_processor.crop_size = {"height": 28, "width": 28}
    with pytest.raises(ModelError, match="writes 4 image tokens and the model makes 9"):
        correct_processor(processor, config)


def test_the_template_says_what_ours_says(bpe: Any) -> None:
    """LLaVA-Med's mistral_instruct turns, by way of the reader of foreign templates."""
    default = PromptTemplate()
    read = layout_of(CHAT_TEMPLATES["mistral"], bpe, default, image_marker="<image>", source="x")
    assert (read.opening, read.closing) == (default.opening, default.closing)
    assert read.answer_opening == default.answer_opening
    assert read.turn_end + read.turn_opening == default.turn_end + default.turn_opening
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    written = bpe.apply_chat_template(
        turns, chat_template=CHAT_TEMPLATES["llama"], tokenize=False, add_generation_prompt=False
    )
    assert written == "USER: a ASSISTANT: b</s>"
