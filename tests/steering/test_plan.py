from __future__ import annotations

import threading

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.report import SteeringReport
from mrrag_llamaindex.steering.spans import PromptSpans

CPU = torch.device("cpu")


def spans(length: int = 10) -> PromptSpans:
    return PromptSpans(documents=((1, 3), (3, 5)), question=(6, 8), length=length)


OWN_ROWS = IFA(question_rows="question")


def build(prompts, lambdas, padded, ifa=OWN_ROWS, layers=(0, 2)):
    return SteeringPlan.build(prompts, lambdas, ifa, layers, padded)


# ---- spans


@pytest.mark.parametrize(
    ("documents", "question"),
    [
        (((4, 8),), (1, 3)),  # question first
        (((1, 8),), (3, 5)),  # question inside a document
        (((1, 4), (7, 9)), (5, 6)),  # a document after the question
    ],
)
def test_question_that_does_not_follow_the_documents_is_refused(documents, question):
    with pytest.raises(SteeringError, match="does not come after document"):
        PromptSpans(documents, question, 10)


@pytest.mark.parametrize("question", [(6, 6), (8, 11), (-1, 4)])
def test_empty_or_outside_question_is_refused(question):
    with pytest.raises(SteeringError, match="question: token span"):
        PromptSpans((), question, 10)


def test_overlapping_documents_are_refused():
    with pytest.raises(SteeringError, match=r"document 1: .* overlaps"):
        PromptSpans(((1, 4), (3, 5)), (6, 8), 10)


def test_document_outside_the_prompt_is_refused():
    with pytest.raises(SteeringError, match=r"document 0: .* outside"):
        PromptSpans(((-2, 4),), (6, 8), 10)


def test_empty_document_is_allowed_and_has_no_columns():
    plan = build([PromptSpans(((2, 2), (2, 4)), (6, 8), 10)], [(1.0, 0.5)], 10)
    assert plan.column_weights[0].nonzero().flatten().tolist() == [2, 3]


# ---- build


def test_spans_move_right_by_the_left_padding():
    plan = build([spans(10), spans(8)], [(0.0, 1.0), (0.5, 0.0)], padded=10)
    assert plan.column_weights.tolist() == [
        [0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0.5, 0.5, 0, 0, 0, 0, 0],  # columns 1, 2 of the prompt, pushed by 2
    ]
    assert plan.steered_rows.int().tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]
    assert plan.padding == (0, 2)


def test_strength_multiplies_lambda():
    plan = build([spans()], [(0.0, 0.5)], 10, IFA(strength=3.0))
    assert plan.column_weights.max() == 1.5


def test_the_default_steers_the_closing_tokens_too():
    plan = build([spans()], [(0.0, 1.0)], 10, IFA())
    assert plan.steered_rows[0].nonzero().flatten().tolist() == [6, 7, 8, 9]


def test_layers_of_the_method_take_the_place_of_the_profile():
    assert build([spans()], [(0.0, 1.0)], 10, IFA(layers=(5,))).layers == frozenset({5})
    assert build([spans()], [(0.0, 1.0)], 10, layers=range(3)).layers == frozenset({0, 1, 2})


@pytest.mark.parametrize(
    ("lambdas", "padded", "layers", "message"),
    [
        ([(1.0,)], 10, (0,), "row 0: 1 lambdas for 2 documents"),
        ([(1.0, 1.1)], 10, (0,), "outside"),
        ([(1.0, float("nan"))], 10, (0,), "outside"),
        ([(1.0, 0.0)], 9, (0,), "the batch only 9"),
        ([(1.0, 0.0)], 10, (), "no valid layers"),
        ([(1.0, 0.0)], 10, (-1,), "no valid layers"),
        ([(1.0, 0.0), (1.0, 0.0)], 10, (0,), "one list of lambdas per prompt"),
    ],
)
def test_ill_fitting_parts_are_refused(lambdas, padded, layers, message):
    with pytest.raises(SteeringError, match=message):
        build([spans()], lambdas, padded, layers=layers)


def test_hand_made_plan_is_checked_too():
    lam, rows = torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)
    for column_weights, steered_rows in [
        (lam, rows[:, :3]),
        (lam.double(), rows),
        (lam, rows.int()),
        (lam / 0, rows),
    ]:
        with pytest.raises(SteeringError):
            SteeringPlan(column_weights, steered_rows, frozenset({0}))


# ---- a prefix shared by the rows


def shared(prompts, lambdas, padded, prefix, ifa=OWN_ROWS):
    return SteeringPlan.build(prompts, lambdas, ifa, (0,), padded, shared_prefix=prefix)


def test_padding_stands_behind_the_shared_prefix():
    # [t d0 d0 | . . | d1 d1 t q q t t]: document 0 stays, document 1 and the question move by 2.
    plan = shared([spans(10), spans(8)], [(1.0, 0.5), (0.5, 1.0)], 10, 3)
    assert plan.padding == (0, 2)
    assert plan.column_weights.tolist() == [
        [0, 1, 1, 0.5, 0.5, 0, 0, 0, 0, 0],
        [0, 0.5, 0.5, 0, 0, 1, 1, 0, 0, 0],
    ]
    assert plan.steered_rows.int().tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]


