"""Which prompts run together, and what of them is computed once."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.generation.prompt.batching import LEAST_SHARED, PromptBatch, make_batches
from mrrag_llamaindex.generation.prompt.request import Prompt

IMAGE = tuple(range(100, 140))  # 40 tokens, more than LEAST_SHARED


def prompt(before: tuple[int, ...], question: tuple[int, ...] = (7, 8)) -> Prompt:
    """BOS, image, documents, question; `before` stands between image and question."""
    ids = (1, *IMAGE, *before, *question)
    start = 1 + len(IMAGE) + len(before)
    span = (start, start + len(question))
    return Prompt("", ids, (), (), (), span, (1, 1 + len(IMAGE)), (), 0)


def batches(prompts, images, size=8, shares=True):
    return make_batches(prompts, images, batch_size=size, shares_prefix=shares)


def test_questions_on_the_same_image_and_documents_share_all_up_to_the_question():
    prompts = [prompt((5, 6), (7,)), prompt((5, 6), (8, 9)), prompt((5, 6), (7, 9))]
    (batch,) = batches(prompts, ["a"] * 3)
    assert sorted(batch.rows) == [0, 1, 2]
    assert batch.shared == 1 + 40 + 2


def test_other_documents_on_the_same_image_share_the_image_and_what_follows_alike():
    prompts = [prompt((5, 6, 4)), prompt((5, 9)), prompt((5, 3, 3, 3))]
    (batch,) = batches(prompts, ["a"] * 3)
    assert batch.shared == 1 + 40 + 1


def test_the_same_tokens_on_another_image_share_nothing():
    """The ids of two images are alike: only the key tells them apart."""
    prompts = [prompt((5, 6)), prompt((5, 6))]
    (batch,) = batches(prompts, ["a", "b"])
    assert batch == PromptBatch((0, 1), 0)


def test_a_question_is_never_part_of_what_is_shared():
    prompts = [prompt((5,), (7, 8)), prompt((5, 7), (8, 8))]
    (batch,) = batches(prompts, ["a", "a"])
    assert batch.shared == 1 + 40 + 1


def test_prompts_that_differ_inside_the_image_are_not_cut_there():
    short = Prompt("", (1, *IMAGE[:36], 5, 7), (), (), (), (38, 39), (1, 37), (), 0)
    (batch,) = batches([short, prompt((5,))], ["a", "a"])
    assert batch.shared == 0


def test_little_in_common_is_not_worth_a_pass_of_its_own():
    ids = (1, *range(50, 50 + LEAST_SHARED - 2))
    prompts = [
        Prompt("", (*ids, q), (), (), (), (len(ids), len(ids) + 1), None, (), 0) for q in (7, 8)
    ]
    assert batches(prompts, [None, None]) == [PromptBatch((0, 1), 0)]


def test_single_question_takes_the_shared_road_whether_or_not_it_is_cached():
    assert batches([prompt((5, 6))], ["a"]) == [PromptBatch((0,), 43)]


def test_the_rest_runs_in_batches_of_about_equal_length():
    prompts = [prompt((5,) * n) for n in (1, 30, 2, 31, 3)]
    found = batches(prompts, ["a", "b", "c", "d", "e"], size=2)
    assert [batch.rows for batch in found] == [(3, 1), (4, 2), (0,)]


def test_shared_batches_are_cut_to_size_and_no_prompt_is_lost():
    prompts = [prompt((5, 6), (q,)) for q in range(7, 12)] + [prompt((9,))]
    found = batches(prompts, ["a"] * 5 + ["b"], size=2)
    assert sorted(row for batch in found for row in batch.rows) == list(range(6))
    assert max(len(batch.rows) for batch in found) == 2
    assert sum(batch.shared == 43 for batch in found) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_family_that_cannot_share_prefills_every_row_whole(count):
    prompts = [prompt((5, 6), (q,)) for q in range(count)]
    (batch,) = batches(prompts, ["a"] * count, shares=False)
    assert batch.shared == 0


def test_nothing_asked_is_nothing_to_run():
    assert batches([], []) == []
