"""Training's operations on a device against the reference, and a training that uses them."""

from __future__ import annotations

import copy
import ctypes
import json

import pytest
import torch
from ase.io import write
from copper import copper, settings
from emulation import shuffle
from models import dpa1, environment_of, random_atoms, random_potential, typed_potential
from strict_device import Library
from test_cuda_kernels import BOTH, ONE_SIDED, TOLERANCE, Case

from deepmd_lite import kernels, load, train
from deepmd_lite.kernels.cuda import operations
from deepmd_lite.model import ModelConfig, Potential, statistics_from
from deepmd_lite.model.descriptor import Descriptor
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError


def arguments(case, coefficients):
    return (case.positions, case.types, *case.list, coefficients, case.environment)


def orders(on, case, dtype):
    """Moments and forces, and what losses on them give the moments' gradient and the table."""
    coefficients = case.coefficients.to(dtype).requires_grad_()
    grad = case.grad.to(dtype).requires_grad_()
    moments, _, _ = on.moments(*arguments(case, coefficients))
    weighted = (moments * case.grad.to(moments)).sum()
    (table,) = torch.autograd.grad(weighted, coefficients)
    forces = on.moments_gradient(grad, *arguments(case, coefficients))
    tangent = torch.linspace(-1.0, 1.0, forces.numel(), dtype=torch.float64)
    loss = (forces.square() * tangent.view_as(forces).to(forces)).sum()
    to_grad, to_table = torch.autograd.grad(loss, [grad, coefficients])
    found = {"moments": moments, "table": table, "forces": forces}
    found |= {"grad of forces": to_grad, "table of forces": to_table}
    return {name: value.detach().cpu().double() for name, value in found.items()}


class Reference:
    """The reference under the names of the kernels."""

    moments = staticmethod(kernels.reference.moments)

    @staticmethod
    def moments_gradient(grad, positions, *others):
        positions = positions.clone().requires_grad_()
        moments, _, _ = kernels.reference.moments(positions, *others)
        return torch.autograd.grad(moments, positions, grad, create_graph=True)[0]


def assert_same(found, expected, tolerance):
    for name, truth in expected.items():
        assert float(truth.abs().max()) > 0
        error = float((found[name] - truth).abs().max())
        assert error <= tolerance * float(truth.abs().max()), f"{name}: {error}"


@BOTH
@ONE_SIDED
@pytest.mark.parametrize(
    ("n_features", "columns"), [(16, 4), (112, 4), (32, 9), (16, 16), (32, 25)]
)
def test_both_orders(device, dtype, one_side, n_features, columns):
    kind = {"n_features": n_features, "columns": columns, "one_side": one_side}
    case = Case(**kind, n_all=40, n_local=25, skin=0.5)
    assert case.expected()[2] > 0  # edges in the continuation of the table
    expected = orders(Reference, case, torch.float64)
    found = orders(kernels.cuda.Operations(device), case, dtype)
    assert_same(found, expected, {torch.float64: 1e-9, torch.float32: 3e-5}[dtype])


@BOTH
def test_both_orders_of_tables_of_the_distance(device, dtype):
    case = Case(n_features=16, n_all=40, n_local=25, skin=0.5, of_distance=True)
    expected = orders(Reference, case, torch.float64)
    found = orders(kernels.cuda.Operations(device), case, dtype)
    assert_same(found, expected, {torch.float64: 1e-9, torch.float32: 3e-5}[dtype])


@pytest.mark.parametrize("columns", [4, 9, 25])
def test_more_runs_than_a_block_holds(device, columns):
    kind = {"n_features": 16, "columns": columns, "one_side": False}
    case = Case(n_all=400, n_local=8, n_types=5, seed=2, **kind)
    case.positions *= 0.45
    case.list = kernels.neighbor_list(case.positions, case.types, case.n_local, 4.5)
    assert int(case.expected()[1].sum(dim=1).max()) > 256
    expected = orders(Reference, case, torch.float64)
    assert_same(orders(kernels.cuda.Operations(device), case, torch.float64), expected, 1e-9)


@pytest.mark.parametrize(("n_all", "n_local"), [(1, 0), (1, 1)])
def test_no_edges(device, n_all, n_local):
    case = Case(n_all, n_local)
    found = orders(kernels.cuda.Operations(device), case, torch.float64)
    assert not any(value.any() for value in found.values())


