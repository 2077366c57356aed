"""How the frozen networks of the laptop profile were made: `python -m uvlm_core.pretraining vq` (or `make encoders`).

Belongs here: training and measuring the VQ tokenizer, the attribute reader and the SigLIP, once, on watches that are in
no test set, and writing them with a model card into `pretrained/`. Not here: what they compute in use (`vision.py`,
`reader.py`). Everything is exact per seed on one machine; a killed training continues from its last checkpoint.
"""

import argparse
import json
import math
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange
from transformers import AutoTokenizer, SiglipConfig, SiglipModel
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core.muon import Muon
from uvlm_core.reader import CLASSES, AttributeReader, labels_of, partial_credit
from uvlm_core.smart_watch import WORLD_VERSION, Watch, render_batch, sample_watch, sample_watches, split_of
from uvlm_core.text_pretraining import build_language_model, build_tokenizer
from uvlm_core.vision import SiglipEncoder, VQEncoder
from uvlm_core.weights import PRETRAINED, cache_folder, resolve, write_sha256

SIZE = 64  # px: the laptop profile's watches
SEED = 640  # of weights, batches and watches
TEST_SEED = 641  # of the held-out watches (split "test") on which the cards' numbers are measured
WATCHES = 30_000  # rendered once and kept in memory
BATCH = 32  # small, for many steps in little time; larger batches were not tried
CHECKPOINT_EVERY = 250  # steps
BF16 = torch.cpu._is_avx512_bf16_supported()  # without native bf16, autocast would be many times slower, not faster

VQ = JanusVQVAEConfig(  # 4 x 4 pixels folded into channels: encodes 640 images/s on one thread, 2 x 2 only 380
    in_channels=48, out_channels=48, base_channels=32, channel_multiplier=[2, 2], num_res_blocks=2, latent_channels=64,
    embed_dim=8, num_embeddings=1024, num_patches=8)
VQ_STEPS = 6500
VQ_WARM_UP = 300  # steps as a plain autoencoder, before the codebook is set by k-means
CONTRAST_WEIGHT = 4.0  # how much more a pixel of full local contrast weighs than a flat one: the hands are thin
COMMITMENT = 0.25
LOCALITY = 1.0  # weight of the pull of like patches to one vector