def test_document_over_the_end_of_the_prefix_is_weighted_on_both_sides_of_the_gap():
    prompt = PromptSpans(((1, 5),), (5, 7), 8)
    plan = shared([prompt], [(1.0,)], 11, 3, IFA())
    assert plan.column_weights[0].nonzero().flatten().tolist() == [1, 2, 6, 7]
    assert plan.steered_rows[0].nonzero().flatten().tolist() == [8, 9, 10]


def test_prefix_of_zero_is_left_padding():
    prompts, lambdas = [spans(10), spans(8)], [(1.0, 0.5), (0.5, 1.0)]
    ours, left = shared(prompts, lambdas, 10, 0), build(prompts, lambdas, 10)
    assert torch.equal(ours.column_weights, left.column_weights)
    assert torch.equal(ours.steered_rows, left.steered_rows)
    assert (ours.padding, ours.shared_prefix) == (left.padding, left.shared_prefix) == ((0, 2), 0)


@pytest.mark.parametrize("prefix", [7, 8, 10])
def test_question_that_begins_in_the_shared_prefix_is_refused(prefix):
    late = PromptSpans(((1, 3), (3, 5)), (12, 14), 14)
    with pytest.raises(SteeringError, match=r"row 1: the question .* inside the shared prefix"):
        shared([late, spans()], [(1.0, 0.5), (1.0, 0.5)], 14, prefix)


@pytest.mark.parametrize("prefix", [-1, 5])
def test_prefix_that_does_not_fit_the_prompts_is_refused(prefix):
    lam, rows = torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)
    with pytest.raises(SteeringError, match="shared prefix"):
        SteeringPlan(lam, rows, frozenset({0}), shared_prefix=prefix)


# ---- activity


@pytest.mark.parametrize("ifa", [IFA(), IFA(strength=0.0)])
def test_plan_without_any_lambda_is_inactive_and_asks_for_nothing(ifa):
    lambdas = (0.0, 0.0) if ifa.strength else (0.0, 1.0)
    plan = build([spans()], [lambdas], 10, ifa)
    assert not plan.is_active
    assert plan.window(10, 10, CPU) is None
    plan.require_applied()


def test_row_without_lambda_is_left_to_the_stock_kernel():
    plan = build([spans(), spans()], [(0.0, 0.0), (0.0, 1.0)], 10)
    window = plan.window(10, 10, CPU)
    assert window is not None
    assert window.batch.tolist() == [1]
    assert window.count == 2


# ---- window


def test_row_offset_comes_from_the_cache_length():
    plan = build([spans()], [(0.0, 1.0)], 10)  # question rows 6 and 7
    assert plan.window(6, 6, CPU) is None
    first = plan.window(1, 7, CPU)
    rest = plan.window(3, 10, CPU)
    assert first is not None
    assert rest is not None
    assert (first.rows.tolist(), first.columns) == ([[0]], 7)
    assert (rest.rows.tolist(), rest.columns, rest.offset) == ([[0]], 8, 7)


def test_decode_steps_hold_no_steered_row():
    plan = build([spans()], [(0.0, 1.0)], 10, IFA(question_rows="to_end"))
    assert all(plan.window(1, keys, CPU) is None for keys in range(11, 20))


def test_keys_beyond_the_plan_are_refused_while_prompt_rows_are_among_the_queries():
    plan = build([spans()], [(0.0, 1.0)], 10)
    with pytest.raises(SteeringError, match="dynamic cache"):
        plan.window(10, 16, CPU)  # what a static cache of 16 looks like


def test_ragged_rows_are_filled_with_real_rows_and_written_once():
    long = PromptSpans(((1, 3),), (4, 9), 10)
    plan = build([long, spans()], [(1.0,), (0.0, 1.0)], 10)
    window = plan.window(10, 10, CPU)
    assert window is not None
    assert window.rows.tolist() == [[4, 5, 6, 7, 8], [6, 7, 7, 7, 7]]
    assert window.flat.tolist() == [0, 1, 2, 3, 4, 5, 6]


# ---- report


def test_layer_that_never_steered_is_an_error_that_names_it():
    plan = build([spans()], [(0.0, 1.0)], 10, layers=(0, 2))
    plan.report.record(0, 2)
    with pytest.raises(SteeringError, match=r"layers \[2\].*2: 0 of 2"):
        plan.require_applied()


def test_layer_that_steered_only_part_of_the_question_is_an_error():
    plan = build([spans()], [(0.0, 1.0)], 10, layers=(0,))
    plan.report.record(0, 1)
    with pytest.raises(SteeringError, match="0: 1 of 2"):
        plan.require_applied()
    plan.report.record(0, 1)  # the rest arrives with the next chunk
    plan.require_applied()
    assert plan.report.applications == {0: 2}
    assert plan.report.rows == {0: 2}


def test_report_counts_from_several_threads():
    report = SteeringReport()
    threads = [
        threading.Thread(target=lambda: [report.record(3, 2) for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (report.applications, report.rows) == ({3: 2000}, {3: 4000})
