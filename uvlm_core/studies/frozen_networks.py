"""What do the frozen networks keep of a watch? (Paper section 3, the VQ tokenizer and SigLIP.)

A unified model can neither describe nor draw what they lose. All numbers come from held-out
watches, on which no network was trained.

Belongs here: this study's measurement and figures. Not here: the networks (`models/encoders.py`,
`models/readers.py`), their training (`pretraining/`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from uvlm_core.data.attributes import ATTRIBUTES, chances, reader_classes
from uvlm_core.data.smart_watch import CARDS_STREAM, POOL_STREAM, render_batch, sample_watches
from uvlm_core.runs.store import RunStore
from uvlm_core.studies.base import Arm, Drawn, Measurement, OpenedStudy, Scale, Study, recorded
from uvlm_core.studies.style import (
    GREYS,
    NAMES,
    PAGE,
    draw_picture,
    headline,
    need,
    new_figure,
    theme,
)
from uvlm_core.training.profiles import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_WATCHES = 6
MEASURED_WATCHES = 1000  # most watches that the networks are measured on
PROBED = 2000  # most watches that a linear probe is fitted on
RANKED = 256  # watches whose captions SigLIP ranks
_SPACES = ("from codes", "from features")  # rows of pictures, in the record's order
_READERS = {  # network -> its inputs in the record -> the space that they are read from
    "readers": {"held-out watches": "pixels", "from codes": "VQ", "features": "SigLIP"},
    "linear probe": {"pixels": "pixels", "VQ vectors": "VQ", "SigLIP features": "SigLIP"},
}
_READINGS = ["network", "inputs", "metric", "attribute", "value", "chance", "samples"]


@dataclass(frozen=True)
class FrozenNetworks(Measurement):
    """Measures of what frozen networks keep of held-out watches; only linear probes are trained.

    The record's tables: codes (code, uses), errors (space, error: mean absolute difference of
    pixels from 0 to 1), and readers, captions and probe (as in `draw_readings`). Its pictures: the
    first `SHOWN_WATCHES` watches decoded from their codes, then from their features.
    """

    image_size: int  # px
    images: int  # in the training pool
    vq_tokenizer: str
    semantic_encoder: str
    reader: str
    feature_reader: str
    feature_decoder: str
    held_out: int = MEASURED_WATCHES  # watches

    @property
    def networks(self) -> tuple[str, ...]:
        return (
            self.vq_tokenizer,
            self.semantic_encoder,
            self.reader,
            self.feature_reader,
            self.feature_decoder,
        )

    def run(self, folder: Path) -> dict:
        """Return the record's body: tables, counts and pictures."""
        # late: they import torch
        from uvlm_core.models.encoders import FeatureDecoder, SiglipEncoder, VQEncoder
        from uvlm_core.models.readers import AttributeReader, FeatureReader

        held_out = sample_watches(CARDS_STREAM, self.held_out, "test")
        watches = render_batch(held_out, self.image_size)
        vq, siglip = VQEncoder.load(self.vq_tokenizer), SiglipEncoder.load(self.semantic_encoder)
        # (watches, tokens), (watches, tokens, width)
        codes, features = vq.encode(watches), siglip.encode(watches)
        decoded = dict(
            zip(
                _SPACES,
                (
                    vq.decode(codes),
                    FeatureDecoder.load(self.feature_decoder, self.semantic_encoder).decode(
                        features
                    ),
                ),
                strict=True,
            )
        )
        readers = {
            "held-out watches": (pixels := AttributeReader.load(self.reader)).read(watches),
            "from codes": pixels.read(decoded["from codes"]),
            "features": FeatureReader.load(self.feature_reader, self.semantic_encoder).read(
                features
            ),
        }
        errors = [
            (space, float(np.abs(images.astype(float) - watches).mean() / 255))
            for space, images in decoded.items()
        ]
        uses = np.bincount(codes.ravel(), minlength=vq.codes)
        tables = {
            "codes": pd.DataFrame({"code": range(vq.codes), "uses": uses}),
            "errors": pd.DataFrame(errors, columns=["space", "error"]),
            "readers": _read(readers, held_out),
            "captions": self._captions(held_out, watches),
            "probe": self._probe(held_out, watches, vq, siglip, codes, features),
        }
        return {
            "tables": {name: table.to_dict("list") for name, table in tables.items()},
            "counts": {
                "held-out watches": len(watches),
                "probed watches": min(PROBED, self.images),
            },
            "pictures": np.concatenate([images[:SHOWN_WATCHES] for images in decoded.values()]),
        }

    def _captions(self, held_out: list, watches: np.ndarray) -> pd.DataFrame:
        """Return how often SigLIP ranks a watch's own caption first, or among the first ten."""
        import torch
        from transformers import SiglipModel

        from uvlm_core.models.encoders import to_pixels
        from uvlm_core.places import resolve
        from uvlm_core.pretraining.siglip import WHOLE, caption_ids, caption_of

        rows, network = (
            [],
            SiglipModel.from_pretrained(resolve(self.semantic_encoder), dtype=torch.float32).eval(),
        )
        count = min(RANKED, self.held_out)
        for told, phrases in (("full caption", WHOLE), ("the time alone", WHOLE[:1])):
            captions = [caption_of(watch, phrases) for watch in held_out[:count]]
            with torch.inference_mode():
                likeness = network(
                    input_ids=caption_ids(captions), pixel_values=to_pixels(watches[:count])
                ).logits_per_image
            # captions likelier than the image's own
            better = (likeness > likeness.diagonal()[:, None]).sum(1)
            rows += [
                (
                    "SigLIP",
                    told,
                    "image to caption",
                    name,
                    (better < most).float().mean().item(),
                    most / count,
                    count,
                )
                for name, most in (("first", 1), ("among 10", 10))
            ]
        return pd.DataFrame(rows, columns=_READINGS)

    def _probe(
        self,
        held_out: list,
        watches: np.ndarray,
        vq,
        siglip,
        codes: np.ndarray,
        features: np.ndarray,
    ) -> pd.DataFrame:
        """Return the partial credit of ridge regression on all tokens of an image.

        It predicts weather and corners as one-hot vectors, the battery as a number, and each hand
        as a point on the circle.
        """
        import torch
        from scipy.spatial.distance import cdist
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from uvlm_core.models.readers import class_numbers, partial_credit

        known = sample_watches(POOL_STREAM, min(PROBED, self.images))
        images, labels, truth = (
            render_batch(known, self.image_size),
            class_numbers(known).numpy(),
            class_numbers(held_out),
        )
        # (classes, predicted numbers)
        targets = {name: np.eye(len(classes)) for name, classes in reader_classes().items()}
        targets |= {
            name: np.exp(
                2j * np.pi * np.arange(len(reader_classes()[name])) / len(reader_classes()[name])
            )[:, None].view(float)
            for name in ATTRIBUTES["time"].parts
        } | {"battery": np.arange(101)[:, None] / 100}
        wanted = np.hstack(
            [targets[name][labels[:, column]] for column, name in enumerate(reader_classes())]
        )
        ends = np.cumsum([targets[name].shape[1] for name in reader_classes()])[:-1]
        book, rows = vq.codebook.numpy(), []
        for inputs, *spaces in (
            ("pixels", images / np.float32(255), watches / np.float32(255)),
            ("VQ vectors", book[vq.encode(images)], book[codes]),
            ("SigLIP features", siglip.encode(images), features),
        ):
            seen, asked = (part.reshape(len(part), -1) for part in spaces)  # (watches, features)
            probe = make_pipeline(StandardScaler(), Ridge(alpha=0.1 * seen.shape[1])).fit(
                seen, wanted
            )
            for column, (name, part) in enumerate(
                zip(reader_classes(), np.split(probe.predict(asked), ends, axis=1), strict=True)
            ):
                found = torch.from_numpy(cdist(part, targets[name]).argmin(1))
                credit = partial_credit(name, found, truth[:, column]).mean().item()
                rows.append(
                    (
                        "linear probe",
                        inputs,
                        "partial credit",
                        name,
                        credit,
                        chances()[name],
                        len(held_out),
                    )
                )
        return pd.DataFrame(rows, columns=_READINGS)


