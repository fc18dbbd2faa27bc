"""A small training: rattled copper with EMT's labels, and an input for it."""

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

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
