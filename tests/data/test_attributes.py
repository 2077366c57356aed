"""Attributes: what each one promises, and a new one that needs no other line changed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from uvlm_core.data.attributes import (
    ATTRIBUTES,
    Attribute,
    attribute_with,
    chances,
    find_attribute,
    icons_first,
    read_caption,
    scored_names,
    take_over,
)
from uvlm_core.data.conversations import AttributeBias, make_conversations
from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.scoring.answers import (
    score_answer,
    score_captions,
    score_confusion,
    score_conversations,
)
from uvlm_core.scoring.images import bearing_patches, read_back
from uvlm_core.scoring.patching import pairs_of, patch_effects
from uvlm_core.scoring.probing import probe, probe_labels

WATCHES = sample_watches(21, 120)


class FaceColour(Attribute):
    """The strongest of the face's three colours: a toy."""

    name = "face_colour"
    values = ("reddish", "greenish", "bluish")
    fields = ("colour",)
    in_readers = False
    questions = ("which colour does the dial have?", "name the dial's colour.")
    clauses = ("its dial is {}", "its dial looks {}")

    def value(self, watch) -> str:
        return self.values[int(np.argmax(watch.colour))]

    def alternatives(self, watch) -> list:
        shown = [(200, 0, 0), (0, 120, 0), (0, 0, 200)]
        return [
            replace(watch, colour=colour)
            for value, colour in zip(self.values, shown, strict=True)
            if value != self.value(watch)
        ]

    def contrasts(self, watch) -> list:
        return self.alternatives(watch)


@pytest.fixture
def face_colour(monkeypatch) -> FaceColour:
    monkeypatch.setitem(ATTRIBUTES, "face_colour", FaceColour())
    return ATTRIBUTES["face_colour"]


def test_a_new_attribute_is_asked_and_told_and_read(face_colour):
    asked = [turn for talk in make_conversations(WATCHES, "vqa", 0, turns=6) for turn in talk.turns]
    own = [turn for turn in asked if turn.attributes == ("face_colour",)]
    assert len(own) == len(WATCHES) and {turn.gpt for turn in own} == set(face_colour.values)
    told = [
        talk.turns[0].gpt for talk in make_conversations(WATCHES, "caption", 0, mention_rate=1.0)
    ]
    assert all(
        read_caption(text)
        == {name: attribute.truth(watch) for name, attribute in ATTRIBUTES.items()}
        for text, watch in zip(told, WATCHES, strict=True)
    )
    barred = make_conversations(
        WATCHES, "generation", 0, biases=[AttributeBias("face_colour", 0.0, ("generation",))]
    )
    assert not any("dial" in talk.turns[0].human for talk in barred)


def test_a_new_attribute_is_scored(face_colour):
    assert score_answer("face_colour", "it looks bluish.", "bluish") == 1
    assert score_answer("face_colour", "not bluish", "bluish") == 0
    assert score_answer("face_colour", "reddish", "bluish", "normalised") == pytest.approx(-0.5)
    answers = [
        (name, attribute.truth(watch), attribute.truth(watch))
        for watch in WATCHES
        for name, attribute in ATTRIBUTES.items()
    ]
    rows = {row["attribute"]: row for row in score_conversations(answers, ("partial",))}
    assert (
        rows["face_colour"]["value"] == rows["total"]["value"] == 1
        and rows["total"]["samples"] == 6 * 120
    )
    rows = score_captions(["its dial is greenish."], WATCHES[:1], ("exact",))
    assert {
        "metric": "caption_mentioned",
        "attribute": "face_colour",
        "value": 1.0,
        "samples": 1,
    } in rows
    assert {
        row["attribute"] for row in score_confusion("face_colour", [("reddish", "bluish")])
    } == {f"face_colour: bluish > {said}" for said in (*face_colour.values, "none")}


def test_a_new_attribute_is_probed(face_colour):
    labels = probe_labels(WATCHES)["face_colour"]
    vectors = np.hstack(
        [np.eye(3)[labels], np.random.default_rng(0).standard_normal((len(WATCHES), 4))]
    )
    found = probe(vectors, WATCHES).set_index("attribute").loc["face_colour"]
    assert found["accuracy"] > 0.95 and found["chance"] == pytest.approx(1 / 3)


