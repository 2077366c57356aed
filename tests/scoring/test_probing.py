"""Probes: a planted signal is found, random labels are not, near-duplicates do not cross; maps keep
shape and order."""

import numpy as np
import pytest

from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.scoring.probing import (
    combinations_of,
    maps,
    probe,
    probe_classes,
    probe_labels,
    probe_places,
    random_features,
    random_labels,
)

WATCHES = sample_watches(11, 240)
CLASSES = probe_classes()
RNG = np.random.default_rng(0)


def planted(name: str, noise: float = 0.3) -> np.ndarray:
    """Vectors (240, 16) that hold one attribute as a direction for each of its classes, in
    noise."""
    directions = RNG.standard_normal((CLASSES[name], 16))
    return directions[probe_labels(WATCHES)[name]] + noise * RNG.standard_normal((240, 16))


@pytest.mark.parametrize("name", CLASSES)
def test_a_planted_signal_is_found_and_nothing_else(name):
    found = probe(planted(name), WATCHES).set_index("attribute")
    assert found.loc[name, "accuracy"] > 0.9 and found.loc[name, "selectivity"] > 0.6
    for other in CLASSES.keys() - {name}:
        assert abs(found.loc[other, "selectivity"]) < 0.2
    assert (found["control"] < found["chance"] + 0.15).all() and (found["samples"] == 240).all()


def test_random_labels_have_about_no_selectivity_even_of_vectors_that_tell_everything():
    telling = np.hstack(
        [np.eye(CLASSES[name])[values] for name, values in probe_labels(WATCHES).items()]
    )
    found = [probe(telling, WATCHES, seed) for seed in range(5)]
    assert all((table["accuracy"] > 0.95).all() for table in found)
    assert abs(np.mean([table["control"] - table["chance"] for table in found])) < 0.05
    # and a probe of nothing at all selects nothing
    nothing = [
        probe(RNG.standard_normal((240, 16)), WATCHES, seed)["selectivity"].mean()
        for seed in range(5)
    ]
    assert abs(np.mean(nothing)) < 0.05


def test_combinations_are_those_of_the_probed_attributes_and_never_cross():
    twice = [*WATCHES[:60], *WATCHES[:60]]
    groups = combinations_of(twice)
    assert (groups[:60] == groups[60:]).all() and len(set(groups.tolist())) >= 55
    # a vector that names the watch, and no attribute: with a split by rows its copy would tell
    # everything
    names = np.tile(np.eye(60), (2, 1))
    found = probe(names, twice)
    assert (found["accuracy"] < found["chance"] + 0.25).all()
    control = random_labels(probe_labels(twice), groups, 0)
    assert all((values[:60] == values[60:]).all() for values in control.values())


def test_pooled_and_by_token_are_probed_at_every_place():
    states = {
        "adapter": RNG.standard_normal((240, 3, 16)),
        "layer 1": np.stack([planted("weather")] * 3, 1),
    }
    states["layer 1"][:, 0] = RNG.standard_normal((240, 16))
    table = probe_places(states, WATCHES, by_token=True)
    assert list(table.columns) == [
        "place",
        "token",
        "attribute",
        "accuracy",
        "control",
        "selectivity",
        "chance",
        "samples",
    ]
    assert len(table) == 2 * 5 * len(CLASSES)
    weather = table[table["attribute"] == "weather"].set_index(["place", "token"])["accuracy"]
    assert weather["layer 1", "all"] > 0.9
    assert (
        weather["layer 1", "1"] > 0.9
        and weather["layer 1", "0"] < 0.6
        and weather["adapter", "pooled"] < 0.6
    )
    assert len(probe_places(states, WATCHES)) == 2 * len(CLASSES)
    with pytest.raises(ValueError, match="There is no place to probe"):
        probe_places({}, WATCHES)


def test_what_a_mean_over_tokens_cancels_is_read_from_all_of_them():
    # at one token, and its opposite at the next
    signs = np.where(probe_labels(WATCHES)["weather"] == 0, 1.0, -1.0)[:, None]
    vectors = signs[..., None] * np.array([1.0, -1.0])[None, :, None] + 0.01 * RNG.standard_normal(
        (240, 2, 4)
    )
    found = probe_places({"adapter": vectors}, WATCHES, by_token=True).set_index(
        ["attribute", "token"]
    )["accuracy"]
    assert found["weather", "all"] > found["weather", "pooled"] + 0.15


def test_vectors_of_a_training_that_diverged_have_no_accuracy():
    broken = planted("weather")
    broken[3, 2] = np.nan
    found = probe(broken, WATCHES)
    assert found[["accuracy", "control", "selectivity"]].isna().all(axis=None) and len(
        found
    ) == len(CLASSES)
    with pytest.raises(ValueError, match="A map needs at least ten vectors of finite numbers"):
        maps(broken)


def test_watches_that_are_all_alike_are_refused():
    with pytest.raises(
        ValueError, match="at least 10 combinations of attributes, and these have 1"
    ):
        probe(np.zeros((40, 4)), [WATCHES[0]] * 40)


@pytest.mark.parametrize("vectors", [np.zeros((239, 4)), np.zeros((240, 4, 2)), np.zeros(240)])
def test_vectors_that_do_not_fit_are_refused(vectors):
    with pytest.raises(
        ValueError, match="A probe needs one vector for each of at least 10 watches, not an array"
    ):
        probe(vectors, WATCHES)


def test_random_features_follow_from_the_pixels_and_the_seed():
    images = render_batch(WATCHES[:4])
    one = random_features(images, 7, 0)
    assert (
        one.shape == (4, 7)
        and (one >= 0).all()
        and not np.array_equal(one, random_features(images, 7, 1))
    )
    np.testing.assert_allclose(random_features(images[:2], 7, 0), one[:2])


def test_maps_keep_the_shape_and_the_order_and_neighbours_together():
    vectors = np.repeat(np.eye(3) * 20, 20, 0) + RNG.standard_normal((60, 3))
    table = maps(vectors)
    assert list(table.columns) == ["method", "image", "x", "y"] and len(table) == 120
    for _, own in table.groupby("method"):
        assert own["image"].tolist() == list(range(60))
        points = own[["x", "y"]].to_numpy()
        centres = points.reshape(3, 20, 2).mean(1)
        nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(1)
        assert (nearest == np.repeat(range(3), 20)).mean() > 0.95
    np.testing.assert_array_equal(maps(vectors)[["x", "y"]], table[["x", "y"]])
