"""LLaVA JSON in and out: what was written is read back, and bad rows and files are refused by
name."""

import errno
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from uvlm_core.data.conversations import IMAGE, TASKS, Conversation, Turn, make_conversations
from uvlm_core.data.llava import read_llava, write_llava
from uvlm_core.data.smart_watch import Watch, render, sample_watches

WATCHES = sample_watches(0, 12)
WATCH = Watch(
    hour=0,
    minute=9,
    second=6,
    weather="sunny",
    battery=7,
    weather_corner="top left",
    battery_corner="bottom right",
    colour=(40, 60, 120),
)


def all_tasks(count: int = 6) -> list[Conversation]:
    return [talk for task in TASKS for talk in make_conversations(WATCHES[:count], task, seed=0)]


def everything_in(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_was_written_is_read_back_as_it_was(tmp_path):
    talks = all_tasks()
    write_llava(talks, WATCHES[:6], tmp_path / "train.json", tmp_path / "images", size=48)
    names = [f"train_{talk.image:06d}.png" for talk in talks]
    back = read_llava(tmp_path / "train.json", tmp_path / "images")
    assert back == [replace(talk, image=name) for talk, name in zip(talks, names, strict=True)]
    for watch, name in zip(WATCHES, sorted(set(names)), strict=False):
        assert (
            np.asarray(Image.open(tmp_path / "images" / name)) == np.asarray(render(watch, 48))
        ).all()
    assert set(everything_in(tmp_path)) == {"train.json", *(f"images/{name}" for name in names)}


def test_the_json_is_llavas(tmp_path):
    write_llava(all_tasks(1), WATCHES[:1], tmp_path / "train.json", tmp_path / "images")
    for row in json.loads((tmp_path / "train.json").read_text()):
        assert set(row) == {"id", "task", "image", "conversations", "attributes"}
        assert [part["from"] for part in row["conversations"]] == ["human", "gpt"] * (
            len(row["conversations"]) // 2
        )
        assert all(set(part) == {"from", "value"} for part in row["conversations"])
        tagged = [part["from"] for part in row["conversations"] if IMAGE in part["value"]]
        assert tagged == ["gpt" if row["task"] == "generation" else "human"]


@pytest.mark.parametrize("kind", ["watches", "pictures", "array"])
def test_images_may_be_watches_pictures_or_arrays(kind, tmp_path):
    pictures = [render(watch) for watch in WATCHES[:2]]
    images = {
        "watches": WATCHES[:2],
        "pictures": pictures,
        "array": np.stack([np.asarray(one) for one in pictures]),
    }
    write_llava(all_tasks(2), images[kind], tmp_path / "a.json", tmp_path)
    assert (np.asarray(Image.open(tmp_path / "a_000001.png")) == np.asarray(pictures[1])).all()


def test_conversations_about_files_are_written_back_beside_them(tmp_path):
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "a.json", tmp_path)
    talks = read_llava(tmp_path / "a.json", tmp_path)
    write_llava(talks, None, tmp_path / "b.json", tmp_path)
    assert read_llava(tmp_path / "b.json", tmp_path) == talks


def test_two_data_sets_share_a_folder_without_touching_each_other(tmp_path):
    write_llava(all_tasks(1), WATCHES[:1], tmp_path / "train.json", tmp_path)
    before = everything_in(tmp_path)
    write_llava(all_tasks(1), WATCHES[1:2], tmp_path / "test.json", tmp_path)
    assert everything_in(tmp_path).items() > before.items()


def test_other_peoples_rows_are_read(tmp_path):
    (tmp_path / "coco").mkdir()
    render(WATCH).save(tmp_path / "coco" / "1.jpg")
    rows = [
        {
            "id": 1,
            "image": "coco/1.jpg",
            "conversations": [
                {"from": "human", "value": "What is it?\n<image>"},
                {"from": "gpt", "value": "A watch."},
                {"from": "human", "value": "Which colour?"},
                {"from": "gpt", "value": "Blue."},
            ],
        },
        {
            "image": "coco/1.jpg",
            "conversations": [
                {"from": "human", "value": "A watch, please."},
                {"from": "gpt", "value": "<image>\n"},
            ],
        },
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    assert read_llava(tmp_path / "data.json", tmp_path) == [
        Conversation(
            "vqa",
            "coco/1.jpg",
            (Turn("<image>\nWhat is it?", "A watch."), Turn("Which colour?", "Blue.")),
        ),
        Conversation("generation", "coco/1.jpg", (Turn("A watch, please.", IMAGE),)),
    ]


def row(human="<image>\nwhat?", gpt="sunny", **changes) -> dict:
    said = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"image": "good.png", "conversations": said, **changes}


def turns(*senders) -> list[dict]:
    return [
        {"from": sender, "value": "<image>\nwhat?" if place == 0 else "so"}
        for place, sender in enumerate(senders)
    ]


