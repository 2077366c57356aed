"""Under which conditions does generation help understanding? (Not asked by the paper; section 4.)

The paper varies one condition at a time. Here seven factors of two levels vary together, in 16 of
their 128 combinations. A cell is one combination. Its gain is the total of mixed training minus
that of understanding alone, whose rows are shown as often. No main effect is confounded with
another one or with an interaction of two factors (resolution IV). Interactions of two are
confounded with each other, so they are in the data of a figure and are not judged.

Belongs here: this design, its claims and figures. Not here: the two arms of a cell
(`baselines.py`), each factor by itself (`data_scaling.py`, `training_order.py`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Study,
    arm_of,
    paired,
    tell_counts,
    tell_verdicts,
    understanding_totals,
)
from uvlm_core.studies.baselines import MIXED, ONCE, MixedScale, baselines
from uvlm_core.studies.statistics import MARGIN
from uvlm_core.studies.style import (
    COLOURS,
    MINUS,
    PAGE,
    colour_handles,
    draw_mean,
    headline,
    known_architectures,
    need,
    new_figure,
    patch,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import RunSpec

FACTORS = {  # column of the table -> words for a level
    "understanding_rows": "{:,} rows",
    "generation_rows": "{:,} requests",
    "image_loss_weight": "image loss {:g}",
    "optimizer": "{}",
    "language_model": "{} language model",
    "sharing": "{} adapters",
    "text": "{} text",
}
AVERAGE, DEPENDS = "generation helps on average", "the gain depends"
_GAIN_IS = {  # verdict on a factor -> what the findings say of it
    "yes": "The gain is larger with",
    "no": "The gain is smaller with",
    "no effect": "The gain is as large with",
    "undecided": "The gain is undecided with",
}
# the profile's own rates are Muon's
_ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "adapter_learning_rate": 1e-3}
_MAP_COLUMNS = (
    "architecture",
    "arm",
    *FACTORS,
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
)


@dataclass(frozen=True)
class MapScale(MixedScale):
    """With the smaller number of understanding rows and of requests.

    All factors are there in VQ-VQ alone: one space to share an adapter of, and a loss of codes.

    The larger ones are `seen` and `generation_rows`. Text rows, where there are any, come in
    proportion to requests.
    """

    few_rows: int = 0
    few_requests: int = 0


def levels(scale: MapScale) -> dict[str, tuple]:
    """Return the first and the second level of every factor."""
    return {
        "understanding_rows": (scale.few_rows, scale.seen),
        "generation_rows": (scale.few_requests, scale.generation_rows),
        "image_loss_weight": (0.2, 1.0),
        "optimizer": ("Muon", "AdamW"),
        "language_model": ("pre-trained", "random"),
        "sharing": ("shared", "separate"),
        "text": ("no", "with"),
    }


def design() -> np.ndarray:
    """Return the cells (16, factors): -1 for a factor's first level, 1 for its second.

    The first four factors are crossed. The fifth is the product of the first three, the sixth that
    of the second, third and fourth, the seventh that of the first, third and fourth.
    """
    crossed = np.array(list(itertools.product((-1, 1), repeat=4)))
    products = [crossed[:, places].prod(1) for places in ([0, 1, 2], [1, 2, 3], [0, 2, 3])]
    return np.column_stack([crossed, *products])


def cells(scale: MapScale) -> list[dict]:
    """Return the level of every factor in each cell."""
    both = levels(scale)
    return [
        {name: both[name][int(sign > 0)] for name, sign in zip(both, signs, strict=True)}
        for signs in design()
    ]


def confounded() -> list[list[tuple[str, str]]]:
    """Return the pairs of factors, those together whose interactions cannot be told apart."""
    columns = dict(zip(FACTORS, design().T, strict=True))
    groups = {}
    for one, other in itertools.combinations(FACTORS, 2):
        groups.setdefault(tuple(columns[one] * columns[other]), []).append((one, other))
    return list(groups.values())


def arms(base: Profile, scale: MapScale) -> list[Arm]:
    """Return both arms of every cell, by seed and architecture."""
    return [
        arm_of(spec, arm=arm, **cell)
        for seed in range(scale.seeds)
        for name in scale.architectures
        for cell in cells(scale)
        for arm, spec in specs_of_cell(base, scale, cell, seed=seed, architecture=name).items()
    ]


def specs_of_cell(base: Profile, scale: MapScale, cell: dict, **same) -> dict[str, RunSpec]:
    """Return the specs of both arms of a cell; `same` holds further fields."""
    same |= {
        "random_language_model": cell["language_model"] == "random",
        "shared_adapter": cell["sharing"] == "shared",
    }
    if cell["optimizer"] == "AdamW":
        same |= _ADAMW
    rows, requests = cell["understanding_rows"], cell["generation_rows"]
    texts = round(scale.text_rows * requests / scale.generation_rows)
    texts *= cell["text"] == "with"
    own = replace(scale, generation_rows=requests, text_rows=texts)
    mixed = baselines(base, own, rows, **same)[MIXED]
    return {
        # it sees no request: cells share it whatever their number of requests
        ONCE: baselines(base, scale, rows, **same)[ONCE],
        MIXED: mixed.vary(image_loss_weight=cell["image_loss_weight"]),
    }


def cell_gains(table: pd.DataFrame) -> pd.DataFrame:
    """Return the gain of every cell: mixed minus understanding alone, total after training.

    Columns: architecture, the factors, seed, difference.
    """
    keys = ("architecture", *FACTORS, "seed")
    return paired(understanding_totals(table), MIXED, ONCE, keys).reset_index()


def effects(table: pd.DataFrame, scale: MapScale) -> pd.DataFrame:
    """Return what the gain depends on, by seed; a seed that lacks a cell is left out.

    Columns: architecture, effect, seed, difference. Of the effect "average" this is the mean gain
    over all cells; of a factor, the mean gain at its second level minus that at its first; of pairs
    of factors that cannot be told apart, the mean gain where both are at their first or both at
    their second level, minus that elsewhere.
    """
    found = cell_gains(table)
    counts = found.groupby(["architecture", "seed"])["difference"].transform("size")
    found = found[counts == len(design())]
    highs = {name: high for name, (_, high) in levels(scale).items()}
    signs = {name: np.where(found[name] == high, 1, -1) for name, high in highs.items()}
    contrasts = {"average": 0.5} | signs
    for group in confounded():
        one, other = group[0]
        contrasts[" or ".join(" x ".join(pair) for pair in group)] = signs[one] * signs[other]
    parts = []
    for name, contrast in contrasts.items():
        own = found.assign(effect=name, difference=2 * contrast * found["difference"])
        keys = ["architecture", "effect", "seed"]
        parts.append(own.groupby(keys, as_index=False)["difference"].mean())
    return pd.concat(parts, ignore_index=True)


def average(table: pd.DataFrame, scale: MapScale) -> Iterator[Comparison]:
    """Yield the mean gain over all cells."""
    quantity = f"total, {MIXED} {MINUS} {ONCE}, mean of {len(design())} cells"
    yield from _compare(effects(table, scale), "average", quantity)


def main_effects(table: pd.DataFrame, scale: MapScale) -> Iterator[Comparison]:
    """Yield the main effect of every factor."""
    found = effects(table, scale)
    for name in FACTORS:
        yield from _compare(found, name, quantity_of(name, scale))


def _compare(found: pd.DataFrame, effect: str, quantity: str) -> Iterator[Comparison]:
    own = found[found["effect"] == effect]
    for name in known_architectures(own):
        differences = own[own["architecture"] == name].set_index("seed")["difference"]
        yield Comparison(name, quantity, differences, "examples")


def words_of(factor: str, scale: MapScale) -> list[str]:
    """Return the words for both levels of a factor."""
    return [FACTORS[factor].format(level) for level in levels(scale)[factor]]


def quantity_of(factor: str, scale: MapScale) -> str:
    """Return the quantity by which a factor is judged."""
    low, high = words_of(factor, scale)
    return f"gain in total, {high} minus {low}"


@theme()
def draw_map(opened: OpenedStudy) -> Drawn:
    """Draw the gain of every cell, the largest first, and beside it the cell's levels."""
    need(opened.table, "when_it_helps", _MAP_COLUMNS)
    scale, found = opened.scale, cell_gains(opened.table)
    names = known_architectures(found)
    order = found.groupby(list(FACTORS))["difference"].mean().sort_values(ascending=False).index
    shown = found.set_index(list(FACTORS)).loc[list(order)]
    figure = new_figure(PAGE, 4.6)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.35))
    left.axvline(0, color="black", linewidth=0.6)
    for place, cell in enumerate(order):
        for number, name in enumerate(names):
            own = shown.loc[[cell]]
            values = own.loc[own["architecture"] == name, "difference"]
            at = place + 0.5 * ((number + 0.5) / len(names) - 0.5)
            draw_mean(left, at, values, {"color": COLOURS[name], "marker": "o"}, upright=False)
        for column, (factor, level) in enumerate(zip(FACTORS, cell, strict=True)):
            filled = "black" if level == levels(scale)[factor][1] else "white"
            right.plot(column, place, "o", color="black", markerfacecolor=filled, markersize=5)
    left.set_xlabel(f"{MIXED} {MINUS} {ONCE}, total partial credit")
    left.set(yticks=[], ylim=(len(order) - 0.4, -0.6))
    empty, full = zip(*(words_of(factor, scale) for factor in FACTORS), strict=True)
    right.set_xticks(range(len(FACTORS)), [words.replace(" ", "\n") for words in empty])
    right.set(xlim=(-0.6, len(FACTORS) - 0.4), xlabel="empty mark")
    above = right.secondary_xaxis("top")
    above.set_xticks(range(len(FACTORS)), [words.replace(" ", "\n") for words in full])
    above.set_xlabel("filled mark")
    for axis in (right.xaxis, above.xaxis):
        axis.set_tick_params(length=0)
    right.grid(False)
    headline(figure, headline_of_map(opened), [*colour_handles(names), *spread_handles(found)], 4)
    return Drawn(figure, shown.reset_index(), records=set(opened.table["record"]))


