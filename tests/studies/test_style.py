"""Figures: one style for each arm, and files that belong together and depend on their input
only.
"""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from uvlm_core.runs import provenance
from uvlm_core.studies import style as figures
from uvlm_core.training.spec import ARCHITECTURES, REGIMES

DATA = pd.DataFrame({"architecture": "VQ-VQ", "seed": [1, 0], "value": [0.1 + 0.2, 1 / 3]})
FACTS = {"profile": "smoke", "seeds": 2, "date": "2026-11-22"}


def draw(values=DATA.value):
    with figures.theme():
        figure, axes = plt.subplots()
        axes.plot(values, **figures.style("VQ-VQ", "unified"), label="unified")
        axes.axhline(0.25, **figures.REFERENCES["chance"])
        axes.set_xlabel("seed")
        axes.legend()
        figures.stamp(figure, "smoke", 2, 1)
    plt.close(figure)
    return figure


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return figures.save_figure(draw(), DATA, "curves", tmp_path_factory.mktemp("saved"), FACTS)


def test_a_saved_figure_is_a_picture_a_document_its_data_and_its_provenance(saved):
    assert {path.name for path in saved["png"].parent.iterdir()} == {
        f"curves.{kind}" for kind in saved
    }
    assert saved["png"].read_bytes().startswith(b"\x89PNG") and saved[
        "pdf"
    ].read_bytes().startswith(b"%PDF")
    assert json.loads(saved["json"].read_text()) == FACTS


def test_the_data_read_back_to_six_digits_and_in_their_order(saved):
    assert saved["csv"].read_text().splitlines() == [
        "architecture,seed,value",
        "VQ-VQ,1,0.3",
        "VQ-VQ,0,0.333333",
    ]


def test_equal_input_gives_equal_bytes(saved, tmp_path):
    again = figures.save_figure(draw(), DATA, "curves", tmp_path, FACTS)
    assert {kind: path.read_bytes() for kind, path in again.items()} == {
        kind: path.read_bytes() for kind, path in saved.items()
    }


