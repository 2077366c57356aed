"""The pools of watches or captioned pictures that training rows come from (paper section 3).

Belongs here: the image, the conversation and the order of training rows. Not here: drawing watches
(`data/smart_watch.py`), reading pictures (`data/pictures.py`), the steps (`loop.py`), the test sets
(`scoring/evaluation.py`, `scoring/picture_evaluation.py`).

All rows and all seeds draw from one pool. A pool has a `name`, `images(start, stop)`, their number
`count`, and `rows(processor)`: the understanding and the generation rows of its spec in training
order. A single-task regime leaves one of the two empty.

`side(name)` gives the images that the rows of one side refer to by number. They are encoded once.
For watches this is the whole pool, whose size is in the spec. For pictures it is only the pictures
that the rows show.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from uvlm_core.data.attributes import take_over
from uvlm_core.data.conversations import IMAGE, WORDLESS, Conversation, Turn, make_conversations
from uvlm_core.data.edits import edited, make_edits
from uvlm_core.data.pictures import as_request, load_pictures, open_pictures, pictures_fingerprint
from uvlm_core.data.smart_watch import (
    POOL_STREAM,
    Watch,
    render_batch,
    sample_watch,
    sample_watches,
)
from uvlm_core.data.texts import conversations_in_words
from uvlm_core.data.tokens import Processor, Row
from uvlm_core.models.encoders import cached_features
from uvlm_core.training.spec import RunSpec

MEASURED_IMAGES = 64  # images of a pool on which the length of a space's tokens is measured


class WatchPool:
    """The Smart Watch world, with images rendered on demand."""

    def __init__(self, spec: RunSpec):
        self.spec, self.count = spec, spec.data.images
        self.name = (
            f"watches-{spec.data.world}-{spec.data.hours}h-train-{POOL_STREAM}"
            f"-{spec.data.image_size}px"
        )

    def images(self, start: int, stop: int) -> np.ndarray:
        """Return images `start` .. `stop` - 1 as uint8 (images, height, width, 3)."""
        return render_batch(self.watches(start, stop), self.spec.data.image_size)

    def watches(self, start: int, stop: int) -> list[Watch]:
        """Return the watches of images `start` .. `stop` - 1."""
        return sample_watches(POOL_STREAM, stop - start, start=start, hours=self.spec.data.hours)

    def side(self, name: str) -> "WatchPool":
        """Return the whole pool, for all seeds: for both sides, or edited where it is drawn so."""
        drawn_anew = name == "generation" and self.spec.data.edit_requests
        return EditedPool(self.spec) if drawn_anew else self

    def rows(self, processor: Processor) -> tuple[list[Row], list[Row]]:
        """Return the understanding and generation rows of the spec, in training order."""
        return training_rows(self.spec, processor, _stream(self.spec.data.hours))

    def texts(self, processor: Processor) -> list[Row]:
        """Return the text rows of the spec, in training order."""
        return text_rows(self.spec, processor, _stream(self.spec.data.hours))


class EditedPool(WatchPool):
    """The pool after its edits: watch k has been through edit k, so all seeds share the images."""

    def __init__(self, spec: RunSpec):
        super().__init__(spec)
        self.name = f"{self.name}-edited"

    def watches(self, start: int, stop: int) -> list[Watch]:
        """Return the watches of images `start` .. `stop` - 1."""
        before = super().watches(start, stop)
        return [edited(watch, start + place)[1] for place, watch in enumerate(before)]


class _Stream(dict):
    """The watches of the pool by number, each drawn on first access."""

    def __init__(self, hours: int):
        self.hours = hours

    def __missing__(self, number: int) -> Watch:
        self[number] = sample_watch(POOL_STREAM, number, hours=self.hours)
        return self[number]


@cache
def _stream(hours: int) -> _Stream:
    """Return the watches of the pool; one process draws each of them once."""
    return _Stream(hours)


class Pictures:
    """Some pictures of a folder, opened on demand."""

    def __init__(self, name: str, folder: Path, files: list[str], size: int):
        self.name, self.folder, self.files, self.size = name, folder, files, size
        self.count = len(files)

    def images(self, start: int, stop: int) -> np.ndarray:
        """Return images `start` .. `stop` - 1 as uint8 (images, height, width, 3)."""
        return open_pictures(self.folder, self.files[start:stop], self.size)


class PicturePool(Pictures):
    """The training split of captioned pictures.

    If a spec asks for more rows of a task than the pictures give, they are repeated, each time in
    another order.
    """

    def __init__(self, spec: RunSpec):
        self.spec, self.pictures = spec, load_pictures(*spec.captioned)
        super().__init__(
            f"pictures-{pictures_fingerprint(*spec.captioned)[:16]}-{spec.data.image_size}px",
            self.pictures.folder,
            list(dict.fromkeys(talk.image for talk in self.pictures.train)),
            spec.data.image_size,
        )

    @cached_property
    def talks(self) -> dict[str, list[tuple[Conversation, str]]]:
        """The conversations of each side in training order, each with the image shown with it.

        ValueError when the spec asks for a task without any rows.
        """
        spec, train = self.spec, self.pictures.train
        talks = {task: [talk for talk in train if talk.task == task] for task in ("vqa", "caption")}
        # single-turn captions become requests
        talks["generation"] = [talk for talk in talks["caption"] if len(talk.turns) == 1]
        understanding, generation = _ordered(
            spec,
            {
                task: self._drawn(number, task, talks[task], count)
                for number, (task, count) in enumerate(_counts(spec))
            },
        )
        shown = [talk.image for talk in generation]
        shown = shown[1:] + shown[:1] if spec.data.shuffled_requests else shown
        return {
            "understanding": [(talk, talk.image) for talk in understanding],
            "generation": [
                (as_request(talk, spec.training.seed), image)
                for talk, image in zip(generation, shown, strict=True)
            ],
        }

    def side(self, name: str) -> Pictures:
        """Return the pictures of the rows of a side, "understanding" or "generation".

        They are in the order of the pool. Arms of one seed share them, and so do all seeds if the
        rows show every picture.
        """
        shown = {image for _, image in self.talks[name]}
        # at least one: a padding image needs a shape
        files = [file for file in self.files if file in shown] or self.files[:1]
        if len(files) == self.count:
            return self
        mark = hashlib.sha256("\n".join(files).encode()).hexdigest()[:16]
        return Pictures(f"{self.name}-{mark}", self.folder, files, self.size)

    def rows(self, processor: Processor) -> tuple[list[Row], list[Row]]:
        """Return the rows of the spec as `WatchPool.rows` does; ValueError as in `talks`."""
        sides = []
        for name, talks in self.talks.items():
            places = {file: place for place, file in enumerate(self.side(name).files)}
            sides.append([processor.row(talk, places[image]) for talk, image in talks])
        return tuple(sides)

    def texts(self, processor: Processor) -> list[Row]:
        """Return no rows: texts without an image are about watches only."""
        return []

    def _drawn(
        self, number: int, task: str, talks: list[Conversation], count: int
    ) -> list[Conversation]:
        if count and not talks:
            raise ValueError(
                f"The pictures {self.spec.data.pictures!r} have no row of the task "
                f"{task!r}; ask for 0 of them."
            )
        rounds = -(-count // max(1, len(talks)))
        order = [
            place
            for each in range(rounds)
            for place in np.random.default_rng([self.spec.training.seed, number, each])
            .permutation(len(talks))
            .tolist()
        ]
        return [talks[place] for place in order[:count]]


def training_pool(spec: RunSpec) -> WatchPool | PicturePool:
    """Return the pool that a spec names."""
    return PicturePool(spec) if spec.data.pictures else WatchPool(spec)


def all_rows(spec: RunSpec, processor: Processor) -> tuple[list[Row], list[Row], list[Row]]:
    """Return the understanding, generation and text rows of a spec, in training order."""
    pool = training_pool(spec)
    return (*pool.rows(processor), pool.texts(processor))


def training_rows(
    spec: RunSpec, processor: Processor, watches: Sequence[Watch] | Mapping[int, Watch]
) -> tuple[list[Row], list[Row]]:
    """Return the understanding and the generation rows of a spec about watches, in training order.

    Every task draws its images from the pool by its own permutation. Questions, wording and order
    depend only on (seed, task, position).
    """
    rows: dict[str, list[Row]] = {}
    for number, (task, count) in enumerate(_counts(spec)):
        images = (
            np.random.default_rng([spec.training.seed, number])
            .permutation(spec.data.images)[:count]
            .tolist()
        )
        told = [watches[image] for image in images]
        if task == "generation":
            told = [
                take_over(watch, other, spec.data.shuffled_attributes)
                for watch, other in zip(told, told[1:] + told[:1], strict=True)
            ]
        if task == "generation" and spec.data.edit_requests:
            talks = make_edits(told, images, spec.training.seed)
        else:
            talks = make_conversations(
                told,
                task,
                spec.training.seed,
                (spec.data.fewest_turns or spec.data.turns, spec.data.turns),
                spec.data.biases,
                spec.data.mention_rate,
            )
        if task == "generation" and spec.data.wordless_requests:
            talks = [replace(talk, turns=(Turn(WORDLESS, IMAGE),)) for talk in talks]
        rows[task] = [processor.row(talk, image) for talk, image in zip(talks, images, strict=True)]
        if task == "generation" and spec.data.shuffled_requests:  # control
            drawn = images[1:] + images[:1]  # each request gets another row's image
            rows[task] = [
                replace(row, image_out=image) for row, image in zip(rows[task], drawn, strict=True)
            ]
    return _ordered(spec, rows)


def text_rows(
    spec: RunSpec, processor: Processor, watches: Sequence[Watch] | Mapping[int, Watch]
) -> list[Row]:
    """Return the spec's rows without an image, in training order: watches told in words.

    They are what the laptop's language model was trained on. Training on them beside requests
    keeps what it knows. No bias leaves an attribute out of them: they show no image.
    """
    rng = np.random.default_rng([spec.training.seed, 6])
    images = rng.permutation(spec.data.images)[: spec.data.text_examples].tolist()
    talks = conversations_in_words([watches[image] for image in images], spec.training.seed)
    without_slots = Processor(processor.tokenizer, tokens_in=0, tokens_out=0)
    without_slots.context = processor.context
    return [without_slots.row(talk, image=-1) for talk in talks]


def _counts(spec: RunSpec) -> tuple[tuple[str, int], ...]:
    """Return the number of rows of each task that the spec's arm sees."""
    return (
        ("vqa", spec.data.vqa_examples * spec.understands),
        ("caption", spec.data.caption_examples * spec.understands),
        ("generation", spec.data.generation_examples * spec.generates),
    )


def _ordered(spec: RunSpec, rows: dict[str, list]) -> tuple[list, list]:
    """Return questions and captions shuffled together by the seed, and requests as they are."""
    understanding = rows["vqa"] + rows["caption"]
    order = np.random.default_rng([spec.training.seed, 3]).permutation(len(understanding))
    return [understanding[i] for i in order], rows["generation"]


def pool_features(encoder, images: WatchPool | Pictures) -> np.ndarray:
    """Return the cached outputs of an encoder for a pool or one side; compute them if missing."""
    return cached_features(encoder, images.name, images.count, images.images)


def sample_images(pool: WatchPool | PicturePool) -> np.ndarray:
    """Return the first images of a pool, to measure lengths: uint8 (images, height, width, 3)."""
    return pool.images(0, min(MEASURED_IMAGES, pool.count))
