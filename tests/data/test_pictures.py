"""Captioned pictures by path: formats, requests, the split, pixels, and the stamps' way into the
cache."""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from uvlm_core.data import stamps
from uvlm_core.data.conversations import IMAGE, Conversation, Turn
from uvlm_core.data.llava import read_llava, write_llava
from uvlm_core.data.pictures import (
    DESCRIBE,
    REQUESTS,
    TEST_SHARE,
    as_request,
    asks_for_caption,
    fingerprint,
    load_pictures,
    open_picture,
    read_pictures,
    split_of,
)

NAMES = ("a.png", "b.jpg", "coco/c.png", "sam/images/d.png")


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures, one of them of SAM."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (number * 60, 0, 0)).save(path)
    return tmp_path / "images"


def written(folder: Path, content, name: str = "captions") -> Path:
    path = folder.parent / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def llava(image, human="<image>\nwhat is it?", gpt="a thing", **more):
    return {
        "image": image,
        "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}],
        **more,
    }


def captions_of(talks):
    return [(talk.image, talk.turns[0].gpt) for talk in talks]


# Formats

CAPTIONS = [("a.png", "A red thing."), ("a.png", "Something red."), ("coco/c.png", "A dark thing.")]
FILES = {
    "COCO": {
        "info": {},
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "coco/c.png"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A red thing."},
            {"id": 2, "image_id": 7, "caption": "Something  red.\n"},
            {"id": 3, "image_id": 8, "caption": "A dark thing."},
        ],
    },
    "Karpathy": {
        "dataset": "flickr30k",
        "images": [
            {
                "filename": "a.png",
                "split": "test",
                "sentences": [{"raw": "A red thing."}, {"raw": "Something red."}],
            },
            {
                "filepath": "coco",
                "filename": "c.png",
                "split": "train",
                "sentences": [{"raw": "A dark thing."}],
            },
        ],
    },
    "token": "a.png#0\tA red thing.\na.png#1\tSomething red.\n\ncoco/c.png#0\tA dark thing.\n",
    "results.csv": "image_name| comment_number| comment\na.png| 0| A red thing.\na.png| 4   "
    "Something red.\ncoco/c.png| 0| A dark thing.\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_a_caption_file_is_one_row_per_picture_and_caption(kind, folder):
    talks = read_pictures(written(folder, FILES[kind]), folder)
    assert captions_of(talks) == CAPTIONS
    assert all(talk.task == "caption" and len(talk.turns) == 1 for talk in talks)
    assert all(talk.turns[0].human.removeprefix(f"{IMAGE}\n") in DESCRIBE for talk in talks)


def test_the_same_captions_are_the_same_rows_whatever_the_format(folder):
    read = [read_pictures(written(folder, content), folder) for content in FILES.values()]
    assert read[1:] == read[:-1]


def test_a_bar_or_a_hash_in_a_caption_is_part_of_it(folder):
    talks = read_pictures(
        written(folder, "a.png#0\tnumber #1\tof 2 | 3\na.png| 1| one | two #3\n"), folder
    )
    assert [talk.turns[0].gpt for talk in talks] == ["number #1 of 2 | 3", "one | two #3"]


def test_a_folder_of_stamps_is_its_pngs_with_a_text(tmp_path):
    for name in ("b/frog.png", "b/frog_mirror.png", "a/cow.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("LA", (4, 4)).save(tmp_path / name)
    (tmp_path / "b/frog.txt").write_text(
        "A “green” frog. \nde.utf8=Ein Frosch.\n", encoding="utf-8"
    )
    (tmp_path / "a/cow.txt").write_text("A cow.")
    (tmp_path / "a/drawing.txt").write_text("A text without a picture.")
    assert captions_of(read_pictures(tmp_path, tmp_path)) == [
        ("a/cow.png", "A cow."),
        ("b/frog.png", "A “green” frog."),
    ]
    with pytest.raises(ValueError, match="is a folder, so the pictures are in it and not in"):
        read_pictures(tmp_path, tmp_path / "a")
    (tmp_path / "a/cow.txt").write_bytes(b"A cow \xf6.")
    with pytest.raises(ValueError, match=r"row 0: .*cow.txt, line 1 is not valid UTF-8"):
        read_pictures(tmp_path, tmp_path)
    (tmp_path / "a/cow.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"row 0: the caption of 'a/cow.png' is '', not a text"):
        read_pictures(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        ("IMG_1.PNG", "IMG_1.txt"),
        ("a.png", "a.TXT"),
        ("b.c.JPG", "b.c.Txt"),
        ("d.jpeg", "d.txt"),
        ("e.WebP", "e.txt"),
        ("f.gif", "f.txt"),
        ("g.bmp", "g.txt"),
        ("h.TIF", "h.txt"),
        ("i.tiff", "i.txt"),
    ],
)
def test_a_captioned_picture_is_found_whatever_its_suffix_and_its_case(picture, text, tmp_path):
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "deep" / picture)
    (tmp_path / "deep" / text).write_text("A thing.")
    (talk,) = read_pictures(tmp_path, tmp_path)
    assert (talk.image, talk.turns[0].gpt) == (f"deep/{picture}", "A thing.")
    assert open_picture(tmp_path / talk.image, 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("first", "second", "one", "kind"),
    [
        ("a.jpg", "a.png", "a.txt", "pictures"),
        ("a.PNG", "a.png", "a.txt", "pictures"),
        ("a.TXT", "a.txt", "a.png", "texts"),
    ],
)
def test_two_files_of_one_name_are_refused(first, second, one, kind, tmp_path):
    """Nothing says which text is about which picture."""
    for name in (first, second, one):
        (tmp_path / name).write_text("A thing.")
    with pytest.raises(ValueError, match=f"{first} and .*{second} are {kind} of the same name"):
        read_pictures(tmp_path, tmp_path)


