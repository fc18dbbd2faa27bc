"""Periodic images against ASE's neighbour list."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from deepmd_lite.geometry import cell_heights, checked_cell
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import InputError

STRUCTURES = {
    "primitive": bulk("Si"),
    "cubic": bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    "skewed": Atoms("Si3", cell=[[3, 0, 0], [8, 3.1, 0], [-7, 6, 2.9]], pbc=True),
    "needle": Atoms("Si2", cell=[[1.9, 0, 0], [0, 30, 0], [0, 0, 4]], pbc=True),
    "left-handed": Atoms("Si2", cell=[[0, 4, 0], [4, 0, 0], [0, 0, 4]], pbc=True),
}


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 0, 1), (0, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize("name", STRUCTURES)
def test_same_pairs_as_ase(name, pbc):
    atoms = STRUCTURES[name].copy()
    rng = np.random.default_rng(1)
    atoms.positions += rng.normal(scale=6.0, size=atoms.positions.shape)
    atoms.pbc = pbc
    cutoff = 6.0
    types = (atoms.numbers == atoms.numbers[0]).astype(np.int32)
    periodic = periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, types, cutoff)
    env = periodic.env
    centres = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff())
    vectors = env.positions[env.indices.long()] - env.positions[centres]
    ours = np.column_stack([centres, periodic.owner[env.indices.long()], vectors.numpy()])
    i, j, d = neighbor_list("ijD", atoms, cutoff)
    theirs = np.column_stack([i, j, d])

    def canonical(rows):
        return rows[np.lexsort(np.round(rows, 6).T[::-1])]

    assert len(ours) == len(theirs)
    np.testing.assert_allclose(canonical(ours), canonical(theirs), atol=1e-9)
    for row in range(env.n_local):  # the contract of LocalEnv
        mine = env.indices[env.offsets[row] : env.offsets[row + 1]]
        keys = [(int(env.types[k]), int(k)) for k in mine]
        assert keys == sorted(keys)
    unwrapped = torch.from_numpy(atoms.positions)[periodic.owner]
    cell = torch.from_numpy(checked_cell(atoms.cell.array, atoms.pbc, "test"))
    torch.testing.assert_close(env.positions, unwrapped + periodic.shifts @ cell)


def test_fold_returns_forces_to_their_owners():
    atoms = bulk("Si")
    periodic = periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, np.zeros(2), 5.0)
    counts = periodic.fold(torch.ones(periodic.env.n_all, 3, dtype=torch.float64))
    expected = np.bincount(periodic.owner.numpy())
    np.testing.assert_array_equal(counts[:, 0].numpy(), expected)


def test_heights():
    cell = np.array([[4.0, 0, 0], [3.0, 5.0, 0], [1.0, 2.0, 6.0]])
    heights = cell_heights(cell)
    reciprocal = np.linalg.norm(np.linalg.inv(cell), axis=0)
    np.testing.assert_allclose(heights, 1 / reciprocal)


@pytest.mark.parametrize(
    ("cell", "pbc", "message"),
    [
        (np.zeros((3, 3)), (1, 1, 1), "zero volume"),
        ([[3, 0, 0], [0, 3, 0], [3, 3, 0]], (1, 1, 1), "zero volume"),
        ([[3, 0, 0], [0, 0, 0], [0, 0, 3]], (1, 1, 0), "zero volume"),
        ([[3, 0, 0], [0, np.nan, 0], [0, 0, 3]], (1, 1, 1), "not finite"),
        (np.eye(3) * 1e-5, (1, 1, 1), "far too small"),
    ],
)
def test_bad_cells(cell, pbc, message):
    with pytest.raises(InputError, match=message) as error:
        periodic_env(np.zeros((1, 3)), np.array(cell), np.array(pbc), np.zeros(1), 5.0, "frame 3")
    assert str(error.value).startswith("frame 3: ")


def test_open_directions_need_no_cell():
    cell = np.zeros((3, 3))
    cell[1] = [1.0, 4.0, 0.0]
    full = checked_cell(cell, np.array([False, True, False]), "test")
    assert abs(np.linalg.det(full)) > 1.0
    np.testing.assert_array_equal(full[1], cell[1])
    np.testing.assert_array_equal(checked_cell(np.zeros((3, 3)), np.zeros(3), "test"), np.eye(3))


def test_atoms_that_coincide_have_their_numbers_in_the_frame():
    """Also where one of them is an image."""
    positions = np.array([[0.0, 0, 0], [2.0, 2, 2], [4.0, 0, 0]])
    with pytest.raises(InputError, match=r"^x, frame 3: atoms [02] and [02] coincide"):
        periodic_env(positions, 4 * np.eye(3), [True] * 3, np.zeros(3), 3.0, "x, frame 3")
