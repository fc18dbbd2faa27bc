"""The compiled kernels against the torch reference: values and derivatives of both orders.

One body for {reference, each instruction set} × {float64, float32}; the reference in float64 is the
truth for all of them.
"""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from deepmd_lite import kernels
from deepmd_lite.system import InputError

RCUT, RCUT_SMTH = 4.5, 1.2
N_TYPES, INTERVALS = 2, 12
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

BACKENDS = ["reference", *kernels.instruction_sets()]
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])


@pytest.fixture
def instruction_set():
    """Sets an instruction set for one test."""
    before = kernels.instruction_set()
    yield kernels.set_instruction_set
    kernels.set_instruction_set(before)


@pytest.fixture(params=BACKENDS)
def moments(request, instruction_set):
    """The operation of one backend."""
    if request.param == "reference":
        return kernels.reference.moments
    instruction_set(request.param)
    return kernels.moments


@pytest.fixture(params=kernels.instruction_sets())
def compiled(request, instruction_set):
    """The compiled operation of each instruction set."""
    instruction_set(request.param)
    return kernels.moments


class Case:
    """Random atoms, a list with a skin, a smooth table; some edges lie in its continuation."""

    def __init__(
        self,
        n_all=48,
        n_local=30,
        n_features=32,
        one_side=True,
        seed=0,
        skin=1.0,
        protection=0.0,
        of_distance=False,
        columns=kernels.COLUMNS,
    ):
        generator = torch.Generator().manual_seed(seed)
        self.positions = apart(n_all, 8.0, 0.9, generator)
        self.types = torch.randint(0, N_TYPES, (n_all,), generator=generator).int()
        self.n_local = n_local
        self.offsets, self.indices = kernels.reference.neighbor_list(
            self.positions, self.types, n_local, RCUT + skin
        )
        davg = torch.rand(N_TYPES, columns, generator=generator).double() * 0.2
        dstd = torch.rand(N_TYPES, columns, generator=generator).double() * 0.2 + 0.3
        start, spacing = -0.9, 0.2  # the continuation begins at s̃ = 1.5
        if of_distance:  # and here at 1.2 Å
            start, spacing = -RCUT, (RCUT - 1.2) / INTERVALS
        self.environment = kernels.Environment(
            RCUT, RCUT_SMTH, davg, dstd, one_side, start, spacing, protection, of_distance
        )
        n_tables = N_TYPES if one_side else N_TYPES**2
        self.coefficients = smooth_table(n_tables, n_features, start, spacing, generator)
        shape = (n_local, columns, n_features)
        self.grad = torch.randn(shape, generator=generator, dtype=torch.float64)

    def __call__(self, moments, positions, coefficients):
        return moments(
            positions, self.types, self.offsets, self.indices, coefficients, self.environment
        )

    def all_orders(self, moments, dtype):
        """Everything that can be asked of `moments`, by name."""
        positions = self.positions.clone().requires_grad_()
        coefficients = self.coefficients.to(dtype).requires_grad_()
        grad = self.grad.to(dtype).requires_grad_()
        value, counts, beyond = self(moments, positions, coefficients)
        found = {"moments": value, "counts": counts, "beyond": torch.tensor(beyond)}
        found["forces"], found["table"] = torch.autograd.grad(
            value, [positions, coefficients], grad, create_graph=True
        )
        inputs = {"grad": grad, "coefficients": coefficients, "positions": positions}
        losses = {
            "of forces": found["forces"].square().sum(),
            "of table": found["table"].double().square().sum(),
            "of both": found["forces"].square().sum() + found["table"].double().square().sum(),
        }
        for name, loss in losses.items():
            second = torch.autograd.grad(
                loss, list(inputs.values()), retain_graph=True, allow_unused=True
            )
            for key, value in zip(inputs, second, strict=True):
                if value is not None:
                    found[f"{key} {name}"] = value
        return {name: value.detach() for name, value in found.items()}


def apart(n, width, distance, generator):
    """n random positions in a box of `width`, no two nearer than `distance` (Å)."""
    kept = torch.empty(0, 3, dtype=torch.float64)
    while len(kept) < n:
        trial = torch.rand(1, 3, generator=generator, dtype=torch.float64) * width - width / 2
        if len(kept) == 0 or float((kept - trial).norm(dim=1).min()) > distance:
            kept = torch.cat([kept, trial])
    return kept


