"""Where runs are carried out: a Dask cluster of two workers on this machine, one of them killed in
the middle.

Slurm jobs are processes of this machine here, and tested where submitit is installed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

import pytest
from stubs import ROOT, Stub, alive, body, execute_and_die, execute_environment

from uvlm_core.runs import backends
from uvlm_core.runs import grid as runs
from uvlm_core.runs.backends import Backend, Slurm, open_backend
from uvlm_core.runs.files import RecordError, report_progress
from uvlm_core.runs.grid import RunsFailed, run_grid
from uvlm_core.runs.store import RunStore, record_key

PLACES = f"{ROOT}:{ROOT / 'tests' / 'runs'}"  # where workers find uvlm_core and this module


def execute_by_steps(spec, folder):
    """A run of four steps that goes on where its folder stops. Seed 0 stands still after two until
    it is killed."""
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
class Elsewhere(Stub):
    """A spec whose key depends on the process, as if networks differed between machines."""

    def to_dict(self):
        return super().to_dict() | {"process": os.getpid()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    import dask  # here, as every run would import them with this module
    from distributed import LocalCluster

    folder = str(tmp_path_factory.mktemp("dask"))
    with (
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def dask(cluster, monkeypatch):
    """Grids of this test go to the cluster, both workers of which are there."""
    cluster.wait_for_workers(2)
    monkeypatch.setenv("UVLM_BACKEND", f"dask:{cluster.scheduler_address}")


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "records")


def hit_the_worker_of_seed_0(specs, store, work, sign):
    """Run a grid of `execute_by_steps` and send its first run's worker a signal in the middle:
    (worker, process)."""
    note, hit = work / record_key(specs[0]) / "processes", []

    def send():
        while not (note.exists() and len(note.read_text().split()) == 2):
            time.sleep(0.05)
        hit.extend(map(int, note.read_text().split()))
        os.kill(hit[0], sign)

    threading.Thread(target=send, daemon=True).start()
    records = run_grid(specs, store, workers=2, work_folder=work, execute=execute_by_steps)
    assert [record["spec"] for record in records] == [store.load(spec)["spec"] for spec in specs]
    assert [record["counts"]["steps before"] for record in records] == [2] + [0] * (len(specs) - 1)
    assert records[0]["counts"]["worker"] != hit[0] and not alive(hit[1])
    assert len(list(store.folder.iterdir())) == len(specs)
    assert [path.read_text() for path in work.glob("*.finished")] == ["x"] * len(specs)
    assert not any(path.is_dir() for path in work.iterdir())
    return hit


# Dask


def test_a_killed_dask_worker_costs_no_run_and_its_run_goes_on_from_its_folder(
    dask, cluster, store, tmp_path
):
    workers = {nanny.pid for nanny in cluster.workers.values()}
    worker, _ = hit_the_worker_of_seed_0(
        [Stub(seed=seed) for seed in range(4)], store, tmp_path / "work", signal.SIGKILL
    )
    assert worker in workers


def test_a_run_on_dask_has_a_process_of_its_own_that_begins_with_one_thread(dask, store, tmp_path):
    specs = [Stub(seed=seed) for seed in range(3)]
    records = run_grid(specs, store, workers=2, work_folder=tmp_path, execute=execute_environment)
    counts = [record["counts"] for record in records]
    began = {(count["OMP_NUM_THREADS"], count["OMP_WAIT_POLICY"]) for count in counts}
    assert began == {("1", "PASSIVE")}
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
    (record,) = run_grid(
        [Stub()], RunStore("records"), work_folder="work", execute=execute_in_the_cache
    )
    assert record["counts"] == {
        "cache": str(tmp_path / "cache"),
        "folder": str(tmp_path / "work" / record["key"]),
    }


def note_the_gpu(spec, folder):
    """Says which GPU it sees, and waits until as many runs have said so as there are at a time."""
    told = folder.parent / "gpus"
    told.mkdir(exist_ok=True)
    (told / str(spec.seed)).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    for _ in range(600):
        if len(list(told.iterdir())) >= 2:
            break
        time.sleep(0.05)
    return body(spec), None


def test_runs_side_by_side_have_a_gpu_each(store, tmp_path, monkeypatch):
    for number in range(2):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    assert backends.local_gpus() == []
    monkeypatch.setattr(backends, "GPUS", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert backends.local_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,4")
    assert backends.local_gpus() == ["5", "3"]
    run_grid([Stub(seed=seed) for seed in range(3)], store, 2, tmp_path / "work", note_the_gpu)
    seen = [(tmp_path / "work" / "gpus" / str(seed)).read_text() for seed in range(3)]
    assert set(seen[:2]) == {"5", "3"} and seen[2] in seen[:2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert backends.local_gpus() == []


def test_a_dask_cluster_is_found_by_its_scheduler_file(dask, cluster, tmp_path, monkeypatch):
    (tmp_path / "scheduler.json").write_text(json.dumps({"address": cluster.scheduler_address}))
    with closing(open_backend(f"dask:{tmp_path / 'scheduler.json'}")) as backend:
        assert backend.submit(sorted, "ba").exception() is None


def test_a_dask_cluster_that_goes_away_fails_its_runs_by_name(store, tmp_path, monkeypatch):
    code = (
        "from distributed import LocalCluster\n"
        "cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=True, "
        "host='127.0.0.1',\n"
        "                       dashboard_address='127.0.0.1:0')\n"
        "print(cluster.scheduler_address, flush=True)\n"
        "input()"
    )
    cluster = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": PLACES, "DASK_TEMPORARY_DIRECTORY": str(tmp_path)},
    )
    monkeypatch.setenv("UVLM_BACKEND", f"dask:{cluster.stdout.readline().strip()}")
    monkeypatch.setattr(backends, "_PATIENCE", 3)
    note = tmp_path / "work" / record_key(Stub()) / "processes"

    def kill():
        while not note.exists():
            time.sleep(0.05)
        cluster.kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(RunsFailed, match="3 of 3 runs failed.*\n.*seed 0"):
        run_grid(
            [Stub(seed=seed) for seed in range(3)],
            store,
            workers=1,
            work_folder=tmp_path / "work",
            execute=execute_by_steps,
        )
    assert note.with_name("steps").read_text() == "xx"
    cluster.communicate()


# Slurm


@pytest.fixture
def slurm(monkeypatch):
    """Grids of this test go to jobs that submitit starts on this machine."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", PLACES)
    monkeypatch.setattr(runs, "open_backend", lambda: Slurm("partition=gpu", cluster="local"))


