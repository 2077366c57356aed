"""Training: one spec, one result, whatever happens on the way; arms that differ in their regime alone."""

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from uvlm_core import experiments, launch, training
from uvlm_core.conversations import AttributeBias, truth
from uvlm_core.evaluation import Evaluation
from uvlm_core.experiments import RARE
from uvlm_core.pool import STREAM, training_rows
from uvlm_core.runs import RunsFailed, RunStore, execute_run, run_grid
from uvlm_core.scoring import read_caption
from uvlm_core.smart_watch import ATTRIBUTES, sample_watches
from uvlm_core.training import (
    DONE,
    Steps,
    last_checkpoint,
    load_model,
    make_optimizer,
    prepare,
    train,
    train_and_score,
    trained_models,
)

ROOT = Path(__file__).resolve().parent.parent


def equal(count: int) -> tuple[float, ...]:
    """Equal fractions of the data."""
    return tuple(k / count for k in range(1, count + 1))


class Cut(Exception):
    """What ends a training early here."""


def weigh(model, last: bool = True) -> list[dict]:
    """A score that any change of any weight changes."""
    total = sum(float(p.detach().double().square().sum()) for p in model.parameters())
    return [{"metric": "weight", "attribute": "", "value": total, "samples": 1}]


def run(spec, folder, cut_at: float = np.inf) -> tuple[dict, dict]:
    """Train from `folder` on: the weights at the end, and the result; `cut_at` a step it dies in its callback."""
    model, _, steps, _, _ = prepare(spec)

    def report(fraction):
        if round(fraction * len(steps)) >= cut_at:
            raise Cut
    result = train(model, steps, spec, folder, weigh, report)
    return {name: p.detach().clone() for name, p in model.state_dict().items()}, result


def assert_same(found: tuple[dict, dict], wanted: tuple[dict, dict]) -> None:
    """Weights and scores bit for bit, and the losses that were logged."""
    assert found[0].keys() == wanted[0].keys()
    differing = [name for name in wanted[0] if not torch.equal(found[0][name], wanted[0][name])]
    assert not differing
    assert found[1]["scores"] == wanted[1]["scores"]
    assert [log["loss"] for log in found[1]["losses"]] == [log["loss"] for log in wanted[1]["losses"]]


@pytest.fixture
def uninterrupted(tmp_path):
    def get(spec):
        return run(spec, tmp_path / "uninterrupted")
    return get


def test_a_spec_trained_twice_gives_the_same_weights_and_scores(spec, tmp_path):
    first = run(spec, tmp_path / "a")
    assert_same(run(spec, tmp_path / "b"), first)
    assert first[1]["scores"][0]["value"] != first[1]["scores"][1]["value"]  # it learns
    assert first[1]["scores"] != run(spec.vary(seed=1), tmp_path / "c")[1]["scores"]


def test_a_whole_run_twice_gives_the_same_record(spec, tmp_path):
    (first, sheet), (second, again) = [training.train_and_score(spec, tmp_path / name) for name in "ab"]
    assert json.dumps(first["scores"]) == json.dumps(second["scores"])  # as text: NaN equals NaN
    assert first["counts"] == second["counts"] and first["samples"] == second["samples"]
    assert sheet.tobytes() == again.tobytes() and sheet.size == (6 * 64, 64)
    assert {row["fraction"] for row in first["scores"]} == {0.0, 0.5, 1.0}
    assert {row["metric"][:10] for row in first["scores"] if row["fraction"] == 0} == {"alignment_"}  # before training
    assert first["counts"]["steps"] == 6
    assert (first["counts"]["understanding rows"], first["counts"]["generation rows"]) == (48, 48)
    metrics = {row["metric"] for row in first["scores"]}
    assert {"partial", "exact", "triggered", "read_back", "reader_frechet"} <= metrics


@pytest.mark.parametrize("cut_at", [1, 2, 3, 4, 5, 6])
def test_a_run_cut_off_at_any_step_ends_as_if_it_had_not_been(spec, cut_at, tmp_path, uninterrupted):
    spec = spec.vary(fractions=equal(3))
    with pytest.raises(Cut):
        run(spec, tmp_path / "cut", cut_at)
    newest = last_checkpoint(tmp_path / "cut")
    assert (newest and newest.rsplit("-")[-1]) == {1: None, 2: None, 3: "2", 4: "2", 5: "4", 6: "4"}[cut_at]
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


