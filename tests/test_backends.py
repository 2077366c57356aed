"""Where runs are carried out: a Dask cluster of two workers on this machine, one of them killed in the middle."""

import json
import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import dataclass

import pytest
from test_runs import Stub, alive, body, execute_and_die, execute_environment

from uvlm_core.backends import open_backend
from uvlm_core.runs import RunsFailed, RunStore, record_key, report_progress, run_grid


def execute_by_steps(spec, folder):
    """A run of four steps that goes on where its folder stops. Seed 0 stands still after two until it is killed."""
    path = folder / "steps"
    before = len(path.read_text()) if path.exists() else 0
    for step in range(before, 4):
        with open(path, "a") as file:
            file.write("x")
        report_progress(folder, (step + 1) / 4)
        if (spec.seed, before, step) == (0, 0, 1):
            (folder / "processes").write_text(f"{os.getppid()} {os.getpid()}")
            time.sleep(600)
    with open(folder.with_suffix(".finished"), "a") as file:
        file.write("x")
    return body(spec) | {"counts": {"steps before": before, "worker": os.getppid()}}, None


def execute_in_the_cache(spec, folder):
    """A run that says where it is."""
    return body(spec) | {"counts": {"cache": os.environ["UVLM_CACHE"], "folder": str(folder)}}, None


@dataclass(frozen=True)
class Local(Stub):
    """A spec whose key depends on the process, as if networks differed between machines."""

    def to_dict(self):
        return super().to_dict() | {"process": os.getpid()}


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster  # here, as every run of this module imports it

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
                      dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def dask(cluster, monkeypatch):
    """Grids of this test go to the cluster, both workers of which are there."""
    cluster.wait_for_workers(2)
    monkeypatch.setenv("UVLM_BACKEND", f"dask:{cluster.scheduler_address}")


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "records")


def test_a_killed_dask_worker_costs_no_run_and_its_run_goes_on_from_its_folder(dask, store, tmp_path):
    specs = [Stub(seed=seed) for seed in range(4)]
    note, killed = tmp_path / "work" / record_key(specs[0]) / "processes", []

    def kill():
        while not (note.exists() and len(note.read_text().split()) == 2):
            time.sleep(0.05)
        killed.extend(map(int, note.read_text().split()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    records = run_grid(specs, store, workers=2, work_folder=tmp_path / "work", execute=execute_by_steps)
    killer.join()
    assert [record["spec"]["seed"] for record in records] == [0, 1, 2, 3]
    assert [record["counts"]["steps before"] for record in records] == [2, 0, 0, 0]
    assert records[0]["counts"]["worker"] != killed[0] and not alive(killed[1])
    assert len(list(store.folder.iterdir())) == 4
    assert [path.read_text() for path in (tmp_path / "work").glob("*.finished")] == ["x"] * 4
    assert not any(path.is_dir() for path in (tmp_path / "work").iterdir())


def test_a_run_on_dask_has_a_process_of_its_own_that_begins_with_one_thread(dask, store, tmp_path):
    specs = [Stub(seed=seed) for seed in range(3)]
    records = run_grid(specs, store, workers=2, work_folder=tmp_path, execute=execute_environment)
    counts = [record["counts"] for record in records]
    assert {(count["OMP_NUM_THREADS"], count["OMP_WAIT_POLICY"]) for count in counts} == {("1", "PASSIVE")}
    assert len({count["pid"] for count in counts} | {os.getpid()}) == 4
    assert not any(alive(count["pid"]) for count in counts)


def test_a_failure_on_dask_costs_its_run_only_and_says_so(dask, store, tmp_path):
    specs = [Stub(seed=seed) for seed in range(4)]
    with pytest.raises(RunsFailed) as failed:
        run_grid(specs, store, workers=2, work_folder=tmp_path, execute=execute_and_die)
    assert [store.load(spec) is not None for spec in specs] == [True, False, False, True]
    assert "seed 1): its worker died" in str(failed.value)
    assert "seed 2): ValueError: seed 2 is not to our taste." in str(failed.value)


def test_paths_on_a_cluster_do_not_depend_on_where_a_worker_stands(dask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UVLM_CACHE", "cache")
    (record,) = run_grid([Stub()], RunStore("records"), work_folder="work", execute=execute_in_the_cache)
    assert record["counts"] == {"cache": str(tmp_path / "cache"), "folder": str(tmp_path / "work" / record["key"])}


def test_a_dask_cluster_is_found_by_its_scheduler_file(dask, cluster, tmp_path, monkeypatch):
    (tmp_path / "scheduler.json").write_text(json.dumps({"address": cluster.scheduler_address}))
    with closing(open_backend(f"dask:{tmp_path / 'scheduler.json'}")) as backend:
        assert backend.submit(sorted, "ba").exception() is None


