"""`dpl check MODEL --device cuda`: the checks of a model, made where it is to run."""

from __future__ import annotations

import dataclasses
import json

import pytest
from models import random_atoms, random_potential, short_range_potential

from deepmd_lite import kernels
from deepmd_lite.certify import certify, curves, derivatives, machine, report
from deepmd_lite.cli import main
from deepmd_lite.data import Frame, System
from deepmd_lite.model import save_model
from deepmd_lite.model.structures import gas
from deepmd_lite.system import InputError

ON_HOST = ("table against networks", "instruction sets")


@pytest.fixture(autouse=True)
def _fewer_evaluations(monkeypatch):
    """An emulated device is slow."""
    monkeypatch.setattr(curves, "POINTS", 4)
    monkeypatch.setattr(derivatives, "COMPONENTS", 3)
    monkeypatch.setattr(report, "QUICK_STEPS", 20)
    monkeypatch.setattr(report, "gas", lambda model: gas(model, n_atoms=8))


def checked(model, tmp_path, device):
    """The certificate of a model's file, on one frame."""
    path = tmp_path / "model.dpl"
    save_model(model, path)
    atoms = random_atoms("Si4" if "Si" in model.type_map else "H2O2", 5.0, seed=3)
    symbols = tuple(atoms.get_chemical_symbols())
    frame = Frame(symbols, atoms.positions, atoms.cell.array, atoms.pbc, source="frame 0")
    return certify(path, [System("data", [frame])], device=device, quick=True)


@pytest.mark.parametrize("make", [lambda: random_potential(("Si",)), short_range_potential])
def test_every_check_is_made_where_it_can_be(device, tmp_path, make):
    expected, found = (checked(make(), tmp_path, name) for name in ("cpu", "cuda"))
    where = {v.name: v.device for v in found.verdicts}
    states = {v.name: v.state for v in found.verdicts}
    assert where.pop("cuda = cpu") == "cuda"
    assert states.pop("cuda = cpu") == "ok"
    assert states == {v.name: v.state for v in expected.verdicts}
    for name, place in where.items():
        assert place == ("cpu" if name.startswith(ON_HOST) else "cuda"), name
    assert {v.device for v in expected.verdicts} == {"cpu"}
    (row,) = (line for line in found.lines() if line.startswith("forces"))
    assert row.split()[2:5] == ["-dE/dr", "cuda", "ok"]
    assert not any(" cpu " in line for line in expected.lines())


def test_another_result_than_the_processor_is_found(device, monkeypatch):
    host = random_potential(("Si",))
    there = random_potential(("Si",)).to_device("cuda")
    samples = [gas(host, n_atoms=8)]
    assert machine.processor(there, host, samples).state == "ok"
    evaluate = kernels.cuda.CudaPotential.evaluate

    def wrong(self, env):
        found = evaluate(self, env)
        return dataclasses.replace(found, forces=found.forces * (1 + 1e-7))

    monkeypatch.setattr(kernels.cuda.CudaPotential, "evaluate", wrong)
    assert machine.processor(there, host, samples).state == "FAILED"


def test_the_command(device, tmp_path, capsys):
    path, found = tmp_path / "model.dpl", tmp_path / "found.json"
    save_model(random_potential(("Si",)), path)
    assert main(["check", str(path), "--quick", "--device", "cuda", "--json", str(found)]) == 0
    assert "cuda = cpu" in capsys.readouterr().out
    (row,) = json.loads(found.read_text())
    assert {check["device"] for check in row["checks"]} == {"cuda", "cpu"}


def test_what_is_refused(tmp_path, capsys):
    data = tmp_path / "data.extxyz"
    random_atoms("Si4", 5.0, seed=3).write(data)
    assert main(["check", str(data), "--device", "cuda"]) == 1
    assert "--device: only with a model" in capsys.readouterr().err
    save_model(random_potential(("Si",)), tmp_path / "model.dpl")
    with pytest.raises(InputError, match="device 'gpu': expected 'cpu', 'cuda' or 'cuda:N'"):
        certify(tmp_path / "model.dpl", device="gpu")
