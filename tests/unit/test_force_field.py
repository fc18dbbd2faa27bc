"""Model files read by the C library alone: what it makes of them is what Python makes of them."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from c_library import DPL_FILE, ForceField, Refused
from model_files import rewrite
from models import (
    NEAR,
    QUADRUPOLES,
    environment_of,
    hybrid_potential,
    random_atoms,
    random_potential,
    short_range_potential,
    with_members,
)
from safetensors import safe_open
from safetensors.torch import save_file

from deepmd_lite.interop import convert
from deepmd_lite.model import load_model, read_header, save_model
from deepmd_lite.model.structures import Structure
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import ModelFileError

TESTS = Path(__file__).parents[1]
SILICON = TESTS.parent / "data" / "silicon" / "silicon.dpl"


def assert_same(found, expected, energy, force):
    np.testing.assert_allclose(found.energies, expected.energies, rtol=0, atol=energy)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=force)
    np.testing.assert_allclose(found.virial, expected.virial, rtol=0, atol=10 * force)
    assert found.beyond_table == expected.beyond_table


@pytest.mark.parametrize("name", sorted(path.stem for path in (TESTS / "golden").glob("*.dp")))
def test_is_what_python_reads(name, tmp_path):
    """Every kind of model: excluded types, se_e2_r, hybrids, tables of distances and of pairs …"""
    convert(TESTS / "golden" / f"{name}.dp", tmp_path / "model.dpl")
    golden = np.load(TESTS / "golden" / f"{name}.npz")
    pbc = np.ones(3, bool)
    for precision, tolerance in (("float64", 1e-11), ("float32", 2e-4)):
        expected = load_model(tmp_path / "model.dpl", precision)
        field = ForceField(tmp_path / "model.dpl", precision)
        assert field.elements == expected.type_map
        assert field.cutoff == expected.rcut
        frame = golden["coordinates"][0], golden["cells"][0], pbc, golden["types"]
        env = periodic_env(*frame, expected.rcut).env
        wanted = expected.evaluate(env)
        assert float(wanted.forces.abs().max()) > 1e-3
        size = max(1.0, float(wanted.forces.abs().max()), float(wanted.energies.abs().max()))
        assert_same(field.evaluate(env), wanted, tolerance * size, tolerance * size)


def test_repulsion_and_the_precision_of_the_training(tmp_path):
    atoms = random_atoms("H8O8", 5.0, 1)
    for precision in ("float64", "float32"):
        potential = random_potential(("H", "O"), precision=precision)
        save_model(potential, tmp_path / "model.dpl")
        own = load_model(tmp_path / "model.dpl")
        assert own.repulsion is not None
        near = atoms.copy()
        near.positions[1] = near.positions[0] + (0.4, 0, 0)  # inside every r_out
        env = environment_of(near, own.type_map, own.rcut).env
        wanted = own.evaluate(env)
        size = float(wanted.forces.abs().max())
        tolerance = (1e-12 if precision == "float64" else 1e-5) * size
        assert size > 100
        found = ForceField(tmp_path / "model.dpl").evaluate(env, threads=2)
        assert_same(found, wanted, tolerance, tolerance)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_members_of_its_committee(precision, tmp_path):
    potential = with_members(random_potential(("H", "O"), precision=precision))
    save_model(potential, tmp_path / "model.dpl")
    env = environment_of(random_atoms("H8O8", 5.0, 1), ["H", "O"], potential.rcut).env
    itself = ForceField(tmp_path / "model.dpl")
    assert itself.n_members == 3
    tolerance = 1e-10 if precision == "float64" else 2e-4
    for k in range(3):
        wanted = potential.member(k).evaluate(env)
        found = ForceField(tmp_path / "model.dpl", member=k)
        assert_same(found.evaluate(env), wanted, tolerance, tolerance)
        assert float((wanted.forces - potential.evaluate(env).forces).abs().max()) > 1e-2
    with pytest.raises(Refused, match="has 3 members, none of the number 3"):
        ForceField(tmp_path / "model.dpl", member=3)
    with pytest.raises(Refused, match="member must be DPL_ITSELF or 0 and more, found -2"):
        ForceField(tmp_path / "model.dpl", member=-2)


@pytest.mark.parametrize("kind", ["se_e2_q", "hybrid"])
def test_moments_of_second_degree(kind, tmp_path):
    """What DeePMD-kit's models have not."""
    atoms = random_atoms("H8O8", 5.0, 1)
    for precision, tolerance in (("float64", 1e-11), ("float32", 2e-4)):
        potential = random_potential(("H", "O"), precision=precision, kind="se_e2_q")
        if kind == "hybrid":
            potential = hybrid_potential((NEAR, QUADRUPOLES), precision).freeze()
        save_model(potential, tmp_path / "model.dpl")
        env = environment_of(atoms, potential.type_map, potential.rcut).env
        wanted = load_model(tmp_path / "model.dpl").evaluate(env)
        size = float(wanted.forces.abs().max())
        assert size > 1e-2
        found = ForceField(tmp_path / "model.dpl").evaluate(env, threads=2)
        assert_same(found, wanted, tolerance * size, tolerance * size)


