"""Conversion of picture files, PIL images and arrays to RGB (paper section 3, real images).

Belongs here: which pictures are accepted, and how their pixels become 8-bit RGB. Not here: drawing
watches (`smart_watch.py`), fitting to a size and caption files (`pictures.py`).

Every picture enters through `to_rgb`, so all callers accept and refuse the same pictures.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# some of Pillow's other formats start programs to read a file
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
SUFFIXES = (
    ".apng",
    ".bmp",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
# Pillow's pixel modes with a known range: 8 bits or fewer, and 16 bits
_KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(picture: str | Path | Image.Image | np.ndarray, name: str = "") -> Image.Image:
    """Convert a file, a PIL image or a uint8 array (H, W, 3) to RGB.

    The picture is rotated as its EXIF says, transparent pixels become white, and 16 bits become 8.
    An animation gives its first frame. Error messages call the picture `name`. ValueError for a
    file that is missing, broken or not in one of `FORMATS`, for pixels without a known range (32
    bits, LAB), and for more pixels than Pillow considers safe (89 million).
    """
    if isinstance(picture, str | Path):
        with (
            _refused(name or str(picture), f" ({', '.join(FORMATS)})"),
            Image.open(picture, formats=FORMATS) as opened,
        ):
            return _on_white(opened)
    name = name or "The picture"
    if isinstance(picture, np.ndarray):
        if not (picture.dtype == np.uint8 and picture.shape[2:] == (3,) and picture.size):
            raise ValueError(
                f"{name} is an array {picture.dtype} {picture.shape}, not a uint8 array (H, W, 3)."
            )
        picture = Image.fromarray(picture)
    with _refused(name):
        return _on_white(picture)


@contextmanager
def _refused(name: str, allowed: str = "") -> Iterator[None]:
    """Turn any error of Pillow into a ValueError of one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        most = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise ValueError(f"{name} has more than {most} pixels and is not opened.") from None
    except FileNotFoundError:
        raise ValueError(f"There is no picture {name}.") from None
    except Exception as error:  # Pillow promises no particular class
        why = str(error).rstrip(".")
        raise ValueError(
            f"{name} is not a whole picture that can be read{allowed}: {why}."
        ) from error


def _on_white(picture: Image.Image) -> Image.Image:
    """Return the picture upright, on white and in RGB."""
    if not all(picture.size):
        raise ValueError(f"its size is {picture.width} x {picture.height} pixels")
    if Image.MAX_IMAGE_PIXELS and picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError  # in memory too: once written, it could not be read
    if picture.mode not in _KNOWN + _DEEP:
        raise ValueError(
            f"its pixels are of Pillow's kind {picture.mode!r}, which has no known range"
        )
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in _DEEP:  # Pillow would clip at 255
        pixels = np.asarray(picture)
        clear = pixels == picture.info.get("transparency", -1)
        picture = Image.fromarray(np.where(clear, 255, pixels >> 8).astype(np.uint8))
    if picture.mode == "La":  # Pillow cannot convert it to RGBA directly
        picture = picture.convert("LA")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
