"""Do both tasks help each other on real captioned pictures? (Paper section 5.)

Mixed training on captions and requests is held against its captions alone, shown as often and for
as many steps, against its requests alone, and against requests with other pictures' images.
Pictures are the profile's, or those of your caption file.

Belongs here: this study's runs, claims and figures. Not here: the baselines (`baselines.py`),
caption files (`data/pictures.py`), scores (`scoring/picture_evaluation.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from uvlm_core.models.kinds import output_of
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Scale,
    Study,
    arm_of,
    count_verdicts,
    paired,
    tell_contrasts,
    tell_counts,
)
from uvlm_core.studies.baselines import GENERATION, MIXED, ONCE, REPEATED, MixedScale, baselines
from uvlm_core.studies.statistics import mean_interval
from uvlm_core.studies.style import (
    MINUS,
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
from uvlm_core.studies.training_order import DRAWN_MATTERS, LONGER, SHUFFLED
from uvlm_core.training.profiles import Profile

UNDERSTOOD, WELL_DRAWN = "pictures understood", "pictures drawn"
# No questions. Each of the 673 training stamps occurs four times; with more it is memorised.
_NO_QUESTIONS = {
    "vqa_examples": 0,
    "caption_examples": 2700,
    "generation_examples": 2700,
    "reader": "",
    "feature_reader": "",
}
_STAMPS = _NO_QUESTIONS | {
    "pictures": "stamps",
    "vq_tokenizer": "pretrained/stamps_vq",
    "semantic_encoder": "pretrained/stamps_siglip",
    "feature_decoder": "",
}
_WATCHES = _NO_QUESTIONS | {
    "pictures": "watches",
    "caption_examples": 16,
    "generation_examples": 16,
    "test_watches": 12,
    "generated_watches": 8,
}
_PICTURE_ARMS = (ONCE, REPEATED, GENERATION, MIXED, SHUFFLED)
_PICTURE_COLUMNS = (
    "architecture",
    "arm",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
    "samples",
)
_FIRST = 5  # a picture or a caption is found if it is among so many
_PICTURE_PANELS = (  # title, metric, attribute
    ("tokens of captions\npredicted (share)", "token_accuracy", "caption"),
    (f"caption found\namong the first {_FIRST}", "caption_retrieval", f"first {_FIRST}"),
    (f"drawn picture found\namong the first {_FIRST}", "drawn_retrieval", f"first {_FIRST}"),
    ("kernel distance\n(lower is better)", "efficientnet_kernel", None),
)


@dataclass(frozen=True)
class PictureScale(Scale):
    """A scale with changes to the profile's spec and a caption file that replaces its pictures."""

    changes: dict[str, object] | None = None
    captions: str = ""  # a caption file (`pictures.read_pictures`); "": the profile's pictures
    images: str = ""  # the caption file's folder of pictures
    sam: bool = False  # whether to read LLaVA rows about SAM's pictures


def arms(base: Profile, scale: PictureScale) -> list[Arm]:
    """Return mixed training, its baselines and its control, by seed and architecture."""
    spec = base.spec.vary(**(scale.changes or {}))
    if scale.captions:
        spec = spec.vary(
            pictures=scale.captions, picture_folder=scale.images, sam_pictures=scale.sam
        )
    rows = spec.data.vqa_examples + spec.data.caption_examples
    sizes = MixedScale(scale.seeds, scale.architectures, rows, spec.data.generation_examples)
    found = []
    for seed in range(scale.seeds):
        for name in scale.architectures:
            same = {"seed": seed, "architecture": name}
            specs = baselines(replace(base, spec=spec), sizes, rows, **same)
            specs[SHUFFLED] = specs[MIXED].vary(shuffled_requests=True)
            found += [arm_of(each, arm=arm) for arm, each in specs.items()]
    return found


# What is compared


def drawn_metric(architecture: str) -> str:
    """Return the retrieval metric of the pictures that an architecture generates."""
    return output_of(architecture).retrieval


def at_end(table: pd.DataFrame, metric: str, attribute: str | None = None) -> pd.DataFrame:
    """Return the rows of a score after training; "drawn_retrieval" is each architecture's own.

    None stands for any attribute.
    """
    kinds = table["architecture"].map(drawn_metric) if metric == "drawn_retrieval" else metric
    own = table[(table["fraction"] == 1) & (table["metric"] == kinds)]
    return own if attribute is None else own[own["attribute"] == attribute]


