"""The operations that everything else is built on, compiled for the processor at hand.

`reference` holds the same operations in plain torch, the definition of truth for the tests; it is
never a fallback: without the compiled module this package cannot be imported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from ..system import Evaluation, InputError, LocalEnv
from . import reference
from .checks import checked
from .reference import COLUMNS, POWERS, Descriptor, Environment, Repulsion

try:
    from . import _kernels, cuda
    from .autograd import Moments, MomentsBackward
    from .fitting import Fitting, Network, Shape, energies_and_gradients
    from .random import normals
    from .short_range import ShortRange
    from .soap import SoapRule, SoapState, soap_step
    from .tabulation import EmbeddingLayers, tabulated
except ImportError as e:
    sources = Path(__file__).parents[2]
    advice = "build them with `pip install .` in the source tree (C++17 compiler with OpenMP)"
    if (sources / "pyproject.toml").is_file() and find_spec(f"{__name__}._kernels") is None:
        advice = (
            f"{sources} is the source tree, without them: start Python in another folder, where it "
            "finds what was installed, or `pip install -e .` here"
        )
    raise ImportError(
        f"the compiled kernels of deepmd_lite cannot be loaded ({e}); {advice}"
    ) from e

__all__ = [
    "COLUMNS",
    "COMPILER",
    "FEATURE_PADDING",
    "MOST_CUBIC",
    "POWERS",
    "CompiledPotential",
    "Descriptor",
    "EmbeddingLayers",
    "Environment",
    "Fitting",
    "Network",
    "Repulsion",
    "Shape",
    "ShortRange",
    "SoapRule",
    "SoapState",
    "add_repulsion",
    "add_short_range",
    "cuda",
    "energies_and_gradients",
    "instruction_set",
    "instruction_sets",
    "moments",
    "moments_gradient",
    "neighbor_list",
    "normals",
    "reference",
    "set_instruction_set",
    "short_range_weights",
    "soap_step",
    "tabulated",
]

COMPILER: str = _kernels.COMPILER
"""What the kernels were compiled with."""
FEATURE_PADDING: int = _kernels.FEATURE_PADDING
"""The features of a table are padded with zero coefficients to a multiple of this."""
MOST_CUBIC: int = _kernels.MOST_CUBIC
"""Features that may make invariants of third order."""
ATOMS_PER_LIST_THREAD, ATOMS_PER_THREAD = 1024, 16
"""A neighbour list, and an evaluation, take one more thread for each so many local atoms: to wake a
team for a few costs more than it saves, and on a busy machine a hundred times more."""

_SETS = ("baseline", "avx2", "avx512")

# The team of OpenMP's threads stays behind when a process forks: a child that asked for it would
# wait for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def instruction_sets() -> list[str]:
    """The instruction sets that this build has and this processor can execute, widest last."""
    return [name for k, name in enumerate(_SETS) if _kernels.has_instruction_set(k)]


def instruction_set() -> str:
    """The instruction set in use: the widest unless `set_instruction_set` chose another."""
    return _SETS[_kernels.current_instruction_set()]


def set_instruction_set(name: str) -> None:
    """Use another instruction set in the whole process, for tests and timings.

    Raises InputError for a name that is not in `instruction_sets()`.
    """
    if name not in instruction_sets():
        raise InputError(
            f"instruction set {name!r} cannot be used here; use one of {instruction_sets()}"
        )
    _kernels.use_instruction_set(_SETS.index(name))


def neighbor_list(
    positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Full ragged list of all pairs nearer than `cutoff` (Å), without periodicity.

    `positions` (n_all, 3) float64 Å; `types` (n_all,) int32; the first `n_local` rows get
    neighbours, all are neighbours. Returns offsets (n_local + 1,) int64 and indices (n_edges,)
    int32, rows sorted by neighbour type, then by index. Raises InputError for wrong shapes and
    dtypes, positions that are not finite, and two rows that coincide (nearer than 1e-6 Å).
    """
    positions = checked("positions", positions.detach(), torch.float64, (-1, 3))
    types = checked("types", types, torch.int32, (len(positions),))
    if not 0 <= n_local <= len(positions):
        raise InputError(f"n_local: expected 0 to {len(positions)}, found {n_local}")
    threads = min(torch.get_num_threads(), 1 + n_local // ATOMS_PER_LIST_THREAD)
    found = _kernels.NeighborList(positions, types, n_local, cutoff, threads)
    offsets = torch.empty(n_local + 1, dtype=torch.int64)
    indices = torch.empty(found.n_edges, dtype=torch.int32)
    found.copy(offsets, indices)
    return offsets, indices


def moments(
    positions: torch.Tensor,
    types: torch.Tensor,
    offsets: torch.Tensor,
    indices: torch.Tensor,
    coefficients: torch.Tensor,
    environment: Environment,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Σ_j G(s̃_ij) ⊗ R̃_ij over the neighbours nearer than rcut.

    Shapes as in `LocalEnv`; `coefficients` (n_tables, n_intervals + 1, 6, n_features), float64 or
    float32, which is the precision of the arithmetic after the differences of positions, with
    n_features a multiple of FEATURE_PADDING. Returns moments (n_local, environment.columns,
    n_features), counts (n_local, n_types) int32 of neighbours within rcut by type, and the number
    of edges in the table's continuation. Twice differentiable in positions and coefficients, on
    torch.get_num_threads() threads; the same bits for any number of them. Raises InputError for
    arguments of a wrong shape, dtype or device, for positions that are not finite, and for
    neighbours that coincide with their atom.
    """
    positions = checked("positions", positions, torch.float64, (-1, 3))
    coefficients = _checked_coefficients(coefficients, environment)
    atoms = _atoms(positions.detach(), types, offsets, indices)
    call = _kernels.Call(atoms, _table(coefficients.detach(), environment))
    result: tuple[torch.Tensor, torch.Tensor, int] = Moments.apply(positions, coefficients, call)
    return result


def moments_gradient(
    grad_moments: torch.Tensor,
    positions: torch.Tensor,
    types: torch.Tensor,
    offsets: torch.Tensor,
    indices: torch.Tensor,
    coefficients: torch.Tensor,
    environment: Environment,
) -> torch.Tensor:
    """(n_all, 3) float64: gradient of Σ grad_moments · moments with respect to the positions.

    Arguments as in `moments`, `grad_moments` shaped as its result. Differentiable once more, in
    grad_moments, positions and coefficients.
    """
    positions = checked("positions", positions, torch.float64, (-1, 3))
    coefficients = _checked_coefficients(coefficients, environment)
    atoms = _atoms(positions.detach(), types, offsets, indices)
    shape = (len(offsets) - 1, environment.columns, coefficients.shape[3])
    grad_moments = checked("grad_moments", grad_moments, coefficients.dtype, shape)
    call = _kernels.Call(atoms, _table(coefficients.detach(), environment))
    grad, _ = MomentsBackward.apply(grad_moments, positions, coefficients, call, (True, False))
    result: torch.Tensor = grad
    return result


class CompiledPotential:
    """A whole model in the layout that the compiled evaluation reads: a copy, it never changes."""

    def __init__(self, descriptors: Sequence[Descriptor], fitting: Fitting) -> None:
        """Raises InputError for shapes that do not fit."""
        n_features, parts = [], []
        for d in descriptors:
            d.check_elements(len(fitting.networks))
            coefficients = _checked_coefficients(d.coefficients.detach(), d.environment)
            n_features.append(coefficients.shape[3])
            sel = torch.tensor(d.sel, dtype=torch.float64)
            parts.append((_table(coefficients, d.environment), sel))
        if not len(parts) == len(fitting.shapes) > 0:
            raise InputError(
                f"expected shapes of {len(parts)} descriptors, found {len(fitting.shapes)}"
            )
        dtype = descriptors[0].coefficients.dtype
        self._potential = _kernels.Potential(parts, fitting.compiled(n_features, dtype))

    def evaluate(self, env: LocalEnv, weights: torch.Tensor | None = None) -> Evaluation:
        """Energies, forces on all rows and virial of `env`.

        `weights` (n_local,) float64: forces and virial are those of Σ weights_i E_i, and pairs of
        atoms of weight 0 are not counted as beyond the table; energies are without them. At most
        torch.get_num_threads() threads, and the same bits for any number of them. Working memory
        does not grow with the number of atoms. Raises InputError as `moments`.
        """
        positions = checked("positions", env.positions.detach(), torch.float64, (-1, 3))
        if len(env.offsets) != env.n_local + 1:
            raise InputError(
                f"offsets: expected {env.n_local + 1} entries for {env.n_local} local atoms, found "
                f"{len(env.offsets)}"
            )
        atoms = _atoms_of(env, positions)
        if weights is not None:
            weights = checked("weights", weights, torch.float64, (env.n_local,))
        energies = torch.empty(env.n_local, dtype=torch.float64)
        forces = torch.empty_like(positions)
        virial = torch.empty(3, 3, dtype=torch.float64)
        beyond = self._potential.evaluate(atoms, weights, energies, forces, virial)
        return Evaluation(energies, forces, virial, beyond)


def add_repulsion(evaluation: Evaluation, env: LocalEnv, repulsion: Repulsion) -> None:
    """Add `reference.repulsion_energies`, their forces and virial to an evaluation of `env`.

    In place, on the threads of an evaluation; the same bits for any number of them. Raises
    InputError for arguments of a wrong shape or dtype, radii that are not 0 ≤ r_in < r_out,
    positions that are not finite, and neighbours that coincide with their atom.
    """
    n_types = len(repulsion.atomic_numbers)
    positions = checked("positions", env.positions.detach(), torch.float64, (-1, 3))
    _kernels.add_repulsion(
        _atoms_of(env, positions),
        checked("atomic_numbers", repulsion.atomic_numbers, torch.float64, (n_types,)),
        checked("r_in", repulsion.r_in, torch.float64, (n_types, n_types)),
        checked("r_out", repulsion.r_out, torch.float64, (n_types, n_types)),
        _writable("energies", evaluation.energies, (len(env.offsets) - 1,)),
        _writable("forces", evaluation.forces, (len(positions), 3)),
        _writable("virial", evaluation.virial, (3, 3)),
    )


def short_range_weights(env: LocalEnv, table: ShortRange) -> torch.Tensor:
    """(n_local,) float64: 1 − λ of `short_range.switched`, for `CompiledPotential.evaluate`.

    On the threads of an evaluation, the same bits for any number of them. Raises InputError as
    `add_repulsion`.
    """
    positions = checked("positions", env.positions.detach(), torch.float64, (-1, 3))
    atoms = _atoms_of(env, positions)
    weights = torch.empty(len(env.offsets) - 1, dtype=torch.float64)
    _short_range(table).weights(atoms, weights)
    return weights


def add_short_range(evaluation: Evaluation, env: LocalEnv, table: ShortRange) -> None:
    """Blend `evaluation` of `env`, made with `short_range_weights`, with the table of pairs.

    In place, on the threads of an evaluation; the same bits for any number of them. Raises
    InputError as `add_repulsion`, and for pairs nearer than the table begins.
    """
    positions = checked("positions", env.positions.detach(), torch.float64, (-1, 3))
    _short_range(table).add(
        _atoms_of(env, positions),
        _writable("energies", evaluation.energies, (len(env.offsets) - 1,)),
        _writable("forces", evaluation.forces, (len(positions), 3)),
        _writable("virial", evaluation.virial, (3, 3)),
    )


def _short_range(table: ShortRange) -> _kernels.ShortRange:
    n_types = len(table.bias)
    shape = (n_types, n_types, -1, 4)
    return _kernels.ShortRange(
        checked("coefficients", table.coefficients, torch.float64, shape),
        checked("bias", table.bias, torch.float64, (n_types,)),
        table.rcut,
        table.smin_alpha,
        table.sw_rmin,
        table.sw_rmax,
        table.start,
        table.spacing,
    )


def _writable(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`tensor` itself, after the checks of `checked`: a copy would take what is added to it."""
    if not tensor.is_contiguous():
        raise InputError(f"{name}: expected a contiguous tensor")
    return checked(name, tensor, torch.float64, shape)


def _atoms_of(env: LocalEnv, positions: torch.Tensor) -> _kernels.Atoms:
    """The arguments of an evaluation, with as many threads as its atoms are worth."""
    threads = min(torch.get_num_threads(), 1 + env.n_local // ATOMS_PER_THREAD)
    return _atoms(positions, env.types, env.offsets, env.indices, threads)


def _atoms(
    positions: torch.Tensor,
    types: torch.Tensor,
    offsets: torch.Tensor,
    indices: torch.Tensor,
    threads: int | None = None,
) -> _kernels.Atoms:
    n_all, n_offsets, n_edges = positions.shape[0], offsets.shape[0], indices.shape[0]
    types = checked("types", types, torch.int32, (n_all,))
    offsets = checked("offsets", offsets, torch.int64, (n_offsets,))
    indices = checked("indices", indices, torch.int32, (n_edges,))
    if not 1 <= n_offsets <= n_all + 1:
        raise InputError(f"offsets: expected 1 to {n_all + 1} entries, found {n_offsets}")
    if int(offsets[-1]) != n_edges:
        raise InputError(f"offsets end at {int(offsets[-1])}, but there are {n_edges} indices")
    return _kernels.Atoms(positions, types, offsets, indices, threads or torch.get_num_threads())


def _checked_coefficients(coefficients: torch.Tensor, environment: Environment) -> torch.Tensor:
    if coefficients.dtype not in (torch.float64, torch.float32):
        raise InputError(f"coefficients: expected float64 or float32, found {coefficients.dtype}")
    n_features = coefficients.shape[-1] if coefficients.dim() else 0
    if n_features == 0 or n_features % FEATURE_PADDING:
        raise InputError(
            f"coefficients: {n_features} features; pad with zeros to a multiple of "
            f"{FEATURE_PADDING}"
        )
    n_types = environment.n_types
    n_tables = n_types if environment.type_one_side else n_types**2
    shape = (n_tables, -1, POWERS, n_features)
    return checked("coefficients", coefficients, coefficients.dtype, shape)


def _table(coefficients: torch.Tensor, environment: Environment) -> _kernels.Table:
    shape = (environment.n_types, environment.columns)
    return _kernels.Table(
        coefficients,
        checked("davg", environment.davg, torch.float64, shape),
        checked("dstd", environment.dstd, torch.float64, shape),
        environment.rcut,
        environment.rcut_smth,
        environment.table_start,
        environment.table_spacing,
        environment.protection,
        environment.type_one_side,
        environment.table_of_distance,
    )
