"""One run from the command line: whoever carries it out has it alone, on one process or several."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from uvlm_core import launch
from uvlm_core.runs import RunStore, record_key, run_grid

ROOT = Path(__file__).resolve().parent.parent


def execute(spec, folder):
    """A run that says that it has begun, and ends when the file "go" is there."""
    with open(folder.parent / "begun", "a") as file:
        file.write("x")
    while not (folder.parent / "go").exists():
        time.sleep(0.02)
    row = {"fraction": 1.0, "metric": "partial", "attribute": "time", "value": 0.5, "samples": 1}
    return {"scores": [row], "counts": {}, "times": {}, "provenance": {}, "samples": {}}, None


SCRIPT = "import sys, test_launch; test_launch.launch.execute_run = test_launch.execute; " \
         "sys.exit(test_launch.launch.main(sys.argv[1:]))"


@pytest.fixture
def work(cache):
    return cache / "runs"


@pytest.fixture
def arguments(spec, tmp_path):
    """Those of the command line for the spec."""
    fields = [word for name, value in spec.to_dict().items()
              for word in ("-p", f"{name}={json.dumps(value)}")]
    return [*fields, "--records", str(tmp_path / "records")]


@pytest.fixture
def refusal(spec, cache):
    return (f"Run {record_key(spec.canonical())} is being carried out in the cache {cache} by another "
            "process; start it again when that has ended.\n")


def start(*command) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_is_one_processs_until_it_has_ended_or_was_killed(
        spec, arguments, work, refusal, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launch, "execute_run", execute)
    other = start("-c", SCRIPT, *arguments)
    wait_for(work / "begun")
    assert launch.main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", refusal)
    other.kill()
    other.communicate()
    (work / "go").touch()
    path = RunStore(tmp_path / "records").path(spec.canonical())
    for out in (f"wrote {path}\n", f"{path} is there already.\n"):
        assert launch.main(arguments) == 0 and capsys.readouterr().out == out
    assert (work / "begun").read_text() == "xx" and path.exists()


def test_a_grid_and_a_launch_of_one_run_exclude_each_other(
        spec, arguments, work, refusal, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launch, "execute_run", execute)
    spec, store, found = spec.canonical(), RunStore(tmp_path / "records"), []
    grid = threading.Thread(
        target=lambda: found.extend(run_grid([spec], store, 1, execute=execute)))
    grid.start()  # in the cache, as launch
    wait_for(work / "begun")
    assert launch.main(arguments) == 2 and capsys.readouterr().err.endswith(refusal)
    (work / "go").touch()
    grid.join()
    assert launch.main(arguments) == 0 and "is there already" in capsys.readouterr().out
    assert found == [store.load(spec)] and (work / "begun").read_text() == "x"


def test_a_grid_waits_for_a_launch_and_takes_its_record(spec, arguments, work, tmp_path,
                                                        monkeypatch):
    monkeypatch.setattr(launch, "execute_run", execute)
    first = threading.Thread(target=launch.main, args=(arguments,))
    first.start()
    wait_for(work / "begun")
    key = record_key(spec.canonical())

    def let_go():
        wait_for(work / key)  # where the grid's worker waits
        (work / "go").touch()
    threading.Thread(target=let_go).start()
    (record,) = run_grid([spec.canonical()], RunStore(tmp_path / "records"), 1, execute=execute)
    assert record["provenance"] == {"processes": 1} and (work / "begun").read_text() == "x"
    first.join()


def test_a_record_that_came_before_the_lock_is_not_made_again(spec, arguments, work, tmp_path,
                                                              monkeypatch, capsys):
    def acquire(lock, **names):
        (work / "go").touch()
        RunStore(tmp_path / "records").save(spec.canonical(), execute(spec, work / "other")[0])
    monkeypatch.setattr(FileLock, "acquire", acquire)
    monkeypatch.setattr(launch, "execute_run", pytest.fail)
    assert launch.main(arguments) == 0 and "is there already" in capsys.readouterr().out


def test_of_several_processes_all_end_where_the_run_is_anothers(spec, arguments, work, refusal,
                                                                tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    work.mkdir(parents=True)
    with FileLock(work / f"{record_key(spec.canonical())}.lock"):
        both = start("-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
                     "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no",
                     "--main_process_port", "0", str(script), *arguments)
        _, said = both.communicate(timeout=200)
    assert both.returncode != 0 and refusal in said and not (work / "begun").exists()
    assert set(re.findall(r"exitcode *: (\d+)", said)) == {"2"}, said[-3000:]
