"""Figures of what it costs that input and output space disagree (paper section 4.1), one function each.

Belongs here: tidy DataFrame -> Figure for notebook 04. Not here: style and saving (`figures.py`), the numbers behind a
figure (`experiments.py`, `claims.py`). Tables are those of `experiments.alignment_table`.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import spearmanr

from uvlm_core.claims import chance, distortion_costs
from uvlm_core.figures import (
    AUTHORS,
    COLOURS,
    COLUMN,
    LINES,
    MINUS,
    PAGE,
    REFERENCES,
    draw_points,
    look_of,
    need,
    theme,
)
from uvlm_core.statistics import mean_interval

_COLUMNS = ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value", "family", "dose", "side",
            "place", "sharing")
_UNITS = {"affine": "affine", "authors": "authors' recipe"}
_MEASURES = {"alignment_cka": "linear CKA", "alignment_procrustes": "Procrustes distance",
             "alignment_neighbours": "neighbours in common", "alignment_r2": "linear map, $R^2$"}


@theme()
def affine_alignment(table: pd.DataFrame, authors: pd.DataFrame | None = None) -> Figure:
    """Section 4.1, figure 4: the understanding total and the time against the dose of the two affine families.

    An architecture a row; dose 0 is the undistorted run. `authors` is the authors' record: architecture, regime,
    family, dose, attribute, value.
    """
    need(table, "affine_alignment", _COLUMNS)
    chosen = table[(table["metric"] == "partial") & (table["fraction"] == 1) & (table["sharing"] == "shared")
                   & (table["side"] == "understanding") & (table["place"] == "before")]
    names = [name for name in COLOURS if (chosen["architecture"] == name).any()]
    families = [family for family in _UNITS if (chosen["family"] == family).any()]
    panels = [(family, attribute) for attribute in ("total", "time") for family in families]
    figure = Figure(figsize=(PAGE, 0.95 + 1.45 * len(names)))
    grid = figure.subplots(len(names), len(panels), squeeze=False)
    for number, (line, name) in enumerate(zip(grid, names, strict=True)):
        for axes, (family, attribute) in zip(line, panels, strict=True):
            own = chosen[(chosen["architecture"] == name) & (chosen["attribute"] == attribute)
                         & chosen["family"].isin(("none", family))]
            for regime, shift in (("understanding", -0.012), ("unified", 0.012)):  # so that no bar hides another
                arm = own[own["regime"] == regime]
                draw_points(axes, arm["dose"] + shift * own["dose"].max(), arm["value"], look_of(name, regime))
            axes.axhline(chance("partial", attribute), **REFERENCES["chance"])
            if authors is not None:
                known = authors[(authors["architecture"] == name) & (authors["family"] == family)
                                & (authors["attribute"] == attribute)]
                axes.plot(known["dose"], known["value"], "D", **AUTHORS)
            axes.set_ylim(min(0.3, chosen["value"].min() - 0.05), 1.02)
            axes.tick_params(labelleft=axes is line[0], labelbottom=number == len(names) - 1)
            if number == 0:
                axes.set_title(f"{attribute}, {_UNITS[family]}")
            if number == len(names) - 1:
                axes.set_xlabel("dose")
        line[0].set_ylabel(f"{name}\npartial credit")
    handles = [Line2D([], [], color="black", label=regime, **LINES[regime] | extra) for regime, extra in (
        ("understanding", {"markerfacecolor": "white"}), ("unified", {}))]
    handles += [Line2D([], [], color="black", linewidth=0.8, label="95 % t interval"),
                Line2D([], [], label="chance", **REFERENCES["chance"])]
    if authors is not None and authors["architecture"].isin(names).any():
        handles.append(Line2D([], [], linestyle="", marker="D", label="authors' record (understanding)", **AUTHORS))
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure


@theme()
def affine_alignment_families(table: pd.DataFrame) -> Figure:
    """What each distortion costs each regime, paired by seed, an architecture a panel: mean and 95 % t interval, cut
    off at the panel's edges."""
    need(table, "affine_alignment_families", _COLUMNS)
    costs = pd.concat([distortion_costs(table, regime).assign(regime=regime)
                       for regime in ("understanding", "unified")])
    keys = ["family", "dose", "side", "place"]
    kinds = [tuple(row) for row in costs[keys].drop_duplicates().itertuples(index=False)]
    order = list(dict.fromkeys(costs["family"]))
    kinds.sort(key=lambda kind: (kind[2:] != ("understanding", "before"), order.index(kind[0]), kind[2], kind[1]))
    names = [name for name in COLOURS if (costs["architecture"] == name).any()]
    figure = Figure(figsize=(PAGE, 1.1 + 0.19 * len(kinds)))
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for regime, shift in (("understanding", -0.18), ("unified", 0.18)):
            own = costs[(costs["architecture"] == name) & (costs["regime"] == regime)]
            for kind, group in own.groupby(keys, sort=False):
                mean, low, high = mean_interval(group["cost"])
                at = kinds.index(kind) + shift
                axes.plot([low, high], [at, at], color=COLOURS[name], linewidth=0.8)
                axes.plot(mean, at, **look_of(name, regime) | {"linestyle": ""})
        axes.set(title=name, ylim=(len(kinds) - 0.5, -0.5))
        reach = 1.15 * max(0.05, costs["cost"].abs().max())
        axes.set_xlim(-reach, reach)
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(kinds)), [_label(*kind) for kind in kinds])
    figure.supxlabel(f"total, plain {MINUS} distorted", fontsize=8)
    handles = [Line2D([], [], color="black", label=regime, **LINES[regime] | {"linestyle": ""} | extra)
               for regime, extra in (("understanding", {"markerfacecolor": "white"}), ("unified", {}))]
    handles.append(Line2D([], [], color="black", linewidth=0.8, label="95 % t interval"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@theme()
def affine_alignment_measured(benefits: pd.DataFrame) -> Figure:
    """The benefit of unified training against the alignment of the two spaces, a model a point, a measure a panel.

    `benefits` as `claims.alignment_benefit` has it. Alignment is taken at the adapters' output after training; the
    number in the corner is Spearman's rank correlation over all points of an architecture.
    """
    need(benefits, "affine_alignment_measured", ("architecture", "fraction", "metric", "attribute", "alignment",
                                                 "benefit", "family"))
    last = benefits[(benefits["fraction"] == 1) & (benefits["attribute"] == "adapter")]
    names = [name for name in COLOURS if (last["architecture"] == name).any()]
    figure = Figure(figsize=(PAGE, 2.4))
    grid = figure.subplots(1, len(_MEASURES), sharey=True)
    for axes, (metric, label) in zip(grid, _MEASURES.items(), strict=True):
        axes.axhline(0, color="black", linewidth=0.6)
        for number, name in enumerate(names):
            own = last[(last["metric"] == metric) & (last["architecture"] == name)]
            plain = own["family"] == "none"
            axes.plot(own["alignment"][~plain], own["benefit"][~plain], "o", color=COLOURS[name], markersize=2.5,
                      alpha=0.7)
            axes.plot(own["alignment"][plain], own["benefit"][plain], "o", color=COLOURS[name], markersize=4,
                      markerfacecolor="white")
            rank = spearmanr(own["alignment"], own["benefit"]).statistic if len(own) > 2 else np.nan
            if np.isfinite(rank):
                axes.annotate(f"$\\rho$ = {rank:+.2f}".replace("-", MINUS), xycoords="axes fraction", fontsize=7,
                              xy=(0.5 * (number % 2), 1.02 + 0.09 * (number // 2)), color=COLOURS[name])
        axes.set(xlabel=label, xlim=(min(0.0, last.loc[last["metric"] == metric, "alignment"].min()) - 0.04, 1.04))
    grid[0].set_ylabel(f"total, unified {MINUS} understanding")
    handles = [Line2D([], [], color=COLOURS[name], linewidth=3, label=name) for name in names]
    handles += [Line2D([], [], color="black", linestyle="", marker="o", markersize=size, markerfacecolor=face,
                       label=label) for size, face, label in ((2.5, "black", "distorted"), (4, "white", "undistorted"))]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


@theme()
def affine_alignment_sharing(table: pd.DataFrame) -> Figure:
    """Shared against separate adapters, without and with the largest affine distortion: unified models' total."""
    need(table, "affine_alignment_sharing", _COLUMNS)
    largest = table.loc[table["family"] == "affine", "dose"].max()
    chosen = table[(table["metric"] == "partial") & (table["attribute"] == "total") & (table["fraction"] == 1)
                   & (table["side"] == "understanding") & (table["place"] == "before")
                   & ((table["family"] == "none") | ((table["family"] == "affine") & (table["dose"] == largest)))]
    names = [name for name in COLOURS if (chosen["architecture"] == name).any()]
    figure = Figure(figsize=(COLUMN, 2.5))
    axes = figure.subplots()
    arms = [("understanding", "shared", "understanding"), ("unified", "shared", "unified,\nshared adapter"),
            ("unified", "separate", "unified,\nseparate adapters")]
    for number, name in enumerate(names):
        for place, (regime, sharing, _) in enumerate(arms):
            own = chosen[(chosen["architecture"] == name) & (chosen["regime"] == regime)
                         & (chosen["sharing"] == sharing)]
            at = place + 0.4 * (number - (len(names) - 1) / 2)
            ends = []
            for dose, shift, face in ((0.0, -0.07, COLOURS[name]), (largest, 0.07, "white")):
                values = own.loc[own["dose"] == dose, "value"]
                if len(values):
                    mean, low, high = mean_interval(values)
                    ends.append((at + shift, mean))
                    axes.plot([at + shift] * 2, [low, high], color=COLOURS[name], linewidth=0.8)
                    axes.plot(at + shift, mean, "o", color=COLOURS[name], markerfacecolor=face)
            if len(ends) == 2:
                axes.plot(*zip(*ends, strict=True), color=COLOURS[name], linewidth=0.6, zorder=1)
    axes.axhline(chance("partial", "total"), **REFERENCES["chance"])
    axes.set_xticks(range(len(arms)), [label for *_, label in arms])
    axes.grid(False, axis="x")
    axes.set(ylim=(min(0.3, chosen["value"].min() - 0.05), 1.02), xlim=(-0.5, len(arms) - 0.5),
             ylabel="total, partial credit")
    handles = [Line2D([], [], color=COLOURS[name], linewidth=3, label=name) for name in names]
    handles += [Line2D([], [], color="black", linestyle="", marker="o", markerfacecolor=face, label=label)
                for face, label in (("black", "plain"), ("white", f"affine, dose {largest:g}"))]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


@theme()
def affine_alignment_layers(benefits: pd.DataFrame) -> Figure:
    """Linear CKA of the two sides by place in the model, before and after training, plain and with the largest affine
    dose; means over seeds, adapters shared."""
    need(benefits, "affine_alignment_layers", ("architecture", "fraction", "metric", "attribute", "alignment",
                                               "family"))
    largest = benefits.loc[benefits["family"] == "affine", "dose"].max()
    chosen = benefits[(benefits["metric"] == "alignment_cka") & (benefits["sharing"] == "shared")
                      & (benefits["place"] == "before") & ((benefits["family"] == "none") | (
                          (benefits["family"] == "affine") & (benefits["dose"] == largest)))]
    names = [name for name in COLOURS if (chosen["architecture"] == name).any()]
    places = list(dict.fromkeys(chosen["attribute"]))
    figure = Figure(figsize=(COLUMN if len(names) < 3 else PAGE, 2.5))
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        for family, face in (("none", COLOURS[name]), ("affine", "white")):
            for fraction, line in ((0.0, ":"), (1.0, "-")):
                own = chosen[(chosen["architecture"] == name) & (chosen["family"] == family)
                             & (chosen["fraction"] == fraction)]
                groups = [mean_interval(own.loc[own["attribute"] == place, "alignment"]) for place in places
                          if (own["attribute"] == place).any()]
                at = np.arange(len(groups)) + (0.08 if family == "affine" else -0.08)
                for x, (_, low, high) in zip(at, groups, strict=True):
                    axes.plot([x, x], [low, high], color=COLOURS[name], linewidth=0.8)
                axes.plot(at, [mean for mean, *_ in groups], line, marker="o", color=COLOURS[name], linewidth=1,
                          markerfacecolor=face, markersize=3)
        axes.set_xticks(range(len(places)), [place.removeprefix("layer ").replace("adapter", "in") for place in places])
        axes.set(title=name, xlabel="LM layer", ylim=(0, 1.04))
    grid[0].set_ylabel("linear CKA of the two sides")
    handles = [Line2D([], [], color="black", linestyle=line, label=label)
               for line, label in ((":", "before training"), ("-", "after"))]
    handles += [Line2D([], [], color="black", linestyle="", marker="o", markerfacecolor=face, label=label, markersize=3)
                for face, label in (("black", "plain"), ("white", f"affine, dose {largest:g}"))]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _label(family: str, dose: float, side: str, place: str) -> str:
    where = "" if (side, place) == ("understanding", "before") else f" ({side}, {place})"
    return f"{family} {dose:g}{where}"
