"""Restarts: what they hold, how they are written, read, found, and refused."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from pair_potential import PairPotential
from safetensors.numpy import load_file

from deepmd_lite import files
from deepmd_lite.cli import main
from deepmd_lite.md import Simulation, restart
from deepmd_lite.md.comm import Communicator
from deepmd_lite.md.restart import MANIFEST, Archive
from deepmd_lite.system import InputError

ALONE = Communicator()
MODEL = PairPotential()
OPTIONS = {
    "ensemble": {"type": "nvt-langevin", "temperature": 900, "friction": 0.02},
    "velocities": {"temperature": 900},
    "timestep": 2.0,
    "skin": 0.3,
}


def simulation(folder, resume=None, every=4, **options):
    output = {"directory": folder, "thermo": 2, "trajectory": 3, "restart": every}
    atoms = None if resume else bulk("Cu", cubic=True, a=3.7).repeat(3)
    return Simulation(atoms, MODEL, output=output, resume=resume, **OPTIONS, **options)


@pytest.fixture
def run(tmp_path):
    """A run of 10 steps with restarts at 8 and 10."""
    made = simulation(tmp_path / "run")
    made.run(10)
    return tmp_path / "run"


def steps(run):
    return sorted(int(p.name.split("-")[1]) for p in (run / "restart").iterdir())


def newest(run):
    return sorted((run / "restart").iterdir())[-1]


class Rank(Communicator):
    """One of several, for what needs no messages."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


# --- exactness ------------------------------------------------------------------------------


def test_parts_are_the_whole(tmp_path):
    """N steps, a restart and N steps: the same files, to the last bit of the last restart."""
    simulation(tmp_path / "whole").run(22)
    simulation(tmp_path / "parts").run(9)
    simulation(tmp_path / "parts", resume=tmp_path / "parts").run(6)
    simulation(tmp_path / "parts", resume=tmp_path / "parts").run(7)
    for name in ("thermo.csv", "trajectory.extxyz"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    a, b = (newest(tmp_path / name) for name in ("whole", "parts"))
    assert a.name == b.name == "step-000000000022"
    assert (a / "shard-0000.safetensors").read_bytes() == (
        b / "shard-0000.safetensors"
    ).read_bytes()


def shards_of_three(tmp_path):
    """A restart as three ranks would have written it, from the atoms of a run on one."""
    source = simulation(tmp_path / "run")
    source.run(3)
    state, n = source.state, source.n_atoms
    state.carried["origin"] = torch.arange(2.0 * n, dtype=torch.float64).reshape(n, 2)
    state.carried["age"] = state.ids.double()[:, None] / 3
    now = replace(
        source.start,
        state=state,
        domain=source.domain,
        cell=source.engine.cell,
        built_cell=source.engine.built_cell,
        step=3,
        time=6.0,
        memory={"rdf": {"counts": np.arange(5), "sum": np.float64(0.1)}, "n": 3},
    )
    folder = tmp_path / "three/restart"
    path = Archive(folder, ALONE).write(now, MODEL.type_map, {"note": "hello"})
    manifest = json.loads((path / MANIFEST).read_text())
    rows = state.pack()
    shards = []
    for rank, part in enumerate(np.split(rows, [20, 20])):  # the second rank is empty
        name = f"shard-{rank:04d}.safetensors"
        shards.append(restart._write_shard(path / name, type(state).unpack(part, state.widths)))
    manifest.pop("sha256")
    manifest["shards"] = shards
    manifest["sha256"] = restart._digest(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path, state


def test_one_rank_reads_the_shards_of_three(tmp_path):
    path, state = shards_of_three(tmp_path)
    start = restart.read(path, MODEL.type_map, ALONE)
    np.testing.assert_array_equal(start.state.pack(), state.pack())
    assert start.state.widths == state.widths == {"origin": 2, "age": 1}
    assert (start.step, start.time, start.n_atoms) == (3, 6.0, len(state))
    np.testing.assert_array_equal(start.memory["rdf"]["counts"], np.arange(5))
    assert start.memory["rdf"]["counts"].dtype == np.arange(5).dtype
    assert start.memory["rdf"]["sum"] == 0.1
    assert start.memory["n"] == 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 200])
