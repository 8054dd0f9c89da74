"""The reader of statements: shared prefixes and shared lower layers change no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mrrag_llamaindex.steering.attention.registry import BACKENDS, register
from mrrag_llamaindex.steering.ifa import IFA, min_max_lambdas
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.spans import PromptSpans

asking = pytest.importorskip("tools.language_study.asking")
from tools.language_study.questions import Case, Statement  # noqa: E402
from tools.language_study.reader import Read  # noqa: E402

POLICIES = [
    IFA(layers=(2,)),
    IFA(strength=2.0, layers=(1, 2), question_rows="question"),
    PASTA(layers=(0, 1, 2)),
]


class Words:
    """A prompt of one token for each word, and two behind the question."""

    answers = (3, 4)

    def read(self, case: Case) -> Read:
        tokens, documents = [1], []
        for document in case.documents:
            start = len(tokens)
            tokens += [5 + len(word) for word in document.text.split()]
            documents.append((start, len(tokens)))
        start = len(tokens)
        tokens += [5 + len(word) for word in case.asked.question.split()]
        spans = PromptSpans(tuple(documents), (start, len(tokens)), len(tokens) + 2)
        return Read((*tokens, 2, 2), spans)


def statement(question: str, answer: str) -> Statement:
    return Statement(question, answer, "image", "test", True)


CASES = [
    Case(
        statement("is there a large nodule", "yes"),
        (statement("any nodule seen", "yes"), statement("any effusion at all", "no")),
        (1.0, 0.0),
    ),
    Case(
        statement("effusion", "no"),
        (statement("any effusion", "no"), statement("is it a chest film of a man", "yes")),
        (0.2, 0.9),
    ),
]


def model(backend: str):
    register()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attn_implementation=BACKENDS[backend].registered,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.slow
@torch.inference_mode()
def test_every_variant_gives_what_one_whole_steered_pass_gives():
    variants = [asking.plain, *map(asking.steered, POLICIES), asking.plain]
    found = asking.Asking(model("rows"), Words()).ask(CASES, variants)
    eager = model("eager")
    for column, case in enumerate(CASES):
        read = Words().read(case)
        for row, policy in enumerate([None, *POLICIES, None]):
            plan = policy and SteeringPlan.build(
                [read.spans], [min_max_lambdas(case.scores)], policy, (), len(read.tokens)
            )
            kwargs = {} if plan is None else {"steering": plan}
            logits = eager(torch.tensor([read.tokens]), **kwargs).logits[0, -1]
            assert found[row, column] == pytest.approx(float(logits[4] - logits[3]), abs=1e-4)
    assert np.abs(found[1:4] - found[0]).max() > 1e-2


@pytest.mark.slow
def test_likelihood_and_verdict_are_those_of_the_gold_answer():
    odds = np.array([[2.0, 2.0]])  # yes; the truths are yes and no
    assert asking.right(odds, CASES).tolist() == [[True, False]]
    assert np.exp(asking.log_likelihood(odds, CASES)).round(3).tolist() == [[0.881, 0.119]]
