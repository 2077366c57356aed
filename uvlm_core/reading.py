r"""Values read out of what was said about a watch (paper section 4): answers and captions in, values out.

Belongs here: which words and numbers name a value, and when they do not claim it. Not here: what a value is worth
(`scoring.py`).

One reader serves answers, captions and truths, so that "57%", "57 %" and "The battery is at 57%." are the same. What
counts is what the speaker claims:

    two values          "57% or 60", "40 to 57%", "top left or right"     both are found, so neither is the answer
    a denial            "It is not cloudy", "not 57%"                     a mention, but no claim
    an open range       "more than 57%", "57% or less"                    a mention, but no claim
    another precision   "57.5%", "57,5%", "10:09:36.5"                    a mention, but no claim
"""

import re
from dataclasses import dataclass

from uvlm_core.smart_watch import WEATHERS

Value = tuple[int, int, int] | int | str

# a time with a fraction takes it along ("10:09:36,5"), but not a level after a comma ("10:09:36,57%")
_MARK = r"\s*(?:%|per\s?cent)"
_NUMBER = re.compile(
    r"(?P<sign>[-−])?(?P<number>(?<![0-9])[0-9]++"
    rf"(?:(?::[0-9]++)++(?:[.,][0-9]++(?!{_MARK}))?|(?:[.,][0-9]++)*))(?P<mark>{_MARK})?(?P<plus>\+)?")
_TIME = re.compile(r"([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})")
_WEATHER = re.compile(rf"\b(?:{'|'.join(WEATHERS)})\b")
_CORNER = re.compile(r"\b(?P<row>top|bottom)[\s-]+(?P<column>left|right)\b")

# what stands between two numbers, or a value and a part of another one, and makes them alternatives or a range
_OR = r"(?:(?:plus\s+)?or(?:\s+minus\b)?|to|till?|until|through|thru|versus|vs|/|-|–|—|−|~|±|…)"
_BESIDE = (r"(?:[,(]|(?:either|maybe|perhaps|possibly|about|around|roughly|approximately|at|up|even|the|a|it|is|be"
           r"|in|on)\b)")
_JOINED = re.compile(rf"(?:\s|{_BESIDE})*+(?:{_OR}|\.\.+)(?:\s|{_BESIDE})*+")
_AND = re.compile(rf"\s*(?:and|&|but)(?:\s|{_BESIDE})*+")
_ONLY_NUMBERS = re.compile(rf"(?:[\s.,;:()%+]|per\s?cent|and\b|{_OR}|{_BESIDE})*+")
_LIST_NUMBER = re.compile(r"\s*[0-9]+[.)]\s+(?=\S)")  # "1) 57%"
_OPEN_BEFORE = re.compile(
    r"(?:(?:more|less|fewer|greater|higher|lower|larger|smaller|later|earlier)\s+than|at\s+(?:least|most)|over|under"
    r"|above|below|beyond|up\s+to|before|after|until|till|since|[<>≤≥]=?)\s*(?:the\s+)?$")
_OPEN_AFTER = re.compile(r"\s*(?:or|and)\s+(?:more|less|fewer|above|below|higher|lower|over|under|up|later|earlier"
                         r"|beyond|greater|smaller)\b|\s*(?:plus|upwards?)\b|\s*±")
_ROW_BEFORE = re.compile(rf"\b(top|bottom)(?:\s|{_BESIDE})*(?:{_OR}|and|&)(?:\s|{_BESIDE})*$")
_MORE_AFTER = re.compile(rf"(?:\s|corner\b|{_BESIDE})*+(?:{_OR}|and|&)(?:\s|{_BESIDE})*+"
                         r"(?:(left|right|top|bottom)\b(?!\s*(?:left|right|now|away))|(?:upper|lower|middle|cent(?:er|re))\b)")
_WORD_BEFORE = re.compile(rf"(\w+)(?:\s|{_BESIDE})*(?:/|\bor\b)(?:\s|{_BESIDE})*$")
_WORD_AFTER = re.compile(rf"(?:\s|{_BESIDE})*+(?:/|or\b)(?:\s|{_BESIDE})*+(\w+)")

_NEVER = (r"(?:\bnot\b(?!\s+(?:only|just|sure)\b)|n['’]t\b|\b(?:is|are|was|do|does|did|ca|can|wo|would|should)nt\b"
          r"|\bcannot\b|\bnever\b|\bneither\b|\bnor\b|\bhardly\b)")
