"""Records of runs, one JSON file per spec (no section of the paper).

Belongs here: the key of a spec, reading and writing its record. Not here: carrying out a run
(`grid.py`, `carry_out.py`), the tables that studies make of the scores (`studies/`).

A record is written last, and whole or not at all. If it exists, the run is not carried out again.
It is kept small: the spec lists only its deviations from the paper, numbers have five significant
digits, and scores are grouped by fraction, metric and attribute.

A spec is any value with `to_dict()` (JSON values) and `networks` (names of networks that the result
depends on). It may have `canonical()` (specs with equal canonical specs share a run) and
`captioned` (`RunSpec.captioned`).
"""

import hashlib
import io
import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from uvlm_core.data.pictures import pictures_fingerprint
from uvlm_core.places import fingerprint
from uvlm_core.runs.files import TEMPORARY, RecordError, make_writable, write_whole

SCHEMA = 2  # of records; those of another one are refused
SCORE_COLUMNS = ("fraction", "metric", "attribute", "value", "samples")
RECORD_DIGITS = 5  # significant digits of measured numbers
_BODY = {
    "scores": list,
    "counts": dict,
    "times": dict,
    "provenance": dict,
    "samples": dict,
    "tables": dict,
}
# s: writing takes milliseconds, so an older temporary file was left by a killed process
_STALE = 60
_LINE_WIDTH = 100  # characters per line of a record; lists may be longer


def canonical_of(spec):
    """Return `spec.canonical()`, which specs that share a run have in common, or `spec` itself."""
    return spec.canonical() if hasattr(spec, "canonical") else spec


def record_key(spec) -> str:
    """Return a run's key: 16 hex digits of the sha256 over its canonical spec and networks."""
    spec = canonical_of(spec)
    return key_of(spec.to_dict(), fingerprints(spec))


def key_of(spec: dict, networks: dict[str, str]) -> str:
    """Return the key of a canonical spec as a dictionary, with the sha256 of its networks."""
    text = json.dumps(
        {"spec": spec, "networks": networks},
        sort_keys=True,
        allow_nan=False,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprints(spec) -> dict[str, str]:
    """Return the sha256 of each network that `spec` names, and of its captioned pictures."""
    captioned = getattr(spec, "captioned", None)
    if not (spec.networks or captioned):
        return {}
    found = {name: fingerprint(name) for name in spec.networks}
    if captioned:
        found[captioned[0]] = pictures_fingerprint(*captioned)
    return found


def describe(spec) -> str:
    """Return a run's key and arm as the subject of a sentence."""
    return f"Run {record_key(spec)} ({spec})"


@dataclass(frozen=True)
class RunStore:
    """A folder of records `<key>.json`, some with generated images in `<key>.png`."""

    folder: Path

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))

    def path(self, spec) -> Path:
        """Return the path of the record of `spec`, whether it exists or not."""
        return self.folder / f"{record_key(spec)}.json"

    def load(self, spec) -> dict | None:
        """Return the record of `spec`, or None if it does not exist.

        Its "scores" are a list of rows, dictionaries of `SCORE_COLUMNS`. RecordError for a file
        that is truncated, not a record, of another schema, or of another spec.
        """
        path = self.path(spec)
        if not path.exists():
            return None
        record = _read(path)
        if record["spec"] != _plain(canonical_of(spec).to_dict()) or record["key"] != path.stem:
            raise RecordError(
                f"{path} is the record of another run than its name says; delete it "
                f"to run it again."
            )
        return record

    def with_key(self, key: str) -> dict:
        """Return the record that is called `key`; RecordError as for `load`."""
        return _read(self.folder / f"{key}.json")

    def save(self, spec, body: dict, pictures: np.ndarray | None = None) -> dict:
        """Write what a run returned as the record of `spec`, and return the record as `load` will.

        ValueError for an invalid body, RecordError when the record cannot be written; then nothing
        is left behind.

        Args:
            body: some of "scores" (rows), "counts", "times", "provenance", "samples", and "tables"
                (name -> column -> values). Scores and entries of tables that are not finite become
                null; all other numbers must be finite.
            pictures: generated images to look at, uint8 (images, height, width, 3).
        """
        path = self.path(spec)
        unknown = sorted(body.keys() - _BODY.keys())
        if unknown:
            raise ValueError(
                f"{describe(spec)} did not return a record: its entry {unknown[0]!r} is not one "
                f"of {', '.join(_BODY)}."
            )
        told = {"schema": SCHEMA, "key": path.stem, "spec": canonical_of(spec).to_dict()}
        try:
            kept = {
                name: body.get(name, kind())
                for name, kind in _BODY.items()
                if name != "tables" or name in body
            }
            kept["scores"] = _grouped(kept["scores"])
            kept |= {
                name: _rounded(kept[name], missing=name in ("scores", "tables"))
                for name in kept
                if name != "provenance"
            }
            if pictures is not None:
                kept["samples"]["pictures"] = len(pictures)
            text = _layout(_plain(told | kept)) + "\n"
            record = parse_record(text)
        except ValueError as error:
            raise ValueError(f"{describe(spec)} did not return a record: {error}.") from None
        picture = path.with_suffix(".png")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if pictures is not None:
                content = io.BytesIO()
                strip = Image.fromarray(np.concatenate(list(pictures), axis=1))
                strip.save(content, format="png", optimize=True)
                write_whole(picture, content.getvalue())
            write_whole(path, text.encode())  # last: its presence is the cache
        except OSError as error:
            if pictures is not None and not path.exists():
                picture.unlink(missing_ok=True)
            raise RecordError(
                f"The record {path} cannot be written ({error.strerror or error}) "
                f"and no part of it was kept; make room or grant permission there and "
                f"run again."
            ) from error
        return record

    def all(self) -> list[dict]:
        """Return every record in the folder, in the order of their keys."""
        return [_read(path) for path in sorted(self.folder.glob("*.json"))]

    def pictures(self, record: dict) -> np.ndarray | None:
        """Return a record's images, uint8 (images, height, width, 3), or None if it has none.

        RecordError when they are missing or broken.
        """
        count = record["samples"].get("pictures")
        if not count:
            return None
        path = self.folder / f"{record['key']}.png"
        try:
            with Image.open(path) as image:
                return np.stack(np.split(np.asarray(image.convert("RGB")), count, axis=1))
        except (OSError, ValueError):
            raise RecordError(
                f"The pictures {path} are missing or not {count} images in one row; "
                f"delete {record['key']}.json to run it again."
            ) from None

    def prepare(self) -> None:
        """Make the folder, check that it can be written to, remove what killed processes left."""
        make_writable(self.folder)
        for path in self.folder.glob(f".*{TEMPORARY}"):
            with suppress(FileNotFoundError):  # another grid on this folder may be faster
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()


