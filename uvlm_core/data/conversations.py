"""Conversations about watches: questions, captions, requests, attribute bias (paper section 3).

Belongs here: the turns of a conversation and their order. Not here: the phrases of each attribute
(`attributes.py`), files (`llava.py`), token ids (`tokens.py`), parsing answers (`reading.py`).

A conversation depends only on its seed, its task, its position and its watch. A bias removes an
attribute from some of the rows, and changes no other word in them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.smart_watch import Watch
from uvlm_core.files import short

TASKS = ("vqa", "caption", "generation")  # a task's position seeds its random stream
EDIT = "edit"  # asks to change what is shown (`edits.py`)
# marks the image: in the human turn to understand it, in the gpt turn to generate it
IMAGE = "<image>"

DESCRIBE_WATCH = (  # asks for a caption
    "describe the watch.",
    "what is on the watch?",
    "tell me what you see.",
    "write a caption for this picture.",
    "what does this picture show?",
    "describe this picture.",
    "say what the watch shows.",
    "put the picture into words.",
    "please describe the watch.",
    "give me a short caption.",
)
DRAW_WATCH = (  # asks for an image; clauses follow
    "draw a watch where",
    "make a watch on which",
    "paint a watch so that",
    "create a watch face where",
    "i want a watch on which",
    "please draw a watch where",
    "show me a watch on which",
    "give me a watch where",
    "design a watch so that",
    "i need a watch where",
)

_ENDS = " .?!"  # of a text, which say nothing
WORDLESS = "draw a watch."  # a request that leaves everything open


def is_known_wording(text: str, task: str) -> bool:
    """Return whether a model may have been trained on a text: a question of vqa, or a request.

    The values in a request are not compared with any watch. Other texts are still allowed: what a
    model makes of them shows how far it has learned the language.
    """
    text = text.strip(_ENDS).lower()
    if task == "vqa":
        return text in {
            question.strip(_ENDS)
            for attribute in ATTRIBUTES.values()
            for question in attribute.questions
        }
    opening = next((each for each in DRAW_WATCH if text.startswith(f"{each} ")), None)
    if opening is None:
        return text == WORDLESS.strip(_ENDS)
    return all(map(_is_clause, re.split(r", | and ", text.removeprefix(f"{opening} "))))


def _is_clause(text: str) -> bool:
    """Return whether a text is one of the phrases that tell an attribute, with some value."""
    for attribute in ATTRIBUTES.values():
        for clause in attribute.clauses:
            before, after = clause.split("{}")
            value = text.removeprefix(before).removesuffix(after)
            if text == clause.format(value) and value in attribute.values:
                return True
    return False


def check_characters(what: str, text: str) -> None:
    """Refuse half of a surrogate pair: JSON can hold it, but tokenizers and files cannot.

    ValueError names `what` and the position of the character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start
        raise ValueError(
            f"{what} has an unpaired surrogate, {text[place]!r}, at position {place} of "
            f"{short(text)}; an emoji's two halves belong together."
        ) from None


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    ValueError for an empty text, half of a surrogate pair or an unknown attribute.
    """

    human: str
    gpt: str
    attributes: tuple[str, ...] = ()  # the attributes it is about; empty for other people's data

    def __post_init__(self):
        for name in ("human", "gpt"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value.strip()):
                raise ValueError(f"the {name} turn is {value!r}, not a text.")
            check_characters(f"the {name} turn", value)
        if isinstance(self.attributes, list):
            object.__setattr__(self, "attributes", tuple(self.attributes))
        if not isinstance(self.attributes, tuple) or any(
            name not in ATTRIBUTES for name in self.attributes
        ):
            raise ValueError(
                f"attributes {self.attributes!r} are not a tuple of names out of "
                f"{', '.join(ATTRIBUTES)}."
            )


@dataclass(frozen=True)
class Conversation:
    """A conversation about one image.

    `image` is a position in an image table or a file name inside an image folder. In the tasks vqa
    and caption, the first human turn begins with "<image>" and a line break. In generation there is
    one turn, whose gpt side is just "<image>". An edit has both; `image` is then the position in
    the tables of both sides. ValueError for anything else.
    """

    task: str  # one of TASKS, or EDIT
    image: int | str
    turns: tuple[Turn, ...]
    source: str = field(default="", compare=False)  # its file and row, for error messages

    def __post_init__(self):
        if self.task not in (*TASKS, EDIT):
            raise ValueError(f"task {self.task!r} is not one of {', '.join((*TASKS, EDIT))}.")
        if (
            isinstance(self.image, bool)
            or not isinstance(self.image, int | str)
            or self.image == ""
        ):
            raise ValueError(f"image {self.image!r} is neither a position nor a file name.")
        if isinstance(self.image, int) and self.image < 0:
            raise ValueError(f"image {self.image} is not a position from 0.")
        if not (
            isinstance(self.turns, tuple)
            and self.turns
            and all(isinstance(turn, Turn) for turn in self.turns)
        ):
            raise ValueError(f"turns {self.turns!r} are not a tuple of at least one Turn.")
        human, gpt = (
            "\n".join(getattr(turn, side) for turn in self.turns) for side in ("human", "gpt")
        )
        if self.draws:
            if len(self.turns) != 1:
                raise ValueError(
                    f"a {self.task} conversation has {len(self.turns)} turns instead of one."
                )
            if self.task == EDIT:
                if gpt != IMAGE or not human.startswith(f"{IMAGE}\n") or human.count(IMAGE) != 1:
                    raise ValueError(
                        f"an edit needs {IMAGE} once at the start of its human turn and as its "
                        f"whole gpt turn, not human {short(human)}, gpt {short(gpt)}."
                    )
            elif gpt != IMAGE or IMAGE in human:
                raise ValueError(
                    f"a generation conversation needs {IMAGE} as its whole gpt turn "
                    f"and nowhere else, not human {short(human)}, gpt {short(gpt)}."
                )
        elif not human.startswith(f"{IMAGE}\n") or (human + gpt).count(IMAGE) != 1:
            raise ValueError(
                f"a {self.task} conversation needs {IMAGE} once, at the start of its "
                f"first human turn, not human {short(human)}, gpt {short(gpt)}."
            )

    @property
    def draws(self) -> bool:
        """Whether the answer is an image."""
        return self.task in ("generation", EDIT)


@dataclass(frozen=True)
class AttributeBias:
    """An attribute that only a share `rate` of the rows of some tasks may mention.

    ValueError for an unknown attribute or task, and for a rate outside 0..1.
    """

    attribute: str  # one of ATTRIBUTES
    rate: float  # 0..1; exactly round(rate * rows) rows may mention the attribute
    tasks: tuple[str, ...] = ("vqa", "caption")

    def __post_init__(self):
        if not isinstance(self.attribute, str) or self.attribute not in ATTRIBUTES:
            raise ValueError(
                f"bias attribute {self.attribute!r} is not one of {', '.join(ATTRIBUTES)}."
            )
        if (
            isinstance(self.rate, bool)
            or not isinstance(self.rate, int | float)
            or not 0 <= self.rate <= 1
        ):
            raise ValueError(f"bias rate {self.rate!r} is not a number from 0 to 1.")
        object.__setattr__(self, "rate", float(self.rate))  # 1 and 1.0 are one bias, also as JSON
        if isinstance(self.tasks, list):
            object.__setattr__(self, "tasks", tuple(self.tasks))
        if not (
            isinstance(self.tasks, tuple)
            and self.tasks
            and all(task in TASKS for task in self.tasks)
        ):
            raise ValueError(
                f"bias tasks {self.tasks!r} are not a tuple of names out of {', '.join(TASKS)}."
            )


def make_conversations(
    watches: Sequence[Watch],
    task: str,
    seed: int,
    turns: int | tuple[int, int] = 5,
    biases: Iterable[AttributeBias] = (),
    mention_rate: float = 0.5,
    wordings: int | None = None,
) -> list[Conversation]:
    """Return one conversation per watch; conversation i is about image i.

    The task vqa asks `turns` questions about different attributes in random order: 1..5, or a range
    such as the paper's (1, 4), drawn per watch. All five attributes are equally likely, as in the
    paper: 3/5 for time, weather and battery together, 2/5 for the two corners.

    Captions and requests always mention the time, and each other attribute with probability
    `mention_rate` (1/2 in the paper, section 3). A higher rate only adds mentions. Only the first
    `wordings` entries of each list of paraphrases are used; None means all.

    An attribute that a bias bars from a row is left out. The task vqa then asks about the others,
    with fewer questions if too few are left. Which rows are barred also depends on the number of
    watches. A higher rate only adds allowed rows. ValueError for anything out of range.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed {seed!r} is not an integer from 0.")
    if (
        isinstance(mention_rate, bool)
        or not isinstance(mention_rate, int | float)
        or not 0 <= mention_rate <= 1
    ):
        raise ValueError(f"mention_rate {mention_rate!r} is not a number from 0 to 1.")
    if wordings is not None and (
        isinstance(wordings, bool) or not isinstance(wordings, int) or wordings < 1
    ):
        raise ValueError(f"wordings {wordings!r} is neither an integer from 1 nor None.")
    low, high = _turn_range(turns)
    barred = _barred_rows(len(watches), task, seed, tuple(biases))
    conversations = []
    for position, watch in enumerate(watches):
        if not isinstance(watch, Watch):
            raise ValueError(f"watch {position} is {watch!r}, not a Watch.")
        rng = np.random.default_rng([seed, TASKS.index(task), position])
        allowed = [name for name in ATTRIBUTES if position not in barred.get(name, ())]
        made = (
            _ask(watch, rng, allowed, low, high, wordings)
            if task == "vqa"
            else _tell(watch, rng, allowed, task, mention_rate, wordings)
        )
        conversations.append(Conversation(task, position, made))
    return conversations


