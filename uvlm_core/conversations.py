"""Conversations about watches (paper section 3, data): questions, captions, requests; attribute bias; LLaVA JSON.

Belongs here: everything that is said about an image. Not here: pixels (`smart_watch.py`), token ids (`processing.py`),
reading values back out of an answer (`scoring.py`).

Conversation i of a seed and a task is exact for these three: it depends on watch i and on no other. A bias takes an
attribute out of the rows it bars and leaves the rest of their wording as it was.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from unicodedata import normalize

import numpy as np
from PIL import Image

from uvlm_core.pixels import to_rgb
from uvlm_core.smart_watch import ATTRIBUTES, CORNERS, WEATHERS, Watch, render

TASKS = ("vqa", "caption", "generation")  # the position of a task is part of its random stream
IMAGE = "<image>"  # stands where the image is: in the human turn to understand it, in the gpt turn to generate it

QUESTIONS = {
    "time": (
        "what time is it?", "what time does the watch show?", "which time do the hands show?", "can you read the time?",
        "please tell me the time.", "how late is it on this watch?", "give the hour, the minute and the second.",
        "what is the time on the watch?", "what do the hands say?", "tell the time to the second.",
        "what does the clock say?", "read the hands for me."),
    "weather": (
        "what is the weather?", "what weather does the watch show?", "which weather does the icon stand for?",
        "how is the weather?", "please tell me the weather.", "what does the weather icon say?",
        "what is it like outside?", "what is the forecast on the watch?", "can you read the weather icon?",
        "tell me how the weather is.", "what weather is it?", "name the weather in the picture."),
    "battery": (
        "how full is the battery?", "what is the level of the battery?", "how much charge is left?",
        "how much of the battery is left?", "please tell me the battery level.", "what does the battery read?",
        "give the charge in percent.", "what percent does the battery have?", "can you read the battery level?",
        "tell me how full the battery is.", "how much charge does the watch have?", "read the battery for me."),
    "weather_corner": (
        "where is the weather icon?", "in which corner is the weather icon?", "which corner shows the weather?",
        "where is the weather drawn?", "please tell me where the weather icon is.",
        "which corner has the weather icon?", "where do you see the weather icon?",
        "name the corner of the weather icon.", "can you find the weather icon?",
        "tell me the corner with the weather.", "in what place is the weather shown?",
        "where should i look for the weather?"),
    "battery_corner": (
        "where is the battery?", "in which corner is the battery?", "which corner shows the battery?",
        "where is the battery drawn?", "please tell me where the battery is.", "which corner has the battery?",
        "where do you see the battery?", "name the corner of the battery.", "can you find the battery?",
        "tell me the corner with the battery.", "in what place is the battery shown?",
        "where should i look for the battery?"),
}
DESCRIBE = (  # what asks for a caption
    "describe the watch.", "what is on the watch?", "tell me what you see.", "write a caption for this picture.",
    "what does this picture show?", "describe this picture.", "say what the watch shows.",
    "put the picture into words.", "please describe the watch.", "give me a short caption.")
REQUESTS = (  # what asks for an image; clauses follow
    "draw a watch where", "make a watch on which", "paint a watch so that", "create a watch face where",
    "i want a watch on which", "please draw a watch where", "show me a watch on which", "give me a watch where",
    "design a watch so that", "i need a watch where")
CLAUSES = {  # captions and requests are made of these: both tasks share their words, and `scoring.py` reads both
    "time": (
        "the hands show {}", "the time is {}", "the hands say {}", "the clock reads {}", "the clock says {}",
        "the hands point to {}", "the face shows {}", "the face reads {}", "the time on it is {}",
        "the hands stand at {}"),
    "weather": (
        "the weather is {}", "it is {} outside", "the weather icon says {}", "the icon stands for {}",
        "the forecast says {}", "right now it is {}", "the icon says it is {}", "the weather reads {}",
        "the weather icon shows {}", "the sky says {}"),
    "battery": (
        "the battery is at {}", "the battery has {} left", "{} of the battery is left", "the battery holds {}",
        "the battery is {} full", "the charge is {}", "the battery reads {}", "there is {} of charge",
        "the battery level is {}", "the battery shows {}"),
    "weather_corner": (
        "the weather icon is in the {} corner", "the icon sits at the {}", "the weather is shown at the {}",
        "the {} corner holds the weather icon", "the icon is in the {} corner", "the weather icon is at the {}",
        "the {} corner shows the weather", "the {} corner has the icon", "the weather icon is drawn {}",
        "the icon has its place {}"),
    "battery_corner": (
        "the battery is in the {} corner", "the battery sits at the {}", "the battery is shown at the {}",
        "the {} corner holds the battery", "the battery sits in the {} corner", "the battery is drawn at the {}",
        "the {} corner shows the battery", "the {} corner has the battery", "the battery is drawn {}",
        "the battery has its place {}"),
}


def check_characters(what: str, text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can hold and no tokenizer or file can take."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start
        raise ValueError(f"{what} has half a character, {text[place]!r}, at place {place} of "
                         f"{short(text)}; an emoji's two halves belong together.") from None


@dataclass(frozen=True)
class Turn:
    """One question and its answer; `attributes` says which attributes it is about (empty for other people's data)."""

    human: str
    gpt: str
    attributes: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("human", "gpt"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value.strip()):
                raise ValueError(f"the {name} turn is {value!r}, not a text.")
            check_characters(f"the {name} turn", value)
        if isinstance(self.attributes, list):
            object.__setattr__(self, "attributes", tuple(self.attributes))
        if not isinstance(self.attributes, tuple) or any(name not in ATTRIBUTES for name in self.attributes):
            raise ValueError(f"attributes {self.attributes!r} are not a tuple of names out of {', '.join(ATTRIBUTES)}.")


@dataclass(frozen=True)
class Conversation:
    """A conversation about one image.

    `image` is a position in an image table, or a file name inside an image folder. In vqa and caption the first human
    turn begins with "<image>" and a line break; generation is one turn whose gpt side is "<image>" and nothing else.
    Anything else raises a ValueError.
    """

    task: str  # one of TASKS
    image: int | str
    turns: tuple[Turn, ...]
    source: str = field(default="", compare=False)  # the file and row it was read from, for messages

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task {self.task!r} is not one of {', '.join(TASKS)}.")
        if isinstance(self.image, bool) or not isinstance(self.image, int | str) or self.image == "":
            raise ValueError(f"image {self.image!r} is neither a position nor a file name.")
        if isinstance(self.image, int) and self.image < 0:
            raise ValueError(f"image {self.image} is not a position from 0.")
        if not (isinstance(self.turns, tuple) and self.turns and all(isinstance(turn, Turn) for turn in self.turns)):
            raise ValueError(f"turns {self.turns!r} are not a tuple of at least one Turn.")
        human, gpt = ("\n".join(getattr(turn, side) for turn in self.turns) for side in ("human", "gpt"))
        if self.task == "generation":
            if len(self.turns) != 1:
                raise ValueError(f"a generation conversation has {len(self.turns)} turns instead of one.")
            if gpt != IMAGE or IMAGE in human:
                raise ValueError(f"a generation conversation needs {IMAGE} as its whole gpt turn and nowhere else, "
                                 f"not human {short(human)}, gpt {short(gpt)}.")
        elif not human.startswith(f"{IMAGE}\n") or (human + gpt).count(IMAGE) != 1:
            raise ValueError(f"a {self.task} conversation needs {IMAGE} once, at the start of its first human turn, "
                             f"not human {short(human)}, gpt {short(gpt)}.")


@dataclass(frozen=True)
class AttributeBias:
    """An attribute that is rare in some tasks: a share `rate` of their rows may mention it, the others never do."""

    attribute: str  # one of ATTRIBUTES
    rate: float  # 0..1, share of rows; exactly round(rate * rows) rows may mention the attribute
    tasks: tuple[str, ...] = ("vqa", "caption")

    def __post_init__(self):
        if self.attribute not in ATTRIBUTES:
            raise ValueError(f"bias attribute {self.attribute!r} is not one of {', '.join(ATTRIBUTES)}.")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 <= self.rate <= 1:
            raise ValueError(f"bias rate {self.rate!r} is not a number from 0 to 1.")
        object.__setattr__(self, "rate", float(self.rate))  # 1 and 1.0 are one bias, also as JSON
        if isinstance(self.tasks, list):
            object.__setattr__(self, "tasks", tuple(self.tasks))
        if not (isinstance(self.tasks, tuple) and self.tasks and all(task in TASKS for task in self.tasks)):
            raise ValueError(f"bias tasks {self.tasks!r} are not a tuple of names out of {', '.join(TASKS)}.")


def truth(watch: Watch, attribute: str) -> str:
    """The canonical answer: "10:09:36", "sunny", "57%", "top left"."""
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute {attribute!r} is not one of {', '.join(ATTRIBUTES)}.")
    return f"{watch.battery}%" if attribute == "battery" else getattr(watch, attribute)


def values_of(attribute: str) -> tuple[str, ...]:
    """Every answer that `truth` can give for an attribute."""
    if attribute == "time":
        return tuple(f"{hour:02d}:{minute:02d}:{second:02d}" for hour in range(12) for minute in range(60)
                     for second in range(60))
    if attribute == "battery":
        return tuple(f"{level}%" for level in range(101))
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute {attribute!r} is not one of {', '.join(ATTRIBUTES)}.")
    return WEATHERS if attribute == "weather" else CORNERS


def make_conversations(watches: Sequence[Watch], task: str, seed: int, turns: int | tuple[int, int] = 5,
                       biases: Iterable[AttributeBias] = (), mention_rate: float = 0.5,
                       wordings: int | None = None) -> list[Conversation]:
    """One conversation per watch, conversation i about image i; exact per (seed, task, i).

    vqa asks `turns` questions (1..5, or a range such as the paper's (1, 4), drawn per watch) about different attributes
    in random order, all five equally likely: the paper's odds, 3/5 for time, weather and battery, 2/5 for the corners.
    Captions and requests give the time and each other attribute with probability `mention_rate`, 1/2 in the paper
    (section 3); what is mentioned at a lower rate is mentioned at a higher one. `wordings` keeps to the first so many
    of each list of paraphrases (all of them without it).

    An attribute that a bias bars from a row is left out: vqa turns to the others, and has a question less if there are
    too few. Which rows are barred depends on the number of watches as well; the rows allowed at a lower rate are among
    those allowed at a higher one. ValueError for anything out of range.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed {seed!r} is not an integer from 0.")
    if isinstance(mention_rate, bool) or not isinstance(mention_rate, int | float) or not 0 <= mention_rate <= 1:
        raise ValueError(f"mention_rate {mention_rate!r} is not a number from 0 to 1.")
    if wordings is not None and (isinstance(wordings, bool) or not isinstance(wordings, int) or wordings < 1):
        raise ValueError(f"wordings {wordings!r} is neither an integer from 1 nor None.")
    low, high = _turn_range(turns)
    barred = _barred_rows(len(watches), task, seed, tuple(biases))
    conversations = []
    for position, watch in enumerate(watches):
        if not isinstance(watch, Watch):
            raise ValueError(f"watch {position} is {watch!r}, not a Watch.")
        rng = np.random.default_rng([seed, TASKS.index(task), position])
        allowed = [name for name in ATTRIBUTES if position not in barred.get(name, ())]
        made = (_ask(watch, rng, allowed, low, high, wordings) if task == "vqa"
                else _tell(watch, rng, allowed, task, mention_rate, wordings))
        conversations.append(Conversation(task, position, made))
    return conversations


def _turn_range(turns: int | tuple[int, int]) -> tuple[int, int]:
    """`turns` as (low, high), both included."""
    pair = tuple(turns) if isinstance(turns, tuple | list) else (turns, turns)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in pair) or not (
            1 <= pair[0] <= pair[1] <= len(ATTRIBUTES)):
        raise ValueError(f"turns {turns!r} is neither an integer from 1 to {len(ATTRIBUTES)} nor a pair (low, high).")
    return pair


def _barred_rows(rows: int, task: str, seed: int, biases: tuple[AttributeBias, ...]) -> dict[str, set[int]]:
    """For each biased attribute the rows that must not mention it: all but the round(rate * rows) of lowest rank."""
    barred = {}
    for bias in biases:
        if not isinstance(bias, AttributeBias):
            raise ValueError(f"bias {bias!r} is not an AttributeBias.")
        if task not in bias.tasks:
            continue
        if bias.attribute in barred:
            raise ValueError(f"bias attribute {bias.attribute!r} occurs twice for task {task!r}.")
        # A fourth number keeps this stream apart from those of the conversations.
        rng = np.random.default_rng([seed, TASKS.index(task), rows, 1 + ATTRIBUTES.index(bias.attribute)])
        barred[bias.attribute] = set(rng.permutation(rows)[round(bias.rate * rows):].tolist())
    if len(barred) == len(ATTRIBUTES) and set.intersection(*barred.values()):
        raise ValueError(f"the biases leave rows of task {task!r} without any attribute; leave at least one unbiased.")
    return barred


def _ask(watch: Watch, rng: np.random.Generator, allowed: list[str], low: int, high: int,
         wordings: int | None) -> tuple[Turn, ...]:
    """The turns of a vqa conversation. All is drawn before anything is left out, so that a bias changes no wording."""
    order = [ATTRIBUTES[i] for i in rng.permutation(len(ATTRIBUTES))]
    count = rng.integers(low, high + 1)
    wording = {name: _choose(rng, QUESTIONS[name][:wordings]) for name in ATTRIBUTES}
    asked = [name for name in order if name in allowed][:count]
    return tuple(Turn((f"{IMAGE}\n" if first else "") + wording[name], truth(watch, name), (name,))
                 for name, first in zip(asked, [True] + [False] * len(asked), strict=False))


def _tell(watch: Watch, rng: np.random.Generator, allowed: list[str], task: str, mention_rate: float,
          wordings: int | None) -> tuple[Turn]:
    """The one turn of a caption or a request: clauses, time first, the others in random order."""
    order = ["time"] + [ATTRIBUTES[1 + i] for i in rng.permutation(len(ATTRIBUTES) - 1)]
    drawn = {"time"} | {name for name in ATTRIBUTES[1:] if rng.random() < mention_rate}
    wording = {name: _choose(rng, CLAUSES[name][:wordings]) for name in ATTRIBUTES}
    opening = _choose(rng, (DESCRIBE if task == "caption" else REQUESTS)[:wordings])
    fallback = _choose(rng, allowed)  # something must be said even when the time is barred and nothing else was drawn
    told = tuple(name for name in order if name in drawn and name in allowed) or (fallback,)
    clauses = [wording[name].format(truth(watch, name)) for name in told]
    text = " and ".join(filter(None, (", ".join(clauses[:-1]), clauses[-1]))) + "."
    if task == "caption":
        return (Turn(f"{IMAGE}\n{opening}", text, told),)
    return (Turn(f"{opening} {text}", IMAGE, told),)


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[rng.integers(len(options))]


def write_llava(conversations: Sequence[Conversation], images: Sequence | None, json_path: str | Path,
                image_folder: str | Path, size: int = 64) -> None:
    """Write conversations as LLaVA JSON and the images they use as PNG files named after the JSON and their position.

    `images` holds what positions point to: watches (rendered at `size` px), PIL images of any kind
    or uint8 arrays (H, W, 3), written as `pixels.to_rgb` reads them. It may be None if all
    conversations name files, which must then be in `image_folder`. All is validated first, the JSON
    comes last, and every file appears whole or not at all. ValueError, also for a full disk or a
    forbidden folder.
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
                    raise ValueError(f"image {name} is not among the {0 if images is None else len(images)} images.")
                name = f"{json_path.stem}_{talk.image:06d}.png"
                if name not in positions and not isinstance(images[talk.image], Watch):
                    _picture(images[talk.image], talk.image, size)
                positions[name] = talk.image
            else:
                name = read(name)
        except ValueError as error:
            raise ValueError(f"{json_path}, row {number}: {error}") from None
        said = [{"from": side, "value": getattr(turn, side)} for turn in talk.turns for side in ("human", "gpt")]
        rows.append({"id": f"{json_path.stem}_{number:06d}", "task": talk.task, "image": name, "conversations": said,
                     "attributes": [list(turn.attributes) for turn in talk.turns]})
    for number, (talk, row) in enumerate(zip(conversations, rows, strict=True)):
        if isinstance(talk.image, str) and row["image"] in positions:
            raise ValueError(f"{json_path}, row {number}: image {row['image']!r} is a file that "
                             f"image {positions[row['image']]} would be written over.")
    for position in positions.values():
        if isinstance(images[position], Watch):
            render(images[position], size)  # one is enough to refuse a bad size before anything is written
            break
    try:
        image_folder.mkdir(parents=True, exist_ok=True)
        json_path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=image_folder) as images_aside, \
                tempfile.TemporaryDirectory(dir=json_path.parent) as json_aside:  # a rename cannot cross file systems
            for name, position in positions.items():
                _picture(images[position], position, size).save(Path(images_aside, name))
            Path(json_aside, json_path.name).write_text(json.dumps(rows, indent=1), encoding="utf-8")
            for name in positions:  # what this JSON has not put there may be that of one elsewhere
                there, new = image_folder / name, Path(images_aside, name)
                if (not json_path.exists() and there.exists()
                        and there.read_bytes() != new.read_bytes()):
                    raise ValueError(f"{there} is another picture, which rows beside those of "
                                     f"{json_path} may be about; give the JSON another name.")
            for name in positions:
                os.replace(Path(images_aside, name), image_folder / name)
            os.replace(Path(json_aside, json_path.name), json_path)
    except OSError as error:
        raise ValueError(f"{json_path} and its images cannot be written: {error.strerror or error}.") from error


