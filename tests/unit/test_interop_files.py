"""Files of DeePMD-kit's two backends: the trees and numbers that it makes of them itself."""

import json
import lzma
import re
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from golden_files import GOLDEN, read, unpacked

from deepmd_lite.cli import main
from deepmd_lite.interop import convert, potential_from_tree
from deepmd_lite.interop.convert import READERS, WRITERS
from deepmd_lite.interop.dp_file import read_dp
from deepmd_lite.model import load_model
from deepmd_lite.model.file import FOREIGN
from deepmd_lite.neighbors import periodic_env
from deepmd_lite.system import InputError
from deepmd_lite.training import train

PLAIN = ["two_sided.pb", "one_sided.pb", "single.pb", "two_sided.pth", "two_sided.pt"]
RADIAL = ["radial.pb", "radial_two_sided.pb", "radial.pth"]
FPARAM = ["fparam.pb", "fparam.pth"]
HYBRID = ["hybrid.pb", "hybrid.pth"]
TYPE_EMBEDDING = ["type_embedding.pb", "mixed.pb", "stripped.pb", "faded.pb"]
COMPRESSED = [
    *("one_sided_compressed.pb", "excluded_compressed.pb", "one_sided_compressed.pth"),
    *("radial_compressed.pb", "stripped_compressed.pb"),
    *("faded_compressed.pb", "faded_compressed.pth", "hybrid_compressed.pb"),
]
SHORT_RANGE = [
    *("srtab.pb", "srtab_compressed.pb", "srtab_radial.pb", "srtab_hybrid.pb"),
    *("srtab.pth", "srtab.pt"),
]
OF_THE_FILE = {"software", "version", "time", "tf_version", "pt_version", "training_script"}
"""Keys that speak of the conversion, not of the model."""


def test_every_suffix_of_a_foreign_model_has_a_reader():
    assert READERS.keys() == set(FOREIGN)
    assert WRITERS.keys() < set(FOREIGN)


def golden_tree(name: str):
    def arrays(value):
        if isinstance(value, dict) and set(value) == {"dtype", "shape", "values"}:
            return np.array(value["values"], value["dtype"]).reshape(value["shape"])
        if isinstance(value, dict):
            return {k: arrays(v) for k, v in value.items()}
        return [arrays(v) for v in value] if isinstance(value, list) else value

    return arrays(json.loads(lzma.decompress((GOLDEN / f"{name}.json.xz").read_bytes())))


def differences(ours, theirs, place=""):
    """Names of the leaves that are not the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in (ours.keys() | theirs.keys()) - OF_THE_FILE:
            if key in ours and key in theirs:
                yield from differences(ours[key], theirs[key], f"{place}/{key}")
            else:
                yield f"{place}/{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(a, b, f"{place}/{k}")
    elif isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray):
        if ours.dtype != theirs.dtype or not np.array_equal(ours, theirs):
            yield place
    elif type(ours) is not type(theirs) or ours != theirs:
        yield place


@pytest.mark.parametrize("name", [*PLAIN, *RADIAL, *FPARAM, *HYBRID])
def test_the_tree_is_that_of_deepmd_kit(name, tmp_path):
    ours, theirs = read(unpacked(name, tmp_path)), golden_tree(name)
    if name.endswith(".pb"):
        # the graph computes with cutoffs in float32, its script has them in decimals; and a graph
        # without statistics of neighbours has no '@variables' there
        descriptor = ours["model"]["descriptor"]
        for part in descriptor.get("list", [descriptor]):
            rcut = 3.6 if sum(part["sel"]) == 42 else 2.9
            assert part["rcut"] == part["env_mat"]["rcut"] == float(np.float32(rcut))
            part["rcut"] = part["env_mat"]["rcut"] = rcut
        for part in descriptor.get("list", ()):
            part["type_map"] = None  # its TensorFlow does not tell the parts of a hybrid
        assert ours.pop("@variables") == {}
        assert "loss" in ours["training_script"]
    assert list(differences(ours, theirs)) == []


def test_a_compressed_archive_has_its_networks(tmp_path):
    ours, theirs = (
        read(unpacked("one_sided_compressed.pth", tmp_path)),
        golden_tree("one_sided.pth"),
    )
    distance = ours.pop("@variables")["min_nbor_dist"]
    theirs.pop("@variables")
    assert distance == pytest.approx(1.2375425)
    assert ours.pop("compressed") is True
    assert list(differences(ours, theirs)) == []


@pytest.mark.parametrize(
    ("name", "told"), [("one_sided_compressed.pth", True), ("two_sided.pth", False)]
)
def test_a_compression_that_is_wrong_is_told(tmp_path, monkeypatch, name, told):
    """DeePMD-kit's PyTorch compresses embeddings with resnet_dt to other energies."""
    source, target = unpacked(name, tmp_path), tmp_path / "model.dpl"
    assert not any("wrong tables" in note for note in convert(source, target)[1])
    module = sys.modules["deepmd_lite.interop.convert"]
    monkeypatch.setattr(module, "_has_steps", lambda potential: True)
    assert any("wrong tables" in note for note in convert(source, target)[1]) == told