SIGLIP = SiglipConfig(
    text_config=dict(vocab_size=541, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                     max_position_embeddings=28, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    vision_config=dict(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
                       image_size=SIZE, patch_size=8))
SIGLIP_STEPS = 4000
MUON_RATE = 0.01  # of the matrices of SigLIP's layers
GROUPS = 32  # of near-duplicates in a batch
GROUP = 4  # watches that differ in one attribute only: without them weather and corners tell all images apart
HANDS = {  # coarse directions of the hands, told beside the numbers, because numbers alone left hands unread
    "hour_side": ("hour", 3), "minute_side": ("minute", 15), "second_side": ("second", 15),
    "minute_mark": ("minute", 5), "second_mark": ("second", 5)}
SIDES = ("top right", "bottom right", "bottom left", "top left")  # clockwise from twelve
PHRASES = {  # what captions are made of: attributes -> words
    ("hour", "minute", "second"): "time {0:02d}:{1:02d}:{2:02d}", ("hour",): "hour {0}", ("minute",): "minute {0}",
    ("second",): "second {0}", ("hour_side",): "hour {0}", ("minute_side",): "minute {0}",
    ("second_side",): "second {0}", ("minute_mark",): "minute at {0}", ("second_mark",): "second at {0}",
    ("weather",): "weather {0}", ("battery",): "battery {0}%", ("weather_corner",): "weather {0}",
    ("battery_corner",): "battery {0}"}
ALONE = tuple(PHRASES)[1:]  # what a caption of one attribute says
WHOLE = (tuple(PHRASES)[0], *tuple(PHRASES)[9:])  # a full caption
DIFFERENCES = (("hour",), ("minute",), ("second",), ("weather",), ("battery",), ("weather_corner", "battery_corner"))

READER_STEPS = 3000
RECONSTRUCTED = 15_000  # watches that the reader also sees as the VQ draws them
PROBED = 8_000  # watches a probe learns from
PROBE_STEPS = 2_500


def train(name: str | None, task: nn.Module, batch_of: Callable[[np.random.Generator], tuple], steps: int, rate: float,
          muon: Sequence[nn.Parameter] = (), seed: int = SEED) -> float:
    """Train `task` (its forward gives the loss) with AdamW (`muon` with Muon), warm-up and cosine decay to zero.

    Batch number `step` is drawn from its own generator, so a training that was killed continues as if it had not been;
    without a name no checkpoints are written.

    Returns: minutes of training on this machine, all sessions together.
    """
    checkpoint = cache_folder() / "pretraining" / f"{name}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if muon:
        rest = [parameter for parameter in task.parameters() if not any(parameter is other for other in muon)]
        optimizer = Muon([{"params": list(muon), "lr": MUON_RATE, "orthogonal": True}, {"params": rest, "lr": rate}])
    else:
        optimizer = torch.optim.AdamW(task.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], steps, pct_start=0.03, cycle_momentum=False)
    first, seconds = 0, 0.0
    if name and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        task.load_state_dict(state["task"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, seconds = state["step"], state["seconds"]
    started, smooth = time.perf_counter() - seconds, None
    task.train()
    bar = trange(first, steps, initial=first, total=steps, desc=name or "probe", mininterval=10)
    for step in bar:
        torch.manual_seed(seed * 1_000_000 + step)
        loss = task(*batch_of(np.random.default_rng([seed, step])), step=step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if name and ((step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps):
            state = {"task": task.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                     "step": step + 1, "seconds": time.perf_counter() - started}
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
    task.eval()
    return (time.perf_counter() - started) / 60


def to_float(images: Tensor) -> Tensor:
    """uint8 (images, height, width, 3) to [-1, 1], (images, 3, height, width)."""
    return images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1  # channels first in memory too: twice as fast


class VQTask(nn.Module):
    """Straight-through training of a `JanusVQVAE` with unit-norm codes and a codebook that follows its vectors' means.

    Patches of equal pixels are pulled to one vector. The class's GroupNorm and attention see the whole image; left to
    itself the network lets the face's colour decide on the codes of an icon in a corner (3 nats of it), and a language
    model has to learn every icon many times over.

    The class's own `forward` gives the encoder no gradient, so the decoder is fed here: z + (e - z).detach().
    """

    def __init__(self, network: JanusVQVAE):
        super().__init__()
        self.network = network
        self.network.quantize.embedding.weight.requires_grad_(False)  # moved by running means, not by gradients
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
        error = (F.pixel_shuffle(drawn.float(), fold) - pixels).abs()
        contrast = (pixels - F.avg_pool2d(pixels, 5, 1, 2, count_include_pad=False)).abs().mean(1, keepdim=True)
        drawing = ((1 + CONTRAST_WEIGHT * contrast) * (error + error**2)).mean()
        return drawing + COMMITMENT * commitment + LOCALITY * self.spread(pixels, z)

    def spread(self, pixels: Tensor, z: Tensor) -> Tensor:
        """Mean squared distance of the vectors of patches with equal pixels from their mean."""
        patch = pixels.shape[-1] // z.shape[-1]
        patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)  # (images * tokens, pixels)
        vectors = z.flatten(2).transpose(1, 2).flatten(0, 1)  # (images * tokens, width)
        _, kind, counts = patches.unique(dim=0, return_inverse=True, return_counts=True)
        means = torch.zeros(len(counts), vectors.shape[1]).index_add(0, kind, vectors) / counts[:, None]
        return F.mse_loss(vectors, means[kind])

    def set_codebook(self, flat: Tensor) -> None:
        """Spherical k-means, from distinct vectors of the batch: ten rounds of assignment and mean."""
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
        """The nearest unit codes of unit vectors; each code then moves towards the mean of its vectors."""
        book = self.network.quantize.embedding.weight
        likeness, nearest = (flat @ book.T).max(1)
        quantised = book[nearest]
        self.counts.lerp_(torch.bincount(nearest, minlength=len(book)).float(), 1 - decay)
        self.sums.lerp_(torch.zeros_like(book).index_add_(0, nearest, flat), 1 - decay)
        if step % 25 == 0 and step < 0.8 * VQ_STEPS:  # a code out of use takes the place of a badly drawn vector
            dead = (self.counts < 0.02 * self.counts.mean()).nonzero().flatten()
            taken = flat[torch.multinomial((1 - likeness).clamp(min=1e-6), len(dead))] if len(dead) else flat[:0]
            self.counts[dead], self.sums[dead] = 1.0, taken
        book.copy_(F.normalize(self.sums, dim=1))
        return quantised


class ReadingTask(nn.Module):
    """Cross-entropy of every attribute; of numbers, against a target that gives their neighbours a share."""

    def __init__(self, network: nn.Module, prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs):
        super().__init__()
        self.network, self.prepare = network, prepare
        self.targets = {name: _soft_targets(name) for name in CLASSES}

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            logits = self.network(self.prepare(inputs))
        return sum(F.cross_entropy(logits[name].float(), self.targets[name][labels[:, column]])
                   for column, name in enumerate(CLASSES))


def _soft_targets(name: str, spread: float = 0.7) -> Tensor:
    """Row k is the target of class k: (classes, classes)."""
    count = len(CLASSES[name])
    if name not in ("minute", "second", "battery"):
        return torch.eye(count)
    distance = (torch.arange(count)[:, None] - torch.arange(count)[None]).abs()
    distance = distance if name == "battery" else torch.minimum(distance, count - distance)
    return F.normalize(torch.exp(-0.5 * (distance / spread) ** 2), p=1, dim=1)


class Probe(nn.Module):
    """What a small network can read: convolutions or a hidden layer over an encoder's outputs, then linear heads."""

    def __init__(self, *body: nn.Module, width: int):
        super().__init__()
        self.body = nn.Sequential(*body)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(classes)) for name, classes in CLASSES.items()})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.body(inputs)  # (images, width)
        return {name: head(hidden) for name, head in self.heads.items()}


