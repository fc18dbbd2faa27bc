"""Models of DeePMD-kit: against its own numbers, against the definition, and round trips."""

import copy
import functools
import hashlib
import json
import sys
from pathlib import Path

import deepmd_numpy
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from models import environment_of, random_atoms

from deepmd_lite import Calculator, load
from deepmd_lite.cli import main
from deepmd_lite.interop import convert, potential_from_tree, tree_of
from deepmd_lite.interop.dp_file import read_dp, read_yaml, write_dp, write_yaml
from deepmd_lite.model import (
    ModelConfig,
    Potential,
    Statistics,
    load_model,
    read_header,
    refine_table,
    save_model,
    statistics_from,
)
from deepmd_lite.model.statistics import Scales
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import InputError, ModelFileError

GOLDEN = Path(__file__).parents[1] / "golden"
ACTIVATIONS = ["tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tf", "linear", "none"]
FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# --- DeePMD-kit's own numbers -----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.dp")))
def test_golden(name, tmp_path):
    converted, _ = convert(GOLDEN / f"{name}.dp", tmp_path / "model.dpl")
    single = converted.precision == "float32"  # of which the golden numbers are as well
    assert converted.table_error["force_ev_per_a"] <= (1e-6 if single else 1e-9)
    potential = load_model(tmp_path / "model.dpl")
    expected = np.load(GOLDEN / f"{name}.npz")
    energy, force = (2e-5, 5e-5) if single else (1e-9, 1e-8)
    for k in range(2):
        cell, types = expected["cells"][k], expected["types"]
        pbc = np.ones(3, dtype=bool)
        periodic = periodic_env(expected["coordinates"][k], cell, pbc, types, potential.rcut)
        found = potential.evaluate(periodic.env)
        forces = torch.zeros(len(types), 3, dtype=torch.float64)
        forces.index_add_(0, periodic.owner, found.forces)
        np.testing.assert_allclose(
            found.energies, expected["atomic_energy"][k], rtol=0, atol=energy
        )
        np.testing.assert_allclose(forces, expected["forces"][k], rtol=0, atol=force)
        np.testing.assert_allclose(found.virial, expected["virial"][k], rtol=0, atol=10 * force)
        assert float(found.energies.sum()) == pytest.approx(expected["energy"][k], abs=10 * energy)


# --- the definition, over architectures -------------------------------------------------------


@st.composite
def widths(draw, most=3):
    """Widths that grow, stay or double, so that every kind of residual connection occurs."""
    found = [draw(st.integers(1, 6))]
    for _ in range(draw(st.integers(0, most - 1))):
        found.append(draw(st.sampled_from([found[-1], 2 * found[-1], found[-1] + 1])))
    return found


@st.composite
def descriptors(draw, n_types, kinds, rcut=3.5):
    """The section of a descriptor, but for its precision, and its mean and deviation of 1/r."""
    kind, neuron = draw(st.sampled_from(kinds)), draw(widths())
    pairs = [(a, b) for a in range(n_types) for b in range(a, n_types)]
    return {
        "rcut": rcut,
        "rcut_smth": draw(st.sampled_from([0.5, 2.0])),
        "sel": [draw(st.integers(40, 60)) for _ in range(n_types)],
        "neuron": neuron,
        "type": kind,
        **({"axis_neuron": draw(st.integers(1, neuron[-1]))} if kind == "se_e2_a" else {}),
        "activation_function": draw(st.sampled_from(ACTIVATIONS)),
        "resnet_dt": draw(st.booleans()),
        "type_one_side": draw(st.booleans()),
        "exclude_types": draw(st.lists(st.sampled_from(pairs), max_size=1)),
        "env_protection": draw(st.sampled_from([0.0, 0.4])),
    }


