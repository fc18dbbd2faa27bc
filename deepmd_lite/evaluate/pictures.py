"""The errors as pictures: parity plots, and a page that answers how good a model is, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically
from ..page import page, panels, png
from ..system import InputError
from .errors import FrameResult, Report, Scores, pairs

WORST = 8
"""Frames that the page names."""
BINS = 12
"""Of the sizes of forces."""

Panel = tuple[str, np.ndarray, np.ndarray, float, str]
"""(name, labels, predictions, RMSE, unit) of a quantity."""


def plot_parity(report: Report, path: str | Path) -> None:
    """Prediction against label of energy, force and virial, as a PNG of up to three panels.

    Raises InputError where no frame has a label or the file cannot be written.
    """
    write_atomically(path, png(_parity(_parity_panels(report, path)), dpi=150))


def write_page(report: Report, path: str | Path, title: str) -> None:
    """The errors as one HTML file: in total, by element, system and configuration type; the worst
    frames; parity; errors against the size of the force and along the data.

    Raises InputError where no frame has a label or the file cannot be written.
    """
    pictures = [
        ("Prediction against label", png(_parity(_parity_panels(report, path)))),
        ("Errors", png(_errors(report))),
    ]
    rows = [*_totals(report), *_groups(report), *_worst(report)]
    note = "RMSE (MAE in brackets); energies and virials for each atom, forces over components."
    write_atomically(path, page(title, rows, note, pictures))


# --- pictures -------------------------------------------------------------------------------


def _parity_panels(report: Report, path: str | Path) -> list[Panel]:
    """A panel for each quantity that has labels; energies and virials per atom."""
    total = report.total()
    found: list[Panel] = []
    for quantity, rmse, unit in (
        ("energy", total.energy_rmse_per_atom, "eV/atom"),
        ("forces", total.force_rmse, "eV/Å"),
        ("virial", total.virial_rmse_per_atom, "eV/atom"),
    ):
        known = pairs(report.results, quantity)
        if known:
            sizes = [1 if quantity == "forces" else n for _, _, n in known]
            labels, predicted = (
                np.concatenate([np.ravel(p[k]) / n for p, n in zip(known, sizes, strict=True)])
                for k in (0, 1)
            )
            found.append((quantity, labels, predicted, rmse, unit))
    if not found:
        raise InputError(f"{path}: no frame has a label to plot against")
    return found


def _parity(quantities: list[Panel]) -> Any:
    figure, axes = panels(len(quantities))
    for axis, (name, labels, found, error, unit) in zip(axes, quantities, strict=True):
        shown = np.concatenate([labels, found[np.isfinite(found)]])
        low, high = shown.min(), shown.max()
        margin = 0.04 * (high - low) or 0.5
        limits = (low - margin, high + margin)
        axis.plot(limits, limits, color="0.6", lw=0.8, zorder=1)
        size = 3 if len(labels) > 1000 else 7  # a few points must still be seen
        axis.plot(labels, found, ".", ms=size, mew=0, alpha=0.5, rasterized=True, zorder=2)
        axis.set(xlim=limits, ylim=limits)
        axis.set_box_aspect(1)
        axis.locator_params(axis="y", nbins=5)
        axis.locator_params(axis="x", nbins=3)  # energies per atom have many digits
        axis.set(xlabel=f"{name}, reference ({unit})", ylabel=f"{name}, model ({unit})")
        axis.set_title(f"RMSE {1e3 * error:.2f} m{unit}", fontsize=10)
    return figure


def _errors(report: Report) -> Any:
    """Errors against the size of the force, their distribution, and energies along the data."""
    figure, (by_size, spread, along) = panels(3)
    known = pairs(report.results, "forces")
    if known:
        labels, found = (np.concatenate([p[k] for p in known]) for k in (0, 1))
        size = np.linalg.norm(labels, axis=1)
        error = np.linalg.norm(found - labels, axis=1) / np.sqrt(3.0)
        edges = np.unique(np.quantile(size, np.linspace(0, 1, BINS + 1)))
        which = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, max(len(edges) - 2, 0))
        bins = [which == k for k in range(max(len(edges) - 1, 1)) if (which == k).any()]
        by_size.plot(
            [float(size[b].mean()) for b in bins],
            [1e3 * float(np.sqrt((error[b] ** 2).mean())) for b in bins],
            "o-",
            ms=4,
        )
        each = 1e3 * np.abs(found - labels).ravel()
        spread.hist(each[np.isfinite(each)], bins=60, log=True)
    energies = pairs(report.results, "energy")
    along.plot([1e3 * float(x - label) / n for label, x, n in energies], ".", ms=3)
    by_size.set(xlabel="size of the force (eV/Å)", ylabel="force RMSE (meV/Å)", ylim=(0, None))
    spread.set(xlabel="error of a force component (meV/Å)", ylabel="components")
    along.set(xlabel="frame", ylabel="energy error (meV/atom)")
    return figure


# --- tables ---------------------------------------------------------------------------------


def _totals(report: Report) -> list[tuple[str, str, str]]:
    total = report.total()
    rows = [("data", f"{total.frames} frames, {total.atoms} atoms", "")]
    if total.energy_frames:
        rows.append(("energy", _milli(total.energy_rmse_per_atom, total.energy_mae_per_atom), ""))
    if total.force_atoms:
        size, share = report.force_size(), ""
        if size > 0:  # all may be 0 by symmetry
            share = f"{100 * total.force_rmse / size:.1f} % of the RMS force, {size:.2f} eV/Å"
        rows.append(("forces", _milli(total.force_rmse, total.force_mae, "meV/Å"), share))
        by_element = report.force_by_element()
        for name, (n, rmse) in by_element.items() if len(by_element) > 1 else ():
            rows.append((f"forces on {name}", f"{1e3 * rmse:.2f} meV/Å", f"{n} atoms"))
    if total.virial_frames:
        rows.append(("virial", _milli(total.virial_rmse_per_atom, total.virial_mae_per_atom), ""))
    if report.beyond_table:
        rows.append(
            (
                "pairs closer than the model's table reaches",
                str(report.beyond_table),
                "extrapolated",
            )
        )
    return rows


def _milli(rmse: float, mae: float, unit: str = "meV/atom") -> str:
    return f"{1e3 * rmse:.2f} ({1e3 * mae:.2f}) {unit}"


def _groups(report: Report) -> list[tuple[str, str, str]]:
    """The rows of each system and configuration type, where there are several."""
    rows = []
    for kind, groups in (("system", report.by_system()), ("type", report.by_config_type())):
        if len(groups) > 1:
            rows += [
                (f"{kind} {name}", _in_short(s), f"{s.frames} frame{'s' * (s.frames != 1)}")
                for name, s in groups.items()
            ]
    return rows


def _in_short(s: Scores) -> str:
    parts = []
    if s.energy_frames:
        parts.append(_milli(s.energy_rmse_per_atom, s.energy_mae_per_atom))
    if s.force_atoms:
        parts.append(_milli(s.force_rmse, s.force_mae, "meV/Å"))
    return ", ".join(parts)


def _worst(report: Report) -> list[tuple[str, str, str]]:
    """Frames with the largest errors of a single force."""
    known = [r for r in report.results if r.frame.forces is not None and r.frame.n_atoms]
    errors = [np.linalg.norm(r.forces - r.frame.forces, axis=1) for r in known]
    largest = np.array([np.nan_to_num(e, nan=np.inf).max() for e in errors])
    order = np.argsort(-largest, kind="stable")[:WORST]
    return [_worst_atom(known[k], errors[k]) for k in order]


def _worst_atom(result: FrameResult, errors: np.ndarray) -> tuple[str, str, str]:
    i = int(np.nan_to_num(errors, nan=np.inf).argmax())
    size = float(np.linalg.norm(result.frame.forces[i]))  # type: ignore[index]
    return (
        "largest force error",
        f"{1e3 * errors[i]:.0f} meV/Å, atom {i} ({result.frame.symbols[i]})",
        f"{result.frame.source}; its force is {size:.2f} eV/Å",
    )
