"""What a run writes: thermo.csv, trajectory.extxyz, log, and the progress that a person sees.

The columns of `thermo.csv` are explained in `report`.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from pathlib import Path

import ase.io
from ase import Atoms
from tqdm import tqdm

from ..files import writing
from ..system import InputError
from .report import COLUMNS, TABLE_HEADER, RunResult, Thermo, ns_per_day

LOGGER = logging.getLogger("deepmd_lite.md")


class Writer:
    """Files and messages of a run; lives on rank 0 only."""

    FILES = ("thermo.csv", "trajectory.extxyz", "log")

    def __init__(self, directory: Path | None, quiet: bool, sizes: dict[str, int] | None) -> None:
        """Write to `directory` (None: no files), or go on where the files had `sizes` bytes.

        Files are made when there is something to write, so that a failed start leaves none.
        Raises InputError if a new run would overwrite an old one.
        """
        self.directory = directory
        self.quiet = quiet
        self._bar: tqdm | None = None
        self._header_shown = self._warned = False
        self.reports_beyond_table = True
        """Whether pairs closer than any in the training data are worth a warning."""
        if directory is None:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if sizes is None:
                self._refuse_to_overwrite()
            else:
                self._go_on(sizes)
        except OSError as e:
            raise InputError(f"{directory}: cannot be written: {e.strerror or e}") from None

    def _refuse_to_overwrite(self) -> None:
        assert self.directory is not None
        present = [name for name in self.FILES if (self.directory / name).exists()]
        if present or any((self.directory / "restart").glob("step-*")):
            raise InputError(
                f"{self.directory}: holds a run already ({', '.join(present) or 'restart'}); go on "
                "with --continue, or give another output directory, or remove this one"
            )

    def _go_on(self, sizes: dict[str, int]) -> None:
        """Drop what was written after the restart: those steps will be made again."""
        assert self.directory is not None
        for name in self.FILES[:2]:
            path = self.directory / name
            if path.exists() and name not in sizes:
                path.unlink()
            elif path.exists() and path.stat().st_size > sizes[name]:
                with open(path, "r+b") as f:
                    f.truncate(sizes[name])

    def sizes(self) -> dict[str, int]:
        """Bytes of the files that a continued run will append to."""
        assert self.directory is not None
        paths = [self.directory / name for name in self.FILES[:2]]
        return {p.name: p.stat().st_size for p in paths if p.exists()}

    def thermo(self, thermo: Thermo) -> None:
        """A row of thermo.csv and a line of the log."""
        if self.directory is not None:
            path = self.directory / "thermo.csv"
            header = "" if path.exists() else ",".join(COLUMNS) + "\n"
            with writing(path), open(path, "a") as f:
                f.write(header + thermo.csv_row())
        if not self._header_shown:
            self.log(TABLE_HEADER)
            self._header_shown = True
        self.log(thermo.table_row())
        if thermo.beyond_table and self.reports_beyond_table and not self._warned:
            self._warned = True
            self.warn(
                f"step {thermo.step}: {thermo.beyond_table} pairs are closer than any in the "
                "training data; energies there are extrapolated (said once; the total follows)"
            )

    def frame(self, atoms: Atoms, name: str = "trajectory.extxyz") -> Path | None:
        """Append a frame to a file of the output folder; returns its path."""
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
            path = self.directory / "log"
            with writing(path), open(path, "a") as f:
                f.write(line + "\n")
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
        if result.beyond_table and self.reports_beyond_table:
            self.warn(
                f"{result.beyond_table} times in {result.steps} steps a pair was closer than any "
                "in the training data; do not trust what depends on it"
            )

    def open_bar(self, steps: int, n_atoms: int, timestep: float) -> None:
        """A progress bar with µs/atom/step, ns/day and time left, if a terminal shows it."""
        if not self.quiet and sys.stderr.isatty():
            self._bar = tqdm(total=steps, unit="step", leave=False, dynamic_ncols=True)
            self._n_atoms, self._timestep = n_atoms, timestep
            self._begun = self._shown = time.perf_counter()

    def tick(self) -> None:
        """One step is done."""
        if self._bar is None:
            return
        self._bar.update(1)
        now = time.perf_counter()
        if now - self._shown > 0.5:
            self._shown = now
            seconds = (now - self._begun) / self._bar.n
            rate = f"{1e6 * seconds / self._n_atoms:.2f} µs/atom/step, "
            self._bar.set_postfix_str(rate + f"{ns_per_day(self._timestep, seconds):.3g} ns/day")

    def close_bar(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            with suppress(Exception):
                self._bar.close()
            self._bar = None
