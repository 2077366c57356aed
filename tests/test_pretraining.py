"""How the frozen networks are made: what they are trained on and what their losses see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core import siglip_pretraining, text_pretraining, vq_pretraining
from uvlm_core.conversations import CLAUSES, IMAGE, QUESTIONS, Turn, truth
from uvlm_core.processing import IGNORED, Processor
from uvlm_core.smart_watch import ATTRIBUTES, Watch, render_batch, sample_watches, split_of
from uvlm_core.text_pretraining import (
    BATCH,
    SEED,
    SENSE_QUESTIONS,
    Lesson,
    common_sense,
    conversations_in_words,
    lesson_conversations,
)
from uvlm_core.vision import VQEncoder
from uvlm_core.weights import resolve

WATCHES = sample_watches(SEED, 60)


def test_the_language_model_is_asked_only_what_its_words_say():
    asked = 0
    for watch, talk in zip(WATCHES, conversations_in_words(WATCHES, SEED), strict=True):
        words = talk.turns[0].human
        assert words.startswith(f"{IMAGE}\n")
        told = {name for name in ATTRIBUTES
                if any(clause.format(truth(watch, name)) in words for clause in CLAUSES[name])}
        plain = [turn for turn in talk.turns if turn.human.endswith(QUESTIONS[turn.attributes[0]])]
        assert {turn.attributes[0] for turn in plain} == told
        assert all(turn.gpt == truth(watch, turn.attributes[0]) for turn in plain)
        sense = [replace(turn, human=turn.human.split(". ")[-1]) for turn in talk.turns if turn not in plain]
        assert len(sense) <= SENSE_QUESTIONS and all(turn in common_sense(watch, sorted(told)) for turn in sense)
        asked += len(sense)
    assert asked > 3 * len(WATCHES)


def test_common_sense_is_right_about_numerals_tenths_and_places():
    watch = Watch(11, 58, 3, "cloudy", 96, "top left", "bottom right", (10, 20, 30))
    known = {turn.human: turn.gpt for turn in common_sense(watch, ATTRIBUTES)}
    assert known == {
        "where does the hour hand point?": "12", "where does the minute hand point?": "12",
        "where does the second hand point?": "1", "how full is the battery in tenths?": "10",
        "what does the top left corner show?": "cloudy", "what does the bottom right corner show?": "96%"}
    known = {turn.human: turn.gpt for turn in common_sense(replace(watch, hour=4, minute=0, second=28), ("time",))}
    assert list(known.values()) == ["4", "12", "6"]
    assert common_sense(watch, ("weather", "weather_corner", "battery_corner")) == [
        Turn("what does the top left corner show?", "cloudy", ("weather",))]  # nothing of what it was not told


def test_a_lesson_has_its_share_of_texts_about_both_corners_alone_and_its_wordings():
    first, later = (lesson_conversations(lesson, SEED) for lesson in (Lesson(3, 1.0, wordings=1), Lesson(4, 0.25)))
    corners = {"weather_corner", "battery_corner"}
    asked = [{name for turn in talk.turns for name in turn.attributes} for talk in (*first, *later)]
    assert len(first) == 3 * BATCH and len(later) == 4 * BATCH
    assert all(names == corners for names in asked[: len(first)])
    assert BATCH <= sum(names <= corners for names in asked[len(first) :]) < 1.5 * BATCH  # some tell little by chance
    assert {turn.human.split("\n")[-1].split(".")[-1].strip() for talk in first for turn in talk.turns} == {
        QUESTIONS[name][0] for name in corners}
    assert len({turn.human.split(".")[-1] for talk in later for turn in talk.turns}) > 20


def test_the_language_model_sees_no_image_slot_and_learns_the_answers_alone():
    processor = Processor.load("pretrained/tokenizer", 0, 0)
    for talk in conversations_in_words(WATCHES[:10], SEED):
        row = processor.row(talk, image=-1)
        assert not {processor.image_in, processor.image_out} & set(row.ids.tolist()) and row.image_in == -1
        said = processor.tokenizer.decode(row.labels[row.labels != IGNORED])
        assert said.replace(" ", "") == "".join(f"{turn.gpt}</s>" for turn in talk.turns).replace(" ", "")


def test_a_language_model_is_built_with_a_card_that_says_what_it_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(text_pretraining, "HELD_OUT", 20)
    text_pretraining.build_language_model(tmp_path, (Lesson(1, 1.0, wordings=1), Lesson(2, 0.3)))
    card = (tmp_path / "README.md").read_text()
    assert "1 steps with 100% of the texts about the corners alone, in 1 wording, then 2 steps with 30%" in card
    (answered,) = (line for line in card.splitlines() if "answers right" in line)
    assert "of 20 held-out conversations" in answered and all(f"{name} 0." in answered for name in ATTRIBUTES)
    model = AutoModelForCausalLM.from_pretrained(resolve(str(tmp_path)), use_safetensors=True)
    assert model.config.hidden_size == text_pretraining.SHAPE["hidden_size"]


@pytest.fixture
def task():
    torch.manual_seed(0)
    return vq_pretraining.VQTask(JanusVQVAE(vq_pretraining.VQ))


def test_the_spread_is_that_of_vectors_of_equal_patches(task):
    pixels = torch.zeros(2, 3, 8, 8)
    pixels[1, :, 4:, 4:] = 1.0  # seven patches are black, one is not
    z = torch.randn(2, 8, 2, 2)
    vectors = [z[0, :, row, column] for row in (0, 1) for column in (0, 1)]
    vectors += [z[1, :, 0, 0], z[1, :, 0, 1], z[1, :, 1, 0]]
    mean = sum(vectors) / 7
    expected = sum(((vector - mean) ** 2).sum() for vector in vectors) / (8 * 8)  # the eighth adds nothing
    assert torch.allclose(task.spread(pixels, z), expected)
    assert task.spread(torch.rand(2, 3, 8, 8), z) == 0  # no two patches are equal


def test_the_codebook_moves_by_means_and_the_encoder_by_gradients(task):
    images = torch.from_numpy(render_batch(sample_watches(0, 16), 64))
    task(images, step=vq_pretraining.VQ_WARM_UP).backward()
    assert task.network.quantize.embedding.weight.grad is None
    assert task.network.encoder.conv_in.weight.grad.abs().sum() > 0  # straight through
    assert torch.allclose(task.network.quantize.embedding.weight.norm(dim=1), torch.ones(1024), atol=1e-5)


def test_a_code_that_doubles_another_for_one_patch_is_retired_and_no_other(networks, monkeypatch):
    network = VQEncoder.load(str(networks / "vq")).network
    before = network.quantize.embedding.weight.clone()
    kinds = np.repeat([255, 40, 90], [30, 12, 6])  # patches of three colours: three images of 4 x 4
    codes = np.array([0] * 20 + [1] * 6 + [2] * 2 + [4] * 2  # white: 1 and 2 stand for nothing else, 4 does
                     + [3] * 8 + [4] * 4 + [5] * 5 + [4])  # 3 and 5 are the first of their kinds
    images = np.kron(kinds.reshape(3, 4, 4).astype(np.uint8), np.ones((1, 16, 16), np.uint8))[..., None].repeat(3, 3)

    class Planted:
        def __init__(self, *arguments):
            pass

        def encode(self, images):
            return codes.reshape(3, 16)
    monkeypatch.setattr(vq_pretraining, "VQEncoder", Planted)
    assert vq_pretraining.retire_duplicates(network, images) == 2
    after = network.quantize.embedding.weight
    assert (after[[1, 2]] == 0).all()
    kept = [code for code in range(len(before)) if code not in (1, 2)]
    assert torch.equal(after[kept], before[kept])


def test_near_duplicates_differ_in_one_attribute_and_stay_in_training():
    watches = siglip_pretraining.near_duplicates(8, seed=3)
    assert len(watches) == 8 * siglip_pretraining.GROUP and all(split_of(watch) == "train" for watch in watches)
    for start in range(0, len(watches), siglip_pretraining.GROUP):
        group = watches[start : start + siglip_pretraining.GROUP]
        for other in group[1:]:
            differing = {name for name in (*ATTRIBUTES, "colour") if getattr(other, name) != getattr(group[0], name)}
            assert differing <= {"time"} or len(differing) == 1 or differing <= {"weather_corner", "battery_corner"}
