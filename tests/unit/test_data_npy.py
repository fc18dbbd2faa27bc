"""deepmd/npy folders: what is read, and every way in which they can be wrong."""

import re

import numpy as np
import pytest

from deepmd_lite.data import load
from deepmd_lite.data.deepmd_npy import read_deepmd_npy
from deepmd_lite.system import InputError

TYPES = [0, 1, 1, 0]
NAMES = ["O", "H"]


def arrays(n_frames, n=4, seed=0):
    """Random content of one set.* folder, as DeePMD-kit shapes it."""
    rng = np.random.default_rng(seed)
    return {
        "coord": rng.random((n_frames, 3 * n)) * 5.0,
        "box": np.tile(np.diag([5.0, 6.0, 7.0]).ravel(), (n_frames, 1)),
        "energy": rng.random(n_frames),
        "force": rng.normal(size=(n_frames, 3 * n)),
        "virial": rng.normal(size=(n_frames, 9)),
    }


def write(folder, sets, types=TYPES, names=NAMES):
    """Write a system of one folder set.NNN for each mapping of `sets`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "type.raw").write_text("\n".join(map(str, types)))
    if names is not None:
        (folder / "type_map.raw").write_text("\n".join(names))
    for i, content in enumerate(sets):
        (folder / f"set.{i:03d}").mkdir(exist_ok=True)
        for name, array in content.items():
            np.save(folder / f"set.{i:03d}" / f"{name}.npy", array)
    return folder


def test_reads_every_set_in_order(tmp_path):
    sets = [arrays(2, seed=1), arrays(3, seed=2)]
    system = read_deepmd_npy(write(tmp_path / "a", sets))
    assert len(system.frames) == 5
    for frame, (content, i) in zip(
        system.frames, [(sets[0], 0), (sets[0], 1)] + [(sets[1], k) for k in range(3)], strict=True
    ):
        assert frame.symbols == ("O", "H", "H", "O")
        np.testing.assert_array_equal(frame.positions, content["coord"][i].reshape(4, 3))
        np.testing.assert_array_equal(frame.cell, np.diag([5.0, 6.0, 7.0]))
        np.testing.assert_array_equal(frame.forces, content["force"][i].reshape(4, 3))
        np.testing.assert_array_equal(frame.virial, content["virial"][i].reshape(3, 3))
        assert frame.energy == content["energy"][i]
        assert frame.pbc.all()
    assert system.frames[3].source.endswith("set.001, frame 1")


def test_box_rows_are_lattice_vectors(tmp_path):
    content = arrays(1)
    content["box"] = np.array([[5.0, 0, 0, 1.0, 6.0, 0, 2.0, 3.0, 7.0]])
    (frame,) = read_deepmd_npy(write(tmp_path, [content])).frames
    np.testing.assert_array_equal(frame.cell[2], [2.0, 3.0, 7.0])


def test_other_shapes_and_precisions_mean_the_same(tmp_path):
    content = arrays(2)
    other = {
        "coord": content["coord"].reshape(2, 4, 3).astype(np.float32),
        "box": np.asfortranarray(content["box"].reshape(2, 3, 3)),
        "energy": content["energy"].reshape(2, 1),
        "force": content["force"].reshape(2, 4, 3),
        "virial": content["virial"].reshape(2, 3, 3),
    }
    a = read_deepmd_npy(write(tmp_path / "a", [content])).frames
    b = read_deepmd_npy(write(tmp_path / "b", [other])).frames
    for x, y in zip(a, b, strict=True):
        assert y.positions.dtype == np.float64
        np.testing.assert_array_equal(x.positions.astype(np.float32), y.positions)
        np.testing.assert_array_equal(x.cell, y.cell)
        np.testing.assert_array_equal(x.forces, y.forces)
        np.testing.assert_array_equal(x.virial, y.virial)
        assert x.energy == y.energy


def test_nopbc_needs_no_box_and_ignores_it(tmp_path):
    content = arrays(1)
    write(tmp_path, [content])
    (tmp_path / "nopbc").touch()
    (frame,) = read_deepmd_npy(tmp_path).frames
    assert not frame.pbc.any()
    assert not frame.cell.any()
    (tmp_path / "set.000" / "box.npy").unlink()
    assert read_deepmd_npy(tmp_path).frames[0].virial is not None
    (tmp_path / "nopbc").unlink()
    with pytest.raises(InputError, match=r"box\.npy: is missing.*nopbc"):
        read_deepmd_npy(tmp_path)


def test_missing_labels_are_missing(tmp_path):
    with_energy, with_forces = arrays(1), arrays(2)
    for name in ("force", "virial"):
        del with_energy[name]
    for name in ("energy", "virial"):
        del with_forces[name]
    (system,) = load(write(tmp_path, [with_energy, with_forces]))
    assert [f.energy is None for f in system.frames] == [False, True, True]
    assert [f.forces is None for f in system.frames] == [True, False, False]
    assert "energy 1/3 frames, forces 2/3, virial 0/3" in system.summary()


def test_mixed_format_drops_virtual_atoms(tmp_path):
    content = arrays(2)
    content["real_atom_types"] = np.array([[1, 0, -1, -1], [1, -1, 0, 1]], dtype=np.int32)
    system = read_deepmd_npy(write(tmp_path, [content], types=[0, 0, 0, 0]))
    one, two = system.frames
    assert one.symbols == ("H", "O")
    assert two.symbols == ("H", "O", "H")
    kept = [0, 2, 3]
    np.testing.assert_array_equal(two.positions, content["coord"][1].reshape(4, 3)[kept])
    np.testing.assert_array_equal(two.forces, content["force"][1].reshape(4, 3)[kept])
    assert "2-3 atoms" in system.summary()


def test_without_type_map_raw_the_models_is_meant(tmp_path):
    write(tmp_path, [arrays(1)], names=None)
    system = read_deepmd_npy(tmp_path, ["Si", "Ge"])
    (frame,) = system.frames
    assert frame.symbols == ("Si", "Ge", "Ge", "Si")
    assert system.notes == ["no type_map.raw: types taken as 0 = Si, 1 = Ge"]
    with pytest.raises(InputError, match=r"type_map\.raw: is missing"):
        read_deepmd_npy(tmp_path)
    with pytest.raises(InputError, match=r"type\.raw: atom 1 has type 1, expected 0 to 0"):
        read_deepmd_npy(tmp_path, ["Si"])


def test_unused_label_files_are_noted(tmp_path):
    content = {**arrays(1), "aparam": np.ones((1, 4))}
    assert read_deepmd_npy(write(tmp_path, [content])).notes == ["not used: aparam.npy"]


def with_value(content, name, index, value):
    content[name][index] = value
    return content


WRONG_CONTENT = {
    "columns": (
        lambda c: {**c, "coord": c["coord"][:, :-1]},
        r"set\.000/coord\.npy: expected shape \(frames, 12\) or \(frames, 4, 3\), found \(3, 11\)",
    ),
    "box": (
        lambda c: {**c, "box": c["box"][:, :3]},
        r"set\.000/box\.npy: expected shape \(3, 9\) or \(3, 3, 3\), found \(3, 3\)",
    ),
    "fewer energies": (
        lambda c: {**c, "energy": c["energy"][:2]},
        r"set\.000/energy\.npy: expected shape \(3, 1\) or \(3,\), found \(2,\)",
    ),
    "fewer forces": (
        lambda c: {**c, "force": c["force"][:2]},
        r"set\.000/force\.npy: expected shape \(3, 12\) .* found \(2, 12\)",
    ),
    "more virials": (
        lambda c: {**c, "virial": np.ones((4, 9))},
        r"set\.000/virial\.npy: expected shape \(3, 9\) .* found \(4, 9\)",
    ),
    "nan energy": (
        lambda c: with_value(c, "energy", 2, np.nan),
        r"set\.000, frame 2: the energy is not finite",
    ),
    "inf position": (
        lambda c: with_value(c, "coord", (1, 7), np.inf),
        r"set\.000, frame 1: positions of atom 2 are not finite",
    ),
    "nan force": (
        lambda c: with_value(c, "force", (1, 0), np.nan),
        r"set\.000, frame 1: forces of atom 0 are not finite",
    ),
    "nan virial": (
        lambda c: with_value(c, "virial", (0, 4), np.nan),
        r"set\.000, frame 0: the virial is not finite",
    ),
    "nan box": (
        lambda c: with_value(c, "box", (1, 4), np.nan),
        r"set\.000, frame 1: the cell has a value that is not finite",
    ),
    "flat cell": (
        lambda c: with_value(c, "box", 1, np.tile([1.0, 2.0, 3.0], 3)),
        r"set\.000, frame 1: the cell has zero volume",
    ),
    "no frames": (
        lambda c: {name: array[:0] for name, array in c.items()},
        r"set\.000/coord\.npy: has no frames",
    ),
    "text": (
        lambda c: {**c, "energy": np.array(["a", "b", "c"])},
        r"set\.000/energy\.npy: expected real numbers, found dtype <U1",
    ),
    "complex": (
        lambda c: {**c, "energy": c["energy"] * 1j},
        r"set\.000/energy\.npy: expected real numbers, found dtype complex128",
    ),
    "pickle": (
        lambda c: {**c, "force": np.array([{"a": 1}] * 3, dtype=object)},
        r"set\.000/force\.npy: holds pickled Python objects",
    ),
    "type beyond the map": (
        lambda c: {**c, "real_atom_types": np.array([[0] * 4, [0, 0, 2, 0], [0] * 4])},
        r"real_atom_types\.npy, frame 1: atom 2 has type 2, expected -1 to 1",
    ),
    "only virtual atoms": (
        lambda c: {**c, "real_atom_types": np.array([[0] * 4, [-1] * 4, [0] * 4])},
        r"set\.000, frame 1: has no atoms",
    ),
}


@pytest.mark.parametrize("case", WRONG_CONTENT)
def test_wrong_arrays_are_named(tmp_path, case):
    change, message = WRONG_CONTENT[case]
    write(tmp_path, [change(arrays(3))])
    with pytest.raises(InputError, match=message) as caught:
        read_deepmd_npy(tmp_path)
    assert "\n" not in str(caught.value)


def set_word(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))


WRONG_BYTES = {
    "truncated": (
        lambda p: p.write_bytes(p.read_bytes()[:-10]),
        r"truncated: shape \(3, 12\) of float64 needs 288 bytes, found 278",
    ),
    "too long": (
        lambda p: p.write_bytes(p.read_bytes() + bytes(8)),
        r"damaged: shape \(3, 12\) of float64 needs 288 bytes, found 296",
    ),
    "empty": (lambda p: p.write_bytes(b""), "not a numpy array file or its header is damaged"),
    "other file": (lambda p: p.write_text("1 2 3"), "not a numpy array file"),
    "cut header": (lambda p: p.write_bytes(p.read_bytes()[:40]), "its header is damaged"),
    "mad header": (lambda p: set_word(p, b"'shape'", b"'shpae'"), "its header is damaged"),
    "negative": (lambda p: set_word(p, b"(3, 12)", b"(-3,12)"), "header is damaged: shape"),
    "huge": (
        # a shape of 10^17 bytes must be refused from the file's size, not allocated
        lambda p: set_word(p, b"(3, 12), }" + b" " * 15, b"(1000000000000000, 12), }"),
        r"truncated: shape \(1000000000000000, 12\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_BYTES)
def test_damaged_files_are_named(tmp_path, case):
    damage, message = WRONG_BYTES[case]
    path = write(tmp_path, [arrays(3)]) / "set.000" / "coord.npy"
    before = path.read_bytes()
    damage(path)
    assert path.read_bytes() != before
    with pytest.raises(InputError, match=message) as caught:
        read_deepmd_npy(tmp_path)
    assert str(caught.value).startswith(str(path))


def test_npz_is_not_npy(tmp_path):
    path = write(tmp_path, [arrays(3)]) / "set.000" / "coord.npy"
    with path.open("wb") as stream:
        np.savez(stream, coord=np.ones((3, 12)))
    with pytest.raises(InputError, match="not a numpy array file"):
        read_deepmd_npy(tmp_path)


WRONG_FOLDERS = {
    "not integers": ({"types": [0, "x", 1, 0]}, r"type\.raw: expected one small integer"),
    "not even small": ({"types": [0, 10**30, 1, 0]}, r"type\.raw: expected one small integer"),
    "no atoms": ({"types": []}, r"type\.raw: is empty"),
    "negative type": ({"types": [0, 1, 1, -1]}, r"type\.raw: atom 3 has type -1"),
    "type beyond the map": ({"types": [0, 1, 1, 2]}, r"type\.raw: atom 3 has type 2"),
    "doubled name": ({"names": ["O", "O"]}, r"type_map\.raw: O is listed more than once"),
    "no element": ({"names": ["O", "Type_1"]}, r"frame 0: Type_1 is not a chemical symbol"),
    "no sets": ({"sets": []}, r"has type\.raw but no folder set\.\*"),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_wrong_folders_are_named(tmp_path, case):
    change, message = WRONG_FOLDERS[case]
    write(tmp_path / "s", **{"sets": [arrays(1)], **change})
    with pytest.raises(InputError, match=message):
        read_deepmd_npy(tmp_path / "s")


def test_elements_beyond_the_models_type_map(tmp_path):
    write(tmp_path, [arrays(1)])
    with pytest.raises(InputError, match=re.escape("element H is not in the type map ['O', 'Si']")):
        read_deepmd_npy(tmp_path, ["O", "Si"])
    assert read_deepmd_npy(tmp_path, ["C", "H", "O"]).frames[0].symbols == ("O", "H", "H", "O")


def test_mixed_in_all_sets_or_none(tmp_path):
    mixed = {**arrays(1), "real_atom_types": np.zeros((1, 4), dtype=int)}
    write(tmp_path, [mixed, arrays(1)])
    with pytest.raises(InputError, match=r"set\.001: real_atom_types\.npy is missing"):
        read_deepmd_npy(tmp_path)
    write(tmp_path, [mixed, mixed])
    (tmp_path / "type_map.raw").unlink()
    with pytest.raises(InputError, match=r"type_map\.raw: is missing; the mixed format needs it"):
        read_deepmd_npy(tmp_path, NAMES)


def test_missing_coordinates(tmp_path):
    content = arrays(1)
    del content["coord"]
    with pytest.raises(InputError, match=r"coord\.npy: cannot be read: No such file"):
        read_deepmd_npy(write(tmp_path, [content]))
