"""Edits ask for what they show, change nothing else, and never lead to a watch of the test set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import EDIT, IMAGE, Conversation, Turn
from uvlm_core.data.edits import edited, make_edits
from uvlm_core.data.smart_watch import SPLITS, sample_watch, sample_watches, split_of


@given(st.integers(0, 10**6), st.sampled_from(SPLITS))
def test_an_edit_changes_one_attribute_and_keeps_all_else_and_training_watches_apart(number, split):
    watch = sample_watch(3, number, split)
    name, after = edited(watch, number)
    assert edited(watch, number) == (name, after)
    changed = [key for key, each in ATTRIBUTES.items() if each.truth(after) != each.truth(watch)]
    assert changed == [name] and after.colour == watch.colour
    assert split != "train" or split_of(after) == "train"


def test_every_attribute_is_changed_about_as_often():
    watches = sample_watches(3, 500)
    names = [edited(watch, number)[0] for number, watch in enumerate(watches)]
    assert all(70 < names.count(name) < 130 for name in ATTRIBUTES)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_wording_says_the_new_value(name):
    attribute = ATTRIBUTES[name]
    for value in attribute.values[:200]:
        for change in attribute.changes:
            said = [mention.text for mention in attribute.mentions(change.format(value))]
            assert said == [value]


def test_what_is_asked_for_is_what_the_edited_watch_shows():
    watches, numbers = sample_watches(3, 40), range(7, 47)
    talks = make_edits(watches, numbers, seed=1)
    for position, (talk, watch, number) in enumerate(zip(talks, watches, numbers, strict=True)):
        name, after = edited(watch, number)
        (turn,) = talk.turns
        assert (talk.task, talk.image, talk.draws) == (EDIT, position, True)
        assert turn.gpt == IMAGE and turn.attributes == (name,)
        (mention,) = ATTRIBUTES[name].mentions(turn.human.removeprefix(f"{IMAGE}\n"))
        assert mention.text == ATTRIBUTES[name].truth(after)


@pytest.mark.parametrize(
    ("human", "gpt"),
    [
        ("set the hands to 01:02:03.", IMAGE),
        (f"{IMAGE}\nset the hands.", "done"),
        (f"{IMAGE}\n{IMAGE}", IMAGE),
    ],
)
def test_an_edit_shows_one_image_and_is_answered_by_one(human, gpt):
    with pytest.raises(ValueError, match="an edit needs <image> once at the start of its human"):
        Conversation(EDIT, 0, (Turn(human, gpt),))
