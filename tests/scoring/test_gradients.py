"""Gradients of the two tasks are autograd's, on rows as the run's; steps are undone."""

import copy
import json

import numpy as np
import pytest
import torch

from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches, split_of
from uvlm_core.runs.carry_out import train_and_score
from uvlm_core.scoring.gradients import (
    STEP_STREAM,
    TRIED_STEPS,
    TaskGradients,
    compare_gradients,
    gradient_of,
    part_of,
    steps_of_tasks,
    take_step,
    undone,
)
from uvlm_core.training import loop
from uvlm_core.training.loop import Steps, last_checkpoint, make_optimizer, prepare

NEW = ("gradient_cosine", "gradient_ratio", "loss_change")


@pytest.fixture
def measured(spec):
    """A run that measures gradients, as the study's: steps of rows of any kind."""
    return spec.vary(gradient_rows=4, batch_counts="all", image_loss_weight=0.2)


def of_kinds(spec, encoders) -> tuple:
    return tuple(encoders[kind] for kind in (spec.model.understanding, spec.model.generation))


def built(spec, processor, encoders) -> TaskGradients:
    return TaskGradients(spec, processor, *of_kinds(spec, encoders))


def backward(model, buckets, alpha: float) -> dict[str, torch.Tensor]:
    """The gradient of text loss + alpha x image loss, each by a backward pass of its own."""
    found = {}
    for weight in (0.0, 1.0):
        model.zero_grad()
        model.config.image_loss_weight = weight
        model(buckets=buckets).loss.backward()
        found[weight] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
    text, both = found[0.0], found[1.0]
    return {
        name: text[name] + alpha * (both[name] - text[name]) if name in text else alpha * both[name]
        for name in both
    }


@pytest.mark.parametrize("architecture", ["VQ-VQ", "SigLIP-VQ", "VQ-SigLIP"])
def test_gradients_are_those_of_the_two_losses_apart(measured, processor, encoders, architecture):
    spec = measured.vary(architecture=architecture, feature_loss_weight=0.2)
    model, *_ = prepare(spec)
    rows, found = built(spec, processor, encoders).held_out, {}
    for task in ("understanding", "generation"):
        found[task] = gradient_of(model, rows[task])
        assert all(p.grad is None for p in model.parameters())
    for task, gradient in found.items():
        wanted = backward(model, rows[task], 0.2)
        assert gradient.keys() == {name for name, one in wanted.items() if one.any()}
        for name, one in gradient.items():
            torch.testing.assert_close(one, wanted[name], rtol=1e-4, atol=1e-6)
    assert not any("generation_head" in name for name in found["understanding"])
    rows = compare_gradients(found["understanding"], found["generation"])
    parts = {row["attribute"] for row in rows}
    layers = {f"layer {n}, {kind}" for n in (1, 2) for kind in ("attention", "MLP")}
    # two spaces have two adapters
    assert parts == {"all", "embeddings"} | layers | (
        {"adapter"} if architecture == "VQ-VQ" else set()
    )
    one, other = (
        torch.cat(
            [
                found[task][name].flatten()
                for name in found["understanding"]
                if "layers.1.mlp" in name
            ]
        )
        for task in ("understanding", "generation")
    )
    values = {(row["metric"], row["attribute"]): row["value"] for row in rows}
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0)
    assert values["gradient_cosine", "layer 2, MLP"] == pytest.approx(float(cosine), abs=1e-5)
    ratio = float(other.norm() / one.norm())
    assert values["gradient_ratio", "layer 2, MLP"] == pytest.approx(ratio, rel=1e-4)


def test_two_tasks_of_the_same_rows_and_loss_agree_wholly(measured, processor, encoders):
    model, *_ = prepare(measured)
    rows = built(measured, processor, encoders).held_out["understanding"]
    for row in compare_gradients(gradient_of(model, rows), gradient_of(model, rows)):
        assert row["value"] == pytest.approx(1, abs=1e-12)
    opposed = {name: -2 * one for name, one in gradient_of(model, rows).items()}
    values = {
        (row["metric"], round(row["value"], 9))
        for row in compare_gradients(gradient_of(model, rows), opposed)
    }
    assert values == {("gradient_cosine", -1.0), ("gradient_ratio", 2.0)}