@st.composite
def potentials(draw, precision="float64", kinds=("se_e2_a", "se_e2_r"), cutoffs=(3.5,)):
    """Potentials with random weights, statistics and architecture; a descriptor for each cutoff."""
    n_types = draw(st.integers(1, 3))
    parts = [
        {**draw(descriptors(n_types, kinds, rcut)), "precision": precision} for rcut in cutoffs
    ]
    config = ModelConfig(
        type_map=["O", "H", "C"][:n_types],
        repulsion=None,
        descriptor=parts[0] if len(parts) == 1 else {"type": "hybrid", "list": parts},
        fitting_net={
            "neuron": draw(widths()),
            "activation_function": draw(st.sampled_from([*ACTIVATIONS, "relu", "relu6"])),
            "resnet_dt": draw(st.booleans()),
            "precision": precision,
        },
    )
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    scales, as_tensor = [], torch.from_numpy
    for d in config.descriptors:
        davg, dstd = np.zeros((n_types, 4)), rng.uniform(0.05, 0.2, (n_types, 4))
        davg[:, 0] = rng.uniform(0, 0.1, n_types)
        if d.radial:
            dstd[:, 1:] = 1
        scales.append(Scales(as_tensor(davg), as_tensor(dstd), d.sel))
    statistics = Statistics(scales, as_tensor(rng.normal(size=n_types)), 0.9)
    return Potential(config, statistics, seed=draw(st.integers(0, 10**6)))


POLAR = potentials(kinds=("se_e2_a",))
HYBRID = potentials(cutoffs=(2.8, 3.5, 3.1))


@functools.cache
def structure(n_types):
    """Nine atoms: positions, cell and types."""
    atoms = random_atoms("O3H3C3", 5.0, 4, skew=0.1)
    return atoms.positions, atoms.cell.array, np.arange(9) % n_types


def exact_energies(potential, positions, cell, types):
    env = periodic_env(positions, cell, np.ones(3, dtype=bool), types, potential.rcut).env
    with torch.no_grad():
        return potential.exact_energies(env, env.positions).numpy()


@FEW
@given(st.one_of(potentials(), HYBRID), st.booleans())
def test_energies_are_those_of_the_definition(potential, vacuum):
    tree = tree_of(potential)
    rng = np.random.default_rng(0)
    n_types = len(potential.type_map)
    tree["model"]["@variables"]["out_bias"] = rng.normal(size=(1, n_types, 1))
    if vacuum:
        tree["model"]["fitting"]["atom_ener"] = [-1.0, None, 2.0][:n_types]
    found = exact_energies(potential_from_tree(tree, "tree"), *structure(n_types))
    expected = deepmd_numpy.atomic_energies(tree["model"], *structure(n_types))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def mlp(rng, n_in, neuron, activation, output=False):
    """A node of random layers."""
    layers = []
    for n_out in [*neuron, 1] if output else neuron:
        last = output and len(layers) == len(neuron)
        layers.append(
            {
                "@version": 2,
                "activation_function": "none" if last else activation,
                "resnet": not last,
                "@variables": {
                    "w": rng.normal(size=(n_in, n_out)) / np.sqrt(n_in),
                    "b": rng.normal(size=n_out),
                    "idt": None,
                },
            }
        )
        n_in = n_out
    return {"@version": 1, "neuron": neuron, "layers": layers}


def with_type_embedding(tree, rng, width, dpa1, joined, strip=False, fades=False):
    """`tree` with one network for all types and the vectors of the types as further inputs."""
    model = tree["model"]
    d, f, n_types = model["descriptor"], model["fitting"], len(model["type_map"])

    def single(network):
        return {"@version": 1, "ndim": 0, "ntypes": n_types, "networks": [network]}

    n_in = 1 + width * (1 if d["type_one_side"] else 2)
    first = 1 if strip else n_in
    d["embeddings"] = single(mlp(rng, first, d["neuron"], d["activation_function"]))
    if strip:
        d |= {"tebd_input_mode": "strip", "smooth_type_embedding": fades}
        factors = mlp(rng, n_in - 1, d["neuron"], d["activation_function"])
        d["embeddings_strip"] = single(factors)
    d["type_embedding"] = {
        "ntypes": n_types,
        "neuron": [n_types, width],
        "embedding": mlp(rng, n_types, [n_types, width], "Linear"),
    }
    if dpa1:
        d |= {"type": "dpa1", "sel": [sum(d["sel"])], "attn_layer": 0, "concat_output_tebd": joined}
        if not fades:
            d["@variables"]["davg"][:] = 0
    f["mixed_types"] = True
    f["dim_descrpt"] += width if joined else 0
    network = mlp(rng, f["dim_descrpt"], f["neuron"], f["activation_function"], output=True)
    f["nets"] = single(network)