def test_a_failure_of_a_slurm_job_costs_its_run_only_and_says_so(slurm, store, tmp_path, cache):
    specs = [Stub(seed=seed) for seed in range(3)]
    with pytest.raises(RunsFailed) as failed:
        run_grid(specs, store, workers=3, work_folder=tmp_path / "work", execute=execute_and_die)
    assert [store.load(spec) is not None for spec in specs] == [True, False, False]
    assert "seed 1): its worker died" in str(failed.value)
    assert "seed 2): ValueError: seed 2 is not to our taste." in str(failed.value)
    assert (cache / "slurm").is_dir()


def test_a_slurm_job_that_is_preempted_is_queued_again_and_goes_on(slurm, store, tmp_path):
    hit_the_worker_of_seed_0(
        [Stub(seed=seed) for seed in range(2)], store, tmp_path / "work", signal.SIGUSR2
    )


# Refusals


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "sky",
            "backend 'sky' is not one of loky, dask, ray, slurm, stacked, with an address or "
            "parameters after a colon.",
        ),
        ("loky:4", "backend 'loky' takes nothing after a colon, and has '4'."),
        (
            "dask",
            "backend 'dask:' names neither an address, such as tcp://host:8786, nor a scheduler "
            "file that can be .*",
        ),
        (
            "dask:/no/such.json",
            "backend 'dask:/no/such.json' names neither an address, .* that can be read.",
        ),
        (
            "dask:udp://host",
            "backend 'dask:udp://host' names neither an address, .* that can be read.",
        ),
    ],
)
def test_a_backend_that_is_none_is_refused_before_training(
    name, sentence, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("UVLM_BACKEND", name)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        run_grid([Stub()], store, work_folder=tmp_path / "work", execute=execute_by_steps)
    assert not store.folder.exists() and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("name", "package"),
    [("dask:tcp://127.0.0.1:1", "distributed"), ("ray", "ray"), ("slurm", "submitit")],
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it weren't there
    with pytest.raises(
        ValueError, match=f"needs the package {package}; install it by `python -m pip install -r"
    ):
        open_backend(name)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(backends, "_PATIENCE", 0.5)
    with socket.socket() as taken:  # bound, so that nobody listens there
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"^The Dask scheduler {address} does not answer"):
            open_backend(f"dask:{address}")


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (
            "partition",
            "backend 'slurm:partition' cannot be used .'partition' is not of the form name=value..",
        ),
        ("colour=red", "backend 'slurm:colour=red' cannot be used .Unknown argument 'colour'"),
    ],
)
def test_slurm_parameters_that_are_none_are_refused(where, sentence):
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Slurm(where, cluster="local")


# What else a cluster can get wrong


def test_a_machine_with_other_networks_trains_nothing(store, tmp_path):
    with pytest.raises(
        RunsFailed, match="has another key on this machine .*, because its networks differ"
    ):
        run_grid([Elsewhere()], store, work_folder=tmp_path / "work", execute=execute_by_steps)
    assert not any(store.folder.iterdir()) and not any((tmp_path / "work").iterdir())


def test_a_record_that_went_to_another_disk_is_missed(store, tmp_path, monkeypatch):
    class Far(Backend):
        def _start(self, function, arguments):
            future = Future()
            future.set_result(None)
            return future, lambda: None

    monkeypatch.setattr(runs, "open_backend", Far)
    monkeypatch.setattr(runs, "_VISIBLE", 0)
    with pytest.raises(
        RecordError,
        match="is finished, but its record is not in .*; the machines of a cluster must",
    ):
        run_grid([Stub()], store, work_folder=tmp_path / "work", execute=execute_by_steps)


def test_stacks_need_a_gpu_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "GPUS", tmp_path)
    with pytest.raises(ValueError, match="'stacked' needs a GPU, and this machine has none; 'stac"):
        open_backend("stacked")
    with pytest.raises(ValueError, match="'stacked' takes 'cpu' or nothing, and has 'gpu'"):
        open_backend("stacked:gpu")
    with closing(open_backend("stacked:cpu")) as backend:
        assert backend.all_seeds and backend.most is None
    (tmp_path / "0").touch()
    with closing(open_backend("stacked")) as backend:
        assert backend.most == 1


def test_no_stack_is_larger_than_allowed(spec, monkeypatch):
    monkeypatch.setattr(backends, "STACK", 2)
    runs = {str(seed): spec.vary(seed=seed) for seed in range(5)}
    with closing(open_backend("stacked:cpu")) as backend:
        assert backend.jobs(runs) == [["0", "1"], ["2", "3"], ["4"]]
