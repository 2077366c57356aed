"""A training in stages: which rows are seen when, and how often (no section of the paper).

Belongs here: `Stage`, the order of a stage's rows, and the learning rate over all stages. Not here:
the rows (`pool.py`), what a run is (`spec.py`), the steps and the Trainer (`loop.py`).

The paper trains in one stage of one epoch over all rows. With more stages, studies separate the
effects of the order of training, of more data and of more training.
"""

import math
from dataclasses import dataclass

import numpy as np

KINDS_OF_ROWS = ("understanding", "generation", "text")
MOST_EPOCHS = 10_000


@dataclass(frozen=True)
class Stage:
    """A part of a training: how many epochs of each kind of rows it has.

    Rows of different kinds are mixed evenly. ValueError for a number of epochs outside 0..10,000,
    and for a stage without any.
    """

    understanding: float = 0.0
    generation: float = 0.0
    text: float = 0.0  # rows without an image (`text_examples`)
    freeze: bool = False  # the language model keeps its weights; adapters and head learn

    def __post_init__(self):
        for kind in KINDS_OF_ROWS:
            epochs = getattr(self, kind)
            if type(epochs) not in (int, float) or not 0 <= epochs <= MOST_EPOCHS:
                raise ValueError(
                    f"stage {kind} {epochs!r} is not a number of epochs from 0 to {MOST_EPOCHS:,}."
                )
            object.__setattr__(self, kind, float(epochs))
        if type(self.freeze) is not bool:
            raise ValueError(f"stage freeze {self.freeze!r} is not True or False.")
        if not any(getattr(self, kind) for kind in KINDS_OF_ROWS):
            raise ValueError(
                f"A stage needs some epochs of {', '.join(KINDS_OF_ROWS)}; all of its are 0."
            )

    def seen(self, rows: dict[str, int]) -> dict[str, int]:
        """Return how many rows of each kind the stage shows, given how many there are."""
        return {kind: round(getattr(self, kind) * count) for kind, count in rows.items()}


def order_of_rows(count: int, wanted: int, passed: int, seed: int, kind: str) -> np.ndarray:
    """Return the positions of the next `wanted` rows out of `count`, (wanted,) int64.

    The first epoch has the rows' own order, which arms of one seed share. Every later one is
    shuffled by seed, kind and epoch.

    Args:
        passed: rows of this kind that earlier stages have shown.
    """
    epochs = range(passed // count, -(-(passed + wanted) // count)) if wanted else ()
    number = KINDS_OF_ROWS.index(kind)
    orders = [
        np.random.default_rng([seed, 5, number, epoch]).permutation(count)
        if epoch
        else np.arange(count)
        for epoch in epochs
    ]
    start = passed % count if count else 0
    return np.concatenate([np.zeros(0, np.int64), *orders])[start : start + wanted].astype(np.int64)


def rate_factor(step: int, steps: list[int], warmup: float) -> float:
    """Return the share of the learning rate at a step: each stage warms up and follows a cosine.

    Args:
        steps: the number of steps of each stage.
        warmup: the share of a stage's steps; less than one step is none.
    """
    for total in steps[:-1]:
        if step < total:
            break
        step -= total
    else:
        total = steps[-1]
    rising = warmup_steps(total, warmup)
    if step < rising:
        return step / max(1, rising)
    progress = (step - rising) / max(1, total - rising)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def warmup_steps(total: int, share: float) -> int:
    """Return the number of steps over which the learning rate rises."""
    return math.ceil(share * total) if share * total >= 1 else 0
