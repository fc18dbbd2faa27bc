"""Files that ASE reads: keys, units, signs, contradictions and damage."""

import gzip
import lzma

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write

from deepmd_lite.data.ase_files import read_ase_file
from deepmd_lite.data.ase_labels import (
    ENERGY_KEYS,
    FORCES_KEYS,
    STRESS_KEYS,
    VIRIAL_KEYS,
    frame_from_atoms,
)
from deepmd_lite.system import InputError

STRESS = np.array([[0.01, 0.002, 0.003], [0.002, 0.02, 0.004], [0.003, 0.004, 0.03]])
VOIGT = [0.01, 0.02, 0.03, 0.004, 0.003, 0.002]


def nine(matrix):
    return " ".join(f"{x:.10g}" for x in np.ravel(matrix))


def silicon(comment, columns="", values="", pbc="T T T"):
    """Text of one frame: two atoms in a cell of 2 x 3 x 4 Å, with further columns."""
    return (
        f'2\nLattice="2 0 0 0 3 0 0 0 4" Properties=species:S:1:pos:R:3{columns} '
        f'pbc="{pbc}" {comment}\nSi 0 0 0 {values}\nSi 1 1 1 {values}\n'
    )


def frames_of(tmp_path, text, name="a.extxyz"):
    path = tmp_path / name
    path.write_text(text)
    return read_ase_file(path).frames


