"""The fixed test set of watches, and the scores of a checkpoint on it (paper section 4).

Belongs here: test watches, their questions, captions and requests, and the resulting score rows.
Not here: how a single answer (`answers.py`) or a set of images (`images.py`) is scored.

The test set is fixed: every arm and seed gets the same questions, of which earlier checkpoints get
the first ones (pitfall 7). Only the authors' hours change it (pitfall 10). None of its attribute
tuples occurs in a training set.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import numpy as np

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import IMAGE, Conversation, make_conversations
from uvlm_core.data.edits import edited, make_edits
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.data.tokens import Processor
from uvlm_core.models.decoding import answer, generate_images, predict_features
from uvlm_core.models.encoders import FeatureDecoder, resized, vectors
from uvlm_core.models.kinds import KINDS, OUTPUTS, kinds_of
from uvlm_core.models.readers import AttributeReader, FeatureReader
from uvlm_core.places import resolve
from uvlm_core.scoring import answers as scoring
from uvlm_core.scoring import images as fidelity
from uvlm_core.scoring.alignment import measure_alignment, representations
from uvlm_core.training.spec import RunSpec

ALIGNED_WATCHES = 100  # most test watches on which alignment is measured


class Evaluation:
    """The scorer of one spec's model: build once, call at each checkpoint."""

    def __init__(self, spec: RunSpec, processor: Processor, understanding, generation):
        self.spec, self.processor = spec, processor
        self.watches = sample_watches(
            TEST_STREAM,
            max(spec.scoring.test_watches, spec.scoring.generated_watches),
            "test",
            hours=spec.data.hours,
        )
        shown = max(
            spec.scoring.test_watches * spec.understands,
            spec.scoring.generated_watches * spec.generates,
        )
        images = render_batch(self.watches[:shown], spec.data.image_size)
        asked, drawn = self.watches[: spec.scoring.test_watches], spec.scoring.generated_watches
        if spec.understands:
            self.questions = make_conversations(asked, "vqa", TEST_STREAM)
            self.captions = make_conversations(
                asked[: spec.scoring.generated_watches], "caption", TEST_STREAM
            )
            processor.check(self.questions + self.captions)
            seen = max(spec.scoring.test_watches, drawn * spec.data.edit_requests)
            self.images_in = understanding.encode(images[:seen])
            self.encoded = vectors(understanding, self.images_in[: spec.scoring.probe_watches])
            self.rare = list(
                dict.fromkeys(
                    bias.attribute for bias in spec.data.biases if bias.tasks != ("generation",)
                )
            )
        if spec.generates:
            targets, pixels = self.watches[:drawn], images[:drawn]
            if spec.data.edit_requests:
                self.requests = make_edits(targets, range(drawn), TEST_STREAM)
                targets = [edited(watch, number)[1] for number, watch in enumerate(targets)]
                pixels = render_batch(targets, spec.data.image_size)
                requested = [tuple(ATTRIBUTES)] * drawn  # the change, and all that is shown
            else:
                self.requests = make_conversations(targets, "generation", TEST_STREAM)
                requested = [request.turns[0].attributes for request in self.requests]
            processor.check(self.requests)
            others = render_batch(
                sample_watches(TEST_STREAM + 1, drawn, "test", hours=spec.data.hours),
                spec.data.image_size,
            )
            self.drawn = DRAWN_WATCHES[KINDS[kinds_of(spec.model.architecture)[1]].output](
                spec,
                generation,
                targets,
                pixels,
                others,
                requested,
            )
            self.shown = self.images_in if spec.data.edit_requests else None
        self.generated: list[np.ndarray] = []  # codes or features of the last images, by model

    def __call__(self, model, last: bool = True) -> list[dict]:
        """Return score rows of a model: metric, attribute, value, samples.

        Unless `last`, only the first `generated_watches` are asked about, and captions,
        teacher-forced scores, alignment and probes are left out (alignment is not, in a run with
        `gradient_rows`). A learning curve needs no more, and full scoring would cost as much as
        training.
        """
        return self.of_each(model, last)[0]

    def of_each(self, model, last: bool = True) -> list[list[dict]]:
        """Return the score rows of every model of a stack, each as `__call__` does."""
        spec, parts = self.spec, []  # parts of the scores, each with the rows of every model
        if spec.understands:
            questions = self.questions if last else self.questions[: spec.scoring.generated_watches]
            parts.append(self._questions(model, questions, last))
            parts += [self._captions(model)] if last else []
        if spec.generates:
            parts += self._images(model, last)
        # beside gradients, how alike the two sides are is followed as well
        if (last or spec.scoring.gradient_rows) and spec.training.regime == "unified":
            parts.append(self.alignment(model))
        if last and spec.understands and spec.scoring.probe_watches:
            parts.append(self._probes(model))
        return [list(chain.from_iterable(rows)) for rows in zip(*parts, strict=True)]

    def _questions(self, model, questions, last: bool) -> list[list[dict]]:
        said = answer(model, self.processor, questions, self.images_in)
        each = [
            [
                (turn.attributes[0], text, turn.gpt)
                for talk, given in zip(questions, answers, strict=True)
                for turn, text in zip(talk.turns, given, strict=True)
            ]
            for answers in _apart(said, model.copies)
        ]
        rows = _each(lambda triples: scoring.score_conversations(triples, scoring.RULES), each)
        for attribute in self.rare if last else ():
            constrained = self._constrained(model, attribute)
            for own, triples, more in zip(rows, each, constrained, strict=True):
                own += scoring.score_confusion(
                    attribute, [(text, true) for name, text, true in triples if name == attribute]
                )
                own += more
        return rows

    def _images(self, model, last: bool) -> list[list[list[dict]]]:
        """Return parts of the scores of drawn images, each with the rows of every model."""
        generated = generate_images(model, self.processor, self.requests, self.shown)
        self.generated = np.split(generated.tokens, model.copies)
        triggered = [
            [
                {
                    "metric": "triggered",
                    "attribute": "",
                    "value": float(own.mean()),
                    "samples": len(self.requests),
                }
            ]
            for own in np.split(generated.triggered, model.copies)
        ]
        parts = [triggered, _each(self.drawn.scores, self.generated)]
        if last:
            parts.append(self.drawn.forced_scores(model, self.processor, self.requests, self.shown))
        return parts

    def _constrained(self, model, attribute: str) -> list[list[dict]]:
        """Return score rows of answers constrained to the attribute's values.

        Each question is asked alone. The scores show what a model knows but does not say.
        """
        tag = f"{IMAGE}\n"
        asked = [
            (talk.image, turn)
            for talk in self.questions
            for turn in talk.turns
            if attribute in turn.attributes
        ]
        talks = [
            Conversation("vqa", image, (replace(turn, human=tag + turn.human.removeprefix(tag)),))
            for image, turn in asked
        ]
        said = answer(
            model, self.processor, talks, self.images_in, only=ATTRIBUTES[attribute].values
        )
        return [
            [
                row | {"metric": "constrained"}
                for row in scoring.score_conversations(
                    (
                        (attribute, text, turn.gpt)
                        for (text,), (_, turn) in zip(answers, asked, strict=True)
                    ),
                    ("partial",),
                )
            ]
            for answers in _apart(said, model.copies)
        ]

    def _probes(self, model) -> list[list[dict]]:
        """Return score rows of linear probes of the image tokens (`probing.py`).

        Metrics `probe` and `probe_control`, attributes such as "weather, layer 2".
        """
        from uvlm_core.scoring import probing  # late, as sklearn takes a second

        count = self.spec.scoring.probe_watches
        places = representations(model, self.processor, self.questions[:count], self.images_in)

        def rows(states: dict) -> list[dict]:
            return probing.probe_scores(
                probing.probe_places({"encoder": self.encoded} | states, self.watches[:count])
            )

        return _each(rows, _states_apart(places, model.copies))

    def _captions(self, model) -> list[list[dict]]:
        said = answer(model, self.processor, self.captions, self.images_in, limit=64)
        return [
            scoring.score_captions([text for (text,) in own], self.watches[: len(own)])
            for own in _apart(said, model.copies)
        ]

    def alignment(self, model) -> list[list[dict]]:
        """Return alignment rows of every model, on the first test watches (`alignment.py`).

        A model of edits has none: what it draws is another watch than what it reads.
        """
        if self.spec.data.edit_requests:
            return [[]] * model.copies
        count = min(
            ALIGNED_WATCHES, self.spec.scoring.test_watches, self.spec.scoring.generated_watches
        )
        sides = ((self.questions, self.images_in), (self.requests, self.drawn.real))
        both = [
            _states_apart(
                representations(model, self.processor, talks[:count], images), model.copies
            )
            for talks, images in sides
        ]
        return _each(lambda pair: measure_alignment(*pair), list(zip(*both, strict=True)))

    def samples(self, model: int = 0) -> tuple[dict, np.ndarray | None]:
        """Return the requests and images of the first `shown_watches`, or ({}, None) for none.

        `model` is the number of a model in its stack.
        """
        shown = self.spec.scoring.shown_watches
        images = None
        if self.generated and shown:
            images = self.drawn.images(self.generated[model][:shown])
        if images is None:
            return {}, None
        asked = [talk.turns[0].human.removeprefix(f"{IMAGE}\n") for talk in self.requests[:shown]]
        return {"requests": asked}, images


