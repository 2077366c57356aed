"""What does more data of one task do for the other? (Paper section 4.2, figure 5.)

One task's rows are fixed while the other's grow. Understanding-only runs of many sizes tell how
many understanding rows a generation row is worth. The growing rows are spread over the steps of the
fixed ones, so all arms of one direction take the same number of steps (in the original, they do
not: pitfall 1).

Belongs here: this study's runs, claims and figures. Not here: other ways to match arms
(`matching.py`).
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
    chance,
    generation_metric,
    sized,
    tell_verdicts,
)
from uvlm_core.studies.style import (
    COLOURS,
    LINES,
    MINUS,
    PAGE,
    REFERENCES,
    REPORTED,
    TIMES,
    colour_handles,
    draw_points,
    known_architectures,
    look_of,
    need,
    of_arm,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import RunSpec

GENERATION_TIMES = (0.5, 1, 2, 3)  # the paper's multiples of the base number of rows
UNDERSTANDING_TIMES = (0.5, 1, 2, 3)
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

    The last understanding-only arm is shared with the study `mutual_benefit`.
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
) -> pd.Series:
    """Return the fixed task's total by seed, where the task `grown` has `times` as many rows."""
    kept = "understanding" if grown == "generation" else "generation"
    metric = "partial" if kept == "understanding" else generation_metric(architecture)
    chosen = table[
        (table["architecture"] == architecture)
        & (table["fraction"] == 1)
        & (table["regime"] == ("unified" if times else kept))
        & (table[f"{kept}_rows"] == rows)
        & (table[f"{grown}_rows"] == round(times * rows))
        & (table["batch_counts"] == kept)
        & (table["metric"] == metric)
        & (table["attribute"] == "total")
    ]
    return chosen.set_index("seed")["value"]


def comparing_rows(grown: str, least: float, most: float):
    """Return a function that compares the most rows of the task `grown` with the least."""

    def compare(table: pd.DataFrame, scale: RowsScale) -> Iterator[Comparison]:
        for name in known_architectures(table):
            ends = [_grown(table, grown, scale.rows, times, name) for times in (most, least)]
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
    """Draw figure 5 of the paper: one task's rows are fixed, the other's grow up to threefold."""
    table, rows = opened.table, opened.scale.rows
    need(table, "data_scaling", _SCALING_COLUMNS)
    last = table[(table["fraction"] == 1) & table["attribute"].isin(("total", "time"))]
    answers = last[
        (last["understanding_rows"] == rows)
        & (last["metric"] == "partial")
        & (last["batch_counts"] == "understanding")
    ]
    drawn = last[
        (last["generation_rows"] == rows)
        & (last["batch_counts"] == "generation")
        & last["metric"].isin(("read_back", "feature_read_back"))
        & (last["attribute"] == "total")
    ]
    figure = Figure(figsize=(PAGE, 2.5))
    grid = figure.subplots(1, 3)
    for axes, chosen, attribute, grown in zip(
        grid,
        (answers, answers, drawn),
        ("total", "time", "total"),
        ("generation", "generation", "understanding"),
        strict=True,
    ):
        chosen = chosen[chosen["attribute"] == attribute]
        names = known_architectures(chosen)
        for number, name in enumerate(names):
            own = chosen[chosen["architecture"] == name]
            shift = 0.05 * (number - (len(names) - 1) / 2)
            draw_points(
                axes,
                own[f"{grown}_rows"] / rows + shift,
                own["value"],
                {"color": COLOURS[name], "marker": "o"},
            )
        if len(chosen):
            axes.axhline(chance(chosen["metric"].iloc[0], attribute), **REFERENCES["chance"])
        kind = "read back" if grown == "understanding" else "partial credit"
        axes.set(
            xlabel=f"{grown} rows ({TIMES} {rows:,})", title=f"{attribute}, {kind}", ylim=(0, 1.04)
        )
    grid[0].set_ylabel("score at the end of training")
    shown = pd.concat([answers, drawn])
    handles = [
        Line2D([], [], color=COLOURS[name], marker="o", label=name)
        for name in known_architectures(shown)
    ]
    figure.legend(
        handles=[
            *handles,
            *spread_handles(shown),
            Line2D([], [], label="chance", **REFERENCES["chance"]),
        ],
        loc="outside upper center",
        ncols=6,
    )
    return Drawn(figure, shown)


