"""Caption files as conversations about image files (paper section 3, real images).

Belongs here: the file formats, generation requests made from captions, the split, pictures fitted
to a size. Not here: conversion to RGB (`pixels.py`), conversations (`conversations.py`), rows of
LLaVA JSON (`llava.py`), the download of the stamps (`stamps.py`).

The paper trains on LLaVA-1.5's and ShareGPT4V's data and turns caption rows into generation
requests. The wording of a row depends only on the picture, its caption and (for requests) a seed,
so the order of rows does not change a row.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePath
from unicodedata import normalize

import numpy as np
from PIL import Image

from uvlm_core.data.conversations import IMAGE, Conversation, Turn, make_conversations
from uvlm_core.data.llava import conversation_of, locate_image, write_llava
from uvlm_core.data.pixels import SUFFIXES, to_rgb
from uvlm_core.data.smart_watch import WORLD_VERSION, sample_watches
from uvlm_core.environment import cache_folder
from uvlm_core.files import read_json, read_text, short

_log = logging.getLogger(__name__)
# the fingerprint of Debian's tuxpaint-stamps-default 2022.06.04-1
STAMPS_SHA256 = "cc07db7817820755c61a8235dd115fb298d1fd11b457fe3f9947af67342f4ddb"
DRAWN = 400  # watches in the set "watches", a stand-in for real pictures
TEST_SHARE = 0.15  # of the pictures, on average
SETTLED = 2_000_000_000  # ns between two changes of a file, enough for different time stamps
DESCRIBE = (  # questions that ask for a caption
    "describe this picture.",
    "what does this picture show?",
    "write a caption for this picture.",
    "please say what is in the picture.",
    "tell me what you see here.",
    "put this picture into words.",
    "what is this a picture of?",
    "give me a caption.",
    "please describe what you see.",
    "what can be seen here?",
)
REQUESTS = (  # openings that ask for a picture; the caption follows
    "draw this:",
    "make a picture of this:",
    "paint this for me:",
    "please draw what i describe:",
    "i want a picture of this:",
    "create an image that shows this:",
    "turn these words into a picture:",
    "show me what this looks like:",
    "give me a picture for this caption:",
    "i need an image of this:",
)
# A human turn asks for a caption if its first line has a word of `_ASKING` and no word outside
# `_ASKING` and `_FILLER`. The caption requests of LLaVA and ShareGPT4V consist of these words. A
# content word ("man", "region", "why") makes the turn a question.
_ASKING = frozenset(
    {
        "account",
        "analyse",
        "analysis",
        "analyze",
        "caption",
        "characterize",
        "clarify",
        "contents",
        "depict",
        "depiction",
        "describe",
        "description",
        "descriptive",
        "details",
        "elaborate",
        "elements",
        "explain",
        "explanation",
        "features",
        "going",
        "happening",
        "illustrate",
        "interpretation",
        "narrate",
        "narrative",
        "portray",
        "rundown",
        "summarise",
        "summarize",
        "summary",
    }
)
_FILLER = frozenset(
    {
        "a",
        "about",
        "all",
        "an",
        "and",
        "are",
        "as",
        "aspects",
        "at",
        "before",
        "below",
        "break",
        "brief",
        "briefly",
        "but",
        "by",
        "can",
        "clear",
        "closely",
        "compact",
        "comprehensive",
        "concise",
        "concisely",
        "content",
        "could",
        "create",
        "detail",
        "detailed",
        "displayed",
        "do",
        "down",
        "everything",
        "examine",
        "exhaustive",
        "following",
        "for",
        "from",
        "give",
        "given",
        "great",
        "here",
        "how",
        "i",
        "image",
        "important",
        "in",
        "informative",
        "into",
        "is",
        "it",
        "its",
        "key",
        "main",
        "manner",
        "me",
        "of",
        "offer",
        "on",
        "one",
        "painting",
        "photo",
        "photograph",
        "picture",
        "please",
        "precision",
        "present",
        "presented",
        "provide",
        "provided",
        "relay",
        "render",
        "representing",
        "rich",
        "s",
        "scene",
        "see",
        "sentence",
        "share",
        "short",
        "shown",
        "shows",
        "snapshot",
        "subsequent",
        "succinct",
        "tell",
        "terse",
        "that",
        "the",
        "think",
        "this",
        "thorough",
        "through",
        "to",
        "using",
        "various",
        "visual",
        "walk",
        "well",
        "what",
        "which",
        "will",
        "with",
        "words",
        "would",
        "write",
        "you",
        "your",
    }
)


def read_pictures(
    captions: str | Path, folder: str | Path, sam: bool = False, quiet: bool = False
) -> list[Conversation]:
    """Read captioned pictures whose files are below `folder`.

    The contents of `captions` tell its format:

    LLaVA JSON (LLaVA-1.5, ShareGPT4V)  rows as `llava.read_llava` describes them, without rows that
                                        have no image and, unless `sam`, rows about SAM's pictures
                                        (a folder "sam" in their path)
    COCO captions JSON                  "images" and "annotations"
    Karpathy's JSON (dataset_*.json)    without its own splits: `split_of` splits all sources
    Flickr30K                           lines "name#number<tab>caption", or "name| number| caption"
                                        (results.csv)
    a folder, the same as `folder`      every picture with a text file of the same name beside it;
                                        the first line of the text is the caption

    The rows are in the file's order, one per picture and caption. A row of LLaVA JSON without a
    task is a caption if its only turn asks for a description (`asks_for_caption`). A picture has
    one name however it is spelled (`locate_image`). Its file must exist but is not decoded. Unless
    `quiet`, one line on stderr counts what is left out. ValueError names the file, the row (from 0)
    and the bad value.
    """
    captions, folder = Path(captions), Path(folder)
    find = lru_cache(maxsize=None)(partial(locate_image, folder))
    if captions.is_dir():
        if captions.resolve() != folder.resolve():
            raise ValueError(
                f"{captions} is a folder, so the pictures are in it and not in {folder}."
            )
        rows, read, left_out = _captioned_files(folder, find)
    else:
        rows, read, left_out = _recognise(captions, folder, sam, find)
    talks = []
    for number, row in enumerate(rows):
        place = f"{captions}, row {number}"
        try:
            found = read(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if isinstance(found, str):
            left_out[found] += 1
        else:
            talks += [replace(talk, source=place) for talk in found]
    without = ", ".join(f"{what} ({count:,})" for what, count in left_out.items() if count)
    if not talks:
        why = f" (left out: {without})" if without else ""
        raise ValueError(f"{captions} has no row with a picture{why}.")
    if without and not quiet:
        _log.warning("%s: rows read: %s; left out: %s.", captions, f"{len(talks):,}", without)
    return talks


@dataclass(frozen=True)
class PictureSet:
    """Captioned pictures in a folder, split into training and test rows."""

    folder: Path
    train: tuple[Conversation, ...]
    test: tuple[Conversation, ...]


@lru_cache(maxsize=4)
def load_pictures(captions: str, folder: str = "", sam: bool = False) -> PictureSet:
    """Load the pictures that a spec names, split into training and test rows.

    `captions` is "stamps" (see `make stamps`), "watches", or a caption file or folder; `folder`
    holds its pictures. "watches" are Smart Watch images with captions, written to the cache as
    LLaVA JSON: a stand-in that needs no pictures. ValueError for stamps that are missing or not
    the package's, for too few pictures to split, and as in `read_pictures`.
    """
    # `~` is expanded as in the name of a network
    captions, place = os.path.expanduser(captions), Path(os.path.expanduser(folder))
    if captions == "stamps":
        place = cache_folder() / "stamps"
        if not place.is_dir():
            raise ValueError(f"The stamps are not in {place}; `make stamps` brings them there.")
        talks = read_pictures(place, place, quiet=True)  # mirrored stamps have no text
        if fingerprint(talks, place) != STAMPS_SHA256:
            raise ValueError(
                f"The stamps in {place} are not those of the package's version "
                "2022.06.04-1, whose records are kept; give their folder as captions "
                "and folder to use them all the same."
            )
    elif captions == "watches":
        place = cache_folder() / f"pictures-watches-{WORLD_VERSION}"
        if not (place / "captions.json").exists():
            watches = sample_watches(0, DRAWN)
            write_llava(
                make_conversations(watches, "caption", 0), watches, place / "captions.json", place
            )
        talks = read_pictures(place / "captions.json", place)
    else:
        talks = read_pictures(captions, place, sam)
    by_caption = captions == "stamps" or Path(captions).is_dir()
    sides = {
        side: tuple(
            talk
            for talk in talks
            if split_of(talk.turns[0].gpt if by_caption else talk.image) == side
        )
        for side in ("train", "test")
    }
    if not all(sides.values()):
        raise ValueError(f"{captions} has too few pictures for a training and a test split.")
    return PictureSet(place, **sides)


@lru_cache(maxsize=4)
def pictures_fingerprint(captions: str, folder: str = "", sam: bool = False) -> str:
    """Return the fingerprint of the pictures that a spec names, for its record.

    The fingerprint of the stamps is a constant. Others are kept in the cache until a file's size,
    times or inode change (`_state`). Every process of every run needs the fingerprint, and the
    files are thus read only once.
    """
    if captions == "stamps":
        return STAMPS_SHA256
    pictures = load_pictures(captions, folder, sam)
    talks, began = (*pictures.train, *pictures.test), time.time_ns()
    state, newest = _state(talks, pictures.folder)
    kept = cache_folder() / "fingerprints" / f"{state}.txt"
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", found := kept.read_text()):
            return found
    found = fingerprint(talks, pictures.folder)
    with suppress(OSError):  # without a writable cache, this only takes longer
        if newest < began - SETTLED:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial_file = kept.with_suffix(f".{os.getpid()}.partial")
            partial_file.write_text(found)
            os.replace(partial_file, kept)
    return found


def _state(talks: Sequence[Conversation], folder: Path) -> tuple[str, int]:
    """Return a hash of rows and file metadata, and the time of the newest change (ns).

    No picture is read. The sha256 covers the rows and each file's size, times and inode. The time
    of the last change (ctime) cannot be set, so new contents under an old mtime are noticed.
    """
    # 1 is the version of `fingerprint`: raise it when `fingerprint` changes
    digest, newest = hashlib.sha256(f"1 {folder.resolve()}".encode()), 0
    for talk in talks:
        turns = [[turn.human, turn.gpt, turn.attributes] for turn in talk.turns]
        digest.update(json.dumps([talk.task, talk.image, turns]).encode())
    for name in sorted({talk.image for talk in talks}):
        try:
            found = os.stat(folder / name)
        except OSError as error:
            raise ValueError(
                f"image {name!r} in {folder} cannot be read: {error.strerror or error}."
            ) from error
        facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(json.dumps([name, *facts]).encode())
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
    return digest.hexdigest(), newest


def _captioned_files(folder: Path, find: Callable) -> tuple[list[Path], Callable, Counter]:
    """Return what `_recognise` does, for a folder of pictures with texts; suffixes in any case."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    named = {path.with_suffix("") for path in pictures}
    told = _by_name((path for path in texts if path.with_suffix("") in named), "texts")
    _by_name((path for path in pictures if path.with_suffix("") in told), "pictures")
    return (
        pictures,
        partial(_file, folder=folder, texts=told, find=find),
        Counter({"texts without a picture": len(texts) - len(told)}),
    )


