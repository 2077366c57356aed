"""Alignment of the image spaces that a model reads and writes (paper section 4.1, figure 4).

Belongs here: similarities of two sets of vectors, and where in a model they are taken. Not here:
distortions that make two spaces disagree (`models/distortion.py`).

Vectors are paired by watch and position in the image: one from understanding the watch, one from
generating it. Each position's mean over the watches is subtracted first. The measures then compare
what differs between watches, not the learned position embeddings.
"""

import math

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from torch.nn import functional as F

from uvlm_core.data.conversations import Conversation
from uvlm_core.data.tokens import Processor, bucket_of
from uvlm_core.models.decoding import by_model
from uvlm_core.models.unified import UnifiedVLM

NEIGHBOURS = 10
TALKS_A_CALL = 16  # whose hidden states of all layers are held at once
GRID = 8  # side of the token grid that larger ones are averaged down to
NEIGHBOUR_PAIRS = 2000  # most pairs in the neighbour search
MEASURES = ("cka", "procrustes", "neighbours", "r2")


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Return the linear centred kernel alignment (Kornblith 2019), 0 to 1.

    Shapes: x (count, width), y (count, other width).
    """
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def procrustes_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of y's variance that the best rotation and scale of x leave, 0 (equal) to 1.

    Both are (count, width).
    """
    x, y = x - x.mean(0), y - y.mean(0)
    _, scale = orthogonal_procrustes(x / np.linalg.norm(x), y / np.linalg.norm(y))
    return float(max(0.0, 1 - scale**2))


def mutual_neighbours(x: np.ndarray, y: np.ndarray, count: int = NEIGHBOURS) -> float:
    """Return the share of `count` nearest neighbours that a vector and its pair have in common.

    From 0 to 1; unrelated sets score count / (vectors - 1).
    """
    from sklearn.neighbors import NearestNeighbors  # late, as it takes a second

    one, other = (
        NearestNeighbors(n_neighbors=count).fit(some).kneighbors(return_distance=False)
        for some in (x, y)
    )  # both (vectors, count)
    return float((one[:, :, None] == other[:, None, :]).any(2).mean())


def linear_r2(x: np.ndarray, y: np.ndarray, fitted: np.ndarray) -> float:
    """Return the held-out R2 of a linear map from x to y; negative if worse than the mean.

    `fitted` (count,) is True for the pairs that the map is fitted on.
    """
    from sklearn.linear_model import LinearRegression  # late, as it takes a second

    model = LinearRegression().fit(x[fitted], y[fitted])
    rest = y[~fitted]
    return float(
        1 - ((rest - model.predict(x[~fitted])) ** 2).sum() / ((rest - rest.mean(0)) ** 2).sum()
    )


@torch.inference_mode()
def representations(
    model: UnifiedVLM, processor: Processor, talks: list[Conversation], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the hidden states of image tokens at each place: (images, tokens, LM width).

    Of a stack, they are those of one model after another.

    Places: "adapter" (its output) and "layer 1", "layer 2", ... of the LM, the last one after the
    final norm. `talks` are conversations of one task, one per image of `images` (codes or features,
    in their order). In generation the images are the targets, teacher-forced as in training. Grids
    larger than `GRID` x `GRID` tokens are averaged down to it.
    """
    model.eval()
    generation = talks[0].task == "generation"
    slot = processor.image_out if generation else processor.image_in
    found: dict[str, list[torch.Tensor]] = {}
    rows = [processor.row(talk, number) for number, talk in enumerate(talks)]
    for start in range(0, len(rows), TALKS_A_CALL):
        some = rows[start : start + TALKS_A_CALL] * model.copies
        bucket = bucket_of(
            some, None if generation else images, images if generation else None, processor.pad
        )
        bucket = {name: tensor.to(model.device) for name, tensor in bucket.items()}
        embeds = model.embed(bucket["input_ids"], bucket.get("images_in"), bucket.get("images_out"))
        states = model.language_model.model(
            inputs_embeds=embeds,
            attention_mask=model.attention_mask(bucket["input_ids"]),
            use_cache=False,
            output_hidden_states=True,
        )
        chosen = bucket["input_ids"] == slot  # (rows, tokens), equally many in each row
        for layer, hidden in enumerate((embeds, *states.hidden_states[1:])):
            tokens = hidden[chosen].float().unflatten(0, (len(some), -1))
            tokens = torch.stack([_averaged(one, GRID) for one in tokens]).cpu()
            found.setdefault(f"layer {layer}" if layer else "adapter", []).append(tokens)
    # (models * images, tokens, LM width)
    return {name: by_model(tokens, model.copies).numpy() for name, tokens in found.items()}


def measure_alignment(
    understanding: dict[str, np.ndarray], generation: dict[str, np.ndarray]
) -> list[dict]:
    """Return score rows for how well two `representations` of the same watches agree at each place.

    alignment_cka         linear CKA, 0 to 1
    alignment_procrustes  share of variance that the best rotation and scale leave, 1 to 0
    alignment_neighbours  share of ten nearest neighbours in common, 0 to 1
    alignment_r2          R2 of a linear map from the understanding side to the generation side,
                          fitted on half of the watches and tested on the others

    If the sides differ in tokens per image, the larger grid is averaged down to the smaller.
    `samples` counts watches. Values are NaN for one watch, no variation or non-finite numbers.
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
    """Average one image's tokens (tokens, width) down to `side` x `side`, if there are more."""
    if len(tokens) <= side**2:
        return tokens
    grid = tokens.T.unflatten(1, (math.isqrt(len(tokens)), -1))  # (width, rows, columns)
    return F.adaptive_avg_pool2d(grid, side).flatten(1).T
