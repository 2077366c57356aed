"""What does it cost if the two image spaces disagree? (Paper section 4.1, figure 4.)

Trains understanding-only and unified models on a distorted understanding space, by family and dose.
Unified models also get the distortion in other places, or separate adapters (pitfalls 2 and 4).
The undistorted run has dose 0.

Belongs here: this study's runs, claims and figures. Not here: the distortions
(`models/distortion.py`, `models/distort.py`), measures of alignment (`scoring/alignment.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import spearmanr

from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.models.distortion import Distortion
from uvlm_core.models.kinds import KINDS, kinds_of
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
    sized,
    tell_verdicts,
)
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    LINES,
    MINUS,
    PAGE,
    REFERENCES,
    REPORTED,
    colour_handles,
    draw_mean,
    draw_points,
    known_architectures,
    look_of,
    need,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile

# families of the paper's figure: every seed runs them, the first `OTHER_SEEDS` run the others
AFFINE_FAMILIES = ("affine", "authors")
OTHER_SEEDS = 2
# (side, place) other than the paper's, ("understanding", "before")
PLACEMENTS = (("understanding", "after"), ("generation", "before"), ("generation", "after"))
# Reported by the authors (not ours): understanding-only VQ-VQ with their affine recipe at
# strength .3, on their own test set and questions
REPORTED_DISTORTED = pd.DataFrame(
    [
        ("VQ-VQ", "understanding", "authors", 0.3, "total", 0.656),
        ("VQ-VQ", "understanding", "authors", 0.3, "time", 0.511),
    ],
    columns=["architecture", "regime", "family", "dose", "attribute", "value"],
)
_ALIGNMENT_COLUMNS = (
    "architecture",
    "regime",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
    "family",
    "dose",
    "side",
    "place",
    "sharing",
)
_UNITS = {"affine": "affine", "authors": "authors' recipe"}
_ALIGNMENT_MEASURES = {
    "alignment_cka": "linear CKA",
    "alignment_procrustes": "Procrustes distance",
    "alignment_neighbours": "neighbours in common",
    "alignment_r2": "linear map, $R^2$",
}


@dataclass(frozen=True)
class AlignmentScale(Scale):
    """A scale that adds the rows of each task and the doses of each family of distortions."""

    rows: int = 1600
    doses: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class DistortionStrengths(Measurement):
    """Strengths of distortions on tokens of an understanding space (`distort.strength`)."""

    space: str  # "VQ" or "SigLIP"
    network: str  # its encoder
    image_size: int  # px
    distortions: tuple[tuple[str, float], ...]  # (family, dose)
    watches: int = 64

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.network,)

    def run(self, folder: Path) -> dict:
        """Return the record's body: scores of attributes such as "affine 0.5, displacement"."""
        import torch  # late: reading the record needs no torch

        from uvlm_core.models.distort import Distort, strength
        from uvlm_core.models.encoders import ENCODERS, vectors

        images, rows = render_batch(sample_watches(0, self.watches), self.image_size), []
        encoder = ENCODERS[self.space].load(self.network)
        # (tokens, width)
        tokens = torch.from_numpy(vectors(encoder, encoder.encode(images))).flatten(0, 1)
        for family, dose in self.distortions:
            distort = Distort(Distortion(family, dose), encoder.width, encoder.codes).draw(
                0, tokens
            )
            rows += [
                {
                    "fraction": 0.0,
                    "metric": "strength",
                    "attribute": f"{family} {dose:g}, {name}",
                    "value": float(value),
                    "samples": len(tokens),
                }
                for name, value in strength(distort, tokens).items()
            ]
        return {"scores": rows}


