"""A training whose numbers are not finite: one sentence, no record, and no checkpoint to go on
from."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from uvlm_core.runs import launch
from uvlm_core.runs.carry_out import execute_run
from uvlm_core.runs.grid import RunsFailed, run_grid
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.runs.trained import trained_models
from uvlm_core.training import loop as training
from uvlm_core.training.divergence import Guard, odd_weight
from uvlm_core.training.loop import Steps, last_checkpoint, prepare, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def guard():
    return Guard("The run", 40, {"learning_rate": 10.0, "adapter_learning_rate": 2e-3})


@pytest.mark.parametrize(
    ("loss", "norm", "fault"),
    [
        (math.nan, 1.0, "the loss is nan and the norm of its gradient 1"),
        (-math.inf, 1.0, "the loss is -inf and the norm of its gradient 1"),
        (1.5, math.nan, "the loss is 1.5 and the norm of its gradient nan"),
        (1.5, math.inf, "the loss is 1.5 and the norm of its gradient inf"),
        (1.5, -1.0, "the loss is 1.5 and the norm of its gradient -1"),
    ],
)  # DeepSpeed's way to say so
def test_a_step_that_is_not_finite_is_refused_with_its_place_and_the_rates(
    guard, loss, norm, fault
):
    guard.check_step(11, 2.0, 0.0)
    with pytest.raises(ValueError) as refused:
        guard.check_step(12, loss, norm)
    assert str(refused.value) == (
        f"The run diverged at step 12 of 40: {fault} (learning_rate 10, "
        f"adapter_learning_rate 0.002); try a lower rate."
    )


def test_the_rate_is_not_blamed_for_the_first_loss(guard):
    with pytest.raises(
        ValueError,
        match=r"at step 1 of 40: the loss is nan .*; no weight has "
        "changed yet, so look at",
    ):
        guard.check_step(1, math.nan, math.nan)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_not_finite_is_found_by_name(guard, value, kind):
    state = {
        "codes": torch.arange(3),
        "first": torch.ones(2, dtype=kind),
        "second": torch.ones(3, 4),
        "none": torch.ones(0),
    }
    guard.check_step(12, 2.5, 1.0)
    guard.check_weights(12, state)
    state["first"][1] = value
    assert odd_weight(state) == "first"
    with pytest.raises(
        ValueError,
        match=r"at step 12 of 40: the loss is 2.5 and the weight first "
        r"is not finite \(learning_rate 10, ",
    ):
        guard.check_weights(12, state)
    assert odd_weight({"codes": torch.arange(3)}) is None


def test_the_loss_after_the_last_step_counts(guard):
    guard.check_end(3.0)
    with pytest.raises(ValueError, match=r"at step 40 of 40: the loss is inf after it \(learning_"):
        guard.check_end(math.inf)


# Runs


class Cut(Exception):
    """What ends a training early here."""


def weigh(model, *_) -> list[dict]:
    total = sum(float(p.detach().double().square().sum()) for p in model.parameters())
    return [{"metric": "weight", "attribute": "", "value": total, "samples": 1}]


def run(spec, folder, cut_at: float = np.inf) -> dict:
    """Train from `folder` on; `cut_at` a step it dies in its callback. Returns the weights."""
    model, _, steps, *_ = prepare(spec)

    def report(fraction):
        if round(fraction * len(steps)) >= cut_at:
            raise Cut

    train(model, steps, spec, folder, weigh, report)
    return model.state_dict()


def diverging(spec, folder) -> str:
    """The sentence that ends a run; what it leaves in its folder is finite."""
    with pytest.raises(ValueError) as ended:
        run(spec, folder)
    for path in folder.glob("checkpoint-*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    assert str(ended.value).count(". ") == 0
    return str(ended.value)


def spoil_loss(monkeypatch, step: int, factor: float = math.nan, task: str = "image") -> None:
    """Let the loss of a task in step number `step` be multiplied."""
    plain = Steps.__getitem__
    monkeypatch.setattr(
        Steps,
        "__getitem__",
        lambda self, item: (
            plain(self, item) | ({f"{task}_share": factor} if item == step - 1 else {})
        ),
    )


def spoil_weights(monkeypatch, step: int, value: float, every: bool = False) -> None:
    """Let a weight, or every one that is not the language model's, be `value` after a step."""
    plain, taken = training.make_optimizer, []  # AdamW: of Muon's steps each one is two to a hook

    def make(model, spec):
        optimizer = plain(model, spec)
        taken.clear()  # a run that is carried out again begins again

        def after(*_):
            taken.append(1)
            if len(taken) == step:
                for parameter in optimizer.param_groups[1]["params"]:
                    parameter.data.view(-1)[: None if every else 1] = value

        optimizer.register_step_post_hook(after)
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", make)


