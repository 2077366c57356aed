"""Does each task help the other? (Paper section 4, figure 3.)

Compares mixed training with each task alone, for each pairing of an understanding space with a
generation space. Mixed training has rows of text beside the requests, which the paper's data lack.
So it is there without them as well, and one baseline has text in place of the requests. Arms of one
seed share initial weights, understanding rows and their order, so their differences are paired.

Belongs here: this study's claims and figures. Not here: its runs, which other studies share
(`baselines.py`), how scores grow during training (`learning_curves.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

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
    metric_of,
    paired,
    tell_contrasts,
    tell_counts,
    understanding_totals,
)
from uvlm_core.studies.baselines import (
    GENERATION,
    MIXED,
    NO_TEXT,
    ONCE,
    REPEATED,
    TEXT,
    MixedScale,
    baselines,
)
from uvlm_core.studies.learning_curves import REPORTED_SCORES
from uvlm_core.studies.statistics import mean_interval, verdict
from uvlm_core.studies.style import (
    COLOURS,
    MINUS,
    NAMES,
    PAGE,
    REFERENCES,
    REPORTED,
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
from uvlm_core.training.spec import ARCHITECTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNDERSTANDS, DRAWS = "understanding gains", "generation gains"
PLAIN_GAINS = "understanding gains, without text"
OUTLASTS, BEYOND_TEXT = "more than repeating", "more than text"
BASELINES = {  # with the claims about them
    ONCE: UNDERSTANDS,
    REPEATED: OUTLASTS,
    TEXT: BEYOND_TEXT,
    GENERATION: DRAWS,
}
_PAIRS = ((NO_TEXT, ONCE), *((MIXED, baseline) for baseline in BASELINES))
_SCORE_OF = {"understanding": "partial credit", "generation": "read back"}
_BENEFIT_COLUMNS = ("architecture", "arm", "seed", "fraction", "metric", "attribute", "value")


def arms(base: Profile, scale: MixedScale) -> list[Arm]:
    """Return mixed training and its baselines, by seed and architecture.

    If mixed training has text rows, it is there without them as well.
    """
    found = []
    for seed in range(scale.seeds):
        for name in scale.architectures:
            specs = baselines(base, scale, scale.seen, seed=seed, architecture=name)
            if scale.text_rows:
                without = replace(scale, text_rows=0)
                same = {"seed": seed, "architecture": name}
                specs[NO_TEXT] = baselines(base, without, scale.seen, **same)[MIXED]
            found += [arm_of(spec, arm=arm) for arm, spec in specs.items()]
    return found


def _task(arm: str) -> str:
    return "generation" if arm == GENERATION else "understanding"


def differences(table: pd.DataFrame, arm: str = MIXED) -> pd.DataFrame:
    """Return what mixed training has more than each baseline after training, by seed.

    `arm` is mixed training with or without text. Read-back is compared with generation alone, and
    partial credit with the others. Columns: architecture, baseline, metric, attribute (or "total"),
    seed, difference.
    """
    last, parts = table[table["fraction"] == 1], []
    for name in known_architectures(last):
        for baseline in BASELINES:
            metric = metric_of(_task(baseline), name)
            own = last[(last["architecture"] == name) & (last["metric"] == metric)]
            own = own[own["attribute"].isin(["total", *ATTRIBUTES])]
            found = paired(own, arm, baseline, ("attribute", "seed"))
            if len(found):
                labels = {"architecture": name, "baseline": baseline, "metric": metric}
                parts.append(found.reset_index().assign(**labels))
    columns = ["architecture", "baseline", "metric", "attribute", "seed", "difference"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def comparing(
    baseline: str, matching: str, arm: str = MIXED
) -> Callable[[pd.DataFrame, MixedScale], Iterator[Comparison]]:
    """Return a comparison of mixed training with a baseline in the final total."""

    def compare(table: pd.DataFrame, scale: MixedScale) -> Iterator[Comparison]:
        found = differences(table, arm)
        found = found[(found["baseline"] == baseline) & (found["attribute"] == "total")]
        for (name, metric), own in found.groupby(["architecture", "metric"], sort=False):
            yield Comparison(
                name,
                f"total, {NAMES[metric]}, {arm} {MINUS} {baseline}",
                own.set_index("seed")["difference"],
                matching,
            )

    return compare


@theme()
def draw_benefit(opened: OpenedStudy) -> Drawn:
    """Draw what mixed training has more than each baseline, and below it the scores themselves.

    Left understanding, right generation. Differences are paired by seed.
    """
    table = opened.table
    need(table, "mutual_benefit", _BENEFIT_COLUMNS)
    gains = pd.concat(differences(table, arm).assign(mixed=arm) for arm in (MIXED, NO_TEXT))
    gains = gains[gains["attribute"] == "total"]
    names = known_architectures(gains)
    last = table[(table["fraction"] == 1) & (table["attribute"] == "total")]
    figure = new_figure(PAGE, 4.6)
    grid = figure.subplots(2, 2, sharey="row", height_ratios=(1.2, 1), width_ratios=(2.6, 1))
    gains["arm"] = gains["mixed"] + f"\n{MINUS} " + gains["baseline"]
    gains, known = gains.rename(columns={"difference": "value"}), set(gains["arm"])
    for (above, below), (task, score) in zip(grid.T, _SCORE_OF.items(), strict=True):
        pairs = {
            f"{arm}\n{MINUS} {baseline}": (arm, baseline)
            for arm, baseline in _PAIRS
            if _task(baseline) == task
        }
        pairs = {label: pair for label, pair in pairs.items() if label in known}
        above.axhline(0, color="black", linewidth=0.6)
        _draw_arms(above, gains, list(pairs), names)
        mixed, compared = zip(*pairs.values(), strict=True)
        labels = [
            f"{arm}\n{MINUS} {_lines(baseline)}"
            for arm, baseline in zip(mixed, compared, strict=True)
        ]
        above.set_xticks(range(len(pairs)), labels)
        arms = list(dict.fromkeys((*compared, *mixed)))
        own = pd.concat(
            last[(last["architecture"] == name) & (last["metric"] == metric_of(task, name))]
            for name in names
        )
        _draw_arms(below, own, arms, names)
        below.set_xticks(range(len(arms)), [_lines(arm) for arm in arms])
        below.axhline(chance(metric_of(task, names[0]), "total"), **REFERENCES["chance"])
        above.set_title(f"{task}, total {score}")
        if task == "understanding":  # the authors' data have no text rows
            theirs = arms.index(NO_TEXT if NO_TEXT in arms else MIXED)
    reported = REPORTED_SCORES[REPORTED_SCORES["fraction"] == 1].set_index("architecture")["value"]
    reported = {name: value for name, value in reported.items() if name in names}
    look = REPORTED | {"linestyle": "", "marker": "D"}
    at = [_place(theirs, names.index(name), names) for name in reported]
    grid[1, 0].plot(at, list(reported.values()), **look)
    grid[0, 0].set_ylabel("difference")
    grid[1, 0].set_ylabel("after training")
    handles = [
        *colour_handles(names),
        *spread_handles(last),
        entry(label="chance", **REFERENCES["chance"]),
    ]
    if reported:
        handles.append(entry(label="authors' record (7B)", **look))
    headline(figure, headline_of_benefit(opened), handles, ncols=4)
    return Drawn(figure, last, {"reported by the authors": reported} if reported else {})


def _draw_arms(axes: "Axes", table: pd.DataFrame, arms: list[str], names: list[str]) -> None:
    """Draw the mean value of each arm and architecture, side by side."""
    for place, arm in enumerate(arms):
        for number, name in enumerate(names):
            own = table[(table["architecture"] == name) & (table["arm"] == arm)]
            if len(own):
                look = {"color": COLOURS[name], "marker": "o"}
                draw_mean(axes, _place(place, number, names), own["value"], look)
    axes.set_xlim(-0.5, len(arms) - 0.5)
    axes.margins(y=0.1)
    axes.grid(False, axis="x")


def _lines(arm: str) -> str:
    """Return an arm's name in two lines."""
    return arm.replace(" ", "\n", 1)