@FEW
@given(POLAR, st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 99))
def test_type_embedding_is_folded_exactly(potential, width, dpa1, one_output, seed):
    potential.config.descriptor.resnet_dt = potential.config.fitting_net.resnet_dt = False
    tree, n_types = tree_of(potential), len(potential.type_map)
    joined = not (dpa1 and one_output)
    with_type_embedding(tree, np.random.default_rng(seed), width, dpa1, joined)
    d, f = tree["model"]["descriptor"], tree["model"]["fitting"]
    n_in = 1 + width * (1 if d["type_one_side"] else 2)
    assume(d["neuron"][0] not in (1, 2, n_in, 2 * n_in))  # else refused: see below
    n_in = f["dim_descrpt"]
    free = n_in - width if joined else n_in
    assume(not joined or f["neuron"][0] not in (free, 2 * free, n_in, 2 * n_in))
    expected = deepmd_numpy.atomic_energies(tree["model"], *structure(n_types))
    found = exact_energies(potential_from_tree(tree, "tree"), *structure(n_types))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@FEW
@given(POLAR, st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 99))
def test_frame_parameters_are_fixed_exactly(potential, number, mixed, vacuum, seed):
    # networks that are put in below have no time steps
    potential.config.fitting_net.resnet_dt = False
    potential.config.descriptor.resnet_dt &= not mixed
    tree, n_types, rng = tree_of(potential), len(potential.type_map), np.random.default_rng(seed)
    f = tree["model"]["fitting"]
    if mixed:
        with_type_embedding(tree, rng, 3, dpa1=True, joined=True)
        n_in = 1 + 3 * (1 if tree["model"]["descriptor"]["type_one_side"] else 2)
        assume(tree["model"]["descriptor"]["neuron"][0] not in (1, 2, n_in, 2 * n_in))
    free = f["dim_descrpt"] - (3 if mixed else 0)
    widths = [k * n for n in (free, free + 3, f["dim_descrpt"] + number) for k in (1, 2)]
    assume(f["neuron"][0] not in widths)  # else refused: see below
    n_in = f["dim_descrpt"] + number
    for k in range(1 if mixed else n_types):
        network = mlp(rng, n_in, f["neuron"], f["activation_function"], output=True)
        f["nets"]["networks"][k] = network
    f["numb_fparam"] = number
    f["@variables"] |= {
        "fparam_avg": rng.normal(size=number),
        "fparam_inv_std": rng.uniform(0.5, 2, number),
    }
    if vacuum and not mixed:
        f["atom_ener"] = [-1.0, None, 2.0][:n_types]
    fparam = rng.normal(size=number).tolist()
    expected = deepmd_numpy.atomic_energies(tree["model"], *structure(n_types), fparam)
    found = exact_energies(potential_from_tree(tree, "tree", fparam), *structure(n_types))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@FEW
@given(POLAR, st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 99))
def test_stripped_type_embedding_is_a_table_of_each_pair(potential, width, joined, fades, seed):
    potential.config.descriptor.resnet_dt = potential.config.fitting_net.resnet_dt = False
    tree, n_types = tree_of(potential), len(potential.type_map)
    assume(not (fades and tree["model"]["descriptor"]["exclude_types"]))  # refused: see below
    rng = np.random.default_rng(seed)
    with_type_embedding(tree, rng, width, True, joined, strip=True, fades=fades)
    f = tree["model"]["fitting"]
    free = f["dim_descrpt"] - (width if joined else 0)
    n_in = f["dim_descrpt"]
    assume(not joined or f["neuron"][0] not in (free, 2 * free, n_in, 2 * n_in))
    expected = deepmd_numpy.atomic_energies(tree["model"], *structure(n_types))
    found = potential_from_tree(tree, "tree")
    np.testing.assert_allclose(
        exact_energies(found, *structure(n_types)), expected, rtol=1e-10, atol=1e-10
    )
    with pytest.raises(InputError, match="table without networks"):
        tree_of(found)


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("suffix", [".dp", ".yaml"])
@settings(FEW, max_examples=6)
@given(data=st.data())
def test_round_trip_is_exact(tmp_path_factory, suffix, precision, data):
    cutoffs = data.draw(st.sampled_from([(3.5,), (2.8, 3.5)]))
    potential = data.draw(potentials(precision, cutoffs=cutoffs))
    path = tmp_path_factory.mktemp("trip") / f"model{suffix}"
    write, read = {".dp": (write_dp, read_dp), ".yaml": (write_yaml, read_yaml)}[suffix]
    write(path, tree_of(potential))
    back = potential_from_tree(read(path), str(path))
    assert back.type_map == potential.type_map
    assert [d.sel for d in back.descriptors] == [d.sel for d in potential.descriptors]
    assert back.min_distance == potential.min_distance
    assert back.config.descriptor == potential.config.descriptor
    assert back.config.fitting_net == potential.config.fitting_net
    state, found = potential.state_dict(), back.state_dict()
    assert list(found) == list(state)
    for name, array in state.items():
        assert found[name].dtype == array.dtype
        assert torch.equal(found[name], array), name
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# --- what cannot be converted -----------------------------------------------------------------


