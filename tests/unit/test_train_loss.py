"""The loss against numpy, its gradient against finite differences, and missing labels."""

import math

import numpy as np
import pytest
import torch
from models import random_atoms, random_potential

from deepmd_lite.data import Frame, collate, prepare
from deepmd_lite.training.loss import Errors, Prediction, loss_of, predict
from deepmd_lite.training.loss_config import LossConfig
from deepmd_lite.training.penalties import Penalties

PREFACTORS = (0.7, 3.0, 0.4)


def frame(symbols, seed, **labels):
    """A random structure with random labels; those given replace them."""
    atoms = random_atoms(symbols, 6.0, seed, skew=0.1)
    rng = np.random.default_rng(seed)
    values = {
        "energy": float(rng.normal()),
        "forces": rng.normal(size=(len(atoms), 3)),
        "virial": rng.normal(size=(3, 3)),
        **labels,
    }
    symbols = tuple(atoms.get_chemical_symbols())
    return Frame(symbols, atoms.positions, atoms.cell.array, atoms.pbc, **values)


def batch_of(frames, model):
    return collate(prepare(frames, model.type_map, model.rcut))


@pytest.fixture
def model():
    """A trainable model of two elements with random weights."""
    frozen = random_potential(("Si", "C"))
    frozen.descriptor._frozen = None
    return frozen.requires_grad_(True)


def loss_on(model, frames, prefactors=PREFACTORS, training=True):
    batch = batch_of(frames, model)
    found = predict(model, batch, forces=True, virials=True, training=training)
    return loss_of(found, batch, prefactors)


def test_the_loss_is_the_documented_sum_over_frames_of_any_size(model):
    frames = [frame("Si2C2", 1), frame("Si5C3", 2, weight=0.5)]
    loss, errors = loss_on(model, frames)
    e, f, v = [], [], []
    for one in frames:
        found = model.evaluate(batch_of([one], model).env)
        periodic = prepare([one], model.type_map, model.rcut)[0].periodic
        e.append(float(found.energies.sum()) - one.energy)
        f.append(periodic.fold(found.forces).numpy() - one.forces)
        v.append(found.virial.numpy() - one.virial)
    n, w = np.array([4, 8]), np.array([1.0, 0.5])
    energy_term = np.mean(w * np.square(e) / n)
    force_term = np.mean(np.concatenate([w_f * d**2 for w_f, d in zip(w, f, strict=True)]))
    virial_term = np.mean((w / n)[:, None, None] * np.square(v))
    expected = 0.7 * energy_term + 3.0 * force_term + 0.4 * virial_term
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert errors.as_dict()["rmse"] == pytest.approx(math.sqrt(expected), rel=1e-10)
    assert errors.energy == pytest.approx(np.sqrt(np.mean(np.square(e / n))), rel=1e-10)
    assert errors.force == pytest.approx(np.sqrt(np.mean(np.concatenate(f) ** 2)), rel=1e-10)
    squares = np.square(v) / n[:, None, None] ** 2
    assert errors.virial == pytest.approx(np.sqrt(squares.mean()), rel=1e-10)


def test_frames_of_one_size_have_deepmd_kits_loss(model):
    frames = [frame("Si2C2", 1), frame("Si2C2", 5)]
    loss, errors = loss_on(model, frames)
    batch = batch_of(frames, model)
    found = predict(model, batch, forces=True, virials=True, training=False)
    mse_e = torch.mean((found.energies - batch.energy) ** 2)
    mse_f = torch.mean((found.forces - batch.forces) ** 2)
    mse_v = torch.mean((found.virials - batch.virial) ** 2)
    expected = 0.7 * mse_e / 4 + 3.0 * mse_f + 0.4 * mse_v / 4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert errors.energy == pytest.approx(mse_e.sqrt().item() / 4, rel=1e-12)


