"""The optimiser: against Adam where curvature differs much, and its state."""

import pytest
import torch

from deepmd_lite.training import soap as module
from deepmd_lite.training.soap import LARGEST_WHOLE, RANK, Soap, most_of_a_step


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


@pytest.fixture(params=["whole", "leading"])
def directions(request, monkeypatch):
    """Sides of a few numbers are seen in all their directions, or in the leading ones."""
    if request.param == "leading":
        monkeypatch.setattr(module, "LARGEST_WHOLE", 8)
        monkeypatch.setattr(module, "RANK", 5)


def test_turned_basis_beats_adam_on_an_ill_conditioned_problem(directions):
    adam = minimise(lambda p: torch.optim.Adam(p, lr=0.05))
    soap = minimise(lambda p: Soap(p, lr=0.05))
    assert soap < 0.2 * adam


def test_a_vector_is_stepped_as_by_adam():
    """One step later."""
    torch.manual_seed(0)
    a = torch.nn.Parameter(torch.randn(20, dtype=torch.float64))
    b = torch.nn.Parameter(a.detach().clone())
    soap = Soap([a], lr=0.01, betas=(0.9, 0.99))
    gradients = torch.randn(6, 20, dtype=torch.float64)
    reference = torch.optim.Adam([b], lr=0.01, betas=(0.9, 0.99), eps=1e-12)
    for t, g in enumerate(gradients):
        a.grad, b.grad = g.clone(), g.clone()
        soap.step()
        if t > 0:
            reference.step()
    torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_what_is_absent_from_most_batches_takes_no_leaps(directions):
    """An element in every seventh frame, with neighbours of another element each time: gradients
    that are exactly 0 between, and in most rows."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.nn.Parameter(torch.zeros(40, 12, dtype=torch.float64))
    optimizer = Soap([weight], lr=0.01)
    largest = 0.0
    for k in range(200):
        weight.grad = torch.zeros_like(weight)
        if k % 7 == 0:
            rows = slice(10 * (k // 7 % 4), 10 * (k // 7 % 4) + 10)
            weight.grad[rows] = torch.randn(10, 12, generator=generator, dtype=torch.float64)
        before = weight.detach().clone()
        optimizer.step()
        largest = max(largest, float((weight.detach() - before).norm()))
    most = 0.01 * most_of_a_step(optimizer.betas) * weight.numel() ** 0.5
    assert 0.2 * most < largest <= most * (1 + 1e-6)


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.99), (0.5, 0.5), (0.0, 0.9)])
def test_no_gradients_make_a_larger_step(betas):
    """Adam's own steps, of gradients that grow as the bound's worst case does, come close to it."""
    first, second = betas
    value = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer, rate = Soap([value], lr=0.01, betas=betas), 0.01
    steps = []
    for k in range(400):
        size = (second / first) ** k if first else float(k == 399)
        value.grad = torch.tensor([size], dtype=torch.float64)
        before = float(value.detach())
        optimizer.step()
        steps.append(abs(float(value.detach()) - before) / rate)
    assert max(steps) <= most_of_a_step(betas) * (1 + 1e-5)
    assert max(steps) > 0.95 * most_of_a_step(betas)
    assert most_of_a_step((0.9, 0.8)) == float("inf")


@pytest.mark.parametrize(
    "shape", [(7,), (1, 1, 5), (3, 4), (2, 3, 4), (1, 600, 3), (300, 270), (2, 80, 300)]
)
def test_bases_stay_orthogonal_for_every_shape(shape):
    torch.manual_seed(1)
    p = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
    soap = Soap([p], lr=1e-2, interval=3)
    for _ in range(10):
        p.grad = torch.randn(shape, dtype=torch.float64)
        soap.step()
    state = soap.state[p]
    assert torch.isfinite(p).all()
    matrix = len(shape) > 1 and 1 not in shape[-2:]
    for side, length in zip(("left", "right"), shape[-2:] if matrix else (), strict=False):
        q = state[f"{side}_basis"]
        n_columns = length if length <= LARGEST_WHOLE else min(RANK, *shape[-2:])
        assert state[side].shape == q.shape == (*shape[:-2], length, n_columns)
        eye = torch.eye(n_columns).expand(*shape[:-2], -1, -1)
        torch.testing.assert_close(q.mT @ q, eye, rtol=0, atol=1e-5)
    assert ("left" in state) == ("right" in state) == matrix


def test_a_long_side_is_seen_in_the_leading_eigenvectors(directions):
    """Those of the mean of G Gᵀ, also where they come to lead later on."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    turned = torch.linalg.qr(random(30, 30)).Q
    p = torch.nn.Parameter(torch.zeros(30, 20, dtype=torch.float64))
    soap = Soap([p], lr=1e-3, interval=2)
    for leading in turned[:, :3], turned[:, 10:13]:
        for _ in range(60):
            p.grad = 1e-2 * random(30, 20) + leading @ random(3, 20)
            soap.step()
        basis = soap.state[p]["left_basis"][:, :3].double()
        assert torch.linalg.svdvals(leading.mT @ basis).min() > 0.99


def test_in_few_directions_and_back(directions):
    torch.manual_seed(2)
    p = torch.nn.Parameter(torch.zeros(2, 12, 10, dtype=torch.float64))
    soap = Soap([p], lr=1e-2)
    p.grad = torch.randn(2, 12, 10, dtype=torch.float64)
    soap.step()
    x = torch.randn(2, 12, 10)
    seen = module._to_basis(soap.state[p], x)
    assert seen.shape == soap.state[p]["exp_avg"].shape
    torch.testing.assert_close(module._from_basis(soap.state[p], seen), x, rtol=0, atol=1e-5)


def test_a_state_with_all_directions_of_a_long_side_goes_on(monkeypatch):
    """As checkpoints of earlier versions have it."""
    monkeypatch.setattr(module, "LARGEST_WHOLE", 1000)
    torch.manual_seed(3)
    p, q = (torch.nn.Parameter(torch.zeros(300, 4, dtype=torch.float64)) for _ in range(2))
    old, new = Soap([p], lr=1e-2, interval=2), Soap([q], lr=1e-2, interval=2)
    gradients = torch.randn(6, 300, 4, dtype=torch.float64)
    for g in gradients[:3]:
        p.grad = g
        old.step()
    q.data.copy_(p.data)
    new.restore(q, old.state[p])
    for g in gradients[3:]:
        p.grad = q.grad = g
        old.step()
    monkeypatch.undo()
    for _, g in zip(range(3), gradients[3:], strict=True):
        q.grad = g
        new.step()
    assert torch.equal(p, q)


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
    torch.testing.assert_close(basis.mT @ basis, torch.eye(RANK), rtol=0, atol=1e-4)