def test_files_are_of_the_first_version_that_knows_them(tmp_path):
    """A file lacks the keys of what it has not, which earlier releases would refuse."""
    path = tmp_path / "model.dpl"
    for kind, version, keys in (("se_e2_a", 5, set()), ("se_e2_q", 9, {"cubic_neuron", "l_max"})):
        save_model(random_potential(kind=kind), path)
        assert read_header(path)["format_version"] == version
        assert {"cubic_neuron", "l_max"} & set(read_header(path)["config"]["descriptor"]) == keys
    save_model(hybrid_potential((NEAR, QUADRUPOLES)).freeze(), path)
    assert read_header(path)["format_version"] == 8
    plain = hybrid_potential((NEAR, {**QUADRUPOLES, "cubic_neuron": 0})).freeze()
    save_model(plain, path)
    assert read_header(path)["format_version"] == 7
    env = environment_of(random_atoms("H8O8", 5.0, 1), plain.type_map, plain.rcut).env
    wanted = plain.evaluate(env)
    assert_same(ForceField(path).evaluate(env), wanted, 1e-11, 1e-11)


@pytest.mark.parametrize(
    "kind", ["networks", "se_e2_q", "hybrid", "close pairs repel", "table of pairs"]
)
def test_virials_of_atoms(kind, tmp_path):
    """Those of Python's plain formula, for every part of a model; 1 and 2 threads the same."""
    potential = {
        "networks": lambda: random_potential(("H", "O")),
        "se_e2_q": lambda: random_potential(("H", "O"), kind="se_e2_q"),
        "hybrid": lambda: hybrid_potential().freeze(),
        "close pairs repel": lambda: random_potential(("H", "O")),
        "table of pairs": lambda: short_range_potential(("H", "O")),
    }[kind]()
    save_model(potential, tmp_path / "model.dpl")
    own, field = load_model(tmp_path / "model.dpl"), ForceField(tmp_path / "model.dpl")
    atoms = random_atoms("H8O8", 5.0, 1)
    if kind in ("close pairs repel", "table of pairs"):
        atoms.positions[1] = atoms.positions[0] + (1.1, 0, 0)
    env = environment_of(atoms, own.type_map, own.rcut).env
    forces = own.evaluate(env).forces
    wanted, found = own.atomic_virials(env, forces), field.atomic_virials(env, forces)
    size = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11 * size)
    assert torch.equal(field.atomic_virials(env, forces, threads=2), found)
    torch.testing.assert_close(found.sum(0), own.evaluate(env).virial, rtol=0, atol=1e-10 * size)
    assert float((found - found.transpose(1, 2)).abs().max()) > 1e-3


# --- what it remembers --------------------------------------------------------------------------


def remembering(path, pbc, cell):
    potential = hybrid_potential()
    atoms = random_atoms("H8O8", 5.0, 2, skew=0.2)
    cell = atoms.cell.array if cell is None else cell
    types = np.array([potential.type_map.index(s) for s in atoms.get_chemical_symbols()], np.int32)
    places = atoms.positions + 20.0  # outside of the cell
    potential.reference_frames = (Structure("test", places, cell, np.array(pbc), types),)
    save_model(potential, path)
    return path


@pytest.mark.parametrize(
    ("pbc", "cell"),
    [
        ((True, True, True), None),
        ((True, False, True), None),
        ((True, True, False), np.diag([5.0, 6.0, 0.0])),
        ((False, True, False), np.diag([0.0, 6.0, 0.0])),
        ((False, False, False), np.zeros((3, 3))),
    ],
)
def test_reference_frames_are_evaluated(pbc, cell, tmp_path):
    """In cells smaller than the cutoff, skewed and with open directions: no false alarm, and an
    alarm where one force of them is another."""
    path = remembering(tmp_path / "model.dpl", pbc, cell)
    load_model(path)
    ForceField(path)
    ForceField(path, "float32")

    def change(header, arrays):
        arrays["reference.0.forces"][3, 1] += 1e-5

    rewrite(path, change)
    with pytest.raises(Refused, match=r"reference frame \(test\) gives other results") as refused:
        ForceField(path)
    assert refused.value.status == DPL_FILE


