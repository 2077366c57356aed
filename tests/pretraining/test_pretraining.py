"""How the frozen networks are made: what they are trained on and what their losses see."""

import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core.data import pictures
from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import IMAGE, Turn
from uvlm_core.data.smart_watch import Watch, render_batch, sample_watches, split_of
from uvlm_core.data.texts import SENSE_QUESTIONS, common_sense, conversations_in_words
from uvlm_core.data.tokens import IGNORED, Processor
from uvlm_core.models.encoders import VQEncoder
from uvlm_core.models.language_models import (
    LM_LAYERS,
    LM_TOKENS,
    SHIPPED_LM,
    parameters_of,
    shape_of,
)
from uvlm_core.models.unified import load_language_model
from uvlm_core.places import fingerprint, resolve, verify
from uvlm_core.pretraining import __main__ as command
from uvlm_core.pretraining import common as pretraining
from uvlm_core.pretraining import siglip as siglip_pretraining
from uvlm_core.pretraining import stamps as stamps_pretraining
from uvlm_core.pretraining import text as text_pretraining
from uvlm_core.pretraining import vq as vq_pretraining
from uvlm_core.pretraining.text import (
    TEXT_BATCH,
    TEXT_SEED,
    Lesson,
    lesson_conversations,
)
from uvlm_core.training.sizes import network_config

WATCHES = sample_watches(TEXT_SEED, 60)


def test_the_language_model_is_asked_only_what_its_words_say():
    asked = 0
    for watch, talk in zip(WATCHES, conversations_in_words(WATCHES, TEXT_SEED), strict=True):
        words = talk.turns[0].human
        assert words.startswith(f"{IMAGE}\n")
        told = {
            name
            for name in ATTRIBUTES
            if any(
                clause.format(ATTRIBUTES[name].truth(watch)) in words
                for clause in ATTRIBUTES[name].clauses
            )
        }
        plain = [
            turn
            for turn in talk.turns
            if turn.human.endswith(ATTRIBUTES[turn.attributes[0]].questions)
        ]
        assert {turn.attributes[0] for turn in plain} == told
        assert all(turn.gpt == ATTRIBUTES[turn.attributes[0]].truth(watch) for turn in plain)
        sense = [
            replace(turn, human=turn.human.split(". ")[-1])
            for turn in talk.turns
            if turn not in plain
        ]
        assert len(sense) <= SENSE_QUESTIONS and all(
            turn in common_sense(watch, sorted(told)) for turn in sense
        )
        asked += len(sense)
    assert asked > 3 * len(WATCHES)


def test_common_sense_is_right_about_numerals_tenths_and_places():
    watch = Watch(11, 58, 3, "cloudy", 96, "top left", "bottom right", (10, 20, 30))
    known = {turn.human: turn.gpt for turn in common_sense(watch, ATTRIBUTES)}
    assert known == {
        "where does the hour hand point?": "12",
        "where does the minute hand point?": "12",
        "where does the second hand point?": "1",
        "how full is the battery in tenths?": "10",
        "what does the top left corner show?": "cloudy",
        "what does the bottom right corner show?": "96%",
    }
    known = {
        turn.human: turn.gpt
        for turn in common_sense(replace(watch, hour=4, minute=0, second=28), ("time",))
    }
    assert list(known.values()) == ["4", "12", "6"]
    assert common_sense(watch, ("weather", "weather_corner", "battery_corner")) == [
        # nothing of what it was not told
        Turn("what does the top left corner show?", "cloudy", ("weather",))
    ]


def test_a_lesson_has_its_share_of_texts_about_both_corners_alone_and_its_wordings():
    first, later = (
        lesson_conversations(lesson, TEXT_SEED)
        for lesson in (Lesson(3, 1.0, wordings=1), Lesson(4, 0.25))
    )
    corners = {"weather_corner", "battery_corner"}
    asked = [{name for turn in talk.turns for name in turn.attributes} for talk in (*first, *later)]
    assert len(first) == 3 * TEXT_BATCH and len(later) == 4 * TEXT_BATCH
    assert all(names == corners for names in asked[: len(first)])
    # some tell little by chance
    assert TEXT_BATCH <= sum(names <= corners for names in asked[len(first) :]) < 1.5 * TEXT_BATCH
    assert {
        turn.human.split("\n")[-1].split(".")[-1].strip() for talk in first for turn in talk.turns
    } == {ATTRIBUTES[name].questions[0] for name in corners}
    assert len({turn.human.split(".")[-1] for talk in later for turn in talk.turns}) > 20


