"""The report and the index notebook: complete, and without a network."""

import re

import nbformat
import pytest

from uvlm_core import report
from uvlm_core.report import ROOT, Summary, write_report
from uvlm_core.studies import studies

PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08"
    b"\x00\x00\x00\x00:~\x9bU"
    b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)


@pytest.fixture
def told(monkeypatch):
    """Two studies in short; their records are of no matter here."""
    found = [
        Summary(
            study,
            f"{study.number:02d}_{study.name}",
            next(iter(study.figures)),
            "It <shows>",
            "It <depends>.",
        )
        for study in studies()[:2]
    ]
    monkeypatch.setattr(report, "summaries", lambda *arguments: found)
    return found


@pytest.fixture
def written(told, tmp_path):
    (tmp_path / "executed").mkdir()
    (tmp_path / "figures").mkdir()
    for each in told:
        output = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
        cells = [
            nbformat.v4.new_markdown_cell("# Title\n\nSee [results](../docs/results.md#claims)."),
            nbformat.v4.new_code_cell("study.show('x')", outputs=[output], execution_count=1),
        ]
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells), tmp_path / "executed" / f"{each.notebook}.ipynb"
        )
        for kind in ("png", "pdf", "csv", "json"):
            (tmp_path / "figures" / f"{each.figure}.{kind}").write_bytes(PIXEL)
    page = write_report(
        "smoke", tmp_path / "executed", tmp_path / "figures", tmp_path / "runs", tmp_path / "report"
    )
    return page.parent


def test_the_first_page_leads_to_every_study_and_its_figure(written, told):
    page = (written / "index.html").read_text()
    for each in told:
        assert f'href="{each.notebook}.html"' in page and f'src="figures/{each.figure}.png"' in page
    assert "It &lt;shows&gt;." in page and "It &lt;depends&gt;." in page


def test_every_page_opens_without_a_network_and_every_file_that_it_names_is_there(written):
    for page in written.glob("*.html"):
        text = page.read_text()
        assert "<script" not in text and "<link" not in text and "@import" not in text
        for address in re.findall(r'src="([^"]*)"', text):
            assert address.startswith("data:") or (written / address).exists(), (page.name, address)
        for address in re.findall(r'href="([^"#]+)', text):
            outside = re.match(r"https?:|mailto:|\.\./", address)
            assert outside or (written / address).exists() or address.endswith(".html"), (
                page.name,
                address,
            )


def test_pictures_of_an_executed_notebook_are_in_its_page_and_its_links_lead_to_pages(
    written, told
):
    page = (written / f"{told[0].notebook}.html").read_text()
    assert 'src="data:image/png;base64,' in page and 'href="results.html#claims"' in page


def test_a_notebook_that_was_not_executed_is_named_and_the_earlier_report_stays(told, tmp_path):
    earlier = tmp_path / "report"
    earlier.mkdir()
    (earlier / "index.html").write_text("earlier")
    with pytest.raises(
        ValueError, match=f"{told[0].notebook}.ipynb is missing; run `make figures` first"
    ):
        write_report("smoke", tmp_path, tmp_path, tmp_path, earlier)
    assert (earlier / "index.html").read_text() == "earlier"


def test_the_index_notebook_is_the_one_that_the_records_make():
    assert report.INDEX.read_text() == report.index_notebook(), "`make scoreboard` writes it again"


def test_the_index_names_every_notebook_and_pictures_that_are_there():
    text = report.INDEX.read_text()
    for path in set((ROOT / "notebooks").glob("*.ipynb")) - {report.INDEX}:
        assert f"({path.name})" in text
    pictures = re.findall(r'src=\\"([^"\\]+)', text)
    assert pictures and all((report.INDEX.parent / picture).exists() for picture in pictures)
