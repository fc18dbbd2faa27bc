"""Trajectory formats: read back by others, and taken back to a restart after anything."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import ase.io.ulm
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.cell import Cell
from ase.units import fs, kJ, mol
from pair_potential import PairPotential

from deepmd_lite.files import InUse
from deepmd_lite.md import Simulation
from deepmd_lite.md.config import Output
from deepmd_lite.md.output import Writer
from deepmd_lite.md.trajectory import NAMES, Moment, Slab, h5md, journal
from deepmd_lite.md.trajectory.orientation import Oriented
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError

ALL = list(NAMES)


def cubic() -> Atoms:
    return bulk("Cu", cubic=True, a=3.7).repeat(2)


def triclinic() -> Atoms:
    """In no convention's orientation, with opposite tilts."""
    atoms = bulk("Cu", a=3.7).repeat((3, 4, 3))
    cell = atoms.cell.array.copy()
    cell[2] -= 0.4 * cell[0]
    atoms.set_cell(cell, scale_atoms=True)
    atoms.rotate(33, (1, 2, 3), rotate_cell=True)
    return atoms


def left_handed() -> Atoms:
    atoms = triclinic()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def slab() -> Atoms:
    atoms = cubic()
    atoms.center(vacuum=5.0, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def cluster() -> Atoms:
    atoms = cubic()
    atoms.set_cell(None)
    atoms.pbc = False
    return atoms


def mixed(atoms: Atoms) -> Atoms:
    """Two elements, isotopes, atoms outside the cell, all in motion."""
    rng = np.random.default_rng(5)
    atoms.numbers[rng.random(len(atoms)) < 0.4] = 47
    atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    atoms.positions += (rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    atoms.set_velocities(0.02 / fs * rng.normal(size=atoms.positions.shape))
    masses = atoms.get_masses()
    masses[0] = 65.0
    atoms.set_masses(masses)
    return atoms


def written(structure, directory, kind, steps=12):
    """Frames (positions Å, velocities Å/fs, forces eV/Å, cell) as they were, in order."""
    output = {"directory": directory, "trajectory": 4, "format": kind}
    simulation = Simulation(mixed(structure()), PairPotential(), timestep=2.0, output=output)
    frames = [simulation.atoms]
    for _ in range(steps // 4):
        simulation.run(4)
        frames.append(simulation.atoms)
    return frames, directory / NAMES[kind]


@pytest.mark.parametrize("structure", [cubic, triclinic, left_handed, slab, cluster])
@pytest.mark.parametrize("kind", ["extxyz", "traj"])
def test_ase_formats_are_read_back(structure, kind, tmp_path):
    expected, path = written(structure, tmp_path / "run", kind)
    found = ase.io.read(path, ":")
    assert [f.info["step"] for f in found] == [0, 4, 8, 12]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.numbers, b.numbers)
        np.testing.assert_array_equal(a.pbc, b.pbc)
        np.testing.assert_allclose(a.cell.array, b.cell.array, atol=1e-7)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
        np.testing.assert_allclose(a.get_masses(), b.get_masses(), atol=1e-6)
        np.testing.assert_allclose(a.get_velocities(), b.get_velocities(), atol=1e-6)
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-7)
        assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=1e-6)


def oriented(cell):
    found = Oriented.of(cell)
    return found.order, found.cell, found.rotation


