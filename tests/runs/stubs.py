"""Stand-ins for runs, which cost nothing; tests here send them to other processes."""

import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from uvlm_core.runs.files import report_progress
from uvlm_core.runs.grid import run_grid
from uvlm_core.runs.store import RunStore

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Stub:
    """A spec without networks, so that its run needs no torch."""

    architecture: str = "VQ-VQ"
    regime: str = "unified"
    seed: int = 0
    doses: tuple = (0.1, 0.2)
    seconds: float = 0.0
    networks = ()

    def to_dict(self):
        return asdict(self)

    def __str__(self):
        return f"architecture {self.architecture}, regime {self.regime}, seed {self.seed}"

    def cost(self):
        return 1 + self.seconds


def body(spec):
    row = {
        "fraction": 1.0,
        "metric": "partial",
        "attribute": "weather",
        "value": (spec.seed + 1) / 16,
        "samples": 500,
    }
    return {
        "scores": [row, {**row, "metric": "exact", "value": 0.0}],
        "counts": {"rows": 7},
        "times": {"train": 1.5},
        "provenance": {"commit": "abc", "dirty": False},
        "samples": {"requests": ["Draw it sunny.", "Draw 10:09."]},
    }


def execute(spec, folder):
    """A run that takes its time and notes each start."""
    with open(folder.with_suffix(".starts"), "a") as file:
        file.write("x")
    for step in range(10):
        report_progress(folder, step / 10)
        time.sleep(spec.seconds / 10)
    return body(spec), np.full((2, 8, 8, 3), spec.seed, np.uint8)


def execute_when_told(spec, folder):
    """A run that says that it has begun, and ends when the file "go" is there."""
    with open(folder.parent / "begun", "a") as file:
        file.write("x")
    while not (folder.parent / "go").exists():
        time.sleep(0.02)
    return body(Stub()) | {"provenance": {}, "samples": {}}, None


def execute_and_die(spec, folder):
    """Seed 1 is killed as by the system, seed 2 raises, the others work."""
    if spec.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.seed == 2:
        raise ValueError("seed 2 is not to our taste.")
    return execute(spec, folder)


def execute_environment(spec, folder):
    """A run that returns what its process began with."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    return body(spec) | {
        "counts": {name: os.environ.get(name) for name in names} | {"pid": os.getpid()}
    }, None


def execute_beyond_memory(spec, folder):
    """A run that is too large for its GPU."""
    from torch import OutOfMemoryError

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has 8 GiB.")


def execute_or_fail(spec, folder):
    """Seed 2 raises; the others return their process."""
    if spec.seed == 2:
        raise ValueError("seed 2 is not to our taste.")
    return body(spec) | {"counts": {"pid": os.getpid()}}, None


def execute_with_a_grid(spec, folder):
    """A run that needs another run first, as measurements of trained models do."""
    inner = [Stub(seed=spec.seed + 100)]
    run_grid(inner, RunStore(folder / "inner"), 1, folder / "work", execute)
    return execute(spec, folder)


def execute_with_marker(spec, folder):
    """A run that says where it lives, for a test that looks for orphans."""
    (folder.parent / f"{folder.name}.pid").write_text(str(os.getpid()))
    return execute(spec, folder)


GRID = [Stub(seed=seed, seconds=0.3) for seed in range(6)]


def files(folder):
    """The contents of a folder's files by their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def alive(pid):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
