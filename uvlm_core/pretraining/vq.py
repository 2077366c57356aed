"""How the VQ tokenizer `pretrained/vq` and `pretrained/reader` were made (paper section 3).

Belongs here: their losses, data and model cards. Not here: the networks in use
(`models/encoders.py`, `models/readers.py`), the training loop (`common.py`).
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core.data.smart_watch import CARDS_STREAM, render_batch, sample_watches
from uvlm_core.models.encoders import VQEncoder
from uvlm_core.models.readers import AttributeReader, class_numbers
from uvlm_core.pretraining.common import (
    BF16,
    CONTRAST_WEIGHT,
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

VQ_BATCH = 32  # small, for many steps in little time; larger batches were not tried
# 4 x 4 pixels folded into channels: encodes 640 images/s on one thread; 2 x 2 only 380
VQ = JanusVQVAEConfig(
    in_channels=48,
    out_channels=48,
    base_channels=32,
    channel_multiplier=[2, 2],
    num_res_blocks=2,
    latent_channels=64,
    embed_dim=8,
    num_embeddings=1024,
    num_patches=8,
)
VQ_STEPS = 6500
VQ_WARM_UP = 300  # steps as a plain autoencoder, before k-means sets the codebook
COMMITMENT = 0.25
LOCALITY = 1.0  # weight of the loss that pulls equal patches to one vector
READER_STEPS = 3000
RECONSTRUCTED = 15_000  # watches whose VQ reconstructions the reader also sees


class VQTask(nn.Module):
    """Straight-through training of a `JanusVQVAE` with unit codes that are running means.

    GroupNorm and attention see the whole image, so the face's colour would decide which codes an
    icon in a corner gets (3 nats). A language model would then have to learn every icon many times.
    Therefore a loss pulls patches of equal pixels to one vector.

    `JanusVQVAE.forward` gives the encoder no gradient, so the decoder gets z + (e - z).detach()
    here.
    """

    def __init__(self, network: JanusVQVAE, steps: int = VQ_STEPS):
        super().__init__()
        self.network, self.steps = network, steps
        # updated by running means, not by gradients
        self.network.quantize.embedding.weight.requires_grad_(False)
        codes, width = self.network.quantize.embedding.weight.shape
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    def forward(self, images: Tensor, step: int) -> Tensor:
        pixels = to_float(images)  # (images, 3, 64, 64)
        fold = round((self.network.config.in_channels / 3) ** 0.5)
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            latent = self.network.quant_conv(self.network.encoder(F.pixel_unshuffle(pixels, fold)))
        z = F.normalize(latent.float(), dim=1)  # (images, width, side, side)
        flat = z.detach().permute(0, 2, 3, 1).flatten(0, 2)  # (images * tokens, width)
        if step < VQ_WARM_UP:
            given, commitment = z, 0.0
        else:
            if step == VQ_WARM_UP:
                self.set_codebook(flat)
            quantised = self.quantise(flat, step).view(len(z), *z.shape[2:], -1).permute(0, 3, 1, 2)
            given, commitment = z + (quantised - z).detach(), F.mse_loss(z, quantised)
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            drawn = self.network.decoder(self.network.post_quant_conv(given))
        drawing = drawing_loss(F.pixel_shuffle(drawn.float(), fold), pixels)
        return drawing + COMMITMENT * commitment + LOCALITY * self.spread(pixels, z)

    def spread(self, pixels: Tensor, z: Tensor) -> Tensor:
        """Return the mean squared distance of vectors to the mean over patches of equal pixels."""
        patch = pixels.shape[-1] // z.shape[-1]
        # (images * tokens, pixels)
        patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
        vectors = z.flatten(2).transpose(1, 2).flatten(0, 1)  # (images * tokens, width)
        _, kind, counts = patches.unique(dim=0, return_inverse=True, return_counts=True)
        means = (
            torch.zeros(len(counts), vectors.shape[1]).index_add(0, kind, vectors) / counts[:, None]
        )
        return F.mse_loss(vectors, means[kind])

    def set_codebook(self, flat: Tensor) -> None:
        """Set the codebook by ten rounds of spherical k-means, from random vectors of the batch."""
        book = flat[torch.randperm(len(flat))[: len(self.counts)]]
        for _ in range(10):
            nearest = (flat @ book.T).argmax(1)
            sums = torch.zeros_like(book).index_add_(0, nearest, flat)
            book = F.normalize(torch.where(sums.norm(dim=1, keepdim=True) > 0, sums, book), dim=1)
        self.counts.copy_(torch.bincount(nearest, minlength=len(book)).float())
        self.sums.copy_(book * self.counts[:, None])
        self.network.quantize.embedding.weight.copy_(book)

    @torch.no_grad()
    def quantise(self, flat: Tensor, step: int, decay: float = 0.995) -> Tensor:
        """Return the nearest codes of unit vectors, then move each code to its vectors' mean."""
        book = self.network.quantize.embedding.weight
        likeness, nearest = (flat @ book.T).max(1)
        quantised = book[nearest]
        self.counts.lerp_(torch.bincount(nearest, minlength=len(book)).float(), 1 - decay)
        self.sums.lerp_(torch.zeros_like(book).index_add_(0, nearest, flat), 1 - decay)
        # an unused code moves to a vector that is far from its nearest code
        if step % 25 == 0 and step < 0.8 * self.steps:
            dead = (self.counts < 0.02 * self.counts.mean()).nonzero().flatten()
            taken = (
                flat[torch.multinomial((1 - likeness).clamp(min=1e-6), len(dead))]
                if len(dead)
                else flat[:0]
            )
            self.counts[dead], self.sums[dead] = 1.0, taken
        book.copy_(F.normalize(self.sums, dim=1))
        return quantised


