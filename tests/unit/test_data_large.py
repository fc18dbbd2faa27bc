"""Data sets of many systems and frames: what is said of them, and of what is broken in them."""

import io
import json
import logging
import os

import numpy as np
import pytest
from ase.io import write
from copper import copper, settings

from deepmd_lite.cli import main
from deepmd_lite.data import Frame, System, describe, lacking_in_words, load, load_each
from deepmd_lite.data.xyz_blocks import blocks
from deepmd_lite.system import InputError
from deepmd_lite.training import train
from deepmd_lite.training.parallel import ranks_of_machine


def frame(k=0, **without):
    values = {"energy": 1.0, "forces": np.zeros((2, 3)), "virial": np.eye(3)} | without
    pbc = np.ones(3, dtype=bool)
    return Frame(("Cu", "Cu"), np.eye(3)[:2], 9 * np.eye(3), pbc, **values, source=f"s, frame {k}")


def systems(n, notes=()):
    return [System(f"s{k}", [frame()], list(notes)) for k in range(n)]


# --- many systems -----------------------------------------------------------------------------


def test_few_systems_are_described_one_by_one():
    assert len(describe(systems(20)).splitlines()) == 21


def test_many_systems_are_counted_but_for_the_odd_ones():
    given = systems(3000)
    given[7].frames = [frame(forces=None)]
    given[2000].notes = ["not used: hessian.npy"]
    lines = describe(given).splitlines()
    assert [line.partition(":")[0].strip() for line in lines] == [
        *(f"s{k}" for k in (*range(5), 7, 2000)),
        *("note", "… and 2993 systems more", "total"),
    ]
    assert "forces 2999/3000" in lines[-1]


def test_a_note_of_all_systems_is_told_with_the_first():
    assert len(describe(systems(3000, ["no type_map.raw"])).splitlines()) == 5 + 5 + 2
    given = [System(f"s{k}", [frame()], [f"note {k}"]) for k in range(3000)]
    assert len(describe(given).splitlines()) == 2 * 15 + 2


def test_systems_that_lack_what_others_have_are_named():
    given = systems(9)
    assert lacking_in_words(given, "forces") == ""
    for k in (1, 2, 5, 6):
        given[k].frames = [frame(forces=None), frame(forces=None)]
    assert lacking_in_words(given, "forces") == (
        "s1, s2, s5 and 1 more: no forces in 8 frames, which 5 other systems have"
    )
    given[0].frames = [frame(forces=None)]  # now most lack them
    assert lacking_in_words(given, "forces") == ""
    given[3].frames = [Frame(("Cu",), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))]
    assert "s3" not in lacking_in_words(given, "virial")


def test_a_folder_without_forces_is_told_by_training_and_test(tmp_path, capsys, caplog):
    data = []
    for k in range(3):
        data.append(str(tmp_path / f"d{k}"))
        write(tmp_path / f"{k}.extxyz", copper(4, k))
        argv = ["convert-data", str(tmp_path / f"{k}.extxyz"), data[-1], "--to", "deepmd/npy"]
        assert main([*argv, "-q"]) == 0
    (folder,) = {os.path.dirname(p) for p in map(str, (tmp_path / "d1").glob("*/set.000"))}
    os.remove(f"{folder}/set.000/force.npy")
    config = settings(tmp_path, numb_steps=1, validation_data=None)
    config["training"]["training_data"]["systems"] = data
    caplog.set_level(logging.WARNING)
    model = train(config, output=tmp_path / "out", quiet=True)
    (line,) = [m for m in caplog.messages if "no forces" in m or "force-missing" in m]
    assert line.startswith(f"training data: {folder}: no forces in 4 frames, which 2 other systems")
    caplog.clear()
    assert main(["test", str(model), *data, "-q"]) == 0
    assert f"note: {folder}: no forces in 4 frames" in caplog.text


# --- extended XYZ -----------------------------------------------------------------------------

ROWS = ["Cu 0 0 0 0 0 0\n", "Cu 1 1 1 0 0 0\n"]
HEAD = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.0\n'


def good(n=1):
    return f"2\n{HEAD}{ROWS[0]}{ROWS[1]}" * n


BROKEN = {
    "number too large": (
        f"3\n{HEAD}{ROWS[0]}{ROWS[1]}",
        "line 13 says 3 atoms, with 2 rows before the next frame begins in line 17",
    ),
    "number too small": (
        f"1\n{HEAD}{ROWS[0]}{ROWS[1]}",
        "line 13 says 1 atom, and more rows follow (line 16: 'Cu 1 1 1 0 0 0')",
    ),
    "a missing row": (
        f"2\n{HEAD}{ROWS[0]}",
        "line 13 says 2 atoms, with 1 row before the next frame begins in line 16",
    ),
    "a short row": (
        f"2\n{HEAD}{ROWS[0]}Cu 1 1 1 0\n",
        "ASE cannot read it as extxyz",
    ),
    "no number": (f"two\n{HEAD}{ROWS[0]}{ROWS[1]}", "a number of atoms in line 13, found 'two'"),
    "not finite": (good().replace("1 1 1", "1 nan 1"), "positions of atom 1 are not finite"),
}


