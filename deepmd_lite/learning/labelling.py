"""Structures out, the same with energies and forces in: by a command of the user's.

Labels are dear, so none is lost. Each attempt has a folder of its own, `labelling-0` and so on, in
which nothing is ever deleted; each start first takes what is good in all of them. So it does not
matter how an attempt ended, and a command that outlives its loop disturbs none that comes later.
"""

from __future__ import annotations

import itertools
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
from ase import Atoms

from ..data import Frame, System, load
from ..data.writing import write_systems
from ..system import InputError
from .answers import frames_in, frames_of, judged

log = logging.getLogger(__name__)

Labeller = Callable[[list[Atoms]], Iterable[Atoms]]
"""Structures with the energies and forces of a calculator; what could not be computed is left
out. Of a generator, which yields one after the other, none is lost where it fails or is ended."""
LABELLED, QUESTION, LOG = "labelled.extxyz", "structures.extxyz", "label.log"
ATTEMPT = "labelling-{}"
SHOWN = 3
"""Wrong frames that an error names."""


@dataclass(frozen=True)
class Command:
    """Words, among them {input} and {output}; {python} is the interpreter of this process."""

    words: str
    folder: Path
    """Where it runs."""


def is_labelled(folder: Path) -> bool:
    """Whether the labels of a folder are there."""
    return (folder / LABELLED).exists()


def labelled(structures: Sequence[Atoms], how: Command | Labeller, folder: Path) -> list[Frame]:
    """Frames with energies and forces, kept in `folder`/labelled.extxyz; read from there where they
    are known already, whatever the `structures`.

    Frames of structures that were left out are missing. What an earlier attempt has labelled is not
    asked for again, however that ended. Raises InputError where the command fails, for a frame that
    is none of the `structures`, is cut off, has no energy or forces or numbers that are not finite,
    and where there is none.
    """
    path = folder / LABELLED
    if not path.exists():
        bare = [
            Atoms(a.get_chemical_symbols(), a.positions, cell=a.cell, pbc=a.pbc) for a in structures
        ]
        frames, left = _known(bare, folder)
        if left:
            of = f"{len(left)} of {len(bare)} structures"
            if isinstance(how, Command):
                frames += _by_command(left, how, _new_attempt(folder), of)
            else:
                log.info("labelling: %s", of)
                frames += _by_function(left, how, folder)
        if not frames:
            raise InputError("label: not one of the structures has been labelled")
        write_systems([System(str(path), frames)], path)
    return [frame for system in load(path) for frame in system.frames]


def _known(structures: Sequence[Atoms], folder: Path) -> tuple[list[Frame], list[Atoms]]:
    """What earlier attempts have labelled, or their commands since, and the structures without."""
    frames: list[Frame] = []
    left = list(structures)
    for answer in sorted(folder.glob(ATTEMPT.format("*") + f"/{LABELLED}")):
        labels, _ = judged(frames_in(answer), left)
        frames += labels.values()
        left = [atoms for k, atoms in enumerate(left) if k not in labels]
    return frames, left


def _new_attempt(folder: Path) -> Path:
    """The next folder for an attempt."""
    names = (folder / ATTEMPT.format(k) for k in itertools.count())
    attempt = next(name for name in names if not name.exists())
    attempt.mkdir()
    return attempt


def _by_command(
    structures: Sequence[Atoms], command: Command, attempt: Path, of: str
) -> list[Frame]:
    question, said, answer = attempt / QUESTION, attempt / LOG, attempt / LABELLED
    ase.io.write(question, structures, format="extxyz", parallel=False)
    places = {
        "{input}": str(question.resolve()),
        "{output}": str(answer.resolve()),
        "{python}": sys.executable,
    }
    words = shlex.split(command.words)
    for place, value in places.items():
        words = [word.replace(place, value) for word in words]
    log.info("labelling: %s by %s; what it says: %s", of, command.words, said)
    with open(said, "w", encoding="utf-8") as out:
        try:
            run = subprocess.run(words, cwd=command.folder, stdout=out, stderr=out, check=False)
        except OSError as e:
            raise InputError(f"label: '{words[0]}' cannot be started: {e.strerror or e}") from None
        except KeyboardInterrupt:
            log.warning("labelling was interrupted; what is in %s is kept", answer)
            raise
    written = answer.is_file()
    labels, faults = judged(frames_in(answer) if written else [], structures)
    if run.returncode:
        wrong = f"; not those that are wrong: {_shown(faults)}" if faults else ""
        raise InputError(
            f"label: the command ended with status {run.returncode}, what it said is in {said}; "
            f"mend it and start again; {len(labels)} of {len(structures)} structures were labelled "
            f"before and are kept{wrong}"
        )
    if not written:
        raise InputError(
            f"label: the command did not write {{output}} ({answer}), which may be empty where it "
            f"could label nothing; what it said is in {said}"
        )
    _raise_for(faults, len(labels), len(structures))
    return list(labels.values())


def _by_function(structures: Sequence[Atoms], how: Labeller, folder: Path) -> list[Frame]:
    found: list[Atoms] = []
    whole = False
    try:
        for atoms in how([atoms.copy() for atoms in structures]):  # which may move them
            found.append(atoms)
        whole = True
    finally:
        labels, faults = judged(frames_of(found), structures)
        frames = list(labels.values())
        if frames and (faults or not whole):
            path = _new_attempt(folder) / LABELLED
            write_systems([System(str(path), frames)], path)
    _raise_for(faults, len(labels), len(structures))
    return frames


def _raise_for(faults: Sequence[str], n_good: int, n_asked: int) -> None:
    """InputError where frames are wrong: whoever has made them must know, and mend it."""
    if faults:
        raise InputError(
            f"label: {_shown(faults)}; {n_good} of {n_asked} structures were labelled and are "
            "kept; mend what labels, or let it leave out what it cannot label, and start again for "
            "the rest"
        )


def _shown(faults: Sequence[str]) -> str:
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "; ".join([*faults[:SHOWN], *more])
