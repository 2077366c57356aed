"""Where a run's training rows come from (paper section 3): a pool of images, of watches or of captioned pictures.

Belongs here: which image each row is about, what is said of it, in which order rows come. Not here: how watches are
drawn (`smart_watch.py`) or pictures read (`pictures.py`), how rows make steps (`training.py`), the test sets
(`evaluation.py`, `picture_evaluation.py`).

All rows and all seeds draw from one pool, whose images are encoded once. A pool has a `name`, `images(start, stop)`,
their number `count`, and `rows(processor)`: the understanding and the generation rows of its spec in training order,
one of them empty in a one-sided regime.
"""

from dataclasses import replace

import numpy as np

from uvlm_core.conversations import Conversation, make_conversations
from uvlm_core.pictures import as_request, load_pictures, open_pictures, pictures_fingerprint
from uvlm_core.processing import Processor, Row
from uvlm_core.profiles import RunSpec
from uvlm_core.scoring import TIME_PARTS
from uvlm_core.smart_watch import Watch, render_batch, sample_watches
from uvlm_core.vision import cached_features

STREAM = 0  # of the pool of training watches
SAMPLE = 64  # images of a pool that tell how long a space's tokens are


class WatchPool:
    """The Smart Watch world: every image is drawn when it is asked for."""

    def __init__(self, spec: RunSpec):
        self.spec, self.count = spec, spec.images
        self.name = f"watches-{spec.world}-{spec.hours}h-train-{STREAM}-{spec.image_size}px"

    def images(self, start: int, stop: int) -> np.ndarray:
        """Images `start` .. `stop` - 1: uint8 (images, height, width, 3)."""
        return render_batch(self.watches(start, stop), self.spec.image_size)

    def watches(self, start: int, stop: int) -> list[Watch]:
        """What they show."""
        return sample_watches(STREAM, stop - start, start=start, hours=self.spec.hours)

    def rows(self, processor: Processor) -> tuple[list[Row], list[Row]]:
        """The rows of the spec (see the module)."""
        return training_rows(self.spec, processor, self.watches(0, self.count))


class PicturePool:
    """The training side of captioned pictures. A task has as many rows as they give it; a spec that asks for more sees
    them again, in another order each time."""

    def __init__(self, spec: RunSpec):
        named = spec.pictures, spec.picture_folder, spec.sam_pictures
        self.spec, self.pictures = spec, load_pictures(*named)
        self.files = list(dict.fromkeys(talk.image for talk in self.pictures.train))
        self.count = len(self.files)
        self.name = f"pictures-{pictures_fingerprint(*named)[:16]}-{spec.image_size}px"

    def images(self, start: int, stop: int) -> np.ndarray:
        """Images `start` .. `stop` - 1: uint8 (images, height, width, 3)."""
        return open_pictures(self.pictures.folder, self.files[start:stop], self.spec.image_size)

    def rows(self, processor: Processor) -> tuple[list[Row], list[Row]]:
        """The rows of the spec (see the module). ValueError where it asks for a task that no picture has rows of."""
        spec, places = self.spec, {name: place for place, name in enumerate(self.files)}
        requests = [as_request(talk, spec.seed) for talk in self.pictures.train]
        talks = {task: [talk for talk in self.pictures.train if talk.task == task] for task in ("vqa", "caption")}
        talks["generation"] = [talk for talk in requests if talk is not None]
        understanding, generation = _ordered(spec, {
            task: self._drawn(number, task, talks[task], count) for number, (task, count) in enumerate(_counts(spec))})
        drawn = generation[1:] + generation[:1] if spec.shuffled_requests else generation  # whose image a row gets
        return ([processor.row(talk, places[talk.image]) for talk in understanding],
                [processor.row(talk, places[other.image]) for talk, other in zip(generation, drawn, strict=True)])

    def _drawn(self, number: int, task: str, talks: list[Conversation], count: int) -> list[Conversation]:
        if count and not talks:
            raise ValueError(f"The pictures {self.spec.pictures!r} have no row of the task {task!r}; "
                             f"ask for 0 of them.")
        rounds = -(-count // max(1, len(talks)))
        order = [place for each in range(rounds)
                 for place in np.random.default_rng([self.spec.seed, number, each]).permutation(len(talks)).tolist()]
        return [talks[place] for place in order[:count]]


def training_pool(spec: RunSpec) -> WatchPool | PicturePool:
    """The pool that a spec names."""
    return PicturePool(spec) if spec.pictures else WatchPool(spec)


def training_rows(spec: RunSpec, processor: Processor, watches: list[Watch]) -> tuple[list[Row], list[Row]]:
    """The understanding and the generation rows of a spec about watches, in training order.

    Every task draws its images from the pool by a permutation of its own; questions, wording and order follow from
    (seed, task, position) alone.
    """
    rows: dict[str, list[Row]] = {}
    for number, (task, count) in enumerate(_counts(spec)):
        images = np.random.default_rng([spec.seed, number]).permutation(spec.images)[:count].tolist()
        told = [watches[image] for image in images]
        if task == "generation":
            told = [_partly(watch, other, spec.shuffled_attributes)
                    for watch, other in zip(told, told[1:] + told[:1], strict=True)]
        talks = make_conversations(told, task, spec.seed, (spec.fewest_turns or spec.turns, spec.turns), spec.biases,
                                   spec.mention_rate)
        if task == "generation" and spec.shuffled_requests:
            images = images[1:] + images[:1]  # the control: a request and another row's image
        rows[task] = [processor.row(talk, image) for talk, image in zip(talks, images, strict=True)]
    return _ordered(spec, rows)


def _counts(spec: RunSpec) -> tuple[tuple[str, int], ...]:
    """How many rows of each task the spec's arm sees."""
    return (("vqa", spec.vqa_examples * spec.understands), ("caption", spec.caption_examples * spec.understands),
            ("generation", spec.generation_examples * spec.generates))


def _ordered(spec: RunSpec, rows: dict[str, list]) -> tuple[list, list]:
    """Questions and captions in one order of the seed's, and requests as they are."""
    understanding = rows["vqa"] + rows["caption"]
    order = np.random.default_rng([spec.seed, 3]).permutation(len(understanding))
    return [understanding[i] for i in order], rows["generation"]


def _partly(watch: Watch, other: Watch, attributes: tuple[str, ...]) -> Watch:
    """A watch with the values of another one in some attributes."""
    names = [part for name in attributes for part in (TIME_PARTS if name == "time" else (name,))]
    return replace(watch, **{name: getattr(other, name) for name in names})


def pool_features(encoder, pool: WatchPool | PicturePool, progress: bool = False) -> np.ndarray:
    """The encoder's outputs for the images of a pool, from the cache or computed into it."""
    return cached_features(encoder, pool.name, pool.count, pool.images, progress)


def sample_images(pool: WatchPool | PicturePool) -> np.ndarray:
    """The first images of a pool, by which lengths are measured: uint8 (images, height, width, 3)."""
    return pool.images(0, min(SAMPLE, pool.count))
