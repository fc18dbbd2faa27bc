"""Data sets from one format to another and back: nothing is lost, and no sign changes."""

import json

import h5py
import numpy as np
import pytest
from ase.io import read, write
from models import random_atoms

from deepmd_lite.cli import main
from deepmd_lite.data import Frame, System, load
from deepmd_lite.data.dpdata_files import read_with_dpdata
from deepmd_lite.data.writing import write_systems
from deepmd_lite.system import InputError

KINDS = {
    "extxyz": "out.extxyz",
    "deepmd/npy": "out",
    "deepmd/npy/mixed": "out",
    "deepmd/hdf5": "out.hdf5",
}


def frame(symbols, seed, pbc=True, virial=True, **more):
    """Random numbers of everything, a skewed cell, a virial that is symmetric."""
    rng = np.random.default_rng(seed)
    atoms = random_atoms(symbols, 6.5, seed, skew=0.1)
    v = rng.normal(size=(3, 3))
    return Frame(
        symbols=tuple(atoms.get_chemical_symbols()),
        positions=atoms.positions,
        cell=atoms.cell.array if pbc else np.zeros((3, 3)),
        pbc=np.full(3, pbc),
        energy=rng.normal() * 1e4,
        forces=rng.normal(size=(len(atoms), 3)),
        virial=v + v.T if virial else None,
        **more,
    )


FRAMES = [
    *(frame("Si4C4", 1), frame("Si4C4", 2), frame("Si2C6", 3), frame("C4Si4", 4)),
    *(frame("Si4C4", 5, virial=False), frame("CH4", 6, pbc=False, virial=False)),
]


def key(f):
    return round(f.energy, 4)


