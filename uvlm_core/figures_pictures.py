"""The figure of captioned pictures (paper section 5, real images).

Belongs here: tidy DataFrame -> Figure for notebook 07. Not here: style and saving (`figures.py`), the numbers behind it
(`experiments.py`, `picture_evaluation.py`).
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.claims import drawn_metric
from uvlm_core.figures import COLOURS, PAGE, REFERENCES, draw_points, look_of, need, theme

_COLUMNS = ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value", "samples")
_UNDERSTANDING, _GENERATION = ("understanding", "unified", "shuffled"), ("generation", "unified", "shuffled")
_NAMES = {"understanding": "alone", "generation": "alone", "unified": "unified", "shuffled": "shuffled"}


@theme()
def captioned_pictures(table: pd.DataFrame) -> Figure:
    """Section 5: how well test captions are told and found, and what is drawn for them, by regime, after all data.

    Grey are chance, other real pictures (floor), and the real ones as the VQ tokenizer draws them (ceiling).
    """
    need(table, "captioned_pictures", _COLUMNS)
    last = table[table["fraction"] == 1]
    panels = (("tokens of captions told\n(share)", "token_accuracy", "caption", _UNDERSTANDING),
              ("caption found\namong the first 5", "caption_retrieval", "first 5", _UNDERSTANDING),
              ("drawn picture found\namong the first 5", "drawn_retrieval", "first 5", _GENERATION),
              ("kernel distance\n(EfficientNet)", "efficientnet_kernel", None, _GENERATION))
    names = [name for name in COLOURS if (table["architecture"] == name).any()]
    figure = Figure(figsize=(PAGE, 2.6))
    for axes, (title, metric, attribute, regimes) in zip(figure.subplots(1, 4), panels, strict=True):
        for place, name in enumerate(names):
            own = last[last["architecture"] == name]
            kind = drawn_metric(name) if metric == "drawn_retrieval" else metric
            for regime in regimes:
                run = own[(own["metric"] == kind) & (own["regime"] == regime)]
                run = run if attribute is None else run[run["attribute"] == attribute]
                at = pd.Series(regimes.index(regime) + 0.14 * (place - (len(names) - 1) / 2), run.index)
                if len(run):
                    draw_points(axes, at, run["value"], look_of(name, regime))
        for reference, value in _references(last, metric, attribute).items():
            axes.axhline(value, **REFERENCES[reference])
        axes.set_title(title)
        axes.set_xticks(range(len(regimes)), [_NAMES[regime] for regime in regimes])
        axes.set_xlim(-0.5, len(regimes) - 0.5)
        axes.margins(y=0.12)
        axes.set_ylim(bottom=None if attribute is None else 0)
    handles = [Line2D([], [], color=COLOURS[name], marker="o", label=name) for name in names]
    handles += [Line2D([], [], color="black", linewidth=0.8, label="95 % t interval")]
    handles += [Line2D([], [], label=words, **REFERENCES[name]) for name, words in (
        ("chance", "chance"), ("floor", "other real pictures"), ("ceiling", "real ones, as the tokenizer draws them"))]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _references(last: pd.DataFrame, metric: str, attribute: str | None) -> dict[str, float]:
    """Grey lines of a panel: name -> value."""
    own = last[last["metric"] == metric]
    if metric.endswith("retrieval"):
        found = {"chance": int(attribute.split()[-1]) / own["samples"].iloc[0]} if len(own) else {}
    else:
        found = {}
    for name, suffix in (("floor", "_floor"), ("ceiling", "_tokenizer")):
        rows = last[(last["metric"] == f"{metric}{suffix}")]
        rows = rows if attribute is None else rows[rows["attribute"] == attribute]
        if len(rows):
            found[name] = float(rows["value"].mean())
    return found
