"""Random numbers, initial velocities and the parts of the integrators."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepmd_lite.kernels import reference
from deepmd_lite.kernels.reference import philox
from deepmd_lite.md.comm import Communicator
from deepmd_lite.md.config import Ensemble
from deepmd_lite.md.initial import set_temperature
from deepmd_lite.md.integrate import Bussi, Langevin, Ramp, VelocityVerlet, integrator
from deepmd_lite.md.integrate.cell_motion import modes, projected
from deepmd_lite.md.integrate.ledger import MOST_OPEN, Ledger
from deepmd_lite.md.integrate.nose_hoover import Chain
from deepmd_lite.md.random import generator, normals
from deepmd_lite.md.state import LAYOUT, State, degrees_of_freedom, temperature, thermal_velocities
from deepmd_lite.system import InputError
from deepmd_lite.units import ACCELERATION, BOLTZMANN, KINETIC


def step_of(motion, state, force, step):
    """One step under forces that are a function of the positions."""
    engine = SimpleNamespace(state=state, forces=force(state.positions), drive=None)
    motion.before_forces(engine, step)
    engine.forces = force(state.positions)
    motion.after_forces(engine, step)


def langevin(timestep, kelvin, friction, seed):
    return VelocityVerlet(timestep, Langevin(Ramp(kelvin, kelvin), friction, seed))


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


@pytest.mark.parametrize(
    ("seed", "stream", "step"), [(0, 0, 0), (1, 3, 2**40 + 7), (2**32 - 1, 1, 5)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_normals_are_those_of_the_reference(seed, stream, step, threads):
    """Also for ids beyond 2^32, and for more than a thread's share."""
    some = [0, 1, 2, 255, 2**31, 2**32 - 1, 2**32, 2**40 + 3]
    ids = torch.cat([torch.tensor(some), torch.arange(5000)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = normals(ids, seed, stream, step)
    finally:
        torch.set_num_threads(before)
    expected = reference.normals(ids, seed, stream, step)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert normals(ids[:0], seed, stream, step).shape == (0, 3)
    with pytest.raises(InputError, match=r"ids: expected torch.int64, found torch.int32"):
        normals(ids.int(), seed, stream, step)


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


def test_unpacked_atoms_do_not_share_memory_with_the_rows():
    rows = some_state().pack()
    state, before = State.unpack(rows), rows.copy()
    for name in LAYOUT:
        getattr(state, name).zero_()
    np.testing.assert_array_equal(rows, before)


def test_the_path_goes_on_where_the_cell_ends():
    state, cell = some_state(), np.array([[9.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.5, 2.0, 7.0]])
    images = np.random.default_rng(4).integers(-3, 4, (len(state), 3))
    path = state.positions.clone()
    state.positions = path - torch.from_numpy(images @ cell)
    state.images = torch.from_numpy(images)
    torch.testing.assert_close(state.path(cell), path, rtol=0, atol=1e-12)


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
    for motion in (VelocityVerlet(1.0), langevin(1.0, 500.0, 0.1, 2)):
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
    verlet, free = VelocityVerlet(1.5), langevin(1.5, 300.0, 0.0, 1)
    for step in range(200):
        for state, motion in ((a, verlet), (b, free)):
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
    motion = langevin(dt, kelvin, omega, 3)
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
    motion = integrator(Ensemble(type="nvt-langevin", temperature=10, friction=0.1), 1.0)
    assert isinstance(motion.thermostat, Langevin)
    assert not motion.conserves_momentum
    assert motion.cell_motion is None


def test_held_atoms_get_no_share_of_the_momentum():
    state = some_state()
    state.mobile[:20] = 0
    set_temperature(state, 321.0, 9, degrees_of_freedom(30, False), Communicator())
    assert float(state.velocities[:20].abs().max()) == 0.0
    momentum = (state.masses[:, None] * state.velocities).sum(0)
    assert float(momentum.abs().max()) < 1e-12
    kinetic = 0.5 * float(state.kinetic_tensor().trace())
    assert temperature(kinetic, 90) == pytest.approx(321.0, rel=1e-12)


def test_numbers_of_the_system_are_functions_of_their_arguments():
    draws = {generator(*key).standard_normal() for key in ((1, 2, 3), (1, 2, 4), (1, 3, 3))}
    assert len(draws) == 3
    assert generator(1, 2, 2**40).standard_normal() in {generator(1, 2, 2**40).standard_normal()}
    x = np.array([generator(5, 2, step).standard_normal() for step in range(20000)])
    assert abs(x.mean()) < 4 / np.sqrt(len(x))
    assert x.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / len(x)))
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 4 / np.sqrt(len(x))


