"""The compiled short-range table against its plain-torch reference, and what it refuses."""

import dataclasses

import pytest
import torch
from models import (
    FAR,
    NEAR,
    environment_of,
    hybrid_potential,
    random_atoms,
    short_range_potential,
    with_short_range,
)
from short_range_table import CUBICS, RCUT, TABLE, environment, networks

from deepmd_lite import kernels
from deepmd_lite.kernels import short_range as reference
from deepmd_lite.system import Evaluation, InputError, LocalEnv


def added(env: LocalEnv, table=TABLE, to: Evaluation | None = None) -> Evaluation:
    evaluation = networks(env) if to is None else to
    kernels.add_short_range(evaluation, env, table)
    return evaluation


@pytest.mark.parametrize("change", [{}, {"start": 0.0}, {"smin_alpha": 0.35}, {"rcut": 2.2}])
def test_compiled_is_the_reference(change):
    env, table = environment(), dataclasses.replace(TABLE, **change)
    found = added(env, table)
    positions = env.positions.clone().requires_grad_()
    value, pairs = reference.switched(env, positions, table)
    before = networks(env).energies
    energies = before + value * (pairs - before)
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    between = (value > 0) & (value < 1)
    assert (value == 1).sum() > 5
    assert (value == 0).sum() > 5
    assert between.sum() > 100
    weights = kernels.short_range_weights(env, table)
    torch.testing.assert_close(weights, 1 - value.detach(), rtol=0, atol=1e-13)
    assert torch.equal(weights == 1, value == 0)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(found.energies, energies.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.forces, -gradient, rtol=1e-10, atol=1e-12 * scale)
    virial = -env.positions.T @ gradient
    torch.testing.assert_close(found.virial, virial, rtol=1e-10, atol=1e-10 * scale)
    assert found.forces[env.n_local :].any()  # ghosts have forces too


def test_far_neighbours_cannot_underflow():
    """DeePMD-kit's own sums do: exp(−4/0.005) is 0."""
    positions = torch.tensor([[0.0, 0, 0], [3.7, 0, 0]], dtype=torch.float64)
    types = torch.zeros(2, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, 2, RCUT)
    env = LocalEnv(positions, types, 2, offsets, indices)
    far = dataclasses.replace(TABLE, smin_alpha=0.005, sw_rmin=3.0, sw_rmax=3.9)
    weights = kernels.short_range_weights(env, far)
    value, _ = reference.switched(env, positions, far)
    assert 0.5 < float(weights[0]) < 1
    torch.testing.assert_close(weights, 1 - value)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_whole_potential_in_every_way_to_compute_it(precision, hybrid):
    model = short_range_potential(("H", "O"), precision)
    if hybrid:
        model = with_short_range(hybrid_potential((NEAR, FAR), precision))
        assert model.short_range.rcut == FAR["rcut"]
    atoms = random_atoms("H10O8", 6.0, 5, skew=0.1)
    atoms.rattle(0.45, seed=2)
    env = environment_of(atoms, model.type_map, model.rcut + 0.4).env
    value = 1 - model.short_range.weights(env)
    assert ((value > 0) & (value < 1)).sum() > 5
    assert (value == 1).any()
    positions = env.positions.clone().requires_grad_()
    energies = model.energies(env, positions)
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    found = model.evaluate(env)
    scale = float(gradient.abs().max())
    rtol = 1e-11 if precision == "float64" else 2e-5
    torch.testing.assert_close(found.energies, energies.detach(), rtol=rtol, atol=rtol)
    torch.testing.assert_close(found.forces, -gradient, rtol=0, atol=rtol * scale)
    torch.testing.assert_close(
        found.virial, env.positions.T @ found.forces, rtol=1e-11, atol=1e-11 * scale
    )
    trained_energies, trained_forces = model.energies_and_forces(env)
    torch.testing.assert_close(trained_energies, energies, rtol=rtol, atol=rtol)
    torch.testing.assert_close(trained_forces, -gradient, rtol=0, atol=rtol * scale)


