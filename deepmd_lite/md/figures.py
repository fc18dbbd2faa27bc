"""Pictures of what a run has written: columns of its tables as PNG."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..page import panels, png

Columns = dict[str, np.ndarray]
"""A table: columns (n,) by name."""


def thermo(table: Columns, n_atoms: int | None) -> bytes:
    """Temperature, energies, pressure, volume and cell against time, as far as they change."""
    t, known = 1e-3 * table["time_fs"], {}
    known["temperature (K)"] = {"": table["temperature_K"]}
    unit, scale = ("meV/atom", 1e3 / n_atoms) if n_atoms else ("eV", 1.0)
    for title, names in (
        ("potential, kinetic", ("potential", "kinetic")),
        ("total, conserved", ("total", "conserved")),
    ):
        series = {name: table[f"{name}_eV"] for name in names if f"{name}_eV" in table}
        known[f"{title} − first ({unit})"] = {k: scale * (v - v[0]) for k, v in series.items()}
    known["pressure (GPa)"] = {"": table["pressure_GPa"]}
    if np.ptp(table["volume_A3"]) > 0:
        known["volume (Å³)"] = {"": table["volume_A3"]}
    lengths = {k: table[f"{k}_A"] for k in "abc" if f"{k}_A" in table}
    if any(np.ptp(v) > 0 for v in lengths.values()):
        known["cell lengths − first (Å)"] = {k: v - v[0] for k, v in lengths.items()}
    shown = {k: v for k, v in known.items() if any(np.isfinite(x).any() for x in v.values())}
    figure, axes = panels(len(shown), rows=2 if len(shown) > 2 else 1)
    for axis, (title, series) in zip(axes, shown.items(), strict=True):
        for name, values in series.items():
            axis.plot(t, values, lw=0.9, label=name)
        axis.set(xlabel="time (ps)", ylabel=title)
        if len(series) > 1:
            axis.legend(frameon=False, fontsize=8)
    return png(figure)


def _lines(axis: Any, x: np.ndarray, table: Columns, prefix: str, unit: str) -> None:
    """Every column PREFIX_X_UNIT, named X."""
    for name, values in table.items():
        if name.startswith(prefix) and name.endswith(unit):
            label = name.removeprefix(prefix).removesuffix(unit).strip("_")
            axis.plot(x, values, lw=1.1, label=label)
    axis.legend(frameon=False, fontsize=8)


def rdf(table: Columns) -> bytes:
    """g(r), and the numbers of neighbours."""
    figure, (left, right) = panels(2)
    r = table["r_A"]
    _lines(left, r, table, "g_", "")
    _lines(right, r, table, "n_", "")
    left.axhline(1.0, color="0.6", lw=0.8, zorder=1)
    left.set(xlabel="r (Å)", ylabel="g(r)", ylim=(0, None))
    right.set(xlabel="r (Å)", ylabel="neighbours within r", ylim=(0, None))
    return png(figure)


def msd(table: Columns) -> bytes:
    """MSD against time, linear and in logarithms (slope 1 is diffusion, slope 2 flight)."""
    figure, axes = panels(2)
    t = 1e-3 * table["time_fs"]
    for axis in axes:
        _lines(axis, t, table, "msd_", "_A2")
        axis.set(xlabel="time (ps)", ylabel="mean-square displacement (Å²)")
    later = {k: v[1:] for k, v in table.items()}
    if len(t) > 1 and all((v > 0).any() for k, v in later.items() if k.startswith("msd_")):
        axes[1].ticklabel_format(useOffset=True)
        axes[1].set(xscale="log", yscale="log")
    return png(figure)


def vacf(table: Columns) -> bytes:
    """C(t) / C(0)."""
    figure, (axis,) = panels(1)
    normal = {k: v / v[0] if v[0] > 0 else v for k, v in table.items()}
    _lines(axis, 1e-3 * table["time_fs"], normal, "vacf_", "_A2_per_fs2")
    axis.axhline(0.0, color="0.6", lw=0.8, zorder=1)
    axis.set(xlabel="time (ps)", ylabel="velocity autocorrelation, normalised")
    return png(figure)


def vdos(table: Columns) -> bytes:
    """The density of states up to where it ends, in THz and cm⁻¹."""
    figure, (axis,) = panels(1)
    frequency, total = table["frequency_THz"], table["vdos_total_per_THz"]
    if sum(name.startswith("vdos_") for name in table) == 2:  # one element, and it again in total
        table = {k: v for k, v in table.items() if k != "vdos_total_per_THz"}
    _lines(axis, frequency, table, "vdos_", "_per_THz")
    seen = np.flatnonzero(np.abs(total) >= 0.02 * np.abs(total).max())
    axis.set(xlabel="frequency (THz)", ylabel="density of states (1/THz)")
    axis.set_xlim(0, min(1.15 * frequency[seen[-1]], frequency[-1]) or None)
    per_cm = table["wavenumber_per_cm"][-1] / frequency[-1]
    above = axis.secondary_xaxis("top", functions=(lambda x: x * per_cm, lambda x: x / per_cm))
    above.set_xlabel("wavenumber (cm⁻¹)")
    return png(figure)


def viscosity(table: Columns) -> bytes:
    """Autocorrelation of the shear stress and the Green-Kubo integral with its error."""
    label = "shear-stress autocorrelation (GPa²)"
    names = "viscosity_mPa_s", "error_mPa_s", "viscosity (mPa s)"
    return _green_kubo(table, table["correlation_GPa2"], label, *names)


def thermal_conductivity(table: Columns) -> bytes:
    """Autocorrelation of the heat flux and the Green-Kubo integral with its error."""
    c, label = table["correlation_eV2_A2_per_fs2"], "heat-flux autocorrelation, normalised"
    names = "conductivity_W_per_m_K", "error_W_per_m_K", "thermal conductivity (W/(m K))"
    return _green_kubo(table, c / c[0] if c[0] > 0 else c, label, *names)


def _green_kubo(
    table: Columns,
    correlation: np.ndarray,
    label: str,
    value: str,
    error: str,
    value_label: str,
) -> bytes:
    """A correlation beside the columns `value` and `error` of its integral."""
    figure, (left, right) = panels(2)
    t = 1e-3 * table["time_fs"]
    left.plot(t, correlation, lw=1.1)
    left.axhline(0.0, color="0.6", lw=0.8, zorder=1)
    left.set(xlabel="time (ps)", ylabel=label)
    right.plot(t, table[value], lw=1.1)
    low, high = table[value] - table[error], table[value] + table[error]
    right.fill_between(t, low, high, alpha=0.2, lw=0)
    right.set(xlabel="upper limit of the integral (ps)", ylabel=value_label)
    return png(figure)


def conduction(table: Columns) -> bytes:
    """Heats against time, equal and straight once the flow is steady, and the conductivity."""
    figure, (left, right) = panels(2)
    t, kappa = 1e-3 * table["time_fs"], table["conductivity_W_per_m_K"]
    left.plot(t, table["heat_hot_eV"], lw=1.1, label="given to the hot slab")
    left.plot(t, -table["heat_cold_eV"], lw=1.1, label="taken from the cold slab")
    left.set(xlabel="time (ps)", ylabel="heat (eV)")
    left.legend(frameon=False, fontsize=8)
    right.plot(t, kappa, lw=1.1)
    error = table["error_W_per_m_K"]
    right.fill_between(t, kappa - error, kappa + error, alpha=0.2, lw=0)
    right.set(xlabel="time (ps)", ylabel="thermal conductivity (W/(m K))")
    return png(figure)


def conduction_profile(table: Columns) -> bytes:
    """Temperature along the axis."""
    figure, (axis,) = panels(1)
    axis.plot(table["position_A"], table["temperature_K"], "o-", ms=3, lw=1.0)
    axis.set(xlabel="position (Å)", ylabel="temperature (K)")
    return png(figure)


def temperature_profile(table: Columns) -> bytes:
    """Temperature and density along the axis."""
    figure, (left, right) = panels(2)
    left.plot(table["position_A"], table["temperature_K"], "o-", ms=3, lw=1.0)
    left.set(xlabel="position (Å)", ylabel="temperature (K)")
    right.plot(table["position_A"], table["density_per_A3"], "o-", ms=3, lw=1.0)
    right.set(xlabel="position (Å)", ylabel="number density (1/Å³)", ylim=(0, None))
    return png(figure)


def model_devi(table: Columns) -> bytes:
    """Largest, mean and smallest deviation of forces on atoms, and of the virial."""
    figure, axes = panels(2)
    for axis, kind, unit in zip(
        axes, ("f", "v"), ("forces (eV/Å)", "virial (eV/atom)"), strict=True
    ):
        for name in ("max", "avg", "min"):
            axis.plot(table["step"], table[f"{name}_devi_{kind}"], lw=0.9, label=name)
        axis.set(xlabel="step", ylabel=f"deviation of {unit}", ylim=(0, None))
        axis.legend(frameon=False, fontsize=8)
    return png(figure)


def loads(table: Columns) -> bytes:
    """Force on each driven group against time, and along its way against how far it has come."""
    figure, (left, right) = panels(2)
    for group in np.unique(table["group"]).astype(int):
        t, way, force = (
            np.stack([table[name][table["group"] == group] for name in names])
            for names in (("time_fs",), ("dx_A", "dy_A", "dz_A"), FORCES)
        )
        for axis, values in zip("xyz", force, strict=True):
            left.plot(1e-3 * t[0], values, lw=0.9, label=f"{axis}, group {group}")
        far = np.linalg.norm(way, axis=0)
        if far.max() > 0:  # the direction of the farthest point; a way back is along it as well
            along = way[:, far.argmax()] / far.max()
            right.plot(along @ way, along @ force, lw=0.9, label=f"group {group}")
    left.set(xlabel="time (ps)", ylabel="force on the group (eV/Å)")
    right.set(xlabel="way (Å)", ylabel="force along the way (eV/Å)")
    for axis in (left, right):
        axis.axhline(0.0, color="0.6", lw=0.8, zorder=1)
        axis.legend(*axis.get_legend_handles_labels(), frameon=False, fontsize=8)
    return png(figure)


FORCES = ("fx_eV/A", "fy_eV/A", "fz_eV/A")
TABLES: dict[str, tuple[str, Callable[[Columns], bytes]]] = {
    "loads.csv": ("Loads on driven groups", loads),
    "model_devi.out": ("Model deviation", model_devi),
    "rdf.csv": ("Radial distribution functions", rdf),
    "msd.csv": ("Mean-square displacement", msd),
    "vacf.csv": ("Velocity autocorrelation", vacf),
    "vdos.csv": ("Vibrational density of states", vdos),
    "viscosity.csv": ("Shear stress and viscosity", viscosity),
    "thermal_conductivity.csv": ("Heat flux and thermal conductivity", thermal_conductivity),
    "conduction.csv": ("Heat flow between two slabs", conduction),
    "conduction_profile.csv": ("Temperature between two slabs", conduction_profile),
    "temperature_profile.csv": ("Profile along an axis", temperature_profile),
}
"""Title and picture of each table that a run writes besides thermo.csv."""