def _turn_range(turns: int | tuple[int, int]) -> tuple[int, int]:
    """Return `turns` as (low, high), both included."""
    pair = tuple(turns) if isinstance(turns, tuple | list) else (turns, turns)
    if (
        len(pair) != 2
        or any(isinstance(n, bool) or not isinstance(n, int) for n in pair)
        or not (1 <= pair[0] <= pair[1] <= len(ATTRIBUTES))
    ):
        raise ValueError(
            f"turns {turns!r} is neither an integer from 1 to {len(ATTRIBUTES)} nor a "
            f"pair (low, high)."
        )
    return pair


def _barred_rows(
    rows: int, task: str, seed: int, biases: tuple[AttributeBias, ...]
) -> dict[str, set[int]]:
    """Return the rows that must not mention each biased attribute.

    The rows are in a random order, and the first round(rate * rows) are allowed.
    """
    barred = {}
    for bias in biases:
        if not isinstance(bias, AttributeBias):
            raise ValueError(f"bias {bias!r} is not an AttributeBias.")
        if task not in bias.tasks:
            continue
        if bias.attribute in barred:
            raise ValueError(f"bias attribute {bias.attribute!r} occurs twice for task {task!r}.")
        # a fourth number separates this stream from those of the conversations
        stream = 1 + list(ATTRIBUTES).index(bias.attribute)
        rng = np.random.default_rng([seed, TASKS.index(task), rows, stream])
        barred[bias.attribute] = set(rng.permutation(rows)[round(bias.rate * rows) :].tolist())
    if len(barred) == len(ATTRIBUTES) and set.intersection(*barred.values()):
        raise ValueError(
            f"the biases leave rows of task {task!r} without any attribute; leave at "
            f"least one unbiased."
        )
    return barred


