"""What all figures have in common: one style, and one way to save a figure with its data and its provenance.

Belongs here: the style table, `save_figure`, `provenance`, and how arms, legends and pictures are drawn. Not here: the
figures themselves, one function each, tidy DataFrame -> Figure (`figures_data.py` and the other `figures_*.py`).

The columns of a figure's data, one value a row: architecture, regime, seed, metric, value, and the factors of that
figure (attribute, fraction, ...).
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uvlm_core.profiles import REGIMES
from uvlm_core.provenance import code_state, versions
from uvlm_core.smart_watch import WORLD_VERSION
from uvlm_core.statistics import mean_interval

COLUMN, PAGE = 3.3, 6.9  # inches: the width of a figure in one column, and across both
# Colour says which architecture, line and marker say which regime, in every figure; grey is what no model did. The
# colours are four of seaborn's "colorblind" palette.
COLOURS = {"SigLIP-VQ": "#0173b2", "VQ-VQ": "#de8f05", "SigLIP-SigLIP": "#029e73", "VQ-SigLIP": "#cc78bc"}
LINES = {
    "unified": {"linestyle": "-", "marker": "o"},
    "understanding": {"linestyle": "--", "marker": "s"},
    "generation": {"linestyle": "-.", "marker": "^"},
    "shuffled": {"linestyle": ":", "marker": "x"},  # the control: requests paired with other rows' images
    "absent": {"linestyle": (0, (3, 1, 1, 1)), "marker": "v"},  # the control: requests without the attribute
}
REFERENCES = {
    "chance": {"color": "#767676", "linestyle": (0, (1, 1.5)), "linewidth": 1.0},
    "floor": {"color": "#767676", "linestyle": (0, (5, 2)), "linewidth": 1.0},  # real images against real images
    "baseline": {"color": "#767676", "linestyle": "-.", "linewidth": 1.0},  # what no model has made
    "ceiling": {"color": "#767676", "linestyle": "-", "linewidth": 1.0},  # what a probe reads from the same input
}
_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "figure.titlesize": 9,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "lines.linewidth": 1.4, "lines.markersize": 3.5, "axes.linewidth": 0.6, "grid.linewidth": 0.4,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "figure.figsize": (COLUMN, 2.4), "figure.constrained_layout.use": True,
    "figure.dpi": 100, "savefig.dpi": 200, "savefig.bbox": None, "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text in the PDF stays text
}
_SUFFIXES = (".png", ".pdf", ".csv", ".json")

MINUS = "\N{MINUS SIGN}"
GREYS = ("#222222", "#808080", "#bcbcbc")  # of tasks and hands: colours are kept for architectures
NAMES = {"weather_corner": "weather corner", "battery_corner": "battery corner"}
AUTHORS = {"color": "#767676", "markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 4}


def style(architecture: str, regime: str = "unified") -> dict:
    """`color`, `linestyle` and `marker` of an arm, for any of matplotlib's plot functions."""
    for kind, name, table in (("architecture", architecture, COLOURS), ("regime", regime, LINES)):
        if name not in table:
            raise ValueError(f"{kind} {name!r} has no style; those with one are {', '.join(table)}.")
    return {"color": COLOURS[architecture]} | LINES[regime]


@contextmanager
def theme() -> Iterator[None]:
    """The style in which every figure is made: legible at the width of one column, text from 7 pt up."""
    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(_RC)
        yield


def stamp(figure: Figure, profile: str, seeds: int, records: int) -> None:
    """Write into the lower right corner at which scale a figure was made: profile, seeds per arm, runs behind it."""
    text = f"{profile} profile, {_count(seeds, 'seed')}, {_count(records, 'run')}"
    height = 10 / 72 / figure.get_figheight()  # a line of 7 pt, as a fraction of the figure
    layout = figure.get_layout_engine()
    if layout is not None and hasattr(layout, "set"):
        layout.set(rect=(0, height, 1, 1 - height))
    figure.text(0.995, 0.15 * height, text, ha="right", va="bottom", fontsize=7, color="#767676")


