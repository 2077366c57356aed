"""What may be said of a handful of seeds: means with t intervals, and differences paired by seed (paper: single runs).

Belongs here: intervals and tests over seeds. Not here: scores of single answers or images.
"""

import numpy as np
import pandas as pd
from scipy import stats


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


def paired_differences(table: pd.DataFrame, arm: str, baseline: str, over: tuple[str, ...]) -> pd.DataFrame:
    """The difference `arm` - `baseline`, paired by seed, for each combination of the columns `over`.

    Seeds that only one of the two arms has are left out. Columns: `over`, difference, low and high (95 % t interval),
    seeds.
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
                     "difference": difference, "low": low, "high": high, "seeds": len(group)})
    return pd.DataFrame(rows, columns=[*over, "difference", "low", "high", "seeds"])