class Grid(nn.Module):
    """Tokens (images, side * side, width) to a grid (images, width, side, side)."""

    def forward(self, tokens: Tensor) -> Tensor:
        side = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side)).contiguous()


@torch.no_grad()
def read_table(title: str, network: nn.Module, inputs: Tensor, labels: Tensor) -> str:
    """Rows of a card's table: per attribute partial credit and exact matches of a network that reads `inputs`."""
    network.eval()
    chosen = [{name: logits.argmax(1) for name, logits in network(part).items()} for part in inputs.split(250)]
    partial, exact = [], []
    for column, name in enumerate(CLASSES):
        values = torch.cat([part[name] for part in chosen])
        partial.append(f"{partial_credit(name, values, labels[:, column]).mean():.3f}")
        exact.append(f"{(values == labels[:, column]).float().mean():.3f}")
    rows = (("partial credit", partial), ("exact", exact))
    return "\n".join(f"| {title}, {kind} | {len(labels)} | {' | '.join(values)} |" for kind, values in rows)


TABLE_HEAD = f"| what is read | images | {' | '.join(CLASSES)} |\n|{' --- |' * (2 + len(CLASSES))}"


def ship(name: str, network: nn.Module, config: dict, card: str, minutes: float) -> None:
    """Write configuration, weights, model card and sums into `pretrained/<name>`, and drop the checkpoint."""
    folder = PRETRAINED / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "model.safetensors")
    parameters = sum(value.numel() for value in network.parameters())
    cost = (f"Made by `python -m uvlm_core.pretraining {name}` (seed {SEED}): {parameters:,} parameters, {minutes:.0f} "
            f"minutes on one thread of an {'AVX-512' if BF16 else 'x86'} CPU{' with bf16 autocast' if BF16 else ''}; "
            f"weights are float32. Watches of world version {WORLD_VERSION}, {SIZE} px.")
    paragraphs = [part if part.startswith("|") else textwrap.fill(part, 118)
                  for part in f"{card.strip()}\n\n{cost}".split("\n\n")]
    (folder / "README.md").write_text("\n\n".join(paragraphs) + "\n")
    write_sha256(folder)
    (cache_folder() / "pretraining" / f"{name}.pt").unlink(missing_ok=True)


