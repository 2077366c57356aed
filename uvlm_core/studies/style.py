"""Common style of the figures, and saving them with data and provenance (not in the paper).

matplotlib and seaborn are imported when something is drawn, so that records are made without them.

Belongs here: the style table, `save_figure`, `provenance`, and how arms, means, legends and
pictures are drawn. Not here: the figures themselves (each study's file).
"""

import io
import json
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from uvlm_core.data.smart_watch import WORLD_VERSION
from uvlm_core.environment import variable
from uvlm_core.runs.provenance import code_state, versions
from uvlm_core.studies.publishing import says_the_same
from uvlm_core.studies.statistics import mean_interval
from uvlm_core.training.spec import REGIMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

COLUMN, PAGE = 3.3, 6.9  # inches: width of a figure in one column, and across both
# In every figure, colour stands for the architecture, line and marker for the regime. Grey is for
# references that come from no model. The first four are of seaborn's "colorblind" palette. The last
# is the darkest of ColorBrewer's "Oranges", which no colour-blind reader takes for one of them.
COLOURS = {
    "SigLIP-VQ": "#0173b2",
    "VQ-VQ": "#de8f05",
    "SigLIP-SigLIP": "#029e73",
    "VQ-SigLIP": "#cc78bc",
    "VQ-Latent": "#7f2704",
}
LINES = {
    "unified": {"linestyle": "-", "marker": "o"},
    "understanding": {"linestyle": "--", "marker": "s"},
    "generation": {"linestyle": "-.", "marker": "^"},
    # control: requests paired with other rows' images
    "shuffled": {"linestyle": ":", "marker": "x"},
}
REFERENCES = {
    "chance": {"color": "#767676", "linestyle": (0, (1, 1.5)), "linewidth": 1.0},
    # such as real images against real images
    "floor": {"color": "#767676", "linestyle": (0, (5, 2)), "linewidth": 1.0},
    # such as random features of the pixels
    "baseline": {"color": "#767676", "linestyle": "-.", "linewidth": 1.0},
    # such as a probe of the same input
    "ceiling": {"color": "#767676", "linestyle": "-", "linewidth": 1.0},
}
_RC = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so equal on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.titlesize": 9,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.figsize": (COLUMN, 2.4),
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.bbox": None,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text in the PDF stays text
}
_SUFFIXES = (".png", ".pdf", ".csv", ".json")

MINUS = "\N{MINUS SIGN}"
INTERVAL_SEEDS = 3  # with fewer, each seed is a dot: a t interval of two covers the axis
SEED_SIZE = 1.8  # pt: such a dot, smaller than the mean's marker
DIGITS = 6  # significant digits of numbers in a CSV
GREYS = ("#222222", "#808080", "#bcbcbc")  # for tasks and clock hands; colours mean architectures
NAMES = {  # attribute or metric -> what figures call it, if not its name
    "weather_corner": "weather corner",
    "battery_corner": "battery corner",
    "partial": "partial credit",
    "read_back": "read back",
    "feature_read_back": "feature read back",
}
REPORTED = {  # look of the authors' own results
    "color": "#767676",
    "markersize": 4,
    "markeredgecolor": "white",
    "markeredgewidth": 0.4,
    "zorder": 4,
}


def style(architecture: str, regime: str = "unified") -> dict:
    """Return an arm's `color`, `linestyle` and `marker`, for any of matplotlib's plot functions.

    ValueError for an unknown architecture or regime.
    """
    for kind, name, table in (("architecture", architecture, COLOURS), ("regime", regime, LINES)):
        if name not in table:
            raise ValueError(
                f"{kind} {name!r} has no style; those with one are {', '.join(table)}."
            )
    return {"color": COLOURS[architecture]} | LINES[regime]


@contextmanager
def theme() -> Iterator[None]:
    """Apply the common style: legible in one column, text of at least 7 pt."""
    import matplotlib as mpl
    import seaborn as sns

    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(_RC)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def entry(**look) -> "Line2D":
    """Return a legend's entry with a line or a marker; `look` is that of a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)


def patch(**look) -> "Patch":
    """Return a legend's entry with a patch of colour; `look` is that of a patch."""
    from matplotlib.patches import Patch

    return Patch(**look)