def test_velocity_rescaling_alone_samples_the_canonical_kinetic_energy():
    """2 E / kT is χ² distributed; its correlation decays with the time constant (Bussi 2007)."""
    freedom, ratio, n = 12, 0.4, 40000
    thermostat = Bussi(Ramp(300.0, 300.0), 1.0, 5)
    thermostat.freedom = freedom
    reduced = np.empty(n)
    value = 1.0
    for step in range(n):
        value *= thermostat._factor(value, ratio, step) ** 2
        reduced[step] = value
    x, decay = reduced[100:], np.exp(-ratio)
    independent = len(x) * (1 - decay) / (1 + decay)
    variance = 2 * freedom
    assert x.mean() == pytest.approx(freedom, abs=4 * np.sqrt(variance / independent))
    assert x.var() == pytest.approx(variance, rel=5 * np.sqrt((2 + 12 / freedom) / independent))
    assert np.corrcoef(x[1:], x[:-1])[0, 1] == pytest.approx(decay, abs=0.02)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_a_chain_is_reversible_and_conserves_its_energy(length):
    """Coupled to a kinetic energy alone, over a long time and back again."""
    freedom, thermal, time = 6, 0.05, 20.0

    def end_of(step):
        chain, twice = Chain(length, 50.0), 3.0 * freedom * thermal
        chain.velocities[:] = 0.004
        energies = [0.5 * twice + chain.energy(freedom, thermal)]
        for _ in range(round(time / step)):
            twice *= chain.advance(twice, freedom, thermal, step) ** 2
            energies.append(0.5 * twice + chain.energy(freedom, thermal))
        return chain, twice, np.abs(np.array(energies) - energies[0]).max()

    chain, twice, error = end_of(2.0)
    # Suzuki and Yoshida's steps are of fourth order, unless round-off hides it
    assert error / max(end_of(1.0)[2], 1e-13) > 12.0
    chain.velocities *= -1.0
    for _ in range(10):
        twice *= chain.advance(twice, freedom, thermal, 2.0) ** 2
    assert twice == pytest.approx(3.0 * freedom * thermal, rel=1e-10)
    np.testing.assert_allclose(chain.velocities, -0.004, rtol=1e-8)


def test_modes_are_orthonormal_and_project():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(3, 3))
    expected = {
        "isotropic": (1, np.trace(matrix) / 3 * np.eye(3)),
        "anisotropic": (3, np.diag(np.diag(matrix))),
        "flexible": (6, 0.5 * (matrix + matrix.T)),
    }
    for coupling, (count, part) in expected.items():
        found = modes(coupling)
        assert len(found) == count
        np.testing.assert_allclose(
            np.einsum("kij,lij->kl", found, found), np.eye(count), atol=1e-14
        )
        np.testing.assert_allclose(projected(matrix, found), part, atol=1e-14)


def test_a_ledger_does_not_depend_on_order():
    amounts = np.random.default_rng(3).normal(size=2000) * 10.0 ** np.arange(-6, 2).repeat(250)
    a, b, serial = Ledger(), Ledger(), Communicator()
    for x in amounts:
        a.add(x)
    for x in amounts[1000:]:
        b.add(x)
    b.recall(b.units(serial))
    for x in amounts[:1000]:
        b.add(x)
    assert a.total(serial) == b.total(serial) == pytest.approx(amounts.sum(), abs=1e-7)
    a.add(np.nan)
    assert a.total(serial) == b.total(serial)


def test_a_ledger_counts_tensors_later():
    """As a GPU gives them: the same units, whether many are open or few."""
    amounts = np.random.default_rng(4).normal(size=MOST_OPEN + 7)
    numbers, tensors, serial = Ledger(), Ledger(), Communicator()
    for x in amounts:
        numbers.add(x)
        tensors.add(torch.tensor(x))
    tensors.add(torch.tensor(np.nan))
    assert 0 < len(tensors._open) < MOST_OPEN
    assert tensors.units(serial) == numbers.units(serial) != 0
    assert not tensors._open
    tensors.add(torch.tensor(1.0))
    tensors.recall(5)
    assert tensors.units(serial) == 5


def test_a_chain_far_from_its_temperature_is_not_a_number():
    """Guards find it in the velocities; numbers of Python would end the run without a word."""
    chain = Chain(3, 10.0)
    factor = chain.advance(1e6, 1000, BOLTZMANN, 0.5)
    assert np.isnan(factor)