@pytest.mark.parametrize(("tuning", "optimizer"), [("full", "adamw"), ("lora", "muon"), ("lora", "adamw"),
                                                   ("frozen", "muon"), ("frozen", "adamw")])
def test_every_way_of_tuning_resumes_exactly(spec, tuning, optimizer, tmp_path, uninterrupted):
    spec = spec.vary(tuning=tuning, optimizer=optimizer)
    with pytest.raises(Cut):
        run(spec, tmp_path / "cut", 5)
    assert last_checkpoint(tmp_path / "cut").endswith("checkpoint-3")
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


@pytest.mark.parametrize("regime", ["understanding", "generation"])
@pytest.mark.parametrize("architecture", ["SigLIP-VQ", "VQ-SigLIP"])
def test_other_arms_resume_exactly(spec, regime, architecture, tmp_path, uninterrupted):
    spec = spec.vary(architecture=architecture, regime=regime)
    with pytest.raises(Cut):
        run(spec, tmp_path / "cut", 4)
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


def test_a_run_cut_off_again_and_again_ends_as_if_it_had_not_been(spec, tmp_path, uninterrupted):
    spec = spec.vary(fractions=equal(6))
    for cut_at in (2, 2, 4, 5, 6):
        with pytest.raises(Cut):
            run(spec, tmp_path / "cut", cut_at)
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


