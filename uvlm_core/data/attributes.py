"""The attributes of a watch: values, questions, phrases, parsing, credit (paper sections 3, 4).

Belongs here: everything that differs between the time, the weather, the battery and the corners of
the two icons. Code elsewhere iterates over `ATTRIBUTES`. A new attribute is a subclass of
`Attribute` and an entry in that dictionary. Not here: the grammar that finds numbers and words in a
text (`reading.py`), score rows (`scoring/answers.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from uvlm_core.data.reading import (
    Mention,
    Value,
    claimed_value,
    find_corners,
    find_percentages,
    find_times,
    find_words,
    nearest_thing,
)
from uvlm_core.data.smart_watch import CORNERS, WEATHERS, Watch

_SIGN = r"(?:icon|symbol|indicator)"
_LEVEL = r"(?:['’]?s)?(?:[\s-]+(?:level|charge|status|indicator|percentage|symbol|icon))*"


class Attribute:
    """One attribute of a watch; the base class handles a single word that is right or wrong.

    A value is what `parse` reads from a text: a word, an integer or (hour, minute, second). A
    frozen reader classifies each part of a value, and each part earns partial credit. Most
    attributes have one part; the time has three.
    """

    name: str
    values: Sequence[str]  # every true answer
    questions: tuple[str, ...]  # paraphrases that ask for it
    clauses: tuple[str, ...]  # paraphrases in captions and requests; {} is the value
    changes: tuple[str, ...]  # paraphrases that ask to change it; {} is the new value
    always_told = False  # whether every caption and request mentions it (paper section 3)
    corner = ""  # the attribute that holds the corner of its icon
    excludes = ""  # another attribute, which never has the same value on the same watch
    in_readers = True  # whether the frozen readers classify it in generated images
    thing = ""  # regex for its icon's names in captions; a corner belongs to the nearest icon
    bare_thing = ""  # regex for its icon, valid only if the clause names no other icon

    # what a watch shows

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of `Watch` that hold the attribute."""
        return tuple(self.parts)

    def value(self, watch: Watch) -> Value:
        """Return the attribute's value on a watch."""
        return getattr(watch, self.name)

    def said(self, value: Value) -> str:
        """Return a value as an answer says it: "10:09:36", "sunny", "57%" or "top left"."""
        return value

    def truth(self, watch: Watch) -> str:
        """Return the true answer about a watch."""
        return self.said(self.value(watch))

    def alternatives(self, watch: Watch) -> list[Watch]:
        """Return copies of a watch with other values, the donors of activation patching."""
        return [
            replace(watch, **{self.name: value})
            for value in self.values
            if value != self.value(watch)
        ]

    def contrasts(self, watch: Watch) -> list[Watch]:
        """Return copies of a watch that differ in the pixels that show the attribute.

        They locate the image patches that show it. Empty if it has no patches of its own.
        """
        return []

    # what a text says

    def mentions(self, text: str) -> list[Mention]:
        """Return every mention of a value in an answer, in order."""
        return find_words(self.values, text)

    def caption_mentions(self, text: str) -> list[Mention]:
        """Return every mention of a value in a caption, which may mention other attributes too."""
        return self.mentions(text)

    def parse(self, text: str) -> Value | None:
        """Return the one value that an answer claims; None for no value, several or a denied one.

        The range of numbers is not checked here (`in_range` does that).
        """
        return claimed_value(self.mentions(text))

    def in_range(self, value: Value, hours: int = 12) -> bool:
        """Return whether a watch can show a value.

        `hours` is 13 for truths, which may have the authors' hour 12.
        """
        return True

    @property
    def form(self) -> str:
        """The form of a true answer, for error messages."""
        return " or ".join(self.values)

    def coarse(self, value: Value) -> str:
        """Return the class of a value in a confusion matrix; the value must be in range."""
        return value

    # what an answer or a reading is worth

    @property
    def chance(self) -> float:
        """The expected partial credit of a uniform random guess."""
        return 1 / len(self.values)

    @property
    def parts(self) -> Mapping[str, Sequence]:
        """The classes of each part by its name, in the order of a reader's class numbers."""
        return {self.name: self.values}

    def split(self, value: Value) -> tuple:
        """Return the values of a value's parts."""
        return (value,)

    def joined(self, reading: Mapping) -> Value:
        """Return the value that a reading of parts stands for, such as a frozen reader's."""
        parts = tuple(reading[part] for part in self.parts)
        return parts if len(parts) > 1 else parts[0]

    def distance(self, part: str, given, true):
        """Return the distance of two values of a part; elementwise for tensors of class numbers."""
        return (given != true) * 1

    def worst(self, part: str) -> float:
        """Return the greatest distance of two values of a part."""
        return 1

    def credit(self, part: str, given, true):
        """Return the partial credit of a part (paper section 4): 1 - distance / greatest distance.

        It is 0 to 1 for values in range.
        """
        return 1 - self.distance(part, given, true) / self.worst(part)

    def read_back_credit(self, part: str, seen, true) -> float:
        """Return the credit of a generated image for one part that a frozen reader reads in it."""
        return self.credit(part, seen, true)

    @property
    def read_back_chance(self) -> float:
        """The expected `read_back_credit` of images that are independent of their requests."""
        return self.chance

    def read_back_error(self, seen: tuple, true: tuple) -> float | None:
        """Return a distance in the attribute's own unit, or None if it has no unit.

        `seen` and `true` hold one value per part.
        """
        return None

    # what linear probes look for

    @property
    def probe_name(self) -> str:
        """The name of a probe's target: the attribute or one of its parts."""
        return self.name

    @property
    def probe_classes(self) -> int:
        """The number of a probe's classes."""
        return len(self.values)

    def probe_class(self, watch: Watch) -> int:
        """Return the class number of a watch for a probe."""
        return self.values.index(self.value(watch))


