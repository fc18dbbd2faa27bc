"""The forecast of a run against the run: ghosts, memory; and that it writes nothing."""

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk, fcc111
from models import random_potential
from pair_potential import PairPotential

from deepmd_lite.cli import main
from deepmd_lite.md import Simulation, plan_input
from deepmd_lite.md.comm import Communicator, binding
from deepmd_lite.md.config import MdConfig, Output
from deepmd_lite.md.memory import Subdomain, check_room, frame_bytes, mean_subdomain
from deepmd_lite.md.plan import PROBE_ATOMS, make_plan
from deepmd_lite.md.trajectory import ordered_slabs
from deepmd_lite.model import load_model, save_model
from deepmd_lite.system import DeepmdLiteError, InputError

SILICON = Path(__file__).parents[2] / "data/silicon/silicon.dpl"


def slab():
    atoms = fcc111("Cu", (6, 6, 8), a=3.7, vacuum=20.0, orthogonal=True)
    atoms.pbc = True
    return atoms


def ball():
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(6)
    atoms.set_cell(None)
    atoms.pbc = False
    return atoms


@pytest.mark.parametrize(
    ("atoms", "replicate"),
    [(bulk("Cu", cubic=True, a=3.7), (6, 5, 7)), (slab(), (1, 1, 1)), (ball(), (1, 1, 1))],
    ids=["bulk", "slab", "ball"],
)
def test_ghosts_and_edges(atoms, replicate, tmp_path):
    model = PairPotential()
    config = MdConfig(
        model="unused", structure="unused", steps=1, replicate=replicate, timestep=0.1
    )
    config.model = model  # in place of a path
    plan = make_plan(config, atoms, Communicator())
    env = Simulation(atoms, model, replicate=replicate).engine.env
    assert plan.n_atoms == env.n_local == plan.subdomain.n_atoms
    assert plan.subdomain.n_ghosts == pytest.approx(env.n_all - env.n_local, rel=0.15, abs=1)
    assert plan.subdomain.n_edges == pytest.approx(env.n_edges, rel=0.01)
    assert plan.grid == (1, 1, 1)


def test_more_ranks_than_at_hand():
    config = MdConfig(
        model="m", structure="s", steps=1, replicate=(100, 100, 50), grid=None, timestep=0.1
    )
    config.model = PairPotential()
    plan = make_plan(config, bulk("Cu", cubic=True, a=3.7), Communicator(), 64)
    assert plan.n_ranks == 64
    assert plan.grid == (4, 4, 4) or sorted(plan.grid) == [2, 4, 8]
    assert plan.n_atoms == 2_000_000
    assert PROBE_ATOMS <= plan.probe.n_atoms < 3 * PROBE_ATOMS
    sides = np.array(plan.subdomain.lengths)
    reach = plan.probe.reach
    outer = 31250 * np.prod((sides + 2 * reach) / sides)
    assert plan.subdomain.n_ghosts == pytest.approx(outer - 31250)
    one = make_plan(config, bulk("Cu", cubic=True, a=3.7), Communicator(), 1)
    assert one.bytes_per_rank > 40 * (plan.bytes_per_rank - plan.probe.program_bytes)


def test_slabs_of_a_probe_are_those_of_a_shorter_cell():
    """What is too wide for it may be right for the run, and the other way round."""
    flow = {"type": "heat-flow", "axis": "c", "hot": 400, "cold": 200, "width": 20}
    given = {"model": "m", "structure": "s", "steps": 1, "timestep": 0.1, "ensemble": flow}
    config = MdConfig(**given, replicate=(8, 8, 120))
    config.model = PairPotential()
    plan = make_plan(config, bulk("Cu", cubic=True, a=3.7), Communicator())
    assert plan.probe.n_atoms < plan.n_atoms == 4 * 8 * 8 * 120
    config.ensemble.width = 150.0
    with pytest.raises(InputError, match=r"two slabs of width .* take 68%"):
        make_plan(config, bulk("Cu", cubic=True, a=3.7), Communicator())


