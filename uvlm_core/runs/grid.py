"""Grids of runs (no section of the paper): load the records that exist, carry out the others.

Belongs here: a grid's order, workers and progress bar, and the report of failed runs. Not here:
records (`store.py`), what one run does (`carry_out.py`), where it is carried out (`backends.py`).
"""

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from filelock import FileLock
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from uvlm_core.environment import cache_folder, variable
from uvlm_core.runs.backends import Backend, open_backend
from uvlm_core.runs.files import RecordError, make_writable, read_progress, report_progress
from uvlm_core.runs.store import RunStore, canonical_of, describe, record_key

# s to wait for a shared disk to show what another machine wrote; NFS caches for a minute
_VISIBLE = 90


class RunsFailed(RuntimeError):
    """Failure of some runs of a grid; the others have records. `failures`: key -> exception."""

    def __init__(self, message: str, failures: dict[str, BaseException]):
        super().__init__(message)
        self.failures = failures


def run_grid(
    specs: Iterable,
    store: RunStore,
    workers: int = 2,
    work_folder: Path | None = None,
    execute: Callable | None = None,
) -> list[dict]:
    """Load the records of `specs` from `store` and carry out the missing runs, `workers` at a time.

    Each run is carried out in another process. If that dies or raises, only its run fails: the
    others finish and are recorded, then RunsFailed names every failed run. Local processes end with
    this one; on a cluster (`backends.py`) runs that have begun may go on to their records. A record
    that `store` refuses, a folder that cannot be written to, or a backend that cannot be used stops
    the grid before anything is trained. ValueError when `workers` is not an integer from 1 up.

    Args:
        specs: specs with the same canonical spec share one run.
        work_folder: a run works in `<work_folder>/<key>`. This folder survives a kill, for
            resuming, and is removed once the record exists.
        execute: `execute(spec, folder)` returns a record's body and its pictures or None;
            `carry_out.execute_run` by default.

    Returns: the records in the order of the specs.
    """
    if type(workers) is not int or workers < 1:
        raise ValueError(f"workers {workers!r} is not an integer from 1 up.")
    specs = [canonical_of(spec) for spec in specs]
    keys = [record_key(spec) for spec in specs]
    records = {key: store.load(spec) for key, spec in zip(keys, specs, strict=True)}
    missing = {key: spec for key, spec in zip(keys, specs, strict=True) if records[key] is None}
    if missing:
        work = Path(work_folder) if work_folder else cache_folder() / "runs"
        asked = dict(missing)
        with closing(open_backend()) as backend, _turn():
            missing = {key: spec for key, spec in asked.items() if store.load(spec) is None}
            store.prepare()
            make_writable(work)
            failures = _train(
                missing,
                RunStore(store.folder.absolute()),
                workers,
                work.absolute(),
                execute,
                backend,
            )
        if failures:
            lines = "\n".join(
                f"{describe(missing[key])}: {_reason(error)}" for key, error in failures.items()
            )
            message = (
                f"{len(failures)} of {len(missing)} runs failed; the others are finished "
                f"and kept, and running again resumes these:\n{lines}"
            )
            raise RunsFailed(message, failures) from next(iter(failures.values()))
        records |= {key: _written(store, spec) for key, spec in asked.items()}
    return [records[key] for key in keys]


@contextmanager
def _turn() -> Iterator[None]:
    """Wait until no other notebook of this `make figures` trains: each grid uses all workers.

    `UVLM_TURNS` names the lock. Without it, as in two separate commands, grids share the work.
    """
    place = variable("UVLM_TURNS", "")
    with FileLock(place) if place else nullcontext():
        yield


