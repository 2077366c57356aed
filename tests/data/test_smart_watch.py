"""The watches: exact, split without overlap, legible, inside the frame."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageDraw

from uvlm_core.data import smart_watch
from uvlm_core.data.smart_watch import (
    CORNERS,
    MINIMUM_CONTRAST,
    NUMBER_FROM,
    SPLITS,
    WEATHERS,
    Watch,
    contrast_with_white,
    render,
    render_batch,
    sample_watch,
    sample_watches,
    split_of,
)

WATCH = Watch(
    hour=10,
    minute=9,
    second=36,
    weather="sunny",
    battery=57,
    weather_corner="top left",
    battery_corner="bottom right",
    colour=(40, 60, 120),
)
PINNED = Watch(
    hour=10,
    minute=30,
    second=57,
    weather="raining",
    battery=33,
    weather_corner="bottom right",
    # sample_watch(7, 3) of WORLD_VERSION 1
    battery_corner="bottom left",
    colour=(240, 109, 59),
)
WATCHES = st.builds(
    lambda corners, **values: Watch(weather_corner=corners[0], battery_corner=corners[1], **values),
    corners=st.permutations(CORNERS),
    hour=st.integers(0, 11),
    minute=st.integers(0, 59),
    second=st.integers(0, 59),
    weather=st.sampled_from(WEATHERS),
    battery=st.integers(0, 100),
    colour=st.just((40, 60, 120)),
)
SEEDS = st.integers(0, 2**32)
repeatably = settings(max_examples=30, deadline=None, derandomize=True)


def quarter(image: np.ndarray, corner: str) -> np.ndarray:
    """The square of 15 % of the side in a corner: outside the face, inside an icon's reach."""
    reach = round(0.15 * len(image))
    rows = slice(0, reach) if "top" in corner else slice(-reach, None)
    columns = slice(0, reach) if "left" in corner else slice(-reach, None)
    return image[rows, columns]


def test_a_watch_is_the_same_on_every_machine():
    assert sample_watch(7, 3) == PINNED
    assert split_of(PINNED) == "train"


@given(SEEDS, st.integers(0, 50), st.sampled_from(SPLITS))
@repeatably
def test_a_watch_depends_on_its_seed_and_index_alone(seed, start, split):
    stream = sample_watches(seed, 3, split, start=start)
    assert stream == [sample_watch(seed, index, split) for index in range(start, start + 3)]


def test_seeds_and_splits_give_different_watches():
    assert len({sample_watch(seed, 0, split).asked for seed in range(5) for split in SPLITS}) == 15


@given(SEEDS, SEEDS)
@repeatably
def test_splits_share_no_attribute_tuple(seed, other):
    seen = {
        split: {
            watch.asked for watch in sample_watches(seed if split == "train" else other, 30, split)
        }
        for split in SPLITS
    }
    assert all(
        split_of(watch) == split for split in SPLITS for watch in sample_watches(seed, 5, split)
    )
    assert (
        not seen["train"] & seen["test"]
        and not seen["train"] & seen["reader"]
        and not seen["test"] & seen["reader"]
    )


@given(WATCHES, st.tuples(*[st.integers(0, 255)] * 3))
@repeatably
def test_the_colour_does_not_move_a_watch_to_another_split(watch, colour):
    assert split_of(replace(watch, colour=colour)) == split_of(watch)


def test_four_fifths_of_the_world_are_for_training():
    rng = np.random.default_rng(0)
    splits = [
        split_of(replace(WATCH, hour=int(h), minute=int(m), second=int(s)))
        for h, m, s in zip(
            rng.integers(0, 12, 3000),
            rng.integers(0, 60, 3000),
            rng.integers(0, 60, 3000),
            strict=True,
        )
    ]
    assert splits.count("train") / 3000 == pytest.approx(0.8, abs=0.03)
    assert splits.count("test") / 3000 == pytest.approx(0.1, abs=0.03)


def test_sampled_attributes_reach_every_value():
    watches = sample_watches(0, 1500)
    assert {watch.hour for watch in watches} == set(range(12))
    assert (
        {watch.minute for watch in watches} == {watch.second for watch in watches} == set(range(60))
    )
    assert {watch.battery for watch in watches} == set(range(101))
    assert {watch.weather for watch in watches} == set(WEATHERS)
    assert {(watch.weather_corner, watch.battery_corner) for watch in watches} == {
        (a, b) for a in CORNERS for b in CORNERS if a != b
    }


@given(SEEDS)
@repeatably
def test_white_hands_stand_out_from_every_sampled_face(seed):
    assert contrast_with_white(sample_watch(seed, 0).colour) >= MINIMUM_CONTRAST


