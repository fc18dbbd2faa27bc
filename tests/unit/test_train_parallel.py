"""Ranks that share batches: the steps of one process, and one end for all."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write
from copper import copper, settings

import deepmd_lite
from deepmd_lite.cli import main
from deepmd_lite.data import load, prepare
from deepmd_lite.data.batches import label_counts
from deepmd_lite.training import train
from deepmd_lite.training.checkpoint import Checkpoint
from deepmd_lite.training.config import read_input
from deepmd_lite.training.loss import Errors
from deepmd_lite.training.parallel import Ranks
from deepmd_lite.training.report import read_lcurve
from deepmd_lite.training.setup import initial_potential, load_data
from deepmd_lite.training.trainer import Trainer

ROOT = str(Path(deepmd_lite.__file__).parents[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Frames of two sizes, some without forces or virial."""
    folder = tmp_path_factory.mktemp("copper")
    frames = copper(11, 1)
    frames[2] = frames[2] * (2, 1, 1)
    frames[2].calc = type(copper(1, 1)[0].calc)()
    frames[2].get_forces()
    del frames[4].calc.results["stress"], frames[7].calc.results["forces"]
    write(folder / "train.extxyz", frames)
    write(folder / "validation.extxyz", copper(3, 2))
    return folder


def start(folder, command, ranks=2):
    """`command` under torchrun, in a session of its own."""
    env = {**os.environ, "PYTHONPATH": ROOT}
    env.pop("OMP_NUM_THREADS", None)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*launch, "--standalone", *command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end_of(process, seconds=120):
    """(standard output, standard error); a process that hangs is ended with all its ranks."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"ranks hang: {process.communicate()}")


@pytest.mark.parametrize("size", [2, 3, 8])
def test_shares_of_a_batch_add_up_to_its_loss_gradient_and_errors(data, size, tmp_path):
    """Labels are missing here and there, and with 8 ranks for 5 frames some have nothing."""
    config, _ = read_input(settings(data))
    found = load_data(config, quiet=True)
    potential = initial_potential(config, found, None)
    frames = [found.frames[i] for i in (2, 4, 7, 0, 10)]
    assert label_counts(frames) == (5, 8 + 3 * 4, 4)

    def of(ranks):
        trainer = Trainer(config, found, potential, ranks=ranks)
        trainer.prefactors = (0.7, 3.0, 0.4)
        loss, errors = trainer._gradient(ranks.share(frames), label_counts(frames))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainer.parameters]
        return loss, torch.cat([g.flatten() for g in gradients]), errors.sums()

    loss, gradient, sums = of(Ranks())
    parts = [of(Ranks(rank, size)) for rank in range(size)]
    assert sum(p[0] for p in parts) == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(sum(p[1] for p in parts), gradient, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.sum([p[2] for p in parts], axis=0), sums, rtol=1e-12)
    assert sums[6:] == list(map(float, label_counts(frames)))


def test_nothing_has_no_errors():
    empty = Errors.of_nothing((1.0, 1.0, 1.0))
    assert empty.counts == (0, 0, 0)
    assert all(np.isnan(v) for v in empty.as_dict().values())


def test_label_counts(data):
    frames = load([str(data / "train.extxyz")], type_map=["Cu"])[0].frames
    whole = prepare(frames, ["Cu"], 4.0)
    assert label_counts(whole) == (11, 4 * 9 + 8, 10)
    assert label_counts([]) == (0, 0, 0)


def test_two_ranks_make_the_steps_of_one(data, tmp_path):
    """An odd batch size, a last batch of one frame, clipping, averaging, validation."""
    config = settings(data, ema_decay=0.5, gradient_max_norm=5.0, opt_type="Adam")
    config["training"]["training_data"]["batch_size"] = 5
    (tmp_path / "input.json").write_text(json.dumps(config))
    process = start(tmp_path, ["-m", "deepmd_lite", "train", "input.json", "-o", "two"])
    train(config, output=tmp_path / "one", quiet=True)
    out, err = end_of(process)
    assert process.returncode == 0, err
    assert "2 ranks share each batch, 1 threads each" in out
    assert out.count("model after step 12") == 1
    one, two = (Checkpoint.read(tmp_path / n / "checkpoint.safetensors") for n in ("one", "two"))
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        torch.testing.assert_close(two.arrays[name], array, rtol=0, atol=1e-10, msg=name)
    assert (one.step, one.sampler, one.unimproved) == (two.step, two.sampler, two.unimproved)
    assert two.best["loss"] == pytest.approx(one.best["loss"], rel=1e-9)
    curves = [read_lcurve(tmp_path / n / "lcurve.out") for n in ("one", "two")]
    for name, column in curves[0].items():
        np.testing.assert_allclose(curves[1][name], column, rtol=0.02)
    names = [{p.name for p in (tmp_path / n).iterdir()} for n in ("one", "two")]
    assert names[0] == names[1]
    # there were gradients, much larger than the tolerance
    assert max(v.abs().max() for k, v in one.arrays.items() if "exp_avg." in k) > 1e-4


FAILING = """
    import sys
    from deepmd_lite.cli import main
    from deepmd_lite.system import InputError
    from deepmd_lite.training.trainer import Trainer

    original = Trainer.step

    def step(self):
        if self.steps_done == 3 and self.ranks.rank == 1:
            raise InputError("the disk is on fire")
        return original(self)

    Trainer.step = step
    sys.exit(main(["train", "input.json", "-o", "out", "-q"]))
