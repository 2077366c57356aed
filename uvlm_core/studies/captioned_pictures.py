"""Do both tasks help each other on real captioned pictures? (Paper section 5.)

Compares unified training with each task alone, on the profile's pictures or your caption file.

Belongs here: this study's runs, claims and figures. Not here: caption files (`data/pictures.py`),
scores (`scoring/picture_evaluation.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.models.kinds import output_of
from uvlm_core.studies.base import (
    Arm,
    Claim,
    Comparison,
    Drawn,
    OpenedStudy,
    Scale,
    Study,
    count_verdicts,
    regime_arms,
    tell_verdicts,
)
from uvlm_core.studies.style import (
    PAGE,
    REFERENCES,
    draw_points,
    headline,
    known_architectures,
    look_of,
    need,
    spread_handles,
    style,
    theme,
)
from uvlm_core.training.profiles import Profile

# No questions. Each of the 673 training stamps occurs four times; with more it is memorised.
_NO_QUESTIONS = {
    "vqa_examples": 0,
    "caption_examples": 2700,
    "generation_examples": 2700,
    "reader": "",
    "feature_reader": "",
    "fractions": (0.25, 0.5, 1.0),
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
    "fractions": (1.0,),
    "test_watches": 12,
    "generated_watches": 8,
}
_PICTURE_COLUMNS = (
    "architecture",
    "regime",
    "seed",
    "fraction",
    "metric",
    "attribute",
    "value",
    "samples",
)
_UNDERSTANDING, _GENERATION = (
    ("understanding", "unified", "shuffled"),
    ("generation", "unified", "shuffled"),
)
_PICTURE_PANELS = (
    ("tokens of captions\npredicted (share)", "token_accuracy", "caption", _UNDERSTANDING),
    ("caption found\namong the first 5", "caption_retrieval", "first 5", _UNDERSTANDING),
    ("drawn picture found\namong the first 5", "drawn_retrieval", "first 5", _GENERATION),
    ("kernel distance\n(EfficientNet)", "efficientnet_kernel", None, _GENERATION),
)


@dataclass(frozen=True)
class PictureScale(Scale):
    """A scale with changes to the profile's spec and a caption file that replaces its pictures."""

    changes: dict[str, object] | None = None
    captions: str = ""  # a caption file (`pictures.read_pictures`); "": the profile's pictures
    images: str = ""  # the caption file's folder of pictures
    sam: bool = False  # whether to read LLaVA rows about SAM's pictures


def arms(base: Profile, scale: PictureScale) -> list[Arm]:
    """Return unified, single-task and control arms."""
    spec = base.spec.vary(**(scale.changes or {}))
    if scale.captions:
        spec = spec.vary(
            pictures=scale.captions, picture_folder=scale.images, sam_pictures=scale.sam
        )
    return regime_arms(spec, scale)


def drawn_metric(architecture: str) -> str:
    """Return the retrieval metric of the pictures that an architecture generates."""
    return output_of(architecture).retrieval


def comparing_regimes(
    words: str, metric: Callable[[str], str], attribute: str, baseline: str
) -> Callable:
    """Return a function that compares unified training with one task alone, at the end."""

    def compare(table: pd.DataFrame, scale: PictureScale) -> Iterator[Comparison]:
        last = table[table["fraction"] == 1]
        for name in known_architectures(last):
            chosen = last[
                (last["architecture"] == name)
                & (last["metric"] == metric(name))
                & (last["attribute"] == attribute)
            ]
            wide = chosen.pivot_table(index="seed", columns="regime", values="value")
            yield Comparison(
                name,
                f"{words}, unified minus {baseline}",
                (wide["unified"] - wide[baseline]).dropna(),
            )

    return compare


