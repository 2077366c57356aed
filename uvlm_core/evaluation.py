"""The fixed test set and what is asked of a model there (paper section 4): one scored checkpoint.

Belongs here: test watches, their questions, captions and requests, and the score rows that come of them. Not here: how
a single answer (`scoring.py`) or a set of images (`fidelity.py`) is scored.

The test set depends on the world's version and on nothing else: every arm, seed and checkpoint is asked the same
(pitfall 7). Its watches are in no training set, by attribute tuple.
"""

import numpy as np
from PIL import Image

from uvlm_core import fidelity, scoring
from uvlm_core.conversations import make_conversations, truth
from uvlm_core.generation import answer, generate_images
from uvlm_core.processing import Processor
from uvlm_core.profiles import RunSpec
from uvlm_core.reader import AttributeReader
from uvlm_core.smart_watch import render_batch, sample_watches

STREAM = 800_000  # of test watches and questions; `split_of` keeps them out of training whatever the stream
SHEET = 16  # generated watches on a contact sheet


class Evaluation:
    """Everything needed to score a model of one spec at any time; build once, call at each checkpoint."""

    def __init__(self, spec: RunSpec, processor: Processor, understanding, generation):
        self.spec, self.processor, self.decoder = spec, processor, generation
        self.watches = sample_watches(STREAM, max(spec.test_watches, spec.generated_watches), "test")
        images = render_batch(self.watches, spec.image_size)
        asked = self.watches[: spec.test_watches]
        if spec.understands:
            self.questions = make_conversations(asked, "vqa", STREAM)
            self.captions = make_conversations(asked[: spec.generated_watches], "caption", STREAM)
            self.images_in = understanding.encode(images[: spec.test_watches])
        if spec.generates:
            drawn = spec.generated_watches
            self.requests = make_conversations(self.watches[:drawn], "generation", STREAM)
            self.real = images[:drawn]
            others = sample_watches(STREAM + 1, drawn, "test")
            self.reader = AttributeReader.load(spec.reader)
            self.floor = fidelity.floor(self.real, render_batch(others, spec.image_size), self.reader)
        self.generated: np.ndarray | None = None  # the last images, uint8 (images, size, size, 3)

    def __call__(self, model, last: bool = True) -> list[dict]:
        """Score rows of a model as it stands: metric, attribute, value, samples.

        Before the last time, questions are asked about the first `generated_watches` only: a learning curve needs no
        more, and scoring would cost as much as training.
        """
        rows = []
        if self.spec.understands:
            questions = self.questions if last else self.questions[: self.spec.generated_watches]
            rows += self._questions(model, questions) + self._captions(model)
        if self.spec.generates:
            rows += self._images(model)
        return rows

    def _questions(self, model, questions) -> list[dict]:
        answers = answer(model, self.processor, questions, self.images_in)
        return scoring.score_conversations(
            (turn.attributes[0], said, turn.gpt)
            for talk, given in zip(questions, answers, strict=True)
            for turn, said in zip(talk.turns, given, strict=True))

    def _captions(self, model) -> list[dict]:
        said = answer(model, self.processor, self.captions, self.images_in, limit=64)
        return scoring.score_captions([text for (text,) in said], self.watches[: len(said)])

    def _images(self, model) -> list[dict]:
        generated = generate_images(model, self.processor, self.requests)
        self.generated = self.decoder.decode(generated.tokens)
        watches = self.watches[: len(self.requests)]
        wanted = [request.turns[0].attributes for request in self.requests]
        triggered = {"metric": "triggered", "attribute": "", "value": float(generated.triggered.mean()),
                     "samples": len(self.requests)}
        return [triggered, *fidelity.read_back(self.generated, watches, wanted, self.reader),
                *fidelity.distances(self.generated, self.real, self.reader), *self.floor]

    def samples(self) -> tuple[dict, Image.Image | None]:
        """What a record keeps to look at: the first requests, and a contact sheet of what was generated for them."""
        if self.generated is None:
            return {}, None
        requests = [{"request": talk.turns[0].human, "time": truth(watch, "time")}
                    for talk, watch in zip(self.requests[:SHEET], self.watches, strict=False)]
        return {"requests": requests}, contact_sheet(self.generated[:SHEET])


def contact_sheet(images: np.ndarray) -> Image.Image:
    """Images (images, size, size, 3) side by side in one row; `figures.py` cuts it up again."""
    return Image.fromarray(np.concatenate(list(images), axis=1))