@pytest.mark.parametrize(
    ("colour", "ratio"), [((255, 255, 255), 1.0), ((0, 0, 0), 21.0), ((119, 119, 119), 4.48)]
)
def test_contrast_is_the_wcag_ratio(colour, ratio):
    assert contrast_with_white(colour) == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize("size", [32, 64, 100, 224])
def test_an_image_has_the_size_that_was_asked_for(size):
    image = render(WATCH, size)
    assert image.size == (size, size) and image.mode == "RGB"


def test_a_batch_holds_the_single_images():
    watches = sample_watches(0, 3)
    batch = render_batch(watches, 64)
    assert batch.shape == (3, 64, 64, 3) and batch.dtype == np.uint8
    assert all(
        (image == np.asarray(render(watch, 64))).all()
        for image, watch in zip(batch, watches, strict=True)
    )


@pytest.mark.parametrize("size", [31, 1025, 64.0, "64"])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match=rf"image size {size!r} is not an integer from 32 to 1024"):
        render(WATCH, size)


@pytest.mark.parametrize("size", [64, 128, 224])
@given(WATCHES)
@repeatably
def test_nothing_reaches_the_edge_of_the_frame(size, watch):
    image = np.asarray(render(watch, size))
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (edge == 255).all()


@pytest.mark.parametrize("corner", ["top right", "bottom right"])
def test_a_full_battery_fits_at_the_right(corner):
    watch = replace(WATCH, battery=100, battery_corner=corner, weather_corner="top left")
    assert (np.asarray(render(watch, 224))[:, -4:] == 255).all()


@given(WATCHES)
@repeatably
def test_icon_and_battery_are_in_their_corners_and_the_other_corners_are_empty(watch):
    image = np.asarray(render(watch, 64))
    marked = {corner for corner in CORNERS if (quarter(image, corner) < 200).any()}
    assert marked == {watch.weather_corner, watch.battery_corner}


@given(WATCHES)
@repeatably
def test_each_hand_points_where_the_time_says(watch):
    image = np.asarray(render(watch, 224)).astype(int)
    radius = 0.4 * 224
    turns = ((watch.hour + watch.minute / 60) / 12, watch.minute / 60, watch.second / 60)
    for turn, share in zip(turns, (0.45, 0.65, 0.85), strict=True):
        x = 112 + share * radius * math.sin(2 * math.pi * turn)
        y = 112 - share * radius * math.cos(2 * math.pi * turn)
        near = image[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
        assert near.min(axis=2).max() > 200  # a white pixel on a face of (40, 60, 120)


@pytest.mark.parametrize(
    "change",
    [
        {"hour": 4},
        {"minute": 30},
        {"second": 12},
        {"weather": "cloudy"},
        {"weather": "raining"},
        {"battery": 62},
        {"weather_corner": "top right"},
        {"battery_corner": "bottom left"},
        {"colour": (120, 60, 40)},
    ],
    ids=str,
)
def test_every_attribute_is_visible_at_64_pixels(change):
    assert (np.asarray(render(WATCH)) != np.asarray(render(replace(WATCH, **change)))).any()


def test_a_fuller_battery_shows_more_green():
    def green(battery):
        image = np.asarray(render(replace(WATCH, battery=battery), 224)).astype(int)
        return int((image[..., 1] - image[..., 0] > 100).sum())

    levels = [green(battery) for battery in range(0, 101, 20)]
    assert levels[0] == 0 and levels == sorted(set(levels))


@pytest.mark.parametrize(("size", "numbers"), [(NUMBER_FROM - 1, []), (NUMBER_FROM, ["57%"])])
def test_the_number_is_drawn_where_it_is_legible(size, numbers, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, place, text, **options: drawn.append(text)
    )
    smart_watch.render(WATCH, size)
    assert drawn == numbers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hour": 13}, "hour 13 is not an integer from 0 to 12"),
        ({"minute": 60}, "minute 60 is not an integer from 0 to 59"),
        ({"second": -1}, "second -1 is not an integer from 0 to 59"),
        ({"battery": 57.5}, "battery 57.5 is not an integer from 0 to 100"),
        ({"weather": "snowing"}, "weather 'snowing' is not one of sunny, cloudy, raining"),
        ({"weather_corner": "left"}, "weather_corner 'left' is not one of top left"),
        ({"battery_corner": "top left"}, "weather_corner and battery_corner are both 'top left'"),
        ({"colour": (0, 0, 256)}, r"colour \(0, 0, 256\) is not three integers from 0 to 255"),
    ],
    ids=str,
)
def test_an_impossible_watch_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(WATCH, **change)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split 'validation' is not one of train, test, reader"):
        sample_watch(0, 0, "validation")
