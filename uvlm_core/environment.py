"""Environment variables and the folder of the cache (no section of the paper).

Belongs here: the only function that reads a variable. An empty variable means its default, as an
unset one does. Not here: what a value means to a backend (`runs/backends.py`), and
`CUDA_VISIBLE_DEVICES`, which keeps CUDA's own meaning.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def variable(name: str, default: str) -> str:
    """Return an environment variable, or the default if it is unset or empty."""
    return os.environ.get(name) or default


def processes() -> tuple[int, int]:
    """Return the number of processes that share a run and this one's rank, as accelerate sets them.

    Empty variables are removed, because accelerate parses them as numbers. ValueError when a
    variable is not a whole number.
    """
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if os.environ.get(name) == "":
            del os.environ[name]
    found = {
        name: variable(name, default) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"))
    }
    for name, value in found.items():
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"The environment variable {name} is {value!r}, not a whole number.")
    return int(found["WORLD_SIZE"]), int(found["RANK"])


def cache_folder() -> Path:
    """Return the absolute path of the cache: `UVLM_CACHE`, or `.cache` in the checkout.

    The cache holds what can be rebuilt. `~` is the user's home. A relative path starts at the
    folder in which the command runs; workers and notebooks get the absolute one.
    """
    return Path(os.path.expanduser(variable("UVLM_CACHE", str(ROOT / ".cache")))).absolute()