def held_out_watches(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Held-out images, uint8 (count, 64, 64, 3), and their labels."""
    watches = sample_watches(TEST_SEED, count, "test")
    return torch.from_numpy(render_batch(watches, SIZE)), labels_of(watches)


def train_vq() -> None:
    """The VQ tokenizer -> pretrained/vq, measured by what a small CNN reads from held-out codes."""
    torch.manual_seed(SEED)
    watches = sample_watches(SEED, WATCHES)
    images = torch.from_numpy(render_batch(watches, SIZE))  # (watches, 64, 64, 3)
    task = VQTask(JanusVQVAE(VQ))
    minutes = train("vq", task, lambda rng: (images[rng.integers(len(images), size=BATCH)],), VQ_STEPS, 1e-3)
    retired = retire_duplicates(task.network, images[:PROBED].numpy())
    encoder = VQEncoder(task.network, "vq")
    held_out, truth = held_out_watches()
    codes = torch.from_numpy(encoder.encode(held_out.numpy())).long()  # (watches, 64)
    drawn = torch.from_numpy(encoder.decode(codes.numpy()))
    error = (drawn.float() - held_out.float()).abs() / 255
    known, labels = torch.from_numpy(encoder.encode(images[:PROBED].numpy())).long(), labels_of(watches[:PROBED])
    used = known.unique().numel()
    probe = Probe(
        nn.Embedding(VQ.num_embeddings, 64), Grid(),
        nn.Conv2d(64, 128, 3, 1, 1), nn.GELU(), nn.Conv2d(128, 128, 3, 1, 1), nn.GELU(), nn.Conv2d(128, 16, 1),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(1024, 256), nn.GELU(), width=256)
    train_probe(probe, known, labels)
    ship("vq", task.network, {**VQ.to_diff_dict(), "architectures": ["JanusVQVAE"]}, f"""
# VQ tokenizer of the laptop profile

`JanusVQVAE` (the LlamaGen VQ network), {SIZE} px to 8 x 8 codes out of {VQ.num_embeddings}, unit vectors
of width {VQ.embed_dim}; 4 x 4 pixels are folded into channels. Pixels in [-1, 1]; the nearest code is the one of
largest cosine.

Data: {WATCHES:,} watches of the split "train", {VQ_STEPS:,} steps of {BATCH}. L1 + L2 on pixels, weighted by
1 + {CONTRAST_WEIGHT:.0f} x local contrast; straight-through gradient; the codes are running means. Afterwards
{retired} codes were set to zero, which stood for a patch (white, most of all) that another code stood for more often.

Quality on held-out watches (split "test", seed {TEST_SEED}): mean absolute pixel error {error.mean():.4f} of 1
({len(drawn)} watches); {used} of {VQ.num_embeddings} codes in use ({PROBED:,} watches of "train").
What a small CNN reads from the codes alone, trained on those {PROBED:,} watches:

{TABLE_HEAD}
{read_table("codes", probe, codes, truth)}
""", minutes)


@torch.no_grad()
def retire_duplicates(network: JanusVQVAE, images: np.ndarray, share: float = 0.9) -> int:
    """Zero the codes that stand for one patch which another code stands for more often; returns how many there were.

    Codes crowd where most patches are: white alone had fourteen, and which of them it got hung on the rest of the
    image. To a language model that draws this is noise: ten nats an image. A zero is never the nearest code.
    """
    codes = VQEncoder(network, "vq").encode(images).ravel()  # (images * tokens,)
    side = images.shape[1] // network.config.num_patches  # px of a patch
    patches = images.reshape(len(images), network.config.num_patches, side, network.config.num_patches, side * 3)
    patches = patches.swapaxes(2, 3).reshape(len(codes), -1)  # (images * tokens, bytes)
    kinds = np.unique(patches.view(f"V{patches.shape[1]}").ravel(), return_inverse=True)[1]
    uses = pd.DataFrame({"code": codes, "kind": kinds}).value_counts().rename("uses").reset_index()
    main = uses.loc[uses.groupby("kind")["uses"].idxmax()].set_index("kind")["code"]  # of each kind of patch
    mostly = uses.loc[uses.groupby("code")["uses"].idxmax()]  # the kind that a code stands for most often
    alone = mostly["uses"] >= share * mostly["code"].map(uses.groupby("code")["uses"].sum())
    seldom = mostly["code"].to_numpy() != main[mostly["kind"]].to_numpy()
    retired = mostly.loc[alone & seldom, "code"].to_numpy()
    network.quantize.embedding.weight[torch.tensor(retired, dtype=torch.long)] = 0.0
    return len(retired)


def train_probe(probe: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Train a probe on an encoder's outputs."""

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = rng.integers(len(inputs), size=64)
        return inputs[rows], labels[rows]

    train(None, ReadingTask(probe), batch, PROBE_STEPS, 2e-3)


def corrupt(pixels: Tensor) -> Tensor:
    """Half of the images worse than they are, as drawn ones may be: blur, coarse pixels, patches off, colour, noise."""
    images = len(pixels)

    def amount(most: float) -> Tensor:
        return most * torch.rand(images, 1, 1, 1) ** 2

    worse = pixels.lerp(F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False), amount(1.0))
    worse = worse.lerp(F.interpolate(F.avg_pool2d(worse, 2), scale_factor=2, mode="bilinear"), amount(0.7))
    worse = worse + F.interpolate(torch.randn(images, 3, 8, 8), scale_factor=8) * amount(0.2)
    worse = worse * (1 + 0.1 * torch.randn(images, 3, 1, 1)) + 0.1 * torch.randn(images, 3, 1, 1)
    worse = worse + torch.randn_like(worse) * amount(0.2)
    return torch.where(torch.rand(images, 1, 1, 1) < 0.5, pixels, worse.clamp(-1, 1))