@pytest.fixture
def strained():
    """A copper crystal with shear, compressed, and EMT's labels."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array @ np.array([[0.95, 0.02, 0], [0, 0.96, 0.01], [0, 0, 0.97]]).T)
    atoms.set_scaled_positions((bulk("Cu", cubic=True) * (2, 2, 2)).get_scaled_positions())
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    atoms.get_stress()
    return atoms


def test_virial_is_the_negative_strain_derivative(strained):
    frame = frame_from_atoms(strained, "s")
    assert np.trace(frame.virial) > 0  # compressed
    assert strained.get_stress()[:3].sum() < 0
    h = 1e-5
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * h / 2
            strain[b, a] += sign * h / 2
            atoms = strained.copy()
            atoms.set_cell(strained.cell.array @ strain, scale_atoms=True)
            atoms.calc = EMT()
            energies.append(atoms.get_potential_energy())
        derivative = (energies[0] - energies[1]) / (2 * h)
        assert frame.virial[a, b] == pytest.approx(-derivative, abs=1e-4)


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.traj", "a.db", "a.extxyz.gz", "a.json"])
def test_round_trip_through_ase(tmp_path, strained, name):
    images = [strained, strained.copy()]
    images[1].rattle(0.1, seed=2)
    images[1].calc = EMT()
    images[1].get_stress()
    path = tmp_path / name
    options = {"format": "extxyz"} if "xyz" in name else {}
    write(path, images, **options)
    system = read_ase_file(path)
    assert len(system.frames) == 2
    for frame, atoms in zip(system.frames, images, strict=True):
        assert frame.symbols == ("Cu",) * 32
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-8)
        np.testing.assert_allclose(frame.cell, atoms.cell.array, atol=1e-8)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-7)
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        np.testing.assert_allclose(frame.virial, virial, atol=1e-6)


def test_forces_of_constrained_atoms_are_kept(tmp_path, strained):
    expected = strained.get_forces()
    strained.set_constraint(FixAtoms(indices=range(16)))
    write(tmp_path / "a.traj", strained)
    (frame,) = read_ase_file(tmp_path / "a.traj").frames
    np.testing.assert_array_equal(frame.forces, expected)
    assert np.abs(expected[:16]).min() > 0


@pytest.mark.parametrize("key", ENERGY_KEYS)
def test_energy_keys(tmp_path, key):
    (frame,) = frames_of(tmp_path, silicon(f"{key}=-3.25"))
    assert frame.energy == -3.25


def test_atomic_energies_are_added_up_for_want_of_a_total(tmp_path):
    columns = ":energies:R:1"
    (frame,) = frames_of(tmp_path, silicon("", columns, "-1.5"))
    assert frame.energy == -3.0
    (frame,) = frames_of(tmp_path, silicon("energy=-7", columns, "-1.5"))
    assert frame.energy == -7.0


@pytest.mark.parametrize("key", FORCES_KEYS)
def test_forces_keys(tmp_path, key):
    (frame,) = frames_of(tmp_path, silicon("energy=1", f":{key}:R:3", "1 -2 3"))
    np.testing.assert_array_equal(frame.forces, [[1, -2, 3]] * 2)


@pytest.mark.parametrize("key", VIRIAL_KEYS)
def test_virial_keys_are_taken_as_they_are(tmp_path, key):
    matrix = np.arange(9.0).reshape(3, 3)  # not symmetric: shows a transposition
    (frame,) = frames_of(tmp_path, silicon(f'energy=1 {key}="{nine(matrix)}"'))
    np.testing.assert_array_equal(frame.virial, matrix)


@pytest.mark.parametrize("numbers", [nine(STRESS), nine(VOIGT)], ids=["nine", "voigt"])
@pytest.mark.parametrize("key", STRESS_KEYS)
def test_stress_keys_become_a_virial(tmp_path, key, numbers):
    (frame,) = frames_of(tmp_path, silicon(f'energy=1 {key}="{numbers}"'))
    np.testing.assert_allclose(frame.virial, -24.0 * STRESS, rtol=1e-9)


def test_virial_and_stress_must_agree(tmp_path):
    good = silicon(f'energy=1 virial="{nine(-24.0 * STRESS)}" stress="{nine(STRESS)}"')
    (frame,) = frames_of(tmp_path, good)
    np.testing.assert_allclose(frame.virial, -24.0 * STRESS)
    flipped = silicon(f'energy=1 virial="{nine(24.0 * STRESS)}" stress="{nine(STRESS)}"')
    with pytest.raises(InputError, match=r"frame 1: 'virial' and 'stress' disagree by 1\.44 eV"):
        frames_of(tmp_path, good + flipped)


@pytest.mark.parametrize(("pbc", "third"), [("F F F", "0 0 4"), ("T T F", "0 0 0")])
def test_stress_without_a_volume_is_left_out_and_noted(tmp_path, pbc, third):
    path = tmp_path / "silicon.xyz"
    text = silicon(f'energy=1 stress="{nine(STRESS)}"', pbc=pbc)
    path.write_text(text.replace("0 0 4", third))
    system = read_ase_file(path)
    assert system.frames[0].virial is None
    assert system.notes[0].startswith("stress left out: the frame has no periodic cell with a vol")
    np.testing.assert_array_equal(system.frames[0].pbc, [c == "T" for c in pbc.split()])


@pytest.mark.parametrize("pbc", [(1, 1, 0), (0, 0, 1)])
def test_the_stress_of_slabs_and_wires_is_over_the_volume_of_the_cell(tmp_path, pbc):
    """The virial is −dE/dε, of every strain with which cell and atoms move."""
    slab = bulk("Cu", cubic=True) * 2
    slab.rattle(0.05, seed=2)
    slab.set_cell([[7.3, 0.1, 0.0], [-0.2, 7.1, 0.0], [0.0, 0.0, 25.0]])
    slab.pbc, slab.calc = pbc, EMT()
    slab.get_forces()
    slab.get_stress()
    write(tmp_path / "slab.xyz", slab)
    (frame,) = read_ase_file(tmp_path / "slab.xyz").frames
    for i, j in np.ndindex(3, 3):
        energies = []
        for step in (1e-4, -1e-4):
            strain = np.eye(3)
            strain[i, j] += step
            moved = slab.copy()
            moved.set_cell(slab.cell.array @ strain)
            moved.positions = slab.positions @ strain
            moved.calc = EMT()
            energies.append(moved.get_potential_energy())
        assert frame.virial[i, j] == pytest.approx((energies[1] - energies[0]) / 2e-4, abs=1e-3)


def test_open_frames_have_no_cell_but_may_have_a_virial(tmp_path):
    text = silicon(f'energy=1 virial="{nine(STRESS)}"', pbc="F F F")
    (frame,) = frames_of(tmp_path, text)
    assert not frame.cell.any()
    np.testing.assert_allclose(frame.virial, STRESS)


def test_free_energy_may_differ_and_is_noted(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(silicon("energy=-5.0 free_energy=-5.1"))
    system = read_ase_file(path)
    assert system.frames[0].energy == -5.0
    assert "free_energy differs from energy" in system.notes[0]


def test_a_calculators_free_energy_is_that_of_its_forces(tmp_path):
    atoms = Atoms("Si2", [[0, 0, 0], [1, 1, 1]], cell=[2, 3, 4], pbc=True)
    labels = {"energy": -5.0, "free_energy": -5.003}
    atoms.calc = SinglePointCalculator(atoms, **labels, forces=np.ones((2, 3)))
    write(tmp_path / "a.traj", atoms)
    system = read_ase_file(tmp_path / "a.traj")
    assert system.frames[0].energy == -5.003
    assert system.notes == [
        "the free energy is taken, whose derivatives the forces are (1 of 1 frames)"
    ]
    write(tmp_path / "a.extxyz", atoms)  # there the names are what somebody has chosen
    assert read_ase_file(tmp_path / "a.extxyz").frames[0].energy == -5.0
    atoms.calc = SinglePointCalculator(atoms, **labels)
    assert frame_from_atoms(atoms, "s").energy == -5.0


def test_names_of_labels_in_any_case(tmp_path):
    (frame,) = frames_of(tmp_path, silicon("DFT_Energy=-5", ":Forces:R:3", "1 2 3"))
    assert frame.energy == -5.0
    np.testing.assert_array_equal(frame.forces, [[1, 2, 3]] * 2)
    (frame,) = frames_of(tmp_path, silicon(f'Energy=1 Virial="{nine(STRESS)}"'))
    np.testing.assert_allclose(frame.virial, STRESS)
    (frame,) = frames_of(tmp_path, silicon('STRESS="0.01 0.02 0.03 0.004 0.003 0.002"'))
    np.testing.assert_allclose(frame.virial, -24 * STRESS)
    with pytest.raises(InputError, match="'Energy' and 'energy' differ"):
        frames_of(tmp_path, silicon("energy=-5 Energy=-6"))


def test_contradictory_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="'energy' and 'REF_energy' disagree by 1 eV"):
        frames_of(tmp_path, silicon("energy=-5.0 REF_energy=-4.0"))
    text = silicon("energy=1", ":forces:R:3:REF_forces:R:3", "0 0 0 1 0 0")
    with pytest.raises(InputError, match="'forces' and 'REF_forces' disagree"):
        frames_of(tmp_path, text)
    atoms = Atoms("Si", info={"energy": 1.0})
    atoms.calc = SinglePointCalculator(atoms, energy=2.0)
    with pytest.raises(InputError, match="energy of the calculator differs"):
        frame_from_atoms(atoms, "s")


def test_weights_and_groups(tmp_path):
    text = silicon("energy=1 weight=2.5 config_type=bulk") + silicon(
        "energy=1 config_weight=0.5 config_energy_weight=0", ":forces:R:3", "0 0 0"
    )
    one, two = frames_of(tmp_path, text)
    assert (one.weight, one.config_type, one.energy) == (2.5, "bulk", 1.0)
    assert (two.weight, two.config_type, two.energy) == (0.5, None, None)
    assert two.forces is not None


def test_weights_of_other_names_are_told_of(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(silicon("energy=1 energy_weight=0.1 weight=2", ":forces:R:3", "0 0 0"))
    (note,) = read_ase_file(path).notes
    assert note.startswith("energy_weight is not used; the weight of a frame is weight or config_")


def test_frames_that_differ_in_what_no_model_sees_are_told_of(tmp_path):
    path, row = tmp_path / "a.extxyz", (":forces:R:3", "0 0 0")
    path.write_text(silicon("energy=1 charge=0 spin=1", *row) * 2)
    assert read_ase_file(path).notes == []
    path.write_text("".join(silicon(f"energy=1 {key}", *row) for key in ("charge=0", "charge=1")))
    (note,) = read_ase_file(path).notes
    assert note.startswith("frames differ in charge (0, 1), which a model cannot see")
    path.write_text(silicon("energy=1", *row) + silicon("energy=1 multiplicity=3", *row))
    (note,) = read_ase_file(path).notes
    assert note.startswith("frames differ in multiplicity (3, not given)")


def test_what_is_left_out_on_purpose_is_not_missed(tmp_path):
    path = tmp_path / "a.extxyz"
    row = ":forces:R:3", "0 0 0"
    for key, notes in (("config_forces_weight", 0), ("unused", 0)):
        path.write_text(silicon(f"energy=1 {key}=0", *row))
        assert len(read_ase_file(path).notes) == notes
    path.write_text(silicon("energy=1 config_forces_weight=0"))
    (note,) = read_ase_file(path).notes
    assert note.startswith("no forces under any of forces")


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_compressed_files(tmp_path, suffix, opener):
    path = tmp_path / f"a.xyz{suffix}"
    with opener(path, "wt") as stream:
        stream.write(silicon("energy=1") * 3)
    assert len(read_ase_file(path).frames) == 3
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="damaged or truncated"):
        read_ase_file(path)


def test_at_sign_in_a_name_is_part_of_it(tmp_path):
    write(tmp_path / "a@1.traj", [molecule("H2O")] * 3)
    assert len(read_ase_file(tmp_path / "a@1.traj").frames) == 3


GOOD = silicon("energy=1")
WRONG = {
    "element": (GOOD + GOOD.replace("Si 0", "Xx 0"), "frame 1: ASE cannot read it as extxyz"),
    "dummy atom": (GOOD.replace("Si 0", "X 0"), "frame 0: X is not a chemical symbol"),
    "cut": (GOOD + GOOD[:-13], "frame 1: line 5 says 2 atoms, and the file ends after 1 row"),
    "nan position": (GOOD.replace("1 1 1", "1 nan 1"), "frame 0: positions of atom 1 are not"),
    "nan energy": (silicon("energy=nan"), "frame 0: the energy is not finite"),
    "inf force": (
        silicon("energy=1", ":forces:R:3", "0 inf 0"),
        "frame 0: forces of atom 0 are not finite",
    ),
    "text as energy": (silicon("energy=high"), "frame 0: energy: expected numbers, found 'high'"),
    "two energies": (silicon('REF_energy="1 2"'), "REF_energy: expected one number, found 2"),
    "force columns": (
        silicon("energy=1", ":forces:R:2", "0 0"),
        r"frame 0: forces: expected shape \(2, 3\).*found \(2, 2\)",
    ),
    "six virials": (silicon('REF_virials="1 2 3 4 5 6"'), "REF_virials: expected 9 numbers"),
    "six virials of ASE's own key": (
        silicon('virial="1 2 3 4 5 6"'),
        "frame 0: ASE cannot read it as extxyz.*expected nine numbers, row by row",
    ),
    "seven stresses": (
        silicon('REF_stress="1 2 3 4 5 6 7"'),
        r"REF_stress: expected 6 numbers \(xx yy zz yz xz xy\) or 9, found 7",
    ),
    "flat cell": (
        GOOD.replace("2 0 0 0 3 0 0 0 4", "2 0 0 2 0 0 0 0 4"),
        "frame 0: the cell has zero volume",
    ),
    "no cell": (
        GOOD.replace('Lattice="2 0 0 0 3 0 0 0 4" ', ""),
        "frame 0: the cell has zero volume",
    ),
    "weight": (silicon("energy=1 weight=-1"), "frame 0: weight: expected a number ≥ 0"),
    "empty line": (GOOD + "\n" + GOOD, "frame 1: expected a number of atoms, found an empty line"),
    "no frames": ("\n\n", "has no frames|cannot read|does not know"),
    "empty file": ("", "ASE does not know this format"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_named(tmp_path, case):
    text, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        frames_of(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "a.extxyz"))
    assert "\n" not in str(caught.value)


def test_unknown_labels_are_named_where_none_is_known(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(silicon("E_tot=1", ":my_forces:R:3", "0 0 0"))
    notes = read_ase_file(path).notes
    assert any("no energy under" in n and "E_tot" in n for n in notes)
    assert any("no forces under" in n and "my_forces" in n for n in notes)


def test_type_map_is_checked(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(GOOD)
    with pytest.raises(InputError, match="frame 0: element Si is not in the type map"):
        read_ase_file(path, ["Ge"])


def test_vasp_pressure_becomes_a_positive_virial(tmp_path):
    """VASP prints stress in kB, positive where the crystal pushes outward; ASE turns the sign."""

    def rows(name, matrix):
        lines = "".join(f"<v>{nine(row)}</v>" for row in matrix)
        return f'<varray name="{name}">{lines}</varray>'

    crystal = f"<crystal>{rows('basis', 4.0 * np.eye(3))}</crystal>"
    positions = rows("positions", [[0, 0, 0], [0.5, 0.5, 0.5]])
    atom = "<rc><c>Si</c><c>1</c></rc>"
    energy = (
        '<energy><i name="e_fr_energy">-10.5</i><i name="e_wo_entrp">-10.0</i>'
        '<i name="e_0_energy">-10.25</i></energy>'
    )
    step = (
        f"<calculation><scstep>{energy}</scstep><structure>{crystal}{positions}</structure>"
        f"{rows('forces', [[0.1, 0, 0], [-0.1, 0, 0]])}"
        f"{rows('stress', [[30, 1, 0], [1, 20, 0], [0, 0, 10]])}"
        f"{energy}</calculation>"
    )
    kpoints = f"<kpoints>{rows('kpointlist', [[0, 0, 0]])}{rows('weights', [[1]])}</kpoints>"
    (tmp_path / "vasprun.xml").write_text(
        f'<modeling>{kpoints}<atominfo><array name="atoms"><set>{atom * 2}</set></array>'
        f'</atominfo><structure name="initialpos">{crystal}{positions}</structure>'
        f"{step}{step}</modeling>"
    )
    system = read_ase_file(tmp_path / "vasprun.xml")
    assert len(system.frames) == 2
    for frame in system.frames:
        expected = 64.0 * 0.1 / 160.21766208 * np.array([[30, 1, 0], [1, 20, 0], [0, 0, 10]])
        np.testing.assert_allclose(frame.virial, expected, rtol=1e-6)
        np.testing.assert_array_equal(frame.forces, [[0.1, 0, 0], [-0.1, 0, 0]])
        assert frame.energy == -10.5  # e_fr_energy, not e_0_energy
    assert "the free energy is taken" in system.notes[0]


# --- LAMMPS ---------------------------------------------------------------------------------------

DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 5
0 5
0 5
ITEM: ATOMS id type element x y z fx fy fz
2 1 O 3 1 1 0.1 0.2 0.3
1 2 Si 1 1 1 -1 -2 -3
"""


