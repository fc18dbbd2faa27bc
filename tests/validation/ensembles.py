"""Do thermostats and barostats sample the distributions that they promise?

    python tests/validation/ensembles.py --plot ensembles.png

A silicon crystal of 64 atoms at 600 K, about twenty minutes. Constant volume: the kinetic energy of
N_f degrees of freedom must be distributed as kT/2 χ²(N_f). Constant pressure: the volume must have
the mean and the variance kT V κ, with the compressibility κ from an equation of state of the same
model at the same temperature, measured at constant volume. Each ensemble is sampled in eight runs
of their own, whose scatter gives the errors: the modes of a crystal exchange their energies so
slowly that parts of one run would not show it, which is also why Langevin dynamics goes before all
others. Exit status 1 if a mean or variance is so many
standard errors off, or a distribution so unlike by Kolmogorov and Smirnov's test, that it happens
by chance once in a thousand times.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from scipy.stats import chi2, kstest
from scipy.stats import t as student

from deepmd_lite.md import Simulation
from deepmd_lite.model import load_model
from deepmd_lite.system import DeepmdLiteError
from deepmd_lite.units import BOLTZMANN, EV_PER_A3_IN_GPA

MODEL = Path(__file__).parents[2] / "data/silicon/silicon.dpl"
KELVIN, PRESSURE, TIMESTEP = 600.0, 2.0, 2.0
"""K, GPa, fs."""
PICOSECONDS = 40.0
EQUILIBRATION, SETTLING = 4.0, 1.0
"""ps by Langevin dynamics, and in each ensemble that follows, before anything is measured."""
EVERY = 4
"""Steps between samples."""
BLOCKS = 8
"""Runs of an ensemble, or parts of one where a thermostat reaches every mode; for errors."""
LATTICE = 5.477
"""Å, of the crystal at rest."""
STRAINS = (-0.014, -0.010, -0.006, -0.002, 0.002)
"""Linear, of the equation of state; 2 GPa is at about −0.006."""
PROBABILITY = 1e-3
LIMIT = float(student(BLOCKS - 1).ppf(1 - PROBABILITY / 2))
"""Standard errors, each from BLOCKS numbers."""

THERMAL: dict[str, Any] = {"temperature": KELVIN}
FAST = {**THERMAL, "thermostat_time": 50.0}
TARGET = {**FAST, "pressure": f"{PRESSURE} GPa"}
NVT: dict[str, dict[str, Any]] = {
    "nvt-langevin": {**THERMAL, "friction": 0.02},
    "nvt-bussi": FAST,
    "nvt-nhc": FAST,
}
NPT: dict[str, dict[str, Any]] = {
    "npt-scr": {**TARGET, "barostat_time": 200.0, "compressibility": 0.0116},
    "npt-mtk": {**TARGET, "barostat_time": 300.0},  # oscillates with a period of 75 fs
}
FIRST = {"type": "nvt-langevin", **NVT["nvt-langevin"]}
"""Reaches every mode, so that all later runs begin with energies drawn from the ensemble."""
BAROSTAT = {"type": "npt-scr", **NPT["npt-scr"]}
"""Settles the cell: a barostat with a mass would ring for long."""
DETERMINISTIC = ("nvt-nhc", "npt-mtk")
COUPLINGS = ("isotropic", "anisotropic", "flexible")


@dataclass(frozen=True)
class Check:
    """One quantity of one ensemble beside what theory says."""

    ensemble: str
    quantity: str
    found: float
    expected: float
    error: float
    """Standard error of `found` − `expected`; 0 for a probability."""

    @property
    def deviation(self) -> float:
        """In standard errors."""
        return (self.found - self.expected) / self.error if self.error else 0.0

    @property
    def passed(self) -> bool:
        """Within the limits of this module."""
        return abs(self.deviation) < LIMIT if self.error else self.found > PROBABILITY

    def row(self) -> str:
        """A line of the table."""
        mark = "" if self.passed else "  FAILED"
        beside = f"{self.expected:>12.5g} {self.error:>10.2g} {self.deviation:>+7.2f}"
        rest = beside if self.error else f"{'> ' + format(PROBABILITY, 'g'):>12} {'':>10} {'':>7}"
        return f"{self.ensemble:<22} {self.quantity:<34} {self.found:>12.5g} {rest}{mark}"


HEADER = (
    f"{'ensemble':<22} {'quantity':<34} {'found':>12} {'expected':>12} {'std. err.':>10} {'off':>7}"
)


def correlation(x: np.ndarray) -> tuple[float, int]:
    """How many samples stand for one independent one in a mean of `x` (the autocorrelation's sum
    up to its first zero), and the lag at which samples can count as independent (twice the sum of
    its squares, which also sees oscillations)."""
    n, y = len(x), x - x.mean()
    power = np.abs(np.fft.rfft(y, 2 * n)) ** 2
    rho = np.fft.irfft(power)[:n] / np.arange(n, 0, -1)
    rho /= rho[0]
    end = int(np.argmax(rho < 0)) or n
    memory = 2.0 * float((rho[: n // 20] ** 2).sum()) - 1.0
    return float(max(1.0, 2.0 * rho[:end].sum() - 1.0)), int(np.ceil(2.0 * max(1.0, memory)))


def standard_error(x: np.ndarray) -> float:
    """Of the mean of a correlated series: the larger of what its autocorrelation says, and what
    the means of BLOCKS parts (the runs) say, which also see what is slow beneath what is fast."""
    blocks = [part.mean() for part in np.array_split(x, BLOCKS)]
    fast = x.std() * np.sqrt(correlation(x)[0] / len(x))
    return float(max(fast, np.std(blocks, ddof=1) / np.sqrt(BLOCKS)))


def mean_and_variance(x: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, its standard error, variance, its standard error, of a correlated series."""
    squares = (x - x.mean()) ** 2
    mean, variance = float(x.mean()), float(squares.mean())
    return mean, standard_error(x), variance, standard_error(squares)


