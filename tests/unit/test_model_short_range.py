"""The short-range table of a model: keys of the input, file of the model, energy bias."""

import numpy as np
import pytest
import torch
from ase import Atoms
from model_files import rewrite
from models import (
    environment_of,
    random_atoms,
    random_potential,
    short_range_potential,
    write_pair_table,
)

from deepmd_lite.certify import curves
from deepmd_lite.interop import convert
from deepmd_lite.model import ModelConfig, Potential, load_model, save_model
from deepmd_lite.model.statistics import statistics_from
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError, ModelFileError

KEYS = {"type_map": ["H", "O"], "use_srtab": "t.txt", "sw_rmin": 0.5, "sw_rmax": 1.0}


def test_the_keys_and_their_defaults():
    config = parse(ModelConfig, KEYS, "x")
    assert (config.smin_alpha, config.srtab_add_bias, config.repulsion) == (0.1, True, None)
    assert parse(ModelConfig, {**KEYS, "repulsion": None}, "x").repulsion is None
    assert parse(ModelConfig, {**KEYS, "repulsion": False}, "x").repulsion is None
    without = parse(ModelConfig, {"type_map": ["H"], "smin_alpha": 0.2}, "x")
    assert without.repulsion == "zbl"
    assert "model/smin_alpha is ignored: there is no use_srtab" in without.notes()
    assert not any("srtab" in note for note in config.notes())
    for off in ("", None, False):
        assert parse(ModelConfig, {**KEYS, "use_srtab": off}, "x").use_srtab is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repulsion": "zbl"}, "use_srtab and repulsion both say what close atoms do; choose one"),
        ({"sw_rmin": None}, "use_srtab needs sw_rmin and sw_rmax"),
        ({"sw_rmax": None}, "use_srtab needs sw_rmin and sw_rmax"),
        ({"sw_rmax": 0.5}, "sw_rmin < sw_rmax <= descriptor/rcut, found 0.5, 0.5 and 6"),
        ({"sw_rmax": 6.5}, "sw_rmin < sw_rmax <= descriptor/rcut"),
        ({"smin_alpha": 0.0}, "smin_alpha"),
        ({"sw_rmin": -1.0}, "sw_rmin"),
        ({"use_srtab": 3}, "use_srtab"),
    ],
)
def test_keys_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message) as error:
        parse(ModelConfig, {**KEYS, **change}, "input.json: model")
    assert "\n" not in str(error.value)


def close_atoms(model):
    atoms = random_atoms("H8O8", 6.0, 3)
    atoms.rattle(0.4, seed=4)
    return environment_of(atoms, model.type_map, model.rcut).env


def test_the_bias_of_the_table_is_that_of_the_elements(tmp_path):
    write_pair_table(tmp_path / "t.txt", 2)
    env = environment_of(random_atoms("H8O8", 7.0, 3), ["H", "O"], 6.0).env
    other = random_potential(("H", "O")).config.model_copy(update={"repulsion": None})
    for added in (True, False):
        keys = {**KEYS, "use_srtab": str(tmp_path / "t.txt"), "srtab_add_bias": added}
        config = parse(ModelConfig, keys, "x")
        found = statistics_from([(env, -30.0)], config)
        expected = found.energy_bias if added else torch.zeros(2, dtype=torch.float64)
        assert torch.equal(found.short_range.bias, expected)
        model = short_range_potential(srtab_add_bias=added)
        before, own = model.evaluate(close_atoms(model)), model.short_range.bias.clone()
        value = 1 - model.short_range.weights(close_atoms(model))
        shift = torch.tensor([1.5, -0.25], dtype=torch.float64)
        model.set_energy_bias(model.energy_bias + shift)
        assert torch.allclose(model.short_range.bias, own + shift * added)
        after = model.evaluate(close_atoms(model))
        of_atom = shift[close_atoms(model).types[: len(value)].long()]
        share = 1.0 if added else 1 - value
        torch.testing.assert_close(after.energies - before.energies, share * of_atom)
        assert torch.allclose(after.forces, before.forces) == added
    with pytest.raises(InputError, match=r"model/use_srtab is .*t\.txt, but the statistics lack"):
        Potential(config, statistics_from([(env, -30.0)], other))