@pytest.mark.parametrize("prefactors", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_the_gradient_of_each_term_against_finite_differences(model, prefactors):
    frames = [frame("Si2C2", 1), frame("Si3C", 2)]
    loss, _ = loss_on(model, frames, prefactors)
    loss.backward()
    rng = np.random.default_rng(0)
    step = 1e-5
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        direction = torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            values.append(loss_on(model, frames, prefactors, training=False)[0].item())
            with torch.no_grad():
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(
            slope, rel=2e-6, abs=2e-8 * max(1.0, loss.item())
        ), name


def test_a_missing_label_is_as_if_its_term_had_never_been(model):
    whole = [frame("Si2C2", 1), frame("Si3C", 2)]
    bare = [whole[0], frame("Si3C", 2, energy=None, forces=None, virial=None)]
    loss_alone, alone = loss_on(model, whole[:1])
    loss_bare, errors = loss_on(model, bare)
    assert loss_bare.item() == pytest.approx(loss_alone.item(), rel=1e-12)
    assert errors.force == pytest.approx(alone.force, rel=1e-12)
    assert errors.counts == (1, 4, 1)


def test_forces_that_are_no_numbers_are_no_missing_label():
    nan = math.nan
    errors = Errors((0.5, nan, nan), (0.5, nan, nan), (4, 96, 0), PREFACTORS)
    assert math.isnan(Errors.merged([errors]).loss())
    assert errors.loss((2.0, 0.0, 1.0)) == 1.0  # and virials, of which there are none, are


def test_each_label_is_masked_by_itself(model):
    for missing in ("energy", "forces", "virial"):
        mixed = [frame("Si2C2", 1), frame("Si3C", 2, **{missing: None})]
        _, errors = loss_on(model, mixed)
        k = ("energy", "forces", "virial").index(missing)
        expected = [2, 8, 2]
        expected[k] //= 2
        assert errors.counts == tuple(expected)


def test_a_batch_without_any_label_gives_no_gradient_and_nan(model):
    loss, errors = loss_on(model, [frame("Si2C2", 1, energy=None, forces=None, virial=None)])
    loss.backward()
    assert loss.item() == 0.0
    assert not any(p.grad.any() for p in model.parameters())
    assert all(math.isnan(v) for v in errors.as_dict().values())


def test_merged_errors_are_those_of_one_batch(model):
    frames = [frame("Si2C2", 1), frame("Si5C3", 2), frame("SiC", 3, forces=None)]
    _, together = loss_on(model, frames, training=False)
    parts = [loss_on(model, frames[:1], training=False)[1]]
    parts.append(loss_on(model, frames[1:], training=False)[1])
    merged = Errors.merged(parts)
    assert merged.counts == together.counts
    for name, value in together.as_dict().items():
        assert merged.as_dict()[name] == pytest.approx(value, rel=1e-12), name


def test_energies_alone_need_no_forces(model):
    batch = batch_of([frame("Si2C2", 1)], model)
    found = predict(model, batch, forces=False, virials=False, training=True)
    assert found.forces is None
    assert found.energies.requires_grad
    with_forces = predict(model, batch, forces=True, virials=False, training=False)
    assert not with_forces.energies.requires_grad
    torch.testing.assert_close(found.energies.detach(), with_forces.energies, rtol=0, atol=0)


# --- what is made of an error ---------------------------------------------------------------


def errors_in_numbers(n=4):
    """Two frames of `n` atoms: energies, forces and virials predicted, and their labels."""
    i, j = np.arange(2 * n * 3.0).reshape(2 * n, 3), np.arange(18.0).reshape(2, 3, 3)
    energies, forces, virials = 0.15 * np.cos(np.arange(2.0)), np.sin(i), np.cos(j)
    labels = np.zeros(2), forces + 0.03 * np.cos(2 * i), virials + 0.1 * np.sin(3 * j)
    found = Prediction(*(torch.from_numpy(x) for x in (energies, forces, virials)))
    return found, labels


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 0.00449564991276),
        ({"intensive_ener_virial": True}, 0.00215181690816),
        ({"use_huber": True}, 0.000657550468261),
        ({"use_huber": True, "huber_delta": [0.03, 0.02, 0.005]}, 0.000978879337198),
        ({"use_huber": True, "huber_delta": 0.02, "f_use_norm": True}, 0.00195536676089),
        ({"loss_func": "mae"}, 0.0852537937352),
        ({"loss_func": "mae", "f_use_norm": True}, 0.138210129302),
        ({"relative_f": 0.5}, 0.00359423025312),
        ({"loss_func": "mae", "relative_f": 0.5}, 0.0611825590394),
    ],
)
def test_penalties_are_those_of_deepmd_kit(model, keys, expected):
    """Numbers that its `EnergyStdLoss` (3.2, PyTorch) gives."""
    found, (energies, forces, virials) = errors_in_numbers()
    frames = [
        frame("Si2C2", k, energy=energies[k], forces=forces[4 * k : 4 * k + 4], virial=virials[k])
        for k in range(2)
    ]
    penalties = Penalties.from_config(LossConfig(**keys))
    loss, errors = loss_of(found, batch_of(frames, model), PREFACTORS, penalties=penalties)
    assert loss.item() == pytest.approx(expected, rel=1e-11)
    assert errors.loss() == pytest.approx(expected, rel=1e-11)
    squares = loss_of(found, batch_of(frames, model), PREFACTORS)[1].squares
    assert errors.squares == squares  # what is displayed does not depend on it


