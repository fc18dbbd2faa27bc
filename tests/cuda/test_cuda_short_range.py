"""Models with a short-range table on a device: its kernels and the whole against the processor."""

from __future__ import annotations

import copy
import ctypes
import dataclasses

import pytest
import torch
from emulation import shuffle
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
from test_cuda_potential import PRECISIONS, assert_same, both
from test_cuda_training import assert_same as assert_same_gradients
from test_cuda_training import gradients

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda import native
from deepmd_lite.kernels.cuda.close_pairs import DeviceShortRange
from deepmd_lite.md import Simulation
from deepmd_lite.system import InputError, LocalEnv


def expected_of(env, table=TABLE):
    """Weights, energies and forces by the processor."""
    evaluation = networks(env)
    kernels.add_short_range(evaluation, env, table)
    return kernels.short_range_weights(env, table), evaluation.energies, evaluation.forces


def found_on(device, env, table=TABLE):
    """The same on a device."""
    where, n_types = device.torch_device, len(table.bias)
    rows = [x.to(where) for x in (env.positions, env.types, env.offsets, env.indices)]
    n_edges = len(env.indices)
    atoms = native.Atoms(env.n_all, env.n_local, *(x.data_ptr() for x in rows), n_edges)
    there, report = DeviceShortRange(table, device.torch_device), device.reports()[0]
    energies = networks(env).energies.to(where)
    fixed = torch.zeros(env.n_all, 3, dtype=torch.int64, device=where)
    forces = torch.empty_like(rows[0])
    soft, weights = there.weights(device, atoms, report)
    there.add(device, atoms, soft, energies, fixed, report)
    device.call("from_fixed", env.n_all, rows[0], fixed, forces, report)
    device.read(report[None], env.n_all, n_types)
    assert not fixed.sum(dim=0).any()  # what acts on one acts back on the other, to the bit
    return weights.cpu(), energies.cpu(), forces.cpu()


def list_of(positions, types, n_local):
    listed = kernels.neighbor_list(positions, types, n_local, RCUT)
    return LocalEnv(positions, types, n_local, *listed)


# --- kernels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"start": 0.0}, {"smin_alpha": 0.35}, {"rcut": 2.2}])
def test_kernels(device, change):
    env, table = environment(300, 200), dataclasses.replace(TABLE, **change)
    expected, found = expected_of(env, table), found_on(device, env, table)
    weights = expected[0]
    assert (weights == 0).any()
    assert (weights == 1).any()
    assert ((weights > 0) & (weights < 1)).sum() > 50
    assert torch.equal(found[0] == 1, weights == 1)
    assert torch.equal(found[0] == 0, weights == 0)
    scale = float(expected[2].abs().max())
    torch.testing.assert_close(found[0], weights, rtol=0, atol=1e-13)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[2], expected[2], rtol=0, atol=1e-12 * scale + 1e-11)
    assert found[2][env.n_local :].any()  # ghosts have forces too


def test_far_neighbours_cannot_underflow(device):
    positions = torch.tensor([[0.0, 0, 0], [3.7, 0, 0]], dtype=torch.float64)
    env = list_of(positions, torch.zeros(2, dtype=torch.int32), 2)
    far = dataclasses.replace(TABLE, smin_alpha=0.005, sw_rmin=3.0, sw_rmax=3.9)
    expected, found = expected_of(env, far), found_on(device, env, far)
    assert 0.5 < float(expected[0][0]) < 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_nobody_and_atoms_alone(device):
    positions = torch.tensor([[0.0, 0, 0], [0, 1e6, 0]], dtype=torch.float64)
    types = torch.full((2,), 2, dtype=torch.int32)
    for n in (0, 2):
        env = list_of(positions, types, n)
        weights, energies, forces = found_on(device, env)
        assert torch.equal(weights, torch.ones(n, dtype=torch.float64))
        assert torch.equal(energies, networks(env).energies)
        assert not forces.any()


