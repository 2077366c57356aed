"""Scores of answers (paper section 4): partial credit, exact match, the score above chance.

Belongs here: scores of answers and captions, and their rows. Not here: the credit of an attribute's
values (`data/attributes.py`), how a value is read (`data/reading.py`), scores of images
(`images.py`).

An answer that claims no value, or two different ones, scores 0 before the correction for chance.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from uvlm_core.data.attributes import (
    ATTRIBUTES,
    Attribute,
    find_attribute,
    read_caption,
    scored_names,
)
from uvlm_core.data.smart_watch import Watch

RULES = ("partial", "exact", "normalised", "unchecked")


def score_answer(attribute: str, answer: str, truth: str, rule: str = "partial") -> float:
    """Return the score of one answer to a question about `attribute`.

    partial     weather and corners are right or wrong; battery 1 - |error| / 100; time 1 - the
                mean circular error of hour, minute and second, each as a share of half a turn
                (paper section 4). Out of range scores 0.
    exact       1 if the whole value is equal, else 0.
    normalised  (partial - chance) / (1 - chance): 0 for guessing, 1 for being right, negative for
                worse.
    unchecked   partial without the range check, as the authors' code has it: 23:99:00 scores
                above 1 (pitfall 9).

    A truth may have the authors' hour 12 (pitfall 10), and then an answer may have it too. It is as
    far from any hour as hour 0.

    ValueError for an unknown attribute or rule, for anything but strings, and for a truth without
    exactly one value in range.
    """
    scores = score_parts(attribute, answer, truth, rule).values()
    return min(scores) if rule == "exact" else sum(scores) / len(scores)


def score_parts(attribute: str, answer: str, truth: str, rule: str = "partial") -> dict[str, float]:
    """Return the scores of an attribute's parts, such as hour, minute and second.

    `score_answer` is their mean (their minimum for "exact"). The range check covers the whole
    value: 10:99:00 scores 0 in all three.
    """
    kind = find_attribute(attribute)
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is not one of {', '.join(RULES)}.")
    for name, text in (("answer", answer), ("truth", truth)):
        if not isinstance(text, str):
            raise ValueError(f"{name} {text!r} is not a string.")
    given, true = kind.parse(answer), kind.parse(truth)
    if true is None or not kind.in_range(true, hours=13):
        raise ValueError(f"truth {truth!r} is not a {attribute}; it has the form {kind.form}.")
    hours = 12 if kind.in_range(true) else 13
    if given is None or not (rule == "unchecked" or kind.in_range(given, hours)):
        return {part: _by_rule(kind, 0.0, False, rule) for part in kind.parts}
    values = zip(kind.parts, kind.split(given), kind.split(true), strict=True)
    return {
        part: _by_rule(kind, kind.credit(part, one, other), one == other, rule)
        for part, one, other in values
    }


def score_conversations(
    answers: Iterable[tuple[str, str, str]],
    rules: Sequence[str] = ("partial", "exact", "normalised"),
) -> list[dict]:
    """Return score rows of (attribute, answer, truth) triples.

    A row is {"metric", "attribute", "value", "samples"}. Every turn counts. Each rule gives a row
    per attribute that was asked; `time` adds `hour`, `minute` and `second`. If all attributes were
    asked, `total` is their mean, however often each was asked.
    """
    answers = list(answers)
    rows = []
    for rule in rules:
        scores = defaultdict(list)
        for attribute, answer, truth in answers:
            scores[attribute].append(score_answer(attribute, answer, truth, rule))
            if len(parts := score_parts(attribute, answer, truth, rule)) > 1:
                for part, score in parts.items():
                    scores[part].append(score)
        means = {
            name: sum(scores[name]) / len(scores[name]) for name in scored_names() if scores[name]
        }
        rows += [_row(rule, name, mean, len(scores[name])) for name, mean in means.items()]
        if all(attribute in means for attribute in ATTRIBUTES):
            total = sum(means[attribute] for attribute in ATTRIBUTES) / len(ATTRIBUTES)
            rows.append(_row(rule, "total", total, len(answers)))
    return rows


def answer_class(attribute: str, text: str) -> str:
    """Return an answer's coarse class; "none" for no value, two, or one that no watch shows.

    Weather and corners are their own classes. Levels are fifths ("40-59%"), times quarters of the
    dial ("9-11 h").
    """
    kind = find_attribute(attribute)
    value = kind.parse(text)
    return "none" if value is None or not kind.in_range(value, hours=13) else kind.coarse(value)


def score_confusion(attribute: str, answers: Iterable[tuple[str, str]]) -> list[dict]:
    """Return score rows of a confusion matrix of (answer, truth) pairs, metric "confusion".

    A row has attribute "weather: sunny > none" (truth > answer), the share of that truth's answers,
    and as samples how often that truth was asked for. Classes that were never answered have rows.
    """
    values = find_attribute(attribute).values
    classes = list(dict.fromkeys(answer_class(attribute, value) for value in values))
    counts = Counter(
        (answer_class(attribute, truth), answer_class(attribute, answer))
        for answer, truth in answers
    )
    asked = {true: sum(counts[true, said] for said in (*classes, "none")) for true in classes}
    return [
        _row(
            "confusion",
            f"{attribute}: {true} > {said}",
            counts[true, said] / asked[true],
            asked[true],
        )
        for true in classes
        if asked[true]
        for said in (*classes, "none")
    ]


def score_captions(
    captions: Sequence[str],
    watches: Sequence[Watch],
    rules: Sequence[str] = ("partial", "exact", "normalised"),
) -> list[dict]:
    """Return score rows of captions, caption i about watch i; ValueError if their numbers differ.

    `caption_mentioned` is the share of captions that state an attribute, `total` its mean over all
    attributes. `caption_<rule>` is as in `score_conversations`, over the captions that state the
    attribute. Omission is not an error: true captions mention all but the time at random.
    """
    if len(captions) != len(watches):
        raise ValueError(
            f"there are {len(captions)} captions for {len(watches)} watches; each needs its own."
        )
    said = [read_caption(caption) for caption in captions]
    rows = []
    if captions:
        shares = {name: sum(name in values for values in said) / len(said) for name in ATTRIBUTES}
        shares["total"] = sum(shares.values()) / len(shares)
        rows = [_row("caption_mentioned", name, share, len(said)) for name, share in shares.items()]
    stated = [
        (name, values[name], attribute.truth(watch))
        for values, watch in zip(said, watches, strict=True)
        for name, attribute in ATTRIBUTES.items()
        if name in values
    ]
    return rows + [
        {**row, "metric": f"caption_{row['metric']}"} for row in score_conversations(stated, rules)
    ]


def _row(metric: str, attribute: str, value: float, samples: int) -> dict:
    """Return one score row of a run record."""
    return {"metric": metric, "attribute": attribute, "value": value, "samples": samples}


def _by_rule(kind: Attribute, partial: float, equal: bool, rule: str) -> float:
    """Return the score of a rule from partial credit."""
    if rule == "exact":
        return float(equal)
    return (partial - kind.chance) / (1 - kind.chance) if rule == "normalised" else partial
