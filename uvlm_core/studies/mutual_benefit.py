"""Does each task help the other? (Paper section 4, figure 3.)

Compares unified training with each task alone, for each pairing of an understanding space with a
generation space. Arms of one seed share initial weights, understanding rows and their order, so
their differences are paired.

Belongs here: this study's runs, claims and figures. Not here: how scores are computed
(`scoring/evaluation.py`).
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    Measurement,
    OpenedStudy,
    Scale,
    Study,
    chance,
    difference_text,
    generation_metric,
    regime_arms,
    tell_counts,
    tell_verdicts,
)
from uvlm_core.studies.statistics import mean_interval, verdict
from uvlm_core.studies.style import (
    COLUMN,
    MINUS,
    NAMES,
    PAGE,
    REFERENCES,
    REPORTED,
    arms_of,
    draw_mean,
    draw_picture,
    draw_points,
    headline,
    known_architectures,
    look_of,
    need,
    of_arm,
    regime_handles,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import ARCHITECTURES

# share of the way from chance to a perfect score; outside this range no benefit can show
HEADROOM = (0.1, 0.9)
SHOWN_REQUESTS = 7  # recorded with their images
_DRAWN_REQUESTS = 5  # of them; more would be too small to look at
# Reported by the authors (not ours), from the history of their public code: total partial credit of
# unified 7B models, one run each, at the first and the last of ten checkpoints
REPORTED_SCORES = pd.DataFrame(
    [
        ("VQ-VQ", 0.1, 0.891),
        ("VQ-VQ", 1.0, 0.940),
        ("SigLIP-SigLIP", 0.1, 0.366),
        ("SigLIP-SigLIP", 1.0, 0.963),
    ],
    columns=["architecture", "fraction", "value"],
)
_BENEFIT_COLUMNS = ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value")
# task -> how its score is called, and what a model learns
_SCORED = {
    "understanding": ("partial credit", "understand"),
    "generation": ("read back", "draw"),
}
_COUNTED = {"facecolor": "#e8e8e8", "edgecolor": "none"}  # the fractions that a verdict averages


@dataclass(frozen=True)
class FeatureCeiling(Measurement):
    """The best cosine of features predicted from a request alone (`images.feature_ceiling`)."""

    semantic_encoder: str
    image_size: int  # px
    generated_watches: int

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.semantic_encoder,)

    def run(self, folder: Path) -> dict:
        """Return the record's body: scores with metric feature_cosine_ceiling."""
        # late: reading the record needs no torch
        from uvlm_core.models.encoders import SiglipEncoder
        from uvlm_core.scoring.images import feature_ceiling

        watches = sample_watches(TEST_STREAM, self.generated_watches, "test")
        requested = [
            talk.turns[0].attributes
            for talk in make_conversations(watches, "generation", TEST_STREAM)
        ]
        rows = feature_ceiling(
            SiglipEncoder.load(self.semantic_encoder), watches, requested, self.image_size
        )
        return {"scores": [{"fraction": 1.0} | row for row in rows]}


def arms(base: Profile, scale: Scale) -> list[Arm]:
    """Return unified, single-task and control arms, and the ceiling of feature predictions."""
    spec = base.spec
    ceiling = FeatureCeiling(
        spec.model.semantic_encoder, spec.data.image_size, spec.scoring.generated_watches
    )
    labels = {"architecture": "none", "regime": "none", "seed": 0}
    found = [
        replace(
            arm,
            spec=arm.spec.vary(shown_watches=min(SHOWN_REQUESTS, spec.scoring.generated_watches)),
        )
        if arm.labels["seed"] == 0
        else arm
        for arm in regime_arms(spec, scale)
    ]
    return [*found, Arm(ceiling, labels)]


# What is compared


def headroom(table: pd.DataFrame, baseline: str, metric: str, attribute: str) -> list[float]:
    """Return the fractions of the data at which the baseline arm has headroom.

    It has headroom where its mean score over seeds, rescaled to 0 for chance and 1 for a perfect
    score, lies within `HEADROOM`. If no fraction qualifies, return the last one.
    """
    chosen = table[
        (table["regime"] == baseline)
        & (table["metric"] == metric)
        & (table["attribute"] == attribute)
    ]
    least = chance(metric, attribute)
    means = (chosen.groupby("fraction")["value"].mean() - least) / (1 - least)
    return list(means[means.between(*HEADROOM)].index) or [max(chosen["fraction"])]


