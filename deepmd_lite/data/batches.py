"""What training consumes: frames with their neighbourhoods, and several of them as one system."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..neighbors import PeriodicEnv, periodic_env
from ..system import InputError, LocalEnv, type_indices
from .frames import Frame


@dataclass
class PreparedFrame:
    """A frame and its neighbourhoods, which are used in every epoch."""

    frame: Frame
    types: np.ndarray = field(repr=False)
    """(n_atoms,) int32, index into the model's type map."""
    cutoff: float
    """Å."""
    n_edges: int = 0
    """Of the neighbour list."""
    _kept: PeriodicEnv | None = field(default=None, repr=False)

    @property
    def periodic(self) -> PeriodicEnv:
        """Ghosts and neighbour list; made anew by each call where they are not kept."""
        if self._kept is not None:
            return self._kept
        f = self.frame
        return periodic_env(f.positions, f.cell, f.pbc, self.types, self.cutoff, f.source)

    @property
    def is_kept(self) -> bool:
        """Whether the neighbourhoods are in memory."""
        return self._kept is not None

    @property
    def env(self) -> LocalEnv:
        """The frame's own environment, likewise."""
        return self.periodic.env

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.types)


def prepare(
    frames: Iterable[Frame], type_map: Sequence[str], cutoff: float, room: float = math.inf
) -> list[PreparedFrame]:
    """Ghosts and neighbour list of every frame, out to `cutoff` (Å).

    `room`: bytes of them that are kept; what does not fit is made anew when it is asked for. Raises
    InputError, naming file and frame, for an element that `type_map` lacks or a structure without
    a usable neighbour list.
    """
    prepared = []
    for frame in frames:
        types = np.array(type_indices(frame.symbols, type_map, frame.source), dtype=np.int32)
        made = PreparedFrame(frame, types, cutoff)
        try:
            periodic = made.periodic
        except InputError as e:
            message = str(e)
            raise InputError(
                message if message.startswith(frame.source) else f"{frame.source}: {message}"
            ) from None
        made.n_edges = periodic.env.n_edges
        if periodic.bytes <= room:
            room -= periodic.bytes
            made._kept = periodic
        prepared.append(made)
    return prepared


def environments(prepared: Iterable[PreparedFrame]) -> Iterator[tuple[LocalEnv, float | None]]:
    """(environment, energy in eV or None) of each frame, as statistics of a data set want them."""
    for p in prepared:
        yield p.env, p.frame.energy


def label_counts(prepared: Iterable[PreparedFrame]) -> tuple[int, int, int]:
    """Frames with an energy, atoms of the frames with forces, and frames with a virial."""
    energies = forces = virials = 0
    for p in prepared:
        energies += p.frame.energy is not None
        forces += p.n_atoms if p.frame.forces is not None else 0
        virials += p.frame.virial is not None
    return energies, forces, virials


@dataclass
class Batch:
    """Several frames as one `LocalEnv`: local atoms of all frames first, then all their ghosts.

    Within each of the two parts the frames follow one another in order. No list crosses from one
    frame to another. A label that a frame lacks is stored as 0 and its mask is False.
    """

    frames: list[Frame]
    env: LocalEnv
    owner: torch.Tensor
    """(n_all,) int64: the local row that each row is an image of."""
    frame_of_row: torch.Tensor
    """(n_all,) int64: number of the frame that each row belongs to."""
    n_atoms: torch.Tensor
    """(n_frames,) int64."""
    energy: torch.Tensor
    """(n_frames,) float64, eV."""
    forces: torch.Tensor
    """(n_local, 3) float64, eV/Å."""
    virial: torch.Tensor
    """(n_frames, 3, 3) float64, eV, +Σ r ⊗ f: positive under compression."""
    has_energy: torch.Tensor
    """(n_frames,) bool."""
    has_forces: torch.Tensor
    """(n_frames,) bool."""
    has_virial: torch.Tensor
    """(n_frames,) bool."""
    weights: torch.Tensor
    """(n_frames,) float64: weights of the frames."""
    fparam: torch.Tensor | None
    """(n_frames, k) float64: frame parameters; None where not all frames have as many."""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.frames)

    @property
    def frame_of_atom(self) -> torch.Tensor:
        """(n_local,) int64: number of the frame that each local atom belongs to."""
        return self.frame_of_row[: self.env.n_local]

    def fold(self, forces_all: torch.Tensor) -> torch.Tensor:
        """(n_local, 3): forces of all rows (n_all, 3) added up onto the atoms that own them."""
        return _sum_rows(forces_all, self.owner, self.env.n_local)

    def frame_virials(self, rows: torch.Tensor, forces_all: torch.Tensor) -> torch.Tensor:
        """(n_frames, 3, 3): +Σ row ⊗ force over the rows of each frame.

        `rows` (n_all, 3) Å are the positions at which `forces_all` (n_all, 3) eV/Å, before
        folding, were computed.
        """
        products = (rows[:, :, None] * forces_all[:, None, :]).reshape(-1, 9)
        return _sum_rows(products, self.frame_of_row, self.n_frames).reshape(-1, 3, 3)


