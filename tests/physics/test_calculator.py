"""The ASE calculator as ASE users meet it."""

import multiprocessing
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from models import random_atoms, random_potential

from deepmd_lite import neighbors
from deepmd_lite.calculator import Calculator
from deepmd_lite.model import save_model
from deepmd_lite.system import InputError, ModelFileError


@pytest.fixture(name="potential", scope="module")
def _potential():
    return random_potential()


def silicon(seed=0, strain=0.04):
    rng = np.random.default_rng(seed)
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3))), True)
    atoms.rattle(0.15, seed=seed)
    return atoms


def test_stress_has_the_sign_and_order_of_ase(potential):
    atoms = silicon()
    atoms.calc = Calculator(potential)
    stress = atoms.get_stress()
    assert "virial" not in atoms.calc.results  # what ASE does not know stops SinglePointCalculator
    virial = atoms.calc.get_property("virial", atoms)
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(stress, numerical, atol=1e-8)
    assert np.abs(stress).min() > 1e-5  # all six distinct enough for an order to be seen
    assert len(set(np.round(stress, 5))) == 6
    voigt = -virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / atoms.get_volume()
    np.testing.assert_allclose(stress, voigt, atol=1e-12)


def test_a_compressed_crystal_pushes_outwards(potential):
    """Whatever the model: stress = (1/V) dE/d(strain), seen along an isotropic path."""
    atoms = silicon(strain=0.0)
    atoms.calc = Calculator(potential)
    h, energies = 1e-4, []
    for scale in (1 - h, 1 + h):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * scale, scale_atoms=True)
        scaled.calc = atoms.calc
        energies.append(scaled.get_potential_energy())
    slope = (energies[1] - energies[0]) / (2 * h)
    assert atoms.get_stress()[:3].sum() * atoms.get_volume() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_partial_periodicity(potential, pbc):
    atoms = silicon(1)
    atoms.pbc = pbc
    atoms.calc = Calculator(potential)
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
    if not any(pbc):
        with pytest.raises(PropertyNotImplementedError, match="periodic in one direction"):
            atoms.get_stress()
        return
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-8)


def test_the_cell_of_a_slab_relaxes_in_its_plane():
    slab = silicon(2, strain=0.02)
    slab.set_constraint(FixAtoms(range(len(slab))))
    slab.pbc = (1, 1, 0)
    slab.calc = Calculator(Path(__file__).parents[2] / "data" / "silicon" / "silicon.dpl")
    before = slab.cell.array.copy()
    relaxation = BFGS(FrechetCellFilter(slab, mask=[1, 1, 0, 0, 0, 1]), logfile=None)
    assert relaxation.run(fmax=0.005, steps=100)
    np.testing.assert_allclose(slab.get_stress()[[0, 1, 5]], 0.0, atol=5e-4)
    assert np.abs(slab.cell.array - before)[:2, :2].max() > 1e-3


def test_arguments_that_nothing_would_heed(potential):
    for wrong, meant in (("presicion", "precision"), ("devise", "device")):
        with pytest.raises(InputError, match=f"'{wrong}'; did you mean '{meant}'"):
            Calculator(potential, **{wrong: "float32"})
    with pytest.raises(InputError, match="known: model, device"):
        Calculator(potential, foo=1)
    calculator = Calculator(potential, label="silicon", atoms=silicon())
    assert calculator.label == "silicon"
    with pytest.raises(InputError, match="make a new calculator"):
        calculator.set(precision="float32")
    for nothing in (None, 3):
        with pytest.raises(InputError, match="expected the path of a model file"):
            Calculator(nothing)


def test_slab_is_the_bulk_with_vacuum(potential):
    """An open direction is what a wide vacuum in a periodic one tends to."""
    slab = silicon(2)
    slab.cell[2] = [0, 0, 40]
    slab.pbc = (1, 1, 1)
    open_slab = slab.copy()
    open_slab.pbc = (1, 1, 0)
    no_vector = open_slab.copy()
    no_vector.cell[2] = 0
    energies = []
    for atoms in (slab, open_slab, no_vector):
        atoms.calc = Calculator(potential)
        energies.append(atoms.get_potential_energy())
    np.testing.assert_allclose(energies, energies[0], atol=1e-11)