def train_vq() -> None:
    """Train `pretrained/vq`; its card reports what a small CNN reads from held-out codes."""
    torch.manual_seed(SEED)
    watches = sample_watches(SEED, WATCHES)
    images = torch.from_numpy(render_batch(watches, SIZE))  # (watches, 64, 64, 3)
    task = VQTask(JanusVQVAE(VQ))
    minutes = train(
        "vq", task, lambda rng: (images[rng.integers(len(images), size=VQ_BATCH)],), VQ_STEPS, 1e-3
    )
    retired = retire_duplicates(task.network, images[:PROBE_WATCHES].numpy())
    encoder = VQEncoder(task.network, "vq")
    held_out, truth = held_out_watches()
    codes = torch.from_numpy(encoder.encode(held_out.numpy())).long()  # (watches, 64)
    error = pixel_error(encoder.decode(codes.numpy()), held_out.numpy())
    known, labels = (
        torch.from_numpy(encoder.encode(images[:PROBE_WATCHES].numpy())).long(),
        class_numbers(watches[:PROBE_WATCHES]),
    )
    used = known.unique().numel()
    probe = Probe(
        nn.Embedding(VQ.num_embeddings, 64),
        Grid(),
        nn.Conv2d(64, 128, 3, 1, 1),
        nn.GELU(),
        nn.Conv2d(128, 128, 3, 1, 1),
        nn.GELU(),
        nn.Conv2d(128, 16, 1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(1024, 256),
        nn.GELU(),
        width=256,
    )
    train_probe(probe, known, labels)
    ship(
        "vq",
        task.network,
        {**VQ.to_diff_dict(), "architectures": ["JanusVQVAE"]},
        f"""
# VQ tokenizer of the laptop profile

`JanusVQVAE` (the LlamaGen VQ network), \
{SIZE} px to 8 x 8 codes out of {VQ.num_embeddings}, unit vectors
of width {VQ.embed_dim}; 4 x 4 pixels are folded into channels. \
Pixels in [-1, 1]; the nearest code is the one of
largest cosine.

Data: {WATCHES:,} watches of the split "train", {VQ_STEPS:,} steps of {VQ_BATCH}. \
L1 + L2 on pixels, weighted by
1 + {CONTRAST_WEIGHT:.0f} x local contrast; straight-through gradient; \
the codes are running means. Afterwards
{retired} codes were set to zero, \
which stood for a patch (white, most of all) that another code stood for more often.

Quality on held-out watches (split "test", seed {CARDS_STREAM}): \
mean absolute pixel error {error:.4f} of 1
({len(codes)} watches); \
{used} of {VQ.num_embeddings} codes in use ({PROBE_WATCHES:,} watches of "train").
What a small CNN reads from the codes alone, trained on those {PROBE_WATCHES:,} watches:

{TABLE_HEAD}
{read_table("codes", probe, codes, truth)}
""",
        minutes,
    )


@torch.no_grad()
def retire_duplicates(network: JanusVQVAE, images: np.ndarray, share: float = 0.9) -> int:
    """Set redundant codes to zero and return their number.

    A code is redundant when at least `share` of its uses are one patch that another code stands for
    more often. Codes crowd at frequent patches: white alone had fourteen, and the rest of the image
    decided which one it got. For a language model that generates images, this is noise of ten nats
    per image. A zero row is never the nearest code.
    """
    codes = VQEncoder(network, "vq").encode(images).ravel()  # (images * tokens,)
    side = images.shape[1] // network.config.num_patches  # px of a patch
    patches = images.reshape(
        len(images), network.config.num_patches, side, network.config.num_patches, side * 3
    )
    patches = patches.swapaxes(2, 3).reshape(len(codes), -1)  # (images * tokens, bytes)
    kinds = np.unique(patches.view(f"V{patches.shape[1]}").ravel(), return_inverse=True)[1]
    uses = pd.DataFrame({"code": codes, "kind": kinds}).value_counts().rename("uses").reset_index()
    # the most frequent code of each kind of patch, and the most frequent kind of each code
    main = uses.loc[uses.groupby("kind")["uses"].idxmax()].set_index("kind")["code"]
    mostly = uses.loc[uses.groupby("code")["uses"].idxmax()]
    alone = mostly["uses"] >= share * mostly["code"].map(uses.groupby("code")["uses"].sum())
    seldom = mostly["code"].to_numpy() != main[mostly["kind"]].to_numpy()
    retired = mostly.loc[alone & seldom, "code"].to_numpy()
    network.quantize.embedding.weight[torch.tensor(retired, dtype=torch.long)] = 0.0
    return len(retired)


def corrupt(pixels: Tensor) -> Tensor:
    """Degrade half of the images: blur, coarse pixels, patch offsets, colour shifts and noise."""
    images = len(pixels)

    def amount(most: float) -> Tensor:
        return most * torch.rand(images, 1, 1, 1) ** 2

    worse = pixels.lerp(F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False), amount(1.0))
    worse = worse.lerp(
        F.interpolate(F.avg_pool2d(worse, 2), scale_factor=2, mode="bilinear"), amount(0.7)
    )
    worse = worse + F.interpolate(torch.randn(images, 3, 8, 8), scale_factor=8) * amount(0.2)
    worse = worse * (1 + 0.1 * torch.randn(images, 3, 1, 1)) + 0.1 * torch.randn(images, 3, 1, 1)
    worse = worse + torch.randn_like(worse) * amount(0.2)
    return torch.where(torch.rand(images, 1, 1, 1) < 0.5, pixels, worse.clamp(-1, 1))


