"""A trained model to ask and to let draw: `uvlm_core.load` (no section of the paper).

Belongs here: questions, requests and what a model attends to, one at a time. Not here: decoding
itself (`models/decoding.py`), scores over a test set (`scoring/`), widgets (`playground.py`).

Loading is fast: it imports neither peft nor the Trainer nor scikit-learn.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import IMAGE, Conversation, Turn
from uvlm_core.data.smart_watch import Watch, render
from uvlm_core.data.tokens import image_rows
from uvlm_core.environment import ROOT
from uvlm_core.models.decoding import answer, generate_images
from uvlm_core.models.distort import Distort
from uvlm_core.models.distortion import Distortion
from uvlm_core.models.encoders import FeatureDecoder, vectors
from uvlm_core.models.readers import AttributeReader, FeatureReader
from uvlm_core.places import verify
from uvlm_core.training.networks import load_model, read_spec
from uvlm_core.training.pool import sample_images, training_pool
from uvlm_core.training.spec import RunSpec

BOX = ROOT / "uvlm_core" / "trained"


@dataclass(frozen=True)
class Drawing:
    """A generated image and what a frozen reader sees in it.

    `read` maps an attribute to its value as an answer says it, and `parts` maps the reader's parts
    to their values. Both are empty without a reader. `triggered`: whether the model began an image
    by itself.
    """

    image: Image.Image
    read: dict[str, str]
    parts: dict
    triggered: bool


def names() -> dict[str, Path]:
    """Return the folders of the shipped trained models by their names, "VQ-VQ unified" first."""
    found = {}
    for path in BOX.glob("*/spec.json"):
        spec = read_spec(path.parent)
        found[f"{spec.model.architecture} {spec.training.regime}"] = path.parent
    return dict(sorted(found.items(), key=lambda each: _place(each[0])))


def folders(chosen: Iterable[str]) -> dict[str, Path]:
    """Return the folders of the shipped models, and of those of `chosen` that are folders.

    ValueError for a name that is neither a shipped model nor a folder.
    """
    found = names()
    for name in chosen:
        if name not in found and not Path(name).expanduser().is_dir():
            raise ValueError(
                f"model {str(name)!r} is neither one of {', '.join(names())} nor a folder with "
                "model.safetensors and spec.json."
            )
        found.setdefault(name, Path(name).expanduser())
    return found


def _place(name: str) -> tuple:
    architecture, regime = name.split(" ", 1)
    return regime != "unified", architecture != "VQ-VQ", architecture


def load(name: str | Path) -> "Model":
    """Load a trained model by its name, such as "VQ-VQ unified", or from a folder.

    ValueError for a name that is neither a shipped model nor a folder of a trained model.
    """
    folder = folders([name])[name]
    shipped = folder.parent == BOX
    if shipped:
        verify(folder)
    return Model(str(name) if shipped else folder.name, read_spec(folder), folder)


class Model:
    """A trained model with its processor and its two encoders."""

    def __init__(self, name: str, spec: RunSpec, folder: Path):
        self.name, self.spec = name, spec
        self.network, self.processor, self.reads, self.draws = load_model(folder)

    def __repr__(self) -> str:
        return f"<Model {self.name}>"

    @staticmethod
    def watch(
        time: str = "10:09:36",
        weather: str = "sunny",
        battery: int = 57,
        weather_corner: str = "top left",
        battery_corner: str = "bottom right",
        colour: tuple[int, int, int] = (120, 40, 160),
    ) -> Image.Image:
        """Return the image of a watch, 64 x 64 px. ValueError for a value that none can show."""
        value = ATTRIBUTES["time"].parse(time) if isinstance(time, str) else None
        if value is None:
            raise ValueError(f"time {time!r} is not of the form {ATTRIBUTES['time'].form}.")
        return render(Watch(*value, weather, battery, weather_corner, battery_corner, colour))

    def ask(self, image, question: str) -> str:
        """Return the answer to one question about an image; see `answers`."""
        return self.answers(image, [question])[0]

    def answers(
        self, image, questions: Sequence[str], distortion: Distortion | None = None
    ) -> list[str]:
        """Answer questions about an image, each on its own.

        Args:
            image: a PIL image, or uint8 (height, width, 3).
            distortion: a map of the image's tokens that the model was not trained with.

        ValueError for a model that was trained to generate only, for anything but an image, and
        for a question that is empty or too long.
        """
        if not self.spec.understands:
            raise ValueError(f"{self.name} was trained to draw only, and cannot be asked.")
        for text in questions:
            if not (isinstance(text, str) and text.strip()):
                raise ValueError(f"question {text!r} is not a text.")
        seen = self.reads.encode(_pixels(image))
        talks = [Conversation("vqa", 0, (Turn(f"{IMAGE}\n{text}", "?"),)) for text in questions]
        self.processor.check(talks)
        with self._distorted(distortion):
            return [each[0] for each in answer(self.network, self.processor, talks, seen)]

    def draw(self, request: str, temperature: float = 0.0, seed: int = 0) -> Image.Image:
        """Return the image that the model generates for a request; see `drawing`."""
        return self.drawing(request, temperature, seed).image

    def drawing(self, request: str, temperature: float = 0.0, seed: int = 0) -> Drawing:
        """Generate an image and read it back.

        Features become pixels through a small decoder, for looking only; the reader reads the
        features themselves. `temperature` is that of `generate_images`. ValueError for a model
        that was trained to understand only, and for a request that is empty or too long.
        """
        if not self.spec.generates:
            raise ValueError(f"{self.name} was trained to understand only, and cannot draw.")
        talk = Conversation("generation", 0, (Turn(request, IMAGE),))
        self.processor.check([talk])
        made = generate_images(
            self.network, self.processor, [talk], temperature=temperature, seed=seed
        )
        pixels = self._decoder.decode(made.tokens)
        known = [each for each in ATTRIBUTES.values() if each.in_readers and self._reader]
        parts = self._reader.read(pixels if self._draws_pixels else made.tokens)[0] if known else {}
        return Drawing(
            Image.fromarray(pixels[0]),
            {each.name: each.said(each.joined(parts)) for each in known},
            parts,
            bool(made.triggered[0]),
        )

    @property
    def _draws_pixels(self) -> bool:
        """Whether the encoder itself decodes what the model generates."""
        return hasattr(self.draws, "decode")

    @cached_property
    def _decoder(self):
        name = self.spec.scoring.feature_decoder
        if self._draws_pixels:
            return self.draws
        if not name:
            raise ValueError(f"{self.name} generates features, and its spec names no decoder.")
        return FeatureDecoder.load(name, self.draws.name)

    @cached_property
    def _reader(self):
        scoring = self.spec.scoring
        if self._draws_pixels:
            return AttributeReader.load(scoring.reader) if scoring.reader else None
        name = scoring.feature_reader
        return FeatureReader.load(name, self.draws.name) if name else None

    @torch.inference_mode()
    def attention(self, image, question: str) -> np.ndarray:
        """Return what the model attends to just before it answers: (layers, rows, columns).

        The numbers are shares of the attention that the last token of the question pays to each
        token of the image, mean over the heads of a layer. The rest goes to text. Attention shows
        where a model looks, not what it takes from there. ValueError as for `answers`.
        """
        talk = Conversation("vqa", 0, (Turn(f"{IMAGE}\n{question}", "?"),))
        self.processor.check([talk])
        ids = torch.tensor([[self.processor.bos, *self.processor.human_ids(talk.turns[0].human)]])
        seen = image_rows(self.reads.encode(_pixels(image)), [0])
        language_model, slots = self.network.language_model, ids[0] == self.processor.image_in
        usual = language_model.config._attn_implementation
        language_model.set_attn_implementation("eager")  # the only one that returns its weights
        try:
            found = language_model.model(
                inputs_embeds=self.network.embed(ids, seen), output_attentions=True
            ).attentions  # per layer (1, heads, tokens, tokens)
        finally:
            language_model.set_attn_implementation(usual)
        side = round(self.reads.tokens**0.5)
        return np.stack([each[0, :, -1, slots].mean(0).reshape(side, side) for each in found])

    @contextmanager
    def _distorted(self, distortion: Distortion | None) -> Iterator[None]:
        """Distort what the model understands within the block, drawn as for a training of seed 0.

        ValueError for a model that was trained with a distortion of its own, and for a family that
        changes the width of the tokens.
        """
        if distortion is None or not distortion.changes:
            yield
            return
        tokens = torch.from_numpy(self._sampled)
        distort = Distort(distortion, tokens.shape[-1], self.reads.codes)
        if hasattr(self.network, "understanding_distortion") or distort.width != tokens.shape[-1]:
            raise ValueError(
                f"The distortion {distortion.family!r} cannot be added to {self.name} afterwards."
            )
        self.network.understanding_distortion = distort.draw(0, tokens)
        try:
            yield
        finally:
            del self.network.understanding_distortion

    @cached_property
    def _sampled(self) -> np.ndarray:
        """Tokens of training images, (images, tokens, width): the unit of a distortion."""
        return vectors(self.reads, self.reads.encode(sample_images(training_pool(self.spec))))


def _pixels(image) -> np.ndarray:
    """Return an image as uint8 (1, height, width, 3); ValueError for anything else."""
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if not (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size
    ):
        found = (
            f"{image.dtype} {image.shape}"
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise ValueError(
            f"An image is a PIL image or a uint8 array (height, width, 3), not {found}."
        )
    return image[None]
