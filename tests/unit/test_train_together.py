"""Elements of a family learn together."""

import pytest
import torch
from ase.calculators.emt import EMT
from ase.io import write
from copper import checkpoint_of, copper, settings
from models import environment_of, random_atoms

from deepmd_lite.model import ModelConfig, Potential, statistics_from
from deepmd_lite.training import train
from deepmd_lite.training.adam import Adam
from deepmd_lite.training.beginning import begin_alike
from deepmd_lite.training.together import OWN, Together, families_of

TYPES = ["Cu", "O", "Al"]
RATE = 1e-3


def alike(one_side=True, types=TYPES):
    """A potential whose metals begin alike, and what they have in common."""
    descriptor = {"rcut": 4.5, "rcut_smth": 1.0, "neuron": [6, 12], "axis_neuron": 4}
    descriptor |= {"sel": [60] * len(types), "type_one_side": one_side}
    config = ModelConfig(type_map=types, descriptor=descriptor, fitting_net={"neuron": [8, 8]})
    env = environment_of(random_atoms("".join(f"{t}6" for t in types), 8.0, 1), types, 4.5).env
    potential = Potential(config, statistics_from([(env, -16.0)], config), seed=1)
    families = families_of(types)
    begin_alike(potential, families)
    return potential, Together(potential, families)


def stepped(potential, together, gradient):
    """How far each parameter moves in Adam's first step, where `gradient` makes its gradient."""
    named = dict(potential.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    common = [p for _, p in together.named_parameters()]
    optimizer = Adam([*named.values(), *common], RATE)
    for name, p in named.items():
        p.grad = gradient(name, p)
    together.step(optimizer)
    assert all(not p.any() for p in common)
    return {name: (p.detach() - before[name]) / -RATE for name, p in named.items()}


def fill(name, p):
    return torch.ones_like(p)


def test_steps_are_common_ones_and_a_share_of_each_elements_own():
    potential, together = alike()
    for name, moved in stepped(potential, together, fill).items():
        wanted = torch.full_like(moved, 1.0 + OWN)
        if name.startswith("fitting.1"):  # oxygen, whose family is itself
            wanted[:] = 1.0
        elif name.endswith("_out"):
            wanted[:] = 2.0
        elif not name.startswith("fitting"):
            wanted[1] = 1.0
        torch.testing.assert_close(moved, wanted, rtol=1e-5, atol=1e-5)


def test_an_element_that_is_in_no_frame_learns_from_its_family():
    def gradient(name, p):
        if name.startswith("fitting.2"):
            return None
        present = torch.ones_like(p)
        if not name.startswith("fitting"):
            present[2] = 0.0
        return present

    potential, together = alike()
    moved = stepped(potential, together, gradient)
    for name in (name for name in moved if name.startswith("fitting.2")):
        torch.testing.assert_close(moved[name], torch.ones_like(moved[name]), rtol=1e-5, atol=1e-5)
    first = moved["embedding.weight_0"]
    assert first[2].mean() == pytest.approx(1.0, rel=1e-5)
    assert first[0].mean() == pytest.approx(1.0 + OWN, rel=1e-5)


def test_what_tells_elements_apart_is_learnt_more_slowly():
    """Copper and aluminium pull in opposite directions: nothing is in common."""

    def gradient(name, p):
        sign = torch.ones_like(p)
        if name.startswith("fitting.2"):
            return -sign
        if not name.startswith("fitting"):
            sign[2] = -1.0
        return sign

    potential, together = alike()
    moved = stepped(potential, together, gradient)
    for name in (n.removeprefix("fitting.0.") for n in moved if n.startswith("fitting.0")):
        own = 1.0 if name.endswith("_out") else OWN
        for a, sign in ((0, own), (2, -own)):
            found = moved[f"fitting.{a}.{name}"]
            torch.testing.assert_close(found, torch.full_like(found, sign), rtol=1e-5, atol=1e-5)


def test_embeddings_of_pairs_share_with_those_of_both_families():
    potential, together = alike(one_side=False)
    places = {name.split(".")[-1] for name, _ in together.named_parameters() if "fit" not in name}
    assert places == {"0", "1", "3"}  # metal-metal, metal-O and O-metal; O-O is by itself
    moved = stepped(potential, together, fill)
    found = moved["embedding.weight_0"]
    wanted = torch.full((9,), 1.0 + OWN, dtype=found.dtype)
    wanted[4] = 1.0
    torch.testing.assert_close(found.flatten(1).mean(1), wanted, rtol=1e-5, atol=1e-5)


def test_nothing_is_in_common_without_a_family():
    _, together = alike(types=["Cu", "O"])
    assert not together.any
    assert list(together.named_parameters()) == []


@pytest.fixture(scope="module", name="alloy")
def _alloy(tmp_path_factory):
    """Frames of copper and silver, and the input of a training."""
    folder = tmp_path_factory.mktemp("alloy")
    for name, n, seed in (("train", 6, 1), ("validation", 2, 2)):
        frames = copper(n, seed)
        for k, atoms in enumerate(frames):
            atoms.symbols[k % 2 :: 2] = "Ag"
            atoms.calc = EMT()
            atoms.get_forces()
            atoms.get_stress()
        write(folder / f"{name}.extxyz", frames)
    config = settings(folder)
    config["model"]["type_map"] = ["Cu", "Ag"]
    config["model"]["descriptor"]["sel"] = "auto"
    return config


@pytest.mark.parametrize("kind", ["SOAP", "Adam"])
def test_a_restart_knows_what_they_have_in_common(alloy, tmp_path, kind):
    config = alloy | {"optimizer": {"type": kind}}
    config["learning_rate"] = {"start_lr": 0.01, "decay_rate": 0.9}  # whatever the last step
    half = config | {"training": config["training"] | {"numb_steps": 6}}
    for content, folder in ((config, "whole"), (half, "parts")):
        train(content, output=tmp_path / folder, quiet=True)
    train(config, output=tmp_path / "parts", restart=True, quiet=True)
    whole, parts = (checkpoint_of(tmp_path / name) for name in ("whole", "parts"))
    assert whole.together
    assert whole.step == parts.step == 12
    assert {k for k in parts.arrays if ".together." in k}
    for name, value in whole.arrays.items():
        assert torch.equal(value, parts.arrays[name]), name


def test_trainings_of_earlier_releases_and_of_models_do_not(alloy, tmp_path):
    train(alloy, output=tmp_path / "new", quiet=True)
    train(alloy, init_model=tmp_path / "new/model.dpl", output=tmp_path / "from", quiet=True)
    assert not checkpoint_of(tmp_path / "from").together
    old = checkpoint_of(tmp_path / "new")
    old.together, old.step = False, 6
    old.arrays = {k: v for k, v in old.arrays.items() if ".together." not in k}
    old.write(tmp_path / "new" / "checkpoint.safetensors")
    train(alloy, output=tmp_path / "new", restart=True, quiet=True)
    assert checkpoint_of(tmp_path / "new").step == 12
    assert not checkpoint_of(tmp_path / "new").together
