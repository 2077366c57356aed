"""Building blocks of a study, and `open_study` for notebooks (no section of the paper).

Belongs here: `Study`, its scales, arms and claims, `Measurement` for records without a training
run, and `open_study`. Not here: any single question (one file each), the rule for verdicts
(`statistics.py`), how a figure looks (`style.py`).
"""

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from uvlm_core.data.attributes import ATTRIBUTES, chances
from uvlm_core.environment import ROOT
from uvlm_core.models.kinds import output_of
from uvlm_core.runs.grid import run_grid
from uvlm_core.runs.store import SCORE_COLUMNS, RunStore, describe, record_key
from uvlm_core.studies import statistics, studies, style
from uvlm_core.training.profiles import Profile, profile
from uvlm_core.training.spec import RunSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERDICT_COLUMNS = (
    "study",
    "claim",
    "architecture",
    "quantity",
    "matching",
    "difference",
    "low",
    "high",
    "seeds",
    "verdict",
)


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


_TYPES = {  # of a scale's field -> whether a value fits, what it is in words
    int: (_is_count, "an integer from 0 up"),
    str: (lambda value: isinstance(value, str), "a text"),
    tuple[str, ...]: (
        lambda value: isinstance(value, tuple | list) and all(type(each) is str for each in value),
        "a list of texts",
    ),
    tuple[int, ...]: (
        lambda value: isinstance(value, tuple | list) and all(map(_is_count, value)),
        "a list of integers from 0 up",
    ),
}


@dataclass(frozen=True)
class Scale:
    """The size of a study in one profile.

    A study's subclass adds fields such as rows or doses, and names in `POSITIVE` those integers
    that may not be 0. ValueError for a value of another type, a negative or missing count, and an
    architecture that figures cannot draw.
    """

    POSITIVE: ClassVar[tuple[str, ...]] = ("seeds",)

    seeds: int
    architectures: tuple[str, ...] = ()

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in self.POSITIVE and (type(value) is not int or value < 1):
                raise ValueError(f"{each.name} {value!r} is not an integer from 1 up.")
            if each.type in _TYPES:
                fits, words = _TYPES[each.type]
                if not fits(value):
                    raise ValueError(f"{each.name} {value!r} is not {words}.")
        for name in self.architectures:
            if name not in style.COLOURS:
                raise ValueError(f"architecture {name!r} is not one of {', '.join(style.COLOURS)}.")


@dataclass(frozen=True)
class Arm:
    """A run of a study, with the labels of its rows in the study's table.

    `spec` is a RunSpec or a `Measurement`. Several arms may share one run (`RunSpec.canonical`).
    """

    spec: object
    labels: dict[str, object]  # column -> value, such as {"architecture": "VQ-VQ", "seed": 0}


@dataclass(frozen=True)
class Measurement:
    """A record without a training run of its own, such as statistics of the data.

    A subclass adds settings as fields, and a method `run(folder)` that returns the record's body:
    {"scores": [...]}, {"tables": {name: {column: values}}}, or both.
    """

    def to_dict(self) -> dict:
        """Return the measurement as plain JSON values."""
        return json.loads(json.dumps({"measurement": type(self).__name__} | asdict(self)))

    @property
    def networks(self) -> tuple[str, ...]:
        """The frozen networks that the result depends on."""
        return ()

    def canonical(self) -> "Measurement":
        """Return the measurement itself: all its settings affect its record."""
        return self

    def cost(self) -> float:
        """Return the cost in units of one training row."""
        return 100.0


@dataclass(frozen=True)
class Comparison:
    """Differences of one architecture, one per seed; positive where the claim holds."""

    architecture: str
    quantity: str
    differences: pd.Series  # by seed
    matching: str = "steps"


@dataclass(frozen=True)
class Claim:
    """A statement that a study judges by a quantity fixed before the runs."""

    name: str
    words: str
    section: str  # of the paper
    compare: Callable[[pd.DataFrame, Scale], Iterable[Comparison]]
    reported: str = ""  # what the paper reports; empty for a question of our own
    # smallest effect of interest; None rules out the verdict "no effect"
    margin: float | None = statistics.MARGIN


@dataclass(frozen=True)
class Drawn:
    """A figure, the rows that it shows (its CSV), and more facts for its provenance."""

    figure: "Figure"
    shown: pd.DataFrame
    facts: dict = field(default_factory=dict)
    # keys of its runs; None: column "record" of `shown`, or else all runs of the study
    records: Iterable[str] | None = None
    # per arm, or their range; None: those of `shown`, or else the scale's
    seeds: int | str | None = None


