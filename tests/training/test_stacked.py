"""Stacks of runs: each is trained and scored as if it were alone."""

import numpy as np
import pytest
import torch

from uvlm_core.data.conversations import AttributeBias
from uvlm_core.models.distortion import Distortion
from uvlm_core.models.stack import StackedVLM, stacked
from uvlm_core.runs.carry_out import execute_run, execute_stack
from uvlm_core.training import stacked as stacked_training
from uvlm_core.training.loop import prepare, train
from uvlm_core.training.stacked import CHECKPOINT, StackedSteps, stack_key, train_stack
from uvlm_core.training.stages import Stage

CHANGES = [
    {},
    {"optimizer": "adamw", "architecture": "SigLIP-SigLIP", "feature_dropout": 0.5},
    {
        "tuning": "frozen",
        "shared_adapter": False,
        "adapter_positions": True,
        "distortions": [Distortion("affine", 0.5, "generation")],
    },
    {
        "text_examples": 12,
        "batch_counts": "all",
        "stages": [Stage(0, 1, 1, True), Stage(1), Stage(0.5, 1, 1)],
    },
    {"architecture": "SigLIP-VQ", "edit_requests": True},
    {"random_language_model": True},
    {"architecture": "VQ-SigLIP", "feature_loss": "flow", "feature_dropout": 0.5},
    {"architecture": "VQ-Latent", "feature_dropout": 0.5},
    {"architecture": "VQ-Latent", "feature_loss": "image_flow"},
]


class Cut(Exception):
    """What ends a training early here."""


def seeds(spec, **change) -> list:
    """Two runs that differ in what runs of a stack may differ in."""
    return [
        spec.vary(seed=seed, image_loss_weight=0.2 + seed, shuffled_requests=bool(seed), **change)
        for seed in (0, 1)
    ]


def stack_of(specs) -> tuple[StackedVLM, StackedSteps]:
    prepared = [prepare(spec) for spec in specs]
    return (
        StackedVLM([model for model, *_ in prepared]),
        StackedSteps([steps for _, _, steps, *_ in prepared]),
    )


def unscored(model, last) -> list[list[dict]]:
    return [[] for _ in range(model.copies)]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_stacked_runs_are_trained_as_if_each_were_alone(spec, change, tmp_path):
    specs = seeds(spec, **change)
    assert stack_key(specs[0]) == stack_key(specs[1])
    stack, steps = stack_of(specs)
    found = train_stack(stack, steps, tmp_path / "stack", unscored)
    for number, one in enumerate(specs):
        model, _, own, *_ = prepare(one)
        alone = train(model, own, one, tmp_path / str(number), lambda *_: [])
        assert [entry["step"] for entry in found[number]["losses"]] == [
            entry["step"] for entry in alone["losses"]
        ]
        losses, wanted = (
            np.array([entry["loss"] for entry in some["losses"]]) for some in (found[number], alone)
        )
        assert np.abs(losses - wanted).max() < 1e-4
        weights = {name: weight[number] for name, weight in stack.named_parameters()}
        assert weights.keys() == dict(model.named_parameters()).keys()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "VQ-VQ"},
        {"architecture": "SigLIP-SigLIP"},
        {"architecture": "VQ-SigLIP", "edit_requests": True},
        {"architecture": "VQ-Latent", "feature_loss": "image_flow"},
    ],
    ids=str,
)
def test_stacked_runs_have_the_records_of_runs_alone(spec, change, tmp_path):
    biases = [AttributeBias("weather", 0.5, ("vqa",))]
    specs = seeds(spec, biases=biases, test_watches=12, probe_watches=12, **change)
    specs = [one.vary(shown_watches=2).canonical() for one in specs]
    outcomes = execute_stack(specs, tmp_path / "stack", lambda done: None)
    for number, (body, pictures) in enumerate(outcomes):
        (tmp_path / str(number)).mkdir()
        wanted, drawn = execute_run(specs[number], tmp_path / str(number))
        names = ("fraction", "metric", "attribute", "samples")
        assert [[row[name] for name in names] for row in body["scores"]] == [
            [row[name] for name in names] for row in wanted["scores"]
        ]
        values, own = (
            np.array([row["value"] for row in some["scores"]], float) for some in (body, wanted)
        )
        np.testing.assert_allclose(values, own, atol=2e-3, rtol=5e-3)  # distances amplify
        assert body["counts"] == wanted["counts"]
        assert body["samples"].keys() == wanted["samples"].keys()
        assert body["samples"]["requests"] == wanted["samples"]["requests"]
        assert np.abs(pictures.astype(int) - drawn).mean() < 1
        assert body["provenance"].pop("stacked") == 2
        assert body["provenance"].keys() == wanted["provenance"].keys()