def test_cells_smaller_than_the_cutoff_and_one_atom(potential):
    primitive = bulk("Si")
    primitive.calc = Calculator(potential)
    supercell = primitive.repeat((4, 3, 5))
    supercell.calc = Calculator(potential)
    per_atom = primitive.get_potential_energy() / 2
    assert supercell.get_potential_energy() / len(supercell) == pytest.approx(per_atom, abs=1e-12)
    np.testing.assert_allclose(primitive.get_stress(), supercell.get_stress(), atol=1e-12)
    alone = Atoms("Si")
    alone.calc = Calculator(potential)
    assert np.isfinite(alone.get_potential_energy())
    assert not alone.get_forces().any()
    chain = Atoms("Si", cell=[2.5, 0, 0], pbc=(1, 0, 0))
    chain.calc = Calculator(potential)
    ring = chain.repeat((6, 1, 1))
    ring.calc = Calculator(potential)
    assert ring.get_potential_energy() == pytest.approx(6 * chain.get_potential_energy())


def test_results_are_plain_and_complete(potential):
    atoms = silicon()
    atoms.calc = Calculator(potential)
    energy = atoms.get_potential_energy()
    assert type(energy) is float
    assert atoms.calc.get_property("free_energy", atoms) == energy
    energies = atoms.get_potential_energies()
    assert energies.shape == (len(atoms),)
    assert energies.sum() == pytest.approx(energy)


