"""The compiled repulsion against its plain-torch reference, and what it refuses."""

import dataclasses

import pytest
import torch

from deepmd_lite import kernels
from deepmd_lite.kernels import reference
from deepmd_lite.system import Evaluation, InputError, LocalEnv

RCUT = 4.0
REPULSION = kernels.Repulsion(
    torch.tensor([1.0, 8.0, 47.0]).double(),
    torch.tensor([[0.3, 0.6, 0.9], [0.6, 0.5, 1.0], [0.9, 1.0, 0.0]]).double(),
    torch.tensor([[0.7, 1.1, 1.6], [1.1, 1.3, 2.0], [1.6, 2.0, 2.6]]).double(),
)


def environment(n_all=900, n_local=600, seed=4) -> LocalEnv:
    """A gas so dense that many pairs are close; the last rows are ghosts, lists have a skin."""
    generator = torch.Generator().manual_seed(seed)
    edge = (n_all * 4.0) ** (1 / 3)
    positions = edge * torch.rand(n_all, 3, generator=generator, dtype=torch.float64)
    types = torch.randint(3, (n_all,), generator=generator, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, n_local, RCUT)
    return LocalEnv(positions, types, n_local, offsets, indices)


def nothing(env: LocalEnv) -> Evaluation:
    return Evaluation(
        torch.zeros(env.n_local, dtype=torch.float64),
        torch.zeros(len(env.positions), 3, dtype=torch.float64),
        torch.zeros(3, 3, dtype=torch.float64),
    )


def added(env: LocalEnv, repulsion=REPULSION, to: Evaluation | None = None) -> Evaluation:
    evaluation = nothing(env) if to is None else to
    kernels.add_repulsion(evaluation, env, repulsion)
    return evaluation


def test_compiled_is_the_reference():
    env = environment()
    found = added(env)
    positions = env.positions.clone().requires_grad_()
    energies = reference.repulsion_energies(
        positions, env.types, env.offsets, env.indices, REPULSION
    )
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    assert (energies.detach() > 0).sum() > 300
    scale = float(gradient.abs().max())
    torch.testing.assert_close(found.energies, energies.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.forces, -gradient, rtol=1e-11, atol=1e-13 * scale)
    virial = -env.positions.T @ gradient
    torch.testing.assert_close(found.virial, virial, rtol=1e-10, atol=1e-10 * scale)
    assert found.forces[env.n_local :].any()  # ghosts have forces too


def test_it_adds_to_what_is_there():
    env = environment(60, 40)
    alone, begun = added(env), nothing(env)
    begun.energies += 2.0
    begun.forces -= 3.0
    begun.virial += 5.0
    both = added(env, to=begun)
    torch.testing.assert_close(both.energies, alone.energies + 2.0)
    torch.testing.assert_close(both.forces, alone.forces - 3.0)
    torch.testing.assert_close(both.virial, alone.virial + 5.0)


def test_same_bits_for_any_number_of_threads():
    env = environment(3000, 2500)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(added(env))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0].energies, other.energies)
        assert torch.equal(results[0].forces, other.forces)
        assert torch.equal(results[0].virial, other.virial)


def test_pairs_out_of_reach_and_atoms_alone_stay_as_they_are():
    positions = torch.tensor([[0.0, 0, 0], [2.7, 0, 0], [0, 1e6, 0]], dtype=torch.float64)
    types = torch.full((3,), 2, dtype=torch.int32)
    offsets, indices = kernels.neighbor_list(positions, types, 3, RCUT)
    env = LocalEnv(positions, types, 3, offsets, indices)
    assert env.n_edges == 2
    result = added(env)
    assert not result.energies.any()
    assert not result.forces.any()
    assert not result.virial.any()
    nobody = LocalEnv(positions[:0], types[:0], 0, torch.zeros(1, dtype=torch.int64), indices[:0])
    assert added(nobody).energies.shape == (0,)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("atomic_numbers", torch.zeros(3).double(), "atomic number of type 0 must be positive"),
        ("atomic_numbers", torch.ones(3), "atomic_numbers: expected torch.float64"),
        ("atomic_numbers", torch.ones(2).double(), r"r_in: expected shape \(2, 2\)"),
        ("r_in", REPULSION.r_out, "types 0 and 0: expected 0 <= r_in < r_out"),
        ("r_in", -REPULSION.r_in, "expected 0 <= r_in < r_out"),
        ("r_out", torch.full((3, 3), torch.nan).double(), "expected 0 <= r_in < r_out"),
        ("r_out", torch.full((3, 3), torch.inf).double(), "expected 0 <= r_in < r_out"),
        ("r_out", torch.ones(3, 2).double(), "r_out: expected shape"),
    ],
)
def test_bad_radii(field, value, message):
    with pytest.raises(InputError, match=message):
        added(environment(20, 20), dataclasses.replace(REPULSION, **{field: value}))


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
    with pytest.raises(InputError, match=message):
        added(env)


def test_results_that_cannot_be_added_to():
    env = environment(20, 20)
    short = dataclasses.replace(nothing(env), energies=torch.zeros(19, dtype=torch.float64))
    with pytest.raises(InputError, match="energies: expected shape"):
        added(env, to=short)
    strided = torch.zeros(3, len(env.positions), dtype=torch.float64).T
    with pytest.raises(InputError, match="forces: expected a contiguous tensor"):
        added(env, to=dataclasses.replace(nothing(env), forces=strided))