def train_reader() -> None:
    """The attribute reader -> pretrained/reader, on watches of the split "reader" and what the VQ makes of them."""
    torch.manual_seed(SEED)
    encoder = VQEncoder.load("pretrained/vq")
    watches = sample_watches(SEED, WATCHES, "reader")
    clean = torch.from_numpy(render_batch(watches, SIZE))
    drawn = torch.from_numpy(encoder.decode(encoder.encode(clean[:RECONSTRUCTED].numpy())))
    images, labels = torch.cat([clean, drawn]), labels_of(watches + watches[:RECONSTRUCTED])

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows = np.r_[rng.integers(WATCHES, size=32), rng.integers(WATCHES, len(images), size=32)]
        return images[rows], labels[rows]

    task = ReadingTask(AttributeReader(), prepare=lambda images: corrupt(to_float(images)))
    minutes = train("reader", task, batch, READER_STEPS, 3e-3)
    held_out, truth = held_out_watches()
    drawn = torch.from_numpy(encoder.decode(encoder.encode(held_out.numpy())))
    task.network.eval()
    ship("reader", task.network, {"width": task.network.width}, f"""
# Attribute reader of the laptop profile

`AttributeReader` (a small CNN) reads hour, minute, second, weather, battery and both corners from a watch of {SIZE} px.
It scores generated images and has seen no watch that any other network was trained or tested on.

Data: {WATCHES:,} watches of the split "reader"; half of each batch are VQ reconstructions of
{RECONSTRUCTED:,} of them, and half of all images are made worse (blur, coarse pixels, patches off, colour, noise);
{READER_STEPS:,} steps of 64.

Quality on held-out watches (split "test", seed {TEST_SEED}). The second pair of rows is the ceiling of what can be
read from images generated with `pretrained/vq`:

{TABLE_HEAD}
{read_table("watches", task.network, to_float(held_out), truth)}
{read_table("VQ reconstructions", task.network, to_float(drawn), truth)}
""", minutes)


