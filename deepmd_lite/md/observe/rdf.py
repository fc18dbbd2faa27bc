"""Radial distribution functions g(r) and coordination numbers, for each pair of elements.

g_ab(r) = V ⟨number of b around a at r … r + dr⟩ / (N_b 4π r² dr), with the exact volume of the
shell. So g tends to 1, in a finite system of one element to 1 − 1/N; and the number of neighbours
within r is its integral, whatever the size of the cell.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import torch

from ... import kernels
from ...pairs import pairs_of
from ...system import LocalEnv
from ..engine import Engine
from ..halo import Halo
from ..state import CPU
from .base import Observable, System, Table, columns
from .settings import RdfSettings


class Rdf(Observable):
    """`rdf.csv`: r_A, and for each pair g and the running coordination numbers."""

    name = "rdf"
    SUMS = ("pairs", "pairs_volume")
    settings: RdfSettings

    def __init__(self, settings: RdfSettings, system: System) -> None:
        super().__init__(settings, system)
        system.need_volume(self.name)
        self.r_max = settings.r_max or system.rcut
        n = len(system.elements)
        self.pairs = np.zeros((n * n, settings.bins))
        """Ordered pairs (centre, neighbour) found, by elements and distance."""
        self.pairs_volume = np.zeros_like(self.pairs)
        """The same, each sample times its volume (Å³)."""

    def sample(self, engine: Engine, step: int, time: float) -> None:
        env = engine.env if self.r_max <= engine.model.rcut else self._wider(engine)
        found = engine.comm.reduce(self._count(env), "sum")
        self.samples += 1
        self.pairs += found
        self.pairs_volume += found * engine.volume

    def _wider(self, engine: Engine) -> LocalEnv:
        """A list that reaches to r_max. Atoms may have left their subdomain since the last list,
        by `drift` at most, so the halo must reach further."""
        state = engine.state.to(CPU)
        drift = engine.comm.largest(engine.drift())
        halo = Halo(engine.halo.domain, engine.comm)
        positions, types, _ = halo.exchange(state, self.r_max + 2.0 * drift)
        offsets, indices = kernels.neighbor_list(positions, types, len(state), self.r_max)
        return LocalEnv(positions, types, len(state), offsets, indices)

    def _count(self, env: LocalEnv) -> np.ndarray:
        """(elements², bins) ordered pairs of this rank."""
        n, bins = len(self.system.elements), self.settings.bins
        slots = bins * torch.from_numpy(self.system.of_type)[env.types.long().cpu()]
        counts = torch.zeros(n * n * bins, dtype=torch.int64)
        for pairs in pairs_of(env):
            slot = pairs.squares.sqrt().mul_(bins / self.r_max).long()
            inside = slot < bins
            slot += slots.index_select(0, pairs.neighbors) + pairs.of_centres(n * slots)
            counts += torch.bincount(slot[inside], minlength=len(counts))
        return counts.double().view(n * n, bins).numpy()

    def result(self) -> dict[str, Table]:
        if not self.samples:
            return {}
        system, n = self.system, len(self.system.elements)
        edges = np.linspace(0.0, self.r_max, self.settings.bins + 1)
        shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
        names, values = ["r_A"], [0.5 * (edges[1:] + edges[:-1])]
        for a, b in combinations_with_replacement(range(n), 2):
            pair = f"{system.elements[a]}-{system.elements[b]}"
            density = self.pairs_volume[a * n + b] / (system.counts[a] * system.counts[b])
            names.append(f"g_{pair}")
            values.append(density / (self.samples * shells))
            for i, j in dict.fromkeys([(a, b), (b, a)]):
                names.append(f"n_{system.elements[i]}-{system.elements[j]}")
                around = np.cumsum(self.pairs[i * n + j]) / (self.samples * system.counts[i])
                values.append(around)
        return {"rdf": Table(tuple(names), columns(*values))}