def benefit(table: pd.DataFrame, baseline: str, metric: str, attribute: str) -> pd.Series:
    """Return unified minus a task alone by seed, averaged over the fractions with headroom."""
    fractions = headroom(table, baseline, metric, attribute)
    chosen = table[
        (table["metric"] == metric)
        & (table["attribute"] == attribute)
        & table["fraction"].isin(fractions)
    ]
    wide = chosen.pivot_table(index="seed", columns="regime", values="value")
    return (wide["unified"] - wide[baseline]).dropna()


def compare_understanding(table: pd.DataFrame, scale: Scale) -> Iterator[Comparison]:
    """Compare total and time with those of understanding alone, where that has headroom."""
    for name in known_architectures(table):
        own = table[(table["architecture"] == name) & (table["regime"] != "shuffled")]
        for attribute in ("total", "time"):
            yield Comparison(
                name,
                f"{attribute}, partial credit, while learning",
                benefit(own, "understanding", "partial", attribute),
            )


def compare_generation(table: pd.DataFrame, scale: Scale) -> Iterator[Comparison]:
    """Compare the total read back with that of generation alone, where that has headroom."""
    for name in known_architectures(table):
        own = table[(table["architecture"] == name) & (table["regime"] != "shuffled")]
        metric = generation_metric(name)
        yield Comparison(
            name,
            f"total, {metric.replace('_', ' ')}, while learning",
            benefit(own, "generation", metric, "total"),
        )


# Figures


def draw_understanding(opened: OpenedStudy) -> Drawn:
    """Draw figure 3 of the paper: how far unified models are above understanding alone."""
    return draw_learning(opened, "understanding")


def draw_generation(opened: OpenedStudy) -> Drawn:
    """Draw figure 3 for generation: how far unified models are above generation alone."""
    return draw_learning(opened, "generation")


def _metric(task: str, architecture: str) -> str:
    return "partial" if task == "understanding" else generation_metric(architecture)


def along_training(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the totals of one task, and unified minus the task alone, along training.

    Adds the columns difference (NaN in other arms than unified) and counted, whether the verdict
    averages that fraction of the data.
    """
    parts = []
    for name in known_architectures(table):
        metric, keys = _metric(task, name), ["seed", "fraction"]
        own = table[
            (table["architecture"] == name)
            & (table["metric"] == metric)
            & (table["attribute"] == "total")
        ]
        if own.empty:
            continue
        alone = own[own["regime"] == task].set_index(keys)["value"]
        difference = own["value"] - alone.reindex(pd.MultiIndex.from_frame(own[keys])).to_numpy()
        parts.append(
            own.assign(
                difference=difference.where(own["regime"] == "unified"),
                counted=own["fraction"].isin(headroom(own, task, metric, "total")),
            )
        )
    if not parts:
        raise ValueError(f"The table has no total of {task} to draw.")
    return pd.concat(parts)


@theme()
def draw_learning(opened: OpenedStudy, task: str) -> Drawn:
    """Draw unified minus one task alone along training, and below it the scores themselves.

    Each column is one architecture. Differences are paired by seed. The numbers above are what the
    verdict judges: the mean over the shaded fractions.
    """
    need(opened.table, "mutual_benefit", _BENEFIT_COLUMNS)
    shown = along_training(opened.table, task)
    names, reported = known_architectures(shown), REPORTED_SCORES.head(0)
    if task == "understanding":  # the control is about requests, the authors' record about answers
        shown = shown[shown["regime"] != "shuffled"]
        reported = REPORTED_SCORES[REPORTED_SCORES["architecture"].isin(names)]
    figure = Figure(figsize=(PAGE, 3.9))
    grid = figure.subplots(
        2, len(names), squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1)
    )
    for (above, below), name in zip(grid.T, names, strict=True):
        own = shown[shown["architecture"] == name]
        _draw_differences(above, of_arm(own, name, "unified").dropna(subset="difference"))
        by_seed = benefit(own, task, _metric(task, name), "total")
        row = dict(zip(("difference", "low", "high"), mean_interval(by_seed), strict=True))
        above.set_title(f"{name}\n{difference_text(row | {'seeds': len(by_seed)})}", fontsize=7)
        for _, regime in arms_of(own):
            means = of_arm(own, name, regime).groupby("fraction")["value"].mean()
            below.plot(means, **look_of(name, regime) | {"linewidth": 1.0, "markersize": 2.5})
        below.axhline(chance(_metric(task, name), "total"), **REFERENCES["chance"])
        points = reported[reported["architecture"] == name]
        below.plot(points["fraction"], points["value"], "D", **REPORTED)
        first = own["fraction"].min()
        below.set_xscale("log")
        below.set_xticks([0.02, 0.1, 1] if first < 0.1 else [0.5, 1])
        below.set_xticks([], minor=True)
        below.set(xlim=(0.8 * first, 1.2), xlabel="data seen (%)")
        below.set_ylim(min(0.2, shown["value"].min() - 0.05), 1.04)
        below.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    score, _ = _SCORED[task]
    grid[0, 0].set_ylabel(f"unified {MINUS} {task}\nalone, total {score}")
    grid[1, 0].set_ylabel(f"mean total\n{score}")
    handles = [
        Patch(label="while learning (mean above)", **_COUNTED),
        *spread_handles(shown),
        *regime_handles(regime for _, regime in arms_of(shown)),
        Line2D([], [], label="chance", **REFERENCES["chance"]),
    ]
    if len(reported):
        look = REPORTED | {"linestyle": "", "marker": "D"}
        handles.append(Line2D([], [], label="authors' record (7B)", **look))
    headline(figure, headline_of_learning(opened, task), handles)
    facts = {"reported by the authors": reported.to_dict("records")} if len(reported) else {}
    return Drawn(figure, shown, facts)


def _draw_differences(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the paired differences of one architecture over the fractions of the data."""
    counted = table.loc[table["counted"], "fraction"]
    axes.axvspan(counted.min() / 1.1, counted.max() * 1.1, zorder=0, **_COUNTED)
    axes.axhline(0, color="black", linewidth=0.6)
    look = look_of(table["architecture"].iloc[0], "unified")
    draw_points(axes, table["fraction"], table["difference"], look)


def headline_of_learning(opened: OpenedStudy, task: str) -> str:
    """Return what the verdicts say about learning a task, in one sentence."""
    learns = _SCORED[task][1]
    told = tell_counts(opened, f"{task} gains", "faster", "more slowly", "total")
    if told:
        return f"Unified models learn to {learns} {told}"
    return f"Unified models are not shown to learn to {learns} faster or more slowly"


def attribute_benefits(table: pd.DataFrame) -> pd.DataFrame:
    """Return unified minus each task alone while learning, by architecture and attribute.

    Columns: architecture, baseline, metric, attribute, difference, low, high (95 % t interval),
    seeds, verdict.
    """
    rows = []
    for name in known_architectures(table):
        own = table[(table["architecture"] == name) & (table["regime"] != "shuffled")]
        for baseline in _SCORED:
            for attribute in ATTRIBUTES:
                metric = _metric(baseline, name)
                by_seed = benefit(own, baseline, metric, attribute)
                rows.append(
                    (
                        *(name, baseline, metric, attribute),
                        *mean_interval(by_seed),
                        len(by_seed),
                        verdict(by_seed),
                    )
                )
    columns = ["architecture", "baseline", "metric", "attribute", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "seeds", "verdict"])


