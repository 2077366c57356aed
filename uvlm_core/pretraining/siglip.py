"""How `pretrained/siglip` and the decoder and reader of its features were made (paper section 3).

Belongs here: their losses, data and model cards. Not here: the networks in use
(`models/encoders.py`, `models/readers.py`), the training loop (`common.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, SiglipConfig, SiglipModel

from uvlm_core.data.attributes import reader_classes
from uvlm_core.data.smart_watch import (
    CARDS_STREAM,
    Watch,
    render_batch,
    sample_watch,
    sample_watches,
    split_of,
)
from uvlm_core.models.encoders import FeatureDecoder, SiglipEncoder
from uvlm_core.models.readers import FeatureReader, class_numbers
from uvlm_core.places import fingerprint, resolve
from uvlm_core.pretraining.common import (
    BF16,
    PROBE_WATCHES,
    SEED,
    SIZE,
    TABLE_HEAD,
    WATCHES,
    Grid,
    Probe,
    ReadingTask,
    drawing_loss,
    held_out_watches,
    pixel_error,
    read_table,
    ship,
    to_float,
    train,
    train_probe,
)

SIGLIP = SiglipConfig(
    text_config=dict(
        vocab_size=541,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=28,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    vision_config=dict(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=8,
    ),
)
SIGLIP_STEPS = 2500
REDRAWING = 5.0  # weight of the loss on pixels redrawn from the penultimate layer
DUPLICATE_GROUPS = 32  # groups of near-duplicates in a batch
# watches that differ in one attribute: otherwise weather and corners tell all images apart
GROUP = 4
# coarse directions of the hands in captions: with numbers alone, the network did not read the hands
DIRECTIONS = {
    "hour_side": ("hour", 3),
    "minute_side": ("minute", 15),
    "second_side": ("second", 15),
    "minute_mark": ("minute", 5),
    "second_mark": ("second", 5),
}
QUADRANTS = ("top right", "bottom right", "bottom left", "top left")  # clockwise from twelve
PHRASES = {  # parts of captions: attributes -> words
    ("hour", "minute", "second"): "time {0:02d}:{1:02d}:{2:02d}",
    ("hour",): "hour {0}",
    ("minute",): "minute {0}",
    ("second",): "second {0}",
    ("hour_side",): "hour {0}",
    ("minute_side",): "minute {0}",
    ("second_side",): "second {0}",
    ("minute_mark",): "minute at {0}",
    ("second_mark",): "second at {0}",
    ("weather",): "weather {0}",
    ("battery",): "battery {0}%",
    ("weather_corner",): "weather {0}",
    ("battery_corner",): "battery {0}",
}
ALONE = tuple(PHRASES)[1:]  # the phrases of captions with one attribute
WHOLE = (tuple(PHRASES)[0], *tuple(PHRASES)[9:])  # the phrases of a full caption
DIFFERENCES = (
    ("hour",),
    ("minute",),
    ("second",),
    ("weather",),
    ("battery",),
    ("weather_corner", "battery_corner"),
)
DECODER_STEPS = 2500
FEATURE_READER_STEPS = 3000


class SiglipTask(nn.Module):
    """Sigmoid loss (Zhai et al. 2023) of images against partial captions, plus a redrawing loss.

    A caption tells some attributes and is true of every image that has them. So the attributes give
    the sign of a pair: several images of a batch may share a caption, and no pair is a false
    negative. A caption's positives together weigh as much as its negatives. With equal weights for
    all pairs, the network learned only how often captions are true: every attribute was at chance
    after 500 steps. Balanced, battery and its corner reached .9 after 160 steps.

    With captions alone, the network did not read the hands and later lost them (docs/log.md).
    Therefore one linear map must redraw each patch's pixels from its token of the penultimate
    layer, the layer that the study uses.
    """

    def __init__(self, network: SiglipModel):
        super().__init__()
        self.network = network
        nn.init.constant_(network.logit_scale, math.log(10))
        nn.init.zeros_(network.logit_bias)
        vision = network.config.vision_config
        self.redraw = nn.Linear(vision.hidden_size, 3 * vision.patch_size**2)

    def forward(self, images: Tensor, ids: Tensor, true: Tensor, step: int) -> Tensor:
        pixels = to_float(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            seen = self.network.vision_model(pixels, output_hidden_states=True)
            told = self.network.text_model(input_ids=ids).pooler_output  # (captions, width)
            drawn = self.redraw(seen.hidden_states[-2])  # (images, tokens, pixels of a patch)
        likeness = (
            F.normalize(told.float(), dim=1) @ F.normalize(seen.pooler_output.float(), dim=1).T
        )
        logits = likeness * self.network.logit_scale.exp() + self.network.logit_bias
        losses = -F.logsigmoid(torch.where(true, logits, -logits))  # (captions, images)
        positives = (losses * true).sum(1) / true.sum(1)
        negatives = (losses * ~true).sum(1) / (~true).sum(1).clamp(min=1)
        drawn = F.pixel_shuffle(Grid()(drawn.float()), self.network.config.vision_config.patch_size)
        return (positives + negatives).mean() + REDRAWING * drawing_loss(drawn, pixels)


def caption_of(watch: Watch, phrases: Sequence[tuple[str, ...]]) -> str:
    """Return a watch's caption, e.g. `time 10:09:36, weather sunny, battery bottom right`."""
    shown = vars(watch) | {
        name: getattr(watch, attribute) // step for name, (attribute, step) in DIRECTIONS.items()
    }
    shown |= {name: QUADRANTS[shown[name]] for name in DIRECTIONS if name.endswith("_side")}
    return ", ".join(PHRASES[names].format(*(shown[name] for name in names)) for names in phrases)


