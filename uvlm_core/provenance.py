"""Where a number comes from: the code that made it and the libraries it ran on.

Belongs here: what records (`runs.py`) and figures (`figures.py`) both say of their origin.
"""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = "unknown"  # without git, or outside of a checkout of this project's own


def code_state(*paths: str) -> dict:
    """The commit of this checkout, and whether `paths` differ from it: {"commit": sha, "dirty": bool}."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *paths)
    return {"commit": UNKNOWN if commit is None else commit, "dirty": UNKNOWN if changes is None else changes != ""}


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of some packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _git(*arguments: str) -> str | None:
    try:
        answers = [subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout
                   for words in (("rev-parse", "--show-toplevel"), arguments)]
    except (OSError, subprocess.CalledProcessError):
        return None
    return answers[1].strip() if Path(answers[0].strip()) == ROOT else None