def _place(place: int, number: int, names: list[str]) -> float:
    """Return where an architecture stands beside the others of an arm."""
    return place + 0.5 * ((number + 0.5) / len(names) - 0.5)


def headline_of_benefit(opened: OpenedStudy) -> str:
    """Return what the verdicts say of mixed training and understanding, in one sentence."""
    gains = tell_counts(opened, UNDERSTANDS, "better", "worse")
    told = [
        f"Mixed training understands {gains} than from its understanding rows alone"
        if gains
        else "Mixed training is not shown to understand better or worse than understanding alone"
    ]
    plain = tell_counts(opened, PLAIN_GAINS, "better", "worse")
    if plain:
        told[0] += f" (without text rows {plain})"
    for claim, words in (
        (OUTLASTS, "from repeating them"),
        (BEYOND_TEXT, "with text rows in place of requests"),
    ):
        counts = tell_counts(opened, claim, "better", "worse")
        if counts:
            told.append(f"{counts} than {words}")
    start, word, rest = "; ".join(told).partition(" architectures")
    return start + word + rest.replace(" architectures", "")  # the word once


def attribute_benefits(table: pd.DataFrame) -> pd.DataFrame:
    """Return what mixed training has more than each baseline, by architecture and attribute.

    Columns: architecture, baseline, attribute, difference, low, high (95 % t interval), seeds,
    verdict.
    """
    found = differences(table)
    rows = [
        (*keys, *mean_interval(own["difference"]), len(own), verdict(own["difference"]))
        for keys, own in found[found["attribute"] != "total"].groupby(
            ["architecture", "baseline", "attribute"], sort=False
        )
    ]
    columns = ["architecture", "baseline", "attribute", "difference", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=[*columns, "verdict"])


