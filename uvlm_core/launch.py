r"""One run from the command line, on one process or several (no section of the paper; the authors train on three GPUs).

    accelerate launch --num_processes 3 -m uvlm_core.launch --profile laptop -p regime=\"unified\" -p seed=3

Belongs here: the command line of a single run. Not here: grids of runs (`runs.run_grid`), notebooks (`execute.py`).
Without a GPU, accelerate starts several processes only with `--multi_gpu` (they talk through gloo). Several processes
share the rows of each optimiser step out among them, so that the run is the one that a single process would carry out
but for rounding; their number is part of the record's provenance and not of its key. With `--config_file
uvlm_core/accelerate/zero2.yaml` DeepSpeed shares gradients and the optimiser's state out too.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from accelerate import PartialState

from uvlm_core.profiles import RunSpec, profile
from uvlm_core.runs import RunStore, execute_run, record_key
from uvlm_core.weights import cache_folder


def run(spec: RunSpec, records: Path) -> None:
    """Carry out `spec` on this process and its peers; the first one writes the record."""
    store, spec = RunStore(records), spec.canonical()
    if store.load(spec) is not None:
        print(f"{store.path(spec)} is there already.")
        return
    processes, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    folder = cache_folder() / "runs" / f"{record_key(spec)}-{processes}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record, sheet = execute_run(spec, folder)
    finally:
        PartialState().destroy_process_group()  # else a process may abort at its exit, with its work done
    if rank == 0:
        store.save(spec, record | {"provenance": record["provenance"] | {"processes": processes}}, sheet)
        shutil.rmtree(folder, ignore_errors=True)
        print(f"wrote {store.path(spec)}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; bad input is refused in one sentence with exit code 2."""
    parser = argparse.ArgumentParser(description="Carry out one run, on as many processes as accelerate starts.")
    parser.add_argument("--profile", default="laptop", help="the base of the spec")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=JSON", help="a field of the spec")
    parser.add_argument("--records", type=Path, default=Path("build/launch/runs"), help="the folder of the record")
    options = parser.parse_args(arguments)
    try:
        changes = {}
        for given in options.p:
            name, _, value = given.partition("=")
            try:
                changes[name] = json.loads(value)
            except json.JSONDecodeError:
                raise ValueError(f"-p {given!r} is not NAME=JSON, such as seed=3 or regime=\"unified\".") from None
        run(profile(options.profile).spec.vary(**changes), options.records)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
