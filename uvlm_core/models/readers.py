"""Frozen networks that read attributes back from generated images or features (paper section 4.1).

Belongs here: the networks that score generated watches. They read attributes, and give features for
distances between sets. The paper uses Inception, which was never trained on watches. Not here:
their training on watches of the split "reader" (`pretraining/`), the distances
(`scoring/images.py`).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from uvlm_core.data.attributes import ATTRIBUTES, attribute_with, reader_classes
from uvlm_core.data.smart_watch import Watch
from uvlm_core.models.encoders import directions, to_pixels
from uvlm_core.models.weights import companion_config, folder_config, load_into
from uvlm_core.places import refusing, resolve

READER_SIZE = 64  # px
READINGS_A_CALL = 256  # images per call of a reader


class AttributeReader(nn.Module):
    """A CNN that classifies every attribute of a watch of 64 x 64 px.

    Convolutions at 32 x 32, 16 x 16 and 8 x 8, then one vector of `width` features and a linear
    head per attribute. The last feature map is flattened, not pooled, because most attributes are
    positions.
    """

    name = "reader"  # prefix of the distances between its features

    def __init__(self, width: int = 192):
        super().__init__()
        self.width = width

        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]

        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),  # (images, 12, 32, 32)
            *block(12, 32, 1),
            *block(32, 32, 1),
            *block(32, 64, 2),
            *block(64, 64, 1),
            *block(64, 64, 1),
            # (images, 12 * 8 * 8)
            *block(64, 96, 2),
            *block(96, 96, 1),
            nn.Conv2d(96, 12, 1),
            nn.Flatten(),
            nn.Linear(768, width),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(classes)) for name, classes in reader_classes().items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map pixels in [-1, 1] (images, 3, 64, 64) to logits (images, classes) per attribute."""
        features = self.trunk(pixels)  # (images, width)
        return {name: head(features) for name, head in self.heads.items()}

    @classmethod
    def load(cls, name: str = "pretrained/reader") -> "AttributeReader":
        """Load a frozen reader by shipped name or local folder; ValueError for any other folder."""
        width = folder_config(name).get("width")
        if type(width) is not int or width < 1:
            raise ValueError(
                f"{name!r} is not an attribute reader's folder; the shipped one is "
                f"pretrained/reader."
            )
        return load_into(cls(width), resolve(name))

    @torch.no_grad()
    def features(self, images: np.ndarray | Tensor) -> Tensor:
        """Map uint8 images (images, 64, 64, 3) to features, float32 (images, width)."""
        return torch.cat([self.trunk(pixels) for pixels in _batches(images)])

    @torch.no_grad()
    def read(self, images: np.ndarray | Tensor) -> list[dict]:
        """Read every attribute of uint8 images (images, 64, 64, 3); ValueError for other input.

        Returns: per image hour, minute, second, weather, battery, weather_corner and
        battery_corner.
        """
        return [reading for pixels in _batches(images) for reading in _readings(self(pixels))]


class FeatureReader(nn.Module):
    """A CNN that classifies every attribute from the directions of one SigLIP's features.

    The features are those of the penultimate layer. Models with SigLIP output generate in this
    space and are scored in it (pitfall 14).
    """

    def __init__(self, width: int, tokens: int, channels: int = 96):
        super().__init__()
        self.config = {"width": width, "tokens": tokens, "channels": channels}
        side = math.isqrt(tokens)
        self.trunk = nn.Sequential(
            nn.Unflatten(2, (side, side)),  # (images, width, side, side)
            nn.Conv2d(width, channels, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(channels, 12, 1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(12 * tokens, 192),
            nn.GELU(),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(192, len(classes)) for name, classes in reader_classes().items()}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map features (images, tokens, width) to logits (images, classes) per attribute."""
        hidden = self.trunk(directions(features).transpose(1, 2))  # (images, 192)
        return {name: head(hidden) for name, head in self.heads.items()}

    @classmethod
    def load(cls, name: str, encoder: str) -> "FeatureReader":
        """Load a frozen reader by shipped name or local folder.

        ValueError when it was trained on the features of another encoder than `encoder`.
        """
        config = companion_config(name, encoder)
        with refusing(name, "a reader of features"):
            network = cls(**config)
        return load_into(network, resolve(name))

    @torch.no_grad()
    def read(self, features: np.ndarray) -> list[dict]:
        """Read every attribute of features (images, tokens, width), as `AttributeReader.read` does.

        ValueError for features of another shape, and for none.
        """
        wanted = (self.config["tokens"], self.config["width"])
        if features.ndim != 3 or features.shape[1:] != wanted or not len(features):
            raise ValueError(
                f"Features are of shape (images, {wanted[0]}, {wanted[1]}), not {features.shape}."
            )
        parts = torch.from_numpy(np.ascontiguousarray(features, np.float32)).split(READINGS_A_CALL)
        return [reading for part in parts for reading in _readings(self(part))]


def _readings(logits: dict[str, Tensor]) -> list[dict]:
    """Return the most likely value of every attribute, per image."""
    classes = reader_classes()
    chosen = {name: values.argmax(1).tolist() for name, values in logits.items()}
    return [
        {name: classes[name][number] for name, number in zip(chosen, numbers, strict=True)}
        for numbers in zip(*chosen.values(), strict=True)
    ]


def class_numbers(watches: Sequence[Watch]) -> Tensor:
    """Return class numbers (watches, classified parts) in the order of `reader_classes`."""
    known = [attribute for attribute in ATTRIBUTES.values() if attribute.in_readers]
    return torch.tensor(
        [
            [
                classes.index(value)
                for attribute in known
                for classes, value in zip(
                    attribute.parts.values(), attribute.split(attribute.value(watch)), strict=True
                )
            ]
            for watch in watches
        ]
    )


def partial_credit(name: str, chosen: Tensor, truth: Tensor) -> Tensor:
    """Return the paper's partial credit of class numbers (images,) for one part, e.g. "minute"."""
    return attribute_with(name).credit(name, chosen, truth)


def _batches(images: np.ndarray | Tensor) -> list[Tensor]:
    """Return batches of pixels in [-1, 1] (batch, 3, 64, 64); the whole input is checked first."""
    images = images.numpy() if isinstance(images, Tensor) else images
    several = isinstance(images, np.ndarray) and images.ndim == 4
    if several and len(images) == 0:
        raise ValueError("There are no images to read; the reader takes one or more.")
    # raises ValueError unless these are uint8 images of this size
    to_pixels(images[:1] if several else images, READER_SIZE)
    return [
        to_pixels(images[start : start + READINGS_A_CALL], READER_SIZE).contiguous()
        for start in range(0, len(images), READINGS_A_CALL)
    ]
