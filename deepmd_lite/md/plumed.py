"""Forces of PLUMED on top of the model's: biased and steered runs, metadynamics, walls.

Tribello, Bonomi, Branduardi, Camilloni & Bussi, "PLUMED 2: New feathers for an old bird", Comput.
Phys. Commun. 185, 604 (2014). PLUMED works on rank 0, which is told of all atoms at each step; the
forces go back to the ranks whose atoms they act on. Energies and forces of the model stay as they
are: a bias is added to what moves the atoms, to the virial, and to the conserved energy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import write_atomically
from ..system import InputError
from ..units import ACCELERATION, BOLTZMANN
from .comm import Communicator, agreement
from .config import Settings
from .engine import Engine
from .initial import Start

KJ_PER_MOL = 1e4 * ACCELERATION
"""1 eV in kJ/mol."""
NM, PS = 0.1, 1e-3
"""1 Å in nm, 1 fs in ps."""
OPEN = 1000.0
"""Factor of a lattice vector along which nothing is periodic, where others are: PLUMED knows boxes
that are periodic along all vectors or none, and along this one it finds no image."""
_DEFAULTS = {"METAD": "HILLS", "OPES": "KERNELS"}
"""Files that actions write where FILE= is not given."""


class Bias:
    """Nothing: the forces are those of the model."""

    energy = 0.0
    """eV, of all atoms at the last call of `act`; the same on all ranks."""
    virial = np.zeros((3, 3))
    """(3, 3) eV, likewise: Σ r ⊗ f of its forces."""
    ends: bool = False
    """Whether it asked, at the last call of `act`, for the end of the run."""
    parts: tuple[str, ...] = ()
    """Under which name its time is counted."""

    def act(self, engine: Engine, step: int) -> None:
        """Add the forces of step `step` to those that the model has just given `engine`."""


class Plumed(Bias):
    """What a PLUMED input does to a run. Every rank makes the same calls."""

    parts = ("plumed",)

    def __init__(
        self,
        source: str | Sequence[str],
        comm: Communicator,
        *,
        n_atoms: int,
        timestep: float,
        temperature: float | None,
        log: Path | None,
        resumed_at: int | None,
    ) -> None:
        """`source`: a PLUMED file, or its lines. `timestep` fs; `temperature` K of the ensemble,
        None where it has none or a ramp; `log`: PLUMED's own, None: not kept. `resumed_at`: the
        step at which an earlier run is continued: its files are taken back to there.

        Raises InputError where PLUMED is not installed or does not accept the input.
        """
        self._plumed: Any = None
        with agreement(comm):
            if comm.rank:
                return
            self._arrays = [np.zeros((n_atoms, 3)) for _ in range(2)]
            self._masses = np.ones(n_atoms)
            self._name = source if isinstance(source, str) else "plumed"
            lines = _lines(source)
            if resumed_at is not None:
                take_back(lines, resumed_at, timestep)
            read = [("setPlumedDat", source)] if isinstance(source, str) else []
            plumed = _kernel()
            settings: list[tuple[str, Any]] = [
                *(("setMDEnergyUnits", 1.0), ("setMDLengthUnits", NM)),
                *(("setMDTimeUnits", PS), ("setMDMassUnits", 1.0), ("setMDChargeUnits", 1.0)),
                *(("setNatoms", n_atoms), ("setMDEngine", "deepmd_lite")),
                *(("setTimestep", float(timestep)), ("setLogFile", str(log or os.devnull))),
                *(("setRestart", int(resumed_at is not None)), *read),
            ]
            if temperature:
                settings.append(("setKbT", KJ_PER_MOL * BOLTZMANN * temperature))
            with self._told():
                for key, value in settings:
                    plumed.cmd(key, value)
                plumed.cmd("init")
                # the last one: rows are in the files at once
                for line in (*([] if read else lines), "FLUSH STRIDE=1"):
                    plumed.cmd("readInputLine", line)
            self._plumed = plumed

    def act(self, engine: Engine, step: int) -> None:
        comm, wants_energy = engine.comm, False
        if self._plumed is not None:
            wanted = np.zeros(1, dtype=np.intc)
            with self._told():
                self._plumed.cmd("setStepLong", np.array([step], dtype=np.int_))
                self._plumed.cmd("prepareDependencies")
                self._plumed.cmd("isEnergyNeeded", wanted)
            wants_energy = bool(wanted[0])
        wants_energy = comm.share(wants_energy)
        totals = engine.totals() if wants_energy else None
        rows = _rows(engine, wants_energy)
        counts = np.zeros(comm.size, dtype=np.int64)
        counts[0] = len(rows)
        arrived = comm.redistribute(rows, counts)
        found = None
        if self._plumed is not None:
            potential, virial = 0.0, np.zeros((3, 3))
            if totals is not None:
                potential, virial = totals.potential, totals.virial
            box = _box(engine.cell, engine.pbc)
            found = self._asked(arrived, box, potential, virial)
        ids, forces, self.virial, self.energy, self.ends = comm.share(found)
        own = engine.ids[: len(engine.state)].numpy()
        share = self.virial if comm.rank == 0 else np.zeros((3, 3))
        engine.push(torch.from_numpy(_scattered(ids, forces, own)), torch.from_numpy(share))

    def _asked(
        self, rows: np.ndarray, box: np.ndarray, potential: float, virial: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, bool]:
        """Ids (m,) of the atoms on which forces act, these (m, 3) eV/Å, virial, energy, and whether
        the run is to end.

        A bias of the potential energy scales the forces and the virial of the model, so that
        PLUMED is given these where it asks for the energy, and adds its own; else it adds to 0.
        """
        # all energies in PLUMED's own unit: of those that it is told in another one, PLUMED (a
        # 2.11) converts forces and bias, but not the energy of the system
        ids = rows[:, 0].astype(np.int64)
        positions, forces = self._arrays
        self._masses[ids], positions[ids] = rows[:, 1], rows[:, 2:5]
        forces[:] = 0.0
        if rows.shape[1] > 5:
            forces[ids] = KJ_PER_MOL * rows[:, 5:8]
        given, tensor = forces.copy(), -KJ_PER_MOL * virial  # PLUMED's is −Σ r ⊗ f
        energy, bias = np.array([KJ_PER_MOL * potential]), np.zeros(1)
        stop = np.zeros(1, dtype=np.intc)
        with self._told():
            for key, value in (
                *(("setPositions", positions), ("setMasses", self._masses), ("setBox", box)),
                *(("setForces", forces), ("setVirial", tensor), ("setEnergy", energy)),
                *(("setStopFlag", stop), ("shareData", None), ("performCalc", None)),
                ("getBias", bias),
            ):
                self._plumed.cmd(key, value)
        forces -= given
        acting = np.flatnonzero(forces.any(axis=1))
        push, virial = forces[acting] / KJ_PER_MOL, -tensor / KJ_PER_MOL - virial
        return acting, push, virial, float(bias[0]) / KJ_PER_MOL, bool(stop[0])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of PLUMED in one line."""
        try:
            yield
        except InputError:
            raise
        except Exception as e:
            text = " ".join(re.sub(r"^\(\S+:\d+\).*$", "", str(e), flags=re.MULTILINE).split())
            raise InputError(f"{self._name}: PLUMED says: {text}") from None


