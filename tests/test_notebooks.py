"""The notebooks: how they are written, that they run in the smoke profile, and what their figures draw."""

import itertools
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

from uvlm_core import (
    claims,
    execute,
    experiments,
    figures,
    figures_alignment,
    figures_benefit,
    figures_data,
    figures_pictures,
    figures_probes,
    figures_transfer,
    plan,
)
from uvlm_core.alignment import MEASURES
from uvlm_core.fidelity import BATTERY_TOLERANCE
from uvlm_core.probing import CLASSES
from uvlm_core.profiles import ARCHITECTURES, REGIMES, profile
from uvlm_core.scoring import CHANCE, TIME_PARTS
from uvlm_core.smart_watch import ATTRIBUTES, WEATHERS, sample_watches
from uvlm_core.statistics import mean_interval

NOTEBOOKS = execute.find_notebooks(execute.ROOT / "notebooks")
SCORES = ["architecture", "regime", "seed", "fraction", "metric", "attribute", "value", "samples"]
DISTORTED = ["family", "dose", "side", "place", "sharing"]
RARE = ["rare", "rate", "rare_in", "arm"]
READINGS = ["network", "inputs", "metric", "attribute", "value", "chance", "samples"]
COLUMNS = {  # of the CSV behind each figure
    "data_gallery": ["panel", "size", "row", "column", "hour", "minute", "second", "weather", "battery",
                     "weather_corner", "battery_corner", "colour"],
    "data_statistics": ["statistic", "task", "attribute", "level", "value", "samples"],
    "frozen_networks_vq": ["code", "uses"],
    **dict.fromkeys(("frozen_networks_reader", "frozen_networks_siglip", "frozen_networks_probe"), READINGS),
    **dict.fromkeys(("mutual_benefit", "mutual_benefit_generation", "mutual_benefit_time"), SCORES),
    "mutual_benefit_features": SCORES,
    "mutual_benefit_watches": ["architecture", "regime", "seed", "position", "request"],
    "mutual_benefit_differences": ["architecture", "baseline", "metric", "attribute", "when", "difference", "low",
                                   "high", "p", "seeds"],
    "data_scaling": [*SCORES[:3], *claims.FACTORS, *SCORES[3:]],
    "data_scaling_exchange": ["architecture", "seed", "generation_rows", "worth", "rate", "beyond"],
    "data_scaling_matching": list(claims.COLUMNS),
    **dict.fromkeys(("affine_alignment", "affine_alignment_sharing"), [*SCORES, *DISTORTED]),
    "affine_alignment_families": ["architecture", "family", "dose", "side", "place", "seed", "cost", "regime"],
    **dict.fromkeys(("affine_alignment_measured", "affine_alignment_layers"), [
        "architecture", "family", "dose", "place", "seed", "sharing", "fraction", "metric", "attribute", "alignment",
        "benefit"]),
    **dict.fromkeys(("attribute_transfer", "attribute_transfer_constrained", "attribute_transfer_kappa"), [
        "architecture", "arm", "rare", "rate", "rare_in", "seed", "value"]),
    **dict.fromkeys(("attribute_transfer_confusion_weather", "attribute_transfer_reverse"), [
        *SCORES[:3], "record", *SCORES[3:], *RARE]),
    "embedding_probes": ["architecture", "regime", "arm", "rare", "rate", "rare_in", "seed", "attribute", "samples",
                         "accuracy", "control", "place", "selectivity", "chance"],
    "embedding_probes_tokens": ["place", "token", "attribute", "accuracy", "control", "selectivity", "chance",
                                "samples", "model"],
    "embedding_probes_maps": ["method", "image", "x", "y", "model", "place", *CLASSES],
    "embedding_probes_cka": ["models", "first", "second", "cka"],
    "embedding_probes_patching": ["attribute", "layer", "group", "effect", "low", "high", "flipped", "gap", "told",
                                  "samples", "model"],
    "captioned_pictures": SCORES,
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


def test_a_notebook_that_trains_says_at_its_head_what_a_run_takes(ran):
    for number in ("02", "03", "04", "05", "07"):
        (path,) = (ran / "build" / "smoke").glob(f"{number}_*.ipynb")
        said = [output["text"] for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
                for output in cell.outputs if output.output_type == "stream"]
        assert any(plan.header(profile("smoke")) in text for text in said)


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
    assert set(table["regime"]) == set(experiments.ARMS) and set(table["architecture"]) == set(ARCHITECTURES)
    assert {path.stem for path in (ran / "records").glob("*.json")} > set(keys)
    assert len(keys) == 2 + 2 + 4 + 1  # of one task by its space, unified, the control


def test_a_second_run_trains_nothing_and_draws_the_same(ran, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (ran / "records").iterdir()}
    assert all(execute_into(ran, f"--notebook={number}", f"--figures={tmp_path}") == 0 for number in ("02", "03"))
    assert {path: path.stat().st_mtime_ns for path in (ran / "records").iterdir()} == before
    for name in ("mutual_benefit.csv", "mutual_benefit.png", "mutual_benefit_watches.png", "data_scaling.png"):
        assert (tmp_path / name).read_bytes() == (ran / "figures" / name).read_bytes()


# What the figures draw


def scores(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table as `experiments.run` gives it, out of random numbers."""
    rng = np.random.default_rng(0)
    rows = []
    for architecture in architectures:
        read = claims.generation_metric(architecture)
        distance = {"read_back": "reader_frechet", "feature_read_back": "feature_frechet"}[read]
        for arm in experiments.ARMS:
            metrics = [("partial", name) for name in (*ATTRIBUTES, *TIME_PARTS, "total") if arm != "generation"]
            if arm != "understanding":
                metrics += [(read, name) for name in (*ATTRIBUTES, *TIME_PARTS, "total")]
                metrics += [(distance, "9 against 9"), (f"{distance}_floor", "9 against 9")]
            rows += [(architecture, arm, seed, fraction, metric, name, rng.random(), 9) for seed in range(seeds)
                     for fraction in (0.05, 0.5, 1.0) for metric, name in metrics]
            if arm == "unified":  # measured before training too
                rows += [(architecture, arm, seed, 0.0, "alignment_cka", "adapter", rng.random(), 9)
                         for seed in range(seeds)]
    return pd.DataFrame(rows, columns=SCORES)


def differences(table) -> pd.DataFrame:
    rows = []
    for name in dict.fromkeys(table["architecture"]):
        for baseline, metric in (("understanding", "partial"), ("generation", claims.generation_metric(name))):
            for attribute in ("total", *ATTRIBUTES):
                for when in ("while learning", "at the end"):
                    by_seed = claims.benefit(table[table["architecture"] == name], baseline, metric, attribute)
                    rows.append((name, baseline, metric, attribute, when, *mean_interval(by_seed), 0.5, len(by_seed)))
    return pd.DataFrame(rows, columns=COLUMNS["mutual_benefit_differences"])


def scaling(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table as that of `experiments.data_scaling`, out of random numbers."""
    rng, rows = np.random.default_rng(1), []
    for name in architectures:
        runs = [("understanding", 100 * times, 0, "understanding") for times in (0.25, 0.5, 1, 2, 3)]
        runs += [("unified", 100, 100 * times, "understanding") for times in (0.5, 1, 2, 3)]
        runs += [("generation", 0, 100, "generation")]
        runs += [("unified", 100 * times, 100, "generation") for times in (0.5, 1, 2, 3)]
        rows += [(name, regime, seed, *sizes, 1.0, metric, attribute, 0.5 + 0.3 * rng.random(), 9)
                 for regime, *sizes in runs for seed in range(seeds) for attribute in ("total", "time")
                 for metric in ("partial", claims.generation_metric(name))]
    return pd.DataFrame(rows, columns=COLUMNS["data_scaling"])


def judged(architectures=("VQ-VQ",)) -> pd.DataFrame:
    table = scores(architectures)
    table = table[table["regime"].isin(("understanding", "unified"))]
    return claims.judge_matching(dict.fromkeys(experiments.MATCHINGS, table), 100)


def distorted(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table as that of `experiments.alignment_table`, out of random numbers."""
    rng, rows = np.random.default_rng(2), []
    plain = ("none", 0.0, "understanding", "before")
    for name in architectures:
        arms = [(regime, *how, "shared") for regime in ("understanding", "unified")
                for how in (plain, ("affine", 1.0, *plain[2:]), ("authors", 0.3, *plain[2:]),
                            ("affine", 1.0, "understanding", "after"))]
        arms += [("unified", *plain, "separate"), ("unified", "affine", 1.0, *plain[2:], "separate"),
                 ("unified", "affine", 1.0, "generation", "before", "shared")]
        for (regime, *how), seed in itertools.product(arms, range(seeds)):
            rows += [(name, regime, seed, 1.0, "partial", attribute, 0.6 + 0.3 * rng.random(), 9, *how)
                     for attribute in ("total", *ATTRIBUTES)]
            rows += [(name, regime, seed, fraction, f"alignment_{measure}", where, rng.random(), 9, *how)
                     for fraction in (0.0, 1.0) for measure in MEASURES for where in ("adapter", "layer 1")
                     if regime == "unified"]
    return pd.DataFrame(rows, columns=[*SCORES, *DISTORTED])


def transferred(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table as that of `experiments.transfer_table`, out of random numbers."""
    rng, rows = np.random.default_rng(4), []
    rare = [("weather", rate, "understanding", arm) for rate in (0.0, 0.1)
            for arm in ("understanding", "unified", "absent", "shuffled")]
    rare += [("weather", 0.1, "generation", arm) for arm in ("generation", "unified")]
    rare += [("none", 1.0, "none", arm) for arm in REGIMES]
    for name, how, seed in itertools.product(architectures, rare, range(seeds)):
        regime = how[3] if how[3] in REGIMES else "unified"
        found = [(metric, attribute) for attribute in ATTRIBUTES
                 for metric in ("partial", claims.generation_metric(name))]
        found += [("confusion", f"weather: {true} > {said}") for true in WEATHERS for said in (*WEATHERS, "none")]
        found += [(metric, f"{attribute}, {place}") for metric in ("probe", "probe_control") for attribute in CLASSES
                  for place in ("encoder", "adapter", "layer 1")] + [("constrained", "weather")]
        rows += [(name, regime, seed, 1.0, metric, attribute, rng.random(), 9, *how) for metric, attribute in found]
    return pd.DataFrame(rows, columns=[*SCORES, *RARE])


def probed(architectures=("VQ-VQ",)) -> pd.DataFrame:
    """What `embedding_probes` draws, out of random numbers."""
    table = experiments.probe_table(transferred(architectures))
    levels = [(name, arm, 0, attribute, level, 0.3) for attribute in CLASSES for name, arm, level in (
        ("any", "random features", 0.25), *((name, "encoder's tokens", 0.75) for name in architectures))]
    return pd.concat([table[table["rate"] != 0], pd.DataFrame(
        levels, columns=["architecture", "arm", "seed", "attribute", "accuracy", "control"])])


def pictured(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table as that of `experiments.pictures`, out of random numbers."""
    rng, rows = np.random.default_rng(5), []
    for name, regime, seed in itertools.product(architectures, (*REGIMES, "shuffled"), range(seeds)):
        told = [("token_accuracy", "caption"), ("caption_retrieval", "first 5")] if regime != "generation" else []
        drawn = [(claims.drawn_metric(name), "first 5")] + [
            (f"efficientnet_kernel{end}", "9 against 9") for end in ("", "_floor", "_tokenizer")] if (
            regime != "understanding") else []
        rows += [(name, regime, seed, 1.0, metric, attribute, rng.random(), 50) for metric, attribute in told + drawn]
    return pd.DataFrame(rows, columns=SCORES)


def cosines(architectures=("VQ-SigLIP",), seeds=3) -> pd.DataFrame:
    """A table as that of `figures_benefit.mutual_benefit_features`, out of random numbers."""
    rng = np.random.default_rng(3)
    rows = [(name, regime, seed, 1.0, f"feature_cosine{end}", attribute, rng.random(), 9) for name in architectures
            for regime in ("generation", "unified") for seed in range(seeds) for end in ("", "_forced", "_floor")
            for attribute in ("all", "weather", "battery", "time")]
    rows += [(None, None, None, 1.0, "feature_cosine_ceiling", attribute, 0.9, 9) for attribute in ("all", "time")]
    return pd.DataFrame(rows, columns=SCORES)


def panel(figure, title: str, row: int = 0):
    """The axes of a column of `mutual_benefit`, which has five in each row."""
    titles = [axes.get_title() for axes in figure.axes[:5]]
    return figure.axes[5 * row + titles.index(title)]


def curve(axes, arm: str):
    """The line of an arm."""
    return next(line for line in axes.lines if line.get_marker() == figures.LINES[arm]["marker"])


DRAWN = {  # figure -> its picture out of random numbers about some architectures
    "mutual_benefit": lambda names: figures_benefit.mutual_benefit(scores(names), "understanding", experiments.AUTHORS),
    "mutual_benefit_generation": lambda names: figures_benefit.mutual_benefit(scores(names), "generation"),
    "mutual_benefit_time": lambda names: figures_benefit.mutual_benefit_time(
        scores(names), {kind: dict.fromkeys(TIME_PARTS, 0.7) for kind in ("VQ", "SigLIP")}),
    "mutual_benefit_differences": lambda names: figures_benefit.mutual_benefit_differences(differences(scores(names))),
    "data_scaling": lambda names: figures_benefit.data_scaling(scaling(names), 100),
    "data_scaling_exchange": lambda names: figures_benefit.data_scaling_exchange(scaling(names), 100, 1.5),
    "data_scaling_matching": lambda names: figures_benefit.data_scaling_matching(judged(names)),
    "mutual_benefit_features": lambda names: figures_benefit.mutual_benefit_features(cosines(names)),
    "affine_alignment": lambda names: figures_alignment.affine_alignment(distorted(names),
                                                                         experiments.AUTHORS_DISTORTED),
    "affine_alignment_families": lambda names: figures_alignment.affine_alignment_families(distorted(names)),
    "affine_alignment_sharing": lambda names: figures_alignment.affine_alignment_sharing(distorted(names)),
    "affine_alignment_measured": lambda names: figures_alignment.affine_alignment_measured(
        claims.alignment_benefit(distorted(names))),
    "affine_alignment_layers": lambda names: figures_alignment.affine_alignment_layers(
        claims.alignment_benefit(distorted(names))),
    "attribute_transfer": lambda names: figures_transfer.attribute_transfer(transferred(names)),
    "attribute_transfer_constrained": lambda names: figures_transfer.attribute_transfer(transferred(names),
                                                                                        "constrained"),
    "attribute_transfer_reverse": lambda names: figures_transfer.attribute_transfer_reverse(transferred(names)),
    "attribute_transfer_kappa": lambda names: figures_transfer.attribute_transfer(
        claims.kappas(transferred(names)), "kappa"),
    "embedding_probes": lambda names: figures_probes.embedding_probes(probed(names)),
    "captioned_pictures": lambda names: figures_pictures.captioned_pictures(pictured(names)),
}


@pytest.mark.parametrize("draw", [
    figures_data.data_gallery, figures_data.data_statistics, figures_data.frozen_networks_readings,
    lambda table: figures_data.frozen_networks_vq(table, {"watch": np.zeros((1, 8, 8, 3))}),
    lambda table: figures_benefit.mutual_benefit(table, "understanding"), figures_benefit.mutual_benefit_time,
    lambda table: figures_benefit.mutual_benefit_watches(table, {"unified": np.zeros((1, 8, 8, 3))}),
    figures_benefit.mutual_benefit_differences, lambda table: figures_benefit.data_scaling(table, 100),
    lambda table: figures_benefit.data_scaling_exchange(table, 100, 1.5), figures_benefit.data_scaling_matching,
    figures_benefit.mutual_benefit_features, figures_alignment.affine_alignment,
    figures_alignment.affine_alignment_families, figures_alignment.affine_alignment_sharing,
    figures_alignment.affine_alignment_measured, figures_alignment.affine_alignment_layers,
    figures_transfer.attribute_transfer, figures_transfer.attribute_transfer_reverse,
    lambda table: figures_transfer.attribute_transfer_confusion(table, "weather", 0.1),
    figures_probes.embedding_probes, figures_probes.embedding_probes_cka,
    lambda table: figures_probes.embedding_probes_tokens(table, "weather"),
    lambda table: figures_probes.embedding_probes_maps(table, "weather"), figures_probes.embedding_probes_patching,
    figures_pictures.captioned_pictures])
def test_an_empty_table_is_refused_in_one_sentence(draw):
    every = {name for columns in COLUMNS.values() for name in columns} | {"chance"}
    with pytest.raises(ValueError, match="^The table of figure '[a-z_]+' is empty; it needs at least one row.$"):
        draw(pd.DataFrame(columns=sorted(every)))


def test_a_table_without_a_column_that_is_drawn_is_refused_by_name():
    with pytest.raises(ValueError, match="'mutual_benefit' has no column 'fraction'"):
        figures_benefit.mutual_benefit(scores().drop(columns="fraction"), "understanding")


def test_an_unknown_task_and_a_table_without_any_of_its_scores_are_refused():
    with pytest.raises(ValueError, match="task 'both' is not one of understanding, generation"):
        figures_benefit.mutual_benefit(scores(), "both")
    with pytest.raises(ValueError, match="has no score of generation"):
        figures_benefit.mutual_benefit(scores().assign(metric="partial"), "generation")


def test_watches_that_are_fewer_than_their_requests_are_refused():
    with pytest.raises(ValueError, match="needs 2 images for each"):
        figures_benefit.mutual_benefit_watches(pd.DataFrame({"request": ["a", "b"]}),
                                               {"unified": np.zeros((1, 8, 8, 3))})


@pytest.mark.parametrize("name", DRAWN)
def test_an_architecture_has_one_colour_in_every_figure_and_no_other_architecture_has_it(name):
    def colours(architecture):
        lines = [line for axes in DRAWN[name]((architecture,)).axes for line in axes.lines]
        return {to_hex(line.get_color()) for line in lines} & set(figures.COLOURS.values())

    assert [colours(architecture) for architecture in figures.COLOURS] == [{c} for c in figures.COLOURS.values()]


def test_the_line_is_the_mean_over_seeds_and_the_band_its_interval():
    table = scores()
    axes = panel(figures_benefit.mutual_benefit(table, "understanding"), "weather")
    chosen = table[(table["regime"] == "unified") & (table["metric"] == "partial") & (table["attribute"] == "weather")]
    assert curve(axes, "unified").get_ydata() == pytest.approx(chosen.groupby("fraction")["value"].mean().tolist())
    low, high = mean_interval(chosen.loc[chosen["fraction"] == 1, "value"])[1:]
    edges = [band.get_paths()[0].vertices for band in axes.collections]
    assert any({round(y, 6) for x, y in edge if x == 1} == {round(low, 6), round(high, 6)} for edge in edges)


def test_the_axis_starts_at_the_first_score_and_not_where_alignment_is_measured_before_training():
    table = scores()
    axes = panel(figures_benefit.mutual_benefit(table[table["fraction"] != 0.05], "understanding"), "weather")
    assert axes.get_xlim()[0] == pytest.approx(0.8 * 0.5) and list(axes.get_xticks()) == [0.5, 1]


def test_corners_are_the_mean_of_the_two():
    table = scores()
    axes = panel(figures_benefit.mutual_benefit(table, "generation"), "corners")
    chosen = table[(table["regime"] == "generation") & (table["metric"] == "read_back")
                   & table["attribute"].isin(("weather_corner", "battery_corner"))]
    assert curve(axes, "generation").get_ydata() == pytest.approx(chosen.groupby("fraction")["value"].mean().tolist())


def test_each_architecture_has_its_row_and_its_own_space():
    figure = figures_benefit.mutual_benefit(scores(ARCHITECTURES), "generation")
    assert [figure.axes[5 * row].get_ylabel() for row in range(4)] == [
        "SigLIP-VQ\nfrom pixels", "VQ-VQ\nfrom pixels", "SigLIP-SigLIP\nfrom features", "VQ-SigLIP\nfrom features"]


@pytest.mark.parametrize(("task", "title", "chance"), [
    ("understanding", "weather", CHANCE["weather"]), ("understanding", "corners", 0.25),
    ("understanding", "total", sum(CHANCE[name] for name in ATTRIBUTES) / 5), ("generation", "weather", 1 / 3),
    ("generation", "battery within 10",
     np.mean(np.abs(np.subtract.outer(np.arange(101), np.arange(101))) <= BATTERY_TOLERANCE))])
def test_chance_is_drawn_where_guessing_ends_up(task, title, chance):
    axes = panel(figures_benefit.mutual_benefit(scores(), task), title)
    assert any(line.get_ydata() == pytest.approx([chance, chance]) and to_hex(line.get_color()) == "#767676"
               for line in axes.lines)


def test_the_authors_record_is_grey_and_only_where_it_compares():
    figure = figures_benefit.mutual_benefit(scores(("VQ-VQ", "SigLIP-SigLIP")), "understanding", experiments.AUTHORS)
    marks = {(row, title): line for row in (0, 1) for title in ("time", "total", "weather")
             for line in panel(figure, title, row).lines if line.get_marker() == "D" and len(line.get_xdata())}
    assert set(marks) == {(0, "time"), (0, "total"), (1, "total")}
    assert marks[0, "total"].get_ydata() == pytest.approx([0.891, 0.940])
    assert {to_hex(line.get_color()) for line in marks.values()} == {"#767676"}


def test_dots_of_the_scaling_figure_are_means_at_their_number_of_rows():
    table = scaling()
    axes = figures_benefit.data_scaling(table, 100).axes[0]
    chosen = table[(table["understanding_rows"] == 100) & (table["batch_counts"] == "understanding")
                   & (table["metric"] == "partial") & (table["attribute"] == "total")]
    line = next(line for line in axes.lines if len(line.get_xdata()) == 5)
    assert line.get_ydata() == pytest.approx(chosen.groupby("generation_rows")["value"].mean().tolist())


def gallery() -> pd.DataFrame:
    return pd.DataFrame([{"panel": panel, "size": size, "row": 0, "column": column, **vars(watch)}
                         for panel, size in (("grid", 64), ("line", 224))
                         for column, watch in enumerate(sample_watches(1, 2))])


def pictures(count) -> np.ndarray:
    return np.zeros((count, 64, 64, 3), np.uint8)


LONG = "please draw a watch where the battery is in the bottom right corner, the time is 01:02:03, it is raining."
OTHERS = {
    "data_gallery": lambda: figures_data.data_gallery(gallery()),
    "frozen_networks_vq": lambda: figures_data.frozen_networks_vq(
        pd.DataFrame({"code": range(9), "uses": range(9)}), dict.fromkeys(("watch", "from features"), pictures(6))),
    "mutual_benefit_watches": lambda: figures_benefit.mutual_benefit_watches(
        pd.DataFrame({"request": [LONG] * 7}),
        {"watch": pictures(7), **{f"SigLIP-SigLIP {regime}": pictures(7) for regime in REGIMES}}),
}


@pytest.mark.parametrize("names", [("VQ-VQ",), ARCHITECTURES], ids=["one", "all"])
@pytest.mark.parametrize("name", DRAWN)
def test_nothing_leaves_the_figure_and_no_panel_touches_another(name, names):
    check_layout(DRAWN[name](names))


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_leaves_the_other_figures_either(name):
    check_layout(OTHERS[name]())


@pytest.mark.parametrize("name", ["data_statistics", "frozen_networks_reader", "frozen_networks_siglip",
                                  "frozen_networks_probe"])
def test_a_figure_drawn_again_from_its_csv_fits(ran, name):
    draw = figures_data.data_statistics if name == "data_statistics" else figures_data.frozen_networks_readings
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


def test_the_affine_figure_shows_the_mean_over_seeds_at_each_dose():
    table = distorted()
    axes = figures_alignment.affine_alignment(table).axes[0]
    assert axes.get_title() == "total, affine"
    total = table[(table["metric"] == "partial") & (table["attribute"] == "total") & (table["sharing"] == "shared")
                  & (table["side"] == "understanding") & (table["place"] == "before")]
    for regime in ("understanding", "unified"):
        own = total[total["regime"] == regime]
        wanted = [own.loc[own["family"] == family, "value"].mean() for family in ("none", "affine")]
        assert curve(axes, regime).get_ydata() == pytest.approx(wanted)
        assert curve(axes, regime).get_xdata() == pytest.approx([0.0, 1.0], abs=0.02)  # a little apart, to be seen


def test_confusions_are_drawn_as_they_are_and_a_rate_without_any_is_refused():
    table = transferred()
    figure = figures_transfer.attribute_transfer_confusion(table, "weather", 0.1)
    own = table[(table["arm"] == "absent") & (table["rate"] == 0.1) & (table["attribute"] == "weather: sunny > none")]
    absent = next(axes for axes in figure.axes if axes.get_title() == "unified,\nnot in the requests")
    first = absent.collections[0].get_array().reshape(3, 4)[0]
    assert first[3] == pytest.approx(own["value"].mean())
    with pytest.raises(ValueError, match="no confusions of 'weather' at rate 0.5"):
        figures_transfer.attribute_transfer_confusion(table, "weather", 0.5)


def test_probes_are_held_against_random_features_and_the_encoders_tokens():
    for axes in figures_probes.embedding_probes(probed()).axes:
        levels = {line.get_linestyle(): line.get_ydata()[0] for line in axes.lines
                  if len(set(line.get_ydata())) == 1 and to_hex(line.get_color()) == "#767676"}
        assert (levels["-."], levels["-"]) == (0.25, 0.75)  # as the legend has them


@pytest.mark.parametrize(("draw", "words"), [
    (lambda: figures_transfer.attribute_transfer(transferred(), "exact"),
     "metric 'exact' is not one of partial, constrained, kappa"),
    (lambda: figures_transfer.attribute_transfer_confusion(transferred(), "colour", 0.1),
     "rare attribute 'colour' is not one of weather, battery, corners, time"),
    (lambda: figures_transfer.attribute_transfer_reverse(transferred().assign(rare_in="understanding")),
     "The table has no scores of a rare attribute to draw"),
    (lambda: figures_probes.embedding_probes(probed()[lambda table: table["attribute"] != "hour"]),
     "has no probes of hour"),
    (lambda: figures_probes.embedding_probes_tokens(pd.DataFrame(
        [("unified", "adapter", "pooled", "weather", 0.5)],
        columns=["model", "place", "token", "attribute", "selectivity"]), "weather"),
     "no probes of single tokens for attribute 'weather'")])
def test_what_a_figure_of_transfer_or_probes_cannot_show_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_pictures_of_tokens_maps_and_patches_have_a_panel_for_each_model():
    rng, models = np.random.default_rng(0), ("understanding", "unified")
    tokens = pd.DataFrame([(model, place, str(token), "weather", rng.random()) for model in models
                           for place in ("adapter", "layer 1") for token in range(16)],
                          columns=["model", "place", "token", "attribute", "selectivity"])
    figure = figures_probes.embedding_probes_tokens(tokens, "weather")
    assert [axes.get_ylabel() for axes in figure.axes[:4]] == ["understanding", "", "unified", ""]
    shown = figure.axes[3].images[0].get_array()
    assert shown.ravel().tolist() == pytest.approx(tokens["selectivity"][-16:].tolist())
    maps = pd.DataFrame([(model, "adapter", "UMAP", image, rng.random(), rng.random(), WEATHERS[image % 3])
                         for model in models for image in range(9)],
                        columns=["model", "place", "method", "image", "x", "y", "weather"])
    figure = figures_probes.embedding_probes_maps(maps, "weather")
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    groups = ("image", "question", "last", "all")
    effects = pd.DataFrame([(model, "weather", layer, group, layer / 2, layer / 2 - 0.1, layer / 2 + 0.3, told, 9)
                            for model, told in zip(models, (0.25, 1.0), strict=True) for layer in range(3)
                            for group in groups],
                           columns=["model", "attribute", "layer", "group", "effect", "low", "high", "told", "samples"])
    figure = figures_probes.embedding_probes_patching(effects)
    assert [axes.get_title() for axes in figure.axes] == [
        "understanding\n(25% of pairs told apart)", "unified\n(100% of pairs told apart)"]
    for bars in (bars for axes in figure.axes for bars in axes.collections):  # one of each layer, in view
        assert [tuple(bar[:, 1]) for bar in bars.get_segments()] == [(k / 2 - 0.1, k / 2 + 0.3) for k in range(3)]
        assert bars.axes.get_ylim()[0] < -0.1 and bars.axes.get_ylim()[1] > 1.3
    cka = pd.DataFrame(itertools.product(["a / b"], ["adapter", "layer 1"], ["adapter", "layer 1"], [0.5]),
                       columns=["models", "first", "second", "cka"])
    (axes,) = figures_probes.embedding_probes_cka(cka).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("b", "a")
