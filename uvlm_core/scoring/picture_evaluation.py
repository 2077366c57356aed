"""The captioned test pictures, and the scores of a checkpoint on them (paper section 5).

Belongs here: captions, requests and the pictures that generated ones are compared with. Not here:
watches (`evaluation.py`), reading pictures (`data/pictures.py`), distances between sets
(`images.py`).

Pictures have no attributes to ask for, so both tasks are scored by retrieval on the test side, with
chance 1 / number of pictures. Understanding: find the true caption of a picture. Generation: from
the generated picture, find the real one whose caption was the request.
"""

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from uvlm_core.data.conversations import Conversation, Turn
from uvlm_core.data.pictures import as_request, load_pictures, open_pictures
from uvlm_core.data.tokens import IGNORED, Processor, collate
from uvlm_core.models.decoding import generate_images, log_likelihoods
from uvlm_core.models.encoders import resized
from uvlm_core.models.kinds import KINDS, OUTPUTS, kinds_of
from uvlm_core.scoring import images as fidelity
from uvlm_core.scoring.alignment import measure_alignment, representations
from uvlm_core.training.spec import RunSpec

ALIGNED_PICTURES = 100  # most test pictures on which alignment is measured
NEAREST = (1, 5)  # retrieval counts if the right one ranks first, or among the first five
CAPTION_ROWS = 64  # rows per forward


class PictureEvaluation:
    """The scorer of one spec's model: build once, call at each checkpoint.

    Only the first test picture with a given caption is used, so no two pictures share a caption.
    Pictures that are not scored are not opened. ValueError for fewer than two captions.
    """

    def __init__(self, spec: RunSpec, processor: Processor, understanding, generation):
        self.spec, self.processor = spec, processor
        pictures = load_pictures(*spec.captioned)
        captions = _distinct([talk for talk in pictures.test if talk.task == "caption"])
        if len(captions) < 2:
            raise ValueError(
                f"The pictures {spec.data.pictures!r} have {len(captions)} captions on the test "
                "side; at least 2 are needed."
            )
        self.captions = captions[: spec.scoring.test_watches]
        self.requests = [
            as_request(talk, spec.training.seed)
            for talk in captions[: spec.scoring.generated_watches]
        ]
        processor.check(self.captions * spec.understands + self.requests * spec.generates)
        shown = max(len(self.captions) * spec.understands, len(self.requests) * spec.generates)
        real = open_pictures(
            pictures.folder, [talk.image for talk in captions[:shown]], spec.data.image_size
        )
        if spec.understands:
            self.images_in = understanding.encode(real[: len(self.captions)])
        if spec.generates:
            others = list(dict.fromkeys(talk.image for talk in pictures.train))[
                : len(self.requests)
            ]
            others = open_pictures(pictures.folder, others, spec.data.image_size)
            self.drawn = DRAWN_PICTURES[KINDS[kinds_of(spec.model.architecture)[1]].output](
                generation, real[: len(self.requests)], others
            )

    def __call__(self, model, last: bool = True) -> list[dict]:
        """Return score rows of a model: metric, attribute, value, samples.

        Caption retrieval scores every pair of picture and caption, so it runs only when `last`.
        """
        rows = []
        if self.spec.understands:
            rows += self._captions(model) + (self._retrieval(model) if last else [])
        if self.spec.generates:
            generated = generate_images(model, self.processor, self.requests)
            rows += [
                {
                    "metric": "triggered",
                    "attribute": "",
                    "value": float(generated.triggered.mean()),
                    "samples": len(self.requests),
                },
                *self.drawn.scores(generated.tokens),
            ]
        if last and self.spec.training.regime == "unified":
            rows += self.alignment(model)[0]
        return rows

    def alignment(self, model) -> list[list[dict]]:
        """Return alignment rows of a unified model on the first test pictures (`alignment.py`).

        They are a list of one, as of a stack of one model.
        """
        count = min(ALIGNED_PICTURES, len(self.captions), len(self.requests))
        sides = ((self.captions, self.images_in), (self.requests, self.drawn.outputs))
        states = (
            representations(model, self.processor, _numbered(talks[:count]), images)
            for talks, images in sides
        )
        return [measure_alignment(*states)]

    @torch.inference_mode()
    def _captions(self, model) -> list[dict]:
        """Return teacher-forced token_accuracy and caption_loss (nats a token) of true captions."""
        model.eval()
        losses, right = [], []
        talks = _numbered(self.captions)
        for start in range(0, len(talks), CAPTION_ROWS):
            rows = [self.processor.row(talk) for talk in talks[start : start + CAPTION_ROWS]]
            for bucket in collate(rows, self.images_in, None, self.processor.pad):
                bucket = {name: tensor.to(model.device) for name, tensor in bucket.items()}
                hidden = model.hidden_states(
                    model.embed(bucket["input_ids"], bucket["images_in"]), use_cache=False
                )
                labels = bucket["labels"][:, 1:]
                logits = model.language_model.lm_head(
                    hidden[:, :-1][labels != IGNORED]
                ).float()  # (tokens, vocabulary)
                losses.append(
                    F.cross_entropy(logits, labels[labels != IGNORED], reduction="none").cpu()
                )
                right.append((logits.argmax(-1) == labels[labels != IGNORED]).float().cpu())
        return [
            {
                "metric": name,
                "attribute": "caption",
                "value": float(torch.cat(values).mean()),
                "samples": len(talks),
            }
            for name, values in (("token_accuracy", right), ("caption_loss", losses))
        ]

    def _retrieval(self, model) -> list[dict]:
        """Return score rows of retrieval by log-likelihood.

        caption_retrieval: find a picture's caption. Each caption's mean over the pictures is
        subtracted, because some captions are likely for any picture.
        picture_retrieval: find a caption's picture.
        """
        count, likely = len(self.captions), []
        # each picture with every caption, always with the same question
        for number in range(count):
            talks = [
                Conversation(
                    "caption", number, (Turn(self.captions[0].turns[0].human, talk.turns[0].gpt),)
                )
                for talk in self.captions
            ]
            likely.append(
                [
                    value
                    for value, _ in log_likelihoods(model, self.processor, talks, self.images_in)
                ]
            )
        likely = np.array(likely)  # (pictures, captions)
        return [
            *_found("caption_retrieval", likely - likely.mean(0)),
            *_found("picture_retrieval", likely.T),
        ]

    def samples(self) -> tuple[dict, None]:
        """Return nothing: generated pictures may resemble training pictures of another licence."""
        return {}, None


