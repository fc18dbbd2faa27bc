"""Known mistakes, put into clean data one at a time: `dpl check` names each, and only there."""

import json
from functools import cache

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree, kB
from clean_sets import copied, copper, extxyz, hot_copper, labelled, npy, silicon, water

from deepmd_lite.cli import main
from deepmd_lite.units import EV_PER_A3_IN_GPA

SETS = {"silicon": silicon, "copper": copper, "hot copper": hot_copper, "water": water}


def check(tmp_path, *arguments):
    """(exit status, {code: finding}) of dpl check."""
    report = tmp_path / "report.json"
    status = main(["check", *map(str, arguments), "--json", str(report)])
    findings = json.loads(report.read_text())["findings"]
    return status, {f["code"]: f for f in findings}


@cache
def codes_of_clean(name, folder):
    frames = SETS[name]()
    status, found = check(folder, extxyz(folder / f"{name}.extxyz", frames))
    assert status == 0
    return {code: f["severity"] for code, f in found.items()}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clean")


@pytest.mark.parametrize("name", SETS)
def test_the_clean_sets_have_neither_errors_nor_warnings(name, folder):
    assert {"error", "warning"}.isdisjoint(codes_of_clean(name, folder).values())


# --- one mistake in the labels or the structure of every frame --------------------------------


def stress_sign(atoms):
    atoms.calc.results["stress"] *= -1


def stress_in_gpa(atoms):
    atoms.calc.results["stress"] *= EV_PER_A3_IN_GPA


def stress_in_kbar_of_vasp(atoms):
    atoms.calc.results["stress"] *= -10 * EV_PER_A3_IN_GPA


def stress_for_virial(atoms):
    atoms.calc.results["stress"] /= atoms.get_volume()


def forces_in_hartree_per_bohr(atoms):
    atoms.calc.results["forces"] /= Hartree / Bohr


def energies_per_atom(atoms):
    atoms.calc.results["energy"] /= len(atoms)


def left_handed_cell(atoms):
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])


def open_along_one_axis(atoms):
    atoms.set_cell(atoms.cell.array * [[1], [1], [3]])
    atoms.pbc = (True, True, False)


def far_outside_the_cell(atoms):
    atoms.positions[0] += 9 * atoms.cell.array[1]


def large_unit_of_length(atoms):
    atoms.set_cell(2.6 * atoms.cell.array, scale_atoms=True)


def stress_in_the_order_of_vasp(atoms):
    atoms.calc.results["stress"] = atoms.calc.results["stress"][[0, 1, 2, 5, 3, 4]]


def kinetic_part(atoms):
    atoms.calc.results["stress"][:3] -= (
        len(atoms) * kB * atoms.info["temperature"] / atoms.get_volume()
    )


def gradients_for_forces(atoms):
    atoms.calc.results["forces"] *= -1


def energies_in_hartree(atoms):
    atoms.calc.results["energy"] /= Hartree


def atomic_units(atoms):
    atoms.set_cell(atoms.cell / Bohr, scale_atoms=True)
    atoms.calc.results["energy"] /= Hartree
    atoms.calc.results["forces"] /= Hartree / Bohr
    atoms.calc.results.pop("stress", None)


def nanometres(atoms):
    atoms.set_cell(atoms.cell / 10, scale_atoms=True)


def fractional_positions(atoms):
    atoms.positions = atoms.get_scaled_positions()


def transposed_cell(atoms):
    atoms.set_cell(atoms.cell.array.T)


def swapped_elements(atoms):
    atoms.symbols = [{"O": "H", "H": "O"}[s] for s in atoms.get_chemical_symbols()]