def _train(
    missing: dict,
    store: RunStore,
    workers: int,
    work: Path,
    execute: Callable | None,
    backend: Backend,
) -> dict[str, BaseException]:
    """Train the specs in `missing` (by key) in parallel and return the exceptions, by key."""
    cost = {
        key: float(spec.cost()) if hasattr(spec, "cost") else 1.0 for key, spec in missing.items()
    }
    # longest first, so that no long run is left alone at the end
    order = sorted(missing, key=cost.get, reverse=True)
    waiting = backend.jobs({key: missing[key] for key in order})
    workers = min(workers, backend.most or workers)
    running, finished, failures = {}, set(), {}

    def work_done() -> float:
        return sum(
            cost[key] * (1 if key in finished else read_progress(work / key)) for key in missing
        )

    def state() -> str:
        return f"{len(finished)} of {len(missing)} runs"

    def show(bar) -> None:
        done = work_done()
        bar.initial = min(bar.initial, done)  # a resumed run may fall back to its last checkpoint
        bar.set_description_str(state(), refresh=False)
        bar.update(done - bar.n)

    bar = tqdm(
        desc=state(),
        total=sum(cost.values()),
        initial=work_done(),
        smoothing=0,
        mininterval=1,
        miniters=0,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} to go",
    )
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                keys = waiting.pop(0)
                call = partial(_run, missing[keys[0]], store, work / keys[0], execute)
                if len(keys) > 1:
                    call = partial(run_stack, {key: missing[key] for key in keys}, store, work)
                running[backend.submit(call)] = keys
            show(bar)
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                keys = running.pop(future)
                backend.release(future)
                finished.update(keys)
                error = future.exception()
                failed = (future.result() or {}) if error is None else dict.fromkeys(keys, error)
                for key, reason in failed.items():
                    bar.write(
                        f"{describe(missing[key])} failed: {_reason(reason)}", file=sys.stderr
                    )
                failures |= failed
        show(bar)
    finally:
        bar.close()
    return failures


def _run(spec, store: RunStore, folder: Path, execute: Callable | None) -> None:
    """Carry out one run in a worker, from its folder to its record.

    A lock lets two grids share the work without sharing a run's folder.
    """
    if record_key(spec) != folder.name:
        raise ValueError(
            f"{describe(spec)} has another key on this machine than where the grid was started "
            f"({folder.name}), because its networks differ; give a cluster one checkout."
        )
    if execute is None:
        # late, because reading records needs no torch
        from uvlm_core.runs.carry_out import execute_run as execute
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if store.load(spec) is None:
            # a grid with another store may have finished this run and removed its folder
            folder.mkdir(exist_ok=True)
            store.save(spec, *execute(spec, folder))
        shutil.rmtree(folder, ignore_errors=True)


def run_stack(specs: dict, store: RunStore, work: Path) -> dict[str, ValueError]:
    """Carry out runs as one stack in a worker, up to their records.

    Each run's lock is held, as in `_run`. The folder is named after all runs of the stack, so that
    the same stack resumes. Returns the errors of the runs that diverged, by key.
    """
    from uvlm_core.runs.carry_out import execute_stack

    work.mkdir(parents=True, exist_ok=True)
    failures = {}
    with ExitStack() as locks:
        for key in sorted(specs):  # in one order, or two grids might wait for each other
            locks.enter_context(FileLock(work / f"{key}.lock"))
        left = {key: spec for key, spec in specs.items() if store.load(spec) is None}
        folder = work / f"stack-{hashlib.sha256(' '.join(left).encode()).hexdigest()[:16]}"

        def report(done: float) -> None:
            for key in left:
                (work / key).mkdir(exist_ok=True)
                report_progress(work / key, done)

        outcomes = execute_stack(list(left.values()), folder, report) if left else []
        for (key, spec), outcome in zip(left.items(), outcomes, strict=True):
            if isinstance(outcome, ValueError):
                failures[key] = outcome
            else:
                store.save(spec, *outcome)
        for name in (*specs, folder.name):
            shutil.rmtree(work / name, ignore_errors=True)
    return failures


def _written(store: RunStore, spec) -> dict:
    """Read the record that a worker wrote; another machine's may take a while to appear here."""
    deadline = time.monotonic() + _VISIBLE
    while (record := store.load(spec)) is None:
        if time.monotonic() > deadline:
            raise RecordError(
                f"{describe(spec)} is finished, but its record is not in "
                f"{store.folder}; the machines "
                f"of a cluster must share that folder."
            )
        time.sleep(0.5)
    return record


def _reason(error: BaseException) -> str:
    """Return why a run failed, in a clause."""
    if isinstance(error, BrokenProcessPool):
        return "its worker died (it was killed, or there was no memory left)"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which a grid does not import
        return "a GPU has too little memory for it, even alone"
    return f"{type(error).__name__}: {error}"
