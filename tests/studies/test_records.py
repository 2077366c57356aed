"""`make records`: seeds come whole, every run once, and bad input is refused in one sentence."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from uvlm_core.studies import records
from uvlm_core.studies.base import Arm, Scale, find_study
from uvlm_core.training.profiles import profile
from uvlm_core.training.spec import RunSpec

BASE = profile("smoke")


def test_each_run_comes_once_and_with_the_first_seed_that_asks_for_it():
    asked = [find_study("mutual_benefit"), find_study("training_order")]
    grouped = dict(records.runs_by_seed(asked, BASE, seeds=2))
    assert list(grouped) == [0, 1]
    made = [spec for specs in grouped.values() for spec in specs]
    assert len(set(made)) == len(made)
    wanted = {
        arm.spec.canonical()
        for study in asked
        for arm in study.arms(BASE, replace(study.scale("smoke"), seeds=2))
    }
    assert set(made) == wanted
    seeds = {
        seed: {spec.training.seed for spec in specs if isinstance(spec, RunSpec)}
        for seed, specs in grouped.items()
    }
    assert seeds == {0: {0}, 1: {1}}


def test_missing_records_are_made_and_the_others_left(tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(records, "run_grid", lambda specs, store, workers: made.append(specs))
    words = ["--study=training_order", "--profile=smoke", "--seeds=2", f"--records={tmp_path}"]
    assert records.main(words) == 0
    assert [len(specs) for specs in made] == [6, 6]
    assert capsys.readouterr().out.splitlines()[0] == "seed 0: 6 runs, 6 without a record"


def test_runs_are_known_and_carried_out_without_what_only_figures_and_clusters_need():
    """Where records are made, as on a machine with a GPU, those packages may be missing."""
    code = """
import sys
for name in ("matplotlib", "seaborn", "umap", "papermill", "nbformat", "jupyterlab", "dask"):
    sys.modules[name] = None  # importing it fails
import uvlm_core.runs.carry_out, uvlm_core.training.stacked
from uvlm_core.studies import records, studies
from uvlm_core.training.profiles import profile
assert list(records.runs_by_seed(studies(), profile("smoke")))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_of_all_studies_whose_network_is_missing_are_left_out(tmp_path, capsys, monkeypatch):
    asked = {"here": [BASE.spec], "gone": [BASE.spec.vary(language_model="cache/no_such_model")]}
    found = [
        SimpleNamespace(
            scales={"smoke": Scale(1)},
            scale=lambda name: Scale(1),
            arms=lambda base, scale, specs=specs: [Arm(spec, {}) for spec in specs],
        )
        for specs in asked.values()
    ]
    made = []
    monkeypatch.setattr(records, "studies", lambda: found)
    monkeypatch.setattr(records, "run_grid", lambda specs, store, workers: made.extend(specs))
    assert records.main(["--profile=smoke", f"--records={tmp_path}"]) == 0
    assert made == [BASE.spec.canonical()]
    said = capsys.readouterr().out
    assert "1 run left out: 'cache/no_such_model' is not in the cache" in said
    assert "seed 0: 1 runs, 1 without a record" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--study=nothing"], "study 'nothing' is not one of data, frozen_networks"),
        (["--profile=nothing"], "profile 'nothing' is not one of smoke, laptop"),
        (["--seeds=0", "--study=training_order"], "seeds 0 is not an integer from 1 up."),
        (["--study=frozen_networks", "--profile=paper"], "has no scale for profile 'paper'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(words, sentence, capsys):
    assert records.main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
