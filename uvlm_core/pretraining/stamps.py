"""How the frozen networks of Tux Paint's stamps were made, `pretrained/stamps_*` (paper section 3).

Belongs here: their data (augmented stamps of the side "train"), measures and model cards. Not here:
losses and shapes (`vq.py`, `siglip.py`), the training loop (`common.py`), the stamps
(`data/stamps.py`).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import SiglipConfig, SiglipModel
from transformers.models.janus.modeling_janus import JanusVQVAE

from uvlm_core.data.conversations import Conversation
from uvlm_core.data.pictures import fingerprint, open_picture, read_pictures, split_of
from uvlm_core.data.stamps import PACKAGE
from uvlm_core.models.encoders import SiglipEncoder, VQEncoder
from uvlm_core.models.weights import load_into
from uvlm_core.places import resolve
from uvlm_core.pretraining.common import (
    CONTRAST_WEIGHT,
    SEED,
    SIZE,
    pixel_error,
    ship,
    to_float,
    train,
)
from uvlm_core.pretraining.siglip import (
    REDRAWING,
    SIGLIP,
    caption_ids,
    fit_siglip,
)
from uvlm_core.pretraining.vq import VQ, VQ_BATCH, VQTask, retire_duplicates

# px: stamps are kept larger than 64 px, so that enlarged views stay sharp
OPENED = 2 * SIZE
SCALES = (0.6, 1.2)  # smallest and largest scale of a view
# fingerprint of the training stamps -> version of Debian's package
VERSIONS = {"1a260b157296816d": "2022.06.04-1"}
STAMPS_VQ_STEPS = 2000
# `share` of `retire_duplicates`; at .9, white keeps twice as many codes
DOUBLES = 0.7
VIEWS = 4_000  # of training stamps, to retire codes
LENGTH = 48  # tokens of a caption; 98 % of the captions fit
STAMPS_SIGLIP = SiglipConfig(
    text_config=SIGLIP.text_config.to_dict() | {"max_position_embeddings": LENGTH},
    vision_config=SIGLIP.vision_config.to_dict(),
)
STAMPS_SIGLIP_STEPS = 600
SIGLIP_BATCH = 64


def read_side(side: str, size: int) -> tuple[list[Conversation], np.ndarray]:
    """Read one side's captioned stamps and their pictures, uint8 (stamps, size, size, 3)."""
    folder = resolve("cache/stamps")
    rows = [
        row for row in read_pictures(folder, folder, quiet=True) if split_of(caption(row)) == side
    ]
    return rows, np.stack([open_picture(Path(folder, row.image), size) for row in rows])


def caption(row: Conversation) -> str:
    """Return the caption of a row."""
    return row.turns[0].gpt


def views(pictures: np.ndarray, rng: np.random.Generator, mirror: bool = True) -> Tensor:
    """Augment pictures (pictures, side, side, 3) to views, uint8 (pictures, 64, 64, 3).

    Each picture is scaled and placed at random on white, cropped at the edges. With `mirror`, half
    of them are mirrored. Captions may then become false: a mirrored b is a d.
    """
    drawn = []
    for picture in pictures:
        side = round(SIZE * rng.uniform(*SCALES))
        x, y = rng.integers(min(0, SIZE - side), max(0, SIZE - side) + 1, size=2).tolist()
        if mirror and rng.random() < 0.5:
            picture = picture[:, ::-1]
        view = Image.new("RGB", (SIZE, SIZE), "white")
        view.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x, y))
        drawn.append(np.array(view))
    return torch.from_numpy(np.stack(drawn))


def some_views(pictures: np.ndarray) -> np.ndarray:
    """Draw a fixed set of `VIEWS` views of the pictures, uint8 (views, 64, 64, 3)."""
    rng = np.random.default_rng(SEED)
    return views(pictures[rng.integers(len(pictures), size=VIEWS)], rng).numpy()


def source(rows: Sequence[Conversation]) -> str:
    """Return the card's sentence on the source of the pictures."""
    mark = fingerprint(rows, resolve("cache/stamps"))[:16]
    return (
        f"Pictures: Tux Paint's stamps (GPL-2) of Debian's package {PACKAGE}, version "
        f"{VERSIONS.get(mark, 'unknown')} (fingerprint of the training side {mark}), {SIZE} "
        "px; they are not part of this project."
    )


