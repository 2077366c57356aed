"""Figures of where in a model knowledge is (paper section 4.3, figures 7 and 8), one function each.

Belongs here: tidy DataFrame -> Figure for notebook 06. Not here: style and saving (`figures.py`), the numbers behind a
figure (`probing.py`, `patching.py`).
"""

import itertools
import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.figures import COLOURS, COLUMN, GREYS, LINES, NAMES, PAGE, REFERENCES, draw_points, need, theme
from uvlm_core.probing import CLASSES

_PROBES = ("architecture", "arm", "rate", "seed", "attribute", "place", "accuracy", "control")
_CLASSES = ("#332288", "#ddcc77", "#117733", "#aa4499", "#88ccee")  # of an attribute's values: no architecture has them
_LEVELS = {"random features": ("random features of the pixels", REFERENCES["baseline"]),
           "encoder's tokens": ("encoder's tokens side by side", REFERENCES["ceiling"])}
_GROUPS = {"image": ("-", "o"), "question": ("--", "s"), "last": (":", "^")}  # where to patch


def short(place: str) -> str:
    """A place of a model as a tick's label."""
    return {"encoder": "enc", "adapter": "in"}.get(place, place.removeprefix("layer "))


@theme()
def embedding_probes(table: pd.DataFrame) -> Figure:
    """Accuracy of linear probes of an image's mean token by place in the model: an architecture a row, an attribute a
    column.

    Hollow: models of complete data. `table` as `experiments.probe_table` has it, of one rare attribute at one rate and
    of complete data, with the rows of `experiments.pixel_probes` and `experiments.encoder_probes`.
    """
    need(table, "embedding_probes", _PROBES)
    known = set(table["attribute"])
    if missing := [name for name in CLASSES if name not in known]:
        raise ValueError(f"The table of figure 'embedding_probes' has no probes of {', '.join(missing)}.")
    names = [name for name in COLOURS if (table["architecture"] == name).any()]
    arms = [arm for arm in LINES if (table["arm"] == arm).any()]
    places = list(dict.fromkeys(table["place"].dropna()))
    figure = Figure(figsize=(PAGE, 1.1 + 1.35 * len(names)))
    grid = figure.subplots(len(names), len(CLASSES), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        for axes, (attribute, classes) in zip(line, CLASSES.items(), strict=True):
            own = table[(table["architecture"] == name) & (table["attribute"] == attribute)]
            for number, (arm, whole) in enumerate(itertools.product(arms, (False, True))):
                run = own[(own["arm"] == arm) & ((own["rate"] == 1) == whole)]
                if len(run):
                    aside = 0.06 * (number - len(arms) + 0.5)  # so that bars do not overlap
                    at = run["place"].map(places.index) + aside
                    look = {"color": COLOURS[name]} | LINES[arm] | {"markersize": 2.5}
                    draw_points(axes, at, run["accuracy"],
                                look | ({"markerfacecolor": "white", "alpha": 0.6} if whole else {}))
            control = own.groupby("place")["control"].mean().reindex(places)
            axes.plot(range(len(places)), control, **REFERENCES["floor"])
            axes.axhline(1 / classes, **REFERENCES["chance"])
            for arm, (_, look) in _LEVELS.items():
                level = table[(table["arm"] == arm) & table["architecture"].isin((name, "any"))
                              & (table["attribute"] == attribute)]
                axes.axhline(level["accuracy"].mean(), **look)
            axes.set(ylim=(0, 1.04), xlim=(-0.4, len(places) - 0.6))
            axes.set_xticks(range(len(places)), [short(place) for place in places])
            axes.tick_params(labelleft=axes is line[0], labelbottom=line[0] is grid[-1][0])
            if line[0] is grid[0][0]:
                axes.set_title(NAMES.get(attribute, attribute))
        line[0].set_ylabel(f"{name}\naccuracy")
    figure.supxlabel("place (mean token): encoder, adapter's output, layers of the LM", fontsize=8)
    handles = [Line2D([], [], color="black", label=arm, **LINES[arm]) for arm in arms]
    handles += [Line2D([], [], color="black", linestyle="", marker="o", markerfacecolor="white", label="complete data"),
                Line2D([], [], label="random labels", **REFERENCES["floor"]),
                Line2D([], [], label="chance", **REFERENCES["chance"]),
                *(Line2D([], [], label=words, **look) for words, look in _LEVELS.values())]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


@theme()
def embedding_probes_tokens(table: pd.DataFrame, attribute: str) -> Figure:
    """Selectivity of probes of single image tokens, laid out as in the image: a model a row, a place a column.

    Columns of `table`: model, place, token, attribute, selectivity.
    """
    need(table, "embedding_probes_tokens", ("model", "place", "token", "attribute", "selectivity"))
    own = table[(table["attribute"] == attribute) & ~table["token"].isin(("pooled", "all"))]
    if own.empty:
        raise ValueError(f"The table has no probes of single tokens for attribute {attribute!r}.")
    models, places = list(dict.fromkeys(own["model"])), list(dict.fromkeys(own["place"]))
    figure = Figure(figsize=(PAGE, 0.5 + 1.15 * len(models)))
    grid = figure.subplots(len(models), len(places), squeeze=False)
    for line, model in zip(grid, models, strict=True):
        for axes, place in zip(line, places, strict=True):
            values = own[(own["model"] == model) & (own["place"] == place)]
            side = math.isqrt(len(values))
            image = axes.imshow(values["selectivity"].to_numpy().reshape(side, side), vmin=0, vmax=1, cmap="Greys")
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            if line[0] is grid[0][0]:
                axes.set_title(place)
        line[0].set_ylabel(model)
    figure.colorbar(image, ax=grid, shrink=0.7, label=f"selectivity, {NAMES.get(attribute, attribute)}")
    return figure


@theme()
def embedding_probes_maps(table: pd.DataFrame, attribute: str) -> Figure:
    """t-SNE and UMAP of an image's mean token, a point a watch, coloured by an attribute's value: a method and place a
    row, a model a column.

    Columns of `table`: model, place, method, image, x, y, and the attribute.
    """
    need(table, "embedding_probes_maps", ("model", "place", "method", "image", "x", "y", attribute))
    models = list(dict.fromkeys(table["model"]))
    kinds = list(table[["place", "method"]].drop_duplicates().itertuples(index=False, name=None))
    values = sorted(table[attribute].unique())
    figure = Figure(figsize=(PAGE, 0.6 + 1.6 * len(kinds)))
    grid = figure.subplots(len(kinds), len(models), squeeze=False)
    for line, (place, method) in zip(grid, kinds, strict=True):
        for axes, model in zip(line, models, strict=True):
            own = table[(table["model"] == model) & (table["place"] == place) & (table["method"] == method)]
            for value, colour in zip(values, _CLASSES, strict=False):
                points = own[own[attribute] == value]
                axes.plot(points["x"], points["y"], ".", color=colour, markersize=3, markeredgewidth=0)
            axes.set(xticks=[], yticks=[])
            if line[0] is grid[0][0]:
                axes.set_title(model)
        line[0].set_ylabel(f"{method}\n{place}")
    handles = [Line2D([], [], linestyle="", marker="o", color=colour, label=value)
               for value, colour in zip(values, _CLASSES, strict=False)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(values))
    return figure


@theme()
def embedding_probes_cka(table: pd.DataFrame) -> Figure:
    """Linear CKA between every two places of two models, of an image's mean token.

    Columns of `table`: models ("one / another"), first, second, cka.
    """
    need(table, "embedding_probes_cka", ("models", "first", "second", "cka"))
    pairs = list(dict.fromkeys(table["models"]))
    figure = Figure(figsize=(COLUMN if len(pairs) < 2 else PAGE, 2.6))
    grid = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, pair in zip(grid, pairs, strict=True):
        own = table[table["models"] == pair]
        first, second = list(dict.fromkeys(own["first"])), list(dict.fromkeys(own["second"]))
        square = own.pivot_table(index="first", columns="second", values="cka").reindex(first, columns=second)
        sns.heatmap(square, ax=axes, vmin=0, vmax=1, cmap="Greys", annot=True, fmt=".2f", cbar=False, square=True,
                    annot_kws={"fontsize": 7})
        axes.set_xticks(axes.get_xticks(), [short(place) for place in second])
        axes.set_yticks(axes.get_yticks(), [short(place) for place in first], rotation=0)
        one, other = pair.split(" / ")
        axes.set(xlabel=other, ylabel=one)
    return figure


@theme()
def embedding_probes_patching(table: pd.DataFrame) -> Figure:
    """How far another watch's states, put in at one layer and group of tokens, take the answer to that watch's.

    A model a panel, with the share of pairs that it tells apart. Columns of `table`: model, attribute, layer, group,
    effect, low, high (an interval over pairs of watches), told, samples.
    """
    need(table, "embedding_probes_patching",
         ("model", "attribute", "layer", "group", "effect", "low", "high", "told", "samples"))
    models = list(dict.fromkeys(table["model"]))
    figure = Figure(figsize=(PAGE, 2.6))
    grid = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for axes, model in zip(grid, models, strict=True):
        for (group, (line, marker)), shade, aside in zip(_GROUPS.items(), GREYS, (-0.1, 0, 0.1), strict=True):
            own = table[(table["model"] == model) & (table["group"] == group)].sort_values("layer")
            at = own["layer"] + aside  # so that bars do not overlap
            axes.vlines(at, own["low"], own["high"], color=shade, linewidth=0.8)
            axes.plot(at, own["effect"], color=shade, linestyle=line, marker=marker)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.axhline(1, **REFERENCES["ceiling"])
        told = table.loc[table["model"] == model, "told"].iloc[0]
        axes.set(title=f"{model}\n({told:.0%} of pairs told apart)", xlabel="LM layer (0: what it reads)",
                 xticks=sorted(table["layer"].unique()))
        low = np.nanmin([0, table["effect"].min(), table["low"].min()])
        high = np.nanmax([1, table["effect"].max(), table["high"].max()])
        axes.set_ylim(max(-1.0, low) - 0.06, min(2.0, high) + 0.06)
    grid[0].set_ylabel("share of the way to the\ndonor's answer")
    handles = [Line2D([], [], color=shade, linestyle=line, marker=marker, label=words) for (line, marker), shade, words
               in zip(_GROUPS.values(), GREYS, ("image tokens", "question", "last token"), strict=True)]
    handles.append(Line2D([], [], color="black", linewidth=0.8, label="95 % interval over pairs of watches"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure
