"""Backends of a grid: this machine, or a Dask, Ray or Slurm cluster (no section of the paper).

Belongs here: starting a call in another process, and learning how it ended. Not here: which
runs there are, their folders and locks (`grid.py`), what one does (`carry_out.py`), its record
(`store.py`).

The environment variable `UVLM_BACKEND` (`make BACKEND=...`) names the backend:

    loky                         processes of this machine, which end with this one (the default)
    dask:tcp://host:8786         a Dask cluster by the address of its scheduler, or
    dask:/shared/scheduler.json  by the file that `dask scheduler --scheduler-file` writes
    ray, ray:host:6379           the Ray cluster of this machine, or the one at an address
    slurm, slurm:partition=gpu,timeout_min=600
                                 Slurm jobs by submitit, with its parameters
    stacked                      one GPU of this machine, on which small runs of one shape train
                                 as one stack; stacked:cpu does so without a GPU, for tests

The machines of a cluster share a disk with the checkout, the records and the cache at the same
paths. Their Python has the same packages and finds `uvlm_core` (`PYTHONPATH`). The state of a run
is its folder, lock and record on that disk. If its worker dies, another one resumes from the folder
as soon as the lock is free. On one machine it is free at once. Between machines the file system
must support `flock` (NFS 4 does; Lustre if mounted with it). The server then frees the lock of a
vanished machine after a minute or two. Without `flock` a lock is a file that outlives its machine,
and the run waits until somebody deletes it.
"""

import importlib
import json
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

from joblib.externals.loky import ProcessPoolExecutor

from uvlm_core.environment import cache_folder, variable

GPUS = Path("/proc/driver/nvidia/gpus")
STACK = 128  # most runs in a stack
_PATIENCE = 10  # s, for a scheduler to answer
# environment of every call; torch and numpy read it on import, so it is set before
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # a run that opens a grid of its own would wait for the turn that its own grid holds
    "UVLM_TURNS": "",
}


