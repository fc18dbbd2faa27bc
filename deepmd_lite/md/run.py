"""From an input file to a finished run: what `dpl md` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ..data.places import located_data
from ..schema import located, parse, read_mapping
from ..system import InputError
from ..units import U_PER_A3_IN_G_PER_CM3
from . import continuing, restart
from .comm import Communicator, SharedError, agreement, binding, communicator, guarded, wrap
from .comm import threads_per_rank as fair_share
from .config import MdConfig
from .groups import BATH, MOVING, PULL, group_sizes
from .integrate import Relaxation
from .output import Writer
from .plan import Plan, make_plan, simulation_of
from .report import RunResult
from .simulation import Simulation
from .structure import read_structure

DRIFT = 1e-6
"""Å/fs; rounding of a structure's file may leave its centre of mass as much."""


def plan_input(
    config: str | Path | Mapping[str, Any],
    *,
    comm: Any = None,
    n_ranks: int | None = None,
    force: bool = False,
    threads: int | None = None,
) -> Plan:
    """The forecast for an MD input, from a probe of some steps; nothing is written.

    `n_ranks`: for a run on so many ranks; default: those at hand. `threads` of each: by default as
    many as they would have if they shared this machine. Raises as `run_input` does.
    """
    ranks = communicator() if comm is None else wrap(comm)
    with _ends_together(ranks):
        own_threads = torch.get_num_threads()
        _share_threads(ranks, threads, n_ranks)
        try:
            found, atoms = _read(config, ranks, resume=False)
            return make_plan(found, atoms, ranks, n_ranks, force)
        finally:
            torch.set_num_threads(own_threads)


def run_input(
    config: str | Path | Mapping[str, Any],
    *,
    comm: Any = None,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    threads: int | None = None,
) -> RunResult:
    """Run the molecular dynamics of an MD input (`MdConfig`): a YAML or JSON file, or a mapping.

    `comm`: a communicator of mpi4py; by default all ranks if an MPI launcher started this process.
    `resume`: go on from the newest restart in the output folder, to the same last step. `force`:
    only warn of a model without virials where the cell changes, and of too little memory. `threads`
    of each rank: by default the CPUs are shared among the ranks of a machine; a process alone is
    left as it is. Model and structure are looked up in the working directory, then beside the input
    file; the output folder is relative to the working directory.

    SIGTERM and SIGUSR1 write a restart and return; Ctrl-C writes one and raises KeyboardInterrupt.
    Raises InputError for a bad input and SharedError for a motion that breaks down, on rank 0; the
    other ranks raise SystemExit(1), so that one message is seen.
    """
    ranks = communicator() if comm is None else wrap(comm)
    with _ends_together(ranks):
        _share_threads(ranks, threads)
        result = _run(config, ranks, resume, force, quiet)
    if result.signal == "SIGINT":
        if ranks.rank == 0:
            raise KeyboardInterrupt
        raise SystemExit(130)
    return result


@contextmanager
def _ends_together(comm: Communicator) -> Iterator[None]:
    """Errors that all ranks know of are raised on rank 0; the others leave with status 1."""
    try:
        with guarded(comm):
            yield
    except SharedError:
        if comm.rank == 0:
            raise
        raise SystemExit(1) from None


