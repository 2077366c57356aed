"""What does it cost if the two image spaces disagree? (Paper section 4.1, figure 4.)

Distorts the space in which images are read, so that it no longer agrees with the space in which
they are drawn. Mixed training and its baselines, which learn to understand only, get the same
distortion. What it costs a model is the undistorted score minus the distorted one, paired by seed.
Mixed training is also run with two adapters, as one adapter for both spaces cannot undo the
distortion of one of them (pitfall 2). Training that generates first is compared with the same
baselines.

Belongs here: this study's runs, claims and figures. Not here: the distortions
(`models/distortion.py`, `models/distort.py`), the undistorted runs (`baselines.py`), measures of
alignment (`scoring/alignment.py`).
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.models.distortion import Distortion
from uvlm_core.models.kinds import kinds_of
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
    count_verdicts,
    generation_metric,
    tell_contrasts,
    tell_verdicts,
    understanding_totals,
)
from uvlm_core.studies.baselines import (
    FIRST,
    MIXED,
    ONCE,
    REPEATED,
    TEXT,
    MixedScale,
    baselines,
    generation_first,
)
from uvlm_core.studies.style import (
    COLOURS,
    MINUS,
    PAGE,
    REFERENCES,
    colour_handles,
    draw_mean,
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

ONE, TWO = "one adapter", "two adapters"  # of mixed training
OTHER_SEEDS = 4  # of the distortions that are drawn and not judged
HURTS, HURTS_MORE, NOT_BY_SHARING = "distortion hurts", "distortion hurts more", "not by sharing"
HURTS_MORE_STEPS = "more than for as many steps"
STAYS, APART = "benefit without alignment", "apart to the last layer"
STAYS_BEYOND_TEXT = "more than text without alignment"
FIRST_HURT, FIRST_HURT_MORE = f"distortion hurts {FIRST}", f"distortion hurts {FIRST} more"
FIRST_STAYS = f"{FIRST} without alignment"
# Reported by the authors (not ours): total of understanding-only VQ-VQ with their affine recipe at
# this dose, on their own test set and questions
REPORTED_DOSE, REPORTED_TOTAL = 0.3, 0.656
_ARMS = {  # (arm, adapters) -> how a figure calls it
    (ONCE, ONE): "under-\nstanding\nalone",
    (TEXT, ONE): "under-\nstanding\nand text",
    (REPEATED, ONE): "alone for\nlonger",
    (MIXED, ONE): "mixed,\none\nadapter",
    (MIXED, TWO): "mixed,\ntwo\nadapters",
    (FIRST, ONE): "generation\nfirst",
}
_FAMILY_LOOKS = {ONCE: {"marker": "s", "markerfacecolor": "white"}, MIXED: {"marker": "o"}}
_IN_WORDS = {  # family -> what a dose of it is
    "affine": "affine {0:g}: rotation, stretch, shift",
    "rotation": "rotation, {0:.0%} of the way",
    "scaling": "stretch, condition number 10^{0:g}",
    "shift": "shift of {0:g} times a token's length",
    "authors": "authors' recipe, strength {0:g}",
    "residual": "smooth bend, dose {0:g}",
    "warp": "squashed values, dose {0:g}",
    "permutation": "exchange of {0:.0%} of the codes",
}
_IN_A_LINE = {key: words.replace("-\n", "").replace("\n", " ") for key, words in _ARMS.items()}
_ALIGNMENT_COLUMNS = (
    "architecture",
    "arm",
    "adapters",
    "family",
    "dose",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
)


@dataclass(frozen=True)
class AlignmentScale(MixedScale):
    """With the distortion that is judged, and others that are drawn beside it in few seeds.

    ValueError for a distortion that `Distortion` refuses, and for the family "width".
    """

    family: str = "affine"
    dose: float = 1.0
    others: tuple[tuple[str, float], ...] = ()  # (family, dose)

    def __post_init__(self):
        super().__post_init__()
        for family, dose in ((self.family, self.dose), *self.others):
            if Distortion(family, dose).family == "width":
                raise ValueError(
                    "family 'width' leaves the two spaces no common adapter, so what it costs "
                    "cannot be told from what a second adapter costs; take another family."
                )


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
    """Return both orders of training and their baselines by seed, plain and distorted.

    Mixed training has one adapter and two, the other arms have one. The other distortions have
    mixed training by one adapter, and its rows alone, in the first `OTHER_SEEDS` seeds.
    """
    found, judged = [], (scale.family, scale.dose)
    for seed in range(scale.seeds):
        for name in scale.architectures:
            others = scale.others if seed < OTHER_SEEDS else ()
            for family, dose in dict.fromkeys((("none", 0.0), judged, *map(tuple, others))):
                distortions = () if family == "none" else (Distortion(family, dose),)
                specs = baselines(
                    base,
                    scale,
                    scale.seen,
                    seed=seed,
                    architecture=name,
                    distortions=distortions,
                )
                labels = {"family": family, "dose": dose}
                few = family != "none" and (family, dose) != judged
                specs[FIRST] = generation_first(specs[MIXED])
                names = (ONCE, MIXED) if few else (ONCE, REPEATED, TEXT, MIXED, FIRST)
                found += [
                    arm_of(specs[arm], arm=arm, adapters=ONE, **labels)
                    for arm in names
                    if arm in specs
                ]
                if not few:
                    apart = specs[MIXED].vary(shared_adapter=False)
                    found.append(arm_of(apart, arm=MIXED, adapters=TWO, **labels))
    return found + strength_arms(base, scale)


def strength_arms(base: Profile, scale: AlignmentScale) -> list[Arm]:
    """Return arms that measure the strength of each distortion; permutations move no token."""
    spec, kinds = base.spec, ((scale.family, scale.dose), *scale.others)
    kinds = tuple((family, dose) for family, dose in kinds if family != "permutation")
    found = []
    for name in scale.architectures:
        space = kinds_of(name)[0]
        network = spec.model.vq_tokenizer if space == "VQ" else spec.model.semantic_encoder
        labels = {"architecture": name, "regime": "none", "seed": 0}
        labels |= {"arm": "none", "adapters": "none", "family": "none", "dose": 0.0}
        found.append(Arm(DistortionStrengths(space, network, spec.data.image_size, kinds), labels))
    return found


# What is compared


def judged(table: pd.DataFrame, scale: AlignmentScale) -> pd.DataFrame:
    """Return the rows of the distortion that is judged."""
    return table[(table["family"] == scale.family) & (table["dose"] == scale.dose)]


def undistorted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of models without a distortion."""
    return table[table["family"] == "none"]