def local_gpus() -> list[str]:
    """Return the CUDA names of this process's GPUs, as the driver lists them (without torch)."""
    count = len(list(GPUS.glob("*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # an empty one means no GPU, as for CUDA
    return (
        [str(number) for number in range(count)]
        if visible is None
        else [name for name in visible.split(",") if name][:count]
    )


def open_backend(name: str | None = None) -> "Backend":
    """Open the backend `name`, by default `UVLM_BACKEND` or else loky; `close` it after use.

    ValueError for an unknown name, a package that is not installed, and a cluster that does not
    answer.
    """
    name = name or variable("UVLM_BACKEND", "loky")
    kind, _, where = name.partition(":")
    if kind not in _BACKENDS:
        raise ValueError(
            f"backend {name!r} is not one of {', '.join(_BACKENDS)}, with an address "
            f"or parameters after a colon."
        )
    return _BACKENDS[kind](where)


class Backend:
    """A place to carry out calls, each in another process; subclasses define `_start`."""

    most: int | None = None  # calls at a time, whatever the grid allows
    all_seeds = False  # whether it serves best to be given the runs of all seeds at once

    def __init__(self):
        self._environment = _ENVIRONMENT | {"UVLM_CACHE": str(cache_folder())}
        self._stops: dict[Future, Callable[[], object]] = {}

    def jobs(self, runs: dict[str, object]) -> list[list[str]]:
        """Return the keys of runs (key -> spec) by call: here, each run is one of its own."""
        return [[key] for key in runs]

    def submit(self, function: Callable, *arguments) -> Future:
        """Start a call; its future holds the exception of the call or of its worker, if any."""
        future, stop = self._start(function, arguments)
        self._stops[future] = stop
        return future

    def release(self, future: Future) -> None:
        """Free what a call holds, and stop it if it can be stopped and has not ended."""
        self._stops.pop(future)()

    def close(self) -> None:
        """Release all calls and leave the cluster."""
        for future in list(self._stops):
            self.release(future)

    def _start(self, function: Callable, arguments: tuple) -> tuple[Future, Callable[[], object]]:
        raise NotImplementedError


class Loky(Backend):
    """Processes of this machine, which end with this one; each sees one GPU, if there is any.

    A process carries out one call after another, because importing torch takes longer than a small
    run; after a call that failed it is not used again. Each has its own executor: loky's executor
    breaks as a whole when one of its processes dies.
    """

    def __init__(self, where: str = ""):
        if where:
            raise ValueError(f"backend 'loky' takes nothing after a colon, and has {where!r}.")
        super().__init__()
        self._gpus, self._taken = local_gpus(), []
        self._idle: dict[str | None, list[ProcessPoolExecutor]] = {}

    def close(self) -> None:
        super().close()
        for idle in self._idle.values():
            while idle:
                idle.pop().shutdown(kill_workers=True)

    def _start(self, function, arguments):
        gpu = min(self._gpus, key=self._taken.count, default=None)  # the one with the fewest calls
        self._taken += [gpu]
        idle = self._idle.setdefault(gpu, [])
        visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        executor = idle.pop() if idle else _own_process(self._environment | visible)
        future = executor.submit(function, *arguments)

        def stop():
            self._taken.remove(gpu)
            if future.done() and future.exception() is None:
                idle.append(executor)
            else:
                executor.shutdown(kill_workers=True)

        return future, stop


class Stacked(Loky):
    """One GPU of this machine, on which runs of one shape train together (`training/stacked.py`).

    Runs that cannot be stacked, and those that are alone with their shape, are carried out as by
    loky, on that GPU.
    """

    all_seeds = True

    def __init__(self, where: str = ""):
        if where not in ("", "cpu"):
            raise ValueError(f"backend 'stacked' takes 'cpu' or nothing, and has {where!r}.")
        super().__init__()
        if not (where or self._gpus):
            raise ValueError(
                "backend 'stacked' needs a GPU, and this machine has none; 'stacked:cpu' does "
                "without, at the speed of one run after another."
            )
        self.most = len(self._gpus) or None  # two stacks would share a GPU's memory

    def jobs(self, runs):
        """Return the keys of runs by stack, at most `STACK` in one."""
        from uvlm_core.training.stacked import stack_key  # late: reading records needs no torch

        stacks: dict[tuple, list[str]] = {}
        for key, spec in runs.items():
            stacks.setdefault(stack_key(spec) or (key,), []).append(key)
        return [
            keys[start : start + STACK]
            for keys in stacks.values()
            for start in range(0, len(keys), STACK)
        ]


class Dask(Backend):
    """An existing Dask cluster.

    A call whose worker dies is restarted on another one, three times by Dask's default. A call that
    has begun cannot be stopped: after an interrupt it goes on to its end.
    """

    def __init__(self, where: str):
        super().__init__()
        distributed = _package("distributed", "dask")
        address = where if where.startswith(("tcp://", "tls://")) else _scheduler_of(where)
        try:
            self._client = distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The Dask scheduler {address} does not answer ({_sentence(error)})."
            ) from None

    def _start(self, function, arguments):
        task = self._client.submit(
            _alone, self._environment, _packed(function, arguments), pure=False
        )
        return _follow(partial(self._result, task), task.cancel)

    def _result(self, task) -> BaseException | None:
        """Wait for a task; poll, because one submitted as the scheduler goes away never ends."""
        while self._client.status in ("running", "connecting"):
            with suppress(TimeoutError):
                return task.result(_PATIENCE)
        raise ConnectionError("the Dask scheduler went away")

    def close(self):
        super().close()
        self._client.close()


class Ray(Backend):
    """An existing Ray cluster; a call takes one CPU, and one GPU if the cluster has any.

    A call whose worker dies is restarted, three times by Ray's default.
    """

    def __init__(self, where: str = ""):
        super().__init__()
        self._ray = _package("ray", "ray")
        try:
            if where:  # Ray itself would try for minutes, and start a cluster for "local"
                host, _, port = where.rpartition(":")
                socket.create_connection((host, port), _PATIENCE).close()
            self._ray.init(where or "auto", log_to_driver=False, logging_level="error")
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"The Ray cluster {where or 'of this machine'} does not answer "
                f"({_sentence(error)})."
            ) from None
        gpus = 1 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0
        self._call = self._ray.remote(num_cpus=1, num_gpus=gpus)(_alone)

    def _start(self, function, arguments):
        task = self._call.remote(self._environment, _packed(function, arguments))
        return _follow(partial(self._ray.get, task), partial(self._ray.cancel, task, force=True))

    def close(self):
        super().close()
        self._ray.shutdown()


class Slurm(Backend):
    """Slurm jobs by submitit, whose files go into the cache; `timeout_min` is an hour by default.

    A job that is preempted or runs out of time is requeued, three times by submitit's default.
    """

    def __init__(self, where: str = "", cluster: str = "slurm"):
        super().__init__()
        submitit = _package("submitit", "slurm")
        try:
            self._executor = submitit.AutoExecutor(cache_folder() / "slurm", cluster)
            self._executor.update_parameters(
                name="uvlm", **{"slurm_timeout_min": 60} | _parameters(where)
            )
        except (NameError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"backend 'slurm:{where}' cannot be used ({_sentence(error)})."
            ) from None

    def _start(self, function, arguments):
        try:
            job = self._executor.submit(
                _Resumable(), self._environment, _packed(function, arguments)
            )
        except RuntimeError as error:  # what sbatch says
            raise ValueError(f"Slurm does not take the job ({_sentence(error)}).") from None
        return _follow(job.result, partial(job.cancel, check=False))


_BACKENDS = {"loky": Loky, "dask": Dask, "ray": Ray, "slurm": Slurm, "stacked": Stacked}


class _Resumable:
    """The call of a Slurm job; because it has a `checkpoint`, submitit requeues a stopped job."""

    def __call__(self, environment, call):
        return _alone(environment, call)

    def checkpoint(self, environment, call):
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, environment, call)


