"""Figures: one style for all of them, and one way to save a figure together with its data and its provenance.

Belongs here: the style table, `save_figure`, `provenance`, and one function per figure, tidy DataFrame -> Figure. Not
here: training (`runs.py`), the numbers behind a figure (`experiments.py`, `statistics.py`). Covers every figure of the
paper's sections 3 and 4.

The columns of a figure's data, one value a row: architecture, regime, seed, metric, value, and the factors of that
figure (attribute, fraction, ...).
"""

import json
import os
import re
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.profiles import REGIMES
from uvlm_core.provenance import code_state, versions
from uvlm_core.scoring import CHANCE, TIME_PARTS
from uvlm_core.smart_watch import ATTRIBUTES, CORNERS, WEATHERS, WORLD_VERSION, Watch, render
from uvlm_core.statistics import mean_interval

COLUMN, PAGE = 3.3, 6.9  # inches: the width of a figure in one column, and across both
# Colour says which architecture, line and marker say which regime, in every figure; grey is what no model did. The
# colours are four of seaborn's "colorblind" palette.
COLOURS = {"SigLIP-VQ": "#0173b2", "VQ-VQ": "#de8f05", "SigLIP-SigLIP": "#029e73", "VQ-SigLIP": "#cc78bc"}
LINES = {
    "unified": {"linestyle": "-", "marker": "o"},
    "understanding": {"linestyle": "--", "marker": "s"},
    "generation": {"linestyle": "-.", "marker": "^"},
    "shuffled": {"linestyle": ":", "marker": "x"},  # the control: requests paired with other rows' images
}
REFERENCES = {
    "chance": {"color": "#767676", "linestyle": (0, (1, 1.5)), "linewidth": 1.0},
    "floor": {"color": "#767676", "linestyle": (0, (5, 2)), "linewidth": 1.0},  # real images against real images
    "ceiling": {"color": "#767676", "linestyle": "-", "linewidth": 1.0},  # what a probe reads from the same input
}
_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "figure.titlesize": 9,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "lines.linewidth": 1.4, "lines.markersize": 3.5, "axes.linewidth": 0.6, "grid.linewidth": 0.4,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "figure.figsize": (COLUMN, 2.4), "figure.constrained_layout.use": True,
    "figure.dpi": 100, "savefig.dpi": 200, "savefig.bbox": None, "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text in the PDF stays text
}
_SUFFIXES = (".png", ".pdf", ".csv", ".json")