def stamp(figure: "Figure", profile: str, seeds: int | str, records: int) -> None:
    """Write a figure's scale into its corner: profile, seeds per arm, number of runs.

    `seeds` may be a range, such as "2 to 8".
    """
    text = f"{profile} profile, {counted(seeds, 'seed')}, {counted(records, 'run')}"
    height = 10 / 72 / figure.get_figheight()  # a line of 7 pt, as a fraction of the figure
    layout = figure.get_layout_engine()
    if layout is not None and hasattr(layout, "set"):
        layout.set(rect=(0, height, 1, 1 - height))
    figure.text(0.995, 0.15 * height, text, ha="right", va="bottom", fontsize=7, color="#767676")


def provenance(
    profile: str,
    seeds: int | str,
    records: Iterable[str] = (),
    counts: dict[str, int] | None = None,
    **facts,
) -> dict:
    """Return the provenance of a figure, which `save_figure` writes beside it.

    Args:
        seeds: seeds per arm, or their range.
        records: keys of the run records behind the figure.
        counts: sample counts by name, such as {"test watches": 500}.
        facts: further JSON values by name.

    Returns: the arguments, the versions, the git commit, whether anything outside `figures/`
        differs from that commit (both "unknown" without git), and the date (UTC).
    """
    return {
        "profile": profile,
        "seeds": seeds,
        "records": sorted(set(records)),
        "counts": dict(counts or {}),
        **facts,
        "versions": versions("torch", "transformers", "numpy", "matplotlib")
        | {"world": WORLD_VERSION},
        **code_state(".", ":(exclude)figures"),
        "date": datetime.now(UTC).date().isoformat(),
    }


def save_figure(
    figure: "Figure", data: pd.DataFrame, name: str, folder: Path | str, provenance: dict
) -> dict[str, Path]:
    """Write `name`.png, .pdf, .csv (data) and .json (provenance) into `folder`, all or none.

    Equal input gives equal bytes: no file holds the time of writing. Numbers have `DIGITS`
    significant digits, and rows keep their order. Existing files with the same content stay
    (`says_the_same`). The runner of notebooks names in `UVLM_FIGURES` the folder of the existing
    files, and publishes what is written to `folder`.

    Returns: the paths by suffix, such as "png".
    Raises: ValueError when `name` has other characters than lowercase letters, digits and
        underscores, `data` is empty, `provenance` is not JSON, or `folder` cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(
            f"Figure name {name!r} may hold lowercase letters, digits and underscores only."
        )
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
                _save_picture(figure, parts[".png"])
            data.to_csv(
                parts[".csv"], index=False, lineterminator="\n", float_format=f"%.{DIGITS}g"
            )
            parts[".json"].write_text(facts + "\n", encoding="utf-8")
            _save_document(figure, parts, Path(variable("UVLM_FIGURES", str(folder))))
            if not all(says_the_same(part, folder / part.name) for part in parts.values()):
                for part in parts.values():
                    os.replace(part, folder / part.name)
    except OSError as error:
        raise ValueError(
            f"Figure {name!r} cannot be written to {folder}: {error.strerror or error}."
        ) from error
    return {suffix[1:]: folder / f"{name}{suffix}" for suffix in _SUFFIXES}


def _save_picture(figure: "Figure", path: Path) -> None:
    """Write the PNG with a palette of its own, which looks the same and takes a third."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    colours = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(path, format="png", optimize=True)


def _save_document(figure: "Figure", parts: dict[str, Path], earlier: Path) -> None:
    """Write the PDF; copy the earlier one if all else is the same, because drawing takes longer."""
    document = earlier / parts[".pdf"].name
    others = [part for suffix, part in parts.items() if suffix != ".pdf"]
    if document.is_file() and all(says_the_same(part, earlier / part.name) for part in others):
        shutil.copyfile(document, parts[".pdf"])
        return
    figure.set_layout_engine("none")  # layout is done, and slower than drawing
    with theme():
        figure.savefig(parts[".pdf"], metadata={"CreationDate": None})


def need(table: pd.DataFrame, name: str, columns: tuple[str, ...]) -> None:
    """Raise ValueError if the table of a figure is empty or lacks a column."""
    for column in columns:
        if column not in table:
            raise ValueError(
                f"The table of figure {name!r} has no column {column!r}; it needs "
                f"{', '.join(columns)}."
            )
    if table.empty:
        raise ValueError(f"The table of figure {name!r} is empty; it needs at least one row.")