class SiglipTask(nn.Module):
    """Sigmoid loss (Zhai et al. 2023) of images against captions that tell some attributes each.

    A caption is true of every image that has what it says, so the pairs' signs come from the attributes: several images
    of a batch may share a true caption, and no pair is a false negative. A caption's positives together weigh as much
    as its negatives: with every pair weighing the same, the network learned how often captions are true and nothing of
    images (every attribute at chance after 500 steps; balanced, battery and its corner stood at .9 after 160).
    """

    def __init__(self, network: SiglipModel):
        super().__init__()
        self.network = network
        nn.init.constant_(network.logit_scale, math.log(10))
        nn.init.zeros_(network.logit_bias)

    def forward(self, images: Tensor, ids: Tensor, true: Tensor, step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            seen = self.network.vision_model(to_float(images)).pooler_output  # (images, width)
            told = self.network.text_model(input_ids=ids).pooler_output  # (captions, width)
        likeness = F.normalize(told.float(), dim=1) @ F.normalize(seen.float(), dim=1).T
        logits = likeness * self.network.logit_scale.exp() + self.network.logit_bias
        losses = -F.logsigmoid(torch.where(true, logits, -logits))  # (captions, images)
        positives = (losses * true).sum(1) / true.sum(1)
        negatives = (losses * ~true).sum(1) / (~true).sum(1).clamp(min=1)
        return (positives + negatives).mean()


def caption_of(watch: Watch, phrases: Sequence[tuple[str, ...]]) -> str:
    """What SigLIP's captions say, e.g. `time 10:09:36, weather sunny, battery bottom right`."""
    shown = vars(watch) | {name: getattr(watch, attribute) // step for name, (attribute, step) in HANDS.items()}
    shown |= {name: SIDES[shown[name]] for name in HANDS if name.endswith("_side")}
    return ", ".join(PHRASES[names].format(*(shown[name] for name in names)) for names in phrases)


def caption_ids(captions: Sequence[str]) -> Tensor:
    """Token ids of captions, (captions, length), padded to SigLIP's text length as it was trained."""
    return _tokenizer()(list(captions), padding="max_length", truncation=True, return_tensors="pt",
                        max_length=SIGLIP.text_config.max_position_embeddings)["input_ids"]


@lru_cache(maxsize=1)
def _tokenizer():
    return AutoTokenizer.from_pretrained(resolve("pretrained/tokenizer"))


def near_duplicates(count: int, seed: int) -> list[Watch]:
    """`count` groups of `GROUP` watches of the split "train" that differ in one attribute (or in both corners)."""
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


def train_siglip() -> None:
    """The SigLIP -> pretrained/siglip, measured by a one-hidden-layer probe and by retrieval."""
    torch.manual_seed(SEED)
    watches = near_duplicates(WATCHES // GROUP * 2, SEED)
    images, labels = torch.from_numpy(render_batch(watches, SIZE)), labels_of(watches)
    columns = [labels[:, list(CLASSES).index(attribute)] // step for attribute, step in HANDS.values()]
    labels, names = torch.cat([labels, torch.stack(columns, 1)], 1), (*CLASSES, *HANDS)

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = (rng.integers(len(watches) // GROUP, size=(GROUPS, 1)) * GROUP + np.arange(GROUP)).flatten()
        # a third of the captions says one thing, so that each attribute alone is worth learning, a third the time alone
        # (without it everything else tells the images apart), a third several things, as captions do
        told = [[ALONE[rng.integers(len(ALONE))]] for _ in rows] + [[WHOLE[0]] for _ in rows]
        told += [[WHOLE[k] for k in np.sort(rng.permutation(len(WHOLE))[: rng.integers(2, 6)])] for _ in rows]
        ids = caption_ids([caption_of(watches[row], phrases) for row, phrases in zip([*rows] * 3, told, strict=True)])
        unsaid = torch.tensor([[all(name not in said for said in phrases) for name in names] for phrases in told])
        shown = labels[rows]  # (images, attributes)
        true = ((shown[None] == shown.repeat(3, 1)[:, None]) | unsaid[:, None]).all(2)  # (captions, images)
        return images[rows], ids, true

    task = SiglipTask(SiglipModel(SIGLIP))
    task.network.set_attn_implementation("eager")  # the fused kernel's bf16 gradient takes 40 % of a step on a CPU
    matrices = [parameter for name, parameter in task.named_parameters()
                if parameter.ndim == 2 and ".encoder.layers." in name]
    minutes = train("siglip", task, batch, SIGLIP_STEPS, 1e-3, matrices)
    network = task.network.requires_grad_(False)
    held_out, truth = held_out_watches()
    width, layers, tokens = SIGLIP.vision_config.hidden_size, SIGLIP.vision_config.num_hidden_layers, 64
    untrained = SiglipModel(SIGLIP).eval().requires_grad_(False)
    ship("siglip", network, {**SIGLIP.to_dict(), "architectures": ["SiglipModel"]}, f"""
# SigLIP of the laptop profile

`SiglipModel`, {SIZE} px in {tokens} patches, {layers} layers of width {width}, with a small text
side (tokens of `pretrained/tokenizer`) for retrieval. Pixels in [-1, 1]; the study uses the penultimate layer's
patch features.

Data: {len(watches):,} watches of the split "train" in groups of {GROUP} that differ in one attribute;
{SIGLIP_STEPS:,} steps of {GROUPS * GROUP} images and three times as many captions: a third says one attribute, a
third the time, a third several things. Sigmoid loss; a caption is a positive of every image of which it is true, and
its positives together weigh as much as its negatives.

Quality on held-out watches (split "test", seed {TEST_SEED}). Probes with one hidden layer on the patch features,
trained on {PROBED:,} watches, of this network and, as a control, of one with random weights; and what the most likely
caption says (`minute 37` among sixty), without any probe:

{TABLE_HEAD}
{probe_siglip("features", network, held_out, truth)}
{probe_siglip("random weights", untrained, held_out, truth)}
{read_table("captions", ZeroShot(network), to_float(held_out), truth)}

Retrieval of the right one of 250 held-out images (chance .004): {retrieval(network, WHOLE):.3f} by a full caption,
{retrieval(network, WHOLE[:1]):.3f} by the time alone.
""", minutes)


def probe_siglip(title: str, network: SiglipModel, held_out: Tensor, truth: Tensor) -> str:
    """Rows of the card's table: what a one-hidden-layer probe reads from penultimate-layer patch features."""
    encoder, watches = SiglipEncoder(network.vision_model, "siglip"), sample_watches(SEED, PROBED)
    known, features = (torch.from_numpy(encoder.encode(images))
                       for images in (render_batch(watches, SIZE), held_out.numpy()))  # (watches, tokens, width)
    probe = Probe(nn.LayerNorm(encoder.width, elementwise_affine=False), nn.Flatten(), nn.Dropout(0.2),
                  nn.Linear(encoder.tokens * encoder.width, 256), nn.GELU(), width=256)
    train_probe(probe, known, labels_of(watches))
    return read_table(title, probe, features, truth)


class ZeroShot(nn.Module):
    """Reads by captions alone: an image's likeness to `minute 37` is its logit of that minute."""

    def __init__(self, network: SiglipModel):
        super().__init__()
        self.network = network
        self.told = {name: network.text_model(input_ids=caption_ids(
            [PHRASES[(name,)].format(value) for value in values])).pooler_output for name, values in CLASSES.items()}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        seen = F.normalize(self.network.vision_model(pixels).pooler_output, dim=1)
        return {name: seen @ F.normalize(told, dim=1).T for name, told in self.told.items()}


@torch.no_grad()
def retrieval(network: SiglipModel, phrases: Sequence[tuple[str, ...]], count: int = 250) -> float:
    """Share of captions whose most likely image is the right one of `count` held-out images."""
    watches = sample_watches(TEST_SEED, count, "test")
    pixels = to_float(torch.from_numpy(render_batch(watches, SIZE)))
    ids = caption_ids([caption_of(watch, phrases) for watch in watches])
    found = network(input_ids=ids, pixel_values=pixels).logits_per_text.argmax(1)
    return (found == torch.arange(count)).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = {"tokenizer": build_tokenizer, "language_model": build_language_model,  # each may need those before it
                "vq": train_vq, "reader": train_reader, "siglip": train_siglip}
    parser.add_argument("network", choices=[*networks, "all"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, make in networks.items():
        if arguments.network in (name, "all"):
            make()


if __name__ == "__main__":
    main()
