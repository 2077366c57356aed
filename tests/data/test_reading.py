"""Captions and requests, read back: every clause, whole texts, and whose corner a corner is."""

from itertools import product

import pytest

from uvlm_core.data.attributes import ATTRIBUTES, read_caption
from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import sample_watches


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_clause_is_read_back_alone(attribute):
    for watch in sample_watches(0, 5):
        for clause in ATTRIBUTES[attribute].clauses:
            value = ATTRIBUTES[attribute].truth(watch)
            assert read_caption(clause.format(value)) == {attribute: value}


@pytest.mark.parametrize(("task", "side"), [("caption", "gpt"), ("generation", "human")])
def test_captions_and_requests_are_read_back_whole(task, side):
    watches = sample_watches(1, 400)
    for watch, talk in zip(watches, make_conversations(watches, task, seed=1), strict=True):
        turn = talk.turns[0]
        assert read_caption(getattr(turn, side)) == {
            name: ATTRIBUTES[name].truth(watch) for name in turn.attributes
        }


@pytest.mark.parametrize(
    ("caption", "values"),
    [
        (
            "Sunny in the top left corner, battery 57% in the bottom right.",
            {
                "weather": "sunny",
                "battery": "57%",
                "weather_corner": "top left",
                "battery_corner": "bottom right",
            },
        ),
        (
            "the icon is top left the battery is bottom right",
            {"weather_corner": "top left", "battery_corner": "bottom right"},
        ),
        ("it is sunny, it is cloudy.", {"weather": "sunny or cloudy"}),
        ("the hands show 10:09:36, the hands show 10:09:36.", {"time": "10:09:36"}),
        ("something in the top left corner.", {}),
        ("it is not cloudy.", {"weather": "not cloudy"}),
        ("the battery is not in the top left corner.", {"battery_corner": "not top left"}),
        ("the battery is between 40 and 57%.", {"battery": "40% or 57%"}),
        ("the battery is at the top left or right.", {"battery_corner": "top left or right"}),
        ("", {}),
    ],
)
def test_free_captions_are_read_as_they_stand(caption, values):
    assert read_caption(caption) == values


BATTERY = (
    "battery",
    "battery icon",
    "battery level icon",
    "battery-icon",
    "battery's icon",
    "charge indicator",
    "icon of the battery",
    "icon for the charge",
    "symbol showing the battery level",
    "charging symbol",
)
WEATHER = (
    "weather",
    "weather icon",
    "weather's icon",
    "icon",
    "icon of the weather",
    "sunny icon",
    "weather symbol",
)


@pytest.mark.parametrize(
    "form",
    [
        "the {} is in the {} corner, the {} is in the {} corner",
        "the {}: {}; the {}: {}",
        "{} - {}, {} - {}",
        "the {} is shown at the {} and the {} at the {}",
        "{} ({}), {} ({})",
        "{} {} {} {}",
        "in the {1} corner is the {0}, in the {3} the {2}",
        "the {1} corner holds the {0} while the {3} corner holds the {2}",
        "the {} sits {} with the {} at the {}",
    ],
)
@pytest.mark.parametrize(("battery", "weather"), list(product(BATTERY, WEATHER)))
def test_a_corner_belongs_to_the_thing_named_beside_it(form, battery, weather):
    expected = {"battery_corner": "top left", "weather_corner": "bottom right"}
    for things in (
        (battery, "top left", weather, "bottom right"),
        (weather, "bottom right", battery, "top left"),
    ):
        found = read_caption(form.format(*things))
        assert {name: value for name, value in found.items() if "corner" in name} == expected


@pytest.mark.parametrize(
    ("things", "attribute"), [(BATTERY, "battery_corner"), (WEATHER, "weather_corner")]
)
def test_a_thing_alone_has_its_corner(things, attribute):
    for thing in things:
        for form in (
            "the {} is in the top left corner",
            "in the top left corner there is the {}",
            "{}: top left",
            "a {} top left",
        ):
            found = read_caption(form.format(thing))
            assert {name: value for name, value in found.items() if "corner" in name} == {
                attribute: "top left"
            }


def test_the_batterys_icon_is_the_batterys():
    for caption in (
        "the battery has its icon in the top left corner",
        "the icon in the top left is the battery",
    ):
        assert read_caption(caption) == {"battery_corner": "top left"}
