"""How far several potentials deviate from one another: a measure of how far to trust them.

Definitions as in DeePMD-kit, with ⟨⟩ over the models (std with ddof = 0):

    force of atom i      ε_i = sqrt ⟨|F_i − ⟨F_i⟩|²⟩          eV/Å, relative: / (|⟨F_i⟩| + level)
    virial component ab  ε_ab = sqrt ⟨(V_ab − ⟨V_ab⟩)²⟩ / N   eV/atom, relative: / (|⟨V⟩|/N + level)
    energy               sqrt ⟨(E − ⟨E⟩)²⟩ / N                eV/atom

max, min and avg are over atoms and over the nine components; avg of the virial is
sqrt(Σ ε_ab² / 9). The largest ε_i is what structures are selected by in active learning. Where
labels take the place of the means, the same numbers are the errors of the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from .at_frames import AtFrames
from .committee import Committee
from .data import Frame, System
from .files import write_atomically
from .neighbors import periodic_env
from .progress import Progress
from .system import type_indices

COLUMNS = ("max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f")


@dataclass(frozen=True)
class Relative:
    """Levels of relative deviations; None: absolute ones."""

    force: float | None = None
    """eV/Å."""
    virial: float | None = None
    """eV/atom."""


@dataclass(frozen=True)
class Deviation:
    """Deviation of the models on one structure; eV/Å and eV/atom, or ratios if relative."""

    max_v: float
    min_v: float
    avg_v: float
    max_f: float
    min_f: float
    avg_f: float
    energy: float
    atoms: np.ndarray = field(repr=False)
    """(n,): of the force on each atom."""

    @property
    def columns(self) -> tuple[float, ...]:
        """In the order of `COLUMNS`."""
        return self.max_v, self.min_v, self.avg_v, self.max_f, self.min_f, self.avg_f


def force_deviation(
    forces: np.ndarray, level: float | None = None, label: np.ndarray | None = None
) -> np.ndarray:
    """(n,) from `forces` (n_models, n, 3) eV/Å; from the mean, or from `label` (n, 3)."""
    centre = forces.mean(axis=0) if label is None else label
    found = np.sqrt(((forces - centre) ** 2).sum(axis=-1).mean(axis=0))
    return found if level is None else found / (np.linalg.norm(centre, axis=-1) + level)


def virial_deviation(
    virials: np.ndarray, level: float | None = None, label: np.ndarray | None = None
) -> np.ndarray:
    """(9,) from `virials` (n_models, 3, 3) eV/atom; from the mean, or from `label` (3, 3)."""
    centre = virials.mean(axis=0) if label is None else label
    found = np.sqrt(((virials - centre) ** 2).mean(axis=0)).ravel()
    return found if level is None else found / (np.linalg.norm(centre) + level)


def deviation(
    energies: np.ndarray, forces: np.ndarray, virials: np.ndarray, relative: Relative = Relative()
) -> Deviation:
    """From `energies` (n_models,) eV, `forces` (n_models, n, 3) eV/Å and `virials`
    (n_models, 3, 3) eV of one structure."""
    n = forces.shape[1]
    f = force_deviation(forces, relative.force)
    v = virial_deviation(virials / n, relative.virial)
    return _summed(f, v, float(np.std(energies)) / n)


def error(
    energies: np.ndarray,
    forces: np.ndarray,
    virials: np.ndarray,
    frame: Frame,
    relative: Relative = Relative(),
) -> Deviation:
    """As `deviation`, from the labels of `frame` instead of the means; nan without a label."""
    n, nan = frame.n_atoms, np.nan
    label_e = nan if frame.energy is None else frame.energy
    label_f = np.full((n, 3), nan) if frame.forces is None else frame.forces
    label_v = np.full((3, 3), nan) if frame.virial is None else frame.virial
    f = force_deviation(forces, relative.force, label_f)
    v = virial_deviation(virials / n, relative.virial, label_v / n)
    return _summed(f, v, float(np.sqrt(np.mean((energies - label_e) ** 2))) / n)


def _summed(f: np.ndarray, v: np.ndarray, energy: float) -> Deviation:
    return Deviation(
        max_v=float(v.max()),
        min_v=float(v.min()),
        avg_v=mean_virial(v),
        max_f=float(f.max()),
        min_f=float(f.min()),
        avg_f=float(f.mean()),
        energy=energy,
        atoms=f,
    )


def mean_virial(v: np.ndarray) -> float:
    """The avg of the nine components."""
    return float(np.linalg.norm(v)) / 3.0


# --- structures of data sets ------------------------------------------------------------------


def deviations(
    committee: Committee,
    systems: Sequence[System],
    relative: Relative = Relative(),
    *,
    real_error: bool = False,
    quiet: bool = True,
) -> dict[str, list[Deviation]]:
    """Deviations of every frame, by the name of its system; errors instead where `real_error`.

    Each is at its own frame parameters. Raises InputError for an element that the models do not
    know, and as `AtFrames`.
    """
    found: dict[str, list[Deviation]] = {}
    total = sum(len(system.frames) for system in systems)
    at = AtFrames(committee)
    with Progress("evaluating", total, quiet=quiet) as told:
        for system in systems:
            for frame in system.frames:
                types = np.array(type_indices(frame.symbols, committee.type_map, frame.source))
                where = (frame.positions, frame.cell, frame.pbc)
                periodic = periodic_env(*where, types, committee.rcut, frame.source)
                env = periodic.env
                models = cast(Committee, at(frame.fparam, f"{frame.source}: fparam"))
                parts = [models.evaluate(env), *models.others(env)]
                forces = np.stack([periodic.fold(e.forces).numpy() for e in parts])
                energies = np.array([float(e.energies.sum()) for e in parts])
                virials = np.stack([e.virial.numpy() for e in parts])
                one = (
                    error(energies, forces, virials, frame, relative)
                    if real_error
                    else deviation(energies, forces, virials, relative)
                )
                found.setdefault(system.name, []).append(one)
                told.advance()
    return found


# --- files ------------------------------------------------------------------------------------


def md_header() -> str:
    """First line of the file that MD writes: that of LAMMPS' pair style `deepmd`."""
    return f"#{'step':>11}" + "".join(f"{name:>19}" for name in COLUMNS) + "\n"


def row(step: int, values: Sequence[float]) -> str:
    """A line of either file."""
    return f"{step:12d}" + "".join(f"{value:19.6e}" for value in values) + "\n"


def write_deviations(
    found: Mapping[str, Sequence[Deviation]],
    path: str | Path,
    frequency: int = 1,
    *,
    atomic: bool = False,
) -> None:
    """Write what `dp model-devi` writes: for each system a name, a header and a row for each frame.

    Frame k of a system is step k · `frequency`. After `COLUMNS` follow the energy's deviation and,
    where `atomic`, those of all atoms. Raises InputError if the file cannot be written.
    """
    lines = []
    for system, frames in found.items():
        lines += [f"# {system}\n", *table(frames, frequency, atomic=atomic)]
    write_atomically(path, "".join(lines).encode())


def table(frames: Sequence[Deviation], frequency: int, *, atomic: bool) -> list[str]:
    """Header and rows of one system in that file."""
    names = [*COLUMNS, "devi_e", *(["atm_devi_f(N)"] if atomic else [])]
    header = f"# {'step':10}" + "".join(f"{name:19}" for name in names) + "\n"
    rows = ([*d.columns, d.energy, *(d.atoms if atomic else ())] for d in frames)
    return [header, *(row(k * frequency, values) for k, values in enumerate(rows))]
