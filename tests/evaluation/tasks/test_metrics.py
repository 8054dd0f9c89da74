"""Metrics of texts: cases computed by hand, the libraries' own values, and what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import mrrag_llamaindex
from mrrag_llamaindex.errors import InputError, MRRAGError
from mrrag_llamaindex.evaluation.tasks.metrics.clinical_metrics import chosen_metrics, clinical
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure, f1
from mrrag_llamaindex.evaluation.tasks.metrics.report_labels import (
    FINDINGS,
    label_counts,
    label_f1,
    report_findings,
)
from mrrag_llamaindex.evaluation.tasks.metrics.sections import section_of
from mrrag_llamaindex.evaluation.tasks.metrics.text_metrics import bleu, rouge_l

ANSWERS = ["no effusion is seen", "There is a nodule.", ""]
GOLDS = ["no pleural effusion is seen", "there is a nodule", "clear lungs"]


def shares(number: int, owners: int):
    return [str(n % owners) for n in range(number)]


class TestMeasure:
    def test_mean_and_its_interval_are_those_of_the_bootstrap(self):
        values = np.array([1.0, 0.0, 1.0, 1.0])
        measure = Measure.mean(values)
        assert measure.value == 0.75
        low, high = measure.interval(["a", "a", "b", "c"], 0)
        assert 0 <= low <= 0.75 <= high <= 1
        assert measure.interval(["a"] * 4, 0) is None

    def test_difference_is_of_the_same_draws(self):
        one = Measure.mean([1.0, 0.0, 1.0, 0.0])
        other = Measure.mean([0.5, -0.5, 0.5, -0.5])
        low, high = one.difference(other, shares(4, 4), 0)
        assert low == pytest.approx(0.5)
        assert high == pytest.approx(0.5)

    def test_f1_of_nothing_is_nothing(self):
        counts = np.array([2.0, 0.0]), np.array([1.0, 0.0]), np.array([0.0, 0.0])
        assert f1(*counts).tolist() == pytest.approx([0.8, 0.0])


class TestTextMetrics:
    def test_bleu_1_by_hand(self):
        # 4 of 4 words, 4 of 5 (the full stop is a word of 13a), 0 of 0; 11 words of references.
        expected = (8 / 9) * np.exp(1 - 11 / 9)
        assert bleu(ANSWERS, GOLDS, 1).value == pytest.approx(expected)

    @pytest.mark.parametrize("order", [1, 4])
    def test_bleu_is_the_librarys_of_the_corpus(self, order):
        from sacrebleu.metrics.bleu import BLEU

        answers = [*ANSWERS, "The heart is enlarged and the lungs are clear today."]
        golds = [*GOLDS, "the heart is mildly enlarged and the lungs are clear"]
        library = BLEU(lowercase=True, max_ngram_order=order).corpus_score(answers, [golds])
        assert bleu(answers, golds, order).value == pytest.approx(library.score / 100)

    def test_bleu_is_drawn_by_summing_the_ngrams_of_patients(self):
        measure = bleu(ANSWERS, GOLDS, 1)
        sums = measure.columns[[0, 0, 1]].sum(axis=0)
        twice = bleu([ANSWERS[0], ANSWERS[0], ANSWERS[1]], [GOLDS[0], GOLDS[0], GOLDS[1]], 1)
        assert float(measure.of_sums(sums)) == pytest.approx(twice.value)
        low, high = measure.interval(shares(3, 3), 0)
        assert 0 <= low <= measure.value <= high <= 1

    def test_perfect_answers_score_one(self):
        long = ["the heart is not enlarged and both lungs are clear"] * 3
        assert bleu(long, long, 4).value == pytest.approx(1)
        assert rouge_l(long, long).value == pytest.approx(1)

    def test_rouge_l_by_hand(self):
        # 4 of 4 and 4 of 5 words: 2 * 1 * .8 / 1.8; then the same words; then nothing.
        assert rouge_l(ANSWERS, GOLDS).value == pytest.approx((2 * 0.8 / 1.8 + 1 + 0) / 3)

    def test_rouge_l_is_the_librarys(self):
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"])
        own = [scorer.score(g, a)["rougeL"].fmeasure for a, g in zip(ANSWERS, GOLDS, strict=True)]
        assert rouge_l(ANSWERS, GOLDS).value == pytest.approx(np.mean(own))

    @pytest.mark.slow
    def test_meteor_names_wordnet_where_it_is_missing_and_is_that_by_hand(self, tmp_path):
        """In a process whose nltk finds its data in one folder alone."""
        given = json.dumps([one[:2] for one in METEOR])
        command = [sys.executable, "-c", METEOR_SCRIPT, str(empty_wordnet(tmp_path)), given]
        root = str(Path(mrrag_llamaindex.__file__).parents[1])
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
        assert done.returncode == 0, done.stderr
        missing, *found = done.stdout.splitlines()
        assert missing.startswith("MRRAGError: METEOR needs WordNet")
        assert METEOR[0][0] not in missing
        assert [float(value) for value in found] == pytest.approx([one[2] for one in METEOR])


METEOR = [
    # Four words, all matched, in one chunk: penalty .5 (1 / 4)^3.
    ("there is a nodule", "There is a nodule.", 1 - 0.5 / 64),
    # Two of two words match two of four: P 1, R .5, F = 10 P R / (R + 9 P); one chunk.
    ("a nodule", "there is a nodule", (5 / 9.5) * (1 - 0.5 / 8)),
    ("clear", "nodule", 0.0),
]
"""Answer, gold answer and METEOR."""


def empty_wordnet(folder: Path) -> Path:
    """Write a WordNet without any word, in the layout that nltk reads."""
    corpus = folder / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    (corpus / "lexnames").write_text("00\tadj.all\t3\n")
    (corpus / "index.sense").write_text("")
    for part in ("adj", "adv", "noun", "verb"):
        for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
            (corpus / name).write_text("  1 \n")
    return folder


METEOR_SCRIPT = """
import json, sys, nltk.data
from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.evaluation.tasks.metrics.text_metrics import meteor
folder, cases = sys.argv[1], json.loads(sys.argv[2])
nltk.data.path[:] = []
try:
    meteor(*([one] for one in cases[0]))
