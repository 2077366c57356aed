"""Does knowledge cross from generation to understanding? (Paper section 4.3, figure 6.)

An attribute is rare in the understanding data and complete in the generation data. Two controls
test whether the requests help: requests that never mention the attribute, and requests that name
another watch's value.

Belongs here: this study's runs, claims and figures. Not here: how rows are biased
(`data/conversations.py`), probes (`scoring/probing.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import AttributeBias
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    Measurement,
    OpenedStudy,
    Scale,
    Study,
    arm_of,
    chance,
    generation_metric,
    sized,
    tell_verdicts,
)
from uvlm_core.studies.style import (
    COLOURS,
    PAGE,
    REFERENCES,
    draw_points,
    known_architectures,
    look_of,
    need,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import REGIMES

RARE = {  # name -> attributes made rare together: one corner hints at the other
    "weather": ("weather",),
    "battery": ("battery",),
    "corners": ("weather_corner", "battery_corner"),
    "time": ("time",),
}
FIRM = ("weather", "battery")  # every seed runs these at `firm_rates`, with controls
PIXEL_FEATURES = 128  # number of random pixel features; equals the width of the laptop's LM
_TRANSFER_COLUMNS = (
    "architecture",
    "regime",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
    "rare",
    "rate",
    "rare_in",
    "arm",
)
_TRANSFER_ARMS = {
    "understanding": "understanding",
    "unified": "unified",
    "absent": "unified, not in the requests",
    "shuffled": "unified, shuffled in the requests",
}
_TRANSFER_METRICS = {
    "partial": "partial credit",
    "constrained": "partial credit, answers held to its values",
    "kappa": "Cohen's kappa",
}


@dataclass(frozen=True)
class TransferScale(Scale):
    """A scale that adds the rows of each task and the rare attribute's shares of the rows."""

    understanding_rows: int = 5000
    generation_rows: int = 7000
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)  # rare attribute -> shares
    firm_rates: tuple[float, ...] = ()  # rates with controls; for `FIRM` in every seed


@dataclass(frozen=True)
class PixelProbes(Measurement):
    """Baseline probes of random pixel features, which each seed draws anew."""

    image_size: int  # px
    hours: int
    test_watches: int
    seed: int

    def run(self, folder: Path) -> dict:
        """Return the record's body: scores of the metrics probe and probe_control by attribute."""
        from uvlm_core.scoring import probing  # late: reading the record needs no sklearn

        watches = sample_watches(TEST_STREAM, self.test_watches, "test", hours=self.hours)
        features = probing.random_features(
            render_batch(watches, self.image_size), PIXEL_FEATURES, self.seed
        )
        found = probing.probe(features, watches)
        return {
            "scores": [
                {
                    "fraction": 1.0,
                    "metric": metric,
                    "attribute": row["attribute"],
                    "value": row[column],
                    "samples": row["samples"],
                }
                for row in found.to_dict("records")
                for metric, column in (("probe", "accuracy"), ("probe_control", "control"))
            ]
        }


