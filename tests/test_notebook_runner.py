"""The notebook runner: what it refuses, and what is where after a success and after a failure."""

import json
import os
import shutil
import sys
import time
from types import SimpleNamespace

import nbformat
import pytest

from uvlm_core import notebooks as execute

PARAMETERS = """
profile = "laptop"
seeds = 2
workers = 1
records = ""
figures = ""
rate = 0.5
names = ["a"]
quick = True
"""
SAVES = """
import json, os, pathlib, sys
folder = pathlib.Path(figures)
(folder / "curve.png").write_bytes(b"picture")
(folder / "curve.csv").write_text(f"{rate}\\n")
facts = {"profile": profile, "seeds": seeds, "records": records, "commit": os.environ.get("COMMIT"),
         "python": sys.executable, "cwd": os.getcwd(), "cache": os.environ.get("UVLM_CACHE")}
(folder / "curve.json").write_text(json.dumps(facts))
"""


def write_notebook(folder, name, *cells, parameters=PARAMETERS):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
    )
    notebook.cells[0].metadata["tags"] = ["parameters"]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def run(tmp_path, capfd):
    """Calls the runner on the folders below `tmp_path`, and returns its exit status and what it
    printed.
    """

    def call(*arguments, homes=True):
        folders = ["--notebooks", tmp_path / "notebooks", "--build", tmp_path / "build"]
        folders += (
            ["--figures", tmp_path / "figures", "--records", tmp_path / "records"] if homes else []
        )
        status = execute.main([str(word) for word in ("--profile", "smoke", *folders, *arguments)])
        printed = capfd.readouterr()
        return SimpleNamespace(status=status, out=printed.out, err=printed.err)

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which one notebook has been run with success."""
    folder = tmp_path_factory.mktemp("made")
    write_notebook(folder / "notebooks", "02_curve", SAVES)
    folders = [f"--{name}={folder / name}" for name in ("notebooks", "build", "figures", "records")]
    assert execute.main(["--profile=smoke", "--seeds=3", "-p", "rate=1", *folders]) == 0
    return folder


@pytest.fixture
def earlier(made, tmp_path):
    """The same in a folder of the test's own."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_success_leaves_the_executed_notebook_and_the_figures_and_nothing_else(made):
    assert set(contents(made)) == {
        "notebooks/02_curve.ipynb",
        "build/smoke/02_curve.ipynb",
        "figures/curve.png",
        "figures/curve.csv",
        "figures/curve.json",
    }


def test_a_notebook_gets_the_standard_parameters_and_the_overrides(made):
    facts = json.loads((made / "figures/curve.json").read_text())
    assert (facts["profile"], facts["seeds"], facts["records"]) == (
        "smoke",
        3,
        str(made / "records"),
    )
    assert (made / "figures/curve.csv").read_text() == "1\n"


def test_a_notebook_runs_in_this_python_at_the_root_of_the_project(made):
    facts = json.loads((made / "figures/curve.json").read_text())
    assert (facts["python"], facts["cwd"]) == (sys.executable, str(execute.ROOT))


def test_running_leaves_the_environment_as_it_was(run, tmp_path):
    write_notebook(tmp_path / "notebooks", "00_data", "1 + 1")
    before = dict(os.environ)
    assert run().status == 0
    assert dict(os.environ) == before


def test_a_kernel_that_the_user_installed_under_the_same_name_is_not_used(
    run, tmp_path, monkeypatch
):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "mine", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write_notebook(tmp_path / "notebooks", "00_data", "1 + 1")
    assert run().status == 0


def test_a_failure_is_one_sentence_and_leaves_the_earlier_outputs_untouched(run, earlier):
    before = contents(earlier / "figures"), (earlier / "build/smoke/02_curve.ipynb").read_bytes()
    write_notebook(earlier / "notebooks", "02_curve", SAVES, "raise ValueError('the rate is odd.')")
    result = run("-p", "rate=2.0")
    assert result.status == 1
    assert result.err.splitlines() == [
        "02_curve failed in cell [4] with ValueError: the rate is odd. "
        f"(see {earlier / 'build/smoke/02_curve.failed.ipynb'})"
    ]
    assert before == (
        contents(earlier / "figures"),
        (earlier / "build/smoke/02_curve.ipynb").read_bytes(),
    )
    assert {path.name for path in (earlier / "build/smoke").iterdir()} == {
        "02_curve.ipynb",
        "02_curve.failed.ipynb",
    }


def test_a_notebook_that_fails_does_not_keep_the_next_from_its_turn(run, tmp_path):
    write_notebook(tmp_path / "notebooks", "00_data", "import os; os._exit(1)")
    write_notebook(tmp_path / "notebooks", "01_networks", "import sys; sys.exit()", "1 + 1")
    write_notebook(tmp_path / "notebooks", "02_curve", SAVES)
    result = run()
    assert result.status == 1
    first, second = sorted(
        line for line in result.err.splitlines() if " failed" in line or " ended before" in line
    )
    assert first.startswith("00_data failed because its kernel died")
    assert second.startswith("01_networks ended before its last cell")
    assert (tmp_path / "figures/curve.png").exists()


