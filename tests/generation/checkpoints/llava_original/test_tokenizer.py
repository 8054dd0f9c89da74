"""The tokenizer gives the ids of the original code, fast, and BOS once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original

TOWER = "model.vision_tower.vision_tower.vision_model."


@pytest.mark.parametrize("legacy", [True, False, None])
def test_ids_are_those_of_the_original_code(
    original: Any, tmp_path: Path, legacy: bool | None
) -> None:
    import sentencepiece

    original.tokenizer_config.pop("legacy")
    if legacy is not None:
        original.tokenizer_config["legacy"] = legacy
    opened = open_original(original.write(tmp_path))
    tokenizer = opened.processor.tokenizer
    before, after = "[INST] ", "\nReport 1: é yes. Is there a nodule?  [/INST]"
    encoding = tokenizer(before + "<image>" * 4 + after, return_offsets_mapping=True)
    # The original tokenizes the text before and after the image on its own (LLaVA-Med,
    # mm_utils.tokenizer_image_token) and drops the second BOS.
    spm = sentencepiece.SentencePieceProcessor(model_proto=original.tokenizer_model)
    assert encoding["input_ids"] == [1, *spm.encode(before), *[330] * 4, *spm.encode(after)]
    first = len(before) + len("<image>") * 4 + after.index("nodule")
    over = [
        token
        for token, (start, stop) in zip(
            encoding["input_ids"], encoding["offset_mapping"], strict=True
        )
        if start < first + len("nodule") and stop > first
    ]
    assert tokenizer.decode(over).strip() == "nodule"


@pytest.mark.parametrize("adds", [True, False, None])
def test_the_beginning_is_written_once(original: Any, tmp_path: Path, adds: bool | None) -> None:
    original.tokenizer_config.pop("add_bos_token")
    if adds is not None:
        original.tokenizer_config["add_bos_token"] = adds
    tokenizer = open_original(original.write(tmp_path)).processor.tokenizer
    ids = tokenizer("Is there a nodule?")["input_ids"]
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert 2 not in ids


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_a_missing_package_is_named(
    original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    folder = original.write(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"pip install {package.split('.')[-1]}"):
        open_original(folder)


def test_no_tokenizer(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ModelError, match=r"neither tokenizer.model nor tokenizer.json"):
        open_original(folder)


def test_a_damaged_tokenizer(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path)
    (folder / "tokenizer.model").write_bytes(original.tokenizer_model[:500])
    with pytest.raises(ModelError, match="tokenizer could not be read"):
        open_original(folder)