def test_the_language_model_sees_no_image_slot_and_learns_the_answers_alone():
    processor = Processor.load("pretrained/tokenizer", 0, 0)
    for talk in conversations_in_words(WATCHES[:10], TEXT_SEED):
        row = processor.row(talk, image=-1)
        assert (
            not {processor.image_in, processor.image_out} & set(row.ids.tolist())
            and row.image_in == -1
        )
        said = processor.tokenizer.decode(row.labels[row.labels != IGNORED])
        assert said.replace(" ", "") == "".join(f"{turn.gpt}</s>" for turn in talk.turns).replace(
            " ", ""
        )


def test_a_language_model_is_built_with_a_card_that_says_what_it_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(text_pretraining, "HELD_OUT", 20)
    text_pretraining.build_language_model(tmp_path, (Lesson(1, 1.0, wordings=1), Lesson(2, 0.3)))
    card = (tmp_path / "README.md").read_text()
    assert (
        "1 steps with 100% of the texts about the corners alone, in 1 wording, "
        "then 2 steps with 30%" in card
    )
    (answered,) = (line for line in card.splitlines() if "answers right" in line)
    assert "of 20 held-out conversations" in answered and all(
        f"{name} 0." in answered for name in ATTRIBUTES
    )
    model = AutoModelForCausalLM.from_pretrained(resolve(str(tmp_path)), use_safetensors=True)
    assert model.config.hidden_size == shape_of(SHIPPED_LM)["hidden_size"]


def test_a_language_model_of_another_size_is_put_into_the_cache_whole(cache, monkeypatch, capsys):
    monkeypatch.setattr(text_pretraining, "HELD_OUT", 20)
    monkeypatch.setattr(text_pretraining, "LESSONS", (Lesson(1, 1.0, wordings=1), Lesson(2, 0.3)))
    name, folder = "cache/language_model_tiny", cache / "language_model_tiny"
    planned = network_config(name, AutoConfig).to_dict()  # without a file
    assert command.main(["language_model_tiny"]) == 0
    said = capsys.readouterr().out
    (loss,) = re.findall(rf"^{name}: (\d\.\d+) nats per token of held-out answers$", said, re.M)
    assert said.endswith(f"wrote {folder}\n") and [*cache.iterdir()] == [folder]
    verify(folder)
    sums = json.loads((folder / "sha256.json").read_text())
    assert {"config.json", "model.safetensors"} <= set(sums)
    card = (folder / "README.md").read_text()
    assert card.startswith(f"# Llama {name}\n\nMade by `make language_models`")
    assert f"loss on the answers of 20 held-out conversations: {loss} nats per token" in card
    assert f"parameters: {parameters_of(name)}" in card
    made = network_config(name, AutoConfig).to_dict()
    differing = {key for key in made if made[key] != planned[key]}
    assert differing <= {"_name_or_path"}
    assert load_language_model(name, LM_TOKENS).num_parameters() == parameters_of(name)
    assert fingerprint.__wrapped__(name) == fingerprint.__wrapped__(str(folder))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert command.main(["language_model_tiny"]) == 0
    assert capsys.readouterr().out == f"{folder} is there already.\n"
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_all_language_models_are_those_that_are_not_shipped(monkeypatch):
    made = []
    monkeypatch.setattr(text_pretraining, "bring_language_model", made.append)
    assert command.main(["language_models"]) == 0
    assert [*made, SHIPPED_LM] == sorted(LM_LAYERS, key=lambda name: name == SHIPPED_LM)


def test_a_language_model_of_an_unknown_size_is_refused_and_nothing_is_written(cache):
    with pytest.raises(ValueError, match="^language model 'cache/huge' is not one of ") as refused:
        text_pretraining.bring_language_model("cache/huge")
    said = str(refused.value)
    assert "\n" not in said and said.endswith(".") and not cache.exists()


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
    # the eighth adds nothing
    expected = sum(((vector - mean) ** 2).sum() for vector in vectors) / (8 * 8)
    assert torch.allclose(task.spread(pixels, z), expected)
    assert task.spread(torch.rand(2, 3, 8, 8), z) == 0  # no two patches are equal


