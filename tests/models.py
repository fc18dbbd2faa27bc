"""Small models with random weights: every term of the physics, none of the training."""

import tempfile
from functools import cache

import numpy as np
import torch
from ase import Atoms

from deepmd_lite.model import ModelConfig, Potential, Statistics, statistics_from
from deepmd_lite.model.members import Members
from deepmd_lite.model.short_range import ShortRange
from deepmd_lite.model.statistics import Scales
from deepmd_lite.model.typed import plain_config, potential_for_training, tell_apart
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.schema import parse
from deepmd_lite.system import type_indices


def environment_of(atoms: Atoms, type_map, cutoff):
    types = np.array(type_indices(atoms.get_chemical_symbols(), type_map, "test"))
    return periodic_env(atoms.positions, atoms.cell.array, atoms.pbc, types, cutoff)


def random_atoms(symbols: str, length: float, seed: int, skew: float = 0.0) -> Atoms:
    """Atoms at random in a cell with edges near `length` Å, none nearer than 1.5 Å."""
    return _random_atoms(symbols, length, seed, skew).copy()


@cache
def _random_atoms(symbols: str, length: float, seed: int, skew: float) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = length * (np.eye(3) + skew * rng.uniform(-1, 1, (3, 3)))
    atoms = Atoms(symbols, cell=cell, pbc=True)
    atoms.set_scaled_positions(rng.random((len(atoms), 3)))
    for _ in range(200):  # push overlapping pairs apart
        vectors = atoms.get_all_distances(mic=True, vector=True)
        r = np.linalg.norm(vectors, axis=2) + np.eye(len(atoms)) * 10
        push = np.where(r < 1.5, 0.3 * (1.5 - r) / r, 0.0)[:, :, None] * -vectors
        if not push.any():
            break
        atoms.positions += push.sum(axis=1)
    return atoms


NEAR = {"rcut": 4.0, "rcut_smth": 1.0, "neuron": [6, 12], "axis_neuron": 4}
FAR = {"rcut": 5.5, "rcut_smth": 0.5, "neuron": [5, 10], "type": "se_e2_r", "type_one_side": True}
QUADRUPOLES = {**NEAR, "type": "se_e2_q", "rcut": 4.4, "neuron": [5, 15], "axis_neuron": 3}
QUADRUPOLES["cubic_neuron"] = 2
BETWEEN = {**NEAR, "rcut": 4.8, "neuron": [7, 21], "axis_neuron": 5, "exclude_types": [[0, 1]]}
"""Descriptors of hybrids, of which none has the size, the cutoff or the tables of another."""


def hybrid_config(parts=(NEAR, FAR), precision="float64", type_map=("H", "O"), **fitting):
    """The section `model` of a hybrid."""
    return ModelConfig(
        type_map=list(type_map),
        descriptor={"type": "hybrid", "list": [{**p, "precision": precision} for p in parts]},
        fitting_net={"neuron": [24, 24], "precision": precision, **fitting},
    )


def hybrid_potential(*arguments, **keywords) -> Potential:
    """Arguments as of `hybrid_config`; random weights, not frozen."""
    config = hybrid_config(*arguments, **keywords)
    symbols = "".join(f"{t}{16 // len(config.type_map)}" for t in config.type_map)
    rcut = max(d.rcut for d in config.descriptors)
    env = environment_of(random_atoms(symbols, 7.0, 3), config.type_map, rcut).env
    potential = Potential(config, statistics_from([(env, -16.0)], config), seed=3)
    with torch.no_grad():  # forces of some eV/Å
        for network in potential.fitting:
            network.weight_out *= 30.0
    return potential


def random_potential(
    type_map=("Si",),
    rcut=4.5,
    one_side=False,
    seed=3,
    precision="float64",
    resnet_dt=False,
    kind="se_e2_a",
) -> Potential:
    """A frozen potential with random weights and statistics of a random structure."""
    config = ModelConfig(
        type_map=list(type_map),
        descriptor={
            "type": kind,
            "rcut": rcut,
            "rcut_smth": 1.0,
            "neuron": [6, 12, 24],
            "axis_neuron": 4,
            **({"cubic_neuron": 3, "l_max": 4} if kind == "se_e2_q" else {}),
            "type_one_side": one_side,
            "resnet_dt": resnet_dt,
            "precision": precision,
        },
        fitting_net={"neuron": [24, 24], "precision": precision},
    )
    symbols = "".join(f"{t}{16 // len(type_map)}" for t in type_map)
    periodic = environment_of(random_atoms(symbols, 7.0, seed), config.type_map, rcut)
    statistics = statistics_from([(periodic.env, -16.0)], config)
    potential = Potential(config, statistics, seed=seed)
    with torch.no_grad():  # forces of some eV/Å, so that errors are seen against something
        for fitting in potential.fitting:
            fitting.weight_out *= 30.0
    return potential.freeze()