def test_a_dump_of_lammps_has_forces_and_no_energy(tmp_path):
    """ASE would say 0."""
    path = tmp_path / "a.lammpstrj"
    path.write_text(DUMP)
    (frame,) = read_ase_file(path).frames
    assert frame.symbols == ("Si", "O")
    assert frame.energy is None
    np.testing.assert_allclose(frame.forces[0], [-1, -2, -3])
    path.write_text(DUMP.replace("type element", "type q").replace("O", "0").replace("Si", "0"))
    with pytest.raises(InputError, match="a dump of LAMMPS without a column 'element'"):
        read_ase_file(path)


@pytest.mark.parametrize("lattice", ["lattice", "LATTICE", "Lattice"])
def test_names_of_the_structure_in_any_case(tmp_path, lattice):
    text = silicon("energy=1").replace("Lattice", lattice).replace("Properties", "properties")
    (frame,) = frames_of(tmp_path, text.replace('pbc="T T T"', ""))
    np.testing.assert_array_equal(frame.cell, np.diag([2.0, 3.0, 4.0]))
    assert frame.pbc.all()


def test_a_free_energy_that_differs_at_all_is_told(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(silicon("energy=-1.0 free_energy=-1.0000001"))
    assert read_ase_file(path).notes[0].startswith("free_energy differs from energy")
