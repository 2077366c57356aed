"""Confidence intervals over seeds, and the rule for verdicts (the paper has single runs).

Belongs here: the interval of a mean, and the rule that turns paired differences into a verdict. Not
here: which differences a claim compares (the studies), scores of single answers or images
(`scoring/`).

The rule was fixed before the runs that it judges. With fewer than `ENOUGH_SEEDS` seeds a
comparison is "undecided". With as many:

1. "no effect", if the 90 % t interval of the mean difference lies between -margin and +margin.
   This amounts to two one-sided tests at 5 %. The margin is the smallest effect of interest, .05
   unless a claim states another.
2. Otherwise "replicates", if the 95 % t interval lies above zero, and "contradicts", if it lies
   below.
3. Otherwise "undecided".

A difference that is clearly positive but clearly below the margin is therefore "no effect": it is
too small to matter. For a question that the paper does not ask, "yes" and "no" replace "replicates"
and "contradicts".
"""

import numpy as np
from scipy import stats

PAPER_VERDICTS = ("replicates", "contradicts", "no effect", "undecided")
OWN_VERDICTS = ("yes", "no", "no effect", "undecided")
MARGIN = 0.05  # smallest effect of interest on partial credit and read-back
ENOUGH_SEEDS = 8
MOST_SEEDS = 1000  # that `seeds_to_decide` looks at


def mean_interval(values, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return (mean, low, high) of the t interval over seeds; low and high are NaN for one value.

    ValueError when `values` is empty or not one-dimensional.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"An interval needs a list of at least one value, not an array of shape {values.shape}."
        )
    if len(values) == 1:
        return float(values[0]), float("nan"), float("nan")
    mean, error = values.mean(), stats.sem(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error)
    return float(mean), float(mean - half), float(mean + half)


def verdict(differences, margin: float | None = MARGIN, own: bool = False) -> str:
    """Return the verdict on paired differences, one per seed, by this module's rule.

    Args:
        differences: positive where the claim holds.
        margin: smallest effect of interest, in the same unit; None rules out "no effect".
        own: whether the question is our own, not a claim of the paper.
    """
    above, below, none, undecided = OWN_VERDICTS if own else PAPER_VERDICTS
    if len(differences) < ENOUGH_SEEDS:
        return undecided
    _, low, high = mean_interval(differences)
    _, least, most = mean_interval(differences, confidence=0.9)
    if margin is not None and -margin < least and most < margin:
        return none
    return above if low > 0 else below if high < 0 else undecided


def seeds_to_decide(
    difference: float, low: float, high: float, seeds: int, margin: float | None = MARGIN
) -> int | None:
    """Return how many seeds would decide a row, if its mean and its spread stay as they are.

    None if more than `MOST_SEEDS` would be needed.

    Args:
        low, high: the 95 % t interval over `seeds` seeds.
        margin: smallest effect of interest; None if the row is never "no effect".
    """
    deviation = (high - low) / 2 / stats.t.ppf(0.975, seeds - 1) * seeds**0.5
    for count in range(seeds, MOST_SEEDS + 1):
        error = deviation / count**0.5
        apart = abs(difference) > stats.t.ppf(0.975, count - 1) * error
        near = margin is not None and (
            abs(difference) + stats.t.ppf(0.95, count - 1) * error < margin
        )
        if apart or near:
            return count
    return None
