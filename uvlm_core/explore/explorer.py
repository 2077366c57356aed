"""The explorer: any study's scores, seed by seed (`notebooks/explorer.ipynb`; not in the paper).

Belongs here: the widgets, and what each of them changes. Not here: the picture and the sentences
that they lead to (`views.py`). Nothing is trained, and torch is imported only if a study needs it.
"""

import html
import io
import json
from pathlib import Path

import ipywidgets as widgets
from IPython.display import display

from uvlm_core.environment import ROOT
from uvlm_core.explore.views import View, choices, draw, tell, view, worded
from uvlm_core.studies import studies, style
from uvlm_core.studies.base import difference_text, load_study, scores
from uvlm_core.studies.scoreboard import all_verdicts, load_all
from uvlm_core.training.profiles import PROFILES

FEWER = 8  # arms that are shown before a user chooses some
EVERY, PAIRED = "scores", "paired differences"
_SCORES = {"architecture", "seed", "fraction", "metric", "attribute", "value", "record"}


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
        known = [each.name for each in studies(name) if each.table is scores]
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
        _offer(self.metric, {worded(name): name for name in metrics})
        self._take_metric()

    def _take_metric(self) -> None:
        table = self.opened.table
        own = table[(table["metric"] == self.metric.value) & (table["fraction"] > 0)]
        names = sorted(own["attribute"].unique(), key=lambda name: name != "total")
        _offer(self.attribute, {worded(name): name for name in names})
        _offer(self.over, {"end of training": ""} | {worded(n): n for n in choices(own)})
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
