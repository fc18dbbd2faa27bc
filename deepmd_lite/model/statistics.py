"""What the model takes from the data before training: scales, biases, neighbour counts.

Definitions as in DeePMD-kit: the mean and standard deviation of the environment rows are taken
over all N_sel slots of an atom, empty ones (zero rows) included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch

from ..kernels.reference import COLUMNS, MOST_DEGREE, NORMS, switch
from ..system import InputError, LocalEnv
from .config import ModelConfig
from .descriptor_config import DescriptorConfig
from .frame_parameters import FrameParameters
from .known_pairs import KnownPairs
from .repulsion import Repulsion
from .short_range import ShortRange, intervals_of

SMALLEST_DEVIATION = 0.01
"""Lower bound of dstd, as in DeePMD-kit: a direction that never varies is not blown up."""
SINGULAR = 1e-8
"""Relative size of singular values of compositions that count as 0: elements whose shares do not
vary, for which the shortest solution is taken. One dopant in a million atoms still counts."""


@dataclass
class Scales:
    """What one descriptor takes from the data."""

    davg: torch.Tensor
    """(n_types, columns) float64: mean environment row of each centre type; 0 but the first."""
    dstd: torch.Tensor
    """(n_types, columns) float64: standard deviations; of x, y, z 1 where they do not count. All
    columns of one degree have the same, but for its `NORMS`."""
    sel: list[int]
    """(n_types) whose sum divides the moments."""

    @classmethod
    def unset(cls, sel: list[int], columns: int = COLUMNS) -> Scales:
        """The right shapes; the numbers are still to be loaded."""
        ones = torch.ones(len(sel), columns, dtype=torch.float64)
        return cls(ones, ones.clone(), sel)


@dataclass
class Statistics:
    """Constants of the model that come from the training data."""

    scales: list[Scales]
    """Scales of each descriptor."""
    energy_bias: torch.Tensor
    """(n_types,) float64, eV: least-squares energy of each element."""
    min_distance: float
    """Smallest pair distance in the data, Å."""
    repulsion: Repulsion | None = None
    """Inside the smallest distance of each pair of elements; None where the model has none."""
    short_range: ShortRange | None = None
    """What `use_srtab` names; None where the model has none."""
    frame_parameters: FrameParameters | None = None
    """Scales of the parameters of frames; None where the model takes none."""
    known_pairs: KnownPairs | None = None
    """How near each pair of elements comes in the data; None where that is not known."""

    @classmethod
    def unset(
        cls,
        config: ModelConfig,
        sels: Sequence[list[int]],
        min_distance: float,
        arrays: Mapping[str, torch.Tensor],
        prefix: str = "",
    ) -> Statistics:
        """The right shapes; the numbers are still to be loaded.

        `sels`: of each descriptor. A short-range table has as many intervals as the one among
        `arrays`, whose names begin with `prefix`.
        """
        n_types, k = len(config.type_map), config.fitting_net.numb_fparam
        each = zip(sels, config.descriptors, strict=True)
        return cls(
            [Scales.unset(sel, d.columns) for sel, d in each],
            torch.zeros(n_types, dtype=torch.float64),
            min_distance,
            Repulsion.unset(n_types) if config.repulsion is not None else None,
            ShortRange.unset(config, intervals_of(arrays, prefix)),
            FrameParameters.unset(k) if k else None,
        )

    def check_against(self, config: ModelConfig) -> None:
        """Raises InputError where they hold what `config` has not, or lack what it has."""
        for key, given, held, what in (
            ("repulsion", config.repulsion, self.repulsion, "radii"),
            ("use_srtab", config.use_srtab, self.short_range, "table"),
            (
                "fitting_net/numb_fparam",
                config.fitting_net.numb_fparam or None,
                *(self.frame_parameters, "scales"),
            ),
        ):
            if (given is None) != (held is None):
                raise InputError(
                    f"model/{key} is {given or 'null'}, but the statistics "
                    f"{'lack' if held is None else 'hold'} its {what}"
                )


def smallest_distances(envs: Iterable[LocalEnv], n_types: int, rcut: float) -> torch.Tensor:
    """(n_types, n_types) float64 Å: of each pair of elements within rcut; infinite where none."""
    sums = _Sums(n_types)
    for env in envs:
        sums.add(env, 0.0, rcut, 0.0)
    return sums.smallest_distances()


def seen_pairs(excluded: Sequence[tuple[int, int]], n_types: int) -> torch.Tensor | None:
    """(n_types²,) float64: 0 for pairs that do not see each other, 1 for others; None: all do."""
    if not excluded:
        return None
    seen = torch.ones(n_types, n_types, dtype=torch.float64, device="cpu")  # never of a skeleton
    for a, b in excluded:
        seen[a, b] = seen[b, a] = 0.0
    return seen.flatten()


class _Sums:
    """Running sums for each centre type, and the extremes."""

    def __init__(
        self, n_types: int, excluded: Sequence[tuple[int, int]] = (), degree: int = 1
    ) -> None:
        self.degree = degree
        seen = seen_pairs(excluded, n_types)
        self.seen = None if seen is None else seen.numpy()
        self.atoms = np.zeros(n_types)
        self.s = np.zeros(n_types)
        self.s2 = np.zeros(n_types)
        self.angular2 = np.zeros((MOST_DEGREE + 1, n_types))
        self.most = np.zeros(n_types, dtype=int)
        self.distances = np.full(n_types**2, math.inf)

    def add(self, env: LocalEnv, rcut_smth: float, rcut: float, protection: float) -> None:
        n_types = len(self.atoms)
        types, positions = env.types.numpy(), env.positions.numpy()
        neighbor_e = env.indices.numpy()
        centre_e = np.repeat(np.arange(env.n_local), np.diff(env.offsets.numpy()))
        vectors = positions[neighbor_e] - positions[centre_e]
        r_e = np.sqrt(np.einsum("ec,ec->e", vectors, vectors))
        inside = r_e < rcut
        if not inside.all():
            centre_e, neighbor_e, r_e = centre_e[inside], neighbor_e[inside], r_e[inside]
        q_e = r_e + protection
        s_e = switch(torch.from_numpy(r_e), rcut_smth, rcut).numpy() / q_e
        a_e = types[centre_e]
        if self.seen is not None:
            s_e = s_e * self.seen[a_e * n_types + types[neighbor_e]]
        self.atoms += np.bincount(types[: env.n_local], minlength=n_types)
        self.s += np.bincount(a_e, s_e, minlength=n_types)
        self.s2 += np.bincount(a_e, s_e**2, minlength=n_types)
        # x, y, z of a row are s r/q times a unit vector: their squares add up to (s r/q)², those of
        # the columns of degree l, normed, to (s (r/q)ˡ)²
        weight_e = s_e
        for degree in range(1, self.degree + 1):
            weight_e = weight_e * (r_e / q_e)
            self.angular2[degree] += np.bincount(a_e, weight_e**2, minlength=n_types)
        if len(r_e):
            b_e = types[neighbor_e]
            pair = centre_e * n_types + b_e
            # neighbours of one type stand together: their smallest distance first
            first = np.flatnonzero(np.diff(pair, prepend=-1))
            smallest = np.minimum.reduceat(r_e, first)
            np.minimum.at(self.distances, a_e[first] * n_types + b_e[first], smallest)
            counts = np.bincount(pair, minlength=env.n_local * n_types)
            self.most = np.maximum(self.most, counts.reshape(-1, n_types).max(axis=0))

    def smallest_distances(self) -> torch.Tensor:
        """(n_types, n_types) Å, infinite for pairs that no frame holds within rcut."""
        square = torch.from_numpy(self.distances).reshape(len(self.atoms), -1)
        return torch.minimum(square, square.T)


def statistics_from(
    frames: Iterable[tuple[LocalEnv, float | None]],
    config: ModelConfig,
    weights: Iterable[float] = repeat(1.0),
    fparam: torch.Tensor | None = None,
) -> Statistics:
    """Statistics of (environment, energy in eV or None) pairs in one pass.

    `weights`: of each frame in the fit of the energy bias, as in the loss; `fparam`: the frame
    parameters (n_frames, k), where the model takes some.

    Raises InputError for an element of the type map that no frame contains, and as
    `ShortRange.from_input`.
    """
    descriptors, n_types = config.descriptors, len(config.type_map)
    each = [_Sums(n_types, d.exclude_types, d.degree) for d in descriptors]
    compositions, energies, roots = [], [], []
    for (env, energy), weight in zip(frames, weights, strict=False):  # repeat() has no end
        for d, sums in zip(descriptors, each, strict=True):
            sums.add(env, d.rcut_smth, d.rcut, d.env_protection)
        if energy is not None:
            local = env.types[: env.n_local].numpy()
            compositions.append(np.bincount(local, minlength=n_types))
            energies.append(energy)
            roots.append(math.sqrt(weight))
    absent = [name for name, n in zip(config.type_map, each[0].atoms, strict=True) if n == 0]
    if absent:
        raise InputError(
            f"training data: no atom of {', '.join(absent)}, which model/type_map lists; "
            "its network would stay random: leave the element out until there are data of it, and "
            "train from the start then"
        )
    scales = [_scales(d, sums) for d, sums in zip(descriptors, each, strict=True)]
    bias = _energy_bias(np.array(compositions), np.array(energies), np.array(roots), config)
    rcut = max(d.rcut for d in descriptors)
    distances = torch.stack([sums.smallest_distances() for sums in each]).amin(dim=0)
    nearest = float(distances.min()) if distances.isfinite().any() else 1.0
    repulsion = None
    if config.repulsion is not None:
        repulsion = Repulsion.beyond_data(config.type_map, distances, rcut)
    energy_bias = torch.from_numpy(bias)
    short_range = ShortRange.from_input(config, energy_bias)
    own = None if fparam is None else FrameParameters.of_frames(fparam)
    known = KnownPairs(distances)
    return Statistics(scales, energy_bias, nearest, repulsion, short_range, own, known)


def _scales(descriptor: DescriptorConfig, sums: _Sums) -> Scales:
    sel = _resolved_sel(descriptor.sel, sums.most)
    slots = sums.atoms * sum(sel)
    mean, mean2 = sums.s / slots, sums.s2 / slots
    deviation = np.sqrt(np.maximum(mean2 - mean**2, 0.0))
    radial = np.maximum(deviation, SMALLEST_DEVIATION)
    deviations = [radial]
    for degree in range(1, descriptor.degree + 1):
        mean2 = sums.angular2[degree] / slots / (2 * degree + 1)
        angular = np.maximum(np.sqrt(mean2), SMALLEST_DEVIATION)
        if descriptor.radial:
            angular = np.ones_like(radial)
        deviations += [angular / norm for norm in NORMS.get(degree, (1, 1, 1))]
    dstd = np.stack(deviations, axis=1)
    davg = np.zeros_like(dstd)
    if not descriptor.set_davg_zero:
        davg[:, 0] = mean
    return Scales(torch.from_numpy(davg), torch.from_numpy(dstd), sel)


def _resolved_sel(sel: list[int] | int | str, most: np.ndarray) -> list[int]:
    """As given, or the largest count times 1.1 (or a given factor), up to a multiple of 4."""
    if isinstance(sel, list):
        if sum(sel) < 1:
            raise InputError("model/descriptor/sel: the sum is 0; expected at least 1")
        return list(sel)
    factor = float(str(sel).partition(":")[2] or 1.1)
    return [max(4, 4 * math.ceil(factor * int(n) / 4)) for n in most]


def _energy_bias(
    compositions: np.ndarray, energies: np.ndarray, roots: np.ndarray, config: ModelConfig
) -> np.ndarray:
    """(n_types,) eV: given atomic energies, the others by least squares over compositions.

    `roots` (n_frames,): square roots of the weights of the squares. `rcond` of the input is that of
    the least squares.
    """
    given = config.fitting_net.atom_ener or [None] * len(config.type_map)
    bias = np.array([0.0 if e is None else e for e in given])
    free = np.array([e is None for e in given])
    if len(energies) and free.any():
        rest = energies - compositions @ bias
        rcond = config.fitting_net.rcond
        rcond = SINGULAR if rcond is None else rcond
        matrix = compositions[:, free] * roots[:, None]
        bias[free] = np.linalg.lstsq(matrix, rest * roots, rcond=rcond)[0]
    return bias