@theme()
def draw_attributes(opened: OpenedStudy) -> Drawn:
    """Draw unified minus each task alone, by attribute: bold where it is decided."""
    need(opened.table, "mutual_benefit_attributes", _BENEFIT_COLUMNS)
    shown = attribute_benefits(opened.table)
    names, reach = known_architectures(shown), shown["difference"].abs().max()
    figure = Figure(figsize=(PAGE, 2.5))
    grid = figure.subplots(1, len(_SCORED), sharey=True)
    for axes, (baseline, (score, _)) in zip(grid, _SCORED.items(), strict=True):
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
            )
        axes.set_xticks(range(len(names)), [name.replace("-", "-\n") for name in names])
        axes.set_title(f"unified {MINUS} {baseline} alone,\n{score}")
        axes.grid(False)
    grid[0].set_yticks(range(len(ATTRIBUTES)), [NAMES.get(name, name) for name in ATTRIBUTES])
    headline(figure, headline_of_attributes(shown))
    return Drawn(figure, shown)


def headline_of_attributes(shown: pd.DataFrame) -> str:
    """Return how many differences by attribute are decided, in one sentence."""
    found = shown["verdict"].value_counts()
    return (
        f"While learning, both tasks help in {found.get('replicates', 0)} of {len(shown)} cases "
        f"and hinder in {found.get('contradicts', 0)} (bold)"
    )


