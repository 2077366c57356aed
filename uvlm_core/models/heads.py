"""The kinds of generation heads: how image tokens are predicted, trained and decoded (paper section
3).

Belongs here: for each kind of output (`kinds.OUTPUTS`) the head's width, its loss and its decoding
step. Not here: the linear layer itself and its start, which are the model's (`unified.py`), and the
scores of what comes out (`scoring/`).
"""

import torch
from torch.nn import functional as F

from uvlm_core.models.kinds import kind_of_space


class CodeHead:
    """Codes of a codebook: logits, cross-entropy, greedy or sampled decoding."""

    @staticmethod
    def width(space: dict) -> int:
        """The number of the head's outputs."""
        return space["codes"]

    @staticmethod
    def loss(predicted: torch.Tensor, targets: torch.Tensor, feature_loss: str) -> torch.Tensor:
        """Mean loss of logits (slots, codes) against codes (slots,)."""
        return F.cross_entropy(predicted, targets)

    @staticmethod
    def choose(predicted: torch.Tensor, temperature: float, draws: torch.Tensor) -> torch.Tensor:
        """Next codes (rows,) out of logits (rows, codes); `draws` (rows,) are from [0, 1)."""
        return sample(predicted, temperature, draws)


class FeatureHead:
    """Continuous features: regression, decoded as they are predicted."""

    @staticmethod
    def width(space: dict) -> int:
        """The number of the head's outputs."""
        return space["width"]

    @staticmethod
    def loss(predicted: torch.Tensor, targets: torch.Tensor, feature_loss: str) -> torch.Tensor:
        """Mean loss of features against features, both (slots, width): 1 - cosine, or "mse"."""
        if feature_loss == "mse":
            return F.mse_loss(predicted, targets)
        return (1 - F.cosine_similarity(predicted, targets, dim=-1)).mean()

    @staticmethod
    def choose(predicted: torch.Tensor, temperature: float, draws: torch.Tensor) -> torch.Tensor:
        """Next features (rows, width): those that are predicted, as there is nothing to sample."""
        return predicted


HEADS = {"codes": CodeHead, "features": FeatureHead}


def head_of(space: dict) -> type[CodeHead] | type[FeatureHead]:
    """The head of a generation space as a model's configuration describes it."""
    return HEADS[kind_of_space(space).output]


def sample(logits: torch.Tensor, temperature: float, draws: torch.Tensor | None) -> torch.Tensor:
    """Choices (rows,) out of logits (rows, choices): greedy at temperature 0, else sampled.

    Sampling is an inverse transform of `draws` (rows,) from [0, 1), so that it does not depend on
    the batch.
    """
    if temperature == 0:
        return logits.argmax(-1)
    cumulated = F.softmax(logits / temperature, -1).cumsum(-1)  # (rows, choices)
    return (cumulated < draws[:, None] * cumulated[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
