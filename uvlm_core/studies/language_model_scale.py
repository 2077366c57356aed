"""How do the language model's size and pre-training matter for the benefit? (Paper section B.)

All runs of the paper have Vicuna-7B. It expects more of a more advanced language model, but does
not test it. Here Llamas of four sizes grow in depth and width together. All are pre-trained on text
by one recipe, and each is also trained from random weights of the same shape. Mixed training and
its baselines see the same rows with each. All other settings are those of mutual benefit.

Each size is pre-trained once, and all seeds start from those weights. So intervals cover the
variation between the seeds of the runs, but not between pre-trainings.

Belongs here: this study's runs, claims and figures. Not here: the shapes
(`models/language_models.py`), the pre-training (`pretraining/text.py`), the verdicts on the shipped
language model, pre-trained (`mutual_benefit.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from uvlm_core.models.language_models import LM_LAYERS, SHIPPED_LM, parameters_of
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Study,
    arm_of,
    chance,
    count_verdicts,
    tell_contrasts,
    tell_verdicts,
    understanding_totals,
)
from uvlm_core.studies.baselines import MIXED, ONCE, REPEATED, TEXT, MixedScale, baselines
from uvlm_core.studies.style import (
    COLOURS,
    MINUS,
    PAGE,
    REFERENCES,
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
from uvlm_core.studies.trained_parts import gains
from uvlm_core.training.profiles import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAUGHT, RANDOM = "pre-trained", "random"
STARTS = {TAUGHT: (ONCE, TEXT, REPEATED, MIXED), RANDOM: (ONCE, TEXT, MIXED)}  # start -> arms
GAINS_BY_SIZE, GROWS = "gains by size", "grows with the language model"
ADDS_BY_SIZE, OUTLASTS_BY_SIZE = "gains by size over text", "gains by size over repeating"
MORE_IF_TAUGHT = "more if pre-trained"
_CONDITIONS = ("language_model", "parameters")
_MATCHINGS = {ONCE: "examples", TEXT: "steps"}  # baselines with both starts -> how arms match
_UNJUDGED = "not judged at this scale"  # of one size
_CURVES = {
    ONCE: {"marker": "s", "markerfacecolor": "white", "linestyle": "--"},
    TEXT: {"marker": "v", "markerfacecolor": "white", "linestyle": "-."},
    REPEATED: {"marker": "D", "markerfacecolor": "white", "linestyle": ":"},
    MIXED: {"marker": "o", "linestyle": "-"},
}
_SIZE_COLUMNS = (
    "architecture",
    "language_model",
    "parameters",
    "arm",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
)


@dataclass(frozen=True)
class SizeScale(MixedScale):
    """With the language models, by their names in `LM_LAYERS`."""

    language_models: tuple[str, ...] = ()


def arms(base: Profile, scale: SizeScale) -> list[Arm]:
    """Return the arms by seed, architecture, language model and start.

    Table columns: language_model (its start), parameters (of the language model).
    """
    found = []
    for seed in range(scale.seeds):
        for architecture in scale.architectures:
            for name in scale.language_models:
                for start, names in STARTS.items():
                    specs = baselines(
                        base,
                        scale,
                        scale.seen,
                        seed=seed,
                        architecture=architecture,
                        language_model=name,
                        random_language_model=start == RANDOM,
                    )
                    labels = {"language_model": start, "parameters": parameters_of(name)}
                    found += [arm_of(specs[arm], arm=arm, **labels) for arm in names]
    return found


def comparing(
    starts: tuple[str, ...], baseline: str, matching: str
) -> Callable[[pd.DataFrame, SizeScale], Iterator[Comparison]]:
    """Return a comparison of mixed training with a baseline, for each size and some starts.

    The shipped language model, pre-trained, is left out: mutual benefit judges it.
    """

    def compare(table: pd.DataFrame, scale: SizeScale) -> Iterator[Comparison]:
        for start in starts:
            for name, wide in _by_size(table, start, baseline):
                for count in wide:
                    if (start, count) != (TAUGHT, parameters_of(SHIPPED_LM)):
                        quantity = f"total, {_words(count)}, {start}, {MIXED} {MINUS} {baseline}"
                        yield Comparison(name, quantity, wide[count].dropna(), matching)

    return compare


def compare_growth(table: pd.DataFrame, scale: SizeScale) -> Iterator[Comparison]:
    """Yield the slope of each gain over the size, per factor of ten, by seed."""
    for baseline, matching in _MATCHINGS.items():
        for name, wide in _by_size(table, TAUGHT, baseline):
            if len(wide.columns) > 1:
                yield Comparison(
                    name,
                    f"total, {MIXED} {MINUS} {baseline}, {TAUGHT}, per factor of ten in parameters",
                    slopes(wide),
                    matching,
                )


def slopes(gained: pd.DataFrame) -> pd.Series:
    """Return each seed's least-squares slope of the gain over log10 of the parameters.

    A seed without every size is left out.

    Args:
        gained: gains, one row per seed and one column per number of parameters, two at least.
    """
    sizes = np.log10(gained.columns.to_numpy(float))
    way = sizes - sizes.mean()
    return gained.dropna() @ (way / (way @ way))


def compare_starts(table: pd.DataFrame, scale: SizeScale) -> Iterator[Comparison]:
    """Yield each gain if pre-trained minus that from random weights, mean over sizes, by seed."""
    for baseline, matching in _MATCHINGS.items():
        random, gain = dict(_by_size(table, RANDOM, baseline)), f"{MIXED} {MINUS} {baseline}"
        for name, taught in _by_size(table, TAUGHT, baseline):
            quantity = f"total, {gain}, {TAUGHT} {MINUS} {RANDOM}, mean over sizes"
            difference = (taught - random[name]).dropna().mean(axis=1)
            yield Comparison(name, quantity, difference, matching)


def _by_size(table: pd.DataFrame, start: str, baseline: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each architecture with its gains, one row per seed, by the number of parameters."""
    found = gains(table, _CONDITIONS)
    found = found[(found["language_model"] == start) & (found["baseline"] == baseline)]
    for name in known_architectures(found):
        own = found[found["architecture"] == name]
        yield name, own.pivot(index="seed", columns="parameters", values="difference")


