"""The heads: what is predicted, what it is held against, and what is decoded."""

import pytest
import torch
from torch import nn

from uvlm_core.models import heads
from uvlm_core.models.heads import (
    CodeHead,
    FeatureHead,
    FlowHead,
    FlowNetwork,
    ImageFlowHead,
    ImageFlowNetwork,
    SilentLinear,
    head_of,
)

SIGLIP = {"kind": "siglip", "tokens": 4, "width": 3, "codes": 0}
VQ = {"kind": "vq", "tokens": 4, "width": 3, "codes": 5}


def network(width: int = 8, features: int = 3) -> FlowNetwork:
    """A network of a flow head with a velocity other than zero."""
    torch.manual_seed(0)
    found = FlowNetwork(width, features)
    for part in found.modules():
        if isinstance(part, SilentLinear):
            nn.init.normal_(part.weight, std=0.3)
    return found


@pytest.mark.parametrize(
    ("space", "loss", "head"),
    [
        (VQ, "cosine", CodeHead),
        (VQ, "flow", CodeHead),  # a loss of features only
        (SIGLIP, "cosine", FeatureHead),
        (SIGLIP, "mse", FeatureHead),
        (SIGLIP, "flow", FlowHead),
        (SIGLIP, "image_flow", ImageFlowHead),
    ],
)
def test_a_space_and_a_loss_have_their_head(space, loss, head):
    assert head_of(space, loss) is head


def test_the_flow_loss_is_that_of_a_plain_reference():
    made = network()
    made.mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    made.scale.copy_(torch.tensor([2.0, 0.5, 1.0]))
    hidden, targets = torch.randn(4, 8), torch.randn(4, 3)
    noise = torch.randn(4, 2, 4)
    found = FlowHead.loss(*FlowHead.terms(made, hidden, targets, noise), "flow")
    errors = []
    for slot in range(4):
        wanted = (targets[slot] - made.mean) / made.scale
        for draw in noise[slot]:
            time = 1 / (1 + torch.exp(-draw[3]))
            point = time * wanted + (1 - time) * draw[:3]
            velocity = made(point[None], time.view(1, 1), hidden[slot : slot + 1])[0]
            errors.append((velocity - (wanted - draw[:3])) ** 2)
    assert found.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_the_loss_of_an_image_at_once_is_that_of_a_plain_reference():
    torch.manual_seed(0)
    made = ImageFlowNetwork(8, 3)
    nn.init.normal_(made.last.weight)
    made.mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    made.scale.copy_(torch.tensor([2.0, 0.5, 1.0]))
    features, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 1, 4)  # of two images
    points, times = ImageFlowHead.between(made, features, noise)
    hidden = torch.randn(8, 8)
    terms = ImageFlowHead.terms(made, hidden, features.flatten(0, 1), noise.flatten(0, 1))
    found, errors = ImageFlowHead.loss(*terms, "image_flow"), []
    for image in range(2):
        time = 1 / (1 + torch.exp(-noise[image, 0, 0, 3]))  # one for all tokens
        assert times[image].item() == pytest.approx(time.item())
        for token in range(4):
            wanted = (features[image, token] - made.mean) / made.scale
            start = noise[image, token, 0, :3]
            torch.testing.assert_close(points[image, token], time * wanted + (1 - time) * start)
            velocity = made.last.weight @ hidden[4 * image + token]
            errors.append((velocity - (wanted - start)) ** 2)
    assert found.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    as_they_are, times = ImageFlowHead.between(made, features, None)
    torch.testing.assert_close(as_they_are * made.scale + made.mean, features)
    assert (times == 1).all()


def test_an_untrained_flow_leaves_the_noise_and_gives_it_the_features_scale():
    made = FlowNetwork(8, 3)
    made.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    made.scale.copy_(torch.tensor([0.5, 1.0, 2.0]))
    draws = torch.tensor([[0.0, 1.0, -1.0], [9.0, 0.0, 0.0]])  # the second is held within bounds
    found = FlowHead.choose(made, torch.randn(2, 8), 0, draws)
    most = heads.FLOW_LIMIT
    assert torch.allclose(found, torch.tensor([[1.0, 3.0, 1.0], [1 + most / 2, 2.0, 3.0]]))


@torch.no_grad()
def test_a_sample_depends_on_its_own_noise_and_state_alone():
    made, hidden, draws = network(), torch.randn(5, 8), torch.randn(5, 3)
    together = FlowHead.choose(made, hidden, 0, draws)
    for row in range(5):
        one = FlowHead.choose(made, hidden[row : row + 1], 0, draws[row : row + 1])
        assert torch.allclose(one[0], together[row], atol=1e-5)
    assert not torch.allclose(FlowHead.choose(made, hidden, 0, draws + 1), together, atol=1e-2)


def learned(head, made: nn.Module, loss: str, steps: int = 600) -> nn.Module:
    """A head's network, trained on two values that are equally likely after the same state."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    hidden = torch.ones(128, 8)
    for _ in range(steps):
        targets = 2.0 * torch.randint(2, (128, 1), generator=generator) - 1  # -1 or 1
        noise = torch.randn(128, 2, 2, generator=generator)
        value = head.loss(*head.terms(made, hidden, targets, noise), loss)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return made


def test_a_flow_gives_either_of_two_values_and_regression_their_mean():
    generator = torch.Generator().manual_seed(2)
    space = SIGLIP | {"width": 1}
    draws = FlowHead.draws((1, 400), space, generator)[0]
    flow = learned(FlowHead, FlowNetwork(8, 1), "flow")
    with torch.no_grad():
        sampled = FlowHead.choose(flow, torch.ones(400, 8), 0, draws)[:, 0]
    assert ((sampled.abs() - 1).abs() < 0.3).float().mean() > 0.9
    assert 0.35 < (sampled > 0).float().mean() < 0.65
    plain = learned(FeatureHead, FeatureHead.build(8, space), "mse")
    assert abs(FeatureHead.choose(plain, torch.ones(1, 8), 0, draws[:1]).item()) < 0.2