def arms(base: Profile, scale: TransferScale) -> list[Arm]:
    """Return arms by rare attribute and rate, arms with complete data, and the pixel probes.

    Every seed has the `FIRM` attributes at the firm rates, with both controls. Seed 0 also has all
    attributes at all rates, with controls at the firm rates. For `FIRM` at the firm rates it adds
    the reverse direction: rare in the requests, complete in the understanding data.

    Labels: rare (a name of `RARE`, or "none" for complete data), rate (its share of the rows, 1 for
    complete data), rare_in (the task in which it is rare), arm (the regime, or "absent" or
    "shuffled" for the controls).
    """
    found, spec = [], base.spec

    def arm(
        architecture,
        seed,
        regime="unified",
        name="none",
        rate=1.0,
        rare_in="none",
        biases=(),
        shuffled=(),
        kind="",
    ) -> Arm:
        chosen = sized(
            base,
            scale.understanding_rows,
            scale.generation_rows,
            architecture=architecture,
            seed=seed,
            regime=regime,
            biases=tuple(biases),
            shuffled_attributes=shuffled,
            probe_watches=spec.scoring.test_watches,
        )
        return arm_of(chosen, rare=name, rate=rate, rare_in=rare_in, arm=kind or regime)

    for seed in range(scale.seeds):
        for architecture in scale.architectures:
            found += [
                arm(architecture, seed, regime)
                for regime in REGIMES
                if seed == 0 or regime != "generation"
            ]
            for name, rates in scale.rates.items():
                for rate in rates:
                    firm = name in FIRM and rate in scale.firm_rates
                    rare = [AttributeBias(part, rate) for part in RARE[name]]
                    one = partial(arm, architecture, seed, name=name, rate=rate)
                    here, there = "understanding", "generation"
                    if firm or seed == 0:
                        found += [
                            one("understanding", rare_in=here, biases=rare),
                            one(rare_in=here, biases=rare),
                        ]
                    if firm or (seed == 0 and rate in scale.firm_rates):
                        absent = [AttributeBias(part, 0.0, ("generation",)) for part in RARE[name]]
                        found += [
                            one(rare_in=here, biases=rare + absent, kind="absent"),
                            one(rare_in=here, biases=rare, shuffled=RARE[name], kind="shuffled"),
                        ]
                    if firm and seed == 0:
                        drawn = [AttributeBias(part, rate, ("generation",)) for part in RARE[name]]
                        found += [
                            one("generation", rare_in=there, biases=drawn),
                            one(rare_in=there, biases=drawn),
                        ]
    labels = {
        "architecture": "any",
        "regime": "none",
        "rare": "none",
        "rate": 1.0,
        "rare_in": "none",
        "arm": "random features",
    }
    return found + [
        Arm(
            PixelProbes(spec.data.image_size, spec.data.hours, spec.scoring.test_watches, seed),
            labels | {"seed": seed},
        )
        for seed in range(scale.seeds)
    ]


# What is compared


def rare_scores(table: pd.DataFrame, metric: str = "partial", others: bool = False) -> pd.DataFrame:
    """Return the mean score of the rare attribute, or of all other attributes if `others`.

    The score of "corners" is the mean of both corners. Arms with complete data have a row per rare
    attribute, with rate 1. Columns: architecture, arm, rare, rate, rare_in, seed, value.
    """
    keys = ["architecture", "arm", "rare", "rate", "rare_in", "seed"]
    chosen = table[(table["metric"] == metric) & (table["fraction"] == 1)]
    found = []
    for name, parts in RARE.items():
        if (table["rare"] == name).any():
            meant = [part for part in ATTRIBUTES if (part in parts) != others]
            own = chosen[chosen["rare"].isin((name, "none")) & chosen["attribute"].isin(meant)]
            found.append(
                own.groupby(keys, sort=False)["value"].mean().reset_index().assign(rare=name)
            )
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*keys, "value"])


def kappas(table: pd.DataFrame) -> pd.DataFrame:
    """Return Cohen's kappa of the confusions in a study's table, as rows of metric "kappa".

    Kappa is 0 for answers that ignore the image, even if they earn partial credit. A model that
    answers "50%" for every battery has partial credit .75 and kappa 0. Only rare attributes have
    confusions.
    """
    from sklearn.metrics import cohen_kappa_score  # late, as it takes a second

    own = table[table["metric"] == "confusion"]
    parts = own["attribute"].str.extract("^(?P<attribute>.*): (?P<true>.*) > (?P<said>.*)$")
    own = own.assign(**parts, samples=own["value"] * own["samples"])  # answers per confusion
    keys = [name for name in table.columns if name not in ("value", "samples")]
    found = [
        (
            *key,
            cohen_kappa_score(group["true"], group["said"], sample_weight=group["samples"]),
            round(group["samples"].sum()),
        )
        for key, group in own.groupby(keys, sort=False)
    ]
    return pd.DataFrame(found, columns=[*keys, "value", "samples"])[list(table.columns)].assign(
        metric="kappa"
    )


def _at(scale: TransferScale) -> str:
    """Return the firm rates as text."""
    return ", ".join(f"{rate:.1%}".replace(".0%", "%") for rate in scale.firm_rates)


def comparing_arms(baseline: str) -> Callable:
    """Return a function that compares unified with another arm on rare attributes at firm rates."""

    def compare(table: pd.DataFrame, scale: TransferScale) -> Iterator[Comparison]:
        found = rare_scores(table)
        found = found[(found["rare_in"] == "understanding") & found["rate"].isin(scale.firm_rates)]
        for name in known_architectures(found):
            for rare in [rare for rare in FIRM if (found["rare"] == rare).any()]:
                own = found[(found["architecture"] == name) & (found["rare"] == rare)]
                mean = own.groupby(["seed", "arm"])["value"].mean().unstack()
                yield Comparison(
                    name,
                    f"{rare} at {_at(scale)}, unified minus {baseline}",
                    (mean["unified"] - mean[baseline]).dropna(),
                )

    return compare