def test_a_stack_cut_off_after_a_checkpoint_ends_as_if_it_had_not_been(spec, tmp_path):
    specs = seeds(spec)
    whole, steps = stack_of(specs)
    wanted = train_stack(whole, steps, tmp_path / "whole", unscored)

    def report(done):
        if done > 0.7:  # scored and saved at .5
            raise Cut

    with pytest.raises(Cut):
        train_stack(*stack_of(specs), tmp_path / "cut", unscored, report)
    stack, steps = stack_of(specs)
    found = train_stack(stack, steps, tmp_path / "cut", unscored)
    for one, other in zip(stack.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [one["losses"] for one in found] == [one["losses"] for one in wanted]
    path = tmp_path / "cut" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"cannot go on from {path} .*; delete that file"):
        train_stack(*stack_of(specs), tmp_path / "cut", unscored)


def test_a_run_that_diverges_ends_alone(spec, tmp_path, monkeypatch):
    specs = seeds(spec)
    wanted, steps = stack_of(specs)
    train_stack(wanted, steps, tmp_path / "sound", unscored)
    stack, steps = stack_of(specs)
    plain = stacked_training.StackedSteps.__getitem__

    def spoil(self, step):
        if step == 2:
            with torch.no_grad():
                stack.generation_head.weight[1] = torch.nan
        return plain(self, step)

    monkeypatch.setattr(stacked_training.StackedSteps, "__getitem__", spoil)
    good, bad = train_stack(stack, steps, tmp_path / "spoilt", unscored)
    assert isinstance(good, dict) and np.isfinite([row["loss"] for row in good["losses"]]).all()
    assert str(bad).startswith("The run diverged at step 3 of 6: the loss is nan and the norm of")
    for name, weight in stack.named_parameters():
        assert torch.equal(weight[0], wanted.get_parameter(name)[0])


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-4},
        {"architecture": "SigLIP-VQ"},
        {"vqa_examples": 32},
        {"batch_size": 4},
        {"regime": "understanding"},
        {"test_watches": 7},
        {"random_language_model": True},
        {"distortions": [Distortion("rotation", 0.5, "generation")]},
        {"biases": [AttributeBias("weather", 0.5)]},
        {"stages": [Stage(1), Stage(0, 1)]},
    ],
    ids=str,
)
def test_runs_of_another_shape_or_setting_are_another_stack(spec, change):
    assert stack_key(spec.vary(**change)) not in (None, stack_key(spec))


@pytest.mark.parametrize(
    "change",
    [{"tuning": "lora"}, {"precision": "bf16"}, {"pictures": "watches"}, {"gradient_rows": 4}],
    ids=str,
)
def test_what_no_stack_can_train_is_left_alone(spec, change):
    assert stack_key(spec.vary(**change)) is None


def test_a_module_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Modules of the kind Conv2d cannot be stacked."):
        stacked([torch.nn.Conv2d(1, 1, 1)] * 2)


def test_a_stack_that_is_too_large_is_halved_until_it_fits(spec, tmp_path, monkeypatch):
    from uvlm_core.runs import carry_out

    tried = []

    def execute(specs, folder, report):
        tried.append((len(specs), folder.relative_to(tmp_path).as_posix()))
        if len(specs) > 1:
            raise torch.cuda.OutOfMemoryError
        report(1.0)
        return [specs[0].training.seed]

    monkeypatch.setattr(carry_out, "_execute_stack", execute)
    done = []
    specs = [spec.vary(seed=seed) for seed in range(3)]
    assert execute_stack(specs, tmp_path / "stack", done.append) == [0, 1, 2]
    assert tried == [
        (3, "stack"),
        (1, "stack/0"),
        (2, "stack/1"),
        (1, "stack/1/0"),
        (1, "stack/1/1"),
    ]
    assert done == [0.5, 0.75, 1.0]
