"""What every study is made of, and the one call that opens a study in a notebook (no section of the
paper).

Belongs here: `Study`, its scales, arms and claims, `Measurement` for what trains no model, and
`open_study`. Not here: any single question (one file each), the verdict's rule (`statistics.py`),
how a figure looks (`style.py`).
"""

import json
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, display
from matplotlib.figure import Figure

from uvlm_core.data.attributes import ATTRIBUTES, chances
from uvlm_core.environment import ROOT
from uvlm_core.models.kinds import output_of
from uvlm_core.runs.grid import run_grid
from uvlm_core.runs.store import SCORE_COLUMNS, RunStore, record_key
from uvlm_core.studies import statistics, studies, style
from uvlm_core.training.profiles import Profile, profile
from uvlm_core.training.spec import RunSpec

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


@dataclass(frozen=True)
class Scale:
    """How large a study is in one profile. A study adds its own fields: rows, doses, rates."""

    seeds: int
    architectures: tuple[str, ...] = ()

    def __post_init__(self):
        if type(self.seeds) is not int or self.seeds < 1:
            raise ValueError(f"seeds {self.seeds!r} is not an integer from 1 up.")


@dataclass(frozen=True)
class Arm:
    """One run that a study asks for, with the labels of its rows in the study's table.

    `spec` is a RunSpec or a `Measurement`. Several arms may be carried out by one run
    (`RunSpec.canonical`).
    """

    spec: object
    labels: dict[str, object]  # column -> value, such as {"architecture": "VQ-VQ", "seed": 0}


@dataclass(frozen=True)
class Measurement:
    """A record that trains no model.

    A subclass adds its settings as fields, and `run(folder)`, which returns a record's body:
    {"scores": [...]}, and {"tables": {name: {column: values}}} where scores are not enough.
    """

    def to_dict(self) -> dict:
        """Return the measurement as plain JSON values."""
        return json.loads(json.dumps({"measurement": type(self).__name__} | asdict(self)))

    @property
    def networks(self) -> tuple[str, ...]:
        """The frozen networks that the result depends on."""
        return ()

    def canonical(self) -> "Measurement":
        """Return the run that carries this out: itself."""
        return self

    def cost(self) -> float:
        """Return what it costs relative to a training row."""
        return 100.0


@dataclass(frozen=True)
class Comparison:
    """A difference per seed of one architecture, above zero where the claim holds."""

    architecture: str
    quantity: str
    differences: pd.Series  # by seed
    matching: str = "steps"


@dataclass(frozen=True)
class Claim:
    """A sentence that a study judges, by a quantity that is fixed before the runs."""

    name: str
    words: str
    section: str  # of the paper
    compare: Callable[[pd.DataFrame, Scale], Iterable[Comparison]]
    reported: str = ""  # what the paper reports; empty for a question of our own
    # smallest effect of interest; None: "no effect" is never a verdict
    margin: float | None = statistics.MARGIN


@dataclass(frozen=True)
class Drawn:
    """A figure, the rows that it shows (its CSV), and what its provenance adds."""

    figure: Figure
    shown: pd.DataFrame
    facts: dict = field(default_factory=dict)
    # keys of the runs behind it; if None those of `shown`, or else all of the study
    records: Iterable[str] | None = None
    seeds: int | None = None  # per arm; those of `shown`, or else the scale's


REGIME_CHANGES = {  # what an arm changes in the profile's spec, in the order of drawing
    "understanding": {"regime": "understanding"},
    "generation": {"regime": "generation"},
    "unified": {"regime": "unified"},
    "shuffled": {
        "regime": "unified",
        "shuffled_requests": True,
    },  # control: each request with another row's image
}
CONTROLLED, CONTROL_SEEDS = (
    "VQ-VQ",
    2,
)  # the architecture that has the control, and its seeds: it is no close call
_GUESSES = {
    "partial": chances(),
    "constrained": chances(),
    "kappa": dict.fromkeys(ATTRIBUTES, 0.0),
    "read_back": chances(read_back=True),
    "feature_read_back": chances(read_back=True),
}


