"""Training: one spec, one result, whatever happens on the way; arms that differ in their regime
alone."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

from uvlm_core.models.heads import FLOW_DRAWS
from uvlm_core.runs.trained import trained_models
from uvlm_core.training import loop as training
from uvlm_core.training.loop import DONE, Steps, last_checkpoint, make_optimizer, prepare, train
from uvlm_core.training.networks import load_model, random_language_model

ROOT = Path(__file__).resolve().parents[2]


def equal(count: int) -> tuple[float, ...]:
    """Equal fractions of the data."""
    return tuple(k / count for k in range(1, count + 1))


class Cut(Exception):
    """What ends a training early here."""


def weigh(model, *_) -> list[dict]:
    """A score that any change of any weight changes."""
    total = sum(float(p.detach().double().square().sum()) for p in model.parameters())
    return [{"metric": "weight", "attribute": "", "value": total, "samples": 1}]


def run(spec, folder, cut_at: float = np.inf) -> tuple[dict, dict]:
    """Train from `folder` on: the weights at the end, and the result; `cut_at` a step it dies in
    its callback."""
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
    assert [log["loss"] for log in found[1]["losses"]] == [
        log["loss"] for log in wanted[1]["losses"]
    ]


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


@pytest.mark.parametrize("cut_at", [1, 2, 3, 4, 5, 6])
def test_a_run_cut_off_at_any_step_ends_as_if_it_had_not_been(
    spec, cut_at, tmp_path, uninterrupted
):
    spec = spec.vary(fractions=equal(3))
    with pytest.raises(Cut):
        run(spec, tmp_path / "cut", cut_at)
    newest = last_checkpoint(tmp_path / "cut")
    assert (newest and newest.rsplit("-")[-1]) == {
        1: None,
        2: None,
        3: "2",
        4: "2",
        5: "4",
        6: "4",
    }[cut_at]
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


def test_a_frozen_language_model_refuses_steps_of_text_alone(spec):
    few = {"vqa_examples": 2, "caption_examples": 0, "text_examples": 40}
    spec = spec.vary(regime="understanding", tuning="frozen", batch_counts="all", **few)
    with pytest.raises(ValueError, match="With tuning 'frozen' a step of text rows alone trains"):
        prepare(spec)
    prepare(spec.vary(tuning="full"))


@pytest.mark.parametrize(
    ("tuning", "optimizer"),
    [
        ("full", "adamw"),
        ("lora", "muon"),
        ("lora", "adamw"),
        ("frozen", "muon"),
        ("frozen", "adamw"),
    ],
)
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


@pytest.mark.parametrize("shared", [True, False], ids=["one adapter", "two adapters"])
def test_a_frozen_run_changes_adapters_and_head_and_no_bit_of_the_language_model(
    spec, shared, tmp_path
):
    spec = spec.vary(tuning="frozen", shared_adapter=shared, text_examples=12)
    before = prepare(spec)[0].state_dict()
    after, _ = run(spec, tmp_path)
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    # neither embeddings nor the row of the token that starts an image
    assert {name.split(".")[0] for name in changed} == {
        "understanding_adapter",
        "generation_head",
        *(() if shared else ("generation_adapter",)),
    }
    assert changed == {
        name for name in before if name.split(".")[0].endswith(("_adapter", "_head"))
    }


@pytest.mark.parametrize(
    ("tuning", "shared", "common"),
    [
        ("frozen", False, set()),
        ("frozen", True, {"understanding_adapter"}),
        ("full", False, {"language_model"}),
    ],
)
def test_tasks_meet_in_the_language_model_and_in_a_shared_adapter_only(
    spec, tuning, shared, common
):
    def taught(regime: str) -> set[str]:
        own = spec.vary(regime=regime, tuning=tuning, shared_adapter=shared)
        model, _, steps, *_ = prepare(own)
        model(**steps[0]).loss.backward()
        learning = (name for name, p in model.named_parameters() if p.grad is not None)
        return {name.split(".")[0] for name in learning}

    assert taught("understanding") & taught("generation") == common


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


def test_a_death_while_scoring_costs_the_steps_since_the_last_checkpoint_only(
    spec, tmp_path, uninterrupted
):
    spec = spec.vary(fractions=equal(3))
    model, _, steps, _, _ = prepare(spec)
    seen = []

    def score(model, *_):
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
        tiny = spec.vary(
            vqa_examples=8 * count,
            caption_examples=0,
            generation_examples=8 * count,
            fractions=equal(10),
            warmup=warmup,
            optimizer=optimizer,
        )
        assert tiny.steps == count
        weights, result = run(tiny, tmp_path / str(warmup))
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())
        assert result["scores"][-1]["fraction"] == 1.0
        assert len(result["scores"]) == count
        start = prepare(tiny)[0].state_dict()
        assert any(not torch.equal(start[name], weights[name]) for name in start) or warmup == 0.9


def test_arms_of_a_seed_start_from_the_same_weights(spec):
    arms = (
        dict(regime="understanding"),
        dict(regime="generation"),
        dict(),
        dict(shuffled_requests=True),
    )
    states = [prepare(spec.vary(**arm))[0].state_dict() for arm in arms]
    for state in states[1:]:
        assert all(torch.equal(tensor, state[name]) for name, tensor in states[0].items())
    other = prepare(spec.vary(seed=1))[0].state_dict()
    assert not torch.equal(states[0]["generation_head.weight"], other["generation_head.weight"])


def test_a_random_language_model_depends_on_the_seed_alone_and_leaves_all_else_as_it_is(spec):
    def start(**change):
        return prepare(spec.vary(**change))[0].state_dict()

    shipped, one = start(), start(random_language_model=True)
    again = start(random_language_model=True, regime="understanding")
    other = start(random_language_model=True, seed=1)
    assert one.keys() == shipped.keys()
    for name, weight in one.items():
        assert torch.equal(weight, again[name])
        if name.startswith("language_model."):
            assert weight.shape == shipped[name].shape and weight.dtype == shipped[name].dtype
            drawn = weight.ndim == 2  # norms are ones
            assert torch.equal(weight, shipped[name]) != drawn
            assert torch.equal(weight, other[name]) != drawn
        else:
            assert torch.equal(weight, shipped[name])


@pytest.mark.parametrize("kind", [LlamaConfig, OPTConfig])
def test_any_language_model_can_be_random_with_the_rows_that_were_added_to_it(kind):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    like = AutoModelForCausalLM.from_config(kind(vocab_size=20, **shape), dtype=torch.bfloat16)
    like.resize_token_embeddings(24, mean_resizing=False)
    before = torch.get_rng_state()
    found = random_language_model(like, 3)
    assert torch.equal(torch.get_rng_state(), before)  # nothing else draws other numbers
    assert type(found) is type(like) and not found.training and found.dtype == torch.bfloat16
    assert found.get_input_embeddings().weight.shape == (24, 16)
    assert found.get_output_embeddings().weight.shape == (24, 16)


def test_a_random_language_model_is_trained_resumed_saved_and_loaded_as_another(
    spec, tmp_path, uninterrupted
):
    spec = spec.vary(random_language_model=True, fractions=(1.0,)).canonical()
    wanted = uninterrupted(spec)
    with pytest.raises(Cut):
        run(spec.vary(fractions=(0.5, 1.0)), tmp_path / "cut", 5)
    assert last_checkpoint(tmp_path / "cut").endswith("checkpoint-3")
    resumed, _ = run(spec.vary(fractions=(0.5, 1.0)), tmp_path / "cut")
    ((saved, *_),) = trained_models([spec])
    loaded, *_ = load_model(next((tmp_path / "cache" / "models").glob("*/spec.json")).parent)
    start = prepare(spec)[0].state_dict()
    for name, weight in wanted[0].items():
        for state in (resumed, saved.state_dict(), loaded.state_dict()):
            assert torch.equal(state[name], weight), name
    moved = [name for name in start if not torch.equal(start[name], wanted[0][name])]
    assert any(name.startswith("language_model.") for name in moved)


def same_rows(some, others) -> bool:
    return len(some) == len(others) and all(
        a.ids.tolist() == b.ids.tolist() and (a.image_in, a.image_out) == (b.image_in, b.image_out)
        for a, b in zip(some, others, strict=True)
    )


def test_arms_of_a_seed_see_the_same_rows_at_the_same_steps(spec):
    steps = {
        regime: prepare(spec.vary(regime=regime))[2]
        for regime in ("understanding", "generation", "unified")
    }
    assert {len(some) for some in steps.values()} == {6}
    assert not steps["understanding"].generation and not steps["generation"].understanding
    for step in range(6):
        both = steps["unified"].rows(step)
        assert same_rows(
            [row for row in both if row.image_in >= 0], steps["understanding"].rows(step)
        )
        assert same_rows(
            [row for row in both if row.image_out >= 0], steps["generation"].rows(step)
        )
        assert len(both) == 16


def test_dropout_hides_whole_images_from_the_language_model_and_never_a_target(spec):
    asked = spec.vary(architecture="VQ-SigLIP", feature_dropout=0.5)
    steps, without = (prepare(some)[2] for some in (asked, asked.vary(feature_dropout=0.0)))
    kept = [steps[step]["buckets"] for step in range(6)]
    marks = torch.cat(
        [bucket["read_back"] for buckets in kept for bucket in buckets if "images_out" in bucket]
    )
    assert marks.dtype == torch.bool and len(marks) == 48 and 12 < int(marks.sum()) < 36
    for step, buckets in enumerate(kept):
        for bucket, again, plain in zip(
            buckets, steps[step]["buckets"], without[step]["buckets"], strict=True
        ):
            assert bucket.keys() - {"read_back"} == plain.keys()
            assert all(
                torch.equal(tensor, plain[name]) for name, tensor in bucket.items() if name in plain
            )
            assert "read_back" not in bucket or torch.equal(bucket["read_back"], again["read_back"])
    codes = prepare(spec)[2]
    assert not any("read_back" in bucket for step in range(6) for bucket in codes[step]["buckets"])


@pytest.mark.parametrize(("loss", "noises"), [("flow", FLOW_DRAWS), ("image_flow", 1)])
def test_every_image_of_a_step_has_its_own_noise_and_a_resumed_run_has_it_again(spec, loss, noises):
    steps = prepare(spec.vary(architecture="VQ-SigLIP", feature_loss=loss))[2]
    found = [
        torch.cat([bucket["noise"] for bucket in steps[step]["buckets"] if "noise" in bucket])
        for step in (0, 1, 0)
    ]
    assert found[0].shape[1:] == (16, noises, steps.images_out.shape[2] + 1)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    values = found[0].flatten()
    assert len(values.unique()) > 0.99 * len(values) and 0.95 < values.std() < 1.05
    codes = prepare(spec.vary(feature_loss=loss))[2]
    assert not any("noise" in bucket for bucket in codes[0]["buckets"])


# What cannot be read or written is one sentence


def one_sentence(said: str, *words) -> bool:
    return (
        said.count("\n") == 1
        and said.endswith(".\n")
        and ". " not in said
        and all(word in said for word in words)
    )


SPOILT = [
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
]


@pytest.fixture(scope="module")
def cut_once(spec, tmp_path_factory):
    """The folder of a run that died in step 5 of 6, made once."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setenv("UVLM_CACHE", str(folder / "cache"))
        run(spec, folder / "run", 5)
    return folder / "run"


