"""Scores in a feature space, and the networks that read and draw features."""

import itertools
import json

import numpy as np
import pytest
import torch

from uvlm_core.data.attributes import ATTRIBUTES, reader_classes, take_over
from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import Watch, render_batch, sample_watches
from uvlm_core.data.tokens import collate
from uvlm_core.models.decoding import generate_images, predict_features
from uvlm_core.models.encoders import FeatureDecoder, directions
from uvlm_core.models.readers import FeatureReader
from uvlm_core.scoring.evaluation import Evaluation
from uvlm_core.scoring.images import (
    bearing_patches,
    feature_ceiling,
    feature_distances,
    feature_floor,
    read_back,
)
from uvlm_core.training.loop import prepare
from uvlm_core.training.networks import feature_length
from uvlm_core.training.pool import sample_images, training_pool
from uvlm_core.training.spec import RunSpec

WATCHES = sample_watches(3, 12, "test")
ALL = [ATTRIBUTES] * len(WATCHES)


@pytest.fixture(scope="module")
def features(encoders):
    """Features of the watches and of twelve others."""
    return [
        encoders["SigLIP"].encode(render_batch(some))
        for some in (WATCHES, sample_watches(4, 12, "test"))
    ]


@pytest.fixture(scope="module")
def patches():
    return bearing_patches(WATCHES, 64, 4)


def values(rows) -> dict:
    return {(row["metric"], row["attribute"]): row["value"] for row in rows}


def test_patches_bear_what_changes_in_them():
    watch = Watch(3, 0, 30, "sunny", 50, "top left", "bottom right", (10, 60, 30))
    found = {name: mask[0].reshape(8, 8) for name, mask in bearing_patches([watch], 64, 8).items()}
    assert (
        found["weather"][:2, :2].any() and found["weather"].sum() == found["weather"][:2, :2].sum()
    )
    assert (
        found["battery"][6:, 5:].any() and found["battery"].sum() == found["battery"][6:, 5:].sum()
    )
    # hands at 3, 12 and 6 o'clock, and at the opposite places
    assert (
        found["time"][4, 5]
        and found["time"][2, 4]
        and not found["time"][[0, 0, 7, 7], [0, 7, 0, 7]].any()
    )


def test_the_cosine_is_the_mean_over_the_patches_that_bear_the_attribute(features, patches):
    generated, real = features
    requested = [
        ("time", "weather", "weather_corner") if number % 2 else ("time", "battery")
        for number in range(12)
    ]
    found = values(feature_distances(generated, real, patches, requested))
    cosine = torch.cosine_similarity(
        torch.from_numpy(generated), torch.from_numpy(real), dim=-1
    ).numpy()
    assert found["feature_cosine", "all"] == pytest.approx(cosine.mean(), abs=1e-5)
    chosen = [cosine[number][patches["weather"][number]] for number in range(1, 12, 2)]
    assert found["feature_cosine", "weather"] == pytest.approx(
        np.concatenate(chosen).mean(), abs=1e-5
    )
    assert ("feature_cosine", "battery") not in found  # its corner was never requested


def test_equal_features_are_at_no_distance_and_scale_does_not_matter_to_the_cosine(
    features, patches
):
    real, other = features
    same = values(feature_distances(real, real, patches, ALL))
    assert same["feature_frechet", "12 against 12"] == pytest.approx(0, abs=1e-3)
    assert all(
        value == pytest.approx(1)
        for (metric, _), value in same.items()
        if metric == "feature_cosine"
    )
    once, twice = (values(feature_distances(scale * other, real, patches, ALL)) for scale in (1, 2))
    assert twice["feature_cosine", "time"] == pytest.approx(once["feature_cosine", "time"])
    assert twice["feature_frechet", "12 against 12"] != once["feature_frechet", "12 against 12"]
    floor = values(feature_floor(other, real, patches, ALL))
    assert {f"{metric}_floor": value for (metric, _), value in once.items()} == {
        m: v for (m, _), v in floor.items()
    }