@pytest.fixture(name="tree", scope="module")
def _tree():
    return read_dp(GOLDEN / "two_sided.dp")


def changed(tree, path, value):
    """A copy of `tree` with `value` at 'a/b/0/c', or without that key where it is ...."""
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    tree = copy.deepcopy(tree)
    node = tree
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return tree


D, F = "model/descriptor", "model/fitting"
LAYER = f"{D}/embeddings/networks/1/layers/0"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model/type", "linear", "model/type: 'linear' is not supported; only 'standard'"),
        ("model/atom_exclude_types", [0], "model/atom_exclude_types"),
        ("model/pair_exclude_types", [[0, 1]], "jump at the cutoff"),
        (f"{D}/type", "se_e3", "descriptor/type: 'se_e3' is not supported"),
        (f"{D}/type", "se_e2_r", r"@variables/davg: expected an array of shape \(2, 54, 1\)"),
        (f"{D}/type", "hybrid", "descriptor/@version: version 2 is not known"),
        (D, {"type": "hybrid"}, "descriptor/list: the key is missing"),
        (D, {"type": "hybrid", "list": []}, "descriptor/list: expected a list of 1"),
        (D, {"type": "hybrid", "list": [None]}, "descriptor/list: a descriptor is null"),
        (D, {"type": "hybrid", "list": [], "@version": 2}, "version 2 is not known"),
        (D, {"type": "hybrid", "list": [{"type": "dpa1"}]}, "list/0/type: 'dpa1' is not supported"),
        (D, {"type": "hybrid", "list": [{"type": "hybrid"}]}, "list/0/type: 'hybrid' is not sup"),
        (f"{D}/spin", {"use_spin": [True]}, "descriptor/spin: .* is not supported"),
        (f"{D}/env_protection", -0.1, "env_protection': .*greater than or equal to 0"),
        (f"{D}/env_protection", "none", "env_protection: expected a number"),
        (f"{D}/env_mat/protection", 0.1, "differs from the descriptor's env_protection"),
        (f"{D}/env_mat/use_exp_switch", True, "use_exp_switch"),
        (f"{D}/exclude_types", [[0, 1]], "jump at the cutoff"),
        (f"{D}/exclude_types", [[0.5, 1]], "expected pairs of types"),
        (f"{D}/precision", "float16", "descriptor/precision: 'float16' is not supported"),
        (f"{D}/activation_function", "relu6", "'relu6' is not supported"),
        (f"{D}/something_new", 3, "descriptor/something_new: 3 is not supported"),
        (f"{D}/@version", 9, "descriptor/@version: version 9"),
        (f"{D}/rcut", ..., "descriptor/rcut: the key is missing"),
        (f"{D}/rcut", float("nan"), "rcut: expected a finite number"),
        (f"{D}/neuron", [3, 6, 90_000], "expected an array of shape"),
        (f"{D}/neuron", [3, 6, 10**9], "expected a list of layer widths"),
        (f"{D}/neuron", [3, 6], "layers: expected a list of 2"),
        (f"{D}/neuron", "many", "neuron: expected integers"),
        (f"{D}/sel", [24, 10**9], "expected an array of shape"),
        (f"{D}/axis_neuron", 99, "axis_neuron 99 exceeds"),
        (f"{D}/@variables/davg", np.full((2, 54, 4), np.nan), "not finite"),
        (f"{D}/@variables/dstd", np.zeros((2, 54, 4)), "not positive"),
        (f"{D}/@variables/dstd", np.full((2, 54, 4), 1e-9), "too small for a table"),
        (f"{D}/@variables/dstd", np.ones((2, 4)), "shape"),
        (f"{D}/@variables/davg", np.ones((2, 54, 4)), "x, y and z are not 0"),
        (f"{D}/embeddings/networks/0", None, "a network is null"),
        (f"{D}/embeddings/networks/0", [1], "expected a mapping"),
        (f"{LAYER}/@variables/w", np.full((1, 3), np.inf), "not finite"),
        (f"{LAYER}/@variables/w", np.array([["a", "b", "c"]]), "expected an array of numbers"),
        (f"{LAYER}/@variables/b", np.zeros(4), "shape"),
        (f"{LAYER}/activation_function", "silu", "'silu' where 'tanh' is expected"),
        (f"{D}/embeddings/networks/0/layers/1/resnet", False, "without residual connection"),
        (f"{D}/embeddings/networks/0/layers/1/@variables/idt", None, "does not agree"),
        (f"{F}/type", "dipole", "fitting/type: 'dipole' is not supported"),
        (f"{F}/numb_fparam", 2, "fitting/numb_fparam: 2 .*--fparam X Y"),
        (f"{F}/numb_aparam", 1, "fitting/numb_aparam: 1 is not supported"),
        (f"{F}/dim_case_embd", 2, "fitting/dim_case_embd: 2 is not supported"),
        (f"{F}/mixed_types", True, "fitting/mixed_types: True is not supported"),
        (f"{F}/@variables/bias_atom_e", None, "expected an array"),
        (f"{F}/atom_ener", [1.0], "expected a list of 2"),
        (F, ..., "model/fitting: the key is missing"),
        ("@variables/min_nbor_dist", np.array(-1.0), "min_nbor_dist: expected a distance"),
    ],
)
def test_what_cannot_be_expressed_is_one_line_with_its_key(tree, path, value, message):
    with pytest.raises(ModelFileError, match=message) as error:
        potential_from_tree(changed(tree, path, value), "model.dp")
    assert str(error.value).startswith("model.dp: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{D}/attn_layer", 2, "descriptor/attn_layer: 2 is not supported; only 0"),
        (f"{D}/type", "se_atten_v2", "descriptor/embeddings_strip: the key is missing"),
        (f"{D}/tebd_input_mode", "strip", "descriptor/embeddings_strip: the key is missing"),
        (f"{D}/tebd_input_mode", "split", "tebd_input_mode: 'split' is not supported"),
        (f"{D}/@variables/davg", np.full((2, 54, 4), 0.1), "set_davg_zero: true"),
        (f"{D}/type_embedding/use_econf_tebd", True, "use_econf_tebd"),
        (f"{D}/type_embedding/ntypes", 3, "ntypes"),
        (f"{D}/neuron", [3, 6], "layers: expected a list of 2"),
        (f"{F}/atom_ener", [1.0, None], "atom_ener: is not supported"),
        (f"{F}/numb_aparam", 1, "numb_aparam"),
    ],
)
def test_type_embedding_that_cannot_be_folded(path, value, message):
    tree = read_dp(GOLDEN / "type_embedding.dp")
    with pytest.raises(ModelFileError, match=message):
        potential_from_tree(changed(tree, path, value), "model.dp")


