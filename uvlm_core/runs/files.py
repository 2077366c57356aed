"""Atomic writing of a run's files, and the progress that it reports (no section of the paper).

Belongs here: writing, and its errors in one sentence. Not here: what a record holds (`store.py`).
"""

import os
import uuid
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp"  # suffix of a file that is being written


class RecordError(ValueError):
    """A record that cannot be read or written; the message names the file and what to do."""


def write_whole(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file whole or not at all: to a temporary one beside it, renamed at the end."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_writable(folder: Path) -> None:
    """Make a folder and check that a file can be written to it, before hours are spent on it.

    RecordError when it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{TEMPORARY}"
        write_whole(probe, b"probe")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(
            f"The folder {folder} cannot be written to ({error.strerror or error}); "
            f"make room, grant permission or name another folder."
        ) from error


def report_progress(work_folder: Path, fraction: float) -> None:
    """Report from inside a run how much of its work is done, 0 to 1, for the grid's bar."""
    with suppress(OSError):  # a stale bar is no reason to lose a run
        write_whole(Path(work_folder) / "progress", f"{fraction:.4f}".encode(), sync=False)


def read_progress(work_folder: Path) -> float:
    """Return the progress that a run last reported, 0 to 1; 0 before its first report."""
    try:
        return min(max(float((Path(work_folder) / "progress").read_text()), 0.0), 1.0)
    except (OSError, ValueError):
        return 0.0