def sampled(
    atoms: Atoms, model: Any, ensemble: dict[str, Any], picoseconds: float, seed: int, runs: int
) -> tuple[np.ndarray, int]:
    """(samples, 3): kinetic energy (eV), volume (Å³), pressure (GPa), run after run, `picoseconds`
    together; and the degrees of freedom."""
    stages = [FIRST]
    if "coupling" in ensemble:
        stages.append({**BAROSTAT, "coupling": ensemble["coupling"]})
    rows = []
    for run in range(runs):
        current = atoms
        for stage in [*stages, ensemble]:
            noise = {} if stage["type"] in DETERMINISTIC else {"seed": 100 * seed + run}
            hot = None if current.has("momenta") else {"temperature": 2 * KELVIN, "seed": seed}
            simulation = Simulation(
                current, model, ensemble={**stage, **noise}, velocities=hot, timestep=TIMESTEP
            )
            simulation.run(round(1000 * (SETTLING if hot is None else EQUILIBRATION) / TIMESTEP))
            current = simulation.atoms
        for _ in range(round(1000 * picoseconds / runs / TIMESTEP / EVERY)):
            thermo = simulation.run(EVERY).thermo
            rows.append((thermo.kinetic, thermo.volume, thermo.pressure * EV_PER_A3_IN_GPA))
    return np.array(rows), simulation.freedom


def kinetic_checks(name: str, kinetic: np.ndarray, freedom: int) -> list[Check]:
    """Mean, variance and shape of 2 E/kT, which should be χ² distributed."""
    reduced = 2.0 * kinetic / (BOLTZMANN * KELVIN)
    mean, mean_error, variance, variance_error = mean_and_variance(reduced)
    independent = reduced[:: correlation(reduced)[1]]
    probability = float(kstest(independent, chi2(freedom).cdf).pvalue)
    shape = f"χ² distribution, p of KS (n = {len(independent)})"
    kelvin, of_two = KELVIN / freedom, 1 / (2 * freedom)
    width = "variance of 2E/kT over 2 N_f"
    return [
        Check(name, "temperature / K", kelvin * mean, KELVIN, kelvin * mean_error),
        Check(name, width, of_two * variance, 1.0, of_two * variance_error),
        Check(name, shape, probability, 0.5, 0.0),
    ]


@dataclass(frozen=True)
class EquationOfState:
    """Volume and compressibility at KELVIN and PRESSURE, with their standard errors."""

    volume: float
    """Å³."""
    volume_error: float
    compressibility: float
    """1/GPa."""
    compressibility_error: float


def equation_of_state(atoms: Atoms, model: Any, picoseconds: float, seed: int) -> EquationOfState:
    """From mean pressures at constant volumes: ln V as a parabola in the pressure."""
    volumes, pressures, errors = [], [], []
    for strain in STRAINS:
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
        rows, _ = sampled(strained, model, FIRST, picoseconds, seed, 1)
        mean, error, _, _ = mean_and_variance(rows[:, 2])
        volumes.append(strained.get_volume())
        pressures.append(mean)
        errors.append(error)
    rng = np.random.default_rng(seed)

    def fit(p: np.ndarray) -> tuple[float, float]:
        curve = np.polyfit(p - PRESSURE, np.log(volumes), 2)
        return float(np.exp(curve[2])), float(-curve[1])

    draws = [fit(np.array(pressures) + errors * rng.normal(size=len(errors))) for _ in range(500)]
    volume, compressibility = fit(np.array(pressures))
    spread = np.std(draws, axis=0)
    return EquationOfState(volume, float(spread[0]), compressibility, float(spread[1]))


