"""The scoreboard: one table, one picture, one page, from records that are there."""

import pandas as pd
import pytest
from study_tables import opened, pictured, scaling

from uvlm_core import report
from uvlm_core.studies import scoreboard
from uvlm_core.studies.base import VERDICT_COLUMNS

ROWS = [
    (
        "mutual_benefit",
        "understanding gains",
        "SigLIP-VQ",
        "total",
        "steps",
        0.2,
        0.1,
        0.3,
        8,
        "replicates",
    ),
    (
        "mutual_benefit",
        "understanding gains",
        "VQ-VQ",
        "total",
        "steps",
        0.0,
        -0.02,
        0.02,
        8,
        "no effect",
    ),
    (
        "mutual_benefit",
        "understanding gains",
        "VQ-SigLIP",
        "total",
        "steps",
        -0.2,
        -0.3,
        -0.1,
        8,
        "contradicts",
    ),
    (
        "data_scaling",
        "worth of a request",
        "VQ-VQ",
        "rate, minus 1",
        "steps",
        -1.3,
        -4.2,
        1.6,
        2,
        "undecided",
    ),
    (
        "affine_alignment",
        "not by sharing",
        "VQ-VQ, SigLIP-VQ",
        "total",
        "steps",
        0.1,
        None,
        None,
        1,
        "undecided",
    ),
]
VERDICTS = pd.DataFrame(ROWS, columns=VERDICT_COLUMNS)


def test_the_csv_has_these_columns():
    assert VERDICT_COLUMNS == (
        "study",
        "claim",
        "architecture",
        "quantity",
        "matching",
        "difference",
        "low",
        "high",
        "seeds",
        "verdict",
    )


def test_the_picture_shows_every_comparison_with_its_verdict_and_nothing_leaves_it():
    figure = scoreboard.draw_scoreboard(VERDICTS)
    (axes,) = figure.axes
    marks = [
        (line.get_xdata()[0], line.get_marker(), line.get_markerfacecolor())
        for line in axes.lines
        if line.get_marker() in "oXD" and line.get_markersize() == 3.5
    ]
    edge = 0.985 * scoreboard.REACH
    assert [(x, marker) for x, marker, _ in marks] == [
        (0.2, "o"),
        (0.0, "D"),
        (-0.2, "X"),
        (pytest.approx(-edge), "o"),
        (0.1, "o"),
    ]
    assert [face == "white" for *_, face in marks] == [False, False, False, True, True]
    figure.draw_without_rendering()
    texts = {text.get_text(): text for text in axes.texts}
    assert {"mutual benefit", "data scaling", "affine alignment"} <= set(texts)
    assert any(name.endswith("1.30") for name in texts)  # a number beyond the panel
    for text in texts.values():
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_the_page_explains_the_verdicts_and_groups_claims_by_study():
    found = [
        opened("data_scaling", scaling(("SigLIP-VQ", "VQ-VQ"))),
        opened("captioned_pictures", pictured(("VQ-VQ",))),
    ]
    page = scoreboard.results_page(found)
    assert (
        page.index("## What the verdicts mean")
        < page.index("## Data scaling")
        < page.index("## Captioned pict")
    )
    few = "**undecided**; a verdict needs 8 seeds |"
    rows = [line for line in page.splitlines() if line.startswith("|") and few in line]
    assert len(rows) == 7 * 2 + 3 and all(line.count("|") == 9 for line in rows)
    assert "no effect | the 90 % t interval" in page and "does not ask" in page


def test_a_comparison_that_two_studies_make_of_the_same_runs_counts_once():
    table = scaling(("SigLIP-VQ", "VQ-VQ"), seeds=3)
    found = [opened("data_scaling", table), opened("captioned_pictures", pictured(("VQ-VQ",)))]
    wanted = scoreboard.all_verdicts(found)
    twice = scoreboard.all_verdicts([found[0], opened("data_scaling", table), found[1]])
    pd.testing.assert_frame_equal(twice, wanted)
    assert set(wanted["study"]) == {"data_scaling", "captioned_pictures"}


@pytest.mark.parametrize("write", [scoreboard.main, report.main])
def test_an_unknown_profile_is_refused_and_nothing_is_written(write, capsys):
    index, page = report.INDEX.read_bytes(), (scoreboard.ROOT / "docs/results.md").read_bytes()
    assert write(["--profile=lapotp", *["--index"] * (write == report.main)]) == 2
    assert capsys.readouterr().err.startswith("profile 'lapotp' is not one of smoke, laptop")
    assert report.INDEX.read_bytes() == index
    assert (scoreboard.ROOT / "docs/results.md").read_bytes() == page


def test_missing_records_are_named_and_nothing_is_written(tmp_path, capsys):
    page = tmp_path / "results.md"
    assert (
        scoreboard.main(
            [
                f"--records={tmp_path}",
                f"--page={page}",
                f"--figures={tmp_path / 'figures'}",
                "--profile=smoke",
            ]
        )
        == 2
    )
    assert "There is no record" in capsys.readouterr().err
    assert not page.exists() and not (tmp_path / "figures").exists()


def test_the_committed_page_is_that_of_the_committed_records():
    found = scoreboard.load_all()
    assert scoreboard.results_page(found) == (scoreboard.ROOT / "docs" / "results.md").read_text(
        encoding="utf-8"
    )