@pytest.mark.parametrize("prefix", ["", "base_model.model."])  # peft's
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("language_model.model.layers.0.self_attn.q_proj.weight", "layer 1, attention"),
        ("language_model.model.layers.10.mlp.up_proj.lora_A.default.weight", "layer 11, MLP"),
        ("language_model.model.layers.0.input_layernorm.weight", ""),
        ("language_model.model.embed_tokens.weight", "embeddings"),
        ("language_model.lm_head.token_adapter.trainable_tokens_delta.default", "embeddings"),
        ("understanding_adapter.project.weight", "adapter"),
        ("generation_adapter.row_positions", "adapter"),
        ("generation_head.weight", ""),
    ],
)
def test_a_parameter_belongs_to_a_part(prefix, name, part):
    assert part_of(prefix + name) == part


def same_steps(some: Steps, others: Steps) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for step in range(len(some))
        for a, b in zip(some[step]["buckets"], others[step]["buckets"], strict=True)
    )


def test_rows_are_made_as_the_runs_and_the_same_in_every_run(measured, processor, encoders):
    watches = sample_watches(TEST_STREAM, 8, "test")
    networks = processor, *of_kinds(measured, encoders)

    def rows(**change) -> dict[str, Steps]:
        return steps_of_tasks(measured.vary(**change), networks, watches, TEST_STREAM, 8)

    plain = rows()
    for change in ({"seed": 5}, {"generation_examples": 24}, {"text_examples": 8}):
        assert all(same_steps(steps, plain[task]) for task, steps in rows(**change).items())
    asked, drawn = plain["understanding"].rows(0), plain["generation"].rows(0)
    assert sorted(row.image_out for row in drawn) == list(range(8))
    assert all(row.image_in >= 0 > row.image_out for row in asked)
    assert all(row.image_out >= 0 > row.image_in for row in drawn)
    assert len(asked) == 8 and sum(len(row.about) == 1 for row in asked) < 8
    tables = encoders["VQ"].encode(render_batch(watches, 64))
    np.testing.assert_array_equal(plain["generation"].images_out, tables)
    shuffled = rows(shuffled_requests=True)
    assert same_steps(shuffled["understanding"], plain["understanding"])
    others = shuffled["generation"].rows(0)
    assert [row.ids.tolist() for row in others] == [row.ids.tolist() for row in drawn]
    images = [row.image_out for row in drawn]
    assert [row.image_out for row in others] == images[1:] + images[:1]
    edits = rows(edit_requests=True)["generation"].rows(0)
    assert all(row.image_in == row.image_out >= 0 for row in edits)


def test_losses_are_of_held_out_watches_and_steps_of_training_watches(
    measured, processor, encoders
):
    found = built(measured, processor, encoders)
    assert {task: len(steps) for task, steps in found.tried.items()} == {
        "understanding": TRIED_STEPS,
        "generation": TRIED_STEPS,
        "empty": 1,
    }
    for steps in (found.tried["understanding"], found.tried["generation"]):
        counts = {sum(len(bucket["input_ids"]) for bucket in buckets) for buckets in steps}
        assert counts == {measured.training.batch_size}
    assert {split_of(watch) for watch in sample_watches(STEP_STREAM, 32)} == {"train"}
    held_out = torch.cat([bucket["images_in"] for bucket in found.held_out["understanding"]])
    codes = encoders["VQ"].encode(render_batch(sample_watches(TEST_STREAM, 4, "test"), 64))
    assert sorted(held_out.tolist()) == sorted(codes.tolist())


def state_of(model, optimizer) -> list:
    """Weights, gradients, the optimiser's state and the random state."""
    return [
        *(weight.clone() for weight in model.state_dict().values()),
        *(one.grad for one in model.parameters()),
        copy.deepcopy(optimizer.state_dict()),
        torch.get_rng_state(),
    ]


