"""The word-level tokenizer: exact offsets, no matter how a text is written."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.phantom.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_offsets_point_at_the_words_of_the_original_text(tokenizer):
    text = "  No evidence of PLEURAL Effusion;\nThere is a nodule, and a Fracture. "
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    words = [text[start:stop].lower() for start, stop in encoding["offset_mapping"]]
    assert words == tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    assert words == ["no", "effusion", "is", "nodule", "and", "fracture"]


@pytest.mark.parametrize(
    "question",
    ["Is there a pleural effusion?", "is there any PLEURAL EFFUSION", "Do you see an effusion?!"],
)
def test_case_punctuation_and_filler_do_not_matter(tokenizer, question):
    assert tokenizer.tokenize(question) == ["effusion"]


def test_unknown_words_are_unknown_and_not_dropped(tokenizer):
    assert tokenizer.tokenize("a hippopotamus") == ["<unk>"]


def test_control_tokens_keep_their_case_and_bos_is_added(tokenizer):
    ids = tokenizer("[INST] <image> no edema")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "[INST]", "<image>", "no", "edema"]


def test_answers_decode_to_words(tokenizer):
    for word in ("yes", "no"):
        assert tokenizer.decode(tokenizer.get_vocab()[word]) == word