@pytest.fixture
def cut(cut_once, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(cut_once, tmp_path / "cut")


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("content", [b"", b"garbage", "half", None], ids=str)
def test_a_checkpoint_that_cannot_be_read_is_told_by_its_name(name, content, spec, cut):
    path = Path(last_checkpoint(cut)) / name
    if content == "half":
        os.truncate(path, path.stat().st_size // 2)
    elif content is not None:
        path.write_bytes(content)
    elif name in ("optimizer.pt", "rng_state.pth", "scheduler.pt"):
        # whole, and of something else
        path.write_bytes((path.parent / "training_args.bin").read_bytes())
    else:
        path.unlink()
    with pytest.raises(
        ValueError, match=f"{path.parent}.*; delete that folder|{path} is not a whole saf"
    ) as error:
        run(spec, cut)
    assert one_sentence(f"{error.value}\n")


def test_a_run_whose_last_checkpoint_was_deleted_ends_as_if_it_had_not_been(
    spec, cut, uninterrupted
):
    shutil.rmtree(last_checkpoint(cut))
    assert_same(run(spec, cut), uninterrupted(spec))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"3": 1}', b'{"a": []}', b"\xff\xfe\x00", b"{}"], ids=str
)
def test_scores_that_cannot_be_read_are_told_by_their_file(content, spec, cut):
    (cut / "scores.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{cut}/scores.json") as error:
        run(spec, cut)
    assert one_sentence(f"{error.value}\n")