def fixed_atoms_without_forces(atoms):
    atoms.calc.results["forces"][: len(atoms) // 3] = 0


def forces_of_the_atom_before(atoms):
    atoms.calc.results["forces"] = np.roll(atoms.calc.results["forces"], 1, axis=0)


def forces_in_reverse_order(atoms):
    atoms.calc.results["forces"] = atoms.calc.results["forces"][::-1]


def forces_in_random_order(atoms):
    seed = int(1e6 * abs(atoms.calc.results["energy"])) % 2**31
    order = np.random.default_rng(seed).permutation(len(atoms))
    atoms.calc.results["forces"] = atoms.calc.results["forces"][order]


def shifted_components(atoms):
    atoms.calc.results["forces"] = atoms.calc.results["forces"][:, [1, 2, 0]]


IN_EVERY_FRAME = [
    ("silicon", stress_sign, "virial-sign", "error", "change the sign"),
    ("silicon", stress_in_gpa, "virial-unit", "error", "in GPa"),
    ("silicon", stress_in_kbar_of_vasp, "virial-unit", "error", "kbar"),
    ("silicon", stress_for_virial, "virial-unit", "error", "multiply it by the volume"),
    ("silicon", forces_in_hartree_per_bohr, "force-unit", "error", "51.4221"),
    ("silicon", energies_per_atom, "energy-unit", "error", "per atom"),
    ("water", left_handed_cell, "cell-left-handed", "note", "left-handed"),
    ("water", open_along_one_axis, "periodicity-partial", "note", "slabs"),
    ("water", far_outside_the_cell, "atoms-outside", "warning", "unwrapped"),
    ("water", large_unit_of_length, "atoms-far", "warning", "units"),
    ("silicon", stress_in_the_order_of_vasp, "virial-order", "error", "xx yy zz yz xz xy"),
    ("hot copper", kinetic_part, "virial-kinetic", "warning", "subtract"),
    ("silicon", gradients_for_forces, "force-sign", "error", "change their sign"),
    ("silicon", forces_of_the_atom_before, "force-order", "error", "of the atom before"),
    ("silicon", forces_in_reverse_order, "force-order", "error", "in reverse order"),
    ("silicon", forces_in_random_order, "force-order", "error", "another order of atoms"),
    ("silicon", shifted_components, "force-order", "error", "the first number is that of y"),
    ("copper", shifted_components, "force-order", "error", "the first number is that of y"),
    ("silicon", energies_in_hartree, "energy-unit", "error", "Hartree"),
    ("silicon", atomic_units, "units-length", "error", "0.529177"),
    ("water", atomic_units, "units-length", "error", "0.529177"),
    ("water", nanometres, "units-length", "error", "nm"),
    ("water", fractional_positions, "units-length", "error", "fractional"),
    ("copper", transposed_cell, "cell-transposed", "error", "rows"),
    ("water", swapped_elements, "element-swapped", "error", "type_map.raw"),
    ("silicon", fixed_atoms_without_forces, "force-net", "warning", "fixed atoms"),
]


@pytest.mark.parametrize(
    ("name", "mistake", "code", "severity", "words"),
    IN_EVERY_FRAME,
    ids=[f"{m.__name__}-{n}" for n, m, *_ in IN_EVERY_FRAME],
)
def test_a_mistake_in_every_frame(name, mistake, code, severity, words, folder, tmp_path):
    assert code not in codes_of_clean(name, folder)
    frames = copied(SETS[name]())
    for atoms in frames:
        mistake(atoms)
    status, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert code in found, f"only {sorted(found)}"
    assert found[code]["severity"] == severity
    assert words in found[code]["what"] + found[code]["do"]
    assert status == (severity == "error" or any(f["severity"] == "error" for f in found.values()))


# --- a mistake in single frames, or between files ---------------------------------------------


def test_an_unconverged_frame(folder, tmp_path):
    assert not {"force-outlier", "force-net"} & set(codes_of_clean("silicon", folder))
    frames = copied(silicon())
    frames[40].calc.results["forces"][7] += [31.0, -22.0, 5.0]
    status, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert status == 0
    assert "force-outlier" in found
    assert found["force-outlier"]["frames"] == [f"{tmp_path / 'data.extxyz'}, frame 40"]
    assert found["force-net"]["frames"] == found["force-outlier"]["frames"]


@pytest.mark.parametrize("name", ["silicon", "hot copper"])
def test_a_frame_whose_electrons_did_not_converge(name, folder, tmp_path):
    """Energy too high by 0.15 eV/atom and forces off: nothing that stands out by itself."""
    assert "frame-inconsistent" not in codes_of_clean(name, folder)
    frames = copied(SETS[name]())
    crystal = ("diamond", None)  # amorphous frames have no near ones
    k = next(
        i
        for i, a in enumerate(frames)
        if a.info["temperature"] in (300, 800) and a.info.get("config_type") in crystal
    )
    noise = 0.2 * np.random.default_rng(1).normal(size=(len(frames[k]), 3))
    frames[k].calc.results["forces"] += noise - noise.mean(axis=0)
    frames[k].calc.results["energy"] += 0.15 * len(frames[k])
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert found["frame-inconsistent"]["frames"] == [f"{tmp_path / 'data.extxyz'}, frame {k}"]


def test_forces_of_the_next_frame(folder, tmp_path):
    assert "force-order" not in codes_of_clean("silicon", folder)
    frames = copied(silicon())
    forces = [atoms.calc.results["forces"] for atoms in frames]
    for atoms, others in zip(frames, forces[1:] + forces[:1], strict=True):
        if len(atoms) == len(others):
            atoms.calc.results["forces"] = others
    status, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert status == 1
    assert found["force-order"]["do"] == "the forces are those of the frame after"


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01])
def test_right_forces_with_noise_are_no_error(noise, tmp_path):
    """Up to 10 meV √n in the energies of n atoms, and 0.1 eV/Å in the forces."""
    frames, rng = copied(silicon()), np.random.default_rng(3)
    for atoms in frames:
        atoms.calc.results["energy"] += noise * np.sqrt(len(atoms)) * rng.normal()
        atoms.calc.results["forces"] += 0.1 * rng.normal(size=(len(atoms), 3))
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert "force-order" not in found