def headline_of_map(opened: OpenedStudy) -> str:
    """Return what the verdict on the average says, in one sentence."""
    told = tell_counts(opened, AVERAGE, "helps", "hurts")
    told = told or "is not shown to help or hurt"
    return f"Averaged over {len(design())} combinations of seven conditions, generation {told}"


def tell_map(opened: OpenedStudy) -> str:
    """Say the average gain, and in which cells it is largest and smallest."""
    means = cell_gains(opened.table).groupby(list(FACTORS))["difference"].mean()
    ends = []
    for cell in (means.idxmax(), means.idxmin()):
        words = [FACTORS[name].format(level) for name, level in zip(FACTORS, cell, strict=True)]
        number = f"{means[cell]:+.2f}".replace("-", MINUS)
        ends.append(f"{number} ({', '.join(words)})")
    return (
        f"Mixed training minus understanding alone, its rows shown as often, mean of "
        f"{len(means)} cells: {tell_verdicts(opened, AVERAGE)}.\n"
        f"The largest gain of a cell is {ends[0]}.\n"
        f"The smallest is {ends[1]}. No single cell is judged."
    )


@theme()
def draw_effects(opened: OpenedStudy) -> Drawn:
    """Draw the main effect of every factor on the gain, with the margin of "no effect"."""
    need(opened.table, "when_it_helps_effects", _MAP_COLUMNS)
    scale, found = opened.scale, effects(opened.table, opened.scale)
    names = known_architectures(found)
    figure = new_figure(PAGE, 3.1)
    axes = figure.subplots()
    axes.axvspan(-MARGIN, MARGIN, color="#ececec", linewidth=0)
    axes.axvline(0, color="black", linewidth=0.6)
    for place, factor in enumerate(FACTORS):
        for number, name in enumerate(names):
            own = found[(found["effect"] == factor) & (found["architecture"] == name)]
            at = place + 0.5 * ((number + 0.5) / len(names) - 0.5)
            look = {"color": COLOURS[name], "marker": "o"}
            draw_mean(axes, at, own["difference"], look, upright=False)
    labels = ["{1}\nminus {0}".format(*words_of(factor, scale)) for factor in FACTORS]
    axes.set_yticks(range(len(FACTORS)), labels)
    axes.set_ylim(len(FACTORS) - 0.5, -0.5)
    axes.set_xlabel("difference in gain, mean of 8 cells minus mean of the other 8")
    axes.grid(False, axis="y")
    margin = patch(color="#ececec", label=f"within {MARGIN:g}")
    handles = [*colour_handles(names), *spread_handles(found), margin]
    headline(figure, headline_of_effects(opened), handles, 4)
    return Drawn(figure, found, records=set(opened.table["record"]))


