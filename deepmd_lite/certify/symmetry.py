"""What must not change energies: place, orientation, handedness, the order of atoms, distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..model.structures import Result, Structure, evaluated
from ..system import Model
from .samples import cluster
from .verdict import Verdict

LIMIT = 1e-9
"""eV/atom for energies; forces relative to the largest one (at least 1 eV/Å)."""


def invariances(model: Model, samples: Sequence[Structure], seed: int = 0) -> list[Verdict]:
    """One verdict for each symmetry, the worst of all samples."""
    kinds = ("translation", "lattice vectors", "rotation", "reflection", "order of atoms")
    errors: dict[str, list[tuple[float, str]]] = {kind: [] for kind in kinds}
    for sample in samples:
        result = evaluated(model, sample)
        for kind in kinds:
            error = _broken(model, sample, result, kind, np.random.default_rng(seed))
            errors[kind].append((error, sample.name))
    unit = "eV/atom, of the largest force"
    return [Verdict.worst(f"unchanged by {kind}", errors[kind], LIMIT, unit) for kind in kinds]


def _broken(
    model: Model, sample: Structure, result: Result, kind: str, generator: np.random.Generator
) -> float:
    """By how much a symmetry is broken."""
    turn, order, positions = np.eye(3), np.arange(len(sample)), sample.positions
    if kind == "translation":
        positions = positions + generator.uniform(-20, 20, 3)
    elif kind == "lattice vectors":
        shifts = generator.integers(-2, 3, (len(sample), 3)) * sample.pbc
        positions = positions + shifts @ sample.cell
    elif kind == "order of atoms":
        order = generator.permutation(len(sample))
        positions = positions[order]
    else:
        turn, upper = np.linalg.qr(generator.normal(size=(3, 3)))
        turn *= np.sign(np.diag(upper))
        if (np.linalg.det(turn) > 0) == (kind == "reflection"):
            turn = -turn
        positions = positions @ turn
    moved = replace(sample.moved(positions, sample.cell @ turn), types=sample.types[order])
    found = evaluated(model, moved)
    energy = np.abs(found.energies - result.energies[order]).max()
    force = np.abs(found.forces - result.forces[order] @ turn).max()
    return float(np.max([energy, force / result.force_scale]))  # nan is the larger one


def net_force(model: Model, samples: Sequence[Structure]) -> Verdict:
    """The sum of all forces is zero."""
    errors = []
    for sample in samples:
        result = evaluated(model, sample)
        error = np.abs(result.forces.sum(axis=0)).max() / (result.force_scale * len(sample))
        errors.append((error, sample.name))
    return Verdict.worst("no net force", errors, LIMIT, "of the largest force, for each atom")


def size_consistency(model: Model, samples: Sequence[Structure]) -> Verdict:
    """Two clusters far from each other have the energies and forces of each alone."""
    errors = []
    for sample in map(cluster, samples):
        alone = evaluated(model, sample)
        away = np.array([np.ptp(sample.positions, axis=0).max() + model.rcut + 5.0, 0.0, 0.0])
        both = replace(
            sample,
            positions=np.vstack([sample.positions, sample.positions + away]),
            types=np.tile(sample.types, 2),
            cell=np.zeros((3, 3)),
        )
        found = evaluated(model, both)
        energy = np.abs(found.energies - np.tile(alone.energies, 2)).max()
        force = np.abs(found.forces - np.tile(alone.forces, (2, 1))).max() / alone.force_scale
        errors.append((np.max([energy, force]), sample.name))  # nan is the larger one
    return Verdict.worst("two clusters far apart", errors, LIMIT, "eV/atom, of the largest force")