def distortion_costs(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each distortion costs each arm, by seed: undistorted minus distorted total.

    Columns: architecture, arm, adapters, family, dose, seed, cost.
    """
    keys = ["architecture", "arm", "adapters", "seed"]
    ends = understanding_totals(table)
    plain = undistorted(ends).set_index(keys)["value"]
    bent = ends[ends["family"] != "none"].set_index([*keys, "family", "dose"])["value"]
    cost = plain.reindex(bent.index.droplevel(["family", "dose"])).to_numpy() - bent
    return cost.rename("cost").dropna().reset_index()


def comparing_costs(
    trained: tuple[str, str], *less: tuple[str, str]
) -> Callable[[pd.DataFrame, AlignmentScale], Iterator[Comparison]]:
    """Return a comparison of what the distortion costs a training on both tasks.

    Args:
        trained: arm and adapters.
        less: baselines whose cost is subtracted, each with what it is matched by; without any, the
            cost is compared with zero.
    """

    def compare(table: pd.DataFrame, scale: AlignmentScale) -> Iterator[Comparison]:
        costs = judged(distortion_costs(table), scale)
        for name in known_architectures(costs):
            wide = costs[costs["architecture"] == name].pivot(
                index="seed", columns=["arm", "adapters"], values="cost"
            )
            cost, words = wide[trained], f"total lost by {_words(scale)}, {_trained(*trained)}"
            if not less:
                yield Comparison(name, words, cost.dropna(), "examples")
            for arm, matching in less:
                if (arm, ONE) not in wide:
                    continue
                difference = (cost - wide[arm, ONE]).dropna()
                yield Comparison(name, f"{words} {MINUS} {arm}", difference, matching)

    return compare


def comparing_benefits(
    *trained: tuple[str, str], baseline: str = ONCE, matching: str = "examples"
) -> Callable[[pd.DataFrame, AlignmentScale], Iterator[Comparison]]:
    """Return a comparison of trainings on both tasks, each an arm and its adapters.

    They are compared with a baseline that has the distortion, too.
    """

    def compare(table: pd.DataFrame, scale: AlignmentScale) -> Iterator[Comparison]:
        bent = judged(understanding_totals(table), scale)
        for name in known_architectures(bent):
            wide = bent[bent["architecture"] == name].pivot(
                index="seed", columns=["arm", "adapters"], values="value"
            )
            for arm, adapters in trained if (baseline, ONE) in wide else ():
                yield Comparison(
                    name,
                    f"total with {_words(scale)}, {_trained(arm, adapters)} {MINUS} {baseline}",
                    (wide[arm, adapters] - wide[baseline, ONE]).dropna(),
                    matching,
                )

    return compare


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Return linear CKA of the two sides in mixed models, by place, before and after training."""
    return table[(table["metric"] == "alignment_cka") & (table["arm"] == MIXED)]


def compare_last_layers(table: pd.DataFrame, scale: AlignmentScale) -> Iterator[Comparison]:
    """Compare the CKA of both sides at the last layer, undistorted and distorted."""
    found = agreement(table)
    found = found[(found["fraction"] == 1) & (found["adapters"] == ONE)]
    for name in known_architectures(found):
        own = found[found["architecture"] == name]
        own = own[own["attribute"] == _places(own)[-1]]
        plain, bent = (rows.set_index("seed") for rows in (undistorted(own), judged(own, scale)))
        yield Comparison(
            name,
            f"CKA at the last layer lost by {_words(scale)}, {MIXED}, {ONE}",
            (plain["value"] - bent["value"]).dropna(),
            "examples",
        )


def _trained(arm: str, adapters: str) -> str:
    """Return how a comparison calls a training on both tasks."""
    return f"{arm}, {adapters}" if arm == MIXED else arm


def _words(scale: AlignmentScale) -> str:
    return f"{scale.family} {scale.dose:g}"


def _places(table: pd.DataFrame) -> list[str]:
    """Return where alignment is measured, in the order of the model."""
    return list(dict.fromkeys(table["attribute"]))


# Figures


@theme()
def draw_costs(opened: OpenedStudy) -> Drawn:
    """Draw where each arm ends, plain and distorted, and what the distortion costs it."""
    table, scale = opened.table, opened.scale
    need(table, "affine_alignment", _ALIGNMENT_COLUMNS)
    ends = understanding_totals(table)
    shown = pd.concat([undistorted(ends), judged(ends, scale)])
    names = known_architectures(shown)
    figure = new_figure(PAGE, 2.9)
    left, right = figure.subplots(1, 2)
    left.axhline(chance("partial", "total"), **REFERENCES["chance"])
    series = [(name, plain) for name in names for plain in (True, False)]
    for number, (name, plain) in enumerate(series):
        own = shown[(shown["architecture"] == name) & ((shown["family"] == "none") == plain)]
        _draw_arms(left, own, "value", _face(name, plain), (number + 0.5) / len(series) - 0.5)
    costs = judged(distortion_costs(table), scale)
    right.axhline(0, color="black", linewidth=0.6)
    for number, name in enumerate(names):
        own = costs[costs["architecture"] == name]
        _draw_arms(right, own, "cost", _face(name, True), (number + 0.5) / len(names) - 0.5)
    left.set(title="after training", ylabel="total partial credit")
    right.set(title="lost by the distortion", ylabel=f"plain {MINUS} distorted")
    handles = [
        *colour_handles(names),
        *_face_handles(scale),
        *spread_handles(shown),
        entry(label="chance", **REFERENCES["chance"]),
    ]
    headline(figure, headline_of_costs(opened), handles)
    return Drawn(figure, shown)


def _draw_arms(axes: "Axes", table: pd.DataFrame, column: str, look: dict, shift: float) -> None:
    """Draw the mean of a column for each arm, `shift` of its place to the side."""
    for place, (arm, adapters) in enumerate(_ARMS):
        own = table[(table["arm"] == arm) & (table["adapters"] == adapters)]
        if len(own):
            draw_mean(axes, place + 0.6 * shift, own[column], look)
    axes.set_xticks(range(len(_ARMS)), _ARMS.values())
    axes.set_xlim(-0.5, len(_ARMS) - 0.5)
    axes.margins(y=0.1)
    axes.grid(False, axis="x")


def _face(name: str, plain: bool) -> dict:
    """Return the look of an architecture's models: hollow where they are distorted."""
    face = COLOURS[name] if plain else "white"
    return {"color": COLOURS[name], "marker": "o", "markerfacecolor": face}


def _face_handles(scale: AlignmentScale) -> "list[Line2D]":
    """Return legend entries for plain and distorted models."""
    return [
        entry(color="black", linestyle="", marker="o", markerfacecolor=face, label=label)
        for face, label in (("black", "plain"), ("white", f"distorted: {_words(scale)}"))
    ]


def headline_of_costs(opened: OpenedStudy) -> str:
    """Say what the distortion costs mixed training, and what it still gains, in one sentence."""
    above, _, count = count_verdicts(opened, HURTS)
    cost = "costs" if above == count else "is not shown to cost"
    stays = _against(opened, STAYS, "its understanding rows alone")
    beyond = _against(opened, STAYS_BEYOND_TEXT, "text rows in place of requests")
    told = ", and ".join(filter(None, (stays, beyond)))
    return (
        f"Distorting what a model reads {cost} mixed training partial credit; distorted, it {told}"
    )


def _against(opened: OpenedStudy, claim: str, baseline: str) -> str:
    """Say whether distorted mixed training by one adapter beats a baseline; "" if not asked."""
    above, below, count = count_verdicts(opened, claim, ONE)
    word = (
        "beats" if above == count else "is beaten by" if below == count else "is not shown to beat"
    )
    return f"{word} {baseline}" if count else ""


@theme()
def draw_families(opened: OpenedStudy) -> Drawn:
    """Draw what each distortion costs mixed training and its rows alone, paired by seed."""
    need(opened.table, "affine_alignment_families", _ALIGNMENT_COLUMNS)
    costs = distortion_costs(opened.table)
    shown = costs[(costs["adapters"] == ONE) & costs["arm"].isin(_FAMILY_LOOKS)]
    names = known_architectures(shown)
    kinds = list(dict.fromkeys(zip(shown["family"], shown["dose"], strict=True)))
    figure = new_figure(PAGE, 1.3 + 0.38 * len(kinds))
    grid = figure.subplots(1, len(names), squeeze=False, sharex=True, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for (arm, look), shift in zip(_FAMILY_LOOKS.items(), (-0.16, 0.16), strict=True):
            own = shown[(shown["architecture"] == name) & (shown["arm"] == arm)]
            for kind, group in own.groupby(["family", "dose"]):
                at, look = kinds.index(kind) + shift, look | {"color": COLOURS[name]}
                draw_mean(axes, at, group["cost"], look, upright=False)
        axes.set_title(name)
        axes.set(ylim=(len(kinds) - 0.5, -0.5), xlabel="total partial credit lost")
        axes.grid(False, axis="y")
    grid[0].set_yticks(
        range(len(kinds)), [_IN_WORDS[family].format(dose) for family, dose in kinds]
    )
    handles = [
        entry(color="black", linestyle="", label=arm, **look) for arm, look in _FAMILY_LOOKS.items()
    ]
    headline(figure, headline_of_families(opened), [*handles, *spread_handles(shown)])
    ends = understanding_totals(opened.table)
    compared = ends[(ends["adapters"] == ONE) & ends["arm"].isin(_FAMILY_LOOKS)]
    counts = shown.groupby(["family", "dose"])["seed"].nunique()
    fewest, most = int(counts.min()), int(counts.max())
    seeds = most if fewest == most else f"{fewest} to {most}"
    return Drawn(figure, shown, records=compared["record"], seeds=seeds)


def headline_of_families(opened: OpenedStudy) -> str:
    """Say whether mixed training loses more than its understanding rows alone, in one sentence."""
    above, below, count = count_verdicts(opened, HURTS_MORE, f"{MINUS} {ONCE}")
    if count in (above, below):
        word = "more" if above else "less"
        return f"Mixed training loses {word} by a distortion than understanding alone"
    return "Mixed training is not shown to lose more by a distortion than understanding alone"


@theme()
def draw_layers(opened: OpenedStudy) -> Drawn:
    """Draw linear CKA of the two sides by place, before and after training, by adapters."""
    need(opened.table, "affine_alignment_layers", _ALIGNMENT_COLUMNS)
    scale, found = opened.scale, agreement(opened.table)
    shown = pd.concat([undistorted(found), judged(found, scale)])
    names, places = known_architectures(shown), _places(shown)
    figure = new_figure(PAGE, 2.9)
    for axes, adapters in zip(figure.subplots(1, 2, sharey=True), (ONE, TWO), strict=True):
        for name in names:
            for plain, shift in ((True, -0.08), (False, 0.08)):
                for fraction, line in ((0.0, ":"), (1.0, "-")):
                    own = shown[
                        (shown["architecture"] == name)
                        & (shown["adapters"] == adapters)
                        & ((shown["family"] == "none") == plain)
                        & (shown["fraction"] == fraction)
                    ]
                    at = own["attribute"].map(places.index) + shift
                    look = _face(name, plain) | {"linestyle": line, "markersize": 3}
                    draw_points(axes, at, own["value"], look)
        labels = [place.replace("adapter", "adapter's\noutput") for place in places]
        axes.set_xticks(range(len(places)), labels)
        axes.set(title=f"{MIXED}, {adapters}", ylim=(0, None))
        axes.set_ylabel("CKA of the side that reads\nand the side that draws")
        axes.label_outer()
    handles = [
        entry(color="black", linestyle=line, label=label)
        for line, label in ((":", "before training"), ("-", "after"))
    ]
    handles += [*colour_handles(names), *_face_handles(scale), *spread_handles(shown)]
    headline(figure, headline_of_layers(opened), handles)
    return Drawn(figure, shown)


def headline_of_layers(opened: OpenedStudy) -> str:
    """Say whether the two sides agree less at the last layer if distorted, in one sentence."""
    above, _, count = count_verdicts(opened, APART)
    if above == count:
        return "A distortion keeps the two sides less alike up to the last layer"
    return "A distortion is not shown to keep the two sides apart up to the last layer"


# What the figures say


def tell_costs(opened: OpenedStudy) -> str:
    """Say what the distortion costs each arm, and what mixed training still gains."""
    costs = judged(distortion_costs(opened.table), opened.scale)
    means = costs.groupby(["arm", "adapters"])["cost"].mean()
    lost = "; ".join(
        f"{words} {means[key]:+.3f}" for key, words in _IN_A_LINE.items() if key in means
    )
    lost = lost.replace("-", MINUS)
    told = [
        f"Partial credit lost by the distortion: {lost}.",
        f"It costs mixed training {tell_verdicts(opened, HURTS)} by one adapter and "
        f"{tell_verdicts(opened, NOT_BY_SHARING)} by two; by one adapter, beyond what it costs "
        f"{_beyond(opened, HURTS_MORE, HURTS_MORE_STEPS)}.",
        f"It costs generation first {tell_verdicts(opened, FIRST_HURT)}; beyond what it costs "
        f"{_beyond(opened, FIRST_HURT_MORE)}.",
        *(
            f"Distorted mixed training by {adapters}: {_distorted(opened, adapters)}."
            for adapters in (ONE, TWO)
        ),
        f"Distorted generation first: {_distorted(opened, FIRST)}.",
        f"What mixed training by one adapter draws, read back: {_read_back(opened)}.",
    ]
    return "\n".join(told)


def _distorted(opened: OpenedStudy, trained: str) -> str:
    """Say what a distorted training on both tasks is better than; `trained` is in its quantity."""
    alone = "its understanding rows alone, shown as often"
    return tell_contrasts(
        opened,
        {
            alone: (FIRST_STAYS if trained == FIRST else STAYS, trained),
            "text rows in place of requests": (STAYS_BEYOND_TEXT, trained),
        },
    )


def _beyond(opened: OpenedStudy, *claims: str) -> str:
    """Say how much more the distortion costs a training on both tasks than each baseline."""
    return ", ".join(
        f"{baseline} {told}"
        for claim, baseline in itertools.product(claims, (ONCE, REPEATED, TEXT))
        if (told := tell_verdicts(opened, claim, f"{MINUS} {baseline}"))
    )


def _read_back(opened: OpenedStudy) -> str:
    """Say how much of what mixed models draw is as requested, plain and distorted."""
    table = opened.table
    own = table[
        (table["metric"] == table["architecture"].map(generation_metric))
        & (table["attribute"] == "total")
        & (table["fraction"] == 1)
        & (table["arm"] == MIXED)
        & (table["adapters"] == ONE)
    ]
    plain, bent = (
        rows.groupby("architecture")["value"].mean()
        for rows in (undistorted(own), judged(own, opened.scale))
    )
    return "; ".join(
        f"{name} {plain[name]:.2f} plain, {bent[name]:.2f} distorted"
        for name in known_architectures(own)
    )


def tell_families(opened: OpenedStudy) -> str:
    """Say how far the distortions move the tokens, and how the authors' own record compares."""
    table = opened.table
    moved = table[
        (table["metric"] == "strength") & table["attribute"].str.endswith(", displacement")
    ]
    told = [
        f"{row['attribute'].split(',')[0]} by {row['value']:.2f} of their length"
        for _, row in moved.iterrows()
    ]
    text = f"How far the tokens that are read move: {', '.join(told)}." if told else ""
    alone = understanding_totals(table)
    alone = alone[
        (alone["architecture"] == "VQ-VQ")
        & (alone["arm"] == ONCE)
        & (alone["family"] == "authors")
        & (alone["dose"] == REPORTED_DOSE)
    ]
    if len(alone):
        text += (
            f" With the authors' recipe at {REPORTED_DOSE:g}, understanding alone of VQ-VQ has "
            f"{alone['value'].mean():.3f} here and {REPORTED_TOTAL:.3f} in their record (7B)."
        )
    return text.strip()


def tell_layers(opened: OpenedStudy) -> str:
    """Say how alike the two sides are at the last layer, before and after training."""
    found, told = agreement(opened.table), []
    found = found[found["attribute"] == _places(found)[-1]]
    plain, bent = (
        rows.groupby(["architecture", "adapters", "fraction"])["value"].mean()
        for rows in (undistorted(found), judged(found, opened.scale))
    )
    for name in known_architectures(found):
        for adapters in (ONE, TWO):
            ends = ", ".join(
                f"{means[name, adapters, 0.0]:.2f} and {means[name, adapters, 1.0]:.2f} {words}"
                for means, words in ((plain, "plain"), (bent, "distorted"))
            )
            told.append(
                f"CKA at the last layer before and after training, {name} by {adapters}: {ends}."
            )
    told.append(
        f"After training by one adapter, plain minus distorted: {tell_verdicts(opened, APART)}."
    )
    return "\n".join(told)


STUDY = Study(
    name="affine_alignment",
    number=4,
    section="4.1, figure 4",
    question="Is the benefit of mixed training lost if the two image spaces disagree?",
    scales={
        "smoke": AlignmentScale(1, ("VQ-VQ",), 16, 16, 8, others=(("authors", 0.3),)),
        "laptop": AlignmentScale(
            8,
            ("VQ-VQ",),
            1600,
            7000,
            3500,
            others=(("shift", 1.0), ("rotation", 1.0), ("authors", 0.3)),
        ),
        "smollm": AlignmentScale(1, ("VQ-VQ",), 1600, 7000, 3500, others=(("authors", 0.3),)),
        "paper": AlignmentScale(
            1,
            ("VQ-VQ", "SigLIP-SigLIP"),
            120_000,
            60_000,
            0,
            others=(("authors", 0.1), ("authors", 0.2), ("authors", 0.3)),
        ),
    },
    arms=arms,
    claims=(
        Claim(
            HURTS,
            "an affine distortion of the space in which images are read hurts mixed training",
            "4.1, figure 4",
            comparing_costs((MIXED, ONE)),
            "yes",
        ),
        Claim(
            HURTS_MORE,
            "and more than it hurts training on understanding alone",
            "4.1, figure 4",
            comparing_costs((MIXED, ONE), (ONCE, "examples")),
            "yes: it does not hurt that",
        ),
        Claim(
            HURTS_MORE_STEPS,
            "and more than it hurts as many steps on repeated rows, or with text rows",
            "4.1, figure 4",
            comparing_costs((MIXED, ONE), (REPEATED, "steps"), (TEXT, "steps")),
        ),
        Claim(
            NOT_BY_SHARING,
            "the distortion hurts mixed training with two adapters too",
            "4.1",
            comparing_costs((MIXED, TWO)),
        ),
        Claim(
            STAYS,
            "where the spaces disagree, mixed training still understands better than its "
            "understanding rows alone, shown as often",
            "4.1",
            comparing_benefits((MIXED, ONE), (MIXED, TWO)),
        ),
        Claim(
            STAYS_BEYOND_TEXT,
            "and better than with text rows in place of requests",
            "4.1",
            comparing_benefits((MIXED, ONE), (MIXED, TWO), baseline=TEXT, matching="steps"),
        ),
        Claim(
            APART,
            "the distortion keeps the two sides of a mixed model less alike up to the last layer",
            "4.1",
            compare_last_layers,
        ),
        Claim(
            FIRST_HURT,
            "the distortion hurts training that generates first",
            "4.1",
            comparing_costs((FIRST, ONE)),
        ),
        Claim(
            FIRST_HURT_MORE,
            "and more than it hurts training on understanding alone",
            "4.1",
            comparing_costs((FIRST, ONE), (ONCE, "examples"), (REPEATED, "steps")),
        ),
        Claim(
            FIRST_STAYS,
            "where the spaces disagree, a model that generates first still understands better than "
            "from its understanding rows alone, shown as often",
            "4.1",
            comparing_benefits((FIRST, ONE)),
        ),
    ),
    figures={
        "affine_alignment": draw_costs,
        "affine_alignment_families": draw_families,
        "affine_alignment_layers": draw_layers,
    },
    findings={
        "affine_alignment": tell_costs,
        "affine_alignment_families": tell_families,
        "affine_alignment_layers": tell_layers,
    },
)
