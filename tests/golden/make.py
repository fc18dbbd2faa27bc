"""Makes the golden models of this folder: tiny networks, and what DeePMD-kit says of two frames.

    PYTHON_OF_DEEPMD_KIT tests/golden/make.py [NAME …]

needs deepmd-kit 3.2 with TensorFlow (`pip install 'deepmd-kit[cpu]==3.2.0'`), for the models of
`WITH_PYTORCH` with PyTorch. Each model is drawn at random, written as NAME.dp, frozen to `.pb` (or
`.pth`) by `dp convert-backend` and evaluated there: energies (eV), atomic energies, forces (eV/Å)
and virials (eV) go to NAME.npz beside the frames.
"""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from deepmd.dpmodel.model.model import get_model
from deepmd.dpmodel.utils.serialization import load_dp_model, save_dp_model
from deepmd.infer import DeepPot

HERE = Path(__file__).parent
TYPES = [0, 1, 1, 0, 1, 1, 0, 1, 1, 0]


def section(descriptor=(), fitting=()):
    """The model section of an input, with what differs from the common case; None: not there."""
    descriptor = dict(descriptor)
    parts = [section(part)["descriptor"] for part in descriptor.pop("list", ())]
    model = {
        "type_map": ["O", "H"],
        "descriptor": {
            "type": "se_e2_a",
            "rcut": 4.0,
            "rcut_smth": 1.0,
            "sel": [24, 30],
            "neuron": [3, 6, 12],
            "axis_neuron": 3,
            "resnet_dt": False,
            "type_one_side": False,
            "activation_function": "tanh",
            "precision": "float64",
            "seed": 1,
            **descriptor,
        },
        "fitting_net": {
            "type": "ener",
            "neuron": [6, 6],
            "resnet_dt": True,
            "activation_function": "tanh",
            "precision": "float64",
            "seed": 2,
            **dict(fitting),
        },
    }
    model["descriptor"] = {k: v for k, v in model["descriptor"].items() if v is not None}
    if parts:
        model["descriptor"] = {"type": "hybrid", "list": parts}
    return model


DPA1 = {
    "type": "se_atten",
    "sel": 54,
    "attn_layer": 0,
    "tebd_dim": 4,
    "set_davg_zero": True,
    "smooth_type_embedding": False,  # without meaning here, but TensorFlow knows no other
}
FADED = {"type": "se_atten_v2", "sel": 54, "attn_layer": 0, "tebd_dim": 4, "rcut_smth": 2.0}
RADIAL = {"type": "se_e2_r", "type_one_side": True, "axis_neuron": None}
SINGLE = {"precision": "float32"}
NEAR = {"rcut": 3.0, "sel": [16, 20], "neuron": [4, 8], "axis_neuron": 2, "seed": 5}
"""Another cutoff, for a hybrid."""
MODELS = {
    "two_sided": section({"resnet_dt": True}),
    "one_sided": section({"type_one_side": True, "activation_function": "gelu"}),
    "float32": section(SINGLE, SINGLE),
    "activations": section({"activation_function": "silu"}, {"activation_function": "softplus"}),
    "excluded": section({"exclude_types": [[0, 1]]}),
    "excluded_one_sided": section({"exclude_types": [[1, 1]], "type_one_side": True}),
    "vacuum": section({}, {"atom_ener": [-3.0, None]}),
    "type_embedding": section(DPA1),
    "type_embedding_one_sided": section(
        {**DPA1, "type_one_side": True, "use_tebd_bias": True, "axis_neuron": 5}
    ),
    "stripped": section({**DPA1, "tebd_input_mode": "strip", "resnet_dt": True}),
    "faded": section({**FADED, "resnet_dt": True}),
    "faded_one_sided": section({**FADED, "type_one_side": True, "env_protection": 0.3}),
    "protected": section({"env_protection": 0.7}),
    "protected_type_embedding": section({**DPA1, "env_protection": 0.3}),
    "hybrid": section({"list": [NEAR, {"type_one_side": True}]}),
    "hybrid_radial": section(
        {"list": [{"exclude_types": [[0, 1]], "set_davg_zero": True}, {**NEAR, **RADIAL}]}
    ),
    "radial": section({**RADIAL, "resnet_dt": True}),
    "radial_excluded": section({**RADIAL, "exclude_types": [[0, 1]], "set_davg_zero": True}),
    "radial_protected": section({**RADIAL, "env_protection": 0.7}, {"atom_ener": [-3.0, None]}),
}
MODELS["short_range"] = {
    **MODELS["type_embedding"],
    **{"use_srtab": "table.txt", "smin_alpha": 0.13, "sw_rmin": 0.75, "sw_rmax": 1.2},
}
WITH_PYTORCH = (
    *("faded", "faded_one_sided", "short_range"),
    *("protected", "protected_type_embedding", "radial_protected"),
)
"""What TensorFlow cannot evaluate."""