def _picture(image: Watch | Image.Image | np.ndarray, position: int, size: int) -> Image.Image:
    """A watch (rendered at `size`), a PIL image or a uint8 array (H, W, 3) as an RGB image."""
    if isinstance(image, Watch):
        return render(image, size)
    if not isinstance(image, Image.Image | np.ndarray):
        raise ValueError(f"image {position} is {short(image)}, neither a Watch, a PIL image nor a "
                         "uint8 array (H, W, 3).")
    return to_rgb(image, f"image {position}")


def read_llava(json_path: str | Path, image_folder: str | Path) -> list[Conversation]:
    """Read LLaVA JSON whose images are files below `image_folder`; what `write_llava` wrote comes back as it was.

    Rows are {"image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}, "task" and "attributes" optional:
    without a task, "<image>" in a gpt turn means generation, otherwise vqa. "<image>" may also end the first human
    turn, as in LLaVA's own data; it is moved to the start. Rows without an image are refused. Every
    picture is decoded once, so that what is read here can be opened later, and has one name however
    it is spelled (`locate_image`). ValueError names the file, the row (from 0) and the bad value.
    """
    json_path, image_folder = Path(json_path), Path(image_folder)
    rows = read_json(json_path)
    if not isinstance(rows, list):
        raise ValueError(f"{json_path} holds a JSON {type(rows).__name__}, not a list of conversations.")
    read, conversations = lru_cache(maxsize=None)(partial(_readable, image_folder)), []
    for number, row in enumerate(rows):
        place = f"{json_path}, row {number}"
        try:
            talk = conversation_of(row)
            conversations.append(replace(talk, image=read(talk.image), source=place))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return conversations


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
        raise ValueError(f"{path}, line {line} is no text in {encoding.upper()}, which has no "
                         f"{content[error.start : error.end]!r}; save the file as UTF-8.") from None
    if "\0" in text:
        line = 1 + text[: text.index("\0")].count("\n")
        raise ValueError(f"{path}, line {line} is no text, as it has null characters; save the "
                         "file as UTF-8.")
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


