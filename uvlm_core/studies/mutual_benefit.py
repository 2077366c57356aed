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

from uvlm_core.data.attributes import ATTRIBUTES, reader_classes
from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.models.kinds import kinds_of
from uvlm_core.places import resolve
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
    generation_metric,
    regime_arms,
    tell_verdicts,
)
from uvlm_core.studies.statistics import mean_interval
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    INTERVAL_SEEDS,
    MINUS,
    NAMES,
    PAGE,
    REFERENCES,
    REPORTED,
    arms_legend,
    arms_of,
    colour_handles,
    draw_mean,
    draw_picture,
    known_architectures,
    look_of,
    need,
    of_arm,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import ARCHITECTURES

# share of the way from chance to a perfect score; outside this range no benefit can show
HEADROOM = (0.1, 0.9)
SHOWN_REQUESTS = 7
# Reported by the authors (not ours), from the history of their public code: partial credit of
# unified 7B models, one run each, at the first and the last of ten checkpoints
REPORTED_SCORES = pd.DataFrame(
    [
        ("VQ-VQ", 0.1, "total", 0.891),
        ("VQ-VQ", 1.0, "total", 0.940),
        ("VQ-VQ", 0.1, "time", 0.557),
        ("VQ-VQ", 1.0, "time", 0.737),
        ("SigLIP-SigLIP", 0.1, "total", 0.366),
        ("SigLIP-SigLIP", 1.0, "total", 0.963),
    ],
    columns=["architecture", "fraction", "attribute", "value"],
)
_BENEFIT_COLUMNS = ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value")
_CURVE_PANELS = {  # title -> attributes whose mean is drawn
    "weather": ("weather",),
    "corners": ("weather_corner", "battery_corner"),
    "battery": ("battery",),
    "time": ("time",),
}
_DISTANCES = {"read_back": "reader_frechet", "feature_read_back": "feature_frechet"}
_LABELS = {
    "partial": "partial credit",
    "read_back": "read back from pixels",
    "feature_read_back": "read back from features",
}


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
    """Draw figure 3 of the paper: partial credit of answers over the share of the data seen."""
    facts = {"reported by the authors": REPORTED_SCORES.to_dict("records")}
    return Drawn(*draw_scores(opened.table, "understanding", REPORTED_SCORES), facts)


def draw_generation(opened: OpenedStudy) -> Drawn:
    """Draw figure 3 for generation: attributes read back, and the Frechet distance."""
    return Drawn(*draw_scores(opened.table, "generation"))


