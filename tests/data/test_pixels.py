"""From anything to RGB: every way by which a picture enters gives the same pixels or refusal."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from uvlm_core.data.conversations import Conversation, Turn
from uvlm_core.data.llava import read_llava, write_llava
from uvlm_core.data.pictures import fit_picture, open_picture
from uvlm_core.data.pixels import FORMATS, SUFFIXES, to_rgb
from uvlm_core.lmms import UVLM

ASKED = (Turn("<image>\nwhat is it?", "a thing"),)
WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)
GREY = np.full((16, 32), 40_000, np.uint16)  # of 16 bits: 156 of 8


def flag(mode: str = "RGB", left=RED, right=BLUE) -> Image.Image:
    """A picture of 32 x 16 pixels in two colours."""
    picture = Image.new(mode, (32, 16), left)
    picture.paste(right, (16, 0, 32, 16))
    return picture


def turned() -> dict:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: its left is the top
    return {"exif": exif}


def palette() -> Image.Image:
    picture = flag("P", 0, 1)
    picture.putpalette([*RED, *BLUE])
    return picture


# what is saved under a name, with what, and what is seen at the left and at the right
SIDES = {
    "rgb.png": (flag(), {}, RED, BLUE),
    "deep.png": (Image.fromarray(GREY), {}, (156,) * 3, (156,) * 3),
    "deep.tiff": (Image.fromarray(GREY), {}, (156,) * 3, (156,) * 3),
    "motorola.tiff": (
        Image.frombytes("I;16B", (32, 16), GREY.astype(">u2").tobytes()),
        {},
        (156,) * 3,
        (156,) * 3,
    ),
    "clear.png": (flag("RGBA", (0, 0, 0, 0)), {}, WHITE, BLUE),
    "grey.png": (flag("LA", (0, 0), (90, 255)), {}, WHITE, (90,) * 3),
    "bits.png": (flag("1", 0, 1), {}, (0, 0, 0), WHITE),
    "clear grey.png": (flag("L", 7, 90), {"transparency": 7}, WHITE, (90,) * 3),
    "clear colour.png": (flag(), {"transparency": RED}, WHITE, BLUE),
    "clear palette.png": (palette(), {"transparency": 0}, WHITE, BLUE),
    "clear.gif": (palette(), {"transparency": 1}, RED, WHITE),
    "clear.webp": (flag("RGBA", (*RED, 255), (0, 0, 0, 0)), {"lossless": True}, RED, WHITE),
    "moving.gif": (flag(), {"save_all": True, "append_images": [flag(left=BLUE)]}, RED, BLUE),
    "ink.tiff": (flag("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), {}, RED, BLUE),
}
TOP_AND_BOTTOM = {
    name: (flag(), options | turned(), RED, BLUE)
    for name, options in {
        "turned.jpg": {"quality": 100, "subsampling": 0},
        "turned.png": {},
        "turned.tiff": {},
        "turned.webp": {"lossless": True},
    }.items()
}
REFUSED = {
    "float.tiff": (Image.new("F", (8, 8)), "of Pillow's kind 'F', which has no known range"),
    "long.tiff": (Image.new("I", (8, 8)), "of Pillow's kind 'I', which has no known range"),
    "lab.tiff": (Image.new("LAB", (8, 8)), "of Pillow's kind 'LAB', which has no known range"),
    "bomb.png": (Image.new("1", (200, 100)), "has more than 15,000 pixels and is not opened"),
    "bomb twice.png": (Image.new("1", (400, 100)), "has more than 15,000 pixels and is not opened"),
    "cut.jpg": (Image.effect_noise((64, 64), 50), "is not a whole picture that can be read"),
    "cut.png": (Image.effect_noise((64, 64), 50), "is not a whole picture that can be read"),
}


def through_write_llava(path, folder):
    with Image.open(path) as picture:
        talk = Conversation("vqa", 0, ASKED)
        write_llava([talk], [picture], folder / "a.json", folder / "written")
    (talk,) = read_llava(folder / "a.json", folder / "written")
    return open_picture(folder / "written" / talk.image, 32)


def through_read_llava(path, folder):
    said = [{"from": "human", "value": ASKED[0].human}, {"from": "gpt", "value": ASKED[0].gpt}]
    (folder / "read.json").write_text(json.dumps([{"image": path.name, "conversations": said}]))
    (talk,) = read_llava(folder / "read.json", path.parent)
    return open_picture(path.parent / talk.image, 32)


def through_named_files(path, folder):
    write_llava([Conversation("vqa", path.name, ASKED)], None, folder / "named.json", path.parent)
    return open_picture(path, 32)


def through_lmms_eval(path, folder):
    encoder = SimpleNamespace(size=32, encode=lambda images: images[0])
    model = SimpleNamespace(encoder=encoder, _row=lambda where: None)
    with Image.open(path) as picture:
        return UVLM._read(model, [("what is it?", {}, lambda row: [picture])], ["a thing"])[1]


def through_memory(path, folder):
    with Image.open(path) as picture:
        return fit_picture(picture, 32)


def straight(path, folder):
    return open_picture(path, 32)


ways = pytest.mark.parametrize(
    "way",
    [
        straight,
        through_memory,
        through_write_llava,
        through_read_llava,
        through_named_files,
        through_lmms_eval,
    ],
)


def saved(folder, name, picture, options):
    (folder / "images").mkdir()
    picture.save(folder / "images" / name, **options)
    return folder / "images" / name


@ways
@pytest.mark.parametrize("name", [*SIDES, *TOP_AND_BOTTOM])
def test_every_way_gives_the_same_pixels(name, way, tmp_path):
    picture, options, first, second = (SIDES | TOP_AND_BOTTOM)[name]
    pixels = way(saved(tmp_path, name, picture, options), tmp_path).astype(int)
    assert pixels.shape == (32, 32, 3)
    if name in TOP_AND_BOTTOM:
        assert (pixels[:, :6] > 250).all() and (pixels[:, 26:] > 250).all()  # white beside it
        pixels = pixels.swapaxes(0, 1)
    assert (pixels[:6] > 250).all() and (pixels[26:] > 250).all()
    assert abs(pixels[12:20, :12] - first).max() <= 3
    assert abs(pixels[12:20, 20:] - second).max() <= 3


@ways
@pytest.mark.parametrize("name", REFUSED)
def test_every_way_refuses_the_same_and_writes_nothing(name, way, tmp_path, monkeypatch):
    picture, message = REFUSED[name]
    path = saved(tmp_path, name, picture, {})
    if name.startswith("cut"):
        path.write_bytes(path.read_bytes()[:-600])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(path) as opened:  # as somebody does who sets no limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)
        if way in (through_memory, through_lmms_eval, through_write_llava):
            monkeypatch.setattr(Image, "open", lambda *arguments, **options: opened)
        with pytest.raises(ValueError, match=message) as error:
            way(path, tmp_path)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert {each.name for each in tmp_path.rglob("*")} <= {"images", name, "read.json"}


def test_kinds_of_pixels_that_only_memory_has_are_read_too():
    for mode, by in (
        ("RGBX", "RGB"),
        ("HSV", "RGB"),
        ("YCbCr", "RGB"),
        ("RGBa", "RGBA"),
        ("PA", "P"),
    ):
        seen = np.asarray(to_rgb(flag().convert(by).convert(mode))).astype(int)
        assert abs(seen[:, :16] - RED).max() <= 4, mode
        assert abs(seen[:, 16:] - BLUE).max() <= 4, mode
    assert (np.asarray(to_rgb(Image.new("La", (2, 2), (0, 0)))) == 255).all()
    assert (np.asarray(to_rgb(Image.new("RGBa", (2, 2), (0, 0, 0, 0)))) == 255).all()
    for mode in ("I;16", "I;16L", "I;16N"):
        deep = Image.frombytes(mode, (32, 16), GREY.tobytes())
        assert (np.asarray(to_rgb(deep)) == 156).all(), mode
    deep = Image.fromarray(GREY)
    deep.info["transparency"] = 40_000
    assert (np.asarray(to_rgb(deep)) == 255).all()


def test_a_picture_is_turned_once(tmp_path):
    path = saved(tmp_path, "turned.jpg", flag(), turned())
    expected = to_rgb(path)
    assert expected.size == (16, 32)
    with Image.open(path) as picture:
        for each in (picture, ImageOps.exif_transpose(picture), picture.convert("RGB"), expected):
            for _ in range(2):  # it is left as it was
                np.testing.assert_array_equal(np.asarray(to_rgb(each)), np.asarray(expected))


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((8, 8, 3)), "float64 (8, 8, 3)"),
        (np.zeros((8, 8), np.uint8), "uint8 (8, 8)"),
        (np.zeros((8, 8, 4), np.uint8), "uint8 (8, 8, 4)"),
        (np.zeros((0, 8, 3), np.uint8), "uint8 (0, 8, 3)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "uint8 (1, 8, 8, 3)"),
    ],
)
def test_another_array_is_refused(array, shape):
    with pytest.raises(ValueError) as error:
        to_rgb(array, "image 7")
    assert str(error.value) == f"image 7 is an array {shape}, not a uint8 array (H, W, 3)."


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="can be read: its size is 0 x 5 pixels"):
        to_rgb(Image.new("RGB", (0, 5)))


def test_the_suffixes_are_those_of_the_formats():
    known = Image.registered_extensions()
    assert set(SUFFIXES) == {suffix for suffix, kind in known.items() if kind in FORMATS}
