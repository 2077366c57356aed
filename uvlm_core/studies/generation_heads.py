"""Does the benefit hold with a generation component that samples? (The paper's open question.)

The paper's generation components predict codes, or regress SigLIP features. It leaves open whether
its claims hold for components like diffusion. Here mixed training and its baselines have six heads:
codes; SigLIP features, by regression and by flow matching; and a VQ tokenizer's vectors before
rounding (latents), by regression and by two kinds of flow matching. A flow samples one of the
possible features, a regression predicts their mean. One flow draws token by token, the other
("image flow") all tokens of an image at once. All models understand VQ codes, so all heads share
the runs of understanding alone.

Heads are compared within a space only. Codes and latents are read back from pixels, SigLIP output
from its features. With codes, both sides share an adapter; features and latents have their own.

Belongs here: this study's runs, claims and figures. Not here: the heads (`models/heads.py`), mixed
training and its baselines (`baselines.py`), the verdicts on codes (`mutual_benefit.py`).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.models.kinds import KINDS, kinds_of
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Study,
    arm_of,
    chance,
    generation_metric,
    tell_counts,
    tell_verdicts,
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
from uvlm_core.studies.learning_curves import draw_watches
from uvlm_core.studies.mutual_benefit import differences
from uvlm_core.studies.style import (
    COLOURS,
    MINUS,
    NAMES,
    PAGE,
    REFERENCES,
    draw_mean,
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

CODES, REGRESSION = "codes", "regression"
FLOW, IMAGE_FLOW = "flow", "image flow"  # token by token, and all tokens of an image at once
SAMPLING = (FLOW, IMAGE_FLOW)
# the laptop profile's: with the paper's weight, 1, hardly anything is learned to draw (docs/log.md)
REGRESSED = {"feature_loss": "cosine", "feature_loss_weight": 5.0, "feature_dropout": 0.5}
# to be set by trials on seeds from 100 up, before the runs; the first trial had weight 1, and no
# guidance, which has no setting
SAMPLED_FEATURES = {"feature_loss": "flow", "feature_loss_weight": 1.0, "feature_dropout": 0.5}
SAMPLED_LATENTS = {"feature_loss": "flow", "feature_loss_weight": 1.0, "feature_dropout": 0.5}
SAMPLED_IMAGES = {"feature_loss": "image_flow", "feature_loss_weight": 1.0}
NEEDED = {  # kind of output -> head -> all that it changes in mixed training and its baselines
    "codes": {CODES: {}},
    "features": {REGRESSION: REGRESSED, FLOW: SAMPLED_FEATURES},
    # a latent is a unit vector, and its code is the nearest by the cosine, so that loss suits it
    "latents": {REGRESSION: REGRESSED, FLOW: SAMPLED_LATENTS, IMAGE_FLOW: SAMPLED_IMAGES},
}
KEPT_PICTURES = 5  # of each run that generates, except runs of codes, which other studies share
PICTURED = f"{MIXED}, with pictures"  # an extra run of codes, for its pictures alone
REPORTED_HEADS = (("features", REGRESSION),)  # (kind of output, head)
OTHER_HEADS = (
    ("features", FLOW),
    ("latents", REGRESSION),
    ("latents", FLOW),
    ("latents", IMAGE_FLOW),
)
FEATURES_GAIN, OTHERS_GAIN = "understanding gains by regression", "understanding gains by others"
HEADS_OUTLAST, HEADS_DRAW = "more than repeating, by head", "generation gains, by head"
HEADS_BEYOND_TEXT = "more than text, by head"
SAMPLING_DRAWS, SAMPLING_KEEPS = "sampling draws better", "no smaller benefit by sampling"
_MARKERS = {ONCE: "s", REPEATED: "D", TEXT: "v", GENERATION: "^", MIXED: "o"}
_PANELS = {
    "understanding, total partial credit": (ONCE, REPEATED, TEXT),
    "drawing, total read back": (GENERATION,),
}
_COLUMNS_OF_HEADS = (
    "architecture",
    "head",
    "arm",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
)


def arms(base: Profile, scale: MixedScale) -> list[Arm]:
    """Return mixed training and its baselines, by seed, architecture and head.

    Of codes, there is one more run of the first seed, with pictures.
    """
    found, kept = [], {"shown_watches": KEPT_PICTURES}
    for seed in range(scale.seeds):
        for name in scale.architectures:
            specs = baselines(base, scale, scale.seen, seed=seed, architecture=name)
            for head, needed in NEEDED[_output(name)].items():
                changes = needed if head == CODES else needed | kept
                found += [
                    arm_of(spec.vary(**changes), arm=arm, head=head) for arm, spec in specs.items()
                ]
                if head == CODES and seed == 0:
                    found.append(arm_of(specs[MIXED].vary(**kept), arm=PICTURED, head=head))
    return found


def _output(architecture: str) -> str:
    """Return the kind of output of an architecture, a key of `NEEDED`."""
    return KINDS[kinds_of(architecture)[1]].output


# What is compared


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Return what mixed training has more than each baseline in the final total, by seed and head.

    Columns: those of `mutual_benefit.differences`, and head.
    """
    found = pd.concat(
        differences(own).assign(head=head) for head, own in table.groupby("head", sort=False)
    )
    return found[found["attribute"] == "total"]


