"""Every check of a model passes on a sound one, and finds the mistake that it is there for."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from models import random_potential

from deepmd_lite import kernels
from deepmd_lite.calculator import Calculator
from deepmd_lite.certify import (
    Verdict,
    certify,
    curves,
    derivatives,
    dynamics,
    machine,
    symmetry,
)
from deepmd_lite.cli import main
from deepmd_lite.data import Frame, System
from deepmd_lite.model import save_model
from deepmd_lite.model.structures import gas
from deepmd_lite.system import LocalEnv

ROOT = Path(__file__).parents[2]


@pytest.fixture(name="model", scope="module")
def _model():
    return random_potential(("O", "H"))


@pytest.fixture(name="structures", scope="module")
def _structures(model):
    return [gas(model)]


class Faulty:
    """A model with one mistake."""

    def __init__(self, model, mistake):
        self._model, self._mistake = model, mistake

    def __getattr__(self, name):
        return getattr(self._model, name)

    def evaluate(self, env):
        return self._mistake(self._model, env)


def changed(**how):
    """A mistake in what the evaluation returns: functions of it by field."""

    def mistake(model, env):
        found = model.evaluate(env)
        return dataclasses.replace(found, **{k: f(found, env) for k, f in how.items()})

    return mistake


def lost_reverse(found, env):
    """Forces on ghosts are forgotten."""
    forces = found.forces.clone()
    forces[env.n_local :] = 0.0
    return forces


def truncated(model, env):
    """At most 20 neighbours are looked at."""
    kept = [
        env.indices[a:b][:20]
        for a, b in zip(env.offsets[:-1].tolist(), env.offsets[1:].tolist(), strict=True)
    ]
    offsets = torch.tensor([0, *np.cumsum([len(k) for k in kept])])
    return model.evaluate(
        LocalEnv(env.positions, env.types, env.n_local, offsets, torch.cat(kept).contiguous())
    )


def uneven(found, env):
    """An external field: energies know where they are."""
    return found.energies + 1e-3 * env.positions[: env.n_local, 0].abs()


def handed(found, env):
    """A force that turns to the left."""
    field = torch.tensor([0.0, 0.0, 1e-3], dtype=torch.float64).expand_as(found.forces)
    return found.forces + torch.linalg.cross(found.forces, field)


def many_body(found, env):
    """An energy for each pair of atoms of the whole system, however far."""
    return found.energies + 1e-6 * env.n_local


DERIVATIVES = {
    "force sign": changed(forces=lambda e, env: -e.forces),
    "force scale": changed(forces=lambda e, env: e.forces * 1.0001),
    "lost reverse communication": changed(forces=lost_reverse),
}
VIRIALS = {
    "stress sign": changed(virial=lambda e, env: -e.virial),
    "GPa for eV/Å³": changed(virial=lambda e, env: e.virial * 160.21766),
    "transposed components": changed(virial=lambda e, env: e.virial.roll(1, 0)),
    "kinetic part": changed(virial=lambda e, env: e.virial + 0.025 * env.n_local * torch.eye(3)),
    "local rows only": changed(
        virial=lambda e, env: env.positions[: env.n_local].T @ e.forces[: env.n_local]
    ),
}
SYMMETRIES = {
    "external field": changed(energies=uneven),
    "handedness": changed(forces=handed),
    "truncated neighbours": truncated,
}


def test_a_sound_model_passes(model, structures):
    found = [
        derivatives.forces(model, structures),
        derivatives.virial(model, structures),
        *symmetry.invariances(model, structures),
        symmetry.net_force(model, structures),
        symmetry.size_consistency(model, structures),
        *curves.smoothness(model),
        machine.table(model, structures),
        machine.instruction_sets(model, structures),
    ]
    assert [v.name for v in found if v.state != "ok"] == []


@pytest.mark.parametrize("mistake", DERIVATIVES.values(), ids=DERIVATIVES)
def test_wrong_forces_are_found(model, structures, mistake):
    assert derivatives.forces(Faulty(model, mistake), structures).state == "FAILED"


@pytest.mark.parametrize("mistake", VIRIALS.values(), ids=VIRIALS)
def test_wrong_virials_are_found(model, structures, mistake):
    assert derivatives.virial(Faulty(model, mistake), structures).state == "FAILED"


@pytest.mark.parametrize("mistake", SYMMETRIES.values(), ids=SYMMETRIES)
def test_broken_symmetries_are_found(model, structures, mistake):
    found = symmetry.invariances(Faulty(model, mistake), structures)
    assert any(v.state == "FAILED" for v in found)


def test_swapped_elements_are_found_by_the_order_of_atoms(model, structures):
    def by_row(model, env):
        types = env.types.clone()
        types[: env.n_local] = torch.arange(env.n_local, dtype=torch.int32) % 2
        return model.evaluate(LocalEnv(env.positions, types, env.n_local, env.offsets, env.indices))

    found = symmetry.invariances(Faulty(model, by_row), structures)
    assert "unchanged by order of atoms" in [v.name for v in found if v.state == "FAILED"]


def test_energies_that_see_the_whole_system_are_found(model, structures):
    faulty = Faulty(model, changed(energies=many_body))
    assert symmetry.size_consistency(faulty, structures).state == "FAILED"


def test_forces_that_do_not_add_up_are_found(model, structures):
    faulty = Faulty(model, changed(forces=lambda e, env: e.forces + 1e-6))
    assert symmetry.net_force(faulty, structures).state == "FAILED"


def test_not_a_number_fails_every_check(model, structures):
    broken = changed(
        energies=lambda e, env: e.energies * np.nan, forces=lambda e, env: e.forces * np.nan
    )
    faulty = Faulty(model, broken)
    found = [
        derivatives.forces(faulty, structures),
        *symmetry.invariances(faulty, structures),
        symmetry.size_consistency(faulty, structures),
        *curves.smoothness(faulty),
    ]
    assert {v.state for v in found} == {"FAILED"}


def test_a_cutoff_that_cuts_is_found(model):
    def cut(model, env):
        found = model.evaluate(env)
        pairs = (env.offsets[1:] > env.offsets[:-1]).double()
        return dataclasses.replace(found, energies=found.energies + 1e-4 * pairs)

    far, _ = curves.smoothness(Faulty(model, cut))
    assert far.state == "FAILED"


def test_a_jump_where_the_table_ends_is_found(model):
    end = model.table_min_distance()

    def jump(model, env):
        found = model.evaluate(env)
        close = (env.positions[1::2, 0] < end).repeat_interleave(2)[:, None]
        return dataclasses.replace(found, forces=found.forces * torch.where(close, 1.01, 1.0))

    _, table = curves.smoothness(Faulty(model, jump))
    assert table.state == "FAILED"


def test_a_hole_in_the_core_is_a_warning_that_says_where(model):
    def pull(model, env):
        found = model.evaluate(env)
        forces = torch.zeros_like(found.forces)
        forces[::2, 0], forces[1::2, 0] = 5.0, -5.0
        return dataclasses.replace(found, forces=forces)

    made = curves.curves(Faulty(model, pull))
    found = curves.repulsion(made)
    assert [v.state for v in found] == ["warning"] * 3
    assert "attracts between 0.30 and" in found[0].words
    assert model.repulsion is not None
    assert "may fuse; the networks outweigh the repulsion there" in found[0].words
    bare = copy.deepcopy(model)
    bare.repulsion = None
    found = curves.repulsion(curves.curves(Faulty(bare, pull)))
    assert "may fuse; train with the repulsion" in found[0].words


def test_dimers_are_evaluated_together_and_are_what_they_are_alone(model):
    asked = []
    counting = Faulty(model, lambda own, env: asked.append(env.n_local) or own.evaluate(env))
    found = curves.curves(counting)
    assert asked == [2 * (curves.POINTS + 1)] * 3
    r = found[1].distances[::57]
    each = [curves.dimers(model, 0, 1, [distance]) for distance in r]
    calculator = Calculator(model)
    for distance, (energy, force) in zip(r, each, strict=True):
        atoms = Atoms("OH", [[0, 0, 0], [distance, 0, 0]])
        assert energy[0] == pytest.approx(calculator.get_potential_energy(atoms), abs=1e-9)
        assert force[0] == pytest.approx(calculator.get_forces(atoms)[1, 0], rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(found[1].forces[::57], [f[0] for _, f in each], rtol=1e-12)


def test_of_many_pairs_the_worst_are_shown(model, monkeypatch):
    monkeypatch.setattr(curves, "SHOWN", 2)
    bare, r = curves.curves(model)[0], np.array([0.3, 0.5])
    forces = {"a": [1.0, 1.0], "b": [-1.0, 1.0], "c": [-2.0, 1.0], "d": [np.nan, 1.0]}
    made = [
        dataclasses.replace(bare, pair=pair, distances=r, forces=np.array(f))
        for pair, f in forces.items()
    ]
    found = curves.repulsion(made)
    assert [v.name for v in found] == [
        *("repulsive core d", "repulsive core c", "repulsive core, 2 other pairs")
    ]
    assert [v.state for v in found] == ["warning"] * 3


def test_an_instruction_set_with_another_result_is_found(model, structures):
    own = kernels.instruction_set()
    if len(kernels.instruction_sets()) < 2:
        pytest.skip("one instruction set only")

    def rounded(model, env):
        found = model.evaluate(env)
        wrong = kernels.instruction_set() != "baseline"
        return dataclasses.replace(found, forces=found.forces * (1 + 1e-8 * wrong))

    found = machine.instruction_sets(Faulty(model, rounded), structures)
    assert found.state == "FAILED"
    assert kernels.instruction_set() == own


def test_a_table_that_is_too_coarse_is_found(structures):
    model = random_potential(("O", "H"))
    model.descriptor._frozen = None
    model.descriptor.grid = model.descriptor.grid.refined(0.1)
    model.freeze()
    assert machine.table(model, structures).state == "FAILED"


def test_certificate_of_a_file(tmp_path, model):
    path = tmp_path / "model.dpl"
    save_model(model, path)
    sample = gas(model, seed=3)
    symbols = tuple(model.type_map[t] for t in sample.types)
    frame = Frame(symbols, sample.positions, sample.cell, sample.pbc, source="water, frame 0")
    names = []
    found = certify(path, [System("water", [frame])], quick=True, progress=names.append)
    assert names == ["derivatives", "symmetry", "dimers", "float32", "numbers", "dynamics"]
    assert {v.device for v in found.verdicts} == {"cpu"}
    drift = next(v for v in found.verdicts if v.name.startswith("NVE"))
    assert drift.found is not None
    assert "water, frame 0" in found.lines()[0]
    assert found.json()["checks"][0]["state"] == "ok"
    curves.plot(list(found.curves), tmp_path / "dimers.png")
    assert (tmp_path / "dimers.png").stat().st_size > 0


def test_ranks_agree(tmp_path, model, structures, monkeypatch):
    pytest.importorskip("mpi4py")
    path = tmp_path / "model.dpl"
    save_model(model, path)
    symbols = [model.type_map[t] for t in structures[0].types]
    found = machine.ranks(path, structures[0], symbols)
    assert found.state == "ok", found.words
    monkeypatch.setattr(machine, "RANKS", 1)
    assert machine.ranks(tmp_path / "no.dpl", structures[0], symbols).state == "FAILED"


def test_a_launcher_that_fails_is_not_the_models_fault(structures, monkeypatch):
    false = shutil.which("false")
    monkeypatch.setattr(shutil, "which", lambda *a, **k: false)
    found = machine.ranks("model.dpl", structures[0], [])
    assert (found.state, found.passed) == ("not made", True)
    assert "does not start them: status 1" in found.words


def test_without_mpi_the_ranks_are_not_checked(model, structures, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *a, **k: None)
    assert machine.ranks("model.dpl", structures[0], []).state == "not made"


def test_a_verdict_without_a_number_fails():
    assert Verdict("x", float("nan"), 1.0, "eV").state == "FAILED"
    assert Verdict("x", None, 1.0, "eV").state == "not made"


def test_the_command(tmp_path, model, capsys):
    path, report = tmp_path / "model.dpl", tmp_path / "report.json"
    save_model(model, path)
    plot = tmp_path / "dimers.png"
    arguments = ["check", str(path), "--quick", "--json", str(report), "--plot", str(plot)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "virial = -dE/dstrain, nine components" in printed
    (row,) = json.loads(report.read_text())
    assert row["passed"]
    assert plot.stat().st_size > 0
    assert main(["check", str(path), str(ROOT / "data/silicon/test.extxyz")]) == 1
    assert "checked apart" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none.dpl")]) == 1
    assert "no such model file" in capsys.readouterr().err
    wrong = ["check", str(path), "--data", str(ROOT / "data/silicon/test.extxyz")]
    assert main(wrong) == 1
    assert "element Si is not in the type map" in capsys.readouterr().err


def test_a_model_that_fails_is_an_exit_status(tmp_path, model, monkeypatch, capsys):
    save_model(model, tmp_path / "model.dpl")
    failed = Verdict("x", 1.0, 0.5, "eV", "because")
    monkeypatch.setattr(derivatives, "forces", lambda *a: failed)
    assert main(["check", str(tmp_path / "model.dpl"), "--quick"]) == 1
    assert "1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["energies", "forces", "virial"])
def test_a_single_kind_of_nan_fails_its_checks(model, structures, what):
    broken = changed(**{what: lambda e, env: getattr(e, what) * np.nan})
    faulty, samples_twice = Faulty(model, broken), [*structures, *structures]
    found = {
        "energies": [
            derivatives.forces(faulty, samples_twice),
            *symmetry.invariances(faulty, samples_twice),
            symmetry.size_consistency(faulty, samples_twice),
        ],
        "forces": [
            derivatives.forces(faulty, samples_twice),
            *symmetry.invariances(faulty, samples_twice),
            symmetry.size_consistency(faulty, samples_twice),
            symmetry.net_force(faulty, samples_twice),
            machine.instruction_sets(faulty, samples_twice),
        ],
        "virial": [derivatives.virial(faulty, samples_twice)],
    }[what]
    assert {v.state for v in found} == {"FAILED"}
    if what == "forces":
        dimers = curves.repulsion(curves.curves(faulty))
        assert {v.state for v in dimers} == {"warning"}


def test_a_finite_error_does_not_hide_nan():
    errors = [(0.5, "a"), (np.inf, "b"), (np.nan, "c"), (np.nan, "d"), (1.0, "e")]
    found = Verdict.worst("some", errors, 1.0, "eV")
    assert np.isnan(found.found)
    assert (found.words, found.state) == ("c", "FAILED")
    found = Verdict.worst("some", [(0.5, "a"), (1.0, "b"), (1.0, "c")], 1.0, "eV", warns=True)
    assert (found.found, found.words, found.state) == (1.0, "b", "ok")


def test_what_has_no_error_has_it_nowhere():
    for errors in ([], [(0.0, "a"), (0.0, "b")]):
        found = Verdict.worst("some", errors, 1.0, "eV")
        assert (found.found, found.words, found.state) == (0.0, "", "ok")


def test_energies_that_jump_are_no_drift_of_zero(model, monkeypatch):
    noise = np.random.default_rng(0)

    def jumps(model, env):
        found = model.evaluate(env)
        return dataclasses.replace(found, energies=found.energies + 0.02 * noise.normal())

    real = dataclasses.replace(gas(model), real=True)
    symbols = [model.type_map[t] for t in real.types]
    found = dynamics.energy_drift(Faulty(model, jumps), real, symbols, 200)
    assert found.state == "FAILED"
