"""What an answer is worth (paper section 4): partial credit, exact match and the score above chance, per attribute.

Belongs here: strings in, scores out, for answers and captions. Not here: how a value is read out of a text
(`reading.py`), how the answers came about (`generation.py`), scores of generated images (`fidelity.py`).

An answer that claims no value, or two different ones, scores as the worst answer does: 0 before chance is taken into
account.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from uvlm_core.conversations import truth as truth_of
from uvlm_core.conversations import values_of
from uvlm_core.reading import read_caption, value_of
from uvlm_core.smart_watch import ATTRIBUTES, CORNERS, WEATHERS, Watch

RULES = ("partial", "exact", "normalised", "unchecked")
TIME_PARTS = ("hour", "minute", "second")
PERIODS = (12, 60, 60)  # of the three hands; an answer at or above its hand's period is out of range

# The expected partial credit of a uniform random guess. For two independent uniform levels of 0..100 the mean distance
# is (101**2 - 1) / (3 * 101); a hand is a quarter of a turn off on average, half of the greatest error.
CHANCE = {"time": 0.5, "weather": 1 / len(WEATHERS), "battery": 1 - (101**2 - 1) / (3 * 101) / 100,
          "weather_corner": 1 / len(CORNERS), "battery_corner": 1 / len(CORNERS), **dict.fromkeys(TIME_PARTS, 0.5)}

_FORMS = {"time": "hh:mm:ss from 00:00:00 to 12:59:59", "battery": "0% to 100%", "weather": " or ".join(WEATHERS),
          "weather_corner": " or ".join(CORNERS), "battery_corner": " or ".join(CORNERS)}


def score_answer(attribute: str, answer: str, truth: str, rule: str = "partial") -> float:
    """The score of one answer to a question about `attribute`.

    partial     weather and corners are right or wrong; battery 1 - |error| / 100; time 1 - the mean of the circular
                errors of hour, minute and second, each over half a turn (paper section 4). Out of range scores 0.
    exact       1 if the whole value is equal, else 0.
    normalised  (partial - chance) / (1 - chance), see `CHANCE`: 0 for guessing, 1 for being right, negative for worse.
    unchecked   partial without the range check, as the authors' code has it: 23:99:00 scores above 1 (pitfall 9).

    A truth may have their hour 12 (pitfall 10), which is as far from any answer as 0.

    ValueError for an unknown attribute or rule, for anything but strings, and for a truth without one value in range.
    """
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute {attribute!r} is not one of {', '.join(ATTRIBUTES)}.")
    if attribute == "time":
        parts = score_time_parts(answer, truth, rule).values()
        return min(parts) if rule == "exact" else sum(parts) / len(parts)
    given, true = _given_and_true(attribute, answer, truth, rule)
    if given is None:
        partial = 0.0
    elif attribute == "battery":
        partial = 1 - abs(given - true) / 100
    else:
        partial = float(given == true)
    return _by_rule(attribute, partial, given == true, rule)


def score_time_parts(answer: str, truth: str, rule: str = "partial") -> dict[str, float]:
    """The scores of hour, minute and second apart; `score_answer` of the time is their mean (for exact, the least).

    The range is checked for the time as a whole: 10:99:00 scores 0 in all three.
    """
    given, true = _given_and_true("time", answer, truth, rule)
    scores = {}
    for place, (part, period) in enumerate(zip(TIME_PARTS, PERIODS, strict=True)):
        if given is None:
            scores[part] = _by_rule(part, 0.0, False, rule)
        else:
            error = abs(given[place] - true[place])
            error = min(error, period - error)  # circular in range; negative out of range, where "unchecked" exceeds 1
            scores[part] = _by_rule(part, 1 - error / (period / 2), given[place] == true[place], rule)
    return scores


def score_conversations(answers: Iterable[tuple[str, str, str]],
                        rules: Sequence[str] = ("partial", "exact", "normalised")) -> list[dict]:
    """Score rows {"metric", "attribute", "value", "samples"} of (attribute, answer, truth) triples, every turn counted.

    For each rule a row per attribute that was asked, `hour`, `minute` and `second` beside `time`, and, if all five were
    asked, `total`: the mean of the five attributes, however often each was asked.
    """
    answers = list(answers)
    rows = []
    for rule in rules:
        scores = defaultdict(list)
        for attribute, answer, truth in answers:
            scores[attribute].append(score_answer(attribute, answer, truth, rule))
            if attribute == "time":
                for part, score in score_time_parts(answer, truth, rule).items():
                    scores[part].append(score)
        means = {name: sum(scores[name]) / len(scores[name]) for name in (*ATTRIBUTES, *TIME_PARTS) if scores[name]}
        rows += [_row(rule, name, mean, len(scores[name])) for name, mean in means.items()]
        if all(attribute in means for attribute in ATTRIBUTES):
            total = sum(means[attribute] for attribute in ATTRIBUTES) / len(ATTRIBUTES)
            rows.append(_row(rule, "total", total, len(answers)))
    return rows


def answer_class(attribute: str, text: str) -> str:
    """What an answer says in coarse words, "none" where it names no value, two, or one that no watch shows.

    Weather and corners are themselves; levels are fifths ("40-59%"), times quarters of the dial ("9-11 h").
    """
    value = value_of(attribute, text)
    if value is None or not _in_range(attribute, value, hours=13):
        return "none"
    if attribute == "battery":
        low = min(80, value // 20 * 20)
        return f"{low}-{low + 19 if low < 80 else 100}%"
    if attribute == "time":
        low = value[0] % 12 // 3 * 3
        return f"{low}-{low + 2} h"
    return value


def score_confusion(attribute: str, answers: Iterable[tuple[str, str]]) -> list[dict]:
    """Score rows of what is answered for what, from (answer, truth) pairs: metric "confusion".

    A row has attribute "weather: sunny > none" (truth > answer), the share of that truth's answers, and as samples how
    often that truth was asked for. All classes that any watch can show are there.
    """
    classes = list(dict.fromkeys(answer_class(attribute, value) for value in values_of(attribute)))
    counts = Counter((answer_class(attribute, truth), answer_class(attribute, answer)) for answer, truth in answers)
    asked = {true: sum(counts[true, said] for said in (*classes, "none")) for true in classes}
    return [_row("confusion", f"{attribute}: {true} > {said}", counts[true, said] / asked[true], asked[true])
            for true in classes if asked[true] for said in (*classes, "none")]


def score_caption(caption: str, watch: Watch, rule: str = "partial") -> dict[str, float | None]:
    """The score of each of the five attributes that the caption states; None for those that it leaves out.

    Leaving out is no mistake: true captions mention all but the time at random. `score_captions` counts it apart.
    """
    said = read_caption(caption)
    return {attribute: score_answer(attribute, said[attribute], truth_of(watch, attribute), rule)
            if attribute in said else None for attribute in ATTRIBUTES}


def score_captions(captions: Sequence[str], watches: Sequence[Watch],
                   rules: Sequence[str] = ("partial", "exact", "normalised")) -> list[dict]:
    """Score rows of captions, caption i about watch i; metrics `caption_mentioned` and `caption_<rule>`.

    `caption_mentioned` is the share of captions that state an attribute, `total` its mean over the five. The others are
    as in `score_conversations`, over the captions that state the attribute.
    """
    if len(captions) != len(watches):
        raise ValueError(f"there are {len(captions)} captions for {len(watches)} watches; each needs its own.")
    said = [read_caption(caption) for caption in captions]
    rows = []
    if captions:
        shares = {attribute: sum(attribute in values for values in said) / len(said) for attribute in ATTRIBUTES}
        shares["total"] = sum(shares.values()) / len(shares)
        rows = [_row("caption_mentioned", attribute, share, len(said)) for attribute, share in shares.items()]
    stated = [(attribute, values[attribute], truth_of(watch, attribute))
              for values, watch in zip(said, watches, strict=True) for attribute in ATTRIBUTES if attribute in values]
    return rows + [{**row, "metric": f"caption_{row['metric']}"} for row in score_conversations(stated, rules)]


def _row(metric: str, attribute: str, value: float, samples: int) -> dict:
    """One score row of a run record."""
    return {"metric": metric, "attribute": attribute, "value": value, "samples": samples}


def _by_rule(attribute: str, partial: float, equal: bool, rule: str) -> float:
    """Partial credit turned into the score of a rule."""
    if rule == "exact":
        return float(equal)
    return (partial - CHANCE[attribute]) / (1 - CHANCE[attribute]) if rule == "normalised" else partial


def _given_and_true(attribute: str, answer: str, truth: str, rule: str) -> tuple:
    """The values of an answer (None if there is none that counts) and of the truth, after validation."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is not one of {', '.join(RULES)}.")
    _check_text("answer", answer)
    _check_text("truth", truth)
    given, true = value_of(attribute, answer), value_of(attribute, truth)
    if true is None or not _in_range(attribute, true, hours=13):
        raise ValueError(f"truth {truth!r} is not a {attribute}; it has the form {_FORMS[attribute]}.")
    if given is not None and rule != "unchecked" and not _in_range(attribute, given):
        given = None
    return given, true


def _in_range(attribute: str, value: tuple[int, int, int] | int | str, hours: int = 12) -> bool:
    """Whether a watch can show a value; words are in range because only known ones are read."""
    if attribute == "time":
        return all(number < period for number, period in zip(value, (hours, *PERIODS[1:]), strict=True))
    return attribute != "battery" or value <= 100


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} {text!r} is not a string.")
