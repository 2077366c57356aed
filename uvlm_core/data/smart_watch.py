"""The Smart Watch UI world: watches, their sampling and their rendering (paper section 3).

Belongs here: watches, sampling, pixels. Not here: questions about a watch (`attributes.py`),
conversations (`conversations.py`), encoders (`models/encoders.py`).

`sample_watch(seed, index)` gives the same watch on every machine, whatever was sampled before it.
Watches are split by their attribute tuple (`split_of`), so no watch of the test set occurs in
training under any seed.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# the number of hours: 0..11, or the authors' 0..12, where 0 and 12 look the same (pitfall 10)
HOURS = (12, 13)
WORLD_VERSION = 1  # part of every record: pixels and splits differ between versions
WEATHERS = ("sunny", "cloudy", "raining")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
# "reader" trains only the frozen reader that scores generated images
SPLITS = ("train", "test", "reader")

POOL_STREAM = 0  # seed of the pool of training watches
# seed of test watches and questions; `split_of` keeps them out of training under any seed
TEST_STREAM = 800_000
CARDS_STREAM = 641  # seed of the test watches behind the numbers of the model cards

NUMBER_FROM = 128  # px; in smaller images the battery's number is illegible and is not drawn
MINIMUM_CONTRAST = 3.0  # WCAG ratio of the white hands to the face (pitfall 11)
SUPERSAMPLE = 4  # a watch is drawn this many times larger and averaged down


@dataclass(frozen=True)
class Watch:
    """The values that one watch shows; its colour is never asked about (paper section 3).

    ValueError for a value out of range, and for two icons in one corner.
    """

    hour: int  # 0..11, or 12 with the authors' hours
    minute: int  # 0..59
    second: int  # 0..59
    weather: str  # one of WEATHERS
    battery: int  # 0..100, per cent
    weather_corner: str  # one of CORNERS
    battery_corner: str  # another one of CORNERS
    colour: tuple[int, int, int]  # RGB of the face, 0..255

    def __post_init__(self):
        for name, high in (
            ("hour", max(HOURS) - 1),
            ("minute", 59),
            ("second", 59),
            ("battery", 100),
        ):
            value = getattr(self, name)
            if not (isinstance(value, int) and 0 <= value <= high):
                raise ValueError(f"{name} {value!r} is not an integer from 0 to {high}.")
        for name, allowed in (
            ("weather", WEATHERS),
            ("weather_corner", CORNERS),
            ("battery_corner", CORNERS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}."
                )
        if self.weather_corner == self.battery_corner:
            raise ValueError(
                f"weather_corner and battery_corner are both {self.weather_corner!r}; "
                f"they must differ."
            )
        if len(self.colour) != 3 or not all(
            isinstance(c, int) and 0 <= c <= 255 for c in self.colour
        ):
            raise ValueError(f"colour {self.colour!r} is not three integers from 0 to 255.")

    @property
    def time(self) -> str:
        """The time as the conversations write it, `hh:mm:ss`."""
        return f"{self.hour:02d}:{self.minute:02d}:{self.second:02d}"

    @property
    def asked(self) -> tuple:
        """The attribute tuple, without the colour; hour 12 is 0, because they look the same."""
        return (
            self.hour % 12,
            self.minute,
            self.second,
            self.weather,
            self.battery,
            self.weather_corner,
            self.battery_corner,
        )


def contrast_with_white(colour: tuple[int, int, int]) -> float:
    """Return the WCAG contrast ratio, 1..21, of white on `colour` (RGB, 0..255)."""
    channels = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)


def split_of(watch: Watch) -> str:
    """Return the split of a watch: about 80 % train, 10 % test, 10 % reader.

    The split is a hash of the attribute tuple, so splits have no tuple in common under any seed.
    """
    digest = hashlib.sha256(f"{WORLD_VERSION} {watch.asked}".encode()).digest()
    return {0: "test", 1: "reader"}.get(digest[0] % 10, "train")


def sample_watch(seed: int, index: int, split: str = "train", hours: int = 12) -> Watch:
    """Draw watch number `index` of the stream `seed` from one split.

    The arguments alone determine it. ValueError for an unknown split and for `hours` other than
    12 or 13.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}.")
    if hours not in HOURS:
        raise ValueError(f"hours {hours!r} is not one of {', '.join(map(str, HOURS))}.")
    rng = np.random.default_rng([seed, index, SPLITS.index(split)])
    while True:
        corners = rng.permutation(4)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        while contrast_with_white(colour) < MINIMUM_CONTRAST:
            colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        watch = Watch(
            hour=int(rng.integers(hours)),
            minute=int(rng.integers(60)),
            second=int(rng.integers(60)),
            weather=WEATHERS[rng.integers(3)],
            battery=int(rng.integers(101)),
            weather_corner=CORNERS[corners[0]],
            battery_corner=CORNERS[corners[1]],
            colour=colour,
        )
        if split_of(watch) == split:
            return watch


def sample_watches(
    seed: int, count: int, split: str = "train", start: int = 0, hours: int = 12
) -> list[Watch]:
    """Draw watches `start` .. `start + count - 1` of one stream."""
    return [sample_watch(seed, index, split, hours) for index in range(start, start + count)]