def smooth_table(n_tables, n_features, start, spacing, generator):
    """Taylor polynomials of sines: (n_tables, INTERVALS + 1, 6, n_features), continuous to 1e-5."""
    frequency = torch.rand(n_tables, 1, n_features, generator=generator).double() * 2 + 0.2
    phase = torch.rand(n_tables, 1, n_features, generator=generator).double() * 6
    nodes = start + spacing * torch.arange(INTERVALS + 1, dtype=torch.float64)[None, :, None]
    factor, powers = torch.ones(()), []
    for k in range(kernels.POWERS):
        derivative = (frequency * nodes + phase + k * torch.pi / 2).sin()
        powers.append(derivative * (frequency * spacing) ** k / factor)
        factor = factor * (k + 1)
    return torch.stack(powers, dim=2).contiguous()


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        if truth.is_floating_point():
            error = float((found[name].double() - truth.double()).abs().max())
            assert error <= tolerance * float(truth.abs().max()), f"{name}: {error}"
        else:
            assert torch.equal(found[name], truth), name


@BOTH
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
def test_all_orders_agree_with_the_reference(moments, dtype, one_side):
    case = Case(one_side=one_side)
    expected = case.all_orders(kernels.reference.moments, torch.float64)
    assert 0 < int(expected["beyond"]) < int(expected["counts"].sum())
    assert int(expected["counts"].sum()) < len(case.indices)  # some lie in the skin
    assert_close(case.all_orders(moments, dtype), expected, TOLERANCE[dtype])


@BOTH
def test_all_orders_with_a_protection_of_distances(moments, dtype):
    case = Case(protection=0.6)
    expected = case.all_orders(kernels.reference.moments, torch.float64)
    assert_close(case.all_orders(moments, dtype), expected, TOLERANCE[dtype])
    plain = Case().all_orders(moments, dtype)
    assert float((plain["forces"].double() - expected["forces"]).abs().max()) > 0.1


@BOTH
def test_all_orders_with_tables_of_the_distance(moments, dtype):
    case = Case(of_distance=True, one_side=False)
    expected = case.all_orders(kernels.reference.moments, torch.float64)
    assert 0 < int(expected["beyond"]) < int(expected["counts"].sum())
    assert_close(case.all_orders(moments, dtype), expected, TOLERANCE[dtype])


