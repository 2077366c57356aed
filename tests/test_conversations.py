"""The conversations: exact, readable back, truly lacking what a bias bars, and LLaVA JSON in and out."""

import errno
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uvlm_core.conversations import (
    CLAUSES,
    DESCRIBE,
    IMAGE,
    QUESTIONS,
    REQUESTS,
    TASKS,
    AttributeBias,
    Conversation,
    Turn,
    make_conversations,
    read_llava,
    truth,
    values_of,
    write_llava,
)
from uvlm_core.scoring import read_caption
from uvlm_core.smart_watch import ATTRIBUTES, CORNERS, WEATHERS, Watch, render, sample_watches

WATCHES = sample_watches(0, 400)
WATCH = Watch(hour=0, minute=9, second=6, weather="sunny", battery=7, weather_corner="top left",
              battery_corner="bottom right", colour=(40, 60, 120))
SPOKEN = {  # words and signs that speak of one attribute alone
    "time": r"\d:\d|hands|time|clock|late|hour|minute|second",
    "weather": "|".join(WEATHERS) + "|forecast|sky|outside",
    "battery": r"\d%|percent|charge|full|level",
}
PINNED = [
    (Turn("<image>\nwhere is the battery?", "bottom right", ("battery_corner",)),
     Turn("how much charge does the watch have?", "7%", ("battery",))),
    (Turn("<image>\nplease describe the watch.",
          "the clock says 00:09:06, it is sunny outside and the battery holds 7%.", ("time", "weather", "battery")),),
    (Turn("make a watch on which the face reads 00:09:06, the icon stands for sunny, the battery is drawn at the "
          "bottom right, the weather icon is in the top left corner and the battery is 7% full.", IMAGE,
          ("time", "weather", "battery_corner", "weather_corner", "battery")),),
]
repeatably = settings(max_examples=30, deadline=None, derandomize=True)


def said(talk: Conversation) -> str:
    """All that a conversation says beside its image."""
    return "\n".join(f"{turn.human} {turn.gpt}" for turn in talk.turns).replace(IMAGE, "")


def mentions(talk: Conversation) -> list[str]:
    return [name for turn in talk.turns for name in turn.attributes]


@pytest.mark.parametrize(("attribute", "answer"), [
    ("time", "00:09:06"), ("weather", "sunny"), ("battery", "7%"), ("weather_corner", "top left"),
    ("battery_corner", "bottom right")])
def test_answers_are_short(attribute, answer):
    assert truth(WATCH, attribute) == answer


def test_an_unknown_attribute_has_no_truth():
    with pytest.raises(ValueError, match="attribute 'colour' is not one of time, weather"):
        truth(WATCH, "colour")


def test_there_are_many_short_wordings():
    for attribute in ATTRIBUTES:
        assert len(set(QUESTIONS[attribute])) >= 10 and len(set(CLAUSES[attribute])) >= 8
        assert all(clause.count("{}") == 1 for clause in CLAUSES[attribute])
        assert all(len(text.split()) <= 14 for text in QUESTIONS[attribute])
    assert len(set(DESCRIBE)) >= 8 and len(set(REQUESTS)) >= 8
    wordings = [text for options in (*QUESTIONS.values(), *CLAUSES.values(), DESCRIBE, REQUESTS) for text in options]
    assert all(text == text.lower() for text in wordings)


def test_no_question_is_asked_of_two_attributes_or_gives_a_value_away():
    questions = Counter(text for attribute in ATTRIBUTES for text in QUESTIONS[attribute])
    assert set(questions.values()) == {1}
    values = re.compile(r"\d|" + "|".join(map(re.escape, (*WEATHERS, *CORNERS))))
    assert not any(values.search(text) for text in (*questions, *DESCRIBE, *REQUESTS))


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
    for watch, talk in zip(WATCHES[:10], make_conversations(WATCHES[:10], "vqa", seed, turns), strict=True):
        assert low <= len(talk.turns) <= high and len(set(mentions(talk))) == len(talk.turns)
        assert talk.turns[0].human.startswith(f"{IMAGE}\n") and said(talk).count(IMAGE) == 0
        for turn in talk.turns:
            (attribute,) = turn.attributes
            assert turn.human.removeprefix(f"{IMAGE}\n") in QUESTIONS[attribute]
            assert turn.gpt == truth(watch, attribute)