def _apart(answers: list, models: int) -> list[list]:
    """Split the answers of one model after another by model."""
    count = len(answers) // models
    return [answers[model * count : (model + 1) * count] for model in range(models)]


def _states_apart(places: dict[str, np.ndarray], models: int) -> list[dict[str, np.ndarray]]:
    """Split the states of one model after another by model."""
    parts = {place: np.split(states, models) for place, states in places.items()}
    return [{place: own[model] for place, own in parts.items()} for model in range(models)]


def _each(score: Callable, every: list) -> list[list[dict]]:
    """Return the score rows of every model, by several threads where there are several."""
    if len(every) == 1:
        return [score(every[0])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(score, every))


class DrawnWatchPixels:
    """Scores of generated codes or latents, whose decoded pixels are read back and compared."""

    def __init__(
        self, spec: RunSpec, encoder, watches, images: np.ndarray, others: np.ndarray, requested
    ):
        self.images, self.watches, self.requested = encoder.decode, watches, requested
        self.reader = AttributeReader.load(spec.scoring.reader) if spec.scoring.reader else None
        self.inception = resolve(spec.scoring.inception) if spec.scoring.inception else None
        self.real, self.pixels = encoder.encode(images), resized(images, encoder.size)
        self.floor = fidelity.floor(
            self.pixels, resized(others, encoder.size), self.reader, self.inception
        )

    def scores(self, codes: np.ndarray) -> list[dict]:
        """Return score rows of what the encoder decodes, such as codes (images, tokens)."""
        images = self.images(codes)
        rows = [*fidelity.distances(images, self.pixels, self.reader, self.inception), *self.floor]
        if self.reader is not None:
            read = fidelity.read_back(
                images, self.watches, self.requested, self.reader, OUTPUTS["codes"].read_back
            )
            rows = read + rows
        return rows

    def forced_scores(self, model, processor: Processor, requests, shown) -> list[list[dict]]:
        """Return no rows: the image loss already scores teacher-forced predictions."""
        return [[]] * model.copies