@pytest.mark.parametrize("width", [1, 2, 9, 18])
def test_first_layer_that_adds_the_type_embedding_is_refused(width):
    tree = read_dp(GOLDEN / "type_embedding.dp")
    layer = tree["model"]["descriptor"]["embeddings"]["networks"][0]["layers"][0]
    layer["@variables"] |= {"w": np.zeros((9, width)), "b": np.zeros(width)}
    with pytest.raises(ModelFileError, match="adds its inputs to its output"):
        potential_from_tree(tree, "model.dp")


@pytest.mark.parametrize("width", [36, 72, 37, 74])
def test_first_layer_that_adds_frame_parameters_is_refused(tree, width):
    fitting = copy.deepcopy(tree["model"]["fitting"])
    assert fitting["dim_descrpt"] == 36
    fitting["@variables"] |= {"fparam_avg": np.zeros(1), "fparam_inv_std": np.ones(1)}
    for network in fitting["nets"]["networks"]:
        variables = {"w": np.zeros((37, width)), "b": np.zeros(width), "idt": None}
        network["layers"][0]["@variables"] = variables
    tree = changed(tree, F, {**fitting, "numb_fparam": 1})
    with pytest.raises(ModelFileError, match="the frame parameters among them, adds its inputs"):
        potential_from_tree(tree, "model.dp", [0.5])


# --- files ------------------------------------------------------------------------------------


