"""What the benchmarks measure: a water-like box and the model of DeePMD-kit's water example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from common import BenchmarkError

from deepmd_lite.kernels.reference import environment_rows
from deepmd_lite.model import ModelConfig, Potential, refine_table, save_model, statistics_from
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import LocalEnv, type_indices

TYPE_MAP = ["O", "H"]
STOCK = {
    "descriptor": {
        "type": "se_e2_a",
        "rcut": 6.0,
        "rcut_smth": 0.5,
        "sel": [46, 92],
        "neuron": [25, 50, 100],
        "axis_neuron": 16,
        "type_one_side": True,
        "activation_function": "tanh",
        "seed": 1,
    },
    "fitting_net": {"neuron": [240, 240, 240], "resnet_dt": True, "seed": 1},
}
"""DeePMD-kit's water example, the keys of an `input.json`."""

CELL_EDGE, MOLECULES_PER_EDGE = 12.4447, 4  # Å; liquid water at 10.04 Å³ per atom


def water_box(n_atoms: int, seed: int = 0) -> Atoms:
    """A water-like periodic box: 192 atoms or 192 · k³.

    Molecules at random orientations on a jiggled lattice of liquid density, replicated k times
    along each axis; then every atom is moved by up to 0.02 Å, so that no two neighbourhoods are
    the same. Raises BenchmarkError for another number of atoms.
    """
    unit = 3 * MOLECULES_PER_EDGE**3
    k = round((n_atoms / unit) ** (1 / 3))
    if k < 1 or n_atoms != unit * k**3:
        raise BenchmarkError(f"{n_atoms} atoms: expected 192 · k³, for example 192, 1536 or 12288")
    rng = np.random.default_rng(seed)
    axes = [np.arange(MOLECULES_PER_EDGE)] * 3
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    oxygen = (lattice + rng.uniform(-0.07, 0.07, lattice.shape)) * CELL_EDGE / MOLECULES_PER_EDGE
    bond, half_angle = 0.97, np.radians(52.25)
    arms = bond * np.array(
        [[np.cos(half_angle), sign * np.sin(half_angle), 0.0] for sign in (1, -1)]
    )
    rotations = np.linalg.qr(rng.normal(size=(len(oxygen), 3, 3)))[0]
    hydrogen = oxygen[:, None, :] + np.einsum("hc,mdc->mhd", arms, rotations)
    positions = np.concatenate([oxygen[:, None, :], hydrogen], axis=1).reshape(-1, 3)
    atoms = Atoms("OH2" * len(oxygen), positions, cell=np.eye(3) * CELL_EDGE, pbc=True)
    atoms = atoms.repeat(k)
    atoms.positions += rng.uniform(-0.02, 0.02, atoms.positions.shape)
    return atoms


def save_structure(atoms: Atoms, path: Path) -> Path:
    """Write what a worker needs of `atoms`; returns `path`."""
    np.savez(path, numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array)
    return path


def neighbors_and_runs(atoms: Atoms, potential: Potential) -> tuple[float, float]:
    """Mean numbers of neighbours within the cutoff and of the table intervals that they lie in."""
    env = environment_of(atoms, potential.rcut)
    environment = potential.descriptor.environment()
    centre = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff())
    neighbor = env.indices.long()
    vectors = env.positions[neighbor] - env.positions[centre]
    s = environment_rows(vectors, environment.rcut_smth, environment.rcut)[:, 0]
    a = env.types[centre].long()
    place = (s - environment.davg[a, 0]) / environment.dstd[a, 0] - environment.table_start
    interval = (place / environment.table_spacing).floor().long()
    table = env.types[neighbor].long()  # the stock model has one for each type of neighbour
    key = (centre * len(TYPE_MAP) + table) * (int(interval.max()) + 1) + interval
    return env.n_edges / env.n_local, len(key.unique()) / env.n_local


def environment_of(atoms: Atoms, rcut: float) -> LocalEnv:
    """Atoms, periodic images and neighbours within `rcut` Å."""
    types = np.array(type_indices(atoms.get_chemical_symbols(), TYPE_MAP, "box"), dtype=np.int32)
    return periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, types, rcut).env


def model_section(precision: str) -> dict[str, Any]:
    """The `model` section of an input for the stock water model."""
    return {
        "type_map": TYPE_MAP,
        "descriptor": {**STOCK["descriptor"], "precision": precision},
        "fitting_net": {**STOCK["fitting_net"], "precision": precision},
    }


def stock_potential(precision: str) -> Potential:
    """The stock water model with random weights and the statistics of a 192-atom box.

    Its table is refined to forces within 1e-6 eV/Å of the networks, as at the end of a training.
    The weights are the same numbers in either precision, up to rounding.
    """
    atoms = water_box(192)
    config = ModelConfig(**model_section(precision))
    env = environment_of(atoms, config.descriptor.rcut)
    potential = Potential(config, statistics_from([(env, -1.0 * len(atoms))], config), seed=1)
    with torch.no_grad():  # forces of the size of a liquid's, so that differences mean something
        for fitting in potential.fitting:
            fitting.weight_out *= 30.0
    refine_table(potential, env)
    return potential


def save_potential(potential: Potential, folder: Path) -> Path:
    """Write `<precision>.dpl` and, for other codes, the plain arrays `<precision>.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{potential.precision}.dpl"
    save_model(potential, path, {"made by": "benchmarks"})
    arrays = {k: v.detach().double().numpy() for k, v in potential.state_dict().items()}
    section = json.dumps(model_section(potential.precision))
    arrays |= {"model": np.array(section), "min_distance": np.array(potential.min_distance)}
    plain = path.with_suffix(".npz")
    if not (plain.exists() and _holds(plain, arrays)):  # else what was made from it stays valid
        np.savez(plain, **arrays)
    return path


def _holds(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    with np.load(path) as found:
        return set(found) == set(arrays) and all(
            np.array_equal(found[name], value) for name, value in arrays.items()
        )