def test_the_number_of_turns_is_drawn_from_its_whole_range():
    counts = Counter(len(talk.turns) for talk in make_conversations(WATCHES, "vqa", 0, turns=(1, 4)))
    assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > 70


def test_questions_have_the_papers_odds_and_come_in_any_order():
    asked = [mentions(talk) for talk in make_conversations(WATCHES, "vqa", 0, turns=1)]
    corners = sum(names[0].endswith("corner") for names in asked)
    assert corners / len(asked) == pytest.approx(2 / 5, abs=0.07)
    first = Counter(mentions(talk)[0] for talk in make_conversations(WATCHES, "vqa", 0, turns=5))
    assert min(first[name] for name in ATTRIBUTES) > 55  # 80 expected of each


@pytest.mark.parametrize(("task", "side", "openings"), [
    ("caption", "gpt", DESCRIBE), ("generation", "human", REQUESTS)])
def test_captions_and_requests_state_the_time_and_half_of_the_rest(task, side, openings):
    talks = make_conversations(WATCHES, task, seed=0)
    for watch, talk in zip(WATCHES, talks, strict=True):
        (turn,) = talk.turns
        assert read_caption(getattr(turn, side)) == {name: truth(watch, name) for name in turn.attributes}
        assert turn.attributes[0] == "time"
        assert any(turn.human.removeprefix(f"{IMAGE}\n").startswith(opening) for opening in openings)
    counts = Counter(name for talk in talks for name in mentions(talk))
    assert counts["time"] == len(talks)
    assert all(counts[name] / len(talks) == pytest.approx(0.5, abs=0.08) for name in ATTRIBUTES[1:])
    pairs = Counter(tuple(sorted(mentions(talk))) for talk in talks)
    assert len(pairs) == 16  # each of the four others on its own toss


@pytest.mark.parametrize("task", TASKS)
def test_every_wording_is_used(task):
    text = "\n".join(said(talk) for talk in make_conversations(WATCHES, task, seed=5))
    options = {"vqa": [text for texts in QUESTIONS.values() for text in texts], "caption": DESCRIBE,
               "generation": REQUESTS}[task]
    assert not [option for option in options if option not in text]


@pytest.mark.parametrize("rate", [0.0, 0.014, 0.25, 1.0])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("task", TASKS)
def test_biased_data_contain_exactly_the_stated_rows(task, attribute, rate):
    biases = [AttributeBias(attribute, rate, tasks=(task,))]
    talks = make_conversations(WATCHES, task, seed=4, biases=biases, mention_rate=1.0)  # all mentioned, to be counted
    assert sum(attribute in mentions(talk) for talk in talks) == round(rate * len(WATCHES))


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("task", TASKS)
def test_barred_rows_do_not_speak_of_the_attribute_at_all(task, attribute):
    talks = make_conversations(WATCHES, task, seed=4, biases=[AttributeBias(attribute, 0.0, tasks=(task,))])
    for watch, talk in zip(WATCHES, talks, strict=True):
        text = said(talk)
        assert attribute not in mentions(talk) and attribute not in read_caption(text)
        assert truth(watch, attribute) not in text
        assert not any(question in text for question in QUESTIONS[attribute])
    if attribute in SPOKEN:
        assert not any(re.search(SPOKEN[attribute], said(talk)) for talk in talks)
        plain = make_conversations(WATCHES, task, seed=4)
        assert any(re.search(SPOKEN[attribute], said(talk)) for talk in plain)


