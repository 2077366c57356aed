"""Runs as values (no section of the paper): a spec leads to one JSON record, and a grid loads its runs or trains them.

Belongs here: the key of a spec, reading and writing records, the order of a grid, provenance. Not here:
what a run computes (`training.py`), where it is carried out (`backends.py`), which runs a figure needs and the tables
of their scores (`experiments.py`).

The presence of a record is the cache. It is written whole or not at all, after everything else of its run, so a kill
at any moment costs no more than the work since the last checkpoint.
"""

import hashlib
import io
import json
import math
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from joblib.externals.loky.process_executor import BrokenProcessPool
from PIL import Image
from tqdm import tqdm

from uvlm_core.backends import Backend, open_backend
from uvlm_core.conversations import read_json
from uvlm_core.environment import cache_folder, processes
from uvlm_core.provenance import code_state, versions

SCHEMA = 1  # of the record; another one is refused
SCORE_COLUMNS = ("fraction", "metric", "attribute", "value", "samples")
_BODY = ("scores", "counts", "times", "provenance", "samples")  # what a run adds to its schema, key and spec
_TEMPORARY = ".tmp"
_VISIBLE = 90  # s, after which a shared disk shows what another machine wrote; NFS remembers for a minute
_STALE = 60  # s: writing a record takes milliseconds, so an older temporary file belongs to a process that was killed


class RecordError(ValueError):
    """A record that cannot be read or written; the message names the file and what to do."""


class RunsFailed(RuntimeError):
    """Some runs of a grid failed; `failures` holds the exception of each, by key. All others have their record."""

    def __init__(self, message: str, failures: dict[str, BaseException]):
        super().__init__(message)
        self.failures = failures


def record_key(spec) -> str:
    """The name of a run: 16 hex digits of the sha256 over its spec and the contents of the networks it names.

    `spec` has `to_dict()` (JSON values) and `networks` (names for `weights.fingerprint`), as `RunSpec` has.
    """
    text = json.dumps({"spec": spec.to_dict(), "networks": _fingerprints(spec)}, sort_keys=True, allow_nan=False,
                      separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunStore:
    """A folder of records: `<key>.json`, and `<key>.png` with a contact sheet of generated images beside it."""

    folder: Path

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))

    def path(self, spec) -> Path:
        """Where the record of `spec` is or will be."""
        return self.folder / f"{record_key(spec)}.json"

    def load(self, spec) -> dict | None:
        """The record of `spec`, or None where there is none.

        Raises RecordError for a file that is truncated, no record, of another schema, or of another spec.
        """
        path = self.path(spec)
        if not path.exists():
            return None
        record = _read(path)
        if record["spec"] != _plain(spec.to_dict()) or record["key"] != path.stem:
            raise RecordError(f"{path} is the record of another run than its name says; delete it to run it again.")
        return record

    def save(self, spec, record: dict, sheet: Image.Image | None = None) -> dict:
        """Write what a run returned (`scores`, `counts`, `times`, `provenance`, `samples`) as the record of `spec`.

        Returns the whole record as `load` will. A score that is not finite is missing: null. Of other
        numbers none may be; ValueError. The record is there whole or not at all; when writing fails,
        RecordError says why and nothing is left behind.
        """
        path = self.path(spec)
        record = {"schema": SCHEMA, "key": path.stem, "spec": spec.to_dict(),
                  **{name: record.get(name, [] if name == "scores" else {}) for name in _BODY}}
        if sheet is not None:
            record["samples"] = {**record["samples"], "sheet": f"{path.stem}.png"}
        record["scores"] = _without_nan(record["scores"])
        try:
            record = _plain(record)
        except ValueError:
            raise ValueError(f"{_describe(spec)} did not return a record: beside its scores there is "
                             "a number that is not finite.") from None
        if _fault(record):
            raise ValueError(f"{_describe(spec)} did not return a record: {_fault(record)}.")
        picture = path.with_suffix(".png")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if sheet is not None:
                content = io.BytesIO()
                sheet.save(content, format="png")
                _write(picture, content.getvalue())
            _write(path, (_layout(record) + "\n").encode())  # last: its presence is the cache
        except OSError as error:
            if sheet is not None and not path.exists():
                picture.unlink(missing_ok=True)
            raise RecordError(f"The record {path} cannot be written ({error.strerror or error}) and nothing is left of "
                              f"it; make room or grant permission there and run again.") from error
        return record

    def all(self) -> list[dict]:
        """Every record in the folder, in the order of their keys."""
        return [_read(path) for path in sorted(self.folder.glob("*.json"))]

    def sheet(self, record: dict) -> Image.Image | None:
        """The contact sheet that belongs to `record`, or None if its run generated no images."""
        name = record["samples"].get("sheet")
        if name is None:
            return None
        try:
            with Image.open(self.folder / name) as image:
                return image.convert("RGB")
        except OSError:
            raise RecordError(f"The contact sheet {self.folder / name} is missing or no image; "
                              f"delete {record['key']}.json to run it again.") from None

    def prepare(self) -> None:
        """Make the folder, prove that it can be written to, and remove what killed processes left in it."""
        make_writable(self.folder)
        for path in self.folder.glob(f".*{_TEMPORARY}"):
            with suppress(FileNotFoundError):  # another grid on this folder may be faster
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()


