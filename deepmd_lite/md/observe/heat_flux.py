"""Heat flux, its autocorrelation, and the thermal conductivity.

The flux of a many-body potential, with the energies E_i and virials W_i of `model.atomic_virials`:

    J = Σ_i (E_i + ½ m_i v_i² − ε_i) v_i + Σ_i W_i v_i

Green-Kubo: κ = ∫ ⟨J(0) J(t)⟩ dt / (V k_B T²), averaged over x, y and z; the integral runs with the
upper limit. ε_i is the mean energy of the atoms of the element at the first sample: it has no part
in the conductivity where atoms do not diffuse, or all of an element alike, and without it the
large constant energies of density-functional theory drown the rest: Ercole, Marcolongo, Umari &
Baroni, J. Low Temp. Phys. 185, 79 (2016). In mixtures whose elements diffuse, the integral holds
the heat that diffusion carries.
"""

from __future__ import annotations

import numpy as np

from ...committee import device_of
from ...system import InputError, Model
from ...units import BOLTZMANN, KINETIC
from ..engine import Engine
from ..state import temperature
from .base import System, Table, columns
from .correlation import Correlated
from .settings import HeatFluxSettings

W_PER_M_K = 1.602176634e6
"""1 eV/(fs Å K) in W/(m K)."""


class HeatFlux(Correlated):
    """`heat_flux.csv`: mean and fluctuation of J/V; `thermal_conductivity.csv`: C(t), κ(t)."""

    name = "heat_flux"
    SUMS = (*Correlated.SUMS, "sums", "zeros")
    settings: HeatFluxSettings

    def __init__(self, settings: HeatFluxSettings, system: System) -> None:
        super().__init__(settings, system, 3)
        system.need_volume(self.name)
        self.sums = np.zeros(8)
        """Temperature, volume, J/V (eV/(Å² fs)) and its squares, over samples."""
        self.zeros = np.zeros(len(system.elements))
        """ε of each element, eV."""

    def check(self, model: Model) -> None:
        if not hasattr(getattr(model, "models", [model])[0], "atomic_virials"):
            raise InputError(
                f"output/observe/{self.name}: the model has no atomic_virials; leave "
                f"'{self.name}' out, or use a model file"
            )
        if device_of(model).type != "cpu":
            raise InputError(
                f"output/observe/{self.name}: is computed on the processor alone; use device: cpu"
            )

    def sample(self, engine: Engine, step: int, time: float) -> None:
        if not self.samples:
            by_element = self.system.sums(engine.energies[:, None], engine)[:, 0]
            self.zeros = by_element / self.system.counts
        flux, totals = self._flux(engine), engine.totals()
        kelvin = temperature(totals.kinetic_energy, self.system.freedom)
        density = flux / engine.volume
        self.sums += [kelvin, engine.volume, *density, *density**2]
        self.take(flux)

    def _flux(self, engine: Engine) -> np.ndarray:
        """(3,) J of all ranks, eV Å/fs."""
        state = engine.state
        v, virials = state.velocities.numpy(), engine.atomic_virials().numpy()
        kinetic = 0.5 * KINETIC * state.masses.numpy() * (v**2).sum(axis=1)
        zeros = self.zeros[self.system.of_type[state.types.numpy()]]
        own = (engine.energies.numpy() + kinetic - zeros) @ v + np.einsum("nab,nb->a", virials, v)
        return engine.comm.reduce(own, "sum")

    def result(self) -> dict[str, Table]:
        if self.lags < 2:
            return {}
        kelvin, volume, *means = self.sums / self.samples
        flux, squares = np.array(means[:3]), np.array(means[3:])
        spread = np.sqrt(np.maximum(squares - flux**2, 0.0))
        rows = [[xyz, *numbers] for xyz, *numbers in zip("xyz", flux, spread, strict=True)]
        head = ("component", "mean_eV_per_A2_fs", "fluctuation_eV_per_A2_fs")
        tables = {"heat_flux": Table(head, rows)}
        if kelvin > 0:
            times, c, integral = self.correlation()
            kappa = integral * W_PER_M_K / (volume * BOLTZMANN * kelvin**2)
            error = kappa.std(axis=1, ddof=1) / np.sqrt(3.0)
            head = ("time_fs", "correlation_eV2_A2_per_fs2", "conductivity_W_per_m_K")
            rows = columns(times, c.mean(axis=1), kappa.mean(axis=1), error)
            tables["thermal_conductivity"] = Table((*head, "error_W_per_m_K"), rows)
        return tables
