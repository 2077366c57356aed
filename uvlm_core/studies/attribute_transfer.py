"""Does knowledge cross from generation to understanding? (Paper section 4.3, figure 6.)

Attributes are rare in the understanding data and complete in the generation data. Mixed training is
compared with understanding alone on the same rows, shown as often or repeated for as many steps,
and with text rows in place of requests. Text rows mention everything in every arm that has any. Two
controls test whether it learns the attributes from its requests: requests that never mention them,
and requests that give another watch's values. Training that generates first is compared with
understanding alone, too: there the model can draw before it learns to understand.

Belongs here: this study's runs, claims and figures. Not here: how rows are biased
(`data/conversations.py`), the baselines (`baselines.py`), probes (`scoring/probing.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from uvlm_core.data.attributes import ATTRIBUTES
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
    count_verdicts,
    generation_metric,
    paired,
    tell_contrasts,
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
    NAMES,
    PAGE,
    REFERENCES,
    colour_handles,
    draw_mean,
    entry,
    headline,
    known_architectures,
    need,
    new_figure,
    spread_handles,
    style,
    theme,
)
from uvlm_core.training.profiles import Profile

PIXEL_FEATURES = 128  # number of random pixel features; equals the width of the laptop's LM
PIXELS = "random features"  # name of the arm that probes the pixels
ABSENT, FALSE = f"{MIXED}, never requested", f"{MIXED}, false requests"
TRANSFER, MORE_THAN_REPEATED = "transfer", "more than repeating"
MORE_THAN_BY_TEXT = "more than by text"
BY_REQUESTS, BY_VALUES = "by its requests", "by their values"
FIRST_TRANSFER = f"transfer, {FIRST}"
FIRST_MORE_THAN_REPEATED = f"{FIRST}, more than repeating"
_AGAINST = {  # training on both tasks -> claim -> what it is compared with there, in words
    f"{MIXED} training": {
        TRANSFER: "these rows alone, shown as often",
        MORE_THAN_REPEATED: "these rows repeated for as many steps",
        MORE_THAN_BY_TEXT: "text rows in place of requests",
        BY_REQUESTS: "requests that never mention it",
        BY_VALUES: "requests with another watch's value",
    },
    FIRST: {
        FIRST_TRANSFER: "these rows alone, shown as often",
        FIRST_MORE_THAN_REPEATED: "these rows repeated for as many steps",
    },
}
_TRANSFER_COLUMNS = (
    "architecture",
    "arm",
    "rate",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
)
TRANSFER_ARMS = (ONCE, REPEATED, TEXT, MIXED, ABSENT, FALSE, FIRST)
_COMPARED = {  # panel of the figure -> (training on both tasks, what it is compared with)
    "understanding alone": ((MIXED, ONCE), (FIRST, ONCE)),
    "alone for longer": ((MIXED, REPEATED), (FIRST, REPEATED)),
    "understanding\nand text": ((MIXED, TEXT),),
    "mixed,\nnever requested": ((MIXED, ABSENT),),
    "mixed,\nfalse requests": ((MIXED, FALSE),),
}
_ORDER_MARKERS = {MIXED: "o", FIRST: "D"}
_SHOWN = {  # metric -> panel of the figure of scores
    "partial": "answered",
    "constrained": "answered, given its values",
    "read_back": "drawn as requested",
}


@dataclass(frozen=True)
class TransferScale(MixedScale):
    """With the attributes that are rare, in the same runs, and their share of the rows."""

    rare: tuple[str, ...] = ()
    rate: float = 1.0


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
        found = probing.probe_scores(probing.probe(features, watches))
        return {"scores": [{"fraction": 1.0} | row for row in found]}


def arms(base: Profile, scale: TransferScale) -> list[Arm]:
    """Return the arms by seed and architecture, and the probes of the pixels.

    Labels: arm, rate (share of the understanding rows that may mention the rare attributes).
    """
    few = tuple(AttributeBias(name, scale.rate) for name in scale.rare)
    never = tuple(AttributeBias(name, 0.0, ("generation",)) for name in scale.rare)
    # a corner is exchanged together with the other one, which may not be the same
    false = dict.fromkeys(
        other for name in scale.rare for other in (name, ATTRIBUTES[name].excludes) if other
    )
    found, asked = [], base.spec.scoring.test_watches
    for seed in range(scale.seeds):
        for name in scale.architectures:
            specs = baselines(
                base,
                scale,
                scale.seen,
                seed=seed,
                architecture=name,
                biases=few,
                probe_watches=asked,
            )
            specs[ABSENT] = specs[MIXED].vary(biases=few + never)
            specs[FALSE] = specs[MIXED].vary(shuffled_attributes=tuple(false))
            specs[FIRST] = generation_first(specs[MIXED])
            found += [
                arm_of(specs[arm], arm=arm, rate=scale.rate)
                for arm in TRANSFER_ARMS
                if arm in specs
            ]
    return found + [pixel_probes(base, seed) for seed in range(scale.seeds)]


def pixel_probes(base: Profile, seed: int) -> Arm:
    """Return the arm that probes random features of the pixels."""
    spec = base.spec
    labels = {"architecture": "any", "regime": "none", "rate": 1.0, "arm": PIXELS, "seed": seed}
    return Arm(
        PixelProbes(spec.data.image_size, spec.data.hours, spec.scoring.test_watches, seed), labels
    )


# What is compared


def at_end(table: pd.DataFrame, metric: str, attribute: str) -> pd.DataFrame:
    """Return a score after training, of every arm whose understanding data lack an attribute.

    Columns: architecture, arm, seed, value.
    """
    own = table[
        (table["fraction"] == 1)
        & (table["rate"] < 1)
        & (table["metric"] == metric)
        & (table["attribute"] == attribute)
    ]
    return own[["architecture", "arm", "seed", "value"]].reset_index(drop=True)


def differences(table: pd.DataFrame, scale: TransferScale) -> pd.DataFrame:
    """Return what training on both tasks knows more of each rare attribute, by seed.

    Columns: architecture, attribute, arm, baseline, seed, difference (in partial credit).
    """
    parts = []
    for attribute in scale.rare:
        found = at_end(table, "partial", attribute)
        for name in known_architectures(found):
            own = found[found["architecture"] == name]
            for arm, baseline in chain(*_COMPARED.values()):
                gain = paired(own, arm, baseline)
                if len(gain):
                    labels = {"architecture": name, "attribute": attribute}
                    labels |= {"arm": arm, "baseline": baseline}
                    parts.append(gain.reset_index().assign(**labels))
    columns = ["architecture", "attribute", "arm", "baseline", "seed", "difference"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def comparing(
    arm: str, baseline: str, matching: str
) -> Callable[[pd.DataFrame, TransferScale], Iterator[Comparison]]:
    """Return a comparison of two arms, for each rare attribute."""

    def compare(table: pd.DataFrame, scale: TransferScale) -> Iterator[Comparison]:
        found = differences(table, scale)
        found = found[(found["arm"] == arm) & (found["baseline"] == baseline)]
        for (name, attribute), own in found.groupby(["architecture", "attribute"], sort=False):
            yield Comparison(
                name,
                f"{_rare(attribute, scale)}, {arm} {MINUS} {baseline}",
                own.set_index("seed")["difference"],
                matching,
            )

    return compare


def comparing_probes(
    words: str, less: Callable[[pd.DataFrame, pd.DataFrame, str], pd.Series]
) -> Callable[[pd.DataFrame, TransferScale], Iterator[Comparison]]:
    """Return a comparison of probes of the last layer with `less`.

    The models learned to understand only, for as long as the mixed ones.
    """

    def compare(table: pd.DataFrame, scale: TransferScale) -> Iterator[Comparison]:
        for name in known_architectures(table):
            for attribute in scale.rare:
                probes = last_probes(table, name, attribute)
                yield Comparison(
                    name,
                    f"{_rare(attribute, scale)}, probe of the last layer {MINUS} {words}, "
                    f"{REPEATED}",
                    (probes["probe"] - less(table, probes, attribute)).dropna(),
                    "test watches",
                )

    return compare


def _rare(attribute: str, scale: TransferScale) -> str:
    return f"{NAMES.get(attribute, attribute)} in {scale.rate:.0%} of the rows"


def last_probes(table: pd.DataFrame, architecture: str, attribute: str) -> pd.DataFrame:
    """Return the accuracy of probes of the last layer and of their control, by seed."""
    own = table[
        (table["architecture"] == architecture)
        & (table["arm"] == REPEATED)
        & (table["rate"] < 1)
        & table["metric"].isin(("probe", "probe_control"))
    ]
    layers = [name for name in own["attribute"].unique() if name.startswith(f"{attribute}, layer")]
    last = own[own["attribute"] == max(layers, key=lambda name: int(name.rpartition(" ")[2]))]
    return last.pivot_table(index="seed", columns="metric", values="value")


def _pixels(table: pd.DataFrame, probes: pd.DataFrame, attribute: str) -> pd.Series:
    """Return the accuracy of probes of random pixel features, by seed."""
    own = table[
        (table["arm"] == PIXELS) & (table["metric"] == "probe") & (table["attribute"] == attribute)
    ]
    return own.set_index("seed")["value"]


# Figures


@theme()
def draw_transfer(opened: OpenedStudy) -> Drawn:
    """Draw what training on both tasks knows more, a panel for each kind of baseline."""
    table, scale = opened.table, opened.scale
    need(table, "attribute_transfer", _TRANSFER_COLUMNS)
    shown = differences(table, scale)
    need(shown, "attribute_transfer", ("attribute", "difference"))
    names = known_architectures(shown)
    figure = new_figure(PAGE, 1.3 + 0.42 * max(2, len(scale.rare)))
    grid = figure.subplots(1, len(_COMPARED), sharex=True, sharey=True)
    series = [(name, arm) for name in names for arm in _ORDER_MARKERS]
    for axes, (title, pairs) in zip(grid, _COMPARED.items(), strict=True):
        axes.axvline(0, color="black", linewidth=0.6)
        for line, attribute in enumerate(scale.rare):
            for place, (name, arm) in enumerate(series):
                own = shown[
                    (shown["arm"] == arm)
                    & shown["baseline"].isin([other for own, other in pairs if own == arm])
                    & (shown["attribute"] == attribute)
                    & (shown["architecture"] == name)
                ]
                if len(own):
                    at = line + 0.6 * ((place + 0.5) / len(series) - 0.5)
                    look = {"color": COLOURS[name], "marker": _ORDER_MARKERS[arm]}
                    draw_mean(axes, at, own["difference"], look, upright=False)
        axes.set(title=f"{MINUS} {title}", xlabel="difference")
        axes.set_ylim(len(scale.rare) - 0.5, -0.5)
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(scale.rare)), [NAMES.get(name, name) for name in scale.rare])
    handles = [
        entry(color="black", linestyle="", marker=marker, label=arm)
        for arm, marker in _ORDER_MARKERS.items()
    ]
    handles = [*colour_handles(names), *handles, *spread_handles(shown)]
    headline(figure, headline_of_transfer(opened), handles, ncols=4)
    return Drawn(figure, shown, records=set(table["record"]))


def headline_of_transfer(opened: OpenedStudy) -> str:
    """Say of which rare attributes mixed training knows more, and whether by its requests."""
    gains = _attributes(opened, TRANSFER)
    if not gains:
        return "Mixed training is not shown to know more of a rare attribute"
    why = [attribute for attribute in gains if attribute in _attributes(opened, BY_REQUESTS)]
    return f"Mixed training knows more of the rare {_names(gains)} than its rows alone, " + (
        f"and of the {_names(why)} by its requests"
        if why
        else "which is not shown to come from its requests"
    )


def _attributes(opened: OpenedStudy, claim: str) -> list[str]:
    """Return the rare attributes for which a claim holds in some architecture."""
    return [
        name
        for name in opened.scale.rare
        if count_verdicts(opened, claim, _rare(name, opened.scale))[0]
    ]


def _names(attributes: list[str]) -> str:
    return " and ".join(NAMES.get(name, name) for name in attributes)


@theme()
def draw_known(opened: OpenedStudy) -> Drawn:
    """Draw what every arm answers about the rare attributes, and what it draws of them."""
    table, scale = opened.table, opened.scale
    need(table, "attribute_transfer_known", _TRANSFER_COLUMNS)
    shown = pd.concat(
        [
            at_end(table[table["architecture"] == name], own, attribute).assign(
                metric=metric, attribute=attribute
            )
            for name in known_architectures(table)
            for attribute in scale.rare
            for metric in _SHOWN
            for own in [generation_metric(name) if metric == "read_back" else metric]
        ],
        ignore_index=True,
    )
    names = known_architectures(shown)
    figure = new_figure(PAGE, 1.2 + 1.5 * len(scale.rare))
    grid = figure.subplots(len(scale.rare), len(_SHOWN), sharex=True, sharey=True, squeeze=False)
    for line, attribute in zip(grid, scale.rare, strict=True):
        for axes, (metric, words) in zip(line, _SHOWN.items(), strict=True):
            axes.axvline(chance(metric, attribute), **REFERENCES["chance"])
            for place, arm in enumerate(TRANSFER_ARMS):
                for number, name in enumerate(names):
                    own = shown[
                        (shown["metric"] == metric)
                        & (shown["attribute"] == attribute)
                        & (shown["arm"] == arm)
                        & (shown["architecture"] == name)
                    ]
                    if len(own):
                        at = place + 0.6 * ((number + 0.5) / len(names) - 0.5)
                        draw_mean(axes, at, own["value"], style(name), upright=False)
            axes.set_title(f"{NAMES.get(attribute, attribute)}\n{words}")
            axes.grid(False, axis="y")
    grid[0, 0].set_yticks(range(len(TRANSFER_ARMS)), TRANSFER_ARMS)
    grid[0, 0].invert_yaxis()
    for axes in grid[-1]:
        axes.set(xlabel="share right", xlim=(-0.03, 1.03))
    handles = [*colour_handles(names), *spread_handles(shown)]
    handles.append(entry(label="chance", **REFERENCES["chance"]))
    headline(figure, headline_of_known(shown), handles)
    return Drawn(figure, shown, records=set(table["record"]))


def headline_of_known(shown: pd.DataFrame) -> str:
    """Say what mixed training draws of the rare attributes, and what it answers about them."""
    own = shown[shown["arm"] == MIXED]
    means = own.groupby(["attribute", "metric"], sort=False)["value"].mean()
    told = [
        f"the rare {NAMES.get(name, name)} as requested in {means[name, 'read_back']:.0%} of the "
        f"cases and recognises it in {means[name, 'partial']:.0%}"
        for name in own["attribute"].unique()
    ]
    return f"Mixed training draws {', '.join(told)}"


# What the figures say


def tell_transfer(opened: OpenedStudy) -> str:
    """Say what both orders of training gain over each baseline and control."""
    told = []
    for name in opened.scale.rare:
        rare = _rare(name, opened.scale)
        for arm, claims in _AGAINST.items():
            found = tell_contrasts(
                opened, {words: (claim, rare) for claim, words in claims.items()}
            )
            told.append(f"{rare.capitalize()}, what {arm} knows of it: {found}.")
    return "\n".join(told)


def tell_known(opened: OpenedStudy) -> str:
    """Say what the arms end at, and how to read the panel of constrained answers."""
    table, told = opened.table, []
    for name in opened.scale.rare:
        means = at_end(table, "partial", name).groupby("arm")["value"].mean()
        arms_told = (ONCE, REPEATED, TEXT, MIXED, FIRST)
        ends = ", ".join(f"{means[arm]:.2f} {arm}" for arm in arms_told if arm in means)
        told.append(
            f"{NAMES.get(name, name).capitalize()} answered: {ends}; chance is "
            f"{chance('partial', name):.2f}."
        )
    told.append(
        "A model that may say nothing but the attribute's values shows what it knows and does not "
        "say."
    )
    return "\n".join(told)


STUDY = Study(
    name="attribute_transfer",
    number=5,
    section="4.3, figure 6",
    question="Do requests teach a model to recognise what its questions rarely mention?",
    scales={
        "smoke": TransferScale(1, ("VQ-VQ",), 16, 16, 8, ("weather", "weather_corner"), 0.2),
        "laptop": TransferScale(
            8, ("VQ-VQ",), 1600, 7000, 3500, ("weather", "weather_corner"), 0.03
        ),
        "smollm": TransferScale(
            1, ("SigLIP-VQ",), 1600, 7000, 3500, ("weather", "weather_corner"), 0.03
        ),
        "paper": TransferScale(
            1, ("SigLIP-VQ", "VQ-VQ"), 120_000, 60_000, 0, ("weather", "battery"), 0.01
        ),
    },
    arms=arms,
    claims=(
        Claim(
            TRANSFER,
            "of an attribute that is rare in the understanding data the model of both tasks knows "
            "more than one of the same understanding rows alone, shown as often",
            "4.3, figure 6",
            comparing(MIXED, ONCE, "examples"),
            "yes, nearly all",
        ),
        Claim(
            MORE_THAN_REPEATED,
            "and more than after as many steps on repeated understanding rows",
            "4.3",
            comparing(MIXED, REPEATED, "steps"),
        ),
        Claim(
            MORE_THAN_BY_TEXT,
            "and more than with text rows in place of requests",
            "4.3",
            comparing(MIXED, TEXT, "steps"),
        ),
        Claim(
            BY_REQUESTS,
            "and more than with requests that do not mention the attribute",
            "4.3",
            comparing(MIXED, ABSENT, "examples"),
        ),
        Claim(
            BY_VALUES,
            "and more than with requests that mention it with another watch's values",
            "4.3",
            comparing(MIXED, FALSE, "examples"),
        ),
        Claim(
            FIRST_TRANSFER,
            "generating first, a model knows more of the rare attribute than one of the same "
            "understanding rows alone, shown as often",
            "4.3",
            comparing(FIRST, ONCE, "examples"),
        ),
        Claim(
            FIRST_MORE_THAN_REPEATED,
            "and more than after as many steps on repeated understanding rows",
            "4.3",
            comparing(FIRST, REPEATED, "steps"),
        ),
        Claim(
            "tokens carry it",
            "the image tokens of a model of understanding alone carry the rare attribute too",
            "4.3, figures 7 and 8",
            comparing_probes("its control", lambda _, probes, name: probes["probe_control"]),
            "yes",
        ),
        Claim(
            "more than pixels",
            "and more of it than random features of the pixels",
            "4.3",
            comparing_probes("that of the pixels", _pixels),
        ),
    ),
    figures={"attribute_transfer": draw_transfer, "attribute_transfer_known": draw_known},
    findings={"attribute_transfer": tell_transfer, "attribute_transfer_known": tell_known},
)
