"""The generation heads: how image tokens are predicted, trained and decoded (paper section 3).

Belongs here: the network, the loss and the decoding step of the head of each kind of output
(`kinds.OUTPUTS`). Not here: their initial weights (`unified.py`), scores of the generated images
(`scoring/`).

A head is a class of functions. Its network is a part of the model, `generation_head`.

    codes                             a linear layer gives logits
    features, latents                 a linear layer predicts the mean of the possible features
    the same with the loss "flow"     a small network turns noise into a sample of the possible
                                      features (flow matching, Lipman et al. 2023; applied to each
                                      token as in Li et al. 2024)
    with the loss "image_flow"        the language model itself does so, for all tokens of an image
                                      at once, which see each other (as in Zhou et al. 2024)
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from uvlm_core.models.kinds import kind_of_space

FLOW_DRAWS = 2  # noises for each token and step of training
FLOW_STEPS = 20  # from noise to features, in decoding
FLOW_LIMIT = 4.0  # standard deviations that decoded features are held within
FLOW_BLOCKS = 3
TIME_WAVES = 32  # sines, and as many cosines, that tell a time


class CodeHead:
    """The head for codes: logits, cross-entropy, greedy or sampled decoding."""

    at_once = False  # whether all tokens of an image are decoded together
    noises = 0  # of each token and step of training

    @staticmethod
    def build(width: int, space: dict) -> nn.Module:
        """Return the network, from hidden states of this width."""
        return nn.Linear(width, space["codes"])

    @staticmethod
    def terms(network: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, noise: None):
        """Return logits (slots, codes) and the codes (slots,) that `loss` holds them against."""
        return network(hidden), targets

    @staticmethod
    def loss(predicted: torch.Tensor, targets: torch.Tensor, feature_loss: str) -> torch.Tensor:
        """Return the mean cross-entropy of logits (slots, codes) against codes (slots,)."""
        return F.cross_entropy(predicted, targets)

    @staticmethod
    def draws(shape: tuple[int, int], space: dict, generator: torch.Generator) -> torch.Tensor:
        """Draw what `choose` takes for images and tokens (shape): uniform in [0, 1)."""
        return torch.rand(*shape, generator=generator)

    @staticmethod
    def choose(
        network: nn.Module, hidden: torch.Tensor, temperature: float, draws: torch.Tensor
    ) -> torch.Tensor:
        """Choose codes (rows,) after hidden states (rows, LM width)."""
        return sample(network(hidden), temperature, draws)


class FeatureHead:
    """The head for continuous features: regression, decoded as predicted."""

    at_once, noises = False, 0

    @staticmethod
    def build(width: int, space: dict) -> nn.Module:
        """Return the network, from hidden states of this width."""
        return nn.Linear(width, space["width"])

    @staticmethod
    def terms(network: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, noise: None):
        """Return predicted and true features, both (slots, width)."""
        return network(hidden), targets

    @staticmethod
    def loss(predicted: torch.Tensor, targets: torch.Tensor, feature_loss: str) -> torch.Tensor:
        """Return the mean loss of features, both (slots, width): 1 - cosine, or "mse"."""
        if feature_loss == "mse":
            return F.mse_loss(predicted, targets)
        return (1 - F.cosine_similarity(predicted, targets, dim=-1)).mean()

    @staticmethod
    def draws(shape: tuple[int, int], space: dict, generator: torch.Generator) -> torch.Tensor:
        """Return zeros of a shape: there is nothing to draw."""
        return torch.zeros(shape)

    @staticmethod
    def choose(
        network: nn.Module, hidden: torch.Tensor, temperature: float, draws: torch.Tensor
    ) -> torch.Tensor:
        """Return the features (rows, width) predicted from hidden states (rows, LM width)."""
        return network(hidden)


class FlowHead:
    """The head for continuous features that samples: flow matching for each token.

    Features stand at time 1, standard normal noise at time 0, and their weighted means between. The
    network learns the velocity from one to the other: features - noise.
    """

    at_once, noises = False, FLOW_DRAWS

    @staticmethod
    def build(width: int, space: dict) -> nn.Module:
        """Return the network, from hidden states of this width."""
        return FlowNetwork(width, space["width"])

    @staticmethod
    def terms(network: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor):
        """Return predicted and true velocities, both (slots, draws, width).

        `noise` (slots, draws, width + 1) is standard normal; its last value tells the time, as the
        logit.
        """
        targets = ((targets - network.mean) / network.scale)[:, None]  # (slots, 1, width)
        noise, times = noise[..., :-1], torch.sigmoid(noise[..., -1:])
        between = times * targets + (1 - times) * noise  # (slots, draws, width)
        return network(between, times, hidden[:, None]), targets - noise

    @staticmethod
    def loss(predicted: torch.Tensor, targets: torch.Tensor, feature_loss: str) -> torch.Tensor:
        """Return the mean squared error of velocities."""
        return F.mse_loss(predicted, targets)

    @staticmethod
    def draws(shape: tuple[int, int], space: dict, generator: torch.Generator) -> torch.Tensor:
        """Draw noise for images and tokens (shape): (images, tokens, width)."""
        return torch.randn(*shape, space["width"], generator=generator)

    @staticmethod
    def choose(
        network: nn.Module, hidden: torch.Tensor, temperature: float, draws: torch.Tensor
    ) -> torch.Tensor:
        """Sample features (rows, width) after hidden states (rows, LM width), by Euler's method.

        They depend on the noise `draws` (rows, width) alone; a temperature has no meaning here.
        """
        features = draws.to(hidden.dtype)
        for step in range(FLOW_STEPS):
            times = torch.full_like(features[:, :1], step / FLOW_STEPS)
            features = features + network(features, times, hidden) / FLOW_STEPS
        return unscaled(network, features)


class ImageFlowHead:
    """The head for continuous features that samples an image at once: flow matching by the LM.

    As in `FlowHead`, features stand at time 1 and noise at time 0. Here the LM reads a point
    between, the same time for all tokens of an image, and its states give the velocities.
    """

    at_once, noises = True, 1

    @staticmethod
    def build(width: int, space: dict) -> nn.Module:
        """Return the network, from hidden states of this width."""
        return ImageFlowNetwork(width, space["width"])

    @staticmethod
    def between(
        network: nn.Module, features: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the LM reads of features (images, tokens, width), and the times.

        These are points of the same shape, and times (images, 1, 1). `noise` (images, tokens, 1,
        width + 1) is standard normal; the last value of an image's first token tells the time, as
        the logit. Without noise, the time is 1: the features as they are.
        """
        features = (features - network.mean) / network.scale
        if noise is None:
            return features, torch.ones_like(features[:, :1, :1])
        times = torch.sigmoid(noise[:, :1, 0, -1:])
        return times * features + (1 - times) * noise[:, :, 0, :-1], times

    @staticmethod
    def terms(network: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor):
        """Return predicted and true velocities, both (slots, width), with noise as above."""
        return network(hidden), (targets - network.mean) / network.scale - noise[:, 0, :-1]

    loss, draws = FlowHead.loss, FlowHead.draws