def test_a_new_attribute_is_patched(face_colour, new_model, processor, encoders):
    pairs = pairs_of(WATCHES[:3], "face_colour")
    assert all(face_colour.value(one) != face_colour.value(other) for one, other in pairs)
    images = [
        encoders["SigLIP"].encode(render_batch([pair[side] for pair in pairs])) for side in (0, 1)
    ]
    table = patch_effects(
        new_model("SigLIP-VQ").eval(), processor, pairs, "face_colour", images, ["all"]
    )
    assert set(table["attribute"]) == {"face_colour"} and np.allclose(table["effect"], 1, atol=1e-3)


def test_a_new_attribute_has_its_patches_and_what_no_reader_knows_is_not_read_back(face_colour):
    patches = bearing_patches(WATCHES[:4], 64, 8)["face_colour"]
    assert patches[:, 27].all() and not patches[:, [0, 7, 56, 63]].any()  # the face, and no corner
    assert take_over(WATCHES[0], WATCHES[1], ["face_colour"]).colour == WATCHES[1].colour

    class Reader:
        def read(self, images: Sequence) -> list[dict]:
            return [
                {
                    part: getattr(watch, part)
                    for attribute in ATTRIBUTES.values()
                    if attribute.in_readers
                    for part in attribute.parts
                }
                for watch in WATCHES
            ]

    rows = {
        row["attribute"]: row["value"]
        for row in read_back(
            np.zeros(len(WATCHES)), WATCHES, [tuple(ATTRIBUTES)] * len(WATCHES), Reader()
        )
    }
    assert "face_colour" not in rows and rows["total"] == 1


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_values_of_an_attribute_are_all_that_a_watch_can_show(name):
    values = ATTRIBUTES[name].values
    assert (
        len(values)
        == len(set(values))
        == {"time": 43200, "battery": 101, "weather": 3}.get(name, 4)
    )
    assert {ATTRIBUTES[name].truth(watch) for watch in WATCHES} <= set(values)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_truth_is_parsed_as_the_value_that_the_watch_has(name):
    attribute = ATTRIBUTES[name]
    for watch in WATCHES:
        assert attribute.parse(attribute.truth(watch)) == attribute.value(watch)
        assert attribute.in_range(attribute.value(watch)) and len(
            attribute.split(attribute.value(watch))
        ) == len(attribute.parts)
        assert 0 <= attribute.probe_class(watch) < attribute.probe_classes


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_alternative_differs_in_its_attribute_alone(name):
    for watch in WATCHES[:20]:
        for other in ATTRIBUTES[name].alternatives(watch):
            assert {
                one
                for one in ATTRIBUTES
                if ATTRIBUTES[one].truth(watch) != ATTRIBUTES[one].truth(other)
            } == {name}


def test_names_and_orders_are_those_of_the_records():
    assert list(ATTRIBUTES) == ["time", "weather", "battery", "weather_corner", "battery_corner"]
    assert [attribute.name for attribute in icons_first()] == [
        "weather",
        "battery",
        "time",
        "weather_corner",
        "battery_corner",
    ]
    assert scored_names() == [*ATTRIBUTES, "hour", "minute", "second"] and set(chances()) == set(
        scored_names()
    )
    assert attribute_with("minute") is ATTRIBUTES["time"]
    with pytest.raises(ValueError, match="attribute 'colour' is not one of time, weather, battery"):
        find_attribute("colour")


def test_the_chance_of_reading_a_level_back_is_that_of_its_tolerance():
    battery, levels = ATTRIBUTES["battery"], range(101)
    credit = [battery.read_back_credit("battery", one, other) for one in levels for other in levels]
    assert (
        np.mean(credit)
        == pytest.approx(battery.read_back_chance)
        == chances(read_back=True)["battery"]
    )
    assert (
        battery.read_back_credit("battery", 50, 60) == 1
        and battery.read_back_credit("battery", 50, 61) == 0
    )