def _by_name(paths: Iterable[Path], kind: str) -> dict[Path, Path]:
    """Return files by their names without suffix; ValueError for two of one name."""
    found: dict[Path, Path] = {}
    for path in paths:
        if (other := found.setdefault(path.with_suffix(""), path)) is not path:
            raise ValueError(
                f"{other} and {path} are {kind} of the same name, so pictures and "
                "texts cannot be matched; rename or remove one."
            )
    return found


def _file(
    path: Path, folder: Path, texts: dict[Path, Path], find: Callable
) -> list[Conversation] | str:
    if path.with_suffix("") not in texts:
        return "pictures without a text"
    caption = read_text(texts[path.with_suffix("")]).partition("\n")[0]
    return [_captioned(find(path.relative_to(folder).as_posix()), caption)]


def _recognise(
    path: Path, folder: Path, sam: bool, find: Callable
) -> tuple[list, Callable, Counter]:
    """Return a caption file's rows, a reader of rows, and counts of pictures without a row.

    The reader returns a row's conversations, or the reason why the row is left out. `find` is
    `locate_image` for the folder.
    """
    text = read_text(path)
    if text[:1000].lstrip()[:1] not in ("[", "{"):
        return text.split("\n"), partial(_flickr_line, seen=set(), find=find), Counter()
    content = read_json(path, text)
    if isinstance(content, list):
        return content, partial(_llava_row, folder=folder, sam=sam, find=find), Counter()
    images, annotations = content.get("images"), content.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        names = _coco_names(path, images)
        told = {str(row.get("image_id")) for row in annotations if isinstance(row, dict)}
        return (
            annotations,
            partial(_coco_row, names=names, seen=set(), find=find),
            Counter({"pictures without a caption": len(names.keys() - told)}),
        )
    if isinstance(images, list):
        return images, partial(_karpathy_row, find=find), Counter()
    raise ValueError(
        f"{path} is a JSON object of {', '.join(map(repr, content)) or 'nothing'}, "
        "neither COCO's captions ('images' and 'annotations') nor Karpathy's "
        "('images' with 'sentences')."
    )