def arms(base: Profile, scale: AlignmentScale) -> list[Arm]:
    """Return arms by distortion and regime; adapters and place vary at the largest affine dose."""
    found, largest = [], max(scale.doses["affine"])

    def arm(architecture, seed, distortion=None, regime="unified", shared=True) -> Arm:
        spec = sized(
            base,
            scale.rows,
            scale.rows,
            architecture=architecture,
            seed=seed,
            regime=regime,
            shared_adapter=shared,
            distortions=() if distortion is None else (distortion,),
        )
        told = Distortion("affine", 0.0) if distortion is None else distortion
        return arm_of(
            spec,
            family="none" if distortion is None else told.family,
            dose=told.dose,
            side=told.side,
            place=told.place,
            sharing="shared" if shared else "separate",
        )

    for seed in range(scale.seeds):
        for architecture in scale.architectures:
            chosen = [
                Distortion(family, dose)
                for family, doses in scale.doses.items()
                for dose in doses
                if (family in AFFINE_FAMILIES or seed < OTHER_SEEDS)
                and (family != "permutation" or KINDS[kinds_of(architecture)[0]].output == "codes")
            ]
            for regime in ("understanding", "unified"):
                found += [arm(architecture, seed, one, regime) for one in (None, *chosen)]
            whole = Distortion("affine", largest)
            found += [arm(architecture, seed, one, shared=False) for one in (None, whole)]
            if seed < OTHER_SEEDS:
                elsewhere = [Distortion("affine", largest, *where) for where in PLACEMENTS]
                found += [arm(architecture, seed, one) for one in elsewhere]
                found.append(arm(architecture, seed, elsewhere[0], "understanding"))
    return found + strength_arms(base, scale)


def strength_arms(base: Profile, scale: AlignmentScale) -> list[Arm]:
    """Return arms that measure the strength of each dose; permutations move no token."""
    spec, found = base.spec, []
    kinds = tuple(
        (family, dose)
        for family, doses in scale.doses.items()
        for dose in doses
        if family != "permutation"
    )
    for architecture in scale.architectures:
        space = kinds_of(architecture)[0]
        network = spec.model.vq_tokenizer if space == "VQ" else spec.model.semantic_encoder
        measured = DistortionStrengths(space, network, spec.data.image_size, kinds)
        found.append(
            Arm(
                measured,
                {
                    "architecture": architecture,
                    "regime": "none",
                    "seed": 0,
                    "family": "none",
                    "dose": 0.0,
                    "side": "understanding",
                    "place": "before",
                    "sharing": "none",
                },
            )
        )
    return found


# What is compared


def distortion_costs(
    table: pd.DataFrame, regime: str, attribute: str = "total", sharing: str = "shared"
) -> pd.DataFrame:
    """Return the cost of each distortion to a regime by seed: undistorted minus distorted score.

    The family "width" needs separate adapters. Its unified arms are therefore compared with the
    undistorted separate-adapter arm. Columns: architecture, family, dose, side, place, seed, cost.
    """
    chosen = table[
        (table["metric"] == "partial")
        & (table["attribute"] == attribute)
        & (table["fraction"] == 1)
        & (table["regime"] == regime)
    ]
    plain = chosen[chosen["family"] == "none"].set_index(["architecture", "sharing", "seed"])[
        "value"
    ]
    rows = []
    for _, run in chosen[(chosen["family"] != "none") & (chosen["sharing"] == sharing)].iterrows():
        held = "separate" if run["family"] == "width" and regime == "unified" else sharing
        rows.append(
            (
                *run[["architecture", "family", "dose", "side", "place", "seed"]],
                plain[run["architecture"], held, run["seed"]] - run["value"],
            )
        )
    return pd.DataFrame(
        rows, columns=["architecture", "family", "dose", "side", "place", "seed", "cost"]
    )


def alignment_benefit(table: pd.DataFrame) -> pd.DataFrame:
    """Return the alignment of unified models and their benefit over understanding alone.

    Both models have the same distortion of the understanding side. One row per unified model,
    measure, layer and fraction. Columns: architecture, family, dose, place, seed, sharing, fraction
    (0: before training), metric, attribute (the layer, or "adapter"), alignment, benefit.
    """
    table = table[(table["side"] == "understanding")]
    keys = ["architecture", "family", "dose", "place", "seed"]
    total = table[
        (table["metric"] == "partial") & (table["attribute"] == "total") & (table["fraction"] == 1)
    ]
    alone = total[total["regime"] == "understanding"].set_index(keys)["value"]
    unified = total[total["regime"] == "unified"].set_index([*keys, "sharing"])["value"]
    measured = table[table["metric"].str.startswith("alignment_")].copy()
    runs = [tuple(run) for run in measured[[*keys, "sharing"]].itertuples(index=False)]
    measured["benefit"] = [unified[run] - alone[run[:-1]] for run in runs]
    columns = [*keys, "sharing", "fraction", "metric", "attribute"]
    return measured.rename(columns={"value": "alignment"})[
        [*columns, "alignment", "benefit"]
    ].reset_index(drop=True)