def test_an_interruption_ends_the_run_in_one_sentence(run, tmp_path, monkeypatch):
    for name in ("00_data", "01_networks"):
        write_notebook(
            tmp_path / "notebooks",
            name,
            f"""
import pathlib, time
(pathlib.Path(records) / {name!r}).touch()
time.sleep(60)
""",
        )
    write_notebook(tmp_path / "notebooks", "02_curve", SAVES)

    def interrupt(futures, **options):  # Ctrl-C, once both are at work
        while len(list((tmp_path / "records").iterdir())) < 2:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "wait", interrupt)
    result = run()
    assert (result.status, result.err) == (
        130,
        "00_data and 01_networks were interrupted; the runs that have a record keep it.\n",
    )
    assert {path.suffixes[0] for path in (tmp_path / "build/smoke").iterdir()} <= {".failed"}
    assert not execute._Kernel._alive() and not list((tmp_path / "figures").iterdir())


def test_two_notebooks_run_at_a_time_and_their_output_is_told_apart(run, tmp_path):
    meet = """
import pathlib, sys, time
print("here I am", file=sys.stderr)
(pathlib.Path(records) / NAME).touch()
while len(list(pathlib.Path(records).iterdir())) < 2:
    time.sleep(0.05)
"""
    for name in ("00_data", "01_networks"):
        write_notebook(tmp_path / "notebooks", name, meet.replace("NAME", repr(name)))
    result = run()
    assert result.status == 0
    assert sorted(result.err.splitlines()) == ["00_data: here I am", "01_networks: here I am"]
    assert sorted(line.split(" in ")[0] for line in result.out.splitlines()) == [
        "[1/2] 00_data",
        "[1/2] 00_data ...",
        "[2/2] 01_networks",
        "[2/2] 01_networks ...",
    ]


def test_a_notebooks_progress_reaches_the_log_in_its_last_state(run, tmp_path):
    write_notebook(
        tmp_path / "notebooks",
        "00_data",
        r"import sys; sys.stderr.write('\r10 %\r50 %\r100 %\ndone\n')",
    )
    assert run().err.splitlines() == ["100 %", "done"]


REFUSED = {
    "an unknown profile": (
        ["--profile", "nature"],
        "profile 'nature' is not one of smoke, laptop, smollm, paper.",
    ),
    "an unknown notebook": (["--notebook", "07"], "notebook '07' is not one of 02_curve."),
    "no seeds": (["--seeds", "0"], "Argument --seeds: '0' is not a whole number from 1 up."),
    "workers that are no number": (
        ["--workers", "two"],
        "Argument --workers: 'two' is not a whole number from 1 up.",
    ),
    "an unknown option": (["--seed", "2"], "Unrecognized arguments: --seed 2"),
    "an unknown parameter": (
        ["-p", "ratee=1"],
        "'ratee' is not a parameter of 02_curve; its parameters are profile, "
        "seeds, workers, records, figures, rate, names, quick.",
    ),
    "a text for a number": (
        ["-p", 'rate="1"'],
        "Parameter rate of 02_curve is '1', but must be a number.",
    ),
    "a truth value for a number": (
        ["-p", "rate=true"],
        "Parameter rate of 02_curve is True, but must be a number.",
    ),
    "a number for a truth value": (
        ["-p", "quick=1"],
        "Parameter quick of 02_curve is 1, but must be true or false.",
    ),
    "null for a list": (
        ["-p", "names=null"],
        "Parameter names of 02_curve is None, but must be a list.",
    ),
    "an item of another type": (
        ["-p", "names=[1]"],
        "Parameter names of 02_curve is [1], but each item must be a text.",
    ),
    "no value": (["-p", "rate"], "-p 'rate' is not of the form name=value."),
    "no JSON": (
        ["-p", "rate=half"],
        "Parameter rate is 'half', which is not a JSON value; "
        "write a text in double quotes, within single ones for the shell.",
    ),
    "no number": (
        ["-p", "rate=NaN"],
        "Parameter rate is 'NaN', which is not a JSON value; "
        "write a text in double quotes, within single ones for the shell.",
    ),
    "a standard parameter with -p": (
        ["-p", "seeds=1"],
        "'seeds' is not set with -p; use the option --seeds.",
    ),
    "records for a replication": (
        ["--replicate"],
        "--replicate has figures and records of its own; leave out --figures and --records.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_command_line_is_refused_in_one_sentence_before_anything_is_written(
    case, run, tmp_path
):
    arguments, sentence = REFUSED[case]
    write_notebook(tmp_path / "notebooks", "02_curve", SAVES)
    result = run(*arguments)
    assert (result.status, result.err, result.out) == (2, sentence + "\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("seeds = 1 + 1", "The parameters cell of 02_curve may hold lines `name = literal` only."),
        (
            "import os\nseeds = 2",
            "The parameters cell of 02_curve may hold lines `name = literal` only.",
        ),
        (
            "seeds, workers = 1, 2",
            "The parameters cell of 02_curve may hold lines `name = literal` only.",
        ),
        ("pair = (1, 2)", "Parameter pair of 02_curve is (1, 2), which JSON cannot express."),
        ("profile = 2", "Parameter profile of 02_curve is 'smoke', but must be a whole number."),
    ],
)
def test_a_parameters_cell_that_is_not_of_literals_is_refused(source, sentence, run, tmp_path):
    write_notebook(tmp_path / "notebooks", "02_curve", parameters=source)
    result = run()
    assert (result.status, result.err) == (2, sentence + "\n")