def caption_ids(
    captions: Sequence[str], length: int = SIGLIP.text_config.max_position_embeddings
) -> Tensor:
    """Return token ids (captions, length), truncated or padded to the SigLIP's text length."""
    return _tokenizer()(
        list(captions),
        padding="max_length",
        truncation=True,
        return_tensors="pt",
        max_length=length,
    )["input_ids"]


@lru_cache(maxsize=1)
def _tokenizer():
    return AutoTokenizer.from_pretrained(resolve("pretrained/tokenizer"))


def near_duplicates(count: int, seed: int) -> list[Watch]:
    """Draw `count` groups of `GROUP` training watches that differ in one attribute or corners."""
    watches = []
    for index, watch in enumerate(sample_watches(seed, count)):
        rng, group = np.random.default_rng([seed, index]), [watch]
        names = DIFFERENCES[rng.integers(len(DIFFERENCES))]
        while len(group) < GROUP:
            donor = sample_watch(seed, int(rng.integers(2**31)))
            other = replace(watch, **{name: getattr(donor, name) for name in names})
            if split_of(other) == "train":
                group.append(other)
        watches += group
    return watches


def fit_siglip(
    name: str, network: SiglipModel, batch_of: Callable[[np.random.Generator], tuple], steps: int
) -> float:
    """Train a SigLIP on batches of images, token ids and signs, freeze it, return the minutes."""
    task = SiglipTask(network)
    # not fused: that kernel's bf16 gradient takes 40 % of a step on a CPU
    network.set_attn_implementation("eager")
    matrices = [
        parameter
        for key, parameter in task.named_parameters()
        if parameter.ndim == 2 and ".encoder.layers." in key
    ]
    minutes = train(name, task, batch_of, steps, 1e-3, matrices)
    network.requires_grad_(False)
    return minutes