@theme()
def draw_scores(
    table: pd.DataFrame, task: str, reported: pd.DataFrame | None = None
) -> tuple[Figure, pd.DataFrame]:
    """Draw the scores of one task over the share of the data seen, one architecture per row.

    `task` is "understanding" (partial credit of answers) or "generation" (attributes read back, and
    the Frechet distance to real watches, each in the architecture's own output space). Lines are
    means over seeds, bands their 95 % t intervals, cut off at the panel's edges. An arm with fewer
    than three seeds has one thin line per seed. Columns of `reported`: architecture, fraction,
    attribute, value. Returns the figure and the rows it shows. ValueError for another task or a
    table without its scores.
    """
    need(table, "mutual_benefit", _BENEFIT_COLUMNS)
    if task not in ("understanding", "generation"):
        raise ValueError(f"task {task!r} is not one of understanding, generation.")
    metrics = {
        name: "partial" if task == "understanding" else generation_metric(name) for name in COLOURS
    }
    last = "total" if task == "understanding" else "distance"
    panels = {**_CURVE_PANELS, last: ("total",)}
    read = {name for parts in panels.values() for name in parts}
    chosen = []
    for name, metric in metrics.items():
        own = table[table["architecture"] == name]
        if not (own["metric"] == metric).any():
            continue
        chosen.append(
            own[
                (own["metric"] == metric)
                & own["attribute"].isin(
                    read - {"total"} | ({"total"} if task == "understanding" else set())
                )
            ]
        )
        if task == "generation":
            chosen.append(
                own[own["metric"].isin([_DISTANCES[metric], f"{_DISTANCES[metric]}_floor"])]
            )
    if not chosen:
        raise ValueError(f"The table of figure 'mutual_benefit' has no score of {task}.")
    drawn = pd.concat(chosen)
    shown = known_architectures(drawn)
    first = drawn["fraction"].min()
    figure = Figure(figsize=(PAGE, 0.95 + 1.35 * len(shown)))
    grid = figure.subplots(len(shown), 5, squeeze=False, sharex=True)
    for line, name in zip(grid, shown, strict=True):
        own, metric = drawn[drawn["architecture"] == name], metrics[name]
        for axes, (title, attributes) in zip(line, panels.items(), strict=True):
            if title == "distance":
                distance, floor = (
                    own[own["metric"] == _DISTANCES[metric] + end] for end in ("", "_floor")
                )
                _curves(axes, distance)
                axes.axhline(floor["value"].mean(), **REFERENCES["floor"])
                axes.set_ylim(0, 1.08 * distance["value"].max() if len(distance) else None)
                title = "Fréchet distance"
            else:
                _curves(axes, own[(own["metric"] == metric) & own["attribute"].isin(attributes)])
                axes.axhline(
                    np.mean([chance(metric, part) for part in attributes]), **REFERENCES["chance"]
                )
                axes.set_ylim(0, 1.04)
                axes.tick_params(labelleft=axes is line[0])
                if reported is not None:
                    known = reported[
                        (reported["architecture"] == name) & (reported["attribute"] == title)
                    ]
                    axes.plot(known["fraction"], known["value"], "D", **REPORTED)
            if name == shown[0]:
                axes.set_title(
                    "battery within 10" if (task, title) == ("generation", "battery") else title
                )
        line[0].set_ylabel(
            name
            if task == "understanding"
            else f"{name}\n{_LABELS[metric].removeprefix('read back ')}"
        )
    for axes in grid[-1]:
        axes.set_xscale("log")
        axes.set_xlim(0.8 * first, 1.15)
        axes.set_xticks([0.02, 0.1, 1] if first < 0.1 else [0.5, 1])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    figure.supxlabel("share of the training data seen (%)", fontsize=8)
    others = [
        Line2D([], [], color="black", linewidth=5, alpha=0.15, label="95 % t interval"),
        Line2D([], [], label="chance", **REFERENCES["chance"]),
    ]
    if task == "generation":
        others.append(Line2D([], [], label="real against real", **REFERENCES["floor"]))
    elif reported is not None and len(reported):
        others.append(
            Line2D([], [], linestyle="", marker="D", label="authors' record (7B)", **REPORTED)
        )
    arms_legend(figure, drawn, *others, names=False, ncols=6)
    return figure, drawn