@pytest.mark.parametrize("count", ["           2", "  2      ", "+2", "\t2"])
def test_a_number_of_atoms_as_others_write_it(tmp_path, count):
    """Fortran pads it, and ASE takes a sign."""
    path = tmp_path / "padded.xyz"
    path.write_text(good(3).replace("2\n" + HEAD, f"{count}\n{HEAD}"))
    (system,) = load(path)
    assert [f.n_atoms for f in system.frames] == [2, 2, 2]


@pytest.mark.parametrize("case", BROKEN)
def test_the_broken_frame_is_named_and_a_check_goes_on_without_it(tmp_path, case):
    text, message = BROKEN[case]
    path = tmp_path / "a.extxyz"
    path.write_text(good(3) + text + good(4))
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}, frame 3: ")
    assert message in str(caught.value)
    error, system = load_each([path])
    assert str(error) == str(caught.value)
    assert [f.source.rpartition(" ")[2] for f in system.frames] == list("0124567")


def test_the_row_that_is_odd_is_named():
    (block,) = blocks(io.StringIO(f"3\n{HEAD}{ROWS[0]}{ROWS[1]}Cu 1 1\n"))
    assert block.problem == ""
    assert block.odd_row() == "line 5 has 3 columns, other rows 7"


def test_a_file_that_ends_too_soon_and_cells_by_vec():
    first, second = blocks(io.StringIO(f"{good()}VEC1 9 0 0\n2\n{HEAD}{ROWS[0]}"))
    assert first.text.endswith("VEC1 9 0 0\n")
    assert first.problem == ""
    assert second.problem == "line 6 says 2 atoms, and the file ends after 1 row"


def test_of_many_broken_frames_ten_are_told_one_by_one(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text((good() + good().replace("1 1 1", "1 nan 1")) * 25)
    *errors, system = load_each([path])
    assert len(errors) == 11
    assert "15 more frames cannot be read and are left out (25 in all, 25 are looked at)" in str(
        errors[-1]
    )
    assert errors[-1].sources[-1] == f"{path}, frame 49"
    assert len(system.frames) == 25
    path.write_text(good(3).replace("1 1 1", "1 nan 1"))  # nothing is left: one reason will do
    assert len(list(load_each([path]))) == 1


def test_a_report_lists_the_frames_that_are_left_out(tmp_path, capsys):
    path = tmp_path / "a.extxyz"
    path.write_text((good() + good().replace("1 1 1", "1 nan 1")) * 12)
    assert main(["check", str(path), "--json", str(tmp_path / "a.json")]) == 1
    assert "12 errors" not in capsys.readouterr().out  # one for the last two
    found = json.loads((tmp_path / "a.json").read_text())["findings"]
    assert sum(f["code"] == "unreadable" for f in found) == 11
    assert found[10]["frames"] == [f"{path}, frame 21", f"{path}, frame 23"]


def test_all_broken_files_are_named_at_once(tmp_path):
    names = [tmp_path / f"{k}.extxyz" for k in range(30)]
    for k, path in enumerate(names):
        path.write_text(good(2) if k % 2 else f"{good()}2\n{HEAD}")
    with pytest.raises(InputError) as caught:
        load(names)
    lines = str(caught.value).splitlines()
    assert lines[0] == "15 of 30 files or folders cannot be read:"
    assert lines[1].startswith(f"  {names[0]}, frame 1: line 5 says 2 atoms")
    assert len(lines) == 12
    assert lines[-1] == "  and 5 more"
    with pytest.raises(InputError) as caught:
        load([tmp_path / "no", names[0], tmp_path / "none"])
    assert str(caught.value).splitlines()[0] == "2 of 3 paths cannot be read:"


# --- memory -----------------------------------------------------------------------------------


def test_lists_of_all_ranks_of_a_machine_share_its_memory(monkeypatch):
    assert ranks_of_machine() == 1
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "8"), ("MASTER_ADDR", "x")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ranks_of_machine() == 1  # not by torchrun
    monkeypatch.setenv("MASTER_PORT", "1")
    assert ranks_of_machine() == 4


def test_a_note_of_many_systems_is_one_finding(tmp_path, capsys):
    write(tmp_path / "a.extxyz", copper(1, 1))
    for k in range(22):
        (tmp_path / f"{k}.extxyz").write_text((tmp_path / "a.extxyz").read_text())
        argv = ["convert-data", str(tmp_path / f"{k}.extxyz"), str(tmp_path / "npy" / str(k))]
        assert main([*argv, "-q"]) == 0
    for folder in (tmp_path / "npy").glob("*/*/set.000"):
        np.save(folder / "hessian.npy", np.zeros(1))
    main(["check", str(tmp_path / "npy")])
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("note [reading]")]
    assert len(lines) == 1
    assert lines[0].endswith("and 21 more: not used: hessian.npy")


def test_a_choice_of_frames_is_never_shifted_by_broken_ones(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(good().replace("1 1 1", "1 nan 1") + good(3))
    (error,) = load_each([f"{path}@2"])
    assert "frame 0: positions of atom 1" in str(error)
