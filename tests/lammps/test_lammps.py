"""`pair_style deepmd_lite` gives LAMMPS what the calculator gives ASE."""

import copy
import re
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from models import (
    environment_of,
    hybrid_potential,
    random_atoms,
    random_potential,
    short_range_potential,
    with_members,
)

from deepmd_lite import Calculator
from deepmd_lite.cli import main
from deepmd_lite.deviation import COLUMNS
from deepmd_lite.lammps import PLUGINS, build
from deepmd_lite.model import load_model, save_model
from deepmd_lite.system import InputError

ROOT = Path(__file__).parents[2]
SILICON = ROOT / "data" / "silicon" / "silicon.dpl"
PRESSURE = 1.6021765e6
"""bar, of one eV/Å³ (LAMMPS' own constant, metal units)."""
KCAL = 23.060549
"""kcal/mol of one eV, likewise."""

BEGIN = """
units {units}
atom_style {style}
boundary p p p
read_data atoms.data
{more}
pair_style {pair}
{coeff}
neighbor 1.0 bin
compute energies all pe/atom
dump 1 all custom 1 dump.txt id type x y z fx fy fz c_energies
dump_modify 1 sort id format float %.16g
thermo_style custom step pe etotal pxx pyy pzz pxy pxz pyz
thermo_modify format float %.16g
"""


def lower(atoms: Atoms) -> Atoms:
    """With the cell as LAMMPS has it, which writes positions as they are."""
    atoms = atoms.copy()
    cell = atoms.cell.array
    turned = np.linalg.cholesky(cell @ cell.T)
    atoms.set_cell(turned, scale_atoms=True)
    return atoms


def begin(folder, atoms, order, pair, coeff=None, units="metal", style="atomic", more=""):
    """The input up to the runs; `order`: the elements of LAMMPS' types 1, 2 …"""
    write(
        folder / "atoms.data",
        atoms,
        format="lammps-data",
        specorder=order,
        atom_style=style,
        masses=True,
        units=units,
    )
    coeff = f"pair_coeff * * {' '.join(order)}" if coeff is None else coeff
    return BEGIN.format(units=units, style=style, pair=pair, coeff=coeff, more=more)


def expected(model, atoms):
    atoms = atoms.copy()
    atoms.calc = Calculator(model)
    return atoms


def assert_same(run, atoms, unit=1.0, tolerance=1e-9):
    """Energies of the atoms, forces and all six components of the stress."""
    assert run.status == 0, run.output
    forces = run.dumped("fx", "fy", "fz") / unit
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=tolerance)
    energies = run.dumped("c_energies")[:, 0] / unit
    np.testing.assert_allclose(energies, atoms.get_potential_energies(), rtol=0, atol=tolerance)
    assert run.thermo["PotEng"] / unit == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    if unit == 1.0:
        pressures = [run.thermo[f"P{ab}"] for ab in ("xx", "yy", "zz", "yz", "xz", "xy")]
        stress = -PRESSURE * atoms.get_stress()
        np.testing.assert_allclose(pressures, stress, rtol=1e-7, atol=1e-3)
    assert np.abs(forces).max() > 0.1


KINDS = {
    "one": lambda: random_potential(("H", "O")),
    "hybrid": lambda: hybrid_potential(),
    "pairs": lambda: short_range_potential(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_ranks", [1, 2, 4])
def test_is_the_calculator(kind, n_ranks, lammps, tmp_path):
    """A skewed cell smaller than the cutoff; LAMMPS' types in another order than the model's."""
    save_model(KINDS[kind](), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 5.2, 4, skew=0.15))
    atoms.positions += 30.0
    atoms.wrap()
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl")
    assert_same(lammps(text + "run 0\n", n_ranks), expected(tmp_path / "model.dpl", atoms))


def test_float32_and_threads(lammps, tmp_path):
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H40O24", 9.0, 4))
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl precision float32")
    run = lammps(text + "run 0\n", threads=2)
    reference = expected(tmp_path / "model.dpl", atoms)
    single = copy.copy(atoms)
    single.calc = Calculator(tmp_path / "model.dpl", precision="float32")
    np.testing.assert_allclose(run.dumped("fx", "fy", "fz"), single.get_forces(), rtol=0, atol=1e-4)
    assert np.abs(run.dumped("fx", "fy", "fz") - reference.get_forces()).max() > 1e-9


def test_units_real(lammps, tmp_path):
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 6.0, 4))
    text = begin(tmp_path, atoms, ["H", "O"], "deepmd_lite model.dpl", units="real")
    run = lammps(text + "run 0\n")
    assert_same(run, expected(tmp_path / "model.dpl", atoms), unit=KCAL)