def test_the_same_bits_each_time(device):
    case = Case(n_all=120, n_local=100, seed=6)
    results = []
    for seed in (0, 1, 2):
        shuffle(device, seed)
        results.append(orders(kernels.cuda.Operations(device), case, torch.float32))
    for other in results[1:]:
        assert all(torch.equal(other[name], value) for name, value in results[0].items())


def test_parts_are_those_of_the_header():
    header = (operations.__file__.rpartition("/")[0]) + "/dpl_cuda.h"
    with open(header) as text:
        assert f"#define DPL_CUDA_PARTS {operations.PARTS}\n" in text.read()


def test_what_is_refused(device):
    on = kernels.cuda.Operations(device)
    case = Case(n_all=20, n_local=12, n_features=16)
    positions = case.positions.clone().requires_grad_()
    moments, _, _ = on.moments(positions, *arguments(case, case.coefficients)[1:])
    (forces,) = torch.autograd.grad(moments.sum(), positions, create_graph=True)
    with pytest.raises(InputError, match="second derivatives are not computed on a GPU"):
        forces.square().sum().backward()
    case.positions[3, 0] = torch.nan
    with pytest.raises(InputError, match="row 3 is not finite"):
        on.moments(*arguments(case, case.coefficients))
    case.list = case.list[0], case.list[1][1:]
    with pytest.raises(InputError, match="offsets end at"):
        on.moments(*arguments(case, case.coefficients))


def test_a_gradient_moves_what_it_shares_once(traffic):
    case = Case(n_all=20, n_local=12, n_features=16)
    atoms, coefficients = (case.positions, case.types, *case.list), case.coefficients
    coefficients.requires_grad_()
    device = kernels.cuda.device("cuda")
    on = kernels.cuda.Operations(device, (*atoms, coefficients))
    before = copy.copy(traffic)
    given = (*atoms, coefficients, case.environment)
    moments, _, _ = on.moments(*given)
    forces = on.moments_gradient(moments, *given)
    passed = traffic.since(before)
    assert passed.to_device == len(atoms) + 1 + 2 * 2  # each list's means and widths
    assert passed.waits == passed.to_device + 2  # and for one report of each
    before = copy.copy(traffic)
    forces.square().sum().backward()
    passed = traffic.since(before)
    assert (passed.waits, passed.to_device, passed.to_host) == (1, 0, 1)  # the table's gradient
    assert float(coefficients.grad.abs().max()) > 0


def test_products_of_the_forward_pass_are_full_ones(device, monkeypatch):
    """Where the program has asked for faster ones."""
    seen, normalised = [], Descriptor._normalised

    def recording(*arguments):
        seen.append(torch.get_float32_matmul_precision())
        return normalised(*arguments)

    monkeypatch.setattr(Descriptor, "_normalised", recording)
    potential = random_potential(("Si",), precision="float32").to_device("cuda")
    env = environment_of(random_atoms("Si16", 7.0, seed=4), ("Si",), potential.rcut).env
    torch.set_float32_matmul_precision("high")
    try:
        potential.energies_and_forces(env)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]


def test_more_shared_memory_than_the_gpu_has(traffic, emulation):
    case = Case(n_all=20, n_local=12, n_features=368, columns=25)
    on = kernels.cuda.Operations(kernels.cuda.device("cuda"))
    given = arguments(case, case.coefficients)
    with pytest.raises(InputError, match=r"needs 108 kB of .* this GPU has 99 kB; use another"):
        on.moments(*given)
    emulation.dpl_emulate_shared_memory(ctypes.c_int64(128 * 1024))
    try:
        assert on.moments(*given)[0].isfinite().all()
    finally:
        emulation.dpl_emulate_shared_memory(ctypes.c_int64(0))