def test_tables_of_a_compressed_graph(tmp_path):
    plain = golden_tree("one_sided.pb")["model"]["descriptor"]
    found = read(unpacked("one_sided_compressed.pb", tmp_path))["model"]["descriptor"]
    embeddings = found.pop("embeddings")
    assert [table["max"] for table in embeddings["tables"]] == [8.0, 8.0]
    table, network = embeddings["tables"][1], plain["embeddings"]["networks"][1]
    coefficients = table["@variables"]["coefficients"]
    assert coefficients.shape == (50 + 4, 4, 6)
    k = np.arange(50)
    y = (table["lower"] + table["stride0"] * k)[:, None]
    for layer in network["layers"]:
        weights = layer["@variables"]
        z = np.tanh(y @ weights["w"] + weights["b"])
        y = z + np.concatenate([y, y], axis=1)
    np.testing.assert_allclose(coefficients[:50, :, 0], y, atol=1e-14)
    excluded = read(unpacked("excluded_compressed.pb", tmp_path))["model"]["descriptor"]
    assert [t is None for t in excluded["embeddings"]["tables"]] == [True, False, False, False]


@pytest.mark.parametrize(
    "name",
    [*PLAIN, *RADIAL, *COMPRESSED, *FPARAM, *HYBRID, *TYPE_EMBEDDING, *SHORT_RANGE],
)
def test_converted_models_give_the_numbers_of_deepmd_kit(name, tmp_path):
    source, target = unpacked(name, tmp_path), tmp_path / "model.dpl"
    golden = np.load(GOLDEN / f"{name}.npz")
    energy, force, virial = (1e-9, 1e-8, 1e-7) if "single" not in name else (1e-6, 5e-6, 2e-5)
    for k in range(2):
        convert(source, target, fparam=golden["fparam"][k].tolist() if name in FPARAM else None)
        model = load_model(target)
        positions, cell = golden["coordinates"][k].reshape(-1, 3), golden["cells"][k].reshape(3, 3)
        frame = periodic_env(positions, cell, np.ones(3, bool), golden["types"], model.rcut)
        found = model.evaluate(frame.env)
        assert found.beyond_table == 0
        energies = found.energies.numpy()
        np.testing.assert_allclose(energies, golden["atomic_energies"][k], rtol=0, atol=energy)
        np.testing.assert_allclose(
            frame.fold(found.forces).numpy(), golden["forces"][k], rtol=0, atol=force
        )
        np.testing.assert_allclose(found.virial.numpy(), golden["virials"][k], rtol=0, atol=virial)


def test_a_model_without_networks_says_so(tmp_path, capsys):
    source = unpacked("one_sided_compressed.pb", tmp_path)
    potential, notes = convert(source, tmp_path / "model.dpl")
    assert "no training" in notes[0]
    assert main(["info", str(tmp_path / "model.dpl")]) == 0
    assert "no training" in capsys.readouterr().out
    with pytest.raises(InputError, match="table without networks"):
        potential.descriptor.embedding_networks()
    with pytest.raises(InputError, match=r"model\.dpl.*table without networks"):
        convert(tmp_path / "model.dpl", tmp_path / "model.yaml")
    assert not (tmp_path / "model.yaml").exists()


