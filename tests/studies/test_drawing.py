"""What the figures of the studies draw, out of random numbers about some architectures."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from study_tables import (
    cosines,
    distorted,
    matched,
    opened,
    ordered,
    pictured,
    scaling,
    scores,
    switched,
    transferred,
)

from uvlm_core.data.attributes import ATTRIBUTES, chances
from uvlm_core.studies import attribute_transfer, style
from uvlm_core.studies.base import find_study
from uvlm_core.studies.mutual_benefit import REPORTED_SCORES, draw_scores, draw_watches
from uvlm_core.studies.statistics import mean_interval
from uvlm_core.studies.training_order import ARMS
from uvlm_core.training.spec import ARCHITECTURES, REGIMES


def drawn(study, name, table, **changes):
    """A figure of a study upon a table."""
    return find_study(study).figures[name](opened(study, table, **changes))


TWO_PANELS = {"arms": {16: ARMS, 8: ARMS}}  # of training_order
DRAWN = {  # figure -> its picture out of random numbers about some architectures
    **{
        name: lambda names, name=name: drawn("mutual_benefit", name, scores(names))
        for name in (
            "mutual_benefit",
            "mutual_benefit_generation",
            "mutual_benefit_time",
            "mutual_benefit_differences",
        )
    },
    "mutual_benefit_features": lambda names: drawn(
        "mutual_benefit", "mutual_benefit_features", cosines(names)
    ),
    **{
        name: lambda names, name=name: drawn("data_scaling", name, scaling(names), rows=100)
        for name in ("data_scaling", "data_scaling_exchange")
    },
    "data_scaling_matching": lambda names: drawn(
        "matching", "data_scaling_matching", matched(names), rows=100
    ),
    "original_behaviour": lambda names: drawn(
        "original_behaviour", "original_behaviour", switched(names)
    ),
    **{
        name: lambda names, name=name: drawn("affine_alignment", name, distorted(names))
        for name in find_study("affine_alignment").figures
    },
    **{
        name: lambda names, name=name: drawn(
            "attribute_transfer", name, transferred(names), firm_rates=(0.1,)
        )
        for name in (
            "attribute_transfer",
            "attribute_transfer_constrained",
            "attribute_transfer_kappa",
            "attribute_transfer_reverse",
            "attribute_transfer_confusion_weather",
        )
    },
    "captioned_pictures": lambda names: drawn(
        "captioned_pictures", "captioned_pictures", pictured(names)
    ),
    **{
        name: lambda names, name=name: drawn("training_order", name, ordered(names), **TWO_PANELS)
        for name in find_study("training_order").figures
    },
}
NO_LINES = ("attribute_transfer_confusion_weather",)  # heat maps


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
            "data_scaling",
            "matching",
            "original_behaviour",
            "affine_alignment",
            "attribute_transfer",
            "captioned_pictures",
        )
        for name in find_study(study).figures
        if name != "mutual_benefit_watches"
    ],
)
def test_a_table_without_a_column_that_is_drawn_is_refused_by_name(study, name):
    with pytest.raises(
        ValueError, match="^The table of figure '[a-z_]+' has no column '[a-z_]+'; it needs "
    ):
        drawn(
            study,
            name,
            pd.DataFrame(columns=["rare", "rare_in", "arm", "fraction", "regime", "architecture"]),
        )


def panel(figure, title: str, row: int = 0):
    """The axes of a column of the learning curves, which have five in each row."""
    titles = [axes.get_title() for axes in figure.axes[:5]]
    return figure.axes[5 * row + titles.index(title)]


def curve(axes, arm: str):
    """The line of an arm."""
    return next(line for line in axes.lines if line.get_marker() == style.LINES[arm]["marker"])


def test_an_unknown_task_and_a_table_without_any_of_its_scores_are_refused():
    with pytest.raises(ValueError, match="task 'both' is not one of understanding, generation"):
        draw_scores(scores(), "both")
    with pytest.raises(ValueError, match="has no score of generation"):
        draw_scores(scores().assign(metric="partial"), "generation")


def test_the_csv_holds_what_the_picture_shows():
    table = scores(("VQ-VQ", "VQ-SigLIP"))
    understood = DRAWN["mutual_benefit"](("VQ-VQ", "VQ-SigLIP")).shown
    assert set(understood["metric"]) == {"partial"} and not set(understood["attribute"]) & set(
        ATTRIBUTES["time"].parts
    )
    generated = draw_scores(table, "generation")[1]
    assert set(generated.loc[generated["architecture"] == "VQ-VQ", "metric"]) == {
        "read_back",
        "reader_frechet",
        "reader_frechet_floor",
    }
    assert "total" not in set(generated["attribute"])


def test_the_line_is_the_mean_over_seeds_and_the_band_its_interval():
    table = scores()
    axes = panel(draw_scores(table, "understanding")[0], "weather")
    chosen = table[
        (table["regime"] == "unified")
        & (table["metric"] == "partial")
        & (table["attribute"] == "weather")
    ]
    assert curve(axes, "unified").get_ydata() == pytest.approx(
        chosen.groupby("fraction")["value"].mean().tolist()
    )
    low, high = mean_interval(chosen.loc[chosen["fraction"] == 1, "value"])[1:]
    edges = [band.get_paths()[0].vertices for band in axes.collections]
    assert any(
        {round(y, 6) for x, y in edge if x == 1} == {round(low, 6), round(high, 6)}
        for edge in edges
    )


def test_an_arm_of_two_seeds_has_a_line_for_each_and_no_band():
    table = scores(seeds=3)
    table = table[(table["regime"] != "shuffled") | (table["seed"] < 2)]
    axes = panel(draw_scores(table, "understanding")[0], "weather")
    assert len(axes.collections) == 2  # of understanding and unified
    own = table[
        (table["regime"] == "shuffled")
        & (table["attribute"] == "weather")
        & (table["metric"] == "partial")
    ]
    lines = [list(line.get_ydata()) for line in axes.lines]
    assert all(run["value"].tolist() in lines for _, run in own.groupby("seed"))


def test_a_mean_of_two_seeds_is_drawn_with_both_and_one_of_three_with_its_interval():
    with style.theme():
        figure = style.Figure()
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
    axes = panel(draw_scores(table[table["fraction"] != 0.05], "understanding")[0], "weather")
    assert axes.get_xlim()[0] == pytest.approx(0.8 * 0.5) and list(axes.get_xticks()) == [0.5, 1]


def test_corners_are_the_mean_of_the_two():
    table = scores()
    axes = panel(draw_scores(table, "generation")[0], "corners")
    chosen = table[
        (table["regime"] == "generation")
        & (table["metric"] == "read_back")
        & table["attribute"].isin(("weather_corner", "battery_corner"))
    ]
    assert curve(axes, "generation").get_ydata() == pytest.approx(
        chosen.groupby("fraction")["value"].mean().tolist()
    )


def test_each_architecture_has_its_row_and_its_own_space():
    figure, _ = draw_scores(scores(ARCHITECTURES), "generation")
    assert [figure.axes[5 * row].get_ylabel() for row in range(4)] == [
        "SigLIP-VQ\nfrom pixels",
        "VQ-VQ\nfrom pixels",
        "SigLIP-SigLIP\nfrom features",
        "VQ-SigLIP\nfrom features",
    ]


@pytest.mark.parametrize(
    ("task", "title", "chance"),
    [
        ("understanding", "weather", chances()["weather"]),
        ("understanding", "corners", 0.25),
        ("understanding", "total", sum(chances()[name] for name in ATTRIBUTES) / 5),
        ("generation", "weather", 1 / 3),
        (
            "generation",
            "battery within 10",
            np.mean(
                np.abs(np.subtract.outer(np.arange(101), np.arange(101)))
                <= ATTRIBUTES["battery"].tolerance
            ),
        ),
    ],
)
def test_chance_is_drawn_where_guessing_ends_up(task, title, chance):
    axes = panel(draw_scores(scores(), task)[0], title)
    assert any(
        line.get_ydata() == pytest.approx([chance, chance])
        and to_hex(line.get_color()) == "#767676"
        for line in axes.lines
    )


def test_what_the_authors_report_is_grey_and_only_where_it_compares():
    figure, _ = draw_scores(scores(("VQ-VQ", "SigLIP-SigLIP")), "understanding", REPORTED_SCORES)
    marks = {
        (row, title): line
        for row in (0, 1)
        for title in ("time", "total", "weather")
        for line in panel(figure, title, row).lines
        if line.get_marker() == "D" and len(line.get_xdata())
    }
    assert set(marks) == {(0, "time"), (0, "total"), (1, "total")}
    assert marks[0, "total"].get_ydata() == pytest.approx([0.891, 0.940])
    assert {to_hex(line.get_color()) for line in marks.values()} == {"#767676"}


def test_dots_of_the_scaling_figure_are_means_at_their_number_of_rows():
    table = scaling()
    axes = drawn("data_scaling", "data_scaling", table, rows=100).figure.axes[0]
    chosen = table[
        (table["understanding_rows"] == 100)
        & (table["batch_counts"] == "understanding")
        & (table["metric"] == "partial")
        & (table["attribute"] == "total")
    ]
    line = next(line for line in axes.lines if len(line.get_xdata()) == 5)
    assert line.get_ydata() == pytest.approx(
        chosen.groupby("generation_rows")["value"].mean().tolist()
    )


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


def test_the_affine_figure_shows_the_mean_over_seeds_at_each_dose():
    table = distorted()
    axes = drawn("affine_alignment", "affine_alignment", table).figure.axes[0]
    assert axes.get_title() == "total, affine"
    total = table[
        (table["metric"] == "partial")
        & (table["attribute"] == "total")
        & (table["sharing"] == "shared")
        & (table["side"] == "understanding")
        & (table["place"] == "before")
    ]
    for regime in ("understanding", "unified"):
        own = total[total["regime"] == regime]
        wanted = [own.loc[own["family"] == family, "value"].mean() for family in ("none", "affine")]
        line = next(
            line
            for line in axes.lines
            if line.get_marker() == style.LINES[regime]["marker"] and len(line.get_xdata()) == 2
        )
        assert line.get_ydata() == pytest.approx(wanted)
        assert line.get_xdata() == pytest.approx([0.0, 1.0], abs=0.02)  # a little apart, to be seen


def test_confusions_are_drawn_as_they_are_and_a_rate_without_any_is_refused():
    table = transferred()
    figure, _ = attribute_transfer.draw_confusion(table, "weather", 0.1)
    own = table[
        (table["arm"] == "absent")
        & (table["rate"] == 0.1)
        & (table["attribute"] == "weather: sunny > none")
    ]
    absent = next(
        axes for axes in figure.axes if axes.get_title() == "unified,\nnot in the requests"
    )
    first = absent.collections[0].get_array().reshape(3, 4)[0]
    assert first[3] == pytest.approx(own["value"].mean())
    with pytest.raises(ValueError, match="no confusions of 'weather' at rate 0.5"):
        attribute_transfer.draw_confusion(table, "weather", 0.5)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (
            lambda: attribute_transfer.draw_transfer(transferred(), "exact"),
            "metric 'exact' is not one of partial, constrained, kappa",
        ),
        (
            lambda: attribute_transfer.draw_confusion(transferred(), "colour", 0.1),
            "rare attribute 'colour' is not one of weather, battery, corners, time",
        ),
        (
            lambda: drawn(
                "attribute_transfer",
                "attribute_transfer_reverse",
                transferred().assign(rare_in="understanding"),
            ),
            "The table has no scores of a rare attribute to draw",
        ),
    ],
)
def test_what_a_figure_of_transfer_cannot_show_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


@pytest.mark.parametrize(
    ("study", "table"),
    [
        ("mutual_benefit", pd.concat([scores(ARCHITECTURES), cosines()])),
        ("data_scaling", scaling(("SigLIP-VQ", "VQ-VQ"))),
        ("matching", matched()),
        ("original_behaviour", switched()),
        ("affine_alignment", distorted()),
        ("attribute_transfer", transferred(ARCHITECTURES)),
        ("captioned_pictures", pictured()),
        ("training_order", ordered(rows=(16,))),
    ],
)
def test_every_finding_is_a_sentence_or_more_without_a_hole(study, table):
    changes = {
        "data_scaling": {"rows": 100},
        "matching": {"rows": 100},
        "attribute_transfer": {"firm_rates": (0.1,)},
    }.get(study, {})
    found = opened(study, table, **changes)
    assert set(found.study.findings) == set(found.study.figures)
    for name in found.figures:
        text = found.study.findings[name](found)
        assert text.endswith(".") and "nan" not in text