def headline_of_effects(opened: OpenedStudy) -> str:
    """Return with which levels the verdicts find a larger gain, in one sentence."""
    told = []
    for factor in FACTORS:
        low, high = words_of(factor, opened.scale)
        quantity = quantity_of(factor, opened.scale)
        told.append(tell_counts(opened, DEPENDS, f"with {high}", f"with {low}", quantity))
    if any(told):
        said = ", ".join(filter(None, told))
        return f"What generation adds to understanding is larger {said}"
    return "What generation adds to understanding is not shown to depend on any condition"


def tell_effects(opened: OpenedStudy) -> str:
    """Say how the gain differs between the levels of every factor, one verdict a line."""
    found = opened.verdicts[opened.verdicts["claim"] == DEPENDS].set_index("quantity")
    told = {words: [] for words in _GAIN_IS.values()}
    for factor in FACTORS:
        low, high = words_of(factor, opened.scale)
        row = found.loc[quantity_of(factor, opened.scale)]
        number = f"{row['difference']:+.3f}".replace("-", MINUS)
        told[_GAIN_IS[row["verdict"]]].append(f"{high} instead of {low} ({number})")
    lines = [f"{words} {', '.join(parts)}." for words, parts in told.items() if parts]
    lines.append(
        "Interactions of two factors are in the figure's data and are not judged: the design "
        "cannot tell all of them apart."
    )
    return "\n".join(lines)


STUDY = Study(
    name="when_it_helps",
    number=9,
    section="4",
    question="Under which conditions does generation help understanding?",
    scales={
        "smoke": MapScale(1, ("VQ-VQ",), 16, 16, 8, few_rows=8, few_requests=8),
        "laptop": MapScale(8, ("VQ-VQ",), 1600, 7000, 3500, few_rows=100, few_requests=1750),
    },
    arms=arms,
    claims=(
        Claim(
            AVERAGE,
            "over all conditions, a model trained on both tasks understands better on average than "
            "from its understanding rows alone, shown as often",
            "4",
            average,
        ),
        Claim(
            DEPENDS,
            "what generation adds to understanding is larger at the second level of a condition "
            "than at the first",
            "4",
            main_effects,
        ),
    ),
    figures={"when_it_helps": draw_map, "when_it_helps_effects": draw_effects},
    findings={"when_it_helps": tell_map, "when_it_helps_effects": tell_effects},
)
