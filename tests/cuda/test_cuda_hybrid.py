"""Models of several descriptors on a device against the processor: evaluation and training."""

from __future__ import annotations

import copy
import itertools
from functools import cache

import pytest
import torch
from emulation import shuffle
from models import BETWEEN, FAR, NEAR, QUADRUPOLES, environment_of, hybrid_potential, random_atoms
from test_cuda_potential import PRECISIONS, assert_same, both
from test_cuda_training import assert_same as assert_same_gradients
from test_cuda_training import gradients

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda import potential as cuda_potential
from deepmd_lite.system import InputError, LocalEnv

ORDERS = [*itertools.permutations((NEAR, FAR)), (BETWEEN, FAR, NEAR), (NEAR, NEAR), (FAR,)]
ORDERS.append((QUADRUPOLES, NEAR))
PARTS = pytest.mark.parametrize(
    "parts", ORDERS, ids=lambda parts: "-".join(str(p["rcut"]) for p in parts)
)


@cache
def made_structure():
    atoms = random_atoms("H8O10", 8.0, seed=5, skew=0.1)
    return environment_of(atoms, ["H", "O"], 5.5 + 0.7).env


def structure():
    """Two elements, a skin around the list of the largest cutoff, periodic images as ghosts."""
    return copy.deepcopy(made_structure())


def assert_evaluates(device, potential, env):
    single = potential.precision == "float32"
    expected, found = both(device, potential.freeze(), env)
    bias = potential.energy_bias[env.types[: env.n_local].long()]
    assert_same(found, expected, bias, 2e-5 if single else 1e-10)


@PRECISIONS
@PARTS
def test_energies_forces_and_virial(device, precision, parts):
    assert_evaluates(device, hybrid_potential(parts, precision), structure())


@pytest.mark.parametrize("width", [58, 116], ids=["added once", "added twice"])
def test_a_first_layer_that_adds_its_input(device, width):
    """Of 12 · 4 numbers of one part and 10 of the other."""
    assert_evaluates(device, hybrid_potential((NEAR, FAR), neuron=[width, 24]), structure())


@PRECISIONS
@PARTS
def test_a_loss_gives_every_parameter_its_gradient(device, precision, parts):
    potential, env = hybrid_potential(parts, precision), structure()
    expected = gradients(potential, env)
    assert len(expected) > 12 + 4 * len(parts)
    found = gradients(potential.to_device("cuda"), env)
    assert found.keys() == expected.keys()
    assert_same_gradients(found, expected, {"float64": 1e-9, "float32": 2e-3}[precision])


@PRECISIONS
def test_the_same_bits_each_time_and_no_net_force(device, precision):
    env = structure()
    potential = hybrid_potential((BETWEEN, FAR, NEAR), precision).to_device("cuda")
    results = []
    for seed in (0, 1, 2):
        shuffle(device, seed)
        results.append(
            [*vars(potential.evaluate(env)).values(), *gradients(potential, env).values()]
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    assert not results[0][1].sum(dim=0).any()


def test_chunks_of_atoms(device, monkeypatch):
    env = structure()
    potential = hybrid_potential((NEAR, FAR)).freeze()
    whole = copy.deepcopy(potential).to_device("cuda").evaluate(env)
    monkeypatch.setattr(cuda_potential, "CHUNK", 7)
    parts = copy.deepcopy(potential).to_device("cuda").evaluate(env)
    assert_same(parts, whole, 0.0, 1e-12)


def test_pairs_closer_than_the_tables_are_counted_once(device):
    potential = hybrid_potential((NEAR, FAR, BETWEEN)).freeze().to_device("cuda")
    d = 0.9 * potential.table_min_distance()
    positions = torch.tensor([[0, 0, 0], [d, 0, 0], [0, 0, 3.0]], dtype=torch.float64)
    types = torch.ones(3, dtype=torch.int32)
    listed = potential.neighbor_list(positions, types, 3, potential.rcut)
    assert potential.evaluate(LocalEnv(positions, types, 3, *listed)).beyond_table == 2


def test_a_fault_of_any_part_is_named(device):
    env = structure()
    env.positions[3, 0] = torch.nan
    with pytest.raises(InputError, match="position of row 3 is not finite"):
        hybrid_potential((NEAR, FAR)).to_device("cuda").evaluate(env)


def test_parts_that_do_not_fit_are_refused(device):
    potential, env = hybrid_potential(), structure()
    parts = [
        kernels.Descriptor(d.coefficients(), d.environment(), d.sel) for d in potential.descriptors
    ]
    fitting, make = potential._fitting(), kernels.cuda.CudaPotential
    with pytest.raises(InputError, match="expected shapes of 1 descriptors, found 2"):
        make(device, parts[:1], fitting)
    single = kernels.Descriptor(parts[1].coefficients.float(), parts[1].environment, parts[1].sel)
    with pytest.raises(InputError, match="expected tables of one precision"):
        make(device, [parts[0], single], fitting)
    on = kernels.cuda.Operations(device)
    moments = [d.moments(env, env.positions, d.coefficients(), on) for d in potential.descriptors]
    with pytest.raises(InputError, match="moments: expected those of 2 descriptors, found 1"):
        on.energies_and_gradients(moments[:1], env.types[: env.n_local], fitting)


def test_numbers_that_do_not_fit_are_refused(device):
    """By the kernels, before a launch."""
    potential = hybrid_potential((NEAR, FAR)).to_device("cuda")._compile()
    for first, width in ((11, 58), (-1, 58), (0, 47)):
        shape = potential._descriptors[0]._shape
        shape.first, shape.width = first, width
        message = f"48 numbers from place {first} on do not fit into {width}"
        with pytest.raises(InputError, match=message):
            potential.evaluate(structure())
