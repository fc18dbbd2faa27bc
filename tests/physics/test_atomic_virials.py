"""Virials of single atoms, and the heat flux that is made of them."""

from __future__ import annotations

import copy
from unittest import mock

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.stress import voigt_6_to_full_3x3_stress
from models import (
    FAR,
    NEAR,
    environment_of,
    hybrid_potential,
    random_atoms,
    random_potential,
    short_range_potential,
)
from pair_potential import PairPotential

from deepmd_lite import Calculator
from deepmd_lite.committee import Committee
from deepmd_lite.md import Simulation
from deepmd_lite.md.observe.base import System
from deepmd_lite.md.observe.heat_flux import W_PER_M_K, HeatFlux
from deepmd_lite.md.observe.settings import HeatFluxSettings
from deepmd_lite.model import Repulsion
from deepmd_lite.system import InputError
from deepmd_lite.units import BOLTZMANN, KINETIC


def repelling():
    """All pairs of the structures below are in the repulsion."""
    potential = random_potential(("H", "O"))
    square = torch.ones(2, 2, dtype=torch.float64)
    numbers = torch.tensor([1.0, 8.0], dtype=torch.float64)
    potential.repulsion = Repulsion(numbers, 0.5 * square, 3.0 * square)
    return potential


MODELS = {
    "networks": lambda: random_potential(("H", "O")),
    "repulsion": repelling,
    "hybrid": lambda: hybrid_potential((NEAR, FAR)).freeze(),
    "table of close pairs": lambda: short_range_potential(("H", "O"), sw_rmin=1.6, sw_rmax=2.9),
}


@pytest.fixture(params=list(MODELS))
def potential(request):
    return MODELS[request.param]()


def by_definition(potential, env):
    """Σ_c (r_j − r_c) ⊗ −∂E_c/∂r_j, energy by energy."""
    positions = env.positions.clone().requires_grad_()
    energies = potential.energies(env, positions)
    found = torch.zeros(env.n_all, 3, 3, dtype=torch.float64)
    for c in range(env.n_local):
        (gradient,) = torch.autograd.grad(energies[c], positions, retain_graph=True)
        found -= (env.positions - env.positions[c])[:, :, None] * gradient[:, None, :]
    return found


def test_the_definition(potential):
    env = environment_of(random_atoms("H4O5", 7.0, 3), ["H", "O"], potential.rcut + 0.5).env
    found = potential.atomic_virials(env)
    expected = by_definition(potential, env)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.sum(dim=0), potential.evaluate(env).virial, rtol=0, atol=1e-10)
    assert (found - found.transpose(1, 2)).abs().max() > 1e-3  # of one atom it is not symmetric


def test_where_the_origin_is_does_not_matter(potential):
    env = environment_of(random_atoms("H4O5", 7.0, 3), ["H", "O"], potential.rcut).env
    far = copy.deepcopy(env)
    far.positions.add_(torch.tensor([100.0, -30.0, 7.0], dtype=torch.float64))
    a, b = potential.atomic_virials(env), potential.atomic_virials(far)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_float32(potential):
    env = environment_of(random_atoms("H4O5", 7.0, 3), ["H", "O"], potential.rcut).env
    expected = potential.atomic_virials(env)
    found = potential.to_precision("float32").freeze().atomic_virials(env)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_stresses_of_atoms_are_ase_s(potential):
    """In Voigt order, over the volume, tension positive: their sum is the stress."""
    atoms = random_atoms("H4O5", 7.0, 3, skew=0.1)
    atoms.calc = Calculator(potential)
    stresses, stress = atoms.get_stresses(), atoms.get_stress()
    assert stresses.shape == (9, 6)
    np.testing.assert_allclose(stresses.sum(axis=0), stress, atol=1e-12)
    assert np.abs(stresses).max() > 1e-4
    atoms.set_momenta(np.random.default_rng(1).normal(size=(9, 3)))
    moving = [f(include_ideal_gas=True) for f in (atoms.get_stresses, atoms.get_stress)]
    np.testing.assert_allclose(moving[0].sum(axis=0), moving[1], atol=1e-12)
    assert np.abs(moving[1] - stress).max() > 1e-4
    full = voigt_6_to_full_3x3_stress(stresses)
    assert atoms.get_stresses(voigt=False).shape == (9, 3, 3)
    env = environment_of(atoms, ["H", "O"], potential.rcut)
    virials = env.fold(potential.atomic_virials(env.env).flatten(1)).reshape(-1, 3, 3).numpy()
    symmetric = -0.5 * (virials + virials.transpose(0, 2, 1)) / atoms.get_volume()
    np.testing.assert_allclose(full, symmetric, atol=1e-12)


def test_of_several_models_the_first():
    models = [random_potential(("H", "O"), seed=seed) for seed in (1, 2)]
    env = environment_of(random_atoms("H4O5", 7.0, 3), ["H", "O"], models[0].rcut).env
    assert torch.equal(Committee(models).atomic_virials(env), models[0].atomic_virials(env))


# --- heat flux ------------------------------------------------------------------------------


def flux_of(simulation):
    """Of this moment, with energies as they are."""
    engine = simulation.engine
    system = System.of(engine, (False,) * 3, simulation.timestep, simulation.freedom)
    flux = HeatFlux(HeatFluxSettings(), System(**{**vars(system), "pbc": (True,) * 3}))
    return flux._flux(engine)


