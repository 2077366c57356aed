"""Why would generation data help understanding? (Not asked by the paper; section 4 leaves it open.)

Measurements during mixed training distinguish three stories. Shared features: drawing needs what
understanding needs, so the two tasks' gradients agree, and more than if requests have other
watches' images. Better optimisation: they agree as much with other watches' images, and a step on
requests lowers the understanding loss whatever is drawn. Forgetting: the gradients oppose each
other.

Belongs here: this study's runs, claims and figures, and the rule that chooses a story. Not here:
what is measured (`scoring/gradients.py`), what mixing gains in the end (`mutual_benefit.py`).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    count_verdicts,
    tell_counts,
    tell_verdicts,
)
from uvlm_core.studies.baselines import MIXED, MixedScale, baselines
from uvlm_core.studies.style import (
    MINUS,
    PAGE,
    colour_handles,
    draw_mean,
    draw_points,
    entry,
    headline,
    known_architectures,
    look_of,
    need,
    new_figure,
    spread_handles,
    theme,
)
from uvlm_core.studies.training_order import SHUFFLED
from uvlm_core.training.profiles import Profile

AGREE, AGREE_MORE = "gradients agree", "more than other images'"
LOWERS, AS_MUCH = "generation lowers the loss", "as much as understanding"
LOWERS_MORE = "lowers it by what is drawn"
ALIKE_MORE = "two sides alike by what is drawn"
STORIES = {  # story -> the verdicts that it needs, by claim, and how it is read off
    "shared features": (
        {AGREE: ("yes",), AGREE_MORE: ("yes",)},
        "true requests' gradients agree with understanding's, and more than with other watches' "
        "images",
    ),
    "better optimisation": (
        {
            AGREE: ("yes",),
            AGREE_MORE: ("no effect",),
            LOWERS: ("yes",),
            LOWERS_MORE: ("no effect", "undecided"),
        },
        "requests' gradients agree with understanding's whatever is drawn, and so do their steps "
        "lower its loss",
    ),
    "forgetting": ({AGREE: ("no",)}, "the two tasks' gradients oppose each other"),
}
_REGIMES = {MIXED: "unified", SHUFFLED: "shuffled"}  # arm -> its look
_MEASURES = {  # metric -> its axis
    "gradient_cosine": "cosine of the two gradients",
    "gradient_ratio": "length, generation over\nunderstanding",
}
_PARTS = {"all": "all shared parameters"}  # part of a model -> its words, where they differ
_LIKENESS = {  # metric -> its axis
    "alignment_cka": "linear CKA",
    "alignment_neighbours": "neighbours\nin common",
}
_STEPS = {  # rows of a step, and the arm they come from -> its look and its name
    ("understanding", MIXED): ("understanding", "understanding rows"),
    ("generation", MIXED): ("generation", "generation rows"),
    ("generation", SHUFFLED): ("shuffled", "generation rows, other watches' images"),
}
_GRADIENT_COLUMNS = ("architecture", "arm", "seed", "fraction", "metric", "attribute", "value")


@dataclass(frozen=True)
class GradientScale(MixedScale):
    """With the held-out rows of each task, and when gradients are measured."""

    gradient_rows: int = 0
    fractions: tuple[float, ...] = (1.0,)


def arms(base: Profile, scale: GradientScale) -> list[Arm]:
    """Return mixed training and its control with other watches' images, by seed, architecture."""
    found = []
    for seed in range(scale.seeds):
        for name in scale.architectures:
            mixed = baselines(base, scale, scale.seen, seed=seed, architecture=name)[MIXED]
            mixed = mixed.vary(gradient_rows=scale.gradient_rows, fractions=scale.fractions)
            found.append(arm_of(mixed, arm=MIXED))
            found.append(arm_of(mixed.vary(shuffled_requests=True), arm=SHUFFLED))
    return found