def test_every_atom_is_read_by_one_rank(tmp_path, size):
    path, state = shards_of_three(tmp_path)
    _, header, _ = restart.find(path, ALONE)
    parts = [restart._own_atoms(path, header, Rank(rank, size)) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate([p.pack() for p in parts]), state.pack())
    assert all(list(p.carried) == list(state.carried) for p in parts)
    share = len(state) / size
    assert size == 3 or all(abs(len(p) - share) <= 1 for p in parts)


def test_what_a_run_carries_goes_on(tmp_path):
    first = simulation(tmp_path / "run")
    kept = {"mean": np.array([1.0, np.nan]), "counts": [1, 2]}
    never = SimpleNamespace(
        name="own", every=10**9, sample=lambda *_: None, result=dict, memory=lambda: kept
    )
    first.observables.append(never)
    first.state.carried["origin"] = first.state.positions.clone()
    first.run(4)
    again = simulation(tmp_path / "run", resume=tmp_path / "run")
    np.testing.assert_array_equal(again.start.memory["own"]["mean"], [1.0, np.nan])
    assert again.start.memory["own"]["counts"] == [1, 2]
    order = first.state.ids.argsort(), again.state.ids.argsort()
    a, b = first.state.carried["origin"][order[0]], again.state.carried["origin"][order[1]]
    assert torch.equal(a, b)


def test_a_shard_is_plain_arrays(run):
    arrays = load_file(newest(run) / "shard-0000.safetensors")
    assert arrays["positions"].shape == (108, 3)
    assert sorted(arrays["ids"]) == list(range(108))


# --- writing --------------------------------------------------------------------------------


def test_two_are_kept(run):
    assert steps(run) == [8, 10]


def test_copies_that_somebody_made_are_left_alone(run):
    """Neither are they removed, nor does a run go on from one that it was not told of."""
    names = "step-000000000010-kept", "step-000000000012.old"
    copies = [run / "restart" / name for name in names]
    for copy in copies:
        shutil.copytree(newest(run), copy)
    again = simulation(run, resume=run)
    assert again.start.source.name == "step-000000000010"
    again.run(4)
    again.run(4)
    assert all((copy / MANIFEST).exists() for copy in copies)
    for path in (run / "restart").iterdir():
        if path not in copies:
            shutil.rmtree(path)
    with pytest.raises(InputError, match="no restart to continue from"):
        simulation(run, resume=run)
    assert simulation(run, resume=copies[0]).step == 10


def test_older_ones_go_only_when_the_new_one_is_complete(run, monkeypatch):
    """The folder is looked at when each file is about to be written."""
    seen = []

    def spy(path, content):
        seen.append((Path(path).name, steps(run), (newest(run) / MANIFEST).exists()))
        files.write_atomically(path, content)

    monkeypatch.setattr(restart, "write_atomically", spy)
    (run / "restart/step-000000000003").mkdir()  # left by a run that was killed
    again = simulation(run, resume=run)
    again.run(2)
    assert seen == [
        ("shard-0000.safetensors", [3, 8, 10, 12], False),
        (MANIFEST, [3, 8, 10, 12], False),
    ]
    assert steps(run) == [10, 12]


@pytest.mark.parametrize("name", ["shard-0000.safetensors", MANIFEST])
def test_a_write_that_fails_leaves_the_last_restart(run, monkeypatch, name):
    def full(path, content):
        if Path(path).name == name:
            with files.writing(path):
                raise OSError(28, os.strerror(28))
        files.write_atomically(path, content)

    monkeypatch.setattr(restart, "write_atomically", full)
    again = simulation(run, resume=run)
    with pytest.raises(InputError, match=rf"{name}: cannot be written: No space left on device"):
        again.run(2)
    assert steps(run) == [8, 10]
    assert restart.describe(run)["step"] == "10"


