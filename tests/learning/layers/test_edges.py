"""Blocking removes exactly the cells that it names, and an edge names the right ones."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.learning.layers.edges import (
    STEERED,
    Edge,
    block_plan,
    default_window,
    edges_of,
    everything,
    window_around,
)
from mrrag_llamaindex.steering.block import Block, hiding_mask
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans

pytestmark = pytest.mark.usefixtures("one_thread")

SPANS = PromptSpans(((5, 8), (9, 9), (10, 12)), (14, 17), 19, (1, 5))


@contextmanager
def cut_by_hand(model, layers, rows, columns):
    """Put the lowest number into cells of the mask that reaches chosen layers of an eager model."""

    def hook(module, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        low = torch.finfo(torch.float32).min
        for row in rows:
            for column in columns:
                mask[:, :, row, column] = False if mask.dtype == torch.bool else low
        return args, {**kwargs, "attention_mask": mask}

    with ExitStack() as stack:
        for layer in layers:
            attention = model.model.language_model.layers[layer].self_attn
            handle = attention.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def cells(edge: Edge) -> tuple[list[int], list[int]]:
    return list(edge.rows), [c for start, stop in edge.columns for c in range(start, stop)]


@pytest.mark.parametrize("layers", [(0,), (1, 2), (0, 1, 2)])
def test_every_edge_equals_cutting_the_mask_by_hand(toy, rows_model, load, layers):
    stock = load("stock-eager")
    depth = stock.config.text_config.num_hidden_layers
    layers = [layer for layer in layers if layer < depth]
    prompt = toy.prompts[0]
    spans = PromptSpans(
        prompt.spans.documents,
        prompt.spans.question,
        prompt.spans.length,
        (1, 1 + toy.image_tokens),
    )
    edges = edges_of(spans)
    inputs = toy.batch([prompt] * (len(edges) + 1))
    plan = block_plan([*edges, None], spans, layers)
    found = toy.logits(rows_model, inputs, plan)
    plan.require_applied()
    single = toy.batch([prompt])
    plain = toy.logits(stock, single)
    for row, edge in enumerate(edges):
        with cut_by_hand(stock, layers, *cells(edge)):
            expected = toy.logits(stock, single)
        torch.testing.assert_close(found[row : row + 1], expected, atol=5e-6, rtol=1e-5)
        assert (expected - plain).abs().max() > 1e-4, edge.name  # else the test shows nothing


def test_a_row_without_an_edge_is_untouched_to_the_last_bit(toy, rows_model):
    prompt = toy.prompts[0]
    edge = everything(prompt.spans)
    inputs = toy.batch([prompt] * 2)
    plain = toy.logits(rows_model, inputs)
    found = toy.logits(rows_model, inputs, block_plan([edge, None], prompt.spans, [0, 1]))
    assert torch.equal(found[1], plain[1])
    assert not torch.equal(found[0], plain[0])
    nothing = toy.logits(rows_model, inputs, block_plan([None, None], prompt.spans, [0, 1]))
    assert torch.equal(nothing, plain)


def test_padding_stays_hidden_under_a_block(toy, rows_model):
    """A row blocked in a padded batch is the row blocked alone."""
    plans = []
    for chosen in (toy.prompts, toy.prompts[:1]):
        length = max(len(prompt.ids) for prompt in chosen)
        weights = torch.zeros(len(chosen), length)
        rows = torch.zeros(len(chosen), length, dtype=torch.bool)
        padding = []
        for row, prompt in enumerate(chosen):
            pad = length - len(prompt.ids)
            padding.append(pad)
            start, stop = prompt.spans.documents[0]
            weights[row, pad + start : pad + stop] = 1
            rows[row, pad + prompt.spans.question[0] :] = True
        plans.append(SteeringPlan(weights, rows, frozenset({0, 1}), tuple(padding), policy=Block()))
    together = toy.logits(rows_model, toy.batch(toy.prompts), plans[0])
    alone = toy.logits(rows_model, toy.batch(toy.prompts[:1]), plans[1])
    torch.testing.assert_close(together[0, -5:], alone[0, -5:], atol=5e-6, rtol=1e-5)


def test_blocked_columns_get_no_attention_and_the_rest_shares_it():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    weights = torch.tensor([[0.0, -0.5, 0.0]])  # anything but 0 blocks
    attention = Block().steer(logits, weights).softmax(-1)
    expected = torch.tensor([[1.0, 0.0, torch.e**2]]) / (1 + torch.e**2)
    torch.testing.assert_close(attention, expected)


def test_blocked_rows_are_those_that_ifa_steers():
    for rows in ("question", "to_end"):
        edges = {edge.name: edge for edge in edges_of(SPANS, rows)}
        steered = range(*IFA(question_rows=rows).rows(SPANS))
        assert edges[STEERED].rows == edges["image->question"].rows == tuple(steered)
        assert edges["question->last"] == Edge("question->last", (18,), ((14, 17),))
        assert edges["document-1->question+last"].rows == tuple(sorted({*steered, 18}))
    assert edges_of(SPANS) == edges_of(SPANS, IFA().question_rows)


def test_edges_name_question_last_image_and_each_document():
    edges = {edge.name: edge for edge in edges_of(SPANS, "question")}
    assert edges["documents->question"] == Edge(
        "documents->question", (14, 15, 16), ((5, 8), (10, 12))
    )
    assert edges["image->question"].columns == ((1, 5),)
    assert edges["question->last"] == Edge("question->last", (18,), ((14, 17),))
    assert edges["documents->last"].rows == (18,)
    third = edges["document-3->question+last"]
    assert (third.rows, third.columns) == ((14, 15, 16, 18), ((10, 12),))
    assert "document-2->question+last" not in edges  # an empty document
    assert everything(SPANS).rows == (14, 15, 16, 17, 18)
    assert sorted(cells(everything(SPANS))[1]) == [1, 2, 3, 4, 5, 6, 7, 10, 11]  # the image, too


def test_where_the_question_ends_the_prompt_its_last_token_is_the_answering_row():
    edges = {edge.name: edge for edge in edges_of(PromptSpans(((1, 3),), (3, 6), 6))}
    assert edges["documents->question"].rows == (3, 4, 5)  # as steering's rows
    assert edges["question->last"] == Edge("question->last", (5,), ((3, 5),))
    assert "image->question" not in edges
    one_word = {edge.name for edge in edges_of(PromptSpans(((1, 3),), (3, 4), 4))}
    assert "question->last" not in one_word


@pytest.mark.parametrize(
    ("centre", "width", "depth", "expected"),
    [
        (0, 9, 32, range(0, 5)),
        (16, 9, 32, range(12, 21)),
        (31, 9, 32, range(27, 32)),
        (5, 10, 32, range(0, 10)),
        (2, 1, 4, range(2, 3)),
    ],
)
def test_windows_are_those_of_the_papers(centre, width, depth, expected):
    assert window_around(centre, width, depth) == expected


def test_default_window_is_nine_of_32_and_one_of_four():
    assert [default_window(depth) for depth in (1, 4, 32)] == [1, 1, 9]


def test_a_column_behind_a_row_is_refused():
    with pytest.raises(SteeringError, match="must stand before its rows"):
        Edge("question->question", (4, 5), ((4, 5),))


def test_blocking_inside_the_shared_prefix_is_refused():
    with pytest.raises(SteeringError, match="inside the shared prefix of 15"):
        block_plan(edges_of(SPANS), SPANS, [0], shared_prefix=15)


def test_no_layers_are_refused():
    with pytest.raises(SteeringError, match="at least one layer"):
        block_plan(edges_of(SPANS), SPANS, [])


def test_hiding_mask_is_causal_and_hides_per_row():
    hidden = torch.zeros(2, 4, dtype=torch.bool)
    hidden[0, 1] = True
    mask = hiding_mask(hidden, 2)
    assert mask.shape == (2, 1, 2, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 1, 0], [1, 0, 1, 1]]
    assert mask[1, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_hiding_a_row_of_the_call_is_refused():
    with pytest.raises(SteeringError, match="columns to hide"):
        hiding_mask(torch.tensor([[False, False, True, False]]), 2)
