"""Forces and virial are derivatives of the energy: compared with finite differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..model.structures import Structure, evaluated
from ..system import Model
from .verdict import Verdict

STEP = 1e-3
"""Å, and for strains without unit: of central differences of fourth order."""
LIMIT = 1e-6
"""Relative to the largest force (at least 1 eV/Å), and to that times an Å and atom for virials."""
COMPONENTS = 12
"""Forces that are compared in each sample."""
STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))


def forces(model: Model, samples: Sequence[Structure], seed: int = 0) -> Verdict:
    """Some components of every sample, among them the largest."""
    generator = np.random.default_rng(seed)
    errors = []
    for sample in samples:
        result = evaluated(model, sample)
        n = result.forces.size
        chosen = generator.choice(n, size=min(COMPONENTS, n), replace=False)
        chosen[0] = int(np.abs(result.forces).argmax())
        for place in chosen:
            direction = np.zeros(n)
            direction[place] = 1.0
            slope = _slope(model, sample, direction.reshape(-1, 3))
            error = abs(-slope - result.forces.flat[place]) / result.force_scale
            atom, axis = divmod(int(place), 3)
            errors.append((error, f"atom {atom}, {'xyz'[axis]}, {sample.name}"))
    return Verdict.worst("forces = -dE/dr", errors, LIMIT, "of the largest force")


def virial(model: Model, samples: Sequence[Structure]) -> Verdict:
    """All nine components: virial = -dE/dε, where a strain ε takes r to r (1 + ε)."""
    name, unit = "virial = -dE/dstrain, nine components", "of force x atoms x Å"
    periodic = [s for s in samples if s.pbc.all()]
    if not periodic:
        return Verdict(name, None, LIMIT, unit, "no periodic sample")
    errors = []
    for sample in periodic:
        result = evaluated(model, sample)
        scale = result.force_scale * len(sample)
        for i, j in np.ndindex(3, 3):
            slope = 0.0
            for k, weight in STENCIL:
                strained = np.eye(3)
                strained[i, j] += k * STEP
                moved = sample.moved(sample.positions @ strained, sample.cell @ strained)
                slope += weight * evaluated(model, moved).energy / STEP
            error = abs(-slope - result.virial[i, j]) / scale
            errors.append((float(error), f"component {'xyz'[i]}{'xyz'[j]}, {sample.name}"))
    return Verdict.worst(name, errors, LIMIT, unit)


def _slope(model: Model, sample: Structure, direction: np.ndarray) -> float:
    """eV/Å: derivative of the energy along a displacement (n, 3)."""
    energies = (
        weight * evaluated(model, sample.moved(sample.positions + k * STEP * direction)).energy
        for k, weight in STENCIL
    )
    return sum(energies) / STEP
