"""The playground's widgets without a browser: what a change changes, and what is marked."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import is_known_wording
from uvlm_core.environment import ROOT
from uvlm_core.explore.model import names
from uvlm_core.explore.playground import REQUEST, Playground, _cell, _marked, _overlaid, _table


@pytest.fixture(scope="module")
def opened():
    found = Playground(["VQ-VQ understanding", "VQ-VQ unified"])
    found.open()
    return found


def test_the_first_watch_is_shown_before_torch_is_imported():
    code = (
        "import sys; from uvlm_core.explore.playground import Playground; "
        "print(len(Playground().picture.value) > 500, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "True False\n", found.stderr


def test_every_control_of_the_watch_changes_its_picture_and_the_truth(opened):
    for widget, value, truth in (
        (opened.hour, 3, "03:08:30"),
        (opened.minute, 44, "03:44:30"),
        (opened.second, 5, "03:44:05"),
        (opened.battery, 12, "12%"),
        (opened.weather, "sunny", "sunny"),
        (opened.weather_corner, "bottom left", "bottom left"),
        (opened.battery_corner, "top right", "top right"),
    ):
        before = opened.picture.value
        widget.value = value
        assert opened.picture.value != before and f"<td>{truth}</td>" in opened.answers.value
    before = opened.answers.value
    opened.colour.value = "#205080"
    assert opened.watch.colour == (0x20, 0x50, 0x80) and opened.message.value == ""
    for value, colour in (("#fff", (255, 255, 255)), ("navy", (0, 0, 128))):
        opened.colour.value = value
        assert opened.watch.colour == colour and opened.message.value == ""
    assert before.count("<tr>") == opened.answers.value.count("<tr>") == 1 + len(ATTRIBUTES) + 1


def test_an_impossible_watch_is_told_and_the_last_one_stays(opened):
    before, corner = opened.answers.value, opened.battery_corner.value
    opened.battery_corner.value = opened.weather_corner.value
    assert "they must differ" in opened.message.value and opened.answers.value == before
    opened.battery_corner.value = corner
    assert opened.message.value == ""


def test_a_known_question_has_a_truth_and_another_one_a_flag(opened):
    opened.question.value = "How is the weather?"
    row = opened.answers.value.split("<tr>")[-1]
    assert f"<td>{opened.weather.value}</td>" in row and "not trained on" not in row
    opened.question.value = "is <b>this</b> a watch?"
    row = opened.answers.value.split("<tr>")[-1]
    assert "not trained on" in row and "<td>?</td>" in row and "&lt;b&gt;" in row
    opened.question.value = ""
    assert opened.answers.value.count("<tr>") == 1 + len(ATTRIBUTES)


def test_models_are_columns(opened):
    opened.models.value = ("VQ-VQ unified",)
    assert "VQ-VQ understanding" not in opened.answers.value
    opened.models.value = ()
    assert opened.answers.value.count("<th") == 2 and opened.message.value == ""
    opened.models.value = ("VQ-VQ understanding", "VQ-VQ unified")


def test_a_distortion_changes_answers_until_it_is_taken_back(opened):
    before = opened.answers.value
    opened.dose.value = 1.0
    opened.family.value = "shift"
    assert opened.answers.value != before
    opened.family.value = "none"
    assert opened.answers.value == before


def test_a_drawing_is_held_against_the_request_alone(opened):
    assert is_known_wording(REQUEST, "generation")
    opened.request.value = "draw a watch where the battery is at 60%."
    rows = opened.read.value.split("<tr>")[2:]
    said = [row for row in rows if "not said" not in row]
    assert len(said) == 1 and "60%" in said[0] and ("✓" in said[0] or "✗" in said[0])
    assert "these words" not in opened.read.value
    opened.request.value = "please paint something blue"
    assert "No training had a request in these words." in opened.read.value
    before = opened.drawn.value
    opened.request.value = ""
    assert "not a text" in opened.message.value and opened.drawn.value == before
    opened.request.value = "draw a watch."
    assert opened.message.value == ""


def test_what_it_looks_at_follows_the_question_the_model_and_the_watch(opened):
    seen = [opened.looks.value]
    for widget, value in (
        (opened.asked, opened.asked.options[2]),
        (opened.looker, "VQ-VQ unified"),
        (opened.minute, 17),
    ):
        widget.value = value
        seen.append(opened.looks.value)
    assert len(set(seen)) == 4


def test_attention_is_laid_over_an_image_of_any_size():
    image, shares = np.zeros((224, 224, 3), np.uint8), np.eye(14)[None] * [[[0.2]], [[0.4]]]
    strip = np.asarray(_overlaid(image, shares))
    assert strip.shape == (3 * 224, 3 * 2 * 228, 3)
    assert strip[0, 3 * 228].tolist() == [220, 0, 0]  # the largest share of all is fully red
    assert strip[-1, 0].tolist() == [127, 127, 127]


def test_answers_are_marked_by_the_scorer():
    attribute = ATTRIBUTES["battery"]
    assert "✓" in _cell("60%", "60%", attribute)
    assert "✗" in _cell("50%", "60%", attribute) and "credit 0.90" in _cell("50%", "60%", attribute)
    assert "✓" not in _cell("60%") and "✗" not in _cell("60%")
    assert "&lt;i&gt;" in _marked("<i>", True, 1.0) and "&lt;i&gt;" in _table(["<i>"], [])


def test_a_model_of_ones_own_is_chosen_by_its_folder_and_any_other_name_is_refused(tmp_path):
    own = tmp_path / "mine"
    shutil.copytree(names()["SigLIP-VQ unified"], own)
    found = Playground([str(own)])
    found.open()
    assert found.models.value == (str(own),) and found.drawer.value == str(own)
    assert str(own) in found.answers.value and found.message.value == ""
    with pytest.raises(ValueError, match="model 'VQ' is neither one of VQ-VQ unified, "):
        Playground(["VQ"]).open()