PEAK = """
import json, sys
from pathlib import Path
from ase.build import bulk
from deepmd_lite.md import Simulation
from deepmd_lite.md.plan import _resident
n = int(sys.argv[2])
Simulation(bulk("Si", cubic=True, a=5.43), sys.argv[1], replicate=(n, n, n)).engine.refresh(True)
print(json.dumps(_resident()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the forecast needs Linux")
def test_memory_of_a_quarter_million_atoms():
    """Peak of a process that places the atoms, evaluates them and makes their list twice."""
    copies = 32
    command = [sys.executable, "-c", PEAK, str(SILICON), str(copies)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    config = MdConfig(model="m", structure="s", steps=1, replicate=(copies,) * 3)
    config.model = load_model(SILICON)
    plan = make_plan(config, bulk("Si", cubic=True, a=5.43), Communicator())
    alone = subprocess.run([*command[:-1], "10"], capture_output=True, text=True, check=True)
    program = json.loads(alone.stdout) - plan.subdomain.bytes() * (10 / copies) ** 3
    assert program + plan.subdomain.bytes() == pytest.approx(found, rel=0.1)
    assert plan.subdomain.bytes() > 0.3 * found


@pytest.mark.parametrize("kind", ["extxyz", "traj"])
def test_memory_of_a_frame_that_is_gathered(tmp_path, kind):
    """The peak of what Python and numpy hold; a process has somewhat more."""
    output = Output(directory=tmp_path, format=(kind,))
    atoms = bulk("Cu", cubic=True, a=3.7)
    made = Simulation(atoms, PairPotential(), replicate=(16, 16, 16), output=output)
    moment, slabs = made._moment(), ordered_slabs(made.engine)
    tracemalloc.start()
    made.writer.trajectory(moment, slabs)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.6 < found / (made.n_atoms * frame_bytes(output)) < 1.15


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(random_potential(("Cu",), rcut=4.0), tmp_path / "cu.dpl")
    ase.io.write("cu.extxyz", bulk("Cu", cubic=True, a=3.7))
    data = {"model": "cu.dpl", "structure": "cu.extxyz", "replicate": [2, 2, 3], "steps": 5}
    Path("md.yaml").write_text(yaml.safe_dump({**data, "timestep": 0.1}))
    return tmp_path


def test_dry_run_prints_a_plan_and_writes_nothing(folder, capsys):
    before = sorted(folder.iterdir())
    assert main(["md", "md.yaml", "--dry-run", "--ranks", "4", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    threads = "threads of each: 1"
    for part in (
        "48 (Cu 48)",
        "frames of the trajectory: 21.6 kB",
        "ranks      4 as",
        threads,
        "for each rank",
        "µs/atom/step",
        "ns/day",
    ):
        assert part in printed
    assert sorted(folder.iterdir()) == before


def test_an_interrupted_dry_run_prints_no_plan(folder, capsys, monkeypatch):
    advance = Simulation.advance

    def ended(self, steps):
        result = advance(self, steps)
        return result if steps == 1 else replace(result, signal="SIGINT")

    monkeypatch.setattr(Simulation, "advance", ended)
    assert main(["md", "md.yaml", "--dry-run", "--threads", "1"]) == 130
    assert "ns/day" not in capsys.readouterr().out


def test_ranks_that_are_planned_share_the_machine(folder, monkeypatch):
    """They have its CPUs and its memory together, as far as there is a CPU for each."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    own = torch.get_num_threads()
    for ranks, threads, here in ((2, 3, 2), (4, 1, 4), (64, 1, 6)):
        plan = plan_input("md.yaml", n_ranks=ranks)
        assert (plan.probe.threads, plan.ranks_here) == (threads, here)
        assert torch.get_num_threads() == own
    assert plan_input("md.yaml", n_ranks=4, threads=2).ranks_here == 3
    wanted = replace(plan, available_bytes=5.9 * plan.bytes_per_rank).lines()[-1]
    assert wanted.startswith("warning: 6 ranks on this machine want")


def test_dry_run_refuses_what_a_run_would(folder, capsys):
    Path("md.yaml").write_text(Path("md.yaml").read_text().replace("cu.extxyz", "no.extxyz"))
    assert main(["md", "md.yaml", "--dry-run"]) == 1
    assert "no.extxyz" in capsys.readouterr().err


def test_ranks_are_for_plans_only(folder, capsys):
    assert main(["md", "md.yaml", "--ranks", "4"]) == 1
    assert "mpiexec" in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_a_grid_for_the_ranks_that_are_planned(folder, capsys):
    Path("md.yaml").write_text(Path("md.yaml").read_text() + "grid: [1, 2, 4]\n")
    assert main(["md", "md.yaml", "--dry-run", "--ranks", "8"]) == 0
    assert "8 as 1 x 2 x 4" in capsys.readouterr().out
    assert main(["md", "md.yaml", "--dry-run", "--ranks", "4"]) == 1
    assert "8 subdomains for 4 ranks" in capsys.readouterr().err


def test_what_is_frozen_counts_where_it_can(folder, capsys):
    text = Path("md.yaml").read_text()
    Path("md.yaml").write_text(text + "frozen: {elements: [Cu]}\n")
    assert main(["md", "md.yaml", "--dry-run"]) == 1
    assert "holds all 48 atoms" in capsys.readouterr().err


