"""The trained models in the box: what they answer and draw, and what they refuse."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import uvlm_core
from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.environment import ROOT
from uvlm_core.explore import making
from uvlm_core.explore import model as exploring
from uvlm_core.explore.making import SHIPPED, shipped_spec
from uvlm_core.models.decoding import answer
from uvlm_core.models.distortion import Distortion
from uvlm_core.places import verify
from uvlm_core.training.networks import read_spec


@pytest.fixture(scope="module")
def model():
    return uvlm_core.load("VQ-VQ unified")


def test_every_model_of_the_box_is_whole_and_that_of_a_recorded_run():
    shipped = exploring.names()
    assert set(shipped) == {" ".join(each) for each in SHIPPED}
    assert next(iter(shipped)) == "VQ-VQ unified"
    for architecture, regime in SHIPPED:
        folder = shipped[f"{architecture} {regime}"]
        verify(folder)
        spec = shipped_spec(architecture, regime)
        assert read_spec(folder) == spec
        card = (folder / "README.md").read_text()
        # this model's score beside the record's; both have learned to understand or to draw
        assert re.search(r"\| partial \| total \| 0\.9\d+ \| 0\.9\d+ \|", card)
        assert "Half precision leaves 99." in card


def test_the_box_is_small():
    files = [path for path in exploring.BOX.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16 * 2**20


def test_a_model_answers_one_question_as_many_questions_are_answered(model):
    watches = sample_watches(3, 4, "test")
    images = render_batch(watches)
    talks = make_conversations(watches, "vqa", 3, turns=1)
    wanted = answer(model.network, model.processor, talks, model.reads.encode(images))
    for image, talk, (said,) in zip(images, talks, wanted, strict=True):
        question = talk.turns[0].human.removeprefix("<image>\n")
        assert model.ask(image, question) == said
        assert model.ask(Image.fromarray(image), question) == said


def test_a_watch_is_what_it_is_asked_to_be(model):
    image = model.watch(time="04:20:00", weather="cloudy", battery=12, weather_corner="top right")
    assert image.size == (64, 64)
    said = model.answers(image, [ATTRIBUTES["weather"].questions[0]])
    assert said == ["cloudy"]  # 1.000 of the cases in the record


def test_a_drawing_is_read_back_in_the_words_of_answers(model):
    request = "draw a watch where the time is 10:08:30 and the weather is raining."
    made = model.drawing(request)
    assert made.image.size == (64, 64) and made.triggered
    assert list(made.read) == list(ATTRIBUTES)
    for name, said in made.read.items():
        assert ATTRIBUTES[name].said(ATTRIBUTES[name].joined(made.parts)) == said
        assert ATTRIBUTES[name].parse(said) is not None
    assert np.array_equal(made.image, model.draw(request))


def test_a_model_of_features_draws_through_its_decoder():
    model = uvlm_core.load("SigLIP-SigLIP unified")
    made = model.drawing("draw a watch where it is sunny outside.")
    assert made.image.size == (64, 64) and set(made.read) == set(ATTRIBUTES)


def test_attention_is_a_share_of_every_layer_and_changes_no_answer(model):
    image, question = model.watch(), "what time is it?"
    before = model.ask(image, question)
    found = model.attention(image, question)
    assert found.shape == (model.network.config.text_config.num_hidden_layers, 8, 8)
    assert (found >= 0).all() and (found.sum((1, 2)) <= 1 + 1e-5).all()
    assert model.ask(image, question) == before


def test_a_distortion_ends_with_the_question_and_dose_zero_is_none(model):
    image, questions = model.watch(), [each.questions[0] for each in ATTRIBUTES.values()]
    before = model.answers(image, questions)
    assert model.answers(image, questions, Distortion("affine", 0.0)) == before
    assert model.answers(image, questions, Distortion("shift", 10.0)) != before
    assert model.answers(image, questions) == before
    with pytest.raises(ValueError, match="cannot be added to VQ-VQ unified afterwards"):
        model.answers(image, questions, Distortion("width", 2.0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: uvlm_core.load("VQ-VQ unifed"), "'VQ-VQ unifed' is neither one of VQ-VQ"),
        (lambda model: model.ask("a.png", "what time is it?"), "An image is a PIL image or"),
        (lambda model: model.ask(np.zeros((64, 64)), "what?"), "not float64 (64, 64)"),
        (lambda model: model.ask(model.watch(), " "), "question ' ' is not a text"),
        (lambda model: model.ask(model.watch(), "why? " * 3000), "shorten it"),
        (lambda model: model.draw("<image>"), "needs <image> as its whole gpt turn"),
        (lambda model: model.watch(time="25:00"), "time '25:00' is not of the form"),
        (lambda model: model.watch(time="23:00:00"), "hour 23 is not an integer from 0"),
        (lambda model: model.watch(weather="snow"), "'snow' is not one of sunny, cloudy, raining"),
        (lambda model: uvlm_core.load("VQ-VQ understanding").draw("draw a watch."), "cannot draw"),
    ],
)
def test_what_is_refused_is_named_in_a_sentence(model, call, words):
    with pytest.raises(ValueError) as refused:
        call(model)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_is_put_into_the_box_whole_or_not_at_all(model, tmp_path, monkeypatch):
    folder = tmp_path / "vq_vq_unified"
    monkeypatch.setattr(making, "trained_models", lambda specs: [(model.network,)])
    monkeypatch.setattr(making, "_card", lambda *arguments: "# a card\n")
    assert making.make("VQ-VQ", "unified", tmp_path) == folder
    verify(folder)
    again = uvlm_core.load(folder)
    for name, weight in model.network.state_dict().items():  # rounding twice is rounding once
        assert torch.equal(weight, again.network.state_dict()[name])

    def fail(*arguments):
        raise OSError("full")

    monkeypatch.setattr(making, "_card", fail)
    with pytest.raises(OSError, match="full"):
        making.make("VQ-VQ", "unified", tmp_path)
    verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_changed_file_of_the_box_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "box" / "vq_vq_unified"
    shutil.copytree(exploring.names()["VQ-VQ unified"], folder)
    monkeypatch.setattr(exploring, "BOX", tmp_path / "box")
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="spec.json is not the file that was shipped"):
        uvlm_core.load("VQ-VQ unified")
    # elsewhere it is a model like any other
    own = shutil.copytree(folder, tmp_path / "own")
    assert uvlm_core.load(own).name == "own"


def test_loading_a_model_imports_neither_peft_nor_the_trainer_nor_scikit_learn():
    code = (
        "import sys, uvlm_core; uvlm_core.load('VQ-VQ unified'); "
        "print([name for name in ('peft', 'sklearn', 'transformers.trainer', 'pandas') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


def test_weights_are_used_in_single_precision(model):
    assert {each.dtype for each in model.network.parameters()} == {torch.float32}