@pytest.mark.parametrize("structure", [cubic, triclinic, left_handed, slab, cluster])
def test_h5md_is_read_back(structure, tmp_path):
    """Position + image @ edges is the path, turned; positions lie in the cell; units are said."""
    expected, path = written(structure, tmp_path / "run", "h5md")
    order = [0, 1, 2]
    if expected[0].cell.rank == 3:
        order, _, _ = oriented(expected[0].cell.array)
    with h5py.File(path) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        group = file["particles/all"]
        names = {k: name for name, k in h5py.check_enum_dtype(group["species"].dtype).items()}
        symbols = [names[k] for k in group["species"][:]]
        assert symbols == expected[0].get_chemical_symbols()
        np.testing.assert_allclose(group["mass"][:], expected[0].get_masses())
        np.testing.assert_array_equal(group["id"][:], np.arange(len(symbols)))
        boundary = ["periodic" if p else "none" for p in expected[0].pbc[order]]
        assert group["box"].attrs["boundary"].tolist() == boundary
        units = [group[f"{x}/value"].attrs["unit"] for x in ("position", "velocity", "force")]
        assert units == ["Angstrom", "Angstrom fs-1", "kJ mol-1 Angstrom-1"]
        assert group["force/step"] == group["position/step"]
        assert group["position/step"][:].tolist() == [0, 4, 8, 12]
        assert group["position/time"][:].tolist() == [0.0, 8.0, 16.0, 24.0]
        # readers take edges for a periodic cell, also where all boundaries are "none"
        assert ("edges" in group["box"]) == bool(expected[0].pbc.any())
        for k, frame in enumerate(expected):
            turn = np.eye(3)
            edges = group["box/edges/value"][k] if frame.pbc.any() else np.eye(3)
            if frame.cell.rank == 3:
                _, cell, turn = oriented(frame.cell.array)
                np.testing.assert_allclose(edges, cell, atol=1e-12)
                parameters = Cell(frame.cell.array[order]).cellpar()
                np.testing.assert_allclose(edges, Cell.fromcellpar(parameters).array, atol=1e-9)
            positions, images = group["position/value"][k], group["image/value"][k]
            np.testing.assert_allclose(
                positions + images @ edges, frame.positions @ turn, atol=1e-9
            )
            s = (positions @ np.linalg.inv(edges))[:, frame.pbc[order]]
            assert ((s > -1e-9) & (s < 1 + 1e-9)).all()
            velocities, forces = group["velocity/value"][k], group["force/value"][k]
            np.testing.assert_allclose(velocities, frame.get_velocities() @ turn * fs, atol=1e-12)
            np.testing.assert_allclose(forces, frame.get_forces() @ turn / (kJ / mol), atol=1e-9)


@pytest.mark.parametrize("structure", [cubic, triclinic, left_handed, slab])
def test_lammps_dump_is_read_back(structure, tmp_path):
    """Rotated, perhaps, but by one and the same rotation for everything."""
    expected, path = written(structure, tmp_path / "run", "lammps")
    found = ase.io.read(path, ":", format="lammps-dump-text")
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        order, cell, turn = oriented(b.cell.array)
        assert np.linalg.det(turn) == pytest.approx(1.0)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(a.cell.array, cell, atol=1e-6)
        np.testing.assert_allclose(a.cell.array, b.cell.array[order] @ turn, atol=1e-6)
        np.testing.assert_array_equal(a.pbc, b.pbc[order])
        np.testing.assert_array_equal(a.numbers, b.numbers)
        inside = b.copy()
        inside.wrap(eps=0)
        np.testing.assert_allclose(a.positions, inside.positions @ turn, atol=1e-6)
        np.testing.assert_allclose(a.get_velocities(), b.get_velocities() @ turn, atol=1e-6)
        np.testing.assert_allclose(a.get_forces(), b.get_forces() @ turn, atol=1e-7)
    words = path.read_text().splitlines()
    head = words.index(next(w for w in words if w.startswith("ITEM: ATOMS")))
    names = words[head].split()[2:]
    order, cell, turn = oriented(expected[0].cell.array)
    for line, path_of_atom in zip(words[head + 1 :], expected[0].positions @ turn, strict=False):
        row = dict(zip(names, line.split(), strict=True))
        x = np.array([float(row[k]) for k in "xyz"])
        images = np.array([int(row[f"i{k}"]) for k in "xyz"])
        np.testing.assert_allclose(x + images @ cell, path_of_atom, atol=1e-6)
        if row["id"] == str(len(expected[0])):
            break


def test_a_dump_of_a_cluster_has_its_atoms_in_the_box(tmp_path):
    expected, path = written(cluster, tmp_path / "run", "lammps")
    lines = path.read_text().splitlines()
    heads = [k for k, line in enumerate(lines) if line.startswith("ITEM: BOX BOUNDS")]
    for head, frame in zip(heads, expected, strict=True):
        assert lines[head].endswith("ff ff ff")
        low, high = np.array([line.split() for line in lines[head + 1 : head + 4]], float).T
        np.testing.assert_allclose(low, frame.positions.min(axis=0), atol=1e-9)
        np.testing.assert_allclose(high, frame.positions.max(axis=0), atol=1e-9)


