"""What do three pitfalls of the original code change? (Paper section 4.2; pitfalls 3, 9 and 10.)

Trains VQ-VQ on a fixed number of rows, by default and with one original behaviour or setting
restored.

Belongs here: this study's runs and figure. Not here: the pitfalls themselves (`docs/pitfalls.md`).
"""

import pandas as pd
from matplotlib.figure import Figure

from uvlm_core.runs.store import RunStore
from uvlm_core.studies.base import Arm, Drawn, OpenedStudy, Study, arm_of, scores, sized
from uvlm_core.studies.data_scaling import RowsScale
from uvlm_core.studies.style import (
    PAGE,
    arms_legend,
    draw_mean,
    look_of,
    need,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile

PLAIN, UNCHECKED = "as it is", "9: no check of the range"
SWITCHES = {  # name -> changes that restore an original behaviour or setting
    PLAIN: {},
    "3: padding image in every step": {"padding_image": True},
    "10: hours 0..12": {"hours": 13},
    # not a pitfall: the paper's value, where the laptop profile has 1
    "alpha 0.2": {"image_loss_weight": 0.2},
}
_SWITCH_PANELS = {
    ("partial", "total"): "total, partial credit",
    ("partial", "time"): "time, partial credit",
}


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


@theme()
def draw_switches(opened: OpenedStudy) -> Drawn:
    """Draw total and time under each switch."""
    found = opened.table
    need(
        found,
        "original_behaviour",
        ("architecture", "regime", "seed", "metric", "attribute", "value", "switch"),
    )
    panels = pd.MultiIndex.from_frame(found[["metric", "attribute"]])
    shown = found[panels.isin(list(_SWITCH_PANELS)) & (found["fraction"] == 1)]
    switches = list(dict.fromkeys(shown["switch"]))
    figure = Figure(figsize=(PAGE, 0.9 + 0.3 * len(switches)))
    grid = figure.subplots(1, len(_SWITCH_PANELS), sharey=True)
    for axes, ((metric, attribute), title) in zip(grid, _SWITCH_PANELS.items(), strict=True):
        own = shown[(shown["metric"] == metric) & (shown["attribute"] == attribute)]
        for (name, regime, switch), group in own.groupby(["architecture", "regime", "switch"]):
            at = switches.index(switch) + (-0.15 if regime == "understanding" else 0.15)
            draw_mean(axes, at, group["value"], look_of(name, regime), upright=False)
        axes.set(title=title, ylim=(len(switches) - 0.5, -0.5))
        axes.margins(x=0.15)
        axes.grid(False, axis="y")
    grid[0].set_yticks(range(len(switches)), switches)
    arms_legend(figure, shown, *spread_handles(shown, upright=False), lines=False, ncols=3)
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
    others = ", ".join(
        f"{value:.3f} with {switch!r}" for switch, value in means.items() if switch != PLAIN
    )
    return (
        f"The unified total is {means[PLAIN]:.3f} as it is, {others}. These are means of "
        f"{opened.scale.seeds} seeds, and no difference is tested."
    )


STUDY = Study(
    name="original_behaviour",
    number=3,
    section="4.2",
    question="What do a padding image, unchecked answers and hours from 0 to 12 change?",
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
