"""The Makefile: what each target runs, and a set-up that mends itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKE_SETS = (
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "PROFILE",
    "SEEDS",
    "STUDY",
    "NOTEBOOK",
    "WORKERS",
    "BACKEND",
    "GPU",
    "DEB",
    "WHEEL",
    "PYTHONS",
)


def make(*words, folder=ROOT, **variables):
    environment = {
        name: value for name, value in os.environ.items() if name not in MAKE_SETS
    } | variables
    return subprocess.run(
        ["make", *words], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def project(tmp_path):
    """A folder with this Makefile and a requirements.txt that asks for nothing."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    return tmp_path


def test_help_is_the_default_and_lists_every_target_in_one_line():
    listed = make().stdout
    lines = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in lines for target in line.split()} - {"unusable"}
    assert set(re.findall(r"^  ([a-z0-9_-]+) +\S", listed, re.MULTILINE)) == targets
    assert make("help").stdout == listed


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["figures"], "-m uvlm_core.notebooks --profile 'laptop'"),
        (
            ["figures", "PROFILE=smoke", "SEEDS=3"],
            "-m uvlm_core.notebooks --profile 'smoke' --seeds '3'",
        ),
        (
            ["figures", "NOTEBOOK=02", "WORKERS=1"],
            "-m uvlm_core.notebooks --profile 'laptop' --notebook '02' --workers '1'",
        ),
        (["replicate", "PROFILE=smoke"], "-m uvlm_core.notebooks --profile 'smoke' --replicate"),
        (
            ["records", "STUDY=data_scaling", "SEEDS=8"],
            "-m uvlm_core.studies.records --profile 'laptop' --study 'data_scaling' --seeds '8'",
        ),
        (["test"], "-m pytest -q -n 2 --dist worksteal"),
        (["test-browser"], "-m pytest -q tests/explore/test_browser.py"),
        (["models"], "-m uvlm_core.explore.making"),
        (["bench"], "tests/benchmarks.py"),
        (["encoders"], "-m uvlm_core.pretraining all"),
        (["smollm2"], "-m uvlm_core.models.smollm"),
        (["smollm2", "WHEEL=/some where"], "-m uvlm_core.models.smollm --wheel '/some where'"),
        (["language_models"], "-m uvlm_core.pretraining language_models"),
        (["language_model_tiny"], "-m uvlm_core.pretraining language_model_tiny"),
        (
            ["plan", "PROFILE=paper", "GPU=H100"],
            "-m uvlm_core.plan --profile 'paper' --gpu 'H100'",
        ),
        (["stamps"], "-m uvlm_core.data.stamps"),
        (["stamps", "DEB=/some where/a.deb"], "-m uvlm_core.data.stamps --deb '/some where/a.deb'"),
        (["scoreboard"], "-m uvlm_core.studies.scoreboard"),
        (["report"], "-m uvlm_core.report --profile 'laptop'"),
        (["lint"], "-m ruff check ."),
        (
            ["lab"],
            f"-m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir='{ROOT}' "
            "--LabApp.default_url=/lab/tree/notebooks/index.ipynb "
            f"--LabApp.app_settings_dir='{ROOT}/uvlm_core/explore/lab'",
        ),
    ],
)
def test_a_target_runs_its_command_in_the_projects_own_python(words, command):
    printed = [" ".join(line.split()) for line in make("-n", *words).stdout.splitlines()]
    assert f".venv/bin/python {command}" in printed


def test_a_profile_of_the_environment_is_taken_too():
    assert "--profile 'smoke'" in make("-n", "figures", PROFILE="smoke").stdout


EMPTY = dict.fromkeys(MAKE_SETS[3:], "")


@pytest.mark.parametrize("target", ["figures", "records", "plan", "stamps", "setup"])
def test_an_empty_value_means_the_default(target, project):
    wanted = make("-n", target, folder=project).stdout
    assert wanted and make("-n", target, folder=project, **EMPTY).stdout == wanted
    assert make("-n", target, *(f"{name}=" for name in EMPTY), folder=project).stdout == wanted


@pytest.mark.parametrize(
    ("words", "backend"),
    [
        ([], "loky"),
        (["BACKEND="], "loky"),
        (["BACKEND=dask:tcp://127.0.0.1:8786"], "dask:tcp://127.0.0.1:8786"),
        (["BACKEND=slurm:partition=gpu,timeout_min=600"], "slurm:partition=gpu,timeout_min=600"),
    ],
)
def test_the_backend_reaches_the_command_by_the_environment(project, words, backend):
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/python").write_text('#!/bin/sh\necho "$UVLM_BACKEND"\n')
    (project / ".venv/bin/python").chmod(0o755)
    (project / ".venv/.ready").write_text("")
    assert make("figures", *words, folder=project).stdout.splitlines()[-1] == backend


def test_set_up_is_done_once_and_again_when_it_was_left_half_made(project):
    (project / ".venv").mkdir()
    (project / ".venv" / "left_over").write_text("")
    (project / "this_python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (project / "this_python").chmod(0o755)
    # the list is searched; names with spaces can't be in it
    python = "PYTHONS=no_such_python ./this_python"
    first = make("setup", python, folder=project)
    assert first.returncode == 0, first.stderr
    assert (
        not (project / ".venv" / "left_over").exists() and (project / ".venv/bin/python").exists()
    )
    assert make("-q", "setup", python, folder=project).returncode == 0
    (project / ".venv/bin/python").unlink()  # as when the Python it was made from is gone
    assert make("-q", "setup", python, folder=project).returncode == 1
    assert "Setting up .venv" in make("-n", "setup", python, folder=project).stdout


def test_changed_requirements_are_installed_into_the_set_up_that_is_there(project):
    (project / ".venv/bin").mkdir(parents=True)
    python = project / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@" >> asked\n')
    python.chmod(0o755)
    (project / ".venv/.ready").write_text("")
    os.utime(project / ".venv/.ready", (1, 1))
    assert make("setup", folder=project).returncode == 0
    assert "-m pip install --progress-bar on -r requirements.txt" in (project / "asked").read_text()
    assert make("-q", "setup", folder=project).returncode == 0


def test_packages_that_cannot_be_installed_leave_no_stamp(project):
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/.ready").write_text("")
    os.utime(project / ".venv/.ready", (1, 1))
    python = project / ".venv/bin/python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')  # runs, but pip fails
    python.chmod(0o755)
    result = make("setup", folder=project)
    assert result.returncode != 0 and "requirements.txt could not be installed" in result.stderr
    assert make("-q", "setup", folder=project).returncode == 1


def test_a_python_that_is_too_old_is_refused_in_one_sentence(project):
    result = make("setup", "PYTHONS=false no_such_python", folder=project)
    assert result.returncode != 0 and not (project / ".venv").exists()
    assert result.stderr.splitlines()[0] == (
        "No Python 3.11 or newer was found as any of: false "
        "no_such_python; install one, or name one with "
        "PYTHONS=/path/to/python."
    )


def test_clean_removes_what_can_be_made_again_and_says_so(project):
    for folder in (".cache", ".venv", "figures", "build"):
        (project / folder).mkdir()
    assert make("clean", folder=project).stdout == "removed .cache\nremoved build\n"
    assert make("clean", folder=project).stdout == "no .cache to remove\nno build to remove\n"
    assert (project / ".venv").exists() and (project / "figures").exists()
