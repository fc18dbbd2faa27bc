"""Errors of a model on labelled data: by system, by configuration type, by element and in total.

Energies in eV, forces in eV/Å, virials in eV (+Σ r ⊗ f, positive under compression); what is
printed for a person to compare is in meV/atom and meV/Å. Frames without a label of a kind are
left out of that kind and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..at_frames import AtFrames
from ..data import Frame, OfModel, System, load
from ..model import load_model
from ..neighbors import periodic_env
from ..progress import Progress
from ..system import InputError, Model, counted_once, type_indices


@dataclass
class FrameResult:
    """Prediction for one frame beside its labels."""

    system: str
    frame: Frame
    energy: float
    """eV."""
    forces: np.ndarray
    """(n, 3) eV/Å."""
    virial: np.ndarray
    """(3, 3) eV."""
    beyond_table: int
    """Neighbours closer than the embedding table reaches (`counted_once`: pairs)."""


@dataclass(frozen=True)
class Scores:
    """Root-mean-square and mean absolute errors of a group of frames; nan without a label."""

    frames: int
    atoms: int
    energy_rmse: float
    """eV."""
    energy_mae: float
    energy_rmse_per_atom: float
    """eV/atom."""
    energy_mae_per_atom: float
    force_rmse: float
    """eV/Å, over components."""
    force_mae: float
    virial_rmse: float
    """eV, over the 9 components."""
    virial_mae: float
    virial_rmse_per_atom: float
    """eV/atom."""
    virial_mae_per_atom: float
    stress_rmse: float
    """eV/Å³, over the 9 components, of frames with a cell."""
    stress_mae: float
    energy_frames: int
    force_atoms: int
    virial_frames: int
    stress_frames: int


WRONG_FORCES = 0.7
"""Error of forces in units of the forces from which on they have little to do with each other."""


@dataclass
class Report:
    """Every prediction, and the errors of any group of them."""

    results: list[FrameResult]

    def total(self) -> Scores:
        """Errors over all frames."""
        return scores(self.results)

    def by_system(self) -> dict[str, Scores]:
        """Errors of each system, in the order of the data."""
        return {name: scores(results) for name, results in self.systems().items()}

    def by_config_type(self) -> dict[str, Scores]:
        """Errors of each `config_type`; empty where no frame carries one."""
        if all(r.frame.config_type is None for r in self.results):
            return {}
        groups = self._grouped(lambda r: r.frame.config_type or "(none)")
        return {name: scores(results) for name, results in groups.items()}

    def systems(self) -> dict[str, list[FrameResult]]:
        """The predictions of each system, in the order of the data."""
        return self._grouped(lambda r: r.system)

    def _grouped(self, key: Callable[[FrameResult], str]) -> dict[str, list[FrameResult]]:
        groups: dict[str, list[FrameResult]] = {}
        for result in self.results:
            groups.setdefault(key(result), []).append(result)
        return groups

    def force_by_element(self) -> dict[str, tuple[int, float]]:
        """Number of atoms with labels and force RMSE (eV/Å) of each element, by name."""
        squares: dict[str, list[np.ndarray]] = {}
        for r in self.results:
            if r.frame.forces is None:
                continue
            symbols = np.array(r.frame.symbols)
            error = ((r.forces - r.frame.forces) ** 2).sum(axis=1) / 3.0
            for element in set(r.frame.symbols):
                squares.setdefault(element, []).append(error[symbols == element])
        each = {name: np.concatenate(parts) for name, parts in sorted(squares.items())}
        return {name: (len(e), float(np.sqrt(e.mean()))) for name, e in each.items()}

    def force_size(self) -> float:
        """Root mean square of the labels, eV/Å, over components; nan without."""
        labels = [label for label, _, _ in pairs(self.results, "forces")]
        return _rms_and_mean(labels)[0]

    def energy_shift(self) -> tuple[float, float]:
        """Mean of prediction − label over frames, and its standard deviation, eV/atom."""
        found = [float(x - label) / n for label, x, n in pairs(self.results, "energy")]
        return (float(np.mean(found)), float(np.std(found))) if found else (0.0, 0.0)

    @property
    def beyond_table(self) -> int:
        """Pairs closer than the embedding table reaches, over all frames."""
        return counted_once(sum(r.beyond_table for r in self.results))

    def errors(self) -> dict[str, Any]:
        """Everything as JSON-able numbers (eV, eV/Å; None without a label)."""

        def plain(s: Scores) -> dict[str, Any]:
            values = asdict(s).items()
            return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}

        return {
            "total": plain(self.total()),
            "by_system": {name: plain(s) for name, s in self.by_system().items()},
            "by_config_type": {name: plain(s) for name, s in self.by_config_type().items()},
            "force_rmse_by_element": {
                name: rmse if math.isfinite(rmse) else None
                for name, (_, rmse) in self.force_by_element().items()
            },
            "pairs_beyond_table": self.beyond_table,
        }


def evaluate(
    model: Model | str | Path,
    systems: Sequence[System] | str | Path | Iterable[str | Path],
    *,
    quiet: bool = True,
) -> Report:
    """Predict every frame of `systems` with `model`, at the frame's own parameters if it takes any.

    `model`: a `.dpl` file or anything with `rcut`, `type_map` and `evaluate(env)`; `systems`:
    loaded systems, or paths as `data.load` takes them. Tells how far it is unless `quiet`.
    Raises InputError for unreadable data or an element that the model does not know.
    """
    if isinstance(model, str | Path):
        model = load_model(model)
    if isinstance(systems, str | Path):
        systems = [systems]
    items: list[Any] = list(systems)
    if not all(isinstance(item, System) for item in items):
        items = load(items, type_map=OfModel(model.type_map), quiet=quiet)
    total = sum(len(system.frames) for system in items)
    if total == 0:
        raise InputError("evaluate: expected at least one frame, found none")
    results, at = [], AtFrames(model)
    with Progress("evaluating", total, quiet=quiet) as told:
        for system in items:
            for frame in system.frames:
                model = at(frame.fparam, f"{frame.source}: fparam")
                results.append(_predicted(model, system.name, frame))
                told.advance()
    return Report(results)


def _predicted(model: Model, system: str, frame: Frame) -> FrameResult:
    types = np.array(type_indices(frame.symbols, model.type_map, frame.source))
    periodic = periodic_env(frame.positions, frame.cell, frame.pbc, types, model.rcut, frame.source)
    found = model.evaluate(periodic.env)
    return FrameResult(
        system,
        frame,
        float(found.energies.sum()),
        periodic.fold(found.forces).numpy(),
        found.virial.numpy(),
        found.beyond_table,
    )


def scores(results: Sequence[FrameResult]) -> Scores:
    """Errors of a group of frames. A prediction that is not a number makes its error nan."""
    energy, force, virial = (pairs(results, name) for name in ("energy", "forces", "virial"))
    e_rmse, e_mae = _rms_and_mean([found - label for label, found, _ in energy])
    ea_rmse, ea_mae = _rms_and_mean([(found - label) / n for label, found, n in energy])
    f_rmse, f_mae = _rms_and_mean([found - label for label, found, _ in force])
    v_rmse, v_mae = _rms_and_mean([found - label for label, found, _ in virial])
    va_rmse, va_mae = _rms_and_mean([(found - label) / n for label, found, n in virial])
    volumes = [abs(float(np.linalg.det(r.frame.cell))) for r in results]
    stress = [
        (r.virial - r.frame.virial) / volume
        for r, volume in zip(results, volumes, strict=True)
        if r.frame.virial is not None and volume > 0 and r.frame.pbc.any()
    ]
    s_rmse, s_mae = _rms_and_mean(stress)
    return Scores(
        frames=len(results),
        atoms=sum(r.frame.n_atoms for r in results),
        energy_rmse=e_rmse,
        energy_mae=e_mae,
        energy_rmse_per_atom=ea_rmse,
        energy_mae_per_atom=ea_mae,
        force_rmse=f_rmse,
        force_mae=f_mae,
        virial_rmse=v_rmse,
        virial_mae=v_mae,
        virial_rmse_per_atom=va_rmse,
        virial_mae_per_atom=va_mae,
        stress_rmse=s_rmse,
        stress_mae=s_mae,
        energy_frames=len(energy),
        force_atoms=sum(n for _, _, n in force),
        virial_frames=len(virial),
        stress_frames=len(stress),
    )


def pairs(
    results: Sequence[FrameResult], quantity: str
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """(label, prediction, number of atoms) of each frame that has the label."""
    found = ((getattr(r.frame, quantity), getattr(r, quantity), r.frame.n_atoms) for r in results)
    return [(np.asarray(label), np.asarray(x), n) for label, x, n in found if label is not None]


def _rms_and_mean(differences: Sequence[Any]) -> tuple[float, float]:
    """Root mean square and mean absolute value over all numbers; nan of none."""
    if not differences:
        return math.nan, math.nan
    values = np.concatenate([np.ravel(d) for d in differences])
    return float(np.sqrt(np.mean(values**2))), float(np.mean(np.abs(values)))
