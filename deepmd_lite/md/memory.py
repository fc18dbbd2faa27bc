"""How much memory the atoms of a run will take, from the geometry of its structure alone.

Ghosts follow from the subdomain of a rank, and memory from how much the arrays of an atom, a ghost
and an edge take when a list is made, which is when a rank needs most.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ..free_memory import available_bytes
from ..geometry import cell_heights, checked_cell
from ..system import InputError
from .comm import Communicator, agreement, ranks_here
from .config import Output
from .domain import checked_grid, choose_grid

BYTES_OF_ATOM = 550
"""Of a rank at the peak, by atom: its state, packed copies of it, forces, cells and offsets."""
BYTES_OF_TRAVELLER = 128
"""By atom, where there are several ranks: the packed rows while they arrive."""
BYTES_OF_GHOST = 300
BYTES_OF_EDGE = 5.5
"""By edge of the list: its index, and for a part of them again while rows are put in order."""
BYTES_OF_FRAME = {"extxyz": 450, "traj": 600}
"""On rank 0, by atom of the whole system: a frame of the formats that want it whole."""


@dataclass(frozen=True)
class Subdomain:
    """What one rank holds, on average."""

    lengths: tuple[float, float, float]
    """Å, normal to the faces of the cell."""
    n_atoms: float
    n_ghosts: float
    n_edges: float
    alone: bool
    """There is no other rank."""

    def bytes(self) -> float:
        """At the peak, without the program itself."""
        atom = BYTES_OF_ATOM + (0 if self.alone else BYTES_OF_TRAVELLER)
        return atom * self.n_atoms + BYTES_OF_GHOST * self.n_ghosts + BYTES_OF_EDGE * self.n_edges


def frame_bytes(output: Output | None) -> float:
    """Of rank 0, by atom of the whole system, where the trajectory has formats that want it
    whole."""
    if output is None or not output.trajectory:
        return 0.0
    return float(sum(BYTES_OF_FRAME.get(kind, 0) for kind in output.format))


def mean_subdomain(
    atoms: Atoms,
    replicate: Sequence[int],
    grid: Sequence[int] | None,
    n_ranks: int,
    reach: float,
    edges_per_atom: float | None = None,
) -> tuple[tuple[int, int, int], Subdomain]:
    """Grid and mean subdomain of a structure that is replicated on `n_ranks`.

    `reach` Å: cutoff and skin. `edges_per_atom`: default by the density. Raises InputError for a
    cell without volume or a grid for another number of ranks.
    """
    unit = checked_cell(atoms.cell.array, atoms.pbc, "structure")
    pbc = np.array(atoms.pbc, dtype=bool)
    copies = np.array(replicate)
    heights = cell_heights(unit)
    fractional = atoms.positions @ np.linalg.inv(unit)
    occupied = [
        _occupied(fractional[:, k] * heights[k], heights[k] if pbc[k] else None, reach)
        for k in range(3)
    ]
    lengths = np.array(occupied) * copies
    shape = checked_grid(grid or choose_grid(lengths.tolist(), n_ranks), n_ranks)
    widths = lengths / np.array(shape)
    full = np.isclose(occupied, heights) & pbc
    # faces through which a subdomain sees others: all in bulk, fewer at a surface
    faces = np.where(full, 2.0, 2.0 * (1.0 - 1.0 / np.array(shape)))
    total = len(atoms) * float(np.prod(copies.astype(float)))
    n_atoms = total / n_ranks
    n_ghosts = n_atoms * (float(np.prod((widths + faces * reach) / widths)) - 1.0)
    if edges_per_atom is None:
        # an atom sees a ball, or of a thin structure the part that is there
        seen = np.prod(np.where(full, 2.0 * reach, np.minimum(2.0 * reach, lengths)))
        volume = abs(np.linalg.det(unit)) * np.prod(lengths / heights)
        edges_per_atom = total / volume * min(4.0 / 3.0 * np.pi * reach**3, float(seen))
    sub = Subdomain(
        (float(widths[0]), float(widths[1]), float(widths[2])),
        n_atoms,
        n_ghosts,
        n_atoms * edges_per_atom,
        n_ranks == 1,
    )
    return shape, sub


def _occupied(heights: np.ndarray, period: float | None, reach: float) -> float:
    """Å: length along an axis without gaps wider than `reach`, which no atom sees across.

    `heights` (n,) Å of the atoms along the axis; `period` Å, None: open.
    """
    if period is None:
        gaps, span = np.diff(np.sort(heights)), float(np.ptp(heights))
    else:
        wrapped = np.sort(heights % period)
        gaps, span = np.diff(np.append(wrapped, wrapped[0] + period)), period
    return max(span - float(gaps[gaps > reach].sum()), 1.0)


def check_room(
    atoms: Atoms | None,
    replicate: Sequence[int],
    grid: Sequence[int] | None,
    reach: float,
    comm: Communicator,
    force: bool,
    frame: float = 0.0,
) -> list[str]:
    """Refuse atoms for which some machine of the run lacks the memory; returns warnings.

    `atoms`: the structure, on rank 0; `reach` Å, cutoff and skin; `frame`: bytes by atom of the
    system on rank 0 besides (`frame_bytes`). Raises SharedError (InputError
    with a single rank), which `force` turns into a warning. Where the system does not say what is
    free, nothing is refused.
    """
    wanted = gathered = 0.0
    with agreement(comm):
        # without atoms, or with such positions, it is refused for that
        if isinstance(atoms, Atoms) and len(atoms) and np.isfinite(atoms.positions).all():
            _, sub = mean_subdomain(atoms, replicate, grid, comm.size, reach)
            wanted, gathered = sub.bytes(), frame * sub.n_atoms * comm.size
    n_here = ranks_here(comm)
    host, free = socket.gethostname(), available_bytes(n_here)
    wanted, gathered, first = comm.share((wanted, gathered, host))
    wanted = wanted * n_here + (gathered if host == first else 0.0)
    own = None
    if free is not None and wanted > free:
        ranks = "1 rank wants" if n_here == 1 else f"{n_here} ranks want"
        own = f"memory of {host}: {ranks} {size(wanted)}, {size(free)} are free"
    short = [line for line in comm.collect(own) if line is not None]
    if short and not force:
        with agreement(comm):
            raise InputError(
                f"{short[0]}: use more machines or fewer atoms (a smaller replicate); --force goes "
                "on all the same"
            )
    return [f"{line}; going on as asked" for line in short[:1]]


def size(n_bytes: float) -> str:
    """In GB, MB or kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"