@BOTH
@pytest.mark.parametrize(
    "kind",
    [{}, {"one_side": False}, {"protection": 0.6}, {"of_distance": True}],
    ids=lambda kind: next(iter(kind), "plain"),
)
@pytest.mark.parametrize("columns", [9, 16, 25])
def test_all_orders_with_columns_of_higher_degrees(moments, dtype, kind, columns):
    case = Case(columns=columns, **kind)
    expected = case.all_orders(kernels.reference.moments, torch.float64)
    assert_close(case.all_orders(moments, dtype), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_columns_of_a_degree_are_those_of_the_legendre_polynomial(degree):
    """Normed, they add up over two directions to P_l of the cosine between them."""
    a, b = torch.randn(2, 7, 3, dtype=torch.float64)
    norms = torch.tensor(kernels.reference.NORMS[degree], dtype=torch.float64)
    of_a, of_b = (kernels.reference.harmonics(x, degree) * norms for x in (a, b))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    cosines = ((a * b).sum(1) / lengths).numpy()
    expected = torch.from_numpy(np.polynomial.Legendre.basis(degree)(cosines)) * lengths**degree
    torch.testing.assert_close((of_a * of_b).sum(1), expected, rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("columns", [4, 9, 16, 25])
@pytest.mark.parametrize("n_features", [16, 48, 112])
def test_any_number_of_padded_features(compiled, dtype, n_features, columns):
    case = Case(n_features=n_features, n_all=20, n_local=12, seed=3, columns=columns)
    expected = case.all_orders(kernels.reference.moments, torch.float64)
    assert_close(case.all_orders(compiled, dtype), expected, TOLERANCE[dtype])


def test_lists_without_symmetry_and_with_empty_rows(compiled):
    case = Case(seed=1)
    kept = torch.rand(len(case.indices), generator=torch.Generator().manual_seed(2)) < 0.4
    row = torch.repeat_interleave(torch.arange(case.n_local), case.offsets.diff())
    kept &= row % 7 != 3
    kept &= row != case.n_local - 1
    case.indices = case.indices[kept].flip(0)  # nor is the order within a row relied on
    lengths = torch.bincount(row[kept], minlength=case.n_local).flip(0)
    case.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    keep_self = case.indices != torch.repeat_interleave(torch.arange(case.n_local), lengths)
    case.indices[~keep_self] = case.n_local + 1  # a row that lists itself is an error
    expected = case.all_orders(kernels.reference.moments, torch.float64)
    found = case.all_orders(compiled, torch.float64)
    assert_close(found, expected, 1e-12)
    assert not found["moments"][0].any()
    assert (lengths == 0).sum() > 3


@pytest.mark.parametrize(("n_all", "n_local"), [(0, 0), (3, 0), (1, 1)])
def test_no_edges(compiled, n_all, n_local):
    case = Case(n_all=n_all, n_local=n_local)
    found = case.all_orders(compiled, torch.float64)
    assert found["moments"].shape == (n_local, 4, 32)
    assert all(not value.any() for value in found.values())


def test_beyond_the_cutoff_nothing_contributes(compiled):
    near, far = Case(skin=0.0), Case(skin=3.0)
    assert len(far.indices) > len(near.indices)
    expected = near.all_orders(compiled, torch.float64)
    assert_close(far.all_orders(compiled, torch.float64), expected, 1e-13)


@BOTH
@pytest.mark.parametrize("columns", [4, 9, 16, 25])
def test_the_same_bits_on_any_number_of_threads(compiled, dtype, columns):
    case = Case(n_all=420, n_local=400, n_features=32, skin=1.0, columns=columns)
    case.positions = apart(420, 22.0, 1.0, torch.Generator().manual_seed(5))
    case.offsets, case.indices = kernels.neighbor_list(
        case.positions, case.types, case.n_local, RCUT
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            offsets, indices = kernels.neighbor_list(case.positions, case.types, case.n_local, RCUT)
            assert torch.equal(offsets, case.offsets)
            assert torch.equal(indices, case.indices)
            results.append(case.all_orders(compiled, dtype))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_close(other, results[0], 0.0)


@pytest.mark.parametrize("columns", [4, 9, 16, 25])
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
def test_derivatives_by_finite_differences(compiled, one_side, columns):
    shape = {"one_side": one_side, "columns": columns}
    case = Case(n_all=5, n_local=3, n_features=16, **shape, seed=4, skin=0.0)
    case.positions = apart(5, 3.5, 1.3, torch.Generator().manual_seed(6))
    case.offsets, case.indices = kernels.neighbor_list(case.positions, case.types, 3, RCUT)
    inputs = (case.positions.requires_grad_(), case.coefficients.requires_grad_())
    projection = torch.randn(columns * 16, 3, dtype=torch.float64)

    def value(positions, coefficients):
        return case(compiled, positions, coefficients)[0].flatten(1) @ projection

    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(value, inputs, fast_mode=True)


def test_the_gradient_by_itself_is_the_same_operation(compiled):
    """`moments_gradient` is the backward pass of `moments`, for positions without a gradient."""
    case = Case()
    grad = case.grad.requires_grad_()
    coefficients = case.coefficients.requires_grad_()
    positions = case.positions.clone().requires_grad_()
    value, _, _ = case(compiled, positions, coefficients)
    (expected,) = torch.autograd.grad(value, positions, grad, create_graph=True)
    inputs = (grad, coefficients)
    second = torch.autograd.grad(expected.square().sum(), inputs)
    found = case(partial(kernels.moments_gradient, grad), case.positions, coefficients)
    assert torch.equal(found, expected)
    for a, b in zip(torch.autograd.grad(found.square().sum(), inputs), second, strict=True):
        assert torch.equal(a, b)


def test_third_order_is_refused(compiled):
    case = Case(n_all=6, n_local=4, n_features=16)
    coefficients = case.coefficients.requires_grad_()
    value, _, _ = case(compiled, case.positions.requires_grad_(), coefficients)
    (first,) = torch.autograd.grad(value.square().sum(), case.positions, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), coefficients, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.square().sum().backward()


def clouds():
    """Named sets of positions that a list must survive."""
    generator = torch.Generator().manual_seed(7)
    rand = lambda n: torch.rand(n, 3, generator=generator, dtype=torch.float64)  # noqa: E731
    grid = torch.tensor(list(itertools.product(range(5), repeat=3)), dtype=torch.float64)
    line = torch.zeros(200, 3, dtype=torch.float64)
    line[:, 1] = torch.linspace(-400, 300, 200)
    return {
        "box": rand(300) * 15 - 20,
        "slab": rand(300) * torch.tensor([40.0, 40.0, 0.5]),
        "line": line,
        "cluster": rand(60) * 1.5,
        "scattered": (rand(200) - 0.5) * 1e6,
        "one far away": torch.cat([rand(100) * 8, torch.tensor([[3e9, -2e9, 1e9]]).double()]),
        "grid, distances exactly the cutoff": grid * 1.5,
        "one": rand(1),
        "two": torch.tensor([[0.0, 0, 0], [0, 2.9, 0]]).double(),
        "none": rand(0),
    }


@pytest.mark.parametrize("name", list(clouds()))
@pytest.mark.parametrize("fraction", [1.0, 0.6, 0.0])
def test_list_equals_the_reference(name, fraction):
    positions = clouds()[name]
    types = torch.randint(0, 3, (len(positions),), generator=torch.Generator().manual_seed(8)).int()
    n_local = round(fraction * len(positions))
    offsets, indices = kernels.neighbor_list(positions, types, n_local, 3.0)
    if len(positions):
        expected = kernels.reference.neighbor_list(positions, types, n_local, 3.0)
        assert torch.equal(offsets, expected[0])
        assert torch.equal(indices, expected[1])
    assert len(offsets) == n_local + 1


@pytest.mark.parametrize("cutoff", [0.3, 2.0, 5.0, 50.0])
def test_list_at_any_cutoff(cutoff):
    positions = clouds()["box"]
    types = torch.zeros(len(positions), dtype=torch.int32)
    found = kernels.neighbor_list(positions, types, 250, cutoff)
    expected = kernels.reference.neighbor_list(positions, types, 250, cutoff)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def test_list_of_many_atoms_is_complete():
    """Large enough for many blocks; checked by counting pairs on a lattice."""
    n = 24
    grid = torch.tensor(list(itertools.product(range(n), repeat=3)), dtype=torch.float64)
    types = (torch.arange(len(grid)) % 3).int()
    offsets, indices = kernels.neighbor_list(grid, types, len(grid), 1.6)  # 6 + 12 neighbours
    assert int(offsets[-1]) == 6 * n * n * (n - 1) + 12 * n * (n - 1) ** 2
    row = torch.repeat_interleave(torch.arange(len(grid)), offsets.diff())
    key = (row * 3 + types[indices.long()]) * len(grid) + indices
    assert bool((key.diff() > 0).all())


def test_moments_name_the_rows_that_coincide(compiled):
    case = Case()
    moved = case.positions.clone()
    row, neighbor = 4, int(case.indices[case.offsets[4]])
    moved[neighbor] = moved[row] + 1e-8
    with pytest.raises(InputError, match=f"rows {min(row, neighbor)} and "):
        case(compiled, moved, case.coefficients)


def test_invariants_of_third_order_are_sums_over_triples():
    """v·Qv sums ½(3 (a·b)(b·c) − a·c) over directions a, b, c; no rotation changes a number."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(6, 3, generator=generator).double())
    norms = torch.tensor(kernels.reference.NORMS[2], dtype=torch.float64)

    def numbers(x_ec):
        """Of two features, each a weighted sum over three directions."""
        rows = torch.cat([torch.ones(6, 1), x_ec, kernels.reference.harmonics(x_ec, 2) * norms], 1)
        return kernels.reference.cubic(rows.reshape(1, 2, 3, 9).sum(2).transpose(1, 2), 2)[0]

    one, other = directions[:3], directions[3:]
    with_vectors = [
        sum(
            (3 * (a @ b) * (b @ c) - a @ c) / 2
            for a in (one, other)[i]
            for b in (one, other)[k]
            for c in (one, other)[j]
        )
        for i, j in ((0, 0), (0, 1), (1, 1))
        for k in range(2)
    ]

    def traces(groups):
        q = [(3 * torch.einsum("ex,ey->xy", x, x) - len(x) * torch.eye(3)) / 2 for x in groups]
        return torch.trace(q[0] @ q[1] @ q[2])

    groups = [(one, one, one), (one, one, other), (one, other, other), (other, other, other)]
    expected = torch.stack([*with_vectors, *map(traces, groups)])
    assert (numbers(directions) - expected).abs().max() < 1e-13
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())
    for turned in (directions @ rotation, -directions @ rotation):  # one of them is a reflection
        assert (numbers(turned) - expected).abs().max() < 1e-13
