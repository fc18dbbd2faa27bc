"""The stock model of `common.save_potential` as a DeePMD-kit model: same weights, same numbers.

    PEER_PYTHON peer_model.py weights float64.npz float64.dp
    PEER_PYTHON peer_model.py script float64.pb

Executed by the peer's Python. `weights` writes DeePMD-kit's own serialisation, from which its
`dp convert-backend` makes a frozen model of any backend. `script` completes the training script
inside a TensorFlow graph made that way: `dp compress` reads it, but finds only its model section.
"""

import json
import sys

import numpy as np
from deepmd.dpmodel.model.model import get_model
from deepmd.dpmodel.utils.serialization import save_dp_model


def fill_layers(network, arrays, prefix, copy, dtype):
    """Hidden layers of `network` from `prefix.weight_l`, `bias_l` and `step_l` of one copy."""
    for number, layer in enumerate(network["layers"]):
        if f"{prefix}.weight_{number}" not in arrays:
            continue  # the output layer of a fitting net
        variables = layer["@variables"]
        new = {
            "w": arrays[f"{prefix}.weight_{number}"][copy],
            "b": arrays[f"{prefix}.bias_{number}"][copy, 0],
        }
        if variables["idt"] is not None:
            new["idt"] = arrays[f"{prefix}.step_{number}"][copy, 0]
        put(variables, new, dtype)


def put(variables, new, dtype):
    """Replace arrays by others of the same shape."""
    for name, value in new.items():
        if variables[name].shape != value.shape:
            raise SystemExit(f"{name}: shape {value.shape}, expected {variables[name].shape}")
        variables[name] = value.astype(dtype)


def write_weights(source, target):
    """Write the model in the arrays `source` as `target` (.dp)."""
    arrays = dict(np.load(source))
    section = json.loads(str(arrays["model"]))
    dtype = section["fitting_net"]["precision"]
    data = get_model(section).serialize()
    descriptor, fitting = data["descriptor"], data["fitting"]
    slots = descriptor["@variables"]["davg"].shape[1]
    per_slot = {name: np.repeat(arrays[name][:, None], slots, axis=1) for name in ("davg", "dstd")}
    put(descriptor["@variables"], per_slot, "float64")
    for b, network in enumerate(descriptor["embeddings"]["networks"]):
        fill_layers(network, arrays, "embedding", b, dtype)
    for a, network in enumerate(fitting["nets"]["networks"]):
        fill_layers(network, arrays, f"fitting.{a}", 0, dtype)
        last = {
            "w": arrays[f"fitting.{a}.weight_out"][:, None],
            "b": arrays[f"fitting.{a}.bias_out"],
        }
        put(network["layers"][-1]["@variables"], last, dtype)
    bias = arrays["energy_bias"]
    put(fitting["@variables"], {"bias_atom_e": bias[:, None]}, "float64")
    content = {
        "model": data,
        "model_def_script": section,
        "backend": "dpmodel",
        "@variables": {"min_nbor_dist": np.array(float(arrays["min_distance"]))},
    }
    save_dp_model(target, content)


def complete_script(path):
    """Add the sections that `dp compress` checks, though it does not train with them."""
    from deepmd.tf.env import tf

    graph = tf.GraphDef()
    with open(path, "rb") as file:
        graph.ParseFromString(file.read())
    (node,) = (n for n in graph.node if n.name == "train_attr/training_script")
    tensor = node.attr["value"].tensor
    script = json.loads(tensor.string_val[0])
    script["learning_rate"] = {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-8}
    script["loss"] = {"type": "ener"}
    script["training"] = {"training_data": {"systems": ["none"]}, "numb_steps": 1}
    tensor.string_val[0] = json.dumps(script).encode()
    with open(path, "wb") as file:
        file.write(graph.SerializeToString())


if __name__ == "__main__":
    {"weights": write_weights, "script": complete_script}[sys.argv[1]](*sys.argv[2:])
