"""A small training: rattled copper with EMT's labels, and an input for it."""

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from deepmd_lite.training.checkpoint import Checkpoint

N_STEPS = 12


def copper(n_frames, seed):
    """Rattled copper with EMT's energies, forces and stresses."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
        atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    return frames


def written(folder, n_training=8):
    """The folder, with `train.extxyz` and `validation.extxyz` in it."""
    write(folder / "train.extxyz", copper(n_training, 1))
    write(folder / "validation.extxyz", copper(2, 2))
    return folder


def checkpoint_of(folder):
    """That of the training which wrote its results to `folder`."""
    return Checkpoint.read(folder / "checkpoint.safetensors")


def settings(data, **training):
    """A small input; keywords replace keys of `training`."""
    return {
        "model": {
            "type_map": ["Cu"],
            "descriptor": {"rcut": 4.0, "rcut_smth": 2.0, "neuron": [4, 8], "axis_neuron": 2},
            "fitting_net": {"neuron": [8, 8]},
        },
        "learning_rate": {"start_lr": 0.01, "stop_lr": 0.001},
        "loss": {"start_pref_e": 1, "start_pref_f": 100, "start_pref_v": 0.1, "limit_pref_v": 0.1},
        "training": {
            "training_data": {"systems": str(data / "train.extxyz"), "batch_size": 2},
            "validation_data": {"systems": str(data / "validation.extxyz")},
            "numb_steps": N_STEPS,
            "disp_freq": 4,
            "save_freq": 4,
            **training,
        },
    }