@theme()
def draw_features(opened: OpenedStudy) -> Drawn:
    """Draw the cosine between drawn and true SigLIP features, over all patches.

    Grey lines are another watch's features (floor) and the best answer to the request (ceiling).
    """
    table = opened.table
    need(table, "mutual_benefit_features", _BENEFIT_COLUMNS)
    shown = table[
        (table["fraction"] == table["fraction"].max())
        & table["metric"].isin([f"feature_cosine{end}" for end in ("", "_floor", "_ceiling")])
        & (table["attribute"] == "all")
    ]
    drawn = shown[shown["metric"] == "feature_cosine"]
    if drawn.empty:
        raise ValueError("The table of figure 'mutual_benefit_features' has no feature_cosine.")
    names = known_architectures(drawn)
    figure = Figure(figsize=(COLUMN, 1.5 + 0.3 * len(names)))
    axes = figure.subplots()
    for kind in ("floor", "ceiling"):
        axes.axvline(
            shown.loc[shown["metric"] == f"feature_cosine_{kind}", "value"].mean(),
            **REFERENCES[kind],
        )
    for name, regime in arms_of(drawn):
        at = names.index(name) + (0.15 if regime == "unified" else -0.15)
        draw_mean(axes, at, of_arm(drawn, name, regime)["value"], look_of(name, regime), False)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="cosine to the features of the target watch")
    axes.margins(x=0.1)
    axes.grid(False, axis="y")
    handles = [
        *regime_handles((regime for _, regime in arms_of(drawn)), linestyle=""),
        *spread_handles(drawn),
        Line2D([], [], label="another watch", **REFERENCES["floor"]),
        Line2D([], [], label="best answer to a request", **REFERENCES["ceiling"]),
    ]
    headline(figure, headline_of_features(drawn), handles, ncols=2)
    return Drawn(figure, shown)


def headline_of_features(drawn: pd.DataFrame) -> str:
    """Return whether unified models draw features worse than generation alone, in one sentence."""
    wide = drawn.pivot_table(index=["architecture", "seed"], columns="regime", values="value")
    found = (wide["unified"] - wide["generation"]).dropna().groupby("architecture")
    words = {verdict(by_seed) for _, by_seed in found}
    if words == {"contradicts"}:
        return "Unified models draw less exact features than generation alone"
    if words == {"replicates"}:
        return "Unified models draw more exact features than generation alone"
    return "How close drawn features come to the right ones"


def draw_generated(opened: OpenedStudy) -> Drawn:
    """Draw the first watches that seed 0 generates, below their requests, one arm per row."""
    spec = opened.base.spec
    images = {
        "target watch": render_batch(
            sample_watches(TEST_STREAM, SHOWN_REQUESTS, "test"), spec.data.image_size
        )
    }
    rows = []
    for arm in opened.arms:
        spec, regime = arm.spec, arm.labels["regime"]
        if arm.labels["seed"] != 0 or regime not in ("generation", "unified", "shuffled"):
            continue
        record = opened.store.load(spec)
        name = f"{spec.model.architecture} {regime}"
        if regime == "generation":  # shared by architectures with the same output space
            name = f"{spec.model.generation} generation"
        pictures = opened.store.pictures(record)
        if pictures is not None and name not in images:
            images[name] = pictures
            rows += [
                (spec.model.architecture, regime, 0, position, request, record["key"])
                for position, request in enumerate(record["samples"]["requests"])
            ]
    shown = pd.DataFrame(
        rows, columns=["architecture", "regime", "seed", "position", "request", "record"]
    )
    shown = shown[shown["position"] < _DRAWN_REQUESTS]
    return Drawn(draw_watches(shown[:_DRAWN_REQUESTS], images), shown)


@theme()
def draw_watches(table: pd.DataFrame, images: dict[str, np.ndarray]) -> Figure:
    """Draw watches below their requests.

    `table` has the column request, one row per column of the figure. `images` maps row names, in
    order, to uint8 arrays (requests, height, width, 3). ValueError for too few images.
    """
    need(table, "mutual_benefit_watches", ("request",))
    if not images or any(len(pictures) < len(table) for pictures in images.values()):
        raise ValueError(
            f"Figure 'mutual_benefit_watches' needs {len(table)} images for each of at least one "
            "arm."
        )
    width = PAGE / len(table)
    figure = Figure(figsize=(PAGE, 1.1 + 0.86 * width * len(images)))
    grid = figure.subplots(len(images), len(table), squeeze=False)
    for line, (name, pictures) in zip(grid, images.items(), strict=True):
        for axes, image in zip(line, pictures, strict=False):
            draw_picture(axes, image)
        line[0].set_ylabel(name.replace(" ", "\n", 1))
    for axes, request in zip(grid[0], table["request"], strict=True):
        axes.set_title(textwrap.fill(request, int(width * 72 / 4.3)), fontsize=7, loc="left")
    headline(figure, "What each model draws after training, below the request")
    return figure


# What the figures say