def _read(path: Path) -> dict:
    """Read a record; RecordError when it cannot be read or is not one."""
    try:
        return parse_record(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read ({error.strerror or error}); grant permission or "
            f"delete it to run it "
            f"again."
        ) from error
    except ValueError as error:  # not JSON, not text, or not a record
        raise RecordError(
            f"{path} is not a whole record ({error}); delete it to run it again."
        ) from None


def parse_record(text: str) -> dict:
    """Parse a record; ValueError says in a clause what is wrong with it."""
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if record.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {record.get('schema')!r}, not {SCHEMA}")
    for name in ("key", "spec", *_BODY):
        if name not in record and name != "tables":
            raise ValueError(f"it has no {name}")
    return record | {"scores": _rows(record["scores"])}


def _grouped(rows: list[dict]) -> dict:
    """Group score rows for a record: fraction -> metric -> attribute -> [value, samples]."""
    scores: dict = {}
    for row in rows:
        if not isinstance(row, dict) or set(row) != set(SCORE_COLUMNS):
            raise ValueError(
                f"its score {row!r} does not have the entries {', '.join(SCORE_COLUMNS)}"
            )
        group = scores.setdefault(repr(float(row["fraction"])), {}).setdefault(row["metric"], {})
        if row["attribute"] in group:
            raise ValueError(
                f"its score {row!r} has the fraction, metric and attribute of another one"
            )
        group[row["attribute"]] = [row["value"], row["samples"]]
    return scores


def _rows(scores: dict) -> list[dict]:
    """Return the score rows of a record, the inverse of `_grouped`."""
    try:
        return [
            dict(
                zip(
                    SCORE_COLUMNS, (float(fraction), metric, attribute, value, samples), strict=True
                )
            )
            for fraction, metrics in scores.items()
            for metric, attributes in metrics.items()
            for attribute, (value, samples) in attributes.items()
        ]
    except (AttributeError, TypeError, ValueError):
        fault = "its scores are not [value, samples] by fraction, metric and attribute"
        raise ValueError(fault) from None


def _rounded(value, missing: bool):
    """Round floats to `RECORD_DIGITS` significant digits.

    One that is not finite becomes None if `missing`, else raises ValueError.
    """
    if isinstance(value, dict):
        return {name: _rounded(entry, missing) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item, missing) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        if missing:
            return None
        raise ValueError("beside its scores there is a number that is not finite")
    return float(f"{value:.{RECORD_DIGITS}g}")


def _plain(value):
    """Return `value` as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value, allow_nan=False))


def _layout(value, indent: str = "") -> str:
    """Format JSON for people: long objects have one entry a line, lists stay on one line."""
    text = json.dumps(value, allow_nan=False)
    if (
        not isinstance(value, dict)
        or not value
        or indent
        and len(indent) + len(text) <= _LINE_WIDTH
    ):
        return text
    deeper = indent + " "
    lines = [
        f"{deeper}{json.dumps(name)}: {_layout(entry, deeper)}" for name, entry in value.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
