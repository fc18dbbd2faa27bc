"""Does the total energy stay what it is?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ..md import SharedError, Simulation
from ..model import Potential
from ..model.structures import Structure
from ..system import InputError
from .verdict import Verdict

KELVIN = 300.0
LIGHT_STEP, STEP = 0.5, 1.0
"""fs, with hydrogen and without."""
SETTLE = 0.1
"""Part of the run that is left out."""
SAMPLES = 100
LIMIT = 1.0
"""meV/atom/ps: more than that spoils a nanosecond."""


def energy_drift(
    model: Potential, sample: Structure, symbols: Sequence[str], steps: int
) -> Verdict:
    """Slope of the total energy in NVE from a real structure at 300 K."""
    name, unit = f"NVE drift beyond its error, {steps} steps", "meV/atom/ps"
    if not sample.real:
        words = "the file remembers no real structure to start from: give --data"
        return Verdict(name, None, LIMIT, unit, words)
    if len(sample) == 1:
        words = f"one atom feels no force ({sample.name}): give --data"
        return Verdict(name, None, LIMIT, unit, words)
    atoms = Atoms(symbols, positions=sample.positions, cell=sample.cell, pbc=sample.pbc)
    timestep = LIGHT_STEP if "H" in symbols else STEP
    every, energies = max(1, steps // SAMPLES), []
    try:
        simulation = Simulation(
            atoms,
            model,
            velocities={"temperature": KELVIN, "seed": 1},
            timestep=timestep,
            device=model.device,
        )
        for _ in range(steps // every):
            energies.append(simulation.run(every).thermo.total)
    except (SharedError, InputError) as e:
        return Verdict(name, np.inf, LIMIT, unit, str(e))
    late = np.array(energies[int(SETTLE * len(energies)) :]) / len(atoms)
    times = timestep * every * np.arange(len(late)) / 1000.0
    slope, error = _slope(times, 1000.0 * late)
    words = f"± {error:.2g}; {sample.name}, {timestep:g} fs, {model.precision}"
    if not 3.0 * error <= LIMIT:
        return Verdict(
            name, np.inf, LIMIT, unit, f"jumps too much for a slope: {slope:+.2g} {words}"
        )
    # a slope within its own noise is none
    return Verdict(
        name, float(np.max([0.0, abs(slope) - 3.0 * error])), LIMIT, unit, f"{slope:+.2g} {words}"
    )


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the line through y(x), and its standard error from the slopes of four parts."""
    parts = [
        float(np.polyfit(a, b, 1)[0])
        for a, b in zip(np.array_split(x, 4), np.array_split(y, 4), strict=True)
    ]
    return float(np.polyfit(x, y, 1)[0]), float(np.std(parts, ddof=1) / 2 / 4)
