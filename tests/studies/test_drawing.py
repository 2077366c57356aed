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
    probed,
    scaling,
    scores,
    switched,
    transferred,
)

from uvlm_core.data.attributes import ATTRIBUTES, chances
from uvlm_core.studies import attribute_transfer, embedding_probes, frozen_networks, style
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
        for name in find_study("attribute_transfer").figures
    },
    "captioned_pictures": lambda names: drawn(
        "captioned_pictures", "captioned_pictures", pictured(names)
    ),
    **{
        name: lambda names, name=name: drawn("training_order", name, ordered(names), **TWO_PANELS)
        for name in find_study("training_order").figures
    },
}


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


@pytest.mark.parametrize("name", DRAWN)
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


def test_transfer_draws_paired_differences_from_every_baseline_and_nothing_at_other_rates():
    table = transferred()
    figure, shown = (found := drawn_transfer(table)).figure, found.shown
    assert set(shown["rate"]) == {0.1}
    own = table[
        (table["metric"] == "partial") & (table["attribute"] == "weather") & (table["rate"] == 0.1)
    ]
    own = own[own["rare_in"] == "understanding"]
    wide = own.pivot_table(index="seed", columns="arm", values="value")
    for axes, baseline in zip(figure.axes, ("understanding", "absent", "shuffled"), strict=True):
        mean, low, high = mean_interval(wide["unified"] - wide[baseline])
        lines = [list(line.get_xdata()) for line in axes.lines]
        assert [pytest.approx(mean)] in lines and [pytest.approx(low), pytest.approx(high)] in lines
        assert [0, 0] in lines


def drawn_transfer(table):
    """The main figure of attribute_transfer."""
    return drawn("attribute_transfer", "attribute_transfer", table, firm_rates=(0.1,))


def differences(**given):
    """Differences of VQ-VQ on weather at two rates, a list by seed for each baseline."""
    rows = [
        ("VQ-VQ", "weather", rate, seed, value + 0.1 * sign, baseline)
        for baseline, values in given.items()
        for seed, value in enumerate(values)
        for rate, sign in ((0.03, -1), (0.1, 1))
    ]
    columns = ["architecture", "rare", "rate", "seed", "difference", "baseline"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        # by the mean over both rates, as the claims have it
        ({"understanding": [0.3, 0.31, 0.32]}, "know more than understanding alone in VQ-VQ"),
        ({"understanding": [-0.3, -0.31, -0.32]}, "know less than understanding alone in VQ-VQ"),
        ({"understanding": [0.3, -0.3, 0.9]}, "not shown to know more"),
        ({"understanding": [0.3, 0.31]}, "not shown to know more"),  # too few seeds
        ({"understanding": [0.3]}, "not shown to know more"),
        ({"understanding": [0.0] * 3, "absent": [0.3, -0.3, 0.9]}, "no control knows decidedly"),
        ({"understanding": [0.0] * 3, "absent": [0.3, 0.31, 0.32]}, "a control knows decidedly"),
        ({"understanding": [0.0] * 3, "shuffled": [0.3, 0.31, 0.32]}, "less in VQ-VQ (weather)"),
    ],
)
def test_the_title_of_transfer_says_no_more_than_the_verdict(given, words):
    assert words in attribute_transfer.title_of_transfer(differences(**given))


def test_a_point_of_one_seed_is_hollow_and_only_that():
    table = transferred()
    table = table[(table["rate"] == 0.1) | (table["seed"] == 0)]
    found = drawn("attribute_transfer", "attribute_transfer_kappa", table, firm_rates=(0.1,))
    lines = found.figure.axes[0].lines
    marks = {
        round(line.get_xdata()[0]): line.get_markerfacecolor()
        for line in lines
        if line.get_marker() == "o"
    }
    assert marks == {0: "white", 1: style.COLOURS["VQ-VQ"]}
    means = found.shown.groupby("rate")["value"].mean().tolist()
    assert means in [list(line.get_ydata()) for line in lines]


def test_the_title_of_kappas_has_the_means_of_the_drawn_points():
    keys = {"architecture": "VQ-VQ", "rare": "weather"}
    rows = [keys | {"rate": 0.1, "seed": seed, "value": 0.3} for seed in range(3)]
    rows += [keys | {"rare": "battery", "rate": 0.1, "seed": 0, "value": 0.1}]
    one = attribute_transfer.title_of_kappas(pd.DataFrame(rows))
    assert one.endswith("at 10 % of the rows their mean kappa is 0.20")
    rows += [keys | {"rate": 0.003, "seed": 0, "value": -0.04}]
    two = attribute_transfer.title_of_kappas(pd.DataFrame(rows))
    assert two.endswith(f"kappa is 0.20, below that {-0.04:.2f}")


def test_the_reverse_direction_counts_the_pairs_in_which_unified_is_ahead():
    table = transferred(ARCHITECTURES)
    metrics = table["metric"].isin(("read_back", "feature_read_back"))
    table.loc[metrics & (table["arm"] == "generation"), "value"] = 0.5
    table.loc[metrics & (table["arm"] == "unified"), "value"] = 0.5
    ahead = metrics & (table["arm"] == "unified") & (table["architecture"] == "VQ-VQ")
    table.loc[ahead, "value"] = 0.6
    found = drawn("attribute_transfer", "attribute_transfer_reverse", table)
    assert set(found.shown["seed"]) == {0} and len(found.shown) == 4
    title = found.figure.legends[0].get_title().get_text()
    assert "ahead in 1 of 4 pairs of single runs" in title