def test_the_same_bits_each_time(device):
    env, results = environment(300, 200), []
    for seed in (0, 1, 2):
        shuffle(device, seed)
        results.append(found_on(device, env))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("smin_alpha", 0.0, "expected positive smin_alpha"),
        ("start", -0.1, "a start of at least 0"),
        ("sw_rmin", 1.8, "0 <= sw_rmin < sw_rmax <= rcut"),
        ("sw_rmax", torch.nan, "0 <= sw_rmin < sw_rmax <= rcut"),
        ("bias", torch.full((3,), torch.nan).double(), "a number of the bias is not finite"),
        ("bias", torch.zeros(3), "bias: expected torch.float64, found torch.float32"),
        ("bias", torch.zeros(2).double(), r"coefficients: expected shape \(2, 2, any, 4\)"),
        ("coefficients", CUBICS * torch.inf, "a number of the table of pairs is not finite"),
        ("coefficients", CUBICS[:, :, :0], "at least 1 type and interval"),
        ("coefficients", CUBICS.float(), "coefficients: expected torch.float64"),
    ],
)
def test_bad_tables(device, field, value, message):
    with pytest.raises(InputError, match=message):
        found_on(device, environment(20, 20), dataclasses.replace(TABLE, **{field: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda env: env.positions.__setitem__((3, 1), torch.nan), "position of row 3 is not fin"),
        (lambda env: env.types.__setitem__(2, 3), "type of row 2 is not one of 0 to 2"),
        (lambda env: env.indices.__setitem__(0, 20), "row 0 lists neighbour 20"),
        (lambda env: env.indices.__setitem__(0, 0), "rows 0 and 0 coincide"),
        (lambda env: env.offsets.__setitem__(4, -1), "offsets of row 3"),
    ],
)
def test_bad_atoms(device, change, message):
    env = environment(20, 20)
    assert env.offsets[1] > 0
    change(env)
    with pytest.raises(InputError, match=message):
        found_on(device, env)


def test_pairs_nearer_than_the_table_begins(device):
    """One line, the same as on the processor."""
    env = environment(20, 20)
    env.positions[5] = env.positions[3] + torch.tensor([0.0, 0.3, 0.0])
    env = list_of(env.positions, env.types, 20)
    begun = dataclasses.replace(TABLE, start=0.32)
    messages = []
    for find in (lambda: expected_of(env, begun), lambda: found_on(device, env, begun)):
        with pytest.raises(InputError) as error:
            find()
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert messages[0] == ("rows 3 and 5 are 0.3 Å apart; the short-range table begins at 0.32 Å")


def test_a_pair_that_pushes_too_hard_is_named(device):
    strong = dataclasses.replace(TABLE, coefficients=TABLE.coefficients * 1e9)
    with pytest.raises(InputError, match="the force on row"):
        found_on(device, environment(20, 20), strong)


# --- weights of rows ----------------------------------------------------------------------------


@PRECISIONS
def test_weights_scale_forces(device, precision):
    """Rows of weight 0 have no neighbours, others the forces of their share."""
    model = short_range_potential(("H", "O"), precision)
    env = close_atoms(model)
    compiled = model.to_device("cuda")._compile()
    weights = torch.linspace(0.0, 1.0, env.n_local, dtype=torch.float64)

    class Switch:
        def weights(self, device, atoms, report):
            there = weights.to(device.torch_device)
            return there, there

        def add(self, *arguments): ...

    compiled._short_range = Switch()
    found = compiled.evaluate(env)
    model.to_device("cpu")
    expected = model._compile().evaluate(env, weights)
    bias = model.energy_bias[env.types[: env.n_local].long()]
    kept = weights > 0
    found.energies[~kept] = expected.energies[~kept]
    assert_same(found, expected, bias, {"float64": 1e-10, "float32": 2e-5}[precision])


# --- whole models -------------------------------------------------------------------------------


def close_atoms(model, skin=0.4):
    """Random atoms on both sides of the switch and in it."""
    atoms = random_atoms("H10O8", 6.0, 5, skew=0.1)
    atoms.rattle(0.45, seed=2)
    env = environment_of(atoms, model.type_map, model.rcut + skin).env
    weights = model.short_range.weights(env)
    assert ((weights > 0) & (weights < 1)).sum() > 5
    assert (weights == 0).any()
    return env


def models(precision="float64"):
    yield short_range_potential(("H", "O"), precision)
    yield short_range_potential(("H", "O"), precision, srtab_add_bias=False)
    yield with_short_range(hybrid_potential((NEAR, FAR), precision))


@PRECISIONS
@pytest.mark.parametrize("which", range(3), ids=["own", "without bias", "hybrid"])
def test_energies_forces_and_virial(device, precision, which):
    model = list(models(precision))[which]
    env = close_atoms(model)
    expected, found = both(device, model, env)
    bias = model.energy_bias[env.types[: env.n_local].long()]
    assert_same(found, expected, bias, {"float64": 1e-10, "float32": 2e-5}[precision])
    same = copy.deepcopy(model).to_device("cuda")
    shuffle(device, 3)
    again = same.evaluate(env)
    for name in ("energies", "forces", "virial"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert not again.forces.sum(dim=0).any()


@PRECISIONS
@pytest.mark.parametrize("which", [0, 2], ids=["own", "hybrid"])
def test_a_loss_gives_every_parameter_its_gradient(device, precision, which):
    model = list(models(precision))[which]
    model.requires_grad_(True)
    for descriptor in model.descriptors:
        descriptor._frozen = None
    env = close_atoms(model)
    expected = gradients(model, env)
    found = gradients(model.to_device("cuda"), env)
    assert found.keys() == expected.keys()
    assert len(expected) > 12
    assert_same_gradients(found, expected, {"float64": 1e-9, "float32": 2e-3}[precision])


def test_molecular_dynamics(device):
    """Atoms meet, and lists are made anew."""
    found = []
    for name in ("cpu", "cuda"):
        simulation = Simulation(
            random_atoms("H6O6", 6.0, 5),
            short_range_potential(),
            velocities={"temperature": 20000, "seed": 3},
            timestep=0.5,
            skin=0.3,
            device=name,
        )
        assert simulation.run(12).list_builds > 1
        assert float(simulation.model.short_range.weights(on_host(simulation)).min()) < 1
        found.append(simulation.engine.state.positions.cpu().clone())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-8)


