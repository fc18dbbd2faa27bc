"""What a run begins from: atoms, cell and velocities of a structure, spread over the ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixScaled
from ase.units import fs

from ..geometry import checked_cell
from ..system import InputError, type_indices
from ..units import ACCELERATION, BOLTZMANN
from .comm import Communicator, agreement
from .domain import Domain
from .state import CPU, State, thermal_velocities


@dataclass
class Start:
    """The beginning of a run: the same on every rank, apart from the atoms themselves."""

    cell: np.ndarray
    """(3, 3) Å; vectors of open axes that the structure lacks are filled in."""
    absent: tuple[bool, bool, bool]
    """Which lattice vectors the structure lacks; they are written as zeros."""
    pbc: tuple[bool, bool, bool]
    n_atoms: int
    """Over all ranks."""
    state: State
    """Some of the atoms on each rank, not yet where they belong."""
    step: int = 0
    time: float = 0.0
    """fs."""
    built_cell: np.ndarray | None = None
    """(3, 3) Å: cell of the continued run when its list was made; None: a new run."""
    domain: Domain | None = None
    """The decomposition of the run that is continued."""
    integrator: dict[str, Any] = field(default_factory=dict)
    """What the integrator of the continued run remembers."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What observables remember of the whole system: values for JSON, and small arrays."""
    file_sizes: dict[str, int] = field(default_factory=dict)
    """Bytes that the files of the continued run had at this step."""
    source: Path | None = None
    """The restart that the run goes on from."""
    began_with: dict[str, Any] = field(default_factory=dict)
    """What the input said when the run began (`continuing.record`); nothing: it is not known."""
    noise: int = 0
    """Says by its 32 bits what the run began with: other beginnings meet other random numbers."""
    drift: float | None = None
    """Å/fs, of the centre of mass of a structure that came with velocities."""
    damaged: tuple[str, ...] = ()
    """A line for each newer restart that cannot be used."""

    def volume(self, cell: np.ndarray) -> float:
        """Å³ of `cell`, now that of the run, vacuum included, as the ASE calculator takes it; nan
        for what lacks a lattice vector or is open along all of them."""
        bounded = any(self.pbc) and not any(self.absent)
        return abs(float(np.linalg.det(cell))) if bounded else np.nan