def comparing_probes(
    words: str, less: Callable[[pd.DataFrame, pd.DataFrame, str], pd.Series]
) -> Callable:
    """Return a function that compares understanding-only last-layer probes with baseline `less`."""

    def compare(table: pd.DataFrame, scale: TransferScale) -> Iterator[Comparison]:
        for name in known_architectures(table):
            for rare in [rare for rare in FIRM if (table["rare"] == rare).any()]:
                probes = last_probes(table, name, rare, scale.firm_rates)
                yield Comparison(
                    name,
                    f"{rare} at {_at(scale)}, probe of the last layer minus {words}, understanding",
                    (probes["probe"] - less(table, probes, rare)).dropna(),
                )

    return compare


def last_probes(
    table: pd.DataFrame, architecture: str, rare: str, rates: tuple[float, ...]
) -> pd.DataFrame:
    """Return the accuracy of understanding-only last-layer probes and their control, by seed."""
    own = table[
        (table["architecture"] == architecture)
        & (table["arm"] == "understanding")
        & (table["rare"] == rare)
        & table["rate"].isin(rates)
        & table["metric"].isin(("probe", "probe_control"))
    ]
    last = own[
        own["attribute"]
        == own.loc[own["attribute"].str.startswith(f"{rare}, layer"), "attribute"].iloc[-1]
    ]
    return last.groupby(["seed", "metric"])["value"].mean().unstack()


def _pixels(table: pd.DataFrame, probes: pd.DataFrame, rare: str) -> pd.Series:
    """Return the accuracy of probes of random pixel features, by seed."""
    own = table[
        (table["arm"] == "random features")
        & (table["metric"] == "probe")
        & (table["attribute"] == rare)
    ]
    return own.set_index("seed")["value"]


# Figures


