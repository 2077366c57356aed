"""Does knowledge cross from generation to understanding? (Paper section 4.3, figure 6.)

An attribute is rare in the understanding data and complete in the generation data. Two controls
test whether the requests help: requests that never mention the attribute, and requests that name
another watch's value.

Belongs here: this study's runs, claims and figures. Not here: how rows are biased
(`data/conversations.py`), probes (`scoring/probing.py`).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
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
from uvlm_core.studies.statistics import verdict
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    MINUS,
    PAGE,
    REFERENCES,
    colour_handles,
    draw_mean,
    headline,
    known_architectures,
    need,
    spread_handles,
    style,
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
_BASELINES = {  # arm that unified is compared with -> words
    "understanding": f"unified {MINUS} understanding alone",
    "absent": f"unified {MINUS} unified whose\nrequests never mention it",
    "shuffled": f"unified {MINUS} unified whose requests\nhave another watch's value",
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


def gains(found: pd.DataFrame, baselines: Iterable[str]) -> pd.DataFrame:
    """Return unified minus each baseline arm, out of scores as `rare_scores` returns them.

    Columns: architecture, rare, rate, seed, difference, baseline. ValueError when there are none.
    """
    keys = ["architecture", "rare", "rate", "seed"]
    wide = found.pivot_table(index=keys, columns="arm", values="value", sort=False)
    parts = [
        (wide["unified"] - wide[name])
        .dropna()
        .rename("difference")
        .reset_index()
        .assign(baseline=name)
        for name in baselines
        if name in wide
    ]
    if not parts:
        raise ValueError("The table has no scores of a rare attribute to draw.")
    return pd.concat(parts, ignore_index=True)


@theme()
def draw_transfer(opened: OpenedStudy) -> Drawn:
    """Draw unified minus understanding alone and minus each control, as the claims compare them.

    One baseline per panel, one rare attribute and firm rate per line.
    """
    table = opened.table
    need(table, "attribute_transfer", _TRANSFER_COLUMNS)
    table = table[
        (table["rare_in"] == "understanding")
        & table["rare"].isin(FIRM)
        & table["rate"].isin(opened.scale.firm_rates)
        & (table["metric"] == "partial")
    ]
    shown = gains(rare_scores(table), _BASELINES)
    figure = _draw_gains(
        shown, _BASELINES, "difference in partial credit", title_of_transfer(shown), PAGE
    )
    return Drawn(figure, shown, records=table["record"])


def title_of_transfer(shown: pd.DataFrame) -> str:
    """Say where unified models decidedly know more, by means over rates as in the claims."""

    def where(wanted: str, baseline: str) -> list[str]:
        own = shown[shown["baseline"] == baseline]
        return [
            f"{name} ({rare})"
            for (name, rare), one in own.groupby(["architecture", "rare"], sort=False)
            if verdict(one.groupby("seed")["difference"].mean()) == wanted
        ]

    found = {
        word: where(wanted, "understanding")
        for word, wanted in (("more", "replicates"), ("less", "contradicts"))
    }
    told = [
        f"{word} than understanding alone in {', '.join(names)}"
        for word, names in found.items()
        if names
    ]
    below = [name for control in ("absent", "shuffled") for name in where("replicates", control)]
    return (
        f"Of a rare attribute, unified models know {' and '.join(told)};\n"
        if told
        else "Unified models are not shown to know more of a rare attribute;\n"
    ) + (
        f"a control knows decidedly less in {', '.join(dict.fromkeys(below))}"
        if below
        else "no control knows decidedly less"
    )


@theme()
def draw_reverse(opened: OpenedStudy) -> Drawn:
    """Draw the reverse direction: read-back of an attribute that is rare in the requests.

    Unified minus generation alone; only seed 0 has these runs.
    """
    table = opened.table
    need(table, "attribute_transfer_reverse", _TRANSFER_COLUMNS)
    table = table[(table["seed"] == 0) & (table["rare_in"] == "generation")]
    found = [
        rare_scores(table[table["architecture"] == name], generation_metric(name))
        for name in known_architectures(table)
    ]
    if not found:
        raise ValueError("The table has no scores of a rare attribute to draw.")
    shown = gains(pd.concat(found), ["generation"])
    ahead = (shown["difference"] > 0).sum()
    title = (
        "Drawing what requests rarely mention:\n"
        f"unified is ahead in {ahead} of {len(shown)} pairs of single runs"
    )
    panel = {"generation": f"unified {MINUS} generation alone"}
    figure = _draw_gains(shown, panel, "difference in read-back", title, COLUMN)
    return Drawn(figure, shown, records=table["record"])


def _draw_gains(
    shown: pd.DataFrame, panels: dict[str, str], label: str, title: str, width: float
) -> Figure:
    """Draw differences along x, a panel per baseline; a single seed is a hollow mark."""
    names = known_architectures(shown)
    lines = [
        (rare, rate)
        for rare in FIRM
        for rate in sorted(shown.loc[shown["rare"] == rare, "rate"].unique())
    ]
    figure = Figure(figsize=(width, 1.4 + 0.38 * max(2, len(lines))))
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (baseline, words) in zip(grid, panels.items(), strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for (line, (rare, rate)), (place, name) in itertools.product(
            enumerate(lines), enumerate(names)
        ):
            own = shown[
                (shown["architecture"] == name)
                & (shown["baseline"] == baseline)
                & (shown["rare"] == rare)
                & (shown["rate"] == rate)
            ]
            if len(own):
                at = line + 0.6 * ((place + 0.5) / len(names) - 0.5)
                look = {"color": COLOURS[name], "marker": "o"} | _hollow(own)
                draw_mean(axes, at, own["difference"], look, upright=False)
        axes.set(title=words, xlabel=label, ylim=(len(lines) - 0.5, -0.5))
        axes.grid(False, axis="y")
    grid[0].set_ylabel("rare attribute,\nshare of rows")
    grid[0].set_yticks(range(len(lines)), [f"{rare}, {100 * rate:g} %" for rare, rate in lines])
    handles = [*colour_handles(names), *_spread(shown)]
    headline(figure, title, handles, 5 if width == PAGE else 2)
    return figure


def _hollow(own: pd.DataFrame) -> dict:
    """Return the look that tells a single seed from a mean over seeds."""
    return {"markerfacecolor": "white"} if own["seed"].nunique() == 1 else {}


def _spread(shown: pd.DataFrame) -> list[Line2D]:
    """Return the legend entries for intervals and for hollow marks."""
    hollow = shown.groupby(["architecture", "rare", "rate"])["seed"].nunique().min() == 1
    look = {"color": "black", "marker": "o", "markerfacecolor": "white", "linestyle": ""}
    return spread_handles(shown) + ([Line2D([], [], label="one seed", **look)] if hollow else [])


@theme()
def draw_kappas(opened: OpenedStudy) -> Drawn:
    """Draw how far answers of unified models depend on the image, against the attribute's share.

    One rare attribute per panel. Cohen's kappa is 0 where answers ignore the image.
    """
    table = opened.table
    need(table, "attribute_transfer_kappa", _TRANSFER_COLUMNS)
    table = table[(table["rare_in"] == "understanding") & (table["arm"] == "unified")]
    shown = rare_scores(kappas(table), "kappa")
    names, rates = known_architectures(shown), sorted(shown["rate"].unique())
    rares = [name for name in RARE if (shown["rare"] == name).any()]
    figure = Figure(figsize=(PAGE, 2.7))
    grid = figure.subplots(1, len(rares), squeeze=False, sharex=True, sharey=True)[0]
    for axes, rare in zip(grid, rares, strict=True):
        axes.axhline(0, **REFERENCES["chance"])
        for place, name in enumerate(names):
            own = shown[(shown["rare"] == rare) & (shown["architecture"] == name)]
            groups = own.groupby(own["rate"].map(rates.index))
            aside = 0.4 * ((place + 0.5) / len(names) - 0.5)
            axes.plot(
                [at + aside for at in groups.groups],
                [
                    draw_mean(axes, at + aside, one["value"], style(name) | _hollow(one))
                    for at, one in groups
                ],
                color=COLOURS[name],
                linewidth=0.8,
                zorder=1,
            )
        axes.set(title=rare, xlabel="share of rows, %")
        axes.set_xticks(range(len(rates)), [f"{100 * rate:g}" for rate in rates])
        axes.grid(False, axis="x")
    grid[0].set_ylabel("Cohen's kappa of answers")
    handles = [
        *colour_handles(names),
        *_spread(shown),
        Line2D([], [], label="answers ignore the image", **REFERENCES["chance"]),
    ]
    headline(figure, title_of_kappas(shown), handles)
    return Drawn(figure, shown, records=table["record"])


def title_of_kappas(shown: pd.DataFrame) -> str:
    """Say the mean of the drawn points at the highest rate, and at the rates below it."""
    points = shown.groupby(["architecture", "rare", "rate"])["value"].mean()
    rates, most = points.index.get_level_values("rate"), shown["rate"].max()
    means = points.groupby(rates < most).mean()
    told = f"at {100 * most:g} % of the rows their mean kappa is {means[False]:.2f}"
    told += f", below that {means[True]:.2f}" if True in means else ""
    return f"How far unified models' answers about a rare attribute depend on the image:\n{told}"


# What the figures say


def tell_transfer(opened: OpenedStudy) -> str:
    """Say whether unified models know the rare attribute better, and whether requests are why."""
    return (
        f"Unified minus understanding alone on weather at {_at(opened.scale)} of the rows: "
        f"{tell_verdicts(opened, 'transfer', 'weather')}. Minus unified training whose requests "
        f"never mention it: {tell_verdicts(opened, 'by its requests', 'weather')}. Attributes and "
        "rates of one seed are left out."
    )


def tell_kappas(opened: OpenedStudy) -> str:
    """Say how much answers depend on the image, and what models know and do not say."""
    rate = opened.scale.firm_rates[-1]
    table = opened.table[opened.table["rare_in"] == "understanding"]
    found = rare_scores(kappas(table), "kappa")
    means = found[found["rate"] == rate].groupby(["rare", "arm"])["value"].mean()
    told = "; ".join(
        f"{rare}: unified {means[rare, 'unified']:.2f}, understanding "
        f"{means[rare, 'understanding']:.2f}"
        for rare in RARE
        if (rare, "unified") in means.index
    )
    held = rare_scores(table[table["rate"] == table["rate"].min()], "constrained")
    weather = held[(held["rare"] == "weather") & (held["arm"] == "unified")]["value"].mean()
    return (
        "A constant answer earns partial credit; Cohen's kappa gives it 0. At "
        f"{rate:.0%} of the rows, mean over architectures: {told}. Unified models that may answer "
        f"with nothing but the weather's values earn {weather:.2f} at {table['rate'].min():.0%} of "
        f"the rows; chance is {chance('constrained', 'weather'):.2f}."
    )


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
        "Weather or battery is rare in the requests, and complete in the understanding data. Mean "
        f"read-back of it, unified against generation alone: {', '.join(told)}. There is one seed, "
        "and read-back from pixels and from features are not comparable."
    )


def left_out(scale: TransferScale) -> list[str]:
    """Return the names of the figures for which a scale has no runs."""
    reverse = any(rate in scale.firm_rates for rare in FIRM for rate in scale.rates.get(rare, ()))
    return [] if reverse else ["attribute_transfer_reverse"]


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
        "attribute_transfer": draw_transfer,
        "attribute_transfer_kappa": draw_kappas,
        "attribute_transfer_reverse": draw_reverse,
    },
    findings={
        "attribute_transfer": tell_transfer,
        "attribute_transfer_kappa": tell_kappas,
        "attribute_transfer_reverse": tell_reverse,
    },
)
