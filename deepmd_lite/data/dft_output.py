"""What the output of a DFT code says of itself: energies in it, and steps that did not converge.

Readers pass over both. Marks are lines that a code writes once for each step; where their number is
not that of the frames, nobody can tell which frame they belong to, and nothing is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..system import InputError
from .frames import Frame
from .text_files import DAMAGED, lines_of

NEVER = "(?!)"
"""A pattern that is in no line."""
HEAD = 65_536
"""Characters in which a code introduces itself."""
SHOWN = 20
"""Frames that a note names."""
OTHER_ENERGY, OTHER_FORCE = 2e-4, 0.01
"""eV/atom and eV/Å by which two runs of one structure do not differ."""


@dataclass(frozen=True)
class Code:
    """How to know a code's output and what to look for in it: patterns of single lines."""

    name: str
    sign: str
    energy: str
    """Once for each step with an energy."""
    converged: str = NEVER
    failed: str = NEVER
    """Both: the end of the electrons' iterations of a step."""
    formats: tuple[str, ...] = ()
    """Of dpdata."""


CODES = (
    Code(
        "VASP (OUTCAR)",
        r"^ *vasp\.\d",
        r"free  energy   TOTEN",
        formats=("vasp/outcar",),
    ),
    Code(
        "VASP (vasprun.xml)",
        r'name="program"[^>]*>vasp',
        r"</calculation>",
        formats=("vasp/xml",),
    ),
    Code(
        "pw.x",
        r"Program PWSCF",
        r"^!\s+total energy",
        r"convergence has been achieved",
        r"convergence NOT achieved",
        ("qe/pw/scf",),
    ),
    Code(
        "CP2K",
        r"CP2K\|",
        r"ENERGY\| Total FORCE_EVAL",
        r"SCF run converged",
        r"SCF run NOT converged",
        ("cp2k/output", "cp2k/aimd_output"),
    ),
    Code("CASTEP", r"CASTEP version", r"^\s*Final energy", failed=r"max\. SCF cycles performed"),
    Code("Gaussian", r"Gaussian, Inc\.", r"SCF Done:", formats=("gaussian/log", "gaussian/md")),
    Code(
        "SIESTA",
        r"(?i)siesta version",
        r"siesta: E_KS\(eV\) =",
        r"SCF cycle converged",
        r"SCF_NOT_CONV",
        ("siesta/output", "siesta/aimd_output"),
    ),
    Code(
        "ORCA",
        r"\* O   R   C   A \*",
        r"FINAL SINGLE POINT ENERGY",
        r"FINAL SINGLE POINT ENERGY(?!.*not fully converged)",
        r"FINAL SINGLE POINT ENERGY.*not fully converged",
        ("orca/spout",),
    ),
    Code("FHI-aims", r"Invoking FHI-aims", NEVER, formats=("fhi_aims/md", "fhi_aims/scf")),
    Code("ABACUS", r"WELCOME TO ABACUS", NEVER, formats=("abacus/scf", "abacus/md")),
)
"""FHI-aims repeats energies and says nothing where a step fails; ABACUS is read as a folder."""


def code_of(path: str | Path) -> Code | None:
    """The code whose output a file is; None for all other files."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        with lines_of(path) as stream:
            head = stream.read(HEAD)
    except DAMAGED:
        return None
    return next((c for c in CODES if re.search(c.sign, head, re.MULTILINE)), None)


def other_readers(code: Code | None) -> str:
    """What to try where ASE does not read a code's output; empty where nothing is known."""
    if code is None or not code.formats:
        return ""
    return f"; it is output of {code.name}: try dpl convert-data with --from " + " or ".join(
        code.formats
    )


# --- steps ------------------------------------------------------------------------------------


@dataclass
class Steps:
    """Marks of a file in their order."""

    energies: int = 0
    ended: list[bool] = field(default_factory=list)
    """Whether the electrons converged, step by step."""
    failed: int = 0
    """Steps that did not, of a code that says nothing of the others."""


