"""Where the repulsion of a model begins, and how input, statistics and file hold it."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from model_files import rewrite
from models import environment_of, random_atoms, random_potential

from deepmd_lite.model import ModelConfig, Potential, Repulsion, load_model, save_model
from deepmd_lite.model.repulsion import DATA_REACH, INNER
from deepmd_lite.model.statistics import smallest_distances, statistics_from
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError, ModelFileError


def test_radii_end_where_the_data_begin():
    distances = torch.tensor([[1.4, 0.9], [0.9, torch.inf]], dtype=torch.float64)
    repulsion = Repulsion.beyond_data(["H", "O"], distances, 6.0)
    h, o = covalent_radii[1], covalent_radii[8]
    expected = [[2 * h, DATA_REACH * 0.9], [DATA_REACH * 0.9, 2 * o]]
    np.testing.assert_allclose(repulsion.r_out, expected, rtol=1e-15)
    np.testing.assert_allclose(repulsion.r_in, INNER * np.array(expected), rtol=1e-15)
    assert repulsion.atomic_numbers.tolist() == [1.0, 8.0]
    assert repulsion.summary(["H", "O"]) == "H-H 0.62 Å, H-O 0.85 Å, O-O 1.32 Å"
    short = Repulsion.beyond_data(["H", "O"], distances, 1.0)
    assert float(short.r_out.max()) == 1.0


def test_what_is_no_element_needs_a_model_without_repulsion():
    distances = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(InputError, match=r"null leaves it out\): 'Ow' is not a chemical element"):
        Repulsion.beyond_data(["H", "Ow"], distances, 6.0)


def test_smallest_distances_of_every_pair_over_all_frames():
    type_map = ["H", "O", "Ar"]
    frames = [random_atoms("H8O4", 7.0, seed) for seed in (1, 2)]
    frames.append(Atoms("HAr", positions=[[0, 0, 0], [0, 0, 2.5]]))
    frames.append(Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4.1]]))  # out of reach
    frames.append(Atoms("O"))
    envs = [environment_of(atoms, type_map, 4.0).env for atoms in frames]
    found = smallest_distances(envs, 3, 4.0)
    expected = np.full((3, 3), np.inf)
    for atoms in frames:
        r = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
        for i in range(len(atoms)):
            for j in range(len(atoms)):
                a, b = type_map.index(atoms.symbols[i]), type_map.index(atoms.symbols[j])
                if i != j and r[i, j] < 4.0:
                    expected[a, b] = min(expected[a, b], r[i, j])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[2, 2] == found[1, 2] == np.inf

    config = ModelConfig(type_map=type_map, descriptor={"rcut": 4.0, "rcut_smth": 1.0})
    statistics = statistics_from([(env, None) for env in envs], config)
    assert statistics.min_distance == float(found.min())
    chosen = Repulsion.beyond_data(type_map, found, 4.0)
    assert torch.equal(statistics.repulsion.r_out, chosen.r_out)


def test_data_are_not_touched():
    model = random_potential(("H", "O"))
    env = environment_of(random_atoms("H8O8", 7.0, 3), model.type_map, model.rcut).env
    repelled = model.evaluate(env)
    model.repulsion = None
    network = model.evaluate(env)
    assert torch.equal(repelled.energies, network.energies)
    assert torch.equal(repelled.forces, network.forces)


@pytest.mark.parametrize(("given", "found"), [("zbl", "zbl"), (None, None), (False, None)])
def test_the_key(given, found):
    config = parse(ModelConfig, {"type_map": ["H"], "repulsion": given}, "input.json: model")
    assert config.repulsion == found
    assert parse(ModelConfig, {"type_map": ["H"]}, "x").repulsion == "zbl"


@pytest.mark.parametrize("given", ["zlb", True, 1.5])
def test_a_value_that_is_no_repulsion(given):
    with pytest.raises(InputError, match=r"input\.json: model: key 'repulsion'"):
        parse(ModelConfig, {"type_map": ["H"], "repulsion": given}, "input.json: model")


def test_statistics_must_hold_what_the_configuration_says():
    model = random_potential()
    config = model.config.model_copy(update={"repulsion": None})
    env = environment_of(random_atoms("Si8", 7.0, 3), ["Si"], model.rcut).env
    with pytest.raises(InputError, match="model/repulsion is zbl, but the statistics lack"):
        Potential(model.config, statistics_from([(env, None)], config))
    with pytest.raises(InputError, match="model/repulsion is null, but the statistics hold"):
        Potential(config, statistics_from([(env, None)], model.config))


@pytest.fixture(name="saved")
def _saved(tmp_path):
    path = tmp_path / "model.dpl"
    save_model(random_potential(("H", "O")), path)
    return path


def close_pair(model):
    return environment_of(
        Atoms("HO", positions=[[0, 0, 0], [0.3, 0, 0]]), model.type_map, model.rcut
    ).env


def test_the_file_holds_it(saved):
    written, loaded = random_potential(("H", "O")), load_model(saved)
    env = close_pair(loaded)
    found = loaded.evaluate(env)
    assert torch.equal(found.energies, written.evaluate(env).energies)
    written.repulsion = None
    assert float((found.energies - written.evaluate(env).energies).sum()) > 50.0


def test_a_file_of_version_1_has_none(saved):
    def older(header, arrays):
        header["format_version"] = 1
        del header["config"]["repulsion"]
        for name in [n for n in arrays if n.startswith("repulsion.")]:
            del arrays[name]

    model = load_model(saved)
    rewrite(saved, older)
    loaded = load_model(saved)
    assert loaded.repulsion is None
    assert loaded.config.repulsion is None
    model.repulsion = None
    env = close_pair(loaded)
    assert torch.equal(loaded.evaluate(env).forces, model.evaluate(env).forces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, a: a.pop("repulsion.r_out"), r"'repulsion\.r_out' is missing"),
        (lambda h, a: a["repulsion.r_out"].fill_(0.0), "expected atomic numbers"),
        (lambda h, a: a["repulsion.r_in"].fill_(-1.0), "expected atomic numbers"),
        (lambda h, a: a["repulsion.r_out"][0, 1].add_(0.1), "expected atomic numbers"),
        (lambda h, a: a["repulsion.atomic_numbers"].fill_(0.0), "expected atomic numbers"),
        (lambda h, a: a["repulsion.r_out"].fill_(torch.inf), "not finite"),
        (lambda h, a: a.update({"repulsion.r_in": torch.zeros(2)}), "has shape|expected"),
        (lambda h, a: h["config"].update(repulsion=None), r"unexpected array 'repulsion\."),
    ],
)
def test_altered_radii_are_one_clear_line(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ModelFileError, match=message) as error:
        load_model(saved)
    assert "\n" not in str(error.value)
