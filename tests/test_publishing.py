"""Publishing: a figure that was drawn again replaces the one that is there only if it says
something else.
"""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from uvlm_core.studies.publishing import publish

FACTS = {
    "seeds": 2,
    "records": ["a", "b"],
    "measured": {"x": 0.1, "y": 1},
    "commit": "a",
    "date": "2026-11-25",
    "versions": {"python": "3.11.2"},
}


def drawn(folder, line=0.5):
    """A figure of four files in `folder`."""
    folder.mkdir()
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], [0, line])
    axes.set_title("accuracy")
    figure.savefig(folder / "curve.png", dpi=200)
    plt.close(figure)
    (folder / "curve.pdf").write_text(f"%PDF {folder.name}")
    (folder / "curve.csv").write_text("name,value,low\n007,0.333333,\nb,1e-20,12\n")
    (folder / "curve.json").write_text(json.dumps(FACTS))
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rewrite(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def redraw(path, **changes):
    """The picture with some pixels changed: each of `share` of them by `levels`."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    count = int(changes["share"] * pixels.shape[0] * pixels.shape[1])
    places = np.random.default_rng(0).permutation(pixels.shape[0] * pixels.shape[1])[:count]
    flat = pixels.reshape(-1, 3)
    flat[places] = np.where(
        flat[places] > 128, flat[places] - changes["levels"], flat[places] + changes["levels"]
    )
    Image.fromarray(pixels.astype(np.uint8)).save(path)


SAME = {
    "nothing": lambda folder: None,
    "another date, commit and patch": lambda folder: rewrite(
        folder / "curve.json",
        lambda facts: (
            facts | {"date": "2027-01-01", "commit": "b", "versions": {"python": "3.11.9"}}
        ),
    ),
    "the order of names": lambda folder: rewrite(
        folder / "curve.json", lambda facts: dict(reversed(facts.items()))
    ),
    "the rounding of a fact": lambda folder: rewrite(
        folder / "curve.json", lambda facts: facts | {"measured": {"x": 0.1000001, "y": 1}}
    ),
    "the rounding of numbers": lambda folder: (folder / "curve.csv").write_text(
        "name,value,low\n007,0.333334,\nb,-3e-19,12.0\n"
    ),
    "the rounding of pixels": lambda folder: redraw(folder / "curve.png", share=1.0, levels=3),
    "another document of the same drawing": lambda folder: (folder / "curve.pdf").write_text(
        "%PDF"
    ),
}
OTHER = {
    "a number": lambda folder: (folder / "curve.csv").write_text(
        "name,value,low\n007,0.334,\nb,1e-20,12\n"
    ),
    "a number for none": lambda folder: (folder / "curve.csv").write_text(
        "name,value,low\n007,0.333333,0\nb,0,12\n"
    ),
    "a name": lambda folder: (folder / "curve.csv").write_text(
        "name,value,low\n008,0.333333,\nc,1e-20,12\n"
    ),
    "a row less": lambda folder: (folder / "curve.csv").write_text(
        "name,value,low\n007,0.333333,\n"
    ),
    "a column": lambda folder: (folder / "curve.csv").write_text(
        "name,value,high\n007,0.333333,\nb,1e-20,12\n"
    ),
    "a record": lambda folder: rewrite(
        folder / "curve.json", lambda facts: facts | {"records": ["a", "c"]}
    ),
    "a fact more": lambda folder: rewrite(
        folder / "curve.json", lambda facts: facts | {"rare": "weather"}
    ),
    "a fact of another kind": lambda folder: rewrite(
        folder / "curve.json", lambda facts: facts | {"seeds": True}
    ),
    "a speck": lambda folder: redraw(folder / "curve.png", share=2e-4, levels=90),
    "a picture that cannot be read": lambda folder: (folder / "curve.png").write_text("picture"),
}


@pytest.mark.parametrize("change", SAME)
def test_a_figure_that_says_the_same_stays_as_it_is(change, tmp_path):
    old, new = drawn(tmp_path / "old"), drawn(tmp_path / "new")
    before = contents(old)
    SAME[change](new)
    publish(new, old)
    assert contents(old) == before


@pytest.mark.parametrize("change", OTHER)
def test_a_figure_that_says_something_else_is_published_in_all_its_files(change, tmp_path):
    old, new = drawn(tmp_path / "old"), drawn(tmp_path / "new")
    OTHER[change](new)
    publish(new, old)
    assert contents(old) == contents(new)


def test_a_line_that_moves_is_another_picture(tmp_path):
    old, new = drawn(tmp_path / "old"), drawn(tmp_path / "new", line=0.49)
    publish(new, old)
    assert contents(old) == contents(new)


def test_files_that_cannot_all_be_published_are_not_published_at_all(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    (new / "b").mkdir(parents=True)
    (new / "a.csv").write_text("1\n")
    (new / "b" / "c.csv").write_text("1\n")
    old.mkdir()
    (old / "b").write_text("a file where a folder is needed")
    before = contents(old)
    with pytest.raises(OSError):
        publish(new, old)
    assert contents(old) == before
