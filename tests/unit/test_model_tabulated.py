"""An embedding that is a table behaves as the networks it was made of."""

import numpy as np
import pytest
import torch
from model_files import rewrite
from models import environment_of, random_atoms, random_potential
from safetensors.torch import load_file

from deepmd_lite.model import Potential, Statistics, load_model, refine_table, save_model
from deepmd_lite.model.statistics import Scales
from deepmd_lite.model.table import Grid
from deepmd_lite.model.tabulated import TabulatedEmbedding
from deepmd_lite.system import InputError, ModelFileError


def tabulated_twin(potential: Potential, spacing: float) -> Potential:
    """The same with a fine table in the place of the embedding's networks."""
    own = potential.descriptor
    grid = Grid.covering(own.grid.start, float(own.grid.nodes()[-1]), spacing)
    nodes = torch.stack(own.embedding.jet(grid.nodes()), dim=2)
    scales = [Scales(own.davg, own.dstd, own.sel)]
    bias, nearest = potential.energy_bias, potential.min_distance
    statistics = Statistics(scales, bias, nearest, potential.repulsion)
    twin = Potential(
        potential.config,
        statistics,
        seed=None,
        grids=[own.grid],
        embeddings=[TabulatedEmbedding.on_grid(grid, nodes)],
    )
    twin.fitting = potential.fitting
    return twin.freeze()


@pytest.mark.parametrize("one_side", [True, False])
def test_it_gives_what_the_networks_give(one_side):
    potential = random_potential(("O", "H"), one_side=one_side)
    twin = tabulated_twin(potential, 0.01)
    own, other = potential.descriptor, twin.descriptor
    s = torch.linspace(own.grid.start, float(own.grid.nodes()[-1]), 777)
    jets = zip(own.embedding.jet(s), other.embedding.jet(s), strict=True)
    for order, (ours, theirs) in enumerate(jets):
        assert (ours - theirs).abs().max() < (1e-13, 1e-11, 1e-8)[order]
    atoms = random_atoms("O8H8", 7.0, 5)
    env = environment_of(atoms, ["O", "H"], potential.rcut).env
    found, expected = twin.evaluate(env), potential.evaluate(env)
    torch.testing.assert_close(found.energies, expected.energies, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)
    positions = env.positions
    exact = potential.exact_energies(env, positions)
    torch.testing.assert_close(twin.exact_energies(env, positions), exact, rtol=0, atol=1e-12)


def test_derivatives_are_those_of_the_value():
    potential = random_potential(("Si",))
    embedding = tabulated_twin(potential, 0.3).descriptor.embedding
    low, high = potential.descriptor.grid.start, float(potential.descriptor.grid.nodes()[-1])
    s = torch.linspace(low - 1.0, high + 1.0, 301, dtype=torch.float64, requires_grad=True)
    value, slope, curvature = embedding.jet(s)
    for m in range(3):
        (first,) = torch.autograd.grad(value[0, :, m].sum(), s, retain_graph=True)
        (second,) = torch.autograd.grad(slope[0, :, m].sum(), s, retain_graph=True)
        torch.testing.assert_close(first, slope[0, :, m])
        torch.testing.assert_close(second, curvature[0, :, m])


def test_it_is_smooth_at_its_knots_and_ends():
    embedding = tabulated_twin(random_potential(("Si",)), 0.5).descriptor.embedding
    knots = embedding._knots[0]
    for before, after in zip(embedding.jet(knots - 1e-9), embedding.jet(knots), strict=True):
        assert (before - after).abs().max() < 1e-7


def test_save_and_load(tmp_path):
    potential = random_potential(("O", "H"), precision="float32")
    twin = tabulated_twin(potential, 0.05)
    env = environment_of(random_atoms("O8H8", 7.0, 5), ["O", "H"], twin.rcut).env
    error = refine_table(twin, env)
    assert error["force_ev_per_a"] < 1e-6
    save_model(twin, tmp_path / "m.dpl")
    loaded = load_model(tmp_path / "m.dpl")
    assert isinstance(loaded.descriptor.embedding, TabulatedEmbedding)
    assert torch.equal(loaded.descriptor.coefficients(), twin.freeze().descriptor.coefficients())
    again = load_model(tmp_path / "m.dpl", "float64")
    own, other = again.descriptor, twin.descriptor
    nodes = own.grid.nodes()
    for ours, theirs in zip(own.embedding.jet(nodes), other.embedding.jet(nodes), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match="cannot be trained"):
        loaded.descriptor.embedding_networks()


def test_files_with_other_tables_are_refused(tmp_path):
    save_model(tabulated_twin(random_potential(("Si",)), 0.05), tmp_path / "m.dpl")
    nodes = load_file(tmp_path / "m.dpl")["embedding.nodes"]
    for damaged in (nodes[:, :-1], nodes[..., :-1], nodes * np.nan, nodes.to(torch.int32)):
        other = {"embedding.nodes": damaged.contiguous()}
        rewrite(tmp_path / "m.dpl", lambda _, x, new=other: x.update(new), tmp_path / "damaged.dpl")
        with pytest.raises(ModelFileError, match=r"embedding\.nodes"):
            load_model(tmp_path / "damaged.dpl")