class DrawnPicturePixels:
    """Scores of generated codes or latents: their pixels, in features of an ImageNet network."""

    def __init__(self, encoder, real: np.ndarray, others: np.ndarray):
        self.encoder, self.outputs = encoder, encoder.encode(real)
        real, others = resized(real, encoder.size), resized(others, encoder.size)
        self.network = fidelity.EfficientNetFeatures()
        self.real = real
        self.known = self.network.features(real)
        redrawn = encoder.decode(self.outputs)
        self.fixed = [
            *fidelity.floor(real, others, self.network),
            *(row | {"metric": f"{row['metric']}_tokenizer"} for row in self._rows(redrawn)),
        ]

    def scores(self, codes: np.ndarray) -> list[dict]:
        """Return score rows of what the encoder decodes, and of two references.

        `_floor`: other real pictures. `_tokenizer`: the tokenizer's reconstructions of the real
        ones.
        """
        return [*self._rows(self.encoder.decode(codes)), *self.fixed]

    def _rows(self, pictures: np.ndarray) -> list[dict]:
        likeness = (
            F.normalize(self.network.features(pictures), dim=1) @ F.normalize(self.known, dim=1).T
        )
        return [
            *fidelity.distances(pictures, self.real, self.network),
            *_found(OUTPUTS["codes"].retrieval, likeness.numpy()),
        ]


class DrawnPictureFeatures:
    """Scores of generated features, in their own space (pitfall 14)."""

    def __init__(self, encoder, real: np.ndarray, others: np.ndarray):
        self.outputs = encoder.encode(real)
        self.fixed = fidelity.feature_floor(encoder.encode(others), self.outputs, {}, [])

    def scores(self, features: np.ndarray) -> list[dict]:
        """Return score rows of features (images, tokens, width)."""
        drawn, real = (values.reshape(len(values), -1) for values in (features, self.outputs))
        # subtract what all pictures have in common
        drawn, real = (values - real.mean(0) for values in (drawn, real))
        drawn, real = (
            values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-8)
            for values in (drawn, real)
        )
        return [
            *fidelity.feature_distances(features, self.outputs, {}, []),
            *self.fixed,
            *_found(OUTPUTS["features"].retrieval, drawn @ real.T),
        ]


# one for each of `kinds.OUTPUTS`
DRAWN_PICTURES = {
    "codes": DrawnPicturePixels,
    "features": DrawnPictureFeatures,
    "latents": DrawnPicturePixels,
}


def _distinct(talks: list[Conversation]) -> list[Conversation]:
    """Drop conversations whose caption or picture occurred before."""
    found, told, shown = [], set(), set()
    for talk in talks:
        if talk.turns[0].gpt not in told and talk.image not in shown:
            found.append(talk)
            told.add(talk.turns[0].gpt)
            shown.add(talk.image)
    return found


def _numbered(talks: list[Conversation]) -> list[Conversation]:
    """Replace file names by positions, which index the image arrays."""
    return [replace(talk, image=number) for number, talk in enumerate(talks)]


def _found(metric: str, likeness: np.ndarray) -> list[dict]:
    """Return score rows of retrieval: the share of queries whose own candidate is in `NEAREST`.

    `likeness` is (queries, candidates), with a query's own candidate on the diagonal. Ties count
    against it.
    """
    own = likeness.diagonal()[:, None]
    rank = (likeness >= own).sum(1)  # 1 if nothing else is as large
    return [
        {
            "metric": metric,
            "attribute": f"first {most}",
            "value": float((rank <= most).mean()),
            "samples": len(likeness),
        }
        for most in NEAREST
    ]
