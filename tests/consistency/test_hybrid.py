"""Several descriptors in one pass, against torch, for every instruction set."""

from __future__ import annotations

import itertools

import pytest
import torch
from models import (
    BETWEEN,
    FAR,
    NEAR,
    environment_of,
    hybrid_config,
    hybrid_potential,
    random_atoms,
    write_pair_table,
)
from test_compiled_potential import assert_evaluates, instruction_set  # noqa: F401
from test_training_pass import assert_trains, loss_of

from deepmd_lite import kernels
from deepmd_lite.model import ModelConfig, Potential, statistics_from
from deepmd_lite.system import InputError, LocalEnv

PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])
ORDERS = [*itertools.permutations((NEAR, FAR)), (BETWEEN, FAR, NEAR), (NEAR, NEAR), (FAR,)]
PARTS = pytest.mark.parametrize(
    "parts", ORDERS, ids=lambda parts: "-".join(str(p["rcut"]) for p in parts)
)


def structure(repeat=1):
    """Two elements, a skin around the list, periodic images as ghosts."""
    atoms = random_atoms("H8O16", 8.0, seed=5, skew=0.1).repeat(repeat)
    return environment_of(atoms, ["H", "O"], 5.5 + 0.7).env


@PRECISIONS
@PARTS
def test_energies_forces_and_virial(precision, parts):
    assert_evaluates(hybrid_potential(parts, precision), structure(), precision)


@PRECISIONS
@PARTS
def test_derivatives_of_a_loss(precision, parts):
    assert_trains(hybrid_potential(parts, precision), structure(), precision)


@pytest.mark.parametrize("width", [58, 116], ids=["added once", "added twice"])
def test_a_first_layer_that_adds_its_input(width):
    """Of 12 · 4 numbers of one part and 10 of the other, packed differently."""
    potential = hybrid_potential((NEAR, FAR), neuron=[width, 24])
    assert sum(d.width for d in potential.config.descriptors) == 58
    assert_evaluates(potential, structure(), "float64")
    assert_trains(potential, structure(), "float64")


def test_a_part_that_no_network_looks_at_changes_nothing():
    potential = hybrid_potential((NEAR, FAR))
    config = ModelConfig(
        type_map=potential.type_map,
        repulsion="zbl",
        descriptor=potential.config.descriptors[0].model_dump(),
        fitting_net=potential.config.fitting_net.model_dump(),
    )
    env = structure()
    alone = Potential(config, statistics_from([(env, -1.0)], config))
    weights = potential.state_dict()
    first = "descriptors.0."
    own = {k.removeprefix(first): x for k, x in weights.items() if k.startswith(first)}
    own |= {k: x for k, x in weights.items() if not k.startswith("descriptors.")}
    for a in range(2):
        own[f"fitting.{a}.weight_0"] = weights[f"fitting.{a}.weight_0"][:, :48].clone()
        weights[f"fitting.{a}.weight_0"][:, 48:] = 0.0
    alone.load_state_dict(own)
    alone.descriptor.sel = potential.descriptors[0].sel
    alone.descriptor.grid = potential.descriptors[0].grid
    assert float(alone.evaluate(env).forces.abs().max()) > 1
    for name in ("energies", "forces", "virial"):
        found, expected = (getattr(p.evaluate(env), name) for p in (potential, alone))
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@PRECISIONS
def test_the_same_bits_for_any_number_of_threads(precision):
    env = structure(repeat=(2, 2, 3))
    potential = hybrid_potential((BETWEEN, FAR, NEAR), precision)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            evaluation = potential.evaluate(env)
            potential.zero_grad()
            loss_of(*potential.energies_and_forces(env)).backward()
            gradients = [p.grad for p in potential.fitting.parameters()]
            results.append([evaluation.energies, evaluation.forces, evaluation.virial, *gradients])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_neighbours_in_any_order_and_more_than_once():
    """Edges of a part of shorter reach are found again among those of the widest."""
    env = structure()
    generator = torch.Generator().manual_seed(0)
    row = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff()).repeat(3)
    shuffled = torch.randperm(len(row), generator=generator)
    order = shuffled[row[shuffled].argsort(stable=True)]
    indices = env.indices.repeat(3)[order]
    many = LocalEnv(env.positions, env.types, env.n_local, env.offsets * 3, indices)
    assert_evaluates(hybrid_potential((NEAR, FAR, BETWEEN)), many, "float64")


def test_pairs_closer_than_the_tables_are_counted_once():
    potential = hybrid_potential((NEAR, FAR, BETWEEN)).freeze()
    d = 0.9 * potential.table_min_distance()
    positions = torch.tensor([[0, 0, 0], [d, 0, 0], [0, 0, 3.0]], dtype=torch.float64)
    types = torch.ones(3, dtype=torch.int32)
    offsets, indices = potential.neighbor_list(positions, types, 3, potential.rcut)
    assert potential.evaluate(LocalEnv(positions, types, 3, offsets, indices)).beyond_table == 2


def test_beside_a_table_of_close_pairs(tmp_path):
    """Atoms between the table's radii count the networks of all parts by their weight."""
    write_pair_table(tmp_path / "pairs.txt", 2)
    keys = {"use_srtab": str(tmp_path / "pairs.txt"), "sw_rmin": 0.9, "sw_rmax": 1.7}
    section = hybrid_config((NEAR, FAR, BETWEEN)).model_dump() | {"repulsion": None, **keys}
    config = ModelConfig(**{**section, "smin_alpha": 0.15})
    atoms = random_atoms("H10O8", 6.0, 5, skew=0.1)
    atoms.rattle(0.45, seed=2)
    env = environment_of(atoms, config.type_map, 5.5 + 0.4).env
    potential = Potential(config, statistics_from([(env, -1.0)], config))
    weights = potential.short_range.weights(env)
    assert ((weights > 0) & (weights < 1)).sum() > 5
    positions = env.positions.clone().requires_grad_()
    energies = potential.energies(env, positions)
    (gradient,) = torch.autograd.grad(energies.sum(), positions)
    scale = float(gradient.abs().max())
    found = potential.evaluate(env)
    trained = potential.energies_and_forces(env)
    for forces in (found.forces, trained[1].detach()):
        torch.testing.assert_close(forces, -gradient, rtol=0, atol=1e-11 * scale)
    for values in (found.energies, trained[0].detach()):
        torch.testing.assert_close(values, energies.detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        found.virial, env.positions.T @ found.forces, rtol=1e-11, atol=1e-11 * scale
    )


def test_parts_that_do_not_fit_are_refused():
    potential, env = hybrid_potential(), structure()
    parts = [
        kernels.Descriptor(d.coefficients(), d.environment(), d.sel) for d in potential.descriptors
    ]
    fitting = potential._fitting()
    with pytest.raises(InputError, match="expected shapes of 1 descriptors, found 2"):
        kernels.CompiledPotential(parts[:1], fitting)
    with pytest.raises(InputError, match="precision, types, features or columns of table and"):
        kernels.CompiledPotential(
            [parts[0], kernels.Descriptor(parts[1].coefficients.float(), *_rest(parts[1]))], fitting
        )
    types = env.types[: env.n_local]
    moments = [d.moments(env, env.positions, d.coefficients()) for d in potential.descriptors]
    with pytest.raises(InputError, match="moments: expected those of 2 descriptors, found 1"):
        kernels.energies_and_gradients(moments[:1], types, fitting)


def _rest(part):
    return part.environment, part.sel
