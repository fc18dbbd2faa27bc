"""Mean stress, its autocorrelation, and the shear viscosity of a liquid.

Green-Kubo: η = V / (k_B T) ∫ ⟨σ(0) σ(t)⟩ dt, averaged over five components of shear, xy, xz, yz,
(xx − yy)/2 and (2zz − xx − yy)/2√3, which are alike and independent in an isotropic liquid (as Alfè
& Gillan, Phys. Rev. Lett. 81, 5161 (1998), whose fifth depends on the fourth). The integral runs
with the upper limit: read it off where it is level. Its error is that of the mean over the five.
Volume and temperature are means over the samples.
"""

from __future__ import annotations

import numpy as np

from ...units import BOLTZMANN, EV_PER_A3_IN_GPA
from ..engine import Engine
from ..report import VOIGT
from ..state import temperature
from .base import System, Table, columns
from .correlation import Correlated
from .settings import StressSettings

MPA_S = EV_PER_A3_IN_GPA * 1.0e-3
"""1 eV/Å³ fs in mPa s: 1 GPa fs = 10⁻⁶ Pa s."""


class Stress(Correlated):
    """`stress.csv`: mean and fluctuation of each component; `viscosity.csv`: C(t), η(t)."""

    name = "stress"
    SUMS = ("sums", *Correlated.SUMS)
    settings: StressSettings

    def __init__(self, settings: StressSettings, system: System) -> None:
        super().__init__(settings, system, 5)
        system.need_volume(self.name)
        self.sums = np.zeros(14)
        """Temperature, volume, six stresses (eV/Å³, Voigt) and their squares, over samples."""

    def sample(self, engine: Engine, step: int, time: float) -> None:
        totals = engine.totals()
        stress = totals.stress(engine.volume)
        voigt = np.array([stress[i] for i in VOIGT])
        kelvin = temperature(totals.kinetic_energy, self.system.freedom)
        self.sums += [kelvin, engine.volume, *voigt, *voigt**2]
        xx, yy, zz, yz, xz, xy = voigt
        self.take(np.array([xy, xz, yz, 0.5 * (xx - yy), (zz - 0.5 * (xx + yy)) / np.sqrt(3)]))

    def result(self) -> dict[str, Table]:
        if self.lags < 2:
            return {}
        means = self.sums / self.samples
        kelvin, volume, stress, squares = means[0], means[1], means[2:8], means[8:]
        spread = np.sqrt(np.maximum(squares - stress**2, 0.0))
        gpa = EV_PER_A3_IN_GPA
        tables = {
            "stress": Table(
                ("component", "mean_GPa", "fluctuation_GPa"),
                [
                    [name, mean * gpa, width * gpa]
                    for name, mean, width in zip(
                        ("xx", "yy", "zz", "yz", "xz", "xy"), stress, spread, strict=True
                    )
                ],
            )
        }
        if kelvin > 0:
            times, c, integral = self.correlation()
            eta = integral * MPA_S * volume / (BOLTZMANN * kelvin)
            error = eta.std(axis=1, ddof=1) / np.sqrt(5.0)
            head = ("time_fs", "correlation_GPa2", "viscosity_mPa_s", "error_mPa_s")
            rows = columns(times, c.mean(axis=1) * gpa**2, eta.mean(axis=1), error)
            tables["viscosity"] = Table(head, rows)
        return tables