def test_a_run_whose_scores_were_lost_is_not_recorded_without_them(spec, cut):
    (cut / "scores.json").unlink()
    with pytest.raises(
        ValueError,
        match="scores.json lacks the scores of step 3, which the checkpoint .* has passed",
    ):
        run(spec, cut)


def test_a_progress_that_is_none_does_no_harm(spec, tmp_path):
    (tmp_path / "progress").write_bytes(b"\xff")
    run(spec, tmp_path)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        SafetensorError("I/O error: No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc] unexpected pos\nat"),
    ],
    ids=repr,
)
def test_a_disk_that_fills_up_under_a_checkpoint_is_told_and_the_run_goes_on_later(
    error, spec, tmp_path, monkeypatch, uninterrupted
):
    def fail(*ignored):
        raise error

    with monkeypatch.context() as patch:
        # the model is written by then
        patch.setattr(training.Trainer, "_save_optimizer_and_scheduler", fail)
        with pytest.raises(
            ValueError, match=f"The folder {tmp_path}/cut cannot be written .*; make room"
        ) as told:
            run(spec, tmp_path / "cut")
    assert one_sentence(f"{told.value}\n")
    assert_same(run(spec, tmp_path / "cut"), uninterrupted(spec))


def test_a_disk_that_is_full_when_scores_are_written_is_told(spec, tmp_path, monkeypatch):
    def fail(*ignored):
        raise FULL

    monkeypatch.setattr(training.os, "replace", fail)
    with pytest.raises(
        ValueError, match=f"The folder {tmp_path} cannot be written .*No space left"
    ):
        training.write_atomically(tmp_path / "scores.json", "{}")