def bias_of(settings: Settings, comm: Communicator, start: Start, resumed: bool) -> Bias:
    """What acts on the atoms of a run besides the model. Every rank must call."""
    if settings.plumed is None:
        return Bias()
    targets = set(settings.ensemble.temperature or ())
    return Plumed(
        settings.plumed,
        comm,
        n_atoms=start.n_atoms,
        timestep=settings.timestep,
        temperature=targets.pop() if len(targets) == 1 else None,
        log=settings.output.directory / "plumed.log" if settings.output else None,
        resumed_at=start.step if resumed else None,
    )


def _kernel() -> Any:
    """A fresh instance of PLUMED."""
    try:
        module = import_module("plumed")
    except ImportError:
        raise InputError(
            "plumed: PLUMED's Python module is missing: conda install -c conda-forge py-plumed, or "
            "pip install plumed beside a PLUMED of your own"
        ) from None
    try:
        return module.Plumed()
    except RuntimeError:
        raise InputError(
            "plumed: PLUMED's library was not found: set the environment variable PLUMED_KERNEL "
            "to its libplumedKernel.so"
        ) from None


def _lines(source: str | Sequence[str]) -> list[str]:
    """The lines of a PLUMED input that are more than a comment."""
    if isinstance(source, str):
        try:
            source = Path(source).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"plumed: {source}: cannot be read: {e}") from None
    return [line for line in source if line.split("#")[0].strip()]


def _rows(engine: Engine, with_forces: bool) -> np.ndarray:
    """(n, 5) or (n, 8) of the atoms of this rank: id, mass, position along the unwrapped path, and
    force of the model."""
    state = engine.state
    path = state.positions + state.images.double() @ engine.there(engine.cell)
    columns = [state.ids.double()[:, None], state.masses[:, None], path]
    if with_forces:
        columns.append(engine.model_forces)
    return torch.cat(columns, dim=1).cpu().numpy()


def _box(cell: np.ndarray, pbc: Sequence[bool]) -> np.ndarray:
    """(3, 3) Å for PLUMED; zeros: nothing is periodic."""
    if not any(pbc):
        return np.zeros((3, 3))
    return np.ascontiguousarray(cell * np.where(pbc, 1.0, OPEN)[:, None])


def _scattered(ids: np.ndarray, forces: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(n, 3): of `forces` on the atoms `ids`, which ascend, those on the atoms `own`."""
    result = np.zeros((len(own), 3))
    if len(ids):
        place = np.minimum(np.searchsorted(ids, own), len(ids) - 1)
        here = ids[place] == own
        result[here] = forces[place[here]]
    return result


def take_back(lines: Sequence[str], step: int, timestep: float) -> None:
    """Drop what PLUMED's files hold beyond `step`, at which the run goes on.

    Files of hills or kernels keep those that were added at `step`; others lose that row, which is
    written again. Files that are not there, or are no tables over time, stay as they are.
    """
    text = "\n".join(line.split("#")[0] for line in lines)
    names = re.findall(r"(?:^|\s)FILE=(\S+)", text)
    names += [name for action, name in _DEFAULTS.items() if action in text]
    now, half = PS * timestep * step, 0.5 * PS * timestep
    for path in map(Path, dict.fromkeys(names)):
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        fields = rows[0].split() if rows else []
        if fields[:3] != ["#!", "FIELDS", "time"]:
            continue
        end = now + half if "height" in fields else now - half
        kept = [row for row in rows if row.startswith("#") or float(row.split()[0]) < end]
        if len(kept) < len(rows):
            write_atomically(path, "".join(kept).encode())