def test_the_list_is_reused_and_never_stale(potential):
    """Walk, strain and jump with one calculator; a fresh one must always agree."""
    rng = np.random.default_rng(3)
    atoms = silicon(3) * (2, 1, 1)
    calculator = Calculator(potential, skin=0.6)
    atoms.calc = calculator
    lists = []
    for step in range(30):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        if step % 5 == 2:
            strain = np.eye(3) + rng.normal(scale=0.01, size=(3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        if step == 12:
            atoms.positions[3] += atoms.cell[0]
        if step == 20:
            atoms.wrap()
        forces = atoms.get_forces()
        lists.append(calculator._list)
        fresh = atoms.copy()
        fresh.calc = Calculator(potential, skin=0.0)
        np.testing.assert_allclose(forces, fresh.get_forces(), atol=1e-10)
        np.testing.assert_allclose(atoms.get_stress(), fresh.get_stress(), atol=1e-10)
    assert 1 < len({id(x) for x in lists}) < 25


def test_every_change_that_counts_is_evaluated_once(potential, monkeypatch):
    evaluations = []
    evaluate = type(potential).evaluate
    monkeypatch.setattr(
        type(potential), "evaluate", lambda *a: evaluations.append(1) or evaluate(*a)
    )
    atoms = silicon()
    atoms.calc = Calculator(potential)

    def n_evaluations():
        evaluations.clear()
        found = atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energy()
        fresh = atoms.copy()
        count = len(evaluations)
        fresh.calc = Calculator(potential)
        assert found[2] == pytest.approx(fresh.get_potential_energy(), abs=1e-9)
        return count

    assert [n_evaluations(), n_evaluations()] == [1, 0]
    atoms.positions[3, 1] += 1e-6
    assert n_evaluations() == 1
    atoms.set_cell(atoms.cell.array * 1.001)
    assert n_evaluations() == 1
    atoms.set_initial_charges(np.ones(len(atoms)))  # no energy depends on them
    assert n_evaluations() == 0
    del atoms[0]
    assert n_evaluations() == 1
    atoms.pbc = (True, True, False)
    evaluations.clear()
    atoms.get_forces()
    assert len(evaluations) == 1


def test_results_are_what_ase_knows(potential):
    """So that its own idioms take them."""
    atoms = silicon()
    atoms.calc = Calculator(potential)
    assert set(atoms.get_properties(["energy", "forces", "stress"])) >= {"energy", "stress"}
    frozen = SinglePointCalculator(atoms, **atoms.calc.results)
    assert frozen.get_potential_energy() == atoms.get_potential_energy()
    assert atoms.calc.get_property("virial", atoms).shape == (3, 3)
    assert "energy" in atoms.calc.calculate_properties(atoms, ["energy"])


def test_species_changes_are_seen():
    potential = random_potential(("H", "O"))
    atoms = random_atoms("H8O4", 6.0, 4)
    atoms.calc = Calculator(potential)
    before = atoms.get_potential_energy()
    atoms.numbers = atoms.numbers[::-1]
    fresh = atoms.copy()
    fresh.calc = Calculator(potential)
    assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-12)
    assert atoms.get_potential_energy() != pytest.approx(before, abs=1e-6)


def test_relaxation_and_dynamics(potential, tmp_path):
    path = tmp_path / "model.dpl"
    save_model(potential, path)
    atoms = silicon(5, strain=0.01)
    atoms.calc = Calculator(path)
    start = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=60)
    assert atoms.get_potential_energy() < start
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=10)

    momenta = np.random.default_rng(1).normal(scale=0.4, size=(len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(40)
    assert abs(atoms.get_total_energy() - before) / len(atoms) < 1e-4


def test_errors_are_one_clear_line(potential, tmp_path):
    atoms = Atoms("SiGe", positions=[[0, 0, 0], [2.3, 0, 0]])
    atoms.calc = Calculator(potential)
    with pytest.raises(InputError, match=r"element Ge is not in the type map \['Si'\]"):
        atoms.get_potential_energy()
    flat = Atoms("Si", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)
    flat.calc = Calculator(potential)
    with pytest.raises(InputError, match="zero volume"):
        flat.get_potential_energy()
    lost = Atoms("Si2", positions=[[0, 0, 0], [np.nan, 0, 0]])
    lost.calc = Calculator(potential)
    with pytest.raises(InputError, match="atom 1 is not finite"):
        lost.get_forces()
    with pytest.raises(InputError, match="device 'cuda'"):
        Calculator(potential, device="cuda")
    with pytest.raises(ModelFileError, match="no such model file"):
        Calculator(tmp_path / "absent.dpl")
    twice = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 0]])
    twice.calc = Calculator(potential)
    message = "structure: atoms 0 and 1 coincide"
    with pytest.raises(ValueError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice.get_potential_energy()


def test_pairs_outside_the_table_are_reported(potential):
    close = 0.8 * potential.table_min_distance()
    atoms = Atoms("Si2", positions=[[0, 0, 0], [close, 0, 0]])
    atoms.calc = Calculator(potential)
    with pytest.warns(UserWarning, match="1 pair of atoms closer"):
        atoms.get_potential_energy()


def test_a_bad_run_warns_as_it_gets_worse_not_at_each_step(potential):
    """A warning when pairs are too close, another when there are more than twice as many."""
    atoms = Atoms("Si8", positions=np.arange(8)[:, None] * [3.0, 0.0, 0.0])
    atoms.calc = Calculator(potential)
    counts = []
    for close in (0, 1, 1, 2, 1, 3, 4):
        atoms.positions[:, 1] = 0.01 * len(counts)  # something to evaluate
        atoms.positions[:, 0] = 3.0 * np.arange(8)
        atoms.positions[1 : 2 * close : 2, 0] -= 2.9
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            atoms.get_potential_energy()
        counts.append(len(told))
    assert counts == [0, 1, 0, 0, 0, 1, 0]


def test_another_structure_has_a_warning_of_its_own(potential):
    close = 0.8 * potential.table_min_distance()
    chain = Atoms("Si9", positions=np.arange(9)[:, None] * [close, 0.0, 0.0])
    pair = chain[:2]
    calculator = Calculator(potential)
    for atoms in (chain, pair):
        atoms.calc = calculator
        with pytest.warns(UserWarning, match="closer than the model's table reaches"):
            atoms.get_potential_energy()


def test_threads_may_share_a_calculator(potential):
    structures = [silicon(seed, strain=0.01 * seed) for seed in range(4)]
    expected = []
    for atoms in structures:
        atoms.calc = Calculator(potential)
        expected.append(atoms.get_potential_energy())
    shared = Calculator(potential)

    def energy(k):
        return shared.get_potential_energy(structures[k % 4].copy())

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(energy, range(80)))
    assert found == pytest.approx(expected * 20, abs=1e-10)


def energy_in_a_fork(atoms):
    return atoms.get_potential_energy(), torch.get_num_threads()