"""


def written(data, folder):
    """The path of a short input."""
    (folder / "input.json").write_text(json.dumps(settings(data, numb_steps=2)))
    return folder / "input.json"


HOLD = """
import sys
from deepmd_lite.files import InUse
with InUse(sys.argv[1]):
    print("here", flush=True)
    sys.stdin.read()
"""
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}


@pytest.mark.parametrize("launcher", [OPEN_MPI, SRUN])
def test_ranks_of_mpi_are_told_of_torchrun(data, tmp_path, monkeypatch, capsys, launcher):
    """Each would train alone; those that may not, as another one has the folder, say how to."""
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "out"
    output.mkdir()
    holding = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        assert main(["train", str(written(data, tmp_path)), "-o", str(output), "-q"]) == 1
        other.stdin.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"process {other.pid} on" in line
    assert line.endswith(
        "2 processes were started, which a training takes by torchrun --nproc-per-node 2 "
        "-m deepmd_lite train …"
    )
    assert main(["train", str(written(data, tmp_path)), "-o", str(tmp_path / "own"), "-q"]) == 0


def test_an_error_of_one_rank_ends_all_with_its_message(data, tmp_path):
    (tmp_path / "input.json").write_text(json.dumps(settings(data, numb_steps=10**6)))
    (tmp_path / "failing.py").write_text(textwrap.dedent(FAILING))
    process = start(tmp_path, ["failing.py"])
    _, err = end_of(process)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if line.startswith("dpl train: error:")]
    # the launcher ends those that are left, perhaps before they have said so
    expected = [f"dpl train: error: {by}the disk is on fire" for by in ("", "ended by rank 1: ")]
    assert lines
    assert set(lines) <= set(expected)


def test_a_signal_to_one_rank_ends_all_after_the_same_step(data, tmp_path):
    (tmp_path / "input.json").write_text(json.dumps(settings(data, numb_steps=10**6)))
    command = ["-m", "deepmd_lite", "train", "input.json", "-o", "out"]
    process = start(tmp_path, command)
    curve = tmp_path / "out" / "lcurve.out"
    for _ in range(1200):
        if curve.exists() and len(curve.read_text().splitlines()) > 4:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = end_of(process)
    assert "stopped by SIGTERM after step" in out + err
    step = Checkpoint.read(tmp_path / "out" / "checkpoint.safetensors").step
    assert f"model after step {step}" in out


def test_ranks_that_cannot_meet_end_in_one_line(data):
    (data / "lonely.json").write_text(json.dumps(settings(data)))
    env = {**os.environ, "PYTHONPATH": ROOT, "RANK": "0", "WORLD_SIZE": "two"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    for world in ("two", "2"):
        env |= {"WORLD_SIZE": world, "MASTER_PORT": "99999999"}
        done = subprocess.run(
            [sys.executable, "-m", "deepmd_lite", "train", "lonely.json", "-q"],
            cwd=data,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
        assert "WORLD_SIZE" in done.stderr or "MASTER_PORT" in done.stderr