def _mean_at(
    table: pd.DataFrame, regime: str, metric: str, attribute: str, architecture: str = ""
) -> float:
    """Return the mean score over seeds (and architectures) at the last fraction."""
    chosen = table[
        (table["regime"] == regime)
        & (table["metric"] == metric)
        & (table["attribute"] == attribute)
        & (table["fraction"] == table["fraction"].max())
    ]
    return chosen.loc[chosen["architecture"].str.contains(architecture), "value"].mean()


def tell_understanding(opened: OpenedStudy) -> str:
    """Say whether unified training beats understanding alone, and how the control scores."""
    table = opened.table
    text = (
        f"Unified minus understanding alone, total while learning: "
        f"{tell_verdicts(opened, 'understanding gains', 'total')}. "
    )
    text += (
        f"At the end the total is {_mean_at(table, 'unified', 'partial', 'total'):.3f} with both "
        f"tasks and {_mean_at(table, 'understanding', 'partial', 'total'):.3f} with one, over all "
        "architectures."
    )
    control = _mean_at(table, "shuffled", "partial", "total")
    return (
        text
        if np.isnan(control)
        else (f"{text} The control, with other watches' images, ends at {control:.3f}.")
    )


def tell_generation(opened: OpenedStudy) -> str:
    """Say whether unified training beats generation alone, and how the control scores."""
    control = _mean_at(opened.table, "shuffled", "read_back", "total", "VQ-VQ")
    unified = _mean_at(opened.table, "unified", "read_back", "total", "VQ-VQ")
    text = (
        f"Unified minus generation alone, total while learning: "
        f"{tell_verdicts(opened, 'generation gains')}. VQ output is read back from pixels, SigLIP "
        "output from its features."
    )
    return (
        text
        if np.isnan(control)
        else (
            f"{text} The control, VQ-VQ with other watches' images, ends at {control:.3f}. With "
            f"the right images it ends at {unified:.3f}; a guess has "
            f"{chance('read_back', 'total'):.3f}."
        )
    )


def tell_features(opened: OpenedStudy) -> str:
    """Say how close generated features come to the best prediction from a request."""
    table = opened.table

    def cosine(metric: str, regime: str) -> float:
        return _mean_at(table, regime, metric, "all")

    return (
        f"Over all patches the cosine is {cosine('feature_cosine', 'unified'):.3f} with both tasks "
        f"and {cosine('feature_cosine', 'generation'):.3f} with generation alone. Another watch "
        f"has {cosine('feature_cosine_floor', 'unified'):.3f}. No answer to the request alone "
        f"can have more than {cosine('feature_cosine_ceiling', 'none'):.3f}."
    )


def tell_generated(opened: OpenedStudy) -> str:
    """Say how to read the pictures."""
    return (
        "A request names the time, and each other attribute half of the time. What it leaves open "
        "may differ from the target watch; colour is never requested. SigLIP output is shown "
        "through a small decoder of features, which no score goes through."
    )


def tell_attributes(opened: OpenedStudy) -> str:
    """Say on which attributes a difference is decided, for each task."""
    found, text = attribute_benefits(opened.table), []
    for baseline, own in found.groupby("baseline", sort=False):
        gains, losses = (_decided(own, words) for words in ("replicates", "contradicts"))
        text.append(
            f"Against {baseline} alone, unified models gain on {gains}. They lose on {losses}."
        )
    return " ".join(text)


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
        "smoke": Scale(1, ("VQ-VQ", "SigLIP-SigLIP")),
        "laptop": Scale(4, ARCHITECTURES),
        "smollm": Scale(1, ARCHITECTURES),
        "paper": Scale(3, ARCHITECTURES),
    },
    arms=arms,
    claims=(
        Claim(
            "understanding gains",
            "trained on both tasks, a model understands better than trained on understanding alone",
            "4, figure 3",
            compare_understanding,
            "in all four architectures",
        ),
        Claim(
            "generation gains",
            "trained on both tasks, a model generates better than trained on generation alone",
            "4, figure 3",
            compare_generation,
            "in all four architectures (FID)",
        ),
    ),
    figures={
        "mutual_benefit": draw_understanding,
        "mutual_benefit_generation": draw_generation,
        "mutual_benefit_features": draw_features,
        "mutual_benefit_watches": draw_generated,
        "mutual_benefit_attributes": draw_attributes,
    },
    findings={
        "mutual_benefit": tell_understanding,
        "mutual_benefit_generation": tell_generation,
        "mutual_benefit_features": tell_features,
        "mutual_benefit_watches": tell_generated,
        "mutual_benefit_attributes": tell_attributes,
    },
)