@pytest.mark.parametrize("kind", ["pairs", *MODELS])
def test_it_is_what_moves_the_energy(kind):
    """Of a cluster: J = d/dt Σ r_i e_i, by central differences along a trajectory."""
    model = PairPotential() if kind == "pairs" else MODELS[kind]()
    symbols = "Cu5Ag4" if kind == "pairs" else "H4O5"
    atoms = random_atoms(symbols, 7.0, 3)
    atoms.pbc, atoms.cell = False, None
    timestep = 0.02
    made = Simulation(
        atoms,
        model,
        velocities={"temperature": 600, "seed": 2},
        timestep=timestep,
        guards={"force": None, "temperature_jump": None},
    )

    def moment():
        state = made.engine.state
        kinetic = 0.5 * KINETIC * state.masses * (state.velocities**2).sum(dim=1)
        return ((made.engine.energies + kinetic)[:, None] * state.positions).sum(dim=0).numpy()

    moments, fluxes = [], []
    for _ in range(5):
        moments.append(moment())
        fluxes.append(flux_of(made))
        made.run(1)
    m = np.array(moments)
    expected = (8 * (m[3] - m[1]) - (m[4] - m[0])) / (12 * timestep)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(fluxes[2], expected, atol=2e-4 * np.abs(expected).max())


def test_conductivity_of_a_flux_that_decays():
    """Three components that forget exponentially: κ = ⟨J²⟩ τ / (V k_B T²)."""
    tau, spread, volume, kelvin, interval = 20.0, 0.3, 1000.0, 500.0, 4.0
    system = System(
        *(("Cu",), np.array([0, -1]), np.array([100]), np.array([100]), np.array([63.5])),
        *((True,) * 3, (False,) * 3, 5.0, 2.0, 300),
    )
    observable = HeatFlux(HeatFluxSettings(every=2, window=60), system)
    rng, kept = np.random.default_rng(1), np.exp(-interval / tau)
    flux = spread * rng.normal(size=3)
    for _ in range(10000):
        flux = kept * flux + np.sqrt(1 - kept**2) * spread * rng.normal(size=3)
        density = flux / volume
        observable.sums += [kelvin, volume, *density, *density**2]
        observable.take(flux)
    tables = observable.result()
    time, c, kappa, error = np.array(tables["thermal_conductivity"].rows).T
    assert time[1] == interval
    assert c[0] == pytest.approx(spread**2, rel=0.05)
    trapezoid = interval * (0.5 + kept / (1 - kept))  # of the sampled exponential
    expected = W_PER_M_K * spread**2 * trapezoid / (volume * BOLTZMANN * kelvin**2)
    assert kappa[40] == pytest.approx(expected, rel=0.1)
    assert 0 < error[40] < 0.15 * expected
    widths = [row[2] for row in tables["heat_flux"].rows]
    np.testing.assert_allclose(widths, spread / volume, rtol=0.05)


def test_unit_of_the_conductivity():
    """1 eV/(fs Å K) = 1.6e-19 J / (1e-15 s 1e-10 m K)."""
    assert pytest.approx(1.602176634e-19 / (1e-15 * 1e-10)) == W_PER_M_K


def test_large_energies_of_atoms_have_no_part_in_it(tmp_path):
    """The same table for a model whose energies have another zero for each element."""

    class Shifted(PairPotential):
        def evaluate(self, env):
            found = super().evaluate(env)
            zeros = torch.tensor([-1000.0, -3000.0], dtype=torch.float64)
            found.energies.add_(zeros[env.types[: env.n_local].long()])
            return found

    tables = []
    for model in (PairPotential(), Shifted()):
        atoms = bulk("Cu", cubic=True, a=3.7).repeat(2)
        atoms.symbols[::3] = "Ag"
        observe = {"heat_flux": {"every": 1, "window": 10}}
        output = {"directory": tmp_path / str(len(tables)), "observe": observe}
        made = Simulation(atoms, model, velocities={"temperature": 300}, output=output)
        made.run(12)
        tables.append(made.observables[0].result()["thermal_conductivity"].rows)
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6)
    assert np.abs(np.array(tables[0])[:, 1]).max() > 0


def test_models_without_them_say_so(tmp_path):
    class Without:
        rcut, type_map = 5.0, ["Cu", "Ag"]

        def evaluate(self, env):
            return PairPotential().evaluate(env)

    output = {"directory": tmp_path, "observe": {"heat_flux": {}}}
    with pytest.raises(InputError, match="observe/heat_flux: the model has no atomic_virials"):
        Simulation(bulk("Cu", cubic=True).repeat(2), Without(), output=output)


def test_a_gpu_is_not_asked():
    potential = random_potential(("H", "O"))
    potential.device = "cuda"
    env = environment_of(Atoms("HO", [[0, 0, 0], [1, 0, 0]]), ["H", "O"], potential.rcut).env
    with pytest.raises(InputError, match="virials of single atoms are not computed on device"):
        potential.atomic_virials(env)
    system = System(
        *(("Cu",), np.array([0]), np.array([4]), np.array([4]), np.array([63.5])),
        *((True,) * 3, (False,) * 3, 5.0, 2.0, 12),
    )
    there = mock.patch.object(type(potential), "torch_device", torch.device("cuda"))
    with there, pytest.raises(InputError, match="on the processor alone; use device: cpu"):
        HeatFlux(HeatFluxSettings(), system).check(potential)