def comparing(
    baseline: str, matching: str
) -> Callable[[pd.DataFrame, PictureScale], Iterator[Comparison]]:
    """Return a comparison of mixed training with another arm in the tokens that are predicted."""

    def compare(table: pd.DataFrame, scale: PictureScale) -> Iterator[Comparison]:
        last = at_end(table, "token_accuracy", "caption")
        for name in known_architectures(last):
            yield Comparison(
                name,
                f"token accuracy of captions, {MIXED} {MINUS} {baseline}",
                _gain(last, name, baseline),
                matching,
            )

    return compare


def compare_drawings(table: pd.DataFrame, scale: PictureScale) -> Iterator[Comparison]:
    """Compare mixed training with generation alone, in architectures that are shown to draw."""
    last = at_end(table, "drawn_retrieval", f"first {_FIRST}")
    for name in drawing_architectures(table):
        yield Comparison(
            name,
            f"drawn picture among the {_FIRST} nearest, {MIXED} {MINUS} {GENERATION}",
            _gain(last, name, GENERATION),
            "examples",
        )


def _gain(last: pd.DataFrame, architecture: str, baseline: str) -> pd.Series:
    """Return what mixed training has more of a score than another arm, by seed."""
    return paired(last[last["architecture"] == architecture], MIXED, baseline)


def drawing_architectures(table: pd.DataFrame) -> list[str]:
    """Return the architectures that are shown to draw what is requested.

    In them, generation alone or mixed training has drawn pictures that are found more often than
    by chance: the 95 % t interval over its seeds lies above it. A single seed has no interval.
    """
    found = at_end(table, "drawn_retrieval", f"first {_FIRST}")
    able = []
    for name in known_architectures(found):
        own = found[(found["architecture"] == name) & found["arm"].isin((GENERATION, MIXED))]
        lows = own.groupby("arm")["value"].agg(lambda values: mean_interval(values)[1])
        # rounded: the mean of equal numbers may be a last digit above them
        if (lows.round(9) > _chance(own)).any():
            able.append(name)
    return able


def _chance(retrieval: pd.DataFrame) -> float:
    return min(1.0, _FIRST / retrieval["samples"].iloc[0])


# The figure


@theme()
def draw_pictures(opened: OpenedStudy) -> Drawn:
    """Draw the final scores of test captions and of generated pictures, arm by arm.

    Grey lines are chance, other real pictures (floor), and VQ reconstructions of the real ones
    (ceiling).
    """
    table = opened.table
    need(table, "captioned_pictures", _PICTURE_COLUMNS)
    names, shown = known_architectures(table), []
    figure = new_figure(PAGE, 2.7)
    grid = figure.subplots(1, len(_PICTURE_PANELS), sharey=True)
    for axes, (title, metric, attribute) in zip(grid, _PICTURE_PANELS, strict=True):
        scored = at_end(table, metric, attribute)
        for (name, arm), own in scored.groupby(["architecture", "arm"]):
            at = _PICTURE_ARMS.index(arm) + 0.6 * ((names.index(name) + 0.5) / len(names) - 0.5)
            draw_mean(axes, at, own["value"], style(name), upright=False)
        shown.append(scored)
        if metric.endswith("retrieval") and len(scored):
            axes.axvline(_chance(scored), **REFERENCES["chance"])
        for reference, suffix in (("floor", "_floor"), ("ceiling", "_tokenizer")):
            rows = at_end(table, f"{metric}{suffix}", attribute)
            if len(rows):
                axes.axvline(rows["value"].mean(), **REFERENCES[reference])
                shown.append(rows)
        axes.set_title(title)
        if attribute is not None:  # a share
            axes.set_xlim(0, 1.1 * axes.dataLim.x1)
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(_PICTURE_ARMS)), _PICTURE_ARMS)
    grid[0].set_ylim(len(_PICTURE_ARMS) - 0.5, -0.5)
    handles = [*colour_handles(names), *spread_handles(table)]
    handles += [
        entry(label=words, **REFERENCES[name])
        for name, words in (
            ("chance", "chance"),
            ("floor", "other real pictures"),
            ("ceiling", "real ones, as the tokenizer decodes them"),
        )
    ]
    headline(figure, headline_of_pictures(opened), handles)
    return Drawn(figure, pd.concat(shown))