def render(watch: Watch, size: int = 64) -> Image.Image:
    """Render a watch as an RGB image of `size` x `size` pixels.

    The measures are the paper's at 224 px, scaled. Hands keep a least width (2.5, 1.75, 1 px), so
    they stay visible and distinct in small images. Below `NUMBER_FROM`, the battery also takes the
    room of its number. ValueError for a size that is not from 32 to 1024.
    """
    if not (isinstance(size, int) and 32 <= size <= 1024):
        raise ValueError(f"image size {size!r} is not an integer from 32 to 1024.")
    side = size * SUPERSAMPLE
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    unit = side / 224  # one pixel of the paper's image
    centre, radius = side / 2, 0.4 * side
    draw.ellipse(
        (centre - radius, centre - radius, centre + radius, centre + radius), fill=watch.colour
    )

    turns = ((watch.hour + watch.minute / 60) / 12, watch.minute / 60, watch.second / 60)
    for turn, length, width, least in zip(
        turns, (0.5, 0.7, 0.9), (6, 4, 2), (2.5, 1.75, 1.0), strict=True
    ):
        angle = 2 * math.pi * turn
        tip = (
            centre + length * radius * math.sin(angle),
            centre - length * radius * math.cos(angle),
        )
        draw.line(
            (centre, centre, *tip),
            fill="white",
            width=round(max(width * unit, least * SUPERSAMPLE)),
        )

    margin = 6 * unit
    icon = _weather_icon(watch.weather, round(30 * unit))
    image.paste(icon, _corner_box(watch.weather_corner, side, margin, *icon.size)[:2])
    _draw_battery(draw, watch, side, unit, margin, with_number=size >= NUMBER_FROM)
    return image.resize((size, size), Image.Resampling.BOX)


def render_batch(watches: list[Watch], size: int = 64) -> np.ndarray:
    """Render many watches as a uint8 array of shape (watches, size, size, 3)."""
    return np.stack([np.asarray(render(watch, size)) for watch in watches])


def _corner_box(
    corner: str, side: int, margin: float, width: float, height: float
) -> tuple[int, int, int, int]:
    """Return the box (x0, y0, x1, y1) in a corner of a square, `margin` away from the edges."""
    x = margin if "left" in corner else side - margin - width
    y = margin if "top" in corner else side - margin - height
    return round(x), round(y), round(x + width), round(y + height)


def _weather_icon(weather: str, side: int) -> Image.Image:
    """Draw one of our own three icons on white, in a square of `side` pixels."""
    icon = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(icon)

    def ellipse(x0, y0, x1, y1, fill):
        draw.ellipse((x0 * side, y0 * side, x1 * side, y1 * side), fill=fill)

    if weather == "sunny":
        for ray in range(8):
            angle = math.pi * ray / 4
            tip = (side * (0.5 + 0.48 * math.sin(angle)), side * (0.5 - 0.48 * math.cos(angle)))
            draw.line(
                (side / 2, side / 2, *tip), fill=(250, 150, 0), width=max(1, round(side * 0.09))
            )
        ellipse(0.24, 0.24, 0.76, 0.76, (255, 195, 0))
        return icon
    grey = (150, 160, 175) if weather == "cloudy" else (95, 105, 125)
    lift = 0.16 if weather == "cloudy" else 0.0
    for x0, y0, x1, y1 in (
        (0.02, 0.28, 0.46, 0.66),
        (0.24, 0.06, 0.74, 0.60),
        (0.54, 0.24, 0.98, 0.66),
    ):
        ellipse(x0, y0 + lift, x1, y1 + lift, grey)
    draw.rectangle((0.2 * side, (0.42 + lift) * side, 0.8 * side, (0.66 + lift) * side), fill=grey)
    if weather == "raining":
        for x in (0.24, 0.50, 0.76):
            draw.line(
                (x * side, 0.72 * side, (x - 0.10) * side, 0.97 * side),
                fill=(20, 90, 230),
                width=max(1, round(side * 0.10)),
            )
    return icon


def _draw_battery(
    draw: ImageDraw.ImageDraw,
    watch: Watch,
    side: int,
    unit: float,
    margin: float,
    with_number: bool,
) -> None:
    """Draw the outline, the green fill in proportion to the level and, if asked, the number."""
    body, height = (25 * unit, 10 * unit) if with_number else (46 * unit, 17 * unit)
    text, font = f"{watch.battery}%", None
    reserved = 0.0
    if with_number:
        font = ImageFont.load_default(size=round(11 * unit))  # Pillow's own Aileron, CC0
        # room for the widest number, so the battery never moves
        reserved = draw.textlength("100%", font=font) + 3 * unit
    box = _corner_box(watch.battery_corner, side, margin, body + reserved, height)
    line = max(1, round(unit * (1 if with_number else 2.5)))
    outline = (box[0], box[1], round(box[0] + body), box[3])
    draw.rectangle(outline, outline="black", fill="white", width=line)
    inner = outline[2] - outline[0] + 1 - 2 * line
    filled = round(inner * watch.battery / 100)
    if filled:
        draw.rectangle(
            (
                outline[0] + line,
                outline[1] + line,
                outline[0] + line + filled - 1,
                outline[3] - line,
            ),
            fill=(0, 170, 60),
        )
    if with_number:
        draw.text(
            (outline[2] + 3 * unit, (box[1] + box[3]) / 2),
            text,
            fill="black",
            font=font,
            anchor="lm",
        )
