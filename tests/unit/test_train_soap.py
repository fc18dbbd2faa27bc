"""The optimiser: against Adam where curvature differs much, and its state."""

import pytest
import torch

from deepmd_lite import kernels
from deepmd_lite.kernels import SoapState
from deepmd_lite.system import InputError
from deepmd_lite.training import soap as module
from deepmd_lite.training.adam import Adam
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


class TorchSoap(Soap):
    """Every step by torch, as those on a device are."""

    def _is_compiled(self, parameter):
        return False


SHAPES = [(552, 64), (64, 64), (2, 32, 16), (1, 32), (200, 150), (64,), (5, 200), (2, 7, 9), ()]


def parameters(dtype, shapes=SHAPES):
    generator = torch.Generator().manual_seed(4)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def steps(optimizer, first, last):
    """Of gradients that are the same for every optimiser; some parameters have none at times."""
    (group,) = optimizer.param_groups
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for k, p in enumerate(group["params"]):
            gradient = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.grad = None if (k + step) % 7 == 0 else gradient
        optimizer.step()


def assert_same_state(found, expected, rtol):
    for p, q in zip(*(o.param_groups[0]["params"] for o in (found, expected)), strict=True):
        state, truth = found.state[p], expected.state[q]
        assert state.keys() == truth.keys()
        for key, value in truth.items():
            assert state[key].dtype == torch.float32
            atol = rtol * float(value.abs().max())
            torch.testing.assert_close(state[key], value, rtol=0, atol=atol, msg=key)


@pytest.fixture(params=kernels.instruction_sets())
def instructions(request):
    before = kernels.instruction_set()
    kernels.set_instruction_set(request.param)
    yield
    kernels.set_instruction_set(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_steps_are_those_of_torch(instructions, dtype):
    found, expected = parameters(dtype), parameters(dtype)
    compiled, torchs = Soap(found, lr=1e-2), TorchSoap(expected, lr=1e-2)
    for k in range(0, 24, 4):
        steps(compiled, k, k + 4)
        steps(torchs, k, k + 4)
        for p, q in zip(found, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=2e-6)
    assert_same_state(compiled, torchs, rtol=2e-5)


def test_few_directions_of_short_sides(directions):
    """First gradients of these shapes leave no direction out, which round-off would choose."""
    found, expected = (parameters(torch.float64, [(2, 12, 10), (20, 6), (9, 30)]) for _ in "ab")
    compiled, torchs = Soap(found, lr=1e-2), TorchSoap(expected, lr=1e-2)
    steps(compiled, 0, 20)
    steps(torchs, 0, 20)
    assert_same_state(compiled, torchs, rtol=2e-5)


def test_the_same_bits_for_any_number_of_threads_and_over_a_restart(instructions):
    """Wherever the state lies in memory."""
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            optimizer = Soap(parameters(torch.float64), lr=1e-2)
            steps(optimizer, 0, 13)
            made.append(optimizer)
    finally:
        torch.set_num_threads(before)
    parts = Soap(parameters(torch.float64), lr=1e-2)
    steps(parts, 0, 7)
    for p in parts.param_groups[0]["params"]:
        kept = {}
        for key, value in parts.state[p].items():
            shifted = torch.empty(value.numel() + 1)[1:].view(value.shape)
            kept[key] = shifted.copy_(value)
        parts.restore(p, kept)
        p.data = p.data.clone()
    steps(parts, 7, 13)
    for other in (*made[1:], parts):
        for p, q in zip(*(o.param_groups[0]["params"] for o in (made[0], other)), strict=True):
            assert torch.equal(p, q)
            for key, value in made[0].state[p].items():
                assert torch.equal(value, other.state[q][key]), key


@pytest.mark.parametrize("size", [1.0, 1e-15, 1e-22, 0.0])
@pytest.mark.parametrize("shape", [(40, 24), (150, 20), (64, 64)])
def test_gradients_that_leave_directions_out_have_orthonormal_bases(instructions, shape, size):
    """Of one direction, of zeros between, and of squares that float32 does not hold."""
    p = torch.nn.Parameter(torch.zeros(shape))
    optimizer = Soap([p], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for k in range(13):
        p.grad = torch.zeros(shape)
        if k % 2:
            p.grad[::7] = size * torch.randn(shape[1], generator=generator)
        optimizer.step()
    assert torch.isfinite(p).all()
    for side in ("left", "right"):
        basis = optimizer.state[p][f"{side}_basis"]
        eye = torch.eye(basis.shape[1])
        torch.testing.assert_close(basis.mT @ basis, eye, rtol=0, atol=1e-5)


def test_a_parameter_whose_numbers_are_not_in_line_is_stepped():
    found, expected = (torch.randn(12, 8, generator=torch.Generator().manual_seed(0)) for _ in "ab")
    p, q = torch.nn.Parameter(found.mT), torch.nn.Parameter(expected.mT.contiguous())
    one, other = Soap([p], lr=1e-2), Soap([q], lr=1e-2)
    steps(one, 0, 6)
    steps(other, 0, 6)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("exp_avg", torch.zeros(4, 3), "exp_avg: expected shape (4, 2), found (4, 3)"),
        ("exp_avg", torch.zeros(2, 4).mT, "exp_avg: expected a contiguous tensor"),
        ("left_basis", torch.zeros(4, 2), "left_basis: expected shape (4, 4), found (4, 2)"),
        ("right", torch.zeros(2, 3), "right: expected at most 2 columns, found 3"),
        ("step", torch.zeros((), dtype=torch.float64), "step: expected torch.float32"),
    ],
)
def test_a_state_of_another_shape_is_refused(key, value, message):
    state = {
        "step": torch.zeros(()),
        "exp_avg": torch.zeros(4, 2),
        "exp_avg_sq": torch.zeros(4, 2),
        **{"left": torch.zeros(4, 4), "left_basis": torch.eye(4)},
        **{"right": torch.zeros(2, 2), "right_basis": torch.eye(2)},
    }
    SoapState(torch.Size((4, 2)), state)
    with pytest.raises(InputError) as caught:
        SoapState(torch.Size((4, 2)), state | {key: value})
    assert message in str(caught.value)


