"""Active learning: selection, labels that come back, and whole loops in the place of which EMT is
the truth."""

import csv
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import stand_in_plumed
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from deepmd_lite import learn, load
from deepmd_lite.cli import main
from deepmd_lite.deviation import md_header, row
from deepmd_lite.learning import exploring, labelling
from deepmd_lite.learning.answers import same
from deepmd_lite.learning.config import read_config
from deepmd_lite.learning.exploring import Explored, Run, counted, reseeded
from deepmd_lite.learning.labelling import Command, labelled
from deepmd_lite.learning.loop import _elements, _initial
from deepmd_lite.learning.selection import farthest
from deepmd_lite.model import load_model
from deepmd_lite.system import InputError

TRAIN = {
    "model": {
        "type_map": ["Cu"],
        "descriptor": {"rcut": 4.0, "rcut_smth": 1.5, "neuron": [4, 8], "axis_neuron": 4,
                       "type_one_side": True},
        "fitting_net": {"neuron": [12, 12]},
    },
    "learning_rate": {"start_lr": 0.01},
    "training": {"training_data": {"batch_size": 4}, "numb_steps": 40, "disp_freq": 40, "seed": 1},
}  # fmt: skip


def by_emt(structures):
    """Labels as a calculator of ASE gives them."""
    for atoms in structures:
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.get_stress()
    return structures


@pytest.fixture(autouse=True)
def _few_pictures(request, monkeypatch):
    """Where a loop is small, drawing takes most of its time: pictures are drawn by the loop that
    goes on, and by the command those of its trainings as well."""
    test = request.node.originalname
    if test != "test_verb":
        monkeypatch.setattr("deepmd_lite.training.loop.plot_learning_curve", lambda *_: None)
    if test not in ("test_verb", "test_a_loop_and_its_continuation"):
        monkeypatch.setattr("deepmd_lite.learning.report._picture", lambda rounds: b"")


