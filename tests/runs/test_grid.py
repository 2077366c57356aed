"""Grids that lose nothing to a kill, with stand-ins for runs."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
from stubs import (
    GRID,
    ROOT,
    Stub,
    alive,
    body,
    execute,
    execute_and_die,
    execute_beyond_memory,
    execute_environment,
    execute_or_fail,
    execute_with_a_grid,
    files,
)

from uvlm_core.runs import carry_out, grid
from uvlm_core.runs.backends import Backend
from uvlm_core.runs.files import RecordError, read_progress, report_progress
from uvlm_core.runs.grid import RunsFailed, run_grid, run_stack
from uvlm_core.runs.store import RunStore, canonical_of, record_key


def grid_process(store, work, execute="execute_with_marker"):
    """The grid in a process of its own that can be killed."""
    # a test run in the background has interrupts ignored, and hands that on
    code = (
        f"import signal\nfrom stubs import *\nfrom uvlm_core.runs.grid import run_grid\n"
        f"from uvlm_core.runs.store import RunStore\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"run_grid(GRID, RunStore({str(store)!r}), workers=2, work_folder={str(work)!r}, "
        f"execute={execute})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'runs'}"},
    )


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "records")


# Progress


def test_progress_is_what_was_last_reported(tmp_path):
    assert read_progress(tmp_path) == 0
    report_progress(tmp_path, 0.25)
    report_progress(tmp_path, 0.5)
    assert read_progress(tmp_path) == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


def test_a_garbled_or_impossible_progress_is_harmless(tmp_path):
    for text, value in (("", 0), ("half", 0), ("7", 1), ("-1", 0)):
        (tmp_path / "progress").write_text(text)
        assert read_progress(tmp_path) == value


def test_a_progress_that_cannot_be_written_costs_nothing(tmp_path):
    report_progress(tmp_path / "gone", 0.5)
    assert not (tmp_path / "gone").exists()


def test_the_bar_promises_no_negative_time_after_lost_work(store, tmp_path, capfd):
    lost = tmp_path / record_key(Stub(seconds=4.0))
    lost.mkdir()
    report_progress(lost, 0.9)  # by a run that was killed before its first checkpoint
    run_grid([Stub(seconds=4.0)], store, work_folder=tmp_path, execute=execute)
    shown = capfd.readouterr().err
    assert " 90%" in shown and "1 of 1 runs 100%" in shown
    assert ", -" not in shown


def test_the_bar_counts_runs_and_weighs_them_by_cost(store, tmp_path, capfd):
    run_grid(
        [Stub(seed=0), Stub(seed=1, seconds=3.0)],
        store,
        workers=2,
        work_folder=tmp_path,
        execute=execute,
    )
    shown = capfd.readouterr().err
    assert "0 of 2 runs" in shown and "2 of 2 runs 100%" in shown
    steps = {
        int(part.split("runs")[1].split("%")[0])
        for part in shown.split("\r")
        if "of 2 runs" in part
    }
    assert any(20 < step < 95 for step in steps)  # the cheap run is a fifth of the work


# Grids


def test_a_grid_trains_what_is_missing_and_loads_the_rest(store, tmp_path):
    kept = store.save(Stub(seed=1), body(Stub(seed=1)) | {"counts": {"rows": 99}})
    specs = [Stub(seed=seed) for seed in (2, 1, 0, 2)]
    records = run_grid(specs, store, workers=2, work_folder=tmp_path / "work", execute=execute)
    assert [record["spec"]["seed"] for record in records] == [2, 1, 0, 2]
    assert records[1] == kept
    assert records == [store.load(spec) for spec in specs]
    assert not any(path.is_dir() for path in (tmp_path / "work").iterdir())


def test_a_grid_of_records_starts_no_process(store, tmp_path):
    store.save(Stub(), body(Stub()))
    assert run_grid([Stub()], store, work_folder=tmp_path / "work", execute=None) == [
        store.load(Stub())
    ]
    assert not (tmp_path / "work").exists()


def test_a_truncated_record_stops_the_grid_before_training(store, tmp_path):
    store.save(Stub(), body(Stub()))
    store.path(Stub()).write_text("{")
    with pytest.raises(RecordError, match="delete it to run it again"):
        run_grid([Stub(seed=1), Stub()], store, work_folder=tmp_path / "work", execute=execute)
    assert store.load(Stub(seed=1)) is None and not (tmp_path / "work").exists()


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_a_number_of_workers_that_is_none_is_refused(store, workers):
    with pytest.raises(ValueError, match="workers .* is not an integer from 1 up"):
        run_grid([Stub()], store, workers=workers, execute=execute)


def test_runs_share_a_process_of_one_thread_that_is_not_this_one(store, tmp_path):
    specs = [Stub(seed=0), Stub(seed=1)]
    records = run_grid(specs, store, workers=1, work_folder=tmp_path, execute=execute_environment)
    for record in records:
        assert record["counts"]["OMP_NUM_THREADS"] == "1"
        assert record["counts"]["OMP_WAIT_POLICY"] == "PASSIVE"
        assert record["counts"]["pid"] != os.getpid()
    assert records[0]["counts"]["pid"] == records[1]["counts"]["pid"]
    assert not alive(records[0]["counts"]["pid"])  # the grid ends its processes


def test_a_process_whose_run_failed_is_not_used_again(store, tmp_path):
    specs = [Stub(seed=seed, seconds=1 - seed / 9) for seed in range(5)]  # in this order
    with pytest.raises(RunsFailed):
        run_grid(specs, store, workers=1, work_folder=tmp_path, execute=execute_or_fail)
    pids = {seed: store.load(specs[seed])["counts"]["pid"] for seed in (0, 1, 3, 4)}
    assert pids[0] == pids[1] != pids[3] == pids[4]


def test_a_run_that_opens_a_grid_does_not_wait_for_the_turn_of_its_own(
    store, tmp_path, monkeypatch
):
    monkeypatch.setenv("UVLM_TURNS", str(tmp_path / "turns"))
    (record,) = run_grid([Stub()], store, work_folder=tmp_path, execute=execute_with_a_grid)
    assert record["key"] == record_key(Stub())


def test_a_workers_death_costs_its_own_run_only_and_says_so(store, tmp_path):
    specs = [Stub(seed=seed) for seed in range(5)]
    with pytest.raises(RunsFailed) as failed:
        run_grid(specs, store, workers=2, work_folder=tmp_path, execute=execute_and_die)
    assert [store.load(spec) is not None for spec in specs] == [True, False, False, True, True]
    message = str(failed.value)
    assert message.startswith("2 of 5 runs failed; the others are finished and kept")
    arm = f"Run {record_key(specs[1])} (architecture VQ-VQ, regime unified, seed 1)"
    assert f"{arm}: its worker died" in message
    assert "seed 2): ValueError: seed 2 is not to our taste." in message
    assert set(failed.value.failures) == {record_key(specs[1]), record_key(specs[2])}
    assert len(run_grid(specs, store, workers=2, work_folder=tmp_path, execute=execute)) == 5


def test_a_run_that_its_gpu_cannot_hold_says_so_in_a_sentence(store, tmp_path):
    with pytest.raises(RunsFailed) as failed:
        run_grid([Stub()], store, work_folder=tmp_path, execute=execute_beyond_memory)
    assert str(failed.value).endswith("): a GPU has too little memory for it, even alone")


def test_a_run_finds_what_its_killed_predecessor_left(store, tmp_path):
    folder = tmp_path / record_key(Stub(seed=1))
    folder.mkdir()
    (folder / "checkpoint").write_text("half")
    with pytest.raises(RunsFailed):
        run_grid([Stub(seed=1)], store, work_folder=tmp_path, execute=execute_and_die)
    assert (folder / "checkpoint").read_text() == "half"
    run_grid([Stub(seed=1)], store, work_folder=tmp_path, execute=execute)
    assert not folder.exists()


def test_kills_at_random_moments_cost_no_record(tmp_path):
    """After each kill -9 the records are whole and stay as they are, no worker lives on, and the
    rerun completes."""
    records, work = tmp_path / "records", tmp_path / "work"
    moments = random.Random(0)
    for least in (0, 1, 2, 4):
        before = files(records)
        process = grid_process(records, work)
        while len(list(records.glob("*.json"))) < least or not list(work.glob("*.pid")):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.wait()
        pids = [int(path.read_text()) for path in work.glob("*.pid")] if work.exists() else []
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline, "a worker outlived its grid"
            time.sleep(0.05)
        after = files(records)
        assert {name: after[name] for name in before if not name.endswith(".tmp")} == {
            name: content for name, content in before.items() if not name.endswith(".tmp")
        }
        RunStore(records).all()  # refuses whatever is not whole
    finished = run_grid(GRID, RunStore(records), workers=2, work_folder=work, execute=execute)
    assert [record["scores"] for record in finished] == [body(spec)["scores"] for spec in GRID]


def test_two_grids_on_one_store_share_the_work(store, tmp_path):
    specs = [Stub(seed=seed, seconds=0.5) for seed in range(4)]
    other = []
    thread = threading.Thread(
        target=lambda: other.extend(
            run_grid(specs, store, workers=2, work_folder=tmp_path / "work", execute=execute)
        )
    )
    thread.start()
    records = run_grid(specs, store, workers=2, work_folder=tmp_path / "work", execute=execute)
    thread.join()
    assert records == other == [store.load(spec) for spec in specs]
    assert [path.read_text() for path in (tmp_path / "work").glob("*.starts")] == ["x"] * 4
    assert not any(path.is_dir() for path in (tmp_path / "work").iterdir())


def test_an_interrupt_ends_the_workers(tmp_path):
    work = tmp_path / "work"
    process = grid_process(tmp_path / "records", work)
    while not list(work.glob("*.pid")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) != 0
    assert not any(alive(int(path.read_text())) for path in work.glob("*.pid"))


def test_a_store_that_is_a_file_is_refused_before_training(tmp_path):
    (tmp_path / "records").write_text("")
    with pytest.raises(RecordError, match="records cannot be written"):
        run_grid(
            [Stub()], RunStore(tmp_path / "records"), work_folder=tmp_path / "work", execute=execute
        )
    assert not (tmp_path / "work").exists()


def test_specs_that_share_a_run_are_carried_out_once(store, tmp_path):
    @dataclass(frozen=True)
    class Arm(Stub):
        def canonical(self):
            return Stub(seed=0)

    records = run_grid(
        [Arm(seed=1), Arm(seed=2), Stub(seed=0)],
        store,
        work_folder=tmp_path / "work",
        execute=execute,
    )
    assert [record["spec"]["seed"] for record in records] == [0, 0, 0]
    assert len(list((tmp_path / "work").glob("*.starts"))) == 1


# Stacks


@pytest.fixture
def stacks(monkeypatch):
    """Lets stand-ins train as stacks; gives the folder and seeds of each stack that was begun."""
    begun = []

    def execute_stack(specs, folder, report):
        begun.append((folder, [spec.seed for spec in specs]))
        folder.mkdir(parents=True, exist_ok=True)
        report(0.5)
        if not (folder / "kept").exists():
            (folder / "kept").touch()
            raise KeyboardInterrupt
        return [
            ValueError("The run diverged.") if spec.seed == 1 else (body(spec), None)
            for spec in specs
        ]

    monkeypatch.setattr(carry_out, "execute_stack", execute_stack)
    return begun


def test_a_stack_that_was_cut_off_goes_on_in_its_folder_and_a_diverged_run_costs_no_other(
    store, tmp_path, stacks
):
    specs = {record_key(spec): spec for spec in [Stub(seed=seed) for seed in range(3)]}
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        run_stack(specs, store, work)
    assert not store.folder.exists()
    assert [read_progress(work / key) for key in specs] == [0.5] * 3
    failures = run_stack(specs, store, work)
    assert stacks[0] == stacks[1] and stacks[0][1] == [0, 1, 2]
    assert [specs[key].seed for key in failures] == [1]
    assert [store.load(spec) is not None for spec in specs.values()] == [True, False, True]
    assert [path.suffix for path in work.iterdir()] == [".lock"] * 3
    with pytest.raises(KeyboardInterrupt):  # only the one without a record begins again
        run_stack(specs, store, work)
    assert stacks[2][1] == [1] and stacks[2][0] != stacks[0][0]


def test_a_grid_trains_runs_of_one_stack_together_and_the_others_alone(
    spec, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("UVLM_BACKEND", "stacked:cpu")
    calls = []

    def note(self, call):
        calls.append(call)
        future = Future()
        future.set_result(None)
        return future

    monkeypatch.setattr(Backend, "submit", note)
    monkeypatch.setattr(Backend, "release", lambda *_: None)
    monkeypatch.setattr(grid, "_written", lambda store, spec: spec)
    some = [spec.vary(seed=seed) for seed in (0, 1)]
    others = [spec.vary(regime="understanding"), spec.vary(tuning="lora"), Stub()]
    run_grid([*some, *others], store, 2, tmp_path / "work")
    seen = [
        {one.training.seed for one in call.args[0].values()}
        if call.func is run_stack
        else call.args[0]
        for call in calls
    ]
    assert {0, 1} in seen and len(seen) == 4
    alone = [one for one in seen if one != {0, 1}]
    assert set(alone) == {canonical_of(other) for other in others}
