"""The optimiser: against Adam where curvature differs much, and its state."""

import pytest
import torch

from deepmd_lite.training.soap import LARGEST_SIDE, Soap


def problem(seed=0):
    """Least squares of X W for inputs X whose directions differ by factors up to 300."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -2.5, 24, dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64)).Q
    inputs = torch.randn(200, 24, generator=generator, dtype=torch.float64) * scales @ turned
    wanted = inputs @ torch.randn(24, 6, generator=generator, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.zeros(24, 6, dtype=torch.float64))
    return inputs, wanted, weight


def minimise(make, steps=400):
    inputs, wanted, weight = problem()
    optimizer = make([weight])
    for k in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.01 ** (k / steps)
        loss = ((inputs @ weight - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ((inputs @ weight - wanted) ** 2).mean().item()


def test_turned_basis_beats_adam_on_an_ill_conditioned_problem():
    adam = minimise(lambda p: torch.optim.Adam(p, lr=0.05))
    soap = minimise(lambda p: Soap(p, lr=0.05))
    assert soap < 0.2 * adam


def test_without_a_side_it_is_adam():
    """Sides beyond the largest are left alone; what is left is Adam, one step later."""
    torch.manual_seed(0)
    a = torch.nn.Parameter(torch.randn(5, 4, dtype=torch.float64))
    b = torch.nn.Parameter(a.detach().clone())
    soap = Soap([a], lr=0.01, betas=(0.9, 0.99), largest_side=1)
    gradients = torch.randn(6, 5, 4, dtype=torch.float64)
    reference = torch.optim.Adam([b], lr=0.01, betas=(0.9, 0.99), eps=1e-12)
    for t, g in enumerate(gradients):
        a.grad, b.grad = g.clone(), g.clone()
        soap.step()
        if t > 0:
            reference.step()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(7,), (1, 1, 5), (3, 4), (2, 3, 4), (1, 600, 3)])
def test_bases_stay_orthogonal_for_every_shape(shape):
    torch.manual_seed(1)
    p = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
    soap = Soap([p], lr=1e-2, interval=3)
    for _ in range(10):
        p.grad = torch.randn(shape, dtype=torch.float64)
        soap.step()
    state = soap.state[p]
    assert torch.isfinite(p).all()
    for side in ("left_basis", "right_basis"):
        if side in state:
            q = state[side]
            eye = torch.eye(q.shape[-1], dtype=torch.float64).expand_as(q)
            torch.testing.assert_close(q.mT @ q, eye, rtol=0, atol=1e-10)
    matrix = len(shape) > 1 and 1 not in shape[-2:]
    assert ("left" in state) == (matrix and shape[-2] <= LARGEST_SIDE)
    assert ("right" in state) == matrix


def test_the_gradient_of_perfect_crystals_has_a_basis():
    """Their descriptors are alike, and most of what a rotation mixes is 0 or next to it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(348, dtype=torch.float32)
    rows[::7] = 1e-2
    rows[1::7] = 1e-15
    p = torch.nn.Parameter(torch.zeros(348, 64))
    soap = Soap([p], lr=1e-2)
    for _ in range(12):
        p.grad = rows[:, None] * torch.randn(64, generator=generator)
        soap.step()
    assert torch.isfinite(p).all()
    basis = soap.state[p]["left_basis"]
    torch.testing.assert_close(basis.mT @ basis, torch.eye(348), rtol=0, atol=1e-4)