def volume_checks(name: str, volume: np.ndarray, eos: EquationOfState) -> list[Check]:
    """Mean volume, and the compressibility <δV²>/(kT V) beside that of the equation of state."""
    mean, mean_error, variance, variance_error = mean_and_variance(volume)
    scale = 1000 / (EV_PER_A3_IN_GPA * BOLTZMANN * KELVIN * mean)  # 1/(TPa Å⁶)
    volume_error = float(np.hypot(mean_error, eos.volume_error))
    expected, error = 1000 * eos.compressibility, 1000 * eos.compressibility_error
    error = float(np.hypot(scale * variance_error, error))
    return [
        Check(name, "volume / Å³", mean, eos.volume, volume_error),
        Check(name, "compressibility / (1/TPa)", scale * variance, expected, error),
    ]


def validate(
    model: Any, picoseconds: float, seed: int, show: Any = print
) -> tuple[list[Check], dict[str, np.ndarray], EquationOfState, int]:
    """All checks, samples (columns as in `sampled`) by ensemble, equation of state, N_f."""
    atoms = bulk("Si", cubic=True, a=LATTICE).repeat(2)
    eos = equation_of_state(
        bulk("Si", cubic=True, a=LATTICE).repeat(2), model, picoseconds / 2, seed
    )
    show(
        f"equation of state at {KELVIN:g} K and {PRESSURE:g} GPa: V = {eos.volume:.2f} ± "
        f"{eos.volume_error:.2f} Å³, κ = {1000 * eos.compressibility:.2f} ± "
        f"{1000 * eos.compressibility_error:.2f} /TPa"
    )
    show(HEADER)
    side = eos.volume ** (1 / 3)
    atoms.set_cell([side, side, side], scale_atoms=True)
    checks: list[Check] = []
    samples = {}
    runs = {k: {"type": k, **v} for k, v in NVT.items()}
    runs |= {f"{k} {c}": {"type": k, "coupling": c, **v} for k, v in NPT.items() for c in COUPLINGS}
    for number, (name, ensemble) in enumerate(runs.items()):
        rows, freedom = sampled(atoms, model, ensemble, picoseconds, seed + number, BLOCKS)
        samples[name] = rows
        found = kinetic_checks(name, rows[:, 0], freedom)
        if name not in NVT:
            found += volume_checks(name, rows[:, 1], eos)
        checks += found
        show("\n".join(check.row() for check in found))
    return checks, samples, eos, 3 * len(atoms) - 3


def plot(path: Path, samples: dict[str, np.ndarray], eos: EquationOfState, freedom: int) -> None:
    """Distributions of kinetic energy and volume with the lines of theory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    options = {"bins": 40, "density": True, "histtype": "step"}
    for name, rows in samples.items():
        if name in NVT:
            left.hist(2 * rows[:, 0] / (BOLTZMANN * KELVIN), label=name, **options)
        else:
            right.hist(rows[:, 1], label=name, **options)
    x = np.linspace(*chi2(freedom).ppf([1e-4, 1 - 1e-4]), 200)
    left.plot(x, chi2(freedom).pdf(x), "k", label=f"χ²({freedom})")
    variance = EV_PER_A3_IN_GPA * BOLTZMANN * KELVIN * eos.volume * eos.compressibility
    v = eos.volume + np.sqrt(variance) * np.linspace(-4, 4, 200)
    normal = np.exp(-((v - eos.volume) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    right.plot(v, normal, "k", label="equation of state")
    left.set(xlabel="2 E / kT", ylabel="density", title="kinetic energy")
    right.set(xlabel="V / Å³", title="volume")
    for axes in (left, right):
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="a .dpl file that knows Si")
    parser.add_argument("--picoseconds", type=float, default=PICOSECONDS, help="of each ensemble")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON of the results")
    parser.add_argument("--plot", type=Path, help="PNG of the distributions")
    return parser.parse_args()


def main() -> int:
    """0 if every check passes."""
    given = _arguments()
    model = load_model(given.model, "float32")

    def show(line: str) -> None:
        print(line, flush=True)

    checks, samples, eos, freedom = validate(model, given.picoseconds, given.seed, show)
    if given.out:
        results = [{**asdict(c), "deviation": c.deviation, "passed": c.passed} for c in checks]
        text = json.dumps({"equation of state": asdict(eos), "checks": results}, indent=2)
        given.out.write_text(text + "\n")
    if given.plot:
        plot(given.plot, samples, eos, freedom)
    failed = [c for c in checks if not c.passed]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (DeepmdLiteError, OSError) as error:
        sys.exit(f"ensembles: {error}")