def arm_of(spec: RunSpec, **labels) -> Arm:
    """Return a spec as an arm labelled architecture, regime (the arm's), seed, and more."""
    regime = "shuffled" if spec.data.shuffled_requests else spec.training.regime
    return Arm(
        spec,
        {"architecture": spec.model.architecture, "regime": regime, "seed": spec.training.seed}
        | labels,
    )


def regime_arms(spec: RunSpec, scale: Scale) -> list[Arm]:
    """Return both tasks and each alone, by seed and architecture; for one the control."""
    return [
        arm_of(spec.vary(architecture=architecture, seed=seed, **change))
        for seed in range(scale.seeds)
        for architecture in scale.architectures
        for name, change in REGIME_CHANGES.items()
        if name != "shuffled" or (architecture == CONTROLLED and seed < CONTROL_SEEDS)
    ]


def sized(base: Profile, understanding: float, generation: float, **changes) -> RunSpec:
    """Return a run of so many understanding and generation rows, scored at its end only.

    Captions have the profile's share of the understanding rows.
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
    """Return the metric of attributes that are read from what an architecture generates."""
    return output_of(architecture).read_back


def chance(metric: str, attribute: str) -> float:
    """Return what guessing scores in a metric; of "total" the mean over the attributes."""
    if metric not in _GUESSES:
        raise ValueError(
            f"metric {metric!r} has no score of guessing; those that have are "
            f"{', '.join(_GUESSES)}."
        )
    table = _GUESSES[metric]
    return float(
        np.mean([table[name] for name in (ATTRIBUTES if attribute == "total" else (attribute,))])
    )


def scores(arms: list[Arm], store: RunStore) -> pd.DataFrame:
    """Return the scores of arms whose runs have their records, one value a row.

    Columns: the arms' labels, record (its key), fraction, metric, attribute, value, samples.
    ValueError names the first arm without a record.
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
    """Return a table of a measurement's record; ValueError where there is no record."""
    record = store.load(spec)
    if record is None:
        raise ValueError(f"There is no record {store.path(spec)}; run `make figures` first.")
    return pd.DataFrame(record["tables"][name])


@dataclass(frozen=True)
class Study:
    """One question: which runs it needs, their table, what is judged by it, and its figures."""

    name: str  # its file's
    number: int  # its notebook's
    section: str  # of the paper
    question: str  # one sentence
    scales: dict[str, Scale]  # by profile
    arms: Callable[[Profile, Scale], list[Arm]]
    figures: dict[str, Callable[["OpenedStudy"], Drawn]]  # by the figure's name
    findings: dict[str, Callable[["OpenedStudy"], str]] = field(
        default_factory=dict
    )  # two or three sentences each
    claims: tuple[Claim, ...] = ()
    table: Callable[[list[Arm], RunStore], pd.DataFrame] = scores
    left_out: Callable[[Scale], Iterable[str]] = (
        lambda scale: ()
    )  # figures that a scale has no runs for

    def scale(self, profile_name: str) -> Scale:
        """Return the study's scale in a profile; ValueError for a profile that has none."""
        if profile_name not in self.scales:
            raise ValueError(
                f"The study {self.name} has no scale for profile {profile_name!r}; it has one for "
                f"{', '.join(self.scales)}."
            )
        return self.scales[profile_name]

    def specs(self, base: Profile) -> list:
        """Return the different runs that carry out the study's arms in a profile."""
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

    @property
    def figures(self) -> list[str]:
        """The names of the study's figures at this scale."""
        return [name for name in self.study.figures if name not in self.study.left_out(self.scale)]

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row a comparison, with the columns `VERDICT_COLUMNS`."""
        return judge(self.study, self.table, self.scale)

    def show(self, *names: str) -> None:
        """Draw figures, save each with data and provenance, display it, and print its finding."""
        for name in names:
            if name not in self.figures:
                raise ValueError(f"figure {name!r} is not one of {', '.join(self.figures)}.")
        for name in names:
            self._show(name)

    def _show(self, name: str) -> None:
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
        counts = {
            "test watches": self.base.spec.scoring.test_watches,
            "generated watches": self.base.spec.scoring.generated_watches,
        }
        facts = style.provenance(self.base.name, seeds, records, counts, **drawn.facts)
        saved = style.save_figure(
            drawn.figure, shown.drop(columns="record", errors="ignore"), name, self.folder, facts
        )
        display(Image(filename=str(saved["png"]), width=round(100 * drawn.figure.get_figwidth())))
        if name in self.study.findings:
            print(textwrap.fill(self.study.findings[name](self), 100))


def judge(study: Study, table: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Return the verdicts on a study's claims; what the same runs carry out counts once."""
    rows = []
    for claim in study.claims:
        counted = {}
        for each in claim.compare(table, scale):
            if not len(each.differences):  # a scale without seeds or controls for it
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
    """Return a claim's comparisons in words: each architecture's difference, interval and verdict.

    `quantity` is a part of the name of the quantities that are meant.
    """
    found = opened.verdicts
    found = found[(found["claim"] == claim) & found["quantity"].str.contains(quantity, regex=False)]
    return "; ".join(
        f"{row['architecture']} {difference_text(row)}, {row['verdict']}"
        for row in found.to_dict("records")
    )


