"""Does the benefit need a language model that learns? (Paper section 4.3.)

The paper says that knowledge crosses between the tasks within the language model. So mixed training
should gain nothing if that is frozen. Here mixed training and its baselines train the language
model in full, by LoRA, or not at all.

A frozen run trains the adapters, with their position embeddings, and the generation head. It trains
no part of the language model, not even the embedding of the token that starts an image. LoRA trains
that embedding. A shared adapter learns from both tasks. With two adapters and a frozen language
model, no weight has a gradient from both tasks, so no knowledge can cross. Text rows train nothing
there. The tasks share only their steps: the number of steps, the mean of the text loss, and the
norm to which the whole gradient is clipped. Even there mixed training takes more steps than
understanding alone, each with fewer understanding rows, and any gain comes from that. Understanding
and text takes the same steps. So mixed training should gain nothing over it.

Belongs here: this study's runs, claims and figures. Not here: mixed training and its baselines
(`baselines.py`), the verdicts on training in full with a shared adapter (`mutual_benefit.py`), what
a tuning trains (`training/networks.py`).
"""

import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd

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
    tell_contrasts,
    tell_verdicts,
    understanding_totals,
)
from uvlm_core.studies.baselines import MIXED, ONCE, REPEATED, TEXT, MixedScale, baselines
from uvlm_core.studies.style import (
    COLOURS,
    MINUS,
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

FROZEN, FULL = "frozen LM", "full LM"
FROZEN_APART, FULL_APART = f"{FROZEN} with two adapters", f"{FULL} with two adapters"
LOW_RANK, HIGH_RANK = "LoRA of rank 4", "LoRA of rank 64"
PARTS = {  # what is trained of the language model -> changes to the profile's spec
    FROZEN_APART: {"tuning": "frozen", "shared_adapter": False},
    FROZEN: {"tuning": "frozen"},
    LOW_RANK: {"tuning": "lora", "lora_rank": 4, "lora_alpha": 8},
    HIGH_RANK: {"tuning": "lora", "lora_rank": 64, "lora_alpha": 128},
    FULL_APART: {"tuning": "full", "shared_adapter": False},
    FULL: {"tuning": "full"},
}
LESS_THAN_FULL = (FROZEN_APART, FROZEN, LOW_RANK, HIGH_RANK)
JUDGED_HERE = (*LESS_THAN_FULL, FULL_APART)  # mutual benefit has the other one
GAINS = "gains by trained part"
EXCEEDS, ADDS = f"{GAINS} over repeating", f"{GAINS} over text"
BY_ADAPTER = "gains by a shared adapter"
NEEDS_LEARNING, GAINS_APART = "more where the LM learns", "gains with two adapters"
_ARM_LOOKS = {
    ONCE: {"marker": "s", "markerfacecolor": "white"},
    TEXT: {"marker": "v", "markerfacecolor": "white"},
    REPEATED: {"marker": "D", "markerfacecolor": "white"},
    MIXED: {"marker": "o"},
}
_TOTAL_COLUMNS = (
    "architecture",
    "trained",
    "arm",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
)


def arms(base: Profile, scale: MixedScale) -> list[Arm]:
    """Return mixed training and its baselines by seed, architecture and trained part.

    The baselines have one adapter in any case, so two parts share their runs.
    """
    return [
        arm_of(spec, arm=arm, trained=part)
        for seed in range(scale.seeds)
        for name in scale.architectures
        for part, tuned in PARTS.items()
        for arm, spec in baselines(
            base, scale, scale.seen, seed=seed, architecture=name, **tuned
        ).items()
        if arm in _ARM_LOOKS
    ]


def gains(table: pd.DataFrame, conditions: tuple[str, ...] = ("trained",)) -> pd.DataFrame:
    """Return what mixed training has more than each baseline in the final total, by seed.

    Columns: architecture, the conditions, seed, baseline, difference. `conditions` are the columns
    that tell settings of an architecture apart.
    """
    keys = ["architecture", *conditions, "seed"]
    wide = understanding_totals(table).pivot(index=keys, columns="arm", values="value")
    found = wide.drop(columns=MIXED).rsub(wide[MIXED], axis=0).reset_index()
    # where a setting lacks a baseline there is no difference
    return found.melt(keys, var_name="baseline", value_name="difference").dropna()


def comparing(
    parts: tuple[str, ...], baseline: str, matching: str
) -> Callable[[pd.DataFrame, MixedScale], Iterator[Comparison]]:
    """Return a comparison of mixed training with a baseline, for each of some trained parts."""

    def compare(table: pd.DataFrame, scale: MixedScale) -> Iterator[Comparison]:
        for name, wide in _by_part(table, baseline):
            for part in parts:
                quantity = f"total, {part}, {MIXED} {MINUS} {baseline}"
                yield Comparison(name, quantity, wide[part], matching)

    return compare


def compare_learning(table: pd.DataFrame, scale: MixedScale) -> Iterator[Comparison]:
    """Compare what requests add, beyond text, between a trained and a frozen language model."""
    for name, wide in _by_part(table, TEXT):
        quantity = f"total, {MIXED} {MINUS} {TEXT}, {FULL} {MINUS} {FROZEN}"
        yield Comparison(name, quantity, wide[FULL] - wide[FROZEN], "steps")


def compare_adapters(table: pd.DataFrame, scale: MixedScale) -> Iterator[Comparison]:
    """Compare mixed training by one adapter and by two, with a frozen language model."""
    mixed = understanding_totals(table)
    mixed = mixed[mixed["arm"] == MIXED]
    for name in known_architectures(mixed):
        own = mixed[mixed["architecture"] == name]
        wide = own.pivot(index="seed", columns="trained", values="value")
        quantity = f"total, {MIXED}, {FROZEN} {MINUS} {FROZEN_APART}"
        yield Comparison(name, quantity, wide[FROZEN] - wide[FROZEN_APART], "examples")


def _by_part(table: pd.DataFrame, baseline: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each architecture with its gains over a baseline, one row per seed, by part."""
    found = gains(table)
    found = found[found["baseline"] == baseline]
    for name in known_architectures(found):
        own = found[found["architecture"] == name]
        yield name, own.pivot(index="seed", columns="trained", values="difference")


@theme()
def draw_totals(opened: OpenedStudy) -> Drawn:
    """Draw the understanding total of every arm, by trained part, with chance."""
    need(opened.table, "trained_parts", _TOTAL_COLUMNS)
    shown = understanding_totals(opened.table)
    figure = new_figure(PAGE, 3.0)
    axes = figure.subplots()
    axes.axhline(chance("partial", "total"), **REFERENCES["chance"])
    _draw_parts(axes, shown, tuple(_ARM_LOOKS))
    axes.set_ylabel("partial credit after training")
    handles = _handles(shown, {arm: arm for arm in _ARM_LOOKS})
    handles.append(entry(label="chance", **REFERENCES["chance"]))
    headline(figure, headline_of_totals(opened), handles, ncols=4)
    return Drawn(figure, shown)


@theme()
def draw_gains(opened: OpenedStudy) -> Drawn:
    """Draw what mixed training has more than each baseline, by trained part, paired by seed."""
    need(opened.table, "trained_parts_gains", _TOTAL_COLUMNS)
    shown = gains(opened.table)
    figure = new_figure(PAGE, 2.8)
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.6)
    named = shown.rename(columns={"baseline": "arm", "difference": "value"})
    _draw_parts(axes, named, (ONCE, TEXT, REPEATED))
    axes.set_ylabel(f"{MIXED} {MINUS} baseline")
    handles = _handles(shown, {arm: f"{MINUS} {arm}" for arm in (ONCE, TEXT, REPEATED)})
    headline(figure, headline_of_gains(opened), handles, ncols=4)
    return Drawn(figure, shown)


def _draw_parts(axes: "Axes", table: pd.DataFrame, arms: tuple[str, ...]) -> None:
    """Draw the mean value of each arm and architecture, side by side, for each trained part."""
    series = [(name, arm) for name in known_architectures(table) for arm in arms]
    for number, (name, arm) in enumerate(series):
        own = table[(table["architecture"] == name) & (table["arm"] == arm)]
        look = _ARM_LOOKS[arm] | {"color": COLOURS[name]}
        for place, part in enumerate(PARTS):
            values = own.loc[own["trained"] == part, "value"]
            if len(values):
                draw_mean(axes, place + 0.6 * ((number + 0.5) / len(series) - 0.5), values, look)
    axes.set_xticks(range(len(PARTS)), [textwrap.fill(part, 15) for part in PARTS])
    axes.set_xlim(-0.5, len(PARTS) - 0.5)
    axes.grid(False, axis="x")


def _handles(table: pd.DataFrame, words: dict[str, str]) -> "list[Line2D]":
    """Return legend entries for architectures, for arms by their words, and for the spread."""
    arms = [
        entry(color="black", linestyle="none", label=label, **_ARM_LOOKS[arm])
        for arm, label in words.items()
    ]
    return [*colour_handles(known_architectures(table)), *arms, *spread_handles(table)]


def headline_of_totals(opened: OpenedStudy) -> str:
    """Return what the verdicts say of the benefit with and without learning, in one sentence."""
    above, below, count = count_verdicts(opened, NEEDS_LEARNING)
    word = "larger" if above == count else "smaller" if below == count else "not shown to be larger"
    return (
        f"What requests add to understanding, beyond text rows, is {word} where the language model "
        "learns than where it is frozen"
    )


def headline_of_gains(opened: OpenedStudy) -> str:
    """Return in how many cases mixed training beats its baselines, in one sentence."""
    beats, _, count = count_verdicts(opened, GAINS)
    _, beaten, _ = count_verdicts(opened, EXCEEDS)
    return (
        f"With LoRA or a frozen language model, mixed training beats its understanding rows alone "
        f"in {beats} of {count} comparisons, and is beaten by repeating them in {beaten}"
    )


def tell_totals(opened: OpenedStudy) -> str:
    """Say where the arms end with each trained part, and how much more learning adds."""
    means = understanding_totals(opened.table).groupby(["trained", "arm"])["value"].mean()
    told = [
        f"{part[0].upper()}{part[1:]}: "
        + ", ".join(f"{means[part, arm]:.2f} {arm}" for arm in _ARM_LOOKS)
        + "."
        for part in PARTS
    ]
    told.append(
        f"A guess has {chance('partial', 'total'):.2f}. The gain over {TEXT} with the full LM, "
        f"minus the gain with a frozen one: {tell_verdicts(opened, NEEDS_LEARNING)}."
    )
    return "\n".join(told)


def tell_gains(opened: OpenedStudy) -> str:
    """Say what mixed training gains over each baseline, for each trained part that is judged."""
    told = []
    for part in JUDGED_HERE:
        claims = {
            "its understanding rows alone, shown as often": GAINS_APART
            if part == FULL_APART
            else GAINS,
            "text rows in place of requests": ADDS,
            "these rows repeated for as many steps": EXCEEDS,
        }
        found = tell_contrasts(
            opened, {words: (claim, f" {part}, ") for words, claim in claims.items()}
        )
        told.append(f"{part[0].upper()}{part[1:]}, mixed training: {found}.")
    shared = tell_contrasts(opened, {"by two": (BY_ADAPTER, "")})
    told.append(f"With a frozen LM, mixed training by one adapter: {shared}.")
    told.append("Mutual benefit judges the full LM with one adapter.")
    return "\n".join(told)


STUDY = Study(
    name="trained_parts",
    number=11,
    section="4.3",
    question="Does the benefit of mixed training need a language model that learns?",
    scales={
        "smoke": MixedScale(1, ("VQ-VQ",), 16, 16, 8),
        "laptop": MixedScale(8, ("VQ-VQ",), 1600, 7000, 3500),
    },
    arms=arms,
    claims=(
        Claim(
            GAINS,
            "trained on both tasks with LoRA or a frozen language model, a model understands "
            "better than from its understanding rows alone, shown as often",
            "4.3",
            comparing(LESS_THAN_FULL, ONCE, "examples"),
        ),
        Claim(
            EXCEEDS,
            "it understands better than after as many steps on repeated understanding rows",
            "4.3",
            comparing(LESS_THAN_FULL, REPEATED, "steps"),
        ),
        Claim(
            ADDS,
            "with LoRA, a frozen language model or two adapters, it understands better than with "
            "text rows in place of requests",
            "4.3",
            comparing(JUDGED_HERE, TEXT, "steps"),
        ),
        Claim(
            BY_ADAPTER,
            "with a frozen language model, mixed training understands better if both tasks share "
            "an adapter",
            "4.3",
            compare_adapters,
        ),
        Claim(
            NEEDS_LEARNING,
            "what requests add to understanding, beyond text rows, is larger where the language "
            "model is trained in full than where it is frozen",
            "4.3",
            compare_learning,
            "knowledge crosses within the language model, beyond the adapters",
        ),
        Claim(
            GAINS_APART,
            "trained in full with two adapters, mixed training understands better than its "
            "understanding rows alone, shown as often",
            "4.3",
            comparing((FULL_APART,), ONCE, "examples"),
        ),
    ),
    figures={"trained_parts": draw_totals, "trained_parts_gains": draw_gains},
    findings={"trained_parts": tell_totals, "trained_parts_gains": tell_gains},
    waiting=("laptop",),
)