def converged(
    frames: Sequence[Frame], path: str | Path, code: Code, left_out: bool = False
) -> tuple[list[Frame], list[str]]:
    """Those of the `frames` of a file whose electrons converged, and notes.

    `left_out`: the reader may have left the others out itself. Raises InputError if no step
    converged.
    """
    with lines_of(Path(path)) as stream:
        steps = _steps(stream, code)
    failed = steps.failed + steps.ended.count(False)
    left_out = left_out and len(frames) == len(steps.ended) - failed
    kept, notes = list(frames), []
    if failed and failed == len(steps.ended) >= len(frames):
        raise InputError(
            f"{path}: the electrons did not converge in any step ({failed}), as {code.name} says; "
            "run it again with more iterations"
        )
    if failed and len(steps.ended) == len(frames):
        kept = [f for f, right in zip(frames, steps.ended, strict=True) if right]
        numbers = [str(k) for k, right in enumerate(steps.ended) if not right]
        more = f" and {failed - SHOWN} more" if failed > SHOWN else ""
        notes.append(
            "frames left out because their electrons did not converge: "
            + ", ".join(numbers[:SHOWN])
            + more
        )
    elif failed and left_out:
        notes.append(f"steps left out because their electrons did not converge: {failed}")
    elif failed:
        notes.append(
            f"steps whose electrons did not converge, as {code.name} says: {failed}; which frames "
            "they are cannot be told: look at the file"
        )
    if steps.energies > len(frames) + (failed if left_out else 0):
        notes.append(f"the file has {steps.energies} energies; frames read: {len(frames)}")
    return kept, notes


def _steps(lines: Iterable[str], code: Code) -> Steps:
    if code.name.startswith("VASP"):
        return _steps_of_vasp(lines, code)
    steps = Steps()
    energy, right, wrong = (re.compile(p) for p in (code.energy, code.converged, code.failed))
    for line in lines:
        steps.energies += energy.search(line) is not None
        if right.search(line):
            steps.ended.append(True)
        elif wrong.search(line):
            steps.ended.append(False)
    if code.converged == NEVER:
        steps.failed, steps.ended = len(steps.ended), []
    return steps


def _steps_of_vasp(lines: Iterable[str], code: Code) -> Steps:
    """VASP 5 calls the end of iterations convergence whatever the reason: they are counted."""
    steps, most, done, broken = Steps(), 0, 0, False
    iteration = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
    limit = re.compile(r'(?:^\s*NELM\s+=|name="NELM">)\s*(\d+)')
    for line in lines:
        if "NELM" in line and (found := limit.search(line)):
            most = int(found[1])
        elif "Iteration" in line and (found := iteration.search(line)):
            done = int(found[1])
        elif "<scstep>" in line:
            done += 1
        elif "EDIFF was not reached" in line:
            broken = True
        elif code.energy in line:
            steps.energies += 1
            # one iteration alone is meant: there is nothing to converge
            steps.ended.append(not (broken or 1 < most <= done))
            done, broken = 0, False
    return steps


# --- readers that mix up steps ------------------------------------------------------------------


def check_steps(frames: Sequence[Frame], code: Code) -> None:
    """Raise InputError where a reader gave a frame of a DFT code's output another step's atoms.

    That is seen where the periodicity changes, or where a frame has the positions of one before the
    last and other labels.
    """
    way_out = other_readers(code) or "; read it in another way"
    for frame in frames:
        if (frame.pbc != frames[0].pbc).any():
            raise InputError(
                f"{frame.source}: has another periodicity than frame 0, so that ASE's reader lost "
                f"cells{way_out}"
            )
    for earlier, later in _returns(frames):
        if _labels_differ(earlier, later):
            raise InputError(
                f"{later.source}: has the positions of {earlier.source.rpartition(', ')[2]} and "
                f"other labels, so that ASE's reader mixed up steps{way_out}"
            )


def _returns(frames: Sequence[Frame]) -> Iterator[tuple[Frame, Frame]]:
    """Frames in one place, others between: of two in a row, the second may be a new basis set."""
    last: dict[bytes, int] = {}
    for k, frame in enumerate(frames):
        key = frame.positions.tobytes() + frame.cell.tobytes()
        if k - last.get(key, k) > 1:
            yield frames[last[key]], frame
        last[key] = k


def _labels_differ(one: Frame, other: Frame) -> bool:
    if one.symbols != other.symbols:
        return False
    apart, push = 0.0, 0.0
    if one.energy is not None and other.energy is not None:
        apart = abs(one.energy - other.energy) / one.n_atoms
    if one.forces is not None and other.forces is not None:
        push = float(np.abs(one.forces - other.forces).max())
    return apart > OTHER_ENERGY or push > OTHER_FORCE
