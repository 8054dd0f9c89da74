"""An opened original checkpoint is the model that it was written from."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original
from mrrag_llamaindex.generation.checkpoints.stored_tensors import StoredTensor

TOWER = "model.vision_tower.vision_tower.vision_model."


@pytest.mark.parametrize("tower", [True, False])
@pytest.mark.parametrize(("suffix", "shards"), [("safetensors", 3), ("safetensors", 1), ("bin", 2)])
def test_logits_equal_those_of_the_model_it_was_written_from(
    make: ModuleType,
    original: Any,
    clip: Path,
    tmp_path: Path,
    suffix: str,
    shards: int,
    tower: bool,
) -> None:
    if not tower:
        original.drop_tower()
        make.use_tower_of(clip, original.reference)
    folder = original.write(tmp_path, suffix=suffix, shards=shards)
    opened = open_original(folder, allow_pickle=suffix == "bin")
    assert make.difference(make.load(opened), original.reference) <= 1e-5
    assert opened.vision_source == ("checkpoint" if tower else f"clip: {clip}")
    assert any("holds no vision tower" in note for note in opened.notes) is not tower


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("mistral", {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 8}),
        ("mistral", {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}),
        ("mistral", {"rope_theta": 100.0, "rms_norm_eps": 1e-2, "num_hidden_layers": 11}),
        ("llama", {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10}),
        ("llama", {"max_position_embeddings": 2048, "rope_theta": 500.0}),
    ],
)
def test_other_dimensions(
    make: ModuleType, clip: Path, pieces: bytes, tmp_path: Path, kind: str, text: dict[str, Any]
) -> None:
    original = make.make_original(clip, pieces, kind=kind, seed=5, **text)
    opened = open_original(original.write(tmp_path))
    assert opened.config.text_config.model_type == kind
    assert make.difference(make.load(opened), original.reference) <= 1e-5


def test_the_class_token_is_kept_where_the_original_keeps_it(
    make: ModuleType, original: Any, tmp_path: Path
) -> None:
    original.config["mm_vision_select_feature"] = "cls_patch"
    opened = open_original(original.write(tmp_path))
    model = make.load(opened)
    features = model.get_image_features(torch.randn(1, 3, 28, 28)).pooler_output[0]
    assert len(features) == 5 == opened.config.image_seq_length
    assert opened.processor._get_num_multimodal_tokens([[28, 28]])["num_image_tokens"] == [5]


def test_nothing_is_read_before_it_is_needed(
    make: ModuleType, original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = original.write(tmp_path)
    monkeypatch.setattr(
        "mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower._difference",
        lambda *_: "",
    )
    read: list[str] = []
    reading = StoredTensor.read
    monkeypatch.setattr(
        StoredTensor, "read", lambda self: (read.append(self.key), reading(self))[1]
    )
    opened = open_original(folder)
    assert read == []
    make.load(opened)
    assert sorted(read) == sorted(original.tensors)


def test_a_stored_half_precision_stays(make: ModuleType, original: Any, tmp_path: Path) -> None:
    original.tensors = {k: v.bfloat16() for k, v in original.tensors.items()}
    original.config["torch_dtype"] = "float16"
    opened = open_original(original.write(tmp_path))
    model = make.load(opened, dtype="auto")
    assert model.dtype == torch.bfloat16
    weight = model.model.language_model.layers[1].mlp.up_proj.weight
    assert torch.equal(weight, original.tensors["model.layers.1.mlp.up_proj.weight"])
    assert make.load(opened, dtype=torch.float32).dtype == torch.float32


def test_probabilities_are_those_of_the_original_vocabulary(
    make: ModuleType, original: Any, tmp_path: Path
) -> None:
    opened = open_original(original.write(tmp_path))
    model = make.load(opened)
    assert model.config.text_config.vocab_size == 384
    assert model.config.image_token_id == 330
    output = model.generate(
        **make.inputs(330),
        max_new_tokens=1,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    given = output.scores[0].softmax(-1)[0]
    with torch.inference_mode():
        logits = original.reference(**make.inputs(330)).logits[0, -1, :330]
    torch.testing.assert_close(given[:330], logits.softmax(-1), atol=1e-6, rtol=1e-4)
    assert given[330:].sum() == 0


def test_new_rows_are_the_mean_of_the_others(original: Any, tmp_path: Path) -> None:
    tensors = open_original(original.write(tmp_path)).tensors
    for name, key in (
        ("language_model.model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
    ):
        stored = original.tensors[key]
        assert torch.equal(tensors[name][...][:330], stored)
        expected = stored.double().mean(0).float().expand(54, -1)
        assert torch.equal(tensors[name][...][330:], expected)


def test_an_image_token_that_is_there_is_used(
    make: ModuleType, clip: Path, pieces: bytes, original: Any, tmp_path: Path
) -> None:
    from transformers import LlamaTokenizer

    folder = original.write(tmp_path)
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>", "<pad>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    wide = make.make_original(clip, pieces, vocabulary=332)
    wide.config["vocab_size"] = 332
    save = {k: v.clone() for k, v in wide.tensors.items()}
    for file in folder.glob("model*"):
        file.unlink()
    save_file(save, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(wide.config))
    opened = open_original(folder)
    assert (opened.config.image_token_id, opened.config.text_config.pad_token_id) == (330, 331)
    assert opened.config.text_config.vocab_size == 332
    assert opened.generation_config.suppress_tokens is None
    assert opened.tensors["language_model.lm_head.weight"].shape[0] == 332