def alike(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_step_that_is_undone_leaves_nothing(measured, processor, encoders, optimizer):
    spec = measured.vary(optimizer=optimizer)
    model, _, steps, *_ = prepare(spec)
    gradients, own = built(spec, processor, encoders), make_optimizer(model, spec)
    for number in range(3):  # from before the first step on, when there is no state yet
        before = state_of(model, own)
        for buckets in (*gradients.tried["generation"][:2], None):
            with undone(model, own):
                take_step(model, own, buckets)
                torch.rand(1)
                # without rows, momenta alone move the model, and there are none at first
                assert alike(before, state_of(model, own)) is False
        assert alike(before, state_of(model, own))
        rows = gradients(model, False, own)
        assert alike(before, state_of(model, own)) and {row["samples"] for row in rows} == {4}
        found = {row["attribute"]: row["value"] for row in rows if row["metric"] == "loss_change"}
        assert list(found) == [
            f"one {kind} step" for kind in ("understanding", "generation", "empty")
        ]
        assert found["one understanding step"] < min(0, found["one empty step"])
        assert (found["one empty step"] == 0) == (number == 0)
        assert not any(row["metric"] == "loss_change" for row in gradients(model, True, own))
        model.train()
        model(**steps[number]).loss.backward()
        own.step()
        own.zero_grad()


def test_a_step_moves_the_loss_by_what_is_said(measured, processor, encoders):
    model, _, steps, *_ = prepare(measured)
    gradients, own = built(measured, processor, encoders), make_optimizer(model, measured)
    (said,) = [
        row["value"]
        for row in gradients(model, False, own)
        if row["attribute"] == "one generation step"
    ]
    changes, start = [], copy.deepcopy(model.state_dict())
    for buckets in gradients.tried["generation"]:
        model.load_state_dict(start)
        fresh = make_optimizer(model, measured)
        held_out = gradients.held_out["understanding"]
        with torch.no_grad():
            before = float(model(buckets=held_out).loss)
        fresh.zero_grad()
        model(buckets=buckets).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        fresh.step()
        with torch.no_grad():
            changes.append(float(model(buckets=held_out).loss) - before)
    assert said == pytest.approx(np.mean(changes), abs=1e-5) and said != 0


# Whole runs


def test_a_run_that_measures_is_the_run_that_does_not(measured, tmp_path, monkeypatch):
    plain = measured.vary(gradient_rows=0)
    found, weights = {}, {}
    train = loop.train

    def keeping(model, *arguments):
        result = train(model, *arguments)
        weights[arguments[2].name] = {n: w.clone() for n, w in model.state_dict().items()}
        return result

    monkeypatch.setattr("uvlm_core.runs.carry_out.train", keeping)
    for spec, name in ((measured, "with"), (plain, "without")):
        found[name] = train_and_score(spec.canonical(), tmp_path / name)[0]
    assert alike(weights["with"], weights["without"])
    assert found["with"]["samples"] == found["without"]["samples"]  # the losses
    assert found["with"]["counts"] == found["without"]["counts"]
    # how alike the sides are is followed beside gradients
    scores = {
        name: [
            row
            for row in body["scores"]
            if row["metric"] not in NEW
            and not (row["metric"].startswith("alignment_") and row["fraction"] == 0.5)
        ]
        for name, body in found.items()
    }
    assert json.dumps(scores["with"]) == json.dumps(scores["without"])
    told = {(row["metric"], row["fraction"]) for row in found["with"]["scores"]}
    assert told >= {(name, 0.5) for name in (*NEW, "alignment_cka")}
    assert {fraction for metric, fraction in told if metric == "gradient_cosine"} == {0.5, 1.0}
    assert {fraction for metric, fraction in told if metric == "loss_change"} == {0.5}


class Cut(Exception):
    """What ends a training early here."""


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_run_that_measures_resumes_exactly(measured, tuning, tmp_path, monkeypatch):
    spec = measured.vary(tuning=tuning, fractions=(0.25, 0.5, 0.75, 1.0)).canonical()
    whole = train_and_score(spec, tmp_path / "whole")[0]

    def cutting(folder, fraction):
        if fraction > 0.6:
            raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr("uvlm_core.runs.carry_out.report_progress", cutting)
        train_and_score(spec, tmp_path / "cut")
    assert last_checkpoint(tmp_path / "cut")
    again = train_and_score(spec, tmp_path / "cut")[0]
    assert json.dumps(again["scores"]) == json.dumps(whole["scores"])
    assert again["samples"] == whole["samples"]
    parts = {r["attribute"] for r in whole["scores"] if r["metric"] == "gradient_cosine"}
    assert parts >= {"all", "adapter", "layer 1, attention", "layer 2, MLP"}


def test_several_processes_are_refused(measured, processor, encoders, monkeypatch):
    monkeypatch.setattr(Steps, "processes", 2)
    with pytest.raises(
        ValueError, match=r"^gradient_rows 4 are measured by one process, not by 2\.$"
    ):
        built(measured, processor, encoders)