def test_an_error_of_the_training_itself_is_not_laid_on_the_checkpoint(spec, tmp_path):
    with pytest.raises(Cut):
        run(spec, tmp_path, 5)
    with pytest.raises(Cut):  # as it is
        run(spec, tmp_path, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "spec.json cannot be read"),
        ("{", "is not the spec of a run"),
        ("[1]", "is not the spec of a run"),
        ('{"training": {"regime": "both"}}', "regime 'both' is not one of"),
        ('{"model": {"layers": 3}}', "'layers' is not a field of model"),
    ],
)
def test_a_folder_that_names_no_run_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "spec.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("field", ["language_model", "tokenizer", "vq_tokenizer"])
def test_a_model_whose_networks_are_gone_is_refused_in_one_sentence(field, spec, tmp_path):
    gone = spec.vary(**{field: str(tmp_path / "gone")})
    (tmp_path / "spec.json").write_text(json.dumps(gone.to_dict()))
    with pytest.raises(
        ValueError, match=f"'{tmp_path}/gone' is neither an existing folder or file"
    ) as error:
        load_model(tmp_path)
    assert one_sentence(f"{error.value}\n")


def test_muon_gets_the_matrices_of_the_language_model_and_adamw_the_rest(spec, new_model):
    model = new_model("VQ-VQ")
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, spec)
    assert optimizer.momentum == spec.training.momentum
    matrices, rest = optimizer.param_groups
    assert (matrices["orthogonal"], rest["orthogonal"]) == (True, False)
    assert (matrices["lr"], rest["lr"]) == (
        spec.training.learning_rate,
        spec.training.adapter_learning_rate,
    )
    assert len(matrices["params"]) == 2 * 7
    assert all(names[id(p)].endswith("proj.weight") and p.ndim == 2 for p in matrices["params"])
    assert len(matrices["params"]) + len(rest["params"]) == len(names)
    plain = make_optimizer(model, spec.vary(optimizer="adamw"))
    assert type(plain) is torch.optim.AdamW
    assert {names[id(p)].split(".")[0] for p in plain.param_groups[0]["params"]} == {
        "language_model"
    }
    assert not any(
        names[id(p)].startswith("language_model") for p in plain.param_groups[1]["params"]
    )