def test_beside_another_potential(lammps, tmp_path):
    """Atoms of another one are neither neighbours nor centres."""
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6Ar4", 6.0, 4))
    text = begin(
        tmp_path,
        atoms,
        ["H", "Ar", "O"],
        "hybrid/overlay deepmd_lite model.dpl lj/cut 5.0",
        "pair_coeff * * deepmd_lite H NULL O\npair_coeff 2 2 lj/cut 0.01 2.5\n"
        "pair_coeff 1 2 lj/cut 0.0 2.5\npair_coeff 2 3 lj/cut 0.0 2.5",
    )
    run = lammps(text + "run 0\n", n_ranks=2)
    assert run.status == 0, run.output
    mine = np.array([symbol != "Ar" for symbol in atoms.get_chemical_symbols()])
    alone = expected(tmp_path / "model.dpl", atoms[mine])
    forces = run.dumped("fx", "fy", "fz")
    np.testing.assert_allclose(forces[mine], alone.get_forces(), rtol=0, atol=1e-9)
    energies = run.dumped("c_energies")[mine, 0]
    np.testing.assert_allclose(energies, alone.get_potential_energies(), rtol=0, atol=1e-9)
    assert np.abs(forces[~mine]).max() > 0  # of lj/cut


def test_a_run_conserves_energy(lammps, tmp_path):
    """Many lists, atoms that change ranks."""
    atoms = bulk("Si", cubic=True, a=5.47).repeat(3)
    text = begin(tmp_path, atoms, ["Si"], f"deepmd_lite {SILICON}")
    text += "velocity all create 1800 5 dist gaussian\nfix 1 all nve\nrun 400\n"
    run = lammps(text, n_ranks=2)
    assert run.status == 0, run.output
    first, last = run.rows
    assert abs(last["TotEng"] - first["TotEng"]) / len(atoms) < 2e-4
    assert abs(last["PotEng"] - first["PotEng"]) / len(atoms) > 0.05
    assert int(re.findall(r"Neighbor list builds = (\d+)", run.output)[-1]) > 3
    moved = atoms.copy()
    moved.set_positions(run.dumped("x", "y", "z"))
    forces = expected(SILICON, moved).get_forces()
    np.testing.assert_allclose(run.dumped("fx", "fy", "fz"), forces, rtol=0, atol=1e-8)