def test_a_forked_process_computes(potential):
    """OpenMP's threads stay behind in the parent."""
    atoms = silicon(3).repeat(2)
    atoms.calc = Calculator(potential)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = atoms.get_potential_energy()
        atoms.rattle(0.0)
        atoms.calc.reset()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply_async(energy_in_a_fork, (atoms,)).get(60)
    finally:
        torch.set_num_threads(threads)
    assert found == (pytest.approx(expected, abs=1e-9), 1)


def test_what_is_known_of_an_unchanged_structure_stays(potential, monkeypatch):
    atoms = silicon()
    atoms.calc = Calculator(potential)
    calls = []
    evaluate = type(potential).evaluate
    monkeypatch.setattr(
        type(potential), "evaluate", lambda *given: calls.append(0) or evaluate(*given)
    )
    atoms.get_forces(), atoms.get_stresses(), atoms.calc.get_property("virial", atoms)
    atoms.get_stress(), atoms.get_stresses()
    assert len(calls) == 1
    assert {"energy", "stress", "stresses"} <= set(atoms.calc.results)


def test_a_refused_structure_has_no_results_of_another(potential):
    bulk, alone = silicon(), Atoms("Si2", [[0, 0, 0], [2.3, 0, 0]])
    calculator = Calculator(potential)
    calculator.calculate(bulk, ["stress"])
    with pytest.raises(PropertyNotImplementedError, match="a cell with a volume"):
        calculator.calculate(alone, ["stress"])
    assert not calculator.results
    fresh = Calculator(potential)
    found, expected = (c.get_property("energy", alone) for c in (calculator, fresh))
    assert found == pytest.approx(expected, abs=1e-10)


def test_a_wrapper_that_says_nothing_changed_is_not_believed(potential):
    atoms = silicon()
    calculator = Calculator(potential)
    calculator.calculate(atoms, ["energy"])
    atoms.rattle(0.1)
    calculator.calculate(atoms, ["energy"], [])
    fresh = Calculator(potential).get_potential_energy(atoms)
    assert calculator.results["energy"] == pytest.approx(fresh, abs=1e-10)


def test_stress_of_a_model_without_virials_is_warned_of_once():
    atoms, potential = silicon(), random_potential()
    atoms.calc = Calculator(potential)
    potential.provenance = {"virials trained": False}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        atoms.get_forces(), atoms.get_stress(), atoms.get_stress()
    assert ["virials" in str(w.message) for w in told] == [True]


def test_files_of_ase_say_which_model_it_was(potential, tmp_path):
    save_model(potential, tmp_path / "si.dpl")
    atoms = silicon()
    atoms.calc = Calculator(tmp_path / "si.dpl", device=torch.device("cpu"))
    atoms.get_forces()
    atoms.write(tmp_path / "a.traj")
    assert atoms.calc.todict()["model"] == str(tmp_path / "si.dpl")
    assert "si.dpl: Si, rcut" in repr(atoms.calc)


def test_a_cell_too_small_for_the_memory_is_refused(potential, monkeypatch):
    monkeypatch.setattr(neighbors, "available_bytes", lambda: 1e8)
    atoms = Atoms("Si", cell=[0.08] * 3, pbc=True)
    atoms.calc = Calculator(potential)
    with pytest.raises(InputError, match="periodic images of this cell, more than there is memory"):
        atoms.get_potential_energy()


def test_without_atoms_it_says_so(potential):
    calculator = Calculator(potential)
    for ask in (calculator.get_potential_energy, calculator.calculate):
        with pytest.raises(InputError, match="no atoms yet"):
            ask()


def test_descriptors_are_what_the_networks_see(potential):
    atoms = silicon(2)
    calculator = Calculator(potential)
    found = calculator.get_descriptors(atoms)
    assert found.shape == (8, potential.config.descriptor.width)
    energies = potential.fitting[0](torch.from_numpy(found).to(potential.dtype)).detach()
    atoms.calc = calculator
    close = Calculator(potential).get_property("energies", atoms) - float(potential.energy_bias[0])
    np.testing.assert_allclose(energies.double().numpy(), close, atol=1e-10)
    turned = atoms[::-1]
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    turned.translate([1.0, 20.0, -3.0])
    np.testing.assert_allclose(calculator.get_descriptors(turned)[::-1], found, atol=1e-12)
    assert np.abs(found - found.mean(axis=0)).max() > 1e-3