BAD_ROWS = {
    "not an object": ("a text", "'a text' is not an object with the keys image and conversations"),
    "no image key": (
        {"conversations": []},
        "the key 'image' is missing; there are 'conversations'",
    ),
    "no conversations key": (
        {"image": "good.png"},
        "the key 'conversations' is missing; there are 'image'",
    ),
    "empty object": ({}, "the key 'image' is missing; there are none"),
    "image no name": (row(image=3), "image 3 is not a file name"),
    "no turns": (
        row(conversations=[]),
        r"conversations \[\] is not a list of objects with the "
        r"keys from and value",
    ),
    "turns no list": (row(conversations="hello"), "conversations 'hello' is not a list of objects"),
    "turn without value": (
        row(conversations=[{"from": "human"}]),
        "is not a list of objects with the keys",
    ),
    "turn without from": (
        row(conversations=[{"value": "hello"}]),
        "is not a list of objects with the keys",
    ),
    "value no text": (row(human=5), "is not a list of objects with the keys from and value"),
    "empty value": (row(gpt=" "), "the gpt turn is ' ', not a text"),
    "starts with gpt": (
        row(conversations=turns("gpt", "human")),
        "turn 0 is from 'gpt' where 'human' is expected",
    ),
    "two humans": (
        row(conversations=turns("human", "human")),
        "turn 1 is from 'human' where 'gpt' is expected",
    ),
    "unknown sender": (
        row(conversations=turns("human", "bot")),
        "turn 1 is from 'bot' where 'gpt' is expected",
    ),
    "ends with human": (
        row(conversations=turns("human", "gpt", "human")),
        "the 3 turns end with 'human'",
    ),
    "unknown task": (row(task="chat"), "task 'chat' is not one of vqa, caption, generation"),
    "half a character": (
        row(gpt="A nice day \ud83d"),
        r"the gpt turn has an unpaired surrogate, "
        r"'\\ud83d', at position 11 of 'A nice day "
        r"\\ud83d'; an emoji's two halves belong "
        r"together",
    ),
    "half a character asked": (
        row(human="<image>\nis \ude00 it?"),
        r"the human turn has an unpaired surrogate, '\\ude00'",
    ),
    "no image tag": (
        row(human="what?"),
        "a vqa conversation needs <image> once, at the start of its first human turn",
    ),
    "two image tags": (
        row(human="<image>\n<image>\nwhat?"),
        "a vqa conversation needs <image> once",
    ),
    "tag amid a text": (
        row(human="is <image> sunny?"),
        "a vqa conversation needs <image> once, at the start",
    ),
    "tag in a later turn": (
        row(
            conversations=turns("human", "gpt")[:1]
            + [
                {"from": "gpt", "value": "so"},
                {"from": "human", "value": "<image>\nand?"},
                {"from": "gpt", "value": "so"},
            ]
        ),
        "a vqa conversation needs <image> once",
    ),
    "tag on the wrong side": (
        row(human="what?", gpt=IMAGE, task="caption"),
        "a caption conversation needs <image>",
    ),
    "request without a tag": (
        row(human="draw", task="generation"),
        "needs <image> as its whole gpt turn",
    ),
    "tag on both sides": (row(gpt=IMAGE), "needs <image> as its whole gpt turn and nowhere else"),
    "bad attributes": (
        row(attributes=[["colour"]]),
        r"attributes \('colour',\) are not a tuple of "
        r"names out of time",
    ),
    "attributes of another length": (
        row(attributes=[]),
        r"attributes \[\] is not one list per "
        r"pair of turns \(1 here",
    ),
    "image missing": (row(image="gone.png"), "image 'gone.png' is missing from"),
    "image is a folder": (row(image="folder"), "image 'folder' is missing from"),
    "image is a text": (row(image="text.png"), "image 'text.png' in .* is not a whole picture"),
    "image is cut off": (row(image="cut.png"), "image 'cut.png' in .* is not a whole picture that"),
    "photo is cut off": (row(image="cut.jpg"), "image 'cut.jpg' in .* is not a whole picture that"),
    "image of floats": (row(image="float.tiff"), "image 'float.tiff' in .* has no known range"),
    "image is a program": (row(image="program.eps"), "image 'program.eps' in .* is not a whole"),
    "path upwards": (
        row(image="../secret.png"),
        "image '../secret.png' is outside the image folder",
    ),
    "path upwards in Windows": (row(image="..\\secret.png"), "secret.png' is outside the image"),
    "absolute path": (row(image="/secret.png"), "image '/secret.png' is outside the image folder"),
    "link outwards": (row(image="link.png"), "image 'link.png' is outside the image folder"),
    "null byte": (row(image="a\0.png"), "is not a usable file name"),
    "name too long": (row(image="a" * 5000), "image 'aaaa.* is not a usable file name"),
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a good image and several bad ones, and one outside it."""
    images = tmp_path / "images"
    (images / "folder").mkdir(parents=True)
    render(WATCH).save(images / "good.png")
    render(WATCH).save(tmp_path / "secret.png")
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "text.png").write_text("no image")
    (images / "cut.png").write_bytes((images / "good.png").read_bytes()[:200])
    Image.effect_noise((64, 64), 50).save(images / "cut.jpg")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-500])  # its head is whole
    Image.new("F", (8, 8)).save(images / "float.tiff")
    Image.new("RGB", (8, 8)).save(images / "program.eps")
    return images


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_by_file_row_and_value(name, folder, tmp_path):
    bad, message = BAD_ROWS[name]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row(), bad]))
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, row 1: .*{message}") as error:
        read_llava(path, folder)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert everything_in(tmp_path) == before


def test_both_halves_of_a_character_are_one(folder, tmp_path):
    # as two escapes
    (tmp_path / "data.json").write_text(json.dumps([row(gpt="A nice day \U0001f600")]))
    (talk,) = read_llava(tmp_path / "data.json", folder)
    assert talk.turns[0].gpt == "A nice day \U0001f600"


def test_the_row_that_the_bad_ones_are_made_from_is_good(folder, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([row()]))
    assert len(read_llava(tmp_path / "data.json", folder)) == 1


def test_each_row_says_where_it_was_read(folder, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row(), row()]))
    first, second = read_llava(path, folder)
    assert (first.source, second.source) == (f"{path}, row 0", f"{path}, row 1")


SPELLINGS = {
    "as it is": "deep/caf\u00e9 1.png",
    "here": "./deep/caf\u00e9 1.png",
    "there and back": "deep/../deep//caf\u00e9 1.png",
    "out and in": "../images/deep/caf\u00e9 1.png",
    "Windows": "deep\\caf\u00e9 1.png",
    "decomposed": "deep/cafe\u0301 1.png",
    "full": "{folder}/deep/caf\u00e9 1.png",
    "link": "shallow/caf\u00e9 1.png",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_image_has_one_name_however_it_is_spelled(spelling, folder, tmp_path):
    (folder / "deep").mkdir()
    (folder / "shallow").symlink_to(folder / "deep")
    render(WATCH).save(folder / SPELLINGS["as it is"])
    name = SPELLINGS[spelling].format(folder=folder)
    (tmp_path / "data.json").write_text(json.dumps([row(image=name)]))
    (talk,) = read_llava(tmp_path / "data.json", folder)
    assert talk.image == SPELLINGS["as it is"]
    write_llava([replace(talk, image=name)], None, tmp_path / "again.json", folder)
    assert json.loads((tmp_path / "again.json").read_text())[0]["image"] == SPELLINGS["as it is"]


def test_a_file_that_has_just_that_name_is_meant(folder, tmp_path):
    names = ["cafe\u0301.png", "caf\u00e9.png", "a\\b.png"]  # each is another file here
    for name in names:
        render(WATCH).save(folder / name)
    (tmp_path / "data.json").write_text(json.dumps([row(image=name) for name in names]))
    assert [talk.image for talk in read_llava(tmp_path / "data.json", folder)] == names


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"]
)
def test_json_is_read_in_the_encoding_that_it_has(encoding, folder, tmp_path):
    text = "die Uhr zeigt “10 nach 10”, \u00fcbrigens \U0001f570"
    content = json.dumps([row(gpt=text)], ensure_ascii=False, indent=1)
    (tmp_path / "data.json").write_bytes(content.encode(encoding))
    assert read_llava(tmp_path / "data.json", folder)[0].turns[0].gpt == text


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            b'[\n {"id": "caf\xe9"}]',
            r"data.json, line 2 is not valid UTF-8: it contains b'\\xe9'; "
            r"save the file as UTF-8\.$",
        ),
        (
            "[\n\n3]".encode("utf-16") + b"\0",
            "data.json, line 3 is not valid UTF-16: it contains ",
        ),
        (
            b"[3,\n\0\0]",
            "data.json, line 2 is no text, as it has null characters; save the file as",
        ),
        (
            b'[{"image": "a.png",\n"image": "b.png"}]',
            "not JSON: the key 'image' is given more than once in one object, "
            "as 'a.png' and 'b.png'",
        ),
    ],
    ids=["latin", "half a character", "null", "a key twice"],
)
def test_json_that_can_be_read_in_two_ways_or_none_is_refused(bad, message, folder, tmp_path):
    (tmp_path / "data.json").write_bytes(bad)
    with pytest.raises(ValueError, match=message) as error:
        read_llava(tmp_path / "data.json", folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: "),
        (b"[{", "is not JSON: "),
        (b"\xff\xfe", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b'{"image": "good.png"}', "holds a JSON dict, not a list of conversations"),
        (b"3", "holds a JSON int, not a"),
        (None, "cannot be read: No such file"),
    ],
    ids=["empty", "cut off", "not text", "too deep", "object", "number", "missing"],
)
def test_a_file_that_is_not_llava_json_is_refused_by_name(content, message, folder, tmp_path):
    path = tmp_path / "data.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} {message}"):
        read_llava(path, folder)


QUESTION = Turn("<image>\nwhat?", "sunny", ("weather",))


@pytest.mark.parametrize(
    ("last", "images", "size", "message"),
    [
        (
            Conversation("vqa", 1, (QUESTION,)),
            [WATCH],
            64,
            "row 1: image 1 is not among the 1 images",
        ),
        (
            Conversation("vqa", 1, (QUESTION,)),
            [WATCH, "watch"],
            64,
            "row 1: image 1 is 'watch', neither a Watch, a PIL",
        ),
        (
            Conversation("vqa", 0, (QUESTION,)),
            np.zeros((1, 8, 8, 3)),
            64,
            r"row 0: image 0 is an array "
            r"float64 \(8, 8",
        ),
        (
            Conversation("vqa", 0, (QUESTION,)),
            np.zeros((1, 8, 8), "uint8"),
            64,
            r"row 0: image 0 is an "
            r"array uint8 \(8, 8",
        ),
        (
            Conversation("vqa", 1, (QUESTION,)),
            [WATCH, Image.new("F", (8, 8))],
            64,
            "row 1: image 1 is not a whole picture that can be read: "
            "its pixels are of Pillow's kind 'F'",
        ),
        (
            Conversation("vqa", 0, (QUESTION,)),
            [WATCH],
            7,
            "image size 7 is not an integer from 32 to 1024",
        ),
        (
            Conversation("vqa", "gone.png", (QUESTION,)),
            [WATCH],
            64,
            "row 1: image 'gone.png' is missing from",
        ),
        (
            Conversation("vqa", "../a.png", (QUESTION,)),
            [WATCH],
            64,
            "row 1: image '../a.png' is outside the image folder",
        ),
        ({"task": "vqa"}, [WATCH], 64, "row 1: {'task': 'vqa'} is not a Conversation"),
    ],
    ids=[
        "position",
        "no image",
        "float",
        "grey",
        "float picture",
        "size",
        "missing",
        "outside",
        "no conversation",
    ],
)
def test_nothing_is_written_when_anything_is_bad(last, images, size, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_llava(
            [Conversation("vqa", 0, (QUESTION,)), last],
            images,
            tmp_path / "a.json",
            tmp_path / "images",
            size,
        )
    assert list(tmp_path.iterdir()) == []


def test_the_pictures_of_a_json_of_that_name_elsewhere_are_not_written_over(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "one" / "a.json", tmp_path / "images")
    before = everything_in(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"images/a_000001.png already exists with other contents, and rows of another JSON",
    ):
        write_llava(
            all_tasks(2), [WATCHES[0], WATCHES[5]], tmp_path / "two" / "a.json", tmp_path / "images"
        )
    assert everything_in(tmp_path) == before
    # the same
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "two" / "a.json", tmp_path / "images")
    # again
    write_llava(all_tasks(2), WATCHES[4:6], tmp_path / "one" / "a.json", tmp_path / "images")
    assert before["images/a_000001.png"] != everything_in(tmp_path)["images/a_000001.png"]


def test_a_named_image_is_not_written_over(tmp_path):
    write_llava(all_tasks(1), WATCHES[:1], tmp_path / "a.json", tmp_path)
    before = everything_in(tmp_path)
    talks = [Conversation("vqa", name, (QUESTION,)) for name in ("./a_000000.png", 0)]
    message = "row 0: image 'a_000000.png' is a file that would be overwritten by image 0"
    with pytest.raises(ValueError, match=message):
        write_llava(talks, WATCHES[1:2], tmp_path / "a.json", tmp_path)
    assert everything_in(tmp_path) == before


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_llava(all_tasks(2), WATCHES[:2], tmp_path / "a.json", tmp_path)
    before = everything_in(tmp_path)

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(
        ValueError,
        match=r"a\.json and its images cannot be written: No space left "
        r"on device\.",
    ):
        write_llava(all_tasks(2), WATCHES[2:4], tmp_path / "a.json", tmp_path)
    assert everything_in(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ValueError,
        match=r"a\.json and its images cannot be written: Not a "
        r"directory\.",
    ):
        write_llava(all_tasks(1), WATCHES[:1], tmp_path / "a.json", tmp_path / "file" / "images")
    assert set(everything_in(tmp_path)) == {"file"}