SILICON_BOX = """
units metal
boundary p p p
lattice diamond 5.47
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 28.0855
displace_atoms all random 0.02 0.02 0.02 7
pair_style {pair}
pair_coeff * * {coeff}
neighbor 1.0 bin
thermo_style custom step pe etotal lx ly lz xy xz yz pxx pyy pzz pxy pxz pyz
thermo_modify format float %.16g
"""
DUMP = """
compute energies all pe/atom
dump 1 all custom 1 dump.txt id type x y z fx fy fz c_energies
dump_modify 1 sort id format float %.16g
"""
MOVING = "velocity all create 900 1\nfix 1 all nve\nrun 3\nrun 2 pre no\nrun 5"
MINIMUM = "minimize 0 1e-8 20 100"
MORE_RUNS = {  # what comes before the last one, and that
    "again": (MOVING, "run 4"),
    "in parts": (MOVING, "run 4 every 2 ''"),
    "displaced": ("run 0\ndisplace_atoms all random 0.02 0.02 0.02 9", "run 0"),
    "moved through a face": ("run 0\ndisplace_atoms all move 9 0.1 7", "run 0"),
    "deleted": ("run 0\ngroup some id <> 20 90\ndelete_atoms group some", "run 0"),
    "replicated": ("run 0\nreplicate 2 1 1", "run 0"),
    "minimised": (f"{MINIMUM}\nvelocity all create 300 1\nfix 1 all nve", "run 4"),
    "relaxed": (f"fix 2 all box/relax iso 0.0\n{MINIMUM}\nunfix 2", "run 0"),
    "deformed": (
        "run 0\nchange_box all triclinic\nchange_box all xy final 1.5 x scale 1.02 remap",
        "run 0",
    ),
    "barostat": ("velocity all create 300 1\nfix 1 all npt temp 300 300 0.1 iso 0 0 1", "run 8"),
    "style twice": (f"run 0\npair_style deepmd_lite {SILICON}\npair_coeff * * Si", "run 0"),
    "respa": ("run_style respa 2 2 pair 1", "run 0"),
}


def last_frame(run):
    """Atoms as they are at the end, with LAMMPS' own box."""
    thermo, positions = run.thermo, run.dumped("x", "y", "z")
    cell = [
        [thermo["Lx"], 0, 0],
        [thermo["Xy"], thermo["Ly"], 0],
        [thermo["Xz"], thermo["Yz"], thermo["Lz"]],
    ]
    atoms = Atoms(f"Si{len(positions)}", positions, cell=cell, pbc=True)
    return expected(SILICON, atoms)


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("case", MORE_RUNS)
def test_what_follows_a_first_run(case, n_ranks, lammps):
    """Lists, numbers of atoms and boxes of later runs are their own."""
    box = SILICON_BOX.format(pair=f"deepmd_lite {SILICON}", coeff="Si")
    before, last = MORE_RUNS[case]
    run = lammps(f"{box}{before}{DUMP}{last}\n", n_ranks)
    assert run.status == 0, run.output
    atoms = last_frame(run)
    forces = run.dumped("fx", "fy", "fz")
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-8)
    assert run.thermo["PotEng"] == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    kinetic = (run.thermo["TotEng"] - run.thermo["PotEng"]) * 2 / 3 / atoms.get_volume()
    pressure = np.mean([run.thermo[f"P{ab}"] for ab in ("xx", "yy", "zz")])
    own = PRESSURE * (kinetic - atoms.get_stress()[:3].mean())
    assert pressure == pytest.approx(own, abs=1.0)  # bar


def test_frames_read_again(lammps, tmp_path):
    """`rerun` evaluates each frame of a dump with a list of its own."""
    box = SILICON_BOX.format(pair=f"deepmd_lite {SILICON}", coeff="Si")
    run = lammps(f"{box}{DUMP}velocity all create 900 1\nfix 1 all nve\nthermo 2\nrun 6\n")
    energies = [row["PotEng"] for row in run.rows]
    (tmp_path / "dump.txt").rename(tmp_path / "first.txt")
    again = lammps(box + "thermo 2\nrerun first.txt every 2 dump x y z\n", n_ranks=2)
    np.testing.assert_allclose([row["PotEng"] for row in again.rows], energies, atol=1e-8)


@pytest.mark.parametrize(
    "other", ["zero 5.0", "gran/hooke/history 1.0 NULL 1.0 NULL 0.0 0"], ids=["fdotr", "explicit"]
)
def test_the_stress_beside_another_style(other, lammps):
    """Some styles want the virial pair by pair, where LAMMPS does not make it of the forces."""
    box = SILICON_BOX.format(
        pair=f"hybrid/overlay deepmd_lite {SILICON} {other}", coeff="deepmd_lite Si"
    )
    name = other.split()[0]
    if name != "zero":
        box = box.replace("units metal", "units metal\natom_style sphere\ncomm_modify vel yes")
        box = box.replace("mass 1 28.0855", "set type 1 density 1.0\nset type 1 diameter 0.1")
    run = lammps(f"{box}pair_coeff * * {name}{DUMP}run 0\n", n_ranks=2)
    assert run.status == 0, run.output
    pressures = [run.thermo[f"P{ab}"] for ab in ("xx", "yy", "zz", "yz", "xz", "xy")]
    stress = -PRESSURE * last_frame(run).get_stress()
    np.testing.assert_allclose(pressures, stress, rtol=1e-7, atol=1e-2)


