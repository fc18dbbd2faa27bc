"""Active learning: train, explore, label what the model does not know, and again.

The folder is the memory. Each stage leaves a file when it is done (`model.dpl`, `explored.json`,
`labelled.extxyz`), and what has its file is not done again: an interrupted loop goes on by the
same command.

    learn/initial/             structures and labels to begin with, where the input asks for some
    learn/round-00/training/   as `dpl train` leaves it
    learn/round-00/model.dpl   the model with its committee
    learn/round-00/explore-0/  as `dpl md` leaves it
    learn/round-00/labelling-0/  what labels was asked, has answered and said, in one attempt
    learn/round-00/labelled.extxyz
    learn/rounds.csv, rounds.png, model.dpl
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..committee import Committee
from ..data import Frame, System, load, prepare
from ..data.writing import write_systems
from ..files import InUse, results_folder, write_atomically
from ..md import communicator
from ..md.config import MdConfig
from ..md.structure import read_structure
from ..model import load_model
from ..model.potential import Potential
from ..progress import telling
from ..schema import parse
from ..system import InputError
from ..training import train
from ..training.config import TrainInput, read_input
from ..training.loop import MODEL
from ..training.trainer import CHECKPOINT
from ..uncertainty import add_uncertainty, compared
from ..uncertainty.calibration import rms
from .config import Initial, LearnConfig, own_systems, read_config, training_input
from .exploring import Run, counted, explore, sampled
from .labelling import LABELLED, Command, Labeller, is_labelled, labelled
from .report import Round, what_helps, write_report
from .selection import choose

log = logging.getLogger(__name__)

INPUT = "learn.json"
HELD_OUT = 5
"""One in so many labelled frames is kept for validation, counted through all rounds."""
SETS = "training", "validation"
DIFFERENT = 7919
"""Between the seeds of one run and the next."""
WIDER = 5.0
"""The level at which explorations end, over the lower one, unless the input gives it."""


def learn(
    config: Mapping[str, Any] | str | Path,
    *,
    label: Labeller | None = None,
    quiet: bool = False,
) -> Path:
    """Improve a potential until it knows what its simulations meet; returns the model's path.

    `config`: an input file (`LearnConfig`) or its content. In each round a model is trained and
    given a committee, molecular dynamics explores with it, and of the structures in which the
    committee expects larger errors than `select/lower` some are labelled, by the command of the
    input or by `label`, a function of structures. It ends when the explorations find hardly any, or
    after `rounds`. A loop that was interrupted goes on by the same call.

    Raises InputError for bad input and for a command that fails.
    """
    settings, folder = read_config(config)
    how = label or (Command(settings.label, folder) if settings.label else None)
    if how is None:
        raise InputError(
            "label: is missing; give a command that reads {input} and writes {output}, or from "
            "Python a function of structures"
        )
    if communicator().size > 1:
        raise InputError("dpl learn: runs in one process; start it without mpiexec")
    place = settings.output
    with results_folder(place), InUse(place), _signals_as_ctrl_c(), telling(quiet):
        return _Loop(settings, how, quiet).run()


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Training and dynamics end in order at SIGTERM and SIGUSR1; so does the loop then, not with
    the next stage."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [(n, signal.signal(n, signal.default_int_handler)) for n in numbers]
    try:
        yield
    except KeyboardInterrupt:
        log.warning("interrupted: start dpl learn again, which goes on from here")
        raise
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _Loop:
    """The state of a loop: what is in its folder."""

    def __init__(self, settings: LearnConfig, label: Command | Labeller, quiet: bool) -> None:
        self.settings, self.label, self.quiet = settings, label, quiet
        self.folder = settings.output
        self.own, self.own_validation = own_systems(settings.train)
        if not self.own and settings.initial is None:
            raise InputError(
                f"{settings.train}: has no training_data; name some, or give 'initial' structures "
                "to label"
            )
        stand_in = [] if self.own else [settings.train]  # so that all else is looked at now
        model = training_input(settings.train, [], [])["model"]
        self.met = [] if self.own or model.get("type_map") else _elements(settings)
        if self.met:
            log.info("model/type_map: the elements of the structures, %s", " ".join(self.met))
        training = read_input(training_input(settings.train, stand_in, [], self.met))[0]
        if training.training.held_out:
            raise InputError(
                f"{settings.train}: training/held_out: the loop holds out frames of what it labels "
                "by itself; remove the key, or give validation_data"
            )
        self.elements = training.elements
        _check_ensembles(settings, training)
        self.sets: list[Path] = []
        """Folders with what has been labelled."""
        self.n_labelled = 0
        _remember(settings, self.folder / INPUT)

    def run(self) -> Path:
        """Rounds until it is done."""
        settings = self.settings
        if settings.initial is not None:
            self._label(_initial(settings.initial), self.folder / "initial")
        rounds: list[Round] = []
        for number in range(settings.rounds + 1):
            folder = self._round(number)
            folder.mkdir(exist_ok=True)
            model = self._trained(number)
            potential = load_model(model)
            upper = self._upper(potential)
            runs = [
                run
                for k, entry, shift in self._explorations(number)
                for run in explore(
                    *(entry, model, folder / f"explore-{k}", settings.select, upper, shift),
                    over=is_labelled(folder),
                )
            ]
            found = self._described(number, potential, runs, upper)
            known = self._knows(found)
            chosen = []
            if not is_labelled(folder) and (known or number < settings.rounds):
                chosen = self._chosen(potential, runs, upper, number, known)
            if chosen or is_labelled(folder):
                self._label(chosen, folder)
                found = _with_errors(found, potential, folder)
            rounds.append(found)
            log.info("%s", found.line())
            write_report(rounds, self.folder)
            done = known and (found.error_labelled or 0.0) <= settings.select.lower
            if not found.labelled or (done and not (self._round(number + 1) / MODEL).exists()):
                break
        self._say_why(rounds[-1], done)
        write_atomically(self.folder / MODEL, model.read_bytes())
        log.info("model: %s", self.folder / MODEL)
        return self.folder / MODEL

    # --- stages -----------------------------------------------------------------------------

    def _round(self, number: int) -> Path:
        return self.folder / f"round-{number:02d}"

    def _explorations(self, number: int) -> Iterator[tuple[int, dict[str, Any], int]]:
        """Number and input of each, and what its seeds are shifted by."""
        entries = self.settings.explore
        for k, entry in enumerate(entries):
            yield k, entry, DIFFERENT * (number * len(entries) + k)

    def _trained(self, number: int) -> Path:
        """The model of a round, with its committee."""
        folder = self._round(number)
        path = folder / MODEL
        if path.exists():
            return path
        data, validation = self._files()
        content = training_input(self.settings.train, data, validation, self.met)
        begun = (folder / "training" / CHECKPOINT).exists()
        reuse = self.settings.reuse and number and not begun
        plain = train(
            content,
            output=folder / "training",
            restart=begun,
            init_model=self._round(number - 1) / MODEL if reuse else None,
            quiet=self.quiet,
        )
        add_uncertainty(
            plain,
            [*self.own, *data],
            validation=[*self.own_validation, *validation] or None,
            elements=self.elements,
            output=path,
            quiet=self.quiet,
        )
        return path

    def _files(self) -> tuple[list[str], list[str]]:
        """What has been labelled so far, to train on and to validate with."""
        paths = ([s / f"{name}.extxyz" for s in self.sets] for name in SETS)
        first, second = ([str(p) for p in part if p.exists()] for part in paths)
        return first, second

    def _upper(self, potential: Potential) -> float:
        """Where an exploration ends, eV/Å."""
        select = self.settings.select
        if select.upper is not None:
            return select.upper
        assert potential.members is not None
        return max(WIDER * select.lower, potential.members.facts["trust_upper"])

    def _chosen(
        self, potential: Potential, runs: Sequence[Run], upper: float, number: int, known: bool
    ) -> list[Atoms]:
        """Structures to label.

        Where the committee has nothing against them, some at random, to see whether it is right;
        else those in which it doubts: candidates, where there are none those beyond, where runs
        broke off before any of these, what they broke off at.
        """
        select = self.settings.select
        if known:
            return sampled(runs, select.verify, number)
        found = [x for run in runs for x in run.structures(run.explored.beyond(select.lower))]
        offered = [atoms for atoms, deviation in found if deviation <= upper]
        offered = offered or [atoms for atoms, _ in found]
        nearest = potential.table_min_distance()
        offered = offered or [atoms for run in runs for atoms in run.failed(nearest)]
        paths = [*self.own, *self._files()[0]]
        data = [frame for system in load(paths, self.elements) for frame in system.frames]
        return [offered[k] for k in choose(potential, data, offered, select.most)]

    def _label(self, structures: Sequence[Atoms], folder: Path) -> None:
        """Label them, or take what is there, and divide it for training and validation."""
        folder.mkdir(exist_ok=True)
        known = is_labelled(folder)
        frames = labelled(structures, self.label, folder)
        if not known and len(frames) < len(structures):
            log.warning("%s: %d of %d structures labelled", folder, len(frames), len(structures))
        parts: tuple[list[Frame], list[Frame]] = [], []
        for k, frame in enumerate(frames, self.n_labelled):
            parts[k % HELD_OUT == HELD_OUT - 1].append(frame)
        for name, part in zip(SETS, parts, strict=True):
            path = folder / f"{name}.extxyz"
            if part and not path.exists():
                write_systems([System(str(path), part)], path)
        self.sets.append(folder)
        self.n_labelled += len(frames)

    # --- what is told ------------------------------------------------------------------------

    def _described(
        self, number: int, potential: Potential, runs: Sequence[Run], upper: float
    ) -> Round:
        assert potential.members is not None
        data, validation = self._files()
        deviations = [d for run in runs for d in run.explored.deviations]
        return Round(
            number=number,
            frames_training=self._count([*self.own, *data]),
            frames_validation=self._count([*self.own_validation, *validation]),
            error_validation=potential.members.facts["force_error"],
            **counted(runs, self.settings.select.lower, upper),
            broke_off=sum(run.explored.broke_off is not None for run in runs),
            largest_deviation=max(deviations, default=np.nan),
        )

    def _count(self, paths: Sequence[str]) -> int:
        return sum(len(s.frames) for s in load(list(paths), self.elements)) if paths else 0

    def _knows(self, found: Round) -> bool:
        """Whether the committee has nothing to say against what was explored."""
        enough = found.accurate >= self.settings.converged * found.explored
        return enough and found.explored > 0 and not found.broke_off

    def _say_why(self, last: Round, done: bool) -> None:
        settings, lower = self.settings, self.settings.select.lower
        if done:
            log.info(
                "done: of %d explored structures %d deviate by less than %g eV/Å%s",
                *(last.explored, last.accurate, lower),
                f", and the forces of {last.labelled} of them err by {last.error_labelled:.3g}"
                if last.labelled
                else "",
            )
        elif last.number < settings.rounds:
            log.warning(
                "not done: nothing was found to label, and %d runs broke off; look at their logs, "
                "and begin with other structures or more data",
                last.broke_off,
            )
        else:
            log.warning(
                "not done after %d rounds; raise 'rounds' and start again to go on%s",
                *(settings.rounds, what_helps(last, settings.select.most, bool(settings.initial))),
            )


def _with_errors(found: Round, potential: Potential, folder: Path) -> Round:
    """With how the round's own model does on what was labelled after it."""
    frames = [f for s in load(folder / LABELLED) for f in s.frames]
    prepared = prepare(frames, potential.type_map, potential.rcut)
    c = compared(Committee.of_members(potential), prepared)
    return replace(
        found,
        labelled=len(frames),
        error_labelled=rms(c.errors),
        deviation_labelled=rms(c.deviations),
    )