def _llava_row(row, folder: Path, sam: bool, find: Callable) -> list[Conversation] | str:
    if isinstance(row, dict):
        name = row.get("image")
        if name is None:
            return "rows without an image"
        if not sam and isinstance(name, str) and _of_sam(folder, name):
            return "rows about SAM's pictures"
    talk = conversation_of(row)
    if (
        "task" not in row
        and talk.task == "vqa"
        and len(talk.turns) == 1
        and asks_for_caption(talk.turns[0].human)
    ):
        talk = replace(talk, task="caption")
    return [replace(talk, image=find(talk.image))]


def _of_sam(folder: Path, name: str) -> bool:
    """Return whether the path of a name has a folder "sam" below `folder`; it need not exist."""
    if "sam" not in name:
        return False
    return "sam" in PurePath(os.path.relpath(folder / name.replace("\\", "/"), folder)).parts[:-1]


def _coco_names(path: Path, images: list) -> dict[str, str]:
    """Return the file name of each image id; ValueError for a missing id or an id of two files."""
    names: dict[str, str] = {}
    for number, image in enumerate(images):
        try:
            if not isinstance(image, dict):
                raise ValueError(f"{short(image)} is not an object with the keys id and file_name.")
            if not isinstance(image.get("file_name"), str):
                raise ValueError(f"file_name {short(image.get('file_name'))} is not a file name.")
            key, name = _identifier("id", image.get("id")), image["file_name"]
            if names.setdefault(key, name) != name:
                raise ValueError(f"id {image['id']!r} is given to {names[key]!r} and to {name!r}.")
        except ValueError as error:
            raise ValueError(f"{path}, images, row {number}: {error}") from None
    return names


