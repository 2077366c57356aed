"""Provenance of results: their code and their libraries (no section of the paper).

Belongs here: what both records (`carry_out.py`) and figures (`studies/style.py`) state about their
origin.
"""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from uvlm_core.environment import ROOT

UNKNOWN = "unknown"  # without git, or outside a checkout of this project


def code_state(*paths: str) -> dict:
    """Return the commit of this checkout, and whether `paths` differ from it.

    Returns: {"commit": sha, "dirty": bool}, both "unknown" without git.
    """
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *paths)
    return {
        "commit": UNKNOWN if commit is None else commit,
        "dirty": UNKNOWN if changes is None else changes != "",
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of some packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _git(*arguments: str) -> str | None:
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
            ).stdout
            for words in (("rev-parse", "--show-toplevel"), arguments)
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return answers[1].strip() if Path(answers[0].strip()) == ROOT else None