def test_one_part_of_the_pressure(lammps):
    """`compute pressure … pair/hybrid` has LAMMPS ask for the virial of this style alone."""
    box = SILICON_BOX.format(
        pair=f"hybrid/overlay deepmd_lite {SILICON} zero 5.0", coeff="deepmd_lite Si"
    )
    box += "pair_coeff * * zero\ncompute own all pressure NULL pair/hybrid deepmd_lite\n"
    box += "thermo_style custom step pe etotal lx ly lz xy xz yz pxx c_own[1]\n"
    run = lammps(f"{box}thermo_modify format float %.16g{DUMP}run 0\n")
    assert run.status == 0, run.output
    assert run.thermo["c_own[1]"] == pytest.approx(run.thermo["Pxx"], abs=1e-2)
    own = -PRESSURE * last_frame(run).get_stress()[0]
    assert run.thermo["Pxx"] == pytest.approx(own, abs=1e-2)


def test_elements_that_change_without_a_new_list(lammps, tmp_path):
    """As `fix atom/swap` exchanges them."""
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H40O24", 9.0, 4))
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl")
    text += "neigh_modify delay 100 every 100 check no\n"
    text += "fix 1 all atom/swap 1 3 29494 1e7 ke no types 1 2\nrun 4\n"
    run = lammps(text, n_ranks=2)
    assert run.status == 0, run.output
    changed = atoms.copy()
    changed.symbols[:] = np.array(["X", "O", "H"])[run.dumped("type")[:, 0].astype(int)]
    assert (changed.numbers != atoms.numbers).sum() >= 4
    forces = expected(tmp_path / "model.dpl", changed).get_forces()
    np.testing.assert_allclose(run.dumped("fx", "fy", "fz"), forces, rtol=0, atol=1e-8)


def test_the_example(lammps):
    text = (ROOT / "examples" / "06_lammps" / "in.lammps").read_text()
    for old, new in (
        ("../../data/silicon/silicon.dpl", SILICON),
        ("repeat index 6", "repeat index 3"),
        ("steps index 500", "steps index 100"),
    ):
        assert old in text
        text = text.replace(old, str(new))
    run = lammps(text, n_ranks=2)
    assert run.status == 0, run.output
    assert len(run.rows) == 3
    assert abs(run.rows[-1]["TotEng"] - run.rows[0]["TotEng"]) / 216 < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_virials_of_atoms(kind, lammps, tmp_path):
    """All nine components of `centroid/stress/atom`, the symmetric part in `stress/atom`; ghosts'
    go to their owners on other ranks. The flux of heat is made of them."""
    save_model(KINDS[kind](), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 5.2, 4, skew=0.15))
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl")
    computes = (
        "compute c all centroid/stress/atom NULL virial\ncompute s all stress/atom NULL virial"
    )
    columns = [f"c_c[{k}]" for k in range(1, 10)] + [f"c_s[{k}]" for k in range(1, 7)]
    text = text.replace("dump 1", f"{computes}\ndump 1", 1)
    text = text.replace("c_energies\n", f"c_energies {' '.join(columns)}\n")
    run = lammps(text + "run 0\n", 2)
    assert run.status == 0, run.output
    model = load_model(tmp_path / "model.dpl")
    periodic = environment_of(atoms, model.type_map, model.rcut)
    virials = periodic.fold(model.atomic_virials(periodic.env).flatten(1)).numpy()
    order = [0, 4, 8, 1, 2, 5, 3, 6, 7]  # xx yy zz xy xz yz yx zx zy
    stress = -PRESSURE * virials[:, order]
    found = run.dumped(*columns)
    tolerance = 1e-9 * np.abs(stress).max()
    np.testing.assert_allclose(found[:, :9], stress, rtol=0, atol=tolerance)
    symmetric = 0.5 * (stress[:, :6] + stress[:, [0, 1, 2, 6, 7, 8]])
    np.testing.assert_allclose(found[:, 9:], symmetric, rtol=0, atol=tolerance)
    assert np.abs(stress[:, 3:6] - stress[:, 6:]).max() > 1e-3 * np.abs(stress).max()