def saved_again(folder, data=DATA, facts=FACTS, values=DATA.value) -> bool:
    """Whether saving again rewrites the figure."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    figures.save_figure(draw(values), data, "curves", folder, facts)
    return {path: path.read_bytes() for path in folder.iterdir()} != before


def test_files_that_say_the_same_are_not_rewritten(tmp_path):
    figures.save_figure(draw(), DATA, "curves", tmp_path, FACTS)
    assert not saved_again(
        tmp_path, facts=FACTS | {"date": "2027-01-01", "versions": {"python": "3.11.99"}}
    )
    assert not saved_again(tmp_path, data=DATA.assign(value=DATA.value * (1 + 1e-9)))
    assert not saved_again(tmp_path, values=DATA.value * (1 + 1e-4))  # a fraction of a pixel


def test_other_data_other_facts_and_another_picture_are_written(tmp_path):
    figures.save_figure(draw(), DATA, "curves", tmp_path, FACTS)
    assert saved_again(tmp_path, data=DATA.assign(value=DATA.value + 1e-3))
    assert saved_again(tmp_path, facts=FACTS | {"seeds": 3})
    assert saved_again(tmp_path, values=DATA.value[::-1].tolist())
    (tmp_path / "curves.pdf").unlink()
    assert saved_again(tmp_path)


def test_the_document_of_a_figure_that_has_not_changed_is_not_drawn_again(tmp_path, monkeypatch):
    earlier = figures.save_figure(draw(), DATA, "curves", tmp_path / "earlier", FACTS)["pdf"]
    earlier.write_bytes(b"as it was")
    monkeypatch.setenv("UVLM_FIGURES", str(tmp_path / "earlier"))
    same = figures.save_figure(draw(), DATA, "curves", tmp_path / "same", FACTS)["pdf"]
    other = figures.save_figure(draw([1, 2]), DATA, "curves", tmp_path / "other", FACTS)["pdf"]
    assert same.read_bytes() == b"as it was" and other.read_bytes().startswith(b"%PDF")


def test_a_figure_that_cannot_be_drawn_leaves_the_earlier_one_untouched(tmp_path):
    paths = figures.save_figure(draw(), DATA, "curves", tmp_path, FACTS)
    before = {path: path.read_bytes() for path in paths.values()}
    broken = draw([1, 2])
    broken.axes[0].set_title("$\\no_such_command$")
    with pytest.raises(ValueError, match="no_such_command"):
        figures.save_figure(broken, DATA.head(1), "curves", tmp_path, FACTS | {"seeds": 3})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "../curves"}, "name '../curves' may hold lowercase letters"),
        ({"data": DATA.head(0)}, "'curves' has no data"),
        ({"provenance": {"seeds": float("nan")}}, "provenance of figure 'curves' is not JSON"),
        ({"provenance": {"seeds": {1}}}, "provenance of figure 'curves' is not JSON"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(change, sentence, tmp_path):
    arguments = {
        "data": DATA,
        "name": "curves",
        "folder": tmp_path / "new",
        "provenance": FACTS,
    } | change
    with pytest.raises(ValueError, match=sentence):
        figures.save_figure(draw(), **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to .*file.*: "):
        figures.save_figure(draw(), DATA, "curves", tmp_path / "file" / "folder", FACTS)


def test_every_architecture_has_a_colour_and_every_regime_a_line_of_its_own():
    styles = {
        (arm, regime): figures.style(arm, regime)
        for arm in ARCHITECTURES
        for regime in (*REGIMES, "shuffled")
    }
    assert len({style["color"] for style in styles.values()}) == len(ARCHITECTURES)
    assert (
        len({(style["linestyle"], style["marker"]) for style in styles.values()})
        == len(REGIMES) + 1
    )
    assert len({tuple(style.values()) for style in styles.values()}) == len(styles)


# what is left of linear RGB without one kind of cone (Machado et al. 2009, severity 1)
SEEN = {
    "all cones": np.eye(3),
    "no long": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no middle": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no short": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(colour: str, seen) -> np.ndarray:
    """A colour in CIE L*a*b*, as it is seen."""
    values = np.array(to_rgb(colour))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    found = xyz @ np.clip(seen @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    root = np.where(found > 0.008856, np.cbrt(found), 7.787 * found + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_colours_are_told_apart_by_colour_blind_readers(seen):
    *paper, latent = (lab(colour, np.array(seen)) for colour in figures.COLOURS.values())
    for one, other in itertools.combinations(paper, 2):
        assert np.linalg.norm(one - other) > 10  # just noticeable is 2.3
    references = [lab(colour, np.array(seen)) for colour in ("#767676", "black", "white")]
    for other in paper + references:
        assert np.linalg.norm(latent - other) > 30


def test_an_unknown_arm_is_refused_by_name():
    with pytest.raises(
        ValueError, match="architecture 'VQ' has no style; those with one are SigLIP-VQ"
    ):
        figures.style("VQ")
    with pytest.raises(ValueError, match="regime 'both' has no style"):
        figures.style("VQ-VQ", "both")


def test_the_theme_ends_where_it_ends():
    before = dict(plt.rcParams)
    with figures.theme():
        assert (
            min(plt.rcParams[name] for name in ("font.size", "xtick.labelsize", "legend.fontsize"))
            >= 7
        )
    assert dict(plt.rcParams) == before


def test_the_stamp_names_the_scale_and_touches_no_axis():
    figure = draw()
    figure.draw_without_rendering()
    (text,) = figure.texts
    assert text.get_text() == "smoke profile, 2 seeds, 1 run"
    assert text.get_window_extent().y1 <= figure.axes[0].get_tightbbox().y0
    assert text.get_window_extent().x1 <= figure.bbox.x1 and text.get_window_extent().y0 >= 0


def test_provenance_names_runs_versions_and_commit():
    facts = figures.provenance("laptop", 2, ["b", "a"], {"test watches": 500}, device="cpu")
    assert (
        facts["records"] == ["a", "b"]
        and facts["counts"] == {"test watches": 500}
        and facts["device"] == "cpu"
    )
    assert set(facts["versions"]) >= {"python", "torch", "transformers", "world"}
    assert facts["commit"] and facts["dirty"] in (True, False, "unknown")
    json.dumps(facts)


def test_provenance_without_git_says_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = figures.provenance("laptop", 2)
    assert (facts["commit"], facts["dirty"]) == ("unknown", "unknown")


def test_provenance_does_not_take_the_commit_of_a_checkout_around_the_project(
    monkeypatch, tmp_path
):
    inside = provenance.ROOT / "uvlm_core"
    monkeypatch.setattr(provenance, "ROOT", inside)
    assert figures.provenance("laptop", 2)["commit"] == "unknown"
