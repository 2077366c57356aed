"""The generation heads: how image tokens are predicted, trained and decoded (paper section 3).

Belongs here: the width, the loss and the decoding step of the head of each output kind
(`kinds.OUTPUTS`). Not here: the linear layer and its initial weights (`unified.py`), scores of the
generated images (`scoring/`).
"""

import torch
from torch.nn import functional as F

from uvlm_core.models.kinds import kind_of_space


class CodeHead:
    """The head for codes: logits, cross-entropy, greedy or sampled decoding."""

    @staticmethod
    def width(space: dict) -> int:
        """Return the number of outputs."""
        return space["codes"]

    @staticmethod
    def loss(predicted: torch.Tensor, targets: torch.Tensor, feature_loss: str) -> torch.Tensor:
        """Return the mean cross-entropy of logits (slots, codes) against codes (slots,)."""
        return F.cross_entropy(predicted, targets)

    @staticmethod
    def choose(predicted: torch.Tensor, temperature: float, draws: torch.Tensor) -> torch.Tensor:
        """Choose codes (rows,) from logits (rows, codes); `draws` (rows,) are uniform in [0, 1)."""
        return sample(predicted, temperature, draws)


class FeatureHead:
    """The head for continuous features: regression, decoded as predicted."""

    @staticmethod
    def width(space: dict) -> int:
        """Return the number of outputs."""
        return space["width"]

    @staticmethod
    def loss(predicted: torch.Tensor, targets: torch.Tensor, feature_loss: str) -> torch.Tensor:
        """Return the mean loss of features, both (slots, width): 1 - cosine, or "mse"."""
        if feature_loss == "mse":
            return F.mse_loss(predicted, targets)
        return (1 - F.cosine_similarity(predicted, targets, dim=-1)).mean()

    @staticmethod
    def choose(predicted: torch.Tensor, temperature: float, draws: torch.Tensor) -> torch.Tensor:
        """Return the predicted features (rows, width) as they are: there is nothing to sample."""
        return predicted


HEADS = {"codes": CodeHead, "features": FeatureHead}


def head_of(space: dict) -> type[CodeHead] | type[FeatureHead]:
    """Return the head of a generation space, given as in a model's configuration."""
    return HEADS[kind_of_space(space).output]


def sample(logits: torch.Tensor, temperature: float, draws: torch.Tensor | None) -> torch.Tensor:
    """Choose from logits (rows, choices): greedy at temperature 0, else sampled.

    Sampling is the inverse transform of `draws` (rows,), uniform in [0, 1), so that choices (rows,)
    do not depend on the batch.
    """
    if temperature == 0:
        return logits.argmax(-1)
    cumulated = F.softmax(logits / temperature, -1).cumsum(-1)  # (rows, choices)
    return (cumulated < draws[:, None] * cumulated[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