def alignment_slopes(
    benefits: pd.DataFrame, metric: str = "alignment_cka", where: str = "adapter"
) -> pd.Series:
    """Return Spearman's rank correlation of final alignment with benefit, by seed.

    `benefits` are rows of `alignment_benefit` for one architecture. Only models with shared
    adapters count, undistorted or from an affine family, because every seed has all of them.
    """
    chosen = benefits[
        (benefits["fraction"] == 1)
        & (benefits["metric"] == metric)
        & (benefits["attribute"] == where)
        & (benefits["sharing"] == "shared")
        & (benefits["place"] == "before")
        & benefits["family"].isin(("none", *AFFINE_FAMILIES))
    ]
    return pd.Series(
        {
            seed: spearmanr(group["alignment"], group["benefit"]).statistic
            for seed, group in chosen.groupby("seed")
        },
        dtype=float,
    ).dropna()


def _largest(table: pd.DataFrame) -> float:
    return table.loc[table["family"] == "affine", "dose"].max()


def _cost(
    table: pd.DataFrame, architecture: str, regime: str, sharing: str = "shared"
) -> pd.Series:
    """Return the cost of the largest affine dose to one architecture and regime, by seed."""
    costs = distortion_costs(table[table["architecture"] == architecture], regime, "total", sharing)
    chosen = costs[
        (costs["family"] == "affine")
        & (costs["dose"] == _largest(table))
        & (costs["place"] == "before")
        & (costs["side"] == "understanding")
    ]
    return chosen.set_index("seed")["cost"]


def comparing_costs(words: str, cost: Callable[[pd.DataFrame, str], pd.Series]):
    """Return a function that compares the undistorted model with the largest affine dose."""

    def compare(table: pd.DataFrame, scale: AlignmentScale) -> Iterator[Comparison]:
        for name in known_architectures(table):
            yield Comparison(
                name, f"total, affine dose 0 minus {_largest(table):g}, {words}", cost(table, name)
            )

    return compare


def compare_slopes(table: pd.DataFrame, scale: AlignmentScale) -> Iterator[Comparison]:
    """Compare the rank correlation of alignment and benefit with zero."""
    benefits = alignment_benefit(table)
    for name in known_architectures(table):
        slopes = alignment_slopes(benefits[benefits["architecture"] == name])
        if len(slopes):
            yield Comparison(
                name,
                "rank correlation of CKA at the adapters with the benefit, affine families",
                slopes,
            )


# Figures


def _answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the final partial credit of undistorted models and of the paper's distortions."""
    return table[
        (table["metric"] == "partial")
        & (table["fraction"] == 1)
        & (table["side"] == "understanding")
        & (table["place"] == "before")
    ]


def _regime_handles(*others: Line2D) -> list[Line2D]:
    return [
        *(
            Line2D([], [], color="black", label=regime, **LINES[regime] | extra)
            for regime, extra in (("understanding", {"markerfacecolor": "white"}), ("unified", {}))
        ),
        *others,
    ]