def test_few_clean_frames_are_no_error(tmp_path):
    """Eight make many pairs that are not independent, whose factors chance moves far from 1."""
    rng, files = np.random.default_rng(0), []
    for k in range(30):
        frames = []
        for _ in range(8):
            atoms = bulk("Cu", cubic=True) * (2, 2, 1)
            strain = rng.uniform(-0.02, 0.02, (3, 3))
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), True)
            atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
            frames.append(labelled(atoms, EMT()))
        files.append(extxyz(tmp_path / f"{k}.extxyz", frames))
    status, found = check(tmp_path, *files)
    assert status == 0
    assert all(f["severity"] == "note" for f in found.values())


def test_forces_that_are_all_zero(tmp_path):
    frames = copied(water())
    for atoms in frames:
        atoms.calc.results["forces"][:] = 0
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert "force-zero" in found


def test_strict_counts_warnings(tmp_path):
    frames = copied(silicon())
    frames[40].calc.results["forces"][7] += [31.0, -22.0, 5.0]
    path = extxyz(tmp_path / "data.extxyz", frames)
    assert main(["check", str(path)]) == 0
    assert main(["check", "--strict", str(path)]) == 1


def test_an_energy_outlier(folder, tmp_path):
    assert "energy-outlier" not in codes_of_clean("water", folder)
    frames = copied(water())
    frames[11].calc.results["energy"] += 60.0
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert found["energy-outlier"]["frames"] == [f"{tmp_path / 'data.extxyz'}, frame 11"]


@pytest.mark.parametrize(
    ("name", "frames", "shift", "severity"),
    [("silicon", silicon, 4.5, "error"), ("water", water, 0.6, "warning")],
    ids=["error", "warning"],
)
def test_mixed_energy_zeros_in_one_file(folder, tmp_path, name, frames, shift, severity):
    assert "energy-zeros" not in codes_of_clean(name, folder)
    frames = copied(frames())
    for atoms in frames[::4]:
        atoms.calc.results["energy"] += shift * len(atoms)
    status, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert status == (severity == "error")
    assert found["energy-zeros"]["severity"] == severity
    assert len(found["energy-zeros"]["frames"]) == len(frames[::4])


@pytest.mark.parametrize(("shift", "severity"), [(4.5, "error"), (1.5, "warning")])
def test_mixed_energy_zeros_between_files(shift, severity, tmp_path):
    frames = copied(silicon())
    for atoms in frames[1::3]:
        atoms.calc.results["energy"] += shift * len(atoms)
    kept = [a for i, a in enumerate(frames) if i % 3 != 1]
    one, two = extxyz(tmp_path / "1.extxyz", kept), extxyz(tmp_path / "2.extxyz", frames[1::3])
    _, found = check(tmp_path, one, two)
    assert found["energy-zeros"]["severity"] == severity
    assert "2.extxyz" in found["energy-zeros"]["what"]


def test_another_type_map_in_one_of_two_systems(tmp_path):
    frames = copied(water())
    right = npy(tmp_path / "a", frames[:25], ["O", "H"])
    wrong = npy(tmp_path / "b", frames[25:], ["O", "H"])
    status, found = check(tmp_path, right, wrong)
    assert status == 0
    assert "element-swapped" not in found
    (wrong / "type_map.raw").write_text("H\nO")
    status, found = check(tmp_path, right, wrong)
    assert status == 1
    assert (
        "O and H" in found["element-swapped"]["what"]
        or "H and O" in (found["element-swapped"]["what"])
    )


