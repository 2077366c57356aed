r"""Parsing of the values in answers and captions (paper section 4).

Belongs here: which words and numbers name a value, and which of them claim it. Not here: the values
of each attribute (`attributes.py`), the score of a value (`scoring/answers.py`).

One parser serves answers, captions and truths, so "57%", "57 %" and "The battery is at 57%." give
the same value. Only values that the speaker claims count:

    two values          "57% or 60", "40 to 57%", "top left or right"   both found, neither counts
    a denial            "It is not cloudy", "not 57%"                   a mention, but no claim
    an open range       "more than 57%", "57% or less"                  a mention, but no claim
    another precision   "57.5%", "57,5%", "10:09:36.5"                  a mention, but no claim
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = tuple[int, int, int] | int | str

# a time includes its fraction ("10:09:36,5"), but not a level after a comma ("10:09:36,57%")
_MARK = r"\s*(?:%|per\s?cent)"
_NUMBER = re.compile(
    r"(?P<sign>[-−])?(?P<number>(?<![0-9])[0-9]++"
    rf"(?:(?::[0-9]++)++(?:[.,][0-9]++(?!{_MARK}))?|(?:[.,][0-9]++)*))"
    rf"(?P<mark>{_MARK})?(?P<plus>\+)?"
)
_TIME = re.compile(r"([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})")
_CORNER = re.compile(r"\b(?P<row>top|bottom)[\s-]+(?P<column>left|right)\b")

# words between two numbers, or between a value and part of another, that make them alternatives or
# a range
_OR = r"(?:(?:plus\s+)?or(?:\s+minus\b)?|to|till?|until|through|thru|versus|vs|/|-|–|—|−|~|±|…)"
_BESIDE = (
    r"(?:[,(]|(?:either|maybe|perhaps|possibly|about|around|roughly|approximately"
    r"|at|up|even|the|a|it|is|be|in|on)\b)"
)
_JOINED = re.compile(rf"(?:\s|{_BESIDE})*+(?:{_OR}|\.\.+)(?:\s|{_BESIDE})*+")
_AND = re.compile(rf"\s*(?:and|&|but)(?:\s|{_BESIDE})*+")
_ONLY_NUMBERS = re.compile(rf"(?:[\s.,;:()%+]|per\s?cent|and\b|{_OR}|{_BESIDE})*+")
_LIST_NUMBER = re.compile(r"\s*[0-9]+[.)]\s+(?=\S)")  # "1) 57%"
_OPEN_BEFORE = re.compile(
    r"(?:(?:more|less|fewer|greater|higher|lower|larger|smaller|later|earlier)\s+than"
    r"|at\s+(?:least|most)|over|under"
    r"|above|below|beyond|up\s+to|before|after|until|till|since|[<>≤≥]=?)\s*(?:the\s+)?$"
)
_OPEN_AFTER = re.compile(
    r"\s*(?:or|and)\s+(?:more|less|fewer|above|below|higher|lower|over|under|up|later|earlier"
    r"|beyond|greater|smaller)\b|\s*(?:plus|upwards?)\b|\s*±"
)
_ROW_BEFORE = re.compile(rf"\b(top|bottom)(?:\s|{_BESIDE})*(?:{_OR}|and|&)(?:\s|{_BESIDE})*$")
_MORE_AFTER = re.compile(
    rf"(?:\s|corner\b|{_BESIDE})*+(?:{_OR}|and|&)(?:\s|{_BESIDE})*+"
    r"(?:(left|right|top|bottom)\b(?!\s*(?:left|right|now|away))"
    r"|(?:upper|lower|middle|cent(?:er|re))\b)"
)
_WORD_BEFORE = re.compile(rf"(\w+)(?:\s|{_BESIDE})*(?:/|\bor\b)(?:\s|{_BESIDE})*$")
_WORD_AFTER = re.compile(rf"(?:\s|{_BESIDE})*+(?:/|or\b)(?:\s|{_BESIDE})*+(\w+)")

_NEVER = (
    r"(?:\bnot\b(?!\s+(?:only|just|sure)\b)|n['’]t\b"
    r"|\b(?:is|are|was|do|does|did|ca|can|wo|would|should)nt\b"
    r"|\bcannot\b|\bnever\b|\bneither\b|\bnor\b|\bhardly\b)"
)
_DENIED_BEFORE = re.compile(
    rf"{_NEVER}|\bnon[\s-]$"
    r"|\b(?:no|no\s+longer|without|except|anything\s+but|other\s+than|far\s+from)\s+"
    r"(?:(?:a|the|in|at)\s+)*$"
)
_DENIED_AFTER = re.compile(
    r"\s*(?:(?:in|at|on|the|corner|it|that|icon)\s+)*(?:corner\s+)?(?:(?:is|was|are|does|it)\s+)*"
    r"(?:is|was|are|does|ca)?(?:not\b|n['’]t\b|nt\b|wrong\b|false\b|incorrect\b)"
)
_CLAUSE_END = re.compile(
    r"[,;!?\n]|\.(?![0-9])|(?<!anything )\bbut\b|\b(?:and|while|whereas|though)\b"
)


@dataclass(frozen=True)
class Mention:
    """A value that a text mentions."""

    value: Value | None  # None if no attribute can have it: a fraction, part of a time
    claimed: bool  # whether the text claims the value
    text: str  # the value in words, as `read_caption` returns it
    start: int
    end: int


def find_words(values: Sequence[str], text: str) -> list[Mention]:
    """Return every mention of one of the words `values`."""
    text, found = text.lower(), []
    for match in re.finditer(rf"\b(?:{'|'.join(values)})\b", text):
        value, (start, end) = match.group(), match.span()
        beside = (_WORD_BEFORE.search(text, 0, start), _WORD_AFTER.match(text, end))
        claimed = all(word[1] in (value, "so", "thereabouts") for word in beside if word)
        found.append(
            _word(text, value, claimed, value if claimed else f"{value} or another", start, end)
        )
    return found


def find_corners(text: str) -> list[Mention]:
    """Return every mention of a corner, e.g. "top left" or "top-left"."""
    text, found = text.lower(), []
    for match in _CORNER.finditer(text):
        value, (start, end) = f"{match['row']} {match['column']}", match.span()
        beside = (_ROW_BEFORE.search(text, 0, start), _MORE_AFTER.match(text, end))
        others = [
            part
            for part in (more[1] or "middle" for more in beside if more)
            if part not in value.split()
        ]
        found.append(_word(text, value, not others, " or ".join([value, *others]), start, end))
    return found


def _word(text: str, value: str, claimed: bool, said: str, start: int, end: int) -> Mention:
    if _denied(text, start, end):
        claimed, said = False, f"not {value}"
    return Mention(value, claimed, said, start, end)


def find_times(text: str) -> list[Mention]:
    """Return every mention of a time hh:mm:ss; its value is (hour, minute, second)."""
    return _numbers(text.lower(), clock=True)


def find_percentages(text: str) -> list[Mention]:
    """Return every mention of a percentage; its value is an integer.

    Bare numbers count if the text has no percent sign at all.
    """
    return _numbers(text.lower(), clock=False)


def claimed_value(found: Sequence[Mention]) -> Value | None:
    """Return the value that all mentions claim, or None if there is no such value."""
    values = {mention.value for mention in found}
    return values.pop() if len(values) == 1 and all(mention.claimed for mention in found) else None


def _numbers(text: str, clock: bool) -> list[Mention]:
    """Return every mention of a time (if `clock`) or of a percentage."""
    tokens = [
        token for token in _NUMBER.finditer(text) if clock or not _TIME.fullmatch(token["number"])
    ]
    marked = [
        bool(_TIME.fullmatch(token["number"]) if clock else token["mark"]) for token in tokens
    ]
    chosen = list(marked)
    # if there is a percent sign anywhere, bare numbers mean something else
    if not clock and not any(marked):
        chosen = [token["number"].isdigit() and not _negative(text, token) for token in tokens]
    only = not _LIST_NUMBER.match(text) and bool(_ONLY_NUMBERS.fullmatch(_NUMBER.sub(" ", text)))
    links = [
        _linked(clock, text, first, second, only)
        for first, second in zip(tokens, tokens[1:], strict=False)
    ]
    for order in (range(len(links)), reversed(range(len(links)))):  # both ways along a chain
        for place in order:
            if links[place] and (chosen[place] or chosen[place + 1]):
                chosen[place] = chosen[place + 1] = True
    full = [token["number"] for token, known in zip(tokens, marked, strict=True) if known]
    return [
        _number(clock, text, token)
        for token, wanted in zip(tokens, chosen, strict=True)
        # the first time of "10:09, 10:09:36" is part of the second
        if wanted and not any(time.startswith(f"{token['number']}:") for time in full)
    ]


def _number(clock: bool, text: str, token: re.Match) -> Mention:
    number, (start, end) = token["number"], token.span()
    time = _TIME.fullmatch(number)
    if clock:
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
    """Return whether the sign before a number is a minus and not the dash of a range."""
    return bool(token["sign"]) and not re.search(r"[0-9%t]\s*$", text[: token.start()])


def _linked(clock: bool, text: str, first: re.Match, second: re.Match, only: bool) -> bool:
    """Return whether two successive numbers are alternatives or the ends of a range."""
    if clock and (first["mark"] or second["mark"]):
        return False  # a level beside a time
    gap = text[first.end() : second.start("number")]
    if only or _JOINED.fullmatch(gap):
        return True
    if not _AND.fullmatch(gap):
        return False
    between = re.search(r"\b(?:between|both|either)\s+(?:\w+\s+)?$", text[: first.start()])
    # "and 3 bars" is something else
    return bool(between) or not re.match(r"\s*[a-z]", text[second.end() :])


def _denied(text: str, start: int, end: int) -> bool:
    """Return whether the clause denies the words from `start` to `end`."""
    begin = max(
        [match.end() for match in _CLAUSE_END.finditer(text, 0, start)]
        + [text.rfind(": ", 0, start) + 1]
    )
    return bool(_DENIED_BEFORE.search(text[begin:start]) or _DENIED_AFTER.match(text, end))


def nearest_thing(text: str, corner: Mention, things: Mapping[str, tuple[str, str]]) -> str | None:
    """Return the thing named nearest to a mentioned corner in its clause, or None.

    `text` is in lower case. `things` maps a name to two regexes: words that mean the thing, and
    words such as "the icon" that mean it only if no other thing is named (may be empty).
    """
    begin = max((match.end() for match in _CLAUSE_END.finditer(text, 0, corner.start)), default=0)
    stop = _CLAUSE_END.search(text, corner.end)
    clause, offset = text[begin : stop.start() if stop else len(text)], begin
    named = [f"(?P<{name}>{words})" for name, (words, _) in things.items()]
    bare = [f"(?P<bare_{name}>{words})" for name, (_, words) in things.items() if words]
    found = [
        (match, match.lastgroup.removeprefix("bare_"), match.lastgroup.startswith("bare_"))
        for match in re.finditer("|".join(named + bare), clause)
    ]
    corners = list(_CORNER.finditer(clause))
    if len(corners) == 1:  # "the battery has its icon top left"
        found = [
            (match, name, bare)
            for match, name, bare in found
            if not (bare and any(other != name for _, other, _ in found))
        ]
    if not found:
        return None
    # "top left the icon, ..." names corners first
    leading = corners[0].start() < found[0][0].start()

    def distance(thing: tuple[re.Match, str, bool]) -> tuple[int, bool]:
        match = thing[0]
        before = match.end() + offset <= corner.start
        gap = corner.start - match.end() - offset if before else match.start() + offset - corner.end
        return gap, before == leading

    return min(found, key=distance)[1]
