"""What is recorded and replayed on a device is what is done there launch by launch."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from models import BETWEEN, FAR, NEAR, hybrid_potential
from test_cuda_dynamics import ENSEMBLES, simulation
from test_cuda_hybrid import structure as hybrid_structure
from test_cuda_potential import potential_of, structure

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda import potential as cuda_potential
from deepmd_lite.system import InputError, LocalEnv

PLACE = torch.device("cuda", 0)


def moved(env: LocalEnv, seed: int) -> None:
    """Other positions with the same list."""
    generator = torch.Generator().manual_seed(seed)
    env.positions += 0.01 * torch.randn(env.positions.shape, generator=generator).double()


def there(env: LocalEnv) -> LocalEnv:
    arrays = [x.to(PLACE) for x in (env.positions, env.types, env.offsets, env.indices)]
    return LocalEnv(arrays[0], arrays[1], env.n_local, *arrays[2:])


def same(a, b):
    return all(
        torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b, strict=True)
    )


def numbers(evaluation):
    return [torch.as_tensor(x).cpu() for x in vars(evaluation).values()]


@pytest.fixture
def large(monkeypatch):
    """Has no system be small, if it is called."""

    def never():
        monkeypatch.setattr(cuda_potential, "SMALL", -1)

    return never


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("home", ["host", "device"])
def test_replays_are_evaluations(device, large, precision, home):
    """Several positions, a second list, and the first one again; to the last bit."""
    envs = [structure(), structure("H2O4")]
    order = [0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    results = []
    for launch_by_launch in (False, True):
        if launch_by_launch:
            large()
        potential = potential_of(precision).to_device("cuda")
        own = [copy.deepcopy(env) for env in envs]
        if home == "device":
            own = [there(env) for env in own]
        found = []
        for step, k in enumerate(order):
            shift = torch.randn(
                own[k].positions.shape, generator=torch.Generator().manual_seed(step)
            )
            own[k].positions.add_(0.01 * shift.double().to(own[k].positions.device))
            found.append(potential.evaluate(own[k]))
        results.append([numbers(e) for e in found])  # only now: none is another's memory
    assert not same(results[0][1], results[0][2])
    for a, b in zip(*results, strict=True):
        assert same(a, b)


def test_replays_of_several_descriptors(device, large):
    results = []
    for launch_by_launch in (False, True):
        if launch_by_launch:
            large()
        env = hybrid_structure()
        potential = hybrid_potential((BETWEEN, FAR, NEAR)).freeze().to_device("cuda")
        for seed in range(4):
            moved(env, seed)
            evaluation = potential.evaluate(env)
        results.append(numbers(evaluation))
    assert same(*results)


def test_faults_in_a_replay(device):
    """They are found as at the first time, and are gone with their cause."""
    env, potential = structure(), potential_of().to_device("cuda")
    expected = [numbers(potential.evaluate(env)) for _ in range(3)].pop()
    kept = env.positions.clone()
    env.positions[4, 1] = torch.nan
    with pytest.raises(InputError, match="the position of row 4 is not finite"):
        potential.evaluate(env)
    env.positions.copy_(kept)
    env.positions[0] = env.positions[env.indices[0]]
    with pytest.raises(InputError, match="coincide"):
        potential.evaluate(env)
    env.positions.copy_(kept)
    assert same(numbers(potential.evaluate(env)), expected)


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "mtk"])
def test_steps_have_the_bits_of_single_launches(device, large, monkeypatch, ensemble):
    """Across new lists, and while the cell changes."""
    runs = []
    for launch_by_launch in (False, True):
        if launch_by_launch:
            large()
            monkeypatch.setattr(kernels.cuda, "SMALL", -1)
        made = simulation("cuda", ensemble=ENSEMBLES[ensemble], skin=0.3)
        assert made.run(12).list_builds > 0
        runs.append(made.state.to(torch.device("cpu")))
    assert torch.equal(runs[0].positions, runs[1].positions)
    assert torch.equal(runs[0].velocities, runs[1].velocities)


def test_a_step_of_few_atoms_is_few_launches(traffic):
    made = simulation("cuda", timestep=0.1)
    made.run(3)
    before = copy.copy(traffic)
    made.run(4)
    two = traffic.since(before)
    before = copy.copy(traffic)
    assert made.run(8).list_builds == 0
    four = traffic.since(before)
    assert (four.operations - two.operations) / 4 < 40


def test_what_cannot_be_recorded_is_said_and_done(traffic, caplog):
    """Once, and results are the same."""
    device = kernels.cuda.device("cuda")
    ours = kernels.cuda.Recorder(device.torch_device)
    x = torch.ones(3, device=PLACE)
    waiting = kernels.cuda.Repeated(ours)
    with caplog.at_level(logging.WARNING):
        found = [waiting(lambda: float(x.sum())) for _ in range(4)]
    assert found == [3.0] * 4
    assert [r.message for r in caplog.records] == [
        "the GPU's launches cannot be recorded (operation not permitted when stream is capturing "
        "(aten._local_scalar_dense.default)); each is made by itself, which makes small systems "
        "slower: please report it, and do other work on this GPU in another process"
    ]