@pytest.mark.parametrize("name", ["excluded_compressed.pb", "faded.pb"])
def test_saving_a_loaded_table_keeps_it_bit_for_bit(name, tmp_path):
    from deepmd_lite.model import save_model

    convert(unpacked(name, tmp_path), tmp_path / "a.dpl")
    model = load_model(tmp_path / "a.dpl")
    save_model(model, tmp_path / "b.dpl", model.provenance)
    assert (tmp_path / "a.dpl").read_bytes() == (tmp_path / "b.dpl").read_bytes()


@pytest.mark.parametrize("name", ["type_embedding", "stripped"])
def test_dpa1_of_pytorch_is_that_of_its_portable_file(name, tmp_path):
    """NAME.pth was made of NAME.dp, whose numbers have a test elsewhere."""
    portable = GOLDEN.parent / f"{name}.dp"
    expected = potential_from_tree(read_dp(portable), str(portable))
    path = unpacked(f"{name}.pth", tmp_path)
    found = potential_from_tree(read(path), str(path))
    arrays = expected.state_dict()
    assert found.state_dict().keys() == arrays.keys()
    for key, array in found.state_dict().items():
        assert torch.equal(array, arrays[key]), key
    assert torch.equal(found.descriptor.coefficients(), expected.descriptor.coefficients())


def test_a_stripped_type_embedding_keeps_the_shared_networks(tmp_path):
    source, target = unpacked("stripped.pth", tmp_path), tmp_path / "model.dpl"
    _, notes = convert(source, target)
    assert "of the networks, which all elements share" in notes[0]
    assert main(["check", str(target), "--quick", "-q"]) == 0
    convert(target, tmp_path / "back.yaml")
    convert(tmp_path / "back.yaml", tmp_path / "again.dpl")
    one, other = (load_model(path).shared.arrays for path in (target, tmp_path / "again.dpl"))
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_a_faded_type_embedding_of_tensorflow_leaves_a_table(tmp_path):
    source, target = unpacked("faded.pb", tmp_path), tmp_path / "model.dpl"
    _, notes = convert(source, target)
    assert "of which the file keeps the table alone: no training" in notes[0]
    assert main(["check", str(target), "--quick", "-q"]) == 0
    with pytest.raises(InputError, match=r"model\.dpl.*table without networks"):
        convert(target, tmp_path / "back.yaml")


def test_a_compressed_model_cannot_begin_a_training(tmp_path):
    path = unpacked("one_sided_compressed.pb", tmp_path)
    model, _ = convert(path, tmp_path / "model.dpl")
    config = model.config.model_dump()
    frames = bulk("Cu", cubic=True)
    frames.set_chemical_symbols([*model.type_map, *[model.type_map[0]] * 4][:4])
    frames.calc = SinglePointCalculator(frames, energy=-1.0, forces=np.zeros((4, 3)))
    write(tmp_path / "train.extxyz", frames)
    given = {
        "model": config,
        "training": {
            "training_data": {"systems": [str(tmp_path / "train.extxyz")]},
            "numb_steps": 1,
            "check": False,
        },
    }
    with pytest.raises(InputError, match=r"model\.dpl: the embedding of this model is a table"):
        train(given, output=tmp_path, init_model=tmp_path / "model.dpl", quiet=True)


@pytest.mark.parametrize("name", ["two_sided.pb", "one_sided_compressed.pb"])
def test_a_converted_model_can_be_checked(name, tmp_path, capsys):
    path, target = unpacked(name, tmp_path), tmp_path / "model.dpl"
    convert(path, target)
    (frame,) = load_model(target).reference_frames
    assert frame.name == "atoms at random places"
    assert main(["check", str(target), "--quick", "-q"]) == 0
    assert "checks passed" in capsys.readouterr().out