@pytest.mark.parametrize(
    "generated", [np.zeros((1, 16, 24)), np.zeros((12, 16, 23)), np.zeros((12, 16))]
)
def test_features_that_do_not_fit_are_refused(generated, features, patches):
    with pytest.raises(ValueError, match=r"generated features \("):
        feature_distances(generated, features[0], patches, ALL)


def test_reader_and_decoder_see_directions_only_and_batches_change_nothing(networks, features):
    reader = FeatureReader.load(str(networks / "siglip_reader"), str(networks / "siglip"))
    decoder = FeatureDecoder.load(str(networks / "siglip_decoder"), str(networks / "siglip"))
    lengths = np.random.default_rng(0).uniform(0.5, 3, (12, 16, 1)).astype(np.float32)
    assert reader.read(features[0]) == reader.read(features[0] * lengths)
    assert [reader.read(part)[0] for part in np.split(features[0], 12)] == reader.read(features[0])
    drawn = decoder.decode(features[0])
    assert drawn.shape == (12, 64, 64, 3) and drawn.dtype == np.uint8
    assert np.abs(drawn.astype(int) - decoder.decode(features[0] * lengths)).max() <= 1
    assert all(
        reading[name] in reader_classes()[name]
        for reading in reader.read(features[0])
        for name in reader_classes()
    )
    rows = values(read_back(features[0], WATCHES, ALL, reader, "feature_read_back"))
    assert {name for _, name in rows} >= {*ATTRIBUTES, "total"}
    assert {metric for metric, _ in rows} == {"feature_read_back", "feature_read_back_error"}


def test_directions_have_the_length_of_the_root_of_their_width():
    assert directions(torch.randn(3, 5, 24)).norm(dim=-1).numpy() == pytest.approx(
        24**0.5, rel=1e-5
    )


def test_the_reader_refuses_what_is_no_feature_table(networks):
    reader = FeatureReader.load(str(networks / "siglip_reader"), str(networks / "siglip"))
    for wrong in (np.zeros((2, 16, 23)), np.zeros((2, 16)), np.zeros((0, 16, 24))):
        with pytest.raises(ValueError, match=r"Features are of shape \(images, 16, 24\), not \("):
            reader.read(wrong)


@pytest.mark.parametrize("kind", [FeatureReader, FeatureDecoder])
def test_a_network_of_another_encoders_features_is_refused(kind, networks, tmp_path):
    name = {"FeatureReader": "siglip_reader", "FeatureDecoder": "siglip_decoder"}[kind.__name__]
    with pytest.raises(
        ValueError, match="was not trained on the features of 'pretrained/siglip'; train one for it"
    ):
        kind.load(str(networks / name), "pretrained/siglip")
    (tmp_path / "config.json").write_text(json.dumps({"width": 24}))
    with pytest.raises(ValueError, match="was not trained on the features of"):
        kind.load(str(tmp_path), str(networks / "siglip"))


def test_generated_features_are_scored_where_they_are_and_drawn_to_be_looked_at(spec: RunSpec):
    spec = spec.vary(architecture="VQ-SigLIP", regime="generation", shown_watches=6)
    model, processor, _, understanding, generation = prepare(spec)
    assert model.config.feature_length == pytest.approx(
        feature_length(generation, sample_images(training_pool(spec))), rel=1e-6
    )
    evaluation = Evaluation(spec, processor, understanding, generation)
    rows = evaluation(model)
    metrics = {row["metric"] for row in rows}
    assert metrics == {
        "triggered",
        "feature_cosine",
        "feature_cosine_floor",
        "feature_cosine_forced",
        "feature_frechet",
        "feature_frechet_floor",
        "feature_read_back",
        "feature_read_back_error",
    }
    samples, pictures = evaluation.samples()
    assert pictures.shape == (6, 64, 64, 3) and len(samples["requests"]) == 6


