"""The notebooks: how they are written, that they run in the smoke profile, and what their figures draw."""

import json
import re
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from uvlm_core import execute, experiments, figures
from uvlm_core.fidelity import BATTERY_TOLERANCE
from uvlm_core.profiles import REGIMES
from uvlm_core.scoring import CHANCE, TIME_PARTS
from uvlm_core.smart_watch import ATTRIBUTES, sample_watches
from uvlm_core.statistics import mean_interval, paired_differences

NOTEBOOKS = execute.find_notebooks(execute.ROOT / "notebooks")
SCORES = ["architecture", "regime", "seed", "fraction", "metric", "attribute", "value", "samples"]
READINGS = ["network", "inputs", "metric", "attribute", "value", "chance", "samples"]
COLUMNS = {  # of the CSV behind each figure
    "data_gallery": ["panel", "size", "row", "column", "hour", "minute", "second", "weather", "battery",
                     "weather_corner", "battery_corner", "colour"],
    "data_statistics": ["statistic", "task", "attribute", "level", "value", "samples"],
    "frozen_networks_vq": ["code", "uses"],
    **dict.fromkeys(("frozen_networks_reader", "frozen_networks_siglip", "frozen_networks_probe"), READINGS),
    "mutual_benefit": SCORES,
    "mutual_benefit_time": SCORES,
    "mutual_benefit_watches": ["architecture", "regime", "seed", "position", "request"],
    "mutual_benefit_differences": ["architecture", "metric", "attribute", "fraction", "difference", "low", "high",
                                   "seeds", "regime", "baseline"],
}
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def execute_into(folder, *arguments) -> int:
    """Run notebooks in the smoke profile with one seed, with everything they write below `folder`."""
    homes = [f"--{name}={folder / name}" for name in ("build", "figures", "records")]
    return execute.main(["--profile=smoke", "--seeds=1", "--workers=2", *homes, *arguments])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which all notebooks have run, every training included."""
    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UVLM_CACHE", str(folder / "cache"))
        assert execute_into(folder) == 0
    return folder


def test_notebooks_are_numbered_without_a_gap():
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{number:02d}_" for number in range(len(NOTEBOOKS))]


@named
def test_a_notebook_is_valid_and_its_cells_have_ids_of_their_own(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    ids = [cell["id"] for cell in notebook.cells]
    assert (notebook.nbformat, len(set(ids))) == (4, len(ids))


def test_notebooks_are_stripped():
    verified = subprocess.run([sys.executable, "-m", "nbstripout", "--verify", *NOTEBOOKS], capture_output=True)
    assert (verified.returncode, verified.stdout) == (0, b"")


@named
def test_a_notebook_has_one_cell_of_parameters_that_starts_from_the_laptop_profile(path):
    declared = execute.declared_parameters(path)
    assert declared["profile"] == "laptop" and isinstance(declared["figures"], str)


@named
def test_a_notebook_says_what_it_asks_where_the_paper_does_what_it_costs_and_what_to_look_at(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} ")
    assert re.findall(r"^\*\*(.*?)\.\*\*", first.source, re.MULTILINE) == ["Question", "Paper", "Cost", "Look at"]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_figure_comes_with_its_document_its_provenance_and_a_csv_of_the_stated_columns(ran, name):
    facts = json.loads((ran / "figures" / f"{name}.json").read_text())
    table = pd.read_csv(ran / "figures" / f"{name}.csv")
    assert list(table.columns) == COLUMNS[name] and len(table)
    assert facts["profile"] == "smoke"
    assert all((ran / "figures" / f"{name}.{kind}").stat().st_size > 1000 for kind in ("png", "pdf"))


def test_the_notebooks_make_no_other_files_than_these(ran):
    assert {path.stem for path in (ran / "figures").iterdir()} == set(COLUMNS)
    assert {path.name for path in (ran / "build" / "smoke").iterdir()} == {path.name for path in NOTEBOOKS}


@named
def test_an_executed_notebook_shows_its_figures(ran, path):
    cells = nbformat.read(ran / "build" / "smoke" / path.name, as_version=4).cells
    shown = [output for cell in cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    assert len(shown) == sum("draw.save_figure(" in cell.source for cell in cells)


def test_every_run_behind_the_learning_curves_has_a_record(ran):
    table = pd.read_csv(ran / "figures" / "mutual_benefit.csv")
    keys = json.loads((ran / "figures" / "mutual_benefit.json").read_text())["records"]
    assert set(table["regime"]) == set(experiments.ARMS)
    assert {path.stem for path in (ran / "records").glob("*.json")} == set(keys) and len(keys) == len(experiments.ARMS)


def test_a_second_run_trains_nothing_and_draws_the_same(ran, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (ran / "records").iterdir()}
    assert execute_into(ran, "--notebook=02", f"--figures={tmp_path}") == 0
    assert {path: path.stat().st_mtime_ns for path in (ran / "records").iterdir()} == before
    for name in ("mutual_benefit.csv", "mutual_benefit.png", "mutual_benefit_watches.png"):
        assert (tmp_path / name).read_bytes() == (ran / "figures" / name).read_bytes()


# What the figures draw


def scores(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table as `experiments.run` gives it, out of random numbers."""
    rng = np.random.default_rng(0)
    rows = []
    for architecture in architectures:
        for arm in experiments.ARMS:
            metrics = [("partial", name) for name in (*ATTRIBUTES, *TIME_PARTS, "total") if arm != "generation"]
            if arm != "understanding":
                metrics += [("read_back", name) for name in (*ATTRIBUTES, *TIME_PARTS)]
                metrics += [("reader_frechet", "9 against 9"), ("reader_frechet_floor", "9 against 9")]
            rows += [(architecture, arm, seed, fraction, metric, name, rng.random(), 9) for seed in range(seeds)
                     for fraction in (0.5, 1.0) for metric, name in metrics]
    return pd.DataFrame(rows, columns=SCORES)


