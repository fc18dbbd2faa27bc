"""A whole potential on a device against the one on the processor, and what its memory does."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from emulation import shuffle
from models import environment_of, random_atoms

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda import potential as cuda_potential
from deepmd_lite.kernels.fitting import ACTIVATIONS
from deepmd_lite.model import ModelConfig, Potential, load_model, statistics_from
from deepmd_lite.model.activations import VALUES
from deepmd_lite.system import Evaluation, InputError, LocalEnv

SILICON = Path(__file__).parents[2] / "data" / "silicon" / "silicon.dpl"
RCUT = 4.5
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])


@cache
def made_structure(symbols):
    atoms = random_atoms(symbols, 8.0, seed=5, skew=0.1)
    return environment_of(atoms, ["H", "O"], RCUT + 0.7).env


def structure(symbols="H8O16"):
    """A skin around the list, periodic images as ghosts."""
    return copy.deepcopy(made_structure(symbols))


@cache
def made_potential():
    return new_potential("float64")


def potential_of(precision="float64", *, descriptor=(), fitting=()):
    if (precision, descriptor, fitting) == ("float64", (), ()):
        return copy.deepcopy(made_potential())
    return new_potential(precision, descriptor, fitting)


def new_potential(precision, descriptor=(), fitting=()):
    config = ModelConfig(
        type_map=["H", "O"],
        descriptor={
            **{"rcut": RCUT, "rcut_smth": 1.0, "neuron": [6, 12, 24], "axis_neuron": 4},
            **{"precision": precision, **dict(descriptor)},
        },
        fitting_net={"neuron": [24, 24], "precision": precision, **dict(fitting)},
    )
    statistics = statistics_from([(structure(), -16.0)], config)
    potential = Potential(config, statistics, seed=3)
    with torch.no_grad():  # forces of some eV/Å
        for fitting_net in potential.fitting:
            fitting_net.weight_out *= 30.0
    return potential.freeze()


def both(device, potential, env):
    """What the processor finds in float64, and the device in the potential's precision."""
    reference = copy.deepcopy(potential).to_precision("float64").freeze()
    return reference.evaluate(env), copy.deepcopy(potential).to_device("cuda").evaluate(env)


def assert_same(found: Evaluation, expected: Evaluation, bias, tolerance):
    assert found.beyond_table == expected.beyond_table
    energies = found.energies - bias, expected.energies - bias
    pairs = [energies, (found.forces, expected.forces), (found.virial, expected.virial)]
    for name, (a, b) in zip(("energies", "forces", "virial"), pairs, strict=True):
        assert a.dtype == torch.float64
        assert a.device == b.device
        assert float(b.abs().max()) > 1e-3
        error = float((a - b).abs().max())
        assert error <= tolerance * float(b.abs().max()), f"{name}: {error}"


def assert_evaluates(device, env, precision="float64", **options):
    potential = potential_of(precision, **options)
    expected, found = both(device, potential, env)
    bias = potential.energy_bias[env.types[: env.n_local].long()]
    # a float32 table and network differ from those of float64 by their own rounding
    assert_same(found, expected, bias, TOLERANCE[precision] * (2 if precision == "float32" else 1))


@PRECISIONS
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
@pytest.mark.parametrize("symbols", ["H8O16", "O24"])
def test_kinds_of_embedding(device, precision, one_side, symbols):
    assert_evaluates(device, structure(symbols), precision, descriptor={"type_one_side": one_side})


@pytest.mark.parametrize("activation", sorted(VALUES))
def test_every_activation(device, activation):
    assert_evaluates(device, structure("H2O4"), fitting={"activation_function": activation})


def test_activations_are_those_of_the_processor():
    assert cuda_potential.DeviceFitting.__module__.endswith("cuda.networks")
    assert set(kernels.cuda.networks.VALUE_AND_SLOPE) == set(ACTIVATIONS)


@pytest.mark.parametrize("resnet_dt", [True, False])
@pytest.mark.parametrize("widths", [[1], [24, 24, 24], [17, 34, 5], [96], [192, 384]], ids=str)
def test_every_shape_of_the_network(device, resnet_dt, widths):
    """Residual connections of one and two copies, in the first layer (96 inputs) and later."""
    fitting = {"neuron": widths, "resnet_dt": resnet_dt}
    assert_evaluates(device, structure("H2O4"), fitting=fitting)