def test_a_rule_out_of_its_range_is_refused():
    for options in ({"interval": 0}, {"betas": (-0.1, 0.9)}, {"betas": (1.0, 0.9)}):
        optimizer = Soap(parameters(torch.float64, [(3,)]), lr=1e-2, **options)
        with pytest.raises(InputError, match="expected"):
            steps(optimizer, 1, 3)


def test_goes_on_from_adam():
    """Whose means of vectors have no second dimension, in a checkpoint or a model of earlier."""
    value = torch.nn.Parameter(torch.linspace(1.0, 2.0, 8))
    adam, soap = Adam([value], lr=0.1), Soap([value], lr=0.1)
    for optimizer in (adam, soap):
        value.grad = 2.0 * value.detach()
        optimizer.step()
        soap.restore(value, adam.state[value])
    assert soap.state[value]["exp_avg"].shape == (1, 8)
    assert (value < torch.linspace(0.9, 1.9, 8)).all()  # both have moved it


def test_groups_have_their_own_rates():
    """All are stepped at once; in torch group by group."""
    found = []
    for torch_alone in (False, True):
        random = torch.Generator().manual_seed(3)
        values = [torch.nn.Parameter(torch.rand(9, 4, generator=random)) for _ in range(2)]
        soap = Soap(values[:1], lr=0.1)
        soap.add_param_group({"params": values[1:], "lr": 0.002})
        if torch_alone:
            soap._is_compiled = lambda parameter: False  # type: ignore[method-assign]
        for _ in range(8):
            for value in values:
                value.grad = torch.rand(9, 4, generator=random) - 0.5
            soap.step()
        found.append([value.detach().clone() for value in values])
    for compiled, expected in zip(*found, strict=True):
        torch.testing.assert_close(compiled, expected, rtol=0, atol=2e-5)
    assert (found[0][0] - found[0][1]).abs().max() > 0.1
