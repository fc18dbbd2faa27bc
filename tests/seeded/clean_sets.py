"""Clean data sets that mistakes are put into, as frames of ASE, and their ways into files."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

SILICON = Path(__file__).parents[2] / "data" / "silicon"


@cache
def silicon() -> tuple[Atoms, ...]:
    """The training frames of the project's own set: DFT, strained, sheared, hot, molten."""
    return tuple(read(SILICON / "train.extxyz", ":"))


@cache
def copper() -> tuple[Atoms, ...]:
    """Skewed cells of copper with EMT's labels."""
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(24):
        atoms = bulk("Cu") * (2, 2, 3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3))), True)
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        frames.append(labelled(atoms, EMT()))
    return tuple(frames)


@cache
def hot_copper() -> tuple[Atoms, ...]:
    """Snapshots of copper at 800 K, each in five cells, with EMT's labels."""
    frames = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        snapshot = bulk("Cu", cubic=True) * (2, 2, 2)
        snapshot.positions += 0.13 * rng.normal(size=snapshot.positions.shape)
        for strain in (-0.01, -0.005, 0.0, 0.005, 0.01):
            atoms = snapshot.copy()
            atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
            atoms.info["temperature"] = 800.0
            frames.append(labelled(atoms, EMT()))
    return tuple(frames)


class Springs(Calculator):
    """Water with harmonic bonds, and H–H springs for the angles: what a check needs to see."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        energy, forces = 0.0, np.zeros((len(atoms), 3))
        for o in range(0, len(atoms), 3):
            for i, j, k, r0 in (
                (o, o + 1, 30.0, 0.97),
                (o, o + 2, 30.0, 0.97),
                (o + 1, o + 2, 5.0, 1.53),
            ):
                d = atoms.positions[j] - atoms.positions[i]
                r = np.linalg.norm(d)
                energy += 0.5 * k * (r - r0) ** 2 - 150.0
                forces[i] += k * (r - r0) * d / r
                forces[j] -= k * (r - r0) * d / r
        self.results = {"energy": energy, "forces": forces}


@cache
def water() -> tuple[Atoms, ...]:
    """Eight water molecules on a lattice, turned at random and vibrating."""
    rng = np.random.default_rng(7)
    frames = []
    for _ in range(40):
        positions = []
        for corner in np.ndindex(2, 2, 2):
            turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            molecule = np.array([[0, 0, 0], [0.97, 0, 0], [-0.2427, 0.9391, 0]]) @ turn
            positions += list(molecule + 3.1 * np.array(corner) + 0.03 * rng.normal(size=(3, 3)))
        frames.append(labelled(Atoms("OHH" * 8, positions, cell=[6.2] * 3, pbc=True), Springs()))
    return tuple(frames)


def labelled(atoms: Atoms, calculator: Calculator) -> Atoms:
    """`atoms` with the results of `calculator`, which is not kept."""
    atoms.calc = calculator
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if "stress" in calculator.implemented_properties:
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def copied(frames) -> list[Atoms]:
    """Frames that may be changed, labels in `calc.results`."""
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy)
        copy.calc.results = deepcopy(atoms.calc.results)
        copies.append(copy)
    return copies


def extxyz(path: Path, frames) -> Path:
    """Write frames as extended XYZ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, list(frames), format="extxyz")
    return path


def npy(folder: Path, frames, type_map, dtype=np.float64) -> Path:
    """Write frames of the same atoms as a deepmd/npy folder."""
    inside = folder / "set.000"
    inside.mkdir(parents=True)
    symbols = frames[0].get_chemical_symbols()
    (folder / "type.raw").write_text("\n".join(str(type_map.index(s)) for s in symbols))
    (folder / "type_map.raw").write_text("\n".join(type_map))
    n = len(frames)
    results = [f.calc.results for f in frames]
    np.save(inside / "coord.npy", np.array([f.positions for f in frames]).reshape(n, -1))
    np.save(inside / "box.npy", np.array([f.cell.array for f in frames]).reshape(n, -1))
    np.save(inside / "energy.npy", np.array([r["energy"] for r in results], dtype=dtype))
    np.save(inside / "force.npy", np.array([r["forces"] for r in results]).reshape(n, -1))
    return folder