@pytest.mark.parametrize("name", ["thermo.csv", "trajectory.extxyz", "log"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, name):
    made = simulation(tmp_path / "run")
    made.run(1)
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to("/dev/full")
    with pytest.raises(InputError, match=f"{name}: cannot be written: No space left on device"):
        made.run(6)
    assert restart.describe(tmp_path / "run")["step"] in ("1", "4")


def test_an_unfinished_restart_of_the_same_step_is_replaced(tmp_path):
    leftover = tmp_path / "run/restart/step-000000000004"
    made = simulation(tmp_path / "run")
    made.run(3)
    leftover.mkdir()
    (leftover / "shard-0007.safetensors").write_bytes(b"half")
    simulation(tmp_path / "run", resume=tmp_path / "run").run(1)
    assert sorted(p.name for p in leftover.iterdir()) == [MANIFEST, "shard-0000.safetensors"]


def test_output_files_are_on_the_disk_before_the_manifest(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(restart, "sync_file", lambda path: order.append(Path(path).name))
    real = files.write_atomically
    monkeypatch.setattr(
        restart, "write_atomically", lambda p, c: (order.append(Path(p).name), real(p, c))
    )
    simulation(tmp_path / "run", every=0).run(2)
    assert order == ["shard-0000.safetensors", "thermo.csv", "trajectory.extxyz", MANIFEST]


# --- damage ---------------------------------------------------------------------------------


def cut(path):
    shard = path / "shard-0000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])


def flip(path):
    shard = path / "shard-0000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(bytes(content))


def remove(path):
    (path / "shard-0000.safetensors").unlink()


def edit(path):
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"step": 10', '"step": 11'))


def scribble(path):
    (path / MANIFEST).write_text("no manifest")


DAMAGES = {
    cut: r"shard-0000.safetensors has \d+ bytes instead of \d+",
    flip: "shard-0000.safetensors has another checksum than when it was written",
    remove: "shard-0000.safetensors cannot be read: No such file",
    edit: "manifest.json has another checksum than when it was written",
    scribble: "manifest.json is not what a restart holds",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_restart_is_said_and_the_one_before_used(run, caplog, damage):
    damage(newest(run))
    again = simulation(run, resume=run)
    assert again.step == 8
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    match = rf"step-000000000010 is damaged: {DAMAGES[damage]}.*going on from .*step-000000000008"
    assert re.search(match, lines[0]), lines[0]
    again.run(2)
    assert steps(run) == [8, 10]
    caplog.clear()
    assert simulation(run, resume=run).step == 10
    assert not caplog.records


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_the_damaged_one_does_not_count_as_one_of_two(run, damage):
    damage(newest(run))
    simulation(run, resume=run).run(3)
    assert steps(run) == [8, 11]


def test_all_damaged(run):
    for path in (run / "restart").iterdir():
        flip(path)
    with pytest.raises(InputError, match=r"000010 is damaged.*000008 is damaged.*no other one"):
        simulation(run, resume=run)


def test_the_restart_that_was_asked_for_is_not_replaced_by_another(run):
    cut(newest(run))
    with pytest.raises(InputError, match="000010 is damaged"):
        simulation(run, resume=newest(run))


def test_a_folder_without_a_manifest_does_not_count(run, caplog):
    (newest(run) / MANIFEST).unlink()
    assert simulation(run, resume=run).step == 8
    assert not caplog.records


def test_other_versions_and_models_are_refused(run):
    class Other(PairPotential):
        type_map = ["Ag", "Cu"]

    with pytest.raises(InputError, match="written with a model for"):
        Simulation(None, Other(), resume=run)
    manifest = json.loads((newest(run) / MANIFEST).read_text())
    manifest.pop("sha256")
    manifest["format_version"] = 99
    manifest["sha256"] = restart._digest(manifest)
    (newest(run) / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="restart format 99, this version reads"):
        simulation(run, resume=run)


def test_no_restart(tmp_path):
    with pytest.raises(InputError, match="no restart to continue from"):
        restart.describe(tmp_path)


# --- dpl info -------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["run", "restart", "step"])
def test_info(run, capsys, which):
    path = {"run": run, "restart": run / "restart", "step": newest(run)}[which]
    assert main(["info", str(path)]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert shown["step"] == "10"
    assert shown["time"] == "20 fs"
    assert shown["atoms"] == "108 of Cu Ag"
    assert shown["ranks"].startswith("1 (1 x 1 x 1)")


def test_info_as_json_and_of_nothing(run, capsys, tmp_path):
    cut(newest(run))
    assert main(["info", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == "8"
    assert "is damaged" in found["newer 1"]
    assert main(["info", str(tmp_path)]) == 1
    assert "no restart to continue from" in capsys.readouterr().err