@pytest.mark.parametrize("task", ["caption", "generation"])
def test_the_mention_rate_is_that_of_every_attribute_but_the_time(task):
    told = {rate: [set(mentions(talk)) for talk in make_conversations(WATCHES, task, seed=4, mention_rate=rate)]
            for rate in (0, 0.5, 0.8, 1)}
    assert all(names == {"time"} for names in told[0]) and all(names == set(ATTRIBUTES) for names in told[1])
    for low, high in ((0.5, 0.8), (0.8, 1)):  # a higher rate adds, and takes nothing away
        assert all(less <= more for less, more in zip(told[low], told[high], strict=True))
    for name in set(ATTRIBUTES) - {"time"}:
        share = sum(name in names for names in told[0.8]) / len(WATCHES)
        assert abs(share - 0.8) < 4 * (0.8 * 0.2 / len(WATCHES)) ** 0.5  # four standard errors, and the draw is fixed
    assert make_conversations(WATCHES, task, seed=4, mention_rate=0.5) == make_conversations(WATCHES, task, seed=4)


def test_wordings_keeps_to_the_first_paraphrases_and_changes_nothing_else():
    one = make_conversations(WATCHES, "vqa", seed=4, wordings=1)
    every = make_conversations(WATCHES, "vqa", seed=4)
    for plain, varied in zip(one, every, strict=True):
        assert [(turn.gpt, turn.attributes) for turn in plain.turns] == [
            (turn.gpt, turn.attributes) for turn in varied.turns]
        assert all(turn.human.removeprefix(f"{IMAGE}\n") == QUESTIONS[turn.attributes[0]][0] for turn in plain.turns)
    requests = make_conversations(WATCHES, "generation", seed=4, wordings=2)
    assert {talk.turns[0].human.split(" the ")[0] for talk in requests} == set(REQUESTS[:2])


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("task", TASKS)
def test_a_bias_leaves_everything_else_as_it_was(task, attribute):
    plain = make_conversations(WATCHES, task, seed=4)
    rare, rarer = (make_conversations(WATCHES, task, seed=4, biases=[AttributeBias(attribute, rate, tasks=(task,))])
                   for rate in (0.5, 0.1))
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
        assert attribute not in mentions(last) or last == after == before  # the rarer rows are among the rare ones
    assert 0.2 < kept / len(WATCHES) <= 0.5


def wordings(talk: Conversation) -> set[str]:
    """Questions, or the opening and the clauses, without their places."""
    text = "\n".join(f"{turn.human}\n{turn.gpt}" for turn in talk.turns).replace(IMAGE, "")
    for opening in REQUESTS:
        text = text.replace(f"{opening} ", f"{opening}\n")
    return set(re.split(r"\n|, | and |\.", text))


def test_fewer_questions_than_attributes_turn_to_the_others():
    talks = make_conversations(WATCHES, "vqa", seed=0, turns=3, biases=[AttributeBias("weather", 0.0)])
    assert {len(talk.turns) for talk in talks} == {3}
    talks = make_conversations(WATCHES, "vqa", seed=0, turns=5, biases=[AttributeBias("weather", 0.0)])
    assert {len(talk.turns) for talk in talks} == {4}


def test_a_bias_holds_for_its_tasks_alone_and_biases_add_up():
    biases = [AttributeBias("weather", 0.01), AttributeBias("battery", 0.5, tasks=("vqa",))]
    assert make_conversations(WATCHES, "generation", 0, biases=biases) == make_conversations(WATCHES, "generation", 0)
    counts = Counter(name for talk in make_conversations(WATCHES, "vqa", 0, biases=biases) for name in mentions(talk))
    assert counts == {"time": 400, "weather": 4, "battery": 200, "weather_corner": 400, "battery_corner": 400}


def test_lists_out_of_json_make_the_same_bias():
    assert AttributeBias("weather", 0.01, tasks=["vqa"]) == AttributeBias("weather", 0.01, tasks=("vqa",))


