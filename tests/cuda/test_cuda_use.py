"""`device: cuda` from outside: calculator, molecular dynamics, and what is said without a GPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from models import random_atoms, random_potential, with_members

from deepmd_lite import Calculator, doctor, kernels
from deepmd_lite.cli import main
from deepmd_lite.committee import Committee, loaded
from deepmd_lite.kernels.cuda import native
from deepmd_lite.md import Simulation, plan
from deepmd_lite.md.comm import Communicator, gpu_of_rank
from deepmd_lite.md.config import MdConfig
from deepmd_lite.model import load_model, save_model
from deepmd_lite.system import InputError
from deepmd_lite.training.parallel import Ranks

SILICON = Path(__file__).parents[2] / "data" / "silicon" / "silicon.dpl"
HEADERS = Path(kernels.cuda.__file__).parent


def crystal(n=1):
    atoms = bulk("Si", cubic=True).repeat(n)
    atoms.rattle(0.05, seed=2)
    return atoms


def test_calculator(device):
    atoms, expected = crystal(), crystal()
    atoms.calc, expected.calc = Calculator(SILICON, device="cuda"), Calculator(SILICON)
    for step in (0.0, 0.02, 0.4):  # the list is reused, then made anew
        for x in (atoms, expected):
            x.positions[0] += step
        for name, a, b in (
            ("energies", atoms.get_potential_energies(), expected.get_potential_energies()),
            ("forces", atoms.get_forces(), expected.get_forces()),
            ("stress", atoms.get_stress(), expected.get_stress()),
        ):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=name)


def test_a_committee(device):
    models = [random_potential(("Si",), seed=seed) for seed in (1, 2)]
    atoms, expected = random_atoms("Si16", 7.0, 3), random_atoms("Si16", 7.0, 3)
    expected.calc = Calculator(models)
    deviation = expected.get_forces() is not None and expected.calc.results["forces_std"]
    atoms.calc = Calculator(models, device="cuda")
    atoms.get_forces()
    np.testing.assert_allclose(atoms.calc.results["forces_std"], deviation, atol=1e-9)
    assert deviation.max() > 1e-3
    assert isinstance(atoms.calc.model, Committee)
    assert {model.device for model in models} == {"cuda"}


def test_commands(device, tmp_path):
    models = []
    for seed in (1, 2):
        models.append(str(tmp_path / f"{seed}.dpl"))
        save_model(with_members(random_potential(("Si",), seed=seed)), models[-1])
    frame = random_atoms("Si16", 7.0, 3)
    frame.calc = Calculator(models[0])
    frame.get_stress()
    data = tmp_path / "data.extxyz"
    frame.write(data, write_results=True)
    found = {}
    for name in ("cpu", "cuda"):
        out, table = tmp_path / f"{name}.json", tmp_path / f"{name}.out"
        where = ["-q", "--device", name]
        assert main(["test", models[1], str(data), "--json", str(out), *where]) == 0
        assert main(["devi", "-m", *models, "-s", str(data), "-o", str(table), *where]) == 0
        several = np.loadtxt(table)
        assert main(["devi", "-m", models[1], "-s", str(data), "-o", str(table), *where]) == 0
        found[name] = json.loads(out.read_text()), np.stack([several, np.loadtxt(table)])
    (errors, table), (on_gpu, table_on_gpu) = found["cpu"], found["cuda"]
    rmse = errors["total"]["force_rmse"]
    assert on_gpu["total"]["force_rmse"] == pytest.approx(rmse, abs=1e-9)
    np.testing.assert_allclose(table_on_gpu, table, rtol=1e-6)  # as many digits as are printed
    assert rmse > 1e-3


def trajectory(tmp_path, name, **options):
    """Positions after a run with lists made anew, and g(r), which reads the list."""
    simulation = Simulation(
        crystal(),
        SILICON,
        ensemble={"type": "nvt-langevin", "temperature": 3000, "friction": 0.1},
        velocities={"temperature": 6000, "seed": 3},
        timestep=2.0,
        skin=0.3,
        output={"directory": tmp_path / name, "observe": {"rdf": {"every": 4}}},
        **options,
    )
    result = simulation.run(12)
    assert result.list_builds > 1
    table = next((tmp_path / name).rglob("*rdf*")).read_text()
    return simulation.engine.state.positions.cpu().clone(), table, result.thermo


def test_molecular_dynamics(device, tmp_path):
    positions, table, thermo = trajectory(tmp_path, "gpu", device="cuda")
    expected = trajectory(tmp_path, "cpu")
    torch.testing.assert_close(positions, expected[0], rtol=0, atol=1e-8)
    assert table == expected[1]
    assert thermo.potential == pytest.approx(expected[2].potential, abs=1e-7)
    again = trajectory(tmp_path, "again", device="cuda")
    assert torch.equal(positions, again[0])


def test_the_plan_forecasts_its_memory(device, monkeypatch):
    monkeypatch.setattr(plan, "PROBE_STEPS", 1)
    options = {"structure": "unused", "steps": 1, "timestep": 0.5, "replicate": (2, 1, 1)}
    config = MdConfig(model=str(SILICON), device="cuda", **options)
    lines = plan.make_plan(config, bulk("Si", cubic=True), Communicator()).lines()
    found = next(line for line in lines if line.startswith("GPU memory"))
    value = float(re.search(r"([\d.]+) kB for each rank", found)[1])
    # 16 atoms of 158 neighbours within cutoff and skin, and their ghosts
    of_atoms, n_ghosts = 16 * (158 * 4 + 132 + 270), 600
    assert of_atoms < value * 1e3 < 1.5 * (of_atoms + n_ghosts * 100)
    cpu = MdConfig(model=str(SILICON), **options)
    lines = plan.make_plan(cpu, bulk("Si", cubic=True), Communicator()).lines()
    assert not any(line.startswith("GPU memory") for line in lines)


# --- without a GPU ------------------------------------------------------------------------------


@pytest.fixture
def pretend(monkeypatch):
    """A build, a torch and a driver of one's choice."""

    def choose(build=True, torch_cuda="12.8", gpus=1):
        def count():
            if isinstance(gpus, str):
                raise InputError(gpus)
            return gpus

        monkeypatch.setattr(native, "built", lambda: Path("/x.so") if build else None)
        monkeypatch.setattr(native, "opened", lambda path: None)
        monkeypatch.setattr(torch.version, "cuda", torch_cuda)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(native, "gpus", count)

    return choose


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"build": False}, "this build has no CUDA kernels; build it where nvcc is .docs/gpu.md."),
        ({"torch_cuda": None}, "torch .* was built without CUDA; install one that was"),
        ({"gpus": "no driver"}, r"no GPU can be used \(no driver\); use device 'cpu'"),
        ({"gpus": 0}, "0 GPU.s. can be used here"),
    ],
)
def test_what_is_missing_is_said(machine, message, pretend):
    pretend(**machine)
    for ask in (
        lambda: Calculator(SILICON, device="cuda"),
        lambda: Simulation(crystal(), SILICON, device="cuda"),
        lambda: load_model(SILICON).to_device("cuda"),
        lambda: loaded([SILICON, SILICON], None, "cuda"),
    ):
        with pytest.raises(InputError, match=f"^device 'cuda': {message}") as error:
            ask()
        assert "\n" not in str(error.value)
        assert "use device 'cpu'" in str(error.value)


