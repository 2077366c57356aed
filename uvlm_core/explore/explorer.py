"""The explorer: any study's scores, seed by seed (`notebooks/explorer.ipynb`; not in the paper).

Belongs here: the widgets, and the picture and sentence that follow from them. Not here: a study's
table and claims (`studies/`), the rule for verdicts (`studies/statistics.py`). This module imports
no torch and trains nothing.
"""

import html
import io
import json
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.environment import ROOT
from uvlm_core.studies import studies, style
from uvlm_core.studies.base import chance, difference_text, load_study
from uvlm_core.studies.scoreboard import all_verdicts, load_all
from uvlm_core.studies.statistics import MARGIN, mean_interval, verdict
from uvlm_core.training.profiles import PROFILES

_SCORES = {"architecture", "seed", "fraction", "metric", "attribute", "value", "record"}
_PLAIN = ("arm", "regime", "matching", "switch")  # columns whose values speak for themselves
_SAID = {"partial": "partial credit", "exact": "exact answers", "": "all"}
FEWER = 8  # arms that are shown before a user chooses some
EVERY, PAIRED = "scores", "paired differences"


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
        name = f"{_worded(self.metric)}, {_worded(self.attribute)}"
        return f"{name}, minus the baseline" if self.minus else name

    @property
    def chance(self) -> float | None:
        """The chance level of the score; None for a score without one, and for differences."""
        if self.minus:
            return None
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
        if shown.chance is not None:
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
    margin = None if _scale_of(shown) is None else MARGIN
    told = []
    for (panel, arm), own in last.groupby(["panel", "arm"], sort=False):
        mean, low, high = mean_interval(own["value"])
        row = {"difference": mean, "low": low, "high": high, "seeds": len(own)}
        seeds = "1 seed" if len(own) == 1 else f"{len(own)} seeds"
        if shown.minus:
            compared = f"{panel}: {arm} {style.MINUS} {shown.minus}"
            said = verdict(own["value"], margin, own=True)
            told.append(f"{compared} {difference_text(row)}, {seeds}: {said}.")
        else:
            told.append(f"{panel}: {arm} {difference_text(row).lstrip('+')}, {seeds}.")
    return told


def _scale_of(shown: View) -> float | None:
    """Return the chance level of the score behind a view; None for scores without a scale."""
    return View(shown.points, shown.metric, shown.attribute, shown.over).chance