def _packed(function: Callable, arguments: tuple) -> bytes:
    """Pickle a call, so that only its own process and no cluster's worker imports its code."""
    return pickle.dumps(partial(function, *arguments))


def _carry_out(call: bytes) -> None:
    pickle.loads(call)()


def _alone(environment: dict[str, str], call: bytes) -> BaseException | None:
    """Carry out a call in a new process on a cluster, and return its exception or None.

    A worker lives long. In a new process, threads are set before numpy and torch are imported, and
    the code is what the checkout holds now. A run that needs too much memory does not kill the
    worker.
    """
    # Dask's workers are daemons, which may not start processes
    multiprocessing.current_process().daemon = False
    executor = _own_process(environment)
    try:
        return executor.submit(_carry_out, call).exception()
    finally:
        executor.shutdown(kill_workers=True)


def _own_process(environment: dict[str, str]) -> ProcessPoolExecutor:
    """Return an executor of one process, which ends with this one."""
    return ProcessPoolExecutor(
        1, env=environment, initializer=_follow_parent, initargs=(os.getpid(),)
    )


def _follow_parent(parent: int) -> None:
    """Leave interrupts to the parent process, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _follow(
    wait: Callable[[], BaseException | None], cancel: Callable[[], object]
) -> tuple[Future, Callable[[], object]]:
    """Return a future of a call on a cluster, and a function that stops it.

    `wait` blocks until the call has ended and returns its exception or None.
    """
    future = Future()

    def follow():
        try:
            error = wait()
        except BaseException as fault:
            error = fault
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    threading.Thread(target=follow, daemon=True).start()
    return future, lambda: future.done() or cancel()


def _scheduler_of(path: str) -> str:
    """Return the address in a scheduler file of Dask."""
    try:
        return json.loads(Path(path).read_text())["address"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"backend 'dask:{path}' names neither an address, such as "
            f"tcp://host:8786, nor a scheduler file that can be read."
        ) from None


def _parameters(text: str) -> dict[str, int | str]:
    """Parse `partition=gpu,timeout_min=600` into submitit's parameters."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if not (name and value):
            raise ValueError(f"{part!r} is not of the form name=value")
        found[f"slurm_{name}"] = int(value) if value.isdigit() else value
    return found


def _package(name: str, backend: str) -> ModuleType:
    """Import an optional package; the ValueError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"backend {backend!r} needs the package {name}; install it by `python -m "
            f"pip install -r requirements.txt -r requirements-cluster.txt`."
        ) from None


def _sentence(error: BaseException) -> str:
    """Return the first line of an error."""
    return str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