@theme()
def draw_doses(opened: OpenedStudy) -> Drawn:
    """Draw figure 4 of the paper: total and time against the dose of the affine families."""
    need(opened.table, "affine_alignment", _ALIGNMENT_COLUMNS)
    shown = _answers(opened.table)
    shown = shown[
        (shown["sharing"] == "shared")
        & shown["attribute"].isin(("total", "time"))
        & shown["family"].isin(("none", *AFFINE_FAMILIES))
    ]
    names = known_architectures(shown)
    families = [family for family in _UNITS if (shown["family"] == family).any()]
    panels = [(family, attribute) for attribute in ("total", "time") for family in families]
    figure = Figure(figsize=(PAGE, 0.95 + 1.45 * len(names)))
    grid = figure.subplots(len(names), len(panels), squeeze=False)
    for number, (line, name) in enumerate(zip(grid, names, strict=True)):
        for axes, (family, attribute) in zip(line, panels, strict=True):
            own = shown[
                (shown["architecture"] == name)
                & (shown["attribute"] == attribute)
                & shown["family"].isin(("none", family))
            ]
            # shifted so that no bar hides another
            for regime, shift in (("understanding", -0.012), ("unified", 0.012)):
                arm = own[own["regime"] == regime]
                draw_points(
                    axes,
                    arm["dose"] + shift * own["dose"].max(),
                    arm["value"],
                    look_of(name, regime),
                )
            axes.axhline(chance("partial", attribute), **REFERENCES["chance"])
            known = REPORTED_DISTORTED[
                (REPORTED_DISTORTED["architecture"] == name)
                & (REPORTED_DISTORTED["family"] == family)
                & (REPORTED_DISTORTED["attribute"] == attribute)
            ]
            axes.plot(known["dose"], known["value"], "D", **REPORTED)
            axes.set_ylim(min(0.3, shown["value"].min() - 0.05), 1.02)
            axes.tick_params(labelleft=axes is line[0], labelbottom=number == len(names) - 1)
            if number == 0:
                axes.set_title(f"{attribute}, {_UNITS[family]}")
            if number == len(names) - 1:
                axes.set_xlabel("dose")
        line[0].set_ylabel(f"{name}\npartial credit")
    handles = _regime_handles(
        *spread_handles(shown), Line2D([], [], label="chance", **REFERENCES["chance"])
    )
    if REPORTED_DISTORTED["architecture"].isin(names).any():
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker="D",
                label="authors' record (7B, understanding)",
                **REPORTED,
            )
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return Drawn(figure, shown, {"reported by the authors": REPORTED_DISTORTED.to_dict("records")})