def train_siglip() -> None:
    """Train `pretrained/siglip`; its card reports one-hidden-layer probes and retrieval."""
    torch.manual_seed(SEED)
    watches = near_duplicates(WATCHES // GROUP * 2, SEED)
    images, labels = torch.from_numpy(render_batch(watches, SIZE)), class_numbers(watches)
    columns = [
        labels[:, list(reader_classes()).index(attribute)] // step
        for attribute, step in DIRECTIONS.values()
    ]
    labels, names = (
        torch.cat([labels, torch.stack(columns, 1)], 1),
        (*reader_classes(), *DIRECTIONS),
    )

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = (
            rng.integers(len(watches) // GROUP, size=(DUPLICATE_GROUPS, 1)) * GROUP
            + np.arange(GROUP)
        ).flatten()
        # one third of the captions tell one attribute, so that each must be learned by itself; one
        # third the time alone, because the rest suffices to tell images apart; one third several
        # attributes, like a full caption
        told = [[ALONE[rng.integers(len(ALONE))]] for _ in rows] + [[WHOLE[0]] for _ in rows]
        told += [
            [WHOLE[k] for k in np.sort(rng.permutation(len(WHOLE))[: rng.integers(2, 6)])]
            for _ in rows
        ]
        ids = caption_ids(
            [
                caption_of(watches[row], phrases)
                for row, phrases in zip([*rows] * 3, told, strict=True)
            ]
        )
        unsaid = torch.tensor(
            [[all(name not in said for said in phrases) for name in names] for phrases in told]
        )
        shown = labels[rows]  # (images, attributes)
        # (captions, images)
        true = ((shown[None] == shown.repeat(3, 1)[:, None]) | unsaid[:, None]).all(2)
        return images[rows], ids, true

    network = SiglipModel(SIGLIP)
    minutes = fit_siglip("siglip", network, batch, SIGLIP_STEPS)
    held_out, truth = held_out_watches()
    width, layers, tokens = (
        SIGLIP.vision_config.hidden_size,
        SIGLIP.vision_config.num_hidden_layers,
        64,
    )
    untrained = SiglipModel(SIGLIP).eval().requires_grad_(False)
    ship(
        "siglip",
        network,
        {**SIGLIP.to_dict(), "architectures": ["SiglipModel"]},
        f"""
# SigLIP of the laptop profile

`SiglipModel`, {SIZE} px in {tokens} patches, {layers} layers of width {width}, with a small text
side (tokens of `pretrained/tokenizer`) for retrieval. \
Pixels in [-1, 1]; the study uses the penultimate layer's
patch features.

Data: {len(watches):,} watches of the split "train" in groups of {GROUP} that differ \
in one attribute;
{SIGLIP_STEPS:,} steps of {DUPLICATE_GROUPS * GROUP} images and three times as many captions: \
a third says one attribute, a
third the time, a third several things. \
Sigmoid loss; a caption is a positive of every image of which it is true, and
its positives together weigh as much as its negatives. \
Besides, a linear map must give back each patch's pixels from the
penultimate layer (weight {REDRAWING:.0f}; the map is not shipped): \
with captions alone the hands were lost.

Quality on held-out watches (split "test", seed {CARDS_STREAM}). \
Probes with one hidden layer on the patch features,
trained on {PROBE_WATCHES:,} watches, of this network and, as a control, \
of one with random weights; and what the most likely
caption says (`minute 37` among sixty), without any probe:

{TABLE_HEAD}
{probe_siglip("features", network, held_out, truth)}
{probe_siglip("random weights", untrained, held_out, truth)}
{read_table("captions", ZeroShot(network), to_float(held_out), truth)}

Retrieval of the right one of 250 held-out images (chance .004): \
{retrieval(network, WHOLE):.3f} by a full caption,
{retrieval(network, WHOLE[:1]):.3f} by the time alone.
""",
        minutes,
    )


def probe_siglip(title: str, network: SiglipModel, held_out: Tensor, truth: Tensor) -> str:
    """Return rows of the card's table: a one-hidden-layer probe of penultimate-layer features."""
    encoder, watches = (
        SiglipEncoder(network.vision_model, "siglip"),
        sample_watches(SEED, PROBE_WATCHES),
    )
    known, features = (
        torch.from_numpy(encoder.encode(images))
        for images in (render_batch(watches, SIZE), held_out.numpy())
    )  # (watches, tokens, width)
    probe = Probe(
        nn.LayerNorm(encoder.width, elementwise_affine=False),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(encoder.tokens * encoder.width, 256),
        nn.GELU(),
        width=256,
    )
    train_probe(probe, known, class_numbers(watches))
    return read_table(title, probe, features, truth)


class ZeroShot(nn.Module):
    """A zero-shot reader: an image's similarity to `minute 37` is its logit for that minute."""

    def __init__(self, network: SiglipModel):
        super().__init__()
        self.network = network
        self.told = {
            name: network.text_model(
                input_ids=caption_ids([PHRASES[(name,)].format(value) for value in values])
            ).pooler_output
            for name, values in reader_classes().items()
        }

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        seen = F.normalize(self.network.vision_model(pixels).pooler_output, dim=1)
        return {name: seen @ F.normalize(told, dim=1).T for name, told in self.told.items()}


@torch.no_grad()
def retrieval(network: SiglipModel, phrases: Sequence[tuple[str, ...]], count: int = 250) -> float:
    """Return the share of captions that rank their image first of `count` held-out images."""
    watches = sample_watches(CARDS_STREAM, count, "test")
    pixels = to_float(torch.from_numpy(render_batch(watches, SIZE)))
    ids = caption_ids([caption_of(watch, phrases) for watch in watches])
    found = network(input_ids=ids, pixel_values=pixels).logits_per_text.argmax(1)
    return (found == torch.arange(count)).float().mean().item()


class DecoderTask(nn.Module):
    """The loss of a feature decoder: `drawing_loss`, as for the VQ tokenizer."""

    def __init__(self, network: FeatureDecoder):
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, images: Tensor, step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            drawn = self.network(features)
        return drawing_loss(drawn.float(), to_float(images))


def noisy(features: Tensor) -> Tensor:
    """Add noise to the features (images, tokens, width) of half of the images.

    The noise is at most about as long as the features.
    """
    amount = torch.rand(len(features), 1, 1) ** 2 * (torch.rand(len(features), 1, 1) < 0.5)
    lengths = features.norm(dim=-1, keepdim=True) * features.shape[-1] ** -0.5
    return features + torch.randn_like(features) * lengths * amount


def fit_decoder(
    name: str, encoder: SiglipEncoder, images: np.ndarray
) -> tuple[FeatureDecoder, float]:
    """Train a decoder on features of uint8 images (images, 64, 64, 3); return it and minutes."""
    features, pixels = torch.from_numpy(encoder.encode(images)), torch.from_numpy(images)

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = rng.integers(len(images), size=32)
        return features[rows], pixels[rows]

    task = DecoderTask(FeatureDecoder(encoder.width, encoder.tokens, SIZE))
    minutes = train(name, task, batch, DECODER_STEPS, 2e-3)
    return task.network, minutes


def train_decoder() -> None:
    """Train `pretrained/siglip_decoder`, which draws SigLIP features for viewing only."""
    torch.manual_seed(SEED)
    encoder = SiglipEncoder.load("pretrained/siglip")
    images = render_batch(sample_watches(SEED, PROBE_WATCHES), SIZE)
    decoder, minutes = fit_decoder("siglip_decoder", encoder, images)
    held_out, _ = held_out_watches()
    drawn = decoder.decode(encoder.encode(held_out.numpy()))
    error = pixel_error(drawn, held_out.numpy())
    ship(
        "siglip_decoder",
        decoder,
        decoder.config | {"of": fingerprint("pretrained/siglip")},
        f"""
# Decoder of the laptop profile's SigLIP features

`FeatureDecoder`: {encoder.tokens} penultimate-layer features of `pretrained/siglip` \
to {SIZE} px, by the features'
directions alone, with a few convolutions. \
It is there so that a person can look at what a model with SigLIP output
generates; scores do not go through it.

Data: {len(images):,} watches of the split "train"; {DECODER_STEPS:,} steps of 32; \
L1 + L2 on pixels, weighted by local
contrast.

Quality on held-out watches (split "test", seed {CARDS_STREAM}): \
mean absolute pixel error {error:.4f} of 1
({len(drawn)} watches).
""",
        minutes,
    )


def train_feature_reader() -> None:
    """Train `pretrained/siglip_reader`, which scores generated features, on real watches."""
    torch.manual_seed(SEED)
    encoder = SiglipEncoder.load("pretrained/siglip")
    watches = sample_watches(SEED, 2 * PROBE_WATCHES, "reader")
    features, labels = (
        torch.from_numpy(encoder.encode(render_batch(watches, SIZE))),
        class_numbers(watches),
    )

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = rng.integers(len(watches), size=64)
        return features[rows], labels[rows]

    task = ReadingTask(FeatureReader(encoder.width, encoder.tokens), prepare=noisy)
    minutes = train("siglip_reader", task, batch, FEATURE_READER_STEPS, 2e-3)
    held_out, truth = held_out_watches()
    ship(
        "siglip_reader",
        task.network,
        task.network.config | {"of": fingerprint("pretrained/siglip")},
        f"""
# Probe of the laptop profile's SigLIP features

`FeatureReader` (a small CNN) reads hour, minute, second, weather, \
battery and both corners from the {encoder.tokens}
penultimate-layer features of `pretrained/siglip`, by their directions alone. \
It scores what a model with SigLIP output
generates, in that space, and has seen no watch that any other network was trained or tested on.

Data: features of {len(watches):,} watches of the split "reader"; \
to half of each batch noise is added;
{FEATURE_READER_STEPS:,} steps of 64.

Quality on the features of held-out watches (split "test", seed {CARDS_STREAM}), \
the ceiling of what can be read from
generated ones:

{TABLE_HEAD}
{read_table("features", task.network, torch.from_numpy(encoder.encode(held_out.numpy())), truth)}
""",
        minutes,
    )