def _coco_row(row, names: dict[str, str], seen: set[str], find: Callable) -> list[Conversation]:
    if not (isinstance(row, dict) and {"image_id", "caption"} <= row.keys()):
        raise ValueError(
            "the annotation has no 'image_id' or no 'caption'; COCO's captions are in "
            "captions_*.json."
        )
    if _identifier("image_id", row["image_id"]) not in names:
        raise ValueError(f"image_id {row['image_id']!r} is not among the images.")
    if row.get("id") is not None:  # an annotation's id is not needed and may be missing
        _once("id", _identifier("id", row["id"]), seen)
    return [_captioned(find(names[str(row["image_id"])]), row["caption"])]


def _identifier(key: str, value) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"{key} {short(value)} is neither an integer nor a text.")
    return str(value)  # some tools write 7 in one place and "7" in another


def _once(key: str, value: str, seen: set[str]) -> None:
    if value in seen:
        raise ValueError(f"{key} {value!r} is given a second time.")
    seen.add(value)


def _karpathy_row(row, find: Callable) -> list[Conversation] | str:
    if not (
        isinstance(row, dict)
        and isinstance(row.get("filename"), str)
        and isinstance(row.get("sentences"), list)
        and all(isinstance(sentence, dict) for sentence in row["sentences"])
    ):
        raise ValueError("the image has no 'filename', or its 'sentences' are no list of objects.")
    if not isinstance(row.get("filepath", ""), str):
        raise ValueError(f"filepath {short(row['filepath'])} is not the name of a folder.")
    # COCO's pictures are in folders
    name = f"{row['filepath']}/{row['filename']}" if row.get("filepath") else row["filename"]
    return [_captioned(find(name), sentence.get("raw")) for sentence in row["sentences"]] or (
        "pictures without a caption"
    )


def _flickr_line(line: str, seen: set[str], find: Callable) -> list[Conversation]:
    if not line.strip() or line.startswith("image_name|"):
        return []
    # one line of results.csv lacks its second bar
    found = re.fullmatch(r"(.+?)(?:#(\d+)\t|\| *(\d+) *\|?)(.*)", line)
    if not found:
        raise ValueError(
            f"{line[:80]!r} is neither 'name#number<tab>caption' nor 'name| number| caption'."
        )
    name, number, caption = found[1], found[2] or found[3], found[4]
    _once("the caption", f"{name}#{int(number)}", seen)
    if found[3] and re.fullmatch(r'"([^"]|"")*"', caption):  # CSV's escape of quotes and bars
        caption = caption[1:-1].replace('""', '"')
    return [_captioned(find(name), caption)]