@theme()
def draw_families(opened: OpenedStudy) -> Drawn:
    """Draw the cost of each distortion by regime, paired by seed, one architecture per panel."""
    need(opened.table, "affine_alignment_families", _ALIGNMENT_COLUMNS)
    costs = pd.concat(
        [
            distortion_costs(opened.table, regime).assign(regime=regime)
            for regime in ("understanding", "unified")
        ]
    )
    keys = ["family", "dose", "side", "place"]
    kinds = [tuple(row) for row in costs[keys].drop_duplicates().itertuples(index=False)]
    order = list(dict.fromkeys(costs["family"]))
    kinds.sort(
        key=lambda kind: (
            kind[2:] != ("understanding", "before"),
            order.index(kind[0]),
            kind[2],
            kind[1],
        )
    )
    names = known_architectures(costs)
    figure = Figure(figsize=(PAGE, 1.1 + 0.19 * len(kinds)))
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for regime, shift in (("understanding", -0.18), ("unified", 0.18)):
            own = costs[(costs["architecture"] == name) & (costs["regime"] == regime)]
            for kind, group in own.groupby(keys, sort=False):
                draw_mean(
                    axes,
                    kinds.index(kind) + shift,
                    group["cost"],
                    look_of(name, regime),
                    upright=False,
                )
        axes.set(title=name, ylim=(len(kinds) - 0.5, -0.5))
        reach = 1.15 * max(0.05, costs["cost"].abs().max())
        axes.set_xlim(-reach, reach)
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(kinds)), [_label(*kind) for kind in kinds])
    figure.supxlabel(f"total, plain {MINUS} distorted", fontsize=8)
    handles = [
        Line2D([], [], color="black", label=regime, **LINES[regime] | {"linestyle": ""} | extra)
        for regime, extra in (("understanding", {"markerfacecolor": "white"}), ("unified", {}))
    ]
    handles += spread_handles(costs)
    if costs["seed"].nunique() > OTHER_SEEDS:
        handles.append(
            Line2D(
                [],
                [],
                color="black",
                linestyle="",
                marker="|",
                markersize=4,
                label="one seed (families of two)",
            )
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return Drawn(figure, costs)


@theme()
def draw_measured(opened: OpenedStudy) -> Drawn:
    """Draw the benefit of unified training against alignment, one point per model.

    Each panel shows one measure at the adapters' output after training. The number above it is
    Spearman's rank correlation over all points of an architecture.
    """
    need(opened.table, "affine_alignment_measured", _ALIGNMENT_COLUMNS)
    benefits = alignment_benefit(opened.table)
    last = benefits[
        (benefits["fraction"] == 1)
        & (benefits["attribute"] == "adapter")
        & benefits["metric"].isin(_ALIGNMENT_MEASURES)
    ]
    names = known_architectures(last)
    figure = Figure(figsize=(PAGE, 2.4))
    grid = figure.subplots(1, len(_ALIGNMENT_MEASURES), sharey=True)
    for axes, (metric, label) in zip(grid, _ALIGNMENT_MEASURES.items(), strict=True):
        axes.axhline(0, color="black", linewidth=0.6)
        for number, name in enumerate(names):
            own = last[(last["metric"] == metric) & (last["architecture"] == name)]
            plain = own["family"] == "none"
            axes.plot(
                own["alignment"][~plain],
                own["benefit"][~plain],
                "o",
                color=COLOURS[name],
                markersize=2.5,
                alpha=0.7,
            )
            axes.plot(
                own["alignment"][plain],
                own["benefit"][plain],
                "o",
                color=COLOURS[name],
                markersize=4,
                markerfacecolor="white",
            )
            rank = spearmanr(own["alignment"], own["benefit"]).statistic if len(own) > 2 else np.nan
            if np.isfinite(rank):
                axes.annotate(
                    f"$\\rho$ = {rank:+.2f}".replace("-", MINUS),
                    xycoords="axes fraction",
                    fontsize=7,
                    xy=(0.5 * (number % 2), 1.02 + 0.09 * (number // 2)),
                    color=COLOURS[name],
                )
        axes.set(
            xlabel=label,
            xlim=(min(0.0, last.loc[last["metric"] == metric, "alignment"].min()) - 0.04, 1.04),
        )
    grid[0].set_ylabel(f"total, unified {MINUS} understanding")
    handles = colour_handles(names)
    handles += [
        Line2D(
            [],
            [],
            color="black",
            linestyle="",
            marker="o",
            markersize=size,
            markerfacecolor=face,
            label=label,
        )
        for size, face, label in ((2.5, "black", "distorted"), (4, "white", "undistorted"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return Drawn(figure, last)


@theme()
def draw_sharing(opened: OpenedStudy) -> Drawn:
    """Draw the unified total with shared and separate adapters, undistorted and distorted."""
    need(opened.table, "affine_alignment_sharing", _ALIGNMENT_COLUMNS)
    largest = _largest(opened.table)
    shown = _answers(opened.table)
    shown = shown[
        (shown["attribute"] == "total")
        & (
            (shown["family"] == "none")
            | ((shown["family"] == "affine") & (shown["dose"] == largest))
        )
    ]
    names = known_architectures(shown)
    figure = Figure(figsize=(COLUMN, 2.5))
    axes = figure.subplots()
    places = [
        ("understanding", "shared", "understanding"),
        ("unified", "shared", "unified,\nshared adapter"),
        ("unified", "separate", "unified,\nseparate adapters"),
    ]
    for number, name in enumerate(names):
        for place, (regime, sharing, _) in enumerate(places):
            own = shown[
                (shown["architecture"] == name)
                & (shown["regime"] == regime)
                & (shown["sharing"] == sharing)
            ]
            at, ends = place + 0.4 * (number - (len(names) - 1) / 2), []
            for dose, shift, face in ((0.0, -0.07, COLOURS[name]), (largest, 0.07, "white")):
                values = own.loc[own["dose"] == dose, "value"]
                if len(values):
                    look = {"color": COLOURS[name], "marker": "o", "markerfacecolor": face}
                    ends.append((at + shift, draw_mean(axes, at + shift, values, look)))
            if len(ends) == 2:
                axes.plot(*zip(*ends, strict=True), color=COLOURS[name], linewidth=0.6, zorder=1)
    axes.axhline(chance("partial", "total"), **REFERENCES["chance"])
    axes.set_xticks(range(len(places)), [label for *_, label in places])
    axes.grid(False, axis="x")
    axes.set(
        ylim=(min(0.3, shown["value"].min() - 0.05), 1.02),
        xlim=(-0.5, len(places) - 0.5),
        ylabel="total, partial credit",
    )
    handles = [*colour_handles(names), *_dose_handles(largest)]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return Drawn(figure, shown)


@theme()
def draw_layers(opened: OpenedStudy) -> Drawn:
    """Draw linear CKA of the two sides by layer, before and after training.

    The models share adapters and are undistorted or have the largest affine dose. Points are means
    over seeds.
    """
    need(opened.table, "affine_alignment_layers", _ALIGNMENT_COLUMNS)
    benefits = alignment_benefit(opened.table)
    largest = _largest(benefits)
    shown = benefits[
        (benefits["metric"] == "alignment_cka")
        & (benefits["sharing"] == "shared")
        & (benefits["place"] == "before")
        & (
            (benefits["family"] == "none")
            | ((benefits["family"] == "affine") & (benefits["dose"] == largest))
        )
    ]
    names = known_architectures(shown)
    places = list(dict.fromkeys(shown["attribute"]))
    figure = Figure(figsize=(COLUMN if len(names) < 3 else PAGE, 2.5))
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        for family, face in (("none", COLOURS[name]), ("affine", "white")):
            for fraction, line in ((0.0, ":"), (1.0, "-")):
                own = shown[
                    (shown["architecture"] == name)
                    & (shown["family"] == family)
                    & (shown["fraction"] == fraction)
                ]
                at = own["attribute"].map(places.index) + (0.08 if family == "affine" else -0.08)
                draw_points(
                    axes,
                    at,
                    own["alignment"],
                    {
                        "color": COLOURS[name],
                        "linestyle": line,
                        "marker": "o",
                        "markersize": 3,
                        "markerfacecolor": face,
                    },
                )
        axes.set_xticks(
            range(len(places)),
            [place.removeprefix("layer ").replace("adapter", "in") for place in places],
        )
        axes.set(title=name, xlabel="LM layer", ylim=(0, 1.04))
    grid[0].set_ylabel("linear CKA of the two sides")
    handles = [
        Line2D([], [], color="black", linestyle=line, label=label)
        for line, label in ((":", "before training"), ("-", "after"))
    ]
    figure.legend(
        handles=[*handles, *_dose_handles(largest, markersize=3)],
        loc="outside upper center",
        ncols=2,
    )
    return Drawn(figure, shown)


def _dose_handles(largest: float, **look) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color="black",
            linestyle="",
            marker="o",
            markerfacecolor=face,
            label=label,
            **look,
        )
        for face, label in (("black", "plain"), ("white", f"affine, dose {largest:g}"))
    ]


def _label(family: str, dose: float, side: str, place: str) -> str:
    where = "" if (side, place) == ("understanding", "before") else f" ({side}, {place})"
    return f"{family} {dose:g}{where}"


# What the figures say


def tell_doses(opened: OpenedStudy) -> str:
    """Say how far the largest affine dose moves the tokens, and what it costs."""
    table = opened.table
    largest = _largest(table)
    moved = table[
        (table["metric"] == "strength")
        & (table["attribute"] == f"affine {largest:g}, displacement")
    ]
    told = " and ".join(
        f"{row['value']:.2f} of their length in {row['architecture'].split('-')[0]} tokens"
        for _, row in moved.iterrows()
    )
    return (
        f"Affine dose {largest:g} moves tokens by {told}. Its cost for the unified model: "
        f"{tell_verdicts(opened, 'distortion hurts')}. Its cost beyond that for understanding "
        f"alone: {tell_verdicts(opened, 'distortion hurts more')}."
    )


def tell_families(opened: OpenedStudy) -> str:
    """Say which distortion costs each unified model most."""
    costs = distortion_costs(opened.table, "unified")
    means = (
        costs[costs["place"] == "before"].groupby(["architecture", "family", "dose"])["cost"].mean()
    )
    worst = means.groupby("architecture").idxmax()
    told = " and ".join(
        f"{family} {dose:g} for {name} ({means[name, family, dose]:+.3f})"
        for name, family, dose in worst
    )
    return (
        f"To the right of zero a distortion hurts. Unified models lose most with {told}. A "
        "distortion of the width needs separate adapters, and is compared with the undistorted "
        "model that has them too."
    )


def tell_sharing(opened: OpenedStudy) -> str:
    """Say whether separate adapters protect the unified model."""
    return (
        "One adapter for both spaces cannot undo a distortion of one of them; two adapters can. "
        "Cost of the largest affine dose for the unified model with two: "
        f"{tell_verdicts(opened, 'not by sharing')}."
    )


def tell_measured(opened: OpenedStudy) -> str:
    """Say whether the benefit rises with alignment."""
    return (
        "Rank correlation of CKA with the benefit, within each seed, over undistorted and affine "
        f"models: {tell_verdicts(opened, 'alignment helps')}. Each point is a model; its benefit "
        "is its total minus that of understanding alone with the same distortion."
    )


def tell_layers(opened: OpenedStudy) -> str:
    """Say how similar the two sides are at the last layer, before and after training."""
    benefits = alignment_benefit(opened.table)
    chosen = benefits[
        (benefits["metric"] == "alignment_cka")
        & (benefits["sharing"] == "shared")
        & (benefits["family"] == "none")
    ]
    last = chosen[chosen["attribute"] == chosen["attribute"].iloc[-1]]
    told = []
    for name in known_architectures(last):
        means = last[last["architecture"] == name].groupby("fraction")["alignment"].mean()
        told.append(f"{name} from {means.iloc[0]:.2f} to {means.iloc[-1]:.2f}")
    return (
        "Training moves the CKA of the two sides at the last layer of undistorted models: "
        f"{', '.join(told)}."
    )


STUDY = Study(
    name="affine_alignment",
    number=4,
    section="4.1, figure 4",
    question="If the spaces that a model reads and writes disagree, is the benefit lost?",
    scales={
        "smoke": AlignmentScale(1, ("VQ-VQ",), 16, {"affine": (1.0,)}),
        "laptop": AlignmentScale(
            3,
            ("VQ-VQ", "SigLIP-SigLIP"),
            1600,
            {
                "rotation": (0.5, 1.0),
                "scaling": (1.0, 2.0),
                "shift": (1.0, 3.0),
                "affine": (0.25, 0.5, 0.75, 1.0),
                "authors": (0.1, 0.2, 0.3),
                "residual": (0.5, 0.95),
                "warp": (5.0, 20.0),
                "permutation": (0.5, 1.0),
                "width": (0.5, 2.0),
            },
        ),
        "smollm": AlignmentScale(
            1, ("VQ-VQ",), 1600, {"affine": (0.5, 1.0), "authors": (0.1, 0.2, 0.3)}
        ),
        "paper": AlignmentScale(
            1,
            ("VQ-VQ", "SigLIP-SigLIP"),
            60_000,
            {"rotation": (1.0,), "shift": (1.0,), "affine": (0.5, 1.0), "authors": (0.1, 0.2, 0.3)},
        ),
    },
    arms=arms,
    claims=(
        Claim(
            "distortion hurts",
            "an affine distortion of the understanding space hurts the unified model",
            "4.1, figure 4",
            comparing_costs("unified", lambda table, name: _cost(table, name, "unified")),
            "yes",
        ),
        Claim(
            "distortion hurts more",
            "and more than it hurts the model of understanding alone",
            "4.1, figure 4",
            comparing_costs(
                "unified minus understanding",
                lambda table, name: (
                    _cost(table, name, "unified") - _cost(table, name, "understanding")
                ),
            ),
            "which it leaves alone",
        ),
        Claim(
            "not by sharing",
            "the distortion hurts the unified model with separate adapters too",
            "4.1",
            comparing_costs(
                "unified, separate adapters",
                lambda table, name: _cost(table, name, "unified", "separate"),
            ),
        ),
        Claim(
            "alignment helps",
            "the better the two spaces agree, the larger the benefit of training on both tasks",
            "4.1",
            compare_slopes,
            "yes",
            margin=None,
        ),
    ),
    figures={
        "affine_alignment": draw_doses,
        "affine_alignment_families": draw_families,
        "affine_alignment_sharing": draw_sharing,
        "affine_alignment_measured": draw_measured,
        "affine_alignment_layers": draw_layers,
    },
    findings={
        "affine_alignment": tell_doses,
        "affine_alignment_families": tell_families,
        "affine_alignment_sharing": tell_sharing,
        "affine_alignment_measured": tell_measured,
        "affine_alignment_layers": tell_layers,
    },
)
