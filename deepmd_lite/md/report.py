"""What a run reports: the state of the system at a step, and how it went as a whole.

Columns of `thermo.csv`: step, time_fs, temperature_K, potential_eV, kinetic_eV, total_eV,
volume_A3, pressure_GPa, stress_xx_GPa … stress_xy_GPa, conserved_eV, a_A, b_A, c_A, alpha_deg,
beta_deg, gamma_deg. `conserved_eV` is what the equations of motion keep constant: the total energy
and what thermostat and barostat have taken, with the energy of a bias. Pressure and stress include
the kinetic part and a bias; pressure is positive under compression, stress has ASE's sign (tension
positive) and order (xx yy zz yz xz xy). They are over the volume of the cell, also that of a slab
with its vacuum, and nan where a lattice vector is missing (its length is 0) or no axis is periodic.
The temperature counts 3 degrees of freedom for each atom that is not held, less 3 where total
momentum is conserved (not with a Langevin thermostat, nor where atoms are held or pulled), and less
3 (2 of two atoms) for the rotation where no axis is periodic and the thermostat scales all
velocities.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from ase.geometry import cell_to_cellpar

from ..units import EV_PER_A3_IN_GPA

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
COLUMNS = (
    "step",
    "time_fs",
    "temperature_K",
    "potential_eV",
    "kinetic_eV",
    "total_eV",
    "volume_A3",
    "pressure_GPa",
    *(f"stress_{xy}_GPa" for xy in ("xx", "yy", "zz", "yz", "xz", "xy")),
    "conserved_eV",
    *("a_A", "b_A", "c_A", "alpha_deg", "beta_deg", "gamma_deg"),
)
TABLE_HEADER = (
    f"{'step':>10} {'time/ps':>10} {'T/K':>9} {'E_pot/eV':>16} {'E_tot/eV':>16} {'P/GPa':>9}"
)


@dataclass(frozen=True)
class Thermo:
    """The state of the whole system at one step."""

    step: int
    time: float
    """fs."""
    temperature: float
    """K."""
    potential: float
    """eV."""
    kinetic: float
    """eV."""
    volume: float
    """Å³ of the cell, vacuum included; nan (and so the stress) for what lacks a lattice vector or
    is open along all axes."""
    stress: np.ndarray
    """(3, 3) eV/Å³, tension positive, kinetic part included; over that volume."""
    beyond_table: int
    """Pairs at this step that were closer than any the model's table knows."""
    conserved: float
    """eV."""
    cell: np.ndarray
    """(3, 3) Å, rows are lattice vectors; zeros for one that the structure lacks."""
    largest_force: float | None = None
    """eV/Å, on any atom that is free to move; None but in a relaxation."""
    timestep: float | None = None
    """fs, of the step that comes next, where it is adaptive; else None."""

    @property
    def total(self) -> float:
        """eV."""
        return self.potential + self.kinetic

    @property
    def pressure(self) -> float:
        """eV/Å³, positive under compression."""
        return -float(np.trace(self.stress)) / 3.0

    def csv_row(self) -> str:
        """The values of `COLUMNS`, every digit that matters."""
        numbers = [self.time, self.temperature, self.potential, self.kinetic, self.total]
        stresses = [self.stress[i] * EV_PER_A3_IN_GPA for i in VOIGT]
        numbers += [self.volume, self.pressure * EV_PER_A3_IN_GPA, *stresses, self.conserved]
        numbers += cell_to_cellpar(self.cell).tolist()
        return ",".join([str(self.step), *(f"{x:.12g}" for x in numbers)]) + "\n"

    def table_row(self) -> str:
        """One line under `TABLE_HEADER`."""
        force, timestep = self.largest_force, self.timestep
        return (
            f"{self.step:>10} {self.time / 1000:>10.4f} {self.temperature:>9.2f} "
            f"{self.potential:>16.6f} {self.total:>16.6f} "
            f"{self.pressure * EV_PER_A3_IN_GPA:>9.3f}"
        ) + (
            (f"  largest force {force:.4g} eV/Å" if force is not None else "")
            + (f"  timestep {timestep:.3g} fs" if timestep is not None else "")
        )


class Stopwatch:
    """Seconds of this rank by part of the work; a part within another does not count in that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: list[tuple[str, float]] = []

    def __call__(self, part: str) -> Stopwatch:
        """Count the time of a block for `part`: `with stopwatch("model"): …`."""
        self._begun.append((part, time.perf_counter()))
        return self

    def __enter__(self) -> None:
        """The time counts since the call."""

    def __exit__(self, *error: object) -> None:
        part, begun = self._begun.pop()
        spent = time.perf_counter() - begun
        self.seconds[part] = self.seconds.get(part, 0.0) + spent
        if self._begun:
            around, since = self._begun[-1]
            self._begun[-1] = around, since + spent


@dataclass(frozen=True)
class RunResult:
    """What `Simulation.run` returns, the same on every rank."""

    thermo: Thermo
    """State after the last step."""
    steps: int
    """Steps made by this call."""
    seconds: float
    n_atoms: int
    n_ranks: int
    timestep: float
    """fs, on the average."""
    conserved_change: float
    """eV: conserved energy after the last step less that before the first."""
    list_builds: int
    parts: dict[str, float]
    """Seconds by part of the work, averaged over ranks."""
    imbalance: float
    """Largest number of atoms on a rank over the mean."""
    time_imbalance: float
    """Largest time of a rank in the model over the mean."""
    beyond_table: int
    """Pairs closer than the smallest distance of the model's table, summed over all evaluations."""
    signal: str | None
    """SIGTERM, SIGUSR1 or SIGINT if one came and ended the run."""

    def __repr__(self) -> str:
        return "\n".join(self.summary())

    @property
    def microseconds_per_atom_step(self) -> float:
        """Wall time of a step divided by the number of atoms of the whole system."""
        return 1e6 * self.seconds / max(1, self.steps * self.n_atoms)

    @property
    def ns_per_day(self) -> float:
        """Simulated time in a day of wall time."""
        return ns_per_day(self.timestep, self.seconds / max(1, self.steps))

    def summary(self) -> list[str]:
        """Lines for the log; a relaxation conserves no energy."""
        ranks = "1 rank" if self.n_ranks == 1 else f"{self.n_ranks} ranks"
        shares = ", ".join(
            f"{part} {100 * s / self.seconds:.0f} %" for part, s in self.parts.items()
        )
        meV = 1e3 * self.conserved_change / self.n_atoms
        moved = f"{self.conserved_change:+.3g} eV, {meV:+.3g} meV/atom"
        kept = [f"conserved energy: last − first {moved}"] * (self.thermo.largest_force is None)
        return [
            f"{self.steps} steps of {self.n_atoms} atoms on {ranks} in {self.seconds:.1f} s: "
            f"{self.microseconds_per_atom_step:.3g} µs/atom/step, {self.ns_per_day:.3g} ns/day",
            f"neighbour lists {self.list_builds}; {shares}; largest/mean of the ranks: atoms "
            f"{self.imbalance:.2f}, time {self.time_imbalance:.2f}",
            *kept,
        ]


def ns_per_day(timestep: float, seconds_per_step: float) -> float:
    """Simulated time in a day, from a timestep in fs."""
    return timestep * 1e-6 * 86400.0 / seconds_per_step if seconds_per_step > 0 else np.inf
