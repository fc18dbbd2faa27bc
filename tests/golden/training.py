"""Makes the golden learning curves of this folder: how DeePMD-kit trains a tiny model.

    PYTHON_OF_DEEPMD_KIT tests/golden/training.py tensorflow|pytorch [MODEL]

needs deepmd-kit 3.2 with that backend. It starts from the weights of MODEL.dp (one_sided where none
is named) and learns the two frames of MODEL.npz, both in every batch, with labels of another random
energy surface. What it learns from and the errors before each update go to training_BACKEND.npz,
of a named model training_MODEL.npz, together with what the last model says of the frames.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from make import MODELS

HERE = Path(__file__).resolve().parent
START = "one_sided"
STEPS = 60
SUFFIX = {"tensorflow": ".pb", "pytorch": ".pth"}
FLAG = {"tensorflow": "--tf", "pytorch": "--pt"}
LABELS = ("coord", "box", "energy", "force", "virial")
INPUT = {
    "learning_rate": {"type": "exp", "start_lr": 2e-3, "stop_lr": 1e-4, "decay_steps": 7},
    "loss": {
        "type": "ener",
        **{"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        **{"start_pref_v": 0.02, "limit_pref_v": 1},
    },
    "training": {"numb_steps": STEPS, "disp_freq": 1, "save_freq": STEPS, "seed": 1},
}
"""What differs between backends, or between this project and them, is not here."""


def labelled(model):
    """coord, box, energy, force, virial of the frames, as in a deepmd/npy set."""
    frames = np.load(HERE / f"{model}.npz")
    rng = np.random.default_rng(1)
    found = {
        "coord": frames["coordinates"],
        "box": frames["cells"],
        "energy": frames["energy"] + rng.normal(0, 3, 2),
        "force": 1.5 * frames["forces"] + rng.normal(0, 0.1, frames["forces"].shape),
        "virial": 1.5 * frames["virial"] + rng.normal(0, 0.3, (2, 3, 3)),
    }
    return {name: value.reshape(2, -1) for name, value in found.items()}


def write_data(folder, labels, model):
    """A deepmd/npy system."""
    (folder / "set.000").mkdir(parents=True)
    types = np.load(HERE / f"{model}.npz")["types"]
    (folder / "type.raw").write_text("\n".join(map(str, types)))
    (folder / "type_map.raw").write_text("O\nH\n")
    for name, value in labels.items():
        np.save(folder / "set.000" / f"{name}.npy", value)


def recorded(backend):
    """A list that will hold (energy, force, virial) RMSE of every displayed step."""
    rows = []

    def add(*arguments, **_):
        errors = next(x for x in arguments if isinstance(x, dict))
        rows.append([errors[f"rmse_{letter}"] for letter in "efv"])

    if backend == "tensorflow":
        from deepmd.tf.train import trainer

        trainer.DPTrainer.print_on_training = staticmethod(add)
        found = trainer.get_tensor_by_name_from_graph
        # a model that convert-backend wrote does not say that it is not compressed
        trainer.get_tensor_by_name_from_graph = lambda graph, name: (
            b"original_model" if name == "model_type" else found(graph, name)
        )
    else:
        from deepmd.pt.train import training

        training.Trainer.print_on_training = lambda self, *arguments, **_: add(*arguments)
    return rows


def train(backend, script):
    """(steps, 3) errors before each update; leaves checkpoints in this folder."""
    rows = recorded(backend)
    if backend == "tensorflow":
        from deepmd.tf.entrypoints.main import main
    else:
        from deepmd.pt.entrypoints.main import main
    start = f"start{SUFFIX[backend]}"
    main([FLAG[backend], "train", script, "--init-frz-model", start, "--skip-neighbor-stat"])
    # TensorFlow tells the errors before the first update and after each
    return np.array(rows)[:STEPS]


def predicted(backend, start):
    """Energies (2,) and forces (2, n, 3) of the frames by the last model."""
    from deepmd.infer import DeepPot

    frames = np.load(HERE / f"{start}.npz")
    model = DeepPot(f"last{SUFFIX[backend]}")
    coordinates, cells = frames["coordinates"].reshape(2, -1), frames["cells"].reshape(2, 9)
    energy, forces, _ = model.eval(coordinates, cells, frames["types"].tolist())
    return energy.reshape(2), forces.reshape(2, -1, 3)


def make(backend, model=None):
    """training_BACKEND.npz, or training_MODEL.npz."""
    target = HERE / f"training_{model or backend}.npz"
    model = model or START
    command = [sys.executable, "-m", "deepmd"]
    labels = labelled(model)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_data(Path("data"), labels, model)
        start = f"start{SUFFIX[backend]}"
        source = str(HERE / f"{model}.dp")
        subprocess.run([*command, "convert-backend", source, start], check=True)
        script = {**INPUT, "model": MODELS[model]}
        data = {"systems": ["data"], "batch_size": 2}
        script["training"] = {**INPUT["training"], "training_data": data}
        Path("input.json").write_text(json.dumps(script))
        curve = train(backend, "input.json")
        frozen = [FLAG[backend], "freeze", "-o", f"last{SUFFIX[backend]}"]
        subprocess.run([*command, *frozen], check=True)
        energy, forces = predicted(backend, model)
    np.savez_compressed(
        target,
        **labels,
        curve=curve,
        last_energy=energy,
        last_forces=forces,
        input=json.dumps(script),
    )
    print(target.name, target.stat().st_size, curve[0], curve[-1])


if __name__ == "__main__":
    make(*sys.argv[1:])