def provenance(profile: str, seeds: int, records: Iterable[str] = (), counts: dict[str, int] | None = None,
               **facts) -> dict:
    """Where a figure comes from: what `save_figure` writes beside it.

    Args:
        seeds: seeds per arm.
        records: keys of the run records behind the figure.
        counts: sample counts by name, such as {"test watches": 500}.
        facts: further JSON values by name.

    Returns: these, and the versions, the git commit, whether anything but `figures/` differs from it (both "unknown"
        without git), and the date (UTC).
    """
    return {
        "profile": profile, "seeds": seeds, "records": sorted(set(records)), "counts": dict(counts or {}), **facts,
        "versions": versions("torch", "transformers", "numpy", "matplotlib") | {"world": WORLD_VERSION},
        **code_state(".", ":(exclude)figures"), "date": datetime.now(UTC).date().isoformat(),
    }


def save_figure(figure: Figure, data: pd.DataFrame, name: str, folder: Path | str, provenance: dict) -> dict[str, Path]:
    """Write `name`.png, .pdf, .csv (the data) and .json (the provenance) into `folder`, all of them or none.

    Equal input gives equal bytes: no file holds the time of writing, and numbers are written so that they read back
    exactly. The rows keep their order.

    Returns: the paths by suffix without its dot.
    Raises: ValueError for a name that is more than small letters, digits and underscores, for data without rows, for
        provenance that is not JSON, and for a folder that cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"Figure name {name!r} may hold small letters, digits and underscores only.")
    if data.empty:
        raise ValueError(f"Figure {name!r} has no data: its table is empty.")
    try:
        facts = json.dumps(provenance, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The provenance of figure {name!r} is not JSON: {error}.") from None
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
            parts = {suffix: Path(temporary) / f"{name}{suffix}" for suffix in _SUFFIXES}
            with theme():
                figure.savefig(parts[".png"], metadata={"Software": None})
                figure.savefig(parts[".pdf"], metadata={"CreationDate": None})
            data.to_csv(parts[".csv"], index=False, lineterminator="\n")
            parts[".json"].write_text(facts + "\n", encoding="utf-8")
            for part in parts.values():
                os.replace(part, folder / part.name)
    except OSError as error:
        raise ValueError(f"Figure {name!r} cannot be written to {folder}: {error.strerror or error}.") from error
    return {suffix[1:]: folder / f"{name}{suffix}" for suffix in _SUFFIXES}


def need(table: pd.DataFrame, name: str, columns: tuple[str, ...]) -> None:
    """Refuse a table that a figure cannot be drawn from."""
    for column in columns:
        if column not in table:
            raise ValueError(f"The table of figure {name!r} has no column {column!r}; it needs {', '.join(columns)}.")
    if table.empty:
        raise ValueError(f"The table of figure {name!r} is empty; it needs at least one row.")


def arms_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The arms (architecture, regime) of a table, in the order of the style tables."""
    found = set(zip(table["architecture"], table["regime"], strict=True))
    return [(name, regime) for name in COLOURS for regime in (*REGIMES, "shuffled") if (name, regime) in found]


def of_arm(table: pd.DataFrame, architecture: str, regime: str) -> pd.DataFrame:
    """The rows of one arm."""
    return table[(table["architecture"] == architecture) & (table["regime"] == regime)]


def look_of(architecture: str, regime: str) -> dict:
    """`style` with hollow marks for an arm of one task: where curves lie on each other, both can be seen."""
    return style(architecture, regime) | ({"markerfacecolor": "white"} if regime in REGIMES[:2] else {})


def draw_picture(axes: Axes, image: np.ndarray) -> Axes:
    """An image, pixel by pixel, without axes."""
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set(linewidth=0.4, color="#bcbcbc")
    return axes


def draw_points(axes: Axes, at: pd.Series, values: pd.Series, look: dict) -> None:
    """Means of values at equal places, with their intervals as bars, joined by a line."""
    groups = values.groupby(np.asarray(at))
    places, intervals = list(groups.groups), [mean_interval(group) for _, group in groups]
    for place, (_, low, high) in zip(places, intervals, strict=True):
        axes.plot([place, place], [low, high], color=look["color"], linewidth=0.8)
    axes.plot(places, [mean for mean, _, _ in intervals], **look | {"linewidth": 1.0})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