def _elements(settings: LearnConfig) -> list[str]:
    """Those of all structures that it begins with, in alphabetical order."""
    given = [(e["structure"], e.get("elements")) for e in settings.explore if "structure" in e]
    if settings.initial is not None:
        given.append((settings.initial.structure, None))
    return sorted({symbol for of_one in given for symbol in read_structure(*of_one).symbols})


def _initial(initial: Initial) -> list[Atoms]:
    """Copies of a structure with displaced atoms, in strained cells."""
    atoms = read_structure(initial.structure).repeat(initial.replicate)
    rng, found = np.random.default_rng(initial.seed), []
    for _ in range(initial.frames):
        copy = Atoms(atoms.get_chemical_symbols(), atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        if atoms.pbc.all():
            strain = rng.uniform(-initial.strain, initial.strain, (3, 3))
            strain = 0.5 * (strain + strain.T)
            copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        copy.positions += initial.rattle * rng.standard_normal(copy.positions.shape)
        found.append(copy)
    return found


def _check_ensembles(settings: LearnConfig, training: TrainInput) -> None:
    """Before anything is labelled: dynamics know no frame parameters, and change cells only with
    models trained on virials."""
    if training.model.fitting_net.numb_fparam:
        raise InputError(
            f"{settings.train}: model/fitting_net/numb_fparam: structures are explored and "
            "labelled without frame parameters; expected 0, with data of the one state of interest"
        )
    for k, entry in enumerate(settings.explore):
        ensemble = parse(MdConfig, {**entry, "model": MODEL}, f"explore/{k}").ensemble
        if ensemble.changes_cell and not training.loss.trains_virials:
            raise InputError(
                f"explore/{k}: ensemble '{ensemble.type}' rests on the stress, and the training "
                "does not train virials: give loss/start_pref_v and limit_pref_v, or another "
                "ensemble"
            )


def _remember(settings: LearnConfig, path: Path) -> None:
    """Keep the input, and say what has changed since the last start."""
    now = settings.model_dump(mode="json")
    now["train"] = Path(settings.train).read_text(encoding="utf-8-sig")
    if path.exists():
        before = json.loads(path.read_text())
        changed = [k for k in ("train", "initial", "explore", "reuse") if before.get(k) != now[k]]
        if changed:
            log.warning(
                "note: another %s than at the last start; what is done stays as it is, and the "
                "new input counts from the next stage on",
                ", ".join(changed),
            )
    write_atomically(path, json.dumps(now, indent=2).encode())