def randomise(data, rng):
    """Statistics as a training would leave them, and biases of both kinds."""
    fitting, descriptors = data["fitting"], [data["descriptor"]]
    for descriptor in descriptors[0].get("list", descriptors):
        randomise_scales(descriptor, rng)
    for network in fitting["nets"]["networks"]:
        network["layers"][-1]["@variables"]["w"] *= 20  # forces of some eV/Å
    fitting["@variables"]["bias_atom_e"] = rng.uniform(-9, -5, (2, 1))
    data["@variables"]["out_bias"] = np.zeros((1, 2, 1))


def randomise_scales(descriptor, rng):
    """davg and dstd, the same in every slot."""
    shape = descriptor["@variables"]["davg"].shape
    dtype = descriptor["@variables"]["davg"].dtype
    davg, dstd = np.zeros(shape), np.ones(shape)
    if not descriptor["set_davg_zero"]:
        davg[:, :, 0] = rng.uniform(0.02, 0.06, (2, 1))
    dstd[:, :, 0] = rng.uniform(0.08, 0.15, (2, 1))
    dstd[:, :, 1:] = rng.uniform(0.04, 0.08, (2, 1, 1))
    descriptor["@variables"] = {"davg": davg.astype(dtype), "dstd": dstd.astype(dtype)}


def write_table(path):
    """Pair energies from 0.1 to 1.2 Å, where they are not 0 yet."""
    r = 0.1 + 0.05 * np.arange(23)
    np.savetxt(path, np.column_stack([r, *(20.0 * z / r * np.exp(-3 * r) for z in (5, 2, 1))]))


def frames(rng, apart=0.9):
    """Two frames of TYPES, none closer than `apart` Å: coordinates (2, 10, 3), cells (2, 3, 3)."""
    cells = np.array(
        [np.diag([5.0, 5.5, 6.0]), [[5.5, 0.4, 0.0], [-0.3, 5.2, 0.2], [0.5, 0.1, 5.8]]]
    )
    coordinates = []
    for cell in cells:
        placed = np.empty((0, 3))
        while len(placed) < len(TYPES):
            fractional = rng.random(3)
            difference = placed - fractional
            vectors = (difference - np.round(difference)) @ cell
            if (np.linalg.norm(vectors, axis=1) > apart).all():
                placed = np.vstack([placed, fractional])
        coordinates.append(placed @ cell)
    return np.array(coordinates), cells


def convert(source, target):
    """dp convert-backend."""
    subprocess.run([sys.executable, "-m", "deepmd", "convert-backend", source, target], check=True)


def make(name):
    """NAME.dp and NAME.npz."""
    rng = np.random.default_rng(len(name))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_table("table.txt")
        data = get_model(MODELS[name]).serialize()
    close = "use_srtab" in MODELS[name]
    randomise(data["models"][0] if close else data, rng)
    path = HERE / f"{name}.dp"
    content = {
        "model": data,
        "model_def_script": MODELS[name],
        "backend": "dpmodel",
        "@variables": {"min_nbor_dist": np.array(0.9)},
    }
    save_dp_model(str(path), content)
    with tempfile.TemporaryDirectory() as folder:
        frozen = Path(folder) / ("model.pth" if name in WITH_PYTORCH else "model.pb")
        convert(path, frozen)
        if name.startswith("excluded"):  # what TensorFlow writes: it means empty slots as well
            convert(frozen, path)
            if load_dp_model(str(path))["backend"] != "TensorFlow":
                raise SystemExit("expected a file of the TensorFlow backend")
        coordinates, cells = frames(rng, 0.55 if close else 0.9)
        energy, forces, virial, atomic, _ = DeepPot(str(frozen)).eval(
            coordinates.reshape(2, -1), cells.reshape(2, 9), TYPES, atomic=True
        )
    np.savez_compressed(
        HERE / f"{name}.npz",
        coordinates=coordinates,
        cells=cells,
        types=TYPES,
        energy=energy.reshape(2),
        atomic_energy=atomic.reshape(2, -1),
        forces=forces.reshape(2, -1, 3),
        virial=virial.reshape(2, 3, 3),
    )
    print(name, path.stat().st_size, energy.ravel(), np.abs(forces).max())


if __name__ == "__main__":
    for wanted in sys.argv[1:] or [name for name in MODELS if name not in WITH_PYTORCH]:
        make(wanted)