def _captioned(name: str, caption) -> Conversation:
    """Return the conversation of a caption, with one of several questions."""
    if not (isinstance(caption, str) and caption.strip()):
        raise ValueError(f"the caption of {name!r} is {caption!r}, not a text.")
    caption = " ".join(caption.split())
    return Conversation(
        "caption", name, (Turn(f"{IMAGE}\n{_choose(DESCRIBE, name, caption)}", caption),)
    )


def asks_for_caption(human: str) -> bool:
    """Return whether a human turn asks for a description of the whole picture.

    The words of its first line decide (`_ASKING`, `_FILLER`).
    """
    # in TextCaps' rows, the lines after it hold words read in the picture
    first = human.replace(IMAGE, "").strip().partition("\n")[0]
    words = set(re.findall(r"\w+", first.lower()))
    return not words.isdisjoint(_ASKING) and words <= _ASKING | _FILLER


def as_request(conversation: Conversation, seed: int) -> Conversation | None:
    """Return a caption row as a generation request, or None for any other row.

    Its wording depends only on the seed, the picture and the caption. ValueError for a seed that is
    not an integer from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed {seed!r} is not an integer from 0.")
    if conversation.task != "caption" or len(conversation.turns) != 1:
        return None
    caption = conversation.turns[0].gpt
    opening = _choose(REQUESTS, seed, conversation.image, caption)
    return replace(conversation, task="generation", turns=(Turn(f"{opening} {caption}", IMAGE),))


def split_of(text: str) -> str:
    """Return the side of a picture, "train" or "test" (about 85 and 15 %).

    `text` is one that near-duplicates share: a stamp's caption (versions of one drawing share it),
    or the file name of any other picture, whose captions then stay together. Case, punctuation and
    the Unicode form of accents do not count. The side does not depend on other pictures.
    """
    words = re.findall(r"\w+", normalize("NFC", text).casefold())
    return "test" if _hash("split", *(words or [text])) < TEST_SHARE * 2**64 else "train"


def open_picture(path: str | Path, size: int) -> np.ndarray:
    """Read a picture file as uint8 (size, size, 3), scaled to fit and centred on white.

    The whole picture is kept, with its proportions and antialiased. ValueError for a size that is
    not from 8 to 1024, and as in `pixels.to_rgb`.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024:
        raise ValueError(f"picture size {size!r} is not an integer from 8 to 1024.")
    return fit_picture(path, size)


def fit_picture(
    picture: str | Path | Image.Image | np.ndarray, size: int, name: str = ""
) -> np.ndarray:
    """Convert any picture as `open_picture` does; error messages call it `name`."""
    picture = to_rgb(picture, name)
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGB", (size, size), "white")
    square.paste(
        picture.resize((width, height), Image.Resampling.LANCZOS),
        ((size - width) // 2, (size - height) // 2),
    )
    return np.array(square)


def open_pictures(folder: Path, names: Sequence[str], size: int) -> np.ndarray:
    """Read several pictures of a folder as uint8 (pictures, size, size, 3)."""
    return np.stack([open_picture(folder / name, size) for name in names])


def fingerprint(conversations: Iterable[Conversation], folder: str | Path) -> str:
    """Return the sha256 of rows, in their order, and of the image files that they name.

    Every file is read whole, even in large sets: training has to decode it anyway, which is more
    work. The folder's own path does not count. ValueError for a picture that is missing or cannot
    be read, and for an image that is a position.
    """
    digest, find = hashlib.sha256(), lru_cache(maxsize=None)(partial(locate_image, Path(folder)))
    names = set()
    for talk in conversations:
        if not isinstance(talk.image, str):
            raise ValueError(
                f"image {talk.image!r} is a position; a fingerprint is of image files."
            )
        row = {
            "task": talk.task,
            "image": find(talk.image),  # relative, so without the folder's path
            "turns": [asdict(turn) for turn in talk.turns],
        }
        digest.update(json.dumps(row).encode() + b"\n")
        names.add(row["image"])
    for name in sorted(names):
        try:
            with open(Path(folder, name), "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ValueError(
                f"image {name!r} in {folder} cannot be read: {error.strerror or error}."
            ) from error
    return digest.hexdigest()


def _choose(options: Sequence[str], *of) -> str:
    return options[_hash(*of) % len(options)]


def _hash(*of) -> int:
    """Return a number below 2**64 that depends only on the values."""
    return int.from_bytes(hashlib.sha256(json.dumps(of).encode()).digest()[:8], "big")
