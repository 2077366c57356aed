"""One run from the command line: whoever carries it out has it alone, on one process or several."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from stubs import execute_when_told

from uvlm_core.runs import carry_out, launch
from uvlm_core.runs.grid import RunsFailed, run_grid
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.training import loop

ROOT = Path(__file__).resolve().parents[2]


# a process that runs stand-ins imports no test
SCRIPT = (
    "import sys, stubs; from uvlm_core.runs import launch; "
    "launch.execute_run = stubs.execute_when_told; sys.exit(launch.main(sys.argv[1:]))"
)


@pytest.fixture
def work(cache):
    return cache / "runs"


@pytest.fixture
def arguments(spec, words, tmp_path):
    """Those of the command line for the spec."""
    return [*words(spec), "--records", str(tmp_path / "records")]


@pytest.fixture
def refusal(spec, cache):
    return (
        f"Run {record_key(spec.canonical())} is being carried out in the cache {cache} by "
        "another process; start it again when that has ended.\n"
    )


def start(*command) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'runs'}"},
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_is_one_processs_until_it_has_ended_or_was_killed(
    spec, arguments, work, refusal, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(launch, "execute_run", execute_when_told)
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
    spec, arguments, work, refusal, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(launch, "execute_run", execute_when_told)
    spec, store, found = spec.canonical(), RunStore(tmp_path / "records"), []
    grid = threading.Thread(
        target=lambda: found.extend(run_grid([spec], store, 1, execute=execute_when_told))
    )
    grid.start()  # in the cache, as launch
    wait_for(work / "begun")
    assert launch.main(arguments) == 2 and capsys.readouterr().err.endswith(refusal)
    (work / "go").touch()
    grid.join()
    assert launch.main(arguments) == 0 and "is there already" in capsys.readouterr().out
    assert found == [store.load(spec)] and (work / "begun").read_text() == "x"


def test_a_grid_waits_for_a_launch_and_takes_its_record(
    spec, arguments, work, tmp_path, monkeypatch
):
    monkeypatch.setattr(launch, "execute_run", execute_when_told)
    first = threading.Thread(target=launch.main, args=(arguments,))
    first.start()
    wait_for(work / "begun")
    key = record_key(spec.canonical())

    def let_go():
        wait_for(work / key)  # where the grid's worker waits
        (work / "go").touch()

    threading.Thread(target=let_go).start()
    (record,) = run_grid(
        [spec.canonical()], RunStore(tmp_path / "records"), 1, execute=execute_when_told
    )
    assert record["provenance"] == {"processes": 1} and (work / "begun").read_text() == "x"
    first.join()


def test_a_record_that_came_before_the_lock_is_not_made_again(
    spec, arguments, work, tmp_path, monkeypatch, capsys
):
    def acquire(lock, **names):
        (work / "go").touch()
        RunStore(tmp_path / "records").save(
            spec.canonical(), execute_when_told(spec, work / "other")[0]
        )

    monkeypatch.setattr(FileLock, "acquire", acquire)
    monkeypatch.setattr(launch, "execute_run", pytest.fail)
    assert launch.main(arguments) == 0 and "is there already" in capsys.readouterr().out


def test_of_several_processes_all_end_where_the_run_is_anothers(
    spec, arguments, work, refusal, tmp_path, two_processes
):
    work.mkdir(parents=True)
    stubs = f"{ROOT}:{ROOT / 'tests' / 'runs'}"
    with FileLock(work / f"{record_key(spec.canonical())}.lock"):
        both = two_processes("-c", SCRIPT, *arguments, PYTHONPATH=stubs)
    assert [status for status, *_ in both] == [2, 2] and not (work / "begun").exists()
    assert all(refusal in said for *_, said in both), both


# What cannot be loaded or written is one sentence, before anything is trained


NETWORKS = [
    ("VQ-VQ", "vq_tokenizer"),
    ("SigLIP-SigLIP", "semantic_encoder"),
    ("VQ-VQ", "language_model"),
    ("VQ-VQ", "tokenizer"),
    ("VQ-VQ", "reader"),
    ("SigLIP-SigLIP", "feature_reader"),
    ("SigLIP-SigLIP", "feature_decoder"),
    ("VQ-VQ", "inception"),
]


@pytest.fixture
def launched(words):
    """Gives the exit status of `python -m uvlm_core.runs.launch` for a spec."""

    def get(spec, records) -> int:
        return launch.main([*words(spec), "--records", str(records)])

    return get


@pytest.fixture
def untrained(monkeypatch):
    """No image of the pool is encoded, and nothing trained."""

    def refuse(*ignored, **names):
        pytest.fail("it came too far")

    monkeypatch.setattr(loop, "pool_features", refuse)
    monkeypatch.setattr(carry_out, "train", refuse)


def one_sentence(said: str, *words) -> bool:
    whole = said.count("\n") == 1 and said.endswith(".\n") and ". " not in said
    return whole and all(word in said for word in words)


@pytest.mark.parametrize(("architecture", "field"), NETWORKS)
@pytest.mark.parametrize("what", ["nothing", "an empty folder", "a text"])
def test_a_network_that_is_none_is_told_before_anything_is_done(
    architecture, field, what, spec, tmp_path, capsys, launched, untrained
):
    path = tmp_path / "named"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a text":
        path.write_text("no network")
    assert (
        launched(spec.vary(architecture=architecture, **{field: str(path)}), tmp_path / "records")
        == 2
    )
    assert one_sentence(said := capsys.readouterr().err, str(path)), said
    assert not list(tmp_path.glob("records/*.json"))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("records", {}),
        ("cache", {}),
        ("cache", {"pictures": "watches"}),
        ("folder", {"pictures": "{}/captions.json", "picture_folder": "{}/folder"}),
        ("captions.json", {"pictures": "{}/captions.json", "picture_folder": "{}/nowhere"}),
        ("other", {"pictures": "{}/nowhere.json", "picture_folder": "{}"}),
    ],
    ids=str,
)
def test_a_file_in_the_way_is_told_before_anything_is_done(
    file, change, spec, tmp_path, capsys, untrained, launched
):
    (tmp_path / file).write_text(
        '[{"image": "a.png", "conversations": [{"from": "human", "value": '
        '"<image>\\nwhat?"}, {"from": "gpt", "value": "a"}]}]'
    )
    change = {name: value.format(tmp_path) for name, value in change.items()}
    assert launched(spec.vary(**change), tmp_path / "records") == 2
    assert one_sentence(said := capsys.readouterr().err, str(tmp_path)), said


def test_a_grid_tells_the_same_in_the_same_sentence(spec, tmp_path, here):
    (tmp_path / "empty").mkdir()
    store, nowhere = RunStore(tmp_path / "records"), str(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=f"'{nowhere}' is neither an existing folder or file nor a hub id"
    ):
        run_grid([spec.vary(tokenizer=nowhere)], store, 1, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    with pytest.raises(RunsFailed) as failed:
        run_grid([spec.vary(tokenizer=str(tmp_path / "empty"))], store, 1, tmp_path / "work")
    head, line = str(failed.value).splitlines()
    assert (
        f"ValueError: '{tmp_path / 'empty'}' is not a tokenizer that can be loaded" in line
        and line.endswith(").")
    )


def test_empty_variables_of_the_environment_mean_their_defaults(spec, tmp_path):
    """Of the launcher, whose own libraries would take an empty one for a number, and of this
    project."""
    empty = dict.fromkeys(("WORLD_SIZE", "RANK", "LOCAL_RANK", "UVLM_CACHE", "UVLM_BACKEND"), "")
    code = (
        "from uvlm_core import environment; from uvlm_core.runs import backends, launch; "
        "launch._begin = lambda store, spec, lock: print(environment.processes(), "
        "lock.lock_file, type(backends.open_backend()).__name__); "
        "launch.main(['--profile', 'smoke'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | empty | {"PYTHONPATH": str(ROOT)},
    )
    found = re.fullmatch(rf"\(1, 0\) {ROOT}/.cache/runs/\w+\.lock Loky\n", done.stdout)
    assert found, done.stderr


def test_a_launched_arm_is_found_by_the_studies(spec, tmp_path):
    asked = spec.vary(architecture="VQ-SigLIP", regime="understanding")
    launch.run(asked, tmp_path)
    (record,) = RunStore(tmp_path).all()
    assert RunStore(tmp_path).load(asked) == record and record["scores"]
