"""Each policy by hand, on every backend, in padded batches and in decode steps."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.registry import (
    ifa_attention_forward,
    ifa_eager_attention_forward,
)
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies import registry
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.uniform import Uniform
from mrrag_llamaindex.steering.spans import PromptSpans

FUNCTIONS = [ifa_attention_forward, ifa_eager_attention_forward]
# Image 0..1, documents 1..2 and 2..3, question 3..4, one closing token.
SPANS = PromptSpans(((1, 2), (2, 3)), (3, 4), 5, image=(0, 1))
LOGITS = torch.tensor(
    [
        [1.0, 9.0, 9.0, 9.0, 9.0],
        [-1.0, 2.0, 9.0, 9.0, 9.0],
        [-2.0, 1.0, 0.5, 9.0, 9.0],
        [-2.0, -1.0, 1.5, 0.5, 9.0],
        [-3.0, 0.5, -1.0, 1.0, 0.25],
    ]
)


def module(groups: int = 1) -> SimpleNamespace:
    return SimpleNamespace(layer_idx=0, num_key_value_groups=groups, is_causal=True, training=False)


def softmax(*logits: float) -> list[float]:
    total = sum(map(math.exp, logits))
    return [math.exp(x) / total for x in logits]


# Lambda is 1 for the first document and .4 for the second; what each changed row becomes.
BY_HAND = {
    IFA(question_rows="question"): {3: [-2.0, 0.0, 2.1, 0.5]},  # -1 + 1*1, 1.5 + .4*1.5
    IFA(): {3: [-2.0, 0.0, 2.1, 0.5], 4: [-3.0, 1.0, -0.6, 1.0, 0.25]},
    IFA(strength=2.0, image=0.25): {  # the image: -2 + 2*.25*2, -3 + 2*.25*3
        3: [-1.0, 1.0, 2.7, 0.5],
        4: [-1.5, 1.5, -0.2, 1.0, 0.25],
    },
    Uniform(strength=0.5, question_rows="question"): {3: [-2.0, -0.5, 2.25, 0.5]},
    Uniform(strength=0.5, question_rows="question", image=1.0): {3: [-1.0, -0.5, 2.25, 0.5]},
    HardMask(question_rows="question"): {3: [-2.0, -1.0, -math.inf, 0.5]},
    HardMask(): {
        3: [-2.0, -1.0, -math.inf, 0.5],
        4: [-3.0, 0.5, -math.inf, 1.0, 0.25],
    },
    PASTA(alpha=0.1): {
        3: [-2 + math.log(0.1), -1.0, 1.5 + math.log(0.1), 0.5 + math.log(0.1)],
        4: [math.log(0.1) + x for x in (-3.0, 0.5 - math.log(0.1), -1.0, 1.0, 0.25)],
    },
    PASTA(alpha=0.1, question_rows="question"): {
        3: [-2 + math.log(0.1), -1.0, 1.5 + math.log(0.1), 0.5 + math.log(0.1)],
    },
    PAI(alpha=0.2): {4: [-2.4, 0.5, -1.0, 1.0, 0.25]},
}


def test_every_policy_has_a_row_by_hand():
    assert {type(policy) for policy in BY_HAND} == set(registry.POLICIES.values())


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("policy", BY_HAND, ids=repr)
def test_every_policy_by_hand(policy, function):
    plan = SteeringPlan.build([SPANS], [(1.0, 0.4)], policy, (0,), 5)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    if function is ifa_eager_attention_forward:
        mask = torch.zeros(1, 1, 5, 5).masked_fill(~mask, torch.finfo(torch.float32).min)
    eye = torch.eye(5)[None, None]
    output, _ = function(module(), LOGITS[None, None], eye, eye, mask, scaling=1.0, steering=plan)
    for row in range(5):
        logits = BY_HAND[policy].get(row, LOGITS[row, : row + 1].tolist())
        expected = torch.tensor([*softmax(*logits), *[0.0] * (4 - row)])
        torch.testing.assert_close(output[0, row, 0], expected, atol=1e-6, rtol=0)
    assert plan.report.rows == {0: len(BY_HAND[policy])}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("policy", "expected"),
    [  # columns: image, two documents, question, its end, and a token that was generated
        (IFA(), [*LOGITS[4].tolist(), 0.75]),
        (IFA(every_step=True), [-3.0, 1.0, -0.6, 1.0, 0.25, 0.75]),  # .5 + 1*.5, -1 + .4*1
        (Uniform(every_step=True), [-3.0, 1.0, 0.0, 1.0, 0.25, 0.75]),
        (HardMask(every_step=True), [-3.0, 0.5, -math.inf, 1.0, 0.25, 0.75]),
        (PAI(every_step=False), [*LOGITS[4].tolist(), 0.75]),
    ],
    ids=repr,
)
def test_the_row_of_a_generated_token_by_hand(policy, expected, function):
    plan = SteeringPlan.build([SPANS], [(1.0, 0.4)], policy, (0,), 5)
    query = torch.tensor([[[[*LOGITS[4].tolist(), 0.75]]]])
    eye = torch.eye(6)[None, None]
    output, _ = function(module(), query, eye, eye, None, scaling=1.0, steering=plan)
    torch.testing.assert_close(output[0, 0, 0], torch.tensor(softmax(*expected)))
    assert plan.report.steps == ({0: 1} if policy.every_step else {})
    assert plan.report.rows == {}


def test_pasta_is_its_published_formula():
    """alpha * A_ij / C_i outside the highlighted set, A_ij / C_i inside."""
    row, weights = LOGITS[4], torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    scaled = row.softmax(-1) * torch.tensor([0.03, 1.0, 0.03, 0.03, 0.03])
    steered = PASTA(alpha=0.03).steer(row, weights).softmax(-1)
    torch.testing.assert_close(steered, scaled / scaled.sum())


@pytest.mark.parametrize("kind", ["min", "inf"])
@pytest.mark.parametrize("policy", [HardMask(), PASTA(), Uniform(), PAI(alpha=1.0)], ids=repr)
def test_no_policy_un_masks_a_cell(policy, kind):
    lowest = -torch.inf if kind == "inf" else torch.finfo(torch.float32).min
    mask = torch.zeros(1, 1, 5, 5).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), lowest)
    mask[..., :, 0] = lowest  # the image column is masked, too
    mask[..., 0, 0] = 0.0
    rows = torch.tensor([[False, False, True, True, True]])
    plan = SteeringPlan(torch.tensor([[1.0, 1, 0, 1, 1]]), rows, frozenset({0}), policy=policy)
    eye = torch.eye(5)[None, None]
    for function in FUNCTIONS:
        out, _ = function(module(), LOGITS[None, None], eye, eye, mask, scaling=1.0, steering=plan)
        attention = out[0, :, 0]
        assert torch.isfinite(attention).all()
        assert attention.triu(1)[1:].abs().max() == 0
        assert attention[2:, 0].abs().max() == 0


# ---- which documents


@pytest.mark.parametrize(
    ("lambdas", "hidden"),
    [
        ((1.0, 0.49, 0.5), [False, True, False]),
        ((0.0, 0.0, 0.0), [False, False, False]),  # nothing to prefer
        ((0.0,), [False]),
        ((0.2, 0.3, 0.1), [True, False, True]),  # the best stays, however low
        ((0.3, 0.3, 0.1), [False, False, True]),
        ((), []),
    ],
)
def test_hard_mask_hides_what_is_below_but_never_the_best(lambdas, hidden):
    assert HardMask().hidden(lambdas) == hidden


@pytest.mark.parametrize("policy", [IFA(), HardMask(), PASTA()], ids=repr)
@pytest.mark.parametrize("lambdas", [(0.0, 0.0), (0.0,)])
def test_lambda_zero_everywhere_leaves_the_prompt_alone(policy, lambdas):
    spans = replace(SPANS, documents=SPANS.documents[: len(lambdas)])
    plan = SteeringPlan.build([spans], [lambdas], policy, (0,), 5)
    assert not plan.is_active
    assert plan.window(5, 5, torch.device("cpu")) is None
    assert plan.window(1, 6, torch.device("cpu")) is None
    plan.require_applied()


def test_uniform_reads_no_relevance():
    build = SteeringPlan.build
    one = build([SPANS], [(0.0, 0.0)], Uniform(), (0,), 5).column_weights
    two = build([SPANS], [(1.0, 0.3)], Uniform(), (0,), 5).column_weights
    assert one.tolist() == two.tolist() == [[0, 1, 1, 0, 0]]


def test_pasta_weighs_all_but_the_highlighted_documents_and_no_padding():
    spans = PromptSpans(((2, 4), (4, 6), (7, 8)), (9, 10), 11)
    plan = SteeringPlan.build([spans], [(1.0, 0.2, 0.6)], PASTA(), (0,), 14, shared_prefix=5)
    #        [0 1 d0 d0 d1 | . . . | d1 6 d2 8 q 10]
    assert plan.column_weights[0].tolist() == [1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1]
    assert plan.steered_rows[0].nonzero().flatten().tolist() == [12, 13]


def test_pasta_highlights_a_document_at_the_threshold_itself():
    assert PASTA(threshold=0.4).columns(SPANS, (0.4, 0.39)) == [((0, 1), 1.0), ((2, 5), 1.0)]
    assert PASTA(threshold=0.4).columns(SPANS, (0.39, 0.0)) == []


def test_default_layers():
    assert HardMask().default_layers(4) == (0, 1, 2, 3)
    assert PAI().default_layers(32) == tuple(range(2, 32))  # the original's read-me
    assert PAI().default_layers(4) == (0, 1, 2, 3)
    assert IFA().default_layers(4) is Uniform().default_layers(4) is PASTA().default_layers(4)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: HardMask(threshold=1.1), "threshold"),
        (lambda: HardMask(mode="hide"), "mode"),
        (lambda: HardMask(mode="drop", layers=(1,)), "layers"),
        (lambda: HardMask(question_rows="all"), "question_rows"),
        (lambda: HardMask(layers=()), "layers"),
        (lambda: PASTA(alpha=0.0), "alpha"),
        (lambda: PASTA(threshold=0.0), "threshold"),
        (lambda: PASTA(heads={}), "heads"),
        (lambda: PASTA(heads={1: ()}), "heads"),
        (lambda: PASTA(heads={1: (0,)}, layers=(2,)), "layers"),
        (lambda: IFA(by_layer={}), "by_layer"),
        (lambda: IFA(by_layer={1: 0.0}), "by_layer"),
        (lambda: IFA(by_layer={1: math.inf}), "by_layer"),
        (lambda: IFA(by_layer={1: 1.0}, layers=(2,)), "layers"),
        (lambda: IFA(by_layer={1: 1.0}, heads={2: (0,)}), "heads"),
        (lambda: PAI(alpha=-0.1), "alpha"),
        (lambda: PAI(alpha=math.nan), "alpha"),
        (lambda: PAI(guidance=0.9), "guidance"),
        (lambda: Uniform(strength=-1), "strength"),
    ],
)
def test_fields_out_of_range_are_refused(make, field):
    with pytest.raises(ValueError, match=field):
        make()


def test_policies_are_values_that_can_be_keys():
    assert hash(PASTA(heads={1: [0, 2]})) == hash(PASTA(heads={1: (0, 2)}))
    assert PASTA(heads={1: (0,)}).layers == (1,)
    assert IFA(by_layer={2: 1, 1: 3}) == IFA(by_layer={1: 3.0, 2: 1.0}, layers=(2, 1))
    assert IFA(by_layer={2: 1}).layers == (2,)
    assert len({PAI(), PAI(alpha=0.3), HardMask(), Uniform(), IFA(), IFA()}) == 5
    assert Uniform() != IFA()


def test_a_strength_by_layer_is_ifa_of_that_strength_in_each_layer():
    logits, weights = torch.tensor([1.5, -1.0, 4.0]), torch.tensor([1.0, 0.5, 0.0])
    policy = IFA(strength=2.0, by_layer={1: 0.5, 3: 2.0})
    # The weights hold the strength already: 1.5 + .5 * 1.5, -1 + .5 * .5; four times that in 3.
    assert policy.in_layer(1).steer(logits, weights).tolist() == [2.25, -0.75, 4.0]
    assert policy.in_layer(3).steer(logits, weights).tolist() == [4.5, 0.0, 4.0]
    assert IFA().in_layer(1) == IFA()


# ---- in a model: 8 query heads on 2 key heads

POLICIES = [
    IFA(image=0.5),
    IFA(question_rows="question", every_step=True),
    Uniform(every_step=True),
    HardMask(),
    HardMask(question_rows="question", every_step=True),
    PASTA(alpha=0.1),
    PASTA(alpha=0.1, heads={1: (0, 5), 2: (3,)}),
    IFA(by_layer={1: 0.5, 2: 3.0}, heads={1: (0, 5), 2: range(6)}),
    PAI(alpha=0.8),
]


def plan_of(toy, prompts, policy):
    spans = [replace(prompt.spans, image=(1, 1 + toy.image_tokens)) for prompt in prompts]
    length = max(len(prompt.ids) for prompt in prompts)
    return SteeringPlan.build(
        spans, toy.lambdas[: len(prompts)], policy, toy.critical, padded_length=length
    )


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_backends_agree_in_a_padded_batch_and_with_single_rows(load, toy, policy):
    inputs = toy.batch(toy.prompts)
    real = inputs["attention_mask"].bool()
    expected = toy.logits(load("eager"), inputs, plan_of(toy, toy.prompts, policy))
    for backend in ("rows", "flex"):
        plan = plan_of(toy, toy.prompts, policy)
        found = toy.logits(load(backend), inputs, plan)
        plan.require_applied()
        # Sums in another order, in float32: up to 1.03e-5 was seen, on a CPU with AVX2 only.
        torch.testing.assert_close(found[real], expected[real], atol=2e-5, rtol=0)
    plain = toy.logits(load("rows"), inputs)
    assert (expected[:, -1] - plain[:, -1]).abs().max() > 1e-3
    for row, prompt in enumerate(toy.prompts[:1]):
        alone = SteeringPlan.build(
            [replace(prompt.spans, image=(1, 1 + toy.image_tokens))],
            [toy.lambdas[row]],
            policy,
            toy.critical,
            len(prompt.ids),
        )
        single = toy.logits(load("rows"), toy.batch([prompt]), alone)[0]
        torch.testing.assert_close(single, expected[row][real[row]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("policy", [IFA(), *POLICIES], ids=repr)
def test_decode_steps_are_those_of_a_growing_prompt(load, toy, policy):
    """Those of every step steer each, the others none; every backend does the same."""
    inputs, steps = toy.batch(toy.prompts), 3
    logits = {}
    # FlexAttention builds a mask for every step, which takes a second without a compiler.
    backends = (
        ("rows", "eager", "flex") if policy.question_rows == "question" else ("rows", "eager")
    )
    for backend in backends:
        plan = plan_of(toy, toy.prompts, policy)
        logits[backend] = load(backend).generate(
            **inputs,
            steering=plan,
            do_sample=False,
            min_new_tokens=steps + 1,
            max_new_tokens=steps + 1,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        plan.require_applied()
        steered = policy.every_step
        assert plan.report.steps == (dict.fromkeys(toy.critical, steps) if steered else {})
        assert plan.report.applications == dict.fromkeys(toy.critical, 1)
    plan = plan_of(toy, toy.prompts, policy).followed_by(steps)
    text = logits["eager"].sequences[:, :-1]
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, steps), value=1)
    whole = toy.logits(load("rows"), {**inputs, "input_ids": text, "attention_mask": mask}, plan)
    for backend in backends:
        pairs = zip(logits[backend].logits, logits["eager"].logits, strict=True)
        for step, (one, two) in enumerate(pairs):
            torch.testing.assert_close(one, two, atol=2e-5, rtol=0)
            torch.testing.assert_close(whole[:, step - steps - 1], two, atol=2e-5, rtol=0)
    if policy.every_step and policy.heads is None:
        # The same tokens again, unsteered behind the prompt: the step must differ from it.
        plan = replace(plan_of(toy, toy.prompts, policy), every_step=False)
        once = load("rows").generate(
            **inputs,
            steering=plan,
            do_sample=False,
            max_new_tokens=2,
            min_new_tokens=2,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        assert (once.logits[1] - logits["rows"].logits[1]).abs().max() > 1e-4


def test_image_steering_at_the_last_row_is_ifa_with_a_constant(load, toy):
    """Independent of the policy: a hand-made plan with the image's columns."""
    prompt = toy.prompts[0]
    length = len(prompt.ids)
    weights, rows = torch.zeros(1, length), torch.zeros(1, length, dtype=torch.bool)
    weights[0, 1 : 1 + toy.image_tokens], rows[0, -1] = 0.8, True
    plan = SteeringPlan(weights, rows, frozenset(toy.critical), policy=IFA())
    expected = toy.logits(load("eager"), toy.batch([prompt]), plan)
    found = toy.logits(load("eager"), toy.batch([prompt]), plan_of(toy, [prompt], PAI(alpha=0.8)))
    assert torch.equal(found, expected)


def test_decode_step_that_a_layer_left_out_is_an_error(toy):
    plan = plan_of(toy, toy.prompts[:1], PAI())
    for layer in toy.critical:
        plan.report.record(layer, 1)
    plan.report.expect_step()
    plan.report.record_step(toy.critical[0])
    with pytest.raises(SteeringError, match=r"every decode step in layers \[2\]: 2: 0 of 1"):
        plan.require_applied()


def test_head_that_does_not_exist_is_refused(load, toy):
    plan = plan_of(toy, toy.prompts[:1], PASTA(heads={1: (0, 8)}))
    with pytest.raises(SteeringError, match=r"heads \[8\] do not exist: each layer has 8 heads"):
        toy.logits(load("rows"), toy.batch(toy.prompts[:1]), plan)


@pytest.mark.parametrize("image", [(3, 3), (-1, 2), (4, 6)])
def test_image_outside_the_prompt_is_refused(image):
    with pytest.raises(SteeringError, match="image: token span"):
        replace(SPANS, image=image)