def train_reader() -> None:
    """Train `pretrained/reader` on watches of the split "reader" and their VQ reconstructions."""
    torch.manual_seed(SEED)
    encoder = VQEncoder.load("pretrained/vq")
    watches = sample_watches(SEED, WATCHES, "reader")
    clean = torch.from_numpy(render_batch(watches, SIZE))
    drawn = torch.from_numpy(encoder.decode(encoder.encode(clean[:RECONSTRUCTED].numpy())))
    images, labels = torch.cat([clean, drawn]), class_numbers(watches + watches[:RECONSTRUCTED])

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = np.r_[rng.integers(WATCHES, size=32), rng.integers(WATCHES, len(images), size=32)]
        return images[rows], labels[rows]

    task = ReadingTask(AttributeReader(), prepare=lambda images: corrupt(to_float(images)))
    minutes = train("reader", task, batch, READER_STEPS, 3e-3)
    held_out, truth = held_out_watches()
    drawn = torch.from_numpy(encoder.decode(encoder.encode(held_out.numpy())))
    task.network.eval()
    ship(
        "reader",
        task.network,
        {"width": task.network.width},
        f"""
# Attribute reader of the laptop profile

`AttributeReader` (a small CNN) reads hour, minute, second, weather, \
battery and both corners from a watch of {SIZE} px.
It scores generated images and has seen no watch that any other network was trained or tested on.

Data: {WATCHES:,} watches of the split "reader"; half of each batch are VQ reconstructions of
{RECONSTRUCTED:,} of them, and half of all images are made worse (blur, coarse pixels, \
patches off, colour, noise);
{READER_STEPS:,} steps of 64.

Quality on held-out watches (split "test", seed {CARDS_STREAM}). \
The second pair of rows is the ceiling of what can be
read from images generated with `pretrained/vq`:

{TABLE_HEAD}
{read_table("watches", task.network, to_float(held_out), truth)}
{read_table("VQ reconstructions", task.network, to_float(drawn), truth)}
""",
        minutes,
    )
