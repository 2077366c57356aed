"""Rows about captioned pictures, and a run of them: sides apart, rows in rounds, scores that are
retrieval."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uvlm_core.data import pictures
from uvlm_core.data.attributes import ATTRIBUTES, read_caption
from uvlm_core.data.conversations import AttributeBias, Conversation, Turn
from uvlm_core.data.llava import write_llava
from uvlm_core.data.pictures import load_pictures, open_picture, pictures_fingerprint
from uvlm_core.data.smart_watch import POOL_STREAM, sample_watches
from uvlm_core.data.tokens import Processor
from uvlm_core.models.kinds import kinds_of
from uvlm_core.runs.carry_out import train_and_score
from uvlm_core.runs.store import record_key
from uvlm_core.scoring import evaluation
from uvlm_core.scoring.picture_evaluation import PictureEvaluation, _found
from uvlm_core.training import pool as pool_module
from uvlm_core.training.loop import Steps, prepare
from uvlm_core.training.pool import (
    PicturePool,
    WatchPool,
    pool_features,
    training_pool,
    training_rows,
)

WORDS = ("red", "green", "blue", "dark", "light", "round")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty plain pictures with captions of their own, and a question about each third of them, as
    LLaVA JSON."""
    folder = tmp_path_factory.mktemp("pictures")
    rng, talks = np.random.default_rng(0), []
    for number in range(60):
        name = f"{number:02d}.png"
        Image.fromarray(
            np.kron(rng.integers(0, 255, (4, 4, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
        ).save(folder / name)
        talks.append(
            Conversation(
                "caption",
                name,
                (
                    Turn(
                        "<image>\ndescribe this picture.",
                        " ".join(WORDS[k] for k in rng.integers(len(WORDS), size=3)) + f" {number}",
                    ),
                ),
            )
        )
        if number % 3 == 0:
            talks.append(
                Conversation("vqa", name, (Turn("<image>\nwhat is its number?", str(number)),))
            )
    write_llava(talks, None, folder / "captions.json", folder)
    return folder


@pytest.fixture
def pictured(spec, folder):
    return spec.vary(
        pictures=str(folder / "captions.json"),
        picture_folder=str(folder),
        vqa_examples=8,
        caption_examples=40,
        generation_examples=48,
        feature_reader="",
        reader="",
    )


def test_the_home_folder_has_its_short_name(pictured, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    found = load_pictures("~/captions.json", "~")
    assert found == load_pictures(pictured.data.pictures, str(folder)) and found.folder == folder
    with pytest.raises(ValueError, match="nowhere.json cannot be read"):
        load_pictures("~/nowhere.json", "~")


def test_a_pool_holds_the_training_side_alone(pictured, folder, networks):
    pool, pictures = training_pool(pictured), load_pictures(pictured.data.pictures, str(folder))
    assert isinstance(pool, PicturePool) and isinstance(
        training_pool(pictured.vary(pictures="")), WatchPool
    )
    test = {talk.image for talk in pictures.test}
    assert (
        test
        and not test & set(pool.files)
        and test | set(pool.files) == {f"{n:02d}.png" for n in range(60)}
    )
    assert pool.count == len(pool.files)
    np.testing.assert_array_equal(pool.images(1, 3)[1], open_picture(folder / pool.files[2], 64))
    processor = Processor.load(str(networks / "tokenizer"), 16, 16)
    told = {talk.turns[0].gpt for talk in pictures.test if talk.task == "caption"}
    for row in [row for rows in pool.rows(processor) for row in rows]:
        assert not any(caption in processor.text(row.ids) for caption in told)


def test_rows_show_what_they_tell_and_come_again_in_another_order(pictured, folder, networks):
    pool, processor = training_pool(pictured), Processor.load(str(networks / "tokenizer"), 16, 16)
    captions = {
        talk.turns[0].gpt: talk.image
        for talk in load_pictures(pictured.data.pictures, str(folder)).train
        if talk.task == "caption"
    }
    count = len(captions)
    more = pictured.vary(caption_examples=3 * count, generation_examples=2 * count, vqa_examples=0)
    understanding, generation = PicturePool(more).rows(processor)
    assert (len(understanding), len(generation)) == (3 * count, 2 * count)
    for rows, times in ((understanding, 3), (generation, 2)):
        shown = [pool.files[max(row.image_in, row.image_out)] for row in rows]
        assert sorted(shown) == sorted(list(captions.values()) * times)
        for row, name in zip(rows, shown, strict=True):
            (caption,) = [told for told, image in captions.items() if image == name]
            assert caption in processor.text(row.ids)
    first, second = (
        [row.image_out for row in generation[start : start + count]] for start in (0, count)
    )
    assert first != second and sorted(first) == sorted(second)
    shuffled = PicturePool(more.vary(shuffled_requests=True)).rows(processor)[1]
    assert [row.image_out for row in shuffled] == [
        row.image_out for row in generation[1:] + generation[:1]
    ]
    assert all(
        (one.ids == other.ids).all() for one, other in zip(shuffled, generation, strict=True)
    )
    for regime, empty in (("understanding", 1), ("generation", 0)):
        sides = PicturePool(more.vary(regime=regime)).rows(processor)
        assert not sides[empty] and len(sides[1 - empty]) == (
            2 * count if empty == 0 else 3 * count
        )


# What is read grows with the work, not with the set


@pytest.fixture
def opened(monkeypatch):
    """The names of the pictures that are decoded."""
    names, plain = [], pictures.open_picture

    def open_one(path, size):
        names.append(path.name)
        return plain(path, size)

    monkeypatch.setattr(pictures, "open_picture", open_one)
    return names


def few(pictured, **change):
    """A run whose rows show few of the pictures."""
    return pictured.vary(
        **{
            "vqa_examples": 2,
            "caption_examples": 6,
            "generation_examples": 7,
            "batch_size": 2,
            "test_watches": 3,
            "generated_watches": 2,
        }
        | change
    )


@pytest.mark.parametrize("regime", ["understanding", "generation", "unified"])
@pytest.mark.parametrize("architecture", ["SigLIP-VQ", "VQ-SigLIP"])
def test_only_pictures_that_are_scored_are_opened(
    pictured, opened, encoders, processor, regime, architecture
):
    spec = few(pictured, regime=regime, architecture=architecture)
    sides = [encoders[kind] for kind in kinds_of(architecture)]
    scored = PictureEvaluation(spec, processor, *sides)
    assert len(opened) == {"understanding": 3, "generation": 2 + 2, "unified": 3 + 2}[regime]
    asked = [talk.image for talk in scored.captions]
    assert asked[:2] == opened[:2] and len(set(opened)) == len(opened)
    if spec.understands:
        wanted = [open_picture(Path(spec.data.picture_folder, name), 64) for name in asked]
        np.testing.assert_array_equal(scored.images_in, sides[0].encode(np.stack(wanted)))


@pytest.mark.parametrize(
    ("regime", "count"), [("understanding", 9), ("generation", 4 + 4), ("unified", 9 + 4)]
)
def test_only_watches_that_are_scored_are_drawn(
    spec, encoders, processor, monkeypatch, regime, count
):
    plain, drawn = evaluation.render_batch, []
    monkeypatch.setattr(
        evaluation,
        "render_batch",
        lambda watches, size: drawn.extend(watches) or plain(watches, size),
    )
    spec = spec.vary(regime=regime, test_watches=9, generated_watches=4)
    evaluation.Evaluation(spec, processor, encoders["VQ"], encoders["VQ"])
    assert len(drawn) == count


@pytest.mark.parametrize(
    "change",
    [
        {},
        dict(regime="understanding"),
        dict(regime="generation"),
        dict(shuffled_requests=True),
        dict(regime="understanding", padding_image=True),
        dict(architecture="SigLIP-VQ"),
    ],
    ids=str,
)
def test_only_pictures_that_rows_show_are_encoded_and_each_row_has_its_own(
    pictured, opened, change
):
    spec = few(pictured, **change)
    _, processor, steps, understanding, generation = prepare(spec)
    shown = {
        "understanding": {row.image_in for row in steps.understanding},
        "generation": {row.image_out for row in steps.generation},
    }
    pool, padded = training_pool(spec), spec.training.padding_image and not spec.generates
    tables = {
        "understanding": (understanding, steps.images_in),
        "generation": (generation, steps.images_out),
    }
    assert len(opened) == sum(map(len, shown.values())) + padded <= 8 + 7 < pool.count
    for side, (encoder, table) in tables.items():
        images = pool.side(side)
        if not shown[side]:
            assert table is None or len(table) == padded
            continue
        assert shown[side] == set(range(images.count)) and len(table) == images.count
        np.testing.assert_array_equal(table, encoder.encode(images.images(0, images.count)))
        for row in getattr(steps, side) if not spec.data.shuffled_requests else ():
            number = int(images.files[max(row.image_in, row.image_out)][:2])  # every row tells it
            assert re.search(rf"\b{number}\b", processor.text(row.ids))


def test_arms_of_a_seed_share_what_is_encoded_and_all_seeds_where_every_picture_is_shown(
    pictured, opened
):
    spec = few(pictured)
    for regime, encodes in (("unified", True), ("understanding", False), ("generation", False)):
        opened.clear()
        prepare(spec.vary(regime=regime))
        assert bool(opened) == encodes
    files = [training_pool(spec.vary(seed=seed)).side("generation").files for seed in (0, 1)]
    assert files[0] != files[1]
    more = pictured.vary(caption_examples=100, generation_examples=100)
    whole = [training_pool(more.vary(seed=seed)) for seed in (0, 1)]
    for pool in whole:  # the table of earlier runs: their records stay what they are
        assert all(pool.side(name) is pool for name in ("understanding", "generation"))
    assert whole[0].name == whole[1].name and len(whole[0].files) == whole[0].count


def test_a_pool_of_watches_draws_those_that_its_rows_are_about(spec, processor, monkeypatch):
    plain, drawn = pool_module.sample_watch, []

    def sample(seed, number, **names):
        drawn.append(number)
        return plain(seed, number, **names)

    large = spec.vary(images=5000, hours=13)
    wanted = training_rows(large, processor, sample_watches(POOL_STREAM, 5000, hours=13))
    monkeypatch.setattr(pool_module, "sample_watch", sample)
    found = training_pool(large).rows(processor)
    assert len(drawn) == len(set(drawn)) <= 40 + 8 + 48
    for some, others in zip(found, wanted, strict=True):
        assert [row.ids.tolist() for row in some] == [row.ids.tolist() for row in others]


def test_pictures_are_read_whole_once_and_again_when_a_file_changes(folder, tmp_path, monkeypatch):
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    named, read = (str(copied / "captions.json"), str(copied)), []
    plain = pictures.fingerprint
    monkeypatch.setattr(pictures, "fingerprint", lambda *rows: read.append(1) or plain(*rows))

    def found() -> str:  # as in a new process
        pictures_fingerprint.cache_clear()
        load_pictures.cache_clear()
        return pictures_fingerprint(*named)

    first = found()
    assert found() == first and len(read) == 2  # files of just now may change and keep their times
    monkeypatch.setattr(pictures, "SETTLED", -(10**12))
    assert [found() for _ in range(3)] == [first] * 3 and len(read) == 3
    time.sleep(0.02)
    path, before = copied / "07.png", (copied / "07.png").stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)  # as long, and with its old time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (second := found()) != first and len(read) == 4
    assert found() == second and len(read) == 4
    rows = json.loads((copied / "captions.json").read_text())
    (copied / "captions.json").write_text(json.dumps(rows[1:]))
    assert found() not in (first, second) and len(read) == 5


@pytest.mark.parametrize("harm", ["a file in the way", "garbage"])
def test_what_pictures_are_is_known_without_the_cache(pictured, cache, harm, monkeypatch):
    monkeypatch.setattr(pictures, "SETTLED", -(10**12))
    named = pictured.data.pictures, pictured.data.picture_folder
    pictures_fingerprint.cache_clear()
    wanted = pictures_fingerprint(*named)
    if harm == "garbage":
        (kept,) = (cache / "fingerprints").iterdir()
        kept.write_bytes(b"\xff half")
    else:
        shutil.rmtree(cache)
        cache.write_text("")
    pictures_fingerprint.cache_clear()
    assert pictures_fingerprint(*named) == wanted
    pictures_fingerprint.cache_clear()


def test_the_key_of_a_record_depends_on_what_the_pictures_are(pictured, folder, tmp_path):
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    assert pictures_fingerprint(str(copied / "captions.json"), str(copied)) == pictures_fingerprint(
        pictured.data.pictures, pictured.data.picture_folder
    )
    Image.new("RGB", (40, 40)).save(copied / "00.png")
    pictures_fingerprint.cache_clear()
    load_pictures.cache_clear()
    assert pictures_fingerprint(str(copied / "captions.json"), str(copied)) != pictures_fingerprint(
        pictured.data.pictures, pictured.data.picture_folder
    )
    assert record_key(pictured) != record_key(pictured.vary(pictures=""))
    stamps = record_key(pictured.vary(pictures="stamps"))
    assert stamps == record_key(pictured.vary(pictures="stamps"))  # without having them


@pytest.mark.parametrize("architecture", ["SigLIP-VQ", "VQ-SigLIP"])
def test_a_run_of_pictures_is_trained_and_scored(pictured, architecture, tmp_path):
    spec = pictured.vary(architecture=architecture, fractions=(0.5, 1.0))
    result, shown = train_and_score(spec, tmp_path)
    assert shown is None
    metrics = {row["metric"] for row in result["scores"] if row["fraction"] == 1}
    drawn = {
        "VQ": {
            "efficientnet_kernel",
            "efficientnet_kernel_floor",
            "efficientnet_kernel_tokenizer",
            "drawn_retrieval",
        },
        "SigLIP": {
            "feature_cosine",
            "feature_frechet",
            "feature_frechet_floor",
            "feature_drawn_retrieval",
        },
    }
    assert metrics >= drawn[architecture.split("-")[1]] | {
        "token_accuracy",
        "caption_loss",
        "caption_retrieval",
        "picture_retrieval",
        "triggered",
        "alignment_cka",
    }
    assert {row["fraction"] for row in result["scores"] if row["metric"] == "token_accuracy"} == {
        0.5,
        1.0,
    }
    shares = [
        row["value"]
        for row in result["scores"]
        if "retrieval" in row["metric"] or "accuracy" in row["metric"]
    ]
    assert all(0 <= value <= 1 for value in shares)


def test_the_loss_of_the_test_captions_is_the_models_own(pictured):
    model, processor, steps, understanding, generation = prepare(
        pictured.vary(regime="understanding")
    )
    evaluation = PictureEvaluation(
        pictured.vary(regime="understanding"), processor, understanding, generation
    )
    values = {row["metric"]: row["value"] for row in evaluation._captions(model)}
    total, tokens = 0.0, 0
    for number, talk in enumerate(evaluation.captions):
        (bucket,) = steps_of(
            processor, Conversation("caption", number, talk.turns), evaluation.images_in
        )
        output = model(buckets=[bucket])
        total, tokens = (
            total + float(output.text_loss) * output.text_positions,
            tokens + output.text_positions,
        )
    assert values["caption_loss"] == pytest.approx(total / tokens, rel=1e-5)
    told = [talk.turns[0].gpt for talk in evaluation.captions]
    assert len(set(told)) == len(told)


def steps_of(processor, talk, images):
    from uvlm_core.data.tokens import collate

    return collate([processor.row(talk)], images, None, processor.pad)


def test_retrieval_counts_the_right_ones_and_ties_as_wrong():
    likeness = np.array([[3.0, 1, 2, 0, 0, 0], [1, 1, 0, 0, 0, 0], *np.eye(6)[2:]])
    first, five = _found("any", likeness)
    assert (first["attribute"], first["value"]) == ("first 1", 5 / 6) and five["value"] == 1
    # what tells nothing apart finds nothing
    assert _found("any", np.zeros((6, 6)))[1]["value"] == 0


def test_the_stand_in_is_drawn_once_and_read_as_any_other(spec):
    spec = spec.vary(pictures="watches", vqa_examples=0, reader="", feature_reader="")
    load_pictures.cache_clear()
    pool = training_pool(spec)
    assert pool.count > 300 and pool.images(0, 2).shape == (2, 64, 64, 3)
    assert pool_features(prepare(spec)[3], pool).shape[0] == pool.count


def test_what_pictures_cannot_give_is_refused_in_one_sentence(pictured, networks):
    processor = Processor.load(str(networks / "tokenizer"), 16, 16)
    load_pictures.cache_clear()
    with pytest.raises(
        ValueError, match="The stamps are not in .*; `make stamps` brings them there."
    ):
        training_pool(pictured.vary(pictures="stamps"))
    with pytest.raises(ValueError, match="have no row of the task 'vqa'; ask for 0 of them."):
        PicturePool(pictured.vary(pictures="watches")).rows(processor)
    with pytest.raises(ValueError, match="have no known attributes: "):
        pictured.vary(shuffled_attributes=("time",))


# Rows about watches


def same_rows(some, others) -> bool:
    return len(some) == len(others) and all(
        a.ids.tolist() == b.ids.tolist() and (a.image_in, a.image_out) == (b.image_in, b.image_out)
        for a, b in zip(some, others, strict=True)
    )


def test_every_row_is_seen_once_whatever_the_counts(spec, processor):
    for batch_size, vqa, generation in ((8, 40, 48), (7, 13, 40), (48, 5, 3), (1, 40, 20)):
        changed = spec.vary(batch_size=batch_size, vqa_examples=vqa, generation_examples=generation)
        rows = training_rows(changed, processor, sample_watches(POOL_STREAM, spec.data.images))
        steps = Steps(changed, processor, *rows, None, None)
        seen = [id(row) for step in range(len(steps)) for row in steps.rows(step)]
        assert sorted(seen) == sorted(id(row) for part in rows for row in part)
        assert (
            max(sum(row.image_in >= 0 for row in steps.rows(step)) for step in range(len(steps)))
            <= batch_size
        )


def test_rows_speak_about_the_watch_whose_image_they_show(spec, processor):
    watches = sample_watches(POOL_STREAM, spec.data.images)
    understanding, generation = training_rows(spec, processor, watches)
    assert len(understanding) == 48 and len(generation) == 48
    assert len({row.image_out for row in generation}) == 48
    for row in generation:  # every request gives the time
        assert watches[row.image_out].time in processor.text(row.ids)
    for row in understanding:
        watch, text = watches[row.image_in], processor.text(row.ids)
        assert any(
            str(value) in text
            for value in (
                watch.time,
                watch.weather,
                f"{watch.battery}%",
                watch.weather_corner,
                watch.battery_corner,
            )
        )


def test_shuffled_requests_pair_every_request_with_another_image(spec, processor):
    watches = sample_watches(POOL_STREAM, spec.data.images)
    understanding, paired = training_rows(spec, processor, watches)
    same, shuffled = training_rows(spec.vary(shuffled_requests=True), processor, watches)
    assert same_rows(understanding, same)
    assert [row.ids.tolist() for row in shuffled] == [row.ids.tolist() for row in paired]
    assert all(a.image_out != b.image_out for a, b in zip(paired, shuffled, strict=True))
    assert sorted(row.image_out for row in shuffled) == sorted(row.image_out for row in paired)


def test_wordless_requests_keep_their_images_and_all_say_the_same(spec, processor):
    watches = sample_watches(POOL_STREAM, spec.data.images)
    understanding, true = training_rows(spec, processor, watches)
    same, wordless = training_rows(spec.vary(wordless_requests=True), processor, watches)
    assert same_rows(understanding, same)
    assert [row.image_out for row in wordless] == [row.image_out for row in true]
    assert len({tuple(row.ids.tolist()) for row in wordless}) == 1
    assert {processor.text(row.ids).count("draw a watch.") for row in wordless} == {1}
    assert all(row.about == () for row in wordless)


def test_edits_show_a_watch_and_ask_for_what_the_edited_pool_has_in_its_place(spec, processor):
    spec = spec.vary(edit_requests=True)
    pool, watches = WatchPool(spec), sample_watches(POOL_STREAM, spec.data.images)
    understanding, edits = training_rows(spec, processor, watches)
    same, requests = training_rows(spec.vary(edit_requests=False), processor, watches)
    assert same_rows(understanding, same)
    assert [row.image_out for row in edits] == [row.image_out for row in requests]
    targets = pool.side("generation").watches(0, spec.data.images)
    assert pool.side("understanding") is pool and pool.side("generation").name != pool.name
    for row in edits:
        assert row.image_in == row.image_out
        before, after = watches[row.image_in], targets[row.image_out]
        (name,) = row.about
        assert ATTRIBUTES[name].truth(after) in processor.text(row.ids)
        assert [
            key for key, each in ATTRIBUTES.items() if each.truth(before) != each.truth(after)
        ] == [name]
        assert (row.ids == processor.image_in).sum() == processor.tokens_in
        assert (row.ids == processor.image_out).sum() == processor.tokens_out


def test_shuffled_edits_show_their_own_watch_and_draw_anothers(spec, processor):
    watches = sample_watches(POOL_STREAM, spec.data.images)
    spec = spec.vary(edit_requests=True)
    _, true = training_rows(spec, processor, watches)
    _, shuffled = training_rows(spec.vary(shuffled_requests=True), processor, watches)
    for row, other in zip(true, shuffled, strict=True):
        assert row.ids.tolist() == other.ids.tolist() and row.image_in == other.image_in
        assert row.image_out != other.image_out
    assert sorted(row.image_out for row in true) == sorted(row.image_out for row in shuffled)


def test_biases_leave_the_attribute_out_of_the_training_rows(spec, processor):
    watches = sample_watches(POOL_STREAM, spec.data.images)
    biased = spec.vary(biases=(AttributeBias("battery", 0.0),))
    understanding, generation = training_rows(biased, processor, watches)
    assert not any("%" in processor.text(row.ids) for row in understanding)
    # the bias names vqa and captions only
    assert any("%" in processor.text(row.ids) for row in generation)


@pytest.mark.parametrize(
    "parts", [("weather",), ("battery",), ("time",), ("weather_corner", "battery_corner")], ids=str
)
def test_shuffled_attributes_are_another_watchs_and_the_rest_of_a_request_is_true(
    parts, spec, processor
):
    spec = spec.vary(mention_rate=1.0)  # so that the values told can be counted
    watches = sample_watches(POOL_STREAM, spec.data.images)
    understanding, plain = training_rows(spec, processor, watches)
    same, shuffled = training_rows(spec.vary(shuffled_attributes=parts), processor, watches)
    assert same_rows(understanding, same)
    assert [row.image_out for row in shuffled] == [row.image_out for row in plain]
    assert [row.about for row in shuffled] == [row.about for row in plain]
    told = [read_caption(processor.text(row.ids)) for row in shuffled]
    true = [
        {name: ATTRIBUTES[name].truth(watches[row.image_out]) for name in ATTRIBUTES}
        for row in shuffled
    ]
    for name in ATTRIBUTES:
        pairs = [(one[name], other[name]) for one, other in zip(told, true, strict=True)]
        if name in parts:  # the same values, at other watches
            others = np.mean([one != other for one, other in pairs])
            assert others == 1 if name == "time" else others > 0.5
            assert sorted(one for one, _ in pairs) == sorted(other for _, other in pairs)
        else:
            assert all(one == other for one, other in pairs)


def test_generated_pictures_are_compared_at_the_tokenizers_size(pictured, encoders, processor):
    spec = few(pictured, regime="generation", architecture="VQ-VQ", image_size=72)
    scorer = PictureEvaluation(spec, processor, encoders["VQ"], encoders["VQ"]).drawn
    same = {row["metric"]: row["value"] for row in scorer.scores(scorer.outputs)}
    assert scorer.real.shape[1:] == (64, 64, 3)
    assert same["efficientnet_kernel"] == same["efficientnet_kernel_tokenizer"]
