"""Atoms on their ranks, ghosts around them, a neighbour list, and the forces on them.

Atoms belong to ranks by place (`Domain`), ghosts surround them (`Halo`), the model sees neither
(`LocalEnv`). Their state is where the model evaluates: on a GPU a step copies none of them to the
host, a new list all.

The list reaches a skin beyond the cutoff. It serves as long as no pair outside it can have come
within the cutoff: where the cell has been deformed by F since it was made, and no atom has left the
affine motion by more than d, a pair further apart than rcut + skin then is further apart than
σ_min(F)·(rcut + skin) − 2 d now, σ_min being the smallest singular value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ..committee import device_of, listed
from ..kernels.cuda import SMALL
from ..system import LocalEnv, Model, WithAtomicVirials, counted_once
from .coincident import TooClose, atoms_named
from .comm import Communicator
from .halo import Halo, decompose
from .initial import Start
from .report import Stopwatch
from .state import CPU, State

if TYPE_CHECKING:
    from .baths import Baths
    from .drive import Drive

UNEVEN = 1.05
"""Largest load of a rank over the mean at which the planes are left where they are."""


@dataclass(frozen=True)
class Totals:
    """Sums over all atoms of all ranks."""

    potential: float
    """eV."""
    kinetic: np.ndarray
    """(3, 3) eV: Σ m v ⊗ v; half its trace is the kinetic energy."""
    virial: np.ndarray
    """(3, 3) eV."""
    beyond_table: int
    """Pairs closer than any that the model's table knows."""

    @property
    def kinetic_energy(self) -> float:
        """eV."""
        return 0.5 * float(np.trace(self.kinetic))

    @property
    def energy(self) -> float:
        """eV, potential and kinetic."""
        return self.potential + self.kinetic_energy

    def stress(self, volume: float) -> np.ndarray:
        """(3, 3) eV/Å³, tension positive, kinetic part included; `volume` Å³."""
        return -(self.virial + self.kinetic) / volume