@pytest.mark.parametrize("name", ["attribute_transfer", "attribute_transfer_reverse"])
def test_a_table_without_scores_of_a_rare_attribute_is_refused(name):
    table = transferred().assign(rare="none", rare_in="none")
    with pytest.raises(ValueError, match="The table has no scores of a rare attribute to draw"):
        drawn("attribute_transfer", name, table)


@pytest.mark.parametrize("names", [("VQ-VQ",), ARCHITECTURES], ids=["one", "all"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_probes_are_drawn_as_means_by_place_with_chance_and_the_pixels(names, seeds):
    rows = embedding_probes.probed_rows(table := probed(names, seeds=seeds), "weather")
    assert set(rows["attribute"]) == {"weather"} and "absent" not in set(rows["arm"])
    figure = embedding_probes.draw_probes(rows, "weather")
    check_layout(figure)
    assert [axes.get_title() for axes in figure.axes] == [
        name for name in style.COLOURS if name in names
    ]
    own = table[
        (table["architecture"] == "VQ-VQ")
        & (table["arm"] == "unified")
        & (table["rate"] < 1)
        & (table["attribute"] == "weather")
    ]
    means = own.groupby("place", sort=False)["accuracy"].mean().tolist()
    axes = next(axes for axes in figure.axes if axes.get_title() == "VQ-VQ")
    lines = [list(line.get_ydata()) for line in axes.lines]
    assert pytest.approx(means) in lines
    assert pytest.approx([1 / 3] * 2) in lines and pytest.approx([0.7] * 2) in lines


def test_tokens_are_said_to_carry_the_attribute_only_if_probes_beat_their_control_everywhere():
    table = embedding_probes.probed_rows(probed(("VQ-VQ", "SigLIP-VQ")), "weather")
    table = table[table["arm"] != embedding_probes.PIXELS]
    table["accuracy"] = table["control"] + 0.3
    carried = "The image tokens carry the weather even where it is rare"
    assert embedding_probes.title_of_probes(table, "weather").startswith(carried)
    table.loc[table["architecture"] == "VQ-VQ", "accuracy"] = table["control"] - 0.1
    assert embedding_probes.title_of_probes(table, "weather").startswith("Where the weather")


def test_neighbours_are_counted_without_the_point_itself():
    points = np.array([[0.0, 0], [0, 1], [100, 0], [100, 1]])
    near = embedding_probes.MAP_NEIGHBOURS
    points = points.repeat(near, axis=0) + np.linspace(0, 0.01, 4 * near)[:, None]
    clusters = np.repeat(["sunny", "cloudy", "sunny", "cloudy"], near)
    # of ten neighbours nine are of the own ten points, and one of those beside them
    assert embedding_probes.neighbours_alike(points, clusters) == pytest.approx(0.9)
    assert embedding_probes.neighbours_alike(points, np.full(4 * near, "sunny")) == 1


def test_figures_of_the_inspected_models_fit_and_have_a_panel_for_each():
    rng = np.random.default_rng(7)
    models = ("complete", "understanding", "unified")
    tokens = pd.DataFrame(
        [("complete", "encoder", token, 0.1) for token in range(16)]
        + [(model, "layer 2", token, rng.random()) for model in models for token in range(16)],
        columns=["model", "place", "token", "selectivity"],
    )
    maps = pd.DataFrame(
        [
            (model, "layer 2", method, *rng.random(2), "sunny" if number % 2 else "raining")
            for model in models[1:]
            for method in ("t-SNE", "UMAP")
            for number in range(12)
        ],
        columns=["model", "place", "method", "x", "y", "weather"],
    )
    figure = embedding_probes.draw_tokens(tokens, "weather")
    check_layout(figure)
    assert len(figure.axes) == 1 + 3 + 1  # the last is the colour bar
    figure = embedding_probes.draw_maps(maps, "weather")
    check_layout(figure)
    assert len(figure.axes) == 4
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["raining", "sunny"]


def test_the_last_token_takes_over_where_it_first_outweighs_the_image_tokens():
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
    check_layout(embedding_probes.draw_patching(table))


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
        assert lost == [[750.0] * 3] + [pytest.approx([0, 10, 20])] * 3
    title = figure.legends[0].get_title().get_text()
    assert "at most about 2.0% with the readers, and 2.0% with the linear probe" in title


def test_a_row_of_pictures_for_each_space_says_how_far_it_is_off():
    errors = pd.DataFrame({"space": ["from codes", "from features"], "error": [0.0106, 0.0148]})
    blank = np.zeros((6, 64, 64, 3), np.uint8)
    figure = frozen_networks.draw_vq(errors, dict.fromkeys(("watch", *errors["space"]), blank))
    check_layout(figure)
    assert "off by 1.1% from codes and 1.5% from features" in figure.get_suptitle()


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
