"""Batches: several frames as one environment, and the order in which frames are drawn."""

import json

import numpy as np
import pytest
import torch

from deepmd_lite.data import (
    BatchSampler,
    BatchSize,
    Frame,
    collate,
    environments,
    prepare,
)
from deepmd_lite.system import InputError

TYPE_MAP = ["H", "O", "Si"]
CUTOFF = 5.0


def frame(symbols, seed, box=4.0, pbc=(True, True, True), **labels):
    """Atoms at random in a skewed cell, some of them outside it."""
    rng = np.random.default_rng(seed)
    n = len(symbols)
    cell = np.array([[box, 0.0, 0.0], [1.0, box, 0.0], [0.5, -0.7, box]])
    positions = rng.uniform(-0.5, 1.5, (n, 3)) @ cell
    return Frame(
        tuple(symbols), positions, cell, np.array(pbc), source=f"data.xyz, frame {seed}", **labels
    )


def labels(n, seed):
    rng = np.random.default_rng(seed)
    return {
        "energy": float(rng.normal()),
        "forces": rng.normal(size=(n, 3)),
        "virial": rng.normal(size=(3, 3)),
    }


@pytest.fixture
def prepared():
    """Frames of different size, composition, periodicity and labels."""
    frames = [
        frame(["O", "H", "H"], 0, **labels(3, 0)),
        frame(["Si"], 1, box=2.1, energy=-1.0, weight=0.5),
        frame(["H", "Si", "O", "H", "O"], 2, pbc=(True, False, False), forces=np.ones((5, 3))),
        frame(["Si", "O"], 3, pbc=(False, False, False)),
    ]
    return prepare(frames, TYPE_MAP, CUTOFF)


def test_lists_that_are_not_kept_are_made_anew(prepared):
    frames = [p.frame for p in prepared]
    room = prepared[0].periodic.bytes + prepared[1].periodic.bytes
    some = prepare(frames, TYPE_MAP, CUTOFF, room)
    assert [p.is_kept for p in some] == [True, True, False, False]
    assert all(p.is_kept for p in prepared)
    assert [(p.n_edges, p.n_atoms) for p in some] == [(p.env.n_edges, p.n_atoms) for p in prepared]
    assert some[0].periodic is some[0].periodic
    ours, expected = collate(some), collate(prepared)
    for name in ("positions", "types", "offsets", "indices"):
        assert torch.equal(getattr(ours.env, name), getattr(expected.env, name))
    assert torch.equal(ours.owner, expected.owner)


def test_a_large_frame_leaves_room_for_later_lists(prepared):
    frames = [prepared[k].frame for k in (0, 2, 3)]
    room = prepared[0].periodic.bytes - 1
    assert room > prepared[2].periodic.bytes + prepared[3].periodic.bytes
    assert [p.is_kept for p in prepare(frames, TYPE_MAP, CUTOFF, room)] == [False, True, True]


def edges_of_atom(env, i):
    """Edge vectors and neighbour types of row i, in the order of its list."""
    rows = env.indices[env.offsets[i] : env.offsets[i + 1]].long()
    return env.positions[rows] - env.positions[i], env.types[rows]


def test_every_atom_sees_what_it_sees_alone(prepared):
    batch = collate(prepared)
    assert batch.n_atoms.tolist() == [3, 1, 5, 2]
    assert batch.frame_of_atom.tolist() == [0] * 3 + [1] + [2] * 5 + [3] * 2
    row = 0
    for number, p in enumerate(prepared):
        for i in range(p.env.n_local):
            assert torch.equal(batch.env.positions[row], p.env.positions[i])
            assert batch.env.types[row] == p.env.types[i]
            for ours, alone in zip(
                edges_of_atom(batch.env, row), edges_of_atom(p.env, i), strict=True
            ):
                assert torch.equal(ours, alone)
            neighbors = batch.env.indices[batch.env.offsets[row] : batch.env.offsets[row + 1]]
            assert (batch.frame_of_row[neighbors.long()] == number).all()
            row += 1
    assert row == batch.env.n_local
    assert batch.env.n_edges == sum(p.env.n_edges for p in prepared) > 100
    assert batch.env.n_all == sum(p.env.n_all for p in prepared)
    assert batch.env.indices.dtype == torch.int32
    assert batch.env.offsets.dtype == batch.owner.dtype == torch.int64


def test_lists_stay_sorted_by_type_and_index(prepared):
    env = collate(prepared).env
    for i in range(env.n_local):
        rows = env.indices[env.offsets[i] : env.offsets[i + 1]].long()
        key = env.types[rows].long() * env.n_all + rows
        assert (key.diff() > 0).all()


