"""The two curves from score to probability, fitted on documents known to support or not.

Both take n scores, float64, and whether each document supports a right answer, and refuse scores
that do not rise with support. What the numbers mean is said at `Calibration`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError

Curve = tuple[tuple[float, float], ...]


def isotonic_curve(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Curve:
    """Return the knots of the rising curve of least squares.

    Where only supporting documents are left the curve would reach 1, which no finite number of
    them shows: both ends stay within 1 / (n + 2), Laplace's rule of succession.
    """
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(scores) + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    model.fit(scores, right.astype(np.float64))
    curve = tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))
    if curve[0][1] == curve[-1][1]:
        raise InputError(_SAYS_NOTHING)
    return curve


def platt_curve(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Curve:
    """Return slope and intercept, fitted without penalty to Platt's (1999) smoothed targets.

    A target t strictly between 0 and 1 is a document that counts t times as supporting and 1 - t
    times as not.
    """
    from sklearn.linear_model import LogisticRegression

    yes = int(right.sum())
    no = len(right) - yes
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    centre, spread = float(scores.mean()), float(scores.std())
    if not spread:
        raise InputError(_SAYS_NOTHING)
    column = (np.concatenate([scores, scores])[:, None] - centre) / spread
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(
        column,
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0:
        raise InputError(_SAYS_NOTHING)
    return ((slope, float(model.intercept_[0]) - slope * centre),)


_SAYS_NOTHING = (
    "a higher score does not go with support in these questions, so the score says nothing that "
    "could be calibrated: learn the weights first (mrrag train-fusion), or take more questions"
)