def test_the_codebook_moves_by_means_and_the_encoder_by_gradients(task):
    images = torch.from_numpy(render_batch(sample_watches(0, 16), 64))
    task(images, step=vq_pretraining.VQ_WARM_UP).backward()
    assert task.network.quantize.embedding.weight.grad is None
    assert task.network.encoder.conv_in.weight.grad.abs().sum() > 0  # straight through
    assert torch.allclose(
        task.network.quantize.embedding.weight.norm(dim=1), torch.ones(1024), atol=1e-5
    )


def test_a_code_that_doubles_another_for_one_patch_is_retired_and_no_other(networks, monkeypatch):
    network = copy.deepcopy(VQEncoder.load(str(networks / "vq")).network)
    before = network.quantize.embedding.weight.clone()
    kinds = np.repeat([255, 40, 90], [30, 12, 6])  # patches of three colours: three images of 4 x 4
    # white: 1 and 2 stand for nothing else, 4 does
    codes = np.array(
        [0] * 20 + [1] * 6 + [2] * 2 + [4] * 2 + [3] * 8 + [4] * 4 + [5] * 5 + [4]
    )  # 3 and 5 are the first of their kinds
    images = np.kron(kinds.reshape(3, 4, 4).astype(np.uint8), np.ones((1, 16, 16), np.uint8))[
        ..., None
    ].repeat(3, 3)

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
    assert len(watches) == 8 * siglip_pretraining.GROUP and all(
        split_of(watch) == "train" for watch in watches
    )
    for start in range(0, len(watches), siglip_pretraining.GROUP):
        group = watches[start : start + siglip_pretraining.GROUP]
        for other in group[1:]:
            differing = {
                name
                for name in (*ATTRIBUTES, "colour")
                if getattr(other, name) != getattr(group[0], name)
            }
            assert (
                differing <= {"time"}
                or len(differing) == 1
                or differing <= {"weather_corner", "battery_corner"}
            )


TRAINERS = {
    "stamps_vq": stamps_pretraining.train_stamps_vq,
    "stamps_siglip": stamps_pretraining.train_stamps_siglip,
}
BLUE, RED = (20, 40, 200), (200, 20, 40)  # made-up stamps of the sides "train" and "test"