def conversation_of(row) -> Conversation:
    """One row of LLaVA JSON as a conversation (`read_llava` says how); a ValueError names the bad value."""
    if not isinstance(row, dict):
        raise ValueError(f"{short(row)} is not an object with the keys image and conversations.")
    for key in ("image", "conversations"):
        if key not in row:
            raise ValueError(f"the key {key!r} is missing; there are {', '.join(map(repr, row)) or 'none'}.")
    if not isinstance(row["image"], str):
        raise ValueError(f"image {short(row['image'])} is not a file name.")
    said = row["conversations"]
    if not (isinstance(said, list) and said and all(
            isinstance(part, dict) and isinstance(part.get("value"), str) and "from" in part for part in said)):
        raise ValueError(f"conversations {short(said)} is not a list of objects with the keys from and value.")
    for place, part in enumerate(said):
        expected = ("human", "gpt")[place % 2]
        if part["from"] != expected:
            raise ValueError(f"turn {place} is from {part['from']!r} where {expected!r} is expected; "
                             "turns alternate human, gpt.")
    if len(said) % 2:
        raise ValueError(f"the {len(said)} turns end with 'human'; turns alternate human, gpt and end with 'gpt'.")
    human, gpt = ([part["value"] for part in said[start::2]] for start in (0, 1))
    task = row.get("task", "generation" if any(IMAGE in text for text in gpt) else "vqa")
    if task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}.")
    if task == "generation":
        gpt = [text.strip() for text in gpt]
    elif not human[0].startswith(f"{IMAGE}\n") and human[0].count(IMAGE) == 1:
        before, after = (text.strip() for text in human[0].split(IMAGE))
        if not (before and after):  # in the middle of a text its place may mean something: left to be refused
            human[0] = f"{IMAGE}\n{before or after}"
    attributes = row.get("attributes", [[]] * len(human))
    if not (isinstance(attributes, list) and len(attributes) == len(human) and all(
            isinstance(names, list) for names in attributes)):
        raise ValueError(f"attributes {short(attributes)} is not one list per pair of turns ({len(human)} here).")
    return Conversation(task, row["image"], tuple(map(Turn, human, gpt, attributes)))