def test_frames_twice(folder, tmp_path):
    assert "copies" not in codes_of_clean("silicon", folder)
    frames = copied(silicon())
    shifted = copied(frames[9:10])[0]
    shifted.positions += [1.3, 0.2, -0.4]
    shifted.wrap()
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", [*frames, frames[3], shifted]))
    n = len(frames)
    path = tmp_path / "data.extxyz"
    assert found["copies"]["frames"] == [f"{path}, frame {n}", f"{path}, frame {n + 1}"]


@pytest.mark.parametrize(("share", "severity"), [(3, "warning"), (20, "error")])
def test_leakage(share, severity, tmp_path):
    frames = copied(silicon())
    train = extxyz(tmp_path / "train.extxyz", frames[:120])
    clean = extxyz(tmp_path / "clean.extxyz", frames[120:])
    leaked = extxyz(tmp_path / "leaked.extxyz", frames[120 - share : 150])
    _, found = check(tmp_path, "--train", train, "--test", clean)
    assert "leakage" not in found
    status, found = check(tmp_path, "--train", train, "--test", leaked)
    few = share / (share + 30) < 0.5
    assert found["leakage"]["severity"] == ("warning" if few else severity)
    assert found["leakage"]["what"].startswith(f"{share} of {30 + share} frames of test")
    status, found = check(tmp_path, "--train", train, "--test", train)
    assert status == 1


def test_labels_of_two_calculations(tmp_path):
    frames = copied(silicon())
    again = copied(frames[5:6])[0]
    again.calc.results["energy"] += 0.5
    status, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", [*frames, again]))
    assert status == 1
    assert "copies-contradict" in found


def test_one_energy_for_many_structures(folder, tmp_path):
    assert "energy-copied" not in codes_of_clean("silicon", folder)
    frames = copied(silicon())
    for atoms in frames[20:26]:
        atoms.calc.results["energy"] = frames[20].calc.results["energy"]
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert len(found["energy-copied"]["frames"]) == 6


def test_single_precision_of_a_large_energy(tmp_path):
    frames = copied(water())
    for atoms in frames:
        atoms.calc.results["energy"] -= 2e5
    _, found = check(tmp_path, npy(tmp_path / "double", frames, ["O", "H"]))
    assert "energy-float32" not in found
    _, found = check(tmp_path, npy(tmp_path / "single", frames, ["O", "H"], dtype=np.float32))
    assert found["energy-float32"]["severity"] == "warning"


@pytest.mark.parametrize(
    ("dtype", "shift", "words"),
    [(np.float16, 0, "float16"), (np.float16, 3600, "float16"), (np.int64, 3600, "whole numbers")],
)
def test_energies_in_a_coarse_type(dtype, shift, words, tmp_path):
    frames = copied(water())
    for i, atoms in enumerate(frames):
        atoms.calc.results["energy"] += shift + 1.01 * i
    _, found = check(tmp_path, npy(tmp_path / "double", frames, ["O", "H"]))
    assert "energy-rounded" not in found
    _, found = check(tmp_path, npy(tmp_path / "coarse", frames, ["O", "H"], dtype=dtype))
    assert found["energy-rounded"]["severity"] == "warning"
    assert words in found["energy-rounded"]["what"]
    assert "energy-float32" not in found


def test_a_missing_file_of_forces(tmp_path):
    folder = npy(tmp_path / "a", copied(water()), ["O", "H"])
    status, found = check(tmp_path, folder)
    assert status == 0
    assert "force-missing" not in found
    (folder / "set.000" / "force.npy").unlink()
    status, found = check(tmp_path, folder)
    assert status == 1
    assert "force 0/40 frames" in found["force-missing"]["what"]


@pytest.mark.parametrize("name", ["coord", "force", "energy"])
def test_a_value_that_is_not_a_number(name, tmp_path):
    folder = npy(tmp_path / "a", copied(water()), ["O", "H"])
    array = np.load(folder / "set.000" / f"{name}.npy")
    array.reshape(len(array), -1)[17, 0] = np.nan
    np.save(folder / "set.000" / f"{name}.npy", array)
    status, found = check(tmp_path, folder)
    assert status == 1
    assert "frame 17" in found["unreadable"]["what"]
    assert "not finite" in found["unreadable"]["what"]