def test_squares_go_on_as_straight_lines(model):
    """Up to their size as squares, to the bit; beyond with the slope that they have there."""
    found, (energies, forces, virials) = errors_in_numbers()
    frames = [
        frame("Si2C2", k, energy=energies[k], forces=forces[4 * k : 4 * k + 4], virial=virials[k])
        for k in range(2)
    ]
    batch = batch_of(frames, model)
    squares, _ = loss_of(found, batch, PREFACTORS)
    wide = Penalties.from_config(LossConfig(linear_beyond=(1.0, 1.0, 1.0)))
    assert loss_of(found, batch, PREFACTORS, penalties=wide)[0].item() == pytest.approx(
        squares.item(), rel=1e-14
    )
    error = torch.tensor([0.0, 0.1, -0.3, 0.5, -40.0], dtype=torch.float64, requires_grad=True)
    n_atoms = torch.full((5,), 8.0, dtype=torch.float64)
    narrow = Penalties(linear_beyond=(0.05, 0.3, 0.1))
    of_forces = narrow.of_forces(error[:, None], torch.zeros(5, 3))[:, 0]
    expected = [0.0, 0.01, 0.09, 2 * 0.3 * 0.5 - 0.09, 2 * 0.3 * 40 - 0.09]
    np.testing.assert_allclose(of_forces.tolist(), expected, rtol=1e-14)
    (slope,) = torch.autograd.grad(of_forces.sum(), error)
    np.testing.assert_allclose(slope.tolist(), [0.0, 0.2, -0.6, 0.6, -0.6], rtol=1e-14)
    of_energies = narrow.of_frames(error, n_atoms, 0)
    far = 8 * (2 * 0.05 * 5.0 - 0.05**2)
    near = [0.0, 0.01 / 8, 0.09 / 8]
    np.testing.assert_allclose(of_energies[[0, 1, 2, 4]].tolist(), [*near, far], rtol=1e-14)
    alike = Penalties(linear_beyond=(0.05, 0.3, 0.1), intensive=True).of_frames(error, n_atoms, 0)
    np.testing.assert_allclose(alike.tolist(), (of_energies / 8).tolist(), rtol=1e-14)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"linear_beyond": (1, 1, 1), "use_huber": True}, "only with squared errors"),
        ({"linear_beyond": (1, 1, 1), "relative_f": 1.0}, "without relative_f"),
        ({"linear_beyond": (1, 1)}, "linear_beyond"),
        ({"use_huber": True, "relative_f": 1.0}, "use_huber and relative_f exclude"),
        ({"use_huber": True, "loss_func": "mae"}, "use_huber and loss_func mae exclude"),
        ({"f_use_norm": True}, "f_use_norm: only with"),
        ({"intensive_ener_virial": True, "loss_func": "mae"}, "only with squared errors"),
        ({"huber_delta": [0.1, 0.2]}, "huber_delta"),
    ],
)
def test_penalties_that_exclude_one_another(keys, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**keys)
