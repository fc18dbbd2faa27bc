"""DeePMD-kit's `use_srtab`: where atoms come close a table of pairs takes over from the networks.

A soft minimum of the distances around an atom decides: inside sw_rmin its energy is that of the
table alone, from sw_rmax on that of the networks alone. See `kernels.short_range`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from .. import kernels
from ..kernels import short_range as reference
from ..system import Evaluation, InputError, LocalEnv
from .config import ModelConfig
from .pair_table import PairTable, read_pair_table

CROWD = 0.7
"""In smin_alpha: how far above the smallest of five distances their soft minimum can be."""
SMALL_JUMPS = (1e-6, 1e-4)
"""eV of a pair, and Å of the soft minimum: not worth a note."""


def intervals_of(arrays: Mapping[str, torch.Tensor], prefix: str = "") -> int:
    """How many intervals the table among a model's arrays has; 1 where there is none."""
    found = arrays.get(f"{prefix}short_range.coefficients")
    return max(1, int(found.shape[2])) if found is not None and found.dim() == 4 else 1


class ShortRange(nn.Module):
    """The table, and where it takes over."""

    grid: torch.Tensor
    coefficients: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self,
        config: ModelConfig,
        grid: torch.Tensor,
        coefficients: torch.Tensor,
        bias: torch.Tensor,
    ) -> None:
        """Radii from `config`, of which `use_srtab` is not None.

        `grid` (2,): start and spacing, Å; `coefficients` (n_types, n_types, n_intervals, 4) eV;
        `bias` (n_types,) eV: all float64.
        """
        super().__init__()
        assert config.sw_rmin is not None
        assert config.sw_rmax is not None
        self.rcut, self.smin_alpha = config.rcut, config.smin_alpha
        self.sw_rmin, self.sw_rmax = config.sw_rmin, config.sw_rmax
        self.register_buffer("grid", grid)
        self.register_buffer("coefficients", coefficients)
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, config: ModelConfig, table: PairTable, bias: torch.Tensor) -> ShortRange:
        """The short-range part of a table; `bias` (n_types,) float64 eV."""
        grid = torch.tensor([table.start, table.spacing], dtype=torch.float64)
        return cls(config, grid, torch.from_numpy(table.coefficients), bias)

    @classmethod
    def from_input(cls, config: ModelConfig, energy_bias: torch.Tensor) -> ShortRange | None:
        """That of the file which `config` names, None where it names none.

        `energy_bias` (n_types,) eV of the model, which the table's atoms have as well unless
        `srtab_add_bias` is false. Raises InputError for a file that does not fit.
        """
        if config.use_srtab is None:
            return None
        table = read_pair_table(Path(config.use_srtab), config.type_map, config.rcut)
        bias = energy_bias.clone() if config.srtab_add_bias else torch.zeros_like(energy_bias)
        return cls.of(config, table, bias)

    @classmethod
    def unset(cls, config: ModelConfig, n_intervals: int) -> ShortRange | None:
        """The right shapes, the numbers still to be loaded; None where `config` has no table."""
        if config.use_srtab is None:
            return None
        n_types = len(config.type_map)
        sizes = ((2,), (n_types, n_types, n_intervals, 4), (n_types,))
        return cls(config, *(torch.ones(size, dtype=torch.float64) for size in sizes))

    def table(self) -> kernels.ShortRange:
        """What the kernels take."""
        start, spacing = self.grid.tolist()
        return kernels.ShortRange(
            rcut=self.rcut,
            smin_alpha=self.smin_alpha,
            sw_rmin=self.sw_rmin,
            sw_rmax=self.sw_rmax,
            start=start,
            spacing=spacing,
            coefficients=self.coefficients,
            bias=self.bias,
        )

    def check(self) -> None:
        """Raises InputError for numbers that no file gives."""
        start, spacing = self.grid.tolist()
        if not (start >= 0 and spacing > 0):
            raise InputError(
                f"short-range table: expected start >= 0 and a positive spacing, found {start} "
                f"and {spacing} Å"
            )
        if not torch.equal(self.coefficients, self.coefficients.transpose(0, 1)):
            raise InputError("short-range table: energies of a pair depend on its order")

    def energies(
        self, energies: torch.Tensor, env: LocalEnv, positions: torch.Tensor
    ) -> torch.Tensor:
        """(n_local,) eV from the networks' `energies`; differentiable in them and in positions."""
        value, table = reference.switched(env, positions, self.table())
        return energies + value * (table - energies)

    def weights(self, env: LocalEnv) -> torch.Tensor:
        """(n_local,) float64: the networks' share of each atom's energy."""
        return kernels.short_range_weights(env, self.table())

    def blended(
        self, energies: torch.Tensor, forces: torch.Tensor, env: LocalEnv, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces from the networks', see `kernels.short_range.blended`."""
        return reference.blended(energies, forces, env, self.table(), weights)

    def evaluated(self, compiled: kernels.CompiledPotential, env: LocalEnv) -> Evaluation:
        """What the networks `compiled` and the table say of `env` together."""
        evaluation = compiled.evaluate(env, self.weights(env))
        kernels.add_short_range(evaluation, env, self.table())
        return evaluation

    @property
    def reach(self) -> float:
        """Å: an atom with a nearer neighbour has the energy of the table alone.

        As long as no more than four others are about as near.
        """
        least = max(self.sw_rmin - CROWD * self.smin_alpha, 0.5 * self.sw_rmin)
        return max(least, float(self.grid[0]))

    def notes(self) -> list[str]:
        """Where energies jump: the table's doing, or that of a smin_alpha that is too large."""
        found = []
        table = self.table()
        place = (table.end - table.start) / table.spacing
        last = min(math.ceil(place) - 1, self.coefficients.shape[2] - 1)
        powers = (place - last) ** torch.arange(4, dtype=torch.float64)
        jump = float((self.coefficients[:, :, max(last, 0)] @ powers).abs().max())
        if place > 0 and jump > SMALL_JUMPS[0]:
            found.append(
                f"the short-range table does not end at 0: pairs lose {jump:.2g} eV at "
                f"{table.end:g} Å, as in DeePMD-kit"
            )
        wide = self.rcut * math.exp((self.sw_rmax - self.rcut) / self.smin_alpha)
        if wide > SMALL_JUMPS[1]:
            found.append(
                f"smin_alpha {self.smin_alpha:g} Å is large: the switch to the short-range table "
                f"jumps by up to {wide:.2g} Å where a neighbour passes the cutoff"
            )
        return found

    def summary(self, type_map: Sequence[str]) -> str:
        """One line: where it takes over, and which distances it covers."""
        table = self.table()
        n_pairs = len(type_map) * (len(type_map) + 1) // 2
        return (
            f"table of {n_pairs} pair{'s' if n_pairs > 1 else ''} from {table.start:g} to "
            f"{table.end:g} Å instead of the networks inside {self.sw_rmin:g} Å, none outside "
            f"{self.sw_rmax:g} Å (smin_alpha {self.smin_alpha:g} Å)"
        )
