"""What does more data of one task do for the other? (Paper section 4.2, figure 5.)

One task's rows are fixed while the other's grow. Understanding-only runs of many sizes tell how
many understanding rows a generation row is worth. The growing rows are spread over the steps of the
fixed ones, so all arms of one direction take the same number of steps (in the original, they do
not: pitfall 1).

Belongs here: this study's runs, claims and figures. Not here: the paper's way to match arms
(`baselines.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Scale,
    Study,
    arm_of,
    generation_metric,
    sized,
    tell_counts,
    tell_verdicts,
)
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    MINUS,
    PAGE,
    REPORTED,
    TIMES,
    colour_handles,
    draw_points,
    headline,
    known_architectures,
    need,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import RunSpec

GENERATION_TIMES = (0.5, 1, 2, 3)  # the paper's multiples of the base number of rows
UNDERSTANDING_TIMES = (0.5, 1, 2, 3)
TIMES_OF = {"generation": GENERATION_TIMES, "understanding": UNDERSTANDING_TIMES}
ALONE_TIMES = (0.25, 0.5, 1, 2, 3)  # understanding-only: the curve of `exchange_rates`
# Reported by the authors (not ours): +120k generation rows about equal +180k understanding rows
REPORTED_RATE = 1.5
_SCALING_COLUMNS = (
    "architecture",
    "regime",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
    "understanding_rows",
    "generation_rows",
    "batch_counts",
)


@dataclass(frozen=True)
class RowsScale(Scale):
    """A scale with the base number of rows of each task."""

    rows: int = 1000


def rows_arm(spec: RunSpec, **labels) -> Arm:
    """Return an arm labelled with its rows of each task and its `batch_counts`."""
    return arm_of(
        spec,
        understanding_rows=spec.understanding_rows,
        generation_rows=spec.generation_rows,
        batch_counts=spec.training.batch_counts,
        **labels,
    )


def arms(base: Profile, scale: RowsScale) -> list[Arm]:
    """Return the arms of both directions, and understanding-only arms of several sizes.

    The last understanding-only arm is shared with the study `learning_curves`.
    """
    rows, specs = scale.rows, []
    for seed in range(scale.seeds):
        for architecture in scale.architectures:
            same = {"seed": seed, "architecture": architecture}
            specs += [
                sized(base, times * rows, 0, regime="understanding", **same)
                for times in ALONE_TIMES
            ]
            specs.append(base.spec.vary(regime="understanding", **same))
            specs += [sized(base, rows, times * rows, **same) for times in GENERATION_TIMES]
            specs.append(
                sized(base, rows, rows, regime="generation", batch_counts="generation", **same)
            )
            specs += [
                sized(base, times * rows, rows, batch_counts="generation", **same)
                for times in UNDERSTANDING_TIMES
            ]
    return [rows_arm(spec) for spec in specs]


def exchange_rates(table: pd.DataFrame, rows: int, attribute: str = "total") -> pd.DataFrame:
    """Return how many understanding rows one generation row is worth, for one architecture.

    The reference curve is the understanding-only score over its number of rows: an isotonic
    regression on all seeds, linear in the logarithm of the rows. `worth` is the number of rows
    where this curve reaches the score of a unified run with `rows` understanding rows. `rate` is
    (worth - rows) / generation_rows. A score off the curve gets the nearest end, and sets `beyond`.

    Columns: seed, generation_rows, worth (understanding rows), rate, beyond.
    """
    from sklearn.isotonic import IsotonicRegression  # late, as it takes a second

    chosen = table[
        (table["metric"] == "partial")
        & (table["attribute"] == attribute)
        & (table["fraction"] == 1)
    ]
    alone = chosen[chosen["regime"] == "understanding"]
    counts = np.sort(alone["understanding_rows"].unique())
    scale = (
        IsotonicRegression()
        .fit(np.log(alone["understanding_rows"]), alone["value"])
        .predict(np.log(counts))
    )
    unified = chosen[
        (chosen["regime"] == "unified")
        & (chosen["understanding_rows"] == rows)
        & (chosen["batch_counts"] == "understanding")
    ]
    found = []
    for _, run in unified.sort_values(["generation_rows", "seed"]).iterrows():
        worth = float(np.exp(np.interp(run["value"], scale, np.log(counts))))
        found.append(
            (
                run["seed"],
                run["generation_rows"],
                worth,
                (worth - rows) / run["generation_rows"],
                not scale[0] <= run["value"] <= scale[-1],
            )
        )
    return pd.DataFrame(found, columns=["seed", "generation_rows", "worth", "rate", "beyond"])


def _grown(
    table: pd.DataFrame, grown: str, rows: int, times: float, architecture: str
) -> pd.DataFrame:
    """Return the fixed task's totals where the task `grown` has `times` as many rows."""
    kept = _kept(grown)
    metric = "partial" if kept == "understanding" else generation_metric(architecture)
    return table[
        (table["architecture"] == architecture)
        & (table["fraction"] == 1)
        & (table["regime"] == ("unified" if times else kept))
        & (table[f"{kept}_rows"] == rows)
        & (table[f"{grown}_rows"] == round(times * rows))
        & (table["batch_counts"] == kept)
        & (table["metric"] == metric)
        & (table["attribute"] == "total")
    ]