def unscaled(network: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Return a flow's last points, held within bounds, at the scale of the features."""
    return features.clamp(-FLOW_LIMIT, FLOW_LIMIT) * network.scale + network.mean


class ImageFlowNetwork(nn.Module):
    """The velocities from the LM's states, and what tells it the time; both start at zero."""

    def __init__(self, width: int, features: int):
        super().__init__()
        self.time = nn.Sequential(
            nn.Linear(2 * TIME_WAVES, width), nn.SiLU(), SilentLinear(width, width)
        )
        self.last = SilentLinear(width, features)
        # of the features, by dimension
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map states (..., LM width) to velocities (..., features)."""
        return self.last(hidden)

    def tell(self, times: torch.Tensor) -> torch.Tensor:
        """Map times (..., 1) to what is added to the LM's inputs (..., LM width)."""
        return self.time(waves(times))


def waves(times: torch.Tensor) -> torch.Tensor:
    """Map times (..., 1), from 0 to 1, to sines and cosines (..., 2 * `TIME_WAVES`)."""
    steps = torch.arange(TIME_WAVES, device=times.device) / TIME_WAVES
    angles = times * 1000 * torch.exp(-math.log(10_000) * steps)  # (..., TIME_WAVES)
    return torch.cat([angles.sin(), angles.cos()], -1)


class FlowNetwork(nn.Module):
    """The velocity at a point between noise and features, given the LM's hidden state.

    Residual blocks, each modulated by time and state (adaptive layer norm). It is as wide as the
    LM, and starts with a velocity of zero.
    """

    def __init__(self, width: int, features: int):
        super().__init__()
        self.point, self.state = nn.Linear(features, width), nn.Linear(width, width)
        self.time = nn.Sequential(
            nn.Linear(2 * TIME_WAVES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(FLOW_BLOCKS))
        self.last = SilentLinear(width, features)
        # of the features, by dimension
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(
        self, points: torch.Tensor, times: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Map points (..., features), times (..., 1), states (..., LM width) to velocities."""
        told = self.time(waves(times))  # (..., LM width)
        told = F.silu(told + self.state(hidden))
        values = self.point(points)
        for block in self.blocks:
            values = block(values, told)
        return self.last(F.layer_norm(values, values.shape[-1:]))


class FlowBlock(nn.Module):
    """A residual block of `FlowNetwork`; it starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.modulate = SilentLinear(width, 3 * width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Change values (..., width) by what is told of time and state (..., width)."""
        shift, scale, gate = self.modulate(told).chunk(3, -1)
        inner = F.layer_norm(values, values.shape[-1:]) * (1 + scale) + shift
        return values + gate * self.body(inner)


class SilentLinear(nn.Linear):
    """A linear layer that starts at zero."""

    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


# of the kinds of output, unless `feature_loss` asks to sample what is continuous
HEADS = {"codes": CodeHead, "features": FeatureHead, "latents": FeatureHead}
SAMPLERS = {"flow": FlowHead, "image_flow": ImageFlowHead}  # by `feature_loss`


def head_of(space: dict, feature_loss: str) -> type:
    """Return the head of a generation space, given as in a model's configuration."""
    head = HEADS[kind_of_space(space).output]
    return SAMPLERS.get(feature_loss, head) if head is FeatureHead else head


def sample(logits: torch.Tensor, temperature: float, draws: torch.Tensor | None) -> torch.Tensor:
    """Choose from logits (rows, choices): greedy at temperature 0, else sampled.

    Sampling is the inverse transform of `draws` (rows,), uniform in [0, 1), so that choices (rows,)
    do not depend on the batch.
    """
    if temperature == 0:
        return logits.argmax(-1)
    cumulated = F.softmax(logits / temperature, -1).cumsum(-1)  # (rows, choices)
    return (cumulated < draws[:, None] * cumulated[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