@theme()
def draw_exchange(opened: OpenedStudy) -> Drawn:
    """Draw the understanding-only curve and the exchange rates of generation rows."""
    table, rows = opened.table, opened.scale.rows
    need(table, "data_scaling_exchange", _SCALING_COLUMNS)
    last = table[
        (table["fraction"] == 1) & (table["metric"] == "partial") & (table["attribute"] == "total")
    ]
    names = known_architectures(last)
    figure = Figure(figsize=(PAGE, 2.7))
    scale, rate = figure.subplots(1, 2, width_ratios=(1.3, 1))
    shown = []
    for name in names:
        own = last[last["architecture"] == name]
        alone = of_arm(own, name, "understanding")
        draw_points(
            scale, alone["understanding_rows"], alone["value"], look_of(name, "understanding")
        )
        unified = own[
            (own["regime"] == "unified")
            & (own["understanding_rows"] == rows)
            & (own["batch_counts"] == "understanding")
        ]
        means = unified.groupby("generation_rows")["value"].mean()
        scale.plot([rows] * len(means), means, **look_of(name, "unified") | {"linestyle": ""})
        found = exchange_rates(own, rows)
        draw_points(rate, found["generation_rows"], found["rate"], look_of(name, "unified"))
        shown.append(found.assign(architecture=name))
    scale.set(
        xscale="log", xlabel="understanding rows", ylabel="total, partial credit", title="the scale"
    )
    scale.axhline(chance("partial", "total"), **REFERENCES["chance"])
    counts = last.loc[last["understanding_rows"] > 0, "understanding_rows"]
    scale.set_xticks(sorted({counts.min(), rows, counts.max()}))
    scale.set_xticks([], minor=True)
    scale.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    rate.axhline(0, color="black", linewidth=0.6)
    rate.axhline(REPORTED_RATE, color=REPORTED["color"], linestyle=(0, (5, 2)), linewidth=1)
    low, high = rate.dataLim.y0, rate.dataLim.y1
    rate.set(
        xlabel="generation rows added",
        ylabel="understanding rows a row",
        title="rate of exchange",
        ylim=(max(-3.0, min(-0.4, low) - 0.1), min(4.0, max(REPORTED_RATE, high) + 0.3)),
    )
    handles = colour_handles(names)
    handles += [
        Line2D([], [], color="black", label=regime, **LINES[regime] | extra)
        for regime, extra in (("understanding", {"markerfacecolor": "white"}), ("unified", {}))
    ]
    handles += [
        *spread_handles(last),
        Line2D([], [], label="chance", **REFERENCES["chance"]),
        Line2D(
            [],
            [],
            color=REPORTED["color"],
            linestyle=(0, (5, 2)),
            linewidth=1,
            label="authors' record (SigLIP-VQ)",
        ),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    rates = pd.concat(shown)[["architecture", "seed", "generation_rows", "worth", "rate", "beyond"]]
    return Drawn(figure, rates, {"reported by the authors": {"SigLIP-VQ": REPORTED_RATE}})


def tell_scaling(opened: OpenedStudy) -> str:
    """Say what the other task's data add in both directions."""
    return (
        f"Three times as many generation rows as understanding rows, against none: "
        f"{tell_verdicts(opened, 'generation data help')}. In the other direction: "
        f"{tell_verdicts(opened, 'understanding data help')}."
    )


def tell_exchange(opened: OpenedStudy) -> str:
    """Say what a generation row is worth."""
    table, rows = opened.table, opened.scale.rows
    found = []
    for name in known_architectures(table):
        rates = exchange_rates(table[table["architecture"] == name], rows)
        own = rates.loc[rates["generation_rows"] == rows, "rate"]
        found.append(f"{own.mean():.2f} understanding rows for {name}".replace("-0", f"{MINUS}0"))
    return (
        f"At {rows:,} generation rows, a generation row is worth {' and '.join(found)}, mean of "
        f"{opened.scale.seeds} seeds. The authors report {REPORTED_RATE} for SigLIP-VQ."
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
