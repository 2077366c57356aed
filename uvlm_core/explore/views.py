"""What the explorer shows: the points of a score, their picture and sentences (not in the paper).

Belongs here: which rows of a study's table are points, how arms are named, the picture, and what is
said about it. Not here: the widgets that choose (`explorer.py`), a study's own figures and claims
(`studies/`).
"""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.studies import style
from uvlm_core.studies.base import chance, difference_text
from uvlm_core.studies.statistics import MARGIN, mean_interval, verdict

# columns whose values speak for themselves
_PLAIN = ("arm", "adapters", "regime", "matching", "switch")
# parts of the names of metrics that are no shares, so that the margin has no meaning for them
_NO_SHARES = ("loss", "ratio", "error", "frechet", "kernel", "strength")
_SAID = {"partial": "partial credit", "exact": "exact answers", "": "all"}


@dataclass(frozen=True)
class View:
    """What is shown: rows of a table with the columns panel, arm, at, seed, value and record."""

    points: pd.DataFrame
    metric: str
    attribute: str
    over: str  # the column on the x axis, "" if all values are at one place
    minus: str = ""  # the arm that was subtracted

    @property
    def quantity(self) -> str:
        """The name of the y axis."""
        name = f"{worded(self.metric)}, {worded(self.attribute)}"
        return f"{name}, minus the baseline" if self.minus else name

    @property
    def chance(self) -> float | None:
        """The chance level of the score; None for a score without one."""
        try:
            return chance(self.metric, self.attribute)
        except (ValueError, KeyError):
            return None


def choices(table: pd.DataFrame) -> list[str]:
    """Return the columns that may be on the x axis: numbers that vary between runs or in one."""
    numbers = [
        name
        for name in table.columns
        if name not in {"seed", "value", "samples"} and pd.api.types.is_numeric_dtype(table[name])
    ]
    return [name for name in numbers if table.loc[table["fraction"] > 0, name].nunique() > 1]


def view(
    table: pd.DataFrame,
    labels: list[str],
    metric: str,
    attribute: str,
    over: str = "",
    minus: str = "",
) -> View:
    """Return the points of a study's table for one score.

    Args:
        labels: columns that tell arms apart, beside architecture and seed.
        over: the column on the x axis; "" shows the end of training.
        minus: an arm whose values are subtracted, seed by seed, from those of all others; "" for
            the scores themselves.
    """
    own = table[(table["metric"] == metric) & (table["attribute"] == attribute)]
    if over != "fraction" and len(own):
        own = own[own["fraction"] == own["fraction"].max()]
    own = own[own["architecture"].isin(style.COLOURS)]
    told = _telling(own, [name for name in labels if name != over and own[name].nunique() > 1])
    points = pd.DataFrame(
        {
            "panel": own["architecture"],
            "arm": [_arm(told, values) for values in own[told].itertuples(index=False)]
            if told
            else "all runs",
            "at": own[over] if over else 0.0,
            "seed": own["seed"],
            "value": own["value"],
            "record": own["record"],
        }
    ).drop_duplicates(["panel", "arm", "at", "seed"])
    if minus:
        baseline = points[points["arm"] == minus].rename(columns={"value": "less"})
        # a baseline at one place, such as the undistorted model, is subtracted everywhere
        pairs = ["panel", "seed"] + (["at"] if baseline["at"].nunique() > 1 else [])
        others = points[points["arm"] != minus]
        points = others.merge(baseline[[*pairs, "less"]], on=pairs)
        points = points.assign(value=points["value"] - points["less"])
    return View(points.reset_index(drop=True), metric, attribute, over, minus)


def _telling(table: pd.DataFrame, labels: list[str]) -> list[str]:
    """Return the labels without those that follow from the others."""
    for name in sorted(labels, key=lambda each: table[each].nunique()):
        others = [each for each in labels if each != name]
        if others and table.groupby(others)[name].nunique().max() == 1:
            labels = others
    return labels


def _arm(names: list[str], values) -> str:
    """Return the name of an arm, such as "mixed", or "family affine, dose 1"."""
    told = []
    for name, value in zip(names, values, strict=True):
        word = name.replace("_", " ")
        if name.endswith("_rows"):
            told.append(f"{value:,g} {word}")
        elif name in _PLAIN:
            told.append(str(value))
        else:
            told.append(f"{word} {value if isinstance(value, str) else format(value, 'g')}")
    return ", ".join(told)