def train_stamps_vq() -> None:
    """Train `pretrained/stamps_vq` from `pretrained/vq`; its card compares the two."""
    torch.manual_seed(SEED)
    rows, pictures = read_side("train", OPENED)
    watches = VQEncoder.load("pretrained/vq")
    task = VQTask(
        load_into(JanusVQVAE(VQ), resolve("pretrained/vq")).requires_grad_(True), STAMPS_VQ_STEPS
    )
    minutes = train(
        "stamps_vq",
        task,
        lambda rng: (views(pictures[rng.integers(len(rows), size=VQ_BATCH)], rng),),
        STAMPS_VQ_STEPS,
        1e-3,
    )
    again = some_views(pictures)
    # twice, because the patches of a retired code move to other codes
    retired = sum(retire_duplicates(task.network, again, DOUBLES) for _ in range(2))
    encoder = VQEncoder(task.network, "stamps_vq")
    (_, known), (_, held_out) = (read_side(side, SIZE) for side in ("train", "test"))
    codes = encoder.encode(known)
    ours = [
        pixel_error(encoder.decode(encoder.encode(images)), images) for images in (held_out, known)
    ]
    theirs = pixel_error(watches.decode(watches.encode(held_out)), held_out)
    ship(
        "stamps_vq",
        task.network,
        {**VQ.to_diff_dict(), "architectures": ["JanusVQVAE"]},
        f"""
# VQ tokenizer of captioned pictures

`JanusVQVAE` of the shape of `pretrained/vq` and trained further from it: \
{SIZE} px to 8 x 8 codes out of
{VQ.num_embeddings}, a codebook of its own. \
Pixels in [-1, 1]; the nearest code is the one of largest cosine.

Data: {len(rows)} stamps of the side "train" (`pictures.split_of` of the caption), \
each time mirrored or not, at
{SCALES[0]:.0%} to {SCALES[1]:.0%} of the size and elsewhere on white; \
{STAMPS_VQ_STEPS:,} steps of {VQ_BATCH}. L1 + L2 on pixels,
weighted by 1 + {CONTRAST_WEIGHT:.0f} x local contrast; straight-through gradient; \
the codes are running means.
Afterwards {retired} codes were set to zero, \
which stood mostly for a patch (white, most of all) that another code stood
for more often.

Quality: mean absolute pixel error {ours[0]:.4f} of 1 \
on the {len(held_out)} held-out stamps (side "test"),
{ours[1]:.4f} on the training stamps as they are. On the same held-out stamps `pretrained/vq`, \
which knows watches only,
has {theirs:.4f}, and a white image {pixel_error(np.full_like(held_out, 255), held_out):.4f}. \
The training stamps use
{len(np.unique(codes))} of {VQ.num_embeddings} codes, \
the held-out ones {len(np.unique(encoder.encode(held_out)))}.
""",
        minutes,
        source(rows),
    )


