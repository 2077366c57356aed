"""How well the space that a model reads and the one that it writes agree (paper section 4.1, figure
4), measured.

Belongs here: similarities of two sets of vectors, and where in a model they are taken. Not here:
what makes two spaces disagree (`distortion.py`).

Vectors pair by watch and place in the image: what the model gets of a watch to understand, and of
the same watch when it is drawn. Each place's mean over the watches is taken off first, so that what
is compared is what tells watches apart, and not the learned embedding of the place.
"""

import math

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from uvlm_core.data.conversations import Conversation
from uvlm_core.data.tokens import Processor, collate
from uvlm_core.models.unified import UnifiedVLM

NEIGHBOURS = 10
GRID = 8  # places of an image along each side that are told apart
NEIGHBOUR_PAIRS = 2000  # pairs whose neighbours are looked for
MEASURES = ("cka", "procrustes", "neighbours", "r2")


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment (Kornblith 2019) of x (count, width) and y (count, other
    width): 0 to 1."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def procrustes_distance(x: np.ndarray, y: np.ndarray) -> float:
    """What the best rotation and scale leave of y, as a share of its variance: 0 (equal) to 1.
    Equal widths."""
    x, y = x - x.mean(0), y - y.mean(0)
    _, scale = orthogonal_procrustes(x / np.linalg.norm(x), y / np.linalg.norm(y))
    return float(max(0.0, 1 - scale**2))


def mutual_neighbours(x: np.ndarray, y: np.ndarray, count: int = NEIGHBOURS) -> float:
    """The share of the `count` nearest neighbours of a vector in x that are among those of its pair
    in y: 0 to 1.

    Unrelated sets have count / (vectors - 1).
    """
    found = [
        NearestNeighbors(n_neighbors=count).fit(some).kneighbors(return_distance=False)
        for some in (x, y)
    ]
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(*found, strict=True)]) / count)


def linear_r2(x: np.ndarray, y: np.ndarray, fitted: np.ndarray) -> float:
    """The share of the variance of y that a linear map of x explains where it was not fitted; below
    0 if it misleads.

    `fitted` (count,) says which pairs the map is fitted on.
    """
    model = LinearRegression().fit(x[fitted], y[fitted])
    rest = y[~fitted]
    return float(
        1 - ((rest - model.predict(x[~fitted])) ** 2).sum() / ((rest - rest.mean(0)) ** 2).sum()
    )


@torch.inference_mode()
def representations(
    model: UnifiedVLM, processor: Processor, talks: list[Conversation], images: np.ndarray
) -> dict[str, np.ndarray]:
    """What a model makes of each image token: per place in the model an array (images, tokens, LM
    width).

    Places: "adapter" (its output) and "layer 1", "layer 2", ... of the LM, the last after the norm
    that ends it. `talks` are conversations of one task, one per image of `images` (codes or
    features, in their order): in generation the images are those to draw, read as in training. Of
    larger grids than `GRID` x `GRID` tokens are averaged down to that.
    """
    model.eval()
    generation = talks[0].task == "generation"
    slot = processor.image_out if generation else processor.image_in
    found: dict[str, list[torch.Tensor]] = {}
    for number, talk in enumerate(talks):  # alone: rows that are batched change places
        row = processor.row(talk, number)
        (bucket,) = collate(
            [row], None if generation else images, images if generation else None, processor.pad
        )
        bucket = {name: tensor.to(model.device) for name, tensor in bucket.items()}
        embeds = model.embed(bucket["input_ids"], bucket.get("images_in"), bucket.get("images_out"))
        states = model.language_model.model(
            inputs_embeds=embeds, use_cache=False, output_hidden_states=True
        )
        chosen = bucket["input_ids"][0] == slot
        for layer, hidden in enumerate((embeds, *states.hidden_states[1:])):
            tokens = _averaged(hidden[0, chosen].float(), GRID).cpu()  # (tokens, LM width)
            found.setdefault(f"layer {layer}" if layer else "adapter", []).append(tokens)
    return {name: torch.stack(tokens).numpy() for name, tokens in found.items()}


def measure_alignment(
    understanding: dict[str, np.ndarray], generation: dict[str, np.ndarray]
) -> list[dict]:
    """Score rows of how well two sets of `representations` of the same watches agree, a place a
    row.

    alignment_cka         linear CKA, 0 to 1
    alignment_procrustes  what the best rotation and scale leave, 1 to 0
    alignment_neighbours  share of ten nearest neighbours in common, 0 to 1
    alignment_r2          of a linear map from the understanding side to the generation side, fitted on half of the
                          watches and tested on the others

    Images of different numbers of tokens are averaged down to the smaller grid. `samples` counts
    watches. What cannot be measured (one watch, no variation, numbers that are not finite) is NaN.
    """
    rows = []
    for place in understanding:
        sides = understanding[place], generation[place]
        side = min(math.isqrt(some.shape[1]) for some in sides)
        pair = [
            torch.stack([_averaged(image, side) for image in torch.from_numpy(some)]).numpy()
            for some in sides
        ]
        count, tokens = pair[0].shape[:2]
        x, y = (
            (some - some.mean(0)).reshape(count * tokens, -1).astype(np.float64) for some in pair
        )
        fitted = np.repeat(np.arange(count) < count / 2, tokens)
        chosen = np.random.default_rng(0).permutation(len(x))[:NEIGHBOUR_PAIRS]
        values = dict.fromkeys(MEASURES, float("nan"))
        if count > 1 and all(
            np.isfinite(some).all() and some[fitted].any() and some[~fitted].any()
            for some in (x, y)
        ):
            near = min(NEIGHBOURS, len(chosen) - 1)
            values = {
                "cka": linear_cka(x, y),
                "procrustes": procrustes_distance(x, y),
                "neighbours": mutual_neighbours(x[chosen], y[chosen], near),
                "r2": linear_r2(x, y, fitted),
            }
        rows += [
            {
                "metric": f"alignment_{name}",
                "attribute": place,
                "value": values[name],
                "samples": count,
            }
            for name in MEASURES
        ]
    return rows


def _averaged(tokens: torch.Tensor, side: int) -> torch.Tensor:
    """Tokens of one image (tokens, width), averaged down to a square grid of `side` if there are
    more."""
    if len(tokens) <= side**2:
        return tokens
    grid = tokens.T.unflatten(1, (math.isqrt(len(tokens)), -1))  # (width, rows, columns)
    return F.adaptive_avg_pool2d(grid, side).flatten(1).T
