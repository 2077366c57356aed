"""Muon: orthogonal updates of matrices, AdamW for the rest, a state that goes on where it
stopped."""

import copy

import pytest
import torch

from uvlm_core.training.muon import Muon, orthogonalise


def parameters(seed: int, *shapes) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def give_gradients(some, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in some:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def group(some, **values) -> dict:
    return {"params": some, "lr": 0.1, "weight_decay": 0.0} | values


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16), (3, 64)])
def test_orthogonal_matrices_have_singular_values_near_one_and_the_same_directions(shape):
    matrices = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)) * 37
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalise(matrices)
    # five steps do not lift what is nearly zero
    strong = values > 0.05 * values.amax(1, keepdim=True)
    singular = torch.einsum("nir,nij,nrj->nr", u, found, v)
    assert strong.float().mean() > 0.8
    assert ((singular[strong] > 0.6) & (singular[strong] < 1.3)).all()
    rotated = u.transpose(1, 2) @ found @ v.transpose(1, 2)
    off = rotated - torch.diag_embed(torch.diagonal(rotated, dim1=1, dim2=2))
    assert off.abs().max() < 1e-3  # the singular vectors stay


def test_a_zero_matrix_stays_zero_and_finite():
    assert torch.equal(orthogonalise(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


@pytest.mark.parametrize("shape", [(24, 24), (24, 48), (64, 16)])
def test_the_update_is_that_of_torchs_own_muon_but_for_its_rounding(shape):
    (ours,), (theirs,) = parameters(1, shape), parameters(1, shape)
    start = ours.detach().clone()
    mine = Muon([group([ours], orthogonal=True, weight_decay=0.1)])
    torchs = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.95, nesterov=True)
    for step in range(3):
        give_gradients([ours], step)
        give_gradients([theirs], step)
        mine.step()
        torchs.step()
    moved, wanted = (ours - start).flatten(), (theirs - start).flatten()
    assert torch.cosine_similarity(moved, wanted, dim=0) > 0.995
    assert abs(moved.norm() / wanted.norm() - 1) < 0.05


def test_matrices_of_one_shape_go_together_as_they_go_alone():
    shapes = [(12, 20), (20, 12), (12, 20), (12, 20), (8, 8)]
    together, alone = parameters(2, *shapes), parameters(2, *shapes)
    one = Muon([group(together, orthogonal=True)])
    many = [Muon([group([parameter], orthogonal=True)]) for parameter in alone]
    for step in range(3):
        give_gradients(together, step)
        give_gradients(alone, step)
        one.step()
        for optimizer in many:
            optimizer.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_other_groups_are_adamws():
    ours, theirs = parameters(3, (6, 4), (5,)), parameters(3, (6, 4), (5,))
    mine = Muon(
        [group(parameters(4, (8, 8)), orthogonal=True), group(ours, lr=0.01, weight_decay=0.1)]
    )
    plain = torch.optim.AdamW([group(theirs, lr=0.01, weight_decay=0.1)], betas=(0.9, 0.95))
    for step in range(4):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        mine.step()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_weight_decay_alone_shrinks_a_matrix():
    (matrix,) = parameters(5, (4, 4))
    start = matrix.detach().clone()
    matrix.grad = torch.zeros_like(matrix)
    Muon([group([matrix], orthogonal=True, weight_decay=0.5)]).step()
    torch.testing.assert_close(matrix.detach(), start * (1 - 0.1 * 0.5))


def test_parameters_without_a_gradient_are_left_alone():
    some = parameters(6, (4, 4), (4, 4), (3,))
    before = [p.detach().clone() for p in some]
    optimizer = Muon([group(some[:2], orthogonal=True), group(some[2:])])
    give_gradients(some[:1], 0)
    optimizer.step()
    assert [torch.equal(p, b) for p, b in zip(some, before, strict=True)] == [False, True, True]


def test_a_loaded_state_goes_on_exactly_where_it_stopped():
    shapes = [(8, 8), (8, 16), (5,)]

    def optimizer_of(some):
        return Muon([group(some[:2], orthogonal=True), group(some[2:], lr=0.01)])

    ours, stopped = parameters(7, *shapes), parameters(7, *shapes)
    through, first = optimizer_of(ours), optimizer_of(stopped)
    for step in range(5):
        give_gradients(ours, step)
        through.step()
    for step in range(2):
        give_gradients(stopped, step)
        first.step()
    state = copy.deepcopy(first.state_dict())
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in stopped]
    second = optimizer_of(resumed)
    second.load_state_dict(state)
    for step in range(2, 5):
        give_gradients(resumed, step)
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, resumed, strict=True))