def test_frame_parameters_are_those_given_or_the_models_own(tmp_path, capsys):
    source, target = unpacked("fparam.pth", tmp_path), tmp_path / "own.dpl"
    own, _ = convert(source, target)
    assert own.provenance["fparam"] == [0.2, 5.0]
    assert main(["info", str(target)]) == 0
    assert "[0.2, 5.0]" in capsys.readouterr().out
    assert main(["convert", str(source), str(tmp_path / "given.dpl"), "--fparam", "0.2", "5"]) == 0
    assert "fixed at fparam [0.2, 5.0]" in capsys.readouterr().out
    given, other = load_model(tmp_path / "given.dpl"), convert(source, target, fparam=[0.2, 4.0])[0]
    with pytest.raises(InputError, match=r"own\.dpl takes no frame parameters"):
        convert(target, tmp_path / "back.yaml", fparam=[0.2, 5.0])
    for name, array in own.state_dict().items():
        assert torch.equal(given.state_dict()[name], array), name
        same = torch.equal(other.state_dict()[name], array)
        assert same == (not name.endswith("bias_0") or name.startswith("embedding")), name


@pytest.mark.parametrize(
    ("name", "fparam", "message"),
    [
        ("fparam.pb", None, r"fitting/numb_fparam: 2 .*`dpl convert … --fparam X Y`"),
        ("fparam.pb", ["0.3"], r"expected 2 frame parameter\(s\).*found \[0.3\]"),
        ("fparam.pb", ["0.3", "nan"], "finite numbers"),
        ("two_sided.pb", ["0.3"], "takes no frame parameters"),
    ],
)
def test_frame_parameters_that_do_not_fit(name, fparam, message, tmp_path, capsys):
    arguments = ["convert", str(unpacked(name, tmp_path)), str(tmp_path / "m.dpl")]
    assert main(arguments + (["--fparam", *fparam] if fparam else [])) == 1
    line = capsys.readouterr().err
    assert re.search(message, line)
    assert line.count("\n") == 1
    assert not (tmp_path / "m.dpl").exists()


@pytest.mark.parametrize("tolerance", ["-1", "0", "nan", "inf"])
def test_a_tolerance_that_is_none(tolerance, tmp_path, capsys):
    path = unpacked("single.pb", tmp_path)
    arguments = ["convert", str(path), str(tmp_path / "m.dpl"), f"--tolerance={tolerance}"]
    assert main(arguments) == 1
    assert "expected a positive number" in capsys.readouterr().err
    assert not (tmp_path / "m.dpl").exists()


def test_how_many_neighbours_the_other_program_sees(tmp_path):
    for name, words in (
        ("type_embedding.pth", "sel 54 neighbours of all elements together"),
        ("two_sided.pt", "sel [14, 28] neighbours of each element"),
    ):
        _, notes = convert(unpacked(name, tmp_path), tmp_path / "x.dpl", 1e-4)
        assert any(words in note for note in notes)


def test_types_that_are_no_elements_are_told_and_named(tmp_path, capsys):
    """One to one, in the order of the model, on the way in and afterwards: the same model."""
    source = unpacked("two_sided.pb", tmp_path)
    first, own, named = (tmp_path / f"{name}.dpl" for name in ("first", "own", "named"))
    old = convert(source, first)[0].type_map
    odd = [f"{name}W" for name in old]
    potential, notes = convert(source, own, type_map=odd)
    assert potential.type_map == odd
    assert any(f"no elements: {', '.join(odd)}" in note for note in notes)
    assert main(["convert", str(own), str(named), "--type-map", *old]) == 0
    assert "named anew" in capsys.readouterr().out
    again = load_model(named)
    assert again.type_map == list(again.config.type_map) == old
    assert again.provenance["types were"] == odd
    for name, values in load_model(first).state_dict().items():
        assert torch.equal(again.state_dict()[name], values)
    for wrong in (old[:1], [old[0]] * len(old)):
        with pytest.raises(InputError, match=f"expected {len(old)} different names"):
            convert(own, named, type_map=wrong)
    with pytest.raises(InputError, match="copy the file instead"):
        convert(own, named)
    with pytest.raises(InputError, match="takes no frame parameters; leave --fparam out"):
        convert(own, named, fparam=[0.3], type_map=old)
