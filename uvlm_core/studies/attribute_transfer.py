"""Does knowledge cross from generation to understanding? (Paper section 4.3, figure 6.)

An attribute is rare in the understanding data and complete in the generation data. Unified models
are compared with understanding alone, its rows shown as often or repeated for as many steps. Two
controls test whether the requests help: requests that never mention the attribute, and requests
that name another watch's value.

Belongs here: this study's runs, claims and figures. Not here: what a baseline is (`baselines.py`),
how rows are biased (`data/conversations.py`), probes (`scoring/probing.py`).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.data.conversations import AttributeBias
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    Measurement,
    OpenedStudy,
    Study,
    arm_of,
    chance,
    tell_verdicts,
)
from uvlm_core.studies.baselines import MIXED, ONCE, REPEATED, MixedScale, baselines
from uvlm_core.studies.statistics import verdict
from uvlm_core.studies.style import (
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
    "arm",
)
_RUNS = {"understanding": ONCE, "repeated": REPEATED, "unified": MIXED}  # arm -> its run
_BASELINES = {  # arm that unified is compared with -> words
    "understanding": f"unified {MINUS} its rows\nalone, as often",
    "repeated": f"unified {MINUS} its rows\nalone, as many steps",
    "absent": f"unified {MINUS} requests\nwithout it",
    "shuffled": f"unified {MINUS} requests\nwith another's value",
}


@dataclass(frozen=True)
class TransferScale(MixedScale):
    """With each rare attribute's shares of the understanding rows."""

    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)  # rare attribute -> shares


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
    """Return arms with complete data, arms by rare attribute and rate, and the pixel probes.

    Labels: rare (an attribute, or "none" for complete data), rate (its share of the understanding
    rows, 1 for complete data), arm (one of `_RUNS`, or "absent" or "shuffled" for the controls).
    """
    found, spec = [], base.spec

    def arm(
        architecture, seed, run="unified", rare="none", rate=1.0, biases=(), shuffled=(), kind=""
    ) -> Arm:
        specs = baselines(
            base,
            scale,
            scale.seen,
            architecture=architecture,
            seed=seed,
            biases=tuple(biases),
            shuffled_attributes=shuffled,
            probe_watches=spec.scoring.test_watches,
        )
        return arm_of(specs[_RUNS[run]], rare=rare, rate=rate, arm=kind or run)

    for seed, architecture in itertools.product(range(scale.seeds), scale.architectures):
        found.append(arm(architecture, seed, "repeated"))
        for rare, rates in scale.rates.items():
            absent = AttributeBias(rare, 0.0, ("generation",))
            for rate in rates:
                few = AttributeBias(rare, rate)
                one = partial(arm, architecture, seed, rare=rare, rate=rate)
                found += [
                    one("understanding", biases=[few]),
                    one("repeated", biases=[few]),
                    one(biases=[few]),
                    one(biases=[few, absent], kind="absent"),
                    one(biases=[few], shuffled=(rare,), kind="shuffled"),
                ]
    labels = {
        "architecture": "any",
        "regime": "none",
        "rare": "none",
        "rate": 1.0,
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


def rare_scores(table: pd.DataFrame, metric: str = "partial") -> pd.DataFrame:
    """Return the score of the rare attribute after training, for every run in which one is rare.

    Columns: architecture, arm, rare, rate, seed, value. ValueError when there is none.
    """
    own = table[
        (table["metric"] == metric)
        & (table["fraction"] == 1)
        & (table["attribute"] == table["rare"])
    ]
    if own.empty:
        raise ValueError(f"The table has no {metric!r} scores of a rare attribute.")
    columns = ["architecture", "arm", "rare", "rate", "seed", "value"]
    return own[columns].reset_index(drop=True)


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


def _percent(rates: Iterable[float]) -> str:
    """Return shares as text, such as "3%, 10%"."""
    return ", ".join(f"{rate:.1%}".replace(".0%", "%") for rate in rates)


def comparing_arms(baseline: str, matching: str = "examples") -> Callable:
    """Return a function that compares unified with another arm, by the mean over rates."""

    def compare(table: pd.DataFrame, scale: TransferScale) -> Iterator[Comparison]:
        found = rare_scores(table)
        for name, (rare, rates) in itertools.product(
            known_architectures(found), scale.rates.items()
        ):
            own = found[(found["architecture"] == name) & (found["rare"] == rare)]
            mean = own.groupby(["seed", "arm"])["value"].mean().unstack()
            yield Comparison(
                name,
                f"{rare} at {_percent(rates)}, unified minus {baseline}",
                (mean["unified"] - mean[baseline]).dropna(),
                matching,
            )

    return compare


def comparing_probes(
    words: str, less: Callable[[pd.DataFrame, pd.DataFrame, str], pd.Series]
) -> Callable:
    """Return a function that compares last-layer probes with `less`, of repeated understanding."""

    def compare(table: pd.DataFrame, scale: TransferScale) -> Iterator[Comparison]:
        for name, (rare, rates) in itertools.product(
            known_architectures(table), scale.rates.items()
        ):
            probes = last_probes(table, name, rare)
            yield Comparison(
                name,
                f"{rare} at {_percent(rates)}, probe of the last layer minus {words}, repeated",
                (probes["probe"] - less(table, probes, rare)).dropna(),
            )

    return compare


def last_probes(table: pd.DataFrame, architecture: str, rare: str) -> pd.DataFrame:
    """Return the accuracy of last-layer probes and their control, of repeated understanding."""
    own = table[
        (table["architecture"] == architecture)
        & (table["arm"] == "repeated")
        & (table["rare"] == rare)
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


def gains(found: pd.DataFrame) -> pd.DataFrame:
    """Return unified minus each of `_BASELINES`, out of scores as `rare_scores` returns them.

    Columns: architecture, rare, rate, seed, difference, baseline.
    """
    keys = ["architecture", "rare", "rate", "seed"]
    wide = found.pivot_table(index=keys, columns="arm", values="value", sort=False)
    parts = [
        (wide["unified"] - wide[name])
        .dropna()
        .rename("difference")
        .reset_index()
        .assign(baseline=name)
        for name in _BASELINES
    ]
    return pd.concat(parts, ignore_index=True)


@theme()
def draw_transfer(opened: OpenedStudy) -> Drawn:
    """Draw unified minus understanding alone and minus each control, as the claims compare them.

    One baseline per panel, one rare attribute and rate per line.
    """
    table = opened.table
    need(table, "attribute_transfer", _TRANSFER_COLUMNS)
    table = table[(table["rare"] != "none") & (table["metric"] == "partial")]
    shown = gains(rare_scores(table))
    lines, names = _lines(shown), known_architectures(shown)
    figure = Figure(figsize=(PAGE, 1.4 + 0.38 * max(2, len(lines))))
    grid = figure.subplots(1, len(_BASELINES), sharex=True, sharey=True)
    for axes, (baseline, words) in zip(grid, _BASELINES.items(), strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        _draw_lines(axes, shown[shown["baseline"] == baseline], "difference", lines, names)
        axes.set(title=words, xlabel="partial credit")
    grid[0].set_ylabel("rare attribute,\nshare of rows")
    handles = [*colour_handles(names), *spread_handles(shown)]
    headline(figure, headline_of_transfer(shown), handles, 5)
    return Drawn(figure, shown, records=table["record"])


def _lines(shown: pd.DataFrame) -> list[tuple[str, float]]:
    """Return the rare attributes and rates of a table, in its order."""
    return list(dict.fromkeys(zip(shown["rare"], shown["rate"], strict=True)))


def _draw_lines(
    axes: Axes, shown: pd.DataFrame, column: str, lines: list[tuple[str, float]], names: list[str]
) -> None:
    """Draw means over seeds along x, one rare attribute and rate per line."""
    for (line, (rare, rate)), (place, name) in itertools.product(
        enumerate(lines), enumerate(names)
    ):
        own = shown[
            (shown["architecture"] == name) & (shown["rare"] == rare) & (shown["rate"] == rate)
        ]
        if len(own):
            at = line + 0.6 * ((place + 0.5) / len(names) - 0.5)
            draw_mean(axes, at, own[column], style(name), upright=False)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks(range(len(lines)), [f"{rare}, {100 * rate:g} %" for rare, rate in lines])
    axes.grid(False, axis="y")


def headline_of_transfer(shown: pd.DataFrame) -> str:
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
def draw_kappas(opened: OpenedStudy) -> Drawn:
    """Draw how far answers of unified models depend on the image.

    One rare attribute and rate per line. Cohen's kappa is 0 where answers ignore the image.
    """
    table = opened.table
    need(table, "attribute_transfer_kappa", _TRANSFER_COLUMNS)
    table = table[(table["rare"] != "none") & (table["arm"] == "unified")]
    shown = rare_scores(kappas(table), "kappa")
    lines, names = _lines(shown), known_architectures(shown)
    figure = Figure(figsize=(4.4, 1.5 + 0.38 * max(2, len(lines))))
    axes = figure.subplots()
    axes.axvline(0, **REFERENCES["chance"])
    _draw_lines(axes, shown, "value", lines, names)
    axes.set(xlabel="Cohen's kappa of answers", ylabel="rare attribute,\nshare of rows")
    handles = [
        *colour_handles(names),
        *spread_handles(shown),
        Line2D([], [], label="answers ignore the image", **REFERENCES["chance"]),
    ]
    headline(figure, headline_of_kappas(shown), handles)
    return Drawn(figure, shown, records=table["record"])


def headline_of_kappas(shown: pd.DataFrame) -> str:
    """Say where answers decidedly depend on the image: where kappa's interval is above zero."""
    found = {}  # attribute and rate -> architectures
    for (rare, rate, name), own in shown.groupby(["rare", "rate", "architecture"], sort=False):
        if verdict(own["value"], margin=None) == "replicates":
            found.setdefault(f"{rare} at {_percent([rate])}", []).append(name)
    if not found:
        return "Unified models' answers about a rare attribute are not shown to depend on the image"
    told = ", ".join(f"{', '.join(names)} ({where})" for where, names in found.items())
    return f"Unified models' answers depend on the image in {told}; elsewhere this is not shown"


# What the figures say


def tell_transfer(opened: OpenedStudy) -> str:
    """Say whether unified models know the rare attribute better, and whether requests are why."""
    told = {
        claim: tell_verdicts(opened, claim, "weather")
        for claim in ("transfer", "more than repeating", "by its requests", "by their values")
    }
    return (
        f"Weather is in {_percent(opened.scale.rates['weather'])} of the understanding rows. What "
        f"unified training gains on it over these rows alone, shown as often: {told['transfer']}; "
        f"repeated for as many steps: {told['more than repeating']}. What it gains over requests "
        f"that never mention the weather: {told['by its requests']}; that name another watch's: "
        f"{told['by their values']}."
    )


def tell_kappas(opened: OpenedStudy) -> str:
    """Say how much answers depend on the image, and what models know and do not say."""
    rates = opened.scale.rates
    found = rare_scores(kappas(opened.table), "kappa")
    means = found.groupby(["rare", "rate", "arm"])["value"].mean()
    told = "; ".join(
        f"{rare} at {_percent(most)}: unified {means[rare, most[0], 'unified']:.2f}, "
        f"understanding for as many steps {means[rare, most[0], 'repeated']:.2f}"
        for rare, most in ((rare, [max(shares)]) for rare, shares in rates.items())
    )
    held, least = rare_scores(opened.table, "constrained"), min(rates["weather"])
    held = held[(held["rare"] == "weather") & (held["arm"] == "unified") & (held["rate"] == least)]
    return (
        "A constant answer earns partial credit; Cohen's kappa gives it 0. Mean over "
        f"architectures: {told}. Unified models that may answer with nothing but the weather's "
        f"values earn {held['value'].mean():.2f} at {_percent([least])} of the rows; chance is "
        f"{chance('constrained', 'weather'):.2f}."
    )


STUDY = Study(
    name="attribute_transfer",
    number=5,
    section="4.3, figure 6",
    question="An attribute is rare where a model learns to understand: do its requests teach it?",
    scales={
        "smoke": TransferScale(1, ("VQ-VQ",), 16, 16, 8, {"weather": (0.0,)}),
        "laptop": TransferScale(8, ("VQ-VQ", "SigLIP-VQ"), 1600, 7000, 3500, {"weather": (0.1,)}),
        "smollm": TransferScale(1, ("SigLIP-VQ",), 1600, 7000, 3500, {"weather": (0.1,)}),
        "paper": TransferScale(
            1,
            ("SigLIP-VQ", "VQ-VQ"),
            120_000,
            60_000,
            0,
            {"weather": (0.0, 0.01), "battery": (0.0, 0.01)},
        ),
    },
    arms=arms,
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
            "more than repeating",
            "and more than after as many steps on repeated understanding rows",
            "4.3",
            comparing_arms("repeated", "steps"),
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
    },
    findings={
        "attribute_transfer": tell_transfer,
        "attribute_transfer_kappa": tell_kappas,
    },
)
