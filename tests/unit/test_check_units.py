"""Wrong units, signs and orders of labels: which label a check names, and which it spares."""

from functools import cache

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from deepmd_lite.check import check_data

KCAL, KJ, RYDBERG, BOHR = 23.0605, 96.4853, 13.605693, 0.52917721


def labelled(atoms):
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    return atoms, {**results, "stress": atoms.get_stress()}


@cache
def copper(strain, rattle, n, repeat=2, seed=0):
    """Strained cells (standard deviation `strain`), atoms moved by up to `rattle` (Å)."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True) * repeat
        gradient = np.eye(3) + strain * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ gradient, scale_atoms=True)
        size = rng.uniform(0.1, 1) * rattle
        atoms.positions += size * rng.normal(size=atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


def both():
    """Forces and virials can both be tested, in cells of two sizes."""
    return copper(0.02, 0.1, 60) + copper(0.02, 0.1, 60, repeat=1, seed=1)


def strained():
    """Most of the work is that of the strain."""
    return copper(0.03, 0.05, 60)


def found(folder, frames, change=lambda i, results, atoms: {}):
    """{code: finding} with the results that `change` makes of those of each frame."""
    written = []
    for i, (atoms, results) in enumerate(frames):
        atoms = atoms.copy()
        atoms.calc = SinglePointCalculator(atoms, **{**results, **change(i, results, atoms)})
        written.append(atoms)
    write(folder / "data.extxyz", written)
    report = check_data({"data": [folder / "data.extxyz"]})
    return {f.code: f for f in report.findings if f.severity != "note" or "untested" in f.code}


def scaled(**factors):
    return lambda i, results, atoms: {k: results[k] * factor for k, factor in factors.items()}


def per_atom(i, results, atoms):
    return {"energy": results["energy"] / len(atoms)}


def other_sign_in_a_third(i, results, atoms):
    return {"stress": results["stress"] * (-1 if i % 3 == 0 else 1)}


def order_of_vasp(i, results, atoms):
    return {"stress": results["stress"][[0, 1, 2, 5, 3, 4]]}


@pytest.mark.parametrize("frames", [both, strained])
def test_right_labels_have_no_finding(frames, tmp_path):
    assert {"force-untested"} >= set(found(tmp_path, frames()))


@pytest.mark.parametrize(
    ("frames", "change", "code", "words"),
    [
        (both, scaled(energy=KCAL), "energy-unit", "divide energies by 23.0605"),
        (both, scaled(energy=KJ), "energy-unit", "divide energies by 96.4853"),
        (both, scaled(energy=1 / RYDBERG), "energy-unit", "multiply energies by 13.6057"),
        (both, per_atom, "energy-unit", "energies per atom: multiply"),
        (both, scaled(forces=KCAL), "force-unit", "divide forces by 23.0605"),
        (both, scaled(forces=-KCAL), "force-unit", "by 23.0605, and change the sign of the forces"),
        (both, scaled(forces=-1), "force-sign", "change their sign"),
        (both, scaled(energy=KCAL, forces=KCAL), "virial-unit", "energies and forces in kcal/mol"),
        (strained, scaled(energy=KCAL, forces=KCAL), "virial-unit", "energies and forces in kcal"),
        (strained, scaled(energy=KCAL), "energy-unit", "divide energies by 23"),
        (both, scaled(energy=KCAL, forces=KCAL, stress=KCAL), "force-size", "in units of kcal/mol"),
    ],
)
def test_units(frames, change, code, words, tmp_path):
    """The label whose unit it is, no order of anything, and one error at a time."""
    findings = found(tmp_path, frames(), change)
    assert {c for c in findings if "untested" not in c} == {code}
    assert words in findings[code].do
    assert findings[code].severity == ("warning" if code == "force-size" else "error")


def test_of_several_units_none_is_advised(tmp_path):
    """Rydberg/Bohr and Hartree/Å differ by 6 %, less than factors are known to."""
    change = scaled(forces=BOHR / RYDBERG)
    finding = found(tmp_path, both(), change)["force-unit"]
    assert "forces in Rydberg/Bohr or forces in Hartree/Å" in finding.do
    assert "multiply" not in finding.do


@pytest.mark.parametrize("frames", [both, strained])
def test_virials_of_the_other_sign_in_some_frames(frames, tmp_path):
    """Forces are spared, and the frames named."""
    findings = found(tmp_path, frames(), other_sign_in_a_third)
    assert {c for c in findings if "untested" not in c} == {"virial-sign"}
    finding = findings["virial-sign"]
    assert finding.severity == "error"
    numbers = [int(frame.rpartition(" ")[2]) for frame in finding.frames]
    assert sum(n % 3 == 0 for n in numbers) > 0.9 * len(numbers)
    assert len(numbers) > len(frames()) / 4


@pytest.mark.parametrize("frames", [both, strained])
def test_shear_in_the_order_of_vasp(frames, tmp_path):
    """Also among many frames of small random strains, whose forces do most of the work."""
    findings = found(tmp_path, frames(), order_of_vasp)
    assert {c for c in findings if "untested" not in c} == {"virial-order"}
    assert "yz holds xy, xz holds yz, xy holds xz" in findings["virial-order"].what


def test_an_order_that_cannot_be_tested_is_a_note(tmp_path):
    rng = np.random.default_rng(2)
    frames = []
    for _ in range(20):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * rng.uniform(0.98, 1.02), scale_atoms=True)
        frames.append(labelled(atoms))
    assert "too isotropic" in found(tmp_path, frames)["virial-order-untested"].what


def test_forces_of_other_atoms_where_the_virials_are_right(tmp_path):
    rng = np.random.default_rng(3)

    def shuffled(i, results, atoms):
        return {"forces": rng.permutation(results["forces"])}

    findings = found(tmp_path, strained(), shuffled)
    assert {c for c in findings if "untested" not in c} == {"force-order"}


def phonons():
    """Displacements of 0.02 Å, along which energies change by less than noise of 2 meV/atom."""
    return copper(0.0, 0.02, 60)


def noise(rng, i):
    return 0.002 * rng.normal()


def unconverged(rng, i):
    return rng.choice([-1, 1]) * (i % 5 == 0)


def two_zeros(rng, i):
    return 0.5 * (i % 2)


@pytest.mark.parametrize("wrong", [noise, unconverged, two_zeros])
def test_energies_that_do_not_follow_from_right_forces(wrong, tmp_path):
    """eV/atom: it is not the forces that are wrong, and no training is refused."""
    rng = np.random.default_rng(7)

    def change(i, results, atoms):
        return {"energy": results["energy"] + len(atoms) * wrong(rng, i)}

    findings = found(tmp_path, phonons(), change)
    assert "force-order" not in findings
    assert findings["labels-contradict"].severity == "warning"
    assert "look at the energies" in findings["labels-contradict"].do


def test_forces_of_other_atoms_beside_noise_in_the_energies(tmp_path):
    rng = np.random.default_rng(7)

    def change(i, results, atoms):
        energy = results["energy"] + len(atoms) * noise(rng, i)
        return {"energy": energy, "forces": rng.permutation(results["forces"])}

    assert found(tmp_path, phonons(), change)["force-order"].severity == "error"


@cache
def alloy(n=80):
    """Random alloys of four elements in strained cells."""
    rng = np.random.default_rng(4)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", a=3.85, cubic=True) * 2
        atoms.symbols[:] = rng.choice(["Ag", "Au", "Cu", "Pd"], len(atoms))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), True)
        atoms.positions += 0.06 * rng.normal(size=atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


@pytest.mark.parametrize(("offset", "severity"), [(0.0, None), (2.0, "warning"), (10.0, "error")])
def test_the_zero_of_one_element_in_half_of_an_alloy(offset, severity, tmp_path):
    """As of another pseudopotential: named with its frames, and nothing in the clean set."""

    def shifted(i, results, atoms):
        return {"energy": results["energy"] + offset * (atoms.numbers == 46).sum() * (i < 40)}

    findings = found(tmp_path, alloy(), shifted)
    findings = {code: f for code, f in findings.items() if f.severity != "note"}
    if severity is None:
        assert not findings
        return
    assert set(findings) == {"energy-zeros"}
    finding = findings["energy-zeros"]
    assert finding.severity == severity
    assert "eV for each Pd atom" in finding.what
    numbers = {int(frame.rpartition(" ")[2]) for frame in finding.frames}
    assert numbers in (set(range(40)), set(range(40, 80)))


def test_frames_with_the_other_sign_are_named(tmp_path):
    """Where nearly all have it, as where a third has."""

    def change(i, results, atoms):
        return {"stress": -results["stress"]} if i % 30 else {}

    finding = found(tmp_path, strained(), change)["virial-sign"]
    assert "fit with the other sign (" in finding.what
    assert "times what the virials" in finding.what
    numbers = {int(source.rpartition(" ")[2]) for source in finding.frames}
    assert len(numbers & {i for i in range(60) if i % 30}) > 48
    assert not numbers & set(range(0, 60, 30))
