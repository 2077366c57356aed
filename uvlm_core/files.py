"""Text and JSON files that a user gives: read whole, or refused in one sentence (no section of the
paper).

Belongs here: encodings, and what is wrong with a file. Not here: what a file's rows mean (`data/`).
"""

import json
from pathlib import Path


def read_text(path: Path) -> str:
    """What a text file holds, as UTF-8 or as its byte-order mark says, all line ends as one.

    ValueError for a file that cannot be read, and for the first line that is not text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    encoding = json.detect_encoding(content)  # by the mark, else by where the first null bytes are
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].decode(encoding, "ignore").count("\n")
        raise ValueError(
            f"{path}, line {line} is no text in {encoding.upper()}, which has no "
            f"{content[error.start : error.end]!r}; save the file as UTF-8."
        ) from None
    if "\0" in text:
        line = 1 + text[: text.index("\0")].count("\n")
        raise ValueError(
            f"{path}, line {line} is no text, as it has null characters; save the file as UTF-8."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, text: str | None = None):
    """What a JSON file holds, whose `text` may be known; a ValueError names one that is no JSON."""
    text = read_text(path) if text is None else text
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None


def _without_twins(pairs: list[tuple]) -> dict:
    """A JSON object; one that gives a key twice is refused, as readers differ in what they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for place, name in enumerate(names) if name in names[:place])
        values = " and ".join(short(value) for name, value in pairs if name == twin)
        raise ValueError(f"the key {twin!r} is given more than once in one object, as {values}")
    return found


def short(value) -> str:
    """A value as it appears in a message: not a page of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
