"""Finding data: files, folders, patterns, what is missing, and what was found in words."""

import os
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from deepmd_lite.data import describe, load
from deepmd_lite.system import InputError

SHARED = Path(
    os.environ.get("DPL_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
WATER = SHARED / "water_pbe0ts"


def xyz(path, n_frames=1, comment="energy=1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"1\nProperties=species:S:1:pos:R:3 {comment}\nAr 0 0 0\n" * n_frames)
    return path


def npy(folder, n_frames=2):
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("0 0")
    (folder / "type_map.raw").write_text("Ar")
    for name, columns in {"coord": 6, "force": 6}.items():
        np.save(folder / "set.000" / f"{name}.npy", np.ones((n_frames, columns)))
    np.save(folder / "set.000" / "box.npy", np.tile(9.0 * np.eye(3).ravel(), (n_frames, 1)))
    return folder


def test_files_folders_and_patterns(tmp_path):
    npy(tmp_path / "data" / "b"), npy(tmp_path / "data" / "deep" / "a"), npy(tmp_path / "c")
    one, two = xyz(tmp_path / "1.xyz"), xyz(tmp_path / "2.xyz", 3)

    def names(*paths):
        return [Path(s.name).relative_to(tmp_path).as_posix() for s in load(paths)]

    assert names(one) == ["1.xyz"]
    assert names(tmp_path / "c") == ["c"]
    assert names(tmp_path / "data") == ["data/b", "data/deep/a"]
    assert names(str(tmp_path / "*.xyz")) == ["1.xyz", "2.xyz"]
    assert names(two, tmp_path / "c", one) == ["2.xyz", "c", "1.xyz"]
    assert names(str(tmp_path / "**" / "[ab]")) == ["data/b", "data/deep/a"]
    assert [s.name for s in load(str(one))] == [str(one)]


def test_a_system_folder_may_hold_others(tmp_path):
    npy(tmp_path / "s")
    npy(tmp_path / "s" / "t")
    assert len(load(tmp_path / "s")) == 2


def test_linked_folders_are_followed_once(tmp_path):
    npy(tmp_path / "elsewhere" / "s")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    assert len(load(tmp_path / "data")) == 1


def test_an_existing_file_wins_over_a_pattern(tmp_path):
    xyz(tmp_path / "a1.xyz", comment="energy=3")  # what the pattern would match
    (system,) = load(xyz(tmp_path / "a[1].xyz", comment="energy=7"))
    assert [frame.energy for frame in system.frames] == [7.0]


def test_structures_are_no_paths():
    with pytest.raises(InputError, match=r"^data: expected paths, found Atoms; .*ase.io.write"):
        load([bulk("Cu")] * 12)


def test_nothing_found(tmp_path):
    xyz(tmp_path / "x" / "a.xyz")
    for paths, message in [
        ([], "no data"),
        (tmp_path / "none.xyz", r"none\.xyz: no such file or folder"),
        (str(tmp_path / "*.extxyz"), "the pattern matches no file"),
        (tmp_path / "x", "no deepmd/npy system"),
        (f"{tmp_path}/a.hdf5#/H2O", r"a\.hdf5#/H2O: no such file or folder"),
    ]:
        with pytest.raises(InputError, match=message):
            load(paths)


def test_data_named_twice(tmp_path):
    npy(tmp_path / "data" / "a")
    with pytest.raises(InputError, match="is named twice"):
        load([tmp_path / "data", tmp_path / "data" / "a"])
    frames = xyz(tmp_path / "a.xyz", 4)
    (tmp_path / "link.xyz").symlink_to(frames)
    for second in (frames, f"{frames}@2:", tmp_path / "link.xyz"):
        with pytest.raises(InputError, match=r", frame \d: is named twice"):
            load([frames, second])
    assert len(load([f"{frames}@:2", f"{frames}@2:"])) == 2


def test_labels_must_exist_somewhere(tmp_path):
    bare, labelled = xyz(tmp_path / "bare.xyz", comment="E_tot=1"), xyz(tmp_path / "b.xyz")
    with pytest.raises(InputError, match=r"none of 1 frames has an energy or forces.*E_tot"):
        load(bare)
    assert len(load([bare, labelled])) == 2


def test_description(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npy(Path("data/a"))
    xyz(Path("one.xyz"), comment='energy=1 pbc="F F F" stress="1 1 1 0 0 0"')
    assert describe(load(["data", "one.xyz"])).splitlines() == [
        "data/a: 2 frames, 2 atoms, elements Ar, energy 0/2 frames, forces 2/2, virial 0/2",
        "one.xyz: 1 frame, 1 atom, elements Ar, energy 1/1 frames, forces 0/1, virial 0/1",
        "  note: stress left out: the frame has no periodic cell with a volume (1 of 1 frames)",
        "  note: no forces under any of forces, force, REF_forces, dft_forces, dft_force; "
        "the file has: energy, stress",
        "total: 2 systems, 3 frames, 5 atoms, elements Ar, "
        "energy 1/3 frames, forces 2/3, virial 0/3",
    ]


@pytest.mark.skipif(not WATER.exists(), reason="the shared data sets are not here")
def test_water_is_the_same_in_both_formats():
    from_npy = [
        frame
        for system in load([WATER / "deepmd_npy" / f"data_{i}" for i in range(3)])
        for frame in system.frames
    ]
    (from_xyz,) = load(WATER / "train.xyz", type_map=["O", "H"])
    assert len(from_npy) == len(from_xyz.frames) == 320
    for a, b in zip(from_npy, from_xyz.frames, strict=True):
        assert a.symbols == b.symbols
        # the text has 8 to 10 digits of the float32 of the arrays
        assert a.energy == pytest.approx(b.energy, abs=1e-5)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-7)
        np.testing.assert_allclose(a.cell, b.cell, atol=1e-7)


@pytest.mark.skipif(not WATER.exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("name", "frames", "virials", "elements"),
    [
        ("si_mlearn", 214, 214, ["Si"]),
        ("ta_snap", 327, 327, ["Ta"]),
        ("ethanol_rmd17", 1000, 0, ["C", "H", "O"]),
        ("pbte_nep25", 25, 0, ["Pb", "Te"]),
    ],
)
def test_shared_sets_are_read_whole(name, frames, virials, elements):
    (system,) = load(SHARED / name / "train.xyz")
    assert len(system.frames) == frames
    assert sum(f.virial is not None for f in system.frames) == virials
    assert system.elements == elements
    assert all(f.energy is not None and f.forces is not None for f in system.frames)
