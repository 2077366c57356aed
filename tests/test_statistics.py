"""Intervals and differences over seeds, against numbers known from elsewhere."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from uvlm_core.statistics import interquartile_mean, mean_interval, paired_differences, permutation_p, verdict


def test_the_interval_is_the_t_interval():
    mean, low, high = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3
    half = 2.7764451 * math.sqrt(2.5 / 5)  # t of 4 degrees of freedom at 97.5 %, by table
    assert (low, high) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    values = np.random.default_rng(0).normal(size=9)
    assert mean_interval(values, 0.8)[1:] == pytest.approx(
        stats.ttest_1samp(values, 0).confidence_interval(0.8), abs=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = [low <= 0 <= high for _, low, high in (mean_interval(rng.normal(size=5)) for _ in range(2000))]
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


def table(values: dict) -> pd.DataFrame:
    """Rows of {(regime, metric, seed): value}."""
    return pd.DataFrame([{"regime": regime, "metric": metric, "seed": seed, "value": value}
                         for (regime, metric, seed), value in values.items()])


def test_differences_are_paired_by_seed_and_unpaired_seeds_are_left_out():
    some = table({("unified", "partial", 0): 0.9, ("understanding", "partial", 0): 0.7,
                  ("unified", "partial", 1): 0.6, ("understanding", "partial", 1): 0.5,
                  ("unified", "partial", 2): 0.1, ("understanding", "partial", 3): 0.8})
    (row,) = paired_differences(some, "unified", "understanding", ("metric",)).to_dict("records")
    assert row["metric"] == "partial" and row["seeds"] == 2
    assert row["difference"] == pytest.approx(0.15)
    half = 12.7062047 * 0.05  # t of 1 degree of freedom, standard error .1 / 2
    assert (row["low"], row["high"]) == pytest.approx((0.15 - half, 0.15 + half), abs=1e-6)


def test_a_difference_that_all_seeds_share_is_certain_however_much_seeds_differ():
    some = table({(regime, "partial", seed): 0.1 * seed + (0.03 if regime == "unified" else 0)
                  for regime in ("unified", "understanding") for seed in range(5)})
    (row,) = paired_differences(some, "unified", "understanding", ("metric",)).to_dict("records")
    assert (row["low"], row["difference"], row["high"]) == pytest.approx((0.03, 0.03, 0.03))


def test_each_combination_of_factors_has_its_own_difference():
    some = pd.concat([table({(regime, metric, seed): value + seed
                             for regime, value in (("unified", gain), ("understanding", 0.0)) for seed in (0, 1)})
                      .assign(fraction=fraction)
                      for metric, fraction, gain in (("partial", 0.5, 1.0), ("partial", 1.0, 2.0), ("exact", 0.5, 3.0))
                      ])
    found = paired_differences(some, "unified", "understanding", ("metric", "fraction"))
    assert found.set_index(["metric", "fraction"])["difference"].to_dict() == {
        ("partial", 0.5): 1.0, ("partial", 1.0): 2.0, ("exact", 0.5): 3.0}


def test_a_metric_that_only_one_arm_has_gives_no_row():
    some = table({("unified", "partial", 0): 1.0, ("understanding", "partial", 0): 0.5,
                  ("unified", "read_back", 0): 0.9})
    assert paired_differences(some, "unified", "understanding", ("metric",))["metric"].tolist() == ["partial"]


def test_an_unknown_arm_is_refused_by_name():
    with pytest.raises(ValueError, match="no arm 'both'; it has understanding, unified"):
        paired_differences(table({("unified", "partial", 0): 1.0, ("understanding", "partial", 0): 0.5}), "both",
                           "understanding", ("metric",))


def test_the_permutation_test_swaps_the_arms_of_each_seed():
    differences = np.array([0.3, -0.1, 0.2, 0.4])
    swapped = [np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=4)]
    expected = np.mean([abs(mean) >= differences.mean() - 1e-12 for mean in swapped])
    assert permutation_p(differences) == pytest.approx(expected)
    assert permutation_p([0.1, 0.2, 0.3, 0.4]) == pytest.approx(2 / 2**4)
    assert permutation_p([0.1, 0.2, 0.3, 0.4]) == permutation_p([-0.1, -0.2, -0.3, -0.4])
    assert math.isnan(permutation_p([0.1])) and permutation_p(np.arange(1, 9)) == pytest.approx(2 / 2**8)


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean([100, 1, 2, 3, 4, -100, 2, 3]) == 2.5
    assert interquartile_mean([[1.0, 3.0], [2.0, 2.0]]) == 2.0 and math.isnan(interquartile_mean([]))


@pytest.mark.parametrize(("differences", "expected"), [
    ([0.02, 0.03, 0.04], "replicates"), ([-0.02, -0.03, -0.04], "contradicts"), ([0.1, -0.1, 0.1], "undecided"),
    ([0.02, 0.02], "undecided"), ([0.5], "undecided"), ([0.0, 0.0, 0.0, 0.0], "undecided"),
    ([0.01, 0.01, 0.01, 0.2], "undecided")])
def test_the_verdict_is_where_the_interval_lies(differences, expected):
    assert verdict(differences) == expected


def test_the_verdict_of_no_effect_is_seldom_other_than_undecided():
    rng = np.random.default_rng(2)
    decided = [verdict(rng.normal(size=4)) != "undecided" for _ in range(2000)]
    assert abs(np.mean(decided) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)