def mean_cosines(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cosine of the two gradients in all shared parameters, mean over the fractions.

    One row per seed and one column per arm, of one architecture.
    """
    own = table[(table["metric"] == "gradient_cosine") & (table["attribute"] == "all")]
    return own.pivot_table(index="seed", columns="arm", values="value")


def rows_add(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the rows of one step change, beyond an empty step that momenta alone move.

    Columns: architecture, arm, seed, fraction, rows ("understanding" or "generation") and value:
    the change of the held-out understanding loss, in thousandths of nats.
    """
    keys = ["architecture", "arm", "seed", "fraction"]
    own = table[table["metric"] == "loss_change"]
    wide = own.pivot(index=keys, columns="attribute", values="value")
    parts = [
        (1000 * (wide[f"one {rows} step"] - wide["one empty step"]))
        .rename("value")
        .reset_index()
        .assign(rows=rows)
        for rows in ("understanding", "generation")
    ]
    return pd.concat(parts, ignore_index=True)[[*keys, "rows", "value"]]


def lowered(table: pd.DataFrame) -> pd.DataFrame:
    """Return by how much rows of each kind lower the loss (`rows_add`), mean over the fractions.

    One row per seed; columns: (rows, arm). Of one architecture.
    """
    return -rows_add(table).pivot_table(index="seed", columns=["rows", "arm"], values="value")


def likeness_at_end(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return linear CKA of the model's two sides after training, mean over the LM's layers.

    By architecture: one row per seed and one column per arm.
    """
    own = table[(table["metric"] == "alignment_cka") & (table["fraction"] == 1)]
    own = own[own["attribute"] != "adapter"]
    return {
        name: own[own["architecture"] == name].pivot_table(
            index="seed", columns="arm", values="value"
        )
        for name in known_architectures(own)
    }


def comparing(
    quantity: str, of: Callable[[pd.DataFrame], pd.Series]
) -> Callable[[pd.DataFrame, GradientScale], Iterator[Comparison]]:
    """Return a comparison of what `of` makes of an architecture's table: a value per seed."""

    def compare(table: pd.DataFrame, scale: GradientScale) -> Iterator[Comparison]:
        for name in known_architectures(table):
            yield Comparison(name, quantity, of(table[table["architecture"] == name]).dropna())

    return compare


def _agreement(table: pd.DataFrame) -> pd.Series:
    return mean_cosines(table)[MIXED]


def _agreement_by_images(table: pd.DataFrame) -> pd.Series:
    found = mean_cosines(table)
    return found[MIXED] - found[SHUFFLED]


def _lowered(table: pd.DataFrame) -> pd.Series:
    return lowered(table)["generation", MIXED]


def _lowered_ratio(table: pd.DataFrame) -> pd.Series:
    found = lowered(table)
    return found["generation", MIXED] / found["understanding", MIXED] - 1


def _lowered_by_images(table: pd.DataFrame) -> pd.Series:
    found = lowered(table)
    return found["generation", MIXED] - found["generation", SHUFFLED]


def _alike_by_images(table: pd.DataFrame) -> pd.Series:
    (found,) = likeness_at_end(table).values()
    return found[MIXED] - found[SHUFFLED]


def stories(opened: OpenedStudy) -> dict[str, str]:
    """Return the story that the verdicts on each architecture fit (`STORIES`), "" for none."""
    found = {}
    for name in known_architectures(opened.table):
        own = (
            opened.verdicts["architecture"]
            .str.split(", ")
            .map(lambda some, name=name: name in some)
        )
        verdicts = opened.verdicts[own].set_index("claim")["verdict"]
        fitting = [
            story
            for story, (needed, _) in STORIES.items()
            if all(verdicts.get(claim) in allowed for claim, allowed in needed.items())
        ]
        found[name] = fitting[0] if fitting else ""  # no two stories fit at once
    return found


def by_story(opened: OpenedStudy) -> dict[str, list[str]]:
    """Return the architectures that fit each story, "" last."""
    found = stories(opened)
    every = {story: [name for name in found if found[name] == story] for story in (*STORIES, "")}
    return {story: names for story, names in every.items() if names}


@theme()
def draw_cosines(opened: OpenedStudy) -> Drawn:
    """Draw cosine and length ratio of the two gradients by part, and the cosine over time."""
    need(opened.table, "task_gradients", _GRADIENT_COLUMNS)
    shown = opened.table[opened.table["metric"].isin(_MEASURES)]
    means = _over_time(shown)
    names, parts = known_architectures(shown), list(dict.fromkeys(shown["attribute"]))
    figure = new_figure(PAGE, 1.5 + 0.26 * len(parts))
    *by_part, over_time = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for axes, (metric, words) in zip(by_part, _MEASURES.items(), strict=True):
        own = means[means["metric"] == metric]
        for place, part in enumerate(parts):
            for at, look, some in _by_arm(own[own["attribute"] == part], names, place):
                draw_mean(axes, at, some["value"], look, upright=False)
        axes.set(title="mean over the training", xlabel=words, ylim=(len(parts) - 0.5, -0.5))
        axes.grid(False, axis="y")
        axes.set_yticks(range(len(parts)), [_PARTS.get(part, part) for part in parts])
    by_part[1].tick_params(labelleft=False)
    cosine = shown[(shown["metric"] == "gradient_cosine") & (shown["attribute"] == "all")]
    for shift, look, some in _by_arm(cosine, names):
        draw_points(over_time, some["fraction"] + 0.06 * shift, some["value"], look)
    over_time.set(title=_PARTS["all"], xlabel="fraction of the training", xlim=(0, 1.05))
    over_time.set_ylabel("cosine")
    by_part[0].axvline(0, color="black", linewidth=0.6)
    by_part[1].axvline(0, color="black", linewidth=0.6)  # as long as each other
    powers = np.arange(math.ceil(by_part[1].get_xlim()[0]), by_part[1].get_xlim()[1])
    by_part[1].set_xticks(powers, [f"{2.0**power:g}" for power in powers])
    over_time.axhline(0, color="black", linewidth=0.6)
    handles = [*colour_handles(names), *_arm_handles(names[0]), *spread_handles(shown)]
    headline(figure, headline_of_cosines(opened), handles)
    return Drawn(figure, shown, records=set(opened.table["record"]))


def _over_time(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the fractions of each seed; of ratios, that of their logarithm to 2."""
    keys = ["architecture", "arm", "seed", "metric", "attribute"]
    ratio = table["metric"] == "gradient_ratio"
    table = table.assign(value=table["value"].mask(ratio, np.log2(table["value"].where(ratio))))
    return table.groupby(keys, sort=False)["value"].mean().reset_index()


def _by_arm(
    table: pd.DataFrame, names: list[str], place: float = 0
) -> Iterator[tuple[float, dict, pd.DataFrame]]:
    """Yield a place close to `place`, the look and the rows of each arm that has any."""
    arms = list(itertools.product(names, _REGIMES))
    for number, (name, arm) in enumerate(arms):
        own = table[(table["architecture"] == name) & (table["arm"] == arm)]
        if len(own):
            yield (
                place + 0.6 * ((number + 0.5) / len(arms) - 0.5),
                look_of(name, _REGIMES[arm]),
                own,
            )


def _arm_handles(name: str) -> list:
    """Return legend entries for the arms, in black and otherwise in an architecture's look."""
    looks = {arm: look_of(name, regime) for arm, regime in _REGIMES.items()}
    return [entry(label=arm, **look | {"color": "black"}) for arm, look in looks.items()]


def headline_of_cosines(opened: OpenedStudy) -> str:
    """Return which story the verdicts fit in which architecture, in one sentence."""
    found = by_story(opened)
    fitting = [f"{story} in {', '.join(names)}" for story, names in found.items() if story]
    if not fitting:
        *_, count = count_verdicts(opened, AGREE)
        apart = (opened.verdicts["claim"] == AGREE) & (opened.verdicts["verdict"] == "no effect")
        unlike = "neither agree nor oppose each other, and " if apart.sum() == count else ""
        return f"The two tasks' gradients {unlike}fit none of the three stories"
    none = f", and none of the three stories in {', '.join(found[''])}" if "" in found else ""
    return f"The two tasks' gradients fit {' and '.join(fitting)}{none}"


@theme()
def draw_steps(opened: OpenedStudy) -> Drawn:
    """Draw what rows of each kind do to the understanding loss in one step, along the training.

    Two panels for each architecture: all rows, and generation rows alone, which do less.
    """
    table = opened.table
    need(table, "task_gradients_steps", _GRADIENT_COLUMNS)
    shown = rows_add(table)
    names = known_architectures(shown)
    figure = new_figure(PAGE, 0.5 + 2.1 * len(names))
    grid = figure.subplots(len(names), 2, sharex=True, squeeze=False)
    for (whole, near), name in zip(grid, names, strict=True):
        for axes, kinds in ((whole, {"understanding", "generation"}), (near, {"generation"})):
            axes.axhline(0, color="black", linewidth=0.6)
            for number, ((rows, arm), (look, _)) in enumerate(_STEPS.items()):
                own = shown[(shown["rows"] == rows) & (shown["arm"] == arm)]
                own = own[own["architecture"] == name]
                at = own["fraction"] + 0.012 * (number - 1)  # no interval hides another
                if rows in kinds:
                    draw_points(axes, at, own["value"], look_of(name, look))
        whole.set_title(name)
        near.set_title("generation rows, closer" if len(names) == 1 else f"{name}, closer")
        whole.set_ylabel("loss change by rows\nof one step (nats / 1,000)")
    for axes in grid[-1]:
        axes.set_xlabel("fraction of the training")
    looks = [
        entry(label=words, **look_of(names[0], look) | {"color": "black"})
        for look, words in _STEPS.values()
    ]
    headline(figure, headline_of_steps(opened), [*looks, *spread_handles(shown)], ncols=4)
    return Drawn(figure, shown, records=set(table["record"]))


def headline_of_steps(opened: OpenedStudy) -> str:
    """Return whether generation rows lower the understanding loss, in one sentence."""
    words = "lower the understanding loss", "raise the understanding loss"
    told = [tell_counts(opened, LOWERS, *words)]
    if told[0]:
        if count_verdicts(opened, LOWERS)[1] == 0:  # none raises it
            rows = "than as many understanding rows do"
            told.append(tell_counts(opened, AS_MUCH, f"by more {rows}", f"by less {rows}"))
        return f"In one step, generation rows alone {', '.join(filter(None, told))}"
    return "A step on generation rows alone is not shown to lower or raise the understanding loss"


@theme()
def draw_sides(opened: OpenedStudy) -> Drawn:
    """Draw how alike the side that reads and the side that draws are over time, by place."""
    need(opened.table, "task_gradients_sides", _GRADIENT_COLUMNS)
    shown = opened.table[opened.table["metric"].isin(_LIKENESS)]
    names, places = known_architectures(shown), list(dict.fromkeys(shown["attribute"]))
    figure = new_figure(PAGE, 3.8)
    grid = figure.subplots(len(_LIKENESS), len(places), sharex=True, sharey="row")
    for line, (metric, words) in zip(grid, _LIKENESS.items(), strict=True):
        line[0].set(ylabel=words, ylim=(0, 1.05))
        for axes, place in zip(line, places, strict=True):
            own = shown[(shown["metric"] == metric) & (shown["attribute"] == place)]
            for shift, look, some in _by_arm(own, names):
                draw_points(axes, some["fraction"] + 0.08 * shift, some["value"], look)
    for axes, place in zip(grid[0], places, strict=True):
        axes.set_title(place.replace("adapter", "adapter's output"))
    for axes in grid[-1]:
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_xlabel("fraction\ntrained")
    handles = [*colour_handles(names), *_arm_handles(names[0]), *spread_handles(shown)]
    headline(figure, headline_of_sides(opened), handles)
    return Drawn(figure, shown, records=set(opened.table["record"]))


def headline_of_sides(opened: OpenedStudy) -> str:
    """Return whether drawing what is read makes the two sides alike, in one sentence."""
    words = "more alike than drawing other watches", "less alike than drawing other watches"
    told = tell_counts(opened, ALIKE_MORE, *words)
    if told:
        return f"Drawing the watch that is asked for makes the model's two sides {told}"
    return (
        "Drawing the watch that is asked for is not shown to make the model's two sides more "
        "alike than drawing other watches"
    )


def tell_cosines(opened: OpenedStudy) -> str:
    """Say how the gradients agree, and which of the three stories that fits."""
    told = []
    for story, names in by_story(opened).items():
        where = ", ".join(names)
        if story:
            told.append(f"{where}: this fits {story}, because {STORIES[story][1]}.")
        else:
            told.append(f"{where}: the verdicts fit none of the three stories.")
    ratio = _over_time(opened.table).query("metric == 'gradient_ratio' and attribute == 'all'")
    ratios = ratio[ratio["arm"] == MIXED].groupby("architecture", sort=False)["value"].mean()
    lengths = ", ".join(f"{name} {2**value:.2f}" for name, value in ratios.items())
    return (
        f"Cosine of the two gradients, mean over the training: {tell_verdicts(opened, AGREE)}; "
        f"minus that with other watches' images: {tell_verdicts(opened, AGREE_MORE)}. Length of "
        f"the generation gradient over understanding's, weighed as in training: {lengths}. "
        + " ".join(told)
    )


def tell_steps(opened: OpenedStudy) -> str:
    """Say what a step on generation rows does, beside one on understanding rows."""
    return (
        "By how much generation rows of one step lower the understanding loss, in thousandths of "
        f"nats: {tell_verdicts(opened, LOWERS)}; more than with other watches' images: "
        f"{tell_verdicts(opened, LOWERS_MORE)}. As a multiple of what as many understanding rows "
        f"do, minus 1 (0 would be as much): {tell_verdicts(opened, AS_MUCH)}."
    )


def tell_sides(opened: OpenedStudy) -> str:
    """Say how alike the two sides are at the end, and whether what is drawn matters."""
    ends = likeness_at_end(opened.table)
    means = "; ".join(
        f"{name} {own[MIXED].mean():.2f}, with other watches' images {own[SHUFFLED].mean():.2f}"
        for name, own in ends.items()
    )
    return (
        "Linear CKA of the side that reads and the side that draws, mean over the layers after "
        f"training: {means}. Difference: {tell_verdicts(opened, ALIKE_MORE)}. Each vector of a "
        "watch's image has its position's mean over the watches taken away first."
    )


STUDY = Study(
    name="task_gradients",
    number=10,
    section="4",
    question="Why would generation data help understanding: shared features, better optimisation, "
    "or forgetting?",
    scales={
        "smoke": GradientScale(1, ("VQ-VQ",), 16, 16, 8, 4, (0.5, 1.0)),
        "laptop": GradientScale(8, ("VQ-VQ",), 1600, 7000, 3500, 64, (0.1, 0.25, 0.5, 0.75, 1.0)),
    },
    arms=arms,
    claims=(
        Claim(
            AGREE,
            "the two tasks' gradients point the same way",
            "4",
            comparing("cosine, all shared parameters, mean over the training", _agreement),
        ),
        Claim(
            AGREE_MORE,
            "and more than with other watches' images",
            "4",
            comparing(
                f"cosine, mean over the training, {MIXED} {MINUS} {SHUFFLED}", _agreement_by_images
            ),
        ),
        Claim(
            LOWERS,
            "a step on generation rows alone lowers the understanding loss",
            "4",
            comparing(f"nats / 1,000, empty step {MINUS} generation step", _lowered),
            margin=None,
        ),
        Claim(
            AS_MUCH,
            "and by as much as a step on understanding rows, or more",
            "4",
            comparing("generation over understanding rows, minus 1", _lowered_ratio),
            margin=None,
        ),
        Claim(
            LOWERS_MORE,
            "and by more than a step on requests with other watches' images",
            "4",
            comparing(
                f"nats / 1,000 by a generation step, {MIXED} {MINUS} {SHUFFLED}",
                _lowered_by_images,
            ),
            margin=None,
        ),
        Claim(
            ALIKE_MORE,
            "drawing the watch that is asked for makes the side that reads and the side that "
            "draws more alike than drawing other watches",
            "4",
            comparing(
                f"CKA after training, mean of the layers, {MIXED} {MINUS} {SHUFFLED}",
                _alike_by_images,
            ),
        ),
    ),
    figures={
        "task_gradients": draw_cosines,
        "task_gradients_steps": draw_steps,
        "task_gradients_sides": draw_sides,
    },
    findings={
        "task_gradients": tell_cosines,
        "task_gradients_steps": tell_steps,
        "task_gradients_sides": tell_sides,
    },
)
