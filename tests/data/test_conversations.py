"""The conversations: exact, readable back, truly lacking what a bias bars."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uvlm_core.data.attributes import ATTRIBUTES, read_caption
from uvlm_core.data.conversations import (
    DESCRIBE_WATCH,
    DRAW_WATCH,
    IMAGE,
    TASKS,
    AttributeBias,
    Conversation,
    Turn,
    make_conversations,
)
from uvlm_core.data.smart_watch import CORNERS, WEATHERS, Watch, sample_watches

WATCHES = sample_watches(0, 400)
WATCH = Watch(
    hour=0,
    minute=9,
    second=6,
    weather="sunny",
    battery=7,
    weather_corner="top left",
    battery_corner="bottom right",
    colour=(40, 60, 120),
)
QUESTIONS = [attribute.questions for attribute in ATTRIBUTES.values()]
CLAUSES = [attribute.clauses for attribute in ATTRIBUTES.values()]
SPOKEN = {  # words and signs that speak of one attribute alone
    "time": r"\d:\d|hands|time|clock|late|hour|minute|second",
    "weather": "|".join(WEATHERS) + "|forecast|sky|outside",
    "battery": r"\d%|percent|charge|full|level",
}
PINNED = [
    (
        Turn("<image>\nwhere is the battery?", "bottom right", ("battery_corner",)),
        Turn("how much charge does the watch have?", "7%", ("battery",)),
    ),
    (
        Turn(
            "<image>\nplease describe the watch.",
            "the clock says 00:09:06, it is sunny outside and the battery holds 7%.",
            ("time", "weather", "battery"),
        ),
    ),
    (
        Turn(
            "make a watch on which the face reads 00:09:06, the icon stands for sunny, the battery "
            "is drawn at the bottom right, the weather icon is in the top left corner and the "
            "battery is 7% full.",
            IMAGE,
            ("time", "weather", "battery_corner", "weather_corner", "battery"),
        ),
    ),
]
repeatably = settings(max_examples=30, deadline=None, derandomize=True)


def said(talk: Conversation) -> str:
    """All that a conversation says beside its image."""
    return "\n".join(f"{turn.human} {turn.gpt}" for turn in talk.turns).replace(IMAGE, "")


def mentions(talk: Conversation) -> list[str]:
    return [name for turn in talk.turns for name in turn.attributes]


@pytest.mark.parametrize(
    ("attribute", "answer"),
    [
        ("time", "00:09:06"),
        ("weather", "sunny"),
        ("battery", "7%"),
        ("weather_corner", "top left"),
        ("battery_corner", "bottom right"),
    ],
)
def test_answers_are_short(attribute, answer):
    assert ATTRIBUTES[attribute].truth(WATCH) == answer


def test_there_are_many_short_wordings():
    for attribute in ATTRIBUTES:
        assert (
            len(set(ATTRIBUTES[attribute].questions)) >= 10
            and len(set(ATTRIBUTES[attribute].clauses)) >= 8
        )
        assert all(clause.count("{}") == 1 for clause in ATTRIBUTES[attribute].clauses)
        assert all(len(text.split()) <= 14 for text in ATTRIBUTES[attribute].questions)
    assert len(set(DESCRIBE_WATCH)) >= 8 and len(set(DRAW_WATCH)) >= 8
    wordings = [
        text for options in (*QUESTIONS, *CLAUSES, DESCRIBE_WATCH, DRAW_WATCH) for text in options
    ]
    assert all(text == text.lower() for text in wordings)


def test_no_question_is_asked_of_two_attributes_or_gives_a_value_away():
    questions = Counter(
        text for attribute in ATTRIBUTES for text in ATTRIBUTES[attribute].questions
    )
    assert set(questions.values()) == {1}
    values = re.compile(r"\d|" + "|".join(map(re.escape, (*WEATHERS, *CORNERS))))
    assert not any(values.search(text) for text in (*questions, *DESCRIBE_WATCH, *DRAW_WATCH))


@pytest.mark.parametrize("task", ["caption", "generation"])
def test_texts_stay_short(task):
    assert max(len(said(talk).split()) for talk in make_conversations(WATCHES, task, seed=0)) <= 48


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 2**32), position=st.integers(0, 9))
@repeatably
def test_a_conversation_depends_on_its_seed_task_position_and_watch_alone(task, seed, position):
    talk = make_conversations(WATCHES[:10], task, seed)[position]
    others = [WATCHES[20 + i] for i in range(position)]
    assert make_conversations([*others, WATCHES[position]], task, seed)[position] == talk
    assert talk.image == position


def test_a_conversation_is_the_same_on_every_machine():
    assert [make_conversations([WATCH], task, seed=3, turns=2)[0].turns for task in TASKS] == PINNED


@pytest.mark.parametrize("task", TASKS)
def test_seeds_give_different_conversations(task):
    assert make_conversations(WATCHES[:20], task, 0) != make_conversations(WATCHES[:20], task, 1)


@pytest.mark.parametrize("turns", [1, 3, 5, (1, 4), (2, 5)])
@given(seed=st.integers(0, 2**32))
@repeatably
def test_every_question_has_its_true_answer_and_is_asked_once(turns, seed):
    low, high = turns if isinstance(turns, tuple) else (turns, turns)
    for watch, talk in zip(
        WATCHES[:10], make_conversations(WATCHES[:10], "vqa", seed, turns), strict=True
    ):
        assert low <= len(talk.turns) <= high and len(set(mentions(talk))) == len(talk.turns)
        assert talk.turns[0].human.startswith(f"{IMAGE}\n") and said(talk).count(IMAGE) == 0
        for turn in talk.turns:
            (attribute,) = turn.attributes
            assert turn.human.removeprefix(f"{IMAGE}\n") in ATTRIBUTES[attribute].questions
            assert turn.gpt == ATTRIBUTES[attribute].truth(watch)


def test_the_number_of_turns_is_drawn_from_its_whole_range():
    counts = Counter(
        len(talk.turns) for talk in make_conversations(WATCHES, "vqa", 0, turns=(1, 4))
    )
    assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > 70


def test_questions_have_the_papers_odds_and_come_in_any_order():
    asked = [mentions(talk) for talk in make_conversations(WATCHES, "vqa", 0, turns=1)]
    corners = sum(names[0].endswith("corner") for names in asked)
    assert corners / len(asked) == pytest.approx(2 / 5, abs=0.07)
    first = Counter(mentions(talk)[0] for talk in make_conversations(WATCHES, "vqa", 0, turns=5))
    assert min(first[name] for name in ATTRIBUTES) > 55  # 80 expected of each


@pytest.mark.parametrize(
    ("task", "side", "openings"),
    [("caption", "gpt", DESCRIBE_WATCH), ("generation", "human", DRAW_WATCH)],
)
def test_captions_and_requests_state_the_time_and_half_of_the_rest(task, side, openings):
    talks = make_conversations(WATCHES, task, seed=0)
    for watch, talk in zip(WATCHES, talks, strict=True):
        (turn,) = talk.turns
        assert read_caption(getattr(turn, side)) == {
            name: ATTRIBUTES[name].truth(watch) for name in turn.attributes
        }
        assert turn.attributes[0] == "time"
        assert any(
            turn.human.removeprefix(f"{IMAGE}\n").startswith(opening) for opening in openings
        )
    counts = Counter(name for talk in talks for name in mentions(talk))
    assert counts["time"] == len(talks)
    assert all(
        counts[name] / len(talks) == pytest.approx(0.5, abs=0.08) for name in list(ATTRIBUTES)[1:]
    )
    pairs = Counter(tuple(sorted(mentions(talk))) for talk in talks)
    assert len(pairs) == 16  # each of the four others on its own toss


@pytest.mark.parametrize("task", TASKS)
def test_every_wording_is_used(task):
    text = "\n".join(said(talk) for talk in make_conversations(WATCHES, task, seed=5))
    options = {
        "vqa": [text for texts in QUESTIONS for text in texts],
        "caption": DESCRIBE_WATCH,
        "generation": DRAW_WATCH,
    }[task]
    assert not [option for option in options if option not in text]


@pytest.mark.parametrize("rate", [0.0, 0.014, 0.25, 1.0])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("task", TASKS)
def test_biased_data_contain_exactly_the_stated_rows(task, attribute, rate):
    biases = [AttributeBias(attribute, rate, tasks=(task,))]
    # all mentioned, to be counted
    talks = make_conversations(WATCHES, task, seed=4, biases=biases, mention_rate=1.0)
    assert sum(attribute in mentions(talk) for talk in talks) == round(rate * len(WATCHES))


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("task", TASKS)
def test_barred_rows_do_not_speak_of_the_attribute_at_all(task, attribute):
    talks = make_conversations(
        WATCHES, task, seed=4, biases=[AttributeBias(attribute, 0.0, tasks=(task,))]
    )
    for watch, talk in zip(WATCHES, talks, strict=True):
        text = said(talk)
        assert attribute not in mentions(talk) and attribute not in read_caption(text)
        assert ATTRIBUTES[attribute].truth(watch) not in text
        assert not any(question in text for question in ATTRIBUTES[attribute].questions)
    if attribute in SPOKEN:
        assert not any(re.search(SPOKEN[attribute], said(talk)) for talk in talks)
        plain = make_conversations(WATCHES, task, seed=4)
        assert any(re.search(SPOKEN[attribute], said(talk)) for talk in plain)


@pytest.mark.parametrize("task", ["caption", "generation"])
def test_the_mention_rate_is_that_of_every_attribute_but_the_time(task):
    told = {
        rate: [
            set(mentions(talk))
            for talk in make_conversations(WATCHES, task, seed=4, mention_rate=rate)
        ]
        for rate in (0, 0.5, 0.8, 1)
    }
    assert all(names == {"time"} for names in told[0]) and all(
        names == set(ATTRIBUTES) for names in told[1]
    )
    for low, high in ((0.5, 0.8), (0.8, 1)):  # a higher rate adds, and takes nothing away
        assert all(less <= more for less, more in zip(told[low], told[high], strict=True))
    for name in set(ATTRIBUTES) - {"time"}:
        share = sum(name in names for names in told[0.8]) / len(WATCHES)
        # four standard errors, and the draw is fixed
        assert abs(share - 0.8) < 4 * (0.8 * 0.2 / len(WATCHES)) ** 0.5
    assert make_conversations(WATCHES, task, seed=4, mention_rate=0.5) == make_conversations(
        WATCHES, task, seed=4
    )


def test_wordings_keeps_to_the_first_paraphrases_and_changes_nothing_else():
    one = make_conversations(WATCHES, "vqa", seed=4, wordings=1)
    every = make_conversations(WATCHES, "vqa", seed=4)
    for plain, varied in zip(one, every, strict=True):
        assert [(turn.gpt, turn.attributes) for turn in plain.turns] == [
            (turn.gpt, turn.attributes) for turn in varied.turns
        ]
        assert all(
            turn.human.removeprefix(f"{IMAGE}\n") == ATTRIBUTES[turn.attributes[0]].questions[0]
            for turn in plain.turns
        )
    requests = make_conversations(WATCHES, "generation", seed=4, wordings=2)
    assert {talk.turns[0].human.split(" the ")[0] for talk in requests} == set(DRAW_WATCH[:2])


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("task", TASKS)
def test_a_bias_leaves_everything_else_as_it_was(task, attribute):
    plain = make_conversations(WATCHES, task, seed=4)
    rare, rarer = (
        make_conversations(
            WATCHES, task, seed=4, biases=[AttributeBias(attribute, rate, tasks=(task,))]
        )
        for rate in (0.5, 0.1)
    )
    kept = 0
    for before, after, last in zip(plain, rare, rarer, strict=True):
        names = [name for name in mentions(before) if name != attribute]
        if attribute in mentions(after):
            assert after == before
            kept += 1
        elif names:
            assert mentions(after) == names and wordings(after) <= wordings(before)
        else:
            assert len(mentions(after)) == 1  # something is always said
        # the rarer rows are among the rare ones
        assert attribute not in mentions(last) or last == after == before
    assert 0.2 < kept / len(WATCHES) <= 0.5


def wordings(talk: Conversation) -> set[str]:
    """Questions, or the opening and the clauses, without their places."""
    text = "\n".join(f"{turn.human}\n{turn.gpt}" for turn in talk.turns).replace(IMAGE, "")
    for opening in DRAW_WATCH:
        text = text.replace(f"{opening} ", f"{opening}\n")
    return set(re.split(r"\n|, | and |\.", text))


def test_fewer_questions_than_attributes_turn_to_the_others():
    talks = make_conversations(
        WATCHES, "vqa", seed=0, turns=3, biases=[AttributeBias("weather", 0.0)]
    )
    assert {len(talk.turns) for talk in talks} == {3}
    talks = make_conversations(
        WATCHES, "vqa", seed=0, turns=5, biases=[AttributeBias("weather", 0.0)]
    )
    assert {len(talk.turns) for talk in talks} == {4}


def test_a_bias_holds_for_its_tasks_alone_and_biases_add_up():
    biases = [AttributeBias("weather", 0.01), AttributeBias("battery", 0.5, tasks=("vqa",))]
    assert make_conversations(WATCHES, "generation", 0, biases=biases) == make_conversations(
        WATCHES, "generation", 0
    )
    counts = Counter(
        name
        for talk in make_conversations(WATCHES, "vqa", 0, biases=biases)
        for name in mentions(talk)
    )
    assert counts == {
        "time": 400,
        "weather": 4,
        "battery": 200,
        "weather_corner": 400,
        "battery_corner": 400,
    }


def test_lists_out_of_json_make_the_same_bias():
    assert AttributeBias("weather", 0.01, tasks=["vqa"]) == AttributeBias(
        "weather", 0.01, tasks=("vqa",)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("colour", 0.1), "bias attribute 'colour' is not one of time, weather"),
        ((["time"], 0.1), r"bias attribute \['time'\] is not one of time, weather"),
        (("weather", 1.1), "bias rate 1.1 is not a number from 0 to 1"),
        (("weather", -0.1), "bias rate -0.1 is not a number from 0 to 1"),
        (("weather", float("nan")), "bias rate nan is not a number from 0 to 1"),
        (("weather", "0.1"), "bias rate '0.1' is not a number from 0 to 1"),
        (("weather", True), "bias rate True is not a number from 0 to 1"),
        (
            ("weather", 0.1, ("chat",)),
            r"bias tasks \('chat',\) are not a tuple of names out of vqa, "
            r"caption, generation",
        ),
        (("weather", 0.1, "vqa"), "bias tasks 'vqa' are not a tuple"),
        (("weather", 0.1, ()), r"bias tasks \(\) are not a tuple"),
    ],
    ids=str,
)
def test_a_bad_bias_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttributeBias(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "chat"}, "task 'chat' is not one of vqa, caption, generation"),
        ({"seed": -1}, "seed -1 is not an integer from 0"),
        ({"seed": 0.5}, "seed 0.5 is not an integer from 0"),
        ({"turns": 0}, "turns 0 is neither an integer from 1 to 5 nor a pair"),
        ({"turns": 6}, "turns 6 is neither"),
        ({"turns": (4, 1)}, r"turns \(4, 1\) is neither"),
        ({"turns": (1, 2, 3)}, r"turns \(1, 2, 3\) is neither"),
        ({"turns": "5"}, "turns '5' is neither"),
        ({"mention_rate": 1.1}, "mention_rate 1.1 is not a number from 0 to 1"),
        ({"mention_rate": "all"}, "mention_rate 'all' is not a number"),
        ({"wordings": 0}, "wordings 0 is neither an integer from 1 nor None"),
        ({"wordings": 1.5}, "wordings 1.5 is neither"),
        ({"watches": [WATCH, "10:09:36"]}, "watch 1 is '10:09:36', not a Watch"),
        ({"biases": [("weather", 0.1)]}, r"bias \('weather', 0.1\) is not an AttributeBias"),
        (
            {"biases": [AttributeBias("weather", 0.1), AttributeBias("weather", 0.2)]},
            "attribute 'weather' occurs twice",
        ),
        (
            {"biases": [AttributeBias(name, 0.0) for name in ATTRIBUTES]},
            "the biases leave rows of task 'vqa' without any",
        ),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_conversations(**{"watches": [WATCH], "task": "vqa", "seed": 0, **changes})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Turn("", "sunny"), "the human turn is '', not a text"),
        (lambda: Turn("what?", 57), "the gpt turn is 57, not a text"),
        (
            lambda: Turn("what?", "red", ("colour",)),
            r"attributes \('colour',\) are not a tuple of "
            r"names out of time",
        ),
        (
            lambda: Conversation("vqa", -1, (Turn("<image>\nwhat?", "sunny"),)),
            "image -1 is not a position from 0",
        ),
        (
            lambda: Conversation("vqa", "", (Turn("<image>\nwhat?", "sunny"),)),
            "image '' is neither a position nor a file",
        ),
        (lambda: Conversation("vqa", 0, ()), r"turns \(\) are not a tuple of at least one Turn"),
        (
            lambda: Conversation("vqa", 0, (Turn("what?", "sunny"),)),
            "a vqa conversation needs <image> once, at the start",
        ),
        (
            lambda: Conversation("caption", 0, (Turn("<image>\nwhat?", IMAGE),)),
            "a caption conversation needs <image> once",
        ),
        (
            lambda: Conversation("generation", 0, (Turn("draw", "here: <image>"),)),
            "needs <image> as its whole gpt turn",
        ),
        (
            lambda: Conversation("generation", 0, (Turn("<image> draw", IMAGE),)),
            "needs <image> as its whole gpt turn",
        ),
        (
            lambda: Conversation("generation", 0, (Turn("draw", IMAGE),) * 2),
            "has 2 turns instead of one",
        ),
    ],
)
def test_an_impossible_conversation_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# LLaVA JSON
