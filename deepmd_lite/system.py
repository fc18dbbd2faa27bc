"""What an energy is computed from: a set of local atoms, their ghosts and a full neighbour list.

`LocalEnv` is the one contract between those who know about cells, periodicity and ranks (the
producers: `neighbors` for periodic images, `md.halo` for MPI) and those who compute energies and
forces (the consumers: kernels and models), which know nothing of them. Open boundaries only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class DeepmdLiteError(Exception):
    """An error whose message is one line for a person: what, where, expected, found, what to do."""


class InputError(DeepmdLiteError, ValueError):
    """Bad data, configuration or arguments."""


class ModelFileError(DeepmdLiteError, ValueError):
    """A model file that cannot be read or does not hold what it should."""


@dataclass
class LocalEnv:
    """Atoms and their neighbourhoods, without cell or periodicity.

    Rows `0 .. n_local-1` are the atoms whose energies are wanted; rows `n_local ..` are ghosts:
    periodic images or atoms owned by another rank, present only as neighbours. Forces come back on
    all rows; the producer folds those of the ghosts onto their owners.
    """

    positions: torch.Tensor
    """(n_all, 3) float64, Å."""
    types: torch.Tensor
    """(n_all,) int32, index into the model's type map."""
    n_local: int
    offsets: torch.Tensor
    """(n_local + 1,) int64: the neighbours of row i are `indices[offsets[i]:offsets[i + 1]]`."""
    indices: torch.Tensor
    """(n_edges,) int32 rows of `positions`. The list is full (i lists j and j lists i, where both
    are local) and within a row sorted by neighbour type, then by index. It may reach beyond the
    model's cutoff by a skin: what lies outside the cutoff contributes nothing."""

    @property
    def n_all(self) -> int:
        """Local atoms and ghosts."""
        return int(self.positions.shape[0])

    @property
    def n_edges(self) -> int:
        """Entries of the neighbour list."""
        return int(self.indices.shape[0])


@dataclass
class Evaluation:
    """What a potential returns for a `LocalEnv`."""

    energies: torch.Tensor
    """(n_local,) float64, eV: energy of each local atom."""
    forces: torch.Tensor
    """(n_all, 3) float64, eV/Å: −∂(Σ energies)/∂position of every row, ghosts included."""
    virial: torch.Tensor
    """(3, 3) float64, eV: +Σ_rows position ⊗ force, not yet summed over ranks. Stress (ASE's sign,
    tension positive) = −virial / volume."""
    beyond_table: int = 0
    """Neighbours closer than the embedding table's smallest distance (`counted_once`: pairs)."""


class Model(Protocol):
    """What computes energies: a `model.Potential`, a `Committee`, or any object with these parts.

    It may have others of `model.Potential`, which are used where they are there: `precision` (else
    float64), `device`, `torch_device`, `to_device` and `neighbor_list` (else the CPU), `provenance`
    (else nothing is known), `members` and `member` (else no committee), and `atomic_virials`.
    """

    @property
    def rcut(self) -> float:
        """Å: atoms further apart do not see each other."""

    @property
    def type_map(self) -> Sequence[str]:
        """Elements that it knows; the types of a `LocalEnv` are places in it."""

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """Energies of the local atoms, forces on all rows and virial; `env` stays as it is."""


class WithAtomicVirials(Model, Protocol):
    """A model that divides its virial among the atoms."""

    def atomic_virials(self, env: LocalEnv, forces: torch.Tensor | None = None) -> torch.Tensor:
        """(n_all, 3, 3) float64 eV of every row, ghosts included; their sum is the virial of `env`.

        `forces` (n_all, 3) eV/Å of `env` save an evaluation where they are known.
        """


def counted_once(neighbors: int) -> int:
    """Pairs of atoms, each of which was counted as the neighbour of the other."""
    return (neighbors + 1) // 2


def type_indices(symbols: Sequence[str], type_map: Sequence[str], where: str) -> list[int]:
    """Index in `type_map` of each element symbol.

    Raises InputError, naming `where`, for an element the type map lacks.
    """
    index = {name: i for i, name in enumerate(type_map)}
    unknown = sorted(set(symbols) - set(index))
    if unknown:
        raise InputError(
            f"{where}: element {', '.join(unknown)} is not in the type map {list(type_map)}; "
            "use a model that was trained on it"
        )
    return [index[s] for s in symbols]
