"""Stages: which rows come when, the learning rate, and what a frozen stage leaves alone."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from uvlm_core.training.loop import LM_WEIGHTS, prepare, train
from uvlm_core.training.spec import REGIMES, RunSpec
from uvlm_core.training.stages import Stage, order_of_rows, rate_factor

repeatably = settings(max_examples=100, deadline=None, derandomize=True)
EPOCHS = st.sampled_from((0, 0.5, 1, 2.5))
STAGES = st.lists(
    st.tuples(EPOCHS, EPOCHS, EPOCHS, st.booleans()).filter(lambda each: any(each[:3])),
    max_size=3,
).map(lambda stages: tuple(Stage(*each) for each in stages))
GENERATION_FIRST = (Stage(generation=1, text=1), Stage(understanding=2))


# Order


@given(
    st.integers(1, 30),
    st.lists(st.integers(0, 70), min_size=1, max_size=4),
    st.integers(0, 9),
    st.sampled_from(("understanding", "generation", "text")),
)
@repeatably
def test_every_epoch_shows_each_row_once_whatever_the_stages(count, wanted, seed, kind):
    parts, passed = [], 0
    for rows in wanted:
        parts.append(order_of_rows(count, rows, passed, seed, kind))
        passed += rows
    assert [len(part) for part in parts] == wanted
    order = np.concatenate(parts)
    assert order.tolist() == order_of_rows(count, passed, 0, seed, kind).tolist()
    for start in range(0, passed - count + 1, count):
        assert sorted(order[start : start + count]) == list(range(count))
    assert order[:count].tolist() == list(range(count))[:passed]  # arms share the first epoch


def test_later_epochs_come_in_another_order_each_time():
    order = order_of_rows(20, 60, 0, seed=3, kind="text").reshape(3, 20).tolist()
    assert len({tuple(epoch) for epoch in order}) == 3
    assert order[1] != order_of_rows(20, 60, 0, seed=4, kind="text")[20:40].tolist()
    assert order_of_rows(0, 0, 0, 0, "text").tolist() == []


# Learning rate


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.03), (10, 0.03), (100, 0.03), (40, 0.5)])
def test_one_stage_has_the_learning_rate_of_transformers(steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rising = math.ceil(warmup * steps) if warmup * steps >= 1 else 0
    wanted = get_cosine_schedule_with_warmup(optimizer, rising, steps).lr_lambdas[0]
    assert [rate_factor(step, [steps], warmup) for step in range(steps + 1)] == [
        wanted(step) for step in range(steps + 1)
    ]


def test_each_stage_has_the_schedule_of_a_training_of_its_own():
    alone = [[rate_factor(step, [count], 0.1) for step in range(count)] for count in (20, 1, 30)]
    assert [rate_factor(step, [20, 1, 30], 0.1) for step in range(51)] == sum(alone, [])
    assert rate_factor(51, [20, 1, 30], 0.1) == 0.0  # after the last step


# Spec


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "A stage needs some epochs of understanding, generation, text; all of its are 0."),
        ({"generation": -1}, "stage generation -1 is not a number of epochs from 0 to 10,000."),
        ({"text": math.inf}, "stage text inf is not a number of epochs from 0 to 10,000."),
        ({"text": math.nan}, "stage text nan is not a number of epochs"),
        ({"text": True}, "stage text True is not a number of epochs"),
        ({"text": 1, "freeze": 1}, "stage freeze 1 is not True or False."),
    ],
)
def test_a_stage_that_is_none_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Stage(**fields)


@given(STAGES, st.sampled_from(REGIMES), st.sampled_from(("understanding", "generation", "all")))
@repeatably
def test_the_run_that_carries_stages_out_takes_the_same_rows_in_the_same_steps(
    stages, regime, counts
):
    data = dict(vqa_examples=40, caption_examples=8, generation_examples=30, text_examples=20)
    try:
        asked = RunSpec().vary(
            stages=stages, regime=regime, batch_counts=counts, batch_size=4, **data
        )
    except ValueError as error:
        assert "has no training rows" in str(error)
        return
    done = asked.canonical()
    assert done.canonical() == done == RunSpec.from_dict(done.to_dict())
    assert (done.steps, done.rows) == (asked.steps, asked.rows)
    assert [count for _, count in done.schedule()] == [count for _, count in asked.schedule()]


def test_one_epoch_of_all_rows_is_the_run_without_stages(spec):
    for regime in REGIMES:
        arm = spec.vary(regime=regime)
        assert arm.vary(stages=[Stage(1, 1)]).canonical() == arm.canonical()
        assert arm.vary(stages=[Stage(1, 1, 3)]).canonical() == arm.canonical()  # there is no text
    again = spec.vary(stages=[Stage(2, 1)])
    assert again.canonical() != spec.canonical()
    alone = again.vary(regime="generation", batch_counts="generation")
    assert alone.canonical() == alone.vary(stages=()).canonical()


def test_texts_are_about_watches_only(spec):
    with pytest.raises(ValueError, match="text_examples 5 are about watches only"):
        spec.vary(pictures="stamps", text_examples=5)


# Rows


def rows_of(spec) -> list[list]:
    """The rows of each step."""
    steps = prepare(spec)[2]
    return [steps.rows(step) for step in range(spec.steps)]


def test_a_stage_shows_its_rows_only_and_the_first_epoch_is_that_of_every_arm(spec):
    spec = spec.vary(text_examples=10, stages=GENERATION_FIRST)
    (_, first), (_, second) = spec.schedule()
    steps = rows_of(spec)
    shown = [row for rows in steps[:first] for row in rows]
    assert {row.image_in for row in shown} == {-1}
    assert sum(row.image_out >= 0 for row in shown) == spec.generation_rows
    later = [row for rows in steps[first:] for row in rows]
    assert len(steps) == first + second and len(later) == 2 * spec.understanding_rows
    assert all(row.image_out == -1 for row in later)
    plain = [row for rows in rows_of(spec.vary(stages=(), regime="understanding")) for row in rows]
    once = [row.ids.tolist() for row in plain if row.image_in >= 0]
    assert [row.ids.tolist() for row in later[: spec.understanding_rows]] == once
    again = [row.ids.tolist() for row in later[spec.understanding_rows :]]
    assert again != once and sorted(again) == sorted(once)


def test_text_rows_have_no_image_and_say_what_the_watch_shows(spec, processor):
    spec = spec.vary(text_examples=10, stages=[Stage(text=1)])
    rows = [row for rows in rows_of(spec) for row in rows]
    slots = {processor.image_in, processor.image_out, processor.generate}
    assert len(rows) == 10 and not any(slots & set(row.ids.tolist()) for row in rows)
    assert all(row.image_in == row.image_out == -1 for row in rows)
    buckets = prepare(spec)[2][0]["buckets"]
    assert not any({"images_in", "images_out"} & bucket.keys() for bucket in buckets)


# Training


def trained(spec, folder, cut_at: float = math.inf) -> dict:
    """The weights after training, which is cut off by an error in step `cut_at`."""
    model, _, steps, *_ = prepare(spec)

    class Cutting(type(steps)):
        def __getitem__(self, item):
            if item == cut_at:
                raise KeyboardInterrupt
            return super().__getitem__(item)

    steps.__class__ = Cutting
    train(model, steps, spec, folder, lambda *_: [])
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_a_training_cut_off_in_its_second_stage_ends_as_if_it_had_not_been(spec, tmp_path):
    spec = spec.vary(text_examples=10, stages=GENERATION_FIRST, fractions=(0.25, 0.5, 0.75, 1.0))
    whole = trained(spec, tmp_path / "whole")
    late = spec.steps - 2
    assert late > spec.schedule()[0][1]
    with pytest.raises(KeyboardInterrupt):
        trained(spec, tmp_path / "cut", late)
    again = trained(spec, tmp_path / "cut")
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_a_frozen_stage_trains_adapters_and_head_and_leaves_the_language_model(spec, tmp_path):
    frozen = spec.vary(stages=[Stage(generation=1, freeze=True)])
    before = {name: weight.clone() for name, weight in prepare(frozen)[0].state_dict().items()}
    after = trained(frozen, tmp_path / "frozen")
    for name, weight in after.items():
        if re.fullmatch(LM_WEIGHTS, name):
            assert torch.equal(weight, before[name]), name
    assert not torch.equal(after["generation_head.weight"], before["generation_head.weight"])
    free = trained(spec.vary(stages=[Stage(generation=1)]), tmp_path / "free")
    changed = [name for name in free if not torch.equal(free[name], before[name])]
    assert any(re.fullmatch(LM_WEIGHTS, name) for name in changed)