@pytest.mark.parametrize(("width", "axis"), [(5, 5), (16, 1), (100, 16)])
def test_every_shape_of_the_descriptor(device, width, axis):
    descriptor = {"neuron": [5, width], "axis_neuron": axis, "sel": [3, 5]}
    assert_evaluates(device, structure("H2O4"), descriptor=descriptor)


@PRECISIONS
@pytest.mark.parametrize("one_side", [True, False], ids=["one-side", "pair-types"])
def test_protected_and_radial_descriptors(device, precision, one_side):
    shared = {"type_one_side": one_side}
    env = structure("H8O16")
    assert_evaluates(device, env, precision, descriptor={**shared, "env_protection": 0.3})
    assert_evaluates(device, env, precision, descriptor={**shared, "type": "se_e2_r"})
    for cubic in (0, 1, 8):
        quadrupoles = {**shared, "type": "se_e2_q", "cubic_neuron": cubic}
        assert_evaluates(device, env, precision, descriptor=quadrupoles)


def silicon(atoms, precision):
    model = load_model(SILICON, precision)
    return model, environment_of(atoms, ["Si"], model.rcut + 0.5).env


@PRECISIONS
def test_the_shipped_model_with_close_pairs(device, precision):
    """Repulsion, and edges in the continuation of the table."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.positions[1] = atoms.positions[0] + [0.6, 0.3, -0.4]
    model, env = silicon(atoms, precision)
    expected, found = both(device, model, env)
    assert expected.beyond_table > 0
    assert float(expected.forces.abs().max()) > 100.0
    bias = model.energy_bias[env.types[: env.n_local].long()]
    assert_same(found, expected, bias, TOLERANCE[precision])


@PRECISIONS
@pytest.mark.gpu
@pytest.mark.parametrize("device", ["gpu"], indirect=True)
def test_a_million_atoms(device, precision):
    """More than emulation can do: many chunks and blocks."""
    atoms = bulk("Si", cubic=True).repeat(50)
    atoms.rattle(0.1, seed=1)
    model, env = silicon(atoms, precision)
    expected, found = both(device, model, env)
    bias = model.energy_bias[env.types[: env.n_local].long()]
    assert_same(found, expected, bias, {"float64": 1e-10, "float32": 1e-4}[precision])
    offsets, indices = model.to_device("cuda").neighbor_list(
        env.positions, env.types, env.n_local, model.rcut + 0.5
    )
    assert torch.equal(offsets.cpu(), env.offsets)
    assert torch.equal(indices.cpu(), env.indices)


def test_nobody_and_atoms_alone(device):
    model = load_model(SILICON).to_device("cuda")
    types = torch.zeros(3, dtype=torch.int32)
    positions = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]], dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.int32)
    for n in (0, 1, 3):
        offsets = torch.zeros(n + 1, dtype=torch.int64)
        found = model.evaluate(LocalEnv(positions, types, n, offsets, none))
        expected = load_model(SILICON).evaluate(LocalEnv(positions, types, n, offsets, none))
        assert torch.allclose(found.energies, expected.energies, rtol=0, atol=1e-10)
        assert not found.forces.any()
        assert not found.virial.any()


@PRECISIONS
def test_the_same_bits_each_time_and_no_net_force(device, precision):
    env = structure()
    potential = potential_of(precision).to_device("cuda")
    results = []
    for seed in (0, 1, 2):
        shuffle(device, seed)
        results.append(potential.evaluate(env))
    for other in results[1:]:
        for name in ("energies", "forces", "virial"):
            assert torch.equal(getattr(results[0], name), getattr(other, name))
    assert not results[0].forces.sum(dim=0).any()  # multiples of 2^-40, exactly


# --- chunks and memory --------------------------------------------------------------------------


def test_chunks_of_atoms(device, monkeypatch):
    env = structure()
    potential = potential_of()
    whole = copy.deepcopy(potential).to_device("cuda").evaluate(env)
    monkeypatch.setattr(cuda_potential, "CHUNK", 7)
    parts = copy.deepcopy(potential).to_device("cuda").evaluate(env)
    assert_same(parts, whole, 0.0, 1e-12)


def free(monkeypatch, n_bytes):
    monkeypatch.setattr(kernels.cuda.Device, "free_bytes", lambda _: n_bytes)


def test_little_memory_makes_chunks_smaller(device, monkeypatch):
    env = structure()
    potential = potential_of().to_device("cuda")
    monkeypatch.setattr(cuda_potential, "SMALLEST_CHUNK", 2)
    rest = kernels.cuda.forecast(env.n_local, env.n_all - env.n_local, env.n_edges)
    each = potential._compile()._fitting.bytes_per_atom()
    free(monkeypatch, rest + 8 * each)
    found = potential.evaluate(env)
    chunks = potential._compiled._list.chunks
    assert {chunk.end - chunk.begin for chunk in chunks} == {4}
    free(monkeypatch, 1e12)
    expected = potential_of().to_device("cuda").evaluate(env)
    assert_same(found, expected, 0.0, 1e-12)


def test_a_list_on_the_device_is_not_counted_twice(device, monkeypatch):
    """What it takes is not among what is free any more."""
    env, potential = structure(), potential_of().to_device("cuda")
    expected = potential.evaluate(env)
    torch_device = kernels.cuda.device("cuda").torch_device
    there = LocalEnv(
        env.positions.to(torch_device),
        env.types.to(torch_device),
        env.n_local,
        env.offsets.to(torch_device),
        env.indices.to(torch_device),
    )
    whole = kernels.cuda.forecast(env.n_local, env.n_all - env.n_local, env.n_edges)
    resident = sum(x.nbytes for x in (there.positions, there.types, there.offsets, there.indices))
    each = potential._compile()._fitting.bytes_per_atom()
    each += sum(d.bytes_per_atom() for d in potential._compile()._descriptors)
    monkeypatch.setattr(cuda_potential, "SMALLEST_CHUNK", 2)
    monkeypatch.setattr(cuda_potential, "CHUNK", 2)
    free(monkeypatch, whole - resident + 2 * each)
    found = potential.evaluate(there)
    assert torch.equal(found.forces.cpu(), expected.forces.cpu())
    with pytest.raises(InputError, match="GPU memory: 24 atoms"):
        potential.evaluate(structure())


def test_too_little_memory_is_said_before(device, monkeypatch):
    env = structure()
    potential = potential_of().to_device("cuda")
    free(monkeypatch, 1e4)
    with pytest.raises(InputError, match=r"GPU memory: 24 atoms .* GB, 1e-05 GB are free; use few"):
        potential.evaluate(env)


# --- lists --------------------------------------------------------------------------------------


def test_too_little_memory_for_a_list_is_said_before(device, monkeypatch):
    env = structure()
    there = kernels.cuda.device("cuda")
    atoms = there, env.positions, env.types, env.n_local, 5.0
    _, indices = kernels.cuda.neighbor_list(*atoms)
    free(monkeypatch, 100)
    with pytest.raises(InputError, match=r"GPU memory: 24 atoms and \d+ ghosts need .* are free"):
        kernels.cuda.neighbor_list(*atoms)
    left = iter([1e12, indices.nbytes - 1])
    monkeypatch.setattr(kernels.cuda.Device, "free_bytes", lambda _: next(left))
    with pytest.raises(InputError, match=f"24 atoms with {len(indices)} neighbours and"):
        kernels.cuda.neighbor_list(*atoms)


def test_a_list_is_prepared_once_and_noticed_when_it_changes(device):
    env = structure()
    potential = potential_of().to_device("cuda")
    first = potential.evaluate(env)
    prepared = potential._compiled._list
    moved = replace(env, positions=env.positions * 1.01)
    assert not torch.equal(potential.evaluate(moved).forces, first.forces)
    assert potential._compiled._list is prepared
    again = replace(env, indices=env.indices.clone())
    assert torch.equal(potential.evaluate(again).forces, first.forces)
    assert potential._compiled._list is not prepared
    again.types[:] = 1 - again.types  # in place
    expected = copy.deepcopy(potential).to_device("cpu").evaluate(again)
    bias = potential.energy_bias[again.types[: env.n_local].long()]
    assert_same(potential.evaluate(again), expected, bias, 1e-10)


def test_a_list_made_on_the_device_serves(device):
    env = structure()
    potential = potential_of().to_device("cuda")
    expected = potential.evaluate(env)
    arguments = env.positions, env.types, env.n_local, RCUT + 0.7
    offsets, indices = potential.neighbor_list(*arguments)
    assert offsets.device.type == device.torch_device.type
    found = potential.evaluate(replace(env, offsets=offsets, indices=indices))
    assert torch.equal(found.forces, expected.forces)


def test_positions_on_the_device_give_results_there(device):
    env = structure()
    potential = potential_of().to_device("cuda")
    expected = potential.evaluate(env)
    there = LocalEnv(
        *(x.to(device.torch_device) for x in (env.positions, env.types)),
        env.n_local,
        *(x.to(device.torch_device) for x in (env.offsets, env.indices)),
    )
    found = potential.evaluate(there)
    assert found.forces.device == device.torch_device
    assert torch.equal(found.forces.cpu(), expected.forces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: replace(e, n_local=3), "offsets: expected 4 entries for 3 local atoms"),
        (lambda e: replace(e, indices=e.indices[1:]), "but there are"),
        (lambda e: replace(e, positions=e.positions.float()), "positions: expected torch.float64"),
        (lambda e: replace(e, types=e.types.long()), "types: expected torch.int32"),
        (lambda e: replace(e, types=e.types + 1), "type of row . is 2; the table has 2 types"),
        (lambda e: replace(e, positions=e.positions * torch.nan), "row 0 is not finite"),
    ],
)
def test_wrong_environments(device, change, message):
    env = structure()
    with pytest.raises(InputError, match=message):
        potential_of().to_device("cuda").evaluate(change(env))


# --- models -------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_evaluates_the_same(device, copied):
    env = structure()
    potential = potential_of().to_device("cuda")
    expected = potential.evaluate(env)
    assert torch.equal(copied(potential).evaluate(env).forces, expected.forces)


def test_a_potential_follows_its_precision_and_device(device):
    env = structure()
    potential = potential_of().to_device("cuda")
    double = potential.evaluate(env).forces
    single = potential.to_precision("float32").evaluate(env).forces
    assert 0 < float((double - single).abs().max()) < 1e-3
    potential.to_device("cpu").evaluate(env)
    assert isinstance(potential._compiled, kernels.CompiledPotential)


def test_tf32_stays_off_whatever_the_program_wants(device, monkeypatch):
    env = structure("H2O4")
    potential = potential_of("float32").to_device("cuda")
    expected = potential.evaluate(env)
    seen = []
    original = cuda_potential.DeviceFitting.energies

    def spy(self, *arguments):
        seen.append(torch.get_float32_matmul_precision())
        return original(self, *arguments)

    monkeypatch.setattr(cuda_potential.DeviceFitting, "energies", spy)
    torch.set_float32_matmul_precision("high")
    try:
        found = potential.evaluate(env)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}
    assert torch.equal(found.forces, expected.forces)


def test_tf32_stays_off_where_torchs_newer_names_chose_it(device):
    """After these torch refuses to say what its older ones stand for."""
    products = torch.backends.cuda.matmul
    if not hasattr(products, "fp32_precision"):
        pytest.skip("this torch has the older names only")
    before = products.fp32_precision
    potential = potential_of("float32").to_device("cuda")
    products.fp32_precision = "tf32"
    try:
        potential.evaluate(structure("H2O4"))
        with kernels.cuda.full_precision():
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == "tf32"
    finally:
        products.fp32_precision = before


def test_wrong_models_are_refused(device):
    potential = potential_of()
    own, fitting = potential.descriptor, potential._fitting()
    environment = own.environment()
    make = kernels.cuda.CudaPotential

    def made(environment=environment, sel=(3, 4), fitting=fitting, repulsion=None):
        descriptor = kernels.Descriptor(own.coefficients(), environment, sel)
        make(device, [descriptor], fitting, repulsion)

    made()
    with pytest.raises(InputError, match="sel and networks of 2 elements, found 3 and 2"):
        made(sel=(1, 2, 3))
    with pytest.raises(InputError, match="activation 'swish'"):
        made(fitting=replace(fitting, activation="swish"))
    with pytest.raises(InputError, match="davg must be 0 but in the first column"):
        made(environment=replace(environment, davg=environment.davg + 1.0))
    with pytest.raises(InputError, match="dstd positive"):
        made(environment=replace(environment, dstd=environment.dstd * 0.0))
    with pytest.raises(InputError, match="expected 72 inputs, found 96"):
        made(fitting=replace(fitting, shapes=[kernels.Shape(24, 3)]))
    ones = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(InputError, match="0 <= r_in < r_out"):
        made(repulsion=kernels.Repulsion(ones[0], ones, ones))
