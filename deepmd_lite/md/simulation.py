"""Molecular dynamics on one rank or many: the loop over steps, and what is recorded of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ..committee import ModelOrPath, loaded
from ..schema import parse
from ..system import InputError
from .cell_changes import check_cell_changes
from .clock import Clock
from .comm import agreement, gpu_of_rank, guarded, wrap
from .config import Settings
from .domain import Domain, checked_grid
from .drive import drive_of
from .engine import Engine, Totals
from .groups import MOVING
from .guards import Monitor, Trip, stop
from .initial import set_temperature
from .integrate import integrator
from .model_deviation import Deviating
from .observe import Observable, System, observables, sample
from .opening import begun, bias_of, opened
from .output import DEVIATION, LOADS
from .report import RunResult, Stopwatch, Thermo
from .result import result_of
from .signals import StopRequest
from .state import State, degrees_of_freedom, temperature
from .trajectory import Moment, assemble, extent, ordered_slabs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .keys import Keys


class Simulation:
    """A system of atoms, a potential that drives it and an ensemble that it samples.

    In parallel every rank makes the same calls. Errors that concern the run as a whole are raised
    on all ranks alike (SharedError); what fails on one rank alone ends all of them with that
    rank's message on its standard error and exit status 1.
    """

    def __init__(
        self,
        atoms: Atoms | None,
        model: ModelOrPath | Sequence[ModelOrPath],
        *,
        resume: str | Path | None = None,
        force: bool = False,
        comm: Any = None,
        quiet: bool = True,
        **keys: Unpack[Keys],
    ) -> None:
        """Place the atoms and evaluate them.

        `atoms`: the structure, looked at on rank 0 only and not changed; those that its constraints
        fix are held. `model`: path of a `.dpl` file, or anything with `rcut`, `type_map` and
        `evaluate(LocalEnv) -> Evaluation`, or several of those: the first drives, all give the
        model deviation. `keys` are those of the input file with its checks (`config.Settings`):
        `ensemble`, `frozen`, `moving`, `pull`, `velocities`, `masses` u by element, `timestep` fs
        (1) or {max, displacement}, `replicate`, `skin` Å (1), `grid`, `balance`, `device`,
        `precision`, `output` (default: no files), `guards`, `plumed`, `ghosts`, and `steps` of the
        whole run, which matters to ramps only; None is the default.

        `resume`: a restart to go on from, or the folder of a run, whose newest sound restart is
        meant; atoms, masses, velocities, frozen, replicate and which atoms `moving` and `pull` name
        are then not used. `force`: only warn of a model without virials where the cell changes, and
        of too little memory. `comm`: a communicator of mpi4py; None is this process alone. `quiet`
        shows warnings alone of what goes to the log. Raises InputError for wrong arguments.
        """
        self.comm = wrap(comm)
        with guarded(self.comm):
            self._set_up(atoms, model, resume, force, quiet, keys)

    def _set_up(
        self,
        atoms: Atoms | None,
        model: ModelOrPath | Sequence[ModelOrPath],
        resume: str | Path | None,
        force: bool,
        quiet: bool,
        keys: Keys,
    ) -> None:
        """What `__init__` does; some of it may fail on one rank alone."""
        with agreement(self.comm):
            given = {key: value for key, value in keys.items() if value is not None}
            settings = parse(Settings, given, "Simulation")
            if settings.grid is not None:
                checked_grid(settings.grid, self.comm.size)
        device = gpu_of_rank(settings.device, self.comm)
        with agreement(self.comm):
            self.model = loaded(model, settings.precision, device)
            self.deviating = Deviating(self.model, settings.output, settings.guards)
        self.ensemble, self.output = settings.ensemble, settings.output
        self.guards = settings.guards
        self._ended_by: str | None = None
        self.resumed = self._begun = resume is not None
        restart_of = None if resume is None else Path(resume)
        self.start, warnings = begun(atoms, settings, self.model, self.comm, restart_of, force)
        self._unsaid: list[str] | None = warnings
        self.n_atoms, self.step = self.start.n_atoms, self.start.step
        self._saved_step = self.step if self.resumed else -1
        self.clock = Clock(settings.timestep, self.start.time, self.step, self.start.memory)
        warnings += self._choose_integrator(settings, force)
        rows = [DEVIATION] * (self.deviating.every > 0) + [LOADS] * bool(settings.moving)
        self.writer, self.archive = opened(self.output, self.start, self.comm, quiet, rows=rows)
        target = max(self.ensemble.temperature or (0.0,))
        self.monitor = Monitor(self.guards, self.clock, self.freedom, target, self._warn)
        s, ours = settings, (self.model, self.start, self.comm)
        self.engine = Engine(*ours, skin=s.skin, grid=s.grid, balance=s.balance, ghosts=s.ghosts)
        v = settings.velocities
        if v is not None and not self.resumed:
            by = v.temperature, v.seed, self.freedom, self.comm
            set_temperature(self.engine.state, *by, self.is_still)
        self.start = replace(self.start, state=State.empty())  # they are the engine's now
        self.engine.drive = drive_of(settings, self.engine, self.start.memory)
        self.bias = bias_of(settings, self.comm, self.start, self._warn, self.counts_all)
        self._evaluate()
        self.clock.ready()
        self.integrator.prepare(self.engine, self.freedom)
        self.observables = self._observables()
        self._unsaid = None
        for line in warnings:
            self._warn(line)

    def _warn(self, line: str) -> None:
        """At once; as long as the run may be refused, later: a failed start leaves no files."""
        if self._unsaid is not None:
            self._unsaid.append(line)
        elif self.writer is not None:
            self.writer.warn(line)

    def _choose_integrator(self, s: Settings, force: bool) -> list[str]:
        """Integrator and degrees of freedom; returns warnings."""
        start = self.start
        held = int(self.comm.total(float((1 - start.state.mobile).sum())))
        with agreement(self.comm):
            e, known = self.ensemble, start.integrator
            self.integrator = integrator(e, self.timestep, s.steps, known, start.step, start.noise)
            cell = start.cell, start.pbc, start.absent
            warnings = check_cell_changes(e, *cell, held, self.model, force)
        alone = self.integrator.conserves_momentum and not held and not s.pull
        self.n_held, self.counts_all = held, not alone
        self.is_still = alone and self.integrator.scales and not any(start.pbc)
        self.freedom = degrees_of_freedom(self.n_atoms - held, alone, self.is_still)
        return warnings

    # --- the algorithm ----------------------------------------------------------------------

    def run(self, steps: int) -> RunResult:
        """Advance by `steps`, write what `output` asks for, and say how it went.

        SIGTERM, SIGUSR1 or Ctrl-C end the run after the step in hand, with a restart written if
        there is an output folder. Ctrl-C then raises KeyboardInterrupt, and the next call goes on;
        the others are named by the result, and who calls again all the same gets SystemExit.
        Raises SharedError when a guard trips or forces are not finite, InputError where another
        run has gone on in the output folder.
        """
        result = self.advance(steps)
        if result.signal == "SIGINT":
            self._ended_by = None
            at, kept = self.step, "; a restart is written" if self.archive else ""
            self._warn(f"stopped by Ctrl-C after step {at} of {at - result.steps + steps}{kept}")
            raise KeyboardInterrupt
        return result

    def advance(self, steps: int) -> RunResult:
        """As `run`, but Ctrl-C is named by the result as well."""
        ended_by, self._ended_by = self._ended_by, None
        StopRequest.act_upon(ended_by)
        with agreement(self.comm):
            if not isinstance(steps, (int, np.integer)) or steps < 0:
                raise InputError(f"run: steps {steps!r}: expected a whole number, not negative")
            if (w := self.writer) is not None and self.comm.size > 1:
                w.refuse_to_mix()  # which inside the run would end all ranks
        engine, clock, first = self.engine, time.perf_counter(), self.step
        self.stopwatch = engine.stopwatch = Stopwatch()
        self.bias.ends = False
        writing = nullcontext() if w is None else w.running(steps, self.n_atoms, self.time)
        with guarded(self.comm), StopRequest() as request, writing:
            if not self._begun:
                self._begun = True
                self._record()
            since = self.time, self._conserved(engine.totals())
            while self.step < first + steps and not (request.agreed or self._is_over):
                self.integrator.timestep = self.clock.begin()
                with self.stopwatch("integrate"):
                    self.integrator.before_forces(engine, self.step)
                self.step += 1
                self.clock.arrive(self.step)
                engine.refresh(self._list_is_stale(request))
                self._evaluate()
                with self.stopwatch("integrate"):
                    self.integrator.after_forces(engine, self.step - 1)
                self._record()
            self._obey(self.monitor.look(engine, self.step))
            with self.stopwatch("output"):
                self._save_restart()
            return self._result(self.step - first, time.perf_counter() - clock, request, *since)

    def _list_is_stale(self, request: StopRequest) -> bool:
        """Whether some atom of some rank has moved too far for the list; on all ranks the same.

        The same message carries the largest speed and a signal that some rank may have had.
        """
        with self.stopwatch("communicate"):
            slack_used, speed = self.engine.movement()
            values = np.array([slack_used, self.clock.timestep * speed, request.number])
            used, leap, number = self.comm.reduce(values, "max")
        request.agreed = int(number)
        self._obey(self.monitor.moved(self.engine, leap))
        return bool(used > 1.0)

    def _evaluate(self) -> None:
        """Forces, which must be finite and bearable on every rank."""
        engine = self.engine
        engine.evaluate()
        self.bias.act(engine, self.step)
        with engine.stopwatch("communicate"):
            trip = self.monitor.evaluated(engine, self.step)
        self._obey(trip)

    def _obey(self, trip: Trip | None) -> None:
        """End the run where a guard has tripped."""
        if trip is not None:
            if trip.forces_are_current:
                self.monitor.look(self.engine, self.step)
            last = self.archive.last if self.archive else None
            stop(trip, self.engine, self._frame(), self.writer, self.step, self.clock, last)

    # --- what can be known about it ---------------------------------------------------------

    @property
    def state(self) -> State:
        """The atoms of this rank."""
        return self.engine.state

    @property
    def domain(self) -> Domain:
        """The decomposition of this moment."""
        return self.engine.halo.domain

    @property
    def _is_over(self) -> bool:
        return self.bias.ends or self.integrator.ends

    @property
    def time(self) -> float:
        """fs."""
        return self.clock.time

    @property
    def timestep(self) -> float:
        """fs, of the step that comes next; another one is for a run that goes on (`resume`)."""
        return self.clock.coming

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
        totals, volume = self.engine.totals(), self.start.volume(self.engine.cell)
        return Thermo(
            step=self.step,
            time=self.time,
            temperature=temperature(totals.kinetic_energy, self.freedom),
            potential=totals.potential,
            kinetic=totals.kinetic_energy,
            volume=volume,
            stress=totals.stress(volume),
            beyond_table=totals.beyond_table,
            conserved=self._conserved(totals),
            cell=np.where(np.array(self.start.absent)[:, None], 0.0, self.engine.cell),
            largest_force=self.integrator.largest_force,
            timestep=self.timestep if self.clock.adaptive else None,
        )

    def _conserved(self, totals: Totals) -> float:
        """eV: with the energy of a bias, and what the motion has taken."""
        outside = self.bias.energy(self.engine) + self.integrator.extra_energy(self.engine)
        return totals.energy + outside

    def _moment(self) -> Moment:
        """What all atoms share in a frame of this moment."""
        totals, volume = self.engine.totals(), self.start.volume(self.engine.cell)
        return Moment(
            step=self.step,
            time=self.time,
            cell=self.engine.cell.copy(),
            absent=self.start.absent,
            pbc=self.start.pbc,
            type_map=self.model.type_map,
            n_atoms=self.n_atoms,
            potential=totals.potential,
            stress=None if np.isnan(volume) else -(totals.virial - self.bias.virial) / volume,
            extent=extent(self.engine, self.start.absent),
        )

    def _frame(self) -> Atoms | None:
        moment, slabs = self._moment(), list(ordered_slabs(self.engine))
        return assemble(moment, slabs) if self.comm.rank == 0 else None

    # --- records ----------------------------------------------------------------------------

    def _record(self) -> None:
        """What the output asks for at this step."""
        if self.writer is not None:
            self.writer.tick(self.time)
        if self.output is None:
            return
        with self.stopwatch("output"):
            if self._due(self.output.thermo):
                thermo = self._thermo()
                drive = self.engine.drive
                rows = drive.rows(self.comm, self.step, self.time) if drive else ""
                if self.writer is not None:
                    self.writer.thermo(thermo, rows)
            trip, deviations = None, None
            if self._due(self.deviating.every):
                columns, deviations, trip = self.deviating.look(self.engine)
                if self.writer is not None:
                    self.writer.deviation(self.step, columns)
            if self._due(self.output.trajectory):
                moment, slabs = self._moment(), ordered_slabs(self.engine, deviations)
                if self.writer is not None:
                    self.writer.trajectory(moment, slabs)
                list(slabs)  # every rank sends its own
            sample(self.observables, self.engine, self.step, self.time)
            if trip is None and self.step and self._due(self.output.restart):
                self._save_restart()
        self._obey(trip)

    def _due(self, interval: int) -> bool:
        return interval > 0 and (self.step % interval == 0 or self._is_over)

    def _observables(self) -> list[Observable]:
        """Those that the output asks for, with the memory of the run that is continued."""
        if self.output is None:
            return []
        system = System.of(self.engine, self.start.absent, self.clock.longest, self.freedom)
        return observables(self.output.observe, system, self.engine, self.start.memory)

    def _save_restart(self) -> None:
        if self.archive is None or self.step == self._saved_step:
            return
        self._saved_step = self.step
        if self.writer is not None:
            for observable in self.observables:
                self.writer.tables(observable.result())
        memory = {o.name: o.memory() for o in self.observables}
        memory |= self.bias.memory() | self.clock.memory()
        if self.engine.drive is not None:
            memory[MOVING] = self.engine.drive.memory(self.comm)
        now = replace(
            self.start,
            state=self.engine.state,
            domain=self.domain,
            cell=self.engine.cell,
            built_cell=self.engine.built_cell,
            step=self.step,
            time=self.time,
            integrator=self.integrator.memory(self.engine),
            memory=memory,
            file_sizes=self.writer.sizes() if self.writer is not None else {},
        )
        told = {"timestep_fs": self.timestep, "ensemble": self.ensemble.model_dump()}
        self.archive.write(now, self.model.type_map, told)

    def _result(
        self, steps: int, seconds: float, request: StopRequest, since: float, conserved: float
    ) -> RunResult:
        parts = (*self.bias.parts, *(observable.name for observable in self.observables))
        mean, own = self.clock.mean(since, steps), (self.engine, self._thermo(), request)
        result = result_of(*own, steps, seconds, mean, conserved, parts)
        self._ended_by = result.signal
        if self.writer is not None and self.output is not None:
            self.writer.summary(result)
        self.monitor.close(self.engine, steps, result.beyond_table)
        return result
