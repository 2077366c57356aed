"""How do the scores of both tasks grow during training, at full size? (Paper section 4, figure 3.)

The paper's three regimes for each pairing of an understanding space with a generation space, scored
at ten fractions of the data. Generation rows are added to the steps of the understanding rows, so
at each fraction all arms have taken as many steps (but not in the profile paper, whose steps count
all rows). These runs are shown but not judged, because at the end little is left to learn. Other
studies test with fewer rows whether one task helps the other.

Belongs here: this study's runs and figures. Not here: the claims (`mutual_benefit.py`).
"""

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.studies.base import (
    Arm,
    Drawn,
    Measurement,
    OpenedStudy,
    Scale,
    Study,
    chance,
    difference_text,
    metric_of,
    regime_arms,
)
from uvlm_core.studies.statistics import mean_interval
from uvlm_core.studies.style import (
    COLUMN,
    MINUS,
    PAGE,
    REFERENCES,
    REPORTED,
    arms_of,
    draw_mean,
    draw_picture,
    draw_points,
    entry,
    headline,
    known_architectures,
    look_of,
    need,
    new_figure,
    of_arm,
    patch,
    regime_handles,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import ARCHITECTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
_CURVE_COLUMNS = ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value")
# task -> how its score is called, and what a model learns
_SCORED = {
    "understanding": ("partial credit", "understand"),
    "generation": ("read back", "draw"),
}
# the fractions that the mean above a panel covers
_COUNTED = {"facecolor": "#e8e8e8", "edgecolor": "none"}


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


# Figures


def draw_understanding(opened: OpenedStudy) -> Drawn:
    """Draw figure 3 of the paper: how far unified models are above understanding alone."""
    return draw_learning(opened, "understanding")


def draw_generation(opened: OpenedStudy) -> Drawn:
    """Draw figure 3 for generation: how far unified models are above generation alone."""
    return draw_learning(opened, "generation")


def along_training(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the totals of one task, and unified minus the task alone, along training.

    Adds the columns difference (NaN in other arms than unified) and counted, whether the mean
    covers that fraction of the data (`headroom`).
    """
    parts = []
    for name in known_architectures(table):
        metric, keys = metric_of(task, name), ["seed", "fraction"]
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

    Each column is one architecture. Differences are paired by seed. The numbers above are means
    over the shaded fractions.
    """
    need(opened.table, "learning_curves", _CURVE_COLUMNS)
    shown = along_training(opened.table, task)
    gains = while_learning(shown, task)
    names, reported = known_architectures(shown), REPORTED_SCORES.head(0)
    if task == "understanding":  # the control is about requests, the authors' record about answers
        shown = shown[shown["regime"] != "shuffled"]
        reported = REPORTED_SCORES[REPORTED_SCORES["architecture"].isin(names)]
    figure = new_figure(PAGE, 3.9)
    grid = figure.subplots(
        2, len(names), squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1)
    )
    for (above, below), name in zip(grid.T, names, strict=True):
        own = shown[shown["architecture"] == name]
        _draw_differences(above, of_arm(own, name, "unified").dropna(subset="difference"))
        (gain,) = gains[gains["architecture"] == name].to_dict("records")
        above.set_title(f"{name}\n{difference_text(gain)}", fontsize=7)
        for _, regime in arms_of(own):
            means = of_arm(own, name, regime).groupby("fraction")["value"].mean()
            below.plot(means, **look_of(name, regime) | {"linewidth": 1.0, "markersize": 2.5})
        below.axhline(chance(metric_of(task, name), "total"), **REFERENCES["chance"])
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
        patch(label="while learning (mean above)", **_COUNTED),
        *spread_handles(shown),
        *regime_handles(regime for _, regime in arms_of(shown)),
        entry(label="chance", **REFERENCES["chance"]),
    ]
    if len(reported):
        look = REPORTED | {"linestyle": "", "marker": "D"}
        handles.append(entry(label="authors' record (7B)", **look))
    headline(figure, headline_of_learning(gains, task), handles)
    facts = {"reported by the authors": reported.to_dict("records")} if len(reported) else {}
    return Drawn(figure, shown, facts)