def explorer(profile: str = "laptop", records: str | None = None) -> None:
    """Show the explorer of the records of a profile, or of another folder of records.

    ValueError for an unknown profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is not one of {', '.join(PROFILES)}.")
    display(Explorer(profile, records).widget)


class Explorer:
    """The widgets of the explorer; `widget` holds all of them."""

    def __init__(self, profile: str = "laptop", records: str | None = None):
        label = {"description_width": "90px"}
        self.profile = widgets.Dropdown(
            options=list(PROFILES), value=profile, description="profile", style=label
        )
        self.records = widgets.Text(description="records", style=label, continuous_update=False)
        self.study, self.metric, self.attribute, self.over, self.minus = (
            widgets.Dropdown(description=name, style=label)
            for name in ("study", "score", "attribute", "over", "minus")
        )
        self.architectures, self.arms, self.seeds = (
            widgets.SelectMultiple(description=name, rows=rows, style=label)
            for name, rows in (("models", 4), ("arms", 8), ("seeds", 8))
        )
        self.arms.layout.width = "420px"
        self.shown = widgets.ToggleButtons(options=(EVERY, PAIRED), description="show", style=label)
        self.each = widgets.Checkbox(False, description="each seed, no interval", indent=False)
        self.picture, self.sentence = widgets.Image(), widgets.HTML()
        self.point = widgets.Dropdown(
            description="record of", style=label, layout=widgets.Layout(width="640px")
        )
        self.record, self.message = widgets.HTML(), widgets.HTML()
        self.opened, self.view, self.busy = None, None, False
        columns = (
            [self.profile, self.records, self.study, self.metric, self.attribute, self.over],
            [self.arms, self.shown, self.minus, self.each],
            [self.architectures, self.seeds],
        )
        self.widget = widgets.VBox(
            [
                self.message,
                widgets.HBox(
                    [widgets.VBox(each, layout={"flex": "0 0 auto"}) for each in columns],
                    layout={"flex_flow": "row wrap"},
                ),
                *(self.picture, self.sentence, self.point, self.record),
            ]
        )
        for changed, what in (
            ((self.profile,), self._take_profile),
            ((self.records, self.study), self._open),
            ((self.metric,), self._take_metric),
            ((self.over, self.attribute), self._take_arms),
            ((self.shown, self.minus, self.each), self._show),
            ((self.architectures, self.arms, self.seeds), self._show),
            ((self.point,), self._show_record),
        ):
            for each in changed:
                each.observe(lambda change, what=what: self._update(what), "value")
        self._update(self._take_profile, records)

    def _update(self, what, *arguments) -> None:
        """Follow one change of the user's; the changes that it causes are part of it."""
        if self.busy:
            return
        self.busy, self.message.value = True, ""
        try:
            what(*arguments)
        except ValueError as error:  # RecordError is one
            self.picture.value, self.sentence.value, self.record.value = b"", "", ""
            self.message.value = f"<b style='color:#b00020'>{html.escape(str(error))}</b>"
        finally:
            self.busy = False

    def _take_profile(self, records: str | None = None) -> None:
        name = self.profile.value
        self.records.value = records or f"figures/runs/{name}"
        known = [each.name for each in studies() if name in each.scales and each.claims]
        _offer(self.study, {each.replace("_", " "): each for each in known})
        self._open()

    def _open(self) -> None:
        folder = Path(self.records.value).expanduser()
        if not (ROOT / folder).is_dir():
            raise ValueError(f"records {self.records.value!r} is not a folder.")
        self.opened = load_study(self.study.value, self.profile.value, folder)
        table = self.opened.table
        if "metric" not in table:
            raise ValueError(
                f"The study {self.study.value} has a table of its own; see its notebook."
            )
        self.labels = [
            name
            for name in dict.fromkeys(name for arm in self.opened.arms for name in arm.labels)
            if name not in _SCORES
        ]
        own = table[table["fraction"] > 0]
        preferred = [name for name in ("partial", "read_back") if name in set(own["metric"])]
        metrics = dict.fromkeys([*preferred, *own["metric"]])
        _offer(self.metric, {_worded(name): name for name in metrics})
        self._take_metric()

    def _take_metric(self) -> None:
        table = self.opened.table
        own = table[(table["metric"] == self.metric.value) & (table["fraction"] > 0)]
        names = sorted(own["attribute"].unique(), key=lambda name: name != "total")
        _offer(self.attribute, {_worded(name): name for name in names})
        _offer(self.over, {"end of training": ""} | {_worded(n): n for n in choices(own)})
        self._take_arms()

    def _take_arms(self) -> None:
        points = self._view().points
        arms = list(dict.fromkeys(points["arm"]))
        seeds = sorted(int(seed) for seed in points["seed"].unique())
        panels = [name for name in style.COLOURS if (points["panel"] == name).any()]
        for chooser, names in (
            (self.arms, arms),
            (self.seeds, seeds),
            (self.architectures, panels),
        ):
            chooser.options = names
            chooser.value = names[:FEWER]
        _offer(self.minus, {name: name for name in arms})
        self._show()

    def _view(self, minus: str = "") -> View:
        return view(
            self.opened.table,
            self.labels,
            self.metric.value,
            self.attribute.value,
            self.over.value,
            minus,
        )

    def _show(self) -> None:
        found = self._view(self.minus.value if self.shown.value == PAIRED else "")
        points = found.points
        points = points[
            points["panel"].isin(self.architectures.value)
            & points["arm"].isin(self.arms.value)
            & points["seed"].isin(self.seeds.value)
        ]
        if points.empty:
            raise ValueError(
                "Nothing is left to show: choose models, arms and seeds that have records, and as "
                "a baseline an arm with the same seeds."
            )
        self.view = View(points, found.metric, found.attribute, found.over, found.minus)
        figure, buffer = draw(self.view, self.each.value), io.BytesIO()
        figure.savefig(buffer, dpi=200)
        self.picture.value = buffer.getvalue()
        self.picture.layout.width = f"{round(110 * figure.get_figwidth())}px"
        lines = "".join(f"<li>{html.escape(each)}</li>" for each in tell(self.view))
        self.sentence.value = f"<ul style='line-height: 1.4'>{lines}</ul>"
        at = f" at {self.over.label}" if self.over.value else ""
        _offer(
            self.point,
            {
                f"{row.panel}, {row.arm}, seed {row.seed}"
                + (f"{at} {row.at:g}" if at else "")
                + f": {row.value:.3f}": row.record
                for row in points.itertuples()
            },
        )
        self._show_record()

    def _show_record(self) -> None:
        """Show the record behind a point: its spec, provenance and samples."""
        key = self.point.value
        record = self.opened.store.with_key(key)
        parts = {name: record[name] for name in ("spec", "provenance", "counts", "times")}
        parts["samples"] = record["samples"]
        folds = "".join(
            f"<details><summary>{name}</summary><pre style='line-height: 1.2'>"
            f"{html.escape(json.dumps(each, indent=1, ensure_ascii=False)[:6000])}</pre></details>"
            for name, each in parts.items()
        )
        self.record.value = f"<small>{key}.json in {self.records.value}</small>{folds}"


def _worded(name: str) -> str:
    """Return the name of a score, attribute or column in words."""
    return _SAID.get(name, name.replace("_", " "))


def _offer(chooser: widgets.Dropdown, options: dict) -> None:
    """Offer new options, and keep the value if it is still one of them."""
    before = chooser.value
    chooser.options = list(options.items())
    chooser.value = before if before in options.values() else next(iter(options.values()))


def scoreboard(profile: str = "laptop", records: str | None = None) -> None:
    """Show the verdicts on all claims as a table to sort and to filter."""
    import itables  # late: only this table needs it

    found = all_verdicts(load_all(profile, records or f"figures/runs/{profile}"))
    found = found.assign(
        interval=[difference_text(row) for row in found.to_dict("records")],
        claim=found["study"].str.replace("_", " ") + ": " + found["claim"],
    )
    itables.init_notebook_mode(all_interactive=False, connected=False)
    itables.show(
        found[["claim", "architecture", "quantity", "matching", "interval", "seeds", "verdict"]],
        lengthMenu=[10, 25, 100],
        column_filters="header",
        classes="compact",
        showIndex=False,
        maxBytes=0,
    )
