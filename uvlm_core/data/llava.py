"""Read and write conversations as LLaVA JSON beside a folder of images (paper section 3, data).

Belongs here: the files. Not here: conversations themselves (`conversations.py`), other formats of
captioned pictures (`pictures.py`).
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from unicodedata import normalize

import numpy as np
from PIL import Image

from uvlm_core.data.conversations import IMAGE, TASKS, Conversation, Turn
from uvlm_core.data.pixels import to_rgb
from uvlm_core.data.smart_watch import Watch, render
from uvlm_core.files import read_json, short


def write_llava(
    conversations: Sequence[Conversation],
    images: Sequence | None,
    json_path: str | Path,
    image_folder: str | Path,
    size: int = 64,
) -> None:
    """Write conversations as LLaVA JSON, and their images as PNG files.

    A PNG file is named after the JSON and the image's position in `images`. `images` holds watches
    (rendered at `size` px), PIL images of any kind or uint8 arrays (H, W, 3), converted by
    `pixels.to_rgb`. It may be None if all conversations name files, which must be in
    `image_folder`. Everything is validated first and the JSON is written last. Every file appears
    whole or not at all. ValueError for bad input, and also for a full disk or a forbidden folder.
    """
    json_path, image_folder = Path(json_path), Path(image_folder)
    positions, rows = {}, []  # file name -> position in `images`
    read = lru_cache(maxsize=None)(partial(_readable, image_folder))
    for number, talk in enumerate(conversations):
        try:
            if not isinstance(talk, Conversation):
                raise ValueError(f"{talk!r} is not a Conversation.")
            name = talk.image
            if isinstance(name, int):
                if images is None or name >= len(images):
                    raise ValueError(
                        f"image {name} is not among the "
                        f"{0 if images is None else len(images)} images."
                    )
                name = f"{json_path.stem}_{talk.image:06d}.png"
                if name not in positions and not isinstance(images[talk.image], Watch):
                    _picture(images[talk.image], talk.image, size)
                positions[name] = talk.image
            else:
                name = read(name)
        except ValueError as error:
            raise ValueError(f"{json_path}, row {number}: {error}") from None
        said = [
            {"from": side, "value": getattr(turn, side)}
            for turn in talk.turns
            for side in ("human", "gpt")
        ]
        rows.append(
            {
                "id": f"{json_path.stem}_{number:06d}",
                "task": talk.task,
                "image": name,
                "conversations": said,
                "attributes": [list(turn.attributes) for turn in talk.turns],
            }
        )
    for number, (talk, row) in enumerate(zip(conversations, rows, strict=True)):
        if isinstance(talk.image, str) and row["image"] in positions:
            raise ValueError(
                f"{json_path}, row {number}: image {row['image']!r} is a file that "
                f"would be overwritten by image {positions[row['image']]}."
            )
    for position in positions.values():
        if isinstance(images[position], Watch):
            # one watch is enough to refuse a bad size before anything is written
            render(images[position], size)
            break
    try:
        image_folder.mkdir(parents=True, exist_ok=True)
        json_path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=image_folder) as images_aside,
            tempfile.TemporaryDirectory(dir=json_path.parent) as json_aside,
        ):  # a rename cannot cross file systems
            for name, position in positions.items():
                _picture(images[position], position, size).save(Path(images_aside, name))
            Path(json_aside, json_path.name).write_text(
                json.dumps(rows, indent=1), encoding="utf-8"
            )
            # without the JSON, an image of the same name may belong to a JSON elsewhere
            for name in positions:
                there, new = image_folder / name, Path(images_aside, name)
                if (
                    not json_path.exists()
                    and there.exists()
                    and there.read_bytes() != new.read_bytes()
                ):
                    raise ValueError(
                        f"{there} already exists with other contents, and rows of "
                        f"another JSON may be about it; give {json_path} another name."
                    )
            for name in positions:
                os.replace(Path(images_aside, name), image_folder / name)
            os.replace(Path(json_aside, json_path.name), json_path)
    except OSError as error:
        raise ValueError(
            f"{json_path} and its images cannot be written: {error.strerror or error}."
        ) from error


def _picture(image: Watch | Image.Image | np.ndarray, position: int, size: int) -> Image.Image:
    """Convert a watch (rendered at `size`), PIL image or uint8 array (H, W, 3) to an RGB image."""
    if isinstance(image, Watch):
        return render(image, size)
    if not isinstance(image, Image.Image | np.ndarray):
        raise ValueError(
            f"image {position} is {short(image)}, neither a Watch, a PIL image nor a "
            "uint8 array (H, W, 3)."
        )
    return to_rgb(image, f"image {position}")


def read_llava(json_path: str | Path, image_folder: str | Path) -> list[Conversation]:
    """Read LLaVA JSON whose images are files below `image_folder`; the inverse of `write_llava`.

    Rows are {"image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}; "task" and
    "attributes" are optional. The default task is generation if a gpt turn holds "<image>",
    otherwise vqa. "<image>" may also end the first human turn, as in LLaVA's own data; it is moved
    to the start. Rows without an image are refused. Every picture is decoded once, so it can be
    opened later. It has one name however it is spelled (`locate_image`). ValueError names the file,
    the row (from 0) and the bad value.
    """
    json_path, image_folder = Path(json_path), Path(image_folder)
    rows = read_json(json_path)
    if not isinstance(rows, list):
        raise ValueError(
            f"{json_path} holds a JSON {type(rows).__name__}, not a list of conversations."
        )
    read, conversations = lru_cache(maxsize=None)(partial(_readable, image_folder)), []
    for number, row in enumerate(rows):
        place = f"{json_path}, row {number}"
        try:
            talk = conversation_of(row)
            conversations.append(replace(talk, image=read(talk.image), source=place))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return conversations


def conversation_of(row) -> Conversation:
    """Convert a row of LLaVA JSON to a conversation, as described in `read_llava`.

    ValueError names the bad value.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{short(row)} is not an object with the keys image and conversations.")
    for key in ("image", "conversations"):
        if key not in row:
            raise ValueError(
                f"the key {key!r} is missing; there are {', '.join(map(repr, row)) or 'none'}."
            )
    if not isinstance(row["image"], str):
        raise ValueError(f"image {short(row['image'])} is not a file name.")
    said = row["conversations"]
    if not (
        isinstance(said, list)
        and said
        and all(
            isinstance(part, dict) and isinstance(part.get("value"), str) and "from" in part
            for part in said
        )
    ):
        raise ValueError(
            f"conversations {short(said)} is not a list of objects with the keys from and value."
        )
    for place, part in enumerate(said):
        expected = ("human", "gpt")[place % 2]
        if part["from"] != expected:
            raise ValueError(
                f"turn {place} is from {part['from']!r} where {expected!r} is expected; "
                "turns alternate human, gpt."
            )
    if len(said) % 2:
        raise ValueError(
            f"the {len(said)} turns end with 'human'; "
            "turns alternate human, gpt and end with 'gpt'."
        )
    human, gpt = ([part["value"] for part in said[start::2]] for start in (0, 1))
    task = row.get("task", "generation" if any(IMAGE in text for text in gpt) else "vqa")
    if task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}.")
    if task == "generation":
        gpt = [text.strip() for text in gpt]
    elif not human[0].startswith(f"{IMAGE}\n") and human[0].count(IMAGE) == 1:
        before, after = (text.strip() for text in human[0].split(IMAGE))
        # in the middle of a text, the place may mean something: `Conversation` refuses it
        if not (before and after):
            human[0] = f"{IMAGE}\n{before or after}"
    attributes = row.get("attributes", [[]] * len(human))
    if not (
        isinstance(attributes, list)
        and len(attributes) == len(human)
        and all(isinstance(names, list) for names in attributes)
    ):
        raise ValueError(
            f"attributes {short(attributes)} is not one list per pair of turns ({len(human)} here)."
        )
    return Conversation(task, row["image"], tuple(map(Turn, human, gpt, attributes)))


def _readable(folder: Path, name: str) -> str:
    """Return the one name of an image file; ValueError if the file cannot be decoded."""
    name = locate_image(folder, name)
    to_rgb(folder / name, f"image {name!r} in {folder}")
    return name


def locate_image(folder: Path, name: str) -> str:
    """Return the one name of an image file, relative to its folder and with links followed.

    "./a.png", "sub/../a.png" and the full path all become "a.png", wherever the folder is. If no
    file has exactly the given name, backslashes are read as slashes and accents in either of
    Unicode's forms. ValueError for a file that is outside the folder or missing.
    """
    slashed = name.replace("\\", "/")
    spellings = dict.fromkeys((name, slashed, normalize("NFC", slashed), normalize("NFD", slashed)))
    try:
        inside, paths = folder.resolve(), [(folder / spelling).resolve() for spelling in spellings]
        path = next((path for path in paths if path.is_file()), None)
    # too long a name, a ring of links, a null byte
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"image {short(name)} is not a usable file name.") from error
    if not (path or paths[0]).is_relative_to(inside):
        raise ValueError(f"image {name!r} is outside the image folder {folder}.")
    if path is None:
        raise ValueError(f"image {name!r} is missing from {folder}.")
    return path.relative_to(inside).as_posix()