def test_ghosts_are_images_of_their_owners(prepared):
    batch = collate(prepared)
    env = batch.env
    assert torch.equal(batch.owner[: env.n_local], torch.arange(env.n_local))
    assert (batch.owner < env.n_local).all()
    assert torch.equal(env.types, env.types[batch.owner])
    assert torch.equal(batch.frame_of_row, batch.frame_of_atom[batch.owner])
    cells = torch.tensor(np.stack([f.cell for f in batch.frames]))
    moved = env.positions - env.positions[batch.owner]
    shifts = torch.linalg.solve(cells[batch.frame_of_row].mT, moved)
    torch.testing.assert_close(shifts, shifts.round(), atol=1e-9, rtol=0)


def test_forces_and_virials_are_those_of_the_frames_alone(prepared):
    batch = collate(prepared)
    rng = torch.Generator().manual_seed(0)
    forces_all = torch.randn(batch.env.n_all, 3, dtype=torch.float64, generator=rng)
    folded = batch.fold(forces_all)
    virials = batch.frame_virials(batch.env.positions, forces_all)
    start = 0
    for number, p in enumerate(prepared):
        mine = batch.frame_of_row == number  # locals, then ghosts, as in the frame itself
        rows, own = batch.env.positions[mine], forces_all[mine]
        assert torch.equal(rows, p.env.positions)
        torch.testing.assert_close(folded[start : start + p.n_atoms], p.periodic.fold(own))
        torch.testing.assert_close(virials[number], rows.T @ own)
        start += p.n_atoms


def test_fold_and_virials_are_differentiable(prepared):
    batch = collate(prepared[:2])
    forces_all = torch.randn(batch.env.n_all, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(batch.fold(forces_all).sum(), forces_all)
    assert torch.equal(gradient, torch.ones_like(gradient))
    virials = batch.frame_virials(batch.env.positions, forces_all)
    (gradient,) = torch.autograd.grad(virials[:, 0, 1].sum(), forces_all)
    assert torch.equal(gradient[:, 1], batch.env.positions[:, 0])


def test_labels_and_masks(prepared):
    batch = collate(prepared)
    assert batch.has_energy.tolist() == [True, True, False, False]
    assert batch.has_forces.tolist() == [True, False, True, False]
    assert batch.has_virial.tolist() == [True, False, False, False]
    assert batch.weights.tolist() == [1.0, 0.5, 1.0, 1.0]
    assert batch.energy.tolist() == [prepared[0].frame.energy, -1.0, 0.0, 0.0]
    np.testing.assert_array_equal(batch.forces[:3], prepared[0].frame.forces)
    assert batch.forces.shape == (11, 3)
    assert not batch.forces[3].any()
    assert (batch.forces[4:9] == 1.0).all()
    np.testing.assert_array_equal(batch.virial[0], prepared[0].frame.virial)
    assert batch.frames[2].source == "data.xyz, frame 2"
    for name in ("energy", "forces", "virial", "weights"):
        assert getattr(batch, name).dtype == torch.float64


def test_collating_leaves_the_frames_alone(prepared):
    before = [(p.env.indices.clone(), p.periodic.owner.clone()) for p in prepared]
    alone = collate(prepared[1:2])
    alone.env.positions += 1.0
    alone.env.indices += 1
    alone.forces += 1.0
    again = collate(prepared)
    for p, (indices, owner) in zip(prepared, before, strict=True):
        assert torch.equal(p.env.indices, indices)
        assert torch.equal(p.periodic.owner, owner)
    assert not again.forces[3].any()


def test_environments_for_statistics(prepared):
    pairs = list(environments(prepared))
    assert [energy for _, energy in pairs] == [prepared[0].frame.energy, -1.0, None, None]
    assert [env.n_local for env, _ in pairs] == [3, 1, 5, 2]


def test_preparing_names_the_frame():
    with pytest.raises(InputError, match=r"data\.xyz, frame 7: element Si is not in the type map"):
        prepare([frame(["Si"], 7)], ["H"], CUTOFF)


def test_coincident_atoms_are_refused_with_the_frame():
    doubled = frame(["Si", "O"], 7)
    doubled.positions[1] = doubled.positions[0]
    with pytest.raises(InputError, match=r"^data\.xyz, frame 7: atoms 0 and 1 coincide"):
        prepare([doubled], TYPE_MAP, CUTOFF)


# --- sampler ----------------------------------------------------------------------------------


def epoch_of(sampler):
    """The batches of one epoch of a sampler that stands at the start of it."""
    number, batches = sampler.epoch, []
    while True:
        state = sampler.state_dict()
        batch = next(sampler)
        if sampler.epoch != number:
            sampler.load_state_dict(state)
            return batches
        batches.append(batch)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100, "auto", "auto:50", "max:50", "filter:9"])
def test_every_epoch_draws_each_frame_once(batch_size):
    n_atoms = np.random.default_rng(0).integers(1, 40, 25)
    sampler = BatchSampler(n_atoms, batch_size, seed=3)
    orders = []
    for _ in range(3):
        batches = epoch_of(sampler)
        orders.append([i for batch in batches for i in batch])
        assert sorted(orders[-1]) == list(range(25))
        next(sampler)
        sampler.load_state_dict({**sampler.state_dict(), "position": 0})
    assert orders[0] != orders[1] != orders[2]