def _read(readings: dict[str, list], held_out: list) -> pd.DataFrame:
    """Return the readers' partial credit and exact match by input."""
    import torch

    from uvlm_core.models.readers import class_numbers, partial_credit

    truth, rows = class_numbers(held_out), []  # (watches, attributes)
    for inputs, some in readings.items():
        found = torch.tensor(
            [
                [classes.index(reading[name]) for name, classes in reader_classes().items()]
                for reading in some
            ]
        )
        for column, (name, classes) in enumerate(reader_classes().items()):
            credit = partial_credit(name, found[:, column], truth[:, column]).mean().item()
            exact = (found[:, column] == truth[:, column]).float().mean().item()
            rows += [
                ("readers", inputs, "partial credit", name, credit, chances()[name], len(held_out)),
                ("readers", inputs, "exact", name, exact, 1 / len(classes), len(held_out)),
            ]
    return pd.DataFrame(rows, columns=_READINGS)


def arms(base: Profile, scale: Scale) -> list[Arm]:
    """Return the one measurement of this study."""
    spec = base.spec
    return [
        Arm(
            FrozenNetworks(
                spec.data.image_size,
                spec.data.images,
                spec.model.vq_tokenizer,
                spec.model.semantic_encoder,
                spec.scoring.reader,
                spec.scoring.feature_reader,
                spec.scoring.feature_decoder,
                min(MEASURED_WATCHES, 2 * spec.scoring.test_watches),
            ),
            {},
        )
    ]


