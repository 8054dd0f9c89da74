"""Synthetic studies: the same for the same seed, and true to what they say."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.phantom.corpus import as_pairs, make_corpus, write_corpus
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.render import render
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
from mrrag_llamaindex.phantom.wording import ABSENT_WORDS, PRESENT_WORDS


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(11, patients=60, queries=30, profiles=10)


def test_same_seed_same_corpus_and_other_seed_another(corpus):
    assert make_corpus(11, patients=60, queries=30, profiles=10) == corpus
    assert make_corpus(12, patients=60, queries=30, profiles=10) != corpus


def test_same_seed_same_picture_bit_for_bit():
    findings = (True, False) * 4
    assert np.array_equal(np.asarray(render(findings, 3)), np.asarray(render(findings, 3)))
    assert not np.array_equal(np.asarray(render(findings, 3)), np.asarray(render(findings, 4)))


def test_report_says_of_each_mentioned_finding_what_is_true(corpus):
    """Read back through the tokenizer: the polarity word stands before the finding."""
    tokenizer = build_tokenizer()
    for study in corpus.studies:
        words = tokenizer.tokenize(study.report)
        for index, finding in enumerate(FINDINGS):
            assert (finding.token in words) == (index in study.mentioned)
            if index in study.mentioned:
                before = words[words.index(finding.token) - 1]
                said = PRESENT_WORDS if study.findings[index] else ABSENT_WORDS
                assert before in said, study.report


def test_question_names_its_finding_and_knows_the_truth(corpus):
    for query in corpus.queries:
        assert FINDINGS[query.finding].name in query.question
        assert query.answer == query.study.findings[query.finding]


def test_every_patient_is_another_and_queries_are_not_in_the_corpus(corpus):
    patients = [study.patient_id for study in corpus.studies]
    assert len(set(patients)) == len(patients)
    assert not {query.study.patient_id for query in corpus.queries} & set(patients)


def test_corpus_holds_matching_pairs_and_others(corpus):
    matches = [sum(query.matches(study) for study in corpus.studies) for query in corpus.queries]
    assert np.mean(matches) > 1
    assert max(matches) < len(corpus.studies) / 2


def test_a_finding_is_drawn_at_its_site_and_nowhere_else():
    absent = np.asarray(render((False,) * 8, 5).convert("L"), dtype=float)
    present = np.asarray(render((True,) + (False,) * 7, 5).convert("L"), dtype=float)
    change = np.abs(present - absent)
    x, y = (round(192 * value) for value in FINDINGS[0].centre)
    near = change[y - 10 : y + 10, x - 10 : x + 10].mean()
    assert near > 4 * np.median(change)
    assert near > 5


def test_the_generator_s_resolution_averages_the_texture_away():
    """At 48 pixels the stripes are gone; at 96, which the towers see, they are not."""

    def contrast(side: int) -> float:
        sites = []
        for findings in ((False,) * 8, (True,) + (False,) * 7):
            small = render(findings, 5).convert("L").resize((side, side), Image.Resampling.BICUBIC)
            x, y = (round(side * value) for value in FINDINGS[0].centre)
            reach = side // 20
            sites.append(np.asarray(small, float)[y - reach : y + reach, x - reach : x + reach])
        return sites[1].std() - sites[0].std()

    assert contrast(96) > 3 * abs(contrast(48))


def test_written_corpus_can_be_read_back(corpus, tmp_path):
    table = write_corpus(tmp_path, corpus.studies[:3])
    with table.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row, study in zip(rows, corpus.studies, strict=False):
        assert (row["pair_id"], row["report"]) == (study.pair_id, study.report)
        with Image.open(tmp_path / row["image"]) as image:
            assert np.array_equal(np.asarray(image), np.asarray(study.image))


def test_pairs_in_memory_carry_image_report_and_patient(corpus):
    (pair,) = as_pairs(corpus.studies[:1])
    study = corpus.studies[0]
    assert (pair.pair_id, pair.patient_id, pair.report) == (
        study.pair_id,
        study.patient_id,
        study.report,
    )


@pytest.mark.parametrize("numbers", [{"profiles": 0}, {"profiles": 257}, {"patients": 0}])
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match="out of range"):
        make_corpus(0, **numbers)


def test_regime_decides_what_tells_a_supporting_pair_from_another():
    """In "image" no mention, and in "text" no likeness, separates pairs that support."""
    image = make_corpus(11, patients=60, queries=10, profiles=10, regime="image")
    assert all(len(study.mentioned) == len(FINDINGS) for study in image.studies)
    assert len({study.findings for study in image.studies}) > 1
    text = make_corpus(11, patients=60, queries=10, profiles=10, regime="text")
    assert len({study.findings for study in text.studies}) == 1
    for query in text.queries:
        supports = [study.supports(query.finding, query.answer) for study in text.studies]
        assert supports == [query.finding in study.mentioned for study in text.studies]
        assert 0 < sum(supports) < len(supports)


def test_unknown_regime_is_an_error():
    with pytest.raises(ValueError, match="combination, image, text"):
        make_corpus(11, regime="both")