def test_shares_decide_how_often_a_frame_is_drawn():
    shares = np.repeat([0.7 / 10, 0.3 / 30], [10, 30])
    sampler = BatchSampler([5] * 40, 4, seed=2, shares=shares)
    drawn = [i for _ in range(500) for batch in epoch_of_shares(sampler) for i in batch]
    assert len(drawn) == 500 * 40
    assert np.mean(np.array(drawn) < 10) == pytest.approx(0.7, abs=0.015)
    counts = np.bincount(drawn, minlength=40)
    assert np.abs(counts[:10] / 1400 - 1).max() < 0.1
    state = sampler.state_dict()
    expected = [next(sampler) for _ in range(20)]
    again = BatchSampler([5] * 40, 4, seed=9, shares=shares)
    again.load_state_dict(state)
    assert [next(again) for _ in range(20)] == expected


def epoch_of_shares(sampler):
    return [next(sampler) for _ in range(10)]


def test_batches_in_an_epoch_are_counted_without_drawing_them():
    sampler, other = (BatchSampler([9] * 9, "auto", seed=4) for _ in range(2))
    next(sampler), next(other)
    assert sampler.batches_in_epoch() == 3
    assert [next(sampler) for _ in range(7)] == [next(other) for _ in range(7)]


def test_batch_sizes():
    assert [len(b) for b in epoch_of(BatchSampler([5] * 10, 4))] == [4, 4, 2]
    assert [len(b) for b in epoch_of(BatchSampler([192] * 3, "auto"))] == [1, 1, 1]
    assert [len(b) for b in epoch_of(BatchSampler([9] * 9, "auto"))] == [4, 4, 1]
    assert [len(b) for b in epoch_of(BatchSampler([32] * 4, "auto"))] == [1] * 4
    assert [len(b) for b in epoch_of(BatchSampler([32] * 4, "auto:33"))] == [2, 2]
    assert [len(b) for b in epoch_of(BatchSampler([32] * 4, "max:64"))] == [2, 2]
    assert [len(b) for b in epoch_of(BatchSampler([32] * 4, "max:63"))] == [1, 1, 1, 1]
    assert [len(b) for b in epoch_of(BatchSampler([32] * 4, "max:1"))] == [1, 1, 1, 1]
    sizes = np.random.default_rng(1).integers(1, 20, 50)
    atoms = [sizes[b].sum() for b in epoch_of(BatchSampler(sizes, "max:40"))]
    assert max(atoms) <= 40
    assert min(atoms[:-1]) > 20  # another frame would not have fitted
    n_atoms = [1, 2, 40, 7, 16, 31, 8, 3]
    for batch in epoch_of(BatchSampler(n_atoms, "auto"))[:-1]:
        assert sum(n_atoms[i] for i in batch) >= 32
        assert sum(n_atoms[i] for i in batch[:-1]) < 32


def test_the_seed_decides_the_order():
    def first(seed):
        return [next(sampler) for sampler in [BatchSampler([1] * 50, 50, seed)]]

    assert first(1) == first(1)
    assert first(1) != first(2)


@pytest.mark.parametrize("drawn", [0, 1, 6, 7, 8, 33])
def test_state_goes_through_json_and_continues_exactly(drawn):
    sampler = BatchSampler([3] * 20, 3, seed=5)
    for _ in range(drawn):
        next(sampler)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [next(sampler) for _ in range(40)]
    other = BatchSampler([3] * 20, 3, seed=99)
    for _ in range(11):
        next(other)
    other.load_state_dict(state)
    assert [next(other) for _ in range(40)] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_frames": 21}, "n_frames was 21 and is now 20"),
        ({"batch_size": 4}, "batch_size was 4 and is now 3"),
        ({"position": 21}, "frame 21 cannot be"),
        ({"epoch": -1}, "epoch -1"),
        ({"more": 1}, "expected keys"),
    ],
)
def test_foreign_states_are_refused(change, message):
    sampler = BatchSampler([3] * 20, 3)
    with pytest.raises(InputError, match=message):
        sampler.load_state_dict({**sampler.state_dict(), **change})


@pytest.mark.parametrize(
    "batch_size",
    [0, -1, True, "auto:", "auto:0", "auto:x", "auto:²", "max", "max:0", "filter:", "mixed:3", 1.5],
)
def test_batch_sizes_that_mean_nothing(batch_size):
    with pytest.raises(InputError, match="batch_size: expected"):
        BatchSampler([1], batch_size)


@pytest.mark.parametrize(
    ("batch_size", "typical", "largest_frame"),
    [(3, 3, None), ("auto", 4, None), ("auto:5", 1, None), ("max:50", 5, None), ("filter:9", 1, 9)],
)
def test_what_a_batch_size_means(batch_size, typical, largest_frame):
    size = BatchSize.of(batch_size)
    assert size.typical(10.5) == typical
    assert size.largest_frame == largest_frame


def test_no_frames():
    with pytest.raises(InputError, match="no frames"):
        BatchSampler([], 1)
