"""Molecular dynamics on one rank or many.

Atoms belong to ranks by place (`Domain`), ghosts surround them (`Halo`), the model sees neither
(`LocalEnv`). The neighbour list reaches a skin beyond the cutoff and is made again, on all ranks
at once, as soon as any atom has moved half the skin; in between, a step is: move, update ghosts,
evaluate, fold forces.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from .. import kernels
from ..schema import S, parse
from ..system import InputError, LocalEnv
from . import restart
from .comm import SharedError, agreement, guarded, wrap
from .config import Ensemble, Output, Velocities
from .domain import checked_grid
from .halo import Halo, decompose
from .initial import Start, atoms_of, from_structure, set_temperature
from .integrate import integrator
from .output import Writer
from .report import RunResult, Stopwatch, Thermo
from .signals import StopRequest
from .state import State, degrees_of_freedom, temperature

NO_ATOM = np.iinfo(np.int64).max
"""Stands for 'no atom' where the smallest id over all ranks is sought."""


class Simulation:
    """A system of atoms, a potential that drives it and an ensemble that it samples.

    In parallel every rank makes the same calls. Errors that concern the run as a whole are raised
    on all ranks alike (SharedError); what fails on one rank alone ends all of them with that
    rank's message on its standard error and exit status 1.
    """

    def __init__(
        self,
        atoms: Atoms | None,
        model: Any,
        *,
        ensemble: Ensemble | Mapping[str, Any] | None = None,
        velocities: Velocities | Mapping[str, Any] | None = None,
        masses: Mapping[str, float] | None = None,
        timestep: float = 1.0,
        replicate: Sequence[int] = (1, 1, 1),
        skin: float = 1.0,
        grid: Sequence[int] | None = None,
        precision: str | None = None,
        output: Output | Mapping[str, Any] | None = None,
        resume: str | Path | None = None,
        comm: Any = None,
        quiet: bool = True,
    ) -> None:
        """Place the atoms and evaluate them.

        `atoms`: the structure, looked at on rank 0 only and not changed; `model`: path of a `.dpl`
        file, or anything with `rcut`, `type_map` and `evaluate(LocalEnv) -> Evaluation`. The
        other keys are those of the input file (`MdConfig`): timestep fs, skin Å, masses u by
        element; `output` None writes no files. `resume`: a restart file to go on from; atoms,
        velocities and replicate are then not used. `comm`: a communicator of mpi4py; None is this
        process alone. Raises InputError for arguments that do not hold together.
        """
        self.comm = wrap(comm)
        with agreement(self.comm):
            self.model = _loaded(model, precision)
            self.ensemble = _section(Ensemble, ensemble or {}, "ensemble")
            thermal = None if velocities is None else _section(Velocities, velocities, "velocities")
            self.output = None if output is None else _section(Output, output, "output")
            if not (timestep > 0 and np.isfinite(timestep)):
                raise InputError(f"timestep {timestep} fs: expected a positive number")
            if not 0 < skin < np.inf:
                raise InputError(f"skin {skin} Å: expected a positive number")
            if grid is not None:
                checked_grid(grid, self.comm.size)
        self.timestep, self.skin = timestep, skin
        self.integrator = integrator(self.ensemble, timestep)
        self.stopwatch = Stopwatch()
        self.list_builds = self.beyond_table = 0
        self._saved_step = -1
        if resume is None:
            start = from_structure(atoms, self.model.type_map, replicate, masses or {}, self.comm)
        else:
            start = restart.read(Path(resume), self.model.type_map, self.comm)
            self._saved_step = start.step
        self.start, self.n_atoms = start, start.n_atoms
        self.step = start.step
        self.freedom = degrees_of_freedom(self.n_atoms, self.integrator.conserves_momentum)
        self.resumed = resume is not None
        self.writer: Writer | None = None
        with agreement(self.comm):
            if self.comm.rank == 0:
                directory = self.output.directory if self.output else None
                sizes = start.file_sizes if self.resumed else None
                self.writer = Writer(directory, quiet, sizes)
        with guarded(self.comm):
            self._place(start, grid)
            if thermal is not None and not self.resumed:
                kelvin, seed = thermal.temperature, thermal.seed
                set_temperature(self.state, kelvin, seed, self.freedom, self.comm)
            self._evaluate()

    def _place(self, start: Start, grid: Sequence[int] | None) -> None:
        """Decompose the system and bring every atom to its rank, with its list."""
        domain, state = start.domain, start.state
        if domain is None or domain.size != self.comm.size or grid not in (None, domain.grid):
            positions = state.built.numpy()
            domain = decompose(positions, start.cell, start.pbc, self.comm, grid)
        self.domain, self.halo = domain, Halo(domain, self.comm)
        self.state = state
        if not self.resumed:
            self._build()
            return
        # Make the list of the run that is continued, from the positions that it was made for,
        # while those of this moment travel along in the place of `built`.
        state.positions, state.built = state.built, state.positions
        self._build(resumed=True)

    # --- the algorithm ----------------------------------------------------------------------

    def run(self, steps: int) -> RunResult:
        """Advance by `steps`, write what `output` asks for, and say how it went.

        SIGTERM ends the run early and cleanly, with a restart written if there is an output
        folder; so does Ctrl-C (the result says which). Raises SharedError when the motion breaks
        down: forces that are not finite, or an atom that moves half the cutoff in one step.
        """
        clock, first, self.stopwatch = time.perf_counter(), self.step, Stopwatch()
        with guarded(self.comm), StopRequest() as request, self._bar(steps):
            if first == 0:
                self._record()
            while self.step < first + steps and not request.agreed:
                with self.stopwatch("integrate"):
                    self.integrator.before_forces(self.state, self.forces, self.step)
                self.step += 1
                if self._list_is_stale(request):
                    self._build()
                else:
                    with self.stopwatch("communicate"):
                        self.halo.update(self.env.positions)
                self._evaluate()
                with self.stopwatch("integrate"):
                    self.integrator.after_forces(self.state, self.forces)
                self._record()
            self._save_restart()
            return self._result(self.step - first, time.perf_counter() - clock, request)

    def _build(self, resumed: bool = False) -> None:
        """Atoms to their owners, ghosts around them, and a new list."""
        with self.stopwatch("communicate"):
            state = self.state = self.halo.migrate(self.state)
            current, state.built = state.built, state.positions.clone()
            cutoff = self.model.rcut + self.skin
            positions, types, _ = self.halo.exchange(state, cutoff)
        with self.stopwatch("neighbours"):
            n_local = len(state)
            offsets, indices = kernels.neighbor_list(positions, types, n_local, cutoff)
        self.env = LocalEnv(positions, types, n_local, offsets, indices)
        state.positions = positions[:n_local]  # a view: to move an atom is to move its row
        self.list_builds += 1
        if resumed:
            state.positions.copy_(current)
            self.halo.update(positions)

    def _list_is_stale(self, request: StopRequest) -> bool:
        """Whether any atom of any rank has moved half the skin; on all ranks the same.

        The same message carries the largest speed and a signal that some rank may have had.
        """
        with self.stopwatch("communicate"):
            moved = _largest(self.state.positions - self.state.built)
            leap = self.timestep * _largest(self.state.velocities)
            values = np.array([moved, leap, request.number])
            moved, leap, number = self.comm.reduce(values, "max")
        request.agreed = int(number)
        limit = 0.5 * self.model.rcut
        if leap > limit:
            far = self.timestep * self.state.velocities.norm(dim=1)
            self._break_down(~(far <= limit), f"moves {leap:.3g} Å in one step")
        return bool(moved > 0.5 * self.skin)

    def _evaluate(self) -> None:
        """Forces on the atoms of this rank, complete, and its share of energy and virial."""
        env = self.env
        with self.stopwatch("model"):
            if env.n_local:
                e = self.model.evaluate(env)
                self.energies, self.virial = e.energies.detach(), e.virial.detach()
                all_forces = e.forces.detach().double().contiguous()
                self.beyond_table += e.beyond_table
                self._beyond_now = e.beyond_table
            else:  # nothing to compute, but ghosts that others may want back
                self.energies = torch.zeros(0, dtype=torch.float64)
                self.virial = torch.zeros(3, 3, dtype=torch.float64)
                all_forces = torch.zeros_like(env.positions)
                self._beyond_now = 0
        with self.stopwatch("communicate"):
            self.forces = self.halo.reverse(all_forces)
            bad = not bool(torch.isfinite(self.forces.sum() + self.energies.sum()))
            bad = bool(self.comm.reduce(np.array([bad], dtype=np.int64), "max")[0])
        if bad:
            finite = torch.isfinite(self.forces).all(dim=1) & torch.isfinite(self.energies)
            self._break_down(~finite, "has a force or energy that is not finite")

    def _break_down(self, culprits: torch.Tensor, what: str) -> None:
        """Save the frame and raise SharedError on all ranks, naming one atom of `culprits`."""
        ids = self.state.ids[culprits]
        own = int(ids.min()) if len(ids) else NO_ATOM
        worst = int(self.comm.reduce(np.array([own]), "min")[0])
        atoms, saved = self._frame(), ""
        if self.writer is not None and atoms is not None:
            atoms.calc = None  # positions and forces may be of different moments by now
            path = self.writer.frame(atoms, "failed.extxyz")
            saved = f"; the frame is saved in {path}" if path else ""
        saved = self.comm.share(saved)
        atom = f"atom {worst}" if worst != NO_ATOM else "the system"
        raise SharedError(
            f"step {self.step}: {atom} {what}: the structure is unphysical, the timestep "
            f"({self.timestep:g} fs) too long or the model far from its training data; relax the "
            f"structure, halve the timestep, or add such structures to the training{saved}"
        )

    # --- what can be known about it ---------------------------------------------------------

    @property
    def time(self) -> float:
        """fs."""
        return self.start.time + (self.step - self.start.step) * self.timestep

    @property
    def atoms(self) -> Atoms | None:
        """All atoms in order of id, with energy and forces, on rank 0; None on other ranks.

        Every rank must ask. Positions are continuous in time: not wrapped into the cell.
        """
        with guarded(self.comm):
            return self._frame()

    @property
    def thermo(self) -> Thermo:
        """Temperature, energies and stress of this moment, on every rank. Every rank must ask."""
        with guarded(self.comm):
            return self._thermo()

    def _thermo(self) -> Thermo:
        own = [self.energies.sum()[None], torch.tensor([float(self._beyond_now)])]
        own += [self.virial.flatten(), self.state.kinetic_tensor().flatten()]
        total = self.comm.reduce(torch.cat([x.double() for x in own]).numpy(), "sum")
        virial, kinetic = total[2:11].reshape(3, 3), total[11:].reshape(3, 3)
        cell = self.start.cell
        volume = abs(float(np.linalg.det(cell))) if all(self.start.pbc) else np.nan
        energy = 0.5 * float(np.trace(kinetic))
        return Thermo(
            step=self.step,
            time=self.time,
            temperature=temperature(energy, self.freedom),
            potential=float(total[0]),
            kinetic=energy,
            volume=volume,
            stress=-(virial + kinetic) / volume,
            beyond_table=int(total[1]),
        )

    def _gather(self) -> tuple[State, np.ndarray, np.ndarray] | None:
        """All atoms, forces (N, 3) and energies (N,) in order of id on rank 0."""
        columns = [self.state.pack(), self.forces.numpy(), self.energies.numpy()[:, None]]
        rows = self.comm.gather_rows(np.concatenate(columns, axis=1))
        if rows is None:
            return None
        rows = rows[np.argsort(rows[:, 0])]
        k = State.COLUMNS
        return State.unpack(rows[:, :k]), rows[:, k : k + 3], rows[:, k + 3]

    def _frame(self) -> Atoms | None:
        thermo, gathered = self._thermo(), self._gather()
        if gathered is None:
            return None
        state, forces, energies = gathered
        atoms = atoms_of(state, self.start, self.model.type_map)
        atoms.info.update(step=self.step, time_fs=self.time)
        results = {"energy": thermo.potential, "forces": forces, "energies": energies}
        if all(self.start.pbc):  # as a calculator gives it: without the kinetic part
            kinetic = state.kinetic_tensor().numpy() / thermo.volume
            results["stress"] = full_3x3_to_voigt_6_stress(thermo.stress + kinetic)
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    # --- records ----------------------------------------------------------------------------

    def _record(self) -> None:
        """What the output asks for at this step."""
        if self.writer is not None:
            self.writer.tick()
        if self.output is None:
            return
        with self.stopwatch("output"):
            if _due(self.step, self.output.thermo):
                thermo = self._thermo()
                if self.writer is not None:
                    self.writer.thermo(thermo)
            if _due(self.step, self.output.trajectory):
                atoms = self._frame()
                if self.writer is not None and atoms is not None:
                    self.writer.frame(atoms)
            if self.step and _due(self.step, self.output.restart):
                self._save_restart()

    def _save_restart(self) -> None:
        if self.output is None or self.step == self._saved_step:
            return
        self._saved_step = self.step
        gathered = self._gather()
        if self.writer is None or gathered is None:
            return
        now = replace(self.start, step=self.step, time=self.time, file_sizes=self.writer.sizes())
        notes = {"timestep_fs": self.timestep, "ensemble": self.ensemble.model_dump()}
        folder = self.output.directory / "restart"
        restart.write(folder, gathered[0], now, self.model.type_map, self.domain, notes)

    @contextmanager
    def _bar(self, steps: int) -> Iterator[None]:
        """A progress bar while the run lasts."""
        if self.writer is not None:
            self.writer.open_bar(steps, self.n_atoms, self.timestep)
        try:
            yield
        finally:
            if self.writer is not None:
                self.writer.close_bar()

    def _result(self, steps: int, seconds: float, request: StopRequest) -> RunResult:
        parts = ("model", "neighbours", "communicate", "integrate", "output")
        own = [self.stopwatch.seconds.get(p, 0.0) for p in parts]
        spent = self.comm.reduce(np.array(own), "sum") / self.comm.size
        largest = self.comm.reduce(np.array([len(self.state), seconds]), "max")
        beyond = self.comm.reduce(np.array([self.beyond_table]), "sum")
        result = RunResult(
            thermo=self._thermo(),
            steps=steps,
            seconds=float(largest[1]),
            n_atoms=self.n_atoms,
            n_ranks=self.comm.size,
            timestep=self.timestep,
            list_builds=self.list_builds,
            parts=dict(zip(parts, spent.tolist(), strict=True)),
            imbalance=float(largest[0]) * self.comm.size / self.n_atoms,
            beyond_table=int(beyond[0]),
            signal=request.name,
        )
        self.list_builds = self.beyond_table = 0
        if self.writer is not None and self.output is not None:
            self.writer.summary(result)
        return result


def _largest(vectors: torch.Tensor) -> float:
    """Length of the longest of (n, 3) vectors; infinite if any is not finite."""
    if not len(vectors):
        return 0.0
    longest = float(torch.linalg.vector_norm(vectors, dim=1).max())
    return longest if np.isfinite(longest) else np.inf


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _section(kind: type[S], given: Any, name: str) -> S:
    return given if isinstance(given, kind) else parse(kind, dict(given), name)


def _loaded(model: Any, precision: str | None) -> Any:
    """A model from its path, in the precision asked for."""
    if isinstance(model, (str, Path)):
        from ..model import load_model

        return load_model(model, precision)
    if precision is not None and precision != getattr(model, "precision", precision):
        raise InputError(
            f"precision '{precision}' for a Potential of {model.precision}: call its "
            "to_precision() first"
        )
    return model