def _look(number: int) -> dict:
    """Return the line and marker of an arm by its number."""
    line, marker = (each[number % 4] for each in (("-", "--", "-.", ":"), "osv^"))
    hollow = {"markerfacecolor": "white"} if number // 4 % 2 else {}
    return {"linestyle": line, "marker": marker} | hollow


def shortened(arms: list[str]) -> tuple[list[str], str]:
    """Return the names of arms without the parts that all of them share, and those parts."""
    parts = [arm.split(", ") for arm in arms]
    shared = [part for part in parts[0] if all(part in each for each in parts)]
    if len(arms) == 1 or not shared:
        return arms, ""
    short = [", ".join(part for part in each if part not in shared) for each in parts]
    return short, ", ".join(shared)


@style.theme()
def draw(shown: View, each_seed: bool = False) -> Figure:
    """Draw a view, a panel for each architecture: lines over the x axis, or one row per arm."""
    points = shown.points
    panels = [name for name in style.COLOURS if (points["panel"] == name).any()]
    arms = list(dict.fromkeys(points["arm"]))
    names, shared = shortened(arms)
    lines = points["at"].nunique() > 1
    widest = 0.06 * max(map(len, names))  # inches
    height = 0.9 + (1.8 + 0.14 * len(arms) if lines else 0.24 * len(arms))
    width = 2.2 * len(panels) + (0 if lines else widest)
    figure = Figure(figsize=(max(style.COLUMN, width, widest + 1), height))
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        for number, arm in enumerate(arms):
            own = points[(points["panel"] == panel) & (points["arm"] == arm)]
            look = {"color": style.COLOURS[panel]} | (_look(number) if lines else {"marker": "o"})
            for at, values in own.groupby("at"):
                place = at if lines else number
                if each_seed:
                    xy = ([place] * len(values), values["value"])
                    axes.plot(*(xy if lines else xy[::-1]), **look | {"linestyle": ""}, alpha=0.6)
                else:
                    style.draw_mean(axes, place, values["value"], look, upright=lines)
            if lines and len(own):
                means = own.groupby("at")["value"].mean()
                axes.plot(means.index, means, **look | {"marker": ""})
        reference = axes.axhline if lines else axes.axvline
        if shown.minus:
            reference(0, color="black", linewidth=0.6)
        elif shown.chance is not None:
            reference(shown.chance, **style.REFERENCES["chance"])
        axes.set_title(panel)
        axes.set_xlabel(shown.over.replace("_", " ") if lines else "")
        if lines and points["at"].min() > 0 and points["at"].max() > 8 * points["at"].min():
            axes.set_xscale("log")
    if lines:
        grid[0].set_ylabel(shown.quantity)
        handles = [
            Line2D([], [], color="black", label=name, **_look(number))
            for number, name in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside upper left", title=shared and f"All: {shared}")
    else:
        grid[0].set_yticks(range(len(arms)), names)
        grid[0].invert_yaxis()
        figure.supxlabel(shown.quantity, fontsize=8)
        figure.suptitle(shared and f"All: {shared}", fontsize=7)
    return figure


def tell(shown: View) -> list[str]:
    """Say what is seen at the right end: a mean with its interval, and of differences a verdict."""
    points = shown.points
    last = points[points["at"] == points["at"].max()]
    margin = None if any(part in shown.metric for part in _NO_SHARES) else MARGIN
    told = []
    for (panel, arm), own in last.groupby(["panel", "arm"], sort=False):
        mean, low, high = mean_interval(own["value"])
        row = {"difference": mean, "low": low, "high": high, "seeds": len(own)}
        seeds = style.counted(len(own), "seed")
        if shown.minus:
            compared = f"{panel}: {arm} {style.MINUS} {shown.minus}"
            said = verdict(own["value"], margin, own=True)
            told.append(f"{compared} {difference_text(row)}, {seeds}: {said}.")
        else:
            told.append(f"{panel}: {arm} {difference_text(row).lstrip('+')}, {seeds}.")
    return told


def worded(name: str) -> str:
    """Return the name of a score, attribute or column in words."""
    return _SAID.get(name, name.replace("_", " "))