def test_one_of_several_gpus(pretend):
    pretend(gpus=2)
    assert kernels.cuda.device("cuda").torch_device == torch.device("cuda:0")
    assert kernels.cuda.device("cuda:1").torch_device == torch.device("cuda:1")
    with pytest.raises(InputError, match=r"device 'cuda:2': 2 GPU\(s\) can be used here"):
        kernels.cuda.device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "mps"])
def test_names_of_devices(name):
    with pytest.raises(InputError, match=f"device '{name}': expected 'cpu', 'cuda' or 'cuda:N'"):
        load_model(SILICON).to_device(name)


def test_ranks_take_turns_at_the_gpus_of_their_machine(pretend, monkeypatch):
    class Rank(Communicator):
        rank, size = 3, 4

        def collect(self, value):
            return [value, "elsewhere", value, value]

    pretend(gpus=2)
    assert gpu_of_rank("cuda", Rank()) == "cuda:0"  # the third of its machine
    assert gpu_of_rank("cuda", Communicator()) == "cuda"
    assert gpu_of_rank("cuda:1", Rank()) == "cuda:1"
    assert gpu_of_rank("cpu", Rank()) == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Ranks(rank=3, size=4).device("cuda") == "cuda:1"
    assert Ranks().device("cuda") == "cuda"
    for none in ("none", 0):
        pretend(gpus=none)
        assert gpu_of_rank("cuda", Rank()) == "cuda"


