"""What may be said of a handful of seeds: intervals, paired tests, differences and a verdict (paper: single runs).

Belongs here: intervals and tests over seeds, and the rule by which a claim replicates. Not here: which claims there are
(`claims.py`), scores of single answers or images.
"""

import numpy as np
import pandas as pd
from scipy import stats

VERDICTS = ("replicates", "contradicts", "undecided")
LEAST_SEEDS = 3  # fewer say nothing either way


def mean_interval(values, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and t interval of values of independent seeds: (mean, low, high); the interval of one value is NaN."""
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"An interval needs a list of at least one value, not an array of shape {values.shape}.")
    if len(values) == 1:
        return float(values[0]), float("nan"), float("nan")
    mean, error = values.mean(), stats.sem(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error)
    return float(mean), float(mean - half), float(mean + half)


def permutation_p(differences) -> float:
    """Two-sided p of paired differences: the exact permutation test that swaps the two arms of each seed.

    With n seeds it cannot fall below 2 / 2**n: .125 with four, .0078 with eight. NaN for one seed.
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        return float("nan")
    test = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=2**14,
                                  rng=np.random.default_rng(0))  # exact up to 14 seeds
    return float(test.pvalue)


def interquartile_mean(values) -> float:
    """The mean of the middle half of all values (attributes, seeds): what a single outlier cannot move."""
    values = np.asarray(values, float).ravel()
    return float(stats.trim_mean(values, 0.25)) if len(values) else float("nan")


def verdict(differences) -> str:
    """What paired differences say of a claim that they are above zero; the rule was fixed before the runs.

    replicates   the 95 % t interval of their mean lies above zero, over three seeds or more
    contradicts  it lies below zero
    undecided    it holds zero, or there are fewer seeds
    """
    _, low, high = mean_interval(differences)
    if len(differences) < LEAST_SEEDS or not (low > 0 or high < 0):
        return "undecided"
    return "replicates" if low > 0 else "contradicts"


def paired_differences(table: pd.DataFrame, arm: str, baseline: str, over: tuple[str, ...]) -> pd.DataFrame:
    """The difference `arm` - `baseline`, paired by seed, for each combination of the columns `over`.

    Seeds that only one of the two arms has are left out. Columns: `over`, difference, low and high (95 % t interval), p
    (`permutation_p`), seeds.
    """
    wide = table.pivot_table(index=[*over, "seed"], columns="regime", values="value")
    for name in (arm, baseline):
        if name not in wide:
            raise ValueError(f"The table has no arm {name!r}; it has {', '.join(wide)}.")
    differences = (wide[arm] - wide[baseline]).dropna()
    rows = []
    for key, group in differences.groupby(level=list(over), sort=False):
        difference, low, high = mean_interval(group)
        rows.append({**dict(zip(over, key if isinstance(key, tuple) else (key,), strict=True)),
                     "difference": difference, "low": low, "high": high, "p": permutation_p(group),
                     "seeds": len(group)})
    return pd.DataFrame(rows, columns=[*over, "difference", "low", "high", "p", "seeds"])
