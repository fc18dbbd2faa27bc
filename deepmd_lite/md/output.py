"""What a run writes: rows of numbers, trajectories, tables, log, and its progress.

The columns of `thermo.csv` are explained in `report`, those of `model_devi.out` in `deviation`,
those of `loads.csv` in `drive`.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import ase.io
from ase import Atoms
from tqdm import tqdm

from ..deviation import md_header, row
from ..files import InUse, write_atomically, writing
from ..launchers import of_unconnected_tasks
from ..progress import on_terminal, telling
from ..system import InputError
from .drive import HEADER
from .observe import Table
from .report import COLUMNS, TABLE_HEADER, RunResult, Thermo, ns_per_day
from .restart import MANIFEST, in_folder
from .trajectory import NAMES, Moment, Slab, Trajectory, open_trajectory
from .trajectory.journal import Journal

THERMO, DEVIATION, LOADS, LOG = "thermo.csv", "model_devi.out", "loads.csv", "log"
"""Files to which a run adds rows."""
LOGGER = logging.getLogger("deepmd_lite.md")


class Writer:
    """Files and messages of a run; lives on rank 0 only."""

    def __init__(
        self,
        directory: Path | None,
        quiet: bool,
        sizes: Mapping[str, int] | None,
        formats: Sequence[str] = (),
        rows: Sequence[str] = (),
    ) -> None:
        """Write to `directory` (None: no files), or go on where the files had `sizes` bytes.

        `formats` of the trajectory; `rows`: names of the files, besides thermo.csv, to which rows
        will be added. Files are made
        when there is something to write, so that a failed start leaves none. Raises InputError if
        a new run would overwrite an old one, if a format needs a package that is not there, or a
        file cannot be taken back to the restart.
        """
        self.directory = directory
        self.quiet = quiet
        self._bar: tqdm | None = None
        self._header_shown = False
        self._ends: dict[str, int] = {}
        if directory is None:
            return
        self._earlier: dict[str, int] = {}
        self._lock = InUse(directory, of_unconnected_tasks(os.environ))
        weakref.finalize(self, self._lock.release)  # of a run that does not come to begin
        self._trajectories = [open_trajectory(kind, directory) for kind in formats]
        tables = [Journal(directory / name) for name in (THERMO, *rows)]
        self._growing: list[Journal | Trajectory] = [*tables, *self._trajectories]
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if sizes is None:
                self._refuse_to_overwrite(directory)
            else:
                self._go_on(sizes)
            # their bytes as this run leaves them: another one may go on meanwhile
            self._ends = {name: self._size(name) for name in (THERMO, LOG)}

    def _refuse_to_overwrite(self, directory: Path) -> None:
        own = [file.path.name for file in self._growing]
        names = dict.fromkeys((THERMO, *own, *NAMES.values(), LOG))
        present = [name for name in names if (directory / name).exists()]
        restarts = list(in_folder(directory / "restart"))
        if present or restarts:
            way = "go on with --continue (from Python: resume=FOLDER), or give"
            if not any((found / MANIFEST).exists() for found in restarts):
                way = "it ended before its first restart, so that none can go on: give"
            raise InputError(
                f"{directory}: holds a run already ({', '.join(present) or 'restart'}); {way} "
                "another output directory, or remove this one"
            )

    def _go_on(self, sizes: Mapping[str, int]) -> None:
        """Drop what was written after the restart: those steps will be made again."""
        self._earlier = dict(sizes)
        for file in self._growing:
            file.take_back(sizes.get(file.path.name))

    def sizes(self) -> dict[str, int]:
        """Bytes of the files that a continued run will append to; it can return to this moment.

        Those of earlier parts of the run are among them: their format may be asked for again.
        """
        assert self.directory is not None
        present = {path.name for path in self.directory.iterdir()}
        found = {name: size for name, size in self._earlier.items() if name in present}
        for file in self._growing:
            with writing(file.path):
                size = file.mark()
            if size is not None:
                found[file.path.name] = size
        return found

    def thermo(self, thermo: Thermo, loads: str = "") -> None:
        """A row of thermo.csv and a line of the log; `loads`: rows of loads.csv, if any."""
        self._add(THERMO, ",".join(COLUMNS) + "\n", thermo.csv_row())
        if loads:
            self._add(LOADS, HEADER, loads)
        if not self._header_shown:
            self.log(TABLE_HEADER)
            self._header_shown = True
        self.log(thermo.table_row())

    def deviation(self, step: int, columns: Sequence[float]) -> None:
        """A row of model_devi.out: `columns` as in `deviation.COLUMNS`."""
        self._add(DEVIATION, md_header(), row(step, columns))

    def _add(self, name: str, header: str, rows: str) -> None:
        """Rows to a file, below its `header` where they are the first."""
        if self.directory is not None:
            path = self.directory / name
            try:
                with writing(path), open(path, "a", encoding="utf-8") as f:
                    f.write(rows if path.stat().st_size else header + rows)
            finally:  # also of what a full disk took of it: nobody else has written
                self._ends[name] = self._size(name)

    def trajectory(self, moment: Moment, slabs: Iterator[Slab]) -> None:
        """Append a frame to every trajectory; the atoms arrive in slabs."""
        if self.directory is None:
            return
        for file in self._trajectories:
            with writing(file.path):
                file.begin(moment)
        for slab in slabs:
            for file in self._trajectories:
                with writing(file.path):
                    file.add(slab)
        for file in self._trajectories:
            with writing(file.path):
                file.end()

    def tables(self, tables: Mapping[str, Table]) -> None:
        """NAME.csv for each table, in the place of an earlier one."""
        if self.directory is not None:
            for name, table in tables.items():
                write_atomically(self.directory / f"{name}.csv", table.csv())

    def frame(self, atoms: Atoms, name: str) -> Path | None:
        """Append a frame to an extended XYZ file of the output folder; returns its path."""
        if self.directory is None:
            return None
        path = self.directory / name
        with writing(path):
            # parallel=False, or ASE would send messages that the other ranks never receive
            ase.io.write(path, atoms, format="extxyz", append=True, parallel=False)
        return path

    def log(self, line: str) -> None:
        """To the log file, and to whoever listens to this package's logger."""
        if self.directory is not None:
            self._add(LOG, "", line + "\n")
        if self._bar is not None:
            self._bar.write(line)
        elif not self.quiet:
            LOGGER.info(line)

    def warn(self, line: str) -> None:
        """A log line that is shown even where progress is not."""
        quiet, self.quiet = self.quiet, True
        self.log(f"warning: {line}")
        self.quiet = quiet
        if self._bar is None:
            LOGGER.warning("warning: %s", line)

    def summary(self, result: RunResult) -> None:
        """The last lines of the log."""
        for line in result.summary():
            self.log(line)

    @contextmanager
    def running(self, steps: int, n_atoms: int, time_now: float) -> Iterator[None]:
        """Inside, nobody else may write here; it is `time_now` fs. Shows a progress bar with
        µs/atom/step, ns/day and time left, if there is a terminal.

        Raises InputError where somebody else writes, or has written since this run did.
        """
        with telling(self.quiet), nullcontext() if self.directory is None else self._lock:
            self.refuse_to_mix()
            with self._bar_of(steps, n_atoms, time_now):
                yield

    def refuse_to_mix(self) -> None:
        """Raises InputError where another run has written into the folder since this one did."""
        # one that is gone or empty was taken away by hand: there is nothing to mix with
        changed = [n for n, end in self._ends.items() if self._size(n) not in (0, end)]
        if changed:
            raise InputError(
                f"{self.directory}: another run has gone on here ({', '.join(changed)} changed "
                "since this one's last step); go on from there with a new Simulation, "
                "resume=FOLDER, or give another output folder"
            )

    def _size(self, name: str) -> int:
        """Bytes of a file of the output folder; 0 where it is not there."""
        assert self.directory is not None
        path = self.directory / name
        return path.stat().st_size if path.exists() else 0

    @contextmanager
    def _bar_of(self, steps: int, n_atoms: int, time_now: float) -> Iterator[None]:
        if not self.quiet and on_terminal():
            self._bar = tqdm(total=steps, unit="step", leave=False, dynamic_ncols=True)
            self._n_atoms, self._since = n_atoms, time_now
            self._begun = self._shown = time.perf_counter()
        try:
            yield
        finally:
            if self._bar is not None:
                with suppress(Exception):
                    self._bar.close()
                self._bar = None

    def tick(self, time_now: float) -> None:
        """One step is done; it is `time_now` fs."""
        if self._bar is None:
            return
        self._bar.update(1)
        now = time.perf_counter()
        if now - self._shown > 0.5:
            self._shown = now
            seconds = (now - self._begun) / self._bar.n
            rate = f"{1e6 * seconds / self._n_atoms:.2f} µs/atom/step, "
            timestep = (time_now - self._since) / self._bar.n
            self._bar.set_postfix_str(rate + f"{ns_per_day(timestep, seconds):.3g} ns/day")