def test_predicted_features_are_those_of_the_image_loss(new_model, processor, watches, tables):
    model = new_model("VQ-SigLIP", feature_length=2.5).eval()
    requests, real = make_conversations(watches[:5], "generation", 0), tables["SigLIP"][:5]
    predicted = predict_features(model, processor, requests, real)
    rows = [processor.row(request, number) for number, request in enumerate(requests)]
    with torch.no_grad():
        loss = model(buckets=collate(rows, None, real, processor.pad)).image_loss
    cosines = torch.cosine_similarity(torch.from_numpy(predicted), torch.from_numpy(real), dim=-1)
    assert float(1 - cosines.mean()) == pytest.approx(float(loss), abs=1e-5)
    alone = [
        predict_features(model, processor, [request], real[number:])
        for number, request in enumerate(requests)
    ]
    np.testing.assert_allclose(np.concatenate(alone), predicted, atol=2e-4)


def test_a_watch_as_requested_has_what_is_named_and_of_the_rest_what_the_other_has():
    parts = ("hour", "minute", "second", "weather", "battery", "weather_corner", "battery_corner")
    for count in range(len(ATTRIBUTES) + 1):
        for names in itertools.combinations(ATTRIBUTES, count):
            for watch, other in itertools.product(WATCHES[:6], sample_watches(4, 6, "test")):
                made = take_over(other, watch, names)
                named = {
                    part
                    for part in parts
                    if part in names or (part in parts[:3] and "time" in names)
                }
                assert all(getattr(made, part) == getattr(watch, part) for part in named)
                moved = (
                    {"weather_corner", "battery_corner"}
                    if len({*names} & {*parts[5:]}) == 1
                    else set()
                )
                assert all(
                    getattr(made, part) == getattr(other, part) for part in {*parts} - named - moved
                )
                assert made.colour == other.colour


def test_the_ceiling_is_full_for_what_a_request_says_in_full_and_above_what_any_one_watch_has(
    encoders, patches
):
    encoder, rng = encoders["SigLIP"], np.random.default_rng(0)
    requested = [("time", "weather", "weather_corner")] * len(WATCHES)
    found = values(feature_ceiling(encoder, WATCHES, requested, 64, samples=4))
    assert {metric for metric, _ in found} == {"feature_cosine_ceiling"}
    real = encoder.encode(render_batch(WATCHES))
    one = encoder.encode(
        render_batch(
            [
                take_over(other, watch, requested[0])
                for watch, other in zip(
                    WATCHES,
                    sample_watches(int(rng.integers(99)), len(WATCHES), "reader"),
                    strict=True,
                )
            ]
        )
    )
    single = values(feature_distances(one, real, patches, requested))
    assert found["feature_cosine_ceiling", "all"] > single["feature_cosine", "all"]
    assert found["feature_cosine_ceiling", "all"] <= 1


@pytest.mark.parametrize("length", [0.0, 2.5])
def test_features_are_decoded_as_they_are_trained(length, new_model, processor, watches):
    # rounding would grow from token to token
    model = new_model("VQ-SigLIP", feature_length=length).double().eval()
    requests = make_conversations(watches[:3], "generation", 0)
    cached = generate_images(model, processor, requests).tokens
    assert cached.shape == (3, 16, 24)
    np.testing.assert_allclose(
        generate_images(model, processor, requests, cached=False).tokens, cached, atol=2e-4
    )
    alone = np.concatenate(
        [generate_images(model, processor, [request]).tokens for request in requests]
    )
    np.testing.assert_allclose(alone, cached, atol=2e-4)
    # at the trained length, whatever its own
    entered = model.embed_generation(torch.from_numpy(cached))
    scaled = model.embed_generation(7 * torch.from_numpy(cached))
    assert torch.allclose(entered, scaled, atol=1e-4) == bool(length)