_DENIED_BEFORE = re.compile(
    rf"{_NEVER}|\bnon[\s-]$"
    r"|\b(?:no|no\s+longer|without|except|anything\s+but|other\s+than|far\s+from)\s+(?:(?:a|the|in|at)\s+)*$")
_DENIED_AFTER = re.compile(
    r"\s*(?:(?:in|at|on|the|corner|it|that|icon)\s+)*(?:corner\s+)?(?:(?:is|was|are|does|it)\s+)*"
    r"(?:is|was|are|does|ca)?(?:not\b|n['’]t\b|nt\b|wrong\b|false\b|incorrect\b)")
_CLAUSE_END = re.compile(r"[,;!?\n]|\.(?![0-9])|(?<!anything )\bbut\b|\b(?:and|while|whereas|though)\b")

# What a corner can belong to. "battery icon" is the battery; "icon" alone is the weather's, as watches have it.
_LEVEL_WORDS = r"(?:['’]?s)?(?:[\s-]+(?:level|charge|status|indicator|percentage|symbol|icon))*"
_SIGN = r"(?:icon|symbol|indicator)"
_THING = re.compile(
    rf"(?P<battery>\b(?:battery|charge|charging){_LEVEL_WORDS}|\b{_SIGN}\s+(?:of|for|showing|that\s+shows|with)\s+"
    rf"(?:the\s+|a\s+)?(?:battery|charge){_LEVEL_WORDS}|%)"
    rf"|(?P<weather>\b(?:weather|{'|'.join(WEATHERS)})(?:['’]s)?(?:[\s-]+{_SIGN})?)|(?P<icon>\bicon)")


@dataclass(frozen=True)
class Mention:
    """A value that a text mentions: whether the text claims it, and its words as a caption's reading shows them."""

    value: Value | None  # None where it can be no value of the attribute: a fraction, part of a time
    claimed: bool
    text: str
    start: int
    end: int


def mentions(attribute: str, text: str) -> list[Mention]:
    """Every mention of a value of `attribute` in a text, in its order."""
    text = text.lower()
    if attribute in ("time", "battery"):
        return _numbers(attribute, text)
    pattern = _WEATHER if attribute == "weather" else _CORNER
    return [_word(attribute, text, match) for match in pattern.finditer(text)]


def value_of(attribute: str, text: str) -> Value | None:
    """The one value that a text claims; None if it claims none, more than one, or also mentions another.

    A time is (hour, minute, second), a battery an integer, a weather or a corner its name; none is checked for range.
    """
    found = mentions(attribute, text)
    values = {mention.value for mention in found}
    return values.pop() if len(values) == 1 and all(mention.claimed for mention in found) else None


def read_caption(text: str) -> dict[str, str]:
    """Read the values a caption states: attribute -> "10:09:36", "sunny", "57%" or "top left".

    What it leaves out is absent. A corner belongs to the thing named nearest in its clause, the weather or the battery.
    Contradicting values are all returned, joined by " or ", and denials with their words; both then score 0.
    """
    if not isinstance(text, str):
        raise ValueError(f"caption {text!r} is not a string.")
    text = text.lower()
    found = {"time": [mention.text for mention in mentions("time", text)],
             "weather": [mention.text for mention in mentions("weather", text)],
             "battery": [mention.text for mention in mentions("battery", text) if "%" in mention.text],
             "weather_corner": [], "battery_corner": []}
    for mention in mentions("weather_corner", text):
        owner = _owner(text, mention)
        if owner:
            found[f"{owner}_corner"].append(mention.text)
    return {attribute: " or ".join(dict.fromkeys(said)) for attribute, said in found.items() if said}


def _word(attribute: str, text: str, match: re.Match) -> Mention:
    """A weather or a corner that a text names."""
    value, start, end = " ".join(match.group().replace("-", " ").split()), *match.span()
    if attribute == "weather":
        words = [found[1] for found in (_WORD_BEFORE.search(text, 0, start), _WORD_AFTER.match(text, end)) if found]
        claimed = all(word in (value, "so", "thereabouts") for word in words)
        said = value if claimed else f"{value} or another"
    else:
        parts = [part[1] or "middle" for part in (_ROW_BEFORE.search(text, 0, start), _MORE_AFTER.match(text, end))
                 if part]
        others = [part for part in parts if part not in value.split()]
        claimed, said = not others, " or ".join([value, *others])
    if _denied(text, start, end):
        claimed, said = False, f"not {value}"
    return Mention(value, claimed, said, start, end)