def headline_of_pictures(opened: OpenedStudy) -> str:
    """Return what the verdicts say about captioned pictures, in one sentence.

    Of drawing it says nothing but that, if no architecture is shown to draw.
    """
    once, longer, drawn = (_judged(opened, claim) for claim in (UNDERSTOOD, LONGER, WELL_DRAWN))
    verdicts = opened.verdicts
    if once:
        told = f"understands pictures {once} than"
    elif set(verdicts.loc[verdicts["claim"] == UNDERSTOOD, "verdict"]) == {"no effect"}:
        told = "understands pictures no better and no worse than"
    else:
        told = "is not shown to understand pictures better or worse than"
    told = f"Mixed training {told} from its captions alone"
    told += f", and {longer} than from repeating them" if longer else ""
    if not drawing_architectures(opened.table):
        return f"{told}; what it draws is not shown to be above chance"
    drawn = f"it draws {drawn}" if drawn else "it is not shown to draw better or worse"
    return f"{told}; {drawn} than generation alone"


def _judged(opened: OpenedStudy, claim: str) -> str:
    """Return "better" or "worse", with the architectures if there are several; "" for neither."""
    above, below, count = count_verdicts(opened, claim)
    if count == 1:
        return "better" * above + "worse" * below
    return tell_counts(opened, claim, "better", "worse")


def tell_pictures(opened: OpenedStudy) -> str:
    """Say what mixed training gains over each baseline, and if any model is shown to draw."""
    table = opened.table
    asked = at_end(table, "token_accuracy", "caption")["samples"].iloc[0]
    against = {
        "its captions alone, shown as often": (UNDERSTOOD, ""),
        "its captions repeated for as many steps": (LONGER, ""),
        "the same with other pictures' images": (DRAWN_MATTERS, ""),
    }
    drawn = tell_contrasts(opened, {"its requests alone": (WELL_DRAWN, "")})
    shown = (
        f"Mixed training, drawing: {drawn}."
        if drawn
        else "No interval of generation alone or mixed lies above chance, so drawing is not judged."
    )
    read = _found(table, "caption_retrieval", (ONCE, REPEATED, MIXED))
    return (
        f"Mixed training, by the tokens of {asked} test captions that it predicts: "
        f"{tell_contrasts(opened, against)}.\n"
        f"True captions found among the first {_FIRST}: {read}. The nearer to chance, the less a "
        "model has learned of pictures, and the less there is to gain or to lose.\n"
        f"Drawn pictures found: {_found(table, 'drawn_retrieval', (GENERATION, MIXED, SHUFFLED))}. "
        f"{shown}"
    )


def _found(table: pd.DataFrame, metric: str, arms: tuple[str, ...]) -> str:
    """Say in how many cases retrieval succeeds after each arm, and by chance."""
    found = at_end(table, metric, f"first {_FIRST}")
    means = found.groupby(["architecture", "arm"])["value"].mean()
    names = known_architectures(found)
    ends = "; ".join(
        f"{name}: " * (len(names) > 1) + ", ".join(f"{arm} {means[name, arm]:.1%}" for arm in arms)
        for name in names
    )
    return f"{ends}; by chance {_chance(found):.1%}"


STUDY = Study(
    name="captioned_pictures",
    number=7,
    section="5",
    question="Does training on both tasks help on real captioned pictures, too?",
    scales={
        "smoke": PictureScale(1, ("VQ-VQ",), _WATCHES),
        "laptop": PictureScale(8, ("VQ-VQ",), _STAMPS),
        "smollm": PictureScale(1, ("SigLIP-VQ",), _STAMPS),
        "paper": PictureScale(
            1, ("SigLIP-VQ", "VQ-VQ", "SigLIP-SigLIP"), _NO_QUESTIONS | {"pictures": "stamps"}
        ),
    },
    arms=arms,
    claims=(
        Claim(
            UNDERSTOOD,
            "on captioned pictures, too, a model trained on both tasks understands better",
            "5",
            comparing(ONCE, "examples"),
            "yes, on real images",
        ),
        Claim(
            WELL_DRAWN,
            "and draws better",
            "5",
            compare_drawings,
        ),
        Claim(
            LONGER,
            "it understands better than after as many steps on repeated captions",
            "5",
            comparing(REPEATED, "steps"),
        ),
        Claim(
            DRAWN_MATTERS,
            "it understands better than if its requests had other pictures' images",
            "5",
            comparing(SHUFFLED, "examples"),
        ),
    ),
    figures={"captioned_pictures": draw_pictures},
    findings={"captioned_pictures": tell_pictures},
)