_GREYS = ("#222222", "#808080", "#bcbcbc")  # of tasks and hands: colours are kept for architectures
_NAMES = {"weather_corner": "weather corner", "battery_corner": "battery corner"}
_CORNER_PAIR = ("weather_corner", "battery_corner")
_DISTANCE = "reader's Fréchet"
_BENEFIT = {  # the panels of `mutual_benefit`: title -> attributes whose mean is drawn
    "partial": {"weather": ("weather",), "corners": _CORNER_PAIR, "battery": ("battery",), "time": ("time",),
                "total": ATTRIBUTES},
    "read_back": {"weather": ("weather",), "corners": _CORNER_PAIR, "battery within 10": ("battery",),
                  "time, partial credit": ("time",), _DISTANCE: ()},
}
_WITHIN_TEN = sum(abs(a - b) <= 10 for a in range(101) for b in range(101)) / 101**2  # two uniform levels
_CHANCE = {"partial": CHANCE, "read_back": CHANCE | {"battery": _WITHIN_TEN}}
_AUTHORS = {"color": "#767676", "markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 4}


def style(architecture: str, regime: str = "unified") -> dict:
    """`color`, `linestyle` and `marker` of an arm, for any of matplotlib's plot functions."""
    for kind, name, table in (("architecture", architecture, COLOURS), ("regime", regime, LINES)):
        if name not in table:
            raise ValueError(f"{kind} {name!r} has no style; those with one are {', '.join(table)}.")
    return {"color": COLOURS[architecture]} | LINES[regime]


@contextmanager
def theme() -> Iterator[None]:
    """The style in which every figure is made: legible at the width of one column, text from 7 pt up."""
    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(_RC)
        yield


def stamp(figure: Figure, profile: str, seeds: int, records: int) -> None:
    """Write into the lower right corner at which scale a figure was made: profile, seeds per arm, runs behind it."""
    text = f"{profile} profile, {_count(seeds, 'seed')}, {_count(records, 'run')}"
    height = 10 / 72 / figure.get_figheight()  # a line of 7 pt, as a fraction of the figure
    layout = figure.get_layout_engine()
    if layout is not None and hasattr(layout, "set"):
        layout.set(rect=(0, height, 1, 1 - height))
    figure.text(0.995, 0.15 * height, text, ha="right", va="bottom", fontsize=7, color="#767676")


def provenance(profile: str, seeds: int, records: Iterable[str] = (), counts: dict[str, int] | None = None,
               **facts) -> dict:
    """Where a figure comes from: what `save_figure` writes beside it.

    Args:
        seeds: seeds per arm.
        records: keys of the run records behind the figure.
        counts: sample counts by name, such as {"test watches": 500}.
        facts: further JSON values by name.

    Returns: these, and the versions, the git commit, whether anything but `figures/` differs from it (both "unknown"
        without git), and the date (UTC).
    """
    return {
        "profile": profile, "seeds": seeds, "records": sorted(records), "counts": dict(counts or {}), **facts,
        "versions": versions("torch", "transformers", "numpy", "matplotlib") | {"world": WORLD_VERSION},
        **code_state(".", ":(exclude)figures"), "date": datetime.now(UTC).date().isoformat(),
    }


def save_figure(figure: Figure, data: pd.DataFrame, name: str, folder: Path | str, provenance: dict) -> dict[str, Path]:
    """Write `name`.png, .pdf, .csv (the data) and .json (the provenance) into `folder`, all of them or none.

    Equal input gives equal bytes: no file holds the time of writing, and numbers are written so that they read back
    exactly. The rows keep their order.

    Returns: the paths by suffix without its dot.
    Raises: ValueError for a name that is more than small letters, digits and underscores, for data without rows, for
        provenance that is not JSON, and for a folder that cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"Figure name {name!r} may hold small letters, digits and underscores only.")
    if data.empty:
        raise ValueError(f"Figure {name!r} has no data: its table is empty.")
    try:
        facts = json.dumps(provenance, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The provenance of figure {name!r} is not JSON: {error}.") from None
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
            parts = {suffix: Path(temporary) / f"{name}{suffix}" for suffix in _SUFFIXES}
            with theme():
                figure.savefig(parts[".png"], metadata={"Software": None})
                figure.savefig(parts[".pdf"], metadata={"CreationDate": None})
            data.to_csv(parts[".csv"], index=False, lineterminator="\n")
            parts[".json"].write_text(facts + "\n", encoding="utf-8")
            for part in parts.values():
                os.replace(part, folder / part.name)
    except OSError as error:
        raise ValueError(f"Figure {name!r} cannot be written to {folder}: {error.strerror or error}.") from error
    return {suffix[1:]: folder / f"{name}{suffix}" for suffix in _SUFFIXES}


@theme()
def data_gallery(table: pd.DataFrame) -> Figure:
    """Section 3: watches by weather, battery level and corners, at both sizes. One watch a row of `table`.

    Columns: panel, size (px), row, column, and the fields of `Watch`. The panel "grid" has the weather by rows and the
    battery level by columns, the panel "line" has watches with what is asked about each.
    """
    _need(table, "data_gallery", ("panel", "size", "row", "column", *(field.name for field in fields(Watch))))
    small, large = (table[table["panel"] == panel] for panel in ("grid", "line"))
    figure = Figure(figsize=(PAGE, 5.2))
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    grid = above.subplots(small["row"].max() + 1, small["column"].max() + 1, squeeze=False)
    for _, line in small.iterrows():
        axes = _picture(grid[line["row"], line["column"]], np.asarray(render(_watch(line), int(line["size"]))))
        if line["row"] == 0:
            axes.set_title(f"battery {line['battery']}%")
        if line["column"] == 0:
            axes.set_ylabel(line["weather"])
    for axes, (_, line) in zip(below.subplots(1, len(large), squeeze=False)[0], large.iterrows(), strict=True):
        watch = _watch(line)
        _picture(axes, np.asarray(render(watch, int(line["size"]))))
        axes.set_xlabel(f"{watch.time}, {watch.weather}, {watch.battery}%\nweather {watch.weather_corner}\n"
                        f"battery {watch.battery_corner}")
    for part, panel in ((above, small), (below, large)):
        part.suptitle(f"{panel['size'].iloc[0]} x {panel['size'].iloc[0]} px")
    return figure


@theme()
def data_statistics(table: pd.DataFrame) -> Figure:
    """Section 3: how the attributes are distributed, what the rows mention, how long they are, how much is padding.

    Columns: statistic, task, attribute, level, value, samples. `share` is the share of watches with a level of an
    attribute, `mentioned` that of a task's rows that mention it; `words` and `tokens` are shares of a task's rows by
    length; `padding` is the share of a batch's tokens, by regime.
    """
    _need(table, "data_statistics", ("statistic", "task", "attribute", "level", "value"))
    figure = Figure(figsize=(PAGE, 3.9))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3.4))
    kinds, ((battery, hands, mentioned), (words, tokens, padding)) = left.subplots(), right.subplots(2, 3)
    shares = table[table["statistic"] == "share"]

    place, ticks = 0, {}
    for attribute, levels in (("weather", WEATHERS), ("weather_corner", CORNERS), ("battery_corner", CORNERS)):
        found = shares[shares["attribute"] == attribute].set_index("level")["value"]
        at = [place + step for step in range(len(levels))]
        kinds.barh(at, [found.get(level, 0.0) for level in levels], color=_GREYS[1], height=0.75)
        kinds.plot([1 / len(levels)] * 2, [at[0] - 0.5, at[-1] + 0.5], **REFERENCES["chance"])
        kinds.text(0, at[0] - 0.55, _NAMES.get(attribute, attribute), va="bottom", fontsize=7, weight="bold")
        ticks |= dict(zip(at, levels, strict=True))
        place = at[-1] + 2
    kinds.set_yticks(list(ticks), ticks.values())
    kinds.grid(False, axis="y")
    kinds.set(title="icon and corners", xlabel="share of watches", ylim=(place - 1.2, -1.6))

    levels = shares[shares["attribute"] == "battery"].astype({"level": int}).sort_values("level")
    battery.step(levels["level"], 100 * levels["value"], where="mid", color=_GREYS[1], linewidth=0.8)
    battery.axhline(100 / 101, **REFERENCES["chance"])
    battery.set(title="battery", xlabel="level (%)", ylabel="% of watches", ylim=(0, None))
    for (part, period), grey in zip((("hour", 12), ("minute", 60), ("second", 60)), _GREYS, strict=True):
        levels = shares[shares["attribute"] == part].astype({"level": int}).sort_values("level")
        hands.step(levels["level"] / period, period * levels["value"], where="mid", color=grey, lw=0.8, label=part)
    hands.axhline(1, **REFERENCES["chance"])
    hands.set(title="hands", xlabel="turn", ylabel="density", ylim=(0, max(2.0, 1.5 * hands.dataLim.y1)))
    hands.legend(loc="upper center", ncols=3, handlelength=0.8, columnspacing=0.6, handletextpad=0.3)

    tasks = list(dict.fromkeys(table.loc[table["statistic"] == "tokens", "task"]))
    for number, (task, grey, line) in enumerate(zip(tasks, _GREYS, ("-", "--", "-"), strict=False)):
        found = table[(table["statistic"] == "mentioned") & (table["task"] == task)].set_index("attribute")["value"]
        mentioned.barh([place + 0.27 * (number - 1) for place in range(len(ATTRIBUTES))],
                       [found.get(name, 0.0) for name in ATTRIBUTES], height=0.25, color=grey)
        for axes, statistic in ((words, "words"), (tokens, "tokens")):
            found = table[(table["statistic"] == statistic) & (table["task"] == task)].astype({"level": int})
            found = found.sort_values("level")
            axes.plot(found["level"], 100 * found["value"], line, color=grey, linewidth=1, drawstyle="steps-mid",
                      label=task)
    mentioned.set_yticks(range(len(ATTRIBUTES)), [_NAMES.get(name, name).replace(" ", "\n") for name in ATTRIBUTES])
    mentioned.grid(False, axis="y")
    mentioned.set(title="rows that mention it", xlabel="share of rows", xlim=(0, 1.05), ylim=(4.6, -0.6))
    words.set(title="words of a row", xlabel="words", ylabel="% of rows", xlim=(0, None), ylim=(0, None))
    tokens.set(title="tokens of a row", xlabel="tokens, image slots too", ylabel="% of rows", xlim=(0, None),
               ylim=(0, None))
    found = table[table["statistic"] == "padding"]
    padding.barh(found["task"], 100 * found["value"], color=_GREYS[1], height=0.6)
    padding.axvline(5, **REFERENCES["ceiling"])
    padding.text(4.9, -0.55, "bound", ha="right", va="center", fontsize=7, color="#767676")
    padding.grid(False, axis="y")
    padding.set(title="padding in a batch", xlabel="% of tokens", xlim=(0, max(6, padding.dataLim.x1)))
    padding.set_ylim(2.5, -0.9)
    figure.legend(*tokens.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@theme()
def frozen_networks_vq(table: pd.DataFrame, watches: np.ndarray, drawn: np.ndarray) -> Figure:
    """Section 3: watches, what the VQ tokenizer makes of them, and how often it uses each of its codes.

    `table` has the columns code and uses, a row for each code of the codebook; `watches` and `drawn` are images and
    their reconstructions, uint8 (images, height, width, 3).
    """
    _need(table, "frozen_networks_vq", ("code", "uses"))
    figure = Figure(figsize=(PAGE, 0.7 + 1.2 * PAGE / len(watches)))
    left, right = figure.subfigures(1, 2, width_ratios=(2.4, 1))
    grid, axes = left.subplots(2, len(watches), squeeze=False), right.subplots()
    for line, name, pictures in zip(grid, ("watch", "reconstruction"), (watches, drawn), strict=True):
        for place, picture in zip(line, pictures, strict=True):
            _picture(place, picture)
        line[0].set_ylabel(name)
    uses = np.sort(table["uses"].to_numpy())[::-1] / table["uses"].sum()
    axes.step(np.arange(1, len(uses) + 1), 100 * np.where(uses > 0, uses, np.nan), where="mid", color=_GREYS[0])
    axes.axhline(100 / len(uses), **REFERENCES["chance"])
    axes.set(title=f"{(uses > 0).sum()} of {len(uses)} codes in use", xlabel="code, by frequency", ylabel="% of uses",
             xlim=(1, len(uses)), yscale="log")  # the white patch's code is a hundred times as frequent as most
    return figure


@theme()
def frozen_networks_readings(table: pd.DataFrame) -> Figure:
    """What a network or a probe reads, by attribute, beside chance: a panel for each network and metric.

    Columns: network, inputs, metric, attribute, value, chance.
    """
    _need(table, "frozen_networks_readings", ("network", "inputs", "metric", "attribute", "value", "chance"))
    attributes = list(dict.fromkeys(table["attribute"]))
    inputs = list(dict.fromkeys(table["inputs"]))
    panels = list(dict.fromkeys(zip(table["network"], table["metric"], strict=True)))
    figure = Figure(figsize=(min(PAGE, max(COLUMN, 1.2 + 1.6 * len(panels))), 1.2 + 0.26 * len(attributes)))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (network, metric) in zip(grid, panels, strict=True):
        shown = table[(table["network"] == network) & (table["metric"] == metric)]
        places = [attributes.index(name) for name in shown["attribute"]]
        axes.plot(shown["chance"], places, "|", color="#767676", markersize=11, label="chance")
        for number, (name, marker, grey) in enumerate(zip(inputs, "osD", _GREYS, strict=False)):
            found = shown[shown["inputs"] == name]
            at = [attributes.index(name) + 0.5 * ((number + 0.5) / len(inputs) - 0.5) for name in found["attribute"]]
            axes.plot(found["value"], at, marker, color=grey, markersize=4, label=name)
        axes.set(title=f"{network}\n{metric}", xlim=(-0.02, 1.04), ylim=(len(attributes) - 0.5, -0.5))
    grid[0].set_yticks(range(len(attributes)), [_NAMES.get(name, name) for name in attributes])
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=2 if len(panels) == 1 else 4)
    return figure


@theme()
def mutual_benefit(table: pd.DataFrame, authors: pd.DataFrame | None = None) -> Figure:
    """Section 4, figure 3: what each task gains from the other, over the share of the data that was seen.

    Above the partial credit of answers, below what the reader finds in generated watches, and their distance to real
    ones. Thin lines are single seeds, the thick one their mean, the bar its 95 % t interval at the last fraction, cut
    off at the panel's edges. `table` is `experiments.run`'s; `authors` holds the authors' record: fraction, attribute,
    value.
    """
    _need(table, "mutual_benefit", ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value"))
    rows = [(metric, panels) for metric, panels in _BENEFIT.items() if (table["metric"] == metric).any()]
    if not rows:
        raise ValueError(f"The table of figure 'mutual_benefit' has no metric {' or '.join(_BENEFIT)}.")
    figure = Figure(figsize=(PAGE, 0.6 + 1.75 * len(rows)))
    grid = figure.subplots(len(rows), 5, squeeze=False, sharex=True)
    for line, (metric, panels) in zip(grid, rows, strict=True):
        for axes, (title, attributes) in zip(line, panels.items(), strict=True):
            if title == _DISTANCE:
                distance, floor = (table[table["metric"] == f"reader_frechet{end}"] for end in ("", "_floor"))
                _curves(axes, distance)
                if len(floor):
                    axes.axhline(floor["value"].mean(), **REFERENCES["floor"])
                axes.set_ylim(0, 1.08 * distance["value"].max() if len(distance) else None)
            else:
                _curves(axes, table[(table["metric"] == metric) & table["attribute"].isin(attributes)])
                axes.axhline(np.mean([_CHANCE[metric][name] for name in attributes]), **REFERENCES["chance"])
                axes.set_ylim(0, 1.04)
                axes.tick_params(labelleft=axes is line[0])
                if authors is not None and metric == "partial" and title in set(authors["attribute"]):
                    found = authors[authors["attribute"] == title]
                    axes.plot(found["fraction"], found["value"], "D", **_AUTHORS)
            axes.set_title(title)
        line[0].set_ylabel({"partial": "understanding\npartial credit", "read_back": "generation\nread back"}[metric])
    for axes in grid[-1]:
        axes.set_xlim(0, 1.2)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100"])
    figure.supxlabel("share of the training data seen (%)", fontsize=8)
    others = [Line2D([], [], color="black", linewidth=0.5, alpha=0.5, label="one seed"),
              Line2D([], [], color="black", linestyle="", marker="|", markersize=8, label="95 % t interval, cut off"),
              Line2D([], [], label="chance", **REFERENCES["chance"]),
              Line2D([], [], label="real against real", **REFERENCES["floor"])]
    if authors is not None and len(authors):
        others.append(Line2D([], [], linestyle="", marker="D", label="authors' record", **_AUTHORS))
    _legend(figure, table, *others, ncols=5)
    return figure


@theme()
def mutual_benefit_time(table: pd.DataFrame, ceiling: dict[str, float] | None = None) -> Figure:
    """Hour, minute and second apart at the last fraction: answers, and what the reader finds in generated watches.

    `table` is `experiments.run`'s; `ceiling` says what a probe reads from the same input, by hand.
    """
    _need(table, "mutual_benefit_time", ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value"))
    last = table[(table["fraction"] == table["fraction"].max()) & table["attribute"].isin(TIME_PARTS)
                 & table["metric"].isin(_BENEFIT)]
    if last.empty:
        raise ValueError("The table of figure 'mutual_benefit_time' has no hour, minute or second.")
    metrics = [metric for metric in _BENEFIT if (last["metric"] == metric).any()]
    figure = Figure(figsize=(COLUMN, 1.6 + 0.5 * len(metrics)))
    grid = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(grid, metrics, strict=True):
        scores = last[last["metric"] == metric]
        arms = _groups(scores)
        for number, (architecture, regime) in enumerate(arms):
            chosen, look = _of(scores, architecture, regime), _look(architecture, regime) | {"linestyle": ""}
            for place, hand in enumerate(TIME_PARTS):
                values = chosen.loc[chosen["attribute"] == hand, "value"]
                mean, low, high = mean_interval(values)
                at = place + 0.75 * ((number + 0.5) / len(arms) - 0.5)
                axes.plot([at, at], [low, high], color=look["color"], linewidth=0.6, alpha=0.6)
                axes.plot([at] * len(values), values, "_", color=look["color"], markersize=7, markeredgewidth=0.8)
                axes.plot(at, mean, markersize=4, **look)
        axes.axhline(0.5, **REFERENCES["chance"])
        for place, hand in enumerate(TIME_PARTS):
            if ceiling and hand in ceiling and metric == "partial":
                axes.plot([place - 0.42, place + 0.42], [ceiling[hand]] * 2, **REFERENCES["ceiling"])
        axes.set_xticks(range(3), TIME_PARTS)
        axes.grid(False, axis="x")
        axes.set_title({"partial": "answers", "read_back": "generated watches"}[metric])
        axes.set(xlim=(-0.5, 2.5), ylim=(min(0.4, last["value"].min() - 0.05), 1.02))
    grid[0].set_ylabel("partial credit")
    others = [Line2D([], [], color="black", linestyle="", marker="_", label="one seed"),
              Line2D([], [], label="chance", **REFERENCES["chance"])]
    if ceiling:
        others.append(Line2D([], [], label="CNN on codes", **REFERENCES["ceiling"]))
    _legend(figure, last, *others, lines=False)
    return figure


@theme()
def mutual_benefit_watches(table: pd.DataFrame, images: dict[str, np.ndarray]) -> Figure:
    """Generated watches beside their requests, an arm a row.

    `table` has the column request, one row per column of the figure. `images` gives by row name, in order, uint8 arrays
    (requests, height, width, 3).
    """
    _need(table, "mutual_benefit_watches", ("request",))
    if not images or any(len(pictures) < len(table) for pictures in images.values()):
        raise ValueError(f"Figure 'mutual_benefit_watches' needs {len(table)} images for each of at least one arm.")
    width = PAGE / len(table)
    figure = Figure(figsize=(PAGE, 1.0 + 0.92 * width * len(images)))
    grid = figure.subplots(len(images), len(table), squeeze=False)
    for line, (name, pictures) in zip(grid, images.items(), strict=True):
        for axes, picture in zip(line, pictures, strict=False):
            _picture(axes, picture)
        line[0].set_ylabel(name)
    for axes, request in zip(grid[0], table["request"], strict=True):
        axes.set_title(textwrap.fill(request, int(width * 72 / 4.1)), fontsize=7, loc="left")
    return figure


@theme()
def mutual_benefit_differences(table: pd.DataFrame) -> Figure:
    """Differences paired by seed between the unified arm and each task alone: mean and 95 % t interval.

    Columns: architecture, baseline, metric, attribute, fraction, difference, low, high, seeds, as
    `statistics.paired_differences` gives them. An interval that leaves the panel is cut off at its edge.
    """
    columns = ("architecture", "baseline", "metric", "attribute", "fraction", "difference", "low", "high")
    _need(table, "mutual_benefit_differences", columns)
    baselines = list(dict.fromkeys(table["baseline"]))
    attributes = [name for name in ("time", *TIME_PARTS, *ATTRIBUTES[1:], "total") if name in set(table["attribute"])]
    fractions = sorted(table["fraction"].unique())
    architectures = [name for name in COLOURS if (table["architecture"] == name).any()]
    reach = max(0.05, 1.3 * table["difference"].abs().max())
    figure = Figure(figsize=(COLUMN if len(baselines) == 1 else PAGE * 0.75, 1.0 + 0.28 * len(attributes)))
    grid = figure.subplots(1, len(baselines), squeeze=False, sharey=True)[0]
    marks = [(name, fraction) for name in architectures for fraction in fractions]
    for axes, baseline in zip(grid, baselines, strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for number, (name, fraction) in enumerate(marks):
            chosen = table[(table["baseline"] == baseline) & (table["architecture"] == name)
                           & (table["fraction"] == fraction)]
            at = [attributes.index(attribute) + 0.7 * ((number + 0.5) / len(marks) - 0.5)
                  for attribute in chosen["attribute"]]
            low, high = (chosen[side].fillna(chosen["difference"]).clip(-2, 2) for side in ("low", "high"))
            strength = (fractions.index(fraction) + 1) / len(fractions)
            axes.hlines(at, low, high, color=COLOURS[name], alpha=strength, linewidth=1)
            axes.plot(chosen["difference"], at, "o", color=COLOURS[name], alpha=strength, markersize=3.5)
        axes.set(title=f"unified \N{MINUS SIGN} {baseline}", xlim=(-reach, reach), ylim=(len(attributes) - 0.5, -0.5),
                 xlabel={"understanding": "partial credit", "generation": "read back"}.get(baseline, "score"))
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(attributes)), [_NAMES.get(name, name) for name in attributes])
    handles = [Line2D([], [], color=COLOURS[name], alpha=(fractions.index(fraction) + 1) / len(fractions), marker="o",
                      linewidth=1, label=f"{name}, {fraction:.0%} of the data") for name, fraction in marks]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(fractions))
    return figure


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _need(table: pd.DataFrame, name: str, columns: tuple[str, ...]) -> None:
    """Refuse a table that a figure cannot be drawn from."""
    for column in columns:
        if column not in table:
            raise ValueError(f"The table of figure {name!r} has no column {column!r}; it needs {', '.join(columns)}.")
    if table.empty:
        raise ValueError(f"The table of figure {name!r} is empty; it needs at least one row.")


def _groups(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The arms (architecture, regime) of a table, in the order of the style tables."""
    found = set(zip(table["architecture"], table["regime"], strict=True))
    return [(name, regime) for name in COLOURS for regime in (*REGIMES, "shuffled") if (name, regime) in found]


def _of(table: pd.DataFrame, architecture: str, regime: str) -> pd.DataFrame:
    """The rows of one arm."""
    return table[(table["architecture"] == architecture) & (table["regime"] == regime)]


def _look(architecture: str, regime: str) -> dict:
    """`style` with hollow marks for an arm of one task: where curves lie on each other, both can be seen."""
    return style(architecture, regime) | ({"markerfacecolor": "white"} if regime in REGIMES[:2] else {})


def _legend(figure: Figure, table: pd.DataFrame, *others: Line2D, lines: bool = True, ncols: int = 3) -> None:
    """One legend above the panels: a table's architectures (in the title if it is one), its regimes, other entries."""
    arms = _groups(table)
    names = list(dict.fromkeys(name for name, _ in arms))
    one = len(names) == 1
    handles = [] if one else [Line2D([], [], color=COLOURS[name], linewidth=3, label=name) for name in names]
    for regime in dict.fromkeys(regime for _, regime in arms):
        look = _look(names[0], regime) | ({} if one else {"color": "black"}) | ({} if lines else {"linestyle": ""})
        handles.append(Line2D([], [], label=regime, **look))
    figure.legend(handles=[*handles, *others], loc="outside upper center", ncols=ncols, columnspacing=1.2,
                  title=names[0] if one else None)


def _curves(axes: Axes, table: pd.DataFrame) -> None:
    """Learning curves of every arm: the mean of the table's attributes for each seed, thin, and over seeds, thick."""
    arms = _groups(table)
    for number, (architecture, regime) in enumerate(arms):
        chosen, look = _of(table, architecture, regime), _look(architecture, regime)
        curves = chosen.groupby(["seed", "fraction"])["value"].mean().unstack("seed")  # (fractions, seeds)
        axes.plot(curves.index, curves, color=look["color"], linewidth=0.5, alpha=0.5)
        axes.plot(curves.index, curves.mean(axis=1), linewidth=1.0, markersize=2.7, **look)
        mean, low, high = mean_interval(curves.iloc[-1].dropna())
        at = curves.index[-1] + 0.17 * (number + 1) / len(arms)  # beside each other, not on top
        axes.plot([at, at], [low, high], color=look["color"], linewidth=1)
        axes.plot(at, mean, markersize=2.7, **look)


def _picture(axes: Axes, image: np.ndarray) -> Axes:
    """An image, pixel by pixel, without axes."""
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set(linewidth=0.4, color="#bcbcbc")
    return axes


def _watch(line: pd.Series) -> Watch:
    """The watch of a table's row."""
    names = [field.name for field in fields(Watch)]
    values = {name: line[name].item() if hasattr(line[name], "item") else line[name] for name in names}
    return Watch(**values | {"colour": tuple(map(int, line["colour"]))})