def execute_run(spec, work_folder: Path) -> tuple[dict, Image.Image | None]:
    """Train and score `spec`, resuming from what `work_folder` holds: the record without its key, and a contact sheet.

    Provenance: versions, commit, whether `uvlm_core` or the requirements differed from it, device, threads, the sha256
    of each network, and when the run was started and resumed.
    """
    import torch  # late: whoever only reads records needs no torch

    from uvlm_core.training import train_and_score

    torch.set_num_threads(spec.threads)
    sessions = _open_session(Path(work_folder))
    result, sheet = train_and_score(spec, Path(work_folder))
    first, *later = sessions
    provenance = {
        "started": first["started"],
        "resumed": [session["started"] for session in later],
        "commit": first["commit"],
        "dirty": any(session["dirty"] or session["commit"] != first["commit"] for session in sessions),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions("torch", "transformers", "peft", "numpy"),
        "networks": _fingerprints(spec),
    }
    return {**result, "provenance": provenance | result.get("provenance", {})}, sheet


def report_progress(work_folder: Path, fraction: float) -> None:
    """Say from inside a run how much of its work is done, 0 to 1; the grid's bar reads it."""
    with suppress(OSError):  # a bar that stands still is no reason to lose a run
        _write(Path(work_folder) / "progress", f"{fraction:.4f}".encode(), sync=False)


def read_progress(work_folder: Path) -> float:
    """What the run in `work_folder` last reported, 0 before its first report."""
    try:
        return min(max(float((Path(work_folder) / "progress").read_text()), 0.0), 1.0)
    except (OSError, ValueError):
        return 0.0


def run_grid(specs: Iterable, store: RunStore, workers: int = 2, work_folder: Path | None = None,
             execute: Callable = execute_run) -> list[dict]:
    """Load the records of `specs` from `store` and train the missing ones, `workers` at a time: records in their order.

    Each run has a process of its own, so that nothing of an earlier one is in its way. The death of that process, or
    an exception in it, costs its run only: the others finish and are recorded, then RunsFailed names every run that
    failed. On this machine no process outlives this one; on a cluster (`backends.py`) runs that have begun may go on to
    their records. `execute(spec, folder)` returns a record's body and a sheet; the folder, `<work_folder>/<key>`,
    outlives a kill, for resuming, and is removed once the record is there. A record that `store` refuses, a folder that
    cannot be written to, or a backend that cannot be used stops the grid before anything is trained.
    """
    if type(workers) is not int or workers < 1:
        raise ValueError(f"workers {workers!r} is not an integer from 1 up.")
    specs = list(specs)
    keys = [record_key(spec) for spec in specs]
    records = {key: store.load(spec) for key, spec in zip(keys, specs, strict=True)}
    missing = {key: spec for key, spec in zip(keys, specs, strict=True) if records[key] is None}
    if missing:
        work = Path(work_folder) if work_folder else cache_folder() / "runs"
        with closing(open_backend()) as backend:
            store.prepare()
            make_writable(work)
            failures = _train(missing, RunStore(store.folder.absolute()), workers, work.absolute(), execute, backend)
        if failures:
            lines = "\n".join(f"{_describe(missing[key])}: {_reason(error)}" for key, error in failures.items())
            raise RunsFailed(f"{len(failures)} of {len(missing)} runs failed; the others are finished and kept, and "
                             f"running again resumes these:\n{lines}", failures) from next(iter(failures.values()))
        records |= {key: _written(store, spec) for key, spec in missing.items()}
    return [records[key] for key in keys]


def _train(missing: dict, store: RunStore, workers: int, work: Path, execute: Callable,
           backend: Backend) -> dict[str, BaseException]:
    """Train the specs in `missing` (by key) in parallel and return what went wrong, by key."""
    cost = {key: float(spec.cost()) if hasattr(spec, "cost") else 1.0 for key, spec in missing.items()}
    waiting = sorted(missing, key=cost.get, reverse=True)  # the longest first, so that none is left alone at the end
    running, finished, failures = {}, set(), {}

    def work_done() -> float:
        return sum(cost[key] * (1 if key in finished else read_progress(work / key)) for key in missing)

    def state() -> str:
        return f"{len(finished)} of {len(missing)} runs"

    def show(bar) -> None:
        done = work_done()
        bar.initial = min(bar.initial, done)  # what was cut off before its first checkpoint is lost
        bar.set_description_str(state(), refresh=False)
        bar.update(done - bar.n)

    bar = tqdm(desc=state(), total=sum(cost.values()), initial=work_done(), smoothing=0, mininterval=1, miniters=0,
               bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} to go")
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                key = waiting.pop(0)
                running[backend.submit(_run, missing[key], store, work / key, execute)] = key
            show(bar)
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                backend.release(future)
                finished.add(key)
                if future.exception() is not None:
                    failures[key] = future.exception()
                    bar.write(f"{_describe(missing[key])} failed: {_reason(failures[key])}", file=sys.stderr)
        show(bar)
    finally:
        bar.close()
    return failures


