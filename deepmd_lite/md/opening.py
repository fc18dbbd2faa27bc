"""What a run has before its first step: atoms, what acts on them, and places to write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from ..system import Model
from . import restart
from .bias import Bias, Pull, Together
from .comm import Communicator, agreement
from .config import Output, Settings
from .groups import keep_groups, place_groups
from .initial import Start, from_structure
from .memory import check_room, frame_bytes
from .output import Writer
from .plumed import Plumed, Warn


def begun(
    atoms: Atoms | None,
    settings: Settings,
    model: Model,
    comm: Communicator,
    resume: Path | None,
    force: bool,
) -> tuple[Start, list[str]]:
    """The atoms of a run, of the structure or of the restart that it goes on from, and warnings.

    Arguments as those of `Simulation`. Raises SharedError (InputError with one rank).
    """
    s, type_map = settings, model.type_map
    if resume is not None:
        start = restart.read(resume, type_map, comm)
        with agreement(comm):
            keep_groups(start.state, s)
        return start, [f"{x}; going on from {start.source}, the one before" for x in start.damaged]
    reach, frame = model.rcut + s.skin, frame_bytes(s.output)
    warnings = check_room(atoms, s.replicate, s.grid, reach, comm, force, frame)
    start = from_structure(atoms, type_map, s.replicate, s.masses, comm, s.velocities)
    place_groups(start, s, type_map, comm)
    return start, warnings


def opened(
    output: Output | None, start: Start, comm: Communicator, quiet: bool, rows: Sequence[str]
) -> tuple[Writer | None, restart.Archive | None]:
    """The writer, on rank 0 alone, and where restarts go, None without an output folder.

    `rows`: files besides thermo.csv to which the run will add rows. A run that goes on in its own
    folder appends to its files. Raises as `Writer` does, on all ranks.
    """
    directory = output.directory if output else None
    writer = None
    with agreement(comm):
        if comm.rank == 0:
            goes_on = directory is not None and _folder_of(start.source) == directory.resolve()
            sizes = start.file_sizes if goes_on else None
            writer = Writer(directory, quiet, sizes, output.format if output else (), rows)
    if directory is None:
        return writer, None
    return writer, restart.Archive(directory / "restart", comm, start.source)


def _folder_of(source: Path | None) -> Path | None:
    """The folder of the run that a restart is of."""
    return None if source is None else source.absolute().parents[1].resolve()


def bias_of(
    settings: Settings, comm: Communicator, start: Start, warn: Warn, counts_all: bool
) -> Bias:
    """What acts on the atoms of a run besides the model; `warn` of what may not be meant there;
    `counts_all`: the temperature counts the motion of the whole.

    Every rank must call.
    """
    found: list[Bias] = []
    if settings.pull:
        found.append(Pull([group.force for group in settings.pull]))
    if settings.plumed is not None:
        targets = set(settings.ensemble.temperature or ())
        plumed = Plumed(
            settings.plumed,
            comm,
            n_atoms=start.n_atoms,
            timestep=settings.longest_timestep,
            temperature=targets.pop() if len(targets) == 1 else None,
            log=settings.output.directory / "plumed.log" if settings.output else None,
            known=start.memory.get("plumed"),
            warn=warn,
            counts_all=counts_all,
        )
        found.append(plumed)
    return found[0] if len(found) == 1 else Together(found) if found else Bias()
