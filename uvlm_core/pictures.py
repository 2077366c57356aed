"""Captioned pictures (paper section 3, real images): caption files read by path, as conversations about image files.

Belongs here: the formats, requests made from captions, the split, pictures as pixels. Not here: how watches are drawn
(`smart_watch.py`), conversations and LLaVA's rows (`conversations.py`), where stamps come from (`stamps.py`).

The paper trains on LLaVA-1.5's and ShareGPT4V's data and turns caption rows into generation requests. Nothing here is
drawn at random: a wording depends on the picture and its caption (and a seed), so a row is the same in any order.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from uvlm_core.conversations import (
    IMAGE,
    Conversation,
    Turn,
    conversation_of,
    locate_image,
    make_conversations,
    read_json,
    write_llava,
)
from uvlm_core.smart_watch import WORLD_VERSION, sample_watches
from uvlm_core.weights import cache_folder

# the fingerprint of Debian's tuxpaint-stamps-default 2022.06.04-1
STAMPS = "cc07db7817820755c61a8235dd115fb298d1fd11b457fe3f9947af67342f4ddb"
DRAWN = 400  # watches that stand in for pictures where there are none
TEST_SHARE = 0.15  # of the pictures, on average
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")  # some of Pillow's others start programs to read a file
DESCRIBE = (  # what asks for a caption
    "describe this picture.", "what does this picture show?", "write a caption for this picture.",
    "please say what is in the picture.", "tell me what you see here.", "put this picture into words.",
    "what is this a picture of?", "give me a caption.", "please describe what you see.", "what can be seen here?")
REQUESTS = (  # what asks for a picture; the caption follows
    "draw this:", "make a picture of this:", "paint this for me:", "please draw what i describe:",
    "i want a picture of this:", "create an image that shows this:", "turn these words into a picture:",
    "show me what this looks like:", "give me a picture for this caption:", "i need an image of this:")
# A human text without a task asks for a caption if it has one of the first words and, in its first line, no word but
# these: LLaVA's and ShareGPT4V's ways to ask for a description of the whole picture are made of them. A word of content
# ("man", "region", "why") makes it a question.
_ASKING = frozenset({
    "account", "analyse", "analysis", "analyze", "caption", "characterize", "clarify", "contents", "depict",
    "depiction", "describe", "description", "descriptive", "details", "elaborate", "elements", "explain",
    "explanation", "features", "going", "happening", "illustrate", "interpretation", "narrate", "narrative",
    "portray", "rundown", "summarise", "summarize", "summary"})
_BESIDE = frozenset({
    "a", "about", "all", "an", "and", "are", "as", "aspects", "at", "before", "below", "break", "brief", "briefly",
    "but", "by", "can", "clear", "closely", "compact", "comprehensive", "concise", "concisely", "content", "could",
    "create", "detail", "detailed", "displayed", "do", "down", "everything", "examine", "exhaustive", "following",
    "for", "from", "give", "given", "great", "here", "how", "i", "image", "important", "in", "informative", "into",
    "is", "it", "its", "key", "main", "manner", "me", "of", "offer", "on", "one", "painting", "photo", "photograph",
    "picture", "please", "precision", "present", "presented", "provide", "provided", "relay", "render",
    "representing", "rich", "s", "scene", "see", "sentence", "share", "short", "shown", "shows", "snapshot",
    "subsequent", "succinct", "tell", "terse", "that", "the", "think", "this", "thorough", "through", "to", "using",
    "various", "visual", "walk", "well", "what", "which", "will", "with", "words", "would", "write", "you", "your"})


def read_pictures(captions: str | Path, folder: str | Path, sam: bool = False) -> list[Conversation]:
    """Read captioned pictures whose files are below `folder`; the format of `captions` is seen from its contents.

    LLaVA JSON (LLaVA-1.5, ShareGPT4V)   as `conversations.read_llava` reads it; rows without an image are left out, and
                                         rows of SAM pictures (a folder "sam" in their path) too, unless `sam`
    COCO captions JSON                   "images" and "annotations"
    Karpathy's JSON (dataset_*.json)     its own splits are ignored: `split_of` serves all sources alike
    Flickr30K                            lines "name#number<tab>caption", or "name| number| caption" (results.csv)
    a folder, the same as `folder`       every PNG with a text file beside it, whose first line is the caption

    The rows are in the file's order, one per picture and caption. A row to which LLaVA JSON gives no task is a caption
    if it is one turn that asks for a description (`asks_for_caption`). Pictures must be there but are not decoded:
    `open_picture` does that. ValueError names the file, the row (from 0) and the bad value.
    """
    captions, folder = Path(captions), Path(folder)
    if captions.is_dir():
        if captions.resolve() != folder.resolve():
            raise ValueError(f"{captions} is a folder, so the pictures are in it and not in {folder}.")
        rows, read = sorted(folder.rglob("*.png")), partial(_stamp, folder=folder)
    else:
        rows, read = _recognise(captions, sam)
    talks, seen = [], set()
    for number, row in enumerate(rows):
        try:
            for talk in read(row):
                if talk.image not in seen:
                    locate_image(folder, talk.image)
                    seen.add(talk.image)
                talks.append(talk)
        except ValueError as error:
            raise ValueError(f"{captions}, row {number}: {error}") from None
    if not talks:
        raise ValueError(f"{captions} has no row with a picture.")
    return talks


@dataclass(frozen=True)
class PictureSet:
    """Captioned pictures in a folder, and the two sides they are on."""

    folder: Path
    train: tuple[Conversation, ...]
    test: tuple[Conversation, ...]


@lru_cache(maxsize=4)
def load_pictures(captions: str, folder: str = "", sam: bool = False) -> PictureSet:
    """The pictures that a spec names: "stamps" (`make stamps`), or a caption file and the folder of its pictures.

    "watches" are some Smart Watch images with captions, written to the cache as LLaVA JSON: a stand-in that needs no
    pictures. ValueError for stamps that are not there or not the package's, and as `read_pictures`.
    """
    place = Path(folder)
    if captions == "stamps":
        place = cache_folder() / "stamps"
        if not place.is_dir():
            raise ValueError(f"The stamps are not in {place}; `make stamps` brings them there.")
        talks = read_pictures(place, place)
        if fingerprint(talks, place) != STAMPS:
            raise ValueError(f"The stamps in {place} are not those of the package's version 2022.06.04-1, whose "
                             "records are kept; give their folder as captions and folder to use them all the same.")
    elif captions == "watches":
        place = cache_folder() / f"pictures-watches-{WORLD_VERSION}"
        if not (place / "captions.json").exists():
            watches = sample_watches(0, DRAWN)
            write_llava(make_conversations(watches, "caption", 0), watches, place / "captions.json", place)
        talks = read_pictures(place / "captions.json", place)
    else:
        talks = read_pictures(captions, place, sam)
    by_caption = captions == "stamps" or Path(captions).is_dir()
    sides = {side: tuple(talk for talk in talks if split_of(talk.turns[0].gpt if by_caption else talk.image) == side)
             for side in ("train", "test")}
    if not all(sides.values()):
        raise ValueError(f"{captions} has too few pictures for two sides.")
    return PictureSet(place, **sides)


@lru_cache(maxsize=4)
def pictures_fingerprint(captions: str, folder: str = "", sam: bool = False) -> str:
    """What the pictures are that a spec names, for its record; of the stamps without having them."""
    if captions == "stamps":
        return STAMPS
    pictures = load_pictures(captions, folder, sam)
    return fingerprint((*pictures.train, *pictures.test), pictures.folder)


def _recognise(path: Path, sam: bool) -> tuple[list, Callable]:
    """The rows of a caption file, and what makes the conversations of one; a row that is left out makes none."""
    try:
        with open(path, "rb") as file:
            start = file.read(1000).lstrip()[:1]
        if start not in (b"[", b"{"):
            return path.read_text(encoding="utf-8").split("\n"), _flickr_line
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is neither JSON nor text: {error}.") from None
    content = read_json(path)
    if isinstance(content, list):
        return content, partial(_llava_row, sam=sam)
    images, annotations = content.get("images"), content.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        names = {str(image.get("id")): image.get("file_name") for image in images if isinstance(image, dict)}
        return annotations, partial(_coco_row, names=names)
    if isinstance(images, list):
        return images, _karpathy_row
    raise ValueError(f"{path} is a JSON object of {', '.join(map(repr, content)) or 'nothing'}, neither COCO's "
                     "captions ('images' and 'annotations') nor Karpathy's ('images' with 'sentences').")


def _llava_row(row, sam: bool) -> list[Conversation]:
    if isinstance(row, dict):
        name = row.get("image")
        if name is None or not sam and isinstance(name, str) and "sam" in name.split("/")[:-1]:
            return []
    talk = conversation_of(row)
    if "task" not in row and talk.task == "vqa" and len(talk.turns) == 1 and asks_for_caption(talk.turns[0].human):
        talk = replace(talk, task="caption")
    return [talk]


def _coco_row(row, names: dict[str, str]) -> list[Conversation]:
    if not (isinstance(row, dict) and {"image_id", "caption"} <= row.keys()):
        raise ValueError("the annotation has no 'image_id' or no 'caption'; COCO's captions are in captions_*.json.")
    if str(row["image_id"]) not in names:
        raise ValueError(f"image_id {row['image_id']!r} is not among the images.")
    return [_captioned(names[str(row["image_id"])], row["caption"])]


def _karpathy_row(row) -> list[Conversation]:
    if not (isinstance(row, dict) and isinstance(row.get("filename"), str) and isinstance(row.get("sentences"), list)
            and all(isinstance(sentence, dict) for sentence in row["sentences"])):
        raise ValueError("the image has no 'filename', or its 'sentences' are no list of objects.")
    name = f"{row['filepath']}/{row['filename']}" if row.get("filepath") else row["filename"]  # COCO's have folders
    return [_captioned(name, sentence.get("raw")) for sentence in row["sentences"]]


def _flickr_line(line: str) -> list[Conversation]:
    if not line.strip() or line.startswith("image_name|"):
        return []
    found = re.fullmatch(r"(.+?)(?:#\d+\t|\| *\d+ *\|?)(.*)", line)  # one line of results.csv lacks its second bar
    if not found:
        raise ValueError(f"{line[:80]!r} is neither 'name#number<tab>caption' nor 'name| number| caption'.")
    return [_captioned(found[1], found[2])]


def _stamp(path: Path, folder: Path) -> list[Conversation]:
    text = path.with_suffix(".txt")
    if not text.is_file():  # mirrored drawings of a stamp have no text of their own
        return []
    try:
        caption = text.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{text} cannot be read: {error}.") from error
    return [_captioned(path.relative_to(folder).as_posix(), caption)]


def _captioned(name, caption) -> Conversation:
    """A caption row, asked for in one of several wordings."""
    if not isinstance(name, str):
        raise ValueError(f"image {name!r} is not a file name.")
    if not (isinstance(caption, str) and caption.strip()):
        raise ValueError(f"the caption of {name!r} is {caption!r}, not a text.")
    caption = " ".join(caption.split())
    return Conversation("caption", name, (Turn(f"{IMAGE}\n{_choose(DESCRIBE, name, caption)}", caption),))


def asks_for_caption(human: str) -> bool:
    """Whether a human turn asks for a description of the whole picture, by its first line (`_ASKING`, `_BESIDE`)."""
    first = human.replace(IMAGE, "").strip().partition("\n")[0]  # TextCaps' rows go on with words read in the picture
    words = set(re.findall(r"\w+", first.lower()))
    return not words.isdisjoint(_ASKING) and words <= _ASKING | _BESIDE


def as_request(conversation: Conversation, seed: int) -> Conversation | None:
    """The generation request that a caption row makes, None for any other row; exact per seed, picture and caption."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed {seed!r} is not an integer from 0.")
    if conversation.task != "caption" or len(conversation.turns) != 1:
        return None
    caption = conversation.turns[0].gpt
    opening = _choose(REQUESTS, seed, conversation.image, caption)
    return Conversation("generation", conversation.image, (Turn(f"{opening} {caption}", IMAGE),))


