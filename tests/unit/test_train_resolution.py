"""The table of a training follows its networks, so that the saved model is the validated one."""

import math

import pytest
import torch
from ase.io import write
from copper import copper, settings
from models import environment_of, hybrid_potential, random_atoms, random_potential

from deepmd_lite.model import load_model
from deepmd_lite.model.table import Grid
from deepmd_lite.model.table_error import measure_table
from deepmd_lite.training import resolution, train, trainer
from deepmd_lite.training.checkpoint import Checkpoint


def rough(potential, by):
    """The same with embeddings whose first layer is steeper; its tables are made anew each time."""
    with torch.no_grad():
        for d in potential.descriptors:
            d._frozen = None
            d.embedding.weight_0 *= by
    return potential


@pytest.mark.parametrize("kind", ["one", "hybrid"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_refines_until_the_error_is_small(kind, precision):
    """By its own estimate, which is the error against the networks themselves."""
    if kind == "one":
        potential = rough(random_potential(("H", "O"), precision=precision), 15.0)
    else:
        potential = rough(hybrid_potential(precision=precision), 15.0)
    env = environment_of(random_atoms("H10O6", 6.0, 4), potential.type_map, potential.rcut).env
    intervals = [d.grid.n_intervals for d in potential.descriptors]
    spans = [d.grid.spacing * d.grid.n_intervals for d in potential.descriptors]

    def true_excess():
        error = measure_table(potential, env)
        return max(
            error["energy_ev_per_atom"] / resolution.ENERGY_TOLERANCE,
            error["force_ev_per_a"] / resolution.FORCE_TOLERANCE,
        )

    before = resolution.excess(potential, env)
    assert before > 10.0
    assert before == pytest.approx(true_excess(), rel=0.5)
    resolution.refine(potential, lambda: resolution.excess(potential, env))
    assert true_excess() < 1.1
    for d, n, span in zip(potential.descriptors, intervals, spans, strict=True):
        assert n < d.grid.n_intervals < 30 * n
        assert d.grid.spacing * d.grid.n_intervals == pytest.approx(span)


def test_a_table_that_is_fine_stays():
    potential = random_potential(("H", "O"))
    grids = [d.grid for d in potential.descriptors]
    resolution.refine(potential, lambda: 0.9)
    assert [d.grid for d in potential.descriptors] == grids


def test_what_finer_tables_do_not_mend_is_left():
    """Round-off, for example; and an error that is not finite."""
    potential = random_potential(("H", "O"))
    grids = [d.grid for d in potential.descriptors]
    assert resolution.refine(potential, lambda: 7.0) == 7.0
    assert [d.grid for d in potential.descriptors] == grids
    times = []
    assert resolution.refine(potential, lambda: times.append(1) or 13.0, 7.0) == 7.0
    assert len(times) == 1  # not tried again before it has doubled
    resolution.refine(potential, lambda: math.nan)
    assert [d.grid for d in potential.descriptors] == grids


def test_a_training_ends_with_a_table_that_is_fine_enough(tmp_path, monkeypatch):
    """Of networks that have become steep; without the checks it is not."""
    frames = copper(4, 1)
    write(tmp_path / "train.extxyz", frames)
    write(tmp_path / "validation.extxyz", copper(2, 2))
    config = settings(tmp_path, numb_steps=12)
    config["model"]["descriptor"]["neuron"] = [20, 20]
    config["learning_rate"] = {"start_lr": 1e-6, "stop_lr": 1e-7}
    config["training"]["scale_descriptor"] = False  # of features that do not stay as they are
    original = trainer.Trainer.__init__

    def steep(self, *args, **kwargs):
        original(self, *args, **kwargs)
        rough(self.potential, 60.0)

    monkeypatch.setattr(trainer.Trainer, "__init__", steep)

    def last_excess(steps):
        monkeypatch.setattr(trainer, "CHECK_STEPS", steps)
        train(config, output=tmp_path, quiet=True)
        model = load_model(tmp_path / "model.dpl")
        (grid,) = Checkpoint.read(tmp_path / "checkpoint.safetensors").grid
        model.descriptor._frozen, model.descriptor.grid = None, Grid(**grid)
        envs = (environment_of(atoms, model.type_map, model.rcut).env for atoms in frames)
        return max(resolution.excess(model, env) for env in envs)

    assert last_excess(6) < 1.0
    assert last_excess(1000) > 10.0


def test_a_restart_goes_on_with_the_finer_table(tmp_path, monkeypatch):
    from test_train_loop import stopping_after

    monkeypatch.setattr(trainer, "CHECK_STEPS", 3)
    monkeypatch.setattr(resolution, "ENERGY_TOLERANCE", 1e-9)
    write(tmp_path / "train.extxyz", copper(4, 1))
    write(tmp_path / "validation.extxyz", copper(2, 2))
    config = settings(tmp_path, numb_steps=12)
    train(config, output=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stopping_after(patch, 7)
        train(config, output=tmp_path / "parts", quiet=True)
    train(config, output=tmp_path / "parts", restart=True, quiet=True)
    whole, parts = (
        Checkpoint.read(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts")
    )
    assert whole.grid == parts.grid
    assert all(torch.equal(x, parts.arrays[name]) for name, x in whole.arrays.items())