@theme()
def draw_attributes(opened: OpenedStudy) -> Drawn:
    """Draw what mixed training has more than each baseline, by attribute: bold where decided."""
    need(opened.table, "mutual_benefit_attributes", _BENEFIT_COLUMNS)
    shown = attribute_benefits(opened.table)
    names, reach = known_architectures(shown), shown["difference"].abs().max()
    figure = new_figure(PAGE, 2.5)
    grid = figure.subplots(1, len(BASELINES), sharey=True)
    for axes, baseline in zip(grid, BASELINES, strict=True):
        own = shown[shown["baseline"] == baseline].set_index(["attribute", "architecture"])
        cells = own["difference"].unstack().reindex(index=list(ATTRIBUTES), columns=names)
        axes.imshow(cells, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto", alpha=0.6)
        for (attribute, name), cell in own.iterrows():
            axes.text(
                names.index(name),
                list(ATTRIBUTES).index(attribute),
                f"{cell['difference']:+.2f}".replace("-", MINUS),
                ha="center",
                va="center",
                fontsize=7,
                weight="bold" if cell["verdict"] in ("replicates", "contradicts") else "normal",
                color="white" if abs(cell["difference"]) > 0.6 * reach else "black",
            )
        axes.set_xticks(range(len(names)), [name.replace("-", "-\n") for name in names])
        axes.set_title(f"{MINUS} {baseline},\n{_SCORE_OF[_task(baseline)]}")
        axes.grid(False)
    grid[0].set_yticks(range(len(ATTRIBUTES)), [NAMES.get(name, name) for name in ATTRIBUTES])
    headline(figure, headline_of_attributes(shown))
    return Drawn(figure, shown)


def headline_of_attributes(shown: pd.DataFrame) -> str:
    """Return on how many attributes mixed training gains and loses, in one sentence."""

    def count(baseline: str, words: str) -> str:
        own = shown[shown["baseline"] == baseline]
        return f"{(own['verdict'] == words).sum()} of {len(own)} cells"

    return (
        f"Mixed training gains in {count(ONCE, 'replicates')} against its rows alone, and "
        f"loses in {count(REPEATED, 'contradicts')} against repeating them (bold)"
    )


def tell_benefit(opened: OpenedStudy) -> str:
    """Say what mixed training gains over each baseline, and where all arms end."""
    against = {
        "its understanding rows alone, shown as often": (UNDERSTANDS, ""),
        "these rows repeated for as many steps": (OUTLASTS, ""),
        "text rows in place of requests": (BEYOND_TEXT, ""),
    }
    drawn = {"its requests alone": (DRAWS, "")}
    means = understanding_totals(opened.table).groupby("arm")["value"].mean()
    ends = ", ".join(
        f"{means[arm]:.2f} {arm}" for arm in (ONCE, REPEATED, TEXT, NO_TEXT, MIXED) if arm in means
    )
    plain = {"its understanding rows alone, shown as often": (PLAIN_GAINS, "")}
    told = tell_contrasts(opened, plain)
    without = f"Without text rows, understanding: {told}.\n" if told else ""
    return (
        f"Mixed training, understanding: {tell_contrasts(opened, against)}.\n{without}"
        f"Mixed training, drawing: {tell_contrasts(opened, drawn)}.\n"
        f"Mean total of understanding after training: {ends}.\n"
        f"Drawn as requested after {GENERATION}, in total: {_drawn(opened.table)}."
    )


def _drawn(table: pd.DataFrame) -> str:
    """Say how much of its requests generation alone follows, by architecture."""
    own = table[
        (table["fraction"] == 1) & (table["arm"] == GENERATION) & (table["attribute"] == "total")
    ]
    told, metrics = [], {name: metric_of("generation", name) for name in known_architectures(own)}
    for name, metric in metrics.items():
        found = own[(own["architecture"] == name) & (own["metric"] == metric)]
        told.append(f"{name} {found['value'].mean():.2f}")
    guess = chance(next(iter(metrics.values())), "total")
    return f"{', '.join(told)}; a guess has {guess:.2f}"


def tell_attributes(opened: OpenedStudy) -> str:
    """Say on which attributes mixed training gains and loses, against each baseline."""
    found, text = attribute_benefits(opened.table), []
    for baseline, own in found.groupby("baseline", sort=False):
        gains, losses = (_decided(own, words) for words in ("replicates", "contradicts"))
        text.append(f"Against {baseline}, mixed training gains on {gains}. It loses on {losses}.")
    return "\n".join(text)


def _decided(benefits: pd.DataFrame, words: str) -> str:
    """Return the attributes with a verdict, each with its number of architectures, in words."""
    times = benefits.loc[benefits["verdict"] == words, "attribute"].value_counts()
    count = len(known_architectures(benefits))
    told = [
        f"{NAMES.get(name, name)} ({times[name]} of {count} architectures)"
        for name in ATTRIBUTES
        if name in times
    ]
    return ", ".join(told) or "no attribute"


STUDY = Study(
    name="mutual_benefit",
    number=2,
    section="4, figure 3",
    question="Does a model that learns to draw understand better, and the reverse?",
    scales={
        "smoke": MixedScale(1, ("VQ-VQ", "SigLIP-SigLIP"), 16, 16, 8),
        "laptop": MixedScale(8, ARCHITECTURES, 1600, 7000, 3500),
        "smollm": MixedScale(1, ARCHITECTURES, 1600, 7000, 3500),
        "paper": MixedScale(3, ARCHITECTURES, 120_000, 60_000, 0),
    },
    arms=arms,
    claims=(
        Claim(
            UNDERSTANDS,
            "trained on both tasks, a model understands better than from its understanding rows "
            "alone, shown as often",
            "4, figure 3",
            comparing(ONCE, "examples"),
            "in all four architectures",
        ),
        Claim(
            PLAIN_GAINS,
            "it does so without rows of text, on the paper's kinds of data",
            "4, figure 3",
            comparing(ONCE, "examples", NO_TEXT),
            "in all four architectures",
        ),
        Claim(
            OUTLASTS,
            "it understands better than after as many steps on repeated understanding rows",
            "4, figure 3",
            comparing(REPEATED, "steps"),
        ),
        Claim(
            BEYOND_TEXT,
            "it understands better than with text rows in place of requests, for as many steps",
            "4, figure 3",
            comparing(TEXT, "steps"),
        ),
        Claim(
            DRAWS,
            "trained on both tasks, a model generates better than trained on generation alone",
            "4, figure 3",
            comparing(GENERATION, "examples"),
            "in all four architectures (FID)",
        ),
    ),
    figures={"mutual_benefit": draw_benefit, "mutual_benefit_attributes": draw_attributes},
    findings={"mutual_benefit": tell_benefit, "mutual_benefit_attributes": tell_attributes},
)
