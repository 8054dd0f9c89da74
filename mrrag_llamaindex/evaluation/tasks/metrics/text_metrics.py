"""BLEU, ROUGE-L and METEOR as their libraries compute them (the extra ``text-metrics``).

- BLEU-n is sacrebleu's, of the corpus: n-grams of all answers are added up before the geometric
  mean is taken, with its tokenizer "13a", its smoothing and brevity penalty, letters lowered. An
  interval adds up the n-grams of the patients that are drawn.
- ROUGE-L is rouge-score's F-measure of each answer, without a stemmer, and their mean. Its
  tokenizer lowers letters and drops everything that is neither letter nor digit of ASCII.
- METEOR is nltk's with its defaults, over lowered words (letters and digits), and the mean of all
  answers. It needs WordNet, which the user brings; it is never replaced by anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure, Numbers

EXTRA = "pip install 'mrrag-llamaindex[text-metrics]'"


def bleu(answers: Sequence[str], golds: Sequence[str], order: int) -> Measure:
    """Return corpus BLEU with n-grams up to ``order``.

    Raises
    ------
    MRRAGError
        If sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise MRRAGError(f"BLEU needs sacrebleu: {EXTRA}") from None
    scorer = BLEU(lowercase=True, max_ngram_order=order, effective_order=True)
    rows = []
    for answer, gold in zip(answers, golds, strict=True):
        found: Any = scorer.sentence_score(answer, [gold])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    return Measure(np.array(rows, dtype=np.float64), partial(_bleu_of_sums, order))


def _bleu_of_sums(order: int, sums: Numbers) -> Numbers:
    from sacrebleu.metrics.bleu import BLEU

    flat = np.rint(sums.reshape(-1, sums.shape[-1])).astype(int)
    values = [
        BLEU.compute_bleu(
            row[:order].tolist(),
            row[order : 2 * order].tolist(),
            int(row[-2]),
            int(row[-1]),
            max_ngram_order=order,
        ).score
        for row in flat
    ]
    # Rounding may put a perfect score just above 100.
    return np.minimum(np.array(values).reshape(sums.shape[:-1]) / 100, 1.0)


def rouge_l(answers: Sequence[str], golds: Sequence[str]) -> Measure:
    """Return the mean F-measure of ROUGE-L.

    Raises
    ------
    MRRAGError
        If rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MRRAGError(f"ROUGE-L needs rouge-score: {EXTRA}") from None
    scorer = RougeScorer(["rougeL"])
    pairs = zip(golds, answers, strict=True)
    return Measure.mean([scorer.score(gold, answer)["rougeL"].fmeasure for gold, answer in pairs])


def meteor(answers: Sequence[str], golds: Sequence[str]) -> Measure:
    """Return the mean METEOR.

    Raises
    ------
    MRRAGError
        If nltk is not installed, or finds no WordNet.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import single_meteor_score
    except ImportError:
        raise MRRAGError(f"METEOR needs nltk: {EXTRA}") from None
    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise MRRAGError(
            "METEOR needs WordNet, and nltk finds none: python -m nltk.downloader wordnet, or put "
            "your copy where NLTK_DATA says"
        ) from None
    pairs = zip(golds, answers, strict=True)
    return Measure.mean([single_meteor_score(_words(gold), _words(text)) for gold, text in pairs])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
