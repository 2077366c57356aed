"""What do three pitfalls of the original code change? (Paper section 4.2; pitfalls 3, 9 and 10.)

Trains VQ-VQ on a fixed number of rows, by default and with one original behaviour or setting
restored.

Belongs here: this study's runs and figure. Not here: the pitfalls themselves (`docs/pitfalls.md`).
"""

from dataclasses import dataclass

import pandas as pd

from uvlm_core.runs.store import RunStore
from uvlm_core.studies.base import (
    Arm,
    Drawn,
    OpenedStudy,
    Scale,
    Study,
    arm_of,
    scores,
    sized,
    understanding_totals,
)
from uvlm_core.studies.style import (
    COLUMN,
    arms_of,
    draw_mean,
    headline,
    look_of,
    need,
    new_figure,
    of_arm,
    regime_handles,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile

PLAIN, UNCHECKED = "as it is", "pitfall 9: no check of the range"
SWITCHES = {  # name -> changes that restore an original behaviour or setting
    PLAIN: {},
    "pitfall 3: padding image in every step": {"padding_image": True},
    "pitfall 10: hours 0 to 12": {"hours": 13},
    # not a pitfall: the paper's value, where the laptop profile has 1
    "image loss weighs 0.2": {"image_loss_weight": 0.2},
}


@dataclass(frozen=True)
class RowsScale(Scale):
    """With the number of rows of each task."""

    rows: int = 1000


def arms(base: Profile, scale: RowsScale) -> list[Arm]:
    """Return unified and understanding-only arms under each switch."""
    return [
        arm_of(
            sized(
                base,
                scale.rows,
                scale.rows,
                architecture=architecture,
                seed=seed,
                regime=regime,
                **change,
            ),
            switch=name,
        )
        for name, change in SWITCHES.items()
        for architecture in scale.architectures
        for seed in range(scale.seeds)
        for regime in ("understanding", "unified")
    ]


def table(found: list[Arm], store: RunStore) -> pd.DataFrame:
    """Return the scores, with the default runs scored a second time without the range check."""
    checked = scores(found, store)
    unchecked = checked[(checked["switch"] == PLAIN) & (checked["metric"] == "unchecked")]
    return pd.concat(
        [checked, unchecked.assign(metric="partial", switch=UNCHECKED)], ignore_index=True
    )


def changes(found: pd.DataFrame) -> pd.DataFrame:
    """Return the final totals, and how far each is from that of the same seed as it is.

    Adds the column difference.
    """
    shown = understanding_totals(found)
    keys = ["architecture", "regime", "seed"]
    plain = shown[shown["switch"] == PLAIN].set_index(keys)["value"]
    before = plain.reindex(pd.MultiIndex.from_frame(shown[keys])).to_numpy()
    return shown.assign(difference=shown["value"] - before)


@theme()
def draw_switches(opened: OpenedStudy) -> Drawn:
    """Draw how far each switch moves the total, paired by seed."""
    need(
        opened.table,
        "original_behaviour",
        ("architecture", "regime", "seed", "metric", "attribute", "value", "switch"),
    )
    shown = changes(opened.table)
    switches = [name for name in dict.fromkeys(shown["switch"]) if name != PLAIN]
    figure = new_figure(COLUMN, 1.7 + 0.3 * len(switches))
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.6)
    for name, regime in arms_of(shown):
        own = of_arm(shown, name, regime)
        for place, switch in enumerate(switches):
            at = place + (-0.15 if regime == "understanding" else 0.15)
            values = own.loc[own["switch"] == switch, "difference"]
            draw_mean(axes, at, values, look_of(name, regime), upright=False)
    axes.set_yticks(range(len(switches)), [switch.replace(": ", ":\n") for switch in switches])
    axes.set(ylim=(len(switches) - 0.5, -0.5), xlabel="change in total partial credit")
    axes.margins(x=0.15)
    axes.grid(False, axis="y")
    handles = regime_handles((regime for _, regime in arms_of(shown)), linestyle="")
    unified = shown[(shown["regime"] == "unified") & (shown["switch"] != PLAIN)]
    most = unified.groupby("switch")["difference"].mean().abs().idxmax()
    sentence = f"On average, {most!r} changes unified models most"
    headline(figure, sentence, [*handles, *spread_handles(shown)], ncols=2)
    return Drawn(figure, shown)


def tell_switches(opened: OpenedStudy) -> str:
    """Say what the unified model's total is under each switch."""
    found = opened.table
    chosen = found[
        (found["metric"] == "partial")
        & (found["attribute"] == "total")
        & (found["regime"] == "unified")
    ]
    means = chosen.groupby("switch", sort=False)["value"].mean()
    others = "; ".join(
        f"{value:.3f} with {switch}" for switch, value in means.items() if switch != PLAIN
    )
    return (
        f"The unified total is {means[PLAIN]:.3f} as it is; {others}. These are means of "
        f"{opened.scale.seeds} seeds, and no difference is tested."
    )


STUDY = Study(
    name="original_behaviour",
    number=3,
    section="4.2",
    question="What do three pitfalls of the original code change?",
    scales={
        "smoke": RowsScale(1, ("VQ-VQ",), 16),
        "laptop": RowsScale(2, ("VQ-VQ",), 1000),
        "smollm": RowsScale(1, ("VQ-VQ",), 1000),
        "paper": RowsScale(1, ("VQ-VQ",), 60_000),
    },
    arms=arms,
    table=table,
    figures={"original_behaviour": draw_switches},
    findings={"original_behaviour": tell_switches},
)