def read_backs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the final read-back of generation alone and mixed training, by attribute and total."""
    last = table[
        (table["fraction"] == 1)
        & table["arm"].isin((GENERATION, MIXED))
        & table["attribute"].isin(("total", *ATTRIBUTES))
    ]
    return last[last["metric"] == last["architecture"].map(generation_metric)]


def known_heads(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the heads of a table as (architecture, head), in the order of drawing."""
    found = set(zip(table["architecture"], table["head"], strict=True))
    return [
        (name, head)
        for name in known_architectures(table)
        for head in NEEDED[_output(name)]
        if (name, head) in found
    ]


def comparing(
    baseline: str, heads: tuple[tuple[str, str], ...], matching: str
) -> Callable[[pd.DataFrame, MixedScale], Iterator[Comparison]]:
    """Return a comparison of mixed training with a baseline, for each of some heads.

    `heads` are (kind of output, head).
    """

    def compare(table: pd.DataFrame, scale: MixedScale) -> Iterator[Comparison]:
        found = gains(table)
        found = found[found["baseline"] == baseline]
        for name, head in known_heads(found):
            if (_output(name), head) in heads:
                own = _of_head(found, name, head)
                quantity = f"total, {_words(own)}, {head}, {MIXED} {MINUS} {baseline}"
                yield Comparison(
                    name, quantity, own.set_index("seed")["difference"].dropna(), matching
                )

    return compare


def compare_drawing(table: pd.DataFrame, scale: MixedScale) -> Iterator[Comparison]:
    """Compare the read-back of generation alone between sampling and regressing the same space."""
    found = read_backs(table)
    found = found[(found["arm"] == GENERATION) & (found["attribute"] == "total")]
    return _compare_heads(found, "value", GENERATION)


def compare_benefits(table: pd.DataFrame, scale: MixedScale) -> Iterator[Comparison]:
    """Compare the benefit for understanding between sampling and regressing the same space."""
    found = gains(table)
    found = found[found["baseline"] == ONCE]
    return _compare_heads(found, "difference", f"{MIXED} {MINUS} {ONCE}")


def _compare_heads(table: pd.DataFrame, column: str, what: str) -> Iterator[Comparison]:
    """Compare a column between each flow and regression, for each architecture that has both."""
    for name in known_architectures(table):
        own = table[table["architecture"] == name]
        wide = own.pivot(index="seed", columns="head", values=column)
        for head in SAMPLING:
            if {head, REGRESSION} <= set(wide):
                quantity = f"total, {_words(own)}, {what}, {head} {MINUS} {REGRESSION}"
                gained = (wide[head] - wide[REGRESSION]).dropna()
                yield Comparison(name, quantity, gained, "examples")