class Time(Attribute):
    """Hour, minute and second, shown by three hands; each hand is scored by its circular error."""

    name = "time"
    always_told = True
    chance = 0.5  # a random hand is a quarter turn off on average, half of the greatest error
    form = "hh:mm:ss from 00:00:00 to 12:59:59"
    parts = {"hour": range(12), "minute": range(60), "second": range(60)}
    probe_name, probe_classes = "hour", 12
    questions = (
        "what time is it?",
        "what time does the watch show?",
        "which time do the hands show?",
        "can you read the time?",
        "please tell me the time.",
        "how late is it on this watch?",
        "give the hour, the minute and the second.",
        "what is the time on the watch?",
        "what do the hands say?",
        "tell the time to the second.",
        "what does the clock say?",
        "read the hands for me.",
    )
    clauses = (
        "the hands show {}",
        "the time is {}",
        "the hands say {}",
        "the clock reads {}",
        "the clock says {}",
        "the hands point to {}",
        "the face shows {}",
        "the face reads {}",
        "the time on it is {}",
        "the hands stand at {}",
    )
    changes = (
        "set the hands to {}.",
        "change the time to {}.",
        "turn the hands to {}.",
        "let the clock say {}.",
    )

    @cached_property
    def values(self) -> tuple[str, ...]:
        return tuple(
            f"{hour:02d}:{minute:02d}:{second:02d}"
            for hour in range(12)
            for minute in range(60)
            for second in range(60)
        )

    def value(self, watch: Watch) -> tuple[int, int, int]:
        return watch.hour, watch.minute, watch.second

    def said(self, value: tuple[int, int, int]) -> str:
        return "{:02d}:{:02d}:{:02d}".format(*value)

    def alternatives(self, watch: Watch) -> list[Watch]:
        return [replace(watch, hour=hour) for hour in range(12) if hour != watch.hour % 12]

    def contrasts(self, watch: Watch) -> list[Watch]:  # all hands half a turn on
        return [
            replace(
                watch,
                hour=(watch.hour + 6) % 12,
                minute=(watch.minute + 30) % 60,
                second=(watch.second + 30) % 60,
            )
        ]

    def mentions(self, text: str) -> list[Mention]:
        return find_times(text)

    def in_range(self, value: tuple[int, int, int], hours: int = 12) -> bool:
        return all(number < most for number, most in zip(value, (hours, 60, 60), strict=True))

    def coarse(self, value: tuple[int, int, int]) -> str:  # quarters of the dial
        low = value[0] % 12 // 3 * 3
        return f"{low}-{low + 2} h"

    def split(self, value: tuple[int, int, int]) -> tuple[int, int, int]:
        return value

    def distance(self, part: str, given, true):  # negative out of range: credit above 1 (pitfall 9)
        return self.worst(part) - abs(self.worst(part) - abs(given - true))

    def worst(self, part: str) -> float:  # half a turn
        return len(self.parts[part]) / 2

    def probe_class(self, watch: Watch) -> int:
        return watch.hour % 12


class Weather(Attribute):
    """The weather, shown by one of three icons."""

    name = "weather"
    values = WEATHERS
    corner = "weather_corner"
    thing = rf"\b(?:weather|{'|'.join(WEATHERS)})(?:['’]s)?(?:[\s-]+{_SIGN})?"
    bare_thing = r"\bicon"
    questions = (
        "what is the weather?",
        "what weather does the watch show?",
        "which weather does the icon stand for?",
        "how is the weather?",
        "please tell me the weather.",
        "what does the weather icon say?",
        "what is it like outside?",
        "what is the forecast on the watch?",
        "can you read the weather icon?",
        "tell me how the weather is.",
        "what weather is it?",
        "name the weather in the picture.",
    )
    clauses = (
        "the weather is {}",
        "it is {} outside",
        "the weather icon says {}",
        "the icon stands for {}",
        "the forecast says {}",
        "right now it is {}",
        "the icon says it is {}",
        "the weather reads {}",
        "the weather icon shows {}",
        "the sky says {}",
    )
    changes = (
        "change the weather to {}.",
        "make it {} outside.",
        "let the weather icon say {}.",
        "set the forecast to {}.",
    )

    def contrasts(self, watch: Watch) -> list[Watch]:
        return [replace(watch, weather=other) for other in WEATHERS]