def test_gradients_of_the_training_are_those_of_autograd():
    model = short_range_potential()
    model.requires_grad_(True)
    model.descriptor._frozen = None
    atoms = random_atoms("H10O8", 6.0, 5)
    atoms.rattle(0.45, seed=2)
    env = environment_of(atoms, model.type_map, model.rcut).env
    parameters = list(model.parameters())
    energies, forces = model.energies_and_forces(env)
    loss = (energies**2).sum() + (forces * forces.detach().cos()).sum()
    found = torch.autograd.grad(loss, parameters)
    positions = env.positions.clone().requires_grad_()
    energies = model.energies(env, positions)
    (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
    loss = (energies**2).sum() - (gradient * gradient.detach().cos()).sum()
    expected = torch.autograd.grad(loss, parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * float(b.abs().max()))


def test_same_bits_for_any_number_of_threads():
    env = environment(9000, 8000)  # more than one round of chunks
    model = short_range_potential(("H", "O", "N"))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            small = environment(700, 500)
            results.append((added(env), model.evaluate(small)))
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert torch.equal(one.energies, other.energies)
            assert torch.equal(one.forces, other.forces)
            assert torch.equal(one.virial, other.virial)


def test_weights_scale_forces_and_leave_energies():
    model = short_range_potential(("H", "O"))
    env = environment_of(random_atoms("H10O8", 6.0, 5), model.type_map, model.rcut).env
    compiled = model._compile()
    plain = compiled.evaluate(env)
    ones = compiled.evaluate(env, torch.ones(env.n_local, dtype=torch.float64))
    assert torch.equal(plain.forces, ones.forces)
    assert torch.equal(plain.virial, ones.virial)
    parts = torch.zeros_like(plain.forces)
    for i in range(env.n_local):
        weights = torch.zeros(env.n_local, dtype=torch.float64)
        weights[i] = 0.5
        one = compiled.evaluate(env, weights)
        assert torch.equal(one.energies, plain.energies)
        parts += 2 * one.forces
    torch.testing.assert_close(parts, plain.forces, rtol=1e-11, atol=1e-12)
    with pytest.raises(InputError, match=r"weights: expected shape \(18\)"):
        compiled.evaluate(env, torch.ones(3, dtype=torch.float64))


def test_pairs_of_atoms_without_network_are_not_beyond_its_table():
    model = short_range_potential(("H",))
    positions = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0, 4.2, 0]], dtype=torch.float64)
    types = torch.zeros(3, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, 3, model.rcut)
    env = LocalEnv(positions, types, 3, offsets, indices)
    assert model.table_min_distance() > 0.3
    assert model._compile().evaluate(env).beyond_table == 2
    assert model.evaluate(env).beyond_table == 0


