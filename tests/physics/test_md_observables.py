"""Observables against what is known exactly: gases, crystals, oscillators, Brownian motion."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.units import fs
from pair_potential import PairPotential

from deepmd_lite.md import Simulation
from deepmd_lite.md.engine import Totals
from deepmd_lite.md.observe.base import System
from deepmd_lite.md.observe.settings import StressSettings
from deepmd_lite.md.observe.stress import Stress
from deepmd_lite.md.observe.vacf import spectrum
from deepmd_lite.system import Evaluation
from deepmd_lite.units import ACCELERATION, BOLTZMANN, KINETIC


class Gas:
    """Atoms that do not see each other."""

    type_map = ["Cu", "Ag"]

    def __init__(self, rcut=4.0):
        self.rcut = rcut

    def evaluate(self, env):
        energies = torch.zeros(env.n_local, dtype=torch.float64)
        zero = torch.zeros(3, 3, dtype=torch.float64)
        return Evaluation(energies, torch.zeros_like(env.positions), zero)


class EinsteinCrystal(Gas):
    """Each atom on a spring at the nearest point of a cubic lattice of constant `a` Å."""

    def __init__(self, a, stiffness):
        super().__init__()
        self.a, self.stiffness = a, stiffness

    def evaluate(self, env):
        x = env.positions[: env.n_local]
        x = x - self.a * torch.round(x / self.a)
        forces = torch.zeros_like(env.positions)
        forces[: env.n_local] = -self.stiffness * x
        energies = 0.5 * self.stiffness * (x**2).sum(dim=1)
        return Evaluation(energies, forces, torch.zeros(3, 3, dtype=torch.float64))


def observed(tmp_path, atoms, model, steps, observe, **options):
    """The tables of a run, by name, each a dictionary of columns."""
    quiet = {"thermo": 0, "trajectory": 0, "restart": 0}
    output = {"directory": tmp_path / "run", **quiet, "observe": observe}
    passing = {"distance": None}  # atoms that do not see each other may meet
    simulation = Simulation(atoms, model, output=output, guards=passing, **options)
    simulation.run(steps)
    tables = {}
    for observable in simulation.observables:
        for name, table in observable.result().items():
            assert (tmp_path / "run" / f"{name}.csv").read_bytes() == table.csv()
            tables[name] = dict(zip(table.columns, np.array(table.rows).T, strict=True))
    return tables


def gas(n, length, seed=1):
    rng = np.random.default_rng(seed)
    symbols = ["Cu", "Ag"] * (n // 2)
    atoms = Atoms(symbols, length * rng.random((n, 3)), cell=[length] * 3, pbc=True)
    atoms.set_cell(
        atoms.cell.array + np.array([[0, 0, 0], [3, 0, 0], [-2, 4, 0]]), scale_atoms=True
    )
    return atoms


# --- radial distribution --------------------------------------------------------------------


def test_rdf_of_a_gas_is_one(tmp_path):
    """Within five standard deviations of the numbers of pairs, in every bin, for every pair."""
    atoms = gas(2000, 25.0)
    rdf = observed(tmp_path, atoms, Gas(), 0, {"rdf": {"bins": 20}})["rdf"]
    r, volume = rdf["r_A"], atoms.get_volume()
    assert r[-1] == pytest.approx(4.0 - 0.1)
    for pair, pairs, unlike in (("Cu-Cu", 500, 0), ("Ag-Ag", 500, 0), ("Cu-Ag", 1000, 1)):
        expected = 1.0 if unlike else 1.0 - 1.0 / 1000
        counted = 1000 * pairs * 4 * np.pi * r**2 * 0.2 / volume  # each pair once
        error = 1.0 / np.sqrt(np.maximum(counted, 1.0))
        assert (np.abs(rdf[f"g_{pair}"] - expected) < 5 * error).all()
    assert np.sqrt(np.mean((rdf["g_Cu-Ag"][5:] - 1) ** 2)) < 0.1


def test_rdf_counts_what_ase_counts_beyond_the_cutoff_too(tmp_path):
    atoms = gas(60, 6.0)
    for r_max in (3.5, 8.0):  # the second: longer than the cutoff and than the cell
        found = observed(
            tmp_path / str(r_max), atoms, Gas(), 0, {"rdf": {"bins": 25, "r_max": r_max}}
        )["rdf"]
        i, j, d = neighbor_list("ijd", atoms, r_max)
        for a, b in (("Cu", "Cu"), ("Cu", "Ag"), ("Ag", "Cu"), ("Ag", "Ag")):
            chosen = (atoms.symbols[i] == a) & (atoms.symbols[j] == b)
            counts, _ = np.histogram(d[chosen], 25, (0.0, r_max))
            np.testing.assert_allclose(found[f"n_{a}-{b}"], np.cumsum(counts) / 30, rtol=1e-12)


def test_rdf_of_a_moving_system_beyond_the_cutoff(tmp_path):
    """Between two neighbour lists, where atoms have left the places for which it was made."""
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
    quiet = {"thermo": 0, "trajectory": 0, "restart": 0, "directory": tmp_path}
    simulation = Simulation(
        atoms,
        PairPotential(),
        velocities={"temperature": 1500},
        timestep=3.0,
        output={**quiet, "observe": {"rdf": {"every": 7, "r_max": 7.0, "bins": 40}}},
    )
    counts = np.zeros(40)
    for _ in range(3):
        counts += np.histogram(neighbor_list("d", simulation.atoms, 7.0), 40, (0.0, 7.0))[0]
        simulation.run(7)
    counts += np.histogram(neighbor_list("d", simulation.atoms, 7.0), 40, (0.0, 7.0))[0]
    np.testing.assert_array_equal(simulation.observables[0].pairs[0], counts)


def test_rdf_of_a_crystal_has_its_shells(tmp_path):
    """fcc: 12 at a/√2, 6 at a, 24 at a√(3/2); of L1₂ order, elements as they should be."""
    a = 3.6
    atoms = bulk("Ag", cubic=True, a=a).repeat(3)
    atoms.numbers[::4] = 29  # the corners
    rdf = observed(tmp_path, atoms, Gas(4.5), 0, {"rdf": {"bins": 450}})["rdf"]
    r, edge = rdf["r_A"], rdf["r_A"] + 0.005

    def within(pair, radius):
        return rdf[f"n_{pair}"][np.searchsorted(edge, radius + 0.01)]

    for radius, cu_cu, cu_ag, ag_cu, ag_ag in (
        (a / np.sqrt(2), 0, 12, 4, 8),
        (a, 6, 12, 4, 14),
        (a * np.sqrt(1.5), 6, 36, 12, 30),
    ):
        found = [within(p, radius) for p in ("Cu-Cu", "Cu-Ag", "Ag-Cu", "Ag-Ag")]
        np.testing.assert_allclose(found, [cu_cu, cu_ag, ag_cu, ag_ag], rtol=1e-12)
    peaks = r[rdf["g_Cu-Ag"] > 0]
    assert np.abs(peaks[:, None] - [a / np.sqrt(2), a * np.sqrt(1.5)]).min(axis=1).max() < 0.011


# --- displacements --------------------------------------------------------------------------


def test_msd_of_free_flight_is_ballistic(tmp_path):
    """⟨v²⟩ t², through many periods of the cell, without the motion of the centre of mass."""
    atoms = gas(60, 12.0)
    rng = np.random.default_rng(2)
    velocities = 0.02 * rng.normal(size=(60, 3))
    masses = atoms.get_masses()[:, None]
    velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    atoms.set_velocities((velocities + np.array([0.05, -0.1, 0.2])) / fs)
    msd = {"msd": {"every": 2, "window": 40, "origins": 3}}
    tables = observed(tmp_path, atoms, Gas(2.0), 300, msd, timestep=2.5, skin=4.0)
    t = tables["msd"]["time_fs"]
    np.testing.assert_allclose(t, 5.0 * np.arange(40))
    for k, element in enumerate(("Cu", "Ag")):
        speed2 = (velocities[k::2] ** 2).sum(axis=1).mean()
        np.testing.assert_allclose(tables["msd"][f"msd_{element}_A2"], speed2 * t**2, atol=1e-8)
    assert (tables["diffusion"]["windows"].astype(float) == 9).all()


@pytest.mark.parametrize("steps", [150, 1500])
def test_diffusion_of_brownian_particles(steps, tmp_path):
    """Einstein's relation D = k_B T / (m γ), with the factor of the time step of BAOAB; also where
    no window is complete. The error that is given is neither far too small nor useless."""
    friction, timestep, kelvin = 0.1, 3.0, 600.0
    tables = observed(
        tmp_path,
        gas(300, 60.0),
        Gas(1.5),
        steps,
        {"msd": {"every": 5, "window": 40, "origins": 2, "fit_from": 0.3}},
        ensemble={"type": "nvt-langevin", "temperature": kelvin, "friction": friction, "seed": 2},
        velocities={"temperature": kelvin},
        timestep=timestep,
        skin=4.0,
    )
    diffusion = tables["diffusion"]
    found = diffusion["D_cm2_per_s"].astype(float)
    error = diffusion["error_cm2_per_s"].astype(float)
    half = 0.5 * friction * timestep
    mass = np.array([63.546, 107.8682])
    expected = 0.1 * ACCELERATION * BOLTZMANN * kelvin / (mass * friction) * half / np.tanh(half)
    assert diffusion["element"].tolist() == ["Cu", "Ag"]
    if steps == 1500:
        assert (np.abs(found - expected) < 4 * error + 0.01 * expected).all()
        assert (error < 0.15 * expected).all()
        assert (error > 0.002 * expected).all()
    else:
        np.testing.assert_allclose(found, expected, rtol=0.5)
        assert (diffusion["windows"].astype(float) == 0).all()


# --- velocities -----------------------------------------------------------------------------


def test_vdos_of_an_einstein_crystal_has_its_peak(tmp_path):
    """C(t) = ⟨v²⟩ cos ωt, and all of the spectrum at ν = ω/2π, for two masses."""
    a, stiffness, kelvin = 4.0, 3.0, 300.0
    atoms = Atoms("Cu", cell=[a] * 3, pbc=True).repeat(6)
    atoms.numbers[1::2] = 47
    atoms.set_masses("defaults")
    rng = np.random.default_rng(3)
    spread = np.sqrt(BOLTZMANN * kelvin / stiffness)
    atoms.positions += spread * rng.normal(size=atoms.positions.shape)
    tables = observed(
        tmp_path,
        atoms,
        EinsteinCrystal(a, stiffness),
        1500,
        {"vacf": {"every": 5, "window": 200, "origins": 5}},
        velocities={"temperature": kelvin},
        timestep=2.0,
    )
    vacf, vdos = tables["vacf"], tables["vdos"]
    t, frequency = vacf["time_fs"], vdos["frequency_THz"]
    step = frequency[1]
    for element, mass in (("Cu", 63.546), ("Ag", 107.8682)):
        omega = np.sqrt(stiffness * ACCELERATION / mass)
        expected = 3 * BOLTZMANN * kelvin / (KINETIC * mass)
        c = vacf[f"vacf_{element}_A2_per_fs2"]
        assert np.abs(c / expected - np.cos(omega * t)).max() < 0.25
        density = vdos[f"vdos_{element}_per_THz"]
        peak = 1e3 * omega / (2 * np.pi)
        assert frequency[np.argmax(density)] == pytest.approx(peak, abs=step)
        assert density.sum() * step == pytest.approx(1.0, abs=0.01)
        assert density[np.abs(frequency - peak) < 1.0].sum() * step == pytest.approx(1.0, abs=0.05)
    total = 0.5 * (vdos["vdos_Cu_per_THz"] + vdos["vdos_Ag_per_THz"])
    np.testing.assert_allclose(vdos["vdos_total_per_THz"], total, atol=0.2 * total.max())
    np.testing.assert_allclose(vdos["wavenumber_per_cm"][1], step * 33.35641, rtol=1e-6)


def test_spectrum_of_a_decay_is_a_lorentzian():
    """C = exp(−t/τ): S(ν) = 4τ / (1 + (2πντ)²); the window widens it hardly, where it is long."""
    tau, interval = 100.0, 2.0
    c = np.exp(-np.arange(4000) * interval / tau)[:, None]
    frequency, density = spectrum(c, interval)
    expected = 4e-3 * tau / (1 + (2e-3 * np.pi * frequency * tau) ** 2)
    low = frequency < 10
    np.testing.assert_allclose(density[low, 0], expected[low], rtol=0.02)


# --- stress ---------------------------------------------------------------------------------


def system(**changes):
    known = {
        "elements": ("Cu",),
        "of_type": np.array([0]),
        "counts": np.array([100.0]),
        "free": np.array([100.0]),
        "masses": np.array([63.5]),
        "pbc": (True,) * 3,
        "absent": (False,) * 3,
        "rcut": 4.0,
        "timestep": 2.0,
        "freedom": 300,
    }
    return System(**{**known, **changes})


def test_viscosity_of_a_stress_that_decays(tmp_path):
    """Five components that forget exponentially: η = V s² τ / k_B T."""
    tau, spread, volume, kelvin, every = 20.0, 0.01, 1000.0, 500.0, 2
    stress = Stress(StressSettings(every=every, window=60), system())
    rng, interval = np.random.default_rng(1), 2.0 * every
    kept = np.exp(-interval / tau)
    shear, seen = spread * rng.normal(size=5), []
    twice_kinetic = 300 * BOLTZMANN * kelvin
    for step in range(10000):
        shear = kept * shear + np.sqrt(1 - kept**2) * spread * rng.normal(size=5)
        xy, xz, yz, a, b = shear  # xx − yy = 2a, 2zz − xx − yy = 2√3 b
        b /= np.sqrt(3)
        tensor = np.array([[a - b, xy, xz], [xy, -a - b, yz], [xz, yz, 2 * b]]) + 0.002 * np.eye(3)
        kinetic = np.eye(3) * twice_kinetic / 3
        totals = Totals(0.0, kinetic, -tensor * volume - kinetic, 0)
        seen.append(tensor)
        stress.sample(SimpleNamespace(totals=lambda t=totals: t, volume=volume), step, 0.0)
    tables = {k: np.array(t.rows) for k, t in stress.result().items()}
    time, c, eta, error = tables["viscosity"].T
    gpa = 160.21766208
    assert c[0] == pytest.approx((spread * gpa) ** 2, rel=0.05)
    assert time[1] == interval
    trapezoid = interval * (0.5 + kept / (1 - kept))  # of the sampled exponential
    expected = gpa * 1e-3 * volume * spread**2 * trapezoid / (BOLTZMANN * kelvin)
    assert eta[30] == pytest.approx(expected, rel=0.1)
    assert 0 < error[30] < 0.1 * expected
    voigt = gpa * np.array(seen)[:, (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    found = tables["stress"][:, 1:].astype(float).T
    np.testing.assert_allclose(found, [voigt.mean(axis=0), voigt.std(axis=0)], atol=1e-9)


def test_stress_of_a_run_is_that_of_thermo(tmp_path):
    atoms = bulk("Cu", cubic=True, a=3.6).repeat(2)
    table = observed(
        tmp_path, atoms, PairPotential(), 0, {"stress": {}}, velocities={"temperature": 300}
    )
    assert table == {}  # one sample has no correlation yet
    output = {"directory": tmp_path / "b", "thermo": 1, "observe": {"stress": {"every": 1}}}
    simulation = Simulation(atoms, PairPotential(), output=output, timestep=2.0)
    simulation.run(20)
    thermo = np.genfromtxt(tmp_path / "b/thermo.csv", delimiter=",", names=True)
    expected = [thermo[f"stress_{xy}_GPa"].mean() for xy in ("xx", "yy", "zz", "yz", "xz", "xy")]
    found = [row[1] for row in simulation.observables[0].result()["stress"].rows]
    np.testing.assert_allclose(found, expected, atol=1e-9)


# --- profiles -------------------------------------------------------------------------------


def test_temperature_profile(tmp_path):
    """Hot in one half, cold in the other, denser there: each slice has its own temperature."""
    rng = np.random.default_rng(4)
    z = np.concatenate([rng.uniform(0, 10, 300), rng.uniform(10, 20, 600)])
    atoms = Atoms(
        "Cu900", np.column_stack([8 * rng.random((900, 2)), z]), cell=[8, 8, 20], pbc=True
    )
    kelvin = np.where(z < 10, 900.0, 300.0)
    velocities = rng.normal(size=(900, 3))
    for half in (z < 10, z >= 10):
        velocities[half] /= np.sqrt((velocities[half] ** 2).mean())
    velocities *= np.sqrt(BOLTZMANN * kelvin / (KINETIC * 63.546))[:, None]
    atoms.set_velocities(velocities / fs)
    atoms.positions += rng.integers(-1, 2, (900, 3)) @ atoms.cell.array
    profile = observed(tmp_path, atoms, Gas(1.0), 0, {"temperature_profile": {"bins": 2}})
    profile = profile["temperature_profile"]
    np.testing.assert_allclose(profile["position_A"], [5.0, 15.0])
    np.testing.assert_allclose(profile["temperature_K"], [900.0, 300.0], rtol=1e-6)
    np.testing.assert_allclose(profile["atoms"], [300, 600])
    np.testing.assert_allclose(profile["density_per_A3"], [300 / 640, 600 / 640])