def _sum_rows(values: torch.Tensor, target: torch.Tensor, n: int) -> torch.Tensor:
    """(n, columns): rows of `values` added up by `target`."""
    return values.new_zeros(n, values.shape[1]).index_add(0, target, values)


def collate(prepared: Sequence[PreparedFrame]) -> Batch:
    """One batch of the frames, in their order."""
    periodic = [p.periodic for p in prepared]
    envs = [p.env for p in periodic]
    n_atoms = np.array([e.n_local for e in envs])
    n_ghosts = np.array([e.n_all for e in envs]) - n_atoms
    n_local = int(n_atoms.sum())
    first_local = np.cumsum(n_atoms) - n_atoms
    first_ghost = n_local + np.cumsum(n_ghosts) - n_ghosts

    numbers = np.arange(len(envs))
    frame_of_row = np.concatenate([numbers.repeat(n_atoms), numbers.repeat(n_ghosts)])
    env = LocalEnv(
        positions=_locals_then_ghosts([e.positions for e in envs], n_atoms),
        types=_locals_then_ghosts([e.types for e in envs], n_atoms),
        n_local=n_local,
        offsets=_joined_offsets(envs),
        indices=_joined_indices(envs, first_local, first_ghost - n_atoms),
    )
    owner = _locals_then_ghosts([p.owner for p in periodic], n_atoms)
    owner += torch.from_numpy(first_local[frame_of_row])
    return Batch(
        frames=[p.frame for p in prepared],
        env=env,
        owner=owner,
        frame_of_row=torch.from_numpy(frame_of_row),
        n_atoms=torch.from_numpy(n_atoms),
        **_labels([p.frame for p in prepared]),
        fparam=_fparam([p.frame for p in prepared]),
    )


def _fparam(frames: Sequence[Frame]) -> torch.Tensor | None:
    each = [f.fparam for f in frames if f.fparam is not None]
    if len(each) < len(frames) or len({len(x) for x in each}) != 1:
        return None
    return torch.from_numpy(np.stack(each))


def _locals_then_ghosts(parts: list[torch.Tensor], n_atoms: np.ndarray) -> torch.Tensor:
    """First rows (n_atoms of them) of every part, then their other rows."""
    sizes = n_atoms.tolist()
    heads = [part[:n] for part, n in zip(parts, sizes, strict=True)]
    return torch.cat(heads + [part[n:] for part, n in zip(parts, sizes, strict=True)])


def _joined_offsets(envs: list[LocalEnv]) -> torch.Tensor:
    """(n_local + 1,) offsets of the frames' lists one after the other."""
    offsets, before = [np.zeros(1, dtype=np.int64)], 0
    for env in envs:
        offsets.append(env.offsets.numpy()[1:] + before)
        before += env.n_edges
    return torch.from_numpy(np.concatenate(offsets))


def _joined_indices(
    envs: Sequence[LocalEnv], to_local: np.ndarray, to_ghost: np.ndarray
) -> torch.Tensor:
    """(n_edges,) int32: each frame's indices moved to its local and ghost rows in the batch.

    Both moves keep the order of rows within a frame, so the lists stay sorted.
    """
    indices = np.empty(sum(env.n_edges for env in envs), dtype=np.int32)
    start = 0
    for env, local, ghost in zip(envs, to_local.tolist(), to_ghost.tolist(), strict=True):
        own, part = env.indices.numpy(), indices[start : start + env.n_edges]
        np.add(own, local, out=part)
        np.add(part, ghost - local, out=part, where=own >= env.n_local)
        start += env.n_edges
    return torch.from_numpy(indices)


def _labels(frames: Sequence[Frame]) -> dict[str, torch.Tensor]:
    """Labels, masks and weights of a batch; 0 where a label is missing."""
    energy = np.array([0.0 if f.energy is None else f.energy for f in frames])
    forces = [np.zeros((f.n_atoms, 3)) if f.forces is None else f.forces for f in frames]
    virial = [np.zeros((3, 3)) if f.virial is None else f.virial for f in frames]
    return {
        "energy": torch.from_numpy(energy),
        "forces": torch.from_numpy(np.concatenate(forces)),
        "virial": torch.from_numpy(np.stack(virial)),
        "has_energy": torch.tensor([f.energy is not None for f in frames]),
        "has_forces": torch.tensor([f.forces is not None for f in frames]),
        "has_virial": torch.tensor([f.virial is not None for f in frames]),
        "weights": torch.tensor([f.weight for f in frames], dtype=torch.float64),
    }
