"""Networks, table and model file."""

import numpy as np
import pytest
import torch
from model_files import rewrite
from models import environment_of, random_atoms, random_potential
from safetensors.torch import save_file

from deepmd_lite import kernels
from deepmd_lite.model import (
    ModelConfig,
    load_model,
    read_header,
    refine_table,
    save_model,
    statistics_from,
)
from deepmd_lite.model.activations import ACTIVATIONS, VALUES
from deepmd_lite.model.networks import Embedding
from deepmd_lite.model.table import Grid, hermite_coefficients
from deepmd_lite.schema import parse
from deepmd_lite.system import InputError, ModelFileError


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_derivatives(name):
    z = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    f, d1, d2 = ACTIVATIONS[name](z)
    (g1,) = torch.autograd.grad(f.sum(), z, create_graph=True)
    torch.testing.assert_close(f, VALUES[name](z), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(d1.expand_as(g1), g1, rtol=1e-12, atol=1e-12)
    if g1.requires_grad:
        (g2,) = torch.autograd.grad(g1.sum(), z)
        torch.testing.assert_close(d2.expand_as(g2), g2, rtol=1e-12, atol=1e-12)
    else:
        assert not d2.any()


@pytest.mark.parametrize("resnet_dt", [False, True])
def test_embedding_jet_is_the_networks_derivatives(resnet_dt):
    generator = torch.Generator().manual_seed(1)
    net = Embedding(3, 1, [5, 10, 10], "tanh", resnet_dt, generator)
    s = torch.linspace(-1, 4, 7, dtype=torch.float64)
    jet = net.jet(s)
    for p in range(3):
        for k, s_k in enumerate(s):
            x = s_k.clone().requires_grad_()
            table = torch.tensor([p])
            for m in (0, 4, 9):
                value = net.values(table, x[None])[0, m]
                (d1,) = torch.autograd.grad(value, x, create_graph=True)
                (d2,) = torch.autograd.grad(d1, x)
                found = [float(order[p, k, m]) for order in jet]
                np.testing.assert_allclose(found, [float(value), float(d1), float(d2)], atol=1e-12)


def test_hermite_table_is_exact_for_a_quintic_and_smooth_at_its_end():
    from deepmd_lite.kernels.reference import table_values

    grid = Grid.covering(-1.0, 2.0, 0.5)
    assert grid.n_intervals == 6
    c = torch.tensor([0.3, -1.0, 0.5, 0.2, -0.1, 0.05], dtype=torch.float64)

    def jet(x):
        powers = torch.stack([x**k for k in range(6)])
        first = torch.stack([k * x ** max(k - 1, 0) for k in range(6)])
        second = torch.stack([k * (k - 1) * x ** max(k - 2, 0) for k in range(6)])
        return tuple((c @ p)[None, :, None] for p in (powers, first, second))

    coefficients = hermite_coefficients(jet(grid.nodes()), grid.spacing)
    x = torch.linspace(-1.0, 1.9999, 50, dtype=torch.float64)
    table = torch.zeros(len(x), dtype=torch.int64)
    values, beyond = table_values(coefficients, table, (x - grid.start) / grid.spacing)
    torch.testing.assert_close(values[:, 0], jet(x)[0][0, :, 0], rtol=0, atol=1e-13)
    assert not beyond.any()

    end = torch.tensor([2.0], dtype=torch.float64)
    value, slope, curvature = (float(d) for d in jet(end))
    x = torch.tensor([2.0, 2.3, 4.0], dtype=torch.float64)
    values, beyond = table_values(coefficients, table[:3], (x - grid.start) / grid.spacing)
    parabola = value + slope * (x - 2) + 0.5 * curvature * (x - 2) ** 2
    torch.testing.assert_close(values[:, 0], parabola, rtol=0, atol=1e-12)
    assert beyond.all()


def test_table_agrees_with_networks_and_refines_where_it_is_too_coarse():
    potential = random_potential(("H", "O"), seed=5)
    potential.requires_grad_(True)
    potential.descriptor._frozen = None
    env = environment_of(random_atoms("H8O4", 6.0, 1), potential.type_map, potential.rcut).env
    potential.descriptor.grid = Grid.covering(potential.descriptor.grid.start, 12.0, 2.0)
    coarse = potential.descriptor.grid.n_intervals
    error = refine_table(potential, env)
    assert error["force_ev_per_a"] <= 1e-6
    assert potential.descriptor.grid.n_intervals > coarse


@pytest.mark.parametrize("protection", [0.0, 0.5])
@pytest.mark.parametrize("l_max", [1, 2, 4])
def test_statistics_are_those_of_all_slots(protection, l_max):
    """Mean and deviation of s, and of the columns of a degree together, over rows of neighbours and
    of zeros."""
    descriptor = {"rcut": 4.0, "rcut_smth": 1.0, "sel": [40], "env_protection": protection}
    descriptor |= {"type": "se_e2_q", "l_max": l_max} if l_max > 1 else {"type": "se_e2_a"}
    columns = (l_max + 1) ** 2
    config = ModelConfig(type_map=["Si"], repulsion=None, descriptor=descriptor)
    env = environment_of(random_atoms("Si8", 6.0, 1), ["Si"], 4.0).env
    centre = torch.repeat_interleave(torch.arange(env.n_local), env.offsets.diff())
    vectors = env.positions[env.indices.long()] - env.positions[centre]
    rows = torch.zeros(env.n_local * 40, columns, dtype=torch.float64)
    rows[: len(vectors)] = kernels.reference.environment_rows(
        vectors, 1.0, 4.0, protection, columns
    )
    expected = [rows[:, 0].std(correction=0), *[(rows[:, 1:4] ** 2).mean().sqrt()] * 3]
    for degree in range(2, l_max + 1):
        norms = torch.tensor(kernels.reference.NORMS[degree], dtype=torch.float64)
        own = rows[:, degree**2 : (degree + 1) ** 2]
        expected += [*((own * norms) ** 2).mean().sqrt() / norms]
    found = statistics_from([(env, -1.0)], config)
    (found,) = found.scales
    torch.testing.assert_close(found.davg[0, 0], rows[:, 0].mean())
    torch.testing.assert_close(found.dstd[0], torch.stack(expected))


def test_the_energy_bias_is_fitted_by_weight():
    config = ModelConfig(type_map=["Si"], repulsion=None, descriptor={"rcut": 4.0})
    env = environment_of(random_atoms("Si8", 6.0, 1), ["Si"], 4.0).env
    frames = [(env, -8.0), (env, -16.0), (env, 8000.0)]
    found = statistics_from(frames, config, [1.0, 3.0, 0.0])
    assert found.energy_bias.item() == pytest.approx((-1.0 - 3 * 2.0) / 4, rel=1e-12)
    alone = statistics_from(frames[:2], config)
    assert alone.energy_bias.item() == pytest.approx(-1.5, rel=1e-12)


def test_rare_elements_have_their_energy_bias():
    """One atom in a hundred frames, and isolated atoms beside frames of one composition."""
    exact = {"Cu": -1000.0, "Au": -5000.0, "O": -430.0, "H": -13.0}

    def fitted(elements, formulas, rcond=None):
        settings = {"descriptor": {"rcut": 4.0}, "fitting_net": {"rcond": rcond}}
        config = ModelConfig(type_map=elements, repulsion=None, **settings)
        frames = []
        for formula in formulas:
            atoms = random_atoms(formula, 9.0, 1)
            env = environment_of(atoms, elements, 4.0).env
            frames.append((env, sum(exact[s] for s in atoms.get_chemical_symbols())))
        return statistics_from(frames, config).energy_bias.tolist()

    dilute = ["Cu32"] * 99 + ["Cu31Au"]
    isolated = ["O10H20"] * 150 + ["O", "H"]
    assert fitted(["Cu", "Au"], dilute) == pytest.approx([-1000.0, -5000.0], rel=1e-9)
    assert fitted(["O", "H"], isolated) == pytest.approx([-430.0, -13.0], rel=1e-9)
    # what does not vary has the shortest solution, and so has what the input's rcond cuts off
    alike = fitted(["O", "H"], ["O10H20"] * 3)
    assert alike == pytest.approx([-456.0 / 5, -2 * 456.0 / 5], rel=1e-9)
    assert fitted(["Cu", "Au"], dilute, 0.1)[1] == pytest.approx(0.0, abs=20.0)


@pytest.mark.parametrize("kind", ["se_e2_a", "se_e2_q"])
@pytest.mark.parametrize("one_side", [False, True])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_file_round_trip(tmp_path, one_side, precision, kind):
    potential = random_potential(("H", "O"), one_side=one_side, precision=precision, kind=kind)
    path = tmp_path / "model.dpl"
    save_model(potential, path, {"steps": 5})
    loaded = load_model(path)
    assert loaded.precision == precision
    env = environment_of(random_atoms("H8O4", 6.0, 2), potential.type_map, potential.rcut).env
    a, b = potential.evaluate(env), loaded.evaluate(env)
    assert torch.equal(a.energies, b.energies)
    assert torch.equal(a.forces, b.forces)
    header = read_header(path)
    assert header["provenance"] == {"steps": 5}
    assert [p.name for p in tmp_path.iterdir()] == ["model.dpl"]


def test_precision_is_chosen_at_run_time(tmp_path):
    potential = random_potential(("H", "O"))
    path = tmp_path / "model.dpl"
    save_model(potential, path)
    env = environment_of(random_atoms("H8O4", 6.0, 2), potential.type_map, potential.rcut).env
    exact, single = load_model(path).evaluate(env), load_model(path, "float32").evaluate(env)
    assert single.forces.dtype == torch.float64
    assert not torch.equal(exact.forces, single.forces)
    torch.testing.assert_close(exact.forces, single.forces, rtol=0, atol=2e-4)


@pytest.fixture(name="saved")
def _saved(tmp_path):
    path = tmp_path / "model.dpl"
    save_model(random_potential(), path)
    return path


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_truncated_file(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[:kept])
    with pytest.raises(ModelFileError, match=r"model\.dpl: not a readable model file"):
        load_model(saved)


def test_a_model_in_use_does_not_change_with_its_file(saved):
    model = load_model(saved)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    saved.write_bytes(b"\xff" * saved.stat().st_size)  # in its place, as cp does
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, a: h.update(format_version=99), "format version 99"),
        (lambda h, a: h.pop("config"), "header is not valid"),
        (lambda h, a: h["config"]["descriptor"].update(neuron=[6, 12, 10**5]), "has shape"),
        (lambda h, a: h["config"].update(type_map=["Si", "Ge"]), "sel"),
        (lambda h, a: a.pop("embedding.bias_1"), "'embedding.bias_1' is missing"),
        (lambda h, a: a["embedding.bias_1"].fill_(torch.nan), "not finite"),
        (lambda h, a: a.update(more=torch.zeros(2)), "unexpected array 'more'"),
        (lambda h, a: h["grid"].update(n_intervals=10**9), "grid is not valid"),
        (lambda h, a: h["config"]["descriptor"].update(rcut=-1), "descriptor/rcut"),
    ],
)
def test_altered_file_is_one_clear_line(saved, change, message):
    rewrite(saved, change)
    with pytest.raises((ModelFileError, InputError), match=message) as error:
        load_model(saved)
    assert "\n" not in str(error.value)


