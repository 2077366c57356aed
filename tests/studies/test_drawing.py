"""What the figures of the studies draw, out of random numbers about some architectures."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from study_tables import (
    cosines,
    distorted,
    gradients,
    headed,
    mapped,
    mixed,
    opened,
    ordered,
    parted,
    pictured,
    probed,
    scaling,
    scores,
    sized,
    switched,
    transferred,
)

from uvlm_core.data.attributes import ATTRIBUTES, chances
from uvlm_core.models.language_models import SHIPPED_LM, parameters_of
from uvlm_core.runs.store import RunStore
from uvlm_core.studies import (
    attribute_transfer,
    embedding_probes,
    frozen_networks,
    generation_heads,
    style,
)
from uvlm_core.studies.affine_alignment import ONE, TWO
from uvlm_core.studies.attribute_transfer import ABSENT, FALSE
from uvlm_core.studies.base import (
    Arm,
    OpenedStudy,
    chance,
    difference_text,
    find_study,
    generation_metric,
)
from uvlm_core.studies.baselines import FIRST, GENERATION, MIXED, NO_TEXT, ONCE, REPEATED, TEXT
from uvlm_core.studies.inspection import Inspection
from uvlm_core.studies.language_model_scale import STARTS
from uvlm_core.studies.learning_curves import (
    along_training,
    draw_learning,
    draw_watches,
    headroom,
    while_learning,
)
from uvlm_core.studies.mutual_benefit import BASELINES
from uvlm_core.studies.statistics import MARGIN, mean_interval
from uvlm_core.studies.trained_parts import FROZEN, FULL, PARTS
from uvlm_core.studies.training_order import ARMS, SHUFFLED
from uvlm_core.studies.when_it_helps import FACTORS, cell_gains, effects, levels
from uvlm_core.training.profiles import profile
from uvlm_core.training.spec import ARCHITECTURES, REGIMES


def drawn(study, name, table, **changes):
    """A figure of a study upon a table."""
    return find_study(study).figures[name](opened(study, table, **changes))


TWO_PANELS = {"arms": {16: ARMS, 8: ARMS}}  # of training_order
DRAWN = {  # figure -> its picture out of random numbers about some architectures
    **{
        name: lambda names, name=name: drawn("mutual_benefit", name, mixed(names))
        for name in find_study("mutual_benefit").figures
    },
    **{
        name: lambda names, name=name: drawn("learning_curves", name, scores(names))
        for name in ("learning_curves", "learning_curves_generation")
    },
    "learning_curves_features": lambda names: drawn(
        "learning_curves", "learning_curves_features", cosines(names)
    ),
    **{
        name: lambda names, name=name: drawn("data_scaling", name, scaling(names))
        for name in ("data_scaling", "data_scaling_exchange")
    },
    "original_behaviour": lambda names: drawn(
        "original_behaviour", "original_behaviour", switched(names)
    ),
    **{
        name: lambda names, name=name: drawn("affine_alignment", name, distorted(names))
        for name in find_study("affine_alignment").figures
    },
    **{
        name: lambda names, name=name: drawn("attribute_transfer", name, transferred(names))
        for name in find_study("attribute_transfer").figures
    },
    "captioned_pictures": lambda names: drawn(
        "captioned_pictures", "captioned_pictures", pictured(names)
    ),
    **{
        name: lambda names, name=name: drawn("training_order", name, ordered(names), **TWO_PANELS)
        for name in find_study("training_order").figures
    },
    **{
        name: lambda names, name=name: drawn("when_it_helps", name, mapped(names))
        for name in find_study("when_it_helps").figures
    },
    **{
        name: lambda names, name=name: drawn("task_gradients", name, gradients(names))
        for name in find_study("task_gradients").figures
    },
    **{
        name: lambda names, name=name: drawn("trained_parts", name, parted(names))
        for name in find_study("trained_parts").figures
    },
    **{
        name: lambda names, name=name: drawn("generation_heads", name, headed(names))
        for name in ("generation_heads", "generation_heads_read_back")
    },
    **{
        name: lambda names, name=name: drawn("language_model_scale", name, sized(names))
        for name in find_study("language_model_scale").figures
    },
}
HEADED = ("VQ-VQ", "VQ-SigLIP", "VQ-Latent")  # architectures of generation_heads
NO_LINES = ("mutual_benefit_attributes",)  # heat maps


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("names", [("VQ-VQ",), ARCHITECTURES], ids=["one", "all"])
def test_nothing_leaves_the_figure_and_no_panel_touches_another(name, names):
    found = DRAWN[name](names)
    check_layout(found.figure)
    assert len(found.shown)


def check_layout(figure):
    """Nothing leaves the figure, and no panel, title or legend touches another."""
    with style.theme():
        style.stamp(figure, "laptop", 2, 8)
        figure.draw_without_rendering()
        panels = [
            axes.get_tightbbox() for axes in figure.findobj(match=Axes)
        ]  # titles and labels included
        others = [thing.get_window_extent() for thing in (*figure.legends, *figure.texts)]
    boxes = [box.padded(-1) for box in panels + others]
    assert all(figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max) for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("name", [name for name in DRAWN if name not in NO_LINES])
def test_an_architecture_has_one_colour_in_every_figure_and_no_other_architecture_has_it(name):
    def colours(architecture):
        lines = [line for axes in DRAWN[name]((architecture,)).figure.axes for line in axes.lines]
        return {to_hex(line.get_color()) for line in lines} & set(style.COLOURS.values())

    assert [colours(architecture) for architecture in style.COLOURS] == [
        {c} for c in style.COLOURS.values()
    ]


@pytest.mark.parametrize(
    ("study", "name"),
    [
        (study, name)
        for study in (
            "mutual_benefit",
            "learning_curves",
            "data_scaling",
            "original_behaviour",
            "affine_alignment",
            "attribute_transfer",
            "captioned_pictures",
            "when_it_helps",
            "task_gradients",
            "trained_parts",
            "generation_heads",
            "language_model_scale",
        )
        for name in find_study(study).figures
        if not name.endswith("_watches")
    ],
)
def test_a_table_without_a_column_that_is_drawn_is_refused_by_name(study, name):
    with pytest.raises(
        ValueError, match="^The table of figure '[a-z_]+' has no column '[a-z_]+'; it needs "
    ):
        drawn(
            study,
            name,
            pd.DataFrame(columns=["rare", "arm", "fraction", "regime", "architecture"]),
        )


def sentence(figure) -> str:
    """What a figure says above its panels."""
    return " ".join(figure.legends[0].get_title().get_text().split())


def curve(axes, arm: str):
    """The line of an arm."""
    return next(
        line
        for line in axes.lines
        if line.get_marker() == style.LINES[arm]["marker"] and len(line.get_xdata()) > 1
    )


def learning(names=("VQ-VQ",), task="understanding", table=None, **changes):
    """The figure of learning curves, and its axes by row."""
    table = scores(names, **changes) if table is None else table
    figure = draw_learning(opened("learning_curves", table), task).figure
    return figure, [figure.axes[: len(names)], figure.axes[len(names) :]]


def differences(table, task, metric="partial", name="VQ-VQ"):
    """Unified minus a task alone, by fraction and seed."""
    own = table[
        (table["architecture"] == name)
        & (table["metric"] == metric)
        & (table["attribute"] == "total")
    ]
    wide = own.pivot(index=["fraction", "seed"], columns="regime", values="value")
    return (wide["unified"] - wide[task]).unstack("seed")


def test_a_table_without_a_score_of_the_task_is_refused():
    with pytest.raises(ValueError, match="no total of generation to draw"):
        learning(task="generation", table=scores().assign(metric="partial", architecture="none"))


@pytest.mark.parametrize("task", ["understanding", "generation"])
def test_what_is_drawn_along_training_is_the_paired_difference_with_its_interval(task):
    table = scores(ARCHITECTURES)
    _, (above, _) = learning(ARCHITECTURES, task, table)
    for axes, name in zip(above, ARCHITECTURES, strict=True):
        metric = "partial" if task == "understanding" else generation_metric(name)
        wanted = differences(table, task, metric, name)
        assert curve(axes, "unified").get_ydata() == pytest.approx(wanted.mean(axis=1).tolist())
        bars = [
            sorted(line.get_ydata())
            for line in axes.lines
            if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
        ]
        assert bars == [pytest.approx(mean_interval(row)[1:]) for _, row in wanted.iterrows()]


def test_the_number_above_a_panel_is_the_mean_over_the_shaded_fractions():
    table = scores()
    _, (above, _) = learning(table=table)
    (row,) = while_learning(table, "understanding").to_dict("records")
    assert above[0].get_title() == f"VQ-VQ\n{difference_text(row)}"
    shown = along_training(table, "understanding")
    counted = shown.loc[shown["counted"], "fraction"]
    edges = above[0].patches[0].get_extents().transformed(above[0].transData.inverted())
    inside = (shown["fraction"] > edges.x0) & (shown["fraction"] < edges.x1)
    assert (
        set(shown.loc[inside, "fraction"])
        == set(counted)
        == set(headroom(table, "understanding", "partial", "total"))
    )


@pytest.mark.parametrize(
    ("gain", "words"), [(0.2, "faster"), (-0.2, "more slowly"), (0.0, "faster or more slowly")]
)
def test_the_sentence_says_nothing_stronger_than_the_intervals(gain, words):
    table = scores()
    alone = (table["regime"] == "understanding") & (table["metric"] == "partial")
    same = table[alone].assign(regime="unified")
    same["value"] += gain + 0.01 * (-1.0) ** same["seed"]  # an interval around the gain
    rest = table[(table["regime"] != "unified") | (table["metric"] != "partial")]
    said = sentence(learning(table=pd.concat([rest, same]))[0])
    assert words in said and ("not shown" in said) == (gain == 0)
    assert ("in 1 of 1 architectures" in said) == (gain != 0)
    one = pd.concat([rest, same]).query("seed == 0")  # has no interval
    assert "not shown" in sentence(learning(table=one)[0])


def test_scores_below_are_means_over_seeds_and_the_control_is_drawn_with_generation():
    table = scores()
    for task, metric, arms in (
        ("understanding", "partial", {"understanding", "unified"}),
        ("generation", "read_back", {"generation", "unified", "shuffled"}),
    ):
        _, (_, (below,)) = learning(task=task, table=table)
        markers = {line.get_marker() for line in below.lines if len(line.get_xdata()) > 2}
        assert markers == {style.LINES[arm]["marker"] for arm in arms}
        for arm in arms:
            own = table[
                (table["regime"] == arm)
                & (table["metric"] == metric)
                & (table["attribute"] == "total")
            ]
            assert curve(below, arm).get_ydata() == pytest.approx(
                own.groupby("fraction")["value"].mean().tolist()
            )


def test_attributes_are_bold_where_the_verdict_is_decided():
    found = drawn("mutual_benefit", "mutual_benefit_attributes", mixed(ARCHITECTURES, seeds=8))
    shown = found.shown.set_index(["baseline", "attribute", "architecture"])
    for axes, baseline in zip(found.figure.axes, BASELINES, strict=True):
        assert len(axes.texts) == len(ATTRIBUTES) * len(ARCHITECTURES)
        for text in axes.texts:
            column, row = map(round, text.get_position())
            cell = shown.loc[baseline, list(ATTRIBUTES)[row], list(style.COLOURS)[column]]
            assert text.get_text().replace(style.MINUS, "-") == f"{cell['difference']:+.2f}"
            outside = cell["low"] > 0 or cell["high"] < 0
            assert (text.get_weight() == "bold") == outside
    rows = found.shown
    for baseline, word in ((ONCE, "replicates"), (REPEATED, "contradicts")):
        own = rows[(rows["baseline"] == baseline) & (rows["verdict"] == word)]
        assert f"in {len(own)} of 20 cells" in sentence(found.figure)


def test_mixed_training_is_drawn_as_the_paired_difference_from_each_baseline():
    table = mixed()
    found = drawn("mutual_benefit", "mutual_benefit", table)
    above = found.figure.axes[0]
    own = table[(table["metric"] == "partial") & (table["attribute"] == "total")]
    wide = own.pivot(index="seed", columns="arm", values="value")
    means = [line for line in above.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in means] == pytest.approx([0, 1, 2, 3])
    pairs = ((NO_TEXT, ONCE), (MIXED, ONCE), (MIXED, REPEATED), (MIXED, TEXT))
    for mean, (arm, baseline) in zip(means, pairs, strict=True):
        assert mean.get_ydata() == pytest.approx([(wide[arm] - wide[baseline]).mean()])


@pytest.mark.parametrize(
    ("gain", "words"), [(0.2, "understands better than"), (0.0, "not shown to understand")]
)
def test_the_benefit_is_said_as_it_is_judged(gain, words):
    table = mixed(seeds=8).query("arm != @MIXED or metric != 'partial'")
    same = table[table["arm"] == ONCE].assign(arm=MIXED)
    same["value"] += gain + 0.1 * (-1.0) ** same["seed"]
    figure = drawn("mutual_benefit", "mutual_benefit", pd.concat([table, same])).figure
    assert words in sentence(figure)


def test_the_map_sorts_cells_by_their_gain_and_marks_their_levels_beside_it():
    table = mapped()
    found = drawn("when_it_helps", "when_it_helps", table)
    left, right = found.figure.axes
    means = cell_gains(table).groupby(list(FACTORS))["difference"].mean()
    points = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    assert points == pytest.approx(sorted(means, reverse=True)) and len(points) == 16
    highs = [high for _, high in levels(find_study("when_it_helps").scale("smoke")).values()]
    for line in right.lines:
        column, place = line.get_xdata()[0], line.get_ydata()[0]
        cell = means.index[(means - points[place]).abs().argmin()]
        filled = to_hex(line.get_markerfacecolor()) == "#000000"
        assert filled == (cell[column] == highs[column])
    assert len(right.lines) == 16 * len(FACTORS)
    assert found.shown["difference"].iloc[:3].mean() == pytest.approx(points[0])


def test_main_effects_are_drawn_with_their_intervals_upon_the_margin():
    table = mapped()
    found = drawn("when_it_helps", "when_it_helps_effects", table)
    (axes,) = found.figure.axes
    wanted = effects(table, find_study("when_it_helps").scale("smoke"))
    for line, factor in enumerate(FACTORS):
        own = wanted.loc[wanted["effect"] == factor, "difference"]
        mean, low, high = mean_interval(own)
        assert drawn_at(axes, line) == [
            [pytest.approx(low), pytest.approx(high)],
            [pytest.approx(mean)],
        ]
    (margin,) = axes.patches
    assert (margin.get_x(), margin.get_width()) == pytest.approx((-MARGIN, 2 * MARGIN))


@pytest.mark.parametrize(
    ("gain", "words"), [(0.2, "helps"), (-0.2, "hurts"), (0.0, "is not shown to help or hurt")]
)
def test_the_map_and_the_effects_say_what_is_judged(gain, words):
    table = mapped(seeds=8)
    table["value"] = 0.5 + 0.01 * (-1.0) ** table["seed"] * (table["arm"] == MIXED)
    table.loc[table["arm"] == MIXED, "value"] += gain
    table.loc[(table["arm"] == MIXED) & (table["optimizer"] == "Muon"), "value"] += gain
    assert sentence(drawn("when_it_helps", "when_it_helps", table).figure) == (
        f"Averaged over 16 combinations of seven conditions, generation {words}"
    )
    said = sentence(drawn("when_it_helps", "when_it_helps_effects", table).figure)
    larger = {0.2: "Muon", -0.2: "AdamW"}.get(gain)
    assert said == (
        f"What generation adds to understanding is larger with {larger}"
        if larger
        else "What generation adds to understanding is not shown to depend on any condition"
    )


def test_gradients_are_drawn_by_part_as_means_over_the_training_and_in_all_over_time():
    own = gradients()
    cosines, ratios, over_time = drawn("task_gradients", "task_gradients", own).figure.axes
    assert [label.get_text() for label in cosines.get_yticklabels()] == [
        label.replace("all", "all shared parameters") for label in own["attribute"].unique()[:10]
    ]
    for look, arm in (("unified", MIXED), ("shuffled", SHUFFLED)):
        some = own[own["arm"] == arm]
        for axes, metric in ((cosines, "gradient_cosine"), (ratios, "gradient_ratio")):
            values = some[some["metric"] == metric].groupby("attribute", sort=False)["value"]
            means = (
                values.mean() if axes is cosines else values.agg(lambda own: np.log2(own).mean())
            )
            marks = [
                line.get_xdata()[0]
                for line in axes.lines
                if line.get_marker() == style.LINES[look]["marker"]
                and line.get_color() == style.COLOURS["VQ-VQ"]
            ]
            assert marks == pytest.approx(means.tolist())
        total = some[(some["metric"] == "gradient_cosine") & (some["attribute"] == "all")]
        assert curve(over_time, look).get_ydata() == pytest.approx(
            total.groupby("fraction")["value"].mean().tolist()
        )


def test_both_sides_are_drawn_over_time_at_each_place():
    table = gradients()
    panels = drawn("task_gradients", "task_gradients_sides", table).figure.axes
    places = ["adapter", *(f"layer {layer}" for layer in (1, 2, 3, 4))]
    assert [axes.get_title() for axes in panels] == ["adapter's output", *places[1:], *[""] * 5]
    wanted = itertools.product(("alignment_cka", "alignment_neighbours"), places)
    for axes, (metric, place) in zip(panels, wanted, strict=True):
        own = table[(table["metric"] == metric) & (table["attribute"] == place)]
        for look, arm in (("unified", MIXED), ("shuffled", SHUFFLED)):
            means = own[own["arm"] == arm].groupby("fraction")["value"].mean()
            assert curve(axes, look).get_ydata() == pytest.approx(means.tolist())


def test_what_rows_do_is_drawn_beyond_an_empty_step():
    table = gradients()
    axes, near = drawn("task_gradients", "task_gradients_steps", table).figure.axes
    own = table[table["metric"] == "loss_change"]
    wide = own.pivot(index=["arm", "fraction", "seed"], columns="attribute", values="value")
    change = 1000 * wide.sub(wide["one empty step"], axis=0).groupby(["arm", "fraction"]).mean()
    for look, column, arm in (
        ("understanding", "one understanding step", MIXED),
        ("generation", "one generation step", MIXED),
        ("shuffled", "one generation step", SHUFFLED),
    ):
        line = curve(axes, look)
        assert line.get_ydata() == pytest.approx(change.loc[arm, column].tolist())
        assert line.get_xdata() == pytest.approx([0.25, 0.5], abs=0.02)
        again = [each for each in near.lines if each.get_marker() == line.get_marker()]
        assert bool(again) == (look != "understanding")


@pytest.mark.parametrize("less", [0.1, 0.0])
def test_features_are_called_less_exact_only_if_every_interval_says_so(less):
    table = cosines(("VQ-SigLIP", "SigLIP-SigLIP"))
    alone = table[(table["regime"] == "generation")].assign(regime="unified")
    alone["value"] -= less + 0.01 * (-1.0) ** alone["seed"]
    found = drawn(
        "learning_curves",
        "learning_curves_features",
        pd.concat([table[table["regime"] != "unified"], alone]),
    )
    assert sentence(found.figure).startswith("Unified models draw less exact") == bool(less)
    assert set(found.shown["attribute"]) == {"all"}


def test_a_mean_of_two_seeds_is_drawn_with_both_and_one_of_three_with_its_interval():
    with style.theme():
        figure = style.new_figure(style.COLUMN, 2.4)
        axes = figure.subplots()
        style.draw_mean(axes, 1.0, [0.2, 0.4], {"color": "black", "marker": "o"})
        assert [line.get_ydata().tolist() for line in axes.lines] == [
            [0.2, 0.4],
            [pytest.approx(0.3)],
        ]
        axes.clear()
        style.draw_mean(
            axes, 1.0, [0.2, 0.3, 0.4], {"color": "black", "marker": "o"}, upright=False
        )
        low, high = mean_interval([0.2, 0.3, 0.4])[1:]
        assert axes.lines[0].get_xdata().tolist() == pytest.approx([low, high])


def test_the_axis_starts_at_the_first_score_and_not_where_alignment_is_measured_before_training():
    table = scores()
    _, (_, (axes,)) = learning(table=table[table["fraction"] != 0.05])
    assert axes.get_xlim()[0] == pytest.approx(0.8 * 0.5) and list(axes.get_xticks()) == [0.5, 1]


@pytest.mark.parametrize(
    ("task", "chance"),
    [
        ("understanding", sum(chances()[name] for name in ATTRIBUTES) / 5),
        ("generation", sum(chances(read_back=True)[name] for name in ATTRIBUTES) / 5),
    ],
)
def test_chance_is_drawn_where_guessing_ends_up(task, chance):
    _, (_, (axes,)) = learning(task=task)
    assert any(
        line.get_ydata() == pytest.approx([chance, chance])
        and to_hex(line.get_color()) == "#767676"
        for line in axes.lines
        if len(line.get_ydata()) == 2
    )


def test_what_the_authors_report_is_grey_and_only_where_it_compares():
    names = ("VQ-VQ", "SigLIP-SigLIP")

    def marks(task):
        _, rows = learning(names, task)
        return {
            (row, column): line
            for row, line_of_axes in enumerate(rows)
            for column, axes in enumerate(line_of_axes)
            for line in axes.lines
            if line.get_marker() == "D" and len(line.get_xdata())
        }

    found = marks("understanding")
    assert set(found) == {(1, 0), (1, 1)} and marks("generation") == {}
    assert found[1, 0].get_ydata() == pytest.approx([0.891, 0.940])
    assert {to_hex(line.get_color()) for line in found.values()} == {"#767676"}


def test_the_scaling_figure_shows_what_a_seed_gains_by_the_other_tasks_rows():
    table = scaling()
    total = table[table["attribute"] == "total"].set_index("seed")

    def mean(metric, arm, understood, requests):
        return total[
            (total["metric"] == metric)
            & (total["arm"] == arm)
            & (total["understanding_rows"] == understood)
            & (total["generation_rows"] == requests)
        ]["value"]

    found = drawn("data_scaling", "data_scaling", table)
    left, right = found.figure.axes
    once = mean("partial", ONCE, 16, 0)
    for arm, marker in ((MIXED, "o"), (TEXT, "v"), (REPEATED, "D")):
        (line,) = [x for x in left.lines if x.get_marker() == marker and len(x.get_xdata()) == 3]
        wanted = [(mean("partial", arm, 16, count) - once).mean() for count in (8, 16)]
        assert line.get_ydata() == pytest.approx([0, *wanted])
        assert line.get_xdata() == pytest.approx([0, 8, 16], abs=0.7)  # side by side
    (line,) = [x for x in right.lines if x.get_marker() == "o" and len(x.get_xdata()) == 3]
    alone = mean("read_back", GENERATION, 0, 16)
    wanted = [(mean("read_back", MIXED, count, 16) - alone).mean() for count in (8, 16)]
    assert line.get_ydata() == pytest.approx([0, *wanted])


@pytest.mark.parametrize("name", ["data_scaling", "data_scaling_exchange"])
def test_two_seeds_are_two_dots_and_nothing_is_drawn_beyond_the_axis(name):
    found = drawn("data_scaling", name, scaling(seeds=2))
    for axes in found.figure.axes:
        dots = [line for line in axes.lines if line.get_markersize() == style.SEED_SIZE]
        assert dots and all(len(line.get_ydata()) == 2 for line in dots)
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in axes.lines for y in line.get_ydata())
    assert "is not shown" in sentence(found.figure)


def test_a_request_is_called_worth_less_only_if_the_interval_says_so():
    table = scaling(seeds=8)
    mixed_runs = table["arm"] == MIXED
    table.loc[mixed_runs, "value"] = 0.516 + 0.001 * table["seed"]
    alone = table["arm"] == ONCE
    table.loc[alone, "value"] = 0.5 + table["understanding_rows"] / 1000
    found = drawn("data_scaling", "data_scaling_exchange", table)
    assert "worth less than an understanding row" in sentence(found.figure)


def test_every_trained_part_shows_its_totals_with_chance_and_its_paired_gains():
    table = parted()
    own = table[table["attribute"] == "total"]
    wide = own.pivot(index=["trained", "seed"], columns="arm", values="value")
    above = drawn("trained_parts", "trained_parts", table).figure.axes[0]
    gained = drawn("trained_parts", "trained_parts_gains", table).figure.axes[0]
    chance = sum(chances()[name] for name in ATTRIBUTES) / 5
    assert any(list(line.get_ydata()) == pytest.approx([chance] * 2) for line in above.lines)
    for arm, marker in ((ONCE, "s"), (TEXT, "v"), (REPEATED, "D"), (MIXED, "o")):
        for axes, values in ((above, wide[arm]), (gained, wide[MIXED] - wide[arm])):
            means = [line for line in axes.lines if line.get_marker() == marker]
            if axes is gained and arm == MIXED:
                assert not means
                continue
            assert [round(line.get_xdata()[0]) for line in means] == list(range(len(PARTS)))
            wanted = values.groupby("trained").mean()[list(PARTS)]
            assert [line.get_ydata()[0] for line in means] == pytest.approx(wanted.tolist())


@pytest.mark.parametrize(
    ("more", "words"), [(0.3, "is larger"), (-0.3, "is smaller"), (0.0, "is not shown to be")]
)
def test_learning_is_said_to_matter_only_as_it_is_judged(more, words):
    table = parted(seeds=8)
    table["value"] = 0.5 + 0.01 * (-1.0) ** table["seed"] * (table["trained"] == FROZEN)
    table.loc[(table["trained"] == FULL) & (table["arm"] == MIXED), "value"] += more
    assert words in sentence(drawn("trained_parts", "trained_parts", table).figure)


def test_every_head_has_a_row_of_its_gains_and_is_filled_if_it_samples():
    table = headed(HEADED)
    figure = drawn("generation_heads", "generation_heads", table).figure
    left, right = figure.axes
    rows = [text.get_text() for text in left.get_yticklabels()]
    assert rows == [
        "VQ-VQ, codes",
        *(f"{name}, {head}" for name in HEADED[1:] for head in ("regression", "flow")),
        f"{HEADED[-1]}, image flow",
    ]
    total = table[table["attribute"] == "total"]
    for axes, baseline, marker in (
        (left, ONCE, "s"),
        (left, REPEATED, "D"),
        (left, TEXT, "v"),
        (right, GENERATION, "^"),
    ):
        means = [line for line in axes.lines if line.get_marker() == marker]
        assert [round(line.get_ydata()[0]) for line in means] == list(range(len(rows)))
        for line, row in zip(means, rows, strict=True):
            name, head = row.split(", ")
            metric = "partial" if baseline != GENERATION else generation_metric(name)
            own = total[
                (total["architecture"] == name)
                & (total["head"] == head)
                & (total["metric"] == metric)
            ]
            wide = own.pivot(index="seed", columns="arm", values="value")
            assert line.get_xdata() == pytest.approx([(wide[MIXED] - wide[baseline]).mean()])
            filled = line.get_markerfacecolor() != "white"
            assert filled == ("flow" in head) and line.get_color() == style.COLOURS[name]


def test_read_back_is_drawn_by_attribute_and_head_with_its_chance():
    table = headed(HEADED)
    found = drawn("generation_heads", "generation_heads_read_back", table)
    for axes, attribute in zip(found.figure.axes, ("total", *ATTRIBUTES), strict=True):
        guess = chance("read_back", attribute)
        assert any(list(line.get_xdata()) == [guess, guess] for line in axes.lines)
        for arm, marker in ((GENERATION, "^"), (MIXED, "o")):
            means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == marker]
            own = table[(table["arm"] == arm) & (table["attribute"] == attribute)]
            own = own[own["metric"].str.endswith("read_back")]
            wanted = own.groupby(["architecture", "head"], sort=False)["value"].mean()
            assert means == pytest.approx(wanted.tolist())


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.3, "understands better in 2 of 2 architectures than from its rows alone, and draws be"),
        (-0.3, "understands worse in 2 of 2 architectures than from its rows alone, and draws wo"),
        (0.0, "is not shown to understand better or worse than from its rows alone, and is not sh"),
    ],
)
def test_a_head_that_samples_is_said_to_gain_only_as_it_is_judged(gain, words):
    table = headed(HEADED, seeds=8)
    table["value"] = 0.5 + 0.01 * (-1.0) ** table["seed"] * (table["arm"] == MIXED)
    table.loc[(table["arm"] == MIXED) & table["head"].str.contains("flow"), "value"] += gain
    assert words in sentence(drawn("generation_heads", "generation_heads", table).figure)
    said = sentence(drawn("generation_heads", "generation_heads_read_back", table).figure)
    assert "a head that samples is not shown to draw better or worse" in said  # mixed, not alone


@pytest.mark.parametrize("profile_name", ["smoke", "laptop"])
def test_pictures_of_every_head_are_shown_at_the_same_requests(profile_name, tmp_path):
    study, base = find_study("generation_heads"), profile(profile_name)
    scale = replace(study.scale(profile_name), seeds=2)
    arms, store = study.arms(base, scale), RunStore(tmp_path)
    requests = [f"{LONG} {number}" for number in range(generation_heads.KEPT_PICTURES)]
    told = {}
    for number, arm in enumerate(arms):
        spec, kept = arm.spec.canonical(), arm.spec.scoring.shown_watches
        if arm.labels["arm"] not in (MIXED, generation_heads.PICTURED):
            continue
        pictures = np.full((kept, 8, 8, 3), number, np.uint8) if kept else None
        samples = {"requests": requests} if kept else {}
        store.save(spec, {"scores": [], "samples": samples}, pictures)
        if kept and arm.labels["seed"] == 0:
            told[f"{arm.labels['architecture']}\n{arm.labels['head']}"] = number
    found = study.figures["generation_heads_watches"](
        OpenedStudy(study, base, scale, arms, store, tmp_path)
    )
    check_layout(found.figure)
    count = len(requests)
    rows = [found.figure.axes[at : at + count] for at in range(0, len(found.figure.axes), count)]
    assert [row[0].get_ylabel() for row in rows] == ["target\nwatch", *told]
    assert len(told) == 6 and next(iter(told)) == "VQ-VQ\ncodes"
    for row, number in zip(rows[1:], told.values(), strict=True):
        assert {int(axes.images[0].get_array().max()) for axes in row} == {number}
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in rows[0]] == requests
    assert len(found.shown) == 6 * count and set(found.shown["seed"]) == {0}
    with pytest.raises(ValueError, match="'generation_heads_watches' is empty"):
        study.figures["generation_heads_watches"](
            OpenedStudy(study, base, scale, [], store, tmp_path)
        )


def test_totals_and_gains_are_drawn_by_size_with_chance_and_for_each_start():
    table = sized()
    wide = table.pivot(
        index=["language_model", "parameters", "seed"], columns="arm", values="value"
    )
    counts = sorted(set(table["parameters"]))
    panels = drawn("language_model_scale", "language_model_scale", table).figure.axes
    chance = sum(chances()[name] for name in ATTRIBUTES) / 5
    for axes, (start, arms) in zip(panels, STARTS.items(), strict=True):
        assert axes.get_title() == f"{start} language model" and axes.get_xscale() == "log"
        assert list(axes.get_xticks()) == counts
        assert any(list(line.get_ydata()) == pytest.approx([chance] * 2) for line in axes.lines)
        curves = [line for line in axes.lines if len(line.get_xdata()) == len(counts)]
        for line, arm in zip(curves, arms, strict=True):
            assert line.get_xdata() == pytest.approx(counts, rel=0.1)
            wanted = wide.loc[start, arm].groupby("parameters").mean()
            assert line.get_ydata() == pytest.approx(wanted.tolist())
    panels = drawn("language_model_scale", "language_model_scale_gains", table).figure.axes
    for axes, (start, arms) in zip(panels, STARTS.items(), strict=True):
        curves = [line for line in axes.lines if len(line.get_xdata()) == len(counts)]
        for line, baseline in zip(curves, arms[:-1], strict=True):
            own = (wide[MIXED] - wide[baseline]).loc[start].groupby("parameters").mean()
            assert line.get_ydata() == pytest.approx(own.tolist())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (0.1, "grows with the size of the language model, and is larger with"),
        (-0.1, "falls with the size of the language model, and is smaller with"),
        (0.0, "is not shown to grow or fall with the size of the language model, and is not shown"),
    ],
)
def test_size_and_pre_training_are_said_to_matter_only_as_they_are_judged(more, words):
    table = sized(seeds=8)
    table["value"] = 0.5 + 0.01 * (-1.0) ** table["seed"] * (table["arm"] == MIXED)
    taught = (table["language_model"] == "pre-trained") & (table["arm"] == MIXED)
    table.loc[taught, "value"] += more * np.log10(table["parameters"] / 1e4)
    assert words in sentence(drawn("language_model_scale", "language_model_scale", table).figure)


def test_one_size_is_drawn_and_told_as_not_judged():
    table = sized(seeds=1)
    found = opened("language_model_scale", table[table["parameters"] == parameters_of(SHIPPED_LM)])
    told = ("not judged at this scale", "0.93 M parameters, pre-trained, mutual benefit judges it")
    for (name, draw), words in zip(found.study.figures.items(), told, strict=True):
        check_layout(draw(found).figure)
        assert words in found.study.findings[name](found)


def test_a_restored_setting_is_drawn_as_a_change_of_its_seed():
    table = switched()
    switch = table["switch"].iloc[-1]
    moved = (table["switch"] == switch) & (table["regime"] == "unified")
    table.loc[moved, "value"] += 0.25
    found = drawn("original_behaviour", "original_behaviour", table)
    own = found.shown[(found.shown["switch"] == switch) & (found.shown["regime"] == "unified")]
    assert own["difference"].to_numpy() == pytest.approx(0.25)
    means = [line for line in found.figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in means] == [[pytest.approx(0.25)]]


LONG = (
    "please draw a watch where the battery is in the bottom right corner, "
    "the time is 01:02:03, it is raining."
)


def test_watches_fit_below_long_requests_and_missing_ones_are_refused():
    blank = np.zeros((7, 64, 64, 3), np.uint8)
    check_layout(
        draw_watches(
            pd.DataFrame({"request": [LONG] * 7}),
            {"watch": blank, **{f"SigLIP-SigLIP {regime}": blank for regime in REGIMES}},
        )
    )
    with pytest.raises(ValueError, match="needs 2 images for each"):
        draw_watches(pd.DataFrame({"request": ["a", "b"]}), {"unified": blank[:1]})


def costs_of(arm: str, adapters: str, family: str = "affine"):
    """What a distortion costs, by seed."""
    table = distorted()
    total = table[
        (table["metric"] == "partial")
        & (table["attribute"] == "total")
        & (table["arm"] == arm)
        & (table["adapters"] == adapters)
    ]
    wide = total.pivot(index="seed", columns="family", values="value")
    return wide["none"] - wide[family]


def bars_of(axes) -> list[list[float]]:
    """The intervals that are drawn upright."""
    return [sorted(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 2]


def test_a_distortion_is_drawn_where_arms_end_and_in_what_they_lose():
    found = drawn("affine_alignment", "affine_alignment", distorted())
    left, right = found.figure.axes
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in dots] == 6 * [False] + 6 * [True]
    assert set(found.shown["family"]) == {"none", "affine"}
    arms = [(arm, ONE) for arm in (ONCE, TEXT, REPEATED, MIXED)] + [(MIXED, TWO), (FIRST, ONE)]
    lost = [line.get_ydata()[0] for line in right.lines if line.get_marker() == "o"]
    assert lost == pytest.approx([costs_of(*arm).mean() for arm in arms])
    for arm in arms:
        assert any(
            bar == pytest.approx(mean_interval(costs_of(*arm))[1:]) for bar in bars_of(right)
        )


def test_each_distortion_is_drawn_with_its_intervals_and_the_plain_runs_behind_it():
    found = opened("affine_alignment", distorted())
    one = found.table["adapters"] == ONE
    for name, rows in {
        "plain": one & (found.table["family"] == "none"),
        "longer": found.table["arm"] == REPEATED,
        "apart": ~one,
    }.items():
        found.table.loc[rows, "record"] = name
    made = found.study.figures["affine_alignment_families"](found)
    (axes,) = made.figure.axes
    bars = [sorted(line.get_xdata()) for line in axes.lines if len(line.get_ydata()) == 2]
    for arm, marker in ((ONCE, "s"), (MIXED, "o")):
        wanted = [costs_of(arm, ONE, family) for family in ("affine", "authors")]
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == marker]
        assert dots == pytest.approx([each.mean() for each in wanted])
        for each in wanted:
            assert any(bar == pytest.approx(mean_interval(each)[1:]) for bar in bars)
    assert set(made.records) == {"plain", "0"} and made.seeds == 3


@pytest.mark.parametrize("name", ["affine_alignment", "affine_alignment_layers"])
def test_another_dose_of_the_judged_family_changes_no_finding(name):
    table = distorted()
    weaker = table[table["family"] == "affine"].assign(dose=0.5, value=0.0)
    found, more = (opened("affine_alignment", rows) for rows in (table, pd.concat([table, weaker])))
    tell, draw = (each[name] for each in (found.study.findings, found.study.figures))
    assert tell(found) == tell(more)
    assert 0.5 not in set(draw(more).shown["dose"])


def test_distortions_in_fewer_seeds_are_said_to_have_fewer():
    table = distorted()
    fewer = table[(table["family"] != "authors") | (table["seed"] > 0)]
    assert drawn("affine_alignment", "affine_alignment_families", fewer).seeds == "2 to 3"


@pytest.mark.parametrize(
    ("spared", "alone", "said"),
    [
        (0.0, 0.0, "is not shown to cost mixed training"),
        (1.0, 0.0, "costs mixed training"),
        (0.0, -1.0, "distorted, it beats its understanding rows alone, and"),
        (0.0, 1.0, "distorted, it is beaten by its understanding rows alone, and"),
    ],
)
def test_a_distortion_is_said_to_cost_only_what_the_verdicts_say(spared, alone, said):
    table = distorted(seeds=8)
    scores = table["metric"] == "partial"
    table.loc[scores & (table["family"] == "none"), "value"] += spared
    table.loc[scores & (table["arm"] == ONCE), "value"] += alone
    found = drawn("affine_alignment", "affine_alignment", table)
    assert said in sentence(found.figure)


def drawn_at(axes, line: float) -> list[list[float]]:
    """What is drawn along x on a line of a figure of attribute_transfer."""
    return [
        list(each.get_xdata())
        for each in axes.lines
        if set(np.round(each.get_ydata(), 9)) == {float(line)}
    ]


def test_transfer_draws_paired_differences_from_every_baseline_and_control():
    table = transferred()
    found = drawn("attribute_transfer", "attribute_transfer", table)
    names = [text.get_text() for text in found.figure.axes[0].get_yticklabels()]
    assert names == ["weather", "weather corner"]
    partial = table[table["metric"] == "partial"]
    orders = (
        {MIXED: ONCE, FIRST: ONCE},
        {MIXED: REPEATED, FIRST: REPEATED},
        {MIXED: TEXT},
        {MIXED: ABSENT},
        {MIXED: FALSE},
    )
    for line, attribute in enumerate(("weather", "weather_corner")):
        own = partial[partial["attribute"] == attribute]
        wide = own.pivot_table(index="seed", columns="arm", values="value")
        for axes, compared in zip(found.figure.axes, orders, strict=True):
            for arm, at in ((MIXED, line - 0.15), (FIRST, line + 0.15)):
                wanted = []
                if arm in compared:
                    mean, low, high = mean_interval(wide[arm] - wide[compared[arm]])
                    wanted = [[pytest.approx(low), pytest.approx(high)], [pytest.approx(mean)]]
                assert drawn_at(axes, at) == wanted
            assert [0, 0] in [list(each.get_xdata()) for each in axes.lines]


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        (
            {ONCE: 0.3, ABSENT: 0.2},
            "more of the rare weather than its rows alone, and of the weather by its req",
        ),
        (
            {ONCE: 0.3, ABSENT: 0.0},
            "more of the rare weather than its rows alone, which is not shown to come fr",
        ),
        ({ONCE: 0.0, ABSENT: 0.3}, "Mixed training is not shown to know more of a rare attribute"),
        ({ONCE: -0.3, ABSENT: 0.3}, "Mixed training is not shown to know more of a rare attribute"),
    ],
)
def test_the_title_of_transfer_says_no_more_than_the_verdicts(gains, words):
    table = transferred(seeds=8)
    for baseline, gain in gains.items():
        place = (table["metric"] == "partial") & (table["arm"] == baseline)
        own = table[(table["metric"] == "partial") & (table["arm"] == MIXED)]
        table.loc[place, "value"] = own["value"].to_numpy() - gain + 0.001 * own["seed"].to_numpy()
    found = opened("attribute_transfer", table, rare=("weather",))
    assert words in attribute_transfer.headline_of_transfer(found)


def test_what_arms_know_is_drawn_with_chance_and_only_where_it_was_scored():
    found = drawn("attribute_transfer", "attribute_transfer_known", table := transferred())
    grid = np.reshape(found.figure.axes, (2, 3))
    for line, attribute in zip(grid, ("weather", "weather_corner"), strict=True):
        level = chance("partial", attribute)
        for axes in line:
            assert [level] * 2 in [list(each.get_xdata()) for each in axes.lines]
        for place, arm in enumerate(attribute_transfer.TRANSFER_ARMS):
            silent = arm in (ONCE, REPEATED, TEXT)  # they draw nothing
            assert (drawn_at(line[2], place) == []) == silent
        own = table[(table["arm"] == MIXED) & (table["attribute"] == attribute)]
        for axes, metric in zip(line, ("partial", "constrained", "read_back"), strict=True):
            mean = own.loc[own["metric"] == metric, "value"].mean()
            place = attribute_transfer.TRANSFER_ARMS.index(MIXED)
            assert drawn_at(axes, place)[-1] == [pytest.approx(mean)]


def test_scores_on_pictures_are_drawn_by_arm_with_their_references():
    table = pictured()
    found = drawn("captioned_pictures", "captioned_pictures", table)
    panels = found.figure.axes
    order = (ONCE, REPEATED, GENERATION, MIXED, SHUFFLED)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(order)
    metrics = ("token_accuracy", "caption_retrieval", "drawn_retrieval", "efficientnet_kernel")
    for axes, metric in zip(panels, metrics, strict=True):
        own = table[table["metric"] == metric]
        for line, arm in enumerate(order):
            values = own.loc[own["arm"] == arm, "value"]
            mean, low, high = mean_interval(values) if len(values) else (None,) * 3
            assert drawn_at(axes, line) == (
                [[pytest.approx(low), pytest.approx(high)], [pytest.approx(mean)]]
                if len(values)
                else []  # it has not learned this task
            )
    grey = [
        [line.get_xdata()[0] for line in axes.lines if to_hex(line.get_color()) == "#767676"]
        for axes in panels
    ]
    means = table.groupby("metric")["value"].mean()
    assert grey == [
        [],
        [5 / 51],
        pytest.approx([5 / 50, means["drawn_retrieval_tokenizer"]]),
        pytest.approx([means[f"efficientnet_kernel{end}"] for end in ("_floor", "_tokenizer")]),
    ]


@pytest.mark.parametrize(
    ("gains", "level", "words"),
    [
        (
            (0.2, -0.2, 0.0),
            0.5,
            "understands pictures better than from its captions alone, and worse than from "
            "repeating them; it is not shown to draw better or worse than generation alone",
        ),
        (
            (0.0, 0.2, -0.2),
            0.5,
            "understands pictures no better and no worse than from its captions alone, and better "
            "than from repeating them; it draws worse than generation alone",
        ),
        (
            (0.2, 0.0, 0.0),
            0.1,  # chance is 5 of 50
            "understands pictures better than from its captions alone; what it draws is not shown "
            "to be above chance",
        ),
    ],
)
def test_pictures_are_said_to_be_understood_and_drawn_only_as_it_is_judged(gains, level, words):
    table = pictured(seeds=8)
    pairs = {"token_accuracy": (ONCE, REPEATED), "drawn_retrieval": (GENERATION,)}
    left = list(gains)
    for metric, baselines in pairs.items():
        own = table["metric"] == metric
        table.loc[own, "value"] = level + 0.001 * (-1.0) ** table["seed"] * (table["arm"] == MIXED)
        for baseline in baselines:
            table.loc[own & (table["arm"] == baseline), "value"] -= left.pop(0)
    found = opened("captioned_pictures", table)
    figure = found.study.figures["captioned_pictures"](found).figure
    assert sentence(figure) == f"Mixed training {words}"
    told = found.study.findings["captioned_pictures"](found)
    assert ("drawing is not judged" in told) == ("not shown to be above chance" in words)
    assert "tokens of 51 test captions" in told and "by chance 10.0%" in told
    several = opened("captioned_pictures", pictured(ARCHITECTURES, seeds=8))
    told = several.study.findings["captioned_pictures"](several)
    assert f"SigLIP-SigLIP: {GENERATION} " in told and "Mixed training, drawing: " in told


@pytest.mark.parametrize("names", [("VQ-VQ",), ARCHITECTURES], ids=["one", "all"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_probes_are_drawn_as_means_by_place_with_chance_and_the_pixels(names, seeds):
    found = opened("embedding_probes", table := probed(names, seeds=seeds))
    drawn = embedding_probes.draw_probes(found)
    assert set(drawn.shown["attribute"]) == {"weather"}
    assert embedding_probes.ENCODER not in set(drawn.shown["arm"])
    check_layout(drawn.figure)
    assert [axes.get_title() for axes in drawn.figure.axes] == [
        name for name in style.COLOURS if name in names
    ]
    own = table[
        (table["architecture"] == "VQ-VQ")
        & (table["arm"] == MIXED)
        & (table["rate"] < 1)
        & (table["attribute"] == "weather")
    ]
    means = own.groupby("place", sort=False)["accuracy"].mean().tolist()
    axes = next(axes for axes in drawn.figure.axes if axes.get_title() == "VQ-VQ")
    lines = [list(line.get_ydata()) for line in axes.lines]
    assert pytest.approx(means) in lines
    assert pytest.approx([1 / 3] * 2) in lines and pytest.approx([0.7] * 2) in lines


def test_the_headline_of_probes_says_what_models_and_pixels_tell():
    table = probed(("VQ-VQ", "SigLIP-VQ"))
    last = table["place"] == embedding_probes.last_layer(table["place"])
    alone = last & (table["arm"] == REPEATED)
    table.loc[alone & (table["rate"] < 1), "accuracy"] = 0.6
    table.loc[alone & (table["rate"] == 1), "accuracy"] = 0.9
    said = embedding_probes.headline_of_probes(opened("embedding_probes", table))
    assert " ".join(said.split()) == (
        "In the last layer a probe tells the rare weather in 60% of the cases, after complete data "
        "in 90%; random features of the pixels reach 70%"
    )


def test_neighbours_are_counted_without_the_point_itself():
    points = np.array([[0.0, 0], [0, 1], [100, 0], [100, 1]])
    near = embedding_probes.MAP_NEIGHBOURS
    points = points.repeat(near, axis=0) + np.linspace(0, 0.01, 4 * near)[:, None]
    clusters = np.repeat(["sunny", "cloudy", "sunny", "cloudy"], near)
    # of ten neighbours nine are of the own ten points, and one of those beside them
    assert embedding_probes.neighbours_alike(points, clusters) == pytest.approx(0.9)
    assert embedding_probes.neighbours_alike(points, np.full(4 * near, "sunny")) == 1


@pytest.fixture
def inspected(tmp_path):
    """Opens embedding_probes upon a record of an inspection with the given tables."""

    def open_upon(**tables):
        spec = profile("smoke").spec
        inspection = Inspection(spec, spec, spec, "weather", pairs=9)
        store = RunStore(tmp_path)
        body = {"tables": {name: table.to_dict("list") for name, table in tables.items()}}
        store.path(inspection).unlink(missing_ok=True)
        store.save(inspection, body)
        found = opened("embedding_probes", probed())
        return replace(found, arms=[Arm(inspection, {})], store=store)

    return open_upon


def test_figures_of_the_inspected_models_fit_and_have_a_panel_for_each(inspected):
    rng = np.random.default_rng(7)
    models = ("complete", "understanding", "unified")
    tokens = pd.DataFrame({"token": [*map(str, range(16)), "pooled", "all"]})
    for model, place in itertools.product(models, ("encoder", "layer 1", "layer 2")):
        tokens[f"{model}, {place}, accuracy"] = rng.random(18)
        tokens[f"{model}, {place}, control"] = 1 / 3
    maps = pd.DataFrame({"value": ["raining", "sunny"] * 6})
    for names in itertools.product(models[1:], ("adapter", "layer 2"), ("t-SNE", "UMAP"), "xy"):
        maps[", ".join(names)] = rng.random(12)
    found = inspected(tokens=tokens, maps=maps)
    drawn = embedding_probes.draw_tokens(found)
    check_layout(drawn.figure)
    assert len(drawn.figure.axes) == 1 + 3 + 1  # the last is the colour bar
    assert len(drawn.shown) == 4 * 16
    drawn = embedding_probes.draw_maps(found)
    check_layout(drawn.figure)
    assert len(drawn.figure.axes) == 4 and set(drawn.shown["place"]) == {"layer 2"}
    named = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert named == ["raining", "sunny"]


def test_the_last_token_takes_over_where_it_first_outweighs_the_image_tokens(inspected):
    effects = {
        "complete": [(1, 0), (0.4, 0.6), (0, 1)],
        "unified": [(1, 0), (0.9, 0.2), (0.8, 0.3)],
    }
    rows = [
        (model, "weather", layer, group, effect, effect - 0.1, effect + 0.1, 0.5, 9)
        for model, layers in effects.items()
        for layer, pair in enumerate(layers)
        for group, effect in zip(("image", "last", "question"), (*pair, 0.0), strict=True)
    ]
    columns = ["model", "attribute", "layer", "group", "effect", "low", "high", "told", "samples"]
    table = pd.DataFrame(rows, columns=columns)
    assert embedding_probes.taking_over(table) == {"complete": "layer 1", "unified": "no layer"}
    figure = embedding_probes.draw_patching(inspected(patching=table)).figure
    check_layout(figure)
    assert len(figure.axes) == 2
    # a model that tells no pair apart is left out, unless none does
    table.loc[table["model"] == "unified", "told"] = 0.0
    found = inspected(patching=table)
    figure = embedding_probes.draw_patching(found).figure
    assert len(figure.axes) == 1 and sentence(figure).endswith("at layer 1 (complete data)")
    told = embedding_probes.tell_patching(found)
    assert "takes over the answer at layer 1." in told and "mixed: 0% of the pairs" in told
    figure = embedding_probes.draw_patching(inspected(patching=table.assign(told=0.0))).figure
    assert len(figure.axes) == 2 and "No model tells enough pairs apart" in sentence(figure)


def test_readings_show_what_is_lost_and_the_title_the_most_of_it():
    rows = [
        (network, inputs, "partial credit", name, 1 - 0.01 * place, 0.25, 9)
        for network, spaces in frozen_networks._READERS.items()
        for inputs in spaces
        for place, name in enumerate(("weather", "battery", "weather_corner"))
    ]
    table = pd.DataFrame(rows, columns=frozen_networks._READINGS)
    figure = frozen_networks.draw_readings(table)
    check_layout(figure)
    for axes in figure.axes:
        lost = [line.get_xdata().tolist() for line in axes.lines]
        assert lost == [[75.0] * 3] + [pytest.approx([0, 1, 2])] * 3
    title = sentence(figure)
    assert "at most about 2.0% with the readers, and 2.0% with the linear probe" in title


def test_a_row_of_pictures_for_each_space_says_how_far_it_is_off():
    errors = pd.DataFrame({"space": ["from codes", "from features"], "error": [0.0106, 0.0148]})
    blank = np.zeros((6, 64, 64, 3), np.uint8)
    figure = frozen_networks.draw_vq(errors, dict.fromkeys(("watch", *errors["space"]), blank))
    check_layout(figure)
    assert "off by 1.1% from codes and 1.5% from features" in sentence(figure)


@pytest.mark.parametrize(
    ("study", "table"),
    [
        ("mutual_benefit", mixed(ARCHITECTURES)),
        ("learning_curves", pd.concat([scores(ARCHITECTURES), cosines()])),
        ("data_scaling", scaling(("SigLIP-VQ", "VQ-VQ"))),
        ("original_behaviour", switched()),
        ("affine_alignment", distorted()),
        ("attribute_transfer", transferred(ARCHITECTURES)),
        ("captioned_pictures", pictured()),
        ("training_order", ordered(rows=(16,))),
        ("when_it_helps", mapped()),
        ("task_gradients", gradients(("SigLIP-VQ", "VQ-VQ"))),
        ("trained_parts", parted(("VQ-VQ", "SigLIP-SigLIP"))),
        ("generation_heads", headed(HEADED)),
        ("language_model_scale", sized(("VQ-VQ", "SigLIP-SigLIP"))),
    ],
)
def test_every_finding_is_a_sentence_or_more_without_a_hole(study, table):
    found = opened(study, table)
    assert set(found.study.findings) == set(found.study.figures)
    for tell in found.study.findings.values():
        text = tell(found)
        assert text.endswith(".") and "nan" not in text
