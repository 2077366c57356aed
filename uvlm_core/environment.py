"""What the environment says: the variables that are read here, and the folder of the cache (no
section of the paper).

Belongs here: one way to read a variable; one that is set and empty means its default, as one that
is not set does. Not here: what a value means to a backend (`backends.py`), `CUDA_VISIBLE_DEVICES`,
which is CUDA's own.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def variable(name: str, default: str) -> str:
    """The value of a variable of the environment, or the default."""
    return os.environ.get(name) or default


def processes() -> tuple[int, int]:
    """How many processes carry out a run together, and which of them this is: as accelerate's
    launcher says.

    Empty variables are removed, because accelerate takes them for numbers. ValueError for a value
    that is none.
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
    """The folder of everything that can be rebuilt: `UVLM_CACHE`, or `.cache` in the checkout.

    A relative one is relative to the folder in which a command starts; workers and notebooks get
    the
    whole path. `~` is the user's home.
    """
    return Path(os.path.expanduser(variable("UVLM_CACHE", str(ROOT / ".cache")))).absolute()
