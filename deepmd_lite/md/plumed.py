"""Forces of PLUMED on top of the model's: biased and steered runs, metadynamics, walls.

Tribello, Bonomi, Branduardi, Camilloni & Bussi, "PLUMED 2: New feathers for an old bird", Comput.
Phys. Commun. 185, 604 (2014). PLUMED works on rank 0, which is told of all atoms at each step; the
forces go back to the ranks whose atoms they act on. Energies and forces of the model stay as they
are: a bias is added to what moves the atoms, to the virial, and to the conserved energy.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast

import numpy as np
import torch

from ..system import InputError
from ..units import ACCELERATION, BOLTZMANN
from .bias import Bias
from .comm import Communicator, SharedError, agreement
from .engine import Engine, Totals

KJ_PER_MOL = 1e4 * ACCELERATION
"""1 eV in kJ/mol."""
NM, PS = 0.1, 1e-3
"""1 Å in nm, 1 fs in ps."""
OPEN = 1000.0
"""Factor of a lattice vector along which nothing is periodic, where others are: PLUMED knows boxes
that are periodic along all vectors or none, and along this one it finds no image."""
TAIL = 4096
"""Bytes at the end of a file by which it is known again."""
Warn = Callable[[str], None]
WHOLE = 1e-6
"""Net force, as a share of all forces, that is no round-off."""


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
        known: Mapping[str, Any] | None,
        warn: Warn,
        counts_all: bool,
    ) -> None:
        """`source`: a PLUMED file, or its lines. `timestep` fs; `temperature` K of the ensemble,
        None where it has none or a ramp; `log`: PLUMED's own, None: not kept. `known`: what a run
        that is continued remembers of PLUMED; `warn` of what may not be meant; `counts_all`: the
        temperature counts the motion of the whole.

        Raises InputError where PLUMED is not installed or does not accept the input.
        """
        self._plumed: Any = None
        self._files: list[str] = []
        self._energy = 0.0
        self._known, self._warn, self._counts_all = known, warn, counts_all
        with agreement(comm):
            if comm.rank:
                return
            self._arrays = [np.zeros((n_atoms, 3)) for _ in range(2)]
            self._masses = np.ones(n_atoms)
            self._name = source if isinstance(source, str) else "plumed"
            for path in [] if known is None else take_back(known["files"]):
                warn(f"{path}: was written anew after the restart; PLUMED takes it as it is now")
            plumed, before, log = _kernel(), _open_files(), log or Path(os.devnull)
            settings: list[tuple[str, Any]] = [
                *(("setMDEnergyUnits", 1.0), ("setMDLengthUnits", NM)),
                *(("setMDTimeUnits", PS), ("setMDMassUnits", 1.0), ("setMDChargeUnits", 1.0)),
                *(("setNatoms", n_atoms), ("setMDEngine", "deepmd_lite")),
                *(("setTimestep", float(timestep)), ("setLogFile", str(log))),
                ("setRestart", int(known is not None)),
            ]
            if temperature:
                settings.append(("setKbT", KJ_PER_MOL * BOLTZMANN * temperature))
            with self._told(), _gone_if_in_vain(log), _as_file(source) as path:
                for key, value in (*settings, ("setPlumedDat", path)):
                    plumed.cmd(key, value)
                plumed.cmd("init")
                plumed.cmd("readInputLine", "FLUSH STRIDE=1")  # rows are in the files at once
            self._files = sorted(_open_files() - before - {os.path.realpath(log)})
            self._plumed = plumed

    def energy(self, engine: Engine) -> float:
        return self._energy

    def memory(self) -> dict[str, Any]:
        return {"plumed": {"files": {x: _mark(x) for x in self._files if os.path.isfile(x)}}}

    def act(self, engine: Engine, step: int) -> None:
        with engine.stopwatch(*self.parts):
            self._act(engine, step)

    def _act(self, engine: Engine, step: int) -> None:
        comm = engine.comm
        wants_energy = _of_rank_0(comm, lambda: self._prepared(step))
        totals = engine.totals() if wants_energy else None
        rows = _rows(engine, wants_energy)
        counts = np.zeros(comm.size, dtype=np.int64)
        counts[0] = len(rows)
        arrived = comm.redistribute(rows, counts)
        found = _of_rank_0(comm, lambda: self._found(arrived, engine, totals))
        ids, forces, self.virial, self._energy, self.ends = found
        own = engine.ids[: len(engine.state)].numpy()
        share = self.virial if comm.rank == 0 else np.zeros((3, 3))
        engine.push(torch.from_numpy(_scattered(ids, forces, own)), torch.from_numpy(share))

    def _prepared(self, step: int) -> bool:
        """Whether PLUMED wants to know the energy at `step`."""
        wanted = np.zeros(1, dtype=np.intc)
        with self._told():
            self._plumed.cmd("setStepLong", np.array([step], dtype=np.int_))
            self._plumed.cmd("prepareDependencies")
            self._plumed.cmd("isEnergyNeeded", wanted)
        return bool(wanted[0])

    def _found(self, rows: np.ndarray, engine: Engine, totals: Totals | None) -> tuple[Any, ...]:
        """What `_asked` returns; `totals` where PLUMED wants them."""
        potential, virial = 0.0, np.zeros((3, 3))
        if totals is not None:
            potential, virial = totals.potential, totals.virial
        found = self._asked(rows, _box(engine.cell, engine.pbc), potential, virial)
        self._look_at(found[1], self._arrays[0][found[0]], any(engine.pbc))
        if self._known is not None:  # this step is in the files already
            take_back(self._known["files"])
            self._known = None
        return found

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

    def _look_at(self, forces: np.ndarray, positions: np.ndarray, periodic: bool) -> None:
        """Say once that forces (m, 3) at positions (m, 3) move or turn the system as a whole."""
        if self._counts_all or not len(forces):
            return
        size = np.abs(forces).sum()
        torque, arm = np.cross(positions, forces).sum(axis=0), 1.0 + np.abs(positions).max()
        pushed = np.abs(forces.sum(axis=0)).max() > WHOLE * size
        if pushed or (not periodic and np.abs(torque).max() > WHOLE * size * arm):
            self._warn(
                "note: PLUMED's forces move or turn the system as a whole, which the temperature "
                "does not count: with few atoms take nvt-langevin, which counts all"
            )
            self._counts_all = True  # said once

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of PLUMED in one line."""
        try:
            yield
        except InputError:
            raise
        except Exception as e:
            said, cause = [], cast(BaseException | None, e)
            while cause is not None:  # the reason is what the last one says
                text = re.sub(r"^\(\S+:\d+\).*$", "", str(cause), flags=re.MULTILINE)
                said.append(" ".join(text.split()))
                cause = cause.__cause__
            raise InputError(f"{self._name}: PLUMED says: {': '.join(said)}") from None