def _ask(
    watch: Watch,
    rng: np.random.Generator,
    allowed: list[str],
    low: int,
    high: int,
    wordings: int | None,
) -> tuple[Turn, ...]:
    """Return the turns of a vqa conversation.

    Everything is drawn before anything is left out, so a bias changes no wording.
    """
    names = list(ATTRIBUTES)
    order = [names[i] for i in rng.permutation(len(names))]
    count = rng.integers(low, high + 1)
    wording = {
        name: _choose(rng, attribute.questions[:wordings]) for name, attribute in ATTRIBUTES.items()
    }
    asked = [name for name in order if name in allowed][:count]
    tags = [f"{IMAGE}\n"] + [""] * len(asked)
    return tuple(
        Turn(tag + wording[name], ATTRIBUTES[name].truth(watch), (name,))
        for name, tag in zip(asked, tags, strict=False)
    )


def _tell(
    watch: Watch,
    rng: np.random.Generator,
    allowed: list[str],
    task: str,
    mention_rate: float,
    wordings: int | None,
) -> tuple[Turn]:
    """Return the turn of a caption or request; attributes not always told are in random order."""
    always = [name for name, attribute in ATTRIBUTES.items() if attribute.always_told]
    others = [name for name in ATTRIBUTES if name not in always]
    order = always + [others[i] for i in rng.permutation(len(others))]
    drawn = {*always, *(name for name in others if rng.random() < mention_rate)}
    wording = {
        name: _choose(rng, attribute.clauses[:wordings]) for name, attribute in ATTRIBUTES.items()
    }
    opening = _choose(rng, (DESCRIBE_WATCH if task == "caption" else DRAW_WATCH)[:wordings])
    fallback = _choose(rng, allowed)  # a turn mentions at least one attribute
    told = tuple(name for name in order if name in drawn and name in allowed) or (fallback,)
    clauses = [wording[name].format(ATTRIBUTES[name].truth(watch)) for name in told]
    text = " and ".join(filter(None, (", ".join(clauses[:-1]), clauses[-1]))) + "."
    if task == "caption":
        return (Turn(f"{IMAGE}\n{opening}", text, told),)
    return (Turn(f"{opening} {text}", IMAGE, told),)


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[rng.integers(len(options))]