def write_pair_table(path, n_types: int, start=0.05, spacing=0.05, rows=40) -> np.ndarray:
    """Screened repulsions that fall to 0 at the last row; returns the rows."""
    r = start + spacing * np.arange(rows)
    fall = (1 - (r / r[-1]) ** 2) ** 3
    pairs = [(a + 1) * (b + 1) for a in range(n_types) for b in range(a, n_types)]
    table = np.column_stack([r, *(6.0 * z / r * np.exp(-r / 0.6) * fall for z in pairs)])
    np.savetxt(path, table)
    return table


def short_range_potential(type_map=("H", "O"), precision="float64", **keys) -> Potential:
    """`random_potential` with a table that takes over between 0.9 and 1.7 Å; `keys` of `model`."""
    return with_short_range(random_potential(type_map, precision=precision), **keys)


def with_short_range(base: Potential, **keys) -> Potential:
    """The same networks beside a table, frozen."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/pairs.txt"
        write_pair_table(path, len(base.type_map))
        config = ModelConfig(
            **{
                **base.config.model_dump(),
                **{"repulsion": None, "use_srtab": path, "sw_rmin": 0.9, "sw_rmax": 1.7},
                **{"smin_alpha": 0.15, **keys},
            }
        )
        part = ShortRange.from_input(config, base.energy_bias)
    scales = [Scales(d.davg, d.dstd, d.sel) for d in base.descriptors]
    statistics = Statistics(scales, base.energy_bias, base.min_distance, short_range=part)
    potential = Potential(config, statistics, seed=None)
    learned = {k: v for k, v in base.state_dict().items() if not k.startswith("repulsion.")}
    potential.load_state_dict({**potential.state_dict(), **learned})
    return potential.freeze()


def with_members(potential: Potential, n=3, size=0.01, seed=0) -> Potential:
    """The same with a committee of random last layers."""
    width, n_types = potential.config.fitting_net.neuron[-1], len(potential.type_map)
    random = torch.Generator().manual_seed(seed)
    weights = size * torch.randn(n, n_types, width, generator=random, dtype=torch.float64)
    biases = size * torch.randn(n, n_types, generator=random, dtype=torch.float64)
    potential.members = Members(weights - weights.mean(0), biases - biases.mean(0), {"a": 1})
    return potential


DPA1_MODES = {
    "concat": {},
    "one sided": {"type_one_side": True},
    "bias": {"use_tebd_bias": True, "concat_output_tebd": False, "resnet_dt": True},
    "strip": {"tebd_input_mode": "strip"},
    "strip, one sided": {"tebd_input_mode": "strip", "type_one_side": True},
    "smooth": {"type": "se_atten_v2", "set_davg_zero": False},
    "smooth, one sided": {"type": "se_atten_v2", "type_one_side": True, "exclude_types": [[0, 1]]},
}
TYPES = ["H", "O", "C"]


def dpa1(mode="concat", **keys):
    """DPA-1 without attention in a section `model`."""
    descriptor = {
        **{"type": "se_atten", "attn_layer": 0, "rcut": 4.5, "rcut_smth": 1.0, "sel": 50},
        **{"neuron": [6, 12], "axis_neuron": 4, "tebd_dim": 4, "attn": 64, **DPA1_MODES[mode]},
    }
    return {"type_map": TYPES, "descriptor": descriptor, "fitting_net": {"neuron": [8, 8]}, **keys}


def typed_potential(model, precision="float64"):
    """A potential for training of three elements with shared networks, and an environment."""
    model = {key: {**x} if isinstance(x, dict) else x for key, x in model.items()}
    for name in ("descriptor", "fitting_net"):
        model[name]["precision"] = precision
    config = parse(ModelConfig, model, "test")
    env = environment_of(random_atoms("H6O6C4", 7.0, 3), TYPES, config.rcut).env
    statistics = statistics_from([(env, -16.0)], plain_config(config))
    potential = potential_for_training(config, statistics, seed=2)
    tell_apart(potential)
    with torch.no_grad():
        potential.fitting.network.weight_out *= 20.0
    return potential, env
