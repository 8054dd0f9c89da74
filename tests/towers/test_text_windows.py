"""`TextWindows`: no text is dropped unless that was chosen, and a report is data."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.towers.text_windows import TextWindows, Window

# [PAD] 0 [UNK] 1 [CLS] 2 [SEP] 3 no 4 shows 5 pleural 6 effusion 7 heart 8


def test_a_short_text_is_one_window_with_special_tokens(tokenizer: Any) -> None:
    windows = TextWindows(tokenizer, 8).split(["No pleural effusion"])
    assert windows == [Window(0, (2, 4, 6, 7, 3), 3)]


def test_a_long_text_is_cut_into_windows_that_do_not_overlap(tokenizer: Any) -> None:
    windows = TextWindows(tokenizer, 4).split(["heart", "no pleural effusion shows no"])
    assert windows == [
        Window(0, (2, 8, 3), 1),
        Window(1, (2, 4, 6, 3), 2),
        Window(1, (2, 7, 5, 3), 2),
        Window(1, (2, 4, 3), 1),
    ]


def test_truncate_keeps_the_first_window_only(tokenizer: Any) -> None:
    windows = TextWindows(tokenizer, 4, long_text="truncate").split(["no pleural effusion shows"])
    assert windows == [Window(0, (2, 4, 6, 3), 2)]


def test_windows_count_by_their_tokens() -> None:
    windows = [Window(1, (), 3), Window(0, (), 2), Window(1, (), 1)]
    vectors = torch.tensor([[1.0, 0.0], [5.0, 6.0], [0.0, 1.0]])
    combined = TextWindows.combine(vectors, windows, 2)
    # text 1: (3 * [1, 0] + 1 * [0, 1]) / 4
    assert combined.tolist() == [[5.0, 6.0], [0.75, 0.25]]


def test_special_tokens_written_in_a_report_are_read_as_characters(tokenizer: Any) -> None:
    (window,) = TextWindows(tokenizer, 16).split(["heart [SEP] normal"])
    assert window.input_ids.count(3) == 1
    assert window.input_ids[-1] == 3


def test_a_tokenizer_without_special_tokens_adds_none(tokenizer_of: Callable[..., Any]) -> None:
    assert TextWindows(tokenizer_of(special=False), 2).split(["no pleural effusion"]) == [
        Window(0, (4, 6), 2),
        Window(0, (7,), 1),
    ]


@pytest.mark.parametrize("second", ["  \n", "", None, "no \ud800"])
def test_a_text_that_is_none_is_refused_by_its_number(tokenizer: Any, second: Any) -> None:
    with pytest.raises(InputError, match="text 2 of 2"):
        TextWindows(tokenizer, 8).split(["heart", second])


def test_a_text_of_nothing_but_invisible_characters_is_refused(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(InputError, match="text 1 of 1 holds nothing"):
        TextWindows(tokenizer, 8).split(["\u200b\u200b"])


def test_padding_is_masked_and_can_fill_to_the_limit(tokenizer: Any) -> None:
    texts = ["heart", "no pleural effusion"]
    longest = TextWindows(tokenizer, 8)
    batch = longest.batch(longest.split(texts))
    assert batch["input_ids"].tolist() == [[2, 8, 3, 0, 0], [2, 4, 6, 7, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    full = TextWindows(tokenizer, 8, padding="max_length")
    assert full.batch(full.split(texts))["input_ids"].shape == (2, 8)


def test_settings_follow_what_moves_vectors(tokenizer_of: Callable[..., Any]) -> None:
    settings = TextWindows(tokenizer_of(), 8).settings()
    used = TextWindows(tokenizer_of(), 8)
    used.batch(used.split(["heart " * 30]))
    assert used.settings() == settings
    others = [
        TextWindows(tokenizer_of(), 9),
        TextWindows(tokenizer_of(), 8, long_text="truncate"),
        TextWindows(tokenizer_of(special=False), 8),
    ]
    assert all(other.settings() != settings for other in others)


@pytest.mark.parametrize(
    "wrong", [{"long_text": "drop"}, {"padding": "left"}, {"limit": 2}], ids=str
)
def test_wrong_settings_are_refused(tokenizer: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"long_text|padding|room"):
        TextWindows(tokenizer, **{"limit": 8, **wrong})


def test_a_tokenizer_without_padding_token_is_refused(tokenizer: Any) -> None:
    tokenizer.pad_token = None
    with pytest.raises(TowerError, match="padding token"):
        TextWindows(tokenizer, 8)


def test_threads_share_one_tokenizer(tokenizer: Any) -> None:
    windows = TextWindows(tokenizer, 6)

    def work(number: int) -> bool:
        texts = ["no pleural effusion " * (number % 7 + 1)] * 5
        split = windows.split(texts)
        return len(windows.batch(split)["input_ids"]) == len(split)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(200)))
