"""Publication of figures whose content has changed (no section of the paper).

Belongs here: `publish`, which copies the figures of notebooks into `figures/`. Not here: how a
figure is drawn and saved (`style.py`), what it shows (each study's file).

Redrawing from the same records must leave a checkout clean on any machine, so files are compared
by content, not by bytes. The four files of a figure stay as they are if

- the CSV has the same columns and rows, and its numbers differ at most by rounding,
- the provenance states the same facts, apart from date, commit and versions,
- the picture has the same pixels, except a few that another processor rounds differently.

Otherwise all four are replaced. The PDF is not compared: it is drawn from the same figure as the
picture.
"""

import json
import math
import os
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

VOLATILE = ("date", "commit", "dirty", "versions")  # when and where a figure was drawn
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # tolerances of numbers; files hold six digits
LEVELS = 32  # of 255; a pixel that differs by more has changed
STRAYS = 2e-5  # share of changed pixels that rounding may cause; one changed letter exceeds it


def publish(source: Path, destination: Path) -> list[Path]:
    """Copy every file below `source` to the same place below `destination`, all or none.

    A figure (all files of one name) stays as it is if its content is the same. Returns every file's
    path below `destination`. OSError when a file cannot be copied; then nothing is replaced.
    """
    files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
    fresh = {
        file.with_suffix("")
        for file in files
        if not says_the_same(source / file, destination / file)
    }
    parts = []
    try:
        for file in files:
            if file.with_suffix("") in fresh:
                target = destination / file
                target.parent.mkdir(parents=True, exist_ok=True)
                parts.append((target.with_name(f".{target.name}.part"), target))
                shutil.copyfile(source / file, parts[-1][0])
    except OSError:
        for part, _ in parts:
            part.unlink(missing_ok=True)
        raise
    for part, target in parts:
        os.replace(part, target)
    return [destination / file for file in files]


def says_the_same(new: Path, old: Path) -> bool:
    """Return whether two files of a figure have the same content; False if `old` is missing."""
    if not old.is_file():
        return False
    if new.suffix == ".pdf" and new.with_suffix(".png").exists():
        return True  # drawn from the same figure as the PNG, which is compared
    first, second = new.read_bytes(), old.read_bytes()
    if first == second:
        return True
    compare = {".csv": _same_table, ".json": _same_facts, ".png": _same_picture}.get(new.suffix)
    try:
        return compare is not None and compare(new, old)
    except (ValueError, OSError):  # unreadable files are replaced
        return False


def _same_table(new: Path, old: Path) -> bool:
    first, second = (
        pd.read_csv(StringIO(path.read_text(encoding="utf-8")), dtype=str, keep_default_na=False)
        for path in (new, old)
    )
    if list(first) != list(second) or len(first) != len(second):
        return False
    return all(_same_column(first[name], second[name]) for name in first)


def _same_column(first: pd.Series, second: pd.Series) -> bool:
    """Return whether two text columns are equal, except for the rounding of numbers."""
    odd = (first != second).to_numpy()
    numbers = [pd.to_numeric(column[odd], errors="coerce") for column in (first, second)]
    return bool(np.isclose(*numbers, rtol=RELATIVE, atol=ABSOLUTE).all())  # text is NaN: not close


def _same_facts(new: Path, old: Path) -> bool:
    facts = [json.loads(path.read_text(encoding="utf-8")) for path in (new, old)]
    if not all(isinstance(fact, dict) for fact in facts):
        return False
    return _alike(*({name: fact[name] for name in fact if name not in VOLATILE} for fact in facts))


def _alike(first, second) -> bool:
    """Return whether two JSON values differ at most by rounding and by the order of keys."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            _alike(first[name], second[name]) for name in first
        )
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(first) is type(second) and first == second


def _same_picture(new: Path, old: Path) -> bool:
    first, second = (np.asarray(Image.open(path).convert("RGB"), np.int16) for path in (new, old))
    if first.shape != second.shape:
        return False
    strays = (np.abs(first - second).max(-1) > LEVELS).mean()
    return bool(strays <= STRAYS)