def gradients(potential, env, *parameters):
    """Energies, forces and what a loss on both gives every parameter."""
    energies, forces = potential.energies_and_forces(env, *parameters)
    assert energies.device == forces.device == env.positions.device
    virial = env.positions.T @ forces
    loss = energies.square().mean() + forces.square().mean() + 0.1 * virial.square().mean()
    parameters = dict(potential.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    results = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    return {"energies": energies.detach(), "forces": forces.detach()} | results


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("symbols", "kind"), [("Si16", "se_e2_a"), ("Si8C8", "se_e2_a"), ("Si8C8", "se_e2_q")]
)
def test_a_loss_gives_every_parameter_its_gradient(device, precision, symbols, kind):
    type_map = ("Si", "C") if "C" in symbols else ("Si",)
    potential = random_potential(type_map, precision=precision, resnet_dt=True, kind=kind)
    potential.descriptor._frozen = None
    potential.requires_grad_(True)
    env = environment_of(random_atoms(symbols, 7.0, seed=4), type_map, potential.rcut).env
    assert_same_gradients(potential, env, precision)


@pytest.mark.parametrize("mode", ["concat", "smooth"])
def test_a_loss_gives_shared_networks_their_gradient(device, mode):
    assert_same_gradients(*typed_potential(dpa1(mode)), "float64")


def test_a_loss_gives_frame_parameters_their_gradient(device):
    """Of two frames, here halves of one, which differ in theirs."""
    section = {
        "type_map": ["Si", "C"],
        "descriptor": {"rcut": 4.0, "rcut_smth": 1.0, "neuron": [6, 12], "axis_neuron": 4},
        "fitting_net": {"neuron": [20, 20], "numb_fparam": 2},
    }
    config = parse(ModelConfig, section, "test")
    env = environment_of(random_atoms("Si8C8", 7.0, seed=4), ["Si", "C"], 4.0).env
    fparam = torch.tensor([[0.3, 1.0], [0.5, -1.0]], dtype=torch.float64)
    potential = Potential(config, statistics_from([(env, -16.0)], config, fparam=fparam), seed=1)
    halves = torch.arange(16) % 2
    assert_same_gradients(potential, env, "float64", fparam, halves)


def assert_same_gradients(potential, env, precision, *parameters):
    expected = gradients(potential, env, *parameters)
    found = gradients(potential.to_device("cuda"), env, *parameters)
    assert found.keys() == expected.keys()
    assert len(expected) > 12
    tolerance = {"float64": 1e-9, "float32": 2e-3}[precision]
    assert_same(found, expected, tolerance)
    with torch.no_grad():  # as in a validation
        energies, forces = potential.energies_and_forces(env, *parameters)
    assert torch.equal(energies, found["energies"])
    assert torch.equal(forces, found["forces"])
    assert TOLERANCE[torch.float64] < tolerance


def test_a_training(device, tmp_path):
    """The same as on the processor, and a restart goes on there as it was."""
    write(tmp_path / "train.extxyz", copper(4, 1))
    write(tmp_path / "validation.extxyz", copper(2, 2))

    def trained(name, restart=False, **options):
        steps = {"numb_steps": 4, "disp_freq": 2, **options}
        config = settings(tmp_path, **steps)
        config["optimizer"] = {"type": "Adam"}  # SOAP scales up what round-off decides
        model = train(config, output=tmp_path / name, restart=restart, quiet=True)
        rows = (tmp_path / name / "train.jsonl").read_text().splitlines()
        return load(model).state_dict(), json.loads(rows[-1])

    (expected, last), (found, last_found) = trained("cpu"), trained("gpu", device="cuda")
    # on a GPU, round-off in a gradient of nearly zero decides the direction of Adam's step
    tolerance = 1e-8 if isinstance(device.native, Library) else 1e-3
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=tolerance), name
    assert last_found["step"] == last["step"] == 4
    assert load(tmp_path / "gpu" / "model.dpl").device == "cpu"
    same, _ = trained("gpu", restart=True)  # the device is free: nothing is left to do
    assert all(torch.equal(same[name], value) for name, value in found.items())


def test_a_training_without_a_gpu(tmp_path):
    write(tmp_path / "train.extxyz", copper(2, 1))
    write(tmp_path / "validation.extxyz", copper(2, 2))
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"^device 'cuda': .*, or use device 'cpu'"):
        train(settings(tmp_path, device="cuda"), output=tmp_path / "out", quiet=True)
    with pytest.raises(InputError, match=r"key 'training/device': .*expected 'cpu', 'cuda' or"):
        train(settings(tmp_path, device="gpu"), output=tmp_path / "out", quiet=True)