def split_of(text: str) -> str:
    """The side of a picture, "train" or "test" (about 85 and 15 %), from a text that its near-duplicates share.

    Give a stamp's caption (versions of one drawing share it) and the file name of any other picture, whose captions
    then stay together. Case and punctuation do not count. A picture's side does not depend on what else is read.
    """
    words = re.findall(r"\w+", text.casefold())
    return "test" if _hash("split", *(words or [text])) < TEST_SHARE * 2**64 else "train"


def open_picture(path: str | Path, size: int) -> np.ndarray:
    """A picture as uint8 (size, size, 3): on white, whole, its proportions kept, resized with antialiasing.

    ValueError for a file that is missing, broken, of another format than `FORMATS`, of pixels without a known range
    (32 bits, LAB), or of more pixels than Pillow takes for harmless (89 million).
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024:
        raise ValueError(f"picture size {size!r} is not an integer from 8 to 1024.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                return fit_picture(ImageOps.exif_transpose(opened), size)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels and is not opened.") from None
    except FileNotFoundError:
        raise ValueError(f"There is no picture {path}.") from None
    except Exception as error:  # Pillow promises no particular class
        raise ValueError(f"{path} is not a whole picture that can be read ({', '.join(FORMATS)}): {error}.") from error


def fit_picture(picture: Image.Image, size: int) -> np.ndarray:
    """A picture of any kind and size as uint8 (size, size, 3): on white, whole, its proportions kept."""
    picture = _on_white(picture)
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGB", (size, size), "white")
    square.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return np.array(square)


def open_pictures(folder: Path, names: Sequence[str], size: int) -> np.ndarray:
    """Several of a folder as uint8 (pictures, size, size, 3)."""
    return np.stack([open_picture(folder / name, size) for name in names])


def _on_white(picture: Image.Image) -> Image.Image:
    """A picture of any kind as RGB, what is transparent in white."""
    if picture.mode.startswith("I;16"):  # Pillow would cut off at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise ValueError(f"its pixels are of Pillow's kind {picture.mode!r}, which has no known range")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def fingerprint(conversations: Iterable[Conversation], folder: str | Path) -> str:
    """What a set of rows is: sha256 over the rows in their order and the contents of each image file they name.

    Every file is read whole, for large sets too: that is less work than decoding it once, which training has to do.
    The folder's own place does not count. ValueError for a picture that is missing or cannot be read.
    """
    digest, names = hashlib.sha256(), set()
    for talk in conversations:
        if not isinstance(talk.image, str):
            raise ValueError(f"image {talk.image!r} is a position; a fingerprint is of image files.")
        digest.update(json.dumps(asdict(talk)).encode() + b"\n")
        names.add(talk.image)
    for name in sorted(names):
        try:
            with open(locate_image(Path(folder), name), "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ValueError(f"image {name!r} in {folder} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def _choose(options: Sequence[str], *of) -> str:
    return options[_hash(*of) % len(options)]


def _hash(*of) -> int:
    """A number below 2**64 that depends on values alone."""
    return int.from_bytes(hashlib.sha256(json.dumps(of).encode()).digest()[:8], "big")