def _words(count: int) -> str:
    return f"{count / 1e6:.2g} M parameters"


@theme()
def draw_totals(opened: OpenedStudy) -> Drawn:
    """Draw the understanding total of every arm by size; a panel for each start."""
    need(opened.table, "language_model_scale", _SIZE_COLUMNS)
    shown = understanding_totals(opened.table)
    figure = new_figure(PAGE, 2.9)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (start, names) in zip(panels, STARTS.items(), strict=True):
        axes.axhline(chance("partial", "total"), **REFERENCES["chance"])
        own = shown[shown["language_model"] == start]
        series = [(own[own["arm"] == arm], _CURVES[arm]) for arm in names]
        _draw_sizes(axes, series, "value")
        axes.set_title(f"{start} language model")
    panels[0].set_ylabel("partial credit after training")
    handles = [
        *colour_handles(known_architectures(shown)),
        *(entry(color="black", label=arm, **look) for arm, look in _CURVES.items()),
        *spread_handles(shown),
        entry(label="chance", **REFERENCES["chance"]),
    ]
    headline(figure, headline_of_totals(opened), handles, ncols=4)
    return Drawn(figure, shown)


@theme()
def draw_gains(opened: OpenedStudy) -> Drawn:
    """Draw what mixed training has more than each baseline by size; a panel for each start."""
    need(opened.table, "language_model_scale_gains", _SIZE_COLUMNS)
    shown = gains(opened.table, _CONDITIONS)
    figure = new_figure(PAGE, 2.9)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (start, names) in zip(panels, STARTS.items(), strict=True):
        axes.axhline(0, color="black", linewidth=0.6)
        own = shown[shown["language_model"] == start]
        series = [(own[own["baseline"] == arm], _CURVES[arm]) for arm in names if arm != MIXED]
        _draw_sizes(axes, series, "difference")
        axes.set_title(f"{start} language model")
    panels[0].set_ylabel(f"{MIXED} {MINUS} baseline")
    handles = [
        *colour_handles(known_architectures(shown)),
        *(
            entry(color="black", label=f"{MINUS} {arm}", **look)
            for arm, look in _CURVES.items()
            if arm != MIXED
        ),
        *spread_handles(shown),
    ]
    headline(figure, headline_of_gains(opened), handles, ncols=4)
    return Drawn(figure, shown, records=set(opened.table["record"]))


def _draw_sizes(axes: "Axes", series: list[tuple[pd.DataFrame, dict]], column: str) -> None:
    """Draw the mean of each series and architecture by size, slightly apart on a log axis."""
    sizes = sorted({count for own, _ in series for count in own["parameters"]})
    curves = [
        (own[own["architecture"] == name], look | {"color": COLOURS[name]})
        for own, look in series
        for name in known_architectures(own)
    ]
    for number, (own, look) in enumerate(curves):
        aside = 1.2 ** ((number + 0.5) / len(curves) - 0.5)
        draw_points(axes, aside * own["parameters"], own[column], look)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{count / 1e6:.2g} M" for count in sizes])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    axes.set_xlabel("parameters of the language model")
    axes.grid(False, axis="x")