class DrawnWatchFeatures:
    """Scores of generated features, in their own space (pitfall 14).

    Their pixels are only for people to look at, and need a decoder.
    """

    def __init__(
        self, spec: RunSpec, encoder, watches, images: np.ndarray, others: np.ndarray, requested
    ):
        self.reader, self.decoder = (  # a user's own encoder may have neither
            kind.load(name, spec.model.semantic_encoder) if name else None
            for kind, name in (
                (FeatureReader, spec.scoring.feature_reader),
                (FeatureDecoder, spec.scoring.feature_decoder),
            )
        )
        self.watches, self.requested, self.real = watches, requested, encoder.encode(images)
        self.patches = fidelity.bearing_patches(
            watches, spec.data.image_size, round(encoder.tokens**0.5)
        )
        self.floor = fidelity.feature_floor(
            encoder.encode(others), self.real, self.patches, requested
        )

    def scores(self, features: np.ndarray) -> list[dict]:
        """Return score rows of features (images, tokens, width)."""
        rows = (
            fidelity.feature_distances(features, self.real, self.patches, self.requested)
            + self.floor
        )
        if self.reader is not None:
            rows += fidelity.read_back(
                features, self.watches, self.requested, self.reader, OUTPUTS["features"].read_back
            )
        return rows

    def forced_scores(self, model, processor: Processor, requests, shown) -> list[list[dict]]:
        """Return every model's cosines of teacher-forced predictions (`predict_features`).

        Nothing is forced where all tokens of an image are decoded at once: then there are no rows.
        """
        if model.head.at_once:
            return [[]] * model.copies
        features = predict_features(model, processor, requests, self.real, shown)
        return [
            [
                row | {"metric": "feature_cosine_forced"}
                for row in fidelity.feature_distances(own, self.real, self.patches, self.requested)
                if row["metric"] == "feature_cosine"
            ]
            for own in np.split(features, model.copies)
        ]

    def images(self, features: np.ndarray) -> np.ndarray | None:
        """Return images to look at, uint8 (images, size, size, 3); None without a decoder."""
        return None if self.decoder is None else self.decoder.decode(features)


# one for each of `kinds.OUTPUTS`
DRAWN_WATCHES = {
    "codes": DrawnWatchPixels,
    "features": DrawnWatchFeatures,
    "latents": DrawnWatchPixels,
}