def test_two_files_of_one_name_that_no_caption_hangs_on_are_left_out(tmp_path):
    for name in ("a.jpg", "a.png", "b.TXT", "b.txt", "c.png", "c.txt"):
        (tmp_path / name).write_text("A thing.")
    assert captions_of(read_pictures(tmp_path, tmp_path)) == [("c.png", "A thing.")]


def test_what_is_left_out_is_counted_and_said(folder, caplog):
    talks = [llava(None), llava("a.png"), llava("sam/images/d.png"), llava(None)]
    read_pictures(path := written(folder, talks), folder)
    assert caplog.messages == [
        f"{path}: rows read: 1; left out: rows without an image (2), rows about SAM's pictures (1)."
    ]
    caplog.clear()
    for name in ("a.txt", "b.TXT", "heic.txt"):
        (folder / name).write_text("A thing.")
    read_pictures(folder, folder)
    assert caplog.messages == [
        f"{folder}: rows read: 2; left out: texts without a picture (1), "
        "pictures without a text (2)."
    ]
    caplog.clear()
    images = [{"id": place, "file_name": name} for place, name in enumerate(NAMES)]
    told = [{"image_id": 2, "caption": "A thing."}]
    read_pictures(written(folder, {"images": images, "annotations": told}), folder)
    assert caplog.messages == [f"{path}: rows read: 1; left out: pictures without a caption (3)."]
    caplog.clear()
    images = [
        {"filename": name, "sentences": [{"raw": "A thing."}] * (name == "a.png")} for name in NAMES
    ]
    read_pictures(written(folder, {"images": images}), folder)
    assert caplog.messages == [f"{path}: rows read: 1; left out: pictures without a caption (3)."]


def test_nothing_is_said_where_nothing_is_left_out_or_nobody_wants_to_know(folder, caplog):
    for content in FILES.values():
        read_pictures(written(folder, content), folder)
    read_pictures(written(folder, [llava(None), llava("a.png")]), folder, quiet=True)
    assert caplog.messages == []
    message = r"has no row with a picture \(left out: rows without an image \(1\)\)\.$"
    with pytest.raises(ValueError, match=message):
        read_pictures(written(folder, [llava(None)]), folder)


def test_it_is_said_on_stderr(folder, tmp_path):
    path = written(folder, [llava(None), llava("a.png")])
    read = f"pictures.read_pictures({str(path)!r}, {str(folder)!r})"
    code = f"from uvlm_core.data import pictures; {read}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == f"{path}: rows read: 1; left out: rows without an image (1).\n"
    assert not done.stdout