def test_models_of_others_stay_on_the_processor():
    class Model:
        rcut, type_map, evaluate = 4.0, ["Si"], None

    with pytest.raises(InputError, match="this model computes on the CPU alone"):
        Calculator(Model(), device="cuda")


@pytest.mark.parametrize(
    ("build", "driver", "words"),
    [
        (True, "", "not needed: kernels built with it; torch without CUDA; no GPU found"),
        (False, "", "not needed: kernels built without it"),
        (False, "NVIDIA H100", "the GPU cannot be used: device 'cuda': this build has no CUDA"),
        (True, "NVIDIA H100", "torch .* was built without CUDA"),
    ],
)
def test_doctor(build, driver, words, pretend, monkeypatch):
    pretend(build=build, torch_cuda=None)
    monkeypatch.setattr(kernels.cuda, "built", native.built)
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: driver)
    found = doctor._cuda()
    assert re.search(words, found.line())
    assert found.state == ("missing" if driver else "ok")


def test_the_benchmark(device, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import gpu

    def small(precision):
        potential = random_potential(gpu.TYPE_MAP, precision=precision)
        potential.descriptor._frozen = None
        return potential.requires_grad_(True)

    out = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "stock_potential", small)
    monkeypatch.setattr(gpu, "GEMM", {"float32": 64})
    monkeypatch.setattr(gpu, "COPY", 2**16)
    monkeypatch.setattr(gpu, "CHUNK", 64)
    options = "--atoms 192 --md --precision float32 --repeats 1 --out"
    monkeypatch.setattr("sys.argv", ["gpu.py", *options.split(), str(out)])
    gpu.main()
    case, training, products = json.loads(out.read_text())["cases"]
    optimizers = {"Adam", "SOAP", "SOAP on the host"}
    assert training["training"].keys() == {"gradient"} | optimizers
    assert min(training["training"].values()) > 0
    for _, _, float32, _, _, _, in_three in products["products"]:
        assert max(float32, in_three) < 1e-5  # TF32 alone: 1e-3
    assert case["atoms"] == 192
    assert case["edges"] > 192 * 20
    assert 0 < case["list"] < 60
    assert 0 < case["evaluate"] < 60
    assert case["moments"] > 0
    assert case["moments_backward"] > 0
    assert "float32 |   192 |" in out.with_suffix(".md").read_text()


def test_the_benchmark_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: device 'cuda': ")
    assert len(done.stderr.splitlines()) == 1


# --- the library --------------------------------------------------------------------------------


def test_header_is_c11(tmp_path):
    (tmp_path / "header.c").write_text('#include "dpl_cuda.h"\nint dpl_cuda_header_is_c11;\n')
    flags = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    includes = [f"-I{HEADERS}", f"-I{HEADERS.parent}"]
    command = ["cc", *flags, *includes, "-c", "header.c", "-o", "header.o"]
    subprocess.run(command, cwd=tmp_path, check=True)


@pytest.mark.skipif(kernels.cuda.built() is None, reason="this build has no CUDA kernels")
def test_the_library_of_this_build_can_be_opened():
    """With a driver or without: it has every function of the header and counts the GPUs."""
    library = native.opened(kernels.cuda.built())
    declared = re.findall(r"\b(dpl_cuda_\w+)\(", (HEADERS / "dpl_cuda.h").read_text())
    assert len(declared) > 9
    assert all(hasattr(library, name) for name in declared)
    try:
        found = kernels.cuda.gpus()
    except InputError as e:
        found = str(e)
    assert found if isinstance(found, str) else found >= 0


def test_a_library_that_cannot_be_opened(tmp_path):
    (tmp_path / "broken.so").write_text("no library")
    message = r"broken.so: cannot be loaded .*; build the package"
    with pytest.raises(InputError, match=message):
        native.opened(tmp_path / "broken.so")
