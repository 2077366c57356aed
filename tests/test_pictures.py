"""Captioned pictures by path: formats, requests, the split, pixels, and the stamps' way into the cache."""

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from uvlm_core import stamps
from uvlm_core.conversations import IMAGE, Conversation, Turn, read_llava, write_llava
from uvlm_core.pictures import (
    DESCRIBE,
    REQUESTS,
    TEST_SHARE,
    as_request,
    asks_for_caption,
    fingerprint,
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
    return {"image": image, "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}], **more}


def captions_of(talks):
    return [(talk.image, talk.turns[0].gpt) for talk in talks]


# Formats

CAPTIONS = [("a.png", "A red thing."), ("a.png", "Something red."), ("coco/c.png", "A dark thing.")]
FILES = {
    "COCO": {"info": {}, "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "coco/c.png"}],
             "annotations": [{"id": 1, "image_id": 7, "caption": "A red thing."},
                             {"id": 2, "image_id": 7, "caption": "Something  red.\n"},
                             {"id": 3, "image_id": 8, "caption": "A dark thing."}]},
    "Karpathy": {"dataset": "flickr30k", "images": [
        {"filename": "a.png", "split": "test", "sentences": [{"raw": "A red thing."}, {"raw": "Something red."}]},
        {"filepath": "coco", "filename": "c.png", "split": "train", "sentences": [{"raw": "A dark thing."}]}]},
    "token": "a.png#0\tA red thing.\na.png#1\tSomething red.\n\ncoco/c.png#0\tA dark thing.\n",
    "results.csv": "image_name| comment_number| comment\na.png| 0| A red thing.\na.png| 4   Something red.\n"
                   "coco/c.png| 0| A dark thing.\n",
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
    talks = read_pictures(written(folder, "a.png#0\tnumber #1\tof 2 | 3\na.png| 1| one | two #3\n"), folder)
    assert [talk.turns[0].gpt for talk in talks] == ["number #1 of 2 | 3", "one | two #3"]


def test_a_folder_of_stamps_is_its_pngs_with_a_text(tmp_path):
    for name in ("b/frog.png", "b/frog_mirror.png", "a/cow.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("LA", (4, 4)).save(tmp_path / name)
    (tmp_path / "b/frog.txt").write_text("A “green” frog. \nde.utf8=Ein Frosch.\n", encoding="utf-8")
    (tmp_path / "a/cow.txt").write_text("A cow.")
    (tmp_path / "a/drawing.txt").write_text("A text without a picture.")
    assert captions_of(read_pictures(tmp_path, tmp_path)) == [("a/cow.png", "A cow."),
                                                              ("b/frog.png", "A “green” frog.")]
    with pytest.raises(ValueError, match="is a folder, so the pictures are in it and not in"):
        read_pictures(tmp_path, tmp_path / "a")
    (tmp_path / "a/cow.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"row 0: .*cow.txt cannot be read"):
        read_pictures(tmp_path, tmp_path)


def test_llava_rows_are_what_read_llava_reads(folder):
    rows = [llava("a.png"), llava("a.png", "A thing, please.", "<image>"), llava("b.jpg", task="caption")]
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
    with pytest.raises(ValueError, match="row 2: image 'sam.png' is missing"):  # a name is no folder
        read_pictures(path, folder)
    path = written(folder, [llava("a.png"), llava("sam/images/d.png")])
    assert [talk.image for talk in read_pictures(path, folder, sam=True)] == ["a.png", "sam/images/d.png"]
    (folder / "sam/images/d.png").unlink()
    assert [talk.image for talk in read_pictures(path, folder)] == ["a.png"]
    with pytest.raises(ValueError, match="row 1: image 'sam/images/d.png' is missing"):
        read_pictures(path, folder, sam=True)


def test_a_picture_is_not_decoded_when_its_row_is_read(folder):
    (folder / "a.png").write_text("no picture")
    assert len(read_pictures(written(folder, "a.png#0\tA thing."), folder)) == 1
    with pytest.raises(ValueError, match="a.png is not a whole picture that can be read"):
        open_picture(folder / "a.png", 32)


@pytest.mark.parametrize(("content", "message"), [
    ({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": []}]},
     "row 0: the annotation has no 'image_id' or no 'caption'"),
    ({"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}, "row 0: image_id 1 is not among the images"),
    ({"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}, "row 0: image None is not a file name"),
    ({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": " "}]},
     "row 0: the caption of 'a.png' is ' ', not a text"),
    ({"images": [{"id": 1, "file_name": "a.png"}]}, "row 0: the image has no 'filename', or its 'sentences'"),
    ({"images": [{"filename": "a.png", "sentences": [{}]}]}, "row 0: the caption of 'a.png' is None"),
    ({"rows": []}, "is a JSON object of 'rows', neither COCO's captions"),
    ([{"image": "a.png", "caption": "x"}], "row 0: the key 'conversations' is missing"),
    ([llava(5)], "row 0: image 5 is not a file name"),
    ("a.png#0\tfine\na.png without a number\n", "row 1: 'a.png without a number' is neither 'name#number<tab>caption'"),
    ("../secret.png#0\tx", "row 0: image '../secret.png' is outside the image folder"),
    ("/etc/hostname#0\tx", "row 0: image '/etc/hostname' is outside the image folder"),
    ("gone.png#0\tx", "row 0: image 'gone.png' is missing from"),
    ("a.png#0\tan <image> in it", "row 0: a caption conversation needs <image> once"),
    ("[1, 2", "is not JSON"), ("", "has no row with a picture"), ("[]", "has no row with a picture"),
])
def test_a_bad_file_is_refused_by_its_name_row_and_value(content, message, folder):
    path = written(folder, content)
    with pytest.raises(ValueError) as error:
        read_pictures(path, folder)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused(folder):
    with pytest.raises(ValueError, match="nowhere cannot be read: No such file"):
        read_pictures(folder / "nowhere", folder)
    with pytest.raises(ValueError, match="a.png is neither JSON nor text"):
        read_pictures(folder / "a.png", folder)


KEYS = ["images", "annotations", "image_id", "caption", "id", "file_name", "filename", "filepath", "sentences", "raw",
        "image", "conversations", "from", "value", "task"]
JSON = st.recursive(
    st.none() | st.integers(-2, 2) | st.sampled_from(["a.png", "", "<image>\nx", "human", "gpt", "caption"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12)


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


@pytest.mark.parametrize("human", [  # as LLaVA's and ShareGPT4V's rows ask
    "Describe the image concisely.", "Provide a brief description of the given image.",
    "Summarize the visual content of the image.", "Write a terse but informative summary of the picture.",
    "Relay a brief, clear account of the picture shown.", "Narrate the contents of the image with precision",
    "Characterize the image using a well-detailed description", "Examine the image closely and share its details",
    "Present a compact description of the photo’s key features", "Walk through the important details of the image",
    "Break down the elements of the image in a detailed manner",
    "What do you see happening in this image?", "What do you think is going on in this snapshot?",
    "Can you elaborate on the elements of the picture provided?", "What are the key elements in this picture?",
    "Can you describe the main features of this image for me?",
    "Analyze the image in a comprehensive and detailed manner.",
    "Provide a one-sentence caption for the provided image.\nReference OCR token: STOP, 7UP"])
def test_one_turn_that_asks_for_a_description_is_a_caption(human, folder):
    for text in (f"<image>\n{human}", f"{human.partition(chr(10))[0]}\n<image>"):
        (talk,) = read_pictures(written(folder, [llava("a.png", text, "A thing.")]), folder)
        assert talk.task == "caption" and asks_for_caption(talk.turns[0].human)


@pytest.mark.parametrize("human", [
    "What is it?", "What is in the picture?",
    "Please provide a short description for this region: [0.1, 0.2, 0.3, 0.4]",
    "Can you explain the reason for the man's behaviour in the image?", "What is the man going to do?",
    "Describe the colour of the bus.", "What is the shirt's color?\nAnswer the question using a single word or phrase.",
    "Is something happening?\nDescribe the image."])
def test_a_question_about_a_part_stays_a_question(human, folder):
    (talk,) = read_pictures(written(folder, [llava("a.png", f"<image>\n{human}")]), folder)
    assert talk.task == "vqa"


def test_several_turns_and_a_task_that_is_given_are_left_alone(folder):
    several = llava("a.png", "<image>\nDescribe the image.")
    several["conversations"] *= 2
    several["conversations"][2:] = [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "No more."}]
    given_task = llava("a.png", "<image>\nDescribe the image.", task="vqa")
    assert [talk.task for talk in read_pictures(written(folder, [several, given_task]), folder)] == ["vqa", "vqa"]


# Requests

TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip() and IMAGE not in text)


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
    assert [number for number, side in enumerate(sides) if side == "test"] == [7, 9, 13, 25, 27, 29, 32, 33, 37]


# Pixels


def saved(tmp_path, picture, name="picture.png", **options) -> Path:
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def test_a_picture_keeps_its_proportions_on_a_white_square(tmp_path):
    wide = open_picture(saved(tmp_path, Image.new("RGB", (200, 100), "red")), 64)
    assert wide.shape == (64, 64, 3) and wide.dtype == np.uint8
    assert (wide[:16] == 255).all() and (wide[48:] == 255).all() and (wide[16:48] == [255, 0, 0]).all()
    tall = open_picture(saved(tmp_path, Image.new("RGB", (5, 10), "red")), 64)  # small ones grow
    assert (tall[:, :16] == 255).all() and (tall[:, 16:48] == [255, 0, 0]).all()
    assert (open_picture(saved(tmp_path, Image.new("RGB", (3000, 1))), 64) < 255).any()  # one line stays


def test_what_is_transparent_is_white_at_any_depth_of_pixels(tmp_path):
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    ImageDraw.Draw(clear).rectangle((0, 0, 15, 31), (0, 0, 255, 255))
    for name, picture in {"rgba": clear, "la": Image.new("LA", (32, 32), (0, 0)), "p": clear.quantize(4)}.items():
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
    assert (abs(open_picture(saved(tmp_path, Image.fromarray(stripes)), 16).astype(int) - 127) < 8).all()


def test_sixteen_bits_cmyk_and_turned_pictures_are_read(tmp_path):
    ramp = np.repeat(np.arange(64, dtype=np.uint16)[None] * 1024, 64, axis=0)
    for name in ("grey.png", "grey.tiff"):
        pixels = open_picture(saved(tmp_path, Image.fromarray(ramp), name), 64)
        assert (pixels == (ramp >> 8)[..., None]).all()
    cyan = open_picture(saved(tmp_path, Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "cyan.jpg"), 16)
    assert (abs(cyan.astype(int) - [0, 255, 255]) < 4).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    assert (open_picture(saved(tmp_path, Image.new("RGB", (20, 10)), "turned.jpg", exif=exif), 20)[:, :5] > 200).all()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (200, 100)))
    for most in (19_000, 9_000):  # Pillow warns of one, and raises for twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match=rf"picture.png has more than {most:,} pixels and is not opened\."):
            open_picture(path, 64)


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path):
    whole = saved(tmp_path, Image.effect_noise((64, 64), 50)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "program.eps")  # Pillow would start a program to read it
    Image.new("F", (8, 8)).save(tmp_path / "float.tiff")
    for name in ("cut.png", "text.png", "program.eps", "float.tiff"):
        with pytest.raises(ValueError, match=rf"{name} is not a whole picture that can be read \(PNG, JPEG"):
            open_picture(tmp_path / name, 64)
    with pytest.raises(ValueError, match="There is no picture .*gone.png"):
        open_picture(tmp_path / "gone.png", 64)
    for size in (7, 64.0, True):
        with pytest.raises(ValueError, match=f"picture size {size!r} is not an integer from 8 to 1024"):
            open_picture(tmp_path / "picture.png", size)


# Fingerprint


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

    path.write_bytes(b"!<arch>\n" + part(b"debian-binary", before) + part(b"data.tar.xz", content.getvalue()))
    return path


@pytest.fixture
def contents():
    picture = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(picture, "png")
    return {"./usr/share/tuxpaint/stamps/animals/frog.png": picture.getvalue(),
            "./usr/share/tuxpaint/stamps/animals/frog.txt": b"A frog.\n",
            "./usr/share/tuxpaint/stamps/animals/frog.ogg": b"a sound",
            "./usr/share/tuxpaint/stamps/../../../../escaped.txt": b"out of the folder",
            "./usr/share/doc/tuxpaint-stamps-default/copyright": b"GPL-2"}


FETCHED = {"animals/frog.png", "animals/frog.txt", "copyright"}


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_package_becomes_pictures_texts_and_a_licence(contents, tmp_path, cache, capsys):
    deb = package(tmp_path / "a.deb", contents)
    assert stamps.main(["--deb", str(deb)]) == 0
    assert files_in(cache) == {f"stamps/{name}" for name in FETCHED}
    assert not list(tmp_path.rglob("escaped.txt"))
    deb.unlink()
    assert stamps.main(["--deb", str(deb)]) == 0  # a second call does nothing
    assert capsys.readouterr().out == f"1 captioned pictures in {cache / 'stamps'}\n" * 2


def test_installed_stamps_are_copied(contents, tmp_path, cache):
    for name, data in contents.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(data)
    folder = stamps.fetch_stamps(root=tmp_path / "root")
    assert files_in(folder) == FETCHED
    assert captions_of(read_pictures(folder, folder)) == [("animals/frog.png", "A frog.")]


def fake_apt(tmp_path, monkeypatch, script):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_apt_fetches_the_package_into_a_folder_that_is_gone_afterwards(contents, tmp_path, monkeypatch, cache):
    deb = package(tmp_path / "a.deb", contents)
    fake_apt(tmp_path, monkeypatch, f'[ "$1 $2" = "download tuxpaint-stamps-default" ] && cp {deb} $2_1_all.deb')
    assert files_in(stamps.fetch_stamps(root=tmp_path)) == FETCHED
    assert [path.name for path in cache.iterdir()] == ["stamps"]


def test_without_apt_or_without_its_lists_a_sentence_says_what_to_do(tmp_path, monkeypatch, cache):
    by_hand = r"download the \.deb from https://packages.debian.org/\S+ \(161 MB\) and run `make stamps DEB="
    fake_apt(tmp_path, monkeypatch, 'echo "E: Unable to locate package $2" >&2; exit 100')
    with pytest.raises(ValueError, match=rf"\(E: Unable to locate package tuxpaint-stamps-default\); .*{by_hand}"):
        stamps.fetch_stamps(root=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=f"There is no apt-get here to fetch the stamps with; {by_hand}"):
        stamps.fetch_stamps(root=tmp_path)
    assert list(cache.iterdir()) == []


def test_a_broken_package_leaves_nothing_behind(contents, tmp_path, cache, capsys):
    whole = package(tmp_path / "whole.deb", contents).read_bytes()
    bad = {"it is no ar archive": b"PK\x03\x04", "it has no data.tar": whole[:8], "": whole[: len(whole) - 200]}
    for message, content in bad.items():
        (tmp_path / "bad.deb").write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.deb is not a whole Debian package: {message}"):
            stamps.fetch_stamps(tmp_path / "bad.deb")
    empty = package(tmp_path / "empty.deb", {name: data for name, data in contents.items() if "copyright" not in name})
    with pytest.raises(ValueError, match="There is not both a licence and a stamp"):
        stamps.fetch_stamps(empty)
    assert stamps.main(["--deb", str(tmp_path / "gone.deb")]) == 2
    assert capsys.readouterr().err == f"There is no package file {tmp_path / 'gone.deb'}.\n"
    assert list(cache.iterdir()) == []
