"""The CUDA kernels against the torch reference: lists, moments, derivatives, faults.

One body for the kernels compiled for the host, whose threads run in shuffled orders, and for a GPU.
"""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from emulation import shuffle

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda import native
from deepmd_lite.kernels.cuda.descriptor import DeviceTable
from deepmd_lite.md.random import normals
from deepmd_lite.system import InputError

RCUT, RCUT_SMTH, N_TYPES, INTERVALS = 4.5, 1.2, 2, 12
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
ONE_SIDED = pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])


class Case:
    """Random atoms, a list with a skin, a smooth table; some edges lie in its continuation."""

    def __init__(
        self,
        n_all=48,
        n_local=30,
        n_features=32,
        one_side=True,
        seed=0,
        n_types=N_TYPES,
        skin=1.0,
        of_distance=False,
        columns=kernels.COLUMNS,
    ):
        generator = torch.Generator().manual_seed(seed)
        rand = lambda *n: torch.rand(*n, generator=generator, dtype=torch.float64)  # noqa: E731
        width = (12.0 * max(n_all, 1)) ** (1 / 3)
        self.positions = jiggled(n_all, width, generator)
        self.types = torch.randint(0, n_types, (n_all,), generator=generator).int()
        self.n_local = n_local
        if n_all:
            self.list = kernels.neighbor_list(self.positions, self.types, n_local, RCUT + skin)
        else:
            self.list = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
        davg, dstd = rand(n_types, columns) * 0.2, rand(n_types, columns) * 0.2 + 0.3
        start, spacing = (-RCUT, (RCUT - 1.5) / INTERVALS) if of_distance else (-0.9, 0.2)
        self.environment = kernels.Environment(
            RCUT, RCUT_SMTH, davg, dstd, one_side, start, spacing, 0.0, of_distance
        )
        n_tables = n_types if one_side else n_types**2
        powers = 0.5 ** torch.arange(kernels.POWERS, dtype=torch.float64)[:, None]
        shape = (n_tables, INTERVALS + 1, kernels.POWERS, n_features)
        self.coefficients = (rand(*shape) - 0.5) * powers
        self.grad = rand(n_local, columns, n_features) - 0.5

    def expected(self):
        """Moments, counts, edges beyond the table and the gradient, by the reference."""
        positions = self.positions.clone().requires_grad_()
        moments, counts, beyond = kernels.reference.moments(
            positions, self.types, *self.list, self.coefficients, self.environment
        )
        (gradient,) = torch.autograd.grad(
            moments, positions, self.grad, allow_unused=True, materialize_grads=True
        )
        return moments.detach(), counts, beyond, gradient

    def found(self, device, dtype=torch.float64, parts=1):
        """The same on a device, the rows in `parts` calls."""
        where, n_all = device.torch_device, len(self.positions)
        tensors = [x.to(where) for x in (self.positions, self.types, *self.list)]
        pointers = [x.data_ptr() for x in tensors]
        atoms = native.Atoms(n_all, self.n_local, *pointers, len(tensors[3]))
        table = DeviceTable.of(self.coefficients.to(dtype), self.environment, where)
        arguments = [ctypes.byref(x) for x in (atoms, table.environment, table.table)]
        grad = self.grad.to(where, dtype)
        moments = torch.full_like(grad, torch.nan)
        n_types = self.environment.n_types
        counts = torch.full((self.n_local, n_types), -1, dtype=torch.int32, device=where)
        fixed = torch.zeros(n_all, 3, dtype=torch.int64, device=where)
        gradient = torch.full_like(tensors[0], torch.nan)
        report = device.reports()
        bounds = [self.n_local * k // parts for k in range(parts + 1)]
        for begin, end in itertools.pairwise(bounds):
            rows = slice(begin, end)
            device.call("moments", *arguments, begin, end, moments[rows], counts[rows], report)
            device.call("moments_backward", *arguments, begin, end, grad[rows], fixed, report)
        device.call("from_fixed", n_all, tensors[0], fixed, gradient, report)
        beyond = device.read(report, n_all, n_types)
        assert not fixed.sum(dim=0).any()  # what acts on one acts back on the other, to the bit
        return moments.cpu(), counts.cpu(), beyond, gradient.cpu()

    def check(self, found, tolerance):
        expected = self.expected()
        assert torch.equal(found[1], expected[1])
        assert found[2] == expected[2]
        for name, a, b in zip(("moments", "gradient"), found[::3], expected[::3], strict=True):
            if b.numel():
                error = float((a.double() - b).abs().max())
                assert error <= tolerance * float(b.abs().max()), f"{name}: {error}"


def jiggled(n, width, generator):
    """n positions near the points of a lattice in random order, none nearer than 0.7 Å."""
    edge = next(k for k in itertools.count(1) if k**3 >= n)
    grid = torch.tensor(list(itertools.product(range(edge), repeat=3)), dtype=torch.float64)
    order = torch.randperm(len(grid), generator=generator)[:n]
    spacing = width / edge
    move = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    return grid[order] * spacing + move * (spacing - 0.7) - width / 2


@BOTH
@ONE_SIDED
@pytest.mark.parametrize("n_types", [1, 3])
def test_moments_and_gradient(device, dtype, one_side, n_types):
    case = Case(one_side=one_side, n_types=n_types)
    _, counts, beyond, _ = case.expected()
    assert 0 < beyond < int(counts.sum()) < len(case.list[1])  # some lie in the skin
    case.check(case.found(device, dtype), TOLERANCE[dtype])


@BOTH
def test_tables_of_the_distance(device, dtype):
    case = Case(of_distance=True, one_side=False)
    assert case.expected()[2] > 0
    case.check(case.found(device, dtype), TOLERANCE[dtype])


@BOTH
@pytest.mark.parametrize("columns", [4, 9, 25])
@pytest.mark.parametrize("n_features", [16, 48, 112, 144, 272])
def test_any_number_of_padded_features(device, dtype, n_features, columns):
    """Groups of threads share the runs, threads are left over, or take several features each."""
    case = Case(n_features=n_features, n_all=20, n_local=12, seed=3, columns=columns)
    case.check(case.found(device, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize(("n_all", "n_local"), [(0, 0), (3, 0), (1, 1), (10, 10), (1000, 800)])
def test_sizes(device, n_all, n_local):
    case = Case(n_all, n_local, n_features=16)
    case.check(case.found(device), 1e-10)


@pytest.mark.parametrize("columns", [4, 9, 25])
def test_more_neighbours_and_runs_than_a_block_holds(device, columns):
    """Several hands of edges of an atom, and several batches of runs in a hand."""
    case = Case(n_all=400, n_local=20, one_side=False, n_types=5, seed=2, columns=columns)
    case.positions *= 0.45
    case.list = kernels.neighbor_list(case.positions, case.types, case.n_local, RCUT)
    found = case.found(device)
    assert int(found[1].sum(dim=1).max()) > 256
    case.check(found, 1e-10)


def test_rows_in_several_calls(device):
    case = Case(seed=4)
    whole, parts = case.found(device), case.found(device, parts=7)
    assert all(torch.equal(a, b) for a, b in zip(whole[::3], parts[::3], strict=True))
    assert whole[2] == parts[2]


def test_lists_without_symmetry_and_with_empty_rows(device):
    case = Case(seed=1)
    offsets, indices = case.list
    row = torch.repeat_interleave(torch.arange(case.n_local), offsets.diff())
    kept = torch.rand(len(indices), generator=torch.Generator().manual_seed(2)) < 0.4
    kept &= (row % 7 != 3) & (row != case.n_local - 1)
    lengths = torch.bincount(row[kept], minlength=case.n_local)
    assert (lengths == 0).sum() > 3
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    case.list = offsets, indices[kept].flip(0)[torch.argsort(row[kept].flip(0), stable=True)]
    case.check(case.found(device), 1e-10)


@BOTH
@pytest.mark.parametrize("columns", [4, 9, 25])
def test_the_same_bits_each_time(device, dtype, columns):
    """On a GPU threads run as they like; the emulation shuffles them."""
    case = Case(n_all=300, n_local=250, n_features=48, n_types=3, seed=5, columns=columns)
    results = []
    for seed in (0, 1, 2, 3):
        shuffle(device, seed)
        results.append((*case.found(device, dtype), *case_list(device, case)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def case_list(device, case):
    made = kernels.cuda.neighbor_list(device, case.positions, case.types, case.n_local, RCUT)
    return [x.cpu() for x in made]


# --- lists --------------------------------------------------------------------------------------


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
        "more than a block sorts": rand(1300) * 1.5,
        "scattered": (rand(200) - 0.5) * 1e6,
        "two far apart": torch.cat([rand(90) * 8, rand(90) * 8 + 1e8]),
        "one far away": torch.cat([rand(100) * 8, torch.tensor([[3e9, -2e9, 1e9]]).double()]),
        "grid, distances exactly the cutoff": grid * 1.5,
        "one": rand(1),
        "two": torch.tensor([[0.0, 0, 0], [0, 2.9, 0]]).double(),
        "none": rand(0),
    }


@pytest.mark.parametrize("name", list(clouds()))
@pytest.mark.parametrize("fraction", [1.0, 0.6, 0.0])
def test_list(device, name, fraction):
    positions = clouds()[name]
    if len(positions) > 1000:
        fraction *= 0.01  # rows of a thousand take long to emulate
    generator = torch.Generator().manual_seed(8)
    types = torch.randint(0, 3, (len(positions),), generator=generator).int()
    n_local = round(fraction * len(positions))
    found = kernels.cuda.neighbor_list(device, positions, types, n_local, 3.0)
    expected = kernels.neighbor_list(positions, types, n_local, 3.0)
    assert all(torch.equal(f.cpu(), e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("cutoff", [0.3, 2.0, 5.0, 50.0])
def test_list_at_any_cutoff(device, cutoff):
    positions = clouds()["box"]
    types = torch.zeros(len(positions), dtype=torch.int32)
    found = kernels.cuda.neighbor_list(device, positions, types, 250, cutoff)
    expected = kernels.neighbor_list(positions, types, 250, cutoff)
    assert all(torch.equal(f.cpu(), e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t: x.__setitem__((7, 1), torch.nan), "position of row 7 is not finite"),
        (lambda x, t: x.__setitem__((7, 1), torch.inf), "position of row 7 is not finite"),
        (lambda x, t: x.__setitem__(9, x[4] + 1e-8), "rows 4 and 9 coincide"),
        (lambda x, t: t.__setitem__(3, -1), "type of row 3"),
        (lambda x, t: t.__setitem__(3, 70000), "type of row 3"),
    ],
)
def test_what_lists_refuse(device, change, message):
    positions, types = clouds()["box"], torch.zeros(300, dtype=torch.int32)
    change(positions, types)
    with pytest.raises(InputError, match=message):
        kernels.cuda.neighbor_list(device, positions, types, 300, 3.0)


def test_wrong_arguments_of_lists(device):
    positions, types = clouds()["box"], torch.zeros(300, dtype=torch.int32)
    make = kernels.cuda.neighbor_list
    with pytest.raises(InputError, match="n_local: expected 0 to 300, found 301"):
        make(device, positions, types, 301, 3.0)
    with pytest.raises(InputError, match="positive cutoff"):
        make(device, positions, types, 300, 0.0)
    with pytest.raises(InputError, match=r"positions: expected torch.float64"):
        make(device, positions.float(), types, 300, 3.0)
    with pytest.raises(InputError, match="too far apart"):
        make(device, (positions + 12.5) * 2e307, types, 300, 3.0)


# --- random numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "stream", "step"), [(0, 0, 0), (1, 3, 2**40 + 7), (2**32 - 1, 1, 5)]
)
def test_random_numbers(device, seed, stream, step):
    """Those of the processor, also for ids beyond 2^32."""
    ids = torch.tensor([0, 1, 2, 255, 2**31, 2**32 - 1, 2**32, 2**40 + 3] * 100)
    found = normals(ids.to(device.torch_device), seed, stream, step)
    assert found.device == device.torch_device
    torch.testing.assert_close(found.cpu(), normals(ids, seed, stream, step), rtol=0, atol=1e-14)
    assert normals(ids[:0].to(device.torch_device), seed, stream, step).shape == (0, 3)


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.positions.__setitem__((3, 1), torch.nan), "position of row 3 is not finite"),
        (lambda c: c.positions.__setitem__((40, 1), torch.inf), "position of row 40 is not finite"),
        (lambda c: c.types.__setitem__(2, 2), "type of row 2 is not one of 0 to 1"),
        (lambda c: c.types.__setitem__(int(c.list[1][0]), -1), "type of row"),
        (lambda c: c.list[1].__setitem__(0, 48), "row 0 lists neighbour 48; there are 48 rows"),
        (lambda c: c.list[1].__setitem__(0, -1), "row 0 lists neighbour -1"),
        (lambda c: c.list[1].__setitem__(0, 0), "rows 0 and 0 coincide"),
        (lambda c: c.list[0].__setitem__(5, c.list[0][4] - 1), "offsets of row 4"),
        (lambda c: c.list[0].__setitem__(-1, len(c.list[1]) + 1), "offsets of row 29"),
        (lambda c: c.grad.mul_(1e9), "force on row 0 is too large"),
        (lambda c: c.grad.mul_(torch.nan), "force on row 0 is too large"),
    ],
)
def test_faults_are_named(device, change, message):
    case = Case()
    change(case)
    with pytest.raises(InputError, match=message):
        case.found(device)


def test_coincident_atoms_are_named(device):
    case = Case()
    row, neighbor = 4, int(case.list[1][case.list[0][4]])
    case.positions[neighbor] = case.positions[row] + 1e-8
    with pytest.raises(InputError, match=f"rows {min(row, neighbor)} and {max(row, neighbor)} co"):
        case.found(device)


def test_a_fault_leaves_the_next_call_alone(device):
    bad, good = Case(), Case()
    bad.positions[3, 1] = torch.nan
    with pytest.raises(InputError):
        bad.found(device)
    good.check(good.found(device), 1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_features": 1040}, "1040 features; expected a multiple of 16, at most 1024"),
        (
            {"n_features": 384, "n_columns": 25},
            "384 features; expected a multiple of 16, at most 368",
        ),
        ({"n_columns": 10}, "for l of 1 to 4, found 10"),
        ({"n_tables": 3}, "expected 2 embedding tables"),
        ({"n_intervals": 0}, "0 intervals"),
        ({"rcut": 1.0}, "0 <= rcut_smth < rcut"),
        ({"table_spacing": 0.0}, "positive spacing"),
        ({"n_types": 0}, "n_types must be 1"),
        ({"n_local": 49}, "0 <= n_local <= n_all"),
        ({"n_all": 2**31}, "at most 2"),
        ({"end": 31}, "rows 0 to 31; there are 30"),
    ],
)
def test_arguments_are_checked_before_a_launch(device, changes, message):
    case = Case()
    table = DeviceTable.of(case.coefficients, case.environment, device.torch_device)
    atoms = native.Atoms(48, 30, None, None, None, None, 0)
    for structure in (atoms, table.environment, table.table):
        for name, value in changes.items():
            if hasattr(structure, name):
                setattr(structure, name, value)
    arguments = [ctypes.byref(x) for x in (atoms, table.environment, table.table)]
    for name in ("moments", "moments_backward"):
        with pytest.raises(InputError, match=message):
            device.call(name, *arguments, 0, changes.get("end", 30), None, None, None)
