"""Intervals over seeds and verdicts, against numbers known from elsewhere."""

import math

import numpy as np
import pytest
from scipy import stats

from uvlm_core.studies.statistics import (
    ENOUGH_SEEDS,
    MARGIN,
    MOST_SEEDS,
    OWN_VERDICTS,
    PAPER_VERDICTS,
    mean_interval,
    seeds_to_decide,
    verdict,
)


def test_the_interval_is_the_t_interval():
    mean, low, high = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3
    half = 2.7764451 * math.sqrt(2.5 / 5)  # t of 4 degrees of freedom at 97.5 %, by table
    assert (low, high) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    values = np.random.default_rng(0).normal(size=9)
    assert mean_interval(values, 0.8)[1:] == pytest.approx(
        stats.ttest_1samp(values, 0).confidence_interval(0.8), abs=1e-12
    )


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = [
        low <= 0 <= high
        for _, low, high in (mean_interval(rng.normal(size=5)) for _ in range(2000))
    ]
    assert abs(np.mean(covered) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_one_value_has_a_mean_and_no_interval():
    mean, low, high = mean_interval([0.7])
    assert mean == 0.7 and math.isnan(low) and math.isnan(high)


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], 3.0])
def test_what_is_no_list_of_values_is_refused(values):
    with pytest.raises(ValueError, match="An interval needs a list of at least one value"):
        mean_interval(values)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.5], "undecided"),
        ([0.02, 0.03, 0.04], "undecided"),
        ([0.3, 0.31] * 3 + [0.3], "undecided"),
        ([0.0] * 7, "undecided"),
        ([0.3, 0.31] * 4, "replicates"),
        ([0.0] * 8, "no effect"),
    ],
)
def test_fewer_than_eight_seeds_have_no_verdict(differences, expected):
    assert verdict(differences) == expected


def around(mean: float, half: float, seeds: int = ENOUGH_SEEDS) -> np.ndarray:
    """Values with this mean whose 95 % t interval reaches `half` to both sides."""
    values = np.linspace(-1, 1, seeds)
    return mean + values * half / mean_interval(values)[2]


@pytest.mark.parametrize(
    ("mean", "half", "margin", "expected"),
    [
        (0.2, 0.1, 0.05, "replicates"),
        (-0.2, 0.1, 0.05, "contradicts"),
        (0.2, 0.3, 0.05, "undecided"),
        (0.0, 0.02, 0.05, "no effect"),
        (0.03, 0.01, 0.05, "no effect"),  # surely positive, and surely too small
        (0.03, 0.01, 0.02, "replicates"),
        (0.03, 0.01, None, "replicates"),
        (0.0, 0.02, None, "undecided"),
        (0.0, 0.02, 0.01, "undecided"),
        (0.045, 0.02, 0.05, "replicates"),
    ],
)
def test_eight_seeds_are_judged_by_where_their_intervals_lie(mean, half, margin, expected):
    assert verdict(around(mean, half), margin) == expected
    own = verdict(around(mean, half), margin, own=True)
    assert dict(zip(PAPER_VERDICTS, OWN_VERDICTS, strict=True))[expected] == own


def test_no_effect_asks_the_90_percent_interval_and_eight_seeds():
    values = around(0.0, 0.06)  # 95 % reaches .06, 90 % reaches .048
    assert verdict(values) == "no effect" and verdict(around(0.0, 0.06, seeds=7)) == "undecided"


def test_without_an_effect_a_sign_is_found_as_often_as_the_level_says():
    rng = np.random.default_rng(2)
    decided = [
        verdict(rng.normal(size=size)) != "undecided" for size in (8, 12) for _ in range(1000)
    ]
    assert abs(np.mean(decided) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("margin", [MARGIN, None])
@pytest.mark.parametrize("mean", [0.0, 0.01, -0.03, 0.2])
@pytest.mark.parametrize("spread", [0.02, 0.1, 0.4])
def test_as_many_seeds_as_it_takes_decide_and_one_fewer_does_not(mean, spread, margin):
    def like(count):
        values = np.resize([-1.0, 1.0], count)
        values = (values - values.mean()) / values.std(ddof=1) * spread
        return values + mean

    count = seeds_to_decide(*mean_interval(like(8)), 8, margin)
    if count is None:
        assert verdict(like(MOST_SEEDS), margin) == "undecided"
    else:
        assert verdict(like(count), margin) != "undecided"
        assert count == 8 or verdict(like(count - 1), margin) == "undecided"