def same(found, expected, atol):
    assert sorted(map(key, found)) == sorted(map(key, expected))
    for a, b in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert a.symbols == b.symbols
        assert (a.pbc == b.pbc).all()
        assert a.energy == pytest.approx(b.energy, abs=atol)
        np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=atol)
        np.testing.assert_allclose(a.cell, b.cell, rtol=0, atol=atol)
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=atol)
        assert (a.virial is None) == (b.virial is None)
        if a.virial is not None:
            np.testing.assert_allclose(a.virial, b.virial, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_loses_nothing(tmp_path, kind):
    path = tmp_path / KINDS[kind]
    assert write_systems([System("a", FRAMES)], path, kind) == []
    found = [f for system in load(path) for f in system.frames]
    same(found, FRAMES, 1e-12 if kind == "extxyz" else 0.0)  # of virials as stresses
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_names_and_order_of_what_is_written(tmp_path):
    write_systems([System("a", FRAMES)], tmp_path / "npy", type_map=["Si", "H", "C"])
    names = sorted(p.name for p in (tmp_path / "npy").iterdir())
    assert names == ["C1H4", "C4Si4", "C4Si4.1", "C4Si4.2", "C6Si2"]
    system = tmp_path / "npy" / "C1H4"
    assert (system / "type_map.raw").read_text().split() == ["Si", "H", "C"]
    assert (system / "type.raw").read_text().split() == ["2", "1", "1", "1", "1"]
    assert (system / "nopbc").read_text() == ""
    assert np.load(system / "set.000" / "energy.npy").dtype == np.float64
    write_systems([System("a", FRAMES)], tmp_path / "mixed", "deepmd/npy/mixed")
    assert sorted(p.name for p in (tmp_path / "mixed").iterdir()) == ["5", "8", "8.1"]
    types = np.load(tmp_path / "mixed" / "8" / "set.000" / "real_atom_types.npy")
    assert types.shape == (4, 8)
    assert set((tmp_path / "mixed" / "8" / "type.raw").read_text().split()) == {"0"}


def test_extended_xyz_has_the_stress_of_ase(tmp_path):
    """Tension positive: −virial / volume; the way back gives the virial."""
    one = frame("Si4C4", 7)
    one.virial = np.diag([3.0, 2.0, 1.0])  # it wants to expand: compressed
    one.virial[1, 2] = one.virial[2, 1] = 0.25
    write_systems([System("a", [one])], tmp_path / "a.extxyz")
    atoms = read(tmp_path / "a.extxyz")
    expected = -np.array([3.0, 2.0, 1.0, 0.25, 0.0, 0.0]) / atoms.get_volume()
    np.testing.assert_allclose(atoms.get_stress(), expected, atol=1e-9)
    (system,) = load(tmp_path / "a.extxyz")
    np.testing.assert_allclose(system.frames[0].virial, one.virial, atol=1e-6)
    assert main(["convert-data", str(tmp_path / "a.extxyz"), str(tmp_path / "npy"), "-q"]) == 0
    virial = np.load(next((tmp_path / "npy").glob("*/set.000/virial.npy")))
    np.testing.assert_allclose(virial.reshape(3, 3), one.virial, atol=1e-6)


def test_extended_xyz_keeps_every_digit(tmp_path):
    one = frame("Si4C4", 7, config_type='a "b" = c', weight=1 / 3)
    write_systems([System("a", [one])], tmp_path / "a.extxyz")
    (back,) = load(tmp_path / "a.extxyz")[0].frames
    for name in ("positions", "forces", "cell", "energy", "weight", "config_type"):
        np.testing.assert_array_equal(getattr(back, name), getattr(one, name))
    one.symbols = ("Qq", *one.symbols[1:])
    with pytest.raises(InputError, match=r"Qq is no chemical symbol, .* write deepmd/npy"):
        write_systems([System("a", [one])], tmp_path / "b.extxyz")
    assert not (tmp_path / "b.extxyz").exists()


def test_a_virial_that_is_no_stress_stays_one(tmp_path):
    one = frame("Si4C4", 8)
    one.virial = np.arange(9.0).reshape(3, 3)
    write_systems([System("a", [one])], tmp_path / "a.extxyz")
    (system,) = load(tmp_path / "a.extxyz")
    np.testing.assert_allclose(system.frames[0].virial, one.virial)


def test_what_a_format_cannot_hold(tmp_path):
    weighted = frame("Si4C4", 9, weight=2.0, config_type="melt")
    notes = write_systems([System("a", [weighted])], tmp_path / "a")
    assert [n.split()[0] for n in notes] == ["weights", "config_type"]
    write_systems([System("a", [weighted])], tmp_path / "a.extxyz")
    (back,) = load(tmp_path / "a.extxyz")[0].frames
    assert (back.weight, back.config_type) == (2.0, "melt")
    weighted.pbc = np.array([True, True, False])
    with pytest.raises(InputError, match="periodic along xy only"):
        write_systems([System("a", [weighted])], tmp_path / "b")
    assert not (tmp_path / "b").exists()
    with pytest.raises(InputError, match=r"a\.extxyz: exists already"):
        write_systems([System("a", FRAMES)], tmp_path / "a.extxyz")
    with pytest.raises(InputError, match="--type-map Si: lacks C"):
        write_systems([System("a", FRAMES[:1])], tmp_path / "c", type_map=["Si"])
    with pytest.raises(InputError, match="--to lmdb: expected one of extxyz"):
        write_systems([System("a", FRAMES)], tmp_path / "c", "lmdb")


def test_the_command(tmp_path, capsys):
    write_systems([System("a", FRAMES)], tmp_path / "a.hdf5")
    sources = [str(tmp_path / "a.hdf5#/C6Si2"), str(tmp_path / "a.hdf5#/C1H4")]
    out = tmp_path / "b.extxyz"
    assert main(["convert-data", *sources, str(out), "-q"]) == 0
    assert "2 systems, 2 frames, 13 atoms" in capsys.readouterr().out
    assert len(read(out, ":")) == 2
    assert main(["convert-data", str(out)]) == 1
    assert "and then a file or folder to write" in capsys.readouterr().err
    assert main(["convert-data", str(out), str(tmp_path / "c.traj")]) == 1
    assert ".traj is not written; expected .extxyz" in capsys.readouterr().err
    assert main(["convert-data", str(out), str(tmp_path / "c.xyz.gz")]) == 1
    assert ".gz is not written; expected .extxyz" in capsys.readouterr().err
    assert main(["convert-data", str(out), str(tmp_path / "C.XYZ"), "-q"]) == 0
    assert len(read(tmp_path / "C.XYZ", ":", format="extxyz")) == 2
    argv = ["convert-data", str(out), "--to", "deepmd/npy/mixed", str(tmp_path / "m"), "-q"]
    assert main(argv) == 0
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["5", "8"]


# --- HDF5 -----------------------------------------------------------------------------------


@pytest.fixture(name="hdf5")
def _hdf5(tmp_path):
    write_systems([System("a", FRAMES)], tmp_path / "a.hdf5")
    return tmp_path / "a.hdf5"


def test_systems_in_an_hdf5_file(hdf5, monkeypatch):
    names = [s.name.partition("#")[2] for s in load(hdf5)]
    assert names == ["/C1H4", "/C4Si4", "/C4Si4.1", "/C4Si4.2", "/C6Si2"]
    (one,) = load(f"{hdf5}#/C6Si2")
    same(one.frames, FRAMES[2:3], 0.0)
    assert one.frames[0].source == f"{hdf5}#/C6Si2/set.000, frame 0"
    assert len(load(f"{hdf5}#/")) == 5
    assert len(load(str(hdf5.parent / "*.hdf5"))) == 5
    monkeypatch.chdir(hdf5.parent)
    from deepmd_lite.schema import located

    assert located("a.hdf5#/C6Si2", None, "x") == "a.hdf5#/C6Si2"


def test_a_system_may_be_the_whole_hdf5_file(hdf5):
    """As dpdata writes it where no group is named."""
    import h5py

    with h5py.File(hdf5, "a") as file:
        for name in list(file["C6Si2"]):
            file.move(f"C6Si2/{name}", name)
        for name in [n for n in file if n[:1] == "C"]:
            del file[name]
    for path in (hdf5, f"{hdf5}#", f"{hdf5}#/"):
        (one,) = load(path)
        same(one.frames, FRAMES[2:3], 0.0)


def test_hdf5_files_that_are_wrong(hdf5, tmp_path):
    import h5py

    with pytest.raises(InputError, match=r"no group '/water' in it; it has C1H4, "):
        load(f"{hdf5}#/water")
    with h5py.File(hdf5, "a") as file:
        del file["C6Si2/set.000/force.npy"]
        file["C6Si2/set.000/force.npy"] = np.zeros((1, 5))
        del file["C1H4/set.000/coord.npy"]
    with pytest.raises(InputError, match=r"#/C6Si2/set\.000/force\.npy: expected shape .*found"):
        load(f"{hdf5}#/C6Si2")
    with pytest.raises(InputError, match=r"#/C1H4/set\.000/coord\.npy: is missing"):
        load(f"{hdf5}#/C1H4")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match=r"text\.h5: cannot be opened as HDF5: file signature"):
        load(tmp_path / "text.h5")
    hdf5.write_bytes(hdf5.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be opened as HDF5"):
        load(hdf5)


# --- dpdata ---------------------------------------------------------------------------------

OUTCAR = """ vasp.5.4.4
 POTCAR:    PAW_PBE Si 05Jan2001
 POTCAR:    PAW_PBE Si 05Jan2001
   TITEL  = PAW_PBE Si 05Jan2001
   k-points           NKPTS =      1   k-points in BZ     NKDIM =  1   number of bands    NBANDS=  8
   ions per type =               2
   ISPIN  =      1    spin polarized calculation?
   NWRITE =      2
   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps
      direct lattice vectors                 reciprocal lattice vectors
     4.000000000  0.000000000  0.000000000     0.250000000  0.000000000  0.000000000
     0.000000000  5.000000000  0.000000000     0.000000000  0.200000000  0.000000000
     0.000000000  0.000000000  6.000000000     0.000000000  0.000000000  0.166666667
 k-points in reciprocal lattice and weights: Automatic mesh
   0.00000000  0.00000000  0.00000000       1.000
--------------------------------------- Iteration      1(   1)  ---------------------------------
  FORCE on cell =-STRESS in cart. coord.  units (eV):
  Direction    XX          YY          ZZ          XY          YZ          ZX
  --------------------------------------------------------------------------------------
  Alpha Z     1.00000     1.00000     1.00000
  Ewald       0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  Hartree     0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  E(xc)       0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  Local       0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  n-local     0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  augment     0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  Kinetic     0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  Fock        0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  -------------------------------------------------------------------------------------
  Total       5.99184     2.99592    -1.49796     0.29959     0.14980     0.07490
  in kB      80.00000    40.00000   -20.00000     4.00000     2.00000     1.00000
  external pressure =       33.33 kB  Pullay stress =        0.00 kB

 VOLUME and BASIS-vectors are now :
 -----------------------------------------------------------------------------
  energy-cutoff  :      250.00
  volume of cell :      120.00
      direct lattice vectors                 reciprocal lattice vectors
     4.000000000  0.000000000  0.000000000     0.250000000  0.000000000  0.000000000
     0.000000000  5.000000000  0.000000000     0.000000000  0.200000000  0.000000000
     0.000000000  0.000000000  6.000000000     0.000000000  0.000000000  0.166666667

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.10000      0.20000      0.30000         0.500000      0.250000     -0.125000
      2.00000      2.10000      2.20000        -0.500000     -0.250000      0.125000
 -----------------------------------------------------------------------------------
    total drift:                                0.000000      0.000000      0.000000

  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       -10.50000000 eV

  energy  without entropy=      -10.50000000  energy(sigma->0) =      -10.50000000
"""
"""Of two silicon atoms under pressure: VASP prints that as positive kB, order XX YY ZZ XY YZ ZX."""


def test_the_virial_of_vasp_through_dpdata_and_through_ase(tmp_path, capsys):
    (tmp_path / "OUTCAR").write_text(OUTCAR)
    kilobar = 1.0 / 1602.1766208  # eV/Å³
    pressure = np.array([[80.0, 4.0, 1.0], [4.0, 40.0, 2.0], [1.0, 2.0, -20.0]]) * kilobar
    (by_dpdata,) = read_with_dpdata(tmp_path / "OUTCAR", "vasp/outcar").frames
    (by_ase,) = load(tmp_path / "OUTCAR")[0].frames
    for one in (by_dpdata, by_ase):
        np.testing.assert_allclose(one.virial, 120.0 * pressure, rtol=1e-6)
        np.testing.assert_allclose(one.forces[0], [0.5, 0.25, -0.125])
        np.testing.assert_allclose(one.cell, np.diag([4.0, 5.0, 6.0]))
        assert one.energy == -10.5
        assert one.symbols == ("Si", "Si")
    out = tmp_path / "si.extxyz"
    argv = ["convert-data", str(tmp_path / "OUTCAR"), str(out), "--from", "vasp/outcar", "-q"]
    assert main(argv) == 0
    stress = read(out).get_stress(voigt=False)
    np.testing.assert_allclose(stress, -pressure, rtol=1e-5)  # tension positive
    capsys.readouterr()
    out.unlink()
    assert main([*argv[:-3], "--from", "vasp/outcarr"]) == 1
    assert "does not know this format; did you mean 'vasp/outcar'?" in capsys.readouterr().err
    assert main([*argv[:-3], "--from", "qqq"]) == 1
    assert "dpdata does not know this format; it has 3dmol" in capsys.readouterr().err
    (tmp_path / "OUTCAR").write_text("no output of VASP")
    with pytest.raises(InputError, match="OUTCAR: dpdata cannot read it as vasp/outcar: "):
        read_with_dpdata(tmp_path / "OUTCAR", "vasp/outcar")


def test_frames_stay_as_they_were_printed(tmp_path):
    """dpdata would turn them, so that the cell is lower triangular."""
    turned = OUTCAR.replace("4.000000000  0.000000000  0.000000000     0.25", "0 4 0     0.25")
    (tmp_path / "OUTCAR").write_text(turned.replace("  0.000000000  5.000000000  0.0", "  5 0 0.0"))
    (frame,) = read_with_dpdata(tmp_path / "OUTCAR", "vasp/outcar").frames
    np.testing.assert_array_equal(frame.cell, [[0, 4, 0], [5, 0, 0], [0, 0, 6]])
    np.testing.assert_array_equal(frame.positions[0], [0.1, 0.2, 0.3])


def test_outputs_may_be_checked_as_they_are(tmp_path, capsys):
    for name, text in (("good", OUTCAR), ("bad", "no output of VASP")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "OUTCAR").write_text(text)
    report = tmp_path / "report.json"
    argv = ["check", str(tmp_path / "*" / "OUTCAR"), "--json", str(report), "-q"]
    assert main([*argv, "--from", "vasp/outcar"]) == 1
    found = json.loads(report.read_text())
    unreadable = [f["what"] for f in found["findings"] if f["code"] == "unreadable"]
    assert len(unreadable) == 1
    assert "bad/OUTCAR: dpdata cannot read it as vasp/outcar" in unreadable[0]
    assert "good/OUTCAR" in json.dumps(found)
    capsys.readouterr()
    assert main(["check", str(tmp_path / "model.dpl"), "--from", "vasp/outcar"]) == 1
    assert "--from: only with data" in capsys.readouterr().err


def test_patterns_and_selections_through_dpdata(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "OUTCAR").write_text(OUTCAR)
    pattern = str(tmp_path / "[ab]" / "OUTCAR")
    assert len(load(pattern, source="vasp/outcar")) == 2
    assert len(load([pattern + "@0", str(tmp_path / "c" / "OUTCAR")], source="vasp/outcar")) == 3
    with pytest.raises(InputError, match="no such frames; it has 1"):
        load(f"{tmp_path / 'a' / 'OUTCAR'}@1:", source="vasp/outcar")
    with pytest.raises(InputError, match="is named twice"):
        load([pattern, str(tmp_path / "a" / "OUTCAR")], source="vasp/outcar")


@pytest.mark.filterwarnings("error")
def test_what_dpdata_warns_of_is_a_note(tmp_path, monkeypatch):
    import warnings

    import dpdata

    def read(self, path, fmt):
        warnings.warn("frame 2 is incomplete;\n it is ignored", UserWarning, stacklevel=2)
        self.data = {**arrays(), "coords": np.ones((kept, 1, 3))}

    monkeypatch.setattr(dpdata.LabeledSystem, "__init__", read)
    (tmp_path / "out").write_text("")
    kept = 1
    system = read_with_dpdata(tmp_path / "out", "cp2k/output")
    assert system.notes == ["dpdata: frame 2 is incomplete; it is ignored"]
    kept = 0
    with pytest.raises(InputError, match="no labelled frame in it as cp2k/output; dpdata: frame 2"):
        read_with_dpdata(tmp_path / "out", "cp2k/output")


def arrays():
    """Of one argon atom, as dpdata has them."""
    return {
        "atom_names": ["Ar"],
        "atom_types": np.zeros(1, dtype=int),
        "cells": 5.0 * np.eye(3)[None],
        "coords": np.ones((1, 1, 3)),
        "energies": np.array([-1.0]),
        "forces": np.zeros((1, 1, 3)),
        "virials": np.eye(3)[None],
    }


def test_siesta_through_dpdata(tmp_path, monkeypatch):
    """Its virial would have the other sign, and the steps of a relaxation would be mixed."""
    import dpdata

    monkeypatch.setattr(
        dpdata.LabeledSystem, "__init__", lambda self, path, fmt: setattr(self, "data", arrays())
    )
    path = tmp_path / "siesta.out"
    text = "Siesta Version: siesta-4.1\n" + (step := "siesta: E_KS(eV) =   -1.0\n")
    path.write_text(text)
    system = read_with_dpdata(path, "siesta/output")
    assert system.frames[0].virial is None
    assert system.notes == ["the virial is left out: dpdata has it with the other sign"]
    path.write_text(text + step)
    with pytest.raises(InputError, match="the file has 2 energies; frames read: 1, and dpdata"):
        read_with_dpdata(path, "siesta/output")


def test_dpdata_reads_what_is_written_here(tmp_path):
    """The other program's reader of the same formats: names, order and the sign of the virial."""
    write_systems([System("a", FRAMES[:2])], tmp_path / "a")
    same(read_with_dpdata(tmp_path / "a" / "C4Si4", "deepmd/npy").frames, FRAMES[:2], 1e-12)
    write_systems([System("a", FRAMES[:2])], tmp_path / "a.hdf5")
    found = read_with_dpdata(f"{tmp_path / 'a.hdf5'}#/C4Si4", "deepmd/hdf5").frames
    same(found, FRAMES[:2], 1e-12)
    open_system = FRAMES[-1]
    open_system.virial = np.zeros((3, 3))
    write_systems([System("a", [open_system])], tmp_path / "b")
    same(read_with_dpdata(tmp_path / "b" / "C1H4", "deepmd/npy").frames, [open_system], 1e-12)
    write(tmp_path / "x.xyz", random_atoms("Si2", 5.0, 1))
    with pytest.raises(InputError, match=r"none\.xyz: no such file"):
        read_with_dpdata(tmp_path / "none.xyz", "extxyz")


def small_hdf5(path):
    with h5py.File(path, "w") as file:
        file["a/type.raw"] = np.zeros(2, dtype=int)
        file["a/type_map.raw"] = [b"Si"]
        file["a/set.000/energy.npy"] = np.zeros(1)
        file["a/set.000/box.npy"] = 9.0 * np.eye(3).reshape(1, 9)
        file["a/set.000/coord.npy"] = np.arange(6.0).reshape(1, 6)
    return path


def test_a_data_set_that_was_never_written_is_not_read(tmp_path):
    path = small_hdf5(tmp_path / "a.hdf5")
    assert len(load([path])[0].frames) == 1
    with h5py.File(path, "a") as file:
        del file["a/set.000/coord.npy"]
        file["a/set.000"].create_dataset("coord.npy", (1, 6), chunks=(1, 6), dtype="f8")
    with pytest.raises(InputError, match="0 bytes stored for 48"):
        load([path])


def test_links_to_other_files_are_not_followed(tmp_path):
    other, path = small_hdf5(tmp_path / "other.hdf5"), small_hdf5(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["a/set.000/coord.npy"]
        file["a/set.000/coord.npy"] = h5py.ExternalLink(other, "a/set.000/coord.npy")
    with pytest.raises(InputError, match="is a link"):
        load([path])


@pytest.mark.parametrize("where", ["open", "write"])
def test_hdf5_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, where):
    """h5py says so in several lines about the state of its library."""
    said = (
        "Can't synchronously write data (file write failed: time = Mon\n, filename = 'x', file "
        "descriptor = 3, errno = 28, error message = 'No space left on device', buf = 0x55)"
    )

    def full(self, *_):
        raise OSError(said) if where == "open" else OSError(28, said)

    monkeypatch.setattr(h5py.File if where == "open" else h5py.Group, "__setitem__", full)
    path = tmp_path / "out.hdf5"
    with pytest.raises(InputError) as caught:
        write_systems([System("x", FRAMES[:1])], path)
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_the_place_is_tried_before_data_are_read(tmp_path, capsys):
    path = tmp_path / "there.extxyz"
    path.write_text("x")
    for target, message in (
        (path, "exists already"),
        (path / "x.hdf5", "cannot be written: Not a"),
    ):
        assert main(["convert-data", str(tmp_path / "none.xyz"), str(target)]) == 1
        assert message in capsys.readouterr().err
