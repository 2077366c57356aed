"""The scores: the paper's partial credit, exact match, the score above chance, and how values are
read from texts."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uvlm_core.data.attributes import ATTRIBUTES, chances, read_caption
from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import CORNERS, WEATHERS, Watch, sample_watches
from uvlm_core.scoring.answers import (
    RULES,
    answer_class,
    score_answer,
    score_captions,
    score_confusion,
    score_conversations,
    score_parts,
)

HANDS = ("hour", "minute", "second")
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
TIMES = st.builds(
    "{:02d}:{:02d}:{:02d}".format, st.integers(0, 11), st.integers(0, 59), st.integers(0, 59)
)
LEVELS = st.builds("{}%".format, st.integers(0, 100))
VALUES = {
    "time": TIMES,
    "battery": LEVELS,
    "weather": st.sampled_from(WEATHERS),
    "weather_corner": st.sampled_from(CORNERS),
    "battery_corner": st.sampled_from(CORNERS),
}
ASKED = st.sampled_from(list(ATTRIBUTES)).flatmap(
    lambda name: st.tuples(st.just(name), VALUES[name], VALUES[name])
)
repeatably = settings(max_examples=200, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("attribute", "answer", "true", "score"),
    [
        ("time", "10:09:36", "10:09:36", 1.0),
        ("time", "04:39:06", "10:09:36", 0.0),  # each hand half a turn off
        ("time", "04:09:36", "10:09:36", 2 / 3),
        ("time", "11:09:36", "00:09:36", 1 - 1 / 6 / 3),  # one hour over midnight
        ("time", "10:59:36", "10:01:36", 1 - 2 / 30 / 3),
        ("time", "10:09:50", "10:09:05", 1 - 15 / 30 / 3),
        ("battery", "57%", "57%", 1.0),
        ("battery", "47%", "57%", 0.9),
        ("battery", "0%", "100%", 0.0),
        ("weather", "sunny", "sunny", 1.0),
        ("weather", "cloudy", "sunny", 0.0),
        ("weather_corner", "top left", "top left", 1.0),
        ("weather_corner", "top right", "top left", 0.0),
        ("battery_corner", "bottom left", "bottom left", 1.0),
        ("battery_corner", "top left", "bottom left", 0.0),
    ],
)
def test_partial_credit_is_the_papers(attribute, answer, true, score):
    assert score_answer(attribute, answer, true) == pytest.approx(score)


@given(ASKED)
@repeatably
def test_checked_scores_stay_between_zero_and_one(question):
    for rule in ("partial", "exact"):
        assert 0 <= score_answer(*question, rule) <= 1


@given(ASKED)
@repeatably
def test_an_error_costs_the_same_in_both_directions(question):
    attribute, answer, true = question
    for rule in RULES:
        assert score_answer(attribute, answer, true, rule) == pytest.approx(
            score_answer(attribute, true, answer, rule)
        )


@given(ASKED)
@repeatably
def test_only_the_right_answer_is_exact_and_it_has_full_credit(question):
    attribute, answer, true = question
    assert score_answer(attribute, answer, true, "exact") == float(answer == true)
    assert all(score_answer(attribute, true, true, rule) == pytest.approx(1) for rule in RULES)
    assert answer == true or score_answer(attribute, answer, true) < 1


@given(ASKED)
@repeatably
def test_in_range_unchecked_is_partial_and_normalised_is_partial_above_chance(question):
    partial, chance = score_answer(*question), ATTRIBUTES[question[0]].chance
    assert score_answer(*question, "unchecked") == partial
    assert score_answer(*question, "normalised") == pytest.approx((partial - chance) / (1 - chance))


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("weather", WEATHERS),
        ("weather_corner", CORNERS),
        ("battery_corner", CORNERS),
        ("battery", [f"{level}%" for level in range(101)]),
    ],
)
def test_a_random_guess_scores_chance(attribute, values):
    scores = [score_answer(attribute, guess, true) for guess, true in product(values, values)]
    assert sum(scores) / len(scores) == pytest.approx(ATTRIBUTES[attribute].chance)
    scores = [
        score_answer(attribute, guess, true, "normalised")
        for guess, true in product(values, values)
    ]
    assert sum(scores) / len(scores) == pytest.approx(0)


@pytest.mark.parametrize(("part", "period"), [("hour", 12), ("minute", 60), ("second", 60)])
def test_a_random_guess_of_a_hand_scores_chance(part, period):
    place = HANDS.index(part)

    def time(value):
        numbers = [3, 20, 40]
        numbers[place] = value
        return "{:02d}:{:02d}:{:02d}".format(*numbers)

    scores = [
        score_parts("time", time(guess), time(true))[part]
        for guess, true in product(range(period), repeat=2)
    ]
    assert sum(scores) / len(scores) == pytest.approx(chances()[part])
    assert chances()[part] == ATTRIBUTES["time"].chance


@given(TIMES, TIMES)
@repeatably
def test_the_score_of_a_time_is_made_of_its_hands(answer, true):
    for rule in RULES:
        parts = score_parts("time", answer, true, rule)
        assert tuple(parts) == HANDS
        joined = min(parts.values()) if rule == "exact" else sum(parts.values()) / 3
        assert score_answer("time", answer, true, rule) == pytest.approx(joined)


def test_hands_are_scored_apart():
    assert score_parts("time", "10:39:51", "10:09:36") == {
        "hour": 1.0,
        "minute": 0.0,
        "second": 0.5,
    }
    assert score_parts("time", "10:39:51", "10:09:36", "exact") == {
        "hour": 1.0,
        "minute": 0.0,
        "second": 0.0,
    }
    assert score_parts("time", "10:39:51", "10:09:36", "normalised") == {
        "hour": 1.0,
        "minute": -1.0,
        "second": 0.0,
    }


@pytest.mark.parametrize(
    ("attribute", "answer", "true"),
    [
        ("time", "23:99:00", "00:00:00"),
        ("time", "12:00:00", "00:00:00"),
        ("time", "10:60:36", "10:09:36"),
        ("time", "10:09:60", "10:09:36"),
        ("battery", "101%", "100%"),
        ("battery", "1000000%", "100%"),
    ],
)
def test_an_answer_out_of_range_scores_nothing(attribute, answer, true):
    assert (
        score_answer(attribute, answer, true) == score_answer(attribute, answer, true, "exact") == 0
    )
    assert score_answer(attribute, answer, true, "normalised") < 0


def test_an_answer_may_have_hour_12_if_its_truth_has_it():
    assert score_answer("time", "12:05:00", "12:05:00", "exact") == 1
    assert score_answer("time", "12:05:00", "12:05:00") == 1
    assert score_answer("time", "00:05:00", "12:05:00") == 1  # the hands are the same
    assert score_answer("time", "12:05:00", "00:05:00") == 0


def test_the_range_of_a_time_is_checked_as_a_whole():
    assert set(score_parts("time", "10:99:36", "10:09:36").values()) == {0.0}


def test_without_the_check_answers_score_as_the_authors_code_has_it():
    # "circular" errors of -11 hours and -39 minutes
    hour, minute, second = 1 + 11 / 6, 1 + 39 / 30, 1
    assert score_answer("time", "23:99:00", "00:00:00", "unchecked") == pytest.approx(
        (hour + minute + second) / 3
    )
    assert score_answer("battery", "300%", "100%", "unchecked") == -1
    assert score_answer("time", "00:00:00", "12:00:00", "unchecked") == 1


@pytest.mark.parametrize(
    ("attribute", "answer"),
    [
        ("time", "It is 10:09:36."),
        ("time", "10:09:36</s>"),
        ("time", "10:9:36"),
        ("battery", "57 %"),
        ("battery", "57"),
        ("battery", "The battery is at 57%."),
        ("battery", "57 percent"),
        ("battery", "at 10:09:36 it has 57%"),
        ("battery", "57% of 100"),
        ("weather", "Sunny."),
        ("weather", "it is SUNNY, yes, sunny"),
        ("weather_corner", "the top left corner"),
        ("weather_corner", "Top-left"),
        ("weather_corner", "top  left"),
    ],
)
def test_a_value_is_read_out_of_a_short_sentence(attribute, answer):
    assert score_answer(attribute, answer, ATTRIBUTES[attribute].truth(WATCH), "exact") == 1


@pytest.mark.parametrize(
    ("attribute", "answer"),
    [
        ("time", ""),
        ("time", "10:09"),
        ("time", "10:09:36:12"),
        ("time", "-10:09:36"),
        ("time", "10:09:36.5"),
        ("time", "10:09:36 or 10:09:37"),
        ("time", "100936"),
        ("time", "10:09:" + "6" * 5000),
        ("battery", ""),
        ("battery", "full"),
        ("battery", "57.5%"),
        ("battery", "-57%"),
        ("battery", "57% or 58%"),
        ("battery", "9" * 5000),
        ("battery", "10:09:36"),
        ("weather", ""),
        ("weather", "snowing"),
        ("weather", "sunny or cloudy"),
        ("weather", "unsunny"),
        ("weather_corner", ""),
        ("weather_corner", "left"),
        ("weather_corner", "top left or top right"),
        ("battery_corner", "rooftop right"),
        ("battery_corner", "bottom"),
    ],
)
def test_an_unreadable_or_ambiguous_answer_scores_nothing(attribute, answer):
    for rule in ("partial", "exact", "unchecked"):
        assert score_answer(attribute, answer, ATTRIBUTES[attribute].truth(WATCH), rule) == 0


SAID = {
    "time": "10:09:36",
    "battery": "57%",
    "weather": "sunny",
    "weather_corner": "top left",
    "battery_corner": "bottom right",
}


@pytest.mark.parametrize(
    ("attribute", "answer"),
    [
        *product(
            ["battery"],
            (
                "57-60%",
                "57–60 %",
                "57%-60%",
                "57% or 60",
                "60 or 57%",
                "57% (or 60)",
                "57%, or maybe 60",
                "57 or perhaps 60 percent",
                "between 40 and 57%",
                "between 57% and 60",
                "40 to 57%",
                "from 40 up to 57%",
                "57/60%",
                "57 till 60 percent",
                "either 20 or 57 percent",
                "57%, 60",
                "60, 57%",
                "57% (60)",
                "57% and 60",
                "57% but maybe 60",
                "57% vs 60",
                "57% ± 3",
                "57% +/- 3",
                "57 plus or minus 3 percent",
                "57...60%",
                "57% or 57.5%",
            ),
        ),
        *product(
            ["time"],
            (
                "10:09:36-10:10:36",
                "10:09:36 – 10:10:36",
                "10:09:36 or 37",
                "10:09:36 or 10:10",
                "10:09:36/10:10:36",
                "between 10:09:36 and 10:10:36",
                "10:09:36 10:10",
                "10:09:36±1",
            ),
        ),
        *product(
            ["weather"],
            ("sunny or rainy", "rainy or sunny", "sunny/rainy", "sunny to cloudy", "sunny or not"),
        ),
        *product(
            ["weather_corner"],
            (
                "top left or right",
                "bottom or top left",
                "top or bottom left",
                "top left/right",
                "top-left/right",
                "top left - right",
                "top left, or right",
                "top left (or right)",
                "top left or the right",
                "either top left or right",
                "top left and right",
                "top left or bottom",
                "top left or lower left",
                "between top left and right",
            ),
        ),
    ],
)
def test_a_second_value_is_counted_in_whatever_form_it_is_said(attribute, answer):
    for rule in ("partial", "exact", "unchecked"):
        assert score_answer(attribute, answer, SAID[attribute], rule) == 0
    assert answer_class(attribute, answer) == "none"


@pytest.mark.parametrize(
    "denial",
    [
        "not {}",
        "it is not {}",
        "It isn't {}",
        "it isn’t {}",
        "it isnt {}",
        "it is never {}",
        "it cannot be {}",
        "it does not look {}",
        "no longer {}",
        "{} is wrong",
        "{} is not right",
        "neither {}",
        "anything but {}",
        "I don't think it is {}",
        "non-{}",
    ],
)
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_denied_value_is_no_answer_and_a_false_caption(attribute, denial):
    said = denial.format(SAID[attribute])
    assert score_answer(attribute, said, SAID[attribute]) == 0
    caption = read_caption(
        said if "corner" not in attribute else f"the {attribute.split('_')[0]}: {said}"
    )
    assert score_answer(attribute, caption[attribute], SAID[attribute]) == 0


@pytest.mark.parametrize(
    "open_range",
    [
        "more than {}",
        "less than {}",
        "at least {}",
        "up to {}",
        "over {}",
        "<{}",
        "≥ {}",
        "{} or more",
        "{} or less",
        "{}+",
    ],
)
def test_an_open_range_is_no_answer(open_range):
    assert score_answer("battery", open_range.format("57%"), "57%") == 0
    said = read_caption(f"the battery is at {open_range.format('57%')}, it is sunny.")
    assert score_answer("battery", said["battery"], "57%") == 0


@pytest.mark.parametrize(
    ("attribute", "answer"),
    [
        ("battery", "57,5%"),
        ("battery", "57,0%"),
        ("battery", "5,7%"),
        ("battery", "57,000%"),
        ("time", "10:09:36,5"),
    ],
)
def test_a_decimal_comma_is_refused_like_a_decimal_point(attribute, answer):
    for said in (answer, answer.replace(",", ".")):
        assert (
            score_answer(attribute, said, SAID[attribute]) == 0
            and answer_class(attribute, said) == "none"
        )


@pytest.mark.parametrize(
    ("attribute", "answer"),
    [
        *product(
            ["battery"],
            (
                "57% of 100",
                "57% and 3 bars",
                "57%, 3 bars",
                "3 bars, 57%",
                "In picture 3, the battery is at 57%",
                "1) 57%",
                "1. 57%",
                "57% or so",
                "57% or 57%",
                "about 57%",
                "~57%",
                "almost 57%",
                "I'm not sure, but 57%",
                "57%, not 60",
                "57%. Not charging.",
                "not charging, 57%",
                "No, 57%",
                "57% with no charger",
                "10:09:36,57%,sunny",
                "- 57%",
                "battery: 57%",
                "battery - 57%",
                "**57%**",
                "It reads 57 % at 10 o'clock",
                "It's 57% and not charging",
            ),
        ),
        *product(
            ["time"],
            (
                "10:09:36 and 57%",
                "10:09:36, 57%",
                "10:09:36,57%",
                "10:09, 10:09:36",
                "time: 10:09:36",
                "the hands read 10:09:36 and the date 12",
                "10:09:36 am or pm",
                "not sure, 10:09:36",
            ),
        ),
        *product(
            ["weather"],
            (
                "No, it is sunny",
                "no doubt it is sunny",
                "I don't know. sunny",
                "sunny, no rain",
                "sunny?",
                "it's sunny, isn't it?",
                "not only sunny",
                "sunny or so",
                "the sky isn't grey: sunny",
            ),
        ),
        *product(
            ["weather_corner"],
            (
                "right in the top left corner",
                "right at the top left",
                "top left, right?",
                "top left, not bottom",
                "top left, right above the face",
                "the corner at the top left of the face",
            ),
        ),
    ],
)
def test_a_claim_is_read_through_what_stands_beside_it(attribute, answer):
    assert score_answer(attribute, answer, SAID[attribute], "exact") == 1


@given(
    st.sampled_from(list(ATTRIBUTES)).flatmap(
        lambda name: st.tuples(st.just(name), VALUES[name], VALUES[name])
    ),
    st.sampled_from(
        (
            "{} or {}",
            "{}-{}",
            "{} – {}",
            "either {} or {}",
            "{}/{}",
            "from {} to {}",
            "{}, maybe {}",
        )
    ),
)
@repeatably
def test_two_different_values_score_nothing_and_the_same_twice_scores_one(question, form):
    attribute, one, other = question
    for true in (one, other):
        assert score_answer(attribute, form.format(one, other), true) == float(one == other)


@given(st.text(max_size=40), st.sampled_from(list(ATTRIBUTES)))
@repeatably
def test_any_text_at_all_can_be_scored(answer, attribute):
    assert 0 <= score_answer(attribute, answer, ATTRIBUTES[attribute].truth(WATCH)) <= 1
    assert set(read_caption(answer)) <= set(ATTRIBUTES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("colour", "red", "red"), "attribute 'colour' is not one of time, weather, battery"),
        (
            ("time", "10:09:36", "10:09:36", "strict"),
            "rule 'strict' is not one of partial, exact, normalised, unchecked",
        ),
        (("battery", 57, "57%"), "answer 57 is not a string"),
        (("battery", "57%", None), "truth None is not a string"),
        (
            ("time", "10:09:36", "23:99:00"),
            "truth '23:99:00' is not a time; it has the form hh:mm:ss",
        ),
        (("time", "10:09:36", "13:00:00"), "truth '13:00:00' is not a time"),
        (("time", "10:09:36", "13:00:00", "unchecked"), "truth '13:00:00' is not a time"),
        (("battery", "57%", "157%"), "truth '157%' is not a battery; it has the form 0% to 100%"),
        (
            ("weather", "sunny", "foggy"),
            "truth 'foggy' is not a weather; it has the form sunny or cloudy or raining",
        ),
        (
            ("weather_corner", "top left", "left"),
            "truth 'left' is not a weather_corner; it has the form top left or",
        ),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        score_answer(*arguments)


def test_a_caption_is_scored_on_what_it_states():
    def partial(caption):
        return {
            row["attribute"]: row["value"]
            for row in score_captions([caption], [WATCH])
            if row["metric"] == "caption_partial"
        }

    assert partial("it is cloudy, the battery is at 47% and the battery is top left.") == {
        "weather": 0.0,
        "battery": 0.9,
        "battery_corner": 0.0,
    }
    assert partial("it is sunny, it is cloudy.") == {"weather": 0.0}


def test_captions_report_what_they_state_and_how_well():
    captions = ["the time is 10:09:36 and it is sunny.", "the time is 10:39:36."]
    rows = {
        (row["metric"], row["attribute"]): row for row in score_captions(captions, [WATCH, WATCH])
    }
    assert rows["caption_mentioned", "weather"] == {
        "metric": "caption_mentioned",
        "attribute": "weather",
        "value": 0.5,
        "samples": 2,
    }
    assert rows["caption_mentioned", "total"]["value"] == pytest.approx(0.3)
    assert rows["caption_partial", "time"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert rows["caption_exact", "minute"]["value"] == 0.5
    assert rows["caption_partial", "weather"]["samples"] == 1
    assert ("caption_partial", "battery") not in rows and ("caption_partial", "total") not in rows


def test_true_captions_score_one_wherever_they_say_something():
    watches = sample_watches(2, 60)
    captions = [talk.turns[0].gpt for talk in make_conversations(watches, "caption", seed=0)]
    rows = score_captions(captions, watches)
    assert {row["value"] for row in rows if row["metric"] != "caption_mentioned"} == {1.0}
    assert sum(row["attribute"] == "total" for row in rows) == 4


def test_each_caption_needs_its_watch():
    with pytest.raises(ValueError, match="there are 2 captions for 1 watches"):
        score_captions(["", ""], [WATCH])


def test_rows_are_means_per_attribute_and_the_total_weighs_attributes_equally():
    answers = (
        [("weather", "sunny", "sunny")] * 3
        + [("weather", "cloudy", "sunny")]
        + [
            ("time", "10:39:36", "10:09:36"),
            ("battery", "47%", "57%"),
            ("weather_corner", "top left", "top left"),
            ("battery_corner", "top left", "top right"),
        ]
    )
    rows = {(row["metric"], row["attribute"]): row for row in score_conversations(answers)}
    assert len(rows) == 3 * 9
    assert rows["partial", "weather"] == {
        "metric": "partial",
        "attribute": "weather",
        "value": 0.75,
        "samples": 4,
    }
    assert [rows["partial", part]["value"] for part in HANDS] == [1, 0, 1]
    assert rows["partial", "total"]["value"] == pytest.approx((0.75 + 2 / 3 + 0.9 + 1 + 0) / 5)
    assert rows["exact", "total"]["value"] == pytest.approx((0.75 + 0 + 0 + 1 + 0) / 5)
    assert rows["normalised", "total"]["value"] == pytest.approx(
        (
            0.625
            + 1 / 3
            + (0.9 - ATTRIBUTES["battery"].chance) / (1 - ATTRIBUTES["battery"].chance)
            + 1
            - 1 / 3
        )
        / 5
    )
    assert rows["partial", "total"]["samples"] == 8


def test_there_is_no_total_of_some_attributes():
    rows = score_conversations([("weather", "sunny", "sunny")], rules=("partial",))
    assert rows == [{"metric": "partial", "attribute": "weather", "value": 1.0, "samples": 1}]
    assert score_conversations([]) == []


def test_every_turn_of_a_test_set_is_scored():
    watches = sample_watches(3, 50, "test")
    talks = make_conversations(watches, "vqa", seed=0)
    rows = score_conversations(
        (turn.attributes[0], turn.gpt, ATTRIBUTES[turn.attributes[0]].truth(watch))
        for watch, talk in zip(watches, talks, strict=True)
        for turn in talk.turns
    )
    assert {row["value"] for row in rows} == {1.0}
    assert {row["samples"] for row in rows if row["attribute"] == "total"} == {250}


@pytest.mark.parametrize(
    ("attribute", "said", "expected"),
    [
        ("weather", "it is sunny.", "sunny"),
        ("weather", "57%", "none"),
        ("weather", "sunny or cloudy", "none"),
        ("battery", "57%", "40-59%"),
        ("battery", "100%", "80-100%"),
        ("battery", "0%", "0-19%"),
        ("battery", "", "none"),
        ("battery", "130%", "none"),
        ("time", "10:09:36", "9-11 h"),
        ("time", "12:00:00", "0-2 h"),
        ("time", "10:99:36", "none"),
        ("weather_corner", "top left", "top left"),
        ("battery_corner", "left", "none"),
    ],
)
def test_an_answer_is_put_into_its_class(attribute, said, expected):
    assert answer_class(attribute, said) == expected


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_confusions_are_shares_of_what_is_shown_and_right_answers_are_on_the_diagonal(attribute):
    truths = ATTRIBUTES[attribute].values[::7]
    rows = score_confusion(attribute, [(value, value) for value in truths] + [("", truths[0])])
    assert {row["metric"] for row in rows} == {"confusion"}
    shares = {}
    for row in rows:
        true, said = row["attribute"].removeprefix(f"{attribute}: ").split(" > ")
        shares[true, said] = row["value"]
        assert row["value"] == 0 or said in (true, "none")
    for true in {true for true, _ in shares}:
        assert sum(value for (shown, _), value in shares.items() if shown == true) == pytest.approx(
            1
        )
    assert shares[answer_class(attribute, truths[0]), "none"] > 0
    assert {row["samples"] for row in rows} and all(row["samples"] > 0 for row in rows)
