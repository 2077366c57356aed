"""Figures of whether knowledge crosses from one task to the other (paper section 4.3, figure 6), one function each.

Belongs here: tidy DataFrame -> Figure for notebook 05. Not here: style and saving (`figures.py`), the numbers behind a
figure (`experiments.py`, `claims.py`). Tables are those of `experiments.transfer_table`.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.claims import chance, generation_metric, rare_scores
from uvlm_core.experiments import RARE
from uvlm_core.figures import COLOURS, PAGE, REFERENCES, draw_points, look_of, need, theme

_COLUMNS = ("architecture", "regime", "seed", "fraction", "metric", "attribute", "value", "rare", "rate", "rare_in",
            "arm")
_ARMS = {"understanding": "understanding", "unified": "unified", "absent": "unified, not in the requests",
         "shuffled": "unified, shuffled in the requests"}
_METRICS = {"partial": "partial credit", "constrained": "partial credit, answers held to its values",
            "kappa": "Cohen's kappa"}


@theme()
def attribute_transfer(table: pd.DataFrame, metric: str = "partial") -> Figure:
    """Section 4.3, figure 6: the rare attribute's score against its share of the understanding rows.

    An architecture a row, a rare attribute a column; at 100 % models of complete data. `metric` is "partial",
    "constrained" for answers that must be a value of the attribute, or "kappa" for `claims.kappas` (models of complete
    data have neither of these).
    """
    need(table, "attribute_transfer", _COLUMNS)
    if metric not in _METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(_METRICS)}.")
    scores = rare_scores(table, metric)
    scores = scores[scores["rare_in"].isin(("understanding", "none")) & scores["arm"].isin(_ARMS)]
    return _against_rate(scores, _ARMS, lambda _, name: chance(metric, name), _METRICS[metric])


@theme()
def attribute_transfer_reverse(table: pd.DataFrame) -> Figure:
    """The reverse direction: what is read back of the rare attribute against its share of the requests."""
    need(table, "attribute_transfer_reverse", _COLUMNS)
    names = [name for name in COLOURS if (table["architecture"] == name).any()]
    scores = pd.concat([rare_scores(table[table["architecture"] == name], generation_metric(name)) for name in names])
    rare = scores.loc[scores["rare_in"] == "generation", "rare"].unique()
    arms = {"generation": "generation", "unified": "unified"}
    scores = scores[scores["rare_in"].isin(("generation", "none")) & scores["arm"].isin(arms)
                    & scores["rare"].isin(rare)]
    return _against_rate(scores, arms, lambda name, part: chance(generation_metric(name), part), "read back")


def _against_rate(scores: pd.DataFrame, arms: dict[str, str], least, label: str) -> Figure:
    """An architecture a row, a rare attribute a column; rates at equal distances."""
    names = [name for name in COLOURS if (scores["architecture"] == name).any()]
    rares = [name for name in RARE if (scores["rare"] == name).any()]
    rates = sorted(scores["rate"].unique())
    if not names or not rares:
        raise ValueError("The table has no scores of a rare attribute to draw.")
    figure = Figure(figsize=(PAGE, 0.95 + 1.35 * len(names)))
    grid = figure.subplots(len(names), len(rares), squeeze=False)
    for number, (line, name) in enumerate(zip(grid, names, strict=True)):
        for axes, rare in zip(line, rares, strict=True):
            own = scores[(scores["architecture"] == name) & (scores["rare"] == rare)]
            for place, arm in enumerate(arms):
                run = own[own["arm"] == arm]
                at = run["rate"].map(rates.index) + 0.08 * (place - (len(arms) - 1) / 2)  # so that bars do not overlap
                if len(run):
                    draw_points(axes, at, run["value"], look_of(name, arm))
            axes.axhline(float(np.mean([least(name, part) for part in RARE[rare]])), **REFERENCES["chance"])
            axes.set(ylim=(min(-0.04, scores["value"].min() - 0.04), 1.04), xlim=(-0.4, len(rates) - 0.6))
            axes.set_xticks(range(len(rates)), [f"{100 * rate:g}" for rate in rates])
            axes.tick_params(labelleft=axes is line[0], labelbottom=number == len(names) - 1)
            if number == 0:
                axes.set_title(rare)
        line[0].set_ylabel(name)
    figure.supxlabel("rows that may mention it, %", fontsize=8)
    figure.supylabel(label, fontsize=8)
    handles = [Line2D([], [], label=words, **look_of(names[0], arm) | {"color": "black"})
               for arm, words in arms.items()]
    if scores["seed"].nunique() > 1:
        handles.append(Line2D([], [], color="black", linewidth=0.8, label="95 % t interval (none: one seed)"))
    handles.append(Line2D([], [], label="chance", **REFERENCES["chance"]))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@theme()
def attribute_transfer_confusion(table: pd.DataFrame, rare: str, rate: float) -> Figure:
    """What is answered (columns) for what is shown (rows), in shares of a row: an architecture a line, an arm a panel.

    Means over seeds of models in whose understanding data the attribute `rare` has the share `rate`.
    """
    need(table, "attribute_transfer_confusion", _COLUMNS)
    if rare not in RARE:
        raise ValueError(f"rare attribute {rare!r} is not one of {', '.join(RARE)}.")
    chosen = table[(table["metric"] == "confusion") & (table["rare"] == rare) & (table["rate"] == rate)
                   & (table["rare_in"] == "understanding") & table["attribute"].str.startswith(f"{RARE[rare][0]}:")]
    if chosen.empty:
        raise ValueError(f"The table has no confusions of {rare!r} at rate {rate!r}.")
    pairs = chosen["attribute"].str.extract(r": (?P<true>.*) > (?P<said>.*)")
    chosen = chosen.assign(true=pairs["true"], said=pairs["said"])
    rows, columns = list(dict.fromkeys(chosen["true"])), list(dict.fromkeys(chosen["said"]))
    names = [name for name in COLOURS if (chosen["architecture"] == name).any()]
    arms = [arm for arm in _ARMS if (chosen["arm"] == arm).any()]
    figure = Figure(figsize=(PAGE, 0.8 + (0.5 + 0.22 * len(rows)) * len(names)))
    grid = figure.subplots(len(names), len(arms), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        for axes, arm in zip(line, arms, strict=True):
            own = chosen[(chosen["architecture"] == name) & (chosen["arm"] == arm)]
            shares = own.pivot_table(index="true", columns="said", values="value").reindex(rows, columns=columns)
            sns.heatmap(shares, ax=axes, vmin=0, vmax=1, cbar=False, linewidths=0.5, fmt="",
                        annot=shares.map(lambda share: f"{share:.2f}".removeprefix("0")),
                        annot_kws={"fontsize": 6.5}, cmap=sns.light_palette(COLOURS[name], as_cmap=True))
            axes.set(xlabel="", ylabel=f"{name}\nshown" if axes is line[0] else "")
            axes.tick_params(labelleft=axes is line[0], labelbottom=line[0] is grid[-1][0], length=0)
            axes.set_xticks(axes.get_xticks(), columns, rotation=45, ha="right")
            axes.set_yticks(axes.get_yticks(), rows, rotation=0)
            if line[0] is grid[0][0]:
                axes.set_title(_ARMS[arm].replace(", ", ",\n"))
    figure.supxlabel("answered", fontsize=8)
    return figure
