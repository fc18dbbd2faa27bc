"""Random numbers, initial velocities and the two integrators."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepmd_lite.md.comm import Communicator
from deepmd_lite.md.config import Ensemble
from deepmd_lite.md.initial import set_temperature
from deepmd_lite.md.integrate import LangevinBAOAB, VelocityVerlet, integrator
from deepmd_lite.md.random import normals, philox
from deepmd_lite.md.state import State, degrees_of_freedom, temperature, thermal_velocities
from deepmd_lite.units import ACCELERATION, BOLTZMANN, KINETIC


def step_of(motion, state, force, step):
    """One step under forces that are a function of the positions."""
    engine = SimpleNamespace(state=state, forces=force(state.positions))
    motion.before_forces(engine, step)
    engine.forces = force(state.positions)
    motion.after_forces(engine, step)


def some_state(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return State.from_arrays(
        {
            "ids": rng.permutation(n),
            "types": rng.integers(0, 2, n),
            "masses": rng.uniform(1, 60, n),
            "positions": rng.normal(size=(n, 3)),
            "images": rng.integers(-2, 3, (n, 3)),
            "velocities": rng.normal(size=(n, 3)) * 0.01,
            "built": rng.normal(size=(n, 3)),
        }
    )


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_numbers(counter, key, expected):
    """Known-answer vectors of Random123, the authors' own library."""
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(w) for w in words) == expected


def test_normals_are_normal_and_functions_of_their_arguments():
    ids = torch.arange(40000)
    x = normals(ids, 5, 1, 2**33 + 17)
    assert abs(float(x.mean())) < 4 / np.sqrt(x.numel())
    assert float(x.var()) == pytest.approx(1.0, abs=4 * np.sqrt(2 / x.numel()))
    assert float((x**4).mean()) == pytest.approx(3.0, abs=0.15)
    off_diagonal = np.corrcoef(x.T.numpy())[np.triu_indices(3, 1)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(len(ids))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    assert torch.equal(normals(ids[order], 5, 1, 2**33 + 17), x[order])
    for other in ((6, 1, 2**33 + 17), (5, 0, 2**33 + 17), (5, 1, 17)):
        assert abs(np.corrcoef(x[:, 0], normals(ids, *other)[:, 0])[0, 1]) < 0.03


def test_packing_keeps_every_bit():
    state = some_state()
    state.mobile[3] = 0
    state.carried = {"first": torch.randn(50, 2).double(), "second": torch.randn(50, 3).double()}
    again = State.unpack(state.pack(), state.widths)
    carried, others = vars(again).pop("carried"), {**vars(state)}
    assert list(carried) == list(others.pop("carried"))
    for name, a in {**others, **state.carried}.items():
        b = carried[name] if name in carried else getattr(again, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_a_rank_without_atoms_knows_what_they_would_carry():
    empty = State.empty({"origin": 3})
    assert empty.pack().shape == (0, State.COLUMNS + 3)
    assert empty.carried["origin"].shape == (0, 3)


def test_initial_velocities_have_the_temperature_and_no_momentum():
    state = some_state()
    freedom = degrees_of_freedom(len(state), True)
    set_temperature(state, 321.0, 9, freedom, Communicator())
    momentum = (state.masses[:, None] * state.velocities).sum(0)
    assert float(momentum.abs().max()) < 1e-12
    kinetic = 0.5 * float(state.kinetic_tensor().trace())
    assert temperature(kinetic, freedom) == pytest.approx(321.0, rel=1e-12)
    order = torch.argsort(state.ids)
    other = State.unpack(state.pack()[order.numpy()])
    set_temperature(other, 321.0, 9, freedom, Communicator())
    torch.testing.assert_close(other.velocities, state.velocities[order], rtol=1e-12, atol=0)


def test_atoms_that_are_held_do_not_move():
    state = some_state()
    state.mobile[:20] = 0
    state.velocities = thermal_velocities(state, 500.0, 1)
    x = state.positions.clone()
    for motion in (VelocityVerlet(1.0), LangevinBAOAB(1.0, 500.0, 0.1, 2)):
        for step in range(5):
            step_of(motion, state, torch.neg, step)
    moved = (state.positions - x).abs().amax(dim=1)
    assert float(moved[:20].max()) == 0.0
    assert float(moved[20:].min()) > 0.0


def test_free_flight_and_uniform_acceleration():
    """Velocity Verlet is exact for a constant force."""
    state, dt, steps = some_state(), 0.7, 10
    forces = torch.randn(len(state), 3, dtype=torch.float64)
    x, v, a = state.positions.clone(), state.velocities.clone(), ACCELERATION * forces
    a = a / state.masses[:, None]
    motion = VelocityVerlet(dt)
    for step in range(steps):
        step_of(motion, state, lambda _: forces, step)
    t = steps * dt
    torch.testing.assert_close(state.positions, x + v * t + 0.5 * a * t**2)
    torch.testing.assert_close(state.velocities, v + a * t)


def test_langevin_without_friction_is_velocity_verlet():
    a, b = some_state(), some_state()
    verlet, langevin = VelocityVerlet(1.5), LangevinBAOAB(1.5, 300.0, 0.0, 1)
    for step in range(200):
        for state, motion in ((a, verlet), (b, langevin)):
            step_of(motion, state, torch.neg, step)
    torch.testing.assert_close(a.positions, b.positions, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(a.velocities, b.velocities, rtol=1e-10, atol=1e-11)


def test_baoab_samples_a_harmonic_well_exactly():
    """For a harmonic force BAOAB gives <x²> = kT/k at any timestep (Leimkuhler & Matthews 2013)."""
    kelvin, k, mass, n = 300.0, 2.0, 10.0, 4000
    omega = np.sqrt(k * ACCELERATION / mass)
    dt, state = 1.0 / omega, some_state(n)  # long: velocity averages are visibly off here
    state.masses.fill_(mass)
    state.positions.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    motion = LangevinBAOAB(dt, kelvin, omega, 3)
    squares, speeds = [], []
    for step in range(160):
        step_of(motion, state, lambda x: -k * x, step)
        if step >= 60 and step % 5 == 0:
            squares.append(float((state.positions**2).mean()))
            speeds.append(float((state.velocities**2).mean()))
    assert np.mean(squares) == pytest.approx(BOLTZMANN * kelvin / k, rel=0.01)
    expected = BOLTZMANN * kelvin / (KINETIC * mass) * (1 - (omega * dt) ** 2 / 4)
    assert np.mean(speeds) == pytest.approx(expected, rel=0.01)


def test_integrator_of_an_ensemble():
    assert integrator(Ensemble(), 1.0).conserves_momentum
    langevin = integrator(Ensemble(type="nvt-langevin", temperature=10, friction=0.1), 1.0)
    assert isinstance(langevin, LangevinBAOAB)
    assert langevin.kept == pytest.approx(np.exp(-0.1))
    assert langevin.kept**2 + langevin.renewed**2 == pytest.approx(1.0, abs=1e-15)