def _draw_differences(axes: "Axes", table: pd.DataFrame) -> None:
    """Draw the paired differences of one architecture over the fractions of the data."""
    counted = table.loc[table["counted"], "fraction"]
    axes.axvspan(counted.min() / 1.1, counted.max() * 1.1, zorder=0, **_COUNTED)
    axes.axhline(0, color="black", linewidth=0.6)
    look = look_of(table["architecture"].iloc[0], "unified")
    draw_points(axes, table["fraction"], table["difference"], look)


def while_learning(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return each architecture's mean of unified minus a task alone while there is headroom.

    Columns: architecture, difference, low, high (95 % t interval), seeds.
    """
    rows = []
    for name in known_architectures(table):
        own = table[table["architecture"] == name]
        by_seed = benefit(own, task, metric_of(task, name), "total")
        rows.append((name, *mean_interval(by_seed), len(by_seed)))
    return pd.DataFrame(rows, columns=["architecture", "difference", "low", "high", "seeds"])


def headline_of_learning(gains: pd.DataFrame, task: str) -> str:
    """Return in how many architectures an interval of `while_learning` excludes zero."""
    learns = _SCORED[task][1]
    told = " and ".join(
        f"{words} in {number} of {len(gains)} architectures"
        for words, number in (
            ("faster", (gains["low"] > 0).sum()),
            ("more slowly", (gains["high"] < 0).sum()),
        )
        if number
    )
    if told:
        return f"At full size, unified models learn to {learns} {told}"
    return f"Unified models are not shown to learn to {learns} faster or more slowly"


@theme()
def draw_features(opened: OpenedStudy) -> Drawn:
    """Draw the cosine between drawn and true SigLIP features, over all patches.

    Grey lines are another watch's features (floor) and the best answer to the request (ceiling).
    """
    table = opened.table
    need(table, "learning_curves_features", _CURVE_COLUMNS)
    shown = table[
        (table["fraction"] == table["fraction"].max())
        & table["metric"].isin([f"feature_cosine{end}" for end in ("", "_floor", "_ceiling")])
        & (table["attribute"] == "all")
    ]
    drawn = shown[shown["metric"] == "feature_cosine"]
    if drawn.empty:
        raise ValueError("The table of figure 'learning_curves_features' has no feature_cosine.")
    names = known_architectures(drawn)
    figure = new_figure(COLUMN, 1.5 + 0.3 * len(names))
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
        entry(label="another watch", **REFERENCES["floor"]),
        entry(label="best answer to a request", **REFERENCES["ceiling"]),
    ]
    headline(figure, headline_of_features(drawn), handles, ncols=2)
    return Drawn(figure, shown)


def headline_of_features(drawn: pd.DataFrame) -> str:
    """Return whether unified models draw features worse than generation alone, in one sentence."""
    wide = drawn.pivot_table(index=["architecture", "seed"], columns="regime", values="value")
    found = (wide["unified"] - wide["generation"]).dropna().groupby("architecture")
    intervals = [mean_interval(by_seed) for _, by_seed in found]
    if all(high < 0 for _, _, high in intervals):
        return "Unified models draw less exact features than generation alone"
    if all(low > 0 for _, low, _ in intervals):
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
def draw_watches(
    table: pd.DataFrame,
    images: dict[str, np.ndarray],
    name: str = "learning_curves_watches",
    sentence: str = "What each model draws after training, below the request",
) -> "Figure":
    """Draw watches below their requests.

    `table` has the column request, one row per column of the figure. `images` maps row names, in
    order, to uint8 arrays (requests, height, width, 3). ValueError for too few images, which calls
    the figure by its `name`.
    """
    need(table, name, ("request",))
    if not images or any(len(pictures) < len(table) for pictures in images.values()):
        raise ValueError(f"Figure {name!r} needs {len(table)} images for each of at least one arm.")
    width = PAGE / len(table)
    figure = new_figure(PAGE, 1.1 + 0.86 * width * len(images))
    grid = figure.subplots(len(images), len(table), squeeze=False)
    for line, (label, pictures) in zip(grid, images.items(), strict=True):
        for axes, image in zip(line, pictures, strict=False):
            draw_picture(axes, image)
        line[0].set_ylabel(label.replace(" ", "\n", 1))
    for axes, request in zip(grid[0], table["request"], strict=True):
        axes.set_title(textwrap.fill(request, int(width * 72 / 4.3)), fontsize=7, loc="left")
    headline(figure, sentence)
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
    """Say how far unified models are ahead of understanding alone, while learning and after."""
    ends = [
        _mean_at(opened.table, each, "partial", "total") for each in ("unified", "understanding")
    ]
    return (
        f"Unified minus understanding alone, total while learning: "
        f"{_told(opened, 'understanding')}. At the end the total is {ends[0]:.3f} with both tasks "
        f"and {ends[1]:.3f} with one, over all architectures."
    )


def tell_generation(opened: OpenedStudy) -> str:
    """Say how far unified models are ahead of generation alone, and how the control scores."""
    text = (
        f"Unified minus generation alone, total while learning: {_told(opened, 'generation')}. VQ "
        "output is read back from pixels, SigLIP output from its features."
    )
    control = _mean_at(opened.table, "shuffled", "read_back", "total", "VQ-VQ")
    unified = _mean_at(opened.table, "unified", "read_back", "total", "VQ-VQ")
    return (
        text
        if np.isnan(control)
        else (
            f"{text} The control, VQ-VQ with other watches' images, ends at {control:.3f}. With "
            f"the right images it ends at {unified:.3f}; a guess has "
            f"{chance('read_back', 'total'):.3f}."
        )
    )


def _told(opened: OpenedStudy, task: str) -> str:
    gains = while_learning(along_training(opened.table, task), task)
    return "; ".join(
        f"{row['architecture']} {difference_text(row)}" for row in gains.to_dict("records")
    )


def tell_features(opened: OpenedStudy) -> str:
    """Say how close generated features come to the best prediction from a request."""
    table = opened.table

    def cosine(metric: str, regime: str) -> float:
        return _mean_at(table, regime, metric, "all")

    return (
        "The cosine between the features drawn and those of the watch asked for, over all patches, "
        f"is {cosine('feature_cosine', 'unified'):.3f} with both tasks and "
        f"{cosine('feature_cosine', 'generation'):.3f} with generation alone. Another watch has "
        f"{cosine('feature_cosine_floor', 'unified'):.3f}. No answer to the request alone can have "
        f"more than {cosine('feature_cosine_ceiling', 'none'):.3f}."
    )


def tell_generated(opened: OpenedStudy) -> str:
    """Say how to read the pictures."""
    return (
        "A test request names the time, and each other attribute half of the time. What it leaves "
        "open may differ from the target watch; colour is never requested. SigLIP output is shown "
        "through a small decoder of features, which no score goes through."
    )


STUDY = Study(
    name="learning_curves",
    number=2,
    section="4, figure 3",
    question="How fast is each task learned, alone and together with the other?",
    scales={
        "smoke": Scale(1, ("VQ-VQ", "SigLIP-SigLIP")),
        "laptop": Scale(4, ARCHITECTURES),
        "smollm": Scale(1, ARCHITECTURES),
        "paper": Scale(1, ARCHITECTURES),
    },
    arms=arms,
    figures={
        "learning_curves": draw_understanding,
        "learning_curves_generation": draw_generation,
        "learning_curves_features": draw_features,
        "learning_curves_watches": draw_generated,
    },
    findings={
        "learning_curves": tell_understanding,
        "learning_curves_generation": tell_generation,
        "learning_curves_features": tell_features,
        "learning_curves_watches": tell_generated,
    },
)
