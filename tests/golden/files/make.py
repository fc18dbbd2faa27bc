"""Makes the model files of this folder and what DeePMD-kit computes with them.

    TENSORFLOW_PYTHON make.py tensorflow FOLDER [NAME.pb …]
    PYTORCH_PYTHON make.py pytorch FOLDER [NAME.pth …]

Executed in environments of DeePMD-kit 3.2 (see `benchmarks/peer.py`), one for each backend.
Every model is trained for a few steps on random water-like frames, so that its file is what
`dp train` and `dp freeze` write. FOLDER gets NAME.SUFFIX.xz (the model file), NAME.SUFFIX.json.xz
(the tree of its `.dp`, as `dp convert-backend` makes it; none for compressed models) and
NAME.SUFFIX.npz (energies eV, atomic energies eV, forces eV/Å, virials eV of two frames).
"""

import contextlib
import json
import lzma
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

N_ATOMS = 18
TYPES = [0, 1, 1] * (N_ATOMS // 3)

DPA1 = {"type": "se_atten", "sel": 42, "attn_layer": 0, "neuron": [3, 6]}
NEAR = {"rcut": 2.9, "sel": [13, 26], "neuron": [3, 6]}
"""A descriptor of a hybrid, with another cutoff."""
SECTIONS = {
    "two_sided.pb": {"resnet_dt": True, "activation_function": "gelu", "exclude_types": [[0, 0]]},
    "one_sided.pb": {"type_one_side": True},
    "excluded.pb": {"exclude_types": [[0, 0]]},
    "type_embedding.pb": {"resnet_dt": True, "neuron": [5, 10]},
    "single.pb": {"type_one_side": True, "precision": "float32", "set_davg_zero": True},
    "fparam.pb": {"type_one_side": True},
    "fparam.pth": {"type_one_side": True},
    "radial.pb": {"type": "se_e2_r", "type_one_side": True},
    "radial_two_sided.pb": {"type": "se_e2_r", "exclude_types": [[0, 0]], "resnet_dt": True},
    "radial.pth": {"type": "se_e2_r", "type_one_side": True},
    "mixed.pb": {**DPA1, "set_davg_zero": True, "resnet_dt": True, "tebd_dim": 3},
    "stripped.pb": {**DPA1, "set_davg_zero": True, "tebd_input_mode": "strip"},
    "faded.pb": {**DPA1, "type": "se_atten_v2", "rcut_smth": 2.0},
    "faded.pth": {**DPA1, "type": "se_atten_v2", "rcut_smth": 2.0},
    "two_sided.pth": {"resnet_dt": True, "activation_function": "gelu"},
    "one_sided.pth": {"type_one_side": True},
    "hybrid.pb": {
        "list": [{**NEAR, "exclude_types": [[0, 0]]}, {"type": "se_e2_r", "type_one_side": True}]
    },
    "hybrid.pth": {"list": [{"type_one_side": True}, {**NEAR, "resnet_dt": True}]},
    "srtab.pb": {"type_one_side": True},
    "srtab_radial.pb": {"type": "se_e2_r", "exclude_types": [[0, 0]]},
    "srtab_hybrid.pb": {
        "list": [{"type": "se_e2_r", "type_one_side": True}, {**NEAR, "type_one_side": True}]
    },
    "srtab_mixed.pb": {**DPA1, "set_davg_zero": True, "tebd_dim": 3},
    "srtab.pth": {**DPA1, "tebd_dim": 4, "set_davg_zero": True, "smooth_type_embedding": False},
}
COMPRESSED = (
    *("one_sided.pb", "excluded.pb", "one_sided.pth", "radial.pb", "srtab.pb"),
    *("stripped.pb", "faded.pb", "faded.pth", "hybrid.pb"),
)
ONLY_COMPRESSED = ("excluded.pb", "one_sided.pth", "faded.pth")
"""Of these the plain file is not kept."""
CHECKPOINTS = ("two_sided.pth", "srtab.pth")
OPEN = {"use_srtab": "open.tab", "smin_alpha": 0.08, "sw_rmin": 0.7, "sw_rmax": 1.15}
SHORT_RANGE = {
    **{"srtab.pb": OPEN, "srtab_mixed.pb": OPEN},
    "srtab_radial.pb": {
        **{"use_srtab": "ended.tab", "smin_alpha": 0.15, "sw_rmin": 0.6, "sw_rmax": 1.1},
        "srtab_add_bias": False,
    },
    "srtab_hybrid.pb": {
        "use_srtab": "open.tab",
        "smin_alpha": 0.1,
        "sw_rmin": 0.7,
        "sw_rmax": 1.15,
    },
    "srtab.pth": {"use_srtab": "open.tab", "sw_rmin": 0.7, "sw_rmax": 1.15},
}
"""Keys of the model section of models with a short-range table. Of `srtab_mixed.pb` no numbers are
kept: TensorFlow means another model."""
FPARAM = {
    "fparam.pb": {"numb_fparam": 2},
    "fparam.pth": {"numb_fparam": 2, "default_fparam": [0.2, 5.0]},
}
"""Keys of the fitting section of models with frame parameters."""
TYPE_EMBEDDING = "type_embedding.pb"
NO_TREE = (
    *(TYPE_EMBEDDING, "mixed.pb", "stripped.pb", "faded.pb"),
    *("srtab.pb", "srtab_radial.pb", "srtab_mixed.pb", "srtab_hybrid.pb", "srtab.pt"),
)
"""`dp convert-backend` cannot convert these, leaves the short-range table out, or (the last) makes
the tree of another file."""


def frames(n):
    """Coordinates (n, 3 N) and cells (n, 9), Å: atoms on a jittered lattice, so none are close."""
    rng = np.random.default_rng(5)
    edges = np.array([3, 3, 2]) * 1.7
    grid = np.stack(np.meshgrid(*[np.arange(k) for k in (3, 3, 2)], indexing="ij"), -1)
    coordinates = grid.reshape(-1, 3) * 1.7 + rng.uniform(-0.25, 0.25, (n, N_ATOMS, 3))
    cells = np.diag(edges) + 0.2 * rng.uniform(-1, 1, (n, 3, 3))
    return coordinates.reshape(n, -1), cells.reshape(n, 9)


def close_frames(n):
    """As `frames`, with pairs between 0.4 and 1.2 Å: below, in and above the switch."""
    coordinates, cells = frames(n)
    coordinates = coordinates.reshape(n, N_ATOMS, 3)
    rng = np.random.default_rng(8)
    distances = np.linspace(0.4, 1.2, 5 * n).reshape(5, n)
    for k, frame in enumerate(coordinates):
        for pair, distance in enumerate(
            distances[:, k]
        ):  # of all kinds: O-H, H-H, O-O, two with others
            i, j = ((0, 1), (4, 5), (6, 9), (10, 11), (13, 16))[pair]
            direction = rng.normal(size=3)
            frame[j] = frame[i] + distance * direction / np.linalg.norm(direction)
    return coordinates.reshape(n, -1), cells


def write_tables(folder):
    """Pair tables, 0.1 Å to 1.5 Å: one that does not end at 0, one that does."""
    r = 0.1 + 0.05 * np.arange(29)
    screened = [14.4 * z / r * np.exp(-r / 0.25) for z in (64, 8, 1)]  # O-O, O-H, H-H
    open_, ended = np.column_stack([r, *screened]), np.column_stack([r, *screened])
    ended[:, 1:] *= ((1 - (r / r[-1]) ** 2) ** 3)[:, None]
    np.savetxt(folder / "open.tab", open_)
    np.savetxt(folder / "ended.tab", ended)


def write_data(folder):
    """Training data with random labels."""
    coordinates, cells = frames(4)
    rng = np.random.default_rng(6)
    (folder / "set.000").mkdir(parents=True)
    np.savetxt(folder / "type.raw", TYPES, fmt="%d")
    (folder / "type_map.raw").write_text("O\nH\n")
    arrays = {
        "coord": coordinates,
        "box": cells,
        "energy": -20.0 + rng.normal(size=4),
        "force": rng.normal(size=coordinates.shape),
        "fparam": rng.normal(size=(4, 2)) * [1, 3] + [0, 4],
    }
    for name, array in arrays.items():
        np.save(folder / "set.000" / f"{name}.npy", array)


def descriptor_of(section):
    """What differs from the common case, completed."""
    descriptor = {
        "type": "se_e2_a",
        "rcut": 3.6,
        "rcut_smth": 1.0,
        "sel": [14, 28],
        "neuron": [2, 4],
        "axis_neuron": 3,
        "seed": 1,
        "precision": "float64",
        **section,
    }
    if descriptor["type"] == "se_e2_r":
        del descriptor["axis_neuron"]
    return descriptor


def training_input(name):
    """The input file of one model."""
    section = SECTIONS[name]
    precision = section.get("precision", "float64")
    descriptor = descriptor_of(section)
    if "list" in section:
        descriptor = {"type": "hybrid", "list": [descriptor_of(part) for part in section["list"]]}
    fitting = {"neuron": [6, 6], "precision": precision, "seed": 2, **FPARAM.get(name, {})}
    model = {"type_map": ["O", "H"], "descriptor": descriptor, "fitting_net": fitting}
    model |= SHORT_RANGE.get(name, {})
    if name == TYPE_EMBEDDING:
        model["type_embedding"] = {"neuron": [2, 4], "resnet_dt": True, "seed": 4}
    return {
        "model": model,
        "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 1e-4, "decay_steps": 2},
        "loss": {"type": "ener"},
        "training": {
            "training_data": {"systems": ["data"], "batch_size": 1},
            "numb_steps": 6,
            "disp_freq": 6,
            "save_freq": 6,
            "seed": 3,
        },
    }


def dp(backend, *words, folder):
    """Run `dp`; its output is shown only if it fails."""
    flag = {"tensorflow": "--tf", "pytorch": "--pt"}[backend]
    done = subprocess.run(
        [sys.executable, "-m", "deepmd", flag, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"dp {' '.join(words)}:\n{done.stdout[-3000:]}")


def save_results(model, target):
    """What DeePMD-kit computes on two frames, each with frame parameters of its own."""
    from deepmd.infer import DeepPot

    coordinates, cells = (close_frames if "srtab" in model.name else frames)(2)
    given = {"fparam": np.array([[0.3, 2.5], [-1.5, 6.0]])} if model.name in FPARAM else {}
    with contextlib.chdir(model.parent):  # a checkpoint looks for its short-range table there
        energy, force, virial, atomic, _ = DeepPot(str(model)).eval(
            coordinates, cells, TYPES, atomic=True, **given
        )
    np.savez_compressed(
        target,
        coordinates=coordinates,
        cells=cells,
        types=TYPES,
        energies=energy.ravel(),
        atomic_energies=atomic.reshape(2, -1),
        forces=force,
        virials=virial.reshape(2, 3, 3),
        **given,
    )


def plain(value):
    """JSON of a tree: an array becomes {'dtype', 'shape', 'values'}."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "values": array.ravel().tolist(),
        }
    return value


def save_file(model, target):
    """The model file, packed; TorchScript without the source positions that make most of it."""
    if model.suffix == ".pth":
        with (
            zipfile.ZipFile(model) as found,
            zipfile.ZipFile(model.with_suffix(".zip"), "w") as new,
        ):
            for member in found.infolist():
                if not member.filename.endswith(".debug_pkl"):
                    new.writestr(member.filename, found.read(member))
        model.with_suffix(".zip").replace(model)
    (target / f"{model.name}.xz").write_bytes(lzma.compress(model.read_bytes(), preset=9))


def save_tree(model, target):
    """The tree of DeePMD-kit's own conversion."""
    from deepmd.dpmodel.utils.serialization import load_dp_model

    converted = model.with_name("converted.dp")
    subprocess.run(
        [sys.executable, "-m", "deepmd", "convert-backend", str(model), str(converted)],
        check=True,
        capture_output=True,
        cwd=model.parent,  # a short-range table is looked for there
    )
    text = json.dumps(plain(load_dp_model(str(converted))))
    (target / f"{model.name}.json.xz").write_bytes(lzma.compress(text.encode(), preset=9))


def save_converted(name, target):
    """A model of DPA-1 that `../make.py` made, as TorchScript."""
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / f"{name}.pth"
        source = Path(__file__).parents[1] / f"{name}.dp"
        dp("pytorch", "convert-backend", str(source), model.name, folder=model.parent)
        save_file(model, target)


def main():
    backend, target = sys.argv[1], Path(sys.argv[2]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    suffix = {"tensorflow": ".pb", "pytorch": ".pth"}[backend]
    for name in sys.argv[3:] or SECTIONS:
        if not name.endswith(suffix):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_data(folder / "data")
            write_tables(folder)
            (folder / "input.json").write_text(json.dumps(training_input(name)))
            dp(backend, "train", "input.json", "--skip-neighbor-stat", folder=folder)
            dp(backend, "freeze", "-o", name, folder=folder)
            models = [folder / name]
            if name in CHECKPOINTS:
                models.append(folder / name.replace(".pth", ".pt"))
                (folder / "model.ckpt-6.pt").rename(models[-1])
            for model in models:
                save_results(model, target / f"{model.name}.npz")
                if model.name not in NO_TREE:
                    save_tree(model, target)
            if name in COMPRESSED:
                compressed = name.replace(".", "_compressed.")
                words = ["-i", name, "-o", compressed, "-s", "0.1", "-e", "2"]
                dp(backend, "compress", *words, "-t", "input.json", folder=folder)
                save_results(folder / compressed, target / f"{compressed}.npz")
                models.append(folder / compressed)
            if name in ONLY_COMPRESSED:
                models.pop(0)
            for model in models:
                save_file(model, target)
        print(name, flush=True)
    if backend == "pytorch":
        for name in ("type_embedding", "stripped"):
            save_converted(name, target)


if __name__ == "__main__":
    main()
