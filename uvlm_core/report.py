"""The report: executed notebooks, figures and docs as offline HTML pages (`make report`).

Belongs here: overviews of all studies, as pages and as `notebooks/index.ipynb`. Not here: the
scoreboard (`studies/scoreboard.py`), running notebooks (`notebooks.py`).

The pages hold no scripts. They load nothing from other machines, but may link to them.
"""

import argparse
import html
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uvlm_core.environment import ROOT
from uvlm_core.files import read_json
from uvlm_core.studies import studies
from uvlm_core.studies.base import Study, load_study

INDEX = ROOT / "notebooks" / "index.ipynb"
_WIDTH = 480  # px, of a thumbnail
_FRONT = """\
# Unified vision-language models: a replication suite

Does learning to draw help a model to understand, and the reverse? Models of one million parameters
answer questions about watches and draw them, on a laptop.

- [Playground](playground.ipynb): set a watch, ask trained models about it, and let them draw.
- [Explorer](explorer.ipynb): any score of any study, seed by seed, and the run behind it.
- Below: each study's question, what its records say, and its notebook.
- [Results](../docs/results.md): every claim and its verdict. [Metrics](../docs/metrics.md),
  [pitfalls](../docs/pitfalls.md), [your own data](../docs/own_data.md),
  [the paper's scale](../docs/paper_scale.md), [the log](../docs/log.md)."""
_STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; line-height: 1.45;
       font-family: system-ui, sans-serif; }
