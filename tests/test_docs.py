"""The README and docs/: their links lead somewhere, their code runs, and they name every metric."""

import re

import numpy as np
import pandas as pd
import pytest

from uvlm_core.environment import ROOT
from uvlm_core.runs.store import RunStore

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page) -> set[str]:
    """The anchors that GitHub gives a page's headings, and those that the page sets itself."""
    text = FENCED.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_to_a_file_and_a_heading(page):
    links = LINK.findall(FENCED.sub("", page.read_text()))
    for link in (link for link in links if "://" not in link):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_links_every_page():
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


@pytest.mark.parametrize("page", ["README.md", "docs/own_data.md"])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    text = (ROOT / page).read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 15
    monkeypatch.setenv("UVLM_CACHE", str(tmp_path))
    names = {}
    exec(code.replace('profile("laptop")', 'profile("smoke")'), names)
    assert np.asarray(names["drawn"]).shape[-3:] == (64, 64, 3)
    assert capsys.readouterr().out


def test_every_metric_of_the_records_is_explained():
    text = (ROOT / "docs" / "metrics.md").read_text()
    named = {word for words in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"\W+", words)}
    store = RunStore(ROOT / "figures" / "runs" / "laptop")
    metrics = {score["metric"] for record in store.all() for score in record["scores"]}
    # real pictures and reconstructions are scored beside what is generated
    stems = {re.sub("_(floor|tokenizer)$", "", metric) for metric in metrics}
    assert stems and not stems - named


def test_every_number_of_the_findings_is_a_difference_of_the_scoreboard():
    text = (ROOT / "README.md").read_text()
    (found,) = re.findall(r"^## What was found\n(.*?)^!\[", text, re.MULTILINE | re.DOTALL)
    rows = pd.read_csv(ROOT / "figures" / "laptop" / "scoreboard.csv")
    # rates of exchange stand on the scoreboard as their distance from 1
    rates = rows.loc[rows["quantity"].str.endswith("minus 1"), "difference"] + 1
    known = {f"{abs(value):.2f}"[1:] for value in [*rows["difference"], *rates]}
    numbers = re.findall(r"(?<![\d.])\.\d\d\b", found)
    assert len(numbers) > 5 and set(numbers) <= known, set(numbers) - known
