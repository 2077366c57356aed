"""What do more rows of one task do for the other? (Paper section 4.2, figure 5.)

Understanding rows are fixed while generation rows grow, and the reverse. More generation rows also
mean more steps (pitfall 1). So each number of them has two baselines of as many steps: one repeats
the understanding rows, the other has text rows in place of the requests. The scores of
understanding alone, with fewer and with more rows, tell how many understanding rows a request is
worth.

Belongs here: this study's runs, claims and figures. Not here: what a baseline is (`baselines.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Study,
    arm_of,
    generation_metric,
    tell_contrasts,
    tell_counts,
    understanding_totals,
)
from uvlm_core.studies.baselines import (
    GENERATION,
    MIXED,
    ONCE,
    REPEATED,
    TEXT,
    MixedScale,
    baselines,
)
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    MINUS,
    PAGE,
    REPORTED,
    colour_handles,
    draw_points,
    entry,
    headline,
    known_architectures,
    need,
    new_figure,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile

# Reported by the authors (not ours): +120k generation rows about equal +180k understanding rows
REPORTED_RATE = 1.5
_SCALING_COLUMNS = (
    "architecture",
    "arm",
    "understanding_rows",
    "generation_rows",
    "seed",
    "metric",
    "attribute",
    "value",
)
_LOOKS = {
    MIXED: {"marker": "o"},
    TEXT: {"marker": "v", "linestyle": "-."},
    REPEATED: {"marker": "D", "linestyle": "--"},
}
ADDS_TO_TEXT, GROWS_BEYOND_TEXT = "requests beyond text", "benefit beyond text grows"


@dataclass(frozen=True)
class ScalingScale(MixedScale):
    """With the numbers of rows that are compared, each in rising order.

    `generation_rows` and `text_rows` are the most. Fewer requests come with fewer text rows, in
    proportion.
    """

    fewer_requests: tuple[int, ...] = ()
    fewer_understood: tuple[int, ...] = ()  # understanding rows beside all requests
    alone: tuple[int, ...] = ()  # understanding rows without requests, beside `seen`


def arms(base: Profile, scale: ScalingScale) -> list[Arm]:
    """Return the arms by seed and architecture.

    `generation_rows` of a baseline are those whose steps it takes.
    """
    found = []

    def add(arm: str, seen: int, requests: int, **same) -> None:
        texts = round(scale.text_rows * requests / scale.generation_rows)
        sizes = replace(scale, seen=seen, generation_rows=requests, text_rows=texts)
        rows = {
            "understanding_rows": seen if arm != GENERATION else 0,
            "generation_rows": requests if arm != ONCE else 0,
        }
        found.append(arm_of(baselines(base, sizes, seen, **same)[arm], arm=arm, **rows))

    for seed in range(scale.seeds):
        for name in scale.architectures:
            same, most = {"seed": seed, "architecture": name}, scale.generation_rows
            for requests in (*scale.fewer_requests, most):
                add(MIXED, scale.seen, requests, **same)
                add(REPEATED, scale.seen, requests, **same)
                if scale.text_rows:
                    add(TEXT, scale.seen, requests, **same)
            for rows in scale.fewer_understood:
                add(MIXED, rows, most, **same)
            add(GENERATION, scale.seen, most, **same)
            for rows in sorted((*scale.alone, scale.seen)):
                add(ONCE, rows, most, **same)
    return found


def totals(table: pd.DataFrame, metric: str, **labels) -> pd.Series:
    """Return the final totals in `metric` of the runs with these labels, by seed."""
    chosen = (
        (table["metric"] == metric) & (table["attribute"] == "total") & (table["fraction"] == 1)
    )
    for name, value in labels.items():
        chosen &= table[name] == value
    return table[chosen].set_index("seed")["value"]


def exchange_rates(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Return how many understanding rows one request is worth, for one architecture.

    The reference curve is the total of understanding alone over its number of rows, each shown
    once, of the same seed, so that intervals hold the spread of both: an isotonic regression,
    linear in the logarithm of the rows. `worth` is the number of rows where this curve reaches the
    total of mixed training with `rows` understanding rows. `rate` is (worth - rows) /
    generation_rows. A total off the curve gets the nearest end, and sets `beyond`.

    Columns: seed, generation_rows, worth (understanding rows), rate, beyond.
    """
    from sklearn.isotonic import IsotonicRegression  # late, as it takes a second

    chosen = understanding_totals(table)
    alone = chosen[chosen["arm"] == ONCE]
    curves = {}
    for seed, own in alone.groupby("seed"):
        own = own.sort_values("understanding_rows")
        at = np.log(own["understanding_rows"])
        curves[seed] = IsotonicRegression().fit_transform(at, own["value"]), at
    mixed = chosen[(chosen["arm"] == MIXED) & (chosen["understanding_rows"] == rows)]
    found = []
    for _, run in mixed.sort_values(["generation_rows", "seed"]).iterrows():
        curve, at = curves[run["seed"]]
        worth = float(np.exp(np.interp(run["value"], curve, at)))
        found.append(
            (
                run["seed"],
                run["generation_rows"],
                worth,
                (worth - rows) / run["generation_rows"],
                not curve[0] <= run["value"] <= curve[-1],
            )
        )
    return pd.DataFrame(found, columns=["seed", "generation_rows", "worth", "rate", "beyond"])


