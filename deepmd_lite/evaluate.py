"""Errors of a model on labelled data: by system, by configuration type and in total.

Energies in eV, forces in eV/Å, virials in eV (+Σ r ⊗ f, positive under compression); what is
printed for a person to compare is in meV/atom and meV/Å. Frames without a label of a kind are
left out of that kind and counted.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from .data import Frame, System, load
from .files import write_atomically
from .model import load_model
from .neighbors import periodic_env
from .system import Evaluation, InputError, LocalEnv, type_indices


class Evaluator(Protocol):
    """What `evaluate` needs of a model; `model.Potential` is one."""

    rcut: float
    type_map: list[str]

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """Energies of local atoms, forces on all rows, virial."""


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
    """Pairs closer than the embedding table reaches."""


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
    energy_frames: int
    force_atoms: int
    virial_frames: int


OTHER_ZERO = 0.5
"""eV/atom: errors that are as large, and the same in all frames, are no errors of a fit."""


@dataclass
class Report:
    """Every prediction, and the errors of any group of them."""

    results: list[FrameResult]

    def total(self) -> Scores:
        """Errors over all frames."""
        return scores(self.results)

    def by_system(self) -> dict[str, Scores]:
        """Errors of each system, in the order of the data."""
        return self._grouped(lambda r: r.system)

    def by_config_type(self) -> dict[str, Scores]:
        """Errors of each `config_type`; empty where no frame carries one."""
        if all(r.frame.config_type is None for r in self.results):
            return {}
        return self._grouped(lambda r: r.frame.config_type or "(none)")

    def _grouped(self, key: Callable[[FrameResult], str]) -> dict[str, Scores]:
        groups: dict[str, list[FrameResult]] = {}
        for result in self.results:
            groups.setdefault(key(result), []).append(result)
        return {name: scores(results) for name, results in groups.items()}

    def energy_shift(self) -> tuple[float, float]:
        """Mean of prediction − label over frames, and its standard deviation, eV/atom."""
        found = [float(x - label) / n for label, x, n in _pairs(self.results, "energy")]
        return (float(np.mean(found)), float(np.std(found))) if found else (0.0, 0.0)

    @property
    def beyond_table(self) -> int:
        """Pairs closer than the embedding table reaches, over all frames."""
        return sum(r.beyond_table for r in self.results)

    def errors(self) -> dict[str, Any]:
        """Everything as JSON-able numbers (eV, eV/Å; None without a label)."""

        def plain(s: Scores) -> dict[str, Any]:
            values = asdict(s).items()
            return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}

        return {
            "total": plain(self.total()),
            "by_system": {name: plain(s) for name, s in self.by_system().items()},
            "by_config_type": {name: plain(s) for name, s in self.by_config_type().items()},
            "pairs_beyond_table": self.beyond_table,
        }


def evaluate(
    model: Evaluator | str | Path,
    systems: Sequence[System] | str | Path | Iterable[str | Path],
    *,
    quiet: bool = True,
) -> Report:
    """Predict every frame of `systems` with `model`.

    `model`: a `.dpl` file or anything with `rcut`, `type_map` and `evaluate(env)`; `systems`:
    loaded systems, or paths as `data.load` takes them. Shows a progress bar unless `quiet`.
    Raises InputError for unreadable data or an element that the model does not know.
    """
    if isinstance(model, str | Path):
        model = load_model(model)
    if isinstance(systems, str | Path):
        systems = [systems]
    items: list[Any] = list(systems)
    if not all(isinstance(item, System) for item in items):
        items = load(items, type_map=model.type_map)
    total = sum(len(system.frames) for system in items)
    if total == 0:
        raise InputError("evaluate: expected at least one frame, found none")
    results = []
    with tqdm(total=total, unit="frame", desc="evaluating", disable=quiet or None) as bar:
        for system in items:
            for frame in system.frames:
                results.append(_predicted(model, system.name, frame))
                bar.update()
    return Report(results)


def _predicted(model: Evaluator, system: str, frame: Frame) -> FrameResult:
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
    energy, force, virial = (_pairs(results, name) for name in ("energy", "forces", "virial"))
    e_rmse, e_mae = _rms_and_mean([found - label for label, found, _ in energy])
    ea_rmse, ea_mae = _rms_and_mean([(found - label) / n for label, found, n in energy])
    f_rmse, f_mae = _rms_and_mean([found - label for label, found, _ in force])
    v_rmse, v_mae = _rms_and_mean([found - label for label, found, _ in virial])
    va_rmse, va_mae = _rms_and_mean([(found - label) / n for label, found, n in virial])
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
        energy_frames=len(energy),
        force_atoms=sum(n for _, _, n in force),
        virial_frames=len(virial),
    )


def _pairs(
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


# --- for a person -----------------------------------------------------------------------------


def format_report(report: Report) -> str:
    """A table by system (and configuration type) and the totals with the names of `dp test`."""
    total = report.total()
    groups = report.by_system()
    lines = []
    if len(groups) > 1:
        lines += _table("system", groups)
    by_type = report.by_config_type()
    if by_type:
        lines += _table("config_type", by_type)
    lines.append(
        f"{total.frames} frames, {total.atoms} atoms; labels: energy {total.energy_frames} frames, "
        f"force {total.force_atoms} atoms, virial {total.virial_frames} frames"
    )
    rows = (
        ("Energy RMSE", total.energy_rmse, "eV", None),
        ("Energy MAE", total.energy_mae, "eV", None),
        ("Energy RMSE/Natoms", total.energy_rmse_per_atom, "eV", "meV/atom"),
        ("Energy MAE/Natoms", total.energy_mae_per_atom, "eV", "meV/atom"),
        ("Force  RMSE", total.force_rmse, "eV/Å", "meV/Å"),
        ("Force  MAE", total.force_mae, "eV/Å", "meV/Å"),
        ("Virial RMSE", total.virial_rmse, "eV", None),
        ("Virial MAE", total.virial_mae, "eV", None),
        ("Virial RMSE/Natoms", total.virial_rmse_per_atom, "eV", "meV/atom"),
        ("Virial MAE/Natoms", total.virial_mae_per_atom, "eV", "meV/atom"),
    )
    for name, value, unit, small in rows:
        if name.startswith("Virial") and total.virial_frames == 0:
            continue
        also = f"  = {1e3 * value:.3f} {small}" if small else ""
        lines.append(f"{name:<19}: {value:.6e} {unit}{also}")
    shift, spread = report.energy_shift()
    if abs(shift) > OTHER_ZERO and abs(shift) > 20.0 * spread:
        lines.append(
            f"warning: all energies are {shift:+.4f} eV/atom off, {1e3 * spread:.2f} meV/atom "
            "besides: another zero of energy; dpl change-bias fits the model's to these data"
        )
    if report.beyond_table:
        lines.append(
            f"warning: {report.beyond_table} pairs are closer than anything the model was made "
            "for; its predictions there are extrapolations"
        )
    return "\n".join(lines)


def _table(title: str, groups: dict[str, Scores]) -> list[str]:
    width = max(len(title), *(len(name) for name in groups))
    head = f"{title:<{width}}  frames    E RMSE     E MAE    F RMSE     F MAE    V RMSE     V MAE"
    lines = [head, f"{'':<{width}}        {'meV/atom':>20}{'meV/Å':>20}{'meV/atom':>20}"]
    for name, s in groups.items():
        values = (
            *(s.energy_rmse_per_atom, s.energy_mae_per_atom, s.force_rmse, s.force_mae),
            *(s.virial_rmse_per_atom, s.virial_mae_per_atom),
        )
        cells = "".join(f"{'-':>10}" if math.isnan(v) else f" {1e3 * v:9.2f}" for v in values)
        lines.append(f"{name:<{width}}  {s.frames:6d}{cells}")
    return [*lines, ""]


_XYZ = tuple("xyz")
_DETAILS: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    ("e", "energy", ("e",), False),
    ("e_peratom", "energy", ("e",), True),
    ("f", "forces", tuple(f"f{a}" for a in _XYZ), False),
    ("v", "virial", tuple(f"v{a}{b}" for a in _XYZ for b in _XYZ), False),
    ("v_peratom", "virial", tuple(f"v{a}{b}" for a in _XYZ for b in _XYZ), True),
)
"""Suffix, quantity, columns and whether it is divided by the number of atoms."""


def write_details(report: Report, prefix: str | Path) -> list[Path]:
    """Labels beside predictions as text, in the files and columns of `dp test -d PREFIX`.

    PREFIX.e.out, .e_peratom.out (a row for each frame, eV), .f.out (for each atom, eV/Å), .v.out,
    .v_peratom.out (for each frame, eV): the label's columns, then the prediction's; nan where a
    frame has no label. Each system has a header line of its own. A suffix of PREFIX is replaced, as
    there. Returns the paths; raises InputError where one cannot be written.
    """
    if not Path(prefix).name:
        raise InputError(f"{prefix}: expected the beginning of file names, found a folder")
    groups: dict[str, list[FrameResult]] = {}
    for result in report.results:
        groups.setdefault(result.system, []).append(result)
    paths = []
    for suffix, quantity, columns, per_atom in _DETAILS:
        text = io.StringIO()
        for system, results in groups.items():
            rows = np.concatenate([_detail(r, quantity, len(columns), per_atom) for r in results])
            names = [f"{kind}_{c}" for kind in ("data", "pred") for c in columns]
            np.savetxt(text, rows, header=f"{system}: {' '.join(names)}")
        paths.append(Path(prefix).with_suffix(f".{suffix}.out"))
        write_atomically(paths[-1], text.getvalue().encode())
    return paths


def _detail(result: FrameResult, quantity: str, width: int, per_atom: bool) -> np.ndarray:
    """(rows, 2·width): label and prediction of one frame."""
    found = np.reshape(getattr(result, quantity), (-1, width))
    label = getattr(result.frame, quantity)
    known = np.full_like(found, np.nan) if label is None else np.reshape(label, (-1, width))
    return np.hstack([known, found]) / (result.frame.n_atoms if per_atom else 1)


def plot_parity(report: Report, path: str | Path) -> None:
    """Prediction against label of energy, force and virial, as a PNG of up to three panels.

    Raises InputError where no frame has a label or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _parity_panels(report)
    if not panels:
        raise InputError(f"{path}: no frame has a label to plot against")
    figure = Figure(figsize=(4.0 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, labels, found, error, unit) in zip(axes, panels, strict=True):
        low, high = min(labels.min(), found.min()), max(labels.max(), found.max())
        margin = 0.04 * (high - low) or 0.5
        limits = (low - margin, high + margin)
        axis.plot(limits, limits, color="0.6", lw=0.8, zorder=1)
        size = 3 if len(labels) > 1000 else 7  # a few points must still be seen
        axis.plot(labels, found, ".", ms=size, mew=0, alpha=0.5, rasterized=True, zorder=2)
        axis.set(xlim=limits, ylim=limits)
        axis.set_box_aspect(1)
        axis.locator_params(nbins=5)
        axis.set(xlabel=f"{name}, reference ({unit})", ylabel=f"{name}, model ({unit})")
        axis.set_title(f"RMSE {1e3 * error:.2f} m{unit}", fontsize=10)
        axis.ticklabel_format(useOffset=False)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.png")
    try:
        figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {e.strerror or e}") from None


def _parity_panels(report: Report) -> list[tuple[str, np.ndarray, np.ndarray, float, str]]:
    """(name, labels, predictions, RMSE, unit) of each quantity; energies and virials per atom."""
    total = report.total()
    panels = []
    for quantity, rmse, unit in (
        ("energy", total.energy_rmse_per_atom, "eV/atom"),
        ("forces", total.force_rmse, "eV/Å"),
        ("virial", total.virial_rmse_per_atom, "eV/atom"),
    ):
        pairs = _pairs(report.results, quantity)
        if pairs:
            sizes = [1 if quantity == "forces" else n for _, _, n in pairs]
            labels, found = (
                np.concatenate([np.ravel(p[k]) / n for p, n in zip(pairs, sizes, strict=True)])
                for k in (0, 1)
            )
            panels.append((quantity, labels, found, rmse, unit))
    return panels