def differences(table) -> pd.DataFrame:
    over = ("architecture", "metric", "attribute", "fraction")
    return pd.concat([paired_differences(table[table["metric"] == metric], "unified", baseline, over).assign(
        baseline=baseline) for baseline, metric in (("understanding", "partial"), ("generation", "read_back"))])


def panel(figure, row: str, title: str):
    """The axes of `mutual_benefit` with this title, in the row "understanding" or "generation"."""
    axes = [axes for axes in figure.axes if axes.get_title() == title]
    return axes[0 if row == "understanding" else -1]


def curve(axes, arm: str):
    """The thick line of an arm."""
    look = figures.LINES[arm]
    return next(line for line in axes.lines if line.get_marker() == look["marker"] and len(line.get_xdata()) > 1)


DRAWN = {  # figure -> its picture out of a table of scores
    "mutual_benefit": lambda table: figures.mutual_benefit(table, experiments.AUTHORS_VQ_VQ),
    "mutual_benefit_time": lambda table: figures.mutual_benefit_time(table, dict.fromkeys(TIME_PARTS, 0.7)),
    "mutual_benefit_differences": lambda table: figures.mutual_benefit_differences(differences(table)),
}


@pytest.mark.parametrize("draw", [
    figures.data_gallery, figures.data_statistics, figures.frozen_networks_readings, figures.mutual_benefit,
    figures.mutual_benefit_time, figures.mutual_benefit_differences,
    lambda table: figures.frozen_networks_vq(table, np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3))),
    lambda table: figures.mutual_benefit_watches(table, {"unified": np.zeros((1, 8, 8, 3))})],
    ids=lambda draw: draw.__name__)
def test_an_empty_table_is_refused_in_one_sentence(draw):
    every = {name for columns in COLUMNS.values() for name in columns} | {"chance"}
    with pytest.raises(ValueError, match="^The table of figure '[a-z_]+' is empty; it needs at least one row.$"):
        draw(pd.DataFrame(columns=sorted(every)))


def test_a_table_without_a_column_that_is_drawn_is_refused_by_name():
    with pytest.raises(ValueError, match="'mutual_benefit' has no column 'fraction'"):
        figures.mutual_benefit(scores().drop(columns="fraction"))


def test_a_table_without_any_score_of_the_figure_is_refused():
    with pytest.raises(ValueError, match="has no metric partial or read_back"):
        figures.mutual_benefit(scores().assign(metric="caption_partial"))


def test_watches_that_are_fewer_than_their_requests_are_refused():
    with pytest.raises(ValueError, match="needs 2 images for each"):
        figures.mutual_benefit_watches(pd.DataFrame({"request": ["a", "b"]}), {"unified": np.zeros((1, 8, 8, 3))})


@pytest.mark.parametrize("name", DRAWN)
def test_an_architecture_has_one_colour_in_every_figure_and_no_other_architecture_has_it(name):
    def colours(architecture):
        lines = [line for axes in DRAWN[name](scores((architecture,))).axes for line in axes.lines]
        return {to_hex(line.get_color()) for line in lines} & set(figures.COLOURS.values())

    assert [colours(architecture) for architecture in figures.COLOURS] == [{c} for c in figures.COLOURS.values()]


def test_the_thick_line_is_the_mean_over_seeds_and_the_bar_its_interval():
    table = scores()
    axes = panel(figures.mutual_benefit(table), "understanding", "weather")
    chosen = table[(table["regime"] == "unified") & (table["metric"] == "partial") & (table["attribute"] == "weather")]
    assert curve(axes, "unified").get_ydata() == pytest.approx(chosen.groupby("fraction")["value"].mean().tolist())
    _, low, high = mean_interval(chosen.loc[chosen["fraction"] == 1, "value"])
    assert any(line.get_ydata() == pytest.approx([low, high]) for line in axes.lines if len(line.get_ydata()) == 2)


