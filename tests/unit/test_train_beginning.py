"""Elements of a family begin with the same weights."""

import pytest
import torch
from models import environment_of, random_atoms

from deepmd_lite.elements import family
from deepmd_lite.model import ModelConfig, Potential, statistics_from
from deepmd_lite.training.beginning import begin
from deepmd_lite.training.config import TrainingConfig
from deepmd_lite.training.together import families_of

TYPES = ["Cu", "O", "Al", "S"]


def new_potential(one_side, kind="se_e2_a"):
    """Weights before and after the beginning, with the environment that it saw."""
    descriptor = {"rcut": 4.5, "rcut_smth": 1.0, "neuron": [6, 12], "axis_neuron": 4}
    descriptor |= {"type": kind, "sel": [60] * 4, "type_one_side": one_side}
    config = ModelConfig(type_map=TYPES, descriptor=descriptor, fitting_net={"neuron": [8, 8]})
    env = environment_of(random_atoms("Cu5O6Al4S5", 8.0, 1), TYPES, 4.5).env
    return Potential(config, statistics_from([(env, -16.0)], config), seed=1), env


def training(**keys):
    return TrainingConfig(training_data={"systems": "x"}, numb_steps=1, **keys)


def networks(potential):
    """The weights of each element's fitting network, and of each pair's embedding."""
    fitting = [torch.cat([p.flatten() for p in f.parameters()]) for f in potential.fitting]
    weights = [w.flatten(1) for w in potential.descriptor.embedding.parameters()]
    return fitting, torch.cat(weights, dim=1)


def test_families_are_metals_and_columns_of_non_metals():
    assert families_of(["Cu", "O", "Al", "S", "Cl", "F", "H", "Na"]) == [
        *([0, 2, 7], [1, 3], [4, 5], [6])
    ]
    assert families_of(["Cu", "Al"], alike=False) == [[0], [1]]
    assert families_of(["Cu_1", "Cu_2", "X"]) == [[0], [1], [2]]  # no elements
    assert family("Cu") == family("Pb") != family("C") == family("Si")


@pytest.mark.parametrize("kind", ["se_e2_a", "se_e2_r", "se_e2_q"])
def test_those_of_a_family_have_the_same_weights(kind):
    potential, env = new_potential(True, kind)
    begin(potential, training(), env)
    fitting, embedding = networks(potential)
    for those in fitting, embedding:
        assert torch.equal(those[0], those[2])
        assert torch.equal(those[1], those[3])
        assert not torch.isclose(those[0], those[1]).all()
    paces = [f.pace for f in potential.fitting]
    assert paces[0] == paces[2] > 1
    assert paces[1] == paces[3] > 1


def test_embeddings_of_pairs_are_those_of_both_families():
    potential, env = new_potential(False)
    begin(potential, training(), env)
    _, embedding = networks(potential)
    of = embedding.view(4, 4, -1)
    assert torch.equal(of[0, 1], of[2, 3])
    assert torch.equal(of[0, 1], of[2, 1])
    assert torch.equal(of[3, 2], of[1, 0])
    assert not torch.equal(of[0, 1], of[1, 0])
    assert not torch.equal(of[0, 0], of[0, 1])


def test_each_by_itself_where_the_input_says_so():
    potential, env = new_potential(True)
    begin(potential, training(alike_elements=False), env)
    fitting, embedding = networks(potential)
    assert not torch.isclose(fitting[0], fitting[2]).all()
    assert not torch.isclose(embedding[1], embedding[3]).all()
    assert len({f.pace for f in potential.fitting}) == 4