def test_an_option_that_no_notebook_uses_is_refused(run, tmp_path):
    write_notebook(tmp_path / "notebooks", "00_data", parameters="size = 64")
    assert run("--seeds", "3").err == "'seeds' is not a parameter of 00_data.\n"


def test_a_file_that_is_no_notebook_is_refused(run, tmp_path):
    write_notebook(tmp_path / "notebooks", "02_curve").write_text("{}")
    result = run()
    assert result.status == 2 and "02_curve.ipynb is not a readable notebook" in result.err


def test_a_backend_that_cannot_be_used_is_refused_before_anything_is_removed(
    run, tmp_path, monkeypatch
):
    write_notebook(tmp_path / "notebooks", "00_data")
    (tmp_path / "build/replicate/smoke").mkdir(parents=True)
    monkeypatch.setenv("UVLM_BACKEND", "sky")
    result = run("--replicate", homes=False)
    assert result.status == 2 and result.err.startswith(
        "backend 'sky' is not one of loky, dask, ray, slurm"
    )
    assert (tmp_path / "build/replicate/smoke").exists() and not (tmp_path / "build/smoke").exists()


def test_a_notebook_is_found_by_its_number_and_by_its_name(tmp_path):
    paths = [write_notebook(tmp_path, name) for name in ("02_curve", "00_data", "draft")]
    assert execute.find_notebooks(tmp_path) == [paths[1], paths[0]]
    assert (
        execute.find_notebooks(tmp_path, "02")
        == execute.find_notebooks(tmp_path, "02_curve")
        == [paths[0]]
    )


def test_a_study_that_waits_for_its_runs_is_left_out_unless_it_is_named(run, tmp_path, monkeypatch):
    specs = {"specs": lambda base: [1, 2, 3]}
    later = SimpleNamespace(number=3, name="later", waiting=("smoke",), **specs)
    drawn = SimpleNamespace(number=2, name="now", waiting=("laptop",), **specs)
    monkeypatch.setattr(execute, "studies", lambda: [drawn, later])
    for name in ("02_now", "03_later"):
        write_notebook(tmp_path / "notebooks", name, "print(seeds)")
    found = run()
    assert found.status == 0 and "[1/1] 02_now in" in found.out
    assert "03_later is left out, because not all of its 3 runs are made" in found.out
    assert "`make figures NOTEBOOK=03` makes the others" in found.out
    assert "[1/1] 03_later in" in run("--notebook", "03").out


def test_a_folder_that_cannot_be_written_is_named(run, tmp_path):
    write_notebook(tmp_path / "notebooks", "00_data")
    (tmp_path / "figures").write_text("")
    result = run()
    assert result.status == 2 and result.err.startswith(
        f"The folder {tmp_path / 'figures'} cannot be written: "
    )


def test_a_disk_without_space_is_named(run, tmp_path, monkeypatch):
    write_notebook(tmp_path / "notebooks", "00_data")
    monkeypatch.setattr(execute.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    assert (
        run().err
        == f"The disk of {tmp_path / 'build/smoke'} has 1 MiB left; at least 200 MiB are needed.\n"
    )


def test_a_replication_starts_from_empty_records_and_an_empty_cache(run, tmp_path):
    write_notebook(
        tmp_path / "notebooks", "02_curve", SAVES, "import os; assert not os.listdir(records)"
    )
    home = tmp_path / "build/replicate/smoke"
    (home / "runs").mkdir(parents=True)
    (home / "runs" / "old.json").write_text("{}")
    result = run("--replicate", homes=False)
    assert result.status == 0, result.err
    facts = json.loads((home / "figures/curve.json").read_text())
    assert (facts["records"], facts["cache"]) == (str(home / "runs"), str(home / "cache"))


def test_without_folders_the_outputs_go_by_profile_below_the_project():
    options = execute._parser().parse_args(["--profile", "smoke"])
    assert [execute._shown(folder) for folder in execute._folders(options)] == [
        "build/smoke",
        "figures/smoke",
        "figures/runs/smoke",
    ]