# Encodings and lines

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", FILES)
def test_a_caption_file_is_read_in_the_encoding_that_it_has(kind, encoding, folder):
    content = FILES[kind]
    content = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path = folder.parent / "captions"
    path.write_bytes(content.replace("Something", "Übrigens “rot” 🔴").encode(encoding))
    assert captions_of(read_pictures(path, folder)) == [
        CAPTIONS[0],
        ("a.png", "Übrigens “rot” 🔴 red."),
        CAPTIONS[2],
    ]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stamps_text_is_read_in_any_encoding_to_the_end_of_its_first_line(encoding, end, folder):
    text = f"A  red\u2028thing.{end}de.utf8=Ein rotes Ding.{end}"
    (folder / "a.txt").write_bytes(text.encode(encoding))
    assert captions_of(read_pictures(folder, folder)) == [("a.png", "A red thing.")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_lines_of_a_file_end_as_on_any_system_and_nowhere_else(end, folder):
    path = folder.parent / "captions"
    lines = ["a.png#0\tone\u2028two\x0bthree\x85four", "a.png| 1| five\x1csix", ""]
    path.write_bytes(end.join(lines).encode())
    assert captions_of(read_pictures(path, folder)) == [
        ("a.png", "one two three four"),
        ("a.png", "five six"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.png#0\tred\na.png#1\tgr\xfcn", r"line 2 is not valid UTF-8: it contains b'\\xfcn?'"),
        ("a.png#0\tred\r\na.png#1\t“red”".encode("cp1252"), "captions, line 2 is not valid UTF-8"),
        ("“red”\n".encode("utf-16-le"), "captions, line 1 is no text, as it has null characters"),
        ("a.png#0\tred\n".encode("utf-16")[:-1], "captions, line [12] is not valid UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_by_file_and_line(content, message, folder):
    (folder.parent / "captions").write_bytes(content)
    with pytest.raises(ValueError, match=f"{message}.*save the file as UTF-8\\.$"):
        read_pictures(folder.parent / "captions", folder)


def test_a_field_that_a_csv_writer_has_quoted_is_what_was_quoted(folder):
    lines = [
        'a.png|0|"A sign says ""stop"" | twice"',
        'a.png| 1| " stop " it says " go "',
        'a.png| 2| "stop"',
        'a.png#3\t"A token file has no ""quotes"""',
    ]
    talks = read_pictures(written(folder, "\n".join(lines)), folder)
    assert [talk.turns[0].gpt for talk in talks] == [
        'A sign says "stop" | twice',
        '" stop " it says " go "',
        '"stop"',
        '"A token file has no ""quotes"""',
    ]


# Identifiers


TOLD = {"image_id": 7, "caption": "A thing."}


def coco(images: list, annotations: list = (TOLD,)) -> dict:
    return {"images": images, "annotations": list(annotations)}


A, B = {"id": 7, "file_name": "a.png"}, {"id": 7, "file_name": "b.jpg"}


def test_an_id_may_be_a_number_here_and_a_text_there_and_come_twice_for_one_file(folder):
    told = [
        {"id": 1, "image_id": "7", "caption": "Red."},
        {"id": None, "image_id": 8, "caption": "Blue."},
    ]
    path = written(folder, coco([A, A | {"id": "7"}, B | {"id": 8}], told))
    assert captions_of(read_pictures(path, folder)) == [("a.png", "Red."), ("b.jpg", "Blue.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco([A, B]), "images, row 1: id 7 is given to 'a.png' and to 'b.jpg'."),
        (coco([A, B | {"id": "7"}]), "images, row 1: id '7' is given to 'a.png' and to 'b.jpg'."),
        (
            coco([A, {"file_name": "b.jpg"}]),
            "images, row 1: id None is neither an integer nor a text.",
        ),
        (coco([A | {"id": True}]), "images, row 0: id True is neither an integer nor a text."),
        (coco([A | {"id": 7.0}]), "images, row 0: id 7.0 is neither an integer nor a text."),
        (coco([A | {"id": ""}]), "images, row 0: id '' is neither an integer nor a text."),
        (coco([A, {"id": 8}]), "images, row 1: file_name None is not a file name."),
        (
            coco([A, {"id": 8, "file_name": ["b.jpg"]}]),
            "row 1: file_name ['b.jpg'] is not a file name",
        ),
        (coco([A, 8]), "images, row 1: 8 is not an object with the keys id and file_name."),
        (
            coco([A], [TOLD | {"image_id": None}]),
            "row 0: image_id None is neither an integer nor a",
        ),
        (
            coco([A | {"id": 1}], [TOLD | {"image_id": True}]),
            "row 0: image_id True is neither an int",
        ),
        (
            coco([A], [TOLD | {"id": 5}, TOLD | {"id": "5"}]),
            "row 1: id '5' is given a second time.",
        ),
        (coco([A], [TOLD | {"id": False}]), "row 0: id False is neither an integer nor a text."),
        (
            {"images": [{"filename": "a.png", "filepath": 5, "sentences": [{"raw": "x"}]}]},
            "row 0: filepath 5 is not the name of a folder.",
        ),
        (
            "a.png#0\tred\na.png#1\tgreen\na.png#0\tblue",
            "row 2: the caption 'a.png#0' is given a second time.",
        ),
        ("a.png| 0| red\n\na.png|00| blue", "row 2: the caption 'a.png#0' is given a second time."),
        (
            '{"images": [{"id": 7, "file_name": "a.png", "file_name": "b.jpg"}], '
            '"annotations": []}',
            "is not JSON: the key 'file_name' is given more than once in one object, "
            "as 'a.png' and",
        ),
    ],
)
def test_an_identifier_that_is_missing_or_given_twice_is_refused(content, message, folder):
    path = written(folder, content)
    with pytest.raises(ValueError) as error:
        read_pictures(path, folder)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_llava_rows_may_share_an_id(folder):
    """LLaVA's own mixture repeats them; a row names its picture itself."""
    talks = read_pictures(written(folder, [llava("a.png", id="0"), llava("b.jpg", id="0")]), folder)
    assert [talk.image for talk in talks] == ["a.png", "b.jpg"]


# Names

AROUND = ["./", "coco/../", "sam/images/../../", "../images/", "coco\\..\\", "coco//..//"]
SPELLED = st.tuples(
    st.sampled_from(["", "{folder}/"]), st.lists(st.sampled_from(AROUND), max_size=4)
)


@settings(max_examples=100, deadline=None)
@given(SPELLED, SPELLED)
def test_a_picture_is_one_however_it_is_spelled(tmp_path_factory, first, second):
    folder = tmp_path_factory.getbasetemp() / "spelled" / "images"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    first, second = (
        start.format(folder=folder) + "".join(around) for start, around in (first, second)
    )
    expected = read_pictures(written(folder, FILES["COCO"]), folder)
    images = [
        {"id": 7, "file_name": f"{first}a.png"},
        {"id": 8, "file_name": f"{second}coco/c.png"},
    ]
    content = coco(images, FILES["COCO"]["annotations"])
    assert read_pictures(written(folder, content), folder) == expected  # questions, too
    rows = [llava(f"{around}a.png") for around in (first, second)]
    assert [talk.image for talk in read_pictures(written(folder, rows), folder)] == ["a.png"] * 2


def test_sides_and_fingerprint_stay_when_a_folder_moves(tmp_path):
    found = []
    for place in (tmp_path / "here" / "images", tmp_path / "sam" / "some where" / "else"):
        place.mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number:012d}.png")
        path = written(place, [llava(f"{place}/{number:012d}.png") for number in range(40)])
        pictures, talks = load_pictures(str(path), str(place)), read_pictures(path, place)
        found.append((pictures.train, pictures.test, fingerprint(talks, place)))
        talks = [replace(talk, image=f"{place}/{talk.image}") for talk in talks]
        assert fingerprint(talks, place) == found[0][2]
    assert found[0] == found[1]
    assert [int(talk.image[:12]) for talk in found[0][1]] == [
        number for number in range(40) if split_of(f"{number:012d}.png") == "test"
    ]


def test_a_folder_of_sams_is_one_below_the_pictures(folder, caplog):
    """What lies above does not count, and the name may be spelled in any way."""
    above = folder.parent / "sam"
    above.mkdir()
    folder = folder.rename(above / "images")
    rows = [
        llava(name)
        for name in (
            f"{folder}/a.png",
            "sam/../a.png",
            "./sam/images/d.png",
            "sam\\images\\d.png",
            f"{folder}/sam/images/d.png",
            "coco/sam/gone.png",
        )
    ]
    assert [talk.image for talk in read_pictures(written(folder, rows), folder)] == ["a.png"] * 2
    assert "rows about SAM's pictures (4)" in caplog.text


def test_where_a_row_was_read_goes_with_it_and_changes_nothing(folder):
    path = written(folder, FILES["Karpathy"])
    talks = read_pictures(path, folder)
    assert [talk.source for talk in talks] == [f"{path}, row {row}" for row in (0, 0, 1)]
    assert as_request(talks[2], 0).source == f"{path}, row 1"
    elsewhere = [replace(talk, source="") for talk in talks]
    assert fingerprint(talks, folder) == fingerprint(elsewhere, folder)


def test_llava_rows_are_what_read_llava_reads(folder):
    rows = [
        llava("a.png"),
        llava("a.png", "A thing, please.", "<image>"),
        llava("b.jpg", task="caption"),
    ]
    path = written(folder, rows)
    assert read_pictures(path, folder) == read_llava(path, folder)


def test_what_was_read_is_written_and_read_again_as_llava_json(folder):
    talks = read_pictures(written(folder, FILES["COCO"]), folder)
    talks += [as_request(talk, 0) for talk in talks]
    write_llava(talks, None, folder.parent / "out.json", folder)
    assert read_pictures(folder.parent / "out.json", folder) == talks


def test_rows_without_an_image_are_left_out(folder):
    text_only = {"id": "x", "conversations": llava("a.png", "hello")["conversations"]}
    talks = read_pictures(written(folder, [text_only, llava("a.png"), llava(None)]), folder)
    assert [talk.image for talk in talks] == ["a.png"]
    with pytest.raises(ValueError, match="has no row with a picture"):
        read_pictures(written(folder, [text_only]), folder)


def test_sam_rows_are_read_when_asked_for_and_need_no_files_otherwise(folder):
    path = written(folder, [llava("a.png"), llava("sam/images/d.png"), llava("sam.png")])
    # a name is no folder
    with pytest.raises(ValueError, match="row 2: image 'sam.png' is missing"):
        read_pictures(path, folder)
    path = written(folder, [llava("a.png"), llava("sam/images/d.png")])
    assert [talk.image for talk in read_pictures(path, folder, sam=True)] == [
        "a.png",
        "sam/images/d.png",
    ]
    (folder / "sam/images/d.png").unlink()
    assert [talk.image for talk in read_pictures(path, folder)] == ["a.png"]
    with pytest.raises(ValueError, match="row 1: image 'sam/images/d.png' is missing"):
        read_pictures(path, folder, sam=True)


def test_a_picture_is_not_decoded_when_its_row_is_read(folder):
    (folder / "a.png").write_text("no picture")
    assert len(read_pictures(written(folder, "a.png#0\tA thing."), folder)) == 1
    with pytest.raises(ValueError, match="a.png is not a whole picture that can be read"):
        open_picture(folder / "a.png", 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {
                "images": [{"id": 1, "file_name": "a.png"}],
                "annotations": [{"image_id": 1, "bbox": []}],
            },
            "row 0: the annotation has no 'image_id' or no 'caption'",
        ),
        (
            {"images": [], "annotations": [{"image_id": 1, "caption": "x"}]},
            "row 0: image_id 1 is not among the images",
        ),
        (
            {
                "images": [{"id": 1, "file_name": "a.png"}],
                "annotations": [{"image_id": 1, "caption": " "}],
            },
            "row 0: the caption of 'a.png' is ' ', not a text",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.png"}]},
            "row 0: the image has no 'filename', or its 'sentences'",
        ),
        (
            {"images": [{"filename": "a.png", "sentences": [{}]}]},
            "row 0: the caption of 'a.png' is None",
        ),
        ({"rows": []}, "is a JSON object of 'rows', neither COCO's captions"),
        ([{"image": "a.png", "caption": "x"}], "row 0: the key 'conversations' is missing"),
        ([llava(5)], "row 0: image 5 is not a file name"),
        (
            "a.png#0\tfine\na.png without a number\n",
            "row 1: 'a.png without a number' is neither 'name#number<tab>caption'",
        ),
        ("../secret.png#0\tx", "row 0: image '../secret.png' is outside the image folder"),
        ("/etc/hostname#0\tx", "row 0: image '/etc/hostname' is outside the image folder"),
        ("gone.png#0\tx", "row 0: image 'gone.png' is missing from"),
        ("a.png#0\tan <image> in it", "row 0: a caption conversation needs <image> once"),
        ("[1, 2", "is not JSON"),
        ("", "has no row with a picture"),
        ("[]", "has no row with a picture"),
    ],
)
def test_a_bad_file_is_refused_by_its_name_row_and_value(content, message, folder):
    path = written(folder, content)
    with pytest.raises(ValueError) as error:
        read_pictures(path, folder)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused(folder):
    with pytest.raises(ValueError, match="nowhere cannot be read: No such file"):
        read_pictures(folder / "nowhere", folder)
    with pytest.raises(ValueError, match="a.png, line 1 is not valid UTF-8"):
        read_pictures(folder / "a.png", folder)


KEYS = [
    "images",
    "annotations",
    "image_id",
    "caption",
    "id",
    "file_name",
    "filename",
    "filepath",
    "sentences",
    "raw",
    "image",
    "conversations",
    "from",
    "value",
    "task",
]
JSON = st.recursive(
    st.none()
    | st.integers(-2, 2)
    | st.sampled_from(["a.png", "", "<image>\nx", "human", "gpt", "caption"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_is_read_or_refused_in_a_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").touch()
    (folder / "captions").write_text(json.dumps(content))
    try:
        assert read_pictures(folder / "captions", folder)
    except ValueError as error:
        assert str(error).startswith(str(folder / "captions"))


# What asks for a caption


@pytest.mark.parametrize(
    "human",
    [  # as LLaVA's and ShareGPT4V's rows ask
        "Describe the image concisely.",
        "Provide a brief description of the given image.",
        "Summarize the visual content of the image.",
        "Write a terse but informative summary of the picture.",
        "Relay a brief, clear account of the picture shown.",
        "Narrate the contents of the image with precision",
        "Characterize the image using a well-detailed description",
        "Examine the image closely and share its details",
        "Present a compact description of the photo’s key features",
        "Walk through the important details of the image",
        "Break down the elements of the image in a detailed manner",
        "What do you see happening in this image?",
        "What do you think is going on in this snapshot?",
        "Can you elaborate on the elements of the picture provided?",
        "What are the key elements in this picture?",
        "Can you describe the main features of this image for me?",
        "Analyze the image in a comprehensive and detailed manner.",
        "Provide a one-sentence caption for the provided image.\nReference OCR token: STOP, 7UP",
    ],
)
def test_one_turn_that_asks_for_a_description_is_a_caption(human, folder):
    for text in (f"<image>\n{human}", f"{human.partition(chr(10))[0]}\n<image>"):
        (talk,) = read_pictures(written(folder, [llava("a.png", text, "A thing.")]), folder)
        assert talk.task == "caption" and asks_for_caption(talk.turns[0].human)


@pytest.mark.parametrize(
    "human",
    [
        "What is it?",
        "What is in the picture?",
        "Please provide a short description for this region: [0.1, 0.2, 0.3, 0.4]",
        "Can you explain the reason for the man's behaviour in the image?",
        "What is the man going to do?",
        "Describe the colour of the bus.",
        "What is the shirt's color?\nAnswer the question using a single word or phrase.",
        "Is something happening?\nDescribe the image.",
    ],
)
def test_a_question_about_a_part_stays_a_question(human, folder):
    (talk,) = read_pictures(written(folder, [llava("a.png", f"<image>\n{human}")]), folder)
    assert talk.task == "vqa"


def test_several_turns_and_a_task_that_is_given_are_left_alone(folder):
    several = llava("a.png", "<image>\nDescribe the image.")
    several["conversations"] *= 2
    several["conversations"][2:] = [
        {"from": "human", "value": "And?"},
        {"from": "gpt", "value": "No more."},
    ]
    given_task = llava("a.png", "<image>\nDescribe the image.", task="vqa")
    assert [
        talk.task for talk in read_pictures(written(folder, [several, given_task]), folder)
    ] == ["vqa", "vqa"]


# Requests

TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(
    lambda text: text.strip() and IMAGE not in text
)


def caption(text="A frog.", image="a.png"):
    return Conversation("caption", image, (Turn(f"{IMAGE}\ndescribe this picture.", text),))


@given(TEXT, TEXT, st.integers(0, 2**70))
def test_a_caption_makes_one_request_for_the_same_picture(text, image, seed):
    talk = caption(text, image)
    request = as_request(talk, seed)
    assert request == as_request(replace(talk, turns=(Turn(f"{IMAGE}\nwhat?", text),)), seed)
    assert (request.task, request.image, request.turns[0].gpt) == ("generation", image, IMAGE)
    assert request.turns[0].human in [f"{opening} {text}" for opening in REQUESTS]


def test_all_wordings_are_used_about_alike_and_change_with_the_seed():
    talks = [caption(f"Thing {number}.") for number in range(2000)]
    first, second = ([as_request(talk, seed).turns[0].human for talk in talks] for seed in (0, 1))
    for opening in REQUESTS:
        assert 130 < sum(text.startswith(opening) for text in first) < 270
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 300


def test_other_rows_make_no_request_and_a_bad_seed_is_refused():
    question = Conversation("vqa", "a.png", (Turn(f"{IMAGE}\nwhat?", "a frog"),))
    assert as_request(question, 0) is None and as_request(as_request(caption(), 0), 0) is None
    for seed in (-1, True, 1.0):
        with pytest.raises(ValueError, match=f"seed {seed!r} is not an integer from 0"):
            as_request(caption(), seed)


# Split


@given(TEXT)
def test_a_text_has_one_side_whatever_its_case_and_punctuation(text):
    assert split_of(text) in ("train", "test")
    if re.search(r"\w", text):
        assert split_of(f" “{text}”!") == split_of(text)
    assert split_of("A FROG") == split_of("a frog.")


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_the_sides_are_in_proportion_for_any_names(start):
    share = np.mean([split_of(f"{start + number:012d}.jpg") == "test" for number in range(4000)])
    assert abs(share - TEST_SHARE) < 6 * (TEST_SHARE * (1 - TEST_SHARE) / 4000) ** 0.5


def test_a_pictures_side_stays_what_it_was():
    """Records hold what was trained on which side."""
    sides = [split_of(f"{number:012d}.jpg") for number in range(40)]
    assert [number for number, side in enumerate(sides) if side == "test"] == [
        7,
        9,
        13,
        25,
        27,
        29,
        32,
        33,
        37,
    ]


def test_the_form_of_accents_does_not_count_for_a_side():
    """A Mac's old disks hold names decomposed; 30 names of which some lie on either side."""
    names = [f"Z\u00fcrich \u00e9t\u00e9 {number}.png" for number in range(30)]
    sides = [split_of(name) for name in names]
    assert set(sides) == {"train", "test"}
    assert [split_of(normalize("NFD", name)) for name in names] == sides


# Pixels


def saved(tmp_path, picture, name="picture.png", **options) -> Path:
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_picture_keeps_its_proportions_on_a_white_square(tmp_path):
    wide = open_picture(saved(tmp_path, Image.new("RGB", (200, 100), "red")), 64)
    assert wide.shape == (64, 64, 3) and wide.dtype == np.uint8
    assert (
        (wide[:16] == 255).all() and (wide[48:] == 255).all() and (wide[16:48] == [255, 0, 0]).all()
    )
    tall = open_picture(saved(tmp_path, Image.new("RGB", (5, 10), "red")), 64)  # small ones grow
    assert (tall[:, :16] == 255).all() and (tall[:, 16:48] == [255, 0, 0]).all()
    # one line stays
    assert (open_picture(saved(tmp_path, Image.new("RGB", (3000, 1))), 64) < 255).any()


def test_what_is_transparent_is_white_at_any_depth_of_pixels(tmp_path):
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    ImageDraw.Draw(clear).rectangle((0, 0, 15, 31), (0, 0, 255, 255))
    for name, picture in {
        "rgba": clear,
        "la": Image.new("LA", (32, 32), (0, 0)),
        "p": clear.quantize(4),
    }.items():
        pixels = open_picture(saved(tmp_path, picture, f"{name}.png"), 32)
        assert (pixels[:, 16:] == 255).all(), name
    half = open_picture(saved(tmp_path, Image.new("RGBA", (8, 8), (0, 0, 0, 128))), 8)
    assert (abs(half.astype(int) - 127) <= 1).all()
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([1, 2, 3, 200, 100, 50])
    assert (open_picture(saved(tmp_path, palette, transparency=1), 8) == 255).all()
    assert (open_picture(saved(tmp_path, palette), 8) == [200, 100, 50]).all()


def test_fine_stripes_become_grey(tmp_path):
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    assert (
        abs(open_picture(saved(tmp_path, Image.fromarray(stripes)), 16).astype(int) - 127) < 8
    ).all()


def test_sixteen_bits_cmyk_and_turned_pictures_are_read(tmp_path):
    ramp = np.repeat(np.arange(64, dtype=np.uint16)[None] * 1024, 64, axis=0)
    for name in ("grey.png", "grey.tiff"):
        pixels = open_picture(saved(tmp_path, Image.fromarray(ramp), name), 64)
        assert (pixels == (ramp >> 8)[..., None]).all()
    cyan = open_picture(
        saved(tmp_path, Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "cyan.jpg"), 16
    )
    assert (abs(cyan.astype(int) - [0, 255, 255]) < 4).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    assert (
        open_picture(saved(tmp_path, Image.new("RGB", (20, 10)), "turned.jpg", exif=exif), 20)[
            :, :5
        ]
        > 200
    ).all()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (200, 100)))
    for most in (19_000, 9_000):  # Pillow warns of one, and raises for twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(
            ValueError,
            match=rf"picture.png has more than {most:,} pixels and is "
            rf"not opened\.",
        ):
            open_picture(path, 64)


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path):
    whole = saved(tmp_path, Image.effect_noise((64, 64), 50)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    # Pillow would start a program to read it
    Image.new("RGB", (8, 8)).save(tmp_path / "program.eps")
    Image.new("F", (8, 8)).save(tmp_path / "float.tiff")
    for name in ("cut.png", "text.png", "program.eps", "float.tiff"):
        with pytest.raises(
            ValueError,
            match=rf"{name} is not a whole picture that can be read "
            rf"\(PNG, JPEG",
        ):
            open_picture(tmp_path / name, 64)
    with pytest.raises(ValueError, match="There is no picture .*gone.png"):
        open_picture(tmp_path / "gone.png", 64)
    for size in (7, 64.0, True):
        with pytest.raises(
            ValueError, match=f"picture size {size!r} is not an integer from 8 to 1024"
        ):
            open_picture(tmp_path / "picture.png", size)


# Fingerprint


def test_a_fingerprint_stays_what_it_was(folder):
    """Records are found by it: sha256 over each row as JSON and each file's own sha256."""
    (folder / "a.png").write_bytes(b"not decoded here")
    talk = Conversation("caption", "a.png", (Turn("<image>\nwhat?", "Caf\u00e9."),))
    row = (
        b'{"task": "caption", "image": "a.png", "turns": [{"human": "<image>\\nwhat?", '
        b'"gpt": "Caf\\u00e9.", "attributes": []}]}\n'
    )
    assert (
        fingerprint([talk], folder)
        == hashlib.sha256(row + hashlib.sha256(b"not decoded here").digest()).hexdigest()
    )


def test_a_fingerprint_is_of_rows_and_pixels_and_not_of_a_place(folder, tmp_path):
    talks = read_pictures(written(folder, FILES["COCO"]), folder)
    first = fingerprint(talks, folder)
    folder.rename(tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere"
    assert fingerprint(talks, folder) == first
    assert fingerprint(talks[::-1], folder) != first and fingerprint(talks[:-1], folder) != first
    assert fingerprint([caption("Another.", "a.png"), *talks[1:]], folder) != first
    content = bytearray((folder / "a.png").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "a.png").write_bytes(content)
    assert fingerprint(talks, folder) != first
    (folder / "a.png").unlink()
    with pytest.raises(ValueError, match="image 'a.png' is missing"):
        fingerprint(talks, folder)
    with pytest.raises(ValueError, match="image 0 is a position"):
        fingerprint([replace(talks[0], image=0)], folder)


# Stamps


def package(path: Path, files: dict[str, bytes], before: bytes = b"odd") -> Path:
    """A Debian package with some files in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    def part(name, data):
        header = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data))
        return header + data + b"\n" * (len(data) % 2)

    path.write_bytes(
        b"!<arch>\n" + part(b"debian-binary", before) + part(b"data.tar.xz", content.getvalue())
    )
    return path


@pytest.fixture
def contents():
    picture = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(picture, "png")
    return {
        "./usr/share/tuxpaint/stamps/animals/frog.png": picture.getvalue(),
        "./usr/share/tuxpaint/stamps/animals/frog.txt": b"A frog.\n",
        "./usr/share/tuxpaint/stamps/animals/frog_mirror.png": picture.getvalue(),
        "./usr/share/tuxpaint/stamps/animals/newt.PNG": picture.getvalue(),
        "./usr/share/tuxpaint/stamps/animals/newt.Txt": b"A newt.\n",
        "./usr/share/tuxpaint/stamps/animals/frog.ogg": b"a sound",
        "./usr/share/tuxpaint/stamps/../../../../escaped.txt": b"out of the folder",
        "./usr/share/doc/tuxpaint-stamps-default/copyright": b"GPL-2",
    }


FETCHED = {
    "animals/frog.png",
    "animals/frog.txt",
    "animals/frog_mirror.png",
    "animals/newt.PNG",
    "animals/newt.Txt",
    "copyright",
}


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_package_becomes_pictures_texts_and_a_licence(contents, tmp_path, cache, capsys, caplog):
    deb = package(tmp_path / "a.deb", contents)
    assert stamps.main(["--deb", str(deb)]) == 0
    assert files_in(cache) == {f"stamps/{name}" for name in FETCHED}
    assert not list(tmp_path.rglob("escaped.txt"))
    deb.unlink()
    assert stamps.main(["--deb", str(deb)]) == 0  # a second call does nothing
    assert capsys.readouterr().out == f"2 captioned pictures in {cache / 'stamps'}\n" * 2
    assert caplog.messages == []  # a mirrored stamp has no text of its own


def test_installed_stamps_are_copied(contents, tmp_path, cache):
    for name, data in contents.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(data)
    folder = stamps.fetch_stamps(root=tmp_path / "root")
    assert files_in(folder) == FETCHED
    assert captions_of(read_pictures(folder, folder)) == [
        ("animals/frog.png", "A frog."),
        ("animals/newt.PNG", "A newt."),
    ]


def fake_apt(tmp_path, monkeypatch, script):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_apt_fetches_the_package_into_a_folder_that_is_gone_afterwards(
    contents, tmp_path, monkeypatch, cache
):
    deb = package(tmp_path / "a.deb", contents)
    fake_apt(
        tmp_path,
        monkeypatch,
        f'[ "$1 $2" = "download tuxpaint-stamps-default" ] && cp {deb} $2_1_all.deb',
    )
    assert files_in(stamps.fetch_stamps(root=tmp_path)) == FETCHED
    assert [path.name for path in cache.iterdir()] == ["stamps"]


def test_without_apt_or_without_its_lists_a_sentence_says_what_to_do(tmp_path, monkeypatch, cache):
    address = r"https://packages.debian.org/\S+ \(161 MB\)"
    by_hand = rf"download the \.deb from {address} and run `make stamps DEB="
    fake_apt(tmp_path, monkeypatch, 'echo "E: Unable to locate package $2" >&2; exit 100')
    with pytest.raises(
        ValueError,
        match=rf"\(E: Unable to locate package "
        rf"tuxpaint-stamps-default\); .*{by_hand}",
    ):
        stamps.fetch_stamps(root=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(
        ValueError, match=f"There is no apt-get here to fetch the stamps with; {by_hand}"
    ):
        stamps.fetch_stamps(root=tmp_path)
    assert list(cache.iterdir()) == []


def test_a_broken_package_leaves_nothing_behind(contents, tmp_path, cache, capsys):
    whole = package(tmp_path / "whole.deb", contents).read_bytes()
    bad = {"it is no ar archive": b"PK\x03\x04", "it has no data.tar": whole[:8]}
    bad |= {
        "it is cut off": whole[:-8],
        "it is cut off.": whole[:-200],
        "": whole[:-100] + b"x" * 100,
    }
    for message, content in bad.items():
        (tmp_path / "bad.deb").write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.deb is not a whole Debian package: {message}"):
            stamps.fetch_stamps(tmp_path / "bad.deb")
    empty = package(
        tmp_path / "empty.deb",
        {name: data for name, data in contents.items() if "copyright" not in name},
    )
    with pytest.raises(ValueError, match="The licence or the stamps are missing"):
        stamps.fetch_stamps(empty)
    assert stamps.main(["--deb", str(tmp_path / "gone.deb")]) == 2
    assert capsys.readouterr().err == f"There is no package file {tmp_path / 'gone.deb'}.\n"
    assert list(cache.iterdir()) == []
