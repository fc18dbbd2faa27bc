"""Pictures and a report of a finished or running MD: what `dpl plot` does.

Reads thermo.csv, the log and the tables of the observables; the run itself is not touched.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from ..files import write_atomically
from ..page import page
from ..system import InputError
from ..units import BOLTZMANN, EV_PER_A3_IN_GPA, U_PER_A3_IN_G_PER_CM3
from . import figures
from .figures import Columns
from .report import COLUMNS
from .statistics import FEWEST_BLOCKS, block_average, slope, with_error

SUMMARY = re.compile(r"(\d+) steps of (\d+) atoms on (.+) in ([\d.]+) s: .*?, (\S+) ns/day")
"""The line of the log that tells how fast a run was."""
ANNOUNCED = re.compile(r"^\d+ atoms, model .*\), ([^,]+), timestep ", re.MULTILINE)
"""The line of the log that tells in which ensemble a part of the run was."""
MASS = re.compile(r"^density \S+ g/cm³, mass (\S+) u", re.MULTILINE)
"""The line of the log that tells the mass of the whole system."""
DISTURBED = re.compile(r"^(forces of PLUMED|moving: |pull: )", re.MULTILINE)
"""A line of the log that tells of what the ensemble is not alone in."""
ENSEMBLE = re.compile(r"(nvt|npt)-\w+ ([\d.e+-]+) K(?: ([\d.e+-]+) GPa)?")
"""One at a constant temperature; targets that are ramps do not match."""
Row = tuple[str, str, str]


def plot_run(directory: str | Path, skip: float = 0.2) -> Path:
    """Draw the run in `directory`: plots/*.png and report.html; returns the path of the latter.

    Averages leave out the first fraction `skip` of the rows of thermo.csv, before the system is
    in equilibrium. Raises InputError if there is no run, nothing in it yet, or a damaged table.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder; give the output folder of a run")
    if not 0 <= skip < 1:
        raise InputError(f"skip {skip}: expected a fraction from 0 to less than 1")
    n_atoms, rows = _speed(directory / "log")
    pictures: list[tuple[str, str, bytes]] = []
    thermo = read_table(directory / "thermo.csv")
    if thermo is not None:
        _need(thermo, COLUMNS[:8], directory / "thermo.csv")
        pictures.append(("thermo", "Thermodynamics", figures.thermo(thermo, n_atoms)))
        found = _averages(thermo, skip, n_atoms) + _density(thermo, skip, directory / "log")
        rows = found + _fluctuations(thermo, skip, n_atoms, directory / "log") + rows
    for name, (title, draw) in figures.TABLES.items():
        table = read_table(directory / name)
        if table is None:
            continue
        try:
            pictures.append((Path(name).stem, title, draw(table)))
        except KeyError as e:
            raise InputError(f"{directory / name}: has no column {e}") from None
    if not pictures:
        raise InputError(
            f"{directory}: there is nothing to draw (no thermo.csv with a row in it, no table of "
            "an observable); give the output folder of a run that has begun"
        )
    rows += _diffusion(directory / "diffusion.csv")
    folder = directory / "plots"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        raise InputError(f"{folder}: cannot be made: {e.strerror or e}") from None
    for name, _, content in pictures:
        write_atomically(folder / f"{name}.png", content)
    note = (
        f"Averages leave out the first {100 * skip:g} % of thermo.csv; errors are standard errors."
    )
    title = f"Molecular dynamics: {directory.resolve().name}"
    report = directory / "report.html"
    write_atomically(report, page(title, rows, note, [(t, content) for _, t, content in pictures]))
    return report


def read_table(path: Path) -> Columns | None:
    """Columns of a CSV file with a header, or of `model_devi.out`; None without a file or rows.

    A last line that is not complete, of a run that goes on, is left out. Raises InputError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None
    complete = text[: text.rfind("\n") + 1].splitlines()
    if path.suffix == ".out":
        lines = [line.lstrip("#").split() for line in complete]
    else:
        lines = list(csv.reader(complete))
    if len(lines) < 2:
        return None
    head = lines[0]
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(head):
            raise InputError(
                f"{path}: line {number}: {len(line)} values, expected {len(head)}; is it damaged?"
            )
    found: Columns = {}
    for name, values in zip(head, zip(*lines[1:], strict=True), strict=True):
        try:
            found[name] = np.array(values, dtype=np.float64)
        except ValueError:
            if name not in ("element", "component"):
                raise InputError(f"{path}: column {name}: not all values are numbers") from None
            found[name] = np.array(values)
    return found


def _need(table: Columns, names: tuple[str, ...], path: Path) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]}; it is not of a run of this program")


def _averages(thermo: Columns, skip: float, n_atoms: int | None) -> list[Row]:
    """Means with errors from blocks, and the drift of what should be constant."""
    first = int(skip * len(thermo["step"]))
    late = {name: values[first:] for name, values in thermo.items()}
    rows = [
        (
            "steps",
            f"{int(thermo['step'][0])} … {int(thermo['step'][-1])}",
            f"{1e-3 * thermo['time_fs'][-1]:g} ps",
        )
    ]
    each = "/atom" if n_atoms else ""
    for label, name, unit, scale in (
        ("temperature", "temperature_K", "K", 1.0),
        ("potential energy", "potential_eV", f"eV{each}", 1.0 / (n_atoms or 1)),
        ("pressure", "pressure_GPa", "GPa", 1.0),
        ("volume", "volume_A3", "Å³", 1.0),
    ):
        values = late[name] * scale
        if np.isfinite(values).all() and not (name == "volume_A3" and np.ptp(values) == 0):
            mean, error = block_average(values)
            remark = f"{unit}; fluctuation {values.std():.4g}"
            rows.append((label, with_error(mean, error), remark))
    total, conserved = late["total_eV"], late.get("conserved_eV", late["total_eV"])
    drift = slope(1e-3 * late["time_fs"], 1e3 * conserved) / (n_atoms or 1)
    if np.isfinite(drift):
        label, remark = "drift of the conserved energy", f"meV{each}/ps"
        if np.array_equal(total, conserved):
            label = "drift of the total energy"
            remark += "; a thermostat changes it, only in nve it tells how good the motion is"
        rows.append((label, f"{drift:.3g}", remark))
        whole = thermo.get("conserved_eV", thermo["total_eV"])
        change = whole[-1] - whole[0]
        remark = f"eV over all rows{f'; {1e3 * change / n_atoms:+.3g} meV/atom' if n_atoms else ''}"
        rows.append((label.replace("drift", "last − first"), f"{change:+.3g}", remark))
    return rows


def _density(thermo: Columns, skip: float, log: Path) -> list[Row]:
    """The mean, where the log tells the mass of a system that is periodic along all axes."""
    try:
        told = set(MASS.findall(log.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return []
    if len(told) != 1:
        return []
    volume = thermo["volume_A3"][int(skip * len(thermo["step"])) :]
    mean, error = block_average(float(told.pop()) * U_PER_A3_IN_G_PER_CM3 / volume)
    shown = f"{mean:.5g}" if np.ptp(volume) == 0 else with_error(mean, error)
    return [("density", shown, "g/cm³")]


def _fluctuations(thermo: Columns, skip: float, n_atoms: int | None, log: Path) -> list[Row]:
    """Heat capacity and bulk modulus from fluctuations, where the log tells of one ensemble alone,
    without a bias or atoms that are driven or pulled.

    Allen & Tildesley, Computer Simulation of Liquids, 2nd ed. (2017), section 2.5.
    """
    try:
        text = log.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    told = set(ANNOUNCED.findall(text))
    known = ENSEMBLE.fullmatch(told.pop()) if len(told) == 1 else None
    if known is None or not n_atoms or DISTURBED.search(text):
        return []
    kind, kelvin, pressure = known.groups()
    thermal, first = BOLTZMANN * float(kelvin), int(skip * len(thermo["step"]))
    energy, volume = thermo["total_eV"][first:], thermo["volume_A3"][first:]
    if thermal <= 0 or len(energy) < FEWEST_BLOCKS:
        return []
    name, unit, scale = "heat capacity at constant volume", "k/atom", 1.0 / (thermal**2 * n_atoms)
    rows = []
    if kind == "npt":
        name = "heat capacity at constant pressure"
        energy = energy + float(pressure) / EV_PER_A3_IN_GPA * volume
        if all(np.ptp(thermo.get(f"{x}_A", np.zeros(1))) > 0 for x in "abc"):  # not along some
            square, error = block_average((volume - volume.mean()) ** 2)
            modulus = EV_PER_A3_IN_GPA * thermal * float(volume.mean()) / square
            shown = with_error(modulus, modulus * error / square)
            rows.append(("bulk modulus", shown, "GPa, isothermal, from fluctuations"))
    square, error = block_average((energy - energy.mean()) ** 2)
    shown = with_error(scale * square, scale * error)
    return [*rows, (name, shown, f"{unit}, kinetic part included, from fluctuations")]


def _speed(log: Path) -> tuple[int | None, list[Row]]:
    """Number of atoms and the speed of the last run, as far as the log tells."""
    try:
        text = log.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None, []
    runs = SUMMARY.findall(text)
    if runs:
        steps, atoms, ranks, seconds, speed = runs[-1]
        remark = f"{steps} steps in {seconds} s on {ranks}"
        return int(atoms), [("atoms", atoms, ""), ("speed", f"{speed} ns/day", remark)]
    begun = re.search(r"^(\d+) atoms, ", text, re.MULTILINE)
    return (int(begun[1]), [("atoms", begun[1], "")]) if begun else (None, [])


def _diffusion(path: Path) -> list[Row]:
    """A row for each element."""
    table = read_table(path)
    if table is None:
        return []
    _need(table, ("element", "D_cm2_per_s", "error_cm2_per_s", "windows"), path)
    return [
        (
            f"diffusion of {element}",
            f"({with_error(1e5 * d, 1e5 * error)}) · 10⁻⁵",
            f"cm²/s, from {int(windows)} windows" if windows else "cm²/s, no window is complete",
        )
        for element, d, error, windows in zip(
            *(table[k] for k in ("element", "D_cm2_per_s", "error_cm2_per_s", "windows")),
            strict=True,
        )
    ]
