"""What a run will need, before it runs: `dpl md --dry-run`.

Edges and speed follow from a probe of a few steps, ghosts and memory from `memory`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ..free_memory import available_bytes, status
from ..geometry import cell_heights, checked_cell
from ..kernels import cuda
from ..system import InputError
from .comm import Communicator, agreement, own_cpus, ranks_here
from .config import Adaptive, MdConfig, Settings
from .engine import Engine
from .ensemble import Ensemble
from .memory import Subdomain, frame_bytes, mean_subdomain, size
from .model_deviation import Deviating
from .report import ns_per_day
from .simulation import Simulation

PROBE_STEPS = 20
PROBE_ATOMS = 8000
"""Wanted for each rank of a probe; a system that is replicated is probed with fewer copies."""
PROBE_SECONDS = 60.0
"""Fewer steps are made where they would take longer."""

BYTES_OF_STATE_ON_GPU = 270
"""By atom there, beside what the kernels need: the state, and a packed copy for a new list."""


@dataclass(frozen=True)
class Probe:
    """Some steps of the system, or of a smaller one with the same unit."""

    n_atoms: int
    n_ranks: int
    threads: int
    """Of each rank."""
    steps: int
    n_models: int
    """Several: the deviation of all is part of the time,"""
    deviation_every: int
    """every so many steps."""
    seconds_per_step: float
    edges_per_atom: float
    reach: float
    """Å, cutoff and skin."""
    program_bytes: float
    """Resident memory of a rank that does not depend on the number of atoms."""

    @property
    def rank_seconds_per_atom(self) -> float:
        """Seconds of one rank for a step of one atom."""
        return self.seconds_per_step * self.n_ranks / self.n_atoms


@dataclass(frozen=True)
class Plan:
    """The forecast for a run."""

    config: MdConfig
    elements: dict[str, int]
    """Atoms of the whole system by element."""
    cell: np.ndarray
    """(3, 3) Å, of the whole system."""
    pbc: tuple[bool, bool, bool]
    grid: tuple[int, int, int]
    subdomain: Subdomain
    probe: Probe
    available_bytes: float
    """Free memory of this machine, for the ranks that would share it."""
    ranks_here: int
    """Ranks that would share this machine: as many as its CPUs have room for."""

    @property
    def n_atoms(self) -> int:
        """Atoms of the whole system."""
        return sum(self.elements.values())

    @property
    def n_ranks(self) -> int:
        """Subdomains."""
        return int(np.prod(self.grid))

    @property
    def bytes_per_rank(self) -> float:
        """Peak resident memory of a rank."""
        return self.probe.program_bytes + self.subdomain.bytes()

    @property
    def frame_bytes(self) -> float:
        """Of rank 0 besides, for whole frames of the trajectory."""
        return frame_bytes(self.config.output) * self.n_atoms

    @property
    def seconds_per_step(self) -> float:
        """With every rank as fast as in the probe."""
        return self.probe.rank_seconds_per_atom * self.n_atoms / self.n_ranks

    def lines(self) -> list[str]:
        """For a person."""
        c, sub, probe = self.config, self.subdomain, self.probe
        composition = " ".join(f"{s} {n:,}" for s, n in sorted(self.elements.items()))
        lengths = " x ".join(f"{x:.1f}" for x in cell_heights(self.cell))
        periodic = "".join("xyz"[k] for k in range(3) if self.pbc[k])
        seconds, step = self.seconds_per_step, c.longest_timestep
        most = "at most " if isinstance(c.timestep, Adaptive) else ""
        rows = {
            "atoms": f"{self.n_atoms:,} ({composition})",
            "cell": f"{lengths} Å between faces; periodic axes: {periodic}"
            if any(self.pbc)
            else "periodic along no axis",
            "ensemble": c.ensemble.type,
            "models": f"{probe.n_models}, of which the first drives; deviation every "
            f"{probe.deviation_every} steps",
            "time": f"{c.steps:,} steps of {most}{step:g} fs: {most}{c.steps * step / 1000:g} ps",
            "ranks": f"{self.n_ranks} as {' x '.join(map(str, self.grid))}; threads of each: "
            f"{probe.threads}",
            "subdomain": f"{' x '.join(f'{x:.1f}' for x in sub.lengths)} Å; "
            f"{sub.n_atoms:,.0f} atoms, {sub.n_ghosts:,.0f} ghosts within {probe.reach:g} Å, "
            f"{probe.edges_per_atom:.0f} neighbours each",
            "memory": f"{size(self.bytes_per_rank)} for each rank, "
            f"{self.subdomain.bytes() / max(sub.n_atoms, 1):,.0f} bytes/atom and "
            f"{size(probe.program_bytes)} for the program",
            "probe": f"{probe.steps} steps of {probe.n_atoms:,} atoms on {probe.n_ranks} "
            f"rank{'s' if probe.n_ranks > 1 else ''}: "
            f"{1e6 * probe.seconds_per_step / probe.n_atoms:.3g} µs/atom/step",
            "speed": f"{seconds:.3g} s/step, {1 / seconds:.3g} steps/s, "
            f"{most}{ns_per_day(step, seconds):.3g} ns/day; all steps in "
            f"{_duration(seconds * c.steps)}",
        }
        if probe.n_models == 1:
            del rows["models"]
        if c.device != "cpu":
            own = sub.n_atoms, sub.n_ghosts, sub.n_edges
            there = cuda.forecast(*own) + BYTES_OF_STATE_ON_GPU * sub.n_atoms
            rows["GPU memory"] = f"{size(there)} for each rank, and working memory"
        if self.frame_bytes:
            rows["memory"] += f"; rank 0 gathers frames of the trajectory: {size(self.frame_bytes)}"
        width = max(map(len, rows))
        made = [f"{key:<{width}}  {value}" for key, value in rows.items()]
        made += [f"note: {line}" for line in c.notes()]
        if self.n_ranks > probe.n_ranks and sub.n_ghosts > 2 * sub.n_atoms:
            made.append(
                f"warning: the speed is that of {probe.n_ranks} rank(s) times more; with "
                f"{sub.n_ghosts / max(sub.n_atoms, 1):.0f} ghosts for each atom it will be much "
                "lower: use fewer ranks or more atoms"
            )
        wanted = self.bytes_per_rank * self.ranks_here + self.frame_bytes
        if wanted > self.available_bytes:
            made.append(
                f"warning: {self.ranks_here} ranks on this machine want {size(wanted)}, "
                f"{size(self.available_bytes)} are free: use more machines or fewer atoms"
            )
        return made


def make_plan(
    config: MdConfig,
    atoms: Atoms | None,
    comm: Communicator,
    n_ranks: int | None = None,
    force: bool = False,
) -> Plan:
    """Probe the system of `config` and forecast its run on `n_ranks` (default: those of `comm`).

    `atoms`: the structure, on rank 0. Writes nothing. Raises as `Simulation` does.
    """
    probe = _probe(config, atoms, comm, force)
    ranks, n_here = n_ranks or comm.size, ranks_here(comm)
    room = max(n_here, len(own_cpus()) // probe.threads)  # others would be on other machines
    planned_here = n_here if n_ranks is None else min(n_ranks, room)
    plan: Plan | None = None
    with agreement(comm):
        if comm.rank == 0:
            assert atoms is not None
            grid, sub = mean_subdomain(
                atoms, config.replicate, config.grid, ranks, probe.reach, probe.edges_per_atom
            )
            elements = Counter(atoms.get_chemical_symbols())
            copies = int(np.prod(config.replicate))
            plan = Plan(
                config=config,
                elements={s: n * copies for s, n in elements.items()},
                cell=checked_cell(atoms.cell.array, atoms.pbc, "structure")
                * np.array(config.replicate)[:, None],
                pbc=(bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
                grid=grid,
                subdomain=sub,
                probe=probe,
                available_bytes=_known(available_bytes(planned_here)),
                ranks_here=planned_here,
            )
    shared: Plan = comm.share(plan)
    return shared


def simulation_of(config: MdConfig, atoms: Atoms | None, **instead: Any) -> Simulation:
    """The simulation of an MD input; `instead`: arguments in place of its keys, or besides."""
    keys = {key: getattr(config, key) for key in Settings.model_fields}
    return Simulation(atoms, config.model, **keys | instead)


def _probe(config: MdConfig, atoms: Atoms | None, comm: Communicator, force: bool) -> Probe:
    """A few steps on the ranks at hand, with nothing written."""
    copies = comm.share(None if atoms is None else _copies(config, len(atoms), comm.size))
    whole = copies == tuple(config.replicate)  # else what is frozen may be elsewhere, or not there
    simulation = simulation_of(
        config,
        atoms,
        replicate=copies,
        frozen=config.frozen if whole else (),
        moving=config.moving if whole else (),
        pull=config.pull if whole else (),
        grid=config.grid if config.grid and np.prod(config.grid) == comm.size else None,
        output=None,
        guards=config.guards.model_copy(update={"deviation": None}),
        ensemble=_probed(config, copies),
        plumed=None,  # it would write files, and may name atoms that are not there
        force=force,
        comm=comm,
    )
    first = time.perf_counter()
    simulation.advance(1)
    once = comm.largest(time.perf_counter() - first)
    steps = int(np.clip(PROBE_SECONDS / once, 1, PROBE_STEPS))
    result = simulation.advance(steps)
    if result.signal:  # half a probe is no forecast
        raise KeyboardInterrupt
    with agreement(comm):
        deviating = Deviating(simulation.model, config.output, config.guards)
    seconds = result.seconds / result.steps
    if deviating.every:
        seconds += _deviation_seconds(simulation.engine, deviating) / deviating.every
    env = simulation.engine.env
    alone = comm.size == 1
    own = Subdomain((0, 0, 0), env.n_local, env.n_all - env.n_local, env.n_edges, alone)
    program = comm.largest(float(_resident() - own.bytes()))
    edges = comm.total(env.n_edges)
    return Probe(
        n_atoms=simulation.n_atoms,
        n_ranks=comm.size,
        threads=torch.get_num_threads(),
        steps=steps,
        n_models=deviating.n_models,
        deviation_every=deviating.every,
        seconds_per_step=seconds,
        edges_per_atom=edges / simulation.n_atoms,
        reach=simulation.model.rcut + config.skin,
        program_bytes=program,
    )


def _probed(config: MdConfig, copies: Sequence[int]) -> Ensemble:
    """The ensemble for as many steps as the probe wants, and for fewer copies: a relaxation may be
    at its end at once, slabs too wide for a shorter cell, and some atoms not be there."""
    e = config.ensemble
    if e.type == "relax":
        return e.model_copy(update={"fmax": 0.0})
    if e.atoms is not None and tuple(copies) != tuple(config.replicate):
        return e.model_copy(update={"atoms": None})
    if e.width is None or e.axis is None:
        return e
    axis = "abc".index(e.axis)
    return e.model_copy(update={"width": e.width * copies[axis] / config.replicate[axis]})


def _deviation_seconds(engine: Engine, deviating: Deviating) -> float:
    """What a row of `model_devi.out` takes."""
    deviating.look(engine)  # the first time compiles their networks
    first = time.perf_counter()
    deviating.look(engine)
    return time.perf_counter() - first


def _copies(config: MdConfig, n_unit: int, n_ranks: int) -> tuple[int, int, int]:
    """Fewer copies than asked for, but enough atoms for each rank, as even as can be."""
    copies = list(config.replicate)
    while True:
        axis = int(np.argmax(copies))
        fewer = [*copies]
        fewer[axis] -= 1
        if copies[axis] == 1 or n_unit * np.prod(fewer) < PROBE_ATOMS * n_ranks:
            return (copies[0], copies[1], copies[2])
        copies = fewer


def _resident() -> float:
    """Bytes of this process in memory at its peak."""
    return _known(status(Path("/proc/self/status"), "VmHWM"))


def _known(n_bytes: float | None) -> float:
    if n_bytes is None:
        raise InputError("dry run: the memory forecast needs Linux (/proc/meminfo)")
    return n_bytes


def _duration(seconds: float) -> str:
    for unit, scale in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.3g} s"