def test_the_flux_of_heat_is_made_of_them(lammps, tmp_path):
    """What LAMMPS adds to the convective part is Σ W_j v_j of the nine components."""
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 5.2, 4, skew=0.15))
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl")
    computes = "compute k all ke/atom\ncompute c all centroid/stress/atom NULL virial\n"
    computes += "compute J all heat/flux k energies c\nvelocity all create 900 1\n"
    text = text.replace("dump 1", f"{computes}dump 1", 1)
    text = text.replace("c_energies\n", "c_energies vx vy vz\n")
    columns = " ".join(f"c_J[{k}]" for k in range(1, 7))
    text = text.replace("thermo_style custom step", f"thermo_style custom step {columns}")
    run = lammps(text + "run 0\n", 2)
    assert run.status == 0, run.output
    model = load_model(tmp_path / "model.dpl")
    periodic = environment_of(atoms, model.type_map, model.rcut)
    virials = periodic.fold(model.atomic_virials(periodic.env).flatten(1)).unflatten(1, (3, 3))
    expected = np.einsum("nab,nb->a", virials.numpy(), run.dumped("vx", "vy", "vz"))
    flux = np.array([run.thermo[f"c_J[{k}]"] for k in range(1, 7)])
    np.testing.assert_allclose(flux[:3] - flux[3:], expected, rtol=1e-6)


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_deviation_of_models(n_ranks, lammps, tmp_path):
    """The numbers of `dpl devi`, for models whose elements are in other orders."""
    for k, type_map in enumerate([("H", "O"), ("O", "H"), ("H", "O")]):
        save_model(random_potential(type_map, seed=k), tmp_path / f"{k}.dpl")
    atoms = lower(random_atoms("H20O12", 6.5, 4))
    text = begin(
        tmp_path, atoms, ["O", "H"], "deepmd_lite 0.dpl 1.dpl 2.dpl out_file devi.out out_freq 5"
    )
    text += "fix 1 all nve\ntimestep 0.0001\nrun 11\n"
    run = lammps(text, n_ranks)
    assert run.status == 0, run.output
    lines = (tmp_path / "devi.out").read_text().splitlines()
    assert lines[0].lstrip("#").split() == ["step", *COLUMNS]
    rows = np.array([line.split() for line in lines[1:]], dtype=float)
    assert rows[:, 0].tolist() == [0, 5, 10]
    write(tmp_path / "first.extxyz", atoms)
    models = [str(tmp_path / f"{k}.dpl") for k in range(3)]
    arguments = ["-s", str(tmp_path / "first.extxyz"), "-o", str(tmp_path / "own.out"), "-q"]
    assert main(["devi", "-m", *models, *arguments]) == 0
    own = (tmp_path / "own.out").read_text().splitlines()[-1].split()
    np.testing.assert_allclose(rows[0, 1:7], np.array(own[1:7], dtype=float), rtol=2e-6)


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_a_deviation_that_is_not_a_number_is_shown(n_ranks, lammps, tmp_path):
    """Of a model whose forces on some atoms are not finite."""
    models = [random_potential(("H", "O"), seed=k) for k in range(2)]
    with torch.no_grad():
        network = models[1].fitting[0]
        network.weight_out *= 1e308 / network.weight_out.abs().max()
        network.weight_0 *= 10.0
    for k, model in enumerate(models):
        save_model(model, tmp_path / f"{k}.dpl")
    atoms = random_atoms("H4O8", 9.0, 4)
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite 0.dpl 1.dpl out_file devi.out")
    run = lammps(text + "run 0\n", n_ranks)
    assert run.status == 0, run.output
    row = np.loadtxt(tmp_path / "devi.out")
    assert row[0] == 0
    assert np.isnan(row[1:]).all()