def _curves(axes: Axes, table: pd.DataFrame) -> None:
    """Draw every arm's learning curve: the mean over attributes and seeds, with its interval.

    An arm with too few seeds for an interval has one thin line per seed instead.
    """
    for architecture, regime in arms_of(table):
        chosen, look = of_arm(table, architecture, regime), look_of(architecture, regime)
        # (fractions, seeds)
        curves = chosen.groupby(["fraction", "seed"])["value"].mean().unstack("seed")
        if curves.shape[1] < INTERVAL_SEEDS:
            for seed in curves:
                axes.plot(curves.index, curves[seed], **look | {"linewidth": 0.6, "marker": ""})
            axes.plot(
                curves.index, curves.mean(axis=1), **look | {"linestyle": "", "markersize": 2.5}
            )
            continue
        means, lows, highs = zip(
            *[mean_interval(line.dropna()) for _, line in curves.iterrows()], strict=True
        )
        axes.fill_between(curves.index, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
        axes.plot(curves.index, means, **look | {"linewidth": 1.0, "markersize": 2.5})


@theme()
def draw_features(opened: OpenedStudy) -> Drawn:
    """Draw the cosine between predicted and true SigLIP features, by the patches' attribute.

    Large marks are free-running: the model predicts each feature from its own earlier ones. Small
    marks are teacher-forced. Grey lines are another watch's features (floor) and the best
    prediction from the request alone (ceiling).
    """
    table = opened.table
    need(table, "mutual_benefit_features", _BENEFIT_COLUMNS)
    last = table[
        (table["fraction"] == table["fraction"].max())
        & table["metric"].str.startswith("feature_cosine")
    ]
    names = [
        name for name in ("all", "weather", "battery", "time") if (last["attribute"] == name).any()
    ]
    if not names:
        raise ValueError(
            "The table of figure 'mutual_benefit_features' has no metric feature_cosine."
        )
    last = last[last["attribute"].isin(names)]
    shown_arms = [
        arm for arm in arms_of(last) if (of_arm(last, *arm)["metric"] == "feature_cosine").any()
    ]
    figure = Figure(figsize=(COLUMN, 2.8))
    axes = figure.subplots()
    for place, name in enumerate(names):
        own = last[last["attribute"] == name]
        for kind in ("floor", "ceiling"):
            values = own.loc[own["metric"] == f"feature_cosine_{kind}", "value"]
            if len(values):
                axes.plot([place - 0.42, place + 0.42], [values.mean()] * 2, **REFERENCES[kind])
        for number, (architecture, regime) in enumerate(shown_arms):
            chosen, look = of_arm(own, architecture, regime), look_of(architecture, regime)
            at = place + 0.72 * ((number + 0.5) / len(shown_arms) - 0.5)
            for metric, shift, size in (
                ("feature_cosine", -0.04, 4),
                ("feature_cosine_forced", 0.04, 2.5),
            ):
                values = chosen.loc[chosen["metric"] == metric, "value"]
                if len(values):
                    draw_mean(axes, at + shift, values, look | {"markersize": size})
    axes.set_xticks(range(len(names)), ["all patches" if name == "all" else name for name in names])
    axes.grid(False, axis="x")
    axes.set(
        xlim=(-0.5, len(names) - 0.5), ylim=(None, 1.03), ylabel="cosine to the target's features"
    )
    others = [
        Line2D([], [], label="another watch", **REFERENCES["floor"]),
        Line2D([], [], label="best from the request", **REFERENCES["ceiling"]),
        Line2D(
            [], [], color="black", linestyle="", marker="o", markersize=2.5, label="teacher-forced"
        ),
    ]
    arms_legend(figure, last[last["metric"] == "feature_cosine"], *others, lines=False, ncols=2)
    return Drawn(figure, last)


@theme()
def draw_time(opened: OpenedStudy) -> Drawn:
    """Draw final scores of hour, minute and second, in answers and in generated watches."""
    table = opened.table
    need(table, "mutual_benefit_time", _BENEFIT_COLUMNS)
    marks = probes_on_inputs(opened.base)
    last = table[
        (table["fraction"] == table["fraction"].max())
        & table["attribute"].isin(ATTRIBUTES["time"].parts)
        & table["metric"].isin(_LABELS)
        & (table["regime"] != "shuffled")
    ]
    if last.empty:
        raise ValueError("The table of figure 'mutual_benefit_time' has no hour, minute or second.")
    panels = {
        "answers": last[last["metric"] == "partial"],
        "generated watches": last[last["metric"] != "partial"],
    }
    panels = {title: chosen for title, chosen in panels.items() if len(chosen)}
    figure = Figure(figsize=(PAGE, 2.9))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, chosen) in zip(grid, panels.items(), strict=True):
        shown_arms = arms_of(chosen)
        for number, (architecture, regime) in enumerate(shown_arms):
            own, look = of_arm(chosen, architecture, regime), look_of(architecture, regime)
            for place, hand in enumerate(ATTRIBUTES["time"].parts):
                at = place + 0.8 * ((number + 0.5) / len(shown_arms) - 0.5)
                draw_mean(
                    axes, at, own.loc[own["attribute"] == hand, "value"], look | {"markersize": 4}
                )
                mark = marks.get(kinds_of(architecture)[0], {}).get(hand)
                if mark is not None and title == "answers":
                    axes.plot([at - 0.04, at + 0.04], [mark] * 2, **REFERENCES["ceiling"])
        axes.axhline(0.5, **REFERENCES["chance"])
        axes.set_xticks(range(3), ATTRIBUTES["time"].parts)
        axes.grid(False, axis="x")
        axes.set(title=title, xlim=(-0.5, 2.5), ylim=(min(0.4, last["value"].min() - 0.05), 1.02))
    grid[0].set_ylabel("partial credit")
    others = [*spread_handles(last), Line2D([], [], label="chance", **REFERENCES["chance"])]
    if any(marks.values()):
        others.append(Line2D([], [], label="probe on the input", **REFERENCES["ceiling"]))
    arms_legend(figure, last, *others, lines=False, ncols=5)
    return Drawn(figure, last, {"probes on the inputs": marks})


