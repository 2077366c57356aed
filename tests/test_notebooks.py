"""The notebooks: how they are written, and that they run in the smoke profile."""

import ast
import json
import re
import subprocess
import sys

import nbformat
import pandas as pd
import papermill
import pytest
from filelock import FileLock

from uvlm_core import notebooks as runner
from uvlm_core.environment import ROOT
from uvlm_core.runs import backends, grid
from uvlm_core.runs.store import RunStore
from uvlm_core.studies import studies
from uvlm_core.studies.base import find_study, open_study
from uvlm_core.studies.records import main as make_records
from uvlm_core.training.profiles import profile

NOTEBOOKS = runner.find_notebooks(ROOT / "notebooks")
SHOWN = re.compile(r'\.show\("(\w+)"')
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, worker_id, in_this_process):
    """A folder in which all runs and then all notebooks have run; all workers share it.

    Runs of one shape train as a stack, in this process. One run is left to its notebook.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "ran"
    homes = [f"--{name}={folder / name}" for name in ("build", "figures", "records")]
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        if not (folder / "finished").exists():
            patch.setenv("UVLM_CACHE", str(folder / "cache"))
            stacked = in_this_process(backends.Stacked)
            with pytest.MonkeyPatch.context() as only:
                only.setenv("UVLM_BACKEND", "stacked:cpu")
                only.setattr(grid, "open_backend", lambda: stacked("cpu"))
                assert make_records(["--profile=smoke", homes[2]]) == 0
            store = RunStore(folder / "records")
            store.path(find_study("training_order").specs(profile("smoke"))[0]).unlink()
            assert runner.main(["--profile=smoke", "--workers=2", *homes]) == 0
            (folder / "finished").touch()
    return folder


def test_notebooks_are_numbered_without_a_gap():
    assert [path.stem[:3] for path in NOTEBOOKS] == [
        f"{number:02d}_" for number in range(len(NOTEBOOKS))
    ]


def test_every_figure_of_every_study_is_shown_in_a_notebook():
    sources = "\n".join(source for path in NOTEBOOKS for source in code_of(path))
    shown = set(SHOWN.findall(sources))
    assert {name for study in studies() for name in study.figures} - shown == set()


@named
def test_a_notebook_is_valid_and_its_cells_have_ids_of_their_own(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    ids = [cell["id"] for cell in notebook.cells]
    assert (notebook.nbformat, len(set(ids))) == (4, len(ids))


def test_notebooks_are_stripped():
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    verified = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", *paths], capture_output=True
    )
    assert (verified.returncode, verified.stdout) == (0, b"")


@named
def test_a_notebook_has_one_cell_of_parameters_that_starts_from_the_laptop_profile(path):
    declared = runner.declared_parameters(path)
    assert declared["profile"] == "laptop"
    # folders follow from the profile, and nobody trains by "Run All" alone
    assert (declared["records"], declared["figures"], declared["train"]) == (None, None, False)


@named
def test_a_notebook_says_what_it_asks_what_to_look_at_and_what_it_costs(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} ")
    assert {"Question", "Look at", "Cost"} <= set(
        re.findall(r"^\*\*(.*?)\.\*\*", first.source, re.MULTILINE)
    )


@pytest.mark.parametrize("name", ["index", "playground", "explorer"])
def test_papermill_runs_the_notebooks_to_explore_by_hand(name, tmp_path):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    given = {"models": ["VQ-VQ unified"]} if name == "playground" else {}
    with runner.kernel_environment({}):
        found = papermill.execute_notebook(
            path, tmp_path / path.name, given, kernel_name="python3", progress_bar=False
        )
    shown = [output for cell in found.cells for output in cell.get("outputs", ())]
    assert (len(shown) > 0) == (name != "index")
    assert not [output for output in shown if output.output_type in ("error", "stream")]


@named
def test_a_notebook_is_short_and_leaves_the_work_to_its_study(path):
    source = "\n".join(code_of(path))
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("%")]
    assert len(lines) <= 40
    tree = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))
    loops = ast.FunctionDef | ast.For | ast.While
    assert not [node for node in ast.walk(tree) if isinstance(node, loops)]


def test_a_figure_comes_with_its_document_its_data_and_its_provenance(ran):
    names = {path.stem for path in (ran / "figures").iterdir()}
    assert names <= {name for study in studies() for name in study.figures} and len(names) > 15
    for name in names:
        facts = json.loads((ran / "figures" / f"{name}.json").read_text())
        assert facts["profile"] == "smoke" and facts["records"]
        assert {f"{key}.json" for key in facts["records"]} <= {
            path.name for path in (ran / "records").iterdir()
        }
        assert len(pd.read_csv(ran / "figures" / f"{name}.csv"))
        assert all(
            (ran / "figures" / f"{name}.{kind}").stat().st_size > 1000 for kind in ("png", "pdf")
        )


@named
def test_an_executed_notebook_shows_its_figures_and_what_they_say(ran, path):
    cells = nbformat.read(ran / "build" / "smoke" / path.name, as_version=4).cells
    told = {name for study in studies() for name in study.findings}
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        kinds = [output.output_type for output in cell.outputs]
        for name in SHOWN.findall(cell.source):
            assert "display_data" in kinds and ("stream" in kinds or name not in told)


def test_a_second_run_trains_nothing_and_leaves_every_file_as_it_is(ran, tmp_path, monkeypatch):
    """A notebook by the runner, and then all figures from this process instead of a kernel each."""

    def written():
        return {
            path: path.stat().st_mtime_ns
            for name in ("records", "figures")
            for path in (ran / name).iterdir()
        }

    before = written()
    homes = [f"--figures={ran / 'figures'}", f"--records={ran / 'records'}"]
    words = ["--profile=smoke", "--notebook=08", f"--build={tmp_path}", *homes]
    assert runner.main(words) == 0
    assert written() == before
    redrawn = set()
    for study in studies():
        monkeypatch.setattr(grid, "_train", pytest.fail)
        opened = open_study(study.name, "smoke", None, 2, ran / "records", ran / "figures")
        names = [name for name in study.figures if (ran / "figures" / f"{name}.png").exists()]
        opened.show(*names)
        redrawn |= {f"{name}.png" for name in names}
    assert redrawn == {path.name for path in (ran / "figures").glob("*.png")}
    assert written() == before