def from_structure(
    atoms: Atoms | None,
    type_map: Sequence[str],
    replicate: Sequence[int],
    masses: Mapping[str, float],
    comm: Communicator,
    drawn: Any = None,
) -> Start:
    """Atom k of copy c of the structure gets id c · n + k, in the order of ASE's `repeat`.

    Only rank 0 looks at `atoms`. Every rank makes its share of the copies, so that no rank ever
    holds the whole replicated system. `masses` in u by element replace those of the structure.
    `drawn`: what its velocities are to be drawn by, if they are; it counts in `Start.noise`.
    Atoms that its constraints fix are held, in every copy.
    Raises SharedError (InputError with a single rank) for what cannot be simulated.
    """
    unit: dict[str, Any] = {}
    with agreement(comm):
        if comm.rank == 0:
            unit = _unit(atoms, type_map, masses)
            _check_replicate(unit["pbc"], replicate)
    unit = comm.share(unit)
    n, copies = len(unit["types"]), int(np.prod(replicate))
    mine = np.arange(comm.rank * copies // comm.size, (comm.rank + 1) * copies // comm.size)
    places = np.stack(np.unravel_index(mine, tuple(replicate)), axis=1)
    positions = (unit["positions"] + (places @ unit["cell"])[:, None, :]).reshape(-1, 3)
    state = State.from_arrays(
        {
            "ids": (mine[:, None] * n + np.arange(n)).ravel(),
            "types": np.tile(unit["types"], len(mine)),
            "masses": np.tile(unit["masses"], len(mine)),
            "positions": positions,
            "images": np.zeros_like(positions),
            "velocities": np.tile(unit["velocities"], (len(mine), 1)),
            "built": positions,
            "mobile": np.tile(unit["mobile"], len(mine)),
        }
    )
    cell = unit["cell"] * np.array(replicate)[:, None]
    whole = (unit["absent"], unit["pbc"], copies * n, state)
    return Start(cell, *whole, noise=_digest(unit, drawn), drift=unit["drift"])


def _digest(unit: Mapping[str, Any], drawn: Any) -> int:
    """32 bits, not all 0, of a structure, its velocities, and what may be drawn in their place."""
    digest = hashlib.blake2b(repr(drawn).encode(), digest_size=4)
    for name in ("types", "positions", "velocities", "cell"):
        digest.update(np.ascontiguousarray(unit[name]).tobytes())
    return int.from_bytes(digest.digest(), "little") or 1


def _unit(
    atoms: Atoms | None, type_map: Sequence[str], masses: Mapping[str, float]
) -> dict[str, Any]:
    """Arrays of the structure before it is replicated, checked."""
    if atoms is None or len(atoms) == 0:
        raise InputError("structure: there are no atoms in it")
    if not isinstance(atoms, Atoms):
        raise InputError(f"structure: expected ASE's Atoms, found {type(atoms).__name__}")
    symbols = atoms.get_chemical_symbols()
    unused = set(masses) - set(symbols)
    if unused:
        raise InputError(f"masses: element {', '.join(sorted(unused))} is not in the structure")
    own = atoms.get_masses()
    u = np.array([masses.get(s, m) for s, m in zip(symbols, own, strict=True)])
    for name, values in (("position", atoms.positions), ("velocity", atoms.get_velocities())):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise InputError(
                f"structure: {name} of atom {bad[0]} is not finite: {values[bad[0]].tolist()}"
            )
    if not (np.isfinite(u).all() and (u > 0).all()):
        bad_mass = int(np.flatnonzero(~(u > 0))[0])
        raise InputError(f"structure: mass of atom {bad_mass} is {u[bad_mass]} u, expected > 0")
    momentum = np.linalg.norm(u @ atoms.get_velocities()) * fs
    return {
        "types": np.array(type_indices(symbols, type_map, "structure")),
        "masses": u,
        "positions": atoms.positions.copy(),
        "velocities": atoms.get_velocities() * fs,  # ASE: Å per its own unit of time
        "drift": float(momentum / u.sum()) if atoms.get_velocities().any() else None,
        "cell": checked_cell(atoms.cell.array, atoms.pbc, "structure"),
        "absent": tuple(bool(not vector.any()) for vector in atoms.cell.array),
        "pbc": tuple(bool(p) for p in atoms.pbc),
        "mobile": _mobile(atoms),
    }


def _mobile(atoms: Atoms) -> np.ndarray:
    """(n,) float64: 0 for atoms that the structure's constraints fix along all axes, else 1.

    Raises InputError for constraints of any other kind.
    """
    mobile = np.ones(len(atoms))
    for constraint in atoms.constraints:
        axes = {True} if isinstance(constraint, FixAtoms) else None
        if isinstance(constraint, (FixCartesian, FixScaled)):
            axes = set(constraint.mask.tolist())  # extended XYZ has one for atoms that move too
        if axes == {True}:
            mobile[constraint.index] = 0.0
        elif axes != {False}:
            raise InputError(
                f"structure: constraint {type(constraint).__name__}: atoms can be held along all "
                "axes only; take it out, or hold atoms with FixAtoms or the key 'frozen'"
            )
    return mobile


def _check_replicate(pbc: Sequence[bool], replicate: Sequence[int]) -> None:
    for axis in range(3):
        if replicate[axis] > 1 and not pbc[axis]:
            raise InputError(
                f"replicate {list(replicate)}: lattice vector {axis} is not periodic (pbc "
                f"{list(pbc)}), it cannot be replicated"
            )


def set_temperature(
    state: State, kelvin: float, seed: int, freedom: int, comm: Communicator, still: bool = False
) -> None:
    """Give the atoms Maxwell-Boltzmann velocities: no total momentum, exactly `kelvin`.

    `freedom`: degrees of freedom that count for the temperature; `still`: no rotation either. A
    single atom keeps its momentum, and one that is held has none.
    """
    here = state.to(CPU)  # so that they do not depend on the device
    velocities = thermal_velocities(here, kelvin, seed)
    masses, mobile = here.masses[:, None], here.mobile[:, None]
    sums = ((masses * velocities).sum(0), (mobile * masses).sum(0), mobile.sum(0))
    total = torch.from_numpy(comm.reduce(torch.cat(sums).numpy(), "sum"))
    if total[4] > 1:
        velocities -= mobile * (total[:3] / total[3])
    if still:
        velocities = without_rotation(here, velocities, comm)
    twice_kinetic = comm.total(float((masses * velocities**2).sum()) / ACCELERATION)
    found = twice_kinetic / (freedom * BOLTZMANN)
    velocities = velocities * np.sqrt(kelvin / found) if found > 0 else velocities
    state.velocities = velocities.to(state.velocities.device)


def without_rotation(state: State, velocities: torch.Tensor, comm: Communicator) -> torch.Tensor:
    """`velocities` (n, 3) Å/fs of atoms none of which is held, less their rotation as a whole.

    For systems without periodic axes, whose angular momentum stays. Every rank must ask.
    """

    def over_all(*values: torch.Tensor) -> torch.Tensor:
        own = torch.cat([x.flatten() for x in values]).cpu().numpy()
        return torch.from_numpy(comm.reduce(own, "sum")).to(velocities.device)

    masses = state.masses[:, None]
    sums = over_all(masses.sum(0), (masses * state.positions).sum(0), (masses * velocities).sum(0))
    centre, drift = sums[1:4] / sums[0], sums[4:7] / sums[0]
    r, v = state.positions - centre, velocities - drift
    second = (masses * r).T @ r
    sums = over_all(second, (masses * torch.linalg.cross(r, v)).sum(0))
    second, momentum = sums[:9].view(3, 3), sums[9:]
    inertia = second.trace() * torch.eye(3, dtype=second.dtype, device=second.device) - second
    # atoms in a line have no inertia about it
    turn = torch.linalg.pinv(inertia, rtol=1e-9, hermitian=True) @ momentum
    return velocities - torch.linalg.cross(turn.expand_as(r), r)