def test_what_a_network_says_of_fused_atoms_does_not_matter():
    model = short_range_potential(("H",), "float32")
    model.descriptor._frozen[:, -1] *= 1e30  # where the table of the embedding is continued
    positions = torch.tensor([[0.0, 0, 0], [0.3, 0, 0]], dtype=torch.float64)
    types = torch.zeros(2, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, 2, model.rcut)
    env = LocalEnv(positions, types, 2, offsets, indices)
    assert not model._compile().evaluate(env).forces.isfinite().all()
    found = model.evaluate(env)
    table = model.short_range.table()
    edges = reference.edges_of(env, positions, torch.arange(2), table)
    pair, slope = reference.pair_energies(env, edges, edges.vector.norm(dim=1), table)
    torch.testing.assert_close(found.energies, table.bias + 0.5 * pair)
    torch.testing.assert_close(found.forces[:, 0], torch.tensor([1.0, -1.0]).double() * slope)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("smin_alpha", 0.0, "expected positive smin_alpha"),
        ("smin_alpha", torch.nan, "expected positive smin_alpha"),
        ("spacing", 0.0, "expected positive smin_alpha and spacing"),
        ("start", -0.1, "a start of at least 0"),
        ("sw_rmin", -0.1, "0 <= sw_rmin < sw_rmax <= rcut"),
        ("sw_rmin", 1.8, "0 <= sw_rmin < sw_rmax <= rcut"),
        ("sw_rmax", 4.1, "0 <= sw_rmin < sw_rmax <= rcut"),
        ("sw_rmax", torch.nan, "0 <= sw_rmin < sw_rmax <= rcut"),
        ("rcut", torch.inf, "0 <= sw_rmin < sw_rmax <= rcut"),
        ("bias", torch.full((3,), torch.nan).double(), "bias of type 0 is not finite"),
        ("bias", torch.zeros(2).double(), r"coefficients: expected shape \(2, 2, any, 4\)"),
        ("coefficients", CUBICS * torch.inf, "coefficient of the table of pairs is not finite"),
        ("coefficients", CUBICS[:, :, :0], "at least 1 type and interval"),
        ("coefficients", CUBICS.float(), "coefficients: expected torch.float64"),
    ],
)
def test_bad_tables(field, value, message):
    table = dataclasses.replace(TABLE, **{field: value})
    for operation in (added, kernels.short_range_weights):
        with pytest.raises(InputError, match=message):
            operation(environment(20, 20), table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda env: env.positions.__setitem__((3, 1), torch.nan), "position of row 3 is not fin"),
        (lambda env: env.types.__setitem__(2, 3), "type of row 2 is 3; .* 3 types"),
        (lambda env: env.indices.__setitem__(0, 20), "row 0 lists neighbour 20"),
        (lambda env: env.indices.__setitem__(0, 0), "rows 0 and 0 coincide"),
    ],
)
def test_bad_atoms(change, message):
    env = environment(20, 20)
    assert env.offsets[1] > 0
    change(env)
    for operation in (added, lambda env: kernels.short_range_weights(env, TABLE)):
        with pytest.raises(InputError, match=message):
            operation(env)


def test_pairs_nearer_than_the_table_begins():
    env = environment(20, 20)
    env.positions[5] = env.positions[3] + torch.tensor([0.0, 0.3, 0.0])
    offsets, indices = kernels.neighbor_list(env.positions, env.types, 20, RCUT)
    env = LocalEnv(env.positions, env.types, 20, offsets, indices)
    begun = dataclasses.replace(TABLE, start=0.32)
    message = r"rows 3 and 5 are 0\.3 Å apart; the short-range table begins at 0\.32 Å"
    with pytest.raises(InputError, match=message):
        added(env, begun)
    weights = kernels.short_range_weights(env, begun)  # λ is known all the same
    message = r"two atoms are 0\.3 Å apart; the short-range table begins at 0\.32 Å"
    energies, forces = networks(env).energies, networks(env).forces
    with pytest.raises(InputError, match=message):
        reference.switched(env, env.positions, begun)
    with pytest.raises(InputError, match=message):
        reference.blended(energies, forces, env, begun, weights)


def test_nobody_and_atoms_alone():
    positions = torch.tensor([[0.0, 0, 0], [0, 1e6, 0]], dtype=torch.float64)
    types = torch.full((2,), 2, dtype=torch.int32)
    offsets = torch.zeros(3, dtype=torch.int64)
    alone = LocalEnv(positions, types, 2, offsets, torch.zeros(0, dtype=torch.int32))
    assert torch.equal(added(alone).energies, networks(alone).energies)
    assert not added(alone).forces.any()
    value, _ = reference.switched(alone, positions, TABLE)
    assert not value.any()
    nobody = LocalEnv(positions[:0], types[:0], 0, offsets[:1], alone.indices)
    assert added(nobody).energies.shape == (0,)