def _share_threads(comm: Communicator, threads: int | None, n_ranks: int | None = None) -> None:
    """As many `threads` as asked for, or as one of `n_ranks` (default: those of `comm`) has."""
    sharing = max(comm.size, n_ranks or 1)
    if threads is None and sharing > 1:
        threads = max(1, fair_share(comm) * comm.size // sharing)
    if threads is not None:
        torch.set_num_threads(threads)


def _read(
    source: str | Path | Mapping[str, Any], comm: Communicator, resume: bool
) -> tuple[MdConfig, Atoms | None]:
    """The input on every rank, and the structure of a new run on rank 0."""
    with agreement(comm):
        where = str(source) if isinstance(source, (str, Path)) else "MD input"
        data = read_mapping(source) if isinstance(source, (str, Path)) else source
        folder = Path(source).resolve().parent if isinstance(source, (str, Path)) else None
        config = parse(MdConfig, data, where)
        config.model = [located(model, folder, f"{where}: model") for model in config.model]
        with suppress(InputError) if resume else nullcontext():  # it may be gone by then
            config.structure = located_data(config.structure, folder, f"{where}: structure")
        if isinstance(config.plumed, str):
            config.plumed = located(config.plumed, folder, f"{where}: plumed")
        atoms = None
        if comm.rank == 0 and not resume:
            atoms = read_structure(config.structure, config.elements)
    return config, atoms


def _run(
    source: str | Path | Mapping[str, Any],
    comm: Communicator,
    resume: bool,
    force: bool,
    quiet: bool,
) -> RunResult:
    config, atoms = _read(source, comm, resume)
    resumed = config.output.directory if resume else None
    said: dict[str, Any] = {}
    notes: list[str] = []
    if atoms is not None and "fparam" in atoms.info:
        notes.append(
            "the fparam of the structure is not used: the model stays at its own frame parameters, "
            "its default or those that dpl convert --fparam has fixed"
        )
    with agreement(comm):
        if comm.rank == 0:  # before anything is written
            said = continuing.record(config)
            if resumed is not None:
                notes = continuing.notes(restart.began_with(resumed), said)
    simulation = simulation_of(config, atoms, resume=resumed, force=force, comm=comm, quiet=quiet)
    if not resume:
        simulation.start.began_with = said
    _announce(simulation, config, notes)
    remaining = config.steps - simulation.step
    with agreement(comm):
        if resume and remaining <= 0:
            at = f"the run is at step {simulation.step} already"
            raise InputError(f"steps {config.steps}: {at}; raise steps")
    result = simulation.advance(remaining)
    if simulation.writer is not None and isinstance(simulation.integrator, Relaxation):
        _tell_of_relaxation(simulation.writer, simulation.integrator, simulation.step)
    if simulation.writer is not None and simulation.bias.ends:
        simulation.writer.log(f"PLUMED has ended the run after step {simulation.step}")
    if simulation.writer is not None and result.signal and simulation.step < config.steps:
        simulation.writer.log(
            f"stopped by {result.signal} after step {simulation.step}; a restart is written, go on "
            "with --continue"
        )
    return result


def _tell_of_relaxation(writer: Writer, search: Relaxation, step: int) -> None:
    if search.ends:
        writer.log(f"relaxed after step {step}: {search.told}")
    else:
        writer.warn(
            f"not relaxed after step {step}: {search.told}; raise steps and go on with --continue"
        )


def _announce(simulation: Simulation, config: MdConfig, notes: Sequence[str]) -> None:
    """The first lines of the log; `notes` on the structure, or on what a continued run changes."""
    bound, groups = binding(simulation.comm), _of_the_groups(simulation, config)
    mass = simulation.comm.total(float(simulation.state.masses.sum()))
    if simulation.writer is None:
        return
    log, model = simulation.writer.log, simulation.model
    log(
        f"{simulation.n_atoms} atoms, model {config.model[0]} (rcut {model.rcut:g} Å, "
        f"{getattr(model, 'precision', 'float64')}), {simulation.ensemble.title}, "
        f"{simulation.clock.title}"
    )
    for line in config.notes():
        log(f"note: {line}")
    for line in _of_the_motion(simulation, config):
        log(line)
    provenance = getattr(model, "provenance", None) or {}
    volume = simulation.start.volume(simulation.engine.cell)
    if all(simulation.start.pbc):
        density = mass / volume * U_PER_A3_IN_G_PER_CM3
        log(f"density {density:.5g} g/cm³, mass {mass:.8g} u, volume {volume:.8g} Å³")
    if provenance.get("virials trained") is False and np.isfinite(volume):
        log(
            "note: the model was not trained on virials: do not trust pressure and stresses, nor "
            "what is made of them"
        )
    if simulation.is_still and simulation.n_atoms > 1:
        log(
            "note: no axis is periodic, and the thermostat would feed a rotation of the whole: it "
            "has none, and the temperature does not count it"
        )
    if simulation.n_held:
        by = "by constraints of the structure, 'frozen' or 'moving'"
        free = simulation.n_atoms - simulation.n_held
        log(f"{simulation.n_held} atoms are held, {by}; {free} are free")
    for line in groups:
        log(line)
    if simulation.deviating.committee is not None:
        n = simulation.deviating.n_models - 1
        others = ", ".join(config.model[1:]) or f"the {n} members in the model's file"
        log(f"model deviation in model_devi.out, with {others}")
    if config.plumed is not None:
        source = config.plumed if isinstance(config.plumed, str) else "lines of the input"
        log(f"forces of PLUMED on top of the model's: {source}; its log is plumed.log")
    grid = " x ".join(map(str, simulation.domain.grid))
    log(f"ranks: {grid}; threads of each: {torch.get_num_threads()}")
    for line in bound:
        log(line)
    if simulation.engine.torch_device.type != "cpu" and simulation.comm.size > 1:
        staged = simulation.engine.halo.by_way_of_host
        log(f"ghosts go {'by way of the host' if staged else 'from GPU to GPU'}")
    if simulation.resumed:
        log(f"going on from step {simulation.step}")
    for line in notes:
        log(f"note: {line}")


def _of_the_groups(simulation: Simulation, config: MdConfig) -> list[str]:
    """What is done to some of the atoms. Every rank must call."""
    state, comm, lines = simulation.state, simulation.comm, []
    if config.moving:
        sizes = group_sizes(state, MOVING, comm)
        for n, group in zip(sizes, config.moving, strict=True):
            lines.append(f"moving: {n} atoms at ({_vector(group.velocity)}) Å/fs")
        lines.append("how far they come, and the forces that they feel, are in loads.csv")
    if config.pull:
        for n, pulled in zip(group_sizes(state, PULL, comm), config.pull, strict=True):
            lines.append(f"pull: {n} atoms, ({_vector(pulled.force)}) eV/Å on each")
    if config.ensemble.atoms is not None:
        n = group_sizes(state, BATH, comm)[0]
        lines.append(f"thermostat: on {n} atoms; the others follow Newton's equations")
    return lines


def _vector(values: Sequence[float]) -> str:
    return ", ".join(f"{x:g}" for x in values)


def _of_the_motion(simulation: Simulation, config: MdConfig) -> Iterator[str]:
    """What moves the atoms when the run begins or goes on."""
    motion, start = simulation.integrator, simulation.start
    if config.ensemble.has_ramp:
        begin, length = motion.label["ramp_start"], motion.label["ramp_steps"]
        over = simulation.step >= begin + length
        span = f"the ramp goes from step {begin} to {begin + length}"
        yield (
            f"note: {span}, and is over: its last values hold; other ones go over the steps that "
            "are left"
            if over
            else span
        )
    if simulation.resumed:
        return
    thermal, own, copies = config.velocities, start.drift, int(np.prod(config.replicate))
    if thermal is not None:
        instead = "; those of the structure are not used" if own is not None else ""
        yield f"velocities: drawn at {thermal.temperature:g} K{instead}"
    elif own is None:
        yield "velocities: all atoms begin at rest"
    else:
        yield "velocities: those of the structure"
        if copies > 1:
            yield (
                f"note: its {copies} copies have the same velocities, and differ by rounding or "
                "noise alone; 'velocities' draws others"
            )
        if own > DRIFT and motion.conserves_momentum and not simulation.n_held:
            fate = (
                "the thermostat would feed this motion, and it is taken away"
                if motion.scales
                else "this motion stays, and the temperature counts it"
            )
            yield f"note: the structure moves as a whole, with {own:.2g} Å/fs; {fate}"