def test_missing_file_and_foreign_safetensors(tmp_path):
    with pytest.raises(ModelFileError, match="no such model file"):
        load_model(tmp_path / "none.dpl")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.dpl")
    with pytest.raises(ModelFileError, match="not a deepmd_lite model"):
        load_model(tmp_path / "other.dpl")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"type_map": ["H"], "descriptor": {"rcutt": 6}},
            "'descriptor/rcutt'; did you mean 'rcut'",
        ),
        ({"type_map": ["H"], "fiting_net": {}}, "did you mean 'fitting_net'"),
        ({"type_map": ["H"], "descriptor": {"rcut": 2, "rcut_smth": 3}}, "must be less than"),
        ({"type_map": ["H", "H"]}, "listed twice"),
        ({"type_map": ["H"], "descriptor": {"sel": [4, 5]}}, "2 entries for 1 elements"),
        ({"type_map": ["H"], "descriptor": {"activation_function": "relu"}}, "expected one of"),
        ({"type_map": ["H"], "descriptor": {"exclude_types": [[0, 1]]}}, "beyond 0 … 0"),
        ({"type_map": ["H"], "descriptor": {"axis_neuron": 50}}, "axis_neuron 50 exceeds"),
        ({"type_map": ["H"], "descriptor": {"cubic_neuron": 2}}, "has no moments of second degree"),
        ({"type_map": ["H"], "descriptor": {"l_max": 3}}, "l_max 3: se_e2_a has no moments of"),
        (
            {"type_map": ["H"], "descriptor": {"type": "se_e2_q", "l_max": 5}},
            "descriptor/l_max.*less than or equal to 4",
        ),
        (
            {
                "type_map": ["H"],
                "descriptor": {"type": "se_e2_q", "neuron": [4], "cubic_neuron": 5},
            },
            "cubic_neuron 5 exceeds the last embedding width 4",
        ),
        (
            {"type_map": ["H"], "descriptor": {"type": "se_e2_q", "cubic_neuron": 9}},
            "descriptor/cubic_neuron.*less than or equal to 8",
        ),
        ({"descriptor": {}}, "key 'type_map' is missing"),
        ({"type_map": ["H"], "descriptor": {"type": "se_e3"}}, "descriptor/type"),
    ],
)
def test_config_errors_name_the_key(data, message):
    with pytest.raises(InputError, match=message):
        parse(ModelConfig, data, "input.json: model")


def test_comments_are_ignored_everywhere():
    data = {"type_map": ["H"], "_comment": 1, "descriptor": {"_comment_x": "y", "rcut": 5.0}}
    assert parse(ModelConfig, data, "x").descriptor.rcut == 5.0