def test_damaged_and_foreign_files_are_one_line(tmp_path):
    good = (GOLDEN / "two_sided.dp").read_bytes()
    rng = np.random.default_rng(0)
    contents = {
        "empty.dp": b"",
        "random.dp": rng.bytes(5000),
        "random.yaml": rng.bytes(5000),
        "text.dp": b"hello",
        "list.yaml": b"[1, 2]",
        "scalar.yaml": b"3",
        "input.yaml": b"model: {type_map: [O]}",
        "no_model.yaml": b"a: 1",
        "open.yaml": b"model: {",
        "python.yaml": b"model: !!python/object/apply:os.system ['touch executed']",
        "name.yaml": b"model: !!python/name:os.system",
        "recursive.yaml": b"model: &a {b: *a}",
        "bomb.yaml": b"\n".join(
            [b"model: 1", b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
            + [
                b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9))
                for i in range(1, 12)
            ]
        ),
        "deep.yaml": b"[" * 5000,
        "array.yaml": b"model: {'@variables': {a: {'@class': np.ndarray, dtype: object}}}",
        "ragged.yaml": b"model: {'@variables': {a: {'@class': np.ndarray, dtype: float64, "
        b"'@is_variable': true, value: [[1], [1, 2]]}}}",
        **{f"cut{n}.dp": good[: n * len(good) // 10] for n in range(1, 10)},
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as error:
            convert(path, tmp_path / "model.dpl")
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "model.dpl").exists()
    assert not Path("executed").exists()


@settings(FEW, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_altered_bytes_are_one_line_or_a_sound_model(tmp_path_factory, seed, count):
    content = bytearray((GOLDEN / "one_sided.dp").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(8, len(content), count):
        content[place] = rng.integers(256)
    path = tmp_path_factory.mktemp("altered") / "model.dp"
    path.write_bytes(bytes(content))
    problem = ""
    try:
        potential = potential_from_tree(read_dp(path), str(path))
        assert all(x.isfinite().all() for x in potential.state_dict().values())
    except ModelFileError as e:
        problem = str(e)
    assert "\n" not in problem
    assert not problem or problem.startswith(f"{path}: ")


def test_hdf5_of_something_else_and_links_out_of_the_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "model.dp"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ModelFileError, match="without the attribute 'json'"):
        read_dp(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    for name in ("/link", "/other/data", "/absent", "/x/data", "", 7):
        with h5py.File(path, "w") as file:
            file.attrs["json"] = json.dumps({"model": {"@variables": {"w": name}}})
            file["link"] = h5py.ExternalLink("other.h5", "/data")
            file["other"] = h5py.ExternalLink("other.h5", "/")
            file["x"] = np.zeros(3)
        with pytest.raises(ModelFileError, match="is missing"):
            read_dp(path)


def test_content_counts_more_than_the_suffix(tmp_path):
    renamed = tmp_path / "model.yaml"
    renamed.write_bytes((GOLDEN / "two_sided.dp").read_bytes())
    potential, _ = convert(renamed, tmp_path / "model.dpl")
    assert potential.type_map == ["O", "H"]


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="pip install"):
        convert(GOLDEN / "two_sided.dp", tmp_path / "model.dpl")


# --- the command ------------------------------------------------------------------------------


def test_command_and_what_the_file_says(tmp_path, capsys):
    source, target = GOLDEN / "two_sided.dp", tmp_path / "model.dpl"
    assert main(["convert", str(source), str(target)]) == 0
    said = capsys.readouterr().out
    assert "O H, float64" in said
    assert "sel [24, 30]" in said
    header = read_header(target)
    assert header["table_error"]["force_ev_per_a"] <= 1e-9
    provenance = header["provenance"]
    assert provenance["converted from"] == "two_sided.dp"
    assert provenance["SHA-256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert provenance["DeePMD-kit"].startswith("3.2")
    assert provenance["model_def_script"]["descriptor"]["neuron"] == [3, 6, 12]
    assert "virials trained" not in provenance
    assert main(["info", str(target)]) == 0
    assert "two_sided.dp" in capsys.readouterr().out
    assert main(["convert", str(target), str(tmp_path / "back.yaml"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    back = potential_from_tree(read_yaml(tmp_path / "back.yaml"), "back.yaml")
    for name, array in load_model(target).state_dict().items():
        assert torch.equal(array, back.state_dict()[name]), name


def test_tolerance_of_the_table(tmp_path):
    source, target = GOLDEN / "two_sided.dp", tmp_path / "model.dpl"
    fine, _ = convert(source, target)
    coarse, _ = convert(source, target, tolerance=1e-5)
    assert coarse.descriptor.grid.n_intervals < fine.descriptor.grid.n_intervals
    assert 1e-9 < coarse.table_error["force_ev_per_a"] <= 1e-5


@pytest.mark.parametrize("suffix", [".pb", ".pth", ".pt", ".dp", ".yaml"])
def test_foreign_model_where_one_of_ours_is_wanted(tmp_path, suffix):
    path = tmp_path / f"graph{suffix}"
    path.write_bytes(b"anything")
    for use in (load, Calculator):
        with pytest.raises(ModelFileError, match=f"dpl convert {path} .*graph.dpl"):
            use(path)


def test_suffixes_that_say_nothing(tmp_path, capsys):
    (tmp_path / "a.dpl").write_bytes(b"")
    for source, target in (("a.dpl", "b.dpl"), ("a.dpl", "b.onnx"), ("none.dp", "b.dpl")):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 1
        line = capsys.readouterr().err
        assert line.startswith("dpl convert: error: ")
        assert line.count("\n") == 1


def test_repulsion_is_refused(tmp_path):
    config = ModelConfig(type_map=["Si"])
    env = environment_of(random_atoms("Si8", 6.0, 1), ["Si"], 6.0).env
    save_model(Potential(config, statistics_from([(env, -1.0)], config)), tmp_path / "a.dpl")
    with pytest.raises(InputError, match="repulsion: null"):
        convert(tmp_path / "a.dpl", tmp_path / "b.dp")
    assert not (tmp_path / "b.dp").exists()


def test_repulsion_is_left_out_where_that_is_asked_for(tmp_path):
    config = ModelConfig(type_map=["Si"])
    atoms = random_atoms("Si8", 6.0, 1)
    env = environment_of(atoms, ["Si"], 6.0).env
    model = Potential(config, statistics_from([(env, -1.0)], config))
    refine_table(model, env, 1e-9)
    save_model(model, tmp_path / "a.dpl")
    _, notes = convert(tmp_path / "a.dpl", tmp_path / "b.dp", without_repulsion=True)
    assert any("without the repulsion" in note and "Si-Si" in note for note in notes)
    convert(tmp_path / "b.dp", tmp_path / "c.dpl")
    back = load_model(tmp_path / "c.dpl")
    assert back.repulsion is None
    found = back.evaluate(environment_of(atoms, ["Si"], 6.0).env)
    expected = load_model(tmp_path / "a.dpl").evaluate(env)  # all pairs are as far as in the data
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-8)


# --- pairs of types that do not see each other, in training -----------------------------------


@pytest.mark.parametrize("one_side", [False, True])
def test_excluded_pairs_neither_count_nor_train(one_side):
    config = ModelConfig(
        type_map=["O", "H"],
        repulsion=None,
        descriptor={
            "rcut": 4.0,
            "neuron": [4, 8],
            "type_one_side": one_side,
            "exclude_types": [[0, 1]],
        },
        fitting_net={"neuron": [6]},
    )
    atoms = random_atoms("O4H4", 5.0, 1)
    env = environment_of(atoms, ["O", "H"], 4.0).env
    oxygen = environment_of(atoms[:4], ["O", "H"], 4.0).env
    hydrogen = environment_of(atoms[4:], ["O", "H"], 4.0).env
    statistics = statistics_from([(env, -1.0)], config)
    apart = statistics_from([(oxygen, -1.0), (hydrogen, -1.0)], ModelConfig(**config.model_dump()))
    (ours,), (theirs,) = statistics.scales, apart.scales
    np.testing.assert_allclose(ours.davg * sum(ours.sel), theirs.davg * sum(theirs.sel))
    potential = Potential(config, statistics)
    energies, forces = potential.energies_and_forces(env)
    for part, local in ((oxygen, slice(0, 4)), (hydrogen, slice(4, 8))):
        np.testing.assert_allclose(
            energies.detach()[local], potential.energies(part).detach(), rtol=1e-12
        )
    exact = potential.exact_energies(env, env.positions)
    np.testing.assert_allclose(energies.detach(), exact.detach(), atol=1e-6)
    np.testing.assert_allclose(forces.detach(), potential.evaluate(env).forces, atol=1e-12)
    energies.sum().backward()
    weight = potential.descriptor.embedding.weight_0.grad
    if not one_side:
        assert not weight[1:3].any()
        assert weight[[0, 3]].any()
