"""Melting point of silicon from crystal and melt in contact, by parallel molecular dynamics.

    mpiexec -n 2 python examples/05_liquid/melting.py [MODEL.dpl] [-o FOLDER]

Half of a long crystal is melted while the other half is held; then, at each temperature and zero
pressure, either the crystal grows or the melt. Heat of fusion makes the enthalpy fall or rise with
the front; its slope passes zero at the melting point (two-phase coexistence: Morris et al., Phys.
Rev. B 49, 3109 (1994)). Writes melting.png, melting.csv and a folder for each temperature.
Units: K, fs, Å, eV.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from matplotlib.figure import Figure

import deepmd_lite as dpl
from deepmd_lite.md import communicator

MODEL = Path(__file__).parents[2] / "data" / "silicon" / "silicon.dpl"
COPIES = (4, 4, 10)
"""Cubic cells of eight atoms; the front is perpendicular to z."""
LATTICE = 5.52  # Å, about that of the hot crystal
MELTING_AT = 4000.0  # K, of the half that is melted
TEMPERATURES = (1000.0, 1200.0, 1400.0, 1600.0, 1800.0)
TIMESTEP = 2.0
SETTLE = 0.3
"""Part of each run that is left out: thermal expansion of both phases, the front's first shape."""


def half_molten(model: str, steps: int, comm) -> Atoms | None:
    """The crystal with its upper half molten, on rank 0."""
    crystal = bulk("Si", cubic=True, a=LATTICE).repeat(COPIES)
    held = {"axis": "z", "below": 0.5 * LATTICE * COPIES[2] - 0.01}
    hot = {"type": "nvt-langevin", "friction": 0.01, "seed": 1}
    atoms: Atoms | None = crystal
    for temperature in (MELTING_AT, 1800.0):  # melt, then cool to where the crystal is left alone
        simulation = dpl.Simulation(
            atoms,
            model,
            ensemble={**hot, "temperature": temperature},
            frozen=held,
            velocities={"temperature": temperature, "seed": 1},
            timestep=TIMESTEP,
            precision="float32",
            comm=comm,
        )
        simulation.run(steps)
        atoms = simulation.atoms
    return atoms


def run(atoms: Atoms | None, model: str, kelvin: float, steps: int, folder: Path, comm) -> None:
    """Both phases at `kelvin` and zero pressure; thermo.csv and a trajectory in `folder`."""
    simulation = dpl.Simulation(
        atoms,
        model,
        ensemble={
            "type": "npt-scr",
            "temperature": kelvin,
            "pressure": "0 GPa",
            "coupling": "anisotropic",
            "barostat_time": 500.0,
            "compressibility": 0.012,
            "seed": 1,
        },
        velocities={"temperature": kelvin, "seed": 2},
        timestep=TIMESTEP,
        precision="float32",
        output={"directory": folder, "thermo": 20, "trajectory": max(1, steps // 5), "restart": 0},
        comm=comm,
        quiet=False,
    )
    simulation.run(steps)


def slope(thermo: np.ndarray, n_atoms: int) -> tuple[float, float]:
    """Of the potential energy, meV/atom/ps, after SETTLE; and its error from quarters."""
    late = thermo[int(SETTLE * len(thermo)) :]
    energies = 1000 * late["potential_eV"] / n_atoms
    times = late["time_fs"] / 1000
    parts = [
        np.polyfit(*pair, 1)[0] for pair in zip(*map(_quarters, (times, energies)), strict=True)
    ]
    return float(np.polyfit(times, energies, 1)[0]), float(np.std(parts, ddof=1) / 2)


def _quarters(x: np.ndarray) -> list[np.ndarray]:
    return np.array_split(x, 4)


def zero(temperatures: list[float], slopes: np.ndarray) -> float:
    """K where the slope passes zero, between neighbouring temperatures; nan if it does not."""
    for i in range(len(slopes) - 1):
        if slopes[i] < 0 <= slopes[i + 1]:
            share = -slopes[i] / (slopes[i + 1] - slopes[i])
            return temperatures[i] + share * (temperatures[i + 1] - temperatures[i])
    return float("nan")


def report(temperatures: list[float], folders: list[Path], n_atoms: int, output: Path) -> None:
    """Table and pictures of all runs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = []
    print("\n  T/K   meV/atom/ps    error")
    for kelvin, folder in zip(temperatures, folders, strict=True):
        thermo = np.genfromtxt(folder / "thermo.csv", delimiter=",", names=True)
        value, error = slope(thermo, n_atoms)
        rows.append((kelvin, value, error))
        print(f"{kelvin:5.0f} {value:>+13.2f} {error:>8.2f}  {'melts' if value > 0 else 'freezes'}")
        energies = thermo["potential_eV"] / n_atoms
        left.plot(thermo["time_fs"] / 1000, energies - energies[1], label=f"{kelvin:g} K")
    table = np.array(rows)
    point = zero(temperatures, table[:, 1])
    print(f"melting point {point:.0f} K")
    right.errorbar(table[:, 0], table[:, 1], table[:, 2], fmt="o-")
    right.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="time / ps", ylabel="potential energy − first / (eV/atom)")
    right.set(xlabel="T / K", ylabel="slope / (meV/atom/ps)", title=f"zero at {point:.0f} K")
    left.legend(fontsize="small")
    figure.savefig(output / "melting.png", dpi=120)
    header = "temperature_K,slope_meV_per_atom_ps,error"
    np.savetxt(output / "melting.csv", table, delimiter=",", header=header, comments="", fmt="%.4g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(MODEL))
    parser.add_argument("-o", "--output", type=Path, default=Path("melting"))
    parser.add_argument("--steps", type=int, default=15000, help="at each temperature, of 2 fs")
    given = parser.parse_args()
    comm = communicator()
    melt = half_molten(given.model, max(1, given.steps // 6), comm)
    folders = [given.output / f"{kelvin:g}K" for kelvin in TEMPERATURES]
    for kelvin, folder in zip(TEMPERATURES, folders, strict=True):
        run(melt, given.model, kelvin, given.steps, folder, comm)
    if comm.rank == 0:
        report(list(TEMPERATURES), folders, len(melt), given.output)


if __name__ == "__main__":
    main()
