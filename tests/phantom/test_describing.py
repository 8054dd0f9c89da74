"""The phantom that describes: its words, its training sequences, and what it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.evaluation.tasks.metrics.report_labels import report_findings
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.describing import (
    HEADS,
    REPORT_QUESTION,
    VALUES,
    build_describing_tokenizer,
    describe,
    open_question,
)
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.sets.describing_set import describing_set
from mrrag_llamaindex.phantom.studies import draw_findings, draw_study
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer, vocabulary
from tools.phantom_training.train_describing import DescribingCollator
from tools.phantom_training.training_data import Example

KNOWN = (True, False, True, False, False, True, False, True)


@pytest.fixture(scope="module")
def tokenizer():
    return build_describing_tokenizer()


def test_it_knows_the_words_of_the_other_phantom_under_their_ids(tokenizer):
    ids = tokenizer.get_vocab()
    assert [ids[word] for word in vocabulary()] == list(range(len(vocabulary())))
    report = draw_study(np.random.default_rng(0), "a", KNOWN).report
    assert tokenizer(report)["input_ids"] == build_tokenizer()(report)["input_ids"]


def test_a_statement_is_two_tokens_and_reads_back(tokenizer):
    text = describe(KNOWN)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words == [w for n, there in enumerate(KNOWN) for w in (HEADS[n], VALUES[there])]
    assert tokenizer.decode(ids) == text.lower()
    assert tokenizer.tokenize(REPORT_QUESTION) == ["describe"]
    assert tokenizer.tokenize(open_question([4, 1])) == ["nodule", "edema"]


def test_word_lists_read_what_it_writes():
    said = report_findings(describe(KNOWN))
    assert len(said) == len(FINDINGS)
    assert list(said.values()).count("present") == sum(KNOWN)
    assert "uncertain" not in said.values()


def test_a_branch_of_a_training_sequence_sees_no_other():
    collate = DescribingCollator(np.random.default_rng(1))
    examples = [
        Example(KNOWN, ("No edema. There is a nodule.",), (1, 4)),
        Example(KNOWN, ("Edema.", "No fracture."), (4, 7)),
    ]
    batch = collate(examples)
    vocabulary_of = collate.tokenizer.get_vocab()
    report = vocabulary_of["describe"]
    for row in range(2):
        mask = batch.attention_mask[row, 0]
        assert not torch.triu(mask, diagonal=1).any()
        (start,) = (batch.input_ids[row] == report).nonzero().flatten().tolist()
        stop = start + 2 * len(FINDINGS) + 2
        assert not mask[stop:, start:stop].any()
        ids = batch.input_ids[row, start + 1 : stop].tolist()
        assert collate.tokenizer.decode(ids[:-1]) == describe(KNOWN).lower()
        assert batch.labels[row, start : stop - 1].tolist() == ids
        weights = batch.weights[row, start : stop - 1].tolist()[1::2]
        told = examples[row].questions
        assert [round(w, 3) == 1 for w in weights[: len(KNOWN)]] == [n in told for n in range(8)]
    first, positions = batch.input_ids != collate.pad, batch.position_ids
    assert int(positions[first].max()) < batch.input_ids.shape[1]


def test_the_shipped_model_reads_one_report_of_the_patient():
    loaded = load_model(defaults.PHANTOM_DESCRIBING, device="cpu")
    engine = LlavaEngine(loaded, max_new_tokens=20)
    rng = np.random.default_rng(77)
    studies = [draw_study(rng, f"s{n}", draw_findings(rng), mentions=(8, 8)) for n in range(12)]
    requests = [
        PromptRequest(REPORT_QUESTION, (PromptDocument("a", study.report),)) for study in studies
    ]
    answers = engine.generate(requests, [study.image for study in studies])
    right = [
        one == other
        for answer, study in zip(answers, studies, strict=True)
        for one, other in zip(
            answer.text.split(), describe(study.findings).lower().split(), strict=True
        )
    ]
    assert np.mean(right) > 0.97


def test_sets_of_a_seed_are_the_same_and_tasks_differ_in_what_is_asked():
    one, again = (describing_set(3, "open", questions=4) for _ in range(2))
    assert one.digest == again.digest
    report = describing_set(3, "report", questions=4)
    assert {item.question for item in report.questions} == {REPORT_QUESTION}
    assert [q.patient_id for q in report.questions] == [q.patient_id for q in one.questions]
    assert all(label.count(":") == 2 for label in one.labels.values())
    assert not {q.patient_id for q in one.questions} & {p.patient_id for p in one.pairs}
