"""When does generation help: mixed in, or first? (Not asked by the paper; section 4 mixes.)

Arms that generate see the same understanding rows, and each generation and text row once, in steps
of one size. They differ in the order of the rows. In controls, requests have other watches' images
or say nothing of the watch to draw. More rows also mean more training. So four baselines learn to
understand only: from the same rows, shown as often; from the same rows in about as many but
smaller steps; for as many steps, with the rows repeated; and with text rows in place of requests.
1,600 understanding rows are shown once each. Fewer rows are shown more often, so that every arm but
the longer baseline sees 1,600 in all.

Belongs here: this study's runs, claims and figures. Not here: what a stage is
(`training/stages.py`), mixed training at full size (`mutual_benefit.py`).
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Study,
    arm_of,
    chance,
    count_verdicts,
    generation_metric,
    paired,
    tell_contrasts,
    understanding_totals,
)
from uvlm_core.studies.baselines import (
    FIRST,
    GENERATION,
    MIXED,
    ONCE,
    REPEATED,
    TEXT,
    MixedScale,
    baselines,
    generation_first,
)
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    MINUS,
    NAMES,
    PAGE,
    REFERENCES,
    colour_handles,
    draw_mean,
    entry,
    headline,
    known_architectures,
    need,
    new_figure,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import RunSpec
from uvlm_core.training.stages import Stage

SMALL = "alone in small steps"  # about as many steps as mixed, by fewer rows in each
NO_WORDS = f"{MIXED} with requests without words"
EDITS, SHUFFLED_EDITS = f"{MIXED} with edits", f"{MIXED} with edits of others' images"
SHUFFLED, SHUFFLED_FIRST = f"{MIXED} with others' images", f"{FIRST} with others' images"
THEN_MIXED, THEN_ALONE = f"{FIRST}, then {MIXED}", f"{MIXED}, then understanding"
FROZEN_FIRST, FIRST_WITHOUT_TEXT = f"{FIRST} with a frozen LM", f"{FIRST} without text"
TEXT_FIRST = "text first"
ARMS = (
    ONCE,
    SMALL,
    REPEATED,
    TEXT,
    MIXED,
    FIRST,
    SHUFFLED,
    NO_WORDS,
    SHUFFLED_FIRST,
    THEN_MIXED,
    THEN_ALONE,
    FROZEN_FIRST,
    TEXT_FIRST,
    FIRST_WITHOUT_TEXT,
    EDITS,  # every request shows a watch and asks to change it
    SHUFFLED_EDITS,
)
HELPS, FIRST_HELPS, DRAWN_MATTERS = "mixing helps", "generating first helps", "by what is drawn"
TEXT_HELPS, MORE_THAN_TEXT, WORDS_MATTER = "text helps", "more than text", "by what is asked"
EDITS_HELP, MORE_THAN_REQUESTS = "edits help", "edits more than requests"
BY_ORDER, IN_THE_LM, BY_REPLAY = "by the order", "by the language model", "by text beside drawing"
SMALLER, LONGER = "more than smaller steps", "more than repeating"
_COLUMNS = ("architecture", "arm", "understanding_rows", "seed", "metric", "attribute", "value")


@dataclass(frozen=True)
class OrderScale(MixedScale):
    """With the arms by the number of understanding rows."""

    POSITIVE: ClassVar[tuple[str, ...]] = (*MixedScale.POSITIVE, "text_rows")

    arms: dict[int, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        super().__post_init__()
        for name in itertools.chain(*self.arms.values()):
            if name not in ARMS:
                raise ValueError(f"arm {name!r} is not one of {', '.join(ARMS)}.")


def arms(base: Profile, scale: OrderScale) -> list[Arm]:
    """Return the arms by seed, architecture and understanding rows."""
    found = []
    for seed in range(scale.seeds):
        for name in scale.architectures:
            for rows, names in scale.arms.items():
                specs = specs_of(base, scale, rows, seed=seed, architecture=name)
                found += [arm_of(specs[arm], arm=arm, understanding_rows=rows) for arm in names]
    return found


def specs_of(base: Profile, scale: OrderScale, rows: int, **same) -> dict[str, RunSpec]:
    """Return the spec of every arm; `same` holds further fields."""
    found = baselines(base, scale, rows, **same)
    del found[GENERATION]
    alone, both = found[ONCE], found[MIXED]
    generation, text, epochs = scale.generation_rows, scale.text_rows, scale.seen / rows
    more = generation + text
    # rows in a step of mixed training that are to be understood
    few = max(1, round(both.training.batch_size * scale.seen / (scale.seen + more)))
    first = generation_first(both)
    return found | {
        SMALL: alone.vary(batch_size=few),
        FIRST: first,
        THEN_MIXED: both.vary(stages=[Stage(0, 0.5, 0.5), Stage(epochs, 0.5, 0.5)]),
        THEN_ALONE: both.vary(stages=[Stage(epochs / 2, 1, 1), Stage(epochs / 2)]),
        FROZEN_FIRST: both.vary(stages=[Stage(0, 1, 1, True), Stage(epochs)]),
        SHUFFLED: both.vary(shuffled_requests=True),
        SHUFFLED_FIRST: first.vary(shuffled_requests=True),
        # as many steps
        TEXT_FIRST: alone.vary(text_examples=text, stages=[Stage(text=more / text), Stage(epochs)]),
        FIRST_WITHOUT_TEXT: both.vary(stages=[Stage(generation=more / generation), Stage(epochs)]),
        NO_WORDS: both.vary(wordless_requests=True),
        EDITS: both.vary(edit_requests=True),
        SHUFFLED_EDITS: both.vary(edit_requests=True, shuffled_requests=True),
    }


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    """Return the partial credit of every run at its end, of all attributes and in total."""
    return table[(table["metric"] == "partial") & (table["fraction"] == 1)]


def comparing(
    pairs: tuple[tuple[str, str], ...], matching: str
) -> Callable[[pd.DataFrame, OrderScale], Iterator[Comparison]]:
    """Return a comparison of the final total of pairs of arms, for each number of rows."""

    def compare(table: pd.DataFrame, scale: OrderScale) -> Iterator[Comparison]:
        last = understanding_totals(table)
        for (rows, name), own in last.groupby(["understanding_rows", "architecture"], sort=False):
            for arm, baseline in pairs:
                quantity = f"total, {rows:,} rows, {arm} {MINUS} {baseline}"
                yield Comparison(name, quantity, paired(own, arm, baseline), matching)

    return compare


@theme()
def draw_orders(opened: OpenedStudy) -> Drawn:
    """Draw the understanding total of every arm, a panel for each number of understanding rows."""
    need(opened.table, "training_order", _COLUMNS)
    shown = understanding_totals(opened.table)
    names, panels = known_architectures(shown), list(opened.scale.arms)
    known = [arm for arm in ARMS if arm in set(shown["arm"])]
    figure = new_figure(COLUMN if len(panels) == 1 else PAGE, 0.9 + 0.23 * len(known))
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, rows in zip(grid, panels, strict=True):
        axes.axvline(chance("partial", "total"), **REFERENCES["chance"])
        for number, name in enumerate(names):
            own = shown[(shown["architecture"] == name) & (shown["understanding_rows"] == rows)]
            for place, arm in enumerate(known):
                values = own.loc[own["arm"] == arm, "value"]
                if len(values):
                    at = place + 0.5 * ((number + 0.5) / len(names) - 0.5)
                    look = {"color": COLOURS[name], "marker": "o"}
                    draw_mean(axes, at, values, look, upright=False)
        axes.axhline(known.index(MIXED) - 0.5, color="#bbbbbb", linewidth=0.5)
        axes.set_title(f"{rows:,} understanding rows")
        axes.set_xlabel("partial credit after training")
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(known)), known)
    grid[0].invert_yaxis()
    handles = [*colour_handles(names), *spread_handles(shown)]
    handles.append(entry(label="chance", **REFERENCES["chance"]))
    headline(figure, headline_of_orders(opened), handles)
    return Drawn(figure, shown)


def headline_of_orders(opened: OpenedStudy) -> str:
    """Return what the verdicts say about mixing, in one sentence."""
    beats, _, count = count_verdicts(opened, HELPS)
    _, beaten, _ = count_verdicts(opened, LONGER, f"{MIXED} {MINUS}")
    said = (
        f"beats its understanding rows alone in {beats} of {count} comparisons"
        if count > 1
        else f"{'beats' if beats else 'is not shown to beat'} its understanding rows alone"
    )
    also = (
        f"and is beaten by repeating them in {beaten} of {count}"
        if count > 1
        else f"and {'is' if beaten else 'is not shown to be'} beaten by repeating them"
    )
    return f"Mixed training {said}, {also}"


@theme()
def draw_attributes(opened: OpenedStudy) -> Drawn:
    """Draw what generation gains over the same rows, and repeated, attribute by attribute."""
    need(opened.table, "training_order_attributes", _COLUMNS)
    rows = next(iter(opened.scale.arms))
    last = at_end(opened.table)
    last = last[last["understanding_rows"] == rows]
    names, looked = known_architectures(last), ("total", *ATTRIBUTES)
    pairs = [(arm, baseline) for baseline in (ONCE, REPEATED) for arm in (MIXED, FIRST)]
    gains = pd.concat(
        [
            _gains(last[last["architecture"] == name], *pair).assign(architecture=name)
            for name in names
            for pair in pairs
        ],
        ignore_index=True,
    )
    figure = new_figure(PAGE, 2.4)
    for axes, baseline in zip(figure.subplots(1, 2, sharey=True), (ONCE, REPEATED), strict=True):
        axes.axhline(0, color="black", linewidth=0.6)
        series = [(name, arm) for name in names for arm in (MIXED, FIRST)]
        for number, (name, arm) in enumerate(series):
            own = gains[
                (gains["architecture"] == name)
                & (gains["arm"] == arm)
                & (gains["baseline"] == baseline)
            ]
            look = {"color": COLOURS[name], "marker": "o" if arm == MIXED else "D"}
            for place, attribute in enumerate(looked):
                values = own.loc[own["attribute"] == attribute, "difference"]
                at = place + 0.5 * ((number + 0.5) / len(series) - 0.5)
                draw_mean(axes, at, values, look)
        axes.set_title(f"{MINUS} {baseline}")
        labels = [NAMES.get(attribute, attribute).replace(" ", "\n") for attribute in looked]
        axes.set_xticks(range(len(looked)), labels)
        axes.grid(False, axis="x")
    figure.axes[0].set_ylabel("difference in partial credit")
    arms_drawn = [
        entry(color="black", linestyle="none", marker=marker, label=arm)
        for arm, marker in ((MIXED, "o"), (FIRST, "D"))
    ]
    sentence = f"What generation adds to {rows:,} understanding rows, attribute by attribute"
    headline(figure, sentence, [*colour_handles(names), *arms_drawn, *spread_handles(last)], 4)
    return Drawn(figure, gains, records=set(last["record"]))


def _gains(table: pd.DataFrame, arm: str, baseline: str) -> pd.DataFrame:
    """Return an arm's scores minus a baseline's; columns: attribute, seed, difference, the two."""
    found = paired(table, arm, baseline, ("attribute", "seed")).loc[["total", *ATTRIBUTES]]
    return found.reset_index().assign(arm=arm, baseline=baseline)


def tell_orders(opened: OpenedStudy) -> str:
    """Say what each arm gains over each baseline and over its control, for each number of rows."""
    helps = {
        MIXED: HELPS,
        FIRST: FIRST_HELPS,
        FROZEN_FIRST: FIRST_HELPS,
        THEN_MIXED: FIRST_HELPS,
        THEN_ALONE: HELPS,
        TEXT: TEXT_HELPS,
        EDITS: EDITS_HELP,
    }
    against = {
        "these rows in smaller steps": SMALLER,
        "these rows repeated for as many steps": LONGER,
        "the same with other watches' images": DRAWN_MATTERS,
        "text rows in place of requests": MORE_THAN_TEXT,
        "requests without words": WORDS_MATTER,
        "requests in place of edits": MORE_THAN_REQUESTS,
        "both tasks mixed all along": BY_ORDER,
        "the same with a language model that is frozen while it draws": IN_THE_LM,
        "the same without text while it draws": BY_REPLAY,
    }
    told = []
    for rows in opened.scale.arms:
        for arm in helps:
            quantity = f" {rows:,} rows, {arm} {MINUS}"
            claims = {"these rows alone, shown as often": helps[arm]} | against
            found = tell_contrasts(
                opened, {words: (claim, quantity) for words, claim in claims.items()}
            )
            if found:
                told.append(f"{arm.capitalize()}, {rows:,} understanding rows: {found}.")
    told.append(f"Drawn as requested after training, in total: {_drawn_at_end(opened)}.")
    return "\n".join(told)


def _drawn_at_end(opened: OpenedStudy) -> str:
    """Say what both orders of training still draw as requested, at the first number of rows."""
    table, told = opened.table, []
    own = table[
        (table["fraction"] == 1)
        & (table["attribute"] == "total")
        & (table["understanding_rows"] == next(iter(opened.scale.arms)))
    ]
    for name in known_architectures(own):
        metric = generation_metric(name)
        found = own[(own["architecture"] == name) & (own["metric"] == metric)]
        means = found.groupby("arm")["value"].mean()
        ends = ", ".join(f"{means[arm]:.2f} {arm}" for arm in (MIXED, FIRST) if arm in means)
        told.append(f"{name} {ends}, where a guess has {chance(metric, 'total'):.2f}")
    return "; ".join(told)


def tell_attributes(opened: OpenedStudy) -> str:
    """Say on which attributes the arms end where, at the first number of rows."""
    last = at_end(opened.table)
    last = last[last["understanding_rows"] == next(iter(opened.scale.arms))]
    means = last.groupby(["attribute", "arm"])["value"].mean()
    return "\n".join(
        f"{NAMES.get(name, name).capitalize()}: "
        + ", ".join(f"{means[name, arm]:.2f} {arm}" for arm in (ONCE, REPEATED, MIXED, FIRST))
        + "."
        for name in ATTRIBUTES
    )


STUDY = Study(
    name="training_order",
    number=8,
    section="4",
    question="Does generation help understanding, mixed in or first, more than longer training?",
    scales={
        "smoke": OrderScale(1, ("VQ-VQ",), 16, 16, 8, {16: ARMS[:6]}),
        "laptop": OrderScale(
            8,
            ("VQ-VQ",),
            1600,
            7000,
            3500,
            {1600: ARMS[:8], 100: (ONCE, REPEATED, MIXED, SHUFFLED)},
        ),
        "smollm": OrderScale(1, ("VQ-VQ",), 1600, 7000, 3500, {1600: ARMS[:8]}),
        "paper": OrderScale(1, ("VQ-VQ",), 60_000, 120_000, 60_000, {60_000: ARMS[:8]}),
    },
    arms=arms,
    claims=(
        Claim(
            HELPS,
            "trained on both tasks, a model understands better than from its understanding rows "
            "alone, shown as often",
            "4",
            comparing(((MIXED, ONCE),), "examples"),
            "in all four architectures",
        ),
        Claim(
            FIRST_HELPS,
            "trained to generate first, it understands better than from its understanding rows "
            "alone, shown as often",
            "4",
            comparing(tuple((arm, ONCE) for arm in (FIRST, FROZEN_FIRST, THEN_MIXED)), "examples"),
        ),
        Claim(
            TEXT_HELPS,
            "trained on text rows in place of requests, it understands better than from its "
            "understanding rows alone, shown as often",
            "4",
            comparing(((TEXT, ONCE),), "examples"),
        ),
        Claim(
            MORE_THAN_TEXT,
            "trained on both tasks, it understands better than with text rows in place of requests",
            "4",
            comparing(((MIXED, TEXT), (EDITS, TEXT), (FIRST, TEXT_FIRST)), "steps"),
        ),
        Claim(
            WORDS_MATTER,
            "it understands better than if its requests said nothing of the watch to draw",
            "4",
            comparing(((MIXED, NO_WORDS),), "examples"),
        ),
        Claim(
            EDITS_HELP,
            "trained to change watches that it is shown, it understands better than from its "
            "understanding rows alone, shown as often",
            "4",
            comparing(((EDITS, ONCE),), "examples"),
        ),
        Claim(
            MORE_THAN_REQUESTS,
            "it understands better than if it is trained to draw from words alone",
            "4",
            comparing(((EDITS, MIXED),), "examples"),
        ),
        Claim(
            BY_ORDER,
            "it understands better than if both tasks are mixed all along",
            "4",
            comparing(((THEN_MIXED, MIXED), (THEN_ALONE, MIXED)), "examples"),
        ),
        Claim(
            IN_THE_LM,
            "trained to generate first, it understands better than if its language model is frozen "
            "meanwhile",
            "4.3",
            comparing(((FIRST, FROZEN_FIRST),), "examples"),
        ),
        Claim(
            BY_REPLAY,
            "trained to generate first, it understands better than without text rows meanwhile",
            "4",
            comparing(((FIRST, FIRST_WITHOUT_TEXT),), "steps"),
        ),
        Claim(
            SMALLER,
            "it understands better than from these rows alone in about as many but smaller steps",
            "4",
            comparing(((MIXED, SMALL), (FIRST, SMALL)), "steps"),
        ),
        Claim(
            LONGER,
            "it understands better than after as many steps on repeated understanding rows",
            "4",
            comparing(((MIXED, REPEATED), (FIRST, REPEATED), (EDITS, REPEATED)), "steps"),
        ),
        Claim(
            DRAWN_MATTERS,
            "it understands better than if its requests had other watches' images",
            "4",
            comparing(
                ((MIXED, SHUFFLED), (FIRST, SHUFFLED_FIRST), (EDITS, SHUFFLED_EDITS)), "examples"
            ),
        ),
    ),
    figures={"training_order": draw_orders, "training_order_attributes": draw_attributes},
    findings={"training_order": tell_orders, "training_order_attributes": tell_attributes},
)