def _of_rank_0(comm: Communicator, ask: Callable[[], Any]) -> Any:
    """What rank 0 finds, on every rank; an error of it is raised by all of them."""
    found: Any = None
    if comm.rank == 0:
        try:
            found = ask()
        except InputError as e:
            if comm.size == 1:
                raise
            found = e
    found = comm.share(found)
    if isinstance(found, InputError):
        raise SharedError(str(found))
    return found


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


@contextmanager
def _gone_if_in_vain(log: Path) -> Iterator[None]:
    """A log that was not there before does not outlive an error."""
    existed = log.exists()
    try:
        yield
    except Exception:
        if not existed:
            log.unlink(missing_ok=True)
        raise


@contextmanager
def _as_file(source: str | Sequence[str]) -> Iterator[str]:
    """The path of a PLUMED input; lines are in a file for as long as it is read."""
    if isinstance(source, str):
        if not Path(source).is_file():
            raise InputError(f"plumed: {source}: there is no such file")
        yield source
        return
    with NamedTemporaryFile("w", suffix=".dat", encoding="utf-8") as file:
        file.write("\n".join(source) + "\n")
        file.flush()
        yield file.name


def _open_files() -> set[str]:
    """Paths of the files that this process has open."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.path.realpath(f"/proc/self/fd/{descriptor}"))
    return {path for path in found if os.path.isfile(path)}


def _rows(engine: Engine, with_forces: bool) -> np.ndarray:
    """(n, 5) or (n, 8) of the atoms of this rank: id, mass, position along the unwrapped path, and
    force of the model."""
    state = engine.state
    columns = [state.ids.double()[:, None], state.masses[:, None], state.path(engine.cell)]
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


def _mark(path: str, size: int | None = None) -> list[Any]:
    """Size of a file, or `size`, and a digest of the last bytes up to there."""
    size = os.path.getsize(path) if size is None else size
    with open(path, "rb") as file:
        file.seek(max(0, size - TAIL))
        return [size, hashlib.sha256(file.read(min(size, TAIL))).hexdigest()]


def take_back(marks: Mapping[str, Sequence[Any]]) -> list[str]:
    """Cut what files have grown by since they were marked; returns those that are others now.

    A file that is gone is none of them.
    """
    others = []
    for path, mark in marks.items():
        if not os.path.isfile(path):
            continue
        if _mark(path, mark[0]) != list(mark) or os.path.getsize(path) < mark[0]:
            others.append(path)
        elif os.path.getsize(path) > mark[0]:
            os.truncate(path, mark[0])
    return others