def _of_head(table: pd.DataFrame, architecture: str, head: str) -> pd.DataFrame:
    return table[(table["architecture"] == architecture) & (table["head"] == head)]


def _words(table: pd.DataFrame) -> str:
    """Return how a table's only metric is called."""
    (metric,) = table["metric"].unique()
    return NAMES[metric]


# Figures


@theme()
def draw_gains(opened: OpenedStudy) -> Drawn:
    """Draw what mixed training has more than each baseline, by head; left understanding."""
    table = opened.table
    need(table, "generation_heads", _COLUMNS_OF_HEADS)
    shown = gains(table)
    heads = known_heads(shown)
    figure = new_figure(PAGE, 1.5 + 0.3 * len(heads))
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (title, compared) in zip(panels, _PANELS.items(), strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        own = shown.rename(columns={"baseline": "arm", "difference": "value"})
        _draw_heads(axes, own, heads, compared)
        axes.set_xlabel(f"{MIXED} {MINUS} baseline")
        axes.set_title(title)
    _name_rows(panels[0], heads)
    words = {arm: f"{MINUS} {arm}" for arms in _PANELS.values() for arm in arms}
    headline(figure, headline_of_gains(opened), _handles(shown, words))
    return Drawn(figure, shown, records=set(table.loc[table["arm"] != PICTURED, "record"]))


@theme()
def draw_read_backs(opened: OpenedStudy) -> Drawn:
    """Draw the read-back of generation alone and mixed training by head, a panel per attribute."""
    need(opened.table, "generation_heads_read_back", _COLUMNS_OF_HEADS)
    shown = read_backs(opened.table)
    heads, looked = known_heads(shown), ("total", *ATTRIBUTES)
    figure = new_figure(PAGE, 1.5 + 0.3 * len(heads))
    panels = figure.subplots(1, len(looked), sharex=True, sharey=True)
    for axes, attribute in zip(panels, looked, strict=True):
        # a guess is worth the same whatever is read
        axes.axvline(chance("read_back", attribute), **REFERENCES["chance"])
        own = shown[shown["attribute"] == attribute]
        _draw_heads(axes, own, heads, (GENERATION, MIXED))
        axes.set_title(NAMES.get(attribute, attribute).replace(" ", "\n"))
        axes.set(xlim=(-0.04, 1.04), xlabel="read back")
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    _name_rows(panels[0], heads)
    handles = _handles(shown, {GENERATION: GENERATION, MIXED: MIXED})
    handles.append(entry(label="chance", **REFERENCES["chance"]))
    headline(figure, headline_of_read_backs(opened), handles, ncols=5)
    return Drawn(figure, shown)


def draw_pictures(opened: OpenedStudy) -> Drawn:
    """Draw what mixed training draws by each head, of seed 0, below the watches asked for."""
    size = opened.base.spec.data.image_size
    watches = sample_watches(TEST_STREAM, KEPT_PICTURES, "test")
    images, rows = {"target watch": render_batch(watches, size)}, []
    for arm in opened.arms:
        labels, asked = arm.labels, arm.spec.scoring.shown_watches
        if not asked or labels["seed"] != 0 or labels["arm"] not in (MIXED, PICTURED):
            continue
        record = opened.store.load(arm.spec)
        pictures = opened.store.pictures(record)
        if pictures is not None:  # without a decoder there is nothing to look at
            images[f"{labels['architecture']} {labels['head']}"] = pictures
            rows += [
                (labels["architecture"], labels["head"], 0, position, request, record["key"])
                for position, request in enumerate(record["samples"]["requests"])
            ]
    columns = ["architecture", "head", "seed", "position", "request", "record"]
    shown = pd.DataFrame(rows, columns=columns)
    sentence = "What mixed training draws by each head, below the request"
    name = "generation_heads_watches"
    return Drawn(draw_watches(shown[:KEPT_PICTURES], images, name, sentence), shown)


def _draw_heads(
    axes: "Axes", table: pd.DataFrame, heads: list[tuple[str, str]], arms: tuple[str, ...]
) -> None:
    """Draw the mean value of each arm, a row per head."""
    for place, (name, head) in enumerate(heads):
        own, colour = _of_head(table, name, head), COLOURS[name]
        for number, arm in enumerate(arms):
            values = own.loc[own["arm"] == arm, "value"]
            if len(values):
                at = place + 0.5 * ((number + 0.5) / len(arms) - 0.5)
                face = colour if head in SAMPLING else "white"
                look = {"color": colour, "marker": _MARKERS[arm], "markerfacecolor": face}
                draw_mean(axes, at, values, look, upright=False)
    axes.grid(False, axis="y")


def _name_rows(axes: "Axes", heads: list[tuple[str, str]]) -> None:
    axes.set_yticks(range(len(heads)), [f"{name}, {head}" for name, head in heads])
    axes.set_ylim(len(heads) - 0.5, -0.5)


def _handles(table: pd.DataFrame, words: dict[str, str]) -> "list[Line2D]":
    """Return legend entries for arms by their words, for heads that sample, and for the spread."""
    look = {"color": "black", "linestyle": "none"}
    return [
        *(
            entry(marker=_MARKERS[arm], markerfacecolor="white", label=label, **look)
            for arm, label in words.items()
        ),
        entry(marker="h", label="filled: the head samples", **look),
        *spread_handles(table),
    ]


# What the figures say


def headline_of_gains(opened: OpenedStudy) -> str:
    """Return what the verdicts say of heads that sample, in one sentence."""
    understands = _say("understand", opened, OTHERS_GAIN, f", {FLOW},")
    draws = _say("draw", opened, HEADS_DRAW, f", {FLOW},")
    return (
        f"With a head that samples token by token, mixed training {understands} than from its rows "
        f"alone, and {draws} than by generation alone"
    )


def headline_of_read_backs(opened: OpenedStudy) -> str:
    """Return whether sampled features draw better than regressed ones, in one sentence."""
    draws = _say("draw", opened, SAMPLING_DRAWS)
    return f"Trained on generation alone, a head that samples {draws} than one that regresses"


def _say(verb: str, opened: OpenedStudy, claim: str, quantity: str = "") -> str:
    """Say as it is judged that something is done better or worse: "draws better in 1 of 2 ..."."""
    told = tell_counts(opened, claim, "better", "worse", quantity)
    return f"{verb}s {told}" if told else f"is not shown to {verb} better or worse"


def tell_gains(opened: OpenedStudy) -> str:
    """Say what mixed training gains by each head, and whether sampling changes that."""
    changes = tell_counts(opened, SAMPLING_KEEPS, "larger", "smaller")
    changed = f"is {changes}" if changes else "is not shown to be larger or smaller"
    return (
        f"{headline_of_gains(opened)}. Mixed training minus its understanding rows alone, shown as "
        f"often: {_tell_heads(opened, FEATURES_GAIN, OTHERS_GAIN)}. Minus these rows repeated for "
        f"as many steps: {_tell_heads(opened, HEADS_OUTLAST)}. Minus text rows in place of "
        f"requests: {_tell_heads(opened, HEADS_BEYOND_TEXT)}. Read-back, minus generation alone: "
        f"{_tell_heads(opened, HEADS_DRAW)}. With a head that samples, the benefit for "
        f"understanding {changed} than with one that regresses: "
        f"{tell_verdicts(opened, SAMPLING_KEEPS)}. The study of mutual benefit judges codes."
    )


def _tell_heads(opened: OpenedStudy, *claims: str) -> str:
    """Return the differences and verdicts of some claims, head by head."""
    parts = []
    for head in (REGRESSION, *SAMPLING):
        told = (tell_verdicts(opened, claim, f", {head},") for claim in claims)
        parts.append(f"{head} {', '.join(filter(None, told))}")
    return "; ".join(parts)


def tell_read_backs(opened: OpenedStudy) -> str:
    """Say how well each head draws, and whether sampling or regressing draws better."""
    found = read_backs(opened.table).query("attribute == 'total'")
    means = found.groupby(["architecture", "head", "arm"])["value"].mean()
    ends = "; ".join(
        f"{name} {head} {means[name, head, GENERATION]:.2f}, {means[name, head, MIXED]:.2f}"
        for name, head in known_heads(found)
    )
    return (
        f"Mean total read-back of {GENERATION} and {MIXED}, in this order: {ends}. Chance is "
        f"{chance('read_back', 'total'):.2f}. {headline_of_read_backs(opened)}: "
        f"{tell_verdicts(opened, SAMPLING_DRAWS)}. Codes and latents are read back from pixels, "
        "SigLIP output from its features, so only heads of one space are compared."
    )


def tell_pictures(opened: OpenedStudy) -> str:
    """Say how to read the pictures."""
    return (
        "All rows have the same requests, and seed 0. What a request leaves open may differ from "
        "the target watch. Flow samples, from noise that is the same in every run; codes are the "
        "likeliest ones. Latents are rounded to codes and decoded as these are. SigLIP output is "
        "shown through a small decoder of features, which no score goes through."
    )


STUDY = Study(
    name="generation_heads",
    number=13,
    section="4",
    question="Does the benefit hold with a generation component that samples?",
    scales={
        "smoke": MixedScale(1, ("VQ-VQ", "VQ-SigLIP", "VQ-Latent"), 16, 16, 8),
        "laptop": MixedScale(8, ("VQ-VQ", "VQ-SigLIP", "VQ-Latent"), 1600, 7000, 3500),
    },
    arms=arms,
    claims=(
        Claim(
            FEATURES_GAIN,
            "trained on both tasks with regressed SigLIP features, a model understands better than "
            "from its understanding rows alone, shown as often",
            "4",
            comparing(ONCE, REPORTED_HEADS, "examples"),
            "in all four architectures",
        ),
        Claim(
            OTHERS_GAIN,
            "trained on both tasks with sampled SigLIP features, or with latents, a model "
            "understands better than from its understanding rows alone, shown as often",
            "4",
            comparing(ONCE, OTHER_HEADS, "examples"),
        ),
        Claim(
            HEADS_OUTLAST,
            "with features or latents, it understands better than after as many steps on repeated "
            "understanding rows",
            "4",
            comparing(REPEATED, REPORTED_HEADS + OTHER_HEADS, "steps"),
        ),
        Claim(
            HEADS_BEYOND_TEXT,
            "with features or latents, it understands better than with text rows in place of "
            "requests, for as many steps",
            "4",
            comparing(TEXT, REPORTED_HEADS + OTHER_HEADS, "steps"),
        ),
        Claim(
            HEADS_DRAW,
            "trained on both tasks with features or latents, a model draws better than trained on "
            "generation alone",
            "4",
            comparing(GENERATION, REPORTED_HEADS + OTHER_HEADS, "examples"),
        ),
        Claim(
            SAMPLING_DRAWS,
            "features that are sampled draw better than features that are regressed",
            "4",
            compare_drawing,
        ),
        Claim(
            SAMPLING_KEEPS,
            "the benefit is no smaller with a head that samples",
            "4",
            compare_benefits,
        ),
    ),
    figures={
        "generation_heads": draw_gains,
        "generation_heads_read_back": draw_read_backs,
        "generation_heads_watches": draw_pictures,
    },
    findings={
        "generation_heads": tell_gains,
        "generation_heads_read_back": tell_read_backs,
        "generation_heads_watches": tell_pictures,
    },
    waiting=("laptop",),
)