CHANGES = [
    dict(),
    dict(optimizer="adamw"),
    dict(tuning="lora", optimizer="adamw"),
    dict(tuning="frozen"),
    dict(tuning="lora", optimizer="adamw", precision="bf16"),
    dict(architecture="SigLIP-SigLIP"),
    dict(regime="understanding"),
    dict(batch_size=48),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(spec, tmp_path, monkeypatch, change, factor):
    spec = spec.vary(learning_rate=10, adapter_learning_rate=10, **change)
    step = min(2, spec.steps)
    spoil_loss(
        monkeypatch, step, factor, "text" if spec.training.regime == "understanding" else "image"
    )
    assert re.fullmatch(
        rf"The run diverged at step {step} of {spec.steps}: the loss is {factor} "
        r"and the norm of its gradient (nan|inf) \(learning_rate 10, "
        r"adapter_learning_rate 10\); .*\.",
        diverging(spec, tmp_path),
    )
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize("cut_at", [2, 4])
def test_a_run_that_was_killed_before_it_diverged_ends_in_the_same_sentence(
    spec, tmp_path, monkeypatch, cut_at
):
    spec = spec.vary(fractions=[k / 6 for k in range(1, 7)])
    spoil_loss(monkeypatch, 5)
    sentence = diverging(spec, tmp_path / "through")
    assert sentence.startswith("The run diverged at step 5 of 6: the loss is nan and the norm of")
    assert diverging(spec, tmp_path / "through") == sentence
    with pytest.raises(Cut):
        run(spec, tmp_path / "cut", cut_at)
    assert diverging(spec, tmp_path / "cut") == sentence
    assert last_checkpoint(tmp_path / "cut").endswith("checkpoint-4")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_changes_no_weight(spec, tmp_path, optimizer, value):
    spec = spec.vary(optimizer=optimizer)
    model, _, steps, *_ = prepare(spec)
    before, seen = {}, []

    def harm(gradient):
        seen.append(1)
        if len(seen) == 3:
            before.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return torch.full_like(gradient, value)

    model.generation_head.weight.register_hook(harm)
    with pytest.raises(
        ValueError,
        match=rf"at step 3 of 6: the loss is \d\S* and the norm of its "
        rf"gradient {value} \(",
    ):
        train(model, steps, spec, tmp_path, weigh)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_weights_that_are_not_finite_are_neither_scored_nor_saved(
    spec, tmp_path, monkeypatch, value
):
    spoil_weights(monkeypatch, 3, value)  # in the step after which scores are due
    assert re.match(
        r"The run diverged at step 3 of 6: the loss is \d\S* and the weight \S+ is not "
        r"finite \(",
        diverging(spec.vary(optimizer="adamw"), tmp_path),
    )
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "scores.json").exists()