def _numbers(attribute: str, text: str) -> list[Mention]:
    """Times or levels that a text names."""
    tokens = [token for token in _NUMBER.finditer(text)
              if attribute == "time" or not _TIME.fullmatch(token["number"])]
    marked = [bool(_TIME.fullmatch(token["number"]) if attribute == "time" else token["mark"]) for token in tokens]
    chosen = list(marked)
    if attribute == "battery" and not any(marked):  # with a percent sign anywhere, bare numbers are something else
        chosen = [token["number"].isdigit() and not _negative(text, token) for token in tokens]
    only = not _LIST_NUMBER.match(text) and bool(_ONLY_NUMBERS.fullmatch(_NUMBER.sub(" ", text)))
    links = [_linked(attribute, text, first, second, only) for first, second in zip(tokens, tokens[1:], strict=False)]
    for order in (range(len(links)), reversed(range(len(links)))):  # along a chain, both ways
        for place in order:
            if links[place] and (chosen[place] or chosen[place + 1]):
                chosen[place] = chosen[place + 1] = True
    full = [token["number"] for token, known in zip(tokens, marked, strict=True) if known]
    return [_number(attribute, text, token) for token, wanted in zip(tokens, chosen, strict=True)
            if wanted and not any(time.startswith(f"{token['number']}:") for time in full)]  # "10:09, 10:09:36"


def _number(attribute: str, text: str, token: re.Match) -> Mention:
    number, (start, end) = token["number"], token.span()
    time = _TIME.fullmatch(number)
    if attribute == "time":
        value = tuple(map(int, time.groups())) if time else None
        said = number
    else:
        value = int(number) if number.isdigit() and len(number) <= 9 else None
        said = f"{number}%"
    if _negative(text, token):
        value, said = None, f"-{said}"
    start = token.start("number")
    before, after = _OPEN_BEFORE.search(text, 0, start), _OPEN_AFTER.match(text, end)
    if before or after or token["plus"]:
        said = f"more or less than {said}"
    elif _denied(text, start, end):
        said = f"not {said}"
    else:
        return Mention(value, value is not None, said, start, end)
    return Mention(value, False, said, start, end)


def _negative(text: str, token: re.Match) -> bool:
    """Whether the sign before a number is a minus, and not the dash of a range."""
    return bool(token["sign"]) and not re.search(r"[0-9%t]\s*$", text[: token.start()])


def _linked(attribute: str, text: str, first: re.Match, second: re.Match, only: bool) -> bool:
    """Whether two numbers that follow one another are alternatives or the ends of a range."""
    if attribute == "time" and (first["mark"] or second["mark"]):
        return False  # a level beside a time
    gap = text[first.end() : second.start("number")]
    if only or _JOINED.fullmatch(gap):
        return True
    if not _AND.fullmatch(gap):
        return False
    between = re.search(r"\b(?:between|both|either)\s+(?:\w+\s+)?$", text[: first.start()])
    return bool(between) or not re.match(r"\s*[a-z]", text[second.end() :])  # "and 3 bars" is something else


def _denied(text: str, start: int, end: int) -> bool:
    """Whether a text denies what stands from `start` to `end`, in that clause."""
    begin = max([match.end() for match in _CLAUSE_END.finditer(text, 0, start)] + [text.rfind(": ", 0, start) + 1])
    return bool(_DENIED_BEFORE.search(text[begin:start]) or _DENIED_AFTER.match(text, end))


def _owner(text: str, corner: Mention) -> str | None:
    """Whose corner it is: "weather" or "battery", whatever its clause names nearest; None if it names neither."""
    begin = max((match.end() for match in _CLAUSE_END.finditer(text, 0, corner.start)), default=0)
    stop = _CLAUSE_END.search(text, corner.end)
    clause, offset = text[begin : stop.start() if stop else len(text)], begin
    things = list(_THING.finditer(clause))
    corners = list(_CORNER.finditer(clause))
    if len(corners) == 1 and any(thing.lastgroup == "battery" for thing in things):
        things = [thing for thing in things if thing.lastgroup != "icon"]  # "the battery has its icon top left"
    if not things:
        return None
    leading = corners[0].start() < things[0].start()  # "top left the icon, ..." names corners first

    def distance(thing: re.Match) -> tuple[int, bool]:
        before = thing.end() + offset <= corner.start
        gap = corner.start - thing.end() - offset if before else thing.start() + offset - corner.end
        return gap, before == leading

    return {"icon": "weather"}.get(kind := min(things, key=distance).lastgroup, kind)