@pytest.mark.parametrize(("arguments", "message"), [
    (("colour", 0.1), "bias attribute 'colour' is not one of time, weather"),
    (("weather", 1.1), "bias rate 1.1 is not a number from 0 to 1"),
    (("weather", -0.1), "bias rate -0.1 is not a number from 0 to 1"),
    (("weather", float("nan")), "bias rate nan is not a number from 0 to 1"),
    (("weather", "0.1"), "bias rate '0.1' is not a number from 0 to 1"),
    (("weather", True), "bias rate True is not a number from 0 to 1"),
    (("weather", 0.1, ("chat",)), r"bias tasks \('chat',\) are not a tuple of names out of vqa, caption, generation"),
    (("weather", 0.1, "vqa"), "bias tasks 'vqa' are not a tuple"),
    (("weather", 0.1, ()), r"bias tasks \(\) are not a tuple"),
], ids=str)
def test_a_bad_bias_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttributeBias(*arguments)


@pytest.mark.parametrize(("changes", "message"), [
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
    ({"biases": [AttributeBias("weather", 0.1), AttributeBias("weather", 0.2)]}, "attribute 'weather' occurs twice"),
    ({"biases": [AttributeBias(name, 0.0) for name in ATTRIBUTES]}, "the biases leave rows of task 'vqa' without any"),
])
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_conversations(**{"watches": [WATCH], "task": "vqa", "seed": 0, **changes})


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Turn("", "sunny"), "the human turn is '', not a text"),
    (lambda: Turn("what?", 57), "the gpt turn is 57, not a text"),
    (lambda: Turn("what?", "red", ("colour",)), r"attributes \('colour',\) are not a tuple of names out of time"),
    (lambda: Conversation("vqa", -1, (Turn("<image>\nwhat?", "sunny"),)), "image -1 is not a position from 0"),
    (lambda: Conversation("vqa", "", (Turn("<image>\nwhat?", "sunny"),)), "image '' is neither a position nor a file"),
    (lambda: Conversation("vqa", 0, ()), r"turns \(\) are not a tuple of at least one Turn"),
    (lambda: Conversation("vqa", 0, (Turn("what?", "sunny"),)), "a vqa conversation needs <image> once, at the start"),
    (lambda: Conversation("caption", 0, (Turn("<image>\nwhat?", IMAGE),)), "a caption conversation needs <image> once"),
    (lambda: Conversation("generation", 0, (Turn("draw", "here: <image>"),)), "needs <image> as its whole gpt turn"),
    (lambda: Conversation("generation", 0, (Turn("<image> draw", IMAGE),)), "needs <image> as its whole gpt turn"),
    (lambda: Conversation("generation", 0, (Turn("draw", IMAGE),) * 2), "has 2 turns instead of one"),
])
def test_an_impossible_conversation_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# LLaVA JSON


def all_tasks(count: int = 6) -> list[Conversation]:
    return [talk for task in TASKS for talk in make_conversations(WATCHES[:count], task, seed=0)]