def train_stamps_siglip() -> None:
    """Train `pretrained/stamps_siglip`; its card reports retrieval and probes of stamp folders."""
    torch.manual_seed(SEED)
    rows, pictures = read_side("train", OPENED)
    captions = [caption(row) for row in rows]
    ids, number = (
        caption_ids(captions, LENGTH),
        torch.tensor([captions.index(text) for text in captions]),
    )

    def batch(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = rng.integers(len(rows), size=SIGLIP_BATCH)
        same = number[chosen][:, None] == number[chosen]  # (captions, images)
        return views(pictures[chosen], rng, mirror=False), ids[chosen], same

    network = SiglipModel(STAMPS_SIGLIP)
    minutes = fit_siglip("stamps_siglip", network, batch, STAMPS_SIGLIP_STEPS)
    (_, known), (unseen, held_out) = (read_side(side, SIZE) for side in ("train", "test"))
    untrained = SiglipModel(STAMPS_SIGLIP).vision_model
    kinds = [[row.image.split("/")[0] for row in side] for side in (rows, unseen)]
    common = max(set(kinds[0]), key=kinds[0].count)
    ship(
        "stamps_siglip",
        network,
        {**STAMPS_SIGLIP.to_dict(), "architectures": ["SiglipModel"]},
        f"""
# SigLIP of captioned pictures

`SiglipModel` of the shape of `pretrained/siglip`, from random weights: {SIZE} px in 64 patches. \
Its text side takes
{LENGTH} tokens of `pretrained/tokenizer`. \
Pixels in [-1, 1]; the study uses the penultimate layer's patch features.

Data: {len(rows)} stamps of the side "train" (`pictures.split_of` of the caption), \
each time at {SCALES[0]:.0%} to
{SCALES[1]:.0%} of the size and elsewhere on white; \
{STAMPS_SIGLIP_STEPS:,} steps of {SIGLIP_BATCH} pictures and their
captions. Sigmoid loss; stamps of one caption are its positives, \
which together weigh as much as its negatives.
Besides, a linear map must give back each patch's pixels \
from the penultimate layer (weight {REDRAWING:.0f}; the map is
not shipped).

Retrieval: the share of captions with a picture of theirs \
among the likeliest of a side's pictures, and chance.

| side | pictures | captions | first | chance | among five | chance |
| --- | --- | --- | --- | --- | --- | --- |
{retrieval("train", network, rows, known)}
{retrieval("test", network, unseen, held_out)}

A few hundred stamps teach no language: what the held-out side says is the honest number. \
What features keep of the
kind of thing (a stamp's folder, {len(set(kinds[0]))} of them), read from the mean over patches \
with the training
stamps: share right of {len(held_out)} held-out stamps, where always saying "{common}" has
{kinds[1].count(common) / len(unseen):.3f}.

| features | nearest neighbour | linear map |
| --- | --- | --- |
{tell_kinds("this network", SiglipEncoder(network.vision_model, ""), known, held_out, kinds)}
{tell_kinds("its shape with random weights", SiglipEncoder(untrained, ""), known, held_out, kinds)}
"""
        f"""{
            tell_kinds(
                "`pretrained/siglip` (watches)",
                SiglipEncoder.load("pretrained/siglip"),
                known,
                held_out,
                kinds,
            )
        }
""",
        minutes,
        source(rows),
    )


@torch.no_grad()
def retrieval(
    side: str, network: SiglipModel, rows: Sequence[Conversation], pictures: np.ndarray
) -> str:
    """Return a row of the card's table: recall at 1 and 5 of pictures by caption, with chance."""
    captions = sorted({caption(row) for row in rows})
    # (captions, pictures)
    true = torch.tensor([[text == caption(row) for row in rows] for text in captions])
    likeness = network(
        input_ids=caption_ids(captions, LENGTH), pixel_values=to_float(torch.from_numpy(pictures))
    ).logits_per_text
    cells = []
    for first in (1, 5):
        first = min(first, len(rows))
        found = true.gather(1, likeness.topk(first).indices).any(1).float().mean().item()
        missed = [
            math.comb(len(rows) - own, first) / math.comb(len(rows), first)
            for own in true.sum(1).tolist()
        ]
        cells += [f"{found:.3f}", f"{1 - np.mean(missed):.3f}"]
    return f"| {side} | {len(rows)} | {len(captions)} | {' | '.join(cells)} |"


def tell_kinds(
    title: str,
    encoder: SiglipEncoder,
    known: np.ndarray,
    held_out: np.ndarray,
    kinds: Sequence[Sequence[str]],
) -> str:
    """Return a row of the card's table: accuracy of held-out kinds, predicted from mean features.

    The classifiers are fitted on the features of `known`; `kinds` are those of both sets.
    """
    # (images, width)
    seen, unseen = (encoder.encode(images).mean(1) for images in (known, held_out))
    scores = []
    for reader in (
        KNeighborsClassifier(1, metric="cosine"),
        LogisticRegression(C=0.1, max_iter=2000),
    ):
        reader = make_pipeline(StandardScaler(), reader).fit(seen, kinds[0])
        scores.append(f"{reader.score(unseen, kinds[1]):.3f}")
    return f"| {title} | {' | '.join(scores)} |"
