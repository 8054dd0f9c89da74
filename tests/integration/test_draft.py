"""A draft says what it is, names the cases that moved a sentence, and marks what nothing moved."""

from __future__ import annotations

import json

import pytest

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.answers.draft import draft_report
from mrrag_llamaindex.integration.answers.report_draft import NOTICE, UNMOVED, ReportDraft
from mrrag_llamaindex.integration.answers.sentences import sentence_spans
from mrrag_llamaindex.phantom.corpus import as_pairs, make_corpus
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.towers.loading import load_towers

CORPUS = make_corpus(7, patients=24, queries=1, profiles=6)


@pytest.fixture(scope="module")
def llm() -> MRRAGLLaVA:
    return MRRAGLLaVA(model="phantom-describing", policy=IFA(every_step=True), max_new_tokens=20)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> MRRAGIndex:
    folder = tmp_path_factory.mktemp("draft")
    pairs = as_pairs(CORPUS.studies)
    return MRRAGIndex.from_pairs(pairs, towers=load_towers("phantom"), persist_dir=folder)


@pytest.fixture(scope="module")
def draft(index, llm) -> ReportDraft:
    return draft_report(index, llm, CORPUS.queries[0].study.image)


def test_every_finding_is_a_sentence_with_its_cases(draft):
    assert len(draft.sentences) == 8
    assert " ".join(one.text for one in draft.sentences) == draft.report
    read = {row["pair_id"] for row in draft.sources if row["read"]}
    assert len(read) == 6
    for sentence in draft.sentences:
        effects = {one.pair_id: one.effect for one in sentence.effects}
        assert effects.keys() == read
        assert sentence.cases == [n for n, e in effects.items() if e >= draft.threshold]
        assert sentence.against == [n for n, e in effects.items() if e <= -draft.threshold]
        others = max(abs(sentence.image_effect), abs(sentence.together)) >= draft.threshold
        moved = sentence.cases or sentence.against or others
        assert sentence.unmoved == (not moved)
    assert any(one.cases for one in draft.sentences)
    assert draft.steering["every_step"]


def test_a_draft_says_what_it_is_in_text_and_json(draft):
    assert "not a medical device" in NOTICE
    assert "checked by a radiologist" in NOTICE
    assert str(draft).startswith(NOTICE)
    written = json.loads(draft.model_dump_json())
    assert written["notice"] == NOTICE
    assert written["text"] == str(draft)
    first = draft.sentences[0]
    assert f"{first.text} [{first.mark}]" in str(draft)


def test_what_nothing_moves_is_marked(index, llm, draft):
    strict = draft_report(index, llm, CORPUS.queries[0].study.image, threshold=50.0)
    assert strict.report == draft.report
    assert all(one.unmoved and one.mark == UNMOVED for one in strict.sentences)
    assert str(strict).count(UNMOVED) == 8


def test_a_threshold_of_nothing_is_refused(index, llm):
    with pytest.raises(InputError, match="threshold is 0"):
        draft_report(index, llm, CORPUS.queries[0].study.image, threshold=0)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("nodule: absent. edema: present.", ["nodule: absent.", "edema: present."]),
        (
            "Findings:\nHeart size 1.5 times.\n\nNo edema",
            ["Findings:", "Heart size 1.5 times.", "No edema"],
        ),
        ("1. Nodule.\n2. No edema. 3.", ["1. Nodule.", "2. No edema. 3."]),
        ("...", ["..."]),
        (" \n", []),
    ],
)
def test_sentences_keep_every_word(text, sentences):
    assert [text[start:stop] for start, stop in sentence_spans(text)] == sentences
