"""The verdicts on all claims, written by `make scoreboard` (all sections of the paper).

Belongs here: the verdicts of all studies as one table, one picture (figures/PROFILE/scoreboard.*)
and one page (docs/results.md). Not here: what is compared (the studies), the rule for verdicts
(`statistics.py`).

    python -m uvlm_core.studies.scoreboard          from the committed records of the laptop profile
"""

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from uvlm_core.environment import ROOT
from uvlm_core.runs.store import record_key
from uvlm_core.studies import studies
from uvlm_core.studies.base import VERDICT_COLUMNS, OpenedStudy, difference_text, load_study
from uvlm_core.studies.statistics import (
    ENOUGH_SEEDS,
    MARGIN,
    MOST_SEEDS,
    seeds_to_decide,
)
from uvlm_core.studies.style import (
    COLOURS,
    MINUS,
    PAGE,
    colour_handles,
    entry,
    new_figure,
    patch,
    provenance,
    save_figure,
    stamp,
    theme,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 0.45  # the picture's axis goes from -REACH to REACH
MARKERS = {  # verdict -> marker and whether it is filled
    "replicates": ("o", True),
    "yes": ("o", True),
    "contradicts": ("X", True),
    "no": ("X", True),
    "no effect": ("D", True),
    "undecided": ("o", False),
}
# inches: a line of text, the mark of one architecture, the gap between rows
_TEXT_HEIGHT, _MARK_HEIGHT, _ROW_GAP = 0.115, 0.068, 0.055
_WRAPPED = 60  # characters per line of a row's label
_RULE = f"""\
A claim is judged by the difference between two arms, paired by seed. The rule was fixed before
the runs that it judges. [Metrics](metrics.md#arms) says what each arm is trained on.

| verdict | meaning |
| --- | --- |
| no effect | the 90 % t interval of the mean difference lies within ±{MARGIN:g} |
| replicates | the 95 % t interval lies above zero: the paper's claim holds here, also in an \
architecture that the paper does not try |
| contradicts | the 95 % t interval lies below zero: the opposite holds here |
| yes, no | the same of a question that the paper does not ask |
| undecided | none of these: the seeds do not tell |

- "No effect" is two one-sided tests at 5 %. {MARGIN:g} of the scale is the smallest effect of
  interest. A claim may state another margin before its runs, or none. Rates of exchange and
  changes of a loss by one step have none and are never "no effect".
- "No effect" is asked first. A difference that is certainly positive and certainly smaller than
  the margin is too small to matter.
- A verdict needs {ENOUGH_SEEDS} seeds. With fewer, a row is undecided.
- A row that stays undecided with {ENOUGH_SEEDS} seeds says how many would decide it, if its mean
  and its spread stay as they are.
- A comparison that the same runs carry out for two architectures, or in two studies, counts
  once."""


def load_all(
    profile_name: str = "laptop", records: str | Path = "figures/runs/laptop"
) -> list[OpenedStudy]:
    """Open every study that is drawn in the profile, from existing records."""
    return [load_study(study.name, profile_name, records) for study in studies(profile_name)]


def all_verdicts(opened: list[OpenedStudy]) -> pd.DataFrame:
    """Return the verdicts of several studies, one comparison per row (`VERDICT_COLUMNS`).

    A comparison that two studies make of the same runs is the first one's. The same difference and
    interval, to the last digit, are taken for the same runs.
    """
    found, known = [pd.DataFrame(columns=VERDICT_COLUMNS)], set()
    for verdicts in (each.verdicts for each in opened if each.study.claims):
        numbers = verdicts[["difference", "low", "high"]]
        told = list(numbers.itertuples(index=False, name=None))
        found.append(verdicts[[row not in known for row in told]])
        known.update(told)
    return pd.concat([part for part in found if len(part)] or found, ignore_index=True)


@theme()
def draw_scoreboard(verdicts: pd.DataFrame) -> "Figure":
    """Draw a forest plot of all differences with their 95 % t intervals, grouped by study.

    A row is a claim and its quantity, with one mark per architecture. The marker stands for the
    verdict. Intervals that leave the panel end in an arrow. The grey band is the margin of "no
    effect".
    """
    rows = list(verdicts.groupby(["study", "claim", "quantity", "matching"], sort=False))
    at, labels, titles, places = _ROW_GAP, [], {}, []  # inches from the top
    for (study, claim, quantity, matching), own in rows:
        if study not in titles:
            titles[study] = at + 0.8 * _TEXT_HEIGHT
            at += 1.9 * _TEXT_HEIGHT
        same = (
            f", same {matching}"
            if verdicts.loc[verdicts["study"] == study, "matching"].nunique() > 1
            else ""
        )
        lines = textwrap.wrap(f"{claim}: {quantity}{same}", _WRAPPED)
        height = max(_TEXT_HEIGHT * len(lines), _MARK_HEIGHT * len(own))
        labels.append((at + height / 2, "\n".join(lines)))
        places.append(
            [
                at + height / 2 + _MARK_HEIGHT * (number - (len(own) - 1) / 2)
                for number in range(len(own))
            ]
        )
        at += height + _ROW_GAP
    figure = new_figure(PAGE, at + 1.2)
    axes = figure.subplots()
    axes.axvspan(-MARGIN, MARGIN, color="#ececec", linewidth=0)
    axes.axvline(0, color="black", linewidth=0.6)
    for (_, own), marks in zip(rows, places, strict=True):
        for place, row in zip(marks, own.to_dict("records"), strict=True):
            _draw_row(axes, place, row)
    beside = {
        "xycoords": ("axes fraction", "data"),
        "xytext": (-4, 0),
        "textcoords": "offset points",
        "ha": "right",
        "va": "center",
        "annotation_clip": False,
    }
    for place, text in labels:
        axes.annotate(text, (0, place), fontsize=7, linespacing=1.0, **beside)
    for study, place in titles.items():
        axes.annotate(study.replace("_", " "), (0, place), fontsize=8, weight="bold", **beside)
        axes.axhline(place + 0.8 * _TEXT_HEIGHT, color="#bcbcbc", linewidth=0.4)
    label = "difference, in the direction of the claim"
    axes.set(xlim=(-REACH, REACH), ylim=(at, 0), yticks=[], xlabel=label)
    axes.grid(False, axis="y")
    axes.tick_params(labeltop=True)
    names = [
        name for name in COLOURS if verdicts["architecture"].str.split(", ").str[0].eq(name).any()
    ]
    handles = [
        *colour_handles(names),
        *(
            entry(
                color="black",
                linestyle="",
                marker=marker,
                markersize=4,
                markerfacecolor="black" if filled else "white",
                label=label,
            )
            for label, (marker, filled) in _legend_markers(verdicts).items()
        ),
        patch(color="#ececec", label=f"within {MARGIN:g}"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def _draw_row(axes, place: float, row: dict) -> None:
    """Draw one comparison: its marker, and its interval cut off at the panel's edge."""
    marker, filled = MARKERS[row["verdict"]]
    colour = COLOURS.get(row["architecture"].split(", ")[0], "black")
    edge = 0.985 * REACH
    if row["seeds"] > 1:
        low, high = np.clip([row["low"], row["high"]], -edge, edge)
        axes.plot([low, high], [place, place], color=colour, linewidth=0.8)
        for end, reached, arrow in (
            (low, row["low"] < -edge, "<"),
            (high, row["high"] > edge, ">"),
        ):
            if reached:
                axes.plot(end, place, arrow, color=colour, markersize=2.5)
    at = float(np.clip(row["difference"], -edge, edge))
    axes.plot(
        at,
        place,
        marker,
        color=colour,
        markersize=3.5,
        zorder=3,
        markerfacecolor=colour if filled else "white",
        markeredgewidth=0.8,
    )
    if at != row["difference"]:  # outside the panel: write its value
        side = 1 if at < 0 else -1
        axes.annotate(
            f"{row['difference']:.2f}".replace("-", MINUS),
            (at, place),
            xytext=(5 * side, 0),
            fontsize=6,
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )


def _legend_markers(verdicts: pd.DataFrame) -> dict[str, tuple[str, bool]]:
    """Return legend labels with their markers; verdicts with equal markers share a label."""
    found = {}
    for verdict, look in MARKERS.items():
        if (verdicts["verdict"] == verdict).any():
            found.setdefault(look, []).append(verdict)
    return {", ".join(names): look for look, names in found.items()}


def results_page(opened: list[OpenedStudy]) -> str:
    """Return the text of docs/results.md: the meaning of the verdicts, then every study."""
    verdicts = all_verdicts(opened)
    counts = ", ".join(
        f"{count} {verdict}" for verdict, count in verdicts["verdict"].value_counts().items()
    )
    profile_name = opened[0].base.name
    parts = [
        "# Results",
        f"`make scoreboard` writes this page from the records of the profile {profile_name}; edit "
        "the studies in `uvlm_core/studies/`, not this page.",
        f"{len(verdicts)} comparisons: {counts}.",
        "![Every claim's difference with its interval and "
        f"verdict](../figures/{profile_name}/scoreboard.png)",
        "## What the verdicts mean",
        _RULE,
    ]
    for each in opened:
        study = each.study
        parts += [
            f"## {study.name.replace('_', ' ').capitalize()}",
            f"{study.question} (Paper: section {study.section}; notebook {study.number:02d}.)",
        ]
        told = [
            f"{tell(each)} ([figure](../figures/{profile_name}/{name}.png))"
            for name, tell in study.findings.items()
        ]
        lines = [f"- {line}" for finding in told for line in finding.splitlines()]
        parts += ["\n".join(lines)] if lines else []
        parts += [claims_table(each)] if study.claims else []
    return "\n\n".join(parts) + "\n"


def claims_table(opened: OpenedStudy) -> str:
    """Return a study's verdicts as a Markdown table."""
    claims = {claim.name: claim for claim in opened.study.claims}
    titles = (
        "claim (section)",
        "the paper",
        "architecture",
        "compared",
        "matched by",
        "difference, 95 % interval",
        "seeds",
        "verdict",
    )
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    before = ""
    for row in opened.verdicts.to_dict("records"):
        claim = claims[row["claim"]]
        words = (
            ("", "")
            if row["claim"] == before
            else (f"{claim.words} ({claim.section})", claim.reported or "does not ask")
        )
        before = row["claim"]
        mark = ""
        if row["seeds"] < ENOUGH_SEEDS:
            mark = f"; a verdict needs {ENOUGH_SEEDS} seeds"
        elif row["verdict"] == "undecided":
            names = ("difference", "low", "high", "seeds")
            wanted = seeds_to_decide(*(row[name] for name in names), claim.margin)
            mark = (
                f"; some {wanted} seeds would decide" if wanted else f"; above {MOST_SEEDS} seeds"
            )
        cells = (
            *words,
            row["architecture"],
            row["quantity"],
            row["matching"],
            difference_text(row),
            str(row["seeds"]),
            f"**{row['verdict']}**{mark}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 2 after an error such as a missing record, else 0."""
    parser = argparse.ArgumentParser(
        description="Write docs/results.md and the picture of the scoreboard."
    )
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--records", type=Path, help="default: figures/runs/PROFILE")
    parser.add_argument("--figures", type=Path, help="default: figures/PROFILE")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args(arguments)
    home = ROOT / "figures"
    try:
        opened = load_all(options.profile, options.records or home / "runs" / options.profile)
        verdicts, page = all_verdicts(opened), results_page(opened)
        records = {
            record_key(arm.spec.canonical())
            for each in opened
            if each.study.claims
            for arm in each.arms
        }
        figure = draw_scoreboard(verdicts)
        fewest, most = verdicts["seeds"].min(), verdicts["seeds"].max()
        seeds = int(most) if fewest == most else f"{fewest} to {most}"
        stamp(figure, options.profile, seeds, len(records))
        save_figure(
            figure,
            verdicts,
            "scoreboard",
            options.figures or home / options.profile,
            provenance(options.profile, seeds, records),
        )
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page, encoding="utf-8")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
