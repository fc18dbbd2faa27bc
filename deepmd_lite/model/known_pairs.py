"""How near atoms of each pair of elements come in the training data, and who comes nearer.

The one distance that the embedding tables begin at is the smallest of all pairs, mostly that of
hydrogen: two oxygen atoms a bond length apart in water are far outside of it and as far from
anything the model knows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import kernels
from ..pairs import pairs_of
from ..system import InputError, LocalEnv, Model

NEARER = 0.9
"""Of the smallest distance in the data: a little nearer than that any long simulation comes."""
Pair = tuple[int, int]


@dataclass(frozen=True)
class KnownPairs:
    """Which neighbours a model has seen in its training."""

    smallest: torch.Tensor
    """(n_types, n_types) float64 Å, symmetric: the smallest distance of each pair of elements;
    infinite where none was within the cutoff."""

    def with_those_of(self, other: KnownPairs) -> KnownPairs:
        """Of both trainings."""
        return KnownPairs(torch.minimum(self.smallest, other.smallest))

    def to_header(self) -> list[list[float | None]]:
        """As JSON holds it: null for infinity."""
        return [[r if math.isfinite(r) else None for r in row] for row in self.smallest.tolist()]

    @classmethod
    def from_header(cls, rows: Any, n_types: int) -> KnownPairs | None:
        """The inverse; None of None, which files of earlier releases have. Raises InputError for
        what `to_header` never gives."""
        if rows is None:
            return None
        try:
            found = [[math.inf if r is None else float(r) for r in row] for row in rows]
            smallest = torch.tensor(found, dtype=torch.float64)
            if smallest.shape != (n_types, n_types) or not (smallest > 0).all():
                raise ValueError("expected a positive distance, or null, for each pair")
            if not torch.equal(smallest, smallest.T):
                raise ValueError("not symmetric")
        except (TypeError, ValueError) as e:
            raise InputError(f"smallest_distances: {e}") from None
        return cls(smallest)

    def strangers(
        self, env: LocalEnv, rcut: float, but: Collection[Pair] = ()
    ) -> dict[Pair, float]:
        """Pairs of elements of `env` that are nearer than `NEARER` times the smallest distance in
        the data, or are neighbours within `rcut` and never were there: their distance, Å; without
        those in `but`."""
        n_types = len(self.smallest)
        limits = torch.where(self.smallest.isfinite(), NEARER * self.smallest, rcut)
        for pair in but:
            limits[pair] = limits[pair[::-1]] = 0.0
        types = env.types.long()
        there = torch.bincount(types.cpu(), minlength=n_types) > 0
        widest = float((limits * there * there[:, None]).max())
        if not widest:  # nobody is looked for; or a rank has no rows
            return {}
        if env.positions.device.type == "cpu" and widest < rcut / 2:
            # a list that reaches no further costs less than the distances of this one
            own = kernels.neighbor_list(env.positions, env.types, env.n_local, widest)
            env = LocalEnv(env.positions, env.types, env.n_local, *own)
        limits = limits.to(types.device).flatten()
        nearest = torch.full_like(limits, math.inf)
        for pairs in pairs_of(env, types.device):
            near = torch.nonzero(pairs.squares < widest**2)[:, 0]  # few, if none is a stranger
            if not len(near):
                continue
            a, b = pairs.of_centres(types)[near], types[pairs.neighbors[near].long()]
            kind = torch.minimum(a, b) * n_types + torch.maximum(a, b)
            nearest = nearest.scatter_reduce(0, kind, pairs.squares[near].sqrt(), "amin")
        too_near = torch.nonzero(nearest < limits)[:, 0].tolist()
        return {divmod(kind, n_types): float(nearest[kind]) for kind in too_near}

    def are_known(self, pair: Pair) -> bool:
        """Whether its elements ever were neighbours in the data."""
        return math.isfinite(self.smallest[pair])

    def in_words(self, strangers: Mapping[Pair, float], type_map: Sequence[str]) -> str:
        """What `strangers` found, one clause on each pair."""
        clauses = []
        for pair, distance in sorted(strangers.items()):
            names, nearest = "-".join(type_map[k] for k in pair), float(self.smallest[pair])
            there = f"{nearest:.2f} Å at least" if self.are_known(pair) else "never neighbours"
            clauses.append(f"{names} {distance:.2f} Å apart, in the training data {there}")
        return "; ".join(clauses)

    def summary(self, type_map: Sequence[str]) -> str:
        """One line: how near each pair comes."""
        parts = []
        for a, first in enumerate(type_map):
            for b in range(a, len(type_map)):
                r = float(self.smallest[a, b])
                distance = f"{r:.2f} Å" if math.isfinite(r) else "none"
                parts.append(f"{first}-{type_map[b]} {distance}")
        return ", ".join(parts)


def end_of_table(model: Model) -> str:
    """What pairs are closer than that `Evaluation.beyond_table` counts, in words; of several models
    that of the first. That is further in than any pair of the training data, at some elements more
    than at others."""
    first = getattr(model, "models", [model])[0]
    reach = getattr(first, "table_min_distance", None)
    return "the model's table reaches" + (f" ({reach():.2f} Å or less)" if reach else "")
