"""Repulsion of atoms that come closer than any in the training data.

A network that never saw two atoms meet says nothing true about it, and may let them fuse. Every
pair of elements therefore repels as screened nuclei do (Ziegler, Biersack, Littmark 1985), inside
a radius that the training data do not reach: on them, and wherever a simulation stays among such
distances, the potential is the network alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from .. import kernels
from ..elements import atomic_numbers, covalent_radius
from ..kernels import reference
from ..system import Evaluation, InputError, LocalEnv

DATA_REACH = 0.95
"""r_out is at most this fraction of the pair's smallest distance in the training data."""
INNER = 0.4
"""r_in / r_out. Energies of the join rise inwards for any ratio; with this one forces do as well,
for every pair of elements (with 0.7 they pass through a maximum of up to 2.7 times what they are
further inwards)."""


class Repulsion(nn.Module):
    """The universal ZBL potential of every pair of elements, times a switch from r_in to r_out."""

    atomic_numbers: torch.Tensor
    r_in: torch.Tensor
    r_out: torch.Tensor

    def __init__(self, numbers: torch.Tensor, r_in: torch.Tensor, r_out: torch.Tensor) -> None:
        """`numbers` (n_types,); `r_in`, `r_out` (n_types, n_types), Å: all float64."""
        super().__init__()
        self.register_buffer("atomic_numbers", numbers)
        self.register_buffer("r_in", r_in)
        self.register_buffer("r_out", r_out)

    @classmethod
    def beyond_data(
        cls, type_map: Sequence[str], distances: torch.Tensor, rcut: float
    ) -> Repulsion:
        """Where the data end: `distances` (n_types, n_types) Å, the smallest of each pair in them.

        r_out is `DATA_REACH` times that distance, at most the sum of the covalent radii (which
        alone counts for a pair that never occurs within the cutoff: infinite) and at most `rcut`.
        Raises InputError for an entry of `type_map` that is no chemical element.
        """
        where = "model/type_map (by whose elements model/repulsion goes; null leaves it out)"
        numbers = atomic_numbers(type_map, where)
        radii = torch.tensor([covalent_radius(z) for z in numbers], dtype=torch.float64)
        bonds = radii[:, None] + radii[None, :]
        r_out = torch.minimum(DATA_REACH * distances, bonds).clamp(max=rcut)
        return cls(torch.tensor(numbers, dtype=torch.float64), INNER * r_out, r_out)

    @classmethod
    def unset(cls, n_types: int) -> Repulsion:
        """The right shapes; the numbers are still to be loaded."""
        square = torch.empty(n_types, n_types, dtype=torch.float64)
        return cls(torch.empty(n_types, dtype=torch.float64), square, square.clone())

    def pairs(self) -> kernels.Repulsion:
        """What the kernels take."""
        return kernels.Repulsion(self.atomic_numbers, self.r_in, self.r_out)

    def check(self) -> None:
        """Raises InputError for numbers that no `beyond_data` gives."""
        ordered = (self.r_in >= 0).all() and (self.r_out > self.r_in).all()
        symmetric = torch.equal(self.r_out, self.r_out.T) and torch.equal(self.r_in, self.r_in.T)
        if not (ordered and symmetric and (self.atomic_numbers >= 1).all()):
            raise InputError(
                "repulsion: expected atomic numbers of at least 1 and symmetric 0 <= r_in < r_out, "
                f"found {self.atomic_numbers.tolist()}, {self.r_in.tolist()}, {self.r_out.tolist()}"
            )

    def energies(self, env: LocalEnv, positions: torch.Tensor) -> torch.Tensor:
        """(n_local,) float64 eV, half of each pair's to each atom; differentiable in positions."""
        return reference.repulsion_energies(
            positions, env.types, env.offsets, env.indices, self.pairs()
        )

    def added(
        self, energies: torch.Tensor, forces: torch.Tensor, env: LocalEnv
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces of `env` with those of the repulsion, which are constants."""
        constant = Evaluation(
            torch.zeros(env.n_local, dtype=torch.float64),
            torch.zeros_like(env.positions),
            torch.zeros(3, 3, dtype=torch.float64),
        )
        self.add_to(constant, env)
        return energies + constant.energies, forces + constant.forces

    def add_to(self, evaluation: Evaluation, env: LocalEnv) -> None:
        """Add energies, forces and virial to `evaluation` of `env`, in place."""
        kernels.add_repulsion(evaluation, env, self.pairs())

    def radii(self, type_map: Sequence[str]) -> Iterator[tuple[str, float]]:
        """('A-B', r_out in Å) of every pair of elements."""
        for a, first in enumerate(type_map):
            for b in range(a, len(type_map)):
                yield f"{first}-{type_map[b]}", float(self.r_out[a, b])

    def summary(self, type_map: Sequence[str]) -> str:
        """One line: where each pair begins to repel."""
        return ", ".join(f"{pair} {r_out:.2f} Å" for pair, r_out in self.radii(type_map))