def on_host(simulation):
    """The environment of a simulation's atoms."""
    return environment_of(simulation.atoms, simulation.model.type_map, simulation.model.rcut).env


@pytest.mark.parametrize("which", [0, 2], ids=["own", "hybrid"])
def test_what_is_on_the_device_stays_there(traffic, which):
    """The host waits once, for the report, and nothing else passes."""
    model = list(models())[which].to_device("cuda")
    env = close_atoms(model)
    rows = [x.to("cuda") for x in (env.positions, env.types, env.offsets, env.indices)]
    there = LocalEnv(rows[0], rows[1], env.n_local, *rows[2:])
    model.evaluate(there)  # compiles, and prepares the list
    before = dataclasses.replace(traffic)
    found = model.evaluate(there)
    passed = traffic.since(before)
    assert found.forces.is_cuda
    assert (passed.waits, passed.to_host, passed.to_device) == (1, 0, 0)


def test_another_bias(device):
    """A model that is given one evaluates with it, the table's atoms included."""
    model = short_range_potential()
    env = close_atoms(model)
    model.to_device("cuda")
    before = model.evaluate(env).energies
    model.set_energy_bias(model.energy_bias + 2.5)
    torch.testing.assert_close(model.evaluate(env).energies, before + 2.5, rtol=0, atol=1e-10)


def test_pairs_of_atoms_without_network_are_not_beyond_its_table(device):
    model = short_range_potential(("H",)).to_device("cuda")
    positions = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0, 4.2, 0]], dtype=torch.float64)
    types = torch.zeros(3, dtype=torch.int32)
    listed = kernels.neighbor_list(positions, types, 3, model.rcut)
    env = LocalEnv(positions, types, 3, *listed)
    assert model.evaluate(env).beyond_table == 0
    model.short_range, model._compiled = None, None
    assert model.evaluate(env).beyond_table == 2


def test_what_a_network_says_of_fused_atoms_does_not_matter(device):
    model = short_range_potential(("H",), "float32")
    model.descriptor._frozen[:, -1] *= 1e30  # where the table of the embedding is continued
    positions = torch.tensor([[0.0, 0, 0], [0.3, 0, 0]], dtype=torch.float64)
    types = torch.zeros(2, dtype=torch.int32)
    listed = kernels.neighbor_list(positions, types, 2, model.rcut)
    env = LocalEnv(positions, types, 2, *listed)
    expected = model.evaluate(env)
    found = model.to_device("cuda").evaluate(env)
    for name in ("energies", "forces", "virial"):
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_its_memory_is_counted(device, monkeypatch):
    model = short_range_potential().to_device("cuda")
    env = close_atoms(model)
    rest = kernels.cuda.forecast(env.n_local, env.n_all - env.n_local, env.n_edges)
    compiled = model._compile()
    each = compiled._fitting.bytes_per_atom() + compiled._descriptors[0].bytes_per_atom()
    need = rest + 16 * env.n_local + kernels.cuda.potential.SMALLEST_CHUNK * each
    for n_bytes in (need, need - 1):
        monkeypatch.setattr(kernels.cuda.Device, "free_bytes", lambda _, n=n_bytes: n)
        if n_bytes == need:
            compiled.evaluate(env)
    compiled._list = None
    with pytest.raises(InputError, match="GPU memory: 18 atoms"):
        compiled.evaluate(env)


def test_reports_are_those_of_the_header(device):
    """A word less, and the kernels would write behind it."""
    header = (kernels.cuda.native.__file__.rpartition("/")[0]) + "/dpl_cuda.h"
    with open(header) as text:
        body = text.read().split("typedef struct dpl_cuda_report {")[1].split("}")[0]
    fields = [line for line in body.splitlines() if line.strip().startswith(("uint64_t", "double"))]
    assert device.reports(3).shape == (3, len(fields))
    assert ctypes.sizeof(ctypes.c_double) == ctypes.sizeof(ctypes.c_uint64) == 8
