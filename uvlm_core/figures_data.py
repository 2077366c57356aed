"""Figures of the data and of the frozen networks (paper section 3), one function each.

Belongs here: tidy DataFrame -> Figure for notebooks 00 and 01. Not here: style and saving (`figures.py`).
"""

from dataclasses import fields

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from uvlm_core.figures import COLUMN, GREYS, NAMES, PAGE, REFERENCES, draw_picture, need, theme
from uvlm_core.smart_watch import ATTRIBUTES, CORNERS, WEATHERS, Watch, render


@theme()
def data_gallery(table: pd.DataFrame) -> Figure:
    """Section 3: watches by weather, battery level and corners, at both sizes. One watch a row of `table`.

    Columns: panel, size (px), row, column, and the fields of `Watch`. The panel "grid" has the weather by rows and the
    battery level by columns, the panel "line" has watches with what is asked about each.
    """
    need(table, "data_gallery", ("panel", "size", "row", "column", *(field.name for field in fields(Watch))))
    small, large = (table[table["panel"] == panel] for panel in ("grid", "line"))
    figure = Figure(figsize=(PAGE, 5.2))
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    grid = above.subplots(small["row"].max() + 1, small["column"].max() + 1, squeeze=False)
    for _, line in small.iterrows():
        axes = draw_picture(grid[line["row"], line["column"]], np.asarray(render(_watch(line), int(line["size"]))))
        if line["row"] == 0:
            axes.set_title(f"battery {line['battery']}%")
        if line["column"] == 0:
            axes.set_ylabel(line["weather"])
    for axes, (_, line) in zip(below.subplots(1, len(large), squeeze=False)[0], large.iterrows(), strict=True):
        watch = _watch(line)
        draw_picture(axes, np.asarray(render(watch, int(line["size"]))))
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
    need(table, "data_statistics", ("statistic", "task", "attribute", "level", "value"))
    figure = Figure(figsize=(PAGE, 3.9))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3.4))
    kinds, ((battery, hands, mentioned), (words, tokens, padding)) = left.subplots(), right.subplots(2, 3)
    shares = table[table["statistic"] == "share"]

    place, ticks = 0, {}
    for attribute, levels in (("weather", WEATHERS), ("weather_corner", CORNERS), ("battery_corner", CORNERS)):
        found = shares[shares["attribute"] == attribute].set_index("level")["value"]
        at = [place + step for step in range(len(levels))]
        kinds.barh(at, [found.get(level, 0.0) for level in levels], color=GREYS[1], height=0.75)
        kinds.plot([1 / len(levels)] * 2, [at[0] - 0.5, at[-1] + 0.5], **REFERENCES["chance"])
        kinds.text(0, at[0] - 0.55, NAMES.get(attribute, attribute), va="bottom", fontsize=7, weight="bold")
        ticks |= dict(zip(at, levels, strict=True))
        place = at[-1] + 2
    kinds.set_yticks(list(ticks), ticks.values())
    kinds.grid(False, axis="y")
    kinds.set(title="icon and corners", xlabel="share of watches", ylim=(place - 1.2, -1.6))

    levels = shares[shares["attribute"] == "battery"].astype({"level": int}).sort_values("level")
    battery.step(levels["level"], 100 * levels["value"], where="mid", color=GREYS[1], linewidth=0.8)
    battery.axhline(100 / 101, **REFERENCES["chance"])
    battery.set(title="battery", xlabel="level (%)", ylabel="% of watches", ylim=(0, None))
    for (part, period), grey in zip((("hour", 12), ("minute", 60), ("second", 60)), GREYS, strict=True):
        levels = shares[shares["attribute"] == part].astype({"level": int}).sort_values("level")
        hands.step(levels["level"] / period, period * levels["value"], where="mid", color=grey, lw=0.8, label=part)
    hands.axhline(1, **REFERENCES["chance"])
    hands.set(title="hands", xlabel="turn", ylabel="density", ylim=(0, max(2.0, 1.5 * hands.dataLim.y1)))
    hands.legend(loc="upper center", ncols=3, handlelength=0.8, columnspacing=0.6, handletextpad=0.3)

    tasks = list(dict.fromkeys(table.loc[table["statistic"] == "tokens", "task"]))
    for number, (task, grey, line) in enumerate(zip(tasks, GREYS, ("-", "--", "-"), strict=False)):
        found = table[(table["statistic"] == "mentioned") & (table["task"] == task)].set_index("attribute")["value"]
        mentioned.barh([place + 0.27 * (number - 1) for place in range(len(ATTRIBUTES))],
                       [found.get(name, 0.0) for name in ATTRIBUTES], height=0.25, color=grey)
        for axes, statistic in ((words, "words"), (tokens, "tokens")):
            found = table[(table["statistic"] == statistic) & (table["task"] == task)].astype({"level": int})
            found = found.sort_values("level")
            axes.plot(found["level"], 100 * found["value"], line, color=grey, linewidth=1, drawstyle="steps-mid",
                      label=task)
    mentioned.set_yticks(range(len(ATTRIBUTES)), [NAMES.get(name, name).replace(" ", "\n") for name in ATTRIBUTES])
    mentioned.grid(False, axis="y")
    mentioned.set(title="rows that mention it", xlabel="share of rows", xlim=(0, 1.05), ylim=(4.6, -0.6))
    words.set(title="words of a row", xlabel="words", ylabel="% of rows", xlim=(0, None), ylim=(0, None))
    tokens.set(title="tokens of a row", xlabel="tokens, image slots too", ylabel="% of rows", xlim=(0, None),
               ylim=(0, None))
    found = table[table["statistic"] == "padding"]
    padding.barh(found["task"], 100 * found["value"], color=GREYS[1], height=0.6)
    padding.axvline(5, **REFERENCES["ceiling"])
    padding.text(4.9, -0.55, "bound", ha="right", va="center", fontsize=7, color="#767676")
    padding.grid(False, axis="y")
    padding.set(title="padding in a batch", xlabel="% of tokens", xlim=(0, max(6, padding.dataLim.x1)))
    padding.set_ylim(2.5, -0.9)
    figure.legend(*tokens.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@theme()
def frozen_networks_vq(table: pd.DataFrame, images: dict[str, np.ndarray]) -> Figure:
    """Section 3: watches, what is left of them in each space, and how often the VQ tokenizer uses each of its codes.

    `table` has the columns code and uses, a row for each code of the codebook; `images` gives by row name uint8 arrays
    (images, height, width, 3), equally many in each.
    """
    need(table, "frozen_networks_vq", ("code", "uses"))
    count = len(next(iter(images.values())))
    figure = Figure(figsize=(PAGE, 0.7 + 0.62 * len(images) * PAGE / count))
    left, right = figure.subfigures(1, 2, width_ratios=(2.4, 1))
    grid, axes = left.subplots(len(images), count, squeeze=False), right.subplots()
    for line, (name, pictures) in zip(grid, images.items(), strict=True):
        for place, picture in zip(line, pictures, strict=True):
            draw_picture(place, picture)
        line[0].set_ylabel(name)
    uses = np.sort(table["uses"].to_numpy())[::-1] / table["uses"].sum()
    axes.step(np.arange(1, len(uses) + 1), 100 * np.where(uses > 0, uses, np.nan), where="mid", color=GREYS[0])
    axes.axhline(100 / len(uses), **REFERENCES["chance"])
    axes.set(title=f"{(uses > 0).sum()} of {len(uses)} codes in use", xlabel="code, by frequency", ylabel="% of uses",
             xlim=(1, len(uses)), yscale="log")  # the white patch's code is a hundred times as frequent as most
    return figure


@theme()
def frozen_networks_readings(table: pd.DataFrame) -> Figure:
    """What a network or a probe reads, by attribute, beside chance: a panel for each network and metric.

    Columns: network, inputs, metric, attribute, value, chance.
    """
    need(table, "frozen_networks_readings", ("network", "inputs", "metric", "attribute", "value", "chance"))
    attributes = list(dict.fromkeys(table["attribute"]))
    inputs = list(dict.fromkeys(table["inputs"]))
    panels = list(dict.fromkeys(zip(table["network"], table["metric"], strict=True)))
    figure = Figure(figsize=(min(PAGE, max(COLUMN, 1.2 + 1.6 * len(panels))), 1.2 + 0.26 * len(attributes)))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (network, metric) in zip(grid, panels, strict=True):
        shown = table[(table["network"] == network) & (table["metric"] == metric)]
        places = [attributes.index(name) for name in shown["attribute"]]
        axes.plot(shown["chance"], places, "|", color="#767676", markersize=11, label="chance")
        for number, (name, marker, grey) in enumerate(zip(inputs, "osD", GREYS, strict=False)):
            found = shown[shown["inputs"] == name]
            at = [attributes.index(name) + 0.5 * ((number + 0.5) / len(inputs) - 0.5) for name in found["attribute"]]
            axes.plot(found["value"], at, marker, color=grey, markersize=4, label=name)
        axes.set(title=f"{network}\n{metric}", xlim=(-0.02, 1.04), ylim=(len(attributes) - 0.5, -0.5))
    grid[0].set_yticks(range(len(attributes)), [NAMES.get(name, name) for name in attributes])
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=2 if len(panels) == 1 else 4)
    return figure


def _watch(line: pd.Series) -> Watch:
    """The watch of a table's row."""
    names = [field.name for field in fields(Watch)]
    values = {name: line[name].item() if hasattr(line[name], "item") else line[name] for name in names}
    return Watch(**values | {"colour": tuple(map(int, line["colour"]))})