@pytest.fixture(name="content")
def _content(tmp_path, monkeypatch):
    """The input of a small loop, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write("cu.extxyz", bulk("Cu", cubic=True, a=3.6) * (2, 1, 1))
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    return {
        "train": "train.json",
        "initial": {"structure": "cu.extxyz", "frames": 6, "rattle": 0.1},
        "explore": {
            "structure": "cu.extxyz",
            "ensemble": {"type": "nvt-langevin", "temperature": 600, "friction": 0.05},
            "velocities": {"temperature": 600},
            "steps": 30,
        },
        "select": {"every": 5, "most": 3, "lower": 1e-3, "upper": 100.0, "verify": 2},
        "rounds": 1,
    }


def rounds(folder="learn"):
    with open(f"{folder}/rounds.csv") as f:
        return list(csv.DictReader(f))


# --- parts --------------------------------------------------------------------------------------


def test_structures_may_have_an_at_sign_in_their_path(content, tmp_path):
    (tmp_path / "a@b").mkdir()
    (tmp_path / "cu.extxyz").rename("a@b/cu.extxyz")
    content["initial"]["structure"] = "a@b/cu.extxyz"
    content["explore"]["structure"] = "a@b/cu.extxyz@0"
    config, _ = read_config(content)
    assert config.initial.structure == str(tmp_path / "a@b/cu.extxyz")
    assert config.explore[0]["structure"] == str(tmp_path / "a@b/cu.extxyz@0")


@pytest.mark.parametrize("replicate", [2, [2, 2, 2], np.array([2, 2, 2])])
def test_copies_are_counted_as_in_dynamics(content, replicate):
    content["initial"]["replicate"] = replicate
    initial = read_config(content)[0].initial
    assert initial.replicate == (2, 2, 2)
    assert [len(atoms) for atoms in _initial(initial)] == [64] * 6


def test_the_farthest_come_first():
    known = np.array([[0.0, 0.0], [1.0, 0.0]])
    offered = np.array([[0.0, 0.1], [5.0, 0.0], [5.0, 5.0], [-3.0, 0.0], [0.0, 0.0]])
    assert farthest(known, offered, 3) == [2, 1, 3]
    assert farthest(known, offered, 9)[:3] == [2, 1, 3]
    assert 4 not in farthest(known, offered, 9)  # is known
    constant = np.column_stack([offered[:, 0], np.full(5, 7.0)])  # a column that says nothing
    assert farthest(np.array([[0.0, 7.0], [1.0, 7.0]]), constant, 1) == [1]


def test_counts():
    seen = Explored([5, 9], [0.1, 0.3]), Explored([5, 9, 12], [0.2, 0.6, float("nan")])
    runs = [Run(Path("nowhere"), e) for e in seen]
    expected = {"explored": 5, "accurate": 2, "candidates": 1, "failed": 2}
    assert counted(runs, 0.2, 0.5) == expected
    assert seen[1].beyond(0.2) == [1, 2]


SCRIPT = """
import sys, numpy as np
from ase.io import read, write
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
frames = read(sys.argv[1], ":")
for a in frames:
    a.calc = EMT()
    a.calc = SinglePointCalculator(a, energy=a.get_potential_energy(), forces=a.get_forces())
{change}
write(sys.argv[2], frames)
"""


def command(tmp_path, change=""):
    (tmp_path / "label.py").write_text(SCRIPT.replace("{change}", change))
    return Command("{python} label.py {input} {output}", tmp_path)


def prepared(tmp_path, change):
    """A command that copies what `command` would have written: there is no more to start."""
    frames = structures()
    for k, atoms in enumerate(by_emt(frames)):
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        frames[k] = atoms.copy()
        frames[k].calc = SinglePointCalculator(frames[k], energy=energy, forces=forces)
    made = {"frames": frames, "np": np}
    exec(change, made)
    write(tmp_path / "made.extxyz", made["frames"])
    return Command("cp made.extxyz {output}", tmp_path)


def asked_for(folder):
    """How many structures the latest attempt was to label."""
    latest = max(folder.glob("labelling-*"), key=lambda p: int(p.name.partition("-")[2]))
    return len(read(latest / "structures.extxyz", ":"))


def structures():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3):
        atoms = bulk("Cu", cubic=True, a=3.6)
        atoms.positions += 0.1 * rng.normal(size=(4, 3))
        atoms.positions[0] -= 3.6  # outside the cell
        found.append(atoms)
    return found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("", [0, 1, 2]),
        ("frames = frames[::-1]", [2, 1, 0]),
        ("del frames[1]", [0, 2]),
        ("frames.append(frames[0])", [0, 1, 2]),
        ("[a.wrap() for a in frames]", [0, 1, 2]),
    ],
)
def test_labels_of_a_command(change, expected, tmp_path):
    wanted = structures()
    made = prepared(tmp_path, change) if change else command(tmp_path)
    found = labelled(wanted, made, tmp_path)
    assert len(found) == len(expected)
    for frame, k in zip(found, expected, strict=True):
        atoms = wanted[k].copy()
        atoms.calc = EMT()
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-6)
    again = labelled(wanted, Command("false {input} {output}", tmp_path), tmp_path)
    assert len(again) == len(found)  # what is known is not asked for again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sys.exit(3)", "ended with status 3, what it said is in .*label.log"),
        ("sys.exit(0)", "did not write {output}"),
        ("frames[0].positions[0, 0] += 0.1", "none of the 3 structures that were asked for"),
        ("frames[1].numbers[0] = 47", "none of the 3 structures that were asked for"),
        ("del frames[1][0]; frames[1].calc = None", "frame 1 has no energy"),
        (
            "frames.append(frames[0].copy()); frames[3].calc = frames[1].calc",
            "frame 3 is the structure of .*frame 0 once more, with other labels; write each",
        ),
        ("frames[2].calc.results.pop('forces')", "has no forces; expected energy and forces"),
        ("frames[2].calc.results.pop('energy')", "has no energy; expected energy and forces"),
        (
            "frames[1].calc.results['forces'][2] = np.nan",
            "labelling-0/labelled.extxyz, frame 1: forces of atom 2 are not finite .*; 2 of 3 "
            "structures were labelled and are kept; mend what labels, or let it leave out",
        ),
        ("frames[1].calc.results['stress'] = np.full(6, np.nan)", "frame 1: the virial is not"),
        ("frames = []", "not one of the structures has been labelled"),
    ],
)
def test_labels_that_are_wrong(change, message, tmp_path):
    made = command(tmp_path, change) if "sys" in change else prepared(tmp_path, change)
    with pytest.raises(InputError, match=message):
        labelled(structures(), made, tmp_path)
    assert not (tmp_path / "labelled.extxyz").exists()


def test_no_more_wrong_frames_than_one_can_read(tmp_path):
    write(tmp_path / "made.extxyz", [Atoms("H"), *structures(), Atoms("H")])
    with pytest.raises(InputError, match=r"frame 2 has no energy; .*; and 2 more; 0 of 3 struct"):
        labelled(structures(), Command("cp made.extxyz {output}", tmp_path), tmp_path)


def true(frames):
    """Whether the labels are those of EMT."""
    for frame in frames:
        atoms = Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=frame.pbc)
        atoms.calc = EMT()
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-6)
    return True


def test_what_was_labelled_before_a_failure_is_kept(tmp_path):
    wanted = structures()
    fails = command(tmp_path, "write(sys.argv[2], frames[1:]); sys.exit(1)")
    with pytest.raises(InputError, match=r"2 of 3 structures were labelled before and are kept$"):
        labelled(wanted, fails, tmp_path)
    other = structures()[:1]
    other[0].positions[2] += 0.3
    with pytest.raises(InputError, match="0 of 1 structures were labelled before"):  # none of these
        labelled(other, Command("false {input} {output}", tmp_path), tmp_path)
    found = labelled(wanted, prepared(tmp_path, "del frames[1:]"), tmp_path)
    assert asked_for(tmp_path) == 1
    assert len(found) == 3
    assert true(found)


@pytest.mark.parametrize("cut", [1, 2, 60, 300])
def test_a_frame_that_is_cut_off_is_no_loss_of_others(cut, tmp_path):
    """One byte: all numbers are there, two: the last lacks a digit, and reads as another."""
    wanted = structures()
    prepared(tmp_path, "")
    dies = Command(f"sh -c 'head -c -{cut} made.extxyz >{{output}}; exit 9'", tmp_path)
    with pytest.raises(InputError, match=r"status 9.* 2 of 3 .* kept; not those .*, frame 2: "):
        labelled(wanted, dies, tmp_path)
    found = labelled(wanted, prepared(tmp_path, "del frames[:2]"), tmp_path)
    assert asked_for(tmp_path) == 1
    assert len(found) == 3
    assert true(found)


def test_good_frames_of_a_faulty_answer_are_kept(tmp_path):
    """Of one in which a line is missing in the middle; and what the user has mended in the file."""
    wanted = structures()
    prepared(tmp_path, "")
    cut = Command("sh -c 'sed 9d made.extxyz >{output}'", tmp_path)
    with pytest.raises(InputError, match=r"labelling-0/labelled.extxyz, frame 1: .*; 2 of 3 str"):
        labelled(wanted, cut, tmp_path)
    first, last = tmp_path / "labelling-0/labelled.extxyz", tmp_path / "made.extxyz"
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:6] + lines[11:]))  # without the bad one
    with pytest.raises(InputError, match="0 of 1 structures"):
        labelled(wanted, Command("false {input} {output}", tmp_path), tmp_path)
    first.write_text(last.read_text())
    assert true(labelled(wanted, Command("unwanted {input} {output}", tmp_path), tmp_path))


def test_what_an_interrupted_command_had_written_is_kept(tmp_path, monkeypatch, caplog):
    """Whether the loop was interrupted or killed: then its command may go on, and harms nobody."""
    wanted = structures()
    made = prepared(tmp_path, "")
    whole = (tmp_path / "made.extxyz").read_bytes()
    run = labelling.subprocess.run

    def interrupted(words, **_):
        Path(words[2]).write_bytes(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(labelling.subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            labelled(wanted, made, tmp_path)
    assert "labelling was interrupted" in caplog.text

    def beside_another(words, **options):
        ended = run(words, **options)
        (tmp_path / "labelling-0/labelled.extxyz").write_bytes(whole)
        return ended

    monkeypatch.setattr(labelling.subprocess, "run", beside_another)
    prepared(tmp_path, "del frames[0]")
    assert true(labelled(wanted, made, tmp_path))
    assert asked_for(tmp_path) == 2
    assert len(read(tmp_path / "labelled.extxyz", ":")) == 3
    (tmp_path / "labelled.extxyz").unlink()  # by now, that other one has written all
    assert len(labelled(wanted, Command("unwanted {input} {output}", tmp_path), tmp_path)) == 3


def test_good_structures_of_a_function_are_kept(tmp_path):
    asked = []

    def label(found):
        asked.append(len(found))
        found = by_emt(found)
        if len(asked) == 1:
            found[1].calc.results["forces"][0] = np.nan
        return found

    wanted = structures()
    with pytest.raises(InputError, match="labelled structure 1: forces of atom 0 are not finite"):
        labelled(wanted, label, tmp_path)
    assert true(labelled(wanted, label, tmp_path))
    assert asked == [3, 1]


def test_what_a_generator_labelled_before_it_failed_is_kept(tmp_path):
    atoms = structures()

    def label(found):
        yield from by_emt(found[:2])
        raise OSError("the queue is gone")

    with pytest.raises(OSError, match="queue"):
        labelled(atoms, label, tmp_path)
    asked = []
    frames = labelled(atoms, lambda found: asked.extend(found) or by_emt(found), tmp_path)
    assert len(asked) == 1
    assert len(frames) == 3


def test_a_structure_with_another_periodicity_is_another(tmp_path):
    atoms, *_ = structures()

    def label(found):
        found[0].pbc = ~found[0].pbc
        return by_emt(found)

    with pytest.raises(InputError, match="none of the 1 structures"):
        labelled([atoms], label, tmp_path)


def test_a_function_that_moves_what_it_is_given(tmp_path):
    def label(found):
        found[2].rattle(0.1)
        return by_emt(found)

    with pytest.raises(InputError, match="labelled structure 2 is none of the 3 structures"):
        labelled(structures(), label, tmp_path)


def test_labelling_is_announced(tmp_path, caplog):
    caplog.set_level("INFO")
    labelled(structures(), prepared(tmp_path, ""), tmp_path)
    log = tmp_path / "labelling-0/label.log"
    line = f"labelling: 3 of 3 structures by cp made.extxyz {{output}}; what it says: {log}"
    assert line in caplog.messages
    assert log.exists()


def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="'no-such-program' cannot be started"):
        labelled(structures(), Command("no-such-program {input} {output}", tmp_path), tmp_path)


def test_how_far_a_run_is(tmp_path, monkeypatch):
    assert exploring._progress(tmp_path, 100, 1.0) is None
    rows = [row(20 * k, [0.0, 0.0, 0.0, d, 0.0, 0.0]) for k, d in enumerate([9.0, 0.3, 0.2, 0.7])]
    (tmp_path / "model_devi.out").write_text(md_header() + "".join(rows)[:-30])  # is being written
    line = exploring._progress(tmp_path, 100, 60.0)
    assert line == "step 40/100: largest deviation 0.3 eV/Å, 01:30 left"
    monkeypatch.setattr(exploring, "PERIOD", 1e-3)
    said = threading.Event()
    monkeypatch.setattr(exploring.log, "info", lambda *_: said.set())
    with exploring._watched(tmp_path, 100):
        assert said.wait(60)


# --- whole loops --------------------------------------------------------------------------------


def test_a_loop_and_its_continuation(content, caplog):
    asked = []

    def label(found):
        asked.append(len(found))
        return by_emt(found)

    path = learn(content, label=label, quiet=True)
    assert asked == [6, 3]
    table = rounds()
    assert [int(r["frames_training"]) for r in table] == [5, 8]
    assert [int(r["frames_validation"]) for r in table] == [1, 1]
    assert [int(r["explored"]) for r in table] == [6, 6]
    assert float(table[0]["error_labelled"]) > 0
    assert "not done after 1 rounds; raise 'rounds'" in caplog.text
    assert "broke off" not in caplog.text
    assert load(path).members is not None
    assert len(read("learn/round-00/labelled.extxyz", ":")) == 3
    # explorations of different rounds are different
    ends = [read(f"learn/round-0{k}/explore-0/trajectory.extxyz", -1) for k in (0, 1)]
    assert np.abs(ends[0].positions - ends[1].positions).max() > 1e-3
    before, first = path.read_bytes(), os.stat("learn/round-00/model.dpl").st_mtime_ns

    def unwanted(found):
        raise AssertionError("labelled again")

    learn(content, label=unwanted, quiet=True)
    assert path.read_bytes() == before
    assert os.stat("learn/round-00/model.dpl").st_mtime_ns == first
    learn(content | {"rounds": 2}, label=label, quiet=True)
    assert asked == [6, 3, 3]
    assert len(rounds()) == 3
    # it may be moved, and its trajectories deleted; a change of what is done changes nothing
    Path("learn").rename("moved")
    for path in Path("moved").glob("round-*/explore-*/trajectory.extxyz"):
        path.unlink()
    again = content | {"rounds": 2, "output": "moved", "initial": {"structure": "cu.extxyz"}}
    latest = Path("moved/model.dpl").read_bytes()
    again["select"] = content["select"] | {"lower": 90.0}  # done in round 0, had it been so
    again["rounds"] = 1
    learn(again, label=unwanted, quiet=True)
    assert "note: another initial than at the last start" in caplog.text
    assert Path("moved/round-02/model.dpl").exists()
    assert Path("moved/model.dpl").read_bytes() != latest  # of round 1, where it now ends


def test_done_when_the_labels_agree(content, caplog, monkeypatch):
    caplog.set_level("INFO")
    watched = []
    watch = exploring._watched
    monkeypatch.setattr(exploring, "_watched", lambda *a: watched.append(a) or watch(*a))
    content["select"] = {"every": 10, "lower": 50.0, "verify": 2}
    learn(content, label=by_emt)
    assert "done: of 3 explored structures 3 deviate by less than 50 eV/Å, and the forces of 2" in (
        caplog.text
    )
    assert watched == [(Path("learn/round-00/explore-0"), 30)]
    assert len(rounds()) == 1


def test_not_done_where_the_committee_is_wrong(content, caplog):
    """Structures on which it agrees with itself and not with the labels."""
    content["select"] = {"every": 10, "lower": 50.0, "verify": 2}
    asked = []

    def label(found):
        asked.append(len(found))
        found = by_emt(found)
        if len(asked) > 1:
            for a in found:
                forces = a.get_forces() + 1000.0 * np.eye(3)[0]
                a.calc = SinglePointCalculator(a, energy=a.get_potential_energy(), forces=forces)
        return found

    learn(content, label=label, quiet=True)
    assert len(asked) >= 2
    assert len(rounds()) == 2
    assert "not done after 1 rounds" in caplog.text
    assert float(rounds()[0]["error_labelled"]) > 500


def test_goes_on_where_it_was_interrupted(content, monkeypatch):
    calls = []

    def fails(found):
        if calls:
            raise InputError("the queue is down")
        calls.append(1)
        return by_emt(found)

    with pytest.raises(InputError, match="the queue is down"):
        learn(content, label=fails, quiet=True)
    trained = os.stat("learn/round-00/model.dpl").st_mtime_ns

    def unwanted(*_, **__):
        raise AssertionError("explored again")

    with monkeypatch.context() as m:
        m.setattr("deepmd_lite.learning.exploring.run_input", unwanted)
        with pytest.raises(AssertionError, match="explored again"):  # in the next round
            learn(content, label=by_emt, quiet=True)
    assert os.stat("learn/round-00/model.dpl").st_mtime_ns == trained
    assert Path("learn/round-01/model.dpl").exists()


def test_the_input_of_the_training_is_a_file_of_its_own(content):
    with pytest.raises(InputError, match="key 'train': expected the path of a training's input"):
        learn(content | {"train": TRAIN}, label=by_emt)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_a_training_ends_the_loop(content, monkeypatch, caplog, number):
    """And the training goes on from its checkpoint."""
    from deepmd_lite.training.trainer import Trainer

    step, calls = Trainer.step, []

    def stopped(self):
        calls.append(1)
        if len(calls) == 15:
            signal.raise_signal(number)
        return step(self)

    monkeypatch.setattr(Trainer, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        learn(content, label=by_emt, quiet=True)
    assert caplog.messages[-1] == "interrupted: start dpl learn again, which goes on from here"
    assert Path("learn/round-00/training/checkpoint.safetensors").exists()
    assert not Path("learn/round-00/model.dpl").exists()
    assert signal.getsignal(number) == signal.SIG_DFL
    content["rounds"] = 1
    learn(content, label=by_emt, quiet=True)
    assert len(calls) == 80  # 40 steps in each of two rounds, none twice


def test_a_run_that_breaks_off(content, caplog):
    """It begins again, with other velocities and more looks, until a round has enough."""
    content["explore"]["guards"] = {"deviation": 1e-4}
    caplog.set_level("INFO")
    learn(content, label=by_emt, quiet=True)
    assert int(rounds()[0]["broke_off"]) == int(rounds()[0]["candidates"]) == 3  # select/most
    assert "the model's committee deviates by" in caplog.text
    assert [k for k in range(9) if Path(f"learn/round-00/explore-0-{k}").exists()] == [2, 3]
    steps = [exploring._looked_at(Path(f"learn/round-00/explore-0{k}"))[0] for k in ("", "-2")]
    assert steps == [[5], [1]]
    _, second, third = read("learn/round-00/labelled.extxyz", ":")
    assert np.abs(second.positions - third.positions).max() > 1e-3
    content["explore"]["guards"] = {"force": 1e-30}
    learn(content | {"output": "other"}, label=by_emt, quiet=True)
    assert int(rounds("other")[0]["explored"]) == 0
    assert "broke off after 0 structures to label, of up to 3 a round: more 'initial' frames" in (
        caplog.text
    )


def test_without_random_numbers_a_run_is_only_looked_at_more_closely(content):
    content["explore"] = {"structure": "cu.extxyz", "steps": 30, "guards": {"deviation": 1e-4}}
    atoms = read("cu.extxyz")
    atoms.set_velocities(0.02 * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    write("cu.extxyz", atoms)
    learn(content, label=by_emt, quiet=True)
    names = [p.parent.name for p in Path("learn/round-00").glob("explore-*/explored.json")]
    assert sorted(names) == ["explore-0", "explore-0-2"]
    assert int(rounds()[0]["broke_off"]) == int(rounds()[0]["explored"]) == 1  # the latter counts


@pytest.mark.parametrize("guard", ["force", "deviation"])
def test_a_run_that_ends_where_it_begins_is_not_repeated(content, guard):
    content["explore"]["guards"] = {guard: 1e-30}
    content["select"] |= {"most": 30, "lower": 1e-31}
    atoms = read("cu.extxyz")
    atoms.rattle(0.1, seed=1)
    write("cu.extxyz", atoms)
    learn(content, label=by_emt, quiet=True)
    assert int(rounds()[0]["labelled"]) == 1
    assert not Path("learn/round-00/explore-0-2").exists()


def test_a_round_that_is_over_is_not_explored_further(content):
    content["explore"]["guards"] = {"deviation": 1e-4}
    learn(content, label=by_emt, quiet=True)
    for folder in Path("learn/round-00").glob("explore-0-*"):
        shutil.rmtree(folder)
    learn(content, label=by_emt, quiet=True)
    assert list(Path("learn/round-00").glob("explore-0-*")) == []


def test_a_run_that_breaks_off_before_a_look(content):
    """What it broke off at is labelled; not where atoms are closer than any model could know."""
    content["explore"]["guards"] = {"displacement": 1e-4}
    learn(content, label=by_emt, quiet=True)
    assert int(rounds()[0]["explored"]) == 0
    assert int(rounds()[0]["labelled"]) == 3  # select/most, of as many runs or more
    failed = [read(path) for path in Path("learn/round-00").glob("explore-0*/failed.extxyz")]
    for frame in read("learn/round-00/labelled.extxyz", ":"):
        assert min(np.abs(frame.positions - a.positions).max() for a in failed) < 1e-6
    run = Run(Path("learn/round-00/explore-0"), Explored([], [], "a guard"))
    assert len(run.failed(1.5)) == 1
    assert run.failed(3.0) == []


def test_every_run_has_seeds_of_its_own(content):
    content["explore"] = [content["explore"], dict(content["explore"])]
    learn(content, label=by_emt, quiet=True)
    ends = [
        read(f"learn/round-0{r}/explore-{k}/trajectory.extxyz", -1) for r in (0, 1) for k in (0, 1)
    ]
    for k, one in enumerate(ends):
        for other in ends[:k]:
            assert np.abs(one.positions - other.positions).max() > 1e-3


STRAIN = {"type": "strain", "axis": "c", "rate": 1e-5}


@pytest.mark.parametrize(
    ("ensemble", "seed"),
    [
        ({"type": "nvt-langevin", "temperature": 300, "friction": 0.1}, 6),
        ({"type": "heat-flow", "axis": "c", "hot": 400, "cold": 200, "width": 4.0}, 6),
        ({"type": "nvt-bussi", "temperature": 300, "seed": 2**32 - 2}, 3),
        ({**STRAIN, "lateral": "stress-free", "thermostat": "nhc", "temperature": 300}, 6),
        (STRAIN, None),
        ({"type": "nvt-nhc", "temperature": 300}, None),
        ({"type": "nve"}, None),
    ],
)
def test_seeds_are_shifted_where_there_are_some(ensemble, seed):
    entry = {"structure": "cu.extxyz", "steps": 9, "ensemble": ensemble, "velocities": {"seed": 2}}
    entry["velocities"]["temperature"] = 300
    found = reseeded(entry, 5)
    assert found["velocities"] == {"temperature": 300, "seed": 7}
    assert found["ensemble"] == (ensemble if seed is None else {**ensemble, "seed": seed})
    assert entry["velocities"]["seed"] == 2
    assert "seed" not in reseeded({"structure": "cu.extxyz", "steps": 9}, 5)


def test_one_frame_in_five_is_held_out_whatever_the_rounds(content):
    content["initial"]["frames"] = 3
    content["select"]["most"] = 2
    content["rounds"] = 2
    learn(content, label=by_emt, quiet=True)
    assert [int(r["frames_training"]) for r in rounds()] == [3, 4, 6]
    assert [int(r["frames_validation"]) for r in rounds()] == [0, 1, 1]


def test_integers_for_elements_are_those_of_the_input(content, tmp_path):
    """Data without a type map of their own, and an element that does not occur in them."""
    from deepmd_lite.data import load as load_data
    from deepmd_lite.data.writing import write_systems

    write("own.extxyz", by_emt(structures()))
    write_systems(load_data("own.extxyz"), "npy", "deepmd/npy")
    (folder,) = [p.parent for p in Path("npy").rglob("type.raw")]
    (folder / "type_map.raw").unlink()
    (folder / "type.raw").write_text("1\n" * 4)
    own = json.loads(json.dumps(TRAIN))
    own["model"]["type_map"] = ["Ag", "Cu"]
    own["training"]["training_data"]["systems"] = [str(folder)]
    (tmp_path / "train.json").write_text(json.dumps(own))
    del content["initial"]
    learn(content, label=by_emt, quiet=True)
    assert [int(r["frames_training"]) for r in rounds()] == [3, 6]
    arguments = ["--input", "train.json", "-o", "again.dpl", "-q"]
    assert main(["uncertainty", "learn/round-00/training/model.dpl", *arguments]) == 0


def test_without_a_type_map_elements_are_those_of_the_structures(content, tmp_path):
    own = json.loads(json.dumps(TRAIN))
    del own["model"]["type_map"]
    (tmp_path / "train.json").write_text(json.dumps(own))
    path = learn(content, label=by_emt, quiet=True)
    assert load_model(path).type_map == ["Cu"]


def test_elements_of_a_lammps_structure_are_those_that_are_named(content):
    atoms = structures()[0]
    write("start.data", atoms, format="lammps-data", specorder=["Cu"], masses=False)
    entry = {**content["explore"], "structure": "start.data", "elements": ["Cu"]}
    settings, _ = read_config(content | {"explore": [entry]})
    assert _elements(settings) == ["Cu"]


def test_own_data_and_reuse(content, tmp_path):
    frames = by_emt(structures())
    write("own.extxyz", frames)
    own = json.loads(json.dumps(TRAIN))
    own["training"]["training_data"]["systems"] = "own.extxyz"
    (tmp_path / "train.json").write_text(json.dumps(own))
    del content["initial"]
    learn(content | {"reuse": True}, label=by_emt, quiet=True)
    assert [int(r["frames_training"]) for r in rounds()] == [3, 6]


# --- the verb and its input -----------------------------------------------------------------------


def test_verb(content, tmp_path):
    command(tmp_path, "")
    content["label"] = "{python} label.py {input} {output}"
    content["rounds"] = 1
    (tmp_path / "learn.yaml").write_text(yaml.safe_dump(content))
    assert main(["learn", "learn.yaml", "-q"]) == 0
    assert main(["info", "learn/model.dpl"]) == 0
    assert (tmp_path / "learn" / "rounds.png").stat().st_size > 1000


def test_explorations_may_be_biased(content, tmp_path, monkeypatch):
    """The file of PLUMED lies beside the input; this is a stand-in for the program."""
    monkeypatch.setitem(sys.modules, "plumed", stand_in_plumed)
    folder = tmp_path / "inputs"
    folder.mkdir()
    text = "d: DISTANCE ATOMS=1,2\nRESTRAINT ARG=d AT=0.1 KAPPA=20000\nPRINT ARG=d FILE=COLVAR\n"
    (folder / "plumed.dat").write_text(text)
    content["explore"]["plumed"] = "plumed.dat"
    (folder / "learn.yaml").write_text(yaml.safe_dump(content))
    learn(folder / "learn.yaml", label=by_emt, quiet=True)
    distances = np.loadtxt("COLVAR")[:, 1]
    assert len(distances) == 31
    assert distances.min() < distances[0] - 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "python label.py {input}"}, r"expected \{input\} and \{output\} in the command"),
        ({"explore": {"model": "a.dpl", "steps": 1}}, "'model' is chosen here; leave it out"),
        (
            {"explore": {"structure": "cu.extxyz", "stps": 1}},
            "explore/0: .*'stps'; did you mean 's",
        ),
        ({"explore": {"structure": "no.extxyz", "steps": 1}}, "nothing at 'no.extxyz'"),
        (
            {"explore": {"structure": "cu.extxyz", "plumed": "no.dat", "steps": 9}},
            "explore/0/plumed: nothing at 'no.dat'",
        ),
        ({"explore": []}, "explore"),
        ({"train": "no.json"}, "train: nothing at 'no.json'"),
        ({"initial": None}, "has no training_data; name some, or give 'initial'"),
        ({"label": "sh -c 'run {input} {output}"}, "label': No closing quotation"),
        ({"select": {"lower": 0.5, "upper": 0.1}}, "upper 0.1 must be above lower 0.5"),
        ({"select": {"every": 31}}, "explore/0/steps 30: nothing would be looked at; .*every, 31"),
        ({"selekt": {}}, "unknown key 'selekt'; did you mean 'select'"),
        ({"initial": {"structure": "cu.extxyz", "strain": 3}}, "initial/strain"),
        ({"initial": {"structure": "cu.extxyz", "replicate": 0}}, "initial/replicate"),
    ],
)
def test_inputs_that_are_wrong(change, message, content):
    with pytest.raises(InputError, match=message):
        learn(content | change, label=by_emt, quiet=True)
    assert not Path("learn").exists()


def test_a_barostat_without_virials_is_said_at_once(content):
    content["explore"]["ensemble"] = {"type": "npt-scr", "temperature": 600, "pressure": "0 bar"}
    with pytest.raises(InputError, match="'npt-scr' rests on the stress, and the training"):
        learn(content, label=by_emt, quiet=True)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("numb_stps", "unknown key 'training/numb_stps'"),
        ("held_out", "training/held_out: the loop holds out frames of what it labels by itself"),
    ],
)
def test_a_training_input_that_is_wrong_is_said_at_once(content, tmp_path, key, message):
    wrong = json.loads(json.dumps(TRAIN))
    wrong["training"][key] = 0.3
    (tmp_path / "train.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=message):
        learn(content, label=by_emt, quiet=True)


def test_labelled_frames_are_told_by_their_place():
    """A frame is its structure, whichever way it has been wrapped, and no other."""
    from deepmd_lite.data.ase_files import frame_from_atoms

    atoms = Atoms("Cu2", [[0, 0, 0], [1.8, 1.8, 0]], cell=[3.6, 3.6, 20], pbc=[1, 1, 0])
    moved = atoms.copy()
    moved.positions[1, 0] -= 3.6
    assert same(frame_from_atoms(moved, "a"), atoms)
    moved.positions[1, 2] += 20.0  # no period along z
    assert not same(frame_from_atoms(moved, "a"), atoms)
    free = Atoms("Cu2", [[0, 0, 0], [2, 0, 0]])
    assert same(frame_from_atoms(free.copy(), "a"), free)


def test_without_a_way_to_label(content):
    with pytest.raises(InputError, match="label: is missing; give a command"):
        learn(content, quiet=True)
