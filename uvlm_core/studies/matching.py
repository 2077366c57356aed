"""Does the benefit depend on how the arms are matched? (Paper section 4.2; pitfall 1.)

Three rules match an understanding-only arm with a unified arm:

steps     same understanding rows in the same optimiser steps; generation rows are added to each
examples  the paper's rule: same understanding rows in steps of one size; unified takes more steps
tokens    same number of tokens in steps of one size; understanding-only sees more rows

Belongs here: this study's runs, claim and figure. Not here: the number of rows as a factor
(`data_scaling.py`).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pandas as pd
from matplotlib.figure import Figure

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import sample_watches
from uvlm_core.studies.base import (
    Arm,
    Comparison,
    Drawn,
    OpenedStudy,
    Study,
    count_verdicts,
    sized,
)
from uvlm_core.studies.data_scaling import RowsScale, rows_arm
from uvlm_core.studies.mutual_benefit import STUDY as MUTUAL_BENEFIT
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    MINUS,
    colour_handles,
    draw_mean,
    headline,
    known_architectures,
    need,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import ARCHITECTURES, RunSpec

MATCHINGS = ("steps", "examples", "tokens")


def arms(base: Profile, scale: RowsScale) -> list[Arm]:
    """Return both arms of each rule; an arm that two rules share is listed twice."""
    rows, found = scale.rows, []
    ratios = {name: tokens_ratio(base.spec.vary(architecture=name)) for name in scale.architectures}
    for seed in range(scale.seeds):
        for name in scale.architectures:
            same = {"seed": seed, "architecture": name}
            alone = sized(base, rows, rows, regime="understanding", **same)
            mixed = sized(base, rows, rows, batch_counts="all", **same)
            more = sized(base, rows * (1 + ratios[name]), rows, regime="understanding", **same)
            pairs = {
                "steps": (alone, sized(base, rows, rows, **same)),
                "examples": (alone, mixed),
                "tokens": (more, mixed),
            }
            found += [
                rows_arm(spec, matching=rule) for rule, pair in pairs.items() for spec in pair
            ]
    return found


@cache
def tokens_ratio(spec: RunSpec, count: int = 200) -> float:
    """Return the mean tokens of a generation row divided by those of an understanding row."""
    from uvlm_core.training.sizes import text_processor  # late, as it imports torch

    processor, _ = text_processor(spec)
    watches, means = sample_watches(0, count), {}
    for task in ("vqa", "caption", "generation"):
        talks = make_conversations(watches, task, 0, spec.data.turns, (), spec.data.mention_rate)
        means[task] = sum(len(processor.row(talk, 0).ids) for talk in talks) / count
    captions = spec.data.caption_examples / (spec.data.vqa_examples + spec.data.caption_examples)
    return means["generation"] / ((1 - captions) * means["vqa"] + captions * means["caption"])


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return the final understanding total of unified minus that of understanding-only.

    Columns: architecture, matching, seed, difference.
    """
    chosen = table[
        (table["metric"] == "partial") & (table["attribute"] == "total") & (table["fraction"] == 1)
    ]
    wide = chosen.pivot_table(
        index=["architecture", "matching", "seed"], columns="regime", values="value"
    )
    found = (wide["unified"] - wide["understanding"]).dropna().rename("difference").reset_index()
    order = [(rule, name) for rule in MATCHINGS for name in COLOURS]
    keys = list(zip(found["matching"], found["architecture"], strict=True))
    return found.iloc[sorted(range(len(found)), key=lambda at: order.index(keys[at]))].reset_index(
        drop=True
    )


def compare_rules(table: pd.DataFrame, scale: RowsScale) -> Iterator[Comparison]:
    """Compare unified with understanding-only under each rule."""
    for (rule, name), own in differences(table).groupby(["matching", "architecture"], sort=False):
        yield Comparison(
            name,
            f"total, partial credit, {scale.rows:,} rows",
            own.set_index("seed")["difference"],
            rule,
        )


@theme()
def draw_matching(opened: OpenedStudy) -> Drawn:
    """Draw unified minus understanding-only under each rule of matching."""
    need(
        opened.table,
        "data_scaling_matching",
        ("architecture", "matching", "regime", "metric", "value"),
    )
    judged = opened.verdicts[
        ["architecture", "matching", "difference", "low", "high", "seeds", "verdict"]
    ]
    shown = (
        differences(opened.table)
        .rename(columns={"difference": "of_seed"})
        .merge(judged, on=["architecture", "matching"])
    )
    names = known_architectures(shown)
    figure = Figure(figsize=(COLUMN, 2.8))
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.6)
    for number, name in enumerate(names):
        for place, rule in enumerate(MATCHINGS):
            own = shown[(shown["architecture"] == name) & (shown["matching"] == rule)]
            draw_mean(
                axes,
                place + 0.6 * ((number + 0.5) / len(names) - 0.5),
                own["of_seed"],
                {"color": COLOURS[name], "marker": "o"},
            )
    axes.set_xticks(range(len(MATCHINGS)), [f"same {rule}" for rule in MATCHINGS])
    axes.margins(y=0.15)
    axes.set(
        xlim=(-0.5, len(MATCHINGS) - 0.5),
        ylabel=f"unified {MINUS} understanding\nalone, total partial credit",
    )
    axes.grid(False, axis="x")
    handles = [*colour_handles(names), *spread_handles(shown)]
    headline(figure, headline_of_matching(opened), handles)
    return Drawn(figure, shown)


def headline_of_matching(opened: OpenedStudy) -> str:
    """Return under how many rules and architectures a difference is decided, in one sentence."""
    above, below, count = count_verdicts(opened, MUTUAL_BENEFIT.claims[0].name)
    if above or below:
        return f"Of {count} comparisons, unified models win {above} and lose {below}"
    return "Unified models are not shown to win or lose under any rule of matching"


def tell_matching(opened: OpenedStudy) -> str:
    """Say the mean difference under each rule."""
    found = differences(opened.table).groupby("matching", sort=False)["difference"].mean()
    told = ", ".join(f"{value:+.3f} with the same {rule}" for rule, value in found.items())
    judged = opened.verdicts["verdict"].value_counts()
    counted = ", ".join(f"{count} {verdict}" for verdict, count in judged.items())
    return (
        f"Unified minus understanding alone, mean over architectures: {told}. ".replace("-", MINUS)
        + f"Verdicts over rules and architectures: {counted}."
    )


STUDY = Study(
    name="matching",
    number=3,
    section="4.2",
    question="Does the benefit depend on whether arms take the same steps, examples or tokens?",
    scales={
        "smoke": RowsScale(1, ("VQ-VQ",), 16),
        "laptop": RowsScale(2, ARCHITECTURES, 1000),
        "smollm": RowsScale(1, ("SigLIP-VQ",), 1000),
        "paper": RowsScale(1, ("SigLIP-VQ", "VQ-VQ"), 60_000),
    },
    arms=arms,
    claims=(replace(MUTUAL_BENEFIT.claims[0], compare=compare_rules),),
    figures={"data_scaling_matching": draw_matching},
    findings={"data_scaling_matching": tell_matching},
)