def _run(spec, store: RunStore, folder: Path, execute: Callable) -> None:
    """In a worker: one run from its folder to its record. The lock lets two grids share the work, not the folder."""
    if record_key(spec) != folder.name:
        raise ValueError(f"{_describe(spec)} is {folder.name} where the grid was started, so its networks are others "
                         f"on this machine; give a cluster one checkout.")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if store.load(spec) is None:
            folder.mkdir(exist_ok=True)  # another grid may have finished and removed it, into another store
            store.save(spec, *execute(spec, folder))
        shutil.rmtree(folder, ignore_errors=True)


def _written(store: RunStore, spec) -> dict:
    """The record that a worker wrote, perhaps on another machine, from where it may take a while to be seen here."""
    deadline = time.monotonic() + _VISIBLE
    while (record := store.load(spec)) is None:
        if time.monotonic() > deadline:
            raise RecordError(f"{_describe(spec)} is finished, but its record is not in {store.folder}; the machines "
                              f"of a cluster must share that folder.")
        time.sleep(0.5)
    return record


def _describe(spec) -> str:
    """A run in a sentence: its key and its arm."""
    values = spec.to_dict()
    arm = ", ".join(f"{name} {values[name]}" for name in ("architecture", "regime", "seed"))
    return f"Run {record_key(spec)} ({arm})"


def _reason(error: BaseException) -> str:
    """Why a run failed, in a clause."""
    if isinstance(error, BrokenProcessPool):
        return "its worker died (it was killed, or there was no memory left)"
    return f"{type(error).__name__}: {error}"


def _open_session(folder: Path) -> list[dict]:
    """Note in a run's folder that it starts (again), when, and with which code: all such notes, the first one first.

    Of several processes of one run (`launch.py`) the first one takes the note.
    """
    path = folder / "sessions.json"
    sessions = read_json(path) if path.exists() else []
    told = {"started", "commit", "dirty"}
    if not (isinstance(sessions, list)
            and all(isinstance(each, dict) and told <= each.keys() for each in sessions)):
        raise RecordError(f"{path} does not say when this run was started; delete it to go on from "
                          "the last checkpoint.")
    session = {"started": datetime.now(UTC).isoformat(timespec="seconds"),
               **code_state("uvlm_core", "requirements.txt")}
    if processes()[1] == 0:
        try:
            _write(path, json.dumps([*sessions, session]).encode())
        except OSError as error:
            raise RecordError(f"{path} cannot be written ({error.strerror or error}); make room or "
                              f"grant permission there and run again.") from error
    return [*sessions, session]


def _fingerprints(spec) -> dict[str, str]:
    """The sha256 of each network that `spec` names, and of its pictures."""
    if not spec.networks:
        return {}
    from uvlm_core.pictures import pictures_fingerprint
    from uvlm_core.weights import fingerprint  # late, as it imports torch

    found = {name: fingerprint(name) for name in spec.networks}
    if getattr(spec, "pictures", ""):
        found[spec.pictures] = pictures_fingerprint(spec.pictures, spec.picture_folder, spec.sam_pictures)
    return found


def _read(path: Path) -> dict:
    """A record that is one, or a RecordError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror or error}); grant permission or delete it to run it "
                          f"again.") from error
    except ValueError as error:  # no JSON, or no text
        raise RecordError(f"{path} is not a whole record ({error}); delete it to run it again.") from None
    fault = _fault(record)
    if fault:
        raise RecordError(f"{path} is not a whole record ({fault}); delete it to run it again.")
    return record


def _fault(record) -> str | None:
    """What is wrong with a record, None if nothing is."""
    if not isinstance(record, dict):
        return "it is no JSON object"
    if record.get("schema") != SCHEMA:
        return f"its schema is {record.get('schema')!r}, not {SCHEMA}"
    for name in ("key", "spec", *_BODY):
        if name not in record:
            return f"it has no {name}"
    for row in record["scores"]:
        if not isinstance(row, dict) or set(row) != set(SCORE_COLUMNS):
            return f"its score {row!r} has not the entries {', '.join(SCORE_COLUMNS)}"
    return None


def make_writable(folder: Path) -> None:
    """Make a folder and prove that a file can be written to it, before hours are spent on what belongs there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{_TEMPORARY}"
        _write(probe, b"probe")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(f"The folder {folder} cannot be written to ({error.strerror or error}); make room, grant "
                          f"permission or name another folder.") from error


def _write(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a whole file or none: a temporary one in the same folder, renamed at the end."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
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


def _layout(value, indent: str = "") -> str:
    """JSON for people: an object has one entry a line, a list one item a line."""
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, allow_nan=False)
    deeper = indent + "  "
    if isinstance(value, dict):
        lines = [f"{deeper}{json.dumps(name)}: {_layout(entry, deeper)}" for name, entry in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + json.dumps(item, allow_nan=False) for item in value) + f"\n{indent}]"


def _plain(value):
    """`value` as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value, allow_nan=False))


def _without_nan(value):
    """`value` with None for every number that JSON cannot write."""
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