REGIME_CHANGES = {  # arm -> changes to the profile's spec, in the order of drawing
    "understanding": {"regime": "understanding"},
    "generation": {"regime": "generation"},
    "unified": {"regime": "unified"},
    # control: each request is paired with another row's image
    "shuffled": {"regime": "unified", "shuffled_requests": True},
}
# only this architecture has the control; few seeds suffice, as the effect is large
CONTROLLED, CONTROL_SEEDS = "VQ-VQ", 2
_OUTCOMES = {  # of an arm against its baseline, by the verdict
    "replicates": "better than",
    "yes": "better than",
    "contradicts": "worse than",
    "no": "worse than",
    "no effect": "as good as",
    "undecided": "undecided against",
}
_GUESSES = {
    "partial": chances(),
    "constrained": chances(),
    "read_back": chances(read_back=True),
    "feature_read_back": chances(read_back=True),
}


def arm_of(spec: RunSpec, **labels) -> Arm:
    """Return an arm labelled with architecture, regime (or "shuffled"), seed and `labels`."""
    regime = "shuffled" if spec.data.shuffled_requests else spec.training.regime
    return Arm(
        spec,
        {"architecture": spec.model.architecture, "regime": regime, "seed": spec.training.seed}
        | labels,
    )


def regime_arms(spec: RunSpec, scale: Scale) -> list[Arm]:
    """Return unified and single-task arms for each seed and architecture, and the control arms."""
    return [
        arm_of(spec.vary(architecture=architecture, seed=seed, **change))
        for seed in range(scale.seeds)
        for architecture in scale.architectures
        for name, change in REGIME_CHANGES.items()
        if name != "shuffled" or (architecture == CONTROLLED and seed < CONTROL_SEEDS)
    ]


def sized(base: Profile, understanding: float, generation: float, **changes) -> RunSpec:
    """Return a spec with the given number of rows of each task, scored only at the end of training.

    Captions keep the profile's share of the understanding rows.
    """
    spec = base.spec
    share = spec.data.caption_examples / (spec.data.vqa_examples + spec.data.caption_examples)
    captions = round(understanding * share)
    return spec.vary(
        vqa_examples=round(understanding) - captions,
        caption_examples=captions,
        generation_examples=round(generation),
        fractions=(1.0,),
        **changes,
    )


def generation_metric(architecture: str) -> str:
    """Return an architecture's read-back metric: "read_back" or "feature_read_back"."""
    return output_of(architecture).read_back


def metric_of(task: str, architecture: str) -> str:
    """Return the metric of a task, "understanding" or "generation": partial credit or read-back."""
    return "partial" if task == "understanding" else generation_metric(architecture)


def understanding_totals(table: pd.DataFrame) -> pd.DataFrame:
    """Return the total partial credit of every run after training."""
    return table[
        (table["metric"] == "partial") & (table["attribute"] == "total") & (table["fraction"] == 1)
    ]


def paired(
    table: pd.DataFrame, arm: str, baseline: str, keys: tuple[str, ...] = ("seed",)
) -> pd.Series:
    """Return the values of one arm minus those of another, by seed or by other keys.

    Only what both arms have is returned: nothing if one of them has no runs.
    """
    wide = table.pivot_table(index=list(keys), columns="arm", values="value")
    if not {arm, baseline} <= set(wide):
        return pd.Series(name="difference", dtype=float)
    return (wide[arm] - wide[baseline]).dropna().rename("difference")


def chance(metric: str, attribute: str) -> float:
    """Return a metric's chance level; for "total", the mean over the attributes.

    ValueError when the metric has no chance level.
    """
    if metric not in _GUESSES:
        raise ValueError(
            f"metric {metric!r} has no chance level; those that have one are {', '.join(_GUESSES)}."
        )
    table = _GUESSES[metric]
    return float(
        np.mean([table[name] for name in (ATTRIBUTES if attribute == "total" else (attribute,))])
    )


def scores(arms: list[Arm], store: RunStore) -> pd.DataFrame:
    """Return the recorded scores of arms, one value per row.

    Columns: the arms' labels, record (its key), fraction, metric, attribute, value, samples.
    ValueError when an arm has no record; it names the first.
    """
    rows, names = [], dict.fromkeys(name for arm in arms for name in arm.labels)
    for arm in arms:
        spec = arm.spec.canonical()
        record = store.load(spec)
        if record is None:
            raise ValueError(f"There is no record {store.path(spec)}; run `make figures` first.")
        labels = arm.labels | {"record": record["key"]}
        rows += [labels | score for score in record["scores"]]
    return pd.DataFrame(rows, columns=[*names, "record", *SCORE_COLUMNS]).astype({"value": float})


