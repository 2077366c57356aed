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
    count_verdicts,
    difference_text,
    sized,
    tell_counts,
    tell_verdicts,
)
from uvlm_core.studies.statistics import mean_interval, verdict
from uvlm_core.studies.style import (
    COLOURS,
    COLUMN,
    MINUS,
    PAGE,
    SEED_SIZE,
    colour_handles,
    draw_mean,
    draw_points,
    headline,
    known_architectures,
    look_of,
    need,
    regime_handles,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile

# families of the paper's figure: every seed runs them, the first `OTHER_SEEDS` run the others
AFFINE_FAMILIES = ("affine", "authors")
OTHER_SEEDS = 2
# (side, place) other than the paper's, ("understanding", "before")
PLACEMENTS = (("understanding", "after"), ("generation", "before"), ("generation", "after"))
# Reported by the authors (not ours): total of understanding-only VQ-VQ with their affine recipe at
# this dose, on their own test set and questions
REPORTED_DOSE, REPORTED_TOTAL = 0.3, 0.656
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
_ARMS = {  # (regime, adapters) -> how a figure calls it
    ("understanding", "shared"): "understanding\nalone",
    ("unified", "shared"): "unified,\none adapter",
    ("unified", "separate"): "unified,\ntwo adapters",
}
_IN_WORDS = {  # family -> what a dose of it is
    "rotation": "rotation, {0:.0%} of the way",
    "scaling": "stretch, condition number 10^{0:g}",
    "shift": "shift by {0:g} token lengths",
    "affine": "affine {0:g}: rotation, stretch, shift",
    "authors": "authors' recipe, strength {0:g}",
    "residual": "smooth bend, dose {0:g}",
    "warp": "squashed values, dose {0:g}",
    "permutation": "exchange of {0:.0%} of the codes",
    "width": "{0:g} times as many coordinates",
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
    chosen = _compared(benefits, metric, where)
    return pd.Series(
        {
            seed: spearmanr(group["alignment"], group["benefit"]).statistic
            for seed, group in chosen.groupby("seed")
        },
        dtype=float,
    ).dropna()


def _compared(
    benefits: pd.DataFrame, metric: str = "alignment_cka", where: str = "adapter"
) -> pd.DataFrame:
    """Return the models that `alignment_slopes` compares."""
    return benefits[
        (benefits["fraction"] == 1)
        & (benefits["metric"] == metric)
        & (benefits["attribute"] == where)
        & (benefits["sharing"] == "shared")
        & (benefits["place"] == "before")
        & benefits["family"].isin(("none", *AFFINE_FAMILIES))
    ]


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


def _costs(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each distortion in the paper's place costs, by regime and adapters.

    Columns: those of `distortion_costs`, regime and sharing.
    """
    found = pd.concat(
        [
            distortion_costs(table, regime, sharing=sharing).assign(regime=regime, sharing=sharing)
            for regime, sharing in _ARMS
        ]
    )
    return found[(found["side"] == "understanding") & (found["place"] == "before")]


def _records(table: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    """Return the records behind differences: of the distorted models and the undistorted ones."""
    keys = [name for name in ("regime", "sharing") if name in shown]
    keys += ["architecture", "family", "dose", "seed"]
    distorted = pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(shown[keys]))
    adapters = set(shown["sharing"]) | ({"separate"} if "width" in set(shown["family"]) else set())
    plain = (table["family"] == "none") & table["sharing"].isin(adapters)
    here = (table["side"] == "understanding") & (table["place"] == "before")
    return table.loc[here & (distorted | plain), "record"]


@theme()
def draw_doses(opened: OpenedStudy) -> Drawn:
    """Draw figure 4 of the paper: what the affine families cost at each dose, paired by seed."""
    need(opened.table, "affine_alignment", _ALIGNMENT_COLUMNS)
    costs = _costs(opened.table)
    shown = costs[costs["family"].isin(AFFINE_FAMILIES) & (costs["sharing"] == "shared")]
    names = known_architectures(shown)
    families = [family for family in _UNITS if (shown["family"] == family).any()]
    figure = Figure(figsize=(PAGE, 1.1 + 1.4 * len(names)))
    grid = figure.subplots(len(names), len(families), squeeze=False, sharex="col", sharey=True)
    for line, name in zip(grid, names, strict=True):
        for axes, family in zip(line, families, strict=True):
            own = shown[(shown["architecture"] == name) & (shown["family"] == family)]
            axes.axhline(0, color="black", linewidth=0.6)
            # shifted so that no bar hides another
            for regime, shift in (("understanding", -0.012), ("unified", 0.012)):
                arm = own[own["regime"] == regime]
                at = arm["dose"] + shift * own["dose"].max()
                draw_points(axes, at, arm["cost"], look_of(name, regime))
        line[0].set_ylabel(name)
    figure.supylabel("loss of total partial credit", fontsize=8)
    for axes, family in zip(grid[0], families, strict=True):
        axes.set_title(_UNITS[family])
    for axes in grid[-1]:
        axes.set_xlabel("dose of the distortion")
        axes.set_xlim(left=0)
    headline(
        figure,
        headline_of_doses(opened),
        [*regime_handles(shown["regime"]), *spread_handles(shown)],
    )
    return Drawn(figure, shown, records=_records(opened.table, shown))


def headline_of_doses(opened: OpenedStudy) -> str:
    """Return whether the largest affine dose costs unified models anything, in one sentence."""
    above, _, count = count_verdicts(opened, "distortion hurts")
    more, *_ = count_verdicts(opened, "distortion hurts more")
    if not above:
        return "An affine distortion is not shown to cost unified models partial credit"
    return (
        f"An affine distortion costs unified models partial credit in {above} of {count} "
        f"architectures, and more than understanding alone in {more or 'none'}"
    )


@theme()
def draw_families(opened: OpenedStudy) -> Drawn:
    """Draw what each family costs at its largest dose, and the width at every dose.

    Families are sorted by their mean cost to unified models. Costs are paired by seed.
    """
    need(opened.table, "affine_alignment_families", _ALIGNMENT_COLUMNS)
    costs = _costs(opened.table)
    costs = costs[costs["sharing"] == "shared"]
    most = costs.groupby("family")["dose"].transform("max")
    shown = costs[(costs["dose"] == most) | (costs["family"] == "width")]
    means = shown[shown["regime"] == "unified"].groupby(["family", "dose"])["cost"].mean()
    kinds = list(means.sort_values(ascending=False).index)
    names = known_architectures(shown)
    figure = Figure(figsize=(PAGE, 1.5 + 0.22 * len(kinds)))
    grid = figure.subplots(1, len(names), squeeze=False, sharex=True, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for regime, shift in (("understanding", -0.17), ("unified", 0.17)):
            own = shown[(shown["architecture"] == name) & (shown["regime"] == regime)]
            for kind, group in own.groupby(["family", "dose"]):
                at = kinds.index(kind) + shift
                draw_mean(axes, at, group["cost"], look_of(name, regime), upright=False)
        axes.set(title=name, ylim=(len(kinds) - 0.5, -0.5))
        axes.set_xlabel("loss of total\npartial credit")
        axes.grid(False, axis="y")
    words = [_IN_WORDS[family].format(dose) for family, dose in kinds]
    grid[0].set_yticks(range(len(kinds)), words)
    handles = [*regime_handles(shown["regime"], linestyle=""), *spread_handles(shown)]
    if shown["seed"].nunique() > OTHER_SEEDS:  # the other families have fewer seeds
        dot = {"linestyle": "", "marker": "o", "markersize": SEED_SIZE}
        handles.append(Line2D([], [], color="black", label="one seed", **dot))
    sentence = f"Unified models lose most, on average, to: {words[0]}"
    headline(figure, sentence, handles, ncols=4)
    return Drawn(figure, shown, records=_records(opened.table, shown))


@theme()
def draw_measured(opened: OpenedStudy) -> Drawn:
    """Draw the benefit of unified training against CKA at the adapters, a line for each seed.

    The number above a panel is what the verdict judges: the mean of Spearman's rank correlations
    within each seed.
    """
    need(opened.table, "affine_alignment_measured", _ALIGNMENT_COLUMNS)
    shown = _compared(alignment_benefit(opened.table)).sort_values("alignment")
    names = known_architectures(shown)
    figure = Figure(figsize=(PAGE, 2.8))
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        own = shown[shown["architecture"] == name]
        axes.axhline(0, color="black", linewidth=0.6)
        for _, run in own.groupby("seed"):
            axes.plot(
                run["alignment"], run["benefit"], color=COLOURS[name], linewidth=0.6, alpha=0.5
            )
            for plain, face in ((False, COLOURS[name]), (True, "white")):
                some = run[(run["family"] == "none") == plain]
                look = {"color": COLOURS[name], "markersize": 3, "markerfacecolor": face}
                axes.plot(some["alignment"], some["benefit"], "o", **look)
        slopes = alignment_slopes(own)
        told = "no rank correlation"
        if len(slopes):
            row = dict(zip(("difference", "low", "high"), mean_interval(slopes), strict=True))
            told = f"mean rank correlation\n{difference_text(row | {'seeds': len(slopes)})}"
        axes.set_title(f"{name}\n{told}", fontsize=7)
        axes.set_xlabel("agreement (linear CKA)")
    grid[0].set_ylabel(f"unified {MINUS} understanding\nalone, total partial credit")
    handles = [Line2D([], [], color="black", linewidth=0.6, label="models of one seed")]
    for face, label in (("black", "distorted"), ("white", "plain")):
        look = {"linestyle": "", "marker": "o", "markersize": 3, "markerfacecolor": face}
        handles.append(Line2D([], [], color="black", label=label, **look))
    headline(figure, headline_of_measured(opened), handles)
    return Drawn(figure, shown, records=_records(opened.table, shown))


def headline_of_measured(opened: OpenedStudy) -> str:
    """Return whether the benefit follows alignment, in one sentence."""
    told = tell_counts(opened, "alignment helps", "larger", "smaller")
    if told:
        return f"Where the two spaces agree more, the benefit is {told}"
    return "The benefit is not shown to follow how well the two spaces agree"


@theme()
def draw_sharing(opened: OpenedStudy) -> Drawn:
    """Draw what the largest affine dose costs with shared and with separate adapters."""
    need(opened.table, "affine_alignment_sharing", _ALIGNMENT_COLUMNS)
    costs, largest = _costs(opened.table), _largest(opened.table)
    shown = costs[(costs["family"] == "affine") & (costs["dose"] == largest)]
    names = known_architectures(shown)
    figure = Figure(figsize=(COLUMN, 2.7))
    axes = figure.subplots()
    axes.axhline(0, color="black", linewidth=0.6)
    for number, name in enumerate(names):
        own = shown[shown["architecture"] == name]
        look = {"color": COLOURS[name], "marker": "o"}
        for place, (regime, sharing) in enumerate(_ARMS):
            some = own[(own["regime"] == regime) & (own["sharing"] == sharing)]
            at = place + 0.6 * ((number + 0.5) / len(names) - 0.5)
            draw_mean(axes, at, some["cost"], look)
    axes.set_xticks(range(len(_ARMS)), _ARMS.values())
    axes.grid(False, axis="x")
    axes.set(xlim=(-0.5, len(_ARMS) - 0.5), ylabel="loss of total partial credit")
    headline(figure, headline_of_sharing(opened), [*colour_handles(names), *spread_handles(shown)])
    return Drawn(figure, shown, records=_records(opened.table, shown))


def headline_of_sharing(opened: OpenedStudy) -> str:
    """Return whether a distortion costs models with separate adapters too, in one sentence."""
    above, _, count = count_verdicts(opened, "not by sharing")
    if above:
        return f"With two adapters a distortion still costs, in {above} of {count} architectures"
    return "A distortion is not shown to cost unified models with two adapters"


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
    figure = Figure(figsize=(COLUMN if len(names) < 3 else PAGE, 3.0))
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
        axes.set(title=name, xlabel="layer (in: adapters)", ylim=(0, None))
    grid[0].set_ylabel("CKA of understanding\nand generation side")
    handles = [
        Line2D([], [], color="black", linestyle=line, label=label)
        for line, label in ((":", "before training"), ("-", "after"))
    ]
    handles += [
        Line2D([], [], color="black", linestyle="", marker="o", markerfacecolor=face, label=label)
        for face, label in (("black", "plain"), ("white", f"affine, dose {largest:g}"))
    ]
    headline(figure, headline_of_layers(shown), [*handles, *spread_handles(shown)], ncols=2)
    return Drawn(figure, shown)


def headline_of_layers(shown: pd.DataFrame) -> str:
    """Return whether distorted sides differ more at the last layer, in one sentence."""
    last = shown[
        (shown["attribute"] == shown["attribute"].iloc[-1]) & (shown["fraction"] == 1)
    ].pivot_table(index=["architecture", "seed"], columns="family", values="alignment")
    found = (last["none"] - last["affine"]).dropna().groupby("architecture")
    if {verdict(by_seed) for _, by_seed in found} == {"replicates"}:
        return "A distortion keeps the two sides less alike up to the last layer"
    return "How alike the two sides are in each layer"


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
    text = (
        f"Affine dose {largest:g} moves tokens by {told}. Its cost for the unified model: "
        f"{tell_verdicts(opened, 'distortion hurts')}. Its cost beyond that for understanding "
        f"alone: {tell_verdicts(opened, 'distortion hurts more')}."
    )
    alone = table[
        (table["architecture"] == "VQ-VQ")
        & (table["regime"] == "understanding")
        & (table["family"] == "authors")
        & (table["dose"] == REPORTED_DOSE)
        & (table["metric"] == "partial")
        & (table["attribute"] == "total")
    ]
    if alone.empty:
        return text
    return (
        f"{text} With the authors' recipe at {REPORTED_DOSE:g}, understanding alone of VQ-VQ has "
        f"{alone['value'].mean():.3f} here and {REPORTED_TOTAL:.3f} in their record (7B)."
    )


def tell_families(opened: OpenedStudy) -> str:
    """Say which distortion costs each unified model most, and what it costs elsewhere."""
    costs, told = distortion_costs(opened.table, "unified"), []
    here = (costs["side"] == "understanding") & (costs["place"] == "before")
    for name in known_architectures(costs):
        own = costs[here & (costs["architecture"] == name)]
        means = own.groupby(["family", "dose"])["cost"].mean()
        told.append(f"{name} {_IN_WORDS[means.idxmax()[0]].format(means.idxmax()[1])}")
        told[-1] += f" ({means.max():+.3f})"
    elsewhere = costs[~here].groupby(["side", "place"], sort=False)["cost"].mean()
    placed = ", ".join(
        f"{cost:+.3f} {place} the {side} adapter" for (side, place), cost in elsewhere.items()
    ).replace("-", MINUS)
    text = f"What costs unified models most: {'; '.join(told)}."
    if placed:
        text += f" The largest affine dose elsewhere costs, over all architectures: {placed}."
    return f"{text} Another number of coordinates needs two adapters, with and without it."


def tell_sharing(opened: OpenedStudy) -> str:
    """Say whether separate adapters protect the unified model."""
    return (
        "One adapter for both spaces cannot undo a distortion of one of them; two adapters could. "
        "Cost of the largest affine dose for the unified model with two: "
        f"{tell_verdicts(opened, 'not by sharing')}."
    )


def tell_measured(opened: OpenedStudy) -> str:
    """Say whether the benefit rises with alignment."""
    return (
        "Rank correlation of CKA with the benefit, within each seed, over undistorted and affine "
        f"models: {tell_verdicts(opened, 'alignment helps')}. Each point is a model. Its benefit "
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