def test_a_checkpoint_that_was_cut_while_written_is_passed_over(spec, tmp_path, uninterrupted):
    spec = spec.vary(fractions=equal(3))
    with pytest.raises(Cut):
        run(spec, tmp_path / "cut", 5)
    newest = tmp_path / "cut" / "checkpoint-4"
    (newest / DONE).unlink()
    for path in newest.iterdir():  # every file half written
        os.truncate(path, path.stat().st_size // 2)
    assert last_checkpoint(tmp_path / "cut").endswith("checkpoint-2")
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


def test_a_death_while_scoring_costs_the_steps_since_the_last_checkpoint_only(spec, tmp_path, uninterrupted):
    spec = spec.vary(fractions=equal(3))
    model, _, steps, _, _ = prepare(spec)
    seen = []

    def score(model, last):
        seen.append(1)
        if len(seen) == 2:
            raise Cut
        return weigh(model)
    with pytest.raises(Cut):
        train(model, steps, spec, tmp_path / "cut", score)
    assert last_checkpoint(tmp_path / "cut").endswith("checkpoint-2")
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


def test_a_finished_run_asked_for_again_is_not_trained_again(spec, tmp_path):
    finished = run(spec, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert_same(run(spec, tmp_path), finished)
    assert stamps and {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_scores_are_taken_at_the_asked_fractions(spec, tmp_path):
    spec = spec.vary(batch_size=2, fractions=equal(10))  # 24 steps
    scores = run(spec, tmp_path)[1]["scores"]
    assert [row["fraction"] for row in scores] == [k / 10 for k in range(1, 11)]
    assert len({row["value"] for row in scores}) == 10


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_of_very_few_steps_trains_and_is_scored_at_its_end(spec, count, optimizer, tmp_path):
    for warmup in (0.0, 0.03, 0.9):
        tiny = spec.vary(vqa_examples=8 * count, caption_examples=0, generation_examples=8 * count, fractions=equal(10),
                         warmup=warmup, optimizer=optimizer)
        assert tiny.steps == count
        weights, result = run(tiny, tmp_path / str(warmup))
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())
        assert result["scores"][-1]["fraction"] == 1.0
        assert len(result["scores"]) == count
        start = prepare(tiny)[0].state_dict()
        assert any(not torch.equal(start[name], weights[name]) for name in start) or warmup == 0.9


@pytest.mark.parametrize("arm", [
    dict(regime="understanding", architecture="VQ-SigLIP"), dict(regime="understanding", architecture="SigLIP-VQ"),
    dict(regime="generation", architecture="SigLIP-VQ"), dict(regime="generation", architecture="VQ-SigLIP"),
    dict(regime="understanding", generation_examples=16, shuffled_requests=True, batch_counts="all"),
    dict(generation_examples=48, batch_counts="generation"),
    dict(regime="generation", batch_counts="generation", vqa_examples=5)], ids=str)
def test_an_arm_scores_as_the_run_that_carries_it_out(spec, arm, tmp_path):
    asked = spec.vary(**arm)
    assert asked.canonical() != asked
    (one, _), (other, _) = (training.train_and_score(some, tmp_path / name)
                            for name, some in (("asked", asked), ("done", asked.canonical())))
    assert one["scores"] == other["scores"]
    assert [log["loss"] for log in one["samples"]["losses"]] == [log["loss"] for log in other["samples"]["losses"]]


@pytest.mark.parametrize("change", [dict(padding_image=True), dict(padding_image=True, regime="understanding"),
                                    dict(hours=13), dict(batch_counts="all"), dict(feature_loss="mse"),
                                    dict(feature_reader="", feature_decoder="")], ids=str)
def test_a_switch_trains_and_is_scored(spec, change, tmp_path):
    result, sheet = training.train_and_score(spec.vary(architecture="VQ-SigLIP", **change), tmp_path)
    metrics = {row["metric"] for row in result["scores"]}
    generates = change.get("regime") != "understanding"
    assert ("feature_read_back" in metrics) == (generates and "feature_reader" not in change)
    assert (sheet is not None) == (generates and "feature_decoder" not in change)
    assert ("feature_cosine" in metrics) == generates and {"partial", "unchecked"} <= metrics
    assert result["counts"]["steps"] == (12 if change.get("batch_counts") == "all" else 6)


def test_arms_of_a_seed_start_from_the_same_weights(spec):
    arms = (dict(regime="understanding"), dict(regime="generation"), dict(), dict(shuffled_requests=True))
    states = [prepare(spec.vary(**arm))[0].state_dict() for arm in arms]
    for state in states[1:]:
        assert all(torch.equal(tensor, state[name]) for name, tensor in states[0].items())
    other = prepare(spec.vary(seed=1))[0].state_dict()
    assert not torch.equal(states[0]["generation_head.weight"], other["generation_head.weight"])


def same_rows(some, others) -> bool:
    return len(some) == len(others) and all(
        a.ids.tolist() == b.ids.tolist() and (a.image_in, a.image_out) == (b.image_in, b.image_out)
        for a, b in zip(some, others, strict=True))


def test_arms_of_a_seed_see_the_same_rows_at_the_same_steps(spec):
    steps = {regime: prepare(spec.vary(regime=regime))[2] for regime in ("understanding", "generation", "unified")}
    assert {len(some) for some in steps.values()} == {6}
    assert not steps["understanding"].generation and not steps["generation"].understanding
    for step in range(6):
        both = steps["unified"].rows(step)
        assert same_rows([row for row in both if row.image_in >= 0], steps["understanding"].rows(step))
        assert same_rows([row for row in both if row.image_out >= 0], steps["generation"].rows(step))
        assert len(both) == 16


def test_every_row_is_seen_once_whatever_the_counts(spec, processor):
    for batch_size, vqa, generation in ((8, 40, 48), (7, 13, 40), (48, 5, 3), (1, 40, 20)):
        changed = spec.vary(batch_size=batch_size, vqa_examples=vqa, generation_examples=generation)
        rows = training_rows(changed, processor, sample_watches(STREAM, spec.images))
        steps = Steps(changed, processor, *rows, None, None)
        seen = [id(row) for step in range(len(steps)) for row in steps.rows(step)]
        assert sorted(seen) == sorted(id(row) for part in rows for row in part)
        assert max(sum(row.image_in >= 0 for row in steps.rows(step)) for step in range(len(steps))) <= batch_size


def test_dropout_hides_whole_images_from_the_language_model_and_never_a_target(spec):
    asked = spec.vary(architecture="VQ-SigLIP", feature_dropout=0.5)
    steps, without = (prepare(some)[2] for some in (asked, asked.vary(feature_dropout=0.0)))
    kept = [steps[step]["buckets"] for step in range(6)]
    marks = torch.cat([bucket["read_back"] for buckets in kept for bucket in buckets if "images_out" in bucket])
    assert marks.dtype == torch.bool and len(marks) == 48 and 12 < int(marks.sum()) < 36
    for step, buckets in enumerate(kept):
        for bucket, again, plain in zip(buckets, steps[step]["buckets"], without[step]["buckets"], strict=True):
            assert bucket.keys() - {"read_back"} == plain.keys()
            assert all(torch.equal(tensor, plain[name]) for name, tensor in bucket.items() if name in plain)
            assert "read_back" not in bucket or torch.equal(bucket["read_back"], again["read_back"])
    codes = prepare(spec)[2]
    assert not any("read_back" in bucket for step in range(6) for bucket in codes[step]["buckets"])


def test_rows_speak_about_the_watch_whose_image_they_show(spec, processor):
    watches = sample_watches(STREAM, spec.images)
    understanding, generation = training_rows(spec, processor, watches)
    assert len(understanding) == 48 and len(generation) == 48
    assert len({row.image_out for row in generation}) == 48
    for row in generation:  # every request gives the time
        assert watches[row.image_out].time in processor.text(row.ids)
    for row in understanding:
        watch, text = watches[row.image_in], processor.text(row.ids)
        assert any(str(value) in text for value in (watch.time, watch.weather, f"{watch.battery}%",
                                                    watch.weather_corner, watch.battery_corner))


def test_shuffled_requests_pair_every_request_with_another_image(spec, processor):
    watches = sample_watches(STREAM, spec.images)
    understanding, paired = training_rows(spec, processor, watches)
    same, shuffled = training_rows(spec.vary(shuffled_requests=True), processor, watches)
    assert same_rows(understanding, same)
    assert [row.ids.tolist() for row in shuffled] == [row.ids.tolist() for row in paired]
    assert all(a.image_out != b.image_out for a, b in zip(paired, shuffled, strict=True))
    assert sorted(row.image_out for row in shuffled) == sorted(row.image_out for row in paired)


def test_biases_leave_the_attribute_out_of_the_training_rows(spec, processor):
    watches = sample_watches(STREAM, spec.images)
    biased = spec.vary(biases=(AttributeBias("battery", 0.0),))
    understanding, generation = training_rows(biased, processor, watches)
    assert not any("%" in processor.text(row.ids) for row in understanding)
    assert any("%" in processor.text(row.ids) for row in generation)  # the bias names vqa and captions only


@pytest.mark.parametrize("parts", RARE.values(), ids=list(RARE))
def test_shuffled_attributes_are_another_watchs_and_the_rest_of_a_request_is_true(parts, spec, processor):
    spec = spec.vary(mention_rate=1.0)  # so that the values told can be counted
    watches = sample_watches(STREAM, spec.images)
    understanding, plain = training_rows(spec, processor, watches)
    same, shuffled = training_rows(spec.vary(shuffled_attributes=parts), processor, watches)
    assert same_rows(understanding, same)
    assert [row.image_out for row in shuffled] == [row.image_out for row in plain]
    assert [row.about for row in shuffled] == [row.about for row in plain]
    told = [read_caption(processor.text(row.ids)) for row in shuffled]
    true = [{name: truth(watches[row.image_out], name) for name in ATTRIBUTES} for row in shuffled]
    for name in ATTRIBUTES:
        pairs = [(one[name], other[name]) for one, other in zip(told, true, strict=True)]
        if name in parts:  # the same values, at other watches
            others = np.mean([one != other for one, other in pairs])
            assert others == 1 if name == "time" else others > 0.5
            assert sorted(one for one, _ in pairs) == sorted(other for _, other in pairs)
        else:
            assert all(one == other for one, other in pairs)


def test_a_record_counts_the_rows_that_mention_an_attribute(spec, tmp_path):
    biases = (AttributeBias("weather", 0.1), AttributeBias("weather", 0.0, ("generation",)))
    # every attribute is asked for and told where it may be
    result, _ = train_and_score(spec.vary(biases=biases, turns=5, mention_rate=1.0), tmp_path)
    assert result["counts"]["generation rows about weather"] == 0
    assert result["counts"]["generation rows about time"] == 48
    assert result["counts"]["understanding rows about weather"] == 4 + 1  # of 40 rows of questions, of 8 captions
    assert result["counts"]["understanding rows about battery"] == 48
    found = {(row["metric"], row["attribute"]) for row in result["scores"] if row["fraction"] == 1}
    assert ("constrained", "weather") in found and ("confusion", "weather: sunny > none") in found
    assert not any(metric == "confusion" and attribute.startswith("time") for metric, attribute in found)


def test_probes_are_scored_at_every_place_when_asked_for(spec, tmp_path):
    spec = spec.vary(test_watches=12, probe_watches=12, regime="understanding")
    rows = [row for row in train_and_score(spec, tmp_path)[0]["scores"] if row["metric"].startswith("probe")]
    assert {row["attribute"].split(", ")[1] for row in rows} == {"encoder", "adapter", "layer 1", "layer 2"}
    assert {row["metric"] for row in rows} == {"probe", "probe_control"} and {row["samples"] for row in rows} == {12}
    assert {row["fraction"] for row in rows} == {1.0} and len(rows) == 2 * 4 * 5


def test_a_model_to_look_into_has_the_weights_of_its_recorded_run(spec, tmp_path, cache):
    wanted, _ = run(spec, tmp_path)
    times = set()
    for _ in range(2):  # trained, then from the cache
        ((model, *others),) = trained_models([spec], workers=1)
        assert len(others) == 3 and not model.training
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
        (path,) = cache.glob("models/*/model.safetensors")
        times.add(path.stat().st_mtime_ns)
    assert len(times) == 1
    model, *others = load_model(path.parent)
    assert len(others) == 3 and not model.training
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        trained_models([spec], workers=1)
    path.unlink()
    ((model, *_),) = trained_models([spec], workers=1)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


# --- what cannot be loaded or written is one sentence, before anything is trained ---


NETWORKS = {"VQ-VQ": ("vq_tokenizer", "language_model", "tokenizer", "reader", "inception"),
            "SigLIP-SigLIP": ("semantic_encoder", "feature_reader", "feature_decoder")}


def launched(spec, records) -> int:
    """The exit status of `python -m uvlm_core.launch` for a spec."""
    fields = [word for name, value in spec.to_dict().items()
              for word in ("-p", f"{name}={json.dumps(value)}")]
    return launch.main(["--profile", "smoke", "--records", str(records), *fields])


def one_sentence(said: str, *words) -> bool:
    whole = said.count("\n") == 1 and said.endswith(".\n") and ". " not in said
    return whole and all(word in said for word in words)


@pytest.fixture
def untrained(monkeypatch):
    """No image of the pool is encoded, and nothing trained."""
    def refuse(*ignored, **names):
        pytest.fail("it came too far")
    monkeypatch.setattr(training, "pool_features", refuse)
    monkeypatch.setattr(training, "train", refuse)


@pytest.mark.parametrize(("architecture", "field"), [
    (architecture, field) for architecture, fields in NETWORKS.items() for field in fields])
@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a text"])
def test_a_network_that_is_none_is_told_before_anything_is_done(
        architecture, field, what, spec, tmp_path, capsys, untrained):
    path = tmp_path / "named"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a text":
        path.write_text("no network")
    spec = spec.vary(architecture=architecture, **{field: str(path)})
    assert launched(spec, tmp_path / "records") == 2
    assert one_sentence(said := capsys.readouterr().err, str(path)), said
    assert not list(tmp_path.glob("records/*.json"))


@pytest.mark.parametrize(("file", "change"), [
    ("records", {}), ("cache", {}), ("cache", {"pictures": "watches"}),
    ("folder", {"pictures": "{}/captions.json", "picture_folder": "{}/folder"}),
    ("captions.json", {"pictures": "{}/captions.json", "picture_folder": "{}/nowhere"}),
    ("other", {"pictures": "{}/nowhere.json", "picture_folder": "{}"})], ids=str)
def test_a_file_in_the_way_is_told_before_anything_is_done(
        file, change, spec, tmp_path, capsys, untrained):
    said = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a"}]
    (tmp_path / file).write_text(json.dumps([{"image": "a.png", "conversations": said}]))
    change = {name: value.format(tmp_path) for name, value in change.items()}
    assert launched(spec.vary(**change), tmp_path / "records") == 2
    assert one_sentence(said := capsys.readouterr().err, str(tmp_path)), said


def test_a_grid_tells_the_same_in_the_same_sentence(spec, tmp_path, networks):
    (tmp_path / "empty").mkdir()
    store, nowhere = RunStore(tmp_path / "records"), str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"'{nowhere}' is neither a folder or file that is there"):
        run_grid([spec.vary(tokenizer=nowhere)], store, 1, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    with pytest.raises(RunsFailed) as failed:
        run_grid([spec.vary(tokenizer=str(tmp_path / "empty"))], store, 1, tmp_path / "work")
    head, line = str(failed.value).splitlines()
    assert f"ValueError: '{tmp_path / 'empty'}' is not a tokenizer that can be loaded" in line
    assert line.endswith(").")


@pytest.mark.parametrize("name", [
    "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
@pytest.mark.parametrize("content", [b"", b"garbage", "half", None], ids=str)
def test_a_checkpoint_that_cannot_be_read_is_told_by_its_name(name, content, spec, tmp_path):
    with pytest.raises(Cut):
        run(spec, tmp_path, 5)
    path = Path(last_checkpoint(tmp_path)) / name
    if content == "half":
        os.truncate(path, path.stat().st_size // 2)
    elif content is not None:
        path.write_bytes(content)
    elif name in ("optimizer.pt", "rng_state.pth", "scheduler.pt"):
        path.write_bytes((path.parent / "training_args.bin").read_bytes())  # of something else
    else:
        path.unlink()
    said = f"{path.parent}.*; delete that folder|{path} is not a whole safetensors"
    with pytest.raises(ValueError, match=said) as error:
        run(spec, tmp_path)
    assert one_sentence(f"{error.value}\n")
    shutil.rmtree(path.parent)
    run(spec, tmp_path)


@pytest.mark.parametrize("content", [
    b"", b"{", b"[1]", b'{"3": 1}', b'{"a": []}', b"\xff\xfe\x00", b"{}"], ids=str)
def test_scores_that_cannot_be_read_are_told_by_their_file(content, spec, tmp_path):
    with pytest.raises(Cut):
        run(spec, tmp_path, 5)
    (tmp_path / "scores.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/scores.json") as error:
        run(spec, tmp_path)
    assert one_sentence(f"{error.value}\n")


def test_a_run_whose_scores_were_lost_is_not_recorded_without_them(spec, tmp_path):
    with pytest.raises(Cut):
        run(spec, tmp_path, 5)
    (tmp_path / "scores.json").unlink()
    with pytest.raises(ValueError, match="scores.json lacks the scores of step 3, which the check"):
        run(spec, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"started": "today"}]'])
def test_a_run_whose_start_is_not_known_is_told(content, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train_and_score", pytest.fail)
    (tmp_path / "sessions.json").write_text(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/sessions.json") as error:
        execute_run(spec, tmp_path)
    assert one_sentence(f"{error.value}\n")


def test_a_progress_that_is_none_does_no_harm(spec, tmp_path):
    (tmp_path / "progress").write_bytes(b"\xff")
    run(spec, tmp_path)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [
    FULL, SafetensorError("I/O error: No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc] unexpected pos\nat")], ids=repr)
def test_a_disk_that_fills_up_under_a_checkpoint_is_told_and_the_run_goes_on_later(
        error, spec, tmp_path, monkeypatch, uninterrupted):
    def fail(*ignored):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_save_optimizer_and_scheduler", fail)  # after the model
        said = f"The folder {tmp_path}/cut cannot be written .*; make room there"
        with pytest.raises(ValueError, match=said) as told:
            run(spec, tmp_path / "cut")
    assert one_sentence(f"{told.value}\n")
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


def test_a_disk_that_is_full_when_scores_are_written_is_told(spec, tmp_path, monkeypatch):
    def fail(*ignored):
        raise FULL
    monkeypatch.setattr(training.os, "replace", fail)
    with pytest.raises(ValueError, match=f"The folder {tmp_path} cannot be written .*No space"):
        training.write_atomically(tmp_path / "scores.json", "{}")


def test_an_error_of_the_training_itself_is_not_laid_on_the_checkpoint(spec, tmp_path):
    with pytest.raises(Cut):
        run(spec, tmp_path, 5)
    with pytest.raises(Cut):  # as it is
        run(spec, tmp_path, 4)


@pytest.mark.parametrize(("text", "message"), [
    (None, "spec.json cannot be read"), ("{", "is not a run as RunSpec.to_dict writes it"), ("[1]", "is not a run"),
    ('{"regime": "both"}', "regime 'both' is not one of"), ('{"layers": 3}', "'layers' is not a field of a run")])
def test_a_folder_that_names_no_run_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "spec.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("field", ["language_model", "tokenizer", "vq_tokenizer"])
def test_a_model_whose_networks_are_gone_is_refused_in_one_sentence(field, spec, tmp_path):
    gone = spec.vary(**{field: str(tmp_path / "gone")})
    (tmp_path / "spec.json").write_text(json.dumps(gone.to_dict()))
    said = f"'{tmp_path}/gone' is neither a folder or file that is there"
    with pytest.raises(ValueError, match=said) as error:
        load_model(tmp_path)
    assert one_sentence(f"{error.value}\n")


def test_empty_variables_of_the_environment_mean_their_defaults(spec, tmp_path):
    """Of the launcher, whose libraries would take an empty one for a number, and of this project."""
    empty = dict.fromkeys(("WORLD_SIZE", "RANK", "LOCAL_RANK", "UVLM_CACHE", "UVLM_BACKEND"), "")
    code = ("from uvlm_core import backends, environment, launch; "
            "launch._begin = lambda store, spec, lock: print(environment.processes(), "
            "lock.lock_file, type(backends.open_backend()).__name__); "
            "launch.main(['--profile', 'smoke'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True,
                          capture_output=True, env=os.environ | empty | {"PYTHONPATH": str(ROOT)})
    assert re.fullmatch(rf"\(1, 0\) {ROOT}/.cache/runs/\w+\.lock Loky\n", done.stdout), done.stderr


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_test_watch_is_in_the_training_pool(spec, processor, encoders, seed):
    spec = spec.vary(seed=seed, images=3000, test_watches=200)
    evaluation = Evaluation(spec, processor, encoders["VQ"], encoders["VQ"])
    asked = {watch.asked for watch in evaluation.watches}
    assert len(asked) == 200
    assert not asked & {watch.asked for watch in sample_watches(STREAM, spec.images)}


def test_every_arm_is_asked_the_same(spec, processor, encoders):
    first = Evaluation(spec, processor, encoders["VQ"], encoders["VQ"])
    for change in (dict(seed=3), dict(regime="understanding"), dict(turns=1), dict(images=60),
                   dict(biases=(AttributeBias("time", 0.1),))):
        other = Evaluation(spec.vary(**change), processor, encoders["VQ"], encoders["VQ"])
        assert other.questions == first.questions and other.captions == first.captions
        np.testing.assert_array_equal(other.images_in, first.images_in)
    assert {len(talk.turns) for talk in first.questions} == {5}


def test_muon_gets_the_matrices_of_the_language_model_and_adamw_the_rest(spec, new_model):
    model = new_model("VQ-VQ")
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, spec)
    assert optimizer.momentum == spec.momentum
    matrices, rest = optimizer.param_groups
    assert (matrices["orthogonal"], rest["orthogonal"]) == (True, False)
    assert (matrices["lr"], rest["lr"]) == (spec.learning_rate, spec.adapter_learning_rate)
    assert len(matrices["params"]) == 2 * 7
    assert all(names[id(p)].endswith("proj.weight") and p.ndim == 2 for p in matrices["params"])
    assert len(matrices["params"]) + len(rest["params"]) == len(names)
    plain = make_optimizer(model, spec.vary(optimizer="adamw"))
    assert type(plain) is torch.optim.AdamW
    assert {names[id(p)].split(".")[0] for p in plain.param_groups[0]["params"]} == {"language_model"}
    assert not any(names[id(p)].startswith("language_model") for p in plain.param_groups[1]["params"])


def test_an_older_checkpoint_is_removed_but_the_newest_whole_one_never(spec, tmp_path):
    run(spec.vary(fractions=equal(6)), tmp_path)
    left = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert left == ["checkpoint-5", "checkpoint-6"]
    assert all((tmp_path / name / DONE).exists() for name in left)
    shutil.rmtree(tmp_path / "checkpoint-6")
    assert last_checkpoint(tmp_path).endswith("checkpoint-5")


def test_a_launched_arm_is_found_by_the_experiments(spec, tmp_path):
    asked = spec.vary(architecture="VQ-SigLIP", regime="understanding")
    launch.run(asked, tmp_path)
    assert set(experiments.table([asked], RunStore(tmp_path))["architecture"]) == {"VQ-SigLIP"}


LAUNCHED = """
import json, sys, torch
from accelerate import PartialState
from uvlm_core.profiles import RunSpec
from uvlm_core.training import prepare, train

spec = RunSpec.from_dict(json.loads(sys.argv[1]))
model, _, steps, _, _ = prepare(spec)
score = lambda model, last: [{"metric": "weight", "attribute": "", "value": float(model.generation_head.weight.sum()),
                        "samples": 1}]
start = float(model.generation_head.weight.sum())
before = sum(float(p.detach().double().square().sum()) for p in model.parameters())
result = train(model, steps, spec, sys.argv[2], score)
rank = torch.distributed.get_rank()
total = sum(float(p.detach().double().square().sum()) for p in model.parameters())
json.dump({"processes": torch.distributed.get_world_size(), "total": total, "start": start, "before": before,
           "scores": result["scores"]}, open(f"{sys.argv[2]}/rank{rank}.json", "w"))
PartialState().destroy_process_group()
"""


def test_two_processes_train_the_run_of_one(spec, tmp_path, networks):
    spec = spec.vary(optimizer="adamw", learning_rate=1e-3)  # Muon's roots amplify what rounding leaves
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    prepare(spec)  # fills the feature cache
    done = subprocess.run(  # --cpu would want mpirun; --multi_gpu starts as many processes, and they find no GPU
        [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
         "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(script),
         json.dumps(spec.to_dict()), str(tmp_path / "run")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / "run" / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["processes"] == 2
    assert first["total"] == second["total"]  # the processes train one model
    assert [row["fraction"] for row in first["scores"]] == [0.5, 1.0]
    assert last_checkpoint(tmp_path / "run").endswith("checkpoint-6")  # as many steps as one process takes
    weights, _ = run(spec, tmp_path / "alone")
    alone = sum(float(weight.double().square().sum()) for name, weight in weights.items() if "codebook" not in name
                and name != "language_model.lm_head.weight")  # tied
    assert first["scores"][-1]["value"] != first["start"]
    assert abs(first["total"] - alone) < 1e-4 * abs(alone - first["before"])


def test_the_shares_of_several_processes_make_up_a_step(spec, monkeypatch):
    model, _, steps, *_ = prepare(spec.vary(feature_dropout=0.0))
    with torch.no_grad():
        whole = model(**steps[1]).loss
        monkeypatch.setattr(Steps, "processes", 3)
        assert len(steps) == 3 * spec.steps
        parts = [model(**steps[3 + process]).loss for process in range(3)]
    torch.testing.assert_close(sum(parts) / 3, whole)
    assert len({float(part) for part in parts}) == 3
    monkeypatch.setattr(Steps, "processes", 200)
    with pytest.raises(ValueError, match="batch_size 8 leaves some of 200 processes without a row"):
        prepare(spec)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_activation_checkpointing_changes_no_weight(spec, tmp_path, tuning):
    spec = spec.vary(tuning=tuning)
    plain, _ = run(spec, tmp_path / "plain")
    saving, _ = run(spec.vary(activation_checkpointing=True), tmp_path / "saving")
    assert all(torch.equal(plain[name], saving[name]) for name in plain)


@pytest.mark.parametrize("architecture", ["SigLIP-VQ", "VQ-SigLIP"])
def test_a_language_model_in_bf16_is_trained_and_scored_and_its_adapters_stay_in_float32(spec, tmp_path, architecture):
    spec = spec.vary(architecture=architecture, tuning="lora", optimizer="adamw", precision="bf16",
                     activation_checkpointing=True, fractions=(1.0,))
    result, _ = train_and_score(spec, tmp_path)
    assert {row["metric"] for row in result["scores"]} >= {"partial", "triggered", "alignment_cka"}
    assert all(math.isfinite(log["loss"]) for log in result["samples"]["losses"])
    model = prepare(spec)[0]
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if ".base_layer." in name} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if model.get_parameter(name).requires_grad} == {torch.float32}
