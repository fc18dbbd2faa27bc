"""What observables have in common: their protocol, what they know of the system, their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ...system import InputError, Model
from ..engine import Engine
from ..state import CPU
from .settings import Sampling, Windowed


@dataclass(frozen=True)
class Table:
    """What an observable found, ready to be written."""

    columns: tuple[str, ...]
    """Names that end in their unit, as in `thermo.csv`."""
    rows: Sequence[Sequence[float | str]]

    def csv(self) -> bytes:
        """A line of names and a line for each row, every digit that matters."""
        lines = [",".join(self.columns)]
        lines += [
            ",".join(x if isinstance(x, str) else f"{x:.12g}" for x in row) for row in self.rows
        ]
        return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True)
class System:
    """What stays the same in a run; the same on every rank."""

    elements: tuple[str, ...]
    """Those that are present, in order of the type map."""
    of_type: np.ndarray
    """(types of the model,) int64: index in `elements`; −1 for those that are not there."""
    counts: np.ndarray
    """(elements,) atoms of each."""
    free: np.ndarray
    """(elements,) atoms of each that are free to move."""
    masses: np.ndarray
    """(elements,) u, the mean of each."""
    pbc: tuple[bool, bool, bool]
    absent: tuple[bool, bool, bool]
    """Lattice vectors that the structure lacks."""
    rcut: float
    """Å, of the model."""
    timestep: float
    """fs."""
    freedom: int
    """Degrees of freedom that the temperature counts."""

    @classmethod
    def of(
        cls, engine: Engine, absent: tuple[bool, bool, bool], timestep: float, freedom: int
    ) -> System:
        """The system of all ranks, which must all ask."""
        names, state = list(engine.model.type_map), engine.state.to(CPU)
        own = torch.zeros(len(names), 3, dtype=torch.float64)
        each = torch.stack([torch.ones_like(state.masses), state.mobile, state.masses], dim=1)
        own.index_add_(0, state.types.long(), each)
        counts, free, masses = engine.comm.reduce(own.numpy(), "sum").T
        there = counts > 0
        return cls(
            elements=tuple(n for n, present in zip(names, there, strict=True) if present),
            of_type=np.where(there, np.cumsum(there) - 1, -1),
            counts=counts[there],
            free=free[there],
            masses=masses[there] / counts[there],
            pbc=engine.pbc,
            absent=absent,
            rcut=engine.model.rcut,
            timestep=timestep,
            freedom=freedom,
        )

    def sums(self, values: torch.Tensor, engine: Engine) -> np.ndarray:
        """(elements, k): `values` (n, k) of the atoms of each rank, added up by element."""
        element = torch.from_numpy(self.of_type)[engine.state.types.long().cpu()]
        own = torch.zeros(len(self.elements), values.shape[1], dtype=torch.float64)
        own.index_add_(0, element, values.cpu())  # on a GPU the order would not be the same twice
        return engine.comm.reduce(own.numpy(), "sum")

    @property
    def moving(self) -> np.ndarray:
        """Indices of the elements that have atoms which move."""
        return np.flatnonzero(self.free > 0)

    def at_rest(self, values: torch.Tensor, engine: Engine) -> torch.Tensor:
        """`values` (n, …, 3) of velocities or displacements, less those of the centre of mass.

        As they are where atoms are held, which say what is at rest, and of a single atom.
        """
        if engine.n_atoms == 1 or (self.free < self.counts).any():
            return values
        weighted = (engine.state.masses[:, None] * values.flatten(1)).sum(0)
        total = float(self.counts @ self.masses)
        centre = engine.comm.reduce(weighted.cpu().numpy(), "sum") / total
        return values - engine.there(centre).view(values.shape[1:])

    def need_volume(self, name: str) -> None:
        """Raises InputError unless all three axes are periodic."""
        if not all(self.pbc):
            raise InputError(
                f"output/observe/{name}: needs the volume of a system that is periodic along all "
                f"three axes, this one has pbc {list(self.pbc)}; leave '{name}' out"
            )


class Observable:
    """Something that is sampled while the atoms move.

    Every rank calls `sample`, and all hold the same sums afterwards; what an atom remembers is in
    `State.carried`. Every array that is named in `SUMS` survives a restart, bit for bit.
    """

    name: ClassVar[str]
    """Its key in the input."""
    SUMS: ClassVar[tuple[str, ...]]
    """Attributes that hold what was sampled: numbers and float64 arrays."""

    def __init__(self, settings: Sampling, system: System) -> None:
        self.settings, self.system = settings, system
        self.every = settings.every
        self.interval = settings.every * system.timestep
        """fs between samples."""
        self.samples = 0

    @property
    def width(self) -> int:
        """Numbers that each atom carries for it."""
        return 0

    def check(self, model: Model) -> None:
        """Raise InputError where the model cannot say what is asked for."""

    def sample(self, engine: Engine, step: int, time: float) -> None:
        """Take in the present moment (`time` in fs)."""
        raise NotImplementedError

    def result(self) -> dict[str, Table]:
        """Tables by name of file; none before there is something to say."""
        raise NotImplementedError

    def memory(self) -> dict[str, Any]:
        """What must survive a restart, ready for JSON, on every rank the same."""
        sums = {k: np.asarray(getattr(self, k)).tolist() for k in ("samples", *self.SUMS)}
        return {"settings": self.settings.model_dump(), "timestep": self.system.timestep, **sums}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from `memory`. Raises InputError if it was sampled in another way."""
        now = {"timestep": self.system.timestep, **self.settings.model_dump()}
        then = {"timestep": memory["timestep"], **memory["settings"]}
        for key in now:
            if now[key] != then.get(key):
                raise InputError(
                    f"output/observe/{self.name}: {key} is {now[key]}, but {then.get(key)} in the "
                    "run that is continued; keep it, or leave the observable out"
                )
        self.samples = int(memory["samples"])
        for name in self.SUMS:
            shape = np.shape(getattr(self, name))
            values = np.array(memory[name], dtype=np.float64)
            setattr(self, name, values.reshape((-1, *shape[1:])) if shape else float(values))


class Origins(Observable):
    """Observables of a time difference, with several origins in time.

    Each origin is followed for `window` samples, then set anew; they are staggered evenly. What
    the atoms had at origin k are columns 3k … 3k + 2 of what they carry.
    """

    settings: Windowed

    def __init__(self, settings: Windowed, system: System) -> None:
        super().__init__(settings, system)
        assert settings.origins is not None
        n, self.n_origins = settings.window, settings.origins
        self._starts = np.arange(self.n_origins) * n // self.n_origins

    @property
    def width(self) -> int:
        return 3 * self.n_origins

    @property
    def lags(self) -> np.ndarray:
        """(window,) fs."""
        return np.arange(self.settings.window) * self.interval

    def follow(self, engine: Engine, values: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
        """Begin a sample: lag of each origin (origins,), −1: not begun; what atoms had there.

        `values` (n, 3) become the origins that are due. The second is (n, origins, 3), a view.
        """
        since = self.samples - self._starts
        lags = np.where(since >= 0, since % self.settings.window, -1)
        then = engine.state.carried[self.name].view(len(values), self.n_origins, 3)
        for k in np.flatnonzero(lags == 0):
            then[:, k] = values
        self.samples += 1
        return lags, then


def columns(*arrays: np.ndarray) -> list[list[float]]:
    """Rows of a table from columns (n,) or (n, k)."""
    return np.column_stack(arrays).tolist()