def test_a_last_step_after_which_no_loss_is_finite_is_no_end_of_a_run(spec, tmp_path, monkeypatch):
    spoil_weights(monkeypatch, 6, 3e38, every=True)
    assert re.match(
        r"The run diverged at step 6 of 6: the loss is (nan|inf) after it \(",
        diverging(spec.vary(optimizer="adamw"), tmp_path),
    )
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert json.loads((tmp_path / "scores.json").read_text()).keys() == {"3"}


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_checkpoint_with_weights_that_are_not_finite_is_not_gone_on_from(spec, tmp_path, tuning):
    spec = spec.vary(fractions=[1 / 3, 2 / 3, 1], tuning=tuning)
    with pytest.raises(Cut):
        run(spec, tmp_path / "cut", 5)
    (path,) = (tmp_path / "cut" / "checkpoint-4").glob("*.safetensors")
    state = load_file(path)
    state[max(state)].view(-1)[-1] = math.nan
    save_file(state, path, {"format": "pt"})
    assert last_checkpoint(tmp_path / "cut").endswith("checkpoint-2")
    found, wanted = run(spec, tmp_path / "cut"), run(spec, tmp_path / "through")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("metric", "allowed"), [("partial", False), ("caption_loss", False), ("alignment_cka", True)]
)
def test_of_scores_only_those_of_alignment_may_be_missing(spec, tmp_path, metric, allowed):
    model, _, steps, *_ = prepare(spec)

    def score(model, last, optimizer):
        return [
            {
                "metric": metric,
                "attribute": "time",
                "value": math.nan if last else 1.0,
                "samples": 1,
            }
        ]

    if allowed:
        assert math.isnan(train(model, steps, spec, tmp_path, score)["scores"][-1]["value"])
    else:
        with pytest.raises(
            ValueError,
            match=f"The score {metric} of time at step 6 of 6 is nan, so the run is not recorded.",
        ):
            train(model, steps, spec, tmp_path, score)


def test_processes_that_are_not_there_are_noticed_before_the_first_step(
    spec, tmp_path, monkeypatch
):
    monkeypatch.setattr(Steps, "processes", 2)
    model, _, steps, *_ = prepare(spec)
    with pytest.raises(
        ValueError,
        match="A run of 6 steps would take 12 with 1 processes of 1 GPUs each; give every",
    ):
        train(model, steps, spec, tmp_path, weigh)


# Records


def test_a_launched_run_that_diverges_is_a_sentence_and_no_record(
    spec, words, tmp_path, monkeypatch, capsys
):
    spoil_loss(monkeypatch, 2)
    for _ in range(2):
        assert launch.main([*words(spec), "--records", str(tmp_path / "records")]) == 2
        assert re.fullmatch(r"The run diverged at step 2 of 6: [^\n]*\n", capsys.readouterr().err)
    assert not list((tmp_path / "records").iterdir())


def execute_and_diverge(spec, folder):
    """A run that diverges if its seed is 1."""
    with pytest.MonkeyPatch.context() as patch:
        if spec.training.seed == 1:
            spoil_loss(patch, 2)
        return execute_run(spec, folder)


def test_a_grid_says_which_run_diverged_and_finishes_the_others(spec, tmp_path, here):
    bad, good = (spec.vary(seed=seed, regime="generation", fractions=(1.0,)) for seed in (1, 0))
    store = RunStore(tmp_path / "records")
    with pytest.raises(RunsFailed) as failed:
        run_grid([bad, good], store, 1, tmp_path / "work", execute_and_diverge)
    assert str(failed.value).startswith("1 of 2 runs failed; the others are finished and kept")
    assert re.search(
        rf"Run {record_key(bad)} \(architecture VQ-VQ, regime generation, seed 1\): "
        r"ValueError: The run diverged at step 2 of 6: .*; try a lower rate\.",
        str(failed.value),
    )
    assert store.load(bad) is None and store.load(good) is not None


def test_a_model_that_diverged_is_not_kept_to_look_into(spec, cache, monkeypatch):
    spoil_loss(monkeypatch, 2)
    with pytest.raises(ValueError, match="The run diverged at step 2 of 6"):
        trained_models([spec])
    assert not list(cache.glob("models/**/*.safetensors"))


LAUNCHED = """
import math, sys
from uvlm_core.runs import launch
from uvlm_core.training.loop import Steps

plain = Steps.__getitem__
spoilt = {"image_share": math.nan}
Steps.__getitem__ = lambda self, item: plain(self, item) | (spoilt if item == 3 else {})
sys.exit(launch.main(sys.argv[1:]))
"""


def test_of_two_processes_both_end_where_one_has_a_loss_that_is_not_finite(
    spec, words, tmp_path, two_processes
):
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    prepare(spec)  # fills the feature cache
    records = tmp_path / "records"
    both = two_processes(script, *words(spec), "--records", records)
    assert all(status != 0 for status, *_ in both)
    said = [
        re.findall(r"^The run diverged at step 2 of 6: the loss is nan .*$", one[2], re.M)
        for one in both
    ]
    assert len({*map(tuple, said)}) == 1 and len(said[0]) == 1, both
    assert not list((tmp_path / "records").iterdir())
