"""Atomic energies of DeePMD-kit's serialised models as its papers define them, in plain numpy.

Slots are padded and the pair networks are evaluated one by one, with the vectors of a type
embedding as inputs: nothing is folded, tabulated or summed in another way than written there.
"""

import itertools

import numpy as np

ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "linear": lambda x: x,
    "none": lambda x: x,
}
ACTIVATIONS["gelu_tf"] = ACTIVATIONS["gelu"]


def network(node, x):
    """(n, out) from (n, in)."""
    for layer in node["layers"]:
        arrays = layer["@variables"]
        z = x @ arrays["w"] + (0 if arrays["b"] is None else arrays["b"])
        y = ACTIVATIONS[layer["activation_function"].lower()](z)
        y = y if arrays["idt"] is None else y * arrays["idt"]
        n_in, n_out = arrays["w"].shape
        if layer["resnet"] and n_out in (n_in, 2 * n_in):
            y = y + np.tile(x, n_out // n_in)
        x = y
    return x


def rows_around(i, positions, cell, d):
    """Of all images in rcut: places (n,), rows (1/q, x/q², y/q², z/q²) · w (n, 4), w (n, 1)."""
    reach = int(np.ceil(d["rcut"] * np.linalg.norm(np.linalg.inv(cell), axis=0).max()))
    shifts = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    vectors = (positions[None] + (shifts @ cell)[:, None] - positions[i]).reshape(-1, 3)
    r = np.linalg.norm(vectors, axis=1)
    near = (r > 1e-9) & (r < d["rcut"])
    r, vectors = r[near], vectors[near]
    u = ((r - d["rcut_smth"]) / (d["rcut"] - d["rcut_smth"])).clip(0, 1)
    w = 1 + u**3 * (-6 * u**2 + 15 * u - 10)
    j = np.tile(np.arange(len(positions)), len(shifts))[near]
    q = r[:, None] + d["env_protection"]
    w = w[:, None]
    return j, w * np.hstack([1 / q, vectors / q**2]), w


def atomic_energies(model, positions, cell, types, fparam=()):
    """(n,) eV of the tree's node `model`, at frame parameters (numb_fparam,)."""
    d, f = model["descriptor"], model["fitting"]
    n_types, vectors = len(model["type_map"]), None
    if "type_embedding" in d:
        vectors = network(d["type_embedding"]["embedding"], np.eye(n_types))
    parts = [descriptors(p, positions, cell, types, n_types, vectors) for p in d.get("list", [d])]
    energies = [
        fitted(f, np.hstack([p[i] for p in parts]), a, vectors, fparam) for i, a in enumerate(types)
    ]
    bias = f["@variables"]["bias_atom_e"][:, 0] + model["@variables"]["out_bias"][0, :, 0]
    return np.array(energies) + bias[types]


def descriptors(d, positions, cell, types, n_types, vectors):
    """(1, width) of every atom, by the one descriptor `d`."""
    excluded = {tuple(p) for a, b in d["exclude_types"] for p in ((a, b), (b, a))}
    by_type = len(d["sel"]) == n_types
    fades = d["type"] == "se_atten_v2" or (
        d.get("tebd_input_mode") == "strip" and d["smooth_type_embedding"]
    )
    found = []
    for i, a in enumerate(types):
        davg, dstd = (d["@variables"][key][a, 0] for key in ("davg", "dstd"))
        j, rows, w = rows_around(i, positions, cell, d)
        radial = d["type"] in ("se_e2_r", "se_r")
        rows = rows[:, : len(davg)]
        moments = np.zeros((d["neuron"][-1], 1 if radial else 4))
        for b in range(n_types):
            r, fading = rows[types[j] == b], w[types[j] == b]
            slots = len(r)
            if fades and b == 0:  # an empty slot has no type that would count
                slots += sum(d["sel"]) - len(rows)
            elif by_type and not fades:
                slots = d["sel"][b]
            assert slots >= len(r)
            fading = np.vstack([fading, np.zeros((slots - len(r), 1))])
            r = np.vstack([r, np.zeros((slots - len(r), len(davg)))])
            r = (r - davg) / dstd
            if (a, b) in excluded:
                if not (radial and d["type_one_side"]):
                    continue
                r = 0 * r
            g = embedding(d, r[:, :1], a, b, n_types, vectors, fading if fades else 1)
            moments = moments + g.T @ (np.ones_like(r) if radial else r)
        moments = moments / sum(d["sel"])
        if radial:
            found.append(moments.T / 5)
        else:
            found.append((moments @ moments[: d["axis_neuron"]].T).reshape(1, -1))
    return found


def embedding(d, s, a, b, n_types, vectors, fading):
    """G of neighbours of type b around type a, (n, M)."""
    networks = d["embeddings"]["networks"]
    if vectors is None:
        return network(networks[b if d["type_one_side"] else a + n_types * b], s)
    inputs = [vectors[b]] if d["type_one_side"] else [vectors[b], vectors[a]]
    if d.get("tebd_input_mode") == "strip":
        factors = network(d["embeddings_strip"]["networks"][0], np.hstack(inputs)[None])
        return network(networks[0], s) * (1 + fading * factors)
    return network(networks[0], np.hstack([s, *(np.tile(v, (len(s), 1)) for v in inputs)]))


def fitted(f, descriptor, a, vectors, fparam):
    """Energy of an atom of type a, without biases."""
    networks = f["nets"]["networks"]
    frame = np.zeros((1, 0))
    if f["numb_fparam"]:
        scales = f["@variables"]
        frame = ((np.array(fparam) - scales["fparam_avg"]) * scales["fparam_inv_std"])[None]
    if f["mixed_types"]:
        n_in = networks[0]["layers"][0]["@variables"]["w"].shape[0]
        joined = n_in > descriptor.shape[1] + f["numb_fparam"]
        x = np.hstack([descriptor, vectors[a : a + 1]]) if joined else descriptor
        return network(networks[0], np.hstack([x, frame]))[0, 0]
    energy = network(networks[a], np.hstack([descriptor, frame]))[0, 0]
    if f.get("atom_ener") and f["atom_ener"][a] is not None:
        energy -= network(networks[a], np.hstack([0 * descriptor, frame]))[0, 0]
    return energy
