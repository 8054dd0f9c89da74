"""Thresholds with a stated error rate: small cases by hand, and the guarantee itself."""

from __future__ import annotations

import numpy as np

from mrrag_llamaindex.learning.calibration.threshold import certify, questions_needed
from mrrag_llamaindex.mcr.calibration import Abstention


def test_29_answers_without_an_error_show_a_rate_of_a_tenth():
    design, all_right = np.linspace(0, 1, 50), np.ones(29, dtype=bool)
    assert questions_needed(0.1, 0.95) == 29
    found = certify(design, np.full(29, 0.7), all_right, error_rate=0.1)
    assert found == Abstention(0.0, 0.1, 0.95, 29, 0, 29)
    assert certify(design, np.full(28, 0.7), all_right[:28], error_rate=0.1) is None
    one_wrong = np.arange(29) > 0
    assert certify(design, np.full(29, 0.7), one_wrong, error_rate=0.1) is None


def test_what_is_certified_is_within_the_bound_of_clopper_and_pearson():
    from scipy.stats import binomtest

    rng = np.random.default_rng(5)
    design, best = rng.random(600), rng.random(600)
    found = certify(design, best, rng.random(600) > 0.4 * (1 - best), error_rate=0.15)
    assert found is not None
    assert 0 < found.threshold < 1
    bound = binomtest(found.errors, found.answered, alternative="less").proportion_ci(0.95)
    assert bound.high <= 0.15


RUNS, PATIENTS = 400, 600
RATE = 0.15


def risk(threshold: float) -> float:
    """True share of wrong ones from ``threshold`` on, where wrong has probability .6 (1 - p)."""
    return 0.3 * (1 - threshold)


def test_true_error_exceeds_the_stated_rate_in_at_most_one_run_of_twenty():
    """The probabilities are far from calibrated: the guarantee does not rest on them."""
    exceeded, naive, answered = 0, 0, 0.0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        design, best = rng.random(PATIENTS), rng.random(PATIENTS)
        right = rng.random(PATIENTS) > 0.6 * (1 - best)
        found = certify(design, best, right, error_rate=RATE)
        if found is not None:
            exceeded += risk(found.threshold) > RATE
            answered += 1 - found.threshold
        ranked = np.argsort(-best)
        share = np.cumsum(~right[ranked]) / np.arange(1, PATIENTS + 1)
        allowed = np.flatnonzero(share <= RATE)
        naive += bool(len(allowed)) and risk(best[ranked][allowed[-1]]) > RATE
    assert exceeded / RUNS <= 0.05
    assert naive / RUNS > 0.3, "a threshold picked by the observed share breaks the rate"
    assert answered / RUNS > 0.15, "a rule that never answers would keep any rate (half is best)"


def test_a_threshold_may_be_below_all_that_was_fitted_on():
    found = certify(np.full(50, 0.5), np.full(29, 0.3), np.ones(29, dtype=bool), error_rate=0.1)
    assert found == Abstention(0.0, 0.1, 0.95, 29, 0, 29)


def test_several_starts_share_the_doubt():
    """40 answers without an error: .9^40 = .0148 is below .05, not below a fourth of it."""
    design, best = np.linspace(0.5, 1, 400), np.full(400, 0.1)
    best[:40] = 1.0
    assert certify(design, best, best == 1.0, error_rate=0.1) is None
    best[:42] = 1.0  # .9^42 = .0120
    assert certify(design, best, best == 1.0, error_rate=0.1).answered == 42


def test_a_sequence_ends_at_the_first_threshold_that_fails():
    """Of twenty levels the fourth passes (81 answers), the fifth fails (4 errors of 101).

    The seventh would pass again (4 of 141), and the other starts fail.
    """
    ranked = np.linspace(1, 0, 400, endpoint=False)
    right = np.ones(400, dtype=bool)
    right[[84, 88, 92, 96]] = False
    right[160:180] = False
    right[300:] = False
    found = certify(ranked, ranked, right, error_rate=0.1)
    assert (found.answered, found.errors) == (81, 0)