def everything_in(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_written_is_read_back_as_it_was(tmp_path):
    talks = all_tasks()
    write_llava(talks, WATCHES[:6], tmp_path / "train.json", tmp_path / "images", size=48)
    names = [f"train_{talk.image:06d}.png" for talk in talks]
    back = read_llava(tmp_path / "train.json", tmp_path / "images")
    assert back == [replace(talk, image=name) for talk, name in zip(talks, names, strict=True)]
    for watch, name in zip(WATCHES, sorted(set(names)), strict=False):
        assert (np.asarray(Image.open(tmp_path / "images" / name)) == np.asarray(render(watch, 48))).all()
    assert set(everything_in(tmp_path)) == {"train.json", *(f"images/{name}" for name in names)}


def test_the_json_is_llavas(tmp_path):
    write_llava(all_tasks(1), WATCHES[:1], tmp_path / "train.json", tmp_path / "images")
    for row in json.loads((tmp_path / "train.json").read_text()):
        assert set(row) == {"id", "task", "image", "conversations", "attributes"}
        assert [part["from"] for part in row["conversations"]] == ["human", "gpt"] * (len(row["conversations"]) // 2)
        assert all(set(part) == {"from", "value"} for part in row["conversations"])
        tagged = [part["from"] for part in row["conversations"] if IMAGE in part["value"]]
        assert tagged == ["gpt" if row["task"] == "generation" else "human"]


@pytest.mark.parametrize("kind", ["watches", "pictures", "array"])
def test_images_may_be_watches_pictures_or_arrays(kind, tmp_path):
    pictures = [render(watch) for watch in WATCHES[:2]]
    images = {"watches": WATCHES[:2], "pictures": pictures, "array": np.stack([np.asarray(one) for one in pictures])}
    write_llava(all_tasks(2), images[kind], tmp_path / "a.json", tmp_path)
    assert (np.asarray(Image.open(tmp_path / "a_000001.png")) == np.asarray(pictures[1])).all()


def test_conversations_about_files_are_written_back_beside_them(tmp_path):
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "a.json", tmp_path)
    talks = read_llava(tmp_path / "a.json", tmp_path)
    write_llava(talks, None, tmp_path / "b.json", tmp_path)
    assert read_llava(tmp_path / "b.json", tmp_path) == talks


def test_two_data_sets_share_a_folder_without_touching_each_other(tmp_path):
    write_llava(all_tasks(1), WATCHES[:1], tmp_path / "train.json", tmp_path)
    before = everything_in(tmp_path)
    write_llava(all_tasks(1), WATCHES[1:2], tmp_path / "test.json", tmp_path)
    assert everything_in(tmp_path).items() > before.items()


def test_other_peoples_rows_are_read(tmp_path):
    (tmp_path / "coco").mkdir()
    render(WATCH).save(tmp_path / "coco" / "1.jpg")
    rows = [
        {"id": 1, "image": "coco/1.jpg", "conversations": [
            {"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A watch."},
            {"from": "human", "value": "Which colour?"}, {"from": "gpt", "value": "Blue."}]},
        {"image": "coco/1.jpg", "conversations": [
            {"from": "human", "value": "A watch, please."}, {"from": "gpt", "value": "<image>\n"}]},
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    assert read_llava(tmp_path / "data.json", tmp_path) == [
        Conversation("vqa", "coco/1.jpg", (Turn("<image>\nWhat is it?", "A watch."), Turn("Which colour?", "Blue."))),
        Conversation("generation", "coco/1.jpg", (Turn("A watch, please.", IMAGE),))]


def row(human="<image>\nwhat?", gpt="sunny", **changes) -> dict:
    said = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"image": "good.png", "conversations": said, **changes}


def turns(*senders) -> list[dict]:
    return [{"from": sender, "value": "<image>\nwhat?" if place == 0 else "so"} for place, sender in enumerate(senders)]


BAD_ROWS = {
    "not an object": ("a text", "'a text' is not an object with the keys image and conversations"),
    "no image key": ({"conversations": []}, "the key 'image' is missing; there are 'conversations'"),
    "no conversations key": ({"image": "good.png"}, "the key 'conversations' is missing; there are 'image'"),
    "empty object": ({}, "the key 'image' is missing; there are none"),
    "image no name": (row(image=3), "image 3 is not a file name"),
    "no turns": (row(conversations=[]), r"conversations \[\] is not a list of objects with the keys from and value"),
    "turns no list": (row(conversations="hello"), "conversations 'hello' is not a list of objects"),
    "turn without value": (row(conversations=[{"from": "human"}]), "is not a list of objects with the keys"),
    "turn without from": (row(conversations=[{"value": "hello"}]), "is not a list of objects with the keys"),
    "value no text": (row(human=5), "is not a list of objects with the keys from and value"),
    "empty value": (row(gpt=" "), "the gpt turn is ' ', not a text"),
    "starts with gpt": (row(conversations=turns("gpt", "human")), "turn 0 is from 'gpt' where 'human' is expected"),
    "two humans": (row(conversations=turns("human", "human")), "turn 1 is from 'human' where 'gpt' is expected"),
    "unknown sender": (row(conversations=turns("human", "bot")), "turn 1 is from 'bot' where 'gpt' is expected"),
    "ends with human": (row(conversations=turns("human", "gpt", "human")), "the 3 turns end with 'human'"),
    "unknown task": (row(task="chat"), "task 'chat' is not one of vqa, caption, generation"),
    "half a character": (row(gpt="A nice day \ud83d"), r"the gpt turn has half a character, '\\ud83d', at place 11 of "
                                                       r"'A nice day \\ud83d'; an emoji's two halves belong together"),
    "half a character asked": (row(human="<image>\nis \ude00 it?"), r"the human turn has half a character, '\\ude00'"),
    "no image tag": (row(human="what?"), "a vqa conversation needs <image> once, at the start of its first human turn"),
    "two image tags": (row(human="<image>\n<image>\nwhat?"), "a vqa conversation needs <image> once"),
    "tag amid a text": (row(human="is <image> sunny?"), "a vqa conversation needs <image> once, at the start"),
    "tag in a later turn": (row(conversations=turns("human", "gpt")[:1] + [
        {"from": "gpt", "value": "so"}, {"from": "human", "value": "<image>\nand?"}, {"from": "gpt", "value": "so"}]),
        "a vqa conversation needs <image> once"),
    "tag on the wrong side": (row(human="what?", gpt=IMAGE, task="caption"), "a caption conversation needs <image>"),
    "request without a tag": (row(human="draw", task="generation"), "needs <image> as its whole gpt turn"),
    "tag on both sides": (row(gpt=IMAGE), "needs <image> as its whole gpt turn and nowhere else"),
    "bad attributes": (row(attributes=[["colour"]]), r"attributes \('colour',\) are not a tuple of names out of time"),
    "attributes of another length": (row(attributes=[]), r"attributes \[\] is not one list per pair of turns \(1 here"),
    "image missing": (row(image="gone.png"), "image 'gone.png' is missing from"),
    "image is a folder": (row(image="folder"), "image 'folder' is missing from"),
    "image is a text": (row(image="text.png"), "image 'text.png' in .* is not a whole picture"),
    "image is cut off": (row(image="cut.png"), "image 'cut.png' in .* is not a whole picture that"),
    "photo is cut off": (row(image="cut.jpg"), "image 'cut.jpg' in .* is not a whole picture that"),
    "image of floats": (row(image="float.tiff"), "image 'float.tiff' in .* has no known range"),
    "image is a program": (row(image="program.eps"), "image 'program.eps' in .* is not a whole"),
    "path upwards": (row(image="../secret.png"), "image '../secret.png' is outside the image folder"),
    "path upwards in Windows": (row(image="..\\secret.png"), "secret.png' is outside the image"),
    "absolute path": (row(image="/secret.png"), "image '/secret.png' is outside the image folder"),
    "link outwards": (row(image="link.png"), "image 'link.png' is outside the image folder"),
    "null byte": (row(image="a\0.png"), "is not a usable file name"),
    "name too long": (row(image="a" * 5000), "image 'aaaa.* is not a usable file name"),
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a good image and several bad ones, and one outside it."""
    images = tmp_path / "images"
    (images / "folder").mkdir(parents=True)
    render(WATCH).save(images / "good.png")
    render(WATCH).save(tmp_path / "secret.png")
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "text.png").write_text("no image")
    (images / "cut.png").write_bytes((images / "good.png").read_bytes()[:200])
    Image.effect_noise((64, 64), 50).save(images / "cut.jpg")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-500])  # its head is whole
    Image.new("F", (8, 8)).save(images / "float.tiff")
    Image.new("RGB", (8, 8)).save(images / "program.eps")
    return images


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_by_file_row_and_value(name, folder, tmp_path):
    bad, message = BAD_ROWS[name]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row(), bad]))
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, row 1: .*{message}") as error:
        read_llava(path, folder)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert everything_in(tmp_path) == before


def test_both_halves_of_a_character_are_one(folder, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([row(gpt="A nice day \U0001f600")]))  # as two escapes
    (talk,) = read_llava(tmp_path / "data.json", folder)
    assert talk.turns[0].gpt == "A nice day \U0001f600"


def test_the_row_that_the_bad_ones_are_made_from_is_good(folder, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([row()]))
    assert len(read_llava(tmp_path / "data.json", folder)) == 1


def test_each_row_says_where_it_was_read(folder, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row(), row()]))
    first, second = read_llava(path, folder)
    assert (first.source, second.source) == (f"{path}, row 0", f"{path}, row 1")


SPELLINGS = {
    "as it is": "deep/caf\u00e9 1.png", "here": "./deep/caf\u00e9 1.png",
    "there and back": "deep/../deep//caf\u00e9 1.png",
    "out and in": "../images/deep/caf\u00e9 1.png",
    "Windows": "deep\\caf\u00e9 1.png", "decomposed": "deep/cafe\u0301 1.png",
    "full": "{folder}/deep/caf\u00e9 1.png", "link": "shallow/caf\u00e9 1.png"}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_image_has_one_name_however_it_is_spelled(spelling, folder, tmp_path):
    (folder / "deep").mkdir()
    (folder / "shallow").symlink_to(folder / "deep")
    render(WATCH).save(folder / SPELLINGS["as it is"])
    name = SPELLINGS[spelling].format(folder=folder)
    (tmp_path / "data.json").write_text(json.dumps([row(image=name)]))
    (talk,) = read_llava(tmp_path / "data.json", folder)
    assert talk.image == SPELLINGS["as it is"]
    write_llava([replace(talk, image=name)], None, tmp_path / "again.json", folder)
    assert json.loads((tmp_path / "again.json").read_text())[0]["image"] == SPELLINGS["as it is"]


def test_a_file_that_has_just_that_name_is_meant(folder, tmp_path):
    names = ["cafe\u0301.png", "caf\u00e9.png", "a\\b.png"]  # each is another file here
    for name in names:
        render(WATCH).save(folder / name)
    (tmp_path / "data.json").write_text(json.dumps([row(image=name) for name in names]))
    assert [talk.image for talk in read_llava(tmp_path / "data.json", folder)] == names


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_json_is_read_in_the_encoding_that_it_has(encoding, folder, tmp_path):
    text = "die Uhr zeigt “10 nach 10”, \u00fcbrigens \U0001f570"
    content = json.dumps([row(gpt=text)], ensure_ascii=False, indent=1)
    (tmp_path / "data.json").write_bytes(content.encode(encoding))
    assert read_llava(tmp_path / "data.json", folder)[0].turns[0].gpt == text


@pytest.mark.parametrize(("bad", "message"), [
    (b'[\n {"id": "caf\xe9"}]',
     r"data.json, line 2 is no text in UTF-8, which has no b'\\xe9'; save the file as UTF-8\.$"),
    ("[\n\n3]".encode("utf-16") + b"\0", "data.json, line 3 is no text in UTF-16, which has no "),
    (b"[3,\n\0\0]", "data.json, line 2 is no text, as it has null characters; save the file as"),
    (b'[{"image": "a.png",\n"image": "b.png"}]',
     "not JSON: the key 'image' is given more than once in one object, as 'a.png' and 'b.png'"),
], ids=["latin", "half a character", "null", "a key twice"])
def test_json_that_can_be_read_in_two_ways_or_none_is_refused(bad, message, folder, tmp_path):
    (tmp_path / "data.json").write_bytes(bad)
    with pytest.raises(ValueError, match=message) as error:
        read_llava(tmp_path / "data.json", folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is not JSON: "), (b"[{", "is not JSON: "), (b"\xff\xfe", "is not JSON: "), (b"[" * 100_000, "is not JSON: "),
    (b'{"image": "good.png"}', "holds a JSON dict, not a list of conversations"), (b"3", "holds a JSON int, not a"),
    (None, "cannot be read: No such file"),
], ids=["empty", "cut off", "not text", "too deep", "object", "number", "missing"])
def test_a_file_that_is_not_llava_json_is_refused_by_name(content, message, folder, tmp_path):
    path = tmp_path / "data.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} {message}"):
        read_llava(path, folder)


QUESTION = Turn("<image>\nwhat?", "sunny", ("weather",))


@pytest.mark.parametrize(("last", "images", "size", "message"), [
    (Conversation("vqa", 1, (QUESTION,)), [WATCH], 64, "row 1: image 1 is not among the 1 images"),
    (Conversation("vqa", 1, (QUESTION,)), [WATCH, "watch"], 64, "row 1: image 1 is 'watch', neither a Watch, a PIL"),
    (Conversation("vqa", 0, (QUESTION,)), np.zeros((1, 8, 8, 3)), 64, r"row 0: image 0 is an array float64 \(8, 8"),
    (Conversation("vqa", 0, (QUESTION,)), np.zeros((1, 8, 8), "uint8"), 64, r"row 0: image 0 is an array uint8 \(8, 8"),
    (Conversation("vqa", 1, (QUESTION,)), [WATCH, Image.new("F", (8, 8))], 64,
     "row 1: image 1 is not a whole picture that can be read: its pixels are of Pillow's kind 'F'"),
    (Conversation("vqa", 0, (QUESTION,)), [WATCH], 7, "image size 7 is not an integer from 32 to 1024"),
    (Conversation("vqa", "gone.png", (QUESTION,)), [WATCH], 64, "row 1: image 'gone.png' is missing from"),
    (Conversation("vqa", "../a.png", (QUESTION,)), [WATCH], 64, "row 1: image '../a.png' is outside the image folder"),
    ({"task": "vqa"}, [WATCH], 64, "row 1: {'task': 'vqa'} is not a Conversation"),
], ids=["position", "no image", "float", "grey", "float picture", "size", "missing", "outside",
        "no conversation"])
def test_nothing_is_written_when_anything_is_bad(last, images, size, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_llava([Conversation("vqa", 0, (QUESTION,)), last], images, tmp_path / "a.json", tmp_path / "images", size)
    assert list(tmp_path.iterdir()) == []


def test_the_pictures_of_a_json_of_that_name_elsewhere_are_not_written_over(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "one" / "a.json", tmp_path / "images")
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match=r"images/a_000001.png is another picture, which rows beside"):
        write_llava(all_tasks(2), [WATCHES[0], WATCHES[5]], tmp_path / "two" / "a.json",
                    tmp_path / "images")
    assert everything_in(tmp_path) == before
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "two" / "a.json", tmp_path / "images")  # the same
    write_llava(all_tasks(2), WATCHES[4:6], tmp_path / "one" / "a.json", tmp_path / "images")  # again
    assert before["images/a_000001.png"] != everything_in(tmp_path)["images/a_000001.png"]


def test_a_named_image_is_not_written_over(tmp_path):
    write_llava(all_tasks(1), WATCHES[:1], tmp_path / "a.json", tmp_path)
    before = everything_in(tmp_path)
    talks = [Conversation("vqa", name, (QUESTION,)) for name in ("./a_000000.png", 0)]
    message = "row 0: image 'a_000000.png' is a file that image 0 would be written over"
    with pytest.raises(ValueError, match=message):
        write_llava(talks, WATCHES[1:2], tmp_path / "a.json", tmp_path)
    assert everything_in(tmp_path) == before


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "a.json", tmp_path)
    before = everything_in(tmp_path)

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(ValueError, match=r"a\.json and its images cannot be written: No space left on device\."):
        write_llava(all_tasks(2), WATCHES[2:4], tmp_path / "a.json", tmp_path)
    assert everything_in(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"a\.json and its images cannot be written: Not a directory\."):
        write_llava(all_tasks(1), WATCHES[:1], tmp_path / "a.json", tmp_path / "file" / "images")
    assert set(everything_in(tmp_path)) == {"file"}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_the_values_of_an_attribute_are_all_that_a_watch_can_show(attribute):
    values = values_of(attribute)
    assert len(values) == len(set(values)) == {"time": 43200, "battery": 101, "weather": 3}.get(attribute, 4)
    assert {truth(watch, attribute) for watch in WATCHES} <= set(values)
    with pytest.raises(ValueError, match="'colour' is not one of time"):
        values_of("colour")