def gains(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Return what requests, or as many steps, add to `rows` understanding rows, by seed.

    Columns: architecture, arm (mixed, or a baseline of as many steps), generation_rows, seed,
    difference: the final total minus that of these rows alone, shown once.
    """
    own = table[table["understanding_rows"] == rows]
    parts = []
    for name in known_architectures(own):
        once = totals(own, "partial", architecture=name, arm=ONCE)
        for arm in _LOOKS:
            counts = own.loc[own["arm"] == arm, "generation_rows"].unique()
            if not len(counts):  # without text rows
                continue
            for requests in (0, *sorted(counts)):
                labels = {"architecture": name, "arm": arm, "generation_rows": requests}
                value = once if requests == 0 else totals(own, "partial", **labels)
                found = (value - once).dropna().rename("difference").reset_index()
                parts.append(found.assign(**labels))
    columns = ["architecture", "arm", "generation_rows", "seed", "difference"]
    return pd.concat(parts, ignore_index=True)[columns]


def read_back(table: pd.DataFrame, requests: int) -> pd.DataFrame:
    """Return what understanding rows add to `requests` requests, by seed.

    Columns: architecture, understanding_rows, seed, difference: the final total read back minus
    that of the requests alone.
    """
    own = table[table["generation_rows"] == requests]
    parts = []
    for name in known_architectures(own):
        metric = generation_metric(name)
        alone = totals(own, metric, architecture=name, arm=GENERATION)
        counts = own.loc[own["arm"] == MIXED, "understanding_rows"].unique()
        for rows in (0, *sorted(counts)):
            labels = {"architecture": name, "understanding_rows": rows}
            value = alone if rows == 0 else totals(own, metric, arm=MIXED, **labels)
            found = (value - alone).dropna().rename("difference").reset_index()
            parts.append(found.assign(**labels))
    columns = ["architecture", "understanding_rows", "seed", "difference"]
    return pd.concat(parts, ignore_index=True)[columns]


def comparing(
    of: Callable[[pd.DataFrame, ScalingScale], Iterator[tuple[str, pd.Series]]],
    quantity: str,
    matching: str,
) -> Callable[[pd.DataFrame, ScalingScale], Iterator[Comparison]]:
    """Return a comparison of what `of` yields: an architecture, and its differences by seed.

    `quantity` may name fields of the scale in braces.
    """

    def compare(table: pd.DataFrame, scale: ScalingScale) -> Iterator[Comparison]:
        named = {
            "least": scale.fewer_requests[0],
            "most": scale.generation_rows,
            "few": min(scale.fewer_understood, default=0),
            "rows": scale.seen,
        }
        told = quantity.format(**{name: f"{value:,}" for name, value in named.items()})
        for name, differences in of(table, scale):
            if len(differences):  # a scale may lack the baseline
                yield Comparison(name, told, differences, matching)

    return compare


def _gain(table: pd.DataFrame, name: str, requests: int, arm: str, rows: int) -> pd.Series:
    found = gains(table, rows)
    chosen = (found["architecture"] == name) & (found["arm"] == arm)
    return found[chosen & (found["generation_rows"] == requests)].set_index("seed")["difference"]


def _added(table: pd.DataFrame, name: str, requests: int, baseline: str, rows: int) -> pd.Series:
    """Return what requests add beyond a baseline, by seed."""
    mixed = _gain(table, name, requests, MIXED, rows)
    if baseline == ONCE:  # gains are those over it
        return mixed
    return (mixed - _gain(table, name, requests, baseline, rows)).dropna()


def fewest(baseline: str) -> Callable[[pd.DataFrame, ScalingScale], Iterator]:
    """Return what yields how much the fewest requests add beyond a baseline."""

    def found(table: pd.DataFrame, scale: ScalingScale) -> Iterator[tuple[str, pd.Series]]:
        for name in known_architectures(table):
            yield name, _added(table, name, scale.fewer_requests[0], baseline, scale.seen)

    return found


def growth(baseline: str) -> Callable[[pd.DataFrame, ScalingScale], Iterator]:
    """Return what yields how much more the most requests add beyond a baseline than the fewest."""

    def found(table: pd.DataFrame, scale: ScalingScale) -> Iterator[tuple[str, pd.Series]]:
        for name in known_architectures(table):
            few, most = (
                _added(table, name, requests, baseline, scale.seen)
                for requests in (scale.fewer_requests[0], scale.generation_rows)
            )
            yield name, (most - few).dropna()

    return found


def understood(table: pd.DataFrame, scale: ScalingScale) -> Iterator[tuple[str, pd.Series]]:
    """Yield what the most understanding rows add to drawing beyond the fewest, if there are fewer.

    What they add to none is mutual benefit's comparison, and is not judged twice.
    """
    found = read_back(table, scale.generation_rows)
    for name, own in found.groupby("architecture", sort=False):
        wide = own.pivot(index="seed", columns="understanding_rows", values="difference")
        for few in scale.fewer_understood[:1]:
            yield name, (wide[scale.seen] - wide[few]).dropna()


def rates(table: pd.DataFrame, scale: ScalingScale) -> Iterator[tuple[str, pd.Series]]:
    """Yield the worth of a request, in understanding rows, minus 1."""
    for name in known_architectures(table):
        found = exchange_rates(table[table["architecture"] == name], scale.seen)
        found = found[found["generation_rows"] == scale.generation_rows].set_index("seed")
        yield name, found["rate"] - 1


@theme()
def draw_scaling(opened: OpenedStudy) -> Drawn:
    """Draw figure 5 of the paper: what one task gains as the other's rows grow."""
    table, scale = opened.table, opened.scale
    need(table, "data_scaling", _SCALING_COLUMNS)
    added = gains(table, scale.seen).assign(grown="generation")
    drawn = read_back(table, scale.generation_rows).assign(grown="understanding", arm=MIXED)
    names = known_architectures(added)
    figure = new_figure(PAGE, 2.9)
    left, right = figure.subplots(1, 2)
    for axes, found, grown, most in (
        (left, added, "generation_rows", scale.generation_rows),
        (right, drawn, "understanding_rows", scale.seen),
    ):
        axes.axhline(0, color="black", linewidth=0.6)
        series = [
            (name, arm)
            for name in names
            for arm in _LOOKS
            if ((found["architecture"] == name) & (found["arm"] == arm)).any()
        ]
        for number, (name, arm) in enumerate(series):
            own = found[(found["architecture"] == name) & (found["arm"] == arm)]
            # no interval hides another
            at = own[grown] + 0.02 * most * (number - (len(series) - 1) / 2) * (own[grown] > 0)
            draw_points(axes, at, own["difference"], _LOOKS[arm] | {"color": COLOURS[name]})
        axes.set_xticks(sorted(found[grown].unique()))
        axes.set_xticklabels(f"{count:,}" for count in sorted(found[grown].unique()))
    left.set_title(f"understanding, {scale.seen:,} rows in every run")
    left.set(xlabel="requests beside them", ylabel="gain in total partial credit")
    right.set_title(f"generation, {scale.generation_rows:,} requests in every run")
    right.set(xlabel="understanding rows beside them", ylabel="gain in total read back")
    looks = [
        entry(color="black", label=label, **_LOOKS[arm])
        for arm, label in (
            (MIXED, "mixed"),
            (TEXT, "text rows in place of requests"),
            (REPEATED, "as many steps on repeated rows"),
        )
        if arm in set(added["arm"])
    ]
    handles = [*looks, *colour_handles(names), *spread_handles(added)]
    headline(figure, headline_of_scaling(opened), handles)
    return Drawn(figure, pd.concat([added, drawn]), records=set(table["record"]))


def headline_of_scaling(opened: OpenedStudy) -> str:
    """Return whether the gain grows with the requests, and beyond text, in one sentence."""
    words = "grows", "shrinks"
    told = tell_counts(opened, "benefit grows", *words) or "is not shown to grow"
    said = f"With more requests the gain over understanding alone {told}"
    beyond = tell_counts(opened, GROWS_BEYOND_TEXT, *words)
    return f"{said}; the gain over text rows in their place {beyond}" if beyond else said


@theme()
def draw_exchange(opened: OpenedStudy) -> Drawn:
    """Draw how many understanding rows a request is worth."""
    table, scale = opened.table, opened.scale
    need(table, "data_scaling_exchange", _SCALING_COLUMNS)
    shown = pd.concat(
        [
            exchange_rates(table[table["architecture"] == name], scale.seen).assign(
                architecture=name
            )
            for name in known_architectures(table)
        ]
    )
    names = known_architectures(shown)
    figure = new_figure(COLUMN, 3.1)
    axes = figure.subplots()
    for number, name in enumerate(names):
        own = shown[shown["architecture"] == name]
        shift = 0.012 * scale.generation_rows * (number - (len(names) - 1) / 2)
        look = {"color": COLOURS[name], "marker": "o"}
        draw_points(axes, own["generation_rows"] + shift, own["rate"], look)
    axes.axhline(0, color="black", linewidth=0.6)
    equal = {"color": "black", "linestyle": (0, (1, 1.5)), "linewidth": 1}
    reported = {"color": REPORTED["color"], "linestyle": (0, (5, 2)), "linewidth": 1}
    axes.axhline(1, **equal)
    axes.axhline(REPORTED_RATE, **reported)
    counts = sorted(shown["generation_rows"].unique())
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xlabel("requests")
    axes.set_ylabel("worth of a request,\nin understanding rows")
    handles = [
        *colour_handles(names),
        *spread_handles(shown),
        entry(label="equal worth", **equal),
        entry(label="authors' record (SigLIP-VQ)", **reported),
    ]
    headline(figure, headline_of_exchange(opened), handles, ncols=2)
    shown = shown[["architecture", "seed", "generation_rows", "worth", "rate", "beyond"]]
    facts = {"reported by the authors": {"SigLIP-VQ": REPORTED_RATE}}
    return Drawn(figure, shown, facts, records=set(table["record"]))


def headline_of_exchange(opened: OpenedStudy) -> str:
    """Return whether a request is worth more than an understanding row, in one sentence."""
    words = [f"{how} than an understanding row" for how in ("more", "less")]
    told = tell_counts(opened, "worth of a request", *words)
    if told:
        return f"A request is worth {told}"
    return "A request is not shown to be worth more or less than an understanding row"


def tell_scaling(opened: OpenedStudy) -> str:
    """Say what the other task's rows add in both directions."""
    scale, fewer = opened.scale, opened.scale.fewer_requests[0]
    against = {
        "these rows alone": ("generation data help", ""),
        "these rows repeated for as many steps": ("more than repeating", ""),
        "text rows in place of requests": (ADDS_TO_TEXT, ""),
    }
    more = {f"{fewer:,}": ("benefit grows", "")}
    told = [
        f"{scale.seen:,} understanding rows and {fewer:,} requests: "
        f"{tell_contrasts(opened, against)}.",
        f"With {scale.generation_rows:,} requests, understanding: {tell_contrasts(opened, more)}.",
    ]
    beyond = tell_contrasts(opened, {f"{fewer:,}": (GROWS_BEYOND_TEXT, "")})
    if beyond:
        told.append(
            f"Beyond text rows in their place, {scale.generation_rows:,} requests: {beyond}."
        )
    if scale.fewer_understood:
        less = {f"{scale.fewer_understood[0]:,}": ("understanding data help", "")}
        told.append(
            f"With {scale.seen:,} understanding rows, drawing: {tell_contrasts(opened, less)}."
        )
    return "\n".join(told)


def tell_exchange(opened: OpenedStudy) -> str:
    """Say what a request is worth, and how that is read off."""
    table, scale, found, beyond = opened.table, opened.scale, [], 0
    for name in known_architectures(table):
        own = exchange_rates(table[table["architecture"] == name], scale.seen)
        own = own[own["generation_rows"] == scale.generation_rows]
        rate = f"{own['rate'].mean():.2f}".replace("-", MINUS)
        found.append(f"{rate} understanding rows for {name}")
        beyond += int(own["beyond"].sum())
    texts = " This includes what the text rows beside the requests are worth." * bool(
        scale.text_rows
    )
    runs = f"{beyond} runs score" if beyond > 1 else "1 run scores"
    cut = f" {runs} outside what was measured alone, and the nearest end is taken." * bool(beyond)
    return (
        f"At {scale.generation_rows:,} requests, each is worth {' and '.join(found)}, mean of "
        f"{scale.seeds} seeds: so many more rows bring understanding alone to the same score."
        f"{cut}{texts} The authors report {REPORTED_RATE} for SigLIP-VQ."
    )


STUDY = Study(
    name="data_scaling",
    number=3,
    section="4.2, figure 5",
    question="How does the score of one task grow with the data of the other?",
    scales={
        "smoke": ScalingScale(1, ("VQ-VQ",), 16, 16, 8, (8,), (8,), (8, 32)),
        "laptop": ScalingScale(
            8, ("SigLIP-VQ", "VQ-VQ"), 1600, 7000, 3500, (1750,), (), (800, 3200)
        ),
        "smollm": ScalingScale(1, ("SigLIP-VQ",), 1600, 7000, 3500, (1750,), (), (800, 3200)),
        "paper": ScalingScale(
            1,
            ("SigLIP-VQ", "VQ-VQ"),
            120_000,
            180_000,
            0,
            (30_000, 60_000, 120_000),
            (30_000, 60_000),
            (60_000, 240_000, 300_000),
        ),
    },
    arms=arms,
    claims=(
        Claim(
            "generation data help",
            "with the understanding data fixed, generation data improve understanding",
            "4.2, figure 5",
            comparing(fewest(ONCE), "total, {least} requests minus none", "examples"),
            "yes, SigLIP-VQ",
        ),
        Claim(
            "more than repeating",
            "and more than as many steps on repeated understanding rows",
            "4.2, figure 5",
            comparing(fewest(REPEATED), "total, {least} requests minus repeated rows", "steps"),
        ),
        Claim(
            ADDS_TO_TEXT,
            "and more than text rows in place of the requests",
            "4.2",
            comparing(fewest(TEXT), "total, {least} requests minus text rows", "steps"),
        ),
        Claim(
            "benefit grows",
            "the benefit grows with the amount of generation data",
            "4.2, figure 5",
            comparing(growth(ONCE), "total, {most} requests minus {least}", "examples"),
            "yes, SigLIP-VQ",
        ),
        Claim(
            GROWS_BEYOND_TEXT,
            "and so does what requests add beyond text rows in their place",
            "4.2",
            comparing(
                growth(TEXT),
                "total, requests minus text rows, {most} minus {least}",
                "steps",
            ),
        ),
        Claim(
            "understanding data help",
            "with the generation data fixed, understanding data improve generation",
            "4.2, figure 5",
            comparing(
                understood, "total read back, {rows} understanding rows minus {few}", "examples"
            ),
            "yes, SigLIP-VQ",
        ),
        Claim(
            "worth of a request",
            "a generation example is worth more to understanding than an understanding example",
            "4.2",
            comparing(rates, "rate at {most} requests, minus 1", "examples"),
            "+120k generation about equals +180k understanding: 1.5",
            margin=None,
        ),
    ),
    figures={"data_scaling": draw_scaling, "data_scaling_exchange": draw_exchange},
    findings={"data_scaling": tell_scaling, "data_scaling_exchange": tell_exchange},
)