def _readable(folder: Path, name: str) -> str:
    """The one name of an image's file; a ValueError for one that cannot be opened later."""
    name = locate_image(folder, name)
    to_rgb(folder / name, f"image {name!r} in {folder}")
    return name


def locate_image(folder: Path, name: str) -> str:
    """The one name of the file that an image's name leads to: below the folder, links followed.

    "./a.png", "sub/../a.png" and the full path are "a.png", so a picture is one picture wherever
    its folder is. Where no file has just that name, backslashes are read as slashes and accents in
    either of Unicode's forms. ValueError for a file that is outside the folder or missing.
    """
    slashed = name.replace("\\", "/")
    spellings = dict.fromkeys((name, slashed, normalize("NFC", slashed), normalize("NFD", slashed)))
    try:
        inside, paths = folder.resolve(), [(folder / spelling).resolve() for spelling in spellings]
        path = next((path for path in paths if path.is_file()), None)
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a ring of links, a null byte
        raise ValueError(f"image {short(name)} is not a usable file name.") from error
    if not (path or paths[0]).is_relative_to(inside):
        raise ValueError(f"image {name!r} is outside the image folder {folder}.")
    if path is None:
        raise ValueError(f"image {name!r} is missing from {folder}.")
    return path.relative_to(inside).as_posix()


def short(value) -> str:
    """A value as it appears in a message: not a page of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
