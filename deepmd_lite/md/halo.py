"""Moving atoms between ranks, in four verbs: migrate, exchange, update, reverse.

- `migrate`   atoms go to the rank that owns their position: the one place where that changes;
- `exchange`  every rank gets the ghosts within the cutoff of its subdomain;
- `update`    ghosts follow their owners' positions;
- `reverse`   forces on ghosts are added onto their owners.

Ghosts travel axis by axis, and what came along one axis is passed on along the next, so that six
messages fill edges and corners too; where a subdomain is thinner than the halo they hop further.
A rank that is its own neighbour copies instead of sending: periodic images on a single rank go
through the same verbs as any others. Where there is but one rank, on the host, what six swaps do
is done in one: each ghost is an image of an atom.

`update` and `reverse`, which each step needs, work where the model does: on a GPU nothing leaves it
but what goes to other ranks: at once where MPI says that it takes that from a GPU, by way of the
host where not. `migrate` and `exchange`, which come with a new list, are work for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..kernels import cuda
from .comm import Communicator, SharedError
from .domain import Domain, balanced, bounds, checked_grid, choose_grid, histogram, occupied_lengths
from .state import CPU, State


@dataclass
class _Swap:
    """One pass of ghosts to a neighbour. All index arrays refer to local atoms and ghosts."""

    to: int | None
    """Rank that gets the atoms of `rows`; None beyond an open boundary."""
    source: int | None
    """Rank whose atoms arrive here."""
    tag: int
    rows: torch.Tensor
    """(n_sent,) int64."""
    axis: int
    lattice: int
    """Number of lattice vectors along `axis` from this rank's frame to the receiver's."""
    shift: torch.Tensor
    """(3,) Å, that many vectors of the present cell: added to the positions sent."""
    start: int
    stop: int
    """Rows of the ghosts that arrive."""
    buffer: torch.Tensor
    """(n_sent, 3) float64: positions on their way out, forces on their way back."""
    staging: tuple[torch.Tensor, torch.Tensor] | None
    """(n_sent, 3) and (n_arriving, 3) float64 of the host, where all passes through it."""

    @property
    def is_void(self) -> bool:
        """Both neighbours are beyond open boundaries."""
        return self.to is None and self.source is None


@dataclass
class _Images:
    """The ghosts of a process that is alone: images of its own atoms, whatever way they came."""

    owners: torch.Tensor
    """(n_ghosts,) int64."""
    lattice: torch.Tensor
    """(n_ghosts, 3) int16: lattice vectors from the owner to the image."""
    shifts: torch.Tensor
    """(n_ghosts, 3) Å, those of the present cell."""

    @classmethod
    def of(cls, swaps: Sequence[_Swap], n_local: int, cell: np.ndarray) -> _Images:
        """Those that `swaps` make one after the other, also of those that came before."""
        n_ghosts = sum(swap.stop - swap.start for swap in swaps)
        owners = torch.empty(n_ghosts, dtype=torch.int64)
        lattice = torch.zeros(n_ghosts, 3, dtype=torch.int16)
        for swap in swaps:
            new, earlier = slice(swap.start - n_local, swap.stop - n_local), swap.rows - n_local
            again = earlier >= 0
            owners[new] = swap.rows
            owners[new][again] = owners[earlier[again]]
            lattice[new][again] = lattice[earlier[again]]
            lattice[new, swap.axis] += swap.lattice
        images = cls(owners, lattice, torch.empty(0, dtype=torch.float64))
        images.deform(cell)
        return images

    def deform(self, cell: np.ndarray) -> None:
        """Other lattice vectors (3, 3) Å."""
        along = [self.lattice[:, i, None] * torch.from_numpy(cell[i]) for i in range(3)]
        self.shifts = along[0] + along[1] + along[2]  # no matrix product: the same bits always

    def update(self, positions: torch.Tensor) -> None:
        """As `Halo.update`."""
        n_local = len(positions) - len(self.owners)
        ghosts = positions[n_local:]
        torch.index_select(positions[:n_local], 0, self.owners, out=ghosts)
        ghosts.add_(self.shifts)

    def reverse(self, forces: torch.Tensor) -> torch.Tensor:
        """As `Halo.reverse`."""
        n_local = len(forces) - len(self.owners)
        own = forces[:n_local]
        return own.index_add_(0, self.owners, forces[n_local:])


class _Repetition:
    """The launches of a rank that is alone on a GPU: the same as long as its ghosts are."""

    def __init__(self, recorder: cuda.Recorder, n_all: int) -> None:
        self.forces = torch.empty(n_all, 3, dtype=torch.float64, device=recorder.torch_device)
        self.sums = torch.empty_like(self.forces)
        self.updates: cuda.Repeated[None] = cuda.Repeated(recorder)
        self.returns: cuda.Repeated[torch.Tensor] = cuda.Repeated(recorder)
        self._address: int | None = None

    def is_of(self, positions: torch.Tensor) -> bool:
        """Whether these are where the first ones were."""
        self._address = self._address or positions.data_ptr()
        return positions.data_ptr() == self._address


class Halo:
    """Moves the atoms of a `Domain` over the ranks of a communicator."""

    def __init__(
        self,
        domain: Domain,
        comm: Communicator,
        torch_device: torch.device = CPU,
        by_way_of_host: bool = False,
    ) -> None:
        """`torch_device`: that of what is given to `update` and `reverse`; `by_way_of_host`: to
        bring ghosts of a GPU that way in any case."""
        if domain.size != comm.size:
            raise ValueError(f"a grid of {domain.grid} subdomains for {comm.size} ranks")
        self.domain = domain
        self.comm, self.torch_device = comm, torch_device
        self.n_local = 0
        self._swaps: list[_Swap] = []
        self._images: _Images | None = None
        self._repetition: _Repetition | None = None
        self._recorder = cuda.Recorder(torch_device)
        self.by_way_of_host = torch_device != CPU and (by_way_of_host or not comm.reads_gpus)
        """Whether what is on a GPU goes to other ranks from and to copies on the host."""
        self._expected: np.ndarray | None = None

    def migrate(self, state: State) -> State:
        """Wrap the atoms into the cell and bring each to its owner. Ghosts are void afterwards.

        Atoms come back in an order that depends only on where they are: by small bins in space,
        for locality in memory, then by id. `state` is on the host. Raises SharedError if an atom
        got lost or was doubled.
        """
        shifts = self.domain.wrap(state.positions.numpy())
        if shifts.any():
            state.positions += torch.from_numpy(shifts @ self.domain.cell)
            state.images -= torch.from_numpy(shifts)
        if self.comm.size > 1:
            owner = self.domain.owner(state.positions.numpy())
            order = np.argsort(owner, kind="stable")
            counts = np.bincount(owner, minlength=self.comm.size)
            arrived = self.comm.redistribute(state.pack()[order], counts)
            state = State.unpack(arrived, state.widths)
        state = State.unpack(state.pack()[self._spatial_order(state)], state.widths)
        self._check_ids(state.ids.numpy())
        self.n_local = len(state)
        return state

    def _spatial_order(self, state: State) -> np.ndarray:
        """Bins of about 3 Å, wide enough to hold a few atoms; ids decide within a bin."""
        bins = np.floor(state.positions.numpy() / 3.0).astype(np.int64)
        return np.lexsort((state.ids.numpy(), bins[:, 2], bins[:, 1], bins[:, 0]))

    def _check_ids(self, ids: np.ndarray) -> None:
        """Number of atoms and a checksum of their ids over all ranks must never change."""
        mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        totals = np.array([len(ids), mixed.sum(dtype=np.uint64)], dtype=np.uint64)
        totals = self.comm.reduce(totals, "sum")
        if self._expected is None:
            self._expected = totals
        if (totals != self._expected).any():
            raise SharedError(
                f"migration: {totals[0]} atoms found, {self._expected[0]} expected (or their ids "
                "changed): this is a fault of the program, please report it"
            )

    def exchange(
        self, state: State, cutoff: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Positions (n_all, 3) Å, types (n_all,) int32 and ids (n_all,) int64 of atoms and ghosts,
        on the host as `state` is.

        Ghosts are all atoms and images within `cutoff` (Å) of any point of the subdomain, and
        some more near its edges. Fixes what `update` and `reverse` will move.
        """
        positions, types, ids = self._opened(state, cutoff)
        self._images = self._repetition = None
        few = len(state) < len(positions) and len(state) <= cuda.SMALL
        if self.comm.size == 1 and self.torch_device == CPU:
            self._images = _Images.of(self._swaps, self.n_local, self.domain.cell)
            self._images.update(positions)  # the bits of any later update
            self._swaps = []
        elif self.comm.size == 1 and few:
            self._repetition = _Repetition(self._recorder, len(positions))
        return positions, types, ids

    def _opened(
        self, state: State, cutoff: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `exchange` returns; finds the swaps."""
        self._swaps = []
        columns = (state.positions, state.types.double()[:, None], state.ids.double()[:, None])
        blocks = [torch.cat(columns, dim=1)]
        n_all = self.n_local = len(state)
        margins = self.domain.margins(cutoff)
        inverse = torch.from_numpy(np.linalg.inv(self.domain.cell))
        for axis in range(3):
            known = torch.cat(blocks)
            candidates = dict.fromkeys((-1, 1), (0, known))
            for _ in range(self.domain.hops(axis, margins[axis])):
                for direction in (-1, 1):
                    first, rows = candidates[direction]
                    along = rows[:, :3] @ inverse[:, axis]
                    chosen = self._reached(along, axis, direction, margins[axis])
                    swap, ghosts = self._open(axis, direction, rows, chosen, first, n_all)
                    self._swaps.append(swap)
                    candidates[direction] = (n_all, ghosts)
                    blocks.append(ghosts)
                    n_all += len(ghosts)
        table = torch.cat(blocks)
        return table[:, :3].clone(), table[:, 3].int(), table[:, 4].long()

    def _reached(
        self, along: torch.Tensor, axis: int, direction: int, margin: float
    ) -> torch.Tensor:
        """Rows that the neighbour's halo reaches, by fractional coordinates `along` the axis."""
        position = self.domain.grid_position(self.comm.rank)[axis]
        cuts = self.domain.cuts[axis]
        near = (
            along < cuts[position] + margin
            if direction < 0
            else along >= cuts[position + 1] - margin
        )
        return torch.nonzero(near).flatten()

    def _open(
        self,
        axis: int,
        direction: int,
        rows: torch.Tensor,
        chosen: torch.Tensor,
        first: int,
        n_all: int,
    ) -> tuple[_Swap, torch.Tensor]:
        """Send the `chosen` of `rows` (which begin at row `first`) and learn what arrives."""
        to, lattice = self.domain.neighbor(self.comm.rank, axis, direction)
        source, _ = self.domain.neighbor(self.comm.rank, axis, -direction)
        shift = torch.from_numpy(lattice * self.domain.cell[axis])
        if to is None:
            chosen = chosen[:0]
        outgoing = rows[chosen]
        outgoing[:, :3] += shift
        tag = 2 * axis + (direction > 0)
        arrived = torch.from_numpy(self.comm.swap_rows(outgoing.numpy(), to, source, tag))
        n_sent, stop = len(chosen), n_all + len(arrived)
        buffer = torch.empty(n_sent, 3, dtype=torch.float64, device=self.torch_device)
        staging = None
        if to != self.comm.rank and self.by_way_of_host:
            staging = _pinned(n_sent), _pinned(len(arrived))
        rows, shift = (x.to(self.torch_device) for x in (chosen + first, shift))
        swap = _Swap(to, source, tag, rows, axis, lattice, shift, n_all, stop, buffer, staging)
        return swap, arrived

    def deform(self, cell: np.ndarray) -> None:
        """Go on with other lattice vectors (3, 3) Å; atoms and planes keep their fractions."""
        self.domain = replace(self.domain, cell=np.array(cell, dtype=np.float64))
        if self._images is not None:
            self._images.deform(self.domain.cell)
            return
        vectors = torch.from_numpy(self.domain.cell).to(self.torch_device, non_blocking=True)
        for swap in self._swaps:
            swap.shift.copy_(swap.lattice * vectors[swap.axis])

    def _ghosts(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views of those of `rows` (n_all, 3) that arrive in each swap."""
        return rows.split([self.n_local, *(s.stop - s.start for s in self._swaps)])[1:]

    def update(self, positions: torch.Tensor) -> None:
        """Fill the ghost rows of `positions` (n_all, 3) Å from the local rows, in place."""
        again = self._repetition
        if self._images is not None:
            self._images.update(positions)
        elif again is not None and again.is_of(positions):
            again.updates(lambda: self._update(positions))
        else:
            self._update(positions)

    def _update(self, positions: torch.Tensor) -> None:
        for swap, ghosts in zip(self._swaps, self._ghosts(positions), strict=True):
            torch.index_select(positions, 0, swap.rows, out=swap.buffer)
            if swap.to == self.comm.rank:
                torch.add(swap.buffer, swap.shift, out=ghosts)
            elif not swap.is_void:
                self._send(swap, swap.buffer.add_(swap.shift), ghosts)

    def reverse(self, forces: torch.Tensor) -> torch.Tensor:
        """Add the ghost rows of `forces` (n_all, 3) eV/Å onto their owners; they are used up.

        The way of `update` backwards. Returns the rows of the local atoms, now complete. No row
        is added to twice in a swap, so that the order of the additions is that of the swaps.
        """
        again = self._repetition
        if self._images is not None:
            return self._images.reverse(forces)
        if again is None:
            return self._reverse(forces)
        again.forces.copy_(forces)
        return again.returns(lambda: self._reverse(again.sums.copy_(again.forces))).clone()

    def _reverse(self, forces: torch.Tensor) -> torch.Tensor:
        for swap, ghosts in reversed(list(zip(self._swaps, self._ghosts(forces), strict=True))):
            if swap.is_void:
                continue
            if swap.to != self.comm.rank:
                self._send(swap, ghosts, swap.buffer, back=True)
                ghosts = swap.buffer
            forces[: swap.start].index_add_(0, swap.rows, ghosts)  # owners come before ghosts
        return forces[: self.n_local]

    def _send(
        self, swap: _Swap, leaving: torch.Tensor, arriving: torch.Tensor, back: bool = False
    ) -> None:
        """Rows (n, 3) to another rank and from another; `back`: each to where the other came
        from."""
        to, source = (swap.source, swap.to) if back else (swap.to, swap.source)
        if self.torch_device != CPU and not self.by_way_of_host:
            sent, received = ((x.data_ptr(), x.numel()) for x in (leaving, arriving))
            with torch.cuda.device(
                self.torch_device
            ):  # MPI takes the addresses for those of this GPU
                torch.cuda.current_stream(self.torch_device).synchronize()  # it knows of no streams
                self.comm.swap_addresses(sent, to, received, source, swap.tag)
            return
        if swap.staging is None:
            self.comm.swap(leaving.numpy(), to, arriving.numpy(), source, swap.tag)
            return
        going, coming = reversed(swap.staging) if back else swap.staging
        going.copy_(leaving)  # and with it all before, also what was last read from `coming`
        if not len(going):
            torch.cuda.current_stream(self.torch_device).synchronize()
        self.comm.swap(going.numpy(), to, coming.numpy(), source, swap.tag)
        arriving.copy_(coming, non_blocking=True)


def _pinned(n: int) -> torch.Tensor:
    """(n, 3) float64 of the host, which copies to and from a GPU need not go round."""
    return torch.empty(n, 3, dtype=torch.float64, pin_memory=True)


def decompose(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: Sequence[bool],
    comm: Communicator,
    grid: Sequence[int] | None = None,
    cost: float = 1.0,
) -> Domain:
    """A `Domain` for atoms that are spread over the ranks in any way, evenly divided.

    `positions` (n, 3) Å, this rank's share; `cell` (3, 3) Å; `pbc` (3,); `grid` as the user asks
    for it, or None for the one with the least surface; `cost` of each of this rank's atoms, to
    which it counts.
    """
    s = positions @ np.linalg.inv(cell)
    s = np.where(pbc, s - np.floor(s), s)
    low = comm.reduce(s.min(axis=0, initial=np.inf), "min")
    high = comm.reduce(s.max(axis=0, initial=-np.inf), "max")
    low, high = bounds(pbc, low, high)
    counts = comm.reduce(histogram(s, low, high) * cost, "sum")
    if grid is None:
        grid = choose_grid(occupied_lengths(cell, counts, high - low).tolist(), comm.size)
    return balanced(cell, pbc, checked_grid(grid, comm.size), counts, low, high)