def recorded(spec, store: RunStore, name: str) -> pd.DataFrame:
    """Return the table `name` of a measurement's record; ValueError when there is no record."""
    record = store.load(spec)
    if record is None:
        raise ValueError(f"There is no record {store.path(spec)}; run `make figures` first.")
    return pd.DataFrame(record["tables"][name])


@dataclass(frozen=True)
class Study:
    """One question: the runs it needs, their table, its claims and its figures."""

    name: str  # of its file
    number: int  # of its notebook
    section: str  # of the paper
    question: str  # one sentence
    scales: dict[str, Scale]  # by profile
    arms: Callable[[Profile, Scale], list[Arm]]
    figures: dict[str, Callable[["OpenedStudy"], Drawn]]  # by the figure's name
    # two or three sentences each, in one or more lines, by the figure's name
    findings: dict[str, Callable[["OpenedStudy"], str]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    table: Callable[[list[Arm], RunStore], pd.DataFrame] = scores
    # profiles whose runs are still to be made: `make records` makes them, and the study is drawn
    # there only if its notebook is named
    waiting: tuple[str, ...] = ()

    def scale(self, profile_name: str) -> Scale:
        """Return the study's scale in a profile; ValueError when it has none."""
        if profile_name not in self.scales:
            raise ValueError(
                f"The study {self.name} has no scale for profile {profile_name!r}; it has one for "
                f"{', '.join(self.scales)}."
            )
        return self.scales[profile_name]

    def specs(self, base: Profile) -> list:
        """Return the distinct canonical specs of the study's arms in a profile."""
        return list(
            dict.fromkeys(arm.spec.canonical() for arm in self.arms(base, self.scale(base.name)))
        )


@dataclass(frozen=True)
class OpenedStudy:
    """A study at one scale, with the records of its runs."""

    study: Study
    base: Profile
    scale: Scale
    arms: list[Arm]
    store: RunStore
    folder: Path  # of the figures

    @cached_property
    def table(self) -> pd.DataFrame:
        """The study's table, see `Study.table`."""
        return self.study.table(self.arms, self.store)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """The verdicts, one comparison per row, with the columns `VERDICT_COLUMNS`."""
        return judge(self.study, self.table, self.scale)

    def verdict_table(self):
        """Return the verdicts to look at in a notebook: a row per question, models side by side.

        Models that share a comparison each show it. Both kinds of read-back are in one row.
        """
        found = self.verdicts
        found = found.assign(
            architecture=found["architecture"].str.split(", "),
            quantity=found["quantity"].str.replace("feature read back", "read back"),
        ).explode("architecture")
        told = found.assign(
            verdict=[
                f"{row['verdict']}, {style.counted(row['seeds'], 'seed')}\n"
                + difference_text(row).replace(" (", "\n(")
                for row in found.to_dict("records")
            ],
            matching="same " + found["matching"],
        )
        rows, models = ["claim", "quantity", "matching"], list(dict.fromkeys(told["architecture"]))
        wide = told.pivot(index=rows, columns="architecture", values="verdict")
        wide = wide.reindex(told[rows].drop_duplicates().itertuples(index=False, name=None))
        table = wide[models].fillna("").reset_index().style.hide(axis="index")
        look = {"text-align": "left", "vertical-align": "top"}
        return table.set_properties(**look).set_properties(models, **{"white-space": "pre"})

    def show(self, *names: str) -> None:
        """Draw figures, save them with data and provenance, display them and print their findings.

        ValueError when the study has no figure of that name.
        """
        for name in names:
            if name not in self.study.figures:
                raise ValueError(f"figure {name!r} is not one of {', '.join(self.study.figures)}.")
        for name in names:
            self._show(name)

    def _show(self, name: str) -> None:
        from IPython.display import Image, display  # late: making records needs no notebook

        drawn = self.study.figures[name](self)
        shown, records = drawn.shown, drawn.records
        if records is None:
            records = (
                shown["record"]
                if "record" in shown
                else [record_key(arm.spec.canonical()) for arm in self.arms]
            )
        records = sorted(set(records))
        seeds = drawn.seeds or (shown["seed"].nunique() if "seed" in shown else self.scale.seeds)
        style.stamp(drawn.figure, self.base.name, seeds, len(records))
        facts = style.provenance(
            self.base.name, seeds, records, self._counts(shown, records), **drawn.facts
        )
        facts["headline"] = style.said(drawn.figure)
        saved = style.save_figure(
            drawn.figure, shown.drop(columns="record", errors="ignore"), name, self.folder, facts
        )
        display(Image(filename=str(saved["png"]), width=round(100 * drawn.figure.get_figwidth())))
        if name in self.study.findings:
            for line in self.study.findings[name](self).splitlines():
                print(textwrap.fill(line, 100))

    def _counts(self, shown: pd.DataFrame, records: list[str]) -> dict[str, int | str]:
        """Return the samples of each metric behind a figure, such as 500 or "500 to 2500".

        Metrics are those of `shown`, or else all of the figure's runs. A measurement counts what
        it measures.
        """
        found = {}
        for arm in self.arms:
            if isinstance(arm.spec, Measurement):
                found |= self.store.load(arm.spec.canonical())["counts"]
        table = self.table
        if {"record", "metric", "samples"} <= set(table):
            own = table[table["record"].isin(records)]
            own = own[own["metric"].isin(shown["metric"])] if "metric" in shown else own
            for metric, samples in own.groupby("metric")["samples"]:
                fewest, most = int(samples.min()), int(samples.max())
                found[metric] = most if fewest == most else f"{fewest} to {most}"
        return found


def judge(study: Study, table: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Return the verdicts on a study's claims, with the columns `VERDICT_COLUMNS`.

    Architectures whose differences come from the same runs share one row.
    """
    rows = []
    for claim in study.claims:
        counted = {}
        for each in claim.compare(table, scale):
            if not len(each.differences):  # no seeds or controls at this scale
                continue
            key = (
                each.quantity,
                each.matching,
                tuple(each.differences.index),
                tuple(each.differences),
            )
            counted.setdefault(key, []).append(each)
        for same in counted.values():
            names = ", ".join(each.architecture for each in same)
            differences = same[0].differences
            rows.append(
                (
                    study.name,
                    claim.name,
                    names,
                    same[0].quantity,
                    same[0].matching,
                    *statistics.mean_interval(differences),
                    len(differences),
                    statistics.verdict(differences, claim.margin, own=not claim.reported),
                )
            )
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def tell_verdicts(opened: OpenedStudy, claim: str, quantity: str = "") -> str:
    """Return each architecture's difference and verdict: "VQ-VQ +0.111 (replicates)".

    Only comparisons whose quantity contains `quantity` are included. Intervals stand in the table
    of verdicts. The name is left out in a study of one architecture.
    """
    several = opened.verdicts["architecture"].nunique() > 1
    return ", ".join(
        f"{row['architecture']} " * several
        + f"{row['difference']:+.3f} ({row['verdict']})".replace("-", style.MINUS, 1)
        for row in _judged(opened, claim, quantity)
    )


def tell_contrasts(opened: OpenedStudy, baselines: dict[str, tuple[str, str]]) -> str:
    """Say what an arm is better and worse than: "better than A (+0.111); worse than B (−0.200)".

    `baselines` gives what the arm is held against, in words, with the claim about that and a part
    of its quantity. Baselines without a comparison are left out.
    """
    several, found = opened.verdicts["architecture"].nunique() > 1, {}
    for words, (claim, quantity) in baselines.items():
        for row in _judged(opened, claim, quantity):
            number = f"{row['difference']:+.3f}".replace("-", style.MINUS)
            told = found.setdefault(_OUTCOMES[row["verdict"]], {}).setdefault(words, [])
            told.append(f"{row['architecture']} " * several + number)
    return "; ".join(
        f"{outcome} " + ", ".join(f"{words} ({', '.join(told)})" for words, told in each.items())
        for outcome, each in found.items()
    )


def count_verdicts(opened: OpenedStudy, claim: str, quantity: str = "") -> tuple[int, int, int]:
    """Return for how many comparisons a claim holds, for how many its opposite, and of how many.

    Comparisons are included as in `tell_verdicts`. Architectures in one row count each.
    """
    counts = Counter()
    for row in _judged(opened, claim, quantity):
        counts[row["verdict"]] += len(row["architecture"].split(", "))
    return (
        counts["replicates"] + counts["yes"],
        counts["contradicts"] + counts["no"],
        counts.total(),
    )


def tell_counts(
    opened: OpenedStudy, claim: str, holds: str, opposite: str, quantity: str = ""
) -> str:
    """Say in how many architectures a claim holds and in how many its opposite; "" if in none.

    For example "faster in 2 of 4 architectures", where `holds` is "faster". Of one architecture it
    is "faster".
    """
    above, below, count = count_verdicts(opened, claim, quantity)
    return " and ".join(
        words if count == 1 else f"{words} in {number} of {count} architectures"
        for words, number in ((holds, above), (opposite, below))
        if number
    )


def _judged(opened: OpenedStudy, claim: str, quantity: str) -> list[dict]:
    found = opened.verdicts
    found = found[(found["claim"] == claim) & found["quantity"].str.contains(quantity, regex=False)]
    return found.to_dict("records")


def difference_text(row: dict) -> str:
    """Return a difference with its interval, such as "+0.012 (-0.030 to +0.054)"."""
    interval = f" ({row['low']:+.3f} to {row['high']:+.3f})" if row["seeds"] > 1 else ""
    return f"{row['difference']:+.3f}{interval}".replace("-", style.MINUS)


def find_study(name: str) -> Study:
    """Return the study called `name`; ValueError for an unknown name."""
    # a name with a dot would be a module below a module
    if name.isidentifier() and find_spec(f"uvlm_core.studies.{name}"):  # imports no other study
        module = import_module(f"uvlm_core.studies.{name}")
        if hasattr(module, "STUDY"):
            return module.STUDY
    raise ValueError(
        f"study {name!r} is not one of {', '.join(study.name for study in studies())}."
    )


class StudyError(ValueError):
    """A study that a notebook cannot open; a notebook shows its sentence without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def load_study(
    name: str,
    profile_name: str = "laptop",
    records: str | Path | None = None,
    figures: str | Path | None = None,
    **changes,
) -> OpenedStudy:
    """Open a study from its records without training; `changes` replace fields of its scale.

    A change to None leaves the field as it is. Without folders, records are those of the profile,
    and figures go below `build/`. ValueError for an unknown study, profile or field.
    """
    study, base = find_study(name), profile(profile_name)
    scale = study.scale(profile_name)
    changes = {name: value for name, value in changes.items() if value is not None}
    for field_name in changes:
        if not hasattr(scale, field_name):
            raise ValueError(
                f"{field_name!r} is not a setting of the study {name}; its settings are "
                f"{', '.join(asdict(scale))}."
            )
    scale = replace(scale, **changes)
    return OpenedStudy(
        study,
        base,
        scale,
        study.arms(base, scale),
        RunStore(ROOT / (records or f"figures/runs/{profile_name}")),
        ROOT / (figures or f"build/figures/{profile_name}"),
    )


def open_study(
    name: str,
    profile: str = "laptop",
    seeds: int | None = None,
    workers: int = 2,
    records: str | Path | None = None,
    figures: str | Path | None = None,
    train: bool = False,
    **changes,
) -> OpenedStudy:
    """Open a study in a notebook: load its records, and carry out the missing runs if asked to.

    Args:
        name: the study's name, which is also its file's.
        profile: the profile whose scale is used.
        seeds: seeds per arm; None for the scale's.
        workers: number of runs at a time.
        records: folder of records, relative to the checkout; None for the profile's.
        figures: folder of the figures that `show` saves, relative to the checkout; None for one
            below `build/`, so that no committed figure is written over.
        train: whether to carry out runs that have no record.
        changes: other fields of the scale.

    Raises: StudyError as `load_study`, and if runs are missing without `train`; `RunsFailed` when
        a run fails.
    """
    try:
        opened = load_study(name, profile, records, figures, seeds=seeds, **changes)
        specs = list(dict.fromkeys(arm.spec.canonical() for arm in opened.arms))
        found = {spec: opened.store.load(spec) for spec in specs}
    except ValueError as error:
        raise StudyError(error) from None
    missing = [spec for spec, record in found.items() if record is None]
    if missing and not train:
        folder = opened.store.folder
        folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        raise StudyError(
            f"{len(missing)} of {len(specs)} runs of {name} have no record in {folder}, such as "
            f"{describe(missing[0])}. To train them takes "
            f"{_duration(found, workers)}: set train = True in the parameters cell, or run "
            f"`make figures NOTEBOOK={opened.study.number:02d}`."
        )
    print(f"{len(opened.arms)} arms, carried out by {len(specs)} runs.")
    run_grid(specs, opened.store, workers)
    return opened


def _duration(found: dict, workers: int) -> str:
    """Say how long the runs without a record will take, judged by those with one."""
    known = {spec: sum(record["times"].values()) for spec, record in found.items() if record}
    if not known:
        return "a time that no record tells"
    pace = sum(known.values()) / sum(spec.cost() for spec in known)  # s for a unit of cost
    cost = sum(spec.cost() for spec, record in found.items() if record is None)
    minutes = max(1, round(pace * cost / workers / 60))
    return f"about {minutes} minute{'s' * (minutes > 1)} with {workers} workers"
