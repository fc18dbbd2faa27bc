"""DeePMD-kit's models with a short-range table: their tree, and what cannot be expressed."""

import copy

import numpy as np
import pytest
import torch
from golden_files import GOLDEN, read, unpacked
from test_interop_files import golden_tree

from deepmd_lite.interop import convert, potential_from_tree
from deepmd_lite.interop.dp_file import read_dp, write_dp, write_yaml
from deepmd_lite.model import load_model
from deepmd_lite.system import ModelFileError

DP = GOLDEN.parent / "short_range.dp"


def parts(potential):
    return {**potential.state_dict(), "sel": torch.tensor(potential.descriptor.sel)}


@pytest.mark.parametrize("name", ["srtab.pth", "srtab.pt"])
def test_an_archive_holds_what_deepmd_kit_serialises(name, tmp_path):
    ours = potential_from_tree(read(unpacked(name, tmp_path)), name)
    theirs = potential_from_tree(golden_tree("srtab.pth"), "theirs")
    found, expected = parts(ours), parts(theirs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert ours.config == theirs.config
    assert ours.config.use_srtab == "open.tab"


def test_radii_of_a_graph_are_those_that_it_computes_with(tmp_path):
    model = potential_from_tree(read(unpacked("srtab.pb", tmp_path)), "x")
    part = model.short_range
    for found, given in ((part.smin_alpha, 0.08), (part.sw_rmin, 0.7), (part.sw_rmax, 1.15)):
        assert found == float(np.float32(given)) != given
    assert torch.equal(part.bias, model.energy_bias)
    without = potential_from_tree(read(unpacked("srtab_radial.pb", tmp_path)), "x")
    assert without.config.srtab_add_bias is False
    assert not without.short_range.bias.any()
    assert without.energy_bias.all()


def test_the_embedding_is_there_as_far_as_it_counts(tmp_path):
    potential, notes = convert(DP, tmp_path / "model.dpl")
    part = potential.short_range
    assert part.smin_alpha == 0.13
    assert potential.table_min_distance() == pytest.approx(part.reach)
    assert part.reach == pytest.approx(0.75 - 0.7 * 0.13)
    assert potential.repulsion is None
    assert any("instead of the networks inside 0.75 Å, none outside 1.2 Å" in n for n in notes)


def test_yaml_as_well(tmp_path):
    write_yaml(tmp_path / "model.yaml", read_dp(DP))
    found = convert(tmp_path / "model.yaml", tmp_path / "a.dpl")[0]
    expected = convert(DP, tmp_path / "b.dpl")[0]
    assert torch.equal(found.short_range.coefficients, expected.short_range.coefficients)
    a, b = (load_model(tmp_path / name) for name in ("a.dpl", "b.dpl"))
    assert all(torch.equal(x, b.state_dict()[key]) for key, x in a.state_dict().items())


def test_the_way_out_is_one_clear_line(tmp_path):
    convert(DP, tmp_path / "model.dpl")
    with pytest.raises(ValueError, match="only beside descriptors with a type embedding"):
        convert(tmp_path / "model.dpl", tmp_path / "back.dp")


def test_tensorflow_mistakes_elements_where_they_share_a_descriptor(tmp_path):
    """Each neighbour is the first element to its table: nothing to be expressed."""
    with pytest.raises(ModelFileError, match=r"as the first element.*se_atten"):
        read(unpacked("srtab_mixed.pb", tmp_path))


def test_a_table_that_convert_backend_has_lost(tmp_path):
    """That of DeePMD-kit's TensorFlow writes the networks alone."""
    tree = read(unpacked("srtab.pb", tmp_path))
    lost = {**tree, "model": tree["model"]["models"][0]}
    with pytest.raises(ModelFileError, match=r"'open\.tab' .*but the file holds none.*the \.pb"):
        potential_from_tree(lost, "lost.dp")


def pairs(model):
    return model["models"][1]


def variables(model):
    return pairs(model)["tab"]["@variables"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(models=m["models"][:1]), "model/models: expected a list of 2"),
        (lambda m: m.update(models=[None, pairs(m)]), "model/models: expected the networks'"),
        (lambda m: m.update(models=m["models"][::-1]), "type: 'standard' is not supported"),
        (lambda m: pairs(m).update(type="linear"), "type: 'linear' is not supported"),
        (lambda m: pairs(m).update(type_map=["H", "O"]), "type_map: differs from that of the"),
        (lambda m: pairs(m).update(rcut=3.9), "rcut: differs from that of the descriptor"),
        (lambda m: m.update(pair_exclude_types=[[0, 1]]), r"pair_exclude_types: .*not supported"),
        (lambda m: m.update({"@version": 9}), "@version"),
        (lambda m: m.pop("sw_rmin"), "sw_rmin: the key is missing"),
        (lambda m: m.update(sw_rmin=2.0), "sw_rmin < sw_rmax <= descriptor/rcut"),
        (lambda m: m.update(smin_alpha=None), "smin_alpha: expected a number"),
        (lambda m: variables(m)["tab_info"].__setitem__(3, 3), "expected first .* 2 types, found"),
        (lambda m: variables(m)["tab_info"].__setitem__(1, 0), "expected first distance, spacing"),
        (lambda m: variables(m)["tab_info"].__setitem__(2, 7), "tab_data: expected an array of"),
        (lambda m: variables(m)["tab_info"].__setitem__(2, np.nan), "not finite"),
        (lambda m: variables(m)["tab_data"].__setitem__(-500, 9), "depend on its order"),
        (lambda m: variables(m).pop("tab_data"), "tab_data: the key is missing"),
    ],
)
def test_trees_that_are_refused(change, message, tmp_path):
    tree = copy.deepcopy(read_dp(DP))
    change(tree["model"])
    with pytest.raises(ModelFileError, match=message) as error:
        potential_from_tree(tree, "model.dp")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("model.dp: ")
    write_dp(tmp_path / "model.dp", read_dp(DP))  # the file itself is sound
    assert potential_from_tree(read_dp(tmp_path / "model.dp"), "x").short_range is not None