class Battery(Attribute):
    """The battery's level, 0 to 100 per cent, scored by its distance from the truth."""

    name = "battery"
    values = tuple(f"{level}%" for level in range(101))
    corner = "battery_corner"
    thing = (
        rf"\b(?:battery|charge|charging){_LEVEL}"
        rf"|\b{_SIGN}\s+(?:of|for|showing|that\s+shows|with)\s+(?:the\s+|a\s+)?"
        rf"(?:battery|charge){_LEVEL}|%"
    )
    form = "0% to 100%"
    parts = {"battery": range(101)}
    chance = 1 - (101**2 - 1) / (3 * 101) / 100  # minus the mean distance of two uniform levels
    tolerance = 10  # a generated level within so many points counts as the requested one
    read_back_chance = sum(abs(a - b) <= 10 for a in range(101) for b in range(101)) / 101**2
    probe_classes = 5  # fifths
    questions = (
        "how full is the battery?",
        "what is the level of the battery?",
        "how much charge is left?",
        "how much of the battery is left?",
        "please tell me the battery level.",
        "what does the battery read?",
        "give the charge in percent.",
        "what percent does the battery have?",
        "can you read the battery level?",
        "tell me how full the battery is.",
        "how much charge does the watch have?",
        "read the battery for me.",
    )
    clauses = (
        "the battery is at {}",
        "the battery has {} left",
        "{} of the battery is left",
        "the battery holds {}",
        "the battery is {} full",
        "the charge is {}",
        "the battery reads {}",
        "there is {} of charge",
        "the battery level is {}",
        "the battery shows {}",
    )
    changes = (
        "set the battery to {}.",
        "change the battery level to {}.",
        "let the battery show {}.",
        "change the charge to {}.",
    )

    def said(self, value: int) -> str:
        return f"{value}%"

    def alternatives(self, watch: Watch) -> list[Watch]:  # at least 30 points away
        return [
            replace(watch, battery=level)
            for level in range(101)
            if abs(level - watch.battery) >= 30
        ]

    def contrasts(self, watch: Watch) -> list[Watch]:
        return [replace(watch, battery=level) for level in (0, 100)]

    def mentions(self, text: str) -> list[Mention]:
        return find_percentages(text)

    def in_range(self, value: int, hours: int = 12) -> bool:
        return value <= 100

    def coarse(self, value: int) -> str:  # fifths
        low = min(80, value // 20 * 20)
        return f"{low}-{low + 19 if low < 80 else 100}%"

    def distance(self, part: str, given, true):
        return abs(given - true)

    def worst(self, part: str) -> float:
        return 100

    def read_back_credit(self, part: str, seen: int, true: int) -> float:
        return float(self.distance(part, seen, true) <= self.tolerance)

    def read_back_error(self, seen: tuple[int], true: tuple[int]) -> float:
        return self.distance(self.name, seen[0], true[0])

    def probe_class(self, watch: Watch) -> int:
        return min(4, watch.battery // 20)


class Corner(Attribute):
    """The corner of an icon; two icons never share one."""

    values = CORNERS

    def __init__(
        self, owner: str, other: str, questions: tuple[str, ...], clauses: tuple[str, ...]
    ):
        self.name, self.owner, self.excludes = f"{owner}_corner", owner, f"{other}_corner"
        self.questions, self.clauses = questions, clauses
        thing = {"weather": "weather icon"}.get(owner, owner)
        self.changes = (
            f"move the {thing} to the {{}}.",
            f"put the {thing} in the {{}} corner.",
            f"let the {thing} sit at the {{}}.",
            f"draw the {thing} at the {{}}.",
        )

    def alternatives(self, watch: Watch) -> list[Watch]:
        return [
            replace(watch, **{self.name: corner})
            for corner in CORNERS
            if corner not in (self.value(watch), getattr(watch, self.excludes))
        ]

    def mentions(self, text: str) -> list[Mention]:
        return find_corners(text)

    def caption_mentions(self, text: str) -> list[Mention]:  # those nearest to its own icon
        things = {
            attribute.name: (attribute.thing, attribute.bare_thing)
            for attribute in ATTRIBUTES.values()
            if attribute.thing
        }
        return [
            mention
            for mention in self.mentions(text)
            if nearest_thing(text, mention, things) == self.owner
        ]


# The order seeds the random streams of conversations.
ATTRIBUTES: dict[str, Attribute] = {
    attribute.name: attribute
    for attribute in (
        Time(),
        Weather(),
        Battery(),
        Corner(
            "weather",
            "battery",
            (
                "where is the weather icon?",
                "in which corner is the weather icon?",
                "which corner shows the weather?",
                "where is the weather drawn?",
                "please tell me where the weather icon is.",
                "which corner has the weather icon?",
                "where do you see the weather icon?",
                "name the corner of the weather icon.",
                "can you find the weather icon?",
                "tell me the corner with the weather.",
                "in what place is the weather shown?",
                "where should i look for the weather?",
            ),
            (
                "the weather icon is in the {} corner",
                "the icon sits at the {}",
                "the weather is shown at the {}",
                "the {} corner holds the weather icon",
                "the icon is in the {} corner",
                "the weather icon is at the {}",
                "the {} corner shows the weather",
                "the {} corner has the icon",
                "the weather icon is drawn {}",
                "the icon has its place {}",
            ),
        ),
        Corner(
            "battery",
            "weather",
            (
                "where is the battery?",
                "in which corner is the battery?",
                "which corner shows the battery?",
                "where is the battery drawn?",
                "please tell me where the battery is.",
                "which corner has the battery?",
                "where do you see the battery?",
                "name the corner of the battery.",
                "can you find the battery?",
                "tell me the corner with the battery.",
                "in what place is the battery shown?",
                "where should i look for the battery?",
            ),
            (
                "the battery is in the {} corner",
                "the battery sits at the {}",
                "the battery is shown at the {}",
                "the {} corner holds the battery",
                "the battery sits in the {} corner",
                "the battery is drawn at the {}",
                "the {} corner shows the battery",
                "the {} corner has the battery",
                "the battery is drawn {}",
                "the battery has its place {}",
            ),
        ),
    )
}


def find_attribute(name: str) -> Attribute:
    """Return the attribute called `name`; ValueError for an unknown name."""
    if name not in ATTRIBUTES:
        raise ValueError(f"attribute {name!r} is not one of {', '.join(ATTRIBUTES)}.")
    return ATTRIBUTES[name]


def attribute_with(part: str) -> Attribute:
    """Return the attribute that a part belongs to, e.g. the time for "hour"."""
    return next(attribute for attribute in ATTRIBUTES.values() if part in attribute.parts)


def icons_first() -> list[Attribute]:
    """Return the attributes with icons first, the order of probes and patches in records."""
    return sorted(ATTRIBUTES.values(), key=lambda attribute: not attribute.corner)


def scored_names() -> list[str]:
    """Return the names that get scores: all attributes, then the parts of those with several."""
    return [
        *ATTRIBUTES,
        *(
            part
            for attribute in ATTRIBUTES.values()
            if len(attribute.parts) > 1
            for part in attribute.parts
        ),
    ]


def reader_classes() -> dict[str, Sequence]:
    """Return what readers classify (hour, minute, second, weather, ...) and the values by class."""
    return {
        part: classes
        for attribute in ATTRIBUTES.values()
        if attribute.in_readers
        for part, classes in attribute.parts.items()
    }


def chances(read_back: bool = False) -> dict[str, float]:
    """Return the expected score of random guesses for each of `scored_names`.

    With `read_back`, return the expected score of images that ignore their requests.
    """
    found = {}
    for attribute in ATTRIBUTES.values():
        names = (attribute.name, *attribute.parts)
        found |= dict.fromkeys(names, attribute.read_back_chance if read_back else attribute.chance)
    return found


def read_caption(text: str) -> dict[str, str]:
    """Read the values a caption states: attribute -> "10:09:36", "sunny", "57%" or "top left".

    Attributes that it does not mention are absent. Contradicting values are joined by " or ", and
    denials keep their words; both then score 0. ValueError for anything but a string.
    """
    if not isinstance(text, str):
        raise ValueError(f"caption {text!r} is not a string.")
    text = text.lower()
    said = {
        name: [mention.text for mention in attribute.caption_mentions(text)]
        for name, attribute in ATTRIBUTES.items()
    }
    return {name: " or ".join(dict.fromkeys(words)) for name, words in said.items() if words}


def take_over(watch: Watch, other: Watch, names: Sequence[str]) -> Watch:
    """Return `watch` with the values of `other` in the attributes `names`.

    If an icon thereby moves to the other icon's corner, that icon moves to the corner left free.
    """
    taken = {field: getattr(other, field) for name in names for field in ATTRIBUTES[name].fields}
    for name in names:
        rival = ATTRIBUTES[name].excludes
        if rival and rival not in taken and taken[name] == getattr(watch, rival):
            taken[rival] = getattr(watch, name)
    return replace(watch, **taken)