@pytest.fixture
def stamps(cache):
    """Twelve stamps in the layout of `make stamps`, at least three on each side, their colours by
    their sides."""
    for number in range(12):
        caption = f"A thing of kind {number}."
        path = cache / "stamps" / ("animals", "town")[number % 2] / f"thing-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = BLUE if pictures.split_of(caption) == "train" else RED
        Image.new("RGB", (90, 60 + number), colour).save(path)
        path.with_suffix(".txt").write_text(caption)
    return cache / "stamps"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Where networks are shipped to instead of the package; a training takes five batches and keeps
    them."""
    seen = []

    def train(name, task, batch_of, *arguments):
        seen.extend(batch_of(np.random.default_rng(step)) for step in range(5))
        return 1.0

    for module in (stamps_pretraining, siglip_pretraining):
        monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(stamps_pretraining, "VIEWS", 12)
    monkeypatch.setattr(pretraining, "PRETRAINED", tmp_path / "pretrained")
    return tmp_path / "pretrained", seen


@pytest.mark.parametrize("name", TRAINERS)
def test_held_out_stamps_reach_no_training(name, stamps, shipped):
    (known, _), (unseen, _) = (stamps_pretraining.read_side(side, 64) for side in ("train", "test"))
    assert min(len(known), len(unseen)) >= 3 and len(known) + len(unseen) == 12
    TRAINERS[name]()
    folder, seen = shipped
    images = torch.cat(
        [next(part for part in batch if part.dtype == torch.uint8) for batch in seen]
    ).float()
    assert (
        images.shape[1:] == (64, 64, 3)
        and (images[..., 2] > images[..., 0] + 50).flatten(1).any(1).all()
    )
    assert not (images[..., 0] > images[..., 2] + 50).any()  # no red in any of them
    verify(folder / name)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_card_of_stamps_says_where_they_come_from_and_nothing_of_watches_worlds(
    name, stamps, shipped
):
    TRAINERS[name]()
    card = " ".join((shipped[0] / name / "README.md").read_text().split())
    known, _ = stamps_pretraining.read_side("train", 64)
    mark = pictures.fingerprint(known, stamps)[:16]
    assert (
        f"tuxpaint-stamps-default, version unknown (fingerprint of the training side {mark})"
        in card
    )
    assert "GPL-2" in card and "not part of this project" in card and "world version" not in card


def test_signs_of_the_stamps_siglip_say_that_captions_are_the_same(stamps, shipped):
    # two pictures of one caption
    (stamps / "animals" / "thing-2.txt").write_text("A thing of kind 0.")
    TRAINERS["stamps_siglip"]()
    for _, ids, true in shipped[1]:
        assert (
            torch.equal(true, (ids[:, None] == ids[None]).all(2))
            and true.diagonal().all()
            and not true.all()
        )
    # captions of nine training stamps
    assert len(torch.cat([ids for _, ids, _ in shipped[1]]).unique(dim=0)) == 8


@pytest.mark.parametrize("mirror", [False, True])
def test_views_are_scaled_and_moved_on_white_and_mirrored_only_if_captions_allow_it(mirror):
    picture = np.full((128, 128, 3), 255, np.uint8)
    picture[40:90, 20:64], picture[40:90, 64:108] = BLUE, RED  # blue on the left
    pair = np.stack([picture] * 40)
    seen, again = (
        stamps_pretraining.views(pair, np.random.default_rng(1), mirror).numpy() for _ in range(2)
    )
    assert np.array_equal(seen, again)
    assert len({int((view < 128).any(2).sum()) for view in seen}) > 10  # sizes
    assert (seen == 255).all(3).any((1, 2)).all()
    blue, red = (
        np.array([np.nonzero(view[..., channel] < 60)[1].mean() for view in seen])
        for channel in (0, 2)
    )
    assert len(set(blue)) > 10  # places
    assert set(blue < red) == ({True, False} if mirror else {True})


def test_a_caption_finds_any_of_its_pictures_and_chance_counts_them(monkeypatch):
    rows = [
        pictures._captioned(f"{number}.png", text)
        for number, text in enumerate(["a", "a", "b", "c"])
    ]

    class Network:
        def __call__(self, input_ids, pixel_values):
            # of "a", "b", "c"
            likeness = torch.tensor([[0.0, 3, 2, 1], [3, 2, 0, 1], [3, 2, 1, 0]])
            return type("Seen", (), {"logits_per_text": likeness})

    line = stamps_pretraining.retrieval("test", Network(), rows, np.zeros((4, 64, 64, 3), np.uint8))
    # chance: 2/4, 1/4, 1/4; then all are among five
    assert line == "| test | 4 | 3 | 0.333 | 0.333 | 1.000 | 1.000 |"


def test_without_the_stamps_a_network_of_theirs_is_refused_and_all_leaves_them_out(
    capsys, monkeypatch, cache
):
    made = []
    for module, names in (
        (text_pretraining, ("build_tokenizer", "build_language_model")),
        (vq_pretraining, ("train_vq", "train_reader")),
        (siglip_pretraining, ("train_siglip", "train_decoder", "train_feature_reader")),
        (stamps_pretraining, ("train_stamps_vq", "train_stamps_siglip")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda name=name: made.append(name))
    for name in TRAINERS:
        assert command.main([name]) == 2
        said = capsys.readouterr().err
        assert (
            said.startswith(f"{name} is trained on Tux Paint's stamps")
            and "run `make stamps` first." in said
        )
        assert said.count("\n") == 1
    assert not made
    assert command.main(["all"]) == 0
    assert f"`make stamps` brings them): {', '.join(TRAINERS)}." in capsys.readouterr().out
    assert len(made) == 7 and not any("stamps" in name for name in made)
    (cache / "stamps").mkdir(parents=True)
    made.clear()
    assert command.main(["all"]) == 0 and len(made) == 9


# A training that diverges


class Line(torch.nn.Module):
    """A task whose loss, gradient or buffer is spoilt in step number `at`."""

    def __init__(self, at: int, what: str):
        super().__init__()
        self.weight, self.at, self.what = torch.nn.Parameter(torch.ones(2, 2)), at, what
        self.register_buffer("means", torch.zeros(2))  # moved by the forward, as a codebook is

    def forward(self, inputs, step):
        product, spoilt = self.weight * inputs, self.what if step + 1 == self.at else ""
        if spoilt == "buffer":
            self.means.fill_(float("nan"))
        if spoilt == "gradient":
            product.register_hook(lambda gradient: gradient * float("inf"))
        return product.square().mean() * (float("nan") if spoilt == "loss" else 1)


def train_line(name, task, muon=False, steps=8):
    def batch(rng):
        return (torch.from_numpy(rng.random((2, 2), np.float32)),)

    return pretraining.train(name, task, batch, steps, 0.5, [task.weight] if muon else [])


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("loss", r"at step 4 of 8: the loss is nan and the norm of its gradient nan"),
        ("gradient", r"at step 4 of 8: the loss is \d\S* and the norm of its gradient inf"),
        ("buffer", r"at step 4 of 8: the loss is \d\S* and the weight means is not finite"),
    ],
)
def test_a_network_whose_training_diverges_is_not_kept(cache, monkeypatch, what, fault, muon):
    monkeypatch.setattr(pretraining, "CHECKPOINT_EVERY", 2)
    for _ in range(2):  # the second time from the checkpoint before
        with pytest.raises(
            ValueError,
            match=rf"The training of line diverged {fault} \(learning "
            rf"rate "
            r"0\.5.*; try a lower rate\.",
        ):
            train_line("line", Line(4, what), muon)
        state = torch.load(cache / "pretraining" / "line.pt", weights_only=True)
        assert state["step"] == 2
        assert all(tensor.isfinite().all() for tensor in state["task"].values())


def test_a_checkpoint_of_a_network_that_is_not_finite_is_passed_over(cache, monkeypatch):
    monkeypatch.setattr(pretraining, "CHECKPOINT_EVERY", 2)
    task = Line(0, "loss")
    train_line("line", task)
    path = cache / "pretraining" / "line.pt"
    state = torch.load(path, weights_only=True)
    state["task"]["weight"][0] = float("inf")
    torch.save(state | {"step": 4}, path)
    again = Line(0, "loss")
    train_line("line", again)
    assert torch.equal(again.weight, task.weight)


def test_a_network_that_is_not_finite_is_not_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "PRETRAINED", tmp_path)
    task = Line(0, "loss")
    task.weight.data[0, 0] = float("nan")
    with pytest.raises(
        ValueError,
        match="The network line is not written, because its weight weight is not finite.",
    ):
        pretraining.ship("line", task, {}, "# Line", 1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("step", "what"), [(2, "loss"), (3, "weight")])
def test_a_language_model_that_diverges_is_not_written(tmp_path, monkeypatch, step, what):
    plain, seen = text_pretraining._loss, []

    def fill(weight):
        weight.data.fill_(float("inf"))

    def spoilt(model, *arguments):
        seen.append(1)
        loss = plain(model, *arguments)
        if len(seen) == step and what == "weight":  # in the last step: no loss shows it
            model.lm_head.weight.register_post_accumulate_grad_hook(fill)
        return loss * (float("nan") if len(seen) == step and what == "loss" else 1)

    monkeypatch.setattr(text_pretraining, "_loss", spoilt)
    fault = {
        "loss": "step 2 of 3: the loss is nan",
        "weight": "step 3 of 3: .* the weight lm_head.weight is not finite",
    }[what]
    lessons = Lesson(1, 1.0, wordings=1), Lesson(2, 0.3)
    with pytest.raises(ValueError, match=f"The training of the language model diverged at {fault}"):
        text_pretraining.build_language_model(tmp_path / "made", lessons)
    assert not (tmp_path / "made").exists()


def test_a_network_that_diverges_is_a_sentence_and_exit_status_2(monkeypatch, capsys):
    made = []

    sentence = "The training of vq diverged at step 3 of 6500: the loss is nan."

    def diverge():
        raise ValueError(sentence)

    monkeypatch.setattr(vq_pretraining, "train_vq", diverge)
    monkeypatch.setattr(vq_pretraining, "train_reader", lambda: made.append("reader"))
    assert command.main(["vq"]) == 2
    assert capsys.readouterr().err == f"{sentence}\n"
    for name in ("build_tokenizer", "build_language_model"):
        monkeypatch.setattr(text_pretraining, name, lambda: None)
    assert command.main(["all"]) == 2 and not made  # what needs it is not begun