class Engine:
    """What an integrator moves: `state` and `cell`; and what moves it: `forces`.

    All ranks make the same calls, except where it says 'of this rank'.
    """

    def __init__(
        self,
        model: Model,
        start: Start,
        comm: Communicator,
        *,
        skin: float,
        grid: Sequence[int] | None = None,
        balance: str = "atoms",
        ghosts: str = "auto",
    ) -> None:
        """Bring the atoms of `start` to their ranks and list their neighbours; `evaluate` next.

        `skin` Å; `grid` of subdomains or None; `balance`: 'atoms' gives every rank as many,
        'time' lets the planes follow the measured time of the model; `ghosts`: 'host' has those on
        GPUs go by way of the host in any case.
        """
        self.model, self.comm, self.skin = model, comm, skin
        self.torch_device = device_of(model)
        """The device of `state`, `env`, `forces`, `energies` and `virial`."""
        self.n_atoms, self.pbc = start.n_atoms, start.pbc
        self.cell = start.cell.copy()
        """(3, 3) Å, lattice vectors of this moment; another array where they change."""
        self.balance, self._ghosts = balance, ghosts
        self.stopwatch = Stopwatch()
        self.list_builds = self.beyond_table = 0
        self._model_seconds = 0.0  # of this rank since the planes were last looked at
        self.state: State = start.state
        self.ids = torch.zeros(0, dtype=torch.int64)
        """(n_all,) of the atoms of this rank and its ghosts, on the host."""
        self.forces = self._zeros(0, 3)
        """(n, 3) eV/Å on the atoms of this rank, complete, with those that `push` added."""
        self.model_forces = self.forces
        """Those of the model alone."""
        self.energies = self._zeros(0)
        """(n,) eV of the atoms of this rank."""
        self.virial = self._zeros(3, 3)
        """(3, 3) eV, this rank's share, with that which `push` added."""
        self.model_virial = self.virial
        """That of the model alone."""
        self.baths: Baths | None = None
        """Where heat flows between two of them."""
        self.drive: Drive | None = None
        """What moves those atoms that no force does."""
        self.too_close: str | None = None
        """Atoms of this rank that have come too close for the model; forces are 0 then. Those of
        the structure raise TooClose."""
        self.list_is_new = True
        """Whether it was made for the positions of this moment; on all ranks the same."""
        self._evaluated = False
        self._place(start, grid)

    def _place(self, start: Start, grid: Sequence[int] | None) -> None:
        state, cell = start.state, start.cell
        built = start.cell if start.built_cell is None else start.built_cell
        domain = start.domain
        if domain is None or domain.size != self.comm.size or grid not in (None, domain.grid):
            domain = decompose(state.built.numpy(), built, start.pbc, self.comm, grid)
        self.halo = Halo(
            domain, self.comm, self.torch_device, by_way_of_host=self._ghosts == "host"
        )
        if start.built_cell is None:
            self._build()
            return
        # Make the list of the run that is continued, from the positions and the cell that it was
        # made for, while the positions of this moment travel along in the place of `built`.
        state.positions, state.built = state.built, state.positions
        self.cell = built
        present = self._build()
        self.state.positions.copy_(present)
        self.cell = cell.copy()
        self.halo.deform(self.cell)
        self.halo.update(self.env.positions)

    def _build(self) -> torch.Tensor:
        """Atoms to their owners, ghosts around them, and a new list; returns what they brought
        along as `State.built`."""
        # At the peak of memory: the old list would be most of it, and old forces are of no use.
        self.env, self.forces = _no_env(), self.forces[:0].clone()
        self.model_forces = self.forces
        if self.torch_device.type == "cuda" and len(self.state) > SMALL:
            torch.cuda.empty_cache()  # or what stays would lie where the next list must go
        with self.stopwatch("communicate"):
            state = self.halo.migrate(self.state.to(CPU))
            brought, state.built = state.built, state.positions.clone()
            self.built_cell = self.cell
            cutoff = self.model.rcut + self.skin
            positions, types, self.ids = self.halo.exchange(state, cutoff)
            positions, types = positions.to(self.torch_device), types.to(self.torch_device)
            state = self.state = state.to(self.torch_device)
        with self.stopwatch("neighbours"):
            n_local = len(state)
            with self._noticing(types):
                offsets, indices = listed(self.model, positions, types, n_local, cutoff)
            if self.too_close:
                offsets, indices = types.new_zeros(n_local + 1, dtype=torch.int64), types[:0]
        self.env = LocalEnv(positions, types, n_local, offsets, indices)
        state.positions = positions[:n_local]  # a view: to move an atom is to move its row
        self.list_builds += 1
        return brought

    def there(self, matrix: np.ndarray) -> torch.Tensor:
        """A small array of the host where the atoms are; the host does not wait for it."""
        return torch.from_numpy(matrix).to(self.torch_device, non_blocking=True)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.torch_device)

    # --- one step, in this order: move atoms and cell, movement, refresh, evaluate --------------

    def deform(self, cell: np.ndarray) -> None:
        """New lattice vectors (3, 3) Å; all atoms follow affinely, held ones too."""
        affine = self.there(np.linalg.solve(self.cell, cell))
        self.state.positions.copy_(self.state.positions @ affine)
        self.cell = np.array(cell, dtype=np.float64)
        self.halo.deform(self.cell)

    def movement(self) -> tuple[float, float]:
        """How much of what the list allows the atoms of this rank have moved (1: it must be made
        anew), and the largest of their speeds, Å/fs; infinite where it is not finite."""
        deformation, allowed = self._deformation(), 0.5 * self.skin
        if deformation is not None:
            stretch = np.linalg.svd(deformation, compute_uv=False).min()
            allowed = 0.5 * (stretch * (self.model.rcut + self.skin) - self.model.rcut)
        moved, speeds = self._drift(deformation), longest(self.state.velocities)
        drift, speed = map(bounded, numbers(moved, speeds))
        return drift / allowed if allowed > 0 else np.inf, speed

    def drift(self) -> float:
        """Å: how far an atom of this rank has left the motion of the cell since the last list."""
        return bounded(float(self._drift(self._deformation())))

    def _drift(self, deformation: np.ndarray | None) -> torch.Tensor:
        built = self.state.built
        if deformation is not None:
            built = built @ self.there(deformation)
        return longest(self.state.positions - built)

    def _deformation(self) -> np.ndarray | None:
        """(3, 3) F of the cell since the last list; None: it is the same."""
        if self.cell is self.built_cell or np.array_equal(self.cell, self.built_cell):
            return None
        return np.linalg.solve(self.built_cell, self.cell)

    def refresh(self, stale: bool) -> None:
        """Ghosts follow their atoms, or, where `stale`, atoms change ranks and lists are new."""
        self.list_is_new = stale
        if stale:
            self._rebalance()
            self._build()
        else:
            with self.stopwatch("communicate"):
                self.halo.update(self.env.positions)

    def evaluate(self) -> None:
        """Forces on the atoms of this rank, complete, and its share of energy and virial."""
        env = self.env
        before = self.stopwatch.seconds.get("model", 0.0)
        with self.stopwatch("model"):
            e = None
            if env.n_local and not self.too_close:
                with self._noticing(env.types):
                    e = self.model.evaluate(env)
            if e is not None:
                self.energies, self.virial = e.energies.detach(), e.virial.detach()
                all_forces = e.forces.detach().double().contiguous()
                self.beyond_now = e.beyond_table
            else:  # nothing to compute, but ghosts that others may want back
                self.energies, self.virial = self._zeros(env.n_local), self._zeros(3, 3)
                all_forces = torch.zeros_like(env.positions)
                self.beyond_now = 0
        self._evaluated = True
        self._model_seconds += self.stopwatch.seconds["model"] - before
        self.beyond_table += self.beyond_now
        with self.stopwatch("communicate"):
            self.forces = self.model_forces = self.halo.reverse(all_forces)
        self.model_virial = self.virial

    def push(self, forces: torch.Tensor, virial: torch.Tensor | None = None) -> None:
        """Add what is not of the model, until the next evaluation: `forces` (n, 3) eV/Å on the
        atoms of this rank, and `virial` (3, 3) eV, its share."""
        self.forces = self.forces + forces.to(self.torch_device)
        if virial is not None:
            self.virial = self.virial + virial.to(self.torch_device)

    @contextmanager
    def _noticing(self, types: torch.Tensor) -> Iterator[None]:
        """Inside, atoms that have come too close in the run are kept for all ranks to know of."""
        try:
            with atoms_named(self.ids, types, self.model.type_map):
                yield
        except TooClose as e:
            if not self._evaluated:
                raise
            self.too_close = e.what

    def atomic_virials(self) -> torch.Tensor:
        """(n, 3, 3) eV of the atoms of this rank, complete; every rank must ask."""
        if self.env.n_local:
            found = cast(WithAtomicVirials, self.model).atomic_virials(self.env)
        else:
            found = self._zeros(self.env.n_all, 3, 3)
        rows = [self.halo.reverse(found[:, a].contiguous()) for a in range(3)]
        return torch.stack(rows, dim=1)

    # --- loads ----------------------------------------------------------------------------------

    def _rebalance(self) -> None:
        """Move the planes where the load of the ranks has become uneven."""
        n, domain = len(self.state), self.halo.domain
        if self.comm.size == 1 or self.balance == "off":
            return
        load = self._model_seconds if self.balance == "time" else float(n)
        with self.stopwatch("communicate"):
            mean = self.comm.total(load) / self.comm.size
            if self.comm.largest(load) > UNEVEN * mean > 0:
                positions, cost = self.state.positions.cpu().numpy(), load / max(n, 1)
                self.halo.domain = decompose(
                    positions, self.cell, self.pbc, self.comm, domain.grid, cost
                )
        self._model_seconds = 0.0

    # --- what can be known about it -------------------------------------------------------------

    @property
    def volume(self) -> float:
        """Å³ of the cell, vacuum included; meaningless where a lattice vector was filled in."""
        return abs(float(np.linalg.det(self.cell)))

    def along(self, axis: int) -> torch.Tensor:
        """(n,) places of the atoms of this rank along a lattice vector, in units of it; from 0 to
        below 1 where it is periodic."""
        places = self.state.positions @ self.there(np.linalg.inv(self.cell)[:, axis].copy())
        return places - places.floor() if self.pbc[axis] else places

    def totals(self) -> Totals:
        """Energies and virial of this moment, summed over the ranks: one message."""
        tensors = self.energies.sum()[None], self.virial, self.state.kinetic_tensor()
        own = torch.cat([x.double().flatten() for x in tensors]).cpu().numpy()
        total = self.comm.reduce(np.append(own, float(self.beyond_now)), "sum")
        return Totals(
            potential=float(total[0]),
            kinetic=total[10:19].reshape(3, 3),
            virial=total[1:10].reshape(3, 3),
            beyond_table=counted_once(int(total[19])),
        )

    def kinetic(self) -> tuple[float, torch.Tensor]:
        """eV: the kinetic energy of all atoms, and, (), what those of this rank have of it."""
        own = self.state.kinetic_energy()
        return self.comm.total(float(own)), own


def _no_env() -> LocalEnv:
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.int32)
    return LocalEnv(nothing, none, 0, torch.zeros(1, dtype=torch.int64), none)


def longest(vectors: torch.Tensor) -> torch.Tensor:
    """() length of the longest of (n, 3) vectors, 0 of none; not finite if any is not."""
    if not len(vectors):
        return vectors.new_zeros(())
    return torch.linalg.vector_norm(vectors, dim=1).max()


def numbers(*values: torch.Tensor) -> list[float]:
    """The values of () float64 tensors: one copy to the host, for which it waits."""
    return torch.stack(values).tolist()


def bounded(number: float) -> float:
    """Infinity in the place of NaN, which compares with nothing."""
    return number if math.isfinite(number) else math.inf