def headline_of_totals(opened: OpenedStudy) -> str:
    """Return what the verdicts say of size and pre-training, in one sentence."""
    grows = _word(opened, GROWS, "grows", "falls", "is not shown to grow or fall")
    more = _word(opened, MORE_IF_TAUGHT, "larger", "smaller", "not shown to be larger or smaller")
    return (
        f"What mixed training adds to understanding alone {grows} with the size of the language "
        f"model, and is {more} with a pre-trained one"
    )


def _word(opened: OpenedStudy, claim: str, holds: str, opposite: str, neither: str) -> str:
    """Return the word for a claim about the gain over understanding alone, in all architectures."""
    above, below, count = count_verdicts(opened, claim, f"{MINUS} {ONCE}")
    return holds if above == count > 0 else opposite if below == count > 0 else neither


def headline_of_gains(opened: OpenedStudy) -> str:
    """Return in how many cases mixed training beats its baselines, in one sentence."""
    beats, _, count = count_verdicts(opened, GAINS_BY_SIZE)
    adds, _, _ = count_verdicts(opened, ADDS_BY_SIZE)
    return (
        f"Mixed training beats its understanding rows alone in {beats} of {count} comparisons, and "
        f"understanding and text in {adds}"
    )


def tell_totals(opened: OpenedStudy) -> str:
    """Say where the arms end at each size, and what size and pre-training do to the gains."""
    means = (
        understanding_totals(opened.table)
        .groupby(["language_model", "parameters", "arm"])["value"]
        .mean()
    )
    told = [
        f"{_words(count)}, {start}: "
        + ", ".join(f"{means[start, count, arm]:.2f} {arm}" for arm in names)
        + "."
        for start, names in STARTS.items()
        for count in means[start].index.unique("parameters")
    ]
    told.append(f"A guess has {chance('partial', 'total'):.2f}.")
    for baseline in _MATCHINGS:
        gain = f"{MINUS} {baseline}"
        grows = tell_verdicts(opened, GROWS, gain) or _UNJUDGED
        more = tell_verdicts(opened, MORE_IF_TAUGHT, gain)
        told.append(
            f"The gain over {baseline} changes with ten times the parameters by: {grows}. Its mean "
            f"over sizes, pre-trained minus random: {more}."
        )
    return "\n".join(told)


def tell_gains(opened: OpenedStudy) -> str:
    """Say what mixed training gains over each baseline, at each size that is judged."""
    claims = {
        "its understanding rows alone, shown as often": GAINS_BY_SIZE,
        "text rows in place of requests": ADDS_BY_SIZE,
        "these rows repeated for as many steps": OUTLASTS_BY_SIZE,
    }
    told = []
    for start in STARTS:
        for count in sorted(opened.table["parameters"].unique()):
            quantity = f" {_words(count)}, {start},"
            found = tell_contrasts(
                opened, {words: (claim, quantity) for words, claim in claims.items()}
            )
            said = f"mixed training: {found}" if found else "mutual benefit judges it"
            told.append(f"{_words(count)}, {start}, {said}.")
    return "\n".join(told)


STUDY = Study(
    name="language_model_scale",
    number=12,
    section="B",
    question="How do the size and the pre-training of the language model matter for the benefit?",
    scales={
        # without the cache: the shipped size alone
        "smoke": SizeScale(1, ("VQ-VQ",), 16, 16, 8, (SHIPPED_LM,)),
        "laptop": SizeScale(8, ("VQ-VQ",), 1600, 7000, 3500, tuple(LM_LAYERS)),
    },
    arms=arms,
    claims=(
        Claim(
            GAINS_BY_SIZE,
            "with a language model of this size and start, a model that is trained on both tasks "
            "understands better than from its understanding rows alone, shown as often",
            "B",
            comparing((TAUGHT, RANDOM), ONCE, "examples"),
        ),
        Claim(
            ADDS_BY_SIZE,
            "with a language model of this size and start, mixed training understands better than "
            "with text rows in place of requests",
            "B",
            comparing((TAUGHT, RANDOM), TEXT, "steps"),
        ),
        Claim(
            GROWS,
            "what mixed training adds to its understanding rows alone, or to these and text, grows "
            "with the size of a pre-trained language model",
            "B",
            compare_growth,
        ),
        Claim(
            MORE_IF_TAUGHT,
            "it is larger with a pre-trained language model than from random weights",
            "B",
            compare_starts,
        ),
        Claim(
            OUTLASTS_BY_SIZE,
            "with a pre-trained language model of this size, mixed training understands better "
            "than after as many steps on repeated understanding rows",
            "B",
            comparing((TAUGHT,), REPEATED, "steps"),
        ),
    ),
    figures={"language_model_scale": draw_totals, "language_model_scale_gains": draw_gains},
    findings={"language_model_scale": tell_totals, "language_model_scale_gains": tell_gains},
    waiting=("laptop",),
)
