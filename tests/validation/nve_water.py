"""Liquid water at constant energy: how fast does the total energy drift?

    python tests/validation/nve_water.py --model water.dpl --data FOLDER --plot nve.png

64 molecules from a frame of the test set are brought to 330 K by a Langevin thermostat, which then
lets go of them: 20 ps at 0.5 fs, by default with float32 arithmetic. Exit status 1 if the drift,
the slope of a line through the total energy per atom, is not below 0.1 meV/atom/ps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read

from deepmd_lite.md import Simulation
from deepmd_lite.md.report import RunResult
from deepmd_lite.system import DeepmdLiteError, InputError

LIMIT = 0.1
"""meV/atom/ps, of the drift."""
KELVIN, TIMESTEP, PICOSECONDS = 330.0, 0.5, 20.0
EQUILIBRATION = 2.0
"""ps with the thermostat, twenty times its own time."""
FRICTION = 0.01
"""1/fs, of the thermostat."""
EVERY = 10
"""Steps between samples."""
BLOCKS = 20


@dataclass(frozen=True)
class Drift:
    """What came of one run; its times (ps) and energies (meV/atom, from the first) beside it."""

    precision: str
    n_atoms: int
    picoseconds: float
    steps: int
    timestep_fs: float
    drift_meV_per_atom_ps: float
    standard_error: float
    """Of the drift, from the scatter of the means of 20 stretches: neighbouring samples are not
    independent, stretches are."""
    fluctuation_meV_per_atom: float
    """Standard deviation around the line."""
    temperature_K: float
    beyond_table: int
    """Pairs closer than any the model's table knows, over all steps: 0 in a sound run."""
    milliseconds_per_step: float


def slope(time: np.ndarray, energy: np.ndarray) -> tuple[float, float, float]:
    """Slope of the line through all samples, its standard error, and their scatter around it."""
    line = np.polyfit(time, energy, 1)
    n = len(time) // BLOCKS * BLOCKS
    t, e = (x[:n].reshape(BLOCKS, -1).mean(axis=1) for x in (time, energy))
    rest = e - np.polyval(np.polyfit(t, e, 1), t)
    variance = (rest**2).sum() / (BLOCKS - 2) / ((t - t.mean()) ** 2).sum()
    return float(line[0]), float(np.sqrt(variance)), float(np.std(energy - np.polyval(line, time)))


def equilibrated(atoms: Atoms, model: Path, picoseconds: float, *, seed: int, quiet: bool) -> Atoms:
    """The atoms after some time at 330 K, with velocities; in float32, whatever comes after."""
    simulation = Simulation(
        atoms,
        str(model),
        ensemble={
            "type": "nvt-langevin",
            "temperature": KELVIN,
            "friction": FRICTION,
            "seed": seed,
        },
        velocities={"temperature": KELVIN, "seed": seed},
        timestep=TIMESTEP,
        precision="float32",
        quiet=quiet,
    )
    _run(simulation, picoseconds)
    final = simulation.atoms
    assert final is not None  # on one rank
    return final


def nve(
    atoms: Atoms, model: Path, picoseconds: float, precision: str, quiet: bool = True
) -> tuple[Drift, np.ndarray, np.ndarray]:
    """A run at constant energy: what it shows, times (ps), energies from the first (meV/atom)."""
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(
            atoms,
            str(model),
            timestep=TIMESTEP,
            precision=precision,
            output={"directory": folder, "thermo": EVERY, "trajectory": 0, "restart": 0},
            quiet=quiet,
        )
        result = _run(simulation, picoseconds)
        table = np.genfromtxt(Path(folder) / "thermo.csv", delimiter=",", names=True)
    time = table["time_fs"] / 1000.0
    energy = (table["total_eV"] - table["total_eV"][0]) / len(atoms) * 1000.0
    drift, error, fluctuation = slope(time, energy)
    found = Drift(
        precision=precision,
        n_atoms=len(atoms),
        picoseconds=float(time[-1]),
        steps=result.steps,
        timestep_fs=TIMESTEP,
        drift_meV_per_atom_ps=drift,
        standard_error=error,
        fluctuation_meV_per_atom=fluctuation,
        temperature_K=float(table["temperature_K"].mean()),
        beyond_table=result.beyond_table,
        milliseconds_per_step=1000.0 * result.seconds / result.steps,
    )
    return found, time, energy


def _run(simulation: Simulation, picoseconds: float) -> RunResult:
    result = simulation.run(round(1000.0 * picoseconds / TIMESTEP))
    if result.signal:
        raise KeyboardInterrupt
    return result


def plot(path: Path, runs: list[tuple[Drift, np.ndarray, np.ndarray]]) -> None:
    """Total energy against time, with the line whose slope is the drift."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for found, time, energy in runs:
        label = (
            f"{found.precision}: {found.drift_meV_per_atom_ps:+.4f} ± "
            f"{found.standard_error:.4f} meV/atom/ps"
        )
        (line,) = axes.plot(time, energy, lw=0.4, alpha=0.5)
        fit = np.polyval(np.polyfit(time, energy, 1), time)
        axes.plot(time, fit, color=line.get_color(), label=label)
    axes.set(xlabel="time / ps", ylabel="total energy − first / meV per atom")
    axes.set_title(f"{runs[0][0].n_atoms // 3} H₂O, NVE at {runs[0][0].temperature_K:.0f} K")
    axes.legend()
    figure.savefig(path, dpi=150)


def summary(found: Drift) -> str:
    """One line."""
    return (
        f"{found.precision}: {found.n_atoms} atoms, {found.picoseconds:g} ps at "
        f"{found.temperature_K:.0f} K: drift {found.drift_meV_per_atom_ps:+.5f} ± "
        f"{found.standard_error:.5f} meV/atom/ps, fluctuation "
        f"{found.fluctuation_meV_per_atom:.4f} meV/atom, {found.milliseconds_per_step:.2f} ms/step"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a .dpl file that knows H and O")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--structure", help="a frame of water, anything ASE reads (file@index)")
    source.add_argument("--data", type=Path, help="folder: the first frame of its test.xyz")
    parser.add_argument("--picoseconds", type=float, default=PICOSECONDS, help="of float32")
    parser.add_argument("--float64", type=float, default=0.0, metavar="PS", help="ps of float64")
    parser.add_argument("--equilibration", type=float, default=EQUILIBRATION, metavar="PS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON of the results")
    parser.add_argument("--plot", type=Path, help="PNG of the total energy against time")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


def main() -> int:
    """0 if every run drifts less than the limit."""
    given = _arguments()
    start = read(given.structure if given.structure else f"{given.data / 'test.xyz'}@0")
    if not isinstance(start, Atoms):
        raise InputError(f"{given.structure}: expected one frame, found {len(start)}")
    atoms = equilibrated(
        start, given.model, given.equilibration, seed=given.seed, quiet=given.quiet
    )
    runs = [nve(atoms, given.model, given.picoseconds, "float32", given.quiet)]
    if given.float64:
        runs.append(nve(atoms, given.model, given.float64, "float64", given.quiet))
    results = [found for found, _, _ in runs]
    for found in results:
        print(summary(found))
    if given.out:
        text = json.dumps({"limit": LIMIT, "runs": [asdict(found) for found in results]}, indent=2)
        given.out.write_text(text + "\n")
    if given.plot:
        plot(given.plot, runs)
    return int(not all(abs(found.drift_meV_per_atom_ps) < LIMIT for found in results))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (DeepmdLiteError, OSError) as error:
        sys.exit(f"nve_water: {error}")
