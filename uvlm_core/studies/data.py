"""What do the models see and read? (Paper section 3, the Smart Watch UI dataset.)

Every later result depends on three properties of the data. Everything asked about is visible. The
levels of an attribute are equally frequent, as chance assumes. Batches have little padding.

Belongs here: this study's measurement and figures. Not here: the images (`data/smart_watch.py`),
the texts (`data/conversations.py`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from uvlm_core.data.attributes import ATTRIBUTES, reader_classes
from uvlm_core.data.conversations import TASKS, AttributeBias, Conversation, make_conversations
from uvlm_core.data.smart_watch import CORNERS, WEATHERS, Watch, render, sample_watches
from uvlm_core.runs.store import RunStore
from uvlm_core.studies.base import Arm, Drawn, Measurement, OpenedStudy, Scale, Study, recorded
from uvlm_core.studies.style import (
    GREYS,
    NAMES,
    PAGE,
    REFERENCES,
    draw_picture,
    need,
    new_figure,
    theme,
)
from uvlm_core.training.profiles import Profile, profile
from uvlm_core.training.spec import RunSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESCRIBED = 5000  # watches whose texts are counted
BATCHES = 40  # batches whose padding is counted
PADDING_BOUND = 0.05  # largest accepted share of padding in a batch's tokens
LARGE = 224  # px, the paper's size
SCARCE = AttributeBias("weather", 0.01)  # an example of a bias
HANDS = {"hour": 12, "minute": 60, "second": 60}


@dataclass(frozen=True)
class DataStatistics(Measurement):
    """Examples, shares and lengths in a run's training data; nothing is trained.

    The record's tables and their columns:

    gallery     see `draw_gallery`
    talks       task, human, gpt: the conversations about the first watch
    bias        task, rows, and counts of rows that mention the weather: mentioning, and biased
                (with `SCARCE`)
    statistics  see `draw_statistics`
    """

    spec: RunSpec

    @classmethod
    def of(cls, spec: RunSpec) -> "DataStatistics":
        """Return the measurement of a run's data; all other settings are the laptop's."""
        return cls(
            profile("laptop").spec.vary(
                seed=spec.training.seed,
                image_size=spec.data.image_size,
                images=spec.data.images,
                vqa_examples=spec.data.vqa_examples,
                caption_examples=spec.data.caption_examples,
                generation_examples=spec.data.generation_examples,
                turns=spec.data.turns,
                fewest_turns=spec.data.fewest_turns,
                mention_rate=spec.data.mention_rate,
                tokenizer=spec.model.tokenizer,
                vq_tokenizer=spec.model.vq_tokenizer,
                batch_size=spec.training.batch_size,
                batch_counts=spec.training.batch_counts,
            )
        )

    def to_dict(self) -> dict:
        return {"measurement": type(self).__name__, "spec": self.spec.to_dict()}

    @property
    def networks(self) -> tuple[str, ...]:
        return self.spec.model.tokenizer, self.spec.model.vq_tokenizer

    def run(self, folder: Path) -> dict:
        """Return the record's body."""
        from uvlm_core.data.smart_watch import POOL_STREAM

        pool = sample_watches(POOL_STREAM, self.spec.data.images)
        some = pool[:DESCRIBED]
        talks = {task: self._talks(some, task) for task in TASKS}
        rows = [
            row
            for name, levels in reader_classes().items()
            for row in _shares("share", "", name, [getattr(watch, name) for watch in pool], levels)
        ]
        rows += [*self._texts(talks), *self._padding(pool)]
        tables = {
            "gallery": pd.DataFrame(_gallery(pool, self.spec.data.image_size)),
            "talks": pd.DataFrame(
                [(task, turn.human, turn.gpt) for task in TASKS for turn in talks[task][0].turns],
                columns=["task", "human", "gpt"],
            ),
            "bias": pd.DataFrame(
                [self._biased(task, some, talks[task]) for task in TASKS],
                columns=["task", "rows", "mentioning", "biased"],
            ),
            "statistics": pd.DataFrame(
                rows, columns=["statistic", "task", "attribute", "level", "value", "samples"]
            ),
        }
        return {
            "tables": {name: table.to_dict("list") for name, table in tables.items()},
            "counts": {"training watches": len(pool)},
        }

    def _talks(self, watches: list[Watch], task: str, biases=()) -> list[Conversation]:
        spec, data = self.spec, self.spec.data
        turns = (data.fewest_turns or data.turns, data.turns)
        return make_conversations(
            watches, task, spec.training.seed, turns, biases, data.mention_rate
        )

    def _biased(self, task: str, watches: list[Watch], talks: list) -> tuple:
        biased = self._talks(watches, task, [SCARCE])
        return (
            task,
            len(talks),
            *(
                sum(
                    any(SCARCE.attribute in turn.attributes for turn in talk.turns) for talk in some
                )
                for some in (talks, biased)
            ),
        )

    def _texts(self, talks: dict[str, list]) -> Iterable[tuple]:
        """Yield the share of rows that mention each attribute and the rows' lengths, by task."""
        # late: reading the record needs no torch
        from uvlm_core.data.tokens import Processor
        from uvlm_core.models.encoders import VQEncoder

        tokens = VQEncoder.load(self.spec.model.vq_tokenizer).tokens
        processor = Processor.load(self.spec.model.tokenizer, tokens, tokens)
        for task, some in talks.items():
            for name in ATTRIBUTES:
                share = np.mean(
                    [any(name in turn.attributes for turn in talk.turns) for talk in some]
                )
                yield "mentioned", task, name, "", float(share), len(some)
            words = [
                sum(
                    len(f"{turn.human} {turn.gpt}".replace("<image>", "").split())
                    for turn in talk.turns
                )
                for talk in some
            ]
            yield from _shares("words", task, "", words)
            yield from _shares("tokens", task, "", [len(processor.row(talk).ids) for talk in some])

    def _padding(self, pool: list[Watch]) -> Iterable[tuple]:
        """Yield the share of padding in a batch's tokens, by regime."""
        from uvlm_core.data.tokens import Processor, padding_share
        from uvlm_core.models.encoders import VQEncoder
        from uvlm_core.training.loop import Steps
        from uvlm_core.training.pool import training_rows

        spec, tokens = self.spec, VQEncoder.load(self.spec.model.vq_tokenizer).tokens
        processor = Processor.load(spec.model.tokenizer, tokens, tokens)
        # any codes do: padding depends only on their number
        codes = np.broadcast_to(np.uint16(0), (spec.data.images, tokens))
        understanding, generation = training_rows(spec, processor, pool)
        for regime, seen in (
            ("understanding", (understanding, [])),
            ("generation", ([], generation)),
            ("unified", (understanding, generation)),
        ):
            steps = Steps(spec, processor, *seen, codes, codes)
            buckets = [
                bucket
                for step in range(0, len(steps), max(1, len(steps) // BATCHES))
                for bucket in steps[step]["buckets"]
            ]
            yield (
                "padding",
                regime,
                "",
                "",
                padding_share(buckets, processor.pad),
                sum(bucket["input_ids"].numel() for bucket in buckets),
            )


def _shares(
    statistic: str, task: str, attribute: str, values: list, levels: Iterable = ()
) -> list[tuple]:
    """Return the share of each level; default levels are all integers from least to most."""
    found = Counter(values)
    return [
        (statistic, task, attribute, level, found[level] / len(values), len(values))
        for level in levels or range(min(values), max(values) + 1)
    ]


def _gallery(pool: list[Watch], size: int) -> list[dict]:
    """Return the watches of the gallery: a grid, and a line of four large ones.

    The grid has all weathers, six battery levels and all pairs of corners.
    """
    levels, pairs = (0, 20, 40, 60, 80, 100), list(permutations(CORNERS, 2))
    small = [
        {"panel": "grid", "size": size, "row": row, "column": column}
        | asdict(pool[row * len(levels) + column])
        | {"weather": weather, "battery": level}
        | dict(
            zip(
                ("weather_corner", "battery_corner"),
                pairs[(row * 7 + column * 2) % 12],
                strict=True,
            )
        )
        for row, weather in enumerate(WEATHERS)
        for column, level in enumerate(levels)
    ]
    large = [
        {"panel": "line", "size": LARGE, "row": 0, "column": column} | asdict(watch)
        for column, watch in enumerate(pool[30:34])
    ]
    return small + large


def arms(base: Profile, scale: Scale) -> list[Arm]:
    """Return the one measurement of this study."""
    return [Arm(DataStatistics.of(base.spec), {})]


def statistics_table(arms: list[Arm], store: RunStore) -> pd.DataFrame:
    """Return the table that `draw_statistics` draws."""
    return recorded(arms[0].spec, store, "statistics")


# Figures


@theme()
def draw_gallery(table: pd.DataFrame) -> "Figure":
    """Draw watches by weather, battery level and corners, at both sizes.

    `table` has one watch per row. Columns: panel, size (px), row, column, and the fields of
    `Watch`. The panel "grid" has weathers as rows and battery levels as columns. The panel "line"
    has large watches, captioned with their attributes.
    """
    need(
        table,
        "data_gallery",
        ("panel", "size", "row", "column", *(field.name for field in fields(Watch))),
    )
    small, large = (table[table["panel"] == panel] for panel in ("grid", "line"))
    figure = new_figure(PAGE, 5.2)
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    grid = above.subplots(small["row"].max() + 1, small["column"].max() + 1, squeeze=False)
    for _, line in small.iterrows():
        axes = draw_picture(
            grid[line["row"], line["column"]], np.asarray(render(_watch(line), int(line["size"])))
        )
        if line["row"] == 0:
            axes.set_title(f"battery {line['battery']}%")
        if line["column"] == 0:
            axes.set_ylabel(line["weather"])
    for axes, (_, line) in zip(
        below.subplots(1, len(large), squeeze=False)[0], large.iterrows(), strict=True
    ):
        watch = _watch(line)
        draw_picture(axes, np.asarray(render(watch, int(line["size"]))))
        axes.set_xlabel(
            f"{watch.time}, {watch.weather}, {watch.battery}%\nweather {watch.weather_corner}\n"
            f"battery {watch.battery_corner}"
        )
    for part, panel in ((above, small), (below, large)):
        part.suptitle(f"{panel['size'].iloc[0]} x {panel['size'].iloc[0]} px")
    return figure


def _watch(line: pd.Series) -> Watch:
    """Return the watch of a table's row."""
    names = [field.name for field in fields(Watch)]
    values = {
        name: line[name].item() if hasattr(line[name], "item") else line[name] for name in names
    }
    return Watch(**values | {"colour": tuple(map(int, line["colour"]))})


@theme()
def draw_statistics(table: pd.DataFrame) -> "Figure":
    """Draw the attributes' distributions, the rows' mentions and lengths, and the padding.

    Columns: statistic, task, attribute, level, value, samples. `value` is the share of

    share          watches with this level of the attribute
    mentioned      rows of the task that mention the attribute
    words, tokens  rows of the task with this length (`level`)
    padding        padding among a batch's tokens, by regime (in column `task`)
    """
    need(table, "data_statistics", ("statistic", "task", "attribute", "level", "value"))
    figure = new_figure(PAGE, 3.9)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3.4))
    kinds, ((battery, hands, mentioned), (words, tokens, padding)) = (
        left.subplots(),
        right.subplots(2, 3),
    )
    shares = table[table["statistic"] == "share"]

    place, ticks = 0, {}
    for attribute, levels in (
        ("weather", WEATHERS),
        ("weather_corner", CORNERS),
        ("battery_corner", CORNERS),
    ):
        found = shares[shares["attribute"] == attribute].set_index("level")["value"]
        at = [place + step for step in range(len(levels))]
        kinds.barh(at, [found.get(level, 0.0) for level in levels], color=GREYS[1], height=0.75)
        kinds.plot([1 / len(levels)] * 2, [at[0] - 0.5, at[-1] + 0.5], **REFERENCES["chance"])
        kinds.text(
            0, at[0] - 0.55, NAMES.get(attribute, attribute), va="bottom", fontsize=7, weight="bold"
        )
        ticks |= dict(zip(at, levels, strict=True))
        place = at[-1] + 2
    kinds.set_yticks(list(ticks), ticks.values())
    kinds.grid(False, axis="y")
    kinds.set(title="icon and corners", xlabel="share of watches", ylim=(place - 1.2, -1.6))

    levels = shares[shares["attribute"] == "battery"].astype({"level": int}).sort_values("level")
    battery.step(levels["level"], 100 * levels["value"], where="mid", color=GREYS[1], linewidth=0.8)
    battery.axhline(100 / 101, **REFERENCES["chance"])
    battery.set(title="battery", xlabel="level (%)", ylabel="% of watches", ylim=(0, None))
    for (part, period), grey in zip(HANDS.items(), GREYS, strict=True):
        levels = shares[shares["attribute"] == part].astype({"level": int}).sort_values("level")
        hands.step(
            levels["level"] / period,
            period * levels["value"],
            where="mid",
            color=grey,
            lw=0.8,
            label=part,
        )
    hands.axhline(1, **REFERENCES["chance"])
    hands.set(
        title="hands", xlabel="turn", ylabel="density", ylim=(0, max(2.0, 1.5 * hands.dataLim.y1))
    )
    hands.legend(
        loc="upper center", ncols=3, handlelength=0.8, columnspacing=0.6, handletextpad=0.3
    )

    tasks = list(dict.fromkeys(table.loc[table["statistic"] == "tokens", "task"]))
    for number, (task, grey, line) in enumerate(zip(tasks, GREYS, ("-", "--", "-"), strict=False)):
        found = table[(table["statistic"] == "mentioned") & (table["task"] == task)].set_index(
            "attribute"
        )["value"]
        mentioned.barh(
            [place + 0.27 * (number - 1) for place in range(len(ATTRIBUTES))],
            [found.get(name, 0.0) for name in ATTRIBUTES],
            height=0.25,
            color=grey,
        )
        for axes, statistic in ((words, "words"), (tokens, "tokens")):
            found = table[(table["statistic"] == statistic) & (table["task"] == task)].astype(
                {"level": int}
            )
            found = found.sort_values("level")
            axes.plot(
                found["level"],
                100 * found["value"],
                line,
                color=grey,
                linewidth=1,
                drawstyle="steps-mid",
                label=task,
            )
    words_of = [NAMES.get(name, name).replace(" ", "\n") for name in ATTRIBUTES]
    mentioned.set_yticks(range(len(ATTRIBUTES)), words_of, fontsize=7, linespacing=0.85)
    mentioned.grid(False, axis="y")
    mentioned.set(
        title="rows that mention it", xlabel="share of rows", xlim=(0, 1.05), ylim=(4.6, -0.6)
    )
    words.set(
        title="words of a row", xlabel="words", ylabel="% of rows", xlim=(0, None), ylim=(0, None)
    )
    tokens.set(
        title="tokens of a row",
        xlabel="tokens, image slots too",
        ylabel="% of rows",
        xlim=(0, None),
        ylim=(0, None),
    )
    found = table[table["statistic"] == "padding"]
    padding.barh(found["task"], 100 * found["value"], color=GREYS[1], height=0.6)
    padding.axvline(100 * PADDING_BOUND, **REFERENCES["ceiling"])
    padding.text(
        98 * PADDING_BOUND, -0.55, "bound", ha="right", va="center", fontsize=7, color="#767676"
    )
    padding.grid(False, axis="y")
    padding.set(
        title="padding in a batch", xlabel="% of tokens", xlim=(0, max(6, padding.dataLim.x1))
    )
    padding.set_ylim(2.5, -0.9)
    figure.legend(*tokens.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def show_gallery(opened: OpenedStudy) -> Drawn:
    """Draw the gallery in the study's record."""
    gallery = recorded(opened.arms[0].spec, opened.store, "gallery")
    gallery["colour"] = gallery["colour"].map(tuple)  # JSON has lists
    return Drawn(draw_gallery(gallery), gallery)


def show_statistics(opened: OpenedStudy) -> Drawn:
    """Draw the statistics in the study's record."""
    return Drawn(draw_statistics(opened.table), opened.table)


# What the figures say


def tell_gallery(opened: OpenedStudy) -> str:
    """Say what a watch shows and what is never asked."""
    size = opened.base.spec.data.image_size
    return (
        "A watch shows five attributes: the time, the weather, the battery level and the corners "
        "of the last two. "
        f"All can be seen at {size} px. Its colour is drawn at random and never asked about."
    )


def tell_statistics(opened: OpenedStudy) -> str:
    """Say how far levels are from equal shares, how long rows are, and the share of padding."""
    table = opened.table
    shares = table[table["statistic"] == "share"]
    groups = shares.groupby("attribute", sort=False)["value"]
    deviations = {name: (values * len(values) - 1).abs().max() for name, values in groups}
    widest = max(deviations, key=deviations.get)
    lengths = table[table["statistic"] == "tokens"]
    tokens = {
        task: (own["level"].astype(int) * own["value"]).sum()
        for task, own in lengths.groupby("task", sort=False)
    }
    padding = table[table["statistic"] == "padding"].set_index("task")["value"]
    return (
        f"Every level is within {100 * deviations[widest]:.0f} % of an equal share; the widest "
        "deviation is one of "
        f"the {widest}, over {shares['samples'].iloc[0]:,} watches. A row has on average "
        f"{', '.join(f'{count:.0f} tokens ({task})' for task, count in tokens.items())}. Padding "
        "takes "
        f"{100 * padding.max():.1f} % of a batch at most; the bound is {100 * PADDING_BOUND:.0f} %."
    )


def tell_talks(opened: OpenedStudy) -> str:
    """Return the conversations about the first watch, one per task."""
    talks = recorded(opened.arms[0].spec, opened.store, "talks")
    return "\n\n".join(
        f"{task}\n"
        + "\n".join(
            f"  human: {human}\n  gpt:   {gpt}"
            for human, gpt in zip(own["human"], own["gpt"], strict=True)
        )
        for task, own in talks.groupby("task", sort=False)
    )


def tell_bias(opened: OpenedStudy) -> str:
    """Say how many rows mention the weather without and with a bias."""
    counts = recorded(opened.arms[0].spec, opened.store, "bias").to_dict("records")
    return "\n".join(
        f"{row['task']}: {row['mentioning']:,} of {row['rows']:,} rows mention the weather, and "
        f"{row['biased']:,} with the bias"
        for row in counts
    )


STUDY = Study(
    name="data",
    number=0,
    section="3",
    question="What do the models see, and what do their rows say about it?",
    scales={name: Scale(1) for name in ("smoke", "laptop", "smollm", "paper")},
    arms=arms,
    table=statistics_table,
    figures={"data_gallery": show_gallery, "data_statistics": show_statistics},
    findings={"data_gallery": tell_gallery, "data_statistics": tell_statistics},
)