def contents(path):
    with safe_open(path, framework="pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, f.metadata()  # noqa: SIM118


# --- files that are not as they should be -----------------------------------------------------


def changed(arrays, header):
    def nothing(name):
        return arrays.pop(name)

    yield "fitting.0.bias_1.*missing", lambda: nothing("fitting.0.bias_1")
    yield "davg.*missing", lambda: nothing("davg")
    yield "table.nodes.*shape", lambda: arrays.update({"table.nodes": arrays["table.nodes"][:, :9]})
    yield "weight_0.*not finite", lambda: arrays["fitting.0.weight_0"].fill_(torch.nan)
    yield "format version 99.*update", lambda: header.update(format_version=99)
    yield "format version 0", lambda: header.update(format_version=0)
    yield "'grid' is missing", lambda: header.pop("grid")
    yield "sel and type_map", lambda: header.update(sel=[1, 2, 3])
    yield "expected a number", lambda: header["grid"].update(start="far")
    yield "unknown type se_e3", lambda: header["config"]["descriptor"].update(type="se_e3")
    yield (
        "activation function sin",
        lambda: header["config"]["fitting_net"].update(activation_function="sin"),
    )
    yield "repulsion.r_in.*shape", lambda: arrays.update({"repulsion.r_in": torch.ones(2, 2)})
    yield "dstd", lambda: arrays["dstd"].zero_()


@pytest.mark.parametrize("case", range(13))
def test_says_what_is_wrong(case, tmp_path):
    arrays, metadata = contents(SILICON)
    header = json.loads(metadata["deepmd_lite"])
    words, change = list(changed(arrays, header))[case]
    change()
    save_file(
        {k: v.contiguous() for k, v in arrays.items()},
        tmp_path / "model.dpl",
        {"deepmd_lite": json.dumps(header)},
    )
    with pytest.raises(Refused, match=words) as refused:
        ForceField(tmp_path / "model.dpl")
    assert str(refused.value).startswith(str(tmp_path / "model.dpl"))
    assert refused.value.status == DPL_FILE


def test_says_what_is_no_model(tmp_path):
    path = tmp_path / "model.dpl"
    with pytest.raises(Refused, match="cannot be opened"):
        ForceField(path)
    for content in (b"", b"abc", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04" * 50):
        path.write_bytes(content)
        with pytest.raises(Refused, match="not a model file of deepmd_lite"):
            ForceField(path)
    whole = SILICON.read_bytes()
    for length in (2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Refused, match=r"ends within its header|truncated"):
            ForceField(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(Refused, match="not a model of deepmd_lite"):
        ForceField(path)
    with pytest.raises(Refused, match="precision"):
        ForceField(SILICON, 5)


@pytest.mark.parametrize(
    "text", ["[" + "0," * 1_100_000, "{" + "".join(f'"{k}":0,' for k in range(1_100_000))]
)
def test_a_header_without_end_takes_no_memory_or_time_without_end(text, tmp_path):
    header = ('{"a": ' + text).encode()
    path = tmp_path / "model.dpl"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    began = time.monotonic()
    with pytest.raises(Refused, match="too many values"):
        ForceField(path)
    assert time.monotonic() - began < 60


def test_a_changed_bit_is_seen_by_c_and_python(tmp_path):
    """Wherever it is: in a number of the model, of its reference frame, or of the header."""
    path = tmp_path / "model.dpl"
    save_model(random_potential(("H", "O")), path)
    ForceField(path)
    load_model(path)
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    min_distance = whole.index(b"min_distance") + len(b'min_distance\\": ')
    spread = np.random.default_rng(0).integers(begin, len(whole), 20)
    for place in (min_distance, begin, len(whole) - 1, *map(int, spread)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(Refused, match="is damaged: the checksum"):
            ForceField(path)
        with pytest.raises(ModelFileError, match="is damaged: the checksum"):
            load_model(path)


def test_names_that_are_not_ascii(tmp_path):
    """JSON escapes them."""
    arrays, metadata = contents(SILICON)
    header = json.loads(metadata["deepmd_lite"])
    header["config"]["type_map"] = ['Sé\u20ac\U0001f600"\\\n']
    save_file(arrays, tmp_path / "model.dpl", {"deepmd_lite": json.dumps(header)})
    assert ForceField(tmp_path / "model.dpl").elements == header["config"]["type_map"]
