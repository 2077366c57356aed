"""Figures of what one task gains from the other (paper sections 4 and 4.2), one function each.

Belongs here: tidy DataFrame -> Figure for notebooks 02 and 03. Not here: style and saving (`figures.py`), the numbers
behind a figure (`experiments.py`, `claims.py`). Tables are those of `experiments.run`.
"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.claims import chance, exchange_rates, generation_metric
from uvlm_core.figures import (
    AUTHORS,
    COLOURS,
    COLUMN,
    LINES,
    MINUS,
    NAMES,
    PAGE,
    REFERENCES,
    arms_of,
    draw_picture,
    draw_points,
    look_of,
    need,
    of_arm,
    theme,
)
from uvlm_core.scoring import TIME_PARTS
from uvlm_core.smart_watch import ATTRIBUTES
from uvlm_core.statistics import mean_interval

TIMES = "\N{MULTIPLICATION SIGN}"
_SCORES = ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value")
_PANELS = {"weather": ("weather",), "corners": ("weather_corner", "battery_corner"), "battery": ("battery",),
           "time": ("time",)}  # title -> attributes whose mean is drawn
_DISTANCES = {"read_back": "reader_frechet", "feature_read_back": "feature_frechet"}
_LABELS = {"partial": "partial credit", "read_back": "read back from pixels",
           "feature_read_back": "read back from features"}


@theme()
def mutual_benefit(table: pd.DataFrame, task: str, authors: pd.DataFrame | None = None) -> Figure:
    """Section 4, figure 3: scores of one task over the share of the data seen, an architecture a row.

    `task` is "understanding" (partial credit of answers) or "generation" (attributes read back from what was generated,
    and its Frechet distance to real watches, each in the architecture's own output space). Lines are means over seeds,
    bands their 95 % t intervals, cut off at the panel's edges. `authors` is the authors' record: architecture,
    fraction, attribute, value.
    """
    need(table, "mutual_benefit", _SCORES)
    if task not in ("understanding", "generation"):
        raise ValueError(f"task {task!r} is not one of understanding, generation.")
    metrics = {name: "partial" if task == "understanding" else generation_metric(name) for name in COLOURS}
    shown = [name for name, metric in metrics.items()
             if ((table["architecture"] == name) & (table["metric"] == metric)).any()]
    if not shown:
        raise ValueError(f"The table of figure 'mutual_benefit' has no score of {task}.")
    drawn = table[table["architecture"].isin(shown) & table["metric"].isin(metrics.values())]
    first = drawn["fraction"].min()
    last = "total" if task == "understanding" else "distance"
    figure = Figure(figsize=(PAGE, 0.95 + 1.35 * len(shown)))
    grid = figure.subplots(len(shown), 5, squeeze=False, sharex=True)
    for line, name in zip(grid, shown, strict=True):
        own, metric = table[table["architecture"] == name], metrics[name]
        for axes, (title, attributes) in zip(line, {**_PANELS, last: ("total",)}.items(), strict=True):
            if title == "distance":
                distance, floor = (own[own["metric"] == _DISTANCES[metric] + end] for end in ("", "_floor"))
                _curves(axes, distance)
                axes.axhline(floor["value"].mean(), **REFERENCES["floor"])
                axes.set_ylim(0, 1.08 * distance["value"].max() if len(distance) else None)
                title = "Fréchet distance"
            else:
                _curves(axes, own[(own["metric"] == metric) & own["attribute"].isin(attributes)])
                axes.axhline(np.mean([chance(metric, part) for part in attributes]), **REFERENCES["chance"])
                axes.set_ylim(0, 1.04)
                axes.tick_params(labelleft=axes is line[0])
                if authors is not None and task == "understanding":
                    known = authors[(authors["architecture"] == name) & (authors["attribute"] == title)]
                    axes.plot(known["fraction"], known["value"], "D", **AUTHORS)
            if name == shown[0]:
                axes.set_title("battery within 10" if (task, title) == ("generation", "battery") else title)
        line[0].set_ylabel(name if task == "understanding" else f"{name}\n{_LABELS[metric].removeprefix('read back ')}")
    for axes in grid[-1]:
        axes.set_xscale("log")
        axes.set_xlim(0.8 * first, 1.15)
        axes.set_xticks([0.02, 0.1, 1] if first < 0.1 else [0.5, 1])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    figure.supxlabel("share of the training data seen (%)", fontsize=8)
    others = [Line2D([], [], color="black", linewidth=5, alpha=0.15, label="95 % t interval"),
              Line2D([], [], label="chance", **REFERENCES["chance"])]
    if task == "generation":
        others.append(Line2D([], [], label="real against real", **REFERENCES["floor"]))
    elif authors is not None and len(authors):
        others.append(Line2D([], [], linestyle="", marker="D", label="authors' record", **AUTHORS))
    _legend(figure, drawn, *others, names=False, ncols=6)
    return figure


@theme()
def mutual_benefit_time(table: pd.DataFrame, ceiling: dict[str, dict[str, float]] | None = None) -> Figure:
    """Hour, minute and second apart at the last fraction: answers, and what is read back from generated watches.

    `ceiling` says what a probe reads from an input space ("VQ", "SigLIP"), by hand.
    """
    need(table, "mutual_benefit_time", _SCORES)
    last = table[(table["fraction"] == table["fraction"].max()) & table["attribute"].isin(TIME_PARTS)
                 & table["metric"].isin(_LABELS) & (table["regime"] != "shuffled")]
    if last.empty:
        raise ValueError("The table of figure 'mutual_benefit_time' has no hour, minute or second.")
    panels = {"answers": last[last["metric"] == "partial"], "generated watches": last[last["metric"] != "partial"]}
    panels = {title: scores for title, scores in panels.items() if len(scores)}
    figure = Figure(figsize=(PAGE, 2.9))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, scores) in zip(grid, panels.items(), strict=True):
        arms = arms_of(scores)
        for number, (architecture, regime) in enumerate(arms):
            chosen, look = of_arm(scores, architecture, regime), look_of(architecture, regime) | {"linestyle": ""}
            for place, hand in enumerate(TIME_PARTS):
                values = chosen.loc[chosen["attribute"] == hand, "value"]
                mean, low, high = mean_interval(values)
                at = place + 0.8 * ((number + 0.5) / len(arms) - 0.5)
                axes.plot([at, at], [low, high], color=look["color"], linewidth=0.8)
                axes.plot(at, mean, **look | {"markersize": 4})
                mark = (ceiling or {}).get(architecture.split("-")[0], {}).get(hand)
                if mark is not None and title == "answers":
                    axes.plot([at - 0.04, at + 0.04], [mark] * 2, **REFERENCES["ceiling"])
        axes.axhline(0.5, **REFERENCES["chance"])
        axes.set_xticks(range(3), TIME_PARTS)
        axes.grid(False, axis="x")
        axes.set(title=title, xlim=(-0.5, 2.5), ylim=(min(0.4, last["value"].min() - 0.05), 1.02))
    grid[0].set_ylabel("partial credit")
    others = [Line2D([], [], color="black", linewidth=0.8, label="95 % t interval"),
              Line2D([], [], label="chance", **REFERENCES["chance"])]
    if ceiling:
        others.append(Line2D([], [], label="probe on the input", **REFERENCES["ceiling"]))
    _legend(figure, last, *others, lines=False, ncols=5)
    return figure


@theme()
def mutual_benefit_features(table: pd.DataFrame) -> Figure:
    """Models with SigLIP output at the last fraction: cosine of their features to the target's, on the patches that
    bear an attribute.

    Full-size marks: drawn, each feature from the model's own before it. Small: predicted from the true ones before it
    (feature_cosine_forced). Grey: another watch (feature_cosine_floor), and the best that follows from the request
    alone (feature_cosine_ceiling, in any row).
    """
    need(table, "mutual_benefit_features", _SCORES)
    last = table[(table["fraction"] == table["fraction"].max()) & table["metric"].str.startswith("feature_cosine")]
    names = [name for name in ("all", "weather", "battery", "time") if (last["attribute"] == name).any()]
    if not names:
        raise ValueError("The table of figure 'mutual_benefit_features' has no cosine of features.")
    arms = [arm for arm in arms_of(last) if (of_arm(last, *arm)["metric"] == "feature_cosine").any()]
    figure = Figure(figsize=(COLUMN, 2.8))
    axes = figure.subplots()
    for place, name in enumerate(names):
        own = last[last["attribute"] == name]
        for kind in ("floor", "ceiling"):
            values = own.loc[own["metric"] == f"feature_cosine_{kind}", "value"]
            if len(values):
                axes.plot([place - 0.42, place + 0.42], [values.mean()] * 2, **REFERENCES[kind])
        for number, (architecture, regime) in enumerate(arms):
            chosen, look = of_arm(own, architecture, regime), look_of(architecture, regime) | {"linestyle": ""}
            at = place + 0.72 * ((number + 0.5) / len(arms) - 0.5)
            for metric, shift, size in (("feature_cosine", -0.04, 4), ("feature_cosine_forced", 0.04, 2.5)):
                values = chosen.loc[chosen["metric"] == metric, "value"]
                if len(values):
                    mean, low, high = mean_interval(values)
                    axes.plot([at + shift] * 2, [low, high], color=look["color"], linewidth=0.8)
                    axes.plot(at + shift, mean, **look | {"markersize": size})
    axes.set_xticks(range(len(names)), ["all patches" if name == "all" else name for name in names])
    axes.grid(False, axis="x")
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(None, 1.03), ylabel="cosine to the target's features")
    others = [Line2D([], [], label="another watch", **REFERENCES["floor"]),
              Line2D([], [], label="best from the request", **REFERENCES["ceiling"]),
              Line2D([], [], color="black", linestyle="", marker="o", markersize=2.5, label="given the true ones")]
    _legend(figure, last[last["metric"] == "feature_cosine"], *others, lines=False, ncols=2)
    return figure


@theme()
def mutual_benefit_watches(table: pd.DataFrame, images: dict[str, np.ndarray]) -> Figure:
    """Generated watches beside their requests, an arm a row.

    `table` has the column request, one row per column of the figure. `images` gives by row name, in order, uint8 arrays
    (requests, height, width, 3).
    """
    need(table, "mutual_benefit_watches", ("request",))
    if not images or any(len(pictures) < len(table) for pictures in images.values()):
        raise ValueError(f"Figure 'mutual_benefit_watches' needs {len(table)} images for each of at least one arm.")
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


@theme()
def mutual_benefit_differences(table: pd.DataFrame) -> Figure:
    """Unified minus each task alone, paired by seed: mean and 95 % t interval, cut off at the panel's edges.

    Columns: architecture, baseline, metric, attribute, when ("while learning", "at the end"), difference, low, high, p,
    seeds.
    """
    columns = ("architecture", "baseline", "metric", "attribute", "when", "difference", "low", "high")
    need(table, "mutual_benefit_differences", columns)
    baselines = list(dict.fromkeys(table["baseline"]))
    attributes = [name for name in ("total", "time", *TIME_PARTS, *ATTRIBUTES[1:]) if name in set(table["attribute"])]
    architectures = [name for name in COLOURS if (table["architecture"] == name).any()]
    times = list(dict.fromkeys(table["when"]))
    reach = max(0.05, 1.3 * table["difference"].abs().max())
    figure = Figure(figsize=(PAGE, 1.0 + 0.09 * len(attributes) * max(3, len(architectures) * len(times))))
    grid = figure.subplots(1, len(baselines), squeeze=False, sharey=True)[0]
    marks = [(name, when) for name in architectures for when in times]
    for axes, baseline in zip(grid, baselines, strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for number, (name, when) in enumerate(marks):
            chosen = table[(table["baseline"] == baseline) & (table["architecture"] == name) & (table["when"] == when)]
            at = [attributes.index(attribute) + 0.8 * ((number + 0.5) / len(marks) - 0.5)
                  for attribute in chosen["attribute"]]
            low, high = (chosen[side].fillna(chosen["difference"]).clip(-2, 2) for side in ("low", "high"))
            face = COLOURS[name] if when == times[0] else "white"
            axes.hlines(at, low, high, color=COLOURS[name], linewidth=0.8)
            axes.plot(chosen["difference"], at, "o", color=COLOURS[name], markersize=3, markerfacecolor=face)
        axes.set(title=f"unified {MINUS} {baseline}", xlim=(-reach, reach), ylim=(len(attributes) - 0.5, -0.5),
                 xlabel={"understanding": "partial credit", "generation": "read back"}.get(baseline, "score"))
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(attributes)), [NAMES.get(name, name) for name in attributes])
    handles = [Line2D([], [], color=COLOURS[name], linewidth=3, label=name) for name in architectures]
    handles += [Line2D([], [], color="black", marker="o", markersize=3, linewidth=0.8, label=when,
                       markerfacecolor="black" if when == times[0] else "white") for when in times]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


@theme()
def data_scaling(table: pd.DataFrame, rows: int) -> Figure:
    """Section 4.2, figure 5: one task's rows stay at `rows`, the other's grow from none to three times as many.

    Further columns of `table`: understanding_rows, generation_rows, batch_counts.
    """
    need(table, "data_scaling", (*_SCORES, "understanding_rows", "generation_rows", "batch_counts"))
    last = table[table["fraction"] == 1]
    answers = last[(last["understanding_rows"] == rows) & (last["metric"] == "partial")
                   & (last["batch_counts"] == "understanding")].assign(times=lambda t: t["generation_rows"] / rows)
    drawn = last[(last["generation_rows"] == rows) & (last["batch_counts"] == "generation")
                 & last["metric"].isin(_DISTANCES)].assign(times=lambda t: t["understanding_rows"] / rows)
    figure = Figure(figsize=(PAGE, 2.5))
    grid = figure.subplots(1, 3)
    for axes, chosen, attribute, grown in zip(grid, (answers, answers, drawn), ("total", "time", "total"),
                                              ("generation", "generation", "understanding"), strict=True):
        chosen = chosen[chosen["attribute"] == attribute]
        names = [name for name in COLOURS if (chosen["architecture"] == name).any()]
        for number, name in enumerate(names):
            own = chosen[chosen["architecture"] == name]
            shift = 0.05 * (number - (len(names) - 1) / 2)
            draw_points(axes, own["times"] + shift, own["value"], {"color": COLOURS[name], "marker": "o"})
        if len(chosen):
            axes.axhline(chance(chosen["metric"].iloc[0], attribute), **REFERENCES["chance"])
        kind = "read back" if grown == "understanding" else "partial credit"
        axes.set(xlabel=f"{grown} rows ({TIMES} {rows:,})", title=f"{attribute}, {kind}", ylim=(0, 1.04))
    grid[0].set_ylabel("score at the end of training")
    names = [name for name in COLOURS if (last["architecture"] == name).any()]
    handles = [Line2D([], [], color=COLOURS[name], marker="o", label=name) for name in names]
    figure.legend(handles=[*handles, Line2D([], [], label="chance", **REFERENCES["chance"])],
                  loc="outside upper center", ncols=5)
    return figure


@theme()
def data_scaling_exchange(table: pd.DataFrame, rows: int, paper: float) -> Figure:
    """Section 4.2: how many understanding rows one generation row is worth; left the scale on which that is read.

    `table` is that of `data_scaling`; `paper` is the authors' rate, for SigLIP-VQ.
    """
    need(table, "data_scaling_exchange", (*_SCORES, "understanding_rows", "generation_rows", "batch_counts"))
    last = table[(table["fraction"] == 1) & (table["metric"] == "partial") & (table["attribute"] == "total")]
    figure = Figure(figsize=(PAGE, 2.6))
    scale, rate = figure.subplots(1, 2, width_ratios=(1.3, 1))
    for name in [name for name in COLOURS if (last["architecture"] == name).any()]:
        own = last[last["architecture"] == name]
        alone = of_arm(own, name, "understanding")
        draw_points(scale, alone["understanding_rows"], alone["value"], look_of(name, "understanding"))
        unified = own[(own["regime"] == "unified") & (own["understanding_rows"] == rows)
                      & (own["batch_counts"] == "understanding")]
        means = unified.groupby("generation_rows")["value"].mean()
        scale.plot([rows] * len(means), means, **look_of(name, "unified") | {"linestyle": ""})
        found = exchange_rates(own, rows)
        draw_points(rate, found["generation_rows"], found["rate"], look_of(name, "unified"))
    scale.set(xscale="log", xlabel="understanding rows", ylabel="total, partial credit", title="the scale")
    scale.axhline(chance("partial", "total"), **REFERENCES["chance"])
    counts = last.loc[last["understanding_rows"] > 0, "understanding_rows"]
    scale.set_xticks(sorted({counts.min(), rows, counts.max()}))
    scale.set_xticks([], minor=True)
    scale.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    rate.axhline(0, color="black", linewidth=0.6)
    rate.axhline(paper, color=AUTHORS["color"], linestyle=(0, (5, 2)), linewidth=1)
    low, high = rate.dataLim.y0, rate.dataLim.y1
    rate.set(xlabel="generation rows added", ylabel="understanding rows a row", title="rate of exchange",
             ylim=(max(-3.0, min(-0.4, low) - 0.1), min(4.0, max(paper, high) + 0.3)))
    names = [name for name in COLOURS if (last["architecture"] == name).any()]
    handles = [Line2D([], [], color=COLOURS[name], linewidth=3, label=name) for name in names]
    handles += [Line2D([], [], color="black", label=regime, **LINES[regime] | extra) for regime, extra in (
        ("understanding", {"markerfacecolor": "white"}), ("unified", {}))]
    handles += [Line2D([], [], label="chance", **REFERENCES["chance"]),
                Line2D([], [], color=AUTHORS["color"], linestyle=(0, (5, 2)), linewidth=1, label="authors' record")]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


@theme()
def data_scaling_matching(verdicts: pd.DataFrame) -> Figure:
    """Pitfall 1: unified minus understanding-only under each rule of matching, as `claims.judge_matching` has it."""
    need(verdicts, "data_scaling_matching", ("architecture", "matching", "difference", "low", "high"))
    rules = list(dict.fromkeys(verdicts["matching"]))
    names = [name for name in COLOURS if (verdicts["architecture"] == name).any()]
    figure = Figure(figsize=(COLUMN, 2.5))
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.6)
    for number, name in enumerate(names):
        own = verdicts[verdicts["architecture"] == name]
        at = [rules.index(rule) + 0.6 * ((number + 0.5) / len(names) - 0.5) for rule in own["matching"]]
        axes.vlines(at, own["low"], own["high"], color=COLOURS[name], linewidth=0.8)
        axes.plot(at, own["difference"], "o", color=COLOURS[name], label=name)
    axes.set_xticks(range(len(rules)), [f"same {rule}" for rule in rules])
    reach = max(0.05, 2.5 * verdicts["difference"].abs().max())
    axes.set(ylim=(-reach, reach), xlim=(-0.5, len(rules) - 0.5), ylabel=f"unified {MINUS} understanding\ntotal")
    axes.grid(False, axis="x")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _legend(figure: Figure, table: pd.DataFrame, *others: Line2D, lines: bool = True, names: bool = True,
            ncols: int = 3) -> None:
    """One legend above the panels: a table's architectures (in the title if it is one), its regimes, other entries."""
    arms = arms_of(table)
    known = list(dict.fromkeys(name for name, _ in arms))
    one = len(known) == 1
    handles = [] if one or not names else [Line2D([], [], color=COLOURS[name], linewidth=3, label=name)
                                           for name in known]
    for regime in [regime for regime in LINES if regime in {regime for _, regime in arms}]:
        look = look_of(known[0], regime) | ({} if one else {"color": "black"}) | ({} if lines else {"linestyle": ""})
        handles.append(Line2D([], [], label=regime, **look))
    figure.legend(handles=[*handles, *others], loc="outside upper center", ncols=ncols, columnspacing=1.2,
                  title=known[0] if one else None)


def _curves(axes: Axes, table: pd.DataFrame) -> None:
    """Learning curves of every arm: the mean over seeds of the table's attributes, with its interval as a band."""
    for architecture, regime in arms_of(table):
        chosen, look = of_arm(table, architecture, regime), look_of(architecture, regime)
        curves = chosen.groupby(["fraction", "seed"])["value"].mean().unstack("seed")  # (fractions, seeds)
        means, lows, highs = zip(*[mean_interval(line.dropna()) for _, line in curves.iterrows()], strict=True)
        axes.fill_between(curves.index, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
        axes.plot(curves.index, means, **look | {"linewidth": 1.0, "markersize": 2.5})