def _understood(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of arms that learn understanding, without the reverse direction."""
    return table[(table["rare_in"] != "generation") & table["arm"].isin(_TRANSFER_ARMS)]


def drawing_rates(metric: str) -> Callable:
    """Return a function that draws a metric of the rare attribute against its share of rows."""

    def draw(opened: OpenedStudy) -> Drawn:
        need(opened.table, "attribute_transfer", _TRANSFER_COLUMNS)
        table = _understood(opened.table)
        chosen = (
            kappas(table)
            if metric == "kappa"
            else table[(table["metric"] == metric) & (table["fraction"] == 1)]
        )
        figure, shown = draw_transfer(chosen, metric)
        return Drawn(figure, shown, records=chosen["record"])

    return draw


@theme()
def draw_transfer(table: pd.DataFrame, metric: str = "partial") -> tuple[Figure, pd.DataFrame]:
    """Draw figure 6 of the paper: the rare attribute's score against its share of the rows.

    One architecture per row, one rare attribute per column; 100 % is complete data. `metric` is
    "partial", "constrained" (answers must be a value of the attribute) or "kappa". Arms with
    complete data have only "partial". Returns the figure and the scores it shows. ValueError for
    another metric.
    """
    need(table, "attribute_transfer", _TRANSFER_COLUMNS)
    if metric not in _TRANSFER_METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(_TRANSFER_METRICS)}.")
    shown = rare_scores(table, metric)
    shown = shown[
        shown["rare_in"].isin(("understanding", "none")) & shown["arm"].isin(_TRANSFER_ARMS)
    ]
    return _against_rate(
        shown, _TRANSFER_ARMS, lambda _, name: chance(metric, name), _TRANSFER_METRICS[metric]
    ), shown


@theme()
def draw_reverse(opened: OpenedStudy) -> Drawn:
    """Draw the reverse direction: read-back of an attribute against its share of the requests."""
    table = opened.table
    need(table, "attribute_transfer_reverse", _TRANSFER_COLUMNS)
    table = table[
        (table["seed"] == 0)
        & table["rare_in"].isin(("generation", "none"))
        & (table["fraction"] == 1)
        & table["metric"].isin(("read_back", "feature_read_back"))
    ]
    shown = pd.concat(
        [
            rare_scores(table[table["architecture"] == name], generation_metric(name))
            for name in known_architectures(table)
        ]
        or [pd.DataFrame(columns=[*_TRANSFER_COLUMNS])]
    )
    rare = shown.loc[shown["rare_in"] == "generation", "rare"].unique()
    shown_arms = {"generation": "generation", "unified": "unified"}
    shown = shown[shown["arm"].isin(shown_arms) & shown["rare"].isin(rare)]
    figure = _against_rate(
        shown, shown_arms, lambda name, part: chance(generation_metric(name), part), "read back"
    )
    return Drawn(figure, shown, records=table["record"])


def _against_rate(
    shown: pd.DataFrame, shown_arms: dict[str, str], least: Callable, label: str
) -> Figure:
    """Draw scores over evenly spaced rates: architectures as rows, rare attributes as columns."""
    names = known_architectures(shown)
    rares = [name for name in RARE if (shown["rare"] == name).any()]
    rates = sorted(shown["rate"].unique())
    if not names or not rares:
        raise ValueError("The table has no scores of a rare attribute to draw.")
    figure = Figure(figsize=(PAGE, 0.95 + 1.35 * len(names)))
    grid = figure.subplots(len(names), len(rares), squeeze=False)
    for number, (line, name) in enumerate(zip(grid, names, strict=True)):
        for axes, rare in zip(line, rares, strict=True):
            own = shown[(shown["architecture"] == name) & (shown["rare"] == rare)]
            for place, arm in enumerate(shown_arms):
                run = own[own["arm"] == arm]
                shift = 0.08 * (place - (len(shown_arms) - 1) / 2)  # so that bars do not overlap
                if len(run):
                    draw_points(
                        axes, run["rate"].map(rates.index) + shift, run["value"], look_of(name, arm)
                    )
            axes.axhline(
                float(np.mean([least(name, part) for part in RARE[rare]])), **REFERENCES["chance"]
            )
            axes.set(
                ylim=(min(-0.04, shown["value"].min() - 0.04), 1.04), xlim=(-0.4, len(rates) - 0.6)
            )
            axes.set_xticks(range(len(rates)), [f"{100 * rate:g}" for rate in rates])
            axes.tick_params(labelleft=axes is line[0], labelbottom=number == len(names) - 1)
            if number == 0:
                axes.set_title(rare)
        line[0].set_ylabel(name)
    figure.supxlabel("rows that may mention it, %", fontsize=8)
    figure.supylabel(label, fontsize=8)
    handles = [
        Line2D([], [], label=words, **look_of(names[0], arm) | {"color": "black"})
        for arm, words in shown_arms.items()
    ]
    handles += [*spread_handles(shown), Line2D([], [], label="chance", **REFERENCES["chance"])]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def drawing_confusion(rare: str) -> Callable:
    """Return a function that draws a rare attribute's confusions at the last firm rate."""

    def draw(opened: OpenedStudy) -> Drawn:
        return Drawn(*draw_confusion(_understood(opened.table), rare, opened.scale.firm_rates[-1]))

    return draw


@theme()
def draw_confusion(table: pd.DataFrame, rare: str, rate: float) -> tuple[Figure, pd.DataFrame]:
    """Draw confusion matrices: true classes as rows, answered classes as columns, in row shares.

    One architecture per line, one arm per panel. Shares are means over seeds of models trained with
    `rare` allowed in a share `rate` of the understanding rows. Returns the figure and the rows it
    shows. ValueError for an unknown attribute, or one without confusions.
    """
    need(table, "attribute_transfer_confusion", _TRANSFER_COLUMNS)
    if rare not in RARE:
        raise ValueError(f"rare attribute {rare!r} is not one of {', '.join(RARE)}.")
    chosen = table[
        (table["metric"] == "confusion")
        & (table["rare"] == rare)
        & (table["rate"] == rate)
        & (table["rare_in"] == "understanding")
        & table["attribute"].str.startswith(f"{RARE[rare][0]}:")
    ]
    if chosen.empty:
        raise ValueError(f"The table has no confusions of {rare!r} at rate {rate!r}.")
    pairs = chosen["attribute"].str.extract(r": (?P<true>.*) > (?P<said>.*)")
    drawn = chosen.assign(true=pairs["true"], said=pairs["said"])
    rows, columns = list(dict.fromkeys(drawn["true"])), list(dict.fromkeys(drawn["said"]))
    names = known_architectures(drawn)
    shown_arms = [arm for arm in _TRANSFER_ARMS if (drawn["arm"] == arm).any()]
    figure = Figure(figsize=(PAGE, 0.8 + (0.5 + 0.22 * len(rows)) * len(names)))
    grid = figure.subplots(len(names), len(shown_arms), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        for axes, arm in zip(line, shown_arms, strict=True):
            own = drawn[(drawn["architecture"] == name) & (drawn["arm"] == arm)]
            shares = own.pivot_table(index="true", columns="said", values="value").reindex(
                rows, columns=columns
            )
            sns.heatmap(
                shares,
                ax=axes,
                vmin=0,
                vmax=1,
                cbar=False,
                linewidths=0.5,
                fmt="",
                annot=shares.map(lambda share: f"{share:.2f}".removeprefix("0")),
                annot_kws={"fontsize": 6.5},
                cmap=sns.light_palette(COLOURS[name], as_cmap=True),
            )
            axes.set(xlabel="", ylabel=f"{name}\nshown" if axes is line[0] else "")
            axes.tick_params(
                labelleft=axes is line[0], labelbottom=line[0] is grid[-1][0], length=0
            )
            axes.set_xticks(axes.get_xticks(), columns, rotation=45, ha="right")
            axes.set_yticks(axes.get_yticks(), rows, rotation=0)
            if line[0] is grid[0][0]:
                axes.set_title(_TRANSFER_ARMS[arm].replace(", ", ",\n"))
    figure.supxlabel("answered", fontsize=8)
    return figure, chosen


# What the figures say


def tell_transfer(opened: OpenedStudy) -> str:
    """Say whether unified models know the rare attribute better, and whether requests are why."""
    return (
        f"Unified minus understanding alone on weather at {_at(opened.scale)} of the rows: "
        f"{tell_verdicts(opened, 'transfer', 'weather')}. Minus unified training whose requests "
        f"never mention it: {tell_verdicts(opened, 'by its requests', 'weather')}. A point without "
        "a bar is of one seed."
    )


def tell_constrained(opened: OpenedStudy) -> str:
    """Compare free answers with those constrained to the attribute's values."""
    table = _understood(opened.table)
    rate, told = opened.scale.firm_rates[-1], []
    for metric, words in (("partial", "free"), ("constrained", "held to its values")):
        found = rare_scores(table, metric)
        own = found[
            (found["rate"] == rate) & (found["arm"] == "unified") & (found["rare"] == "weather")
        ]
        told.append(f"{own['value'].mean():.2f} {words}")
    return (
        "A model that has hardly ever been asked may know and not say, so the question is put "
        "again with nothing but the attribute's values as possible answers. Unified models' "
        f"answers about weather at {rate:.0%}: {', '.join(told)}, mean over architectures."
    )


def tell_kappa(opened: OpenedStudy) -> str:
    """Say how much answers depend on the image."""
    found = rare_scores(kappas(_understood(opened.table)), "kappa")
    means = (
        found[found["rate"] == opened.scale.firm_rates[-1]].groupby(["rare", "arm"])["value"].mean()
    )
    told = "; ".join(
        f"{rare}: unified {means[rare, 'unified']:.2f}, understanding "
        f"{means[rare, 'understanding']:.2f}"
        for rare in RARE
        if (rare, "unified") in means.index
    )
    return (
        "A constant answer earns partial credit; Cohen's kappa gives it 0. At "
        f"{opened.scale.firm_rates[-1]:.0%} of the rows, mean over architectures: {told}."
    )


def telling_confusion(rare: str) -> Callable:
    """Return a function that describes the confusions of a rare attribute."""

    def tell(opened: OpenedStudy) -> str:
        table = opened.table
        own = table[
            (table["metric"] == "confusion")
            & (table["rare"] == rare)
            & (table["rate"] == opened.scale.firm_rates[-1])
            & (table["rare_in"] == "understanding")
            & (table["arm"] == "unified")
            & table["attribute"].str.startswith(f"{RARE[rare][0]}:")
        ]
        pairs = own["attribute"].str.extract(r": (?P<true>.*) > (?P<said>.*)")
        right = own.loc[pairs["true"] == pairs["said"], "value"].mean()
        unsaid = own.loc[pairs["said"] == "none", "value"].mean()
        return (
            f"Unified models give the right class of {rare} in {right:.0%} of the cases (mean over "
            f"classes and architectures), and no value at all in {unsaid:.0%}. Equal rows mean "
            "that the answer does not depend on what is shown."
        )

    return tell


def tell_reverse(opened: OpenedStudy) -> str:
    """Say whether understanding data help generate an attribute that requests rarely mention."""
    table = opened.table
    table = table[(table["rare_in"] == "generation") & (table["seed"] == 0)]
    told = []
    for name in known_architectures(table):
        own = rare_scores(table[table["architecture"] == name], generation_metric(name))
        means = own.groupby("arm")["value"].mean()
        told.append(f"{name} {means['unified']:.2f} against {means['generation']:.2f}")
    return (
        "Rare in the requests, complete in the understanding data; one seed, mean over attributes "
        f"and rates, unified against generation alone: {', '.join(told)}. Read-back from pixels "
        "and from features are not comparable."
    )


def left_out(scale: TransferScale) -> list[str]:
    """Return the names of the figures for which a scale has no runs."""
    names = [f"attribute_transfer_confusion_{rare}" for rare in RARE if rare not in scale.rates]
    reverse = any(rate in scale.firm_rates for rare in FIRM for rate in scale.rates.get(rare, ()))
    return names if reverse else [*names, "attribute_transfer_reverse"]


STUDY = Study(
    name="attribute_transfer",
    number=5,
    section="4.3, figure 6",
    question="An attribute is rare where a model learns to understand: do its requests teach it?",
    scales={
        "smoke": TransferScale(1, ("VQ-VQ",), 16, 16, {"weather": (0.0,)}, (0.0,)),
        "laptop": TransferScale(
            3,
            ("VQ-VQ", "SigLIP-VQ", "SigLIP-SigLIP"),
            5000,
            7000,
            dict.fromkeys(RARE, (0.0, 0.003, 0.01, 0.03, 0.1)),
            (0.03, 0.1),
        ),
        "smollm": TransferScale(1, ("SigLIP-VQ",), 5000, 7000, {"weather": (0.0, 0.03)}, (0.03,)),
        "paper": TransferScale(
            1,
            ("SigLIP-VQ", "VQ-VQ"),
            120_000,
            60_000,
            {"weather": (0.0, 0.01), "battery": (0.0, 0.01)},
            (0.0,),
        ),
    },
    arms=arms,
    left_out=left_out,
    claims=(
        Claim(
            "transfer",
            "of an attribute that is rare in the understanding data the unified model knows more, "
            "from its generation data",
            "4.3, figure 6",
            comparing_arms("understanding"),
            "yes, nearly all",
        ),
        Claim(
            "by its requests",
            "and more than with requests that do not mention the attribute",
            "4.3",
            comparing_arms("absent"),
        ),
        Claim(
            "by their values",
            "and more than with requests that mention it with another watch's values",
            "4.3",
            comparing_arms("shuffled"),
        ),
        Claim(
            "tokens carry it",
            "the image tokens of the understanding-only model carry the rare attribute too",
            "4.3, figures 7 and 8",
            comparing_probes("its control", lambda _, probes, rare: probes["probe_control"]),
            "yes",
        ),
        Claim(
            "more than pixels",
            "and more of it than random features of the pixels (asked after the runs)",
            "4.3",
            comparing_probes("that of the pixels", _pixels),
        ),
    ),
    figures={
        "attribute_transfer": drawing_rates("partial"),
        **{f"attribute_transfer_confusion_{rare}": drawing_confusion(rare) for rare in RARE},
        "attribute_transfer_constrained": drawing_rates("constrained"),
        "attribute_transfer_kappa": drawing_rates("kappa"),
        "attribute_transfer_reverse": draw_reverse,
    },
    findings={
        "attribute_transfer": tell_transfer,
        **{f"attribute_transfer_confusion_{rare}": telling_confusion(rare) for rare in RARE},
        "attribute_transfer_constrained": tell_constrained,
        "attribute_transfer_kappa": tell_kappa,
        "attribute_transfer_reverse": tell_reverse,
    },
)