def test_an_older_checkpoint_is_removed_but_the_newest_whole_one_never(spec, tmp_path):
    run(spec.vary(fractions=equal(6)), tmp_path)
    left = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert left == ["checkpoint-5", "checkpoint-6"]
    assert all((tmp_path / name / DONE).exists() for name in left)
    shutil.rmtree(tmp_path / "checkpoint-6")
    assert last_checkpoint(tmp_path).endswith("checkpoint-5")


# --cpu would want mpirun; --multi_gpu starts as many processes, and they find no GPU
_WORDS = """-m accelerate.commands.launch --num_processes 2 --num_machines 1 --multi_gpu
--mixed_precision no --dynamo_backend no --main_process_port 0"""
LAUNCHER = [sys.executable, *_WORDS.split()]
LAUNCHED = """
import gc, json, sys, torch
from accelerate import PartialState
from uvlm_core.training.spec import RunSpec
from uvlm_core.training.loop import prepare, train

spec = RunSpec.from_dict(json.loads(sys.argv[1]))
model, _, steps, _, _ = prepare(spec)
score = lambda model, *_: [{"metric": "weight", "attribute": "",
                              "value": float(model.generation_head.weight.sum()),
                        "samples": 1}]
start = float(model.generation_head.weight.sum())
before = sum(float(p.detach().double().square().sum()) for p in model.parameters())
result = train(model, steps, spec, sys.argv[2], score)
rank = torch.distributed.get_rank()
total = sum(float(p.detach().double().square().sum()) for p in model.parameters())
json.dump({"processes": torch.distributed.get_world_size(),
           "total": total, "start": start, "before": before,
           "scores": result["scores"]}, open(f"{sys.argv[2]}/rank{rank}.json", "w"))
gc.collect()  # as `launch.py` does
PartialState().destroy_process_group()
"""


def test_two_processes_train_the_run_of_one(spec, tmp_path, networks):
    spec = spec.vary(
        optimizer="adamw", learning_rate=1e-3
    )  # Muon's roots amplify what rounding leaves
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    prepare(spec)  # fills the feature cache
    done = subprocess.run(
        [
            *LAUNCHER,
            str(script),
            json.dumps(spec.to_dict()),
            str(tmp_path / "run"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (
        json.loads((tmp_path / "run" / f"rank{rank}.json").read_text()) for rank in (0, 1)
    )
    assert first["processes"] == 2
    assert first["total"] == second["total"]  # the processes train one model
    assert [row["fraction"] for row in first["scores"]] == [0.5, 1.0]
    assert last_checkpoint(tmp_path / "run").endswith(
        "checkpoint-6"
    )  # as many steps as one process takes
    weights, _ = run(spec, tmp_path / "alone")
    alone = sum(
        float(weight.double().square().sum())
        for name, weight in weights.items()
        if "codebook" not in name and name != "language_model.lm_head.weight"
    )  # tied
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