nav a { margin-right: 1rem; }
img { max-width: 100%; height: auto; }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; white-space: pre-wrap; }
.jp-OutputArea-output pre { background: none; padding: 0; }
.jp-InputPrompt, .jp-OutputPrompt, .jp-OutputArea-prompt, .anchor-link { display: none; }
table { border-collapse: collapse; font-size: .85rem; }
td, th { padding: .2rem .5rem; border-bottom: 1px solid #ddd; }
.study { border-top: 1px solid #ddd; padding: .5rem 0 1rem; }
"""


@dataclass(frozen=True)
class Summary:
    """A study in brief: its first figure and what that says, from the records."""

    study: Study
    notebook: str  # file name without the suffix
    figure: str
    headline: str  # of the figure as it was last saved, or the finding's first sentence
    finding: str  # empty while records are missing


def summaries(
    profile_name: str = "laptop", records: str | Path = "figures/runs/laptop"
) -> list[Summary]:
    """Return a summary of every study that is drawn in the profile and has a notebook, in order."""
    found = []
    for study in studies(profile_name):
        notebook, figure = f"{study.number:02d}_{study.name}", next(iter(study.figures))
        if not (INDEX.parent / f"{notebook}.ipynb").exists():
            continue  # its figures are in another study's notebook
        try:
            opened = load_study(study.name, profile_name, records)
            finding = study.findings[figure](opened) if figure in study.findings else ""
        except ValueError:  # no record yet
            finding = ""
        saved = ROOT / "figures" / profile_name / f"{figure}.json"
        headline = read_json(saved).get("headline") if saved.exists() else ""
        headline = (headline or finding.partition(". ")[0]).rstrip(".")
        found.append(Summary(study, notebook, figure, headline, finding))
    return found


def index_notebook(
    profile_name: str = "laptop", records: str | Path = "figures/runs/laptop"
) -> str:
    """Return the text of `notebooks/index.ipynb`: each study's question, headline and figure.

    Studies that wait for their runs come last, with their question. It has no code, so that
    JupyterLab shows it at once.
    """
    import nbformat

    cells = [_FRONT]
    for each in summaries(profile_name, records):
        picture = f"../figures/{profile_name}/{each.figure}.png"
        title = each.notebook[3:].replace("_", " ").capitalize()
        cells.append(
            f"## [{title}]({each.notebook}.ipynb)\n\n{each.study.question} (Paper section "
            f"{each.study.section}.)\n\n"
            + (f"**{each.headline}.**\n\n" if each.headline else "")
            + f'<img src="{picture}" alt="{each.figure}" width="{_WIDTH}">'
        )
    waiting = [study for study in studies() if profile_name in study.waiting]
    if waiting:
        told = [
            f"- [{study.name.replace('_', ' ').capitalize()}]({study.number:02d}_{study.name}"
            f".ipynb): {study.question[0].lower()}{study.question[1:]}"
            for study in waiting
        ]
        cells.append("## Questions whose runs are still to be made\n\n" + "\n".join(told))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(text, id=str(number)) for number, text in enumerate(cells)
        ],
        metadata={"kernelspec": kernel, "language_info": {"name": "python"}},
    )
    return nbformat.writes(notebook) + "\n"


def write_report(
    profile_name: str, executed: Path, figures: Path, records: Path, folder: Path
) -> Path:
    """Write the report into `folder`, whole or not at all, and return its first page.

    Args:
        profile_name: profile of the records and figures.
        executed: folder of the executed notebooks.
        figures: folder of the figures, which are copied.
        records: folder of the records.
        folder: folder of the report; an earlier one is replaced.

    Raises: ValueError when a notebook has not been executed.
    """
    told = summaries(profile_name, records)
    for each in told:
        if not (executed / f"{each.notebook}.ipynb").exists():
            raise ValueError(
                f"{executed / each.notebook}.ipynb is missing; run `make figures` first."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".report-") as temporary:
        made = Path(temporary) / "report"
        shutil.copytree(figures, made / "figures")
        for picture in (ROOT / "figures" / "laptop").glob("scoreboard.*"):  # for the results page
            shutil.copyfile(picture, made / "figures" / picture.name)
        export = _exporter()
        for each in told:
            _write(
                made / f"{each.notebook}.html",
                each.notebook,
                export(executed / f"{each.notebook}.ipynb"),
            )
        for path in sorted((ROOT / "docs").glob("*.md")):
            _write(
                made / f"{path.stem}.html", path.stem, _markdown(path.read_text(encoding="utf-8"))
            )
        _write(made / "gallery.html", "Gallery", _gallery(made / "figures"))
        _write(made / "index.html", "Unified vision-language models", _overview(told))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    return folder / "index.html"


def _exporter() -> Callable[[Path], str]:
    """Return a function that renders an executed notebook as the body of a page."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    exporter = HTMLExporter(
        template_name="basic",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    colours = f"<style>{HtmlFormatter().get_style_defs('.highlight')}</style>"
    return lambda path: colours + _pages(exporter.from_filename(str(path))[0])


def _markdown(text: str) -> str:
    """Render Markdown from docs/ as the body of a page."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    return _pages(markdown2html_mistune(text))


def _pages(body: str) -> str:
    """Point a body's links to notebooks, docs and figures at their copies in the report."""
    body = re.sub(
        r'href="(?:\.\./)?(?:docs/|notebooks/)?([\w-]+)\.(?:md|ipynb)(#[\w-]*)?"',
        r'href="\1.html\2"',
        body,
    )
    return re.sub(r'src="(?:\.\./)*figures/\w+/', 'src="figures/', body)


def _overview(told: list[Summary]) -> str:
    """Return the body of the first page: every study in brief."""
    parts = [
        "<h1>Unified vision-language models: a replication suite</h1>",
        "<p>Does learning to draw help a model to understand, and the reverse?</p>",
    ]
    for each in told:
        title = html.escape(each.notebook.replace("_", " ").capitalize())
        parts.append(
            f'<div class="study"><h2><a href="{each.notebook}.html">{title}</a></h2>'
            f"<p>{html.escape(each.study.question)} (Paper section "
            f"{html.escape(each.study.section)}.)</p>"
            + (f"<p><b>{html.escape(each.headline)}.</b></p>" if each.headline else "")
            + f'<a href="{each.notebook}.html"><img src="figures/{each.figure}.png" '
            f'alt="{each.figure}" '
            f'width="{_WIDTH}"></a>'
            + "".join(f"<p>{html.escape(line)}</p>" for line in each.finding.splitlines())
            + "</div>"
        )
    return "\n".join(parts)


def _gallery(figures: Path) -> str:
    """Return the body of a page of all figures, with links to their PDF, data and provenance."""
    parts = ["<h1>Gallery</h1>"]
    for path in sorted(figures.glob("*.png")):
        links = " ".join(
            f'<a href="figures/{path.stem}.{kind}">{kind}</a>' for kind in ("pdf", "csv", "json")
        )
        parts.append(
            f'<div class="study"><h2>{path.stem}</h2>'
            f'<img src="figures/{path.name}" alt="{path.stem}">'
            f"<p>{links}</p></div>"
        )
    return "\n".join(parts)


def _write(path: Path, title: str, body: str) -> None:
    """Write a page with the navigation links that all pages share."""
    results = (
        '<a href="results.html">Results</a>' if (ROOT / "docs" / "results.md").exists() else ""
    )
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        f'<style>{_STYLE}</style></head>\n<body><nav><a href="index.html">Studies</a>{results}'
        f'<a href="gallery.html">Gallery</a></nav>\n{body}\n</body></html>\n',
        encoding="utf-8",
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the report of a profile or the index notebook, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m uvlm_core.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--profile", default="laptop", help="smoke, laptop, smollm or paper (default: %(default)s)"
    )
    parser.add_argument("--index", action="store_true", help="write notebooks/index.ipynb instead")
    options = parser.parse_args(arguments)
    name = options.profile
    records = ROOT / "figures" / "runs" / name
    try:
        if options.index:
            INDEX.write_text(index_notebook(name, records), encoding="utf-8")
            print(INDEX.relative_to(ROOT))
        else:
            page = write_report(
                name,
                ROOT / "build" / name,
                ROOT / "figures" / name,
                records,
                ROOT / "build" / "report",
            )
            print(page.relative_to(ROOT))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
