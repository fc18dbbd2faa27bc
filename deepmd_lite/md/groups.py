"""Which atoms of a run a selection means, and how each of them remembers it.

Atoms are chosen where a run begins. An array of `State.carried` with a column for each group, 1 in
it and 0 outside, goes with the atoms from rank to rank and into restarts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..system import InputError, type_indices
from .comm import Communicator, agreement
from .config import Settings
from .initial import Start
from .selection import Selection, slice_of
from .state import State

MOVING, PULL, BATH = "moving", "pull", "bath"
"""Names in `State.carried` of those that move, that are pulled, and that feel a thermostat."""
OUTSIDE = 1.0
"""Å by which an atom may leave the cell until a region sees its image there: more than an atom of a
crystal vibrates."""


def chosen(
    key: str,
    selection: Selection,
    state: State,
    cell: np.ndarray,
    pbc: Sequence[bool],
    n_atoms: int,
    type_map: Sequence[str],
    comm: Communicator,
) -> torch.Tensor:
    """(n,) bool: which atoms of this rank `selection` means, a region at their `places`.

    `key` of the input says it; `cell` (3, 3) Å, periodic along `pbc`; `n_atoms` of all ranks.
    Raises SharedError (InputError with one rank) for an element or an index that the structure
    lacks, and where no atom is meant.
    """
    device = state.positions.device
    found = torch.ones(len(state), dtype=torch.bool, device=device)
    here = None if selection.axis is None else places(state, cell, pbc, comm)
    with agreement(comm):
        if selection.elements is not None:
            kinds = type_indices(selection.elements, type_map, f"{key}: elements")
            found &= torch.isin(state.types.long(), torch.tensor(kinds, device=device))
        if selection.indices is not None:
            found &= torch.isin(state.ids, _indices(key, selection.indices, n_atoms).to(device))
        if selection.axis is not None and here is not None:
            along = here[:, "xyz".index(selection.axis)]
            found &= along < (np.inf if selection.below is None else selection.below)
            found &= along > (-np.inf if selection.above is None else selection.above)
    count = comm.total(int(found.sum()))
    with agreement(comm):
        if not count:
            raise InputError(f"{key}: no atom meets {selection.conditions}")
    return found


def places(state: State, cell: np.ndarray, pbc: Sequence[bool], comm: Communicator) -> torch.Tensor:
    """(n, 3) Å: where regions see the atoms of this rank.

    Along a lattice vector in which all atoms together are within one period, wherever that begins,
    and along open ones, at their place. Otherwise some have left the cell, as in a frame of a
    trajectory: those by more than `OUTSIDE` have the place of their image in it. A plane of a
    crystal in a face of the cell, on both sides of which its atoms vibrate, stays together.
    """
    path = state.path(cell)
    inverse = np.linalg.inv(cell)
    parts = path @ torch.from_numpy(inverse).to(path.device)
    largest = parts.new_full((3,), -np.inf) if not len(parts) else parts.amax(dim=0)
    smallest = parts.new_full((3,), np.inf) if not len(parts) else parts.amin(dim=0)
    ends = comm.reduce(torch.cat([largest, -smallest]).cpu().numpy(), "max")
    spread = ends[:3] + ends[3:] >= 1.0
    margin = OUTSIDE * np.linalg.norm(inverse, axis=0)  # over the distance of the faces
    shifts = torch.zeros_like(parts)
    for axis in np.flatnonzero(spread & np.array(pbc)):
        part = parts[:, axis]
        outside = (part < -margin[axis]) | (part >= 1.0 + margin[axis])
        shifts[:, axis] = torch.where(outside, part.floor(), 0.0)
    return path - shifts @ torch.from_numpy(cell).to(path.device)


def _indices(key: str, given: str | list[int], n_atoms: int) -> torch.Tensor:
    if isinstance(given, str):
        wanted = slice_of(given)
        if max(wanted.start or 0, wanted.stop or 0) > n_atoms:
            raise InputError(
                f"{key}: indices '{given}' of {n_atoms} atoms, which are 0 … {n_atoms - 1}"
            )
        return torch.arange(n_atoms)[wanted]
    outside = [i for i in given if not 0 <= i < n_atoms]
    if outside:
        raise InputError(
            f"{key}: index {outside[0]} of {n_atoms} atoms, expected 0 … {n_atoms - 1}"
        )
    return torch.tensor(given)


def place_groups(
    start: Start, settings: Settings, type_map: Sequence[str], comm: Communicator
) -> None:
    """Hold the atoms of `frozen` and `moving`, and have those of `moving` and `pull` remember their
    groups.

    No force moves an atom that is held, and its own velocity is zero. Those that are held
    already, by constraints of the structure, stay so. Raises as `chosen` does, for an atom in two
    groups of `moving`, for one that is both driven and pulled, and where no atom would be left to
    move.
    """
    state = start.state
    system = state, start.cell, start.pbc, start.n_atoms, type_map, comm

    def columns(key: str, selections: Sequence[Selection]) -> torch.Tensor:
        return torch.stack([chosen(key, x, *system).double() for x in selections], dim=1)

    for selection in settings.frozen:
        state.mobile[chosen("frozen", selection, *system)] = 0.0
    if settings.moving:
        state.carried[MOVING] = columns("moving", settings.moving)
        member = state.carried[MOVING].sum(dim=1)
        twice = comm.total(int((member > 1).sum()))
        with agreement(comm):
            if twice:
                raise InputError(f"moving: {twice} atoms are in more than one group of it")
        state.mobile[member > 0] = 0.0
    if settings.pull:
        state.carried[PULL] = columns("pull", settings.pull)
        driven = state.carried.get(MOVING, state.carried[PULL][:, :0]).sum(dim=1)
        both = comm.total(int(((driven > 0) & state.carried[PULL].any(dim=1)).sum()))
        with agreement(comm):
            if both:
                raise InputError(
                    f"pull: {both} of its atoms are in a group of 'moving', which no force moves: "
                    "leave them out (a further condition of 'pull' narrows it), or do not drive "
                    "them"
                )
    state.velocities *= state.mobile[:, None]
    mobile = comm.total(float(state.mobile.sum()))
    with agreement(comm):
        if not mobile:
            raise InputError(
                "what is frozen or moving, with the constraints of the structure, holds all "
                f"{start.n_atoms} atoms; leave some to the forces"
            )


def group_sizes(state: State, name: str, comm: Communicator) -> list[int]:
    """Atoms of each group, over all ranks, which must all ask."""
    own = state.carried[name].sum(dim=0).cpu().numpy()
    return [round(x) for x in comm.reduce(own, "sum").tolist()]


def keep_groups(state: State, settings: Settings) -> None:
    """Of the groups that the atoms of a restart remember, those that are still asked for.

    Raises InputError where the restart has another number of them.
    """
    for name, wanted in ((MOVING, settings.moving), (PULL, settings.pull)):
        known = state.widths.get(name, 0)
        if not wanted:
            state.carried.pop(name, None)
        elif known != len(wanted):
            raise InputError(
                f"{name}: the run that goes on has {known} groups, found {len(wanted)}: its atoms "
                "were chosen where it began; give as many, or begin a new run with its last frame"
            )
