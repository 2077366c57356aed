"""Text and JSON files that a user gives (no section of the paper).

Belongs here: encodings, and one sentence on what is wrong with a file. Not here: what a file's rows
mean (`data/`).
"""

import json
from pathlib import Path


def read_text(path: Path) -> str:
    """Return the content of a text file with uniform line ends.

    The encoding is UTF-8 unless a byte-order mark or null bytes say UTF-16 or UTF-32. ValueError
    when the file cannot be read, and for the first line that is not text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    encoding = json.detect_encoding(content)  # from the mark, else from the first null bytes
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].decode(encoding, "ignore").count("\n")
        raise ValueError(
            f"{path}, line {line} is not valid {encoding.upper()}: it contains "
            f"{content[error.start : error.end]!r}; save the file as UTF-8."
        ) from None
    if "\0" in text:
        line = 1 + text[: text.index("\0")].count("\n")
        raise ValueError(
            f"{path}, line {line} is no text, as it has null characters; save the file as UTF-8."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, text: str | None = None):
    """Return the content of a JSON file or of its `text`; ValueError if it is not JSON."""
    text = read_text(path) if text is None else text
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None


def _without_twins(pairs: list[tuple]) -> dict:
    """Build a JSON object; refuse a repeated key, as JSON readers differ in the value they keep."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for place, name in enumerate(names) if name in names[:place])
        values = " and ".join(short(value) for name, value in pairs if name == twin)
        raise ValueError(f"the key {twin!r} is given more than once in one object, as {values}")
    return found


def short(value) -> str:
    """Return the repr of a value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