def test_corners_are_the_mean_of_the_two():
    table = scores()
    axes = panel(figures.mutual_benefit(table), "generation", "corners")
    chosen = table[(table["regime"] == "generation") & (table["metric"] == "read_back")
                   & table["attribute"].isin(("weather_corner", "battery_corner"))]
    assert curve(axes, "generation").get_ydata() == pytest.approx(chosen.groupby("fraction")["value"].mean().tolist())


@pytest.mark.parametrize(("row", "title", "chance"), [
    ("understanding", "weather", CHANCE["weather"]), ("understanding", "corners", 0.25),
    ("understanding", "total", sum(CHANCE[name] for name in ATTRIBUTES) / 5), ("generation", "weather", 1 / 3),
    ("generation", "battery within 10",
     np.mean(np.abs(np.subtract.outer(np.arange(101), np.arange(101))) <= BATTERY_TOLERANCE))])
def test_chance_is_drawn_where_guessing_ends_up(row, title, chance):
    axes = panel(figures.mutual_benefit(scores()), row, title)
    assert any(line.get_ydata() == pytest.approx([chance, chance]) and to_hex(line.get_color()) == "#767676"
               for line in axes.lines)


def test_the_authors_record_is_grey_and_only_where_it_compares():
    figure = figures.mutual_benefit(scores(), experiments.AUTHORS_VQ_VQ)
    marks = {axes.get_title(): line for axes in figure.axes for line in axes.lines if line.get_marker() == "D"}
    assert set(marks) == {"time", "total"}
    assert marks["total"].get_ydata() == pytest.approx([0.891, 0.940])
    assert {to_hex(line.get_color()) for line in marks.values()} == {"#767676"}


def test_one_seed_is_drawn_without_an_interval():
    axes = panel(figures.mutual_benefit(scores(seeds=1)), "understanding", "battery")
    bars = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    assert bars and all(np.isnan(bar.get_ydata()).all() for bar in bars)


def test_an_experiment_of_one_task_is_drawn_in_one_row():
    table = scores()
    figure = figures.mutual_benefit(table[table["regime"] == "understanding"])
    assert len(figure.axes) == 5 and figure.axes[0].get_ylabel().startswith("understanding")


def gallery() -> pd.DataFrame:
    return pd.DataFrame([{"panel": panel, "size": size, "row": 0, "column": column, **vars(watch)}
                         for panel, size in (("grid", 64), ("line", 224))
                         for column, watch in enumerate(sample_watches(1, 2))])


def pictures(count) -> np.ndarray:
    return np.zeros((count, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("draw", [
    *[lambda draw=draw: draw(scores()) for draw in DRAWN.values()],
    *[lambda draw=draw: draw(scores(("VQ-VQ", "SigLIP-VQ"))) for draw in DRAWN.values()],
    lambda: figures.data_gallery(gallery()),
    lambda: figures.frozen_networks_vq(pd.DataFrame({"code": range(9), "uses": range(9)}), pictures(6), pictures(6)),
    lambda: figures.mutual_benefit_watches(pd.DataFrame({"request": ["draw a watch where the time is 01:02:03."] * 6}),
                                           {"watch": pictures(6), **{regime: pictures(6) for regime in REGIMES}})],
    ids=[*DRAWN, *(f"{name}, two architectures" for name in DRAWN), "data_gallery", "frozen_networks_vq",
         "mutual_benefit_watches"])
def test_nothing_leaves_the_figure_and_no_panel_touches_another(draw):
    check_layout(draw())


@pytest.mark.parametrize("name", ["data_statistics", "frozen_networks_reader", "frozen_networks_siglip",
                                  "frozen_networks_probe"])
def test_a_figure_drawn_again_from_its_csv_fits(ran, name):
    draw = figures.data_statistics if name == "data_statistics" else figures.frozen_networks_readings
    check_layout(draw(pd.read_csv(ran / "figures" / f"{name}.csv", keep_default_na=False)))


def check_layout(figure):
    """Nothing leaves the figure, and no panel, title or legend touches another."""
    with figures.theme():
        figures.stamp(figure, "laptop", 2, 8)
        figure.draw_without_rendering()
        panels = [axes.get_tightbbox() for axes in figure.findobj(match=Axes)]  # titles and labels included
        others = [thing.get_window_extent() for thing in (*figure.legends, *figure.texts)]
    boxes = [box.padded(-1) for box in panels + others]
    assert all(figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max) for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