def arms_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the arms (architecture, regime) of a table, in the order of drawing."""
    found = set(zip(table["architecture"], table["regime"], strict=True))
    return [
        (name, regime)
        for name in COLOURS
        for regime in (*REGIMES, "shuffled")
        if (name, regime) in found
    ]


def of_arm(table: pd.DataFrame, architecture: str, regime: str) -> pd.DataFrame:
    """Return the rows of one arm."""
    return table[(table["architecture"] == architecture) & (table["regime"] == regime)]


def look_of(architecture: str, regime: str) -> dict:
    """Return `style`, with hollow markers for single-task arms so that overlaps stay visible."""
    return style(architecture, regime) | (
        {"markerfacecolor": "white"} if regime in REGIMES[:2] else {}
    )


def draw_picture(axes: "Axes", image: np.ndarray) -> "Axes":
    """Draw an image pixel by pixel, without ticks."""
    axes.imshow(image, interpolation="none")  # a PDF then holds the image's own pixels
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set(linewidth=0.4, color="#bcbcbc")
    return axes


def draw_mean(axes: "Axes", at: float, values, look: dict, upright: bool = True) -> float:
    """Draw the mean over seeds with its 95 % t interval, and return the mean.

    With fewer than `INTERVAL_SEEDS` seeds, each seed is a small dot instead. Values run along the y
    axis if `upright`, else along the x axis.
    """
    values = np.asarray(values, float)
    mean, low, high = mean_interval(values)
    order = slice(None) if upright else slice(None, None, -1)  # (place, value) or (value, place)
    if len(values) >= INTERVAL_SEEDS:
        axes.plot(*([at, at], [low, high])[order], color=look["color"], linewidth=0.8)
    elif len(values) > 1:
        axes.plot(
            *([at] * len(values), values)[order], "o", color=look["color"], markersize=SEED_SIZE
        )
    axes.plot(*([at], [mean])[order], **look | {"linestyle": ""})
    return mean


def draw_points(axes: "Axes", at: pd.Series, values: pd.Series, look: dict) -> None:
    """Draw the mean over seeds at each place (`draw_mean`), joined by a line."""
    groups = values.groupby(np.asarray(at))
    means = [draw_mean(axes, place, group, look) for place, group in groups]
    axes.plot(list(groups.groups), means, **look | {"linewidth": 1.0})


def spread_handles(table: pd.DataFrame) -> "list[Line2D]":
    """Return the legend entry for single seeds or intervals; an empty list for one seed."""
    seeds = table["seed"].nunique()
    if seeds < 2:
        return []
    if seeds < INTERVAL_SEEDS:
        dot = {"linestyle": "", "marker": "o", "markersize": SEED_SIZE}
        return [entry(color="black", label="one seed", **dot)]
    return [entry(color="black", linewidth=0.8, label="95 % t interval")]


def regime_handles(regimes: Iterable[str], **changes) -> "list[Line2D]":
    """Return legend entries for regimes, in black; `changes` replace parts of their look."""
    words = {"unified": "unified", "shuffled": "control: other watches' images"}
    found = []
    for regime in dict.fromkeys(regimes):
        look = look_of(next(iter(COLOURS)), regime) | {"color": "black"} | changes
        found.append(entry(label=words.get(regime, f"{regime} alone"), **look))
    return found


def headline(
    figure: "Figure", sentence: str, handles: "Iterable[Line2D]" = (), ncols: int = 3
) -> None:
    """Write what a figure says above its panels, and below that its legend."""
    # as the legend's title, because matplotlib's layout lets a figure's title cover a legend
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=ncols,
        columnspacing=1.2,
        title=textwrap.fill(sentence, int(13 * figure.get_figwidth())),  # letters in an inch
        title_fontproperties={"size": _RC["figure.titlesize"]},
    )


def said(figure: "Figure") -> str:
    """Return the headline of a figure, "" if it has none."""
    titles = [legend.get_title().get_text() for legend in figure.legends]
    return " ".join(titles[0].split()) if titles else ""


def colour_handles(names: Iterable[str]) -> "list[Line2D]":
    """Return legend entries for the colours of architectures."""
    return [entry(color=COLOURS[name], linewidth=3, label=name) for name in names]


def known_architectures(table: pd.DataFrame) -> list[str]:
    """Return the architectures of a table, in the order of `COLOURS`."""
    return [name for name in COLOURS if (table["architecture"] == name).any()]


def counted(number: int | str, noun: str) -> str:
    """Return a number with its noun, such as "1 seed" or "2 to 8 seeds"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