def probes_on_inputs(base: Profile) -> dict[str, dict[str, float]]:
    """Return a probe's partial credit by space and attribute, from the encoders' model cards."""
    spec, marks = base.spec, {}
    for space, network, start in (
        ("VQ", spec.model.vq_tokenizer, "| codes, partial credit"),
        ("SigLIP", spec.model.semantic_encoder, "| features, partial credit"),
    ):
        card = Path(resolve(network)) / "README.md"
        text = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
        lines = [line.split("|")[3:-1] for line in text if line.startswith(start)]
        marks[space] = (
            dict(zip(reader_classes(), map(float, lines[0]), strict=True)) if lines else {}
        )
    return marks


def draw_generated(opened: OpenedStudy) -> Drawn:
    """Draw the first watches that seed 0 generates, below their requests, one arm per row."""
    spec = opened.base.spec
    images = {
        "watch": render_batch(
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
    return Drawn(draw_watches(shown[:SHOWN_REQUESTS], images), shown)


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
    return figure


def paired_benefits(table: pd.DataFrame) -> pd.DataFrame:
    """Return unified minus each task alone, by architecture, attribute and part of training.

    Columns: architecture, baseline, metric, attribute, when ("while learning", "at the end"),
    difference, low, high (95 % t interval), seeds.
    """
    rows = []
    for name in known_architectures(table):
        own = table[(table["architecture"] == name) & (table["regime"] != "shuffled")]
        for baseline, metric in (
            ("understanding", "partial"),
            ("generation", generation_metric(name)),
        ):
            for attribute in ("total", "time", *list(ATTRIBUTES)[1:]):
                for when, part in (
                    ("while learning", own),
                    ("at the end", own[own["fraction"] == 1]),
                ):
                    by_seed = benefit(part, baseline, metric, attribute)
                    rows.append(
                        (
                            name,
                            baseline,
                            metric,
                            attribute,
                            when,
                            *mean_interval(by_seed),
                            len(by_seed),
                        )
                    )
    return pd.DataFrame(
        rows,
        columns=[
            "architecture",
            "baseline",
            "metric",
            "attribute",
            "when",
            "difference",
            "low",
            "high",
            "seeds",
        ],
    )


def draw_differences(opened: OpenedStudy) -> Drawn:
    """Draw unified minus each task alone, paired by seed."""
    need(opened.table, "mutual_benefit_differences", _BENEFIT_COLUMNS)
    return Drawn(draw_paired(differences := paired_benefits(opened.table)), differences)


@theme()
def draw_paired(table: pd.DataFrame) -> Figure:
    """Draw the rows of `paired_benefits`; intervals are cut off at the panel's edges."""
    baselines = list(dict.fromkeys(table["baseline"]))
    attributes = [
        name for name in ("total", "time", *list(ATTRIBUTES)[1:]) if name in set(table["attribute"])
    ]
    architectures = known_architectures(table)
    times = list(dict.fromkeys(table["when"]))
    reach = max(0.05, 1.3 * table["difference"].abs().max())
    figure = Figure(
        figsize=(PAGE, 1.0 + 0.09 * len(attributes) * max(3, len(architectures) * len(times)))
    )
    grid = figure.subplots(1, len(baselines), squeeze=False, sharey=True)[0]
    marks = [(name, when) for name in architectures for when in times]
    for axes, baseline in zip(grid, baselines, strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for number, (name, when) in enumerate(marks):
            chosen = table[
                (table["baseline"] == baseline)
                & (table["architecture"] == name)
                & (table["when"] == when)
            ]
            at = [
                attributes.index(attribute) + 0.8 * ((number + 0.5) / len(marks) - 0.5)
                for attribute in chosen["attribute"]
            ]
            low, high = (
                chosen[side].fillna(chosen["difference"]).clip(-2, 2) for side in ("low", "high")
            )
            face = COLOURS[name] if when == times[0] else "white"
            axes.hlines(at, low, high, color=COLOURS[name], linewidth=0.8)
            axes.plot(
                chosen["difference"],
                at,
                "o",
                color=COLOURS[name],
                markersize=3,
                markerfacecolor=face,
            )
        axes.set(
            title=f"unified {MINUS} {baseline}",
            xlim=(-reach, reach),
            ylim=(len(attributes) - 0.5, -0.5),
            xlabel={"understanding": "partial credit", "generation": "read back"}.get(
                baseline, "score"
            ),
        )
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(attributes)), [NAMES.get(name, name) for name in attributes])
    handles = colour_handles(architectures)
    handles += [
        Line2D(
            [],
            [],
            color="black",
            marker="o",
            markersize=3,
            linewidth=0.8,
            label=when,
            markerfacecolor="black" if when == times[0] else "white",
        )
        for when in times
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
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
        else (f"{text} The control, with shuffled requests, ends at {control:.3f}.")
    )


def tell_generation(opened: OpenedStudy) -> str:
    """Say whether unified training beats generation alone."""
    control = _mean_at(opened.table, "shuffled", "read_back", "total", "VQ-VQ")
    unified = _mean_at(opened.table, "unified", "read_back", "total", "VQ-VQ")
    text = (
        f"Unified minus generation alone, total while learning: "
        f"{tell_verdicts(opened, 'generation gains')}."
    )
    return (
        text
        if np.isnan(control)
        else (
            f"{text} Requests paired with other watches teach nothing: VQ-VQ then reads back "
            f"{control:.3f}, against {unified:.3f} with the true ones, where guessing has "
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
        f"has {cosine('feature_cosine_floor', 'unified'):.3f}, and no answer to the request alone "
        f"can have more than {cosine('feature_cosine_ceiling', 'none'):.3f}."
    )


def tell_time(opened: OpenedStudy) -> str:
    """Say how well models read each hand at the end."""
    found = [
        f"{hand} {_mean_at(opened.table, 'unified', 'partial', hand):.2f} (understanding alone "
        f"{_mean_at(opened.table, 'understanding', 'partial', hand):.2f})"
        for hand in ATTRIBUTES["time"].parts
    ]
    return (
        "Partial credit of unified models' answers at the end, mean over architectures: "
        f"{', '.join(found)}. A guess has .5. What a small probe reads of the same input after "
        "8,000 watches is a mark, not a ceiling."
    )


def tell_generated(opened: OpenedStudy) -> str:
    """Say how to read the pictures."""
    return (
        "A request names the time, and each other attribute half of the time; what it leaves open "
        "may differ from the watch above. Colour is never requested. SigLIP output is shown "
        "through a small decoder of features, which no score goes through."
    )


def tell_differences(opened: OpenedStudy) -> str:
    """Count the intervals above and below zero."""
    found = paired_benefits(opened.table)
    text = []
    for baseline, own in found[found["when"] == "while learning"].groupby("baseline", sort=False):
        above, below = (own["low"] > 0).sum(), (own["high"] < 0).sum()
        text.append(
            f"Against {baseline} alone, while learning: {above} of {len(own)} intervals lie above "
            f"zero, {below} below it."
        )
    return " ".join(text)


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
        "mutual_benefit_time": draw_time,
        "mutual_benefit_watches": draw_generated,
        "mutual_benefit_differences": draw_differences,
    },
    findings={
        "mutual_benefit": tell_understanding,
        "mutual_benefit_generation": tell_generation,
        "mutual_benefit_features": tell_features,
        "mutual_benefit_time": tell_time,
        "mutual_benefit_watches": tell_generated,
        "mutual_benefit_differences": tell_differences,
    },
)