def test_too_much_memory_is_a_warning():
    config = MdConfig(model="m", structure="s", steps=1, replicate=(4000, 4000, 4000), timestep=0.1)
    config.model = PairPotential()
    plan = make_plan(config, bulk("Cu", cubic=True, a=3.7), Communicator(), 8)
    assert "use more machines or fewer atoms" in plan.lines()[-1]


@pytest.mark.parametrize(
    ("atoms", "replicate"),
    [(bulk("Cu", cubic=True, a=3.7), (6, 5, 7)), (slab(), (1, 1, 1)), (ball(), (1, 1, 1))],
    ids=["bulk", "slab", "ball"],
)
def test_memory_without_a_probe(atoms, replicate):
    """Edges by the density: what a real run looks at before it makes atoms."""
    env = Simulation(atoms, PairPotential(), replicate=replicate).engine.env
    _, found = mean_subdomain(atoms, replicate, None, 1, PairPotential().rcut + 1.0)
    own = Subdomain(found.lengths, env.n_local, env.n_all - env.n_local, env.n_edges, True)
    assert found.bytes() == pytest.approx(own.bytes(), rel=0.25)  # the ball is mostly surface


def test_a_run_without_room_is_refused_before_it_makes_atoms(folder, monkeypatch, capsys):
    text = Path("md.yaml").read_text()
    Path("md.yaml").write_text(text.replace("- 2\n- 2\n- 3", "- 9000\n- 9000\n- 9000"))
    monkeypatch.setattr("deepmd_lite.md.opening.from_structure", None)
    assert main(["md", "md.yaml"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 rank wants " in line
    assert "are free: use more machines or fewer atoms" in line
    assert not (folder / "run").exists()


def test_ranks_of_a_machine_share_its_memory(folder, monkeypatch):
    """Two ranks want what one does, and more; --force goes on with a warning."""
    _, one = mean_subdomain(ball(), (1, 1, 1), None, 1, 6.0)
    _, half = mean_subdomain(ball(), (1, 1, 1), None, 2, 6.0)
    assert one.bytes() < 2 * half.bytes()

    class Two(Communicator):
        size = 2

        def collect(self, value):
            return [value, value]

    free = 1.5 * half.bytes()
    monkeypatch.setattr("deepmd_lite.md.memory.available_bytes", lambda _: free)
    with pytest.raises(DeepmdLiteError, match=r"2 ranks want .* are free"):
        check_room(ball(), (1, 1, 1), None, 6.0, Two(), False)
    (line,) = check_room(ball(), (1, 1, 1), None, 6.0, Two(), True)
    assert line.endswith("going on as asked")
    monkeypatch.setattr("deepmd_lite.md.memory.available_bytes", lambda _: 3 * half.bytes())
    assert check_room(ball(), (1, 1, 1), None, 6.0, Two(), False) == []


def test_a_frame_counts_on_the_machine_of_the_first_rank(monkeypatch):
    _, one = mean_subdomain(ball(), (1, 1, 1), None, 1, 6.0)
    given = ball(), (1, 1, 1), None, 6.0, Communicator(), False
    free = one.bytes() + 400 * len(ball())
    monkeypatch.setattr("deepmd_lite.md.memory.available_bytes", lambda _: free)
    assert check_room(*given) == check_room(*given, frame=300.0) == []
    with pytest.raises(DeepmdLiteError, match="1 rank wants"):
        check_room(*given, frame=500.0)

    class OfAnotherMachine(Communicator):
        rank, size = 1, 2

        def share(self, value):
            return (one.bytes(), 500.0 * len(ball()), "another")

    assert check_room(*given[:4], OfAnotherMachine(), False, frame=500.0) == []


def test_frames_are_whole_in_some_formats():
    def of(**keys):
        return frame_bytes(Output(directory=Path("run"), **keys))

    assert frame_bytes(None) == of(trajectory=0) == of(format=("h5md", "lammps")) == 0
    assert of(format=("extxyz", "traj")) == of() + of(format=("traj",)) > 2 * of() > 0


def test_binding_names_ranks_and_cpus(monkeypatch):
    class Four(Communicator):
        size = 4

        def collect(self, value):
            return [value, value, ("other", (0, 1, 5)), value]

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "node")
    assert binding(Four()) == [
        "node: rank 0-1, 3 on CPU 0-1: 1.5 ranks a CPU",
        "other: rank 2 on CPU 0-1, 5",
    ]
