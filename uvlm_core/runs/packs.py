"""Packs: the records of a folder in one archive, to carry between machines (not in the paper).

Belongs here: packing records, and taking them into another folder after checking them. Not here:
what a record holds (`store.py`).

A pack is a ZIP file with the records, their pictures, and the sha256 of each in `pack.json`.
"""

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

from uvlm_core.runs.files import RecordError, make_writable, write_whole
from uvlm_core.runs.store import SCHEMA, key_of, parse_record

_CONTENTS = "pack.json"
_LARGEST = 2**30  # bytes that a pack may hold; all records of the laptop profile have some 10 MB


def pack(records: Path, file: Path) -> int:
    """Write all records of a folder and their pictures into the archive `file`.

    Returns the number of records. RecordError when there is none, one is broken, or the archive
    cannot be written.
    """
    paths = sorted(records.glob("*.json"))
    if not paths:
        raise RecordError(f"The folder {records} holds no record to pack.")
    paths += [path.with_suffix(".png") for path in paths if path.with_suffix(".png").exists()]
    files = {path.name: path.read_bytes() for path in paths}
    for name, content in files.items():
        _check(name, content, records / name)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_CONTENTS, json.dumps({"schema": SCHEMA, "files": sums}, indent=1))
        for name, content in files.items():
            archive.writestr(name, content)
    make_writable(file.parent)
    write_whole(file, buffer.getvalue())
    return sum(name.endswith(".json") for name in files)


def unpack(file: Path, records: Path) -> tuple[int, int]:
    """Take the records of a pack into a folder; those that it holds are left.

    All are checked before the first is written. Returns the number of records that were new, and
    of those that were there. RecordError for a file that is no pack, for a pack of another schema,
    with a changed or a missing file, or with a record that differs from the folder's.
    """
    files = _opened(file)
    for name, content in files.items():
        _check(name, content, f"{file}: {name}")
    there = {name for name in files if (records / name).exists()}
    for name in sorted(there):
        if name.endswith(".json") and (records / name).read_bytes() != files[name]:
            raise RecordError(
                f"{records / name} differs from that of {file}; delete the one that is not wanted."
            )
    make_writable(records)
    new = sorted(files.keys() - there, key=lambda name: name.endswith(".json"))
    for name in new:  # records last: their presence says that a run is done
        write_whole(records / name, files[name])
    counts = [sum(name.endswith(".json") for name in some) for some in (new, there)]
    return counts[0], counts[1]


def _opened(file: Path) -> dict[str, bytes]:
    """Return a pack's files by name, unchanged since they were packed."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(each.file_size for each in archive.infolist()) > _LARGEST:
                raise RecordError(f"{file} holds more than {_LARGEST:,} bytes; a pack has fewer.")
            held = {each.filename: archive.read(each) for each in archive.infolist()}
        contents = json.loads(held.pop(_CONTENTS))
        schema, sums = contents["schema"], contents["files"]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{file} is not a whole pack of records ({error}).") from None
    if schema != SCHEMA:
        raise RecordError(f"{file} has records of schema {schema!r}, not {SCHEMA}.")
    found = {name: hashlib.sha256(content).hexdigest() for name, content in held.items()}
    changed = sorted(name for name in {*sums, *found} if sums.get(name) != found.get(name))
    if changed:
        raise RecordError(f"{file} is not as it was packed: {changed[0]} was changed.")
    return held


def _check(name: str, content: bytes, where: Path | str) -> None:
    """Raise a RecordError for a record whose key is not that of its spec and networks."""
    stem, _, suffix = name.partition(".")
    if suffix == "png" and re.fullmatch("[0-9a-f]{16}", stem):
        return
    try:
        record = parse_record(content.decode())
        right = suffix == "json" and stem == record["key"]
        networks = record["provenance"].get("networks", {})
        if not (right and key_of(record["spec"], networks) == stem):
            raise ValueError("its key is not that of its spec and networks")
    except (AttributeError, ValueError) as error:  # a provenance that is no dictionary has no get
        raise RecordError(f"{where} is not a whole record ({error}).") from None