@theme()
def draw_pictures(opened: OpenedStudy) -> Drawn:
    """Draw the final scores of test captions and of generated pictures by regime.

    Grey lines are chance, other real pictures (floor), and VQ reconstructions of the real ones
    (ceiling).
    """
    table = opened.table
    need(table, "captioned_pictures", _PICTURE_COLUMNS)
    last = table[table["fraction"] == 1]
    names = known_architectures(last)
    figure = Figure(figsize=(PAGE, 2.6))
    shown = []
    for axes, (title, metric, attribute, regimes) in zip(
        figure.subplots(1, 4), _PICTURE_PANELS, strict=True
    ):
        for place, name in enumerate(names):
            own = last[last["architecture"] == name]
            kind = drawn_metric(name) if metric == "drawn_retrieval" else metric
            for regime in regimes:
                run = own[(own["metric"] == kind) & (own["regime"] == regime)]
                run = run if attribute is None else run[run["attribute"] == attribute]
                at = pd.Series(
                    regimes.index(regime) + 0.14 * (place - (len(names) - 1) / 2), run.index
                )
                if len(run):
                    draw_points(axes, at, run["value"], look_of(name, regime))
                    shown.append(run)
        grey, rows = _references(last, metric, attribute)
        shown.append(rows)
        for reference, value in grey.items():
            axes.axhline(value, **REFERENCES[reference])
        axes.set_title(title)
        axes.set_xticks(
            range(len(regimes)),
            [
                {"unified": "unified", "shuffled": "shuffled"}.get(regime, "alone")
                for regime in regimes
            ],
        )
        axes.set_xlim(-0.5, len(regimes) - 0.5)
        axes.margins(y=0.12)
        axes.set_ylim(bottom=None if attribute is None else 0)
    handles = [Line2D([], [], label=name, **style(name) | {"linestyle": ""}) for name in names]
    handles += spread_handles(last)
    handles += [
        Line2D([], [], label=words, **REFERENCES[name])
        for name, words in (
            ("chance", "chance"),
            ("floor", "other real pictures"),
            ("ceiling", "real ones, as the tokenizer decodes them"),
        )
    ]
    headline(figure, headline_of_pictures(opened), handles)
    return Drawn(figure, pd.concat(shown).drop_duplicates())


def headline_of_pictures(opened: OpenedStudy) -> str:
    """Return what the verdicts say about captioned pictures, in one sentence."""
    counts = [count_verdicts(opened, claim) for claim in ("pictures understood", "pictures drawn")]
    above, below, count = (sum(numbers) for numbers in zip(*counts, strict=True))
    return (
        f"On captioned pictures, training on both tasks helps in {above} and hinders in {below} "
        f"of {count} comparisons"
    )


def _references(
    last: pd.DataFrame, metric: str, attribute: str | None
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the grey lines of a panel, name -> value, and the rows behind them."""
    own, found = last[last["metric"] == metric], {}
    if metric.endswith("retrieval") and len(own):
        found["chance"] = int(attribute.split()[-1]) / own["samples"].iloc[0]
    behind = []
    for name, suffix in (("floor", "_floor"), ("ceiling", "_tokenizer")):
        rows = last[(last["metric"] == f"{metric}{suffix}")]
        rows = rows if attribute is None else rows[rows["attribute"] == attribute]
        if len(rows):
            found[name] = float(rows["value"].mean())
            behind.append(rows)
    return found, pd.concat(behind) if behind else last.head(0)


def tell_pictures(opened: OpenedStudy) -> str:
    """Say whether unified training helps on pictures, and how the control scores."""
    last = opened.table[opened.table["fraction"] == 1]
    asked = last.loc[last["metric"] == "token_accuracy", "samples"]
    text = (
        f"On {int(asked.iloc[0])} test captions, tokens predicted right, unified minus "
        f"understanding alone: {tell_verdicts(opened, 'pictures understood')}. Drawn pictures "
        f"found, unified minus generation alone: {tell_verdicts(opened, 'pictures drawn')}."
    )
    found = last[(last["metric"] == "drawn_retrieval") & (last["attribute"] == "first 5")]
    means = found.groupby("regime")["value"].mean()
    if "shuffled" in means:
        text += (
            f" With shuffled requests a drawn picture is found in {means['shuffled']:.0%} of the "
            f"cases, with true ones in {means['unified']:.0%}."
        )
    return text


STUDY = Study(
    name="captioned_pictures",
    number=7,
    section="5",
    question="Does training on both tasks help on real captioned pictures, too?",
    scales={
        "smoke": PictureScale(1, ("VQ-VQ",), _WATCHES),
        "laptop": PictureScale(3, ("SigLIP-VQ", "VQ-VQ"), _STAMPS),
        "smollm": PictureScale(1, ("SigLIP-VQ",), _STAMPS),
        "paper": PictureScale(
            1, ("SigLIP-VQ", "VQ-VQ", "SigLIP-SigLIP"), _NO_QUESTIONS | {"pictures": "stamps"}
        ),
    },
    arms=arms,
    claims=(
        Claim(
            "pictures understood",
            "on captioned pictures, too, a model trained on both tasks understands better",
            "5",
            comparing_regimes(
                "token accuracy of captions",
                lambda name: "token_accuracy",
                "caption",
                "understanding",
            ),
            "yes, on real images",
        ),
        Claim(
            "pictures drawn",
            "and draws better",
            "5",
            comparing_regimes(
                "drawn picture among the 5 nearest", drawn_metric, "first 5", "generation"
            ),
        ),
    ),
    figures={"captioned_pictures": draw_pictures},
    findings={"captioned_pictures": tell_pictures},
)
