r"""One run from the command line, on one process or several (no section of the paper).

    accelerate launch --num_processes 3 -m uvlm_core.runs.launch --profile laptop \
        -p regime=\"unified\" -p seed=3

Belongs here: the command line of a single run. Not here: grids of runs (`grid.py`), notebooks
(`uvlm_core/notebooks.py`).

The authors train on three GPUs. Without a GPU, accelerate starts several processes only with
`--multi_gpu` (they communicate through gloo). Several processes split the rows of each optimiser
step, so the run equals that of a single process up to rounding. Their number is part of the
record's provenance and not of its key. With `--config_file uvlm_core/accelerate/zero2.yaml`
DeepSpeed also shards gradients and the optimiser's state.

A run that diverges writes no record. A run that another command or a grid is carrying out in the
same cache is refused. Both errors are one sentence with exit code 2.
"""

import argparse
import gc
import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from uvlm_core import environment
from uvlm_core.environment import cache_folder
from uvlm_core.runs.carry_out import execute_run
from uvlm_core.runs.files import make_writable
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.training.profiles import profile
from uvlm_core.training.spec import RunSpec

# how long processes wait for one that computes alone, such as in scoring; the Trainer's default
PEER_PATIENCE = timedelta(minutes=30)


def run(spec: RunSpec, records: Path) -> None:
    """Carry out `spec` on this process and its peers; the first one writes the record.

    ValueError on all of them when another `launch` or a grid is carrying it out in this cache.
    """
    store, spec = RunStore(records), spec.canonical()
    environment.processes()  # before accelerate, which fails on an empty one of these variables
    PartialState(cpu=not torch.cuda.is_available(), timeout=PEER_PATIENCE)  # connects the processes
    try:
        # the same lock as a grid's
        lock = FileLock(cache_folder() / "runs" / f"{record_key(spec)}.lock")
        try:
            if _begin(store, spec, lock):
                _carry_out(store, spec)
        finally:
            lock.release()
    finally:
        # Otherwise a process may abort at exit, after its work is done. A trainer is part of a
        # reference cycle and may still hold the group, so it is freed first.
        gc.collect()
        PartialState().destroy_process_group()


def _carry_out(store: RunStore, spec: RunSpec) -> None:
    processes, rank = environment.processes()
    folder = cache_folder() / "runs" / f"{record_key(spec)}-{processes}"
    folder.mkdir(parents=True, exist_ok=True)
    body, pictures = execute_run(spec, folder)
    if rank == 0:
        store.save(
            spec, body | {"provenance": body["provenance"] | {"processes": processes}}, pictures
        )
        shutil.rmtree(folder, ignore_errors=True)
        print(f"wrote {store.path(spec)}")


def _begin(store: RunStore, spec: RunSpec, lock: FileLock) -> bool:
    """Take the lock on the first process, and return on all whether to carry out the run.

    False when its record exists. ValueError on every process when it cannot be carried out.
    """
    _, rank = environment.processes()
    wanted, fault = False, ""
    if rank == 0:
        try:
            wanted = store.load(spec) is None
            if wanted:
                store.prepare()
                make_writable(Path(lock.lock_file).parent)
                lock.acquire(blocking=False)
                wanted = store.load(spec) is None  # the lock's last holder may have written it
        except Timeout:
            fault = (
                f"Run {record_key(spec)} is being carried out in the cache {cache_folder()} "
                f"by another process; start it again when that has ended."
            )
        except (ValueError, OSError) as error:
            fault = str(error)
    wanted, fault = broadcast_object_list([wanted, fault])
    if fault:
        raise ValueError(fault)
    if rank == 0 and not wanted:
        print(f"{store.path(spec)} is there already.")
    return wanted


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; bad input is refused in one sentence with exit code 2."""
    parser = argparse.ArgumentParser(
        description="Carry out one run, on as many processes as accelerate starts."
    )
    parser.add_argument("--profile", default="laptop", help="the base of the spec")
    parser.add_argument(
        "-p", action="append", default=[], metavar="NAME=JSON", help="a field of the spec"
    )
    parser.add_argument(
        "--records", type=Path, default=Path("build/launch/runs"), help="the folder of the record"
    )
    options = parser.parse_args(arguments)
    try:
        changes = {}
        for given in options.p:
            name, _, value = given.partition("=")
            try:
                changes[name] = json.loads(value)
            except json.JSONDecodeError:
                raise ValueError(
                    f'-p {given!r} is not NAME=JSON, such as seed=3 or regime="unified".'
                ) from None
        run(profile(options.profile).spec.vary(**changes), options.records)
    except (ValueError, OSError) as error:  # OSError: a full disk, for example
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