def readings_table(arms: list[Arm], store: RunStore) -> pd.DataFrame:
    """Return the scores of readers, SigLIP and linear probes, with the columns `_READINGS`."""
    return pd.concat(
        [recorded(arms[0].spec, store, name) for name in ("readers", "captions", "probe")],
        ignore_index=True,
    )


# Figures


@theme()
def draw_vq(errors: pd.DataFrame, images: dict[str, np.ndarray]) -> "Figure":
    """Draw watches and their reconstructions in each space.

    `errors` has the columns space and error. `images` maps row names, spaces among them, to uint8
    arrays (images, height, width, 3) of equal length.
    """
    need(errors, "frozen_networks_vq", ("space", "error"))
    count = len(next(iter(images.values())))
    figure = new_figure(PAGE, 0.6 + len(images) * PAGE / count)
    grid = figure.subplots(len(images), count, squeeze=False)
    for line, (name, pictures) in zip(grid, images.items(), strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            draw_picture(axes, picture)
        line[0].set_ylabel(name)
    off = " and ".join(f"{row.error:.1%} {row.space}" for row in errors.itertuples())
    headline(figure, f"What is left of a watch: decoded pixels are off by {off}, on average")
    return figure


@theme()
def draw_readings(table: pd.DataFrame) -> "Figure":
    """Draw the partial credit that a small network and a linear probe lose, by attribute and space.

    Columns: network, inputs, attribute, value, chance.
    """
    need(table, "frozen_networks_readings", ("network", "inputs", "attribute", "value", "chance"))
    attributes = list(dict.fromkeys(table["attribute"]))
    figure = new_figure(PAGE, 1.6 + 0.24 * len(attributes))
    grid = figure.subplots(1, len(_READERS), sharex=True, sharey=True)
    lost = []
    for axes, (network, inputs) in zip(grid, _READERS.items(), strict=True):
        own = table[table["network"] == network]
        first = own[own["inputs"] == own["inputs"].iloc[0]]
        axes.plot(
            100 * (1 - first["chance"]),
            first["attribute"].map(attributes.index),
            "|",
            color="#767676",
            markersize=11,
            label="chance",
        )
        for number, (name, words) in enumerate(inputs.items()):
            found = own[own["inputs"] == name]
            at = found["attribute"].map(attributes.index) + 0.2 * (number - 1)
            axes.plot(
                100 * (1 - found["value"]),
                at,
                "osD"[number],
                color=GREYS[number],
                markersize=4,
                label=words,
                clip_on=False,  # many lose nothing
            )
        lost.append(f"{1 - own['value'].min():.1%} with the {network}")
        axes.set(title=network, xlabel="credit lost, %", ylim=(len(attributes) - 0.5, -0.5))
        # linear up to 0.1, so that nothing lost is seen as well
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    grid[0].set_yticks(range(len(attributes)), [NAMES.get(name, name) for name in attributes])
    sentence = f"Credit lost on an attribute is at most about {', and '.join(lost)}"
    headline(figure, sentence, grid[0].get_legend_handles_labels()[0], 4)
    return figure


def show_vq(opened: OpenedStudy) -> Drawn:
    """Draw held-out watches and their reconstructions."""
    spec = opened.arms[0].spec
    pictures = np.split(opened.store.pictures(opened.store.load(spec)), len(_SPACES))
    true = render_batch(sample_watches(CARDS_STREAM, SHOWN_WATCHES, "test"), spec.image_size)
    errors = recorded(spec, opened.store, "errors")
    images = {"watch": true} | dict(zip(_SPACES, pictures, strict=True))
    return Drawn(draw_vq(errors, images), errors)


def show_readings(opened: OpenedStudy) -> Drawn:
    """Draw what readers and linear probes lose of each space."""
    shown = opened.table[opened.table["metric"] == "partial credit"]
    return Drawn(draw_readings(shown), shown)


# What the figures say


def _value(table: pd.DataFrame, inputs: str, metric: str, *attributes: str) -> float:
    """Return the mean score over the given attributes, or over all if none is given."""
    own = table[(table["inputs"] == inputs) & (table["metric"] == metric)]
    return own.loc[own["attribute"].isin(attributes) if attributes else slice(None), "value"].mean()


def tell_vq(opened: OpenedStudy) -> str:
    """Say how far reconstructions are from the watches, how many codes are used, and for what."""
    spec, store = opened.arms[0].spec, opened.store
    errors = recorded(spec, store, "errors").set_index("space")["error"]
    uses = recorded(spec, store, "codes")["uses"]
    return (
        f"A pixel decoded from codes is off by {errors['from codes']:.4f} on average, where black "
        f"to white is 1; one decoded from features by {errors['from features']:.4f}. "
        f"{spec.held_out:,} held-out watches use {(uses > 0).sum():,} of {len(uses):,} codes. The "
        "decoder of features is for looking only: no score goes through it."
    )


def tell_readings(opened: OpenedStudy) -> str:
    """Say how well each space is read, and how well SigLIP tells captions apart."""
    table, hands = opened.table, ATTRIBUTES["time"].parts
    exact = " and ".join(
        f"the {name} in {_value(table, 'from codes', 'exact', name):.3f}"
        for name in ("minute", "second")
    )
    probed = ", ".join(
        f"{_value(table, inputs, 'partial credit', *hands):.2f} from {words}"
        for inputs, words in _READERS["linear probe"].items()
    )
    captions = table[(table["network"] == "SigLIP") & (table["attribute"] == "first")]
    first = captions.set_index("inputs")["value"]
    return (
        f"From reconstructions the reader finds {exact} of the cases exactly: no watch drawn "
        f"through the VQ tokenizer can score higher. A linear probe earns on the hands {probed}; "
        f"guessing has 0.50. Of {captions['samples'].iloc[0]} captions SigLIP ranks a watch's own "
        f"first in {first['full caption']:.3f} of the cases, and in {first['the time alone']:.3f} "
        "if they give the time alone."
    )


STUDY = Study(
    name="frozen_networks",
    number=1,
    section="3, architecture",
    question="How much of a watch survives the frozen encoders?",
    scales={"smoke": Scale(1), "laptop": Scale(1), "smollm": Scale(1)},
    arms=arms,
    table=readings_table,
    figures={"frozen_networks_vq": show_vq, "frozen_networks_readings": show_readings},
    findings={"frozen_networks_vq": tell_vq, "frozen_networks_readings": tell_readings},
)