def _kept(grown: str) -> str:
    return "understanding" if grown == "generation" else "generation"


def gains(table: pd.DataFrame, grown: str, rows: int) -> pd.DataFrame:
    """Return the fixed task's totals, and what each has gained by the rows of the task `grown`.

    Adds the columns grown and difference: the total minus that of the same seed without such rows.
    """
    parts = []
    for name in known_architectures(table):
        without = _grown(table, grown, rows, 0, name).set_index("seed")["value"]
        for times in (0, *TIMES_OF[grown]):
            own = _grown(table, grown, rows, times, name)
            parts.append(
                own.assign(grown=grown, difference=own["value"] - own["seed"].map(without))
            )
    return pd.concat(parts)


def comparing_rows(grown: str, least: float, most: float):
    """Return a function that compares the most rows of the task `grown` with the least."""

    def compare(table: pd.DataFrame, scale: RowsScale) -> Iterator[Comparison]:
        for name in known_architectures(table):
            ends = [
                _grown(table, grown, scale.rows, times, name).set_index("seed")["value"]
                for times in (most, least)
            ]
            yield Comparison(
                name, f"total, {grown} x {most} minus x {least}", (ends[0] - ends[1]).dropna()
            )

    return compare


def compare_rates(table: pd.DataFrame, scale: RowsScale) -> Iterator[Comparison]:
    """Compare the worth of a generation row with that of an understanding row."""
    for name in known_architectures(table):
        rates = exchange_rates(table[table["architecture"] == name], scale.rows)
        rates = rates[rates["generation_rows"] == scale.rows].set_index("seed")["rate"]
        yield Comparison(name, f"rate at {scale.rows:,} generation rows, minus 1", rates - 1)


@theme()
def draw_scaling(opened: OpenedStudy) -> Drawn:
    """Draw figure 5 of the paper: what one task gains as the other's rows grow up to threefold."""
    table, rows = opened.table, opened.scale.rows
    need(table, "data_scaling", _SCALING_COLUMNS)
    found = {grown: gains(table, grown, rows) for grown in TIMES_OF}
    shown = pd.concat(found.values())
    names = known_architectures(shown)
    figure = Figure(figsize=(PAGE, 2.7))
    grid = figure.subplots(1, len(found), sharey=True)
    for axes, (grown, chosen) in zip(grid, found.items(), strict=True):
        kept, score = _kept(grown), "read back" if grown == "understanding" else "partial credit"
        axes.axhline(0, color="black", linewidth=0.6)
        for number, name in enumerate(names):
            own = chosen[chosen["architecture"] == name]
            shift = 0.05 * (number - (len(names) - 1) / 2)  # so that no seed hides another
            at = own[f"{grown}_rows"] / rows + shift
            draw_points(axes, at, own["difference"], {"color": COLOURS[name], "marker": "o"})
        axes.set_title(f"{kept}, {rows:,} rows in every run")
        axes.set_xlabel(f"{grown} rows beside them ({TIMES} {rows:,})")
        axes.set_ylabel(f"gain in total {score}")
    headline(
        figure,
        headline_of_scaling(opened),
        [*colour_handles(names), *spread_handles(shown)],
        ncols=6,
    )
    return Drawn(figure, shown)


def headline_of_scaling(opened: OpenedStudy) -> str:
    """Return whether one task's rows are decided to help the other, in one sentence."""
    parts = []
    for grown in TIMES_OF:
        words = [f"{grown} rows {verb} {_kept(grown)}" for verb in ("help", "hinder")]
        parts.append(tell_counts(opened, f"{grown} data help", *words))
    if any(parts):
        return f"More {' and '.join(filter(None, parts))}"
    return "Rows of one task are not shown to help or hinder the other"