def test_a_cell_that_lammps_takes_is_not_rotated():
    order, cell, turn = oriented(np.diag([3.0, 4.0, 5.0]))
    assert order == [0, 1, 2]
    np.testing.assert_array_equal(cell, np.diag([3.0, 4.0, 5.0]))
    np.testing.assert_array_equal(turn, np.eye(3))


# --- going on -------------------------------------------------------------------------------


def content(directory):
    return {k: (directory / name).read_bytes() for k, name in NAMES.items()}


def test_a_continued_run_ends_with_the_same_files(tmp_path):
    """Byte for byte, in all formats at once, far enough for ASE's index to grow (42 frames)."""

    def run(name, steps, resume=None):
        output = {"directory": tmp_path / name, "trajectory": 1, "restart": 20, "format": ALL}
        atoms = mixed(cubic())
        Simulation(atoms, PairPotential(), output=output, resume=resume).run(steps)
        return tmp_path / name

    whole = content(run("whole", 60))
    parts = run("parts", 40)
    restart = parts / "restart" / "step-000000000040"
    run("parts", 9, resume=restart)  # steps that will be made again
    assert content(parts) != whole
    run("parts", 20, resume=restart)
    for kind, expected in whole.items():
        assert content(parts)[kind] == expected, kind


def moment(step):
    cell = np.diag([7.0, 8.0, 9.0])
    full = (True, True, True)
    return Moment(step, 1.0 * step, cell, (False,) * 3, full, ["Cu", "Ag"], 40, -1.0, np.eye(3))


def slabs(step):
    rng = np.random.default_rng(step)
    for first in (0, 25):
        n = 25 if first == 0 else 15
        wide = [rng.normal(size=(n, 3)) for _ in range(3)]
        images = rng.integers(-2, 3, (n, 3))
        types = np.random.default_rng(first).integers(0, 2, n)
        masses = np.where(types == 0, 63.546, 107.8682)
        x, v, f = wide
        yield Slab(first, types, masses, x, images, v, f, rng.normal(size=n))


def write(writer, steps):
    for step in steps:
        writer.trajectory(moment(step), slabs(step))