def difference_text(row: dict) -> str:
    """Return the difference of a comparison with its interval, as in "+0.012 (-0.030 to
    +0.054)".
    """
    interval = f" ({row['low']:+.3f} to {row['high']:+.3f})" if row["seeds"] > 1 else ""
    return f"{row['difference']:+.3f}{interval}".replace("-", style.MINUS)


def find_study(name: str) -> Study:
    """Return the study of a name; ValueError for an unknown one."""
    if find_spec(f"uvlm_core.studies.{name}") is not None:  # the others need not be imported
        module = import_module(f"uvlm_core.studies.{name}")
        if hasattr(module, "STUDY"):
            return module.STUDY
    raise ValueError(
        f"study {name!r} is not one of {', '.join(study.name for study in studies())}."
    )


def load_study(
    name: str,
    profile_name: str = "laptop",
    records: str | Path = "figures/runs/laptop",
    figures: str | Path = "build/figures",
    **changes,
) -> OpenedStudy:
    """Open a study from records, training nothing; `changes` replace fields of its scale."""
    study, base = find_study(name), profile(profile_name)
    scale = study.scale(profile_name)
    for field_name in changes:
        if not hasattr(scale, field_name):
            raise ValueError(
                f"{field_name!r} is not a setting of the study {name}; its settings are "
                f"{', '.join(asdict(scale))}."
            )
    scale = replace(scale, **changes)
    return OpenedStudy(
        study, base, scale, study.arms(base, scale), RunStore(ROOT / records), ROOT / figures
    )


def open_study(
    name: str,
    profile: str = "laptop",
    seeds: int | None = None,
    workers: int = 2,
    records: str | Path = "figures/runs/laptop",
    figures: str | Path = "build/figures",
    **changes,
) -> OpenedStudy:
    """Open a study in a notebook: load the records of its runs, and make those that are missing.

    Args:
        name: of the study, which is its file's.
        profile: of its scale.
        seeds: seeds per arm; those of the scale if None.
        workers: runs at a time.
        records: folder of records, relative to the checkout.
        figures: folder of the figures that `show` saves, relative to the checkout.
        changes: other fields of the scale.
    """
    changes |= {} if seeds is None else {"seeds": seeds}
    opened = load_study(name, profile, records, figures, **changes)
    specs = list(dict.fromkeys(arm.spec.canonical() for arm in opened.arms))
    print(f"{len(opened.arms)} arms, carried out by {len(specs)} runs.")
    run_grid(specs, opened.store, workers)
    return opened