def test_deviation_of_a_committee_in_the_file(lammps, tmp_path):
    save_model(with_members(random_potential(("H", "O"))), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H20O12", 6.5, 4))
    write(tmp_path / "first.extxyz", atoms)
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl out_file devi.out")
    run = lammps(text + "run 0\n", 2)
    assert run.status == 0, run.output
    found = np.loadtxt(tmp_path / "devi.out")
    command = ["devi", "-m", tmp_path / "model.dpl", "-s", tmp_path / "first.extxyz", "-q"]
    assert main([*map(str, command), "-o", str(tmp_path / "own.out")]) == 0
    np.testing.assert_allclose(found[1:], np.loadtxt(tmp_path / "own.out")[1:7], rtol=2e-6)
    assert found[4] > 1e-2
    alone = lammps(begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl") + "run 0\n")
    assert alone.status == 0, alone.output
    assert not (tmp_path / "model_devi.out").exists()  # it costs, and nobody asked


# --- what must not go on in silence -------------------------------------------------------------


def test_bonded_atoms_stay_neighbours(lammps, tmp_path):
    """LAMMPS' default takes them out of the list."""
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 6.0, 4))
    text = begin(tmp_path, atoms, ["H", "O"], "deepmd_lite model.dpl", style="full")
    data = (tmp_path / "atoms.data").read_text()
    data = data.replace("atom types", "atom types\n1 bonds\n1 bond types\n4 extra bond per atom")
    (tmp_path / "atoms.data").write_text(data + "\nBonds\n\n1 1 1 2\n")
    text = text.replace("read_data atoms.data", "bond_style zero\nread_data atoms.data")
    text = text.replace("neighbor 1.0", "bond_coeff *\nneighbor 1.0")
    run = lammps(text + "run 0\n")
    assert run.status != 0
    assert "special_bonds lj/coul 1.0 1.0 1.0" in run.output
    run = lammps(text + "special_bonds lj/coul 1.0 1.0 1.0\nrun 0\n")
    assert_same(run, expected(tmp_path / "model.dpl", atoms))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("* * O H", "* *"), r"element of each of the 2 types.*model.dpl knows H O"),
        (("* * O H", "* * O"), r"element of each of the 2 types"),
        (("* * O H", "* * O X"), r"type 2 is X, which model.dpl does not know.*knows H O"),
        (("units metal", "units lj"), r"expected units metal or real, found lj"),
        (("units metal", "units metal\nnewton off"), r"expected newton on, found off"),
        (("deepmd_lite model.dpl", "deepmd_lite"), r"expected a model file"),
        (("model.dpl", "other.dpl"), r"other.dpl: cannot be opened"),
        (("model.dpl", "graph.pb"), r"dpl convert graph.pb model.dpl"),
        (("model.dpl", "model.dpl precision single"), r"expected float64 or float32, found single"),
        (("model.dpl", "model.dpl out_freq"), r"out_freq needs a value"),
        (("model.dpl", "model.dpl out_freq 5"), r"a committee in its file: dpl uncertainty model"),
        (("model.dpl", "model.dpl model.dpl out_file no/x"), r"out_file no/x cannot be written"),
        (("neighbor 1.0", "pair_style deepmd_lite model.dpl\nneighbor 1.0"),
         r"All pair coeffs are not set"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(change, message, lammps, tmp_path):
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 6.0, 4))
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl")
    assert change[0] in text
    run = lammps(text.replace(*change) + "run 0\n")
    assert run.status != 0
    assert re.search(message, " ".join(run.output.split())), run.output