def dies_at(count, monkeypatch):
    """The process ends at the `count`-th write to a file, as kill -9 would end it."""
    left = [count]

    def counted(function):
        def wrapper(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return function(*args, **kwargs)

        return wrapper

    plain = journal.JournalledFile.write

    def torn(self, data):
        if left[0] == 0:  # half of it arrives
            plain(self, bytes(data)[: len(data) // 2])
        return counted(plain)(self, data)

    monkeypatch.setattr(journal.JournalledFile, "write", torn)
    monkeypatch.setattr(journal.Journal, "keep", counted(journal.Journal.keep))
    monkeypatch.setattr(ase.io.ulm, "writeint", counted(ase.io.ulm.writeint))
    monkeypatch.setattr(ase.io.ulm.Writer, "fill", counted(ase.io.ulm.Writer.fill))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("kind", "stride"), [("traj", 2), ("h5md", 9)])
def test_killed_at_any_write(kind, stride, tmp_path, monkeypatch):
    """Frames 0–2, a restart, frames 3–4, a restart, and death while frames are added: both
    restarts can be gone back to, and the file becomes that of an uninterrupted run."""
    whole = Writer(tmp_path / "whole", True, None, [kind])
    sizes, expected = {}, {}
    for step in range(8):
        if step in (3, 5):
            sizes[step] = whole.sizes()
            expected[step] = (tmp_path / "whole" / NAMES[kind]).read_bytes()
        write(whole, [step])
    final = (tmp_path / "whole" / NAMES[kind]).read_bytes()
    for count in range(0, 1000, stride):
        folder = tmp_path / str(count)
        child = os.fork()
        if child == 0:
            writer = Writer(folder, True, None, [kind])
            write(writer, range(3))
            writer.sizes()
            write(writer, range(3, 5))
            writer.sizes()
            with monkeypatch.context() as m:
                dies_at(count, m)
                write(writer, range(5, 8))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9)
        path = folder / NAMES[kind]
        for step in (5, 3) if count // stride % 2 else (3,):
            writer = Writer(folder, True, sizes[step], [kind])
            assert path.read_bytes() == expected[step]
        write(writer, range(3, 8))
        assert path.read_bytes() == final
        if status == 0:
            break
    assert count > 10
    assert status == 0


def test_what_the_restart_does_not_know_is_removed(tmp_path):
    writer = Writer(tmp_path, True, None, ALL)
    write(writer, [0])
    Writer(tmp_path, True, {}, ALL)
    assert [p.name for p in tmp_path.iterdir() if p.name != InUse.NAME] == []


def test_files_that_cannot_be_taken_back(tmp_path):
    writer = Writer(tmp_path, True, None, ["h5md", "traj"])
    write(writer, [0])
    sizes = writer.sizes()
    write(writer, [1])
    for name in ("traj", "h5md"):
        for path in tmp_path.glob(f".{NAMES[name]}.undo-*"):
            path.unlink()
        with pytest.raises(InputError, match=r"cannot be taken back to the restart"):
            Writer(tmp_path, True, sizes, [name])
    short = tmp_path / NAMES["traj"]
    short.write_bytes(b"")
    with pytest.raises(InputError, match="shorter than the"):
        Writer(tmp_path, True, sizes, ["traj"])


def test_journals_do_not_pile_up(tmp_path):
    writer = Writer(tmp_path, True, None, ["h5md"])
    for step in range(8):
        write(writer, [step])
        writer.sizes()
    assert len(list(tmp_path.glob(".*undo*"))) <= journal.KEPT


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("xyz", "'xyz' is not one of the formats extxyz, traj, h5md, lammps"),
        (["traj", "dcd"], "'dcd' is not one of the formats"),
        ([], "expected one or several of extxyz"),
        (3, "expected one or several of extxyz"),
    ],
)
def test_unknown_formats_are_named(given, message):
    with pytest.raises(InputError, match=message):
        parse(Output, {"format": given}, "output")
    assert parse(Output, {"format": "traj"}, "output").format == ("traj",)


def test_h5py_is_asked_for_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(h5md, "h5py", None)
    output = {"directory": tmp_path / "run", "format": "h5md"}
    with pytest.raises(InputError, match=r"pip install 'deepmd_lite\[hdf5\]'"):
        Simulation(cubic(), PairPotential(), output=output)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("name", ["thermo.csv", NAMES["extxyz"], NAMES["lammps"]])
def test_a_full_disk_is_said_with_the_name_of_the_file(name, tmp_path):
    simulation = Simulation(
        cubic(), PairPotential(), output={"directory": tmp_path, "format": ["extxyz", "lammps"]}
    )
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(InputError, match=f"{name}: cannot be written: No space left"):
        simulation.run(1)


FULL_DISK = """
import errno, sys
from pathlib import Path
from test_md_trajectory import Writer, write
from deepmd_lite.md.trajectory.journal import Journal

folder, left = Path(sys.argv[1]), int(sys.argv[2])
writer = Writer(folder, True, None, ["h5md"])
write(writer, [0])
sizes, plain = writer.sizes(), Journal.keep
before = (folder / "trajectory.h5md").read_bytes()

def keep(self, start, stop):
    global left
    left -= 1
    if left < 0:
        raise OSError(errno.ENOSPC, "No space left on device")
    plain(self, start, stop)

Journal.keep = keep
try:
    write(writer, [1])
except Exception as e:
    print(type(e).__name__, e)
Writer(folder, True, sizes, ["h5md"])
assert (folder / "trajectory.h5md").read_bytes() == before
"""


@pytest.mark.parametrize("left", [0, 9])
def test_a_full_disk_does_not_crash_hdf5(left, tmp_path):
    """In a process of its own, for what HDF5 does is done at its end."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(left)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("InputError")
    assert "trajectory.h5md: cannot be written: No space left on device" in done.stdout