def test_the_file_holds_it(tmp_path):
    written = short_range_potential()
    save_model(written, tmp_path / "model.dpl")
    loaded = load_model(tmp_path / "model.dpl")
    env = close_atoms(loaded)
    assert torch.equal(loaded.evaluate(env).forces, written.evaluate(env).forces)
    assert torch.equal(loaded.evaluate(env).energies, written.evaluate(env).energies)
    assert loaded.short_range.summary(loaded.type_map) == (
        "table of 3 pairs from 0.05 to 4.5 Å instead of the networks inside 0.9 Å, none outside "
        "1.7 Å (smin_alpha 0.15 Å)"
    )
    loaded.to_precision("float32")
    single = loaded.evaluate(env)
    assert float((single.forces - written.evaluate(env).forces).abs().max()) < 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, a: a.pop("short_range.bias"), r"'short_range\.bias' is missing"),
        (lambda h, a: a.pop("short_range.coefficients"), r"'short_range\.coefficients' is missing"),
        (lambda h, a: a["short_range.grid"].fill_(-1.0), "expected start >= 0"),
        (lambda h, a: a["short_range.coefficients"][0, 1].add_(1.0), "depend on its order"),
        (lambda h, a: a["short_range.coefficients"].fill_(torch.nan), "not finite"),
        (lambda h, a: a.update({"short_range.grid": torch.ones(3).double()}), "has shape"),
        (
            lambda h, a: a.update({"short_range.coefficients": torch.ones(2, 2, 0, 4).double()}),
            "has shape",
        ),
        (lambda h, a: h["config"].update(use_srtab=None), r"unexpected array 'short_range\."),
        (lambda h, a: h["config"].update(sw_rmax=0.1), "sw_rmin < sw_rmax"),
        (lambda h, a: h["config"].update(repulsion="zbl"), "choose one"),
    ],
)
def test_altered_files_are_one_clear_line(change, message, tmp_path):
    path = tmp_path / "model.dpl"
    save_model(short_range_potential(), path)
    rewrite(path, change)
    with pytest.raises(ModelFileError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_there_is_no_way_out(tmp_path):
    model = short_range_potential()
    save_model(model, tmp_path / "model.dpl")
    with pytest.raises(InputError, match=r"model\.dpl: the model has a short-range table"):
        convert(tmp_path / "model.dpl", tmp_path / "model.dp")


def test_notes_where_energies_jump(tmp_path):
    assert short_range_potential().short_range.notes() == []
    (wide,) = short_range_potential(smin_alpha=0.4).short_range.notes()
    assert wide.startswith("smin_alpha 0.4 Å is large: the switch to the short-range table jumps")
    model = short_range_potential()
    model.short_range.coefficients[..., 0] += 2.0
    (open_end,) = model.short_range.notes()
    assert open_end.startswith("the short-range table does not end at 0: pairs lose 2 eV at 4.5 Å")


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_inside_its_reach_the_table_alone_counts(alpha):
    model = short_range_potential(("H",), smin_alpha=alpha)
    reach = model.short_range.reach
    assert reach < model.short_range.sw_rmin
    spread = 1.3 * alpha  # where others raise the soft minimum most
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    positions = [[0, 0, 0], [reach, 0, 0], *((reach + spread) * corners)]
    atoms = Atoms("H6", positions=positions)
    weights = model.short_range.weights(environment_of(atoms, ["H"], model.rcut).env)
    assert float(weights[0]) < 1e-2
    none_but_one = environment_of(atoms[:3], ["H"], model.rcut).env
    assert float(model.short_range.weights(none_but_one)[0]) == 0.0


def test_a_table_that_is_cut_inside_the_switch_fails_its_check():
    model = short_range_potential()
    assert [v.state for v in curves.smoothness(model)] == ["ok"] * 3
    cut = model.short_range.coefficients[:, :, :20].contiguous()
    model.short_range.coefficients = cut  # it ends at 1.05 Å
    *others, verdict = curves.smoothness(model)
    assert [v.state for v in others] == ["ok"] * 2
    assert verdict.state == "FAILED"
    assert "at 1.050 Å" in verdict.words