def test_the_rest_is_checked_where_one_file_cannot_be_read(tmp_path):
    folder = npy(tmp_path / "a", copied(water()), ["O", "H"])
    np.save(folder / "set.000" / "force.npy", np.zeros((40, 7)))
    frames = copied(silicon())
    for atoms in frames:
        stress_sign(atoms)
    _, found = check(tmp_path, folder, extxyz(tmp_path / "si.extxyz", frames))
    assert {"unreadable", "virial-sign"} <= set(found)
    assert "force.npy: expected shape" in found["unreadable"]["what"]


def test_atoms_in_one_place(tmp_path):
    frames = copied(water())
    frames[3].positions[5] = frames[3].positions[2] + [frames[3].cell[0, 0], 0, 0]
    frames[4].positions[5] = frames[4].positions[2] + [0.3, 0, 0]
    status, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert status == 1
    assert found["atoms-coincident"]["frames"] == [f"{tmp_path / 'data.extxyz'}, frame 3"]
    assert found["atoms-close"]["frames"] == [f"{tmp_path / 'data.extxyz'}, frame 4"]


def test_a_virial_that_is_not_symmetric(tmp_path):
    folder = npy(tmp_path / "a", copied(water()), ["O", "H"])
    symmetric = np.tile(np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T, (40, 1, 1))
    np.save(folder / "set.000" / "virial.npy", symmetric.reshape(40, 9))
    assert "virial-asymmetric" not in check(tmp_path, folder)[1]
    shuffled = symmetric.reshape(40, 9)[:, [0, 4, 8, 1, 2, 5, 3, 6, 7]]
    np.save(folder / "set.000" / "virial.npy", shuffled)
    assert check(tmp_path, folder)[1]["virial-asymmetric"]["severity"] == "error"


def test_labels_in_some_frames_only(tmp_path):
    frames = copied(water())
    for atoms in frames[30:]:
        del atoms.calc.results["forces"]
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert found["force-missing"]["severity"] == "warning"
    assert len(found["force-missing"]["frames"]) == 10


def test_turned_copies(tmp_path):
    frames = copied(water())
    turned = copied(frames[3:4])[0]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turned.set_cell(turned.cell.array @ turn, scale_atoms=False)
    turned.positions = turned.positions @ turn
    turned.calc.results["forces"] = turned.calc.results["forces"] @ turn
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", [*frames, turned]))
    assert found["copies-symmetric"]["frames"] == [f"{tmp_path / 'data.extxyz'}, frame 40"]
    assert "copies" not in found


def test_a_frame_unlike_all_others_and_one_without_a_cell(folder, tmp_path):
    assert not {"frame-alone", "periodicity-mixed"} & set(codes_of_clean("water", folder))
    frames = copied(water())
    frames[7].set_cell(0.7 * frames[7].cell.array, scale_atoms=True)
    frames[9].pbc = False
    _, found = check(tmp_path, extxyz(tmp_path / "data.extxyz", frames))
    assert f"{tmp_path / 'data.extxyz'}, frame 7" in found["frame-alone"]["frames"]
    assert found["periodicity-mixed"]["frames"] == [f"{tmp_path / 'data.extxyz'}, frame 9"]


def test_an_element_that_does_not_occur(tmp_path):
    path = extxyz(tmp_path / "data.extxyz", water())
    _, found = check(tmp_path, path, "--type-map", "O", "H")
    assert "element-unused" not in found
    _, found = check(tmp_path, path, "--type-map", "O", "H", "C")
    assert "C occurs in no frame" in found["element-unused"]["what"]


def test_forces_that_turn_a_molecule(tmp_path):
    frames = copied(water())
    alone = [a[:3] for a in frames]
    for atoms, whole in zip(alone, frames, strict=True):
        atoms.set_pbc(False), atoms.set_cell(None)
        atoms.calc = type(whole.calc)(atoms, energy=0.0, forces=whole.calc.results["forces"][:3])
    _, found = check(tmp_path, extxyz(tmp_path / "right.extxyz", alone))
    assert not {"force-torque", "force-net"} & set(found)
    for atoms in alone:
        atoms.calc.results["forces"] = np.roll(atoms.calc.results["forces"], 1, axis=1)
    _, found = check(tmp_path, extxyz(tmp_path / "wrong.extxyz", alone))
    assert "force-torque" in found
