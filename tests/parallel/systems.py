"""Structures that are awkward in one way each, for the tests of the parallel layer."""

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111

RCUT = 5.0
"""Å, of the pair potential of these tests."""


def rattled(atoms: Atoms, seed: int, amount: float = 0.12) -> Atoms:
    """Displaced at random, part of Cu made Ag, and some atoms moved out of the cell."""
    rng = np.random.default_rng(seed)
    atoms.positions += amount * rng.normal(size=atoms.positions.shape)
    numbers = atoms.numbers
    numbers[rng.random(len(atoms)) < 0.4] = 47
    atoms.numbers = numbers
    shifts = rng.integers(-1, 2, size=(len(atoms), 3)) * atoms.pbc
    atoms.positions += shifts @ atoms.cell.array
    return atoms


def cubic() -> Atoms:
    return rattled(bulk("Cu", cubic=True, a=3.7).repeat(3), 1)


def triclinic() -> Atoms:
    atoms = bulk("Cu", a=3.7).repeat((5, 4, 6))
    return rattled(atoms, 2)


def skewed() -> Atoms:
    """Lattice vectors so oblique that the cell is far thinner than it is long."""
    atoms = bulk("Cu", cubic=True, a=3.7).repeat((3, 2, 2))
    cell = atoms.cell.array.copy()
    cell[1] += cell[0]
    cell[2] += 2 * cell[0] - cell[1]
    atoms.set_cell(cell)
    return rattled(atoms, 3)


def thinner_than_two_cutoffs() -> Atoms:
    return rattled(bulk("Cu", cubic=True, a=3.7).repeat((2, 2, 6)), 4)


def thinner_than_one_cutoff() -> Atoms:
    return rattled(bulk("Cu", cubic=True, a=3.7).repeat((1, 1, 5)), 5)


def one_atom() -> Atoms:
    return bulk("Cu", a=3.7)


def three_atoms() -> Atoms:
    return rattled(
        Atoms("Cu3", [[0, 0, 0], [2.5, 0, 0], [0, 2.6, 0.3]], cell=[9, 9, 9], pbc=True), 6
    )


def slab() -> Atoms:
    atoms = fcc111("Cu", (4, 4, 4), a=3.7, vacuum=6.0)
    atoms.pbc = (True, True, False)
    return rattled(atoms, 7)


def periodic_slab_in_vacuum() -> Atoms:
    atoms = fcc111("Cu", (4, 4, 3), a=3.7, vacuum=15.0)
    atoms.pbc = True
    return rattled(atoms, 8)


def wire() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.7).repeat((2, 2, 4))
    atoms.set_cell([0, 0, atoms.cell[2, 2]])
    atoms.pbc = (False, False, True)
    return rattled(atoms, 9)


def cluster() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(3)
    atoms.set_cell(None)
    atoms.pbc = False
    return rattled(atoms, 10)


def two_clusters() -> Atoms:
    """Free, with nothing in between: some grids have nothing to send across the gap."""
    a, b = cluster(), cluster()
    b.positions += [60.0, 0, 0]
    return a + b


ALL = (
    cubic,
    triclinic,
    skewed,
    thinner_than_two_cutoffs,
    thinner_than_one_cutoff,
    one_atom,
    three_atoms,
    slab,
    periodic_slab_in_vacuum,
    wire,
    cluster,
    two_clusters,
)
