"""One run from its spec to the body of its record."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from stubs import Stub

from uvlm_core.data.conversations import AttributeBias
from uvlm_core.runs import carry_out
from uvlm_core.runs.carry_out import execute_run, train_and_score
from uvlm_core.runs.files import RecordError
from uvlm_core.runs.grid import run_grid
from uvlm_core.runs.store import RunStore
from uvlm_core.training.loop import prepare


@dataclass(frozen=True)
class Measurement(Stub):
    """A spec that trains nothing and carries itself out."""

    def run(self, folder):
        return {"tables": {"lengths": {"place": ["adapter"], "value": [self.seed + 0.5]}}}


def test_a_run_says_how_it_was_made(tmp_path):
    once = execute_run(Measurement(), tmp_path)[0]["provenance"]
    twice = execute_run(Measurement(), tmp_path)[0]["provenance"]
    assert set(once) == {
        "started",
        "resumed",
        "commit",
        "dirty",
        "device",
        "threads",
        "versions",
        "networks",
    }
    assert set(once["versions"]) == {"python", "torch", "transformers", "peft", "numpy"}
    assert once["resumed"] == [] and len(twice["resumed"]) == 1
    assert twice["started"] == once["started"]
    assert once["threads"] == 1


def test_a_measurement_becomes_a_record_like_any_other(tmp_path, here):
    store = RunStore(tmp_path / "records")
    (record,) = run_grid([Measurement(seed=3)], store, work_folder=tmp_path / "work")
    assert (
        record["tables"] == {"lengths": {"place": ["adapter"], "value": [3.5]}}
        and record["scores"] == []
    )
    assert record["provenance"]["device"]


@pytest.mark.parametrize("text", ["{", "3", '[{"started": 1}]'])
def test_garbled_notes_of_a_run_are_named(tmp_path, text):
    (tmp_path / "sessions.json").write_text(text)
    with pytest.raises(ValueError, match="sessions.json") as error:
        execute_run(Measurement(), tmp_path)
    assert isinstance(error.value, RecordError) or "is not JSON" in str(error.value)


def test_a_whole_run_twice_gives_the_same_record(spec, tmp_path):
    spec = spec.vary(shown_watches=5)
    (first, pictures), (second, again) = [train_and_score(spec, tmp_path / name) for name in "ab"]
    assert json.dumps(first["scores"]) == json.dumps(second["scores"])  # as text: NaN equals NaN
    assert first["counts"] == second["counts"] and first["samples"] == second["samples"]
    assert (pictures == again).all() and pictures.shape == (5, 64, 64, 3)
    assert {row["fraction"] for row in first["scores"]} == {0.0, 0.5, 1.0}
    # before training
    assert {row["metric"][:10] for row in first["scores"] if row["fraction"] == 0} == {"alignment_"}
    assert first["counts"]["steps"] == 6
    assert (first["counts"]["understanding rows"], first["counts"]["generation rows"]) == (48, 48)
    metrics = {row["metric"] for row in first["scores"]}
    assert {"partial", "exact", "triggered", "read_back", "reader_frechet"} <= metrics


@pytest.mark.parametrize(
    "arm",
    [
        dict(regime="understanding", architecture="VQ-SigLIP"),
        dict(regime="understanding", architecture="SigLIP-VQ"),
        dict(regime="generation", architecture="SigLIP-VQ"),
        dict(regime="generation", architecture="VQ-SigLIP"),
        dict(
            regime="understanding",
            generation_examples=16,
            shuffled_requests=True,
            batch_counts="all",
        ),
        dict(generation_examples=48, batch_counts="generation"),
        dict(regime="generation", batch_counts="generation", vqa_examples=5),
    ],
    ids=str,
)
def test_an_arm_scores_as_the_run_that_carries_it_out(spec, arm, tmp_path):
    asked = spec.vary(**arm)
    assert asked.canonical() != asked
    (one, _), (other, _) = (
        train_and_score(some, tmp_path / name)
        for name, some in (("asked", asked), ("done", asked.canonical()))
    )
    assert one["scores"] == other["scores"]
    assert one["samples"]["losses"] == other["samples"]["losses"]


@pytest.mark.parametrize(
    "change",
    [
        dict(padding_image=True),
        dict(padding_image=True, regime="understanding"),
        dict(hours=13),
        dict(batch_counts="all"),
        dict(feature_loss="mse"),
        dict(feature_reader="", feature_decoder=""),
    ],
    ids=str,
)
def test_a_switch_trains_and_is_scored(spec, change, tmp_path):
    spec = spec.vary(architecture="VQ-SigLIP", shown_watches=2, **change)
    result, pictures = train_and_score(spec, tmp_path)
    metrics = {row["metric"] for row in result["scores"]}
    generates = change.get("regime") != "understanding"
    assert ("feature_read_back" in metrics) == (generates and "feature_reader" not in change)
    assert (pictures is not None) == (generates and "feature_decoder" not in change)
    assert ("feature_cosine" in metrics) == generates and {"partial", "unchecked"} <= metrics
    assert result["counts"]["steps"] == (12 if change.get("batch_counts") == "all" else 6)


def test_a_record_counts_the_rows_that_mention_an_attribute(spec, tmp_path):
    biases = (AttributeBias("weather", 0.1), AttributeBias("weather", 0.0, ("generation",)))
    # every attribute is asked for and told where it may be
    result, _ = train_and_score(spec.vary(biases=biases, turns=5, mention_rate=1.0), tmp_path)
    assert result["counts"]["generation rows about weather"] == 0
    assert result["counts"]["generation rows about time"] == 48
    # of 40 rows of questions, of 8 captions
    assert result["counts"]["understanding rows about weather"] == 4 + 1
    assert result["counts"]["understanding rows about battery"] == 48
    found = {(row["metric"], row["attribute"]) for row in result["scores"] if row["fraction"] == 1}
    assert ("constrained", "weather") in found and ("confusion", "weather: sunny > none") in found
    assert not any(
        metric == "confusion" and attribute.startswith("time") for metric, attribute in found
    )


def test_probes_are_scored_at_every_place_when_asked_for(spec, tmp_path):
    spec = spec.vary(test_watches=12, probe_watches=12, regime="understanding")
    rows = [
        row
        for row in train_and_score(spec, tmp_path)[0]["scores"]
        if row["metric"].startswith("probe")
    ]
    assert {row["attribute"].split(", ")[1] for row in rows} == {
        "encoder",
        "adapter",
        "layer 1",
        "layer 2",
    }
    assert {row["metric"] for row in rows} == {"probe", "probe_control"} and {
        row["samples"] for row in rows
    } == {12}
    assert {row["fraction"] for row in rows} == {1.0} and len(rows) == 2 * 4 * 5


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"started": "today"}]'])
def test_a_run_whose_start_is_not_known_is_told(content, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(carry_out, "train_and_score", pytest.fail)
    (tmp_path / "sessions.json").write_text(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/sessions.json") as error:
        execute_run(spec, tmp_path)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("architecture", ["SigLIP-VQ", "VQ-SigLIP"])
def test_a_language_model_in_bf16_is_trained_and_scored_and_its_adapters_stay_in_float32(
    spec, tmp_path, architecture
):
    spec = spec.vary(
        architecture=architecture,
        tuning="lora",
        optimizer="adamw",
        precision="bf16",
        activation_checkpointing=True,
        fractions=(1.0,),
    )
    result, _ = train_and_score(spec, tmp_path)
    assert {row["metric"] for row in result["scores"]} >= {"partial", "triggered", "alignment_cka"}
    assert all(map(math.isfinite, result["samples"]["losses"]["loss"]))
    model = prepare(spec)[0]
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if ".base_layer." in name} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if model.get_parameter(name).requires_grad} == {
        torch.float32
    }