@theme()
def draw_exchange(opened: OpenedStudy) -> Drawn:
    """Draw how many understanding rows a generation row is worth."""
    table, rows = opened.table, opened.scale.rows
    need(table, "data_scaling_exchange", _SCALING_COLUMNS)
    shown = pd.concat(
        [
            exchange_rates(table[table["architecture"] == name], rows).assign(architecture=name)
            for name in known_architectures(table)
        ]
    )
    names = known_architectures(shown)
    figure = Figure(figsize=(COLUMN, 3.1))
    axes = figure.subplots()
    for number, name in enumerate(names):
        own = shown[shown["architecture"] == name]
        shift = 0.05 * (number - (len(names) - 1) / 2)
        at = own["generation_rows"] / rows + shift
        draw_points(axes, at, own["rate"], {"color": COLOURS[name], "marker": "o"})
    axes.axhline(0, color="black", linewidth=0.6)
    equal = {"color": "black", "linestyle": (0, (1, 1.5)), "linewidth": 1}
    reported = {"color": REPORTED["color"], "linestyle": (0, (5, 2)), "linewidth": 1}
    axes.axhline(1, **equal)
    axes.axhline(REPORTED_RATE, **reported)
    axes.set_xlabel(f"generation rows ({TIMES} {rows:,})")
    axes.set_ylabel("worth of a generation row,\nin understanding rows")
    handles = [
        *colour_handles(names),
        *spread_handles(shown),
        Line2D([], [], label="equal worth", **equal),
        Line2D([], [], label="authors' record (SigLIP-VQ)", **reported),
    ]
    headline(figure, headline_of_exchange(opened), handles, ncols=2)
    shown = shown[["architecture", "seed", "generation_rows", "worth", "rate", "beyond"]]
    return Drawn(figure, shown, {"reported by the authors": {"SigLIP-VQ": REPORTED_RATE}})


def headline_of_exchange(opened: OpenedStudy) -> str:
    """Return whether a generation row is worth more than an understanding row, in one sentence."""
    words = [f"{how} than an understanding row" for how in ("more", "less")]
    told = tell_counts(opened, "worth of a request", *words)
    if told:
        return f"A generation row is worth {told}"
    return "A generation row is not shown to be worth more or less than an understanding row"


def tell_scaling(opened: OpenedStudy) -> str:
    """Say what the other task's data add in both directions."""
    return (
        f"Three times as many generation rows as understanding rows, against none: "
        f"{tell_verdicts(opened, 'generation data help')}. In the other direction: "
        f"{tell_verdicts(opened, 'understanding data help')}."
    )


def tell_exchange(opened: OpenedStudy) -> str:
    """Say what a generation row is worth, and how that is read off."""
    table, rows = opened.table, opened.scale.rows
    found = []
    for name in known_architectures(table):
        rates = exchange_rates(table[table["architecture"] == name], rows)
        own = rates.loc[rates["generation_rows"] == rows, "rate"]
        found.append(f"{own.mean():.2f} understanding rows for {name}".replace("-0", f"{MINUS}0"))
    return (
        f"At {rows:,} generation rows, a generation row is worth {' and '.join(found)}, mean of "
        f"{opened.scale.seeds} seeds. Its worth is read off the scores of understanding alone "
        f"with fewer and more rows. The authors report {REPORTED_RATE} for SigLIP-VQ."
    )


STUDY = Study(
    name="data_scaling",
    number=3,
    section="4.2, figure 5",
    question="With the data of one task fixed, how does its score grow with the data of the other?",
    scales={
        "smoke": RowsScale(1, ("VQ-VQ",), 16),
        "laptop": RowsScale(2, ("SigLIP-VQ", "VQ-VQ"), 1000),
        "smollm": RowsScale(1, ("SigLIP-VQ",), 1000),
        "paper": RowsScale(1, ("SigLIP-VQ", "VQ-VQ"), 60_000),
    },
    arms=arms,
    claims=(
        Claim(
            "generation data help",
            "with the understanding data fixed, generation data improve understanding",
            "4.2, figure 5",
            comparing_rows("generation", 0, GENERATION_TIMES[-1]),
            "yes, SigLIP-VQ",
        ),
        Claim(
            "benefit grows",
            "the benefit grows with the amount of generation data",
            "4.2, figure 5",
            comparing_rows("generation", GENERATION_TIMES[0], GENERATION_TIMES[-1]),
            "yes, SigLIP-VQ",
        ),
        Claim(
            "understanding data help",
            "with the generation data fixed, understanding data improve generation",
            "4.2, figure 5",
            comparing_rows("understanding", 0, UNDERSTANDING_TIMES[-1]),
            "yes, SigLIP-VQ",
        ),
        Claim(
            "worth of a request",
            "a generation example is worth more to understanding than an understanding example",
            "4.2",
            compare_rates,
            "+120k generation about equals +180k understanding: 1.5",
            margin=None,
        ),
    ),
    figures={"data_scaling": draw_scaling, "data_scaling_exchange": draw_exchange},
    findings={"data_scaling": tell_scaling, "data_scaling_exchange": tell_exchange},
)