def test_excluded_neighbours_are_told_in_the_first_run(lammps, tmp_path):
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 6.0, 4))
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl") + "run 0\n"
    words = "'neigh_modify exclude' takes neighbours away"
    assert words not in lammps(f"{text}clear\n{text.lstrip()}").output
    assert words in lammps(text.replace("run 0", "neigh_modify exclude type 1 2\nrun 0")).output


def test_atoms_that_coincide_have_their_ids(lammps, tmp_path):
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H40O24", 9.0, 4))
    atoms.positions[50] = atoms.positions[7]
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl") + "run 0\n"
    output = lammps(text, n_ranks=2).output
    assert re.search(r"step 0: atoms (8 and 51|51 and 8) coincide", " ".join(output.split()))


def test_a_minimisation_has_one_deviation_a_step(lammps, tmp_path):
    for k in range(2):
        save_model(random_potential(("H", "O"), seed=k), tmp_path / f"{k}.dpl")
    atoms = lower(random_atoms("H20O12", 6.5, 4))
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite 0.dpl 1.dpl out_freq 2")
    run = lammps(text + "minimize 0 0 7 100\n")
    assert run.status == 0, run.output
    rows = np.loadtxt(tmp_path / "model_devi.out")
    assert rows[:, 0].tolist() == [0, 2, 4, 6]


def test_atoms_nearer_than_any_seen_are_told_once(lammps, tmp_path):
    save_model(random_potential(("H", "O")), tmp_path / "model.dpl")
    atoms = lower(random_atoms("H10O6", 6.0, 4))
    atoms.positions[1] = atoms.positions[0] + (0.5, 0.0, 0.0)
    text = begin(tmp_path, atoms, ["O", "H"], "deepmd_lite model.dpl")
    run = lammps(text + "fix 1 all nve\ntimestep 1e-6\nrun 5\n")
    assert run.output.count("neighbours are closer than the table of") == 1


# --- the plugin -----------------------------------------------------------------------------------


def test_the_plugin_of_another_lammps_is_refused(lammps, tmp_path):
    lammps_here = build.installed()
    other = tmp_path / "other" / build.NAME
    build.build(build.Lammps(lammps_here.headers, 20240829), other)
    save_model(random_potential(), tmp_path / "model.dpl")
    text = begin(tmp_path, random_atoms("Si4", 6.0, 4), ["Si"], "deepmd_lite model.dpl")
    run = lammps(text, folder=other.parent)
    assert run.status != 0
    assert "built for LAMMPS 20240829" in run.output
    assert "dpl lammps --headers" in run.output


def test_lammps_of_the_same_environment_finds_it():
    (entry,) = entry_points(group="lammps.plugins", name="deepmd_lite")
    assert entry.load()() == str(PLUGINS)


def test_building(tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"expected LAMMPS' folder src"):
        build.in_folder(tmp_path)
    (tmp_path / "version.h").write_text('#define LAMMPS_VERSION "2 Aug 2023"\n')
    with pytest.raises(InputError, match=r"pair.h among them"):
        build.in_folder(tmp_path)
    (tmp_path / "pair.h").write_text("#error not LAMMPS\n")
    assert build.in_folder(tmp_path) == build.Lammps(tmp_path, 20230802)
    with pytest.raises(InputError, match=r"not LAMMPS"):
        build.build(build.in_folder(tmp_path), tmp_path / "xplugin.so")
    assert list(tmp_path.glob("*plugin*")) == []
    (tmp_path / "version.h").write_text('#define LAMMPS_VERSION "3 Mar 2020"\n')
    with pytest.raises(InputError, match=r"older than"):
        build.in_folder(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"no-such-compiler: no such compiler"):
        build.build(build.installed(), tmp_path / "xplugin.so")
    with pytest.raises(InputError, match=r"mpi.h is missing"):
        monkeypatch.delenv("CXX")
        build.build(build.installed(), tmp_path / "xplugin.so", tmp_path)
    assert main(["lammps", "--headers", str(tmp_path / "none")]) == 1
    assert "expected LAMMPS' folder src" in capsys.readouterr().err