except MRRAGError as error:
    print("MRRAGError:", error)
nltk.data.path[:] = [folder]
for answer, gold in cases:
    print(meteor([answer], [gold]).value)
"""


SAID = {
    "No pleural effusion or pneumothorax.": {
        "pneumothorax": "absent",
        "pleural effusion": "absent",
    },
    "No edema, but there is a small right effusion.": {
        "edema": "absent",
        "pleural effusion": "present",
    },
    "Pneumonia cannot be excluded.": {"pneumonia": "uncertain"},
    "Possible consolidation at the left base.": {"consolidation": "uncertain"},
    "Cannot exclude atelectasis versus pneumonia.": {
        "pneumonia": "uncertain",
        "atelectasis": "uncertain",
    },
    "Nodule: absent. Fracture: present.": {"lung lesion": "absent", "fracture": "present"},
    "The heart is mildly enlarged.": {"cardiomegaly": "present"},
    "Pneumothorax is not seen. Effusion has resolved.": {
        "pneumothorax": "absent",
        "pleural effusion": "absent",
    },
    "No edema. Mild edema at the bases.": {"edema": "present"},
    "Without evidence of fracture; nodules are present.": {
        "lung lesion": "present",
        "fracture": "absent",
    },
    "Lungs are free of consolidation": {"consolidation": "absent"},
    "Notable cardiomegaly. Snow effect on the film.": {"cardiomegaly": "present"},
    "The lungs are clear.": {},
    "": {},
}


class TestReportLabels:
    @pytest.mark.parametrize(("text", "said"), SAID.items())
    def test_what_a_report_states(self, text, said):
        assert report_findings(text) == said
        assert report_findings(text.upper()) == said

    def test_f1_by_hand(self):
        answers = ["Edema. Effusion.", "Nodule.", "No fracture."]
        golds = ["Edema. No effusion.", "Nodule and fracture.", "Fracture. Possible edema."]
        micro, macro = label_f1(answers, golds)
        # Edema and nodule are right, the effusion is false, two fractures are missed.
        assert micro.value == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
        assert macro.value == pytest.approx((1 + 1 + 0 + 0) / 4)

    def test_what_a_reference_leaves_open_is_not_counted(self):
        counts = label_counts(["Edema."], ["Possible edema."])
        assert counts.sum() == 0
        assert label_f1(["Edema."], ["Possible edema."])[0].value == 0

    def test_f1_is_scikit_learns(self):
        from sklearn.metrics import f1_score

        answers = list(SAID) * 2
        golds = list(SAID)[3:] + list(SAID) + list(SAID)[:3]
        known = [
            [report_findings(text).get(name) == "present" for name in FINDINGS] for text in answers
        ]
        true = [[report_findings(text).get(name) for name in FINDINGS] for text in golds]
        kept = [
            (said, gold == "present")
            for row, column in zip(known, true, strict=True)
            for said, gold in zip(row, column, strict=True)
            if gold != "uncertain"
        ]
        expected = f1_score([gold for _, gold in kept], [said for said, _ in kept])
        assert Counter(gold for _, gold in kept)[True] > 3
        assert label_f1(answers, golds)[0].value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("report", "findings", "impression"),
    [
        ("FINDINGS: Clear.\nIMPRESSION: Normal.", "Clear.", "Normal."),
        ("Impression:\n1. Normal.\nFindings: Clear", "Clear", "1. Normal."),
        ("Findings: Clear. Conclusion: Normal", "Clear.", "Normal"),
        ("INDICATION: cough. FINDINGS: Clear.", "Clear.", None),
        ("Clear lungs.", "Clear lungs.", None),
        ("FINDINGS:  IMPRESSION: Normal.", None, "Normal."),
    ],
)
def test_sections(report, findings, impression):
    assert section_of(report, "findings") == findings
    assert section_of(report, "impression") == impression
    assert section_of(report, "report") == report


class TestClinicalMetrics:
    """RadEval itself brings models; a package of its name shows what passes between processes."""

    @pytest.fixture
    def radeval(self, tmp_path, monkeypatch):
        def write(body: str, loading: str = "pass") -> None:
            folder = tmp_path / "radeval"
            folder.mkdir()
            (folder / "names.py").write_text("NAMES = []\nfrom radeval import parts\n")
            (folder / "parts.py").write_text("from RadEval.names import NAMES\nNAMES.append(1)\n")
            lines = ["class RadEval:"]
            lines += ["    def __init__(self, metrics, per_sample):"]
            lines += ["        assert metrics == ['ratescore'] and per_sample"]
            lines += [f"        {loading}"]
            lines += ["    def __call__(self, refs, hyps):", f"        {body}"]
            (folder / "__init__.py").write_text("\n".join(lines) + "\n")
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))

        return write

    def test_values_of_each_report_come_back(self, radeval):
        radeval(
            "print('loading'); return {'ratescore': [len(h) / len(r) for h, r in zip(hyps, refs)]}"
        )
        assert clinical("ratescore", ["ab", "é"], ["abcd", "xy"]).value == pytest.approx(0.5)

    def test_an_error_is_named_by_its_kind_and_quotes_nothing(self, radeval):
        radeval("raise ValueError(refs[0])")
        with pytest.raises(MRRAGError, match="RaTEScore: it failed with ValueError") as caught:
            clinical("ratescore", ["a"], ["a secret report"])
        assert "secret" not in str(caught.value)

    def test_why_it_cannot_be_loaded_is_said_in_its_own_words(self, radeval):
        radeval("pass", "raise OSError('cannot download the model,\\ntry again')")
        with pytest.raises(MRRAGError, match="loaded: OSError: cannot download the model, try"):
            clinical("ratescore", ["a"], ["b"])

    def test_what_libraries_print_is_no_answer(self, radeval):
        late = "import atexit; atexit.register(print, 'bye', flush=True)"
        radeval("return {'ratescore': [1.0]}", late)
        assert clinical("ratescore", ["a"], ["a"]).value == 1.0

    def test_a_part_that_imports_radeval_by_its_other_name_finds_it_and_no_second_one(
        self, radeval
    ):
        """RadGraph in radeval 2.2.1 does so, and the package of that name does not exist."""
        radeval(
            "return {'ratescore': [float(len(self.names.NAMES))]}",
            "from RadEval import names; from radeval import names as own; "
            "assert names is own and own.__spec__.name == 'radeval.names'; self.names = own",
        )
        assert clinical("ratescore", ["a"], ["a"]).value == 1.0

    def test_what_is_no_number_is_no_value(self, radeval):
        radeval("return {'ratescore': [1.0, float('nan')]}")
        with pytest.raises(MRRAGError, match="no number for 1 reports"):
            clinical("ratescore", ["a", "b"], ["a", "b"])

    def test_too_few_values_are_no_metric(self, radeval):
        radeval("return {'ratescore': [1.0]}")
        with pytest.raises(MRRAGError, match="no value for every report"):
            clinical("ratescore", ["a", "b"], ["a", "b"])

    def test_what_is_not_installed_is_named(self, tmp_path):
        with pytest.raises(MRRAGError, match="no module radeval"):
            clinical("green", ["a"], ["b"])
        with pytest.raises(MRRAGError, match="interpreter cannot be run"):
            clinical("green", ["a"], ["b"], str(tmp_path / "no-python"))

    def test_unknown_ones_are_refused(self):
        assert chosen_metrics("green, radgraph,green") == ("green", "radgraph")
        assert chosen_metrics(None) == ()
        with pytest.raises(InputError, match="'bert'"):
            chosen_metrics("green,bert")


def test_worker_needs_nothing_of_this_package():
    source = Path(mrrag_llamaindex.__file__).parent
    text = (source / "evaluation/tasks/metrics/radeval_worker.py").read_text()
    assert "mrrag_llamaindex" not in text.replace("mrrag-llamaindex", "")
